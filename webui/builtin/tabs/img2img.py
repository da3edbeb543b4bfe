"""The tab for pictures from another picture: one that is uploaded, a sketch, or all those of a folder."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gradio as gr

from webui.builtin.kinds import Img2ImgRequest
from webui.builtin.tabs import plot, results, sources
from webui.builtin.tabs.common import PICTURE_HEIGHT, QUIET, Form
from webui.plugin_api import Artifact, InvalidRequest, Studio

KIND = "img2img"
PICTURE, SKETCH, FOLDER = "picture", "sketch", "folder"
SKETCH_SIDE = 512
COLOURS = ["#1c1917", "#ffffff", "#b91c1c", "#ea580c", "#facc15", "#15803d", "#0369a1", "#7e22ce", "#f5d0b5", "#78350f"]


@dataclass(frozen=True)
class Source:
    """Where the picture comes from. which: PICTURE, SKETCH or FOLDER, the one whose page is open."""

    which: gr.Textbox
    pages: gr.Tabs
    picture: Any
    other: gr.UploadButton
    sketch: gr.ImageEditor
    files: gr.File
    queue: gr.Button
    queued: gr.HTML


def build(studio: Studio) -> None:
    """Called once, inside a gr.Tab."""
    form = Form(studio, KIND, Img2ImgRequest)
    with gr.Row(elem_id=KIND, elem_classes="picture-tab"):
        with gr.Column(scale=6, min_width=320, elem_classes="picture-form"):
            with gr.Column(elem_classes="picture-words"):
                form.model()
                form.words()
                source = _source(studio)
                form.fields("strength")
            with gr.Column(elem_classes="picture-settings"):
                form.size(own=True)
                form.sampling()
                form.seeds()
                form.more()
                plots = plot.accordion(studio, KIND)
                studio.drop_zone()
        with gr.Column(scale=5, min_width=320, elem_classes="picture-result"):
            start = gr.Column()
            made = results.build(studio, KIND)
    with start:
        panel = studio.run_panel(KIND, outputs=made.outputs, show=made.show, skip=True)
    form.connect(made.seed)
    events = Events(studio, form, source, plots)
    given = [source.which, source.picture, source.sketch]
    # A plot that is found in the making is shown by txt2img.
    panel.connect([*form.inputs, *plots.inputs, *given], events.ask, kinds=(KIND,))
    events.connect()


def _source(studio: Studio) -> Source:
    which = gr.Textbox(PICTURE, visible="hidden", elem_id="img2img-source")
    with gr.Tabs(elem_id="img2img-sources", selected=PICTURE) as pages:
        with gr.Tab(studio.text("source_picture"), id=PICTURE, elem_id="img2img-source-picture") as upload_page:
            picture = studio.picture_input(studio.text("field_image"), elem_id="img2img-picture", height=PICTURE_HEIGHT)
            other = gr.UploadButton(studio.text("other_picture"), size="sm", file_count="single", elem_id="img2img-other")
        with gr.Tab(studio.text("source_sketch"), id=SKETCH, elem_id="img2img-source-sketch") as sketch_page:
            # With paper on it, because an empty editor asks for a picture and takes no brush.
            blank = {"background": sources.paper(SKETCH_SIDE), "layers": [], "composite": None}
            sketch = gr.ImageEditor(
                blank, label=studio.text("field_sketch"), type="numpy", format="png", sources=("upload", "clipboard"),
                transforms=(), layers=False, canvas_size=(SKETCH_SIDE, SKETCH_SIDE),
                brush=gr.Brush(colors=list(COLOURS), default_size=16),
                placeholder=studio.text("sketch_empty"), elem_id="img2img-sketch", buttons=[],
            )  # fmt: skip
        with gr.Tab(studio.text("source_folder"), id=FOLDER, elem_id="img2img-source-folder") as folder_page:
            files = gr.File(
                label=studio.text("field_folder"), file_count="directory", type="filepath", height=180, elem_id="img2img-folder"
            )
            queue = gr.Button(studio.text("queue_folder"), variant="primary", elem_id="img2img-queue")
            queued = gr.HTML(elem_id="img2img-queued", elem_classes="flush")
    for page, name in ((upload_page, PICTURE), (sketch_page, SKETCH), (folder_page, FOLDER)):
        page.select(None, None, which, js=f"() => '{name}'", queue=False, **QUIET)
    return Source(which, pages, picture, other, sketch, files, queue, queued)


@dataclass(frozen=True)
class Events:
    """What happens when, besides what Form and the panel do."""

    studio: Studio
    form: Form
    source: Source
    plots: plot.Plot

    def connect(self) -> None:
        source, form = self.source, self.form
        loading: dict[str, Any] = {"concurrency_limit": 4, **QUIET}
        source.other.upload(self.show, source.other, source.picture, **loading)
        source.queue.click(self.queue, {*form.inputs, source.files}, [source.queued, source.files], **loading)
        chosen = [source.which, source.pages, source.picture]
        self.studio.accept_picture("send_img2img", chosen, self.take)
        filled = [*form.outputs, *self.plots.outputs, *chosen]
        self.studio.offer_form(KIND, filled, self.fill, title="kind_img2img")
        self.studio.offer_form(
            plot.KIND, filled, self.fill, title="kind_plot", takes=lambda request: bool(request.get("image"))
        )

    def ask(self, values: dict[Any, Any], visitor: gr.Request) -> tuple[str, dict[str, Any]]:
        """The request as it is filled in. Raises InvalidRequest when there is no picture to begin with."""
        return self.plots.asked(KIND, self.form.asked(values) | {"image": self._image(values, visitor).id}, values)

    def show(self, path: str, visitor: gr.Request) -> str | None:
        """A file of a kind that the browser may not show."""
        with self.studio.guard(visitor):
            return str(self.studio.shown_picture(self.studio.original(path)))

    def queue(self, values: dict[Any, Any], visitor: gr.Request) -> dict[Any, Any]:
        """A job for each picture of the folder, all with the settings as they are."""
        with self.studio.guard(visitor):
            said = sources.queue_folder(self.studio, KIND, self.form.asked(values), values[self.source.files], visitor)
            return {self.source.queued: said, self.source.files: None}

    def take(self, artifact: Artifact, visitor: gr.Request) -> dict[Any, Any]:
        """A picture that another tab sent."""
        source = self.source
        return {
            source.which: PICTURE,
            source.pages: gr.Tabs(selected=PICTURE),
            source.picture: sources.shown(self.studio, artifact, visitor),
        }

    def fill(self, request: dict[str, Any], visitor: gr.Request) -> dict[Any, Any]:
        """The form with these settings; a picture that is gone is left for the visitor to choose."""
        updates = {**self.form.filled(request, visitor), **self.plots.filled(request)}
        if request.get("image"):
            return updates | self.take(self.studio.artifacts.get(request["image"]), visitor)
        return updates | {self.source.picture: None}

    def _image(self, values: dict[Any, Any], visitor: gr.Request) -> Artifact:
        source = self.source
        if values[source.which] == SKETCH:
            sketched = sources.sketch(self.studio, values[source.sketch])
            if sketched is None:
                raise InvalidRequest(self.studio.say("no_sketch", visitor))
            return sketched
        if values[source.which] == FOLDER:
            raise InvalidRequest(self.studio.say("folder_has_own_button", visitor))
        if not values[source.picture]:
            raise InvalidRequest(self.studio.say("no_picture", visitor))
        return self.studio.original(str(Path(values[source.picture])))
