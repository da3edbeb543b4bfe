"""The options of the SadTalker tab: widgets for the request's fields in groups, as a request and back; what can be chosen."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from html import escape
from typing import Any

import gradio as gr

from extensions.sadtalker.engines import choice
from extensions.sadtalker.jobs import NONE, TalkingHeadRequest
from webui.plugin_api import Studio, restore, upscale

PLAIN = ("preprocess", "still", "pose_style", "expression_scale")
VIEW = ("yaw", "pitch", "roll")
REFERENCES = ("reference_blink", "reference_pose")
ENGINE = ("engine", "size", "blink", "fps", "seed", "face")
NETWORKS = ("accuracy", "batch_size", "show_landmarks")
FRAMINGS = (
    "value_preprocess_crop", "value_preprocess_extcrop", "value_preprocess_resize", "value_preprocess_full",
    "value_preprocess_extfull",
)  # fmt: skip
ACCURACIES = ("value_accuracy_fast", "value_accuracy_exact")

Updates = dict[Any, Any]


@dataclass(frozen=True)
class Options:
    """fields: the widgets by the request's field that they hold. references: those of them that hold a video's path."""

    studio: Studio
    fields: dict[str, Any]
    folds: tuple[gr.Accordion, ...]
    dice: gr.Button
    note: gr.HTML

    @property
    def listed(self) -> list[Any]:
        """What `list_files` fills."""
        return [self.fields["enhancer"], self.fields["background_enhancer"], self.note]

    def asked(self, values: Mapping[Any, Any]) -> dict[str, Any]:
        """The fields as they are filled in."""
        given = {name: values[widget] for name, widget in self.fields.items() if values[widget] not in (None, "")}
        return given | {name: self.studio.original(given[name]).id for name in REFERENCES if name in given}

    def filled(self, request: Mapping[str, Any]) -> Updates:
        """The widgets with these settings; what is folded away is opened where something of it is in use."""
        shown = {name: "" if request[name] is None else request[name] for name in self.fields if name not in REFERENCES}
        get = self.studio.artifacts.get
        for name in REFERENCES:
            shown[name] = str(self.studio.stand_in(get(request[name]))) if request.get(name) else None
        updates: Updates = {self.fields[name]: value for name, value in shown.items()}
        return updates | {fold: gr.update(open=True) for fold in self.folds}

    def list_files(self, size: int, visitor: gr.Request) -> list[Any]:
        """The enhancers that there are now, and what draws the face when the engine is chosen automatically."""
        with self.studio.guard(visitor):
            settings = self.studio.settings
            where = settings.models_dir, settings.allow_pickles
            none = (self.studio.say("none", visitor), NONE)
            faces = [] if settings.lite else restore.choices(where[0], allow_pickles=where[1])
            larger = [] if settings.lite else upscale.choices(where[0], allow_pickles=where[1])
            names = [[none, *((one.stem, one.stem) for one in entries if not one.problem)] for entries in (faces, larger)]
            return [*(gr.update(choices=one) for one in names), self._engine(int(size), visitor)]

    def _engine(self, size: int, visitor: gr.Request) -> str:
        chosen = choice.choose("auto", self.studio.settings, size)
        said = self.studio.say(f"auto_{chosen.name}", visitor, reason=self.studio.told(chosen.reason, visitor))
        files = "" if chosen.checkpoint is None else ", ".join(path.name for path in chosen.checkpoint.paths)
        return "".join(f"<p>{escape(line)}</p>" for line in (said, files) if line)


def build(studio: Studio) -> Options:
    with gr.Group():
        fields = studio.widgets(TalkingHeadRequest, PLAIN)
    with gr.Accordion(studio.text("movement"), open=False, elem_id="sadtalker-movement") as movement:
        fields |= studio.widgets(TalkingHeadRequest, ("idle",))
        with gr.Row(equal_height=False):
            for name in REFERENCES:
                fields[name] = gr.Video(
                    label=studio.text(f"field_{name}"), sources=["upload"], height=200, buttons=[],
                    elem_id=f"field-sadtalker-{name.replace('_', '-')}",
                )  # fmt: skip
        gr.HTML(studio.text("help_references"), elem_classes="flush picture-note")
        with gr.Row():
            fields |= studio.widgets(TalkingHeadRequest, VIEW)
    with gr.Accordion(studio.text("finer"), open=False, elem_id="sadtalker-finer") as finer:
        fields["enhancer"] = _files(studio, "enhancer")
        fields |= studio.widgets(TalkingHeadRequest, ("enhancer_strength",))
        fields["background_enhancer"] = _files(studio, "background_enhancer")
        fields |= studio.widgets(TalkingHeadRequest, ("upscale",))
    with gr.Accordion(studio.text("advanced"), open=False, elem_id="sadtalker-advanced") as advanced:
        fields |= studio.widgets(TalkingHeadRequest, ("engine",))
        note = gr.HTML(elem_id="sadtalker-engine-note", elem_classes="flush picture-note")
        fields |= studio.widgets(TalkingHeadRequest, (*ENGINE[1:], *NETWORKS))
        dice = gr.Button(studio.text("dice"), size="sm", elem_id="sadtalker-dice")
    for name, labels in (("preprocess", FRAMINGS), ("accuracy", ACCURACIES)):
        fields[name].choices = [(studio.text(key), key.removeprefix(f"value_{name}_")) for key in labels]
    return Options(studio, fields, (movement, finer, advanced), dice, note)


def _files(studio: Studio, name: str) -> gr.Dropdown:
    return gr.Dropdown(
        [(studio.text("none"), NONE)], value=NONE, allow_custom_value=True, label=studio.text(f"field_{name}"),
        info=studio.text(f"help_{name}"), elem_id=f"field-sadtalker-{name.replace('_', '-')}",
    )  # fmt: skip
