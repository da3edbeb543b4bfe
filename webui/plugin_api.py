"""Everything an extension may import from the studio, and nothing else.

An extension is a folder under extensions/ with a plugin.toml:

    id = "sadtalker"                              # the folder's name
    title = "SadTalker"                           # its name
    api = 1                                       # PLUGIN_API that it was written for
    jobs = "extensions.sadtalker.jobs:KINDS"      # a sequence of JobKind; importing it must be cheap
    requires = ["dlib", "cv2"]                    # modules that must be importable

    [tabs]                                        # in the page's order, by their ids, of which no two on a page are the same
    sadtalker = "extensions.sadtalker.tab:build"  # build(studio: Studio) -> None, called inside a gr.Tab

A tab is called by the text "tab_<id>" of the extension's locales, or by the extension's title when that has none.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from webui import devices
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
from webui.faces import Face, FaceFinder, FaceFollower, choose_face, face_finder
from webui.imaging import restore, upscale
from webui.jobs.context import JobContext
from webui.jobs.service import JobService
from webui.jobs.types import ArtifactId, Job, JobKind, JobResult, JobState, Loaded
from webui.pictures import read_picture
from webui.weights import catalog as weights_catalog
from webui.weights import files as weights_files

if TYPE_CHECKING:
    from pydantic import BaseModel

    from webui.settings import Settings

PLUGIN_API = 1


Values = dict[Any, Any]
"""By widget: what it holds, or how it is to change."""

Ask = Callable[[Values, Any], tuple[str, dict[str, Any]]]
"""What is wanted, from the inputs' values and the visitor: a kind of job and its request's fields. May raise InvalidRequest."""


class Panel(Protocol):
    """Where a tab starts its work and watches it. Built by Studio.run_panel."""

    @property
    def outputs(self) -> list[Any]:
        """The widgets that its events write: its own and those that `show` fills."""
        ...

    def connect(self, inputs: Sequence[Any], request: Ask, *, kinds: Sequence[str], also: Sequence[Any] = ()) -> None:
        """Let Generate (and Ctrl+Enter) submit what `request` gives, and show the job until it has finished. A page that is
        loaded anew finds its job again; a new one looks on at a job in the making.

        kinds: of the jobs that a new page looks on at.
        also:  further events that do what Generate does, such as a text box's `submit`.
        """
        ...

    def run(self, values: Values, request: Ask, visitor: Any) -> Iterator[Values]:
        """The same for a starter of the tab's own, in a generator given to `start_on`. Does not ask while the page is busy."""
        ...

    def start_on(
        self, event: Any, inputs: Sequence[Any], run: Callable[[Values, Any], Iterator[Values]], outputs: Sequence[Any] = ()
    ) -> None:
        """On `event`, let `run(values, visitor: gr.Request)` flow to the panel's outputs and to these."""
        ...


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

    def submit(self, kind: str, fields: Mapping[str, Any], visitor: Any = None) -> Job:
        """The same as the service's, but that what is wrong with the fields is said in the page's words for them."""
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
        takes: Callable[[Mapping[str, Any]], bool] = lambda _settings: True,
    ) -> None:
        """Let jobs of this kind, and files made by them, fill this tab's form again ("use these settings again").

        outputs: the widgets that may be filled in.
        fill:    an update per widget for a request's fields, given with the visitor. Every field is there and in its
                 bounds, but for those that the visitor must choose anew, such as a file that is gone; the visitor is told which.
        title:   key of what the page calls this kind. Its fields are called by the labels "field_<name>", their values
                 by "value_<name>_<value>" where there are such; facts of results likewise, or by "used_<name>" and, for
                 the parts of one, "used_<name>_<part>".
        takes:   whether the settings are for this form, where several tabs offer one for the kind.
        """
        ...

    def drop_zone(self) -> Any:
        """A place, built here, to drop a file that was made here: its settings fill the form of the tab for its kind."""
        ...

    def use_settings(self, event: Any, file: Any, *, empties: bool = False) -> None:
        """On `event`, do the same with the file whose path the widget `file` holds. empties: the widget, afterwards."""
        ...

    def run_panel(
        self, name: str, *, outputs: Sequence[Any], show: Callable[[Job, Any], Mapping[Any, Any]], skip: bool = False
    ) -> Panel:
        """Generate, Cancel, and with `skip` Skip (go on with the next picture), built here, with the job's card under them.

        Their elem_ids are <name>-generate, -cancel, -skip, -card and -job (the hidden id of the job). Words of the panel's own
        (generate, cancel, skip, hint, busy, stopped, stopped_partial) are the texts "<name>_<word>", where there are such.

        outputs, show: the widgets beside the card that show a job, and an update for each of them, for every snapshot of the
                       job, given with the visitor.
        """
        ...

    def accept_picture(self, name: str, outputs: Sequence[Any], fill: Callable[[Artifact, Any], Mapping[Any, Any]]) -> None:
        """Let other tabs send pictures to this one, which is opened then.

        name: key of what the button says. outputs, fill: the widgets, and updates for a picture, given with the visitor.
        """
        ...

    def send_row(self, artifact_id: Any) -> Any:
        """A row of buttons, built here, that send the picture whose id is in the hidden text box to the other tabs that accept
        one. It shows itself while there is an id. The buttons' elem_ids are send-<this tab>-<name>."""
        ...

    def picture_input(self, label: Any, **more: Any) -> Any:
        """A gr.Image whose value is the path of the file as it was given: HEIC, EXIF and all. more: arguments of gr.Image."""
        ...

    def original(self, path: str) -> Artifact:
        """The file behind the path that an input holds: of a stand-in its original, else the file itself, taken in now."""
        ...

    def stand_in(self, artifact: Artifact) -> Path:
        """The same file for an input to show, by which `original` finds it again."""
        ...

    def shown_picture(self, artifact: Artifact) -> Path:
        """The same as a small JPEG that every browser can show: of HEIC, TIFF, a video's first frame. Raises MediaError."""
        ...

    def guard(self, visitor: Any = None) -> AbstractContextManager[None]:
        """Shows a GalateaError as its sentence, and anything else as a plain apology, inside of an event's function."""
        ...


Tab = Callable[[Studio], None]
"""Type of what plugin.toml names as a tab."""

__all__ = [
    "PLUGIN_API",
    "Artifact",
    "ArtifactId",
    "Artifacts",
    "Cancelled",
    "Face",
    "FaceFinder",
    "FaceFollower",
    "GalateaError",
    "InvalidRequest",
    "Job",
    "JobContext",
    "JobKind",
    "JobResult",
    "JobService",
    "JobState",
    "Loaded",
    "MediaError",
    "ModelMissing",
    "NoFaceFound",
    "OutOfMemory",
    "Panel",
    "PendingArtifact",
    "PluginError",
    "StorageError",
    "Studio",
    "Tab",
    "UnsupportedModel",
    "choose_face",
    "devices",
    "face_finder",
    "read_picture",
    "restore",
    "upscale",
    "weights_catalog",
    "weights_files",
]
