"""The History tab: what it lists, what a job's details say, and how settings come back into the form they came from."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import gradio as gr
import pytest

from tests.fakes import COUNT, FAIL, CountRequest, holding
from webui.artifacts import Artifacts
from webui.errors import InvalidRequest
from webui.jobs.service import JobService
from webui.jobs.types import Job, JobKind, JobState, UnknownRequest, Usage
from webui.plugin_loader import Manifest, Plugin, Plugins
from webui.settings import Settings
from webui.ui import history, shell, tiles, watch
from webui.ui.describe import Describer
from webui.ui.forms import Forms, settings_in, settings_of, usable
from webui.ui.server import QUEUE_PAUSE, rest_when_idle
from webui.ui.studio import TabStudio
from webui.ui.texts import STUDIO, Texts

ENGLISH, CHINESE = (SimpleNamespace(headers={"accept-language": name}) for name in ("en-US", "zh-CN"))
EVIL = '<img src=x onerror="alert(1)">'
SIGN = "made by counting: "


def recall(path: Path) -> dict[str, Any] | None:
    """The fake kind's way of writing its settings into a file."""
    text = path.read_text(errors="replace")
    return {"steps": int(text.removeprefix(SIGN))} if text.startswith(SIGN) else None


COUNTING = replace(COUNT, recall=recall)


@dataclass
class Desk:
    """A page with a form for COUNT and the History tab, without a browser."""

    service: JobService
    artifacts: Artifacts
    events: history.Events
    said: list[str] = field(default_factory=list)

    @property
    def widgets(self) -> history.Widgets:
        return self.events.widgets

    def asked(self, **values: str) -> dict[Any, str]:
        return {widget: "" for widget in self.widgets.asked} | {getattr(self.widgets, name): v for name, v in values.items()}

    def run(self, **request: Any) -> Job:
        job = self.service.wait(self.service.submit("count", request).id, 20)
        assert job.state is JobState.DONE
        return job

    def upload(self, folder: Path, text: str = "before\n") -> str:
        (folder / "notes.txt").write_text(text)
        return self.artifacts.upload(folder / "notes.txt").id

    def tiles(self, visitor: Any = ENGLISH, **asked: str) -> str:
        return self.events.visit(self.asked(**asked), visitor)[self.widgets.grid]


@pytest.fixture
def desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Desk]:
    yield from furnished(tmp_path, monkeypatch, COUNTING, FAIL)


def furnished(folder: Path, monkeypatch: pytest.MonkeyPatch, *kinds: JobKind) -> Iterator[Desk]:
    artifacts, settings = Artifacts(folder / "outputs"), Settings(outputs_dir=folder / "outputs")
    service, texts = JobService(kinds, artifacts, settings, alone=True), Texts(None)
    (folder / "handed").mkdir()
    words = {
        "counting": "Counting things", "field_source": "Text before", "field_steps": "Numbers",
        "value_style_fancy": "With ornaments", "used_seconds_total": "in all",
    }  # fmt: skip
    (folder / "en.json").write_text(json.dumps(words))
    (folder / "sentences.en.json").write_text('{"This is (?P<how>.+)": "THIS IS LOUD.", "notes.txt": "TRANSLATED"}')
    texts.add("counter", folder)
    said: list[str] = []
    for note in ("Info", "Warning"):
        monkeypatch.setattr(gr, note, lambda message, **_: said.append(message))
    with gr.Blocks(analytics_enabled=False) as page:
        studio = TabStudio(service, artifacts, settings, page, texts, STUDIO, folder / "handed", Forms())
        with gr.Tabs() as tabs:
            with gr.Tab("counter", id="counter") as other:
                offer(replace(studio, owner="counter"))
            with gr.Tab("history") as tab:
                events = history.build(studio, tabs, tab, [other])
    yield Desk(service, artifacts, events, said)
    service.close()


def offer(studio: TabStudio) -> None:
    names = ("source", "steps", "style", "seed")
    boxes = {name: gr.Textbox(elem_id=name) for name in names}
    studio.offer_form(
        "count",
        list(boxes.values()),
        lambda request, _visitor: {box: request.get(name) for name, box in boxes.items()},
        title="counting",
    )


def filled(updates: dict[Any, Any]) -> dict[str, Any]:
    return {box.elem_id: value for box, value in updates.items() if isinstance(box, gr.Textbox)}


def test_every_job_is_a_tile_newest_first(desk: Desk):
    first, second = desk.run(seed=11), desk.run(seed=22)
    failed = desk.service.wait(desk.service.submit("fail", {"how": "model"}).id, 20)
    html = desk.tiles()
    places = [html.index(job.id) for job in (failed, second, first)]
    assert places == sorted(places)
    for words in ("Seed 11", "Seed 22", "failed", "done", "Counting things", "Failing", ">numbers<"):
        assert words in html, words
    assert "失败" in desk.tiles(CHINESE)


def test_the_list_is_searched_and_filtered(desk: Desk):
    plain, fancy = desk.run(style="plain", seed=1), desk.run(style="fancy", seed=2)
    failed = desk.service.wait(desk.service.submit("fail", {}).id, 20)

    def shown(**asked: str) -> set[str]:
        return {job.id for job in (plain, fancy, failed) if job.id in desk.tiles(**asked)}

    assert shown() == {plain.id, fancy.id, failed.id}
    assert shown(search="FANCY") == {fancy.id}
    assert shown(kind="fail") == {failed.id}
    assert shown(state="done", kind="count") == {plain.id, fancy.id}
    assert shown(search="fancy", state="failed") == set()
    assert "Nothing fits" in desk.tiles(search="no such words")


def test_a_long_history_comes_in_pages(desk: Desk, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(history, "PER_PAGE", 2)
    jobs = [desk.run(steps=1) for _ in range(5)]

    def shown(page: str) -> list[int]:
        html = desk.tiles(page=page)
        return [number for number, job in enumerate(jobs) if job.id in html]

    assert [shown(page) for page in ("", "1", "2")] == [[3, 4], [1, 2], [0]]
    assert shown("7") == [0], "a page that is gone shows the last one"
    updates = desk.events.older(desk.asked(page="1"), ENGLISH)
    assert updates[desk.widgets.page] == "2" and updates[desk.widgets.older]["interactive"] is False
    assert "3" in updates[desk.widgets.place] and "5" in updates[desk.widgets.place]


def test_unfinished_jobs_come_first_and_the_timer_runs_only_then(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    hold, started, release = holding()
    for desk in furnished(tmp_path, monkeypatch, hold, COUNTING):
        running = desk.service.submit("hold", {})
        assert started.wait(20)
        older, newer = (desk.service.submit("count", {"steps": 1}) for _ in range(2))
        updates = desk.events.visit(desk.asked(), ENGLISH)
        rows = updates[desk.widgets.runs]["value"]
        assert rows.index(running.id) < rows.index(older.id) < rows.index(newer.id)
        assert rows.count('data-act="next"') == 1 and rows.count('data-act="cancel"') == 3
        assert updates[desk.widgets.timer].active is True
        assert running.id not in updates[desk.widgets.grid]

        asked = desk.asked(in_sight=updates[desk.widgets.in_sight])
        assert set(desk.events.tick(asked, ENGLISH)) == {desk.widgets.runs}, "no news, no list"
        pressed = desk.events.press(asked, SimpleNamespace(act="next", job=newer.id), ENGLISH)
        rows = pressed[desk.widgets.runs]["value"]
        assert rows.index(newer.id) < rows.index(older.id)
        desk.events.press(asked, SimpleNamespace(act="cancel", job=older.id), ENGLISH)
        assert desk.service.get(older.id).state is JobState.CANCELLED
        release.set()
        desk.service.wait(newer.id, 20)
        updates = desk.events.tick(asked, ENGLISH)
        assert newer.id in updates[desk.widgets.grid] and updates[desk.widgets.timer].active is False


def test_details_say_all_that_is_known(desk: Desk, tmp_path: Path):
    job = desk.run(source=desk.upload(tmp_path), steps=2, loud=True)
    updates = desk.events.press(desk.asked(), SimpleNamespace(act="open", job=job.id), ENGLISH)
    facts = updates[desk.widgets.facts]
    for words in ("notes.txt", "Text before", "Numbers", str(job.seed), "THIS IS LOUD.", "in all 0.1", "plain", "yes"):
        assert words in facts, words
    assert facts.count(str(job.seed)) == 1 and "TRANSLATED" not in facts
    (file,) = updates[desk.widgets.files]["value"]
    assert Path(file).read_text().startswith("before")
    assert updates[desk.widgets.delete]["visible"] and not updates[desk.widgets.cancel]["visible"]


def test_values_are_shown_in_the_tabs_words_and_visitors_words_as_they_are(desk: Desk, tmp_path: Path):
    job = desk.run(style="fancy")
    facts = desk.events.press(desk.asked(), SimpleNamespace(act="open", job=job.id), ENGLISH)[desk.widgets.facts]
    assert "With ornaments" in facts and "fancy" not in facts
    spoken = Job("x", "count", UnknownRequest(mood="This is mine"), JobState.DONE, seed=5)
    assert Describer(desk.events.studio, ENGLISH).asked(spoken) == {"mood": "This is mine"}


def test_what_is_over_quickly_is_told_in_tenths_of_a_second():
    assert [watch.took(seconds) for seconds in (0.04, 0.34, 9.96, 10.2, 61)] == ["0.0 s", "0.3 s", "10.0 s", "0:10", "1:01"]


def test_unfinished_jobs_take_no_place_among_the_results(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(history, "PER_PAGE", 2)
    hold, started, release = holding()
    for desk in furnished(tmp_path, monkeypatch, hold, COUNTING):
        done = [desk.run(steps=1) for _ in range(3)]
        desk.service.submit("hold", {})
        assert started.wait(20)
        waiting = [desk.service.submit("count", {"steps": 1}) for _ in range(5)]
        updates = desk.events.visit(desk.asked(), ENGLISH)
        assert [job.id in updates[desk.widgets.grid] for job in done] == [False, True, True]
        assert all(job.id not in updates[desk.widgets.grid] for job in waiting)
        assert "Page 1 of 2 · 3 in all" in updates[desk.widgets.place]
        for job in done:
            desk.service.delete(job.id)
        assert "Nothing is finished yet" in desk.tiles() and "Nothing fits" in desk.tiles(search="no such words")
        release.set()


def test_an_empty_history_says_so(desk: Desk):
    assert "Nothing here yet" in desk.tiles() and "Nothing fits" in desk.tiles(state="failed")
    assert "stays here for a day" in desk.tiles(state="deleted")


def test_all_that_was_deleted_within_the_day_is_listed_and_can_be_brought_back(desk: Desk):
    """Also after the quick undo is gone: the tab was left, or the next one was deleted."""
    first, second, kept = desk.run(), desk.run(), desk.run()
    for job in (first, second):
        desk.events.delete(desk.asked(opened=job.id), ENGLISH)
    tiles_ = desk.tiles(state="deleted")
    assert first.id in tiles_ and second.id in tiles_ and kept.id not in tiles_ and ">deleted<" in tiles_ and "<img" in tiles_
    deleted = desk.asked(state="deleted")
    opened = desk.events.press(deleted, SimpleNamespace(act="open", job=first.id), ENGLISH)
    shown = {name: opened[getattr(desk.widgets, name)]["visible"] for name in ("restore", "delete", "again", "cancel", "card")}
    assert shown == {"restore": True, "delete": False, "again": False, "cancel": False, "card": True}
    assert "less than a day ago" in opened[desk.widgets.card]["value"] and "<img" in opened[desk.widgets.card]["value"]
    updates = desk.events.restore(deleted | {desk.widgets.opened: first.id, desk.widgets.deleted: second.id}, ENGLISH)
    assert updates[desk.widgets.opened] == first.id and updates[desk.widgets.files]["value"]
    assert updates[desk.widgets.delete]["visible"] and not updates[desk.widgets.restore]["visible"]
    assert desk.widgets.undo_box not in updates, "the other one can still be undone"
    assert first.id in desk.tiles() and first.id not in desk.tiles(state="deleted")
    updates = desk.events.restore(deleted | {desk.widgets.opened: second.id, desk.widgets.deleted: second.id}, ENGLISH)
    assert updates[desk.widgets.undo_box]["visible"] is False and updates[desk.widgets.deleted] == ""


def test_what_is_deleted_can_be_brought_back(desk: Desk):
    job = desk.run()
    updates = desk.events.delete(desk.asked(opened=job.id), ENGLISH)
    assert job.id not in updates[desk.widgets.grid]
    assert updates[desk.widgets.undo_box]["visible"] and "numbers" in updates[desk.widgets.undo_text]
    updates = desk.events.undo(desk.asked(deleted=updates[desk.widgets.deleted]), ENGLISH)
    assert job.id in updates[desk.widgets.grid] and updates[desk.widgets.undo_box]["visible"] is False
    assert desk.service.get(job.id).result.artifacts[0].path.is_file()


def test_settings_go_back_into_their_form_with_the_seed_that_was_drawn(desk: Desk, tmp_path: Path):
    source = desk.upload(tmp_path)
    job = desk.run(source=source, steps=7, style="fancy")
    updates = desk.events.reuse.again(job.id, ENGLISH)
    assert filled(updates) == {"source": source, "steps": 7, "style": "fancy", "seed": job.seed}
    assert updates[desk.events.reuse.tabs].selected == "counter"
    assert len(desk.said) == 1


def test_an_upload_that_is_gone_is_named_and_the_rest_is_filled_in(desk: Desk, tmp_path: Path):
    source = desk.upload(tmp_path)
    job = desk.run(source=source, steps=7)
    desk.artifacts.get(source).path.unlink()
    expected = {"source": None, "steps": 7, "style": "plain", "seed": 0}
    assert filled(desk.events.reuse.again(job.id, ENGLISH)) | {"seed": 0} == expected
    assert "Text before" in desk.said[-1]


def test_a_dropped_file_restores_its_settings_and_the_uploads_of_its_job(desk: Desk, tmp_path: Path):
    source = desk.upload(tmp_path, text=f"{SIGN}5")
    job = desk.run(source=source, steps=1)
    made = tmp_path / job.result.artifacts[0].name
    made.write_text(f"{SIGN}9")
    assert settings_in(made, desk.service) == ("count", {"source": source, "steps": 9})
    zone = gr.File()
    updates = desk.events.reuse.restorer(zone)(str(made), ENGLISH)
    assert filled(updates)["steps"] == 9 and filled(updates)["source"] == source and updates[zone] is None
    stranger = tmp_path / "film-0123456789abcdef.txt"
    stranger.write_text(f"{SIGN}4")
    assert filled(desk.events.reuse.restorer(zone)(str(stranger), ENGLISH))["source"] is None, "its job is not in this history"


def test_notes_take_nothing_for_html(desk: Desk, tmp_path: Path):
    zone, name = gr.File(), "<img src=x>.txt"
    (tmp_path / name).write_text("sun")
    desk.events.reuse.restorer(zone)(str(tmp_path / name), ENGLISH)
    with pytest.raises(gr.Error) as error, desk.events.studio.guard(ENGLISH):
        raise InvalidRequest(f"There is no file {name}.")
    for said in (desk.said[0], error.value.message):
        assert "&lt;img src=x&gt;.txt" in said and "<" not in said


def test_errors_are_told_in_the_visitors_language_and_go_away_by_themselves(desk: Desk):
    unfinished = InvalidRequest("This job has not finished. Cancel it first.")
    for failure, told in ((unfinished, "尚未结束"), (RuntimeError("bug"), "请重试")):
        with pytest.raises(gr.Error) as error, desk.events.studio.guard(CHINESE):
            raise failure
        assert told in error.value.message and 10 <= error.value.duration <= 15


def test_a_foreign_file_is_told_so(desk: Desk, tmp_path: Path):
    (tmp_path / "holiday.txt").write_text("sun")
    zone = gr.File()
    assert desk.events.reuse.restorer(zone)(str(tmp_path / "holiday.txt"), ENGLISH) == {zone: None}
    assert "holiday.txt" in desk.said[0] and "not made here" in desk.said[0]


def test_settings_that_no_tab_takes_are_refused_in_words(desk: Desk):
    job = desk.service.wait(desk.service.submit("fail", {}).id, 20)
    with pytest.raises(gr.Error, match="No tab"):
        desk.events.reuse.again(job.id, ENGLISH)
    updates = desk.events.press(desk.asked(), SimpleNamespace(act="open", job=job.id), ENGLISH)
    assert updates[desk.widgets.again]["visible"] is False


def test_only_values_that_the_model_takes_reach_a_form(tmp_path: Path):
    artifacts = Artifacts(tmp_path)
    kept, left_out = usable(CountRequest, {"steps": 5000, "style": "fancy", "novelty": 1, "source": "0" * 32}, artifacts)
    assert left_out == ["source", "steps"]
    assert kept == CountRequest(style="fancy").model_dump()


def test_a_job_of_a_kind_that_is_gone_still_has_settings():
    job = Job("x", "gone", UnknownRequest(mood="good", seed=None), JobState.DONE, seed=5)
    assert settings_of(job) == {"mood": "good", "seed": 5}


def test_nothing_from_outside_reaches_the_page_as_html():
    words = Texts(None).table(STUDIO, None)
    done = tiles.Seen(Job(EVIL, EVIL, None, JobState.DONE), EVIL, EVIL)
    waiting = tiles.Seen(Job(EVIL, EVIL, None, JobState.QUEUED, stage=EVIL), EVIL, EVIL)
    pieces = [
        tiles.grid([done], words), tiles.rows([waiting, waiting], 20, words), tiles.heading(done, words), tiles.status(EVIL),
        tiles.section(EVIL, {EVIL: EVIL}, (EVIL,)), tiles.log(EVIL, [EVIL]), tiles.note(EVIL),
        tiles.grid([replace(done, deleted=True)], words),
    ]  # fmt: skip
    for piece in pieces:
        assert "<img src=x" not in piece and "&lt;img" in piece and 'onerror="' not in piece


def test_disk_use_is_said_with_the_rule():
    words = Texts(None).table(STUDIO, None)
    used = Usage(results=2_500_000_000, uploads=1_000_000, trash=0, free=9_000_000_000)
    assert all(size in tiles.usage(used, 0, words) for size in ("2.5 GB", "1.0 MB", "9.0 GB", "keep_days = 30"))
    assert "after 30 days" in tiles.usage(used, 30.0, words)


def test_a_tab_that_could_not_be_built_offers_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def build(studio: TabStudio) -> None:
        offer(studio)
        raise RuntimeError("half built")

    monkeypatch.setattr(shell, "imported", lambda _name: build)
    manifest = Manifest(id="counter", title="Counter", api=1, tab="counter.tab:build")
    plugins, forms = Plugins([Plugin(tmp_path, manifest)]), Forms()
    monkeypatch.setattr(shell, "Forms", lambda: forms)
    service = JobService([COUNT], Artifacts(tmp_path), Settings(outputs_dir=tmp_path), alone=True)
    shell.build(service, Artifacts(tmp_path), Settings(outputs_dir=tmp_path), plugins, Texts(None), [], tmp_path)
    service.close()
    assert forms.offered == {} and plugins.failures


def test_an_idle_page_sleeps():
    with gr.Blocks(analytics_enabled=False) as page:
        pass
    rest_when_idle(page)
    assert page._queue.sleep_when_free >= QUEUE_PAUSE, "Gradio still has the knob"
