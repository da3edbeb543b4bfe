"""Reads any picture a person is likely to have into upright 8-bit sRGB pixels.

The kind of file is judged by its first bytes, never by its name. Sizes are checked from the header, before anything is
decoded. This module never writes a file, never reads a broken picture half, and never opens a network address.
"""

from __future__ import annotations

import io
import os
import struct
import warnings
import zlib
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from webui.errors import MediaError

if TYPE_CHECKING:
    import numpy as np
    from PIL.Image import Image

MAX_PIXELS = 200_000_000
"""Pictures with more pixels than this are refused; the largest phone cameras make 200 megapixels."""

MIN_SIDE = 64
"""Pictures narrower or lower than this many pixels are refused: no face in them could be animated."""

PAPER = (255, 255, 255)
"""What shows through where a picture is transparent."""

# Only formats that hold pixels and are decoded inside Pillow: EPS, for one, would start another program.
_FORMATS = (
    "JPEG", "PNG", "WEBP", "AVIF", "HEIF", "GIF", "BMP", "DIB", "TIFF", "JPEG2000", "PPM", "ICO", "QOI", "PSD",
)  # fmt: skip

# What Pillow and its plugins raise on files that are broken; none of them has an error type of its own.
_DECODER_ERRORS = (OSError, SyntaxError, ValueError, EOFError, OverflowError, RuntimeError, struct.error, zlib.error)

_EXIF_ORIENTATION = 0x0112

_PICTURE_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"mif2", b"msf1", b"avif", b"avis")


@dataclass(frozen=True)
class Picture:
    """A picture ready for use.

    rgb:           (H, W, 3) uint8, sRGB, upright, contiguous.
    original_size: (width, height) of the file in pixels, as it is seen upright.
    notes:         what was done to it that its owner should know, in words.
    alpha:         (H, W) uint8, how opaque it was before it was laid on paper; None for a picture that has no transparency.
    """

    rgb: np.ndarray
    original_size: tuple[int, int]
    notes: tuple[str, ...] = ()
    alpha: np.ndarray | None = None


def read_picture(path: Path | str, longest_side: int = 2048) -> Picture:
    """The picture in a file, or the first frame of the video in it, no side longer than `longest_side` pixels.

    Raises MediaError when the file is missing or cannot be read, or holds no picture, or one that is damaged, smaller
    than MIN_SIDE or larger than MAX_PIXELS.
    """
    path = Path(path)
    head = _first_bytes(path)
    if _is_video(head):
        return _first_frame(path, longest_side)
    image = _open(path, head)
    _check_size(path.name, image.size)
    try:
        return _decode(image, longest_side)
    except _DECODER_ERRORS as e:
        raise MediaError(
            f"The picture {path.name} is damaged or breaks off before its end. Save or download it again."
        ) from e
    finally:
        image.close()


def _first_bytes(path: Path) -> bytes:
    """The file's first 64 bytes, after making sure that there is a file that can be read."""
    if os.path.isdir(path):  # never raises, unlike Path.is_dir
        raise MediaError(f"{path} is a folder. Choose a picture file inside it.")
    try:
        with open(path, "rb") as file:
            head = file.read(64)
    except FileNotFoundError as e:
        raise MediaError(f"There is no file {path}. Check the name and the folder.") from e
    except OSError as e:
        reason = e.strerror or type(e).__name__
        raise MediaError(f"The file {path} cannot be read ({reason}). Check its permissions, or copy it.") from e
    if not head:
        raise MediaError(f"The file {path.name} is empty. Save or download the picture again.")
    return head


def _is_video(head: bytes) -> bool:
    """Whether the bytes begin a video container: MP4/MOV, Matroska/WebM, AVI, FLV, ASF/WMV, MPEG."""
    if head[4:8] == b"ftyp":
        return head[8:12] not in _PICTURE_BRANDS
    if head[:4] == b"RIFF":
        return head[8:12] == b"AVI "
    old_quicktime = head[4:8] in (b"moov", b"mdat", b"wide", b"free")
    return old_quicktime or head.startswith(
        (b"\x1aE\xdf\xa3", b"FLV\x01", b"0&\xb2u\x8ef\xcf\x11", b"\x00\x00\x01\xba", b"\x00\x00\x01\xb3")
    )


def _check_size(name: str, size: tuple[int, int]) -> None:
    width, height = size
    if width * height > MAX_PIXELS:
        raise MediaError(
            f"The picture {name} has {width * height / 1e6:.0f} megapixels ({width}x{height}); the most that is read "
            f"is {MAX_PIXELS / 1e6:.0f}. Make it smaller first."
        )
    if min(width, height) < MIN_SIDE:
        raise MediaError(
            f"The picture {name} is only {width}x{height} pixels. Use one of at least {MIN_SIDE}x{MIN_SIDE}."
        )


@lru_cache(maxsize=1)
def _pillow() -> Any:
    """PIL.Image with HEIC added, and with our limit on pixels in place of its own lower one (179 megapixels)."""
    import pillow_heif
    from PIL import Image

    pillow_heif.register_heif_opener()
    Image.MAX_IMAGE_PIXELS = MAX_PIXELS
    # What is over the limit is refused in words of our own.
    warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)
    return Image


def _open(path: Path, head: bytes) -> Image:
    """Reads the header only."""
    pillow = _pillow()
    try:
        return pillow.open(path, formats=_FORMATS)
    except pillow.DecompressionBombError as e:
        raise MediaError(
            f"The picture {path.name} has more than {2 * MAX_PIXELS / 1e6:.0f} megapixels; the most that is read is "
            f"{MAX_PIXELS / 1e6:.0f}. Make it smaller first."
        ) from e
    except pillow.UnidentifiedImageError as e:
        raise MediaError(
            f"{path.name} is not a picture that can be read{_guess(head)}. Use a JPEG, PNG, WebP, AVIF, HEIC, TIFF, "
            "BMP or GIF picture, or a video."
        ) from e
    except _DECODER_ERRORS as e:
        raise MediaError(f"The picture {path.name} is damaged. Save or download it again.") from e


def _guess(head: bytes) -> str:
    """What an unreadable file seems to be, in brackets, when that can be told."""
    if head.startswith(b"%PDF"):
        return " (it is a PDF document)"
    if head.startswith((b"RIFF", b"ID3", b"OggS", b"fLaC")):
        return " (it is a sound)"
    start = head.lstrip(b"\xef\xbb\xbf \r\n\t").lower()
    if start.startswith((b"<svg", b"<?xml", b"<html", b"<!doctype")):
        return " (it is a web page or a vector drawing)"
    is_text = all(byte >= 32 or byte in b"\r\n\t" for byte in head)
    return " (it holds text)" if is_text else ""


def _decode(image: Image, longest_side: int) -> Picture:
    """Pixels, made small first because all that follows is then cheap: flat, upright, sRGB."""
    import numpy as np

    profile = image.info.get("icc_profile")
    original = image.size
    target = _fitted(original, longest_side)
    small = _shrunk(image, target)
    # Asked for after decoding only: Pillow turns TIFFs itself, and then takes their mark away.
    turn, notes = _turn(image)
    if turn is not None:
        small = small.transpose(turn)
    alpha = np.array(small.getchannel("A")) if small.mode in ("LA", "RGBA") else None
    small = _flat(small)
    if small.size == target[::-1]:
        original = original[::-1]
    rgb, profile_notes = _to_srgb(small, profile)
    if rgb.size != original:
        notes = (f"scaled from {original[0]}x{original[1]} to {rgb.width}x{rgb.height}", *notes)
    return Picture(np.array(rgb, dtype=np.uint8), original, notes + profile_notes, alpha)


def _turn(image: Image) -> tuple[Any, tuple[str, ...]]:
    """The transposition that sets a camera's picture upright (None: it is), and what there is to say about it."""
    turns = _pillow().Transpose
    by_mark = {
        2: turns.FLIP_LEFT_RIGHT,
        3: turns.ROTATE_180,
        4: turns.FLIP_TOP_BOTTOM,
        5: turns.TRANSPOSE,
        6: turns.ROTATE_270,
        7: turns.TRANSVERSE,
        8: turns.ROTATE_90,
    }
    try:
        return by_mark.get(image.getexif().get(_EXIF_ORIENTATION)), ()
    except _DECODER_ERRORS:
        return None, ("the camera's mark of which side is up cannot be read",)


def _shrunk(image: Image, target: tuple[int, int]) -> Image:
    """Decodes and scales to `target`, in one of the modes L, LA, RGB, RGBA, CMYK, LAB."""
    if image.format in ("JPEG", "MPO"):
        # A JPEG is decoded at 1/2, 1/4 or 1/8 directly, which spares most of the time and memory of a phone's picture.
        image.draft(None, target)
    image = _eight_bit(image)
    return image if image.size == target else image.resize(target, _pillow().Resampling.LANCZOS, reducing_gap=3.0)


def _fitted(size: tuple[int, int], longest_side: int) -> tuple[int, int]:
    scale = min(1.0, longest_side / max(size))
    return max(1, round(size[0] * scale)), max(1, round(size[1] * scale))


def _eight_bit(image: Image) -> Image:
    """The decoded picture in one of the modes L, LA, RGB, RGBA, CMYK, LAB."""
    image.load()
    if image.mode.startswith(("I", "F")):
        return _deep_grey(image)
    if image.mode in ("P", "PA") or "transparency" in image.info:
        return image.convert("RGBA")
    if image.mode in ("L", "LA", "RGB", "RGBA", "CMYK", "LAB"):
        return image
    return image.convert({"1": "L", "La": "LA", "RGBa": "RGBA"}.get(image.mode, "RGB"))


def _deep_grey(image: Image) -> Image:
    """16-bit, 32-bit or floating-point grey to 8 bits. The file does not say where white is: the values do."""
    import numpy as np

    grey = np.asarray(image)
    if image.mode.startswith("I;16"):
        return _pillow().fromarray((grey >> 8).astype(np.uint8))
    grey = np.nan_to_num(grey.astype(np.float32), nan=0.0, posinf=0.0, neginf=0.0)
    brightest = float(grey.max())
    white = next((w for w in (1.0, 255.0, 65535.0) if brightest <= w), brightest)
    if image.mode == "I" and brightest <= 1.0:
        white = 255.0
    return _pillow().fromarray(np.clip(grey * (255.0 / white) + 0.5, 0, 255).astype(np.uint8))


def _flat(image: Image) -> Image:
    """The picture on white paper where it is transparent."""
    if image.mode not in ("LA", "RGBA"):
        return image
    image = image.convert("RGBA")
    paper = _pillow().new("RGB", image.size, PAPER)
    paper.paste(image, mask=image.getchannel("A"))
    return paper


def _to_srgb(image: Image, profile: bytes | None) -> tuple[Image, tuple[str, ...]]:
    """8-bit sRGB by the file's colour profile, and what there is to say about that."""
    from PIL import ImageCms

    if image.mode == "LAB":
        return _convert_profile(image, ImageCms.createProfile("LAB")), ()
    if profile:
        try:
            return _convert_profile(image, ImageCms.ImageCmsProfile(io.BytesIO(profile))), ()
        except (ImageCms.PyCMSError, OSError, ValueError):
            return image.convert("RGB"), ("its colour profile does not fit the picture and was left out",)
    return image.convert("RGB"), ()


def _convert_profile(image: Image, source: Any) -> Image:
    from PIL import ImageCms

    if image.mode == "RGB" and source.profile.xcolor_space.strip() == "GRAY":
        image = image.convert("L")
    return ImageCms.profileToProfile(image, source, ImageCms.createProfile("sRGB"), outputMode="RGB")


def _first_frame(path: Path, longest_side: int) -> Picture:
    """The first picture of a video, upright, as Picture."""
    import cv2
    import numpy as np

    video = cv2.VideoCapture(str(path.resolve()), cv2.CAP_FFMPEG)
    try:
        stored = int(video.get(cv2.CAP_PROP_FRAME_WIDTH)), int(video.get(cv2.CAP_PROP_FRAME_HEIGHT))
        if min(stored) > 0:
            _check_size(path.name, stored)
        ok, bgr = video.read()
    finally:
        video.release()
    if not ok or bgr is None:
        raise MediaError(
            f"No picture can be read from {path.name}: it holds sound only, or is damaged. Use a photo or other video."
        )
    height, width = bgr.shape[:2]
    _check_size(path.name, (width, height))
    notes = ["the first frame of the video was taken"]
    target = _fitted((width, height), longest_side)
    if target != (width, height):
        bgr = cv2.resize(bgr, target, interpolation=cv2.INTER_AREA)
        notes.insert(0, f"scaled from {width}x{height} to {target[0]}x{target[1]}")
    return Picture(np.ascontiguousarray(bgr[:, :, ::-1]), (width, height), tuple(notes))
