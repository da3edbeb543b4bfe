"""Looks at processes from outside: whose children they are, and whether they live. Ends none but those it is told to."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path


def status(pid: int) -> dict[str, str]:
    """What the system tells of a process; empty when there is none. One that has ended and waits to be fetched is none."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text(encoding="utf-8").splitlines()
    except (FileNotFoundError, ProcessLookupError):
        return {}
    facts = {name: value.strip() for name, _, value in (line.partition(":") for line in lines)}
    return {} if facts["State"].startswith("Z") else facts


def lives(pid: int) -> bool:
    return bool(status(pid))


def descendants(pid: int) -> list[int]:
    """Children, their children and so on, oldest first."""
    pids = sorted(int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit())
    family = {pid}
    for other in pids:
        if int(status(other).get("PPid", 0)) in family:
            family.add(other)
    return sorted(family - {pid})


def kill(pid: int, how: signal.Signals = signal.SIGKILL) -> None:
    os.kill(pid, how)


def until(condition: Callable[[], object], seconds: float = 20.0) -> float:
    """Wait for something; the seconds that it took."""
    begun = time.monotonic()
    while not condition():
        assert time.monotonic() - begun < seconds, "waited too long"
        time.sleep(0.02)
    return time.monotonic() - begun
