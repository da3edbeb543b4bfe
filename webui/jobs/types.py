"""What a job is: its kind, its state, what watchers see of it. Plain values; runs nothing."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

from webui.devices import Loaded
from webui.errors import InvalidRequest

if TYPE_CHECKING:
    from pathlib import Path

    from webui.artifacts import Artifact
    from webui.jobs.context import JobContext
    from webui.settings import Settings


ARTIFACT_FORMAT = "artifact-id"

ArtifactId = Annotated[str, Field(max_length=64, json_schema_extra={"format": ARTIFACT_FORMAT})]
"""Type of a request field that names a file. The command line takes a path there, the page an upload."""


OUT_OF_MEMORY = "There is too little memory for this job. Close other programs, or choose a smaller size."
UNEXPECTED = "Something went wrong inside the studio; the log has the details. Please report it if it happens again."
STOPPED = "The job was stopped before there was anything to keep."


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
    suffix:  of the main file it makes, e.g. ".mp4", or "". A field of the request may be in it: ".{format}".
    warm_up: loads what every job of this kind needs; called once, on the worker's thread, while nobody waits.
    loaded:  what this process holds in memory for later jobs of this kind. Imports nothing that is not imported yet.
    machine: plain facts about what this process computes with, from the settings, for the page; {} as long as they are not
             known. Imports nothing that is not imported yet.
    unload:  lets go of what `loaded` names; called on the worker's thread, between two jobs. Kinds may share both functions.
    skippable: its handler makes one part after another, and leaves one out when `ctx.take_skip()` says so.
    recall:  the request that a file was made with, as its handler wrote it into the file, or None when it holds none of
             this kind. Fields that name files may be missing. Never raises for a strange file.
    positional: fields of the request that the command line takes without their names, in this order; None: the files that
             must be given.

    Functions are given by name: the kind travels to worker processes, so they must be importable, no lambdas.
    """

    name: str
    title: str
    request: type[BaseModel]
    handler: Callable[[JobContext, Any], JobResult]
    suffix: str = ""
    warm_up: Callable[[], None] | None = None
    loaded: Callable[[], Sequence[Loaded]] | None = None
    machine: Callable[[Settings], dict[str, Any]] | None = None
    unload: Callable[[], None] | None = None
    skippable: bool = False
    recall: Callable[[Path], dict[str, Any] | None] | None = None
    positional: tuple[str, ...] | None = None

    def check_suffix(self, target: Path, request: BaseModel) -> None:
        """Raise InvalidRequest when a file of this name cannot be what the request asks for."""
        suffix = self.suffix.format_map(request.model_dump())
        if suffix and target.suffix.lower() != suffix:
            raise InvalidRequest(f"The result is a {suffix} file: let the name {target.name} end in that.")


@dataclass(frozen=True)
class Job:
    """A snapshot of a job. `version` grows with every change, so that a watcher can wait for the next one.

    request:  a kind that is no longer installed leaves an UnknownRequest here, with the fields as they were.
    priority: higher goes first; among equals the older.
    created, started, finished: seconds since 1970; started is that of the first attempt.
    fraction: 0..1 of the work done; stage: what is being done now, in words.
    preview:  the newest preview picture as JPEG bytes, or None.
    eta:      seconds left as estimated from the pace so far, or None while unknown.
    error:    the message of the error that ended a failed job.
    error_type: its class in webui.errors, "" when it was none of them.
    log:      the newest lines that the job wrote for the curious, oldest first.
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
    log: tuple[str, ...] = ()
    seed: int = 0
    priority: int = 0
    created: float = 0.0
    started: float | None = None
    finished: float | None = None


class UnknownRequest(BaseModel):
    """The request of a job whose kind is not installed any more: whatever fields it had."""

    model_config = ConfigDict(extra="allow", frozen=True)


@dataclass(frozen=True)
class Query:
    """Which jobs to list, newest first.

    search:   words that must all occur in the job's id, kind, request, result's facts, error or file names; letters' case is
              ignored.
    finished: leave out those that wait or run.
    deleted:  those that can be brought back, instead of those that are shown.
    """

    search: str = ""
    kind: str | None = None
    state: JobState | None = None
    finished: bool = False
    deleted: bool = False
    limit: int = 50
    offset: int = 0


@dataclass(frozen=True)
class Usage:
    """Bytes on the disk: results of jobs, uploads, what was deleted less than a day ago, and what is free."""

    results: int
    uploads: int
    trash: int
    free: int
