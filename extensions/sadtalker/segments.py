"""Renders a clip in segments of a few seconds, each a file of its own, so that a crash costs no more than one of them.

Frames flow one by one from the engine to the encoder; nothing here holds a segment. How segments become a video is said
in join.py, and how a frame is made in the engine.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from extensions.sadtalker.encode import VideoWriter, frame_rate, to_i420
from extensions.sadtalker.join import segment_name

if TYPE_CHECKING:
    from webui.plugin_api import JobContext

SEGMENT_SECONDS = 4
"""Short enough to be rendered again without regret, long enough that starting an encoder for each costs nothing."""

FRAMES_AHEAD = 8
"""At most so many frames are rendered while an encoder finishes its segment."""


Frames = Generator["np.ndarray", None, None]


@dataclass(frozen=True)
class Clip:
    """What is to be rendered.

    render: the frames from a given one on, see Engine.render; size: their (width, height).
    name:   of its segments' files, see join.segment_name; stage: what watchers are told, before "7 of 50".
    share:  the part of the job's progress that it is.
    """

    render: Callable[[int], Frames]
    size: tuple[int, int]
    fps: float
    frames: int
    name: str = "segment"
    stage: str = "rendering frame"
    share: tuple[float, float] = (0.03, 0.99)

    @property
    def spans(self) -> list[range]:
        """The frames of each segment."""
        length = round(SEGMENT_SECONDS * frame_rate(self.fps))
        return [range(start, min(start + length, self.frames)) for start in range(0, self.frames, length)]

    def seconds(self, frames: int) -> float:
        """How long so many frames last."""
        return float(frames / frame_rate(self.fps))


class Segments:
    """Makes one segment after another in the job's folder."""

    def __init__(self, ctx: JobContext, clip: Clip) -> None:
        self._ctx, self._clip, self._spans = ctx, clip, clip.spans
        self._frames: Frames | None = None
        self._ahead: deque[np.ndarray] = deque()

    def make(self, index: int) -> dict[str, Any]:
        """Render and encode a segment: how many frames, and the seconds it took.

        Fewer frames come out when the job is cancelled, and no file when none does. Segments are made in order; the first
        that is asked for may be any.
        """
        begun, done = time.perf_counter(), 0
        if not self._ctx.cancelled:
            name = segment_name(index, self._clip.name)
            with self._ctx.file(name) as path, VideoWriter(path, self._clip.size, self._clip.fps) as video:
                done = self._fill(video, self._spans[index])
        return {"frames": done, "seconds": round(time.perf_counter() - begun, 3)}

    def close(self) -> None:
        """End what renders, before its models are given back."""
        if self._frames is not None:
            self._frames.close()

    def _fill(self, video: VideoWriter, span: range) -> int:
        for number in span:
            if self._ctx.cancelled and video.written:
                break
            video.write(self._ahead.popleft() if self._ahead else self._rendered(number))
            done, total, (low, high) = number + 1, self._clip.frames, self._clip.share
            self._ctx.progress(low + (high - low) * done / total, f"{self._clip.stage} {done} of {total}")
        video.end()
        # Its last frames take the encoder a moment: time in which the next segment's first ones can be rendered.
        while video.busy and not self._ctx.cancelled and len(self._ahead) < FRAMES_AHEAD:
            following = span.stop + len(self._ahead)
            if following == self._clip.frames:
                break
            self._ahead.append(self._rendered(following))
        return video.written

    def _rendered(self, number: int) -> np.ndarray:
        """Frame `number` as the encoder takes it. The first one asked for is where rendering starts."""
        if self._frames is None:
            self._frames = self._clip.render(number)
        return to_i420(next(self._frames), self._clip.size)
