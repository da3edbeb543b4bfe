"""Makes the video of its segments and its sound, and reads back what was written into it.

Segments are copied into the final file, not encoded again; the sound is encoded once, from the original file and over the
whole clip, while the pictures are rendered. So there is no seam in either, and the same parts make the same bytes.
"""

from __future__ import annotations

import itertools
import json
import subprocess
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

from extensions.sadtalker.audio import ffmpeg_program, input_arguments
from extensions.sadtalker.encode import Encoder, frame_rate
from webui.plugin_api import MediaError, StorageError

AAC_BITRATE = "160k"

AI_NOTICE = "AI-generated: this video was made by a computer from a photo and a sound recording (Galatea)."
"""Written into every video, where players show the description."""

_LIST = "segments.txt"

_SOUND_PACE = 25.0
"""Seconds of sound that are surely encoded in a second, on a busy machine too; twice as many are usual."""

_START = 0.2
"""Seconds that the sound's encoder may take until its first sample."""

_METADATA_PATIENCE = 10.0
"""Seconds after which a file whose metadata is still being looked for is none of ours."""


def sound_arguments(sound: Path, seconds: float) -> list[str]:
    """Encodes the first sound of a file, `seconds` long. "q" on standard input ends it in order."""
    # fmt: off
    return [
        *input_arguments(sound), "-map", "0:a:0", "-map_metadata", "-1", "-map_chapters", "-1",
        "-af", sound_filter(seconds), "-c:a", "aac", "-b:a", AAC_BITRATE, "-fflags", "+bitexact", "-flags:a", "+bitexact",
    ]
    # fmt: on


def sound_filter(seconds: float) -> str:
    """The sound from its first sample on, padded or cut to `seconds`, at a rate and in channels that players take."""
    return (
        "asetpts=N/SR/TB,aformat=sample_rates=44100|48000:channel_layouts=mono|stereo,"
        f"apad=whole_dur={seconds:.6f},atrim=end={seconds:.6f}"
    )


def join_arguments(sound: Path | None, seconds: float, title: str, comment: str) -> list[str]:
    """Copies the listed segments and the first `seconds` of a sound, if there is one, as they are. To be run in their folder."""
    heard = ["-t", f"{seconds:.6f}", *input_arguments(sound)] if sound else []
    # fmt: off
    return [
        "-nostdin", "-protocol_whitelist", "file", "-format_whitelist", "concat,mov", "-f", "concat", "-i", _LIST, *heard,
        "-map", "0:v:0", *(["-map", "1:a:0"] if sound else []), "-map_metadata", "-1", "-map_chapters", "-1", "-c", "copy",
        "-metadata", f"title={title}", "-metadata", f"comment={comment}", "-metadata", f"description={AI_NOTICE}",
        "-fflags", "+bitexact", "-movflags", "+faststart",
    ]
    # fmt: on


def segment_list(frames: Sequence[int], fps: float, name: str = "segment") -> str:
    """ffmpeg's list of the segments, one after another, with how long each one lasts. frames: how many are in each.

    ffmpeg counts in whole microseconds here. Each duration is the difference of two rounded times, so that no error adds up
    in a long video; a single one is far below a tick of the video's own clock, and vanishes there.
    """
    ends = [round(shown * 1_000_000 / frame_rate(fps)) for shown in itertools.accumulate(frames, initial=0)]
    lines = ["ffconcat version 1.0"]
    for index, (start, end) in enumerate(itertools.pairwise(ends)):
        lines += [f"file {segment_name(index, name)}", f"duration {(end - start) / 1_000_000:.6f}"]
    return "\n".join(lines) + "\n"


class Soundtrack:
    """The sound of a video, encoded at the side while pictures are rendered. A context manager: an error inside ends it.

    folder:  where it goes. Nothing is done when an earlier run has left it there.
    keep:    puts a file safely into the folder: JobContext.file.
    sound:   the original sound file, or a video with sound.
    seconds: how long the sound is made.

    Raises what Encoder raises.
    """

    NAME = "sound.m4a"

    def __init__(self, folder: Path, keep: Callable[[str], AbstractContextManager[Path]], sound: Path, seconds: float) -> None:
        self.path = folder / self.NAME
        self._keep, self._seconds, self._started = keep, seconds, time.monotonic()
        self._encoder: Encoder | None = None
        if not self.path.exists():
            self._encoder = Encoder(
                folder / "encoded.m4a", sound_arguments(sound, seconds), "Convert the sound to WAV and try again."
            )

    def settle(self) -> None:
        """Put it into its place if it is whole by now. Look now and then, so that a broken sound is not told at the end."""
        if self._encoder and not self._encoder.busy:
            self._finish(self._encoder)

    def finish(self, seconds: float) -> None:
        """Wait until its first `seconds` are there; the rest of a long one that is stopped early is not waited for."""
        if self._encoder and seconds < self._seconds:
            self._encoder.stop(_START + seconds / _SOUND_PACE - (time.monotonic() - self._started))
        if self._encoder:
            self._finish(self._encoder)

    def __enter__(self) -> Soundtrack:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        if self._encoder:
            self._encoder.abort()

    def _finish(self, encoder: Encoder) -> None:
        with self._keep(self.NAME) as path:
            encoder.close()
            encoder.path.replace(path)
        self._encoder = None


class NoSound:
    """In place of a Soundtrack: nobody speaks, and the video has no sound."""

    path = None

    def settle(self) -> None:
        """Nothing to settle."""

    def finish(self, seconds: float) -> None:
        """Nothing to wait for."""

    def __enter__(self) -> NoSound:
        return self

    def __exit__(self, *_error: object) -> None:
        """Nothing to end."""


def segment_name(index: int, name: str = "segment") -> str:
    """The file that a segment is in, the first is 0. name: of a video's segments, where a job makes several videos."""
    return f"{name}-{index:05d}.mp4"


@dataclass(frozen=True)
class Parts:
    """What a video is made of.

    folder: has the segments, by VideoWriter; name: see segment_name.
    frames: how many are in each segment; fps: of all of them.
    sound:  by Soundtrack, at least as long; None: there is none.
    """

    folder: Path
    frames: Sequence[int]
    fps: float
    sound: Path | None
    name: str = "segment"


def join(path: Path, parts: Parts, title: str, settings: dict[str, Any]) -> None:
    """Write the video: the segments one after another, and the sound as long as they are.

    path:     where to write, whatever its suffix; an existing file is replaced.
    title:    what players show as the title.
    settings: what the video was made with; JSON-able, written into the file (see read_settings).

    Raises what Encoder raises.
    """
    _write_list(parts.folder / _LIST, segment_list(parts.frames, parts.fps, parts.name))
    comment = json.dumps(settings, ensure_ascii=False, sort_keys=True)
    arguments = join_arguments(parts.sound, float(sum(parts.frames) / frame_rate(parts.fps)), title, comment)
    with Encoder(path, arguments, "Try again, and report it if it happens again.", parts.folder):
        pass


def metadata_command(ffmpeg: str, path: Path) -> list[str]:
    """Prints a video's metadata in ffmpeg's text form."""
    quiet = ["-hide_banner", "-nostdin", "-loglevel", "error"]
    return [ffmpeg, *quiet, *input_arguments(path), "-f", "ffmetadata", "pipe:1"]


def read_metadata(path: Path) -> dict[str, str]:
    """A video's title, comment, description and the like. Raises MediaError when it cannot be read."""
    unreadable = MediaError(f"{Path(path).name} is not a video that can be read.")
    command = metadata_command(ffmpeg_program(), Path(path))
    try:
        done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, check=False, timeout=_METADATA_PATIENCE)
    except (OSError, ValueError, subprocess.TimeoutExpired) as e:  # ValueError: a name with a null character
        raise unreadable from e
    if done.returncode:
        raise unreadable
    return parse_ffmetadata(done.stdout.decode("utf-8", "replace"))


def read_settings(path: Path) -> dict[str, Any] | None:
    """The settings that `join` wrote into a video; None when it carries none."""
    try:
        settings = json.loads(read_metadata(path).get("comment", ""))
    except (ValueError, RecursionError):  # no JSON, or some that is meant to do harm
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


def _write_list(path: Path, text: str) -> None:
    try:
        path.write_text(text, encoding="ascii")
    except OSError as e:
        raise StorageError(f"{path.parent} cannot be written: {e.strerror or e}. Free some space, or check that folder.") from e
