"""Voice to mouth: a small temporal convolution network, in numpy, made by training/speech.

The network hears log-mel rows with the clip's own level and colour taken out, and says per 10 ms how the mouth is
shaped, how surely the lips are shut (p b m), and whether it is speech at all. This module never looks at the head, the
eyes or the picture, and keeps nothing of a clip.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np

from extensions.sadtalker.types import COEFFICIENTS, Voice

MOUTH = COEFFICIENTS[:7]
"""The columns that mouth() gives, in order."""

BANDS = 40
CONTEXT = 33
"""Rows that the network sees on either side of the one it speaks of."""

ROWS_PER_SECOND = 100

_SHAPES = ("jaw", "rounding", "spreading", "upper_lip", "lower_lip", "tongue")  # as the network gives them
_BLOCK = 2048  # rows per pass through the network
_FLOOR = -4.0  # what silence is, after normalisation
_SCALE = 2.5
_PRIOR_ROWS = 100  # a clip's own colour counts as much as the prior when one second of it is loud
WEIGHTS = Path(__file__).with_name("speech.npz")

# Closing of the lips: how sure the network must be, and the shape of the movement in seconds.
_SHUT = 0.45
_SHUT_REACH = 0.060
_SHUT_LONGEST = 0.25

_LEAD = 0.060
"""Seconds by which the shapes go before their sound: lips are seen to move 40 to 100 ms before they are heard."""
_PUNCTUAL = ("lower_lip", "tongue")  # these are held while their sound lasts

_SMOOTHING = 0.032  # seconds, of the shapes
_QUICK_SMOOTHING = 0.016  # seconds, of the punctual ones
_GATE_SMOOTHING = 0.040
_TUCK = (0.06, 0.50)


@dataclass(frozen=True)
class SpeechNet:
    """kernels: per layer (taps, in, out); biases: per layer (out,); prior: (BANDS,) mean colour of loud speech."""

    kernels: tuple[np.ndarray, ...]
    biases: tuple[np.ndarray, ...]
    dilations: tuple[int, ...]
    prior: np.ndarray

    def __call__(self, rows: np.ndarray) -> np.ndarray:
        """(n + 2 CONTEXT, BANDS) normalised rows -> (n, 8): six shapes, lips shut, speech; all 0..1."""
        x = rows
        for i, (kernel, bias, dilation) in enumerate(zip(self.kernels, self.biases, self.dilations, strict=True)):
            y = _convolve(x, kernel, dilation) + bias
            last = i == len(self.kernels) - 1
            if i > 0 and not last:
                y = np.maximum(y, 0.0) + x[dilation:-dilation]
            x = y if last else np.maximum(y, 0.0)
        return 1.0 / (1.0 + np.exp(-np.clip(x, -30.0, 30.0)))


def _convolve(x: np.ndarray, kernel: np.ndarray, dilation: int) -> np.ndarray:
    taps = len(kernel)
    rows = len(x) - (taps - 1) * dilation
    y = x[:rows] @ kernel[0]
    for tap in range(1, taps):
        y += x[tap * dilation : tap * dilation + rows] @ kernel[tap]
    return y


@lru_cache(maxsize=1)
def load_net() -> SpeechNet:
    """The shipped weights (float16 on disk)."""
    with np.load(WEIGHTS, allow_pickle=False) as f:
        dilations = tuple(int(d) for d in f["dilations"])
        kernels = tuple(f[f"kernel{i}"].astype(np.float32) for i in range(len(dilations)))
        biases = tuple(f[f"bias{i}"].astype(np.float32) for i in range(len(dilations)))
        return SpeechNet(kernels, biases, dilations, f["prior"].astype(np.float32))


def bands(log_mel: np.ndarray) -> np.ndarray:
    """(n, 80) log-mel rows to (n, BANDS): neighbours averaged."""
    return log_mel.reshape(len(log_mel), BANDS, -1).mean(axis=2, dtype=np.float32)


def loudness(voice: Voice) -> np.ndarray:
    """(N,) mean of the log-mel bands, natural log of energy."""
    return voice.log_mel.mean(axis=1, dtype=np.float32)


def colour(voice: Voice, prior: np.ndarray) -> np.ndarray:
    """(BANDS,) mean of the clip's loud rows, drawn towards the prior's shape when the clip is short."""
    energy = loudness(voice)
    loud = energy > np.percentile(energy, 95) - 4.0
    total = np.zeros(BANDS)
    for start in range(0, len(energy), _BLOCK):
        rows = slice(start, start + _BLOCK)
        total += bands(voice.log_mel[rows][loud[rows]]).sum(axis=0)
    count = int(loud.sum())
    mean = total / count
    expected = prior - prior.mean() + mean.mean()
    return ((total + _PRIOR_ROWS * expected) / (count + _PRIOR_ROWS)).astype(np.float32)


def normalised(log_mel: np.ndarray, clip_colour: np.ndarray) -> np.ndarray:
    """What the network hears: level and colour of the clip taken out, quiet rows held at a floor."""
    return np.clip((bands(log_mel) - clip_colour) / _SCALE, _FLOOR, -_FLOOR)


def _blocks(voice: Voice, clip_colour: np.ndarray) -> Iterator[np.ndarray]:
    total = len(voice.log_mel)
    for start in range(0, total, _BLOCK):
        first, last = start - CONTEXT, min(start + _BLOCK, total) + CONTEXT
        rows = normalised(voice.log_mel[max(first, 0) : min(last, total)], clip_colour)
        before, after = max(-first, 0), max(last - total, 0)
        yield np.pad(rows, ((before, after), (0, 0)), constant_values=_FLOOR).astype(np.float32)


def shapes(voice: Voice, net: SpeechNet) -> np.ndarray:
    """(N, 8) float32 in 0..1: jaw, rounding, spreading, upper_lip, lower_lip, tongue, lips shut, speech."""
    clip_colour = colour(voice, net.prior)
    return np.concatenate([net(rows) for rows in _blocks(voice, clip_colour)])


def smooth(x: np.ndarray, sigma_rows: float) -> np.ndarray:
    """Zero-phase Gaussian low-pass of (N, ...) along the first axis; the ends are held."""
    reach = max(1, int(np.ceil(3 * sigma_rows)))
    kernel = np.exp(-0.5 * (np.arange(-reach, reach + 1) / sigma_rows) ** 2)
    kernel = (kernel / kernel.sum()).astype(np.float32)
    padded = np.pad(x, [(reach, reach)] + [(0, 0)] * (x.ndim - 1), mode="edge")
    return sum(k * padded[i : i + len(x)] for i, k in enumerate(kernel))


def smoothstep(x: np.ndarray, low: float, high: float) -> np.ndarray:
    x = np.clip((x - low) / (high - low), 0.0, 1.0)
    return x * x * (3.0 - 2.0 * x)


def decibels(level: np.ndarray) -> np.ndarray:
    return 20.0 * np.log10(np.maximum(level, 1e-6))


def speech_gate(voice: Voice, speech: np.ndarray) -> np.ndarray:
    """(N,) 0..1: 0 where nobody speaks, judged by the network and by the level against the clip's own loud level."""
    level = smooth(decibels(voice.level), 2.0)
    loud = np.percentile(level, 95)
    heard = smoothstep(level, loud - 45.0, loud - 30.0) * smoothstep(level, -85.0, -75.0)
    return smoothstep(smooth(smoothstep(speech, 0.3, 0.7) * heard, _GATE_SMOOTHING * ROWS_PER_SECOND), 0.15, 0.75)


def emphasis(voice: Voice) -> np.ndarray:
    """(N,) about 0.6..1.2: how far loud syllables open the mouth more than soft ones."""
    level = smooth(decibels(voice.level), 5.0)
    return np.clip(1.1 + (level - np.percentile(level, 90)) / 30.0, 0.6, 1.2)


def closures(shut: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Middles and half lengths, in seconds, of the stretches where the network holds the lips for shut."""
    above = np.r_[False, shut > _SHUT, False]
    edges = np.flatnonzero(above[1:] != above[:-1]).reshape(-1, 2)
    half = np.minimum((edges[:, 1] - edges[:, 0]) / 2, _SHUT_LONGEST * ROWS_PER_SECOND / 2)
    return (edges.sum(axis=1) - 1) / 2 / ROWS_PER_SECOND, half / ROWS_PER_SECOND


def press_at(times: np.ndarray, middles: np.ndarray, halves: np.ndarray) -> np.ndarray:
    """(T,) 0..1: lips shut round each middle; the frame nearest to it always reaches 1. times ascend."""
    press = np.zeros(len(times), np.float32)
    if not len(middles) or not len(times):
        return press
    after = np.clip(np.searchsorted(times, middles), 1, max(len(times) - 1, 1))
    before = after - 1
    after = np.minimum(after, len(times) - 1)
    nearest = np.where(middles - times[before] <= times[after] - middles, before, after)
    step = float(times[1] - times[0]) if len(times) > 1 else 1.0
    reach = int(np.ceil((_SHUT_LONGEST / 2 + _SHUT_REACH) / step))
    for offset in range(-reach, reach + 1):
        at = np.clip(nearest + offset, 0, len(times) - 1)
        distance = np.abs(times[at] - middles) - 0.5 * halves
        np.maximum.at(press, at, 1.0 - smoothstep(distance, 0.0, _SHUT_REACH))
    near = np.abs(times[nearest] - middles) <= step
    press[nearest[near]] = 1.0
    return press


def _shape(name: str, said: np.ndarray, voice: Voice) -> np.ndarray:
    """(N,) one shape as a face can make it, out of what the network said."""
    sigma = _QUICK_SMOOTHING if name in _PUNCTUAL else _SMOOTHING
    shape = smooth(said[:, _SHAPES.index(name)], sigma * ROWS_PER_SECOND)
    if name == "jaw":
        return shape * emphasis(voice)
    if name == "lower_lip":  # f and v are there or not; half a tuck is the network's doubt
        return smoothstep(shape, *_TUCK)
    return shape


def mouth(voice: Voice, times: np.ndarray) -> np.ndarray:
    """The mouth at each time: (len(times), len(MOUTH)) float32, all 0..1. times: ascending seconds.

    Shut (all 0) where the voice is silent, and beyond its ends.
    """
    times = np.asarray(times, float)
    out = np.zeros((len(times), len(MOUTH)), np.float32)
    if voice.silent or not len(times):
        return out
    said = shapes(voice, load_net())
    gate = speech_gate(voice, said[:, 7])
    rows = np.arange(len(said)) / ROWS_PER_SECOND
    for name in _SHAPES:
        seen = times if name in _PUNCTUAL else times + _LEAD
        out[:, MOUTH.index(name)] = np.interp(seen, rows, _shape(name, said, voice) * gate, left=0.0, right=0.0)
    out[:, MOUTH.index("press")] = press_at(times, *closures(said[:, 6] * (gate > 0.05)))
    return np.clip(out, 0.0, 1.0)
