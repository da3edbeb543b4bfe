"""Many small jobs and many watchers on a real server: is a job lost or run twice, how long does submitting take, what does
an idle server cost, does its memory grow.

    python -m bench.load [--jobs 200] [--watchers 20] [--idle 30]

Idle costs stand beside those of an empty Gradio page in the same run. Run it on an idle machine, Linux only.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from pathlib import Path

from bench.server import ROOT, Server, cpu_seconds, resident_mb

KIND = """
import os
from pydantic import BaseModel
from webui.plugin_api import JobKind, JobResult

class Request(BaseModel):
    journal: str
    number: int

def handler(ctx, request):
    def work():
        with open(request.journal, "a") as file:
            file.write(f"{request.number}\\n")
        return request.number
    ctx.step("work", work)
    with ctx.output(".txt", "small") as output:
        output.path.write_text(str(request.number))
    return JobResult((output.artifact,), {})

KINDS = (JobKind("small", "A small job", Request, handler, ".txt"),)
"""

START = """
import sys
from pathlib import Path
extensions = Path(sys.argv[1])
sys.path.insert(0, str(extensions))
import app
if __name__ == "__main__":
    sys.exit(app.main(sys.argv[2:], extensions))
"""

EMPTY = """
import os
os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
import gradio
with gradio.Blocks() as page:
    gradio.Markdown("Nothing")
page.launch(quiet=True)
"""

PATIENCE = 300.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jobs", type=int, default=200)
    parser.add_argument("--watchers", type=int, default=20)
    parser.add_argument("--idle", type=float, default=30.0, help="seconds")
    arguments = parser.parse_args()
    print(f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}, Python {sys.version.split()[0]}", flush=True)
    with tempfile.TemporaryDirectory() as name:
        server = Server(Path(name) / "outputs", program(Path(name)))
        try:
            memory(server, Path(name) / "journal", arguments.jobs)
            many(server, Path(name) / "journal2", arguments.jobs, arguments.watchers)
            idle(server, arguments.idle)
        finally:
            server.stop()


def program(folder: Path) -> tuple[str, ...]:
    """The command of a server with one extension, of small jobs."""
    package = folder / "extensions" / "small"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("")
    (package / "plugin.toml").write_text('id = "small"\ntitle = "Small"\napi = 1\njobs = "small.jobs:KINDS"\n')
    (package / "jobs.py").write_text(KIND)
    script = folder / "start.py"
    script.write_text(f"import sys\nsys.path.insert(0, {str(ROOT)!r})\n{START}")
    return sys.executable, str(script), str(package.parent)


def many(server: Server, journal: Path, jobs: int, watchers: int) -> None:
    """Queue the jobs at once, and watch some of them over server-sent events until they end."""
    took, ids = [], []
    threads: list[threading.Thread] = []
    seen: list[str] = []
    begun = time.monotonic()
    for number in range(jobs):
        before = time.perf_counter()
        ids.append(server.submit("small", journal=str(journal), number=number))
        took.append((time.perf_counter() - before) * 1000)
        if number % max(1, jobs // watchers) == 0 and len(threads) < watchers:
            threads.append(threading.Thread(target=watch, args=(server, ids[-1], seen)))
            threads[-1].start()
    for thread in threads:
        thread.join(PATIENCE)
    states = [finished(server, job_id) for job_id in ids]
    seconds = time.monotonic() - begun
    written = journal.read_text().split()
    lost, twice = jobs - len(set(written)), len(written) - len(set(written))
    took.sort()
    print(f"{jobs} jobs in {seconds:.1f} s: {states.count('done')} done, {lost} lost, {twice} run twice; "
          f"{seen.count('finished')} of {len(threads)} watchers saw the end")  # fmt: skip
    print(f"submitting: median {statistics.median(took):.1f} ms, 95 % within {took[int(0.95 * jobs)]:.1f} ms", flush=True)


def watch(server: Server, job_id: str, seen: list[str]) -> None:
    with urllib.request.urlopen(f"{server.url}/api/jobs/{job_id}/events", timeout=PATIENCE) as stream:
        events = [line.split()[1].decode() for line in stream if line.startswith(b"event:")]
    seen.append(events[-1])


def finished(server: Server, job_id: str) -> str:
    deadline = time.monotonic() + PATIENCE
    while (state := server.job(job_id)["state"]) in ("queued", "running") and time.monotonic() < deadline:
        time.sleep(0.05)
    return state


def memory(server: Server, journal: Path, jobs: int) -> None:
    """Resident memory after the first 20 jobs, and after all."""
    sizes = []
    for count in (20, jobs - 20):
        last = [server.submit("small", journal=str(journal), number=number) for number in range(count)][-1]
        finished(server, last)
        time.sleep(1)
        sizes.append([resident_mb(server.process.pid), resident_mb(server.workers()[0])])
    for what, before, after in zip(("server", "worker"), *sizes, strict=True):
        growth = f"{after / before:.3f} x"
        print(f"memory of the {what}: {before:.1f} MB after 20 jobs, {after:.1f} MB after {jobs}: {growth}", flush=True)


def idle(server: Server, seconds: float) -> None:
    """Processor time while nothing happens, beside that of an empty page."""
    page = subprocess.Popen([sys.executable, "-c", EMPTY], cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        time.sleep(20)  # both have settled
        pids = {"server": server.process.pid, "worker": server.workers()[0], "empty page": page.pid}
        before = {name: cpu_seconds(pid) for name, pid in pids.items()}
        time.sleep(seconds)
        share = {name: (cpu_seconds(pid) - before[name]) / seconds * 100 for name, pid in pids.items()}
    finally:
        page.terminate()
        page.wait(20)
    both = share["server"] + share["worker"]
    print(f"idle over {seconds:.0f} s: server {share['server']:.1f} % and worker {share['worker']:.1f} % of a core, together "
          f"{both:.1f} %; an empty page {share['empty page']:.1f} %: {both / max(share['empty page'], 0.1):.1f} x")  # fmt: skip


if __name__ == "__main__":
    main()
