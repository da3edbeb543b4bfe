"""A real server for the benchmarks: started, asked, killed. What it says goes nowhere."""

from __future__ import annotations

import base64
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from contextlib import suppress
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
START = 90.0


class Server:
    """app.py in a process of its own, on a free port. command: another program that takes the same flags."""

    def __init__(self, outputs: Path, command: tuple[str, ...] = ()):
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        self.url = f"http://127.0.0.1:{port}"
        start = command or (sys.executable, str(ROOT / "app.py"))
        self.process = subprocess.Popen(
            [*start, "--port", str(port), "--outputs-dir", str(outputs)],
            cwd=ROOT,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        deadline = time.monotonic() + START
        while not self._answers():
            if self.process.poll() is not None or time.monotonic() > deadline:
                raise SystemExit("The server does not start: run app.py and look at what it says.")
            time.sleep(0.1)

    def ask(self, path: str, body: dict[str, Any] | None = None) -> Any:
        """GET, or POST with a body; the JSON that comes back."""
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.url + path, data, {"Content-Type": "application/json"})
        with urllib.request.urlopen(request, timeout=60) as reply:
            return json.load(reply)

    def read(self, path: str) -> bytes:
        with urllib.request.urlopen(self.url + path, timeout=60) as reply:
            return reply.read()

    def upload(self, path: Path) -> str:
        """The file's artifact id."""
        content = base64.b64encode(path.read_bytes()).decode()
        return self.ask("/api/artifacts", {"name": path.name, "base64": content})["id"]

    def submit(self, kind: str, **request: Any) -> str:
        """The job's id. Waits when the server finds that it is asked too often."""
        while True:
            try:
                return self.ask("/api/jobs", {"kind": kind, "request": request})["id"]
            except urllib.error.HTTPError as error:
                if error.code != 429:
                    raise
                time.sleep(float(error.headers["Retry-After"]))

    def job(self, job_id: str) -> dict[str, Any]:
        return self.ask(f"/api/jobs/{job_id}")

    def workers(self) -> list[int]:
        """Its worker processes: those of its children that have a job's threads."""
        return [pid for pid in children(self.process.pid) if b"spawn_main" in _command(pid)]

    def stop(self) -> None:
        if self.process.poll() is None:
            self.process.terminate()
        self.process.wait(30)

    def _answers(self) -> bool:
        try:
            self.read("/api/kinds")
        except (urllib.error.URLError, OSError):
            return False
        return True


def children(pid: int) -> list[int]:
    """The processes that this one has started."""
    found = []
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        try:
            found += map(int, task.read_text().split())
        except OSError:
            continue
    return found


def kill(pid: int) -> None:
    with suppress(ProcessLookupError):  # it ended by itself meanwhile
        os.kill(pid, signal.SIGKILL)


def lives(pid: int) -> bool:
    """Whether it runs; one that has ended and waits to be fetched does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def resident_mb(pid: int) -> float:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS"):
            return int(line.split()[1]) / 1024
    return 0.0


def cpu_seconds(pid: int) -> float:
    """Processor time that a process has used so far."""
    after_name = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(after_name[11]) + int(after_name[12])) / os.sysconf("SC_CLK_TCK")


def _command(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""
