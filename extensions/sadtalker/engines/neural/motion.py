"""Sound to the rows that animate the face: expressions, head pose, blinks. Upstream's numbers, but for lengths that it cannot do.

`hear(start, stop)` gives the windows of these frames, (n, 80, 16) float32 (mel.windows with the rows of the whole sound): a long
sound's windows are never all in memory.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import numpy as np
import torch

from extensions.sadtalker.engines.neural.coefficients import EXPRESSION, POSE
from extensions.sadtalker.engines.neural.networks.audio import AudioToExpression
from extensions.sadtalker.engines.neural.networks.pose import FRAMES, NOISE, AudioToPose

Hear = Callable[[int, int], np.ndarray]
Tick = Callable[[float], None]
"""Told the share that is done; may raise to stop."""

BLINK = np.array([0.5, 0.9, 1.0, 0.9, 0.5], np.float32)
"""How far the lids are shut, frame by frame."""

_AT_ONCE = 64  # windows; how many are heard at once changes nothing
_SMOOTHING = 13  # frames


class Nets(Protocol):
    @property
    def expression(self) -> AudioToExpression: ...

    @property
    def pose(self) -> AudioToPose: ...


def speak(
    hear: Hear,
    frames: int,
    source: np.ndarray,
    nets: Nets,
    *,
    style: int = 0,
    seed: int = 0,
    blink: bool = True,
    lids: np.ndarray | None = None,
    head: np.ndarray | None = None,
    noise: np.ndarray | None = None,
    ratio: np.ndarray | None = None,
    tick: Tick = lambda _share: None,
) -> np.ndarray:
    """(frames, 70) float32: what the face does while it says what is heard.

    source: the photo's row, (1, 73).
    style:  of the head's movements, 0..45.
    lids:   rows of a reference clip, (n, 70 or more): its expressions, lids and all, take the place of the photo's, and there
            are no other blinks.
    head:   rows of another: its head's movements are added.
    noise, ratio: in place of those drawn from the seed, see `noise_of` and `blinks`.
    """
    if ratio is None:
        ratio = blinks(frames, _random(seed, 0)) if blink and lids is None else np.zeros((frames, 1), np.float32)
    if noise is None:
        noise = noise_of(frames, _random(seed, 1))
    clip = source[:, EXPRESSION] if lids is None else lids[:, EXPRESSION]
    # Each network hears the sound with its own ears; what they take is about the same.
    expression = expressions(hear, tiled(clip, frames), ratio, nets.expression, tick=lambda share: tick(share / 2))
    poses = head_poses(
        hear, frames, source[:, POSE], nets.pose, style=style, noise=noise, tick=lambda share: tick((1 + share) / 2)
    )
    poses = smoothed(poses)
    if head is not None:
        poses = following(poses, head[:, POSE])
    return np.concatenate([expression, poses], axis=1)


def expressions(
    hear: Hear, reference: np.ndarray, ratio: np.ndarray, net: AudioToExpression, *, tick: Tick = lambda _share: None
) -> np.ndarray:
    """(T, 64) float32. reference: (T, 64), the expression to begin with; ratio: (T, 1), lids 0 open .. 1 shut."""
    frames = len(reference)
    found = np.empty((frames, reference.shape[1]), np.float32)
    for start in range(0, frames, _AT_ONCE):
        stop = min(start + _AT_ONCE, frames)
        inputs = (hear(start, stop)[:, None], reference[start:stop], ratio[start:stop])
        found[start:stop] = net(*(_tensor(one, net) for one in inputs)).cpu().numpy()
        tick(stop / frames)
    return found


def head_poses(
    hear: Hear,
    frames: int,
    reference: np.ndarray,
    net: AudioToPose,
    *,
    style: int,
    noise: np.ndarray,
    tick: Tick = lambda _share: None,
) -> np.ndarray:
    """(frames, 6) float32, not smoothed. reference: (1, 6), the pose of the first frame; noise: see `noise_of`.

    The net makes 32 frames at once. What is left over at the end is made once more from the last 32 windows, and of fewer in
    all the first stands for those that are missing.
    """
    motion = [np.zeros((1, reference.shape[1]), np.float32)]
    start = _tensor(reference, net)
    for i, begin in enumerate(range(1, frames, FRAMES)):
        new = min(FRAMES, frames - begin)
        heard = net.embed(_tensor(hear(max(1, begin + new - FRAMES), begin + new)[:, None], net))
        heard = torch.cat([heard[:1].expand(FRAMES - len(heard), -1), heard])
        made = net(heard[None], start, style, _tensor(noise[i : i + 1], net))
        motion.append(made[0, -new:].cpu().numpy())
        tick((begin + new) / frames)
    return reference + np.concatenate(motion)


def noise_of(frames: int, random: np.random.Generator) -> np.ndarray:
    """What the pose network makes its movements from: (k, 64) float32, a row for every 32 frames after the first."""
    return random.standard_normal((-(-(frames - 1) // FRAMES), NOISE), np.float32)


def blinks(frames: int, random: np.random.Generator) -> np.ndarray:
    """How far the lids are shut: (frames, 1) float32. Blinks of five frames with gaps of 10 to 69 before them, of no more than
    half of a short clip; none in one of less than 21 frames."""
    ratio = np.zeros((frames, 1), np.float32)
    if frames <= 20:
        return ratio
    longest = max(10, min(frames // 2, 70) - 1)  # upstream has no gap to choose from in a clip of 21 frames
    at = int(random.integers(10, longest, endpoint=True))
    while at + len(BLINK) <= frames - 1:
        ratio[at : at + len(BLINK), 0] = BLINK
        at += len(BLINK) + int(random.integers(10, longest, endpoint=True))
    return ratio


def following(poses: np.ndarray, clip: np.ndarray) -> np.ndarray:
    """The poses with the movements of a clip (n, 6) away from its first frame added; a short one begins again and again."""
    return poses + (tiled(clip, len(poses)) - clip[:1])


def tiled(clip: np.ndarray, frames: int) -> np.ndarray:
    """The rows of a clip, again and again, for as many frames."""
    return clip[np.arange(frames) % len(clip)]


def smoothed(values: np.ndarray) -> np.ndarray:
    """(T, n) float32, each column smoothed by parabolas through 13 rows (Savitzky and Golay 1964); the ends lie on the outermost
    parabola. Of fewer rows it takes as many as there are: four and less stay as they are."""
    length = min(_SMOOTHING, len(values) - 1 + len(values) % 2)
    half = length // 2
    at = np.vander(np.arange(-half, half + 1), 3, increasing=True).astype(float)
    fitted = at @ np.linalg.pinv(at)  # row i: weights for the value of the parabola at row i
    exact = values.astype(float)
    found = np.empty_like(exact)
    found[half : len(values) - half] = np.lib.stride_tricks.sliding_window_view(exact, length, axis=0) @ fitted[half]
    found[:half] = fitted[:half] @ exact[:length]
    found[len(values) - half :] = fitted[half + 1 :] @ exact[-length:]
    return found.astype(np.float32)


def _random(seed: int, use: int) -> np.random.Generator:
    """A stream of its own for each use, so that without blinks the head moves as with them."""
    return np.random.default_rng((seed, use))


def _tensor(values: np.ndarray, net: torch.nn.Module) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(values, np.float32)).to(next(net.parameters()).device)
