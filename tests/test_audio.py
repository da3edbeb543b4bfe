"""Every sound that should simply work, and every broken one that should be refused in plain words."""

from __future__ import annotations

import struct
import subprocess
import time
import tracemalloc

import numpy as np
import pytest

from extensions.sadtalker import audio
from extensions.sadtalker.audio import decode_command
from extensions.sadtalker.engines.geometric.hearing import Hearing
from tests import media
from webui.plugin_api import MediaError

LIMIT = 1800.0


def listen(path, max_seconds):
    return audio.listen(path, max_seconds, Hearing())


@pytest.fixture(scope="module")
def wav(tmp_path_factory):
    """Two seconds, 48 kHz stereo."""
    return media.write_wav(tmp_path_factory.mktemp("sound") / "voice.wav", 2.0, rate=48000, channels=2)


@pytest.fixture(scope="module")
def reference(wav):
    return listen(wav, LIMIT)


def test_a_voice_has_a_row_every_10_ms_and_its_exact_length(tmp_path):
    voice = listen(media.write_wav(tmp_path / "a.wav", 1.2345), LIMIT)
    assert voice.seconds == round(1.2345 * 16000) / 16000
    assert voice.log_mel.shape == (124, 80) and voice.level.shape == (124,)
    assert voice.log_mel.dtype == np.float16 and voice.level.dtype == np.float32
    assert not voice.silent and voice.level.max() == pytest.approx(0.5 / 2**0.5, abs=0.02)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("a.mp3", ["-b:a", "128k"]),
        ("a.m4a", []),
        ("faststart.m4a", ["-movflags", "+faststart"]),
        ("a.aac", []),
        ("a.ogg", ["-c:a", "libvorbis"]),
        ("a.opus", ["-c:a", "libopus"]),
        ("a.flac", []),
        ("a.aiff", []),
        ("browser microphone.webm", ["-c:a", "libopus", "-live", "1"]),
        ("u8.wav", ["-c:a", "pcm_u8", "-ar", "8000"]),
        ("s24.wav", ["-c:a", "pcm_s24le", "-ar", "96000"]),
        ("float.wav", ["-c:a", "pcm_f32le", "-ar", "44100"]),
        ("double.wav", ["-c:a", "pcm_f64le", "-ar", "11025", "-ac", "1"]),
        ("alaw.wav", ["-c:a", "pcm_alaw", "-ar", "8000"]),
        ("5.1.flac", ["-ac", "6"]),
        ("sound.mp4", ["-f", "mp4"]),
        ("an mp3 called.wav", ["-f", "mp3"]),
        ("a wav called.mp4", ["-f", "wav"]),
        ("no suffix", ["-f", "flac"]),
        ("你好 🙂.wav", []),
        ("-x.wav", []),
        ("http:x.wav", []),
        ("concat:a|b.wav", []),
        ("100%d.wav", []),
    ],
)
def test_every_common_sound(tmp_path, wav, reference, name, options):
    voice = listen(media.convert(wav, tmp_path / name, *options), LIMIT)
    assert voice.seconds == pytest.approx(2.0, abs=0.08)
    n = min(len(voice.level), len(reference.level))
    assert np.corrcoef(voice.level[:n], reference.level[:n])[0, 1] > 0.9
    assert voice.level.max() == pytest.approx(reference.level.max(), rel=0.15)


def test_a_relative_name_that_looks_like_an_option(tmp_path, wav, monkeypatch):
    (tmp_path / "-i").write_bytes(wav.read_bytes())
    monkeypatch.chdir(tmp_path)
    assert listen("-i", LIMIT).seconds == 2.0


def test_the_sound_of_a_video(tmp_path, wav):
    silent = media.write_video(tmp_path / "silent.mp4", media.corners(), "-pix_fmt", "yuv420p", frames=50)
    both = tmp_path / "both.mov"
    media.ffmpeg("-i", silent, "-i", wav, "-c:v", "copy", both)
    assert listen(both, LIMIT).seconds == pytest.approx(2.0, abs=0.03)


def test_a_wav_written_to_a_pipe_does_not_know_its_length(tmp_path, wav):
    piped = media.ffmpeg("-i", wav, "-f", "wav", "-")
    assert piped[4:8] == b"\xff\xff\xff\xff"
    (tmp_path / "a.wav").write_bytes(piped)
    assert listen(tmp_path / "a.wav", LIMIT).seconds == 2.0


def test_silence_is_no_error(tmp_path):
    assert listen(media.write_wav(tmp_path / "a.wav", amplitude=0.0), LIMIT).silent


def test_the_limit_is_exact(tmp_path, wav):
    assert listen(wav, 2.0).seconds == 2.0
    refused(wav, "longer than 1.99 seconds", limit=1.99)


def test_ten_hours_are_refused_without_decoding_them(tmp_path):
    path = long_silence(tmp_path / "long.wav", 36000)
    started = time.perf_counter()
    refused(path, "longer than 2 minutes", "Cut it", limit=120.0)
    assert time.perf_counter() - started < 3


def long_silence(path, seconds):
    """A sparse WAV file, 8 kHz mono, 16-bit."""
    size = seconds * 8000 * 2
    with open(media.write_wav(path, 0.0, rate=8000), "r+b") as file:
        for offset, value in ((4, 36 + size), (40, size)):
            file.seek(offset)
            file.write(struct.pack("<I", value))
        file.truncate(44 + size)
    return path


def test_samples_are_not_kept(tmp_path):
    """Five minutes hold 19 MB of samples; the features are 10 MB."""
    path = long_silence(tmp_path / "a.wav", 300)
    tracemalloc.start()
    voice = listen(path, LIMIT)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert voice.seconds == 300
    assert peak < voice.log_mel.nbytes + voice.level.nbytes + 6e6


# --- what is refused


def refused(path, *words, limit=LIMIT):
    with pytest.raises(MediaError) as caught:
        listen(path, limit)
    for word in words:
        assert word in str(caught.value)
    assert str(caught.value).endswith(".") and "Errno" not in str(caught.value)


def test_missing_file(tmp_path):
    refused(tmp_path / "none.wav", "no file", "none.wav")


def test_folder(tmp_path):
    refused(tmp_path, "folder")


def test_empty_file(tmp_path):
    (tmp_path / "a.wav").touch()
    refused(tmp_path / "a.wav", "empty")


def test_unreadable_file(tmp_path):
    path = media.write_wav(tmp_path / "a.wav")
    with media.unreadable(path):
        refused(path, "cannot be read", "permissions")


def test_a_device_error_is_no_traceback(tmp_path, monkeypatch):
    def broken(*_, **__):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("builtins.open", broken)
    refused(tmp_path / "a.wav", "cannot be read", "Permission denied")


@pytest.mark.parametrize("samples", [0, 1, 1599])
def test_too_short(tmp_path, samples):
    refused(media.write_wav(tmp_path / "a.wav", samples / 16000), "lasts only", "at least a second")


@pytest.mark.parametrize("content", [b"This is no sound, just words.\n" * 20, bytes(range(256)), b"RIFF\0\0\0\0WAVE"])
def test_what_is_no_sound(tmp_path, content):
    (tmp_path / "voice.wav").write_bytes(content)
    refused(tmp_path / "voice.wav", "voice.wav is not a sound that can be read")


def test_a_picture_has_no_sound(tmp_path):
    media.corners().save(tmp_path / "a.png")
    refused(tmp_path / "a.png", "not a sound")


def test_a_video_without_sound(tmp_path):
    refused(media.write_video(tmp_path / "a.mp4", media.corners(), "-pix_fmt", "yuv420p"), "no sound in it")


@pytest.mark.parametrize("share", [0.3, 0.7])
@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("a.wav", []),
        ("a.mp3", []),
        ("a.m4a", []),
        ("faststart.m4a", ["-movflags", "+faststart"]),
        ("a.ogg", ["-c:a", "libvorbis"]),
        ("a.opus", ["-c:a", "libopus"]),
        ("a.flac", []),
        ("a.webm", ["-c:a", "libopus"]),
        ("live.webm", ["-c:a", "libopus", "-live", "1"]),
    ],
)
def test_truncated(tmp_path, wav, name, options, share):
    whole = media.convert(wav, tmp_path / name, *options)
    refused(media.cut(whole, tmp_path / f"cut {name}", share), "damaged or breaks off")


@pytest.mark.parametrize(
    "content",
    [
        "#EXTM3U\n#EXT-X-TARGETDURATION:10\n#EXTINF:10,\nsecret.wav\n#EXT-X-ENDLIST\n",
        "#EXTM3U\n#EXT-X-TARGETDURATION:10\n#EXTINF:10,\nhttp://127.0.0.1:9/a.ts\n#EXT-X-ENDLIST\n",
        "ffconcat version 1.0\nfile secret.wav\n",
        "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\nm=audio 5004 RTP/AVP 0\n",
    ],
)
@pytest.mark.parametrize("name", ["voice.wav", "voice.m3u8", "voice.sdp"])
def test_a_playlist_does_not_open_another_file(tmp_path, content, name):
    media.write_wav(tmp_path / "secret.wav")
    (tmp_path / name).write_text(content)
    refused(tmp_path / name, "is not a sound")


def test_the_decoder_is_gone_when_listening_stops_early(tmp_path, monkeypatch):
    started = []
    popen = subprocess.Popen

    def remember(*arguments, **options):
        started.append(popen(*arguments, **options))
        return started[-1]

    monkeypatch.setattr(audio.subprocess, "Popen", remember)
    refused(media.write_wav(tmp_path / "a.wav", 60), "longer", limit=1.0)
    (process,) = started
    assert process.returncode is not None and process.returncode != 0
    assert process.stdin is None and process.stdout.closed and process.stderr.closed


def test_the_command_opens_one_local_file_only(tmp_path):
    command = decode_command("ffmpeg", tmp_path / "a.wav")
    before_input = command[: command.index("-i")]
    assert before_input[before_input.index("-protocol_whitelist") + 1] == "file,pipe"
    containers = before_input[before_input.index("-format_whitelist") + 1].split(",")
    assert not {"hls", "concat", "dash", "sdp", "image2", "lavfi"} & set(containers)
    assert command[command.index("-i") + 1] == f"file:{tmp_path / 'a.wav'}" and command[-1] == "pipe:1"


def test_every_container_that_is_allowed_is_one_ffmpeg_has():
    known = media.ffmpeg("-demuxers").decode().split("\n")
    names = {name for line in known if line.startswith(" D") for name in line.split()[1].split(",")}
    assert set(audio._CONTAINERS.split(",")) <= names


def test_the_sample_voices(samples):
    seconds = {path.name: listen(path, LIMIT).seconds for path in sorted((samples / "voices").iterdir())}
    assert seconds["english_16s.wav"] == 16.0 and len(seconds) >= 4
