"""Listens to a sound file: one ffmpeg process decodes it, its samples stream through an engine's ear and are dropped.

Any sound ffmpeg knows, or the sound of a video, becomes 16 kHz mono. The samples are never kept, so memory grows by what
the ear keeps alone; the file is never changed. The encoder takes the sound from the original file again, not from here.
"""

from __future__ import annotations

import os
import re
import struct
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, TYPE_CHECKING

import numpy as np

from webui.plugin_api import Cancelled, MediaError

if TYPE_CHECKING:
    from extensions.sadtalker.engines.base import Ear, Heard

SAMPLE_RATE = 16000

MIN_SECONDS = 0.1
"""Sounds shorter than this are refused: nothing is said in them."""

# Containers that hold sound themselves. Playlists and lists of files are not among them: they would make ffmpeg open
# other files than the one that was given.
_CONTAINERS = (
    "aac,ac3,aiff,amr,amrnb,amrwb,ape,asf,au,avi,caf,dts,eac3,flac,flv,live_flv,loas,matroska,webm,"
    "mov,mp4,m4a,3gp,3g2,mj2,mp3,mpeg,mpegts,ogg,tta,w64,wav,wv"
)

_CHUNK = 4 * SAMPLE_RATE  # bytes: a second of sound

_LOST_TAIL = ("partial file", "File ended prematurely", "Packet corrupt")
"""What ffmpeg says when a file promises more than it holds."""

_STREAMED_WAV_FROM = 0x7FFF0000
"""A WAV written to a pipe cannot know its length; programs then write a number from here up."""


def listen(path: Path, max_seconds: float, ear: Ear, stopped: Callable[[], bool] = lambda: False) -> Heard:
    """The sound in a file as `ear` hears it.

    stopped: asked once per second of sound; Cancelled is raised when it says yes.

    Raises MediaError when the file is missing, cannot be read, holds no sound or less than MIN_SECONDS of it, breaks
    off before its end, or is longer than `max_seconds`: then no more than that is decoded.
    """
    path = Path(path)
    _check_file(path)
    samples = 0
    with _decoder(path) as decoder:
        for chunk in decoder.chunks():
            samples += len(chunk)
            if stopped():
                raise Cancelled("The job was cancelled while it listened to the voice.")
            if samples > max_seconds * SAMPLE_RATE:
                raise MediaError(
                    f"The sound {path.name} is longer than {_minutes(max_seconds)}, the most that is allowed. Cut it, "
                    "or raise the limit in the settings."
                )
            ear.push(chunk)
        _check_decoded(path, decoder.finish(), decoder.log, samples / SAMPLE_RATE)
    return ear.finish()


def decode_command(ffmpeg: str, path: Path) -> list[str]:
    """Decodes the first sound in `path` to 16 kHz mono float32 on standard output."""
    # fmt: off
    return [
        ffmpeg, "-hide_banner", "-nostdin", "-nostats", "-loglevel", "info",
        *input_arguments(path),
        "-map", "0:a:0", "-ac", "1", "-ar", str(SAMPLE_RATE),
        "-f", "f32le", "pipe:1",
    ]
    # fmt: on


def input_arguments(path: Path) -> list[str]:
    """Opens one local sound file and nothing else, whatever its name looks like and whatever it holds."""
    # fmt: off
    return [
        "-protocol_whitelist", "file,pipe", "-format_whitelist", _CONTAINERS,
        "-i", f"file:{path.absolute()}",
    ]
    # fmt: on


def ffmpeg_program() -> str:
    """The ffmpeg that comes in imageio-ffmpeg's package, or the one that IMAGEIO_FFMPEG_EXE names."""
    import imageio_ffmpeg

    try:
        return imageio_ffmpeg.get_ffmpeg_exe()
    except RuntimeError as e:
        raise MediaError("ffmpeg is missing. Run launch.sh again, or: pip install imageio-ffmpeg") from e


@dataclass
class _Decoder:
    """A running ffmpeg that decodes. `log` is what it said on standard error, whole once `finish` has returned."""

    process: subprocess.Popen[bytes]
    output: IO[bytes]
    listener: threading.Thread
    lines: list[str] = field(default_factory=list)

    @property
    def log(self) -> str:
        return "\n".join(self.lines)

    def chunks(self) -> Iterator[np.ndarray]:
        """(n,) float32 samples until the sound ends."""
        while data := self.output.read(_CHUNK):
            yield np.frombuffer(data[: len(data) // 4 * 4], dtype="<f4")

    def finish(self) -> int:
        """Waits for the end of a process whose output was read to its end; its exit code."""
        code = self.process.wait()
        self.listener.join()
        return code


@contextmanager
def _decoder(path: Path) -> Iterator[_Decoder]:
    """Runs ffmpeg; leaving the block early kills it."""
    process = subprocess.Popen(
        decode_command(ffmpeg_program(), path),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,  # Ctrl-C in a terminal must not make a sound file look broken
    )
    assert process.stdout is not None and process.stderr is not None
    lines: list[str] = []
    # A full stderr pipe would stop ffmpeg, so it is emptied at the side. A broken file can make it say very much.
    listener = threading.Thread(target=_collect, args=(process.stderr, lines), daemon=True)
    listener.start()
    try:
        yield _Decoder(process, process.stdout, listener, lines)
    finally:
        with suppress(ProcessLookupError):
            process.kill()
        process.wait()
        listener.join()
        process.stdout.close()
        process.stderr.close()


def _collect(stream: IO[bytes], lines: list[str], most: int = 400) -> None:
    for line in stream:
        if len(lines) < most:
            lines.append(line.decode("utf-8", "replace").rstrip())


def _check_file(path: Path) -> None:
    if os.path.isdir(path):  # never raises, unlike Path.is_dir
        raise MediaError(f"{path} is a folder. Choose a sound file inside it.")
    try:
        with open(path, "rb") as file:
            empty = not file.read(1)
    except FileNotFoundError as e:
        raise MediaError(f"There is no file {path}. Check the name and the folder.") from e
    except OSError as e:
        reason = e.strerror or type(e).__name__
        raise MediaError(f"The file {path} cannot be read ({reason}). Check its permissions, or copy it.") from e
    if empty:
        raise MediaError(f"The file {path.name} is empty. Record or save the sound again.")


def _check_decoded(path: Path, exit_code: int, log: str, seconds: float) -> None:
    """Raises MediaError with what ffmpeg's exit code, its words and the length show to be wrong."""
    if "matches no streams" in log or "does not contain any stream" in log:
        raise MediaError(f"{path.name} has no sound in it. Use a sound file, or a video with sound.")
    damaged = MediaError(f"The sound {path.name} is damaged or breaks off before its end. Save or export it again.")
    if "moov atom not found" in log:
        raise damaged
    unknown = "Invalid data found when processing input" in log or "Format not on whitelist" in log
    if unknown and not seconds:
        raise MediaError(
            f"{path.name} is not a sound that can be read. Use a WAV, MP3, M4A, OGG, Opus, FLAC or WebM file, or a "
            "video."
        )
    if exit_code or breaks_off(path, log, seconds):
        raise damaged
    if seconds < MIN_SECONDS:
        raise MediaError(f"The sound {path.name} lasts only {seconds * 1000:.0f} ms. Use one of at least a second.")


def breaks_off(path: Path, log: str, seconds: float) -> bool:
    """Whether a sound of which `seconds` were heard was meant to go on, by ffmpeg's `log` and the file's own marks."""
    if _ends_inside_ogg_page(path):
        return True
    if any(words in log for words in _LOST_TAIL) and not _is_streamed_wav(path):
        return True
    promised = _promised_seconds(log)
    return promised is not None and seconds < promised - max(0.5, 0.02 * promised)


def _promised_seconds(log: str) -> float | None:
    """The length that the file's header states; None when it states none or ffmpeg had to guess."""
    found = re.search(r"^\s*Duration: (\d+):(\d\d):(\d\d\.\d+)", log, re.MULTILINE)
    if not found or "Estimating duration from bitrate" in log:
        return None
    hours, minutes, seconds = found.groups()
    return int(hours) * 3600 + int(minutes) * 60 + float(seconds)


def _is_streamed_wav(path: Path) -> bool:
    with open(path, "rb") as file:
        head = file.read(12)
    if len(head) < 12 or head[:4] != b"RIFF" or head[8:12] != b"WAVE":
        return False
    (length,) = struct.unpack("<I", head[4:8])
    return length == 0 or length >= _STREAMED_WAV_FROM


def _ends_inside_ogg_page(path: Path) -> bool:
    """Whether an Ogg file (RFC 3533) stops in the middle of a page. ffmpeg passes over that without a word."""
    longest_page = 27 + 255 + 255 * 255
    with open(path, "rb") as file:
        if file.read(4) != b"OggS":
            return False
        size = file.seek(0, 2)
        start = max(0, size - longest_page)
        file.seek(start)
        tail = file.read()
    page = tail.rfind(b"OggS")
    segments = tail[page + 26] if page >= 0 and page + 27 <= len(tail) else None
    if segments is None:
        return True
    lengths = tail[page + 27 : page + 27 + segments]
    return len(lengths) < segments or page + 27 + segments + sum(lengths) > len(tail)


def _minutes(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:g} seconds"
    return f"{seconds / 60:g} minutes"
