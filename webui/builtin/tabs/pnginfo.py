"""PNG info: drop a picture, see what it was made with, use its settings again or send it on. Makes no picture.

Reads what A1111 writes and what is written here, in PNG, JPEG and WebP; the picture's file stays as it is.
"""

from __future__ import annotations

from html import escape
from typing import Any

import gradio as gr

from webui.builtin.save import kind_of
from webui.imaging import infotext
from webui.plugin_api import Artifact, Studio

_QUIET: dict[str, Any] = {"api_visibility": "private", "show_progress": "hidden"}


def build(studio: Studio) -> None:
    """Called once, inside a gr.Tab."""
    with gr.Row(elem_id="pnginfo", equal_height=False):
        with gr.Column(scale=4, min_width=280):
            picture = studio.picture_input(
                studio.text("pnginfo_picture"), sources=["upload", "clipboard"], height=380, elem_id="pnginfo-picture"
            )
            use = gr.Button(studio.text("pnginfo_use"), variant="primary", visible=False, elem_id="pnginfo-use")
            artifact_id = gr.Textbox("", visible="hidden", elem_id="pnginfo-artifact")
            studio.send_row(artifact_id)
        with gr.Column(scale=6, min_width=280):
            facts = gr.HTML(elem_id="pnginfo-facts", elem_classes="flush")
            text = gr.Textbox(
                label=studio.text("pnginfo_text"), lines=4, max_lines=16, interactive=False, visible=False, buttons=["copy"],
                elem_id="pnginfo-text",
            )  # fmt: skip

    def look(path: str | None, visitor: gr.Request) -> dict[Any, Any]:
        with studio.guard(visitor):
            found = (infotext.extract(path) if path else None) or ""
            return {
                artifact_id: studio.original(path).id if path else "",
                facts: _facts(studio, path, found, visitor),
                text: gr.update(value=found, visible=bool(found)),
                use: gr.update(visible=kind_of(infotext.read(found)) is not None),
            }

    def take(artifact: Artifact, _visitor: gr.Request) -> dict[Any, Any]:
        return {picture: str(studio.stand_in(artifact))}

    shown = [artifact_id, facts, text, use]
    picture.change(look, inputs=picture, outputs=shown, concurrency_limit=4, **_QUIET)
    studio.page.load(look, inputs=picture, outputs=shown, queue=False, **_QUIET)
    studio.use_settings(use.click, picture)
    studio.accept_picture("send_pnginfo", [picture], take)


def _facts(studio: Studio, path: str | None, text: str, visitor: gr.Request) -> str:
    """Prompts and facts in a table, or the sentence that there are none."""
    processed = (infotext.postprocessing(path) if path else None) or ""
    if not text and not processed:
        key = "pnginfo_none" if path else "pnginfo_hint"
        return f'<p class="hint">{escape(studio.say(key, visitor))}</p>'
    found = infotext.read(text)
    prompts = {"field_prompt": found.prompt, "field_negative": found.negative_prompt}
    rows = {studio.say(key, visitor): words for key, words in prompts.items() if words}
    done = {studio.say("used_postprocessing", visitor): processed} if processed and processed not in text else {}
    return studio.facts(rows | found.facts | done)
