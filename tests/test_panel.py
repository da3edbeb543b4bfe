"""What tabs share: the panel that starts and watches a job, pictures that go from tab to tab, and PNG info, without a browser."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import gradio as gr
import pytest
from PIL import Image

from tests.fakes import COUNT, FAIL, CountRequest, holding
from tests.servers import PROJECT
from webui.artifacts import Artifacts
from webui.builtin.tabs import pnginfo
from webui.errors import InvalidRequest
from webui.imaging import infotext
from webui.jobs.service import JobService
from webui.jobs.types import Job, JobKind, JobState
from webui.plugin_loader import Manifest, Plugin, Plugins
from webui.settings import Settings
from webui.ui import shell
from webui.ui.panel import Panel, in_the_making
from webui.ui.reuse import Opener
from webui.ui.studio import TabStudio
from webui.ui.texts import Texts

_sessions = itertools.count()

A1111 = (
    "a <b>tin</b> lighthouse\nNegative prompt: blurry\n"
    "Steps: 24, Sampler: Euler a, Seed: 7, Size: 512x768, Model: v1-5-pruned-emaonly, Version: v1.10.1"
)


def visitor(language: str = "en-US") -> Any:
    return SimpleNamespace(headers={"accept-language": language}, session_hash=str(next(_sessions)))


def studio_with(folder: Path, *kinds: JobKind, **words: str) -> TabStudio:
    artifacts, settings, texts = Artifacts(folder / "outputs"), Settings(outputs_dir=folder / "outputs"), Texts(None)
    (folder / "handed").mkdir()
    (folder / "en.json").write_text(json.dumps(words))
    texts.add("counter", folder)
    service = JobService(kinds, artifacts, settings, alone=True)
    page, handed = gr.Blocks(analytics_enabled=False), folder / "handed"
    return TabStudio(service, artifacts, settings, page, texts, "counter", handed, "counter")


@pytest.fixture
def said(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    notes: list[str] = []
    for note in ("Info", "Warning"):
        monkeypatch.setattr(gr, note, lambda message, **_: notes.append(message))
    return notes


@pytest.fixture
def studio(tmp_path: Path) -> Iterator[TabStudio]:
    made = studio_with(tmp_path, COUNT, FAIL, counting_busy="You are counting.")
    yield made
    made.service.close()


def panel(studio: TabStudio, **how: Any) -> Panel:
    with studio.page:
        result = gr.Textbox()
        return studio.run_panel("counting", outputs=[result], show=lambda job, _visitor: {result: job.state.value}, **how)


def count(_values: Any, _visitor: Any) -> tuple[str, dict[str, Any]]:
    return "count", {"steps": 3}


def test_its_widgets_have_ids_and_words_of_their_own_or_the_studios(tmp_path: Path):
    studio = studio_with(tmp_path, COUNT, counting_generate="Count!")
    plain = panel(studio)
    widgets = (plain.generate, plain.cancel, plain.skip, plain.card, plain.job_id)
    names = ("generate", "cancel", "skip", "card", "job")
    assert [widget.elem_id for widget in widgets] == [f"counting-{name}" for name in names]
    assert (plain.skip.visible, panel(studio, skip=True).skip.visible) == (False, True)
    assert "counter_counting_generate" in str(plain.generate.value) and "studio_panel_cancel" in str(plain.cancel.value)
    studio.service.close()


def test_a_run_shows_its_job_until_it_is_done(studio: TabStudio):
    counting = panel(studio)
    seen = list(counting.run({}, count, visitor()))
    assert all(set(updates) == set(counting.outputs) for updates in seen)
    (result,) = counting.results
    assert seen[-1][result] == "done" and seen[-1][counting.generate]["interactive"]
    assert seen[0][counting.job_id] == seen[-1][counting.job_id] and not seen[-1][counting.cancel]["interactive"]


def test_what_cannot_be_asked_is_a_sentence_and_the_page_is_free_again(studio: TabStudio):
    counting, me = panel(studio), visitor()

    def refuse(_values: Any, _visitor: Any) -> tuple[str, dict[str, Any]]:
        raise InvalidRequest("Choose a number first.")

    with pytest.raises(gr.Error, match="Choose a number"):
        next(counting.run({}, refuse, me))
    assert list(counting.run({}, count, me))[-1][counting.results[0]] == "done"


def test_one_page_makes_one_thing_at_a_time_and_others_are_not_kept_from_it(tmp_path: Path, said: list[str]):
    hold, started, release = holding()
    studio = studio_with(tmp_path, hold, COUNT, counting_busy="You are counting.")
    counting, me = panel(studio), visitor()
    first = counting.run({}, lambda _values, _visitor: ("hold", {}), me)
    running = next(first)
    assert started.wait(20)

    def never(_values: Any, _visitor: Any) -> tuple[str, dict[str, Any]]:
        raise AssertionError("asked while busy")

    (refused,) = counting.run({}, never, me)
    assert list(refused) == [counting.card] and said == ["You are counting."]
    other = counting.run({}, count, visitor())
    assert next(other)[counting.job_id] != running[counting.job_id]
    other.close()
    release.set()
    assert list(first)[-1][counting.results[0]] == "done"
    studio.service.close()


def test_a_new_page_looks_on_and_makes_way_when_the_visitor_begins(tmp_path: Path):
    hold, started, release = holding()
    studio = studio_with(tmp_path, hold, COUNT)
    counting, me = panel(studio), visitor()
    job = studio.service.submit("hold", {})
    assert started.wait(20)
    looking = counting.resume("", ["hold"], me)
    shown = next(looking)
    assert shown[counting.job_id] == job.id and shown[counting.generate]["interactive"]
    mine = counting.run({}, count, me)
    assert next(mine)[counting.job_id] != job.id
    release.set()
    assert list(looking) == [], "it is not shown any more"
    assert list(mine)[-1][counting.results[0]] == "done"
    studio.service.close()


def test_a_page_that_is_loaded_anew_finds_its_job_and_an_empty_one_a_hint(studio: TabStudio):
    counting = panel(studio)
    done = studio.service.wait(studio.service.submit("count", {}).id, 20)
    assert list(counting.resume(done.id, ["count"], visitor()))[-1][counting.results[0]] == "done"
    for unknown in ("", "0" * 32):
        (updates,) = counting.resume(unknown, ["count"], visitor("zh-CN"))
        assert list(updates) == [counting.card] and 'class="hint"' in updates[counting.card] and "生成" in updates[counting.card]


def test_a_stopped_job_is_said_to_be_stopped(studio: TabStudio, said: list[str]):
    counting, me = panel(studio), visitor()
    flow = counting.run({}, lambda _values, _visitor: ("count", {"steps": 1000, "pause": 0.05}), me)
    job_id = next(flow)[counting.job_id]
    counting.stop(job_id, me)
    assert list(flow)[-1][counting.results[0]] == "cancelled" and said[0].startswith("Stopped")


def test_a_kind_that_makes_one_thing_has_nothing_to_skip(studio: TabStudio):
    counting, me = panel(studio, skip=True), visitor("zh-CN")
    job = studio.service.wait(studio.service.submit("count", {}).id, 20)
    with pytest.raises(gr.Error):
        counting.skip_one(job.id, me)


def test_a_new_page_shows_what_is_being_made_and_nothing_that_has_ended(studio: TabStudio):
    states = [
        ("old", "talk", JobState.DONE), ("run", "talk", JobState.RUNNING), ("wait", "talk", JobState.QUEUED),
        ("next", "talk", JobState.QUEUED), ("other", "count", JobState.RUNNING), ("new", "talk", JobState.FAILED),
    ]  # fmt: skip
    jobs = [Job(name, kind, CountRequest(), state, created=at) for at, (name, kind, state) in enumerate(states)]

    def shown(*without: str, kinds: tuple[str, ...] = ("talk",)) -> str | None:
        service = SimpleNamespace(jobs=lambda: tuple(job for job in jobs if job.id not in without))
        return in_the_making(replace(studio, service=service), kinds)

    assert [shown(), shown("run"), shown("run", "next"), shown("run", "wait", "next")] == ["run", "next", "wait", None]
    assert shown(kinds=("talk", "count")) == "other"


# Pictures that go from tab to tab.


@pytest.fixture
def picture(studio: TabStudio, tmp_path: Path) -> str:
    Image.new("RGB", (64, 64), "red").save(tmp_path / "red.png")
    return studio.artifacts.upload(tmp_path / "red.png").id


def connected(studio: TabStudio) -> tuple[gr.Blocks, Opener]:
    """Tabs `one` and `two` that take pictures, and `three` that only sends."""
    with studio.page as page, gr.Tabs() as tabs:
        for tab in ("one", "two", "three"):
            inner = replace(studio, tab=tab)
            with gr.Tab(tab, id=tab):
                box = gr.Textbox(elem_id=f"{tab}-box")
                if tab != "three":
                    inner.accept_picture(f"send_{tab}", [box], lambda artifact, _visitor, box=box: {box: artifact.name})
                inner.send_row(gr.Textbox(visible="hidden"))
        opener = Opener(tabs, gr.Timer(active=False))
        studio.sending.connect(studio, opener)
    return page, opener


def buttons(page: gr.Blocks) -> dict[str, gr.Button]:
    return {str(block.elem_id): block for block in page.blocks.values() if isinstance(block, gr.Button)}


def press(page: gr.Blocks, button: gr.Button, value: str) -> Any:
    (event,) = [event for event in page.fns.values() if event.targets == [(button._id, "click")]]
    return event.fn(value, visitor())


def test_a_row_has_a_button_for_every_place_of_the_other_tabs(studio: TabStudio):
    page, _ = connected(studio)
    assert set(buttons(page)) == {"send-one-send_two", "send-two-send_one", "send-three-send_one", "send-three-send_two"}


def test_a_button_fills_its_place_and_opens_its_tab(studio: TabStudio, picture: str):
    page, opener = connected(studio)
    updates = press(page, buttons(page)["send-three-send_two"], picture)
    filled = {block.elem_id: value for block, value in updates.items() if isinstance(block, gr.Textbox)}
    assert filled == {"two-box": "red.png"}
    assert updates[opener.tabs].selected == "two" and updates[opener.timer].active is False


def test_a_picture_that_is_gone_is_a_sentence(studio: TabStudio, picture: str):
    page, _ = connected(studio)
    studio.artifacts.get(picture).path.unlink()
    with pytest.raises(gr.Error, match="no file"):
        press(page, buttons(page)["send-one-send_two"], picture)


def test_only_the_tab_that_is_broken_is_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    seen: list[TabStudio] = []

    def build(studio: TabStudio) -> None:
        seen.append(studio)
        box = gr.Textbox(visible="hidden")
        studio.offer_form(studio.tab, [], lambda _request, _visitor: {}, title="counting")
        studio.accept_picture(f"send_{studio.tab}", [], lambda _artifact, _visitor: {})
        studio.send_row(box)
        studio.drop_zone()
        if studio.tab == "broken":
            raise RuntimeError("half built")

    monkeypatch.setattr(shell, "imported", lambda _name: build)
    manifest = Manifest(id="pair", title="Pair", api=1, tabs={"broken": "a:b", "whole": "a:b"})
    plugins, artifacts, settings = Plugins([Plugin(tmp_path, manifest)]), Artifacts(tmp_path), Settings(outputs_dir=tmp_path)
    service = JobService([COUNT], artifacts, settings, alone=True)
    page = shell.build(service, artifacts, settings, plugins, Texts(None), [], tmp_path)
    service.close()
    shown = {tab.id: tab.visible for tab in page.blocks.values() if isinstance(tab, gr.Tab)}
    assert shown == {"broken": False, "whole": True, "history": True, "system": True}
    assert [(failure.name, failure.tab) for failure in plugins.failures] == [("pair", "broken")]
    collect = next(event.fn for event in page.fns.values() if event.name == "collect")
    assert "The tab “broken” of the extension “pair” could not be shown. RuntimeError: half built" in collect(visitor())["value"]
    assert {offer.tab for offer in (*seen[0].forms.offered, *seen[0].sending.places)} == {"whole"}
    assert set(buttons(page)) & {"send-history-send_whole", "send-whole-send_broken"} == {"send-history-send_whole"}


# PNG info.


@pytest.fixture
def info(studio: TabStudio) -> dict[str, Any]:
    """The tab's widgets by their ids, and what happens when a picture is there: look."""
    texts = studio.texts
    texts.add("builtin", PROJECT / "webui" / "builtin" / "locales")
    with studio.page as page:
        pnginfo.build(replace(studio, owner="builtin", tab="pnginfo"))
    widgets = {str(block.elem_id): block for block in page.blocks.values()}
    return widgets | {"look": next(event.fn for event in page.fns.values() if event.name == "look")}


def shown(info: dict[str, Any], path: Path | None, language: str = "en-US") -> dict[str, Any]:
    updates = info["look"](path and str(path), visitor(language))
    names = ("facts", "text", "use", "artifact")
    return {name: updates[info[f"pnginfo-{name}"]] for name in names}


@pytest.mark.parametrize("kind", ["png", "jpg", "webp"])
def test_what_a_picture_was_made_with_is_shown_whatever_its_format(
    studio: TabStudio, info: dict[str, Any], tmp_path: Path, kind: infotext.Kind
):
    path = tmp_path / f"lighthouse.{kind}"
    path.write_bytes(infotext.embed(Image.new("RGB", (64, 64)), A1111, kind))
    seen = shown(info, path)
    for words in ("<th>Prompt</th><td>a &lt;b&gt;tin&lt;/b&gt; lighthouse</td>", "<th>Negative prompt</th><td>blurry</td>",
                  "<th>Sampler</th><td>Euler a</td>"):  # fmt: skip
        assert words in seen["facts"], words
    assert seen["text"]["value"] == A1111 and seen["text"]["visible"] and seen["use"]["visible"]
    assert studio.artifacts.get(seen["artifact"]).path.read_bytes() == path.read_bytes(), "the file itself can be sent on"
    assert "反向提示词" in shown(info, path, "zh-CN")["facts"]


def test_a_picture_without_settings_says_so_and_can_still_be_sent(studio: TabStudio, info: dict[str, Any], tmp_path: Path):
    Image.new("RGB", (64, 64)).save(tmp_path / "plain.jpg")
    seen = shown(info, tmp_path / "plain.jpg")
    assert "No settings are in this picture" in seen["facts"] and seen["artifact"]
    assert not seen["text"]["visible"] and not seen["use"]["visible"]


def test_a_comment_that_is_no_infotext_is_shown_and_offers_nothing(info: dict[str, Any], tmp_path: Path):
    path = tmp_path / "holiday.png"
    path.write_bytes(infotext.embed(Image.new("RGB", (64, 64)), "The sea, 2019"))
    seen = shown(info, path)
    assert "The sea, 2019" in seen["facts"] and not seen["use"]["visible"]


def test_without_a_picture_there_is_a_hint(info: dict[str, Any]):
    seen = shown(info, None)
    assert "Drop a picture" in seen["facts"] and seen["artifact"] == "" and not seen["use"]["visible"]
