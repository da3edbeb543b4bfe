"""What is behind the person: painted small and slightly out of focus, so that it is quick and the face stands out."""

from __future__ import annotations

from collections.abc import Callable

import cv2
import numpy as np

from training.pocket.attributes import Person
from training.pocket.drawing import Canvas, Colour, Gradient, brush, curve, ellipse, mix, shade
from training.pocket.palette import WALL

_LEAST_SIDE = 128
_COARSE = 4
"""Backgrounds are painted this many times as coarsely as the figure, but never on fewer pixels than _LEAST_SIDE."""


def draw_background(behind: Canvas, person: Person, rng: np.random.Generator) -> None:
    canvas = Canvas(max(_LEAST_SIDE, behind.side // _COARSE))
    if person.background == "plain":
        _plain(canvas, rng, WALL[person.background_color])
    else:
        _SCENES[person.background](canvas, rng)
    for small, plane in zip(canvas.planes, behind.planes, strict=True):
        cv2.resize(small, plane.shape, dst=plane, interpolation=cv2.INTER_LINEAR)


def _sweep(canvas: Canvas, top: Colour, bottom: Colour, start: float = -1.0, end: float = 1.0) -> None:
    canvas.paint(canvas.everywhere(), Gradient((0, start), (0, end), (top, bottom)))


def _plain(canvas: Canvas, rng: np.random.Generator, colour: np.ndarray) -> None:
    dark, light = shade(colour, 0.86), shade(colour, 1.12)
    _sweep(canvas, colour, dark)
    canvas.glow((rng.uniform(-0.5, 0.5), -0.3), 0.7, light, opacity=0.7)


def _clouds(canvas: Canvas, rng: np.random.Generator, colour: Colour, count: int, low: float) -> None:
    for _ in range(count):
        x, y = rng.uniform(-1, 1), rng.uniform(-0.95, low)
        size = rng.uniform(0.7, 1.25)
        for dx in np.linspace(-0.22, 0.22, 5):
            lift = rng.uniform(0, 0.07) * (1 - abs(dx) / 0.3)
            canvas.glow((x + dx * size, y - lift * size), (0.075 * size, 0.055 * size), colour, opacity=0.85)
        canvas.glow((x, y + 0.045 * size), (0.2 * size, 0.02 * size), mix(colour, (0.55, 0.66, 0.85), 0.6), opacity=0.5)


def _sky(canvas: Canvas, rng: np.random.Generator) -> None:
    _sweep(canvas, (0.22, 0.52, 0.93), (0.74, 0.90, 1.0))
    _clouds(canvas, rng, (1, 1, 1), 7, 0.7)


def _forest(canvas: Canvas, rng: np.random.Generator) -> None:
    _sweep(canvas, (0.50, 0.72, 0.38), (0.10, 0.26, 0.13))
    canvas.glow((rng.uniform(-0.8, 0.8), -0.8), 0.5, (0.93, 0.97, 0.66), opacity=0.7)
    for x in np.linspace(-1, 1, 7) + rng.uniform(-0.1, 0.1, 7):
        far = rng.uniform(0, 1)
        bark = mix((0.24, 0.15, 0.09), (0.36, 0.42, 0.24), far)
        lean = rng.uniform(-0.06, 0.06)
        trunk = brush(curve([(x, 1.1), (x + lean / 2, 0), (x + lean, -1.1)], 4), 0.15 - 0.08 * far, (1.3, 0.7))
        canvas.fill(trunk, bark, soft=0.012 + 0.015 * far)
    for _ in range(32):
        x, y = rng.uniform(-1.05, 1.05), rng.choice((rng.uniform(-1.05, -0.45), rng.uniform(0.3, 1.05)))
        leaf = mix((0.11, 0.34, 0.13), (0.56, 0.76, 0.28), rng.random() * (0.5 - 0.4 * y))
        canvas.glow((x, y), rng.uniform(0.05, 0.12), leaf, opacity=0.8)
    for _ in range(8):
        canvas.glow(tuple(rng.uniform(-1, 1, 2) * (1, 0.7) - (0, 0.3)), 0.035, (0.90, 0.97, 0.60), opacity=0.6)


def _beach(canvas: Canvas, rng: np.random.Generator) -> None:
    horizon, shore = rng.uniform(-0.2, -0.05), rng.uniform(0.32, 0.45)
    _sweep(canvas, (0.40, 0.74, 0.97), (0.86, 0.96, 1.0), -1, horizon)
    _clouds(canvas, rng, (1, 1, 1), 2, -0.5)
    sea = [(-1.1, horizon), (1.1, horizon), (1.1, 1.1), (-1.1, 1.1)]
    canvas.fill(sea, Gradient((0, horizon), (0, shore), ((0.05, 0.40, 0.66), (0.24, 0.76, 0.78))), soft=0.008)
    for _ in range(14):
        x, y = rng.uniform(-1, 1), rng.uniform(horizon + 0.03, shore)
        canvas.fill(ellipse((x, y), rng.uniform(0.06, 0.2), 0.012), (0.75, 0.95, 0.97), soft=0.008, opacity=0.6)
    wave = [(x, shore + 0.03 * np.sin(3 * x + horizon * 40)) for x in np.linspace(-1.1, 1.1, 9)]
    canvas.fill([*wave, (1.1, 1.1), (-1.1, 1.1)], (0.97, 0.86, 0.62), soft=0.01)
    canvas.line(wave, 0.05, (1, 1, 1), soft=0.012)


def _night(canvas: Canvas, rng: np.random.Generator) -> None:
    _sweep(canvas, (0.03, 0.04, 0.14), (0.13, 0.17, 0.40))
    canvas.glow((rng.uniform(-1, 1), rng.uniform(-0.5, 0.5)), (0.9, 0.25), (0.27, 0.22, 0.50), opacity=0.5)
    for x, y, size in zip(rng.uniform(-1, 1, 60), rng.uniform(-1, 1, 60), rng.uniform(0.4, 1, 60), strict=True):
        canvas.glow((x, y), 0.010 + 0.010 * size**3, (1, 0.98, 0.88), opacity=0.5 + 0.5 * size)
    x, y = rng.choice((-0.74, 0.74)) + rng.uniform(-0.06, 0.06), rng.uniform(-0.76, -0.55)
    canvas.glow((x, y), 0.2, (0.55, 0.60, 0.85), opacity=0.5)
    angle = np.linspace(0.35, 2 * np.pi - 0.35, 20)
    outer = np.stack([np.cos(angle), np.sin(angle)], 1)
    inner = outer[::-1] * (0.72, 0.82) + (0.36, 0)
    canvas.fill(np.concatenate([outer, inner]) * 0.13 + (x, y), (1, 0.96, 0.80), soft=0.006)


def _room(canvas: Canvas, rng: np.random.Generator) -> None:
    wall = mix((0.86, 0.78, 0.66), (0.72, 0.78, 0.74), rng.random())
    _sweep(canvas, wall, shade(wall, 0.72))
    side = rng.choice((-1, 1))
    _shelf(canvas, rng, side)
    x, y = -side * 0.68, -0.42
    canvas.fill(_rectangle(x, y, 0.27, 0.36), (0.97, 0.95, 0.92), soft=0.008)
    canvas.fill(_rectangle(x, y, 0.225, 0.315), Gradient((x, y - 0.3), (x, y + 0.3), ((0.50, 0.76, 0.97), (0.90, 0.97, 1.0))))
    canvas.glow((x - 0.05, y + 0.26), (0.17, 0.08), (0.45, 0.68, 0.40), opacity=0.9)
    for bar in (_rectangle(x, y, 0.018, 0.33), _rectangle(x, y, 0.24, 0.018)):
        canvas.fill(bar, (0.97, 0.95, 0.92), soft=0.006)
    canvas.fill(_rectangle(x, y + 0.38, 0.31, 0.03), (0.93, 0.90, 0.85), soft=0.006)


def _shelf(canvas: Canvas, rng: np.random.Generator, side: int) -> None:
    left, right = sorted((side * 0.42, side * 1.05))
    canvas.fill([(left, -1.1), (right, -1.1), (right, 1.1), (left, 1.1)], (0.36, 0.23, 0.14), soft=0.01)
    books = [
        (0.66, 0.20, 0.18), (0.20, 0.36, 0.52), (0.82, 0.64, 0.26), (0.26, 0.46, 0.32), (0.86, 0.82, 0.72), (0.46, 0.27, 0.46),
    ]
    for y in (-0.56, -0.04, 0.48, 1.0):
        x = left + 0.06
        while x < right - 0.04:
            width, height = rng.uniform(0.05, 0.09), rng.uniform(0.30, 0.42)
            canvas.fill([(x, y - height), (x + width, y - height), (x + width, y), (x, y)], books[rng.integers(6)], soft=0.005)
            x += width + 0.008
        canvas.fill([(left, y), (right, y), (right, y + 0.05), (left, y + 0.05)], (0.56, 0.37, 0.22), soft=0.006)


def _bricks(canvas: Canvas, rng: np.random.Generator) -> None:
    _sweep(canvas, (0.80, 0.75, 0.69), (0.68, 0.63, 0.58))
    shift = rng.uniform(0, 0.3)
    places = [
        (x + (row % 2) * 0.19 + shift, y) for row,
        y in enumerate(np.arange(-1.05, 1.1, 0.18)) for x in np.arange(-1.4, 1.0, 0.38)
    ]
    kinds = rng.integers(0, 4, len(places))
    for kind, colour in enumerate(((0.66, 0.29, 0.21), (0.60, 0.27, 0.20), (0.71, 0.34, 0.25), (0.55, 0.24, 0.19))):
        bricks = [place for place, own in zip(places, kinds, strict=True) if own == kind]
        canvas.tiles([_rectangle(x, y, 0.172, 0.072) for x, y in bricks], colour)
        canvas.tiles([_rectangle(x, y - 0.05, 0.160, 0.016) for x, y in bricks], shade(colour, 1.12))


def _sunset(canvas: Canvas, rng: np.random.Generator) -> None:
    horizon = rng.uniform(0.12, 0.3)
    _sweep(canvas, (0.31, 0.20, 0.50), (0.98, 0.47, 0.32), -1, -0.15)
    canvas.fill([(-1.1, -0.3), (1.1, -0.3), (1.1, 1.1), (-1.1, 1.1)], (1.0, 0.70, 0.30), soft=0.2, opacity=0.9)
    x = rng.choice((-1, 1)) * rng.uniform(0.62, 0.8)
    for _ in range(5):
        y = rng.uniform(-0.8, -0.15)
        canvas.fill(ellipse((rng.uniform(-1, 1), y), rng.uniform(0.25, 0.5), 0.035), (0.96, 0.42, 0.45), soft=0.035, opacity=0.75)
    canvas.glow((x, horizon - 0.16), 0.3, (1, 0.86, 0.45), opacity=0.8)
    canvas.fill(ellipse((x, horizon - 0.16), 0.14, 0.14), (1, 0.95, 0.72), soft=0.01)
    hills = [(h, horizon + 0.07 * np.sin(2.3 * h + 7 * x)) for h in np.linspace(-1.1, 1.1, 9)]
    canvas.fill(
        [*curve(hills, 3), (1.1, 1.1), (-1.1, 1.1)], Gradient((0, horizon), (0, 1), ((0.36, 0.15, 0.33), (0.14, 0.07, 0.20))),
        soft=0.012,
    )


def _rectangle(x: float, y: float, half_width: float, half_height: float) -> np.ndarray:
    return np.array([(-1, -1), (1, -1), (1, 1), (-1, 1)]) * (half_width, half_height) + (x, y)


_SCENES: dict[str, Callable[[Canvas, np.random.Generator], None]] = {
    "sky": _sky,
    "forest": _forest,
    "beach": _beach,
    "night": _night,
    "room": _room,
    "bricks": _bricks,
    "sunset": _sunset,
}
