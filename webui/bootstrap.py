"""Sets up .venv beside app.py and starts the studio in it. What launch.sh and launch.bat call.

Standard library only, and readable by Python 3.8, so that an old Python gets a sentence instead of a SyntaxError.
It never touches the system's Python, never asks for root, never overrides pip's index or the hub's mirror, and never
colours its output. What it says goes to standard error: standard output belongs to the app.

.venv/galatea.json remembers which set was chosen and what was installed, .venv/setup.lock keeps two starts apart,
.venv/setup.log holds pip's last output.
"""

from __future__ import annotations

import contextlib
import difflib
import errno
import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple, NoReturn

ROOT = Path(__file__).resolve().parent.parent
VENV = ROOT / ".venv"
WINDOWS = os.name == "nt"
LAUNCHER = "launch.bat" if WINDOWS else "./launch.sh"
OLDEST_PYTHON = (3, 10)

REQUIREMENTS = {"full": "requirements.txt", "lite": "requirements-lite.txt"}
DEV_REQUIREMENTS = "requirements-dev.txt"
OWN_EXTENSIONS = ("sadtalker",)
# Free bytes asked for before the first install: what the set takes, pip's downloads, and some room to work in.
NEEDED_BYTES = {"full": 12_000_000_000, "lite": 1_500_000_000}
SET_WORDS = {
    "full": "the full set (about 7 GB on disk; for the small one of 1 GB stop this and run {launcher} --lite)",
    "lite": "the lite set (about 1 GB on disk)",
}

HELP = """\
Galatea: pictures with Stable Diffusion, talking portraits with SadTalker.

usage: {launcher} [set-up options] [settings]              set up what is missing, then serve the page
       {launcher} talk PORTRAIT VOICE [--out F.mp4] [...]  make one video; `talk --help` lists its options
       {launcher} txt2img PROMPT [--out F.png] [...]       make a picture; `txt2img --help` lists its options
       {launcher} img2img PROMPT --image FILE [...]        make a picture of another one
       {launcher} inpaint PROMPT --image FILE --mask FILE  make a part of a picture anew
       {launcher} extras IMAGE [--upscaler NAME] [...]     enlarge a picture, restore its faces
       {launcher} test [pytest's arguments]                run the tests

set-up options:
  --lite                install only what the built-in engine needs (no torch: 1 GB instead of 7); remembered
  --full                install everything; turns a lite installation into a full one
  --wheels DIR          install from a folder of wheels, without the network (docs/install-offline.md)
  -h, --help            this text; installs nothing and starts nothing

settings:
  --settings FILE       settings file (settings.toml)
  --models-dir DIR      where the weights are (models)
  --outputs-dir DIR     where results go (outputs)
  --sadtalker-dir DIR   a checkpoints folder of an existing SadTalker, used where it is (models/SadTalker alone)
  --device DEVICE       auto, cpu, mps, cuda or cuda:N; several with commas between, each works on its own job (auto)
  --database-url URL    the table of jobs, e.g. in PostgreSQL for several servers (a file in the outputs folder)
  --longest-side PIXELS
                        larger pictures are scaled down to this many pixels (2048)
  --max-voice-minutes MINUTES
                        longer voices are refused (30)
  --allow-pickles       read weights in .ckpt and .pt files, too, as numbers only; prefer .safetensors
  --precision P         numbers that Stable Diffusion computes with: auto, fp32, fp16 or bf16 (what suits the device)
  --offload WHAT        what waits in main memory while it does not work: auto, none, model or sequential (what fits on the card)
  --attention KIND      auto, sdpa, or sliced: slower, in less memory (sdpa)
  --tf32 SWITCH         NVIDIA's faster fp32: auto, on or off
  --channels-last SWITCH
                        pictures in memory by pixels, not by colours: auto, on or off
  --vae-slicing SWITCH  decode pictures one by one: auto, on or off
  --vae-tiling SWITCH   decode pictures in parts: auto, on or off
  --compile             compile the UNet's blocks, and on cards those of SadTalker's renderer: what comes first takes
                        minutes, the rest less
  --nsfw-filter SWITCH  blur what the safety checker flags, where its weights are in models/safety-checker: on or off (on)
  --listen              let other computers on the network in
  --port PORT           port of the page (7860, or the next free one)
  --share               make a public link through gradio.live
  --share-open          allow --share without a password
  --gradio-auth USER:PASSWORD[,...]
                        ask for this name and password
  --api-token TOKEN     let programs with this token use the HTTP API; with --server, the token to use there
  --fetch-urls          let programs upload files by their internet address
  --keep-days DAYS      delete finished jobs and their results after so many days (0: never)
  --allowed-hosts NAME[,...]
                        further names of this server, e.g. behind a proxy
  --max-upload-mb MEGABYTES
                        larger uploads are refused (4096)
  --language LANGUAGE   language of the page: en or zh (the browser's)

environment: PYTHON (which Python makes .venv), GALATEA_LITE=1 or 0 (as --lite or --full), GALATEA_PORT=7861 and so on,
             and pip's and the hub's own: PIP_INDEX_URL, PIP_FIND_LINKS, HTTPS_PROXY, HF_ENDPOINT ...
"""
# Shown while the app, which knows the whole of it, is not installed yet.
_PICTURE_USAGE = """\
           [--negative T] [--model M] [--vae V] [--sampler S] [--schedule S] [--steps N] [--cfg X] [--size WxH] [--seed N]
           [--variation-seed N] [--variation X] [--batch-count N] [--batch-size N] [--clip-skip N] [--tiling]
           [--filmstrip 1,2,10] [--strength X] [--format png|jpg|webp] [--out F.png] [--json] [--server URL]

Each option is explained here once the full set-up is done: run {launcher} first.
"""
COMMAND_USAGE = {
    "talk": """\
usage: {launcher} talk PORTRAIT [VOICE] [--out F.mp4] [--engine auto|builtin|sadtalker]
           [--preprocess crop|extcrop|resize|full|extfull] [--still] [--pose-style 0..45] [--size 256|512]
           [--expression-scale X] [--no-blink] [--idle SECONDS] [--reference-blink FILE] [--reference-pose FILE]
           [--yaw 0,20,-10] [--pitch 0,10] [--roll 0,5] [--enhancer NAME] [--enhancer-strength X]
           [--background-enhancer NAME] [--upscale 1|2|4] [--accuracy fast|exact] [--batch-size N] [--show-landmarks]
           [--fps 25] [--seed N] [--face K] [--json] [--server URL]

Each option is explained here once the set-up is done: run {launcher} or {launcher} --lite first.
""",
    "txt2img": """\
usage: {launcher} txt2img PROMPT [--hires] [--hires-scale X] [--hires-size WxH] [--hires-steps N] [--hires-upscaler U]
"""
    + _PICTURE_USAGE,
    "img2img": """\
usage: {launcher} img2img PROMPT [--image FILE] [--resize stretch|crop|fill|latent]
"""
    + _PICTURE_USAGE,
    "inpaint": """\
usage: {launcher} inpaint PROMPT [--image FILE] [--mask FILE] [--mask-blur N] [--mask-invert] [--only-masked] [--padding N]
           [--content fill|original|latent noise|latent nothing] [--resize stretch|crop|fill|latent]
"""
    + _PICTURE_USAGE,
    "extras": """\
usage: {launcher} extras IMAGE [--upscaler NAME] [--upscaler-2 NAME] [--upscaler-2-visibility X] [--scale X] [--size WxH]
           [--no-crop] [--restore NAME] [--restore-strength X] [--fidelity X] [--format png|jpg|webp] [--out F.png] [--json]
           [--server URL]

Each option is explained here once the full set-up is done: run {launcher} first.
""",
    "test": """\
usage: {launcher} test [pytest's arguments]

Installs requirements-dev.txt too, then runs every test, or those that the arguments select: tests/test_bootstrap.py
""",
}


class SetupError(Exception):
    """Set-up cannot go on; the message says what is wrong and what to do."""

    exit_code = 1


class UsageError(SetupError):
    """The command line makes no sense."""

    exit_code = 2


class Options(NamedTuple):
    """The command line, taken apart.

    command: serve, talk, test, or a kind of job that an extension adds.
    choice:  full, lite, or None for what was chosen before.
    wheels:  folder of wheels to install from, or None for pip's own configuration.
    rest:    the arguments for the app or for pytest, untouched.
    """

    command: str
    choice: str | None
    wheels: Path | None
    help: bool
    rest: list[str]


def main(arguments: list[str]) -> int:
    """Set up if needed and start. Returns an exit code; on POSIX a successful start replaces this process instead."""
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(errors="replace")  # type: ignore[union-attr]  # a console that has no Chinese shows ? for it
    try:
        require_python(sys.version_info[:2])
        options = parse(arguments, os.environ)
        if options.help and not (options.command != "serve" and is_ready(options)):
            print((COMMAND_USAGE.get(options.command) or HELP).format(launcher=LAUNCHER), end="")
            return 0
        chosen = set_up(options)
        return start(options, chosen)
    except SetupError as error:
        say(str(error))
        return error.exit_code
    except KeyboardInterrupt:
        say("Stopped. Start it again and the set-up goes on from here.  已停止，重新运行即可继续。")
        return 130


def say(message: str) -> None:
    print(message, file=sys.stderr, flush=True)


def require_python(version: tuple[int, int]) -> None:
    if version < OLDEST_PYTHON:
        raise SetupError(
            f"Galatea needs Python 3.10 or newer, and this is Python {version[0]}.{version[1]}. "
            "Install a newer one (python.org/downloads), then start again.\n需要 Python 3.10 或更新的版本。"
        )


# ---- the command line


def parse(arguments: list[str], environ: Mapping[str, str]) -> Options:
    """Take the set-up options out of the command line, wherever they stand before a `--`."""
    ours, rest, choices, wheels, wants_help = list(arguments), [], set(), None, False
    while ours:
        argument = ours.pop(0)
        if argument == "--":
            rest += [argument, *ours]
            break
        if argument in ("--lite", "--full"):
            choices.add(argument[2:])
        elif argument == "--wheels" or argument.startswith("--wheels="):
            wheels = _wheels_folder(argument[9:] if "=" in argument else ours.pop(0) if ours else "")
        else:
            wants_help = wants_help or argument in ("-h", "--help")
            rest.append(argument)
    if len(choices) > 1:
        raise UsageError("--lite and --full exclude each other: give one of them.")
    command = _take_command(rest)
    return Options(command, choices.pop() if choices else _choice_from(environ), wheels, wants_help, rest)


def _take_command(rest: list[str]) -> str:
    if not rest or rest[0].startswith("-"):
        return "serve"
    command = rest.pop(0)
    if command not in COMMAND_USAGE and not has_more_extensions():
        # Refused here: the app would refuse it too, but only after gigabytes of installing.
        near = difflib.get_close_matches(command, COMMAND_USAGE, n=1)
        hint = f" Did you mean '{near[0]}'?" if near else ""
        raise UsageError(
            f"'{command}' is not a command.{hint} There are {', '.join(COMMAND_USAGE)}; without a command the page is served. "
            f"`{LAUNCHER} --help` lists everything."
        )
    return command


def has_more_extensions() -> bool:
    """Whether somebody has added one: it may bring commands, which are known to the app alone."""
    return any(manifest.parent.name not in OWN_EXTENSIONS for manifest in ROOT.glob("extensions/*/plugin.toml"))


def check_flags(options: Options) -> None:
    """Raise UsageError for an option that serving or a job has not: the app would say so only once it is installed."""
    settings = re.findall(r"^  (--[\w-]+)( \S)?", HELP.partition("\nsettings:\n")[2], re.MULTILINE)
    own = re.findall(r"\[(--[\w-]+)( [^\]]+)?\]", COMMAND_USAGE.get(options.command, ""))
    known = dict(settings + own) if own or options.command == "serve" else None
    rest = list(options.rest) if known is not None else []
    while rest:
        flag, equals, _ = rest.pop(0).partition("=")
        if flag == "--" or (options.command == "serve" and not flag.startswith("-")):
            return  # from here on it is not ours to read
        if flag.startswith("--") and known is not None:
            if flag not in known:
                near = difflib.get_close_matches(flag, known, n=1)
                hint = f" Did you mean {near[0]}?" if near else ""
                raise UsageError(f"{flag} is not an option.{hint} `{LAUNCHER} --help` lists everything.")
            if known[flag] and not equals:
                del rest[:1]


def _wheels_folder(text: str) -> Path:
    folder = Path(text)
    with contextlib.suppress(RuntimeError):  # no such user: a name may begin with ~, too
        folder = folder.expanduser()
    folder = folder.resolve()
    if not text or not any(folder.glob("*.whl")):
        raise UsageError(
            f"--wheels needs a folder with .whl files in it, and '{text}' is none. "
            "docs/install-offline.md says how to make one."
        )
    return folder


def _choice_from(environ: Mapping[str, str]) -> str | None:
    value = environ.get("GALATEA_LITE", "").strip().lower()
    if value in ("1", "true", "yes", "on"):
        return "lite"
    return "full" if value in ("0", "false", "no", "off") else None


# ---- what is installed


class Installed(NamedTuple):
    """What .venv/galatea.json says. digests: requirements file -> digest of what it asked for when pip finished."""

    chosen: str | None
    digests: dict[str, str]


def read_state() -> Installed:
    try:
        state = json.loads((VENV / "galatea.json").read_text(encoding="utf-8"))
        return Installed(state["set"] if state["set"] in REQUIREMENTS else None, dict(state["digests"]))
    except (OSError, ValueError, KeyError, TypeError):
        return Installed(None, {})  # none, or cut off in mid-write: as if nothing were installed


def write_state(state: Installed) -> None:
    part = VENV / "galatea.json.part"
    part.write_text(json.dumps({"set": state.chosen, "digests": state.digests}, indent=2) + "\n", encoding="utf-8")
    os.replace(part, VENV / "galatea.json")


def choose(choice: str | None, state: Installed) -> str:
    """full or lite. A finished full installation has all that lite asks for, so it stays; the choice is remembered."""
    if choice == "lite" and state.chosen == "full" and REQUIREMENTS["full"] in state.digests:
        return "full"
    return choice or state.chosen or "full"


def wanted(options: Options, chosen: str) -> dict[str, str]:
    """The requirements files that this start needs, with their digests."""
    names = [REQUIREMENTS[chosen]] + ([DEV_REQUIREMENTS] if options.command == "test" else [])
    return {name: digest(ROOT / name) for name in names}


def digest(path: Path) -> str:
    """Of a requirements file, the files it includes, and the Python that they are installed for."""
    seen = hashlib.sha256(f"{sys.implementation.cache_tag} {sys.platform}\n".encode())
    for file in _with_includes(path):
        seen.update(file.read_bytes() + b"\0")
    return seen.hexdigest()


def _with_includes(path: Path) -> Iterator[Path]:
    yield path
    for line in path.read_text(encoding="utf-8").splitlines():
        include = re.match(r"\s*(?:-r|-c|--requirement|--constraint)[\s=]+(\S+)", line)
        if include:
            yield from _with_includes(path.parent / include.group(1))


def venv_python() -> Path:
    return VENV / ("Scripts/python.exe" if WINDOWS else "bin/python")


def venv_works() -> bool:
    """Whether .venv has an interpreter that runs, of the version that runs this, with pip."""
    if Path(sys.prefix).resolve() == VENV.resolve():
        # Running in it, so it runs; asking a second interpreter would double the time of every start.
        return any(Path(entry, "pip", "__main__.py").is_file() for entry in sys.path)
    code = "import pip, sys; sys.exit(sys.implementation.cache_tag != sys.argv[1])"
    command = [str(venv_python()), "-I", "-c", code, str(sys.implementation.cache_tag)]
    try:
        asked = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, timeout=60, check=False)
        return asked.returncode == 0
    except (OSError, subprocess.TimeoutExpired):
        return False


def is_ready(options: Options) -> bool:
    """Whether this start has nothing to install."""
    state = read_state()
    needs = wanted(options, choose(options.choice, state))
    return all(state.digests.get(name) == value for name, value in needs.items()) and venv_works()


# ---- set-up


def set_up(options: Options) -> str:
    """Make .venv hold what this start needs. Returns the set it holds: full or lite."""
    chosen = choose(options.choice, read_state())
    if options.choice == "lite" and chosen == "full":
        say("Everything is installed already, so --lite has nothing to leave out. For the lite set delete .venv first.")
    try:
        if not is_ready(options):
            check_flags(options)
            with _locked() as lock:
                if not is_ready(options):  # else another start was faster
                    _install(options, chosen, lock)
    except OSError as error:
        raise SetupError(_os_error_message(error)) from error
    return chosen


def _install(options: Options, chosen: str, lock: int) -> None:
    began = time.monotonic()
    if not read_state().digests:
        check_disk(chosen, free_bytes(VENV))
    _ensure_venv()
    _install_packages(options, chosen, lock)
    say(f"Set-up finished in {_duration(time.monotonic() - began)}.  安装完成。")


def free_bytes(folder: Path) -> int:
    return shutil.disk_usage(folder).free


def check_disk(chosen: str, free: int) -> None:
    """Raise SetupError when `free` bytes are too few for a first install of the set."""
    if free >= NEEDED_BYTES[chosen]:
        return
    lite_fits = chosen == "full" and free >= NEEDED_BYTES["lite"]
    raise SetupError(
        _disk_message(
            f"needs {NEEDED_BYTES[chosen] / 1e9:.1f} GB and there are {free / 1e9:.1f} GB",
            f" The lite set needs less: {LAUNCHER} --lite." if lite_fits else "",
        )
    )


def _disk_message(why: str, more: str = "") -> str:
    return (
        f"The disk is too full to install Galatea: it {why} where {ROOT} lies. "
        f"Free some space, or move the folder to a larger disk, then start again.{more}\n磁盘空间不足，请清理后重试。"
    )


@contextlib.contextmanager
def _locked() -> Iterator[int]:
    """Hold .venv/setup.lock; wait while another start holds it. The system lets go of it when its holder dies."""
    VENV.mkdir(exist_ok=True)
    descriptor = os.open(VENV / "setup.lock", os.O_RDWR | os.O_CREAT, 0o644)
    try:
        if not _try_lock(descriptor):
            say("Another start is setting up this folder; waiting for it.  另一个窗口正在安装，请稍候。")
            while not _try_lock(descriptor):
                time.sleep(0.5)
        yield descriptor
    finally:
        os.close(descriptor)


def _try_lock(descriptor: int) -> bool:
    try:
        if WINDOWS:
            import msvcrt

            msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)  # type: ignore[attr-defined]
        else:
            import fcntl

            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):
        return False
    return True


def _ensure_venv() -> None:
    if venv_works():
        return
    _require_venv_module()
    repairing = venv_python().exists() or venv_python().is_symlink()
    say(f"{'Making .venv anew: the old one is broken or of another Python' if repairing else 'Making .venv'} ...")
    for entry in VENV.iterdir():
        if entry.name != "setup.lock":  # which is held by this very process
            _remove(entry)
    base = getattr(sys, "_base_executable", None) or sys.executable  # an activated venv may be deleted any day
    made = subprocess.run(
        [base, "-I", "-m", "venv", str(VENV)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        env=child_environment(),
        check=False,
    )
    if made.returncode != 0 or not venv_works():
        raise SetupError(explain_failure(made.stdout.splitlines(), "Python could not make .venv"))


def _remove(entry: Path) -> None:
    if entry.is_dir() and not entry.is_symlink():
        shutil.rmtree(entry)
    else:
        entry.unlink()


def _require_venv_module() -> None:
    from importlib.util import find_spec

    if find_spec("venv") and find_spec("ensurepip"):
        return
    version = f"{sys.version_info[0]}.{sys.version_info[1]}"
    raise SetupError(
        f"This Python {version} came without its venv module, which Debian and Ubuntu ship apart. Install it with\n"
        f"    sudo apt install python{version}-venv\n"
        f"then run {LAUNCHER} again.  缺少 python{version}-venv，请先安装。"
    )


def _os_error_message(error: OSError) -> str:
    if error.errno in (errno.ENOSPC, getattr(errno, "EDQUOT", None)):
        return _disk_message("found no space left")
    return (
        f"{error.filename or VENV} cannot be used: {error.strerror}. Galatea needs a complete folder of your own that "
        "it may write to (not one that an administrator owns): put it in one, then start again."
    )


# ---- pip


def _install_packages(options: Options, chosen: str, lock: int) -> None:
    needs = wanted(options, chosen)
    digests = {name: value for name, value in read_state().digests.items() if name not in needs}
    # Written before pip runs: a start that is killed half-way is taken up again, with the same choice.
    write_state(Installed(chosen, digests))
    say(f"Installing {SET_WORDS[chosen].format(launcher=LAUNCHER)} into {VENV}.  正在安装依赖，首次需要几分钟。")
    temporary = VENV / "tmp"
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir()
    environment = child_environment()
    # A small /tmp in memory could not hold torch's wheels while pip unpacks them.
    environment["TMPDIR"] = environment["TEMP"] = environment["TMP"] = str(temporary)
    code, output = _run_pip(pip_command(list(needs), options.wheels), environment, lock)
    shutil.rmtree(temporary, ignore_errors=True)
    if code != 0:
        raise SetupError(explain_failure(output, "pip could not install everything", _is_offline(options)))
    write_state(Installed(chosen, {**digests, **needs}))


def pip_command(names: list[str], wheels: Path | None) -> list[str]:
    """pip's index, mirrors, certificates and proxies are the user's: nothing here sets or hides them."""
    command = [str(venv_python()), "-m", "pip", "install", "--no-input", "--no-color", "--disable-pip-version-check"]
    if wheels is not None:
        command += ["--no-index", "--find-links", str(wheels)]
    for name in names:
        command += ["-r", str(ROOT / name)]
    return command


def _is_offline(options: Options) -> bool:
    return options.wheels is not None or os.environ.get("PIP_NO_INDEX", "").lower() in (
        "1",
        "true",
        "yes",
        "on",
        "y",
        "t",
    )


def child_environment() -> dict[str, str]:
    """The user's environment less what would let another Python's packages into .venv, or pip's out of it."""
    hidden = ("PYTHONHOME", "PYTHONPATH", "__PYVENV_LAUNCHER__", "PIP_TARGET", "PIP_PREFIX", "PIP_ROOT")
    environment = {name: value for name, value in os.environ.items() if name not in hidden}
    environment["VIRTUAL_ENV"] = str(VENV)
    environment["PIP_USER"] = "0"
    return environment


_LARGE_STEP = re.compile(r"\s*(Downloading (?!.*\.metadata)\S+ \(.*[MG]B\)|Building wheel|Installing collected)")


def _run_pip(command: list[str], environment: dict[str, str], lock: int) -> tuple[int, list[str]]:
    """Run pip: all it says goes to .venv/setup.log, its large steps to the screen. Returns (exit code, lines)."""
    inherited = {} if WINDOWS else {"pass_fds": (lock,)}  # pip outlives a killed parent, and so must the lock
    lines: list[str] = []
    with _terminable(), (VENV / "setup.log").open("w", encoding="utf-8") as log:
        pip = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            encoding="utf-8",
            errors="replace",
            env=environment,
            **inherited,  # type: ignore[arg-type]
        )
        assert pip.stdout is not None
        try:
            with _heartbeat() as spoke:
                for line in pip.stdout:
                    log.write(line)
                    lines.append(line.rstrip())
                    if _LARGE_STEP.match(line):
                        # "Installing collected packages: " goes on with a hundred names.
                        say("  " + line.strip().split(": ")[0])
                        spoke()
            return pip.wait(), lines
        finally:
            if pip.poll() is None:
                pip.terminate()
                pip.wait()


@contextlib.contextmanager
def _terminable() -> Iterator[None]:
    """Let SIGTERM unwind as Ctrl+C does, so that pip is not left behind."""

    def leave(_signal: int, _frame: object) -> NoReturn:
        raise SystemExit(143)

    before = signal.signal(signal.SIGTERM, leave)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


@contextlib.contextmanager
def _heartbeat(quiet_seconds: float = 30.0) -> Iterator[Callable[[], None]]:
    """Say that work goes on when nothing was said for a while. Yields the function that resets the wait."""
    began, done, spoken = time.monotonic(), threading.Event(), threading.Event()

    def beat() -> None:
        while not done.wait(quiet_seconds):
            if not spoken.is_set():
                say(f"  ... still working ({_duration(time.monotonic() - began)})")
            spoken.clear()

    thread = threading.Thread(target=beat, daemon=True)
    thread.start()
    try:
        yield spoken.set
    finally:
        done.set()
        thread.join()


def _duration(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 100 else f"{int(seconds) // 60} min {int(seconds) % 60} s"


# ---- what went wrong


_DISK_FULL = re.compile(
    r"No space left on device|Errno 28\b|not enough space on the disk|WinError 112|Disk quota exceeded|Errno 122\b"
)
_NO_NETWORK = re.compile(
    r"NewConnectionError|NameResolutionError|Failed to establish a new connection|failure in name resolution|"
    r"getaddrinfo failed|Name or service not known|Network is unreachable|Connection refused|ConnectTimeout|"
    r"ReadTimeout|timed out|Max retries exceeded|ProxyError|Cannot connect to proxy|Could not fetch URL|"
    r"Connection (?:error|aborted|broken|reset)|RemoteDisconnected|IncompleteRead|IncompleteDownload|"
    r"\b50[234] (?:Server Error|Bad|Service)",
    re.IGNORECASE,
)
_BAD_CERTIFICATE = re.compile(r"CERTIFICATE_VERIFY_FAILED|SSLCertVerificationError|SSLError", re.IGNORECASE)
_NO_PACKAGE = re.compile(r"No matching distribution found for (\S+)")
_NOT_WRITABLE = re.compile(r"Permission denied|Errno 13\b|Read-only file system|Errno 30\b")


def explain_failure(lines: list[str], what: str, offline: bool = False) -> str:
    """From pip's (or venv's) output to what is wrong and what to do. offline: pip was told to use no index."""
    text = "\n".join(lines)
    missing = _NO_PACKAGE.search(text)
    if _DISK_FULL.search(text):
        reason = _disk_message("ran out of space")
    elif _BAD_CERTIFICATE.search(text):
        reason = (
            "The package index answered with a certificate that is not trusted here. Behind a company's proxy, "
            f"give pip the proxy's certificate: PIP_CERT=/path/to/certificate.pem {LAUNCHER}"
        )
    elif _NO_NETWORK.search(text) or ("(from versions: none)" in text and not offline):
        # Told not to retry, pip keeps the broken connection to itself and has found "none".
        reason = _network_message()
    elif missing:
        reason = (
            f"There is no {missing.group(1)} for Python {sys.version_info[0]}.{sys.version_info[1]} on this computer "
            "in the index or the folder of wheels that pip was told to use. Try another Python from 3.10 to 3.14 "
            f"(PYTHON=/path/to/python3.12 {LAUNCHER}), another mirror, or complete the folder of wheels "
            "(docs/install-offline.md)."
        )
    elif _NOT_WRITABLE.search(text):
        reason = f"A file in {VENV} cannot be written. Delete .venv, or put Galatea in a folder of your own."
    else:
        reason = f"{what}. Start again to retry; if it stays, delete .venv first."
    return "\n".join([reason, *_last_lines(lines)])


def _network_message() -> str:
    return f"""\
The packages cannot be downloaded: the package index cannot be reached. Check the network, then start again. Otherwise:
  - a mirror near you:  PIP_INDEX_URL=https://YOUR-MIRROR/simple {LAUNCHER}
  - behind a proxy:     HTTPS_PROXY=http://YOUR-PROXY:PORT {LAUNCHER}
  - without network:    {LAUNCHER} --wheels FOLDER   (docs/install-offline.md says how to fill the folder)
无法下载依赖包：请检查网络；也可用 PIP_INDEX_URL 指定镜像，或用 --wheels 离线安装。"""


def _last_lines(lines: list[str]) -> list[str]:
    errors = [line for line in lines if line.startswith("ERROR")] or [line for line in lines if line.strip()]
    shown = ["The last that was said:", *(f"  | {line[:300]}" for line in errors[-5:])] if errors else []
    log = VENV / "setup.log"
    return [*shown, f"All of it: {log}"] if log.exists() else shown


# ---- start


def start(options: Options, chosen: str) -> int:
    """Run the app, or pytest, in .venv with the user's arguments."""
    environment = child_environment()
    environment.pop("GALATEA_LITE", None)  # what is installed counts, not what was once asked for
    if chosen == "lite":
        environment["GALATEA_LITE"] = "1"
    command = [str(venv_python())]
    if options.command == "test":
        os.chdir(ROOT)
        command += ["-m", "pytest"]
    else:
        # The folder stays the user's own: paths on the command line are relative to it.
        command += [str(ROOT / "app.py")] + ([] if options.command == "serve" else [options.command])
    command += options.rest
    if WINDOWS:
        return _run_and_wait(command, environment)
    os.execve(command[0], command, environment)


def _run_and_wait(command: list[str], environment: dict[str, str]) -> int:
    """Windows has no exec that keeps the console. Ctrl+C reaches the app directly, so here it is only outlived."""
    app = subprocess.Popen(command, env=environment)
    while True:
        with contextlib.suppress(KeyboardInterrupt):
            return app.wait()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
