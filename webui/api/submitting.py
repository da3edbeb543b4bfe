"""How many jobs the API takes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from webui.api.answers import ApiError

if TYPE_CHECKING:
    from webui.jobs.service import JobService
    from webui.jobs.types import Job

MOST_WAITING = 1000
"""Unfinished jobs that the queue takes; the next one is told to come back later."""


def submitted(service: JobService, kind: str, asked: Mapping[str, Any], priority: int = 0) -> Job:
    """The job. Raises ApiError 429 when the queue is full, and what the service raises."""
    if sum(not job.state.finished for job in service.jobs()) >= MOST_WAITING:
        raise ApiError(429, "The queue is full. Try again later.", "TooManyRequests", {"Retry-After": "60"})
    return service.submit(kind, asked, priority=priority)
