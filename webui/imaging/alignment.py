"""Where a face is in a picture, by FFHQ's measure (Karras et al. 2019): eyes and mouth always at the same places of a cut-out.

Cuts faces out and puts them back. Never looks for a face.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np

SIDE = 512
"""Of a cut-out, in pixels: what these networks take."""

TEMPLATE = np.array(
    [[192.98138, 239.94708], [318.90277, 240.1936], [256.63416, 314.01935], [201.26117, 371.41043], [313.08905, 371.15118]]
)
"""Eyes, tip of the nose and corners of the mouth in a cut-out: FFHQ's means, which the networks were trained with (facexlib)."""

IN_BOX = np.array([[0.274, 0.29], [0.726, 0.29], [0.50, 0.54], [0.326, 0.737], [0.674, 0.737]])
"""The same in the box of a face that looks ahead, in parts of its sides: measured on dlib's boxes of the sample portraits."""


@dataclass(frozen=True)
class Alignment:
    """Where a face is: from pixels of the picture to pixels of the cut-out.

    u = a x - b y + shift_x, v = b x + a y + shift_y, pixel centres at whole numbers.
    """

    a: float
    b: float
    shift_x: float
    shift_y: float

    @classmethod
    def of_points(cls, points: np.ndarray) -> Alignment:
        """Of (68, 2) landmarks in iBUG order, or of (5, 2): eyes, nose, corners of the mouth. The best fit in least squares, so
        that it follows the points smoothly."""
        five = _five(points)
        centre, wanted = five.mean(0), TEMPLATE.mean(0)
        (x, y), (u, v) = (five - centre).T, (TEMPLATE - wanted).T
        size = float((x * x + y * y).sum())
        a, b = float((x * u + y * v).sum()) / size, float((x * v - y * u).sum()) / size
        return cls(a, b, wanted[0] - a * centre[0] + b * centre[1], wanted[1] - b * centre[0] - a * centre[1])

    @classmethod
    def of_box(cls, box: Sequence[float]) -> Alignment:
        """Of a face's box (left, top, right, bottom), brows to chin: upright, and coarser than landmarks."""
        left, top, right, bottom = box
        return cls.of_points(IN_BOX * (right - left, bottom - top) + (left, top))

    @property
    def scale(self) -> float:
        """Pixels of the cut-out to one of the picture."""
        return float(np.hypot(self.a, self.b))

    @property
    def matrix(self) -> np.ndarray:
        return np.array([[self.a, -self.b, self.shift_x], [self.b, self.a, self.shift_y]])

    def enlarged(self, factor: float) -> Alignment:
        """The same face in a picture that is so many times larger."""
        a, b = self.a / factor, self.b / factor
        half = (factor - 1) / 2  # pixel centres: x' = factor (x + 1/2) - 1/2
        return Alignment(a, b, self.shift_x - a * half + b * half, self.shift_y - b * half - a * half)

    def moved(self, x: float, y: float) -> Alignment:
        """The same face in a part of the picture that begins at this pixel."""
        return Alignment(self.a, self.b, self.shift_x + self.a * x - self.b * y, self.shift_y + self.b * x + self.a * y)


Place = Alignment | np.ndarray | tuple[float, float, float, float]
"""Where a face is: an Alignment; landmarks, (68, 2) or (5, 2); or a box, left, top, right, bottom."""


def alignment(place: Place) -> Alignment:
    """The Alignment that a place stands for."""
    if isinstance(place, Alignment):
        return place
    numbers = np.asarray(place, np.float64)
    return Alignment.of_points(numbers) if numbers.ndim == 2 else Alignment.of_box(numbers.tolist())


def steady(places: Iterable[Place], frames: float = 4.0) -> list[Alignment]:
    """Alignments of a whole clip's frames, smoothed over time: a Gaussian of this width in frames, to both sides. One that
    trembles would make the restored face tremble."""
    raw = np.array([[one.a, one.b, one.shift_x, one.shift_y] for one in map(alignment, places)])
    reach = max(1, int(np.ceil(3 * frames)))
    weights = np.exp(-0.5 * (np.arange(-reach, reach + 1) / frames) ** 2)
    padded = np.pad(raw, ((reach, reach), (0, 0)), mode="edge")
    smooth = np.stack([np.convolve(column, weights / weights.sum(), "valid") for column in padded.T], axis=1)
    return [Alignment(*row) for row in smooth.tolist()]


def _five(points: np.ndarray) -> np.ndarray:
    points = np.asarray(points, np.float64)
    if len(points) == 5:
        return points
    return np.stack([points[36:42].mean(0), points[42:48].mean(0), points[30], points[48], points[54]])


def cut_out(rgb: np.ndarray, place: Alignment) -> np.ndarray:
    """The face, (512, 512, 3) float32, 0..1. Beyond the picture's border its last pixels go on."""
    import cv2

    left, top, right, bottom = _around(place, rgb.shape[1], rgb.shape[0])
    part, place = rgb[top:bottom, left:right], place.moved(left, top)
    shrink = min(int(1 / place.scale), *part.shape[:2])
    if shrink > 1:  # a plain warp would skip pixels
        height, width = part.shape[0] // shrink, part.shape[1] // shrink
        part = cv2.resize(part[: height * shrink, : width * shrink], (width, height), interpolation=cv2.INTER_AREA)
        place = place.enlarged(1 / shrink)
    how: dict[str, Any] = {"flags": cv2.INTER_CUBIC, "borderMode": cv2.BORDER_REPLICATE}
    return cv2.warpAffine(part, place.matrix, (SIDE, SIDE), **how).astype(np.float32) / 255


def put_back(rgb: np.ndarray, place: Alignment, face: np.ndarray, cut: np.ndarray, strength: float = 1.0) -> None:
    """Put a face, (512, 512, 3) float32, 0..1, into the picture in place of what was cut out there, softly towards its edges.

    Where the picture is coarser than the cut-out it gets the face; where it is finer, what differs between face and cut-out, so
    that it keeps all that is too fine for a cut-out.
    """
    import cv2

    left, top, right, bottom = _around(place, rgb.shape[1], rgb.shape[0])
    place, mask = place.moved(left, top), strength * face_mask()
    side = max(1, min(SIDE, round(SIDE / place.scale)))
    coarser = side < SIDE
    layer = np.dstack([mask * face, mask]) if coarser else mask * (face - cut)
    if coarser:  # as in `cut_out`, the other way round
        layer = cv2.resize(layer, (side, side), interpolation=cv2.INTER_AREA)
    to_layer = _after_scaling(side / SIDE) @ np.vstack([place.matrix, (0, 0, 1)])
    how: dict[str, Any] = {"flags": cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP, "borderMode": cv2.BORDER_CONSTANT}
    warped = cv2.warpAffine(layer, to_layer[:2], (right - left, bottom - top), **how)
    part = rgb[top:bottom, left:right]
    under = part * (1 - warped[..., 3:]) if coarser else part
    part[:] = np.clip(under + 255 * warped[..., :3] + 0.5, 0, 255)


def _around(place: Alignment, width: int, height: int) -> tuple[int, int, int, int]:
    """The part of a picture that a cut-out shows, and two pixels more: left, top, right, bottom."""
    a, b, scale = place.a, place.b, place.scale**2
    corners = np.array([(0, 0), (SIDE, 0), (0, SIDE), (SIDE, SIDE)]) - (place.shift_x, place.shift_y)
    points = np.stack([corners @ (a, b), corners @ (-b, a)], axis=1) / scale
    (left, top), (right, bottom) = np.floor(points.min(0)) - 2, np.ceil(points.max(0)) + 3
    # A face beside the picture leaves one pixel of it, which nothing is added to.
    left, top = int(np.clip(left, 0, width - 1)), int(np.clip(top, 0, height - 1))
    return left, top, int(np.clip(right, left + 1, width)), int(np.clip(bottom, top + 1, height))


def _after_scaling(scale: float) -> np.ndarray:
    """From pixels to those of the same picture made smaller, centres at whole numbers."""
    return np.array([(scale, 0, (scale - 1) / 2), (0, scale, (scale - 1) / 2), (0, 0, 1)])


@lru_cache(maxsize=1)
def face_mask() -> np.ndarray:
    """(512, 512, 1) float32, 1 inside of the face, falling softly to 0 before hair, ears and the cut-out's border. The same for
    every face: all lie alike in their cut-outs, and a mask that followed each frame's landmarks would tremble."""
    import cv2

    mask = np.zeros((SIDE, SIDE), np.float32)
    cv2.ellipse(mask, (256, 290), (150, 180), 0, 0, 360, 1, -1)
    mask = cv2.GaussianBlur(mask, (0, 0), 16)
    mask.setflags(write=False)
    return mask[..., None]
