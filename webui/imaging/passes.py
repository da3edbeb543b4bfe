"""What a request is made of: batches, each a denoising or two, watched, previewed and decoded.

    Job       what all batches of a request share; hands out the pictures
    Pass      one denoising of one batch
    Second    hires fix: another pass at a larger size

generate.py puts them together. Nothing here knows what kind of request it serves, but for Pass.masked_start.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

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
from webui.imaging.requests import MAX_STEPS, Inpaint, PictureRequest, Txt2Img
from webui.imaging.resize import LATENT_UPSCALERS, PIXEL_UPSCALERS, resize, resize_latents, upscaler
from webui.imaging.sizes import hires_size

PREVIEWS_PER_SECOND = 5.0
LONGEST_SCHEDULE = 999


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


PLAIN = How()


class Job:
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

    def seen_through(self, drawn: Drawn) -> Drawn:
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

    def pictures(self, draw: Callable[[Sequence[Seed], Plan], Drawn], facts: dict[str, object]) -> Iterator[Picture]:
        """All batches, each drawn in as little memory as it takes."""
        size = self.request.batch_size
        for first in range(0, len(self._seeds), size):
            if self.watch.cancelled:
                return
            batch, done = self._seeds[first : first + size], self._steps * first // len(self._seeds)

            def work(plan: Plan, batch: list[Seed] = batch, done: int = done) -> list[tuple[list[Seed], Drawn]]:
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
class Drawn:
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

    def on(self, canvas: masks.Canvas) -> Drawn:
        """The pictures as parts of the canvas."""
        pasted = [canvas.with_part(rgb) for rgb in self.rgb]
        return replace(self, rgb=np.stack(pasted)) if pasted else self


_SKIPPED = Drawn(np.empty((0, 0, 0, 3), np.uint8), complete=False, skipped=True)


@dataclass(frozen=True)
class _Done:
    """What a pass has made, not yet decoded. before: steps of the pass before it."""

    result: Result
    frames: tuple[_Frames, ...] = ()
    before: int = 0

    @property
    def steps(self) -> int:
        return self.before + self.result.steps

    def decoded(self, model: Model, plan: Plan) -> Drawn:
        if not self.result.steps or self.result.ended == "skip":
            return Drawn(np.empty((0, 0, 0, 3), np.uint8), complete=False, skipped=self.result.ended == "skip")
        rgb = vae_latents.decode(model.vae, self.result.latents, together=not plan.vae_slicing)
        return Drawn(rgb, self.frames, self.result.ended == "no", steps=self.steps)


class Pass:
    """One denoising of one batch: `steps` in its schedule, the `first` of them not taken. Noise and scheduler are its own."""

    def __init__(self, job: Job, plan: Plan, batch: Sequence[Seed], width: int, height: int, steps: int, first: int = 0) -> None:
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
class Second:
    """The second pass of hires fix. `steps` are taken, of `schedule` in its schedule."""

    width: int
    height: int
    steps: int
    schedule: int
    upscaler: str

    @classmethod
    def asked(cls, request: Txt2Img, width: int, height: int) -> Second:
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

    def after(self, first: _Done, job: Job, plan: Plan, batch: Sequence[Seed]) -> _Done:
        """The first pass's pictures enlarged and refined; only enlarged when there are no steps, or it ends before any."""
        larger = Pass(job, plan, batch, self.width, self.height, self.schedule, first=self.schedule - self.steps)
        known = self._enlarged(first.result.latents, larger, job.model, plan)
        if not self.steps:
            return _Done(Result(known, first.result.steps), first.frames)
        start = larger.noised(known, larger.fresh())
        result = larger.run(start, job.guides(self.steps, job.request.steps), larger.unmasked()).result
        if not result.steps:
            return _Done(Result(known, first.result.steps, result.ended), first.frames)
        return _Done(result, first.frames, first.result.steps)

    def _enlarged(self, small: Tensor, larger: Pass, model: Model, plan: Plan) -> Tensor:
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
