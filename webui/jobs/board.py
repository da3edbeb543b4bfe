"""Snapshots of the jobs that this process has heard of lately, and waiting for them to change. The table (store.py) is the
truth; what is only of the moment, a preview or the time left, is here alone.
"""

from __future__ import annotations

import threading
from dataclasses import replace
from typing import Any

from webui.jobs.types import Job

KEPT = 200
"""So many finished jobs are kept in memory."""

_LIVE = ("version", "preview", "eta")


class JobBoard:
    """Thread-safe. A job that has finished never changes again."""

    def __init__(self) -> None:
        self._jobs: dict[str, Job] = {}
        self._changed = threading.Condition()
        self.closed = False

    def put(self, job: Job) -> Job:
        """The job as the table has it, in place of an older snapshot. Its version is set here."""
        with self._changed:
            known = self._jobs.get(job.id)
            if known is None:
                self._jobs[job.id] = job
                self._drop_old()
                return job
            if known.state.finished or all(getattr(known, name) == getattr(job, name) for name in _told(job)):
                return known
            self._jobs[job.id] = replace(job, version=known.version + 1)
            self._changed.notify_all()
            return self._jobs[job.id]

    def update(self, job_id: str, **changes: Any) -> None:
        """Change a running job; news of one that is not here, or has finished, comes too late."""
        with self._changed:
            job = self._jobs.get(job_id)
            if job is not None and not job.state.finished:
                self._jobs[job_id] = replace(job, version=job.version + 1, **changes)
                self._changed.notify_all()

    def find(self, job_id: str) -> Job | None:
        with self._changed:
            return self._jobs.get(job_id)

    def remove(self, job_id: str) -> None:
        """Forget a job; its watchers wake up."""
        with self._changed:
            self._jobs.pop(job_id, None)
            self._changed.notify_all()

    def all(self) -> tuple[Job, ...]:
        """Oldest first."""
        with self._changed:
            return tuple(sorted(self._jobs.values(), key=lambda job: job.created))

    def wait(self, job_id: str, after_version: int, timeout: float) -> None:
        """Return once the job is above this version, has finished or is gone, or after `timeout` seconds."""
        with self._changed:
            self._changed.wait_for(lambda: self.closed or self._moved_on(job_id, after_version), timeout)

    def close(self) -> None:
        """Let everybody go who waits."""
        with self._changed:
            self.closed = True
            self._changed.notify_all()

    def _moved_on(self, job_id: str, after_version: int) -> bool:
        job = self._jobs.get(job_id)
        return job is None or job.version > after_version or job.state.finished

    def _drop_old(self) -> None:
        finished = [job.id for job in self._jobs.values() if job.state.finished]
        for old in finished[: max(0, len(finished) - KEPT)]:
            del self._jobs[old]


def _told(job: Job) -> list[str]:
    """The names of what the table tells about a job."""
    return [name for name in vars(job) if name not in _LIVE]
