"""Pickled weights (.ckpt, .pt, .pth), read as numbers only.

A pickle is a program. `shapes` runs it on a machine that knows nothing but tensors, without torch; `tensors` leaves it to torch's
own restricted reader (`weights_only=True`). Whatever else stands in the file is refused by both, and never imported.
"""

from __future__ import annotations

import pickle
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from webui.errors import UnsupportedModel

if TYPE_CHECKING:
    import torch

_ZIP = b"PK\x03\x04"

MAX_PROGRAM = 25_000_000
"""The longest program in bytes that is run; those of full checkpoints have 0.4 MB. The numbers lie beside it."""

_STORAGES = {
    "DoubleStorage": "F64", "FloatStorage": "F32", "HalfStorage": "F16", "BFloat16Storage": "BF16", "LongStorage": "I64",
    "IntStorage": "I32", "ShortStorage": "I16", "CharStorage": "I8", "ByteStorage": "U8", "BoolStorage": "BOOL",
}  # fmt: skip
"""torch's storages by safetensors' names for the kinds of numbers in them."""

_INERT = (
    "pytorch_lightning.callbacks.model_checkpoint.ModelCheckpoint",
    "numpy.core.multiarray.scalar",
    "numpy._core.multiarray.scalar",
    "numpy.dtype",
    "_codecs.encode",
    "collections.Counter",
)
"""What the training program left in well-known checkpoints, SD 1.4's among them, and plans of learning rates. It is never
imported: an empty object takes its place."""


class Inert:
    """Stands for an object that no tensor needs. Takes any arguments and any state, and does nothing with them."""

    def __init__(self, *_arguments: Any) -> None: ...

    def __setstate__(self, _state: Any) -> None: ...


class _Shape(tuple[str, tuple[int, ...]]):
    """A tensor as (kind of numbers, shape)."""


def is_pickle(start: bytes) -> bool:
    """Whether a file that begins with these bytes is a pickle, or a zip as `torch.save` writes it."""
    looks_like_safetensors = start[4:9] == b"\0\0\0\0{"  # its length, below 4 GiB, and JSON
    return start.startswith(_ZIP) or (start[:1] == b"\x80" and not looks_like_safetensors)


def shapes(path: Path) -> dict[str, tuple[str, tuple[int, ...]]]:
    """The tensors of a pickle by name, as (kind of numbers, shape). Raises UnsupportedModel when it is damaged or holds more than
    numbers."""
    try:
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                program = next(one for one in archive.infolist() if one.filename.endswith("data.pkl"))
                if program.file_size > MAX_PROGRAM:
                    raise ValueError("it unpacks to more than any list of tensors takes")
                with archive.open(program) as file:
                    content = _Reader(file).load()
        else:
            with open(path, "rb") as file:
                content = _legacy(file)
    except _MoreThanNumbers as error:
        raise _refused(path, str(error)) from error
    except Exception as error:  # a damaged pickle can make its reader fail in any way
        raise UnsupportedModel(f"{path.name} is damaged or breaks off. Download it again.") from error
    return {name: tuple(found) for name, found in _flat(content).items() if isinstance(found, _Shape)}  # pyright: ignore[reportReturnType]


def tensors(path: Path) -> Mapping[str, torch.Tensor]:
    """The tensors of a pickle by name, mapped from the disk where the file allows it. Raises UnsupportedModel as `shapes`
    does."""
    import torch

    inert: list[Any] = [(Inert, name) for name in _INERT]
    try:
        with torch.serialization.safe_globals(inert):
            content = torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except pickle.UnpicklingError as error:
        raise _refused(path, "something else") from error
    except MemoryError:
        raise
    except Exception as error:  # as in `shapes`
        raise UnsupportedModel(f"{path.name} is damaged or breaks off. Download it again.") from error
    return {name: value for name, value in _flat(content).items() if isinstance(value, torch.Tensor)}


def _refused(path: Path, what: str) -> UnsupportedModel:
    return UnsupportedModel(f"{path.name} holds more than numbers ({what}) and is not opened. Use its .safetensors version.")


def _legacy(file: IO[bytes]) -> Any:
    """torch's format of before 2020: a magic number, a version and facts about the machine, then what was saved."""
    for _part in range(3):
        _Reader(file).load()
    return _Reader(file).load()


def _flat(content: Any) -> dict[str, Any]:
    """Tensors by the name they would have in a safetensors file: without the wrappers that trainers put around the weights."""
    for wrapper in ("state_dict", "params_ema", "params"):
        if isinstance(content, dict) and isinstance(content.get(wrapper), dict):
            content = content[wrapper]
    flat = {}
    for name, value in content.items() if isinstance(content, dict) else ():
        if isinstance(value, dict):
            flat |= {f"{name}.{inner}": one for inner, one in value.items()}
        else:
            flat[str(name)] = value
    return flat


class _MoreThanNumbers(Exception):
    """The pickle names something that is no tensor."""


class _Reader(pickle.Unpickler):
    """Runs a pickle with tensors' names for its only words. Nothing is imported by a name that the file chooses."""

    def find_class(self, module: str, name: str) -> Any:
        whole = f"{module}.{name}"
        if module == "torch" and name in _STORAGES:
            return _STORAGES[name]
        if whole in _INERT:
            # A class of its own for every mention: a pickle may set attributes of what it is given.
            return type("Inert", (Inert,), {})
        words: dict[str, Callable[..., Any]] = {
            "collections.OrderedDict": OrderedDict,
            "torch.Size": tuple,
            "torch._utils._rebuild_tensor_v2": lambda kind, _offset, shape, *_: _Shape((str(kind), tuple(map(int, shape)))),
            "torch._utils._rebuild_parameter": lambda data, *_: data,
        }
        if whole not in words:
            raise _MoreThanNumbers(whole)
        return words[whole]

    def persistent_load(self, pid: Any) -> Any:
        """A storage: ("storage", its kind, key, device, numbers, ...)."""
        return pid[1]
