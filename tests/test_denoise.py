"""The loop against diffusers' pipelines, bit for bit, and what those have not: AND, words that change, stopping."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from tests import tiny
from webui.imaging import latents as vae_latents
from webui.imaging import preview
from webui.imaging.denoise import Keep, Step, _mixture, begin, denoise, steps_of
from webui.imaging.encode import Conditioner, Conditionings
from webui.imaging.load import Model
from webui.imaging.masks import for_latents
from webui.imaging.noise import Noise, Seed, seeds, slerp
from webui.imaging.samplers import resolve, scheduler

STEPS, GUIDANCE = 6, 7.0
PROMPT, NEGATIVE = "a red lighthouse", "blurry"


@pytest.fixture(scope="module")
def sd1() -> Model:
    return tiny.model("sd1")


@pytest.fixture(autouse=True)
def calm() -> Iterator[None]:
    with tiny.calm():
        yield


def guides(model: Model, prompt: str = PROMPT, steps: int = STEPS) -> Conditionings:
    return Conditioner(model).conditionings(prompt, NEGATIVE, steps)


def theirs(kind: str, model: Model, sampler: str, **asked: Any) -> torch.Tensor:
    """Latents of diffusers' pipeline with the same scheduler, seed 5."""
    built = scheduler(resolve(sampler), model, STEPS)
    pipeline = tiny.pipeline(kind, model, type(built).from_config(built.config))
    words = {"prompt": PROMPT, "negative_prompt": NEGATIVE, "guidance_scale": GUIDANCE, "num_inference_steps": STEPS}
    return pipeline(**words, generator=torch.Generator().manual_seed(5), output_type="latent", **asked).images


def from_words(model: Model, sampler: str, batch: list[Seed], **options: Any) -> torch.Tensor:
    noise, built = Noise(batch), scheduler(resolve(sampler), model, STEPS)
    start = noise.initial((4, 8, 8)) * built.init_noise_sigma
    told = guides(model, options.pop("prompt", PROMPT))
    sizes = torch.tensor([[64.0, 64.0, 0.0, 0.0, 64.0, 64.0]])
    return denoise(model.unet, built, start, told, GUIDANCE, generators=noise.generators, time_ids=sizes, **options).latents


SAMPLERS = ["Euler", "Euler a", "DPM++ 2M Karras", "DPM++ 2M SDE", "DDIM", "UniPC", "LCM", "Heun", "DPM2 a", "PLMS"]


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_txt2img_gives_the_latents_of_diffusers(sd1: Model, sampler: str):
    expected = theirs("StableDiffusionPipeline", sd1, sampler, width=64, height=64)
    assert torch.equal(from_words(sd1, sampler, [Seed(5)]), expected)


@pytest.mark.parametrize("sampler", ["Euler", "DPM++ 2M Karras"])
def test_sdxl_gives_the_latents_of_diffusers(sampler: str):
    model = tiny.model("sdxl")
    expected = theirs("StableDiffusionXLPipeline", model, sampler, width=64, height=64)
    assert torch.equal(from_words(model, sampler, [Seed(5)]), expected)


def test_a_model_that_predicts_v_gives_the_latents_of_diffusers():
    model = tiny.model("sd2", prediction="v_prediction")
    expected = theirs("StableDiffusionPipeline", model, "Euler", width=64, height=64)
    assert torch.equal(from_words(model, "Euler", [Seed(5)]), expected)


def picture() -> np.ndarray:
    return np.random.default_rng(1).integers(0, 256, (64, 64, 3), np.uint8)


def mask() -> np.ndarray:
    drawn = np.zeros((64, 64), np.uint8)
    drawn[16:48, 8:40] = 255
    return drawn


@pytest.mark.parametrize("sampler", ["Euler", "Euler a", "DPM++ 2M Karras", "DDIM", "Heun"])
@pytest.mark.parametrize("strength", [0.5, 1.0])
def test_img2img_gives_the_latents_of_diffusers(sd1: Model, sampler: str, strength: float):
    expected = theirs("StableDiffusionImg2ImgPipeline", sd1, sampler, image=Image.fromarray(picture()), strength=strength)
    noise, built = Noise([Seed(5)]), scheduler(resolve(sampler), sd1, STEPS)
    known = vae_latents.encode(sd1.vae, vae_latents.tensor(picture()), noise.generators)
    first = STEPS - steps_of(strength, STEPS)
    start = built.add_noise(known, noise.initial((4, 8, 8)), begin(built, first)[:1])
    found = denoise(sd1.unet, built, start, guides(sd1), GUIDANCE, first=first, generators=noise.generators).latents
    assert torch.equal(found, expected)


@pytest.mark.parametrize("sampler", ["Euler", "DPM++ 2M Karras", "DDIM"])
def test_inpainting_with_4_channels_gives_the_latents_of_diffusers(sd1: Model, sampler: str):
    shown = {"image": Image.fromarray(picture()), "mask_image": Image.fromarray(mask())}
    expected = theirs("StableDiffusionInpaintPipeline", sd1, sampler, **shown, strength=0.5, width=64, height=64)
    noise, built = Noise([Seed(5)]), scheduler(resolve(sampler), sd1, STEPS)
    known = vae_latents.encode(sd1.vae, vae_latents.tensor(picture()), noise.generators).contiguous()
    fresh = noise.initial((4, 8, 8))
    keep = Keep(known, fresh, for_latents(mask(), 8, 8))
    start = built.add_noise(known, fresh, begin(built, 3)[:1])
    found = denoise(sd1.unet, built, start, guides(sd1), GUIDANCE, first=3, keep=keep).latents
    assert torch.equal(found, expected)
    assert torch.equal(found * (1 - keep.mask), known * (1 - keep.mask))


def test_inpainting_with_9_channels_gives_the_latents_of_diffusers():
    model = tiny.model(inpaint=True)
    shown = {"image": Image.fromarray(picture()), "mask_image": Image.fromarray(mask())}
    expected = theirs("StableDiffusionInpaintPipeline", model, "Euler", **shown, strength=0.5, width=64, height=64)
    noise, built = Noise([Seed(5)]), scheduler(resolve("Euler"), model, STEPS)
    whole = vae_latents.tensor(picture())
    known = vae_latents.encode(model.vae, whole, noise.generators).contiguous()
    fresh = noise.initial((4, 8, 8))
    seen = vae_latents.encode(model.vae, whole * torch.from_numpy(mask() < 128), noise.generators)
    extra = torch.cat([for_latents(mask(), 8, 8), seen], dim=1)
    start = built.add_noise(known, fresh, begin(built, 3)[:1])
    found = denoise(model.unet, built, start, guides(model), GUIDANCE, first=3, extra=extra).latents
    assert torch.equal(found, expected)


@pytest.mark.parametrize("sampler", ["Euler", "Euler a"])
def test_a_picture_does_not_depend_on_its_neighbours_in_the_batch(sd1: Model, sampler: str):
    batch = from_words(sd1, sampler, seeds(5, 3))
    for number, seed in enumerate(seeds(5, 3)):
        alone = from_words(sd1, sampler, [seed])
        assert torch.allclose(batch[number], alone[0], atol=1e-4), number


def test_guidance_in_two_halves_gives_the_same(sd1: Model):
    together, apart = (from_words(sd1, "Euler", seeds(5, 2), one_by_one=split) for split in (False, True))
    assert torch.allclose(together, apart, atol=1e-4)


def test_and_adds_up_what_each_prompt_leads_to(sd1: Model):
    alone = from_words(sd1, "Euler", [Seed(5)])
    same_twice = from_words(sd1, "Euler", [Seed(5)], prompt=f"{PROMPT} :0.5 AND {PROMPT} :0.5")
    other = from_words(sd1, "Euler", [Seed(5)], prompt=f"{PROMPT} AND a green cat :0.5")
    without = from_words(sd1, "Euler", [Seed(5)], prompt=f"{PROMPT} AND a green cat :0")
    assert torch.allclose(same_twice, alone, atol=1e-4) and torch.allclose(without, alone, atol=1e-4)
    assert not torch.allclose(other, alone, atol=1e-3)


def test_words_that_change_take_effect_at_their_step(sd1: Model):
    seen: dict[str, list[torch.Tensor]] = {"[a red cat:a blue dog:3]": [], "a red cat": []}
    for prompt, steps in seen.items():
        from_words(sd1, "Euler", [Seed(5)], prompt=prompt, on_step=lambda step, steps=steps: steps.append(step.predicted))
    changing, staying = seen.values()
    same = [torch.equal(one, other) for one, other in zip(changing, staying, strict=True)]
    assert same == [True, True, True, False, False, False]


@pytest.mark.parametrize("sampler", ["Euler", "Heun", "PLMS", "DPM++ 2M", "DPM2"])
def test_each_step_is_told_once_and_the_last_picture_is_the_result(sd1: Model, sampler: str):
    told: list[Step] = []
    found = from_words(sd1, sampler, [Seed(5)], on_step=told.append)
    assert [(step.number, step.of) for step in told] == [(number, STEPS) for number in range(1, STEPS + 1)]
    if sampler == "Euler":  # whose last step goes all the way to what the UNet sees
        assert torch.allclose(told[-1].picture(), found, atol=1e-3)


@pytest.mark.parametrize("wish", ["stop", "skip"])
def test_an_end_before_time_keeps_the_picture_as_far_as_it_is_known(sd1: Model, wish: Any):
    told: list[Step] = []
    noise, built = Noise([Seed(5)]), scheduler(resolve("Euler"), sd1, STEPS)
    start = noise.initial((4, 8, 8)) * built.init_noise_sigma
    ending = lambda: wish if len(told) == 2 else "no"  # noqa: E731
    result = denoise(sd1.unet, built, start, guides(sd1), GUIDANCE, on_step=told.append, ending=ending)
    assert (result.steps, result.ended) == (2, wish)
    assert torch.equal(result.latents, told[-1].picture())


def test_an_end_before_the_first_step_calls_no_unet(sd1: Model):
    built = scheduler(resolve("Euler"), sd1, STEPS)
    result = denoise(None, _Untouched(built), torch.ones(1, 4, 8, 8), guides(sd1), GUIDANCE, ending=lambda: "stop")
    assert (result.steps, result.ended) == (0, "stop") and torch.equal(result.latents, torch.ones(1, 4, 8, 8))


class _Untouched:
    def __init__(self, built: Any) -> None:
        self.order, self.timesteps, self.num_inference_steps, self.config = 1, built.timesteps, STEPS, built.config

    def step(self) -> None:
        raise AssertionError


class OnApple(torch.Tensor):
    """As a tensor on Apple's GPUs, which have no doubles."""

    def double(self) -> torch.Tensor:
        raise TypeError("the MPS framework doesn't support float64")

    def cpu(self) -> torch.Tensor:
        return self.as_subclass(torch.Tensor)


def test_what_a_step_shows_needs_no_doubles_on_the_device(monkeypatch: pytest.MonkeyPatch, sd1: Model):
    alphas = torch.linspace(0.99, 0.01, 1000)
    assert _mixture(alphas.as_subclass(OnApple), 10.5) == _mixture(alphas, 10.5)
    real = vae_latents.encode
    monkeypatch.setattr(vae_latents, "encode", lambda *given: real(*given).as_subclass(OnApple))
    assert preview._fit(sd1.vae, "cpu").colours.shape == (5, 3)


def test_seeds_follow_the_web_uis_rule():
    assert [one.seed for one in seeds(2**32 - 1, 2)] == [2**32 - 1, 0]
    varied = seeds(7, 3, variation=20, strength=0.1)
    assert [(one.seed, one.variation) for one in varied] == [(7, 20), (7, 21), (7, 22)]
    assert seeds(7, 2, None, 0.1) == seeds(7, 2, -1, 0.1) != seeds(8, 2, None, 0.1)


def test_a_variation_goes_from_one_noise_to_the_other_and_stays_noise():
    one, other = Noise([Seed(1)]).initial((4, 32, 32)), Noise([Seed(2)]).initial((4, 32, 32))
    assert torch.equal(Noise([Seed(1, 2, 0.0)]).initial((4, 32, 32)), one)
    assert torch.allclose(Noise([Seed(1, 2, 1.0)]).initial((4, 32, 32)), other, atol=1e-5)
    halfway = Noise([Seed(1, 2, 0.5)]).initial((4, 32, 32))
    assert halfway.std().item() == pytest.approx(1, abs=0.05)
    assert torch.equal(slerp(one, one, 0.5), one)
