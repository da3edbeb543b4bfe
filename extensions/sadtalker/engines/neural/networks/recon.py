"""The 3DMM fit (Deng et al. 2019): a ResNet-50 (He et al. 2015) whose features seven heads turn into coefficients."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F

from extensions.sadtalker.engines.neural.networks import blocks

PARTS = {"id": 80, "exp": 64, "tex": 80, "angle": 3, "gamma": 27, "trans": 3}
"""What the 257 coefficients are, in order: shape, expression, colour, rotation (radians), lighting, translation."""

SIDE = 224

_HEADS = 7  # translation has two: across, and in depth
_DEPTHS = (3, 4, 6, 3)


class FaceFit(nn.Module):
    """An aligned face to the coefficients of the Basel Face Model."""

    def __init__(self, stem: nn.Module, stages: nn.Module, head: nn.Module) -> None:
        super().__init__()
        self.stem, self.stages, self.head = stem, stages, head

    @classmethod
    def of(cls, tensors: blocks.Tensors) -> FaceFit:
        backbone = blocks.below(tensors, "backbone")
        bottlenecks = [
            _Bottleneck.of(backbone, f"layer{stage}.{i}", stride=2 if stage > 1 and i == 0 else 1)
            for stage, depth in enumerate(_DEPTHS, 1)
            for i in range(depth)
        ]
        heads = [blocks.folded(tensors, f"final_layers.{i}") for i in range(_HEADS)]
        weight = torch.cat([weight for weight, _ in heads])
        bias = torch.cat([bias for _, bias in heads if bias is not None])
        stem = blocks.conv(backbone, "conv1", "bn1", stride=2, padding=3)
        return cls(stem, nn.Sequential(*bottlenecks), blocks.conv_of(weight, bias)).eval()

    @blocks.exactly()
    def forward(self, faces: torch.Tensor) -> torch.Tensor:
        """(N, 3, 224, 224) RGB 0..1 -> (N, 257), see PARTS."""
        x = F.max_pool2d(F.relu_(self.stem(faces)), 3, stride=2, padding=1)
        return self.head(self.stages(x).mean((2, 3), keepdim=True)).flatten(1)


class _Bottleneck(nn.Module):
    def __init__(self, convs: list[nn.Module], skip: nn.Module) -> None:
        """convs: to fewer channels, across, and to more than before."""
        super().__init__()
        (self.narrow, self.middle, self.wide), self.skip = convs, skip

    @classmethod
    def of(cls, tensors: blocks.Tensors, name: str, stride: int) -> _Bottleneck:
        convs = [
            blocks.conv(tensors, f"{name}.conv{n}", f"{name}.bn{n}", stride=stride if n == 2 else 1, padding=int(n == 2))
            for n in (1, 2, 3)
        ]
        skip: nn.Module = nn.Identity()
        if f"{name}.downsample.0.weight" in tensors:
            skip = blocks.conv(tensors, f"{name}.downsample.0", f"{name}.downsample.1", stride=stride)
        return cls(convs, skip)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.relu_(self.wide(F.relu_(self.middle(F.relu_(self.narrow(x))))) + self.skip(x))
