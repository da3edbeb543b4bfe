"""Pictures and latents in other sizes: A1111's resize modes, and the upscalers of its hires fix that need no weights.

Arrays are (H, W, 3) uint8 RGB pictures, or (H, W) masks. Nothing is cut to multiples of 8 here.
"""

from __future__ import annotations

from difflib import get_close_matches
from typing import TYPE_CHECKING, Literal

import numpy as np

from webui.errors import InvalidRequest

if TYPE_CHECKING:
    from torch import Tensor

Mode = Literal["stretch", "crop", "fill"]

LATENT_UPSCALERS = {
    "Latent": ("bilinear", False),
    "Latent (antialiased)": ("bilinear", True),
    "Latent (bicubic)": ("bicubic", False),
    "Latent (bicubic antialiased)": ("bicubic", True),
    "Latent (nearest)": ("nearest", False),
    "Latent (nearest-exact)": ("nearest-exact", False),
}
"""A1111's names, and what torch calls it: interpolation, antialias."""

PIXEL_UPSCALERS = {"None": "LANCZOS", "Lanczos": "LANCZOS", "Nearest": "NEAREST"}
"""A1111's names, and Pillow's."""

UPSCALERS = (*LATENT_UPSCALERS, *PIXEL_UPSCALERS)


def upscaler(name: str) -> str:
    """One of UPSCALERS, in any case of letters. Raises InvalidRequest with near names for one that is unknown."""
    known = {one.lower(): one for one in UPSCALERS}
    wanted = name.strip().lower()
    if wanted not in known:
        near = [known[one] for one in get_close_matches(wanted, known, 3, 0.3)] or list(UPSCALERS[:3])
        raise InvalidRequest(f"There is no upscaler “{name[:60]}”. Choose one such as {', '.join(near)}.")
    return known[wanted]


def resize(picture: np.ndarray, width: int, height: int, mode: Mode = "stretch", filter: str = "LANCZOS") -> np.ndarray:
    """The picture or mask in another size; itself when it has it already.

    stretch: both sides by themselves. crop: large enough, then cut to the middle. fill: small enough, then its outermost rows or
    columns go on to the edges (A1111's modules/images.py, resize_image). filter: of Pillow's names.
    """
    if picture.shape[:2] == (height, width):
        return picture
    if mode == "stretch":
        return _scaled(picture, width, height, filter)
    ratios = (width / picture.shape[1], height / picture.shape[0])
    scale = max(ratios) if mode == "crop" else min(ratios)
    inner = [max(1, round(side * scale)) for side in (picture.shape[1], picture.shape[0])]
    scaled = _scaled(picture, inner[0], inner[1], filter)
    return _middle(scaled, width, height) if mode == "crop" else _filled(scaled, width, height)


def _scaled(picture: np.ndarray, width: int, height: int, filter: str) -> np.ndarray:
    from PIL import Image

    return np.asarray(Image.fromarray(picture).resize((width, height), Image.Resampling[filter]))


def _middle(picture: np.ndarray, width: int, height: int) -> np.ndarray:
    top, left = (picture.shape[0] - height) // 2, (picture.shape[1] - width) // 2
    return picture[top : top + height, left : left + width]


def _filled(picture: np.ndarray, width: int, height: int) -> np.ndarray:
    across, down = width - picture.shape[1], height - picture.shape[0]
    edges = ((down // 2, down - down // 2), (across // 2, across - across // 2), (0, 0))
    return np.pad(picture, edges[: picture.ndim], mode="edge")


def resize_latents(latents: Tensor, width: int, height: int, upscaler: str = "Latent") -> Tensor:
    """(n, 4, height, width) by one of LATENT_UPSCALERS. Of another shape they are made large enough, and cut to the middle."""
    from torch.nn.functional import interpolate

    mode, antialias = LATENT_UPSCALERS[upscaler]
    scale = max(width / latents.shape[3], height / latents.shape[2])
    size = [max(side, round(own * scale)) for side, own in ((height, latents.shape[2]), (width, latents.shape[3]))]
    scaled = interpolate(latents.float(), size=size, mode=mode, antialias=antialias).to(latents.dtype)
    top, left = (size[0] - height) // 2, (size[1] - width) // 2
    return scaled[:, :, top : top + height, left : left + width]
