"""Settings that go back into the form of their tab: a finished job's, or those that a file made here carries."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gradio as gr

from webui.errors import InvalidRequest
from webui.ui.describe import Describer
from webui.ui.forms import Source, settings_in, settings_of, usable
from webui.ui.studio import TabStudio

_CONNECTED: dict[str, Any] = {"concurrency_limit": 4, "api_visibility": "private", "show_progress": "hidden"}
"""Through Gradio's queue, because notes need it."""

Updates = dict[Any, Any]


@dataclass(frozen=True)
class Opener:
    """Opens a tab. timer: the History tab's, which rests while another tab is open."""

    tabs: gr.Tabs
    timer: gr.Timer

    @property
    def outputs(self) -> list[Any]:
        return [self.tabs, self.timer]

    def updates(self, tab: str) -> Updates:
        return {self.tabs: gr.Tabs(selected=tab), self.timer: gr.Timer(active=False)}


@dataclass(frozen=True)
class Reuse:
    """Fills the forms that the tabs have offered."""

    studio: TabStudio
    opener: Opener

    def connect(self, again: gr.Button, job_id: gr.Textbox) -> None:
        """Called when all tabs are built. again: uses the settings of the job whose id is in `job_id`."""
        forms = self.studio.forms
        outputs = [*self.opener.outputs, *forms.outputs]
        again.click(self.again, inputs=job_id, outputs=outputs, **_CONNECTED)
        for source in forms.sources:
            source.event(self.restorer(source), inputs=source.file, outputs=[source.file, *outputs], **_CONNECTED)

    def again(self, job_id: str, visitor: gr.Request) -> Updates:
        with self.studio.guard(visitor):
            job = self.studio.service.get(job_id)
            return self.fill(job.kind, settings_of(job), Describer(self.studio, visitor).name(job), visitor)

    def restorer(self, source: Source) -> Callable[..., Updates]:
        after = {source.file: None if source.empties else gr.skip()}

        def restore(path: str, visitor: gr.Request) -> Updates:
            with self.studio.guard(visitor):
                name, found = Path(path).name, settings_in(Path(path), self.studio.service)
                if found is None:
                    self.studio.tell(self.studio.say("drop_foreign", visitor, name=name), warning=True)
                    return after
                return {**after, **self.fill(*found, name, visitor)}

        return restore

    def fill(self, kind: str, settings: dict[str, Any], name: str, visitor: gr.Request) -> Updates:
        """The form of the tab for this kind filled in, and that tab opened. Says what must be chosen anew."""
        describe = Describer(self.studio, visitor)
        form = self.studio.forms.taking(kind, settings)
        if form is None:
            raise InvalidRequest(self.studio.say("history_no_form", visitor, kind=describe.title(kind)))
        fields, left_out = usable(self.studio.service.kinds()[kind].request, settings, self.studio.artifacts)
        updates = dict(form.fill(fields, visitor))
        self.studio.tell(self.studio.say("history_filled", visitor, name=name))
        if left_out:
            names = ", ".join(describe.field(kind, field) for field in left_out)
            self.studio.tell(self.studio.say("history_left_out", visitor, names=names), warning=True)
        return {**updates, **self.opener.updates(form.tab)}
