"""The keypoint detector of one-shot free-view synthesis (Wang et al. 2021): a face to 15 canonical points in 3-D.

It sees one picture per clip, and computes just as upstream does, in the same order: in the dense motion that is made of its
points stands a threshold, and a last digit can carry a share across it.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F

from extensions.sadtalker.engines.neural.networks import blocks

KEYPOINTS = 15
DEPTH = 16
"""Planes of the volume in which points are looked for."""

_STEP = 4  # the detector sees every fourth pixel
_TEMPERATURE = 0.1
_BLOCKS = 5


class KeypointDetector(nn.Module):
    smoothing: torch.Tensor

    def __init__(
        self, smoothing: torch.Tensor, down: list[nn.Module], deepen: nn.Module, up: list[nn.Module], heat: nn.Module
    ) -> None:
        super().__init__()
        self.register_buffer("smoothing", smoothing)
        self.down, self.up = nn.ModuleList(down), nn.ModuleList(up)
        self.deepen, self.heat = deepen, heat

    @classmethod
    def of(cls, tensors: blocks.Tensors) -> KeypointDetector:
        net = blocks.below(tensors, "predictor")
        down, up = (
            [blocks.normed(blocks.below(net, f"{way}_blocks.{way}{i}"), sides) for i in range(_BLOCKS)]
            for way, sides in (("down", 2), ("up", 3))
        )
        return cls(tensors["down.weight"], down, blocks.conv(net, "conv"), up, blocks.conv(tensors, "kp", padding=1)).eval()

    @blocks.exactly()
    def forward(self, faces: torch.Tensor) -> torch.Tensor:
        """(N, 3, S, S) RGB 0..1 -> (N, 15, 3): x, y and z, -1..1."""
        channels, border = faces.shape[1], self.smoothing.shape[-1] // 2
        x = F.conv2d(faces, self.smoothing, stride=_STEP, padding=border, groups=channels)
        for layer in self.down:
            x = F.avg_pool2d(F.relu_(layer(x)), 2)
        x = self.deepen(x).unflatten(1, (-1, DEPTH))
        for layer in self.up:
            x = F.relu_(layer(F.interpolate(x, scale_factor=(1, 2, 2))))
        return expectation((self.heat(x).flatten(2) / _TEMPERATURE).softmax(2).unflatten(2, x.shape[2:]))


def expectation(heat: torch.Tensor) -> torch.Tensor:
    """(N, K, D, H, W), of which each volume's sum is 1 -> (N, K, 3): the mean of (x, y, z) over the volume, -1..1."""
    sides = [2 * torch.arange(n, device=heat.device, dtype=heat.dtype) / (n - 1) - 1 for n in heat.shape[2:]]
    z, y, x = torch.meshgrid(*sides, indexing="ij")
    return (heat[..., None] * torch.stack([x, y, z], dim=3)).sum((2, 3, 4))
