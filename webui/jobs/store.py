"""The table of all jobs: what was asked, who runs it, how it ended. The one truth about a job's state, in SQLite or
PostgreSQL. Runs no job and knows no kinds; the results of steps are DBOS's (workflow.py), in the same database.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy.exc import DataError, DBAPIError, IntegrityError, NotSupportedError, ProgrammingError
from sqlalchemy.exc import TimeoutError as NoConnection
from sqlalchemy.schema import CreateColumn

from webui.errors import StorageError
from webui.jobs.slots import home_of
from webui.jobs.types import STOPPED, JobState, Query

log = logging.getLogger(__name__)

DEATHS = 2
"""So often a job may end its worker with no step finished in between; then it is failed."""

_CLOCKS = {
    "sqlite": "(julianday('now') - 2440587.5) * 86400.0",
    "postgresql": "extract(epoch from clock_timestamp())::double precision",
}
"""Seconds since 1970, in the database's words."""

_BUGS = (DataError, IntegrityError, NotSupportedError, ProgrammingError)
"""What a database says when it was asked something wrong: asking again is of no use."""

_FINISHED = tuple(state.value for state in JobState if state.finished)
_BUSY_MS = 30_000

_metadata = sa.MetaData()
# A column that comes later has a server_default: tables of older studios get it, see _bring_up_to_date.
_jobs = sa.Table(
    "galatea_jobs",
    _metadata,
    sa.Column("number", sa.Integer, primary_key=True, autoincrement=True),
    sa.Column("id", sa.String(32), nullable=False, unique=True),
    sa.Column("kind", sa.String(32), nullable=False),
    sa.Column("state", sa.String(16), nullable=False, index=True),
    sa.Column("request", sa.Text, nullable=False),
    sa.Column("files", sa.Text, nullable=False, default="{}"),
    sa.Column("target", sa.Text),
    sa.Column("previews", sa.Boolean, nullable=False, default=True),
    sa.Column("seed", sa.BigInteger, nullable=False),
    sa.Column("priority", sa.Integer, nullable=False, default=0),
    sa.Column("only_for", sa.String(128)),
    sa.Column("worker", sa.String(128)),
    sa.Column("seen", sa.Float),
    sa.Column("cancel", sa.Boolean, nullable=False, default=False),
    sa.Column("skips", sa.Integer, nullable=False, default=0, server_default="0"),
    sa.Column("attempts", sa.Integer, nullable=False, default=0),
    sa.Column("steps", sa.Integer, nullable=False, default=0, server_default="0"),
    sa.Column("deaths", sa.Integer, nullable=False, default=0),
    sa.Column("died_after", sa.Integer, nullable=False, default=-1),
    sa.Column("created", sa.Float, nullable=False),
    sa.Column("started", sa.Float),
    sa.Column("finished", sa.Float),
    sa.Column("deleted", sa.Float, index=True),
    sa.Column("fraction", sa.Float, nullable=False, default=0.0),
    sa.Column("stage", sa.Text, nullable=False, default=""),
    sa.Column("warnings", sa.Text, nullable=False, default="[]"),
    sa.Column("log", sa.Text, nullable=False, default="[]"),
    sa.Column("result", sa.Text),
    sa.Column("error", sa.Text),
    sa.Column("error_type", sa.String(64), nullable=False, default=""),
    sa.Column("words", sa.Text, nullable=False, default=""),
)
_JSON = ("request", "files", "warnings", "log", "result")


@dataclass(frozen=True)
class Record:
    """A row. See Job for what it shares with it.

    files:      {artifact id: absolute path} of files outside of the outputs folder that the owner of this machine named.
    target:     where the main file goes, None for the outputs folder.
    previews:   whether anybody can see them.
    only_for:   who may run it: one worker, or those of one home (slots.py); None for any.
    worker:     who runs it; seen: when that one last said so, in seconds since 1970.
    cancel:     its owner asked to stop; skips: how often to leave out what was being made.
    attempts:   how often it was begun; steps: how many of its steps were finished, as last heard.
    deaths:     how many workers it ended in a row with nothing finished in between; died_after: so many finished steps.
    result:     {"artifacts": [ids], "data": {...}} or None.
    words:      what a search looks in, in lower case.
    """

    id: str
    kind: str
    state: JobState
    request: dict[str, Any]
    seed: int
    created: float
    files: dict[str, str] = field(default_factory=dict)
    target: str | None = None
    previews: bool = True
    priority: int = 0
    only_for: str | None = None
    worker: str | None = None
    seen: float | None = None
    cancel: bool = False
    skips: int = 0
    attempts: int = 0
    steps: int = 0
    deaths: int = 0
    died_after: int = -1
    started: float | None = None
    finished: float | None = None
    deleted: float | None = None
    fraction: float = 0.0
    stage: str = ""
    warnings: tuple[str, ...] = ()
    log: tuple[str, ...] = ()
    result: dict[str, Any] | None = None
    error: str | None = None
    error_type: str = ""
    words: str = ""


class Store:
    """Every method is one transaction, safe from any thread and process. Raises StorageError when the database cannot be used."""

    def __init__(self, url: str):
        self._engine = _engine(url)
        self._clock = sa.literal_column(_CLOCKS[self._engine.dialect.name], sa.Float)
        with suppress(StorageError, ProgrammingError, IntegrityError), database_errors():
            _bring_up_to_date(self._engine)
        with database_errors():  # again, for when another program was making the table at the same time
            _bring_up_to_date(self._engine)

    def close(self) -> None:
        self._engine.dispose()

    def add(self, record: Record) -> None:
        with self._write() as connection:
            connection.execute(sa.insert(_jobs).values(**_columns(vars(record))))

    def get(self, job_id: str) -> Record | None:
        return next(self._select(_jobs.c.id == job_id), None)

    def unfinished(self) -> list[Record]:
        """All that wait or run, oldest first."""
        return list(self._select(_jobs.c.state.not_in(_FINISHED)))

    def running(self) -> list[Record]:
        return list(self._select(_jobs.c.state == JobState.RUNNING.value))

    def now(self) -> float:
        """The database's clock, by which `seen` is noted: those of the workers' computers may differ."""
        with self._read() as connection:
            return float(connection.execute(sa.select(self._clock)).scalar_one())

    def claim(self, worker: str, kinds: tuple[str, ...], *, only_own: bool) -> Record | None:
        """The next waiting job of these kinds, from now on run by `worker`: one that is to be cancelled, then the highest
        priority, then the oldest.
        """
        waiting = _jobs.alias()
        place = waiting.c.only_for == worker
        if not only_own:
            place |= waiting.c.only_for.is_(None) | (waiting.c.only_for == home_of(worker))
        chosen = (
            sa.select(waiting.c.id)
            .where(waiting.c.state == JobState.QUEUED.value, waiting.c.kind.in_(kinds), place)
            .order_by(waiting.c.cancel.desc(), waiting.c.priority.desc(), waiting.c.number)
            .limit(1)
            .with_for_update(skip_locked=True)
            .scalar_subquery()
        )
        return self._update_one(
            sa.and_(_jobs.c.id == chosen, _jobs.c.state == JobState.QUEUED.value),
            state=JobState.RUNNING.value,
            worker=worker,
            seen=self._clock,
            started=sa.func.coalesce(_jobs.c.started, time.time()),
            attempts=_jobs.c.attempts + 1,
        )

    def beat(self, job_id: str, worker: str, **changes: Any) -> Record | None:
        """Say that `worker` is alive and how far it is. None when the job is not its own any more."""
        return self._update_one(_held(job_id, worker), seen=self._clock, **_columns(changes))

    def holds(self, job_id: str, worker: str) -> bool:
        """Whether the job is this worker's, as far as the table knows."""
        with self._read() as connection:
            return connection.execute(sa.select(_jobs.c.id).where(_held(job_id, worker))).first() is not None

    def finish(self, job_id: str, worker: str, state: JobState, **changes: Any) -> Record | None:
        """The end of a job that `worker` runs; None when it is not its own any more."""
        changes = {"state": state.value, "finished": time.time(), "worker": None, **_columns(changes)}
        return self._update_one(_held(job_id, worker), **changes)

    def put_back(self, job_id: str, worker: str) -> None:
        """Let another worker go on with a job whose worker stops in good order."""
        self._update_one(_held(job_id, worker), state=JobState.QUEUED.value, worker=None)

    def take_from_dead(self, record: Record, finished_steps: int, reason: str) -> Record | None:
        """What becomes of the job of a worker that died: it waits again, or has ended when it killed too many.

        None when somebody else has taken care of it already.
        """
        deaths = record.deaths + 1 if finished_steps == record.died_after else 1
        common = {"worker": None, "only_for": _place(record, record.worker), "deaths": deaths, "died_after": finished_steps}
        if record.cancel and not finished_steps:
            ends = {"state": JobState.CANCELLED.value, "finished": time.time(), "error": STOPPED, "error_type": "Cancelled"}
        elif deaths < DEATHS:
            line = f"{reason} The job goes on after its {finished_steps} finished steps."
            ends = {"state": JobState.QUEUED.value, "log": json.dumps([*record.log, line])}
        elif record.cancel:
            ends = {"state": JobState.CANCELLED.value, "finished": time.time(), "error": reason, "error_type": "Cancelled"}
        else:
            sentence = (
                f"This job ended the program that runs it {deaths} times at the same place"
                f"{f' (last heard: {record.stage})' if record.stage else ''}, so it was given up. {reason} "
                "Try a smaller size or another file; the log has the details."
            )
            ends = {"state": JobState.FAILED.value, "finished": time.time(), "error": sentence, "error_type": "WorkerDied"}
        return self._update_one(_held(record.id, record.worker or ""), **common, **ends)

    def reserved(self) -> list[Record]:
        """Those that wait for one certain worker."""
        return list(self._select(sa.and_(_jobs.c.state == JobState.QUEUED.value, _jobs.c.only_for.is_not(None))))

    def free(self, record: Record) -> None:
        """Let other workers take a job whose own worker died before it began."""
        waiting = sa.and_(_jobs.c.id == record.id, _jobs.c.state == JobState.QUEUED.value)
        self._update_one(sa.and_(waiting, _jobs.c.only_for == record.only_for), only_for=_place(record, record.only_for))

    def cancel(self, job_id: str, message: str, kinds: Iterable[str]) -> Record | None:
        """End a job that waits; ask the worker of one that runs. None when it has finished or is not there.

        kinds: those that there are handlers for, and so workers that could look what is to be kept.
        """
        ended = {"state": JobState.CANCELLED.value, "finished": time.time(), "error": message, "error_type": "Cancelled"}
        # One that was begun may have something to keep: a worker looks, before it does anything else.
        bare = sa.and_(_jobs.c.state == JobState.QUEUED.value, sa.or_(_jobs.c.steps == 0, _jobs.c.kind.not_in(tuple(kinds))))
        return self._update_one(sa.and_(_jobs.c.id == job_id, bare), cancel=True, **ended) or self._update_one(
            sa.and_(_jobs.c.id == job_id, _jobs.c.state.not_in(_FINISHED)), cancel=True
        )

    def skip(self, job_id: str) -> Record | None:
        """Ask the worker of a running job to leave out what it makes now. None when it does not run."""
        running = sa.and_(_jobs.c.id == job_id, _jobs.c.state == JobState.RUNNING.value)
        return self._update_one(running, skips=_jobs.c.skips + 1)

    def prioritise(self, job_id: str, priority: int) -> Record | None:
        """None when the job does not wait any more."""
        return self._update_one(sa.and_(_jobs.c.id == job_id, _jobs.c.state == JobState.QUEUED.value), priority=priority)

    def history(self, query: Query) -> tuple[list[Record], int]:
        """Newest first; how many there are in all."""
        found = [_jobs.c.deleted.is_not(None) if query.deleted else _jobs.c.deleted.is_(None)]
        if query.finished:
            found.append(_jobs.c.state.in_(_FINISHED))
        if query.kind is not None:
            found.append(_jobs.c.kind == query.kind)
        if query.state is not None:
            found.append(_jobs.c.state == query.state.value)
        found += [_jobs.c.words.contains(word, autoescape=True) for word in query.search.lower().split()]
        with self._read() as connection:
            total = connection.execute(sa.select(sa.func.count()).select_from(_jobs).where(*found)).scalar_one()
            rows = connection.execute(
                sa.select(_jobs).where(*found).order_by(_jobs.c.number.desc()).limit(query.limit).offset(query.offset)
            )
            return [_record(row) for row in rows], total

    def delete(self, job_id: str) -> Record | None:
        """Hide a finished job. None when there is none."""
        shown = sa.and_(_jobs.c.id == job_id, _jobs.c.state.in_(_FINISHED), _jobs.c.deleted.is_(None))
        return self._update_one(shown, deleted=time.time())

    def restore(self, job_id: str) -> Record | None:
        """Show a deleted job again. None when there is none."""
        return self._update_one(sa.and_(_jobs.c.id == job_id, _jobs.c.deleted.is_not(None)), deleted=None)

    def deleted_before(self, moment: float) -> list[Record]:
        return list(self._select(_jobs.c.deleted < moment))

    def finished_before(self, moment: float) -> list[Record]:
        """Those that are shown."""
        return list(self._select(sa.and_(_jobs.c.deleted.is_(None), _jobs.c.finished < moment)))

    def forget(self, job_id: str) -> None:
        """Remove the row of a deleted job for good."""
        with self._write() as connection:
            connection.execute(sa.delete(_jobs).where(_jobs.c.id == job_id, _jobs.c.deleted.is_not(None)))

    def requests(self) -> Iterator[str]:
        """The request of every job, deleted ones included, as JSON."""
        with self._read() as connection:
            yield from connection.execute(sa.select(_jobs.c.request)).scalars()

    def _select(self, condition: sa.ColumnElement[bool]) -> Iterator[Record]:
        with self._read() as connection:
            rows = connection.execute(sa.select(_jobs).where(condition).order_by(_jobs.c.number)).all()
        return map(_record, rows)

    def _update_one(self, condition: sa.ColumnElement[bool], **changes: Any) -> Record | None:
        with self._write() as connection:
            row = connection.execute(sa.update(_jobs).where(condition).values(**changes).returning(_jobs)).one_or_none()
        return None if row is None else _record(row)

    @contextmanager
    def _read(self) -> Iterator[sa.Connection]:
        with database_errors(), self._engine.connect() as connection:
            yield connection

    @contextmanager
    def _write(self) -> Iterator[sa.Connection]:
        with database_errors(), self._engine.begin() as connection:
            yield connection


def prepare(url: str) -> None:
    """Make the folder of a SQLite database."""
    parsed = sa.make_url(url)
    if parsed.get_backend_name() != "sqlite" or not parsed.database:
        return
    folder = Path(parsed.database).parent
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StorageError(f"The folder {folder} cannot be made: {error.strerror}. Choose another --outputs-dir.") from error


def patiently(
    action: Callable[[], Any], closing: Callable[[], bool], waiting: Callable[[], None] = lambda: None, pause: float = 1.0
) -> Any:
    """The action's result, tried until the database takes it: its end must not be lost to a full disk or a short outage.

    waiting: called after each failure, to say so.
    """
    while True:
        try:
            return action()
        except StorageError as error:
            if closing():
                raise
            log.warning("%s Trying again.", error)
            waiting()
            time.sleep(pause)


def _bring_up_to_date(engine: sa.Engine) -> None:
    """Make the table, or add the columns that it lacks."""
    _metadata.create_all(engine)
    known = {column["name"] for column in sa.inspect(engine).get_columns(_jobs.name)}
    for column in _jobs.columns:
        if column.name not in known:
            with engine.begin() as connection:
                connection.execute(sa.text(f"ALTER TABLE {_jobs.name} ADD COLUMN {CreateColumn(column).compile(engine)}"))


def _held(job_id: str, worker: str) -> sa.ColumnElement[bool]:
    return sa.and_(_jobs.c.id == job_id, _jobs.c.state == JobState.RUNNING.value, _jobs.c.worker == worker)


def _engine(url: str) -> sa.Engine:
    prepare(url)
    parsed = sa.make_url(url)
    if parsed.get_backend_name() == "postgresql":
        return sa.create_engine(parsed.set(drivername="postgresql+psycopg"), pool_pre_ping=True)
    engine = sa.create_engine(parsed)

    @sa.event.listens_for(engine, "connect")
    def configure(connection: Any, _record: Any) -> None:
        connection.isolation_level = "IMMEDIATE"
        connection.execute(f"PRAGMA busy_timeout={_BUSY_MS}")
        connection.execute("PRAGMA journal_mode=WAL")  # stays with the file: DBOS's connections have it too
        connection.execute("PRAGMA synchronous=FULL")

    return engine


@contextmanager
def database_errors() -> Iterator[None]:
    """Turn the database's refusals into a StorageError that says what to do."""
    try:
        yield
    except _BUGS:
        raise
    except (DBAPIError, NoConnection) as error:
        reason = str(getattr(error, "orig", None) or error).strip().partition("\n")[0]
        raise StorageError(
            f"The database of jobs cannot be used: {reason}. Check the disk of the outputs folder, or --database-url."
        ) from error


def _columns(values: Mapping[str, Any]) -> dict[str, Any]:
    """Values as the table holds them."""
    held = {}
    for name, value in values.items():
        if isinstance(value, JobState):
            value = value.value
        if name in _JSON and value is not None:
            value = json.dumps(value)  # names of files may hold what is no letter: in ASCII they come back as they were
        held[name] = _writable(value) if isinstance(value, str) else value
    return held


def _writable(text: str) -> str:
    """The text without what databases refuse: halves of letters, and the character that ends a string."""
    return text.encode("utf-8", "replace").decode("utf-8").replace("\0", "")


def _place(record: Record, worker: str | None) -> str | None:
    """Who may run a job whose worker is dead: files named on the command line are on that worker's computer alone."""
    return home_of(worker) if worker and (record.files or record.target) else None


def _record(row: sa.Row[Any]) -> Record:
    values = dict(row._mapping)
    del values["number"]
    for name in _JSON:
        values[name] = None if values[name] is None else json.loads(values[name])
    values |= {"state": JobState(values["state"]), "warnings": tuple(values["warnings"]), "log": tuple(values["log"])}
    return Record(**values)
