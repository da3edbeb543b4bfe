"""The tabs that make pictures, without a browser: what is asked for is what was filled in, and back; masks; models; words."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import gradio as gr
import numpy as np
import pytest
from PIL import Image

from tests.servers import PROJECT
from webui.artifacts import Artifact, Artifacts
from webui.builtin.kinds import KINDS, Img2ImgRequest, InpaintRequest, PlotRequest, Txt2ImgRequest
from webui.builtin.tabs import img2img, inpaint, models, presets, results, sources, txt2img
from webui.builtin.tabs.common import STYLES, Form
from webui.errors import Cancelled, InvalidRequest
from webui.imaging import infotext, samplers, styles
from webui.imaging.requests import read_size
from webui.jobs.service import JobService
from webui.jobs.types import Job, JobKind, JobResult, JobState
from webui.settings import Settings
from webui.ui.panel import Panel
from webui.ui.studio import TabStudio
from webui.ui.texts import Texts
from webui.weights.catalog import Entry
from webui.weights.detect import Found

CHINESE = SimpleNamespace(headers={"accept-language": "zh-CN"}, session_hash="1")
LOCALES = PROJECT / "webui" / "builtin" / "locales"
TABS = {"txt2img": txt2img, "img2img": img2img, "inpaint": inpaint}


def leave(_ctx: Any, _request: Any) -> JobResult:
    """In place of making pictures, which takes models."""
    raise Cancelled("Nothing was made.")


@pytest.fixture
def studio(tmp_path: Path) -> Iterator[TabStudio]:
    settings = Settings(models_dir=tmp_path / "models", outputs_dir=tmp_path / "outputs")
    artifacts, texts = Artifacts(settings.outputs_dir), Texts(None)
    texts.add("builtin", LOCALES)
    (tmp_path / "handed").mkdir()
    idle = [JobKind(kind.name, kind.title, kind.request, leave) for kind in KINDS]
    service = JobService(idle, artifacts, settings, alone=True)
    with gr.Blocks() as page:
        yield TabStudio(service, artifacts, settings, page, texts, "builtin", tmp_path / "handed")
    service.close()


@dataclass
class Built:
    """A tab: its form, its events where it has some, and what Generate does."""

    form: Form
    events: Any
    asks: Any


def built(studio: TabStudio, tab: str) -> Built:
    """The parts are caught where they are connected: a tab gives nothing back."""
    found: dict[str, Any] = {}
    with pytest.MonkeyPatch.context() as patch:
        connect, watch = Form.connect, Panel.connect
        patch.setattr(Form, "connect", lambda form, seed: (found.update(form=form), connect(form, seed)))
        patch.setattr(
            Panel, "connect", lambda panel, given, ask, **how: (found.update(asks=ask), watch(panel, given, ask, **how))[0]
        )
        TABS[tab].build(replace(studio, tab=tab))
    return Built(found["form"], getattr(found["asks"], "__self__", None), found["asks"])


def as_shown(values: dict[Any, Any], updates: Mapping[Any, Any]) -> dict[Any, Any]:
    """What the widgets hold after these updates."""
    news = {widget: one.get("value", values.get(widget)) if isinstance(one, dict) else one for widget, one in updates.items()}
    return values | news


def untouched(form: Form) -> dict[Any, Any]:
    return {widget: widget.value for widget in form.inputs}


def plain(events: Any) -> dict[Any, Any]:
    """The plot's axes, on which nothing is, where a tab has them."""
    plots = getattr(events, "plots", None)
    return {widget: widget.value for widget in plots.inputs} if plots else {}


def sketch(events: Any) -> dict[Any, Any]:
    """Nothing is drawn, where a tab has paper."""
    return {events.source.sketch: None} if events else {}


@pytest.fixture
def picture(studio: TabStudio, tmp_path: Path) -> Artifact:
    Image.fromarray(np.full((90, 160, 3), 200, np.uint8)).save(tmp_path / "photo.png")
    return studio.artifacts.upload(tmp_path / "photo.png")


def test_a_form_that_nobody_touched_asks_for_the_models_own_defaults(studio: TabStudio):
    form = built(studio, "txt2img").form
    asked = Txt2ImgRequest(**form.asked(untouched(form)))
    assert asked == Txt2ImgRequest(size="512x512")


FILLED = [
    ("txt2img", {}),
    ("txt2img", {"prompt": "a fox, (red:1.3)", "negative": "blurry", "steps": 31, "cfg": 4.5, "size": "640x384", "seed": 7}),
    ("txt2img", {"size": "512x512", "hires": True, "hires_scale": 1.5, "hires_upscaler": "Lanczos", "strength": 0.4}),
    ("txt2img", {"size": "512x512", "variation": 0.25, "variation_seed": 9, "clip_skip": 2, "tiling": True, "vae": "soft"}),
    ("txt2img", {"size": "512x512", "filmstrip": "1,3,9", "batch_size": 3, "batch_count": 2, "model": "dusk [0123456789]"}),
    ("txt2img", {"size": "512x512", "hires": True, "hires_size": "1024x1024", "hires_steps": 9}),
    ("img2img", {"strength": 0.3, "resize": "crop", "size": "512x768"}),
    ("img2img", {"strength": 0.3, "sampler": "Euler a", "schedule": "Karras"}),
    ("inpaint", {"content": "latent noise", "only_masked": True, "padding": 33, "mask_invert": True, "mask_blur": 12}),
]


@pytest.mark.parametrize(("tab", "fields"), FILLED)
def test_settings_filled_in_are_asked_for_again(studio: TabStudio, picture: Artifact, tab: str, fields: dict[str, Any]):
    model = {"txt2img": Txt2ImgRequest, "img2img": Img2ImgRequest, "inpaint": InpaintRequest}[tab]
    files = {"txt2img": {}, "img2img": {"image": picture.id}, "inpaint": {"image": picture.id, "mask": picture.id}}[tab]
    size = {"size": "512x512"} if tab == "txt2img" else {}
    wanted = model(**{**files, **size, "seed": 5, **fields})
    made = built(studio, tab)
    values = {widget: getattr(widget, "value", None) for widget in studio.forms.of(tab).outputs} | untouched(made.form)
    values = as_shown(values, studio.forms.of(tab).fill(wanted.model_dump(), CHINESE))
    kind, asked = made.asks(values, CHINESE)
    assert (kind, model(**asked)) == (tab, wanted)


def test_an_axis_makes_a_plot_of_what_the_form_asks_for(studio: TabStudio):
    tab = built(studio, "txt2img")
    values = {widget: getattr(widget, "value", None) for widget in studio.forms.of("plot").outputs} | untouched(tab.form)
    wanted = PlotRequest(prompt="a fox", size="512x512", seed=5, x_axis="Steps", x_values="4, 8")
    kind, asked = tab.asks(as_shown(values, studio.forms.of("plot").fill(wanted.model_dump(), CHINESE)), CHINESE)
    assert (kind, PlotRequest(**asked)) == ("plot", wanted)


def test_a_plot_that_began_with_a_picture_goes_back_to_the_tab_that_has_one(studio: TabStudio, picture: Artifact):
    tabs = {name: built(studio, name) for name in ("txt2img", "img2img")}
    for name, image in (("txt2img", None), ("img2img", picture.id)):
        wanted = PlotRequest(prompt="a fox", size="512x512", seed=5, x_axis="Steps", x_values="4, 8", image=image)
        form = studio.forms.taking("plot", wanted.model_dump())
        assert form is not None and form.tab == name
        tab = tabs[name]
        values = {widget: getattr(widget, "value", None) for widget in form.outputs} | untouched(tab.form) | sketch(tab.events)
        kind, asked = tab.asks(as_shown(values, form.fill(wanted.model_dump(), CHINESE)), CHINESE)
        assert (kind, PlotRequest(**asked)) == ("plot", wanted)


def test_settings_of_a_model_find_it_by_its_title_or_say_that_it_is_not_here(studio: TabStudio, monkeypatch: pytest.MonkeyPatch):
    here = entry(studio.settings.models_dir / "dusk", "sd1")
    monkeypatch.setattr(models, "find", lambda _settings, name, **_how: here if name == "dusk [0123456789]" else None)
    form = built(studio, "txt2img").form
    model, note = form.options["model"], form.others["model_note"]
    found = form.filled({"model": "dusk [0123456789]"}, CHINESE)
    assert found[model] == here.name and "512" in found[note]
    gone = form.filled({"model": "v1-5 [6ce0161689]"}, CHINESE)
    assert gone[model] == "v1-5 [6ce0161689]" and "没有“v1-5 [6ce0161689]”" in gone[note]


def test_filling_in_opens_what_is_not_as_usual(studio: TabStudio):
    form = built(studio, "txt2img").form
    updates = form.filled(Txt2ImgRequest(variation=0.5).model_dump(), CHINESE)
    opened = [accordion.elem_id for accordion in form.folded if accordion in updates]
    assert opened == ["txt2img-variation-box"]


def test_a_sampler_by_an_older_name_is_found_and_an_unknown_one_is_told(studio: TabStudio, monkeypatch: pytest.MonkeyPatch):
    told: list[str] = []
    monkeypatch.setattr(TabStudio, "tell", lambda self, sentence, *, warning=False: told.append(sentence))
    form = built(studio, "txt2img").form
    options = form.options
    updates = form.filled({"sampler": "DPM++ SDE Karras", "schedule": "Automatic"}, CHINESE)
    assert (updates[options["sampler"]], updates[options["schedule"]]) == ("DPM++ SDE", "Karras")
    updates = form.filled({"sampler": "Eulr", "schedule": "Automatic"}, CHINESE)
    assert options["sampler"] not in updates and len(told) == 1 and "Euler" in told[0]


def test_presets_name_samplers_that_there_are():
    for preset in presets.PRESETS.values():
        choice = samplers.resolve(preset.sampler, preset.schedule)
        assert choice.sampler.name == preset.sampler
        Txt2ImgRequest(sampler=preset.sampler, steps=preset.steps, cfg=preset.cfg)


@pytest.mark.parametrize("side", [128, 512, 768, 1024])
def test_every_shape_is_a_size_that_can_be_asked_for_with_about_as_many_pixels(side: int):
    for name, (wide, high) in presets.SHAPES.items():
        width, height = read_size("{}x{}".format(*presets.shaped(name, side)))
        assert 0.8 < width * height / side**2 < 1.25
        assert abs(width / height - wide / high) < 0.25 * wide / high


def test_a_chosen_size_stays_when_the_model_changes_and_a_models_own_follows():
    assert presets.followed(512, 512, {128, 512, 1024}, 1024) == (1024, 1024)
    assert presets.followed(640, 384, {128, 512, 1024}, 1024) == (640, 384)
    assert presets.followed(700, 700, {128, 512, 1024}, 1024) == (700, 700)


def entry(path: Path, architecture: str, prediction: str | None = "epsilon") -> Entry:
    return Entry(path.name, path, Found("checkpoint", architecture, prediction=prediction))


def test_every_model_has_the_side_that_it_was_trained_on(tmp_path: Path):
    sides = {("sd1", "epsilon"): 512, ("sd2", "epsilon"): 512, ("sd2", "v_prediction"): 768, ("sdxl", "epsilon"): 1024}
    for (architecture, prediction), side in sides.items():
        assert models.side(entry(tmp_path / "one.safetensors", architecture, prediction)) == side
    for part, numbers in {"unet": {"sample_size": 16}, "vae": {"block_out_channels": [8, 8, 8, 8]}}.items():
        (tmp_path / "pocket" / part).mkdir(parents=True)
        (tmp_path / "pocket" / part / "config.json").write_text(json.dumps(numbers))
    assert models.side(entry(tmp_path / "pocket", "sd1")) == 128


def test_inpainting_begins_with_a_model_for_it_and_the_others_do_not(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    painter = Entry("painter", tmp_path, Found("checkpoint", "sd1", inpaint=True))
    known = [painter, entry(tmp_path / "plain", "sd1")]
    monkeypatch.setattr(models, "checkpoints", lambda _settings: known)
    assert [one and one.name for one in (models.find(Settings(), None), models.find(Settings(), None, inpaint=True))] == [
        "plain", "painter",
    ]  # fmt: skip
    known.clear()
    assert models.find(Settings(), None) is None


def test_without_any_model_the_page_says_where_to_put_one(studio: TabStudio):
    form = built(studio, "txt2img").form
    *_, note, width, height = form.load(512, 512, None)
    assert "models/Stable-diffusion" in note and (width, height) == (512, 512)


def test_a_small_installation_says_so_before_anybody_presses_generate(studio: TabStudio):
    small = replace(studio, settings=replace(studio.settings, lite=True))
    assert "./launch.sh --full" in built(small, "txt2img").form.load(512, 512, None)[3]


def test_a_file_that_cannot_be_used_is_listed_with_the_reason(studio: TabStudio):
    folder = studio.settings.models_dir / "Stable-diffusion"
    folder.mkdir(parents=True)
    (folder / "half<b>.safetensors").write_bytes(b"")
    note = built(studio, "txt2img").form.load(512, 512, None)[3]
    assert "half&lt;b&gt;.safetensors" in note and "<b>" not in note


def test_styles_are_saved_chosen_and_written_into_the_prompts(studio: TabStudio, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(TabStudio, "tell", lambda *_args, **_more: None)
    form = built(studio, "txt2img").form
    file = studio.settings.models_dir / STYLES
    name, update = form.save_style(" film ", "{prompt}, 35mm", "drawing", None)
    assert (name, update["choices"]) == ("", ["film"])
    assert styles.read_styles(file)["film"] == styles.Style("film", "{prompt}, 35mm", "drawing")
    assert form.apply_styles(["film"], "a fox", "", None) == ["a fox, 35mm", "drawing", []]
    values = untouched(form) | {form.options["prompt"]: "a fox", form.others["styles"]: ["film"]}
    assert (form.asked(values)["prompt"], form.asked(values)["negative"]) == ("a fox, 35mm", "drawing")
    assert built(studio, "img2img").form.list_styles(None)["choices"] == ["film"], "the other tabs hear of it"
    with pytest.raises(gr.Error):
        form.save_style("  ", "a", "b", None)


def layer(height: int, width: int, box: tuple[int, int, int, int] | None = None, alpha: int = 160) -> np.ndarray:
    made = np.zeros((height, width, 4), np.uint8)
    if box:
        left, top, right, bottom = box
        made[top:bottom, left:right] = (225, 29, 72, alpha)
    return made


def test_a_mask_is_white_where_anything_was_drawn_and_as_large_as_the_picture():
    mask = sources.drawn([layer(50, 100, (10, 10, 20, 20)), layer(50, 100, (80, 0, 100, 5), 1)], 200, 100)
    assert mask is not None and mask.shape == (100, 200)
    wanted = np.zeros((100, 200), np.uint8)
    wanted[20:40, 20:40] = wanted[0:10, 160:200] = 255
    assert np.array_equal(mask, wanted)
    assert sources.drawn([], 200, 100) is None and sources.drawn([layer(50, 100)], 200, 100) is None


def test_a_mask_drawn_on_a_stand_in_has_the_size_at_which_the_job_reads_the_picture(studio: TabStudio, tmp_path: Path):
    turned = Image.fromarray(np.full((300, 100, 3), 90, np.uint8))
    exif = Image.Exif()
    exif[0x0112] = 6  # lies on its side
    turned.save(tmp_path / "phone.jpg", exif=exif)
    small = replace(studio, settings=replace(studio.settings, longest_side=150))
    made = sources.mask(small, [layer(100, 300, (0, 0, 150, 100))], studio.artifacts.upload(tmp_path / "phone.jpg"))
    assert made is not None
    with Image.open(made.path) as image:
        assert image.size == (150, 50)
        assert np.array_equal(np.asarray(image.convert("L"))[0, [0, 74, 75, 149]], [255, 255, 0, 0])


def test_a_sketch_is_laid_on_white_paper(studio: TabStudio):
    drawn = layer(80, 80, (0, 0, 40, 80), 255)
    made = sources.sketch(studio, {"composite": drawn, "background": None})
    assert made is not None
    with Image.open(made.path) as image:
        assert [image.getpixel((10, 10)), image.getpixel((70, 10))] == [(225, 29, 72), (255, 255, 255)]
    assert sources.sketch(studio, {"composite": None, "background": drawn}) == made  # a picture that nothing was drawn on
    blank = {"composite": None, "background": np.dstack([sources.paper(80), np.full((80, 80), 255, np.uint8)])}
    clear = {"composite": layer(80, 80), "background": None}
    assert [sources.sketch(studio, sheet) for sheet in (blank, clear, None)] == [None] * 3


def test_what_is_wrong_is_said_with_the_pages_words_for_the_field(studio: TabStudio):
    built(studio, "txt2img")
    with pytest.raises(InvalidRequest) as told:
        studio.submit("txt2img", {"seed": "is", "steps": 0}, CHINESE)
    assert str(told.value) == "'迭代步数' must be at least 1, not 0. '随机数种子' must be a whole number, not 'is'."
    assert studio.told(str(told.value), CHINESE).startswith("“迭代步数”不能小于 1")


def test_where_the_folder_is_open_generate_takes_no_picture_from_elsewhere(studio: TabStudio, picture: Artifact):
    tab = built(studio, "img2img")
    source, values = tab.events.source, untouched(tab.form) | plain(tab.events)
    values |= {source.which: img2img.FOLDER, source.picture: str(studio.stand_in(picture)), source.sketch: None}
    with pytest.raises(InvalidRequest, match="Queue all pictures"):
        tab.asks(values, None)


def test_of_a_folder_the_pictures_are_queued_and_the_rest_is_named(
    studio: TabStudio, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    told: list[str] = []
    monkeypatch.setattr(TabStudio, "tell", lambda self, sentence, *, warning=False: told.append(sentence))
    for name in ("b.png", "a.png"):
        Image.fromarray(np.full((64, 64, 3), len(name), np.uint8)).save(tmp_path / name)
    (tmp_path / "notes.txt").write_text("no picture")
    events = built(studio, "img2img").events
    asked = untouched(events.form) | {events.form.options["prompt"]: "a fox"}
    events.queue(asked | {events.source.files: [str(tmp_path / name) for name in ("notes.txt", "b.png", "a.png")]}, None)
    jobs = sorted(studio.service.jobs(), key=lambda job: job.created)
    names = [studio.artifacts.get(job.request.image).name for job in jobs]
    assert names == ["a.png", "b.png"] and {job.request.prompt for job in jobs} == {"a fox"}
    assert told[0].startswith("2 ") and "notes.txt" in told[0]


def test_what_is_missing_is_said_before_a_job_is_made(studio: TabStudio, picture: Artifact):
    img, part = built(studio, "img2img").events, built(studio, "inpaint").events
    source = {img.source.which: "picture", img.source.picture: None, img.source.sketch: None}
    for which, words in (("picture", "picture first"), ("sketch", "Nothing is drawn"), ("folder", "Queue all")):
        with pytest.raises(InvalidRequest, match=words):
            img.ask(untouched(img.form) | plain(img) | source | {img.source.which: which}, None)
    given = {part.source.picture_id: "", part.source.which: "drawn", part.source.editor: None, part.source.mask: None}
    with pytest.raises(InvalidRequest, match="picture first"):
        part.ask(untouched(part.form) | given, None)
    for which in ("drawn", "file"):
        with pytest.raises(InvalidRequest, match="mask"):
            part.ask(untouched(part.form) | given | {part.source.picture_id: picture.id, part.source.which: which}, None)


def test_a_picture_that_was_sent_is_the_one_that_is_worked_on(studio: TabStudio, picture: Artifact):
    for tab in ("img2img", "inpaint"):
        events = built(studio, tab).events
        place = next(place for place in studio.sending.places if place.tab == tab)
        values = {widget: getattr(widget, "value", None) for widget in place.outputs} | untouched(events.form) | plain(events)
        values = as_shown(values, place.fill(picture, None))
        if tab == "inpaint":
            values |= {events.source.editor: {"layers": [layer(90, 160, (0, 0, 9, 9))]}, events.source.mask: None}
        else:
            values |= {events.source.sketch: None}
        assert events.ask(values, None)[1]["image"] == picture.id


def result(studio: TabStudio, *stems: str) -> Job:
    """A finished job with a picture file of each stem."""
    made = []
    for number, stem in enumerate(stems):
        with studio.artifacts.output("txt2img", ".png", stem) as output:
            text = infotext.write({"Steps": 4, "Sampler": "Euler", "Seed": 70 + number, "Size": "64x64"}, "a fox")
            output.path.write_bytes(infotext.embed(Image.new("RGB", (64, 64)), text))
        made.append(output.artifact)
    done = JobResult(tuple(made), {})
    return Job("1" * 32, "txt2img", Txt2ImgRequest(), state=JobState.DONE, result=done, warnings=("Blurred.",))


def test_the_result_shows_each_picture_with_its_own_strip_text_and_seed(studio: TabStudio):
    job = result(studio, "a fox 7", "8 steps 8", "a fox 7 steps", "8 steps 8 steps")
    made = results.build(studio, "txt2img")
    shown = made.show(job, None)
    assert len(shown[made.gallery]["value"]) == 2 and shown[made.notes]["visible"]
    pictures = job.result.artifacts if job.result else ()
    assert (shown[made.artifact], shown[made.seed]) == (pictures[0].id, "70")
    second = made._one(pictures, 1)
    assert (second[made.artifact], second[made.seed]) == (pictures[1].id, "71")
    assert second[made.text].startswith("a fox\nSteps: 4") and pictures[3].id in second[made.strip]
    nothing = made.show(replace(job, result=None, state=JobState.RUNNING, warnings=()), None)
    assert not nothing[made.gallery]["visible"] and nothing[made.artifact] == ""
    assert set(nothing) <= set(made.outputs) and set(shown) <= set(made.outputs)


def test_both_languages_have_the_same_words_with_the_same_places_to_fill():
    english, chinese = (json.loads((LOCALES / f"{name}.json").read_text(encoding="utf-8")) for name in ("en", "zh"))
    assert english.keys() == chinese.keys()
    for key, words in english.items():
        assert sorted(re.findall(r"{\w+}", words)) == sorted(re.findall(r"{\w+}", chinese[key])), key
        assert words.strip() and chinese[key].strip()


@pytest.mark.parametrize("tab", TABS)
def test_every_field_can_be_filled_in_has_a_label_and_help_in_both_languages(studio: TabStudio, tab: str):
    """The words are looked up by key in the browser, which shows the key when there is none."""
    known = studio.texts.catalogue().translations_dict
    form = built(studio, tab).form
    fields = set(next(kind.request for kind in KINDS if kind.name == tab).model_fields)
    files = {"txt2img": set(), "img2img": {"image"}, "inpaint": {"image", "mask"}}[tab]
    assert fields - set(form.options) == {"size"} | files
    spoken = [words for widget in studio.page.blocks.values() for words in _labels(widget)]
    assert len(spoken) > 40
    for words in spoken:
        assert all(words in table for table in known.values()), words
    for name in form.options:
        assert {f"builtin_field_{name}", f"builtin_help_{name}"} <= known["en"].keys()


def _labels(widget: Any) -> Iterator[str]:
    choices = [label for label, _ in getattr(widget, "choices", None) or ()]
    shown = [getattr(widget, name, None) for name in ("label", "info", "placeholder")]
    button = [widget.value] if isinstance(widget, (gr.Button, gr.UploadButton, gr.DownloadButton)) else []
    for words in [*shown, *choices, *button]:
        key = getattr(words, "key", None)
        if key:
            yield key
