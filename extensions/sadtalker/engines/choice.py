"""Which engine animates the face, and why. The reason is said in every result."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from webui.plugin_api import ModelMissing

if TYPE_CHECKING:
    from extensions.sadtalker.engines.base import Engine

CHECKPOINTS = ("*.safetensors", "*.pth.tar", "*.pth")


@dataclass(frozen=True)
class Choice:
    """An engine by name, and the reason in words."""

    name: str
    reason: str


def choose(asked: str, models_dir: Path) -> Choice:
    """asked: "auto", "builtin" or "sadtalker". Raises ModelMissing when SadTalker's networks are asked for and cannot run."""
    folder = models_dir / "SadTalker"
    found = folder.is_dir() and any(next(folder.glob(pattern), None) for pattern in CHECKPOINTS)
    shown = f"{models_dir.name}/SadTalker"  # a result is shown to visitors too, whom the whole path does not concern
    if asked == "builtin":
        return Choice("builtin", "it was asked for")
    if asked == "sadtalker":
        raise ModelMissing(_missing(found, folder))
    if found:
        return Choice("builtin", f"this version cannot run the SadTalker checkpoints in {shown} yet")
    return Choice("builtin", f"{shown} has no SadTalker checkpoints")


def load(choice: Choice) -> Engine:
    """The engine itself. Imports its modules now."""
    from extensions.sadtalker.engines.geometric.engine import GeometricEngine

    return {"builtin": GeometricEngine}[choice.name]()


def _missing(found: bool, folder: Path) -> str:
    if found:
        return f"This version of Galatea cannot run the SadTalker checkpoints in {folder} yet. Use --engine builtin or auto."
    return (
        f"SadTalker's models are missing. They go into {folder} (SadTalker_V0.0.2_256.safetensors or _512, and the two "
        "mapping files), and a version that can run them is needed. Use --engine builtin, which needs no models."
    )
