"""The judge of the pocket model: reads every attribute off a portrait.

It learns from the generator's pictures alone and never sees the pocket model's, so it cannot learn to forgive them.

    python -m training.pocket.judge --work FOLDER [--steps N]    resumes from its last checkpoint; prints how often it is right
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import nn
from torch.nn import functional as F

from training.pocket import checkpoint, pictures, portraits
from training.pocket.attributes import ATTRIBUTES, Person, values
from training.pocket.checkpoint import moving_average, rate
from training.pocket.vae import tensors

WEIGHTS = Path(__file__).with_name("judge.safetensors")
BATCH = 64
STEPS = 3000
RATE = 3e-3
WARM_UP = 200
EMA = 0.995
WIDTHS = (16, 32, 64, 128)

UNSEEN = 1_000_000
"""The first picture that it is examined with, and the first whose caption the pocket model is asked for: in no training."""

UNKNOWN = -1
"""Label of an attribute that cannot be seen."""


class Judge(nn.Module):
    """Pictures (n, 3, 128, 128) in -1..1 to a score per value of each attribute, (n, all values of all attributes)."""

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        before = 3
        for width in WIDTHS:
            layers += _layer(before, width, 2)
            layers += _layer(width, width, 1) if before > 3 else []
            before = width
        self.features = nn.Sequential(*layers)
        self.places = nn.Conv2d(before, 16, 1)
        self.scores = nn.Linear(16 * 8 * 8 + before, sum(SIZES))

    def forward(self, pictures: torch.Tensor) -> torch.Tensor:
        found = self.features(pictures)
        return self.scores(torch.cat([self.places(found).flatten(1), found.mean((2, 3))], 1))


SIZES = tuple(len(values(name)) for name in ATTRIBUTES)


def _layer(before: int, after: int, stride: int) -> list[nn.Module]:
    return [nn.Conv2d(before, after, 3, stride, 1, bias=False), nn.BatchNorm2d(after), nn.SiLU()]


def labels(person: Person) -> list[int]:
    """The number of each attribute's value."""
    hidden = person.hidden()
    return [UNKNOWN if name in hidden else values(name).index(getattr(person, name)) for name in ATTRIBUTES]


def loss(scores: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
    parts = scores.split(SIZES, 1)
    each = [F.cross_entropy(part, wanted[:, at], ignore_index=UNKNOWN) for at, part in enumerate(parts)]
    return torch.stack(each).mean()


def roughened(batch: torch.Tensor, rng: np.random.Generator) -> torch.Tensor:
    """Pictures a little blurred, noisy, moved, brighter or darker: what is judged later is not drawn as cleanly."""
    if rng.random() < 0.5:
        amount = float(rng.uniform(0.1, 0.9))
        batch = batch + amount * (F.avg_pool2d(F.pad(batch, (1, 1, 1, 1), "replicate"), 3, 1) - batch)
    if rng.random() < 0.5:
        batch = batch + float(rng.uniform(0, 0.06)) * torch.randn_like(batch)
    down, right = (int(shift) for shift in rng.integers(-4, 5, 2))
    moved = torch.roll(F.pad(batch, (4, 4, 4, 4), "replicate"), (down, right), (2, 3))[..., 4:-4, 4:-4]
    return (moved * float(rng.uniform(0.94, 1.06)) + float(rng.uniform(-0.04, 0.04))).clamp(-1, 1)


def train(work: Path, steps: int) -> None:
    torch.manual_seed(3)
    judge = Judge().to(memory_format=torch.channels_last)
    average = moving_average(judge, EMA)
    average.use_buffers = True
    optimizer = torch.optim.AdamW(judge.parameters(), RATE, weight_decay=0.02)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: rate(step, steps, WARM_UP))
    drawn = pictures.load(work)
    known = torch.tensor([labels(portraits.person(index)) for index in range(pictures.COUNT)])

    def step(number: int) -> float:
        rng = np.random.default_rng([17, number])
        torch.manual_seed(number)
        chosen = rng.integers(0, pictures.COUNT, BATCH)
        batch = roughened(tensors(drawn[chosen]), rng)
        with torch.autocast("cpu", torch.bfloat16):
            scores = judge(batch.contiguous(memory_format=torch.channels_last))
        wrong = loss(scores.float(), known[chosen])
        wrong.backward()
        optimizer.step()
        optimizer.zero_grad()
        schedule.step()
        average.update_parameters(judge)
        return wrong.item()

    kept = {"judge": judge, "average": average, "optimizer": optimizer, "schedule": schedule}
    checkpoint.train(work / "judge.pt", steps, kept, step)
    save_file({name: value.half().contiguous() for name, value in average.module.state_dict().items()}, WEIGHTS)


def load() -> Judge:
    judge = Judge().eval()
    judge.load_state_dict({name: value.float() for name, value in load_file(WEIGHTS).items()})
    return judge


@torch.no_grad()
def beliefs(judge: Judge, shown: Sequence[np.ndarray] | np.ndarray) -> list[dict[str, dict[str, float]]]:
    """Attribute -> value -> how sure it is, 0 to 1, of each picture, (128, 128, 3) uint8 RGB."""
    scores = torch.cat([judge(tensors(np.stack(shown[at : at + BATCH]))) for at in range(0, len(shown), BATCH)])
    parts = [part.softmax(1).tolist() for part in scores.split(SIZES, 1)]
    return [
        {name: dict(zip(values(name), part[row], strict=True)) for name, part in zip(ATTRIBUTES, parts, strict=True)}
        for row in range(len(shown))
    ]


def read(judge: Judge, shown: Sequence[np.ndarray] | np.ndarray) -> list[dict[str, str]]:
    """Attribute -> value of each picture, (128, 128, 3) uint8 RGB."""
    return [{name: max(sure, key=sure.__getitem__) for name, sure in one.items()} for one in beliefs(judge, shown)]


def examined(count: int = 1000) -> dict[str, float]:
    """How often the judge is right about pictures that it has never seen, per attribute."""
    examples = list(portraits.dataset(UNSEEN, count, pictures.SIZE))
    found = read(load(), [example.picture for example in examples])
    right: dict[str, list[bool]] = {name: [] for name in ATTRIBUTES}
    for example, said in zip(examples, found, strict=True):
        for name in set(ATTRIBUTES) - example.person.hidden():
            right[name].append(said[name] == getattr(example.person, name))
    return {name: float(np.mean(each)) for name, each in right.items()}


def main() -> None:
    arguments = checkpoint.arguments(__doc__, STEPS)
    pictures.build(arguments.work)
    train(arguments.work, arguments.steps)
    for name, share in examined().items():
        print(f"{name:<17}{share:.3f}")


if __name__ == "__main__":
    main()
