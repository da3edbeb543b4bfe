"""The command line: flags, and one sub-command per kind of job, made from the fields of its request model.

Speaks to the job service alone. Never imports the page or its library, so that it starts quickly.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import signal
import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NoReturn, get_args, get_origin

from webui import errors, settings
from webui.errors import GalateaError, InvalidRequest
from webui.jobs.types import UNEXPECTED, Job, JobKind, JobState
from webui.jobs.validation import artifact_fields

if TYPE_CHECKING:
    from pydantic import BaseModel
    from pydantic.fields import FieldInfo

    from webui.artifacts import Artifacts
    from webui.jobs.service import JobService
    from webui.remote import RemoteService

IMPORTED = time.time()
INTERRUPTED = 130
INTERNAL = "InternalError"
SAVING = 15.0
"""Seconds that a job has after Ctrl-C to finish its file."""

USED_WITH_SERVER = {"outputs_dir", "api_token", "gradio_auth"}
"""The settings that matter to a job on another computer: where the result goes, and who asks."""


class Parser(argparse.ArgumentParser):
    """Raises InvalidRequest where argparse would end the program, so that --json can report it too."""

    def error(self, message: str) -> NoReturn:
        raise InvalidRequest(f"{message[:1].upper()}{message[1:]}. See {self.prog} --help.")


def parse(argv: Sequence[str], kinds: Sequence[JobKind]) -> argparse.Namespace:
    """The parsed command line; `command` is None to serve, or the name of a kind of job."""
    about = "Galatea: serves the studio's page when no command is given."
    parser = Parser(prog="app.py", description=about, allow_abbrev=False)
    settings.add_flags(parser, serving=True)
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", title="commands")
    for kind in kinds:
        command = commands.add_parser(kind.name, help=kind.title, description=kind.title, allow_abbrev=False)
        _add_fields(command, kind)
        command.add_argument("--out", metavar="FILE", type=file_name, help="where the result goes (a new file in outputs)")
        command.add_argument("--json", action="store_true", help="end with one line of JSON about the result")
        command.add_argument("--server", metavar="URL", help="let the studio at this address do it (this computer)")
        settings.add_flags(command, serving=False)
    try:
        options = parser.parse_args(_with_negative_lists(argv))
    except InvalidRequest as error:
        dashed = next((text for text in argv if re.match(r"-[^-\d.].", text)), None)
        hint = f" If '{dashed}' is the name of a file, write ./{dashed}" if dashed else ""
        raise InvalidRequest(f"{error}{hint}") from error
    if getattr(options, "server", None) is not None:
        _refuse_settings_of_the_server(options)
    return options


def _with_negative_lists(argv: Sequence[str]) -> list[str]:
    """Arguments in which a list that begins with a minus (--yaw -20,30) is told from a flag, as argparse tells a number."""
    joined: list[str] = []
    for text in argv:
        if joined and re.fullmatch(r"--[a-z-]+", joined[-1]) and re.fullmatch(r"-[\d.]+([,;\s]+-?[\d.]+)+", text):
            joined[-1] += f"={text}"
        else:
            joined.append(text)
    return joined


def file_name(text: str) -> Path:
    """An argument that names a file."""
    if not text.strip():
        raise argparse.ArgumentTypeError("the name is empty, give the name of a file")
    return settings.expanded(text)


def run(kind: JobKind, options: Mapping[str, Any], service: JobService | RemoteService, artifacts: Artifacts) -> int:
    """Do one job and report it. options: the parsed flags. Returns the exit code, raises GalateaError."""
    out: Path | None = options["out"]
    request = request_from(kind.request, options, artifacts)
    target = out.absolute() if out else None
    if target:
        inputs = [artifacts.get(request[name]).path for name in artifact_fields(kind.request) if name in request]
        refuse_overwriting(target, inputs)
    start_up = process_age()
    with interruptible():
        job = service.submit(kind.name, request, target=target, previews=False)
        try:
            job = _watched(service, job, Progress(sys.stderr))
        except KeyboardInterrupt:
            print("\nStopping; what is done so far is being saved.", file=sys.stderr, flush=True)
            service.cancel(job.id)
            job = service.wait(job.id, SAVING)
    if job.state is JobState.FAILED or job.result is None:
        return _report_failure(job, as_json=options["json"])
    _report_result(job, start_up, as_json=options["json"])
    return INTERRUPTED if job.state is JobState.CANCELLED else 0


def report_error(error: GalateaError, *, as_json: bool) -> int:
    """Say what is wrong on stderr, and as the last line of stdout for --json. Returns the exit code."""
    return _print_error(str(error), type(error).__name__, error.exit_code, as_json=as_json)


def report_bug(*, as_json: bool) -> int:
    """Like report_error, for what is no GalateaError: its details are in the log alone."""
    return _print_error(UNEXPECTED, INTERNAL, 1, as_json=as_json)


def request_from(model: type[BaseModel], options: Mapping[str, Any], artifacts: Artifacts) -> dict[str, Any]:
    """The request's fields that were given; paths become artifact ids. Raises InvalidRequest for a missing file."""
    files = artifact_fields(model)
    given = {name: options[name] for name in model.model_fields if options.get(name) is not None}
    return {name: artifacts.adopt(settings.expanded(value)).id if name in files else value for name, value in given.items()}


def refuse_overwriting(target: Path, inputs: Iterable[Path]) -> None:
    """Raise InvalidRequest when the result would replace one of the files that it is made from."""
    for path in inputs:
        # samefile also knows links, and file systems to which A.mp4 and a.mp4 are one.
        if os.path.exists(target) and target.samefile(path):
            raise InvalidRequest(f"--out {target} is one of the files that the result is made from. Choose another name.")


def process_age() -> float:
    """Seconds since this process was made; since this module was imported where the system does not tell."""
    try:
        after_name = Path("/proc/self/stat").read_text().rpartition(")")[2].split()
        started = int(after_name[19]) / os.sysconf("SC_CLK_TCK")
        return time.clock_gettime(time.CLOCK_BOOTTIME) - started
    except (OSError, AttributeError, ValueError, IndexError):
        return time.time() - IMPORTED


@contextmanager
def interruptible() -> Iterator[None]:
    """Let a polite kill (SIGTERM) act like Ctrl-C."""

    def interrupt(_number: int, _frame: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


class Progress:
    """One line that is written over on a terminal; a line per stage and per tenth elsewhere."""

    def __init__(self, stream: Any):
        self._stream = stream
        self._live = stream.isatty()
        self._last: object = None

    def show(self, job: Job) -> None:
        left = "" if job.eta is None else f", {job.eta:.0f} s left"
        text = f"{job.fraction:4.0%}  {job.stage or job.state.value}{left}"
        if self._live:
            print(f"\r\x1b[K{text}", end="", file=self._stream, flush=True)
        elif self._last != (mark := (re.sub(r"\d+", "", job.stage), int(job.fraction * 10))):
            self._last = mark
            print(text, file=self._stream, flush=True)

    def end(self) -> None:
        if self._live:
            print("\r\x1b[K", end="", file=self._stream, flush=True)


def _watched(service: JobService | RemoteService, job: Job, progress: Progress) -> Job:
    while not job.state.finished:
        progress.show(job)
        # The timeout keeps Ctrl-C alive on systems where waiting for a lock cannot be interrupted.
        job = service.watch(job.id, job.version, timeout=0.5)
    progress.end()
    return job


def _report_result(job: Job, start_up: float, *, as_json: bool) -> None:
    assert job.result is not None
    paths = [str(artifact.path) for artifact in job.result.artifacts]
    for warning in job.warnings:
        print(f"Note: {warning}", file=sys.stderr)
    if job.state is JobState.CANCELLED:
        print("Stopped. This is what was done so far:", file=sys.stderr)
    if not as_json:
        print(*paths, sep="\n")
        return
    seconds = {"start_up": round(start_up, 3), **job.result.data.get("seconds", {})}
    facts = {"path": paths[0], "paths": paths, **job.result.data, "seconds": seconds, "warnings": list(job.warnings)}
    print(json.dumps(facts | {"partial": job.state is JobState.CANCELLED}), flush=True)


def _report_failure(job: Job, *, as_json: bool) -> int:
    if not job.state.finished:
        message = "The job did not stop in time; nothing was kept."
        return _print_error(message, "Cancelled", INTERRUPTED, as_json=as_json)
    kind = getattr(errors, job.error_type, None) if job.error_type else None
    code = INTERRUPTED if job.state is JobState.CANCELLED else getattr(kind, "exit_code", 1)
    return _print_error(job.error or UNEXPECTED, job.error_type or INTERNAL, code, as_json=as_json)


def _print_error(message: str, kind: str, code: int, *, as_json: bool) -> int:
    print(f"Error: {message}", file=sys.stderr, flush=True)
    if as_json:
        print(json.dumps({"error": message, "type": kind}), flush=True)
    return code


def _add_fields(parser: argparse.ArgumentParser, kind: JobKind) -> None:
    known, files = kind.request.model_fields, artifact_fields(kind.request)
    nameless = kind.positional
    if nameless is None:
        nameless = tuple(name for name in files if known[name].is_required())
    for name in (*nameless, *(name for name in known if name not in nameless)):
        field = known[name]
        # What a person gives is a path; that the request holds an id is nothing to them.
        about = (field.description or name).replace("%", "%%").replace("Artifact id of a", "A")
        flag = f"--{name.replace('_', '-')}"
        shape = {"metavar": "FILE", "type": file_name} if name in files else _shape(field)
        if name in nameless:
            count: dict[str, Any] = {} if field.is_required() else {"nargs": "?"}
            parser.add_argument(name, **shape | {"metavar": name.upper()}, **count, help=about)
        elif field.is_required():
            parser.add_argument(flag, dest=name, required=True, help=about, **shape)
        elif field.annotation is bool:
            opposite = f"--no-{flag[2:]}" if field.default else flag
            action = "store_false" if field.default else "store_true"
            about = f"do not: {about[:1].lower()}{about[1:]}" if field.default else about
            parser.add_argument(opposite, dest=name, action=action, default=None, help=about)
        else:
            parser.add_argument(flag, dest=name, help=f"{about} ({_default(field)})", **shape)


def _refuse_settings_of_the_server(options: argparse.Namespace) -> None:
    """With --server the job runs with that studio's settings: a flag that would be ignored in silence is an error."""
    known = {one.name for one in fields(settings.Settings)} - USED_WITH_SERVER
    for name in sorted(known & vars(options).keys()):
        flag = f"--{name.replace('_', '-')}"
        raise InvalidRequest(f"{flag} has no effect with --server: the studio there has settings of its own. Leave it out.")


def _shape(field: FieldInfo) -> dict[str, Any]:
    """argparse's arguments for a field with a value. Bounds are left to the model, which words them better."""
    if get_origin(field.annotation) is not Literal:
        return {"metavar": "TEXT" if str in (field.annotation, *get_args(field.annotation)) else "N"}
    values = {str(value): value for value in get_args(field.annotation)}

    def choice(text: str) -> Any:
        if text not in values:
            raise argparse.ArgumentTypeError(f"'{text}' is none of {', '.join(values)}")
        return values[text]

    return {"type": choice, "metavar": "|".join(values)}


def _default(field: FieldInfo) -> str:
    limits = [f"{getattr(rule, side):.12g}" for rule in field.metadata for side in ("ge", "le") if hasattr(rule, side)]
    bounds = f"{' to '.join(limits)}; " if len(limits) == 2 else ""
    return f"{bounds}default: {'none' if field.default in (None, '') else field.default}"
