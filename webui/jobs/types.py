"""What a job is: its kind, its state, what watchers see of it. Plain values; runs nothing."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field

if TYPE_CHECKING:
    from pydantic import BaseModel

    from webui.artifacts import Artifact
    from webui.jobs.context import JobContext


ARTIFACT_FORMAT = "artifact-id"

ArtifactId = Annotated[str, Field(max_length=64, json_schema_extra={"format": ARTIFACT_FORMAT})]
"""Type of a request field that names a file. The command line takes a path there, the page an upload."""


class JobState(str, Enum):
    """A job moves from QUEUED to RUNNING to one of the last three, and never out of those."""

    QUEUED = "queued"
    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def finished(self) -> bool:
        return self in (JobState.DONE, JobState.FAILED, JobState.CANCELLED)


@dataclass(frozen=True)
class JobResult:
    """What a handler gives back.

    artifacts: the files made, the main one first.
    data:      JSON-able facts about how they were made (engine, seed, seconds, warnings ...).
    """

    artifacts: tuple[Artifact, ...]
    data: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class JobKind:
    """One kind of work that an extension or the studio itself offers.

    name:    what the API and the command line call it, e.g. "talk".
    title:   what a person calls it, e.g. "Talking head".
    request: the pydantic model; bounds and defaults live there and nowhere else.
    handler: does the work; raises webui.errors only. When `ctx.cancelled` turns true it stops within a second and
             returns what is finished so far, or raises Cancelled when nothing is.
    suffix:  of the main file it makes, e.g. ".mp4", or "".
    warm_up: loads what every job of this kind needs; called once, on the worker's thread, while nobody waits.
    """

    name: str
    title: str
    request: type[BaseModel]
    handler: Callable[[JobContext, Any], JobResult]
    suffix: str = ""
    warm_up: Callable[[], None] | None = None


@dataclass(frozen=True)
class Job:
    """A snapshot of a job. `version` grows with every change, so that a watcher can wait for the next one.

    fraction: 0..1 of the work done; stage: what is being done now, in words.
    preview:  the newest preview picture as JPEG bytes, or None.
    eta:      seconds left as estimated from the pace so far, or None while unknown.
    error:    the message of the error that ended a failed job.
    error_type: its class in webui.errors, "" when it was none of them.
    """

    id: str
    kind: str
    request: BaseModel
    state: JobState
    version: int = 0
    fraction: float = 0.0
    stage: str = ""
    eta: float | None = None
    preview: bytes | None = None
    warnings: tuple[str, ...] = ()
    result: JobResult | None = None
    error: str | None = None
    error_type: str = ""
