"""Hair: what hangs behind the head and shoulders, and what lies on the head, with its strands and gleam."""

from __future__ import annotations

import numpy as np

from training.pocket.attributes import Person
from training.pocket.drawing import (
    Canvas,
    Gradient,
    Mask,
    Points,
    between,
    curve,
    ellipse,
    mirrored,
    mix,
    shade,
    smooth,
    symmetric,
)
from training.pocket.heads import shadow_of
from training.pocket.look import Look
from training.pocket.palette import HAIR, SKIN


def draw_hair_behind(canvas: Canvas, person: Person, look: Look, rng: np.random.Generator) -> None:
    """Before body and head: the mass that they stand before."""
    painters = {
        "long": _long_behind, "fringe": _long_behind, "bob": _bob_behind, "curly": _curly_behind, "afro": _afro_behind,
        "ponytail": _ponytail, "bun": _bun,
    }
    if person.hair_style in painters:
        painters[person.hair_style](canvas, person, look, rng)


def draw_hair(canvas: Canvas, person: Person, look: Look, face: Mask, rng: np.random.Generator) -> None:
    """After the head: hairline, crown and the locks beside the face."""
    painters = {
        "short": _short, "long": _parted, "bob": _parted, "fringe": _fringe, "curly": _curls, "afro": _afro, "ponytail": _sleek,
        "bun": _sleek,
    }
    if person.hair_style in painters:
        painters[person.hair_style](canvas, person, look, face, rng)


def _colours(person: Person) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(base, dark, gleam)"""
    hair = HAIR[person.hair_color]
    return hair, shade(hair, 0.60), mix(hair, (1, 0.96, 0.90), 0.22 if person.hair_color == "black" else 0.42)


def _mass(canvas: Canvas, person: Person, shape: np.ndarray, top: float, bottom: float, *, darker: float = 1.0) -> Mask:
    hair, dark, _ = _colours(person)
    covered = canvas.mask(shape)
    canvas.paint(covered, Gradient((0, top), (0, bottom), (shade(hair, darker), mix(hair, dark, 0.6) * np.float32(darker))))
    return covered


def _comb(
    canvas: Canvas,
    person: Person,
    covered: Mask,
    first: Points,
    last: Points,
    count: int,
    rng: np.random.Generator,
    *,
    stray: float = 0.012,
) -> None:
    """Dark and light strands between two guides, and a soft gleam on the light ones."""
    _, dark, gleam = _colours(person)
    strands = between(curve(first, 4), curve(last, 4), count, rng, stray)
    canvas.strands(strands[::2], 0.016, dark, opacity=0.5, clip=covered)
    canvas.strands(strands[1::2], 0.016, gleam, opacity=0.38, clip=covered)


def _shadow_on_face(canvas: Canvas, person: Person, shape: np.ndarray, face: Mask) -> None:
    canvas.fill(shape + (0, 0.03), shadow_of(SKIN[person.skin]) * np.float32(0.85), soft=0.022, opacity=0.6, clip=face)


def _crown(volume: float, sides: float) -> np.ndarray:
    """The hair's outer contour from the right side's lower end over the top to the left one."""
    right = [
        (0, -0.66 - volume), (0.24, -0.635 - volume), (0.43, -0.47 - 0.8 * volume), (0.475 + 0.55 * volume, -0.22),
        (0.475 + 0.45 * volume, sides),
    ]
    p = np.array(right)
    return np.concatenate([p[::-1], p[1:] * (-1, 1)])


def _cap(hairline: list[tuple[float, float]], volume: float, sides: float) -> np.ndarray:
    """Hair on the skull, down to a hairline given from the left side's lower end to the right one's."""
    return np.concatenate([curve(_crown(volume, sides), 5), curve(hairline, 5)])


def _short(canvas: Canvas, person: Person, look: Look, face: Mask, rng: np.random.Generator) -> None:
    """Swept to the side, up, or tousled: `look.variant` decides."""
    volume = 0.05 + 0.06 * look.variant
    hairline = [(0.30, -0.36), (0.12, -0.405), (-0.10, -0.42 - 0.03 * look.variant), (-0.30, -0.385)]
    if look.variant < 0.3:
        hairline = [(0.31, -0.30), (0.18, -0.31), (0.0, -0.345), (-0.18, -0.42), (-0.31, -0.385)]
    inner = [(0.446, 0.115), (0.415, -0.06), (0.395, -0.24), *hairline, (-0.395, -0.24), (-0.415, -0.06), (-0.446, 0.115)]
    crown = curve(_crown(volume, 0.02), 6)
    if look.variant > 0.55:
        spikes = (np.arange(len(crown)) % 4 == 0) * np.clip((-0.3 - crown[:, 1]) / 0.2, 0, 1)
        crown = crown * (1 + 0.09 * spikes * rng.uniform(0.5, 1, len(crown)))[:, None]
    shape = np.concatenate([crown, curve(inner[::-1], 5)]) * (look.side, 1)
    _shadow_on_face(canvas, person, shape, face)
    covered = _mass(canvas, person, shape, -0.75, 0.0)
    _, dark, gleam = _colours(person)
    canvas.glow((-look.side * 0.12, -0.58), (0.22, 0.07), gleam, opacity=0.45, clip=covered)
    for low, high in ((-0.43, -0.05), (-0.16, 0.3)):
        first = np.array([(low, -0.36), (low - 0.03, -0.55), (low + 0.15, -0.72 - volume)]) * (look.side, 1)
        last = np.array([(high, -0.30), (high + 0.05, -0.58), (high + 0.22, -0.68 - volume)]) * (look.side, 1)
        _comb(canvas, person, covered, first, last, 20, rng)
    for side in (-1, 1):
        first, last = [(0.42, -0.36), (0.45, -0.15), (0.445, 0.08)], [(0.5, -0.36), (0.52, -0.15), (0.49, 0.08)]
        _comb(canvas, person, covered, np.array(first) * (side, 1), np.array(last) * (side, 1), 8, rng)
    part = curve(np.array([(-0.26, -0.40), (-0.24, -0.56), (-0.12, -0.70)]) * (look.side, 1), 5)
    canvas.line(part, 0.022, dark, taper=(0.2, 0.1), soft=0.006, opacity=0.7, clip=covered)


def _parting(look: Look) -> float:
    return look.side * 0.16 * look.variant


def _long_behind(canvas: Canvas, person: Person, look: Look, rng: np.random.Generator) -> None:
    wave = 0.03 * np.sin(6 * look.variant)
    shape = symmetric(
        [
            (0, -0.74), (0.30, -0.70), (0.50, -0.46), (0.56, -0.10), (0.57 + wave, 0.30), (0.62 - wave, 0.70), (0.60, 1.10),
            (0, 1.15),
        ],
        5,
    )
    covered = _mass(canvas, person, shape, -0.3, 0.9, darker=0.85)
    for side in (-1, 1):
        _comb(
            canvas, person, covered, [(side * 0.40, -0.3), (side * 0.42, 0.3), (side * 0.36, 1.3)],
            [(side * 0.55, -0.3), (side * 0.57, 0.3), (side * 0.62, 1.3)], 16, rng,
        )


def _bob_behind(canvas: Canvas, person: Person, look: Look, rng: np.random.Generator) -> None:
    shape = symmetric(
        [
            (0, -0.74), (0.30, -0.70), (0.50, -0.46), (0.57, -0.10), (0.61, 0.20), (0.58, 0.46), (0.46, 0.55), (0.30, 0.52),
            (0, 0.50),
        ],
        5,
    )
    _mass(canvas, person, shape, -0.3, 0.6, darker=0.7)


def _parted(canvas: Canvas, person: Person, look: Look, face: Mask, rng: np.random.Generator) -> None:
    """Two curtains from the parting, past the temples, down before the ears."""
    bob = person.hair_style == "bob"
    x0 = _parting(look)
    for side in (-1, 1):
        low = 0.50 if bob else 1.3
        outer = [
            (x0, -0.745), (side * 0.28, -0.71), (side * 0.50, -0.47), (side * 0.565, -0.10),
            (side * (0.60 if bob else 0.58), 0.22),
        ]
        tail = [(side * 0.585, 0.42), (side * 0.47, low + 0.02), (side * 0.40, 0.42)] if bob else [
            (side * 0.62, 0.66), (side * 0.58, low), (side * 0.36, low), (side * 0.44, 0.66),
        ]
        inner = [
            (side * 0.425, 0.20), (side * 0.435, -0.05), (side * 0.40, -0.24), (side * 0.27, -0.40), (x0 + side * 0.05, -0.50),
            (x0, -0.54),
        ]
        shape = curve([*outer, *tail, *inner], 5)
        _shadow_on_face(canvas, person, shape, face)
        covered = _mass(canvas, person, shape, -0.75, 0.75 if bob else 1.0)
        _, dark, gleam = _colours(person)
        canvas.glow((side * 0.30, -0.52), (0.13, 0.07), gleam, opacity=0.5, clip=covered)
        canvas.glow((side * 0.52, 0.12), (0.05, 0.12), gleam, opacity=0.3, clip=covered)
        first = [(x0 + side * 0.01, -0.57), (side * 0.27, -0.42), (side * 0.42, -0.15), (side * 0.42, 0.25), (side * 0.40, low)]
        last = [(x0 + side * 0.01, -0.73), (side * 0.33, -0.66), (side * 0.54, -0.25), (side * 0.585, 0.25), (side * 0.58, low)]
        _comb(canvas, person, covered, first, last, 22, rng, stray=0.010)
        canvas.line(curve(inner, 5), 0.016, dark, taper=(0.6, 0.3), soft=0.004, opacity=0.7)


def _fringe(canvas: Canvas, person: Person, look: Look, face: Mask, rng: np.random.Generator) -> None:
    for side in (-1, 1):
        lock = [
            (side * 0.40, -0.45), (side * 0.52, -0.45), (side * 0.575, -0.05), (side * 0.585, 0.35), (side * 0.61, 0.75),
            (side * 0.57, 1.3), (side * 0.37, 1.3), (side * 0.44, 0.66), (side * 0.415, 0.25), (side * 0.425, -0.05),
        ]
        covered = _mass(canvas, person, smooth(lock, 5), -0.7, 1.0)
        _comb(
            canvas, person, covered, [(side * 0.42, -0.4), (side * 0.42, 0.2), (side * 0.40, 1.3)],
            [(side * 0.53, -0.4), (side * 0.58, 0.2), (side * 0.60, 1.3)], 14, rng,
        )
    teeth = np.linspace(-0.44, 0.44, 15)
    edge = [
        (x, -0.185 - 0.05 * (abs(x) < 0.4) * (1 - abs(x) / 0.44) * 0.4 + (0.012 if i % 2 else -0.022)) for i,
        x in enumerate(teeth)
    ]
    shape = _cap([(-0.47, -0.02), *edge, (0.47, -0.02)], 0.085, 0.0)
    _shadow_on_face(canvas, person, shape, face)
    covered = _mass(canvas, person, shape, -0.8, 0.05)
    _, _, gleam = _colours(person)
    canvas.line(
        curve([(-0.40, -0.42), (-0.2, -0.49), (0, -0.51), (0.2, -0.49), (0.40, -0.42)], 5), 0.10, gleam, taper=(0.2, 0.2),
        soft=0.03, opacity=0.5, clip=covered,
    )
    _comb(
        canvas, person, covered, [(-0.10, -0.72), (-0.36, -0.58), (-0.46, -0.16)],
        [(0.10, -0.72), (0.36, -0.58), (0.46, -0.16)], 40, rng, stray=0.008,
    )


def _sleek(canvas: Canvas, person: Person, look: Look, face: Mask, rng: np.random.Generator) -> None:
    """Combed tightly back from the forehead."""
    hairline = [
        (-0.465, 0.06), (-0.415, -0.06), (-0.385, -0.24), (-0.27, -0.40), (0, -0.455), (0.27, -0.40), (0.385, -0.24),
        (0.415, -0.06), (0.465, 0.06),
    ]
    shape = _cap(hairline, 0.05, 0.04)
    _shadow_on_face(canvas, person, shape, face)
    covered = _mass(canvas, person, shape, -0.75, 0.05)
    _, _, gleam = _colours(person)
    canvas.line(
        curve([(-0.40, -0.36), (-0.24, -0.52), (0, -0.575), (0.24, -0.52), (0.40, -0.36)], 5), 0.09, gleam, taper=(0.2, 0.2),
        soft=0.025, opacity=0.55, clip=covered,
    )
    goal = (look.side * 0.22, -0.76)
    for side in (-1, 1):
        _comb(
            canvas, person, covered, [(0, -0.44), (goal[0] * 0.5, -0.6), goal], [(side * 0.44, 0.0), (side * 0.46, -0.4), goal],
            24, rng, stray=0.006,
        )


def _ponytail(canvas: Canvas, person: Person, look: Look, rng: np.random.Generator) -> None:
    s = look.side
    path = [(0.26, -0.66), (0.50, -0.72), (0.68, -0.45), (0.70, 0.0), (0.66, 0.40), (0.72, 0.80)]
    inner = [(0.30, -0.50), (0.44, -0.48), (0.50, -0.25), (0.47, 0.05), (0.48, 0.40), (0.60, 0.72)]
    band = [(0.30, -0.72), (0.37, -0.62), (0.38, -0.50)]
    if person.hat != "none":
        path = [(0.38, -0.24), (0.58, -0.30), (0.70, -0.12), (0.71, 0.20), (0.66, 0.50), (0.72, 0.88)]
        inner = [(0.38, -0.10), (0.48, -0.10), (0.52, 0.06), (0.49, 0.25), (0.49, 0.50), (0.60, 0.80)]
        band = [(0.46, -0.32), (0.50, -0.20), (0.49, -0.08)]
    shape = np.concatenate([curve(path, 5), curve(inner, 5)[::-1]]) * (s, 1)
    covered = _mass(canvas, person, shape, -0.7, 0.8)
    _, _, gleam = _colours(person)
    canvas.glow((s * 0.60, -0.30), (0.05, 0.13), gleam, opacity=0.5, clip=covered)
    _comb(canvas, person, covered, np.array(path) * (s, 1), np.array(inner) * (s, 1), 18, rng)
    canvas.line(curve(np.array(band) * (s, 1), 4), 0.055, (0.85, 0.25, 0.30))


def _bun(canvas: Canvas, person: Person, look: Look, rng: np.random.Generator) -> None:
    center = (look.side * 0.10, -0.77)
    covered = _mass(canvas, person, ellipse(center, 0.20, 0.165), -0.95, -0.6)
    _, dark, gleam = _colours(person)
    canvas.glow((center[0] - 0.05, center[1] - 0.06), (0.08, 0.05), gleam, opacity=0.6, clip=covered)
    rings = [
        ellipse((center[0] + rng.normal(0, 0.01), center[1] + 0.03), 0.20 * r, 0.165 * r) for r in (0.25, 0.45, 0.62, 0.8, 0.93)
    ]
    canvas.strands(rings, 0.016, dark, opacity=0.5, clip=covered, closed=True)


def _tufts(
    canvas: Canvas,
    person: Person,
    centers: np.ndarray,
    radius: float,
    rng: np.random.Generator,
    clip: Mask | None = None,
) -> None:
    """Curls: small dark and light arcs."""
    _, dark, gleam = _colours(person)
    start = rng.uniform(0, 2 * np.pi, len(centers))
    angle = start[:, None] + np.linspace(0, 4.2, 9)
    r = radius * rng.uniform(0.6, 1.1, (len(centers), 1)) * np.linspace(1, 0.75, 9)
    arcs = np.stack([np.cos(angle) * r, np.sin(angle) * r], 2) + centers[:, None]
    half = len(arcs) // 2
    width = 0.008 + 0.2 * radius
    canvas.strands(arcs[:half], width, dark, opacity=0.5, clip=clip)
    canvas.strands(arcs[half:], width, gleam, opacity=0.38, clip=clip)


def _cloud(points: np.ndarray, bump: float, rng: np.random.Generator) -> np.ndarray:
    """A bumpy outline along a smooth one."""
    outer = points * (1 + bump * rng.uniform(0.3, 1, (len(points), 1)))
    woven = np.empty((2 * len(points), 2))
    woven[::2], woven[1::2] = points, (outer + np.roll(outer, -1, 0)) / 2
    return smooth(woven, 4)


def _curly_behind(canvas: Canvas, person: Person, look: Look, rng: np.random.Generator) -> None:
    base = smooth(
        mirrored([(0, -0.70), (0.34, -0.66), (0.56, -0.40), (0.64, 0.0), (0.68, 0.40), (0.58, 0.74), (0.3, 0.78), (0, 0.7)]), 3,
    )
    covered = _mass(canvas, person, _cloud(base, 0.10, rng), -0.5, 0.8, darker=0.85)
    centers = np.stack([rng.uniform(-0.72, 0.72, 170), rng.uniform(-0.7, 0.8, 170)], 1)
    _tufts(canvas, person, centers, 0.06, rng, covered)


def _curls(canvas: Canvas, person: Person, look: Look, face: Mask, rng: np.random.Generator) -> None:
    """A crown of curls around the forehead, and some down the cheeks."""
    x = np.linspace(-0.40, 0.40, 8)
    edge = [(p, -0.36 - 0.10 * (1 - (p / 0.4) ** 2) + rng.uniform(-0.01, 0.05)) for p in x]
    crown = _crown(0.10, 0.10)
    outer = crown * (1 + 0.05 * (np.arange(len(crown)) % 2)[:, None])
    shape = np.concatenate(
        [
            curve(outer, 5),
            curve([(-0.46, 0.25), (-0.40, 0.05), (-0.425, -0.15), *edge, (0.425, -0.15), (0.40, 0.05), (0.46, 0.25)], 5),
        ],
    )
    _shadow_on_face(canvas, person, shape, face)
    covered = _mass(canvas, person, shape, -0.8, 0.2)
    _, _, gleam = _colours(person)
    canvas.glow((-0.15, -0.62), (0.25, 0.08), gleam, opacity=0.35, clip=covered)
    angle = rng.uniform(np.pi, 2 * np.pi, 90)
    ring = np.stack([np.cos(angle) * rng.uniform(0.40, 0.56, 90), -0.18 + np.sin(angle) * rng.uniform(0.25, 0.58, 90)], 1)
    _tufts(canvas, person, ring, 0.05, rng, covered)


def _afro_behind(canvas: Canvas, person: Person, look: Look, rng: np.random.Generator) -> None:
    base = ellipse((0, -0.22), 0.70, 0.66)
    covered = _mass(canvas, person, _cloud(base + (0, 0.22), 0.05, rng) - (0, 0.22), -0.8, 0.5)
    _, _, gleam = _colours(person)
    canvas.glow((-look.side * 0.25, -0.62), (0.28, 0.14), gleam, opacity=0.45, clip=covered)
    radius = np.sqrt(rng.uniform(0.25, 1, 260))
    angle = rng.uniform(0, 2 * np.pi, 260)
    _tufts(
        canvas, person, np.stack([0.70 * radius * np.cos(angle), -0.22 + 0.66 * radius * np.sin(angle)], 1), 0.028, rng,
        covered,
    )


def _afro(canvas: Canvas, person: Person, look: Look, face: Mask, rng: np.random.Generator) -> None:
    x = np.linspace(-0.38, 0.38, 10)
    edge = [(p, -0.30 - 0.13 * (1 - (p / 0.38) ** 2) + rng.uniform(-0.012, 0.012)) for p in x]
    shape = _cap([(-0.47, 0.10), (-0.42, -0.05), (-0.41, -0.2), *edge, (0.41, -0.2), (0.42, -0.05), (0.47, 0.10)], 0.02, 0.08)
    _shadow_on_face(canvas, person, shape, face)
    covered = _mass(canvas, person, shape, -0.75, -0.1)
    angle = rng.uniform(np.pi, 2 * np.pi, 110)
    ring = np.stack([np.cos(angle) * rng.uniform(0.38, 0.50, 110), -0.15 + np.sin(angle) * rng.uniform(0.25, 0.52, 110)], 1)
    _tufts(canvas, person, ring, 0.028, rng, covered)
