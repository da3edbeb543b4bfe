"""How SadTalker's networks hear: mel rows of a sound that comes piece by piece, and how loud it became."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from extensions.sadtalker.engines.neural import mel

_AUDIBLE = 1e-3  # -60 dB of full scale
_PIECE = mel.SAMPLE_RATE // 100


@dataclass(frozen=True)
class Speech:
    """rows: mel.MelRows' of the whole sound; seconds: its length; loudest: RMS of its loudest 10 ms, of full scale."""

    rows: np.ndarray
    seconds: float
    loudest: float

    @property
    def silent(self) -> bool:
        return self.loudest < _AUDIBLE


class Hearing:
    """Implements engines.base.Ear."""

    def __init__(self) -> None:
        self._mel, self._samples, self._loudest = mel.MelRows(), 0, 0.0

    def push(self, samples: np.ndarray) -> None:
        self._mel.push(samples)
        self._samples += len(samples)
        for start in range(0, len(samples), _PIECE):
            self._loudest = max(self._loudest, float(np.sqrt(np.mean(np.square(samples[start : start + _PIECE], dtype=float)))))

    def finish(self) -> Speech:
        return Speech(self._mel.finish(), self._samples / mel.SAMPLE_RATE, self._loudest)
