"""A1111's samplers and schedules: every name is understood, what is not as asked for is said, and each makes pictures."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from tests import tiny
from tests.checkpoints import numbers
from webui.errors import InvalidRequest
from webui.imaging.samplers import SAMPLERS, SCHEDULES, Choice, resolve, scheduler

MODEL: Any = SimpleNamespace(scheduler_config=numbers("sd1")["scheduler"], architecture="sd1")
NAMES = [one.name for one in SAMPLERS]
LABELS = [one.label for one in SCHEDULES]


@pytest.fixture(autouse=True)
def calm() -> Iterator[None]:
    with tiny.calm():
        yield


def test_the_table_has_every_sampler_of_the_web_ui_in_its_order():
    assert NAMES == [
        "DPM++ 2M", "DPM++ SDE", "DPM++ 2M SDE", "DPM++ 2M SDE Heun", "DPM++ 2S a", "DPM++ 3M SDE", "Euler a", "Euler", "LMS",
        "Heun", "DPM2", "DPM2 a", "DPM fast", "DPM adaptive", "Restart", "DDIM", "DDIM CFG++", "PLMS", "UniPC", "LCM",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("asked", "sampler", "schedule"),
    [
        ("DPM++ 2M", "DPM++ 2M", "Karras"),
        ("DPM++ 2M SDE", "DPM++ 2M SDE", "Exponential"),
        ("Euler a", "Euler a", "Automatic"),
        ("k_euler_a", "Euler a", "Automatic"),
        ("  euler A ", "Euler a", "Automatic"),
        ("DPM++ 2M Karras", "DPM++ 2M", "Karras"),
        ("DPM++ 2M SDE Heun Exponential", "DPM++ 2M SDE Heun", "Exponential"),
        ("Euler SGM Uniform", "Euler", "SGM Uniform"),
        ("Euler sgm_uniform", "Euler", "SGM Uniform"),
        ("DDIM", "DDIM", "Automatic"),
    ],
)
def test_names_aliases_and_older_names_are_understood(asked: str, sampler: str, schedule: str):
    found = resolve(asked)
    assert (found.sampler.name, found.schedule) == (sampler, schedule)


def test_a_schedule_goes_by_label_or_name_and_an_older_sampler_name_overrules_it():
    assert resolve("Euler", "karras").schedule == resolve("Euler", "Karras").schedule == "Karras"
    assert resolve("DPM++ 2M Karras", "Simple").schedule == "Karras"


WRONG = [("Eular", "Automatic", "Euler"), ("Euler", "Karas", "Karras"), ("", "", "DPM")]


@pytest.mark.parametrize(("sampler", "schedule", "hint"), WRONG)
def test_an_unknown_name_is_refused_with_near_ones(sampler: str, schedule: str, hint: str):
    with pytest.raises(InvalidRequest, match=hint):
        resolve(sampler, schedule)


@pytest.mark.parametrize(
    ("sampler", "schedule", "said"),
    [
        ("DPM++ SDE", "Automatic", "not available"),
        ("Restart", "Automatic", "Heun"),
        ("DDIM", "Karras", "Karras was not used"),
        ("DPM2", "Align Your Steps", "Karras, the nearest"),
        ("DPM2", "Simple", "Uniform, the nearest"),
    ],
)
def test_what_is_not_as_asked_for_is_said(sampler: str, schedule: str, said: str):
    assert said in " ".join(resolve(sampler, schedule).notes({}))


@pytest.mark.parametrize("name", ["DPM++ 2M", "Euler", "Euler a", "DDIM", "UniPC", "LCM", "Heun", "PLMS"])
def test_what_is_as_asked_for_needs_no_words(name: str):
    assert resolve(name).notes(MODEL.scheduler_config) == ()


def test_a_model_that_begins_in_pure_noise_is_told_from_one_that_does_not():
    assert resolve("Heun").notes({"rescale_betas_zero_snr": True})
    assert not resolve("Euler").notes({"rescale_betas_zero_snr": True})


@pytest.mark.parametrize("name", NAMES)
def test_every_sampler_takes_every_schedule_from_noise_to_a_picture(name: str):
    for label in LABELS:
        built = scheduler(resolve(name, label), MODEL, 5)
        picture = _followed(built)
        assert picture.isfinite().all(), label
        assert (picture - 0.5).abs().max() < 0.2, label


def _followed(built: Any, target: float = 0.5) -> torch.Tensor:
    """Denoise with a UNet that always knows the picture: all pixels are `target`."""
    generator = torch.Generator().manual_seed(0)
    latents = torch.randn((1, 4, 4, 4), generator=generator) * built.init_noise_sigma
    alphas = built.alphas_cumprod.double().numpy()
    for timestep in built.timesteps:
        seen = built.scale_model_input(latents, timestep)
        alpha = np.interp(float(timestep), np.arange(1000), alphas)
        predicted = (seen - alpha**0.5 * target) / (1 - alpha) ** 0.5
        options = {"generator": generator} if "generator" in built.step.__code__.co_varnames else {}
        latents = built.step(predicted.float(), timestep, latents, **options, return_dict=False)[0]
    return latents


@pytest.mark.parametrize("steps", [1, 2, 11, 150, 600])
def test_every_sampler_begins_in_noise_at_any_number_of_steps(steps: int):
    for name in NAMES:
        for label in ("Uniform", "Simple", "DDIM") if steps == 1 else ("Automatic",):
            built = scheduler(resolve(name, label), MODEL, steps)
            leading = steps == 2 and resolve(name).sampler.fixed  # A1111's DDIM of two steps begins in the middle, too
            assert float(built.timesteps[0]) >= (500 if leading else 900), (name, label)


@pytest.mark.parametrize("name", ["Euler", "Euler a", "DPM++ 2M", "DPM++ 2S a", "LMS", "UniPC"])
@pytest.mark.parametrize("label", ["Karras", "Exponential", "Simple", "Align Your Steps", "KL Optimal", "DDIM", "SGM Uniform"])
def test_noise_falls_from_all_to_none_by_the_schedule(name: str, label: str):
    sigmas = scheduler(resolve(name, label), MODEL, 10).sigmas.double().numpy()
    assert len(sigmas) == 11 and (np.diff(sigmas) < 0).all()
    assert sigmas[0] > 7 and sigmas[-1] < 0.03


def test_sigmas_that_diffusers_has_not_are_those_of_the_web_ui():
    table = ((1 - (alphas := _alphas())) / alphas) ** 0.5
    simple = scheduler(resolve("Euler", "Simple"), MODEL, 4).sigmas.numpy()
    assert np.allclose(simple, [table[999], table[749], table[499], table[249], 0], rtol=1e-5)
    aligned = scheduler(resolve("Euler", "Align Your Steps"), MODEL, 11).sigmas.numpy()
    assert np.allclose(aligned[[0, 1, 10, 11]], [14.615, 6.475, 0.029, 0], atol=1e-3)
    wide: Any = SimpleNamespace(scheduler_config=MODEL.scheduler_config, architecture="sdxl")
    assert scheduler(resolve("Euler", "Align Your Steps"), wide, 11).sigmas[1].item() == pytest.approx(6.315, abs=1e-3)
    optimal = scheduler(resolve("Euler", "KL Optimal"), MODEL, 2).sigmas.numpy()
    assert optimal[1] == pytest.approx(np.tan((np.arctan(table[0]) + np.arctan(table[999])) / 2), rel=1e-4)


def _alphas() -> np.ndarray:
    return np.cumprod(1 - np.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2)


def test_own_sigmas_of_euler_a_are_those_that_euler_has_from_diffusers():
    for label in ("Karras", "Exponential", "Beta"):
        own, theirs = (scheduler(resolve(name, label), MODEL, 12) for name in ("Euler a", "Euler"))
        assert np.allclose(own.sigmas, theirs.sigmas, rtol=1e-4, atol=1e-6), label
        assert np.allclose(own.timesteps, theirs.timesteps, atol=0.05), label


@pytest.mark.parametrize("name", NAMES)
def test_what_the_model_predicts_is_kept(name: str):
    config = MODEL.scheduler_config | {"prediction_type": "v_prediction"}
    model: Any = SimpleNamespace(scheduler_config=config, architecture="sd2")
    assert scheduler(resolve(name), model, 4).config.prediction_type == "v_prediction"


def test_spacing_is_the_web_uis_and_not_the_leading_one_of_the_configs():
    assert MODEL.scheduler_config["timestep_spacing"] == "leading"
    assert scheduler(resolve("Euler"), MODEL, 4).timesteps.tolist() == [999, 666, 333, 0]
    assert scheduler(resolve("DDIM"), MODEL, 4).timesteps.tolist() == [751, 501, 251, 1]


def test_a_scheduler_is_fresh_each_time():
    choice = Choice(SAMPLERS[0])
    assert scheduler(choice, MODEL, 4) is not scheduler(choice, MODEL, 4)


def test_the_table_needs_no_torch():
    code = "import sys, webui.imaging.samplers; sys.exit('torch' in sys.modules or 'diffusers' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
