"""Names for workers, each held by a lock file for as long as its holder lives: so a dead worker is known at once.

A slot is host:folder:number, and its holder's name is slot:life: the next holder of a slot is somebody else. The lock tells
about workers of this computer and this outputs folder; those of others must be judged by when they were last heard of.
"""

from __future__ import annotations

import secrets
import socket
from contextlib import suppress
from hashlib import sha256
from pathlib import Path

from filelock import FileLock, Timeout

from webui.errors import StorageError

MOST = 256
SILENT = 60.0
"""Seconds after which a worker of another computer that says nothing counts as dead."""


class Slot:
    """One worker's slot, let go of when its process ends, however it ends.

    slot: the same again and again, for what should not pile up; name: never the same.
    """

    def __init__(self, folder: Path):
        self._folder = folder
        number, self._lock = self._take()
        life = secrets.token_hex(4)
        self.slot = f"{_home(folder)}:{number}"
        self.name = f"{self.slot}:{life}"
        (folder / f"{number}.life").write_text(life, encoding="ascii")

    def release(self) -> None:
        self._lock.release()

    def is_neighbour(self, name: str) -> bool:
        """Whether the worker of this name is of the same computer and outputs folder."""
        return home_of(name) == _home(self._folder)

    def is_dead(self, name: str, seen: float | None, now: float) -> bool:
        """Whether the worker of this name has ended. seen: when it was last heard of, now: both in seconds by the same clock."""
        if not self.is_neighbour(name):
            return seen is None or now - seen > SILENT
        slot, _, life = name.rpartition(":")
        number = slot.rpartition(":")[2]
        lock = FileLock(self._folder / f"{number}.lock")
        try:
            lock.acquire(timeout=0)
        except Timeout:
            return self._life(number) not in ("", life)
        lock.release()
        return True

    def _life(self, number: str) -> str:
        """Of who holds the slot; "" when that cannot be told right now."""
        with suppress(OSError):
            return (self._folder / f"{number}.life").read_text(encoding="ascii")
        return ""

    def _take(self) -> tuple[int, FileLock]:
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            for number in range(MOST):
                lock = FileLock(self._folder / f"{number}.lock")
                try:
                    lock.acquire(timeout=0)
                except Timeout:
                    continue
                return number, lock
        except OSError as error:
            raise StorageError(f"The folder {self._folder} cannot be written: {error}. Choose another --outputs-dir.") from error
        raise StorageError(f"More than {MOST} programs work in {self._folder} at once. Stop some of them.")


def home_of(name: str) -> str:
    """The computer and outputs folder of the worker of this name."""
    return name.rsplit(":", 2)[0]


def _home(folder: Path) -> str:
    host = "".join(c if c.isalnum() or c in ".-" else "_" for c in socket.gethostname())[:63]
    return f"{host}:{sha256(str(folder.resolve()).encode()).hexdigest()[:8]}"
