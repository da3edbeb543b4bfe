"""Who runs the jobs: worker processes, one per device, that are replaced when they die; or a worker in this process.

Both are told by the same words (those of `Pool`), and tell of their jobs and of their memory as worker.Tell says. A keeper
adds one of its own: "lost", when the process that ran a job is gone.
A worker process ends by itself when its server is gone, and its job is put back.
"""

from __future__ import annotations

import logging
import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from multiprocessing.connection import Connection
from typing import TYPE_CHECKING, Any, Protocol

from webui.artifacts import Artifacts
from webui.jobs.worker import Tell, Worker

if TYPE_CHECKING:
    from webui.jobs.types import JobKind, Loaded
    from webui.settings import Settings

log = logging.getLogger(__name__)

PAUSES = (0.0, 1.0, 5.0, 15.0, 30.0)
"""Seconds before the first, second ... restart of a worker that died soon after its start; the last one from then on."""

SOON = 20.0
UNHEARD = 15.0
"""Seconds without news of a job that was asked to stop, after which its worker is ended by force."""

UNHEARD_AT_MOST = 10
"""So many times as long a job may take to stop, however much it has to say."""


class Pool(Protocol):
    def look(self) -> None:
        """There may be a job to run."""
        ...

    def cancel(self, job_id: str) -> None:
        """The job's owner wants it stopped, says the table."""
        ...

    def skip(self, job_id: str) -> None:
        """The job's owner wants what is being made left out, says the table."""
        ...

    def warm_up(self) -> None:
        """Load what the first jobs will need."""
        ...

    def unload(self) -> None:
        """Let go of what is held in memory for later jobs, once no job runs."""
        ...

    def loaded(self) -> tuple[Loaded, ...]:
        """What is held in memory for later jobs."""
        ...

    def machines(self) -> tuple[dict[str, Any], ...]:
        """What each worker computes with, {} for one that does not know yet."""
        ...

    def close(self, timeout: float) -> None:
        """Stop within `timeout` seconds."""
        ...


class OwnWorker:
    """A worker on a thread of this process, which runs only what is reserved for it. Closing it cancels its job."""

    def __init__(self, kinds: Sequence[JobKind], artifacts: Artifacts, settings: Settings, tell: Tell):
        self._tell, self._loaded, self._machine = tell, (), {}
        worker = self._worker = Worker(kinds, artifacts, settings, self._told, only_own=True)
        worker.start()
        self.name = worker.name
        self.look, self.cancel, self.skip = worker.look, worker.cancel, worker.skip
        self.warm_up, self.unload = worker.warm_up, worker.unload

    def loaded(self) -> tuple[Loaded, ...]:
        return self._loaded

    def machines(self) -> tuple[dict[str, Any], ...]:
        return (self._machine,)

    def _told(self, what: str, job_id: str, changes: dict[str, Any]) -> None:
        if what == "loaded":
            self._loaded, self._machine = changes["loaded"], changes["machine"]
        else:
            self._tell(what, job_id, changes)

    def close(self, timeout: float) -> None:
        self._worker.close(timeout)


class WorkerProcesses:
    """A process per device of the settings. Closing it puts the running jobs back: they go on at the next start."""

    def __init__(self, kinds: Sequence[JobKind], settings: Settings, tell: Tell):
        self._keepers = [
            Keeper(tuple(kinds), replace(settings, device=device), tell) for device in settings.device.split(",")
        ]

    def look(self) -> None:
        for keeper in self._keepers:
            keeper.send("look")

    def cancel(self, job_id: str) -> None:
        for keeper in self._keepers:
            keeper.cancel(job_id)

    def skip(self, job_id: str) -> None:
        for keeper in self._keepers:
            keeper.send("skip", job_id)

    def warm_up(self) -> None:
        for keeper in self._keepers:
            keeper.warm_up()

    def unload(self) -> None:
        for keeper in self._keepers:
            keeper.send("unload")

    def loaded(self) -> tuple[Loaded, ...]:
        return tuple(one for keeper in self._keepers for one in keeper.loaded)

    def machines(self) -> tuple[dict[str, Any], ...]:
        return tuple(keeper.machine for keeper in self._keepers)

    def close(self, timeout: float) -> None:
        deadline = time.monotonic() + timeout
        for keeper in self._keepers:
            keeper.stop()
        for keeper in self._keepers:
            keeper.join(max(0.1, deadline - time.monotonic()))


class Keeper:
    """Keeps one worker process alive, and listens to it. loaded, machine: what that one holds in memory and computes with,
    as last told."""

    def __init__(self, kinds: tuple[JobKind, ...], settings: Settings, tell: Tell):
        self._kinds, self._settings, self._tell = kinds, settings, tell
        self._lock = threading.Lock()
        self._closing = threading.Event()
        self._warm = False
        self.loaded: tuple[Loaded, ...] = ()
        self.machine: dict[str, Any] = {}
        self._running: str | None = None
        self._heard = 0.0
        self._process: Any = None
        self._pipe: Connection | None = None
        self._thread = threading.Thread(target=self._keep, name="galatea-keeper", daemon=True)
        self._thread.start()

    def send(self, word: str, job_id: str = "") -> None:
        with self._lock:
            if self._pipe is not None:
                with suppress(OSError):  # it died; its successor looks for itself
                    self._pipe.send((word, job_id))

    def warm_up(self) -> None:
        self._warm = True
        self.send("warm_up")

    def cancel(self, job_id: str) -> None:
        self.send("cancel", job_id)
        if self._running == job_id:
            self._expect_end(job_id)

    def stop(self) -> None:
        self._closing.set()
        self.send("stop")

    def join(self, timeout: float) -> None:
        self._thread.join(timeout)
        if self._thread.is_alive() and self._process is not None:
            self._process.kill()
            self._thread.join(5)

    def _keep(self) -> None:
        """Start a worker, listen until it is gone, start the next."""
        early = 0
        while not self._closing.wait(PAUSES[min(early, len(PAUSES) - 1)]):
            begun = time.monotonic()
            try:
                process, pipe = self._start()
            except OSError as error:  # no memory or no more processes, for now
                log.warning("No worker could be started: %s. Trying again.", error)
                early += 1
                continue
            self._listen(pipe)
            process.join()
            pipe.close()
            early = early + 1 if time.monotonic() - begun < SOON else 0
            if not self._closing.is_set():
                log.warning("The worker for %s ended (%s); starting another.", self._settings.device, _reason(process.exitcode))
                # What it was loading may have ended it, and would end the next one, too.
                self._warm = self._warm and early == 0

    def _start(self) -> tuple[Any, Connection]:
        context = multiprocessing.get_context("spawn")
        here, there = context.Pipe()
        process = context.Process(
            target=serve, args=(there, self._kinds, self._settings, logging.getLogger().level), name="galatea-worker", daemon=True
        )
        process.start()
        there.close()
        with self._lock:
            self._process, self._pipe = process, here
        if self._closing.is_set():  # asked between two processes
            self.send("stop")
        if self._warm:
            self.send("warm_up")
        return process, here

    def _listen(self, pipe: Connection) -> None:
        while True:
            try:
                what, job_id, changes = pipe.recv()
            except (EOFError, OSError):
                break
            if what == "loaded":
                self.loaded, self.machine = changes["loaded"], changes["machine"]
                continue
            self._running = {"started": job_id, "ended": None}.get(what, self._running)
            self._heard = time.monotonic()
            if what == "stopping":
                self._expect_end(job_id)
            self._tell(what, job_id, changes)
        self.loaded = ()
        if self._running is not None:
            lost, self._running = self._running, None
            self._tell("lost", lost, {})

    def _expect_end(self, job_id: str) -> None:
        latest = time.monotonic() + UNHEARD_AT_MOST * UNHEARD
        self._later(UNHEARD, job_id, self._process, latest)

    def _later(self, seconds: float, *arguments: Any) -> None:
        timer = threading.Timer(seconds, self._end_unheard, arguments)
        timer.daemon = True
        timer.start()

    def _end_unheard(self, job_id: str, process: Any, latest: float) -> None:
        if self._running != job_id or process is not self._process:
            return
        left = min(self._heard + UNHEARD, latest) - time.monotonic()
        if left > 0:  # it is busy with what it keeps
            self._later(left, job_id, process, latest)
            return
        log.warning("Job %s did not stop when asked; its worker is ended.", job_id)
        process.kill()


def serve(pipe: Connection, kinds: tuple[JobKind, ...], settings: Settings, log_level: int) -> None:
    """The main function of a worker process."""
    logging.basicConfig(level=log_level, format="%(levelname)s: %(message)s")
    signal.signal(signal.SIGINT, lambda *_: None)  # Ctrl-C is the server's business, which says "stop"
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    if hasattr(signal, "SIGHUP"):
        signal.signal(signal.SIGHUP, signal.SIG_IGN)  # the same when the terminal is closed
    lock = threading.Lock()

    def tell(what: str, job_id: str, changes: dict[str, Any]) -> None:
        with lock, suppress(OSError):  # the server is gone, and the loop below ends this process
            pipe.send((what, job_id, changes))

    worker = Worker(kinds, Artifacts(settings.outputs_dir), settings, tell)
    worker.start()
    of_a_job = {"cancel": worker.cancel, "skip": worker.skip}
    of_all = {"look": worker.look, "warm_up": worker.warm_up, "unload": worker.unload}
    try:
        while True:
            word, job_id = pipe.recv()
            if word == "stop":
                break
            if word in of_a_job:
                of_a_job[word](job_id)
            else:
                of_all[word]()
    except (EOFError, OSError, SystemExit):
        pass  # the server was killed, or this process is asked to end
    try:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        worker.put_back()
    finally:
        os._exit(0)  # the handler is in the middle of something, and has no more say


def _reason(exitcode: int | None) -> str:
    if exitcode is not None and exitcode < 0:
        name = signal.Signals(-exitcode).name
        return f"{name}: killed, or out of memory" if name == "SIGKILL" else name
    return f"exit code {exitcode}"
