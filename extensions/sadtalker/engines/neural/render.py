"""Keypoints to frames, one after another, of which none is kept; what depends on the photo is found once."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

import numpy as np
import torch

from extensions.sadtalker.engines.neural import keypoints, semantics

if TYPE_CHECKING:
    from extensions.sadtalker.engines.neural.networks.generator import Generator, Source
    from extensions.sadtalker.engines.neural.networks.keypoints import KeypointDetector
    from extensions.sadtalker.engines.neural.networks.mapping import MappingNet


@dataclass(frozen=True)
class Nets:
    """The networks that draw, all on one device. mapping: the one of 73 channels for full pictures, else that of 70.

    load: gives the generator; waits for it as long as it is being loaded.
    """

    mapping: MappingNet
    keypoints: KeypointDetector
    load: Callable[[], Generator]
    device: torch.device

    @property
    def generator(self) -> Generator:
        return self.load()


@dataclass(frozen=True)
class Face:
    """All that frames need of a photo. coefficients: (1, 73); canonical: (1, 15, 3), keypoints with no pose and expression.

    source: gives the generator's part, found at the first frame: until then the generator may be on its way.
    """

    coefficients: np.ndarray
    canonical: torch.Tensor
    source: Callable[[], Source]


def prepare(nets: Nets, image: np.ndarray, coefficients: np.ndarray, *, full: bool = False) -> Face:
    """image: (S, S, 3) uint8 RGB, S 256 or 512 as the networks are for; coefficients: (1, 73), of the photo."""
    # Times a rounded number, as scikit-image does it and so upstream; divided, a third of the numbers has another last digit.
    picture = torch.from_numpy(image).to(nets.device).permute(2, 0, 1)[None].float() * (1 / 255)
    canonical = nets.keypoints(picture)
    heads = nets.mapping(torch.from_numpy(semantics.of_photo(coefficients, full=full)).to(nets.device))
    placed = keypoints.moved(canonical, heads)
    return Face(coefficients, canonical, cache(lambda: nets.generator.source(picture, placed)))


def drawn(nets: Nets, face: Face, points: np.ndarray, start: int = 0, *, batch: int = 1) -> Iterator[torch.Tensor]:
    """Frames from `start` on in batches, (N, 3, S, S) 0..1. points: (T, 15, 3), the keypoints of all frames."""
    for first in range(start, len(points), batch):
        yield nets.generator.frame(face.source(), torch.from_numpy(points[first : first + batch]).to(nets.device))


def frames(nets: Nets, face: Face, points: np.ndarray, start: int = 0, *, batch: int = 1) -> Iterator[np.ndarray]:
    """Frames from `start` on, (S, S, 3) uint8 RGB, the same to the bit wherever that is. The arguments are those of `drawn`.

    batch: frames drawn at once; more than one only on other devices than processors, which gain nothing by it.
    """
    # Batches begin at multiples of their size: in another batch a frame has other last digits.
    first = start - start % batch
    for pictures in drawn(nets, face, points, first, batch=batch):
        yield from eight_bit(pictures)[max(0, start - first) :]
        first += batch


def eight_bit(pictures: torch.Tensor) -> np.ndarray:
    """(N, 3, S, S) 0..1 -> (N, S, S, 3) uint8"""
    return (pictures * 255).round_().byte().permute(0, 2, 3, 1).contiguous().cpu().numpy()
