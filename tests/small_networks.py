"""SadTalker's networks with numbers of our own, and a renderer with few channels for pictures of 128 x 128: what takes minutes
with the real sizes takes seconds."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from extensions.sadtalker.engines.neural import layout
from extensions.sadtalker.engines.neural.checkpoints import Checkpoint
from tests import neural_files

if TYPE_CHECKING:
    import torch

SIDE = 128

_FEWER = {1024: 128, 512: 64, 256: 32, 128: 16, 64: 8, 32: 4, 112: 84, 112 * 16: 84 * 16, 1024 * 16: 128 * 16}
"""An eighth of the channels, but for the 80 that come of 15 keypoints; and what is made of such numbers."""

_FLAT = {512 * 9: 64 * 9, 256 * 9: 32 * 9, 64 * 9: 8 * 9}


_LAST = ("final_layers.", "fc_", "mapping1.", "netG.decoder.pose_linear.")
"""The layers that coefficients, angles and expressions come from."""


@cache
def tensors(net: str, full: bool) -> dict[str, torch.Tensor]:
    if net not in ("generator", "kp_extractor"):
        made = neural_files.tensors("mapping_full" if full else net)
        # Coefficients of the size that faces have, and angles that are no somersaults.
        return {name: tensor * (0.02 if name.startswith(_LAST) else 1.0) for name, tensor in made.items()}
    import numpy as np
    import torch

    made = {}
    for name, shape in layout.of(net).items():
        small = tuple((_FEWER | _FLAT).get(side, side) for side in shape)
        made[name] = torch.from_numpy(np.array(neural_files._numbers(f"small/{net}.{name}", name, small), np.float32))
    for name in [name for name in made if name.endswith("weight_orig")]:
        # So that the stored vectors are about the singular ones, as in a trained network.
        u, v = made[name.replace("orig", "u")], made[name.replace("orig", "v")]
        made[name] += 2 * torch.outer(u, v).reshape(made[name].shape)
    return made


@dataclass(frozen=True)
class SmallCheckpoint:
    """In place of checkpoints.Checkpoint. folder: gets a file, so that there is something to take a digest of."""

    folder: Path
    size: int = SIDE
    version: tuple[Any, ...] = ("small",)
    bytes: int = 0
    files: dict[str, Path] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        for net, name in (("generator", "small.safetensors"), ("mapping", "one.pth.tar"), ("mapping_full", "other.pth.tar")):
            self.files[net] = self.folder / name
            self.files[net].write_text(name)

    used, paths = Checkpoint.used, Checkpoint.paths

    def tensors(self, net: str, *, full: bool = False, device: str = "cpu") -> dict[str, torch.Tensor]:
        return dict(tensors(net, full))
