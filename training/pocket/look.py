"""How one drawing of a person differs from another: pose, proportions and small accidents, from a random generator."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from training.pocket.attributes import Person
from training.pocket.drawing import Frame

_TALL = ("afro", "bun")


@dataclass(frozen=True)
class Look:
    """head:  frame in which the eyes are at y = 0, one unit is half a picture, and the face is 0.92 wide.
    body:  the same without the head's tilt and turn.
    chin:  distance from the eyes' line to the chin's tip.
    jaw:   width of the jaw, 1 in the middle between all.
    side:  -1 or 1, where partings, ponytails and the like are.
    cheek, eye, nose, lips: factors, 1 in the middle; brow: thickness; gaze: how far the irises are to the side.
    variant: decides which of several hair shapes, frames and ties it is.
    """

    head: Frame
    body: Frame
    chin: float
    jaw: float
    cheek: float
    eye: float
    brow: float
    nose: float
    lips: float
    side: int
    gaze: float
    variant: float

    @property
    def nose_y(self) -> float:
        return 0.405 * self.chin

    @property
    def mouth_y(self) -> float:
        return 0.665 * self.chin


def sample_look(person: Person, rng: np.random.Generator) -> Look:
    child, man = person.age == "child", person.gender == "man"
    u = rng.uniform(-1, 1, 14)
    tall = person.hair_style in _TALL or person.hat != "none"
    scale = 1.02 + 0.045 * u[0] - (0.03 if tall else 0.0)
    x, y = 0.05 * u[1], (-0.07 if tall else -0.13) + 0.025 * u[2]
    opened = person.expression in ("laughing", "surprised")
    return Look(
        head=Frame(x, y, scale, tilt=0.075 * u[3] * abs(u[3]), yaw=0.04 * u[4]),
        body=Frame(0.5 * x, y, scale),
        chin=(0.665 if child else 0.70 if man else 0.68) + 0.018 * u[5] + (0.025 if opened else 0.0),
        jaw=(0.97 if child else 1.04 if man else 0.93) + 0.035 * u[6],
        cheek=(1.02 if child else 1.0 if man else 0.98) + 0.02 * u[7],
        eye=(1.27 if child else 1.06 if man else 1.16) + 0.04 * u[8],
        brow=((0.028 if man else 0.022) if child else 0.041 if man else 0.027) + 0.004 * u[9],
        nose=(0.8 if child else 1.12 if man else 0.94) + 0.08 * u[10],
        lips=(0.85 if child else 0.88 if man else 1.12) + 0.08 * u[11],
        side=1 if u[12] > 0 else -1,
        gaze=0.012 * u[13],
        variant=float(rng.random()),
    )
