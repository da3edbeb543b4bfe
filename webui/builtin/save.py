"""Pictures as PNG files that carry what they were made with, and the way back: a file's settings as fields of a request.

The facts are A1111's infotext, so its users' programs read them. Some of our own are beside them, without which a request could
not be read back exactly. Needs no torch.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import BaseModel, TypeAdapter, ValidationError

from webui.builtin import axes
from webui.imaging import infotext
from webui.imaging.infotext import Infotext
from webui.imaging.requests import Img2Img, OnePicture, PictureRequest
from webui.plugin_api import InvalidRequest

_FACTS = 4000
"""Bytes, at least as many as all that an infotext says besides the prompts."""

KIND = "Galatea"
"""Names the kind of job that made a file."""
OWN_SIZE = "Own size"
"""No size was asked for: it followed from the picture that was worked on."""
RESIZE = "Resize mode"
FILM_STRIP = "Film strip"
UNFINISHED = "Stopped early"
SAFETY = "Safety checker"
"""Says that the picture was blurred by it."""
LEGEND = "Legend"
"""False when a plot has none."""
SCRIPT, PLOT = "Script", "X/Y/Z plot"
"""How A1111 marks a plot."""

_FIELDS = {
    "Steps": "steps", "Sampler": "sampler", "Schedule type": "schedule", "CFG scale": "cfg", "Seed": "seed", "Size": "size",
    "VAE": "vae", "Variation seed": "variation_seed", "Variation seed strength": "variation", "Clip skip": "clip_skip",
    "Denoising strength": "strength", "Hires upscale": "hires_scale", "Hires resize": "hires_size", "Hires steps": "hires_steps",
    "Hires upscaler": "hires_upscaler", "Mask blur": "mask_blur", "Masked content": "content", "Masked area padding": "padding",
    RESIZE: "resize", FILM_STRIP: "filmstrip", LEGEND: "legend",
    "X Type": "x_axis", "X Values": "x_values", "Y Type": "y_axis", "Y Values": "y_values",
    "Z Type": "z_axis", "Z Values": "z_values",
}  # fmt: skip
"""Fact -> field of a request that has the same value."""

_SWITCHES = {
    "tiling": ("Tiling", "True"),
    "mask_invert": ("Mask mode", "Inpaint not masked"),
    "only_masked": ("Inpaint area", "Only masked"),
}
"""Field that is true -> the fact and value that say so."""


def own_facts(kind: str, request: PictureRequest, complete: bool) -> dict[str, object]:
    """What A1111 has no words for, for infotext.write."""
    on_picture = isinstance(request, Img2Img)
    return {
        KIND: kind,
        OWN_SIZE: True if on_picture and request.size is None else None,
        RESIZE: request.resize if on_picture else None,
        FILM_STRIP: request.filmstrip.strip() or None,
        UNFINISHED: None if complete else True,
    }


def write_picture(path: Path, rgb: np.ndarray, text: str, kind: infotext.Kind = "png", processed: str = "") -> None:
    """A file of an (H, W, 3) uint8 RGB picture, with its infotext inside, and what was done to it when it was finished. Raises
    OSError, InvalidRequest as `check`.
    """
    from PIL import Image

    path.write_bytes(infotext.embed(Image.fromarray(rgb), text, kind, processed=processed))


def copy_picture(source: Path, path: Path, kind: infotext.Kind) -> None:
    """A picture that `write_picture` wrote as PNG, as a file of this kind. Raises as `write_picture`."""
    if kind == "png":
        shutil.copyfile(source, path)
        return
    from PIL import Image

    with Image.open(source) as picture:
        write_picture(path, np.asarray(picture.convert("RGB")), infotext.extract(source) or "", kind)


def check(request: OnePicture) -> None:
    """Raise InvalidRequest when the request could not be kept in a file of the kind that it asks for."""
    said = len(f"{request.prompt}{request.negative}".encode("utf-16"))
    if request.format == "jpg" and said > infotext.LARGEST_EXIF - _FACTS:
        raise InvalidRequest(infotext.TOO_LONG)


def recall(kind: str, model: type[BaseModel], path: Path) -> dict[str, Any] | None:
    """The fields of a `model` that a PNG, JPEG or WebP of this kind of job was made with; None when it is of no or another kind.

    Files that A1111 made count, too. Fields that are not said are missing, and so are those whose values cannot be used here.
    """
    try:
        text = infotext.extract(path)
    except OSError:
        return None
    found = infotext.read(text or "")
    known = fields(found) | {"format": path.suffix.lower().lstrip(".").replace("jpeg", "jpg")}
    return _usable(model, known) if kind_of(found) == kind else None


def kind_of(found: Infotext) -> str | None:
    """The kind of job that these facts are of; None when they are of no picture."""
    facts = found.facts
    if "Steps" not in facts:
        return None
    if KIND in facts:
        return facts[KIND]
    if facts.get(SCRIPT) == PLOT:
        return "plot"
    if "Mask blur" in facts:
        return "inpaint"
    return "img2img" if "Denoising strength" in facts and not _hires(facts) else "txt2img"


def fields(found: Infotext) -> dict[str, Any]:
    """Prompts and facts by the names of a request's fields. Values are text, as they were written; no kind has all of them."""
    facts = found.facts
    known: dict[str, Any] = {"prompt": found.prompt, "negative": found.negative_prompt}
    known |= {_FIELDS[fact]: value for fact, value in facts.items() if fact in _FIELDS}
    known |= {name: facts.get(fact) == value for name, (fact, value) in _SWITCHES.items()}
    known["hires"] = _hires(facts)
    known |= {name: axes.ours(known[name]) for name in ("x_axis", "y_axis", "z_axis") if name in known}
    if "Model" in facts or "Model hash" in facts:
        known["model"] = _title(facts.get("Model", ""), facts.get("Model hash", ""))
    if OWN_SIZE in facts:
        known.pop("size", None)
    return known


def _hires(facts: dict[str, str]) -> bool:
    return any(fact.startswith("Hires ") for fact in facts)


def _title(name: str, digits: str) -> str:
    """As weights.catalog finds it: by the name, or by the hash when the file was called otherwise then."""
    return f"{name} [{digits}]" if name and digits else name or digits


def _usable(model: type[BaseModel], known: dict[str, Any]) -> dict[str, Any]:
    """Those fields that the model has, as it reads them."""
    kept = {}
    for name, rule in model.model_fields.items():
        if name in known:
            try:
                kept[name] = TypeAdapter(rule.rebuild_annotation()).validate_python(known[name])
            except ValidationError:
                continue
    return kept
