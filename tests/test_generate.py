"""Pictures from requests, by a tiny random model: the same each time, as diffusers makes them, with all that can be asked for."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from tests import tiny
from webui.errors import InvalidRequest, UnsupportedModel
from webui.imaging import infotext, preview
from webui.imaging.generate import img2img, inpaint, txt2img
from webui.imaging.latents import decode, seamless
from webui.imaging.load import Model
from webui.imaging.passes import How, Picture, film_steps
from webui.imaging.plans import Plan
from webui.imaging.requests import Img2Img, Inpaint, Txt2Img
from webui.imaging.samplers import resolve, scheduler
from webui.imaging.sizes import native_size, own_size

WORDS = {"prompt": "a red lighthouse", "negative": "blurry", "steps": 4}


class Watcher:
    """Keeps what it is told. Cancels, when it is told to, after so many steps."""

    def __init__(self, patience: int | None = None) -> None:
        self.told: list[tuple[float, str]] = []
        self.previews: list[np.ndarray] = []
        self.warnings: list[str] = []
        self.patience = patience

    @property
    def cancelled(self) -> bool:
        return self.patience is not None and len(self.told) >= self.patience

    def progress(self, fraction: float, stage: str) -> None:
        self.told.append((fraction, stage))

    def preview(self, image: np.ndarray) -> None:
        self.previews.append(image)

    def warn(self, message: str) -> None:
        self.warnings.append(message)


@pytest.fixture(scope="module")
def model() -> Model:
    return tiny.model()


@pytest.fixture(autouse=True)
def calm() -> Iterator[None]:
    with tiny.calm():
        yield


def drawn(model: Model, watch: Watcher | None = None, seed: int = 5, how: How | None = None, **asked: Any) -> list[Picture]:
    return list(txt2img(model, Txt2Img(**{**WORDS, **asked}), watch or Watcher(), seed, how or How()))


def picture(width: int = 64, height: int = 64) -> np.ndarray:
    return np.random.default_rng(1).integers(0, 256, (height, width, 3), np.uint8)


def mask(width: int = 64, height: int = 64) -> np.ndarray:
    made = np.zeros((height, width), np.uint8)
    made[height // 4 : 3 * height // 4, width // 8 : 5 * width // 8] = 255
    return made


def theirs(kind: str, model: Model, sampler: str, **asked: Any) -> np.ndarray:
    """The picture that diffusers' pipeline makes of the same."""
    built = scheduler(resolve(sampler), model, 4)
    pipeline = tiny.pipeline(kind, model, type(built).from_config(built.config))
    words = {"prompt": WORDS["prompt"], "negative_prompt": WORDS["negative"], "num_inference_steps": 4, "guidance_scale": 7.0}
    return np.asarray(pipeline(**words, generator=torch.Generator().manual_seed(5), **asked).images[0])


@pytest.mark.parametrize("architecture", ["sd1", "sd2", "sdxl"])
def test_txt2img_makes_the_picture_of_diffusers(architecture: str):
    model = tiny.model(architecture)
    kind = "StableDiffusionXLPipeline" if architecture == "sdxl" else "StableDiffusionPipeline"
    expected = theirs(kind, model, "Euler a", width=96, height=64)
    assert np.array_equal(drawn(model, sampler="Euler a", size="96x64")[0].rgb, expected)


def test_img2img_makes_the_picture_of_diffusers(model: Model):
    expected = theirs("StableDiffusionImg2ImgPipeline", model, "Euler a", image=Image.fromarray(picture()), strength=0.5)
    request = Img2Img(**WORDS, sampler="Euler a", strength=0.5)
    assert np.array_equal(next(img2img(model, request, picture(), Watcher(), 5)).rgb, expected)


@pytest.mark.parametrize("channels", [4, 9])
@pytest.mark.parametrize("strength", [0.5, 1.0])
def test_inpainting_makes_the_picture_of_diffusers_inside_and_keeps_its_own_outside(channels: int, strength: float):
    model = tiny.model(inpaint=channels == 9)
    shown = {"image": Image.fromarray(picture()), "mask_image": Image.fromarray(mask())}
    expected = theirs("StableDiffusionInpaintPipeline", model, "Euler a", **shown, strength=strength, width=64, height=64)
    request = Inpaint(**WORDS, sampler="Euler a", strength=strength, mask_blur=0)
    found = next(inpaint(model, request, picture(), mask(), Watcher(), 5)).rgb
    assert np.array_equal(found, np.where(mask()[..., None] > 0, expected, picture()))


def test_the_same_request_and_seed_make_the_same_picture_and_another_seed_another(model: Model):
    first, again, other = drawn(model, seed=5), drawn(model, seed=5), drawn(model, seed=6)
    assert np.array_equal(first[0].rgb, again[0].rgb)
    assert not np.array_equal(first[0].rgb, other[0].rgb)


def test_batches_count_their_seeds_on_and_do_not_change_the_pictures(model: Model):
    pictures = drawn(model, batch_count=2, batch_size=2)
    assert [one.seed.seed for one in pictures] == [5, 6, 7, 8]
    for one in pictures:
        alone = drawn(model, seed=one.seed.seed)[0].rgb.astype(int)
        assert np.abs(one.rgb - alone).max() <= 1


CHANGES = [{"singly": True}, {"split_guidance": True}, {"vae_slicing": False}, {"attention_slicing": True}]
CHANGES += [{"offload": "model"}, {"offload": "sequential"}]


@pytest.mark.parametrize("changes", CHANGES)
def test_plans_change_the_way_and_not_the_picture(model: Model, changes: dict[str, Any]):
    for plain, planned in zip(drawn(model, batch_size=2), drawn(model, batch_size=2, how=How(Plan(**changes))), strict=True):
        assert np.abs(plain.rgb.astype(int) - planned.rgb).max() <= 1


@pytest.mark.parametrize("sampler", ["DPM++ 2M", "Euler a", "LCM"])
def test_half_precision_makes_about_the_same_picture(model: Model, sampler: str):
    half = tiny.model()
    for network in (*half.text_encoders, half.unet, half.vae):
        network.to(torch.bfloat16)
    half.dtype = torch.bfloat16
    difference = drawn(half, sampler=sampler)[0].rgb.astype(int) - drawn(model, sampler=sampler)[0].rgb
    assert 0 < np.abs(difference).mean() < 3


def test_without_a_size_a_picture_has_the_models_own(model: Model):
    assert native_size(model) == (64, 64) and drawn(model)[0].rgb.shape == (64, 64, 3)
    said: list[str] = []
    assert own_size(model, picture(50, 70), said.append) == (64, 72) and said == []
    width, height = own_size(model, picture(3000, 1500), said.append)
    assert f"worked on at {width}x{height}" in said[0]
    assert width == pytest.approx(2 * height, rel=0.1) and width * height == pytest.approx(2 * 64 * 64, rel=0.1)


def test_what_was_asked_for_is_written_and_read_back(model: Model):
    asked = {"size": "96x64", "batch_size": 2, "variation": 0.25, "variation_seed": 30, "clip_skip": 2, "tiling": True}
    facts = drawn(model, sampler="DPM++ 2M Karras", **asked)[1].facts
    read = infotext.read(infotext.write(facts, WORDS["prompt"], WORDS["negative"])).facts
    expected = {
        "Steps": "4", "Sampler": "DPM++ 2M", "Schedule type": "Karras", "CFG scale": "7.0", "Seed": "5", "Size": "96x64",
        "Model hash": "0123456789", "Model": "tiny-sd1", "Variation seed": "31", "Variation seed strength": "0.25",
        "Clip skip": "2", "Tiling": "True",
    }  # fmt: skip
    assert {key: read.get(key) for key in expected} == expected


@pytest.mark.parametrize("upscaler", ["Latent", "Latent (bicubic antialiased)", "Lanczos", "None"])
def test_hires_fix_enlarges_and_takes_all_its_steps(model: Model, upscaler: str):
    watch = Watcher()
    (made,) = drawn(model, watch, hires=True, hires_scale=1.5, hires_upscaler=upscaler, hires_steps=3, strength=0.5)
    assert made.rgb.shape == (96, 96, 3)
    assert len([stage for _, stage in watch.told if stage == "denoising"]) == 4 + 3
    assert made.facts["Hires upscale"] == 1.5 and made.facts["Hires steps"] == 3 and made.facts["Size"] == "64x64"


def test_hires_fix_to_a_size_of_another_shape_and_without_strength(model: Model):
    assert drawn(model, hires=True, hires_size="128x64")[0].rgb.shape == (64, 128, 3)
    assert drawn(model, hires=True, hires_size="128x64", strength=0.0)[0].rgb.shape == (64, 128, 3)
    assert drawn(model, hires=True, strength=0.01, steps=1, hires_steps=20)[0].rgb.shape == (128, 128, 3)


def test_tiled_pictures_go_on_at_the_opposite_edge_and_leave_the_model_as_it_was(model: Model):
    plain, tiled = drawn(model)[0].rgb, drawn(model, tiling=True)[0].rgb
    assert not np.array_equal(plain, tiled)
    start = torch.randn(1, 4, 8, 8)
    with seamless(True, model.vae):
        one, other = decode(model.vae, start), decode(model.vae, start.roll(3, dims=3))
    assert np.abs(np.roll(one, 24, axis=2).astype(int) - other).max() <= 1
    assert np.array_equal(drawn(model)[0].rgb, plain)


def test_a_film_strip_shows_the_steps_asked_for(model: Model):
    watch = Watcher()
    pictures = drawn(model, watch, batch_size=2, filmstrip="1, 2,4,50")
    for made in pictures:
        assert made.strip is not None and made.strip.shape[1] == 3 * 64 + 2 * 4 and made.strip.shape[0] > 2 * 64
        last = made.strip[-64:, -64:].astype(int)
        assert np.abs(last - made.rgb).max() <= 1, "the last step's picture is the picture"
    assert not watch.warnings
    assert drawn(model, watch, filmstrip="50")[0].strip is None and "film strip" in watch.warnings[0]


@pytest.mark.parametrize("written", ["x", "0", "1,-2", "151", "1.5", "9999"])
def test_a_film_strip_of_anything_but_steps_is_refused(model: Model, written: str):
    with pytest.raises(InvalidRequest, match="film strip"):
        txt2img(model, Txt2Img(filmstrip=written), Watcher(), 1)
    assert film_steps(" 1 2;3, ") == {1, 2, 3}


@pytest.mark.parametrize(("scale", "refused"), [(2.0, False), (2.01, True)])
def test_hires_fix_makes_nothing_larger_than_may_be_asked_for(model: Model, scale: float, refused: bool):
    request = Txt2Img(size="64x2048", hires=True, hires_scale=scale)
    with pytest.raises(InvalidRequest, match="128x4120 pixels, and the most is 4096") if refused else nullcontext():
        txt2img(model, request, Watcher(), 1)


UNKNOWN = [{"sampler": "Eular"}, {"schedule": "Karas"}, {"hires": True, "hires_upscaler": "4x-What"}, {"clip_skip": 9}]


@pytest.mark.parametrize("asked", UNKNOWN)
def test_what_is_not_there_is_refused_before_anything_is_made(model: Model, asked: dict[str, Any]):
    with pytest.raises(InvalidRequest):
        txt2img(model, Txt2Img(**asked), Watcher(), 1)


def test_what_has_no_effect_is_said(model: Model):
    watch = Watcher()
    drawn(model, watch, prompt="a <lora:x:0.5> cat", cfg=1.0, sampler="Restart")
    said = " ".join(watch.warnings)
    assert "<lora:x:0.5>" in said and "negative prompt has no effect" in said and "Restart" in said


def test_and_is_guided_even_at_a_guidance_of_one(model: Model):
    watch = Watcher()
    one, other = (drawn(model, watch, prompt=f"a cat AND a dog :{weight}", cfg=1.0)[0].rgb for weight in (0.5, 2))
    assert not np.array_equal(one, other) and not watch.warnings


def test_progress_rises_to_one_and_previews_come(model: Model):
    watch = Watcher()
    drawn(model, watch, batch_count=2)
    fractions = [fraction for fraction, _ in watch.told]
    assert fractions == sorted(fractions) and fractions[-1] == 1.0 and len(fractions) == 8
    assert watch.previews and watch.previews[0].shape == (64, 64, 3)


def test_stopping_keeps_what_is_there(model: Model):
    pictures = drawn(model, Watcher(patience=6), batch_count=3)
    assert [one.complete for one in pictures] == [True, False]
    assert drawn(model, Watcher(patience=0)) == []


@pytest.mark.parametrize("step", [0, 2, 4, 7])
def test_skipping_leaves_out_one_batch_and_the_next_goes_on(model: Model, step: int):
    wishes = iter([*[False] * step, True])
    asked = {"batch_count": 3, "batch_size": 2}
    pictures = drawn(model, how=How(skip=lambda: next(wishes, False)), **asked)
    left_out = step // 5  # it is asked before each of the 4 steps, and once the picture is there
    assert [one.skipped for one in pictures] == [number // 2 == left_out for number in range(6)]
    for one, whole in zip(pictures, drawn(model, **asked), strict=True):
        assert one.seed == whole.seed and (one.skipped or np.array_equal(one.rgb, whole.rgb))


def test_hires_fix_is_skipped_in_its_second_pass_too(model: Model):
    wishes = iter([*[False] * 5, True])
    assert [one.skipped for one in drawn(model, hires=True, how=How(skip=lambda: next(wishes, False)))] == [True]


def test_one_at_a_time_each_picture_keeps_its_seed_when_one_is_skipped_at_once(model: Model):
    wishes = iter([True])
    skipped, made = drawn(model, batch_size=2, how=How(Plan(singly=True), skip=lambda: next(wishes, False)))
    assert skipped.skipped and skipped.seed.seed == 5
    assert made.seed.seed == 6 and np.array_equal(made.rgb, drawn(model, seed=6)[0].rgb)


def test_stopping_hires_fix_in_its_second_pass_gives_the_large_picture(model: Model):
    (made,) = drawn(model, Watcher(patience=5), hires=True)
    assert made.rgb.shape == (128, 128, 3) and not made.complete


@pytest.mark.parametrize("mode", ["stretch", "crop", "fill", "latent"])
@pytest.mark.parametrize("inpainting", [False, True])
def test_img2img_of_another_shape(mode: Any, inpainting: bool):
    request = Img2Img(**WORDS, size="96x64", resize=mode, strength=0.5)
    (made,) = img2img(tiny.model(inpaint=inpainting), request, picture(50, 70), Watcher(), 5)
    assert made.rgb.shape == (64, 96, 3) and made.facts["Denoising strength"] == 0.5


def test_img2img_without_a_step_gives_the_picture_and_says_so(model: Model):
    watch = Watcher()
    (made,) = img2img(model, Img2Img(**WORDS, strength=0.2), picture(), watch, 5)
    assert np.array_equal(made.rgb, picture()) and "Nothing is changed" in watch.warnings[0]


CONTENTS: list[Any] = ["fill", "original", "latent noise", "latent nothing"]


@pytest.mark.parametrize("inpainting", [False, True])
def test_inpainting_never_touches_what_is_not_masked(inpainting: bool):
    model = tiny.model(inpaint=inpainting)
    seen = []
    for content in CONTENTS:
        for only_masked in (False, True):
            request = Inpaint(**WORDS, strength=0.75, content=content, only_masked=only_masked, mask_blur=2, padding=8)
            (made,) = inpaint(model, request, picture(90, 75), mask(90, 75), Watcher(), 5)
            untouched = np.pad(mask(90, 75), 12).astype(bool)
            near = np.lib.stride_tricks.sliding_window_view(untouched, (25, 25)).any(axis=(2, 3))
            assert np.array_equal(made.rgb[~near], picture(90, 75)[~near])
            assert not np.array_equal(made.rgb, picture(90, 75))
            seen.append(made.rgb.tobytes())
    assert len(set(seen)) == len(seen), "each way gives another picture"


def test_an_inverted_mask_changes_the_rest(model: Model):
    request = Inpaint(**WORDS, mask_invert=True, mask_blur=0, strength=0.9)
    (made,) = inpaint(model, request, picture(), mask(), Watcher(), 5)
    assert np.array_equal(made.rgb[mask() > 0], picture()[mask() > 0]) and made.facts["Mask mode"] == "Inpaint not masked"


@pytest.mark.parametrize(
    ("wrong", "said"),
    [(mask(128, 96), "The mask is 128x96, and the picture 64x64."), (np.zeros((64, 64), np.uint8), "The mask is empty.")],
)
def test_a_mask_of_another_size_or_without_a_mark_is_refused(model: Model, wrong: np.ndarray, said: str):
    with pytest.raises(InvalidRequest, match=said):
        inpaint(model, Inpaint(**WORDS), picture(), wrong, Watcher(), 5)


def test_inpainting_at_a_size_gives_that_size_unless_only_the_masked_part_is_worked_on(model: Model):
    whole, part = (
        next(inpaint(model, Inpaint(**WORDS, size="96x64", only_masked=only), picture(80, 120), mask(80, 120), Watcher(), 5))
        for only in (False, True)
    )
    assert whole.rgb.shape == (64, 96, 3) and part.rgb.shape == (120, 80, 3)
    assert part.facts["Inpaint area"] == "Only masked"


def test_when_memory_runs_out_it_goes_on_with_less_and_says_so(model: Model, monkeypatch: pytest.MonkeyPatch):
    watch, asked = Watcher(), []
    real = model.unet.forward

    def small(latents: torch.Tensor, *args: Any, **options: Any) -> Any:
        asked.append(len(latents))
        if len(latents) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return real(latents, *args, **options)

    monkeypatch.setattr(model.unet, "forward", small)
    pictures = drawn(model, watch, batch_size=2, batch_count=2)
    assert len(pictures) == 4 and all(one.complete for one in pictures)
    assert watch.warnings == ["Memory ran out; it was tried again with one picture at a time."]
    assert asked.count(4) == 1, "the second batch does not run into it again"
    assert watch.told[-1][0] == 1.0


def test_a_model_may_bring_its_own_linear_preview(tmp_path: Path):
    assert preview.shipped(tmp_path) is None and preview.shipped(tmp_path / "a.safetensors") is None
    own = preview.Linear(torch.arange(15).reshape(5, 3) / 15, 8)
    preview.ship(own, tmp_path)
    found = preview.shipped(tmp_path)
    assert found is not None and found.scale == 8 and torch.allclose(found.colours, own.colours, atol=1e-5)
    (tmp_path / preview.SHIPPED).write_text('{"colours": [[1]], "scale": 8}')
    with pytest.raises(UnsupportedModel, match=r"preview\.json"):
        preview.shipped(tmp_path)


def test_the_linear_preview_is_fitted_to_a_vae_once_and_fits():
    scale = 8

    class Mean(torch.nn.Module):
        """A VAE whose latents are colours."""

        dtype = torch.float32
        config = type("Config", (), {"block_out_channels": [1] * 4, "scaling_factor": 0.5, "force_upcast": False})
        calls = 0

        def encode(self, pictures: torch.Tensor) -> Any:
            self.calls += 1
            means = torch.nn.functional.avg_pool2d(pictures, scale)
            latents = torch.cat([means[:, [2, 0, 1]], means[:, :1]], dim=1)
            return type("Encoded", (), {"latent_dist": type("Drawn", (), {"sample": lambda self, generator: latents})()})

    vae = Mean()
    show = preview.linear(vae)
    calls = vae.calls
    colours = torch.tensor([0.2, 0.5, 0.9])
    red, green, blue = (2 * colours - 1) * 0.5
    latents = torch.stack([blue, red, green, red])[None, :, None, None].expand(1, 4, 6, 5)
    assert np.abs(show(latents)[0, 0] / 255 - colours.numpy()).max() < 0.01
    assert show(latents).shape == (48, 40, 3)
    assert preview.linear(vae) is show and vae.calls == calls


def test_taesd_is_used_when_it_is_there_in_either_makers_names(tmp_path: Any):
    from diffusers.models.autoencoders.autoencoder_tiny import AutoencoderTiny
    from safetensors.torch import save_file

    assert preview.tiny("sd1", tmp_path) is None
    network = AutoencoderTiny().eval()
    save_file(network.state_dict(), tmp_path / "taesd.safetensors")
    parts = {tuple(name.split(".", 2)): tensor for name, tensor in network.decoder.state_dict().items()}
    own = {f"{int(number) + 1}.{rest}": tensor for (_, number, rest), tensor in parts.items()}
    save_file(own, tmp_path / "taesdxl_decoder.safetensors")
    latents = torch.randn(1, 4, 8, 8)
    one, other = preview.tiny("sd1", tmp_path), preview.tiny("sdxl", tmp_path)
    assert one is not None and other is not None
    assert one(latents).shape == (64, 64, 3) and np.array_equal(one(latents), other(latents))
    save_file({"x": torch.ones(1)}, tmp_path / "taesd_decoder.safetensors")
    with pytest.raises(UnsupportedModel, match="taesd_decoder"):
        preview.tiny("sd1", tmp_path)
