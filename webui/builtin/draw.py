"""From a request to picture files, batch by batch, in steps that a crash does not undo. Imported when the first job runs.

    means: model, VAE, precision     a step, so that all batches are made with the same
    batch after batch                a step each: its pictures are left in the job's folder
    files                            copied to where results go, when all is made or the job was cancelled
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import asdict, replace
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING, Any

import numpy as np

from webui.builtin import save, studio
from webui.builtin.kinds import Img2ImgRequest, InpaintRequest, Txt2ImgRequest
from webui.builtin.studio import Means
from webui.imaging import generate, infotext, masks, passes, preview, samplers, sizes
from webui.imaging.load import Model
from webui.imaging.noise import seeds
from webui.imaging.passes import How, Picture
from webui.imaging.prompt import strip_networks
from webui.imaging.requests import read_size
from webui.imaging.resize import upscaler
from webui.imaging.safety import blurred
from webui.plugin_api import Artifact, Cancelled, JobContext, JobResult, UnsupportedModel, read_picture
from webui.weights.catalog import read_title

if TYPE_CHECKING:
    from webui.imaging.preview import Previewer
    from webui.imaging.safety import Checker

Request = Txt2ImgRequest | Img2ImgRequest | InpaintRequest
Make = Callable[[Model, Any, passes.Watch, int, How], Iterator[Picture]]

Censor = Callable[[Picture], Picture]

KIND = {Txt2ImgRequest: "txt2img", Img2ImgRequest: "img2img", InpaintRequest: "inpaint"}

BLURRED = (
    "A picture was blurred, because the safety checker takes it for not safe for work. Try another seed or prompt; the setting "
    "nsfw_filter switches the checker off."
)

LONGEST_STEM = 48
"""Characters of the prompt in a file's name."""


def run(ctx: JobContext, request: Request, started: float) -> JobResult:
    """Make the pictures. Raises webui.errors only; gives back what is finished when the job is cancelled.

    started: time.perf_counter() when the job began.
    """
    ctx.progress(0.0, "choosing the model")
    check(request)
    means = Means(**ctx.step("means", lambda: asdict(studio.choose(ctx.settings, request))))
    tell_exchanged(ctx, request, means)
    make = prepared(ctx, request, means.longest_side)
    with ExitStack() as stack:
        batches = Batches(ctx, request, means, make, stack)
        made = ctx.map("batch", batches.make, range(request.batch_count))
    pictures = [picture for batch in made for picture in batch["pictures"]]
    skipped = sum(batch["skipped"] for batch in made)
    if not pictures and skipped and not ctx.cancelled:
        raise Cancelled("Every picture was skipped, so there is nothing to keep.")
    if not pictures:
        raise Cancelled("The job was cancelled before the first picture was there.")
    if skipped:
        ctx.warn(f"Skipped pictures, which were not kept: {skipped}.")
    ctx.progress(1.0, "saving")
    artifacts = saved(ctx, request, pictures)
    seconds: dict[str, float] = {part: round(sum(batch["seconds"][part] for batch in made), 3) for part in ("model", "pictures")}
    steps = sum(one["steps"] for one in pictures)
    seconds["total"] = round(max(time.perf_counter() - started, sum(seconds.values())), 3)
    speed = {"steps_per_second": round(steps / max(seconds["pictures"], 0.001), 3), "seconds": seconds}
    return JobResult(artifacts, facts(request, means, pictures, made[-1]) | {"skipped": skipped} | speed)


def check(request: Request) -> None:
    """Raise InvalidRequest for what can be told before a model is loaded."""
    samplers.resolve(request.sampler, request.schedule)
    save.check(request)
    passes.film_steps(request.filmstrip)
    if isinstance(request, Txt2ImgRequest) and request.hires:
        upscaler(request.hires_upscaler)
        if request.size:
            sizes.hires_size(request, *read_size(request.size))


def tell_exchanged(ctx: JobContext, request: Request, means: Means) -> None:
    """Say so when the model that was asked for by name and hash has another hash here."""
    _, digits = read_title(request.model or "")
    if not means.model_hash.startswith(digits):
        ctx.warn(f"There is no model with the hash {digits} here; {means.model}, which has the same name, was used.")


def prepared(ctx: JobContext, request: Request, longest_side: int) -> Make:
    """What makes the pictures, with the pictures read that they are made from."""
    if isinstance(request, Txt2ImgRequest):
        return generate.txt2img
    image = _read(ctx, request.image, longest_side)
    if isinstance(request, Img2ImgRequest):
        return lambda model, asked, *rest: generate.img2img(model, asked, image, *rest)
    mask = _read(ctx, request.mask, longest_side, with_alpha=True)
    # What is wrong with it is told before a model is loaded.
    masks.read(mask, image.shape[1], image.shape[0], invert=request.mask_invert)
    return lambda model, asked, *rest: generate.inpaint(model, asked, image, mask, *rest)


def _read(ctx: JobContext, artifact_id: str, longest_side: int, *, with_alpha: bool = False) -> np.ndarray:
    picture = read_picture(ctx.input(artifact_id), longest_side)
    for note in picture.notes:
        ctx.warn(note)
    return np.dstack([picture.rgb, picture.alpha]) if with_alpha and picture.alpha is not None else picture.rgb


class Batches:
    """Makes one batch after another, from the first that is not there yet. Only for that one a model is leased."""

    def __init__(self, ctx: JobContext, request: Request, means: Means, make: Make, stack: ExitStack):
        """stack: ends the lease."""
        self._ctx, self._request, self._means, self._make, self._stack = ctx, request, means, make, stack
        self._seconds = 0.0
        self._watch = PartWatch(ctx, "batch", request.batch_count)
        self._pictures: Iterator[Picture] | None = None
        self._how: dict[str, str] = {}
        self._seen: Censor

    def make(self, number: int) -> dict[str, Any]:
        """Make the batch, and leave its files in the job's folder."""
        begun = time.perf_counter()
        self._watch.part = number
        if self._pictures is None:
            self._pictures = self._begin(number)
        loaded = time.perf_counter()
        size = self._request.batch_size
        drawn = list(islice(self._pictures, size))
        kept = [(number * size + place, one) for place, one in enumerate(drawn) if not one.skipped]
        pictures = [left(self._ctx, self._request, self._means, place, self._seen(one)) for place, one in kept]
        seconds = {"model": loaded - begun, "pictures": time.perf_counter() - loaded}
        return {"pictures": pictures, "skipped": len(drawn) - len(pictures), "seconds": seconds, **self._how}

    def _begin(self, first: int) -> Iterator[Picture]:
        self._ctx.progress(first / self._request.batch_count, "loading the model")
        model, how, self._seen = taken(self._ctx, self._means, self._stack)
        self._how = {"device": how.plan.device, "precision": how.plan.precision}
        self._watch.span = first, self._request.batch_count
        request, seed = rest(self._request, self._ctx.seed, first)
        return self._make(model, request, self._watch, seed, how)


def taken(ctx: JobContext, means: Means, stack: ExitStack) -> tuple[Model, How, Censor]:
    """The model, leased until the stack ends, how it is run in this job, and what each picture goes through."""
    model, plan = stack.enter_context(studio.leased(ctx.settings, means, ctx.warn))
    for note in studio.doubts(ctx.settings, plan):
        ctx.warn(note)
    checker = stack.enter_context(studio.checker(ctx.settings))
    return model, How(plan, _previewer(ctx, model, means), ctx.take_skip), partial(_censored, ctx, checker)


def _censored(ctx: JobContext, checker: Checker | None, picture: Picture) -> Picture:
    """The picture; blurred, and its film strip with it, when the safety checker flags it."""
    if checker is None or not checker.flags(picture.rgb):
        return picture
    ctx.warn(BLURRED)
    strip = None if picture.strip is None else blurred(picture.strip)
    return replace(picture, rgb=blurred(picture.rgb), strip=strip, facts={**picture.facts, save.SAFETY: "blurred"})


def _previewer(ctx: JobContext, model: Model, means: Means) -> Previewer | None:
    try:
        tiny = preview.tiny(model.architecture, ctx.settings.models_dir / "VAE-approx", model.device)
        return tiny or studio.own_preview(ctx.settings, means)
    except UnsupportedModel as error:
        ctx.warn(str(error))
        return None


def left(ctx: JobContext, request: Request, means: Means, number: int, picture: Picture) -> dict[str, Any]:
    """Write a picture's files into the job's folder, and say what there is to say of it."""
    ctx.preview(picture.rgb, finished=True)
    vae = {"VAE": means.vae, "VAE hash": means.vae_hash[:10]} if means.vae and means.vae_hash else {}
    known = picture.facts | vae | save.own_facts(KIND[type(request)], request, picture.complete)
    text = infotext.write(known, request.prompt, request.negative)
    with ctx.file(name(number)) as path:
        save.write_picture(path, picture.rgb, text)
    if picture.strip is not None:
        with ctx.file(_strip_name(number)) as path:
            save.write_picture(path, picture.strip, text)
    return {
        "number": number,
        "seed": picture.seed.seed,
        "size": [picture.rgb.shape[1], picture.rgb.shape[0]],
        "infotext": text,
        "strip": picture.strip is not None,
        "complete": picture.complete,
        "blurred": save.SAFETY in picture.facts,
        "steps": picture.steps,
    }


class PartWatch:
    """passes.Watch in terms of the whole job, which has several parts, each called `what`. part: the one that is made now, from
    0. span: which parts the progress that it hears of is about."""

    def __init__(self, ctx: JobContext, what: str, parts: int):
        self._ctx, self._what, self._parts = ctx, what, parts
        self.part, self.span = 0, (0, parts)

    @property
    def cancelled(self) -> bool:
        return self._ctx.cancelled

    def progress(self, fraction: float, stage: str) -> None:
        which = f", {self._what} {self.part + 1} of {self._parts}" if self._parts > 1 else ""
        first, end = self.span
        done = first + fraction * (end - first)
        self._ctx.progress(done / self._parts, stage + which)

    def preview(self, image: np.ndarray) -> None:
        self._ctx.preview(image)

    def warn(self, message: str) -> None:
        self._ctx.warn(message)


def rest(request: Request, seed: int, first: int) -> tuple[Request, int]:
    """The request for its batches from `first` on, and the seed that these begin with."""
    count = request.batch_count * request.batch_size
    one = seeds(seed, count, request.variation_seed, request.variation)[first * request.batch_size]
    changes: dict[str, Any] = {"batch_count": request.batch_count - first}
    if one.strength:
        changes["variation_seed"] = one.variation
    return request.model_copy(update=changes), one.seed


def saved(ctx: JobContext, request: Request, pictures: list[dict[str, Any]]) -> tuple[Artifact, ...]:
    """The files of the result: the pictures, then their film strips."""
    words = stem(request.prompt) or KIND[type(request)]
    kind = request.format
    made = [copied(ctx, name(one["number"]), f"{words} {one['seed']}", kind) for one in pictures]
    strips = [copied(ctx, _strip_name(one["number"]), f"{words} {one['seed']} steps", kind) for one in pictures if one["strip"]]
    return (*made, *strips)


def stem(prompt: str) -> str:
    """What files are called by: the beginning of the prompt."""
    return " ".join(strip_networks(prompt)[0].split())[:LONGEST_STEM].strip()


def copied(ctx: JobContext, left: str, stem: str, kind: infotext.Kind) -> Artifact:
    """A file of the result, from the job's folder."""
    with ctx.output(f".{kind}", stem) as output:
        save.copy_picture(ctx.folder / left, output.path, kind)
    assert output.artifact is not None
    return output.artifact


def facts(request: Request, means: Means, pictures: list[dict[str, Any]], batch: dict[str, Any]) -> dict[str, Any]:
    """What the result says of how it was made. Lists are in the order of the pictures."""
    choice = samplers.resolve(request.sampler, request.schedule)
    return {
        "model": means.model,
        "model_hash": means.model_hash[:10],
        "vae": means.vae,
        "vae_reason": means.vae_reason,
        "sampler": choice.sampler.name,
        "schedule": choice.schedule,
        "size": pictures[0]["size"],
        "seeds": [one["seed"] for one in pictures],
        "infotexts": [one["infotext"] for one in pictures],
        "blurred": sum(one["blurred"] for one in pictures),
        "complete": all(one["complete"] for one in pictures) and len(pictures) == request.batch_count * request.batch_size,
        "device": batch["device"],
        "precision": batch["precision"],
    }


def name(number: int) -> str:
    """Of a picture in the job's folder."""
    return f"{number:05d}.png"


def _strip_name(number: int) -> str:
    return f"{number:05d}-steps.png"
