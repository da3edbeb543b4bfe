"""Loading checkpoints: the same weights as diffusers' own loader, without the network, in no more memory than they take."""

from __future__ import annotations

import gc
import json
import socket
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from safetensors.torch import load_file, save_file

from tests import checkpoints
from webui.errors import OutOfMemory, UnsupportedModel
from webui.imaging import load as loading
from webui.imaging import origins
from webui.imaging.load import Model, load, load_part, swap
from webui.weights.catalog import Catalog, Entry
from webui.weights.detect import Found

PROJECT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module")
def configs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return checkpoints.tiny_configs(tmp_path_factory.mktemp("configs"))


@pytest.fixture(autouse=True)
def without_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_arguments: Any, **_more: Any) -> None:
        raise AssertionError("the network was used")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


def models(tmp_path: Path) -> Path:
    for name in ("Stable-diffusion", "VAE"):
        (tmp_path / name).mkdir(exist_ok=True)
    return tmp_path


def entry_of(folder: Path, name: str, **options: Any) -> Entry:
    return Catalog(folder, **options).find(name)


def assert_same(ours: Any, theirs: Any, *, dtype: torch.dtype = torch.float32) -> None:
    """Bit for bit, and the same names."""
    mine, other = ours.state_dict(), theirs.state_dict()
    assert list(mine) == list(other)
    for name, tensor in mine.items():
        assert tensor.dtype == dtype and torch.equal(tensor, other[name].to(dtype)), name


def assert_holds(model: Model, made: dict[str, Any], **options: Any) -> None:
    assert_same(model.unet, made["unet"], **options)
    assert_same(used(model.vae), made["vae"], **options)
    for encoder, part in zip(model.text_encoders, ("text_encoder", "text_encoder_2"), strict=False):
        assert_same(encoder, made[part], **options)


@torch.no_grad()
def used(vae: Any) -> Any:
    """The VAE after it has seen a picture and made one, which takes what had waited in the file."""
    vae.decode(vae.encode(torch.zeros(1, 3, 16, 16, dtype=vae.dtype)).latent_dist.mode())
    return vae


EVERY = [("sd1", False), ("sd1", True), ("sd2", False), ("sd2", True), ("sdxl", False), ("sdxl", True)]


@pytest.mark.parametrize(("architecture", "inpaint"), EVERY)
def test_a_single_file_loads_as_it_was_saved(tmp_path: Path, configs: Path, architecture: str, inpaint: bool):
    folder = models(tmp_path)
    made = checkpoints.single_file(folder / "Stable-diffusion" / "a.safetensors", architecture, inpaint=inpaint)
    model = load(entry_of(folder, "a"), configs=configs)
    assert (model.architecture, model.inpaint) == (architecture, inpaint)
    assert len(model.text_encoders) == len(model.tokenizers) == (2 if architecture == "sdxl" else 1)
    assert_holds(model, made)
    assert not any(p.requires_grad or p.is_meta for p in model.unet.parameters()) and not model.unet.training


@pytest.mark.parametrize(("architecture", "inpaint"), EVERY)
def test_the_weights_are_those_that_diffusers_own_loader_reads(tmp_path: Path, configs: Path, architecture: str, inpaint: bool):
    import diffusers

    folder = models(tmp_path)
    path = folder / "Stable-diffusion" / "a.safetensors"
    checkpoints.single_file(path, architecture, inpaint=inpaint, dtype=torch.float16)
    name = "XL" if architecture == "sdxl" else "Inpaint" if inpaint else ""
    described = checkpoints.config_folder(tmp_path / "described", checkpoints.numbers(architecture, inpaint=inpaint))
    pipeline = getattr(diffusers, f"StableDiffusion{name}Pipeline")
    theirs = pipeline.from_single_file(str(path), config=str(described), torch_dtype=torch.float16, local_files_only=True)
    ours = load(entry_of(folder, "a"), precision="fp16", configs=configs)
    for mine, other in [(ours.unet, theirs.unet), (ours.vae, theirs.vae), (ours.text_encoders[0], theirs.text_encoder)]:
        assert_same(mine, other, dtype=torch.float16)
    if architecture == "sdxl":
        assert_same(ours.text_encoders[1], theirs.text_encoder_2, dtype=torch.float16)
    words = "a photo of a cat, éclair 猫"
    assert ours.tokenizers[0](words).input_ids == theirs.tokenizer(words).input_ids


@pytest.mark.parametrize("architecture", checkpoints.ARCHITECTURES)
def test_a_diffusers_folder_loads_as_it_was_saved(tmp_path: Path, architecture: str):
    folder = models(tmp_path)
    made = checkpoints.diffusers_folder(folder / "Stable-diffusion" / "mine", architecture, inpaint=True)
    model = load(entry_of(folder, "mine"))
    # SD 2.x is told from 1.x by the width of its prompts, which the tiny one has not.
    assert model.architecture == ("sd1" if architecture == "sd2" else architecture) and model.inpaint
    assert_holds(model, made)
    assert model.tokenizers[0]("a photo of a cat").input_ids == [49406, 320, 1125, 539, 320, 2368, 49407]


def test_a_diffusers_folder_in_pieces_and_halves(tmp_path: Path):
    folder = models(tmp_path)
    home = folder / "Stable-diffusion" / "mine"
    made = checkpoints.diffusers_folder(home, "sd1")
    (home / "unet" / "diffusion_pytorch_model.safetensors").unlink()
    made["unet"].save_pretrained(home / "unet", max_shard_size="200KB")
    made["vae"].half().save_pretrained(home / "vae", variant="fp16")
    assert (home / "unet" / "diffusion_pytorch_model.safetensors.index.json").is_file()
    assert_same(load(entry_of(folder, "mine")).unet, made["unet"])
    assert_same(load(entry_of(folder, "mine"), precision="fp16").vae, made["vae"], dtype=torch.float16)


@pytest.mark.parametrize(
    ("saved", "precision"), [("float32", "fp16"), ("float16", "fp32"), ("float16", "bf16"), ("bfloat16", "fp16")]
)
def test_the_precision_is_the_chosen_one_whatever_the_file_has(tmp_path: Path, configs: Path, saved: str, precision: str):
    folder = models(tmp_path)
    dtype = getattr(torch, saved)
    made = checkpoints.single_file(folder / "Stable-diffusion" / "a.safetensors", "sd1", dtype=dtype)
    model = load(entry_of(folder, "a"), precision=precision, configs=configs)
    assert model.dtype == loading.PRECISIONS[precision]
    for network in made.values():
        network.to(dtype)
    assert_holds(model, made, dtype=model.dtype)


def test_each_half_of_a_vae_takes_memory_when_it_is_used(tmp_path: Path, configs: Path):
    folder = models(tmp_path)
    made = checkpoints.single_file(folder / "Stable-diffusion" / "a.safetensors", "sd1", dtype=torch.float16)
    model = load(entry_of(folder, "a"), configs=configs)
    size, halves = model.size, (model.vae.encoder.mid_block, model.vae.decoder.mid_block)

    def kinds() -> list[torch.dtype]:
        return [next(half.parameters()).dtype for half in halves]

    assert kinds() == [torch.float16, torch.float16] and model.vae.dtype == torch.float32
    latents = torch.randn(1, 4, 4, 4)
    with torch.no_grad():
        picture = model.vae.decode(latents).sample
        assert kinds() == [torch.float16, torch.float32]
        assert torch.equal(picture, made["vae"].half().float().decode(latents).sample)
        model.vae.encode(picture)
    assert kinds() == [torch.float32, torch.float32] and model.size == size


def test_names_that_merging_programs_leave_away_are_understood(tmp_path: Path, configs: Path):
    folder = models(tmp_path)
    path = folder / "Stable-diffusion" / "a.safetensors"
    made = checkpoints.single_file(path, "sd1")
    tensors = load_file(path)
    short = {name.replace("transformer.text_model.", "transformer."): tensor for name, tensor in tensors.items()}
    short["cond_stage_model.transformer.embeddings.position_ids"] = torch.arange(77)[None]
    short["model_ema.decay"] = torch.tensor(0.5)
    save_file(short, path)
    assert_holds(load(entry_of(folder, "a"), configs=configs), made)


def test_the_last_layer_of_sd2s_text_encoder_is_left_in_the_file(tmp_path: Path, configs: Path):
    folder = models(tmp_path)
    path = folder / "Stable-diffusion" / "a.safetensors"
    made = checkpoints.single_file(path, "sd2")
    tensors = load_file(path)
    more = {n.replace(".resblocks.1.", ".resblocks.2."): t.clone() for n, t in tensors.items() if ".resblocks.1." in n}
    save_file(tensors | more, path)
    assert_holds(load(entry_of(folder, "a"), configs=configs), made)


def test_a_separate_vae_takes_the_place_of_the_checkpoints_own(tmp_path: Path, configs: Path):
    folder = models(tmp_path)
    made = checkpoints.single_file(folder / "Stable-diffusion" / "a.safetensors", "sdxl")
    other = checkpoints.networks(checkpoints.numbers("sdxl"), seed=1)["vae"]
    save_file({n: t.contiguous() for n, t in checkpoints.ldm_vae(other.state_dict()).items()}, folder / "VAE" / "ldm.safetensors")
    save_file(other.state_dict(), folder / "VAE" / "diffusers.safetensors")
    catalog = Catalog(folder)
    for name in ("ldm", "diffusers"):
        model = load(catalog.find("a"), vae=catalog.find_vae(name), configs=configs)
        assert_same(model.vae, other)
        assert_same(model.unet, made["unet"])
        assert model.vae.config["scaling_factor"] == 0.13025


def test_a_checkpoint_without_a_vae_loads_with_a_separate_one(tmp_path: Path, configs: Path):
    folder = models(tmp_path)
    made = checkpoints.single_file(folder / "Stable-diffusion" / "a.safetensors", "sd1", without="first_stage_model.")
    save_file(
        {n: t.contiguous() for n, t in checkpoints.ldm_vae(made["vae"].state_dict()).items()}, folder / "VAE" / "v.safetensors"
    )
    catalog = Catalog(folder)
    with pytest.raises(UnsupportedModel, match="has no VAE"):
        load(catalog.find("a"), configs=configs)
    assert_holds(load(catalog.find("a"), vae=catalog.find_vae("v"), configs=configs), made)


@pytest.mark.parametrize("part", loading.PARTS)
def test_each_part_is_swapped_alone(tmp_path: Path, configs: Path, part: str):
    folder = models(tmp_path)
    checkpoints.single_file(folder / "Stable-diffusion" / "a.safetensors", "sd1", seed=0)
    made = checkpoints.single_file(folder / "Stable-diffusion" / "b.safetensors", "sd1", seed=1, inpaint=True)
    model = load(entry_of(folder, "a"), configs=configs)
    changed = swap(model, part, entry_of(folder, "b"), configs=configs)
    same = [one for one in loading.PARTS if getattr(changed, one) is getattr(model, one)]
    expected = {one for one in loading.PARTS if one != part}
    assert {*same} == expected - ({"scheduler_config"} if part == "unet" else set())
    if part in ("unet", "vae"):
        assert_same(getattr(changed, part), made[part])
    assert changed.inpaint == (part == "unet") and not model.inpaint


def test_parts_of_another_architecture_are_refused(tmp_path: Path, configs: Path):
    folder = models(tmp_path)
    checkpoints.single_file(folder / "Stable-diffusion" / "a.safetensors", "sd1")
    checkpoints.single_file(folder / "Stable-diffusion" / "b.safetensors", "sdxl")
    model = load(entry_of(folder, "a"), configs=configs)
    with pytest.raises(UnsupportedModel, match=r"b\.safetensors is a checkpoint \(SDXL\), and a\.safetensors is SD 1\.x"):
        swap(model, "unet", entry_of(folder, "b"), configs=configs)


@pytest.mark.parametrize("inner", [True, False])
def test_a_file_with_a_unet_alone_is_no_checkpoint_and_can_be_swapped_in(tmp_path: Path, configs: Path, inner: bool):
    folder = models(tmp_path)
    checkpoints.single_file(folder / "Stable-diffusion" / "a.safetensors", "sdxl")
    unet = checkpoints.networks(checkpoints.numbers("sdxl"), seed=1)["unet"]
    named = {f"model.diffusion_model.{n}": t for n, t in checkpoints.ldm_unet(unet.state_dict(), 2).items()}
    save_file(unet.state_dict() if inner else named, folder / "Stable-diffusion" / "b.safetensors")
    model, entry = load(entry_of(folder, "a"), configs=configs), _as("sdxl", entry_of(folder, "b"))
    with pytest.raises(UnsupportedModel, match="has no text encoder"):
        load(entry, configs=configs)
    with pytest.raises(UnsupportedModel, match="has no text encoder"):
        swap(model, "text_encoders", entry, configs=configs)
    assert_same(swap(model, "unet", entry, configs=configs).unet, unet)


def _as(architecture: str, entry: Entry) -> Entry:
    """A tiny UNet's prompts have not the width that tells its architecture."""
    found = Found("checkpoint", architecture, parts=("unet",))
    return replace(entry, found=found, problem=f"{entry.name} has no text encoder")


def test_what_a_unet_was_trained_on_goes_with_it(tmp_path: Path, configs: Path):
    folder = models(tmp_path)
    marks = {"v_pred": torch.tensor([]), "ztsnr": torch.tensor([])}
    checkpoints.single_file(folder / "Stable-diffusion" / "a.safetensors", "sdxl", add=marks)
    checkpoints.single_file(folder / "Stable-diffusion" / "b.safetensors", "sdxl")
    trained, plain = (load(entry_of(folder, name), configs=configs) for name in "ab")

    def says(model: Model) -> tuple[Any, Any]:
        return model.scheduler_config["prediction_type"], bool(model.scheduler_config.get("rescale_betas_zero_snr"))

    assert says(swap(plain, "unet", entry_of(folder, "a"), configs=configs)) == ("v_prediction", True)
    assert says(swap(trained, "unet", entry_of(folder, "b"), configs=configs)) == ("epsilon", False)
    assert says(swap(plain, "scheduler_config", entry_of(folder, "a"), configs=configs)) == ("epsilon", False)
    assert says(swap(trained, "scheduler_config", entry_of(folder, "b"), configs=configs)) == ("v_prediction", True)


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"cross_attention_dim": 12}, "UNet and text encoder of mine do not fit"),
        ({"in_channels": 5}, "UNet and VAE of mine do not fit"),
        ({"block_out_channels": "wide"}, "config.json makes no sense"),
    ],
)
def test_a_folder_whose_configs_contradict_each_other_is_refused(tmp_path: Path, change: dict[str, Any], expected: str):
    home = models(tmp_path) / "Stable-diffusion" / "mine"
    checkpoints.diffusers_folder(home, "sd1")
    config = checkpoints.numbers("sd1")["unet"] | change
    if "block_out_channels" not in change:
        network: Any = UNet2DConditionModel.from_config(config)
        network.save_pretrained(home / "unet")
    (home / "unet" / "config.json").write_text(json.dumps(config))
    with pytest.raises(UnsupportedModel, match=expected):
        load(entry_of(tmp_path, "mine"))


def test_a_folders_tokenizer_reads_prompts_as_text_and_is_refused_when_damaged(tmp_path: Path):
    home = models(tmp_path) / "Stable-diffusion" / "mine"
    checkpoints.diffusers_folder(home, "sdxl")
    second = load_part(entry_of(tmp_path, "mine"), "tokenizers")[1]
    assert second("hello!", add_special_tokens=False).input_ids == [3306, 256]
    for damaged in (home / "tokenizer").iterdir():
        damaged.write_text("{}")
    with pytest.raises(UnsupportedModel, match="The tokenizer of mine cannot be read"):
        load_part(entry_of(tmp_path, "mine"), "tokenizers")


def test_a_text_encoders_config_cannot_name_code(tmp_path: Path):
    home = models(tmp_path) / "Stable-diffusion" / "mine"
    made = checkpoints.diffusers_folder(home, "sd1")
    path = home / "text_encoder" / "config.json"
    evil = {"attn_implementation": "some/kernel", "_attn_implementation": "some/kernel", "auto_map": {"AutoModel": "evil.Model"}}
    path.write_text(json.dumps(json.loads(path.read_text()) | evil))
    assert_holds(load(entry_of(tmp_path, "mine")), made)


def test_one_part_is_loaded_without_the_others(tmp_path: Path, configs: Path):
    folder = models(tmp_path)
    made = checkpoints.single_file(folder / "Stable-diffusion" / "a.safetensors", "sdxl")
    entry = entry_of(folder, "a")
    assert_same(load_part(entry, "text_encoders", configs=configs)[1], made["text_encoder_2"])
    assert load_part(entry, "scheduler_config", configs=configs)["beta_schedule"] == "scaled_linear"


def test_what_is_predicted_is_read_from_marks_or_seen_or_said(tmp_path: Path, configs: Path):
    folder = models(tmp_path) / "Stable-diffusion"
    marked = {"v_pred": torch.tensor([]), "ztsnr": torch.tensor([])}
    checkpoints.single_file(folder / "noobai.safetensors", "sdxl", add=marked)
    checkpoints.single_file(folder / "plain.safetensors", "sdxl")
    checkpoints.single_file(folder / "two.safetensors", "sd2")
    written = {"modelspec.prediction_type": "v"}
    checkpoints.single_file(folder / "spec.safetensors", "sd2", metadata=written)
    catalog = Catalog(tmp_path)

    def predicted(name: str, **options: Any) -> tuple[str, object]:
        model = load(catalog.find(name), configs=configs, **options)
        assert model.prediction == model.scheduler_config["prediction_type"]
        return model.prediction, model.scheduler_config.get("rescale_betas_zero_snr")

    assert predicted("noobai") == ("v_prediction", True)
    assert predicted("plain") == ("epsilon", None)
    assert predicted("spec") == ("v_prediction", None)
    assert predicted("plain", prediction="v_prediction") == ("v_prediction", None)
    assert catalog.find("two").found.prediction is None and predicted("two")[0] in ("epsilon", "v_prediction")


@pytest.mark.parametrize(("answer", "expected"), [(0.5, "epsilon"), (-2.0, "v_prediction")])
def test_an_sd2_unet_that_answers_noise_with_its_opposite_predicts_v(answer: float, expected: str):
    unet = checkpoints.networks(checkpoints.numbers("sd2"))["unet"]
    unet.conv_out.weight.data.zero_()
    unet.conv_out.bias.data.fill_(answer)
    assert loading._probe(unet) == expected


def test_a_diffusers_folder_says_what_it_predicts(tmp_path: Path):
    folder = models(tmp_path)
    checkpoints.diffusers_folder(
        folder / "Stable-diffusion" / "v", "sd1", prediction_type="v_prediction", rescale_betas_zero_snr=True
    )
    model = load(entry_of(folder, "v"))
    assert model.prediction == "v_prediction" and model.scheduler_config["rescale_betas_zero_snr"]


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (
            lambda t: t.pop("model.diffusion_model.out.2.bias"),
            r"UNet of a.safetensors is not that of SD 1.x \(1 tensors are missing, conv_out.bias",
        ),
        (lambda t: t.update({"model.diffusion_model.more.weight": torch.zeros(1)}), "have no place, more.weight"),
        (
            lambda t: t.update({"model.diffusion_model.out.2.bias": torch.zeros(7)}),
            r"conv_out.bias is float32 \(7,\), and should be \(4,\)",
        ),
        (
            lambda t: t.update({"model.diffusion_model.out.2.bias": torch.zeros(4, dtype=torch.int8)}),
            r"conv_out.bias is int8 \(4,\)",
        ),
        (
            lambda t: t.update({"first_stage_model.encoder.mid.attn_1.q.weight": torch.zeros(16, 16, 0, 0)}),
            r"to_q.weight is float32 \(16, 16, 0, 0\)",
        ),
        (lambda t: t.pop("first_stage_model.decoder.conv_out.bias"), "VAE of a.safetensors"),
    ],
)
def test_weights_that_do_not_fit_are_refused_with_the_place(tmp_path: Path, configs: Path, change: Any, expected: str):
    folder = models(tmp_path)
    path = folder / "Stable-diffusion" / "a.safetensors"
    checkpoints.single_file(path, "sd1")
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path)
    with pytest.raises(UnsupportedModel, match=expected):
        load(entry_of(folder, "a"), configs=configs)


@pytest.mark.parametrize(
    ("name", "tensor"),
    [
        ("transformer.resblocks.0.attn.in_proj_weight", torch.zeros(())),
        ("transformer.resblocks.0.attn.in_proj_weight", torch.zeros(2)),
        ("text_projection", torch.zeros(2, 2, 2)),
    ],
)
def test_a_text_encoder_of_odd_shapes_is_refused(tmp_path: Path, configs: Path, name: str, tensor: torch.Tensor):
    path = models(tmp_path) / "Stable-diffusion" / "a.safetensors"
    checkpoints.single_file(path, "sdxl", add={f"conditioner.embedders.1.model.{name}": tensor})
    with pytest.raises(UnsupportedModel, match=r"text encoder of a\.safetensors is not that of SDXL"):
        load(entry_of(tmp_path, "a"), configs=configs)


@pytest.mark.parametrize(
    ("part", "key", "kind"), [("vae", "_class_name", "AutoencoderTiny"), ("text_encoder", "architectures", ["T5"])]
)
def test_a_part_of_another_class_is_refused(tmp_path: Path, part: str, key: str, kind: Any):
    folder = models(tmp_path)
    checkpoints.diffusers_folder(folder / "Stable-diffusion" / "mine", "sd1")
    path = folder / "Stable-diffusion" / "mine" / part / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {key: kind}))
    with pytest.raises(UnsupportedModel, match=r"of mine is not that of SD 1\.x \(it is a (AutoencoderTiny|T5), not a "):
        load(entry_of(folder, "mine"))


@pytest.mark.parametrize(
    "error", [torch.OutOfMemoryError("CUDA out of memory"), RuntimeError("can't allocate memory"), MemoryError()]
)
def test_too_little_memory_is_said(tmp_path: Path, configs: Path, monkeypatch: pytest.MonkeyPatch, error: Exception):
    def fail(*_arguments: Any) -> None:
        raise error

    folder = models(tmp_path)
    checkpoints.single_file(folder / "Stable-diffusion" / "a.safetensors", "sd1")
    monkeypatch.setattr(origins, "_taken", fail)
    with pytest.raises(OutOfMemory, match=r"too little memory on cpu for a\.safetensors"):
        load(entry_of(folder, "a"), configs=configs)


def test_a_file_with_a_problem_is_refused_with_its_sentence(tmp_path: Path, configs: Path):
    folder = models(tmp_path)
    path = folder / "Stable-diffusion" / "a.safetensors"
    checkpoints.single_file(path, "sd1")
    path.write_bytes(path.read_bytes()[:-1000])
    with pytest.raises(UnsupportedModel, match="breaks off"):
        load(entry_of(folder, "a"), configs=configs)


def test_a_pickle_loads_when_it_is_allowed(tmp_path: Path, configs: Path):
    folder = models(tmp_path)
    path = folder / "Stable-diffusion" / "a.safetensors"
    made = checkpoints.single_file(path, "sd1")
    torch.save({"state_dict": load_file(path), "global_step": 5}, path.with_name("b.ckpt"))
    path.unlink()
    with pytest.raises(UnsupportedModel, match="allow-pickles"):
        load(entry_of(folder, "b"), configs=configs)
    assert_holds(load(entry_of(folder, "b", allow_pickles=True), allow_pickles=True, configs=configs), made)


def test_what_is_written_into_a_loaded_model_does_not_reach_the_file(tmp_path: Path, configs: Path):
    folder = models(tmp_path)
    path = folder / "Stable-diffusion" / "a.safetensors"
    checkpoints.single_file(path, "sd1")
    before = path.read_bytes()
    model = load(entry_of(folder, "a"), configs=configs)
    for tensor in model.unet.parameters():
        tensor.data.zero_()
    assert path.read_bytes() == before


def test_the_size_is_that_of_the_weights(tmp_path: Path, configs: Path):
    folder = models(tmp_path)
    path = folder / "Stable-diffusion" / "a.safetensors"
    checkpoints.single_file(path, "sd1", dtype=torch.float16)
    entry = entry_of(folder, "a")
    half, whole = load(entry, precision="fp16", configs=configs), load(entry, configs=configs)
    assert half.size == pytest.approx(entry.found.bytes, rel=0.01) and whole.size == pytest.approx(2 * half.size, rel=0.01)


PARAMETERS = {
    "sd1": (859_520_964, 83_653_863, 123_060_480),
    "sd2": (865_910_724, 83_653_863, 340_387_840),
    "sdxl": (2_567_463_684, 83_653_863, 123_060_480, 694_659_840),
}
"""Published counts of UNet, VAE and text encoders."""


@pytest.mark.parametrize("architecture", checkpoints.ARCHITECTURES)
def test_the_shipped_numbers_build_networks_of_the_published_sizes(architecture: str):
    with loading.no_memory():
        made = checkpoints.networks(checkpoints.numbers(architecture, full=True))
    assert tuple(sum(p.numel() for p in network.parameters()) for network in made.values()) == PARAMETERS[architecture]


def test_the_tokenizer_is_clips():
    tokenizer = origins.clip_tokenizer(loading.CONFIGS / "tokenizer" / "merges.txt.gz", "!")
    assert tokenizer("a photo of a cat").input_ids == [49406, 320, 1125, 539, 320, 2368, 49407]
    assert tokenizer("A  Photo\nof a CAT").input_ids == [49406, 320, 1125, 539, 320, 2368, 49407]
    assert len(tokenizer) == 49408 and tokenizer.pad_token_id == 0 and tokenizer.model_max_length == 77
    assert (
        tokenizer.decode(tokenizer("éclair, 2 naïve cafés", add_special_tokens=False).input_ids).replace(" ", "")
        == "éclair,2naïvecafés"
    )
    # SD 2.x and SDXL pad with "!": one that was written is a word all the same, as it was in training.
    assert tokenizer("hello!", add_special_tokens=False).input_ids == [3306, 256]


_CHILD = """
import socket, sys, time
def refuse(*a, **k): raise OSError("blocked")
socket.socket.connect = refuse; socket.getaddrinfo = refuse
from pathlib import Path
import torch
from diffusers import EulerDiscreteScheduler
from webui.imaging.denoise import denoise
from webui.imaging.encode import Conditioner
from webui.imaging.load import load
from webui.weights.catalog import Catalog
folder, precision, side = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
start = time.perf_counter()
model = load(Catalog(folder).find("full"), precision=precision)
print("loaded", model.size, f"{time.perf_counter() - start:.1f}", flush=True)
sys.stdin.readline()
guides = Conditioner(model).conditionings("", "", 1)
scheduler = EulerDiscreteScheduler.from_config(model.scheduler_config)
scheduler.set_timesteps(1)
sizes = torch.tensor([[512, 512, 0, 0, 512, 512]], dtype=model.dtype) if model.architecture == "sdxl" else None
noise = torch.randn(1, 4, side, side).to(model.dtype) * scheduler.init_noise_sigma
denoise(model.unet, scheduler, noise, guides, 7.0, time_ids=sizes)
print("stepped", "once", f"{time.perf_counter() - start:.1f}", flush=True)
sys.stdin.readline()
"""


def anonymous(process: int) -> int:
    """RssAnon of a process in bytes; 0 when it has ended."""
    try:
        lines = Path(f"/proc/{process}/status").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("RssAnon")), 0)


def watched(process: subprocess.Popen[str]) -> tuple[list[str], int]:
    """The next line that the process says, and its highest RssAnon until then."""
    assert process.stdout and process.stdin
    said, output = [], process.stdout
    listener = threading.Thread(target=lambda: said.extend(output.readline().split()))
    listener.start()
    peak = 0
    while listener.is_alive():
        peak = max(peak, anonymous(process.pid))
        time.sleep(0.005)
    assert said, "the process ended early"
    process.stdin.write("\n")
    process.stdin.flush()
    return said, peak


@pytest.mark.long
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize(
    ("architecture", "precision", "side"),
    # A step of 512 pixels in fp16 takes a CPU ten minutes: 128 pixels.
    [("sd1", "fp16", 16), ("sd1", "fp32", 64), ("sdxl", "fp16", 16)],
)
def test_a_model_of_full_size_takes_its_own_size_in_memory(tmp_path: Path, architecture: str, precision: str, side: int):
    """Anonymous memory of the whole process: until prompts can be encoded, and until the first step with guidance has ended."""
    folder = models(tmp_path)
    path = folder / "Stable-diffusion" / "full.safetensors"
    checkpoints.full_size(path, architecture)
    gc.collect()
    pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True, "cwd": PROJECT}
    try:
        with subprocess.Popen([sys.executable, "-c", _CHILD, str(folder), precision, str(side)], **pipes) as process:
            loaded, at_load = watched(process)
            stepped, at_step = watched(process)
    finally:
        path.unlink()
    size = int(loaded[1])
    assert (loaded[0], stepped[0], process.returncode) == ("loaded", "stepped", 0)
    print(
        f"\n{architecture} {precision}: {size / 1e9:.2f} GB in {loaded[2]} s; RssAnon {at_load / size:.3f}, "
        f"to the step {at_step / size:.3f}"
    )
    assert max(at_load, at_step) <= 1.15 * size
