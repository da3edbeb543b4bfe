"""Encodes pictures: frames go through a pipe into an ffmpeg process that writes one segment of the video.

A segment is H.264 in MP4 without sound. It starts with a key frame that nothing before it is needed for, so segments are
joined as they are (see join.py). No frame is kept here and no shell is used. Same frames, same bytes.
"""

from __future__ import annotations

import errno
import os
import secrets
import subprocess
import threading
from collections import deque
from contextlib import suppress
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, NoReturn

from extensions.sadtalker.audio import ffmpeg_program
from webui.plugin_api import MediaError, StorageError

if TYPE_CHECKING:
    import numpy as np

X264_PRESET = "superfast"
X264_QP = 18
"""One quantiser for all frames: with a rate factor (crf) every key frame redraws a still background 0.9 levels off."""

X264_THREADS = 2
"""Fixed, because x264's result depends on it; the renderer needs the other cores."""

_PIPE_BYTES = 1 << 20

_UNWRITABLE = ("Permission denied", "Read-only file system", "No such file or directory", "Is a directory")

# cv2 makes BT.601 in video range of RGB; the picture's own primaries and curve are sRGB's. These are labels only.
_COLOR_LABELS = "setparams=range=tv:colorspace=smpte170m:color_primaries=bt709:color_trc=iec61966-2-1"


def encode_arguments(size: tuple[int, int], fps: float) -> list[str]:
    """Encodes I420 frames of (width, height) from standard input."""
    width, height = size
    rate = frame_rate(fps)
    # fmt: off
    return [
        "-nostdin",
        "-f", "rawvideo", "-pixel_format", "yuv420p", "-video_size", f"{width}x{height}",
        "-framerate", f"{rate.numerator}/{rate.denominator}", "-i", "pipe:0",
        "-vf", _COLOR_LABELS, "-c:v", "libx264", "-preset", X264_PRESET, "-qp", str(X264_QP),
        "-threads:v", str(X264_THREADS), "-pix_fmt", "yuv420p",
        "-fflags", "+bitexact", "-flags:v", "+bitexact",
    ]
    # fmt: on


def frame_rate(fps: float) -> Fraction:
    """`fps` as an exact ratio; 29.97 and its like mean television's 30000/1001."""
    television = Fraction(round(fps) * 1000, 1001)
    return television if abs(fps - television) < 0.005 else Fraction(fps).limit_denominator(1000)


def to_i420(frame: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """(H, W, 3) uint8 RGB as the encoder takes it: half the bytes through the pipe, and quicker than ffmpeg's own conversion.

    Raises ValueError when the frame is not of (width, height).
    """
    import cv2

    width, height = size
    if frame.shape != (height, width, 3) or frame.dtype != "uint8":
        raise ValueError(f"a frame of {frame.shape} {frame.dtype} in a video of {width}x{height}")
    return cv2.cvtColor(frame, cv2.COLOR_RGB2YUV_I420)


class Encoder:
    """A running ffmpeg that writes one MP4. Use it as a context manager: an error inside the block kills it.

    path:      where the file goes, whatever its suffix; an existing one is replaced. Nothing is left there after an error.
    arguments: what ffmpeg is told, up to the output's format and name.
    advice:    what to do when it fails for a reason that lies in what it was given.

    ffmpeg writes under a name of its own beside `path`. When a worker is killed its encoders outlive it for a moment, and
    would otherwise write into the file that the resumed job is making.

    Raises StorageError when the disk is full or the file cannot be written, MediaError when ffmpeg fails for another reason.
    """

    def __init__(self, path: Path, arguments: list[str], advice: str, folder: Path | None = None) -> None:
        self.path, self._advice = Path(path).absolute(), advice
        self._part = self.path.with_name(f"{self.path.stem}.{secrets.token_hex(4)}.part")
        self._process = subprocess.Popen(
            [
                ffmpeg_program(), "-hide_banner", "-nostats", "-loglevel", "warning", "-y", *arguments,
                "-f", "mp4", f"file:{self._part}",
            ],
            cwd=folder,
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            # Ctrl-C in a terminal reaches the whole group: the encoder must outlive it to finish a cancelled video.
            start_new_session=True,
        )  # fmt: skip
        self._log: deque[str] = deque(maxlen=50)
        # A full stderr pipe would stop ffmpeg, so it is emptied at the side.
        self._listener = threading.Thread(target=self._listen, daemon=True)
        self._listener.start()

    @property
    def busy(self) -> bool:
        return self._process.poll() is None

    def stop(self, patience: float) -> None:
        """Ask it, after so many seconds, to leave the rest of its input and end the file in order."""
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(timeout=max(0.0, patience))
            return
        with suppress(OSError):  # it has just ended by itself; past the buffer, which would try again in `close`
            os.write(self._process.stdin.fileno(), b"q")

    def close(self) -> None:
        """Wait until the file is whole, and put it into its place."""
        try:
            self._process.stdin.close()
        except OSError as e:
            self._fail(e)
        if self._process.wait():
            self._fail(None)
        self._release()
        self._part.replace(self.path)

    def abort(self) -> None:
        """Kill the encoder and remove what it wrote."""
        self._process.kill()
        self._process.wait()
        with suppress(OSError):
            self._process.stdin.close()
        self._release()
        with suppress(OSError):
            self._part.unlink()

    def __enter__(self) -> Any:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        if kind is None:
            self.close()
        else:
            self.abort()

    def _listen(self) -> None:
        for line in self._process.stderr:
            self._log.append(line.decode("utf-8", "replace").rstrip())

    def _release(self) -> None:
        self._listener.join()
        self._process.stderr.close()

    def _fail(self, cause: Exception | None) -> NoReturn:
        """Raise what the end of the encoder means, by its own last words."""
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(timeout=5)  # it is on its way out, and says why at the last moment
        code = self._process.poll()
        self.abort()
        log, folder = "\n".join(self._log), self.path.parent
        if "No space left on device" in log or getattr(cause, "errno", None) == errno.ENOSPC:
            raise StorageError(f"The disk is full: the video does not fit in {folder}. Free some space.") from cause
        if "Error opening input" not in log and any(words in log for words in _UNWRITABLE):
            raise StorageError(f"The video cannot be written in {folder}. Check that folder.") from cause
        if code is None or code < 0:
            raise MediaError("The video encoder was stopped from outside, or ran out of memory. Try again.") from cause
        last = self._log[-1] if self._log else f"exit code {code}"
        raise MediaError(f"The video could not be encoded ({last}). {self._advice}") from cause


class VideoWriter(Encoder):
    """A segment that is being written, see Encoder.

    size: (width, height) of the frames in pixels, both even. fps: frames per second.

    Frames are taken as fast as they are encoded, a few ahead.
    """

    def __init__(self, path: Path, size: tuple[int, int], fps: float) -> None:
        if size[0] % 2 or size[1] % 2 or min(size) < 2:
            raise ValueError(f"H.264 needs an even width and height, not {size[0]}x{size[1]}")
        self.written = 0
        super().__init__(path, encode_arguments(size, fps), "Try again, and report it if it happens again.")
        _widen_pipe(self._process.stdin)

    def write(self, i420: np.ndarray) -> None:
        """Add a frame, see to_i420."""
        try:
            self._process.stdin.write(i420.data)
        except (OSError, ValueError) as e:
            self._fail(e)
        self.written += 1

    def end(self) -> None:
        """No more frames. The file is whole some moments later, when it is no longer `busy`. Without any frame: ValueError."""
        if not self.written:
            raise ValueError("a segment needs at least one frame")
        try:
            self._process.stdin.close()
        except OSError as e:
            self._fail(e)

    def close(self) -> None:
        """End it, wait until it is whole, and put it into its place."""
        try:
            self.end()
        except ValueError:
            self.abort()
            raise
        super().close()


def _widen_pipe(pipe: Any) -> None:
    """Room for a frame or two in the pipe, so that rendering and encoding overlap. Only Linux can."""
    with suppress(ImportError, AttributeError, OSError):
        import fcntl

        fcntl.fcntl(pipe, fcntl.F_SETPIPE_SZ, _PIPE_BYTES)
