"""The kinds of job that make pictures, or make them better: their requests and how they are begun. Imports nothing heavy.

What can be asked of those that draw, with bounds and defaults, stands in webui.imaging.requests; here the files are added that it
is done to.
"""

from __future__ import annotations

import importlib.util
import re
import time
from functools import partial
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

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


LONGEST_SIDE = 16384


def any_size(written: str) -> tuple[int, int]:
    """ "1920x1080" to (1920, 1080): width, height, of a picture that no model has to draw. Raises ValueError in words."""
    found = re.fullmatch(r"\s*(\d{1,6})\s*[xX×*]\s*(\d{1,6})\s*", written)
    if found is None:
        raise ValueError("must be WIDTHxHEIGHT, such as 1920x1080")
    width, height = int(found[1]), int(found[2])
    for side in (width, height):
        if not 1 <= side <= LONGEST_SIDE:
            raise ValueError(f"must have sides from 1 to {LONGEST_SIDE}, not {side}")
    return width, height


def _checked_size(written: str) -> str:
    width, height = any_size(written)
    return f"{width}x{height}"


class ExtrasRequest(BaseModel):
    """A finished picture made larger, or its faces made better, or both."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    image: ArtifactId = Field(description="Artifact id of a picture (or of a video: its first frame is taken).")
    upscaler: str | None = Field(
        None, max_length=300, description="Lanczos, Nearest or a file in models/ESRGAN by name; the size stays when empty."
    )
    upscaler_2: str | None = Field(None, max_length=300, description="A second one, laid over the first; none when empty.")
    upscaler_2_visibility: float = Field(0.5, ge=0.0, le=1.0, description="How much is seen of the second: 0 nothing, 1 all.")
    scale: float | None = Field(None, ge=1.0, le=8.0, description="How many times larger; the upscaler's own when empty.")
    size: Annotated[str, AfterValidator(_checked_size)] | None = Field(
        None, description="Width x height to fill, such as 1920x1080, instead of a scale."
    )
    crop: bool = Field(True, description="With a size: cut off what goes beyond it.")
    restore: str | None = Field(
        None, max_length=300, description="Face restorer: GFPGAN, RestoreFormer, or a file by name; faces stay when empty."
    )
    restore_strength: float = Field(1.0, ge=0.0, le=1.0, description="How much is seen of restored faces: 0 nothing, 1 all.")
    fidelity: float = Field(0.5, ge=0.0, le=1.0, description="CodeFormer alone: 0 restores most, 1 stays closest to the face.")
    format: Literal["png", "jpg", "webp"] = Field("png", description="Kind of file; all carry the settings, png alone is exact.")

    @model_validator(mode="after")
    def _makes_sense(self) -> ExtrasRequest:
        if (self.scale or self.size or self.upscaler_2) and not self.upscaler:
            raise ValueError("a new size needs an upscaler. Choose one, such as Lanczos")
        if not self.upscaler and not self.restore:
            raise ValueError("there is nothing to do. Choose an upscaler, such as Lanczos, or a face restorer")
        if self.scale and self.size:
            raise ValueError("choose a scale or a size, not both")
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


def extras(ctx: JobContext, request: ExtrasRequest) -> JobResult:
    """Make a finished picture better."""
    started = time.perf_counter()
    from webui.builtin.extras import run

    return run(ctx, request, started)


def warm_up() -> None:
    """Import what the first picture needs, unless this is the small installation."""
    if importlib.util.find_spec("torch") is not None:
        from webui.builtin.studio import warm_up

        warm_up()


HELD = {"loaded": devices.loaded, "machine": devices.machine, "unload": devices.unload}

KINDS = (
    *(
        JobKind(
            name=name, title=title, request=request, handler=handler, suffix=".{format}", recall=partial(recall, name, request),
            positional=("prompt",), skippable=True, warm_up=warm_up, **HELD,
        )
        for name, title, request, handler in (
            ("txt2img", "Picture from words", Txt2ImgRequest, draw),
            ("img2img", "Picture from a picture", Img2ImgRequest, draw),
            ("inpaint", "Part of a picture made anew", InpaintRequest, draw),
            ("plot", "X/Y/Z plot", PlotRequest, plot),
        )
    ),
    JobKind("extras", "Picture made larger or better", ExtrasRequest, extras, suffix=".{format}", **HELD),
)  # fmt: skip
