"""The JobContext of a job that a worker runs: what it says goes to the worker's watchers, its files to the artifacts."""

from __future__ import annotations

import math
import re
import secrets
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any

from webui.artifacts import PART, make_folder, move_into_place, storage_errors
from webui.jobs.preview import Throttle, small_jpeg

if TYPE_CHECKING:
    import numpy as np

    from webui.artifacts import Artifacts, PendingArtifact
    from webui.jobs.context import Item
    from webui.jobs.store import Record
    from webui.settings import Settings

LOG_LINES = 50
"""So many of a job's newest lines are kept."""

PROGRESS_PER_SECOND = 10.0


@dataclass
class Run:
    """A job while this worker runs it.

    finished: how many of its steps earlier runs have done.
    skip:     its owner wants the part that is being made left out; skips: how often that was asked, as last heard.
    lost:     another worker has it now: this one was silent for so long that it seemed dead.
    news:     what has changed since the table heard of it last.
    writing:  held while the table hears of it, so that older news never comes after newer.
    """

    record: Record
    finished: int = 0
    stop: threading.Event = field(default_factory=threading.Event)
    skip: threading.Event = field(default_factory=threading.Event)
    skips: int = 0
    lost: bool = False
    news: dict[str, Any] = field(default_factory=dict)
    writing: threading.Lock = field(default_factory=threading.Lock)


class Lost(BaseException):
    """The job is another worker's: nothing of this run may be kept. Handlers must not catch it."""


class RunningContext:
    """Implements webui.jobs.context.JobContext.

    tell:  hands changes of the Job to whoever watches.
    save:  writes what the table must know before a step counts as finished.
    holds: whether the job is still this worker's.
    """

    def __init__(
        self,
        run: Run,
        artifacts: Artifacts,
        settings: Settings,
        folder: Path,
        thumbnail: Path,
        tell: Callable[[dict[str, Any]], None],
        save: Callable[[], None],
        holds: Callable[[], bool],
    ):
        self._run, self._artifacts, self._settings = run, artifacts, settings
        self._folder, self._thumbnail = folder, thumbnail
        self._has_thumbnail, self._is_finished = thumbnail.exists(), False
        self._tell, self._save, self._holds = tell, save, holds
        self._previews, self._moves = Throttle(), Throttle(PROGRESS_PER_SECOND)
        self._pace = Pace()
        self._stage = ""
        self._steps = self._outputs = 0
        self._warnings, self._log = list(run.record.warnings), list(run.record.log)

    @property
    def settings(self) -> Settings:
        return self._settings

    @property
    def seed(self) -> int:
        return self._run.record.seed

    @property
    def cancelled(self) -> bool:
        # What earlier runs have finished is taken up first: it belongs to what is kept.
        return self._run.stop.is_set() and self._steps >= self._run.finished

    def take_skip(self) -> bool:
        asked = self._run.skip.is_set()
        self._run.skip.clear()
        return asked

    @property
    def folder(self) -> Path:
        return self._folder

    def progress(self, fraction: float, stage: str) -> None:
        fraction = min(max(float(fraction), 0.0), 1.0) if math.isfinite(fraction) else 0.0
        self._run.news |= {"fraction": fraction, "stage": stage}
        words = in_words(stage)
        if self._moves.ready() or words != self._stage:
            self._stage = words
            self._tell({"fraction": fraction, "stage": stage, "eta": self._pace.seconds_left(fraction, stage)})

    def preview(self, image: np.ndarray, *, finished: bool = False) -> None:
        shown = self._run.record.previews and self._previews.ready()
        kept = not self._has_thumbnail or (finished and not self._is_finished)
        if not shown and not kept:
            return
        picture = small_jpeg(image)
        if kept:
            self._has_thumbnail, self._is_finished = True, finished
            with suppress(OSError):  # a job is not ended for the want of its thumbnail
                self._thumbnail.parent.mkdir(parents=True, exist_ok=True)
                part = self._thumbnail.with_suffix(PART)
                part.write_bytes(picture)
                part.replace(self._thumbnail)
        if shown:
            self._tell({"preview": picture})

    def warn(self, message: str) -> None:
        if message not in self._warnings:  # a job that goes on after a crash says it again
            self._warnings.append(message)
            self._said(warnings=tuple(self._warnings))

    def log(self, line: str) -> None:
        self._log = [*self._log, line][-LOG_LINES:]
        self._said(log=tuple(self._log))

    def input(self, artifact_id: str) -> Path:
        return self._artifacts.get(artifact_id).path

    @contextmanager
    def output(self, suffix: str, stem: str) -> Iterator[PendingArtifact]:
        record, self._outputs = self._run.record, self._outputs + 1
        artifact_id = sha256(f"{record.id}/{self._outputs}".encode()).hexdigest()[:16]
        # The first file is the main one: only that one goes where the owner asked.
        target = Path(record.target) if record.target and self._outputs == 1 else None
        place = {"target": target, "artifact_id": artifact_id, "created": record.created}
        with self._artifacts.output(record.kind, suffix, stem, **place) as pending:
            yield pending
            self._confirm()

    def step(self, name: str, function: Callable[[], Any]) -> Any:
        from webui.jobs.workflow import step

        def saved() -> Any:
            result = function()
            self._run.news["steps"] = self._steps + 1
            self._save()
            if self._run.lost:
                raise Lost
            return result

        try:
            return step(name, saved)
        finally:
            self._steps += 1

    def map(self, name: str, function: Callable[[Item], Any], items: Iterable[Item]) -> list[Any]:
        results = []
        for number, item in enumerate(items):
            if self.cancelled:
                break
            results.append(self.step(f"{name} {number}", lambda item=item: function(item)))
        return results

    @contextmanager
    def file(self, name: str) -> Iterator[Path]:
        # Never the same name: an encoder of a run that died may still be writing.
        part = self._folder / f"{secrets.token_hex(8)}{PART}"
        with storage_errors(self._folder):
            make_folder(self._folder)
            try:
                yield part
                self._confirm()
                move_into_place(part, self._folder / name)
            finally:
                part.unlink(missing_ok=True)

    def _confirm(self) -> None:
        """Nothing is put into its place by a worker that has lost the job meanwhile. Raises Lost."""
        if not self._holds():
            raise Lost

    def _said(self, **changes: Any) -> None:
        self._run.news |= changes
        self._tell(changes)


class Pace:
    """Seconds left, from how fast the fraction grew in this stage's last ten seconds.

    A stage is told by its words: "frame 7 of 90" and "frame 8 of 90" are one, and "looking for the face" says nothing
    about how fast frames come.
    """

    WINDOW = 10.0
    SETTLED = 0.5

    def __init__(self) -> None:
        self._points: list[tuple[float, float]] = []
        self._words = ""

    def seconds_left(self, fraction: float, stage: str, now: float | None = None) -> float | None:
        """None until there is half a second of progress to judge by."""
        now = time.monotonic() if now is None else now
        words = in_words(stage)
        if words != self._words:
            self._words, self._points = words, []
        self._points.append((now, fraction))
        while len(self._points) > 2 and now - self._points[0][0] > self.WINDOW:
            self._points.pop(0)
        then, before = self._points[0]
        if now - then < self.SETTLED or fraction <= before:
            return None
        return (1.0 - fraction) * (now - then) / (fraction - before)


def in_words(stage: str) -> str:
    """The stage without its numbers."""
    return re.sub(r"\d+", "", stage)
