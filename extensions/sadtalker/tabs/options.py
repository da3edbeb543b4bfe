"""The options of the SadTalker tab: widgets for the request's fields in groups, as a request and back; what can be chosen."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from html import escape
from typing import Any

import gradio as gr

from extensions.sadtalker.engines import choice
from extensions.sadtalker.engines.choice import Choice
from extensions.sadtalker.jobs import NONE, WHOLE, TalkingHeadRequest
from webui.plugin_api import GalateaError, Studio, restore, upscale

PLAIN = ("preprocess", "still", "pose_style", "expression_scale")
VIEW = ("yaw", "pitch", "roll")
REFERENCES = ("reference_blink", "reference_pose")
ROWS = (("engine", "size"), ("accuracy", "batch_size"), ("fps", "face"))
"""Of what is seldom changed, side by side where there is room."""
ENGINES = ("value_engine_auto", "value_engine_builtin", "value_engine_sadtalker")
FRAMINGS = (
    "value_preprocess_crop", "value_preprocess_extcrop", "value_preprocess_resize", "value_preprocess_full",
    "value_preprocess_extfull",
)  # fmt: skip
ACCURACIES = ("value_accuracy_fast", "value_accuracy_exact")

Updates = dict[Any, Any]


@dataclass(frozen=True)
class Options:
    """fields: the widgets by the request's field that they hold. note: says what will draw the face; unusable: which enhancers
    cannot be used.
    """

    studio: Studio
    fields: dict[str, Any]
    folds: tuple[gr.Accordion, ...]
    dice: gr.Button
    note: gr.HTML
    unusable: gr.HTML

    @property
    def drawing(self) -> list[Any]:
        """What `tell_engine` reads: it decides who draws the face, and with which files."""
        return [self.fields[name] for name in ("engine", "size", "preprocess")]

    @property
    def listed(self) -> list[Any]:
        """What `list_files` fills."""
        return [self.fields["enhancer"], self.fields["background_enhancer"], self.unusable]

    def asked(self, values: Mapping[Any, Any]) -> dict[str, Any]:
        """The fields as they are filled in."""
        given = {name: values[widget] for name, widget in self.fields.items() if values[widget] not in (None, "")}
        return given | {name: self.studio.original(given[name]).id for name in REFERENCES if name in given}

    def filled(self, request: Mapping[str, Any]) -> Updates:
        """The widgets with these settings; what is folded away is opened, so that all of them are seen."""
        shown = {name: "" if request[name] is None else request[name] for name in self.fields if name not in REFERENCES}
        get = self.studio.artifacts.get
        for name in REFERENCES:
            shown[name] = str(self.studio.stand_in(get(request[name]))) if request.get(name) else None
        updates: Updates = {self.fields[name]: value for name, value in shown.items()}
        return updates | {fold: gr.update(open=True) for fold in self.folds}

    def list_files(self, visitor: gr.Request) -> list[Any]:
        """The enhancers that there are now, and which files cannot be used."""
        with self.studio.guard(visitor):
            settings = self.studio.settings
            where = settings.models_dir, settings.allow_pickles
            none = (self.studio.say("none", visitor), NONE)
            faces = [] if settings.lite else restore.choices(where[0], allow_pickles=where[1])
            larger = [] if settings.lite else upscale.choices(where[0], allow_pickles=where[1])
            names = [[none, *((one.stem, one.stem) for one in entries if not one.problem)] for entries in (faces, larger)]
            problems = [self.studio.told(one.problem, visitor) for one in (*faces, *larger) if one.problem]
            return [*(gr.update(choices=one) for one in names), self._listed(problems, visitor)]

    def _listed(self, problems: list[str], visitor: gr.Request) -> str:
        if not problems:
            return ""
        title, lines = self.studio.say("unusable", visitor), "".join(f"<li>{escape(problem)}</li>" for problem in problems)
        return f"<details><summary>{escape(title)}</summary><ul>{lines}</ul></details>"

    def tell_engine(self, engine: str, size: int, preprocess: str, visitor: gr.Request) -> str:
        """HTML: what will draw the face and why, and with which files; or what is wrong with them."""
        with self.studio.guard(visitor):
            try:
                chosen = choice.choose(engine, self.studio.settings, int(size))
            except GalateaError as error:
                return f"<p><strong>{escape(self.studio.told(str(error), visitor))}</strong></p>"
            said = self.studio.say(f"draws_{chosen.name}", visitor, reason=self.studio.told(chosen.reason, visitor).rstrip(".。"))
            files = ", ".join(_names(chosen, full=preprocess in WHOLE))
            listed = self.studio.say("draws_with", visitor, files=files) if files else ""
            return "".join(f"<p>{escape(line)}</p>" for line in (said, listed) if line)


def _names(chosen: Choice, *, full: bool) -> list[str]:
    return [path.name for path in chosen.checkpoint.used(full=full)] if chosen.checkpoint else []


def build(studio: Studio) -> Options:
    note = gr.HTML(elem_id="sadtalker-engine-note", elem_classes="flush picture-note")
    with gr.Group():
        fields = studio.widgets(TalkingHeadRequest, PLAIN)
    with gr.Accordion(studio.text("movement"), open=False, elem_id="sadtalker-movement") as movement:
        fields |= studio.widgets(TalkingHeadRequest, ("blink", "idle"))
        with gr.Row(equal_height=False):
            for name in REFERENCES:
                fields[name] = gr.Video(
                    label=studio.text(f"field_{name}"), sources=["upload"], height=200, buttons=[],
                    elem_id=f"field-sadtalker-{name.replace('_', '-')}",
                )  # fmt: skip
        gr.HTML(studio.text("help_references"), elem_classes="flush picture-note")
        with gr.Row():
            fields |= studio.widgets(TalkingHeadRequest, VIEW)
        gr.HTML(studio.text("help_view"), elem_classes="flush picture-note")
    with gr.Accordion(studio.text("finer"), open=False, elem_id="sadtalker-finer") as finer:
        fields["enhancer"] = _files(studio, "enhancer")
        fields |= studio.widgets(TalkingHeadRequest, ("enhancer_strength",))
        fields["background_enhancer"] = _files(studio, "background_enhancer")
        fields |= studio.widgets(TalkingHeadRequest, ("upscale",))
        unusable = gr.HTML(elem_id="sadtalker-unusable", elem_classes="flush picture-note")
    with gr.Accordion(studio.text("advanced"), open=False, elem_id="sadtalker-advanced") as advanced:
        for names in ROWS:
            with gr.Row(equal_height=False):
                fields |= studio.widgets(TalkingHeadRequest, names)
        with gr.Row(equal_height=False, elem_classes="picture-row"):
            fields |= studio.widgets(TalkingHeadRequest, ("seed",))
            dice = gr.Button(
                studio.text("dice"), size="sm", min_width=86, scale=0, elem_id="sadtalker-dice", elem_classes="picture-button"
            )
        fields |= studio.widgets(TalkingHeadRequest, ("show_landmarks",))
    for name, labels in (("preprocess", FRAMINGS), ("engine", ENGINES), ("accuracy", ACCURACIES)):
        fields[name].choices = [(studio.text(key), key.removeprefix(f"value_{name}_")) for key in labels]
    return Options(studio, fields, (movement, finer, advanced), dice, note, unusable)


def _files(studio: Studio, name: str) -> gr.Dropdown:
    return gr.Dropdown(
        [(studio.text("none"), NONE)], value=NONE, allow_custom_value=True, label=studio.text(f"field_{name}"),
        info=studio.text(f"help_{name}"), elem_id=f"field-sadtalker-{name.replace('_', '-')}",
    )  # fmt: skip
