"""Which engine animates the face, and why. The reason is said in every result."""

from __future__ import annotations

import importlib.util
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING

from extensions.sadtalker.engines.neural import checkpoints
from extensions.sadtalker.jobs import degrees
from webui.plugin_api import GalateaError, InvalidRequest, ModelMissing, UnsupportedModel, weights_catalog

if TYPE_CHECKING:
    from extensions.sadtalker.engines.base import Engine
    from extensions.sadtalker.engines.neural.checkpoints import Checkpoint
    from extensions.sadtalker.jobs import TalkingHeadRequest
    from webui.plugin_api import Settings

AUTO, BUILTIN, SADTALKER = "auto", "builtin", "sadtalker"

LITE = "SadTalker's networks need the full installation, and this is the small one"

_FILES = ("*.safetensors", "*.pth.tar", "*.pth")


@dataclass(frozen=True)
class Choice:
    """An engine by name, and the reason in words. checkpoint: the files that it draws with, of SadTalker's networks."""

    name: str
    reason: str
    checkpoint: Checkpoint | None = None


def choose(asked: str, settings: Settings, size: int) -> Choice:
    """asked: "auto", "builtin" or "sadtalker"; size: 256 or 512. Reads no more than headers.

    Raises what is wrong when SadTalker's networks are asked for and cannot run.
    """
    if asked == BUILTIN:
        return Choice(BUILTIN, "it was asked for")
    try:
        found = _found(settings, size)
    except GalateaError as error:
        if asked == SADTALKER:
            raise
        return without_networks(error, settings)
    where = f"SadTalker's networks are in {found.folder.parent.name}/{found.folder.name}"
    reason = "it was asked for" if asked == SADTALKER else where
    if found.size != size:
        reason += f"; those for {size} pixels are not there, so the head is drawn at {found.size}"
    return Choice(SADTALKER, reason, found)


def without_networks(error: GalateaError, settings: Settings) -> Choice:
    """The built-in engine, because of what is wrong with SadTalker's files."""
    return Choice(BUILTIN, _why_not(error, settings))


def load(chosen: Choice, settings: Settings, request: TalkingHeadRequest) -> Engine:
    """The engine itself. Imports its modules now; its models are read when it is made `ready`."""
    if chosen.checkpoint is not None:
        known = weights_catalog.shared(settings.models_dir, settings.allow_pickles)
        # For files never used before, their digests (see Engine.models) take about as long as the import of PyTorch.
        with ThreadPoolExecutor(1) as beside:
            beside.map(known.sha256, chosen.checkpoint.paths)
            from extensions.sadtalker.engines.neural.engine import NeuralEngine

        return NeuralEngine(chosen.checkpoint, settings, request.preprocess, request.accuracy, request.batch_size)
    from extensions.sadtalker.engines.geometric.engine import GeometricEngine

    return GeometricEngine()


def preload() -> None:
    """Imports what SadTalker's networks need, where that is installed. Their weights are not loaded ahead: nobody has said yet
    which size, and pictures may need the memory.
    """
    if importlib.util.find_spec("torch") is not None:
        import extensions.sadtalker.engines.neural.engine  # noqa: F401


def check(name: str, request: TalkingHeadRequest) -> None:
    """Raises InvalidRequest, and says which engine can, when the request asks for what this engine cannot do."""
    if name == SADTALKER:
        return
    from extensions.sadtalker.engines.geometric.posing import refused

    if reason := refused(degrees(request.yaw), degrees(request.pitch), degrees(request.roll)):
        raise InvalidRequest(f"{reason} Choose less, or the engine sadtalker with its networks in models/SadTalker.")
    if request.batch_size is not None:
        raise InvalidRequest(
            "The built-in engine draws one frame after another. Leave --batch-size out, or choose the engine sadtalker with its "
            "networks in models/SadTalker."
        )


def _found(settings: Settings, size: int) -> Checkpoint:
    if settings.lite:
        raise ModelMissing(f"{LITE}. Run ./launch.sh --full to complete it, or use --engine builtin.")
    return checkpoints.find(checkpoints.folders(settings), size)


def _why_not(error: GalateaError, settings: Settings) -> str:
    """A reason for the built-in engine. A result is shown to visitors too, whom whole paths do not concern."""
    if settings.lite:
        return LITE
    folders = checkpoints.folders(settings)
    if isinstance(error, UnsupportedModel) or any(next(folder.glob(one), None) for folder in folders for one in _FILES):
        return f"SadTalker's files cannot be used: {error}"
    return f"{folders[0].parent.name}/{folders[0].name} has no SadTalker checkpoints"
