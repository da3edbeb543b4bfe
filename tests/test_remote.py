"""The command line with --server: the job runs there, the result comes home, and nobody learns the password."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import httpx
import pytest

from tests.fakes import COUNT, HOUSE_JOBS, start_program, write_extension
from tests.servers import PROJECT, Server, free_port, serving
from webui import cli, remote
from webui.artifacts import Artifacts
from webui.errors import GalateaError, InvalidRequest
from webui.jobs.types import JobState
from webui.remote import RemoteService, ServerUnreachable
from webui.settings import Settings

pytestmark = [pytest.mark.long, pytest.mark.skipif(os.name == "nt", reason="POSIX signals")]

TOKEN = "t0ken-of-mine"
PASSWORD = "s3cret-word:/@"
WORDS = ("--gradio-auth", f"anna:{PASSWORD}", "--api-token", TOKEN)


def house(folder: Path) -> Path:
    write_extension(folder, "fakehouse", 'jobs = "fakehouse.jobs:KINDS"\n', jobs=HOUSE_JOBS)
    return folder


@contextmanager
def studio(folder: Path, port: int | None = None, *words: str) -> Iterator[Server]:
    """A server with the kinds `count` and `fail`; the same folder is the same studio again."""
    port = port or free_port()
    extensions = folder / "extensions" if (folder / "extensions").exists() else house(folder / "extensions")
    command = start_program(extensions, "--port", str(port), "--outputs-dir", str(folder / "outputs"), *words)
    with serving(command, port, folder / "temp") as server:
        yield server


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """One with a password, for all tests that leave it as it is."""
    with studio(tmp_path_factory.mktemp("studio"), None, *WORDS) as running:
        yield running
    assert PASSWORD not in running.log and TOKEN not in running.log and "Traceback" not in running.log


@pytest.fixture
def there(server: Server) -> httpx.Client:
    return httpx.Client(base_url=server.url, headers={"Authorization": f"Bearer {TOKEN}"}, timeout=20)


def start(folder: Path, *argv: str, **environ: str) -> subprocess.Popen:
    extensions = folder / "home" if (folder / "home").exists() else house(folder / "home")
    kept = {name: value for name, value in os.environ.items() if not name.startswith("GALATEA_")}
    command = start_program(extensions, *argv, "--outputs-dir", str(folder / "outputs"))
    return subprocess.Popen(command, cwd=PROJECT, env=kept | environ, text=True, stdout=-1, stderr=-1)


def run(folder: Path, *argv: str, **environ: str) -> subprocess.CompletedProcess:
    process = start(folder, *argv, **{"GALATEA_API_TOKEN": TOKEN} | environ)
    stdout, stderr = process.communicate(timeout=60)
    assert TOKEN not in stdout + stderr and PASSWORD not in stdout + stderr and "Traceback" not in stderr
    return subprocess.CompletedProcess(argv, process.returncode, stdout, stderr)


def last_json(stdout: str) -> dict:
    return json.loads(stdout.splitlines()[-1])


def wait_until(true, seconds: float = 20) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_the_job_runs_there_and_its_result_comes_home_under_its_name(server: Server, there: httpx.Client, tmp_path: Path):
    source = tmp_path / '我的 "file" 😀.txt'
    source.write_text("first\n")
    done = run(tmp_path, "count", "--source", str(source), "--steps", "2", "--seed", "5", "--server", server.url)
    assert done.returncode == 0, done.stderr
    (path,) = map(Path, done.stdout.splitlines())
    assert path.read_text() == "first\n5\n6\n"
    newest = there.get("/api/jobs").json()["jobs"][0]
    assert path == tmp_path / "outputs" / "count" / newest["result"]["artifacts"][0]["name"]
    uploaded = there.get(f"/api/artifacts/{newest['request']['source']}")
    assert "%E6%88%91" in uploaded.headers["content-disposition"] and uploaded.text == "first\n"


def test_json_tells_the_same_as_when_it_runs_alone(server: Server, tmp_path: Path):
    argv = ("count", "--steps", "2", "--seed", "7", "--loud", "--json", "--out", str(tmp_path / "mine.txt"))
    there, alone = last_json(run(tmp_path, *argv, "--server", server.url).stdout), last_json(run(tmp_path, *argv).stdout)
    for facts in (there, alone):
        assert facts["seconds"].pop("start_up") > 0
    assert there == alone
    assert there["path"] == str(tmp_path / "mine.txt") and there["warnings"] == ["This is loud."]
    assert (tmp_path / "mine.txt").read_text() == "7\n8\n"
    assert list(tmp_path.glob("*.part")) == []


def test_failures_there_are_told_as_here(server: Server, tmp_path: Path):
    there, alone = (run(tmp_path, "fail", "--how", "model", "--json", *more) for more in (("--server", server.url), ()))
    assert there.returncode == alone.returncode == 1
    assert last_json(there.stdout) == last_json(alone.stdout)
    assert last_json(there.stdout)["type"] == "ModelMissing"


def test_a_name_and_password_a_token_and_the_address_open_the_door(server: Server, tmp_path: Path):
    inside = server.url.replace("://", f"://anna:{PASSWORD.replace('/', '%2F').replace('@', '%40')}@")
    argv = ("count", "--steps", "1", "--server")
    assert run(tmp_path, *argv, inside, GALATEA_API_TOKEN="").returncode == 0
    assert run(tmp_path, *argv, server.url, GALATEA_API_TOKEN="", GALATEA_GRADIO_AUTH=f"anna:{PASSWORD}").returncode == 0
    for url, token, said in ((server.url, "", "Say who you are"), (inside.replace("anna", "bob"), "", "is wrong")):
        refused = run(tmp_path, *argv, url, "--json", GALATEA_API_TOKEN=token)
        assert refused.returncode == 2 and said in refused.stderr
        assert last_json(refused.stdout)["type"] == "InvalidRequest"


def test_what_is_wrong_is_said_before_anything_is_sent(server: Server, there: httpx.Client, tmp_path: Path):
    before = there.get("/api/usage").json()["uploads"]
    source = tmp_path / "large.txt"
    source.write_text("x" * 100_000)
    wrong = (
        (("--steps", "0"), "'steps' must be at least 1"),
        (("--out", "none/x.txt"), "There is no folder"),
        (("--out", str(tmp_path / "x.mp4")), "The result is a .txt file"),
        (("--out", str(source)), "one of the files that the result is made from"),
        (("--device", "cpu"), "--device has no effect with --server"),
    )
    for argv, said in wrong:
        done = run(tmp_path, "count", "--source", str(source), *argv, "--server", server.url, "--json")
        assert (done.returncode, said in last_json(done.stdout)["error"]) == (2, True), done.stderr
    assert there.get("/api/usage").json()["uploads"] == before


@pytest.mark.parametrize("url", ["", "ftp://studio", "http://", "http://studio:x", "http://anna:s3cret-word@", "studio?x=1"])
def test_an_address_that_is_none_is_refused_without_repeating_it(tmp_path: Path, url: str):
    with pytest.raises(InvalidRequest, match="--server wants the address") as caught:
        RemoteService((COUNT,), Artifacts(tmp_path), Settings(), url)
    assert "s3cret" not in str(caught.value)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_cancels_it_there_and_brings_what_is_done(
    server: Server, there: httpx.Client, tmp_path: Path, number: signal.Signals
):
    target = tmp_path / "mine.txt"
    argv = ("count", "--steps", "1000", "--pause", "0.02", "--out", str(target), "--json", "--server", server.url)
    process = start(tmp_path, *argv, GALATEA_API_TOKEN=TOKEN)
    for line in process.stderr:
        if "writing number" in line:
            break
    process.send_signal(number)
    stdout, stderr = process.communicate(timeout=30)
    assert process.returncode == cli.INTERRUPTED, stderr
    assert last_json(stdout)["partial"] is True
    assert 1 <= len(target.read_text().splitlines()) < 1000
    assert there.get("/api/jobs").json()["jobs"][0]["state"] == "cancelled"


def test_a_server_that_comes_back_is_found_again(tmp_path: Path):
    port = free_port()
    with studio(tmp_path / "there", port):
        argv = ("count", "--steps", "60", "--pause", "0.05", "--seed", "1", "--server", f"localhost:{port}")
        process = start(tmp_path, *argv)
        for line in process.stderr:
            if "writing number" in line:
                break
    with studio(tmp_path / "there", port):
        stdout, stderr = process.communicate(timeout=60)
    assert process.returncode == 0, stderr
    assert "the connection was lost, trying again" in stderr
    assert Path(stdout.strip()).read_text() == "".join(f"{n}\n" for n in range(1, 61))


def test_a_server_that_stays_away_is_told_with_the_jobs_id(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(remote, "PATIENCE", 3.0)
    with studio(tmp_path / "there") as server:
        service = RemoteService((COUNT,), Artifacts(tmp_path / "outputs"), Settings(), server.url)
        job = service.submit("count", {"steps": 1000, "pause": 0.1})
        while service.watch(job.id, -1).state is not JobState.RUNNING:
            time.sleep(0.05)
    with pytest.raises(ServerUnreachable, match=f"The job {job.id} goes on there") as caught:
        service.wait(job.id, 30)
    assert f"{server.url}/api/jobs/{job.id}" in str(caught.value)
    with pytest.raises(ServerUnreachable, match="could not be stopped"):
        service.cancel(job.id)
    service.close()


def test_a_lost_server_is_looked_for_from_the_moment_it_is_lost(monkeypatch: pytest.MonkeyPatch):
    """Not from the last news: a job that waits in a queue has none for hours."""
    patience, lost, now = remote.Patience(), ServerUnreachable("lost"), [500.0]
    monkeypatch.setattr(remote.time, "monotonic", lambda: now[0])
    assert patience.pause(lost, OSError()) == 1.0
    now[0] += remote.PATIENCE - 4.0
    assert patience.pause(lost, OSError()) == 2.0
    with pytest.raises(ServerUnreachable):
        now[0] += 1.0
        patience.pause(lost, OSError())


def test_nobody_there_is_said_with_the_address(tmp_path: Path):
    url = f"http://localhost:{free_port()}"
    done = run(tmp_path, "count", "--server", url, "--json")
    assert done.returncode == 1
    assert f"{url} cannot be reached" in last_json(done.stdout)["error"] and "Check the address" in done.stderr


class Other(BaseHTTPRequestHandler):
    """A web server that is no studio, or one that lies. answers: what it says to each path."""

    answers: dict[str, tuple[int, bytes, dict[str, str]]]

    def do_GET(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        status, body, headers = self.answers.get(self.path, (404, b"<html>nothing", {}))
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    do_POST = do_GET

    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def other(**answers: tuple[int, bytes, dict[str, str]]) -> Iterator[str]:
    """Its URL. answers: by the path's last word."""
    handler = type("Handler", (Other,), {"answers": {f"/api/{path}": answer for path, answer in answers.items()}})
    listening = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=listening.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{listening.server_port}"
    finally:
        listening.shutdown()
        listening.server_close()


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        ((404, b"<html>", {}), "is no studio"),
        ((200, b"<html>", {}), "answers something else"),
        ((200, b'"hello"', {}), "answers something else"),
        ((302, b"", {"Location": "https://studio.example/api/kinds"}), "leads on to https://studio.example: give that"),
        ((502, b"<html>", {}), "does not answer"),
        ((500, b'{"error": "It broke.", "type": "InternalError"}', {}), "It broke."),
        ((507, b'{"error": "The disk is full.", "type": "StorageError"}', {}), "The disk is full."),
        ((422, b'{"error": "No.", "type": "__name__"}', {}), "No."),
    ],
)
def test_other_servers_and_refusals_are_told_in_a_sentence(tmp_path: Path, answer: tuple, said: str):
    with other(kinds=answer, jobs=(201, b"[]", {})) as url:
        service = RemoteService((COUNT,), Artifacts(tmp_path), Settings(), url)
        with pytest.raises(GalateaError, match=said):
            service.submit("count", {})


def test_a_lying_server_cannot_write_outside_of_the_outputs_folder(tmp_path: Path):
    facts = {"id": "1", "state": "done", "result": {"artifacts": [{"id": "2", "name": "../../evil.txt", "size": 4}]}}
    finished = b"event: finished\ndata: " + json.dumps(facts).encode() + b"\n\n"
    posted = json.dumps({"id": "1", "state": "queued"}).encode()
    pages = {"kinds": b"[]", "jobs": posted, "jobs/1/events": finished, "artifacts/2": b"evil"}
    with other(**{path: (200, body, {}) for path, body in pages.items()}) as url:
        service = RemoteService((COUNT,), Artifacts(tmp_path / "a" / "b"), Settings(), url)
        job = service.wait(service.submit("count", {}).id, 20)
    assert job.result is not None and job.result.artifacts[0].path == tmp_path / "a" / "b" / "count" / "_.._evil.txt"
    assert not (tmp_path / "evil.txt").exists()


def test_a_result_that_is_here_already_is_not_fetched_again(server: Server, tmp_path: Path):
    settings = Settings(api_token=TOKEN)
    shared = Artifacts(Path(tmp_path / "outputs"))
    service = RemoteService((COUNT,), shared, settings, server.url)
    made = service.wait(service.submit("count", {"steps": 1}).id, 20)
    before = made.result.artifacts[0].path.stat().st_mtime_ns
    again = service._bring("count", service._follower.made[0], None)
    assert again.path == made.result.artifacts[0].path and again.path.stat().st_mtime_ns == before


def test_credentials_are_in_no_repr(tmp_path: Path):
    service = RemoteService((COUNT,), Artifacts(tmp_path), Settings(), f"http://anna:{TOKEN}@studio:7860/base/")
    assert str(service._server) == "http://studio:7860/base"
    assert TOKEN not in repr(vars(service)) + str(service._server)
