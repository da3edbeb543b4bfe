"""Hats, in the head's frame: a sun hat's brim is partly behind the head, everything else lies on it."""

from __future__ import annotations

import numpy as np

from training.pocket.attributes import Person
from training.pocket.drawing import Canvas, Gradient, Mask, curve, ellipse, mirrored, shade, symmetric
from training.pocket.heads import shadow_of
from training.pocket.look import Look
from training.pocket.palette import CLOTH, HAIR, SKIN


def draw_hat_behind(canvas: Canvas, person: Person) -> None:
    if person.hat == "sun hat":
        brim = ellipse((0, -0.42), 0.86, 0.25)
        canvas.fill(brim, shade(CLOTH[person.hat_color], 0.62))


def draw_hat(canvas: Canvas, person: Person, look: Look, face: Mask) -> None:
    if person.hat == "none":
        return
    {
        "cap": _baseball_cap, "beanie": _beanie, "sun hat": _sun_hat,
    }[person.hat](canvas, look, CLOTH[person.hat_color], face, person)


def _cast(canvas: Canvas, person: Person, face: Mask, y: float) -> None:
    canvas.fill(
        symmetric([(0, y), (0.3, y + 0.02), (0.5, y + 0.05), (0.5, -0.8), (0, -0.8)], 4),
        shadow_of(SKIN[person.skin]) * np.float32(0.8), soft=0.03, opacity=0.5, clip=face,
    )


def _dome(right: list[tuple[float, float]]) -> np.ndarray:
    return symmetric(right, 5)


def _baseball_cap(canvas: Canvas, look: Look, cloth: np.ndarray, face: Mask, person: Person) -> None:
    _cast(canvas, person, face, -0.27)
    dome = canvas.mask(_dome([(0, -0.84), (0.26, -0.80), (0.46, -0.60), (0.53, -0.34), (0.50, -0.27), (0.25, -0.33), (0, -0.35)]))
    canvas.paint(dome, Gradient((0, -0.85), (0, -0.25), (shade(cloth, 1.12), shade(cloth, 0.62))))
    canvas.glow((-look.side * 0.16, -0.70), (0.14, 0.07), shade(cloth, 1.4), opacity=0.6, clip=dome)
    for x in (-0.30, 0.30):
        canvas.line(
            curve([(x * 0.2, -0.84), (x * 1.1, -0.62), (x * 1.3, -0.33)], 4), 0.014, shade(cloth, 0.5), opacity=0.7, clip=dome,
        )
    canvas.fill(ellipse((0, -0.835), 0.045, 0.026), shade(cloth, 0.75))
    badge = CLOTH["white"] if cloth.mean() < 0.8 else CLOTH["blue"]
    canvas.fill(ellipse((0, -0.60), 0.115, 0.115), badge, depth=0.3)
    canvas.fill(_star(0.075) + (0, -0.60), cloth if cloth.mean() < 0.8 else CLOTH["white"], depth=0.3)
    top = curve([(-0.49, -0.29), (-0.33, -0.385), (0, -0.425), (0.33, -0.385), (0.49, -0.29)], 5)
    lip = curve([(0.49, -0.29), (0.43, -0.225), (0.25, -0.20), (0, -0.19), (-0.25, -0.20), (-0.43, -0.225), (-0.49, -0.29)], 5)
    visor = np.concatenate([top, lip])
    canvas.fill(visor + (0, 0.02), shade(cloth, 0.2), soft=0.012, opacity=0.7)
    canvas.fill(visor, Gradient((0, -0.42), (0, -0.19), (shade(cloth, 1.3), shade(cloth, 0.7))))
    canvas.line(lip + (0, -0.008), 0.022, shade(cloth, 0.42), taper=(0.2, 0.2))
    canvas.line(top, 0.02, shade(cloth, 0.4), taper=(0.4, 0.4))
    canvas.glow((-look.side * 0.12, -0.34), (0.16, 0.022), shade(cloth, 1.5), opacity=0.55)


def _star(radius: float) -> np.ndarray:
    angle = -np.pi / 2 + np.arange(10) * np.pi / 5
    reach = radius * np.where(np.arange(10) % 2, 0.45, 1.0)
    return np.stack([np.cos(angle) * reach, np.sin(angle) * reach], 1)


def _beanie(canvas: Canvas, look: Look, cloth: np.ndarray, face: Mask, person: Person) -> None:
    _cast(canvas, person, face, -0.28)
    dome = canvas.mask(_dome([(0, -0.87), (0.26, -0.82), (0.45, -0.64), (0.52, -0.38), (0.25, -0.38), (0, -0.38)]))
    canvas.paint(dome, Gradient((0, -0.9), (0, -0.35), (shade(cloth, 1.12), shade(cloth, 0.68))))
    canvas.glow((-look.side * 0.18, -0.72), (0.14, 0.09), shade(cloth, 1.35), opacity=0.5, clip=dome)
    ribs = [curve([(x * 0.35, -0.90), (x * 0.9, -0.66), (x, -0.38)], 4) for x in np.linspace(-0.5, 0.5, 12)]
    canvas.strands(ribs, 0.018, shade(cloth, 0.6), opacity=0.55, clip=dome)
    cuff = mirrored([(0, -0.475), (0.3, -0.465), (0.535, -0.43), (0.54, -0.24), (0.3, -0.275), (0, -0.285)])
    band = canvas.mask(cuff)
    canvas.paint(band, Gradient((0, -0.48), (0, -0.26), (shade(cloth, 1.22), shade(cloth, 0.8))))
    canvas.strands(
        [np.array([(x, -0.49), (x, -0.24)]) for x in np.linspace(-0.52, 0.52, 17)], 0.018, shade(cloth, 0.62), opacity=0.6,
        clip=band
    )
    canvas.line(
        curve([(-0.535, -0.43), (-0.3, -0.465), (0, -0.475), (0.3, -0.465), (0.535, -0.43)], 4), 0.014, shade(cloth, 0.4),
        opacity=0.7,
    )
    canvas.fill(ellipse((0, -0.875), 0.095, 0.085), shade(cloth, 1.15), soft=0.012)


def _sun_hat(canvas: Canvas, look: Look, cloth: np.ndarray, face: Mask, person: Person) -> None:
    _cast(canvas, person, face, -0.26)
    crown = canvas.mask(_dome([(0, -0.88), (0.25, -0.85), (0.43, -0.70), (0.51, -0.42), (0.25, -0.36), (0, -0.35)]))
    canvas.paint(crown, Gradient((0, -0.87), (0, -0.4), (shade(cloth, 1.15), shade(cloth, 0.78))))
    canvas.glow((-look.side * 0.14, -0.74), (0.12, 0.06), shade(cloth, 1.4), opacity=0.5, clip=crown)
    ribbon = HAIR["black"] if cloth.mean() > 0.35 else CLOTH["red"]
    canvas.line(curve([(-0.53, -0.45), (-0.25, -0.43), (0, -0.42), (0.25, -0.43), (0.53, -0.45)], 4), 0.10, ribbon, clip=crown)
    upper = curve([(-0.86, -0.40), (-0.6, -0.47), (-0.36, -0.44), (0, -0.395), (0.36, -0.44), (0.6, -0.47), (0.86, -0.40)], 5)
    lower = curve([(0.86, -0.40), (0.70, -0.29), (0.36, -0.235), (0, -0.225), (-0.36, -0.235), (-0.70, -0.29), (-0.86, -0.40)], 5)
    shape = np.concatenate([upper, lower])
    brim = canvas.mask(shape)
    canvas.fill(shape + (0, 0.02), shade(cloth, 0.25), soft=0.02, opacity=0.5)
    canvas.paint(brim, Gradient((0, -0.45), (0, -0.22), (shade(cloth, 1.22), shade(cloth, 0.72))))
    canvas.strands(
        [
            curve(
                np.array([(-0.78, -0.39), (-0.4, -0.37), (0, -0.33), (0.4, -0.37), (0.78, -0.39)]) + (0, dy), 4,
            ) for dy in (-0.02, 0.03, 0.075)
        ],
        0.014, shade(cloth, 0.62), opacity=0.5, clip=brim
    )
