"""SadTalker's SPADE decoder (Park et al. 2019): a warped feature map to the picture of a face.

What upstream computes, in fewer steps. The convolutions of the feature map that norms begin with are one for each size, and
those of the enlarged map read it as it was before; gamma and beta are one convolution, and so are the shortcut's beta and the
convolution behind it; norm_0 and norm_s share one instance norm, and a map is enlarged after it; biases that an instance norm
takes away again are left out. Maps are (N, H, W, C); gamma and beta exist for a strip at a time.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F

from extensions.sadtalker.engines.neural.networks import blocks
from extensions.sadtalker.engines.neural.networks.convolution import Builder, Strips, framed, inside, tiled

LEAK = 0.2
EPS = 1e-5


class Decoder(nn.Module):
    def __init__(self, tensors: blocks.Tensors, build: Builder) -> None:
        """tensors: named as inside "decoder"."""
        super().__init__()
        self.dtype = build.dtype or tensors["fc.weight"].dtype
        names = [f"G_middle_{i}" for i in range(sum(name.endswith("conv_1.bias") for name in tensors) - 2)]
        middle = [blocks.below(tensors, name) for name in names]
        grow = [blocks.below(tensors, f"up_{i}") for i in range(2)]
        self.enter = build.same(tensors["fc.weight"], tensors["fc.bias"])
        self.hidden = build.same(*_hidden(*middle))
        self.middle = nn.ModuleList(Block(part, build) for part in middle)
        self.hidden_grown = nn.ModuleList(build.enlarged(2**i, *_hidden(part)) for i, part in enumerate(grow, 1))
        self.grow = nn.ModuleList(Block(part, build, 2**i) for i, part in enumerate(grow, 1))
        self.leave = blocks.conv(tensors, "conv_img", padding=1)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """(N, h + 2, w + 2, 256), with a margin of zeros -> (N, 3, 4 h, 4 w), 0..1"""
        dtype, features = features.dtype, features.to(self.dtype)
        # What the blocks add up stays as fine as it came.
        x = self.enter.whole(features).to(dtype)
        hidden = self.hidden.relu_framed(features)
        for block, its in zip(self.middle, hidden.split([sum(block.hidden) for block in self.middle], dim=3), strict=True):
            x = block(x, its)
        for block, enlarged in zip(self.grow, self.hidden_grown, strict=True):
            x = block(x, enlarged.relu_framed(features))
        return self.leave(F.leaky_relu_(x, LEAK).permute(0, 3, 1, 2)).sigmoid_()


class Block(nn.Module):
    """A residual block: two convolutions, each of a norm's result. scale: how much larger its map is than the feature map. One
    that is larger first enlarges what comes in to twice its size.

    hidden: channels that norm_0, norm_1, and the shortcut's norm where there is one, want of the feature map's convolution.
    """

    def __init__(self, tensors: blocks.Tensors, build: Builder, scale: int = 1) -> None:
        super().__init__()
        self.times = 2 if scale > 1 else 1
        self.hidden = [tensors[f"{name}.mlp_shared.0.bias"].shape[0] for name in _norms(tensors)]
        self.norm_0 = build.after(scale, *_gamma_beta(tensors, "norm_0"))
        # An instance norm follows: no bias.
        self.conv_0 = build.same(blocks.spectral(tensors, "conv_0"), None)
        self.norm_1 = build.after(scale, *_gamma_beta(tensors, "norm_1"))
        self.conv_1 = build.same(blocks.spectral(tensors, "conv_1"), tensors["conv_1.bias"])
        self.norm_s = None
        if "norm_s" in _norms(tensors):
            kernel = blocks.spectral(tensors, "conv_s").flatten(1)
            self.norm_s = build.after(scale, *_gamma_beta(tensors, "norm_s", kernel))
            self.register_buffer("conv_s", kernel.T.contiguous().to(build.dtype or kernel.dtype))

    def forward(self, x: torch.Tensor, hidden: torch.Tensor) -> torch.Tensor:
        """x: (N, H, W, C), changed in place when there is no shortcut; hidden: with a margin."""
        parts = hidden.split(self.hidden, dim=3)
        norm = InstanceNorm(x, self.times)
        change = self.conv_0.whole(_modulated(norm, self.norm_0, parts[0]))
        change = _modulated(InstanceNorm(change), self.norm_1, parts[1])
        if self.norm_s is not None:
            x = self._shortcut(norm, self.norm_s, parts[2])
        for rows, strip in self.conv_1.strips(change):
            tiled(x, self.conv_1.writes)[:, rows] += strip
        return x

    def _shortcut(self, norm: InstanceNorm, gate: Strips, hidden: torch.Tensor) -> torch.Tensor:
        """conv_s(normal * gamma + beta), of which the gate gives gamma and conv_s(beta)."""
        result = norm.x.new_empty(*norm.shape[:3], self.conv_s.shape[1])
        for rows, strip in gate.strips(hidden):
            gamma, beta = strip.split([norm.shape[3], result.shape[3]], dim=-1)
            scaled = norm.tiles(gate.writes, rows).to(gamma.dtype) * gamma
            tiled(result, gate.writes)[:, rows] = scaled @ self.conv_s + beta
        return result


class InstanceNorm:
    """(N, H, W, C), each channel less its mean and over its deviation, enlarged `times` to the nearest; given out in tiles."""

    def __init__(self, x: torch.Tensor, times: int = 1) -> None:
        # In two passes of their own, which take a tenth of what torch.var_mean takes along these dimensions.
        mean = x.mean((1, 2), keepdim=True, dtype=torch.promote_types(x.dtype, torch.float32))
        variance = (x - mean).square_().mean((1, 2), keepdim=True)
        self.x, self.times = x, times
        self.scale = (variance + EPS).rsqrt()[:, None, None]
        self.shift = -mean[:, None, None] * self.scale
        n, high, wide, channels = x.shape
        self.shape = (n, times * high, times * wide, channels)

    def tiles(self, side: int, rows: slice) -> torch.Tensor:
        """(N, rows, side, columns, side, C)"""
        small = tiled(self.x, side // self.times)[:, rows]
        normal = torch.addcmul(self.shift, small.to(self.scale.dtype), self.scale)
        if self.times > 1:
            normal = normal[:, :, :, None, :, :, None].expand(-1, -1, -1, self.times, -1, -1, self.times, -1)
            normal = normal.flatten(5, 6).flatten(2, 3)
        return normal


def _modulated(norm: InstanceNorm, gate: Strips, hidden: torch.Tensor) -> torch.Tensor:
    """leaky(normal * gamma + beta), with a margin. gate: gives gamma and beta."""
    result = framed(*norm.shape, hidden)
    out = tiled(inside(result), gate.writes)
    for rows, strip in gate.strips(hidden):
        gamma, beta = strip.chunk(2, dim=-1)
        normal = norm.tiles(gate.writes, rows).to(gamma.dtype)
        out[:, rows] = F.leaky_relu_(beta.addcmul_(normal, gamma), LEAK)
    return result


def _norms(tensors: blocks.Tensors) -> list[str]:
    return [name for name in ("norm_0", "norm_1", "norm_s") if f"{name}.mlp_gamma.bias" in tensors]


def _hidden(*parts: blocks.Tensors) -> tuple[torch.Tensor, torch.Tensor]:
    """The first convolutions of all norms of these blocks, as one."""
    norms = [blocks.below(part, f"{name}.mlp_shared.0") for part in parts for name in _norms(part)]
    return torch.cat([norm["weight"] for norm in norms]), torch.cat([norm["bias"] for norm in norms])


def _gamma_beta(tensors: blocks.Tensors, name: str, kernel: torch.Tensor | None = None) -> tuple[torch.Tensor, torch.Tensor]:
    """The norm's convolutions for what it multiplies by, 1 + gamma, and what it adds, as one. kernel: what the result of the
    second then goes through, (outputs, inputs).
    """
    gamma, beta = (blocks.below(tensors, f"{name}.mlp_{part}") for part in ("gamma", "beta"))
    weight, bias = beta["weight"], beta["bias"]
    if kernel is not None:
        weight, bias = (kernel @ weight.flatten(1)).view(-1, *weight.shape[1:]), kernel @ bias
    return torch.cat([gamma["weight"], weight]), torch.cat([1 + gamma["bias"], bias])
