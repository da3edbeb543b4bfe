"""Runs jobs one after another, on a thread: there is one device and it does one thing at a time.

A worker takes the next waiting job out of the table, runs its handler as a workflow whose finished steps are kept, and
writes how it ended. It also looks after the jobs of workers that died. It starts no processes; pool.py does.
"""

from __future__ import annotations

import json
import logging
import shutil
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from webui import devices
from webui.artifacts import STATE
from webui.errors import Cancelled, GalateaError, OutOfMemory, StorageError
from webui.jobs.running import Lost, Run, RunningContext
from webui.jobs.slots import Slot
from webui.jobs.store import Store, patiently
from webui.jobs.types import OUT_OF_MEMORY, STOPPED, UNEXPECTED, JobKind, JobResult, JobState, Loaded
from webui.jobs.validation import validated

if TYPE_CHECKING:
    from webui.artifacts import Artifacts
    from webui.jobs.workflow import Workflows
    from webui.settings import Settings

log = logging.getLogger(__name__)

LOOK_PAUSE = 2.0
"""Seconds between two looks for work that nobody told of: of another server on the same database, or of a dead worker."""

BEAT = 0.5
"""Seconds between two notes of progress in the table, which also ask whether the job's owner wants it stopped."""

DIED = "The program that ran it ended unexpectedly: it was killed, it crashed, or the computer went off."

WAITING = "waiting: the disk is full, or the database of jobs does not answer"

Tell = Callable[[str, str, dict[str, Any]], None]
"""What a worker calls with news: ("started" | "changed" | "stopping" | "ended", job id, changes of the Job), or
("loaded", "", {"loaded": what it holds in memory, "machine": facts about what it computes with}).
"""


class Worker:
    """Holds a slot, a thread for jobs and, through the handlers, loaded models.

    only_own: run only jobs that are reserved for this worker: the command line's.
    """

    def __init__(
        self, kinds: Sequence[JobKind], artifacts: Artifacts, settings: Settings, tell: Tell, *, only_own: bool = False
    ):
        self._kinds = {kind.name: kind for kind in kinds}
        self._artifacts, self._settings, self._tell, self._only_own = artifacts, settings, tell, only_own
        self._state = artifacts.root / STATE
        self._slot = Slot(self._state / "slots")
        self._store = Store(settings.jobs_url)
        self._wake = threading.Event()
        self._closing = threading.Event()
        self._claiming = threading.Lock()
        self._run: Run | None = None
        self._workflows: Workflows | None = None
        self._cold = [kind for kind in kinds if kind.warm_up is not None]
        self._warm = self._unwanted = False
        self._held: tuple[tuple[Loaded, ...], dict[str, Any]] = (), {}
        self._thread = threading.Thread(target=self._work, name="galatea-jobs", daemon=True)

    @property
    def name(self) -> str:
        return self._slot.name

    def start(self) -> None:
        self._thread.start()

    def look(self) -> None:
        """There may be a job to run."""
        self._wake.set()

    def warm_up(self) -> None:
        """Load between two jobs what the kinds need."""
        self._warm = True
        self._wake.set()

    def cancel(self, job_id: str) -> None:
        """Ask the running job to stop, when it is this one; the table knows already."""
        run = self._run
        if run is not None and run.record.id == job_id:
            self._stop(run)

    def skip(self, job_id: str) -> None:
        """Look now how often the running job's owner has asked to skip, when it is this job; the table knows already."""
        run = self._run
        if run is not None and run.record.id == job_id:
            try:
                self._save(run)
            except StorageError as error:  # the next beat hears of it
                log.warning("%s", error)

    def unload(self) -> None:
        """Let go between two jobs of what the kinds hold in memory."""
        self._unwanted = True
        self._wake.set()

    def put_back(self) -> None:
        """Leave the running job to another worker. The process must end right after."""
        self._closing.set()
        with self._claiming:  # a job that is just being taken out of the table is put back, too
            run = self._run
        if run is not None:
            self._store.put_back(run.record.id, self.name)

    def close(self, timeout: float) -> bool:
        """Cancel the running job and wait for what it gives back. False when it did not stop in time."""
        self._closing.set()
        run = self._run
        if run is not None:
            run.stop.set()
        self._wake.set()
        if self._thread.ident is not None:
            self._thread.join(timeout)
        stopped = not self._thread.is_alive()
        if stopped:
            self._slot.release()
            self._store.close()
        return stopped

    def _work(self) -> None:
        while not self._closing.is_set():
            try:
                worked = self._next()
                self._mind_memory()
                if not worked:
                    self._warm_up()
                    self._wake.wait(LOOK_PAUSE)
                    self._wake.clear()
            except StorageError as error:
                log.warning("%s", error)
                self._closing.wait(LOOK_PAUSE)
            except Exception:  # a bug here must not end the thread, and with it every later job
                log.exception("The worker stumbled.")
                self._closing.wait(LOOK_PAUSE)
        if self._workflows is not None:
            self._workflows.close()

    def _next(self) -> bool:
        """Run the next job. False when there is none."""
        if not self._only_own:
            self._take_from_dead()
        with self._claiming:
            record = None
            if not self._closing.is_set():
                record = self._store.claim(self.name, tuple(self._kinds), only_own=self._only_own)
            if record is None:
                return False
            self._run = run = Run(record, skips=record.skips)
        over = threading.Event()
        beating = threading.Thread(target=self._beat, args=(run, over), name="galatea-beat", daemon=True)
        beating.start()
        try:
            if record.attempts > 1:
                run.finished = self._durable().finished_steps(record.id)
            if not self._durable().run(record.id, lambda: self._execute(run)):
                self._finish(run, JobState.FAILED, error=UNEXPECTED)
        except Lost:
            pass
        except StorageError:
            self._store.put_back(record.id, self.name)
            raise
        except Exception:  # a bug here: the job must not wait for a worker that has moved on
            log.exception("Job %s (%s) could not be run", record.id, record.kind)
            with suppress(Lost):
                self._finish(run, JobState.FAILED, error=UNEXPECTED)
        finally:
            over.set()
            beating.join()
            self._run = None
        self._durable().forget_finished()
        return True

    def _durable(self) -> Workflows:
        """Launched when it is needed first: on the command line that is after all else has been checked."""
        if self._workflows is None:
            from webui.jobs.workflow import Workflows

            url, slot = self._settings.jobs_url, self._slot
            self._workflows = patiently(lambda: Workflows.launched(url, slot.slot, slot.name), self._closing.is_set)
        return self._workflows

    def _take_from_dead(self) -> None:
        running = self._store.running()
        now = self._store.now() if running else 0.0
        for record in running:
            worker = record.worker or ""
            if worker != self.name and not self._slot.is_dead(worker, record.seen, now):
                continue
            changed = self._store.take_from_dead(record, self._durable().finished_steps(record.id), DIED)
            if changed is not None:
                log.warning("The worker of job %s (%s) died; the job is now %s.", record.id, record.kind, changed.state.value)
                self._tell("ended" if changed.state.finished else "changed", record.id, {"state": changed.state})
                if changed.state.finished:
                    self._durable().forget(record.id)
                    shutil.rmtree(self._folder(record.id), ignore_errors=True)
        for record in self._store.reserved():
            owner = record.only_for or ""
            if self._slot.is_neighbour(owner) and self._slot.is_dead(owner, None, 0.0):
                self._store.free(record)

    def _beat(self, run: Run, over: threading.Event) -> None:
        while not over.wait(BEAT):
            try:
                self._save(run)
            except StorageError as error:
                log.warning("%s", error)

    def _save(self, run: Run) -> None:
        """Write the news, and hear whether the job is to stop: its owner wants it, or another worker has it now."""
        with run.writing:
            news, run.news = run.news, {}
            try:
                record = self._store.beat(run.record.id, self.name, **news)
            except StorageError:
                run.news = news | run.news
                raise
        run.lost = record is None
        if record is not None and record.skips > run.skips:
            run.skips = record.skips
            run.skip.set()
        if record is None or record.cancel:
            self._stop(run)

    def _stop(self, run: Run) -> None:
        if not run.stop.is_set():
            run.stop.set()
            self._tell("stopping", run.record.id, {})

    def _execute(self, run: Run) -> None:
        """The workflow's body. The job's end is what it writes into the table, so it raises Lost alone: then DBOS must not close
        the steps, which the other worker needs.
        """
        record = run.record
        self._tell("started", record.id, {"started": record.started})
        if record.cancel:
            self._stop(run)
        try:
            kind = self._kinds[record.kind]
            result = kind.handler(self._context(run), validated(kind.request, record.request))
            ends = self._ends(run, result)
        except Cancelled as error:
            self._finish(run, JobState.CANCELLED, error=str(error) or STOPPED, error_type=Cancelled.__name__)
        except GalateaError as error:
            log.info("Job %s (%s) failed: %s", record.id, record.kind, error)
            self._finish(run, JobState.FAILED, error=str(error), error_type=type(error).__name__)
        except Lost:
            log.warning("Job %s was given to another worker meanwhile; what was made here is not kept.", record.id)
            raise
        except BaseException as error:  # even sys.exit: it would end this thread and with it every later job
            if devices.ran_out(error):
                log.exception("Job %s (%s) ran out of memory", record.id, record.kind)
                self._finish(run, JobState.FAILED, error=OUT_OF_MEMORY, error_type=OutOfMemory.__name__)
            else:
                log.exception("Job %s (%s) failed unexpectedly", record.id, record.kind)
                self._finish(run, JobState.FAILED, error=UNEXPECTED)
        else:
            if run.stop.is_set():
                self._finish(run, JobState.CANCELLED, **ends)
            else:
                self._finish(run, JobState.DONE, fraction=1.0, **ends)

    def _context(self, run: Run) -> RunningContext:
        record = run.record
        for artifact_id, path in record.files.items():
            self._artifacts.know(artifact_id, Path(path))
        return RunningContext(
            run,
            self._artifacts,
            self._settings,
            self._folder(record.id),
            self._state / "thumbnails" / f"{record.id}.jpg",
            tell=lambda changes: self._tell("changed", record.id, changes),
            save=lambda: patiently(lambda: self._save(run), self._closing.is_set, lambda: self._waits(run)),
            holds=lambda: patiently(lambda: self._store.holds(record.id, self.name), self._closing.is_set),
        )

    def _ends(self, run: Run, result: JobResult) -> dict[str, Any]:
        """What the table holds of a result."""
        places = {artifact.id: artifact.path.resolve() for artifact in result.artifacts}
        outside = {known: str(path) for known, path in places.items() if not path.is_relative_to(self._artifacts.root)}
        facts = json.loads(json.dumps(result.data, default=str))
        names = [artifact.name for artifact in result.artifacts]
        return {
            "result": {"artifacts": [artifact.id for artifact in result.artifacts], "data": facts},
            "files": run.record.files | outside,
            "words": in_search_words(run.record.words, facts, names),
        }

    def _finish(self, run: Run, state: JobState, **ends: Any) -> None:
        """Write the job's end. Raises Lost when another worker has it meanwhile."""
        job_id = run.record.id
        if ends.get("error"):
            ends["words"] = in_search_words(run.record.words, ends["error"])
        with run.writing:
            ends = {**run.news, **ends}
            ended = patiently(
                lambda: self._store.finish(job_id, self.name, state, **ends), self._closing.is_set, lambda: self._waits(run)
            )
        if ended is None:
            log.warning("Job %s was given to another worker meanwhile; its end here does not count.", job_id)
            raise Lost
        shutil.rmtree(self._folder(job_id), ignore_errors=True)
        self._tell("ended", job_id, {"state": state})

    def _waits(self, run: Run) -> None:
        """Tell watchers why nothing moves: the table cannot be asked for now."""
        self._tell("changed", run.record.id, {"stage": WAITING, "eta": None})

    def _folder(self, job_id: str) -> Path:
        return self._state / "steps" / job_id

    def _warm_up(self) -> None:
        """Load what one more kind needs."""
        if not self._warm:
            return
        self._durable()
        if not self._cold:
            return
        kind = self._cold.pop()  # the studio's own kinds come first in the list, and take the longest
        self._wake.set()  # to look for jobs before the next one
        assert kind.warm_up is not None
        started = time.monotonic()
        try:
            kind.warm_up()
        except BaseException:  # even sys.exit: it would end this thread and with it every later job
            log.exception("Warming up for '%s' failed; its first job will say why.", kind.name)
        else:
            log.info("Ready for '%s' after %.1f s.", kind.name, time.monotonic() - started)

    def _mind_memory(self) -> None:
        """Let go of what the kinds hold, when that was asked; tell what they hold, when that has changed."""
        if self._unwanted:
            self._unwanted = False
            for unload in dict.fromkeys(kind.unload for kind in self._kinds.values() if kind.unload):
                unload()
        asked = dict.fromkeys(kind.loaded for kind in self._kinds.values() if kind.loaded)
        known = dict.fromkeys(kind.machine for kind in self._kinds.values() if kind.machine)
        held = tuple(one for loaded in asked for one in loaded())
        machine = {name: fact for look in known for name, fact in look(self._settings).items()}
        if (held, machine) != self._held:
            self._held = held, machine
            self._tell("loaded", "", {"loaded": held, "machine": machine})


def in_search_words(*values: Any) -> str:
    """All texts and numbers in these values, nested ones too, in lower case."""
    found: list[str] = []
    waiting = list(values)
    while waiting:
        value = waiting.pop(0)
        if isinstance(value, dict):
            waiting += value.values()
        elif isinstance(value, (list, tuple)):
            waiting += value
        elif isinstance(value, (str, int, float)) and not isinstance(value, bool):
            found.append(str(value).lower())
    return " ".join(found)
