"""What the job layer costs: a talking head as a job, against the same pipeline called directly in this process.

    python -m bench.job_layer [--pairs 12] [--seconds 16]

Pairs are interleaved, both sides warm; the median of their ratios is what counts. Then the first preview of a job on a warm
worker. Run it on an idle machine.
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from bench.talk import EXAMPLES, looped
from extensions.sadtalker.jobs import KINDS, TalkingHeadRequest
from extensions.sadtalker.pipeline import run
from webui.artifacts import Artifacts, PendingArtifact
from webui.jobs.service import JobService
from webui.settings import Settings

PATIENCE = 300.0


class Direct:
    """The least that the pipeline needs of a job's context: files in a folder, and nobody who watches."""

    seed, cancelled = 1, False

    def __init__(self, folder: Path, artifacts: Artifacts, settings: Settings):
        self.folder, self.settings, self._artifacts = folder, settings, artifacts
        folder.mkdir()

    def progress(self, fraction: float, stage: str) -> None: ...

    def preview(self, image: Any) -> None: ...

    def warn(self, message: str) -> None: ...

    def log(self, line: str) -> None: ...

    def input(self, artifact_id: str) -> Path:
        return self._artifacts.get(artifact_id).path

    def step(self, _name: str, function: Callable[[], Any]) -> Any:
        return function()

    def map(self, _name: str, function: Callable[[Any], Any], items: Iterable[Any]) -> list[Any]:
        return [function(item) for item in items]

    @contextmanager
    def file(self, name: str) -> Iterator[Path]:
        yield self.folder / name

    @contextmanager
    def output(self, suffix: str, stem: str) -> Iterator[PendingArtifact]:
        with self._artifacts.output("talk", suffix, stem) as pending:
            yield pending


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=12)
    parser.add_argument("--seconds", type=float, default=16.0, help="length of the clip")
    arguments = parser.parse_args()
    print(f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}, Python {sys.version.split()[0]}", flush=True)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        settings = Settings(outputs_dir=folder / "outputs")
        artifacts = Artifacts(settings.outputs_dir)
        files = (EXAMPLES / "eileen_collins.jpg", looped(EXAMPLES / "hello_english.wav", arguments.seconds, folder))
        portrait, voice = (artifacts.upload(path).id for path in files)
        request = TalkingHeadRequest(portrait=portrait, voice=voice, seed=1)
        service = JobService(KINDS, artifacts, settings)
        try:
            compare(service, request, lambda: direct(folder / "direct", artifacts, settings, request), arguments.pairs)
        finally:
            service.close()


def compare(service: JobService, request: TalkingHeadRequest, directly: Callable[[], float], pairs: int) -> None:
    as_job(service, request)
    directly()
    ratios, previews = [], []
    for number in range(pairs):
        if number % 2:
            (job, preview), plain = as_job(service, request), directly()
        else:
            plain = directly()
            job, preview = as_job(service, request)
        ratios.append(job / plain)
        previews.append(preview)
        times = f"as a job {job:.2f} s, directly {plain:.2f} s: {ratios[-1]:.3f}"
        print(f"{number + 1}: {times}; first preview {preview:.2f} s", flush=True)
    print(f"median of {pairs}: {statistics.median(ratios):.3f} x, first preview after {statistics.median(previews):.2f} s "
          f"(at most {max(previews):.2f} s)")  # fmt: skip


def as_job(service: JobService, request: TalkingHeadRequest) -> tuple[float, float]:
    """Seconds from submitting to the end, and to the first preview."""
    begun, first = time.perf_counter(), 0.0
    job = service.submit("talk", request)
    while not job.state.finished:
        job = service.watch(job.id, job.version, PATIENCE)
        if job.preview is not None and not first:
            first = time.perf_counter() - begun
    seconds = time.perf_counter() - begun
    if job.result is None:
        raise SystemExit(f"The job failed: {job.error}")
    return seconds, first


def direct(folder: Path, artifacts: Artifacts, settings: Settings, request: TalkingHeadRequest) -> float:
    """Seconds that the pipeline takes by itself."""
    begun = time.perf_counter()
    run(Direct(folder, artifacts, settings), request, begun)
    seconds = time.perf_counter() - begun
    shutil.rmtree(folder)
    return seconds


if __name__ == "__main__":
    main()
