"""Bad input for pictures, through the API and the command line: a sentence that says what is wrong, and nothing left behind."""

from __future__ import annotations

import io
import json
import os
import subprocess
from collections.abc import Callable, Iterator
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from starlette.testclient import TestClient

import app
from tests import tiny
from tests.checkpoints import diffusers_folder
from webui.api.jobs import http_api
from webui.artifacts import Artifacts
from webui.builtin.kinds import KINDS
from webui.imaging import infotext
from webui.jobs.service import JobService
from webui.settings import Settings

QUICK = {"steps": 2, "size": "64x64", "model": "pocket", "seed": 1}
FILES = ("image", "mask")

Door = Callable[..., str]
"""Asks for a picture of a kind with these fields, files by their paths; the sentence that refuses it, or the file's path."""


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    diffusers_folder(folder / "pocket", "sd1")
    shelf = folder / "Stable-diffusion"
    shelf.mkdir()
    save_file({"lora_unet_mid_block.lora_down.weight": torch.ones(4, 320)}, shelf / "whole.safetensors")
    (shelf / "half.safetensors").write_bytes((shelf / "whole.safetensors").read_bytes()[:-100])
    (shelf / "whole.safetensors").unlink()
    (shelf / "empty.safetensors").touch()
    (shelf / "noise.safetensors").write_bytes(b"\xff" * 1000)
    attention = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_q"
    save_file({f"{attention}.lora_{way}.weight": torch.ones(4, 320) for way in ("down", "up")}, shelf / "lora.safetensors")
    save_file({"model.diffusion_model.joint_blocks.0.x_block.attn.qkv.weight": torch.ones(4, 4)}, shelf / "sd3.safetensors")
    return folder


@pytest.fixture
def outputs(tmp_path: Path) -> Path:
    return tmp_path / "outputs"


@pytest.fixture
def by_api(models: Path, outputs: Path) -> Iterator[Door]:
    artifacts, settings = Artifacts(outputs), Settings(models_dir=models, outputs_dir=outputs, device="cpu")
    service = JobService(KINDS, artifacts, settings, alone=True)
    visitor = TestClient(http_api(service, artifacts, settings))

    def ask(kind: str, **asked: Any) -> str:
        for name in FILES:
            if (file := Path(asked.get(name, ""))).is_file():
                asked[name] = visitor.post("/api/artifacts", files={"file": (file.name, file.read_bytes())}).json()["id"]
        # NaN is what Python's own client would send for it.
        body = json.dumps({"kind": kind, "request": asked})
        posted = visitor.post("/api/jobs", content=body, headers={"Content-Type": "application/json"})
        if posted.status_code != 201:
            assert posted.status_code in (400, 422)
            return posted.json()["error"]
        job = service.wait(posted.json()["id"], 60)
        told = visitor.get(f"/api/jobs/{job.id}").json()
        assert str(outputs.parent) not in json.dumps(told)
        assert job.state.finished, job
        return told["error"] or str(job.result.artifacts[0].path)

    with tiny.calm():
        yield ask
    service.close()


@pytest.fixture
def by_command(models: Path, outputs: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Door]:
    for name in ("GALATEA_SETTINGS", "GALATEA_MODELS_DIR", "GALATEA_DEVICE", "GALATEA_LITE"):
        monkeypatch.delenv(name, raising=False)

    def ask(kind: str, prompt: str = "a cat", **asked: Any) -> str:
        options = [word for name, value in asked.items() for word in (f"--{name.replace('_', '-')}", str(value))]
        folders = ("--models-dir", str(models), "--outputs-dir", str(outputs), "--device", "cpu")
        out, err = io.StringIO(), io.StringIO()
        with redirect_stdout(out), redirect_stderr(err):
            code = app.main([kind, prompt, *options, *folders, "--json"])
        told = json.loads(out.getvalue().splitlines()[-1])
        assert "Traceback" not in err.getvalue() and (code == 0) is ("error" not in told)
        return told.get("error") or told["path"]

    with tiny.calm():
        yield ask


@pytest.fixture(params=["by_api", "by_command"])
def door(request: pytest.FixtureRequest) -> Door:
    return request.getfixturevalue(request.param)


def picture(path: Path, size: tuple[int, int] = (64, 64)) -> str:
    Image.fromarray(np.random.default_rng(1).integers(0, 256, (size[1], size[0], 3), np.uint8)).save(path)
    return str(path)


def left(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.suffix in (".png", ".part") and "uploads" not in path.parts]


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"prompt": "x" * 10_000}, "'prompt' must have at most 8000 characters; it has 10000."),
        ({"negative": "x" * 10_000}, "'negative' must have at most 8000 characters; it has 10000."),
        ({"size": "0x0"}, "multiples of 8, not 0"),
        ({"size": "7x7"}, "multiples of 8, not 7"),
        ({"size": "100000x100000"}, "not 100000"),
        ({"cfg": "nan"}, "'cfg' must be a number"),
        ({"strength": float("nan")}, ""),
        ({"steps": "many"}, "'steps' must be a whole number, not 'many'."),
        ({"model": "empty"}, "empty.safetensors is empty. Download it again."),
        ({"model": "noise"}, "noise.safetensors is no weights file"),
        ({"model": "half"}, "half.safetensors breaks off"),
        ({"model": "lora"}, "lora.safetensors is a LoRA"),
        ({"model": "sd3"}, "sd3.safetensors is a checkpoint (SD 3). This version runs SD 1.x, SD 2.x and SDXL"),
        ({"vae": "nice"}, "There is no VAE 'nice'. Put it into models/VAE."),
        ({"model": "xyz"}, "There is no model 'xyz'. Put it into models/Stable-diffusion."),
    ],
)
def test_bad_input_is_a_sentence(door: Door, outputs: Path, asked: dict[str, Any], said: str):
    sentence = door("txt2img", **{**QUICK, **asked})
    assert said in sentence and not Path(sentence).exists()
    assert left(outputs) == []


@pytest.mark.parametrize("size", [(128, 96), (64, 65)])
def test_a_mask_of_another_size_is_refused(door: Door, tmp_path: Path, size: tuple[int, int]):
    files = {"image": picture(tmp_path / "photo.png"), "mask": picture(tmp_path / "mask.png", size)}
    sentence = door("inpaint", **QUICK, **files)
    assert sentence == f"The mask is {size[0]}x{size[1]}, and the picture 64x64. Use a mask of the picture's size."


@pytest.mark.parametrize("prompt", ["((((a cat", "a cat))))", "[a:b", "(a:1.2", "\\(a\\", "a]b:c[d|", "(" * 7000])
def test_unbalanced_brackets_are_words_like_any_other(door: Door, prompt: str):
    path = Path(door("txt2img", **{**QUICK, "prompt": prompt}))
    assert infotext.read(infotext.extract(path)).prompt == prompt


@pytest.mark.outside_ci
def test_a_disk_that_fills_up_while_saving_is_said(request: pytest.FixtureRequest, outputs: Path, tmp_path: Path):
    outputs.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=24m", "galatea-test", str(outputs)]
    if os.geteuid() != 0 or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("only the system's owner can make a disk")
    try:
        door: Door = request.getfixturevalue("by_api")
        # Without a step the picture stays as it is: quickly made, and large.
        uploaded = Artifacts(outputs).upload(Path(picture(tmp_path / "noise.png", (1024, 1024)))).id
        large = {**QUICK, "size": "1024x1024", "strength": 0, "image": uploaded}
        size = Path(door("img2img", **large)).stat().st_size
        (outputs / "filler").write_bytes(bytes(os.statvfs(outputs).f_bavail * 4096 - size // 2))
        sentence = door("img2img", **large, prompt="another")
        assert "is full. Free some space, then try again." in sentence
        assert [path for path in left(outputs) if "another" in path.name] == []
        (outputs / "filler").unlink()
        assert Path(door("txt2img", **QUICK)).exists()
    finally:
        subprocess.run(["umount", "--lazy", str(outputs)], check=True)
