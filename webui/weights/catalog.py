"""Which checkpoints, VAEs, upscalers and face restorers are in models/, by the names that A1111 users know. Reads headers only.

A file that is broken, half downloaded or of another kind is listed with the sentence that says so, and never hides the others.
"""

from __future__ import annotations

import contextlib
import difflib
import importlib.util
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

from webui.errors import ModelMissing, UnsupportedModel, did_you_mean
from webui.weights import detect, files, folders
from webui.weights.detect import Found
from webui.weights.hashes import Hashes, stamp

POCKET = "pocket"
"""The folder in models/ with the small model that comes with Galatea."""

UPSCALER_FOLDERS = ("ESRGAN", "RealESRGAN", "SwinIR", "DAT", "HAT", "ScuNET")
RESTORER_FOLDERS = ("GFPGAN", "Codeformer", "RestoreFormer")
"""Where A1111 and its extensions have them; what a file is, its contents say. The first is where new ones should go."""

_BESIDE = re.compile(r"\.vae\.[a-z]+$", re.IGNORECASE)
"""A1111's name for a VAE that lies beside its checkpoint: name.vae.safetensors."""


@dataclass(frozen=True)
class Entry:
    """A checkpoint, VAE, upscaler or face restorer on the disk.

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
    """The weights in a models folder. Every call looks at the disk; headers of unchanged files are read once."""

    def __init__(self, models_dir: Path, *, allow_pickles: bool = False, hashes: Path | None = None) -> None:
        """`hashes` is the file that remembers them, models/.galatea-hashes.json unless given."""
        self.models_dir = models_dir
        self.allow_pickles = allow_pickles
        self._hashes = Hashes(hashes or models_dir / ".galatea-hashes.json")
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

    def upscalers(self) -> list[Entry]:
        """Upscalers by name, folder by folder."""
        return self._in_folders(UPSCALER_FOLDERS, "upscaler")

    def restorers(self) -> list[Entry]:
        """Face restorers by name, folder by folder."""
        return self._in_folders(RESTORER_FOLDERS, "restorer")

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

    def find_upscaler(self, name: str) -> Entry:
        """The upscaler that `name` means, as `find`."""
        return self._find(name, self.upscalers(), "upscaler")

    def find_restorer(self, name: str) -> Entry:
        """The face restorer that `name` means, as `find`; or the first of a make, such as GFPGAN."""
        entries = self.restorers()
        made = [one for one in entries if detect.NAMES.get(one.found.architecture, "").lower() == name.strip().lower()]
        return min(made, key=lambda one: bool(one.problem), default=None) or self._find(name, entries, "restorer")

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

    def sha256(self, path: Path) -> str:
        """Of any weights file, remembered as in `hashed`. Raises OSError."""
        return self._hashes.of(path)

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
        if kind in ("upscaler", "restorer"):
            raise ModelMissing(f"There is no {'upscaler' if kind == 'upscaler' else 'face restorer'} '{name}'. {hint}")
        raise ModelMissing(f"There is no {'VAE' if kind == 'vae' else 'model'} '{name}'. {hint}")

    def _in_folders(self, names: tuple[str, ...], wanted: str) -> list[Entry]:
        roots = [self.models_dir / name for name in names]
        return [self._entry(root, path, wanted) for root in roots for path in _models(root)]

    def _entry(self, root: Path, path: Path, wanted: str) -> Entry:
        name = path.relative_to(root).as_posix() if path != root else root.name
        found, problem = self._look(path, name, wanted)
        return Entry(name, path, found, self._hashes.known(path), problem)

    def _look(self, path: Path, name: str, wanted: str) -> tuple[Found, str]:
        """What a file is, and what is wrong with it as a `wanted`."""
        key = (str(path), *stamp(path))
        if key not in self._known:
            try:
                found = self._describe(path)
            except UnsupportedModel as error:  # not remembered: permissions change without a trace in the stamp
                return Found("unknown"), str(error)
            except OSError as error:
                return Found("unknown"), f"{name} cannot be read ({error.strerror}). Check its permissions, or copy it again."
            self._known[key] = found, detect.wrong(found, wanted, name) or _incomplete(found, name) or _uninstalled(found, name)
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


def _uninstalled(found: Found, name: str) -> str:
    """Why CodeFormer cannot be used: its licence forbids commercial use, so its network does not come along."""
    if found.architecture != "codeformer" or importlib.util.find_spec("spandrel_extra_arches"):
        return ""
    return (
        f"{name} is CodeFormer, whose network is not installed, because its licence forbids commercial use. Use GFPGAN, or "
        "install it: pip install spandrel_extra_arches."
    )


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
