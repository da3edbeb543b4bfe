"""The SadTalker tab: portrait and voice in, talking video out. The only file of this extension that imports Gradio.

Asks the job service for everything; a closed tab stops nothing, and one that is opened again finds its job.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from threading import Lock
from typing import Any

import gradio as gr

from extensions.sadtalker.jobs import KIND, TalkingHeadRequest
from webui.plugin_api import Artifact, InvalidRequest, Job, JobState, MediaError, Studio, read_picture

PLAIN = ("preprocess", "still", "pose_style", "expression_scale")
ADVANCED = ("engine", "size", "blink", "fps", "seed", "face")
FRAMINGS = (
    "value_preprocess_crop", "value_preprocess_extcrop", "value_preprocess_resize", "value_preprocess_full",
    "value_preprocess_extfull",
)  # fmt: skip
STAGES = (
    "used_seconds_face", "used_seconds_prepare", "used_seconds_voice", "used_seconds_motion", "used_seconds_first_preview",
    "used_seconds_render", "used_seconds_total",
)  # fmt: skip
EXAMPLES = Path(__file__).parent / "examples"
PICTURES = (".jpg", ".jpeg", ".png", ".webp")
SOUNDS = (".wav", ".mp3", ".ogg", ".opus", ".flac", ".m4a")
PREVIEW_SIDE = 1024

REMEMBER = "(id) => { sessionStorage.setItem('galatea-sadtalker-job', id); }"
RECALL = "() => [sessionStorage.getItem('galatea-sadtalker-job') || '']"
DICE = "() => String(Math.floor(Math.random() * 4294967296))"


class OriginalImage(gr.Image):
    """An image input that hands on the file as it was given. Gradio's own opens it first: it refuses HEIC, and its
    message about a broken file is not for users."""

    is_template = True  # Gradio's word for: shown by the parent's front end

    def preprocess(self, payload: Any) -> Any:
        if payload is None or (payload.url or "").startswith("data:"):
            return super().preprocess(payload)
        return payload.path


@dataclass(frozen=True)
class Widgets:
    """What the events of the tab read and write."""

    portrait: gr.Image
    other_portrait: gr.UploadButton
    voice: gr.Audio
    other_voice: gr.UploadButton
    examples: gr.Dataset
    options: dict[str, Any]
    advanced: gr.Accordion
    dice: gr.Button
    generate: gr.Button
    cancel: gr.Button
    job_id: gr.Textbox
    card: gr.HTML
    video: gr.Video
    download: gr.DownloadButton
    used: gr.HTML
    used_box: gr.Accordion

    @property
    def inputs(self) -> list[Any]:
        return [self.portrait, self.voice, *self.options.values()]

    @property
    def outputs(self) -> list[Any]:
        result = [self.video, self.download, self.used, self.used_box]
        return [self.job_id, self.card, self.generate, self.cancel, *result]


def build(studio: Studio) -> None:
    """Called once, inside a gr.Tab."""
    with gr.Row(elem_id="sadtalker"):
        with gr.Column(scale=6, min_width=320):
            sources = _sources(studio)
            examples = _examples(studio)
            options = _options(studio)
            studio.drop_zone()
        with gr.Column(scale=5, min_width=320, elem_id="sadtalker-result"):
            results = _results(studio)
    Events(studio, Widgets(**sources, examples=examples, **options, **results)).connect()


def example_pairs(folder: Path) -> list[list[str]]:
    """[portrait, voice] files, paired in the order of their names."""
    files = sorted(folder.iterdir()) if folder.is_dir() else []
    pictures = [str(path) for path in files if path.suffix in PICTURES]
    sounds = [str(path) for path in files if path.suffix in SOUNDS]
    return [list(pair) for pair in zip(pictures, sounds, strict=False)]


def _sources(studio: Studio) -> dict[str, Any]:
    with gr.Row(equal_height=False):
        with gr.Column(min_width=280):
            portrait = OriginalImage(
                label=studio.text("field_portrait"),
                type="filepath",
                image_mode=None,
                sources=["upload", "webcam", "clipboard"],
                height=300,
                elem_id="sadtalker-portrait",
                buttons=[],
            )
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


def _options(studio: Studio) -> dict[str, Any]:
    with gr.Group():
        options = studio.widgets(TalkingHeadRequest, PLAIN)
        options["preprocess"].choices = [(studio.text(key), key.removeprefix("value_preprocess_")) for key in FRAMINGS]
    with gr.Accordion(studio.text("advanced"), open=False, elem_id="sadtalker-advanced") as advanced:
        options |= studio.widgets(TalkingHeadRequest, ADVANCED)
        dice = gr.Button(studio.text("dice"), size="sm", elem_id="sadtalker-dice")
    return {"options": options, "advanced": advanced, "dice": dice}


def _results(studio: Studio) -> dict[str, Any]:
    with gr.Row():
        generate = gr.Button(
            studio.text("generate"), variant="primary", size="lg", scale=2, min_width=140, elem_id="sadtalker-generate"
        )
        cancel = gr.Button(
            studio.text("cancel"), variant="stop", size="lg", min_width=90, interactive=False, elem_id="sadtalker-cancel"
        )
    card = gr.HTML(elem_id="sadtalker-card")
    video = gr.Video(
        label=studio.text("result"), interactive=False, visible=False, elem_id="sadtalker-video", buttons=["download"]
    )
    download = gr.DownloadButton(studio.text("download"), visible=False, elem_id="sadtalker-download")
    with gr.Accordion(studio.text("used"), open=True, visible=False, elem_id="sadtalker-used") as used_box:
        used = gr.HTML()
    return {
        "generate": generate,
        "cancel": cancel,
        "job_id": gr.Textbox(visible="hidden", elem_id="sadtalker-job"),
        "card": card,
        "video": video,
        "download": download,
        "used": used,
        "used_box": used_box,
    }


@dataclass(frozen=True, eq=False)
class Turn:
    """A generator's right to flow to a page. looks_on: it shows a job found there, and makes way when the visitor begins one."""

    looks_on: bool


@dataclass(frozen=True)
class Events:
    """What happens when. A generator watches a job: its snapshots flow to the page until it ends or the page closes.

    turns: whose turn it is on which page, by session. Two generators would fight each other for the same widgets.
    """

    studio: Studio
    widgets: Widgets
    turns: dict[str | None, Turn] = field(default_factory=dict)
    taking: Lock = field(default_factory=Lock)

    def connect(self) -> None:
        widgets = self.widgets
        quiet: dict[str, Any] = {"api_visibility": "private", "show_progress": "hidden"}
        watching: dict[str, Any] = {"outputs": widgets.outputs, "concurrency_limit": None, **quiet}
        loading: dict[str, Any] = {"api_visibility": "private", "concurrency_limit": 4}
        generated = widgets.generate.click(self.generate, inputs=set(widgets.inputs), **watching)
        widgets.cancel.click(self.cancel, inputs=widgets.job_id, queue=False, **quiet)
        widgets.job_id.change(None, inputs=widgets.job_id, js=REMEMBER, **quiet)
        resumed = self.studio.page.load(self.resume, inputs=widgets.job_id, js=RECALL, **watching)
        widgets.dice.click(None, outputs=widgets.options["seed"], js=DICE, **quiet)
        widgets.other_portrait.upload(self.show_portrait, widgets.other_portrait, widgets.portrait, **loading)
        widgets.other_voice.upload(self.show_voice, widgets.other_voice, widgets.voice, **loading)
        sources = [widgets.portrait, widgets.voice]
        shown: dict[str, Any] = watching | {"outputs": [*sources, *widgets.outputs]}
        shown_example = widgets.examples.click(self.example, inputs={widgets.examples, *widgets.inputs}, **shown)
        for watched in (generated, resumed, shown_example):
            self.studio.rejoin(watched)
        outputs = [*widgets.inputs, widgets.advanced]
        self.studio.offer_form(KIND, outputs, self.fill, title="kind")

    def generate(self, values: dict[Any, Any], visitor: gr.Request) -> Iterator[dict[Any, Any]]:
        with self.studio.guard(visitor), self.turn(visitor) as turn:
            yield from self.run(values, visitor, turn) if turn else self.refuse(visitor)

    def example(self, values: dict[Any, Any], visitor: gr.Request) -> Iterator[dict[Any, Any]]:
        """Show an example's portrait and voice, and make the video of them with the options as they are."""
        with self.studio.guard(visitor), self.turn(visitor) as turn:
            if not turn:
                yield from self.refuse(visitor)
                return
            # Stored like an upload: the job goes on after a restart, and its settings can be used again.
            files = [self.studio.artifacts.upload(Path(path)) for path in example_pairs(EXAMPLES)[values[self.widgets.examples]]]
            portrait, voice = (str(self.studio.hand_out(file)) for file in files)
            sources = {self.widgets.portrait: portrait, self.widgets.voice: voice}
            # As updates: a bare file's value would be overwritten in the browser by the differences that the later yields send.
            yield {widget: gr.update(value=path) for widget, path in sources.items()}
            yield from self.run(values | sources, visitor, turn)

    @contextmanager
    def turn(self, visitor: gr.Request, *, looks_on: bool = False) -> Iterator[Turn | None]:
        """The right to flow to the visitor's page, to the end of the block; None while another has it that does not look on."""
        session, mine = visitor.session_hash, Turn(looks_on)
        with self.taking:  # two clicks at once cannot both be first
            holder = self.turns.get(session)
            free = holder is None or holder.looks_on
            if free:
                self.turns[session] = mine
        try:
            yield mine if free else None
        finally:
            with self.taking:
                if self.turns.get(session) is mine:
                    del self.turns[session]

    def refuse(self, visitor: gr.Request) -> Iterator[dict[Any, Any]]:
        self.studio.tell(self.studio.say("busy", visitor))
        yield {self.widgets.card: gr.skip()}  # Gradio empties every output of a generator that yields nothing

    def run(self, values: dict[Any, Any], visitor: gr.Request, turn: Turn) -> Iterator[dict[Any, Any]]:
        job = self.studio.service.submit(KIND, _request(self.studio, self.widgets, values, visitor))
        yield from self.watch(job.id, visitor, turn)

    def resume(self, job_id: str, visitor: gr.Request) -> Iterator[dict[Any, Any]]:
        """The job that this browser tab knew before it was reloaded; a new one shows what is being made, if anything is."""
        with self.studio.guard(visitor), self.turn(visitor, looks_on=True) as turn:
            known = job_id if job_id and _is_known(self.studio, job_id) else _in_the_making(self.studio)
            if not turn:
                yield from self.refuse(visitor)
            elif known:
                yield from self.watch(known, visitor, turn)
            else:
                yield {self.widgets.card: f'<p class="hint">{self.studio.say("hint", visitor)}</p>'}

    def watch(self, job_id: str, visitor: gr.Request, turn: Turn) -> Iterator[dict[Any, Any]]:
        for job in self.studio.follow(job_id, visitor):
            if self.turns.get(visitor.session_hash) is not turn:
                return
            yield _view(self.studio, self.widgets, job, visitor, turn)
        if job.state is JobState.CANCELLED:
            self.studio.tell(self.studio.say("stopped_partial" if job.result else "stopped", visitor))

    def cancel(self, job_id: str, visitor: gr.Request) -> None:
        with self.studio.guard(visitor):
            self.studio.service.cancel(job_id)

    def show_portrait(self, path: str, visitor: gr.Request) -> str:
        with self.studio.guard(visitor):
            return str(_shown_picture(self.studio, self.studio.artifacts.upload(Path(path))))

    def show_voice(self, path: str, visitor: gr.Request) -> str:
        with self.studio.guard(visitor):
            return str(_stand_in(self.studio, self.studio.artifacts.upload(Path(path))))

    def fill(self, request: dict[str, Any], visitor: gr.Request) -> dict[Any, Any]:
        """The form with these settings; a portrait or voice that is not among them is left for the visitor to choose."""
        widgets, get = self.widgets, self.studio.artifacts.get
        portrait = voice = None
        if "voice" in request:
            voice = str(_stand_in(self.studio, get(request["voice"])))
        if "portrait" in request:
            try:
                portrait = str(_shown_picture(self.studio, get(request["portrait"])))
            except MediaError as error:  # the reason for which a job failed
                self.studio.tell(self.studio.told(str(error), visitor), warning=True)
        options = {widget: "" if request[name] is None else request[name] for name, widget in widgets.options.items()}
        return {widgets.portrait: portrait, widgets.voice: voice, widgets.advanced: gr.update(open=True), **options}


def _request(studio: Studio, widgets: Widgets, values: dict[Any, Any], visitor: gr.Request) -> dict[str, Any]:
    """The request as the visitor filled it in. Raises InvalidRequest when portrait or voice is missing."""
    for source, sentence in ((widgets.portrait, "no_portrait"), (widgets.voice, "no_voice")):
        if not values[source]:
            raise InvalidRequest(studio.say(sentence, visitor))
    given = {name: values[widget] for name, widget in widgets.options.items() if values[widget] not in (None, "")}
    portrait, voice = _original(studio, values[widgets.portrait]), _original(studio, values[widgets.voice])
    return given | {"portrait": portrait.id, "voice": voice.id}


def _original(studio: Studio, path: str) -> Artifact:
    """The file behind what an input shows: a stand-in bears the id of its original as its name."""
    try:
        return studio.artifacts.get(Path(path).stem)
    except InvalidRequest:
        return studio.artifacts.upload(Path(path))


def _shown_picture(studio: Studio, artifact: Artifact) -> Path:
    """A stand-in that every browser can show, for HEIC, a video's first frame and the like."""
    from PIL import Image

    picture = read_picture(artifact.path, PREVIEW_SIDE)
    path = studio.scratch(f"{artifact.id}.jpg")
    Image.fromarray(picture.rgb).save(path, quality=90)
    return path


def _stand_in(studio: Studio, artifact: Artifact) -> Path:
    """The same file under its id, by which `_original` knows it again."""
    return studio.hand_out(replace(artifact, name=f"{artifact.id}{artifact.path.suffix}"))


def _is_known(studio: Studio, job_id: str) -> bool:
    try:
        studio.service.get(job_id)
    except InvalidRequest:
        return False
    return True


def _in_the_making(studio: Studio) -> str | None:
    """The video that is being made, the newest of several; when none is, the newest that waits."""
    unfinished = [job for job in studio.service.jobs() if job.kind == KIND and not job.state.finished]
    newest = max(unfinished, key=lambda job: (job.state is JobState.RUNNING, job.created), default=None)
    return newest and newest.id


def _view(studio: Studio, widgets: Widgets, job: Job, visitor: gr.Request, turn: Turn) -> dict[Any, Any]:
    """What the page shows of a job."""
    running = not job.state.finished
    # A file that was removed by hand is not among the artifacts.
    video = str(studio.hand_out(job.result.artifacts[0])) if job.result and job.result.artifacts else None
    return {
        widgets.job_id: job.id,
        widgets.card: studio.card(job, visitor),
        widgets.generate: gr.update(interactive=turn.looks_on or not running),
        widgets.cancel: gr.update(interactive=running),
        widgets.video: gr.update(value=video, visible=video is not None),
        widgets.download: gr.update(value=video, visible=video is not None),
        widgets.used: _used(studio, job, visitor),
        widgets.used_box: gr.update(visible=video is not None),
    }


def _used(studio: Studio, job: Job, visitor: gr.Request) -> str:
    """The table of how the video was made."""
    if job.result is None or not job.result.artifacts:
        return ""
    data, options = job.result.data, job.request.model_dump()
    shown = {
        "field_engine": data["engine"],
        "used_engine_reason": studio.told(data["engine_reason"], visitor),
        "field_preprocess": studio.say(f"value_preprocess_{options['preprocess']}", visitor),
        "field_still": _yes_or_no(studio, options["still"], visitor),
        "field_pose_style": options["pose_style"],
        "field_expression_scale": f"{options['expression_scale']:g}",
        "field_blink": _yes_or_no(studio, options["blink"], visitor),
        "field_size": options["size"],
        "field_face": options["face"],
        "field_seed": data["seed"],
        "used_video_size": " × ".join(str(side) for side in data["size"]),
        "used_frames": data["frames"],
        "field_fps": f"{data['fps']:g}",
        "used_seconds": _seconds(studio, data["seconds"], visitor),
        "used_file": job.result.artifacts[0].name,
    }
    rows = {studio.say(key, visitor): value for key, value in shown.items() if value is not None}
    return studio.facts(rows, job.warnings)


def _seconds(studio: Studio, seconds: dict[str, float], visitor: gr.Request) -> str:
    known = {key: seconds.get(key.removeprefix("used_seconds_")) for key in STAGES}
    return ", ".join(f"{studio.say(key, visitor)} {value:.1f}" for key, value in known.items() if value is not None)


def _yes_or_no(studio: Studio, choice: bool, visitor: gr.Request) -> str:
    return studio.say("yes", visitor) if choice else studio.say("no", visitor)
