"""Sound to log-mel rows, chunk by chunk. Keeps the rows, never the waveform; numpy alone.

Row i is centred on sample 160 i (10 ms steps). Sound before the first and after the last sample counts as silence.
"""

from __future__ import annotations

import numpy as np

SAMPLE_RATE = 16000
HOP = 160
WINDOW = 400
FFT = 512
MELS = 80
FLOOR = 1e-10
"""Added to every mel energy before the logarithm: digital silence is log(1e-10) = -23.0."""

_LOW_HZ, _HIGH_HZ = 50.0, 7600.0
_SPARE = 4096  # rows reserved ahead: 1.3 MB
_BLOCK = 1024  # rows per transform: 4 MB of work space


def _mel(hertz: np.ndarray | float) -> np.ndarray:
    return 2595.0 * np.log10(1.0 + np.asarray(hertz, float) / 700.0)


def mel_filters() -> np.ndarray:
    """(FFT // 2 + 1, MELS) float32: triangles of height 1, evenly spaced on the mel scale (O'Shaughnessy 1987)."""
    corners = np.linspace(_mel(_LOW_HZ), _mel(_HIGH_HZ), MELS + 2)
    bins = _mel(np.arange(FFT // 2 + 1) * SAMPLE_RATE / FFT)[:, None]
    rise = (bins - corners[:-2]) / (corners[1:-1] - corners[:-2])
    fall = (corners[2:] - bins) / (corners[2:] - corners[1:-1])
    filters = np.maximum(0.0, np.minimum(rise, fall))
    # The lowest triangles are narrower than a bin; each takes at least the bin nearest to its centre.
    nearest = np.abs(bins - corners[1:-1]).argmin(0)
    empty = filters.sum(0) < 0.5
    filters[nearest[empty], np.flatnonzero(empty)] = 1.0
    return filters.astype(np.float32)


class LogMel:
    """Push 16 kHz mono samples in pieces of any length, then call finish() once."""

    def __init__(self) -> None:
        self._window = np.hanning(WINDOW + 1)[:-1].astype(np.float32)
        self._filters = mel_filters() / float(np.square(self._window).sum())
        # Samples not yet used up; the first row looks WINDOW / 2 samples back, before the sound.
        self._pending = np.zeros(WINDOW // 2, np.float32)
        self._samples = 0
        self._rows = 0
        self._log_mel = np.empty((0, MELS), np.float16)
        self._level = np.empty(0, np.float32)
        self._finished = False

    def push(self, chunk: np.ndarray) -> None:
        """Take the next samples: float, full scale = 1, shape (n,). NaN and infinity count as silence.

        Raises ValueError when chunk is not one-dimensional, RuntimeError after finish().
        """
        if self._finished:
            raise RuntimeError("push() was called after finish().")
        chunk = np.asarray(chunk, np.float32)
        if chunk.ndim != 1:
            raise ValueError(f"Expected mono samples of shape (n,), got {chunk.shape}.")
        chunk = np.nan_to_num(chunk, nan=0.0, posinf=0.0, neginf=0.0)
        self._samples += len(chunk)
        step = _BLOCK * HOP
        for start in range(0, len(chunk), step):
            self._pending = np.concatenate([self._pending, chunk[start : start + step]])
            self._drain((len(self._pending) - WINDOW) // HOP + 1)

    def finish(self) -> tuple[np.ndarray, np.ndarray]:
        """log_mel (N, 80) float16 and level (N,) float32 of the whole voice, as in types.Voice; N = ceil(samples / 160)."""
        if not self._finished:
            total = -(-self._samples // HOP)
            self._pending = np.concatenate([self._pending, np.zeros(WINDOW, np.float32)])
            self._drain(total - self._rows)
            self._reserve(self._rows)
            self._pending = np.empty(0, np.float32)
            self._finished = True
        return self._log_mel, self._level

    def _drain(self, rows: int) -> None:
        while rows > 0:
            count = min(rows, _BLOCK)
            self._transform(count)
            self._pending = self._pending[count * HOP :]
            rows -= count

    def _transform(self, count: int) -> None:
        frames = np.lib.stride_tricks.sliding_window_view(self._pending, WINDOW)[: count * HOP : HOP]
        spectrum = np.fft.rfft(frames * self._window, FFT)
        power = np.square(spectrum.real) + np.square(spectrum.imag)
        middle = frames[:, (WINDOW - HOP) // 2 : (WINDOW + HOP) // 2]
        if self._rows + count > len(self._level):
            self._reserve(self._rows + count + _SPARE)
        rows = slice(self._rows, self._rows + count)
        self._log_mel[rows] = np.log(power.astype(np.float32) @ self._filters + np.float32(FLOOR))
        self._level[rows] = np.sqrt(np.mean(np.square(middle), axis=1))
        self._rows += count

    def _reserve(self, rows: int) -> None:
        # In place: the system moves pages instead of copying, so that a long voice is never held twice.
        self._log_mel.resize((rows, MELS), refcheck=False)
        self._level.resize(rows, refcheck=False)
