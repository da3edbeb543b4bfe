"""Portrait and voice to video, stage by stage, in steps that a crash does not undo. Nothing here holds a clip."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np

from extensions.sadtalker.audio import listen
from extensions.sadtalker.composite import composite, video_size
from extensions.sadtalker.engines import choice
from extensions.sadtalker.jobs import KIND, TalkingHeadRequest
from extensions.sadtalker.join import Soundtrack, join
from extensions.sadtalker.preprocess import CROP, CropTransform, prepare_portrait
from extensions.sadtalker.segments import Clip, Segments
from extensions.sadtalker.types import Motion, MotionOptions, Portrait, Voice
from webui.plugin_api import Cancelled, JobContext, JobResult, ModelMissing, NoFaceFound, choose_face, face_finder, read_picture

if TYPE_CHECKING:
    from extensions.sadtalker.engines.base import Engine
    from webui.plugin_api import Artifact

TITLE = "AI-generated talking head"
SIDE_TO_CROP_FROM = 6144
"""Longest side that a picture is read at when only the head is cut out of it: the head should keep its pixels."""

MOTION = "motion.npy"

STAGES = ("face", "prepare", "voice", "motion", "render")


class Stopwatch:
    """Seconds per stage, and since the start."""

    def __init__(self, start: float = 0.0) -> None:
        self.start = start
        self.seconds: dict[str, float] = {}

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Time the block under `name`."""
        begun = time.perf_counter()
        yield
        self.seconds[name] = round(time.perf_counter() - begun, 3)

    def mark(self, name: str) -> None:
        """Note the seconds since the start under `name`, once."""
        self.seconds.setdefault(name, round(time.perf_counter() - self.start, 3))


def run(ctx: JobContext, request: TalkingHeadRequest, started: float) -> JobResult:
    """Make the video. Raises webui.errors only; stops early with what is done when the job is cancelled.

    What it is made with is a step, motion is one, and so is each segment of the video. A job that goes on after a crash looks
    at the picture again, which is quick and gives the same, and takes the rest from the files that the steps have left.

    started: time.perf_counter() when the job began.
    """
    clock = Stopwatch(started)
    ctx.progress(0.0, "looking for the face")
    means = ctx.step("means", lambda: find_means(ctx, request))
    with clock.stage("face"):
        picture, portrait, crop = see(ctx, request, means["longest_side"])
    with clock.stage("prepare"):
        chosen = choice.Choice(means["engine"], means["reason"])
        engine = choice.load(chosen)
        if dict(engine.models) != means["models"]:
            raise ModelMissing("The models that this job was begun with were replaced meanwhile. Start it again.")
        identity = engine.prepare(portrait)
    clock.seconds |= ctx.step("motion", lambda: move(ctx, request, engine, identity))
    motion = Motion(np.load(ctx.folder / MOTION), request.fps)
    size = video_size(picture, (portrait.view.width, portrait.view.height), crop)

    def render(start: int) -> Iterator[np.ndarray]:
        for frame in composite(engine.render(identity, motion, start), picture, crop):
            ctx.preview(frame)
            clock.mark("first_preview")
            yield frame

    settings = request.model_dump(exclude={"portrait", "voice"}) | {"kind": KIND, "seed": ctx.seed, "engine": chosen.name}
    artifact, frames = film(ctx, request, Clip(render, size, request.fps, len(motion)), settings, clock)
    facts: dict[str, Any] = {
        "engine": chosen.name, "engine_reason": chosen.reason, "models": dict(engine.models), "frames": frames,
        "fps": request.fps, "size": list(size), "seed": ctx.seed, "seconds": clock.seconds,
    }  # fmt: skip
    return JobResult((artifact,), facts)


def find_means(ctx: JobContext, request: TalkingHeadRequest) -> dict[str, Any]:
    """What the video is made with: chosen once, so that a job which goes on after a restart with other settings or models does
    not change in the middle of the clip.
    """
    chosen = choice.choose(request.engine, ctx.settings.models_dir)
    models = dict(choice.load(chosen).models)
    return {"engine": chosen.name, "reason": chosen.reason, "models": models, "longest_side": ctx.settings.longest_side}


def move(ctx: JobContext, request: TalkingHeadRequest, engine: Engine, identity: Any) -> dict[str, float]:
    """Leave the motion in the job's folder, so that the voice is never heard again. Returns seconds per stage."""
    clock = Stopwatch()
    with clock.stage("voice"):
        ctx.progress(0.01, "listening to the voice")
        voice = hear(ctx, request)
    with clock.stage("motion"):
        ctx.progress(0.02, "turning speech into movement")
        motion = engine.motion(voice, identity, motion_options(ctx, request, voice))
    with ctx.file(MOTION) as path, path.open("wb") as file:
        np.save(file, motion.values)
    return clock.seconds


def film(
    ctx: JobContext, request: TalkingHeadRequest, clip: Clip, settings: dict[str, Any], clock: Stopwatch
) -> tuple[Artifact, int]:
    """The video and its number of frames: segments are rendered while the sound is encoded, then all is put together."""
    with Soundtrack(ctx.folder, ctx.file, ctx.input(request.voice), clip.seconds(clip.frames)) as sound:
        parts = render_segments(ctx, clip, sound, clock)
        frames = [part["frames"] for part in parts if part["frames"]]
        if not frames:
            raise Cancelled("The job was cancelled before the first frame was ready.")
        with clock.stage("join"), ctx.output(".mp4", ctx.input(request.portrait).stem) as output:
            sound.finish(clip.seconds(sum(frames)))
            join(output.path, ctx.folder, frames, request.fps, TITLE, settings)
    # What an earlier run did was seen then, and took its time then.
    clock.seconds["first_preview"] = parts[0]["first_preview"]
    clock.seconds["render"] = round(sum(part["seconds"] for part in parts) + clock.seconds.pop("join"), 3)
    clock.mark("total")
    clock.seconds["total"] = max(clock.seconds["total"], round(sum(clock.seconds[stage] for stage in STAGES), 3))
    assert output.artifact is not None
    return output.artifact, sum(frames)


def render_segments(ctx: JobContext, clip: Clip, sound: Soundtrack, clock: Stopwatch) -> list[dict[str, Any]]:
    """A step per segment: what Segments.make says of each, up to the one in which the job was cancelled."""
    segments = Segments(ctx, clip)

    def make(index: int) -> dict[str, Any]:
        sound.settle()
        return segments.make(index) | {"first_preview": clock.seconds.get("first_preview")}

    return ctx.map("segment", make, range(len(clip.spans)))


def hear(ctx: JobContext, request: TalkingHeadRequest) -> Voice:
    """The voice as the engines hear it."""
    voice = listen(ctx.input(request.voice), ctx.settings.max_voice_minutes * 60, lambda: ctx.cancelled)
    if voice.silent:
        ctx.warn("The voice clip is silent: the mouth stays shut.")
    return voice


def see(ctx: JobContext, request: TalkingHeadRequest, longest_side: int) -> tuple[np.ndarray, Portrait, CropTransform]:
    """The picture, the portrait cut from it, and where it belongs. longest_side: pixels that it is read at, at most."""
    limit = max(longest_side, SIDE_TO_CROP_FROM) if request.preprocess in CROP else longest_side
    picture = read_picture(ctx.input(request.portrait), limit)
    size = picture.rgb.shape[1::-1]
    try:
        face, notes = choose_face(face_finder().find(picture.rgb), request.face, size)
    except NoFaceFound as error:
        if size == picture.original_size:
            raise
        raise NoFaceFound(f"{error} (It was {picture.notes[0]}; --longest-side keeps more of it.)") from error
    for note in (*picture.notes, *notes):
        ctx.warn(note)
    portrait, crop = prepare_portrait(picture.rgb, face.landmarks, request.preprocess, request.size)
    return picture.rgb, portrait, crop


def motion_options(ctx: JobContext, request: TalkingHeadRequest, voice: Voice) -> MotionOptions:
    return MotionOptions(
        seed=ctx.seed,
        pose_style=request.pose_style,
        still=request.still,
        blink=request.blink,
        expression_scale=request.expression_scale,
        fps=request.fps,
        frames=max(1, round(voice.seconds * request.fps)),
    )
