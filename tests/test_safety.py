"""The safety checker, with random weights: it decides as diffusers' does, and what it flags is blurred and said."""

# The fixtures of tests/test_builtin.py are used here under their own names.
# ruff: noqa: F401, F811

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers.pipelines.stable_diffusion.safety_checker import StableDiffusionSafetyChecker
from safetensors.torch import save_file
from transformers import CLIPConfig, CLIPImageProcessorPil

from tests.test_builtin import calm, context, models, pixels, run, shelf
from webui.errors import UnsupportedModel
from webui.imaging import infotext, safety

VISION = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "patch_size": 56}


def write_checker(folder: Path, threshold: float = 0.0, older: bool = False) -> StableDiffusionSafetyChecker:
    """A random checker in `folder`. older: with the names of its tensors that the published file has."""
    torch.manual_seed(0)
    config = CLIPConfig(vision_config=VISION, text_config={"hidden_size": 16}, projection_dim=8)
    network = StableDiffusionSafetyChecker(config).eval()
    for name in ("concept_embeds", "special_care_embeds"):
        getattr(network, name).data.normal_()
        getattr(network, f"{name}_weights").data.fill_(threshold)
    tensors = {name: tensor.contiguous() for name, tensor in network.state_dict().items()}
    if older:
        tensors = {name.replace("vision_model.", "vision_model.vision_model."): tensor for name, tensor in tensors.items()}
        tensors["vision_model.vision_model.embeddings.position_ids"] = torch.arange(17)[None]
    folder.mkdir(parents=True, exist_ok=True)
    save_file(tensors, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(config.to_dict()))
    return network


def noise(seed: int, height: int = 300, width: int = 240) -> np.ndarray:
    dice = np.random.default_rng(seed)
    patches = dice.integers(0, 256, (6, 5, 3), np.uint8)
    return patches.repeat(height // 6, axis=0).repeat(width // 5, axis=1)


@pytest.mark.parametrize("older", [False, True])
def test_it_decides_as_diffusers_does(tmp_path: Path, older: bool):
    theirs = write_checker(tmp_path, threshold=0.55, older=older)
    ours = safety.load(tmp_path)
    pictures = [noise(seed) for seed in range(24)]
    seen = torch.cat([safety.prepared(one) for one in pictures])
    _, expected = theirs(seen, [np.zeros((1, 1, 3))] * len(pictures))
    assert [ours.flags(one) for one in pictures] == expected
    assert 3 <= sum(expected) <= 21, "some are flagged and some are not"


@pytest.mark.parametrize(("height", "width"), [(300, 240), (240, 300), (64, 64), (600, 200)])
def test_pictures_are_seen_as_clip_sees_them(height: int, width: int):
    rgb = noise(1, height, width)
    theirs = CLIPImageProcessorPil()(rgb, return_tensors="pt").pixel_values
    assert torch.allclose(safety.prepared(rgb), theirs, atol=0.02)


def test_what_is_flagged_is_blurred_and_said(models: Path, tmp_path: Path):
    plain = run(context(models, tmp_path / "plain"), filmstrip="1")
    write_checker(models / "safety-checker", threshold=-1.0)
    ctx = context(models, tmp_path / "blurred")
    result = run(ctx, filmstrip="1")
    before, after = (pixels(one.artifacts[0].path).astype(float) for one in (plain, result))
    assert np.abs(after.mean(axis=(0, 1)) - before.mean(axis=(0, 1))).max() < 4, "its colours are left"
    assert np.abs(np.diff(after, axis=1)).mean() < 0.3 * np.abs(np.diff(before, axis=1)).mean(), "its edges are not"
    strips = [pixels(one.artifacts[1].path).astype(float) for one in (plain, result)]
    assert np.abs(np.diff(strips[1], axis=1)).mean() < 0.3 * np.abs(np.diff(strips[0], axis=1)).mean()
    assert result.data["blurred"] == 1 and plain.data["blurred"] == 0
    assert len(ctx.warnings) == 1 and "nsfw_filter" in ctx.warnings[0]
    assert infotext.read(result.data["infotexts"][0]).facts["Safety checker"] == "blurred"


@pytest.mark.parametrize(("threshold", "wanted"), [(1.0, True), (-1.0, False)])
def test_what_is_safe_or_not_to_be_looked_at_is_as_it_is(models: Path, tmp_path: Path, threshold: float, wanted: bool):
    plain = run(context(models, tmp_path / "plain"))
    write_checker(models / "safety-checker", threshold)
    ctx = context(models, tmp_path / "checked")
    ctx.settings = replace(ctx.settings, nsfw_filter=wanted)
    assert pixels(run(ctx).artifacts[0].path).tolist() == pixels(plain.artifacts[0].path).tolist()
    assert ctx.warnings == []


def test_its_config_cannot_name_code(tmp_path: Path):
    write_checker(tmp_path)
    path = tmp_path / "config.json"
    evil = {"attn_implementation": "some/kernel", "_attn_implementation": "some/kernel", "auto_map": {"AutoModel": "evil.Model"}}
    config = json.loads(path.read_text())
    path.write_text(json.dumps(config | evil | {"vision_config": config["vision_config"] | evil}))
    assert safety.load(tmp_path).network.config._attn_implementation != "some/kernel"


def test_an_older_config_keeps_its_numbers_in_another_place(tmp_path: Path):
    write_checker(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"projection_dim": 8, "vision_config": {}, "vision_config_dict": VISION}))
    assert safety.load(tmp_path).network.config.vision_config.hidden_size == VISION["hidden_size"]


@pytest.mark.parametrize("spoil", ["empty", "lacking", "other", "no config"])
def test_a_broken_checker_is_said_instead_of_letting_all_through(models: Path, tmp_path: Path, spoil: str):
    folder = models / "safety-checker"
    network = write_checker(folder)
    spoilt: dict[str, Any] = {
        "empty": lambda: (folder / "model.safetensors").write_bytes(b""),
        "lacking": lambda: save_file({"concept_embeds": network.concept_embeds.data}, folder / "model.safetensors"),
        "other": lambda: (folder / "config.json").write_text('{"projection_dim": 3, "vision_config": {"hidden_size": "many"}}'),
        "no config": lambda: (folder / "config.json").unlink(),
    }
    spoilt[spoil]()
    ctx = context(models, tmp_path / "out")
    with pytest.raises(UnsupportedModel, match="again"):
        run(ctx)
    shutil.rmtree(folder)
    assert run(context(models, tmp_path / "without")).artifacts
