"""Portrait and voice to video, stage by stage. Frames flow one by one; nothing here holds a clip."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from extensions.sadtalker.audio import listen
from extensions.sadtalker.composite import composite, video_size
from extensions.sadtalker.encode import VideoWriter
from extensions.sadtalker.engines import choice
from extensions.sadtalker.jobs import TalkingHeadRequest
from extensions.sadtalker.preprocess import CROP, CropTransform, prepare_portrait
from extensions.sadtalker.types import MotionOptions, Portrait, Voice
from webui.plugin_api import Cancelled, JobContext, JobResult, NoFaceFound, choose_face, face_finder, read_picture

TITLE = "AI-generated talking head"
SIDE_TO_CROP_FROM = 6144
"""Longest side that a picture is read at when only the head is cut out of it: the head should keep its pixels."""


class Stopwatch:
    """Seconds per stage, and since the start."""

    def __init__(self, start: float) -> None:
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

    started: time.perf_counter() when the job began.
    """
    clock = Stopwatch(started)
    chosen = choice.choose(request.engine, ctx.settings.models_dir)
    with clock.stage("voice"):
        ctx.progress(0.0, "listening to the voice")
        voice = hear(ctx, request)
    with clock.stage("face"):
        ctx.progress(0.01, "looking for the face")
        picture, portrait, crop = see(ctx, request)
    with clock.stage("prepare"):
        engine = choice.load(chosen)
        identity = engine.prepare(portrait)
    with clock.stage("motion"):
        ctx.progress(0.02, "turning speech into movement")
        motion = engine.motion(voice, identity, motion_options(ctx, request, voice))
    size = video_size(picture, (portrait.view.width, portrait.view.height), crop)
    facts: dict[str, Any] = {
        "engine": chosen.name, "engine_reason": chosen.reason, "frames": len(motion), "fps": request.fps,
        "size": list(size), "seed": ctx.seed,
    }  # fmt: skip
    settings = request.model_dump(exclude={"portrait", "voice"}) | {"seed": ctx.seed, "engine": chosen.name}
    with ctx.output(".mp4", ctx.input(request.portrait).stem) as output, clock.stage("render"):
        frames = composite(engine.render(identity, motion), picture, crop)
        sound = ctx.input(request.voice)
        with VideoWriter(output.path, size, request.fps, len(motion), sound, TITLE, settings) as video:
            facts["frames"] = feed(ctx, frames, video, len(motion), clock)
    clock.mark("total")
    return JobResult((output.artifact,), facts | {"seconds": clock.seconds})


def hear(ctx: JobContext, request: TalkingHeadRequest) -> Voice:
    """The voice as the engines hear it."""
    voice = listen(ctx.input(request.voice), ctx.settings.max_voice_minutes * 60, lambda: ctx.cancelled)
    if voice.silent:
        ctx.warn("The voice clip is silent: the mouth stays shut.")
    return voice


def see(ctx: JobContext, request: TalkingHeadRequest) -> tuple[np.ndarray, Portrait, CropTransform]:
    """The picture, the portrait cut from it, and where it belongs."""
    limit = ctx.settings.longest_side
    if request.preprocess in CROP:
        limit = max(limit, SIDE_TO_CROP_FROM)
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


def feed(ctx: JobContext, frames: Iterator[np.ndarray], video: VideoWriter, total: int, clock: Stopwatch) -> int:
    """Write the frames until they end or the job is cancelled; returns how many. Raises Cancelled before the first."""
    done = 0
    for frame in frames:
        if ctx.cancelled:
            break
        video.write(frame)
        done += 1
        ctx.preview(frame)
        clock.mark("first_preview")
        ctx.progress(0.03 + 0.96 * done / total, f"rendering frame {done} of {total}")
    if not done:
        raise Cancelled("The job was cancelled before the first frame was ready.")
    return done
