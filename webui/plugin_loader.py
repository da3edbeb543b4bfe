"""Finds extensions, checks them, imports their jobs, and reports what is wrong with any of them. Installs nothing,
and never stops the start: a broken extension costs its own jobs and tabs, a broken tab itself, nothing else.
"""

from __future__ import annotations

import importlib
import importlib.util
import logging
import pickle
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from webui.errors import PluginError
from webui.jobs.types import JobKind
from webui.plugin_api import PLUGIN_API

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib  # pyright: ignore[reportMissingImports]

log = logging.getLogger(__name__)

_OBJECT = r"^[A-Za-z_][\w.]*:[A-Za-z_]\w*$"
_NAME = r"^[a-z][a-z0-9_]{0,31}$"
_TAKEN_TABS = ("history", "system")


class Manifest(BaseModel):
    """plugin.toml, see webui.plugin_api."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    id: str = Field(pattern=_NAME)
    title: str = Field(min_length=1, max_length=40)
    api: int
    jobs: str | None = Field(None, pattern=_OBJECT)
    tabs: dict[Annotated[str, Field(pattern=_NAME)], Annotated[str, Field(pattern=_OBJECT)]] = {}
    requires: list[str] = []


@dataclass(frozen=True)
class Plugin:
    """An extension whose manifest and jobs are sound. Its tabs are imported when the page is built."""

    folder: Path
    manifest: Manifest
    kinds: tuple[JobKind, ...] = ()


@dataclass(frozen=True)
class Failure:
    """An extension that did not load, or a tab of it that could not be built, and why in a sentence."""

    name: str
    reason: str
    tab: str | None = None


@dataclass
class Plugins:
    """What was found. The page adds to `failures` when a tab cannot be built."""

    loaded: list[Plugin] = field(default_factory=list)
    failures: list[Failure] = field(default_factory=list)

    @property
    def kinds(self) -> tuple[JobKind, ...]:
        return tuple(kind for plugin in self.loaded for kind in plugin.kinds)

    @property
    def tabs(self) -> tuple[str, ...]:
        """Their ids, in the page's order."""
        return tuple(tab for plugin in self.loaded for tab in plugin.manifest.tabs)

    def report(self, name: str, error: Exception, tab: str | None = None) -> None:
        """Note a failure and log it: the sentence for a PluginError, the traceback for anything else."""
        expected = isinstance(error, PluginError)
        reason = str(error) if expected else f"{type(error).__name__}: {error}"
        what = f"The tab '{tab}' of the extension '{name}'" if tab else f"The extension '{name}'"
        log.error("%s was left out. %s", what, reason, exc_info=None if expected else error)
        self.failures.append(Failure(name, reason, tab))


BUILT_IN = Path(__file__).resolve().parent
"""Where the extensions are that come with the studio: webui/builtin."""


def load(*folders: Path) -> Plugins:
    """Load every extension in the folders (each a package with a plugin.toml): folder after folder, by their names."""
    plugins = Plugins()
    for manifest_file in (file for folder in folders for file in sorted(folder.glob("*/plugin.toml"))):
        name = manifest_file.parent.name
        try:
            plugins.loaded.append(_load_one(manifest_file, plugins))
        except Exception as error:  # an extension is foreign code: whatever it raises is its own failure
            plugins.report(name, error)
        except SystemExit as error:
            plugins.report(name, PluginError(f"It tried to end the program (exit {error.code})."))
    return plugins


def imported(reference: str) -> Any:
    """The object that "package.module:name" refers to. Raises PluginError when the module has no such name."""
    module_name, _, name = reference.partition(":")
    module = importlib.import_module(module_name)
    if not hasattr(module, name):
        raise PluginError(f"{module_name} has no '{name}', which plugin.toml names.")
    return getattr(module, name)


def missing_modules(names: Sequence[str]) -> list[str]:
    """Those of these modules that cannot be imported, found without importing any."""
    return [name for name in names if not _is_there(name)]


def read_manifest(path: Path) -> Manifest:
    """Raises PluginError with what is wrong in the file."""
    try:
        manifest = Manifest.model_validate(tomllib.loads(path.read_text(encoding="utf-8")))
    except OSError as error:
        raise PluginError(f"plugin.toml cannot be read: {error.strerror}.") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise PluginError(f"plugin.toml is not valid TOML: {error}.") from error
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise PluginError(f"plugin.toml: '{where}': {first['msg']}.") from error
    if manifest.id != path.parent.name:
        raise PluginError(f"plugin.toml: the id '{manifest.id}' must be the folder's name, '{path.parent.name}'.")
    if manifest.api != PLUGIN_API:
        raise PluginError(f"It is made for plugin contract {manifest.api}; this studio has {PLUGIN_API}.")
    return manifest


def _load_one(manifest_file: Path, others: Plugins) -> Plugin:
    manifest = read_manifest(manifest_file)
    for tab in manifest.tabs:
        if tab in (*_TAKEN_TABS, *others.tabs):
            raise PluginError(f"Another tab is called '{tab}' already.")
    missing = missing_modules(manifest.requires)
    if missing:
        raise PluginError(f"It needs {', '.join(missing)}, not installed here. ./launch.sh installs what is missing.")
    kinds = _checked_kinds(imported(manifest.jobs), others.kinds) if manifest.jobs else ()
    return Plugin(manifest_file.parent, manifest, kinds)


def _checked_kinds(kinds: Any, taken: Sequence[JobKind]) -> tuple[JobKind, ...]:
    """All of an extension's kinds or none of them."""
    if not isinstance(kinds, (list, tuple)) or not all(isinstance(kind, JobKind) for kind in kinds):
        raise PluginError("What plugin.toml names as jobs is not a sequence of JobKind.")
    names = [kind.name for kind in taken]
    for kind in kinds:
        if not re.fullmatch(r"[a-z][a-z0-9_-]{0,31}", kind.name) or kind.name in ("serve", "test", "uploads"):
            raise PluginError(f"'{kind.name}' cannot be the name of a kind of job.")
        if kind.name in names:
            raise PluginError(f"Another kind of job is called '{kind.name}' already.")
        try:
            pickle.dumps(kind)
        except Exception as error:  # pickle raises whatever it meets
            raise PluginError(
                f"The kind of job '{kind.name}' cannot go to a worker process ({error}). Its functions must be a module's own."
            ) from error
        names.append(kind.name)
    return tuple(kinds)


def _is_there(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except (ImportError, ValueError):
        return False
