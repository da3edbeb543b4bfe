"""A second video for those who want to see what the face does: it, the landmarks found in each frame, and the coefficients.

Every frame is looked at by itself, so one is the same wherever drawing started. Nothing is kept of the first video but its path.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import cv2
import numpy as np

from extensions.sadtalker import clips
from extensions.sadtalker.preprocess import head_box
from extensions.sadtalker.segments import Frames
from extensions.sadtalker.types import HEAD, Box, Motion
from webui.plugin_api import Face, face_finder

SIDE = 512
BARS = 128
SIZE = (2 * SIDE, SIDE + BARS)
"""(width, height): the face, the landmarks beside it, the coefficients below."""

_LINES = (
    (range(0, 17), False), (range(17, 22), False), (range(22, 27), False), (range(27, 31), False), (range(31, 36), False),
    (range(36, 42), True), (range(42, 48), True), (range(48, 60), True), (range(60, 68), True),
)  # fmt: skip
"""The landmarks that a line joins, and whether it ends where it began."""

_GROUND, _LINE, _POINT, _BAR, _TEXT = (24, 24, 28), (110, 110, 120), (255, 196, 64), (96, 160, 255), (220, 220, 224)
_FONT = cv2.FONT_HERSHEY_SIMPLEX


@dataclass(frozen=True)
class Shown:
    """video: the finished one; points: (68, 2), where its face is in the photo's pose; coefficients: the columns of `motion` that
    are shown as bars."""

    video: Path
    points: np.ndarray
    motion: Motion
    coefficients: tuple[str, ...]

    def frames(self, start: int) -> Frames:
        """(SIZE[1], SIZE[0], 3) uint8 RGB, from frame `start` on."""
        finder, near = face_finder(), self._face
        for number, frame in enumerate(clips.frames(self.video, None, start=start, side=None), start):
            box = self._box(frame)
            scale = np.array([SIDE / box.width, SIDE / box.height])
            how = cv2.INTER_AREA if scale.max() < 1 else cv2.INTER_CUBIC
            seen = cv2.resize(frame[box.slices], (SIDE, SIDE), interpolation=how)
            found = finder.find_near(frame, near)
            yield self._sheet(seen, None if found is None else (found.landmarks - (box.left, box.top)) * scale, number)

    @cached_property
    def _face(self) -> Face:
        (left, top), (right, bottom) = self.points.min(0), self.points.max(0)
        return Face((float(left), float(top), float(right), float(bottom)), self.points, 0.0)

    def _box(self, frame: np.ndarray) -> Box:
        return head_box(self.points, 1.1, frame.shape[1], frame.shape[0])

    @cached_property
    def _bars(self) -> np.ndarray:
        """(T, n), -1..1: how far each coefficient is from its middle in the clip, in parts of the furthest that it comes."""
        values = np.stack([self.motion[name] for name in self.coefficients], 1)
        values = values - np.median(values, axis=0)
        return values / np.maximum(np.abs(values).max(0), 1e-6)

    def _sheet(self, seen: np.ndarray, landmarks: np.ndarray | None, number: int) -> np.ndarray:
        sheet = np.full((SIZE[1], SIZE[0], 3), _GROUND, np.uint8)
        sheet[:SIDE, :SIDE] = seen
        if landmarks is not None:
            _draw_points(sheet[:SIDE, SIDE:], landmarks)
        head = self.motion.head(number)
        said = "   ".join(f"{name} {getattr(head, name):+.1f}" for name in HEAD[:3])
        said = said if landmarks is not None else f"no face seen   {said}"
        cv2.putText(sheet, said, (SIDE + 12, 24), _FONT, 0.5, _TEXT, 1, cv2.LINE_AA)
        self._draw_bars(sheet[SIDE:], number)
        return sheet

    def _draw_bars(self, sheet: np.ndarray, number: int) -> None:
        values = self._bars[number]
        step, middle = SIZE[0] / len(values), BARS // 2
        cv2.line(sheet, (0, middle), (SIZE[0], middle), _LINE, 1)
        for index, value in enumerate(values):
            left, right = round(index * step) + 1, round((index + 1) * step) - 2
            cv2.rectangle(sheet, (left, middle), (max(left, right), middle - round(value * (middle - 16))), _BAR, -1)
            if step >= 48:
                cv2.putText(sheet, self.coefficients[index], (left, BARS - 4), _FONT, 0.32, _TEXT, 1, cv2.LINE_AA)


def _draw_points(sheet: np.ndarray, landmarks: np.ndarray) -> None:
    at = np.round(landmarks * 16).astype(np.int32)  # sixteenths of a pixel: points that tremble by whole ones tell nothing
    for members, closed in _LINES:
        cv2.polylines(sheet, [at[list(members)]], closed, _LINE, 1, cv2.LINE_AA, shift=4)
    for point in at:
        cv2.circle(sheet, point.tolist(), 2 << 4, _POINT, -1, cv2.LINE_AA, shift=4)
