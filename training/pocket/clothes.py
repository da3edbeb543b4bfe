"""Neck, shoulders and what people wear."""

from __future__ import annotations

import numpy as np

from training.pocket.attributes import Person
from training.pocket.drawing import Canvas, Gradient, Mask, curve, ellipse, mirrored, mix, shade, smooth
from training.pocket.heads import shadow_of
from training.pocket.look import Look
from training.pocket.palette import CLOTH, SKIN


def _shoulders(look: Look, person: Person) -> float:
    return 0.80 if person.age == "child" else 0.98 if person.gender == "man" else 0.88


def draw_body(canvas: Canvas, person: Person, look: Look) -> None:
    """Before the head. In the body's frame."""
    cloth = CLOTH[person.clothes_color]
    if person.clothes == "hoodie":
        _hood(canvas, look, cloth)
    _neck(canvas, person, look)
    torso = _torso(canvas, person, look, cloth)
    _CLOTHES[person.clothes](canvas, person, look, cloth, torso)
    canvas.glow((0, look.chin + 0.07), (0.26, 0.075), (0.10, 0.04, 0.06), opacity=0.3, clip=canvas.painted())


def _neck(canvas: Canvas, person: Person, look: Look) -> None:
    skin = SKIN[person.skin]
    half = 0.16 if person.age == "child" else 0.245 if person.gender == "man" else 0.19
    neck = mirrored(
        [
            (0, 0.3), (half, 0.3), (half, look.chin + 0.06), (half + 0.04, look.chin + 0.16), (half + 0.2, look.chin + 0.24),
            (half + 0.2, look.chin + 0.4), (0, look.chin + 0.4),
        ],
    )
    covered = canvas.mask(neck)
    canvas.paint(covered, Gradient((0, look.chin), (0, look.chin + 0.25), (mix(skin, shadow_of(skin), 0.8), skin)))
    chin = ellipse((0, look.chin + 0.02), 0.30, 0.12)
    canvas.fill(chin, shadow_of(skin) * np.float32(0.88), soft=0.03, opacity=0.75, clip=covered)
    for side in (-1, 1):
        bone = curve([(side * 0.06, look.chin + 0.285), (side * 0.2, look.chin + 0.255), (side * 0.36, look.chin + 0.245)], 4)
        canvas.line(bone, 0.02, shadow_of(skin), taper=(0.6, 0.1), soft=0.008, opacity=0.7)


def _torso(canvas: Canvas, person: Person, look: Look, cloth: np.ndarray) -> Mask:
    """Covers everything below the neck; each garment cuts its own neckline: (depth, half width)."""
    depth, half = {
        "t-shirt": (0.215, 0.25), "shirt": (0.20, 0.20), "suit": (0.19, 0.20), "hoodie": (0.20, 0.23), "sweater": (0.13, 0.22),
        "dress": (0.33, 0.30),
    }[person.clothes]
    top, wide = look.chin + 0.13, _shoulders(look, person)
    neckline = [(0, look.chin + depth), (half * 0.6, look.chin + depth - 0.03), (half, top)]
    right = [
        *neckline, (half + 0.12, top + 0.04), (0.66 * wide, top + 0.12), (0.92 * wide, top + 0.22),
        (1.02 * wide, top + 0.42), (1.05 * wide, 1.5), (0, 1.5),
    ]
    if person.clothes == "dress":
        right = [
            (0, look.chin + 0.34), (0.17, look.chin + 0.315), (0.27, look.chin + 0.24), (0.33, look.chin + 0.135),
            (0.43, look.chin + 0.16), (0.47, look.chin + 0.27), (0.50, 1.3), (0, 1.3),
        ]
        skin = SKIN[person.skin]
        arms = mirrored(
            [(0, top), (0.3, top + 0.05), (0.66 * wide, top + 0.13), (0.88 * wide, top + 0.24), (0.95 * wide, 1.5), (0, 1.5)]
        )
        canvas.fill(smooth(arms, 3), Gradient((0, top), (0, 1.0), (skin, mix(skin, shadow_of(skin), 0.6))))
        for side in (-1, 1):
            bone = curve([(side * 0.05, look.chin + 0.27), (side * 0.2, look.chin + 0.24), (side * 0.42, look.chin + 0.215)], 4)
            canvas.line(bone, 0.022, shadow_of(skin), taper=(0.6, 0.1), soft=0.008, opacity=0.6)
    shape = mirrored(curve(right, 3))
    torso = canvas.mask(shape)
    canvas.paint(torso, Gradient((0, top), (0, 1.15), (shade(cloth, 1.06), shade(cloth, 0.74))))
    for side in (-1, 1):
        canvas.glow((side * 0.5 * wide, top + 0.15), (0.16, 0.05), shade(cloth, 1.28), opacity=0.5, clip=torso)
        fold = curve([(side * 0.62 * wide, 1.1), (side * 0.60 * wide, top + 0.30), (side * 0.70 * wide, top + 0.22)], 4)
        canvas.line(fold, 0.05, shade(cloth, 0.55), taper=(1, 0.1), soft=0.016, opacity=0.75, clip=torso)
    return torso


def _t_shirt(canvas: Canvas, person: Person, look: Look, cloth: np.ndarray, torso: Mask) -> None:
    c = look.chin
    ring = curve([(-0.265, c + 0.125), (-0.16, c + 0.195), (0, c + 0.225), (0.16, c + 0.195), (0.265, c + 0.125)], 5)
    canvas.line(ring, 0.055, shade(cloth, 0.82))
    canvas.line(ring + (0, 0.03), 0.014, shade(cloth, 0.55), opacity=0.8)


def _collar(canvas: Canvas, look: Look, colour: np.ndarray, open_to: float) -> None:
    c = look.chin
    for side in (-1, 1):
        wing = np.array([(0.225, c + 0.06), (0.30, c + 0.17), (0.155, c + 0.335), (0.01, open_to), (0.09, c + 0.17)]) * (side, 1)
        canvas.fill(wing + (0.0, 0.022), shade(colour, 0.4), soft=0.014, opacity=0.6)
        canvas.fill(wing, Gradient((side * 0.25, c + 0.06), (side * 0.05, c + 0.33), (shade(colour, 1.15), shade(colour, 0.88))))
        canvas.line(wing[[1, 2, 3]], 0.013, shade(colour, 0.6), opacity=0.8)


def _shirt(canvas: Canvas, person: Person, look: Look, cloth: np.ndarray, torso: Mask) -> None:
    c = look.chin
    canvas.line([(0.0, c + 0.24), (0.0, 1.3)], 0.016, shade(cloth, 0.5))
    canvas.line([(0.055, c + 0.24), (0.055, 1.3)], 0.010, shade(cloth, 0.62), opacity=0.8)
    _collar(canvas, look, cloth, c + 0.245)
    button = (0.96, 0.95, 0.92) if cloth.mean() < 0.75 else (0.35, 0.35, 0.40)
    for y in (c + 0.33, c + 0.46):
        canvas.fill(ellipse((0.028, y), 0.019, 0.019), button)


def _suit(canvas: Canvas, person: Person, look: Look, cloth: np.ndarray, torso: Mask) -> None:
    c = look.chin
    white = CLOTH["white"] if person.clothes_color != "white" else np.array([0.62, 0.74, 0.90], np.float32)
    ties = [name for name in ("red", "blue", "black", "purple", "green", "yellow") if name != person.clothes_color]
    tie = CLOTH[ties[int(look.variant * 97) % len(ties)]]
    canvas.fill(
        [(-0.25, c + 0.12), (0.25, c + 0.12), (0.06, 1.25), (-0.06, 1.25)],
        Gradient((0, c + 0.1), (0, 1.1), (white, shade(white, 0.85))),
    )
    canvas.fill(
        [(-0.05, c + 0.20), (0.05, c + 0.20), (0.035, c + 0.27), (0.075, 1.2), (-0.075, 1.2), (-0.035, c + 0.27)],
        Gradient((-0.06, 0), (0.06, 0), (shade(tie, 1.1), shade(tie, 0.7))),
    )
    canvas.line([(-0.035, c + 0.272), (0.035, c + 0.272)], 0.016, shade(tie, 0.45))
    _collar(canvas, look, white, c + 0.215)
    for side in (-1, 1):
        lapel = np.array(
            [
                (0.235, c + 0.10), (0.33, c + 0.16), (0.40, c + 0.27), (0.31, c + 0.30), (0.33, c + 0.335), (0.08, 1.25),
                (0.04, 1.25),
            ],
        ) * (side, 1)
        canvas.fill(lapel + (side * 0.012, 0.02), shade(cloth, 0.3), soft=0.014, opacity=0.7)
        canvas.fill(lapel, Gradient((side * 0.35, c + 0.1), (side * 0.1, 1.0), (shade(cloth, 1.16), shade(cloth, 0.85))))
        canvas.line(lapel[[1, 2, 3, 4, 5]], 0.012, shade(cloth, 0.45), opacity=0.8)


def _hood(canvas: Canvas, look: Look, cloth: np.ndarray) -> None:
    c = look.chin
    hood = smooth(
        mirrored([(0, c - 0.30), (0.34, c - 0.26), (0.52, c - 0.06), (0.54, c + 0.16), (0.36, c + 0.30), (0, c + 0.3)]), 5,
    )
    canvas.fill(hood, Gradient((0, c - 0.3), (0, c + 0.25), (shade(cloth, 0.62), shade(cloth, 0.42))))
    canvas.line(hood, 0.045, shade(cloth, 0.9))


def _hoodie(canvas: Canvas, person: Person, look: Look, cloth: np.ndarray, torso: Mask) -> None:
    c = look.chin
    for side in (-1, 1):
        roll = np.array(
            [
                (0.27, c + 0.0), (0.46, c - 0.01), (0.55, c + 0.12), (0.42, c + 0.24), (0.20, c + 0.29), (0.0, c + 0.33),
                (0.0, c + 0.22), (0.17, c + 0.18),
            ],
        ) * (side, 1)
        shape = smooth(roll, 4)
        canvas.fill(shape + (0, 0.03), shade(cloth, 0.35), soft=0.02, opacity=0.6)
        canvas.fill(shape, Gradient((side * 0.5, c), (side * 0.1, c + 0.33), (shade(cloth, 1.18), shade(cloth, 0.8))))
    cord = (0.95, 0.94, 0.90) if cloth.mean() < 0.7 else (0.30, 0.30, 0.36)
    for side in (-1, 1):
        canvas.line(curve([(side * 0.11, c + 0.27), (side * 0.125, c + 0.37), (side * 0.105, c + 0.47)], 4), 0.026, cord)


def _sweater(canvas: Canvas, person: Person, look: Look, cloth: np.ndarray, torso: Mask) -> None:
    c = look.chin
    half = 0.205 if person.age == "child" else 0.28 if person.gender == "man" else 0.235
    band = mirrored([(0, c + 0.045), (half, c + 0.02), (half + 0.025, c + 0.17), (0, c + 0.225)])
    canvas.fill(band + (0, 0.025), shade(cloth, 0.4), soft=0.02, opacity=0.7)
    canvas.fill(band, Gradient((0, c + 0.02), (0, c + 0.22), (shade(cloth, 1.12), shade(cloth, 0.85))))
    ribs = [np.array([(x, c + 0.03), (x * 1.08, c + 0.215)]) for x in np.linspace(-half, half, 11)]
    canvas.strands(ribs, 0.016, shade(cloth, 0.6), opacity=0.7, clip=canvas.mask(band))
    knit = [np.array([(x, c + 0.27), (x * 1.04, 1.3)]) for x in np.linspace(-0.9, 0.9, 21)]
    canvas.strands(knit, 0.016, shade(cloth, 0.7), opacity=0.35, clip=torso)


def _dress(canvas: Canvas, person: Person, look: Look, cloth: np.ndarray, torso: Mask) -> None:
    c = look.chin
    edge = curve(
        [
            (-0.34, c + 0.13), (-0.27, c + 0.24), (-0.17, c + 0.315), (0, c + 0.34), (0.17, c + 0.315), (0.27, c + 0.24),
            (0.34, c + 0.13),
        ],
        4,
    )
    canvas.line(edge, 0.022, shade(cloth, 1.35))
    necklace = curve([(-0.2, c + 0.13), (-0.13, c + 0.215), (0, c + 0.25), (0.13, c + 0.215), (0.2, c + 0.13)], 4)
    canvas.strands([necklace], 0.014, (0.95, 0.80, 0.45), opacity=0.9)
    canvas.fill(ellipse((0, c + 0.262), 0.02, 0.02), (1, 0.88, 0.55))


_CLOTHES = {"t-shirt": _t_shirt, "shirt": _shirt, "suit": _suit, "hoodie": _hoodie, "sweater": _sweater, "dress": _dress}
