"""Between pictures and latents: what a VAE does, in pieces that fit, and in single precision where half of it is too little.

Pictures are (H, W, 3) uint8 RGB arrays here, or (n, 3, H, W) tensors from -1 to 1; latents are (n, 4, h, w), scaled for the UNet.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from webui.errors import UnsupportedModel


def pixels(vae: Any) -> int:
    """How many pixels wide and high a latent is: 8 for Stable Diffusion."""
    return 2 ** (len(vae.config.block_out_channels) - 1)


def tensor(rgb: np.ndarray) -> Tensor:
    """A picture as the VAE wants it, (1, 3, H, W) from -1 to 1."""
    # The order in memory is diffusers', on which the last bits of a convolution depend.
    scaled = torch.from_numpy(rgb[None].astype(np.float32) / 255.0)
    return 2.0 * scaled.permute(0, 3, 1, 2) - 1.0


@torch.no_grad()
def encode(vae: Any, pictures: Tensor, generators: Sequence[torch.Generator], device: Any = "cpu") -> Tensor:
    """Latents of pictures, (n, 3, H, W) from -1 to 1, with sides that are multiples of `pixels`; each from its own generator.

    One picture with more generators gives as many latents of it.
    """
    found = []
    for number, generator in enumerate(generators):
        first = number % len(pictures)
        picture = pictures[first : first + 1]
        with _single_precision(vae, _overflows(vae)):
            drawn = vae.encode(picture.to(device, vae.dtype)).latent_dist.sample(generator)
        found.append(drawn * vae.config.scaling_factor)
    return torch.cat(found)


@torch.no_grad()
def decode(vae: Any, latents: Tensor, *, together: bool = False) -> np.ndarray:
    """Pictures, (n, H, W, 3) uint8 RGB. `together`: all at once, which is faster on large devices and takes n times the memory.

    Raises UnsupportedModel when the VAE gives no numbers.
    """
    parts = [latents] if together else latents.split(1)
    return np.concatenate([_decoded(vae, part) for part in parts])


def _decoded(vae: Any, latents: Tensor) -> np.ndarray:
    picture = _values(vae, latents, single=_overflows(vae))
    if not picture.isfinite().all() and vae.dtype != torch.float32:
        picture = _values(vae, latents, single=True)
    if not picture.isfinite().all():
        raise UnsupportedModel("The model gave values that are no numbers. Choose another VAE, or the precision fp32.")
    scaled = (picture.float() / 2 + 0.5).clamp(0, 1).permute(0, 2, 3, 1)
    return (scaled.cpu().numpy() * 255).round().astype(np.uint8)


def _values(vae: Any, latents: Tensor, *, single: bool) -> Tensor:
    with _single_precision(vae, single):
        return vae.decode((latents / vae.config.scaling_factor).to(vae.dtype), return_dict=False)[0]


def _overflows(vae: Any) -> bool:
    """Whether this VAE is known to, as SDXL's in half precision."""
    return vae.dtype == torch.float16 and bool(vae.config.force_upcast)


@contextmanager
def _single_precision(vae: Any, wanted: bool) -> Iterator[None]:
    before = vae.dtype
    if not wanted:
        yield
        return
    vae.to(torch.float32)
    try:
        yield
    finally:
        vae.to(before)


@contextmanager
def seamless(wanted: bool, *networks: nn.Module) -> Iterator[None]:
    """Inside, the convolutions of the networks go on at the opposite edge, so that a picture's edges fit together."""
    convolutions = [one for network in networks for one in network.modules() if isinstance(one, nn.Conv2d)] if wanted else []
    try:
        _pad(convolutions, "circular")
        yield
    finally:
        _pad(convolutions, "zeros")


def _pad(convolutions: Sequence[nn.Conv2d], mode: Literal["zeros", "circular"]) -> None:
    for one in convolutions:
        one.padding_mode = mode
