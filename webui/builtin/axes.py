"""The axes of an X/Y/Z plot: what can be varied, A1111's way of writing values, and the request of each cell. Needs no torch."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import product
from typing import Any, Literal

from pydantic import BaseModel

from webui.imaging.requests import MAX_PROMPT, SEEDS, Txt2Img, read_size

AxisName = Literal[
    "Nothing", "Seed", "Variation seed", "Variation strength", "Steps", "CFG scale", "Prompt S/R", "Sampler", "Schedule type",
    "Size", "Model", "VAE", "Clip skip", "Denoising strength", "Hires upscaler", "Hires steps", "Hires scale",
]  # fmt: skip

NOTHING = "Nothing"
PROMPT = "Prompt S/R"
AXES = ("x", "y", "z")
MOST_CELLS = 400

_FIELDS = {
    "Seed": "seed", "Variation seed": "variation_seed", "Variation strength": "variation", "Steps": "steps", "CFG scale": "cfg",
    "Sampler": "sampler", "Schedule type": "schedule", "Size": "size", "Model": "model", "VAE": "vae", "Clip skip": "clip_skip",
    "Denoising strength": "strength", "Hires upscaler": "hires_upscaler", "Hires steps": "hires_steps",
    "Hires scale": "hires_scale",
}  # fmt: skip
"""Axis -> the field of the request that it varies."""

_THEIRS = {
    "Var. seed": "Variation seed", "Var. strength": "Variation strength", "CFG Scale": "CFG scale",
    "Denoising": "Denoising strength", "Checkpoint name": "Model",
}  # fmt: skip
"""A1111's names that are others than ours."""

_WHOLE, _NUMBER = r"([+-]?\d{1,12})", r"([+-]?\d{1,12}(?:\.\d{0,12})?)"
_RANGE = r"{0}\s*-\s*{0}(?:\s*\(\s*{0}\s*\)|\s*\[\s*([1-9]\d{{0,11}})\s*\])?"
_OWN_VAE = ("none", "automatic")


@dataclass(frozen=True)
class Value:
    """A value on an axis. written: as the legend has it; changes: of a request's fields."""

    written: str
    changes: Mapping[str, Any]
    search: str = ""
    """What is exchanged in the prompts, and for what; "" for none."""
    replacement: str = ""

    def applied(self, fields: dict[str, Any]) -> dict[str, Any]:
        """The fields with this value. Raises ValueError when that makes a prompt too long."""
        prompts = {name: self._exchanged(fields[name]) for name in ("prompt", "negative") if self.search}
        return {**fields, **prompts, **self.changes}

    def _exchanged(self, prompt: str) -> str:
        # Looked at before it is done: on three axes it could fill all memory.
        if len(prompt) + prompt.count(self.search) * (len(self.replacement) - len(self.search)) > MAX_PROMPT:
            raise ValueError(f"with “{self.replacement[:60]}” a prompt has more than {MAX_PROMPT} characters. Shorten it")
        return prompt.replace(self.search, self.replacement)


@dataclass(frozen=True)
class Cell:
    """A picture of the plot: its place on the axes, and what is asked for, by the names of a request's fields."""

    x: int
    y: int
    z: int
    fields: dict[str, Any]


def ours(axis: str) -> str:
    """The name of an axis of A1111's here."""
    return _THEIRS.get(axis, axis)


def values(axis: str, written: str, request: Mapping[str, Any]) -> list[Value]:
    """The values of an axis, one that changes nothing for NOTHING. Raises ValueError in words.

    Lists with commas, quoted as in CSV; for numbers also ranges, "1-5", "1-5 (+2)" for every other, "1-10 [4]" for four in all.
    request: the fields that it is about, with the prompts that Prompt S/R searches in.
    """
    if axis == NOTHING:
        return [Value("", {})]
    parts = [part for part in _listed(written) if part or axis == PROMPT]
    if not parts:
        raise ValueError(f"the axis {axis} has no values. Write them with commas between")
    if axis == PROMPT:
        if not parts[0] or not any(parts[0] in request[name] for name in ("prompt", "negative")):
            raise ValueError(f"{PROMPT} exchanges its first words for the others, and “{parts[0][:60]}” is not in the prompt")
        return [Value(part, {}, parts[0], part) for part in parts]
    field = _FIELDS[axis]
    read = _READERS.get(_type_of(field), _texts)
    found = [value for part in parts for value in read(axis, part)]
    if field == "seed":
        found = [(request["seed"] + place) % SEEDS if value == -1 else value for place, value in enumerate(found)]
    return [Value(str(value), {field: _kept(axis, field, value)}) for value in found]


def cells(request: BaseModel, base: dict[str, Any]) -> tuple[dict[str, list[Value]], list[Cell]]:
    """The values on each axis, and the cells row by row. base: what all cells have. Raises ValueError in words."""
    asked = {axis: (getattr(request, f"{axis}_axis"), getattr(request, f"{axis}_values")) for axis in AXES}
    names = [name for name, _ in asked.values() if name not in (NOTHING, PROMPT)]
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise ValueError(f"{twice} is on two axes. Choose another one for one of them")
    lines = {axis: values(name, written, base) for axis, (name, written) in asked.items()}
    count = len(lines["x"]) * len(lines["y"]) * len(lines["z"])
    if count > MOST_CELLS:
        raise ValueError(f"that is a plot of {count} pictures, and the most is {MOST_CELLS}. Leave some values out")
    made = []
    for z, y, x in product(*(range(len(lines[axis])) for axis in reversed(AXES))):
        fields = base
        for axis, place in zip(AXES, (x, y, z), strict=True):
            fields = lines[axis][place].applied(fields)
        made.append(Cell(x, y, z, fields))
    return lines, made


def _listed(written: str) -> list[str]:
    # csv refuses a lone carriage return, and Python 3.10's a NUL.
    lines = io.StringIO(written.replace("\0", " "), newline=None)
    return [part.strip() for line in csv.reader(lines, skipinitialspace=True) for part in line]


def _type_of(field: str) -> type | None:
    rule = Txt2Img.model_fields[field].annotation
    return next((kind for kind in (int, float) if rule in (kind, kind | None)), None)


def _texts(_axis: str, part: str) -> list[str]:
    return [part]


def _whole(axis: str, part: str) -> Iterator[int]:
    for number in _numbers(axis, part, _WHOLE, 1.0):
        yield int(number)


def _real(axis: str, part: str) -> Iterator[float]:
    for number in _numbers(axis, part, _NUMBER, 1.0):
        yield round(number, 6)


_READERS: dict[type | None, Callable[[str, str], Any]] = {int: _whole, float: _real}


def _numbers(axis: str, part: str, number: str, step: float) -> list[float]:
    if re.fullmatch(number, part):
        return [float(part)]
    found = re.fullmatch(_RANGE.format(number), part)
    if found is None:
        raise ValueError(f"{axis} wants numbers such as 1, 2, 3 or 1-10 (+3) or 1-10 [4], not “{part[:60]}”")
    first, last = float(found[1]), float(found[2])
    if found[4]:
        count = min(int(found[4]), MOST_CELLS + 1)
        return [first + (last - first) * index / max(1, count - 1) for index in range(count)]
    step = float(found[3]) if found[3] else step
    if step == 0 or (last - first) * step < 0:
        raise ValueError(f"{axis} “{part[:60]}” never gets to its end. Turn the sign of its step")
    count = min(int((last - first) / step + 1e-6) + 1, MOST_CELLS + 1)
    return [first + step * index for index in range(count)]


def _kept(axis: str, field: str, value: Any) -> Any:
    """The value as the request has it. Raises ValueError when that is out of its bounds."""
    if field == "size":
        try:
            width, height = read_size(value)
        except ValueError as error:
            raise ValueError(f"Size {value[:40]} {error}") from error
        return f"{width}x{height}"
    if field == "vae" and value.lower() in _OWN_VAE:
        return None
    for rule in Txt2Img.model_fields[field].metadata:
        low, high, longest = (getattr(rule, bound, None) for bound in ("ge", "le", "max_length"))
        if longest is not None and len(value) > longest:
            raise ValueError(f"{axis} “{value[:40]}…” has more than {longest} characters. Shorten it")
        if low is not None and value < low:
            raise ValueError(f"{axis} must be at least {low:.12g}, not {value:.12g}")
        if high is not None and value > high:
            raise ValueError(f"{axis} must be at most {high:.12g}, not {value:.12g}")
    return value
