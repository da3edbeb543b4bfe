"""The 68 landmarks that the 3DMM fit was trained with: by face-alignment's network (Bulat and Tzimiropoulos 2017) where its
weights are, else as the face finder places them. Downloads nothing.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import cv2
import numpy as np
import torch

from webui.plugin_api import Face, UnsupportedModel, devices, weights_files

if TYPE_CHECKING:
    from webui.settings import Settings

PATTERN = "2DFAN4-*.pth.tar"

_SIDE = 256  # of the cut-out that the network sees, in pixels
_CELLS = 64  # of its heat maps
_REACH = 200.0 / 195.0  # the cut-out's side in sums of a face box's sides
_DOWN = -0.12  # where its middle is, down from the box's, in heights of the box
_STACKS = 4


class Places(Protocol):
    """Puts landmarks on a face that was found."""

    name: str

    def landmarks(self, rgb: np.ndarray, face: Face) -> np.ndarray:
        """(68, 2) float64 pixels, iBUG order, in a (H, W, 3) uint8 RGB picture."""
        ...


class AsFound:
    """Leaves them where the face finder saw them."""

    name = "dlib"

    def landmarks(self, rgb: np.ndarray, face: Face) -> np.ndarray:
        return face.landmarks


class Fan:
    """face-alignment's network of four hourglasses."""

    name = "face-alignment"

    def __init__(self, net: torch.nn.Module, where: str) -> None:
        self._net, self._where = net, where

    @torch.inference_mode()
    def landmarks(self, rgb: np.ndarray, face: Face) -> np.ndarray:
        left, top, right, bottom = face.box
        width, height = right - left, bottom - top
        side = _REACH * (width + height)
        corner = np.array([(left + right) / 2, (top + bottom) / 2 + _DOWN * height]) - side / 2
        scale = _SIDE / side
        # Pixel centres lie half a pixel in from the corner, at either scale.
        moved = (0.5 - corner) * scale - 0.5
        matrix = np.array([[scale, 0.0, moved[0]], [0.0, scale, moved[1]]])
        cut = cv2.warpAffine(rgb, matrix, (_SIDE, _SIDE), flags=cv2.INTER_LINEAR)
        pixels = torch.from_numpy(cut).to(self._where).permute(2, 0, 1)[None].float() / 255
        heat = self._net(pixels)[-1][0].cpu().numpy()
        return (peaks(heat) + 0.5) * side / _CELLS + corner - 0.5


def peaks(heat: np.ndarray) -> np.ndarray:
    """(N, 2) float64, x and y of the warmest cell of (N, h, w) maps, a quarter of a cell towards its warmer neighbour."""
    count, height, width = heat.shape
    y, x = np.divmod(heat.reshape(count, -1).argmax(1), width)
    each, at = np.arange(count), np.stack([x, y], 1).astype(float)
    inner_x, inner_y = np.clip(x, 1, width - 2), np.clip(y, 1, height - 2)
    slope = np.stack(
        [heat[each, y, inner_x + 1] - heat[each, y, inner_x - 1], heat[each, inner_y + 1, x] - heat[each, inner_y - 1, x]], 1
    )
    inside = np.stack([x == inner_x, y == inner_y], 1)
    return at + 0.25 * np.sign(slope) * inside


def weights(settings: Settings) -> Path | None:
    """Where face-alignment's weights are: in models/face-alignment, or where face-alignment itself keeps them."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser()
    torch_home = Path(os.environ.get("TORCH_HOME") or cache / "torch").expanduser()
    for folder in (settings.models_dir / "face-alignment", torch_home / "hub" / "checkpoints"):
        if found := next((path for path in sorted(folder.glob(PATTERN)) if path.is_file()), None):
            return found
    return None


@contextmanager
def leased(settings: Settings, where: str) -> Iterator[Places]:
    """What places landmarks here; the network stays in memory after the block, like the other models.

    Raises UnsupportedModel when there are weights that cannot be used.
    """
    path = weights(settings)
    if path is None:
        yield AsFound()
        return
    key = devices.Key("face-alignment", where, (str(path), path.stat().st_size, path.stat().st_mtime_ns))
    with devices.models(where).lease(key, lambda: _load(path, where), expects=path.stat().st_size) as fan:
        yield fan


def _load(path: Path, where: str) -> tuple[Fan, int]:
    from face_alignment.models import FAN

    read = weights_files.reader(path, allow_pickles=True)
    net = FAN(_STACKS)
    known = {name: tensor for name, tensor in net.state_dict().items() if not name.endswith("num_batches_tracked")}
    try:
        tensors = {name: read(name) for name in known}
        net.load_state_dict(tensors, strict=False)
    except Exception as error:  # a name that is not there, or another shape, each in its own words
        raise UnsupportedModel(
            f"{path.name} is not face-alignment's network of four hourglasses. Download it again, or move it away to use dlib."
        ) from error
    net.eval().requires_grad_(False).to(where)
    return Fan(net, where), sum(tensor.numel() * tensor.element_size() for tensor in net.parameters())
