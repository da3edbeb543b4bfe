"""Teaches the text encoder of the pocket model what captions say, before the UNet listens to it: text alone, no pictures.

A UNet that learns from a text encoder which is learning, too, hears noise for most of its training. Stable Diffusion's text
encoder was trained before, to tell pictures from their captions (CLIP); this one, to tell what a caption says of each attribute.

    python -m training.pocket.words --work FOLDER [--steps N]    resumes from its last checkpoint
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F
from transformers import CLIPTokenizer

from training.pocket import checkpoint, model, pictures, portraits
from training.pocket.attributes import ATTRIBUTES, Person, values
from training.pocket.captions import Caption, caption, describe, with_praise
from training.pocket.checkpoint import rate

BATCH = 64
STEPS = 1000
RATE = 1e-3
WARM_UP = 200

SIZES = tuple(len(values(name)) + 1 for name in ATTRIBUTES)
"""Of each attribute's answers: its values, and that nothing is said of it."""


class Reader(nn.Module):
    """Says what hidden states say of each attribute, by attention, as the UNet listens: one question for each."""

    def __init__(self) -> None:
        super().__init__()
        self.questions = nn.Parameter(torch.randn(len(ATTRIBUTES), model.WIDTH))
        self.keys, self.contents = nn.Linear(model.WIDTH, model.WIDTH), nn.Linear(model.WIDTH, model.WIDTH)
        self.answers = nn.ModuleList(nn.Linear(model.WIDTH, size) for size in SIZES)

    def forward(self, states: torch.Tensor, heard: torch.Tensor) -> list[torch.Tensor]:
        """states: (n, tokens, WIDTH); heard: (n, tokens), which of them it may look at. A score per answer, (n, size)."""
        fit = torch.einsum("qw,ntw->nqt", self.questions, self.keys(states)) / model.WIDTH**0.5
        weights = fit.masked_fill(~heard[:, None], -torch.inf).softmax(-1)
        found = torch.einsum("nqt,ntw->nqw", weights, self.contents(states))
        return [answer(found[:, at]) for at, answer in enumerate(self.answers)]


def labels(person: Person, said: Caption) -> list[int]:
    """The number of each attribute's answer."""
    return [values(name).index(getattr(person, name)) + 1 if name in said.mentioned else 0 for name in ATTRIBUTES]


def token_ids(tokenizer: CLIPTokenizer, texts: list[str]) -> torch.Tensor:
    """(n, 77)"""
    padded = {"padding": "max_length", "truncation": True, "max_length": model.MAX_TOKENS}
    return tokenizer(texts, return_tensors="pt", **padded).input_ids


def heard(ids: torch.Tensor, end: int, rng: np.random.Generator) -> torch.Tensor:
    """The words of each caption, or all that follows them: both have to say everything, because the UNet looks at both, and
    a user's weights are on words.
    """
    after = (ids == end).cumsum(1) > 0
    return after if rng.random() < 0.5 else ~after


def train(work: Path, steps: int) -> None:
    torch.manual_seed(5)
    words = tokenizer(work)
    encoder, reader = model.text_encoder(len(words)), Reader()
    encoder.set_attn_implementation("eager")
    both = nn.ModuleList([encoder, reader])
    optimizer = torch.optim.AdamW(both.parameters(), RATE, betas=(0.9, 0.98), weight_decay=0.01, fused=True)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: rate(step, steps, WARM_UP))

    def step(number: int) -> float:
        rng = np.random.default_rng([19, number])
        torch.manual_seed(number)
        people = [portraits.person(int(index)) for index in rng.integers(0, pictures.COUNT, BATCH)]
        said = [describe(person, rng) for person in people]
        said[0] = Caption("", frozenset())
        ids = token_ids(words, [with_praise(one.text, rng) for one in said])
        wanted = torch.tensor([labels(person, one) for person, one in zip(people, said, strict=True)])
        with torch.autocast("cpu", torch.bfloat16):
            states = encoder(ids, output_hidden_states=True)
            skipped = encoder.final_layer_norm(states.hidden_states[-2])
            listened = heard(ids, words.eos_token_id, rng)
            scores = [reader(each, listened) for each in (states.last_hidden_state, skipped)]
        wrong = [F.cross_entropy(part.float(), wanted[:, at]) for given in scores for at, part in enumerate(given)]
        loss = torch.stack(wrong).mean()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(both.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        schedule.step()
        return loss.item()

    checkpoint.train(work / "words.pt", steps, {"both": both, "optimizer": optimizer, "schedule": schedule}, step)
    encoder.save_pretrained(work / "text_encoder")


def tokenizer(work: Path) -> CLIPTokenizer:
    """The tokenizer, made of the captions when it is first asked for."""
    folder, rng = work / "tokenizer", np.random.default_rng(11)
    if not (folder / "tokenizer.json").exists():
        people = (portraits.person(index) for index in range(pictures.COUNT))
        model.train_tokenizer((with_praise(caption(person, rng), rng) for person in people), folder)
    return CLIPTokenizer.from_pretrained(folder)


def main() -> None:
    arguments = checkpoint.arguments(__doc__, STEPS)
    train(arguments.work, arguments.steps)


if __name__ == "__main__":
    main()
