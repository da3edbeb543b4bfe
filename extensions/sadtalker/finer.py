"""What makes a talking head finer than its photo: an upscaler, once for the photo, and a face restorer, for every frame.

Both are files in models/ and belong to the studio (webui.imaging); here is only when they are used and on what.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING

import cv2
import numpy as np

from extensions.sadtalker.jobs import NONE, WHOLE, TalkingHeadRequest
from extensions.sadtalker.preprocess import CROP, head_box
from webui.plugin_api import Face, InvalidRequest, UnsupportedModel, devices, restore, upscale, weights_catalog

if TYPE_CHECKING:
    from webui.plugin_api import JobContext
    from webui.settings import Settings

PICTURE = "finer.npy"

LITE = "Enhancers need the full installation, and this is the small one. Run ./launch.sh --full to complete it."

ENOUGH = "The photo has more pixels than the video shows, so the background enhancer would add nothing and was left out."

_AROUND = 3.2
"""In measures of head_box: what is made finer of a photo of which the head alone is shown, with what its moving may uncover."""


def models(settings: Settings, request: TalkingHeadRequest) -> dict[str, str]:
    """The weights that make it finer: name, and the first 12 digits of the file's SHA-256.

    Raises ModelMissing, UnsupportedModel for a file that cannot be used, and InvalidRequest in the small installation.
    """
    known = weights_catalog.shared(settings.models_dir, settings.allow_pickles)
    entries = []
    if request.enhancer != NONE and request.enhancer_strength > 0:
        entries.append(known.find_restorer(request.enhancer))
    if request.background_enhancer != NONE and not upscale.without_file(request.background_enhancer):
        entries.append(known.find_upscaler(request.background_enhancer))
    if entries and settings.lite:
        raise InvalidRequest(LITE)
    for entry in entries:
        if entry.problem:
            raise UnsupportedModel(entry.problem)
    return {entry.name: (known.hashed(entry).hash or "")[:12] for entry in entries}


@contextmanager
def restorer(settings: Settings, request: TalkingHeadRequest) -> Iterator[restore.Restorer | None]:
    """The face restorer that was asked for, in memory until the block ends; None when none was."""
    if request.enhancer == NONE or request.enhancer_strength <= 0:
        yield None
        return
    device, _ = devices.find(settings.device)
    precision, pickles = "bf16" if request.accuracy == "fast" and device.bf16 else "fp32", settings.allow_pickles
    where = settings.models_dir, settings.device
    with restore.leased(request.enhancer, *where, precision=precision, allow_pickles=pickles) as found:
        yield found


def finer(ctx: JobContext, request: TalkingHeadRequest, picture: np.ndarray, face: Face) -> tuple[np.ndarray, Face]:
    """The picture and its face as the background enhancer makes them, or as they are when there is none.

    It is made once and left in the job's folder: an upscaler may take minutes. Where the head alone is shown, so is only its
    surroundings' part of the picture; full pictures get the size that `upscale` asks for.
    """
    if request.background_enhancer == NONE:
        return picture, face
    height, width = picture.shape[:2]
    left, top, right, bottom = 0, 0, width, height
    if request.preprocess in CROP:
        around = head_box(face.landmarks, _AROUND, width, height)
        left, top, right, bottom = around.left, around.top, around.right, around.bottom
        shown = head_box(face.landmarks, CROP[request.preprocess], width, height).width
    else:
        shown = width
    if request.preprocess not in WHOLE and shown >= request.size:
        ctx.warn(ENOUGH)
        return picture, face
    factor = request.upscale if request.preprocess in WHOLE else min(4.0, request.size / shown)
    if not (ctx.folder / PICTURE).exists():
        with ctx.file(PICTURE) as path, path.open("wb") as file:
            np.save(file, _enlarged(ctx, request, picture[top:bottom, left:right], factor))
    made = np.load(ctx.folder / PICTURE)
    scale = np.array([made.shape[1] / (right - left), made.shape[0] / (bottom - top)])
    corner = np.array([left, top])
    box = (np.array(face.box).reshape(2, 2) - corner) * scale
    return made, replace(face, box=tuple(box.ravel().tolist()), landmarks=(face.landmarks - corner + 0.5) * scale - 0.5)


def _enlarged(ctx: JobContext, request: TalkingHeadRequest, picture: np.ndarray, factor: float) -> np.ndarray:
    """A network's picture is at least as large as it makes it, and then made as large as it should be: so it is finer, too, where
    it should not be larger."""
    settings, stage = ctx.settings, "making the picture finer"
    height, width = picture.shape[:2]
    size = round(width * factor), round(height * factor)
    with upscale.leased(
        request.background_enhancer, settings.models_dir, settings.device, allow_pickles=settings.allow_pickles
    ) as upscaler:
        wide, high = upscale.target_size(width, height, max(factor, float(upscaler.scale)), None, False)
        large = upscaler.to_size(
            picture, wide, high, lambda done: ctx.progress(0.01 * done, stage), lambda: ctx.cancelled
        )
    return large if large.shape[1::-1] == size else cv2.resize(large, size, interpolation=cv2.INTER_AREA)
