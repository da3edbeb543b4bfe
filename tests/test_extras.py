"""The kind `extras`: what it makes of a picture, what the file says of it, the tab that asks for it, and the command line."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Iterator
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import gradio as gr
import numpy as np
import pytest
from PIL import Image

import app
from tests import enhancers as made
from tests import tiny
from tests.contexts import MemoryContext
from tests.servers import PROJECT
from webui import devices
from webui.artifacts import Artifacts
from webui.builtin.kinds import KINDS, LITE, ExtrasRequest
from webui.builtin.tabs import extras as tab
from webui.builtin.tabs import pnginfo
from webui.errors import Cancelled, InvalidRequest, ModelMissing
from webui.imaging import infotext
from webui.jobs.service import JobService
from webui.jobs.types import JobKind, JobState
from webui.jobs.validation import validated
from webui.settings import Settings
from webui.ui.panel import Panel
from webui.ui.studio import TabStudio
from webui.ui.texts import Texts

EXTRAS = next(kind for kind in KINDS if kind.name == "extras")
THEIRS = (
    "a red lighthouse\nNegative prompt: blurry\n"
    "Steps: 20, Sampler: Euler a, CFG scale: 7.0, Seed: 5, Size: 64x48, Model: dreams, Version: v1.10.1"
)
ENGLISH = SimpleNamespace(headers={"accept-language": "en"}, session_hash="1")


@pytest.fixture(autouse=True)
def calm() -> Iterator[None]:
    with tiny.calm():
        yield
    devices.unload()


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    made.safetensors(folder / "ESRGAN" / "2x-plain.safetensors", made.compact(2, nearest=True))
    made.safetensors(folder / "RealESRGAN" / "4x-rough.safetensors", made.compact(4, seed=1))
    made.safetensors(folder / "GFPGAN" / "RestoreFormer.safetensors", made.restoreformer())
    made.safetensors(folder / "GFPGAN" / "misplaced.safetensors", made.esrgan())
    return folder


def photo(path: Path, size: tuple[int, int] = (80, 64), **options: Any) -> Path:
    noise = np.random.default_rng(1).integers(0, 256, (size[1], size[0], 3), np.uint8)
    Image.fromarray(noise).save(path, **options)
    return path


def pixels(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB"))


def context(models: Path, home: Path, image: Path) -> MemoryContext:
    home.mkdir(parents=True, exist_ok=True)
    return MemoryContext(home, {"a": image}, settings=Settings(models_dir=models, outputs_dir=home, device="cpu"))


def run(ctx: MemoryContext, **asked: Any) -> Any:
    return EXTRAS.handler(ctx, validated(ExtrasRequest, {"image": "a", **asked}))


# ---- what is made


@pytest.mark.parametrize(
    ("asked", "size"),
    [
        ({"upscaler": "Lanczos"}, (160, 128)), ({"upscaler": "Lanczos", "scale": 1.5}, (120, 96)),
        ({"upscaler": "nearest", "size": "100x100"}, (100, 100)),
        ({"upscaler": "Nearest", "size": "100x100", "crop": False}, (125, 100)), ({"upscaler": "2x-plain"}, (160, 128)),
        ({"upscaler": "4x-rough"}, (320, 256)), ({"upscaler": "4x-rough", "scale": 2}, (160, 128)),
        ({"upscaler": "2x-plain", "scale": 3}, (240, 192)), ({"upscaler": "2x-plain.safetensors", "size": "96x160"}, (96, 160)),
    ],
)  # fmt: skip
def test_a_picture_is_made_as_large_as_was_asked_for(asked: dict[str, Any], size: tuple[int, int], models: Path, tmp_path: Path):
    ctx = context(models, tmp_path / "home", photo(tmp_path / "photo.png"))
    result = run(ctx, **asked)
    (artifact,) = result.artifacts
    assert pixels(artifact.path).shape[1::-1] == size and result.data["size"] == list(size)
    assert ctx.warnings == [] and ctx.stages[-1] == "saving" and "enlarging" in ctx.stages and ctx.previews == 1
    assert set(result.data["seconds"]) == {"upscale", "total"}


def test_to_a_size_the_middle_is_kept(models: Path, tmp_path: Path):
    source = photo(tmp_path / "photo.png", (80, 64))
    result = run(context(models, tmp_path / "home", source), upscaler="Nearest", size="64x128")
    doubled = pixels(source).repeat(2, 0).repeat(2, 1)
    assert np.array_equal(pixels(result.artifacts[0].path), doubled[:, 48:112])
    text = result.data["infotexts"][0]
    assert "Postprocess upscale to: 64x128" in text and "Postprocess crop to: 64x128" in text


def test_a_second_upscaler_is_laid_over_the_first(models: Path, tmp_path: Path):
    source = photo(tmp_path / "photo.png")
    one, two, both, hidden = (
        run(context(models, tmp_path / str(number), source), scale=2, **asked)
        for number, asked in enumerate(
            [
                {"upscaler": "Nearest"}, {"upscaler": "4x-rough"},
                {"upscaler": "Nearest", "upscaler_2": "4x-rough", "upscaler_2_visibility": 0.25},
                {"upscaler": "Nearest", "upscaler_2": "4x-rough", "upscaler_2_visibility": 0},
            ]
        )
    )  # fmt: skip
    first, second, mixed = (pixels(result.artifacts[0].path).astype(float) for result in (one, two, both))
    assert np.abs(mixed - (0.75 * first + 0.25 * second)).max() <= 1
    assert np.array_equal(pixels(hidden.artifacts[0].path), first) and "upscaler_2" not in hidden.data
    assert both.data["upscaler"] == "Nearest" and both.data["upscaler_2"] == "4x-rough"


def test_faces_are_restored_after_the_picture_was_enlarged(models: Path, tmp_path: Path, portrait_file: Path):
    with Image.open(portrait_file) as picture:
        small = picture.convert("RGB")
    small.thumbnail((240, 240))
    small.save(tmp_path / "small.png")
    plain = run(context(models, tmp_path / "a", tmp_path / "small.png"), upscaler="2x-plain")
    ctx = context(models, tmp_path / "b", tmp_path / "small.png")
    result = run(ctx, upscaler="2x-plain", restore="RestoreFormer", restore_strength=0.7)
    assert result.data["faces"] == 1 and result.data["restorer"] == "RestoreFormer"
    before, after = (pixels(one.artifacts[0].path).astype(int) for one in (plain, result))
    assert before.shape == after.shape and np.abs(after - before).mean() > 1 and np.array_equal(before[:10], after[:10])
    assert result.data["infotexts"][0].endswith(
        "Postprocess upscale by: 2, Postprocess upscaler: 2x-plain, RestoreFormer visibility: 0.7, Galatea: extras"
    )
    assert {"finding faces", "loading the face restorer", "restoring faces"} <= set(ctx.stages)


def test_where_there_is_no_face_that_is_said(models: Path, tmp_path: Path):
    source = photo(tmp_path / "photo.png")
    ctx = context(models, tmp_path / "home", source)
    result = run(ctx, restore="restoreformer")
    assert ctx.warnings == ["No face was found in the picture, so none was restored."]
    assert np.array_equal(pixels(result.artifacts[0].path), pixels(source)) and result.data["faces"] == 0


def test_what_a_file_says_of_itself_is_kept_and_extended(models: Path, tmp_path: Path):
    source = tmp_path / "theirs.png"
    source.write_bytes(infotext.embed(Image.new("RGB", (64, 64), "red"), THEIRS))
    for kind in ("png", "jpg", "webp"):
        result = run(context(models, tmp_path / kind, source), upscaler="4x-rough", scale=2, format=kind)
        text = infotext.extract(result.artifacts[0].path)
        found = infotext.read(text)
        assert text == result.data["infotexts"][0] and (found.prompt, found.negative_prompt) == ("a red lighthouse", "blurry")
        assert found.facts == infotext.read(THEIRS).facts | {
            "Postprocess upscale by": "2", "Postprocess upscaler": "4x-rough",
        }  # fmt: skip
        assert text.splitlines()[-1].endswith(", Version: v1.10.1")
    kind = next(kind for kind in KINDS if kind.name == "txt2img")
    assert kind.recall(result.artifacts[0].path)["seed"] == 5, "the picture can be made again"


def test_a_plain_photo_says_what_was_done_to_it(models: Path, tmp_path: Path):
    result = run(context(models, tmp_path / "home", photo(tmp_path / "photo.jpg")), upscaler="Lanczos", scale=2)
    assert result.data["infotexts"] == [
        "Size: 160x128, Postprocess upscale by: 2, Postprocess upscaler: Lanczos, Galatea: extras"
    ]
    assert result.data["postprocessing"] == "Postprocess upscale by: 2, Postprocess upscaler: Lanczos"
    assert EXTRAS.recall is None or EXTRAS.recall(result.artifacts[0].path) is None


def test_a_prompt_without_facts_is_kept_too(models: Path, tmp_path: Path):
    source = tmp_path / "words.png"
    source.write_bytes(infotext.embed(Image.new("RGB", (64, 64), "red"), "a red lighthouse\nNegative prompt: blurry"))
    result = run(context(models, tmp_path / "home", source), upscaler="Lanczos", scale=2)
    found = infotext.read(result.data["infotexts"][0])
    assert (found.prompt, found.negative_prompt) == ("a red lighthouse", "blurry")
    assert found.facts["Postprocess upscaler"] == "Lanczos"
    untouched = run(context(models, tmp_path / "home", source), restore="RestoreFormer", restore_strength=0)
    assert untouched.data["infotexts"] == ["a red lighthouse\nNegative prompt: blurry"]


def test_in_a_png_it_is_in_a_chunk_of_its_own_too(models: Path, tmp_path: Path):
    source = tmp_path / "theirs.png"
    source.write_bytes(infotext.embed(Image.new("RGB", (64, 64), "red"), THEIRS))
    for kind, expected in (("png", "Postprocess upscale by: 2, Postprocess upscaler: Nearest"), ("jpg", None)):
        path = run(context(models, tmp_path / kind, source), upscaler="Nearest", scale=2, format=kind).artifacts[0].path
        assert infotext.postprocessing(path) == expected


def test_png_info_shows_what_was_done_once(studio: TabStudio, tmp_path: Path):
    """A1111 says it in that chunk alone; here the other facts say it, too."""
    done = "Postprocess upscale by: 2, Postprocess upscaler: Lanczos"
    for text in (THEIRS, f"{THEIRS}, {done}", ""):
        (tmp_path / "one.png").write_bytes(infotext.embed(Image.new("RGB", (8, 8)), text, processed=done))
        found = infotext.extract(tmp_path / "one.png") or ""
        shown = pnginfo._facts(studio, str(tmp_path / "one.png"), found, None)
        assert shown.count("Lanczos") == 1 and ("a red lighthouse" in shown) == bool(text)


def test_a_result_keeps_the_name_of_its_picture(models: Path, tmp_path: Path):
    source = photo(tmp_path / "20261120-201502-anna 7-0123456789abcdef.png")
    assert run(context(models, tmp_path / "home", source), upscaler="Nearest").artifacts[0].name == "anna 7-1.png"


def test_transparency_is_told(models: Path, tmp_path: Path):
    Image.new("RGBA", (64, 64), (255, 0, 0, 0)).save(tmp_path / "clear.png")
    ctx = context(models, tmp_path / "home", tmp_path / "clear.png")
    assert (pixels(run(ctx, upscaler="Lanczos").artifacts[0].path) == 255).all()
    assert ctx.warnings == ["The picture was transparent in places; these are white now."]


def test_pictures_are_read_at_their_full_size(models: Path, tmp_path: Path):
    """Whatever the longest side is that others are worked on at."""
    ctx = context(models, tmp_path / "home", photo(tmp_path / "photo.png", (600, 64)))
    ctx.settings = replace(ctx.settings, longest_side=256)
    assert run(ctx, upscaler="Nearest").data["size"] == [1200, 128] and ctx.warnings == []


def test_a_cancelled_job_stops_while_it_enlarges(models: Path, tmp_path: Path):
    ctx = context(models, tmp_path / "home", photo(tmp_path / "photo.png"))
    ctx._on = lambda what, name: setattr(ctx, "cancelled", name == "enlarging" or ctx.cancelled)
    with pytest.raises(Cancelled):
        run(ctx, upscaler="4x-rough")


# ---- what is refused


@pytest.mark.parametrize(
    ("asked", "sentence"),
    [
        ({}, "there is nothing to do. Choose an upscaler"), ({"scale": 2}, "a new size needs an upscaler"),
        ({"restore": "x", "scale": 2}, "a new size needs an upscaler"),
        ({"restore": "x", "upscaler_2": "Lanczos"}, "a new size needs an upscaler"),
        ({"upscaler": "Lanczos", "scale": 2, "size": "10x10"}, "choose a scale or a size, not both"),
        ({"upscaler": "Lanczos", "scale": 9}, "'scale' must be at most 8"),
        ({"upscaler": "Lanczos", "size": "big"}, "WIDTHxHEIGHT"),
        ({"upscaler": "Lanczos", "size": "0x10"}, "sides from 1 to 16384, not 0"),
        ({"upscaler": "Lanczos", "restore_strength": 2}, "'restore_strength' must be at most 1"),
    ],
)  # fmt: skip
def test_what_makes_no_sense_is_refused_in_words(asked: dict[str, Any], sentence: str):
    with pytest.raises(InvalidRequest, match=sentence):
        validated(ExtrasRequest, {"image": "a", **asked})


def test_a_kept_request_is_read_again_as_it_is():
    request = validated(ExtrasRequest, {"image": "a", "upscaler": "Lanczos", "size": " 100 X 50 "})
    assert validated(ExtrasRequest, request.model_dump(mode="json")) == request and request.size == "100x50"


@pytest.mark.parametrize(
    ("asked", "error", "sentence"),
    [
        ({"upscaler": "2x-plane"}, ModelMissing, "Did you mean 2x-plain.safetensors"),
        ({"restore": "GFPGAN"}, ModelMissing, "There is no face restorer 'GFPGAN'"),
        ({"upscaler": "Lanczos", "upscaler_2": "nothing"}, ModelMissing, "There is no upscaler 'nothing'"),
        ({"upscaler": "Lanczos", "size": "16384x16384"}, InvalidRequest, "the most is 134 million"),
    ],
)  # fmt: skip
def test_what_cannot_be_done_is_said(
    asked: dict[str, Any], error: type[Exception], sentence: str, models: Path, tmp_path: Path, portrait_file: Path
):
    with pytest.raises(error, match=sentence):
        run(context(models, tmp_path / "home", portrait_file), **asked)


def test_a_picture_that_its_file_cannot_hold_is_refused_before_it_is_made(models: Path, tmp_path: Path):
    ctx = context(models, tmp_path / "home", photo(tmp_path / "photo.png", (4096, 64)))
    with pytest.raises(InvalidRequest, match="A webp file holds no picture of 16384x256 pixels: 16383 is the longest side"):
        run(ctx, upscaler="Nearest", scale=4, format="webp")
    assert "enlarging" not in ctx.stages
    assert run(ctx, upscaler="Nearest", scale=4, format="jpg").data["size"] == [16384, 256]
    assert run(ctx, upscaler="Nearest", size="16383x256", format="webp").data["size"] == [16383, 256], "cut to what it can hold"


def test_a_small_installation_enlarges_by_lanczos_and_says_what_needs_more(models: Path, tmp_path: Path):
    for asked, fits in (({"upscaler": "Lanczos"}, True), ({"upscaler": "2x-plain"}, False), ({"restore": "GFPGAN"}, False)):
        ctx = context(models, tmp_path / "home", photo(tmp_path / "photo.png"))
        ctx.settings = replace(ctx.settings, lite=True)
        if fits:
            assert run(ctx, **asked).data["size"] == [160, 128]
        else:
            with pytest.raises(InvalidRequest) as refused:
                run(ctx, **asked)
            assert str(refused.value) == LITE


# ---- job, history, command line


def test_a_job_is_kept_in_the_history(models: Path, tmp_path: Path):
    settings = Settings(models_dir=models, outputs_dir=tmp_path / "outputs", device="cpu")
    artifacts = Artifacts(settings.outputs_dir)
    service = JobService(KINDS, artifacts, settings, alone=True)
    try:
        image = artifacts.upload(photo(tmp_path / "my holiday.png"))
        job = service.wait(service.submit("extras", {"image": image.id, "upscaler": "2x-plain", "format": "webp"}).id, 60)
        assert (job.state, job.error, job.warnings) == (JobState.DONE, None, ())
        path = job.result.artifacts[0].path
        assert path.parent == settings.outputs_dir / "extras" and "my holiday" in path.name and path.suffix == ".webp"
        assert service.thumbnail(job.id) is not None
    finally:
        service.close()


Command = Callable[..., tuple[int, str, str]]


@pytest.fixture
def command(models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Command:
    monkeypatch.chdir(tmp_path)
    for name in ("GALATEA_SETTINGS", "GALATEA_MODELS_DIR", "GALATEA_DEVICE", "GALATEA_LITE"):
        monkeypatch.delenv(name, raising=False)

    def call(*argv: str) -> tuple[int, str, str]:
        out, err = io.StringIO(), io.StringIO()
        folders = ("--models-dir", str(models), "--outputs-dir", str(tmp_path / "outputs"), "--device", "cpu")
        with redirect_stdout(out), redirect_stderr(err):
            code = app.main(["extras", *folders, *argv])
        return code, out.getvalue(), err.getvalue()

    return call


def test_the_command_line_comes_from_the_kind(command: Command, tmp_path: Path, portrait_file: Path):
    code, out, err = command(
        str(portrait_file), "--upscaler", "2x-plain", "--scale", "1.5", "--restore", "RestoreFormer", "--restore-strength", "0.5",
        "--out", str(tmp_path / "out.png"), "--json",
    )  # fmt: skip
    assert code == 0, err
    facts = json.loads(out.splitlines()[-1])
    assert facts["path"] == str(tmp_path / "out.png") and facts["faces"] == 1
    with Image.open(portrait_file) as before, Image.open(tmp_path / "out.png") as after:
        assert after.size == (round(before.width * 1.5), round(before.height * 1.5))


@pytest.mark.parametrize(
    ("argv", "sentence"),
    [
        ((), "there is nothing to do"), (("--upscaler", "misplaced"), "There is no upscaler 'misplaced'"),
        (("--restore", "misplaced"), "is an upscaler, not a face restorer. Move it into models/ESRGAN."),
        (("--upscaler", "Lanczos", "--out", "x.jpg"), "The result is a .png file"),
    ],
)  # fmt: skip
def test_the_command_line_refuses_in_words(argv: tuple[str, ...], sentence: str, command: Command, portrait_file: Path):
    code, out, err = command(str(portrait_file), *argv)
    assert code != 0 and sentence in err and "Traceback" not in err and not out


# ---- the tab


@pytest.fixture
def studio(models: Path, tmp_path: Path) -> Iterator[TabStudio]:
    def leave(_ctx: Any, _request: Any) -> Any:
        raise Cancelled("Nothing was made.")

    settings = Settings(models_dir=models, outputs_dir=tmp_path / "outputs")
    artifacts, texts = Artifacts(settings.outputs_dir), Texts(None)
    texts.add("builtin", PROJECT / "webui" / "builtin" / "locales")
    (tmp_path / "handed").mkdir()
    service = JobService([JobKind(EXTRAS.name, EXTRAS.title, EXTRAS.request, leave)], artifacts, settings, alone=True)
    with gr.Blocks() as page:
        yield TabStudio(service, artifacts, settings, page, texts, "builtin", tmp_path / "handed", tab="extras")
    service.close()


@pytest.fixture
def form(studio: TabStudio, monkeypatch: pytest.MonkeyPatch) -> tab.Form:
    found: list[Any] = []
    connect = Panel.connect
    monkeypatch.setattr(Panel, "connect", lambda panel, given, ask, **how: found.append(ask) or connect(panel, given, ask, **how))
    tab.build(studio)
    return found[0].__self__


def values(form: tab.Form, **given: Any) -> dict[Any, Any]:
    """What a browser holds: the defaults, but for what is given by a request's field or a widget's name."""
    held = {widget: widget.value for widget in [*form.inputs, form.which]} | {form.picture: None, form.files: None}
    return held | {form.options.get(name) or getattr(form, name): value for name, value in given.items()}


def test_the_tab_asks_for_what_was_filled_in(form: tab.Form, studio: TabStudio, tmp_path: Path):
    path = str(studio.stand_in(studio.artifacts.upload(photo(tmp_path / "photo.png"))))
    kind, asked = form.ask(values(form, picture=path, upscaler="2x-plain", scale=3, restore="RestoreFormer"), ENGLISH)
    request = validated(ExtrasRequest, asked)
    assert kind == "extras" and (request.upscaler, request.scale, request.restore) == ("2x-plain", 3, "RestoreFormer")
    asked = form.asked(values(form, upscaler="Lanczos", mode=tab.TO, width=300, height=200, crop=False))
    assert (asked["size"], asked["crop"]) == ("300x200", False) and "scale" not in asked
    asked = form.asked(values(form, restore="GFPGAN", scale=4, upscaler_2="Lanczos"))
    assert "upscaler" not in asked and "scale" not in asked and "upscaler_2" not in asked


def test_the_tab_can_be_filled_again(form: tab.Form, studio: TabStudio, tmp_path: Path):
    image = studio.artifacts.upload(photo(tmp_path / "photo.png"))
    for asked in (
        {"upscaler": "Lanczos", "size": "300x200", "crop": False, "format": "webp"},
        {"upscaler": "2x-plain", "scale": 2.5, "upscaler_2": "Nearest", "upscaler_2_visibility": 0.3},
        {"restore": "RestoreFormer", "restore_strength": 0.4, "fidelity": 0.9},
    ):
        request = validated(ExtrasRequest, {"image": image.id, **asked})
        filled = form.fill(request.model_dump(), ENGLISH)
        assert set(filled) <= set(form.outputs)
        held = values(form) | {widget: value for widget, value in filled.items() if not isinstance(value, dict)}
        assert validated(ExtrasRequest, form.ask(held, ENGLISH)[1]) == request


def test_where_no_scale_was_asked_for_the_form_shows_the_upscalers_own(form: tab.Form, studio: TabStudio, tmp_path: Path):
    image = studio.artifacts.upload(photo(tmp_path / "photo.png"))
    for name, scale in (("4x-rough.safetensors", 4), ("lanczos", 2)):
        filled = form.fill(validated(ExtrasRequest, {"image": image.id, "upscaler": name}).model_dump(), ENGLISH)
        assert filled[form.options["scale"]] == scale


def test_the_tab_lists_what_there_is_and_says_what_cannot_be_used(form: tab.Form):
    upscalers, _, restorers, note = form.list_files(ENGLISH)
    assert upscalers["choices"] == [
        ("None", "None"), ("Lanczos", "Lanczos"), ("Nearest", "Nearest"), ("2x-plain", "2x-plain"), ("4x-rough", "4x-rough"),
    ]  # fmt: skip
    assert restorers["choices"] == [("None", "None"), ("RestoreFormer", "RestoreFormer")]
    assert "misplaced.safetensors is an upscaler" in note and "put GFPGANv1.4" not in note
    assert form.own_scale("4x-rough") == 4 and form.own_scale("Lanczos") == 2


def test_an_empty_shelf_says_where_files_go(form: tab.Form, tmp_path: Path):
    bare = replace(form, studio=replace(form.studio, settings=replace(form.studio.settings, models_dir=tmp_path / "none")))
    note = bare.list_files(ENGLISH)[-1]
    assert "models/ESRGAN" in note and "models/GFPGAN" in note
    lite = replace(form, studio=replace(form.studio, settings=replace(form.studio.settings, lite=True)))
    assert "--full" in lite.list_files(ENGLISH)[-1] and len(lite.list_files(ENGLISH)[0]["choices"]) == 3


def test_a_folder_becomes_a_job_for_each_of_its_pictures(form: tab.Form, studio: TabStudio, tmp_path: Path):
    (tmp_path / "many").mkdir()
    paths = [str(photo(tmp_path / "many" / f"{name}.png")) for name in "ab"]
    (tmp_path / "many" / "notes.txt").write_text("no picture")
    held = values(form, upscaler="Lanczos", scale=3, files=[*paths, str(tmp_path / "many" / "notes.txt")])
    told: list[str] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(type(studio), "tell", lambda _self, said, **_: told.append(said))
        form.queue_all(held, ENGLISH)
    jobs = studio.service.jobs()
    assert len(jobs) == 2 and all(job.request.scale == 3 for job in jobs)
    assert told[0].startswith("2 pictures are queued") and "notes.txt" in told[0]


def test_a_picture_from_another_tab_is_taken(form: tab.Form, studio: TabStudio, tmp_path: Path):
    image = studio.artifacts.upload(photo(tmp_path / "photo.png"))
    taken = form.take(image, ENGLISH)
    assert studio.original(taken[form.picture]).id == image.id and taken[form.which] == tab.PICTURE
    assert any(place.name == "send_extras" for place in studio.sending.places)


def test_without_a_picture_the_tab_says_so(form: tab.Form):
    for held, key in ((values(form), "Choose a picture first"), (values(form, which=tab.FOLDER), "Queue all pictures")):
        with pytest.raises(InvalidRequest, match=key):
            form.ask(held, ENGLISH)
