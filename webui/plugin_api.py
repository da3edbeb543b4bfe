"""Everything an extension may import from the studio, and nothing else.

An extension is a folder under extensions/ with a plugin.toml:

    id = "sadtalker"                              # the folder's name
    title = "SadTalker"                           # the tab's name
    api = 1                                       # PLUGIN_API that it was written for
    jobs = "extensions.sadtalker.jobs:KINDS"      # a sequence of JobKind; importing it must be cheap
    tab = "extensions.sadtalker.tab:build"        # optional: build(studio: Studio) -> None, called inside a gr.Tab
    requires = ["dlib", "cv2"]                    # modules that must be importable
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from webui.artifacts import Artifact, Artifacts, PendingArtifact
from webui.errors import (
    Cancelled,
    GalateaError,
    InvalidRequest,
    MediaError,
    ModelMissing,
    NoFaceFound,
    OutOfMemory,
    PluginError,
    StorageError,
    UnsupportedModel,
)
from webui.faces import Face, FaceFinder, choose_face, face_finder
from webui.jobs.context import JobContext
from webui.jobs.service import JobService
from webui.jobs.types import ArtifactId, Job, JobKind, JobResult, JobState
from webui.pictures import read_picture

if TYPE_CHECKING:
    from pydantic import BaseModel

    from webui.settings import Settings

PLUGIN_API = 1


class Studio(Protocol):
    """What a tab gets to work with. Widgets are opaque here, so that this module needs no user-interface library."""

    @property
    def service(self) -> JobService: ...

    @property
    def artifacts(self) -> Artifacts: ...

    @property
    def settings(self) -> Settings: ...

    @property
    def page(self) -> Any:
        """The gr.Blocks that the tab is built in."""
        ...

    def text(self, key: str) -> Any:
        """A label in the reader's language, from the extension's own locales/*.json."""
        ...

    def say(self, key: str, visitor: Any = None, **values: object) -> str:
        """The same as a plain string, for what is made on the server; `visitor` is the event's gr.Request."""
        ...

    def widgets(self, model: type[BaseModel], names: tuple[str, ...]) -> dict[str, Any]:
        """A widget per request field, with bounds, default and help from the model; labels are text("field.<name>")."""
        ...

    def told(self, sentence: str, visitor: Any = None) -> str:
        """What a job or an error says, in the reader's language: see the locales' sentences.*.json; else as it is."""
        ...

    def tell(self, sentence: str, *, warning: bool = False) -> None:
        """Show a passing note, as plain text, to the visitor whose event runs this; the event must go through Gradio's queue."""
        ...

    def follow(self, job_id: str, visitor: Any = None) -> Iterator[Job]:
        """Snapshots of a job as it moves on, a few a second, until it has finished. What it says is as `told` puts it."""
        ...

    def rejoin(self, event: Any) -> None:
        """Load the page anew once the server is back, when its end cut off this event's function (one that follows a job)."""
        ...

    def card(self, job: Job, visitor: Any = None) -> str:
        """HTML with preview, progress bar and time left."""
        ...

    def facts(self, rows: Mapping[str, object], warnings: tuple[str, ...] = ()) -> str:
        """HTML with a table of plain facts."""
        ...

    def hand_out(self, artifact: Artifact) -> Path:
        """A path of the finished file that this page's visitor may fetch; only files handed out can be."""
        ...

    def scratch(self, name: str) -> Path:
        """Where to write a file for this page's visitor that need not outlive the server."""
        ...

    def offer_form(
        self,
        kind: str,
        outputs: Sequence[Any],
        fill: Callable[[dict[str, Any], Any], Mapping[Any, Any]],
        *,
        title: str,
    ) -> None:
        """Let jobs of this kind, and files made by them, fill this tab's form again ("use these settings again").

        outputs: the widgets that may be filled in.
        fill:    an update per widget for a request's fields, given with the visitor. Every field is there and in its
                 bounds, but for those that the visitor must choose anew, such as a file that is gone; the visitor is told which.
        title:   key of what the page calls this kind. Its fields are called by the labels "field_<name>", their values
                 by "value_<name>_<value>" where there are such; facts of results likewise, or by "used_<name>" and, for
                 the parts of one, "used_<name>_<part>".
        """
        ...

    def drop_zone(self) -> Any:
        """A place, built here, to drop a file that was made here: its settings fill the form of the tab for its kind."""
        ...

    def guard(self, visitor: Any = None) -> AbstractContextManager[None]:
        """Shows a GalateaError as its sentence, and anything else as a plain apology, inside of an event's function."""
        ...


Tab = Callable[[Studio], None]
"""Type of what plugin.toml names as `tab`."""

__all__ = [
    "PLUGIN_API",
    "Artifact",
    "ArtifactId",
    "Artifacts",
    "Cancelled",
    "Face",
    "FaceFinder",
    "GalateaError",
    "InvalidRequest",
    "Job",
    "JobContext",
    "JobKind",
    "JobResult",
    "JobService",
    "JobState",
    "MediaError",
    "ModelMissing",
    "NoFaceFound",
    "OutOfMemory",
    "PendingArtifact",
    "PluginError",
    "StorageError",
    "Studio",
    "Tab",
    "UnsupportedModel",
    "choose_face",
    "face_finder",
    "read_picture",
]
