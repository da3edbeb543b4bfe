"""Infotext: what a picture was made with, as the text that AUTOMATIC1111's web UI writes into its files.

    a tin lighthouse, soft light                                the prompt, as many lines as it has
    Negative prompt: blurry, text                               only when there is one; lines may follow
    Steps: 24, Sampler: Euler a, Seed: 7, Size: 512x768, ...    the facts, one line

It lies in the text chunk `parameters` of a PNG, and in the EXIF UserComment of a JPEG or WebP. What was done to a finished
picture (enlarged, faces restored) is in a PNG's chunk `postprocessing`, too.

The format does not say where a prompt ends, so some prompts cannot be told from what follows: those with a line that begins
with "Negative prompt:". `write` adds them once more then, as the facts EXACT_PROMPT and EXACT_NEGATIVE_PROMPT, which `read`
prefers and other programs pass over. Two limits of the format remain. White space at the ends of the prompts is lost. The
last line counts as facts only if it has three or more, so with fewer of them nothing can be read back.

Nothing here decodes a picture's pixels, and nothing raises because of what is in a file or a text.
"""

from __future__ import annotations

import io
import json
import re
import struct
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, TYPE_CHECKING, Literal

from webui.errors import InvalidRequest

if TYPE_CHECKING:
    from PIL.Image import Image

EXACT_PROMPT = "Exact prompt"
EXACT_NEGATIVE_PROMPT = "Exact negative prompt"

DEFAULTS = {
    "Clip skip": "1",
    "Schedule type": "Automatic",
    "RNG": "GPU",
    "Emphasis": "Original",
    "Hires resize-1": "0",
    "Hires resize-2": "0",
    "Hires checkpoint": "Use same checkpoint",
    "Hires sampler": "Use same sampler",
    "Hires schedule type": "Use same scheduler",
    "Hires prompt": "",
    "Hires negative prompt": "",
    "Mask mode": "Inpaint masked",
    "Masked content": "original",
    "Inpaint area": "Whole picture",
    "Masked area padding": "32",
    "VAE Encoder": "Full",
    "VAE Decoder": "Full",
}
"""What it means that a key is not there."""

UNSAID = {key: DEFAULTS[key] for key in ("Clip skip", "RNG", "Emphasis", "Mask mode", "Masked content", "Inpaint area")}
"""Facts that `write` leaves out, because readers assume them."""

_FIRST = (
    "Steps", "Sampler", "Schedule type", "CFG scale", "Image CFG scale", "Seed", "Face restoration", "Size", "Model hash",
    "Model", "FP8 weight", "VAE hash", "VAE", "Variation seed", "Variation seed strength", "Seed resize from",
    "Denoising strength", "Conditional mask weight", "Clip skip", "ENSD", "Token merging ratio", "Token merging ratio hr",
    "Init image hash", "RNG", "Tiling",
)  # fmt: skip
_LAST = ("Version", "User")

_NEGATIVE = "Negative prompt:"
_LEAST_FACTS = 3

_KEY = re.compile(r"\w[\w \-/]*[\w\-/]")
_FACT = re.compile(r'([^:,]*)(?::\s*("(?:\\.|[^\\"])*"(?=\s*(?:,|\Z))|[^,]*))?\s*(?:,|\Z)')
_SIZE = re.compile(r"([0-9]+)x([0-9]+)")

Kind = Literal["png", "jpg", "webp"]
"""The files that infotext can be written into, by their suffix."""

_PROCESSED = "postprocessing"
_EXIF, _USER_COMMENT = 0x8769, 0x9286
_UNICODE = b"UNICODE\0"
LARGEST_EXIF = 65_533
"""Bytes of EXIF, with its mark in front, that fit into a JPEG."""

TOO_LONG = "The prompts are too long to be kept in a JPEG file. Save as PNG or WebP, or shorten them."

_HEADS = {b"\x89PNG": 4 << 20, b"\xff\xd8\xff": 4 << 20, b"GIF8": 1 << 20, b"RIFF": 64 << 20}
"""How a file begins in which infotext is looked for, and how many bytes of it. All but WebP have it in front of the pixels."""

_LONGEST = 1 << 20
"""Characters of an infotext; what is longer is none."""

# What Pillow raises on files that are broken, or made to do harm.
_BROKEN = (
    OSError, SyntaxError, ValueError, EOFError, OverflowError, RuntimeError, MemoryError, TypeError, AttributeError, LookupError,
    struct.error, zlib.error,
)  # fmt: skip


@dataclass(frozen=True)
class Infotext:
    """What was read: both prompts, and the facts as they were written, in their order."""

    prompt: str = ""
    negative_prompt: str = ""
    facts: dict[str, str] = field(default_factory=dict)

    def parameters(self) -> dict[str, str]:
        """All of it in one dict, as A1111 hands it on: sizes in two (Size-1, Size-2), missing keys with their defaults."""
        found = {"Prompt": self.prompt, "Negative prompt": self.negative_prompt}
        for key, value in self.facts.items():
            size = _SIZE.fullmatch(value)
            found |= {f"{key}-1": size[1], f"{key}-2": size[2]} if size else {key: value}
        return DEFAULTS | found


def write(facts: Mapping[str, object], prompt: str, negative_prompt: str = "") -> str:
    """The infotext. facts: by A1111's keys; None and what is UNSAID are left out.

    Known keys come in A1111's order, others behind them in the order given. Raises ValueError for a key that could not be
    read back.
    """
    text = _text(facts, prompt, negative_prompt)
    found = read(text)
    if (found.prompt, found.negative_prompt) != (prompt.strip(), negative_prompt.strip()):
        exact = {EXACT_PROMPT: prompt.strip(), EXACT_NEGATIVE_PROMPT: negative_prompt.strip()}
        text = _text({**facts, **exact}, prompt, negative_prompt)
    return text


def _text(facts: Mapping[str, object], prompt: str, negative_prompt: str) -> str:
    lines = [prompt.strip()]
    if negative_prompt.strip():
        lines.append(f"{_NEGATIVE} {negative_prompt.strip()}")
    lines.append(", ".join(_fact(key, str(value)) for key, value in _in_order(facts) if value is not None))
    return "\n".join(lines).strip()


def _in_order(facts: Mapping[str, object]) -> Iterator[tuple[str, object]]:
    others = [key for key in facts if key not in _FIRST and key not in _LAST]
    for key in (*_FIRST, *others, *_LAST):
        if key in facts and UNSAID.get(key) != str(facts[key]):
            yield key, facts[key]


def _fact(key: str, value: str) -> str:
    if not _KEY.fullmatch(key):
        raise ValueError(f"infotext cannot hold the key {key!r}")
    return key if key == value else f"{key}: {_quoted(value)}"


def _quoted(value: str) -> str:
    """A JSON string when the bare value could not be read back."""
    bare = value == value.strip() and not value.startswith('"') and not re.search("[,:\n]", value)
    return value if bare else json.dumps(value, ensure_ascii=False)


def _unquoted(value: str) -> str:
    try:
        text = json.loads(value, strict=False) if value.startswith('"') else value
    except ValueError:
        return value
    return text if isinstance(text, str) else value


def read(text: str) -> Infotext:
    """The prompts and facts in an infotext, by any program that writes A1111's format. Any text can be read."""
    *lines, last = text.strip().split("\n")
    facts, named = _facts(last)
    if named < _LEAST_FACTS:
        lines, facts = [*lines, last], {}
    starts = [index for index, line in enumerate(lines) if line.lstrip().startswith(_NEGATIVE)]
    first = starts[0] if starts else len(lines)
    prompt = "\n".join(lines[:first]).strip()
    negative = "\n".join(lines[first:]).strip().removeprefix(_NEGATIVE).strip()
    return Infotext(facts.pop(EXACT_PROMPT, prompt), facts.pop(EXACT_NEGATIVE_PROMPT, negative), facts)


def _facts(line: str) -> tuple[dict[str, str], int]:
    """The facts of a line, and how many have a key and a value. A key alone is its own value."""
    facts: dict[str, str] = {}
    named = 0
    for fact in _FACT.finditer(line):
        key, value = fact[1].strip(), fact[2]
        if _KEY.fullmatch(key):
            facts[key] = key if value is None else _unquoted(value.strip())
            named += value is not None
    return facts, named


def embed(image: Image, text: str, kind: Kind = "png", quality: int = 90, processed: str = "") -> bytes:
    """The picture as a file with the infotext in it.

    image: RGB. quality: 1 to 100, of JPEG and WebP. processed: for the chunk `postprocessing`, which a PNG alone has. Raises
    InvalidRequest when the text is too long for a JPEG.
    """
    from PIL.PngImagePlugin import PngInfo

    # Half a surrogate pair, which a prompt can have, has no encoding.
    text = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    file = io.BytesIO()
    if kind == "png":
        chunks = PngInfo()
        chunks.add_text("parameters", text)
        if processed:
            chunks.add_text(_PROCESSED, processed)
        image.save(file, "PNG", pnginfo=chunks)
        return file.getvalue()
    exif = _exif(text)
    if kind == "jpg" and len(exif) > LARGEST_EXIF:
        raise InvalidRequest(TOO_LONG)
    image.save(file, "JPEG" if kind == "jpg" else "WEBP", quality=quality, exif=exif)
    return file.getvalue()


def _exif(text: str) -> bytes:
    from PIL.Image import Exif

    exif = Exif()
    exif.endian = ">"
    exif.get_ifd(_EXIF)[_USER_COMMENT] = _UNICODE + text.encode("utf-16-be")
    return exif.tobytes()


def extract(source: Path | str | IO[bytes]) -> str | None:
    """The infotext in a picture file; None when it carries none, or is no picture that can be read.

    As in A1111 the EXIF comment comes first, then the chunk `parameters`, then the comment of a GIF. Raises OSError when the
    file cannot be opened.
    """
    return _in_file(source, _carried)


def postprocessing(source: Path | str | IO[bytes]) -> str | None:
    """What a PNG says was done to it when it was finished, as facts in a line; None when it says nothing. Raises as `extract`."""
    return _in_file(source, lambda image: image.info.get(_PROCESSED))


def _in_file(source: Path | str | IO[bytes], found_in: Callable[[Image], object]) -> str | None:
    if isinstance(source, (str, Path)):
        with open(source, "rb") as file:
            return _in_file(file, found_in)
    head = source.read(4)
    limit = next((limit for start, limit in _HEADS.items() if head.startswith(start)), 0)
    if not limit:
        return None
    from PIL import Image

    try:
        with Image.open(io.BytesIO(head + source.read(limit)), formats=("PNG", "JPEG", "WEBP", "GIF")) as image:
            found = found_in(image)
            text = found.decode("utf-8", "replace") if isinstance(found, bytes) else str(found or "")
    except (*_BROKEN, Image.DecompressionBombError):
        return None
    return text if text and len(text) <= _LONGEST else None


def _carried(image: Image) -> object:
    from PIL.Image import Exif

    exif = Exif()  # image.getexif() would decode the pixels of a PNG
    exif.load(image.info.get("exif", b""))
    comment = _user_comment(exif.get_ifd(_EXIF).get(_USER_COMMENT))
    return comment or image.info.get("parameters") or image.info.get("comment")


def _user_comment(comment: object) -> str | None:
    """The text of an EXIF UserComment: eight bytes that name its encoding, then the text."""
    if not isinstance(comment, bytes):
        return comment if isinstance(comment, str) else None
    if not comment.startswith(_UNICODE):
        return comment.removeprefix(b"ASCII\0\0\0").decode("utf-8", "replace").strip("\0")
    encoded = comment.removeprefix(_UNICODE)
    # A1111 writes big-endian whatever the EXIF says, other programs little-endian: what reads as more Latin letters is right.
    big, little = (encoded.decode(name, "replace").strip("\0") for name in ("utf-16-be", "utf-16-le"))
    return max((big, little), key=lambda text: sum(character < "\x7f" for character in text))
