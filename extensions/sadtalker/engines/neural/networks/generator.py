"""SadTalker's face renderer: a photo, and where 15 keypoints of a frame are, to the frame (Wang et al. 2021; Park et al. 2019).

What depends on the photo alone is computed once for each portrait (`source`), and the rest for every frame (`frame`).
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from extensions.sadtalker.engines.neural.networks import blocks
from extensions.sadtalker.engines.neural.networks.convolution import Builder, framed, inside
from extensions.sadtalker.engines.neural.networks.decoder import Decoder
from extensions.sadtalker.engines.neural.networks.dense_motion import DenseMotion
from extensions.sadtalker.engines.neural.networks.exact_motion import ExactMotion
from webui.plugin_api import devices

LEAK = 0.01


@dataclass(frozen=True)
class Source:
    """All that frames need of a photo. voxels: its features, (depth, H, W, C); still: what the motion needs."""

    voxels: torch.Tensor
    still: Any


class Generator(nn.Module):
    fourth: torch.Tensor
    fourth_bias: torch.Tensor

    def __init__(self, tensors: blocks.Tensors, build: Builder, decoder: Builder, *, exact: bool = True) -> None:
        """decoder: how its convolutions are made, which are most of the work, and without `exact` those of the motions' shares.
        exact: whether the motion is upstream's to the bit, and nothing is computed with less than it has.
        """
        super().__init__()
        self.exact = exact
        channels = tensors["dense_motion_network.compress.weight"].shape[1]
        depth = tensors["second.weight"].shape[0] // channels
        self.encoder = SourceEncoder(tensors, depth)
        motion = blocks.below(tensors, "dense_motion_network")
        self.dense_motion = ExactMotion(motion) if exact else DenseMotion(motion, build, depth, decoder.dtype)
        weight, bias = blocks.folded(tensors, "third.conv", "third.norm")
        # Warped features come with all channels of one depth before those of the next.
        self.third = build.same(weight.unflatten(1, (channels, depth)).transpose(1, 2).flatten(1, 2), bias)
        self.register_buffer("fourth", tensors["fourth.weight"].flatten(1).T.contiguous())
        self.register_buffer("fourth_bias", tensors["fourth.bias"])
        self.decoder = Decoder(blocks.below(tensors, "decoder"), decoder)

    @classmethod
    def of(cls, tensors: blocks.Tensors, precision: str = "exact", compiled: bool = False) -> Generator:
        """precision: "exact", as upstream but for rounding; "fast": the decoder and the shares of motions in half precision
        where the device is quicker with it (see `half`), else as exact. compiled: see `compile_blocks`.
        """
        device = tensors["fourth.bias"].device
        build = Builder(products=device.type == "cpu")
        if precision == "exact":
            return cls(tensors, build, build).eval()
        made = cls(tensors, build, replace(build, dtype=half(device)), exact=False).eval()
        if compiled:
            made.compile_blocks()
        return made

    def compile_blocks(self, backend: str = "inductor") -> None:
        """Has PyTorch compile the decoder's blocks, most of which are alike, before the first frame that is drawn: that takes
        minutes. Not for exact frames, whose last digits it changes, nor for `products`, which are as quick as they are.
        """
        for block in (*self.decoder.middle, *self.decoder.grow):
            block.compile(backend=backend)

    @property
    def numbers(self) -> str:
        """What it computes with, for people: "float32", or with half precision in most of it."""
        dtype = str(self.decoder.dtype).removeprefix("torch.")
        return dtype if self.decoder.dtype == torch.float32 else f"float32, most of it {dtype}"

    @property
    def device(self) -> torch.device:
        return self.fourth.device

    def source(self, image: torch.Tensor, keypoints: torch.Tensor) -> Source:
        """image: (1, 3, S, S), 0..1; keypoints: (1, 15, 3), of the photo."""
        with self._computing():
            volume = self.encoder(image)
            return Source(volume[0].permute(1, 2, 3, 0).contiguous(), self.dense_motion.still(volume, keypoints))

    def frame(self, source: Source, keypoints: torch.Tensor) -> torch.Tensor:
        """keypoints: (N, 15, 3), of the frames -> (N, 3, S, S), 0..1"""
        with self._computing():
            deformation, occlusion = self.dense_motion(source.still, keypoints)
            warped = self.warped(source, deformation)
            features = framed(*warped.shape, warped)
            torch.mul(warped, occlusion, out=inside(features))
            return self.decoder(features)

    def warped(self, source: Source, deformation: torch.Tensor) -> torch.Tensor:
        """The photo's features where the frame has them, (N, H, W, 256)."""
        with self._computing():
            found = sampled(source.voxels, deformation)
            room = framed(*found.shape, found)
            inside(room)[:] = found
            third = F.leaky_relu_(self.third.whole(room), LEAK)
            return third @ self.fourth + self.fourth_bias

    def _computing(self) -> AbstractContextManager[Any]:
        return blocks.exactly() if self.exact else torch.inference_mode()


class SourceEncoder(nn.Module):
    """A photo to a volume of features, which upstream's motion needs to the bit (see exact_motion): norms are by themselves."""

    def __init__(self, tensors: blocks.Tensors, depth: int) -> None:
        super().__init__()
        self.depth = depth
        self.first = blocks.normed(blocks.below(tensors, "first"), 2)
        down = sum(name.startswith("down_blocks") and name.endswith("conv.bias") for name in tensors)
        self.down = nn.ModuleList(blocks.normed(blocks.below(tensors, f"down_blocks.{i}"), 2) for i in range(down))
        self.second = blocks.conv(tensors, "second")
        deep = sum(name.startswith("resblocks_3d") and name.endswith("conv1.bias") for name in tensors)
        self.deep = nn.ModuleList(Residual(blocks.below(tensors, f"resblocks_3d.3dr{i}")) for i in range(deep))

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """(1, 3, S, S) -> (1, C, depth, S / 4, S / 4)"""
        x = F.relu_(self.first(image))
        for layer in self.down:
            x = F.avg_pool2d(F.relu_(layer(x)), 2)
        x = self.second(x).unflatten(1, (-1, self.depth))
        for block in self.deep:
            x = block(x)
        return x


class Residual(nn.Module):
    """A pre-activation block of volumes."""

    def __init__(self, tensors: blocks.Tensors) -> None:
        super().__init__()
        self.enter = blocks.batch_norm(tensors, "norm1", 3)
        self.conv1 = blocks.normed(tensors, 3, "conv1", "norm2")
        self.conv2 = blocks.conv(tensors, "conv2", padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.conv2(F.relu_(self.conv1(F.relu_(self.enter(x)))))


def half(device: torch.device) -> torch.dtype | None:
    """The half precision that a device computes in quicker than in full, if any."""
    if device.type == "cpu":
        has = torch.cpu.get_capabilities()
        return torch.bfloat16 if has.get("avx512_bf16") or has.get("amx_bf16") else None
    found, _ = devices.find(str(device))
    return torch.float16 if found.fp16 else torch.bfloat16 if found.bf16 else None


def sampled(voxels: torch.Tensor, places: torch.Tensor) -> torch.Tensor:
    """What lies at these places of a volume, between voxels, and nothing outside: (N, H, W, depth * C).

    voxels: (depth, H, W, C); places: (N, depth, H, W, 3) of x, y, z -1..1, which are the outer edges of the outermost voxels (as
    in F.grid_sample without align_corners, which is many times slower for volumes on processors).
    """
    sides = torch.tensor(voxels.shape[:3], device=places.device)
    at = ((places.permute(0, 2, 3, 1, 4).flip(-1).flatten(0, 3) + 1) * sides - 1) / 2
    low = at.floor()
    shares = torch.stack([1 - (at - low), at - low], dim=-1)
    index = torch.stack([low, low + 1], dim=-1).long()
    shares = shares * ((index >= 0) & (index < sides[:, None]))
    index = index.clamp(min=0).minimum(sides[:, None] - 1)
    (z, y, x), (in_z, in_y, in_x) = shares.unbind(1), index.unbind(1)
    weights = z[:, :, None, None] * y[:, None, :, None] * x[:, None, None]
    corners = (in_z[:, :, None, None] * sides[1] + in_y[:, None, :, None]) * sides[2] + in_x[:, None, None]
    found = F.embedding_bag(
        corners.flatten(1), voxels.flatten(0, 2), mode="sum", per_sample_weights=weights.flatten(1).to(voxels)
    )
    return found.view(len(places), *voxels.shape[1:3], -1)
