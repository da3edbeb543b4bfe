"""A running job as a visitor sees it: preview, bar, time left. Everything that came from outside is escaped."""

from __future__ import annotations

import base64
import time
from collections.abc import Iterator, Mapping
from html import escape
from typing import TYPE_CHECKING

from webui.jobs.types import Job, JobState

if TYPE_CHECKING:
    from webui.jobs.service import JobService

PAUSE = 0.15
"""Seconds between two snapshots: as often as previews come, no more."""

QUICK = 10.0
"""What lasts less, in seconds, is told in tenths."""

HEARTBEAT = 5.0
"""Seconds without news after which the same snapshot is sent again, so that a closed page is noticed."""


def follow(service: JobService, job_id: str) -> Iterator[Job]:
    """Snapshots of a job until it has finished, and then the last one is the finished job, or until the studio stops."""
    job = service.get(job_id)
    yield job
    while not job.state.finished and not service.closed:
        time.sleep(PAUSE)
        job = service.watch(job_id, job.version, HEARTBEAT)
        yield job


def card(job: Job, words: Mapping[str, str]) -> str:
    """HTML of a job. words: the strings `queued`, `running`, `done`, `failed`, `cancelled`, `left`, `preview`."""
    if job.state is JobState.DONE:
        return f'<p class="job-line" role="status">{escape(words["done"])}</p>'
    parts = [f'<div class="job-card job-{job.state.value}">', _preview(job, words), bar(job, words)]
    if job.error and job.state is JobState.FAILED:
        parts.append(f'<p class="job-error" role="alert">{escape(job.error)}</p>')
    return "".join([*parts, "</div>"])


def facts(rows: Mapping[str, object], warnings: tuple[str, ...]) -> str:
    """HTML table of facts, with notes below."""
    cells = [(escape(str(name)), escape(str(value))) for name, value in rows.items()]
    body = "".join(f"<tr><th>{name}</th><td>{value}</td></tr>" for name, value in cells)
    notes = "".join(f"<li>{escape(warning)}</li>" for warning in warnings)
    return f'<table class="facts"><tbody>{body}</tbody></table>' + (f'<ul class="notes">{notes}</ul>' if notes else "")


def bar(job: Job, words: Mapping[str, str]) -> str:
    """HTML of how far a job is, in a bar and in words."""
    percent = round(job.fraction * 100)
    what = job.stage if job.state is JobState.RUNNING and job.stage else words[job.state.value]
    left = words["left"].format(seconds=duration(job.eta)) if job.eta is not None else ""
    return (
        f'<div class="job-bar" role="progressbar" aria-valuemin="0" aria-valuemax="100" aria-valuenow="{percent}" '
        f'aria-label="{escape(what)}"><div style="width:{percent}%"></div></div>'
        f'<div class="job-line"><span>{escape(what)}</span><span>{percent} %{escape(left)}</span></div>'
    )


def duration(seconds: float) -> str:
    """Minutes and seconds."""
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes}:{rest:02d}"


def took(seconds: float) -> str:
    """How long something lasted: tenths of a second are told of what was over quickly."""
    return f"{seconds:.1f} s" if seconds < QUICK else duration(seconds)


def moment(seconds: float) -> str:
    """Date and time where the server is, as everybody reads them."""
    return time.strftime("%Y-%m-%d %H:%M", time.localtime(seconds))


def _preview(job: Job, words: Mapping[str, str]) -> str:
    if job.preview is None:
        return "" if job.state.finished else '<div class="job-preview job-waiting"></div>'
    data = base64.b64encode(job.preview).decode()
    return f'<div class="job-preview"><img alt="{escape(words["preview"])}" src="data:image/jpeg;base64,{data}"></div>'
