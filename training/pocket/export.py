"""Writes the trained parts as models/pocket: a diffusers folder in fp16 that the studio loads like any other.

    python -m training.pocket.export --work FOLDER [--to models/pocket]
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from diffusers import AutoencoderKL, StableDiffusionPipeline
from transformers import CLIPTextModel

from training.pocket import diffusion, model, words
from training.pocket.checkpoint import moving_average
from webui.imaging import preview


def trained(work: Path) -> StableDiffusionPipeline:
    """The parts as the last checkpoint has them."""
    unet = moving_average(model.unet(), diffusion.EMA)
    unet.load_state_dict(torch.load(work / "diffusion.pt", weights_only=True)["average"])
    vae = AutoencoderKL.from_pretrained(work / "vae")
    # Its config would tell the folder that it was read from.
    vae.register_to_config(scaling_factor=round(diffusion.Latents(work).factor, 5), _name_or_path="")
    return StableDiffusionPipeline(
        vae=vae,
        text_encoder=CLIPTextModel.from_pretrained(work / "text_encoder"),
        tokenizer=words.tokenizer(work),
        unet=unet.module,
        scheduler=model.scheduler(),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--to", type=Path, default=Path("models/pocket"))
    arguments = parser.parse_args()
    parts = trained(arguments.work)
    parts.to(dtype=torch.float16).save_pretrained(arguments.to)
    preview.ship(preview.linear(parts.vae.float()), arguments.to)
    size = sum(path.stat().st_size for path in arguments.to.rglob("*") if path.is_file())
    print(f"{arguments.to}: {size / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
