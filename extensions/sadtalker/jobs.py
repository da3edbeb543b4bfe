"""The talking-head job: its request, with every bound and default, and its handler. Imports nothing heavy."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from webui.plugin_api import ArtifactId, JobKind, MediaError, face_finder

if TYPE_CHECKING:
    from pathlib import Path

    from webui.plugin_api import JobContext, JobResult

KIND = "talk"

EngineName = Literal["auto", "builtin", "sadtalker"]
Preprocess = Literal["crop", "extcrop", "resize", "full", "extfull"]


class TalkingHeadRequest(BaseModel):
    """A portrait, a voice, and how they should become a video. Bounds and defaults are declared here only."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    portrait: ArtifactId = Field(description="Artifact id of a picture with a face (or of a video: its first frame is taken).")
    voice: ArtifactId = Field(description="Artifact id of a sound file (or of a video: its sound is taken).")
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
    fps: float = Field(25.0, ge=10.0, le=60.0, description="Frames per second.")
    seed: int | None = Field(None, ge=0, le=2**32 - 1, description="Same seed, same movement; empty draws one.")
    face: int | None = Field(
        None, ge=0, le=63, description="Which face, when there are several: 0 is the largest; empty takes the largest."
    )


def talk(ctx: JobContext, request: TalkingHeadRequest) -> JobResult:
    """Make the video. Heavy modules are imported here, when the first job runs."""
    started = time.perf_counter()
    from extensions.sadtalker.pipeline import run

    return run(ctx, request, started)


def warm_up() -> None:
    """Load what every talking head needs, so that the first job does not wait for it."""
    import extensions.sadtalker.pipeline  # noqa: F401

    face_finder()


def recall(path: Path) -> dict[str, Any] | None:
    """The fields of the request that a video was made with, without its files; None when it is no talking head of ours."""
    from extensions.sadtalker.join import read_settings

    try:
        settings = read_settings(path) if path.is_file() else None
        if settings is None or settings.pop("kind", None) != KIND:
            return None
        known = {name: settings[name] for name in TalkingHeadRequest.model_fields if name in settings}
        request = TalkingHeadRequest.model_validate(known | {"portrait": "", "voice": ""})
    except (MediaError, ValidationError, OSError):
        return None
    return request.model_dump(include=set(known) - {"portrait", "voice"})


KINDS = (
    JobKind(
        name=KIND, title="Talking head", request=TalkingHeadRequest, handler=talk, suffix=".mp4", warm_up=warm_up, recall=recall
    ),
)
