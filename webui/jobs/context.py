"""The one thing a handler gets besides its request. Narrow on purpose: a handler never sees the services behind it."""

from __future__ import annotations

from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    import numpy as np

    from webui.artifacts import PendingArtifact
    from webui.settings import Settings


class JobContext(Protocol):
    """Progress, preview, cancellation, seed and files of the running job."""

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

    def progress(self, fraction: float, stage: str) -> None:
        """Tell watchers how far (0..1) and what is going on."""
        ...

    def preview(self, image: np.ndarray) -> None:
        """Show a picture, (H, W, 3) uint8 RGB of any size. Cheap to call per frame: it is throttled and scaled down here."""
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
        """
        ...


