"""What a tab gets to work with: webui.plugin_api.Studio, made with Gradio."""

from __future__ import annotations

import logging
import secrets
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import gradio as gr

from webui.artifacts import Artifact, Artifacts, link_or_copy, readable_name
from webui.errors import GalateaError
from webui.ui import fields, watch
from webui.ui.texts import STUDIO, Texts

if TYPE_CHECKING:
    from pydantic import BaseModel

    from webui.jobs.service import JobService
    from webui.jobs.types import Job
    from webui.settings import Settings

log = logging.getLogger(__name__)

CARD_WORDS = ("queued", "running", "done", "failed", "cancelled", "left", "preview")


@dataclass(frozen=True)
class TabStudio:
    """The studio as the tab of one extension sees it.

    owner:  whose locales `text` and `say` look in.
    handed: the folder whose files visitors can fetch.
    paths:  what was handed out already, by artifact and name: a reload of the page makes no new copy.
    """

    service: JobService
    artifacts: Artifacts
    settings: Settings
    page: gr.Blocks
    texts: Texts
    owner: str
    handed: Path
    paths: dict[tuple[str, str], Path] = field(default_factory=dict)

    def text(self, key: str) -> Any:
        return self.texts.text(self.owner, key)

    def say(self, key: str, visitor: gr.Request | None = None, **values: object) -> str:
        return self.texts.say(self.owner, key, visitor, **values)

    def widgets(self, model: type[BaseModel], names: tuple[str, ...]) -> dict[str, Any]:
        return fields.widgets(model, names, self.text)

    def follow(self, job_id: str) -> Iterator[Job]:
        return watch.follow(self.service, job_id)

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

    @contextmanager
    def guard(self, visitor: gr.Request | None = None) -> Iterator[None]:
        try:
            yield
        except gr.Error:
            raise
        except GalateaError as error:
            raise gr.Error(str(error), duration=None, print_exception=False) from error
        except Exception as error:
            log.exception("An event of the page failed")
            sentence = self.texts.say(STUDIO, "unexpected", visitor)
            raise gr.Error(sentence, duration=None, print_exception=False) from error
