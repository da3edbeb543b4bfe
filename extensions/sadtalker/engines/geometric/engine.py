"""The built-in engine, which needs no download: a head-shaped surface, mouth and lids as layers of their own, one warp."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from hashlib import sha256
from typing import TYPE_CHECKING

import cv2
import numpy as np

from extensions.sadtalker.engines.geometric.eyes import Eye
from extensions.sadtalker.engines.geometric.head import HeadPose
from extensions.sadtalker.engines.geometric.hearing import Hearing, silence
from extensions.sadtalker.engines.geometric.motion import make_motion
from extensions.sadtalker.engines.geometric.mouth import Mouth
from extensions.sadtalker.engines.geometric.speech import WEIGHTS
from extensions.sadtalker.engines.geometric.watching import watch
from extensions.sadtalker.preprocess import CropTransform, prepare_portrait
from extensions.sadtalker.types import COEFFICIENTS, Motion, MotionOptions, Portrait, Voice
from webui.plugin_api import face_finder

if TYPE_CHECKING:
    from extensions.sadtalker.engines.base import Tick
    from webui.plugin_api import Face


@dataclass(frozen=True)
class Identity:
    """All that is computed once per portrait."""

    canvas: np.ndarray
    mouth: Mouth
    eyes: tuple[Eye, Eye]
    head: HeadPose


class GeometricEngine:
    """Implements engines.base.Engine. Holds nothing between portraits."""

    name = "builtin"
    columns = coefficients = COEFFICIENTS
    landmarks = "dlib"

    @property
    def models(self) -> dict[str, str]:
        return {WEIGHTS.name: sha256(WEIGHTS.read_bytes()).hexdigest()[:12]}

    def ready(self) -> AbstractContextManager[None]:
        return nullcontext()

    def ear(self) -> Hearing:
        return Hearing()

    def frame(self, picture: np.ndarray, face: Face, mode: str, size: int) -> tuple[Portrait, CropTransform]:
        return prepare_portrait(picture, face.landmarks, mode, size)

    def rest(self, identity: Identity) -> np.ndarray:
        return next(self.render(identity, Motion(np.zeros((1, len(COEFFICIENTS)), np.float32))))

    def watch(self, clip: Iterable[np.ndarray]) -> np.ndarray:
        return watch(clip, face_finder())

    def prepare(self, portrait: Portrait) -> Identity:
        points = portrait.landmarks
        return Identity(
            portrait.canvas,
            Mouth.of(portrait.canvas, points),
            (
                Eye.of(portrait.canvas, points, 36, slice(17, 22)),
                Eye.of(portrait.canvas, points, 42, slice(22, 27)),
            ),
            HeadPose.of(portrait),
        )

    def motion(
        self, heard: Voice | None, identity: Identity, options: MotionOptions, tick: Tick = lambda _share: None
    ) -> Motion:
        return make_motion(heard or silence((options.frames or 1) / options.fps), options)

    def render(self, identity: Identity, motion: Motion, start: int = 0) -> Iterator[np.ndarray]:
        face = identity.canvas.copy()
        for row in motion.values[start:]:
            yield render_frame(identity, face, dict(zip(COEFFICIENTS, map(float, row), strict=True)))


def render_frame(identity: Identity, face: np.ndarray, c: dict[str, float]) -> np.ndarray:
    """One frame, (H, W, 3) uint8 RGB of the view's size.

    face: scratch, a copy of the canvas; its mouth and eyes are redrawn whole, so nothing of the frame before is left.
    """
    identity.mouth.draw(identity.canvas, face, c)
    for eye in identity.eyes:
        eye.draw(identity.canvas, face, c["blink"], (c["gaze_x"], c["gaze_y"]))
    pose = np.array([c["yaw"], c["pitch"], c["roll"], c["shift_x"], c["shift_y"]])
    where = identity.head.backward_map(pose, c["brow"])
    return cv2.remap(face, where, None, cv2.INTER_CUBIC, borderMode=cv2.BORDER_REFLECT_101)
