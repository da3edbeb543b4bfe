"""Reads weights files: their headers without loading anything, and their tensors one by one, mapped from the disk.

What a file is, is judged by its first bytes, never by its name. A pickle is read only where the owner of the studio allows it,
and then as numbers: nothing that stands in it is ever run. This module never writes a file.
"""

from __future__ import annotations

import json
import math
import os
import stat
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from webui.errors import UnsupportedModel
from webui.weights import pickles

if TYPE_CHECKING:
    import torch

ENDINGS = (".safetensors", ".ckpt", ".pt", ".pth", ".bin")
"""Names that weights files have."""

MAX_HEADER = 25_000_000
"""The longest header in bytes that is read; those of full checkpoints have 0.4 MB. safetensors accepts four times as much, which
can be made to take gigabytes of memory."""

MAX_SIDES = 8
"""Sides that a tensor may have."""

BYTES = {
    "BOOL": 1, "U8": 1, "I8": 1, "F8_E4M3": 1, "F8_E5M2": 1, "F8_E8M0": 1, "I16": 2, "U16": 2, "F16": 2, "BF16": 2, "I32": 4,
    "U32": 4, "F32": 4, "F64": 8, "I64": 8, "U64": 8, "C64": 8,
}  # fmt: skip
"""Bytes of one number, by the names that safetensors has for its kinds."""


@dataclass(frozen=True)
class Fact:
    """What a header says of one tensor: the kind of its numbers (a key of BYTES) and its shape."""

    dtype: str
    shape: tuple[int, ...]

    @property
    def bytes(self) -> int:
        return BYTES[self.dtype] * math.prod(self.shape)


@dataclass(frozen=True)
class Header(Mapping[str, Fact]):
    """The tensors of a file by name, and what its maker wrote beside them (safetensors' `__metadata__`)."""

    facts: Mapping[str, Fact]
    metadata: Mapping[str, str] = field(default_factory=dict)

    def __getitem__(self, name: str) -> Fact:
        return self.facts[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.facts)

    def __len__(self) -> int:
        return len(self.facts)

    @property
    def bytes(self) -> int:
        """Size of all tensors."""
        return sum(fact.bytes for fact in self.facts.values())


def header(path: Path, *, allow_pickles: bool = False) -> Header:
    """What is in the weights file at `path`; nothing is loaded, and torch is not needed.

    Raises UnsupportedModel when the file cannot be read, is empty, breaks off, or is no weights file; and when it is a pickle
    and those are not allowed, or it holds more than numbers.
    """
    start, size = _start(path)
    if not pickles.is_pickle(start):
        return _safetensors_header(path, start, size)
    _check_allowed(path, allow_pickles)
    found = pickles.shapes(path)
    _check_kinds(path, (kind for kind, _shape in found.values()))
    return Header({name: Fact(kind, shape) for name, (kind, shape) in found.items()})


def reader(path: Path, *, allow_pickles: bool = False) -> Callable[[str], torch.Tensor]:
    """A function from a tensor's name to the tensor, on the CPU. The tensors are views of the mapped file: pages are read when
    they are used, belong to the system's file cache, and what is written into them never reaches the file.

    Raises UnsupportedModel as `header` does.
    """
    start, _size = _start(path)
    if pickles.is_pickle(start):
        _check_allowed(path, allow_pickles)
        return pickles.tensors(path).__getitem__
    from safetensors import SafetensorError, safe_open

    try:
        return safe_open(str(path), framework="pt", device="cpu").get_tensor
    except (SafetensorError, OSError) as error:
        raise UnsupportedModel(f"{path.name} cannot be read ({error}). Download it again.") from error


def _start(path: Path) -> tuple[bytes, int]:
    """The first bytes of a file and its size. Raises UnsupportedModel for what is no file, unreadable or empty."""
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):  # opening a pipe would wait for somebody to write into it
            raise UnsupportedModel(f"{path.name} is no file. Move it away.")
        with open(path, "rb") as file:
            start = file.read(64)
            size = file.seek(0, 2)
    except FileNotFoundError as error:
        gone = "is a link to a file that is not there" if path.is_symlink() else "is not there any more"
        raise UnsupportedModel(f"{path.name} {gone}. Put the file back, or choose another.") from error
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise UnsupportedModel(f"{path.name} cannot be read ({reason}). Check its permissions, or copy it again.") from error
    if not start:
        raise UnsupportedModel(f"{path.name} is empty. Download it again.")
    return start, size


def _check_allowed(path: Path, allow_pickles: bool) -> None:
    if not allow_pickles:
        raise UnsupportedModel(
            f"{path.name} is a pickle, which can carry programs. Use its .safetensors version, or start with --allow-pickles to "
            "have such files read as numbers only."
        )


def _check_kinds(path: Path, kinds: Iterable[str]) -> None:
    if unknown := next((kind for kind in kinds if kind not in BYTES), None):
        raise UnsupportedModel(
            f"{path.name} holds numbers of a kind that is not known here ({unknown[:40]}). Look for another version of it."
        )


def _safetensors_header(path: Path, start: bytes, size: int) -> Header:
    """The format: 8 bytes with the header's length, the header in JSON, the tensors (github.com/huggingface/safetensors)."""
    length = int.from_bytes(start[:8], "little")
    if len(start) < 9 or length > MAX_HEADER or start[8:9] != b"{":
        raise UnsupportedModel(f"{path.name} is no weights file{_guess(start)}. Download it again.")
    if size < 8 + length:
        raise UnsupportedModel(f"{path.name} breaks off before its contents begin. {_AGAIN}")
    entries = _parsed(path, length)
    metadata = entries.pop("__metadata__", None)
    try:
        facts = {name: Fact(_text(entry["dtype"]), _whole(entry["shape"])) for name, entry in entries.items()}
        _check_kinds(path, (fact.dtype for fact in facts.values()))
        end = _end((facts[name].bytes, _whole(entry["data_offsets"])) for name, entry in entries.items())
    except (KeyError, TypeError, ValueError) as error:
        raise UnsupportedModel(f"{path.name} is damaged: its list of tensors makes no sense. Download it again.") from error
    expected = 8 + length + end
    if size < expected:
        raise UnsupportedModel(f"{path.name} breaks off: {_readable(size)} of {_readable(expected)} are there. {_AGAIN}")
    if size > expected:
        raise UnsupportedModel(f"{path.name} is damaged: {_readable(size - expected)} follow its tensors. Download it again.")
    return Header(facts, {str(key): str(value) for key, value in metadata.items()} if isinstance(metadata, dict) else {})


_AGAIN = "Wait until its download has finished, or download it again."


def _parsed(path: Path, length: int) -> dict[str, Any]:
    try:
        with open(path, "rb") as file:
            file.seek(8)
            entries = json.loads(file.read(length))
    except (OSError, ValueError, RecursionError) as error:
        raise UnsupportedModel(f"{path.name} is damaged: its list of tensors cannot be read. Download it again.") from error
    if not isinstance(entries, dict):
        raise UnsupportedModel(f"{path.name} is damaged: it has no list of tensors. Download it again.")
    return entries


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError("no text")
    return value


def _whole(values: Any) -> tuple[int, ...]:
    """A short list of numbers from 0 up. Raises ValueError for anything else."""
    if not isinstance(values, list) or len(values) > MAX_SIDES:
        raise ValueError("no short list")
    if any(type(value) is not int or not 0 <= value < 1 << 63 for value in values):
        raise ValueError("no whole numbers from 0 up")
    return tuple(values)


def _end(tensors: Iterable[tuple[int, tuple[int, ...]]]) -> int:
    """Where the last tensor ends, counted from the end of the header; given the sizes and offsets of all.

    Raises ValueError when offsets do not fit the size, or when tensors overlap or leave gaps: the format allows neither.
    """
    reached = 0
    for (begin, end), size in sorted((offsets, size) for size, offsets in tensors):
        if begin != reached or end - begin != size:
            raise ValueError("offsets and shape disagree")
        reached = end
    return reached


def _readable(size: int) -> str:
    return f"{size / 1e9:.2f} GB" if size >= 1e9 else f"{size / 1e6:.1f} MB" if size >= 1e5 else f"{size} bytes"


def _guess(start: bytes) -> str:
    """What a file that holds no weights seems to be, in brackets, when that can be told."""
    if start.startswith(b"version https://git-lfs"):
        return " but the note that Git LFS leaves in its place"
    if start.startswith(b"GGUF"):
        return " of a kind that can be used here (it is a GGUF file)"
    if start.lstrip(b"\xef\xbb\xbf \r\n\t").lower().startswith((b"<!doctype", b"<html", b"<?xml")):
        return " but a web page that was saved under its name, as happens when a site asks for a login"
    return ""
