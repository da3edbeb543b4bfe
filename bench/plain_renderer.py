"""SadTalker's face renderer computed the long way, as upstream does: every layer for every frame, nothing folded, nothing kept.

What the product's renderer is measured against, in time (bench.talking_nets) and in value (tests/test_neural_render.py). It reads
the tensors of a checkpoint by their names there, in float32, and shares no code with the product.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch.nn import functional as F


class PlainRenderer:
    """The generator: one call is one batch of frames, from the picture on."""

    def __init__(self, tensors: Mapping[str, torch.Tensor]) -> None:
        self.tensors = dict(tensors)

    @torch.inference_mode()
    def __call__(self, image: torch.Tensor, source: torch.Tensor, driving: torch.Tensor) -> torch.Tensor:
        """(N, 3, S, S) 0..1, keypoints of the picture and of the frames (N, 15, 3) -> (N, 3, S, S) 0..1"""
        x = self.block("first", image)
        for i in range(2):
            x = F.avg_pool2d(self.block(f"down_blocks.{i}", x), 2)
        x = self.conv("second", x)
        volume = x.unflatten(1, (self.tensors["dense_motion_network.compress.weight"].shape[1], -1))
        for i in range(6):
            volume = self.residual(f"resblocks_3d.3dr{i}", volume)
        deformation, occlusion = self.dense_motion(volume, source, driving)
        x = F.grid_sample(volume, deformation, align_corners=False).flatten(1, 2)
        x = self.conv("fourth", self.block("third", x, slope=0.01)) * occlusion
        return self.decoder(x)

    # -- motion

    def dense_motion(
        self, volume: torch.Tensor, source: torch.Tensor, driving: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Where each voxel of the frame comes from, (N, D, H, W, 3), and how much of it is seen there, (N, 1, H, W)."""
        name = "dense_motion_network"
        n, sides = len(volume), volume.shape[2:]
        few = F.relu(self.norm(f"{name}.norm", self.conv(f"{name}.compress", volume)))
        grid = self.grid(volume)
        moved = grid - driving[:, :, None, None, None] + source[:, :, None, None, None]
        motions = torch.cat([grid.expand(n, 1, *sides, 3), moved], dim=1)
        count = motions.shape[1]
        sampled = F.grid_sample(few.repeat_interleave(count, 0), motions.flatten(0, 1), align_corners=False)
        heat = self.heat(grid, driving) - self.heat(grid, source)
        heat = torch.cat([torch.zeros_like(heat[:, :1]), heat], dim=1)
        x = torch.cat([heat.unsqueeze(2), sampled.unflatten(0, (n, count))], dim=2).flatten(1, 2)
        x = self.hourglass(f"{name}.hourglass", x)
        mask = self.conv(f"{name}.mask", x, same=True).softmax(1)
        mask = torch.where(mask < 1e-3, torch.zeros_like(mask), mask)
        deformation = (motions * mask.unsqueeze(-1)).sum(1)
        return deformation, torch.sigmoid(self.conv(f"{name}.occlusion", x.flatten(1, 2), same=True))

    def hourglass(self, name: str, x: torch.Tensor) -> torch.Tensor:
        maps = [x]
        for i in range(5):
            maps.append(F.avg_pool3d(self.block(f"{name}.encoder.down_blocks.{i}", maps[-1]), (1, 2, 2)))
        x = maps.pop()
        for i in range(5):
            x = self.block(f"{name}.decoder.up_blocks.{i}", F.interpolate(x, scale_factor=(1, 2, 2)))
            x = torch.cat([x, maps.pop()], dim=1)
        return self.block(f"{name}.decoder", x)

    @staticmethod
    def grid(volume: torch.Tensor) -> torch.Tensor:
        """(D, H, W, 3): x, y and z of each voxel, -1..1 at the outermost ones."""
        sides = (2 * torch.arange(n, device=volume.device) / (n - 1) - 1 for n in volume.shape[2:])
        z, y, x = torch.meshgrid(*sides, indexing="ij")
        return torch.stack([x, y, z], dim=-1)

    @staticmethod
    def heat(grid: torch.Tensor, points: torch.Tensor) -> torch.Tensor:
        return torch.exp(-0.5 * (grid - points[:, :, None, None, None]).square().sum(-1) / 0.01)

    # -- decoder

    def decoder(self, segmentation: torch.Tensor) -> torch.Tensor:
        x = self.conv("decoder.fc", segmentation, same=True)
        for i in range(6):
            x = self.spade_block(f"decoder.G_middle_{i}", x, segmentation)
        for i in range(2):
            x = self.spade_block(f"decoder.up_{i}", F.interpolate(x, scale_factor=2), segmentation)
        return torch.sigmoid(self.conv("decoder.conv_img", F.leaky_relu(x, 0.2), same=True))

    def spade_block(self, name: str, x: torch.Tensor, segmentation: torch.Tensor) -> torch.Tensor:
        change = self.spectral(f"{name}.conv_0", F.leaky_relu(self.spade(f"{name}.norm_0", x, segmentation), 0.2))
        change = self.spectral(f"{name}.conv_1", F.leaky_relu(self.spade(f"{name}.norm_1", change, segmentation), 0.2))
        if f"{name}.conv_s.weight_orig" in self.tensors:
            x = self.spectral(f"{name}.conv_s", self.spade(f"{name}.norm_s", x, segmentation))
        return x + change

    def spade(self, name: str, x: torch.Tensor, segmentation: torch.Tensor) -> torch.Tensor:
        hidden = F.interpolate(segmentation, size=x.shape[2:], mode="nearest")
        hidden = F.relu(self.conv(f"{name}.mlp_shared.0", hidden, same=True))
        gamma = self.conv(f"{name}.mlp_gamma", hidden, same=True)
        beta = self.conv(f"{name}.mlp_beta", hidden, same=True)
        return F.instance_norm(x) * (1 + gamma) + beta

    # -- layers

    def conv(self, name: str, x: torch.Tensor, same: bool = False) -> torch.Tensor:
        """same: whether the map keeps its size."""
        weight = self.tensors[f"{name}.weight"]
        padding = weight.shape[-1] // 2 if same else 0
        return (F.conv3d if weight.ndim == 5 else F.conv2d)(x, weight, self.tensors[f"{name}.bias"], padding=padding)

    def spectral(self, name: str, x: torch.Tensor) -> torch.Tensor:
        weight, u, v = (self.tensors[f"{name}.weight_{part}"] for part in ("orig", "u", "v"))
        weight = weight / torch.dot(u, weight.flatten(1) @ v)
        return F.conv2d(x, weight, self.tensors.get(f"{name}.bias"), padding=weight.shape[-1] // 2)

    def norm(self, name: str, x: torch.Tensor) -> torch.Tensor:
        mean, variance, weight, bias = (
            self.tensors[f"{name}.{part}"] for part in ("running_mean", "running_var", "weight", "bias")
        )
        return F.batch_norm(x, mean, variance, weight, bias, eps=1e-5)

    def block(self, name: str, x: torch.Tensor, slope: float = 0.0) -> torch.Tensor:
        return F.leaky_relu(self.norm(f"{name}.norm", self.conv(f"{name}.conv", x, same=True)), slope)

    def residual(self, name: str, x: torch.Tensor) -> torch.Tensor:
        y = self.conv(f"{name}.conv1", F.relu(self.norm(f"{name}.norm1", x)), same=True)
        return x + self.conv(f"{name}.conv2", F.relu(self.norm(f"{name}.norm2", y)), same=True)
