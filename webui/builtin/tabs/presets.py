"""Ready-made choices: ways to sample for machines of different speed, and shapes of pictures. No widgets."""

from __future__ import annotations

from dataclasses import dataclass

from webui.imaging.requests import MAX_SIDE, MIN_SIDE, SIDE_STEP


@dataclass(frozen=True)
class Preset:
    """sampler, schedule, steps, cfg: as the request has them."""

    sampler: str
    schedule: str
    steps: int
    cfg: float


PRESETS = {
    "standard": Preset("DPM++ 2M", "Automatic", 20, 7.0),
    "careful": Preset("DPM++ 2M", "Karras", 35, 7.0),
    "quick": Preset("UniPC", "Automatic", 10, 6.0),
    "lcm": Preset("LCM", "Automatic", 6, 1.5),
    "turbo": Preset("Euler a", "Automatic", 3, 1.0),
}
"""By the key of its name, preset_<key>. The last two are for models that were distilled to few steps."""

SHAPES = {"1:1": (1, 1), "4:5": (4, 5), "2:3": (2, 3), "9:16": (9, 16), "5:4": (5, 4), "3:2": (3, 2), "16:9": (16, 9)}
"""Width to height."""


def shaped(shape: str, side: int) -> tuple[int, int]:
    """Width and height of a picture of this shape, with about as many pixels as a square of this side."""
    wide, high = SHAPES[shape]
    scale = side / (wide * high) ** 0.5
    return _side(wide * scale), _side(high * scale)


def followed(width: int, height: int, known: set[int], side: int) -> tuple[int, int]:
    """The size for another model, whose pictures have this side: a size that no model gave was chosen, and stays.

    known: sides of all models.
    """
    return (side, side) if width == height and width in known else (width, height)


def _side(pixels: float) -> int:
    # Multiples of 64 suit every network; those of a small model's pictures would be too coarse.
    step = 64 if pixels >= 384 else SIDE_STEP
    return min(MAX_SIDE, max(MIN_SIDE, step * round(pixels / step)))
