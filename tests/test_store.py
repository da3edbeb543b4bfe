"""The table of jobs, in SQLite; tests/test_postgres.py says the same of PostgreSQL."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa

from webui.jobs import store
from webui.jobs.store import Record, Store
from webui.jobs.types import JobState


@pytest.fixture
def database_url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path / 'jobs.db'}"


@pytest.fixture
def table(database_url: str) -> Iterator[Store]:
    table = Store(database_url)
    yield table
    table.close()


def record(job_id: str = "1" * 32, **changes) -> Record:
    return Record(job_id, "count", JobState.QUEUED, {"steps": 1}, seed=2**40, created=time.time(), **changes)


def test_texts_that_databases_refuse_are_written_without_what_they_refuse(table: Store):
    odd = "half a letter: \ud800, the end of a string: \0, 语音."
    table.add(record(files={"2" * 32: f"/{odd}"}))
    claimed = table.claim("home/worker", ("count",), only_own=False)
    assert claimed is not None and claimed.files == {"2" * 32: f"/{odd}"}, "names of files come back as they were"
    ended = table.finish(claimed.id, "home/worker", JobState.FAILED, error=odd, words=odd, log=(odd,))
    assert ended is not None and ended.error == "half a letter: ?, the end of a string: , 语音."
    assert ended.log == (odd,) and ended.seed == 2**40


def test_the_table_of_an_older_studio_gets_the_columns_that_came_later(database_url: str, table: Store):
    table.add(record())
    engine = store._engine(database_url)
    with engine.begin() as connection:
        connection.execute(sa.text("ALTER TABLE galatea_jobs DROP COLUMN steps"))
    engine.dispose()
    younger = Store(database_url)
    try:
        found = younger.get("1" * 32)
        assert found is not None and found.steps == 0
        younger.add(record("2" * 32, steps=3))
    finally:
        younger.close()


def test_the_tables_clock_is_that_of_its_database(table: Store):
    assert abs(table.now() - time.time()) < 5
