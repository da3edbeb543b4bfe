"""The studio's settings: the one place where flags, environment and settings file are read. Never changed afterwards.

Precedence: command line, then environment (GALATEA_PORT=7861 ...), then settings.toml, then the default.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import re
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any
from urllib.parse import quote

from webui.errors import InvalidRequest

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib  # pyright: ignore[reportMissingImports]

PROJECT = Path(__file__).resolve().parent.parent
DEFAULT_PORT = 7860
LANGUAGES = ("en", "zh")
PRECISIONS = ("auto", "fp32", "fp16", "bf16")
ATTENTION = ("auto", "sdpa", "sliced")
OFFLOAD = ("auto", "none", "model", "sequential")


@dataclass(frozen=True)
class Settings:
    """Frozen settings of this run.

    sadtalker_dir:     an existing checkpoints folder of SadTalker, looked into after models_dir/SadTalker.
    device:            auto, cpu, mps, cuda or cuda:N; several, separated by commas, work on several jobs at once.
    database_url:      the table of jobs, SQLite or PostgreSQL; None keeps it in the outputs folder. Never shown in the repr.
    keep_days:         finished jobs and their results are deleted after so many days; 0 keeps them.
    fetch_urls:        let programs upload a file by its address on the internet.
    port:              None takes 7860 or the next free one.
    gradio_auth:       (user, password) pairs; never shown in the repr.
    api_token:         what programs send instead of a name and password, and visitors may type as one; never shown in the repr.
    allowed_hosts:     further names by which visitors may reach this server, e.g. behind a proxy.
    max_upload_mb:     larger uploads are refused.
    longest_side:      larger pictures are scaled down to this many pixels.
    max_voice_minutes: longer voices are refused.
    allow_pickles:     read weights in pickles (.ckpt, .pt), too, as numbers only.
    precision, tf32, attention, channels_last, vae_slicing, vae_tiling, offload, compile: how Stable Diffusion is run, where
                       that should not be chosen by what the device has ("auto", None): see imaging/plans.py. With compile, cards
                       draw SadTalker's fast frames by compiled blocks, too.
    nsfw_filter:       blur pictures that the safety checker flags, where its weights are in models/safety-checker.
    lite:              installed without torch: only what needs none can run.
    language:          en or zh for everybody; None follows each visitor's browser.
    """

    models_dir: Path = PROJECT / "models"
    outputs_dir: Path = PROJECT / "outputs"
    sadtalker_dir: Path | None = None
    device: str = "auto"
    database_url: str | None = field(default=None, repr=False)
    keep_days: float = 0.0
    fetch_urls: bool = False
    listen: bool = False
    port: int | None = None
    share: bool = False
    share_open: bool = False
    gradio_auth: tuple[tuple[str, str], ...] = field(default=(), repr=False)
    api_token: str | None = field(default=None, repr=False)
    allowed_hosts: tuple[str, ...] = ()
    max_upload_mb: int = 4096
    longest_side: int = 2048
    max_voice_minutes: float = 30.0
    allow_pickles: bool = False
    precision: str = "auto"
    tf32: bool | None = None
    attention: str = "auto"
    channels_last: bool | None = None
    vae_slicing: bool | None = None
    vae_tiling: bool | None = None
    offload: str = "auto"
    compile: bool = False
    nsfw_filter: bool = True
    lite: bool = False
    language: str | None = None

    @property
    def jobs_url(self) -> str:
        """Where the table of jobs is, for SQLAlchemy."""
        path = self.outputs_dir / ".galatea" / "jobs.sqlite"
        return self.database_url or f"sqlite:///{quote(str(path), safe='/: ' + os.sep)}"

    @property
    def plan_overrides(self) -> dict[str, Any]:
        """What is said of how Stable Diffusion is run: fields of imaging.plans.Plan. What is left open is not there."""
        said = {
            "precision": None if self.precision == "auto" else self.precision,
            "offload": None if self.offload == "auto" else self.offload,
            "attention_slicing": {"sdpa": False, "sliced": True}.get(self.attention),
            "tf32": self.tf32,
            "channels_last": self.channels_last,
            "vae_slicing": self.vae_slicing,
            "vae_tiling": self.vae_tiling,
            "compile": self.compile or None,
        }
        return {name: value for name, value in said.items() if value is not None}

    @property
    def guarded(self) -> bool:
        """Whether visitors of page and API must say who they are."""
        return bool(self.gradio_auth or self.api_token)

    def check_serving(self) -> None:
        """Raise InvalidRequest when serving with these settings would open the studio to strangers unasked."""
        if self.share and not self.guarded and not self.share_open:
            raise InvalidRequest(
                "--share puts this studio on the internet for anybody who has the link. "
                "Add --gradio-auth user:password, or --share-open if that is what you want."
            )

    def serving_warnings(self) -> tuple[str, ...]:
        """What the person who starts the server should know about these settings."""
        if self.listen and not self.guarded:
            return ("Everybody on your network can use this studio. Add --gradio-auth user:password to change that.",)
        return ()


def expanded(written: str | Path) -> Path:
    """The path with its ~ replaced by the home folder; as it stands when there is no such user (~x.jpg is a name, too)."""
    try:
        return Path(written).expanduser()
    except RuntimeError:
        return Path(written)


def add_flags(parser: argparse.ArgumentParser, *, serving: bool) -> None:
    """Declare the settings as flags. Values stay text and absent flags stay absent: `load` reads and checks them."""
    group = parser.add_argument_group("settings")
    group.add_argument("--settings", metavar="FILE", default=argparse.SUPPRESS, help="settings file (settings.toml)")
    for option in _OPTIONS:
        if option.flag is None or (option.only_serving and not serving):
            continue
        shape: dict[str, Any] = {"action": "store_true"} if option.read is _read_bool else {"metavar": option.metavar}
        group.add_argument(option.flag, dest=option.name, default=argparse.SUPPRESS, help=option.help, **shape)


def load(given: Mapping[str, Any], environ: Mapping[str, str]) -> Settings:
    """Settings from parsed flags (only those that were given), the environment and the settings file.

    Raises InvalidRequest, naming the setting and where it stands, when a value cannot be used.
    """
    values: dict[str, Any] = {}
    for source in (_from_file(given, environ), _from_environment(environ), _from_flags(given)):
        values |= source
    values.setdefault("lite", importlib.util.find_spec("torch") is None)
    return Settings(**values)


def _from_flags(given: Mapping[str, Any]) -> dict[str, Any]:
    return {o.name: o.value(given[o.name], o.flag or o.name, Path.cwd()) for o in _OPTIONS if o.name in given}


def _from_environment(environ: Mapping[str, str]) -> dict[str, Any]:
    found = {}
    for option in _OPTIONS:
        key = f"GALATEA_{option.name.upper()}"
        if environ.get(key, "") != "":
            found[option.name] = option.value(environ[key], key, Path.cwd())
    return found


def _from_file(given: Mapping[str, Any], environ: Mapping[str, str]) -> dict[str, Any]:
    named = given.get("settings") or environ.get("GALATEA_SETTINGS")
    path = expanded(named) if named else PROJECT / "settings.toml"
    if not named and not path.exists():
        return {}
    content = _read_toml(path)
    options = {option.name: option for option in _OPTIONS}
    unknown = sorted(set(content) - set(options))
    if unknown:
        known = ", ".join(sorted(options))
        raise InvalidRequest(f"{path} sets '{unknown[0]}', which is not a setting. Known: {known}.")
    folder = path.resolve().parent
    return {name: options[name].value(value, f"{name} in {path}", folder) for name, value in content.items()}


def _read_toml(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InvalidRequest(f"The settings file {path} cannot be read: {error.strerror}.") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InvalidRequest(f"The settings file {path} is not valid TOML: {error}.") from error


@dataclass(frozen=True)
class _Option:
    """One setting as it is written down. `read` turns text (or a TOML value) into its value or raises ValueError."""

    name: str
    read: Callable[[Any, Path], Any]
    help: str
    flag: str | None
    metavar: str = ""
    only_serving: bool = True

    def value(self, written: Any, where: str, folder: Path) -> Any:
        try:
            return self.read(written, folder)
        except (ValueError, TypeError) as error:
            raise InvalidRequest(f"{where}: {error}.") from error


def _read_bool(written: Any, _folder: Path) -> bool:
    if isinstance(written, bool):
        return written
    text = str(written).strip().lower()
    if text in ("1", "true", "yes", "on"):
        return True
    if text in ("0", "false", "no", "off"):
        return False
    raise ValueError(f"expected true or false, got '{written}'")


def _read_on_off(written: Any, folder: Path) -> bool:
    """For what is on by itself: its flag takes a value."""
    return _read_bool(written, folder)


def _read_choice(*known: str) -> Callable[[Any, Path], str]:
    def read(written: Any, _folder: Path) -> str:
        if written not in known:
            raise ValueError(f"expected {', '.join(known[:-1])} or {known[-1]}, got '{written}'")
        return str(written)

    return read


def _read_switch(written: Any, folder: Path) -> bool | None:
    """on, off, or auto for neither."""
    if str(written).strip().lower() == "auto":
        return None
    try:
        return _read_bool(written, folder)
    except ValueError:
        raise ValueError(f"expected auto, on or off, got '{written}'") from None


def _read_folder(written: Any, folder: Path) -> Path:
    if not isinstance(written, str) or not written.strip():
        raise ValueError("expected a folder")
    return (folder / expanded(written)).resolve()


def _read_number(kind: type, low: float, high: float) -> Callable[[Any, Path], Any]:
    def read(written: Any, _folder: Path) -> Any:
        what = "a whole number" if kind is int else "a number"
        expected = f"expected {what} from {low:.12g} to {high:.12g}, got '{written}'"
        if isinstance(written, bool) or (kind is int and isinstance(written, float)):
            raise ValueError(expected)
        try:
            value = kind(written)
        except (TypeError, ValueError):
            raise ValueError(expected) from None
        if not low <= value <= high:
            raise ValueError(expected)
        return value

    return read


def _read_device(written: Any, _folder: Path) -> str:
    names = [name.strip() for name in str(written).split(",")]
    if not all(re.fullmatch(r"auto|cpu|mps|cuda(:\d{1,3})?", name) for name in names):
        raise ValueError(f"expected auto, cpu, mps, cuda or cuda:N, or several separated by commas, got '{written}'")
    return ",".join(names)


def _read_database(written: Any, _folder: Path) -> str:
    # What was written is not repeated, as with passwords: an address may hold one.
    if not isinstance(written, str) or not re.match(r"(postgresql|sqlite):///?[^\s]+$", written):
        raise ValueError("expected postgresql://user:password@host/database or sqlite:///path")
    return written


def _read_auth(written: Any, _folder: Path) -> tuple[tuple[str, str], ...]:
    """A1111's form: user:password, several separated by commas. The settings file may give a list instead."""
    entries = written if isinstance(written, list) else str(written).split(",")
    pairs = []
    for entry in entries:
        user, colon, password = str(entry).strip().partition(":")
        if not (user and colon and password):
            # What was written is not repeated: it may hold a password, and messages end up in logs.
            raise ValueError("expected user:password, several separated by commas")
        pairs.append((user, password))
    return tuple(pairs)


def _read_token(written: Any, _folder: Path) -> str:
    # What was written is not repeated, as with passwords.
    if not isinstance(written, str) or not re.fullmatch(r"[!-~]{8,256}", written):
        raise ValueError("expected 8 to 256 letters, digits or signs, without spaces")
    return written


def _read_hosts(written: Any, _folder: Path) -> tuple[str, ...]:
    entries = written if isinstance(written, list) else str(written).split(",")
    names = tuple(str(entry).strip().lower() for entry in entries)
    for name in names:
        if not re.fullmatch(r"[a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?", name):
            raise ValueError(f"expected names such as studio.example.org, without a port, got '{name}'")
    return names


_OPTIONS = (
    _Option("models_dir", _read_folder, "where the weights are (models)", "--models-dir", "DIR", only_serving=False),
    _Option("outputs_dir", _read_folder, "where results go (outputs)", "--outputs-dir", "DIR", only_serving=False),
    _Option(
        "sadtalker_dir",
        _read_folder,
        "a checkpoints folder of an existing SadTalker, used where it is (models/SadTalker alone)",
        "--sadtalker-dir",
        "DIR",
        only_serving=False,
    ),
    _Option(
        "device",
        _read_device,
        "auto, cpu, mps, cuda or cuda:N; several with commas between, each works on its own job (auto)",
        "--device",
        "DEVICE",
        only_serving=False,
    ),
    _Option(
        "database_url",
        _read_database,
        "the table of jobs, e.g. in PostgreSQL for several servers (a file in the outputs folder)",
        "--database-url",
        "URL",
        only_serving=False,
    ),
    _Option(
        "longest_side",
        _read_number(int, 256, 16384),
        "larger pictures are scaled down to this many pixels (2048)",
        "--longest-side",
        "PIXELS",
        only_serving=False,
    ),
    _Option(
        "max_voice_minutes",
        _read_number(float, 0.01, 24 * 60),
        "longer voices are refused (30)",
        "--max-voice-minutes",
        "MINUTES",
        only_serving=False,
    ),
    _Option(
        "allow_pickles",
        _read_bool,
        "read weights in .ckpt and .pt files, too, as numbers only; prefer .safetensors",
        "--allow-pickles",
        only_serving=False,
    ),
    _Option(
        "precision",
        _read_choice(*PRECISIONS),
        "numbers that Stable Diffusion computes with: auto, fp32, fp16 or bf16 (what suits the device)",
        "--precision",
        "P",
        only_serving=False,
    ),
    _Option(
        "offload",
        _read_choice(*OFFLOAD),
        "what waits in main memory while it does not work: auto, none, model or sequential (what fits on the card)",
        "--offload",
        "WHAT",
        only_serving=False,
    ),
    _Option(
        "attention",
        _read_choice(*ATTENTION),
        "auto, sdpa, or sliced: slower, in less memory (sdpa)",
        "--attention",
        "KIND",
        only_serving=False,
    ),
    _Option("tf32", _read_switch, "NVIDIA's faster fp32: auto, on or off", "--tf32", "SWITCH", only_serving=False),
    _Option(
        "channels_last",
        _read_switch,
        "pictures in memory by pixels, not by colours: auto, on or off",
        "--channels-last",
        "SWITCH",
        only_serving=False,
    ),
    _Option(
        "vae_slicing", _read_switch, "decode pictures one by one: auto, on or off", "--vae-slicing", "SWITCH", only_serving=False
    ),
    _Option(
        "vae_tiling", _read_switch, "decode pictures in parts: auto, on or off", "--vae-tiling", "SWITCH", only_serving=False
    ),
    _Option(
        "compile",
        _read_bool,
        "compile the UNet's blocks, and on cards those of SadTalker's renderer: what comes first takes minutes, the rest less",
        "--compile",
        only_serving=False,
    ),
    _Option(
        "nsfw_filter",
        _read_on_off,
        "blur what the safety checker flags, where its weights are in models/safety-checker: on or off (on)",
        "--nsfw-filter",
        "SWITCH",
        only_serving=False,
    ),
    _Option("listen", _read_bool, "let other computers on the network in", "--listen"),
    _Option("port", _read_number(int, 1, 65535), "port of the page (7860, or the next free one)", "--port", "PORT"),
    _Option("share", _read_bool, "make a public link through gradio.live", "--share"),
    _Option("share_open", _read_bool, "allow --share without a password", "--share-open"),
    _Option("gradio_auth", _read_auth, "ask for this name and password", "--gradio-auth", "USER:PASSWORD[,...]"),
    _Option(
        "api_token",
        _read_token,
        "let programs with this token use the HTTP API; with --server, the token to use there",
        "--api-token",
        "TOKEN",
        only_serving=False,
    ),
    _Option("fetch_urls", _read_bool, "let programs upload files by their internet address", "--fetch-urls"),
    _Option(
        "keep_days",
        _read_number(float, 0, 36500),
        "delete finished jobs and their results after so many days (0: never)",
        "--keep-days",
        "DAYS",
    ),
    _Option(
        "allowed_hosts",
        _read_hosts,
        "further names of this server, e.g. behind a proxy",
        "--allowed-hosts",
        "NAME[,...]",
    ),
    _Option(
        "max_upload_mb",
        _read_number(int, 1, 1 << 20),
        "larger uploads are refused (4096)",
        "--max-upload-mb",
        "MEGABYTES",
    ),
    _Option("language", _read_choice(*LANGUAGES), "language of the page: en or zh (the browser's)", "--language", "LANGUAGE"),
    _Option("lite", _read_bool, "installed without torch", None),
)

assert {option.name for option in _OPTIONS} == {f.name for f in fields(Settings)}
