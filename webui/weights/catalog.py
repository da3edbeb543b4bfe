"""Which checkpoints and VAEs are in models/, under the names that A1111 users know. Reads headers only; loads nothing.

A file that is broken, half downloaded or of another kind is listed with the sentence that says so, and never hides the others.
"""

from __future__ import annotations

import contextlib
import difflib
import hashlib
import json
import os
import re
import threading
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

from webui.errors import ModelMissing, UnsupportedModel, did_you_mean
from webui.weights import detect, files, folders
from webui.weights.detect import Found

POCKET = "pocket"
"""The folder in models/ with the small model that comes with Galatea."""

_BESIDE = re.compile(r"\.vae\.[a-z]+$", re.IGNORECASE)
"""A1111's name for a VAE that lies beside its checkpoint: name.vae.safetensors."""


@dataclass(frozen=True)
class Entry:
    """A checkpoint or VAE on the disk.

    name:    its path in its folder, with / between: "sub/model.safetensors"; of a diffusers folder the folder's.
    path:    the file, or the diffusers folder.
    found:   what it is.
    hash:    its sha256 in hex when that is known: it is computed when a job needs it (`Catalog.hashed`).
    problem: why it cannot be used, in a sentence; "" when it can.
    """

    name: str
    path: Path
    found: Found
    hash: str | None = None
    problem: str = ""

    @property
    def stem(self) -> str:
        """The name without its ending: a diffusers folder has none, whatever dots are in its name."""
        return self.name if self.path.suffix.lower() not in files.ENDINGS else self.name[: -len(self.path.suffix)]

    @property
    def title(self) -> str:
        """A1111's: "model.safetensors [0123456789]" once the hash is known."""
        return f"{self.name} [{self.hash[:10]}]" if self.hash else self.name


class Catalog:
    """The checkpoints and VAEs in a models folder. Every call looks at the disk; headers of unchanged files are read once."""

    def __init__(self, models_dir: Path, *, allow_pickles: bool = False, hashes: Path | None = None) -> None:
        """`hashes` is the file that remembers them, models/.galatea-hashes.json unless given."""
        self.models_dir = models_dir
        self.allow_pickles = allow_pickles
        self._hashes = _Hashes(hashes or models_dir / ".galatea-hashes.json")
        self._known: dict[tuple[str, int, int], tuple[Found, str]] = {}

    def checkpoints(self) -> list[Entry]:
        """Checkpoints by name, files and diffusers folders, and the pocket model last."""
        root = self.models_dir / detect.FOLDERS["checkpoint"]
        entries = [self._entry(root, path, "checkpoint") for path in _models(root) if not _BESIDE.search(path.name)]
        pocket = self.models_dir / POCKET
        return entries + ([self._entry(self.models_dir, pocket, "checkpoint")] if folders.is_folder(pocket) else [])

    def vaes(self) -> list[Entry]:
        """VAEs by name; those that lie beside their checkpoints (name.vae.safetensors) among them."""
        root, beside = self.models_dir / detect.FOLDERS["vae"], self.models_dir / detect.FOLDERS["checkpoint"]
        entries = [self._entry(root, path, "vae") for path in _models(root)]
        return entries + [self._entry(beside, path, "vae") for path in _models(beside) if _BESIDE.search(path.name)]

    def find(self, name: str) -> Entry:
        """The checkpoint that `name` means: its file name, with folders or without; the name without ending; the title
        "name.safetensors [10 hex]"; or, once it is known, the hash or its first 10 digits. A title's hash, where one has it,
        says more than its name.

        Raises ModelMissing, with names that are near, when there is none.
        """
        return self._find(name, self.checkpoints(), "checkpoint")

    def find_vae(self, name: str) -> Entry:
        """The VAE that `name` means, as `find`."""
        return self._find(name, self.vaes(), "vae")

    def default(self, last: str | None = None) -> Entry:
        """The checkpoint to begin with: the one used last if it is still there, else the first full one, else pocket.

        Raises ModelMissing when there is none that can be used.
        """
        usable = [entry for entry in self.checkpoints() if not entry.problem]
        with contextlib.suppress(ModelMissing):
            if last:
                return self._find(last, usable, "checkpoint")
        if not usable:
            raise ModelMissing(f"There is no checkpoint yet. Put one into models/{detect.FOLDERS['checkpoint']}.")
        return usable[0]

    def hashed(self, entry: Entry) -> Entry:
        """The entry with its sha256, computed now (seconds per gigabyte) unless the file is known and has not changed.

        Raises UnsupportedModel when the file cannot be read.
        """
        try:
            return replace(entry, hash=self._hashes.of(entry.path))
        except OSError as error:
            raise UnsupportedModel(f"{entry.name} cannot be read ({error.strerror}). Copy it again.") from error

    def _find(self, name: str, entries: list[Entry], kind: str) -> Entry:
        wanted, digits = read_title(name)
        named = ((_by_name, wanted), (_by_stem, wanted), (_by_file, wanted), (_by_hash, wanted))
        for same, asked in ((_by_hash, digits), *named):
            if found := next((entry for entry in entries if same(entry, asked)), None):
                return found
        near = difflib.get_close_matches(wanted.lower(), [entry.stem.lower() for entry in entries], n=3, cutoff=0.4)
        names = [entry.name for stem in near for entry in entries if entry.stem.lower() == stem and not entry.problem]
        where = f"Put it into models/{detect.FOLDERS[kind]}."
        hint = did_you_mean(list(dict.fromkeys(names))) if names else where
        raise ModelMissing(f"There is no {'VAE' if kind == 'vae' else 'model'} '{name}'. {hint}")

    def _entry(self, root: Path, path: Path, wanted: str) -> Entry:
        name = path.relative_to(root).as_posix() if path != root else root.name
        found, problem = self._look(path, name, wanted)
        return Entry(name, path, found, self._hashes.known(path), problem)

    def _look(self, path: Path, name: str, wanted: str) -> tuple[Found, str]:
        """What a file is, and what is wrong with it as a `wanted`."""
        key = (str(path), *_stamp(path))
        if key not in self._known:
            try:
                found = self._describe(path)
            except UnsupportedModel as error:  # not remembered: permissions change without a trace in the stamp
                return Found("unknown"), str(error)
            except OSError as error:
                return Found("unknown"), f"{name} cannot be read ({error.strerror}). Check its permissions, or copy it again."
            self._known[key] = found, detect.wrong(found, wanted, name) or _incomplete(found, name)
        return self._known[key]

    def _describe(self, path: Path) -> Found:
        if folders.is_folder(path):
            return folders.describe(path, allow_pickles=self.allow_pickles)
        if os.path.isdir(path):
            raise UnsupportedModel(f"The folder {path.name} cannot be read. Check its permissions.")
        return detect.detect(files.header(path, allow_pickles=self.allow_pickles))


@lru_cache
def shared(models_dir: Path, allow_pickles: bool) -> Catalog:
    """The one that a process has of a folder, so that it reads each header once."""
    return Catalog(models_dir, allow_pickles=allow_pickles)


def _incomplete(found: Found, name: str) -> str:
    """Why a checkpoint that lacks a part cannot be used alone. A missing VAE can be chosen separately."""
    needed = {"unet", "text_encoder"} | ({"text_encoder_2"} if found.architecture == "sdxl" else set())
    missing = needed - {*found.parts} if found.kind == "checkpoint" else set()
    lacking = "UNet" if missing == {"unet"} else "text encoder"
    return f"{name} has no {lacking}: it is a part of a checkpoint. Download the full version." if missing else ""


def read_title(title: str) -> tuple[str, str]:
    """ "sub/name.safetensors [0123456789]" as the name and the digits, in small letters; what has none is a name."""
    match = re.fullmatch(r"(.*?)(?:\s*\[([0-9a-fA-F]{10,64})\])?", title.strip().replace("\\", "/"), re.DOTALL)
    assert match is not None
    return match[1], (match[2] or "").lower()


def _by_name(entry: Entry, wanted: str) -> bool:
    return entry.name == wanted


def _by_stem(entry: Entry, wanted: str) -> bool:
    return entry.stem == wanted


def _by_file(entry: Entry, wanted: str) -> bool:
    return wanted.lower() in (entry.path.name.lower(), Path(entry.stem).name.lower())


def _by_hash(entry: Entry, wanted: str) -> bool:
    return len(wanted) in (10, 64) and entry.hash is not None and entry.hash.startswith(wanted.lower())


def _models(root: Path) -> list[Path]:
    """Weights files, diffusers folders, and folders that may not be read, by name. Links are followed, once each."""
    return sorted(_walk(root, set()), key=lambda path: path.relative_to(root).as_posix().lower())


def _walk(folder: Path, seen: set[str]) -> Iterator[Path]:
    real = os.path.realpath(folder)
    if real in seen:
        return
    seen.add(real)
    try:
        inside = sorted(os.scandir(folder), key=lambda entry: (entry.is_symlink(), entry.name))  # a link never hides its target
    except FileNotFoundError:  # counts as empty
        return
    except OSError:
        yield folder
        return
    for entry in inside:
        path = Path(entry.path)
        if entry.name.startswith("."):
            continue
        if os.path.isdir(path):
            if folders.is_folder(path):
                yield path
            else:
                yield from _walk(path, seen)
        elif path.suffix.lower() in files.ENDINGS:
            yield path


def _stamp(path: Path) -> tuple[int, int]:
    """Size and time of last change in ns; of a diffusers folder those of all its files together. Zeros for what is not there."""
    try:
        if path.is_dir():
            stamps = [_stamp(file) for file in path.rglob("*") if file.is_file()]
            return sum(size for size, _ in stamps), max((changed for _, changed in stamps), default=0)
        facts = path.stat()
        return facts.st_size, facts.st_mtime_ns
    except OSError:
        return 0, 0


class _Hashes:
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
            case [int(size), int(changed), str(sha256)] if (size, changed) == _stamp(path):
                return sha256
        return None

    def of(self, path: Path) -> str:
        """The hash, computed if need be. Of a diffusers folder: of its weights files in a row, by name. Raises OSError."""
        if known := self.known(path):
            return known
        stamp = _stamp(path)
        sha256 = _sha256(path)
        with self._lock:
            self._read()
            self._known[str(path)] = [*stamp, sha256]
            self._save()
        return sha256

    def _read(self) -> None:
        """Take over what another process has written since. A broken file is as good as none: it is written anew."""
        stamp = _stamp(self.file)
        if stamp == self._read_at:
            return
        self._read_at = stamp
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
