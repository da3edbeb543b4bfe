"""A job that was accepted is finished, cancelled by its owner or reported with a reason, whatever is killed meanwhile.

On real worker processes and real servers. tests/test_postgres.py runs many of these on PostgreSQL.
"""

from __future__ import annotations

import base64
import json
import logging
import multiprocessing
import os
import random
import signal
import sqlite3
import subprocess
import sys
import time
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, suppress
from pathlib import Path

import pytest

from tests import fakes, media, processes
from tests.processes import until
from tests.servers import PROJECT, Server, free_port, serving
from webui.artifacts import STATE
from webui.errors import InvalidRequest
from webui.jobs import keeping, pool, slots, store, worker
from webui.jobs.service import JobService
from webui.jobs.store import Record
from webui.jobs.types import OUT_OF_MEMORY, UNEXPECTED, Job, JobState, Loaded, Query

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="looks at processes through /proc")


class Journal:
    """What the steps of a test's jobs have noted, see fakes.note."""

    def __init__(self, path: Path):
        self.path = path

    @property
    def entries(self) -> list[tuple[str, int]]:
        """(what, process) in order."""
        lines = self.path.read_text(encoding="utf-8").splitlines() if self.path.exists() else []
        return [(what, int(pid)) for what, _, pid in (line.rpartition(" by ") for line in lines)]

    @property
    def counts(self) -> Counter[str]:
        return Counter(what for what, _ in self.entries)

    @property
    def last(self) -> int:
        """The process of the newest entry."""
        return self.entries[-1][1]

    def wait(self, what: str, times: int = 1, seconds: float = 20) -> int:
        """Wait until it was noted so often; the process that did."""
        until(lambda: self.counts[what] >= times, seconds)
        return [pid for entry, pid in self.entries if entry == what][-1]


@pytest.fixture
def database_url() -> str | None:
    """Where the jobs are; None is the SQLite file in the outputs folder."""
    return None


@pytest.fixture
def outputs(tmp_path: Path) -> Path:
    return tmp_path / "outputs"


@pytest.fixture
def journal(tmp_path: Path) -> Journal:
    return Journal(tmp_path / "journal")


Studio = Callable[..., JobService]


@pytest.fixture
def studio(outputs: Path, database_url: str | None, monkeypatch: pytest.MonkeyPatch) -> Iterator[Studio]:
    """Starts job services on the test's outputs folder, and closes them. Workers are replaced at once."""
    monkeypatch.setattr(pool, "PAUSES", (0.0,))
    with ExitStack() as stack:

        def start(**chosen) -> JobService:
            service = fakes.studio(outputs, **{"database_url": database_url, **chosen})
            stack.callback(service.close)
            return service

        yield start


@pytest.fixture
def service(studio: Studio) -> JobService:
    return studio()


def submit(service: JobService, journal: Journal, *, priority: int = 0, target: Path | None = None, **request) -> str:
    asked = {"journal": str(journal.path), "seed": 100, **request}
    return service.submit("steps", asked, priority=priority, target=target).id


def text(job: Job) -> str:
    """What the job's file says."""
    assert job.result is not None, job.error
    return job.result.artifacts[0].path.read_text(encoding="utf-8").replace("\0", "")


def numbers(count: int) -> str:
    return "".join(f"{100 + number}\n" for number in range(count))


def done(job: Job, count: int) -> None:
    """The job is done, with the file that an uninterrupted run makes."""
    assert (job.state, job.error) == (JobState.DONE, None)
    assert text(job) == numbers(count)


# A worker dies.


def test_a_killed_worker_costs_the_step_it_was_in(service: JobService, journal: Journal, caplog: pytest.LogCaptureFixture):
    caplog.set_level(logging.INFO)
    first = submit(service, journal, trouble="kill", where="3", loud=True)
    following = service.submit("count", {"steps": 2, "seed": 7})
    job = service.wait(first, 30)
    done(job, 8)
    assert journal.counts == {**{f"step {number}": 1 for number in range(8)}, "step 3": 2, "end": 1}
    assert len({pid for _, pid in journal.entries}) == 2
    assert any("goes on after its 3 finished steps" in line for line in job.log)
    assert job.warnings == ("This is loud.",)
    assert "SIGKILL" in caplog.text
    assert text(service.wait(following.id, 20)) == "7\n8\n"


@pytest.mark.parametrize("trouble", ["segfault", "exit"])
def test_a_crash_of_the_worker_is_survived(service: JobService, journal: Journal, trouble: str):
    job = service.wait(submit(service, journal, trouble=trouble, where="2", steps=4), 30)
    done(job, 4)
    assert journal.counts["step 1"] == 1 and journal.counts["step 2"] == 2


def test_a_worker_that_is_asked_to_end_puts_its_job_back(service: JobService, journal: Journal):
    """However often: that is no fault of the job."""
    job_id = submit(service, journal, steps=3, pause=0.5)
    for time_ in (1, 2, 3):
        processes.kill(journal.wait("step 0", time_), signal.SIGTERM)
    job = service.wait(job_id, 30)
    done(job, 3)
    assert not any("ended unexpectedly" in line for line in job.log)


def test_a_worker_whose_terminal_is_closed_goes_on(service: JobService, journal: Journal):
    job_id = submit(service, journal, steps=4, pause=0.3)
    for step in (0, 1, 2):
        processes.kill(journal.wait(f"step {step}"), signal.SIGHUP)
    done(service.wait(job_id, 30), 4)
    assert set(journal.counts.values()) == {1}


def test_a_job_that_kills_its_worker_twice_in_one_step_is_given_up(
    service: JobService, journal: Journal, outputs: Path, database_url: str | None
):
    job_id = submit(service, journal, trouble="kill", where="1", times=100, steps=3)
    following = submit(service, journal, steps=1)
    job = service.wait(job_id, 30)
    assert (job.state, job.error_type) == (JobState.FAILED, "WorkerDied")
    assert "2 times at the same place (last heard: making number" in job.error
    done(service.wait(following, 20), 1)
    assert journal.counts["step 1"] == 2
    if database_url is None:
        until(lambda: rows(outputs, "select count(*) from workflow_status where status = 'PENDING'") == [(0,)])
    assert not list((outputs / STATE / "steps").glob("*"))


def rows(outputs: Path, query: str) -> list[tuple]:
    """What the file of the jobs holds; a change is made at once."""
    with closing(sqlite3.connect(outputs / STATE / "jobs.sqlite", isolation_level=None)) as connection:
        return connection.execute(query).fetchall()


@pytest.mark.parametrize("change", ["application_version = '0'", "status = 'ERROR'"])
def test_a_job_that_cannot_be_resumed_is_begun_again(studio: Studio, outputs: Path, journal: Journal, change: str):
    """It was begun by another version, or its steps were closed by mistake: it costs the work, not the job."""
    service = studio()
    job_id = submit(service, journal, steps=3, pause=0.5)
    journal.wait("step 1")
    service.close()
    rows(outputs, f"update workflow_status set {change}")
    done(studio().wait(job_id, 20), 3)
    assert journal.counts["step 0"] == 2


def test_a_job_that_kills_a_worker_in_several_steps_is_done(service: JobService, journal: Journal):
    job = service.wait(submit(service, journal, trouble="kill", where="0,1,3", steps=4), 60)
    done(job, 4)
    assert journal.counts == {"step 0": 2, "step 1": 2, "step 2": 1, "step 3": 2, "end": 1}


def test_a_worker_that_waits_for_work_is_replaced(service: JobService, journal: Journal):
    service.wait(submit(service, journal, steps=1), 20)
    processes.kill(journal.last)
    done(service.wait(submit(service, journal, steps=2), 20), 2)


def test_running_out_of_memory_fails_the_job_alone(service: JobService, journal: Journal):
    for trouble in ("memory", "greedy"):
        job = service.wait(submit(service, journal, trouble=trouble, where="1", times=9), 30)
        assert (job.state, job.error, job.error_type) == (JobState.FAILED, OUT_OF_MEMORY, "OutOfMemory")
    done(service.wait(submit(service, journal, steps=2), 20), 2)
    assert len({pid for _, pid in journal.entries}) == 1


def test_a_bug_in_a_step_fails_the_job_alone(service: JobService, journal: Journal):
    job = service.wait(submit(service, journal, trouble="error", where="1", times=9), 30)
    assert (job.state, job.error, job.error_type) == (JobState.FAILED, UNEXPECTED, "")
    assert journal.counts["step 1"] == 1


# The disk is full.


def test_a_full_disk_fails_the_job_with_a_sentence(service: JobService, journal: Journal, outputs: Path):
    before = service.wait(submit(service, journal, steps=2), 20)
    job = service.wait(submit(service, journal, trouble="full", where="1", times=9), 20)
    assert (job.state, job.error_type) == (JobState.FAILED, "StorageError")
    assert "is full. Free some space" in job.error
    assert not list((outputs / STATE / "steps").glob("*"))
    done(service.get(before.id), 2)
    done(service.wait(submit(service, journal, steps=2), 20), 2)


@pytest.fixture
def small_disk(outputs: Path) -> Iterator[Path]:
    """The outputs folder on a disk of 24 MB of its own."""
    outputs.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=24m", "galatea-test", str(outputs)]
    if os.geteuid() != 0 or subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("only the system's owner can make a disk")
    yield outputs
    subprocess.run(["umount", "--lazy", str(outputs)], check=True)


@pytest.mark.outside_ci
def test_a_disk_that_fills_up_fails_the_job_alone(small_disk: Path, service: JobService, journal: Journal):
    """With the table of jobs on the same disk."""
    before = service.wait(submit(service, journal, steps=2), 20)
    job = service.wait(submit(service, journal, steps=8, megabytes=4), 30)
    assert (job.state, job.error_type) == (JobState.FAILED, "StorageError"), job.error
    assert "is full. Free some space" in job.error
    done(service.get(before.id), 2)
    done(service.wait(submit(service, journal, steps=2), 20), 2)


@pytest.mark.outside_ci
def test_a_disk_without_a_free_byte_ends_no_queue(small_disk: Path, service: JobService, journal: Journal):
    """Somebody else fills it while a job runs: the job waits for the table, or fails. Freed again, all goes on."""
    job_id = submit(service, journal, steps=30, pause=0.1)
    journal.wait("step 2")
    filler = small_disk / "filler"
    with pytest.raises(OSError, match="No space"), open(filler, "wb") as file:
        while True:
            file.write(bytes(4096))
            file.flush()
    until(lambda: service.get(job_id).stage == worker.WAITING)
    filler.unlink()
    job = service.wait(job_id, 30)
    assert job.state is JobState.DONE or job.error_type == "StorageError", job
    done(service.wait(submit(service, journal, steps=2), 20), 2)


# Cancelling.


def test_a_queued_job_is_cancelled_at_once(service: JobService, journal: Journal):
    running = submit(service, journal, pause=0.5)
    waiting = submit(service, journal)
    journal.wait("step 0")
    begun = time.monotonic()
    assert service.cancel(waiting).state is JobState.CANCELLED
    assert time.monotonic() - begun < 0.3
    service.cancel(running)


def test_a_running_job_stops_within_a_second_and_keeps_what_it_made(service: JobService, journal: Journal):
    job_id = submit(service, journal, pause=0.3)
    journal.wait("step 3")
    begun = time.monotonic()
    service.cancel(job_id)
    job = service.wait(job_id, 20)
    assert time.monotonic() - begun < 1
    assert job.state is JobState.CANCELLED
    assert text(job) == numbers(4)


def test_what_is_skipped_is_left_out_once_and_the_next_goes_on(service: JobService, journal: Journal):
    job_id = submit(service, journal, steps=4, pause=1.0)
    journal.wait("step 1")
    service.skip(job_id)
    processes.kill(journal.wait("step 2"))  # what was skipped is not asked for again in the job's second life
    job = service.wait(job_id, 20)
    assert text(job) == "100\n102\n103\n" and journal.counts["skip 1"] == 1
    assert service.skip(job_id).state is JobState.DONE


def test_another_studio_on_the_same_table_can_skip(studio: Studio, journal: Journal):
    first, second = studio(), studio()
    job_id = submit(first, journal, steps=2, pause=30.0)
    for number in range(2):
        journal.wait(f"step {number}")
        (first if number else second).skip(job_id)
    assert first.wait(job_id, 20).error == "Nothing was made."


def test_nothing_is_skipped_that_has_not_begun_or_is_all_there_is(service: JobService, journal: Journal):
    running, waiting = submit(service, journal, steps=1, pause=30.0), submit(service, journal)
    journal.wait("step 0")
    with pytest.raises(InvalidRequest, match="has not begun"):
        service.skip(waiting)
    service.cancel(running)
    with pytest.raises(InvalidRequest, match="makes one thing alone"):
        service.skip(service.submit("count", {}).id)


def test_what_a_worker_holds_in_memory_is_told_and_let_go(service: JobService, journal: Journal):
    assert service.loaded() == ()
    service.wait(submit(service, journal, steps=1), 20)
    until(lambda: service.loaded() == (Loaded("numbers", 1001, "cpu"),))
    service.wait(submit(service, journal, steps=2), 20)
    until(lambda: len(service.loaded()) == 2)
    service.unload()
    until(lambda: service.loaded() == ())
    service.wait(submit(service, journal, steps=3), 20)
    until(lambda: len(service.loaded()) == 1)
    processes.kill(journal.last)
    until(lambda: service.loaded() == ())


def test_a_cancelled_job_whose_worker_was_killed_keeps_its_finished_steps(service: JobService, journal: Journal):
    job_id = submit(service, journal, pause=30.0, where="3", deaf=True)
    # Each step rests half a minute: only those that were finished by an earlier run can be in the result.
    worker = journal.wait("step 0")
    service.cancel(job_id)
    processes.kill(worker)
    job = service.wait(job_id, 20)
    assert (job.state, job.result) == (JobState.CANCELLED, None)
    job_id = submit(service, journal, pause=0.5)
    worker = journal.wait("step 3")
    service.cancel(job_id)
    processes.kill(worker)
    job = service.wait(job_id, 20)
    assert job.state is JobState.CANCELLED
    assert text(job) == numbers(3)
    assert journal.counts["step 1"] == 1


def test_a_job_that_does_not_listen_is_ended_by_force(service: JobService, journal: Journal, monkeypatch):
    monkeypatch.setattr(pool, "UNHEARD", 0.5)
    job_id = submit(service, journal, pause=60.0, deaf=True)
    journal.wait("step 0")
    service.cancel(job_id)
    job = service.wait(job_id, 20)
    assert job.state is JobState.CANCELLED
    done(service.wait(submit(service, journal, steps=2), 20), 2)


def test_a_job_that_does_not_listen_in_its_second_life_either(service: JobService, journal: Journal, monkeypatch):
    """It has something to keep, so it is begun again; it hears as little as before."""
    monkeypatch.setattr(pool, "UNHEARD", 0.5)
    job_id = submit(service, journal, pause=2.0, deaf=True, steps=20)
    journal.wait("step 1")
    service.cancel(job_id)
    job = service.wait(job_id, 20)
    assert job.state is JobState.CANCELLED
    assert text(job) == numbers(1)


def test_a_job_that_is_busy_with_what_it_keeps_is_let_be(service: JobService, journal: Journal, monkeypatch):
    monkeypatch.setattr(pool, "UNHEARD", 0.5)
    job_id = submit(service, journal, pause=0.3, keeping=2.0)
    journal.wait("step 2")
    service.cancel(job_id)
    job = service.wait(job_id, 20)
    assert (job.state, text(job)) == (JobState.CANCELLED, numbers(3))


def put_row(service: JobService, **changes) -> str:
    """A job of an earlier studio."""
    record = Record("c" * 32, "steps", JobState.QUEUED, {"journal": "j"}, 1, time.time(), **changes)
    service._store.add(record)
    return record.id


def test_a_begun_job_that_waits_with_nothing_to_keep_is_cancelled_at_once(service: JobService, journal: Journal):
    busy = submit(service, journal, pause=5.0)
    journal.wait("step 0")
    waiting = put_row(service, attempts=1)
    assert service.cancel(waiting).state is JobState.CANCELLED
    service.cancel(busy)


def test_a_job_of_a_kind_that_is_gone_can_be_cancelled_and_deleted(service: JobService):
    service._store.add(Record("d" * 32, "gone", JobState.QUEUED, {}, 1, time.time(), attempts=2, steps=5))
    assert service.cancel("d" * 32).state is JobState.CANCELLED
    service.delete("d" * 32)


# Several computers.


def test_a_worker_that_has_lost_its_job_leaves_nothing(service: JobService, journal: Journal, outputs: Path):
    """It was silent for so long, asleep with its laptop perhaps, that another computer's worker has the job now."""
    job_id = submit(service, journal, pause=0.5, steps=5)
    journal.wait("step 2")
    seen = {"worker": "elsewhere:00000000:0:aaaaaaaa", "seen": time.time() + 1e6}
    assert service._store._update_one(store._jobs.c.id == job_id, **seen)
    done(service.wait(submit(service, Journal(journal.path.with_name("next")), steps=1), 20), 1)
    files = {path.name for path in (outputs / STATE / "steps" / job_id).iterdir()}
    assert files == {"0.txt", "1.txt"} and service.get(job_id).state is JobState.RUNNING
    assert not list((outputs / "steps").glob("*.part")) and journal.counts["end"] == 0
    service._store._update_one(store._jobs.c.id == job_id, seen=0.0)
    done(service.wait(job_id, 20), 5)
    assert journal.counts["step 1"] == 1 and journal.counts["step 2"] == 2


def test_another_computers_worker_is_dead_after_a_minute_of_silence(tmp_path: Path):
    slot = slots.Slot(tmp_path)
    for silent, dead in ((0.0, False), (slots.SILENT - 1, False), (slots.SILENT + 1, True)):
        assert slot.is_dead("elsewhere:00000000:0:aaaaaaaa", 1000.0, 1000.0 + silent) is dead
    assert not slot.is_dead(slot.name, 0.0, 1e9), "whoever holds a lock here lives, however silent"
    slot.release()


@pytest.mark.parametrize("here", [True, False])
def test_what_the_command_line_queued_before_it_died_is_done_where_its_files_are(
    service: JobService, journal: Journal, tmp_path: Path, here: bool
):
    home = slots.home_of(slots.Slot(service._state / "slots").name) if here else "elsewhere:00000000"
    target = str(tmp_path / "result.txt")
    request = {"journal": str(journal.path), "seed": 100, "steps": 2}
    service._store.add(
        Record("e" * 32, "steps", JobState.QUEUED, request, 100, time.time(), target=target, only_for=f"{home}:200:aaaaaaaa")
    )
    job = service.wait("e" * 32, 20 if here else 3)
    assert job.state is (JobState.DONE if here else JobState.QUEUED)


# The server goes.


@pytest.fixture
def house(outputs: Path, tmp_path: Path, database_url: str | None) -> Iterator[Callable[..., Server]]:
    """Starts real servers on the test's outputs folder, and ends them."""
    package = fakes.write_extension(tmp_path / "extensions", "steps", 'jobs = "steps.jobs:KINDS"\n', jobs=fakes.STEPS_JOBS).parent
    with ExitStack() as stack:

        def start(*flags: str) -> Server:
            port = free_port()
            command = fakes.start_program(package, "--port", str(port), "--outputs-dir", str(outputs), *flags)
            environ = {} if database_url is None else {"GALATEA_DATABASE_URL": database_url}
            return stack.enter_context(serving(command, port, tmp_path / "temp", **environ))

        yield start


def post(server: Server, journal: Journal, priority: int = 0, **request) -> str:
    body = {"kind": "steps", "request": {"journal": str(journal.path), "seed": 100, **request}, "priority": priority}
    return server.post("/api/jobs", body)["id"]


def read(server: Server, path: str) -> dict:
    status, body = server.get(path)
    assert status == 200, body
    return json.loads(body)


def ended(server: Server, job_id: str, seconds: float = 30) -> dict:
    """The job once it has finished."""
    until(lambda: read(server, f"/api/jobs/{job_id}")["state"] in ("done", "failed", "cancelled"), seconds)
    return read(server, f"/api/jobs/{job_id}")


def content(server: Server, job: dict) -> str:
    assert job["state"] == "done", job
    return server.get(f"/api/artifacts/{job['result']['artifacts'][0]['id']}")[1].decode()


def test_nothing_outlives_a_killed_server_but_its_jobs(house: Callable[..., Server], journal: Journal):
    server = house()
    job_id, waiting = post(server, journal, pause=0.5), post(server, journal, steps=1)
    journal.wait("step 3")
    family = processes.descendants(server.process.pid)
    assert journal.last in family
    server.process.kill()
    assert until(lambda: not any(map(processes.lives, family))) < 2
    server = house()
    assert content(server, ended(server, job_id)) == numbers(8)
    assert content(server, ended(server, waiting)) == numbers(1)
    assert journal.counts["step 2"] == 1 and journal.counts["step 3"] == 2


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGINT])
def test_a_stopped_server_puts_its_jobs_back(house: Callable[..., Server], journal: Journal, how: signal.Signals):
    server = house()
    job_id = post(server, journal, pause=0.5)
    ends = {name: post(server, Journal(journal.path), priority, steps=1, seed=seed) for name, priority, seed in WAITING}
    journal.wait("step 3")
    worker = journal.last
    begun = time.monotonic()
    server.process.send_signal(how)
    assert server.process.wait(20) == 0
    assert time.monotonic() - begun < 5
    assert not processes.lives(worker)
    server = house()
    assert content(server, ended(server, job_id)) == numbers(8)
    finished = {name: ended(server, job)["finished"] for name, job in ends.items()}
    assert sorted(finished, key=finished.get) == ["urgent", "first", "second", "late"]
    assert journal.counts["step 2"] == 1
    assert "ended unexpectedly" not in str(read(server, f"/api/jobs/{job_id}")["log"])


WAITING = [("late", -5, 1), ("first", 0, 2), ("second", 0, 3), ("urgent", 9, 4)]


def test_a_waiting_job_can_be_moved(service: JobService, journal: Journal):
    running = submit(service, journal, pause=0.3, steps=3)
    jobs = [submit(service, journal, steps=1, seed=seed) for seed in range(3)]
    journal.wait("step 0")
    assert service.prioritise(jobs[2], 5).priority == 5
    service.prioritise(jobs[0], -5)
    ends = [service.wait(job, 20).finished for job in jobs]
    assert ends[2] < ends[1] < ends[0]
    for job in (running, jobs[0]):
        with pytest.raises(InvalidRequest, match="does not wait"):
            service.prioritise(job, 1)


# Several that serve one table.


def test_no_job_is_run_twice(studio: Studio, outputs: Path, journal: Journal, database_url: str | None):
    service = studio()
    context = multiprocessing.get_context("spawn")
    over = context.Event()
    other = context.Process(target=fakes.other_studio, args=(outputs, {"database_url": database_url}, over))
    other.start()
    try:
        jobs = [submit(service, journal, steps=1, pause=0.05) for _ in range(40)]
        for job in jobs:
            done(service.wait(job, 60), 1)
    finally:
        over.set()
        other.join(20)
    assert other.exitcode == 0
    assert journal.counts == {"step 0": 40, "end": 40}
    workers = Counter(pid for what, pid in journal.entries if what == "end")
    assert len(workers) == 2 and min(workers.values()) >= 10


CommandLine = Callable[..., subprocess.Popen]


@pytest.fixture
def command_line(outputs: Path, tmp_path: Path, database_url: str | None) -> CommandLine:
    """Starts `app.py steps` on the test's outputs folder."""
    extensions = tmp_path / "command line"
    fakes.write_extension(extensions, "steps", 'jobs = "steps.jobs:KINDS"\n', jobs=fakes.STEPS_JOBS)
    environ = os.environ | ({} if database_url is None else {"GALATEA_DATABASE_URL": database_url})

    def start(journal: Journal, *flags: str) -> subprocess.Popen:
        fields = ["--journal", str(journal.path), "--seed", "100", "--outputs-dir", str(outputs)]
        command = fakes.start_program(extensions, "steps", *fields, *flags)
        return subprocess.Popen(command, cwd=PROJECT, env=environ, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    return start


def test_a_server_finishes_what_a_killed_command_line_began(
    command_line: CommandLine, studio: Studio, journal: Journal, tmp_path: Path
):
    target = tmp_path / "result.txt"
    with command_line(journal, "--pause", "0.5", "--out", str(target)) as process:
        journal.wait("step 3")
        process.kill()
    assert not target.exists()
    service = studio()
    [job], _ = service.history(Query())
    done(service.wait(job.id, 20), 8)
    assert target.read_text() == numbers(8)
    assert journal.counts["step 2"] == 1 and journal.counts["step 3"] == 2


def test_server_and_command_line_leave_each_other_their_jobs(
    command_line: CommandLine, studio: Studio, journal: Journal, tmp_path: Path
):
    service = studio()
    theirs, ours = Journal(tmp_path / "theirs"), journal
    with command_line(theirs, "--steps", "6", "--pause", "1") as process:
        theirs.wait("step 0")
        mine = [submit(service, ours, steps=1, pause=0.1) for _ in range(5)]
        for job in mine:
            done(service.wait(job, 20), 1)
        [job] = [job for job in service.jobs() if job.id not in mine]
        assert job.state is JobState.RUNNING
        done(service.wait(job.id, 20), 6)
        assert process.wait(20) == 0
    assert {pid for _, pid in theirs.entries}.isdisjoint(pid for _, pid in ours.entries)
    assert len({pid for _, pid in theirs.entries}) == 1


# What is kept, and how long.


def old(path: Path, days: float = 1.1) -> None:
    moment = time.time() - days * keeping.DAY
    os.utime(path, (moment, moment))


def test_uploads_stay_while_a_job_needs_them(service: JobService, outputs: Path, tmp_path: Path):
    source = tmp_path / "text.txt"
    ids = []
    for content_ in ("used\n", "unused\n", "young\n"):
        source.write_text(content_)
        ids.append(service._artifacts.upload(source).id)
    used, unused, young = ids
    job = service.wait(service.submit("count", {"source": used, "steps": 1, "seed": 1}).id, 20)
    for artifact_id in (used, unused):
        old(outputs / "uploads" / artifact_id)
    service.sweep()
    kept = {path.name for path in (outputs / "uploads").iterdir()}
    assert kept == {used, young}
    service.delete(job.id)
    service.sweep()
    assert (outputs / "uploads" / used).exists()  # the job may be restored
    service._keeping.sweep(time.time() + 1.1 * keeping.DAY)
    assert {path.name for path in (outputs / "uploads").iterdir()} == {young}


def test_what_an_unfinished_job_works_on_is_kept(studio: Studio, journal: Journal):
    service = studio(keep_days=1.0)
    made = service.wait(service.submit("count", {"steps": 2, "seed": 5}).id, 20)
    busy = submit(service, journal, pause=2.0, steps=2)
    journal.wait("step 0")
    waiting = service.submit("count", {"source": made.result.artifacts[0].id, "steps": 1, "seed": 1})
    with pytest.raises(InvalidRequest, match="works on a file of this one"):
        service.delete(made.id)
    service._keeping.sweep(time.time() + 2 * keeping.DAY)
    service.cancel(busy)
    assert text(service.wait(waiting.id, 20)) == "5\n6\n1\n"
    service.delete(made.id)


def test_a_sweep_stumbles_over_nothing(service: JobService, outputs: Path):
    for folder in ("uploads", f"{STATE}/steps"):
        (outputs / folder).mkdir(parents=True, exist_ok=True)
        for name in ("a" * 32, "b" * 32):
            (outputs / folder / name).mkdir()
    old(outputs / STATE / "steps" / ("a" * 32))
    (outputs / "uploads" / ("c" * 32)).symlink_to(outputs / "nowhere")
    service.sweep()
    assert [path.name for path in (outputs / STATE / "steps").iterdir()] == ["b" * 32], "a young one may be another table's"


def test_a_delete_that_was_cut_short_is_finished_by_the_sweep(service: JobService):
    job = service.wait(service.submit("count", {"steps": 2}).id, 20)
    service._store.delete(job.id)
    service._keeping.sweep(time.time() + 1.1 * keeping.DAY)
    assert not job.result.artifacts[0].path.exists()


def test_a_deleted_job_comes_back_with_its_files(service: JobService, outputs: Path):
    job = service.wait(service.submit("count", {"steps": 2, "seed": 5}).id, 20)
    path = job.result.artifacts[0].path
    service.delete(job.id)
    assert not path.exists() and service.history(Query()) == ([], 0)
    assert service.usage().trash == 4 and service.usage().results == 0
    with pytest.raises(InvalidRequest, match="no job"):
        service.get(job.id)
    back = service.restore(job.id)
    assert (text(back), back.request, back.result.data) == ("5\n6\n", job.request, job.result.data)
    assert service.get(job.id).state is JobState.DONE
    assert service.usage().trash == 0
    service.delete(job.id)
    service._keeping.sweep(time.time() + 0.9 * keeping.DAY)
    assert text(service.restore(job.id)) == "5\n6\n"
    service.delete(job.id)
    service._keeping.sweep(time.time() + 1.1 * keeping.DAY)
    with pytest.raises(InvalidRequest, match="cannot be brought back"):
        service.restore(job.id)
    assert not list((outputs / STATE / "trash").iterdir())
    assert not list((outputs / STATE / "thumbnails").iterdir())


def test_the_retention_rule_removes_old_jobs_for_good(studio: Studio, outputs: Path, journal: Journal):
    service = studio(keep_days=3.0)
    job = service.wait(service.submit("count", {"steps": 2}).id, 20)
    running = submit(service, journal, pause=0.5, steps=4)
    journal.wait("step 0")
    service._keeping.sweep(time.time() + 2.9 * keeping.DAY)
    assert service.history(Query())[1] == 2
    service._keeping.sweep(time.time() + 3.1 * keeping.DAY)
    assert [job.id for job in service.history(Query())[0]] == [running]
    assert not job.result.artifacts[0].path.exists()
    assert not list((outputs / STATE / "thumbnails").iterdir())
    done(service.wait(running, 20), 4)


def test_without_a_rule_nothing_is_removed(service: JobService):
    job = service.wait(service.submit("count", {"steps": 2}).id, 20)
    service._keeping.sweep(time.time() + 1000 * keeping.DAY)
    assert service.history(Query())[1] == 1 and job.result.artifacts[0].path.exists()


# Many jobs, many watchers, and the real thing.


def resident(pid: int) -> float:
    """Kilobytes."""
    return float(processes.status(pid)["VmRSS"].split()[0])


def watched(server: Server, job_id: str) -> str:
    """The name of the last event that a watcher is sent."""
    with urllib.request.urlopen(f"{server.url}/api/jobs/{job_id}/events", timeout=60) as stream:
        return [line.split()[1].decode() for line in stream if line.startswith(b"event:")][-1]


def test_many_jobs_and_watchers(house: Callable[..., Server], journal: Journal):
    server = house()
    until(lambda: "Ready for 'txt2img'" in server.log, 60)  # the last kind that the worker imports something for
    memory = []
    with ThreadPoolExecutor(10) as watchers:
        for _ in range(3):
            jobs = [post(server, journal, steps=1) for _ in range(33)]
            lasts = list(watchers.map(lambda job_id: watched(server, job_id), jobs[::3]))
            assert lasts == ["finished"] * 11
            assert content(server, ended(server, jobs[-1])) == "100\n"
            memory.append([resident(server.process.pid), resident(journal.last)])
    assert journal.counts == {"step 0": 99, "end": 99}
    for before, after in zip(memory[0], memory[-1], strict=True):
        assert after < 1.1 * before, memory


@pytest.mark.long
def test_a_talking_head_is_the_same_file_however_often_it_is_killed(outputs: Path, tmp_path: Path, portrait_file):
    """Four segments long, and killed in the first three."""
    dice, voice_file = random.Random(3), media.write_wav(tmp_path / "voice.wav", 16.0)
    with ExitStack() as stack:

        def start() -> Server:
            port = free_port()
            command = [sys.executable, "app.py", "--port", str(port), "--outputs-dir", str(outputs)]
            return stack.enter_context(serving(command, port, tmp_path / "temp"))

        def submit() -> str:
            request = {"portrait": portrait, "voice": voice, "seed": 1, "size": 256, "fps": 60.0}
            return server.post("/api/jobs", {"kind": "talk", "request": request})["id"]

        def made(job_id: str) -> bytes:
            job = ended(server, job_id, 120)
            assert job["state"] == "done", job
            return server.get(f"/api/artifacts/{job['result']['artifacts'][0]['id']}")[1]

        server = start()
        portrait, voice = (
            server.post("/api/artifacts", {"name": path.name, "base64": base64.b64encode(path.read_bytes()).decode()})["id"]
            for path in (portrait_file, voice_file)
        )
        begun = time.monotonic()
        expected = made(submit())
        whole = time.monotonic() - begun
        job_id = submit()
        steps = outputs / STATE / "steps" / job_id
        for finished, victim in enumerate(("worker", "server", "both")):
            # At another segment each time: two deaths at the same place would be held against the job.
            until(lambda finished=finished: len(list(steps.glob("segment-*.mp4"))) >= finished, 60)
            time.sleep(dice.uniform(0.0, 0.1) * whole)
            family = processes.descendants(server.process.pid)
            if victim != "worker":
                processes.kill(server.process.pid)
            if victim != "server":
                for pid in family:
                    with suppress(ProcessLookupError):
                        processes.kill(pid)
            # Encoders of theirs may have a little to finish.
            until(lambda family=family: not any(map(processes.lives, family)), 10)
            if victim != "worker":
                server = start()
        assert made(job_id) == expected
