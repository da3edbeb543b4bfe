"""Which of SadTalker's files are there, whether they are what they should be, and their tensors by network.

A file is judged by its header before anything of it is loaded: every tensor that is needed must be there in its shape. Upstream's
files are known by their names, since nothing in them tells the one for 256 pixels from that for 512. Pickles are read as numbers
alone. This module never writes.

A file that upstream released under another name is told by its digest (`check_names`), which is only computed when it is used.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from extensions.sadtalker.engines.neural import layout
from webui.plugin_api import ModelMissing, UnsupportedModel, weights_files

if TYPE_CHECKING:
    import torch

    from webui.settings import Settings

NETS = ("generator", "kp_extractor", "audio2exp", "audio2pose", "face_3drecon", "mapping")

SIZES = (256, 512)
"""Sides of the pictures that there are networks for."""

RELEASED = {
    "c211f5d6de003516bf1bbda9f47049a4c9c99133b1ab565c6961e5af16477bff": "SadTalker_V0.0.2_256.safetensors",
    "0e063f7ff5258240bdb0f7690783a7b1374e6a4a81ce8fa33456f4cd49694340": "SadTalker_V0.0.2_512.safetensors",
    "84a8642468a3fcfdd9ab6be955267043116c2bec2284686a5262f1eaf017f64c": "mapping_00109-model.pth.tar",
    "62a1e06006cc963220f6477438518ed86e9788226c62ae382ddc42fbcefb83f1": "mapping_00229-model.pth.tar",
}
"""sha256 of upstream's files and their names there (release v0.0.2-rc, as people who downloaded them have noted it)."""

_NUMBERS = ("F32", "F16", "BF16", "F64")


@dataclass(frozen=True)
class _Part:
    """One of upstream's files: its name, what it is, and for each network in it what stands before its tensors' names."""

    name: str
    what: str
    nets: Mapping[str, str]


_MAPPINGS = (
    _Part("mapping_00229-model.pth.tar", "the mapping net for crop, extcrop and resize", {"mapping": "mapping"}),
    _Part("mapping_00109-model.pth.tar", "the mapping net for full and extfull", {"mapping_full": "mapping"}),
)

_WHOLE = {net: net for net in NETS[:-1]}

_LAYOUTS: dict[tuple[str, int], tuple[_Part, ...]] = {
    ("v0.0.2", 256): (_Part("SadTalker_V0.0.2_256.safetensors", "SadTalker v0.0.2 as one file", _WHOLE),),
    ("v0.0.2", 512): (_Part("SadTalker_V0.0.2_512.safetensors", "SadTalker v0.0.2 as one file", _WHOLE),),
    ("older", 256): (
        _Part("facevid2vid_00189-model.pth.tar", "the face renderer", {"generator": "generator", "kp_extractor": "kp_detector"}),
        _Part("auido2exp_00300-model.pth", "the network for expressions", {"audio2exp": "model"}),
        _Part("auido2pose_00140-model.pth", "the network for the head's movements", {"audio2pose": "model"}),
        _Part("epoch_20.pth", "the network that fits the 3DMM", {"face_3drecon": "net_recon"}),
    ),
}
"""The files beside the mapping nets, by version and size, in the order in which they are looked for."""

_KNOWN = (*_LAYOUTS["v0.0.2", 256], *_LAYOUTS["older", 256], *_MAPPINGS)


@dataclass(frozen=True)
class Checkpoint:
    """Whole and checked files for one size.

    files:  by network the file that it is in; "mapping_full" is the mapping net for full pictures.
    layout: "v0.0.2" (one file and the mapping nets) or "older" (one for each network).
    """

    folder: Path
    size: int
    layout: str
    files: Mapping[str, Path]

    def tensors(self, net: str, *, full: bool = False, device: str = "cpu") -> dict[str, torch.Tensor]:
        """All that the network needs, as float32 on the device, named as below its prefix. On the CPU they are views of the
        mapped file. full: of "mapping" that for the modes full and extfull.

        Raises UnsupportedModel when the file was damaged or changed after it was found.
        """
        import torch
        from safetensors import SafetensorError

        key = "mapping_full" if net == "mapping" and full else net
        part = next(one for one in (*_LAYOUTS[self.layout, self.size], *_MAPPINGS) if key in one.nets)
        read = weights_files.reader(self.files[key], allow_pickles=True)
        found = {}
        for name, shape in layout.of(key).items():
            try:
                stored = read(f"{part.nets[key]}.{name}")
            except (KeyError, SafetensorError) as error:
                raise UnsupportedModel(f"{self.files[key].name} was changed while it was used. Try again.") from error
            tensor = stored.to(device, torch.float32)
            if tensor.shape != shape or not _sound(tensor, name):
                raise UnsupportedModel(f"{self.files[key].name} is damaged: {name} holds no usable numbers. Download it again.")
            found[name] = tensor
        return found

    def used(self, *, full: bool) -> list[Path]:
        """The files that are drawn with. full: in the modes full and extfull, which have a mapping net of their own."""
        other = "mapping" if full else "mapping_full"
        return list(dict.fromkeys(path for net, path in self.files.items() if net != other))

    @property
    def paths(self) -> list[Path]:
        """The files, each once."""
        return list(dict.fromkeys(self.files.values()))

    @property
    def bytes(self) -> int:
        """Of all networks in memory, as float32."""
        return sum(4 * math.prod(shape) for net in self.files for shape in layout.of(net).values())

    @property
    def version(self) -> tuple[tuple[str, int, int], ...]:
        """Changes when a file does: name, size and time of last change of each (for devices.Key)."""
        return tuple((path.name, path.stat().st_size, path.stat().st_mtime_ns) for path in self.paths)


def folders(settings: Settings) -> list[Path]:
    """Where the files may be: models/SadTalker, and the checkpoints folder of another SadTalker that the settings name."""
    named = [settings.sadtalker_dir] if settings.sadtalker_dir else []
    return [settings.models_dir / "SadTalker", *named]


def find(places: Sequence[Path], size: int) -> Checkpoint:
    """The checkpoint of this size in the first folder that has one, else of the other size (Checkpoint.size says which).

    Raises ModelMissing when no folder has one whole, and UnsupportedModel when a file is not what its name says.
    """
    incomplete: list[str] = []
    for wanted in sorted(SIZES, key=lambda one: one != size):
        for folder in places:
            for (version, of_size), parts in _LAYOUTS.items():
                if of_size != wanted or not any((folder / part.name).is_file() for part in parts):
                    continue
                needed = (*parts, *_MAPPINGS)
                missing = [part.name for part in needed if not (folder / part.name).exists()]
                if not missing:
                    return _checked(folder, wanted, version, needed)
                incomplete.append(_lacking(folder, missing))
    raise ModelMissing(incomplete[0] if incomplete else _nothing(places))


def check_names(digests: Mapping[Path, str]) -> None:
    """Raises UnsupportedModel for a file that upstream released under another name: the keys and shapes in those for 256 and for
    512 pixels are the same. digests: sha256 in hex by file.
    """
    for path, sha256 in digests.items():
        name = RELEASED.get(sha256, path.name)
        if name != path.name:
            raise UnsupportedModel(
                f"{path.name} is in truth {name}, as its sha256 tells. Files were swapped or renamed: rename it."
            )


def _checked(folder: Path, size: int, version: str, parts: Sequence[_Part]) -> Checkpoint:
    for part in parts:
        _check(folder / part.name, part, size)
    return Checkpoint(folder, size, version, {net: folder / part.name for part in parts for net in part.nets})


def _check(path: Path, part: _Part, size: int) -> None:
    """Raises UnsupportedModel when the file is not this part."""
    try:
        header = weights_files.header(path, allow_pickles=True)
    except UnsupportedModel as error:
        raise UnsupportedModel(f"{error} It should be {part.what}{_room(part, size)}.") from error
    missing, other = _differences(header, part)
    if not missing and not other:
        return
    holds = next((known.what for known in _KNOWN if known is not part and _differences(header, known) == ([], [])), "")
    if holds and holds != part.what:
        raise UnsupportedModel(
            f"{path.name} should be {part.what}, but it is {holds}. Files were swapped or renamed: download it again."
        )
    if other:
        name, was, expected = other[0]
        raise UnsupportedModel(
            f"{path.name} is of another version than SadTalker v0.0.2: {name} is {was}, but {expected} was expected. Download "
            "the files of one version together."
        )
    needed = sum(len(layout.of(net)) for net in part.nets)
    if len(missing) == needed:
        raise UnsupportedModel(f"{path.name} should be {part.what}, but nothing of it is in there. Download it again.")
    raise UnsupportedModel(
        f"{path.name} is not whole: {len(missing)} of the {needed} tensors of {part.what} are missing, such as {missing[0]}. "
        "Download the files of one version together."
    )


def _differences(header: weights_files.Header, part: _Part) -> tuple[list[str], list[tuple[str, str, str]]]:
    """The tensors of a part that a file does not have, and those that it has otherwise: name, what it is, what was expected."""
    missing, other = [], []
    for net, prefix in part.nets.items():
        for tensor, shape in layout.of(net).items():
            name = f"{prefix}.{tensor}"
            fact = header.get(name)
            if fact is None:
                missing.append(name)
            elif fact.shape != shape:
                other.append((name, _shape(fact.shape), _shape(shape)))
            elif fact.dtype not in _NUMBERS:
                other.append((name, fact.dtype, "F32"))
    return missing, other


def _sound(tensor: torch.Tensor, name: str) -> bool:
    """Whether these can be the numbers of a trained network: a download that was cut off can leave a file of full length with
    nothing in it."""
    if name.endswith("running_var"):
        return bool((tensor.isfinite() & (tensor >= 0)).all() and tensor.any())  # of a channel that never varies it is 0
    total = float(tensor.flatten().norm(1))  # unlike abs().sum() without a copy of all
    return math.isfinite(total) and (total > 0 or not name.endswith(("weight", "weight_orig", "weight_u", "weight_v")))


def _shape(shape: tuple[int, ...]) -> str:
    return " x ".join(map(str, shape)) or "a single number"


def _room(part: _Part, size: int) -> str:
    """How large the file is at least, and for which pictures, where its name alone tells that."""
    numbers = sum(math.prod(shape) for net in part.nets for shape in layout.of(net).values())
    pictures = f"for {size} x {size}, " if part in _LAYOUTS.get(("v0.0.2", size), ()) else ""
    return f" ({pictures}at least {4 * numbers // 1_000_000} MB)"


def _lacking(folder: Path, missing: Sequence[str]) -> str:
    return (
        f"{' and '.join(missing)} {'is' if len(missing) == 1 else 'are'} missing in {folder.name}, where the other files of "
        "SadTalker are. Put the missing ones beside them."
    )


def _nothing(places: Sequence[Path]) -> str:
    """Shown to visitors, whom whole paths do not concern; the folder's owner knows which one it is."""
    where = " or ".join(f"{folder.parent.name}/{folder.name}" for folder in places)
    return (
        f"SadTalker's models are missing. They go into {where} (SadTalker_V0.0.2_256.safetensors or "
        "SadTalker_V0.0.2_512.safetensors, and mapping_00109-model.pth.tar with mapping_00229-model.pth.tar). Use --engine "
        "builtin, which needs no models."
    )
