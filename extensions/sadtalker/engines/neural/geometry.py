"""Where the face is cut out of the photo, and how it is laid under the 3DMM's standard face. Numbers and resizing; no networks.

The cut is FFHQ's (Karras et al. 2019) made upright, the alignment Deep3DFaceRecon's (Deng et al. 2019).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import cv2
import numpy as np
from PIL import Image

STANDARD_POINTS = np.array(
    [
        [-0.31148657, 0.29036078, 0.13377953],
        [0.30979887, 0.28972036, 0.13179526],
        [0.0032534988, -0.046179324, 0.55244243],
        [-0.25216928, -0.38133916, 0.22405732],
        [0.2484662, -0.38128236, 0.22235769],
    ],
    np.float32,
)
"""Of the 3DMM's mean face: left and right eye, tip of the nose, left and right corner of the mouth; x right, y up, z to us."""

ALIGNED = 224
"""Side of an aligned face in pixels."""

_FACE_SCALE = 102.0  # pixels of an aligned face in a unit of the standard points
_FINE = 512  # a face of more than twice as many pixels is made smaller before it is cut

Rectangle = tuple[float, float, float, float]
"""Left, top, right, bottom; the last two exclusive."""


@dataclass(frozen=True)
class Crop:
    """How a photo is cut: resized to `rsize`, cut to `crop`, and that, but in the ext modes, to `quad`.

    size:  (width, height) of the photo.
    rsize: (width, height) that it is resized to first: its own, or a whole fraction of it.
    crop:  the face with a tenth round it, in whole pixels of the resized photo.
    face:  the face's square, in pixels of the crop; may reach beyond it.
    """

    size: tuple[int, int]
    rsize: tuple[int, int]
    crop: tuple[int, int, int, int]
    face: Rectangle

    @property
    def quad(self) -> Rectangle:
        """The square, as far as it lies inside the crop."""
        left, top, right, bottom = self.crop
        return within(self.face, right - left, bottom - top)

    def cut(self, image: np.ndarray, *, ext: bool = False) -> np.ndarray:
        """(H, W, 3) uint8 of the photo's size -> what is animated. ext: with its tenth round it (extcrop, extfull)."""
        return cut_out(image, self.rsize, self.crop, None if ext else self.quad)

    def place(self, *, ext: bool = False) -> Rectangle:
        """Where that lies in the photo, in its own pixels."""
        left, top, right, bottom = self.crop
        if not ext:
            inner = truncated(self.quad)
            left, top, right, bottom = left + inner[0], top + inner[1], left + inner[2], top + inner[3]
        across, down = self.size[0] / self.rsize[0], self.size[1] / self.rsize[1]
        return left * across, top * down, right * across, bottom * down


def crop_of(landmarks: np.ndarray, size: tuple[int, int]) -> Crop:
    """landmarks: (68, 2) iBUG, in pixels of the photo; size: its (width, height).

    The square is put upright: upstream computes FFHQ's tilted one and takes the box of it.
    """
    quad, side = _square(np.asarray(landmarks, np.float32))
    rsize = size
    shrink = math.floor(side / _FINE * 0.5)
    if shrink > 1:
        rsize = int(np.rint(size[0] / shrink)), int(np.rint(size[1] / shrink))
        quad, side = quad / shrink, side / shrink
    border = max(int(np.rint(side * 0.1)), 3)
    left, top = np.maximum(np.floor(quad.min(0)).astype(int) - border, 0)
    right, bottom = np.minimum(np.ceil(quad.max(0)).astype(int) + border, rsize)
    # In FFHQ the corners go round: left top, left bottom, right bottom, right top.
    inner = quad - (left, top) + 0.5
    face = (
        float(min(inner[0, 0], inner[1, 0])),
        float(min(inner[0, 1], inner[3, 1])),
        float(max(inner[2, 0], inner[3, 0])),
        float(max(inner[1, 1], inner[2, 1])),
    )
    return Crop(size, rsize, (int(left), int(top), int(right), int(bottom)), face)


def _square(points: np.ndarray) -> tuple[np.ndarray, float]:
    """FFHQ's square round a face: its four corners, and its side. The means are taken in float32, the corners are float64: a
    pixel more or less hangs on it."""
    left_eye, right_eye = points[36:42].mean(0), points[42:48].mean(0)
    eyes = (left_eye + right_eye) * 0.5
    across = right_eye - left_eye
    down = (points[48] + points[54]) * 0.5 - eyes
    x = across - down[::-1] * [-1, 1]
    x /= np.hypot(*x)
    x *= max(np.hypot(*across) * 2.0, np.hypot(*down) * 1.8)
    y = x[::-1] * [-1, 1]
    centre = eyes + down * 0.1
    return np.stack([centre - x - y, centre - x + y, centre + x + y, centre + x - y]), float(np.hypot(*x) * 2)


def within(rectangle: Rectangle, width: int, height: int) -> Rectangle:
    """What of the rectangle lies inside 0 .. width, 0 .. height."""
    left, top, right, bottom = rectangle
    return max(left, 0.0), max(top, 0.0), min(right, float(width)), min(bottom, float(height))


def truncated(rectangle: Rectangle) -> tuple[int, int, int, int]:
    left, top, right, bottom = rectangle
    return int(left), int(top), int(right), int(bottom)


def cut_out(image: np.ndarray, rsize: tuple[int, int], crop: tuple[int, int, int, int], quad: Rectangle | None) -> np.ndarray:
    """The picture resized to `rsize`, cut to `crop`, and then to the whole pixels of `quad`, unless that is None."""
    if rsize != (image.shape[1], image.shape[0]):
        image = cv2.resize(image, rsize)
    for left, top, right, bottom in (crop, truncated(quad)) if quad else (crop,):
        image = image[top:bottom, left:right]
    return image


def resized(image: np.ndarray, size: int) -> np.ndarray:
    """The networks' picture: `size` on both sides, whatever its shape was; linear, and not smoothed when it shrinks."""
    return cv2.resize(image, (size, size))


@dataclass(frozen=True)
class Aligned:
    """A face as the 3DMM fit sees it.

    image:     (224, 224, 3) uint8 RGB, black where the picture had ended.
    landmarks: (68 or 5, 2) float32 of the face in it, y up.
    scale:     what the picture was resized by.
    x, y:      where the middle of the standard face lay in the picture, in its pixels, y up.
    """

    image: np.ndarray
    landmarks: np.ndarray
    scale: float
    x: float
    y: float


def align(image: np.ndarray, landmarks: np.ndarray) -> Aligned:
    """image: (H, W, 3) uint8 RGB; landmarks: 68, or the five of STANDARD_POINTS, in its pixels, y **up** (see `upward`)."""
    height, width = image.shape[:2]
    points = five(landmarks) if len(landmarks) != len(STANDARD_POINTS) else landmarks
    per_unit, x, y = _camera(points)
    scale = _FACE_SCALE / per_unit
    w, h = int(width * scale), int(height * scale)
    left = int(w / 2 - ALIGNED / 2 + (x - width / 2) * scale)
    top = int(h / 2 - ALIGNED / 2 + (height / 2 - y) * scale)
    # Pillow resizes with a filter that widens as the picture shrinks, unlike OpenCV.
    picture = Image.fromarray(image).resize((w, h), Image.Resampling.BICUBIC)
    picture = picture.crop((left, top, left + ALIGNED, top + ALIGNED))
    moved = (landmarks - (x - width / 2, y - height / 2)) * scale - (w / 2 - ALIGNED / 2, h / 2 - ALIGNED / 2)
    return Aligned(np.asarray(picture), moved.astype(np.float32), scale, x, y)


def upward(landmarks: np.ndarray, height: int) -> np.ndarray:
    """Points with y down, turned to y up."""
    return np.stack([landmarks[:, 0], height - 1 - landmarks[:, 1]], axis=1)


def standard(size: int) -> np.ndarray:
    """The five points where the standard face would lie in a picture of size x size, (5, 2) float32, y up."""
    return (STANDARD_POINTS[:, :2] + 1) / 2 * size


def five(landmarks: np.ndarray) -> np.ndarray:
    """The five of STANDARD_POINTS from 68 iBUG points."""
    eyes = landmarks[[36, 42]] + landmarks[[39, 45]]
    return np.concatenate([eyes / 2, landmarks[[30, 48, 54]]])


def _camera(points: np.ndarray) -> tuple[float, float, float]:
    """Pixels per unit, x and y of the affine camera that puts the standard points on these (least squares)."""
    known = np.concatenate([STANDARD_POINTS, np.ones((len(points), 1), np.float32)], axis=1).astype(np.float64)
    solved = np.linalg.lstsq(known, np.asarray(points, np.float64), rcond=None)[0]
    rows = np.linalg.norm(solved[:3], axis=0)
    return float(rows.mean()), float(solved[3, 0]), float(solved[3, 1])


def into(points: np.ndarray, place: Rectangle, size: int) -> np.ndarray:
    """Points of the photo in the picture of size x size that what lies in `place` was resized to."""
    left, top, right, bottom = place
    return (np.asarray(points, np.float64) - (left, top)) * (size / (right - left), size / (bottom - top))
