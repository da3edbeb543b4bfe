"""What every talking-head engine does. The pipeline knows engines by this alone."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    import numpy as np

    from extensions.sadtalker.types import Motion, MotionOptions, Portrait, Voice


class Engine(Protocol):
    """Animates one portrait after another; holds its models between jobs, and nothing of a job."""

    name: str

    @property
    def models(self) -> Mapping[str, str]:
        """The weights it draws with: name, and the first 12 digits of the file's SHA-256."""
        ...

    def prepare(self, portrait: Portrait) -> Any:
        """All that is computed once per portrait: the identity that the other two take."""
        ...

    def motion(self, voice: Voice, identity: Any, options: MotionOptions) -> Motion:
        """Speech to coefficients, one row per frame of the video."""
        ...

    def render(self, identity: Any, motion: Motion, start: int = 0) -> Iterator[np.ndarray]:
        """Frames from `start` on, one by one, (H, W, 3) uint8 RGB, of the size of the portrait's view.

        A frame is the same to the bit wherever rendering started: a job that goes on after a crash starts in the middle,
        with the whole motion, since an engine may look at the rows round a frame. Memory does not grow with length.
        """
        ...
