"""Voice to mouth: lips meet on p b m, the mouth rests in silence, and vowels have their shapes.

Speech comes from flite, whose phone times are known. None of these sentences was trained on, nor the voice awb.
"""

from __future__ import annotations

import itertools
import shutil
from functools import lru_cache

import numpy as np
import pytest

from extensions.sadtalker.engines.geometric import speech
from extensions.sadtalker.features import LogMel
from extensions.sadtalker.types import Voice

FPS = 25.0
SENTENCES = (
    "My brother Ben baked a plum pie for mum on Monday.",
    "The map of the palace was painted by a humble poet.",
    "Bring me the purple umbrella, please, before it rains.",
    "Some people prefer apples; Bob prefers bananas and melons.",
    "A bumpy bus ride made Pam grumble about the company.",
    "Could we possibly borrow the blue lamp from Mister Palmer?",
    "Remember the number: it may be important tomorrow.",
)


def heard(samples) -> Voice:
    mel = LogMel()
    mel.push(np.asarray(samples, np.float32))
    return Voice(*mel.finish(), len(samples) / 16000)


def frame_times(voice, fps=FPS):
    return np.arange(round(voice.seconds * fps)) / fps


def columns(voice, fps=FPS):
    return dict(zip(speech.MOUTH, speech.mouth(voice, frame_times(voice, fps)).T, strict=True))


@lru_cache(maxsize=64)
def spoken(text, name="rms"):
    """(samples at 16 kHz, segments)."""
    if not shutil.which("flite"):
        pytest.skip("flite is not installed, so there is no speech with known phone times (apt-get install flite)")
    from training.speech import augment, corpus

    x, rate, segments = corpus.flite(text, name)
    return augment.resampled(x, rate), tuple(segments)


def white(seconds, decibels, seed=0):
    return np.random.default_rng(seed).standard_normal(int(seconds * 16000)) * 10 ** (decibels / 20)


def closure_counts(name, fps=FPS):
    hit = wanted = right = given = 0
    for text in SENTENCES:
        x, segments = spoken(text, name)
        voice = heard(x)
        times = frame_times(voice, fps)
        shut = times[columns(voice, fps)["press"] >= 0.95]
        spans = np.array([(s.start, s.end) for s in segments if s.ipa in ("p", "b", "m")])
        reach = 1 / fps
        hit += sum(np.any(np.abs(shut - (a + b) / 2) <= reach) for a, b in spans)
        right += sum(np.any((t >= spans[:, 0] - reach) & (t <= spans[:, 1] + reach)) for t in shut)
        wanted, given = wanted + len(spans), given + len(shut)
    return hit / wanted, right / given


@pytest.mark.parametrize("name", ["rms", "slt", "kal16", "awb"])
def test_lips_meet_on_p_b_m_and_seldom_elsewhere(name):
    recall, precision = closure_counts(name)
    assert recall >= 0.85
    assert precision >= 0.65


def test_lips_meet_at_a_low_frame_rate_too():
    recall, _ = closure_counts("awb", fps=10.0)
    assert recall >= 0.85


def test_digital_silence_leaves_the_mouth_alone():
    assert not speech.mouth(heard(np.zeros(48000)), np.arange(75) / FPS).any()


@pytest.mark.parametrize("decibels", [-65, -50, -35, -20])
def test_noise_is_not_speech(decibels):
    mouth = columns(heard(white(4, decibels)))
    assert mouth["jaw"].max() < 0.1
    assert mouth["press"].max() == 0


def test_music_moves_the_mouth_little():
    from training.speech.augment import music

    tracks = [columns(heard(0.1 * music(64000, np.random.default_rng(seed)))) for seed in range(900, 910)]
    assert np.mean([t["jaw"] for t in tracks]) < 0.08
    assert np.mean([t["press"] > 0.5 for t in tracks]) < 0.03


@pytest.mark.parametrize("floor", [-200, -60, -45])
def test_the_mouth_is_shut_in_the_pauses_of_speech(floor):
    x, _ = spoken(SENTENCES[0])
    sound = np.concatenate([np.zeros(16000), x, np.zeros(24000), x, np.zeros(16000)]) + 0.0
    mouth = columns(heard(sound + white(len(sound) / 16000, floor)))
    times = np.arange(len(mouth["jaw"])) / FPS
    end = 1 + len(x) / 16000
    pause = (times < 0.8) | ((times > end + 0.3) & (times < end + 1.2)) | (times > times[-1] - 0.6)
    assert mouth["jaw"][pause].max() < 0.03
    assert np.median(mouth["jaw"][pause]) == 0
    assert not mouth["press"][pause].any()
    assert mouth["jaw"][~pause].max() > 0.4


def test_the_level_of_the_recording_does_not_matter():
    x, _ = spoken(SENTENCES[1])
    loud, soft = columns(heard(x)), columns(heard(0.05 * x))
    assert np.abs(loud["jaw"] - soft["jaw"]).max() < 0.1


def test_vowels_have_their_shapes():
    def mean_of(text, name):
        return float(np.mean([columns(heard(spoken(text, voice)[0]))[name].mean() for voice in ("awb", "slt")]))

    who, see, far = "Who knew two blue shoes?", "He sees these green trees.", "Large calm cars are far apart."
    assert mean_of(who, "rounding") > 2 * mean_of(see, "rounding")
    assert mean_of(see, "spreading") > 2 * mean_of(who, "spreading")
    assert mean_of(far, "jaw") > 1.4 * mean_of(see, "jaw")


def test_the_lower_lip_meets_the_teeth_on_f_and_v():
    tucked, at_rest = [], []
    for name, text in itertools.product(
        ("awb", "slt"),
        ("The farmer found four funny foxes far off the field.", "Is Steve fond of fresh fish from France?"),
    ):
        x, segments = spoken(text, name)
        voice = heard(x)
        lip, times = columns(voice)["lower_lip"], frame_times(voice)
        middles = [(s.start + s.end) / 2 for s in segments if s.ipa in ("f", "v")]
        tucked += [lip[np.abs(times - m) < 0.05].max() > 0.4 for m in middles]
        at_rest.append(np.median(lip))
    assert np.mean(tucked) >= 0.75
    assert max(at_rest) < 0.1


def test_shapes_move_smoothly_and_stay_in_range():
    for name in ("awb", "slt"):
        x, _ = spoken(SENTENCES[3], name)
        mouth = columns(heard(x))
        assert all(c.min() >= 0 and c.max() <= 1 and np.isfinite(c).all() for c in mouth.values())
        for shape in ("jaw", "rounding", "spreading", "upper_lip"):
            power = np.abs(np.fft.rfft(mouth[shape] - mouth[shape].mean())) ** 2
            fast = np.fft.rfftfreq(len(mouth[shape]), 1 / FPS) > 8.0  # faster than a jaw can
            assert power[fast].sum() < 0.03 * power.sum(), shape


def test_blocks_leave_no_seam(monkeypatch):
    x, _ = spoken(SENTENCES[2])
    voice = heard(x)
    whole = speech.mouth(voice, frame_times(voice))
    monkeypatch.setattr(speech, "_BLOCK", 50)
    np.testing.assert_allclose(speech.mouth(voice, frame_times(voice)), whole, atol=1e-3)


@pytest.mark.parametrize("fps", [10.0, 24.0, 25.0, 29.97, 60.0])
def test_a_closure_reaches_its_nearest_frame_whatever_the_rate(fps):
    times = np.arange(int(10 * fps)) / fps
    middles = np.random.default_rng(0).uniform(0.5, 9.5, 30)
    press = speech.press_at(times, middles, np.full(30, 0.02))
    for middle in middles:
        assert press[np.abs(times - middle).argmin()] == 1.0
    assert (press == 0).any()


def test_no_frames_and_one_frame():
    voice = heard(white(1, -30))
    assert speech.mouth(voice, np.empty(0)).shape == (0, 7)
    assert speech.mouth(voice, np.zeros(1)).shape == (1, 7)
    assert speech.mouth(heard(np.full(1, 0.5)), np.zeros(1)).shape == (1, 7)


def test_the_weights_are_small():
    assert speech.WEIGHTS.stat().st_size <= 400_000
