"""Makes the files that the tests feed to the studio: pictures, sounds and videos of every kind, whole and broken."""

from __future__ import annotations

import os
import subprocess
import wave
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from PIL import Image

from extensions.sadtalker.audio import ffmpeg_program

RED, GREEN, BLUE, GREY = (200, 30, 30), (30, 180, 40), (40, 50, 200), (128, 128, 128)


def corners(width: int = 120, height: int = 90) -> Image.Image:
    """A picture whose corners tell how it is turned: red, green / blue, grey."""
    pixels = np.empty((height, width, 3), np.uint8)
    pixels[: height // 2, : width // 2] = RED
    pixels[: height // 2, width // 2 :] = GREEN
    pixels[height // 2 :, : width // 2] = BLUE
    pixels[height // 2 :, width // 2 :] = GREY
    return Image.fromarray(pixels)


def corner_colors(rgb: np.ndarray) -> list[tuple[int, int, int]]:
    """The colours in the middle of the four quarters, in the order of `corners`."""
    height, width = rgb.shape[:2]
    return [tuple(int(v) for v in rgb[y * height // 4, x * width // 4]) for y, x in ((1, 1), (1, 3), (3, 1), (3, 3))]


def write_wav(path: Path, seconds: float = 1.0, amplitude: float = 0.5, rate: int = 16000, channels: int = 1) -> Path:
    """A tone that swells and fades three times a second, 16-bit."""
    t = np.arange(round(seconds * rate)) / rate
    tone = amplitude * np.sin(2 * np.pi * 220 * t) * np.sin(np.pi * 3 * t) ** 2
    samples = np.repeat((tone * 32767).astype("<i2")[:, None], channels, axis=1)
    with wave.open(str(path), "wb") as file:
        file.setnchannels(channels)
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes(samples.tobytes())
    return path


def ffmpeg(*arguments: str | Path, data: bytes | None = None) -> bytes:
    """Runs ffmpeg and fails the test when it fails; what it wrote to standard output."""
    command = [ffmpeg_program(), "-v", "error", "-y", *map(str, arguments)]
    return subprocess.run(command, input=data, capture_output=True, check=True, timeout=60).stdout


def convert(source: Path, target: Path, *options: str) -> Path:
    """`source` in the format that `target`'s name and ffmpeg's output options ask for."""
    ffmpeg("-i", f"file:{source}", *options, f"file:{target}")
    return target


def write_video(path: Path, picture: Image.Image, *options: str, frames: int = 3) -> Path:
    """A silent video of one picture."""
    width, height = picture.size
    raw = ("-f", "rawvideo", "-pix_fmt", "rgb24", "-s", f"{width}x{height}", "-r", "25", "-i", "-")
    ffmpeg(*raw, *options, f"file:{path}", data=picture.convert("RGB").tobytes() * frames)
    return path


def cut(path: Path, target: Path, share: float = 0.5) -> Path:
    """The first part of a file, as an interrupted download leaves it."""
    data = path.read_bytes()
    target.write_bytes(data[: int(len(data) * share)])
    return target


def sound_seconds(path: Path) -> float:
    """Length of a file's sound, from its decoded samples."""
    return len(ffmpeg("-i", f"file:{path}", "-vn", "-ac", "1", "-ar", "16000", "-f", "f32le", "-")) / 4 / 16000


def video_frames(path: Path) -> np.ndarray:
    """(T, H, W, 3) uint8 RGB: every frame of a short video."""
    import cv2

    video = cv2.VideoCapture(str(path))
    found = []
    while (frame := video.read()[1]) is not None:
        found.append(frame[:, :, ::-1])
    return np.array(found)


@contextmanager
def unreadable(path: Path) -> Iterator[None]:
    """Nobody may read the file while the block runs, not even root, who becomes an ordinary user for as long."""
    path.chmod(0)
    root = hasattr(os, "geteuid") and os.geteuid() == 0
    opened = {folder: folder.stat().st_mode for folder in path.parents if root and folder.stat().st_mode & 0o11 != 0o11}
    for folder, mode in opened.items():
        folder.chmod(mode | 0o11)
    if root:
        os.seteuid(65534)
    try:
        yield
    finally:
        if root:
            os.seteuid(0)
        for folder, mode in opened.items():
            folder.chmod(mode)
