"""What a process computes on, and the models that it keeps in that memory from one job to the next, whoever loaded them.

All kinds of jobs share one cache for each device, so that what one of them needs makes room among the models of the others.
PyTorch is imported when a device is looked for, and not before.
"""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from webui.errors import InvalidRequest
from webui.weights.cache import Cache

if TYPE_CHECKING:
    from webui.settings import Settings

GIB = 2**30

WORKING = 2 * GIB
"""Memory that work of usual size takes beside the weights."""


@dataclass(frozen=True)
class Device:
    """What there is to compute with. kind: "cuda" (AMD's cards, too), "mps" or "cpu".

    memory: bytes of the card, or of the machine where both are one. fp16, bf16: whether it computes in these well.
    """

    kind: str
    name: str
    memory: int
    fp16: bool = False
    bf16: bool = False

    @property
    def one_memory(self) -> bool:
        """Whether it has no memory but the machine's, so that there is nothing to offload from or to."""
        return self.kind != "cuda"


@dataclass(frozen=True)
class Key:
    """What is held. name: for people; device: PyTorch's name of where it is; version: whatever else tells it from others."""

    name: str
    device: str
    version: tuple[Any, ...] = ()


@dataclass(frozen=True)
class Loaded:
    """Something large that a worker holds in memory. name: for people; device: where it is, such as cpu or cuda:1."""

    name: str
    bytes: int
    device: str


def best() -> Device:
    """The best device of this machine."""
    import torch

    if torch.cuda.is_available():
        return _card(0)
    if torch.backends.mps.is_available():
        return Device("mps", "Apple GPU", _main_memory(), fp16=True)
    return Device("cpu", "CPU", _main_memory())


def find(wanted: str) -> tuple[Device, str]:
    """The device that the settings name, and PyTorch's name for it. Of several the first: a worker process is told its own.

    Raises InvalidRequest when it is not there.
    """
    import torch

    wanted = wanted.split(",")[0]
    kind, _, number = wanted.partition(":")
    if kind == "cpu":
        return Device("cpu", "CPU", _main_memory()), "cpu"
    device = best()
    if wanted == "auto":
        return device, device.kind
    if kind != device.kind or (number and int(number) >= torch.cuda.device_count()):
        raise InvalidRequest(f"PyTorch finds no device {wanted} here. Choose another one with --device, such as auto.")
    return _card(int(number)) if number else device, wanted


def machine(settings: Settings) -> dict[str, Any]:
    """The device of this process (JobKind.machine): fields of Device, and `where`, PyTorch's name for it; or {"problem": why
    there is none}; or nothing, as long as nobody has needed PyTorch.
    """
    if "torch" not in sys.modules:
        return {}
    try:
        device, where = find(settings.device)
    except InvalidRequest as error:
        return {"problem": str(error)}
    return asdict(device) | {"where": where}


_caches: dict[str, Cache] = {}


def models(where: str) -> Cache:
    """The models that this process holds for a device, by Key: on a card what it has beside the work, else half of the memory."""
    if where not in _caches:
        device, _ = find(where)
        _caches[where] = Cache(device.memory // 2 if device.one_memory else max(GIB, device.memory - GIB - WORKING))
    return _caches[where]


def loaded() -> Sequence[Loaded]:
    """The models that this process holds, those of one name together (JobKind.loaded)."""
    sizes: dict[tuple[str, str], int] = {}
    for cache in list(_caches.values()):
        for key, size in cache.sizes().items():
            assert isinstance(key, Key)
            sizes[key.name, key.device] = sizes.get((key.name, key.device), 0) + size
    return [Loaded(name, size, device) for (name, device), size in sizes.items()]


def unload() -> None:
    """Let go of them, each when no job uses it any more (JobKind.unload)."""
    for cache in list(_caches.values()):
        cache.unload()


_WORDS = ("out of memory", "can't allocate memory", "not enough memory", "CUBLAS_STATUS_ALLOC_FAILED")


def ran_out(error: BaseException) -> bool:
    """Whether it means that memory ran out, on any device. PyTorch, whose errors are RuntimeErrors, need not be imported."""
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return True
    return isinstance(error, RuntimeError) and any(word in str(error) for word in _WORDS)


def check_compiler(where: str) -> None:
    """Raise InvalidRequest when PyTorch will find nothing to compile with for this device: its own error would fill pages."""
    from torch.utils._triton import has_triton

    compiler = os.environ.get("CXX") or ("cl" if sys.platform == "win32" else "c++")
    found = shutil.which(compiler) if where == "cpu" else has_triton()
    if not found:
        missing = f"a C++ compiler ({compiler})" if where == "cpu" else "the package triton"
        raise InvalidRequest(f"Compiling needs {missing}, which is not there. Install it, or leave the setting 'compile' out.")


def _card(number: int) -> Device:
    import torch

    card = torch.cuda.get_device_properties(number)
    # NVIDIA's GTX 16 cards give numbers that are none in fp16 (A1111's modules/devices.py).
    fp16 = "GTX 16" not in card.name
    with torch.cuda.device(number):
        bf16 = torch.cuda.is_bf16_supported(including_emulation=False)
    return Device("cuda", card.name, card.total_memory, fp16, bf16)


def _main_memory() -> int:
    import psutil

    return psutil.virtual_memory().total
