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
"""The columns of the built-in engine's motion, in order."""

HEAD = ("yaw", "pitch", "roll", "shift_x", "shift_y")
"""Columns that the motion of every engine has, in the units above: HeadMotion's fields."""


@dataclass(frozen=True)
class HeadMotion:
    """How the head of one frame is turned and moved against that of the photo.

    yaw, pitch, roll: degrees, positive turns to the picture's right, nods down, and is clockwise as seen.
    shift_x, shift_y: inter-ocular distances of the photo, positive to the right and down.
    """

    yaw: float = 0.0
    pitch: float = 0.0
    roll: float = 0.0
    shift_x: float = 0.0
    shift_y: float = 0.0


@dataclass(frozen=True)
class Motion:
    """How the face moves. values: (T, len(columns)) float32, a row per frame of the video; fps: frames per second.

    columns: their names, which are the engine's own affair but for those of HEAD.
    """

    values: np.ndarray
    fps: float = MOTION_FPS
    columns: tuple[str, ...] = COEFFICIENTS

    def __len__(self) -> int:
        return len(self.values)

    def __getitem__(self, name: str) -> np.ndarray:
        return self.values[:, self.columns.index(name)]

    def head(self, frame: int) -> HeadMotion:
        """Where the head is in that frame."""
        return HeadMotion(*(float(self[name][frame]) for name in HEAD))


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
    """Speech as the built-in engine hears it; the sound file itself goes to the encoder untouched.

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
    """What of a request concerns motion; see TalkingHeadRequest for the bounds.

    frames:     of the video; None: as many as the voice lasts.
    yaw, pitch, roll: degrees that the head takes one after another, evenly over the clip, in place of its own; () leaves it.
    blink_like, pose_like: what Engine.watch saw in a clip, at MOTION_FPS: the lids, or the head, move as there.
    """

    seed: int
    pose_style: int = 0
    still: bool = False
    blink: bool = True
    expression_scale: float = 1.0
    fps: float = MOTION_FPS
    frames: int | None = None
    yaw: tuple[float, ...] = ()
    pitch: tuple[float, ...] = ()
    roll: tuple[float, ...] = ()
    blink_like: np.ndarray | None = None
    pose_like: np.ndarray | None = None
