"""How large a picture is to be: by what its model was trained on, by its source, by hires fix. Makes no picture."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from webui.errors import InvalidRequest
from webui.imaging import latents as vae_latents
from webui.imaging.load import Model
from webui.imaging.requests import MAX_SIDE, MIN_SIDE, SIDE_STEP, Txt2Img, read_size

LARGEST = 2.0
"""How many times the pixels that a model was trained on a picture may have, when its owner names no size."""


def native_size(model: Model) -> tuple[int, int]:
    """Width and height in pixels that the model was trained on."""
    sides = model.unet.config.sample_size
    height, width = (sides, sides) if isinstance(sides, int) else sides
    scale = vae_latents.pixels(model.vae)
    return width * scale, height * scale


def hires_size(request: Txt2Img, width: int, height: int) -> tuple[int, int]:
    """Width and height in pixels after hires fix. Raises InvalidRequest for more than may be asked for without it."""
    if request.hires_size:
        return read_size(request.hires_size)
    size = _multiple(width * request.hires_scale), _multiple(height * request.hires_scale)
    if max(size) > MAX_SIDE:
        raise InvalidRequest(
            f"Hires would make {size[0]}x{size[1]} pixels, and the most is {MAX_SIDE} on a side. Choose a smaller size or scale."
        )
    return size


def own_size(model: Model, image: np.ndarray, warn: Callable[[str], None]) -> tuple[int, int]:
    """Width and height when none is asked for: the picture's own in multiples of 8, smaller when that is much for the model."""
    width, height = native_size(model)
    scale = min(1.0, (LARGEST * width * height / (image.shape[0] * image.shape[1])) ** 0.5)
    own = _multiple(image.shape[1] * scale), _multiple(image.shape[0] * scale)
    if scale < 1:
        warn(f"The picture was worked on at {own[0]}x{own[1]}: more is much for this model. Ask for a size to have another.")
    return own


def _multiple(side: float) -> int:
    return max(MIN_SIDE, SIDE_STEP * round(side / SIDE_STEP))


def whole_size(image: np.ndarray) -> tuple[int, int]:
    """Width and height of the picture in multiples of 8."""
    return _multiple(image.shape[1]), _multiple(image.shape[0])
