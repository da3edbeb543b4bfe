"""The pictures of a finished job: a gallery, and of the one that is looked at what it was made with, its film strip, its file.

What a picture was made with is read from its file, which is the truth also after others were deleted.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

import gradio as gr

from webui.imaging import infotext
from webui.plugin_api import Artifact, Job, Studio

_STRIP = re.compile(r" steps-[0-9a-f]{16}\.png")
"""How the name of a film strip ends (webui.builtin.draw). A picture's ends in its seed."""

Updates = dict[Any, Any]


@dataclass(frozen=True)
class Results:
    """made: the id of the job that is shown. artifact, seed: of the picture that is looked at. All three are hidden text, so that
    the browser holds them."""

    studio: Studio
    tab: str
    made: gr.Textbox
    artifact: gr.Textbox
    seed: gr.Textbox
    gallery: gr.Gallery
    notes: gr.HTML
    box: gr.Column
    strip: gr.Image
    strip_box: gr.Accordion
    text: gr.Textbox
    download: gr.DownloadButton
    used: gr.HTML

    @property
    def outputs(self) -> list[Any]:
        return [self.made, self.gallery, self.notes, self.used, *self.of_one]

    @property
    def of_one(self) -> list[Any]:
        """What is shown of the picture that is looked at."""
        return [self.artifact, self.seed, self.box, self.strip, self.strip_box, self.text, self.download]

    def show(self, job: Job, visitor: gr.Request) -> Updates:
        """What the tab shows of a job beside its card."""
        artifacts = job.result.artifacts if job.result else ()
        pictures = pictures_of(artifacts)
        shown: list[Any] = [str(self.studio.hand_out(one)) for one in pictures]
        return {
            self.made: job.id,
            self.gallery: gr.update(value=shown, selected_index=0 if shown else None, visible=bool(shown)),
            self.notes: gr.update(value=self.studio.facts({}, job.warnings), visible=bool(shown and job.warnings)),
            self.used: self._used(job, visitor) if shown else "",
            **self._one(artifacts, 0),
        }

    def choose(self, made: str, event: gr.SelectData, visitor: gr.Request) -> Updates:
        """Another picture of the gallery is looked at."""
        with self.studio.guard(visitor):
            result = self.studio.service.get(made).result
            return self._one(result.artifacts if result else (), int(event.index))

    def _one(self, artifacts: tuple[Artifact, ...], index: int) -> Updates:
        pictures, strips = pictures_of(artifacts), strips_of(artifacts)
        if index >= len(pictures):
            return {self.artifact: "", self.seed: "", self.box: gr.update(visible=False)}
        picture = pictures[index]
        strip = strips[index] if len(strips) == len(pictures) else None
        text, path = _text(picture), str(self.studio.hand_out(picture))
        return {
            self.artifact: picture.id,
            self.seed: infotext.read(text).facts.get("Seed", ""),
            self.box: gr.update(visible=True),
            self.strip: strip and str(self.studio.hand_out(strip)),
            self.strip_box: gr.update(visible=strip is not None),
            self.text: text,
            self.download: gr.update(value=path),
        }

    def _used(self, job: Job, visitor: gr.Request) -> str:
        """The table of what the pictures were made with, as far as infotext does not say it."""
        data = job.result.data if job.result else {}
        say = self.studio.say
        shown = {
            "field_model": data.get("model"),
            "used_vae_reason": self.studio.told(data["vae_reason"], visitor) if "vae_reason" in data else None,
            "used_device": " · ".join(str(data[name]) for name in ("device", "precision") if name in data),
            "used_seconds": ", ".join(
                f"{say(f'used_seconds_{name}', visitor)} {data['seconds'][name]:.1f}"
                for name in ("model", "pictures", "total")
                if name in data.get("seconds", {})
            ),
        }
        return self.studio.facts({say(key, visitor): value for key, value in shown.items() if value})


def build(studio: Studio, tab: str) -> Results:
    """Built where it is called; the row of places to send the picture to among it."""
    names = ("made", "artifact", "seed-used")
    made, artifact, seed = (gr.Textbox("", visible="hidden", elem_id=f"{tab}-{name}") for name in names)
    gallery = gr.Gallery(
        show_label=False, visible=False, interactive=False, preview=True, columns=4, object_fit="contain", buttons=["fullscreen"],
        elem_id=f"{tab}-gallery", elem_classes="picture-gallery",
    )  # fmt: skip
    notes = gr.HTML(visible=False, elem_id=f"{tab}-notes", elem_classes="flush picture-warnings")
    with gr.Column(visible=False, elem_id=f"{tab}-picture") as box:
        studio.send_row(artifact)
        with gr.Accordion(studio.text("film_strip"), open=True, visible=False, elem_id=f"{tab}-strip-box") as strip_box:
            strip = gr.Image(
                show_label=False, interactive=False, type="filepath", buttons=["fullscreen"], elem_id=f"{tab}-strip"
            )
        download = gr.DownloadButton(studio.text("download"), size="sm", elem_id=f"{tab}-download")
        text = gr.Textbox(
            label=studio.text("infotext"), info=studio.text("help_infotext"), lines=4, max_lines=14, interactive=False,
            buttons=["copy"], elem_id=f"{tab}-infotext",
        )  # fmt: skip
        with gr.Accordion(studio.text("used"), open=False, elem_id=f"{tab}-used"):
            used = gr.HTML(elem_classes="flush")
    results = Results(studio, tab, made, artifact, seed, gallery, notes, box, strip, strip_box, text, download, used)
    gallery.select(results.choose, made, results.of_one, queue=False, api_visibility="private", show_progress="hidden")
    return results


def pictures_of(artifacts: tuple[Artifact, ...]) -> list[Artifact]:
    return [one for one in artifacts if one.media_type.startswith("image/") and not _STRIP.search(one.name)]


def strips_of(artifacts: tuple[Artifact, ...]) -> list[Artifact]:
    """In the order of the pictures."""
    return [one for one in artifacts if _STRIP.search(one.name)]


def _text(picture: Artifact) -> str:
    try:
        return infotext.extract(picture.path) or ""
    except OSError:  # deleted since
        return ""
