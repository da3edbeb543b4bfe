"""HTML of the history: a tile per finished job, a row per unfinished one, a job's details. Everything from outside is escaped.

A button says in `data-act` and `data-job` what it is for; PRESS hands that to the page.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape

from webui.jobs.types import Job, JobState, Usage
from webui.ui import watch

PRESS = """element.addEventListener('click', (event) => {
  const button = event.target.closest('[data-act]');
  if (!button) return;
  const {act, job} = button.dataset;
  if (act === 'open') {
    const at = [...document.querySelectorAll('#history-list [data-act=open]')].indexOf(button);
    window.galateaOpened = {job, at};
  }
  trigger('click', {act, job});
});"""
"""For gr.HTML's js_on_load: the event's data has `act` and `job`. What was opened is remembered for FOCUS_OPENED."""

FOCUS_OPENED = """() => { setTimeout(() => {
  const buttons = [...document.querySelectorAll('#history-list [data-act=open]')], {job, at} = window.galateaOpened ?? {};
  const same = buttons.find((button) => button.dataset.job === job), near = buttons[Math.min(at ?? 0, buttons.length - 1)];
  (same ?? near ?? document.querySelector('#history-search input, #history-search textarea'))?.focus();
}, 100); }"""
"""Gives the keyboard back to the job that was opened last, or to the one that has its place now."""

OPEN, CANCEL, NEXT = "open", "cancel", "next"
MOST_ROWS = 12

Words = Mapping[str, str]


@dataclass(frozen=True)
class Seen:
    """A job as the history shows it to a visitor.

    name:      what to call its result, or what it works on.
    title:     of its kind.
    thumbnail: JPEG bytes, or None.
    deleted:   whether it is one that can only be brought back.
    """

    job: Job
    name: str
    title: str
    thumbnail: bytes | None = None
    deleted: bool = False


def grid(seen: Sequence[Seen], words: Words) -> str:
    """Finished jobs, a tile each."""
    return f'<ul class="tiles">{"".join(_tile(one, words) for one in seen)}</ul>'


def rows(seen: Sequence[Seen], total: int, words: Words) -> str:
    """The first of the unfinished jobs, in the order in which they run, a row each."""
    if not seen:
        return ""
    first = next((one.job.id for one in seen if one.job.state is JobState.QUEUED), "")
    more = words["history_more_queued"].format(count=total - len(seen)) if total > len(seen) else ""
    listed = "".join(_row(one, one.job.id == first, words) for one in seen)
    return f'<ul class="runs">{listed}</ul>' + (f'<p class="tile-line">{escape(more)}</p>' if more else "")


def heading(one: Seen, words: Words) -> str:
    """What a job is and how it stands."""
    return (
        f'<h3 class="job-name">{escape(one.name)}</h3>'
        f'<p class="tile-line">{_state(one, words)} · {escape(one.title)} · {watch.moment(one.job.created)}</p>'
    )


def in_trash(one: Seen, words: Words) -> str:
    """A deleted job in place of its files: how it looked, and that it can be brought back."""
    picture = f'<div class="job-preview">{_picture(one.thumbnail)}</div>' if one.thumbnail else ""
    return f'<div class="job-card">{picture}<p class="job-line">{escape(words["history_in_trash"])}</p></div>'


def section(title: str, facts: Mapping[str, object], warnings: tuple[str, ...] = ()) -> str:
    """A titled table of facts."""
    return f"<h4>{escape(title)}</h4>{watch.facts(facts, warnings)}"


def log(title: str, lines: Sequence[str]) -> str:
    """What a job wrote for the curious, folded away."""
    text = escape("\n".join(lines))
    return f"<details class='job-log'><summary>{escape(title)}</summary><pre>{text}</pre></details>" if lines else ""


def usage(used: Usage, keep_days: float, words: Words) -> str:
    """Disk use, and the rule by which results are deleted."""
    sizes = {"results": used.results, "uploads": used.uploads, "trash": used.trash, "free": used.free}
    said = words["history_usage"].format(**{name: _size(size) for name, size in sizes.items()})
    rule = words["history_kept"].format(days=f"{keep_days:g}") if keep_days else words["history_kept_all"]
    return f'<p class="usage">{escape(said)}<br>{escape(rule)}</p>'


def note(sentence: str) -> str:
    return f'<p class="hint">{escape(sentence)}</p>'


def status(sentence: str) -> str:
    return f'<p class="tile-line" role="status">{escape(sentence)}</p>'


def _tile(one: Seen, words: Words) -> str:
    job = one.job
    picture = _picture(one.thumbnail) or f'<span class="tile-none">{escape(words["history_no_picture"])}</span>'
    engine = str(job.result.data.get("engine", "")) if job.result else ""
    took = watch.took(job.finished - job.started) if job.started and job.finished else ""
    when = " · ".join(filter(None, [watch.moment(job.created), took]))
    made_with = " · ".join(filter(None, [f"{words['history_seed']} {job.seed}", engine]))
    return (
        f'<li><button type="button" class="tile" data-act="{OPEN}" data-job="{escape(job.id)}">'
        f'<span class="tile-picture">{picture}</span><span class="tile-name">{escape(one.name)}</span>'
        f'<span class="tile-line">{_state(one, words)} · {escape(one.title)}</span>'
        f'<span class="tile-line">{when}</span>'
        f'<span class="tile-line">{escape(made_with)}</span></button></li>'
    )


def _row(one: Seen, first: bool, words: Words) -> str:
    job = one.job
    picture = _picture(job.preview) or '<span class="tile-none job-waiting"></span>'
    buttons = [(OPEN, "history_details"), (CANCEL, "history_cancel")]
    if job.state is JobState.QUEUED and not first:
        buttons.insert(0, (NEXT, "history_next"))
    pressable = "".join(
        f'<button type="button" data-act="{act}" data-job="{escape(job.id)}" '
        f'aria-label="{escape(words[key])}: {escape(one.name)}">{escape(words[key])}</button>'
        for act, key in buttons
    )
    return (
        f'<li class="run"><span class="run-picture">{picture}</span><div class="run-text">'
        f'<span class="tile-name">{escape(one.name)}</span>'
        f'<span class="tile-line">{escape(one.title)} · {watch.moment(job.created)}</span>'
        f'{watch.bar(job, words)}</div><div class="run-buttons">{pressable}</div></li>'
    )


def _picture(jpeg: bytes | None) -> str:
    return f'<img alt="" src="data:image/jpeg;base64,{base64.b64encode(jpeg).decode()}">' if jpeg else ""


def _state(one: Seen, words: Words) -> str:
    state = "deleted" if one.deleted else one.job.state.value
    return f'<span class="state state-{state}">{escape(words[state])}</span>'


def _size(count: int) -> str:
    return f"{count / 1e9:.1f} GB" if count >= 1e9 else f"{count / 1e6:.1f} MB"
