"""What can be asked of the picture makers: every field with its bounds and default, declared here once.

The names are the command line's options. Pictures that a request works on are fields of the job kinds (webui/builtin),
because only those know artifacts. Needs no torch.
"""

from __future__ import annotations

import re
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

MIN_SIDE, MAX_SIDE, SIDE_STEP = 64, 4096, 8
SEEDS = 2**32
MAX_PROMPT = 8000
MAX_STEPS = 150

ResizeMode = Literal["stretch", "crop", "fill", "latent"]
MaskedContent = Literal["fill", "original", "latent noise", "latent nothing"]

_SIZE = re.compile(r"\s*(\d{1,6})\s*[xX×*]\s*(\d{1,6})\s*")


def read_size(written: str) -> tuple[int, int]:
    """"512x768" to (512, 768): width, height. Raises ValueError in words for anything that no model can draw."""
    found = _SIZE.fullmatch(written)
    if found is None:
        raise ValueError("must be WIDTHxHEIGHT, such as 512x768")
    width, height = int(found[1]), int(found[2])
    for side in (width, height):
        if not MIN_SIDE <= side <= MAX_SIDE or side % SIDE_STEP:
            raise ValueError(f"must have sides from {MIN_SIDE} to {MAX_SIDE} that are multiples of {SIDE_STEP}, not {side}")
    return width, height


def _checked_size(written: str) -> str:
    width, height = read_size(written)
    return f"{width}x{height}"


Size = Annotated[str, AfterValidator(_checked_size)]


class OnePicture(BaseModel):
    """What every way of making a picture takes."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    prompt: str = Field("", max_length=MAX_PROMPT, description="What the picture should show.")
    negative: str = Field("", max_length=MAX_PROMPT, description="What it should not show.")
    model: str | None = Field(None, max_length=300, description="Checkpoint by name or hash; the first when empty.")
    vae: str | None = Field(None, max_length=300, description="Separate VAE file by name; the checkpoint's own when empty.")
    sampler: str = Field("DPM++ 2M", max_length=60, description="Sampler by A1111's name.")
    schedule: str = Field("Automatic", max_length=60, description="Noise schedule by name; the sampler's own when Automatic.")
    steps: int = Field(20, ge=1, le=MAX_STEPS, description="Denoising steps.")
    cfg: float = Field(7.0, ge=1.0, le=30.0, description="Guidance: how closely to follow the prompt.")
    size: Size | None = Field(None, description="Width x height in pixels, multiples of 8; the model's own when empty.")
    seed: int | None = Field(None, ge=-1, le=SEEDS - 1, description="The same seed gives the same picture; drawn when empty.")
    variation_seed: int | None = Field(None, ge=-1, le=SEEDS - 1, description="Seed of the noise that is mixed in.")
    variation: float = Field(0.0, ge=0.0, le=1.0, description="How much of the variation seed's noise: 0 none, 1 all.")
    clip_skip: int = Field(1, ge=1, le=12, description="Layer of the text encoder to use, counted from the last.")
    tiling: bool = Field(False, description="Make a picture whose edges fit together.")
    format: Literal["png", "jpg", "webp"] = Field("png", description="Kind of file; all carry the settings, png alone is exact.")


class PictureRequest(OnePicture):
    """What is taken besides where all pictures are made alike, but for their seeds."""

    batch_count: int = Field(1, ge=1, le=100, description="How many batches, one after another.")
    batch_size: int = Field(1, ge=1, le=16, description="How many pictures at the same time.")
    filmstrip: str = Field("", max_length=400, description="Steps to save beside the picture, such as 1,2,4,5,10,30,50.")


class Hires(BaseModel):
    """A picture from words that is made small first."""

    hires: bool = Field(False, description="Draw small, then enlarge and refine.")
    hires_scale: float = Field(2.0, ge=1.0, le=4.0, description="How much larger.")
    hires_size: Size | None = Field(None, description="Final size, instead of a scale.")
    hires_steps: int = Field(0, ge=0, le=MAX_STEPS, description="Steps of the second pass; 0 for the same as the first.")
    hires_upscaler: str = Field("Latent", max_length=60, description="How to enlarge.")
    strength: float = Field(0.75, ge=0.0, le=1.0, description="How much the second pass of hires may change.")


class Txt2Img(Hires, PictureRequest):
    """A picture from words alone."""


class Img2Img(PictureRequest):
    """A picture from words and another picture."""

    strength: float = Field(0.75, ge=0.0, le=1.0, description="How much to change: 0 nothing, 1 everything.")
    size: Size | None = Field(None, description="Width x height in pixels, multiples of 8; the picture's own when empty.")
    resize: ResizeMode = Field("stretch", description="What to do when the picture has another shape than asked for.")


class Inpaint(Img2Img):
    """A part of a picture made anew."""

    mask_blur: int = Field(4, ge=0, le=64, description="Pixels over which new and old flow into each other.")
    mask_invert: bool = Field(False, description="Make anew what is not masked.")
    content: MaskedContent = Field("original", description="What the masked part starts from.")
    only_masked: bool = Field(False, description="Work on the masked part alone, at full resolution.")
    padding: int = Field(32, ge=0, le=256, description="Pixels around the masked part that are looked at.")
