"""Makes clean synthetic speech sound like anybody anywhere: other throats, rooms, microphones, noise, codecs."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from training.speech.visemes import Segment

RATE = 16000


def resampled(x: np.ndarray, rate: int, factor: float = 1.0) -> np.ndarray:
    """To 16 kHz, and played `factor` times as fast: pitch, formants and pace change together, as between people."""
    count = max(2, round(len(x) * RATE / rate / factor))
    spectrum = np.fft.rfft(x)
    bins = np.zeros(count // 2 + 1, complex)
    keep = min(len(bins), len(spectrum))
    bins[:keep] = spectrum[:keep]
    return (np.fft.irfft(bins, count) * (count / len(x))).astype(np.float32)


def moved(segments: list[Segment], offset: float, factor: float) -> list[Segment]:
    return [replace(s, start=s.start / factor + offset, end=s.end / factor + offset) for s in segments]


def filtered(x: np.ndarray, rng: np.random.Generator, decibels: float) -> np.ndarray:
    """A smooth random frequency response of up to +-decibels, and often a codec's band limits."""
    spectrum = np.fft.rfft(x)
    hertz = np.fft.rfftfreq(len(x), 1 / RATE)
    knots = np.array([60, 200, 500, 1200, 2500, 4500, 8000])
    gain = np.interp(np.log(hertz + 30), np.log(knots), rng.uniform(-decibels, decibels, len(knots)))
    if rng.random() < 0.4:
        low, high = rng.uniform(40, 320), rng.choice([3400, 4000, 5500, 7000])
        gain -= 40 * np.clip(1 - hertz / low, 0, 1) + 60 * np.clip((hertz - high) / 500, 0, 1)
    return np.fft.irfft(spectrum * 10 ** (gain / 20), len(x)).astype(np.float32)


def reverberant(x: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A room: an exponentially dying tail of noise behind the direct sound."""
    seconds, direct = rng.uniform(0.12, 0.5), rng.uniform(3, 18)
    t = np.arange(int(seconds * RATE)) / RATE
    tail = rng.standard_normal(len(t)) * np.exp(-6.9 * t / seconds)
    tail[: int(0.003 * RATE)] = 0
    tail *= 10 ** (-direct / 20) / np.sqrt(np.sum(tail**2))
    tail[0] = 1.0
    size = len(x) + len(tail)
    return np.fft.irfft(np.fft.rfft(x, size) * np.fft.rfft(tail, size), size)[: len(x)].astype(np.float32)


def noise(count: int, rng: np.random.Generator) -> np.ndarray:
    """Noise of a random colour, with hum and slow swelling now and then; rms 1."""
    hertz = np.fft.rfftfreq(count, 1 / RATE)
    spectrum = np.fft.rfft(rng.standard_normal(count)) * (hertz + 40) ** -rng.uniform(0, 1.2)
    x = np.fft.irfft(spectrum, count)
    x /= x.std() + 1e-9
    t = np.arange(count) / RATE
    if rng.random() < 0.3:
        mains = rng.choice([50, 60])
        x += sum(rng.uniform(0, 1) * np.sin(2 * np.pi * mains * k * t + rng.uniform(0, 6)) for k in range(1, 6))
    if rng.random() < 0.3:
        x *= 1 + 0.7 * np.sin(2 * np.pi * rng.uniform(0.2, 2) * t)
    return (x / (x.std() + 1e-9)).astype(np.float32)


def music(count: int, rng: np.random.Generator) -> np.ndarray:
    """Chords, a beat and a melody out of harmonics; rms 1."""
    x = np.zeros(count)
    beat = int(RATE * rng.uniform(0.18, 0.6))
    for start in range(0, count, beat):
        length = min(count - start, int(beat * rng.uniform(0.7, 2.0)))
        t = np.arange(length) / RATE
        for _ in range(int(rng.integers(1, 4))):
            pitch = 110 * 2 ** (rng.integers(0, 30) / 12)
            partials = range(1, int(rng.integers(2, 9)))
            tone = sum(rng.uniform(0.3, 1) / k * np.sin(2 * np.pi * pitch * k * t) for k in partials)
            x[start : start + length] += tone * np.exp(-t * rng.uniform(0.5, 8)) * np.minimum(1, t / 0.01)
        if rng.random() < 0.5:
            x[start : start + length] += 0.8 * rng.standard_normal(length) * np.exp(-t * 40)
    return (x / (x.std() + 1e-9)).astype(np.float32)


def background(count: int, rng: np.random.Generator) -> np.ndarray:
    return music(count, rng) if rng.random() < 0.25 else noise(count, rng)


def recorded(x: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Speech as some microphone somewhere hears it. A quarter of it stays nearly clean."""
    if rng.random() > 0.25:
        x = filtered(x, rng, 9.0)
        x = reverberant(x, rng) if rng.random() < 0.5 else x
        loud = np.sqrt(np.mean(np.square(x[np.abs(x) > 0.05 * np.abs(x).max()])) + 1e-12)
        x = x + loud * 10 ** (-rng.uniform(8, 50) / 20) * background(len(x), rng)
    x = x * 10 ** (-rng.uniform(0, 30) / 20) / (np.abs(x).max() + 1e-9)
    if rng.random() < 0.1:
        x = np.tanh(3 * x) / 3
    return x.astype(np.float32)
