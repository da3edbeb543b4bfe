"""A job's context in memory: what a handler says and leaves is kept, and a job that died can be run again."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from webui.artifacts import PendingArtifact
from webui.errors import InvalidRequest
from webui.settings import Settings


class Crash(BaseException):
    """What a test raises where a worker dies. No handler may catch it."""


class MemoryContext:
    """Implements webui.jobs.context.JobContext for one run of a job.

    folder: the job's own, as it survives a crash. steps: results of finished steps; give the same to the next run.
    files:  artifact id to path.
    on:     called with what has just happened ("progress", "preview", "step"...) and its name; may raise Crash.
    """

    def __init__(
        self,
        folder: Path,
        files: dict[str, Path],
        steps: dict[str, Any] | None = None,
        settings: Settings | None = None,
        seed: int = 1,
        on: Callable[[str, str], None] = lambda what, name: None,
    ):
        self.folder = folder / "work"
        self.folder.mkdir(parents=True, exist_ok=True)
        self.settings = settings or Settings(models_dir=folder / "models", outputs_dir=folder)
        self.seed, self.cancelled = seed, False
        self.skip = False
        self.steps = {} if steps is None else steps
        self.begun: list[str] = []
        self.warnings: list[str] = []
        self.stages: list[str] = []
        self.previews = 0
        self.lines: list[str] = []
        self._files, self._outputs, self._on, self._home = files, 0, on, folder

    def again(self, on: Callable[[str, str], None] = lambda what, name: None) -> MemoryContext:
        """The context of the next run of the same job."""
        return MemoryContext(self._home, self._files, self.steps, self.settings, self.seed, on)

    def take_skip(self) -> bool:
        asked, self.skip = self.skip, False
        return asked

    def progress(self, fraction: float, stage: str) -> None:
        self.stages.append(stage)
        self._on("progress", stage)

    def preview(self, image: np.ndarray, *, finished: bool = False) -> None:
        self.previews += 1
        self._on("preview", str(self.previews))

    def warn(self, message: str) -> None:
        self.warnings.append(message)

    def log(self, line: str) -> None:
        self.lines.append(line)

    def input(self, artifact_id: str) -> Path:
        if artifact_id not in self._files:
            raise InvalidRequest(f"There is no file with the id '{artifact_id}'.")
        return self._files[artifact_id]

    @contextmanager
    def output(self, suffix: str, stem: str) -> Iterator[PendingArtifact]:
        from webui.artifacts import Artifact

        self._outputs += 1
        final = self._home / f"{stem}-{self._outputs}{suffix}"
        pending = PendingArtifact(final.with_suffix(".part"))
        try:
            yield pending
            self._on("output", final.name)
            os.replace(pending.path, final)
        finally:
            pending.path.unlink(missing_ok=True)
        pending.artifact = Artifact("0" * 16, final, "video/mp4", final.stat().st_size, final.name)

    def step(self, name: str, function: Callable[[], Any]) -> Any:
        if name not in self.steps:
            self.begun.append(name)
            self._on("begin", name)
            result = function()
            self._on("end", name)
            self.steps[name] = result
        return self.steps[name]

    def map(self, name: str, function: Callable[[Any], Any], items: Iterable[Any]) -> list[Any]:
        results = []
        for number, item in enumerate(items):
            step = f"{name} {number}"
            if self.cancelled and step not in self.steps:
                break
            results.append(self.step(step, lambda item=item: function(item)))
        return results

    @contextmanager
    def file(self, name: str) -> Iterator[Path]:
        part = self.folder / f"{name}.part"
        try:
            yield part
            with part.open("rb+") as file:
                os.fsync(file.fileno())
            os.replace(part, self.folder / name)
        finally:
            part.unlink(missing_ok=True)
