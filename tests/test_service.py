"""The job service: what a job goes through, what watchers see, and how each kind of ending looks.

On a worker in this process; tests/test_durable.py has those that need worker processes.
"""

from __future__ import annotations

import io
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
import sqlalchemy as sa
from PIL import Image

from extensions.sadtalker.jobs import KINDS as TALK_KINDS
from tests import fakes
from tests.processes import until
from webui.artifacts import STATE, Artifacts
from webui.errors import InvalidRequest, StorageError
from webui.jobs import preview, store
from webui.jobs.board import JobBoard
from webui.jobs.pool import OwnWorker, Pool, WorkerProcesses
from webui.jobs.running import Pace
from webui.jobs.service import JobService
from webui.jobs.store import Record, Store
from webui.jobs.types import UNEXPECTED, Job, JobKind, JobResult, JobState, Query
from webui.jobs.workflow import Workflows
from webui.settings import Settings


@pytest.fixture
def artifacts(tmp_path: Path) -> Artifacts:
    return Artifacts(tmp_path / "outputs")


@pytest.fixture
def service(artifacts: Artifacts) -> Iterator[JobService]:
    service = serving(artifacts, fakes.COUNT, fakes.FAIL, *TALK_KINDS)
    yield service
    service.close()


def serving(artifacts: Artifacts, *kinds: JobKind) -> JobService:
    return JobService(kinds, artifacts, Settings(outputs_dir=artifacts.root), alone=True)


@pytest.fixture
def serve(artifacts: Artifacts) -> Iterator[Callable[..., JobService]]:
    """Starts services of certain kinds, and closes them."""
    with ExitStack() as stack:

        def start(*kinds: JobKind) -> JobService:
            service = serving(artifacts, *kinds)
            stack.callback(service.close)
            return service

        yield start


def files(root: Path) -> list[Path]:
    """What jobs have made, without what the studio keeps for itself."""
    return [path for path in root.rglob("*") if path.is_file() and STATE not in path.parts]


def test_a_job_is_done_with_its_file_and_facts(service: JobService):
    job = service.wait(service.submit("count", {"steps": 3, "seed": 7, "loud": True}).id, 20)
    assert job.state is JobState.DONE
    assert job.fraction == 1.0
    assert job.warnings == ("This is loud.",)
    assert job.result.data["done"] == 3
    assert job.result.artifacts[0].path.read_text() == "7\n8\n9\n"


def test_a_seed_is_drawn_once_when_none_is_given(service: JobService):
    seeds = {service.wait(service.submit("count", {"steps": 1}).id, 20).result.data["seed"] for _ in range(5)}
    assert len(seeds) == 5
    assert all(0 <= seed <= 2**32 - 1 for seed in seeds)
    assert service.wait(service.submit("count", {"steps": 1, "seed": 0}).id, 20).result.data["seed"] == 0


def test_jobs_run_one_after_another_in_order(artifacts: Artifacts):
    order: list[int] = []

    def note(_ctx, request) -> JobResult:
        order.append(request.steps)
        time.sleep(0.01)
        order.append(request.steps)
        return JobResult((), {})

    service = serving(artifacts, JobKind("note", "Noting", fakes.CountRequest, note))
    jobs = [service.submit("note", {"steps": number}) for number in (1, 2, 3)]
    for job in jobs:
        service.wait(job.id, 20)
    service.close()
    assert order == [1, 1, 2, 2, 3, 3]
    assert [job.id for job in service.jobs()] == [job.id for job in jobs]


def test_a_watcher_sees_progress_previews_and_time_left(service: JobService):
    job = service.submit("count", {"steps": 30, "pause": 0.05})
    seen = [job]
    while not seen[-1].state.finished:
        seen.append(service.watch(job.id, seen[-1].version, 20))
    versions = [snapshot.version for snapshot in seen]
    fractions = [snapshot.fraction for snapshot in seen]
    assert versions == sorted(set(versions))
    assert fractions == sorted(fractions)
    assert any(0.0 < (snapshot.eta or 0.0) < 3.0 for snapshot in seen)
    pictures = {snapshot.preview for snapshot in seen} - {None}
    assert 2 <= len(pictures) <= 2 + 8 * 30 * 0.1
    picture = Image.open(io.BytesIO(pictures.pop()))
    assert picture.format == "JPEG" and picture.size == (384, 288)
    assert seen[-1].preview is None


def test_nothing_is_encoded_when_nobody_can_see_it(service: JobService):
    job = service.submit("count", {"steps": 5, "pause": 0.01}, previews=False)
    while not job.state.finished:
        job = service.watch(job.id, job.version, 20)
        assert job.preview is None


def test_watching_returns_at_its_timeout(artifacts: Artifacts):
    kind, started, release = fakes.holding()
    service = serving(artifacts, kind)
    job = service.submit("hold", {})
    assert started.wait(20)
    begun = time.monotonic()
    same = service.watch(job.id, service.get(job.id).version, 0.1)
    assert 0.05 < time.monotonic() - begun < 5
    assert not same.state.finished
    release.set()
    service.close()


def test_a_cancelled_job_keeps_what_it_made(service: JobService):
    job = service.submit("count", {"steps": 1000, "pause": 0.01, "seed": 0})
    while job.fraction == 0:
        job = service.watch(job.id, job.version, 20)
    begun = time.monotonic()
    service.cancel(job.id)
    job = service.wait(job.id, 20)
    assert time.monotonic() - begun < 1
    assert job.state is JobState.CANCELLED
    assert 0 < job.fraction < 1
    lines = job.result.artifacts[0].path.read_text().splitlines()
    assert len(lines) == job.result.data["done"] > 0


def test_a_job_cancelled_in_the_queue_never_starts(artifacts: Artifacts):
    kind, started, release = fakes.holding()
    service = serving(artifacts, kind, fakes.COUNT)
    service.submit("hold", {})
    assert started.wait(20)
    waiting = service.submit("count", {"steps": 1})
    assert service.cancel(waiting.id).state is JobState.CANCELLED
    release.set()
    service.close()
    assert service.get(waiting.id).result is None
    assert files(artifacts.root) == []


def test_cancelled_with_nothing_to_keep(artifacts: Artifacts):
    started = threading.Event()

    def stubborn(ctx, _request) -> JobResult:
        started.set()
        while not ctx.cancelled:
            time.sleep(0.005)
        return fakes.count(ctx, fakes.CountRequest(steps=2))

    service = serving(artifacts, JobKind("count", "Counting", fakes.HoldRequest, stubborn))
    job = service.submit("count", {})
    assert started.wait(20)
    service.cancel(job.id)
    job = service.wait(job.id, 20)
    service.close()
    assert (job.state, job.result, job.error) == (JobState.CANCELLED, None, "Nothing was written.")
    assert files(artifacts.root) == []


def test_a_finished_job_never_changes(service: JobService):
    job = service.wait(service.submit("count", {}).id, 20)
    assert service.cancel(job.id) == job
    assert service.watch(job.id, job.version, 20) == job


def test_known_errors_show_their_message(service: JobService):
    job = service.wait(service.submit("fail", {"how": "model"}).id, 20)
    assert (job.state, job.error_type) == (JobState.FAILED, "ModelMissing")
    assert job.error == "The model is missing. Put it into models/."


def test_a_bug_shows_a_plain_sentence_and_logs_its_traceback(service: JobService, caplog: pytest.LogCaptureFixture):
    job = service.wait(service.submit("fail", {"how": "bug"}).id, 20)
    assert job.state is JobState.FAILED
    assert "secret" not in job.error and "Traceback" not in job.error
    assert "secret detail" in caplog.text
    assert service.wait(service.submit("count", {}).id, 20).state is JobState.DONE, "the worker survives"


@pytest.mark.parametrize("ending", [SystemExit, KeyboardInterrupt, GeneratorExit])
def test_a_job_that_ends_its_thread_costs_no_other_job(artifacts: Artifacts, ending: type[BaseException]):
    def leave(*_args) -> JobResult:
        raise ending

    kind = JobKind("leave", "Leaving", fakes.HoldRequest, leave, warm_up=leave)
    service = serving(artifacts, kind, fakes.COUNT)
    service.warm_up()
    job = service.wait(service.submit("leave", {}).id, 20)
    assert (job.state, job.error) == (JobState.FAILED, UNEXPECTED)
    assert service.wait(service.submit("count", {}).id, 20).state is JobState.DONE
    service.close()


def test_the_board_keeps_what_is_finished_and_the_newest_of_it(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("webui.jobs.board.KEPT", 3)
    board = JobBoard()
    for number in range(8):
        board.put(Job(str(number), "count", fakes.CountRequest(), JobState.DONE, created=number))
    board.put(Job("7", "count", fakes.CountRequest(), JobState.RUNNING, created=7))
    board.update("7", fraction=0.5)
    assert [job.id for job in board.all()] == ["5", "6", "7"]
    assert (board.find("7").state, board.find("7").fraction) == (JobState.DONE, 0.0)


def test_running_out_of_memory_is_said(service: JobService):
    job = service.wait(service.submit("fail", {"how": "memory"}).id, 20)
    assert job.error_type == "OutOfMemory"
    assert "memory" in job.error


@pytest.mark.parametrize(
    ("request_", "expected"),
    [
        ({"portrait": "x", "voice": "y", "pose_style": 46}, "'pose_style' must be at most 45, not 46."),
        ({"portrait": "x", "voice": "y", "fps": 1}, "'fps' must be at least 10, not 1."),
        ({"portrait": "x"}, "give either a voice or idle"),
        ({"portrait": "x", "voice": "y", "mood": 1}, "'mood' is not an option here."),
        ({"portrait": "x", "voice": "y", "engine": "magic"}, "'engine' must be 'auto', 'builtin' or 'sadtalker', not"),
        ({"portrait": "x", "voice": "y", "seed": "soon"}, "'seed' must be a whole number, not 'soon'."),
        ({"portrait": "x", "voice": "y", "seed": 2**32}, "'seed' must be at most 4294967295, not 4294967296."),
        ({"portrait": "x", "voice": "y", "seed": 1.5}, "'seed' must be a whole number, not '1.5'."),
        ({"portrait": "x", "voice": "y", "fps": "abc"}, "'fps' must be a number, not 'abc'."),
        ({"portrait": "x", "voice": "y", "still": "perhaps"}, "'still' must be true or false, not 'perhaps'."),
        ({"portrait": "x", "voice": "y", "fps": float("nan")}, "'fps' must be a number, not 'nan'."),
    ],
)
def test_a_broken_bound_is_a_sentence_with_field_and_bound(service: JobService, request_: dict, expected: str):
    with pytest.raises(InvalidRequest) as caught:
        service.submit("talk", request_)
    assert expected in str(caught.value)


def test_unknown_kinds_and_jobs_are_said(service: JobService):
    with pytest.raises(InvalidRequest, match="There are: count, fail, talk"):
        service.submit("sing", {})
    for ask in (service.get, service.cancel, lambda job_id: service.watch(job_id, 0, 1)):
        with pytest.raises(InvalidRequest, match="no job"):
            ask("nothing")


def test_an_unknown_file_is_refused_with_a_sentence(service: JobService):
    with pytest.raises(InvalidRequest, match="no file with the id"):
        service.submit("count", {"source": "0" * 16})


def test_a_target_gets_the_file_and_is_checked_before_the_work(service: JobService, artifacts: Artifacts, tmp_path: Path):
    target = tmp_path / "mine.txt"
    job = service.wait(service.submit("count", {"steps": 1, "seed": 5}, target=target).id, 20)
    assert target.read_text() == "5\n"
    assert job.result.artifacts[0].path == target
    assert files(artifacts.root) == []
    with pytest.raises(StorageError):
        service.submit("count", {}, target=tmp_path / "none" / "x.txt")
    with pytest.raises(InvalidRequest, match=r"\.txt"):
        service.submit("count", {}, target=tmp_path / "x.mp3")


def test_closing_cancels_what_is_unfinished_and_keeps_what_is_made(artifacts: Artifacts):
    service = serving(artifacts, fakes.COUNT)
    running, waiting = (service.submit("count", {"steps": 1000, "pause": 0.01}) for _ in range(2))
    while service.get(running.id).fraction == 0:
        time.sleep(0.01)
    service.close()
    assert service.get(running.id).state is JobState.CANCELLED
    assert service.get(running.id).result.artifacts[0].path.exists()
    assert service.get(waiting.id).state is JobState.CANCELLED
    assert list(artifacts.root.rglob("*.part")) == []


def test_warming_up_happens_on_the_worker_and_may_fail(artifacts: Artifacts, caplog: pytest.LogCaptureFixture):
    threads: list[str] = []

    def warm() -> None:
        threads.append(threading.current_thread().name)
        raise RuntimeError("no weights")

    service = serving(artifacts, JobKind("count", "Counting", fakes.CountRequest, fakes.count, warm_up=warm))
    service.warm_up()
    assert service.wait(service.submit("count", {}).id, 20).state is JobState.DONE
    until(lambda: threads)
    service.close()
    assert threads == ["galatea-jobs"]
    assert "no weights" in caplog.text


def test_only_the_newest_finished_jobs_are_remembered(service: JobService, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("webui.jobs.board.KEPT", 3)
    for _ in range(8):
        service.wait(service.submit("count", {"steps": 1}).id, 20)
    assert len(service.jobs()) <= 4


def test_the_pace_tells_the_time_left():
    pace = Pace()
    assert pace.seconds_left(0.0, "frame 1", now=0.0) is None
    assert pace.seconds_left(0.1, "frame 2", now=1.0) == pytest.approx(9.0)
    for second in range(2, 40):
        left = pace.seconds_left(0.1 + 0.02 * (second - 1), f"frame {second + 1}", now=float(second))
    assert left == pytest.approx((1 - 0.1 - 0.02 * 38) / 0.02), "the last ten seconds count"
    assert pace.seconds_left(0.9, "tidying up", now=50.0) is None, "another stage has another pace"


def test_a_throttle_lets_the_first_through_at_once(monkeypatch: pytest.MonkeyPatch):
    now = 100.0
    monkeypatch.setattr(preview.time, "monotonic", lambda: now)
    throttle = preview.Throttle(per_second=8)
    assert throttle.ready()
    now = 100.1
    assert not throttle.ready()
    now = 100.13
    assert throttle.ready()


def test_both_pools_are_told_by_the_same_words():
    words = {name for name in vars(Pool) if not name.startswith("_")}
    for pool in (OwnWorker, WorkerProcesses):
        own = {name for name in {*vars(pool), *pool.__annotations__} if not name.startswith("_")}
        assert words >= own - {"name"}, pool


def test_the_history_is_searched_and_paged(service: JobService):
    for steps in (1, 2, 3):
        service.wait(service.submit("count", {"steps": steps, "seed": 4_000_000_000 + steps}).id, 20)
    service.wait(service.submit("fail", {"how": "model"}).id, 20)
    jobs, total = service.history(Query(limit=2))
    assert ([job.kind for job in jobs], total) == (["fail", "count"], 4)
    assert [job.request.steps for job in service.history(Query(kind="count", offset=1))[0]] == [2, 1]
    assert [job.state for job in service.history(Query(state=JobState.FAILED))[0]] == [JobState.FAILED]
    for words, found in (("4000000002", 1), ("COUNTING numbers", 3), ("model missing", 1), ("100%", 0), ("no_such", 0)):
        assert service.history(Query(search=words))[1] == found, words


def test_the_history_has_the_finished_ones_or_the_deleted_ones_alone(artifacts: Artifacts):
    kind, started, release = fakes.holding()
    service = serving(artifacts, kind, fakes.COUNT)
    done, deleted = (service.wait(service.submit("count", {"steps": 1}).id, 20) for _ in range(2))
    service.submit("hold", {})
    assert started.wait(20)
    service.submit("count", {"steps": 1})
    service.delete(deleted.id)
    assert service.history(Query())[1] == 3
    for query, expected in ((Query(finished=True), done), (Query(deleted=True), deleted)):
        jobs, total = service.history(query)
        assert ([job.id for job in jobs], total) == ([expected.id], 1)
    assert service.deleted(deleted.id).request == deleted.request
    assert service.thumbnail(deleted.id, deleted=True).is_file()
    for ask in (service.get, service.thumbnail, lambda _: service.deleted(done.id)):
        with pytest.raises(InvalidRequest, match="no job"):
            ask(deleted.id)
    release.set()
    service.close()


def test_a_deleted_job_comes_back_with_its_files(service: JobService):
    job = service.wait(service.submit("count", {"steps": 2, "seed": 1}).id, 20)
    artifact = job.result.artifacts[0]
    service.delete(job.id)
    assert not artifact.path.exists()
    assert service.history(Query()) == ([], 0)
    with pytest.raises(InvalidRequest, match="no job"):
        service.get(job.id)
    assert service.usage().trash == artifact.size
    assert service.restore(job.id).result.artifacts == (artifact,)
    assert artifact.path.read_text() == "1\n2\n"
    with pytest.raises(InvalidRequest, match="cannot be brought back"):
        service.restore(job.id)


def test_the_table_outlives_the_service(artifacts: Artifacts):
    service = serving(artifacts, fakes.COUNT)
    job = service.wait(service.submit("count", {"steps": 2, "loud": True}).id, 20)
    service.close()
    again = serving(artifacts, fakes.FAIL)
    known = again.get(job.id)
    again.close()
    assert (known.state, known.warnings, known.result) == (job.state, job.warnings, job.result)
    assert known.request.model_dump()["steps"] == 2, "a kind that is not installed any more keeps its fields"
    assert again.thumbnail(job.id).read_bytes().startswith(b"\xff\xd8")


def test_the_higher_priority_goes_first(artifacts: Artifacts):
    kind, started, release = fakes.holding()
    service = serving(artifacts, kind, fakes.COUNT)
    service.submit("hold", {})
    assert started.wait(20)
    jobs = [service.submit("count", {"steps": 1}, priority=priority) for priority in (0, 5, 0, -5)]
    service.prioritise(jobs[3].id, 9)
    release.set()
    ends = [service.wait(job.id, 20).finished for job in jobs]
    with pytest.raises(InvalidRequest, match="does not wait"):
        service.prioritise(jobs[0].id, 1)
    service.close()
    assert sorted(range(4), key=ends.__getitem__) == [3, 1, 0, 2]
    with pytest.raises(InvalidRequest, match="-100 to 100"):
        service.submit("count", {}, priority=101)


def odd(ctx, request: fakes.HoldRequest) -> JobResult:
    ctx.progress(float("nan"), "half a letter: \udcff, and an end: \0")
    ctx.warn("\udcff\0")
    raise InvalidRequest("There is no file caf\udce9\0.wav.")


ODD = JobKind("odd", "Odd", fakes.HoldRequest, odd)


def test_what_no_database_takes_is_written_all_the_same(serve):
    service = serve(ODD, fakes.COUNT)
    job = service.wait(service.submit("odd", {}).id, 20)
    assert (job.state, job.error_type, job.fraction) == (JobState.FAILED, "InvalidRequest", 0.0)
    assert "caf" in job.error
    assert service.wait(service.submit("count", {"steps": 1}).id, 20).state is JobState.DONE


def test_a_table_that_cannot_be_used_keeps_nobody_from_leaving(serve, monkeypatch: pytest.MonkeyPatch):
    kind, started, release = fakes.holding()
    service = serve(kind)
    service.submit("hold", {})
    assert started.wait(20)

    def full(*_arguments, **_changes):
        raise StorageError("The disk is full.")

    for name in ("cancel", "get"):
        monkeypatch.setattr(service._store, name, full)
    threading.Timer(0.5, release.set).start()
    service.close(5)
    assert service._pool._worker._closing.is_set()


def test_the_tables_writes_are_safe_from_a_power_cut(tmp_path: Path):
    store = Store(Settings(outputs_dir=tmp_path / "a?b 100% c#d").jobs_url)
    with store._read() as connection:
        assert connection.execute(sa.text("PRAGMA synchronous")).scalar_one() == 2
        assert connection.execute(sa.text("PRAGMA journal_mode")).scalar_one() == "wal"
    store.close()
    assert (tmp_path / "a?b 100% c#d" / ".galatea" / "jobs.sqlite").is_file()


def test_what_is_to_be_cancelled_is_looked_at_first(tmp_path: Path):
    store = Store(f"sqlite:///{tmp_path / 'jobs.sqlite'}")
    for name, priority in (("a", 0), ("b", 9)):
        store.add(Record(name * 32, "count", JobState.QUEUED, {}, 1, 0.0, priority=priority, steps=1))
    assert store.cancel("a" * 32, "stopped", ["count"]).state is JobState.QUEUED
    assert store.claim("worker", ("count",), only_own=False).id == "a" * 32
    store.close()


def test_a_result_in_a_linked_folder_is_there(serve, tmp_path: Path):
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    service = serve(fakes.COUNT)
    job = service.wait(service.submit("count", {"steps": 1}, target=tmp_path / "link" / "x.txt").id, 20)
    assert service.get(job.id).result.artifacts[0].path == tmp_path / "real" / "x.txt"


def test_an_end_that_does_not_count_is_said(serve, caplog: pytest.LogCaptureFixture):
    kind, started, release = fakes.holding()
    service = serve(kind, fakes.COUNT)
    held = service.submit("hold", {}).id
    assert started.wait(20)
    elsewhere = {"worker": "elsewhere:00000000:0:aaaaaaaa", "seen": time.time() + 1e6}
    service._store._update_one(store._jobs.c.id == held, **elsewhere)
    release.set()
    assert service.wait(service.submit("count", {"steps": 1}).id, 20).state is JobState.DONE
    assert service._store.get(held).state is JobState.RUNNING, "it is the other worker's"
    (said,) = (record.message for record in caplog.records if held in record.message)
    assert "another worker" in said


def test_a_job_waits_while_its_steps_cannot_be_written(serve, monkeypatch: pytest.MonkeyPatch):
    begin, refusals = Workflows._begin, iter([StorageError("The disk is full.")])

    def full_once(workflows: Workflows, job_id: str):
        for refusal in refusals:
            raise refusal
        return begin(workflows, job_id)

    monkeypatch.setattr(Workflows, "_begin", full_once)
    service = serve(fakes.COUNT)
    job = service.wait(service.submit("count", {"steps": 2, "seed": 5}).id, 20)
    assert (job.state, next(refusals, "used up")) == (JobState.DONE, "used up")
