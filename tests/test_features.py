"""Log-mel rows: the same however the sound arrives, dated rightly, and without keeping the waveform."""

from __future__ import annotations

import time
import tracemalloc

import numpy as np
import pytest

from extensions.sadtalker.features import FLOOR, HOP, MELS, LogMel, mel_filters


def rows_of(samples, *cuts):
    mel = LogMel()
    for piece in np.split(samples, cuts):
        mel.push(piece)
    return mel.finish()


def noise(seconds, seed=0):
    return (0.1 * np.random.default_rng(seed).standard_normal(int(seconds * 16000))).astype(np.float32)


@pytest.mark.parametrize("cuts", [[1], [7, 8, 9, 300], list(range(160, 16000, 160)), list(range(0, 40000, 333))])
def test_pieces_of_any_length_give_the_same_rows(cuts):
    sound = noise(2.5)
    whole, pieces = rows_of(sound), rows_of(sound, *cuts)
    np.testing.assert_allclose(pieces[0], whole[0], rtol=0, atol=1e-4)
    np.testing.assert_array_equal(pieces[1], whole[1])


@pytest.mark.parametrize(("samples", "rows"), [(0, 0), (1, 1), (160, 1), (161, 2), (16000, 100), (16001, 101)])
def test_a_row_per_ten_milliseconds(samples, rows):
    log_mel, level = rows_of(np.zeros(samples, np.float32))
    assert log_mel.shape == (rows, MELS)
    assert level.shape == (rows,)
    assert log_mel.dtype == np.float16 and level.dtype == np.float32


def test_a_click_is_loudest_in_the_row_centred_on_it():
    sound = np.zeros(16000, np.float32)
    sound[37 * HOP] = 1.0
    log_mel, level = rows_of(sound)
    assert log_mel.sum(axis=1).argmax() == 37
    assert level.argmax() == 37


def test_digital_silence_is_the_floor():
    log_mel, level = rows_of(np.zeros(8000, np.float32))
    np.testing.assert_allclose(log_mel, np.log(FLOOR), rtol=1e-3)
    assert not level.any()


def test_a_tone_lights_the_band_at_its_pitch():
    t = np.arange(16000) / 16000
    for hertz in (200, 1000, 4000):
        log_mel, level = rows_of((0.5 * np.sin(2 * np.pi * hertz * t)).astype(np.float32))
        band = log_mel[50].argmax()
        assert abs(mel_filters()[:, band].argmax() * 16000 / 512 - hertz) < 100
        assert level[50] == pytest.approx(0.5 / np.sqrt(2), rel=0.1)


def test_every_band_hears_something():
    assert (mel_filters().sum(axis=0) > 0.4).all()


def test_broken_samples_count_as_silence():
    sound = noise(0.5)
    sound[100:200] = np.nan
    sound[300] = np.inf
    log_mel, level = rows_of(sound)
    assert np.isfinite(log_mel).all()
    assert np.isfinite(level).all()


def test_wrong_use_is_refused():
    mel = LogMel()
    with pytest.raises(ValueError, match="mono"):
        mel.push(np.zeros((10, 2), np.float32))
    mel.finish()
    with pytest.raises(RuntimeError):
        mel.push(np.zeros(10, np.float32))


def test_memory_is_that_of_the_rows_not_of_the_sound():
    minute = noise(60)
    mel = LogMel()
    tracemalloc.start()
    try:
        for _ in range(5):
            mel.push(minute)
        log_mel, _ = mel.finish()
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < log_mel.nbytes + 16e6


def test_sixteen_seconds_take_a_moment():
    sound = noise(16)
    took = []
    for _ in range(3):
        began = time.process_time()
        rows_of(sound)
        took.append(time.process_time() - began)
    assert min(took) < 0.3  # 0.03 s on an idle core
