"""Pictures and masks that a visitor gives: uploaded, sketched, drawn over a picture. As artifacts, and as what the page shows.

An input shows a stand-in (webui.plugin_api.Studio.picture_input): the original is what jobs get, at its full size and upright.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

from webui.plugin_api import Artifact, InvalidRequest, MediaError, Studio, read_picture

if TYPE_CHECKING:
    import gradio as gr
    import numpy as np

SKETCH, MASK = "sketch.png", "mask.png"


def drawn(layers: Sequence[np.ndarray], width: int, height: int) -> np.ndarray | None:
    """(height, width) uint8, 255 where anything was drawn on any of the layers, (H, W, 4) RGBA; None when nothing was."""
    import numpy as np
    from PIL import Image

    touched = [layer[..., 3] > 0 for layer in layers]
    if not touched or not any(layer.any() for layer in touched):
        return None
    mask = Image.fromarray(np.logical_or.reduce(touched).astype(np.uint8) * 255)
    return np.asarray(mask.resize((width, height), Image.Resampling.NEAREST))


def mask(studio: Studio, layers: Sequence[np.ndarray], picture: Artifact) -> Artifact | None:
    """What was drawn over a picture's stand-in as a mask of the picture's own size; None when nothing was."""
    height, width = read_picture(picture.path, studio.settings.longest_side).rgb.shape[:2]
    pixels = drawn(layers, width, height)
    return None if pixels is None else _stored(studio, pixels, MASK)


def paper(side: int) -> np.ndarray:
    """A white sheet, (side, side, 3) uint8."""
    import numpy as np

    return np.full((side, side, 3), 255, np.uint8)


def sketch(studio: Studio, sheet: Mapping[str, Any] | None) -> Artifact | None:
    """What was drawn, on white paper or a picture; None when the paper is still white. sheet: an editor's value, in RGBA."""
    from PIL import Image

    # An editor in which nothing was drawn has a background alone.
    drawing = next((sheet[name] for name in ("composite", "background") if sheet and sheet[name] is not None), None)
    if drawing is None:
        return None
    whole = Image.new("RGBA", drawing.shape[1::-1], "white")
    whole.alpha_composite(Image.fromarray(drawing))
    rgb = whole.convert("RGB")
    is_white = all(low == 255 for low, _high in rgb.getextrema())
    return None if is_white else _stored(studio, rgb, SKETCH)


def shown(studio: Studio, artifact: Artifact, visitor: Any) -> str | None:
    """Its stand-in; None, and the reason said, when it is no picture."""
    try:
        return str(studio.shown_picture(artifact))
    except MediaError as error:
        studio.tell(studio.told(str(error), visitor), warning=True)
        return None


def folder(studio: Studio, paths: Sequence[str]) -> tuple[list[Artifact], list[str]]:
    """The pictures among a folder's files, in the order of their names; and the names of the others."""
    pictures, others = [], []
    for path in sorted(map(Path, paths), key=lambda path: path.name.lower()):
        try:
            read_picture(path, 64)
            pictures.append(studio.artifacts.upload(path))
        except (MediaError, InvalidRequest):
            others.append(path.name)
    return pictures, others


def queue_folder(
    studio: Studio, kind: str, asked: Mapping[str, Any], paths: Sequence[str] | None, visitor: gr.Request
) -> str:
    """A job of this kind for each picture among a folder's files, all with what is asked. HTML: what was queued and what was left
    out. Raises InvalidRequest when there is no folder.
    """
    if not paths:
        raise InvalidRequest(studio.say("no_folder", visitor))
    pictures, others = folder(studio, paths)
    for picture in pictures:
        studio.submit(kind, {**asked, "image": picture.id}, visitor)
    said = studio.say("folder_queued", visitor, count=len(pictures))
    if others:
        said += " " + studio.say("folder_left_out", visitor, count=len(others), first=others[0])
    studio.tell(said, warning=not pictures)
    return f'<p class="hint" role="status">{escape(said)}</p>'


def _stored(studio: Studio, picture: Any, name: str) -> Artifact:
    from PIL import Image

    path = studio.scratch(name)
    (picture if isinstance(picture, Image.Image) else Image.fromarray(picture)).save(path)
    return studio.artifacts.upload(path)
