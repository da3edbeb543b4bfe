"""Headers of weights files: read without loading, and a sentence for everything that is no such file."""

from __future__ import annotations

import argparse
import io
import json
import os
import pickle
import struct
import subprocess
import sys
import zipfile
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from webui import settings
from webui.errors import InvalidRequest, UnsupportedModel
from webui.weights.files import Fact, header, reader

TENSORS = {"a.weight": torch.ones(2, 3, dtype=torch.float16), "b": torch.zeros(5), "c": torch.tensor(7)}


@pytest.fixture
def file(tmp_path: Path) -> Path:
    save_file(TENSORS, tmp_path / "a.safetensors", {"modelspec.title": "Mine"})
    return tmp_path / "a.safetensors"


def legacy(path: Path, content: Any) -> Path:
    torch.save(content, path, _use_new_zipfile_serialization=False)
    return path


def zipped(path: Path, content: Any) -> Path:
    torch.save(content, path)
    return path


def test_the_header_has_kinds_shapes_and_metadata(file: Path):
    found = header(file)
    assert dict(found) == {"a.weight": Fact("F16", (2, 3)), "b": Fact("F32", (5,)), "c": Fact("I64", ())}
    assert found.metadata == {"modelspec.title": "Mine"}
    assert found.bytes == 2 * 3 * 2 + 5 * 4 + 8


def test_the_name_does_not_matter(file: Path):
    assert "a.weight" in header(file.rename(file.with_name("b.ckpt")))


@pytest.mark.parametrize("length", [0x0280, 0x10280, 0x1030280])
def test_a_header_whose_length_looks_like_a_pickle_is_none(tmp_path: Path, length: int):
    text = json.dumps({"a": {"dtype": "U8", "shape": [1], "data_offsets": [0, 1]}}).encode().ljust(length)
    (tmp_path / "a").write_bytes(struct.pack("<Q", length) + text + b"\0")
    assert header(tmp_path / "a")["a"] == Fact("U8", (1,))


def test_tensors_are_read_one_by_one(file: Path):
    read = reader(file)
    assert all(torch.equal(read(name), tensor) for name, tensor in TENSORS.items())


def _entry(**change: Any) -> bytes:
    return _file({"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]} | change}, 8)


def _entries(**offsets: list[int]) -> bytes:
    """Several tensors of 8 bytes, at these places."""
    entries = {name: {"dtype": "F32", "shape": [2], "data_offsets": place} for name, place in offsets.items()}
    return _file(entries, max(end for _, end in offsets.values()))


def _file(entries: Any, size: int) -> bytes:
    text = json.dumps(entries).encode()
    return struct.pack("<Q", len(text)) + text + b"\0" * size


BROKEN = [
    (b"", "is empty. Download it again"),
    (b"abc", "is no weights file"),
    (struct.pack("<Q", 1 << 60) + b"{}", "is no weights file"),
    (struct.pack("<Q", 500) + b'{"a":', "breaks off before its contents begin"),
    (struct.pack("<Q", 5) + b'{"a":', "list of tensors cannot be read"),
    (struct.pack("<Q", 20000) + b'{"a":' * 4000, "list of tensors cannot be read"),
    (_entry(shape=[3]), "makes no sense"),
    (_entry(dtype="F99"), r"of a kind that is not known here \(F99\)"),
    (_entry(dtype=7), "makes no sense"),
    (_entry(dtype=""), "makes no sense"),
    (_entry(shape="2"), "makes no sense"),
    (_entry(shape=[2.0]), "makes no sense"),
    (_entry(shape=[True, 2]), "makes no sense"),
    (_entry(shape=[float("inf")]), "makes no sense"),
    (_entry(shape=[-1, -2]), "makes no sense"),
    (_entry(shape=[1] * 10_000), "makes no sense"),
    (_entry(data_offsets=[0, 10**400]), "makes no sense"),
    (_entry(data_offsets=[8, 16]), "makes no sense"),
    (_entries(a=[0, 8], b=[0, 8]), "makes no sense"),
    (_entries(a=[0, 8], b=[4, 12]), "makes no sense"),
    (_entry() + b"more", "is damaged: 4 bytes follow its tensors"),
    (struct.pack("<Q", 90_000_000) + b"{" + b" " * 100, "is no weights file"),
    (_entry(data_offsets=[8, 0]), "makes no sense"),
    (_entry(data_offsets="no"), "makes no sense"),
    (_entry(shape=None), "makes no sense"),
    (struct.pack("<Q", 8) + b'{"a": 1}', "makes no sense"),
    (_entry()[:-1], "breaks off: 76 bytes of 77 bytes are there. Wait until"),
    (b"version https://git-lfs.github.com/spec/v1\noid sha256:1", "Git LFS"),
    (b"<!DOCTYPE html><html><body>Please log in</body></html>", "web page"),
    (b"GGUF\3\0\0\0" + b"\0" * 40, "GGUF"),
    (b"PK\3\4" + b"\0" * 60, "damaged or breaks off"),
    (b"\x80\2}q\0", "damaged or breaks off"),
]


@pytest.mark.parametrize(("content", "expected"), BROKEN)
def test_what_is_no_weights_file_is_named(tmp_path: Path, content: bytes, expected: str):
    path = tmp_path / "mine.safetensors"
    path.write_bytes(content)
    with pytest.raises(UnsupportedModel, match=expected) as caught:
        header(path, allow_pickles=True)
    assert str(caught.value).startswith("mine.safetensors ")


@pytest.mark.parametrize("kept", [1, 7, 8, 9, 20, 60, 120, -8, -1])
def test_a_download_that_broke_off_is_noticed_wherever_it_did(file: Path, kept: int):
    file.write_bytes(file.read_bytes()[:kept])
    with pytest.raises(UnsupportedModel):
        header(file)


def test_what_cannot_be_read_is_named(tmp_path: Path):
    with pytest.raises(UnsupportedModel, match="is not there any more"):
        header(tmp_path / "none.safetensors")
    with pytest.raises(UnsupportedModel, match="is no file"):
        header(tmp_path)


@pytest.mark.skipif(os.name == "nt", reason="links need rights on Windows")
def test_a_link_to_itself_is_named(tmp_path: Path):
    (tmp_path / "a.safetensors").symlink_to(tmp_path / "a.safetensors")
    with pytest.raises(UnsupportedModel, match=r"a\.safetensors cannot be read \(.+\)"):
        header(tmp_path / "a.safetensors")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="Windows has no such pipes")
def test_a_pipe_is_not_waited_for(tmp_path: Path):
    os.mkfifo(tmp_path / "a.safetensors")
    with pytest.raises(UnsupportedModel, match="is no file"):
        header(tmp_path / "a.safetensors")


@pytest.mark.skipif(os.name == "nt", reason="links need rights on Windows")
def test_a_link_to_nothing_is_named(tmp_path: Path):
    (tmp_path / "a.safetensors").symlink_to(tmp_path / "gone")
    with pytest.raises(UnsupportedModel, match="link to a file that is not there"):
        header(tmp_path / "a.safetensors")


@pytest.mark.parametrize("save", [zipped, legacy])
def test_pickles_are_refused_unless_allowed_and_then_read_as_numbers(tmp_path: Path, save: Any):
    path = save(tmp_path / "a.ckpt", {"state_dict": TENSORS, "epoch": 3, "note": "x"})
    for attempt in (header, reader):
        with pytest.raises(UnsupportedModel, match=r"a\.ckpt is a pickle, .*--allow-pickles"):
            attempt(path)
    assert header(path, allow_pickles=True)["a.weight"] == Fact("F16", (2, 3))
    assert torch.equal(reader(path, allow_pickles=True)("a.weight"), TENSORS["a.weight"])


def test_the_shapes_of_a_pickle_are_those_of_its_tensors(tmp_path: Path):
    views = {"t": torch.zeros(4, 6).T, "p": torch.nn.Parameter(torch.zeros(3)), "h": torch.zeros(2, dtype=torch.bfloat16)}
    found = header(zipped(tmp_path / "a.pt", {"params_ema": views}), allow_pickles=True)
    assert dict(found) == {"t": Fact("F32", (6, 4)), "p": Fact("F32", (3,)), "h": Fact("BF16", (2,))}


class Attack:
    """Makes the pickle that holds it write a file when it is read by a careless reader."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.target),)


@pytest.mark.parametrize("save", [zipped, legacy])
def test_a_program_in_a_pickle_is_not_run(tmp_path: Path, save: Any):
    path = save(tmp_path / "a.ckpt", {"state_dict": TENSORS, "x": Attack(tmp_path / "harm")})
    for attempt in (header, reader):
        with pytest.raises(UnsupportedModel, match=r"a\.ckpt holds more than numbers .* \.safetensors version"):
            attempt(path, allow_pickles=True)
    assert not (tmp_path / "harm").exists()
    torch.load(path, weights_only=False)
    assert (tmp_path / "harm").exists()


@pytest.mark.parametrize("name", ["builtins.eval", "os.system", "torch.load", "builtins.getattr", "torch._utils.os.system"])
def test_no_name_in_a_pickle_is_looked_up(tmp_path: Path, name: str):
    module, _, function = name.rpartition(".")
    program = b"\x80\x02c" + f"{module}\n{function}\n".encode() + b"X\1\0\0\0x\x85R."
    with zipfile.ZipFile(tmp_path / "a.pt", "w") as archive:
        archive.writestr("archive/data.pkl", program)
    with pytest.raises(UnsupportedModel, match=f"more than numbers .{name}"):
        header(tmp_path / "a.pt", allow_pickles=True)


def test_what_trainers_left_in_well_known_checkpoints_does_no_harm(tmp_path: Path):
    """SD 1.4's checkpoint names a class of pytorch_lightning, which is not installed and not needed."""
    buffer = io.BytesIO()
    torch.save({"state_dict": TENSORS, "callbacks": {"KEY": 1}}, buffer)
    named = b"cpytorch_lightning.callbacks.model_checkpoint\nModelCheckpoint\n"
    with zipfile.ZipFile(buffer) as before, zipfile.ZipFile(tmp_path / "a.ckpt", "w") as after:
        for name in before.namelist():
            content = before.read(name)
            after.writestr(name, content.replace(b"X\3\0\0\0KEY", named) if name.endswith("data.pkl") else content)
    assert named in zipfile.ZipFile(tmp_path / "a.ckpt").read("archive/data.pkl")
    assert header(tmp_path / "a.ckpt", allow_pickles=True)["b"] == Fact("F32", (5,))
    assert torch.equal(reader(tmp_path / "a.ckpt", allow_pickles=True)("b"), TENSORS["b"])


@pytest.mark.parametrize("save", [zipped, legacy])
def test_an_optimizers_plan_does_no_harm(tmp_path: Path, save: Any):
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.ones(2))])
    plan = torch.optim.lr_scheduler.MultiStepLR(optimizer, [3, 5]).state_dict()
    assert type(plan["milestones"]) is Counter
    save(tmp_path / "a.pt", {"state_dict": TENSORS, "plan": plan, "optimizer": optimizer.state_dict()})
    assert header(tmp_path / "a.pt", allow_pickles=True)["b"] == Fact("F32", (5,))
    assert torch.equal(reader(tmp_path / "a.pt", allow_pickles=True)("b"), TENSORS["b"])


def test_a_pickle_that_unpacks_to_gigabytes_is_not_unpacked(tmp_path: Path):
    with zipfile.ZipFile(tmp_path / "a.pt", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", b"\x80\x02" + b"}0" * 20_000_000 + b"}.")
    assert (tmp_path / "a.pt").stat().st_size < 1_000_000
    with pytest.raises(UnsupportedModel, match="damaged or breaks off"):
        header(tmp_path / "a.pt", allow_pickles=True)


def test_a_pickle_that_contains_itself_ends(tmp_path: Path):
    endless: dict[str, Any] = {}
    endless["state_dict"] = endless
    with zipfile.ZipFile(tmp_path / "a.pt", "w") as archive:
        archive.writestr("archive/data.pkl", pickle.dumps(endless, 2))
    assert len(header(tmp_path / "a.pt", allow_pickles=True)) == 0


def test_headers_and_lists_need_no_torch(file: Path):
    program = (
        "import sys; sys.modules['torch'] = None; from pathlib import Path\n"
        "from webui.weights import cache, catalog, detect, files, folders, names\n"
        f"print(len(files.header(Path({str(file)!r}))))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=Path(__file__).parent.parent)
    assert (done.stdout.strip(), done.stderr) == ("3", "")


def test_pickles_are_allowed_by_flag_environment_and_file(tmp_path: Path):
    parser = argparse.ArgumentParser()
    settings.add_flags(parser, serving=False)
    assert not settings.load({}, {}).allow_pickles
    assert settings.load(vars(parser.parse_args(["--allow-pickles"])), {}).allow_pickles
    assert settings.load({}, {"GALATEA_ALLOW_PICKLES": "1"}).allow_pickles
    (tmp_path / "s.toml").write_text("allow_pickles = true")
    assert settings.load({"settings": str(tmp_path / "s.toml")}, {}).allow_pickles
    with pytest.raises(InvalidRequest, match="GALATEA_ALLOW_PICKLES: expected true or false"):
        settings.load({}, {"GALATEA_ALLOW_PICKLES": "perhaps"})
