"""What the API answers: jobs, kinds and files as JSON, and refusals. Keeps the server's folders out of every answer."""

from __future__ import annotations

import json
import math
import re
import tempfile
from collections.abc import Mapping
from http import HTTPStatus
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict, Field
from starlette.responses import JSONResponse

from webui.jobs.types import JobState
from webui.settings import PROJECT

if TYPE_CHECKING:
    from webui.artifacts import Artifact
    from webui.jobs.types import Job, JobKind
    from webui.settings import Settings

HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}


class Answer(JSONResponse):
    """JSON in plain ASCII, so that no text that a visitor sent can fail to be encoded."""

    def __init__(self, content: Any, status_code: int = 200, headers: Mapping[str, str] | None = None):
        super().__init__(content, status_code, {**HEADERS, **(headers or {})})

    def render(self, content: Any) -> bytes:
        return json.dumps(content, allow_nan=False, separators=(",", ":")).encode("ascii")


class ApiError(Exception):
    """A request that is refused. message: one or two plain sentences; kind: a word that a program can test."""

    def __init__(self, status: int, message: str, kind: str = "", headers: Mapping[str, str] | None = None):
        super().__init__(message)
        self.status, self.message, self.headers = status, message, headers
        self.kind = kind or HTTPStatus(status).phrase.title().replace(" ", "")

    def answer(self) -> Answer:
        return Answer({"error": self.message, "type": self.kind}, self.status, self.headers)


class ErrorView(BaseModel):
    """Every refusal."""

    error: str = Field(description="What is wrong and what to do, in a sentence or two.")
    type: str = Field(description="The same as one word, for programs.")


class ArtifactView(BaseModel):
    """A file: one that was uploaded, or one that a job made."""

    id: str
    name: str
    media_type: str
    size: int = Field(description="Bytes.")


class KindView(BaseModel):
    """A kind of job."""

    name: str
    title: str
    request: dict[str, Any] = Field(description="JSON schema of the request. Fields of format artifact-id hold ids of files.")


class ResultView(BaseModel):
    """What a job made, the main file first, and facts about how (engine, seed, seconds ...)."""

    model_config = ConfigDict(extra="allow")

    artifacts: list[ArtifactView]


class JobView(BaseModel):
    """A job as it is now. One that is done, failed or cancelled never changes again."""

    id: str
    kind: str
    state: JobState
    request: dict[str, Any]
    fraction: float = Field(description="0 to 1 of the work done.")
    stage: str = Field(description="What is being done now, in words.")
    eta: float | None = Field(description="Estimated seconds left; null while unknown.")
    warnings: list[str]
    error: str | None = Field(description="Why it failed or was cancelled.")
    error_type: str = Field(description="The kind of error as one word, empty when there was none.")
    result: ResultView | None = Field(description="Also there when a cancelled job has kept what it had.")
    seed: int = Field(description="The request's, or the one that was drawn for this job.")
    priority: int = Field(description="Higher goes first; among equals the older.")
    created: float = Field(description="Seconds since 1970, as all times here.")
    started: float | None = Field(description="When it was first begun; null while it has not been.")
    finished: float | None = Field(description="Null while it is unfinished.")
    log: list[str] = Field(description="The newest lines that the job wrote for the curious, oldest first.")


class JobsView(BaseModel):
    """A page of jobs, newest first. total: how many there are in all that were asked for."""

    jobs: list[JobView]
    total: int


class UsageView(BaseModel):
    """Bytes on the disk."""

    results: int = Field(description="What jobs have made.")
    uploads: int
    trash: int = Field(description="What was deleted and can still be restored.")
    free: int


class Views:
    """Turns jobs, kinds and files into JSON. Knows the folders whose places on this machine stay private."""

    def __init__(self, settings: Settings):
        folders = {
            settings.outputs_dir: "outputs",
            settings.models_dir: "models",
            **({settings.sadtalker_dir: "sadtalker"} if settings.sadtalker_dir else {}),
            PROJECT: "studio",
            Path(tempfile.gettempdir()).resolve(): "temp",
            Path.home(): "~",
        }
        # The longest first: outputs/ lies inside the studio's folder, which may lie inside the home folder.
        self._names = {str(path): name for path, name in folders.items() if path != Path(path.anchor)}
        longest_first = sorted(self._names, key=len, reverse=True)
        self._folders = re.compile(rf"(?<![\w.~-])({'|'.join(map(re.escape, longest_first))})(?![\w-])")

    def words(self, text: str) -> str:
        """A sentence without the place of any of the studio's folders."""
        return self._folders.sub(lambda found: self._names[found.group()], text)

    def plain(self, value: Any) -> Any:
        """`value` as JSON can say it: no paths, no infinities, nothing but lists, objects, texts, numbers."""
        if isinstance(value, Mapping):
            return {str(key): self.plain(inner) for key, inner in value.items()}
        if isinstance(value, (list, tuple, set, frozenset)):
            return [self.plain(inner) for inner in value]
        if isinstance(value, float):
            return value if math.isfinite(value) else None
        if value is None or isinstance(value, (bool, int)):
            return value
        return self.words(str(value))

    def artifact(self, artifact: Artifact) -> dict[str, Any]:
        return {
            "id": artifact.id,
            "name": artifact.name,
            "media_type": artifact.media_type,
            "size": artifact.size,
        }

    def kind(self, kind: JobKind) -> dict[str, Any]:
        return {"name": kind.name, "title": kind.title, "request": kind.request.model_json_schema()}

    def progress(self, job: Job) -> dict[str, Any]:
        """What changes while a job runs, its log aside."""
        return {
            "id": job.id,
            "state": job.state.value,
            "fraction": self.plain(job.fraction),
            "stage": self.words(job.stage),
            "eta": self.plain(job.eta),
            "warnings": [self.words(warning) for warning in job.warnings],
        }

    def log(self, job: Job) -> list[str]:
        return [self.words(line) for line in job.log]

    def job(self, job: Job) -> dict[str, Any]:
        result = job.result and {
            **self.plain(job.result.data),
            "artifacts": [self.artifact(artifact) for artifact in job.result.artifacts],
        }
        return {
            **self.progress(job),
            "kind": job.kind,
            "request": self.plain(job.request.model_dump(mode="json")),
            "error": job.error and self.words(job.error),
            "error_type": job.error_type,
            "result": result,
            "seed": job.seed,
            "priority": job.priority,
            "created": job.created,
            "started": job.started,
            "finished": job.finished,
            "log": self.log(job),
        }
