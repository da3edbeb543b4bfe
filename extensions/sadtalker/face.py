"""The face's own coordinates: where things are in units of the distance between the eyes, whatever the photo's scale and tilt."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

RIGHT_EYE, LEFT_EYE = slice(36, 42), slice(42, 48)  # the person's right eye is at the picture's left
UPPER_OUTER, LOWER_OUTER = (48, 49, 50, 51, 52, 53, 54), (48, 59, 58, 57, 56, 55, 54)
UPPER_INNER, LOWER_INNER = (60, 61, 62, 63, 64), (60, 67, 66, 65, 64)


@dataclass(frozen=True)
class FaceFrame:
    """Origin between the eyes, x along the eyes to the picture's right, y down the face; 1 = distance between the eyes' centres.

    origin: (2,) pixels; iod: pixels per unit; axes: (2, 2), rows are the unit vectors of x and y in pixels.
    """

    origin: np.ndarray
    iod: float
    axes: np.ndarray

    @classmethod
    def of(cls, landmarks: np.ndarray) -> FaceFrame:
        """From (68, 2) landmarks."""
        right, left = landmarks[RIGHT_EYE].mean(0), landmarks[LEFT_EYE].mean(0)
        across = left - right
        iod = float(np.hypot(*across))
        x = across / iod
        return cls((right + left) / 2, iod, np.array([x, [-x[1], x[0]]]))

    def to_face(self, pixels: np.ndarray) -> np.ndarray:
        """(..., 2) pixels to face units."""
        return (pixels - self.origin) @ self.axes.T / self.iod

    def to_pixels(self, units: np.ndarray) -> np.ndarray:
        """(..., 2) face units to pixels."""
        return units @ self.axes * self.iod + self.origin

    def vectors(self, units: np.ndarray) -> np.ndarray:
        """(..., 2) displacements in face units to pixels."""
        return units @ self.axes * self.iod
