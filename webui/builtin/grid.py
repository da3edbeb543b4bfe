"""One picture of many: the sheet of an X/Y/Z plot, with what differs written beside rows and columns.

Reads fonts and the pictures, of which it never holds more than one: hundreds would take more memory than the model.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

MOST_PIXELS = 120_000_000
"""Of a sheet; a larger one is made smaller."""

EAST_ASIAN_FONTS = (
    "NotoSansCJK-Regular.ttc", "NotoSansSC-Regular.otf", "SourceHanSansSC-Regular.otf", "wqy-microhei.ttc", "wqy-zenhei.ttc",
    "DroidSansFallbackFull.ttf", "msyh.ttc", "simhei.ttf", "PingFang.ttc", "Hiragino Sans GB.ttc", "Arial Unicode.ttf",
)  # fmt: skip
"""Names under which systems have a font with Chinese letters. None comes with Galatea: each has more bytes than all else."""

INK, PAPER, MISSING = (32, 32, 32), (255, 255, 255), (232, 232, 232)


@dataclass(frozen=True)
class Sheet:
    """rgb: (H, W, 3) uint8. scale: how much smaller it was made than its pictures are. boxes: letters were left out as boxes, for
    want of a font that has them."""

    rgb: np.ndarray
    scale: float
    boxes: bool


Pictures = Mapping[tuple[int, int], Path]
"""Files of pictures by column and row."""


def sheet(pictures: Pictures, columns: Sequence[str], rows: Sequence[str], title: str = "", *, legend: bool = True) -> Sheet:
    """The pictures on paper; grey where there is none. Those of different sizes are centred.

    columns, rows: a label for each. Without a legend neither they nor the title are written.
    """
    sizes = [_size(file) for file in pictures.values()]
    width, height = max((one for one, _ in sizes), default=64), max((one for _, one in sizes), default=64)
    scale = min(1.0, (MOST_PIXELS / (width * len(columns) * height * len(rows))) ** 0.5)
    width, height = max(1, int(width * scale)), max(1, int(height * scale))
    font, boxes = _font("".join((*columns, *rows, title)), max(10, (width + height) // 26))
    labels = _Labels(font, legend)
    above = labels.height(columns, width)
    beside = labels.width(rows, width)
    head = labels.height([title], width * len(columns))
    paper = Image.new("RGB", (beside + width * len(columns), head + above + height * len(rows)), PAPER)
    draw = ImageDraw.Draw(paper)
    labels.write(draw, title, (beside, 0, width * len(columns), head))
    for column, label in enumerate(columns):
        labels.write(draw, label, (beside + column * width, head, width, above))
    for row, label in enumerate(rows):
        labels.write(draw, label, (0, head + above + row * height, beside, height))
        for column in range(len(columns)):
            place = beside + column * width, head + above + row * height
            _put(paper, pictures.get((column, row)), (*place, width, height), scale)
    return Sheet(np.asarray(paper), scale, boxes and legend)


def _size(file: Path) -> tuple[int, int]:
    with Image.open(file) as picture:
        return picture.size


def _put(paper: Image.Image, file: Path | None, box: tuple[int, int, int, int], scale: float) -> None:
    left, top, width, height = box
    if file is None:
        paper.paste(MISSING, (left, top, left + width, top + height))
        return
    with Image.open(file) as opened:
        picture = opened.convert("RGB")
    if scale < 1:
        smaller = max(1, int(picture.width * scale)), max(1, int(picture.height * scale))
        picture = picture.resize(smaller, Image.Resampling.LANCZOS)
    paper.paste(picture, (left + (width - picture.width) // 2, top + (height - picture.height) // 2))


@dataclass(frozen=True)
class _Labels:
    """Writes labels, wrapped to their room. Without a legend they take none."""

    font: Any
    legend: bool

    def height(self, texts: Sequence[str], width: int) -> int:
        """That the highest of these labels takes."""
        lines = max(len(self._wrapped(text, width)) for text in texts)
        return int(self._line * (lines + 0.5)) if self.legend and any(texts) else 0

    def width(self, texts: Sequence[str], most: int) -> int:
        """That the widest of these labels takes, `most` at most."""
        widest = max(self.font.getlength(line) for text in texts for line in text.split("\n"))
        return min(most, int(widest + self._line)) if self.legend and any(texts) else 0

    def write(self, draw: ImageDraw.ImageDraw, text: str, box: tuple[int, int, int, int]) -> None:
        """In the middle of left, top, width, height."""
        left, top, width, height = box
        if self.legend and text and width and height:
            middle = left + width / 2, top + height / 2
            lines = "\n".join(self._wrapped(text, width))
            draw.multiline_text(middle, lines, INK, self.font, anchor="mm", align="center", spacing=self._line - self.font.size)

    @property
    def _line(self) -> float:
        return self.font.size * 1.3

    def _wrapped(self, text: str, room: int) -> list[str]:
        """Lines that fit, broken between words, and inside of those that are too long."""
        width = room - self.font.size
        lines, line = [], ""
        for piece in (piece for word in text.split() for piece in self._pieces(word, width)):
            longer = f"{line} {piece}".strip()
            if line and self.font.getlength(longer) > width:
                lines.append(line)
                longer = piece
            line = longer
        return [*lines, line]

    def _pieces(self, word: str, width: float) -> list[str]:
        pieces, piece = [], ""
        for letter in word:
            if piece and self.font.getlength(piece + letter) > width:
                pieces.append(piece)
                piece = ""
            piece += letter
        return [*pieces, piece]


def _font(text: str, size: int) -> tuple[Any, bool]:
    """A font for the text, and whether it lacks some of its letters."""
    if all(ord(letter) < 0x2E80 for letter in text):
        return ImageFont.load_default(size), False
    for name in EAST_ASIAN_FONTS:
        try:
            return ImageFont.truetype(name, size), False
        except OSError:
            continue
    return ImageFont.load_default(size), True
