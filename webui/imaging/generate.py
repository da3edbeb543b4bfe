"""Pictures from requests: txt2img, img2img and inpaint. Everything is in memory: a loaded model, a request, arrays.

    prompt -> guides        encode.Conditioner
    seed -> noise           noise.Noise, one source per picture
    noise -> latents        denoise.denoise, on a scheduler of samplers; twice in hires fix
    latents -> picture      latents.decode

No file is read or written here, and whoever watches is known by four names alone. The same request with the same seed gives
the same picture, on a CPU bit for bit. A batch that memory is too small for is made again with less (memory.attempt).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from webui.imaging import masks
from webui.imaging.denoise import steps_of
from webui.imaging.load import Model
from webui.imaging.noise import Seed
from webui.imaging.passes import PLAIN, Drawn, How, Job, Pass, Picture, Second, Watch
from webui.imaging.plans import Plan
from webui.imaging.requests import Img2Img, Inpaint, Txt2Img, read_size
from webui.imaging.resize import resize, resize_latents
from webui.imaging.sizes import native_size, own_size, whole_size


def txt2img(model: Model, request: Txt2Img, watch: Watch, seed: int, how: How = PLAIN) -> Iterator[Picture]:
    """Pictures from words, batch after batch.

    seed: of the first picture, 0 to 2**32 - 1; the request's own is not looked at, because it may be none. When the watch is
    cancelled, what is there comes out and no more. Raises InvalidRequest at once, OutOfMemory and UnsupportedModel while it runs.
    """
    width, height = read_size(request.size) if request.size else native_size(model)
    second = Second.asked(request, width, height) if request.hires else None
    job = Job(model, request, watch, seed, how, request.steps + (second.steps if second else 0))

    def draw(batch: Sequence[Seed], plan: Plan) -> Drawn:
        first = Pass(job, plan, batch, width, height, request.steps)
        start = first.fresh() * first.scheduler.init_noise_sigma
        done = first.run(start, job.guides(request.steps), first.unmasked(), film=job.film)
        if second and done.result.ended == "no":
            done = second.after(done, job, plan, batch)
        return done.decoded(model, plan)

    return job.pictures(draw, {"Size": f"{width}x{height}", **(second.facts(request) if second else {})})


def img2img(model: Model, request: Img2Img, image: np.ndarray, watch: Watch, seed: int, how: How = PLAIN) -> Iterator[Picture]:
    """Pictures from words and `image`, (H, W, 3) uint8 RGB. Without a size in the request they have its own (see `own_size`).

    Everything else is as in `txt2img`.
    """
    width, height = read_size(request.size) if request.size else own_size(model, image, watch.warn)
    steps = _steps(request, watch)
    job = Job(model, request, watch, seed, how, steps)
    in_latents = request.resize == "latent"
    source = resize(image, *whole_size(image)) if in_latents else resize(image, width, height, _mode(request))

    def draw(batch: Sequence[Seed], plan: Plan) -> Drawn:
        if not steps:
            return Drawn(np.stack([resize(source, width, height)] * len(batch)))
        only = Pass(job, plan, batch, width, height, request.steps, first=request.steps - steps)
        known = only.encoded(source)
        known = resize_latents(known, only.shape[2], only.shape[1]) if in_latents else known
        start = only.noised(known, only.fresh())
        return only.run(start, job.guides(steps), only.unmasked(), film=job.film).decoded(model, plan)

    return job.pictures(draw, {"Size": f"{width}x{height}", "Denoising strength": request.strength})


def inpaint(
    model: Model, request: Inpaint, image: np.ndarray, mask: np.ndarray, watch: Watch, seed: int, how: How = PLAIN
) -> Iterator[Picture]:
    """`image`, (H, W, 3) uint8 RGB, with a part of it made anew: where `mask` (see masks.read) is light.

    The picture has the size that the request names, else its own. With `only_masked` it keeps its own, and the size is what the
    masked part is worked on at. What the blurred mask does not touch stays as it was, bit for bit. The rest is as in `txt2img`.
    """
    canvas, soft, (width, height) = _prepared(model, request, image, mask, watch)
    steps = _steps(request, watch)
    job = Job(model, request, watch, seed, how, steps)
    left, top, right, bottom = canvas.box
    soft = resize(soft[top:bottom, left:right], width, height)
    source = resize(canvas.rgb[top:bottom, left:right], width, height)
    source = masks.filled(source, soft) if request.content == "fill" else source

    def draw(batch: Sequence[Seed], plan: Plan) -> Drawn:
        if not steps:
            return Drawn(np.stack([canvas.rgb] * len(batch)))
        only = Pass(job, plan, batch, width, height, request.steps, first=request.steps - steps)
        start, extra, keep = only.masked_start(request, source, soft)
        done = only.run(start, job.guides(steps), extra, keep, film=job.film)
        return done.decoded(model, plan).on(canvas)

    return job.pictures(draw, {"Size": f"{width}x{height}", "Denoising strength": request.strength, **_mask_facts(request)})


def _mode(request: Img2Img) -> Any:
    """How pixels are resized; only latents are resized as such, and what is pasted back never is."""
    return "stretch" if request.resize == "latent" else request.resize


def _steps(request: Img2Img, watch: Watch) -> int:
    """How many steps are taken."""
    steps = steps_of(request.strength, request.steps)
    if not steps:
        watch.warn(f"Nothing is changed: {request.steps} steps at strength {request.strength:g} are less than one.")
    return steps


def _prepared(
    model: Model, request: Inpaint, image: np.ndarray, mask: np.ndarray, watch: Watch
) -> tuple[masks.Canvas, np.ndarray, tuple[int, int]]:
    """What is painted on, its blurred mask, and the size that is worked at."""
    height, width = image.shape[:2]
    marked = masks.read(mask, width, height, invert=request.mask_invert)
    size = read_size(request.size) if request.size else None
    if size and not request.only_masked:
        image, marked = resize(image, *size, _mode(request)), resize(marked, *size, _mode(request), "NEAREST")
    soft = masks.blurred(marked, request.mask_blur)
    if request.only_masked:
        size = size or native_size(model)
        box = masks.box_around(soft, request.padding, *size)
    else:
        size = size or own_size(model, image, watch.warn)
        box = (0, 0, image.shape[1], image.shape[0])
    return masks.Canvas(image, masks.opacity(soft), box), soft, size


def _mask_facts(request: Inpaint) -> dict[str, object]:
    mode = "Inpaint not masked" if request.mask_invert else None
    facts: dict[str, object] = {"Mask mode": mode, "Mask blur": request.mask_blur}
    if request.only_masked:
        facts |= {"Inpaint area": "Only masked", "Masked area padding": request.padding}
    return {**facts, "Masked content": request.content}
