"""What latents look like, quickly, and the film strip of how a picture came out of noise.

Quick is a linear map to colours, or TAESD when its weights are in models/VAE-approx. The linear map is fitted to the model's
own VAE by least squares when it is first needed, so it needs no weights and suits any VAE; a model may bring its own
(preview.json), which spares the fit. Finished pictures: latents.decode.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
import torch
from torch import Tensor

from webui.errors import UnsupportedModel
from webui.imaging import latents as vae_latents
from webui.imaging.resize import resize
from webui.weights import files

Previewer = Callable[[Tensor], np.ndarray]
"""From latents, (n, 4, h, w), to one (H, W, 3) uint8 RGB picture with all of them side by side."""

LONGEST_SIDE = 512
"""Pixels up to which a latent is drawn larger than one pixel."""


@dataclass(frozen=True)
class Linear:
    """colours: (5, 3), what each latent channel and 1 add to red, green and blue, from 0 to 1. scale: pixels to a latent."""

    colours: Tensor
    scale: int

    def __call__(self, latents: Tensor) -> np.ndarray:
        channels = latents.float().cpu().permute(0, 2, 3, 1)
        rgb = (channels @ self.colours[:-1] + self.colours[-1]).clamp(0, 1)
        small = (rgb.numpy() * 255).round().astype(np.uint8)
        small = sheet(small)
        scale = max(1, min(self.scale, LONGEST_SIDE // max(small.shape[:2])))
        return small.repeat(scale, axis=0).repeat(scale, axis=1)


@dataclass(frozen=True)
class Tiny:
    """TAESD's decoder (github.com/madebyollin/taesd)."""

    network: Any

    @torch.no_grad()
    def __call__(self, latents: Tensor) -> np.ndarray:
        weight = next(self.network.parameters())
        rgb = self.network(latents.to(weight)).div(2).add(0.5).clamp(0, 1).permute(0, 2, 3, 1)
        return sheet((rgb.float().cpu().numpy() * 255).round().astype(np.uint8))


SHIPPED = "preview.json"
"""The file in a diffusers folder with the linear map of its own VAE, so that the first preview need not wait for the fit."""


def shipped(folder: Path) -> Linear | None:
    """The linear map that comes with a model, None when there is none. Raises UnsupportedModel for a broken file."""
    path = folder / SHIPPED
    if not path.is_file():
        return None
    try:
        said = json.loads(path.read_text(encoding="utf-8"))
        return Linear(torch.tensor(said["colours"], dtype=torch.float32).reshape(5, 3), int(said["scale"]))
    except (OSError, ValueError, KeyError, TypeError, RuntimeError) as error:
        raise UnsupportedModel(f"{SHIPPED} of {folder.name} cannot be read. Copy the model again.") from error


def ship(found: Linear, folder: Path) -> None:
    """Write it for `shipped`."""
    colours = [[round(number, 5) for number in row] for row in found.colours.tolist()]
    (folder / SHIPPED).write_text(json.dumps({"colours": colours, "scale": found.scale}), encoding="utf-8")


_FITTED: WeakKeyDictionary[Any, Linear] = WeakKeyDictionary()


def linear(vae: Any, device: Any = "cpu") -> Linear:
    """The linear map of a VAE, fitted once and kept as long as the VAE is."""
    if vae not in _FITTED:
        _FITTED[vae] = _fit(vae, device)
    return _FITTED[vae]


def _fit(vae: Any, device: Any, pictures: int = 8, side: int = 16) -> Linear:
    """Least squares over pictures of random soft colours, each latent against the mean colour of its pixels."""
    scale = vae_latents.pixels(vae)
    generator = torch.Generator("cpu").manual_seed(0)
    drawn = torch.cat([_soft_colours(side * scale, 2 + 2 * number, generator) for number in range(pictures)])
    found = vae_latents.encode(vae, 2 * drawn - 1, [generator] * pictures, device).cpu().double()  # Apple's GPUs have no doubles
    inputs = found.permute(0, 2, 3, 1).reshape(-1, found.shape[1])
    inputs = torch.cat([inputs, torch.ones(len(inputs), 1).double()], dim=1)
    means = torch.nn.functional.avg_pool2d(drawn.double(), scale).permute(0, 2, 3, 1).reshape(-1, 3)
    return Linear(torch.linalg.lstsq(inputs, means).solution.float(), scale)


def _soft_colours(side: int, patches: int, generator: torch.Generator) -> Tensor:
    """(1, 3, side, side) from 0 to 1."""
    rough = torch.rand((1, 3, patches, patches), generator=generator)
    return torch.nn.functional.interpolate(rough, size=(side, side), mode="bilinear", align_corners=True)


_TAESD = {"sd1": "taesd", "sd2": "taesd", "sdxl": "taesdxl"}


def tiny(architecture: str, folder: Path, device: Any = "cpu") -> Tiny | None:
    """TAESD from `folder` (models/VAE-approx), else None: taesd.safetensors, taesd_decoder.safetensors; taesdxl... for SDXL.

    Raises UnsupportedModel when the file is no TAESD.
    """
    stem = _TAESD.get(architecture)
    found = [folder / f"{stem}{ending}.safetensors" for ending in ("_decoder", "")]
    path = next((path for path in found if path.is_file()), None)
    return None if path is None else Tiny(_decoder(path).to(device).eval().requires_grad_(False))


def _decoder(path: Path) -> Any:
    from diffusers.models.autoencoders.autoencoder_tiny import AutoencoderTiny

    network = AutoencoderTiny().decoder
    read = files.reader(path)
    tensors = {_diffusers_name(name): read(name) for name in files.header(path) if not name.startswith("encoder.")}
    try:
        network.load_state_dict(tensors)
    except RuntimeError as error:
        raise UnsupportedModel(f"{path.name} is no TAESD decoder. Put the right one into {path.parent.name}, or none.") from error
    return network


def _diffusers_name(name: str) -> str:
    """The decoder's own names, from TAESD's ("1.weight"; number 0 is its clamp) or diffusers' ("decoder.layers.0.weight")."""
    number, _, rest = name.removeprefix("decoder.").partition(".")
    return f"layers.{int(number) - 1}.{rest}" if number.isdecimal() else name.removeprefix("decoder.")


def sheet(pictures: np.ndarray) -> np.ndarray:
    """(n, H, W, 3) side by side in rows as long as columns, black where there is none left."""
    count, height, width = pictures.shape[:3]
    across = math.ceil(math.sqrt(count))
    down = math.ceil(count / across)
    padded = np.zeros((across * down, height, width, 3), np.uint8)
    padded[:count] = pictures
    rows = padded.reshape(down, across, height, width, 3).swapaxes(1, 2)
    return rows.reshape(down * height, across * width, 3)


@dataclass(frozen=True)
class Frame:
    """A step of the denoising. noisy: what the UNet saw; clean: the picture that it saw in there. Both (H, W, 3) uint8 RGB."""

    label: str
    noisy: np.ndarray
    clean: np.ndarray


def filmstrip(frames: Sequence[Frame], side: int = 256) -> np.ndarray:
    """One picture of all frames, left to right, under their labels: above what is noisy, below what is clean.

    side: pixels of a frame's longer side, at most.
    """
    from PIL import Image, ImageDraw, ImageFont

    small = [[_at_most(rgb, side) for rgb in (frame.noisy, frame.clean)] for frame in frames]
    height, width = small[0][0].shape[:2]
    head, gap = max(14, height // 12), 4
    drawn = Image.new("RGB", (len(frames) * (width + gap) - gap, head + 2 * (height + gap) - gap), "white")
    pen, font = ImageDraw.Draw(drawn), ImageFont.load_default(head * 0.75)
    for number, (frame, pictures) in enumerate(zip(frames, small, strict=True)):
        left = number * (width + gap)
        pen.text((left + width // 2, head // 2), frame.label, "black", font, anchor="mm")
        for row, picture in enumerate(pictures):
            drawn.paste(Image.fromarray(picture), (left, head + row * (height + gap)))
    return np.asarray(drawn)


def _at_most(rgb: np.ndarray, side: int) -> np.ndarray:
    scale = min(1.0, side / max(rgb.shape[:2]))
    return resize(rgb, max(1, round(rgb.shape[1] * scale)), max(1, round(rgb.shape[0] * scale)))
