"""Files by id: what was uploaded and what was made, under the outputs folder. Never looks or writes outside of it,
except at a `target` that the owner of this machine named on the command line.

    outputs/<kind>/20261120-201502-anna-<16 hex>.mp4    a result; the hex is its id
    outputs/uploads/<32 hex>/<name as it was>           an upload; its id is made from the content: it is stored once
    outputs/.galatea/                                   what the studio keeps for itself: jobs, their steps, trash

The id is in the path, so that a look-up needs no database and works after a restart.
"""

from __future__ import annotations

import errno
import hashlib
import mimetypes
import os
import re
import secrets
import shutil
import time
import unicodedata
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from webui.errors import InvalidRequest, StorageError

PART = ".part"
"""Suffix of a file that is still being written."""

LONGEST_NAME = 143
"""Bytes of a file name. Most file systems take 255, encrypted home folders no more than this."""

STATE = ".galatea"
"""The folder in outputs/ that the studio keeps for itself."""

_RESULT_ID = re.compile(r"[0-9a-f]{16}")
_UPLOAD_ID = re.compile(r"[0-9a-f]{32}")
_KIND = re.compile(r"[a-z][a-z0-9_-]{0,31}")
_UPLOADS = "uploads"
_DAY = 24 * 3600.0


@dataclass(frozen=True)
class Artifact:
    """A finished file. size: bytes; name: what to call it when it is offered for download."""

    id: str
    path: Path
    media_type: str
    size: int
    name: str


@dataclass
class PendingArtifact:
    """A file being written to `path`; `artifact` is set once it is complete and in its place."""

    path: Path
    artifact: Artifact | None = None


class Artifacts:
    """The files under one outputs folder."""

    def __init__(self, root: Path):
        self.root = root.resolve()
        self._adopted: dict[str, Path] = {}

    def get(self, artifact_id: str) -> Artifact:
        """The file with this id. Raises InvalidRequest when there is none."""
        path = self._find(artifact_id)
        if path is None:
            raise InvalidRequest(f"There is no file with the id '{artifact_id[:64]}'. Choose or upload the file again.")
        return _artifact(artifact_id, path)

    def adopt(self, path: Path) -> Artifact:
        """Give a file of the machine's owner an id for as long as this process lives. Nothing is copied.

        Raises InvalidRequest when it is missing, no file, or unreadable.
        """
        check_readable(path)
        known = {adopted: artifact_id for artifact_id, adopted in self._adopted.items()}
        artifact_id = known.get(path.resolve()) or secrets.token_hex(8)
        self._adopted[artifact_id] = path.resolve()
        return _artifact(artifact_id, self._adopted[artifact_id], name=path.name)

    def upload(self, source: Path, name: str | None = None) -> Artifact:
        """Copy a visitor's file in under its own name. Raises StorageError when it cannot be stored."""
        check_readable(source)
        with open(source, "rb") as reader:
            return self.store(reader, name or source.name)

    def store(self, reader: IO[bytes], name: str) -> Artifact:
        """Copy in what `reader` gives under this name. Raises StorageError when it cannot be stored."""
        name = readable_name(name)
        if name.endswith(PART):
            name += "_"
        uploads = self.root / _UPLOADS
        with storage_errors(uploads):
            make_folder(uploads)
            part = uploads / f"{secrets.token_hex(8)}{PART}"
            with _discarding(part):
                artifact_id = _copy_and_hash(reader, part, name)
                move_into_place(part, uploads / artifact_id / name)
        return self.get(artifact_id)

    @contextmanager
    def output(
        self,
        kind: str,
        suffix: str,
        stem: str,
        target: Path | None = None,
        *,
        artifact_id: str | None = None,
        created: float | None = None,
    ) -> Iterator[PendingArtifact]:
        """A new file of a job, see JobContext.output.

        target:      puts it exactly there, not under the outputs folder.
        artifact_id: 16 hex digits; drawn when None. With the same id, stem and time the file has the same place.
        created:     the time in its name, seconds since 1970; now when None.
        """
        if not _KIND.fullmatch(kind) or kind == _UPLOADS:
            raise ValueError(f"not a kind of job: {kind!r}")
        artifact_id = artifact_id or secrets.token_hex(8)
        final = target or self.root / kind / _result_name(stem, artifact_id, suffix, created)
        # Never the same name: an encoder of a run that died may still be writing.
        part = final.with_name(f"galatea-{secrets.token_hex(8)}{PART}")
        pending = PendingArtifact(part)
        with _discarding(part):
            with storage_errors(final.parent):
                if target is None:
                    final.parent.mkdir(parents=True, exist_ok=True)
                part.touch()
            with full_disk_errors(final.parent):
                yield pending
            with storage_errors(final.parent):
                move_into_place(part, final)
        if target is not None:
            self._adopted[artifact_id] = final.resolve()
        pending.artifact = _artifact(artifact_id, final)

    def know(self, artifact_id: str, path: Path) -> None:
        """Give a file outside of the outputs folder the id that it had in an earlier run."""
        self._adopted[artifact_id] = path

    def put_into_trash(self, artifact_id: str, job_id: str) -> None:
        """Move a job's result where `take_from_trash` finds it. What was uploaded or lies elsewhere is left alone."""
        path = None if artifact_id in self._adopted or not _RESULT_ID.fullmatch(artifact_id) else self._find(artifact_id)
        if path is not None:
            folder = self._trash(job_id) / path.parent.name
            with storage_errors(folder):
                folder.mkdir(parents=True, exist_ok=True)
                os.replace(path, folder / path.name)

    def take_from_trash(self, job_id: str) -> None:
        """Move a job's results back to where they were."""
        for path in self._trash(job_id).glob("*/*"):
            home = self.root / path.parent.name
            with storage_errors(home):
                home.mkdir(parents=True, exist_ok=True)
                os.replace(path, home / path.name)
        shutil.rmtree(self._trash(job_id), ignore_errors=True)

    def empty_trash(self, job_id: str) -> None:
        """Delete for good what a job made."""
        shutil.rmtree(self._trash(job_id), ignore_errors=True)

    def remove_uploads(self, needed: Callable[[], set[str]]) -> int:
        """Delete uploads older than a day that nothing needs; returns how many. needed: ids of those to keep."""
        old = [folder for folder in (self.root / _UPLOADS).glob("*") if _UPLOAD_ID.fullmatch(folder.name) and is_old(folder)]
        kept = needed() if old else set()
        unneeded = [folder for folder in old if folder.name not in kept]
        for folder in unneeded:
            shutil.rmtree(folder, ignore_errors=True)
        return len(unneeded)

    def sizes(self) -> tuple[int, int, int]:
        """Bytes of results, of uploads, and in the trash."""
        own = {STATE, _UPLOADS}
        kinds = [folder for folder in _folders(self.root) if folder.name not in own]
        return sum(map(_size, kinds)), _size(self.root / _UPLOADS), _size(self.root / STATE / "trash")

    def free(self) -> int:
        """Bytes that are free on the disk of the outputs folder."""
        folder = next(folder for folder in (self.root, *self.root.parents) if folder.exists())
        return shutil.disk_usage(folder).free

    def _trash(self, job_id: str) -> Path:
        return self.root / STATE / "trash" / job_id

    def clean(self) -> int:
        """Remove `.part` files that a crashed run left more than a day ago. Returns how many."""
        removed = 0
        for part in [*self.root.glob(f"*/*{PART}"), *self.root.glob(f"{_UPLOADS}/*/*{PART}")]:
            if not part.is_symlink() and is_old(part):
                part.unlink(missing_ok=True)
                removed += 1
        return removed

    def _find(self, artifact_id: str) -> Path | None:
        if artifact_id in self._adopted:
            path = self._adopted[artifact_id]
            # A link that has taken its place leads to a file that its owner never named.
            return path if path.is_file() and path.resolve() == path else None
        if _UPLOAD_ID.fullmatch(artifact_id):
            candidates = sorted((self.root / _UPLOADS / artifact_id).glob("*"))
        elif _RESULT_ID.fullmatch(artifact_id):
            candidates = [p for p in self.root.glob(f"*/*-{artifact_id}.*") if p.parent.name not in (_UPLOADS, STATE)]
        else:
            return None
        return next((path for path in candidates if self._is_ours(path)), None)

    def _is_ours(self, path: Path) -> bool:
        """A complete, plain file that really lies under the root: no link leads out of it."""
        return path.suffix != PART and path.is_file() and path.resolve() == path


def check_readable(path: Path) -> None:
    """Raise InvalidRequest when `path` is not a file that can be read."""
    try:
        if path.is_dir():
            raise InvalidRequest(f"{path} is a folder. Name a file.")
        if path.exists() and not path.is_file():  # opening a pipe that nobody writes to would wait for ever
            raise InvalidRequest(f"{path} is a pipe or a device. Save it as a file first.")
        with open(path, "rb"):
            pass
    except FileNotFoundError as error:
        raise InvalidRequest(f"There is no file {path}. Check the name.") from error
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise InvalidRequest(f"{path} cannot be read: {reason}. Check who may read it.") from error


def check_target(target: Path) -> None:
    """Raise StorageError when no file could be put at `target`: said before hours of work, not after."""
    with storage_errors(target.parent):
        if target.is_dir():
            raise StorageError(f"{target} is a folder. Name the file that the result should go to.")
        if not target.parent.is_dir():
            raise StorageError(f"There is no folder {target.parent}. Make it first, or name a file in one that exists.")
        with suppress(FileNotFoundError):
            target.lstat()  # refuses a name that is too long, which the probe's is not
        probe = target.with_name(f"{secrets.token_hex(8)}{PART}")
        with _discarding(probe):
            probe.touch()


def readable_name(name: str, longest: int = LONGEST_NAME) -> str:
    """`name` as a safe file name of at most `longest` bytes: Chinese and emoji stay, separators and controls go."""
    joiners = "\u200d\ufe0f"  # they hold composed emoji together
    kept = (c for c in unicodedata.normalize("NFC", name) if c in joiners or unicodedata.category(c)[0] != "C")
    cleaned = re.sub(r'[/\\:*?"<>|]', "_", "".join(kept)).strip(". ")
    if re.fullmatch(r"(?i)(con|prn|aux|nul|com\d|lpt\d)(\..*)?", cleaned):
        cleaned = f"_{cleaned}"
    return _shortened(cleaned, longest) or "file"


@contextmanager
def full_disk_errors(folder: Path) -> Iterator[None]:
    """Turn "no space left" into a StorageError that says where."""
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise StorageError(f"The disk that holds {folder} is full. Free some space, then try again.") from error


@contextmanager
def storage_errors(folder: Path) -> Iterator[None]:
    """Turn the operating system's refusals to write in `folder` into a StorageError that says what to do."""
    try:
        with full_disk_errors(folder):
            yield
    except (FileExistsError, NotADirectoryError) as error:
        message = f"{folder} cannot be a folder, a file is in the way. Choose another with --outputs-dir."
        raise StorageError(message) from error
    except OSError as error:
        if error.errno == errno.ENAMETOOLONG:
            raise StorageError(f"A name in {folder} is longer than the disk takes. Choose a shorter one.") from error
        raise StorageError(
            f"The folder {folder} cannot be written: {error.strerror or error}. Choose another, or change who may write there."
        ) from error


def is_old(path: Path) -> bool:
    """Whether it has not been touched for a day; False when it is gone."""
    try:
        return time.time() - path.stat().st_mtime > _DAY
    except OSError:
        return False


def _folders(root: Path) -> list[Path]:
    return [path for path in root.glob("*") if path.is_dir() and not path.is_symlink()]


def _size(folder: Path) -> int:
    """Bytes of the files in a folder; a file that goes away meanwhile has none."""
    total = 0
    for path in folder.rglob("*"):
        with suppress(OSError):
            total += path.lstat().st_size if path.is_file() else 0
    return total


def _artifact(artifact_id: str, path: Path, name: str | None = None) -> Artifact:
    media_type = mimetypes.guess_type(path.name)[0] or "application/octet-stream"
    return Artifact(artifact_id, path, media_type, path.stat().st_size, name or path.name)


def _result_name(stem: str, artifact_id: str, suffix: str, created: float | None) -> str:
    stamp = time.strftime("%Y%m%d-%H%M%S", time.localtime(created))
    room = LONGEST_NAME - len(f"{stamp}--{artifact_id}{suffix}")
    return f"{stamp}-{readable_name(stem, room)}-{artifact_id}{suffix}"


def _shortened(name: str, longest: int) -> str:
    """At most `longest` bytes of UTF-8, cut from the stem so that the suffix stays."""
    stem, suffix = os.path.splitext(name)
    if len(suffix.encode()) > 16:
        stem, suffix = name, ""
    return stem.encode()[: longest - len(suffix.encode())].decode(errors="ignore") + suffix


@contextmanager
def _discarding(part: Path) -> Iterator[None]:
    """Remove `part` at the end if it is still there. Failing in that is not the error to tell."""
    try:
        yield
    finally:
        with suppress(OSError):
            part.unlink()


def _copy_and_hash(reader: IO[bytes], part: Path, name: str) -> str:
    digest = hashlib.sha256(name.encode() + b"\0")
    with open(part, "wb") as writer:
        while block := reader.read(1 << 20):
            digest.update(block)
            writer.write(block)
    return digest.hexdigest()[:32]


def move_into_place(part: Path, final: Path) -> None:
    """Rename after the content is safely on the disk, so that a power cut leaves the old file or the whole new one."""
    make_folder(final.parent)
    _sync(part, os.O_RDWR)
    os.replace(part, final)
    _sync_folder(final.parent)


def make_folder(folder: Path) -> None:
    """Make it and those above it, so that a power cut leaves them where they are."""
    missing = [path for path in (folder, *folder.parents) if not path.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    for path in reversed(missing):
        _sync_folder(path.parent)


def _sync_folder(folder: Path) -> None:
    if os.name != "nt":  # where a folder cannot be opened
        _sync(folder, os.O_RDONLY)


def _sync(path: Path, flags: int) -> None:
    descriptor = os.open(path, flags)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def link_or_copy(source: Path, target: Path) -> None:
    """The same content under a second name: a hard link where the file system can, a copy otherwise."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)
