"""Masks for inpainting: reading, fitting, blurring, the part to work on, what it starts from, and pasting back.

A mask is (H, W) uint8: 255 is made anew, 0 stays. What stays, stays bit for bit. The rules are A1111's (modules/masking.py and
processing.py), so that its settings mean the same here.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
import torch
from torch import Tensor

from webui.errors import InvalidRequest
from webui.imaging.resize import resize

Box = tuple[int, int, int, int]
"""Left, top, right, bottom in pixels; the last two are outside."""


def read(mask: np.ndarray, width: int, height: int, *, invert: bool = False) -> np.ndarray:
    """A picture as a mask of 0 and 255, for a picture of `width` x `height`.

    (H, W) or (H, W, 3): what is light is made anew. (H, W, 4): what is opaque, unless all of it is. Raises InvalidRequest for a
    mask of another size, and for one that marks nothing.
    """
    if mask.shape[:2] != (height, width):
        raise InvalidRequest(
            f"The mask is {mask.shape[1]}x{mask.shape[0]}, and the picture {width}x{height}. Use a mask of the picture's size."
        )
    marked = np.where(_grey(mask) > 128, 255, 0).astype(np.uint8)
    marked = 255 - marked if invert else marked
    if not marked.any():
        what = "marks everything, and inverted nothing is left" if invert else "is empty"
        raise InvalidRequest(f"The mask {what}. Paint over the part of the picture that is to be made anew.")
    return marked


def _grey(mask: np.ndarray) -> np.ndarray:
    if mask.ndim == 2:
        return mask
    if mask.shape[2] == 4 and mask[..., 3].min() < 255:
        return mask[..., 3]
    return cv2.cvtColor(np.ascontiguousarray(mask[..., :3]), cv2.COLOR_RGB2GRAY)


def blurred(mask: np.ndarray, radius: int) -> np.ndarray:
    """With a soft edge; `radius` is the standard deviation in pixels, and nothing changes beyond 2.5 of it."""
    size = 2 * int(2.5 * radius + 0.5) + 1
    return cv2.GaussianBlur(mask, (size, size), radius) if radius else mask


def opacity(mask: np.ndarray) -> np.ndarray:
    """How much of the new picture is seen where, (H, W) uint8: all of it where the blurred mask is more than half."""
    return np.clip(mask.astype(np.uint16) * 2, 0, 255).astype(np.uint8)


def box_around(mask: np.ndarray, padding: int, width: int, height: int) -> Box:
    """The part of the picture that is worked on: all of the mask, `padding` pixels around it, in the shape of `width` x `height`.

    It stays inside of the picture, so its shape is another where the picture is too narrow.
    """
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    down, across = mask.shape
    left, right = max(int(columns[0]) - padding, 0), min(int(columns[-1]) + 1 + padding, across)
    top, bottom = max(int(rows[0]) - padding, 0), min(int(rows[-1]) + 1 + padding, down)
    if (right - left) * height > (bottom - top) * width:
        top, bottom = _widened(top, bottom, int((right - left) * height / width), down)
    else:
        left, right = _widened(left, right, int((bottom - top) * width / height), across)
    return left, top, right, bottom


def _widened(start: int, end: int, length: int, limit: int) -> tuple[int, int]:
    """A span of at least `length` around [start, end), moved to lie between 0 and `limit`."""
    length = min(max(length, end - start), limit)
    start = min(max(start - (length - (end - start)) // 2, 0), limit - length)
    return start, start + length


def filled(rgb: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """The picture with the masked part painted over in the colours around it, from far to near; grey when all is masked."""
    kept = (255 - mask).astype(np.float32)[..., None] / 255
    known = float(kept.sum())
    result = np.broadcast_to((rgb * kept).sum(axis=(0, 1)) / known if known else np.float32(127), rgb.shape)
    for radius, repeats in ((256, 1), (64, 1), (16, 2), (4, 4), (2, 2)):
        cover = _spread(kept, radius)
        nearby = _spread(rgb * kept, radius) / np.maximum(cover, 1e-6)
        result = result + (1 - (1 - cover) ** repeats) * (nearby - result)  # the same translucent layer again and again
    return np.where(mask[..., None] > 0, result + kept * (rgb - result), rgb).round().astype(np.uint8)


def _spread(values: np.ndarray, radius: int) -> np.ndarray:
    """Nearly a Gaussian blur, (H, W, C), in the same time for any radius: three box filters (Wells 1986)."""
    size = 2 * radius + 1
    for _ in range(3):
        values = cv2.blur(values, (size, size), borderType=cv2.BORDER_REPLICATE)
    return values.reshape(*values.shape[:2], -1)


def for_latents(mask: np.ndarray, width: int, height: int) -> Tensor:
    """(1, 1, height, width) of 0 and 1: latents that lie in the mask by half or more; without any, all it touches."""
    part = torch.from_numpy(mask.astype(np.float32) / 255)[None, None]
    average = torch.nn.functional.adaptive_avg_pool2d(part, (height, width))
    inside = (average >= 0.5).float()
    return inside if inside.any() else (average > 0).float()


@dataclass(frozen=True)
class Canvas:
    """A picture, (H, W, 3) uint8 RGB, to be made anew in part. seen: `opacity` of its mask. box: what is worked on."""

    rgb: np.ndarray
    seen: np.ndarray
    box: Box

    def with_part(self, made: np.ndarray) -> np.ndarray:
        """The picture with what was made of the box, of any size. What the mask does not touch is as it was, bit for bit."""
        left, top, right, bottom = self.box
        part = resize(made, right - left, bottom - top).astype(np.float32)
        seen = self.seen[top:bottom, left:right, None].astype(np.float32) / 255
        old = self.rgb[top:bottom, left:right]
        result = self.rgb.copy()
        result[top:bottom, left:right] = np.where(seen > 0, (old + seen * (part - old)).round(), old)
        return result
