"""Compares what our stages compute with golden arrays, and says by how much they differ.

A module of stages exports `STAGES: dict[str, Callable[[Goldens, Nets], Iterator[Compared]]]`, one function for each stage of
the golden file, called by the stage's name in the file:

    def mapping(goldens: Goldens, nets: Nets) -> Iterator[Compared]:
        for case in goldens.cases("mapping/input"):                       # crop70, full73, or whatever the file has
            windows = torch.from_numpy(goldens[f"mapping/input/{case}"])
            heads = nets.mapping(full=windows.shape[1] == 73)(windows)
            for name in goldens.cases(f"mapping/output/{case}"):
                array = f"mapping/output/{case}/{name}"
                yield compare(array, heads[name], goldens[array], COEFFICIENTS)

Every array below `*/output/` must be compared, by its whole name in the file; what no stage compares makes the run fail, and so
does a stage that raises. A stage yields nothing when its arrays are not in the file (`goldens.cases` is empty then).

Where upstream is wrong, or was replaced on purpose, give `compare` the reason as `deviates`: a difference past the bound is then
listed with it, and does not fail the run; but only in stages that may differ (DEVIATING). Give it only when upstream's rule, on
our numbers, leads to the golden array, so that nothing else hides behind it. What depends on such a value is compared all the
same, by giving our stage upstream's value to go on with.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from extensions.sadtalker.engines.neural.checkpoints import Checkpoint

# Bounds of the absolute difference, by what is compared.
COEFFICIENTS = 1e-4  # mel, windows, coefficients, keypoints, mapping
SEMANTICS = 1e-5
FRAMES = 1e-3  # of 0..1; half precision, as which goldens are stored, costs 2.4e-4 of it
LEVELS = 1.0  # of 255, of pictures that were only resized and cut
EXACT = 0.0  # geometry in whole pixels
GEOMETRY = 1e-9  # the same in float64: its last digits are LAPACK's

DEVIATING = ("crop", "camera", "semantics", "make_animation_full", "paste")
"""Stages of which arrays may differ for a reason."""


class Goldens(Mapping[str, np.ndarray]):
    """The arrays of a golden file by name: "stage/input/[case/]array" and "stage/output/[case/]array"."""

    def __init__(self, path: Path) -> None:
        self._file = np.load(path)

    def __getitem__(self, name: str) -> np.ndarray:
        return self._file[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._file.files)

    def __len__(self) -> int:
        return len(self._file.files)

    def cases(self, under: str) -> list[str]:
        """Names directly below "stage/input" or the like, in the file's order; none when there is nothing."""
        below = (name[len(under) + 1 :] for name in self if name.startswith(f"{under}/"))
        return list(dict.fromkeys(name.split("/")[0] for name in below))

    @property
    def stages(self) -> list[str]:
        """In the order in which the data flows, as the file has them."""
        return list(dict.fromkeys(name.split("/")[0] for name in self))

    @property
    def outputs(self) -> list[str]:
        return [name for name in self if name.split("/")[1] == "output"]


class Nets:
    """The networks of a folder with weights, each loaded when it is first asked for, on the CPU and in exact mode."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.checkpoint = cache(self._checkpoint)
        self.mapping = cache(self._mapping)
        self.keypoints = cache(self._keypoints)
        self.generator = cache(self._generator)

    def _checkpoint(self, size: int) -> Checkpoint:
        from extensions.sadtalker.engines.neural import checkpoints

        found = checkpoints.find([self._folder], size)
        if found.size != size:
            raise FileNotFoundError(f"{self._folder} has no weights for size {size}.")
        return found

    @cached_property
    def expression(self) -> Any:
        """networks.audio.AudioToExpression"""
        from extensions.sadtalker.engines.neural.networks.audio import AudioToExpression

        return AudioToExpression.of(self.checkpoint(256).tensors("audio2exp"))

    @cached_property
    def pose(self) -> Any:
        """networks.pose.AudioToPose"""
        from extensions.sadtalker.engines.neural.networks.pose import AudioToPose

        return AudioToPose.of(self.checkpoint(256).tensors("audio2pose"))

    @cached_property
    def fit(self) -> Any:
        """networks.recon.FaceFit"""
        from extensions.sadtalker.engines.neural.networks.recon import FaceFit

        return FaceFit.of(self.checkpoint(256).tensors("face_3drecon"))

    def _mapping(self, *, full: bool) -> Any:
        """networks.mapping.MappingNet, the one of 73 channels when `full`"""
        from extensions.sadtalker.engines.neural.networks.mapping import MappingNet

        return MappingNet.of(self.checkpoint(256).tensors("mapping", full=full))

    def _keypoints(self, size: int) -> Any:
        """networks.keypoints.KeypointDetector"""
        from extensions.sadtalker.engines.neural.networks.keypoints import KeypointDetector

        return KeypointDetector.of(self.checkpoint(size).tensors("kp_extractor"))

    def _generator(self, size: int, precision: str = "exact") -> Any:
        """networks.generator.Generator"""
        from extensions.sadtalker.engines.neural.networks.generator import Generator

        return Generator.of(self.checkpoint(size).tensors("generator"), precision=precision)


@dataclass(frozen=True)
class Compared:
    """One array: its whole name, the largest absolute and relative difference, the bound, and how many values lie past it.

    past:   how many values lie past the bound.
    reason: why ours is another on purpose; "" where it must not be.
    wrong:  what cannot be measured: another shape, no number. "" when there is nothing of the kind.
    """

    array: str
    absolute: float
    relative: float
    bound: float
    past: int = 0
    reason: str = ""
    wrong: str = ""

    @property
    def stage(self) -> str:
        return self.array.split("/")[0]

    @property
    def within(self) -> bool:
        return not self.wrong and not self.past

    @property
    def deviates(self) -> bool:
        """Whether it differs, in numbers alone, and may."""
        return bool(self.past) and bool(self.reason) and self.stage in DEVIATING

    @property
    def failed(self) -> bool:
        return not self.within and not self.deviates


def compare(array: str, ours: Any, golden: np.ndarray, bound: float, *, deviates: str = "") -> Compared:
    """Ours against the golden array of this name.

    ours:     an array, or a torch tensor. Numbers of both are compared in float64.
    deviates: the reason why ours is another on purpose.
    """
    mine = np.asarray(ours.detach().cpu().float().numpy() if hasattr(ours, "detach") else ours)
    if mine.shape != golden.shape:
        wrong = f"its shape is {mine.shape}, not {golden.shape}"
        return Compared(array, np.inf, np.inf, bound, reason=deviates, wrong=wrong)
    difference = np.abs(mine.astype(np.float64) - golden.astype(np.float64))
    if not difference.size:
        return Compared(array, 0.0, 0.0, bound, reason=deviates)
    if not np.isfinite(difference).all():
        return Compared(array, np.inf, np.inf, bound, reason=deviates, wrong="there are values that are no numbers")
    largest = float(difference.max())
    scale = float(np.abs(golden.astype(np.float64)).max())
    past = int((difference > bound).sum())
    return Compared(array, largest, largest / scale if scale else largest, bound, past, deviates)


Stage = Callable[[Goldens, Nets], Iterator[Compared]]


def row(one: Compared) -> str:
    """A line of the table. Relative: to the largest value of the golden array."""
    verdict = "ok" if one.within else "differs on purpose" if one.deviates else "PAST ITS BOUND"
    if one.failed and one.past:
        verdict += f" ({one.past} values)"
    _, _, name = one.array.partition("/")
    numbers = f"{one.absolute:<9.2e} {one.relative:<9.2e} {one.bound:<8.0e}"
    return f"{one.stage:<20} {name.removeprefix('output/'):<40} {numbers} {verdict}{f': {one.wrong}' if one.wrong else ''}"


HEADING = f"{'stage':<20} {'array':<40} {'absolute':<9} {'relative':<9} {'bound':<8} verdict"
