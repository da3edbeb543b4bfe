"""Layers built from the tensors of a file, with all that is constant at inference worked into their weights beforehand.

Batch norms vanish in the convolution before them, spectral norms in the weight; nothing here is ever trained.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

Tensors = Mapping[str, torch.Tensor]
"""By upstream's names, below the prefix of the network or of the part."""

BATCH_NORM_EPS = 1e-5

_CONVOLUTIONS = {3: nn.Conv1d, 4: nn.Conv2d, 5: nn.Conv3d}
"""By the sides of their weight."""


@contextmanager
def exactly() -> Iterator[None]:
    """No gradients, and float32 as it is."""
    with torch.inference_mode(), whole_float32():
        yield


@contextmanager
def whole_float32() -> Iterator[None]:
    """NVIDIA's cards compute with all bits of float32, of which they leave 13 away unless forbidden (TF32), by default in
    convolutions. Afterwards what is allowed is what was before, for the other models of the process.
    """
    products, convolutions = torch.backends.cuda.matmul, torch.backends.cudnn
    before = products.allow_tf32, convolutions.allow_tf32
    products.allow_tf32 = convolutions.allow_tf32 = False
    try:
        yield
    finally:
        products.allow_tf32, convolutions.allow_tf32 = before


def below(tensors: Tensors, name: str) -> Tensors:
    """The tensors of the part `name`, named as inside it."""
    return {full[len(name) + 1 :]: tensor for full, tensor in tensors.items() if full.startswith(f"{name}.")}


def conv(tensors: Tensors, name: str, norm: str = "", **options: Any) -> nn.Module:
    """The convolution `name`, with the batch norm `norm` that follows it worked in. options: stride, padding, dilation."""
    return conv_of(*folded(tensors, name, norm), **options)


def conv_of(weight: torch.Tensor, bias: torch.Tensor | None, **options: Any) -> nn.Module:
    """A convolution with this weight, in as many dimensions as it has beside outputs and inputs."""
    outputs, inputs, *kernel = weight.shape
    kind = _CONVOLUTIONS[weight.ndim]
    return _filled(kind(inputs, outputs, tuple(kernel), bias=bias is not None, device="meta", **options), weight, bias)


def upsampling(tensors: Tensors, name: str) -> nn.Module:
    """The transposed convolution `name`, whose steps are as long as its kernel."""
    weight = tensors[f"{name}.weight"]
    inputs, outputs, *kernel = weight.shape
    side = (kernel[0], kernel[1])
    return _filled(nn.ConvTranspose2d(inputs, outputs, side, stride=side, device="meta"), weight, tensors[f"{name}.bias"])


def linear(tensors: Tensors, name: str) -> nn.Module:
    weight = tensors[f"{name}.weight"]
    return _filled(nn.Linear(weight.shape[1], weight.shape[0], device="meta"), weight, tensors[f"{name}.bias"])


def folded(tensors: Tensors, name: str, norm: str = "") -> tuple[torch.Tensor, torch.Tensor | None]:
    """Weight and bias of the convolution `name`, and of the batch norm after it as one."""
    weight, bias = tensors[f"{name}.weight"], tensors.get(f"{name}.bias")
    if not norm:
        return weight, bias
    scale, shift = scale_and_shift(tensors, norm)
    return weight * scale.reshape(-1, *[1] * (weight.ndim - 1)), shift if bias is None else bias * scale + shift


def scale_and_shift(tensors: Tensors, norm: str) -> tuple[torch.Tensor, torch.Tensor]:
    """What the batch norm `norm` multiplies each channel by, and then adds."""
    names = ("weight", "bias", "running_mean", "running_var")
    weight, bias, mean, variance = (tensors[f"{norm}.{name}"].cpu().double() for name in names)  # MPS has no float64
    scale = weight / (variance + BATCH_NORM_EPS).sqrt()
    where = tensors[f"{norm}.weight"].device
    return scale.float().to(where), (bias - mean * scale).float().to(where)


def spectral(tensors: Tensors, name: str) -> torch.Tensor:
    """The weight of `name` over its largest singular value, as the stored vectors give it (Miyato et al. 2018)."""
    weight, left, right = (tensors[f"{name}.weight_{part}"] for part in ("orig", "u", "v"))
    return weight / (left @ (weight.flatten(1) @ right))


def batch_norm(tensors: Tensors, norm: str, sides: int) -> nn.Module:
    """The batch norm `norm` by itself: for where the last digits are to be upstream's. sides: as of Affine."""
    part = below(tensors, norm)
    kind = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)[sides - 1]
    layer = kind(len(part["weight"]), eps=BATCH_NORM_EPS, device="meta")
    layer.running_mean, layer.running_var = part["running_mean"], part["running_var"]
    return _filled(layer, part["weight"], part["bias"])


class Affine(nn.Module):
    """A batch norm that comes before what it could be worked into: each channel times a number, plus another."""

    scale: torch.Tensor
    shift: torch.Tensor

    def __init__(self, scale: torch.Tensor, shift: torch.Tensor, sides: int) -> None:
        """sides: dimensions of what comes in, beside batch and channels."""
        super().__init__()
        self.register_buffer("scale", scale.reshape(-1, *[1] * sides))
        self.register_buffer("shift", shift.reshape(-1, *[1] * sides))

    @classmethod
    def of(cls, tensors: Tensors, norm: str, sides: int) -> Affine:
        return cls(*scale_and_shift(tensors, norm), sides)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.addcmul(self.shift, x, self.scale)


def normed(tensors: Tensors, sides: int, name: str = "conv", norm: str = "norm") -> nn.Module:
    """The convolution `name`, as large as what comes in, and the batch norm behind it, by itself as in batch_norm."""
    return nn.Sequential(conv(tensors, name, padding=1), batch_norm(tensors, norm, sides))


def _filled(layer: nn.Module, weight: torch.Tensor, bias: torch.Tensor | None) -> nn.Module:
    """The layer, made without numbers (device "meta"), with these."""
    layer.weight = nn.Parameter(weight, requires_grad=False)
    if bias is not None:
        layer.bias = nn.Parameter(bias, requires_grad=False)
    return layer.eval()
