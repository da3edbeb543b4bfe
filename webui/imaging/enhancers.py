"""Networks that make pictures better, from weights files: which one a file is for is found out by spandrel, from its tensors.

Nothing is downloaded, and of a pickle only numbers are read. What is done with the networks is in restore.py and upscale.py.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from webui import devices
from webui.errors import Cancelled, OutOfMemory, UnsupportedModel
from webui.weights import detect, files
from webui.weights.catalog import Entry
from webui.weights.detect import Found
from webui.weights.hashes import stamp
from webui.weights.layouts import bare

if TYPE_CHECKING:
    from torch import Tensor, nn

STOPPED = "The job was cancelled before the picture was there."


@dataclass(frozen=True)
class Loaded:
    """A network in evaluation mode on its device. about: spandrel's description of it; bytes: what its numbers take."""

    name: str
    found: Found
    about: Any
    device: str
    bytes: int

    @property
    def network(self) -> nn.Module:
        return self.about.model


def load(path: Path, wanted: str, *, device: str = "cpu", allow_pickles: bool = False) -> Loaded:
    """The network in a file, in fp32. wanted: "upscaler" or "restorer".

    Raises UnsupportedModel for a file that is broken, of another kind, a pickle where those are not allowed, or of a make that
    has no network here.
    """
    header = files.header(path, allow_pickles=allow_pickles)
    found = detect.detect(header)
    if problem := detect.wrong(found, wanted, path.name):
        raise UnsupportedModel(problem)
    read = files.reader(path, allow_pickles=allow_pickles)
    about = _built(path.name, found, {name: read(inside) for name, inside in bare(header).items()})
    about.model.eval().requires_grad_(False).to(device)
    size = sum(tensor.numel() * tensor.element_size() for tensor in (*about.model.parameters(), *about.model.buffers()))
    return Loaded(path.stem, found, about, device, size)


def _built(name: str, found: Found, tensors: dict[str, Tensor]) -> Any:
    """spandrel's description, with the network in it."""
    from spandrel import MAIN_REGISTRY

    if found.architecture == "codeformer":
        import spandrel_extra_arches  # pyright: ignore[reportMissingImports]

        spandrel_extra_arches.install(ignore_duplicates=True)
    try:
        return MAIN_REGISTRY.load(tensors)
    except Exception as error:  # it takes a file apart by what it expects: tensors that are not there fail in any way
        if devices.ran_out(error):
            raise
        raise UnsupportedModel(f"{name} is {found.title} of a make that is not known here. Look for another version.") from error


def usable(entry: Entry) -> Entry:
    """The entry. Raises UnsupportedModel when it has a problem, before anything is read of it."""
    if entry.problem:
        raise UnsupportedModel(entry.problem)
    return entry


@contextmanager
def leased(entry: Entry, where: str, read: Callable[[], Any], version: str = "") -> Iterator[Any]:
    """What `read` loads of an entry for this device (it has `.bytes`), kept among the device's models after the block.

    version: tells it from the same file loaded another way.
    """

    def load() -> tuple[Any, int]:
        loaded = read()
        return loaded, loaded.bytes

    key = devices.Key(entry.name, where, (str(entry.path), *stamp(entry.path), version))
    with devices.models(where).lease(key, load, expects=entry.found.bytes) as loaded:
        yield loaded


@contextmanager
def stoppable(network: nn.Module, stopped: Callable[[], bool]) -> Iterator[None]:
    """Inside, a pass through the network ends within one of its layers once `stopped` says so: raises Cancelled. A pass may take
    many seconds on a processor."""

    def look(*_given: Any) -> None:
        if stopped():
            raise Cancelled(STOPPED)

    hooks = [layer.register_forward_pre_hook(look) for layer in network.modules() if not any(layer.children())]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def too_little(what: str) -> OutOfMemory:
    return OutOfMemory(f"There is too little memory for {what}. Close other programs, or choose a smaller picture or model.")
