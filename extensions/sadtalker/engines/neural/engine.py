"""SadTalker's networks as an engine: photo and sound to coefficients of a 3DMM, these to keypoints, these to frames."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from extensions.sadtalker import camera
from extensions.sadtalker.ahead import ahead
from extensions.sadtalker.clips import followed
from extensions.sadtalker.engines.neural import (
    checkpoints,
    coefficients,
    geometry,
    heads,
    keypoints,
    landmarks,
    layout,
    mel,
    motion,
    render,
    semantics,
)
from extensions.sadtalker.engines.neural.hearing import Hearing, Speech
from extensions.sadtalker.engines.neural.networks.audio import AudioToExpression
from extensions.sadtalker.engines.neural.networks.blocks import whole_float32
from extensions.sadtalker.engines.neural.networks.generator import Generator
from extensions.sadtalker.engines.neural.networks.keypoints import KEYPOINTS, KeypointDetector
from extensions.sadtalker.engines.neural.networks.mapping import MappingNet
from extensions.sadtalker.engines.neural.networks.pose import AudioToPose
from extensions.sadtalker.engines.neural.networks.recon import FaceFit
from extensions.sadtalker.jobs import WHOLE
from extensions.sadtalker.preprocess import CropTransform, even
from extensions.sadtalker.types import HEAD, MOTION_FPS, Box, Motion, MotionOptions, Portrait
from webui.plugin_api import Face, devices, face_finder, weights_catalog

if TYPE_CHECKING:
    from extensions.sadtalker.engines.base import Tick
    from extensions.sadtalker.engines.neural.checkpoints import Checkpoint
    from webui.settings import Settings

POINTS = tuple(f"{axis} of keypoint {number}" for number in range(KEYPOINTS) for axis in "xyz")
COEFFICIENTS = (
    *(f"expression {number}" for number in range(64)),
    *(f"{part} {number}" for part in ("angle", "translation") for number in range(3)),
)

_AT_ONCE = 32  # frames whose keypoints are placed at once
_MOST_AT_ONCE = 8  # frames drawn at once, beyond which no device becomes quicker
_FRAME_BYTES = 16384  # per pixel of a frame while it is drawn: 1 GiB at 256 x 256


@dataclass(frozen=True)
class Networks:
    """All of them, on one device. places: what puts landmarks on a face."""

    expression: AudioToExpression
    pose: AudioToPose
    fit: FaceFit
    drawing: render.Nets
    places: landmarks.Places


@dataclass(frozen=True)
class Identity:
    """All that is computed once per portrait. rest: its keypoints, (1, 15, 3); turned: its head's rotation, (1, 3, 3)."""

    portrait: Portrait
    face: render.Face
    rest: np.ndarray
    turned: np.ndarray


class NeuralEngine:
    """Implements engines.base.Engine.

    mode: that it is for, see Engine.frame; precision: "exact" or "fast"; batch: frames drawn at once, None: as the device likes.
    """

    name = "sadtalker"
    columns = (*POINTS, *HEAD, *COEFFICIENTS)
    coefficients = COEFFICIENTS

    def __init__(self, checkpoint: Checkpoint, settings: Settings, mode: str, precision: str, batch: int | None) -> None:
        self._checkpoint, self._settings = checkpoint, settings
        self._mode, self._full = mode, mode in WHOLE
        self._precision, self._batch = precision, batch
        self._held: Networks | None = None
        self._loading: Future[Generator] | None = None

    @cached_property
    def models(self) -> dict[str, str]:
        known = weights_catalog.shared(self._settings.models_dir, self._settings.allow_pickles)
        points = landmarks.weights(self._settings)
        used = [*self._checkpoint.used(full=self._full), *([] if points is None else [points])]
        digests = {path: known.sha256(path) for path in used}
        checkpoints.check_names(digests)
        return {path.name: sha256[:12] for path, sha256 in digests.items()}

    @contextmanager
    def ready(self) -> Iterator[None]:
        _, where = devices.find(self._settings.device)
        with ExitStack() as stack, ThreadPoolExecutor(1) as beside:
            if self._precision == "exact":
                # For all of the job: other threads, such as that of a restorer, must not see it change between frames.
                stack.enter_context(whole_float32())
            places = stack.enter_context(landmarks.leased(self._settings, where))
            one, compiled = self._lease(stack, where), self._compiles(where)
            expression, pose = one("audio2exp", AudioToExpression), one("audio2pose", AudioToPose)
            fit = one("face_3drecon", FaceFit)
            mapping, detector = one("mapping", MappingNet, full=self._full), one("kp_extractor", KeypointDetector)
            # The largest by far, which nothing needs before the first frame.
            self._loading = beside.submit(one, "generator", Generator, precision=self._precision, compiled=compiled)
            drawing = render.Nets(mapping, detector, self._generator, torch.device(where))
            self._held = Networks(expression, pose, fit, drawing, places)
            try:
                yield
            finally:
                self._held = self._loading = None  # who still has an identity does not hold the networks by it

    @property
    def landmarks(self) -> str:
        return self._nets.places.name

    def ear(self) -> Hearing:
        return Hearing()

    def frame(self, picture: np.ndarray, face: Face, mode: str, size: int) -> tuple[Portrait, CropTransform]:
        """See Engine.frame. The networks are for one size, whatever `size` is (see choice.Choice)."""
        height, width = picture.shape[:2]
        points = self._nets.places.landmarks(picture, face)
        cut, place = picture, (0.0, 0.0, float(width), float(height))
        if mode != "resize":
            crop, ext = geometry.crop_of(points, (width, height)), mode in ("extcrop", "extfull")
            cut, place = crop.cut(picture, ext=ext), crop.place(ext=ext)
        side = self._checkpoint.size
        portrait = Portrait(geometry.resized(cut, side), geometry.into(points, place, side), Box(0, 0, side, side))
        source = Box(*(round(edge) for edge in place))
        video = None if self._full else (side, even(side * cut.shape[0] / cut.shape[1]))
        return portrait, CropTransform(source, side / source.width, self._full, alone=True, video=video)

    def prepare(self, portrait: Portrait) -> Identity:
        nets = self._nets.drawing
        row = coefficients.fit(portrait.canvas, portrait.landmarks, self._nets.fit)
        face = render.prepare(nets, portrait.canvas, row, full=self._full)
        photo = nets.mapping(_on(semantics.of_photo(row, full=self._full), nets))
        rest = keypoints.moved(face.canonical, photo)
        return Identity(portrait, face, rest.cpu().numpy(), keypoints.rotation(*_turns(photo)).cpu().numpy())

    def rest(self, identity: Identity) -> np.ndarray:
        nets = self._nets.drawing
        return render.eight_bit(nets.generator.frame(identity.face.source(), _on(identity.rest, nets)))[0]

    def watch(self, clip: Iterable[np.ndarray]) -> np.ndarray:
        return coefficients.of_clip(self._seen(clip), self._nets.fit, size=self._checkpoint.size, whole=self._mode == "resize")

    def motion(
        self, heard: Speech | None, identity: Identity, options: MotionOptions, tick: Tick = lambda _share: None
    ) -> Motion:
        def told(share: float) -> None:
            self._check_loading()
            tick(share)

        rows = np.empty((0, mel.MELS), np.float32) if heard is None else heard.rows
        frames = options.frames or max(1, round(heard.seconds * options.fps) if heard else 1)
        times = None if options.fps == MOTION_FPS else np.arange(frames) * MOTION_FPS / options.fps
        spoken = motion.speak(
            lambda start, stop: mel.windows(rows, start, stop),
            frames if times is None else int(np.ceil(times[-1])) + 1,
            identity.face.coefficients,
            self._nets,
            style=options.pose_style,
            seed=options.seed,
            blink=options.blink,
            lids=options.blink_like,
            head=options.pose_like,
            tick=told,
        )
        values = np.empty((frames, len(self.columns)), np.float32)
        for start in range(0, frames, _AT_ONCE):
            stop = min(start + _AT_ONCE, frames)
            values[start:stop] = self._placed(identity, spoken, replace(options, frames=frames), start, stop, times)
            told(stop / frames)
        return Motion(values, options.fps, self.columns)

    def render(self, identity: Identity, motion: Motion, start: int = 0) -> Iterator[np.ndarray]:
        nets, points = self._nets.drawing, motion.values[:, : len(POINTS)].reshape(-1, KEYPOINTS, 3)
        frames = render.frames(nets, identity.face, points, start, batch=self._at_a_time())
        # On a processor the networks have all of it already.
        return frames if nets.device.type == "cpu" else ahead(frames)

    def _seen(self, clip: Iterable[np.ndarray]) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """The frames of a film, each with the landmarks of the face that is followed."""
        for frame, face in followed(clip, face_finder()):
            self._check_loading()
            yield frame, self._nets.places.landmarks(frame, face)

    def _placed(
        self, identity: Identity, spoken: np.ndarray, options: MotionOptions, start: int, stop: int, times: np.ndarray | None
    ) -> np.ndarray:
        """(stop - start, all columns): where the keypoints of these frames are, and what that means."""
        nets, photo = self._nets.drawing, identity.face.coefficients
        seen = semantics.windows(
            spoken, photo, start, stop,
            full=self._full, still=options.still, expression_scale=options.expression_scale, times=times,
        )  # fmt: skip
        heads_now = nets.mapping(_on(seen, nets))
        wished = {
            name: _on(camera.sequence(degrees, options.frames or stop)[start:stop], nets)
            for name in ("yaw", "pitch", "roll")
            if (degrees := getattr(options, name))
        }
        placed = keypoints.moved(identity.face.canonical, heads_now, **wished)
        turned = keypoints.rotation(*_turns(heads_now, wished))
        middle = seen[:, : len(COEFFICIENTS), semantics.RADIUS]
        canonical, rest = identity.face.canonical[0].cpu().numpy(), (identity.rest, identity.turned)
        now = placed.cpu().numpy(), turned.cpu().numpy()
        if options.still and not wished:
            head = np.zeros((stop - start, len(HEAD)), np.float32)
        else:
            head = heads.columns(canonical, rest, now, identity.portrait.landmarks, self._checkpoint.size)
        return np.concatenate([now[0].reshape(stop - start, -1), head, middle], 1)

    def _at_a_time(self) -> int:
        """Frames that are drawn at once: as many as were asked for, else as the device likes, but no more than its memory holds.

        Of its whole memory, not of what is free: a job that goes on after a crash must draw the same batches.
        """
        device, _ = devices.find(self._settings.device)
        room = device.memory // 2 - self._checkpoint.bytes
        fit = max(1, room // (_FRAME_BYTES * self._checkpoint.size**2))
        return min(self._batch or (1 if device.kind == "cpu" else _MOST_AT_ONCE), fit)

    def _compiles(self, where: str) -> bool:
        """On cards alone, and where last digits are free."""
        wanted = self._settings.compile and self._precision == "fast" and where.startswith("cuda")
        if wanted:
            devices.check_compiler(where)
            import torch._dynamo  # noqa: F401, on one thread, before the others import parts of it
        return wanted

    @property
    def _nets(self) -> Networks:
        assert self._held is not None, "an engine works inside its `ready`"
        return self._held

    def _generator(self) -> Generator:
        assert self._loading is not None, "an engine works inside its `ready`"
        return self._loading.result()

    def _check_loading(self) -> None:
        """Raise what is wrong with the generator as soon as it is known."""
        if self._loading is not None and self._loading.done():
            self._loading.result()

    def _lease(self, stack: ExitStack, where: str) -> Any:
        """A function that takes one network into memory until the stack ends."""
        checkpoint, cache = self._checkpoint, devices.models(where)
        version = checkpoint.version

        def one(net: str, kind: Any, *, full: bool = False, **how: Any) -> Any:
            def load() -> tuple[Any, int]:
                made = kind.of(checkpoint.tensors(net, full=full, device=where), **how)
                return made, sum(part.numel() * part.element_size() for part in (*made.parameters(), *made.buffers()))

            key = devices.Key(f"SadTalker {checkpoint.size}", where, (version, net, full, *how.values()))
            return stack.enter_context(cache.lease(key, load, expects=_bytes(net, full)))

        return one


def _bytes(net: str, full: bool) -> int:
    return sum(4 * math.prod(shape) for shape in layout.of(net, full=full).values())


def _turns(found: dict[str, torch.Tensor], wished: dict[str, torch.Tensor] | None = None) -> list[torch.Tensor]:
    """Yaw, pitch and roll in degrees."""
    wished = wished or {}
    return [wished[name] if name in wished else keypoints.degrees(found[name]) for name in ("yaw", "pitch", "roll")]


def _on(values: np.ndarray, nets: render.Nets) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(values, np.float32)).to(nets.device)
