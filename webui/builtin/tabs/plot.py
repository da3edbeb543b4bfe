"""The accordion of a tab that makes a plot of what the tab's form asks for: three axes with their values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, get_args

import gradio as gr

from webui.builtin.axes import AXES, NOTHING, AxisName
from webui.builtin.kinds import PlotRequest
from webui.plugin_api import Studio

KIND = "plot"


@dataclass(frozen=True)
class Plot:
    """The accordion, and its widgets by the request's field that they hold."""

    box: gr.Accordion
    options: dict[str, Any]

    @property
    def inputs(self) -> list[Any]:
        """What `asked` reads."""
        return list(self.options.values())

    @property
    def outputs(self) -> list[Any]:
        """What `filled` may change."""
        return [*self.inputs, self.box]

    def asked(self, kind: str, fields: dict[str, Any], values: Mapping[Any, Any]) -> tuple[str, dict[str, Any]]:
        """The kind and fields of the job to start: a plot of what the form asks for once there is an axis, else that itself."""
        chosen = {name: values[widget] for name, widget in self.options.items()}
        if all(chosen[f"{axis}_axis"] == NOTHING for axis in AXES):
            return kind, fields
        return KIND, {name: value for name, value in fields.items() if name in PlotRequest.model_fields} | chosen

    def filled(self, request: Mapping[str, Any]) -> dict[Any, Any]:
        """The accordion with the axes of this request; empty for one of another kind."""
        rules = PlotRequest.model_fields
        shown = {name: request.get(name, rules[name].default) for name in self.options}
        is_open = any(shown[f"{axis}_axis"] != NOTHING for axis in AXES)
        return {self.options[name]: value for name, value in shown.items()} | {self.box: gr.update(open=is_open)}


def accordion(studio: Studio, tab: str) -> Plot:
    """Built where it is called. tab: begins the ids of its widgets."""
    names = [(studio.text(f"plot_axis_{_slug(name)}"), name) for name in get_args(AxisName)]
    options: dict[str, Any] = {}
    with gr.Accordion(studio.text("plot_box"), open=False, elem_id=f"{tab}-plot-box") as box:
        for axis in AXES:
            with gr.Row(equal_height=False):
                options[f"{axis}_axis"] = gr.Dropdown(
                    names, value=NOTHING, label=studio.text(f"plot_{axis}_axis"), info=studio.text(f"plot_help_{axis}"),
                    filterable=False, min_width=150, scale=1, elem_id=f"field-{tab}-{axis}-axis",
                )  # fmt: skip
                options[f"{axis}_values"] = gr.Textbox(
                    label=studio.text("plot_values"), info=studio.text("plot_help_values"), max_lines=2, min_width=200, scale=2,
                    elem_id=f"field-{tab}-{axis}-values",
                )  # fmt: skip
        options["legend"] = gr.Checkbox(
            True, label=studio.text("plot_legend"), info=studio.text("plot_help_legend"), elem_id=f"field-{tab}-legend"
        )
    return Plot(box, options)


def _slug(name: str) -> str:
    return name.lower().replace("/", "").replace(" ", "_")
