"""The values that flow from stage to stage. Small, frozen, in memory; they do nothing themselves."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

MOTION_FPS = 25.0
"""Frames per second at which motion is made; a request for another rate resamples it."""

COEFFICIENTS = (
    "jaw",  # 0 shut .. 1 wide open
    "rounding",  # 0 .. 1 lips drawn together and forward, as in "oo"
    "spreading",  # 0 .. 1 corners apart, as in "ee"
    "press",  # 0 .. 1 lips shut and pressed, as in "m"
    "upper_lip",  # 0 .. 1 upper lip raised
    "lower_lip",  # 0 .. 1 lower lip tucked to the upper teeth, as in "f"
    "tongue",  # 0 .. 1 tongue tip up, as in "l"
    "brow",  # -1 .. 1 brows down .. up
    "blink",  # 0 open as in the photo .. 1 shut
    "gaze_x",  # radians, positive to the picture's right
    "gaze_y",  # radians, positive down
    "yaw",  # degrees, positive turns to the picture's right
    "pitch",  # degrees, positive nods down
    "roll",  # degrees, positive clockwise as seen
    "shift_x",  # inter-ocular distances, positive to the right
    "shift_y",  # inter-ocular distances, positive down
)
"""Names of the columns of Motion.values, in order."""


@dataclass(frozen=True)
class Motion:
    """How the face moves. values: (T, len(COEFFICIENTS)) float32, a row per frame; fps: frames per second."""

    values: np.ndarray
    fps: float = MOTION_FPS

    def __len__(self) -> int:
        return len(self.values)

    def __getitem__(self, name: str) -> np.ndarray:
        return self.values[:, COEFFICIENTS.index(name)]


@dataclass(frozen=True)
class Box:
    """A rectangle in whole pixels, right and bottom exclusive."""

    left: int
    top: int
    right: int
    bottom: int

    @property
    def width(self) -> int:
        return self.right - self.left

    @property
    def height(self) -> int:
        return self.bottom - self.top

    @property
    def slices(self) -> tuple[slice, slice]:
        """Indexes an (H, W, ...) array."""
        return slice(self.top, self.bottom), slice(self.left, self.right)


@dataclass(frozen=True)
class Portrait:
    """The photo made ready for an engine.

    canvas:    (H, W, 3) uint8 RGB, the head with what lies round it, at the scale of the output.
    landmarks: (68, 2) float64, iBUG order, in pixels of the canvas.
    view:      the part of the canvas that a rendered frame shows.
    reach:     how far round the head its surroundings follow: 1 is normal, more spreads the movement.
    """

    canvas: np.ndarray
    landmarks: np.ndarray
    view: Box
    reach: float = 1.0


@dataclass(frozen=True)
class Voice:
    """Speech as the engines hear it; the sound file itself goes to the encoder untouched.

    log_mel: (N, 80) float16, natural log of mel energies, 100 rows per second, 16 kHz mono. Half precision keeps
             a long voice small, and is finer (0.01) than any ear.
    level:   (N,) float32, root mean square of each row's 10 ms, full scale = 1.
    seconds: length of the sound.
    """

    log_mel: np.ndarray
    level: np.ndarray
    seconds: float

    @property
    def silent(self) -> bool:
        """True when nothing in it can be heard (below -60 dB of full scale)."""
        return not len(self.level) or float(self.level.max()) < 1e-3


@dataclass(frozen=True)
class MotionOptions:
    """What of a request concerns motion; see TalkingHeadRequest for the bounds."""

    seed: int
    pose_style: int = 0
    still: bool = False
    blink: bool = True
    expression_scale: float = 1.0
    fps: float = MOTION_FPS
    frames: int | None = None
