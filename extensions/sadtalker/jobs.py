"""The talking-head job: its request, with every bound and default, and its handler. Imports nothing heavy."""

from __future__ import annotations

import re
import time
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

from webui.plugin_api import ArtifactId, JobKind, MediaError, devices, face_finder

if TYPE_CHECKING:
    from pathlib import Path

    from webui.plugin_api import JobContext, JobResult

KIND = "talk"

EngineName = Literal["auto", "builtin", "sadtalker"]
Preprocess = Literal["crop", "extcrop", "resize", "full", "extfull"]
Accuracy = Literal["fast", "exact"]

WHOLE = ("full", "extfull")
"""The modes in which the head goes back into its picture."""

NONE = "none"
"""What stands for no restorer and no upscaler."""

FILES = ("portrait", "voice", "reference_blink", "reference_pose")
"""The fields that name files."""

_MOST_DEGREES = 90.0


def degrees(written: str) -> tuple[float, ...]:
    """ "0, 20, -10" as numbers. Raises ValueError in words."""
    try:
        found = tuple(float(number) for number in re.split(r"[,;\s]+", written.strip()) if number)
    except ValueError:
        raise ValueError(f"'{written[:40]}' is no list of degrees, such as 0, 20, -10") from None
    if not all(abs(number) <= _MOST_DEGREES for number in found):  # not a number is none of them either
        raise ValueError(f"degrees go from {-_MOST_DEGREES:g} to {_MOST_DEGREES:g}")
    return found


def _checked(written: str) -> str:
    degrees(written)
    return written


Degrees = Annotated[str, Field(max_length=400), AfterValidator(_checked)]


class TalkingHeadRequest(BaseModel):
    """A portrait, a voice, and how they should become a video. Bounds and defaults are declared here only."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    portrait: ArtifactId = Field(description="Artifact id of a picture with a face (or of a video: its first frame is taken).")
    voice: ArtifactId | None = Field(
        None, description="Artifact id of a sound file (or of a video: its sound is taken). Leave it out with idle."
    )
    idle: float | None = Field(
        None, ge=0.1, le=24 * 3600, description="Seconds of a video in which nobody speaks; in place of a voice."
    )
    engine: EngineName = Field("auto", description="Which engine animates the face; auto takes the best that is installed.")
    preprocess: Preprocess = Field(
        "crop",
        description="crop: the head alone. extcrop: more around it. resize: the whole picture as a head shot. "
        "full, extfull: the head moves inside the whole picture.",
    )
    still: bool = Field(False, description="Keep the head's pose as in the photo; eyes and mouth stay alive.")
    pose_style: int = Field(0, ge=0, le=45, description="Which of the 46 ways of moving the head.")
    size: Literal[256, 512] = Field(512, description="Width of the head's picture in pixels.")
    expression_scale: float = Field(1.0, ge=0.0, le=3.0, description="How strongly the face moves when it speaks.")
    blink: bool = Field(True, description="Blink now and then.")
    reference_blink: ArtifactId | None = Field(None, description="Artifact id of a video of a face: the eyes blink as there.")
    reference_pose: ArtifactId | None = Field(None, description="Artifact id of a video of a face: the head moves as there.")
    yaw: Degrees = Field("", description="Degrees that the head turns sideways to, evenly over the clip, such as 0,20,-10.")
    pitch: Degrees = Field("", description="The same up and down.")
    roll: Degrees = Field("", description="The same to the shoulders.")
    enhancer: str = Field(NONE, max_length=255, description="Face restorer, a file in models/GFPGAN; none leaves faces alone.")
    enhancer_strength: float = Field(1.0, ge=0.0, le=1.0, description="How much of the restored face is taken.")
    background_enhancer: str = Field(
        NONE, max_length=255, description="Upscaler, a file in models/ESRGAN, that makes the picture finer before it is animated."
    )
    upscale: Literal[1, 2, 4] = Field(1, description="full, extfull: how many times larger than the picture the video is.")
    fps: float = Field(25.0, ge=10.0, le=60.0, description="Frames per second.")
    seed: int | None = Field(None, ge=0, le=2**32 - 1, description="Same seed, same movement; empty draws one.")
    face: int | None = Field(
        None, ge=0, le=63, description="Which face, when there are several: 0 is the largest; empty takes the largest."
    )
    accuracy: Accuracy = Field(
        "fast", description="How SadTalker's networks compute: fast is half precision where the device is quicker in it."
    )
    batch_size: int | None = Field(
        None,
        ge=1,
        le=64,
        description="Frames that SadTalker's networks draw at once, as far as memory holds them; empty: what suits the device.",
    )
    show_landmarks: bool = Field(False, description="Make a second video: the face beside the landmarks found in each frame.")

    @model_validator(mode="after")
    def _without_contradictions(self) -> TalkingHeadRequest:
        if (self.voice is None) == (self.idle is None):
            raise ValueError("give either a voice or idle, the seconds without one")
        if self.still and self.reference_pose is not None:
            raise ValueError("still keeps the head's pose: leave out reference_pose")
        if not self.blink and self.reference_blink is not None:
            raise ValueError("without blinking there is no use for reference_blink: leave it out")
        if self.upscale != 1 and (self.background_enhancer == NONE or self.preprocess not in WHOLE):
            raise ValueError("upscale is for full and extfull, with a background enhancer")
        return self


def talk(ctx: JobContext, request: TalkingHeadRequest) -> JobResult:
    """Make the video. Heavy modules are imported here, when the first job runs."""
    started = time.perf_counter()
    from extensions.sadtalker.pipeline import run

    return run(ctx, request, started)


def warm_up() -> None:
    """Load what every talking head needs, so that the first job does not wait for it."""
    import extensions.sadtalker.pipeline  # noqa: F401
    from extensions.sadtalker.engines import choice

    face_finder()
    choice.preload()


def recall(path: Path) -> dict[str, Any] | None:
    """The fields of the request that a video was made with; None when it is no talking head of ours. Of its files it is only
    known that there were some: "" stands for one.
    """
    from extensions.sadtalker.join import read_settings

    try:
        settings = read_settings(path) if path.is_file() else None
        if settings is None or settings.pop("kind", None) != KIND:
            return None
        known = {name: settings[name] for name in TalkingHeadRequest.model_fields if name in settings}
        if "voice" not in known and "idle" not in known:  # made before voices could be left out
            known["voice"] = ""
        request = TalkingHeadRequest.model_validate(known | {"portrait": ""})
    except (MediaError, ValidationError, OSError):
        return None
    return request.model_dump(include=set(known) - {"portrait"})


KINDS = (
    JobKind(
        name=KIND, title="Talking head", request=TalkingHeadRequest, handler=talk, suffix=".mp4", warm_up=warm_up, recall=recall,
        positional=("portrait", "voice"), loaded=devices.loaded, machine=devices.machine, unload=devices.unload,
    ),
)  # fmt: skip
