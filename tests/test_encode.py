"""The video that comes out: frames as they went in, sound as long as they are, labelled, the same bytes every time."""

from __future__ import annotations

import itertools
import json
import os
import shutil
import subprocess
import tempfile
import threading
import time
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from extensions.sadtalker.audio import ffmpeg_program
from extensions.sadtalker.encode import VideoWriter, encode_arguments, frame_rate, to_i420
from extensions.sadtalker.join import (
    AI_NOTICE,
    NoSound,
    Parts,
    Soundtrack,
    join,
    join_arguments,
    parse_ffmetadata,
    read_metadata,
    read_settings,
    segment_list,
    segment_name,
    sound_filter,
)
from tests import media
from webui.plugin_api import MediaError, StorageError

FRAME = np.asarray(media.corners(128, 96))
SETTINGS = {"preprocess": "full", "note": 'a=b; "quoted" # \\ 你好 🙂\nsecond line', "seed": 4294967295}


@pytest.fixture(scope="module")
def sound(tmp_path_factory):
    """Two seconds, 16 kHz mono."""
    return media.write_wav(tmp_path_factory.mktemp("sound") / "voice.wav", 2.0)


def moving(count, size=(128, 96)):
    """Frames that differ from one to the next."""
    base = np.asarray(media.corners(*size))
    return (np.roll(base, 2 * i, axis=1) for i in range(count))


def work(tmp_path):
    """A job's folder."""
    folder = tmp_path / "work"
    folder.mkdir(exist_ok=True)
    return folder


def keeper(folder):
    """What JobContext.file does, without the safety."""

    @contextmanager
    def keep(name):
        yield folder / f"{name}.part"
        (folder / f"{name}.part").replace(folder / name)

    return keep


def segment(folder, index, frames, fps=25.0, size=(128, 96)):
    with VideoWriter(folder / segment_name(index), size, fps) as video:
        for frame in frames:
            video.write(to_i420(frame, size))
    return folder / segment_name(index)


def of(folder, frames):
    """A job's folder with its sound."""
    return Parts(folder, frames, 25.0, folder / Soundtrack.NAME)


def write(path, sound, frames=50, planned=None, fps=25.0, size=(128, 96), settings=SETTINGS, each=20, pause=0.0):
    """A video of segments of `each` frames. planned: how many there would be if it were not cancelled after `frames`."""
    folder, source = Path(tempfile.mkdtemp(dir=path.parent)), moving(frames, size)
    parts = [min(each, frames - start) for start in range(0, frames, each)]
    seconds = (float(count / frame_rate(fps)) for count in (planned or frames, frames))
    with Soundtrack(folder, keeper(folder), sound, next(seconds)) as track:
        time.sleep(pause)
        for index, count in enumerate(parts):
            track.settle()
            segment(folder, index, itertools.islice(source, count), fps, size)
        track.finish(next(seconds))
    join(path, Parts(folder, parts, fps, track.path), "Talking head", settings)
    shutil.rmtree(folder)
    return path


def gap(path, fps):
    """Seconds by which the frames outlast the sound, and how many frames there are."""
    frames = len(media.video_frames(path))
    return frames / fps - media.sound_seconds(path), frames


def streams(path):
    command = [ffmpeg_program(), "-hide_banner", "-i", str(path)]
    return subprocess.run(command, capture_output=True, text=True).stderr


def test_the_pictures_are_the_frames(tmp_path, sound):
    frames = media.video_frames(write(tmp_path / "a.part", sound, 10))
    assert frames.shape == (10, 96, 128, 3)
    for found, sent in zip(frames, moving(10), strict=True):
        assert np.abs(found.astype(int) - sent).mean() < 3


def test_what_is_in_the_file(tmp_path, sound):
    path = write(tmp_path / "a.mp4.part", sound)
    text = streams(path)
    assert "h264" in text and "yuv420p(tv, smpte170m/bt709/iec61966-2-1" in text and "25 fps" in text
    assert "aac" in text and "44100 Hz, mono" in text
    data = path.read_bytes()
    assert data.index(b"moov") < data.index(b"mdat"), "the index must come first, for playing while loading"


@pytest.mark.parametrize(
    ("rate", "channels", "expected"),
    [
        (8000, 1, "44100 Hz, mono"),
        (22050, 2, "44100 Hz, stereo"),
        (48000, 2, "48000 Hz, stereo"),
        (96000, 1, "48000 Hz, mono"),
    ],
)
def test_the_sound_keeps_its_channels_at_a_rate_players_take(tmp_path, rate, channels, expected):
    sound = media.write_wav(tmp_path / "a.wav", 0.4, rate=rate, channels=channels)
    assert expected in streams(write(tmp_path / "a.part", sound, 10))


def test_surround_sound_becomes_stereo(tmp_path, sound):
    surround = media.convert(sound, tmp_path / "a.flac", "-ac", "6")
    assert "stereo" in streams(write(tmp_path / "a.part", surround, 10))


@pytest.mark.parametrize("fps", [10.0, 25.0, 29.97, 60.0])
@pytest.mark.parametrize("seconds", [0.4, 1.99, 2.0, 2.017])
def test_sound_and_picture_end_together(tmp_path, fps, seconds):
    sound = media.write_wav(tmp_path / "a.wav", seconds)
    frames = max(1, round(seconds * fps))
    off, found = gap(write(tmp_path / "a.part", sound, frames, fps=fps), fps)
    assert found == frames and abs(off) <= 0.04
    assert frames / fps == pytest.approx(seconds, abs=0.5 / fps + 1e-6)


@pytest.mark.parametrize("frames", [1, 3, 10, 33, 49])
@pytest.mark.parametrize("pause", [0.0, 0.3])
def test_a_cancelled_video_plays_and_its_sound_is_cut(tmp_path, sound, frames, pause):
    path = write(tmp_path / "a.part", sound, frames, planned=50, pause=pause)
    assert read_metadata(path)["description"] == AI_NOTICE
    off, found = gap(path, 25.0)
    assert found == frames and abs(off) <= 0.04


def test_stopping_a_long_video_is_quick(tmp_path):
    """Half an hour of sound would take ffmpeg ten seconds and more."""
    sound = media.write_wav(tmp_path / "a.wav", 1800.0, rate=8000)
    with Soundtrack(work(tmp_path), keeper(work(tmp_path)), sound, 1800.0) as track:
        segment(work(tmp_path), 0, moving(40))
        started = time.perf_counter()
        track.finish(40 / 25)
    join(tmp_path / "a.part", of(work(tmp_path), [40]), "t", {})
    assert time.perf_counter() - started < 2.5
    off, found = gap(tmp_path / "a.part", 25.0)
    assert found == 40 and abs(off) <= 0.04


def test_sound_that_starts_late_in_its_file_starts_with_the_video(tmp_path, sound):
    """A video whose sound sets in after a second: the features see it from its first sample, so must the player."""
    silent = media.write_video(tmp_path / "silent.mp4", media.corners(), "-pix_fmt", "yuv420p", frames=75)
    late = tmp_path / "late.mkv"
    media.ffmpeg("-i", silent, "-itsoffset", "1", "-i", sound, "-map", "0:v", "-map", "1:a", "-c", "copy", late)
    path = write(tmp_path / "a.part", late, 50)
    as_samples = ("-ac", "1", "-ar", "16000", "-f", "f32le", "-")
    heard, sent = (np.frombuffer(media.ffmpeg("-i", f"file:{file}", *as_samples), np.float32) for file in (path, sound))
    n = min(len(heard), len(sent))
    assert np.corrcoef(heard[:n], sent[:n])[0, 1] > 0.95


def test_settings_and_notice_can_be_read_back(tmp_path, sound):
    path = write(tmp_path / "a.part", sound)
    found = read_metadata(path)
    assert found["title"] == "Talking head" and found["description"] == AI_NOTICE and "AI-generated" in AI_NOTICE
    assert read_settings(path) == SETTINGS


def test_a_video_without_settings_has_none(tmp_path):
    assert read_settings(media.write_video(tmp_path / "a.mp4", media.corners(), "-pix_fmt", "yuv420p")) is None
    (tmp_path / "b.mp4").write_text("no video")
    with pytest.raises(MediaError, match=r"b\.mp4"):
        read_settings(tmp_path / "b.mp4")


def test_the_sounds_own_tags_are_not_taken_over(tmp_path, sound):
    tagged = media.convert(sound, tmp_path / "a.mp3", "-metadata", "artist=Someone", "-metadata", "title=Private")
    found = read_metadata(write(tmp_path / "a.part", tagged))
    assert "artist" not in found and found["title"] == "Talking head"


def test_ffmetadata_escapes():
    text = ";FFMETADATA1\ntitle=a\\=b\ncomment=one\\\ntwo \\\\ \\; \\#\n[STREAM]\ntitle=other\n"
    assert parse_ffmetadata(text) == {"title": "a=b", "comment": "one\ntwo \\ ; #"}


def test_the_same_frames_make_the_same_bytes(tmp_path, sound):
    first = write(tmp_path / "a.part", sound, 60).read_bytes()
    assert write(tmp_path / "b.part", sound, 60).read_bytes() == first


@pytest.mark.skipif(not os.path.exists("/proc/self/status"), reason="reads the encoder's memory from /proc")
def test_the_encoder_holds_only_a_few_frames(tmp_path):
    """300 frames of 512 x 512 are 118 MB on their way; the encoder itself takes about 90 MB, early and late."""

    def memory(video):
        with open(f"/proc/{video._process.pid}/status") as file:
            return next(int(line.split()[1]) for line in file if line.startswith("VmRSS")) / 1024

    readings = []
    with VideoWriter(tmp_path / "a.part", (512, 512), 25.0) as video:
        for i, frame in enumerate(moving(400, (512, 512))):
            video.write(to_i420(frame, (512, 512)))
            if i in (99, 399):
                readings.append(memory(video))
    assert readings[1] < readings[0] + 25


def test_a_still_background_stays_still_also_where_segments_meet(tmp_path, sound):
    """Grain that does not move must not shimmer: the meter allows 0.3 levels."""
    grain = np.random.default_rng(0).normal(128, 8, (256, 256, 3)).clip(0, 255).astype(np.uint8)
    for index in range(2):
        frames = [np.vstack([np.roll(grain, 3 * i, axis=1)[:128], grain[128:]]) for i in range(25 * index, 25 * index + 25)]
        segment(work(tmp_path), index, frames, size=(256, 256))
    with Soundtrack(work(tmp_path), keeper(work(tmp_path)), sound, 2.0) as track:
        track.finish(2.0)
    join(tmp_path / "a.part", of(work(tmp_path), [25, 25]), "t", {})
    below = media.video_frames(tmp_path / "a.part")[:, 144:].astype(float)
    assert np.abs(below - np.median(below, axis=0)).mean((1, 2, 3)).max() < 0.3


def packets(path, stream):
    """(time base, [(dts, pts, duration)]) of a file's picture ("v") or sound ("a"), in order of decoding."""
    text = media.ffmpeg("-i", f"file:{path}", "-map", f"0:{stream}", "-c", "copy", "-f", "framecrc", "-").decode()
    (base,) = [line.split()[-1] for line in text.splitlines() if line.startswith("#tb")]
    rows = [tuple(map(int, line.split(",")[1:4])) for line in text.splitlines() if not line.startswith("#")]
    return base, rows


@pytest.mark.parametrize("fps", [10.0, 12.5, 23.976, 25.0, 29.97, 59.94, 60.0])
def test_there_is_no_seam_in_time_or_sound(tmp_path, sound, fps):
    """Each frame of many segments is shown exactly when it would be in one, and the sound is the same to the bit."""
    many, one = write(tmp_path / "a.part", sound, 70, fps=fps, each=9), write(tmp_path / "b.part", sound, 70, fps=fps, each=70)
    (base, pictures), (one_base, expected) = packets(many, "v"), packets(one, "v")
    assert base == one_base and sorted(pts for _, pts, _ in pictures) == sorted(pts for _, pts, _ in expected)
    assert len(set(np.diff(sorted(pts for _, pts, _ in pictures)))) == 1
    assert all(later > sooner for (sooner, *_), (later, *_) in itertools.pairwise(pictures))
    assert packets(many, "a") == packets(one, "a")
    decoded = [media.ffmpeg("-i", f"file:{path}", "-vn", "-f", "s16le", "-") for path in (many, one)]
    assert decoded[0] == decoded[1] and len(decoded[0]) > 44100


def test_there_is_no_seam_in_the_picture(tmp_path, sound):
    """A segment's first frames are as true to what was sent as all the others."""
    sent = np.array(list(moving(60)), np.float32)
    found = media.video_frames(write(tmp_path / "a.part", sound, 60, each=20))
    off = np.square(found - sent).mean((1, 2, 3))
    assert off[[20, 21, 40, 41]].max() <= 1.1 * off.max(initial=0, where=~np.isin(np.arange(60), [20, 21, 40, 41]))


def test_each_segment_starts_with_a_key_frame_of_its_own(tmp_path):
    for index in range(2):
        path = segment(work(tmp_path), index, moving(30))
        nals = media.ffmpeg("-i", f"file:{path}", "-c", "copy", "-bsf:v", "h264_mp4toannexb", "-f", "h264", "-")
        kinds = [nals[at + 3] & 31 for at in range(len(nals) - 3) if nals[at : at + 3] == b"\0\0\1"]
        assert next(kind for kind in kinds if kind in (1, 5)) == 5
        assert len(media.video_frames(path)) == 30


def test_durations_do_not_add_up_an_error():
    """Half an hour of 29.97 frames a second: each line is off by less than a microsecond, and so is their sum."""
    frames = [120] * 450
    lines = segment_list(frames, 29.97).splitlines()[1:]
    assert lines[:2] == ["file segment-00000.mp4", "duration 4.004000"] and len(lines) == 900
    assert segment_list([7, 7, 7], 60.0).split()[3::1].count("0.116667") == 2  # 0.11666.. three times is 0.35
    total = sum(round(float(line.split()[1]) * 1e6) for line in lines if line.startswith("duration"))
    assert total == 450 * 4_004_000


@pytest.mark.parametrize("name", ["a b", "100%d #1?x", "你好 🙂", "it's", "-x", "file:x"])
def test_a_folder_of_any_name(tmp_path, sound, name):
    folder = tmp_path / name
    folder.mkdir()
    assert len(media.video_frames(write(folder / "a.part", sound, 10, each=4))) == 10


def test_a_sound_that_is_there_is_not_encoded_again(tmp_path, sound):
    with Soundtrack(work(tmp_path), keeper(work(tmp_path)), sound, 2.0) as track:
        track.finish(2.0)
    with Soundtrack(work(tmp_path), keeper(work(tmp_path)), tmp_path / "gone.wav", 2.0) as track:
        track.settle()
        track.finish(2.0)
    assert media.sound_seconds(work(tmp_path) / "sound.m4a") == pytest.approx(2.0, abs=0.001)


def test_the_encoder_of_a_killed_run_does_not_write_into_the_next_ones_file(tmp_path):
    first, second = (VideoWriter(tmp_path / "a.mp4", (128, 96), 25.0) for _ in range(2))
    for video, count in ((first, 10), (second, 20)):
        for frame in moving(count):
            video.write(to_i420(frame, (128, 96)))
    second.close()
    whole = (tmp_path / "a.mp4").read_bytes()
    first.end()
    assert first._process.wait(timeout=10) == 0
    assert (tmp_path / "a.mp4").read_bytes() == whole and len(media.video_frames(tmp_path / "a.mp4")) == 20
    first.abort()
    assert [path.name for path in tmp_path.iterdir()] == ["a.mp4"]


def test_the_arguments(tmp_path):
    arguments = encode_arguments((512, 640), 29.97)
    assert arguments[arguments.index("-video_size") + 1] == "512x640"
    assert arguments[arguments.index("-framerate") + 1] == "30000/1001"
    assert f"file:{tmp_path / '-v.m4a'}" in join_arguments(tmp_path / "-v.m4a", 1.0, "t", "{}")
    assert [str(frame_rate(fps)) for fps in (25, 23.976, 59.94, 12.5, 30)] == [
        "25", "24000/1001", "60000/1001", "25/2", "30",
    ]  # fmt: skip
    assert "atrim=end=10.010000" in sound_filter(300 * 1001 / 30000)


# --- what goes wrong


def test_frames_of_another_size_or_type(tmp_path):
    for frame in (FRAME[:-2], FRAME.astype(np.float32), FRAME[..., 0]):
        with pytest.raises(ValueError, match="128x96"):
            to_i420(frame, (128, 96))
    with pytest.raises(ValueError, match="even"):
        VideoWriter(tmp_path / "a.part", (127, 96), 25.0)


def test_no_frame_no_segment(tmp_path):
    with pytest.raises(ValueError, match="at least one frame"), VideoWriter(tmp_path / "a.part", (128, 96), 25.0) as video:
        pass
    assert video._process.returncode is not None and not list(tmp_path.iterdir())


def test_an_error_while_rendering_kills_the_encoder(tmp_path):
    threads = threading.active_count()
    with pytest.raises(RuntimeError, match="engine"), VideoWriter(tmp_path / "a.part", (128, 96), 25.0) as video:
        video.write(to_i420(FRAME, (128, 96)))
        raise RuntimeError("the engine broke")
    assert video._process.returncode != 0 and threading.active_count() == threads and not list(tmp_path.iterdir())


def test_an_error_while_rendering_ends_the_sound(tmp_path, sound):
    with (
        pytest.raises(RuntimeError, match="engine"),
        Soundtrack(work(tmp_path), keeper(work(tmp_path)), sound, 1000.0) as track,
    ):
        raise RuntimeError("the engine broke")
    assert track._encoder._process.returncode != 0 and not list(work(tmp_path).iterdir())


@pytest.mark.parametrize("make", ["text", "missing", "mute"])
def test_a_sound_that_cannot_be_used(tmp_path, make):
    bad = tmp_path / "voice.wav"
    if make == "text":
        bad.write_text("no sound")
    elif make == "mute":
        media.write_video(bad, media.corners(), "-pix_fmt", "yuv420p", "-f", "mp4")
    with pytest.raises(MediaError, match=r"could not be encoded.*Convert the sound"):
        write(tmp_path / "a.part", bad, 50)


def test_a_folder_that_is_not_there(tmp_path, sound):
    with pytest.raises(StorageError, match="nowhere"):
        segment(tmp_path / "nowhere", 0, moving(50))
    with pytest.raises(StorageError, match="nowhere"):
        join(tmp_path / "a.part", of(tmp_path / "nowhere", [1]), "t", {})
    with pytest.raises(StorageError, match="nowhere"), Soundtrack(work(tmp_path), keeper(work(tmp_path)), sound, 1.0) as track:
        segment(work(tmp_path), 0, moving(25))
        track.finish(1.0)
        join(tmp_path / "nowhere" / "a.part", of(work(tmp_path), [25]), "t", {})


@pytest.mark.parametrize("at", [20, 499])
def test_an_encoder_killed_from_outside(tmp_path, at):
    with (
        pytest.raises(MediaError, match="stopped from outside"),
        VideoWriter(tmp_path / "a.part", (128, 96), 25.0) as video,
    ):
        for i, frame in enumerate(moving(500)):
            if i == at:
                video._process.kill()
            video.write(to_i420(frame, (128, 96)))
    assert not list(tmp_path.iterdir())


@pytest.fixture
def tiny_disk(tmp_path):
    """A file system of 400 kB; skips aloud where none can be mounted."""
    folder = tmp_path / "tiny"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=400k", "tmpfs", str(folder)]
    if not shutil.which("mount") or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("this user may not mount a small disk")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


@pytest.mark.parametrize("frames", [200, 15])
def test_a_full_disk(tiny_disk, frames):
    """While frames come, and only when the index is written at the end."""
    noise = np.random.default_rng(0)
    with pytest.raises(StorageError, match="disk is full"):
        segment(tiny_disk, 0, (noise.integers(0, 255, (256, 256, 3), dtype=np.uint8) for _ in range(frames)), size=(256, 256))
    assert not list(tiny_disk.iterdir())


def test_a_full_disk_when_all_is_put_together(tiny_disk, tmp_path, sound):
    noise = np.random.default_rng(0)
    frames = (noise.integers(0, 255, (256, 256, 3), dtype=np.uint8) for _ in range(25))
    segment(work(tmp_path), 0, frames, size=(256, 256))
    with Soundtrack(work(tmp_path), keeper(work(tmp_path)), sound, 1.0) as track:
        track.finish(1.0)
    with pytest.raises(StorageError, match="disk is full"):
        join(tiny_disk / "a.part", of(work(tmp_path), [25]), "t", {})
    assert not list(tiny_disk.iterdir())


def test_settings_are_json(tmp_path, sound):
    assert json.loads(read_metadata(write(tmp_path / "a.part", sound, 3))["comment"]) == SETTINGS


def test_the_sample_voices_end_with_their_videos(tmp_path, samples):
    for voice in sorted((samples / "voices").iterdir()):
        seconds = media.sound_seconds(voice)
        frames = round(seconds * 25)
        off, found = gap(write(tmp_path / "a.part", voice, frames, size=(64, 64)), 25.0)
        assert found == frames and abs(off) <= 0.04, voice.name


def test_a_video_in_which_nobody_speaks_has_no_sound(tmp_path):
    folder = work(tmp_path)
    for index in range(2):
        segment(folder, index, moving(10))
    with NoSound() as sound:
        sound.settle()
        sound.finish(0.8)
    join(tmp_path / "a.mp4", Parts(folder, [10, 10], 25.0, sound.path), "t", {"seed": 3})
    assert len(media.video_frames(tmp_path / "a.mp4")) == 20 and read_settings(tmp_path / "a.mp4") == {"seed": 3}
    with pytest.raises(subprocess.CalledProcessError):
        media.sound_seconds(tmp_path / "a.mp4")


def test_two_videos_of_one_job_do_not_share_their_segments():
    assert segment_name(3) == "segment-00003.mp4" and segment_name(3, "points") == "points-00003.mp4"
    assert "points-00000.mp4" in segment_list([5], 25.0, "points")
