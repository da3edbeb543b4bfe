"""Where each voxel of a frame's face comes from in the photo's, and what of the frame the photo shows (Wang et al. 2021).

Sixteen motions are proposed, the background's and one for each keypoint, all of which shift the whole volume; a hourglass network
that sees the photo's features shifted in each of these ways says how they mix at each voxel. What depends on the photo alone is
found once (`still`). Volumes are maps one after another, (N * depth, H, W, C), as networks.convolution has them.

This is how fast mode computes it; exact mode has networks.exact_motion.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import nn
from torch.nn import functional as F

from extensions.sadtalker.engines.neural.networks import blocks
from extensions.sadtalker.engines.neural.networks.convolution import Builder, Strips, framed, inside, tiled

VARIANCE = 0.01
"""Of the gaussian round a keypoint, in units of half the volume."""

THRESHOLD = 1e-3
"""Shares below it count as none, and the others do not make up for it."""

_SMALL = 3
"""From this level of the hourglass on, its maps are so small that PyTorch's convolutions are as quick as ours, in less memory."""


@dataclass(frozen=True)
class Still:
    """What the motion of every frame needs of the photo.

    few:       (depth, H * 4 * W), four features of each voxel.
    heat:      (depth, H, W, 15), how near each keypoint is.
    keypoints: (1, 15, 3), x, y and z -1..1.
    """

    few: torch.Tensor
    heat: torch.Tensor
    keypoints: torch.Tensor


class DenseMotion(nn.Module):
    occlusion: torch.Tensor

    def __init__(self, tensors: blocks.Tensors, build: Builder, depth: int, shares: torch.dtype | None = None) -> None:
        """tensors: named as inside "dense_motion_network"; depth: maps in a volume; shares: what the motions' are computed in."""
        super().__init__()
        self.depth = depth
        self.compress = blocks.conv(tensors, "compress", "norm")
        self.hourglass = Hourglass(blocks.below(tensors, "hourglass"), build, depth)
        weight = tensors["mask.weight"]
        self.mask = blocks.conv_of(weight, tensors["mask.bias"], padding=weight.shape[-1] // 2).to(shares or weight.dtype)
        # A picture's worth of kernels at once, added up where they belong by F.fold, which goes the other way round.
        flipped = tensors["occlusion.weight"][0].unflatten(0, (-1, depth)).flip(2, 3)
        self.register_buffer("occlusion", flipped.flatten(2).transpose(0, 1).contiguous())
        self.register_buffer("occlusion_bias", tensors["occlusion.bias"])

    def still(self, volume: torch.Tensor, keypoints: torch.Tensor) -> Still:
        """volume: (1, C, depth, H, W); keypoints: (1, 15, 3)."""
        few = F.relu(self.compress(volume))[0].permute(1, 2, 0, 3)
        return Still(few.flatten(1).contiguous(), _near(keypoints, volume.shape[2:])[0], keypoints)

    def forward(self, still: Still, keypoints: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """keypoints: (N, 15, 3), of the frames -> the place in the photo that each voxel shows, (N, depth, H, W, 3) of x, y, z
        -1..1, and how much of it the photo has, (N, H, W, 1).
        """
        sides = still.heat.shape[:3]
        shifts = F.pad(still.keypoints - keypoints, (0, 0, 1, 0))
        room = self.hourglass.room(len(keypoints), *sides[1:], still.few)
        proposed = inside(room)[..., self.hourglass.beside[0] :].unflatten(0, (-1, sides[0])).unflatten(-1, (shifts.shape[1], -1))
        proposed[..., 0, 0] = 0
        proposed[..., 1:, 0] = _near(keypoints, sides) - still.heat
        proposed[..., 1:] = _shifted(still.few, sides, shifts)
        x = self.hourglass(room)
        # With channels last this convolution takes twice as long on a processor.
        volumes = x.unflatten(0, (-1, sides[0])).permute(0, 4, 1, 2, 3).to(self.mask.weight.dtype).contiguous()
        shares = self.mask(volumes).to(x.dtype).permute(0, 2, 3, 4, 1).softmax(-1)
        return _mixed(shares, shifts), self._seen(x)

    def _seen(self, x: torch.Tensor) -> torch.Tensor:
        high, wide = x.shape[1:3]
        kernels = (x.flatten(1, 2).unflatten(0, (-1, self.depth)) @ self.occlusion).sum(1)
        side = round(kernels.shape[-1] ** 0.5)
        seen = F.fold(kernels.transpose(1, 2), (high, wide), side, padding=side // 2)
        return (seen + self.occlusion_bias).sigmoid().permute(0, 2, 3, 1)


class Hourglass(nn.Module):
    """A U-Net of volumes, which get smaller along height and width alone.

    What a level sees, and what comes back to it from the level below, lie in one room, that first: channels beside[level].
    """

    def __init__(self, tensors: blocks.Tensors, build: Builder, depth: int) -> None:
        super().__init__()
        levels = sum(name.startswith("encoder") and name.endswith("conv.bias") for name in tensors)
        ways = [f"{way}_blocks.{i}" for way in ("encoder.down", "decoder.up") for i in range(levels)]
        folded = [blocks.folded(tensors, f"{name}.conv", f"{name}.norm") for name in ways]
        # The mean of four positive parts is the sum of four smaller ones.
        down = [(weight / 4, bias / 4) for weight, bias in folded[:levels]]
        self.down = nn.ModuleList(
            (build.same if i < _SMALL else build.small)(*layer, depth=depth) for i, layer in enumerate(down)
        )
        self.up = nn.ModuleList(build.enlarged(2, *layer, depth=depth) for layer in folded[levels:])
        self.last = build.same(*blocks.folded(tensors, "decoder.conv", "decoder.norm"), depth=depth)
        self.beside = [*(layer[0].shape[0] for layer in reversed(folded[levels:])), 0]
        self.depth, self.inputs = depth, folded[0][0].shape[1]

    def room(self, n: int, high: int, wide: int, like: torch.Tensor) -> torch.Tensor:
        """The first level's: its input goes behind the first beside[0] channels."""
        return framed(n * self.depth, high, wide, self.beside[0] + self.inputs, like)

    def forward(self, room: torch.Tensor) -> torch.Tensor:
        """(N * depth, H, W, C)"""
        rooms = [room]
        for down, (beside, deeper) in zip(self.down, pairwise(self.beside), strict=True):
            rooms.append(_halved(down, rooms[-1][..., beside:], deeper))
        x = rooms.pop()
        for up in self.up:
            beside = rooms.pop()
            out = tiled(inside(beside)[..., : up.outputs], up.writes)
            for rows, strip in up.strips(x):
                out[:, rows] = strip.relu_()
            x = beside
        return self.last.whole(x).relu_()


def _halved(down: Strips, x: torch.Tensor, beside: int) -> torch.Tensor:
    """Half as high and wide, with a margin, and room for `beside` channels before its own."""
    n, high, wide, _ = inside(x).shape
    result = framed(n, high // 2, wide // 2, beside + down.outputs, x)
    out = tiled(inside(result)[..., beside:], down.writes // 2)
    for rows, strip in down.strips(x):
        strip.relu_()
        pairs = strip[:, :, 0::2] + strip[:, :, 1::2]
        out[:, rows] = pairs[:, :, :, :, 0::2] + pairs[:, :, :, :, 1::2]
    return result


def _axis(n: int, like: torch.Tensor) -> torch.Tensor:
    """Where voxels lie, -1..1 at the outermost ones."""
    return torch.linspace(-1, 1, n, device=like.device, dtype=like.dtype)


def _near(keypoints: torch.Tensor, sides: torch.Size) -> torch.Tensor:
    """(N, 15, 3) of x, y, z -> (N, depth, H, W, 15): a gaussian round each keypoint."""
    x, y, z = (
        (-(_axis(n, keypoints)[:, None] - keypoints[:, None, :, i]).square() / (2 * VARIANCE)).exp()
        for i, n in enumerate(reversed(sides))
    )
    return z[:, :, None, None] * y[:, None, :, None] * x[:, None, None]


def _shifted(few: torch.Tensor, sides: torch.Size, shifts: torch.Tensor) -> torch.Tensor:
    """The features under each shift, (N, depth, H, W, 16, 4). few: as in Still; shifts: (N, 16, 3) of x, y, z.

    A shifted volume is read between voxels along one axis after another, since each axis has the same fractions everywhere.
    PyTorch's grid_sample, without align_corners, takes -1 for the outer edge of the first voxel: so did upstream.
    """
    depth, high, wide = sides
    x, y, z = (_reading(n, shifts[..., i]) for i, n in enumerate((wide, high, depth)))
    moved = (z @ few).unflatten(-1, (high, -1))
    moved = (y.unsqueeze(2) @ moved).unflatten(-1, (-1, wide))
    moved = (moved.flatten(2, 4) @ x.transpose(-1, -2)).unflatten(2, (depth, high, -1))
    return moved.permute(0, 2, 3, 5, 1, 4)


def _reading(n: int, shift: torch.Tensor) -> torch.Tensor:
    """(..., n, n): how much of each voxel, in the columns, is read at each place, when these are shifted; nothing outside."""
    places = ((_axis(n, shift) + shift[..., None] + 1) * n - 1) / 2
    return (1 - (places[..., None] - torch.arange(n, device=shift.device)).abs()).clamp_(min=0)


def _mixed(shares: torch.Tensor, shifts: torch.Tensor) -> torch.Tensor:
    """Where each voxel comes from, all motions taken by their shares, (N, depth, H, W, 16)."""
    shares = shares.masked_fill(shares < THRESHOLD, 0)
    z, y, x = torch.meshgrid(*(_axis(n, shares) for n in shares.shape[1:4]), indexing="ij")
    unmoved = torch.stack([x, y, z], dim=-1) * shares.sum(-1, keepdim=True)
    return unmoved + (shares.flatten(1, 3) @ shifts).view_as(unmoved)
