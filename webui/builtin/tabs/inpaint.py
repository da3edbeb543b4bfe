"""The tab for making a part of a picture anew. The part is drawn over the picture, or is a mask that is uploaded."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import gradio as gr

from webui.builtin.kinds import InpaintRequest
from webui.builtin.tabs import results, sources
from webui.builtin.tabs.common import PICTURE_HEIGHT, QUIET, Form
from webui.plugin_api import Artifact, InvalidRequest, Studio

KIND = "inpaint"
DRAWN, FILE = "drawn", "file"
MASK_COLOUR = "rgba(225, 29, 72, 0.65)"
"""Lets the picture be seen through what is drawn. What counts is where something was drawn, not in which colour."""
MOST_PADDING = 256
CONTENTS = ("original", "fill", "latent noise", "latent nothing")


@dataclass(frozen=True)
class Source:
    """The picture and its mask.

    picture_id: of the original of what the editor shows. which: where the mask is from, DRAWN or FILE.
    """

    picture: Any
    picture_id: gr.Textbox
    masking: gr.Column
    which: gr.Textbox
    pages: gr.Tabs
    editor: gr.ImageEditor
    mask: Any
    other: gr.UploadButton

    @property
    def chosen(self) -> list[Any]:
        """What shows a picture that was chosen."""
        return [self.picture, self.picture_id, self.masking, self.editor]


def build(studio: Studio) -> None:
    """Called once, inside a gr.Tab."""
    form = Form(studio, KIND, InpaintRequest)
    with gr.Row(elem_id=KIND, elem_classes="picture-tab"):
        with gr.Column(scale=6, min_width=320, elem_classes="picture-form"):
            with gr.Column(elem_classes="picture-words"):
                form.model()
                form.words()
                source = _source(studio)
                form.fields("strength")
            with gr.Column(elem_classes="picture-settings"):
                _mask_options(studio, form)
                form.size(own=True)
                form.sampling()
                form.seeds()
                form.more()
                studio.drop_zone()
        with gr.Column(scale=5, min_width=320, elem_classes="picture-result"):
            start = gr.Column()
            made = results.build(studio, KIND)
    with start:
        panel = studio.run_panel(KIND, outputs=made.outputs, show=made.show, skip=True)
    form.connect(made.seed)
    events = Events(studio, form, source)
    given = [source.picture_id, source.which, source.editor, source.mask]
    panel.connect([*form.inputs, *given], events.ask, kinds=(KIND,))
    events.connect()


def _source(studio: Studio) -> Source:
    picture = studio.picture_input(studio.text("field_image"), elem_id="inpaint-picture", height=PICTURE_HEIGHT)
    picture_id = gr.Textbox("", visible="hidden", elem_id="inpaint-picture-id")
    which = gr.Textbox(DRAWN, visible="hidden", elem_id="inpaint-mask-from")
    # Not shown before there is a picture: the editor would take one by itself, and scale it.
    masking = gr.Column(visible=False, elem_id="inpaint-masking")
    with masking, gr.Tabs(elem_id="inpaint-masks", selected=DRAWN) as pages:
        with gr.Tab(studio.text("mask_drawn"), id=DRAWN, elem_id="inpaint-mask-drawn") as drawn_page:
            editor = gr.ImageEditor(
                label=studio.text("help_mask_drawn"), type="numpy", format="png", sources=(), transforms=(), layers=False,
                brush=gr.Brush(colors=[MASK_COLOUR], color_mode="fixed"), elem_id="inpaint-editor", buttons=[],
            )  # fmt: skip
        with gr.Tab(studio.text("mask_file"), id=FILE, elem_id="inpaint-mask-file") as file_page:
            mask = studio.picture_input(studio.text("help_mask_file"), elem_id="inpaint-mask", sources=["upload", "clipboard"])
    other = gr.UploadButton(studio.text("other_picture"), size="sm", file_count="single", elem_id="inpaint-other")
    for page, name in ((drawn_page, DRAWN), (file_page, FILE)):
        page.select(None, None, which, js=f"() => '{name}'", queue=False, **QUIET)
    return Source(picture, picture_id, masking, which, pages, editor, mask, other)


def _mask_options(studio: Studio, form: Form) -> None:
    choices = {
        "only_masked": [(studio.text(f"value_only_masked_{value}"), value) for value in (False, True)],
        "mask_invert": [(studio.text(f"value_mask_invert_{value}"), value) for value in (False, True)],
        "content": [(studio.text(f"value_content_{value}"), value) for value in CONTENTS],
    }
    with gr.Row(equal_height=False):
        for name, named in choices.items():
            form.options[name] = form.dropdown(name, named, default=True)
    with gr.Row(equal_height=False):
        form.fields("mask_blur")
        form.options["padding"] = gr.Slider(
            0, MOST_PADDING, InpaintRequest.model_fields["padding"].default, step=4, label=studio.text("field_padding"),
            info=studio.text("help_padding"), elem_id="field-inpaint-padding",
        )  # fmt: skip


@dataclass(frozen=True)
class Events:
    """What happens when, besides what Form and the panel do."""

    studio: Studio
    form: Form
    source: Source

    def connect(self) -> None:
        source, form = self.source, self.form
        loading: dict[str, Any] = {"concurrency_limit": 4, **QUIET}
        source.picture.input(self.choose, source.picture, source.chosen, **loading)
        source.other.upload(self.choose, source.other, source.chosen, **loading)
        source.editor.clear(self.show_again, source.picture_id, source.editor, **loading)
        chosen = [*source.chosen, source.which, source.pages]
        self.studio.accept_picture("send_inpaint", chosen, self.take)
        self.studio.offer_form(KIND, [*form.outputs, *chosen, source.mask], self.fill, title="kind_inpaint")

    def ask(self, values: dict[Any, Any], visitor: gr.Request) -> tuple[str, dict[str, Any]]:
        """The request as it is filled in. Raises InvalidRequest when picture or mask is missing."""
        source = self.source
        if not values[source.picture_id]:
            raise InvalidRequest(self.studio.say("no_picture", visitor))
        picture = self.studio.artifacts.get(values[source.picture_id])
        if values[source.which] == FILE:
            mask = self.studio.original(values[source.mask]) if values[source.mask] else None
        else:
            mask = sources.mask(self.studio, (values[source.editor] or {}).get("layers", ()), picture)
        if mask is None:
            raise InvalidRequest(self.studio.say("no_mask", visitor))
        return KIND, self.form.asked(values) | {"image": picture.id, "mask": mask.id}

    def choose(self, path: str | None, visitor: gr.Request) -> dict[Any, Any]:
        with self.studio.guard(visitor):
            return self._shown(self.studio.original(path), visitor) if path else {}

    def show_again(self, picture_id: str, visitor: gr.Request) -> Any:
        """The editor's own button for a clean sheet takes the picture away as well."""
        with self.studio.guard(visitor):
            return _sheet(sources.shown(self.studio, self.studio.artifacts.get(picture_id), visitor)) if picture_id else None

    def take(self, artifact: Artifact, visitor: gr.Request) -> dict[Any, Any]:
        """A picture that another tab sent."""
        source = self.source
        return {**self._shown(artifact, visitor), source.which: DRAWN, source.pages: gr.Tabs(selected=DRAWN)}

    def fill(self, request: dict[str, Any], visitor: gr.Request) -> dict[Any, Any]:
        """The form with these settings; the mask as a file, as it was. What is gone is left for the visitor to choose."""
        source, get = self.source, self.studio.artifacts.get
        updates = self.form.filled(request, visitor)
        if "image" in request:
            updates |= self._shown(get(request["image"]), visitor)
        if "mask" in request:
            mask = get(request["mask"])
            updates |= {source.which: FILE, source.pages: gr.Tabs(selected=FILE)}
            updates[source.mask] = sources.shown(self.studio, mask, visitor)
        return updates

    def _shown(self, artifact: Artifact, visitor: gr.Request) -> dict[Any, Any]:
        """The picture in the editor, in place of the input that it was given to."""
        source = self.source
        stand_in = sources.shown(self.studio, artifact, visitor)
        if stand_in is None:
            return {source.picture: None}
        return {
            source.picture: gr.update(value=None, visible=False),
            source.picture_id: artifact.id,
            source.masking: gr.update(visible=True),
            source.editor: _sheet(stand_in),
        }


def _sheet(stand_in: str | None) -> Any:
    """The editor's value: a picture with nothing drawn on it."""
    return stand_in and {"background": stand_in, "layers": [], "composite": None}
