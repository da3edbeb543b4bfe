"""The drawn pictures on disk, in shards: made once by all processors, then read by every training that needs
pictures. Trains nothing."""

from __future__ import annotations

import os
from concurrent.futures import ProcessPoolExecutor
from itertools import repeat
from pathlib import Path

import cv2
import numpy as np

from training.pocket import portraits

COUNT, SIZE = 20_000, 128
SHARD = 1000


def build(folder: Path) -> None:
    """Draw them; shards that exist are kept."""
    folder.mkdir(parents=True, exist_ok=True)
    missing = [first for first in range(0, COUNT, SHARD) if not _path(folder, first).exists()]
    with ProcessPoolExecutor(os.cpu_count()) as processes:
        for number, _ in enumerate(processes.map(_draw, repeat(folder), missing), 1):
            print(f"drawn {number} of {len(missing)} shards", flush=True)


def load(folder: Path) -> np.ndarray:
    """(COUNT, SIZE, SIZE, 3) uint8."""
    shards = [np.load(_path(folder, first)) for first in range(0, COUNT, SHARD)]
    return np.concatenate(shards)


def _draw(folder: Path, first: int) -> None:
    cv2.setNumThreads(1)  # the processors are busy with other shards
    drawn = np.stack([example.picture for example in portraits.dataset(first, SHARD, SIZE)])
    part = _path(folder, first).with_suffix(".part.npy")
    np.save(part, drawn)
    part.replace(_path(folder, first))


def _path(folder: Path, first: int) -> Path:
    return folder / f"pictures-{SIZE}-{first:06d}.npy"
