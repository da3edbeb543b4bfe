"""What a tab gets to work with: webui.plugin_api.Studio, made with Gradio."""

from __future__ import annotations

import logging
import secrets
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

import gradio as gr

from webui.artifacts import Artifact, Artifacts, link_or_copy, readable_name
from webui.errors import GalateaError, InvalidRequest
from webui.ui import fields, originals, panel, watch
from webui.ui.describe import Describer
from webui.ui.forms import Form, Forms, Source
from webui.ui.sending import Place, Sending
from webui.ui.texts import STUDIO, Texts

if TYPE_CHECKING:
    from pydantic import BaseModel

    from webui.jobs.service import JobService
    from webui.jobs.types import Job
    from webui.settings import Settings

log = logging.getLogger(__name__)

DROP_HEIGHT = 88
NOTE_SECONDS = 12.0
"""How long a note stays on the page, an error's too; a visitor can close it before."""

REJOIN = """async () => {
  const known = window.gradio_config.app_id;
  for (let calm = 0; calm < 4; await new Promise((done) => setTimeout(done, 2000))) {
    try {
      const now = (await (await fetch('gradio_api/app_id')).json()).app_id;
      if (now !== known) return location.reload();
      calm += 1;
    } catch { calm = 0; }
  }
}"""
"""Run in the browser when an event fails. A server that is only stopping still answers for a while, so it is asked again;
one that answers as the same each time has not stopped: the event failed by itself."""

CARD_WORDS = ("queued", "running", "done", "failed", "cancelled", "left", "preview")


@dataclass(frozen=True)
class TabStudio:
    """The studio as one tab of an extension sees it.

    owner:   whose locales `text` and `say` look in.
    handed:  the folder whose files visitors can fetch.
    tab:     id of the tab.
    forms:   what the tabs offer to be filled in again.
    sending: what the tabs do with each other's pictures.
    paths:   what was handed out already, by artifact and name: a reload of the page makes no new copy.
    """

    service: JobService
    artifacts: Artifacts
    settings: Settings
    page: gr.Blocks
    texts: Texts
    owner: str
    handed: Path
    tab: str = STUDIO
    forms: Forms = field(default_factory=Forms)
    sending: Sending = field(default_factory=Sending)
    paths: dict[tuple[str, str], Path] = field(default_factory=dict)

    def text(self, key: str) -> Any:
        return self.texts.text(self.owner, key)

    def say(self, key: str, visitor: gr.Request | None = None, **values: object) -> str:
        return self.texts.say(self.owner, key, visitor, **values)

    def widgets(self, model: type[BaseModel], names: tuple[str, ...]) -> dict[str, Any]:
        return fields.widgets(model, names, self.tab, self.text)

    def submit(self, kind: str, fields: Mapping[str, Any], visitor: gr.Request | None = None) -> Job:
        try:
            return self.service.submit(kind, fields)
        except InvalidRequest as error:
            raise InvalidRequest(Describer(self, visitor).at_fault(kind, str(error))) from error

    def told(self, sentence: str, visitor: gr.Request | None = None) -> str:
        return self.texts.told(sentence, visitor)

    def in_words(self, job: Job, visitor: gr.Request | None) -> Job:
        """The job with all that it says in the page's words."""

        def told(sentence: str) -> str:
            return self.texts.told(sentence, visitor)

        warnings, log = tuple(map(told, job.warnings)), tuple(map(told, job.log))
        return replace(job, stage=told(job.stage), warnings=warnings, log=log, error=job.error and told(job.error))

    def tell(self, sentence: str, *, warning: bool = False) -> None:
        show = gr.Warning if warning else gr.Info
        show(**_note(sentence))

    def follow(self, job_id: str, visitor: gr.Request | None = None) -> Iterator[Job]:
        for job in watch.follow(self.service, job_id):
            yield self.in_words(job, visitor)

    def rejoin(self, event: Any) -> None:
        event.failure(None, js=REJOIN, api_visibility="private", show_progress="hidden")

    def card(self, job: Job, visitor: gr.Request | None = None) -> str:
        language = self.texts.table(STUDIO, visitor)
        return watch.card(job, {word: language[word] for word in CARD_WORDS})

    def facts(self, rows: Mapping[str, object], warnings: tuple[str, ...] = ()) -> str:
        return watch.facts(rows, warnings)

    def hand_out(self, artifact: Artifact) -> Path:
        key = (artifact.id, artifact.name)
        path = self.paths.get(key)
        if path is None or not path.is_file():  # systems clear old files out of their temporary folder
            path = self.scratch(artifact.name)
            link_or_copy(artifact.path, path)
            self.paths[key] = path
        return path

    def scratch(self, name: str) -> Path:
        # A path that cannot be guessed, in the one folder that Gradio serves: the rest of outputs/ stays private.
        path = self.handed / secrets.token_hex(16) / readable_name(name)
        path.parent.mkdir()
        return path

    def offer_form(
        self,
        kind: str,
        outputs: Sequence[Any],
        fill: Callable[[dict[str, Any], Any], Mapping[Any, Any]],
        *,
        title: str,
        takes: Callable[[Mapping[str, Any]], bool] = lambda _settings: True,
    ) -> None:
        self.forms.offered.append(Form(kind, self.owner, self.tab, tuple(outputs), fill, title, takes))

    def drop_zone(self) -> gr.File:
        label = self.texts.text(STUDIO, "drop_zone")
        zone = gr.File(label=label, type="filepath", height=DROP_HEIGHT, elem_classes="drop-zone")
        self.use_settings(zone.upload, zone, empties=True)
        return zone

    def use_settings(self, event: Any, file: Any, *, empties: bool = False) -> None:
        self.forms.sources.append(Source(event, file, empties))

    def run_panel(
        self, name: str, *, outputs: Sequence[Any], show: Callable[[Job, Any], Mapping[Any, Any]], skip: bool = False
    ) -> panel.Panel:
        return panel.build(self, name, outputs, show, skip=skip)

    def accept_picture(self, name: str, outputs: Sequence[Any], fill: Callable[[Artifact, Any], Mapping[Any, Any]]) -> None:
        self.sending.places.append(Place(self.tab, self.owner, name, tuple(outputs), fill))

    def send_row(self, artifact_id: gr.Textbox) -> gr.Row:
        return self.sending.row(self.tab, artifact_id)

    def picture_input(self, label: Any, **more: Any) -> originals.OriginalImage:
        return originals.picture_input(label, **more)

    def original(self, path: str) -> Artifact:
        return originals.original(self, path)

    def stand_in(self, artifact: Artifact) -> Path:
        return originals.stand_in(self, artifact)

    def shown_picture(self, artifact: Artifact) -> Path:
        return originals.shown_picture(self, artifact)

    @contextmanager
    def guard(self, visitor: gr.Request | None = None) -> Iterator[None]:
        try:
            yield
        except gr.Error:
            raise
        except GalateaError as error:
            raise gr.Error(**_note(self.told(str(error), visitor)), print_exception=False) from error
        except Exception as error:
            log.exception("An event of the page failed")
            sentence = self.texts.say(STUDIO, "unexpected", visitor)
            raise gr.Error(**_note(sentence), print_exception=False) from error


def _note(sentence: str) -> dict[str, Any]:
    # Gradio takes the message for HTML: names of files and whatever else visitors write must stay text.
    return {"message": escape(sentence), "duration": NOTE_SECONDS}
