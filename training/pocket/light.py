"""The light on a finished drawing: its colour, the side it comes from, and the bright rim that it leaves on the figure."""

from __future__ import annotations

import cv2
import numpy as np

from training.pocket.attributes import Person
from training.pocket.look import Look

_TINT = {
    "day": ((1.0, 1.0, 1.0), (1.0, 1.0, 1.0)),
    "warm": ((1.08, 0.94, 0.76), (1.06, 0.86, 0.64)),
    "cool": ((0.84, 0.915, 1.05), (0.62, 0.74, 1.0)),
    "left": ((1.02, 1.0, 0.97), (1.02, 1.0, 0.97)),
    "right": ((1.02, 1.0, 0.97), (1.02, 1.0, 0.97)),
}
"""Colour of the light on the figure, and on what is behind it: milder on the figure, whose own colours must be told."""

_RIM = {
    "day": (0.16, 0.16, 0.15),
    "warm": (0.75, 0.42, 0.12),
    "cool": (0.20, 0.42, 0.75),
    "left": (0.50, 0.47, 0.40),
    "right": (0.50, 0.47, 0.40),
}


def lit(planes: np.ndarray, figure: np.ndarray, person: Person, look: Look) -> np.ndarray:
    """planes: (3, size, size) and figure: (size, size), float32 0..1. The result, of planes' shape, may leave 0..1."""
    side = {"left": -1, "right": 1}.get(person.light, look.side)
    front, back = (np.array(tint, np.float32)[:, None, None] for tint in _TINT[person.light])
    shone = planes * (back + figure * (front - back)) if (front != back).any() else planes * back
    if person.light in ("left", "right"):
        shone *= _from_side(figure, look, side)
    rim = planes * np.float32(0.65)
    rim += np.float32(0.35)
    rim *= _rim(figure, side)
    rim *= np.array(_RIM[person.light], np.float32)[:, None, None]
    shone += rim
    return shone


def _rim(figure: np.ndarray, side: int) -> np.ndarray:
    """Where the figure ends against the light, 0..1."""
    size = len(figure)
    shift = np.array([[1, 0, -0.022 * size * side], [0, 1, 0.012 * size]], np.float32)
    moved = cv2.warpAffine(figure, shift, (size, size), borderMode=cv2.BORDER_REPLICATE)
    inside = cv2.GaussianBlur(moved, (0, 0), 0.012 * size, borderType=cv2.BORDER_REPLICATE)
    return (figure - inside).clip(0, 1)


def _from_side(figure: np.ndarray, look: Look, side: int) -> np.ndarray:
    """How much light reaches each pixel: the far half of the figure lies in shadow, what is behind it only falls off."""
    across = np.linspace(-1, 1, len(figure), dtype=np.float32) * side
    middle = (across - np.float32(side * look.head.x)) / np.float32(0.5)
    turned = 1 / (1 + np.exp(-5 * (middle + 0.05)))
    on_figure, behind = 0.42 + 0.69 * turned, 0.74 + 0.24 * across
    return behind + figure * (on_figure - behind)
