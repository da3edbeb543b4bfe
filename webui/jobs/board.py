"""The snapshots of all jobs of this process, and waiting for them to change. Runs nothing."""

from __future__ import annotations

import threading
import time
from dataclasses import replace
from typing import Any

from webui.errors import InvalidRequest
from webui.jobs.types import Job, JobState

KEPT = 200
"""So many finished jobs are remembered; their files stay."""


class JobBoard:
    """Thread-safe. A job that has finished never changes again."""

    def __init__(self) -> None:
        self._jobs: dict[str, Job] = {}
        self._changed = threading.Condition()

    def add(self, job: Job) -> None:
        with self._changed:
            self._jobs[job.id] = job
            finished = [known.id for known in self._jobs.values() if known.state.finished]
            for old in finished[: max(0, len(finished) - KEPT)]:
                del self._jobs[old]

    def update(self, job_id: str, *, only_from: JobState | None = None, **changes: Any) -> Job:
        """The job with these changes, or as it is when it has finished or is in another state than `only_from`."""
        with self._changed:
            job = self._jobs[job_id]
            if job.state.finished or only_from not in (None, job.state):
                return job
            job = self._jobs[job_id] = replace(job, version=job.version + 1, **changes)
            self._changed.notify_all()
            return job

    def get(self, job_id: str) -> Job:
        """Raises InvalidRequest when there is no such job."""
        with self._changed:
            return self._get(job_id)

    def remove(self, job_id: str) -> None:
        """Forget a finished job; its watchers wake up. Raises InvalidRequest for an unknown or unfinished one."""
        with self._changed:
            if not self._get(job_id).state.finished:
                raise InvalidRequest("This job has not finished. Cancel it first.")
            del self._jobs[job_id]
            self._changed.notify_all()

    def all(self) -> tuple[Job, ...]:
        """Oldest first."""
        with self._changed:
            return tuple(self._jobs.values())

    def watch(self, job_id: str, after_version: int, timeout: float | None) -> Job:
        """The job once its version is above `after_version` or it has finished, or as it is after `timeout` seconds."""
        with self._changed:
            self._get(job_id)
            self._changed.wait_for(lambda: self._moved_on(job_id, after_version), timeout)
            return self._get(job_id)

    def wait(self, job_id: str, timeout: float | None) -> Job:
        """The job once it has finished, or as it is after `timeout` seconds."""
        deadline = None if timeout is None else time.monotonic() + timeout
        job = self.get(job_id)
        while not job.state.finished:
            left = None if deadline is None else deadline - time.monotonic()
            if left is not None and left <= 0:
                break
            job = self.watch(job_id, job.version, left)
        return job

    def _moved_on(self, job_id: str, after_version: int) -> bool:
        job = self._jobs.get(job_id)
        return job is None or job.version > after_version or job.state.finished

    def _get(self, job_id: str) -> Job:
        if job_id not in self._jobs:
            raise InvalidRequest(f"There is no job '{job_id[:64]}' any more. Start it again.")
        return self._jobs[job_id]
