"""A1111's samplers and noise schedules by name, and the diffusers scheduler that stands for each.

Where diffusers has no such sampler the nearest is taken, and a sentence says so: nothing is exchanged silently. A scheduler keeps
state while it is used, so one is built for every pass. This module never touches latents, and loads torch only in `scheduler`.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from typing import Any, Protocol

import numpy as np

from webui.errors import InvalidRequest, did_you_mean

AUTOMATIC = "Automatic"
UNIFORM = "Uniform"

ZERO_SNR = "rescale_betas_zero_snr"
TRAINED_ON = ("num_train_timesteps", "beta_start", "beta_end", "beta_schedule", "trained_betas", "prediction_type", ZERO_SNR)
"""What of a checkpoint's scheduler config is about its training. The rest is about sampling, and the sampler's own."""


@dataclass(frozen=True)
class Schedule:
    """How the noise falls from step to step. name, label, aliases: as A1111 has them."""

    name: str
    label: str
    aliases: tuple[str, ...] = ()

    @property
    def names(self) -> tuple[str, ...]:
        return (self.label, self.name, *self.aliases)


SCHEDULES = (
    Schedule("automatic", AUTOMATIC),
    Schedule("uniform", UNIFORM),
    Schedule("karras", "Karras"),
    Schedule("exponential", "Exponential"),
    Schedule("polyexponential", "Polyexponential"),
    Schedule("sgm_uniform", "SGM Uniform", ("SGMUniform",)),
    Schedule("kl_optimal", "KL Optimal"),
    Schedule("align_your_steps", "Align Your Steps"),
    Schedule("simple", "Simple"),
    Schedule("normal", "Normal"),
    Schedule("ddim", "DDIM"),
    Schedule("beta", "Beta"),
)


@dataclass(frozen=True)
class Sampler:
    """One of A1111's samplers.

    kind:      diffusers' scheduler class. options: its arguments, besides those of the schedule.
    automatic: label of the schedule that Automatic stands for; None for the one that the scheduler takes by itself.
    fixed:     it has a schedule of its own and takes no other.
    instead:   what diffusers has in place of this sampler, when it has not the same.
    """

    name: str
    aliases: tuple[str, ...]
    kind: str
    options: Mapping[str, Any] = field(default_factory=dict)
    automatic: str | None = None
    fixed: bool = False
    instead: str = ""


_MULTISTEP, _SINGLESTEP = "DPMSolverMultistepScheduler", "DPMSolverSinglestepScheduler"
_SDE = {"algorithm_type": "sde-dpmsolver++"}
_LEADING = {"timestep_spacing": "leading", "steps_offset": 1, "set_alpha_to_one": False}
_FINAL = {"lower_order_final": True}
_FAST = {**_FINAL, "solver_order": 3}

SAMPLERS = (
    Sampler("DPM++ 2M", ("k_dpmpp_2m",), _MULTISTEP, {}, "Karras"),
    Sampler("DPM++ SDE", ("k_dpmpp_sde",), _SINGLESTEP, {**_SDE, **_FINAL}, "Karras", instead="a single-step SDE solver"),
    Sampler("DPM++ 2M SDE", ("k_dpmpp_2m_sde",), _MULTISTEP, _SDE, "Exponential"),
    Sampler("DPM++ 2M SDE Heun", ("k_dpmpp_2m_sde_heun",), _MULTISTEP, {**_SDE, "solver_type": "heun"}, "Exponential"),
    Sampler("DPM++ 2S a", ("k_dpmpp_2s_a",), _SINGLESTEP, _FINAL, "Karras", instead="DPM++ 2S without new noise"),
    Sampler("DPM++ 3M SDE", ("k_dpmpp_3m_sde",), _MULTISTEP, {**_SDE, "solver_order": 3}, "Exponential"),
    Sampler("Euler a", ("k_euler_a", "k_euler_ancestral"), "EulerAncestralDiscreteScheduler"),
    Sampler("Euler", ("k_euler",), "EulerDiscreteScheduler"),
    Sampler("LMS", ("k_lms",), "LMSDiscreteScheduler"),
    Sampler("Heun", ("k_heun",), "HeunDiscreteScheduler"),
    Sampler("DPM2", ("k_dpm_2",), "KDPM2DiscreteScheduler", {}, "Karras"),
    Sampler("DPM2 a", ("k_dpm_2_a",), "KDPM2AncestralDiscreteScheduler", {}, "Karras"),
    Sampler("DPM fast", ("k_dpm_fast",), _SINGLESTEP, _FAST, instead="a single-step solver of third order"),
    Sampler("DPM adaptive", ("k_dpm_ad",), _SINGLESTEP, _FAST, instead="a solver of third order with the steps asked for"),
    Sampler("Restart", ("restart",), "HeunDiscreteScheduler", {}, "Karras", instead="Heun"),
    Sampler("DDIM", ("ddim",), "DDIMScheduler", {**_LEADING, "clip_sample": False}, fixed=True),
    Sampler("DDIM CFG++", ("ddim_cfgpp",), "DDIMScheduler", {**_LEADING, "clip_sample": False}, fixed=True, instead="DDIM"),
    Sampler("PLMS", ("plms",), "PNDMScheduler", {**_LEADING, "skip_prk_steps": True}, fixed=True),
    Sampler("UniPC", ("unipc",), "UniPCMultistepScheduler"),
    Sampler("LCM", ("k_lcm",), "LCMScheduler", {"clip_sample": False}, fixed=True),
)
"""In A1111's order, with its default schedules (modules/sd_samplers_kdiffusion.py) and spacings (sd_samplers_timesteps.py)."""


@dataclass(frozen=True)
class Choice:
    """What was asked for, understood. asked: label of the schedule, AUTOMATIC when it is left to the sampler."""

    sampler: Sampler
    asked: str = AUTOMATIC

    @property
    def schedule(self) -> str:
        """The label that infotext has: what is used, or AUTOMATIC when the scheduler goes its own way."""
        if self.sampler.fixed:
            return AUTOMATIC
        return (self.sampler.automatic or AUTOMATIC) if self.asked == AUTOMATIC else self.asked

    @property
    def used(self) -> str:
        """The label of the schedule that is used: the nearest that the scheduler can follow. Normal is the same as Uniform."""
        plain = UNIFORM if self.schedule in (AUTOMATIC, "Normal") else self.schedule
        return _NEAREST.get(plain, plain) if self.sampler.kind in _OWN_SIGMAS_ONLY else plain

    def notes(self, config: Mapping[str, Any]) -> tuple[str, ...]:
        """A sentence for everything that is not as it was asked for, or as a model with this scheduler config needs it."""
        name, said = self.sampler.name, []
        if self.sampler.instead:
            said.append(f"{name} is not available here: {self.sampler.instead} was used.")
        if self.sampler.fixed and self.asked != AUTOMATIC:
            said.append(f"{name} has a noise schedule of its own; {self.asked} was not used.")
        if self.sampler.kind in _OWN_SIGMAS_ONLY and self.schedule in _NEAREST:
            said.append(f"{name} cannot follow the schedule {self.schedule}; {self.used}, the nearest, was used.")
        if config.get(ZERO_SNR) and self.sampler.kind in _NO_ZERO_SNR:
            said.append(f"{name} cannot begin in pure noise, as this model needs it. Euler, DPM++ 2M, UniPC and DDIM can.")
        return tuple(said)


def resolve(sampler: str, schedule: str = AUTOMATIC) -> Choice:
    """The sampler and schedule of these names, labels or aliases, in any case of letters.

    An older name with the schedule behind it ("DPM++ 2M Karras") is read as both, and overrules `schedule`, as in A1111.
    Raises InvalidRequest with near names for one that is unknown.
    """
    asked = _find_schedule(schedule)
    found = _find_sampler(sampler)
    if found is None:
        found, asked = _legacy(sampler) or (None, asked)
    if found is None:
        raise InvalidRequest(_unknown("sampler", sampler, [one.name for one in SAMPLERS]))
    if asked is None:
        raise InvalidRequest(_unknown("schedule", schedule, [one.label for one in SCHEDULES]))
    return Choice(found, asked.label)


def _find_sampler(name: str) -> Sampler | None:
    wanted = name.strip().lower()
    return next((one for one in SAMPLERS if wanted in (one.name.lower(), *one.aliases)), None)


def _find_schedule(name: str) -> Schedule | None:
    wanted = name.strip().lower()
    return next((one for one in SCHEDULES if wanted in (known.lower() for known in one.names)), None)


def _legacy(name: str) -> tuple[Sampler, Schedule] | None:
    for schedule in SCHEDULES:
        for ending in schedule.names:
            head = name.strip().lower().removesuffix(f" {ending.lower()}")
            found = _find_sampler(head) if head != name.strip().lower() else None
            if found:
                return found, schedule
    return None


def _unknown(what: str, name: str, known: list[str]) -> str:
    lower = {one.lower(): one for one in known}
    near = [lower[one] for one in get_close_matches(name.lower(), lower, 3, 0.3)] or known[:3]
    return f"There is no {what} “{name[:60]}”. {did_you_mean(near)}"


class Trained(Protocol):
    """What is needed of a model."""

    @property
    def scheduler_config(self) -> Mapping[str, Any]: ...
    @property
    def architecture(self) -> str: ...


def scheduler(choice: Choice, model: Trained, steps: int, device: Any = "cpu") -> Any:
    """A fresh diffusers scheduler with its timesteps set, 1 to 999 `steps`, for latents on `device`.

    Of the model's scheduler config only what it was TRAINED_ON is kept. So the spacing is A1111's, not the "leading" that the
    configs of Stable Diffusion have.
    """
    import diffusers

    kind = getattr(diffusers, choice.sampler.kind)
    accepted = inspect.signature(kind.__init__).parameters
    options: dict[str, Any] = {key: value for key, value in model.scheduler_config.items() if key in TRAINED_ON}
    options |= {} if choice.sampler.fixed else {"timestep_spacing": "linspace"}
    options |= choice.sampler.options
    native = _NATIVE.get(choice.used, {})
    options |= {} if choice.sampler.fixed else native
    options |= _few_or_many(choice.sampler, steps)
    built = kind(**{key: value for key, value in options.items() if key in accepted})
    if choice.sampler.fixed or choice.used == UNIFORM or (native and native.keys() <= accepted.keys()):
        built.set_timesteps(steps, device=device)
    else:
        table = _Table(_sigmas(built), model.architecture.startswith("sdxl"))
        _impose(built, table, _SIGMAS[choice.used](table, steps), device)
    return built


def _few_or_many(sampler: Sampler, steps: int) -> dict[str, Any]:
    """What diffusers needs to begin in full noise."""
    if sampler.kind == "LCMScheduler":  # it picks its steps out of those that LCMs are trained on, 50, and cannot pick more
        return {"original_inference_steps": next(most for most in (50, 100, 125, 200, 250, 500, 1000) if most >= steps)}
    # Of two ends a single step takes the wrong one; "leading" leaves out the more, the more steps there are.
    return {"timestep_spacing": "trailing"} if steps == 1 or (sampler.fixed and steps > 100) else {}


_NATIVE: dict[str, dict[str, Any]] = {
    "Karras": {"use_karras_sigmas": True},
    "Exponential": {"use_exponential_sigmas": True},
    "Polyexponential": {"use_exponential_sigmas": True},
    "SGM Uniform": {"timestep_spacing": "trailing"},
    "Beta": {"use_beta_sigmas": True},
}
"""Schedules that most of diffusers' schedulers know. A1111's Polyexponential has the exponent 1, which makes it Exponential."""

_OWN_SIGMAS_ONLY = ("KDPM2DiscreteScheduler", "KDPM2AncestralDiscreteScheduler")
"""Schedulers that work between the sigmas, too, and so take none from outside."""

_NO_ZERO_SNR = (*_OWN_SIGMAS_ONLY, "LMSDiscreteScheduler", "HeunDiscreteScheduler", "PNDMScheduler", _SINGLESTEP)

_NEAREST = {"Simple": UNIFORM, "DDIM": UNIFORM, "KL Optimal": "Karras", "Align Your Steps": "Karras"}


def _sigmas(built: Any) -> np.ndarray:
    alphas = built.alphas_cumprod.double().numpy()
    return np.sqrt((1 - alphas) / alphas)


def _impose(built: Any, table: _Table, sigmas: np.ndarray, device: Any) -> None:
    """Give a scheduler the sigmas of a schedule that it does not know."""
    import torch

    timesteps = table.timesteps(sigmas[:-1])
    if built.order == 2:  # Heun, which visits all but the first twice
        built.set_timesteps(timesteps=timesteps, device=device)
        return
    built.set_timesteps(len(timesteps), device=device)
    whole = not built.timesteps.is_floating_point()
    built.timesteps = torch.tensor(np.round(timesteps) if whole else timesteps).to(built.timesteps)
    built.sigmas = torch.tensor(sigmas).to(built.sigmas)


@dataclass(frozen=True)
class _Table:
    """The sigmas a model was trained on, rising, one for each timestep; and whether it is an SDXL."""

    sigmas: np.ndarray
    xl: bool

    @property
    def least(self) -> float:
        return float(self.sigmas[0])

    @property
    def most(self) -> float:
        return float(self.sigmas[-1])

    def timesteps(self, sigmas: np.ndarray) -> np.ndarray:
        """Where the sigmas are in the table, between its lines as well."""
        return np.interp(np.log(sigmas), np.log(self.sigmas), np.arange(len(self.sigmas)))

    def at(self, timesteps: np.ndarray) -> np.ndarray:
        return np.exp(np.interp(timesteps, np.arange(len(self.sigmas)), np.log(self.sigmas)))


# Each gives `steps` falling sigmas and the one behind the last step (A1111's modules/sd_schedulers.py, k_diffusion/sampling.py).


def _karras(table: _Table, steps: int, rho: float = 7.0) -> np.ndarray:
    """Karras et al. 2022, equation 5."""
    first, last = table.most ** (1 / rho), table.least ** (1 / rho)
    return _ended(np.linspace(first, last, steps) ** rho)


def _exponential(table: _Table, steps: int) -> np.ndarray:
    return _ended(np.geomspace(table.most, table.least, steps))


def _sgm_uniform(table: _Table, steps: int) -> np.ndarray:
    return _ended(table.at(np.linspace(len(table.sigmas) - 1, 0, steps + 1)[:-1]))


def _beta(table: _Table, steps: int, shape: float = 0.6) -> np.ndarray:
    """Lee et al. 2024, "Beta Sampling is All You Need"."""
    from scipy.stats import beta

    return _ended(table.least + beta.ppf(1 - np.linspace(0, 1, steps), shape, shape) * (table.most - table.least))


def _simple(table: _Table, steps: int) -> np.ndarray:
    stride = len(table.sigmas) / steps
    return _ended(np.array([table.sigmas[-1 - int(step * stride)] for step in range(steps)]))


def _ddim(table: _Table, steps: int) -> np.ndarray:
    if steps == 1:
        return _ended(table.sigmas[-1:])
    stride = max(len(table.sigmas) // steps, 1)
    return _ended(table.sigmas[1 + stride * np.arange(steps)[::-1]])


def _kl_optimal(table: _Table, steps: int) -> np.ndarray:
    """Sabour et al. 2024, "Align Your Steps", equation 9. It ends with the least sigma, not with zero."""
    return np.tan(np.linspace(np.arctan(table.most), np.arctan(table.least), steps + 1))


_ALIGNED = (14.615, 6.475, 3.861, 2.697, 1.886, 1.396, 0.963, 0.652, 0.399, 0.152, 0.029)
_ALIGNED_XL = (14.615, 6.315, 3.771, 2.181, 1.342, 0.862, 0.555, 0.380, 0.234, 0.113, 0.029)


def _align_your_steps(table: _Table, steps: int) -> np.ndarray:
    """Sabour et al. 2024, "Align Your Steps": numbers for ten steps of SD 1.5 and SDXL, log-linear between them for others."""
    known = np.log(_ALIGNED_XL if table.xl else _ALIGNED)
    return _ended(np.exp(np.interp(np.linspace(0, 1, steps), np.linspace(0, 1, len(known)), known)))


def _ended(sigmas: np.ndarray) -> np.ndarray:
    return np.append(sigmas, 0.0)


_SIGMAS: dict[str, Callable[[_Table, int], np.ndarray]] = {
    "Karras": _karras,
    "Exponential": _exponential,
    "Polyexponential": _exponential,
    "SGM Uniform": _sgm_uniform,
    "Beta": _beta,
    "Simple": _simple,
    "DDIM": _ddim,
    "KL Optimal": _kl_optimal,
    "Align Your Steps": _align_your_steps,
}
