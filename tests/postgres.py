"""A PostgreSQL server of the tests' own: Debian's programs, a cluster in a temporary folder, gone afterwards."""

from __future__ import annotations

import os
import pwd
import secrets
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest
import sqlalchemy as sa

from tests.servers import free_port

HOME = Path("/usr/lib/postgresql")
"""Where Debian keeps the programs of each version: 17/bin/initdb and so on."""

OWNER = "postgres"
"""Who runs the server when the tests run as root, which it refuses."""


class Cluster:
    """One server. password: of its only user, drawn for it, so that it must not be found in any log."""

    def __init__(self, programs: Path, folder: Path):
        self.port, self.password = free_port(), secrets.token_hex(12)
        self._programs, self._folder = programs, folder
        self._databases = 0

    def begin(self) -> None:
        word = self._folder / "password"
        word.write_text(self.password, encoding="ascii")
        if os.geteuid() == 0:
            for path in (self._folder, word):
                shutil.chown(path, OWNER, pwd.getpwnam(OWNER).pw_gid)
        access = ["--username", "tester", "--pwfile", str(word), "--auth", "scram-sha-256"]
        self._run("initdb", "--pgdata", self._data, *access, "--no-sync", "--encoding", "UTF8", "--locale", "C")
        self.start()

    def restart(self) -> None:
        """What connections there are, end at once."""
        self.stop()
        self.start()

    def stop(self) -> None:
        self._run("pg_ctl", "--pgdata", self._data, "--mode", "fast", "--wait", "stop")

    def start(self) -> None:
        options = f"-p {self.port} -k {self._folder} -c listen_addresses=127.0.0.1 -c fsync=off"
        log = str(self._folder / "log")
        self._run("pg_ctl", "--pgdata", self._data, "--log", log, "--options", options, "--wait", "start")

    def end(self) -> None:
        self._run("pg_ctl", "--pgdata", self._data, "--mode", "immediate", "stop")

    def new_database(self) -> str:
        """The URL of an empty database."""
        self._databases += 1
        name = f"test{self._databases}"
        engine = sa.create_engine(self._url("postgres", "postgresql+psycopg"), isolation_level="AUTOCOMMIT")
        with engine.connect() as connection:
            connection.execute(sa.text(f"create database {name}"))
        engine.dispose()
        return self._url(name, "postgresql")

    @property
    def _data(self) -> str:
        return str(self._folder / "data")

    def _url(self, database: str, driver: str) -> str:
        return f"{driver}://tester:{self.password}@127.0.0.1:{self.port}/{database}"

    def _run(self, program: str, *arguments: str) -> None:
        command: Sequence[str] = [str(self._programs / program), *arguments]
        if os.geteuid() == 0:
            command = ["runuser", "-u", OWNER, "--", *command]
        # Not through pipes: the server would inherit them, and nobody would ever see their end.
        with open(self._folder / "output", "w+", encoding="utf-8") as output:
            done = subprocess.run(command, cwd=self._folder, stdout=output, stderr=output, check=False)
            output.seek(0)
            assert done.returncode == 0, output.read()


@contextmanager
def running() -> Iterator[Cluster]:
    """A server while the block runs. Skips the test where PostgreSQL is not installed."""
    programs = sorted(HOME.glob("*/bin/initdb"), key=lambda path: int(path.parts[-3]))
    if not programs:
        pytest.skip(f"PostgreSQL's programs are not in {HOME}")
    with tempfile.TemporaryDirectory(prefix="galatea-pg-", ignore_cleanup_errors=True) as name:
        cluster = Cluster(programs[-1].parent, Path(name))
        cluster.begin()
        try:
            yield cluster
        finally:
            cluster.end()
