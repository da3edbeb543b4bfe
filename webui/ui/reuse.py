"""Settings put back into the form that they came from: those of a job in the history, or those inside of a file made here."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gradio as gr

from webui.errors import InvalidRequest
from webui.ui.describe import Describer
from webui.ui.forms import settings_in, settings_of, usable
from webui.ui.studio import TabStudio

Updates = dict[Any, Any]


@dataclass(frozen=True)
class Reuse:
    """What happens when. tabs: the page's, of which the form's is opened; timer: asks for news of what is left then."""

    studio: TabStudio
    tabs: gr.Tabs
    timer: gr.Timer

    def connect(self, button: gr.Button, job_id: gr.Textbox) -> None:
        """button: fills in the settings of the job whose id is in `job_id`. The zones of all tabs take files."""
        forms = self.studio.forms
        filled: dict[str, Any] = {"concurrency_limit": 4, "api_visibility": "private", "show_progress": "hidden"}
        outputs = [self.tabs, self.timer, *forms.outputs]
        button.click(self.again, inputs=job_id, outputs=outputs, **filled)
        for zone in forms.zones:
            zone.upload(self.restorer(zone), inputs=zone, outputs=[zone, *outputs], **filled)

    def again(self, job_id: str, visitor: gr.Request) -> Updates:
        with self.studio.guard(visitor):
            job = self.studio.service.get(job_id)
            return self.fill(job.kind, settings_of(job), Describer(self.studio, visitor).name(job), visitor)

    def restorer(self, zone: gr.File) -> Callable[..., Updates]:
        def restore(path: str, visitor: gr.Request) -> Updates:
            with self.studio.guard(visitor):
                name, found = Path(path).name, settings_in(Path(path), self.studio.service)
                if found is None:
                    self.studio.tell(self.studio.say("drop_foreign", visitor, name=name), warning=True)
                    return {zone: None}
                return {zone: None, **self.fill(*found, name, visitor)}

        return restore

    def fill(self, kind: str, settings: dict[str, Any], name: str, visitor: gr.Request) -> Updates:
        """The form of the tab for this kind filled in, and that tab opened. Says what must be chosen anew."""
        describe = Describer(self.studio, visitor)
        form = self.studio.forms.offered.get(kind)
        if form is None:
            raise InvalidRequest(self.studio.say("history_no_form", visitor, kind=describe.title(kind)))
        fields, left_out = usable(self.studio.service.kinds()[kind].request, settings, self.studio.artifacts)
        updates = dict(form.fill(fields, visitor))
        self.studio.tell(self.studio.say("history_filled", visitor, name=name))
        if left_out:
            names = ", ".join(describe.field(kind, field) for field in left_out)
            self.studio.tell(self.studio.say("history_left_out", visitor, names=names), warning=True)
        return {**updates, self.tabs: gr.Tabs(selected=form.owner), self.timer: gr.Timer(active=False)}
