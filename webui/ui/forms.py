"""The forms that tabs offer to be filled in again, with a job's settings or with those that a file made here carries.

A tab offers its form while it is built; webui.ui.reuse connects them when all tabs are there. Builds no widgets, runs no job.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, TypeAdapter, ValidationError
from pydantic.fields import FieldInfo

from webui.errors import InvalidRequest
from webui.jobs.types import Job, Query
from webui.jobs.validation import artifact_fields

if TYPE_CHECKING:
    from webui.artifacts import Artifacts
    from webui.jobs.service import JobService

Fill = Callable[[dict[str, Any], Any], Mapping[Any, Any]]
Takes = Callable[[Mapping[str, Any]], bool]

_RESULT_ID = re.compile(r"-([0-9a-f]{16})(?![0-9a-f])")


@dataclass(frozen=True)
class Form:
    """owner: the extension whose locales have the words; the rest: see webui.plugin_api.Studio.offer_form."""

    kind: str
    owner: str
    tab: str
    outputs: tuple[Any, ...]
    fill: Fill
    title: str
    takes: Takes = lambda _settings: True


@dataclass(frozen=True)
class Source:
    """Where settings may come from, on `event`: those in the file that the widget `file` holds. empties: it, afterwards."""

    event: Any
    file: Any
    empties: bool = False


@dataclass(frozen=True)
class Forms:
    """offered: in the tabs' order; of a kind there can be several."""

    offered: list[Form] = field(default_factory=list)
    sources: list[Source] = field(default_factory=list)

    @property
    def outputs(self) -> list[Any]:
        """Everything that any of the forms may fill in."""
        return list(dict.fromkeys(widget for form in self.offered for widget in form.outputs))

    def of(self, kind: str) -> Form | None:
        """The first for a kind of job: it has the kind's words."""
        return next((form for form in self.offered if form.kind == kind), None)

    def taking(self, kind: str, settings: Mapping[str, Any]) -> Form | None:
        """The one for these settings."""
        return next((form for form in self.offered if form.kind == kind and form.takes(settings)), None)

    def withdraw(self, tab: str) -> None:
        """Forget what a tab has offered."""
        self.offered[:] = [form for form in self.offered if form.tab != tab]


def settings_of(job: Job) -> dict[str, Any]:
    """The request's fields, with the seed that was really used."""
    fields = job.request.model_dump()
    return fields | ({"seed": job.seed} if "seed" in fields else {})


def settings_in(path: Path, service: JobService) -> tuple[str, dict[str, Any]] | None:
    """Kind and request fields that a file made here carries, with the uploads of its job while the history has that."""
    found = service.recall(path)
    if found is None:
        return None
    kind, fields = found
    job = job_of(path, service)
    if job is None or job.kind != kind:
        return found
    files = artifact_fields(service.kinds()[kind].request)
    return kind, fields | {name: value for name, value in job.request.model_dump().items() if name in files}


def job_of(path: Path, service: JobService) -> Job | None:
    """The job whose result bears the id in the file's name."""
    for artifact_id in _RESULT_ID.findall(path.name):
        for job in service.history(Query(search=artifact_id, limit=5))[0]:
            if job.result and artifact_id in {artifact.id for artifact in job.result.artifacts}:
                return job
    return None


def usable(model: type[BaseModel], fields: Mapping[str, Any], artifacts: Artifacts) -> tuple[dict[str, Any], list[str]]:
    """What a form can show of a request, with the model's defaults for what is absent; and the names of the fields that
    must be filled in anew: their files are gone, or the model does not take their values (any more).
    """
    kept, left_out = {}, []
    files = artifact_fields(model)
    for name, rule in model.model_fields.items():
        if name in fields and _takes(rule, fields[name]) and (name not in files or _is_here(fields[name], artifacts)):
            kept[name] = fields[name]
            continue
        if name in fields or rule.is_required():
            left_out.append(name)
        if not rule.is_required():
            kept[name] = rule.get_default(call_default_factory=True)
    return kept, left_out


def _takes(rule: FieldInfo, value: Any) -> bool:
    try:
        TypeAdapter(rule.rebuild_annotation()).validate_python(value)
    except ValidationError:
        return False
    return True


def _is_here(artifact_id: str | None, artifacts: Artifacts) -> bool:
    if artifact_id is None:
        return True
    try:
        artifacts.get(artifact_id)
    except InvalidRequest:
        return False
    return True
