"""The talking head from files to file, through the service that page and command line use, with the bounds it is held to."""

from __future__ import annotations

import itertools
import json
import re
import shutil
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from extensions.sadtalker import segments
from extensions.sadtalker.engines.geometric.engine import GeometricEngine
from extensions.sadtalker.jobs import TalkingHeadRequest, recall
from extensions.sadtalker.jobs import talk as handler
from tests import media
from tests.contexts import Crash, MemoryContext
from tests.media import write_wav
from webui import plugin_loader
from webui.artifacts import Artifacts
from webui.errors import Cancelled, MediaError, ModelMissing, StorageError
from webui.jobs.service import JobService
from webui.jobs.types import JobState
from webui.settings import PROJECT, Settings


@pytest.fixture(scope="module")
def studio(tmp_path_factory):
    """The real service with the real extension, over folders of its own."""
    folder = tmp_path_factory.mktemp("studio")
    settings = Settings(models_dir=folder / "models", outputs_dir=folder / "outputs")
    artifacts = Artifacts(settings.outputs_dir)
    service = JobService(plugin_loader.load(PROJECT / "extensions").kinds, artifacts, settings)
    yield service, artifacts
    service.close()


@pytest.fixture(scope="module")
def talk(studio):
    """talk(portrait, voice, **options) -> the finished job."""
    service, artifacts = studio

    def run(portrait, voice, **options):
        request = {"portrait": artifacts.adopt(Path(portrait)).id, "voice": artifacts.adopt(Path(voice)).id, "seed": 1, **options}
        return service.wait(service.submit("talk", request).id, timeout=300)

    return run


@pytest.fixture(scope="module")
def clip(talk, portrait_file, voice_file):
    job = talk(portrait_file, voice_file)
    assert job.state is JobState.DONE, job.error
    return job


@pytest.fixture(scope="module")
def measure(meter):
    """measure(video, *options) -> what the meter beside the project says."""

    def run(video, *options):
        command = [sys.executable, str(meter), str(video), "--json", *map(str, options)]
        return json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)

    return run


def frames_of(video, count=None):
    import cv2

    reader = cv2.VideoCapture(str(video))
    out = []
    while count is None or len(out) < count:
        ok, frame = reader.read()
        if not ok:
            break
        out.append(frame[:, :, ::-1])
    return out


def test_the_result_says_what_was_used(clip):
    data = clip.result.data
    assert data["engine"] == "builtin" and "no SadTalker checkpoints" in data["engine_reason"]
    assert data["size"][0] == 512 and data["seed"] == 1 and data["fps"] == 25
    assert {"voice", "face", "prepare", "motion", "render", "first_preview", "total"} <= set(data["seconds"])


@pytest.mark.long
def test_the_clip_reaches_the_bounds(clip, portrait_file, measure):
    video = clip.result.artifacts[0].path
    m = measure(video, "--portrait", portrait_file)
    assert m["face_found"] == 1.0
    assert m["identity_mean"] <= 0.25 and m["identity_max"] <= 0.40
    assert 0.03 <= m["aperture_in_speech"] - m["aperture_in_silence"] <= 0.15
    assert m["aperture_in_silence"] - m["aperture_rest"] <= 0.02
    assert 0.04 <= m["head_range"] <= 0.30
    assert m["head_jitter"] <= 0.006
    assert abs(m["av_gap_s"]) <= 0.04
    assert m["frames"] == clip.result.data["frames"]


@pytest.mark.long
def test_full_still_leaves_the_picture_alone_while_lips_and_eyes_live(talk, samples, voice_file, measure):
    portrait = samples / "portraits" / "full_body_1.png"
    job = talk(portrait, voice_file, preprocess="full", still=True)
    m = measure(job.result.artifacts[0].path, "--portrait", portrait, "--full")
    assert m["far_drift_levels"] <= 0.3 and m["far_fidelity_levels"] <= 3.0
    assert m["head_range"] <= 0.03
    assert m["aperture_in_speech"] - m["aperture_in_silence"] >= 0.03
    assert m["blinks"] >= 1


@pytest.mark.long
def test_every_sample_portrait_talks_in_every_mode(talk, samples, tmp_path):
    voice = write_wav(tmp_path / "short.wav", seconds=0.4)
    for portrait in sorted((samples / "portraits").iterdir()):
        for mode in ("crop", "extcrop", "resize", "full", "extfull"):
            job = talk(portrait, voice, preprocess=mode, size=256)
            assert job.state is JobState.DONE, (portrait.name, mode, job.error)
            assert len(frames_of(job.result.artifacts[0].path)) == 10


def test_the_same_request_and_seed_give_the_same_file(talk, portrait_file, tmp_path):
    voice = write_wav(tmp_path / "voice.wav", seconds=1.0)
    first, second, other = (talk(portrait_file, voice, size=256, seed=seed).result.artifacts[0].path for seed in (5, 5, 6))
    assert first.read_bytes() == second.read_bytes()
    assert first.read_bytes() != other.read_bytes()


def test_silence_makes_a_still_mouthed_video_and_a_warning(talk, portrait_file, tmp_path):
    job = talk(portrait_file, write_wav(tmp_path / "silence.wav", seconds=2.0, amplitude=0.0), size=256, still=True, blink=False)
    assert job.state is JobState.DONE and any("silent" in warning for warning in job.warnings)
    frames = frames_of(job.result.artifacts[0].path)
    assert len(frames) == 50
    mouth = [frame[frame.shape[0] // 2 :].astype(int) for frame in frames]
    assert max(np.abs(frame - mouth[0]).mean() for frame in mouth) < 1.0


def test_cancel_keeps_a_playable_part(studio, portrait_file, tmp_path):
    service, artifacts = studio
    voice = write_wav(tmp_path / "long.wav", seconds=60)
    request = {"portrait": artifacts.adopt(portrait_file).id, "voice": artifacts.adopt(voice).id, "size": 256}
    job = service.submit("talk", request)
    while service.get(job.id).preview is None:
        job = service.watch(job.id, job.version, timeout=5)
        assert not job.state.finished, job.error
    service.cancel(job.id)
    job = service.wait(job.id, timeout=10)
    assert job.state is JobState.CANCELLED and job.result is not None
    frames = frames_of(job.result.artifacts[0].path)
    assert 0 < len(frames) == job.result.data["frames"] < 1500


@pytest.mark.parametrize(
    ("options", "expected"),
    [({"engine": "sadtalker"}, "models/SadTalker"), ({"face": 7}, "--face"), ({"face": 0}, None)],
)
def test_options_that_cannot_be_met_are_explained(talk, portrait_file, tmp_path, options, expected):
    job = talk(portrait_file, write_wav(tmp_path / "voice.wav", seconds=0.3), size=256, **options)
    if expected is None:
        assert job.state is JobState.DONE
    else:
        assert job.state is JobState.FAILED and expected in job.error.replace("\\", "/")


def test_a_picture_without_a_face_is_refused(talk, tmp_path):
    from PIL import Image

    Image.effect_noise((300, 300), 60).save(tmp_path / "noise.png")
    job = talk(tmp_path / "noise.png", write_wav(tmp_path / "voice.wav", seconds=0.3))
    assert job.state is JobState.FAILED and "face" in job.error


def apertures(video):
    """(T,) opening of the lips in each frame, in distances between the eyes."""
    from tests.test_geometric import aperture, points

    return np.array([aperture(points(np.ascontiguousarray(frame))) for frame in frames_of(video)])


@pytest.mark.long
@pytest.mark.skipif(not shutil.which("flite"), reason="flite, which speaks with known phone times, is not installed")
def test_lips_shut_on_m_b_and_p_and_open_between(talk, portrait_file, tmp_path):
    text = "My mother baked a big apple pie for Bob and Pam, but maybe people will come by boat tomorrow."
    command = ["flite", "-voice", "rms", "-psdur", "-t", text, "-o", str(tmp_path / "spoken.wav")]
    printed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    ends = [(phone, float(end)) for phone, end in re.findall(r"(\w+):([\d.]+)", printed)]
    job = talk(portrait_file, tmp_path / "spoken.wav", size=256, still=True, blink=False)
    opening = apertures(job.result.artifacts[0].path)
    rest, spoken = np.percentile(opening, 5), np.percentile(opening, 60)
    spans = [(start, end) for (_, start), (phone, end) in itertools.pairwise(ends) if phone in "mbp"]
    least = [opening[max(0, int(start * 25) - 1) : int(end * 25) + 2].min() for start, end in spans]
    shut = np.mean([value < rest + 0.35 * (spoken - rest) for value in least])
    assert len(spans) > 12 and shut >= 0.6
    assert spoken - rest > 0.03


def test_a_head_in_a_large_photo_keeps_its_pixels(talk, portrait_file, tmp_path):
    from PIL import Image

    small = Image.open(portrait_file).convert("RGB").resize((340, 340))
    large = Image.new("RGB", (4200, 2800), (90, 110, 130))
    large.paste(small, (2000, 1000))
    large.save(tmp_path / "group.jpg", quality=92)
    voice = write_wav(tmp_path / "voice.wav", seconds=0.2)
    cut = talk(tmp_path / "group.jpg", voice, size=256)
    assert cut.state is JobState.DONE and not any("scaled" in warning for warning in cut.warnings)
    whole = talk(tmp_path / "group.jpg", voice, preprocess="full")
    assert whole.state is JobState.FAILED and "--longest-side" in whole.error


@pytest.mark.parametrize("moment", ["listening", "rendering"])
def test_cancel_acts_within_a_second_on_a_long_voice(studio, portrait_file, tmp_path, moment):
    service, artifacts = studio
    voice = write_wav(tmp_path / "long.wav", seconds=1500)
    job = service.submit("talk", {"portrait": artifacts.adopt(portrait_file).id, "voice": artifacts.adopt(voice).id})
    while moment not in service.get(job.id).stage:
        job = service.watch(job.id, job.version, timeout=5)
        assert not job.state.finished, job.error
    begun = time.process_time()
    service.cancel(job.id)
    job = service.wait(job.id, timeout=30)
    # Processor time of this process, because the machine may be busy with other things.
    assert job.state is JobState.CANCELLED and time.process_time() - begun < 1.0
    assert (job.result is not None) == (moment == "rendering")


# --- a job that dies and goes on


SHORT = TalkingHeadRequest(portrait="portrait", voice="voice", size=256, seed=1)


@pytest.fixture
def begin(portrait_file, tmp_path, monkeypatch):
    """begin(name, seconds, on) -> a fresh job's context. Segments are half a second long."""
    monkeypatch.setattr(segments, "SEGMENT_SECONDS", 0.52)

    def context(name="job", seconds=2.0, on=lambda what, name: None):
        voice = write_wav(tmp_path / f"{seconds}.wav", seconds)
        return MemoryContext(tmp_path / name, {"portrait": portrait_file, "voice": voice}, on=on)

    return context


def crash_at(*moment):
    """A watcher that dies at this moment."""

    def on(*now):
        if now == moment:
            raise Crash

    return on


def made(context, request=SHORT):
    result = handler(context, request)
    return result.artifacts[0].path.read_bytes(), result.data


MOMENTS = [
    ("begin", "motion"), ("progress", "listening to the voice"), ("end", "motion"), ("begin", "segment 0"),
    ("progress", "rendering frame 1 of 50"), ("progress", "rendering frame 13 of 50"), ("end", "segment 0"),
    ("begin", "segment 1"), ("progress", "rendering frame 20 of 50"), ("preview", "15"), ("end", "segment 2"),
    ("progress", "rendering frame 50 of 50"), ("end", "segment 3"), ("output", "eileen_collins-1.mp4"),
]  # fmt: skip


def test_a_crash_at_any_moment_leaves_no_trace_in_the_video(begin):
    expected, facts = made(begin("whole"))
    for number, moment in enumerate(MOMENTS):
        first = begin(f"crash {number}", on=crash_at(*moment))
        with pytest.raises(Crash):
            handler(first, SHORT)
        done = set(first.steps)
        second = first.again()
        found, resumed = made(second)
        assert found == expected, moment
        assert not done & set(second.begun), moment
        assert resumed.keys() == facts.keys() and resumed["seconds"].keys() == facts["seconds"].keys()


def test_a_job_that_dies_again_and_again_gets_there(begin):
    """50 frames; each run writes 19 and loses the begun segment of 13."""
    expected, _ = made(begin("whole"))

    def dies(left):
        return lambda what, name: crash_at("left", 0)("left", left.pop()) if "rendering" in name else None

    context, runs = begin("dying", on=dies(list(range(20)))), 0
    while True:
        try:
            found, _ = made(context)
            break
        except Crash:
            context, runs = context.again(dies(list(range(20)))), runs + 1
    assert found == expected and runs == 3


def test_what_is_finished_is_not_done_again(begin, monkeypatch):
    first = begin(on=crash_at("begin", "segment 2"))
    with pytest.raises(Crash):
        handler(first, SHORT)
    monkeypatch.setattr("extensions.sadtalker.pipeline.listen", None)  # would fail if the voice were heard again
    second = first.again()
    _, facts = made(second)
    assert second.begun == ["segment 2", "segment 3"] and second.previews == 50 - 26
    assert facts["seconds"]["voice"] == first.steps["motion"]["voice"] and facts["frames"] == 50
    assert facts["seconds"]["first_preview"] == first.steps["segment 0"]["first_preview"]


def test_segments_change_nothing_of_what_is_seen_and_heard(begin, monkeypatch):
    many = handler(begin("many"), SHORT).artifacts[0].path
    monkeypatch.setattr(segments, "SEGMENT_SECONDS", 100)
    one = handler(begin("one"), SHORT).artifacts[0].path
    first, second = (np.array(frames_of(path), np.float32) for path in (many, one))
    assert np.abs(first - second).mean((1, 2, 3)).max() < 2.5  # levels: what encoding the same frame twice differs by
    heard = [media.ffmpeg("-i", f"file:{path}", "-vn", "-f", "s16le", "-") for path in (many, one)]
    assert heard[0] == heard[1]


def test_cancelled_in_any_segment_the_part_plays_and_keeps_its_sound(begin):
    for stop in (1, 13, 14, 30, 49):
        context = begin(f"stop {stop}")
        context._on = lambda what, name, c=context, n=stop: setattr(c, "cancelled", c.cancelled or f"frame {n} of" in name)
        result = handler(context, SHORT)
        video = result.artifacts[0].path
        assert len(frames_of(video)) == result.data["frames"] == stop
        assert media.sound_seconds(video) == pytest.approx(stop / 25, abs=0.04)


def test_cancelled_while_it_was_dead_it_keeps_what_it_has(begin):
    first = begin(on=crash_at("progress", "rendering frame 30 of 50"))
    with pytest.raises(Crash):
        handler(first, SHORT)
    second = first.again()
    second.cancelled = True
    result = handler(second, SHORT)
    assert result.data["frames"] == len(frames_of(result.artifacts[0].path)) == 26


def test_cancelled_before_the_first_frame_there_is_nothing(begin):
    context = begin()
    context._on = lambda what, name: setattr(context, "cancelled", name == "segment 0")
    with pytest.raises(Cancelled):
        handler(context, SHORT)


@pytest.mark.parametrize("stage", ["segment", "sound"])
def test_an_encoder_that_dies_is_told(begin, monkeypatch, stage):
    from extensions.sadtalker.encode import Encoder

    start = Encoder.__init__

    def killed(self, path, *arguments, **options):
        start(self, path, *arguments, **options)
        if ("segment-00001" if stage == "segment" else "encoded") in str(path):
            self._process.kill()

    monkeypatch.setattr(Encoder, "__init__", killed)
    with pytest.raises(MediaError, match="stopped from outside"):
        handler(begin(), SHORT)


@pytest.mark.skipif(not shutil.which("mount"), reason="needs a small disk")
def test_a_full_disk_in_the_middle_of_a_segment(begin, tmp_path):
    context = begin()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=100k", "tmpfs", str(context.folder)], capture_output=True).returncode:
        pytest.skip("this user may not mount a small disk")
    try:
        with pytest.raises(StorageError, match="disk is full"):
            handler(context, SHORT)
    finally:
        subprocess.run(["umount", str(context.folder)], check=True)


# --- the request comes back from the video


def test_a_video_brings_back_the_settings_it_was_made_with(begin):
    asked = SHORT.model_copy(update={"expression_scale": 1.5, "blink": False, "pose_style": 7, "engine": "auto"})
    video = handler(begin(), asked).artifacts[0].path
    found = recall(video)
    assert found == asked.model_dump(exclude={"portrait"}) | {"voice": "", "engine": "builtin", "seed": 1}
    TalkingHeadRequest.model_validate(found | {"portrait": "a", "voice": "b"})


@pytest.mark.parametrize("comment", ["", "[]", "{", "1" * 5000, "[" * 100_000, '{"seed": 1}', '{"kind": "upscale"}',
                                     '{"kind": "talk", "fps": 1e9}', '{"kind": ["talk"]}'])  # fmt: skip
def test_other_videos_bring_back_nothing(tmp_path, comment):
    silent = media.write_video(tmp_path / "a.mp4", media.corners(), "-pix_fmt", "yuv420p", "-metadata", f"comment={comment}")
    assert recall(silent) is None


def test_strange_files_bring_back_nothing(tmp_path, portrait_file, voice_file):
    (tmp_path / "text.mp4").write_text("no video")
    (tmp_path / "empty.mp4").touch()
    for path in (tmp_path, tmp_path / "text.mp4", tmp_path / "empty.mp4", tmp_path / "gone.mp4", portrait_file, voice_file,
                 Path("/dev/zero"), tmp_path / ("x" * 300), Path("a\0b")):  # fmt: skip
        assert recall(path) is None


def test_a_job_that_goes_on_with_other_settings_makes_the_video_that_it_began(begin):
    request = SHORT.model_copy(update={"preprocess": "resize"})
    expected, _ = made(begin("whole"), request)
    first = begin("first", on=crash_at("begin", "segment 2"))
    with pytest.raises(Crash):
        handler(first, request)
    second = first.again()
    second.settings = replace(second.settings, longest_side=400)
    assert made(second, request)[0] == expected


def test_a_job_whose_models_were_replaced_says_so(begin, monkeypatch):
    first = begin(on=crash_at("begin", "segment 2"))
    with pytest.raises(Crash):
        handler(first, SHORT)
    monkeypatch.setattr(GeometricEngine, "models", {"speech.npz": "another"})
    with pytest.raises(ModelMissing, match="replaced meanwhile"):
        handler(first.again(), SHORT)
