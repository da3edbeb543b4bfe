"""The tab for pictures from words."""

from __future__ import annotations

from typing import Any

import gradio as gr

from webui.builtin.kinds import Txt2ImgRequest
from webui.builtin.tabs import plot, results
from webui.builtin.tabs.common import Form
from webui.plugin_api import Studio

KIND = "txt2img"


def build(studio: Studio) -> None:
    """Called once, inside a gr.Tab."""
    form = Form(studio, KIND, Txt2ImgRequest)
    with gr.Row(elem_id=KIND, elem_classes="picture-tab"):
        with gr.Column(scale=6, min_width=320, elem_classes="picture-form"):
            with gr.Column(elem_classes="picture-words"):
                form.model()
                form.words()
            with gr.Column(elem_classes="picture-settings"):
                form.sampling()
                form.size()
                form.seeds()
                form.hires()
                form.more()
                plots = plot.accordion(studio, KIND)
                studio.drop_zone()
        with gr.Column(scale=5, min_width=320, elem_classes="picture-result"):
            start = gr.Column()
            made = results.build(studio, KIND)
    with start:
        panel = studio.run_panel(KIND, outputs=made.outputs, show=made.show, skip=True)
    form.connect(made.seed)

    def ask(values: dict[Any, Any], _visitor: gr.Request) -> tuple[str, dict[str, Any]]:
        return plots.asked(KIND, form.asked(values), values)

    def fill(request: dict[str, Any], visitor: gr.Request) -> dict[Any, Any]:
        return {**form.filled(request, visitor), **plots.filled(request)}

    panel.connect([*form.inputs, *plots.inputs], ask, kinds=(KIND, plot.KIND))
    studio.offer_form(KIND, [*form.outputs, *plots.outputs], fill, title="kind_txt2img")
    studio.offer_form(
        plot.KIND, [*form.outputs, *plots.outputs], fill, title="kind_plot", takes=lambda request: not request.get("image")
    )
