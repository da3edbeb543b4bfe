"""The movement of another face for the built-in engine: how its lids and its head move, by its landmarks alone.

A clip is looked at frame by frame (`watch`), and a row is kept of each. Only with the whole clip can be said what its open eyes
are, so rows become lids and poses later.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from extensions.sadtalker.clips import followed
from extensions.sadtalker.engines.geometric.speech import smooth, smoothstep
from extensions.sadtalker.face import LEFT_EYE, RIGHT_EYE, FaceFrame
from extensions.sadtalker.turning import about_pivot, angles
from extensions.sadtalker.types import MOTION_FPS
from webui.plugin_api import FaceFinder

STIFF = [*range(0, 4), *range(13, 17), *range(27, 36), 36, 39, 42, 45]
"""Landmarks that speech and blinking leave where they are: sides of the head, nose, corners of the eyes."""

_OPEN = 80  # percentile of a clip's frames at which its eyes count as open
_BLINK_FROM, _SHUT_AT = 0.25, 0.6  # the part of the opening that is gone when a blink begins to show, and when it is whole
_SMOOTH = 1.5  # frames: landmarks tremble by half a degree


def watch(clip: Iterable[np.ndarray], finder: FaceFinder) -> np.ndarray:
    """(N, 6) float32: how open the eyes are, in widths of an eye, and the columns of HEAD against the clip's first frame."""
    rows, solid = [], None
    for _frame, face in followed(clip, finder):
        solid = solid or Solid(face.landmarks)
        rows.append([openness(face.landmarks), *solid.pose(face.landmarks)])
    return np.array(rows, np.float32)


def openness(points: np.ndarray) -> float:
    """Height of the eyes in their widths, of (68, 2) landmarks: about 0.3 when open (Soukupova and Cech 2016)."""
    heights, widths = 0.0, 0.0
    for eye in (points[RIGHT_EYE], points[LEFT_EYE]):
        heights += np.hypot(*(eye[[1, 2]] - eye[[5, 4]]).T).mean()
        widths += np.hypot(*(eye[0] - eye[3]))
    return float(heights / max(widths, 1e-6))


class Solid:
    """The stiff landmarks of one frame as points in space, on the surface that the engine turns the photo on."""

    def __init__(self, landmarks: np.ndarray) -> None:
        """landmarks: (68, 2) pixels of the frame that the others are compared with."""
        self._frame = FaceFrame.of(landmarks)
        face = self._frame.to_face(landmarks)
        self._points = about_pivot(face[STIFF], face)
        self._pivot = (face[STIFF] - self._points[:, :2])[0]

    def pose(self, landmarks: np.ndarray) -> tuple[float, ...]:
        """The columns of HEAD that bring these points nearest to the same ones of another frame: weak perspective, so that
        coming nearer is no turning. The inverse of HeadPose.backward_map's rotation.
        """
        seen = self._frame.to_face(landmarks[STIFF])
        solved = np.linalg.lstsq(np.c_[self._points, np.ones(len(seen))], seen, rcond=None)[0]
        return *map(float, angles(_nearest_rotation(solved[:3].T))), *map(float, solved[3] - self._pivot)


def lids(watched: np.ndarray, times: np.ndarray) -> np.ndarray:
    """(T,) 0..1: how far the lids are shut at these times, in seconds."""
    opening = watched[:, 0].astype(float)
    gone = 1.0 - opening / max(float(np.percentile(opening, _OPEN)), 1e-6)
    return read_off(smoothstep(gone, _BLINK_FROM, _SHUT_AT)[:, None], times)[:, 0]


def pose_at(watched: np.ndarray, times: np.ndarray) -> np.ndarray:
    """(T, 5): the columns of HEAD at these times, in seconds; 0 in the first frame."""
    pose = smooth(watched[:, 1:].astype(float), _SMOOTH)
    return read_off(pose - pose[0], times)


def read_off(rows: np.ndarray, times: np.ndarray) -> np.ndarray:
    """(T, k): rows of a clip at these times. A clip that is too short goes back and forth, so that nothing jumps."""
    span = (len(rows) - 1) / MOTION_FPS
    at = span - np.abs(np.mod(times, 2 * span) - span) if span else np.zeros(len(times))
    grid = np.arange(len(rows)) / MOTION_FPS
    return np.stack([np.interp(at, grid, column) for column in rows.T], 1)


def _nearest_rotation(camera: np.ndarray) -> np.ndarray:
    """(3, 3): the rotation whose first two rows are, but for a scale, nearest to a (2, 3) affine camera."""
    left, _, right = np.linalg.svd(camera, full_matrices=False)
    across, down = left @ right
    return np.stack([across, down, np.cross(across, down)])
