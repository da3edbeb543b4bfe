"""Durable steps, by DBOS: a job is a workflow whose finished steps are kept, so that another worker goes on where it was.

The only module that knows DBOS. A worker process has one `Workflows`. Which job runs where is decided by the table of
jobs (store.py), not by DBOS's queues: those are polled, which would cost a short clip more than all its steps together,
and their order cannot be changed.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

from dbos import DBOS, DBOSPortableJSONSerializer, PortableWorkflowError, SetWorkflowID

from webui import errors
from webui.errors import StorageError
from webui.jobs.store import database_errors

NAME = "galatea"
VERSION = "1"
"""Raised on purpose when a handler's steps change so that jobs begun by an older studio cannot go on."""

RESUME_PAUSE = 0.25
"""Seconds between two looks at this worker's own queue, through which a begun job comes back."""

CHECK_PAUSE = 5.0

_UNFINISHED = ("ENQUEUED", "PENDING")

_bodies: dict[str, Callable[[], None]] = {}


@DBOS.workflow(name="job")
def _job(job_id: str) -> None:
    _bodies[job_id]()


class Workflows:
    """DBOS launched in this process, for one worker.

    url:  of the database.
    slot: what the worker's name starts with, which earlier ones that are dead now had, too.
    name: the worker's own, which no other ever has: DBOS must not resume by itself what another one left. What this one
          resumes goes through a queue of this name.
    """

    @classmethod
    def launched(cls, url: str, slot: str, name: str) -> Workflows:
        """Raises StorageError when the database cannot be used now."""
        with database_errors():
            return cls(url, slot, name)

    def __init__(self, url: str, slot: str, name: str):
        self._queue = name
        DBOS(
            config={
                "name": NAME,
                "system_database_url": url,
                "application_version": VERSION,
                "executor_id": name,
                "log_level": "ERROR",
                "serializer": DBOSPortableJSONSerializer(),
            }
        )
        DBOS.listen_queues([name])
        DBOS.launch()
        DBOS.register_queue(name, worker_concurrency=1, polling_interval_sec=RESUME_PAUSE)
        for queue in DBOS.list_queues():
            if queue.name.startswith(f"{slot}:") and queue.name != name:
                DBOS.delete_queue(queue.name)

    def run(self, job_id: str, body: Callable[[], None]) -> bool:
        """Run `body` as the workflow of this job and wait for its end. False when DBOS would not run it any more.

        What the body calls by `step` is not done again when an earlier run has done it.
        """
        ended = threading.Event()

        def observed() -> None:
            try:
                body()
            finally:
                ended.set()

        _bodies[job_id] = observed
        try:
            with database_errors():
                self._begin(job_id)
            while not ended.wait(CHECK_PAUSE):
                if not self._goes_on(job_id) and not ended.is_set():
                    return False
        finally:
            del _bodies[job_id]
        return True

    def finished_steps(self, job_id: str) -> int:
        """How many steps of this job are done for good; none when it cannot go on and will be begun again."""
        with database_errors():
            if not _is_resumable(DBOS.get_workflow_status(job_id)):
                return 0
            return len(DBOS.list_workflow_steps(job_id))

    def forget_finished(self) -> None:
        """Delete what is kept of the steps of jobs that have ended: the table of jobs has their results."""
        ended = DBOS.list_workflows(status=["SUCCESS", "ERROR"], load_input=False, load_output=False)
        if ended:
            DBOS.delete_workflows([workflow.workflow_id for workflow in ended])

    def forget(self, job_id: str) -> None:
        """The same for a job that is given up in the middle."""
        with database_errors():
            DBOS.delete_workflow(job_id)

    def close(self) -> None:
        DBOS.destroy()

    def _goes_on(self, job_id: str) -> bool:
        try:
            with database_errors():
                status = DBOS.get_workflow_status(job_id)
        except StorageError:
            return True  # as far as can be told; the body must not be given up while it may be running
        return status is not None and status.status in _UNFINISHED

    def _begin(self, job_id: str) -> None:
        status = DBOS.get_workflow_status(job_id)
        if status is not None and not _is_resumable(status):
            DBOS.delete_workflow(job_id)
            status = None
        if status is None:
            with SetWorkflowID(job_id):
                DBOS.start_workflow(_job, job_id)
        else:
            DBOS.resume_workflow(job_id, queue_name=self._queue)


def _is_resumable(status: Any) -> bool:
    return status is not None and status.status in _UNFINISHED and status.app_version == VERSION


def step(name: str, function: Callable[[], Any]) -> Any:
    """The function's result, or that of an earlier run. Inside of `Workflows.run`, on its own thread."""
    try:
        with database_errors():
            return DBOS.run_step({"name": name}, function)
    except PortableWorkflowError as error:  # the error of an earlier run, which died before it could tell
        known = getattr(errors, error.name, None)
        if isinstance(known, type) and issubclass(known, errors.GalateaError):
            raise known(error.message) from error
        raise
