"""How long things are kept: deleted jobs, uploads, results by the retention rule. Deletes nothing that a job still needs."""

from __future__ import annotations

import json
import re
import shutil
import time
from typing import TYPE_CHECKING

from webui.artifacts import STATE, is_old
from webui.errors import InvalidRequest
from webui.jobs.types import Usage

if TYPE_CHECKING:
    from webui.artifacts import Artifacts
    from webui.jobs.store import Record, Store
    from webui.settings import Settings

DAY = 24 * 3600.0

_ID_IN_REQUEST = re.compile(r'"([0-9a-f]{16}|[0-9a-f]{32})"')


class Keeping:
    """Moves files between their places and the trash, along with their jobs' rows."""

    def __init__(self, store: Store, artifacts: Artifacts, settings: Settings):
        self._store, self._artifacts, self._days = store, artifacts, settings.keep_days

    def delete(self, job_id: str) -> None:
        """Hide a finished job and move its files into the trash. Raises InvalidRequest while another job needs them."""
        known = self._store.get(job_id)
        if known is not None and self._needed_files() & _made(known):
            raise InvalidRequest("A job that has not finished works on a file of this one. Wait for it, or cancel it first.")
        self._put_away(self._store.delete(job_id))

    def restore(self, job_id: str) -> Record:
        """Raises InvalidRequest when there is no such deleted job."""
        known = self._store.get(job_id)
        if known is not None and known.deleted is not None:
            self._artifacts.take_from_trash(job_id)
        restored = self._store.restore(job_id)
        if restored is None:
            raise InvalidRequest("This job cannot be brought back: it is gone for good, or was never deleted.")
        return restored

    def usage(self) -> Usage:
        return Usage(*self._artifacts.sizes(), self._artifacts.free())

    def sweep(self, now: float | None = None) -> list[str]:
        """Delete for good what is due; the ids of jobs that this hid or removed."""
        now = time.time() if now is None else now
        finished = self._store.finished_before(now - self._days * DAY) if self._days else []
        needed = self._needed_files() if finished else set()
        due = [record for record in finished if not needed & _made(record)]
        for record in due:
            self._store.delete(record.id)
        old = self._store.deleted_before(now - DAY)
        for record in [*old, *due]:  # what the rule names was not deleted by mistake
            self._put_away(record)  # when an earlier delete was cut short
            self._artifacts.empty_trash(record.id)
            (self._artifacts.root / STATE / "thumbnails" / f"{record.id}.jpg").unlink(missing_ok=True)
            self._store.forget(record.id)
        self._artifacts.remove_uploads(self._needed_uploads)
        self._remove_lost_steps()
        return [record.id for record in [*old, *due]]

    def _put_away(self, record: Record | None) -> None:
        for artifact_id in _made(record) if record else ():
            self._artifacts.put_into_trash(artifact_id, record.id)

    def _needed_files(self) -> set[str]:
        """What unfinished jobs work on."""
        return {found for record in self._store.unfinished() for found in _ID_IN_REQUEST.findall(json.dumps(record.request))}

    def _needed_uploads(self) -> set[str]:
        return {found for request in self._store.requests() for found in _ID_IN_REQUEST.findall(request)}

    def _remove_lost_steps(self) -> None:
        """Files of jobs that ended while their worker was on its way out. A young folder may be of a job in another table."""
        folders = [folder for folder in (self._artifacts.root / STATE / "steps").glob("*") if is_old(folder)]
        needed = {record.id for record in self._store.unfinished()} if folders else set()
        for folder in folders:
            if folder.name not in needed:
                shutil.rmtree(folder, ignore_errors=True)


def _made(record: Record) -> set[str]:
    return set(record.result["artifacts"]) if record.result else set()
