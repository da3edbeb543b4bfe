"""How the built-in engine hears: log-mel rows and loudness, of a sound that comes piece by piece."""

from __future__ import annotations

import numpy as np

from extensions.sadtalker.features import SAMPLE_RATE, LogMel
from extensions.sadtalker.types import Voice


class Hearing:
    """Implements engines.base.Ear."""

    def __init__(self) -> None:
        self._features, self._samples = LogMel(), 0

    def push(self, samples: np.ndarray) -> None:
        self._features.push(samples)
        self._samples += len(samples)

    def finish(self) -> Voice:
        log_mel, level = self._features.finish()
        return Voice(log_mel, level, self._samples / SAMPLE_RATE)


def silence(seconds: float) -> Voice:
    """What is heard while nobody speaks: nothing, so nothing is kept of it."""
    return Voice(np.empty((0, 80), np.float16), np.empty(0, np.float32), seconds)
