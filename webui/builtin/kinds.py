"""The kinds of job that make pictures: their requests and how they are begun. Imports nothing heavy.

What can be asked for, with bounds and defaults, stands in webui.imaging.requests; here the files are added that it is done to.
"""

from __future__ import annotations

import importlib.util
import time
from functools import partial
from typing import TYPE_CHECKING

from pydantic import ConfigDict, Field, model_validator

from webui import devices
from webui.builtin.axes import AXES, AxisName, Cell, Value, cells
from webui.builtin.save import recall
from webui.imaging.requests import MAX_PROMPT, Hires, Img2Img, Inpaint, OnePicture, ResizeMode, Txt2Img
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


class PlotRequest(Hires, OnePicture):
    """Many pictures that differ in one, two or three settings, side by side."""

    model_config = ConfigDict(allow_inf_nan=False)

    image: ArtifactId | None = Field(None, description="Artifact id of a picture to begin with; none when empty.")
    resize: ResizeMode = Field("stretch", description="What to do when the picture has another shape than asked for.")
    x_axis: AxisName = Field("Nothing", description="What differs from column to column.")
    x_values: str = Field("", max_length=MAX_PROMPT, description="Its values, such as 1, 2, 3 or 10-30 (+5) or 1-10 [4].")
    y_axis: AxisName = Field("Nothing", description="What differs from row to row.")
    y_values: str = Field("", max_length=MAX_PROMPT, description="Its values.")
    z_axis: AxisName = Field("Nothing", description="What differs from sheet to sheet.")
    z_values: str = Field("", max_length=MAX_PROMPT, description="Its values.")
    legend: bool = Field(True, description="Write the values beside rows and columns.")

    @model_validator(mode="after")
    def _can_be_drawn(self) -> PlotRequest:
        plot_cells(self)
        return self


PLOT_ONLY = {"image", "resize", "legend", *(f"{axis}_{part}" for axis in AXES for part in ("axis", "values"))}


def plot_cells(request: PlotRequest, seed: int = 0) -> tuple[dict[str, list[Value]], list[Cell]]:
    """The values on each axis, and the cells row by row. seed: of the job. Raises ValueError in words.

    A seed of -1 stands for the job's own; the second on its axis for the next one, and so on.
    """
    base = request.model_dump(exclude=PLOT_ONLY) | {"seed": seed}
    lines, found = cells(request, base)
    varied = {getattr(request, f"{axis}_axis") for axis in AXES}
    second = sorted(name for name in varied if name.startswith("Hires"))
    if second and (request.image or not request.hires):
        raise ValueError(f"{second[0]} changes nothing without hires. Switch that on, or choose another axis")
    if "Denoising strength" in varied and not (request.image or request.hires):
        raise ValueError("Denoising strength changes nothing here. Give a picture to begin with, or switch hires on")
    if request.image and request.hires:
        raise ValueError("hires is for pictures from words alone. Leave the picture out, or hires")
    return lines, found


def draw(ctx: JobContext, request: Txt2ImgRequest | Img2ImgRequest | InpaintRequest) -> JobResult:
    """Make the pictures. Heavy modules are imported here, when the first job runs."""
    started = time.perf_counter()
    if ctx.settings.lite:
        raise InvalidRequest(LITE)
    from webui.builtin.draw import run

    return run(ctx, request, started)


def plot(ctx: JobContext, request: PlotRequest) -> JobResult:
    """Make a plot."""
    if ctx.settings.lite:
        raise InvalidRequest(LITE)
    from webui.builtin.plot import run

    return run(ctx, request)


def warm_up() -> None:
    """Import what the first picture needs, unless this is the small installation."""
    if importlib.util.find_spec("torch") is not None:
        from webui.builtin.studio import warm_up

        warm_up()


KINDS = tuple(
    JobKind(
        name=name, title=title, request=request, handler=handler, suffix=".{format}", recall=partial(recall, name, request),
        positional=("prompt",), skippable=True, warm_up=warm_up, loaded=devices.loaded, machine=devices.machine,
        unload=devices.unload,
    )
    for name, title, request, handler in (
        ("txt2img", "Picture from words", Txt2ImgRequest, draw),
        ("img2img", "Picture from a picture", Img2ImgRequest, draw),
        ("inpaint", "Part of a picture made anew", InpaintRequest, draw),
        ("plot", "X/Y/Z plot", PlotRequest, plot),
    )
)  # fmt: skip
