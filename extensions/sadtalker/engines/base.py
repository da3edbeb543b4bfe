"""What every talking-head engine does. The pipeline knows engines by this alone."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    import numpy as np

    from extensions.sadtalker.preprocess import CropTransform
    from extensions.sadtalker.types import Motion, MotionOptions, Portrait
    from webui.plugin_api import Face


Tick = Callable[[float], None]
"""Told the share of the work that is done, at least twice a second; may raise to stop it."""


class Heard(Protocol):
    """A voice as one engine hears it."""

    @property
    def seconds(self) -> float: ...

    @property
    def silent(self) -> bool:
        """True when nothing in it can be heard (below -60 dB of full scale)."""
        ...


class Ear(Protocol):
    """Hears one voice piece by piece, and keeps what its engine needs of it, never the sound."""

    def push(self, samples: np.ndarray) -> None:
        """The next samples, (n,) float32 of 16 kHz mono, full scale = 1."""
        ...

    def finish(self) -> Heard:
        """After the last samples, once."""
        ...


class Engine(Protocol):
    """Animates one portrait after another; nothing of a job is left in it.

    Its models are in memory inside `ready`, and stay there for the next job when there is room. `models` and `ear` do not
    need them.
    """

    name: str

    columns: tuple[str, ...]
    """The names of its motion's columns, among them those of types.HEAD."""

    coefficients: tuple[str, ...]
    """Those of them that say how the face is, for people who want to see them."""

    landmarks: str
    """What puts the 68 points on a face: dlib or face-alignment. Known once it is ready."""

    @property
    def models(self) -> Mapping[str, str]:
        """The weights it draws with: name, and the first 12 digits of the file's SHA-256."""
        ...

    def ready(self) -> AbstractContextManager[None]:
        """Holds its models until the block ends. The last may still be on their way: what is wrong with them is raised by the
        work that needs them.
        """
        ...

    def ear(self) -> Ear:
        """For one voice."""
        ...

    def frame(self, picture: np.ndarray, face: Face, mode: str, size: int) -> tuple[Portrait, CropTransform]:
        """What it draws of a picture, (H, W, 3) uint8 RGB, and where its frames belong. mode: crop, extcrop, resize, full or
        extfull; size: width of the head's picture in pixels, as asked for.
        """
        ...

    def prepare(self, portrait: Portrait) -> Any:
        """All that is computed once per portrait: the identity that the others take."""
        ...

    def rest(self, identity: Any) -> np.ndarray:
        """The frame in which the face is as in the photo."""
        ...

    def watch(self, clip: Iterable[np.ndarray]) -> np.ndarray:
        """The movement of another face, (N, ...) float32, a row per frame of a film, for MotionOptions.blink_like and pose_like.
        Frames are (H, W, 3) uint8 RGB at MOTION_FPS; they come one by one, and none is kept.

        Raises NoFaceFound when the first one shows no face.
        """
        ...

    def motion(self, heard: Any, identity: Any, options: MotionOptions, tick: Tick = lambda _share: None) -> Motion:
        """Speech to coefficients, one row per frame of the video. heard: what its ear gave; None: nobody speaks."""
        ...

    def render(self, identity: Any, motion: Motion, start: int = 0) -> Iterator[np.ndarray]:
        """Frames from `start` on, one by one, (H, W, 3) uint8 RGB, of the size of the portrait's view.

        A frame is the same to the bit wherever rendering started: a job that goes on after a crash starts in the middle,
        with the whole motion, since an engine may look at the rows round a frame. Memory does not grow with length.
        """
        ...
