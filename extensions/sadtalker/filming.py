"""A drawing filmed: its frames in segments, each a step of the job, with the sound put together into a video."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from extensions.sadtalker import points
from extensions.sadtalker.drawing import Drawing
from extensions.sadtalker.jobs import FILES, KIND, TalkingHeadRequest
from extensions.sadtalker.join import NoSound, Parts, Soundtrack, join
from extensions.sadtalker.segments import Clip, Frames, Segments
from webui.plugin_api import Cancelled, JobContext

if TYPE_CHECKING:
    from webui.plugin_api import Artifact

TITLE = "AI-generated talking head"

STAGES = ("face", "models", "prepare", "voice", "reference", "motion", "render")

STOPPED = "The job was cancelled before the first frame was ready."

Sound = Soundtrack | NoSound


@dataclass
class Stopwatch:
    """Seconds per stage, and since the start."""

    start: float = 0.0
    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Time the block under `name`."""
        begun = time.perf_counter()
        yield
        self.seconds[name] = round(time.perf_counter() - begun, 3)

    def mark(self, name: str) -> None:
        """Note the seconds since the start under `name`, once."""
        self.seconds.setdefault(name, round(time.perf_counter() - self.start, 3))


def film(
    ctx: JobContext, request: TalkingHeadRequest, drawing: Drawing, engine: str, clock: Stopwatch
) -> tuple[tuple[Artifact, ...], int]:
    """The videos, and the number of frames: segments are rendered while the sound is encoded, then all is put together."""

    def render(start: int) -> Frames:
        for frame in drawing.frames(start):
            ctx.preview(frame)
            clock.mark("first_preview")
            yield frame

    share = (0.03, 0.9 if request.show_landmarks else 0.99)
    clip = Clip(render, drawing.scene.size, request.fps, len(drawing.motion), share=share)
    with soundtrack(ctx, request, clip.seconds(clip.frames)) as sound:
        parts = render_segments(ctx, clip, sound, clock)
        frames = [part["frames"] for part in parts if part["frames"]]
        if not frames:
            raise Cancelled(STOPPED)
        with clock.stage("join"):
            video = assemble(ctx, request, clip, frames, sound, settings_of(ctx, request, engine))
        # What an earlier run did was seen then, and took its time then.
        clock.seconds["first_preview"] = parts[0]["first_preview"]
        clock.seconds["render"] = round(sum(part["seconds"] for part in parts) + clock.seconds.pop("join"), 3)
        made = [video]
        if request.show_landmarks and not ctx.cancelled:
            made += show_points(ctx, request, drawing, video, sound, clock)
    clock.mark("total")
    clock.seconds["total"] = max(clock.seconds["total"], round(sum(clock.seconds[stage] for stage in STAGES), 3))
    return tuple(made), sum(frames)


def show_points(
    ctx: JobContext, request: TalkingHeadRequest, drawing: Drawing, video: Artifact, sound: Sound, clock: Stopwatch
) -> list[Artifact]:
    """The second video: the face of the first beside the points found in each of its frames. [] when it was cancelled."""
    shown = points.Shown(video.path, drawing.scene.points, drawing.motion, drawing.engine.coefficients)
    clip = Clip(shown.frames, points.SIZE, request.fps, len(drawing.motion), "points", "looking at frame", (0.9, 0.99))
    frames = [part["frames"] for part in render_segments(ctx, clip, sound, clock) if part["frames"]]
    return [assemble(ctx, request, clip, frames, sound, {})] if frames else []


def render_segments(ctx: JobContext, clip: Clip, sound: Sound, clock: Stopwatch) -> list[dict[str, Any]]:
    """A step per segment: what Segments.make says of each, up to the one in which the job was cancelled."""
    with closing(Segments(ctx, clip)) as segments:

        def make(index: int) -> dict[str, Any]:
            sound.settle()
            return segments.make(index) | {"first_preview": clock.seconds.get("first_preview")}

        return ctx.map(clip.name, make, range(len(clip.spans)))


def soundtrack(ctx: JobContext, request: TalkingHeadRequest, seconds: float) -> Sound:
    if request.voice is None:
        return NoSound()
    return Soundtrack(ctx.folder, ctx.file, ctx.input(request.voice), seconds)


def assemble(
    ctx: JobContext, request: TalkingHeadRequest, clip: Clip, frames: list[int], sound: Sound, settings: dict[str, Any]
) -> Artifact:
    """A video of its segments, with so many frames in each, and the sound."""
    stem = ctx.input(request.portrait).stem
    with ctx.output(".mp4", stem if clip.name == "segment" else f"{stem}-{clip.name}") as output:
        sound.finish(clip.seconds(sum(frames)))
        join(output.path, Parts(ctx.folder, frames, request.fps, sound.path, clip.name), TITLE, settings)
    assert output.artifact is not None
    return output.artifact


def settings_of(ctx: JobContext, request: TalkingHeadRequest, engine: str) -> dict[str, Any]:
    """What is written into the video, for jobs.recall. Ids of files say nothing elsewhere: "" says that there was one."""
    files = {name: None if getattr(request, name) is None else "" for name in FILES}
    return request.model_dump() | files | {"kind": KIND, "seed": ctx.seed, "engine": engine}
