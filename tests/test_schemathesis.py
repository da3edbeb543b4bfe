"""Schemathesis against the real server: whatever the description allows or forbids, the answers fit it, and none is a 5xx.

It runs as a program of its own, with every check it has, from a fixed seed. Of the routes it leaves out the events, which
last as long as their job; of the settings fetch_urls, which would have it ask other people's computers.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from tests.fakes import HOUSE_JOBS, start_program, write_extension
from tests.servers import free_port, serving

pytestmark = [pytest.mark.long, pytest.mark.skipif(os.name == "nt", reason="POSIX signals")]

UNLIMITED = "from webui.api import guard\nguard.POSTS_PER_MINUTE = {}\n"
"""Put before the server: the tests are one client that posts more often than one may."""

EXAMPLES = 100
"""For each route. In all about 2000 requests, half a minute."""

CONFIG = """
# What the description cannot say: which files are there, that a number written as text is taken as on the command line,
# and that not every job has shown a picture.
[[operations]]
include-name = "POST /api/jobs"
checks.positive_data_acceptance.enabled = false
checks.negative_data_rejection.enabled = false

[[operations]]
include-name = "GET /api/jobs/{job_id}/thumbnail"
checks.ensure_resource_availability.enabled = false
"""


def test_every_answer_fits_the_description(tmp_path: Path):
    write_extension(tmp_path / "extensions", "fakehouse", 'jobs = "fakehouse.jobs:KINDS"\n', jobs=HOUSE_JOBS)
    port = free_port()
    flags = ("--port", str(port), "--outputs-dir", str(tmp_path / "outputs"), "--max-upload-mb", "1")
    command = start_program(tmp_path / "extensions", *flags)
    command[2] = UNLIMITED + command[2]
    with serving(command, port, tmp_path / "temp") as server:
        done = schemathesis(server.url, tmp_path)
        assert done.returncode == 0, done.stdout[-8000:] + done.stderr
        jobs = httpx.get(f"{server.url}/api/jobs").json()
        assert jobs["total"] > 50, "it found out how to post jobs"
    assert "ASGI" not in server.log, "what no route expected would be in the log"


def schemathesis(url: str, folder: Path) -> subprocess.CompletedProcess:
    options = ("--seed", "20261121", "--max-examples", str(EXAMPLES), "--generation-database", "none", "--no-shrink")
    bounds = ("--request-timeout", "20", "--max-failures", "10", "--exclude-path", "/api/jobs/{job_id}/events")
    (folder / "schemathesis.toml").write_text(CONFIG)  # it is looked for in the working directory
    command = [sys.executable, "-m", "schemathesis.cli", "run", f"{url}/openapi.json", "--no-color", *options, *bounds]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=300)
