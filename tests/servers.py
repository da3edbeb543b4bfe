"""Starts the real server in a process of its own and talks to it as a visitor's browser would."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

PROJECT = Path(__file__).parent.parent
OUTPUTS = "GALATEA_OUTPUTS_DIR"

OFFLINE = """
import socket
real = socket.getaddrinfo
def only_here(host, *rest, **more):
    if host not in ("localhost", "127.0.0.1", "0.0.0.0", None, b"localhost"):
        print("LOOKED UP", host, flush=True)
        raise socket.gaierror(socket.EAI_NONAME, "offline")
    return real(host, *rest, **more)
socket.getaddrinfo = only_here
"""
"""Put before a program: it finds no computer but this one, and says which it looked for."""


@dataclass
class Server:
    process: subprocess.Popen
    port: int
    lines: list[str]
    seconds: float
    cpu_seconds: float

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def log(self) -> str:
        return "".join(self.lines)

    def get(self, path: str) -> tuple[int, bytes]:
        try:
            with urllib.request.urlopen(self.url + path, timeout=20) as reply:
                return reply.status, reply.read()
        except urllib.error.HTTPError as error:
            return error.code, error.read()

    def post(self, path: str, body: dict) -> dict:
        request = urllib.request.Request(
            self.url + path, json.dumps(body).encode(), {"Content-Type": "application/json"}
        )
        with urllib.request.urlopen(request, timeout=20) as reply:
            return json.loads(reply.read())

    def wait_for(self, text: str, seconds: float = 30) -> None:
        deadline = time.monotonic() + seconds
        while text not in self.log:
            assert time.monotonic() < deadline and self.process.poll() is None, self.log
            time.sleep(0.05)


def environment() -> dict[str, str]:
    """The environment without the developer's own settings of the studio; outputs go where conftest.py says."""
    return {name: value for name, value in os.environ.items() if not name.startswith("GALATEA_") or name == OUTPUTS}


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@contextmanager
def serving(command: list[str], port: int, temp: Path, **environ: str) -> Iterator[Server]:
    temp.mkdir(exist_ok=True)
    kept = environment()
    begun = time.monotonic()
    process = subprocess.Popen(
        command, cwd=PROJECT, env=kept | {"TMPDIR": str(temp)} | environ, text=True, stdout=-1, stderr=subprocess.STDOUT
    )
    server = Server(process, port, [], 0, 0)
    reader = threading.Thread(target=lambda: server.lines.extend(process.stdout), daemon=True)
    reader.start()
    try:
        while not answers(server.url):
            assert process.poll() is None, server.log
            assert time.monotonic() - begun < 60, server.log
            time.sleep(0.02)
        server.seconds, server.cpu_seconds = time.monotonic() - begun, cpu_seconds(process.pid)
        yield server
    finally:
        process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            raise
        reader.join(5)


def answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=5) as reply:
            return b"gradio" in reply.read()
    except OSError:
        return False


def cpu_seconds(pid: int) -> float:
    """Processor time that a process has used so far; 0 where the system does not tell."""
    try:
        after_name = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return (int(after_name[11]) + int(after_name[12])) / os.sysconf("SC_CLK_TCK")
