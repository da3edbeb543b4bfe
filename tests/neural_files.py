"""SadTalker's files in upstream's layout, with numbers of our own: random ones of the right scale, the same at every run.

Shapes come from the product's list, which a test compares with upstream's where that is at hand. Files are as long as the real
ones, but hold holes (zeros) where no numbers were asked for, which take no room on the disk.
"""

from __future__ import annotations

import json
import math
import zlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from extensions.sadtalker.engines.neural import layout

MAIN = {256: "SadTalker_V0.0.2_256.safetensors", 512: "SadTalker_V0.0.2_512.safetensors"}
MAPPINGS = {"mapping": "mapping_00229-model.pth.tar", "mapping_full": "mapping_00109-model.pth.tar"}
OLDER = {
    "facevid2vid_00189-model.pth.tar": {"generator": "generator", "kp_detector": "kp_extractor"},
    "auido2exp_00300-model.pth": {"model": "audio2exp"},
    "auido2pose_00140-model.pth": {"model": "audio2pose"},
    "epoch_20.pth": {"net_recon": "face_3drecon"},
}
IN_MAIN = ("kp_extractor", "generator", "audio2exp", "audio2pose", "face_3drecon")


def tensors(net: str, seed: int = 0) -> dict[str, torch.Tensor]:
    """Random weights of a network under which activations keep their size."""
    return {name: torch.from_numpy(_numbers(f"{seed}/{net}.{name}", name, shape)) for name, shape in layout.of(net).items()}


def _numbers(seed: str, name: str, shape: tuple[int, ...]) -> np.ndarray:
    random = np.random.Generator(np.random.PCG64(zlib.crc32(seed.encode())))
    drawn = random.standard_normal(shape, np.float32)
    last = name.rsplit(".", 1)[-1]
    if last == "running_var":
        return 0.5 + np.abs(drawn)
    if last in ("weight_u", "weight_v"):
        return drawn / np.linalg.norm(drawn)
    if last in ("bias", "running_mean"):
        return 0.1 * drawn
    if len(shape) == 1:
        return 1 + 0.1 * drawn
    return drawn * np.float32(math.sqrt(2 / math.prod(shape[1:])))


def v002(folder: Path, size: int = 256, filled: Iterable[str] = ()) -> Path:
    """The files of v0.0.2. filled: the networks that get numbers, others are zeros."""
    main(folder / MAIN[size], filled)
    mappings(folder, filled)
    return folder


def main(path: Path, filled: Iterable[str] = ()) -> Path:
    held = {f"{net}.{name}": shape for net in IN_MAIN for name, shape in layout.of(net).items()}
    numbers = {f"{net}.{name}": tensor for net in filled if net in IN_MAIN for name, tensor in tensors(net).items()}
    return safetensors(path, held, numbers)


def older(folder: Path, filled: Iterable[str] = ()) -> Path:
    """The separate files of before, as trainers leave them: with their optimizers, counters and a network that is not used."""
    for name, nets in OLDER.items():
        content: dict[str, Any] = {prefix: state(net, net in filled) for prefix, net in nets.items()}
        pickled(folder / name, content | {"he_estimator": torch.nn.BatchNorm1d(3).state_dict()})
    mappings(folder, filled)
    return folder


def mappings(folder: Path, filled: Iterable[str] = ()) -> None:
    for net, name in MAPPINGS.items():
        pickled(folder / name, {"mapping": state(net, net in filled)})


def state(net: str, filled: bool = True) -> dict[str, torch.Tensor]:
    """Of a network: random weights, or zeros that take no room."""
    if filled:
        return tensors(net)
    return {name: torch.zeros(1).expand(shape) for name, shape in layout.of(net).items()}


def pickled(path: Path, content: Mapping[str, Any]) -> Path:
    """A file of torch.save, with what trainers put beside the weights."""
    weight = torch.nn.Parameter(torch.ones(3))
    optimizer = torch.optim.Adam([weight], lr=1e-4)
    weight.sum().backward()
    schedule = torch.optim.lr_scheduler.MultiStepLR(optimizer, [60, 90])  # keeps its milestones in a Counter
    optimizer.step()
    trainer = {"optimizer": optimizer.state_dict(), "schedule": schedule.state_dict()}
    torch.save({**content, **trainer, "epoch": 109, "note": "extra"}, path)
    return path


def safetensors(path: Path, shapes: Mapping[str, tuple[int, ...]], numbers: Mapping[str, torch.Tensor] | None = None) -> Path:
    """A file with float32 tensors of these shapes; those without numbers are holes."""
    entries, at = {}, 0
    for name, shape in shapes.items():
        end = at + 4 * math.prod(shape)
        entries[name] = {"dtype": "F32", "shape": list(shape), "data_offsets": [at, end]}
        at = end
    head = json.dumps(entries).encode()
    head += b" " * (-len(head) % 8)
    with open(path, "wb") as file:
        file.write(len(head).to_bytes(8, "little") + head)
        for name, tensor in (numbers or {}).items():
            file.seek(8 + len(head) + entries[name]["data_offsets"][0])
            file.write(tensor.contiguous().numpy().tobytes())
        file.truncate(8 + len(head) + at)
    return path
