"""Small stand-ins for tests of the house: kinds of job that count, wait or fail, and extensions written into a folder."""

from __future__ import annotations

import sys
import threading
import time
from pathlib import Path
from typing import Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from webui.errors import Cancelled, ModelMissing
from webui.jobs.types import ArtifactId, JobKind, JobResult


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
