"""The tabs that make pictures, in a real browser with the pocket model: each makes what it is asked for, and they send it on."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.servers import PROJECT, Server, free_port, serving
from tests.test_browser import CHROMIUM, browser, open_history, ready, somebody, sync_api, video_facts
from training.pocket import portraits
from training.pocket.attributes import Person
from webui.imaging import infotext

pytestmark = [
    pytest.mark.long,
    pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed (apt-get install chromium)"),
    pytest.mark.skipif(os.name == "nt", reason="POSIX signals"),
]

__all__ = ["browser"]

TABS = {"txt2img": ("txt2img", "文生图"), "img2img": ("img2img", "图生图"), "inpaint": ("Inpaint", "局部重绘")}

SIDEWAYS = "() => document.documentElement.scrollWidth - window.innerWidth"


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the pocket model and nothing else."""
    folder = tmp_path_factory.mktemp("models")
    (folder / "pocket").symlink_to(PROJECT / "models" / "pocket")
    return folder


@pytest.fixture(scope="module")
def outputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("pictures") / "outputs"


@pytest.fixture(scope="module")
def server(outputs: Path, models: Path) -> Iterator[Server]:
    port = free_port()
    folders = ["--outputs-dir", str(outputs), "--models-dir", str(models)]
    command = [sys.executable, "app.py", "--port", str(port), "--device", "cpu", *folders]
    with serving(command, port, outputs.with_name("temp"), OMP_NUM_THREADS="1") as server:
        yield server
    assert "Traceback" not in server.log, server.log


@pytest.fixture
def page(browser: sync_api.Browser, server: Server) -> Iterator[sync_api.Page]:
    yield from opened(browser, server)


@pytest.fixture
def phone(browser: sync_api.Browser, server: Server) -> Iterator[sync_api.Page]:
    yield from opened(browser, server, viewport={"width": 375, "height": 800}, locale="zh-CN")


@pytest.fixture(scope="module")
def photo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """128 pixels wide: a model for 128 pixels works on it at its own size."""
    path = tmp_path_factory.mktemp("photo") / "photo.png"
    blocks = np.random.default_rng(3).integers(0, 256, (8, 8, 3), np.uint8)
    Image.fromarray(np.kron(blocks, np.ones((16, 16, 1), np.uint8))).save(path)
    return path


@pytest.fixture(scope="module")
def person(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A portrait by the generator that the pocket model learned from: black hair, blue t-shirt."""
    path = tmp_path_factory.mktemp("person") / "person.png"
    asked = Person(gender="woman", hair_color="black", hair_style="long", clothes="t-shirt", clothes_color="blue")
    Image.fromarray(portraits.draw(asked, 128, 3)).save(path)
    return path


def opened(browser: sync_api.Browser, server: Server, **how) -> Iterator[sync_api.Page]:
    """A page of its own visitor. A script error in it fails the test."""
    context = somebody(browser, **{"viewport": {"width": 1280, "height": 1000}, **how})
    page, errors = context.new_page(), []
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.goto(server.url)
    ready(page)
    yield page
    context.close()
    assert errors == []


def open_tab(page: sync_api.Page, tab: str) -> None:
    page.get_by_role("tab", name=re.compile(f"^({'|'.join(TABS[tab])})$")).first.click()
    page.wait_for_selector(f"#{tab}-generate")


def write(page: sync_api.Page, tab: str, **fields: str) -> None:
    """Fill in fields by the request's names."""
    for name, text in fields.items():
        field = page.locator(f"#field-{tab}-{name.replace('_', '-')}")
        box = field.locator("textarea, input[type=number], input[type=text]").first
        box.fill(text)
        box.press("Tab")


def held(page: sync_api.Page, selector: str) -> str:
    return page.locator(selector).locator("textarea, input").first.input_value()


def generate(page: sync_api.Page, tab: str) -> str:
    """Press Generate and wait for the picture; its artifact id."""
    before = held(page, f"#{tab}-made")
    page.click(f"#{tab}-generate")
    done(page, tab, before)
    return held(page, f"#{tab}-artifact")


def done(page: sync_api.Page, tab: str, before: str = "") -> None:
    other = "([tab, before]) => { const at = (id) => document.querySelector(`#${tab}-${id} :is(textarea, input)`)?.value;"
    page.wait_for_function(other + " return at('made') !== before && at('artifact'); }", arg=[tab, before])
    page.wait_for_selector(f"#{tab}-gallery img")


def made(outputs: Path, artifact: str) -> Path:
    (path,) = outputs.glob(f"*/*-{artifact}.png")
    return path


def pixels(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB")).astype(int)


def facts(page: sync_api.Page, tab: str) -> dict[str, str]:
    return infotext.read(held(page, f"#{tab}-infotext")).facts


def test_words_become_a_picture_of_the_models_size_and_its_seed_can_be_used_again(page: sync_api.Page, outputs: Path):
    assert held(page, "#field-txt2img-model").startswith("pocket") and "pocket" in page.inner_text("#txt2img-model-note")
    write(page, "txt2img", prompt="a fox", steps="2")
    page.keyboard.press("Control+Enter")
    done(page, "txt2img")
    first = made(outputs, held(page, "#txt2img-artifact"))
    assert pixels(first).shape == (128, 128, 3)
    assert infotext.extract(first) == held(page, "#txt2img-infotext")
    page.click("#txt2img-last-seed")
    page.wait_for_function("document.querySelector('#field-txt2img-seed :is(textarea, input)').value !== '-1'")
    assert held(page, "#field-txt2img-seed") == facts(page, "txt2img")["Seed"]
    assert np.array_equal(pixels(made(outputs, generate(page, "txt2img"))), pixels(first))
    page.click("#txt2img-dice")
    page.wait_for_function("document.querySelector('#field-txt2img-seed :is(textarea, input)').value === '-1'")


def share(rgb: np.ndarray, colour: str) -> float:
    """Of the pixels, those of a strong colour that no skin has."""
    red, green, blue = np.moveaxis(rgb, -1, 0)
    return float(
        {
            "red": (red > 90) & (red > 1.9 * green),
            "green": (green > 80) & (green > 1.3 * red) & (green > 1.2 * blue),
            "blue": (blue > 100) & (blue > 1.4 * red) & (blue > 1.2 * green),
        }[colour].mean()
    )


def test_a_red_haired_person_has_red_hair(page: sync_api.Page, outputs: Path):
    seen = {}
    for colour in ("red", "blue"):
        words = f"portrait of a woman with long {colour} hair, wearing a white shirt, grey background"
        write(page, "txt2img", prompt=words, seed="7", steps="20")
        rgb = pixels(made(outputs, generate(page, "txt2img")))
        seen[colour] = {one: share(rgb, one) for one in ("red", "blue")}
    assert seen["red"]["red"] > 0.08 > 0.02 > seen["red"]["blue"]
    assert seen["blue"]["blue"] > 0.08 > 0.02 > seen["blue"]["red"]


def test_a_person_made_from_words_talks(page: sync_api.Page, voice_file: Path):
    """Words to a picture, the picture to the SadTalker tab, a voice beside it: a video that plays."""
    write(page, "txt2img", prompt="portrait of a smiling young woman with brown hair, blue background", seed="11", steps="20")
    artifact = generate(page, "txt2img")
    page.click("#send-txt2img-send_sadtalker")
    page.wait_for_selector(f"#sadtalker-portrait img[src*='{artifact}']")
    page.set_input_files("#sadtalker-voice input[type=file]", voice_file)
    page.wait_for_selector("#sadtalker-voice [data-testid=waveform-sadtalker-voice], #sadtalker-voice #waveform")
    page.click("#sadtalker-generate")
    facts = video_facts(page)
    assert facts["duration"] == pytest.approx(6.6, abs=0.1) and facts["moved"] > 0.1
    assert min(facts["means"]) > 20, "no black frames"
    page.reload()
    assert video_facts(page)["moved"] > 0.1, "the tab that it was sent to is the one that is open"


def test_img2img_follows_its_words(page: sync_api.Page, person: Path, outputs: Path):
    open_tab(page, "img2img")
    page.set_input_files("#img2img-picture input[type=file]", person)
    page.wait_for_selector("#img2img-picture img")
    write(page, "img2img", prompt="portrait of a woman with long green hair", strength="0.9", seed="5", steps="20")
    assert share(pixels(person), "green") < 0.02
    assert share(pixels(made(outputs, generate(page, "img2img"))), "green") > 0.08


def upload_masked(page: sync_api.Page, picture: Path, part: Any, folder: Path) -> None:
    """A picture of 128 x 128 in the inpaint tab, and a mask for a part of it, from a file in the folder."""
    mask = np.zeros((128, 128), np.uint8)
    mask[part] = 255
    Image.fromarray(mask).save(folder / "mask.png")
    open_tab(page, "inpaint")
    page.set_input_files("#inpaint-picture input[type=file]", picture)
    page.wait_for_selector("#inpaint-editor canvas")
    page.get_by_role("tab", name="Upload a mask").click()
    page.set_input_files("#inpaint-mask input[type=file]", folder / "mask.png")
    page.wait_for_selector("#inpaint-mask img")


def test_inpainting_changes_the_clothes_and_nothing_else(page: sync_api.Page, person: Path, outputs: Path, tmp_path: Path):
    upload_masked(page, person, np.s_[96:], tmp_path)
    words = "portrait of a woman with long black hair, wearing a red t-shirt"
    write(page, "inpaint", prompt=words, mask_blur="0", strength="1", seed="5", steps="20")
    before, after = pixels(person), pixels(made(outputs, generate(page, "inpaint")))
    assert np.array_equal(after[:96], before[:96])
    assert share(before[96:], "red") < 0.02 and share(after[96:], "red") > 0.25


def test_each_picture_of_a_batch_is_shown_with_its_own_facts(page: sync_api.Page):
    write(page, "txt2img", prompt="a fox", steps="2", batch_size="2", seed="40")
    generate(page, "txt2img")
    assert facts(page, "txt2img")["Seed"] == "40"
    page.locator("#txt2img-gallery .thumbnails button, #txt2img-gallery button.thumbnail-item").nth(1).click()
    page.wait_for_function("document.querySelector('#txt2img-infotext textarea').value.includes('Seed: 41,')")


def test_a_picture_goes_from_tab_to_tab(page: sync_api.Page, outputs: Path):
    write(page, "txt2img", prompt="a fox", steps="2")
    first = generate(page, "txt2img")
    page.click("#send-txt2img-send_img2img")
    page.wait_for_selector(f"#img2img-picture img[src*='{first}']")
    write(page, "img2img", prompt="a wolf", steps="2", strength="0.5")
    second = generate(page, "img2img")
    assert facts(page, "img2img")["Denoising strength"] == "0.5" and facts(page, "img2img")["Size"] == "128x128"
    page.click("#send-img2img-send_inpaint")
    page.wait_for_selector("#inpaint-editor canvas")
    assert held(page, "#inpaint-picture-id") == second and made(outputs, second).is_file()
    page.get_by_role("tab", name="img2img").click()
    page.click("#send-img2img-send_sadtalker")
    page.wait_for_selector(f"#sadtalker-portrait img[src*='{second}']")


def test_extras_makes_a_picture_larger_and_the_history_gives_its_settings_back(page: sync_api.Page, photo: Path, outputs: Path):
    page.get_by_role("tab", name="Extras").click()
    page.set_input_files("#extras-picture input[type=file]", photo)
    page.wait_for_selector("#extras-picture img")
    page.click("#field-extras-upscaler input")
    page.get_by_role("option", name="Lanczos").click()
    page.locator("#extras-mode label").nth(1).click()
    write(page, "extras", width="96", height="200")
    first = generate(page, "extras")
    (path,) = outputs.glob(f"extras/*-{first}.png")
    assert pixels(path).shape == (200, 96, 3) and facts(page, "extras")["Postprocess upscale to"] == "96x200"
    page.reload()
    open_history(page, search="96x200")
    page.wait_for_function("document.querySelectorAll('.tile').length == 1")
    page.focus(".tile")
    page.keyboard.press("Enter")
    page.click("#history-again")
    page.wait_for_selector("#extras-picture img")
    assert held(page, "#field-extras-upscaler") == "Lanczos"
    assert (held(page, "#field-extras-width"), held(page, "#field-extras-height")) == ("96", "200")
    second = generate(page, "extras")
    (again,) = outputs.glob(f"extras/*-{second}.png")
    assert np.array_equal(pixels(again), pixels(path))


def draw(page: sync_api.Page, editor: str, *, part: tuple[float, float, float]) -> None:
    """A stroke in a part of the picture that the editor shows: from, to and at, as fractions of the canvas."""
    page.wait_for_timeout(1500)  # the editor lays its picture out some time after it is there
    box = page.locator(f"{editor} canvas").first.bounding_box()
    assert box is not None
    start, end, height = part
    page.mouse.move(box["x"] + box["width"] * start, box["y"] + box["height"] * height)
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] * end, box["y"] + box["height"] * height, steps=8)
    page.mouse.up()
    page.wait_for_timeout(500)


def test_only_what_was_drawn_over_is_made_anew(page: sync_api.Page, photo: Path, outputs: Path):
    open_tab(page, "inpaint")
    page.set_input_files("#inpaint-picture input[type=file]", photo)
    page.wait_for_selector("#inpaint-editor canvas")
    write(page, "inpaint", prompt="a star", steps="3", mask_blur="0", strength="1")
    draw(page, "#inpaint-editor", part=(0.48, 0.52, 0.5))
    changed = np.abs(pixels(made(outputs, generate(page, "inpaint"))) - pixels(photo)).sum(axis=2) > 0
    assert changed[60:68, 60:68].mean() > 0.9
    assert not changed[:16].any() and not changed[-16:].any() and not changed[:, :16].any() and not changed[:, -16:].any()
    again = held(page, "#inpaint-artifact")
    assert generate(page, "inpaint") != again  # the drawing is still there for the next one


def test_a_mask_can_be_a_file_and_be_inverted(page: sync_api.Page, photo: Path, outputs: Path, tmp_path: Path):
    upload_masked(page, photo, np.s_[:, :64], tmp_path)
    write(page, "inpaint", prompt="a star", steps="3", mask_blur="0", strength="1")
    page.click("#field-inpaint-mask-invert input")
    page.get_by_role("option", name="Inpaint not masked").click()
    changed = np.abs(pixels(made(outputs, generate(page, "inpaint"))) - pixels(photo)).sum(axis=2) > 0
    assert not changed[:, :64].any() and changed[:, 64:].mean() > 0.9
    assert facts(page, "inpaint")["Mask mode"] == "Inpaint not masked"


def test_without_a_mask_the_visitor_is_asked_for_one(page: sync_api.Page, photo: Path):
    open_tab(page, "inpaint")
    page.click("#inpaint-generate")
    page.get_by_text("Choose a picture first.").wait_for()
    page.set_input_files("#inpaint-picture input[type=file]", photo)
    page.wait_for_selector("#inpaint-editor canvas")
    page.click("#inpaint-generate")
    page.get_by_text("Draw over the part to repaint first").wait_for()


def test_a_plot_has_a_picture_for_each_value(page: sync_api.Page, outputs: Path):
    write(page, "txt2img", prompt="portrait of a man", seed="3")
    page.click("#txt2img-plot-box button")
    page.click("#field-txt2img-x-axis input")
    page.get_by_role("option", name="Steps", exact=True).click()
    write(page, "txt2img", x_values="1, 4, 8")
    sheet = pixels(made(outputs, generate(page, "txt2img")))
    assert sheet.shape[1] >= 3 * 128 and sheet.shape[0] >= 128


def test_a_sketch_becomes_a_picture(page: sync_api.Page):
    open_tab(page, "img2img")
    page.get_by_role("tab", name="Sketch").click()
    page.wait_for_selector("#img2img-sketch canvas")
    draw(page, "#img2img-sketch", part=(0.4, 0.6, 0.5))
    write(page, "img2img", prompt="a hill", steps="2")
    generate(page, "img2img")
    assert facts(page, "img2img")["Own size"] == "True"


def test_a_folder_becomes_a_job_for_each_picture(page: sync_api.Page, photo: Path, tmp_path: Path, outputs: Path):
    for name in ("one.png", "two.png"):
        (tmp_path / name).write_bytes(photo.read_bytes())
    (tmp_path / "notes.txt").write_text("no picture")
    before = len(list(outputs.glob("img2img/*.png")))
    open_tab(page, "img2img")
    page.get_by_role("tab", name="Batch from a folder").click()
    write(page, "img2img", prompt="a hill", steps="1")
    page.set_input_files("#img2img-folder input[type=file]", tmp_path)
    page.locator("#img2img-folder", has_text="notes").wait_for()
    page.click("#img2img-queue")
    page.locator("#img2img-queued", has_text="2 pictures are queued").wait_for()
    for _ in range(240):
        if len(list(outputs.glob("img2img/*.png"))) == before + 2:
            break
        page.wait_for_timeout(500)
    assert len(list(outputs.glob("img2img/*.png"))) == before + 2


def test_a_reloaded_page_finds_its_job_again(page: sync_api.Page):
    write(page, "txt2img", prompt="a long one", steps="100", batch_count="2")
    page.click("#txt2img-generate")
    page.wait_for_selector("#txt2img-card [role=progressbar]")
    job = page.evaluate("sessionStorage.getItem('galatea-txt2img-job')")
    page.reload()
    page.wait_for_selector("#txt2img-card [role=progressbar], #txt2img-gallery img")
    assert page.evaluate("sessionStorage.getItem('galatea-txt2img-job')") == job
    done(page, "txt2img")
    assert held(page, "#txt2img-made") == job and "a long one" in held(page, "#txt2img-infotext")


def test_a_dropped_picture_fills_the_form_that_it_came_from(page: sync_api.Page, outputs: Path):
    write(page, "txt2img", prompt="a (tin:1.3) lighthouse", negative="fog", steps="3", seed="77", width="192")
    path = made(outputs, generate(page, "txt2img"))
    open_tab(page, "img2img")
    page.set_input_files("#img2img .drop-zone input[type=file]", path)
    page.wait_for_selector("#txt2img-generate")
    shown = {name: held(page, f"#field-txt2img-{name}") for name in ("prompt", "negative", "steps", "seed", "width", "height")}
    wanted = {"prompt": "a (tin:1.3) lighthouse", "negative": "fog", "steps": "3", "seed": "77", "width": "192", "height": "128"}
    assert shown == wanted


def test_on_a_phone_nothing_is_cut_off_and_generate_follows_the_words(phone: sync_api.Page):
    for tab in TABS:
        phone.get_by_role("tab", name=re.compile(f"^({'|'.join(TABS[tab])})$")).first.click()
        phone.wait_for_selector(f"#{tab}-generate")
        assert phone.evaluate(SIDEWAYS) <= 0
        words, button, steps = (
            phone.locator(where).bounding_box() for where in (f"#field-{tab}-prompt", f"#{tab}-generate", f"#field-{tab}-steps")
        )
        assert words and button and steps and words["y"] < button["y"] < steps["y"]
    assert "正向提示词" in phone.inner_text("#inpaint") and "重绘幅度" in phone.inner_text("#inpaint")
    assert re.search("builtin_|[a-z]+_[a-z]+", phone.inner_text("#inpaint")) is None


def test_a_shape_and_a_preset_set_what_they_say(page: sync_api.Page):
    page.click("#field-txt2img-shape input")
    page.get_by_role("option", name="Portrait 2:3").click()
    page.wait_for_function("document.querySelector('#field-txt2img-height input[type=number]').value === '160'")
    page.click("#txt2img-swap")
    page.wait_for_function("document.querySelector('#field-txt2img-width input[type=number]').value === '160'")
    assert held(page, "#field-txt2img-shape") == "Own size"
    page.click("#field-txt2img-preset input")
    page.get_by_role("option", name="Quick").click()
    page.wait_for_function("document.querySelector('#field-txt2img-steps input[type=number]').value === '10'")
    assert held(page, "#field-txt2img-sampler") == "UniPC"
    write(page, "txt2img", steps="12")
    page.wait_for_function("document.querySelector('#field-txt2img-preset input').value === 'Own choice'")
