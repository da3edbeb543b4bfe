"""Restores faces whose place is known, in pictures and in the frames of a clip: GFPGAN, RestoreFormer, CodeFormer.

Never looks for a face, never changes a picture's size, and leaves all that is not face as it is.

A face is cut out after FFHQ's measure, 512 x 512 pixels, eyes and mouth where the networks learned them, restored, and put back
through a soft mask.

In a clip the same would flicker: the network draws a new texture for each frame. So it is given the same noise every time, and
where the face has not moved the mean of some frames is shown.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import islice, repeat
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from webui import devices
from webui.imaging import enhancers
from webui.imaging.alignment import Alignment, Place, alignment, cut_out, put_back, steady
from webui.weights.catalog import Entry, shared

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["REACH", "Alignment", "Place", "Restorer", "alignment", "choices", "find", "leased", "load", "steady"]

REACH = 4
"""Frames before a frame that it is averaged with. Whoever begins in the middle of a clip begins so many frames earlier."""

SAME = 0.01
"""Movement, as a change of a cell's colour, 0..1, at which half of an earlier frame's weight is left."""

CELL = 8
"""Side in pixels of the cut-out's cells that movement is looked for in: noise is no movement."""

BATCH = 4
"""Faces at a time on a graphics card. A processor is no faster with several."""


class Restorer:
    """A face restorer in memory. Made by `load` or, to share it with other jobs, by `leased`.

    name:  of its file.         make:   "gfpgan", "restoreformer" or "codeformer".
    bytes: that it takes.       device: PyTorch's name of where it is.

        with restore.leased("GFPGANv1.4", models_dir, "cpu") as restorer:
            whole = restorer.picture(rgb, [face.landmarks], strength=0.8)
            for frame in restorer.faces(frames, face.landmarks): ...           # the head hardly moves
            for frame in restorer.faces(frames, restore.steady(landmarks)): ...  # landmarks of every frame
    """

    def __init__(self, loaded: enhancers.Loaded, precision: str = "fp32"):
        self.name, self.make = loaded.name, loaded.found.architecture
        self.device, self.bytes, self.precision = loaded.device, loaded.bytes, precision
        self._network = loaded.network
        self._batch = 1 if loaded.device == "cpu" else BATCH

    def picture(
        self,
        rgb: np.ndarray,
        places: Sequence[Place],
        *,
        strength: float = 1.0,
        fidelity: float = 0.5,
        progress: Callable[[float], None] = lambda _fraction: None,
        stopped: Callable[[], bool] = lambda: False,
    ) -> np.ndarray:
        """The picture, (H, W, 3) uint8 RGB, with these faces restored; a new array of the same size.

        strength: 0 leaves all as it is, 1 shows what the network gives. fidelity: of CodeFormer alone, 0 restores most, 1 stays
        closest to the face as it was. progress: told 0..1. stopped: asked between the network's layers; then Cancelled is raised.
        """
        found = [alignment(place) for place in places] if strength > 0 else []
        whole = rgb.copy()
        size = self._batch
        for number, group in enumerate(_groups(found, size)):
            progress(number * size / len(found))
            crops = self._tensor([cut_out(rgb, one) for one in group])
            with enhancers.stoppable(self._network, stopped):
                restored = self._restored(crops, fidelity)
            for one, crop, face in zip(group, crops, restored, strict=True):
                put_back(whole, one, _array(face), _array(crop), strength)
        return whole

    def faces(
        self,
        frames: Iterable[np.ndarray],
        places: Place | Iterable[Place],
        *,
        strength: float = 1.0,
        fidelity: float = 0.5,
        batch: int | None = None,
    ) -> Iterator[np.ndarray]:
        """The frames of a clip, one by one, each with its one face restored: new arrays of the same size.

        frames: (H, W, 3) uint8 RGB, taken as they are needed; they are never written into, and may be one array that is filled
                again and again.
        places: one for all frames, when the head stays about where it is; or one for each of them, which should not tremble
                (see `steady`); or the landmarks of all frames, (T, 68, 2) or (T, 5, 2), which are made steady here.
        batch:  faces at a time; by default 1 on a processor.
        strength, fidelity: as in `picture`.

        A frame is made of itself and the REACH frames before it, so it is the same wherever the clip was begun, from the
        REACH-th frame on that is given. Memory does not grow with the clip. With strength 0 the frames are handed on.
        """
        if strength <= 0:
            yield from frames
            return
        known = _per_frame(places)
        before: deque[tuple[Tensor, Tensor]] = deque(maxlen=REACH)
        size = batch or self._batch
        for group in _groups(((frame.copy(), alignment(next(known))) for frame in frames), size):
            crops = self._tensor([cut_out(frame, place) for frame, place in group])
            restored = self._restored(_filled(crops, size), fidelity)
            for (frame, place), crop, face in zip(group, crops, restored, strict=False):
                put_back(frame, place, _array(_calm(before, crop, face)), _array(crop), strength)
                yield frame

    def _tensor(self, crops: list[np.ndarray]) -> Tensor:
        """Cut-outs as (N, 3, 512, 512), 0..1, on the device."""
        import torch

        return torch.from_numpy(np.stack(crops)).to(self.device).permute(0, 3, 1, 2).contiguous()

    def _restored(self, crops: Tensor, fidelity: float) -> Tensor:
        """The cut-outs, (N, 3, 512, 512), 0..1, restored. When memory runs out, half as many at a time."""
        import torch

        try:
            with torch.inference_mode(), self._computing():
                return (self._ask(crops * 2 - 1, fidelity).float() / 2 + 0.5).clamp(0, 1)
        except Exception as error:
            if not devices.ran_out(error):
                raise
            if len(crops) == 1:
                raise enhancers.too_little("restoring a face") from error
        half = self._batch = (len(crops) + 1) // 2
        return torch.cat([self._restored(crops[:half], fidelity), self._restored(crops[half:], fidelity)])

    def _ask(self, crops: Tensor, fidelity: float) -> Tensor:
        """The network itself, -1..1 in and out. spandrel's own call gives GFPGAN 0..1 and lets it draw new noise each time."""
        if self.make == "gfpgan":
            return self._network(crops, return_rgb=False, randomize_noise=False)[0]
        if self.make == "codeformer":
            return self._network(crops, weight=fidelity, adain=True)[0]
        return self._network(crops)[0]

    def _computing(self) -> Any:
        import torch

        return torch.autocast(torch.device(self.device).type, torch.bfloat16, enabled=self.precision == "bf16")


def load(path: Path, *, device: str = "cpu", precision: str = "fp32", allow_pickles: bool = False) -> Restorer:
    """The restorer in a file. precision: fp32, or bf16 where the device computes well in it, for speed.

    Raises UnsupportedModel for a file that is broken, of another kind, or a pickle where those are not allowed.
    """
    return Restorer(enhancers.load(path, "restorer", device=device, allow_pickles=allow_pickles), precision)


def choices(models_dir: Path, *, allow_pickles: bool = False) -> list[Entry]:
    """The restorers in a models folder; those that cannot be used say why (`problem`)."""
    return shared(models_dir, allow_pickles).restorers()


def find(name: str, models_dir: Path, *, allow_pickles: bool = False) -> Entry:
    """The file that a name means. Raises ModelMissing, or UnsupportedModel for one that cannot be used."""
    return enhancers.usable(shared(models_dir, allow_pickles).find_restorer(name))


@contextmanager
def leased(
    name: str, models_dir: Path, device: str, *, precision: str = "fp32", allow_pickles: bool = False
) -> Iterator[Restorer]:
    """The restorer of this name, of a file or a make such as GFPGAN, kept in memory after the block for later jobs.

    device: as the settings name it, such as "auto". Raises ModelMissing, or UnsupportedModel as `load` does.
    """
    entry = find(name, models_dir, allow_pickles=allow_pickles)
    _, where = devices.find(device)

    def read() -> Restorer:
        return load(entry.path, device=where, precision=precision, allow_pickles=allow_pickles)

    with enhancers.leased(entry, where, read, precision) as restorer:
        yield restorer


def _per_frame(places: Place | Iterable[Place]) -> Iterator[Place]:
    if isinstance(places, np.ndarray) and places.ndim == 3:
        return iter(steady(places))
    one_for_all = isinstance(places, (Alignment, np.ndarray, tuple))
    return repeat(places) if one_for_all else iter(places)  # pyright: ignore[reportReturnType, reportArgumentType]


def _calm(before: deque[tuple[Tensor, Tensor]], crop: Tensor, restored: Tensor) -> Tensor:
    """A restored frame, averaged with those before it as far as their cut-outs look the same, cell by cell.

    before: (the cut-out's cells, restored) of the newest frames, which this one joins.
    """
    import torch
    from torch.nn.functional import avg_pool2d, interpolate

    cells = avg_pool2d(crop[None], CELL)
    total, weights = restored, torch.ones_like(restored[:1])
    for cells_then, restored_then in before:
        moved = (cells - cells_then).abs().amax(1, keepdim=True)
        alike = interpolate(0.5 ** (moved / SAME) ** 2, scale_factor=CELL, mode="bilinear")[0]
        total, weights = total + alike * restored_then, weights + alike
    before.append((cells, restored))
    return total / weights


def _array(face: Tensor) -> np.ndarray:
    return face.permute(1, 2, 0).contiguous().cpu().numpy()


def _filled(crops: Tensor, size: int) -> Tensor:
    """As many as always, the last one again and again: numbers of another batch size may differ in their last digits."""
    missing = size - len(crops)
    return crops if missing <= 0 else crops[[*range(len(crops)), *[-1] * missing]]


def _groups(items: Iterable[Any], size: int) -> Iterator[list[Any]]:
    items = iter(items)
    while group := list(islice(items, size)):
        yield group
