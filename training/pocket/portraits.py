"""Draws a person's portrait. The one door of the generator: `draw`, and `person` and `dataset` for training."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import cv2
import numpy as np

from training.pocket.attributes import Person, sample
from training.pocket.backgrounds import draw_background
from training.pocket.clothes import draw_body
from training.pocket.drawing import Canvas
from training.pocket.hair import draw_hair, draw_hair_behind
from training.pocket.hats import draw_hat, draw_hat_behind
from training.pocket.heads import draw_glasses, draw_head
from training.pocket.light import lit
from training.pocket.look import sample_look

_SUPERSAMPLE = 2
_STREAM = 4096
"""Keeps the data set's random numbers apart from those of plain seeds."""


def draw(person: Person, size: int, seed: int) -> np.ndarray:
    """(size, size, 3) uint8 RGB. The same person and seed give the same picture at every size."""
    rng = np.random.default_rng(seed)
    look = sample_look(person, rng)
    canvas = Canvas(size * _SUPERSAMPLE)
    draw_background(canvas, person, rng)
    with canvas.within(look.head):
        draw_hat_behind(canvas, person)
        draw_hair_behind(canvas, person, look, rng)
    with canvas.within(look.body):
        draw_body(canvas, person, look)
    with canvas.within(look.head):
        face = draw_head(canvas, person, look, rng)
        draw_hair(canvas, person, look, face, rng)
        draw_glasses(canvas, person, look)
        draw_hat(canvas, person, look, face)
    layers = (*canvas.planes, canvas.figure)
    *planes, figure = (cv2.resize(layer, (size, size), interpolation=cv2.INTER_AREA) for layer in layers)
    shone = lit(np.array(planes), figure, person, look)
    # convertScaleAbs would fold darker than black back up, so that is cut off first.
    return cv2.convertScaleAbs(np.maximum(0, cv2.merge(list(shone))), alpha=255)


@dataclass(frozen=True)
class Example:
    """One portrait to learn from. picture: (size, size, 3) uint8 RGB."""

    person: Person
    picture: np.ndarray


def person(index: int) -> Person:
    """Who is on the picture of this index."""
    return sample(np.random.default_rng((_STREAM, index)))


def example(index: int, size: int) -> Example:
    """The index alone decides person and picture, so that any process can make any part of the data."""
    rng = np.random.default_rng((_STREAM, index))
    person = sample(rng)
    return Example(person, draw(person, size, int(rng.integers(1 << 62))))


def dataset(first: int, count: int, size: int) -> Iterator[Example]:
    """Examples `first` to `first + count - 1`."""
    for index in range(first, first + count):
        yield example(index, size)
