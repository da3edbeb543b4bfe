"""The loop that makes latents out of noise: UNet, guidance, scheduler, step by step. Made for diffusers' UNets and schedulers.

Plain requests give the latents of diffusers' pipelines bit for bit (CPU, fp32). What those have not: a guide for each step,
prompts composed by AND, stopping with what is there. No picture is read or decoded here, and nothing is said to the user.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import torch
from torch import Tensor

from webui.imaging.encode import Conditioning, Guide

Ending = Literal["no", "skip", "stop"]
"""What the user wants of a running batch: nothing, to be done with this batch, to be done with all."""


class Guides(Protocol):
    """What each step is led by, the first is 1: encode.Conditionings, and others of its shape."""

    def at(self, step: int) -> Guide: ...


@dataclass(frozen=True)
class Keep:
    """For a UNet that knows nothing of masks: what is put back outside of the mask after each step.

    latents, noise: (pictures, 4, h, w), as they are without noise, and the noise of the start.
    mask: (1, 1, h, w), 1 where it is made anew, 0 where it stays.
    """

    latents: Tensor
    noise: Tensor
    mask: Tensor

    def over(self, latents: Tensor, original: Tensor) -> Tensor:
        """`latents` inside of the mask, `original` outside."""
        return (1 - self.mask) * original + self.mask * latents


@dataclass(frozen=True)
class Step:
    """A step that was taken. number: from 1 to `of`.

    seen:      what the UNet saw, (pictures, 4, h, w) of variance 1: a mixture of picture and noise.
    predicted: its answer after guidance, which is the noise or, by the scheduler's config, v.
    timestep:  how noisy it was, for `scheduler`.
    """

    number: int
    of: int
    seen: Tensor
    predicted: Tensor
    timestep: Tensor
    scheduler: Any

    def picture(self) -> Tensor:
        """The latents without noise, as far as the UNet can tell now (Salimans and Ho 2022, appendix D)."""
        signal, noise = _mixture(self.scheduler.alphas_cumprod, float(self.timestep))
        if self.scheduler.config.prediction_type == "v_prediction":
            return signal * self.seen - noise * self.predicted
        return (self.seen - noise * self.predicted) / signal


def _mixture(alphas_cumprod: Tensor, timestep: float) -> tuple[float, float]:
    """How much picture and how much noise there is at a timestep, whole or between two; their squares sum up to 1."""
    low = min(int(timestep), len(alphas_cumprod) - 2)
    # Some schedulers move them to the device when they add noise, and Apple's GPUs have no doubles.
    below, above = alphas_cumprod[low : low + 2].cpu().double()
    alpha = torch.lerp(below, above, timestep - low).item()
    return math.sqrt(alpha), math.sqrt(1 - alpha)


@dataclass(frozen=True)
class Result:
    """Latents, scaled as the VAE's are. steps: that were taken. ended: why it ended before its last step, or "no"."""

    latents: Tensor
    steps: int
    ended: Ending = "no"


def steps_of(strength: float, steps: int) -> int:
    """How many of the steps an img2img of this strength takes: diffusers' rule, and A1111's but for its one more."""
    return min(int(steps * strength), steps)


def begin(scheduler: Any, first: int) -> Tensor:
    """The timesteps that are left when the first `first` steps are not taken. From then on the scheduler adds noise for these."""
    start = first * scheduler.order
    if hasattr(scheduler, "set_begin_index"):
        scheduler.set_begin_index(start)
    return scheduler.timesteps[start:]


@torch.no_grad()
def denoise(
    unet: Any,
    scheduler: Any,
    latents: Tensor,
    guides: Guides,
    guidance: float,
    *,
    first: int = 0,
    generators: Sequence[torch.Generator] = (),
    time_ids: Tensor | None = None,
    extra: Tensor | None = None,
    keep: Keep | None = None,
    one_by_one: bool = False,
    on_step: Callable[[Step], None] | None = None,
    ending: Callable[[], Ending] = lambda: "no",
) -> Result:
    """Take the scheduler's steps, all but the `first`, from `latents`, (pictures, 4, h, w) with the noise of that step.

    guidance:   A1111's CFG scale; without uncond in a step's guide it has no effect.
    generators: one per picture, for schedulers that add noise.
    time_ids:   (1, 6), SDXL's sizes. extra: (1 or pictures, 5, h, w), mask and masked latents for UNets with 9 channels.
    one_by_one: the UNet looks at uncond and conds one after another, which takes less memory.
    ending:     asked before each call of the UNet. When it wants an end, the picture as far as it is known comes back;
                without a step taken, the latents as they were.
    """
    timesteps = begin(scheduler, first)
    steps = scheduler.num_inference_steps - first
    options = _step_options(scheduler, generators)
    unet = _Guided(unet, guidance, time_ids, extra, one_by_one)
    taken: Step | None = None
    for index, timestep in enumerate(timesteps):
        wish = ending()
        if wish != "no":
            return _ended(latents, taken, keep, wish)
        number = min(index // scheduler.order + 1, steps)
        seen = scheduler.scale_model_input(latents, timestep)
        predicted = unet.predict(seen, timestep, guides.at(number))
        latents = scheduler.step(predicted, timestep, latents, **options, return_dict=False)[0].to(latents.dtype)
        following = timesteps[index + 1 : index + 2]
        if keep is not None:
            noisy = scheduler.add_noise(keep.latents, keep.noise, following) if len(following) else keep.latents
            latents = keep.over(latents, noisy)
        taken = Step(number, steps, seen, predicted, timestep, scheduler)
        complete = not len(following) or min((index + 1) // scheduler.order + 1, steps) > number
        if on_step and complete:
            on_step(taken)
    return Result(latents, steps)


def _ended(latents: Tensor, taken: Step | None, keep: Keep | None, wish: Ending) -> Result:
    if taken is None:
        return Result(latents, 0, wish)
    picture = taken.picture().to(latents.dtype)
    return Result(picture if keep is None else keep.over(picture, keep.latents), taken.number, wish)


def _step_options(scheduler: Any, generators: Sequence[torch.Generator]) -> dict[str, Any]:
    takes_noise = "generator" in inspect.signature(scheduler.step).parameters
    return {"generator": list(generators)} if takes_noise and generators else {}


class _Guided:
    """A UNet with all that it is told besides latents and timestep."""

    def __init__(self, unet: Any, guidance: float, time_ids: Tensor | None, extra: Tensor | None, one_by_one: bool) -> None:
        self._unet, self._guidance, self._time_ids, self._extra, self._one_by_one = unet, guidance, time_ids, extra, one_by_one
        self._joined: tuple[tuple[Conditioning, ...], Conditioning] | None = None

    def predict(self, seen: Tensor, timestep: Tensor, guide: Guide) -> Tensor:
        """Ho and Salimans 2022, classifier-free guidance; for more than one cond as in Liu et al. 2022, composable diffusion."""
        told = (*([guide.uncond] if guide.uncond else []), *(cond for cond, _ in guide.conds))
        if self._one_by_one:
            answers = [self._answer(seen, timestep, one) for one in told]
        else:
            together = self._together(told, len(seen))
            answers = list(self._answer(torch.cat([seen] * len(told)), timestep, together).chunk(len(told)))
        if guide.uncond is None:
            return answers[0]
        uncond, *conds = answers
        led = uncond
        for cond, (_, weight) in zip(conds, guide.conds, strict=True):
            led = led + self._guidance * weight * (cond - uncond)
        return led

    def _together(self, told: tuple[Conditioning, ...], pictures: int) -> Conditioning:
        """All conditionings for all pictures in one; made anew only when the words change."""
        if self._joined is None or not _same(self._joined[0], told):
            hidden = torch.cat([one.hidden.expand(pictures, -1, -1) for one in told])
            pooled = [one.pooled.expand(pictures, -1) for one in told if one.pooled is not None]
            self._joined = told, Conditioning(hidden, torch.cat(pooled) if pooled else None)
        return self._joined[1]

    def _answer(self, seen: Tensor, timestep: Tensor, told: Conditioning) -> Tensor:
        """(n, 4, h, w) for n latents, each with its own conditioning or all with the same."""
        given = seen
        if self._extra is not None:
            given = torch.cat([seen, self._extra.repeat(len(seen) // len(self._extra), 1, 1, 1)], dim=1)
        return self._unet(
            given,
            timestep,
            encoder_hidden_states=told.hidden.expand(len(seen), -1, -1),
            timestep_cond=self._guidance_embedding(seen),
            added_cond_kwargs=self._added(told, len(seen)),
            return_dict=False,
        )[0]

    def _added(self, told: Conditioning, count: int) -> dict[str, Tensor] | None:
        """SDXL's pooled text and sizes."""
        if told.pooled is None or self._time_ids is None:
            return None
        return {"text_embeds": told.pooled.expand(count, -1), "time_ids": self._time_ids.expand(count, -1)}

    def _guidance_embedding(self, seen: Tensor) -> Tensor | None:
        """For UNets that were distilled to be told the guidance (Meng et al. 2022); the formula is diffusers'."""
        width = self._unet.config.time_cond_proj_dim
        if width is None:
            return None
        frequencies = torch.exp(torch.arange(width // 2) * -(math.log(10000.0) / (width // 2 - 1)))
        angles = 1000.0 * (self._guidance - 1) * frequencies
        return torch.cat([angles.sin(), angles.cos()]).to(seen).expand(len(seen), -1)


def _same(one: tuple[Conditioning, ...], other: tuple[Conditioning, ...]) -> bool:
    return len(one) == len(other) and all(left is right for left, right in zip(one, other, strict=True))
