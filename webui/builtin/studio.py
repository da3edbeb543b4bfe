"""What a worker process makes pictures with: the models it has, those that are loaded, and the device they run on.

A job chooses once (`choose`) and leases what it chose as often as it is run (`leased`). Nothing is exchanged silently: what was
chosen is said, and what is not there any more is an error.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from webui.imaging import memory
from webui.imaging.load import PRECISIONS, Model, load
from webui.imaging.memory import GIB, WORKING, Device, Plan
from webui.imaging.requests import PictureRequest
from webui.plugin_api import InvalidRequest, ModelMissing, UnsupportedModel
from webui.weights.cache import Cache
from webui.weights.catalog import Catalog, Entry

if TYPE_CHECKING:
    from webui.plugin_api import Settings

_BYTES = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2}
"""Of a number, by safetensors' name for its kind."""


@dataclass(frozen=True)
class Means:
    """What a job makes its pictures with. Chosen once, so that a job which goes on after a restart does not change in its middle.

    model, vae: names in the catalogue. model_hash, vae_hash: sha256. vae: None for the checkpoint's own.
    vae_reason: why this VAE, in words. longest_side: pixels that pictures are read at, at most.
    """

    model: str
    model_hash: str
    vae: str | None
    vae_hash: str | None
    vae_reason: str
    precision: str
    longest_side: int


def choose(settings: Settings, request: PictureRequest) -> Means:
    """What the request is to be made with.

    Raises ModelMissing, UnsupportedModel for a file that is broken or of another kind, InvalidRequest for a missing device.
    """
    known = catalog(settings)
    entry = known.hashed(_sound(known.find(request.model) if request.model else _default(known)))
    vae, reason = _vae(known, entry, request.vae)
    vae = vae and known.hashed(_sound(vae))
    device, _ = find_device(settings.device)
    return Means(
        model=entry.name,
        model_hash=entry.hash or "",
        vae=vae and vae.name,
        vae_hash=vae and vae.hash,
        vae_reason=reason,
        precision=memory.plan(device, _parameters(entry)).precision,
        longest_side=settings.longest_side,
    )


@contextmanager
def leased(settings: Settings, means: Means) -> Iterator[tuple[Model, Plan]]:
    """The model and how it is to be run. It stays in memory until the block ends, and after that as long as there is room.

    Raises ModelMissing when the files are not those that were chosen, and what load.load raises.
    """
    entry, vae = _found(settings, means)
    device, where = find_device(settings.device)
    plan = memory.plan(device, _parameters(entry), precision=means.precision, device=where)
    expects = _parameters(entry) * PRECISIONS[plan.precision].itemsize

    def loaded() -> tuple[Model, int]:
        options: dict[str, Any] = {"device": plan.load_device, "vae": vae, "allow_pickles": settings.allow_pickles}
        model = load(entry, precision=plan.precision, **options)
        return model, model.size

    key = (str(entry.path), means.model_hash, means.vae_hash, plan.precision, plan.load_device)
    with models(where).lease(key, loaded, expects=expects) as model:
        yield model, plan


def catalog(settings: Settings) -> Catalog:
    """The models of this studio."""
    return _catalog(settings.models_dir, settings.allow_pickles)


@lru_cache
def _catalog(models_dir: Path, allow_pickles: bool) -> Catalog:
    return Catalog(models_dir, allow_pickles=allow_pickles)


@lru_cache
def models(where: str) -> Cache:
    """The models that this process holds for a device: on a card what it has beside a picture, else half of the memory."""
    device, _ = find_device(where)
    return Cache(max(GIB, device.memory - GIB - WORKING) if device.kind == "cuda" else device.memory // 2)


def find_device(wanted: str) -> tuple[Device, str]:
    """The device that the settings name, and PyTorch's name for it. Of several the first: a worker process is told its own.

    Raises InvalidRequest when it is not there.
    """
    import torch

    wanted = wanted.split(",")[0]
    best = memory.look()
    kind, _, number = wanted.partition(":")
    if wanted == "auto":
        return best, best.kind
    if kind == "cpu":
        return Device("cpu", "CPU", _main_memory()), "cpu"
    if kind != best.kind or (number and int(number) >= torch.cuda.device_count()):
        raise InvalidRequest(f"PyTorch finds no device {wanted} here. Choose another one with --device, such as auto.")
    if number:
        card = torch.cuda.get_device_properties(int(number))
        best = replace(best, name=card.name, memory=card.total_memory)
    return best, wanted


def _main_memory() -> int:
    import psutil

    return psutil.virtual_memory().total


def _default(known: Catalog) -> Entry:
    """The catalogue's; when all that is there is unusable, why."""
    try:
        return known.default()
    except ModelMissing:
        broken = known.checkpoints()
        if not broken:
            raise
        raise UnsupportedModel(broken[0].problem) from None


def _vae(known: Catalog, entry: Entry, wanted: str | None) -> tuple[Entry | None, str]:
    """The VAE to use instead of the checkpoint's own, if any, and why."""
    if wanted:
        return known.find_vae(wanted), "asked for"
    beside = f"{Path(entry.stem).name}.vae."
    for vae in known.vaes():
        if vae.path.parent == entry.path.parent and vae.path.name.startswith(beside):
            return vae, "it lies beside the checkpoint"
    return None, "the checkpoint's own"


def _found(settings: Settings, means: Means) -> tuple[Entry, Entry | None]:
    known = catalog(settings)
    entry = known.hashed(_sound(known.find(means.model)))
    vae = known.hashed(_sound(known.find_vae(means.vae))) if means.vae else None
    if (entry.hash, vae and vae.hash) != (means.model_hash, means.vae_hash):
        raise ModelMissing("The model that this job was begun with was replaced meanwhile. Start it again.")
    return entry, vae


def _sound(entry: Entry) -> Entry:
    """The entry. Raises UnsupportedModel when it has a problem, before anything is read of it."""
    if entry.problem:
        raise UnsupportedModel(entry.problem)
    return entry


def _parameters(entry: Entry) -> int:
    return max(1, entry.found.bytes // _BYTES.get(entry.found.dtype, 4))
