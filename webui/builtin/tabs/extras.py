"""Extras: a finished picture, or all those of a folder, made larger or with better faces."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

import gradio as gr

from webui.builtin.kinds import LONGEST_SIDE, ExtrasRequest, any_size
from webui.builtin.tabs import results, sources
from webui.builtin.tabs.common import PICTURE_HEIGHT, QUIET
from webui.plugin_api import Artifact, InvalidRequest, ModelMissing, Studio, upscale
from webui.weights.catalog import Catalog, Entry, shared
from webui.weights.detect import NAMES

KIND = "extras"
PICTURE, FOLDER = "picture", "folder"
BY, TO = "by", "to"
NONE = "None"
UNKNOWN_SCALE = 4
FITTING = (1920, 1080)

Updates = dict[Any, Any]


@dataclass(frozen=True)
class Form:
    """The tab's widgets. options: by the request's field that they hold; which: PICTURE or FOLDER, whose page is open."""

    studio: Studio
    which: gr.Textbox
    pages: gr.Tabs
    picture: Any
    other: gr.UploadButton
    files: gr.File
    queue: gr.Button
    queued: gr.HTML
    options: dict[str, Any]
    mode: gr.Radio
    by: gr.Column
    to: gr.Column
    width: gr.Number
    height: gr.Number
    refresh: gr.Button
    note: gr.HTML

    @property
    def inputs(self) -> list[Any]:
        """What `asked` reads."""
        return [*self.options.values(), self.mode, self.width, self.height]

    @property
    def outputs(self) -> list[Any]:
        """What `filled` may change."""
        return [*self.inputs, self.by, self.to, self.which, self.pages, self.picture]

    def asked(self, values: Mapping[Any, Any]) -> dict[str, Any]:
        """The request's fields as they are filled in, but for the picture."""
        held = {name: values[widget] for name, widget in self.options.items()}
        given = {name: value for name, value in held.items() if value not in (None, "", NONE)}
        if "upscaler" not in given:
            return {name: value for name, value in given.items() if name not in ("scale", "upscaler_2")}
        if values[self.mode] == TO:
            given.pop("scale", None)
            given["size"] = f"{int(values[self.width] or 0)}x{int(values[self.height] or 0)}"
        return given

    def ask(self, values: Mapping[Any, Any], visitor: gr.Request) -> tuple[str, dict[str, Any]]:
        """The request. Raises InvalidRequest when there is no picture."""
        if values[self.which] == FOLDER:
            raise InvalidRequest(self.studio.say("folder_has_own_button_extras", visitor))
        if not values[self.picture]:
            raise InvalidRequest(self.studio.say("no_picture", visitor))
        return KIND, self.asked(values) | {"image": self.studio.original(str(values[self.picture])).id}

    def queue_all(self, values: dict[Any, Any], visitor: gr.Request) -> Updates:
        """A job for each picture of the folder."""
        with self.studio.guard(visitor):
            said = sources.queue_folder(self.studio, KIND, self.asked(values), values[self.files], visitor)
            return {self.queued: said, self.files: None}

    def show(self, path: str, visitor: gr.Request) -> str | None:
        """A file of a kind that the browser may not show."""
        with self.studio.guard(visitor):
            return str(self.studio.shown_picture(self.studio.original(path)))

    def take(self, artifact: Artifact, visitor: gr.Request) -> Updates:
        """A picture that another tab sent."""
        shown = sources.shown(self.studio, artifact, visitor)
        return {self.which: PICTURE, self.pages: gr.Tabs(selected=PICTURE), self.picture: shown}

    def fill(self, request: dict[str, Any], visitor: gr.Request) -> Updates:
        """The form with these settings; a picture that is gone is left for the visitor to choose."""
        updates: Updates = {widget: request[name] for name, widget in self.options.items() if request.get(name) is not None}
        updates |= {self.options[name]: NONE for name in ("upscaler", "upscaler_2", "restore") if not request.get(name)}
        size = request.get("size")
        updates |= {self.mode: TO if size else BY, self.by: gr.update(visible=not size), self.to: gr.update(visible=bool(size))}
        if size:
            updates[self.width], updates[self.height] = any_size(size)
        elif request.get("upscaler") and not request.get("scale"):
            updates[self.options["scale"]] = self.own_scale(request["upscaler"])
        if request.get("image"):
            return updates | self.take(self.studio.artifacts.get(request["image"]), visitor)
        return updates | {self.picture: None}

    def list_files(self, visitor: gr.Request) -> list[Any]:
        """What there is to choose from now, and which files cannot be used."""
        with self.studio.guard(visitor):
            known, lite = self._catalog, self.studio.settings.lite
            upscalers, restorers = ([], []) if lite else (known.upscalers(), known.restorers())
            none = (self.studio.say("none", visitor), NONE)
            plain = ((name, name) for name in upscale.WITHOUT_FILE)
            names = [none, *plain, *((_named(one), one.stem) for one in _sound(upscalers))]
            faces = [none, *((_named(one), one.stem) for one in _sound(restorers))]
            note = self._note(visitor, upscalers, restorers)
            return [gr.update(choices=names), gr.update(choices=names), gr.update(choices=faces), note]

    def own_scale(self, name: str) -> Any:
        """The scale of an upscaler that was chosen."""
        if name == NONE:
            return gr.skip()
        if upscale.without_file(name):
            return upscale.Filter.scale
        try:
            return self._catalog.find_upscaler(name).found.scale or UNKNOWN_SCALE
        except ModelMissing:
            return UNKNOWN_SCALE

    def _note(self, visitor: gr.Request, upscalers: list[Entry], restorers: list[Entry]) -> str:
        say = self.studio.say
        if self.studio.settings.lite:
            return f"<p>{escape(say('extras_lite', visitor))}</p>"
        hints = {"extras_no_upscaler": upscalers, "extras_no_restorer": restorers}
        wanted = [key for key, entries in hints.items() if not _sound(entries)]
        problems = [one.problem for one in (*upscalers, *restorers) if one.problem]
        listed = "".join(f"<li>{escape(self.studio.told(problem, visitor))}</li>" for problem in problems)
        folded = f"<details><summary>{escape(say('model_problems', visitor))}</summary><ul>{listed}</ul></details>"
        return "".join(f"<p>{escape(say(key, visitor))}</p>" for key in wanted) + (folded if listed else "")

    @property
    def _catalog(self) -> Catalog:
        return shared(self.studio.settings.models_dir, self.studio.settings.allow_pickles)


def build(studio: Studio) -> None:
    """Called once, inside a gr.Tab."""
    with gr.Row(elem_id=KIND, elem_classes="picture-tab"):
        with gr.Column(scale=6, min_width=320, elem_classes="picture-form"):
            with gr.Column(elem_classes="picture-words"):
                source = _source(studio)
                settings = _settings(studio)
            with gr.Column(elem_classes="picture-settings"):
                settings["options"] |= _more(studio)
        with gr.Column(scale=5, min_width=320, elem_classes="picture-result"):
            start = gr.Column()
            made = results.build(studio, KIND)
    with start:
        panel = studio.run_panel(KIND, outputs=made.outputs, show=made.show)
    form = Form(studio, **source, **settings)
    panel.connect([*form.inputs, form.which, form.picture], form.ask, kinds=(KIND,))
    _connect(studio, form)


def _source(studio: Studio) -> dict[str, Any]:
    which = gr.Textbox(PICTURE, visible="hidden", elem_id="extras-source")
    with gr.Tabs(elem_id="extras-sources", selected=PICTURE) as pages:
        with gr.Tab(studio.text("source_picture"), id=PICTURE, elem_id="extras-source-picture") as one:
            picture = studio.picture_input(studio.text("field_extras_image"), elem_id="extras-picture", height=PICTURE_HEIGHT)
            other = gr.UploadButton(studio.text("other_picture"), size="sm", file_count="single", elem_id="extras-other")
        with gr.Tab(studio.text("source_folder"), id=FOLDER, elem_id="extras-source-folder") as many:
            files = gr.File(
                label=studio.text("field_folder"), file_count="directory", type="filepath", height=180, elem_id="extras-folder"
            )
            queue = gr.Button(studio.text("queue_folder"), variant="primary", elem_id="extras-queue")
            queued = gr.HTML(elem_id="extras-queued", elem_classes="flush")
    for page, name in ((one, PICTURE), (many, FOLDER)):
        page.select(None, None, which, js=f"() => '{name}'", queue=False, **QUIET)
    return {
        "which": which, "pages": pages, "picture": picture, "other": other, "files": files, "queue": queue, "queued": queued,
    }  # fmt: skip


def _settings(studio: Studio) -> dict[str, Any]:
    options: dict[str, Any] = {}
    with gr.Row(equal_height=False, elem_classes="picture-row"):
        options["upscaler"] = _dropdown(studio, "upscaler", upscale.WITHOUT_FILE, scale=5, min_width=150)
        refresh = gr.Button(
            studio.text("refresh"), size="sm", min_width=86, scale=0, elem_id="extras-refresh", elem_classes="picture-button"
        )
    note = gr.HTML(elem_id="extras-note", elem_classes="flush picture-note")
    modes = [(studio.text("scale_by"), BY), (studio.text("scale_to"), TO)]
    mode = gr.Radio(modes, value=BY, show_label=False, container=False, elem_id="extras-mode")
    with gr.Column(elem_classes="picture-size") as by:
        options["scale"] = gr.Slider(
            1, 8, upscale.Filter.scale, step=0.25, label=studio.text("field_scale"), info=studio.text("help_scale"),
            elem_id="field-extras-scale",
        )  # fmt: skip
    with gr.Column(visible=False, elem_classes="picture-size") as to:
        with gr.Row(equal_height=False):
            width, height = (
                gr.Number(
                    value, precision=0, minimum=1, maximum=LONGEST_SIDE, label=studio.text(f"field_{name}"), min_width=120,
                    info=studio.text(f"help_{name}"), elem_id=f"field-extras-{name}",
                )
                for name, value in zip(("width", "height"), FITTING, strict=True)
            )  # fmt: skip
        options |= studio.widgets(ExtrasRequest, ("crop",))
    with gr.Row(equal_height=False):
        options["restore"] = _dropdown(studio, "restore", [])
        options |= studio.widgets(ExtrasRequest, ("restore_strength",))
    return {
        "options": options, "mode": mode, "by": by, "to": to, "width": width, "height": height, "refresh": refresh, "note": note,
    }  # fmt: skip


def _more(studio: Studio) -> dict[str, Any]:
    """What is seldom changed; on a phone it stands below the result."""
    options: dict[str, Any] = {}
    with gr.Accordion(studio.text("second_upscaler"), open=False, elem_id="extras-second"), gr.Row(equal_height=False):
        options["upscaler_2"] = _dropdown(studio, "upscaler_2", upscale.WITHOUT_FILE)
        options |= studio.widgets(ExtrasRequest, ("upscaler_2_visibility",))
    return options | studio.widgets(ExtrasRequest, ("fidelity", "format"))


def _dropdown(studio: Studio, name: str, choices: Sequence[str], **how: Any) -> gr.Dropdown:
    # Any name can be typed: a job's settings may name a file that is not here, which is said when it is wanted.
    return gr.Dropdown(
        [(studio.text("none"), NONE), *((one, one) for one in choices)], value=NONE, label=studio.text(f"field_{name}"),
        info=studio.text(f"help_{name}"), allow_custom_value=True, filterable=True,
        elem_id=f"field-extras-{name.replace('_', '-')}", **{"min_width": 170, **how},
    )  # fmt: skip


def _connect(studio: Studio, form: Form) -> None:
    at_once: dict[str, Any] = {"queue": False, **QUIET}
    loading: dict[str, Any] = {"concurrency_limit": 4, **QUIET}
    listed = [form.options["upscaler"], form.options["upscaler_2"], form.options["restore"], form.note]
    studio.page.load(form.list_files, None, listed, **at_once)
    form.refresh.click(form.list_files, None, listed, **at_once)
    form.options["upscaler"].input(form.own_scale, form.options["upscaler"], form.options["scale"], **at_once)
    shown = [form.by, form.to]
    form.mode.input(lambda mode: [gr.update(visible=mode == one) for one in (BY, TO)], form.mode, shown, **at_once)
    form.other.upload(form.show, form.other, form.picture, **loading)
    form.queue.click(form.queue_all, {*form.inputs, form.files}, [form.queued, form.files], **loading)
    studio.accept_picture("send_extras", [form.which, form.pages, form.picture], form.take)
    studio.offer_form(KIND, form.outputs, form.fill, title="kind_extras")


def _sound(entries: list[Entry]) -> list[Entry]:
    return [one for one in entries if not one.problem]


def _named(entry: Entry) -> str:
    """The file's name, with what it is where that is not in it."""
    make = NAMES.get(entry.found.architecture, "") or (f"{entry.found.scale}x" if entry.found.scale else "")
    return entry.stem if make.lower() in entry.stem.lower() else f"{entry.stem} ({make})"
