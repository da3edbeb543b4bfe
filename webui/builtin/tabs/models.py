"""Which models the page offers, and what each is best at. Looks into headers and small files only: no torch, no Gradio."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

from webui.plugin_api import ModelMissing
from webui.weights.catalog import POCKET, Catalog, Entry, shared

if TYPE_CHECKING:
    from webui.plugin_api import Settings

SIDES = {"sd1": 512, "sd2": 512, "sdxl": 1024}
SD2_V = 768
LEAST = 64
"""Pixels: no picture can be asked for that is smaller."""


def checkpoints(settings: Settings) -> list[Entry]:
    """Those that can be used, in the catalogue's order."""
    return [entry for entry in _catalog(settings).checkpoints() if not entry.problem]


def vaes(settings: Settings) -> list[Entry]:
    """Those that can be used."""
    return [entry for entry in _catalog(settings).vaes() if not entry.problem]


def problems(settings: Settings) -> list[str]:
    """Why the others cannot be used, a sentence each."""
    known = _catalog(settings)
    return [entry.problem for entry in (*known.checkpoints(), *known.vaes()) if entry.problem]


def find(settings: Settings, name: str | None, *, inpaint: bool = False) -> Entry | None:
    """The checkpoint that is called so; without a name the one to begin with. None when there is none that can be used.

    inpaint: begin with one that was made for inpainting, if there is any; else with one that was not.
    """
    if not name:
        return min(checkpoints(settings), key=lambda entry: entry.found.inpaint != inpaint, default=None)
    try:
        entry = _catalog(settings).find(name)
    except ModelMissing:
        return None
    return None if entry.problem else entry


def is_pocket(entry: Entry) -> bool:
    """Whether it is the small model that comes with the studio."""
    return entry.name == POCKET and entry.path.is_dir()


def side(entry: Entry) -> int:
    """Pixels of the square pictures that it was trained on."""
    own = _side_of_folder(entry.path) if entry.path.is_dir() else None
    known = SD2_V if entry.found.architecture == "sd2" and entry.found.prediction == "v_prediction" else None
    return max(LEAST, own or known or SIDES.get(entry.found.architecture, SIDES["sd1"]))


def _catalog(settings: Settings) -> Catalog:
    return shared(settings.models_dir, settings.allow_pickles)


def _side_of_folder(folder: Path) -> int | None:
    """What a diffusers folder says itself: the side of the latents, times the pixels to each."""
    try:
        latents = json.loads((folder / "unet" / "config.json").read_text(encoding="utf-8"))["sample_size"]
        blocks = json.loads((folder / "vae" / "config.json").read_text(encoding="utf-8"))["block_out_channels"]
        return int(latents) * 2 ** (len(blocks) - 1)
    except (OSError, ValueError, KeyError, TypeError):
        return None
