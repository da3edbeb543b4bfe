"""The drawn pictures on disk, in shards: made once by all processors, then read by both trainings. Trains nothing."""

from __future__ import annotations

import os
from concurrent.futures import ProcessPoolExecutor
from itertools import repeat
from pathlib import Path

import cv2
import numpy as np

from training.pocket import portraits

SHARD = 1000


def build(folder: Path, count: int, size: int) -> None:
    """Draw the first `count` pictures; shards that exist are kept."""
    folder.mkdir(parents=True, exist_ok=True)
    missing = [first for first in range(0, count, SHARD) if not _path(folder, first, size).exists()]
    with ProcessPoolExecutor(os.cpu_count()) as processes:
        for number, _ in enumerate(processes.map(_draw, repeat(folder), missing, repeat(size)), 1):
            print(f"drawn {number} of {len(missing)} shards", flush=True)


def load(folder: Path, count: int, size: int) -> np.ndarray:
    """(count, size, size, 3) uint8."""
    shards = [np.load(_path(folder, first, size)) for first in range(0, count, SHARD)]
    return np.concatenate(shards)[:count]


def _draw(folder: Path, first: int, size: int) -> None:
    cv2.setNumThreads(1)  # the processors are busy with other shards
    drawn = np.stack([example.picture for example in portraits.dataset(first, SHARD, size)])
    part = _path(folder, first, size).with_suffix(".part.npy")
    np.save(part, drawn)
    part.replace(_path(folder, first, size))


def _path(folder: Path, first: int, size: int) -> Path:
    return folder / f"pictures-{size}-{first:06d}.npy"
