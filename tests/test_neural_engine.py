"""SadTalker's networks as an engine: keypoints by the parts that are held against upstream; the head is where it says."""

from __future__ import annotations

import hashlib
from concurrent.futures import wait
from pathlib import Path
from threading import Event

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from extensions.sadtalker import camera  # noqa: E402
from extensions.sadtalker.engines.neural import checkpoints, heads, keypoints, mel, motion, semantics  # noqa: E402
from extensions.sadtalker.engines.neural.engine import POINTS, NeuralEngine  # noqa: E402
from extensions.sadtalker.engines.neural.networks.generator import Generator  # noqa: E402
from extensions.sadtalker.turning import angles, five_points, rotation  # noqa: E402
from extensions.sadtalker.types import COEFFICIENTS, HEAD, Motion, MotionOptions  # noqa: E402
from tests.small_networks import SIDE, SmallCheckpoint  # noqa: E402
from webui import devices  # noqa: E402
from webui.errors import UnsupportedModel  # noqa: E402
from webui.faces import face_finder  # noqa: E402
from webui.pictures import read_picture  # noqa: E402
from webui.settings import Settings  # noqa: E402


@pytest.fixture(scope="module")
def photo(portrait_file):
    picture = read_picture(portrait_file).rgb
    return picture, face_finder().find(picture)[0]


@pytest.fixture(scope="module", params=["crop", "full"])
def ready(request, tmp_path_factory, photo):
    folder = tmp_path_factory.mktemp(request.param)
    settings = Settings(models_dir=folder, device="cpu")
    engine = NeuralEngine(SmallCheckpoint(folder), settings, request.param, "exact", None)
    with engine.ready():
        yield engine, engine.prepare(engine.frame(*photo, request.param, 256)[0])


@pytest.mark.parametrize("asked", [{}, {"still": True, "expression_scale": 1.5}, {"yaw": (0.0, 30.0), "roll": (10.0,)}])
def test_keypoints_are_those_of_the_whole_clip_at_once(ready, asked):
    """By the functions that are held against upstream, without the engine's parts of a clip."""
    engine, identity = ready
    frames, options = 40, MotionOptions(seed=3, frames=40, **asked)
    made = engine.motion(None, identity, options).values[:, : len(POINTS)].reshape(-1, 15, 3)
    photo, nets = identity.face.coefficients, engine._nets
    nothing = np.empty((0, mel.MELS), np.float32)
    spoken = motion.speak(lambda start, stop: mel.windows(nothing, start, stop), frames, photo, nets, seed=3)
    how = {"full": engine._full, "still": options.still, "expression_scale": options.expression_scale}
    seen = nets.drawing.mapping(torch.from_numpy(semantics.windows(spoken, photo, 0, frames, **how)))
    asked_for = {name: getattr(options, name) for name in ("yaw", "pitch", "roll") if getattr(options, name)}
    ways = {name: torch.from_numpy(camera.sequence(degrees, frames)) for name, degrees in asked_for.items()}
    expected = keypoints.moved(identity.face.canonical, seen, **ways).numpy()
    assert np.abs(made - expected).max() < 1e-4


def unread(folder: Path, name: str) -> NeuralEngine:
    """An engine with files that are not in memory yet."""
    checkpoint = SmallCheckpoint(folder, version=(name,))
    return NeuralEngine(checkpoint, Settings(models_dir=folder, device="cpu"), "crop", "exact", None)


def test_the_first_frame_alone_waits_for_the_generator(tmp_path, photo, monkeypatch):
    engine = unread(tmp_path, "slow")
    go, made = Event(), Generator.of
    monkeypatch.setattr(Generator, "of", lambda *tensors, **how: made(*tensors, **how) if go.wait(60) else None)
    with engine.ready():
        identity = engine.prepare(engine.frame(*photo, "crop", 256)[0])
        moved = engine.motion(None, identity, MotionOptions(seed=3, frames=2))
        assert not go.is_set()
        go.set()
        assert next(engine.render(identity, moved)).shape == (SIDE, SIDE, 3)


def test_a_generator_that_cannot_be_loaded_is_told_before_all_is_moved_and_nothing_is_held(tmp_path, photo, monkeypatch):
    engine = unread(tmp_path, "damaged")

    def damaged(*_tensors, **_how):
        raise UnsupportedModel("It is damaged.")

    monkeypatch.setattr(Generator, "of", damaged)
    cache = devices.models("cpu")
    before = cache.keys()
    with pytest.raises(UnsupportedModel, match="damaged"), engine.ready():
        identity = engine.prepare(engine.frame(*photo, "crop", 256)[0])
        wait([engine._loading], timeout=60)
        engine.motion(None, identity, MotionOptions(seed=3, frames=2))
    left = set(cache.keys()) - set(before)
    assert left and all(cache.unload(key) for key in left), "what is leased would not go"


def test_a_file_that_upstream_released_under_another_name_is_not_drawn_with(tmp_path, monkeypatch):
    engine = NeuralEngine(SmallCheckpoint(tmp_path), Settings(models_dir=tmp_path), "crop", "exact", None)
    assert set(engine.models) == {"small.safetensors", "one.pth.tar"}
    digest = hashlib.sha256((tmp_path / "small.safetensors").read_bytes()).hexdigest()
    monkeypatch.setitem(checkpoints.RELEASED, digest, "large.safetensors")
    with pytest.raises(UnsupportedModel, match=r"small\.safetensors is in truth large\.safetensors"):
        NeuralEngine(SmallCheckpoint(tmp_path), Settings(models_dir=tmp_path), "crop", "exact", None).models  # noqa: B018


@pytest.mark.parametrize("mode", ["crop", "resize"])
def test_a_film_is_cut_as_the_photo_is(tmp_path, photo, mode):
    """The mode resize shows the whole picture as a head shot: so is a film taken that it moves like."""
    settings = Settings(models_dir=tmp_path, device="cpu")
    engine = NeuralEngine(SmallCheckpoint(tmp_path), settings, mode, "exact", None)
    with engine.ready():
        identity = engine.prepare(engine.frame(*photo, mode, 256)[0])
        seen = engine.watch(iter([photo[0]] * 2))
    np.testing.assert_allclose(seen, np.repeat(identity.face.coefficients, 2, 0), rtol=1e-3, atol=0.5)


def test_the_face_lies_in_the_picture_as_the_landmarks_say(ready):
    _, identity = ready
    eyes = identity.portrait.landmarks[36:48].mean(0)
    assert 0.3 * 128 < eyes[0] < 0.7 * 128 and 0.25 * 128 < eyes[1] < 0.6 * 128


def test_rotations_are_taken_apart_as_they_were_put_together():
    degrees = np.random.default_rng(0).uniform(-60, 60, (20, 3))
    assert np.allclose(angles(rotation(degrees)), degrees)


@pytest.mark.parametrize("towards", [1.0, -1.0])
def test_how_the_head_is_turned_does_not_hang_on_which_way_keypoints_count_depth(photo, towards):
    """A face of keypoints whose middle is nearest, turned to the picture's right, nodding and tilted."""
    random = np.random.default_rng(1)
    canonical = random.uniform(-0.5, 0.5, (15, 3))
    canonical[:, 2] = towards * (0.3 - (canonical[:, :2] ** 2).sum(1))
    assert heads.front(canonical) == towards
    turn = np.diag([1, 1, towards]) @ rotation([[12.0, 5.0, -8.0]]) @ np.diag([1, 1, towards])
    now, rest = (canonical[None] @ turn.transpose(0, 2, 1), turn), (canonical[None], np.eye(3)[None])
    found = heads.columns(canonical, rest, now, photo[1].landmarks, 256)
    assert np.allclose(found[0, :3], [12, 5, -8], atol=1e-3)


def test_points_of_the_face_follow_the_head(photo):
    landmarks = photo[1].landmarks
    values = np.zeros((3, len(COEFFICIENTS)), np.float32)
    values[1, COEFFICIENTS.index("yaw")], values[2, COEFFICIENTS.index("shift_y")] = 10, 0.5
    rest, turned, lowered = five_points(landmarks, Motion(values))
    iod = np.hypot(*(rest[1] - rest[0]))
    assert np.allclose(rest[2:], landmarks[[30, 48, 54]])
    assert 0.05 * iod < (turned - rest)[2, 0] < 0.4 * iod  # the nose goes to the right, further than the eyes
    assert (turned - rest)[2, 0] > (turned - rest)[:2, 0].max()
    assert np.allclose(np.hypot(*(lowered - rest).T), 0.5 * iod, rtol=0.02)


def test_a_motion_says_where_the_head_is():
    values = np.arange(2 * len(COEFFICIENTS), dtype=np.float32).reshape(2, -1)
    head = Motion(values).head(1)
    assert [getattr(head, name) for name in HEAD] == [values[1, COEFFICIENTS.index(name)] for name in HEAD]
