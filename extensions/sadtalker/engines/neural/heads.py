"""Where the head is in a frame, told from the keypoints that it is drawn by: the HEAD columns of a Motion.

Keypoints were never told what is the face's front, so that is looked for: of a head the middle lies nearer than its rim.
"""

from __future__ import annotations

import numpy as np

from extensions.sadtalker.face import FaceFrame
from extensions.sadtalker.turning import HEAD_DEPTH, NECK_PIVOT, angles, rotation

_MIDDLE = np.array([0.0, 0.35 - NECK_PIVOT, 0.9 * HEAD_DEPTH])
"""Of a face, as the built-in engine turns it: what the keypoints' middle is taken for, in face units."""


def front(canonical: np.ndarray) -> float:
    """1.0 when z grows towards the viewer, -1.0 when it grows away. canonical: (15, 3)."""
    out = np.square(canonical[:, :2] - canonical[:, :2].mean(0)).sum(1)
    return -1.0 if np.polyfit(out, canonical[:, 2], 1)[0] > 0 else 1.0


Placed = tuple[np.ndarray, np.ndarray]
"""Keypoints, (n, 15, 3), and rotations, (n, 3, 3)."""


def columns(canonical: np.ndarray, rest: Placed, now: Placed, landmarks: np.ndarray, size: int) -> np.ndarray:
    """(N, 5) float32: the columns of HEAD.

    canonical: (15, 3). rest: of the photo; now: of the frames.
    landmarks: (68, 2) pixels of the picture of size x size that the keypoints are of, -1..1.
    """
    to_viewer = np.diag([1.0, 1.0, front(canonical)])
    turned = to_viewer @ now[1] @ rest[1].transpose(0, 2, 1) @ to_viewer
    degrees = angles(turned)
    frame = FaceFrame.of(landmarks)
    # The shift is what turning about the neck leaves unexplained.
    moved = (now[0] - rest[0])[..., :2].mean(1) * size / 2 @ frame.axes.T / frame.iod
    explained = (rotation(degrees) @ _MIDDLE - _MIDDLE)[:, :2]
    return np.concatenate([degrees, moved - explained], 1).astype(np.float32)
