"""The real server: how fast it answers, what it gives away (nothing), and how it comes up and goes down."""

from __future__ import annotations

import asyncio
import errno
import gc
import inspect
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from contextlib import suppress
from pathlib import Path

import pytest

import app
from tests.fakes import HOUSE_JOBS, start_program, write_extension
from tests.servers import OFFLINE, PROJECT, free_port, serving
from webui.errors import InvalidRequest, PluginError
from webui.ui import server as page_server

pytestmark = [pytest.mark.long, pytest.mark.skipif(os.name == "nt", reason="POSIX signals")]


@pytest.fixture
def extensions(tmp_path: Path) -> Path:
    folder = tmp_path / "extensions"
    write_extension(folder, "fakehouse", 'jobs = "fakehouse.jobs:KINDS"\n', jobs=HOUSE_JOBS)
    return folder


def test_the_real_page_is_up_in_four_seconds_with_nothing_heavy_and_stops_cleanly(tmp_path: Path):
    port = free_port()
    outputs = ("--outputs-dir", str(tmp_path / "outputs"))
    with serving([sys.executable, "app.py", "--port", str(port), *outputs], port, tmp_path / "temp") as server:
        # Processor time, because this machine may be busy with other things; one start has the machine to itself.
        assert 0 < server.cpu_seconds <= 4.0
        status, config = server.get("/config")
        assert status == 200 and b"sadtalker-generate" in config and b"tab-system" in config
        private = list((tmp_path / "temp").glob("galatea-*"))
        assert [folder.stat().st_mode & 0o777 for folder in private] == [0o700]
    assert server.process.returncode == 0
    assert "Traceback" not in server.log
    assert list((tmp_path / "temp").glob("galatea-*")) == []


def test_nothing_heavy_is_imported_to_serve(extensions: Path, tmp_path: Path):
    port = free_port()
    command = start_program(extensions, "--port", str(port))
    with serving(command, port, tmp_path / "temp") as server:
        assert server.get("/")[0] == 200
    assert (extensions / "imported.txt").read_text().split() == ["gradio"]


def test_gradio_is_imported_without_writing_stubs():
    """It parses each widget's source for that, and nothing else does."""
    code = """
import ast
from webui.ui import server
def parsed(*_arguments): raise AssertionError("a stub is being written")
ast.get_source_segment = parsed
with server.no_stubs():
    from webui.ui import shell
import gradio
print(gradio.Image, shell.gr is gradio)
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=PROJECT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "gradio.components.image.Image" in done.stdout and "True" in done.stdout


def test_what_is_changed_while_gradio_is_imported_is_as_before_afterwards():
    with suppress(KeyError), page_server.without_garbage_collection(), page_server.no_stubs():
        with pytest.raises(OSError, match="no stubs"):
            inspect.getfile(PluginError)
        assert inspect.getfile(page_server.serve).endswith("server.py")
        assert not gc.isenabled()
        raise KeyError
    assert gc.isenabled() and inspect.getfile(PluginError).endswith("errors.py")


def test_a_taken_port_is_said_and_the_next_one_taken(extensions: Path, tmp_path: Path):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with serving(start_program(extensions, "--port", str(port)), port + 1, tmp_path / "temp") as server:
            server.wait_for(f"Port {port} is taken")
            assert f"{port + 1}" in server.log


CLOSE_ALOUD = """
from webui.jobs.service import JobService
close = JobService.close
JobService.close = lambda *arguments: (print("CLOSED", flush=True), close(*arguments))
"""


def test_the_jobs_are_closed_once(extensions: Path, tmp_path: Path):
    port = free_port()
    command = start_program(extensions, "--port", str(port))
    command[2] = CLOSE_ALOUD + command[2]
    with serving(command, port, tmp_path / "temp") as server:
        assert server.get("/")[0] == 200
    assert server.log.count("CLOSED") == 1


def test_a_port_that_needs_permission_is_not_called_taken(monkeypatch: pytest.MonkeyPatch):
    def refuse(_socket: socket.socket, _address: tuple) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(socket.socket, "bind", refuse)
    with pytest.raises(InvalidRequest, match="Port 80 is not open to ordinary users"):
        page_server.free_port("127.0.0.1", 80)


def test_ctrl_c_stops_it(extensions: Path, tmp_path: Path):
    port = free_port()
    with serving(start_program(extensions, "--port", str(port)), port, tmp_path / "temp") as server:
        server.process.send_signal(signal.SIGINT)
        assert server.process.wait(15) == 0
    assert "Traceback" not in server.log


TAB = """
import gradio as gr

def build(studio):
    picture = gr.Image(type="filepath", image_mode=None, render=True)
    text = gr.Textbox()
    gr.Button("read").click(lambda path: open(path, errors="replace").read(), picture, text, api_name="read")
    gr.Button("give").click(lambda: "/etc/passwd", None, gr.File(), api_name="give")
    gr.Button("own").click(lambda: str(studio.scratch("own.txt").write_text("x") and ""), None, text, api_name="own")
"""


def test_no_visitor_can_read_the_servers_files(extensions: Path, tmp_path: Path):
    """A mounted Gradio app hands any file to whoever names it (facts of Gradio 6); one that was launched must not."""
    write_extension(extensions, "hole", '[tabs]\nhole = "hole.tab:build"\n', tab=TAB)
    secret = tmp_path / "outputs" / "talk" / "secret.svg"
    secret.parent.mkdir(parents=True)
    secret.write_text("very-secret")
    port = free_port()
    command = start_program(extensions, "--port", str(port), "--outputs-dir", str(tmp_path / "outputs"))
    with serving(command, port, tmp_path / "temp") as server:
        body = {"path": str(secret), "orig_name": "x.svg", "meta": {"_type": "gradio.FileData"}}
        for name, data in (("read", [body]), ("give", [])):
            event = server.post(f"/gradio_api/call/{name}", {"data": data})["event_id"]
            _, answer = server.get(f"/gradio_api/call/{name}/{event}")
            assert b"event: error" in answer and b"very-secret" not in answer and b"passwd" not in answer
        event = server.post("/gradio_api/call/own", {"data": []})["event_id"]
        assert b"event: complete" in server.get(f"/gradio_api/call/own/{event}")[1], "what is allowed works"
        for path in (secret, Path("/etc/passwd"), PROJECT / "app.py", PROJECT / "README.md"):
            assert server.get(f"/gradio_api/file={path}")[0] in (403, 404)
        assert server.get("/monitoring")[0] in (403, 404)


def test_a_password_keeps_strangers_out(extensions: Path, tmp_path: Path):
    port = free_port()
    command = start_program(extensions, "--port", str(port), "--gradio-auth", "anna:s3cret-word")
    with serving(command, port, tmp_path / "temp") as server:
        assert server.get("/config")[0] == 401
        assert server.get("/gradio_api/info")[0] == 401
    assert "s3cret-word" not in server.log


def test_broken_extensions_are_reported_and_do_not_stop_the_start(extensions: Path, tmp_path: Path):
    write_extension(extensions, "broken", 'jobs = "broken.jobs:KINDS"\n', jobs="raise RuntimeError('at import')")
    half = "import gradio as gr\n\ndef build(studio):\n    gr.Button('half a tab')\n    raise RuntimeError('tab fell over')\n"
    write_extension(extensions, "halftab", '[tabs]\nhalftab = "halftab.tab:build"\n', tab=half)
    fine = "import gradio as gr\n\ndef build(studio):\n    gr.Button('a whole tab')\n"
    write_extension(extensions, "whole", '[tabs]\nwhole = "whole.tab:build"\n', tab=fine)
    port = free_port()
    with serving(start_program(extensions, "--port", str(port)), port, tmp_path / "temp") as server:
        config = json.loads(server.get("/config")[1])
        tabs = {c["props"].get("label"): c["props"] for c in config["components"] if c["type"] == "tabitem"}
        assert tabs["Whole"]["visible"] and not tabs["Halftab"]["visible"]
        server.wait_for("tab fell over")
        assert "'broken' was left out" in server.log and "at import" in server.log


def test_share_without_a_password_refuses_to_start(extensions: Path):
    done = subprocess.run(
        start_program(extensions, "--share"), cwd=PROJECT, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 2
    assert "--share-open" in done.stderr


def test_it_calls_nobody_and_sharing_without_internet_says_why_and_goes_on(extensions: Path, tmp_path: Path):
    port = free_port()
    command = start_program(extensions, "--port", str(port))
    command[2] = OFFLINE + command[2]
    with serving(command, port, tmp_path / "temp") as server:
        assert server.get("/")[0] == 200
    assert "LOOKED UP" not in server.log
    with serving([*command, "--share", "--share-open"], port, tmp_path / "temp") as server:
        server.wait_for("There is no public link")
        assert server.get("/")[0] == 200
    assert "Traceback" not in server.log


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ({}, {"OMP_WAIT_POLICY": "PASSIVE", "GOMP_SPINCOUNT": "2000"}),
        ({"OMP_WAIT_POLICY": "ACTIVE"}, {"OMP_WAIT_POLICY": "ACTIVE"}),
        ({"GOMP_SPINCOUNT": "7"}, {"OMP_WAIT_POLICY": "PASSIVE", "GOMP_SPINCOUNT": "7"}),
    ],
)
def test_threads_sleep_soon_unless_the_user_wants_otherwise(
    given: dict[str, str], kept: dict[str, str], monkeypatch: pytest.MonkeyPatch
):
    environment = dict(given)
    monkeypatch.setattr(os, "environ", environment)
    app.share_processors()
    assert environment == kept


def test_the_folders_of_killed_runs_are_removed_and_no_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    foreign = tmp_path / f"{page_server.FOLDER}foreign"
    foreign.mkdir()
    with page_server.private_folder() as held:
        (held / "upload.png").touch()
        killed = shutil.copytree(held, tmp_path / f"{page_server.FOLDER}killed")
        with page_server.private_folder() as other:
            assert held.exists() and other.exists() and foreign.exists() and not killed.exists()
    assert [path.name for path in tmp_path.iterdir()] == [foreign.name]


def test_the_page_fetches_nothing_by_url(monkeypatch: pytest.MonkeyPatch):
    import gradio as gr
    from gradio import processing_utils

    for name in ("async_ssrf_protected_get", "async_ssrf_protected_download"):
        monkeypatch.setattr(processing_utils, name, getattr(processing_utils, name))
    page_server.refuse_downloads()
    monkeypatch.setattr(processing_utils, "async_ssrf_protected_get", lambda _url: pytest.fail("it was asked for"))
    with gr.Blocks(analytics_enabled=False):
        box = gr.File()
    with pytest.raises(gr.Error, match="fetches nothing by URL"):
        asyncio.run(box.async_move_resource_to_block_cache("http://1.1.1.1/x.png"))
