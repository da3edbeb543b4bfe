"""The head: skin, ears, eyes, brows, nose, mouth, beard and glasses, all in the head's frame (see `look.Look`)."""

from __future__ import annotations

import numpy as np

from training.pocket.attributes import Person
from training.pocket.drawing import Canvas, Gradient, Mask, Points, between, brush, curve, ellipse, mix, shade, smooth, symmetric
from training.pocket.look import Look
from training.pocket.palette import EYES, HAIR, SKIN

_OPEN = {"neutral": 0.95, "smile": 0.88, "laughing": 0.66, "sad": 0.82, "surprised": 1.32, "angry": 0.80}
"""How far the eyes are open."""

_BROWS = {
    "neutral": (0.0, 0.0, 0.0),
    "smile": (-0.022, -0.014, 0.004),
    "laughing": (-0.036, -0.034, -0.006),
    "sad": (-0.065, -0.02, 0.035),
    "surprised": (-0.06, -0.085, -0.06),
    "angry": (0.062, 0.02, -0.035),
}
"""How far the brows' inner end, arch and outer end move down."""


def shadow_of(skin: np.ndarray) -> np.ndarray:
    return skin * np.array([0.76, 0.62, 0.60], np.float32)


def outline(look: Look) -> np.ndarray:
    """The face's contour, from the crown to the chin."""
    jaw, cheek, chin = look.jaw, look.cheek, look.chin
    right = [
        (0, -0.63),
        (0.25, -0.59),
        (0.41 * cheek, -0.40),
        (0.455 * cheek, -0.15),
        (0.452 * cheek, 0.05),
        (0.43 * cheek * (0.6 + 0.4 * jaw), 0.33 * chin),
        (0.365 * jaw, 0.62 * chin),
        (0.245 * jaw, 0.86 * chin),
        (0.10 * jaw, 0.985 * chin),
        (0, chin),
    ]
    return symmetric(right, 4)


def draw_head(canvas: Canvas, person: Person, look: Look, rng: np.random.Generator) -> Mask:
    """Paints the head without hair on it. Returns what the face covers."""
    skin = SKIN[person.skin]
    _ears(canvas, look, skin)
    face = canvas.mask(outline(look))
    _skin(canvas, person, look, skin, face)
    if person.age == "old":
        _wrinkles(canvas, look, skin, face)
    if person.facial_hair == "beard":
        _beard(canvas, person, look, rng)
    _nose(canvas, look, skin, face)
    _mouth(canvas, person, look, skin, face)
    if person.facial_hair != "none":
        _moustache(canvas, person, look, rng)
    for side in (-1, 1):
        _eye(canvas, person, look, skin, side)
        _brow(canvas, person, look, side, rng)
    return face


def _ears(canvas: Canvas, look: Look, skin: np.ndarray) -> None:
    for side in (-1, 1):
        x = side * 0.462 * look.cheek
        canvas.fill(ellipse((x, 0.09), 0.062, 0.125, side * 0.15), Gradient((x, -0.05), (x, 0.22), (skin, shadow_of(skin))))
        canvas.fill(ellipse((x + side * 0.012, 0.09), 0.03, 0.075, side * 0.15), shadow_of(skin), soft=0.012, opacity=0.7)


def _skin(canvas: Canvas, person: Person, look: Look, skin: np.ndarray, face: Mask) -> None:
    shadow, light = shadow_of(skin), mix(skin, (1, 0.95, 0.86), 0.32)
    warm = mix(skin, (0.90, 0.22, 0.18), 0.32)
    canvas.paint(face, Gradient((0, -0.4), (0, look.chin + 0.1), (mix(skin, light, 0.25), mix(skin, shadow, 0.2))))
    inner = outline(look) * (0.86, 0.9)
    canvas.paint(face.without(canvas.mask(inner, soft=0.075)), shadow, opacity=0.55)
    canvas.glow((0, -0.33), (0.2, 0.11), light, opacity=0.75, clip=face)
    canvas.glow((0, look.chin - 0.075), (0.075, 0.045), light, opacity=0.5, clip=face)
    blush = 0.75 if person.expression in ("smile", "laughing") or person.age == "child" else 0.5
    for side in (-1, 1):
        canvas.glow((side * 0.2, -0.015), (0.125, 0.075), shadow, opacity=0.33, clip=face)
        canvas.glow((side * 0.27, 0.19), (0.095, 0.07), warm, opacity=blush, clip=face)
        canvas.glow((side * 0.255, 0.12), (0.07, 0.03), light, opacity=0.5, clip=face)


def _wrinkles(canvas: Canvas, look: Look, skin: np.ndarray, face: Mask) -> None:
    fold = mix(skin, shadow_of(shadow_of(skin)), 0.75)
    for side in (-1, 1):
        cheek = curve(
            [(side * 0.105, look.nose_y - 0.02), (side * 0.19, look.nose_y + 0.07), (side * 0.215, look.mouth_y + 0.03)]
        )
        canvas.line(cheek, 0.026, fold, taper=(0.3, 0.2), soft=0.006, opacity=0.75, clip=face)
        bag = curve([(side * 0.11, 0.085), (side * 0.2, 0.115), (side * 0.29, 0.085)])
        canvas.line(bag, 0.02, fold, taper=(0.1, 0.1), soft=0.006, opacity=0.6, clip=face)
        for dy in (-0.025, 0.02, 0.065):
            foot = [(side * 0.345, dy * 0.6), (side * 0.375, dy), (side * 0.41, dy * 1.8)]
            canvas.line(foot, 0.014, fold, taper=(0.5, 0.1), soft=0.003, opacity=0.6, clip=face)
    for y, width in ((-0.35, 0.17), (-0.285, 0.21), (-0.225, 0.16)):
        line = curve(
            [(-width, y + 0.012), (-width / 2, y - 0.006), (0, y + 0.004), (width / 2, y - 0.006), (width, y + 0.012)], 4,
        )
        canvas.line(line, 0.016, fold, taper=(0.1, 0.1), soft=0.004, opacity=0.6, clip=face)


def _eye(canvas: Canvas, person: Person, look: Look, skin: np.ndarray, side: int) -> None:
    size, opened = look.eye, _OPEN[person.expression]
    droop = {"sad": 0.022, "angry": -0.012}.get(person.expression, 0.0)
    inner_lid = {"angry": 0.018, "sad": -0.014}.get(person.expression, 0.0)
    rise = {"laughing": 0.02, "smile": 0.006}.get(person.expression, 0.0)

    def at(points: Points) -> np.ndarray:
        return np.asarray(points) * (side * size, size) + (side * 0.197, 0)

    inner, outer = (-0.108, 0.016), (0.112, -0.006 + droop)
    upper = [
        inner, (-0.062, -0.038 * opened + inner_lid), (0.0, -0.062 * opened + inner_lid / 2), (0.065, -0.046 * opened + droop),
        outer,
    ]
    lower = [outer, (0.06, 0.034 + droop / 2 - rise), (0.0, 0.046 - rise), (-0.06, 0.036 - rise), inner]
    lid, rim = curve(at(upper), 5), curve(at(lower), 5)
    white = canvas.mask(np.concatenate([lid, rim]))
    shadow, dark = shadow_of(skin), mix((0.10, 0.06, 0.05), shadow_of(skin), 0.12)

    crease = lid - (0, 0.034 * size)
    canvas.fill(np.concatenate([crease, lid[::-1]]), mix(skin, shadow, 0.35), soft=0.008)
    canvas.line(crease, 0.014, shadow, taper=(0.2, 0.3), soft=0.004, opacity=0.85)
    canvas.paint(white, (0.97, 0.96, 0.95))
    _iris(canvas, person, look, at([(0.0, -0.008)])[0], white)
    canvas.line(lid + (0, 0.012), 0.035, (0.25, 0.20, 0.24), soft=0.012, opacity=0.55, clip=white)
    canvas.line(rim, 0.010, shadow, taper=(0.6, 0.3), opacity=0.9)
    canvas.line(lid, 0.030 if person.gender == "woman" else 0.024, dark, taper=(0.6, 0.4))
    if person.gender == "woman":
        length = 0.75 if person.age == "adult" else 0.5
        for x, y in ((0.078, -0.038), (0.106, -0.012)):
            root = np.array([x, y * (0.4 + 0.6 * opened) + droop])
            lash = at([root, root + np.array((0.024, -0.010)) * length, root + np.array((0.044, -0.030)) * length])
            canvas.line(lash, 0.018, dark, taper=(1.0, 0.1))


def _iris(canvas: Canvas, person: Person, look: Look, center: np.ndarray, white: Mask) -> None:
    colour, size = EYES[person.eye_color], look.eye
    x, y = center[0] + look.gaze, center[1]
    radius = 0.064 * size
    canvas.fill(ellipse((x, y), radius, radius), shade(colour, 0.5), clip=white)
    canvas.fill(ellipse((x, y + 0.002), 0.82 * radius, 0.82 * radius), colour, soft=0.004, clip=white)
    canvas.glow((x, y + 0.55 * radius), (0.5 * radius, 0.33 * radius), mix(colour, (1, 1, 0.92), 0.42), opacity=0.9, clip=white)
    canvas.fill(ellipse((x, y), 0.44 * radius, 0.44 * radius), (0.04, 0.03, 0.04), clip=white)
    canvas.fill(ellipse((x - 0.36 * radius, y - 0.36 * radius), 0.25 * radius, 0.25 * radius), (1, 1, 1))
    canvas.fill(ellipse((x + 0.34 * radius, y + 0.42 * radius), 0.13 * radius, 0.13 * radius), (1, 1, 1), opacity=0.7)


def brow_colour(person: Person) -> np.ndarray:
    hair = HAIR["brown" if person.hair_style == "bald" and person.facial_hair == "none" else person.hair_color]
    return mix(shade(hair, 0.72), (0.16, 0.10, 0.08), 0.25)


def _brow(canvas: Canvas, person: Person, look: Look, side: int, rng: np.random.Generator) -> None:
    arch = -0.008 if person.gender == "woman" else 0.006
    inner, middle, outer = _BROWS[person.expression]
    y = -0.128 - 0.22 * (look.eye - 1)
    bend = np.array(
        [(0.085, inner - 0.008), (0.16, (inner + middle) / 2 - 0.028), (0.245, middle + arch - 0.030), (0.33, outer + 0.016)]
    )
    points = bend + (0, y)
    path, colour = curve(points * (side, 1), 5), brow_colour(person)
    canvas.line(path, look.brow, colour, taper=(0.85, 0.15), soft=0.004, opacity=0.95)
    hairs = [np.stack([p + (0, look.brow * 0.4), p + (side * 0.02, -look.brow * 0.45)]) for p in path[1:-4:2]]
    canvas.strands(hairs, 0.008, shade(colour, 0.6), opacity=0.5)
    if person.expression == "angry":
        canvas.line(
            [(side * 0.03, -0.16), (side * 0.042, -0.10), (side * 0.036, -0.07)], 0.018, shadow_of(SKIN[person.skin]),
            taper=(0.1, 0.1), soft=0.004,
        )


def _nose(canvas: Canvas, look: Look, skin: np.ndarray, face: Mask) -> None:
    y, wide = look.nose_y, look.nose
    shadow, light = shadow_of(skin), mix(skin, (1, 0.96, 0.9), 0.45)
    deep = shadow_of(shadow)
    canvas.glow((-look.side * 0.06, 0.05), (0.028, 0.1), shadow, opacity=0.45, clip=face, depth=0.2)
    canvas.glow((0, y + 0.045), (0.085 * wide, 0.028), shadow, opacity=0.6, clip=face)
    canvas.glow((0, y - 0.035), (0.06 * wide, 0.05), mix(skin, (0.9, 0.3, 0.22), 0.16), opacity=0.8, depth=0.5)
    canvas.glow((look.side * 0.008, 0.06), (0.02, 0.085), light, opacity=0.6, depth=0.4)
    canvas.glow((look.side * 0.01, y - 0.045), (0.028, 0.024), light, opacity=0.9, depth=0.7)
    for side in (-1, 1):
        wing = curve(
            np.array([(0.068, y - 0.06), (0.092, y - 0.015), (0.078, y + 0.018), (0.05, y + 0.016)]) * (side * wide, 1), 5,
        )
        canvas.line(wing, 0.017, mix(shadow, deep, 0.4), taper=(0.1, 0.4), soft=0.004, opacity=0.85, depth=0.3)
        nostril = ellipse((side * 0.037 * wide, y + 0.016), 0.026 * wide, 0.012, side * 0.25)
        canvas.fill(nostril, shade(deep, 0.7), soft=0.004, opacity=0.95, depth=0.4)
    tip = curve([(-0.03 * wide, y + 0.024), (0, y + 0.034), (0.03 * wide, y + 0.024)], 4)
    canvas.line(tip, 0.012, deep, taper=(0.2, 0.2), soft=0.003, opacity=0.6, depth=0.5)


def lip_colours(person: Person) -> tuple[np.ndarray, np.ndarray]:
    """(upper, lower)"""
    skin = SKIN[person.skin]
    red, part = ((0.80, 0.13, 0.22), 0.58) if person.gender == "woman" else ((0.72, 0.22, 0.20), 0.42)
    if person.age == "child":
        part *= 0.8
    lips = mix(skin * np.float32(0.92), red, part)
    return shade(lips, 0.80), lips


def _mouth(canvas: Canvas, person: Person, look: Look, skin: np.ndarray, face: Mask) -> None:
    canvas.glow((0, look.mouth_y + 0.1), (0.10, 0.026), shadow_of(skin), opacity=0.55, clip=face)
    if person.expression == "laughing":
        _laugh(canvas, person, look, skin)
    elif person.expression == "surprised":
        _oh(canvas, person, look)
    else:
        _closed_mouth(canvas, person, look, skin)


def _closed_mouth(canvas: Canvas, person: Person, look: Look, skin: np.ndarray) -> None:
    wide, lift, full = {
        "neutral": (0.150, -0.004, 1.0),
        "smile": (0.192, -0.050, 0.9),
        "sad": (0.138, 0.040, 0.95),
        "angry": (0.145, 0.024, 0.72),
    }[person.expression]
    full *= look.lips
    y = look.mouth_y + {"smile": 0.012, "sad": -0.012}.get(person.expression, 0.0)
    upper_colour, lower_colour = lip_colours(person)
    left, right = (-wide, y + lift), (wide, y + lift)
    seam = curve([left, (-wide * 0.5, y + lift * 0.22), (0, y + 0.006), (wide * 0.5, y + lift * 0.22), right], 6)
    bow = [
        right, (wide * 0.6, y - 0.026 * full + lift * 0.36), (0.042, y - 0.049 * full), (0, y - 0.037 * full),
        (-0.042, y - 0.049 * full), (-wide * 0.6, y - 0.026 * full + lift * 0.36), left,
    ]
    belly = [
        right, (wide * 0.62, y + 0.038 * full + lift * 0.36), (0.055, y + 0.070 * full), (0, y + 0.074 * full),
        (-0.055, y + 0.070 * full), (-wide * 0.62, y + 0.038 * full + lift * 0.36), left,
    ]
    canvas.fill(np.concatenate([seam, curve(bow, 5)]), upper_colour, soft=0.005)
    canvas.fill(np.concatenate([seam, curve(belly, 5)]), lower_colour, soft=0.005)
    canvas.glow((0.02 * look.side, y + 0.038 * full), (0.045, 0.013), mix(lower_colour, (1, 0.93, 0.9), 0.55), opacity=0.8)
    canvas.line(seam, 0.017, shade(upper_colour, 0.38), taper=(0.6, 0.6))
    for x, corner in ((-1, left), (1, right)):
        canvas.glow((corner[0] + x * 0.008, corner[1]), 0.016, shadow_of(shadow_of(skin)), opacity=0.75)
        if person.expression == "smile":
            _dimple(canvas, look, skin, x)


def _dimple(canvas: Canvas, look: Look, skin: np.ndarray, side: int) -> None:
    fold = curve([(side * 0.12, look.nose_y + 0.01), (side * 0.2, look.nose_y + 0.075), (side * 0.232, look.mouth_y - 0.02)])
    canvas.line(fold, 0.022, shadow_of(skin), taper=(0.1, 0.3), soft=0.008, opacity=0.75)


def _laugh(canvas: Canvas, person: Person, look: Look, skin: np.ndarray) -> None:
    y, wide = look.mouth_y - 0.015, 0.205
    upper_colour, lower_colour = lip_colours(person)
    top = curve([(-wide, y - 0.05), (-0.11, y - 0.028), (0, y - 0.022), (0.11, y - 0.028), (wide, y - 0.05)], 5)
    bottom = curve(
        [
            (wide, y - 0.05), (0.165, y + 0.045), (0.085, y + 0.115), (0, y + 0.13), (-0.085, y + 0.115), (-0.165, y + 0.045),
            (-wide, y - 0.05),
        ],
        5,
    )
    lip = 0.028 * look.lips
    canvas.fill(
        np.concatenate([top - (0, lip), bottom + (0, 1.5 * lip)]),
        Gradient((0, y - 0.05), (0, y + 0.14), (upper_colour, lower_colour)), soft=0.005,
    )
    hole = canvas.mask(np.concatenate([top, bottom]))
    canvas.paint(hole, (0.32, 0.05, 0.07))
    canvas.glow((0, y + 0.12), (0.085, 0.04), (0.88, 0.40, 0.40), opacity=0.95, clip=hole)
    teeth = np.concatenate(
        [top - (0, 0.01), curve([(wide, y - 0.05), (0.12, y + 0.026), (0, y + 0.04), (-0.12, y + 0.026), (-wide, y - 0.05)], 5)]
    )
    canvas.fill(teeth, (0.98, 0.97, 0.94), clip=hole)
    canvas.line(top, 0.014, shade(upper_colour, 0.45), taper=(0.5, 0.5), opacity=0.8)
    for side in (-1, 1):
        _dimple(canvas, look, skin, side)


def _oh(canvas: Canvas, person: Person, look: Look) -> None:
    y = look.mouth_y + 0.028
    upper_colour, lower_colour = lip_colours(person)
    canvas.fill(ellipse((0, y), 0.098, 0.118), Gradient((0, y - 0.06), (0, y + 0.06), (upper_colour, lower_colour)), soft=0.005)
    hole = canvas.mask(ellipse((0, y), 0.068, 0.086))
    canvas.paint(hole, (0.26, 0.04, 0.06))
    canvas.glow((0, y + 0.085), (0.05, 0.03), (0.80, 0.34, 0.34), opacity=0.9, clip=hole)
    canvas.fill(ellipse((0, y - 0.085), 0.05, 0.026), (0.96, 0.95, 0.92), clip=hole)
    canvas.glow((0, y + 0.1), (0.035, 0.010), mix(lower_colour, (1, 0.93, 0.9), 0.5), opacity=0.7)


def _beard(canvas: Canvas, person: Person, look: Look, rng: np.random.Generator) -> None:
    jaw, chin, m = look.jaw, look.chin, look.mouth_y
    hair = HAIR[person.hair_color]
    ear = 0.06 if person.hair_style == "bald" else -0.02
    outer = [
        (0.462 * look.cheek, ear), (0.462 * look.cheek, 0.16), (0.40 * jaw, 0.62 * chin), (0.29 * jaw, 0.90 * chin),
        (0.14, chin + 0.085), (0, chin + 0.10),
    ]
    inner = [(0, m + 0.045), (0.10, m + 0.02), (0.21, m - 0.05), (0.29, m - 0.11), (0.375, 0.12), (0.43 * look.cheek, ear)]
    right = np.concatenate([curve(outer, 5), curve(inner, 5)])
    shape = np.concatenate([right, right[::-1] * (-1, 1)])
    covered = canvas.mask(shape, soft=0.012)
    canvas.paint(covered, Gradient((0, m - 0.15), (0, chin + 0.1), (hair, shade(hair, 0.62))), opacity=0.97)
    roots = np.stack([rng.uniform(-0.45, 0.45, 150), rng.uniform(0.02, chin + 0.06, 150)], 1)
    ends = roots + np.stack([-0.12 * roots[:, 0], rng.uniform(0.04, 0.08, 150)], 1)
    hairs = list(np.stack([roots, ends], 1))
    canvas.strands(hairs[:80], 0.010, shade(hair, 0.55), opacity=0.5, clip=covered)
    canvas.strands(hairs[80:], 0.010, _gleam(hair), opacity=0.3, clip=covered)


def _gleam(hair: np.ndarray) -> np.ndarray:
    return mix(hair, (1, 0.95, 0.88), 0.3)


def _moustache(canvas: Canvas, person: Person, look: Look, rng: np.random.Generator) -> None:
    y, hair = look.mouth_y - 0.052, HAIR[person.hair_color]
    droop = 0.07 if person.facial_hair == "beard" else 0.035
    up = {"smile": -0.03, "laughing": -0.045}.get(person.expression, 0.0) - (0.012 if person.expression == "surprised" else 0)
    for side in (-1, 1):
        lobe = [
            (0.004, y - 0.045), (0.07, y - 0.048), (0.145, y - 0.012 + up / 2), (0.225, y + droop + up),
            (0.13, y + 0.03 + up / 2), (0.05, y + 0.024), (0.004, y + 0.012),
        ]
        covered = canvas.mask(smooth(np.array(lobe) * (side, 1), 5), soft=0.006, depth=0.1)
        canvas.paint(covered, Gradient((0, y - 0.05), (0, y + 0.06), (shade(hair, 1.03), shade(hair, 0.66))))
        first = curve(np.array([(0.01, y - 0.035), (0.08, y - 0.04), (0.22, y + droop + up)]) * (side, 1), 4)
        last = curve(np.array([(0.01, y + 0.01), (0.06, y + 0.02), (0.19, y + droop + up)]) * (side, 1), 4)
        strands = between(first, last, 9, rng, 0.003)
        canvas.strands(strands[::2], 0.012, shade(hair, 0.55), opacity=0.5, clip=covered)
        canvas.strands(strands[1::2], 0.012, _gleam(hair), opacity=0.45, clip=covered)


def draw_glasses(canvas: Canvas, person: Person, look: Look) -> None:
    if person.glasses == "none":
        return
    frame = [(0.10, 0.09, 0.10), (0.34, 0.18, 0.09), (0.55, 0.10, 0.14), (0.14, 0.18, 0.36)][int(look.variant * 4)]
    dark = person.glasses == "sunglasses"
    lens = _lens(look.variant * 7 % 1, 0.95 if dark else 1.0)
    for side in (-1, 1):
        canvas.line([(side * 0.36, -0.03), (side * 0.47, -0.015)], 0.034, frame)
        shape = lens * (side, 1) + (side * 0.204, 0.0 if dark else 0.01)
        canvas.fill(shape + (0, 0.03), (0.10, 0.05, 0.05), soft=0.02, opacity=0.16)
        if dark:
            canvas.fill(shape, Gradient((0, -0.12), (0, 0.16), ((0.05, 0.05, 0.07), (0.20, 0.18, 0.22))))
            glare = [
                (side * 0.204 - 0.09, 0.02), (side * 0.204 - 0.035, -0.075), (side * 0.204 + 0.005, -0.075),
                (side * 0.204 - 0.06, 0.05),
            ]
            canvas.fill(glare, (0.75, 0.85, 0.95), soft=0.012, opacity=0.5)
        else:
            canvas.fill(shape, (0.85, 0.93, 1.0), opacity=0.10)
        _ring(canvas, shape, frame)
    canvas.line(curve([(-0.075, 0.0), (0, -0.028), (0.075, 0.0)], 4), 0.032, frame, depth=0.2)


def _lens(kind: float, size: float) -> np.ndarray:
    if kind < 0.4:
        return ellipse((0, 0), 0.143 * size, 0.133 * size)
    half = [
        (-0.135, -0.075), (-0.07, -0.108), (0.07, -0.11), (0.15, -0.085), (0.142, 0.03), (0.085, 0.108), (-0.05, 0.112),
        (-0.125, 0.05),
    ]
    return smooth(np.array(half) * size, 4)


def _ring(canvas: Canvas, shape: np.ndarray, colour: tuple[float, float, float]) -> None:
    closed = np.concatenate([shape, shape[:1]])
    canvas.fill(brush(closed, 0.034), colour)
