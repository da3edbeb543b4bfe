"""What every engine must do, whatever it is made of. A new engine is added to ENGINES and passes the same tests."""

from __future__ import annotations

import re

import numpy as np
import pytest

from extensions.sadtalker.engines import choice
from extensions.sadtalker.preprocess import prepare_portrait
from extensions.sadtalker.types import COEFFICIENTS, MotionOptions, Voice
from webui.errors import ModelMissing
from webui.faces import face_finder
from webui.pictures import read_picture

ENGINES = (choice.Choice("builtin", "asked for by the test"),)


@pytest.fixture(scope="module")
def portrait(portrait_file):
    picture = read_picture(portrait_file).rgb
    return prepare_portrait(picture, face_finder().find(picture)[0].landmarks, "crop", 256)[0]


@pytest.fixture(scope="module", params=ENGINES, ids=lambda chosen: chosen.name)
def engine(request):
    return choice.load(request.param)


def a_voice(seconds: float) -> Voice:
    """Noise that swells and fades like syllables."""
    rows = round(seconds * 100)
    level = (0.1 * np.sin(np.arange(rows) / 12) ** 2 + 1e-4).astype(np.float32)
    noise = np.random.default_rng(0).normal(0, 1, (rows, 80))
    return Voice((noise + np.log(level[:, None] ** 2)).astype(np.float32), level, seconds)


def test_its_name_is_the_one_it_is_chosen_by(engine, request):
    assert engine.name in {chosen.name for chosen in ENGINES}


@pytest.mark.parametrize("frames", [1, 2, 7])
def test_one_row_and_one_frame_per_frame_asked_for(engine, portrait, frames):
    identity = engine.prepare(portrait)
    motion = engine.motion(a_voice(frames / 25), identity, MotionOptions(seed=1, frames=frames))
    assert motion.values.shape == (frames, len(COEFFICIENTS)) and np.isfinite(motion.values).all()
    pictures = list(engine.render(identity, motion))
    assert len(pictures) == frames
    for picture in pictures:
        assert picture.shape == (portrait.view.height, portrait.view.width, 3) and picture.dtype == np.uint8


def test_the_same_seed_moves_the_same_and_another_differently(engine, portrait):
    identity, voice = engine.prepare(portrait), a_voice(4)

    def move(seed):
        return engine.motion(voice, identity, MotionOptions(seed=seed, frames=100)).values

    assert np.array_equal(move(3), move(3))
    assert not np.array_equal(move(3), move(4))


def test_still_keeps_the_heads_pose(engine, portrait):
    identity = engine.prepare(portrait)
    motion = engine.motion(a_voice(4), identity, MotionOptions(seed=1, still=True, frames=100))
    for name in ("yaw", "pitch", "roll", "shift_x", "shift_y"):
        assert np.all(motion[name] == 0)


def test_frames_come_one_by_one(engine, portrait):
    identity = engine.prepare(portrait)
    motion = engine.motion(a_voice(400), identity, MotionOptions(seed=1, frames=10_000))
    assert next(iter(engine.render(identity, motion))).any()  # at once, not after the ten thousandth


@pytest.mark.parametrize("start", [0, 1, 5, 11])
def test_frames_are_the_same_wherever_rendering_starts(engine, portrait, start):
    """A job that goes on after a crash starts in the middle, and its video must be that of an uninterrupted one."""
    identity = engine.prepare(portrait)
    motion = engine.motion(a_voice(0.5), identity, MotionOptions(seed=1, frames=12))
    whole = list(engine.render(identity, motion))
    part = list(engine.render(engine.prepare(portrait), motion, start))
    assert len(part) == 12 - start and np.array_equal(part, whole[start:])


def test_its_weights_are_named(engine):
    assert engine.models and all(re.fullmatch("[0-9a-f]{12}", digest) for digest in engine.models.values())


def test_the_choice_is_explained(tmp_path):
    auto = choice.choose("auto", tmp_path)
    assert auto.name == "builtin" and "no SadTalker checkpoints" in auto.reason
    assert choice.choose("builtin", tmp_path).reason == "it was asked for"
    with pytest.raises(ModelMissing, match="SadTalker"):
        choice.choose("sadtalker", tmp_path)
    (tmp_path / "SadTalker").mkdir()
    (tmp_path / "SadTalker" / "SadTalker_V0.0.2_256.safetensors").write_bytes(b"")
    assert "cannot run" in choice.choose("auto", tmp_path).reason
