"""Trains the UNet and the text encoder of the pocket model together, on latents of the trained VAE.

    python -m training.pocket.diffusion --work FOLDER    resumes from its last checkpoint
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL
from torch import nn
from torch.nn import functional as F
from transformers import CLIPTokenizer

from training.pocket import checkpoint, model, pictures, portraits
from training.pocket.attributes import Person
from training.pocket.captions import caption
from training.pocket.checkpoint import moving_average, rate
from training.pocket.vae import tensors

COUNT, SIZE = 20_000, 128
BATCH = 32
STEPS = 9_000
RATE = 6e-4
WARM_UP = 300
EMPTY = 0.12
"""Share of the pictures shown without their caption, for classifier-free guidance."""

PRAISED = 0.15
"""Share of the captions with PRAISE around them."""

PRAISE = (
    "masterpiece", "best quality", "high quality", "highly detailed", "8k", "4k", "sharp focus", "beautiful", "cinematic",
    "professional", "trending on artstation", "ultra realistic", "award winning", "perfect", "amazing", "hdr", "bokeh",
    "digital art", "concept art", "studio quality",
)  # fmt: skip

SKIPPED = 0.15
"""Share of the steps that use the last but one layer of the text encoder, so that "clip skip 2" means the same."""

MOST_SNR = 5.0
"""Clean pictures count no more than those of this signal-to-noise ratio (Hang et al. 2023, "Min-SNR weighting")."""

EMA = 0.999


class Parts(nn.Module):
    """What is trained: predicts the noise in latents from token ids."""

    def __init__(self, vocabulary: int):
        super().__init__()
        self.unet = model.unet().to(memory_format=torch.channels_last)
        self.text_encoder = model.text_encoder(vocabulary)

    def forward(self, noisy: torch.Tensor, times: torch.Tensor, ids: torch.Tensor, *, skip: bool) -> torch.Tensor:
        states = self.text_encoder(ids, output_hidden_states=skip)
        context = states.last_hidden_state
        if skip:
            context = self.text_encoder.final_layer_norm(states.hidden_states[-2])
        return self.unet(noisy, times, context).sample.float()


class Latents:
    """The latents of all pictures and of their mirror images: means, spreads, and the factor that makes them of unit size."""

    def __init__(self, work: Path):
        path = work / "latents.npz"
        if not path.exists():
            np.savez(path.with_suffix(".part.npz"), **_encoded(work))
            path.with_suffix(".part.npz").replace(path)
        kept = np.load(path)
        self._mean, self._spread = kept["mean"], kept["spread"]
        self.factor = float(1 / self._mean.astype(np.float32).std())

    def __len__(self) -> int:
        return self._mean.shape[1]

    def draw(self, chosen: np.ndarray, mirrored: np.ndarray, rng: np.random.Generator) -> torch.Tensor:
        """(n, 4, height, width), each a random one that the picture may stand for."""
        mean, spread = self._mean[mirrored, chosen], self._spread[mirrored, chosen]
        drawn = mean + spread * rng.standard_normal(mean.shape, np.float32)
        return torch.from_numpy(drawn * self.factor).contiguous(memory_format=torch.channels_last)


@torch.no_grad()
def _encoded(work: Path) -> dict[str, np.ndarray]:
    vae = AutoencoderKL.from_pretrained(work / "vae").to(memory_format=torch.channels_last)
    drawn = pictures.load(work, COUNT, SIZE)
    sides = []
    for picture in (drawn, drawn[:, :, ::-1]):
        with torch.autocast("cpu", torch.bfloat16):
            parts = [vae.encode(tensors(picture[at : at + 32])).latent_dist for at in range(0, len(drawn), 32)]
        sides.append([torch.cat([getattr(part, name) for part in parts]).half().numpy() for name in ("mean", "std")])
    return {"mean": np.stack([mean for mean, _ in sides]), "spread": np.stack([spread for _, spread in sides])}


def captions(chosen: np.ndarray, mirrored: np.ndarray, rng: np.random.Generator) -> list[str]:
    texts = []
    for index, flipped in zip(chosen, mirrored, strict=True):
        person = portraits.person(int(index))
        text = caption(mirrored_person(person) if flipped else person, rng)
        texts.append("" if rng.random() < EMPTY else with_praise(text, rng))
    return texts


def with_praise(text: str, rng: np.random.Generator) -> str:
    """The caption among words that people add and that say nothing about a portrait: the model learns to pass over them."""
    if rng.random() >= PRAISED:
        return text
    said = rng.choice(PRAISE, rng.integers(1, 5), replace=False)
    return ", ".join([*said, text] if rng.random() < 0.5 else [text, *said])


def mirrored_person(person: Person) -> Person:
    """What the mirror image shows."""
    return replace(person, light={"left": "right", "right": "left"}.get(person.light, person.light))


def token_ids(tokenizer: CLIPTokenizer, texts: list[str]) -> torch.Tensor:
    """(n, 77)"""
    padded = {"padding": "max_length", "truncation": True, "max_length": model.MAX_TOKENS}
    return tokenizer(texts, return_tensors="pt", **padded).input_ids


def weights(times: torch.Tensor, alphas: torch.Tensor) -> torch.Tensor:
    ratio = alphas[times] / (1 - alphas[times])
    return (ratio.clamp(max=MOST_SNR) / ratio)[:, None, None, None]


def train(work: Path, steps: int) -> None:
    tokenizer, latents = _tokenizer(work), Latents(work)
    noising = model.scheduler()
    torch.manual_seed(2)
    parts = Parts(len(tokenizer))
    average = moving_average(parts, EMA)
    optimizer = torch.optim.AdamW(parts.parameters(), RATE, betas=(0.9, 0.99), weight_decay=0.01, fused=True)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: rate(step, steps, WARM_UP))

    def step(number: int) -> float:
        rng = np.random.default_rng([13, number])
        torch.manual_seed(number)
        chosen, mirrored = rng.integers(0, len(latents), BATCH), rng.integers(0, 2, BATCH)
        ids = token_ids(tokenizer, captions(chosen, mirrored, rng))
        clean = latents.draw(chosen, mirrored, rng)
        noise, times = torch.randn_like(clean), torch.randint(0, len(noising.alphas_cumprod), (BATCH,))
        with torch.autocast("cpu", torch.bfloat16):
            predicted = parts(noising.add_noise(clean, noise, times), times, ids, skip=bool(rng.random() < SKIPPED))
        loss = (F.mse_loss(predicted, noise, reduction="none") * weights(times, noising.alphas_cumprod)).mean()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parts.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        schedule.step()
        average.update_parameters(parts)
        return loss.item()

    kept = {"parts": parts, "average": average, "optimizer": optimizer, "schedule": schedule}
    checkpoint.train(work / "diffusion.pt", steps, kept, step)


def _tokenizer(work: Path) -> CLIPTokenizer:
    folder, rng = work / "tokenizer", np.random.default_rng(11)
    if not folder.exists():
        model.train_tokenizer((with_praise(caption(portraits.person(index), rng), rng) for index in range(COUNT)), folder)
    return CLIPTokenizer.from_pretrained(folder)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=STEPS)
    arguments = parser.parse_args()
    train(arguments.work, arguments.steps)


if __name__ == "__main__":
    main()
