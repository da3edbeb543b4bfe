"""Small stand-ins for tests of the house: kinds of job that count, wait or fail, and extensions written into a folder."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import threading
import time
from pathlib import Path
from typing import Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from webui.artifacts import Artifacts
from webui.errors import Cancelled, ModelMissing
from webui.jobs.service import JobService
from webui.jobs.types import ArtifactId, JobKind, JobResult, Loaded
from webui.settings import Settings


class CountRequest(BaseModel):
    """Write numbers into a file, one per step."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    source: ArtifactId | None = Field(None, description="Artifact id of a file whose text comes first.")
    steps: int = Field(3, ge=1, le=1000, description="How many numbers.")
    pause: float = Field(0.0, ge=0.0, le=1.0, description="Seconds between two.")
    style: Literal["plain", "fancy"] = Field("plain", description="How they look.")
    loud: bool = Field(False, description="Warn about something.")
    polite: bool = Field(True, description="Say please.")
    seed: int | None = Field(None, ge=0, le=2**32 - 1, description="The first number.")


def count(ctx, request: CountRequest) -> JobResult:
    """Keeps what was written when it is cancelled; raises Cancelled before the first number."""
    done = 0
    if request.loud:
        ctx.warn("This is loud.")
    with ctx.output(".txt", "numbers") as output:
        with open(output.path, "w", encoding="utf-8") as file:
            if request.source:
                file.write(ctx.input(request.source).read_text(encoding="utf-8"))
            for step in range(request.steps):
                if ctx.cancelled:
                    break
                file.write(f"{ctx.seed + step}\n")
                done += 1
                ctx.preview(np.full((600, 800, 3), step % 256, np.uint8))
                ctx.progress(done / request.steps, f"writing number {done}")
                time.sleep(request.pause)
        if not done:
            raise Cancelled("Nothing was written.")
    return JobResult((output.artifact,), {"done": done, "seed": ctx.seed, "seconds": {"total": 0.1}})


class FailRequest(BaseModel):
    """Fail in a chosen way."""

    how: Literal["model", "memory", "bug"] = "model"


def fail(_ctx, request: FailRequest) -> JobResult:
    if request.how == "model":
        raise ModelMissing("The model is missing. Put it into models/.")
    if request.how == "memory":
        raise MemoryError
    raise RuntimeError("secret detail")


COUNT = JobKind("count", "Counting", CountRequest, count, suffix=".txt")
FAIL = JobKind("fail", "Failing", FailRequest, fail)


class HoldRequest(BaseModel):
    """Wait until the test lets go."""


def holding() -> tuple[JobKind, threading.Event, threading.Event]:
    """A kind whose handler waits; the events: it has started, it may end."""
    started, release = threading.Event(), threading.Event()

    def hold(_ctx, _request: HoldRequest) -> JobResult:
        started.set()
        assert release.wait(20)
        return JobResult((), {})

    return JobKind("hold", "Holding", HoldRequest, hold), started, release


Trouble = Literal["none", "kill", "segfault", "exit", "error", "memory", "greedy", "full"]


class StepsRequest(BaseModel):
    """Take steps, each of which leaves a file and a line in a journal; some get into trouble."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    journal: str = Field(description="File that each step is noted in when it begins.")
    steps: int = Field(8, ge=1, le=1000, description="How many.")
    pause: float = Field(0.0, ge=0.0, le=60.0, description="Seconds that each takes.")
    deaf: bool = Field(False, description="Look neither for cancelling nor anything else.")
    trouble: Trouble = Field("none", description="What happens in some of them.")
    where: str = Field("", description="In which, with commas between.")
    times: int = Field(1, ge=1, le=100, description="How often in each.")
    megabytes: int = Field(0, ge=0, le=1000, description="Size of the file that each leaves.")
    loud: bool = Field(False, description="Warn before the first.")
    keeping: float = Field(0.0, ge=0.0, le=60.0, description="Seconds that it takes to put the result together.")
    seed: int | None = Field(None, ge=0, le=2**32 - 1, description="The first number.")


def steps(ctx, request: StepsRequest) -> JobResult:
    """The numbers from `seed` on, one made by each step. Cancelled, it keeps those that are made; skipped, it leaves one out."""
    if request.loud:
        ctx.warn("This is loud.")
    _in_memory.append(Loaded("numbers", 1000 + request.steps, "cpu"))

    def make(number: int) -> int | None:
        begun = note(Path(request.journal), f"step {number}")
        ctx.progress(number / request.steps, f"making number {number}")
        troubled = str(number) in request.where.split(",") and begun <= request.times
        if troubled:
            get_into(request.trouble)
        if rest(ctx, request):
            note(Path(request.journal), f"skip {number}")
            return None
        with ctx.file(f"{number}.txt") as path:
            if troubled and request.trouble == "full":
                path.symlink_to("/dev/full")
            path.write_bytes(f"{ctx.seed + number}\n".encode() + bytes(request.megabytes << 20))
        return number

    made = [number for number in ctx.map("number", make, range(request.steps)) if number is not None]
    if not made:
        raise Cancelled("Nothing was made.")
    over = time.monotonic() + request.keeping
    while time.monotonic() < over:
        ctx.progress(1.0, f"{over - time.monotonic():.1f} s to go")
        time.sleep(0.05)
    with ctx.output(".txt", "steps") as output, open(output.path, "wb") as file:
        for number in made:
            file.write((ctx.folder / f"{number}.txt").read_bytes())
    note(Path(request.journal), "end")
    return JobResult((output.artifact,), {"made": len(made), "seed": ctx.seed})


def rest(ctx, request: StepsRequest) -> bool:
    """Whether the step is to be left out."""
    over = time.monotonic() + request.pause
    while time.monotonic() < over and (request.deaf or not ctx.cancelled):
        if ctx.take_skip():
            return True
        time.sleep(0.01)
    return False


_in_memory: list[Loaded] = []


def loaded() -> list[Loaded]:
    return list(_in_memory)


def unload() -> None:
    _in_memory.clear()


def note(journal: Path, line: str) -> int:
    """Add a line with this process's number; how often the line is there now."""
    with open(journal, "a", encoding="utf-8") as file:  # lines this short are appended whole
        file.write(f"{line} by {os.getpid()}\n")
    return sum(known.startswith(f"{line} by") for known in journal.read_text(encoding="utf-8").splitlines())


def get_into(trouble: Trouble) -> None:
    if trouble == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    elif trouble == "segfault":
        ctypes.string_at(0)
    elif trouble == "exit":
        os._exit(3)
    elif trouble == "error":
        raise RuntimeError("secret detail")
    elif trouble == "memory":
        raise MemoryError
    elif trouble == "greedy":
        ask_for_too_much()


def ask_for_too_much() -> None:
    """A real refusal of memory by the system."""
    import resource

    before = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (2 << 30, before[1]))
    try:
        np.ones(4 << 30, np.uint8)
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)


STEPS = JobKind(
    "steps", "Taking steps", StepsRequest, steps, suffix=".txt", loaded=loaded, unload=unload, skippable=True
)  # fmt: skip
KINDS = (COUNT, FAIL, STEPS)


def studio(outputs: Path, **chosen) -> JobService:
    """A job service with worker processes. chosen: settings."""
    return JobService(KINDS, Artifacts(outputs), Settings(outputs_dir=outputs, **chosen))


def other_studio(outputs: Path, chosen: dict, until) -> None:
    """The main function of another process that serves the same table until an event is set."""
    service = studio(outputs, **chosen)
    until.wait()
    service.close()


def write_extension(folder: Path, name: str, manifest: str = "", **modules: str) -> Path:
    """An extension package `name` in `folder`: manifest lines after its id, title and api, and modules by name."""
    package = folder / name
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("", encoding="utf-8")
    head = f'id = "{name}"\ntitle = "{name.title()}"\napi = 1\n'
    (package / "plugin.toml").write_text(head + manifest, encoding="utf-8")
    for module, text in modules.items():
        (package / f"{module}.py").write_text(text, encoding="utf-8")
    return package


JOBS_MODULE = """
from pydantic import BaseModel
from webui.plugin_api import JobKind, JobResult

class Request(BaseModel):
    pass

def handler(ctx, request):
    return JobResult((), {})

KINDS = (JobKind("%s", "A kind", Request, handler),)
"""

STEPS_JOBS = "from tests.fakes import KINDS\n"
HOUSE_JOBS = "from tests.fakes import COUNT, FAIL\n\nKINDS = (COUNT, FAIL)\n"

START = """
import sys
from pathlib import Path
extensions = Path(sys.argv[1])
sys.path.insert(0, str(extensions))
import app
code = app.main(sys.argv[2:], extensions)
heavy = [name for name in %r if name in sys.modules]
print(*heavy, file=open(extensions / "imported.txt", "w"))
sys.exit(code)
"""
"""A program that runs app.py with the extensions of another folder, and notes which heavy libraries it has imported."""

HEAVY = ("gradio", "torch", "cv2", "dlib", "scipy", "librosa", "diffusers", "transformers")


def start_program(extensions: Path, *argv: str) -> list[str]:
    """The command that does what `python app.py ARGV` does, with other extensions."""
    return [sys.executable, "-c", START % (HEAVY,), str(extensions), *argv]
