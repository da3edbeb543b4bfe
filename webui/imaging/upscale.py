"""Pictures made larger: by a network (ESRGAN, Real-ESRGAN, SwinIR, all that spandrel knows), or by Lanczos and nearest.

A network works on tiles that overlap and flow into each other, so that memory does not depend on how high the picture is, and no
seam is seen. Never looks into files but models, never saves anything.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from webui import devices
from webui.errors import InvalidRequest, UnsupportedModel
from webui.imaging import enhancers
from webui.imaging.resize import PIXEL_UPSCALERS, resize
from webui.weights.catalog import Entry, shared

if TYPE_CHECKING:
    from torch import Tensor

NONE = "None"
WITHOUT_FILE = tuple(name for name in PIXEL_UPSCALERS if name != NONE)
"""Upscalers that are always there."""

LARGEST = 2**27
"""Pixels of a picture that is made (134 million): three bytes each, and two such pictures at a time."""

MOST_PASSES = 3
"""Of a network over a picture that is to be made much larger (A1111's number)."""

TILES = {"cpu": 192}
TILE = 512
"""Sides of tiles in pixels, of the picture to be enlarged: by the kind of device, and on all others."""
LEAST_TILE = 64

GRID = 8
"""Tiles begin at multiples of so many pixels: networks with attention, such as SwinIR, look at windows of this side."""

OVERLAP = 32
RIM = 8
"""Pixels that neighbouring tiles share, and of these the outermost, which are left out: around them the network sees too little.
Between the rims one tile flows into the other."""

Stopped = Callable[[], bool]
Progress = Callable[[float], None]


class Enlarge(Protocol):
    """What makes a picture larger: a network, or a filter. scale: how many times, where nobody says so."""

    name: str
    scale: int

    def to_size(self, rgb: np.ndarray, width: int, height: int, progress: Progress, stopped: Stopped) -> np.ndarray:
        """The (H, W, 3) uint8 RGB picture in another size of the same shape. progress: told 0..1. stopped: asked often, then
        Cancelled is raised."""
        ...


class Filter:
    """Lanczos or nearest."""

    scale = 2

    def __init__(self, name: str):
        self.name = name

    def to_size(self, rgb: np.ndarray, width: int, height: int, progress: Progress, stopped: Stopped) -> np.ndarray:
        return resize(rgb, width, height, filter=PIXEL_UPSCALERS[self.name])


class Upscaler:
    """A network in memory. Made by `load` or, to share it with other jobs, by `leased`.

    name: of its file.   scale: how many times larger a picture is after one pass.   bytes: that it takes.
    """

    def __init__(self, loaded: enhancers.Loaded, precision: str = "fp32"):
        import torch

        about = loaded.about
        if getattr(about, "purpose", "") not in ("SR", "Restoration") or (about.input_channels, about.output_channels) != (3, 3):
            raise UnsupportedModel(f"{loaded.name} does not make pictures in colour larger. Choose another upscaler.")
        self.name, self.scale, self.bytes, self.device = loaded.name, int(about.scale), loaded.bytes, loaded.device
        self._about = about
        self._dtype = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}[precision]
        about.to(self._dtype)
        about.model.to(memory_format=torch.channels_last)
        self._tile = TILES.get(torch.device(loaded.device).type, TILE)

    def to_size(
        self,
        rgb: np.ndarray,
        width: int,
        height: int,
        progress: Progress = lambda _fraction: None,
        stopped: Stopped = lambda: False,
    ) -> np.ndarray:
        """As many passes as it takes, three at most, then Lanczos to the pixel. See Enlarge.to_size."""
        passes = self._passes(max(width / rgb.shape[1], height / rgb.shape[0]))
        for number in range(passes):
            if number or self.scale**2 * rgb.shape[0] * rgb.shape[1] > LARGEST:
                # So that it ends where it should, and not far above, where there is no memory for it.
                rgb = _no_larger(rgb, width / self.scale, height / self.scale)
            rgb = self(rgb, lambda done, before=number: progress((before + done) / passes), stopped)
        return resize(rgb, width, height)

    def _passes(self, factor: float) -> int:
        if self.scale == 1 or factor <= 1:
            return 1
        return min(MOST_PASSES, max(1, math.ceil(math.log(factor, self.scale) - 1e-6)))

    def __call__(
        self, rgb: np.ndarray, progress: Progress = lambda _fraction: None, stopped: Stopped = lambda: False
    ) -> np.ndarray:
        """One pass: the (H, W, 3) uint8 RGB picture, `scale` times as large. Raises OutOfMemory, Cancelled."""
        while True:
            try:
                return self._pass(rgb, progress, stopped)
            except Exception as error:
                if not devices.ran_out(error):
                    raise
                if self._tile <= LEAST_TILE:
                    raise enhancers.too_little("enlarging a picture") from error
            self._tile = max(LEAST_TILE, self._tile // 2)

    def _pass(self, rgb: np.ndarray, progress: Progress, stopped: Stopped) -> np.ndarray:
        """Row of tiles by row of tiles; of what is not finished only the rows are held that the next row flows into."""
        scale, (height, width) = self.scale, rgb.shape[:2]
        tile = max(height, width) if self._tiles_itself else self._tile
        down, across = (_starts(side, tile) for side in (height, width))
        fade_down, fade_across = (_fades(starts, side, tile, scale) for starts, side in ((down, height), (across, width)))
        large = np.empty((height * scale, width * scale, 3), np.uint8)
        flowing = np.zeros((0, width * scale, 3), np.float32)
        with enhancers.stoppable(self._about.model, stopped):
            for row, top in enumerate(down):
                band = np.zeros((len(fade_down[row]), width * scale, 3), np.float32)
                for column, left in enumerate(across):
                    made = self._enlarged(rgb[top : top + tile, left : left + tile])
                    band[:, left * scale : left * scale + made.shape[1]] += made * fade_across[column][:, None]
                    progress((row * len(across) + column + 1) / (len(down) * len(across)))
                band *= fade_down[row][:, None, None]
                band[: len(flowing)] += flowing
                end = (down[row + 1] if row + 1 < len(down) else height) - top
                large[top * scale : (top + end) * scale] = np.clip(255 * band[: end * scale] + 0.5, 0, 255)
                flowing = band[end * scale :]
        return large

    @property
    def _tiles_itself(self) -> bool:
        return getattr(self._about.tiling, "name", "") == "INTERNAL"

    def _enlarged(self, part: np.ndarray) -> np.ndarray:
        """One tile, (h, w, 3) uint8, as (h * scale, w * scale, 3) float32, 0..1."""
        import torch

        pixels = torch.from_numpy(part.copy()).to(self.device).permute(2, 0, 1)[None]
        pixels = pixels.to(self._dtype, memory_format=torch.channels_last) / 255
        made: Tensor = self._about(pixels)
        if not torch.isfinite(made).all():  # half precision has an end, which some of these networks reach
            self._dtype = torch.float32
            self._about.to(self._dtype)
            made = self._about(pixels.float())
        return made[0].permute(1, 2, 0).float().cpu().numpy()


def load(path: Path, *, device: str = "cpu", precision: str = "fp32", allow_pickles: bool = False) -> Upscaler:
    """The upscaler in a file. precision: fp32, fp16 or bf16; one that the network is known not to bear becomes fp32.

    Raises UnsupportedModel for a file that is broken, of another kind, or a pickle where those are not allowed.
    """
    loaded = enhancers.load(path, "upscaler", device=device, allow_pickles=allow_pickles)
    borne = {"fp16": loaded.about.supports_half, "bf16": loaded.about.supports_bfloat16}.get(precision, True)
    return Upscaler(loaded, precision if borne else "fp32")


def choices(models_dir: Path, *, allow_pickles: bool = False) -> list[Entry]:
    """The upscalers in a models folder; those that cannot be used say why (`problem`)."""
    return shared(models_dir, allow_pickles).upscalers()


def without_file(name: str) -> str | None:
    """Which of WITHOUT_FILE is meant, in any case of letters; None for another."""
    return next((one for one in WITHOUT_FILE if one.lower() == name.strip().lower()), None)


def find(name: str, models_dir: Path, *, allow_pickles: bool = False) -> Entry:
    """The file that a name means. Raises ModelMissing, or UnsupportedModel for one that cannot be used."""
    return enhancers.usable(shared(models_dir, allow_pickles).find_upscaler(name))


@contextmanager
def leased(name: str, models_dir: Path, device: str, *, allow_pickles: bool = False) -> Iterator[Enlarge]:
    """What makes pictures larger by this name. A network stays in memory after the block for later jobs, in half precision where
    the device is good at that.

    device: as the settings name it, such as "auto". Raises ModelMissing, or UnsupportedModel as `load` does.
    """
    if plain := without_file(name):
        yield Filter(plain)
        return
    entry = find(name, models_dir, allow_pickles=allow_pickles)
    chosen, where = devices.find(device)
    precision = "fp32" if chosen.kind == "cpu" or not chosen.fp16 else "fp16"

    def read() -> Upscaler:
        return load(entry.path, device=where, precision=precision, allow_pickles=allow_pickles)

    with enhancers.leased(entry, where, read, precision) as upscaler:
        yield upscaler


def target_size(width: int, height: int, scale: float, size: tuple[int, int] | None, crop: bool) -> tuple[int, int]:
    """Width and height of a picture that is made `scale` times as large; or as large as it takes to fill `size` (which is cut
    out of it afterwards), or with no `crop` to reach it on both sides.

    Raises InvalidRequest for more pixels than are made here.
    """
    factor = max(size[0] / width, size[1] / height) if size else scale
    wide, high = max(1, round(width * factor)), max(1, round(height * factor))
    if size and crop:
        wide, high = max(wide, size[0]), max(high, size[1])
    if wide * high > LARGEST:
        raise InvalidRequest(
            f"That would be {wide}x{high} pixels, and the most is {LARGEST / 1e6:.0f} million. Choose a smaller scale or size."
        )
    return wide, high


def blended(first: np.ndarray, second: np.ndarray, visibility: float) -> np.ndarray:
    """The second picture over the first, of the same size: 0 shows the first alone, 1 the second."""
    from PIL import Image

    return np.asarray(Image.blend(Image.fromarray(first), Image.fromarray(second), visibility))


def _no_larger(rgb: np.ndarray, width: float, height: float) -> np.ndarray:
    wide, high = min(rgb.shape[1], math.ceil(width)), min(rgb.shape[0], math.ceil(height))
    return resize(rgb, wide, high)


def _starts(length: int, tile: int) -> list[int]:
    """Where tiles begin, evenly, so that neighbours share OVERLAP pixels or more. The last may be shorter than the others."""
    if length <= tile:
        return [0]
    count = math.ceil((length - OVERLAP - GRID) / (tile - OVERLAP - GRID))
    last = math.ceil((length - tile) / GRID)
    return [round(number * last / (count - 1)) * GRID for number in range(count)]


def _fades(starts: list[int], length: int, tile: int, scale: int) -> list[Any]:
    """The weight of each tile's rows (or columns) in the result; at every place those of all tiles together are 1."""
    total = np.zeros(length * scale, np.float32)
    fades = []
    for start in starts:
        side = min(tile, length - start)
        inside = np.arange(side * scale, dtype=np.float32) / scale
        fade = np.ones(side * scale, np.float32)
        if start > 0:
            fade = np.minimum(fade, np.clip((inside - RIM) / (OVERLAP - 2 * RIM), 0, 1))
        if start + side < length:
            fade = np.minimum(fade, np.clip((side - inside - RIM) / (OVERLAP - 2 * RIM), 0, 1))
        fades.append(fade)
        total[start * scale : (start + side) * scale] += fade
    return [fade / total[start * scale : start * scale + len(fade)] for start, fade in zip(starts, fades, strict=True)]
