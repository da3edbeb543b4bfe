"""The whole face: within human bounds for every seed and style, the same each time, for clips of any length."""

from __future__ import annotations

import itertools
import time

import numpy as np
import pytest

from extensions.sadtalker.engines.geometric import motion
from extensions.sadtalker.engines.geometric.motion import STYLES, make_motion, pose_style
from extensions.sadtalker.features import LogMel
from extensions.sadtalker.types import COEFFICIENTS, HEAD, MotionOptions, Voice

ROTATION = [COEFFICIENTS.index(n) for n in ("yaw", "pitch", "roll")]


def heard(samples) -> Voice:
    mel = LogMel()
    mel.push(np.asarray(samples, np.float32))
    return Voice(*mel.finish(), len(samples) / 16000)


def babble(seconds, seed=0):
    """Buzzing syllables of changing loudness with pauses: not speech, but with speech's rhythm."""
    rng = np.random.default_rng(seed)
    t = np.arange(int(seconds * 16000)) / 16000
    buzz = sum(np.sin(2 * np.pi * 120 * k * t) / k for k in range(1, 30))
    knots = rng.choice([0.001, 0.1, 0.3, 0.6, 1.0], int(seconds * 6) + 2)
    return 0.2 * buzz * np.interp(t * 6, np.arange(len(knots)), knots)


@pytest.fixture(scope="module")
def voice():
    return heard(babble(16))


@pytest.fixture(scope="module")
def silence():
    return heard(np.zeros(16 * 16000))


def position(m):
    """Where eyes and nose are seen to go, in inter-ocular distances: (T, 2)."""
    x = 1.2 * np.sin(np.radians(m["yaw"])) + m["shift_x"]
    y = 1.0 * np.sin(np.radians(m["pitch"])) + m["shift_y"]
    return np.stack([x, y], axis=1)


def runs(flags):
    """Starts and ends (exclusive) of the stretches where flags is true."""
    return np.flatnonzero(np.diff(np.r_[0, flags.astype(int), 0])).reshape(-1, 2)


def test_the_same_options_give_the_same_motion(voice):
    options = MotionOptions(seed=5, pose_style=9)
    np.testing.assert_array_equal(make_motion(voice, options).values, make_motion(voice, options).values)


def test_another_seed_moves_otherwise(voice):
    a, b = (make_motion(voice, MotionOptions(seed=s)).values[:, ROTATION] for s in (1, 2))
    assert np.sqrt(np.mean((a - b) ** 2)) > 0.3


@pytest.mark.parametrize("kind", ["voice", "silence"])
def test_any_two_pose_styles_differ(kind, request):
    sound = request.getfixturevalue(kind)
    options = [MotionOptions(seed=3, pose_style=s, expression_scale=0.0) for s in range(STYLES)]
    poses = [make_motion(sound, o).values[:, ROTATION] for o in options]
    pairs = itertools.combinations(poses, 2)
    assert min(np.sqrt(np.mean((a - b) ** 2)) for a, b in pairs) >= 0.5


def test_there_are_46_styles_and_no_more():
    assert len({pose_style(n) for n in range(46)}) == 46
    for wrong in (-1, 46):
        with pytest.raises(ValueError, match="pose_style"):
            pose_style(wrong)


@pytest.mark.parametrize("kind", ["voice", "silence"])
def test_the_head_moves_visibly_moderately_and_smoothly(kind, request):
    sound = request.getfixturevalue(kind)
    for style, seed in itertools.product(range(STYLES), range(2)):
        m = make_motion(sound, MotionOptions(seed=seed, pose_style=style, expression_scale=0.0))
        span = np.ptp(position(m), axis=0)
        assert 0.06 <= span.max() <= 0.25, (style, seed)
        assert span.min() >= 0.04, (style, seed)
        assert np.abs(np.diff(position(m), n=2, axis=0)).mean() < 0.002, (style, seed)
        for name, limit in zip(HEAD, motion.POSE_LIMITS, strict=True):
            assert np.abs(m[name]).max() <= limit


def test_the_head_stays_in_its_band(voice):
    yaw = make_motion(heard(babble(60)), MotionOptions(seed=0))["yaw"]
    power = np.abs(np.fft.rfft(yaw - yaw.mean())) ** 2
    hertz = np.fft.rfftfreq(len(yaw), 1 / 25)
    assert power[hertz > 1.2].sum() < 0.01 * power.sum()


def test_nods_follow_the_voice():
    x = np.zeros(12 * 16000)
    t = np.arange(4000) / 16000
    beats = np.arange(2.0, 10.0, 2.0)
    for beat in beats:
        at = int(beat * 16000)
        x[at : at + 4000] = 0.5 * np.sin(2 * np.pi * 150 * t) * np.hanning(4000)
    nodding = make_motion(heard(x), MotionOptions(seed=0))["pitch"]
    plain = make_motion(heard(np.zeros(len(x))), MotionOptions(seed=0))["pitch"]
    at = np.round((beats + 0.2) * 25).astype(int)
    assert (nodding[at] - nodding[at - 12]).mean() > (plain[at] - plain[at - 12]).mean() + 0.2


def test_the_clip_begins_and_ends_as_the_photo(voice):
    m = make_motion(voice, MotionOptions(seed=1))
    rest = [COEFFICIENTS.index(n) for n in (*HEAD, "blink", "brow", "gaze_x", "gaze_y")]
    assert not m.values[0, rest].any()
    assert np.abs(m.values[-1, [COEFFICIENTS.index(n) for n in HEAD]]).max() < 1e-3


def test_still_keeps_the_head_and_lets_the_face_live(voice):
    m = make_motion(voice, MotionOptions(seed=1, still=True))
    assert all(not m[name].any() for name in HEAD)
    assert all(np.ptp(m[name]) > 0 for name in ("blink", "brow", "gaze_x", "gaze_y"))


def test_blinks_come_at_human_intervals(voice, silence):
    for sound, seed in itertools.product((voice, silence), range(60)):
        blink = make_motion(sound, MotionOptions(seed=seed, expression_scale=0.0))["blink"]
        closed = runs(blink >= 0.95)
        assert 3 <= len(closed) <= 8, seed
        assert not blink[:15].any()
        for start, end in runs(blink > 0.01):
            assert 0.15 <= (end - start) / 25 <= 0.30 or len(runs(blink[start:end] >= 0.95)) == 2
        assert len(closed) == len(runs(blink > 0.01)) or len(runs(blink > 0.5)) == len(closed)


def test_lids_close_faster_than_they_open(voice):
    blink = make_motion(voice, MotionOptions(seed=0, fps=60.0))["blink"]
    start, end = runs(blink > 0.01)[0]
    shut = runs(blink >= 0.99)[0]
    assert shut[0] - start < end - shut[1]


@pytest.mark.parametrize("fps", [10.0, 24.0, 29.97, 60.0])
def test_every_blink_shuts_the_eye_at_every_frame_rate(voice, fps):
    blink = make_motion(voice, MotionOptions(seed=4, fps=fps))["blink"]
    stretches = runs(blink > 0.01)
    assert len(stretches) >= 3
    assert all(blink[a:b].max() >= 0.95 for a, b in stretches)


def test_no_blink_when_none_is_wanted(voice):
    assert not make_motion(voice, MotionOptions(seed=0, blink=False))["blink"].any()


def test_eyes_stay_near_the_camera_and_hold_between_saccades(voice):
    for seed in range(20):
        m = make_motion(voice, MotionOptions(seed=seed, still=True, expression_scale=0.0))
        look = np.hypot(m["gaze_x"], m["gaze_y"])
        assert look.max() <= 0.09
        assert np.abs(m.values[:, [9, 10]]).max() <= motion.GAZE_LIMIT
        assert np.mean(look < 0.02) > 0.5
        assert np.mean(np.abs(np.diff(m["gaze_x"])) < 1e-6) > 0.8


def test_expression_scale_moves_mouth_and_brow_only(voice):
    none, plain = (make_motion(voice, MotionOptions(seed=2, expression_scale=s)) for s in (0.0, 1.0))
    for name in (*motion.MOUTH, "brow"):
        assert not none[name].any()
    for name in (*HEAD, "blink", "gaze_x", "gaze_y"):
        np.testing.assert_array_equal(none[name], plain[name])
    strong = make_motion(voice, MotionOptions(seed=2, expression_scale=3.0))
    assert all(strong[name].max() <= 1 for name in (*motion.MOUTH, "brow"))


def test_silence_moves_no_lips(silence):
    m = make_motion(silence, MotionOptions(seed=0))
    assert all(not m[name].any() for name in motion.MOUTH)
    assert m["blink"].max() == 1.0


@pytest.mark.parametrize("frames", [1, 2, 3, 10, 401, 500])
@pytest.mark.parametrize("fps", [10.0, 25.0, 60.0])
def test_exactly_the_frames_asked_for(voice, frames, fps):
    m = make_motion(voice, MotionOptions(seed=0, frames=frames, fps=fps))
    assert m.values.shape == (frames, len(COEFFICIENTS))
    assert m.values.dtype == np.float32
    assert np.isfinite(m.values).all()
    assert m.fps == fps


@pytest.mark.parametrize("samples", [0, 1, 159, 161, 4000])
def test_the_shortest_voices(samples):
    sound = heard(np.full(samples, 0.3))
    assert len(make_motion(sound, MotionOptions(seed=0))) == max(1, round(samples / 16000 * 25))


def test_ten_minutes_take_seconds():
    sound = heard(np.tile(babble(20), 30))
    began = time.process_time()
    m = make_motion(sound, MotionOptions(seed=0))
    assert time.process_time() - began < 12.0  # about 2 s on an idle core; others may be at work on this one
    assert len(m) == 15000
    assert 10 <= len(runs(m["blink"] >= 0.95)) / 10 <= 30  # a minute
