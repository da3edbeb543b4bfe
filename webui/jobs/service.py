"""The one way in: the page, the command line and the HTTP API ask for work here and nowhere else."""

from __future__ import annotations

import logging
import secrets
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel

from webui.artifacts import STATE, check_target
from webui.errors import InvalidRequest, StorageError
from webui.jobs.board import JobBoard
from webui.jobs.keeping import Keeping
from webui.jobs.pool import OwnWorker, WorkerProcesses
from webui.jobs.store import Record, Store
from webui.jobs.types import STOPPED, Job, JobKind, JobResult, JobState, Loaded, Query, UnknownRequest, Usage
from webui.jobs.validation import artifact_fields, validated
from webui.jobs.worker import in_search_words

if TYPE_CHECKING:
    from webui.artifacts import Artifact, Artifacts
    from webui.settings import Settings

log = logging.getLogger(__name__)

MAX_SEED = 2**32 - 1
PRIORITIES = range(-100, 101)

REFRESH = 1.0
"""Seconds between two looks at what other programs do with the same table, while somebody asks."""


class JobService:
    """Takes requests, hands out snapshots. Every method may be called from any thread.

    alone: run the jobs that are submitted here, and no others, on a thread of this process: the command line's way.
           Closing cancels them. Otherwise worker processes run whatever waits, and closing leaves it to the next start.
    """

    def __init__(self, kinds: Iterable[JobKind], artifacts: Artifacts, settings: Settings, *, alone: bool = False):
        self._kinds = {kind.name: kind for kind in kinds}
        self._artifacts = artifacts
        self._state = artifacts.root / STATE
        self._store = Store(settings.jobs_url)
        self._board = JobBoard()
        self._live: set[str] = set()
        self._refreshed = 0.0
        self._refreshing = threading.Lock()
        self._keeping = Keeping(self._store, artifacts, settings)
        self._place: str | None = None
        self._own: list[str] = []
        if alone:
            worker = OwnWorker(list(self._kinds.values()), artifacts, settings, self._told)
            self._pool, self._place = worker, worker.name
        else:
            self._pool = WorkerProcesses(list(self._kinds.values()), settings, self._told)

    def kinds(self) -> dict[str, JobKind]:
        return dict(self._kinds)

    def submit(
        self,
        kind: str,
        request: Mapping[str, Any] | BaseModel,
        *,
        target: Path | None = None,
        previews: bool = True,
        priority: int = 0,
    ) -> Job:
        """Queue a job and return at once: from now on it survives whatever happens to this program.

        request:  the kind's request model, or a mapping that fits it.
        target:   put the main file exactly there; only for the owner of this machine, never from the network.
        previews: whether anybody can see them.
        priority: -100..100, higher goes first.
        Raises InvalidRequest for a request that breaks a bound or names a file that is not there, StorageError when
        `target` or the table cannot be written.
        """
        if kind not in self._kinds:
            raise InvalidRequest(f"There is no kind of job '{kind}'. There are: {', '.join(self._kinds) or 'none'}.")
        chosen = self._kinds[kind]
        checked = validated(chosen.request, request)
        _check_priority(priority)
        if target is not None:
            chosen.check_suffix(target, checked)
            check_target(target)
        inputs = self._inputs(checked)
        job_id, written = secrets.token_hex(16), checked.model_dump(mode="json")
        record = Record(
            id=job_id,
            kind=kind,
            state=JobState.QUEUED,
            request=written,
            seed=drawn_seed(checked),
            created=time.time(),
            files={one.id: str(one.path) for one in inputs if not one.path.is_relative_to(self._artifacts.root)},
            target=None if target is None else str(target),
            previews=previews,
            priority=priority,
            only_for=self._place,
            words=in_search_words(job_id, kind, chosen.title, written, [one.name for one in inputs]),
        )
        self._store.add(record)
        if self._place:
            self._own.append(job_id)
        job = self._board.put(self._job(record))
        self._pool.look()
        return job

    def get(self, job_id: str) -> Job:
        """The job as it is. Raises InvalidRequest for an unknown or deleted id."""
        self._refresh()
        return self._board.find(job_id) or self._loaded(job_id)

    def jobs(self) -> tuple[Job, ...]:
        """The unfinished ones and those that finished lately, oldest first."""
        self._refresh()
        return self._board.all()

    def history(self, query: Query) -> tuple[list[Job], int]:
        """All jobs that fit, newest first, from `offset` on at most `limit`; how many fit in all."""
        records, total = self._store.history(query)
        return [self._board.find(record.id) or self._job(record) for record in records], total

    @property
    def closed(self) -> bool:
        """True once the studio stops: no more news will come, whatever becomes of the unfinished jobs."""
        return self._board.closed

    def wait(self, job_id: str, timeout: float | None = None) -> Job:
        """The job once it has finished, or as it is after `timeout` seconds."""
        deadline = None if timeout is None else time.monotonic() + timeout
        job = self.get(job_id)
        while not job.state.finished and not self.closed:
            left = None if deadline is None else deadline - time.monotonic()
            if left is not None and left <= 0:
                break
            job = self.watch(job_id, job.version, left)
        return job

    def watch(self, job_id: str, after_version: int, timeout: float | None = None) -> Job:
        """The job once its version is above `after_version` or it has finished, or as it is after `timeout` seconds."""
        deadline = None if timeout is None else time.monotonic() + timeout
        while True:
            job = self.get(job_id)
            left = REFRESH if deadline is None else min(REFRESH, deadline - time.monotonic())
            if job.version > after_version or job.state.finished or left <= 0 or self.closed:
                return job
            self._board.wait(job_id, after_version, left)

    def cancel(self, job_id: str) -> Job:
        """Ask a job to stop. What it has made so far is kept. A finished job stays as it is."""
        self.get(job_id)
        record = self._store.cancel(job_id, STOPPED, self._kinds)
        if record is not None and record.state.finished:
            self._board.put(self._job(record))
        elif record is not None:
            self._pool.cancel(job_id)
            self._pool.look()
        return self.get(job_id)

    def skip(self, job_id: str) -> Job:
        """Ask a running job to leave out what it makes now, and to go on with the next. A finished job stays as it is.

        Raises InvalidRequest for a job that makes one thing only, and while it waits.
        """
        kind = self._kinds.get(self.get(job_id).kind)
        if kind is None or not kind.skippable:
            raise InvalidRequest("This kind of job makes one thing alone, so there is nothing to skip. Cancel it instead.")
        if self._store.skip(job_id) is not None:
            self._pool.skip(job_id)
        elif self._loaded(job_id).state is JobState.QUEUED:
            raise InvalidRequest("This job has not begun, so there is nothing to skip yet.")
        return self.get(job_id)

    def prioritise(self, job_id: str, priority: int) -> Job:
        """Let a waiting job go before those of lower priority. Raises InvalidRequest when it does not wait any more."""
        _check_priority(priority)
        self.get(job_id)
        record = self._store.prioritise(job_id, priority)
        if record is None:
            raise InvalidRequest("This job does not wait any more, so its place cannot be changed.")
        return self._board.put(self._job(record))

    def delete(self, job_id: str) -> None:
        """Hide a finished job and the files that it made; `restore` brings both back for a day.

        Raises InvalidRequest while it is unfinished.
        """
        if not self.get(job_id).state.finished:
            raise InvalidRequest("This job has not finished. Cancel it first.")
        self._keeping.delete(job_id)
        self._board.remove(job_id)

    def restore(self, job_id: str) -> Job:
        """Undo `delete`. Raises InvalidRequest when the job is gone for good, or never was."""
        return self._job(self._keeping.restore(job_id))

    def deleted(self, job_id: str) -> Job:
        """A job that `restore` can bring back. Raises InvalidRequest when there is none."""
        return self._loaded(job_id, deleted=True)

    def usage(self) -> Usage:
        return self._keeping.usage()

    def sweep(self) -> None:
        """Delete for good what nobody needs: old trash, uploads of no job, and what the retention rule names."""
        for job_id in self._keeping.sweep():
            self._board.remove(job_id)

    def thumbnail(self, job_id: str, *, deleted: bool = False) -> Path | None:
        """A small JPEG of what the job made, when there is one. deleted: of a job that `restore` can bring back."""
        job = self.deleted(job_id) if deleted else self.get(job_id)
        path = self._state / "thumbnails" / f"{job.id}.jpg"
        return path if path.is_file() else None

    def recall(self, path: Path) -> tuple[str, dict[str, Any]] | None:
        """The kind and the request that a file made here carries inside; None for any other file."""
        for kind in self._kinds.values():
            fields = kind.recall and kind.recall(path)
            if fields:
                return kind.name, fields
        return None

    def warm_up(self) -> None:
        """Load in the background what the first jobs will need."""
        self._pool.warm_up()

    def loaded(self) -> tuple[Loaded, ...]:
        """What this studio's workers hold in memory for later jobs."""
        return self._pool.loaded()

    def machines(self) -> tuple[dict[str, Any], ...]:
        """What this studio's workers compute with, each as its kinds' JobKind.machine say; {} for one that does not know yet."""
        return self._pool.machines()

    def unload(self) -> None:
        """Let the workers go of it, each when its job has ended."""
        self._pool.unload()

    def close(self, timeout: float = 10.0) -> None:
        """Stop working within `timeout` seconds."""
        for job_id in self._own:
            self._quietly(lambda job_id=job_id: self._store.cancel(job_id, STOPPED, self._kinds))
        self._pool.close(timeout)
        for job_id in self._own:
            self._quietly(lambda job_id=job_id: self._board.put(self._loaded(job_id)))
        self._board.close()
        self._store.close()

    def _quietly(self, action: Callable[[], object]) -> None:
        """On the way out: that the table cannot be used, or that a job was deleted, must keep nobody from leaving."""
        try:
            action()
        except (StorageError, InvalidRequest) as error:
            log.warning("%s", error)

    def _told(self, what: str, job_id: str, changes: dict[str, Any]) -> None:
        """News of a worker, on its own thread."""
        if what == "stopping":
            return
        if what == "changed" and job_id in self._live:
            self._board.update(job_id, **changes)
            return
        if what == "started":
            self._live.add(job_id)
        else:
            self._live.discard(job_id)
        try:
            record = self._store.get(job_id)
        except StorageError as error:  # the next look at the table, which is not far, tells as much
            log.warning("%s", error)
            return
        if record is not None and record.deleted is None:
            self._board.put(self._job(record))

    def _refresh(self) -> None:
        """Bring in what other programs have done with unfinished jobs: other servers, the command line."""
        if time.monotonic() - self._refreshed < REFRESH or not self._refreshing.acquire(blocking=False):
            return
        try:
            self._refreshed = time.monotonic()
            unfinished = {record.id: record for record in self._store.unfinished()}
            known = {job.id for job in self._board.all() if not job.state.finished}
            for job_id in (known | unfinished.keys()) - self._live:
                record = unfinished.get(job_id) or self._store.get(job_id)
                if record is not None and job_id not in self._live:
                    self._board.put(self._job(record))
                if job_id in self._live:  # it began in between, and what was read was older
                    self._told("started", job_id, {})
        except StorageError as error:  # whoever watches goes on with what the workers tell
            log.warning("%s", error)
        finally:
            self._refreshing.release()

    def _loaded(self, job_id: str, *, deleted: bool = False) -> Job:
        record = self._store.get(job_id)
        if record is None or (record.deleted is not None) is not deleted:
            raise InvalidRequest(f"There is no job '{job_id[:64]}' any more. Start it again.")
        return self._job(record)

    def _inputs(self, request: BaseModel) -> list[Artifact]:
        ids = [getattr(request, name) for name in artifact_fields(type(request))]
        return [self._artifacts.get(artifact_id) for artifact_id in ids if artifact_id]

    def _job(self, record: Record) -> Job:
        # What the job made, wherever its owner wanted it. Not what it was given: that is the owner's, and not to be handed out.
        for artifact_id in record.result["artifacts"] if record.result else ():
            if artifact_id in record.files:
                self._artifacts.know(artifact_id, Path(record.files[artifact_id]))
        return Job(
            id=record.id,
            kind=record.kind,
            request=self._request(record),
            state=record.state,
            fraction=record.fraction,
            stage=record.stage,
            warnings=record.warnings,
            result=record.result and JobResult(self._made(record.result["artifacts"]), record.result["data"]),
            error=record.error,
            error_type=record.error_type,
            log=record.log,
            seed=record.seed,
            priority=record.priority,
            created=record.created,
            started=record.started,
            finished=record.finished,
        )

    def _request(self, record: Record) -> BaseModel:
        known = self._kinds.get(record.kind)
        try:
            return validated(known.request if known else UnknownRequest, record.request)
        except InvalidRequest:  # made by another version, whose bounds were different
            return UnknownRequest(**record.request)

    def _made(self, ids: Iterable[str]) -> tuple[Artifact, ...]:
        """Those of these files that are still there."""
        found = []
        for artifact_id in ids:
            try:
                found.append(self._artifacts.get(artifact_id))
            except InvalidRequest:
                continue
        return tuple(found)


def drawn_seed(request: BaseModel) -> int:
    """The request's own seed, or a random one when it has none."""
    seed = getattr(request, "seed", None)
    return secrets.randbelow(MAX_SEED + 1) if seed is None or seed < 0 else int(seed)


def _check_priority(priority: int) -> None:
    if priority not in PRIORITIES:
        raise InvalidRequest(f"'priority' must be a whole number from {PRIORITIES[0]} to {PRIORITIES[-1]}.")
