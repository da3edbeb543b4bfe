"""Writes a video: frames go through a pipe into one ffmpeg process that takes the sound from the original file.

The clip is encoded once, H.264 and AAC in MP4, as the frames come; no frame is kept here and no shell is used. The
sound is padded or cut to end with the last frame, also when fewer come than were planned. Same frames, same bytes.
"""

from __future__ import annotations

import errno
import json
import os
import subprocess
import threading
from collections import deque
from contextlib import suppress
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, NoReturn

from extensions.sadtalker.audio import ffmpeg_program, input_arguments
from webui.plugin_api import MediaError, StorageError

if TYPE_CHECKING:
    import numpy as np

X264_PRESET = "superfast"
X264_QP = 18
"""One quantiser for all frames: with a rate factor (crf) every key frame redraws a still background 0.9 levels off."""

X264_THREADS = 2
"""Fixed, because x264's result depends on it; the renderer needs the other cores."""

AAC_BITRATE = "160k"

AI_NOTICE = "AI-generated: this video was made by a computer from a photo and a sound recording (Galatea)."
"""Written into every video, where players show the description."""

_PIPE_BYTES = 1 << 20

_UNWRITABLE = ("Permission denied", "Read-only file system", "No such file or directory", "Is a directory")

_PATIENCE = 0.2
"""Seconds that a stopped video's encoder gets for the rest of the sound, which is thrown away, before it is hurried."""

# cv2 makes BT.601 in video range of RGB; the picture's own primaries and curve are sRGB's. These are labels only.
_COLOR_LABELS = "setparams=range=tv:colorspace=smpte170m:color_primaries=bt709:color_trc=iec61966-2-1"


def encode_command(
    ffmpeg: str, path: Path, size: tuple[int, int], fps: float, frames: int, sound: Path, title: str, comment: str
) -> list[str]:
    """Encodes I420 frames of (width, height) from standard input, with another file's sound, to the MP4 `path`.

    `frames` is how many are planned, and the sound is made as long as they are. Not with ffmpeg's `-shortest`: it misses
    the place by up to a second now and then, drops frames, or holds them all in memory, depending on its buffer.
    """
    width, height = size
    rate = frame_rate(fps)
    # fmt: off
    return [
        ffmpeg, "-hide_banner", "-nostdin", "-nostats", "-loglevel", "warning", "-y",
        "-f", "rawvideo", "-pixel_format", "yuv420p", "-video_size", f"{width}x{height}",
        "-framerate", f"{rate.numerator}/{rate.denominator}", "-i", "pipe:0",
        *input_arguments(sound),
        "-map", "0:v:0", "-map", "1:a:0", "-map_metadata", "-1", "-map_chapters", "-1",
        "-vf", _COLOR_LABELS, "-c:v", "libx264", "-preset", X264_PRESET, "-qp", str(X264_QP),
        "-threads:v", str(X264_THREADS), "-pix_fmt", "yuv420p",
        "-af", sound_filter(float(frames / rate)), "-c:a", "aac", "-b:a", AAC_BITRATE,
        "-metadata", f"title={title}", "-metadata", f"comment={comment}", "-metadata", f"description={AI_NOTICE}",
        "-fflags", "+bitexact", "-flags:v", "+bitexact", "-flags:a", "+bitexact",
        "-movflags", "+faststart", "-f", "mp4", f"file:{path.absolute()}",
    ]
    # fmt: on


def shorten_command(ffmpeg: str, video: Path, path: Path, seconds: float) -> list[str]:
    """Copies the first `seconds` of `video`, its pictures, sound and labels as they are, to the MP4 `path`."""
    # fmt: off
    return [
        ffmpeg, "-hide_banner", "-nostdin", "-nostats", "-loglevel", "warning", "-y",
        *input_arguments(video), "-t", f"{seconds:.6f}",
        "-map", "0:v:0", "-map", "0:a:0", "-map_metadata", "0", "-map_chapters", "-1", "-c", "copy",
        "-fflags", "+bitexact",
        "-movflags", "+faststart", "-f", "mp4", f"file:{path.absolute()}",
    ]
    # fmt: on


def frame_rate(fps: float) -> Fraction:
    """`fps` as an exact ratio; 29.97 and its like mean television's 30000/1001."""
    television = Fraction(round(fps) * 1000, 1001)
    return television if abs(fps - television) < 0.005 else Fraction(fps).limit_denominator(1000)


def sound_filter(seconds: float) -> str:
    """The sound from its first sample on, padded or cut to `seconds`, at a rate and in channels that players take."""
    return (
        "asetpts=N/SR/TB,aformat=sample_rates=44100|48000:channel_layouts=mono|stereo,"
        f"apad=whole_dur={seconds:.6f},atrim=end={seconds:.6f}"
    )


def metadata_command(ffmpeg: str, path: Path) -> list[str]:
    """Prints a video's metadata in ffmpeg's text form."""
    quiet = ["-hide_banner", "-nostdin", "-loglevel", "error"]
    return [ffmpeg, *quiet, *input_arguments(path), "-f", "ffmetadata", "pipe:1"]


class VideoWriter:
    """An MP4 that is being written. Use it as a context manager: an error inside the block kills the encoder.

    path:     where to write, whatever its suffix; an existing file is replaced. After an error the caller removes it.
    size:     (width, height) of the frames in pixels, both even.
    fps:      frames per second.
    frames:   how many are planned; fewer may come, and make a shorter video.
    sound:    the original sound file, or a video with sound.
    title:    what players show as the title.
    settings: what the video was made with; JSON-able, written into the file (see read_settings).

    Frames are taken as fast as they are encoded, a few ahead. Raises StorageError when the disk is full or the file
    cannot be written, MediaError when ffmpeg fails for another reason, ValueError on frames of another size or type.
    """

    def __init__(
        self,
        path: Path,
        size: tuple[int, int],
        fps: float,
        frames: int,
        sound: Path,
        title: str,
        settings: dict[str, Any],
    ) -> None:
        if size[0] % 2 or size[1] % 2 or min(size) < 2:
            raise ValueError(f"H.264 needs an even width and height, not {size[0]}x{size[1]}")
        self.path, self.size, self.sound = Path(path), size, Path(sound)
        self.rate, self.planned, self.written = frame_rate(fps), frames, 0
        comment = json.dumps(settings, ensure_ascii=False, sort_keys=True)
        self._process = subprocess.Popen(
            encode_command(ffmpeg_program(), self.path, size, fps, frames, self.sound, title, comment),
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            # Ctrl-C in a terminal reaches the whole group: the encoder must outlive it to finish a cancelled video.
            start_new_session=True,
        )
        _widen_pipe(self._process.stdin)
        self._log: deque[str] = deque(maxlen=50)
        self._closed = False
        # A full stderr pipe would stop ffmpeg, so it is emptied at the side.
        self._listener = threading.Thread(target=self._listen, daemon=True)
        self._listener.start()

    def write(self, frame: np.ndarray) -> None:
        """Add a frame, (H, W, 3) uint8 RGB."""
        import cv2

        width, height = self.size
        if frame.shape != (height, width, 3) or frame.dtype != "uint8":
            raise ValueError(f"a frame of {frame.shape} {frame.dtype} in a video of {width}x{height}")
        # Half the bytes through the pipe, and quicker than ffmpeg's own conversion.
        i420 = cv2.cvtColor(frame, cv2.COLOR_RGB2YUV_I420)
        try:
            self._process.stdin.write(i420.data)
        except (OSError, ValueError) as e:
            self._fail(e)
        self.written += 1

    def close(self) -> None:
        """Finish the file. The sound ends with the last frame. Without any frame there is no video: ValueError."""
        if not self.written:
            self.abort()
            raise ValueError("a video needs at least one frame")
        try:
            self._process.stdin.close()
        except OSError as e:
            self._fail(e)
        code = self._wait()
        self._listener.join()
        self._process.stderr.close()
        if code:
            self._fail(None)
        if self.written < self.planned and not self._closed:
            self._cut_sound()
        self._closed = True

    def _wait(self) -> int:
        """The exit code of the encoder after its last frame; 0 also when it was asked to leave the rest of the sound."""
        if self.written >= self.planned or os.name == "nt":
            return self._process.wait()
        try:
            return self._process.wait(timeout=_PATIENCE)
        except subprocess.TimeoutExpired:
            # All frames are long through by now; on this signal ffmpeg ends what it has in order, and says 255.
            self._process.terminate()
            code = self._process.wait()
            return 0 if code == 255 else code

    def _cut_sound(self) -> None:
        """End the sound with the last frame of a video that was stopped early. Nothing is encoded again."""
        whole = self.path.with_name(f"{self.path.stem}.cut.part")
        command = shorten_command(ffmpeg_program(), self.path, whole, float(self.written / self.rate))
        try:
            done = subprocess.run(
                command, stdin=subprocess.DEVNULL, capture_output=True, check=False, start_new_session=True
            )
            if done.returncode:
                self._raise(done.returncode, done.stderr.decode("utf-8", "replace").splitlines(), None)
            whole.replace(self.path)
        finally:
            whole.unlink(missing_ok=True)

    def abort(self) -> None:
        """Kill the encoder; what it wrote is of no use."""
        self._process.kill()
        self._process.wait()
        self._listener.join()
        with suppress(OSError):
            self._process.stdin.close()
        self._process.stderr.close()

    def __enter__(self) -> VideoWriter:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        if kind is None:
            self.close()
        else:
            self.abort()

    def _listen(self) -> None:
        for line in self._process.stderr:
            self._log.append(line.decode("utf-8", "replace").rstrip())

    def _fail(self, cause: Exception | None) -> NoReturn:
        """Raise what the end of the encoder means, by its own last words."""
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(timeout=5)  # it is on its way out, and says why at the last moment
        code = self._process.poll()
        self.abort()
        self._raise(code, list(self._log), cause)

    def _raise(self, code: int | None, lines: list[str], cause: Exception | None) -> NoReturn:
        log = "\n".join(lines)
        folder = self.path.parent
        if "No space left on device" in log or getattr(cause, "errno", None) == errno.ENOSPC:
            raise StorageError(f"The disk is full: the video does not fit in {folder}. Free some space.") from cause
        if "Error opening input" not in log and any(words in log for words in _UNWRITABLE):
            raise StorageError(f"The video cannot be written in {folder}. Check that folder.") from cause
        if code is None or code < 0:
            raise MediaError("The video encoder was stopped from outside, or ran out of memory. Try again.") from cause
        last = lines[-1] if lines else f"exit code {code}"
        raise MediaError(f"The video could not be encoded ({last}). Convert the sound to WAV and try again.") from cause


def read_metadata(path: Path) -> dict[str, str]:
    """A video's title, comment, description and the like. Raises MediaError when it cannot be read."""
    done = subprocess.run(
        metadata_command(ffmpeg_program(), Path(path)), stdin=subprocess.DEVNULL, capture_output=True, check=False
    )
    if done.returncode:
        raise MediaError(f"{Path(path).name} is not a video that can be read.")
    return parse_ffmetadata(done.stdout.decode("utf-8", "replace"))


def read_settings(path: Path) -> dict[str, Any] | None:
    """The settings that VideoWriter wrote into a video; None when it carries none."""
    try:
        settings = json.loads(read_metadata(path).get("comment", ""))
    except json.JSONDecodeError:
        return None
    return settings if isinstance(settings, dict) else None


def parse_ffmetadata(text: str) -> dict[str, str]:
    """The global keys of ffmpeg's metadata format: key=value lines in which a backslash keeps the next character."""
    entries: list[list[str]] = [[""]]
    characters = iter(text)
    for character in characters:
        if character == "\\":
            entries[-1][-1] += next(characters, "")
        elif character == "\n":
            entries.append([""])
        elif character == "=" and len(entries[-1]) == 1:
            entries[-1].append("")
        else:
            entries[-1][-1] += character
    found = {}
    for entry in entries:
        if entry[0].startswith("["):
            break
        if len(entry) == 2 and not entry[0].startswith(";"):
            found[entry[0]] = entry[1]
    return found


def _widen_pipe(pipe: Any) -> None:
    """Room for a frame or two in the pipe, so that rendering and encoding overlap. Only Linux can."""
    with suppress(ImportError, AttributeError, OSError):
        import fcntl

        fcntl.fcntl(pipe, fcntl.F_SETPIPE_SZ, _PIPE_BYTES)
