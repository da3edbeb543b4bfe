"""What every engine must do, whatever it is made of. A new engine is added to ENGINES and passes the same tests."""

from __future__ import annotations

import inspect
import re

import numpy as np
import pytest

from extensions.sadtalker.audio import listen
from extensions.sadtalker.engines import choice
from extensions.sadtalker.engines.geometric.engine import GeometricEngine
from extensions.sadtalker.jobs import TalkingHeadRequest
from extensions.sadtalker.types import HEAD, MotionOptions
from webui.errors import Cancelled, InvalidRequest, ModelMissing, NoFaceFound, UnsupportedModel
from webui.faces import face_finder
from webui.pictures import read_picture
from webui.settings import Settings

ENGINES = ("builtin", "sadtalker")


def an_engine(name, folder, mode="crop"):
    """The engine by its name; SadTalker's with small networks of random numbers."""
    if name == "builtin":
        return GeometricEngine()
    pytest.importorskip("torch")
    from extensions.sadtalker.engines.neural.engine import NeuralEngine
    from tests.small_networks import SmallCheckpoint

    return NeuralEngine(SmallCheckpoint(folder), Settings(models_dir=folder, device="cpu"), mode, "exact", None)


@pytest.fixture(scope="module", params=ENGINES)
def engine(request, tmp_path_factory):
    made = an_engine(request.param, tmp_path_factory.mktemp(request.param))
    with made.ready():
        yield made


@pytest.fixture(scope="module")
def photo(portrait_file):
    picture = read_picture(portrait_file).rgb
    return picture, face_finder().find(picture)[0]


@pytest.fixture(scope="module")
def portrait(engine, photo):
    return engine.frame(*photo, "crop", 256)[0]


@pytest.fixture(scope="module")
def identity(engine, portrait):
    return engine.prepare(portrait)


def heard(engine, seconds):
    """Noise that swells and fades like syllables, as the engine hears it."""
    samples = np.random.default_rng(0).normal(0, 0.1, round(seconds * 16000)) * np.sin(np.arange(round(seconds * 16000)) / 1900)
    ear = engine.ear()
    for start in range(0, len(samples), 5000):
        ear.push(samples[start : start + 5000].astype(np.float32))
    return ear.finish()


def options(frames, **more):
    return MotionOptions(seed=1, frames=frames, **more)


def moved(engine, identity, seconds=1.0, **more):
    frames = more.pop("frames", round(seconds * 25))
    return engine.motion(heard(engine, seconds), identity, options(frames, **more))


def test_its_name_is_the_one_it_is_chosen_by(engine):
    assert engine.name in ENGINES


def test_it_hears_how_long_a_voice_is_and_whether_there_is_one(engine):
    assert heard(engine, 1.2345).seconds == round(1.2345 * 16000) / 16000 and not heard(engine, 0.5).silent
    ear = engine.ear()
    ear.push(np.zeros(8000, np.float32))
    assert ear.finish().silent


@pytest.mark.parametrize("frames", [1, 2, 7, 21])
def test_one_row_and_one_frame_per_frame_asked_for(engine, identity, portrait, frames):
    motion = moved(engine, identity, frames / 25, frames=frames)
    assert motion.columns == engine.columns
    assert motion.values.shape == (frames, len(engine.columns)) and np.isfinite(motion.values).all()
    shown = list(engine.render(identity, motion, max(0, frames - 3)))
    assert len(shown) == min(3, frames)
    for picture in shown:
        assert picture.shape == (portrait.view.height, portrait.view.width, 3) and picture.dtype == np.uint8


@pytest.mark.parametrize("fps", [10.0, 24.0, 29.97, 60.0])
def test_a_video_of_another_rate_has_a_row_for_each_of_its_frames(engine, identity, fps):
    usual = moved(engine, identity, 2.0)
    motion = moved(engine, identity, 2.0, fps=fps, frames=round(2 * fps))
    assert len(motion) == round(2 * fps) and motion.fps == fps
    middle = np.array([motion["yaw"][round(fps * second)] for second in (0.4, 0.8, 1.2, 1.6)])
    assert np.allclose(middle, usual["yaw"][[10, 20, 30, 40]], atol=0.5 + 0.1 * np.abs(usual["yaw"]).max())


def test_the_same_seed_moves_the_same_and_another_differently(engine, identity):
    voice = heard(engine, 2)

    def move(seed):
        return engine.motion(voice, identity, MotionOptions(seed=seed, frames=50)).values

    assert np.array_equal(move(3), move(3))
    assert not np.array_equal(move(3), move(4))


def test_still_keeps_the_heads_pose(engine, identity):
    motion = moved(engine, identity, 2.0, still=True)
    for name in HEAD:
        assert np.all(motion[name] == 0)
    for name in engine.coefficients:
        if name.startswith(("angle", "translation")):
            assert np.ptp(motion[name]) == 0


def test_every_style_moves_the_head_its_own_way(engine, identity):
    seen = {moved(engine, identity, 2.0, pose_style=style)["yaw"].tobytes() for style in (0, 7, 45)}
    assert len(seen) == 3


def test_expressions_grow_with_their_scale(engine, identity, voice_file):
    names = [name for name in engine.coefficients if name in ("jaw", "spreading") or name.startswith("expression")]
    voice = listen(voice_file, 60, engine.ear())

    def spread(scale):
        motion = engine.motion(voice, identity, options(50, expression_scale=scale, blink=False))
        return sum(np.abs(motion[name]).mean() for name in names)

    assert spread(0.0) == 0 and 1.1 * spread(0.5) < spread(1.0) < spread(1.5)


def test_without_blinks_the_rest_moves_as_with_them(engine, identity):
    with_blinks, without = (moved(engine, identity, 3.0, blink=blink) for blink in (True, False))
    assert not np.array_equal(with_blinks.values, without.values)
    head = "yaw" if engine.name == "builtin" else "angle 1"  # what keypoints make of a pose hangs on the expression, too
    assert np.array_equal(with_blinks[head], without[head])


def test_where_nobody_speaks_the_face_still_lives(engine, identity):
    motion = engine.motion(None, identity, options(150))
    assert len(motion) == 150 and np.ptp(motion.values, axis=0).max() > 0
    if engine.name == "builtin":
        assert not motion["jaw"].any() and motion["blink"].max() == 1 and np.ptp(motion["yaw"]) > 0.1


@pytest.mark.parametrize("wished", [{"yaw": (0.0, 15.0, -10.0)}, {"pitch": (8.0,)}, {"roll": (-10.0, 10.0), "still": True}])
def test_the_head_is_turned_as_it_is_wished_and_reaches_the_last_angle(engine, identity, wished):
    motion, own = (moved(engine, identity, 2.0, **{"still": wished.get("still", False)} | more) for more in (wished, {}))
    (name, degrees), *_ = wished.items()
    if engine.name == "builtin":
        assert motion[name][0] == degrees[0] and motion[name][-1] == degrees[-1]
        assert motion[name].max() == pytest.approx(max(degrees), abs=1)
        assert motion[name].min() == pytest.approx(min(degrees), abs=1)
        other = next(axis for axis in ("yaw", "pitch", "roll") if axis != name)
        assert np.array_equal(motion[other], own[other])
    else:  # the angle is the networks' own, and the photo's may be anything
        turned = (motion[name] - motion[name][0]) * np.sign(degrees[-1] - degrees[0] or 1)
        assert not np.array_equal(motion.values, own.values) and (len(degrees) == 1 or np.abs(turned).max() > 5)


def test_frames_come_one_by_one(engine, identity):
    motion = engine.motion(None, identity, options(2000 if engine.name == "builtin" else 200))
    frames = engine.render(identity, motion)
    assert inspect.isgenerator(frames) and next(frames).any()  # at once, not after the last one


@pytest.mark.parametrize("start", [0, 1, 5])
def test_frames_are_the_same_wherever_rendering_starts(engine, portrait, identity, start):
    """A job that goes on after a crash starts in the middle, and its video must be that of an uninterrupted one."""
    motion = moved(engine, identity, 0.25, frames=6)
    whole = list(engine.render(identity, motion))
    part = list(engine.render(engine.prepare(portrait), motion, start))
    assert len(part) == 6 - start and np.array_equal(part, whole[start:])


def test_at_rest_the_face_is_as_in_the_photo(engine, identity, portrait):
    rest = engine.rest(identity)
    assert rest.shape == (portrait.view.height, portrait.view.width, 3)
    if engine.name == "builtin":
        assert np.abs(rest.astype(int) - portrait.canvas[portrait.view.slices]).mean() < 3  # she smiles


@pytest.mark.parametrize("engine", ["sadtalker"], indirect=True)  # the other one takes a tenth of a second for a minute
def test_work_that_takes_long_can_be_stopped(engine, identity):
    def tick(share):
        raise Cancelled("enough")

    with pytest.raises(Cancelled):
        engine.motion(heard(engine, 8), identity, options(200), tick)


@pytest.mark.parametrize("mode", ["crop", "extcrop", "resize", "full", "extfull"])
def test_what_it_draws_lies_in_the_picture(engine, photo, mode):
    picture, face = photo
    portrait, crop = engine.frame(picture, face, mode, 256)
    height, width = picture.shape[:2]
    assert crop.whole == (mode in ("full", "extfull")) or engine.name == "sadtalker"
    assert 0 <= crop.source.left < crop.source.right <= width and 0 <= crop.source.top < crop.source.bottom <= height
    # The landmarks are where the face is: the same place, told by the canvas and by the picture.
    inside = portrait.landmarks - (portrait.view.left, portrait.view.top)
    back = inside * (crop.source.width / portrait.view.width, crop.source.height / portrait.view.height)
    apart = np.abs(back + (crop.source.left, crop.source.top) - face.landmarks).max()
    assert apart < 2.0
    if crop.video:
        assert all(side % 2 == 0 for side in crop.video)
        assert crop.video[0] / crop.video[1] == pytest.approx(crop.source.width / crop.source.height, rel=0.02)


# --- another face's movement


def a_film(photo, frames, turn=0.0, shut=()):
    """The photo, turned step by step to `turn` degrees, with the lids down in the frames `shut`; drawn by the built-in engine."""
    from extensions.sadtalker.types import COEFFICIENTS, Motion

    engine = GeometricEngine()
    identity = engine.prepare(engine.frame(*photo, "extcrop", 320)[0])
    values = np.zeros((frames, len(COEFFICIENTS)), np.float32)
    values[:, COEFFICIENTS.index("yaw")] = np.linspace(0, turn, frames)
    values[list(shut), COEFFICIENTS.index("blink")] = 1.0
    return list(engine.render(identity, Motion(values)))


def test_the_head_moves_as_in_a_film(engine, identity, photo):
    left, right = (engine.watch(iter(a_film(photo, 12, turn))) for turn in (-15.0, 15.0))
    assert len(left) == 12
    ways = [moved(engine, identity, 0.5, frames=12, pose_like=film) for film in (left, right)]
    if engine.name == "builtin":
        # As far as the surface that its landmarks were fitted to is the one that they were turned on.
        assert ways[0]["yaw"][0] == 0 and -15 < ways[0]["yaw"][-1] < -4 and 4 < ways[1]["yaw"][-1] < 15
    else:
        assert not np.array_equal(ways[0].values, ways[1].values)


def test_the_eyes_blink_as_in_a_film(engine, identity, photo):
    film = engine.watch(iter(a_film(photo, 20, shut=(8, 9, 10))))
    motion, own = moved(engine, identity, 0.8, blink_like=film), moved(engine, identity, 0.8)
    if engine.name == "builtin":
        assert motion["blink"][8:11].min() > 0.7 and motion["blink"][:6].max() < 0.2 and motion["blink"][13:].max() < 0.2
    assert not np.array_equal(motion.values, own.values)


def test_a_film_that_is_too_short_goes_on(engine, identity, photo):
    film = engine.watch(iter(a_film(photo, 6, 12.0)))
    assert len(moved(engine, identity, 2.0, pose_like=film, blink_like=film)) == 50


def test_a_film_without_a_face_is_refused(engine):
    with pytest.raises(NoFaceFound, match="reference video"):
        engine.watch(iter([np.zeros((120, 160, 3), np.uint8)] * 3))


# --- which engine


def test_its_weights_are_named(engine):
    assert engine.models and all(re.fullmatch("[0-9a-f]{12}", digest) for digest in engine.models.values())
    assert engine.landmarks in ("dlib", "face-alignment")


def request(**fields):
    return TalkingHeadRequest(**{"portrait": "a", "voice": "b"} | fields)


def test_the_choice_is_explained(tmp_path):
    settings = Settings(models_dir=tmp_path)
    auto = choice.choose("auto", settings, 256)
    assert auto.name == "builtin" and "no SadTalker checkpoints" in auto.reason
    assert choice.choose("builtin", settings, 256).reason == "it was asked for"
    with pytest.raises(ModelMissing, match="SadTalker"):
        choice.choose("sadtalker", settings, 256)


def test_files_that_cannot_be_used_are_named(tmp_path):
    settings, folder = Settings(models_dir=tmp_path), tmp_path / "SadTalker"
    folder.mkdir()
    (folder / "SadTalker_V0.0.2_256.safetensors").write_bytes(b"")
    reason = choice.choose("auto", settings, 256).reason
    assert "cannot be used" in reason and "mapping_00109-model.pth.tar" in reason
    for name in ("mapping_00109-model.pth.tar", "mapping_00229-model.pth.tar"):
        (folder / name).write_bytes(b"")
    assert "SadTalker_V0.0.2_256.safetensors is empty" in choice.choose("auto", settings, 256).reason
    with pytest.raises(UnsupportedModel, match=r"SadTalker_V0\.0\.2_256"):
        choice.choose("sadtalker", settings, 256)
    assert choice.choose("builtin", settings, 256).name == "builtin"


@pytest.fixture
def real_files(tmp_path):
    """Files as long as upstream's, without numbers."""
    pytest.importorskip("torch")
    from tests import neural_files

    return neural_files.v002


def test_auto_takes_the_networks_when_their_files_are_there(tmp_path, real_files):
    (tmp_path / "models" / "SadTalker").mkdir(parents=True)
    real_files(tmp_path / "models" / "SadTalker", 256)
    settings = Settings(models_dir=tmp_path / "models")
    auto = choice.choose("auto", settings, 256)
    assert (auto.name, auto.reason) == ("sadtalker", "SadTalker's networks are in models/SadTalker")
    assert auto.checkpoint.files["generator"].name == "SadTalker_V0.0.2_256.safetensors"
    assert "those for 512 pixels are not there, so the head is drawn at 256" in choice.choose("auto", settings, 512).reason
    assert choice.choose("builtin", settings, 256).checkpoint is None
    assert choice.choose("auto", Settings(models_dir=tmp_path / "models", lite=True), 256).name == "builtin"


def test_another_programs_folder_is_used_where_it_is(tmp_path, real_files):
    (tmp_path / "elsewhere" / "checkpoints").mkdir(parents=True)
    real_files(tmp_path / "elsewhere" / "checkpoints", 256)
    settings = Settings(models_dir=tmp_path, sadtalker_dir=tmp_path / "elsewhere" / "checkpoints")
    found = choice.choose("auto", settings, 256)
    assert found.name == "sadtalker" and found.reason.endswith("elsewhere/checkpoints")


@pytest.mark.parametrize("fields", [{"yaw": "0,45"}, {"pitch": "-13"}, {"roll": "11 0"}, {"batch_size": 4}])
def test_what_an_engine_cannot_do_is_refused_and_the_one_that_can_is_named(fields):
    with pytest.raises(InvalidRequest, match="engine sadtalker"):
        choice.check("builtin", request(**fields))
    choice.check("sadtalker", request(**fields))


@pytest.mark.parametrize("fields", [{"yaw": "0, 20, -20"}, {"pitch": "12;-12", "roll": "10"}, {"accuracy": "exact"}])
def test_what_an_engine_can_do_is_not_refused(fields):
    for name in ENGINES:
        choice.check(name, request(**fields))
