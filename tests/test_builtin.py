"""The kinds of job that make pictures, from request to files, with tiny random models: what is made, kept, said and refused."""

from __future__ import annotations

import errno
import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from tests import tiny
from tests.checkpoints import diffusers_folder, ldm_vae, networks, numbers, single_file, tiny_configs
from tests.contexts import Crash, MemoryContext
from webui import devices, plugin_loader
from webui.artifacts import Artifacts
from webui.builtin import save, studio
from webui.builtin.kinds import KINDS, LITE
from webui.errors import Cancelled, InvalidRequest, ModelMissing, OutOfMemory, StorageError, UnsupportedModel
from webui.imaging import infotext
from webui.imaging import load as loading
from webui.jobs.service import JobService
from webui.jobs.types import JobState
from webui.jobs.validation import validated
from webui.settings import Settings

BY_NAME = {kind.name: kind for kind in KINDS}
ASKED = {"prompt": "a red lighthouse", "negative": "blurry", "steps": 3, "size": "64x64"}


@pytest.fixture(scope="session")
def shelf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A models folder with two small checkpoints, one of them for inpainting."""
    folder = tmp_path_factory.mktemp("shelf")
    diffusers_folder(folder / "Stable-diffusion" / "first", "sd1")
    diffusers_folder(folder / "Stable-diffusion" / "painter", "sd1", inpaint=True, seed=1)
    return folder


@pytest.fixture
def models(shelf: Path, tmp_path: Path) -> Path:
    """The same, for a test to change."""
    return shutil.copytree(shelf, tmp_path / "models")


@pytest.fixture(autouse=True)
def calm() -> Iterator[None]:
    with tiny.calm():
        yield


def context(models: Path, home: Path, seed: int = 5, **files: Path) -> MemoryContext:
    home.mkdir(parents=True, exist_ok=True)
    settings = Settings(models_dir=models, outputs_dir=home, device="cpu")
    return MemoryContext(home, files, settings=settings, seed=seed)


def run(ctx: MemoryContext, kind: str = "txt2img", **asked: Any) -> Any:
    return BY_NAME[kind].handler(ctx, validated(BY_NAME[kind].request, {**ASKED, **asked}))


def pixels(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB"))


def coarse(path: Path) -> np.ndarray:
    """What is left of a picture when it is saved as a small JPEG."""
    with Image.open(path) as image:
        return np.asarray(image.resize((8, 8), Image.Resampling.BOX), int)


def made(result: Any) -> list[bytes]:
    return [artifact.path.read_bytes() for artifact in result.artifacts]


def photo(path: Path, size: tuple[int, int] = (64, 64), seed: int = 1, **options: Any) -> Path:
    noise = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), np.uint8)
    Image.fromarray(noise).save(path, **options)
    return path


def painted(path: Path, size: tuple[int, int] = (64, 64)) -> Path:
    """A mask whose left half is white."""
    values = np.zeros((size[1], size[0]), np.uint8)
    values[:, : size[0] // 2] = 255
    Image.fromarray(values).save(path)
    return path


# ---- the kinds


def test_the_kinds_come_by_themselves_like_those_of_any_extension():
    plugins = plugin_loader.load(plugin_loader.BUILT_IN)
    assert plugins.failures == []
    assert [kind.name for kind in plugins.kinds] == ["txt2img", "img2img", "inpaint", "plot", "extras"]


def test_a_program_can_read_what_may_be_asked_for():
    schema = {name: kind.request.model_json_schema() for name, kind in BY_NAME.items()}
    assert json.loads(json.dumps(schema)) == schema
    assert schema["txt2img"]["properties"]["steps"] == {
        "default": 20, "description": "Denoising steps.", "maximum": 150, "minimum": 1, "title": "Steps", "type": "integer",
    }  # fmt: skip
    assert "required" not in schema["txt2img"]
    assert schema["img2img"]["required"] == ["image"] and schema["inpaint"]["required"] == ["image", "mask"]
    assert schema["inpaint"]["properties"]["mask"]["format"] == "artifact-id"
    assert schema["inpaint"]["additionalProperties"] is False


def test_a_small_installation_says_how_to_complete_it(tmp_path: Path):
    ctx = context(tmp_path / "none", tmp_path)
    ctx.settings = replace(ctx.settings, lite=True)
    with pytest.raises(InvalidRequest) as refused:
        run(ctx)
    assert str(refused.value) == LITE and "./launch.sh --full" in LITE


def test_a_job_of_the_studio_is_made_shown_and_remembered(shelf: Path, tmp_path: Path):
    settings = Settings(models_dir=shelf, outputs_dir=tmp_path, device="cpu")
    service = JobService(KINDS, Artifacts(tmp_path), settings, alone=True)
    try:
        job = service.wait(service.submit("txt2img", {**ASKED, "seed": 7}).id, 60)
        assert (job.state, job.error, job.warnings) == (JobState.DONE, None, ())
        path = job.result.artifacts[0].path
        shown, picture = (coarse(one) for one in (service.thumbnail(job.id), path))
        assert np.abs(shown - picture).max() < 12, "the finished picture, not the noise that came first"
        assert path.parent == tmp_path / "txt2img" and "a red lighthouse 7" in path.name
        kind, fields = service.recall(path)
        again = service.wait(service.submit(kind, fields).id, 60)
        assert again.result.artifacts[0].path.read_bytes() == path.read_bytes()
    finally:
        service.close()


# ---- what is made


def test_the_same_request_and_seed_make_the_same_file(shelf: Path, tmp_path: Path):
    first, second = (made(run(context(shelf, tmp_path / name))) for name in ("a", "b"))
    other = made(run(context(shelf, tmp_path / "c", seed=6)))
    assert first == second != other


def test_the_result_tells_how_it_was_made(shelf: Path, tmp_path: Path):
    result = run(context(shelf, tmp_path), sampler="Euler a", batch_size=2)
    data = result.data
    sha256 = studio.catalog(Settings(models_dir=shelf)).find("first").hash
    assert data["model"] == "first" and data["model_hash"] == sha256[:10] and data["vae"] is None
    assert (data["sampler"], data["device"], data["precision"]) == ("Euler a", "cpu", "fp32")
    assert data["seeds"] == [5, 6] and data["size"] == [64, 64] and data["complete"] is True
    assert data["infotexts"] == [infotext.extract(artifact.path) for artifact in result.artifacts]
    assert set(data["seconds"]) == {"model", "pictures", "total"}
    assert json.loads(json.dumps(data)) == data


def test_a_file_carries_the_facts_as_a1111_writes_them(shelf: Path, tmp_path: Path):
    (artifact,) = run(context(shelf, tmp_path)).artifacts
    prompt, negative, facts = infotext.extract(artifact.path).split("\n")
    assert (prompt, negative) == ("a red lighthouse", "Negative prompt: blurry")
    assert facts.startswith("Steps: 3, Sampler: DPM++ 2M, Schedule type: Karras, CFG scale: 7.0, Seed: 5, Size: 64x64, Model")


def test_batches_are_files_in_the_order_of_their_seeds(shelf: Path, tmp_path: Path):
    result = run(context(shelf, tmp_path / "many"), batch_count=2, batch_size=2, filmstrip="1,3")
    alone = run(context(shelf, tmp_path / "one", seed=7), batch_size=2)
    assert result.data["seeds"] == [5, 6, 7, 8]
    assert len(result.artifacts) == 8, "the pictures, then their film strips"
    assert np.array_equal(pixels(result.artifacts[2].path), pixels(alone.artifacts[0].path))
    assert pixels(result.artifacts[0].path).shape == (64, 64, 3)
    assert pixels(result.artifacts[4].path).shape[1] > 128


def test_variations_go_on_from_batch_to_batch(shelf: Path, tmp_path: Path):
    asked = {"variation": 0.5, "variation_seed": 100}
    three = run(context(shelf, tmp_path / "many"), batch_count=3, **asked)
    last = run(context(shelf, tmp_path / "one"), **{**asked, "variation_seed": 102})
    assert made(three)[2] == made(last)[0] != made(three)[1]


def test_img2img_begins_with_the_picture_as_it_is_seen_upright(shelf: Path, tmp_path: Path):
    turned = Image.Exif()
    turned[0x0112] = 6
    file = photo(tmp_path / "phone.png", (96, 64), exif=turned)
    ctx = context(shelf, tmp_path / "out", photo=file)
    (artifact,) = run(ctx, "img2img", image="photo", size="64x96", strength=0).artifacts
    assert np.array_equal(pixels(artifact.path), np.rot90(pixels(file), -1))
    assert any("Nothing is changed" in warning for warning in ctx.warnings)


def test_img2img_changes_more_with_more_strength(shelf: Path, tmp_path: Path):
    file = photo(tmp_path / "photo.png")
    results = {
        strength: run(context(shelf, tmp_path / f"{strength}", photo=file), "img2img", image="photo", strength=strength)
        for strength in (0.35, 1)
    }
    assert made(results[0.35]) != made(results[1])


@pytest.mark.parametrize("model", ["first", "painter"])
def test_inpaint_leaves_what_is_not_white_as_it_was(shelf: Path, tmp_path: Path, model: str):
    files = {"photo": photo(tmp_path / "photo.png"), "mask": painted(tmp_path / "mask.png")}
    ctx = context(shelf, tmp_path / "out", **files)
    (artifact,) = run(ctx, "inpaint", image="photo", mask="mask", model=model, mask_blur=0).artifacts
    before, after = pixels(files["photo"]), pixels(artifact.path)
    assert np.array_equal(after[:, 32:], before[:, 32:])
    assert (after[:, :32] != before[:, :32]).mean() > 0.9


def test_a_transparent_mask_counts_where_it_is_opaque(shelf: Path, tmp_path: Path):
    files = {name: tmp_path / f"{name}.png" for name in ("photo", "white", "strokes")}
    photo(files["photo"])
    painted(files["white"])
    strokes = np.zeros((64, 64, 4), np.uint8)
    strokes[:, :32, 3] = 255  # black, but opaque
    Image.fromarray(strokes).save(files["strokes"])
    by_light, by_alpha = (
        run(context(shelf, tmp_path / mask, **files), "inpaint", image="photo", mask=mask) for mask in ("white", "strokes")
    )
    assert made(by_light) == made(by_alpha)


def test_networks_are_left_out_and_that_is_said(shelf: Path, tmp_path: Path):
    ctx = context(shelf, tmp_path / "with")
    (artifact,) = run(ctx, prompt="a red lighthouse<lora:add_detail:0.7>").artifacts
    plain = run(context(shelf, tmp_path / "without"))
    assert "Left out of the prompt, because networks cannot be used yet: <lora:add_detail:0.7>." in ctx.warnings
    assert np.array_equal(pixels(artifact.path), pixels(plain.artifacts[0].path))
    assert "lora" not in artifact.path.name


def test_a_sampler_that_is_not_there_is_replaced_and_that_is_said(shelf: Path, tmp_path: Path):
    ctx = context(shelf, tmp_path)
    run(ctx, sampler="DPM++ SDE")
    assert any("DPM++ SDE is not available here" in warning for warning in ctx.warnings)


def test_progress_goes_from_nothing_to_all_and_names_the_batch(shelf: Path, tmp_path: Path):
    ctx, seen = context(shelf, tmp_path), []
    ctx.progress = lambda fraction, stage: seen.append((fraction, stage))
    run(ctx, batch_count=2)
    fractions = [fraction for fraction, _ in seen]
    assert fractions == sorted(fractions) and (fractions[0], fractions[-1]) == (0, 1)
    assert [stage for _, stage in seen] == [
        "choosing the model", "loading the model", *["denoising, batch 1 of 2"] * 3, *["denoising, batch 2 of 2"] * 3, "saving",
    ]  # fmt: skip
    assert ctx.previews


# ---- models


def test_a_model_is_loaded_once_for_many_jobs(models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    loads = []
    load = loading.load_rest
    monkeypatch.setattr(studio, "load_rest", lambda entry, **options: loads.append(entry.name) or load(entry, **options))
    for number, model in enumerate(["first", "first", "painter", "first"]):
        run(context(models, tmp_path / f"{number}"), model=model)
    assert loads == ["first", "painter"]


def test_out_of_memory_is_met_with_less_and_said(shelf: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel

    forward = UNet2DConditionModel.forward

    def small(unet: Any, sample: torch.Tensor, *given: Any, **options: Any) -> Any:
        if len(sample) > 1:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20 GiB")
        return forward(unet, sample, *given, **options)

    monkeypatch.setattr(UNet2DConditionModel, "forward", small)
    ctx = context(shelf, tmp_path)
    result = run(ctx)
    assert result.data["complete"] and pixels(result.artifacts[0].path).shape == (64, 64, 3)
    assert len(ctx.warnings) == 3 and "one after another" in ctx.warnings[-1]


def test_a_card_that_others_fill_gets_one_network_at_a_time(shelf: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    load = loading.load_rest

    def full(entry: Any, *, device: str, **options: Any) -> Any:
        if device != "cpu":
            raise OutOfMemory("There is too little memory.")
        return load(entry, device=device, **options)

    settings, said = context(shelf, tmp_path).settings, []
    means = studio.choose(settings, validated(BY_NAME["txt2img"].request, {"model": "first"}))
    monkeypatch.setattr(devices, "find", lambda wanted: (devices.Device("cuda", "A card", 24 * 2**30, True, True), "cuda:7"))
    monkeypatch.setattr(studio, "load_rest", full)
    with studio.leased(settings, means, said.append) as (model, plan):
        assert (plan.offload, plan.device, model.device.type) == ("model", "cuda:7", "cpu") and said == [studio.LESS]


def test_settings_that_do_not_suit_the_device_are_told(shelf: Path, tmp_path: Path):
    ctx = context(shelf, tmp_path)
    ctx.settings = replace(ctx.settings, tf32=True)
    run(ctx)
    assert any("tf32" in warning for warning in ctx.warnings)
    ctx = context(shelf, tmp_path / "again")
    ctx.settings = replace(ctx.settings, offload="model")
    with pytest.raises(InvalidRequest, match="offload"):
        run(ctx)


def test_another_vae_costs_no_second_copy_of_the_model(models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (models / "VAE").mkdir()
    vae = ldm_vae(networks(numbers("sd1"), 3)["vae"].state_dict())
    save_file({name: tensor.contiguous() for name, tensor in vae.items()}, models / "VAE" / "nice.safetensors")
    monkeypatch.setattr(studio, "load_part", partial(loading.load_part, configs=tiny_configs(tmp_path / "configs")))
    loads = []
    load = loading.load_rest
    monkeypatch.setattr(studio, "load_rest", lambda entry, **options: loads.append(entry.name) or load(entry, **options))
    devices.unload()
    results = [run(context(models, tmp_path / str(vae)), model="first", vae=vae) for vae in (None, "nice", None)]
    assert made(results[0]) == made(results[2]) != made(results[1]) and loads == ["first"]
    assert {one.name for one in devices.loaded()} == {"first", "nice.safetensors"}


def test_single_files_and_separate_vaes_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    for name in ("load_rest", "load_part"):
        monkeypatch.setattr(studio, name, partial(getattr(loading, name), configs=tiny_configs(tmp_path / "configs")))
    models = tmp_path / "models"
    single_file(models / "Stable-diffusion" / "old.safetensors", "sd1")
    own = run(context(models, tmp_path / "own"))
    vae = ldm_vae(networks(numbers("sd1"), 3)["vae"].state_dict())
    (models / "VAE").mkdir()
    save_file({name: tensor.contiguous() for name, tensor in vae.items()}, models / "VAE" / "nice.safetensors")
    asked = run(context(models, tmp_path / "asked"), vae="nice")
    shutil.copy(models / "VAE" / "nice.safetensors", models / "Stable-diffusion" / "old.vae.safetensors")
    beside = run(context(models, tmp_path / "beside"))
    assert np.array_equal(pixels(asked.artifacts[0].path), pixels(beside.artifacts[0].path))
    assert made(own) != made(asked)
    assert [one.data["vae"] for one in (own, asked, beside)] == [None, "nice.safetensors", "old.vae.safetensors"]
    assert [one.data["vae_reason"] for one in (own, asked, beside)] == [
        "the checkpoint's own", "asked for", "it lies beside the checkpoint",
    ]  # fmt: skip
    facts = infotext.read(asked.data["infotexts"][0]).facts
    assert facts["VAE"] == "nice.safetensors" and len(facts["VAE hash"]) == 10


def broken(models: Path, content: bytes) -> None:
    (models / "Stable-diffusion" / "broken.safetensors").write_bytes(content)


def lora(models: Path) -> None:
    name = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_q"
    tensors = {f"{name}.lora_down.weight": torch.ones(4, 320), f"{name}.lora_up.weight": torch.ones(320, 4)}
    save_file(tensors, models / "Stable-diffusion" / "broken.safetensors")


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (partial(broken, content=b""), "empty"),
        (partial(broken, content=b"\xff" * 1000), "broken.safetensors"),
        (lora, "a LoRA"),
    ],
)
def test_a_file_that_is_no_checkpoint_is_named_as_what_it_is(
    models: Path, tmp_path: Path, spoil: Callable[[Path], None], said: str
):
    spoil(models)
    with pytest.raises(UnsupportedModel, match=said):
        run(context(models, tmp_path / "asked"), model="broken")
    assert run(context(models, tmp_path / "default")).data["model"] == "first", "it does not hide the others"
    for name in ("first", "painter"):
        shutil.rmtree(models / "Stable-diffusion" / name)
    with pytest.raises(UnsupportedModel, match=said):
        run(context(models, tmp_path / "only"))


def test_without_any_model_it_says_where_to_put_one(tmp_path: Path):
    with pytest.raises(ModelMissing, match=r"There is no checkpoint yet\. Put one into models/Stable-diffusion\.$"):
        run(context(tmp_path / "none", tmp_path))


def test_an_unknown_model_is_said_with_near_names(shelf: Path, tmp_path: Path):
    with pytest.raises(ModelMissing, match=r"There is no model 'panter'\. Did you mean painter\?"):
        run(context(shelf, tmp_path), model="panter")


def test_a_model_of_that_name_with_another_hash_is_used_and_that_is_said(shelf: Path, tmp_path: Path):
    ctx = context(shelf, tmp_path)
    found = run(ctx, model="first [0123456789]").data
    assert ctx.warnings == ["There is no model with the hash 0123456789 here; first, which has the same name, was used."]
    same = context(shelf, tmp_path / "same")
    run(same, model=f"first [{found['model_hash'].upper()}]")
    assert same.warnings == []
    plot = context(shelf, tmp_path / "plot")
    run(plot, "plot", x_axis="Model", x_values="first, first [0123456789]", steps=1)
    assert plot.warnings == ctx.warnings


def test_a_model_that_was_replaced_in_the_middle_of_a_job_ends_it(models: Path, tmp_path: Path):
    ctx = context(models, tmp_path / "out")
    crash(ctx, "begin", "batch 1", batch_count=2)
    shutil.rmtree(models / "Stable-diffusion" / "first")
    diffusers_folder(models / "Stable-diffusion" / "first", "sd1", seed=9)
    with pytest.raises(ModelMissing, match="replaced meanwhile"):
        run(ctx.again(), batch_count=2)


def test_a_device_that_is_not_there_is_said(shelf: Path, tmp_path: Path):
    ctx = context(shelf, tmp_path)
    ctx.settings = replace(ctx.settings, device="cuda:63")
    with pytest.raises(InvalidRequest, match="PyTorch finds no device cuda:63"):
        run(ctx)


# ---- what cannot be made


@pytest.mark.parametrize(
    ("kind", "asked", "said"),
    [
        ("txt2img", {"prompt": "x" * 10_000}, "'prompt' must have at most 8000 characters; it has 10000."),
        ("txt2img", {"size": "0x64"}, "must have sides from 64 to 4096 that are multiples of 8, not 0"),
        ("txt2img", {"size": "64x7"}, "multiples of 8, not 7"),
        ("txt2img", {"size": "100000x64"}, "not 100000"),
        ("txt2img", {"size": "large"}, "must be WIDTHxHEIGHT, such as 512x768"),
        ("txt2img", {"steps": 0}, "'steps' must be at least 1, not 0."),
        ("txt2img", {"cfg": float("inf")}, "'cfg' must be a number"),
        ("img2img", {"image": "photo", "strength": float("nan")}, "'strength' must be a number"),
        ("inpaint", {"image": "photo", "mask": "black", "strength": "nan"}, "'strength' must be a number"),
        ("img2img", {}, "'image' is missing."),
        ("inpaint", {"image": "photo"}, "'mask' is missing."),
        ("txt2img", {"image": "photo"}, "'image' is not an option here."),
        ("txt2img", {"sampler": "Eular"}, "There is no sampler “Eular”. Did you mean Euler"),
        ("txt2img", {"schedule": "Kara"}, "There is no schedule “Kara”. Did you mean Karras"),
        ("txt2img", {"hires": True, "hires_upscaler": "Latnt"}, "There is no upscaler “Latnt”"),
        ("txt2img", {"size": "2048x64", "hires": True, "hires_scale": 4}, "Hires would make 8192x256 pixels"),
        ("txt2img", {"filmstrip": "first"}, "The film strip wants numbers of steps"),
        ("img2img", {"image": "nothing"}, "There is no file with the id 'nothing'"),
        ("img2img", {"image": "words"}, "words.png is not a picture that can be read"),
        ("inpaint", {"image": "photo", "mask": "black"}, "The mask is empty. Paint over the part"),
        ("inpaint", {"image": "photo", "mask": "other"}, "The mask is 72x64, and the picture 64x64."),
    ],
)
def test_what_cannot_be_made_is_a_sentence(shelf: Path, tmp_path: Path, kind: str, asked: dict, said: str):
    files = {name: tmp_path / f"{name}.png" for name in ("photo", "black", "words", "other")}
    photo(files["photo"])
    painted(files["other"], (72, 64))
    Image.new("L", (64, 64)).save(files["black"])
    files["words"].write_text("no picture")
    with pytest.raises(InvalidRequest) as refused:
        run(context(shelf, tmp_path / "out", **files), kind, **asked)
    assert said in str(refused.value)


@pytest.mark.parametrize("prompt", ["((((", "a [b:c", "]] )) AND AND BREAK", "[a:b:99999999999999999999]", "(a:9999)", ""])
def test_no_prompt_is_an_error(shelf: Path, tmp_path: Path, prompt: str):
    (artifact,) = run(context(shelf, tmp_path), prompt=prompt).artifacts
    assert pixels(artifact.path).shape == (64, 64, 3)


def test_wrong_names_are_told_before_a_model_is_loaded(tmp_path: Path):
    with pytest.raises(InvalidRequest, match="There is no sampler"):
        run(context(tmp_path / "no models", tmp_path), sampler="Eular")


@pytest.mark.parametrize("where", ["steps", "txt2img"])
def test_a_full_disk_is_said_and_leaves_nothing(shelf: Path, tmp_path: Path, where: str, monkeypatch: pytest.MonkeyPatch):
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(*((save, "write_picture") if where == "steps" else (shutil, "copyfile")), full)
    settings = Settings(models_dir=shelf, outputs_dir=tmp_path, device="cpu")
    service = JobService(KINDS, Artifacts(tmp_path), settings, alone=True)
    try:
        job = service.wait(service.submit("txt2img", ASKED).id, 60)
    finally:
        service.close()
    assert (job.state, job.error_type) == (JobState.FAILED, StorageError.__name__)
    assert "is full. Free some space, then try again." in job.error
    assert [path for path in tmp_path.rglob("*") if path.suffix in (".png", ".part")] == []


# ---- crashes and cancelling


def crash(ctx: MemoryContext, what: str, name: str, kind: str = "txt2img", **asked: Any) -> None:
    """Run until this happens, and die."""

    def die(*happened: str) -> None:
        if happened == (what, name):
            raise Crash

    ctx._on = die
    with pytest.raises(Crash):
        run(ctx, kind, **asked)


@pytest.mark.parametrize(
    ("what", "step", "left"),
    [
        ("end", "means", ["means", "batch 0", "batch 1", "batch 2"]),
        ("begin", "batch 1", ["batch 1", "batch 2"]),
        ("end", "batch 1", ["batch 1", "batch 2"]),
    ],
)
def test_a_job_that_died_goes_on_where_it_was(shelf: Path, tmp_path: Path, what: str, step: str, left: list[str]):
    asked = {"batch_count": 3, "sampler": "Euler a", "filmstrip": "2", "variation": 0.5}
    whole = run(context(shelf, tmp_path / "whole"), **asked)
    ctx = context(shelf, tmp_path / "died")
    crash(ctx, what, step, **asked)
    again, seen = ctx.again(), []
    again.progress = lambda fraction, stage: seen.append((fraction, stage))
    result = run(again, **asked)
    assert again.begun == left
    begun = next(fraction for fraction, stage in seen if stage.startswith("denoising"))
    assert begun > (3 - len([one for one in left if one != "means"])) / 3, "what was done counts"
    assert made(result) == made(whole)
    how_fast = {"seconds": 0, "steps_per_second": 0}
    assert result.data | how_fast == whole.data | how_fast


def test_a_job_that_died_while_saving_needs_no_model_again(shelf: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    ctx = context(shelf, tmp_path)
    crash(ctx, "progress", "saving")
    monkeypatch.setattr(studio, "leased", None)
    assert run(ctx.again()).data["precision"] == "fp32"


def test_what_is_there_when_a_job_is_cancelled_is_kept(shelf: Path, tmp_path: Path):
    ctx = context(shelf, tmp_path)

    def stop(what: str, name: str) -> None:
        ctx.cancelled = ctx.cancelled or (what, name) == ("progress", "denoising, batch 2 of 3")

    ctx._on = stop
    result = run(ctx, batch_count=3)
    assert len(result.artifacts) == 2 and result.data["complete"] is False
    whole, partly = (infotext.read(text).facts for text in result.data["infotexts"])
    assert "Stopped early" not in whole and "Stopped early" in partly
    assert ctx.begun[-1] == "batch 1"


def skipping(ctx: MemoryContext, *stages: str) -> MemoryContext:
    """Skip whenever one of these is begun."""

    def on(what: str, name: str) -> None:
        ctx.skip = ctx.skip or (what == "progress" and name in stages)

    ctx._on = on
    return ctx


def test_a_skipped_picture_is_not_kept_and_the_others_are_as_they_would_be(shelf: Path, tmp_path: Path):
    asked = {"batch_count": 3, "filmstrip": "1"}
    whole = made(run(context(shelf, tmp_path / "whole"), **asked))
    ctx = skipping(context(shelf, tmp_path / "skipped"), "denoising, batch 2 of 3")
    result = run(ctx, **asked)
    assert made(result) == [whole[0], whole[2], whole[3], whole[5]]
    assert result.data["seeds"] == [5, 7] and result.data["skipped"] == 1 and result.data["complete"] is False
    assert ctx.warnings == ["Skipped pictures, which were not kept: 1."]


def test_when_every_picture_is_skipped_nothing_is_kept(shelf: Path, tmp_path: Path):
    stages = [f"denoising, batch {number} of 2" for number in (1, 2)]
    with pytest.raises(Cancelled, match="Every picture was skipped"):
        run(skipping(context(shelf, tmp_path), *stages), batch_count=2)


def test_models_in_memory_are_told_and_let_go(shelf: Path, tmp_path: Path):
    devices.unload()
    run(context(shelf, tmp_path))
    (held,) = devices.loaded()
    assert (held.name, held.device) == ("first", "cpu") and held.bytes > 1000
    devices.unload()
    assert devices.loaded() == []


def test_cancelled_before_anything_is_there_it_keeps_nothing(shelf: Path, tmp_path: Path):
    ctx = context(shelf, tmp_path)
    ctx.cancelled = True
    with pytest.raises(Cancelled):
        run(ctx)
    assert list(tmp_path.glob("*.png")) == []


# ---- the way back


HIRES = {"hires": True, "hires_scale": 1.5, "hires_steps": 2, "strength": 0.6, "hires_upscaler": "Lanczos"}


@pytest.mark.parametrize(
    ("kind", "asked"),
    [
        ("txt2img", {"prompt": 'a "quoted", word: yes\nNegative prompt: not this\nSteps: 3', "negative": "a\nb"}),
        ("txt2img", {"sampler": "Euler a", "schedule": "Beta", "cfg": 3.3, "tiling": True, "clip_skip": 2, "filmstrip": "1, 2"}),
        ("txt2img", {"variation": 0.25, "batch_count": 2, "size": None}),
        ("txt2img", HIRES),
        ("txt2img", {**HIRES, "hires_size": "96x80"}),
        ("img2img", {"strength": 0.7, "resize": "crop", "size": "64x96"}),
        ("img2img", {"size": None, "resize": "latent"}),
        ("inpaint", {"mask_blur": 2, "mask_invert": True, "content": "latent noise", "strength": 0.9, "size": None}),
        ("inpaint", {"only_masked": True, "padding": 8, "content": "fill", "size": None, "model": "painter"}),
    ],
)
def test_a_file_gives_back_the_request_that_makes_it_again(shelf: Path, tmp_path: Path, kind: str, asked: dict):
    files = {"photo": photo(tmp_path / "photo.png", (100, 70)), "mask": painted(tmp_path / "mask.png", (100, 70))}
    given = {"txt2img": {}, "img2img": {"image": "photo"}, "inpaint": {"image": "photo", "mask": "mask"}}[kind]
    first = run(context(shelf, tmp_path / "first", **files), kind, **given, **asked)
    artifact = first.artifacts[len(first.data["seeds"]) - 1]
    fields = BY_NAME[kind].recall(artifact.path)
    request = validated(BY_NAME[kind].request, {**fields, **given})
    again = context(shelf, tmp_path / "again", seed=fields["seed"], **files)
    (same, *_) = BY_NAME[kind].handler(again, request).artifacts
    assert np.array_equal(pixels(same.path), pixels(artifact.path))
    assert BY_NAME[kind].recall(same.path) == fields
    unsaid = {"model", "batch_count", "size", "filmstrip"} | ({"hires_scale"} if "hires_size" in asked else set())
    wanted = {name: value for name, value in asked.items() if name not in unsaid}
    assert {name: fields[name] for name in wanted} == wanted


@pytest.mark.parametrize("suffix", ["jpg", "webp"])
def test_other_kinds_of_file_give_it_back_too(shelf: Path, tmp_path: Path, suffix: str):
    (artifact,) = run(context(shelf, tmp_path)).artifacts
    other = tmp_path / f"other.{suffix}"
    other.write_bytes(infotext.embed(Image.fromarray(pixels(artifact.path)), infotext.extract(artifact.path), suffix))
    assert BY_NAME["txt2img"].recall(other) == BY_NAME["txt2img"].recall(artifact.path) | {"format": suffix}


def test_a_file_is_of_one_kind_only(shelf: Path, tmp_path: Path):
    (artifact,) = run(context(shelf, tmp_path)).artifacts
    assert [name for name, kind in BY_NAME.items() if kind.recall and kind.recall(artifact.path)] == ["txt2img"]


THEIRS = """a cat, (sharp:1.2)
Negative prompt: dog
Steps: 24, Sampler: Euler a, CFG scale: 7, Seed: 42, Size: 512x768, Model hash: 0123456789, Model: dream, {}Version: v1.10.1"""


@pytest.mark.parametrize(
    ("more", "kind"),
    [
        ("", "txt2img"),
        ("Denoising strength: 0.5, Hires upscale: 2, Hires upscaler: Latent, ", "txt2img"),
        ("Denoising strength: 0.5, ", "img2img"),
        ("Denoising strength: 0.5, Mask blur: 4, ", "inpaint"),
    ],
)
def test_files_of_a1111_are_read_by_the_form_they_belong_to(tmp_path: Path, more: str, kind: str):
    file = tmp_path / "theirs.png"
    file.write_bytes(infotext.embed(Image.new("RGB", (64, 64)), THEIRS.format(more)))
    found = {name: one.recall(file) for name, one in BY_NAME.items() if one.recall and one.recall(file)}
    assert list(found) == [kind]
    fields = found[kind]
    assert fields["prompt"] == "a cat, (sharp:1.2)" and fields["model"] == "dream [0123456789]"
    assert (fields["steps"], fields["cfg"], fields["size"], fields["seed"]) == (24, 7.0, "512x768", 42)


def test_values_that_cannot_be_used_here_are_left_out(tmp_path: Path):
    file = tmp_path / "theirs.png"
    text = "a cat\nSteps: 4000, Sampler: Euler, CFG scale: nan, Seed: -7, Size: 513x513, Clip skip: 2"
    file.write_bytes(infotext.embed(Image.new("RGB", (64, 64)), text))
    fields = BY_NAME["txt2img"].recall(file)
    expected = {"prompt": "a cat", "negative": "", "sampler": "Euler", "clip_skip": 2, "tiling": False, "hires": False}
    assert fields == expected | {"format": "png"}


@pytest.mark.parametrize("fact", ["Own size: True", "Galatea: img2img", "X Type: 7", "Model hash: x", "Hires upscale: x"])
def test_strange_facts_do_no_harm(tmp_path: Path, fact: str):
    file = tmp_path / "strange.png"
    text = f"a\nSteps: 1, Sampler: Euler, CFG scale: 2, {fact}"
    file.write_bytes(infotext.embed(Image.new("RGB", (8, 8)), text))
    (fields,) = (fields for kind in KINDS if kind.recall and (fields := kind.recall(file)))
    assert fields["steps"] == 1 and "size" not in fields


@pytest.mark.parametrize("content", [b"", b"\x89PNG broken", b"no picture", None])
def test_strange_files_give_nothing_back(tmp_path: Path, content: bytes | None):
    file = tmp_path / "strange.png"
    if content is not None:
        file.write_bytes(content)
    assert not any(kind.recall and kind.recall(file) for kind in KINDS)
    photo(file)
    assert not any(kind.recall and kind.recall(file) for kind in KINDS)


# ---- kinds of files


@pytest.mark.parametrize("kind", ["jpg", "webp"])
def test_every_kind_of_file_carries_its_settings(models: Path, tmp_path: Path, kind: str):
    png = run(context(models, tmp_path / "png"), filmstrip="1,2").artifacts
    other = run(context(models, tmp_path / kind), filmstrip="1,2", format=kind).artifacts
    assert [artifact.path.suffix for artifact in other] == [f".{kind}"] * 2
    for one, same in zip(png, other, strict=True):
        assert infotext.extract(same.path) == infotext.extract(one.path) is not None
        assert np.abs(coarse(same.path) - coarse(one.path)).max() < 40, "the same picture, but for what such files lose"
    assert BY_NAME["txt2img"].recall(other[0].path) == BY_NAME["txt2img"].recall(png[0].path) | {"format": kind}


def test_the_name_asked_for_has_to_fit_the_kind_of_file():
    kind = BY_NAME["txt2img"]
    kind.check_suffix(Path("x.JPG"), kind.request(format="jpg"))
    with pytest.raises(InvalidRequest, match=r"\.png file: let the name x\.jpg"):
        kind.check_suffix(Path("x.jpg"), kind.request())


def test_prompts_too_long_for_a_jpeg_are_refused_before_the_work(models: Path, tmp_path: Path):
    long = {"prompt": "\N{GRINNING FACE}" * 8000, "negative": "\N{GRINNING FACE}" * 8000}
    with pytest.raises(InvalidRequest, match="JPEG"):
        run(context(models, tmp_path), format="jpg", **long)
