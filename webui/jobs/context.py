"""The one thing a handler gets besides its request. Narrow on purpose: a handler never sees the services behind it."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

if TYPE_CHECKING:
    import numpy as np

    from webui.artifacts import PendingArtifact
    from webui.settings import Settings


Item = TypeVar("Item")


class JobContext(Protocol):
    """Progress, preview, cancellation, seed, files and durable steps of the running job.

    A job whose worker died is run again from its handler's first line, by another worker or after a restart. What it
    must not do twice goes into a step: the result of a finished step is kept, and the step is not run again. So a handler
    takes the same steps in the same order each time, and names whatever they leave on the disk through `file`.
    """

    @property
    def settings(self) -> Settings:
        """The studio's frozen settings (folders, limits, device)."""
        ...

    @property
    def seed(self) -> int:
        """0..2**32-1: the request's `seed`, or one drawn for this job when that is None or negative."""
        ...

    @property
    def cancelled(self) -> bool:
        """True once the owner asked to stop. Look at it at least twice a second."""
        ...

    def take_skip(self) -> bool:
        """True once after each time that the owner asked to leave out what is being made now and go on with the next part.
        Asked for by kinds that are `skippable`, as often as `cancelled`."""
        ...

    def progress(self, fraction: float, stage: str) -> None:
        """Tell watchers how far (0..1) and what is going on."""
        ...

    def preview(self, image: np.ndarray, *, finished: bool = False) -> None:
        """Show a picture, (H, W, 3) uint8 RGB of any size. Cheap to call per frame: it is throttled and scaled down here.

        In the history the job's first one stands for it, or the first that is `finished`: no step on the way to a result.
        """
        ...

    def warn(self, message: str) -> None:
        """Say something the user should know beside the result."""
        ...

    def input(self, artifact_id: str) -> Path:
        """The file behind an artifact id. Raises InvalidRequest when there is none."""
        ...

    def output(self, suffix: str, stem: str) -> AbstractContextManager[PendingArtifact]:
        """A new output file, e.g. output(".mp4", "anna").

        Write to `.path` (a `.part` file beside the final one). Leaving the block without an error renames it into place
        and sets `.artifact`; leaving with one deletes it. Raises StorageError when the folder cannot be written.
        The first, second ... file of a job has the same id and place each time the job is run again.
        """
        ...

    def step(self, name: str, function: Callable[[], Any]) -> Any:
        """The function's result, from an earlier run of this job when that had finished it.

        The result must be JSON-able (lists, not tuples); large things go into files, see `file`. An error ends the job.
        """
        ...

    def map(self, name: str, function: Callable[[Item], Any], items: Iterable[Item]) -> list[Any]:
        """A step per item, in order; the results. Once the job is cancelled no step is begun, so they may be fewer: let no
        other step follow.
        """
        ...

    @property
    def folder(self) -> Path:
        """What steps leave for each other: a folder of this job's own, deleted when the job ends. It survives a crash."""
        ...

    def file(self, name: str) -> AbstractContextManager[Path]:
        """A new file `folder / name`. Write to the path that is given; leaving the block without an error puts the file
        into its place whole and safe from a power cut, leaving with one deletes it.
        """
        ...

    def log(self, line: str) -> None:
        """A line for the curious, beside what `warn` says to everybody."""
        ...
