"""Sound to the mel rows that SadTalker's networks hear (Wav2Lip's), piece by piece. Keeps the rows, never the waveform.

80 rows a second from 16 kHz mono, for a video at 25 frames a second; row i is centred on sample 200 i. Samples that fill no whole
frame at the end are not heard, and beyond the ends is silence. numpy alone.
"""

from __future__ import annotations

import numpy as np

SAMPLE_RATE = 16000
FPS = 25
SAMPLES_PER_FRAME = SAMPLE_RATE // FPS
HOP = 200
WINDOW = 800
MELS = 80
ROWS_PER_SECOND = SAMPLE_RATE // HOP
WIDTH = 16
"""Rows that a network hears at once: the frame's own and those round it."""

LOUDEST = 4.0
"""Rows are -4 (silence) .. 4."""

_LOW_HZ, _HIGH_HZ = 55.0, 7600.0
_PRE_EMPHASIS = 0.97
_FLOOR = 1e-5  # of the magnitude: -100 dB
_REFERENCE_DB = 20.0
_RANGE_DB = 100.0
_LEAD = 2  # frames that a window begins before its frame
_BLOCK = 512  # rows per transform: 3 MB of work space
_SPARE = 4096  # rows reserved ahead: 1.3 MB


class MelRows:
    """Push 16 kHz mono samples in pieces of any length, then call finish() once."""

    def __init__(self) -> None:
        # Periodic: the window of a Fourier transform, as librosa's.
        self._window = np.hanning(WINDOW + 1)[:-1]
        self._filters = mel_filters().T
        # Pre-emphasised samples not used up; the first row looks WINDOW / 2 samples back, before the sound.
        self._pending = np.zeros(WINDOW // 2)
        self._last = 0.0
        self._samples = 0
        self._count = 0
        self._rows = np.empty((0, MELS), np.float32)
        self._finished = False

    def push(self, chunk: np.ndarray) -> None:
        """Take the next samples: float, full scale = 1, shape (n,). NaN and infinity count as silence.

        Raises ValueError when chunk is not one-dimensional, RuntimeError after finish().
        """
        if self._finished:
            raise RuntimeError("push() was called after finish().")
        if np.ndim(chunk) != 1:
            raise ValueError(f"Expected mono samples of shape (n,), got {np.shape(chunk)}.")
        step = _BLOCK * HOP
        for start in range(0, len(chunk), step):
            piece = np.nan_to_num(np.asarray(chunk[start : start + step], float), nan=0.0, posinf=0.0, neginf=0.0)
            before = np.concatenate([[self._last], piece[:-1]])
            self._pending = np.concatenate([self._pending, piece - _PRE_EMPHASIS * before])
            self._last = piece[-1]
            self._samples += len(piece)
            self._drain()

    def finish(self) -> np.ndarray:
        """The rows of the whole sound, (80 per second + 1, 80) float32, -4..4; none when there is no whole frame."""
        if not self._finished:
            spare = self._samples - self.frames * SAMPLES_PER_FRAME
            kept = self._pending[: len(self._pending) - spare]
            self._pending = np.concatenate([kept, np.zeros(WINDOW // 2)])
            self._transform((len(self._pending) - WINDOW) // HOP + 1 if self.frames else 0)
            self._rows.resize((self._count, MELS), refcheck=False)
            self._pending = np.empty(0)
            self._finished = True
        return self._rows

    @property
    def frames(self) -> int:
        """Frames of video that the samples so far fill."""
        return self._samples // SAMPLES_PER_FRAME

    def _drain(self) -> None:
        """Turn into rows what no later sample can change: a frame that is not filled in the end is not heard in any row."""
        certain = len(self._pending) - self._samples % SAMPLES_PER_FRAME
        self._transform((certain - WINDOW) // HOP + 1)

    def _transform(self, count: int) -> None:
        if count <= 0:
            return
        pieces = np.lib.stride_tricks.sliding_window_view(self._pending, WINDOW)[: count * HOP : HOP]
        magnitude = np.abs(np.fft.rfft(pieces * self._window))
        level = 20.0 * np.log10(np.maximum(_FLOOR, magnitude @ self._filters)) - _REFERENCE_DB
        rows = 2.0 * LOUDEST * (level + _RANGE_DB) / _RANGE_DB - LOUDEST
        if self._count + count > len(self._rows):
            # In place: the system moves pages instead of copying, so that a long voice is never held twice.
            self._rows.resize((self._count + count + _SPARE, MELS), refcheck=False)
        self._rows[self._count : self._count + count] = np.clip(rows, -LOUDEST, LOUDEST)
        self._count += count
        self._pending = self._pending[count * HOP :]


def windows(rows: np.ndarray, start: int, stop: int) -> np.ndarray:
    """What is heard round the frames `start` to `stop`: (n, 80, 16) float32. Beyond the ends the outermost rows are repeated.

    rows: of the whole sound, as MelRows gives them; without any, nothing is heard: zeros, upstream's idle mode.
    """
    if not len(rows):
        return np.zeros((stop - start, MELS, WIDTH), np.float32)
    # Towards zero, in this order of operations: as upstream's int(80. * (frame / 25.)), which puts the first windows closer.
    first = np.trunc(float(ROWS_PER_SECOND) * (np.arange(start - _LEAD, stop - _LEAD) / float(FPS))).astype(int)
    which = np.clip(first[:, None] + np.arange(WIDTH), 0, len(rows) - 1)
    return np.ascontiguousarray(rows[which].transpose(0, 2, 1))


def mel_filters() -> np.ndarray:
    """(MELS, WINDOW // 2 + 1) float32: triangles of area 1 on Slaney's mel scale (Auditory Toolbox, 1998), as librosa's."""
    corners = _hertz(np.linspace(_mel(_LOW_HZ), _mel(_HIGH_HZ), MELS + 2))
    bins = np.arange(WINDOW // 2 + 1) * SAMPLE_RATE / WINDOW
    distance = corners[:, None] - bins
    width = np.diff(corners)[:, None]
    triangles = np.maximum(0.0, np.minimum(-distance[:-2] / width[:-1], distance[2:] / width[1:]))
    return (triangles * (2.0 / (corners[2:] - corners[:-2]))[:, None]).astype(np.float32)


_LINEAR_HZ = 200.0 / 3.0  # Slaney's scale is linear up to 1 kHz, and a logarithm above
_BREAK_HZ = 1000.0
_BREAK_MEL = _BREAK_HZ / _LINEAR_HZ
_LOG_STEP = np.log(6.4) / 27.0


def _mel(hertz: float) -> float:
    if hertz < _BREAK_HZ:
        return hertz / _LINEAR_HZ
    return _BREAK_MEL + np.log(hertz / _BREAK_HZ) / _LOG_STEP


def _hertz(mel: np.ndarray) -> np.ndarray:
    above = _BREAK_HZ * np.exp(_LOG_STEP * (np.maximum(mel, _BREAK_MEL) - _BREAK_MEL))
    return np.where(mel < _BREAK_MEL, mel * _LINEAR_HZ, above)
