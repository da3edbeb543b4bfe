"""Each option of the talking head changes its video in the way it says, and with any of them a job goes on after a crash."""

from __future__ import annotations

import subprocess

import numpy as np
import pytest

from extensions.sadtalker import segments
from extensions.sadtalker.engines import choice
from extensions.sadtalker.jobs import TalkingHeadRequest, degrees, recall
from extensions.sadtalker.jobs import talk as handler
from extensions.sadtalker.types import COEFFICIENTS
from tests import media
from tests.contexts import Crash, MemoryContext
from webui import cli
from webui.errors import Cancelled, InvalidRequest, ModelMissing, NoFaceFound
from webui.imaging import restore
from webui.jobs.validation import validated
from webui.settings import Settings

torch = pytest.importorskip("torch")

from tests import enhancers, small_networks  # noqa: E402


@pytest.fixture(scope="module")
def film(portrait_file, tmp_path_factory):
    """A second of a face that turns to the picture's right, at 30 frames per second, its lids shut in the middle."""
    from extensions.sadtalker.engines.geometric.engine import GeometricEngine
    from extensions.sadtalker.types import Motion
    from webui.faces import face_finder
    from webui.pictures import read_picture

    picture, engine = read_picture(portrait_file).rgb, GeometricEngine()
    identity = engine.prepare(engine.frame(picture, face_finder().find(picture)[0], "extcrop", 320)[0])
    values = np.zeros((30, len(COEFFICIENTS)), np.float32)
    values[:, COEFFICIENTS.index("yaw")] = np.linspace(0, 15, 30)
    values[13:18, COEFFICIENTS.index("blink")] = 1.0
    frames = list(engine.render(identity, Motion(values)))
    height, width = frames[0].shape[:2]
    path = tmp_path_factory.mktemp("film") / "film.mp4"
    raw = ("-f", "rawvideo", "-pix_fmt", "rgb24", "-s", f"{width}x{height}", "-r", "30", "-i", "-")
    media.ffmpeg(*raw, "-pix_fmt", "yuv420p", f"file:{path}", data=b"".join(frame.tobytes() for frame in frames))
    return path


@pytest.fixture
def begin(portrait_file, film, tmp_path, monkeypatch):
    """begin(name, on) -> a fresh job's context. Segments are half a second long."""
    monkeypatch.setattr(segments, "SEGMENT_SECONDS", 0.52)

    def context(name="job", on=lambda what, name: None, **settings):
        files = {"portrait": portrait_file, "voice": media.write_wav(tmp_path / "voice.wav", 1.0), "film": film}
        chosen = Settings(models_dir=tmp_path / "models", outputs_dir=tmp_path, device="cpu", allow_pickles=True, **settings)
        return MemoryContext(tmp_path / name, files, settings=chosen, on=on)

    return context


@pytest.fixture
def networks(tmp_path, monkeypatch):
    """SadTalker's networks are there, with few channels and random numbers."""
    made = small_networks.SmallCheckpoint(tmp_path / "checkpoint")
    monkeypatch.setattr(choice.checkpoints, "find", lambda _folders, _size: made)


def asked(**fields):
    usual = {"portrait": "portrait", "size": 256, "seed": 1} | ({} if "idle" in fields else {"voice": "voice"})
    return TalkingHeadRequest(**usual | fields)


def made(context, **fields):
    return handler(context, asked(**fields))


def motion(context):
    return dict(zip(COEFFICIENTS, np.load(context.folder / "motion.npy").T, strict=True))


# --- without a voice


def test_without_a_voice_the_face_lives_for_as_long_as_it_is_told_and_the_video_has_no_sound(begin):
    context = begin()
    result = made(context, idle=4)
    video = result.artifacts[0].path
    assert result.data["frames"] == 100 == len(media.video_frames(video))
    assert not motion(context)["jaw"].any() and motion(context)["blink"].max() == 1
    with pytest.raises(subprocess.CalledProcessError):
        media.sound_seconds(video)


@pytest.mark.parametrize("fields", [{"voice": "a", "idle": 3}, {"voice": None}])
def test_either_a_voice_or_none_is_asked_for(fields):
    with pytest.raises(InvalidRequest, match="either a voice or idle"):
        validated(TalkingHeadRequest, {"portrait": "a"} | fields)


def test_no_longer_than_a_voice_may_be(begin):
    with pytest.raises(InvalidRequest, match="the most that is allowed"):
        made(begin(max_voice_minutes=0.05), idle=4)


# --- free view


def test_the_head_turns_as_it_is_wished(begin):
    context = begin()
    made(context, idle=1.0, yaw="0,20,-10", still=True)
    seen = motion(context)
    assert seen["yaw"][0] == 0 and seen["yaw"].max() > 18 and seen["yaw"][-1] == -10 and not seen["roll"].any()


@pytest.mark.parametrize("written", ["", " 0, 20 ,-10", "0;20;-10", "7", "1.5 -2.5"])
def test_degrees_are_read_as_people_write_them(written):
    assert len(degrees(written)) == len(written.replace(",", " ").replace(";", " ").split())


@pytest.mark.parametrize("written", ["left", "0,91", "nan", "1,,x", "inf"])
def test_what_is_no_degrees_is_refused(written):
    with pytest.raises(InvalidRequest, match="yaw"):
        validated(TalkingHeadRequest, {"portrait": "a", "voice": "b", "yaw": written})


def test_angles_that_begin_with_a_minus_are_taken_on_the_command_line():
    from webui import plugin_loader
    from webui.settings import PROJECT

    kinds = plugin_loader.load(PROJECT / "extensions").kinds
    for argv in (["--yaw", "-20,30"], ["--yaw=-20,30"], ["--yaw", "-20, 30"]):
        options = cli.parse(["talk", "a.jpg", "b.wav", *argv], kinds)
        assert degrees(options.yaw) == (-20, 30)
    assert cli.parse(["talk", "a.jpg", "--idle", "3"], kinds).voice is None


# --- reference videos


def test_the_head_and_the_lids_follow_a_film(begin):
    context = begin()
    made(context, reference_pose="film", reference_blink="film")
    seen = motion(context)
    assert seen["yaw"][0] == 0 and 6 < seen["yaw"][24] < 18 and np.diff(seen["yaw"]).min() > -1.5
    assert seen["blink"][11:15].max() > 0.8 and seen["blink"][:8].max() < 0.3 and seen["blink"][19:].max() < 0.3


def test_a_film_is_looked_at_once_and_no_further_than_it_is_needed(begin, monkeypatch):
    from extensions.sadtalker.engines.geometric import engine

    looks, watch = [], engine.watch
    monkeypatch.setattr(engine, "watch", lambda clip, finder: looks.append(1) or watch(clip, finder))
    context = begin(on=lambda what, name: (_ for _ in ()).throw(Crash) if (what, name) == ("end", "motion") else None)
    with pytest.raises(Crash):
        made(context, idle=0.4, reference_pose="film", reference_blink="film")
    again = context.again()
    made(again, idle=0.4, reference_pose="film", reference_blink="film")
    assert looks == [1] and len(np.load(context.folder / "film.npy")) == 10


def test_of_a_film_there_is_a_row_behind_the_last_frame_at_another_rate(begin):
    """The last of 15 frames lies between rows 11 and 12: without the latter the head would be on its way back to the first."""
    context = begin()
    made(context, idle=0.5, fps=30, reference_pose="film")
    assert len(np.load(context.folder / "film.npy")) == 13


def test_looking_at_a_film_stops_when_the_job_is_cancelled(begin):
    context = begin()
    context._on = lambda what, name: setattr(context, "cancelled", context.cancelled or "watching frame 3" in name)
    with pytest.raises(Cancelled):
        made(context, reference_pose="film")
    assert len([stage for stage in context.stages if "watching" in stage]) == 3


def test_a_film_without_a_face_is_refused(begin, tmp_path):
    context = begin()
    context._files["film"] = media.write_video(tmp_path / "none.mp4", media.corners(), "-pix_fmt", "yuv420p")
    with pytest.raises(NoFaceFound, match="reference video"):
        made(context, reference_blink="film")


@pytest.mark.parametrize("fields", [{"still": True, "reference_pose": "c"}, {"blink": False, "reference_blink": "c"}])
def test_options_that_contradict_each_other_are_refused(fields):
    with pytest.raises(InvalidRequest):
        validated(TalkingHeadRequest, {"portrait": "a", "voice": "b"} | fields)


# --- the landmarks


def test_the_landmarks_come_as_a_second_video_beside_the_face(begin):
    result = made(begin(), show_landmarks=True)
    video, beside = (media.video_frames(artifact.path) for artifact in result.artifacts)
    assert len(video) == len(beside) == 25 and beside.shape[1:] == (640, 1024, 3)
    assert media.sound_seconds(result.artifacts[1].path) == pytest.approx(1.0, abs=0.04)
    orange = (beside[:, :512, 512:, 0].astype(int) - beside[:, :512, 512:, 2] > 60).sum((1, 2))
    assert orange.min() > 200  # 68 points in every frame
    assert recall(result.artifacts[0].path) and recall(result.artifacts[1].path) is None


@pytest.mark.parametrize("moment", [("begin", "points 0"), ("begin", "points 1"), ("progress", "looking at frame 20 of 25")])
def test_a_crash_leaves_no_trace_in_the_video_of_the_landmarks(begin, moment):
    def on(*now):
        if now == moment:
            raise Crash

    expected = made(begin("whole"), show_landmarks=True).artifacts
    first = begin("crash", on=on)
    with pytest.raises(Crash):
        made(first, show_landmarks=True)
    second = first.again()
    found = made(second, show_landmarks=True).artifacts
    assert [a.path.read_bytes() for a in found] == [a.path.read_bytes() for a in expected]
    assert "motion" not in second.begun and "segment 0" not in second.begun


def test_cancelled_while_landmarks_are_drawn_the_video_is_whole(begin):
    context = begin()
    context._on = lambda what, name: setattr(context, "cancelled", context.cancelled or "looking at frame 3 " in name)
    result = made(context, show_landmarks=True)
    assert [len(media.video_frames(artifact.path)) for artifact in result.artifacts] == [25, 3]


# --- enhancers


@pytest.fixture
def files(tmp_path):
    enhancers.safetensors(tmp_path / "models" / "GFPGAN" / "RestoreFormer.safetensors", enhancers.restoreformer())
    enhancers.safetensors(tmp_path / "models" / "ESRGAN" / "times2.safetensors", enhancers.compact(2, nearest=True))


def test_a_face_enhancer_changes_the_face_alone_by_its_strength_and_not_the_size(begin, files):
    plain = media.video_frames(made(begin("plain"), idle=0.2, preprocess="full").artifacts[0].path).astype(int)
    changes = []
    for strength in (1.0, 0.3):
        result = made(begin(f"at {strength}"), idle=0.2, preprocess="full", enhancer="RestoreFormer", enhancer_strength=strength)
        frames = media.video_frames(result.artifacts[0].path).astype(int)
        assert frames.shape == plain.shape and "RestoreFormer.safetensors" in result.data["models"]
        changes.append(np.abs(frames - plain).max(-1))
    face, away = changes[0][:, 60:130, 190:260].mean(), changes[0][:, 300:, :].mean()
    assert face > 5 and away < 1.5 and 0.1 * face < changes[1][:, 60:130, 190:260].mean() < 0.6 * face


@pytest.mark.parametrize("engine", ["builtin", "sadtalker"])
def test_a_restored_face_does_not_flicker_in_the_video(begin, files, networks, engine, monkeypatch):
    """From frame to frame it changes little more than the face that it was made from; a frame restored by itself, much more."""

    def video(name, enhancer):
        fields = {"engine": engine, "idle": 0.16, "blink": False, "preprocess": "crop", "enhancer": enhancer}
        return media.video_frames(made(begin(name), **fields).artifacts[0].path).astype(int)

    plain, restored = video("plain", "none"), video("restored", "RestoreFormer")
    monkeypatch.setattr(restore, "REACH", 0)
    alone = video("alone", "RestoreFormer")
    before, after, singly = (np.abs(np.diff(frames, axis=0)).mean() for frames in (plain, restored, alone))
    drawn = np.abs(restored - plain).mean()
    print(f"levels from frame to frame, {engine}: {before:.2f} as drawn, {after:.2f} restored, {singly:.2f} each by itself")
    assert drawn > 3 and after < 0.25 * drawn + before and after - before < 0.7 * (singly - before)


def test_with_an_enhancer_too_a_crash_leaves_no_trace(begin, files, monkeypatch):
    monkeypatch.setattr(segments, "SEGMENT_SECONDS", 0.12)
    fields = {"idle": 0.16, "enhancer": "RestoreFormer"}
    expected = made(begin("whole"), **fields).artifacts[0].path.read_bytes()

    def on(*now):
        if now == ("end", "segment 0"):
            raise Crash

    first = begin("crash", on=on)
    with pytest.raises(Crash):
        made(first, **fields)
    assert made(first.again(), **fields).artifacts[0].path.read_bytes() == expected


def test_an_enhancer_that_is_not_there_is_told_before_anything_is_made(begin):
    with pytest.raises(ModelMissing, match="face restorer 'Nobody'"):
        made(begin(), enhancer="Nobody")
    with pytest.raises(ModelMissing, match="upscaler 'Nobody'"):
        made(begin(), background_enhancer="Nobody")


@pytest.mark.parametrize(("upscale", "size"), [(1, [512, 512]), (2, [1024, 1024])])
def test_a_background_enhancer_makes_the_video_larger_only_when_it_is_told_to(begin, files, upscale, size):
    result = made(begin(), idle=0.1, preprocess="full", background_enhancer="times2", upscale=upscale)
    assert result.data["size"] == size and "times2.safetensors" in result.data["models"]


def test_a_background_enhancer_is_used_once_and_where_there_is_something_to_gain(begin, files, tmp_path):
    from PIL import Image

    context = begin(on=lambda what, name: (_ for _ in ()).throw(Crash) if (what, name) == ("end", "segment 0") else None)
    with pytest.raises(Crash):
        made(context, idle=0.8, background_enhancer="times2")
    assert "making the picture finer" in context.stages and not context.warnings
    again = context.again()
    assert made(again, idle=0.8, background_enhancer="times2").data["size"] == [256, 256]
    assert "making the picture finer" not in again.stages
    large = begin("large")
    Image.open(large._files["portrait"]).resize((2000, 2000)).save(tmp_path / "large.png")
    large._files["portrait"] = tmp_path / "large.png"
    made(large, idle=0.1, background_enhancer="times2")
    assert any("would add nothing" in warning for warning in large.warnings)


@pytest.mark.parametrize("fields", [{"upscale": 2}, {"upscale": 4, "background_enhancer": "a", "preprocess": "crop"}])
def test_enlarging_is_for_whole_pictures_with_an_enhancer(fields):
    with pytest.raises(InvalidRequest, match="upscale"):
        validated(TalkingHeadRequest, {"portrait": "a", "voice": "b"} | fields)


# --- with SadTalker's networks


@pytest.mark.parametrize("mode", ["crop", "extcrop", "resize", "full", "extfull"])
def test_the_networks_make_a_video_in_every_mode(begin, networks, mode):
    context = begin(mode)
    result = made(context, idle=0.12, preprocess=mode)
    frames = media.video_frames(result.artifacts[0].path)
    assert result.data["engine"] == "sadtalker" and result.data["landmarks"] == "dlib"
    assert set(result.data["models"]) == {"small.safetensors", "other.pth.tar" if "full" in mode else "one.pth.tar"}
    assert list(frames.shape) == [3, *reversed(result.data["size"]), 3]
    assert result.data["size"][0] == (512 if "full" in mode else 128)
    if "full" in mode:
        assert np.abs(frames[:, 400:].astype(int) - frames[0, 400:]).max() < 6  # far from the head nothing moves


def test_with_the_networks_too_a_crash_leaves_no_trace(begin, networks, monkeypatch):
    """It goes on with the third segment, in the middle of a batch."""
    monkeypatch.setattr(segments, "SEGMENT_SECONDS", 0.16)
    fields = {"idle": 0.44, "preprocess": "full", "reference_pose": "film", "yaw": "0,20", "batch_size": 3}

    def on(*now):
        if now == ("progress", "rendering frame 10 of 11"):
            raise Crash

    expected = made(begin("whole"), **fields).artifacts[0].path.read_bytes()
    first = begin("crash", on=on)
    with pytest.raises(Crash):
        made(first, **fields)
    assert made(first.again(), **fields).artifacts[0].path.read_bytes() == expected


def test_the_networks_stay_in_memory_for_the_next_job(begin, networks):
    from webui import devices

    devices.models("cpu").unload()
    made(begin("one"), idle=0.1)
    held = set(devices.models("cpu").keys())
    assert sum(key.name == "SadTalker 128" for key in held) == 6
    made(begin("two"), idle=0.1)
    assert set(devices.models("cpu").keys()) == held
    assert any(loaded.name == "SadTalker 128" for loaded in devices.loaded())
    devices.models("cpu").unload()


def test_a_job_whose_networks_were_replaced_says_so(begin, networks, tmp_path):
    context = begin(on=lambda what, name: (_ for _ in ()).throw(Crash) if (what, name) == ("end", "motion") else None)
    with pytest.raises(Crash):
        made(context, idle=0.1)
    (tmp_path / "checkpoint" / "small.safetensors").write_text("another")
    with pytest.raises(ModelMissing, match="replaced"):
        made(context.again(), idle=0.1)


# --- back from a video


def test_a_video_brings_back_the_new_settings_too(begin):
    fields = {"idle": 0.2, "yaw": "0,10", "show_landmarks": True, "accuracy": "exact"}
    found = recall(made(begin(), **fields).artifacts[0].path)
    assert {name: found[name] for name in fields} == fields and found["voice"] is None and found["reference_pose"] is None


def test_of_its_files_a_video_says_only_that_there_were_some(begin):
    found = recall(made(begin(), reference_blink="film").artifacts[0].path)
    assert found["voice"] == "" and found["reference_blink"] == "" and found["reference_pose"] is None and "portrait" not in found
