"""Pictures from requests: txt2img, img2img and inpaint. Everything is in memory: a loaded model, a request, arrays.

    prompt -> guides        encode.Conditioner
    seed -> noise           noise.Noise, one source per picture
    noise -> latents        denoise.denoise, on a scheduler of samplers; twice in hires fix
    latents -> picture      latents.decode

No file is read or written here, and whoever watches is known by four names alone. The same request with the same seed gives
the same picture, on a CPU bit for bit. A batch that memory is too small for is made again with less (memory.attempt).
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from webui.errors import InvalidRequest
from webui.imaging import latents as vae_latents
from webui.imaging import masks, memory, preview, samplers
from webui.imaging import prompt as grammar
from webui.imaging.denoise import Ending, Keep, Result, Step, begin, denoise, steps_of
from webui.imaging.encode import Conditioner, Conditionings
from webui.imaging.load import Model
from webui.imaging.noise import Noise, Seed, seeds
from webui.imaging.plans import Plan
from webui.imaging.preview import Frame, Previewer
from webui.imaging.requests import MAX_SIDE, MAX_STEPS, MIN_SIDE, SIDE_STEP, Img2Img, Inpaint, PictureRequest, Txt2Img, read_size
from webui.imaging.resize import LATENT_UPSCALERS, PIXEL_UPSCALERS, resize, resize_latents, upscaler

PREVIEWS_PER_SECOND = 5.0
LONGEST_SCHEDULE = 999

LARGEST = 2.0
"""How many times the pixels that a model was trained on a picture may have, when its owner names no size."""


class Watch(Protocol):
    """Whoever watches: a part of jobs.context.JobContext."""

    @property
    def cancelled(self) -> bool: ...
    def progress(self, fraction: float, stage: str) -> None: ...
    def preview(self, image: np.ndarray) -> None: ...
    def warn(self, message: str) -> None: ...


@dataclass(frozen=True)
class Picture:
    """A finished picture, (H, W, 3) uint8 RGB.

    facts:    what infotext.write takes, of the request and this picture. Those of a separate VAE file are the caller's to add.
    strip:    the film strip, when one was asked for and a step of it was taken.
    complete: whether all steps were taken; not so when it was stopped or skipped.
    skipped:  there is none: rgb is (0, 0, 3).
    steps:    that were taken for it, hires fix's among them.
    """

    rgb: np.ndarray
    seed: Seed
    facts: dict[str, object]
    strip: np.ndarray | None = None
    complete: bool = True
    skipped: bool = False
    steps: int = 0


@dataclass(frozen=True)
class How:
    """What does not change the picture. previewer: None for the linear one. skip: true once for each batch to be left out."""

    plan: Plan = field(default_factory=Plan)
    previewer: Previewer | None = None
    skip: Callable[[], bool] = lambda: False


def txt2img(model: Model, request: Txt2Img, watch: Watch, seed: int, how: How = How()) -> Iterator[Picture]:
    """Pictures from words, batch after batch.

    seed: of the first picture, 0 to 2**32 - 1; the request's own is not looked at, because it may be none. When the watch is
    cancelled, what is there comes out and no more. Raises InvalidRequest at once, OutOfMemory and UnsupportedModel while it runs.
    """
    width, height = read_size(request.size) if request.size else native_size(model)
    second = _Second.asked(request, width, height) if request.hires else None
    job = _Job(model, request, watch, seed, how, request.steps + (second.steps if second else 0))

    def draw(batch: Sequence[Seed], plan: Plan) -> _Drawn:
        first = _Pass(job, plan, batch, width, height, request.steps)
        start = first.fresh() * first.scheduler.init_noise_sigma
        done = first.run(start, job.guides(request.steps), first.unmasked(), film=job.film)
        if second and done.result.ended == "no":
            done = second.after(done, job, plan, batch)
        return done.decoded(model, plan)

    return job.pictures(draw, {"Size": f"{width}x{height}", **(second.facts(request) if second else {})})


def img2img(model: Model, request: Img2Img, image: np.ndarray, watch: Watch, seed: int, how: How = How()) -> Iterator[Picture]:
    """Pictures from words and `image`, (H, W, 3) uint8 RGB. Without a size in the request they have its own (see `own_size`).

    Everything else is as in `txt2img`.
    """
    width, height = read_size(request.size) if request.size else own_size(model, image, watch.warn)
    steps = _steps(request, watch)
    job = _Job(model, request, watch, seed, how, steps)
    in_latents = request.resize == "latent"
    source = resize(image, *_whole_size(image)) if in_latents else resize(image, width, height, _mode(request))

    def draw(batch: Sequence[Seed], plan: Plan) -> _Drawn:
        if not steps:
            return _Drawn(np.stack([resize(source, width, height)] * len(batch)))
        only = _Pass(job, plan, batch, width, height, request.steps, first=request.steps - steps)
        known = only.encoded(source)
        known = resize_latents(known, only.shape[2], only.shape[1]) if in_latents else known
        start = only.noised(known, only.fresh())
        return only.run(start, job.guides(steps), only.unmasked(), film=job.film).decoded(model, plan)

    return job.pictures(draw, {"Size": f"{width}x{height}", "Denoising strength": request.strength})


def inpaint(
    model: Model, request: Inpaint, image: np.ndarray, mask: np.ndarray, watch: Watch, seed: int, how: How = How()
) -> Iterator[Picture]:
    """`image`, (H, W, 3) uint8 RGB, with a part of it made anew: where `mask` (see masks.read) is light.

    The picture has the size that the request names, else its own. With `only_masked` it keeps its own, and the size is what the
    masked part is worked on at. What the blurred mask does not touch stays as it was, bit for bit. The rest is as in `txt2img`.
    """
    canvas, soft, (width, height) = _prepared(model, request, image, mask, watch)
    steps = _steps(request, watch)
    job = _Job(model, request, watch, seed, how, steps)
    left, top, right, bottom = canvas.box
    soft = resize(soft[top:bottom, left:right], width, height)
    source = resize(canvas.rgb[top:bottom, left:right], width, height)
    source = masks.filled(source, soft) if request.content == "fill" else source

    def draw(batch: Sequence[Seed], plan: Plan) -> _Drawn:
        if not steps:
            return _Drawn(np.stack([canvas.rgb] * len(batch)))
        only = _Pass(job, plan, batch, width, height, request.steps, first=request.steps - steps)
        start, extra, keep = only.masked_start(request, source, soft)
        done = only.run(start, job.guides(steps), extra, keep, film=job.film)
        return done.decoded(model, plan).on(canvas)

    return job.pictures(draw, {"Size": f"{width}x{height}", "Denoising strength": request.strength, **_mask_facts(request)})


def native_size(model: Model) -> tuple[int, int]:
    """Width and height in pixels that the model was trained on."""
    sides = model.unet.config.sample_size
    height, width = (sides, sides) if isinstance(sides, int) else sides
    scale = vae_latents.pixels(model.vae)
    return width * scale, height * scale


def hires_size(request: Txt2Img, width: int, height: int) -> tuple[int, int]:
    """Width and height in pixels after hires fix. Raises InvalidRequest for more than may be asked for without it."""
    if request.hires_size:
        return read_size(request.hires_size)
    size = _multiple(width * request.hires_scale), _multiple(height * request.hires_scale)
    if max(size) > MAX_SIDE:
        raise InvalidRequest(
            f"Hires would make {size[0]}x{size[1]} pixels, and the most is {MAX_SIDE} on a side. Choose a smaller size or scale."
        )
    return size


def own_size(model: Model, image: np.ndarray, warn: Callable[[str], None]) -> tuple[int, int]:
    """Width and height when none is asked for: the picture's own in multiples of 8, smaller when that is much for the model."""
    width, height = native_size(model)
    scale = min(1.0, (LARGEST * width * height / (image.shape[0] * image.shape[1])) ** 0.5)
    own = _multiple(image.shape[1] * scale), _multiple(image.shape[0] * scale)
    if scale < 1:
        warn(f"The picture was worked on at {own[0]}x{own[1]}: more is much for this model. Ask for a size to have another.")
    return own


def _multiple(side: float) -> int:
    return max(MIN_SIDE, SIDE_STEP * round(side / SIDE_STEP))


def _whole_size(image: np.ndarray) -> tuple[int, int]:
    return _multiple(image.shape[1]), _multiple(image.shape[0])


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


class _Job:
    """What all batches of a request share."""

    def __init__(self, model: Model, request: PictureRequest, watch: Watch, seed: int, how: How, steps: int) -> None:
        self.model, self.request, self.watch, self.how = model, request, watch, how
        self.choice = samplers.resolve(request.sampler, request.schedule)
        self.conditioner = Conditioner(model, request.clip_skip)
        self.film = film_steps(request.filmstrip)
        parsed = grammar.parse(request.prompt)
        composed = len(parsed.parts) > 1
        # What was distilled to be told the guidance is not guided from outside.
        self.guided = (request.cfg > 1 or composed) and model.unet.config.time_cond_proj_dim is None
        self._seeds = seeds(seed, request.batch_count * request.batch_size, request.variation_seed, request.variation)
        self._plan, self._guides = how.plan, {}
        self._done, self._steps = 0, max(1, steps * len(self._seeds))
        self._next_preview = 0.0
        self._tell((*parsed.networks, *grammar.strip_networks(request.negative)[1]), steps)

    def _tell(self, networks: Sequence[grammar.Network], steps: int) -> None:
        for note in self.choice.notes(self.model.scheduler_config):
            self.watch.warn(note)
        if self.film and min(self.film) > min(steps, self.request.steps):
            self.watch.warn("There is no film strip: none of its steps is among those that were taken.")
        if networks:
            self.watch.warn(f"Left out of the prompt, because networks cannot be used yet: {', '.join(map(str, networks))}.")
        if self.request.negative.strip() and not self.guided:
            self.watch.warn("The negative prompt has no effect without guidance. Set it to more than 1.")

    def seen_through(self, drawn: _Drawn) -> _Drawn:
        """What was drawn; nothing when it was to be skipped while it was decoded, when no step asks."""
        return _SKIPPED if drawn.complete and self.how.skip() else drawn

    def guides(self, steps: int, base_steps: int | None = None) -> Conditionings:
        """What the steps of a pass are led by; encoded once."""
        key = steps, base_steps
        if key not in self._guides:
            negative = self.request.negative if self.guided else None
            self._guides[key] = self.conditioner.conditionings(self.request.prompt, negative, steps, base_steps)
        return self._guides[key]

    def ending(self) -> Ending:
        return "stop" if self.watch.cancelled else "skip" if self.how.skip() else "no"

    def stepped(self, step: Step) -> None:
        """Tell the watch of a step of len(step.seen) pictures."""
        self._done += len(step.seen)
        self.watch.progress(min(1.0, self._done / self._steps), "denoising")
        if time.monotonic() >= self._next_preview:
            show = self.how.previewer or preview.linear(self.model.vae, step.seen.device)
            self.watch.preview(show(step.picture()))
            self._next_preview = time.monotonic() + 1 / PREVIEWS_PER_SECOND

    def pictures(self, draw: Callable[[Sequence[Seed], Plan], _Drawn], facts: dict[str, object]) -> Iterator[Picture]:
        """All batches, each drawn in as little memory as it takes."""
        size = self.request.batch_size
        for first in range(0, len(self._seeds), size):
            if self.watch.cancelled:
                return
            batch, done = self._seeds[first : first + size], self._steps * first // len(self._seeds)

            def work(plan: Plan, batch: list[Seed] = batch, done: int = done) -> list[tuple[list[Seed], _Drawn]]:
                self._done = done
                parts = [[one] for one in batch] if plan.singly else [batch]
                with memory.applied(plan, self.model), vae_latents.seamless(self.request.tiling, self.model.unet, self.model.vae):
                    return [(part, self.seen_through(draw(part, plan))) for part in parts]

            made, self._plan = memory.attempt(self._plan, work, self.watch.warn)
            for part, drawn in made:
                if drawn.skipped:
                    yield from (Picture(np.empty((0, 0, 3), np.uint8), one, {}, None, False, True) for one in part)
                for one, (rgb, strip, complete) in zip(part, drawn.each(), strict=False):  # none, when it ended before a step
                    yield Picture(rgb, one, {**self._facts(one), **facts}, strip, complete, steps=drawn.steps)

    def _facts(self, one: Seed) -> dict[str, object]:
        request, model = self.request, self.model
        return {
            "Steps": request.steps,
            "Sampler": self.choice.sampler.name,
            "Schedule type": self.choice.schedule,
            "CFG scale": request.cfg,
            "Seed": one.seed,
            "Model hash": model.hash[:10] if model.hash else None,
            "Model": model.name.removesuffix(".safetensors").removesuffix(".ckpt"),
            "Variation seed": one.variation if one.strength else None,
            "Variation seed strength": one.strength or None,
            "Clip skip": self.conditioner.clip_skip,
            "RNG": "CPU",
            "Tiling": True if request.tiling else None,
        }


@dataclass(frozen=True)
class _Frames:
    """A step of a batch for the film strip: what preview.Frame has, for all pictures, (n, H, W, 3)."""

    label: str
    noisy: np.ndarray
    clean: np.ndarray


@dataclass(frozen=True)
class _Drawn:
    """A batch's pictures, (n, H, W, 3) uint8 RGB, none when it was skipped or ended before its first step."""

    rgb: np.ndarray
    frames: tuple[_Frames, ...] = ()
    complete: bool = True
    skipped: bool = False
    steps: int = 0

    def each(self) -> Iterator[tuple[np.ndarray, np.ndarray | None, bool]]:
        for number, rgb in enumerate(self.rgb):
            frames = [Frame(one.label, one.noisy[number], one.clean[number]) for one in self.frames]
            yield rgb, preview.filmstrip(frames) if frames else None, self.complete

    def on(self, canvas: masks.Canvas) -> _Drawn:
        """The pictures as parts of the canvas."""
        pasted = [canvas.with_part(rgb) for rgb in self.rgb]
        return replace(self, rgb=np.stack(pasted)) if pasted else self


_SKIPPED = _Drawn(np.empty((0, 0, 0, 3), np.uint8), complete=False, skipped=True)


@dataclass(frozen=True)
class _Done:
    """What a pass has made, not yet decoded. before: steps of the pass before it."""

    result: Result
    frames: tuple[_Frames, ...] = ()
    before: int = 0

    @property
    def steps(self) -> int:
        return self.before + self.result.steps

    def decoded(self, model: Model, plan: Plan) -> _Drawn:
        if not self.result.steps or self.result.ended == "skip":
            return _Drawn(np.empty((0, 0, 0, 3), np.uint8), complete=False, skipped=self.result.ended == "skip")
        rgb = vae_latents.decode(model.vae, self.result.latents, together=not plan.vae_slicing)
        return _Drawn(rgb, self.frames, self.result.ended == "no", steps=self.steps)


class _Pass:
    """One denoising of one batch: `steps` in its schedule, the `first` of them not taken. Noise and scheduler are its own."""

    def __init__(self, job: _Job, plan: Plan, batch: Sequence[Seed], width: int, height: int, steps: int, first: int = 0) -> None:
        self._job, self._model, self._plan, self._first, self._count = job, job.model, plan, first, len(batch)
        self.noise = Noise(batch)
        self.scheduler = samplers.scheduler(job.choice, job.model, steps, plan.device)
        scale = vae_latents.pixels(job.model.vae)
        self.shape = job.model.vae.config.latent_channels, height // scale, width // scale
        self._sizes = [float(number) for number in (height, width, 0, 0, height, width)]

    def fresh(self) -> Tensor:
        """The noise that the pictures are made from, (n, 4, h, w)."""
        return self._placed(self.noise.initial(self.shape))

    def noised(self, known: Tensor, fresh: Tensor) -> Tensor:
        """Latents with as much noise as the first step expects."""
        timesteps = begin(self.scheduler, self._first)
        return self.scheduler.add_noise(known, fresh, timesteps[:1].repeat(len(known)))

    def encoded(self, *rgb: np.ndarray) -> Tensor:
        """Latents of one picture for all of the batch, or of one for each; drawn for each in any case."""
        return self._encoded(torch.cat([vae_latents.tensor(one) for one in rgb]), self.noise.generators)

    def unmasked(self) -> Tensor | None:
        """What a UNet with 9 channels is told of the mask when there is none: all is masked, nothing is seen. None for others."""
        if not self._model.inpaint:
            return None
        _, height, width = self.shape
        scale = vae_latents.pixels(self._model.vae)
        nothing = torch.zeros(1, 3, height * scale, width * scale)
        seen = self._encoded(nothing, [torch.Generator("cpu").manual_seed(0)])
        return torch.cat([torch.ones_like(seen[:, :1]), seen], dim=1)

    def masked_start(self, request: Inpaint, source: np.ndarray, soft: np.ndarray) -> tuple[Tensor, Tensor | None, Keep | None]:
        """Latents to start from, and what a UNet with 9 channels is told of the mask, or what is kept for others.

        source: (H, W, 3) uint8 RGB of the pass's size, soft: its blurred mask. The order of all draws is diffusers', and so
        is the order in memory, on which the last bits depend.
        """
        inside = self._placed(masks.for_latents(soft, self.shape[2], self.shape[1]))
        afresh = self._first == 0 and request.content == "original"
        known = None if afresh and self._model.inpaint else self.encoded(source).contiguous()
        fresh = self.fresh()
        if known is not None and request.content.startswith("latent"):
            known = (1 - inside) * known + (inside * fresh if request.content == "latent noise" else 0)
        start = fresh * self.scheduler.init_noise_sigma if afresh or known is None else self.noised(known, fresh)
        if self._model.inpaint:
            outside = torch.from_numpy(soft < 128)
            seen = self._encoded(vae_latents.tensor(source) * outside, self.noise.generators)
            return start, torch.cat([inside.expand(len(seen), -1, -1, -1), seen], dim=1), None
        # diffusers encodes the masked picture for every UNet, so its samplers draw their noise from behind that.
        self.noise.draw(self.shape)
        return start, None, Keep(known, fresh, inside) if known is not None else None

    def run(
        self,
        start: Tensor,
        guides: Conditionings,
        extra: Tensor | None = None,
        keep: Keep | None = None,
        *,
        film: frozenset[int] = frozenset(),
    ) -> _Done:
        """Denoise, and keep the steps in `film` for the film strip."""
        frames: list[_Frames] = []

        def on_step(step: Step) -> None:
            self._job.stepped(step)
            if step.number in film:
                noisy, clean = (vae_latents.decode(self._model.vae, one) for one in (step.seen, step.picture()))
                frames.append(_Frames(f"{step.number}/{step.of}", noisy, clean))

        result = denoise(
            self._model.unet,
            self.scheduler,
            start,
            guides,
            self._job.request.cfg,
            first=self._first,
            generators=self.noise.generators,
            time_ids=self._placed(torch.tensor([self._sizes])),
            extra=extra,
            keep=keep,
            one_by_one=self._plan.split_guidance,
            on_step=on_step,
            ending=self._job.ending,
        )
        return _Done(result, tuple(frames))

    def _encoded(self, pictures: Tensor, generators: Sequence[torch.Generator]) -> Tensor:
        return self._placed(vae_latents.encode(self._model.vae, pictures, generators, self._plan.device))

    def _placed(self, values: Tensor) -> Tensor:
        return values.to(self._plan.device, self._model.dtype)


@dataclass(frozen=True)
class _Second:
    """The second pass of hires fix. `steps` are taken, of `schedule` in its schedule."""

    width: int
    height: int
    steps: int
    schedule: int
    upscaler: str

    @classmethod
    def asked(cls, request: Txt2Img, width: int, height: int) -> _Second:
        """As A1111 it takes all the steps asked for, at any strength, out of a schedule that is so much longer."""
        size = hires_size(request, width, height)
        wanted, strength = request.hires_steps or request.steps, request.strength
        schedule = min(int(wanted / strength), LONGEST_SCHEDULE) if strength else 1
        steps = wanted if schedule < LONGEST_SCHEDULE else max(1, steps_of(strength, schedule))
        return cls(size[0], size[1], steps if strength else 0, schedule, upscaler(request.hires_upscaler))

    def facts(self, request: Txt2Img) -> dict[str, object]:
        size = {"Hires resize": f"{self.width}x{self.height}"} if request.hires_size else {"Hires upscale": request.hires_scale}
        steps = {"Hires steps": request.hires_steps or None, "Hires upscaler": self.upscaler}
        return {"Denoising strength": request.strength, **size, **steps}

    def after(self, first: _Done, job: _Job, plan: Plan, batch: Sequence[Seed]) -> _Done:
        """The first pass's pictures enlarged and refined; only enlarged when there are no steps, or it ends before any."""
        larger = _Pass(job, plan, batch, self.width, self.height, self.schedule, first=self.schedule - self.steps)
        known = self._enlarged(first.result.latents, larger, job.model, plan)
        if not self.steps:
            return _Done(Result(known, first.result.steps), first.frames)
        start = larger.noised(known, larger.fresh())
        result = larger.run(start, job.guides(self.steps, job.request.steps), larger.unmasked()).result
        if not result.steps:
            return _Done(Result(known, first.result.steps, result.ended), first.frames)
        return _Done(result, first.frames, first.result.steps)

    def _enlarged(self, small: Tensor, larger: _Pass, model: Model, plan: Plan) -> Tensor:
        if self.upscaler in LATENT_UPSCALERS:
            return resize_latents(small, larger.shape[2], larger.shape[1], self.upscaler)
        rgb = vae_latents.decode(model.vae, small, together=not plan.vae_slicing)
        return larger.encoded(*(resize(one, self.width, self.height, "crop", PIXEL_UPSCALERS[self.upscaler]) for one in rgb))


def film_steps(written: str) -> frozenset[int]:
    """"1, 2, 10" as numbers. Raises InvalidRequest for anything else."""
    numbers = [number for number in re.split(r"[\s,;]+", written.strip()) if number]
    if not all(re.fullmatch(r"[0-9]{1,3}", number) and 1 <= int(number) <= MAX_STEPS for number in numbers):
        raise InvalidRequest(f"The film strip wants numbers of steps, 1 to {MAX_STEPS}, such as 1,2,4,10; not “{written[:40]}”.")
    return frozenset(int(number) for number in numbers)
