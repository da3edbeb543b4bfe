"""Trains the VAE of the pocket model: pictures to latents of an eighth of their side, and back.

    python -m training.pocket.vae --work FOLDER [--steps N]    resumes from its last checkpoint
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL
from torch.nn import functional as F

from training.pocket import checkpoint, model, pictures
from training.pocket.checkpoint import moving_average, rate

BATCH = 8
STEPS = 9000
RATE = 1e-3
WARM_UP = 200
CROP = 64
WHOLE = 0.02
"""Share of the steps, the last ones, that see whole pictures. The others see crops: what is learned is local."""

KL_WEIGHT = 1e-5
"""Latents need not be Gaussian, only of moderate size, and smooth."""

EDGE_WEIGHT = 0.5
COLOUR_WEIGHT = 4.0
HUE_WEIGHT = 2.0
"""High: four numbers a latent are few, and without these they are all spent on outlines."""

EMA = 0.998


def loss(vae: AutoencoderKL, batch: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """What is minimised, and the mean absolute error of the pictures (-1..1)."""
    latents = vae.encode(batch).latent_dist
    made = vae.decode(latents.sample()).sample.float()
    error = F.l1_loss(made, batch)
    seen = EDGE_WEIGHT * edges(made, batch) + COLOUR_WEIGHT * colours(made, batch) + HUE_WEIGHT * hues(made, batch)
    return error + seen + KL_WEIGHT * latents.kl().mean(), error.detach()


def colours(made: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
    """How far the mean colours of each latent's pixels, and of four times as many, are off."""
    off = F.avg_pool2d(made - wanted, 8)
    return off.abs().mean() + F.avg_pool2d(off, 2).abs().mean()


def hues(made: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
    """How far colours are off but for their brightness, in places as small as an iris."""
    off = F.avg_pool2d(made - wanted, 2)
    return (off - off.mean(1, keepdim=True)).abs().mean()


def edges(made: torch.Tensor, wanted: torch.Tensor, octaves: int = 3) -> torch.Tensor:
    """How far neighbouring pixels differ otherwise than wanted, at several scales: outlines and glints count, not only areas."""
    total = made.new_zeros(())
    for _ in range(octaves):
        for axis in (2, 3):
            total = total + F.l1_loss(made.diff(dim=axis), wanted.diff(dim=axis))
        made, wanted = F.avg_pool2d(made, 2), F.avg_pool2d(wanted, 2)
    return total / octaves


def tensors(batch: np.ndarray) -> torch.Tensor:
    """(n, height, width, 3) uint8 to (n, 3, height, width) in -1..1."""
    pixels = torch.from_numpy(np.ascontiguousarray(batch)).permute(0, 3, 1, 2)
    return (pixels.float() / 127.5 - 1).contiguous(memory_format=torch.channels_last)


def corner(rng: np.random.Generator) -> tuple[int, int]:
    """Of a crop: anywhere, or as often around the face, where small things matter most."""
    around = (8, 40), (16, 48)
    ranges = around if rng.random() < 0.5 else ((0, pictures.SIZE - CROP + 1),) * 2
    top, left = (int(rng.integers(*one)) for one in ranges)
    return top, left


def train(work: Path, steps: int) -> None:
    torch.manual_seed(1)
    vae = model.vae().to(memory_format=torch.channels_last)
    average = moving_average(vae, EMA)
    optimizer = torch.optim.AdamW(vae.parameters(), RATE, betas=(0.9, 0.99), weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: rate(step, steps, WARM_UP))
    drawn = pictures.load(work)

    def step(number: int) -> float:
        rng = np.random.default_rng([7, number])
        batch = drawn[rng.integers(0, len(drawn), BATCH)]
        batch = batch[:, :, ::-1] if rng.random() < 0.5 else batch
        if number < (1 - WHOLE) * steps:
            top, left = corner(rng)
            batch = batch[:, top : top + CROP, left : left + CROP]
        torch.manual_seed(number)
        with torch.autocast("cpu", torch.bfloat16):
            total, error = loss(vae, tensors(batch))
        total.backward()
        torch.nn.utils.clip_grad_norm_(vae.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        schedule.step()
        average.update_parameters(vae)
        return float(error)

    checkpoint.train(
        work / "vae.pt", steps, {"vae": vae, "average": average, "optimizer": optimizer, "schedule": schedule}, step
    )
    average.module.save_pretrained(work / "vae")


def main() -> None:
    arguments = checkpoint.arguments(__doc__, STEPS)
    pictures.build(arguments.work)
    train(arguments.work, arguments.steps)


if __name__ == "__main__":
    main()
