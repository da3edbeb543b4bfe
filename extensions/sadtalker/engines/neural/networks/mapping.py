"""SadTalker's MappingNet: a stretch of 3DMM coefficients to the head pose and the expression that the renderer knows."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F

from extensions.sadtalker.engines.neural.networks import blocks

HEADS = ("yaw", "pitch", "roll", "t", "exp")

_DILATION = 3


class MappingNet(nn.Module):
    """One network for 70 channels and one for 73; see layout.SEMANTICS."""

    def __init__(self, first: nn.Module, encoders: list[nn.Module], heads: dict[str, nn.Module]) -> None:
        super().__init__()
        self.first = first
        self.encoders = nn.ModuleList(encoders)
        self.heads = nn.ModuleDict(heads)

    @classmethod
    def of(cls, tensors: blocks.Tensors) -> MappingNet:
        encoders = [blocks.conv(tensors, f"encoder{i}.1", dilation=_DILATION) for i in range(3)]
        heads = {name: blocks.linear(tensors, f"fc_{name}") for name in HEADS}
        return cls(blocks.conv(tensors, "first.0"), encoders, heads).eval()

    @blocks.exactly()
    def forward(self, windows: torch.Tensor) -> dict[str, torch.Tensor]:
        """(N, channels, 27) -> yaw, pitch, roll (N, 66) before their softmax, t (N, 3), exp (N, 45)."""
        x = self.first(windows)
        for encoder in self.encoders:
            x = encoder(F.leaky_relu(x, 0.1)) + x[:, :, _DILATION:-_DILATION]
        features = x.mean(2)
        return {name: head(features) for name, head in self.heads.items()}
