"""The noise that pictures are made from: one source per picture, so that a picture does not depend on its neighbours in a batch.

Everything is drawn on the CPU in single precision, whatever device and precision the model has: a seed means the same everywhere.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from webui.imaging.requests import SEEDS


@dataclass(frozen=True)
class Seed:
    """What one picture's noise is drawn from. variation: a seed that is mixed in, by `strength` from 0 (none) to 1 (it alone)."""

    seed: int
    variation: int = 0
    strength: float = 0.0


def seeds(seed: int, count: int, variation: int | None = None, strength: float = 0.0) -> list[Seed]:
    """The seeds of a request's pictures, by A1111's rule: seed + i; with a variation the seed stays and variation + i goes on.

    A variation that is None or negative is drawn from the seed, so that a request made again gives the same pictures.
    """
    if not strength:
        return [Seed((seed + number) % SEEDS) for number in range(count)]
    first = random.Random(seed).randrange(SEEDS) if variation is None or variation < 0 else variation
    return [Seed(seed, (first + number) % SEEDS, strength) for number in range(count)]


class Noise:
    """Where all noise of a batch comes from. `generators`, one per picture, is what diffusers' schedulers take."""

    def __init__(self, batch: Sequence[Seed]) -> None:
        self._batch = tuple(batch)
        self.generators = [torch.Generator("cpu").manual_seed(one.seed) for one in batch]

    def initial(self, shape: Sequence[int]) -> Tensor:
        """Normal noise of a (channels, height, width) for each picture, with its variation mixed in. Call it once."""
        return torch.cat([self._mixed(one, drawn) for one, drawn in zip(self._batch, self.draw(shape), strict=True)])

    def draw(self, shape: Sequence[int]) -> list[Tensor]:
        """The next normal noise of each picture, (1, channels, height, width)."""
        return [torch.randn((1, *shape), generator=generator) for generator in self.generators]

    def _mixed(self, one: Seed, drawn: Tensor) -> Tensor:
        if not one.strength:
            return drawn
        other = torch.randn(drawn.shape, generator=torch.Generator("cpu").manual_seed(one.variation))
        return slerp(drawn, other, one.strength)


def slerp(first: Tensor, second: Tensor, part: float) -> Tensor:
    """From `first` (part 0) to `second` (1) along the sphere that both lie on, which keeps noise as strong as it is.

    Shoemake 1985, "Animating rotation with quaternion curves". Of two that point the same way any mixture does: their line.
    """
    cosine = torch.sum(first / first.norm() * (second / second.norm())).clamp(-1, 1)
    angle = torch.acos(cosine)
    if torch.sin(angle) < 1e-4:
        return torch.lerp(first, second, part)
    return (torch.sin((1 - part) * angle) * first + torch.sin(part * angle) * second) / torch.sin(angle)
