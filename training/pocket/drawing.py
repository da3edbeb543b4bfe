"""A small painter: smooth shapes, soft edges, glows and strands on a float canvas, the same picture at every size.

Knows nothing of people. Lengths are in the units of a `Frame`; colours are RGB, 0..1.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from typing import TypeVar

import cv2
import numpy as np

Points = np.ndarray | Sequence[Sequence[float] | np.ndarray]
Colour = np.ndarray | Sequence[float]
Coordinate = TypeVar("Coordinate", float, np.ndarray)

_VISIBLE_BLUR = 0.55
"""Standard deviation in pixels below which a blur is not worth its time: edges are anti-aliased already."""

_SHIFT = 5
"""OpenCV's polygons take whole numbers: these many bits of them are the part of a pixel."""


@dataclass(frozen=True)
class Gradient:
    """Colours from point `start` to point `end`, flat beyond them. Points are in the frame of the shape that is filled."""

    start: tuple[float, float]
    end: tuple[float, float]
    colours: tuple[Colour, Colour]


@dataclass(frozen=True)
class Frame:
    """Where drawing units lie on the picture, whose own units run from -1 (left, top) to 1.

    yaw turns what is drawn to the side, as on a ball around (0, 0): the middle moves by `yaw`, what is 0.62 away stays.
    """

    x: float = 0.0
    y: float = 0.0
    scale: float = 1.0
    tilt: float = 0.0
    yaw: float = 0.0

    def place(self, x: Coordinate, y: Coordinate, depth: float = 0.0) -> tuple[Coordinate, Coordinate]:
        """In picture units. depth > 0 lies nearer to the viewer and moves farther with yaw."""
        if self.yaw:
            near = 1 - (x / 0.62) ** 2
            x = x + self.yaw * (near * (near > 0) + depth)
        cos, sin = math.cos(self.tilt) * self.scale, math.sin(self.tilt) * self.scale
        return cos * x - sin * y + self.x, sin * x + cos * y + self.y


@dataclass(frozen=True)
class Mask:
    """Coverage of a canvas: `alpha`, float32 0..1, within a box of pixels, nothing outside of it."""

    top: int
    left: int
    alpha: np.ndarray

    @property
    def rows(self) -> slice:
        return slice(self.top, self.top + self.alpha.shape[0])

    @property
    def columns(self) -> slice:
        return slice(self.left, self.left + self.alpha.shape[1])

    def within(self, other: Mask) -> Mask | None:
        """Where both are; None where they do not meet."""
        mine, others = self._meeting(other), other._meeting(self)
        if not mine.alpha.size:
            return None
        return Mask(mine.top, mine.left, mine.alpha * others.alpha)

    def without(self, other: Mask) -> Mask:
        """This one where the other is not."""
        rest = Mask(self.top, self.left, self.alpha.copy())
        meeting = rest._meeting(other).alpha
        meeting *= 1 - other._meeting(self).alpha
        return rest

    def _meeting(self, other: Mask) -> Mask:
        """The part of this mask, not copied, that lies in the other's box."""
        top, left = max(self.top, other.top), max(self.left, other.left)
        bottom, right = min(self.rows.stop, other.rows.stop), min(self.columns.stop, other.columns.stop)
        rows = slice(top - self.top, max(top, bottom) - self.top)
        columns = slice(left - self.left, max(left, right) - self.left)
        return Mask(top, left, self.alpha[rows, columns])


class Canvas:
    """A square picture under work.

    planes: (3, side, side) float32; red, green and blue apart, which numpy blends several times as fast.
    figure: (side, side) float32, what shapes have covered so far; lights the figure apart from its background.
    """

    def __init__(self, side: int) -> None:
        self.side = side
        self.planes = np.zeros((3, side, side), np.float32)
        self.figure = np.zeros((side, side), np.float32)
        self.frame = Frame()
        # Large temporary arrays cost more than the arithmetic on them.
        self._scratch = np.empty(4 * side * side, np.float32)

    @contextmanager
    def within(self, frame: Frame) -> Iterator[None]:
        """Draws in another frame."""
        before, self.frame = self.frame, frame
        try:
            yield
        finally:
            self.frame = before

    def fill(
        self,
        shape: Points,
        paint: Colour | Gradient,
        *,
        soft: float = 0.0,
        opacity: float = 1.0,
        clip: Mask | None = None,
        depth: float = 0.0,
    ) -> None:
        """Paints a polygon. soft: blur of its edge; clip: what it stays within; depth: see Frame.place."""
        self.paint(self.mask(shape, soft=soft, depth=depth), paint, opacity=opacity, clip=clip)

    def mask(self, shape: Points, *, soft: float = 0.0, depth: float = 0.0) -> Mask:
        """What a polygon covers."""
        corners = self._pixels(shape, depth)
        sigma = soft * self.frame.scale * self.side / 2
        top, left, height, width = self._box(corners, 2.5 * sigma + 1)
        # What will be blurred is drawn as coarsely as the blur allows.
        coarse = max(1, int(sigma / 2))
        drawn = np.zeros((-(-height // coarse), -(-width // coarse)), np.uint8)
        if drawn.size:
            cv2.fillPoly(drawn, [_fixed((corners + 0.5 - (left, top)) / coarse - 0.5)], 255, cv2.LINE_AA, _SHIFT)
            if sigma > _VISIBLE_BLUR:
                drawn = cv2.GaussianBlur(drawn, (0, 0), sigma / coarse, borderType=cv2.BORDER_REPLICATE)
            if coarse > 1:
                big = (drawn.shape[1] * coarse, drawn.shape[0] * coarse)
                drawn = cv2.resize(drawn, big, interpolation=cv2.INTER_LINEAR)[:height, :width]
        return Mask(top, left, drawn * np.float32(1 / 255))

    def paint(self, mask: Mask, paint: Colour | Gradient, *, opacity: float = 1.0, clip: Mask | None = None) -> None:
        """Paints what a mask covers."""
        self._blend(mask, paint, opacity, clip)
        seen = self.figure[mask.rows, mask.columns]
        if clip is None and opacity > 0.9:
            np.maximum(seen, mask.alpha, out=seen)

    def painted(self) -> Mask:
        """What shapes have covered so far."""
        return Mask(0, 0, self.figure)

    def everywhere(self) -> Mask:
        return Mask(0, 0, np.ones((self.side, self.side), np.float32))

    def tiles(self, shapes: Sequence[np.ndarray], colour: Colour) -> None:
        """Paints polygons that do not overlap, all at once."""
        drawn = np.zeros((self.side, self.side), np.uint8)
        placed = [_fixed(self._pixels(shape)) for shape in shapes]
        cv2.fillPoly(drawn, placed, 255, cv2.LINE_AA, _SHIFT)
        self._blend(Mask(0, 0, drawn * np.float32(1 / 255)), colour, 1.0, None)

    def line(
        self,
        points: Points,
        width: float,
        colour: Colour,
        *,
        taper: tuple[float, float] = (1.0, 1.0),
        soft: float = 0.0,
        opacity: float = 1.0,
        clip: Mask | None = None,
        depth: float = 0.0,
    ) -> None:
        """A brush stroke along an open curve. taper: width at its start and end, as a part of `width` in the middle."""
        self.fill(brush(points, width, taper), colour, soft=soft, opacity=opacity, clip=clip, depth=depth)

    def glow(
        self,
        center: tuple[float, float],
        radius: float | tuple[float, float],
        colour: Colour,
        *,
        opacity: float = 1.0,
        clip: Mask | None = None,
        depth: float = 0.0,
    ) -> None:
        """A Gaussian spot; radius: its standard deviation across and down the picture, whatever the frame's tilt."""
        rx, ry = (radius, radius) if isinstance(radius, (int, float)) else radius
        half = self.side / 2
        x, y = ((v + 1) * half - 0.5 for v in self.frame.place(*center, depth))
        wide, high = rx * self.frame.scale * half, ry * self.frame.scale * half
        left, right = self._span(x - 2.6 * wide, x + 2.6 * wide)
        top, bottom = self._span(y - 2.6 * high, y + 2.6 * high)
        across = (np.arange(left, right, dtype=np.float32) - np.float32(x)) * np.float32(1 / wide)
        down = (np.arange(top, bottom, dtype=np.float32) - np.float32(y)) * np.float32(1 / high)
        alpha = np.exp(-0.5 * down * down)[:, None] * np.exp(-0.5 * across * across)
        self._blend(Mask(top, left, alpha), colour, opacity, clip)

    def strands(
        self,
        curves: Sequence[np.ndarray] | np.ndarray,
        width: float,
        colour: Colour,
        *,
        opacity: float = 1.0,
        clip: Mask | None = None,
        closed: bool = False,
    ) -> None:
        """Thin lines of one width, painted at once so that they do not add up where they cross."""
        points = self._pixels(np.concatenate(curves))
        top, left, height, rest = self._box(points, width * self.side)
        drawn = np.zeros((height, rest), np.uint8)
        if drawn.size:
            thickness = max(1, round(width * self.frame.scale * self.side / 2))
            ends = np.cumsum([len(curve) for curve in curves])[:-1]
            lines = np.split(_fixed(points - (left, top)), ends)
            cv2.polylines(drawn, lines, closed, 255, thickness, cv2.LINE_AA, _SHIFT)
        self._blend(Mask(top, left, drawn * np.float32(1 / 255)), colour, opacity, clip)

    def _pixels(self, points: Points, depth: float = 0.0) -> np.ndarray:
        """(n, 2) pixels of points in the frame. OpenCV counts from the centre of the first pixel, the picture from its corner."""
        p = np.asarray(points, np.float64)
        found = np.empty_like(p)
        found[:, 0], found[:, 1] = self.frame.place(p[:, 0], p[:, 1], depth)
        found *= self.side / 2
        found += self.side / 2 - 0.5
        return found

    def _box(self, points: np.ndarray, margin: float) -> tuple[int, int, int, int]:
        """(top, left, height, width) of the part of the canvas around points in pixels; empty outside of it."""
        x, y, width, height = cv2.boundingRect(points.astype(np.float32))
        left, right = self._span(x - margin, x + width + margin)
        top, bottom = self._span(y - margin, y + height + margin)
        return top, left, bottom - top, right - left

    def _span(self, low: float, high: float) -> tuple[int, int]:
        """Pixels of the canvas from low to high, as a half-open range that is empty outside of it."""
        first = min(self.side, max(0, math.floor(low)))
        return first, max(first, min(self.side, math.ceil(high) + 1))

    def _blend(self, mask: Mask, paint: Colour | Gradient, opacity: float, clip: Mask | None) -> None:
        seen = mask if clip is None else mask.within(clip)
        if seen is None or not seen.alpha.size:
            return
        below = self.planes[:, seen.rows, seen.columns]
        above = self._colours(paint, seen) if isinstance(paint, Gradient) else np.asarray(paint, np.float32)[:, None, None]
        change = np.subtract(above, below, out=self._scratch[: below.size].reshape(below.shape))
        weight = self._scratch[below.size :][: seen.alpha.size].reshape(seen.alpha.shape)
        change *= np.multiply(seen.alpha, np.float32(opacity), out=weight)
        below += change

    def _colours(self, gradient: Gradient, mask: Mask) -> np.ndarray:
        start, end = self._pixels([gradient.start, gradient.end])
        along = (end - start) / max(1e-9, ((end - start) ** 2).sum())
        part = ((np.arange(mask.rows.start, mask.rows.stop) - start[1]) * along[1]).astype(np.float32)[:, None]
        # A gradient down a slightly tilted head is as good as an upright one, and a single column of colours.
        if abs(along[0]) > 0.1 * abs(along[1]):
            part = part + ((np.arange(mask.columns.start, mask.columns.stop) - start[0]) * along[0]).astype(np.float32)
        part = np.minimum(1, np.maximum(0, part))
        first, last = (np.asarray(colour, np.float32)[:, None, None] for colour in gradient.colours)
        return first + part * (last - first)


def smooth(points: Points, per: int = 6) -> np.ndarray:
    """A closed curve through the points (Catmull and Rom's spline), `per` samples between neighbours."""
    p = np.asarray(points, np.float64)
    return _spline(np.concatenate([p[-1:], p, p[:2]]), per)


def curve(points: Points, per: int = 6) -> np.ndarray:
    """An open curve through the points."""
    p = np.asarray(points, np.float64)
    return np.concatenate([_spline(np.concatenate([2 * p[:1] - p[1:2], p, 2 * p[-1:] - p[-2:-1]]), per), p[-1:]])


def mirrored(right: Points) -> np.ndarray:
    """A symmetric outline from its right half, given from top to bottom."""
    p = np.asarray(right, np.float64)
    left = p[::-1] * (-1, 1)
    return np.concatenate([p, left[np.abs(left[:, 0]) > 1e-6]])


def symmetric(right: Points, per: int = 5) -> np.ndarray:
    """A smooth closed curve from its right half, given from top to bottom."""
    return smooth(mirrored(right), per)


def ellipse(center: tuple[float, float], rx: float, ry: float, angle: float = 0.0) -> np.ndarray:
    """angle: in radians, clockwise on the picture."""
    cos, sin = np.cos(angle), np.sin(angle)
    return _circle(28) * (rx, ry) @ np.array([[cos, sin], [-sin, cos]]) + center


def brush(points: Points, width: float, taper: tuple[float, float] = (1.0, 1.0)) -> np.ndarray:
    """The outline of a stroke along an open curve; see Canvas.line."""
    p = np.asarray(points, np.float64)
    along = np.concatenate([p[1:2] - p[:1], p[2:] - p[:-2], p[-1:] - p[-2:-1]])
    t, bulge = _profile(len(p))
    wide = (0.5 * width) * (bulge + (1 - bulge) * (taper[0] + (taper[1] - taper[0]) * t))
    wide /= np.maximum(1e-9, np.hypot(along[:, 0], along[:, 1]))
    offset = along[:, ::-1] * (-1, 1) * wide[:, None]
    return np.concatenate([p + offset, (p - offset)[::-1]])


def between(first: Points, last: Points, count: int, rng: np.random.Generator, stray: float) -> np.ndarray:
    """(count, m, 2) curves spread from one guide curve to another, each straying a little."""
    a, b = np.asarray(first, np.float64), np.asarray(last, np.float64)
    t = (np.arange(count)[:, None, None] + rng.uniform(0.1, 0.9, (count, 1, 1))) / count
    return a + t * (b - a) + rng.normal(0, stray, (count, 1, 2)) + rng.normal(0, stray / 3, (count, len(a), 2))


def mix(a: Colour, b: Colour, part: float) -> np.ndarray:
    """`part` of b in a."""
    a, b = np.asarray(a, np.float32), np.asarray(b, np.float32)
    return a + np.float32(part) * (b - a)


def shade(colour: Colour, factor: float) -> np.ndarray:
    """Darker (< 1) or lighter (> 1), towards white where it would be too bright."""
    c = np.asarray(colour, np.float32)
    return c * np.float32(factor) if factor <= 1 else mix(c, (1, 1, 1), min(1.0, factor - 1))


def _fixed(points: np.ndarray) -> np.ndarray:
    return np.rint(points * (1 << _SHIFT)).astype(np.int32)


def _spline(p: np.ndarray, per: int) -> np.ndarray:
    pieces = np.concatenate([p[:-3], p[1:-2], p[2:-1], p[3:]]).reshape(4, -1)
    return (_basis(per) @ pieces).reshape(per, -1, 2).swapaxes(0, 1).reshape(-1, 2)


@lru_cache
def _basis(per: int) -> np.ndarray:
    t = np.arange(per) / per
    powers = np.stack([np.ones(per), t, t**2, t**3], 1)
    return powers @ (0.5 * np.array([[0, 2, 0, 0], [-1, 0, 1, 0], [2, -5, 4, -1], [-1, 3, -3, 1]]))


@lru_cache
def _profile(count: int) -> tuple[np.ndarray, np.ndarray]:
    """Part of the way along a stroke, and how much it is its middle."""
    t = np.linspace(0, 1, count)
    return t, np.sin(np.pi * t)


@lru_cache
def _circle(count: int) -> np.ndarray:
    angle = np.linspace(0, 2 * np.pi, count, endpoint=False)
    return np.stack([np.cos(angle), np.sin(angle)], 1)
