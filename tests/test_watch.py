"""What visitors see of a job: nothing from outside reaches the page as HTML."""

from __future__ import annotations

from webui.jobs.types import Job, JobState
from webui.ui.watch import card, facts

WORDS = {word: word for word in ("queued", "running", "done", "failed", "cancelled", "preview")} | {"left": " {seconds}"}
EVIL = "<script>alert(1)</script>"


def test_a_running_job_shows_preview_bar_and_time_left():
    html = card(Job("x", "talk", None, JobState.RUNNING, 1, 0.42, "rendering", 75.4, b"jpeg"), WORDS)
    assert 'aria-valuenow="42"' in html and "rendering" in html and "1:15" in html
    assert "data:image/jpeg;base64,anBlZw==" in html


def test_an_error_is_shown_as_its_sentence():
    html = card(Job("x", "talk", None, JobState.FAILED, error="No face. Choose another."), WORDS)
    assert '<p class="job-error" role="alert">No face. Choose another.</p>' in html


def test_everything_from_outside_is_escaped():
    failed = Job("x", "talk", None, JobState.FAILED, error=EVIL)
    running = Job("x", "talk", None, JobState.RUNNING, stage=EVIL)
    for html in (card(failed, WORDS), card(running, WORDS), facts({EVIL: EVIL}, (EVIL,))):
        assert "<script>" not in html and "&lt;script&gt;" in html
