"""The dense motion of networks.dense_motion computed in upstream's order, for exact mode: what it gives is upstream's to the bit.

Last digits matter here alone: a share counts or not by a threshold, and where a digit carries one across it, some ten pixels of
the frame differ by as much as 2e-3. So no norm is worked into a convolution and nothing is taken together, but what depends on
the photo alone is found once all the same.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional as F

from extensions.sadtalker.engines.neural.networks import blocks
from extensions.sadtalker.engines.neural.networks.dense_motion import THRESHOLD, VARIANCE


@dataclass(frozen=True)
class Still:
    """What the motion of every frame needs of the photo.

    few:       (1, 4, depth, H, W), four features of each voxel.
    heat:      (1, 15, depth, H, W), how near each keypoint is.
    keypoints: (1, 15, 3), x, y and z -1..1.
    """

    few: torch.Tensor
    heat: torch.Tensor
    keypoints: torch.Tensor


class ExactMotion(nn.Module):
    def __init__(self, tensors: blocks.Tensors) -> None:
        """tensors: named as inside "dense_motion_network"."""
        super().__init__()
        self.compress = blocks.conv(tensors, "compress")
        self.norm = blocks.batch_norm(tensors, "norm", 3)
        self.hourglass = Hourglass(blocks.below(tensors, "hourglass"))
        self.mask, self.occlusion = (
            blocks.conv(tensors, name, padding=tensors[f"{name}.weight"].shape[-1] // 2) for name in ("mask", "occlusion")
        )

    def still(self, volume: torch.Tensor, keypoints: torch.Tensor) -> Still:
        """volume: (1, C, depth, H, W); keypoints: (1, 15, 3)."""
        few = F.relu_(self.norm(self.compress(volume)))
        return Still(few, _near(_grid(volume), keypoints), keypoints)

    def forward(self, still: Still, keypoints: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """keypoints: (N, 15, 3), of the frames -> the place in the photo that each voxel shows, (N, depth, H, W, 3) of x, y, z
        -1..1, and how much of it the photo has, (N, H, W, 1).
        """
        n, grid = len(keypoints), _grid(still.few)
        moved = grid - keypoints[:, :, None, None, None] + still.keypoints[:, :, None, None, None]
        motions = torch.cat([grid.expand(n, 1, *grid.shape), moved], dim=1)
        features = still.few.expand(n * motions.shape[1], -1, -1, -1, -1)
        proposed = F.grid_sample(features, motions.flatten(0, 1), align_corners=False).unflatten(0, (n, -1))
        heat = F.pad(_near(grid, keypoints) - still.heat, (0, 0, 0, 0, 0, 0, 1, 0))
        x = self.hourglass(torch.cat([heat.unsqueeze(2), proposed], dim=2).flatten(1, 2))
        shares = self.mask(x).softmax(1)
        shares = shares.masked_fill(shares < THRESHOLD, 0)
        seen = self.occlusion(x.flatten(1, 2)).sigmoid()
        return (motions * shares.unsqueeze(-1)).sum(1), seen.permute(0, 2, 3, 1)


class Hourglass(nn.Module):
    """A U-Net of volumes, which get smaller along height and width alone."""

    def __init__(self, tensors: blocks.Tensors) -> None:
        super().__init__()
        levels = sum(name.startswith("encoder") and name.endswith("conv.bias") for name in tensors)
        self.down, self.up = (
            nn.ModuleList(blocks.normed(blocks.below(tensors, f"{way}_blocks.{i}"), 3) for i in range(levels))
            for way in ("encoder.down", "decoder.up")
        )
        self.last = blocks.normed(blocks.below(tensors, "decoder"), 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(N, C, depth, H, W)"""
        maps = [x]
        for down in self.down:
            maps.append(F.avg_pool3d(F.relu_(down(maps[-1])), (1, 2, 2)))
        x = maps.pop()
        for up in self.up:
            x = torch.cat([F.relu_(up(F.interpolate(x, scale_factor=(1, 2, 2)))), maps.pop()], dim=1)
        return F.relu_(self.last(x))


def _grid(volume: torch.Tensor) -> torch.Tensor:
    """(depth, H, W, 3): x, y and z of each voxel, -1..1 at the outermost ones."""
    sides = (2 * torch.arange(n, device=volume.device, dtype=volume.dtype) / (n - 1) - 1 for n in volume.shape[2:])
    z, y, x = torch.meshgrid(*sides, indexing="ij")
    return torch.stack([x, y, z], dim=-1)


def _near(grid: torch.Tensor, keypoints: torch.Tensor) -> torch.Tensor:
    """(N, 15, 3) of x, y, z -> (N, 15, depth, H, W): a gaussian round each keypoint."""
    return (-0.5 * (grid - keypoints[:, :, None, None, None]).square().sum(-1) / VARIANCE).exp()
