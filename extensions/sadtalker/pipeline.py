"""Portrait and voice to video, stage by stage, in steps that a crash does not undo. Nothing here holds a clip."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import ExitStack
from itertools import islice
from typing import TYPE_CHECKING, Any

import numpy as np

from extensions.sadtalker import clips, finer
from extensions.sadtalker.audio import listen
from extensions.sadtalker.drawing import Drawing, Scene
from extensions.sadtalker.engines import choice
from extensions.sadtalker.filming import STOPPED, Stopwatch, film
from extensions.sadtalker.jobs import TalkingHeadRequest, degrees
from extensions.sadtalker.preprocess import CROP
from extensions.sadtalker.types import MOTION_FPS, Motion, MotionOptions
from webui.plugin_api import (
    Cancelled,
    Face,
    InvalidRequest,
    JobContext,
    JobResult,
    ModelMissing,
    NoFaceFound,
    UnsupportedModel,
    choose_face,
    face_finder,
    read_picture,
)

if TYPE_CHECKING:
    from extensions.sadtalker.engines.base import Engine, Heard

SIDE_TO_CROP_FROM = 6144
"""Longest side that a picture is read at when only the head is cut out of it: the head should keep its pixels."""

MOTION = "motion.npy"


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
        picture, face = see(ctx, request, means["longest_side"])
    engine = begun_with(ctx, request, means)
    with ExitStack() as held:
        with clock.stage("models"):
            held.enter_context(engine.ready())
            restorer = held.enter_context(finer.restorer(ctx.settings, request))
        with clock.stage("prepare"):
            portrait, crop = engine.frame(picture, face, request.preprocess, request.size)
            scene = Scene(picture, face.landmarks, request.preprocess, portrait, crop)
            identity = engine.prepare(portrait)
        clock.seconds |= ctx.step("motion", lambda: move(ctx, request, engine, identity))
        motion = Motion(np.load(ctx.folder / MOTION), request.fps, engine.columns)
        drawing = Drawing(engine, identity, motion, scene, restorer, request.enhancer_strength)
        for note in drawing.notes:
            ctx.warn(note)
        artifacts, frames = film(ctx, request, drawing, means["engine"], clock)
        facts: dict[str, Any] = {
            "engine": means["engine"], "engine_reason": means["reason"], "models": means["models"], "landmarks": engine.landmarks,
            "frames": frames, "fps": request.fps, "size": list(scene.size), "seed": ctx.seed, "seconds": clock.seconds,
        }  # fmt: skip
    return JobResult(artifacts, facts)


def find_means(ctx: JobContext, request: TalkingHeadRequest) -> dict[str, Any]:
    """What the video is made with: chosen once, so that a job which goes on after a restart with other settings or models does
    not change in the middle of the clip.
    """
    chosen = choice.choose(request.engine, ctx.settings, request.size)
    try:
        drawing = dict(choice.load(chosen, ctx.settings, request).models)
    except UnsupportedModel as error:  # what headers did not tell
        if request.engine != choice.AUTO:
            raise
        chosen, drawing = choice.without_networks(error, ctx.settings), {}
    choice.check(chosen.name, request)
    models = drawing | finer.models(ctx.settings, request)
    return {"engine": chosen.name, "reason": chosen.reason, "models": models, "longest_side": ctx.settings.longest_side}


def begun_with(ctx: JobContext, request: TalkingHeadRequest, means: dict[str, Any]) -> Engine:
    """The engine that was chosen. Raises ModelMissing when its files are not those that they were then."""
    engine = choice.load(choice.choose(means["engine"], ctx.settings, request.size), ctx.settings, request)
    if dict(engine.models) | finer.models(ctx.settings, request) != means["models"]:
        raise ModelMissing("The models that this job was begun with were replaced meanwhile. Start it again.")
    return engine


def see(ctx: JobContext, request: TalkingHeadRequest, longest_side: int) -> tuple[np.ndarray, Face]:
    """The picture, (H, W, 3) uint8 RGB, and the face in it. longest_side: pixels that it is read at, at most."""
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
    return finer.finer(ctx, request, picture.rgb, face)


def move(ctx: JobContext, request: TalkingHeadRequest, engine: Engine, identity: Any) -> dict[str, float]:
    """Leave the motion in the job's folder, so that the voice is never heard again. Returns seconds per stage."""
    clock = Stopwatch()
    with clock.stage("voice"):
        ctx.progress(0.01, "listening to the voice")
        heard = hear(ctx, request, engine)
    seconds = request.idle if heard is None else heard.seconds
    frames = max(1, round(seconds * request.fps))
    with clock.stage("reference"):
        seen = {name: watch(ctx, request, engine, name, frames) for name in ("reference_blink", "reference_pose")}
    with clock.stage("motion"):
        ctx.progress(0.02, "turning speech into movement")
        options = motion_options(ctx, request, frames, seen["reference_blink"], seen["reference_pose"])
        motion = engine.motion(heard, identity, options, lambda _share: stop_if_cancelled(ctx))
    with ctx.file(MOTION) as path, path.open("wb") as file:
        np.save(file, motion.values)
    return clock.seconds


def hear(ctx: JobContext, request: TalkingHeadRequest, engine: Engine) -> Heard | None:
    """The voice as the engine hears it; None when there is none."""
    longest = ctx.settings.max_voice_minutes * 60
    if request.voice is None:
        if request.idle > longest:
            raise InvalidRequest(f"{request.idle:g} seconds are longer than {longest:g}, the most that is allowed. Choose less.")
        return None
    voice = listen(ctx.input(request.voice), longest, engine.ear(), lambda: ctx.cancelled)
    if voice.silent:
        ctx.warn("The voice clip is silent: the mouth stays shut.")
    return voice


def watch(ctx: JobContext, request: TalkingHeadRequest, engine: Engine, name: str, frames: int) -> np.ndarray | None:
    """The movement in a reference video, as much of it as so many frames of ours take; None when there is no such video.

    It is left in the job's folder: looking at a film takes as long as many frames take to render.
    """
    film = getattr(request, name)
    if film is None:
        return None
    # With a row behind the last frame, which lies between two of them at other rates.
    kept, most = ctx.folder / f"{film}.npy", max(2, math.ceil((frames - 1) * MOTION_FPS / request.fps) + 1)
    if not kept.exists():
        with ctx.file(kept.name) as path, path.open("wb") as file:
            np.save(file, engine.watch(watched(ctx, islice(clips.frames(ctx.input(film), MOTION_FPS), most))))
    return np.load(kept)


def watched(ctx: JobContext, frames: Iterator[np.ndarray]) -> Iterator[np.ndarray]:
    """The frames, with word of each, as long as the job goes on."""
    for number, frame in enumerate(frames, 1):
        stop_if_cancelled(ctx)
        ctx.progress(0.015, f"watching frame {number} of the reference video")
        yield frame


def stop_if_cancelled(ctx: JobContext) -> None:
    if ctx.cancelled:
        raise Cancelled(STOPPED)


def motion_options(
    ctx: JobContext, request: TalkingHeadRequest, frames: int, lids: np.ndarray | None, head: np.ndarray | None
) -> MotionOptions:
    return MotionOptions(
        seed=ctx.seed,
        pose_style=request.pose_style,
        still=request.still,
        blink=request.blink,
        expression_scale=request.expression_scale,
        fps=request.fps,
        frames=frames,
        yaw=degrees(request.yaw),
        pitch=degrees(request.pitch),
        roll=degrees(request.roll),
        blink_like=lids,
        pose_like=head,
    )
