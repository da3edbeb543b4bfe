"""The kinds of job that make pictures: their requests and how they are begun. Imports nothing heavy.

What can be asked for, with bounds and defaults, stands in webui.imaging.requests; here the files are added that it is done to.
"""

from __future__ import annotations

import time
from functools import partial
from typing import TYPE_CHECKING

from pydantic import ConfigDict, Field

from webui.builtin.save import recall
from webui.imaging.requests import Img2Img, Inpaint, Txt2Img
from webui.plugin_api import ArtifactId, InvalidRequest, JobKind

if TYPE_CHECKING:
    from webui.plugin_api import JobContext, JobResult

LITE = "Pictures need the full installation, and this is the small one. Run ./launch.sh --full to complete it (about 7 GB)."


class Txt2ImgRequest(Txt2Img):
    """A picture from words alone."""

    model_config = ConfigDict(allow_inf_nan=False)


class Img2ImgRequest(Img2Img):
    """A picture from words and another picture."""

    model_config = ConfigDict(allow_inf_nan=False)

    image: ArtifactId = Field(description="Artifact id of a picture to begin with (or of a video: its first frame is taken).")


class InpaintRequest(Inpaint):
    """A part of a picture made anew."""

    model_config = ConfigDict(allow_inf_nan=False)

    image: ArtifactId = Field(description="Artifact id of a picture to change (or of a video: its first frame is taken).")
    mask: ArtifactId = Field(
        description="Artifact id of a picture that is white where to paint anew; of one with transparency, what is opaque counts."
    )


def draw(ctx: JobContext, request: Txt2ImgRequest | Img2ImgRequest | InpaintRequest) -> JobResult:
    """Make the pictures. Heavy modules are imported here, when the first job runs."""
    started = time.perf_counter()
    if ctx.settings.lite:
        raise InvalidRequest(LITE)
    from webui.builtin.draw import run

    return run(ctx, request, started)


KINDS = tuple(
    JobKind(
        name=name, title=title, request=request, handler=draw, suffix=".png", recall=partial(recall, name, request),
        positional=("prompt",),
    )
    for name, title, request in (
        ("txt2img", "Picture from words", Txt2ImgRequest),
        ("img2img", "Picture from a picture", Img2ImgRequest),
        ("inpaint", "Part of a picture made anew", InpaintRequest),
    )
)  # fmt: skip
