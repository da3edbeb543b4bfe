"""Convolutions with a 3x3 kernel that take fewer multiplications than it seems: the same numbers but for their last digits.

In one dimension each of them is y = A((G g) * (B x)) for a kernel g and a stretch x of the map (Winograd 1980; Lavin and Gray
2016), and in two dimensions the same along both sides. B and A are small and the same for every channel, so that all the work
is in a few large matrix products, one for each point at which kernel and map are multiplied. Maps here are (N, H, W, C), and
come with a margin of zeros of one pixel, which is the convolution's padding.

Nothing here knows what the maps show.
"""

from __future__ import annotations

import math
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

TILES = 256
"""Tiles that are worked on at a time: enough for the matrix products to run well, few enough to stay in a processor's cache."""

_OUTPUTS = 64  # that kernels are made for at a time


@dataclass(frozen=True)
class Scheme:
    """y = A((G g) * (B x)) in one dimension, for a kernel of three.

    b: (points, values read), g: (points, 3), a: (values written, points).
    step: how far apart the stretches begin, in values of the map that is read; each begins one before what it is about.
    """

    b: np.ndarray
    g: np.ndarray
    a: np.ndarray
    step: int

    @property
    def reads(self) -> int:
        return self.b.shape[1]

    @property
    def writes(self) -> int:
        return self.a.shape[0]


def toom_cook(writes: int, taps: int, points: tuple[float, ...]) -> Scheme:
    """Winograd's F(writes, taps): the product of two polynomials, known at these points and at infinity, read backwards."""
    size = writes + taps - 1
    at = np.vstack([np.vander(points, size, increasing=True), np.eye(size)[-1]])
    others = [[p - q for q in points if q != p] for p in points]
    # Moved from B to G, where it is lost in the weights: B is of whole numbers then.
    scale = np.array([*(np.prod(differences) for differences in others), 1.0])[:, None]
    outputs, kernel = at[:, :writes].copy(), at[:, :taps].copy()
    outputs[-1], kernel[-1] = np.eye(writes)[-1], np.eye(taps)[-1]
    return Scheme(np.linalg.inv(at).T * scale, kernel / scale, outputs.T, writes)


PLAIN = toom_cook(4, 3, (0, 1, -1, 2, -2))
"""F(4, 3): 6 multiplications for 4 values instead of 12, 36 for 16 instead of 144 in two dimensions."""

# A map enlarged n times to the nearest, x0 x0 x1 x1 or x0 x0 x0 x0 x1, takes at most three values round each x: what the whole
# kernel makes of x alone, and that with the difference to the one before, or to the one behind.
_NEIGHBOURS = np.array([[0, 1, 0], [1, -1, 0], [0, -1, 1]], float)
_SUMS = np.array([[1, 1, 1], [1, 0, 0], [0, 0, 1]], float)
_FIRST, _WITHIN, _LAST = [1, 1, 0], [1, 0, 0], [1, 0, 1]

TWICE = Scheme(_NEIGHBOURS, _SUMS, np.array([_FIRST, _LAST], float), 1)
"""Of a map enlarged twice, read before that: 9 multiplications for 4 values instead of 36."""

FOUR_TIMES = Scheme(_NEIGHBOURS, _SUMS, np.array([_FIRST, _WITHIN, _WITHIN, _LAST], float), 1)
"""Of a map enlarged four times, read before that: 9 multiplications for 16 values instead of 144."""

FOUR_TIMES_ONCE = Scheme(_NEIGHBOURS, _SUMS, np.array([_FIRST, _WITHIN, _LAST], float), 1)
"""The same, but of the two values within, which are equal, one is written: three for every value of the map."""

AFTER_ONCE = Scheme(PLAIN.b @ np.eye(6)[:, [0, 1, 2, 4, 5]] + np.outer(PLAIN.b[:, 3], np.eye(5)[2]), PLAIN.g, PLAIN.a, 3)
"""Of what FOUR_TIMES_ONCE wrote, as if it had written all four."""


class _Scratch(threading.local):
    """Room for what a strip goes through, the same for all convolutions of a thread: fresh memory takes long to get."""

    def __init__(self) -> None:
        self.rooms: dict[tuple[str, torch.device, torch.dtype], torch.Tensor] = {}

    def room(self, use: str, like: torch.Tensor, *shape: int) -> torch.Tensor:
        """Of this shape, with whatever was left there. One at a time for each use."""
        key, size = (use, like.device, like.dtype), math.prod(shape)
        if key not in self.rooms or len(self.rooms[key]) < size:
            with torch.inference_mode(False):  # what is made inside of it cannot be filled outside
                self.rooms[key] = like.new_empty(size)
        return self.rooms[key][:size].view(shape)


_scratch = _Scratch()


class Strips(nn.Module):
    """A convolution whose result comes in strips, so that what follows finds them in the processor's cache.

    A tile is what is made of `step` values of the map, along each side: `writes` values of the result.
    """

    step: int
    writes: int
    outputs: int

    def strips(self, framed: torch.Tensor) -> Iterator[tuple[slice, torch.Tensor]]:
        """Which rows of tiles, and what they are: (N, rows, writes, columns, writes, outputs), the caller's to change.

        framed: (N, H + 2, W + 2, inputs)
        """
        raise NotImplementedError

    def whole(self, framed: torch.Tensor) -> torch.Tensor:
        """(N, H, W, outputs), without a margin."""
        result = framed.new_empty(framed.shape[0], *self._sides(framed), self.outputs)
        for rows, strip in self.strips(framed):
            tiled(result, self.writes)[:, rows] = strip
        return result

    def relu_framed(self, image: torch.Tensor) -> torch.Tensor:
        """Its positive part, with a margin."""
        result = framed(image.shape[0], *self._sides(image), self.outputs, image)
        for rows, strip in self.strips(image):
            tiled(inside(result), self.writes)[:, rows] = strip.relu_()
        return result

    def _sides(self, framed: torch.Tensor) -> list[int]:
        return [(side - 2) // self.step * self.writes for side in framed.shape[1:3]]


class Convolution(Strips):
    """A 3x3 convolution as its Scheme has it."""

    b: torch.Tensor
    a: torch.Tensor
    kernels: torch.Tensor
    bias: torch.Tensor | None

    def __init__(
        self,
        weight: torch.Tensor,
        bias: torch.Tensor | None,
        scheme: Scheme,
        *,
        depth: int = 1,
        tiles: int = TILES,
        dtype: torch.dtype | None = None,
    ) -> None:
        """weight: (outputs, inputs, 3, 3), or (outputs, inputs, 3, 3, 3) for volumes, which come as `depth` maps in a row.
        dtype: of the maps, and of the products; None: that of the weight.
        """
        super().__init__()
        self.scheme, self.depth, self.tiles = scheme, depth, tiles
        self.step, self.writes, self.outputs = scheme.step, scheme.writes, len(weight)
        b, g, a = (torch.from_numpy(np.kron(m, m)).to(weight) for m in (scheme.b, scheme.g, scheme.a))
        if bias is not None:
            # One more point, at which the product is the bias.
            a = torch.cat([a, torch.ones_like(a[:, :1])], dim=1)
        dtype = dtype or weight.dtype
        self.register_buffer("kernels", _at_points(g, weight if weight.ndim == 5 else weight.unsqueeze(2), dtype))
        for name, value in (("b", b), ("a", a), ("bias", bias)):
            self.register_buffer(name, value if value is None else value.to(dtype))

    def strips(self, framed: torch.Tensor) -> Iterator[tuple[slice, torch.Tensor]]:
        reads, step = self.scheme.reads, self.scheme.step
        tiles = framed.unfold(1, reads, step).unfold(2, reads, step).permute(4, 5, 0, 1, 2, 3)
        n, high, wide = tiles.shape[2:5]
        rows = max(1, self.tiles // (n * wide))
        for start in range(0, high, rows):
            part = slice(start, start + rows)
            yield part, self._strip(tiles[:, :, :, part])

    def _strip(self, tiles: torch.Tensor) -> torch.Tensor:
        """(reads, reads, N, rows, columns, inputs) -> (N, rows, writes, columns, writes, outputs)"""
        n, rows, columns, inputs = tiles.shape[2:]
        points, taps, _, outputs = self.kernels.shape
        count = n * rows * columns
        read = _scratch.room("read", tiles, *tiles.shape).copy_(tiles).view(-1, count * inputs)
        seen = _scratch.room("seen", tiles, points, count * inputs)
        seen = torch.mm(self.b, read, out=seen).view(points, count, inputs)
        products = _scratch.room("products", seen, len(self.a[0]), count, outputs)
        torch.bmm(seen, self.kernels[:, taps // 2], out=products[:points])
        if taps == 3:
            self._add_neighbours(seen.unflatten(1, (-1, self.depth, rows * columns)), products[:points])
        if self.bias is not None:
            products[points] = self.bias
        written = torch.mm(self.a, products.flatten(1), out=_scratch.room("written", seen, len(self.a), count * outputs))
        return written.view(self.writes, self.writes, n, rows, columns, outputs).permute(2, 3, 0, 4, 1, 5)

    def _add_neighbours(self, seen: torch.Tensor, products: torch.Tensor) -> None:
        """What the maps before and behind each add to it. seen: (points, volumes, depth, tiles, inputs)"""
        products = products.view(*seen.shape[:-1], -1)
        for volume in range(seen.shape[1]):
            maps, sums = seen[:, volume], products[:, volume]
            for tap, theirs, its in ((0, slice(None, -1), slice(1, None)), (2, slice(1, None), slice(None, -1))):
                sums[:, its].flatten(1, 2).baddbmm_(maps[:, theirs].flatten(1, 2), self.kernels[:, tap])


class Direct(Strips):
    """The same as PyTorch computes it: on other devices than processors, and for small maps. It comes as one strip."""

    step = writes = 2
    weight: torch.Tensor

    def __init__(
        self, weight: torch.Tensor, bias: torch.Tensor | None, *, depth: int = 1, dtype: torch.dtype | None = None
    ) -> None:
        super().__init__()
        self.volumes = weight.ndim == 5
        self.depth, self.outputs = depth, len(weight)
        memory = torch.channels_last_3d if self.volumes else torch.channels_last
        self.register_buffer("weight", weight.to(dtype or weight.dtype).contiguous(memory_format=memory))
        self.register_buffer("bias", bias if bias is None else bias.to(self.weight.dtype))

    def strips(self, framed: torch.Tensor) -> Iterator[tuple[slice, torch.Tensor]]:
        if self.volumes:
            volumes = framed.unflatten(0, (-1, self.depth)).permute(0, 4, 1, 2, 3)
            result = F.conv3d(volumes, self.weight, self.bias, padding=(1, 0, 0)).permute(0, 2, 3, 4, 1).flatten(0, 1)
        else:
            result = F.conv2d(framed.permute(0, 3, 1, 2), self.weight, self.bias).permute(0, 2, 3, 1)
        yield slice(None), tiled(result, self.writes)


@dataclass(frozen=True)
class Builder:
    """Makes convolutions as they are quickest on a device.

    products: whether matrix products beat the device's own convolutions, as they do on processors.
    dtype:    of the maps; None: that of the weights.
    """

    products: bool
    dtype: torch.dtype | None = None

    def same(self, weight: torch.Tensor, bias: torch.Tensor | None, *, depth: int = 1) -> Strips:
        """Of a map as it is."""
        if not self.products:
            return self.small(weight, bias, depth=depth)
        return Convolution(weight, bias, PLAIN, depth=depth, dtype=self.dtype)

    def small(self, weight: torch.Tensor, bias: torch.Tensor | None, *, depth: int = 1) -> Strips:
        """Of a map of few values and many channels, where products at points would read more weights than they save."""
        return Direct(weight, bias, depth=depth, dtype=self.dtype)

    def enlarged(self, times: int, weight: torch.Tensor, bias: torch.Tensor | None, *, depth: int = 1) -> Strips:
        """Of a map that is given as it was before it was enlarged to the nearest, `times` 2 or 4."""
        scheme = TWICE if times == 2 else FOUR_TIMES_ONCE if self.products else FOUR_TIMES
        tiles = TILES if self.products else sys.maxsize
        return Convolution(weight, bias, scheme, depth=depth, tiles=tiles, dtype=self.dtype)

    def after(self, times: int, weight: torch.Tensor, bias: torch.Tensor | None) -> Strips:
        """Of what a convolution from `enlarged` wrote."""
        if self.products and times == 4:
            return Convolution(weight, bias, AFTER_ONCE, dtype=self.dtype)
        return self.same(weight, bias)


def _at_points(g: torch.Tensor, weight: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """(points, 1 or 3, inputs, outputs): kernels (outputs, inputs, 1 or 3, 3, 3) as they are multiplied with a map. A few
    outputs at a time, in room that is used again: fresh memory takes longer than the products.
    """
    outputs, inputs, taps = weight.shape[:3]
    kernels = weight.new_empty(len(g), taps, inputs, outputs, dtype=dtype)
    for some, room in zip(weight.split(_OUTPUTS), kernels.split(_OUTPUTS, dim=3), strict=True):
        turned = some.permute(3, 4, 2, 1, 0)
        turned = _scratch.room("read", weight, *turned.shape).copy_(turned).flatten(2).flatten(0, 1)
        found = torch.mm(g, turned, out=_scratch.room("seen", weight, len(g), turned.shape[1]))
        room.copy_(found.view(room.shape))
    return kernels


def tiled(image: torch.Tensor, side: int) -> torch.Tensor:
    """A view of (N, H, W, C) as (N, H / side, side, W / side, side, C)."""
    return image.unflatten(2, (-1, side)).unflatten(1, (-1, side))


def framed(n: int, high: int, wide: int, channels: int, like: torch.Tensor) -> torch.Tensor:
    """Room for (N, H, W, C) with its margin of zeros: (N, H + 2, W + 2, C)."""
    room = like.new_empty(n, high + 2, wide + 2, channels)
    for edge in (room[:, 0], room[:, -1], room[:, :, 0], room[:, :, -1]):
        edge.zero_()
    return room


def inside(framed: torch.Tensor) -> torch.Tensor:
    """What the margin is round: (N, H, W, C)."""
    return framed[:, 1:-1, 1:-1]
