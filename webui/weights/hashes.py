"""sha256 of weights files, remembered as long as the files do not change. Knows no format."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import threading
from pathlib import Path

from webui.weights import files


def stamp(path: Path) -> tuple[int, int]:
    """Size and time of last change in ns; of a diffusers folder those of all its files together. Zeros for what is not there."""
    try:
        if path.is_dir():
            stamps = [stamp(file) for file in path.rglob("*") if file.is_file()]
            return sum(size for size, _ in stamps), max((changed for _, changed in stamps), default=0)
        facts = path.stat()
        return facts.st_size, facts.st_mtime_ns
    except OSError:
        return 0, 0


class Hashes:
    """sha256 of files, remembered by path, size and time of last change, in a file that several processes share."""

    def __init__(self, file: Path) -> None:
        self.file = file
        self._lock = threading.Lock()
        self._known: dict[str, list[int | str]] = {}
        self._read_at: tuple[int, int] | None = None

    def known(self, path: Path) -> str | None:
        """The hash if it is remembered and the file has not changed since."""
        with self._lock:
            self._read()
            remembered = self._known.get(str(path))
        match remembered:
            case [int(size), int(changed), str(sha256)] if (size, changed) == stamp(path):
                return sha256
        return None

    def of(self, path: Path) -> str:
        """The hash, computed if need be. Of a diffusers folder: of its weights files in a row, by name. Raises OSError."""
        if known := self.known(path):
            return known
        found = stamp(path)
        sha256 = _sha256(path)
        with self._lock:
            self._read()
            self._known[str(path)] = [*found, sha256]
            self._save()
        return sha256

    def _read(self) -> None:
        """Take over what another process has written since. A broken file is as good as none: it is written anew."""
        found = stamp(self.file)
        if found == self._read_at:
            return
        self._read_at = found
        with contextlib.suppress(OSError, ValueError):
            content = json.loads(self.file.read_text(encoding="utf-8"))
            if isinstance(content, dict):
                self._known |= content

    def _save(self) -> None:
        """Atomically. A models folder that cannot be written (shared, read-only) costs computing again after the next start, no
        more."""
        part = self.file.with_name(f"{self.file.name}.{os.getpid()}-{threading.get_ident()}.part")
        try:
            part.write_text(json.dumps(self._known, indent=0), encoding="utf-8")
            os.replace(part, self.file)
        except OSError:
            with contextlib.suppress(OSError):
                part.unlink()


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    weights = sorted(one for one in path.rglob("*") if one.suffix in files.ENDINGS and one.is_file()) if path.is_dir() else [path]
    for file in weights:
        with open(file, "rb") as content:
            while block := content.read(1 << 22):
                digest.update(block)
    return digest.hexdigest()
