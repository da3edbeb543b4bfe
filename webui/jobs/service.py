"""The one way in: the page, the command line and the HTTP API ask for work here and nowhere else."""

from __future__ import annotations

import secrets
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ValidationError

from webui.artifacts import check_target
from webui.errors import InvalidRequest
from webui.jobs.board import JobBoard
from webui.jobs.runner import Runner, Task
from webui.jobs.types import Job, JobKind, JobState

if TYPE_CHECKING:
    from webui.artifacts import Artifacts
    from webui.settings import Settings

MAX_SEED = 2**32 - 1


class JobService:
    """Takes requests, hands out snapshots. Every method may be called from any thread."""

    def __init__(self, kinds: Iterable[JobKind], artifacts: Artifacts, settings: Settings):
        self._kinds = {kind.name: kind for kind in kinds}
        self._artifacts = artifacts
        self._board = JobBoard()
        self._runner = Runner(self._board, artifacts, settings)

    def kinds(self) -> dict[str, JobKind]:
        return dict(self._kinds)

    def submit(
        self, kind: str, request: Mapping[str, Any] | BaseModel, *, target: Path | None = None, previews: bool = True
    ) -> Job:
        """Queue a job and return at once.

        request: the kind's request model, or a mapping that fits it.
        target:  put the main file exactly there; only for the owner of this machine, never from the network.
        Raises InvalidRequest for a request that breaks a bound, StorageError when `target` cannot be written.
        """
        if kind not in self._kinds:
            raise InvalidRequest(f"There is no kind of job '{kind}'. There are: {', '.join(self._kinds) or 'none'}.")
        chosen = self._kinds[kind]
        request = validated(chosen.request, request)
        if target is not None:
            if chosen.suffix and target.suffix.lower() != chosen.suffix:
                raise InvalidRequest(f"The result is a {chosen.suffix} file: let the name {target.name} end in that.")
            check_target(target)
        job = Job(id=secrets.token_hex(16), kind=kind, request=request, state=JobState.QUEUED)
        self._board.add(job)
        self._runner.submit(Task(job, chosen, drawn_seed(request), target, previews))
        return job

    def get(self, job_id: str) -> Job:
        """The job as it is. Raises InvalidRequest for an unknown id."""
        return self._board.get(job_id)

    def jobs(self) -> tuple[Job, ...]:
        """All that are remembered, oldest first."""
        return self._board.all()

    def wait(self, job_id: str, timeout: float | None = None) -> Job:
        """The job once it has finished, or as it is after `timeout` seconds."""
        return self._board.wait(job_id, timeout)

    def watch(self, job_id: str, after_version: int, timeout: float | None = None) -> Job:
        """The job once its version is above `after_version`, or as it is after `timeout` seconds."""
        return self._board.watch(job_id, after_version, timeout)

    def cancel(self, job_id: str) -> Job:
        """Ask a job to stop. What it has made so far is kept. A finished job stays as it is."""
        self._board.get(job_id)
        self._runner.cancel(job_id)
        return self._board.get(job_id)

    def delete(self, job_id: str) -> None:
        """Forget a finished job and delete the files that it made. Raises InvalidRequest while it is unfinished."""
        job = self._board.get(job_id)
        self._board.remove(job_id)
        for artifact in job.result.artifacts if job.result else ():
            self._artifacts.remove(artifact.id)

    def warm_up(self) -> None:
        """Load in the background what the first jobs will need."""
        for kind in self._kinds.values():
            if kind.warm_up is not None:
                self._runner.warm_up(kind)

    def close(self, timeout: float = 10.0) -> None:
        """Cancel every unfinished job and give the running one `timeout` seconds to save what it has."""
        self._runner.close(timeout)


def validated(model: type[BaseModel], request: Mapping[str, Any] | BaseModel) -> BaseModel:
    """The request as `model`. Raises InvalidRequest with a sentence per field that is wrong."""
    if isinstance(request, model):
        return request
    if isinstance(request, BaseModel):
        request = request.model_dump()
    try:
        return model.model_validate(dict(request))
    except ValidationError as error:
        raise InvalidRequest(" ".join(_sentence(problem) for problem in error.errors())) from error


def drawn_seed(request: BaseModel) -> int:
    """The request's own seed, or a random one when it has none."""
    seed = getattr(request, "seed", None)
    return secrets.randbelow(MAX_SEED + 1) if seed is None or seed < 0 else int(seed)


def _sentence(problem: Mapping[str, Any]) -> str:
    name = ".".join(str(part) for part in problem["loc"]) or "The request"
    kind, given, bounds = problem["type"], problem.get("input"), problem.get("ctx", {})
    if kind == "missing":
        return f"'{name}' is missing."
    if kind == "extra_forbidden":
        return f"'{name}' is not an option here."
    if kind in _BOUND_WORDS:
        word, key = _BOUND_WORDS[kind]
        return f"'{name}' must be {word} {bounds[key]:.12g}, not {repr(given)[:80]}."
    expected = problem["msg"].removeprefix("Input should be ").removeprefix("Value error, ")
    expected = next((words for start, words in _TYPE_WORDS.items() if kind.startswith(start)), expected)
    return f"'{name}' must be {expected}, not {str(given)[:80]!r}."


_BOUND_WORDS = {
    "greater_than_equal": ("at least", "ge"),
    "greater_than": ("more than", "gt"),
    "less_than_equal": ("at most", "le"),
    "less_than": ("less than", "lt"),
}

# Start of pydantic's kind of problem (int_parsing, int_type, int_from_float ...) -> what is asked for.
_TYPE_WORDS = {"int_": "a whole number", "float_": "a number", "finite_number": "a number", "bool_": "true or false"}
