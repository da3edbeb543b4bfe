"""The list of checkpoints and VAEs: A1111's folders and names, and nothing that hides the rest."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from tests import checkpoints
from webui.errors import ModelMissing, UnsupportedModel
from webui.weights.catalog import Catalog

SD1 = {
    "model.diffusion_model.input_blocks.0.0.weight": torch.zeros(4, 4, 1, 1),
    "cond_stage_model.transformer.text_model.final_layer_norm.bias": torch.zeros(1),
}
VAE = {"decoder.conv_in.weight": torch.zeros(4, 4, 1, 1), "decoder.up.0.x": torch.zeros(1)}
LORA = {"lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn2_to_k.lora_down.weight": torch.zeros(2, 768)}


def put(path: Path, tensors: dict[str, torch.Tensor], number: float = 0.0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file(tensors | {"number": torch.tensor(number)}, path)
    return path


@pytest.fixture
def models(tmp_path: Path) -> Path:
    put(tmp_path / "Stable-diffusion" / "beta.safetensors", SD1, 1)
    put(tmp_path / "Stable-diffusion" / "sub" / "Alpha v1.5.safetensors", SD1, 2)
    put(tmp_path / "VAE" / "clear.safetensors", VAE)
    return tmp_path


def test_files_are_listed_by_name_with_their_folders(models: Path):
    catalog = Catalog(models)
    assert [entry.name for entry in catalog.checkpoints()] == ["beta.safetensors", "sub/Alpha v1.5.safetensors"]
    assert [entry.name for entry in catalog.vaes()] == ["clear.safetensors"]
    assert all(entry.found.architecture == "sd1" and not entry.problem for entry in catalog.checkpoints())


def test_folders_that_are_missing_count_as_empty(tmp_path: Path):
    catalog = Catalog(tmp_path / "none")
    assert catalog.checkpoints() == catalog.vaes() == []
    with pytest.raises(ModelMissing, match="no checkpoint yet"):
        catalog.default()


def test_a_vae_beside_its_checkpoint_is_a_vae(models: Path):
    put(models / "Stable-diffusion" / "beta.vae.safetensors", VAE)
    catalog = Catalog(models)
    assert [entry.name for entry in catalog.vaes()] == ["clear.safetensors", "beta.vae.safetensors"]
    assert "beta.vae.safetensors" not in [entry.name for entry in catalog.checkpoints()]
    assert catalog.find_vae("beta.vae").problem == ""


def test_what_cannot_be_used_is_listed_with_the_reason_and_hides_nothing(models: Path):
    home = models / "Stable-diffusion"
    put(home / "lora.safetensors", LORA)
    put(home / "vae.safetensors", VAE)
    put(home / "unet.safetensors", {name: t for name, t in (SD1 | checkpoint_width()).items() if "cond_stage" not in name})
    (home / "half.safetensors").write_bytes((home / "beta.safetensors").read_bytes()[:-2])
    (home / "nothing.safetensors").touch()
    torch.save({"a": torch.zeros(1)}, home / "old.ckpt")
    (home / "broken folder").mkdir()
    (home / "broken folder" / "model_index.json").write_text("{")
    (home / "notes.txt").write_text("no weights")
    problems = {entry.name: entry.problem for entry in Catalog(models).checkpoints()}
    assert problems.pop("beta.safetensors") == problems.pop("sub/Alpha v1.5.safetensors") == ""
    expected = {
        "broken folder": "model_index.json in broken folder cannot be read",
        "half.safetensors": "breaks off",
        "lora.safetensors": "lora.safetensors is a LoRA (SD 1.x), not a checkpoint. Move it into models/Lora.",
        "nothing.safetensors": "is empty",
        "old.ckpt": "--allow-pickles",
        "unet.safetensors": "has no text encoder",
        "vae.safetensors": "is a VAE, not a checkpoint. Move it into models/VAE.",
    }
    assert problems.keys() == expected.keys()
    assert all(expected[name] in problem for name, problem in problems.items()), problems


def checkpoint_width() -> dict[str, torch.Tensor]:
    return {"model.diffusion_model.input_blocks.1.1.transformer_blocks.0.attn2.to_k.weight": torch.zeros(2, 768)}


def test_pickles_are_recognised_when_they_are_allowed(models: Path):
    torch.save({"state_dict": SD1}, models / "Stable-diffusion" / "old.ckpt")
    assert Catalog(models, allow_pickles=True).find("old").problem == ""


def test_a_file_that_may_not_be_read_hides_nothing(models: Path, monkeypatch: pytest.MonkeyPatch):
    def refuse(path: Any, *arguments: Any, **more: Any) -> Any:
        if str(path).endswith("beta.safetensors"):
            raise PermissionError(13, "Permission denied")
        return opened(path, *arguments, **more)

    opened = open
    monkeypatch.setattr("builtins.open", refuse)
    entries = Catalog(models).checkpoints()
    assert "Permission denied" in entries[0].problem and not entries[1].problem


def test_a_folder_that_may_not_be_read_is_said_and_hides_nothing(models: Path, monkeypatch: pytest.MonkeyPatch):
    closed = models / "Stable-diffusion" / "closed"
    closed.mkdir()
    listed, looked = os.scandir, os.stat

    def scandir(path: Any) -> Any:
        if Path(path) == closed:
            raise PermissionError(13, "Permission denied")
        return listed(path)

    def stat(path: Any, *arguments: Any, **more: Any) -> Any:
        if not isinstance(path, int) and Path(path).parent == closed:
            raise PermissionError(13, "Permission denied")
        return looked(path, *arguments, **more)

    monkeypatch.setattr(os, "scandir", scandir)
    monkeypatch.setattr(os, "stat", stat)
    problems = {entry.name: entry.problem for entry in Catalog(models).checkpoints()}
    assert problems.pop("closed") == "The folder closed cannot be read. Check its permissions."
    assert set(problems.values()) == {""}


def test_a_file_that_can_be_read_again_is_usable_at_once(models: Path, monkeypatch: pytest.MonkeyPatch):
    def refuse(*_arguments: Any, **_more: Any) -> Any:
        raise PermissionError(13, "Permission denied")

    catalog = Catalog(models)
    with monkeypatch.context() as patched:
        patched.setattr("builtins.open", refuse)
        assert catalog.checkpoints()[0].problem
    assert not catalog.checkpoints()[0].problem


@pytest.mark.parametrize(
    "index", [[], {"text_encoder": []}, {"text_encoder": None}, {"text_encoder": 3}, {"unet": {}}, "[" * 100_000]
)
def test_a_damaged_model_index_hides_nothing(models: Path, index: Any):
    checkpoints.diffusers_folder(models / "Stable-diffusion" / "mine", "sdxl")
    path = models / "Stable-diffusion" / "mine" / "model_index.json"
    changed = json.loads(path.read_text()) | index if isinstance(index, dict) else index
    path.write_text(changed if isinstance(changed, str) else json.dumps(changed))
    assert len(Catalog(models).checkpoints()) == 3


def test_a_folder_that_predicts_something_else_is_refused(models: Path):
    checkpoints.diffusers_folder(models / "Stable-diffusion" / "mine", "sd1", prediction_type="sample")
    assert "mine predicts sample, which this version does not run" in Catalog(models).find("mine").problem


def test_pickles_in_a_folder_are_refused_unless_allowed(models: Path):
    home = models / "Stable-diffusion" / "mine"
    made = checkpoints.diffusers_folder(home, "sd1")
    (home / "unet" / "diffusion_pytorch_model.safetensors").unlink()
    torch.save(made["unet"].state_dict(), home / "unet" / "diffusion_pytorch_model.bin")
    assert "--allow-pickles" in Catalog(models).find("mine").problem
    assert not Catalog(models, allow_pickles=True).find("mine").problem


@pytest.mark.skipif(os.name == "nt", reason="links need rights on Windows")
def test_a_link_never_hides_its_target(models: Path):
    (models / "Stable-diffusion" / "again").symlink_to(models / "Stable-diffusion" / "sub")
    assert [entry.name for entry in Catalog(models).checkpoints()] == ["beta.safetensors", "sub/Alpha v1.5.safetensors"]


@pytest.mark.skipif(os.name == "nt", reason="links need rights on Windows")
def test_links_are_followed_once_and_to_nothing_said(models: Path, tmp_path_factory: pytest.TempPathFactory):
    far = tmp_path_factory.mktemp("far")
    put(far / "gamma.safetensors", SD1)
    home = models / "Stable-diffusion"
    (home / "elsewhere").symlink_to(far)
    (far / "round").symlink_to(home)
    (home / "one.safetensors").symlink_to(far / "gamma.safetensors")
    (home / "gone.safetensors").symlink_to(far / "none.safetensors")
    entries = {entry.name: entry.problem for entry in Catalog(models).checkpoints()}
    assert "link to a file that is not there" in entries.pop("gone.safetensors")
    assert set(entries.values()) == {""}
    assert [*entries] == ["beta.safetensors", "elsewhere/gamma.safetensors", "one.safetensors", "sub/Alpha v1.5.safetensors"]


def test_diffusers_folders_and_the_pocket_model_are_checkpoints(models: Path):
    made = checkpoints.diffusers_folder(
        models / "Stable-diffusion" / "xl 1.0", "sdxl", dtype=torch.float16, prediction_type="v_prediction"
    )
    checkpoints.diffusers_folder(models / "pocket", "sd1")
    entries = Catalog(models).checkpoints()
    assert [entry.name for entry in entries] == ["beta.safetensors", "sub/Alpha v1.5.safetensors", "xl 1.0", "pocket"]
    folder = entries[2]
    assert (folder.found.architecture, folder.found.prediction, folder.found.dtype) == ("sdxl", "v_prediction", "F16")
    assert folder.found.bytes == 2 * sum(p.numel() for network in made.values() for p in network.parameters())
    assert folder.stem == "xl 1.0" and Catalog(models).find("xl 1.0") == folder


@pytest.mark.parametrize(
    "lost", ["unet/config.json", "unet/diffusion_pytorch_model.safetensors", "scheduler/scheduler_config.json"]
)
def test_a_diffusers_folder_that_is_not_whole_is_said(models: Path, lost: str):
    folder = models / "Stable-diffusion" / "mine"
    checkpoints.diffusers_folder(folder, "sd1")
    (folder / lost).unlink()
    problem = Catalog(models).find("mine").problem
    assert "Copy the whole folder" in problem and lost.split("/")[0] in problem


def test_a_diffusers_folder_whose_prompts_are_1024_wide_is_sd2(models: Path):
    folder = models / "Stable-diffusion" / "mine"
    checkpoints.diffusers_folder(folder, "sd2", inpaint=True)
    config = json.loads((folder / "unet" / "config.json").read_text())
    (folder / "unet" / "config.json").write_text(json.dumps(config | {"cross_attention_dim": 1024}))
    found = Catalog(models).find("mine").found
    assert (found.architecture, found.inpaint, found.prediction) == ("sd2", True, "epsilon")


def test_a_pipeline_of_another_kind_is_named(models: Path):
    folder = models / "Stable-diffusion" / "mine"
    folder.mkdir()
    (folder / "model_index.json").write_text(json.dumps({"_class_name": "KandinskyPipeline"}))
    assert "mine is a KandinskyPipeline" in Catalog(models).find("mine").problem
    (folder / "model_index.json").write_text(json.dumps({"_class_name": "FluxPipeline"}))
    assert "(Flux)" in Catalog(models).find("mine").problem


@pytest.mark.parametrize(
    "name",
    [
        "sub/Alpha v1.5.safetensors", "sub\\Alpha v1.5.safetensors", "sub/Alpha v1.5", "Alpha v1.5.safetensors",
        "Alpha v1.5", "alpha V1.5",
        "sub/Alpha v1.5.safetensors [0123456789]", "Alpha v1.5 [0123456789]", " Alpha v1.5 ",
    ],
)  # fmt: skip
def test_a_model_is_found_by_each_of_its_names(models: Path, name: str):
    assert Catalog(models).find(name).path.name == "Alpha v1.5.safetensors"


def test_a_model_is_found_by_its_hash_once_that_is_known(models: Path):
    catalog = Catalog(models)
    entry = catalog.hashed(catalog.find("beta"))
    expected = hashlib.sha256(entry.path.read_bytes()).hexdigest()
    assert entry.hash == expected and entry.title == f"beta.safetensors [{expected[:10]}]"
    for name in (expected, expected[:10], expected[:10].upper(), entry.title, f"renamed.safetensors [{expected[:10]}]"):
        assert catalog.find(name) == entry, name
    with pytest.raises(ModelMissing):
        catalog.find(expected[:9])


def test_a_hash_says_more_than_a_name(models: Path):
    catalog = Catalog(models)
    beta = catalog.hashed(catalog.find("beta"))
    assert catalog.find(f"sub/Alpha v1.5.safetensors [{beta.hash[:10]}]") == beta


def test_an_ending_in_capitals_is_one(models: Path):
    put(models / "Stable-diffusion" / "OLD.SAFETENSORS", SD1)
    assert Catalog(models).find("OLD").stem == "OLD"


def test_hashes_are_remembered_until_the_file_changes(models: Path, monkeypatch: pytest.MonkeyPatch):
    catalog = Catalog(models)
    first = catalog.hashed(catalog.find("beta")).hash
    assert catalog.checkpoints()[0].hash == first and Catalog(models).checkpoints()[0].hash == first
    counted = []
    monkeypatch.setattr("webui.weights.hashes._sha256", lambda path: counted.append(path) or "f" * 64)
    assert Catalog(models).hashed(catalog.find("beta")).hash == first and counted == []
    path = put(models / "Stable-diffusion" / "beta.safetensors", SD1, 9)
    os.utime(path, ns=(1, 1))
    assert Catalog(models).checkpoints()[0].hash is None
    assert catalog.hashed(catalog.find("beta")).hash == "f" * 64 and len(counted) == 1


def test_hashes_of_another_process_are_seen_and_kept(models: Path):
    mine, other = Catalog(models), Catalog(models)
    mine.hashed(mine.find("beta"))
    assert other.find("beta").hash
    other.hashed(other.find("Alpha v1.5"))
    assert [bool(entry.hash) for entry in Catalog(models).checkpoints()] == [True, True]


@pytest.mark.parametrize("content", ["", "{", "[]", '{"x": 3}', '{"x": ["a", "b"]}'])
def test_a_broken_list_of_hashes_is_written_anew(models: Path, content: str):
    path = models / "Stable-diffusion" / "beta.safetensors"
    (models / ".galatea-hashes.json").write_text(content.replace("x", str(path)))
    catalog = Catalog(models)
    assert catalog.checkpoints()[0].hash is None
    assert catalog.hashed(catalog.find("beta")).hash
    assert Catalog(models).checkpoints()[0].hash


def test_a_place_where_hashes_cannot_be_written_does_no_harm(models: Path, tmp_path: Path):
    catalog = Catalog(models, hashes=tmp_path / "none" / "hashes.json")
    assert catalog.hashed(catalog.find("beta")).hash and catalog.checkpoints()[0].hash


def test_a_diffusers_folder_has_a_hash_of_its_weights(models: Path):
    folder = models / "Stable-diffusion" / "mine"
    checkpoints.diffusers_folder(folder, "sd1")
    catalog = Catalog(models)
    first = catalog.hashed(catalog.find("mine")).hash
    (folder / "scheduler" / "scheduler_config.json").write_text("{}")
    assert catalog.find("mine").hash is None and catalog.hashed(catalog.find("mine")).hash == first
    put(folder / "vae" / "diffusion_pytorch_model.safetensors", {})
    assert catalog.hashed(catalog.find("mine")).hash != first


def test_a_file_that_went_while_it_was_hashed_is_said(models: Path):
    catalog = Catalog(models)
    entry = catalog.find("beta")
    entry.path.unlink()
    with pytest.raises(UnsupportedModel, match=r"beta\.safetensors cannot be read"):
        catalog.hashed(entry)


def test_a_name_that_is_not_there_is_answered_with_near_ones(models: Path):
    with pytest.raises(ModelMissing, match=r"no model 'betta'\. Did you mean beta\.safetensors\?"):
        Catalog(models).find("betta")
    with pytest.raises(ModelMissing, match=r"no model '.*Put it into models/Stable-diffusion\.$"):
        Catalog(models).find("zzzzzzzzz")
    with pytest.raises(ModelMissing, match=r"no VAE '.*Put it into models/VAE\.$"):
        Catalog(models).find_vae("zzzzzzzzz")


def test_the_default_is_the_last_then_the_first_full_one_then_pocket(models: Path):
    put(models / "Stable-diffusion" / "a lora.safetensors", LORA)
    checkpoints.diffusers_folder(models / "pocket", "sd1")
    catalog = Catalog(models)
    assert catalog.default().name == "beta.safetensors"
    assert catalog.default("Alpha v1.5").name == "sub/Alpha v1.5.safetensors"
    assert catalog.default("gone").name == "beta.safetensors" and catalog.default("a lora").name == "beta.safetensors"
    for path in (models / "Stable-diffusion").rglob("*.safetensors"):
        path.unlink()
    assert catalog.default().name == "pocket"
