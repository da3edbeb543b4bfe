"""Trains the UNet of the pocket model, on latents of the trained VAE and what the trained text encoder says of captions.

    python -m training.pocket.diffusion --work FOLDER [--steps N]    resumes from its last checkpoint
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from diffusers.models.attention_processor import AttnProcessor
from torch.nn import functional as F
from transformers import CLIPTextModel

from training.pocket import checkpoint, model, pictures, portraits, words
from training.pocket.attributes import Person
from training.pocket.captions import caption, with_praise
from training.pocket.checkpoint import moving_average, rate
from training.pocket.vae import tensors

BATCH = 32
STEPS = 9_000
RATE = 6e-4
WARM_UP = 300
EMPTY = 0.12
"""Share of the pictures shown without their caption, for classifier-free guidance."""

SKIPPED = 0.15
"""Share of the steps that use the last but one layer of the text encoder, so that "clip skip 2" means the same."""

MOST_SNR = 5.0
"""Clean pictures count no more than those of this signal-to-noise ratio (Hang et al. 2023, "Min-SNR weighting")."""

EMA = 0.999


def unet() -> UNet2DConditionModel:
    """As it is trained: without PyTorch's fused attention, which is slow to go back through on a CPU."""
    made = model.unet().to(memory_format=torch.channels_last)
    made.set_attn_processor(AttnProcessor())
    return made


class TextEncoder:
    """The trained text encoder, which stays as it is."""

    def __init__(self, work: Path):
        self._tokenizer = words.tokenizer(work)
        self._network = CLIPTextModel.from_pretrained(work / "text_encoder", attn_implementation="eager").eval()

    @torch.no_grad()
    def states(self, texts: list[str], *, skip: bool) -> torch.Tensor:
        """(n, 77, WIDTH). skip: of the last layer but one."""
        ids = words.token_ids(self._tokenizer, texts)
        states = self._network(ids, output_hidden_states=skip)
        return self._network.final_layer_norm(states.hidden_states[-2]) if skip else states.last_hidden_state


class Latents:
    """The latents of all pictures and of their mirror images: means, spreads, and the factor that makes them of unit size."""

    def __init__(self, work: Path):
        path = work / "latents.npz"
        vae = work / "vae" / "diffusion_pytorch_model.safetensors"
        if not path.exists() or path.stat().st_mtime < vae.stat().st_mtime:
            np.savez(path.with_suffix(".part.npz"), **_encoded(work))
            path.with_suffix(".part.npz").replace(path)
        kept = np.load(path)
        self._mean, self._spread = kept["mean"], kept["spread"]
        self.factor = float(1 / self._mean.astype(np.float32).std())

    def __len__(self) -> int:
        return self._mean.shape[1]

    def draw(self, chosen: np.ndarray, mirrored: np.ndarray, rng: np.random.Generator) -> torch.Tensor:
        """(n, 4, height, width), each drawn at random from what the VAE says of its picture."""
        mean, spread = self._mean[mirrored, chosen], self._spread[mirrored, chosen]
        drawn = mean + spread * rng.standard_normal(mean.shape, np.float32)
        return torch.from_numpy(drawn * self.factor).contiguous(memory_format=torch.channels_last)


@torch.no_grad()
def _encoded(work: Path) -> dict[str, np.ndarray]:
    vae = AutoencoderKL.from_pretrained(work / "vae").to(memory_format=torch.channels_last)
    drawn = pictures.load(work)
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


def mirrored_person(person: Person) -> Person:
    """What the mirror image shows."""
    return replace(person, light={"left": "right", "right": "left"}.get(person.light, person.light))


def weights(times: torch.Tensor, alphas: torch.Tensor) -> torch.Tensor:
    ratio = alphas[times] / (1 - alphas[times])
    return (ratio.clamp(max=MOST_SNR) / ratio)[:, None, None, None]


def train(work: Path, steps: int) -> None:
    encoder, latents = TextEncoder(work), Latents(work)
    noising = model.scheduler()
    torch.manual_seed(2)
    network = unet()
    average = moving_average(network, EMA)
    optimizer = torch.optim.AdamW(network.parameters(), RATE, betas=(0.9, 0.99), weight_decay=0.01, fused=True)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: rate(step, steps, WARM_UP))

    def step(number: int) -> float:
        rng = np.random.default_rng([13, number])
        torch.manual_seed(number)
        chosen, mirrored = rng.integers(0, len(latents), BATCH), rng.integers(0, 2, BATCH)
        texts, skip = captions(chosen, mirrored, rng), bool(rng.random() < SKIPPED)
        clean = latents.draw(chosen, mirrored, rng)
        noise, times = torch.randn_like(clean), torch.randint(0, len(noising.alphas_cumprod), (BATCH,))
        with torch.autocast("cpu", torch.bfloat16):
            states = encoder.states(texts, skip=skip)
            predicted = network(noising.add_noise(clean, noise, times), times, states).sample.float()
        loss = (F.mse_loss(predicted, noise, reduction="none") * weights(times, noising.alphas_cumprod)).mean()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        schedule.step()
        average.update_parameters(network)
        return loss.item()

    kept = {"unet": network, "average": average, "optimizer": optimizer, "schedule": schedule}
    checkpoint.train(work / "diffusion.pt", steps, kept, step)


def main() -> None:
    arguments = checkpoint.arguments(__doc__, STEPS)
    train(arguments.work, arguments.steps)


if __name__ == "__main__":
    main()
