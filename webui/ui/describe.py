"""A job in a visitor's words: what to call it, what it says, what it was asked for and made with. Makes no HTML."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from webui.errors import InvalidRequest
from webui.jobs.validation import artifact_fields
from webui.ui.texts import STUDIO
from webui.ui.watch import moment, took

if TYPE_CHECKING:
    import gradio as gr

    from webui.artifacts import Artifact
    from webui.jobs.types import Job
    from webui.ui.studio import TabStudio

_RESULT_NAME = re.compile(r"\d{8}-\d{6}-(.+)-[0-9a-f]{16}\.\w+")
_SAID_ELSEWHERE = ("seed", "warnings")
_FIELD_AT_FAULT = re.compile(r"(?<!\S)'(\w+)'(?= (?:is|must|cannot) )")
"""As webui.jobs.validation puts it: 'steps' must be at least 1, ..."""


class Describer:
    """Finds a visitor's words for jobs of any kind: those of the tab that offers its form, plain ones where none does.

    words: the studio's own strings in the visitor's language.
    """

    def __init__(self, studio: TabStudio, visitor: gr.Request | None):
        self._studio = studio
        self._visitor = visitor
        self._forms = studio.forms
        self.words = studio.texts.table(STUDIO, visitor)

    def title(self, kind: str) -> str:
        """Of a kind of job."""
        known = self._studio.service.kinds().get(kind)
        plain = known.title if known else kind
        form = self._forms.of(kind)
        return self._labels(kind)[form.title] if form else plain

    def field(self, kind: str, name: str) -> str:
        """Label of a field of a request."""
        return self._labels(kind).get(f"field_{name}", name)

    def at_fault(self, kind: str, sentence: str) -> str:
        """What is wrong with a request, its fields called as the page calls them."""
        return _FIELD_AT_FAULT.sub(lambda found: f"'{self.field(kind, found[1])}'", sentence)

    def name(self, job: Job) -> str:
        """Its file's name without date and id; before there is one, what it works on."""
        for artifact in job.result.artifacts if job.result else ():
            found = _RESULT_NAME.fullmatch(artifact.name)
            return found.group(1) if found else artifact.name
        for artifact in self._files(job):
            return Path(artifact.name).stem
        return self.title(job.kind)

    def told(self, job: Job) -> Job:
        """The job with all that it says put in the page's words."""
        return self._studio.in_words(job, self._visitor)

    def asked(self, job: Job) -> dict[str, str]:
        """The whole request, field by field, but for the seed: `made` tells the one that was used."""
        here = {artifact.id: artifact.name for artifact in self._files(job)}
        files, labels = self._file_fields(job), self._labels(job.kind)
        shown = {}
        for name, value in job.request.model_dump(exclude={"seed"}).items():
            if name in files and value:
                text = here.get(value, self.words["history_gone"])
            else:
                text = labels.get(f"value_{name}_{value}") or self._plain(value)
            shown[self.field(job.kind, name)] = text
        return shown

    def made(self, job: Job) -> dict[str, str]:
        """Seed, times, and what the handler says about how it was made: engine, models and their hashes, and so on."""
        words = self.words
        facts = {words["history_seed"]: str(job.seed), words["history_asked"]: moment(job.created)}
        if job.started and job.finished:
            facts[words["history_took"]] = took(job.finished - job.started)
        data = job.result.data if job.result else {}
        for key, value in data.items():
            if key not in _SAID_ELSEWHERE:
                facts[self._fact(job.kind, key)] = self._said(job.kind, key, value)
        return facts

    def _fact(self, kind: str, key: str) -> str:
        labels = self._labels(kind)
        own = labels.get(f"used_{key}") or labels.get(f"field_{key}")
        return own or self.words.get(key) or key.replace("_", " ")

    def _said(self, kind: str, key: str, value: Any) -> str:
        """What a job says about itself, in the page's words."""
        labels = self._labels(kind)
        if isinstance(value, Mapping):
            return ", ".join(f"{labels.get(f'used_{key}_{name}', name)} {self._plain(part)}" for name, part in value.items())
        if isinstance(value, str):
            return labels.get(f"value_{key}_{value}") or self._studio.told(value, self._visitor)
        if key.endswith("size") and isinstance(value, (list, tuple)):
            return " × ".join(map(self._plain, value))
        return self._plain(value)

    def _labels(self, kind: str) -> Mapping[str, str]:
        form = self._forms.of(kind)
        return self._studio.texts.table(form.owner, self._visitor) if form else {}

    def _file_fields(self, job: Job) -> Collection[str]:
        known = self._studio.service.kinds().get(job.kind)
        return artifact_fields(known.request) if known else ()

    def _files(self, job: Job) -> Iterator[Artifact]:
        """The files that it was given, those that are still here."""
        for name in self._file_fields(job):
            try:
                yield self._studio.artifacts.get(getattr(job.request, name, None) or "")
            except InvalidRequest:
                continue

    def _plain(self, value: Any) -> str:
        """Any JSON value in a line."""
        if value is None:
            return "–"
        if isinstance(value, bool):
            return self.words["yes"] if value else self.words["no"]
        if isinstance(value, Mapping):
            return ", ".join(f"{key} {self._plain(inner)}" for key, inner in value.items())
        if isinstance(value, (list, tuple)):
            return ", ".join(map(self._plain, value))
        return f"{value:.4g}" if isinstance(value, float) else str(value)
