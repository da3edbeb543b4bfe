"""Pictures from the command line: what it prints, where the files go, its exit codes, and every bad input as a sentence."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import app
from tests import tiny
from tests.checkpoints import diffusers_folder
from tests.fakes import start_program
from tests.servers import environment
from webui.imaging import infotext

PROJECT = Path(__file__).parent.parent
QUICK = ("--steps", "2", "--size", "64x64", "--device", "cpu")


@dataclass(frozen=True)
class Done:
    code: int
    out: str
    err: str

    @property
    def facts(self) -> dict:
        return json.loads(self.out.splitlines()[-1])


Command = Callable[..., Done]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    diffusers_folder(folder / "pocket", "sd1")
    return folder


@pytest.fixture
def command(models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Command]:
    """Does in this process what `python app.py ARGV` does."""
    monkeypatch.chdir(tmp_path)
    for name in ("GALATEA_SETTINGS", "GALATEA_MODELS_DIR", "GALATEA_DEVICE", "GALATEA_LITE"):
        monkeypatch.delenv(name, raising=False)
    folders = ("--models-dir", str(models), "--outputs-dir", str(tmp_path / "outputs"))

    def run(*argv: str) -> Done:
        # Not capsys: DBOS keeps the stderr of its first start, which must stay open.
        out, err = io.StringIO(), io.StringIO()
        with redirect_stdout(out), redirect_stderr(err):
            code = app.main([argv[0], *folders, *argv[1:]])
        return Done(code, out.getvalue(), err.getvalue())

    with tiny.calm():
        yield run


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    path = tmp_path / "photo.png"
    Image.fromarray(np.random.default_rng(1).integers(0, 256, (64, 64, 3), np.uint8)).save(path)
    return path


def pixels(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB"))


def test_a_picture_goes_where_it_was_asked_to(command: Command, tmp_path: Path):
    asked = ("a red cat", *QUICK, "--negative", "dog", "--cfg", "5", "--seed", "3", "--sampler", "Euler a", "--model", "pocket")
    done = command("txt2img", *asked, "--out", "cat.png", "--json")
    assert done.code == 0, done.err
    facts = done.facts
    assert facts["path"] == str(tmp_path / "cat.png") and facts["paths"] == [facts["path"]]
    assert (facts["model"], facts["seeds"], facts["partial"]) == ("pocket", [3], False)
    assert set(facts["seconds"]) == {"start_up", "model", "pictures", "total"}
    found = infotext.read(infotext.extract(tmp_path / "cat.png"))
    assert (found.prompt, found.negative_prompt) == ("a red cat", "dog")
    assert (found.facts["CFG scale"], found.facts["Sampler"], found.facts["Size"]) == ("5.0", "Euler a", "64x64")
    assert pixels(tmp_path / "cat.png").shape == (64, 64, 3)


def test_each_picture_is_a_line(command: Command):
    done = command("txt2img", "a cat", *QUICK, "--batch-count", "2", "--seed", "1")
    paths = [Path(line) for line in done.out.splitlines()]
    assert [infotext.read(infotext.extract(path)).facts["Seed"] for path in paths] == ["1", "2"]


def test_a_picture_is_made_of_another(command: Command, photo: Path, tmp_path: Path):
    for strength, changed in (("0", False), ("0.9", True)):
        out = tmp_path / f"{strength}.png"
        done = command("img2img", "a cat", "--image", str(photo), "--strength", strength, *QUICK, "--out", str(out))
        assert ("Note: Nothing is changed" in done.err) is not changed
        assert np.array_equal(pixels(out), pixels(photo)) is not changed


def test_a_part_is_made_anew(command: Command, photo: Path, tmp_path: Path):
    Image.fromarray(np.repeat(np.uint8([[255, 0]]), 32, axis=1).repeat(64, axis=0)).save(tmp_path / "mask.png")
    options = ("--image", "photo.png", "--mask", "mask.png", "--strength", "1", "--mask-blur", "0", "--out", "new.png")
    assert command("inpaint", "a cat", *options, *QUICK).code == 0
    before, after = pixels(photo), pixels(tmp_path / "new.png")
    assert np.array_equal(before[:, 32:], after[:, 32:]) and not np.array_equal(before, after)


@pytest.mark.parametrize(
    ("argv", "code", "said"),
    [
        (("txt2img", "x" * 10_000), 2, "'prompt' must have at most 8000 characters; it has 10000."),
        (("txt2img", "a cat", "--size", "0x0"), 2, "multiples of 8, not 0"),
        (("txt2img", "a cat", "--size", "7"), 2, "must be WIDTHxHEIGHT, such as 512x768"),
        (("txt2img", "a cat", "--size", "100000x512"), 2, "not 100000"),
        (("img2img", "a cat", "--image", "photo.png", "--strength", "nan"), 2, "'strength' must be a number, not 'nan'."),
        (("img2img", "a cat"), 2, "required: --image"),
        (("inpaint", "a cat", "--image", "photo.png"), 2, "required: --mask"),
        (("img2img", "a cat", "--image", "none.png"), 2, "There is no file none.png"),
        (("img2img", "a cat", "--image", "photo.png", "--out", "photo.png"), 2, "one of the files that the result is made from"),
        (("txt2img", "a cat", "--out", "cat.jpg"), 2, "let the name cat.jpg end in that"),
        (("txt2img", "a cat", "--sampler", "Eular"), 2, "There is no sampler “Eular”. Did you mean Euler"),
        (("txt2img", "a cat", "--model", "poket"), 1, "There is no model 'poket'. Did you mean pocket?"),
        (("txt2img", "a cat", "--models-dir", "nothing"), 1, "There is no checkpoint yet."),
        (("txt2img", "a cat", "--outputs-dir", "photo.png"), 2, "photo.png"),
        (("txt2img", "a", "red", "cat"), 2, "red cat"),
    ],
)
def test_bad_input_is_a_sentence(command: Command, photo: Path, argv: tuple[str, ...], code: int, said: str):
    done = command(*argv, "--json")
    assert done.code == code
    assert said in done.facts["error"]
    assert said in done.err and "Traceback" not in done.err


@pytest.mark.parametrize("lite", ["1", "0"])
def test_what_is_refused_loads_nothing_heavy(tmp_path: Path, lite: str):
    """In a small installation nothing of it is there."""
    (tmp_path / "extensions").mkdir()
    argv = ("txt2img", "a cat", "--json", *(() if lite == "1" else ("--steps", "0")))
    kept = environment() | {"GALATEA_LITE": lite}
    command = [*start_program(tmp_path / "extensions", *argv), "--outputs-dir", str(tmp_path / "outputs")]
    done = subprocess.run(command, capture_output=True, text=True, cwd=PROJECT, timeout=60, env=kept)
    assert done.returncode == 2
    said = json.loads(done.stdout.splitlines()[-1])["error"]
    assert said == "'steps' must be at least 1, not '0'." or "Run ./launch.sh --full to complete it" in said
    assert (tmp_path / "extensions" / "imported.txt").read_text().strip() == ""


def test_the_program_itself_makes_one(models: Path, tmp_path: Path):
    argv = ("txt2img", "a cat", *QUICK, "--seed", "2", "--models-dir", str(models), "--out", str(tmp_path / "cat.png"))
    done = subprocess.run(
        [sys.executable, "app.py", *argv], capture_output=True, text=True, cwd=PROJECT, timeout=120, env=environment()
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == str(tmp_path / "cat.png")
    assert "denoising" in done.stderr
    assert pixels(tmp_path / "cat.png").shape == (64, 64, 3)
