"""The same promises with the jobs in PostgreSQL: two workers, two servers, and a database that is restarted meanwhile."""

# The fixtures and tests of tests/test_durable.py are used here under their own names.
# ruff: noqa: F401, F811

from __future__ import annotations

import time
import urllib.error
from collections import Counter
from collections.abc import Callable, Iterator

import pytest

from tests import postgres, processes
from tests.servers import Server

# These find this module's `database_url`.
from tests.test_durable import (
    CommandLine,
    Journal,
    Studio,
    command_line,
    content,
    done,
    ended,
    house,
    journal,
    numbers,
    outputs,
    post,
    pytestmark,
    service,
    studio,
    submit,
    test_a_begun_job_that_waits_with_nothing_to_keep_is_cancelled_at_once,
    test_a_cancelled_job_whose_worker_was_killed_keeps_its_finished_steps,
    test_a_crash_of_the_worker_is_survived,
    test_a_deleted_job_comes_back_with_its_files,
    test_a_job_of_a_kind_that_is_gone_can_be_cancelled_and_deleted,
    test_a_job_that_kills_its_worker_twice_in_one_step_is_given_up,
    test_a_killed_worker_costs_the_step_it_was_in,
    test_a_queued_job_is_cancelled_at_once,
    test_a_running_job_stops_within_a_second_and_keeps_what_it_made,
    test_a_server_finishes_what_a_killed_command_line_began,
    test_a_waiting_job_can_be_moved,
    test_a_worker_that_has_lost_its_job_leaves_nothing,
    test_a_worker_that_is_asked_to_end_puts_its_job_back,
    test_no_job_is_run_twice,
    test_nothing_outlives_a_killed_server_but_its_jobs,
    test_the_retention_rule_removes_old_jobs_for_good,
    test_what_an_unfinished_job_works_on_is_kept,
    test_what_is_skipped_is_left_out_once_and_the_next_goes_on,
    test_what_the_command_line_queued_before_it_died_is_done_where_its_files_are,
)
from tests.test_store import (
    table,
    test_texts_that_databases_refuse_are_written_without_what_they_refuse,
    test_the_table_of_an_older_studio_gets_the_columns_that_came_later,
    test_the_tables_clock_is_that_of_its_database,
)
from webui.jobs.types import Job


@pytest.fixture(scope="module")
def cluster() -> Iterator[postgres.Cluster]:
    with postgres.running() as cluster:
        yield cluster


@pytest.fixture
def database_url(cluster: postgres.Cluster) -> str:
    return cluster.new_database()


def test_two_workers_share_the_queue(studio: Studio, journal: Journal):
    service = studio(device="cpu,cpu")
    jobs = [submit(service, journal, steps=2, pause=0.1) for _ in range(60)]
    finished = [service.wait(job, 60) for job in jobs]
    for job in finished:
        done(job, 2)
    assert journal.counts == {"step 0": 60, "step 1": 60, "end": 60}
    workers = Counter(pid for what, pid in journal.entries if what == "end")
    assert len(workers) == 2 and min(workers.values()) >= 20
    assert any(overlap(one, other) for one in finished for other in finished if one is not other)


def overlap(one: Job, other: Job) -> bool:
    return one.started < other.started < one.finished - 0.05


def test_the_other_worker_takes_over(studio: Studio, journal: Journal, monkeypatch: pytest.MonkeyPatch):
    """Long before the dead one's successor could: that is not started at all here."""
    service = studio(device="cpu,cpu")
    for _ in range(2):
        submit(service, journal, steps=1, pause=1.0)
    processes.until(lambda: len({pid for what, pid in journal.entries if what == "step 0"}) == 2)
    first, second = {pid for _, pid in journal.entries}
    processes.until(lambda: journal.counts["end"] == 2)
    monkeypatch.setattr("webui.jobs.pool.PAUSES", (0.0, 60.0))
    own = Journal(journal.path.with_name("own"))
    job_id = submit(service, own, pause=0.3)
    killed = own.wait("step 3")
    processes.kill(killed)
    done(service.wait(job_id, 20), 8)
    assert own.counts["step 2"] == 1 and own.counts["step 3"] == 2
    assert {pid for _, pid in own.entries} == {first, second}


def test_two_servers_on_one_database(house: Callable[..., Server], journal: Journal):
    servers = [house(), house()]
    jobs: list[str] = []
    # A worker that still imports what its kinds need leaves all jobs to the other one.
    while len({pid for _, pid in journal.entries}) < 2 and len(jobs) < 400:
        more = [post(servers[number % 2], journal, steps=1, pause=0.1) for number in range(20)]
        for job in more:
            # Either tells of all jobs.
            assert [content(server, ended(server, job)) for server in servers] == ["100\n", "100\n"]
        jobs += more
    assert journal.counts == {"step 0": len(jobs), "end": len(jobs)}
    assert len({pid for _, pid in journal.entries}) == 2


def test_a_restart_of_the_database_is_survived(
    cluster: postgres.Cluster, house: Callable[..., Server], journal: Journal
):
    server = house()
    job_id, waiting = post(server, journal, pause=0.4), post(server, journal, steps=1)
    journal.wait("step 2")
    cluster.restart()
    assert content(server, ended(server, job_id, 60)) == numbers(8)
    assert content(server, ended(server, waiting, 60)) == "100\n"
    assert journal.counts["step 1"] == 1 and journal.counts["end"] == 2
    assert cluster.password not in server.log


def test_a_database_that_is_away_is_told_without_its_password(
    cluster: postgres.Cluster, house: Callable[..., Server], journal: Journal
):
    server = house()
    job_id = post(server, journal, pause=0.5)
    journal.wait("step 1")
    cluster.stop()
    status, body = server.get("/api/jobs")
    assert status == 507, body
    with pytest.raises(urllib.error.HTTPError, match="507"):
        post(server, journal)
    time.sleep(2)
    cluster.start()
    assert content(server, ended(server, job_id, 60)) == numbers(8)
    assert "The database of jobs cannot be used" in server.log
    assert cluster.password not in server.log + body.decode()
