"""Where a tab starts its work and watches it: Generate, Cancel, Skip, and the card with preview and progress.

Asks the job service for everything; a closed page stops nothing, and one that is opened again finds its job.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from html import escape
from threading import Lock
from typing import TYPE_CHECKING, Any

import gradio as gr

from webui.errors import InvalidRequest
from webui.jobs.types import Job, JobState
from webui.ui.texts import STUDIO

if TYPE_CHECKING:
    from webui.ui.studio import TabStudio

Updates = dict[Any, Any]
Show = Callable[[Job, Any], Mapping[Any, Any]]
Ask = Callable[[dict[Any, Any], Any], tuple[str, dict[str, Any]]]

REMEMBER = "(id) => {{ sessionStorage.setItem('galatea-{name}-job', id); }}"
RECALL = "() => [sessionStorage.getItem('galatea-{name}-job') || '']"

BUTTON = "panel-generate"
"""Class of every panel's Generate."""
PRESS = f"""() => document.addEventListener('keydown', (event) => {{
  if (event.key !== 'Enter' || !(event.ctrlKey || event.metaKey)) return;
  const button = [...document.querySelectorAll('button.{BUTTON}')].find((one) => one.offsetParent && !one.disabled);
  if (!button) return;
  event.preventDefault();
  document.activeElement?.dispatchEvent(new Event('blur'));
  button.click();
}}, true)"""
"""Run once in the browser: Ctrl+Enter presses the Generate that is in sight."""

_QUIET: dict[str, Any] = {"api_visibility": "private", "show_progress": "hidden"}


@dataclass(frozen=True, eq=False)
class Turn:
    """A generator's right to flow to a page. looks_on: it shows a job found there, and makes way when the visitor begins one."""

    looks_on: bool


@dataclass(frozen=True, eq=False)
class Panel:
    """webui.plugin_api.Panel. A generator watches a job: its snapshots flow to the page until it ends or the page closes.

    results: what `show` fills.
    turns:   whose turn it is on which page, by session. Two generators would fight each other for the same widgets.
    """

    studio: TabStudio
    name: str
    results: tuple[Any, ...]
    show: Show
    generate: gr.Button
    cancel: gr.Button
    skip: gr.Button
    card: gr.HTML
    job_id: gr.Textbox
    turns: dict[str | None, Turn] = field(default_factory=dict)
    taking: Lock = field(default_factory=Lock)

    @property
    def outputs(self) -> list[Any]:
        return [self.job_id, self.card, self.generate, self.cancel, self.skip, *self.results]

    def connect(self, inputs: Sequence[Any], request: Ask, *, kinds: Sequence[str], also: Sequence[Any] = ()) -> None:
        def generate(values: dict[Any, Any], visitor: gr.Request) -> Iterator[Updates]:
            yield from self.run(values, request, visitor)

        def resume(job_id: str, visitor: gr.Request) -> Iterator[Updates]:
            yield from self.resume(job_id, kinds, visitor)

        for event in (self.generate.click, *also):
            self.start_on(event, inputs, generate)
        self.cancel.click(self.stop, inputs=self.job_id, queue=False, **_QUIET)
        self.skip.click(self.skip_one, inputs=self.job_id, queue=False, **_QUIET)
        self.job_id.change(None, inputs=self.job_id, js=REMEMBER.format(name=self.name), **_QUIET)
        self._watching(self.studio.page.load, resume, inputs=self.job_id, js=RECALL.format(name=self.name))

    def start_on(
        self, event: Any, inputs: Sequence[Any], run: Callable[..., Iterator[Updates]], outputs: Sequence[Any] = ()
    ) -> None:
        self._watching(event, run, outputs, inputs=set(inputs))

    def _watching(self, event: Any, run: Callable[..., Iterator[Updates]], outputs: Sequence[Any] = (), **how: Any) -> None:
        self.studio.rejoin(event(run, outputs=[*outputs, *self.outputs], concurrency_limit=None, **how, **_QUIET))

    def run(self, values: dict[Any, Any], request: Ask, visitor: gr.Request) -> Iterator[Updates]:
        with self.studio.guard(visitor), self._turn(visitor) as turn:
            if turn is None:
                yield from self._refuse(visitor)
                return
            kind, fields = request(values, visitor)
            yield from self._watch(self.studio.submit(kind, fields, visitor).id, visitor, turn)

    def resume(self, job_id: str, kinds: Sequence[str], visitor: gr.Request) -> Iterator[Updates]:
        """The job that this browser tab knew before it was reloaded; a new one shows what is being made, if anything is."""
        with self.studio.guard(visitor), self._turn(visitor, looks_on=True) as turn:
            known = job_id if job_id and _is_known(self.studio, job_id) else in_the_making(self.studio, kinds)
            if turn is None:
                yield from self._refuse(visitor)
            elif known:
                yield from self._watch(known, visitor, turn)
            else:
                yield {self.card: f'<p class="hint">{escape(self._say("hint", visitor))}</p>'}

    def stop(self, job_id: str, visitor: gr.Request) -> None:
        with self.studio.guard(visitor):
            self.studio.service.cancel(job_id)

    def skip_one(self, job_id: str, visitor: gr.Request) -> None:
        with self.studio.guard(visitor):
            self.studio.service.skip(job_id)

    @contextmanager
    def _turn(self, visitor: gr.Request, *, looks_on: bool = False) -> Iterator[Turn | None]:
        """The right to flow to the visitor's page, to the end of the block; None while another has it that does not look on."""
        session, mine = visitor.session_hash, Turn(looks_on)
        with self.taking:  # two clicks at once cannot both be first
            holder = self.turns.get(session)
            free = holder is None or holder.looks_on
            if free:
                self.turns[session] = mine
        try:
            yield mine if free else None
        finally:
            with self.taking:
                if self.turns.get(session) is mine:
                    del self.turns[session]

    def _refuse(self, visitor: gr.Request) -> Iterator[Updates]:
        self.studio.tell(self._say("busy", visitor))
        yield {self.card: gr.skip()}  # Gradio empties every output of a generator that yields nothing

    def _watch(self, job_id: str, visitor: gr.Request, turn: Turn) -> Iterator[Updates]:
        for job in self.studio.follow(job_id, visitor):
            if self.turns.get(visitor.session_hash) is not turn:
                return
            yield self._view(job, visitor, turn)
        if job.state is JobState.CANCELLED:
            self.studio.tell(self._say("stopped_partial" if job.result else "stopped", visitor))

    def _view(self, job: Job, visitor: gr.Request, turn: Turn) -> Updates:
        running = not job.state.finished
        return {
            self.job_id: job.id,
            self.card: self.studio.card(job, visitor),
            self.generate: gr.update(interactive=turn.looks_on or not running),
            self.cancel: gr.update(interactive=running),
            self.skip: gr.update(interactive=job.state is JobState.RUNNING),
            **self.show(job, visitor),
        }

    def _say(self, word: str, visitor: gr.Request) -> str:
        return self.studio.texts.say(*_words(self.studio, self.name, word), visitor)


def build(studio: TabStudio, name: str, outputs: Sequence[Any], show: Show, *, skip: bool) -> Panel:
    def button(word: str, **how: Any) -> gr.Button:
        return gr.Button(studio.texts.text(*_words(studio, name, word)), size="lg", elem_id=f"{name}-{word}", **how)

    with gr.Row():
        generate = button("generate", variant="primary", scale=2, min_width=140, elem_classes=BUTTON)
        skipping = button("skip", min_width=90, interactive=False, visible=skip)
        cancel = button("cancel", variant="stop", min_width=90, interactive=False)
    card = gr.HTML(elem_id=f"{name}-card")
    job_id = gr.Textbox(visible="hidden", elem_id=f"{name}-job")
    return Panel(studio, name, tuple(outputs), show, generate, cancel, skipping, card, job_id)


def in_the_making(studio: TabStudio, kinds: Sequence[str]) -> str | None:
    """The job of these kinds that is being made, the newest of several; when none is, the newest that waits."""
    unfinished = [job for job in studio.service.jobs() if job.kind in kinds and not job.state.finished]
    newest = max(unfinished, key=lambda job: (job.state is JobState.RUNNING, job.created), default=None)
    return newest and newest.id


def _is_known(studio: TabStudio, job_id: str) -> bool:
    try:
        studio.service.get(job_id)
    except InvalidRequest:
        return False
    return True


def _words(studio: TabStudio, name: str, word: str) -> tuple[str, str]:
    """Whose word it is, and its key: the extension's own for this panel, else the studio's."""
    own = f"{name}_{word}"
    return (studio.owner, own) if studio.texts.has(studio.owner, own) else (STUDIO, f"panel_{word}")
