"""Runs jobs in this process, one after another, on one thread: there is one device and it does one thing at a time.

`submit`, `cancel` and `close` are all that the service uses, so that a durable queue can take this place.
"""

from __future__ import annotations

import logging
import queue
import re
import threading
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from webui.errors import Cancelled, GalateaError, OutOfMemory
from webui.jobs.preview import Throttle, small_jpeg
from webui.jobs.types import Job, JobKind, JobState

if TYPE_CHECKING:
    import numpy as np

    from webui.artifacts import Artifacts, PendingArtifact
    from webui.jobs.board import JobBoard
    from webui.settings import Settings

log = logging.getLogger(__name__)

OUT_OF_MEMORY = "There is too little memory for this job. Close other programs, or choose a smaller size."
UNEXPECTED = "Something went wrong inside the studio; the log has the details. Please report it if it happens again."
STOPPED = "The job was stopped before there was anything to keep."


@dataclass(frozen=True)
class Task:
    """A job as the runner gets it.

    target: where the main file goes, None for the outputs folder; previews: whether anybody can see them.
    """

    job: Job
    kind: JobKind
    seed: int
    target: Path | None = None
    previews: bool = True
    stop: threading.Event = field(default_factory=threading.Event)


class Runner:
    """A queue and one worker thread. Leaves every job finished when it is closed."""

    def __init__(self, board: JobBoard, artifacts: Artifacts, settings: Settings):
        self._board = board
        self._artifacts = artifacts
        self._settings = settings
        self._tasks: dict[str, Task] = {}
        self._queue: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._closed = False
        self._thread = threading.Thread(target=self._work, name="galatea-jobs", daemon=True)
        self._thread.start()

    def submit(self, task: Task) -> None:
        self._tasks[task.job.id] = task
        self._queue.put(lambda: self._run(task))

    def warm_up(self, kind: JobKind) -> None:
        """Load in the queue's turn what this kind needs, so that the first job starts quickly."""
        self._queue.put(lambda: self._warm_up(kind))

    def cancel(self, job_id: str) -> None:
        """Stop a job that waits at once, a running one as soon as its handler looks."""
        task = self._tasks.get(job_id)
        if task is None:
            return
        task.stop.set()
        # In one step with looking: the worker may be taking it out of the queue right now.
        job = self._board.update(
            job_id, only_from=JobState.QUEUED, state=JobState.CANCELLED, error=STOPPED, error_type=Cancelled.__name__
        )
        if job.state.finished:
            self._tasks.pop(job_id, None)

    def close(self, timeout: float) -> None:
        """Cancel what is unfinished and wait up to `timeout` seconds for the running job to give back what it has."""
        self._closed = True
        for job_id in list(self._tasks):
            self.cancel(job_id)
        self._queue.put(None)
        self._thread.join(timeout)

    def _work(self) -> None:
        while (step := self._queue.get()) is not None:
            step()

    def _warm_up(self, kind: JobKind) -> None:
        if kind.warm_up is None or self._closed:
            return
        started = time.monotonic()
        try:
            kind.warm_up()
        except BaseException:  # even sys.exit: it would end this thread and with it every later job
            log.exception("Warming up for '%s' failed; its first job will say why.", kind.name)
        else:
            log.info("Ready for '%s' after %.1f s.", kind.name, time.monotonic() - started)

    def _run(self, task: Task) -> None:
        try:
            if task.stop.is_set():
                return
            job = self._board.update(task.job.id, only_from=JobState.QUEUED, state=JobState.RUNNING)
            if job.state is JobState.RUNNING:
                self._finish(task)
        finally:
            self._tasks.pop(task.job.id, None)

    def _finish(self, task: Task) -> None:
        context = RunningContext(task, self._board, self._artifacts, self._settings)
        end: dict = {"preview": None, "eta": None}
        try:
            result = task.kind.handler(context, task.job.request)
        except Cancelled as error:
            end |= {"state": JobState.CANCELLED, "error": str(error) or STOPPED, "error_type": Cancelled.__name__}
        except GalateaError as error:
            log.info("Job %s (%s) failed: %s", task.job.id, task.kind.name, error)
            end |= {"state": JobState.FAILED, "error": str(error), "error_type": type(error).__name__}
        except MemoryError:
            log.exception("Job %s (%s) ran out of memory", task.job.id, task.kind.name)
            end |= {"state": JobState.FAILED, "error": OUT_OF_MEMORY, "error_type": OutOfMemory.__name__}
        except BaseException:  # even sys.exit: it would end this thread and with it every later job
            log.exception("Job %s (%s) failed unexpectedly", task.job.id, task.kind.name)
            end |= {"state": JobState.FAILED, "error": UNEXPECTED}
        else:
            end |= {"state": JobState.CANCELLED if task.stop.is_set() else JobState.DONE, "result": result}
            if end["state"] is JobState.DONE:
                end["fraction"] = 1.0
        self._board.update(task.job.id, **end)


class RunningContext:
    """The JobContext of a job in this process."""

    def __init__(self, task: Task, board: JobBoard, artifacts: Artifacts, settings: Settings):
        self._task = task
        self._board = board
        self._artifacts = artifacts
        self._settings = settings
        self._throttle = Throttle()
        self._pace = Pace()
        self._warnings: list[str] = []
        self._target = task.target

    @property
    def settings(self) -> Settings:
        return self._settings

    @property
    def seed(self) -> int:
        return self._task.seed

    @property
    def cancelled(self) -> bool:
        return self._task.stop.is_set()

    def progress(self, fraction: float, stage: str) -> None:
        fraction = min(max(fraction, 0.0), 1.0)
        self._update(fraction=fraction, stage=stage, eta=self._pace.seconds_left(fraction, stage))

    def preview(self, image: np.ndarray) -> None:
        if self._task.previews and self._throttle.ready():
            self._update(preview=small_jpeg(image))

    def warn(self, message: str) -> None:
        self._warnings.append(message)
        self._update(warnings=tuple(self._warnings))

    def input(self, artifact_id: str) -> Path:
        return self._artifacts.get(artifact_id).path

    def output(self, suffix: str, stem: str) -> AbstractContextManager[PendingArtifact]:
        # The first file is the main one: only that one goes where the owner asked.
        target, self._target = self._target, None
        return self._artifacts.output(self._task.kind.name, suffix, stem, target)

    def _update(self, **changes: Any) -> None:
        self._board.update(self._task.job.id, **changes)


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
        words = re.sub(r"\d+", "", stage)
        if words != self._words:
            self._words, self._points = words, []
        self._points.append((now, fraction))
        while len(self._points) > 2 and now - self._points[0][0] > self.WINDOW:
            self._points.pop(0)
        then, before = self._points[0]
        if now - then < self.SETTLED or fraction <= before:
            return None
        return (1.0 - fraction) * (now - then) / (fraction - before)
