"""Trainings that go on where they were stopped. Knows nothing of what is trained."""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

SAVE_EVERY = 250


def arguments(about: str, steps: int) -> argparse.Namespace:
    """What is said on the command line of a training: `work`, its folder, and `steps`."""
    parser = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True, help="folder for pictures, checkpoints and what is trained")
    parser.add_argument("--steps", type=int, default=steps, help="%(default)s when left out")
    return parser.parse_args()


def rate(step: int, steps: int, warm_up: int) -> float:
    """Factor of the learning rate: up in a line, then down along a cosine."""
    if step < warm_up:
        return (step + 1) / warm_up
    return 0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * min(1.0, (step - warm_up) / max(1, steps - warm_up))))


def moving_average(module: torch.nn.Module, decay: float) -> torch.optim.swa_utils.AveragedModel:
    """The mean of a module's weights over its last steps, which makes better pictures than the last ones."""
    return torch.optim.swa_utils.AveragedModel(module, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(decay))


def train(path: Path, steps: int, parts: dict[str, Any], step: Callable[[int], float]) -> None:
    """Call `step` with each step's number, from the last checkpoint on; print its results' mean now and then.

    parts: what has state_dict and load_state_dict, by name; kept in `path`.
    """
    first = 0
    if path.exists():
        kept = torch.load(path, weights_only=True)
        first = kept["step"]
        for name, part in parts.items():
            part.load_state_dict(kept[name])
    results, begun = [], time.monotonic()
    for number in range(first, steps):
        results.append(step(number))
        if (number + 1) % SAVE_EVERY == 0 or number + 1 == steps:
            pace = (time.monotonic() - begun) / (number + 1 - first)
            print(f"step {number + 1} of {steps}: {np.mean(results):.4f}, {pace:.2f} s a step", flush=True)
            results.clear()
            _save(path, {name: part.state_dict() for name, part in parts.items()} | {"step": number + 1})


def _save(path: Path, kept: dict[str, Any]) -> None:
    part = path.with_suffix(".part")
    torch.save(kept, part)
    part.replace(path)
