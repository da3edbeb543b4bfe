"""The words of the SadTalker tab: what a job says reaches the visitor in the page's own words, and in their language."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import gradio as gr
import numpy as np
import pytest

from extensions.sadtalker import audio, filming, join
from extensions.sadtalker.engines.choice import checkpoints, choose
from extensions.sadtalker.engines.geometric.hearing import Hearing
from extensions.sadtalker.jobs import TalkingHeadRequest
from extensions.sadtalker.tab import build
from extensions.sadtalker.tabs import options
from extensions.sadtalker.tabs.options import ENGINES, FRAMINGS
from extensions.sadtalker.tabs.used import STAGES as SHOWN_STAGES
from tests.fakes import COUNT
from tests.servers import PROJECT
from webui.artifacts import Artifacts
from webui.errors import GalateaError, ModelMissing, NoFaceFound
from webui.faces import Face, choose_face
from webui.jobs.service import JobService
from webui.settings import Settings
from webui.ui.studio import TabStudio
from webui.ui.texts import Texts

CHINESE = SimpleNamespace(headers={"accept-language": "zh-CN"})


@pytest.fixture
def studio(tmp_path: Path) -> Iterator[TabStudio]:
    artifacts, settings, texts = Artifacts(tmp_path / "outputs"), Settings(outputs_dir=tmp_path / "outputs"), Texts(None)
    texts.add("sadtalker", PROJECT / "extensions" / "sadtalker" / "locales")
    (tmp_path / "handed").mkdir()
    service = JobService([COUNT], artifacts, settings, alone=True)
    yield TabStudio(service, artifacts, settings, None, texts, "sadtalker", tmp_path / "handed", "sadtalker")
    service.close()


STAGES = (
    "looking for the face",
    "listening to the voice",
    "turning speech into movement",
    "The voice clip is silent: the mouth stays shut.",
)


def face() -> Face:
    return Face((0, 0, 200, 200), np.stack([np.linspace(0, 900, 68)] * 2, axis=1), 1.0)


def at(models: Path) -> Settings:
    return Settings(models_dir=models)


def said(models: Path) -> list[str]:
    """What the parts of a job really say."""
    empty, found = models / "empty", models / "found"
    (found / "SadTalker").mkdir(parents=True)
    (found / "SadTalker" / "one.safetensors").touch()
    sentences = [
        choose("builtin", at(empty), 256).reason,
        choose("auto", at(empty), 256).reason,
        choose("auto", at(found), 256).reason,
        choose("auto", replace(at(empty), lite=True), 256).reason,
        choose_face([face()] * 3, None, (640, 480))[1][0],
        choose_face([face()] * 3, 2, (640, 480))[1][0],
        *STAGES,
    ]
    for folder in (empty, found):
        with pytest.raises(ModelMissing) as missing:
            choose("sadtalker", at(folder), 256)
        sentences.append(str(missing.value))
    for faces in ([], [face()]):
        with pytest.raises(NoFaceFound) as none:
            choose_face(faces, 5, (640, 480))
        sentences.append(str(none.value))
    return sentences


def refusals(folder: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What reading sounds and joining segments really refuse."""

    def raised(act: Callable[[], object]) -> str:
        with pytest.raises(GalateaError) as error:
            act()
        return str(error.value)

    (folder / "file").touch()
    files = (folder, folder / "none.wav", folder / ("n" * 300), folder / "file")
    said = [raised(lambda path=path: audio.listen(path, 60, Hearing())) for path in files]

    def none() -> str:
        raise RuntimeError("no ffmpeg")

    monkeypatch.setattr("imageio_ffmpeg.get_ffmpeg_exe", none)
    parts = join.Parts(folder / "file", [1], 25, None)
    return [*said, raised(audio.ffmpeg_program), raised(lambda: join.join(folder, parts, "", {}))]


def test_what_is_refused_is_told_in_chinese(studio: TabStudio, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    for sentence in refusals(tmp_path, monkeypatch):
        told = studio.told(sentence, CHINESE)
        assert re.search(r"[\u4e00-\u9fff]", told) and "{" not in told, sentence


def test_what_a_job_says_is_put_in_the_pages_words(studio: TabStudio, tmp_path: Path):
    for sentence in said(tmp_path):
        english, chinese = studio.told(sentence), studio.told(sentence, CHINESE)
        assert "--" not in english, "the page has no flags"
        assert chinese not in (sentence, english) and "{" not in chinese, sentence
    assert studio.told("rendering frame 7 of 50", CHINESE) == "正在生成第 7 帧，共 50 帧"
    assert studio.told("something new", CHINESE) == "something new"


def test_the_stages_of_the_pipeline_are_the_ones_that_the_page_knows():
    modules = ("pipeline.py", "segments.py")
    source = "".join((PROJECT / "extensions" / "sadtalker" / name).read_text(encoding="utf-8") for name in modules)
    for stage in STAGES:
        assert f'"{stage}"' in source
    assert 'stage: str = "rendering frame"' in source and '} {done} of {total}"' in source


@pytest.mark.parametrize(("field", "names"), [("preprocess", FRAMINGS), ("engine", ENGINES)])
def test_every_framing_and_every_engine_has_a_name(field: str, names: tuple[str, ...]):
    from typing import get_args

    values = get_args(TalkingHeadRequest.model_fields[field].annotation)
    assert tuple(f"value_{field}_{value}" for value in values) == names


def told_before(studio: TabStudio, models: Path, *drawing: Any, visitor: Any = None) -> str:
    """What stands on the page before a job is started. drawing: engine, size and framing."""
    with gr.Blocks(analytics_enabled=False):
        form = options.build(replace(studio, settings=at(models)))
    return form.tell_engine(*drawing, visitor)


def test_without_files_the_page_says_that_the_built_in_engine_will_draw_and_why(studio: TabStudio, tmp_path: Path):
    name = f"{tmp_path.name}/SadTalker"
    assert told_before(studio, tmp_path, "auto", 256, "crop") == (
        f"<p>The built-in engine will draw: {name} has no SadTalker checkpoints.</p>"
    )
    assert "内置引擎" in told_before(studio, tmp_path, "auto", 256, "crop", visitor=CHINESE)
    assert "<strong>SadTalker&#x27;s models are missing" in told_before(studio, tmp_path, "sadtalker", 256, "crop")


def test_of_files_that_are_broken_the_page_says_so_before_a_job_is_started(studio: TabStudio, tmp_path: Path):
    (tmp_path / "SadTalker").mkdir()
    for name in ("SadTalker_V0.0.2_256.safetensors", "mapping_00109-model.pth.tar", "mapping_00229-model.pth.tar"):
        (tmp_path / "SadTalker" / name).write_bytes(b"half of it")
    automatic, wanted = (told_before(studio, tmp_path, engine, 256, "crop") for engine in ("auto", "sadtalker"))
    assert "built-in engine will draw" in automatic and "<strong>" in wanted
    for said in (automatic, wanted):
        assert "SadTalker_V0.0.2_256.safetensors" in said and "SadTalker v0.0.2 as one file" in said and ".." not in said


def test_an_enhancer_that_cannot_be_used_is_named_with_the_reason(studio: TabStudio, tmp_path: Path):
    (tmp_path / "GFPGAN").mkdir()
    with gr.Blocks(analytics_enabled=False):
        form = options.build(replace(studio, settings=replace(at(tmp_path), lite=False)))
    assert form.list_files(None)[2] == ""
    (tmp_path / "GFPGAN" / "half.safetensors").write_bytes(b"\x08\x00")
    faces, _, said = form.list_files(None)
    assert "half.safetensors is" in said and faces["choices"] == [("none", "none")]


@pytest.mark.parametrize(("framing", "mapping"), [("resize", "mapping_00229.tar"), ("extfull", "mapping_00109.tar")])
def test_the_page_shows_which_files_will_be_used(
    studio: TabStudio, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, framing: str, mapping: str
):
    files = {"generator": "SadTalker_256", "audio2exp": "SadTalker_256"}
    files |= {"mapping": "mapping_00229.tar", "mapping_full": "mapping_00109.tar"}
    paths = {net: tmp_path / "SadTalker" / name for net, name in files.items()}
    found = checkpoints.Checkpoint(tmp_path / "SadTalker", 256, "v0.0.2", paths)
    monkeypatch.setattr(checkpoints, "find", lambda _folders, _size: found)
    said = told_before(studio, tmp_path, "auto", 512, framing)
    assert said.endswith(f"<p>Files: SadTalker_256, {mapping}</p>")
    assert "SadTalker&#x27;s networks will draw" in said and "the head is drawn at 256.<" in said


def test_every_stage_has_a_name(studio: TabStudio):
    assert {name.removeprefix("used_seconds_") for name in SHOWN_STAGES} == {*filming.STAGES, "first_preview", "total"}


def test_a_file_is_handed_out_once_however_often_it_is_seen(studio: TabStudio, tmp_path: Path):
    (tmp_path / "hello.txt").write_text("hello")
    artifact = studio.artifacts.upload(tmp_path / "hello.txt")
    first = studio.hand_out(artifact)
    assert [studio.hand_out(artifact) for _ in range(5)] == [first] * 5
    assert len(list(studio.handed.rglob("*.txt"))) == 1
    first.unlink()
    assert studio.hand_out(artifact).read_text() == "hello", "also after the system cleared it away"


def filled(studio: TabStudio, request: TalkingHeadRequest, *without: str, visitor: Any = None) -> dict[str, Any]:
    """What the form shows of a request, by the widgets' ids; `without` some of its fields."""
    with gr.Blocks(analytics_enabled=False) as page:
        build(replace(studio, page=page))
    form = studio.forms.of("talk")
    updates = form.fill({name: value for name, value in request.model_dump().items() if name not in without}, visitor)
    assert set(updates) == set(form.outputs)
    return {widget.elem_id: value for widget, value in updates.items()}


@pytest.fixture
def request_made(studio: TabStudio, portrait_file: Path, voice_file: Path) -> TalkingHeadRequest:
    portrait, voice = (studio.artifacts.upload(file).id for file in (portrait_file, voice_file))
    return TalkingHeadRequest(portrait=portrait, voice=voice, preprocess="full", blink=False, seed=7)


def test_a_request_fills_the_whole_form(studio: TabStudio, request_made: TalkingHeadRequest):
    form = filled(studio, request_made)
    options = {name: form[f"field-sadtalker-{name}"] for name in ("preprocess", "seed", "blink")}
    assert options == {"preprocess": "full", "seed": 7, "blink": False}
    assert form["field-sadtalker-face"] == "", "an empty box, not the word None"
    assert Path(form["sadtalker-portrait"]).stem == request_made.portrait, "a stand-in that is known again by its name"
    assert Path(form["sadtalker-voice"]).stem == request_made.voice


def test_files_that_are_gone_leave_their_places_empty(studio: TabStudio, request_made: TalkingHeadRequest):
    form = filled(studio, request_made, "portrait", "voice")
    assert form["sadtalker-portrait"] is None and form["sadtalker-voice"] is None and form["field-sadtalker-seed"] == 7


def test_a_portrait_that_no_picture_is_in_is_left_out_with_its_reason(
    studio: TabStudio, request_made: TalkingHeadRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    said: list[dict[str, Any]] = []
    monkeypatch.setattr(gr, "Warning", lambda **note: said.append(note))
    (tmp_path / "letter.png").write_text("Dear picture,")
    letter = studio.artifacts.upload(tmp_path / "letter.png").id
    form = filled(studio, request_made.model_copy(update={"portrait": letter}), visitor=CHINESE)
    assert form["sadtalker-portrait"] is None and form["sadtalker-voice"]
    assert "不是可读取的图片" in said[0]["message"] and "letter" in said[0]["message"]
