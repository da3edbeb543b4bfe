"""The video that comes out: frames as they went in, sound as long as they are, labelled, the same bytes every time."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import threading
import time

import numpy as np
import pytest

from extensions.sadtalker import encode
from extensions.sadtalker.encode import (
    AI_NOTICE,
    VideoWriter,
    encode_command,
    frame_rate,
    parse_ffmetadata,
    read_metadata,
    read_settings,
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


def write(path, sound, frames=50, planned=None, fps=25.0, size=(128, 96), settings=SETTINGS):
    with VideoWriter(path, size, fps, planned or frames, sound, "Talking head", settings) as video:
        for frame in moving(frames, size):
            video.write(frame)
    return path


def gap(path, fps):
    """Seconds by which the frames outlast the sound, and how many frames there are."""
    frames = len(media.video_frames(path))
    return frames / fps - media.sound_seconds(path), frames


def streams(path):
    command = [encode.ffmpeg_program(), "-hide_banner", "-i", str(path)]
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
    with VideoWriter(tmp_path / "a.part", (128, 96), 25.0, 50, sound, "t", {}) as video:
        time.sleep(pause)  # the sound runs ahead while the first frame is being made
        for frame in moving(frames):
            video.write(frame)
    assert video.written == frames and [path.name for path in tmp_path.iterdir()] == ["a.part"]
    assert read_metadata(tmp_path / "a.part")["description"] == AI_NOTICE
    off, found = gap(tmp_path / "a.part", 25.0)
    assert found == frames and abs(off) <= 0.04


def test_stopping_a_long_video_is_quick(tmp_path):
    """Half an hour of sound would take ffmpeg ten seconds and more."""
    sound = media.write_wav(tmp_path / "a.wav", 1800.0, rate=8000)
    with VideoWriter(tmp_path / "a.part", (128, 96), 25.0, 45000, sound, "t", {}) as video:
        for frame in moving(40):
            video.write(frame)
        started = time.perf_counter()
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

    sound = media.write_wav(tmp_path / "a.wav", 16.0, rate=48000, channels=2)
    readings = []
    with VideoWriter(tmp_path / "a.part", (512, 512), 25.0, 400, sound, "t", {}) as video:
        for i, frame in enumerate(moving(400, (512, 512))):
            video.write(frame)
            if i in (99, 399):
                readings.append(memory(video))
    assert readings[1] < readings[0] + 25


def test_a_still_background_stays_still(tmp_path, sound):
    """Grain that does not move must not shimmer: the meter allows 0.3 levels."""
    grain = np.random.default_rng(0).normal(128, 8, (256, 256, 3)).clip(0, 255).astype(np.uint8)
    with VideoWriter(tmp_path / "a.part", (256, 256), 25.0, 50, sound, "t", {}) as video:
        for i in range(50):
            frame = grain.copy()
            frame[:128] = np.roll(grain, 3 * i, axis=1)[:128]
            video.write(frame)
    below = media.video_frames(tmp_path / "a.part")[:, 144:].astype(float)
    assert np.abs(below - np.median(below, axis=0)).mean((1, 2, 3)).max() < 0.3


def test_the_command(tmp_path):
    command = encode_command("ffmpeg", tmp_path / "-a.part", (512, 640), 29.97, 300, tmp_path / "-v.wav", "t", "{}")
    assert command[command.index("-video_size") + 1] == "512x640"
    assert command[command.index("-framerate") + 1] == "30000/1001"
    assert command[-3:] == ["-f", "mp4", f"file:{tmp_path / '-a.part'}"]
    assert f"file:{tmp_path / '-v.wav'}" in command
    assert [str(frame_rate(fps)) for fps in (25, 23.976, 59.94, 12.5, 30)] == [
        "25", "24000/1001", "60000/1001", "25/2", "30",
    ]  # fmt: skip
    assert "atrim=end=10.010000" in sound_filter(300 * 1001 / 30000)


# --- what goes wrong


def test_frames_of_another_size_or_type(tmp_path, sound):
    for frame in (FRAME[:-2], FRAME.astype(np.float32), FRAME[..., 0]):
        with pytest.raises(ValueError, match="128x96"), VideoWriter(
            tmp_path / "a.part", (128, 96), 25.0, 50, sound, "t", {}
        ) as video:
            video.write(frame)
    with pytest.raises(ValueError, match="even"):
        VideoWriter(tmp_path / "a.part", (127, 96), 25.0, 50, sound, "t", {})


def test_no_frame_no_video(tmp_path, sound):
    with (
        pytest.raises(ValueError, match="at least one frame"),
        VideoWriter(tmp_path / "a.part", (128, 96), 25.0, 50, sound, "t", {}) as video,
    ):
        pass
    assert video._process.returncode is not None


def test_an_error_while_rendering_kills_the_encoder(tmp_path, sound):
    threads = threading.active_count()
    with (
        pytest.raises(RuntimeError, match="engine"),
        VideoWriter(tmp_path / "a.part", (128, 96), 25.0, 50, sound, "t", {}) as video,
    ):
        video.write(FRAME)
        raise RuntimeError("the engine broke")
    assert video._process.returncode != 0 and threading.active_count() == threads


@pytest.mark.parametrize("make", ["text", "missing", "mute"])
def test_a_sound_that_cannot_be_used(tmp_path, make):
    bad = tmp_path / "voice.wav"
    if make == "text":
        bad.write_text("no sound")
    elif make == "mute":
        media.write_video(bad, media.corners(), "-pix_fmt", "yuv420p", "-f", "mp4")
    with pytest.raises(MediaError, match="could not be encoded"):
        write(tmp_path / "a.part", bad, 500)


def test_a_folder_that_is_not_there(tmp_path, sound):
    with pytest.raises(StorageError, match="nowhere"):
        write(tmp_path / "nowhere" / "a.part", sound, 500)


def test_an_encoder_killed_from_outside(tmp_path, sound):
    with (
        pytest.raises(MediaError, match="stopped from outside"),
        VideoWriter(tmp_path / "a.part", (128, 96), 25.0, 500, sound, "t", {}) as video,
    ):
        for i, frame in enumerate(moving(500)):
            if i == 20:
                video._process.kill()
            video.write(frame)


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
def test_a_device_without_room(sound):
    with pytest.raises(StorageError, match="disk is full"):
        write("/dev/full", sound, 200)


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
def test_a_full_disk(tiny_disk, sound, frames):
    """While frames come, and only when the index is written at the end."""
    noise = np.random.default_rng(0)
    with pytest.raises(StorageError, match="disk is full"), VideoWriter(
        tiny_disk / "a.part", (256, 256), 25.0, frames, sound, "t", {}
    ) as video:
        for _ in range(frames):
            video.write(noise.integers(0, 255, (256, 256, 3), dtype=np.uint8))


def test_settings_are_json(tmp_path, sound):
    assert json.loads(read_metadata(write(tmp_path / "a.part", sound, 3))["comment"]) == SETTINGS


def test_the_sample_voices_end_with_their_videos(tmp_path, samples):
    for voice in sorted((samples / "voices").iterdir()):
        seconds = media.sound_seconds(voice)
        frames = round(seconds * 25)
        off, found = gap(write(tmp_path / "a.part", voice, frames, size=(64, 64)), 25.0)
        assert found == frames and abs(off) <= 0.04, voice.name
