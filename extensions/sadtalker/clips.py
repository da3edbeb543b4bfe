"""Pictures of a video, streamed: one ffmpeg process decodes it at a given rate, and one frame at a time is in memory. And the
face in them, followed."""

from __future__ import annotations

import subprocess
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import IO

import numpy as np

from extensions.sadtalker.audio import ffmpeg_program, input_arguments
from webui.plugin_api import Face, FaceFinder, FaceFollower, MediaError, NoFaceFound

LONGEST_SIDE = 960
"""Larger frames are made smaller: faces in them are followed, not shown."""


def frames_command(ffmpeg: str, path: Path, fps: float | None, start: int, side: int | None) -> list[str]:
    """Decodes the first video in `path` upright to portable pixmaps on standard output, each with its size before it."""
    rate = [] if fps is None else [f"fps={fps:g}"]
    smaller = [] if side is None else [f"scale=w='min({side},iw)':h='min({side},ih)':force_original_aspect_ratio=decrease"]
    # fmt: off
    return [
        ffmpeg, "-hide_banner", "-nostdin", "-nostats", "-loglevel", "error",
        *input_arguments(path), "-map", "0:v:0", "-vf", ",".join([*rate, f"select=gte(n\\,{start})", *smaller]),
        "-fps_mode", "passthrough", "-pix_fmt", "rgb24", "-c:v", "ppm", "-f", "image2pipe", "pipe:1",
    ]
    # fmt: on


def frames(path: Path, fps: float | None, *, start: int = 0, side: int | None = LONGEST_SIDE) -> Iterator[np.ndarray]:
    """(H, W, 3) uint8 RGB, `fps` of them a second (None: all there are) from frame `start` on, no side longer than `side`.
    Closing it ends the decoder.

    Raises MediaError when the file has no pictures that can be read.
    """
    process = subprocess.Popen(
        frames_command(ffmpeg_program(), path, fps, start, side),
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, start_new_session=True,
    )  # fmt: skip
    assert process.stdout is not None
    count = 0
    try:
        while (frame := _frame(process.stdout)) is not None:
            count += 1
            yield frame
        if not count and not start:
            raise MediaError(f"{path.name} has no pictures that can be read. Use a video, such as MP4, MOV or WebM.")
    finally:
        with suppress(ProcessLookupError):
            process.kill()
        process.wait()
        process.stdout.close()


def followed(clip: Iterable[np.ndarray], finder: FaceFinder) -> Iterator[tuple[np.ndarray, Face]]:
    """Each frame with its face, which is that of the frame before where none is seen.

    Raises NoFaceFound when the first one shows none.
    """
    follower = FaceFollower(finder)
    for frame in clip:
        face = follower.follow(frame)
        if face is None:
            raise NoFaceFound(
                "The reference video shows no face in its first picture. Cut its beginning, or choose another one."
            )
        yield frame, face


def _frame(stream: IO[bytes]) -> np.ndarray | None:
    """The next pixmap (P6: width, height, 255, then the pixels)."""
    if stream.readline() != b"P6\n":
        return None
    width, height = map(int, stream.readline().split())
    stream.readline()
    pixels = stream.read(width * height * 3)
    return np.frombuffer(pixels, np.uint8).reshape(height, width, 3) if len(pixels) == width * height * 3 else None
