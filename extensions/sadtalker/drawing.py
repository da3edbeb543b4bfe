"""Frames of the video, from any one on: rendered by an engine, their face restored, put where they belong. Keeps none of them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np

from extensions.sadtalker.ahead import ahead
from extensions.sadtalker.composite import composite, video_size
from extensions.sadtalker.paste import Paste
from extensions.sadtalker.preprocess import REACH, CropTransform
from extensions.sadtalker.turning import five_points
from extensions.sadtalker.types import Motion, Portrait
from webui.plugin_api import restore

if TYPE_CHECKING:
    from extensions.sadtalker.engines.base import Engine


@dataclass(frozen=True)
class Scene:
    """What is animated. picture: (H, W, 3) uint8 RGB; landmarks: (68, 2) in it; portrait, crop: what the engine makes of it."""

    picture: np.ndarray
    landmarks: np.ndarray
    mode: str
    portrait: Portrait
    crop: CropTransform

    @property
    def size(self) -> tuple[int, int]:
        """(width, height) of the video."""
        view = self.portrait.view
        return self.crop.video or video_size(self.picture, (view.width, view.height), self.crop)

    @property
    def points(self) -> np.ndarray:
        """(68, 2): the landmarks in a frame of the video, as the photo has them."""
        if self.crop.whole:
            return self.landmarks
        view = self.portrait.view
        scale = np.array(self.size) / (view.width, view.height)
        return (self.portrait.landmarks - (view.left, view.top) + 0.5) * scale - 0.5


@dataclass(frozen=True)
class Drawing:
    """A clip that can be drawn. restorer: what makes the face finer, `strength` (0..1) of it."""

    engine: Engine
    identity: Any
    motion: Motion
    scene: Scene
    restorer: restore.Restorer | None = None
    strength: float = 1.0

    def frames(self, start: int) -> Iterator[np.ndarray]:
        """(H, W, 3) uint8 RGB of the scene's size. The array may be the same again and again: use it before the next."""
        crop = self.scene.crop
        if crop.whole and crop.alone:
            yield from self._pasted(self._faces(start), start)
        elif crop.video:
            for frame in self._faces(start):
                smaller = frame.shape[0] * frame.shape[1] > crop.video[0] * crop.video[1]
                yield cv2.resize(frame, crop.video, interpolation=cv2.INTER_AREA if smaller else cv2.INTER_CUBIC)
        else:
            yield from composite(self._faces(start), self.scene.picture, crop)

    @property
    def notes(self) -> tuple[str, ...]:
        """What the owner of the picture should know."""
        crop = self.scene.crop
        return (self._paste.silhouette.note,) if crop.whole and crop.alone and self._paste.silhouette.note else ()

    def _faces(self, start: int) -> Iterator[np.ndarray]:
        """The engine's frames; restored, a frame is made of some before it, too, so these are drawn again."""
        if self.restorer is None:
            return self.engine.render(self.identity, self.motion, start)
        begin = max(0, start - restore.REACH)
        frames = self.engine.render(self.identity, self.motion, begin)
        restored = self.restorer.faces(frames, self._places[begin:], strength=self.strength)
        if self.restorer.device != "cpu":
            restored = ahead(restored)
        return islice(restored, start - begin, None)

    def _pasted(self, frames: Iterable[np.ndarray], start: int) -> Iterator[np.ndarray]:
        width, height = self.scene.size
        for number, frame in enumerate(frames, start):
            yield self._paste.put(frame, self.motion.head(number))[:height, :width]

    @cached_property
    def _places(self) -> list[restore.Alignment]:
        portrait = self.scene.portrait
        return restore.steady(five_points(portrait.landmarks - (portrait.view.left, portrait.view.top), self.motion))

    @cached_property
    def _paste(self) -> Paste:
        scene = self.scene
        rest = self.engine.rest(self.identity)
        return Paste(scene.picture, scene.crop.source, scene.landmarks, rest, REACH.get(scene.mode, 1.0))
