"""The History tab: every job, its details, deleting and bringing back. Asks the job service for everything.

What it shows is remembered by the visitor's browser, not here: a restart of the server loses nothing. While an unfinished
job is in sight a timer asks for news once a second; an idle page asks for nothing.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import gradio as gr

from webui.artifacts import Artifact
from webui.errors import InvalidRequest
from webui.jobs.types import Job, JobState, Query
from webui.ui import tiles
from webui.ui.describe import Describer
from webui.ui.reuse import Reuse, Updates
from webui.ui.studio import TabStudio
from webui.ui.tiles import Seen

TAB = "history"
PER_PAGE = 24
TICK = 1.0
HIGHEST_PRIORITY = 100
ALL = ""
DELETED = "deleted"
"""Where a state is chosen: the jobs that were deleted less than a day ago."""

_PRIVATE: dict[str, Any] = {"api_visibility": "private", "show_progress": "hidden"}
_FOCUS_BACK = "() => { setTimeout(() => document.querySelector('#history-back')?.focus(), 100); }"


@dataclass(frozen=True)
class Widgets:
    """opened, deleted: ids of the job whose details are shown and of the one deleted last; in_sight: ids of the unfinished
    jobs that are shown. Like `page` they are hidden text, so that the browser holds them."""

    search: gr.Textbox
    kind: gr.Dropdown
    state: gr.Dropdown
    page: gr.Textbox
    opened: gr.Textbox
    deleted: gr.Textbox
    in_sight: gr.Textbox
    timer: gr.Timer
    listing: gr.Column
    undo_box: gr.Row
    undo_text: gr.HTML
    undo: gr.Button
    runs: gr.HTML
    grid: gr.HTML
    pages: gr.Row
    newer: gr.Button
    place: gr.HTML
    older: gr.Button
    usage: gr.HTML
    details: gr.Column
    back: gr.Button
    heading: gr.HTML
    card: gr.HTML
    video: gr.Video
    image: gr.Image
    files: gr.File
    again: gr.Button
    cancel: gr.Button
    delete: gr.Button
    restore: gr.Button
    facts: gr.HTML

    @property
    def asked(self) -> set[Any]:
        """What says which jobs a visitor wants to see."""
        return {self.search, self.kind, self.state, self.page, self.opened, self.in_sight, self.deleted}

    @property
    def shown(self) -> list[Any]:
        return [*vars(self).values()]


def build(studio: TabStudio, tabs: gr.Tabs, tab: gr.Tab, others: Iterable[gr.Tab]) -> Events:
    """Called inside of `tab`, when the forms of all tabs are known. others: the page's other tabs."""
    with gr.Column(elem_id="history"):
        widgets = Widgets(**_listing(studio), **_details(studio), **_memory())
    events = Events(studio, widgets, Reuse(studio, tabs, widgets.timer))
    events.connect(tab, others)
    return events


def _memory() -> dict[str, Any]:
    names = ("page", "opened", "deleted", "in_sight")
    hidden = {name: gr.Textbox("", visible="hidden", elem_id=f"history-{name.replace('_', '-')}") for name in names}
    return {**hidden, "timer": gr.Timer(TICK, active=False)}


def _listing(studio: TabStudio) -> dict[str, Any]:
    kinds = [(_kind_label(studio, kind), kind) for kind in studio.service.kinds()]
    states = [(studio.text(state), state) for state in [*(state.value for state in JobState if state.finished), DELETED]]
    with gr.Column(elem_id="history-list") as listing:
        with gr.Row(elem_id="history-filters"):
            search = gr.Textbox(
                label=studio.text("history_search"), max_lines=1, scale=3, min_width=220, elem_id="history-search"
            )
            kind = gr.Dropdown(
                [(studio.text("history_all"), ALL), *kinds],
                value=ALL, label=studio.text("history_kind"), min_width=140, filterable=False, elem_id="history-kind",
            )  # fmt: skip
            state = gr.Dropdown(
                [(studio.text("history_all"), ALL), *states],
                value=ALL, label=studio.text("history_state"), min_width=140, filterable=False, elem_id="history-state",
            )  # fmt: skip
            with gr.Column(scale=2, min_width=260):
                studio.drop_zone()
        with gr.Row(visible=False, elem_id="history-undo-box") as undo_box:
            undo_text = gr.HTML(elem_classes="flush")
            undo = gr.Button(studio.text("history_undo"), size="sm", min_width=90, scale=0, elem_id="history-undo")
        pressable: dict[str, Any] = {"js_on_load": tiles.PRESS, "apply_default_css": False, "elem_classes": "flush"}
        runs = gr.HTML(visible=False, elem_id="history-runs", **pressable)
        grid = gr.HTML(elem_id="history-grid", **pressable)
        with gr.Row(visible=False, elem_id="history-pages") as pages:
            newer = gr.Button(studio.text("history_newer"), size="sm", min_width=90, scale=0, elem_id="history-newer")
            place = gr.HTML(elem_id="history-place", elem_classes="flush")
            older = gr.Button(studio.text("history_older"), size="sm", min_width=90, scale=0, elem_id="history-older")
        usage = gr.HTML(elem_id="history-usage", elem_classes="flush")
    return {
        "search": search, "kind": kind, "state": state, "listing": listing, "undo_box": undo_box, "undo_text": undo_text,
        "undo": undo, "runs": runs, "grid": grid, "pages": pages, "newer": newer, "place": place, "older": older, "usage": usage,
    }  # fmt: skip


def _details(studio: TabStudio) -> dict[str, Any]:
    with gr.Column(visible=False, elem_id="history-details") as details:
        with gr.Row():
            back = gr.Button(studio.text("history_back"), size="sm", scale=0, min_width=160, elem_id="history-back")
        with gr.Row(equal_height=False):
            with gr.Column(scale=6, min_width=320):
                card = gr.HTML(elem_id="history-card", elem_classes="flush")
                video = gr.Video(interactive=False, visible=False, show_label=False, elem_id="history-video", buttons=[])
                image = gr.Image(
                    interactive=False, visible=False, show_label=False, type="filepath", elem_id="history-image",
                    buttons=["fullscreen"],
                )  # fmt: skip
                files = gr.File(
                    label=studio.text("history_files"), file_count="multiple", interactive=False, visible=False,
                    elem_id="history-files",
                )  # fmt: skip
            with gr.Column(scale=5, min_width=320):
                heading = gr.HTML(elem_id="history-heading", elem_classes="flush")
                with gr.Row():
                    again = gr.Button(studio.text("history_again"), variant="primary", elem_id="history-again")
                    cancel = gr.Button(studio.text("history_cancel"), variant="stop", min_width=90, elem_id="history-cancel")
                    delete = gr.Button(studio.text("history_delete"), min_width=90, elem_id="history-delete")
                    restore = gr.Button(
                        studio.text("history_restore"), variant="primary", min_width=90, elem_id="history-restore"
                    )
                facts = gr.HTML(elem_id="history-facts", elem_classes="flush")
    return {
        "details": details, "back": back, "card": card, "video": video, "image": image, "files": files,
        "heading": heading, "again": again, "cancel": cancel, "delete": delete, "restore": restore,
        "facts": facts,
    }  # fmt: skip


@dataclass(frozen=True)
class Events:
    """What happens when. Only what tells a visitor something goes through Gradio's queue: messages need it."""

    studio: TabStudio
    widgets: Widgets
    reuse: Reuse

    def connect(self, tab: gr.Tab, others: Iterable[gr.Tab]) -> None:
        widgets = self.widgets
        look: dict[str, Any] = {"inputs": widgets.asked, "outputs": widgets.shown, "queue": False, **_PRIVATE}
        tab.select(self.visit, **look)
        gr.on([other.select for other in others], self.leave, outputs=widgets.timer, queue=False, **_PRIVATE)
        widgets.timer.tick(self.tick, **look)
        filters = [widgets.search.change, widgets.kind.input, widgets.state.input]
        gr.on(filters, self.find, trigger_mode="always_last", **look)
        widgets.newer.click(self.newer, **look)
        widgets.older.click(self.older, **look)
        for html in (widgets.runs, widgets.grid):
            html.click(self.press, **look).then(None, js=_FOCUS_BACK, **_PRIVATE)
        widgets.restore.click(self.restore, **look).then(None, js=_FOCUS_BACK, **_PRIVATE)
        widgets.cancel.click(self.cancel, **look)
        for button, act in ((widgets.back, self.back), (widgets.delete, self.delete), (widgets.undo, self.undo)):
            button.click(act, **look).then(None, js=tiles.FOCUS_OPENED, **_PRIVATE)
        self.reuse.connect(widgets.again, widgets.opened)

    def visit(self, asked: Updates, visitor: gr.Request) -> Updates:
        """The tab was opened: the list, or the details that were left open, as they are now."""
        with self.studio.guard(visitor):
            return self.look(asked, visitor) | self.used(visitor) | {self.widgets.undo_box: gr.update(visible=False)}

    def leave(self) -> Any:
        return gr.Timer(active=False)

    def tick(self, asked: Updates, visitor: gr.Request) -> Updates:
        """What moves, and the rest only when a job came, started or ended."""
        widgets = self.widgets
        with self.studio.guard(visitor):
            unfinished = self.unfinished()
            if _ids(unfinished) != asked[widgets.in_sight]:
                return self.look(asked, visitor)
            opened = next((job for job in unfinished if job.id == asked[widgets.opened]), None)
            if opened is None:
                return {widgets.runs: self.rows(unfinished, Describer(self.studio, visitor))}
            return {widgets.card: self.studio.card(Describer(self.studio, visitor).told(opened), visitor)}

    def find(self, asked: Updates, visitor: gr.Request) -> Updates:
        with self.studio.guard(visitor):
            return self.look(asked | {self.widgets.page: ""}, visitor)

    def newer(self, asked: Updates, visitor: gr.Request) -> Updates:
        return self.turn(asked, -1, visitor)

    def older(self, asked: Updates, visitor: gr.Request) -> Updates:
        return self.turn(asked, 1, visitor)

    def turn(self, asked: Updates, by: int, visitor: gr.Request) -> Updates:
        with self.studio.guard(visitor):
            return self.look(asked | {self.widgets.page: str(_page(asked[self.widgets.page]) + by)}, visitor)

    def press(self, asked: Updates, event: gr.EventData, visitor: gr.Request) -> Updates:
        """A button inside of the list."""
        with self.studio.guard(visitor):
            act, job_id = str(event.act), str(event.job)
            if act == tiles.CANCEL:
                self.studio.service.cancel(job_id)
            elif act == tiles.NEXT:
                self.go_first(job_id)
            elif act == tiles.OPEN:
                asked = asked | {self.widgets.opened: job_id}
            return self.look(asked, visitor)

    def go_first(self, job_id: str) -> None:
        """Before all that wait; among those of the highest priority there is, the older goes first."""
        waiting = [job for job in self.studio.service.jobs() if job.state is JobState.QUEUED and job.id != job_id]
        highest = max((job.priority for job in waiting), default=0)
        self.studio.service.prioritise(job_id, min(highest + 1, HIGHEST_PRIORITY))

    def back(self, asked: Updates, visitor: gr.Request) -> Updates:
        with self.studio.guard(visitor):
            return self.look(asked | {self.widgets.opened: ""}, visitor)

    def cancel(self, asked: Updates, visitor: gr.Request) -> Updates:
        with self.studio.guard(visitor):
            self.studio.service.cancel(asked[self.widgets.opened])
            return self.look(asked, visitor)

    def delete(self, asked: Updates, visitor: gr.Request) -> Updates:
        widgets = self.widgets
        with self.studio.guard(visitor):
            job = self.studio.service.get(asked[widgets.opened])
            self.studio.service.delete(job.id)
            deleted = self.studio.say("history_deleted", visitor, name=Describer(self.studio, visitor).name(job))
            return {
                **self.look(asked | {widgets.opened: ""}, visitor),
                **self.used(visitor),
                widgets.deleted: job.id,
                widgets.undo_text: tiles.status(deleted),
                widgets.undo_box: gr.update(visible=True),
            }

    def undo(self, asked: Updates, visitor: gr.Request) -> Updates:
        with self.studio.guard(visitor):
            self.studio.service.restore(asked[self.widgets.deleted])
            return self.look(asked, visitor) | self.used(visitor) | self.undone()

    def undone(self) -> Updates:
        return {self.widgets.deleted: "", self.widgets.undo_box: gr.update(visible=False)}

    def restore(self, asked: Updates, visitor: gr.Request) -> Updates:
        """Bring back the job whose details are shown; they stay open."""
        with self.studio.guard(visitor):
            restored = self.studio.service.restore(asked[self.widgets.opened])
            seen = self.look(asked, visitor) | self.used(visitor)
            return seen | (self.undone() if restored.id == asked[self.widgets.deleted] else {})

    def look(self, asked: Updates, visitor: gr.Request) -> Updates:
        """What the visitor wants to see: one job's details, or the list."""
        describe, unfinished = Describer(self.studio, visitor), self.unfinished()
        job_id = asked[self.widgets.opened]
        seen = self.opened(job_id, describe) if job_id else None
        shown = self.one(seen, describe, visitor) if seen else self.all(asked, unfinished, describe)
        # News is asked for while there may be some.
        return shown | {self.widgets.in_sight: _ids(unfinished), self.widgets.timer: gr.Timer(active=bool(unfinished))}

    def opened(self, job_id: str, describe: Describer) -> Seen | None:
        """None also for a job that is gone for good."""
        with suppress(InvalidRequest):
            return self.seen(self.studio.service.get(job_id), describe)
        with suppress(InvalidRequest):
            return self.seen(self.studio.service.deleted(job_id), describe, deleted=True)
        return None

    def all(self, asked: Updates, unfinished: list[Job], describe: Describer) -> Updates:
        widgets, words = self.widgets, describe.words
        jobs, page, pages, total = self.found(asked)
        place = words["history_place"].format(page=page + 1, pages=pages, total=total)
        return {
            widgets.listing: gr.update(visible=True),
            widgets.details: gr.update(visible=False),
            widgets.video: gr.update(value=None, visible=False),
            widgets.opened: "",
            widgets.page: str(page),
            widgets.runs: gr.update(value=self.rows(unfinished, describe), visible=bool(unfinished)),
            widgets.grid: self.grid(jobs, asked, bool(unfinished), describe),
            widgets.place: tiles.status(place),
            widgets.pages: gr.update(visible=pages > 1),
            widgets.newer: gr.update(interactive=page > 0),
            widgets.older: gr.update(interactive=page + 1 < pages),
        }

    def one(self, seen: Seen, describe: Describer, visitor: gr.Request) -> Updates:
        widgets, words, job = self.widgets, describe.words, seen.job
        artifacts = job.result.artifacts if job.result else ()
        handed = [(artifact, str(self.studio.hand_out(artifact))) for artifact in artifacts]
        card = tiles.in_trash(seen, words) if seen.deleted else self.studio.card(job, visitor)
        facts = [
            tiles.section(words["history_made"], describe.made(job), job.warnings),
            tiles.section(words["history_settings"], describe.asked(job)),
            tiles.log(words["history_log"], job.log),
        ]
        return {
            widgets.listing: gr.update(visible=False),
            widgets.details: gr.update(visible=True),
            widgets.opened: job.id,
            widgets.heading: tiles.heading(seen, words),
            widgets.card: gr.update(value=card, visible=seen.deleted or job.state is not JobState.DONE),
            widgets.video: _first(handed, "video"),
            widgets.image: _first(handed, "image"),
            widgets.files: gr.update(value=[path for _, path in handed] or None, visible=bool(handed)),
            widgets.again: gr.update(visible=job.kind in self.studio.forms.offered and not seen.deleted),
            widgets.cancel: gr.update(visible=not job.state.finished),
            widgets.delete: gr.update(visible=job.state.finished and not seen.deleted),
            widgets.restore: gr.update(visible=seen.deleted),
            widgets.facts: "".join(facts),
        }

    def unfinished(self) -> list[Job]:
        """In the order in which they run."""
        jobs = [job for job in self.studio.service.jobs() if not job.state.finished]
        return sorted(jobs, key=lambda job: (job.state is JobState.QUEUED, -job.priority, job.created))

    def found(self, asked: Updates) -> tuple[list[Job], int, int, int]:
        """A page of the finished jobs that are asked for, newest first; which page it is, of how many, of how many jobs."""
        state, page = asked[self.widgets.state], _page(asked[self.widgets.page])
        query = Query(
            search=asked[self.widgets.search] or "",
            kind=asked[self.widgets.kind] or None,
            state=JobState(state) if state not in (ALL, None, DELETED) else None,
            finished=True,
            deleted=state == DELETED,
            limit=PER_PAGE,
            offset=page * PER_PAGE,
        )
        jobs, total = self.studio.service.history(query)
        pages = max(1, math.ceil(total / PER_PAGE))
        if page < pages:
            return jobs, page, pages, total
        return self.found(asked | {self.widgets.page: str(pages - 1)})  # others have deleted what was on this page

    def rows(self, unfinished: list[Job], describe: Describer) -> str:
        shown = [self.seen(job, describe) for job in unfinished[: tiles.MOST_ROWS]]
        return tiles.rows(shown, len(unfinished), describe.words)

    def grid(self, jobs: list[Job], asked: Updates, working: bool, describe: Describer) -> str:
        """working: whether unfinished jobs are shown above."""
        deleted = asked[self.widgets.state] == DELETED
        if jobs:
            return tiles.grid([self.seen(job, describe, deleted=deleted) for job in jobs], describe.words)
        if any(asked[widget] for widget in (self.widgets.search, self.widgets.kind)):
            empty = "history_none_found"
        elif deleted:
            empty = "history_none_deleted"
        elif asked[self.widgets.state]:
            empty = "history_none_found"
        else:
            empty = "history_none_finished" if working else "history_empty"
        return tiles.note(describe.words[empty])

    def seen(self, job: Job, describe: Describer, *, deleted: bool = False) -> Seen:
        path = self.studio.service.thumbnail(job.id, deleted=deleted) if job.state.finished else None
        picture = path.read_bytes() if path else None
        return Seen(describe.told(job), describe.name(job), describe.title(job.kind), picture, deleted)

    def used(self, visitor: gr.Request) -> Updates:
        words = Describer(self.studio, visitor).words
        return {self.widgets.usage: tiles.usage(self.studio.service.usage(), self.studio.settings.keep_days, words)}


def _kind_label(studio: TabStudio, kind: str) -> Any:
    form = studio.forms.offered.get(kind)
    return studio.texts.text(form.owner, form.title) if form else studio.service.kinds()[kind].title


def _first(handed: list[tuple[Artifact, str]], medium: str) -> Any:
    """What shows the first file of this medium, if there is one."""
    path = next((path for artifact, path in handed if artifact.media_type.startswith(f"{medium}/")), None)
    return gr.update(value=path, visible=path is not None)


def _ids(jobs: list[Job]) -> str:
    return " ".join(job.id for job in jobs)


def _page(written: str | None) -> int:
    return int(written) if written and written.isdecimal() and len(written) < 7 else 0
