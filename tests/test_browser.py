"""The page in a real browser: a newcomer drops a photo and a voice, presses Generate and watches the video."""

from __future__ import annotations

import base64
import json
import os
import re
import shutil
import sys
import time
import wave
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.fakes import start_program, write_extension
from tests.servers import OFFLINE, PROJECT, Server, free_port, serving
from webui.imaging import infotext

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--autoplay-policy=no-user-gesture-required",
]

pytestmark = [
    pytest.mark.long,
    pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed (apt-get install chromium)"),
    pytest.mark.skipif(os.name == "nt", reason="POSIX signals"),
]

sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed (requirements-dev.txt)")

BRIGHTNESS = """async (video) => {
  video.muted = true;
  const canvas = Object.assign(document.createElement("canvas"), {width: 64, height: 64});
  const means = [];
  for (const part of [0.05, 0.5, 0.9]) {
    await new Promise((done) => { video.onseeked = done; video.currentTime = video.duration * part; });
    const context = canvas.getContext("2d");
    context.drawImage(video, 0, 0, 64, 64);
    const pixels = context.getImageData(0, 0, 64, 64).data;
    means.push(pixels.reduce((sum, value, index) => index % 4 == 3 ? sum : sum + value, 0) / (64 * 64 * 3));
  }
  video.currentTime = 0;
  await video.play();
  await new Promise((done) => setTimeout(done, 500));
  const moved = video.currentTime;
  video.pause();
  return {duration: video.duration, width: video.videoWidth, height: video.videoHeight, means, moved};
}"""

JOB = "sessionStorage.getItem('galatea-sadtalker-job')"
SEED = "#field-sadtalker-seed input, #field-sadtalker-seed textarea"
BAR = "#sadtalker-card [role=progressbar]"
OTHER_VIDEO = """before => {
  const video = document.querySelector('#sadtalker-video video');
  return video && video.getAttribute('src') !== before;
}"""


@pytest.fixture(scope="module")
def outputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("browser") / "outputs"


@pytest.fixture(scope="module")
def server(outputs: Path) -> Iterator[Server]:
    port = free_port()
    command = [sys.executable, "app.py", "--port", str(port), "--outputs-dir", str(outputs)]
    with serving(command, port, outputs.with_name("temp")) as server:
        yield server
    assert "Traceback" not in server.log, server.log


@pytest.fixture(scope="module")
def browser() -> Iterator[sync_api.Browser]:
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def long_voice_file(voice_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The voice twelve times: its video takes long enough for pages to be opened meanwhile on a machine that is busy."""
    path = tmp_path_factory.mktemp("voice") / "long.wav"
    with wave.open(str(voice_file)) as sound, wave.open(str(path), "wb") as longer:
        longer.setparams(sound.getparams())
        longer.writeframes(sound.readframes(sound.getnframes()) * 12)
    return path


@pytest.fixture
def page(browser: sync_api.Browser, server: Server) -> Iterator[sync_api.Page]:
    yield from opened(browser, server)


@pytest.fixture
def phone(browser: sync_api.Browser, server: Server) -> Iterator[sync_api.Page]:
    yield from opened(browser, server, viewport={"width": 375, "height": 800}, locale="zh-CN")


def somebody(browser: sync_api.Browser, **how) -> sync_api.BrowserContext:
    """Somebody with a browser of their own. The first work of a busy machine waits for PyTorch."""
    context = browser.new_context(**{"viewport": {"width": 1280, "height": 900}, "locale": "en-US", **how})
    context.set_default_timeout(120_000)
    return context


def opened(browser: sync_api.Browser, server: Server, **how) -> Iterator[sync_api.Page]:
    """A page of its own visitor. A script error in it fails the test."""
    context = somebody(browser, **how)
    page, errors = context.new_page(), []
    page.on("pageerror", lambda error: errors.append(str(error)))
    open_sadtalker(page, server.url)
    yield page
    context.close()
    assert errors == []


def ready(page: sync_api.Page) -> None:
    """What the page asks for at first is there: the lists of models. A tab that is clicked before may not open."""
    page.wait_for_selector("#txt2img-model-note p", state="attached")


def open_sadtalker(page: sync_api.Page, url: str) -> None:
    page.goto(url)
    ready(page)
    page.get_by_role("tab", name="SadTalker").click()
    page.wait_for_selector("#sadtalker-card .hint, #sadtalker-card .job-card, #sadtalker-card p.job-line")


def drop(page: sync_api.Page, portrait: Path | None = None, voice: Path | None = None) -> None:
    if portrait is not None:
        page.set_input_files("#sadtalker-portrait input[type=file]", portrait)
        page.wait_for_selector("#sadtalker-portrait img")
    if voice is not None:
        page.set_input_files("#sadtalker-voice input[type=file]", voice)
        page.wait_for_selector("#sadtalker-voice [data-testid=waveform-sadtalker-voice], #sadtalker-voice #waveform")


def choose(page: sync_api.Page, button: str, file: Path) -> None:
    with page.expect_file_chooser() as chooser:
        page.click(button)
    chooser.value.set_files(file)


def open_history(page: sync_api.Page, **job: str) -> None:
    """The History tab, searched for some words."""
    ready(page)
    page.get_by_role("tab", name=re.compile("History|历史")).click()
    page.wait_for_selector("#history-usage .usage")
    page.fill("#history-search input, #history-search textarea", job.get("search", ""))


def percent(page: sync_api.Page) -> int:
    return int(page.get_attribute(BAR, "aria-valuenow") or 0)


def video_facts(page: sync_api.Page) -> dict:
    video = page.wait_for_selector("#sadtalker-video video")
    page.wait_for_function("document.querySelector('#sadtalker-video video').readyState >= 2")
    return video.evaluate(BRIGHTNESS)


def sentence(page: sync_api.Page, text: str) -> None:
    page.get_by_text(text).first.wait_for()
    assert page.get_by_text("Traceback").count() == 0


def test_photo_and_voice_become_a_video_that_plays(page: sync_api.Page, portrait_file: Path, voice_file: Path):
    with wave.open(str(voice_file)) as sound:
        seconds = sound.getnframes() / sound.getframerate()
    drop(page, portrait_file, voice_file)
    page.click("#sadtalker-generate")
    page.wait_for_selector(".job-preview img")
    assert page.get_attribute("[role=progressbar]", "aria-valuenow").isdigit()
    facts = video_facts(page)
    assert facts["duration"] == pytest.approx(seconds, abs=0.1)
    assert (facts["width"], facts["height"]) == (512, 512)
    assert min(facts["means"]) > 20, "no black frames"
    assert facts["moved"] > 0.1, "it plays"
    used = page.inner_text("#sadtalker-used")
    assert "builtin" in used and re.search(r"Seed\s+\d+", used)
    assert page.is_visible("#sadtalker-download")
    with page.expect_download() as download:
        page.click("#sadtalker-download")
    assert download.value.suggested_filename.endswith(".mp4")
    page.reload()
    assert video_facts(page)["duration"] == pytest.approx(seconds, abs=0.1), "a reload finds the job again"


def test_cancel_stops_within_a_second_and_leaves_a_video_that_plays(
    page: sync_api.Page, portrait_file: Path, voice_file: Path
):
    drop(page, portrait_file, voice_file)
    page.click("#sadtalker-advanced button")
    page.fill("#field-sadtalker-fps input[type=number]", "60")
    assert page.input_value(SEED) == "", "empty draws a seed, and stays empty"
    page.click("#sadtalker-generate")
    page.wait_for_selector(".job-preview img")
    begun = time.monotonic()
    page.click("#sadtalker-cancel")
    page.wait_for_selector("#sadtalker-generate:enabled")
    assert time.monotonic() - begun < 1.5
    facts = video_facts(page)
    assert facts["duration"] > 0 and min(facts["means"]) > 20
    sentence(page, "Stopped. The video ends where the work ended.")


def test_a_reloaded_page_goes_on_with_its_job_and_can_cancel_it(
    page: sync_api.Page, portrait_file: Path, long_voice_file: Path
):
    drop(page, portrait_file, long_voice_file)
    page.click("#sadtalker-generate")
    page.wait_for_selector("#sadtalker-card .job-preview img")
    job, before = page.evaluate(JOB), percent(page)
    page.reload()
    page.wait_for_selector("#sadtalker-card .job-preview img")
    assert page.evaluate(JOB) == job and percent(page) >= before > 0
    page.click("#sadtalker-cancel")
    page.wait_for_selector("#sadtalker-card .job-cancelled")
    assert 0 < video_facts(page)["duration"] < 78, "what was finished is kept"


def test_a_job_survives_a_restart_of_the_server(
    browser: sync_api.Browser, portrait_file: Path, voice_file: Path, tmp_path: Path
):
    port = free_port()
    command = [sys.executable, "app.py", "--port", str(port), "--outputs-dir", str(tmp_path / "outputs")]
    context = somebody(browser)
    page = context.new_page()
    with serving(command, port, tmp_path / "temp") as server:
        open_sadtalker(page, server.url)
        drop(page, portrait_file, voice_file)
        page.click("#sadtalker-generate")
        page.wait_for_function(f"Number(document.querySelector('{BAR}')?.ariaValueNow) >= 20")
        job = page.evaluate(JOB)
        page.evaluate("window.before = true")
    with serving(command, port, tmp_path / "temp"):
        page.wait_for_function("!window.before")  # the page loads itself anew
        assert page.evaluate(JOB) == job
        page.wait_for_selector(f"{BAR}, #sadtalker-video video")
        assert video_facts(page)["duration"] == pytest.approx(6.6, abs=0.1)
    context.close()
    assert len(list(tmp_path.glob("outputs/talk/*.mp4"))) == 1


def test_the_history_gives_settings_back(page: sync_api.Page, phone: sync_api.Page, portrait_file: Path, voice_file: Path):
    """Found by its seed, its settings used again by another visitor, deleted, brought back; nothing runs meanwhile."""
    make_with_settings(page, portrait_file, voice_file)
    open_history(phone, search="424242")
    phone.wait_for_function("document.querySelectorAll('.tile').length == 1")
    assert phone.evaluate("document.documentElement.scrollWidth") <= 375, "nothing sticks out sideways"
    assert "已完成" in phone.inner_text(".tile")
    phone.focus(".tile")
    phone.keyboard.press("Enter")
    phone.wait_for_selector("#history-video video")
    assert phone.evaluate("document.documentElement.scrollWidth") <= 375
    phone.click("#history-again")
    phone.wait_for_selector("#sadtalker-portrait img")
    form_is_filled(phone)

    open_history(page, search="424242")
    page.wait_for_function("document.querySelectorAll('.tile').length == 1")
    page.click(".tile")
    page.click("#history-delete")
    page.wait_for_selector("#history-undo", state="visible")
    page.wait_for_selector(".tile", state="detached")
    page.click("#history-undo")
    page.wait_for_selector(".tile")
    asked = []
    page.on("request", lambda request: asked.append(request.url))
    page.wait_for_timeout(2500)
    assert asked == [], "a page on which nothing moves asks for nothing"


def test_what_was_deleted_comes_back_and_the_keyboard_keeps_its_place(
    page: sync_api.Page, server: Server, portrait_file: Path, voice_file: Path
):
    jobs = [make(server, portrait_file, voice_file, "<img src=x> trio.jpg") for _ in range(3)]
    focused = "document.activeElement.dataset.job"
    open_history(page, search="trio")
    page.wait_for_function("document.querySelectorAll('.tile').length == 3")
    page.focus(f".tile[data-job='{jobs[1]}']")
    page.keyboard.press("Enter")
    page.wait_for_function("document.activeElement.id == 'history-back'")
    page.keyboard.press("Enter")
    page.wait_for_function(f"{focused} == '{jobs[1]}'")
    page.keyboard.press("Enter")
    page.wait_for_selector("#history-delete", state="visible")
    page.focus("#history-delete")
    page.keyboard.press("Enter")
    page.wait_for_function(f"{focused} == '{jobs[0]}'")  # the next of the list, which is the older

    page.reload()
    open_history(page, search="trio")
    page.click("#history-state input")
    page.get_by_role("option", name="deleted", exact=True).click()
    page.wait_for_selector(f".tile:only-child[data-job='{jobs[1]}']")
    page.click(".tile")
    page.click("#history-restore")
    page.wait_for_selector("#history-video video")
    page.click("#history-again")
    page.get_by_text("The settings of “_img src=x_ trio” are filled in.").wait_for()


def make(server: Server, portrait: Path, voice: Path, name: str) -> str:
    """A small video, made through the API. Its job's id."""
    files = [(name, portrait), (voice.name, voice)]
    uploads = [{"name": name, "base64": base64.b64encode(path.read_bytes()).decode()} for name, path in files]
    ids = [server.post("/api/artifacts", upload)["id"] for upload in uploads]
    job = server.post("/api/jobs", {"kind": "talk", "request": {"portrait": ids[0], "voice": ids[1], "size": 256, "fps": 10}})
    while json.loads(server.get(f"/api/jobs/{job['id']}")[1])["state"] in ("queued", "running"):
        time.sleep(0.1)
    return job["id"]


def test_a_video_that_is_dropped_restores_its_settings(
    page: sync_api.Page, outputs: Path, portrait_file: Path, voice_file: Path, tmp_path: Path
):
    make_with_settings(page, portrait_file, voice_file)
    film = max(outputs.glob("talk/*.mp4"), key=lambda path: path.stat().st_mtime)
    page.reload()
    page.wait_for_selector("#sadtalker-video video")
    page.set_input_files("#sadtalker .drop-zone input[type=file]", film)
    page.wait_for_selector("#sadtalker-portrait img")
    form_is_filled(page)
    page.reload()
    page.wait_for_selector("#sadtalker-video video")
    renamed = shutil.copy(film, tmp_path / "a film.mp4")
    open_history(page)
    page.set_input_files("#history .drop-zone input[type=file]", renamed)
    sentence(page, "Could not be filled in again: Portrait, Voice.")
    page.wait_for_selector(SEED)
    assert page.input_value(SEED) == "424242"
    evil = {"name": "<img src=x>.mp4", "mimeType": "video/mp4", "buffer": b"no video"}
    page.set_input_files("#sadtalker .drop-zone input[type=file]", evil)
    sentence(page, "carries no settings")
    assert page.locator("[data-testid=toast-body] img").count() == 0, "a file's name is text"


def make_with_settings(page: sync_api.Page, portrait: Path, voice: Path) -> None:
    drop(page, portrait, voice)
    page.get_by_role("radio", name=re.compile("full")).first.check()
    page.click("#sadtalker-advanced button")
    page.fill(SEED, "424242")
    page.click("#sadtalker-generate")
    video_facts(page)


def form_is_filled(page: sync_api.Page) -> None:
    """With what make_with_settings has filled in."""
    page.wait_for_selector("#sadtalker-voice #waveform")
    page.wait_for_selector(SEED)
    assert page.get_by_role("radio", name=re.compile("full")).first.is_checked()
    assert page.input_value(SEED) == "424242"


def test_a_second_job_is_refused_while_one_runs(page: sync_api.Page, portrait_file: Path, voice_file: Path):
    drop(page, portrait_file, voice_file)
    page.click("#sadtalker-advanced button")
    page.fill("#field-sadtalker-fps input[type=number]", "60")
    page.click("#sadtalker-generate")
    page.wait_for_selector(".job-preview img")
    job, portrait = page.evaluate(JOB), page.get_attribute("#sadtalker-portrait img", "src")
    page.click("#sadtalker-examples button.gallery-item >> nth=1")
    sentence(page, "Your video is still being made.")
    assert page.evaluate(JOB) == job
    assert page.get_attribute("#sadtalker-portrait img", "src") == portrait
    page.click("#sadtalker-cancel")
    page.wait_for_selector("#sadtalker-generate:enabled")
    assert page.locator(".job-cancelled").count() == 1
    before = page.get_attribute("#sadtalker-video video", "src")
    page.click("#sadtalker-examples button.gallery-item >> nth=1")
    page.wait_for_function(OTHER_VIDEO, arg=before)
    assert page.evaluate(JOB) != job, "once it has ended, the next may begin"


def test_a_closed_tab_stops_nothing(page: sync_api.Page, server: Server, portrait_file: Path, long_voice_file: Path):
    drop(page, portrait_file, long_voice_file)
    page.click("#sadtalker-generate")
    page.wait_for_selector("#sadtalker-card .job-preview img")
    job, before = page.evaluate(JOB), percent(page)
    page.goto("about:blank")
    again = page.context.new_page()
    open_sadtalker(again, server.url)
    again.wait_for_selector(BAR)
    assert again.evaluate(JOB) == job, "a new tab shows what is being made"
    again.wait_for_function(f"Number(document.querySelector('{BAR}')?.ariaValueNow) > {before}")
    again.click("#sadtalker-cancel")
    assert video_facts(again)["width"] == 512


def test_who_looks_on_may_begin_a_video_of_their_own(
    page: sync_api.Page, server: Server, portrait_file: Path, long_voice_file: Path, voice_file: Path
):
    drop(page, portrait_file, long_voice_file)
    page.click("#sadtalker-generate")
    page.wait_for_selector(".job-preview img")
    theirs = page.evaluate(JOB)
    second = somebody(page.context.browser).new_page()
    open_sadtalker(second, server.url)
    second.wait_for_selector(".job-preview img")
    drop(second, portrait_file, voice_file)
    second.click("#sadtalker-generate")
    second.wait_for_function(f"{JOB} !== '{theirs}'")
    second.wait_for_selector("#sadtalker-generate:disabled")
    assert page.locator("#sadtalker-card .job-running").count() == 1 and page.evaluate(JOB) == theirs
    page.click("#sadtalker-cancel")
    second.wait_for_selector("#sadtalker-video video")
    assert second.evaluate(JOB) != theirs
    second.context.close()


def test_another_computer_finds_the_running_job_and_no_finished_one(
    page: sync_api.Page, phone: sync_api.Page, server: Server, portrait_file: Path, long_voice_file: Path
):
    drop(page, portrait_file, long_voice_file)
    drop(phone, portrait_file)
    page.click("#sadtalker-generate")
    page.wait_for_selector(".job-preview img")
    second = somebody(page.context.browser).new_page()
    open_sadtalker(second, server.url)
    second.wait_for_selector(".job-preview img")
    assert second.evaluate(JOB) == page.evaluate(JOB)
    assert phone.is_visible("#sadtalker-card .hint") and phone.is_enabled("#sadtalker-generate"), "who prepares a form goes on"
    second.click("#sadtalker-cancel")
    for visitor in (page, second):
        visitor.wait_for_selector("#sadtalker-card .job-cancelled")
    phone.reload()
    phone.wait_for_selector("#sadtalker-card .hint")
    assert phone.locator("#sadtalker-video video").count() == 0
    second.context.close()


def test_two_visitors_each_see_their_own_job(
    page: sync_api.Page, phone: sync_api.Page, portrait_file: Path, voice_file: Path
):
    for visitor, size in ((page, "512"), (phone, "256")):
        drop(visitor, portrait_file, voice_file)
        visitor.click("#sadtalker-advanced button")
        visitor.get_by_role("radio", name=size).check()
    page.click("#sadtalker-generate")
    page.wait_for_selector("[role=progressbar]")
    phone.click("#sadtalker-generate")
    phone.get_by_text("排队中").wait_for()
    assert (video_facts(page)["width"], video_facts(phone)["width"]) == (512, 256)


def test_bad_input_is_a_sentence(page: sync_api.Page, tmp_path: Path, voice_file: Path):
    page.click("#sadtalker-generate")
    sentence(page, "Choose a portrait first")
    Image.fromarray(np.full((400, 400, 3), 128, np.uint8)).save(tmp_path / "wall.png")
    drop(page, tmp_path / "wall.png", voice_file)
    page.click("#sadtalker-generate")
    page.wait_for_selector(".job-error")
    error = page.inner_text(".job-error")
    assert "face" in error.lower()
    page.wait_for_timeout(500)
    assert page.get_by_text(error).count() == 1, "it is told once"
    assert page.is_enabled("#sadtalker-generate"), "the visitor can try again"


def test_a_file_that_is_no_picture_is_a_sentence(page: sync_api.Page, tmp_path: Path, voice_file: Path):
    (tmp_path / "letter.png").write_text("Dear picture,")
    page.set_input_files("#sadtalker-portrait input[type=file]", tmp_path / "letter.png")
    drop(page, voice=voice_file)
    page.click("#sadtalker-generate")
    page.wait_for_selector(".job-error")
    assert "letter" in page.inner_text(".job-error")


def test_an_iphone_photo_and_the_sound_of_a_video_are_taken(
    page: sync_api.Page, outputs: Path, portrait_file: Path, voice_file: Path, tmp_path: Path
):
    import pillow_heif

    pillow_heif.register_heif_opener()
    Image.open(portrait_file).save(tmp_path / "IMG 照片.heic")
    choose(page, "#sadtalker-other-portrait", tmp_path / "IMG 照片.heic")
    page.wait_for_selector("#sadtalker-portrait img")
    page.wait_for_function("document.querySelector('#sadtalker-portrait img').naturalWidth > 100")
    drop(page, voice=voice_file)
    page.click("#sadtalker-generate")
    assert video_facts(page)["width"] == 512
    film = next(outputs.glob("talk/*.mp4"))
    page.reload()
    page.wait_for_selector("#sadtalker-video video")
    choose(page, "#sadtalker-other-portrait", film)
    page.wait_for_selector("#sadtalker-portrait img")
    choose(page, "#sadtalker-other-voice", film)
    page.wait_for_selector("#sadtalker-voice #waveform")
    before = page.get_attribute("#sadtalker-video video", "src")
    page.click("#sadtalker-generate")
    # A warm studio may be done before a preview is seen, so the new video itself is waited for.
    page.wait_for_function(OTHER_VIDEO, arg=before)
    assert video_facts(page)["width"] == 512


def test_an_example_is_one_click_on_a_phone_in_chinese(phone: sync_api.Page):
    assert phone.evaluate("document.documentElement.scrollWidth") <= 375, "nothing sticks out sideways"
    assert phone.inner_text("#sadtalker-generate") == "生成"
    phone.click("#sadtalker-examples button.gallery-item >> nth=0")
    assert video_facts(phone)["width"] == 512
    used = phone.inner_text("#sadtalker-used")
    for row in (r"引擎\s+builtin", r"取景方式\s+头部（crop）", r"头部不动\s+否", r"表情幅度\s+1\s", r"每秒帧数\s+25\s"):
        assert re.search(row, used), (row, used)
    before = phone.get_attribute("#sadtalker-video video", "src")
    phone.click("#sadtalker-generate")
    phone.wait_for_function(OTHER_VIDEO, arg=before)
    assert phone.evaluate("document.documentElement.scrollWidth") <= 375


def test_it_works_by_keyboard(page: sync_api.Page):
    """Every control is reached by Tab, in order, and Enter presses the button that has the focus."""
    seen = []
    for _ in range(60):
        page.keyboard.press("Tab")
        seen.append(page.evaluate("(document.activeElement.closest('[id^=sadtalker-], [id^=field-]') || {}).id"))
        if seen[-1] == "sadtalker-generate":
            break
    options = ("field-sadtalker-preprocess", "field-sadtalker-still")
    expected = ["sadtalker-portrait", "sadtalker-voice", *options, "sadtalker-generate"]
    order = [seen.index(name) for name in expected]
    assert order == sorted(order)
    page.keyboard.press("Enter")
    sentence(page, "Choose a portrait first")


def test_what_is_wrong_is_said_at_the_top_of_the_page(browser: sync_api.Browser, tmp_path: Path):
    """A broken extension, and a public link that could not be made: both in words, and the page works."""
    extensions, port = tmp_path / "extensions", free_port()
    write_extension(extensions, "broken", 'jobs = "broken.jobs:KINDS"\n', jobs="raise RuntimeError('at import')")
    command = start_program(extensions, "--port", str(port), "--share", "--share-open", "--language", "zh")
    command[2] = OFFLINE + command[2]
    with serving(command, port, tmp_path / "temp") as server:
        server.wait_for("没有公开链接")
        visitor = browser.new_page()
        visitor.goto(server.url)
        visitor.wait_for_selector("#notices p")
        notices = visitor.inner_text("#notices")
        assert "broken" in notices and "at import" in notices and "没有公开链接" in notices
        visitor.get_by_role("tab", name="系统").click()
        visitor.get_by_text("未加载").wait_for()
        visitor.close()


def test_the_system_tab_tells_what_is_installed(page: sync_api.Page):
    page.get_by_role("tab", name="System").click()
    report = page.inner_text("#system-report")
    assert "SadTalker" in report and "loaded" in report and "gradio" in report
    assert str(PROJECT / "models") in report


A1111 = (
    "a woman with <b>red</b> hair\nNegative prompt: hat\n"
    "Steps: 24, Sampler: Euler a, Schedule type: Karras, CFG scale: 6.5, Seed: 4242, Size: 512x768, Version: v1.10.1"
)


def with_infotext(picture: Path, path: Path) -> Path:
    path.write_bytes(infotext.embed(Image.open(picture).convert("RGB"), A1111, path.suffix[1:]))
    return path


def test_png_info_shows_what_a_picture_was_made_with_and_fills_the_form(
    page: sync_api.Page, portrait_file: Path, tmp_path: Path
):
    page.get_by_role("tab", name="PNG info").click()
    page.wait_for_selector("#pnginfo-facts .hint")
    page.set_input_files("#pnginfo-picture input[type=file]", with_infotext(portrait_file, tmp_path / "red.png"))
    page.wait_for_selector("#pnginfo-facts table")
    facts = page.inner_text("#pnginfo-facts")
    assert "a woman with <b>red</b> hair" in facts and re.search(r"Sampler\s+Euler a", facts)
    assert page.input_value("#pnginfo-text textarea") == A1111
    page.click("#pnginfo-use")
    page.wait_for_selector("#field-txt2img-prompt textarea")
    page.wait_for_function("document.querySelector('#field-txt2img-prompt textarea').value")
    assert page.input_value("#field-txt2img-prompt textarea") == "a woman with <b>red</b> hair"
    assert page.input_value("#field-txt2img-seed input, #field-txt2img-seed textarea") == "4242"


def test_a_picture_is_sent_on_from_png_info_on_a_phone_in_chinese(phone: sync_api.Page, portrait_file: Path, tmp_path: Path):
    phone.get_by_role("tab", name="图片信息").click()
    phone.set_input_files("#pnginfo-picture input[type=file]", with_infotext(portrait_file, tmp_path / "red.jpg"))
    phone.wait_for_selector("#pnginfo-facts table")
    assert "正向提示词" in phone.inner_text("#pnginfo-facts")
    assert phone.evaluate("document.documentElement.scrollWidth") <= 375
    assert phone.inner_text("#send-pnginfo-send_sadtalker") == "发送到 SadTalker"
    phone.click("#send-pnginfo-send_sadtalker")
    phone.wait_for_selector("#sadtalker-portrait img")
    assert phone.locator("[role=tab][aria-selected=true]").inner_text() == "SadTalker"
    plain = tmp_path / "plain.png"
    Image.open(portrait_file).save(plain)
    phone.get_by_role("tab", name="图片信息").click()
    phone.click("#pnginfo-picture button[aria-label]")  # the cross
    phone.wait_for_selector("#send-pnginfo-send_sadtalker", state="hidden")
    phone.set_input_files("#pnginfo-picture input[type=file]", plain)
    phone.get_by_text("这张图片中没有参数").wait_for()
    assert not phone.is_visible("#pnginfo-use")


LOOKED_AT = "document.querySelector('#history-picture textarea, #history-picture input').value"

PAINTER_JOBS = """
from PIL import Image
from pydantic import BaseModel, Field
from webui.imaging import infotext
from webui.plugin_api import JobKind, JobResult

class Paint(BaseModel):
    prompt: str = Field("", description="What it is called.")

def paint(ctx, request):
    made = []
    for number, colour in enumerate(("red", "blue")):
        ctx.progress(number / 2, "painting")
        with ctx.output(".png", f"{request.prompt} {colour}") as output:
            text = infotext.write({"Steps": 1, "Seed": number, "Size": "96x96"}, f"{request.prompt} {colour}")
            output.path.write_bytes(infotext.embed(Image.new("RGB", (96, 96), colour), text))
        made.append(output.artifact)
    return JobResult(tuple(made), {})

KINDS = (JobKind("paint", "Painting", Paint, paint, suffix=".png"),)
"""

PAINTER_TAB = """
import gradio as gr
from painter.jobs import Paint

def build(studio):
    prompt = gr.Textbox(label="Prompt", lines=3, elem_id="painter-prompt")
    room = gr.Column()
    shown, chosen = gr.Image(type="filepath", elem_id="painter-shown"), gr.Textbox(visible="hidden")
    studio.send_row(chosen)
    taken = gr.Textbox(elem_id="painter-taken")
    studio.accept_picture("send_painter", [taken], lambda artifact, visitor: {taken: artifact.name})

    def show(job, visitor):
        first = job.result.artifacts[0] if job.result else None
        return {shown: first and str(studio.hand_out(first)), chosen: first.id if first else ""}

    with room:
        panel = studio.run_panel("painter", outputs=[shown, chosen], show=show)
    panel.connect([prompt], lambda values, visitor: ("paint", {"prompt": values[prompt]}), kinds=["paint"])
"""


def test_an_extensions_tab_paints_and_its_pictures_go_everywhere(browser: sync_api.Browser, tmp_path: Path):
    """Ctrl+Enter paints; a picture goes to PNG info and back; another one goes from the History; a reload keeps the tab."""
    extensions, port = tmp_path / "extensions", free_port()
    manifest = 'jobs = "painter.jobs:KINDS"\n[tabs]\npainter = "painter.tab:build"\n'
    folder = write_extension(extensions, "painter", manifest, jobs=PAINTER_JOBS, tab=PAINTER_TAB)
    (folder / "locales").mkdir()
    (folder / "locales" / "en.json").write_text('{"tab_painter": "Painter\'s", "send_painter": "To the painter"}')
    command = start_program(extensions, "--port", str(port), "--outputs-dir", str(tmp_path / "outputs"))
    with serving(command, port, tmp_path / "temp") as server:
        page = somebody(browser).new_page()
        page.goto(server.url)
        page.get_by_role("tab", name="Painter's").click()
        page.fill("#painter-prompt textarea", "my")
        page.keyboard.press("Control+Enter")
        page.wait_for_selector("#painter-shown img")
        page.click("#send-painter-send_pnginfo")
        page.get_by_role("cell", name="my red").wait_for()
        page.click("#send-pnginfo-send_painter")
        page.wait_for_function("document.querySelector('#painter-taken textarea, #painter-taken input').value.includes('my red')")
        page.reload()
        page.wait_for_selector("#painter-shown img")

        open_history(page)
        page.click(".tile")
        page.wait_for_selector("#history-pictures img")
        first = page.evaluate(LOOKED_AT)
        page.locator("#history-pictures .thumbnail-item").nth(1).click()
        page.wait_for_function(f"{LOOKED_AT} != '{first}'")
        page.click("#send-history-send_pnginfo")
        page.get_by_role("cell", name="my blue").wait_for()
        page.context.close()
