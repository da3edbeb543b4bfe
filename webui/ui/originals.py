"""Files that visitors give, as they were given, and what the page shows in their place.

A browser cannot show every picture, and Gradio's own inputs convert what they get. So an input here shows a stand-in that bears
its original's id as its name, by which the original is found again.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import gradio as gr

from webui.errors import InvalidRequest
from webui.pictures import read_picture

if TYPE_CHECKING:
    from webui.artifacts import Artifact
    from webui.ui.studio import TabStudio

PREVIEW_SIDE = 1024
"""Longest side in pixels of a picture's stand-in."""


class OriginalImage(gr.Image):
    """An image input that hands on the file as it was given. Gradio's own opens it first: it refuses HEIC, and its
    message about a broken file is not for users."""

    is_template = True  # Gradio's word for: shown by the parent's front end

    def preprocess(self, payload: Any) -> Any:
        if payload is None or (payload.url or "").startswith("data:"):
            return super().preprocess(payload)
        return payload.path


def picture_input(label: Any, **more: Any) -> OriginalImage:
    """more: further arguments of gr.Image."""
    plain: dict[str, Any] = {"sources": ["upload", "webcam", "clipboard"], "height": 300, "buttons": []}
    return OriginalImage(label=label, type="filepath", image_mode=None, **plain | more)


def original(studio: TabStudio, path: str) -> Artifact:
    """The file behind what an input shows; one that a visitor gave is taken in."""
    try:
        return studio.artifacts.get(Path(path).stem)
    except InvalidRequest:
        return studio.artifacts.upload(Path(path))


def stand_in(studio: TabStudio, artifact: Artifact) -> Path:
    """The same file under its id."""
    return studio.hand_out(replace(artifact, name=f"{artifact.id}{artifact.path.suffix}"))


def shown_picture(studio: TabStudio, artifact: Artifact) -> Path:
    """A small picture that every browser can show. Raises MediaError."""
    from PIL import Image

    picture = read_picture(artifact.path, PREVIEW_SIDE)
    path = studio.scratch(f"{artifact.id}.jpg")
    Image.fromarray(picture.rgb).save(path, quality=90)
    return path
