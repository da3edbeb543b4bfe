"""The SadTalker tab: portrait and voice in, talking video out. Its options are in tabs/.

Asks the job service for everything; a closed tab stops nothing, and one that is opened again finds its job.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gradio as gr

from extensions.sadtalker.jobs import KIND
from extensions.sadtalker.tabs import options
from extensions.sadtalker.tabs.options import Options
from extensions.sadtalker.tabs.used import table
from webui.plugin_api import Artifact, InvalidRequest, Job, MediaError, Panel, Studio

EXAMPLES = Path(__file__).parent / "examples"
PICTURES = (".jpg", ".jpeg", ".png", ".webp")
SOUNDS = (".wav", ".mp3", ".ogg", ".opus", ".flac", ".m4a")

DICE = "() => String(Math.floor(Math.random() * 4294967296))"


@dataclass(frozen=True)
class Widgets:
    """What the events of the tab read and write."""

    portrait: gr.Image
    other_portrait: gr.UploadButton
    voice: gr.Audio
    other_voice: gr.UploadButton
    examples: gr.Dataset
    options: Options

    @property
    def inputs(self) -> list[Any]:
        return [self.portrait, self.voice, *self.options.fields.values()]


def build(studio: Studio) -> None:
    """Called once, inside a gr.Tab."""
    with gr.Row(elem_id="sadtalker"):
        with gr.Column(scale=6, min_width=320):
            sources = _sources(studio)
            examples = _examples(studio)
            chosen = options.build(studio)
            studio.drop_zone()
        with gr.Column(scale=5, min_width=320, elem_id="sadtalker-result"):
            panel = _results(studio)
    Events(studio, Widgets(**sources, examples=examples, options=chosen), panel).connect()


def example_pairs(folder: Path) -> list[list[str]]:
    """[portrait, voice] files, paired in the order of their names."""
    files = sorted(folder.iterdir()) if folder.is_dir() else []
    pictures = [str(path) for path in files if path.suffix in PICTURES]
    sounds = [str(path) for path in files if path.suffix in SOUNDS]
    return [list(pair) for pair in zip(pictures, sounds, strict=False)]


def _sources(studio: Studio) -> dict[str, Any]:
    with gr.Row(equal_height=False):
        with gr.Column(min_width=280):
            portrait = studio.picture_input(studio.text("field_portrait"), elem_id="sadtalker-portrait")
            other_portrait = gr.UploadButton(
                studio.text("other_portrait"), size="sm", elem_id="sadtalker-other-portrait", file_count="single"
            )
        with gr.Column(min_width=280):
            voice = gr.Audio(
                label=studio.text("field_voice"),
                type="filepath",
                sources=["upload", "microphone"],
                editable=True,
                elem_id="sadtalker-voice",
                buttons=[],
            )
            other_voice = gr.UploadButton(
                studio.text("other_voice"), size="sm", elem_id="sadtalker-other-voice", file_count="single"
            )
    return {"portrait": portrait, "other_portrait": other_portrait, "voice": voice, "other_voice": other_voice}


def _examples(studio: Studio) -> gr.Dataset:
    portraits = [[portrait] for portrait, _voice in example_pairs(EXAMPLES)]
    return gr.Dataset(
        components=[gr.Image(render=False)],
        samples=portraits,
        type="index",
        label=studio.text("examples"),
        visible=bool(portraits),
        elem_id="sadtalker-examples",
    )


def _results(studio: Studio) -> Panel:
    controls = gr.Column()
    video = gr.Video(
        label=studio.text("result"), interactive=False, visible=False, elem_id="sadtalker-video", buttons=["download"]
    )
    download = gr.DownloadButton(studio.text("download"), visible=False, elem_id="sadtalker-download")
    points = gr.Video(
        label=studio.text("result_points"), interactive=False, visible=False, elem_id="sadtalker-points", buttons=["download"]
    )
    with gr.Accordion(studio.text("used"), open=True, visible=False, elem_id="sadtalker-used") as used_box:
        used = gr.HTML()

    def show(job: Job, visitor: gr.Request) -> dict[Any, Any]:
        # A file that was removed by hand is not among the artifacts.
        files = [str(studio.hand_out(file)) for file in job.result.artifacts] if job.result else []
        path, beside = [*files, None, None][:2]
        return {
            video: gr.update(value=path, visible=path is not None),
            download: gr.update(value=path, visible=path is not None),
            points: gr.update(value=beside, visible=beside is not None),
            used: table(studio, job, visitor),
            used_box: gr.update(visible=path is not None),
        }

    with controls:
        return studio.run_panel("sadtalker", outputs=[video, download, points, used, used_box], show=show)


@dataclass(frozen=True)
class Events:
    """What happens when."""

    studio: Studio
    widgets: Widgets
    panel: Panel

    def connect(self) -> None:
        widgets, panel = self.widgets, self.panel
        loading: dict[str, Any] = {"api_visibility": "private", "concurrency_limit": 4}
        panel.connect(widgets.inputs, self.request, kinds=[KIND])
        sources = [widgets.portrait, widgets.voice]
        panel.start_on(widgets.examples.click, [widgets.examples, *widgets.inputs], self.example, sources)
        chosen = widgets.options
        at_once: dict[str, Any] = {"api_visibility": "private", "show_progress": "hidden"}
        chosen.dice.click(None, outputs=chosen.fields["seed"], js=DICE, **at_once)
        self.studio.page.load(chosen.list_files, None, chosen.listed, queue=False, **at_once)
        changed = [self.studio.page.load, *(widget.change for widget in chosen.drawing)]
        gr.on(changed, chosen.tell_engine, chosen.drawing, chosen.note, queue=False, **at_once)
        widgets.other_portrait.upload(self.show_portrait, widgets.other_portrait, widgets.portrait, **loading)
        widgets.other_voice.upload(self.show_voice, widgets.other_voice, widgets.voice, **loading)
        self.studio.offer_form(KIND, [*widgets.inputs, *chosen.folds], self.fill, title="kind")
        self.studio.accept_picture("send_sadtalker", [widgets.portrait], self.take_picture)

    def request(self, values: dict[Any, Any], visitor: gr.Request) -> tuple[str, dict[str, Any]]:
        return KIND, _request(self.studio, self.widgets, values, visitor)

    def example(self, values: dict[Any, Any], visitor: gr.Request) -> Iterator[dict[Any, Any]]:
        """Show an example's portrait and voice, and make the video of them with the options as they are."""
        shown: dict[Any, Any] = {}

        def request(values: dict[Any, Any], visitor: gr.Request) -> tuple[str, dict[str, Any]]:
            # Stored like an upload: the job goes on after a restart, and its settings can be used again.
            files = [self.studio.artifacts.upload(Path(path)) for path in example_pairs(EXAMPLES)[values[self.widgets.examples]]]
            portrait, voice = (str(self.studio.stand_in(file)) for file in files)
            sources = {self.widgets.portrait: portrait, self.widgets.voice: voice}
            # As updates: a bare file's value would be overwritten in the browser by the differences that later yields send.
            shown.update({widget: gr.update(value=path) for widget, path in sources.items()})
            return self.request(values | sources, visitor)

        for updates in self.panel.run(values, request, visitor):
            yield shown | updates
            shown.clear()

    def take_picture(self, picture: Artifact, _visitor: gr.Request) -> dict[Any, Any]:
        return {self.widgets.portrait: str(self.studio.shown_picture(picture))}

    def show_portrait(self, path: str, visitor: gr.Request) -> str:
        with self.studio.guard(visitor):
            return str(self.studio.shown_picture(self.studio.artifacts.upload(Path(path))))

    def show_voice(self, path: str, visitor: gr.Request) -> str:
        with self.studio.guard(visitor):
            return str(self.studio.stand_in(self.studio.artifacts.upload(Path(path))))

    def fill(self, request: dict[str, Any], visitor: gr.Request) -> dict[Any, Any]:
        """The form with these settings; a portrait or voice that is not among them is left for the visitor to choose."""
        widgets, get = self.widgets, self.studio.artifacts.get
        portrait = voice = None
        if request.get("voice"):
            voice = str(self.studio.stand_in(get(request["voice"])))
        if "portrait" in request:
            try:
                portrait = str(self.studio.shown_picture(get(request["portrait"])))
            except MediaError as error:  # the reason for which a job failed
                self.studio.tell(self.studio.told(str(error), visitor), warning=True)
        return {widgets.portrait: portrait, widgets.voice: voice, **widgets.options.filled(request)}


def _request(studio: Studio, widgets: Widgets, values: dict[Any, Any], visitor: gr.Request) -> dict[str, Any]:
    """The request as the visitor filled it in. Raises InvalidRequest when portrait or voice is missing."""
    given = widgets.options.asked(values)
    if not values[widgets.portrait]:
        raise InvalidRequest(studio.say("no_portrait", visitor))
    if not values[widgets.voice] and "idle" not in given:
        raise InvalidRequest(studio.say("no_voice", visitor))
    files = {"portrait": values[widgets.portrait], "voice": values[widgets.voice]}
    return given | {name: studio.original(path).id for name, path in files.items() if path}
