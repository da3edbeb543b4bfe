"""The HTTP API: what it answers, whom it refuses, and that no request makes it stumble."""

from __future__ import annotations

import asyncio
import base64
import io
import json
import logging
import os
import random
import sys
import tempfile
import time
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import httpx
import pytest
from pydantic import BaseModel, field_validator
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route
from starlette.testclient import TestClient

from tests.fakes import COUNT, FAIL, HOUSE_JOBS, holding, start_program, write_extension
from tests.processes import until
from tests.servers import free_port, serving
from webui import settings
from webui.api import guard as guarding
from webui.api.answers import Views
from webui.api.guard import Guard, RateLimit
from webui.api.jobs import http_api
from webui.artifacts import Artifacts
from webui.errors import InvalidRequest
from webui.jobs.service import JobService
from webui.jobs.types import JobKind, JobResult
from webui.settings import PROJECT, Settings

HERE = "http://localhost:7860"
UPLOAD_LIMIT = 1 << 20
JSON = {"Content-Type": "application/json"}


class Studio:
    """A service with the API and a page of one word behind a guard, and visitors to it."""

    def __init__(self, outputs: Path, kinds: tuple = (COUNT, FAIL), **chosen):
        self.settings = Settings(outputs_dir=outputs, max_upload_mb=1, **chosen)
        self.artifacts = Artifacts(outputs)
        self.service = JobService(kinds, self.artifacts, self.settings, alone=True)
        self.guard = Guard(self.settings, http_api(self.service, self.artifacts, self.settings))
        answer = Route("/{path:path}", lambda _request: PlainTextResponse("page"), methods=["GET", "POST"])
        self.app = guarding.Porch(Starlette(routes=[answer], middleware=[self.guard.middleware]), self.guard)

    def visitor(self, url: str = HERE, **options) -> TestClient:
        return TestClient(self.app, base_url=url, **options)

    def done(self, visitor: TestClient, kind: str = "count", **request) -> dict:
        posted = visitor.post("/api/jobs", json={"kind": kind, "request": request})
        assert posted.status_code == 201, posted.text
        self.service.wait(posted.json()["id"], 10)
        return visitor.get(f"/api/jobs/{posted.json()['id']}").json()


@pytest.fixture
def make(tmp_path: Path) -> Iterator:
    made: list[Studio] = []

    def build(**options) -> Studio:
        made.append(Studio(tmp_path / "outputs", **options))
        return made[-1]

    yield build
    for studio in made:
        studio.service.close()


@pytest.fixture
def studio(make) -> Studio:
    return make()


@pytest.fixture
def visitor(studio: Studio) -> TestClient:
    return studio.visitor()


def refused(reply: httpx.Response, status: int) -> str:
    """The sentence of a refusal, which is JSON with a sentence and a word."""
    assert reply.status_code == status, reply.text
    assert set(reply.json()) == {"error", "type"} and reply.json()["type"]
    assert reply.headers["x-content-type-options"] == "nosniff"
    return reply.json()["error"]


def upload(visitor: TestClient, name: str, content: bytes = b"content") -> dict:
    reply = visitor.post("/api/artifacts", files={"file": (name, content)})
    assert reply.status_code == 201, reply.text
    return reply.json()


# Kinds and jobs


def test_every_registered_kind_is_listed_with_the_schema_of_its_request(visitor: TestClient):
    kinds = {kind["name"]: kind for kind in visitor.get("/api/kinds").json()}
    assert list(kinds) == ["count", "fail"]
    assert kinds["count"]["title"] == "Counting"
    assert kinds["count"]["request"]["properties"]["steps"]["maximum"] == 1000


def test_a_posted_job_runs_and_reads_as_promised(studio: Studio, visitor: TestClient):
    source = upload(visitor, "first.txt", b"zero\n")
    job = studio.done(visitor, source=source["id"], steps=2, seed=7, loud=True)
    assert (job["kind"], job["state"], job["fraction"], job["eta"]) == ("count", "done", 1.0, None)
    assert job["request"]["steps"] == 2 and job["request"]["source"] == source["id"]
    assert (job["warnings"], job["error"], job["error_type"]) == (["This is loud."], None, "")
    assert job["result"]["seed"] == job["seed"] == 7
    assert (job["priority"], job["log"]) == (0, [])
    assert time.time() - 60 < job["created"] <= job["started"] <= job["finished"] <= time.time()
    (made,) = job["result"]["artifacts"]
    assert set(made) == {"id", "name", "media_type", "size"} and made["media_type"] == "text/plain"
    assert visitor.get(f"/api/artifacts/{made['id']}").text == "zero\n7\n8\n"


def test_a_failed_job_says_why_and_hides_what_is_nobodys_business(studio: Studio, visitor: TestClient):
    job = studio.done(visitor, "fail", how="model")
    assert (job["state"], job["error_type"], job["result"]) == ("failed", "ModelMissing", None)
    assert "models/" in job["error"]
    assert "secret detail" not in json.dumps(studio.done(visitor, "fail", how="bug"))


def test_jobs_are_listed_newest_first_by_pages_and_states(studio: Studio, visitor: TestClient):
    ids = [studio.done(visitor, steps=1)["id"] for _ in range(3)]
    failed = studio.done(visitor, "fail")["id"]
    listed = visitor.get("/api/jobs").json()
    assert [job["id"] for job in listed["jobs"]] == [failed, *reversed(ids)] and listed["total"] == 4
    assert [j["id"] for j in visitor.get("/api/jobs?limit=1&offset=1").json()["jobs"]] == [ids[2]]
    assert [j["id"] for j in visitor.get("/api/jobs?state=failed").json()["jobs"]] == [failed]
    assert visitor.get("/api/jobs?kind=count&limit=2").json()["total"] == 3
    assert [j["id"] for j in visitor.get(f"/api/jobs?search={ids[0][:12]}%20COUNT").json()["jobs"]] == [ids[0]]
    assert visitor.get("/api/jobs?search=nothing+like+it").json() == {"jobs": [], "total": 0}
    for query in ("limit=0", "limit=501", "offset=-1", "state=lost", "limit=x", f"offset={'9' * 40}", "search=%00", "kind=a%0Ab"):
        refused(visitor.get(f"/api/jobs?{query}"), 422)


def test_a_queued_job_can_go_before_others(make):
    hold, started, release = holding()
    studio = make(kinds=(hold, COUNT))
    visitor = studio.visitor()
    body = {"kind": "count", "request": {"steps": 1}}
    running = visitor.post("/api/jobs", json={"kind": "hold", "request": {}}).json()["id"]
    assert started.wait(10)
    first, second, third = (visitor.post("/api/jobs", json=body | more).json() for more in ({}, {}, {"priority": 5}))
    assert (first["priority"], third["priority"]) == (0, 5)
    assert visitor.post(f"/api/jobs/{second['id']}/priority", json={"priority": 100}).json()["priority"] == 100
    assert "begun" in refused(visitor.post(f"/api/jobs/{running}/priority", json={"priority": 1}), 409)
    refused(visitor.post(f"/api/jobs/{'0' * 32}/priority", json={"priority": 1}), 404)
    for wrong in (101, -101, 0.5, True, "1", None, [1], 2**70):
        refused(visitor.post(f"/api/jobs/{first['id']}/priority", json={"priority": wrong}), 422)
        refused(visitor.post("/api/jobs", json=body | {"priority": wrong}), 422)
    refused(visitor.post(f"/api/jobs/{first['id']}/priority", json={"priority": 1, "x": 1}), 422)
    release.set()
    finished = [studio.service.wait(job["id"], 10).finished for job in (second, third, first)]
    assert finished == sorted(finished)


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ({"kind": "count", "request": {"steps": 0}}, "'steps' must be at least 1"),
        ({"kind": "count", "request": {"colour": 1}}, "'colour' is not an option"),
        ({"kind": "nothing", "request": {}}, "There are: count, fail"),
        ({"kind": "count", "request": []}, "'request' (an object)"),
        ({"kind": ["count"], "request": {}}, "'kind' (a name)"),
        ({"kind": "count", "request": {}, "target": "/etc/x"}, "nothing else"),
        ({"kind": "count", "request": {"source": "0" * 32}}, "no file with the id"),
        ({"kind": "count", "request": {"source": "../../etc/passwd"}}, "no file with the id"),
    ],
)
def test_a_request_that_breaks_a_rule_is_told_which(studio: Studio, visitor: TestClient, body: dict, said: str):
    assert said in refused(visitor.post("/api/jobs", json=body), 422)
    assert studio.service.jobs() == ()


@pytest.mark.parametrize("body", [b"", b"{", b"\xff\xfe", b"[]", b'{"kind":NaN}', b'{"a":1e999}', b"[" * 100_000, b"1" * 5000])
def test_a_broken_body_is_refused(visitor: TestClient, body: bytes):
    refused(visitor.post("/api/jobs", content=body, headers={"Content-Type": "application/json"}), 400)


def test_a_form_cannot_post_a_job(visitor: TestClient):
    for media_type in ("text/plain", "application/x-www-form-urlencoded", ""):
        headers = {"Content-Type": media_type}
        refused(visitor.post("/api/jobs", content=b'{"kind":"count"}', headers=headers), 415)


def test_text_that_is_no_unicode_is_answered_like_any_other(visitor: TestClient):
    json_type = {"Content-Type": "application/json"}
    for body in (b'{"kind": "\\ud800", "request": {}}', b'{"kind": "count", "request": {"\\ud800": 1, "style": "\\udfff"}}'):
        refused(visitor.post("/api/jobs", content=body, headers=json_type), 422)


def test_a_job_stays_while_another_works_on_its_file(make):
    hold, started, release = holding()
    studio = make(kinds=(hold, COUNT))
    visitor = studio.visitor()
    made = studio.done(visitor, steps=1)
    visitor.post("/api/jobs", json={"kind": "hold", "request": {}})
    assert started.wait(10)
    source = made["result"]["artifacts"][0]["id"]
    waiting = visitor.post("/api/jobs", json={"kind": "count", "request": {"steps": 1, "source": source}}).json()["id"]
    assert "works on a file of this one" in refused(visitor.delete(f"/api/jobs/{made['id']}"), 409)
    release.set()
    studio.service.wait(waiting, 10)
    assert visitor.delete(f"/api/jobs/{made['id']}").status_code == 204


def test_cancel_stops_a_running_job_and_delete_wants_it_finished(make, tmp_path: Path):
    hold, started, release = holding()
    studio = make(kinds=(hold, COUNT))
    visitor = studio.visitor()
    running = visitor.post("/api/jobs", json={"kind": "hold", "request": {}}).json()["id"]
    waiting = visitor.post("/api/jobs", json={"kind": "count", "request": {}}).json()["id"]
    assert started.wait(10)
    refused(visitor.delete(f"/api/jobs/{running}"), 409)
    assert visitor.post(f"/api/jobs/{waiting}/cancel").json()["state"] == "cancelled"
    visitor.post(f"/api/jobs/{running}/cancel")
    release.set()
    assert studio.service.wait(running, 10).state.value == "cancelled"
    assert visitor.delete(f"/api/jobs/{running}").status_code == 204
    refused(visitor.get(f"/api/jobs/{running}"), 404)


def test_skipping_is_refused_where_there_is_nothing_to_skip(make):
    hold, started, release = holding()
    visitor = make(kinds=(hold, COUNT)).visitor()
    running = visitor.post("/api/jobs", json={"kind": "hold", "request": {}}).json()["id"]
    assert started.wait(10)
    assert "makes one thing alone" in refused(visitor.post(f"/api/jobs/{running}/skip"), 409)
    refused(visitor.post("/api/jobs/0/skip"), 404)
    release.set()


def test_delete_removes_the_results_and_leaves_uploads_and_other_jobs(studio: Studio, visitor: TestClient):
    source = upload(visitor, "a.txt")
    gone, kept = studio.done(visitor, source=source["id"]), studio.done(visitor)
    (artifact,) = gone["result"]["artifacts"]
    path = studio.artifacts.get(artifact["id"]).path
    assert visitor.delete(f"/api/jobs/{gone['id']}").status_code == 204
    assert not path.exists()
    refused(visitor.get(f"/api/artifacts/{artifact['id']}"), 404)
    assert visitor.get(f"/api/artifacts/{source['id']}").status_code == 200
    assert visitor.get(f"/api/artifacts/{kept['result']['artifacts'][0]['id']}").status_code == 200
    refused(visitor.delete(f"/api/jobs/{gone['id']}"), 404)


def test_a_deleted_job_comes_back_with_its_files(studio: Studio, visitor: TestClient):
    job = studio.done(visitor, steps=1)
    where = f"/api/artifacts/{job['result']['artifacts'][0]['id']}"
    assert visitor.delete(f"/api/jobs/{job['id']}").status_code == 204
    assert visitor.get("/api/jobs").json()["total"] == 0
    assert visitor.post(f"/api/jobs/{job['id']}/restore").json() == job
    assert visitor.get(f"/api/jobs/{job['id']}").json() == job
    assert visitor.get(where).status_code == 200
    assert visitor.post(f"/api/jobs/{job['id']}/restore").json() == job, "one that is not deleted stays as it is"
    refused(visitor.post(f"/api/jobs/{'0' * 32}/restore"), 404)


def test_a_job_has_a_small_picture_when_it_showed_one(studio: Studio, visitor: TestClient, tmp_path: Path):
    job, failed = studio.done(visitor, steps=1), studio.done(visitor, "fail")
    reply = visitor.get(f"/api/jobs/{job['id']}/thumbnail")
    assert reply.status_code == 200 and reply.headers["content-type"] == "image/jpeg" and reply.content[:2] == b"\xff\xd8"
    refused(visitor.get(f"/api/jobs/{failed['id']}/thumbnail"), 404)
    refused(visitor.get(f"/api/jobs/{'0' * 32}/thumbnail"), 404)


def test_the_disks_use_is_told(studio: Studio, visitor: TestClient):
    upload(visitor, "a.txt", b"12345")
    made = studio.done(visitor, steps=3, seed=1)["result"]["artifacts"][0]["size"]
    usage = visitor.get("/api/usage").json()
    assert (usage["results"], usage["uploads"], usage["trash"]) == (made, 5, 0) and usage["free"] > 0


def test_a_full_queue_says_come_back_later(make, monkeypatch: pytest.MonkeyPatch):
    hold, _, release = holding()
    monkeypatch.setattr("webui.api.submitting.MOST_WAITING", 2)
    visitor = make(kinds=(hold,)).visitor()
    body = {"kind": "hold", "request": {}}
    assert [visitor.post("/api/jobs", json=body).status_code for _ in range(3)] == [201, 201, 429]
    release.set()


def test_no_answer_names_a_folder_of_the_server():
    views = Views(Settings(outputs_dir=Path("/srv/anna/outputs"), models_dir=PROJECT / "models"))
    text = f"/srv/anna/outputs/talk is full, {PROJECT}/models/x and {Path.home()}/y and {tempfile.gettempdir()}."
    told = views.words(text)
    assert told.startswith("outputs/talk is full, models/x")
    assert "anna" not in told and str(PROJECT) not in told and tempfile.gettempdir() not in told
    assert views.plain({"a": [float("nan"), Path("/srv/anna/outputs/b")], 1: True}) == {"a": [None, "outputs/b"], "1": True}


def test_a_studio_that_cannot_store_says_so_without_naming_the_place(make, tmp_path: Path):
    visitor = make().visitor()
    (tmp_path / "outputs" / "uploads").write_text("a file is in the way")
    said = refused(visitor.post("/api/artifacts", files={"file": ("a.txt", b"a")}), 507)
    assert str(tmp_path) not in said


class BuggyRequest(BaseModel):
    """Its check is broken, as an extension's may be."""

    size: int = 1

    @field_validator("size")
    @classmethod
    def check(cls, size: int) -> int:
        raise RuntimeError("secret detail")


def test_an_extensions_own_bug_is_told_without_details(make):
    studio = make(kinds=(JobKind("buggy", "Buggy", BuggyRequest, COUNT.handler),))
    visitor = studio.visitor(raise_server_exceptions=False)
    reply = visitor.post("/api/jobs", json={"kind": "buggy", "request": {"size": 2}})
    assert "the log has the details" in refused(reply, 500)
    assert "secret" not in reply.text and "Traceback" not in reply.text


# Events


def events(text: str) -> list[tuple[str, dict]]:
    blocks = [block for block in text.split("\n\n") if block and not block.startswith(":")]
    return [(b.split("\n")[0].removeprefix("event: "), json.loads(b.split("data: ", 1)[1])) for b in blocks]


def test_the_stream_follows_a_job_to_its_end(visitor: TestClient):
    job = visitor.post("/api/jobs", json={"kind": "count", "request": {"steps": 8, "pause": 0.1}}).json()
    with visitor.stream("GET", f"/api/jobs/{job['id']}/events?preview=1") as reply:
        assert reply.headers["content-type"].startswith("text/event-stream")
        seen = events("".join(reply.iter_text()))
    assert [name for name, _ in seen[:-1]] == ["progress"] * (len(seen) - 1)
    fractions = [facts["fraction"] for _, facts in seen]
    assert fractions == sorted(fractions) and len(set(fractions)) > 3
    pictures = [facts["preview"] for _, facts in seen if "preview" in facts]
    assert pictures and all(base64.b64decode(picture)[:2] == b"\xff\xd8" for picture in pictures)
    name, last = seen[-1]
    assert name == "finished" and last["state"] == "done" and last["result"]["artifacts"]


def test_previews_come_only_when_asked_for_and_a_finished_job_is_told_at_once(studio: Studio, visitor: TestClient):
    job = visitor.post("/api/jobs", json={"kind": "count", "request": {"steps": 3, "pause": 0.1}}).json()
    assert "preview" not in visitor.get(f"/api/jobs/{job['id']}/events").text
    assert [name for name, _ in events(visitor.get(f"/api/jobs/{job['id']}/events").text)] == ["finished"]
    refused(visitor.get("/api/jobs/none/events"), 404)


class TalkativeRequest(BaseModel):
    """Write three lines for the curious."""


def talkative(ctx, _request: TalkativeRequest) -> JobResult:
    for number in range(3):
        ctx.log(f"line {number} in {tempfile.gettempdir()}/x")
        time.sleep(0.3)
        ctx.progress(number / 3, "talking")
        time.sleep(0.3)
    return JobResult((), {})


def test_the_log_comes_with_the_events_in_which_it_has_grown(make):
    studio = make(kinds=(JobKind("talkative", "Talkative", TalkativeRequest, talkative),))
    visitor = studio.visitor()
    job = visitor.post("/api/jobs", json={"kind": "talkative", "request": {}}).json()
    seen = events(visitor.get(f"/api/jobs/{job['id']}/events").text)
    logs = [facts["log"] for name, facts in seen if name == "progress" and "log" in facts]
    assert all(len(before) < len(after) for before, after in pairwise(logs)) and logs
    assert sum(name == "progress" for name, _ in seen) > len(logs)
    assert seen[-1][1]["log"] == [f"line {n} in temp/x" for n in range(3)]


# Files


def test_an_upload_comes_back_whole_and_in_ranges(visitor: TestClient):
    content = bytes(range(256)) * 1000
    artifact = upload(visitor, "sound.wav", content)
    assert artifact["name"] == "sound.wav" and artifact["size"] == len(content)
    assert artifact["media_type"].startswith("audio/")
    where = f"/api/artifacts/{artifact['id']}"
    reply = visitor.get(where)
    assert reply.content == content and reply.headers["content-disposition"].startswith("inline")
    part = visitor.get(where, headers={"Range": "bytes=100-199"})
    assert part.status_code == 206 and part.content == content[100:200]
    assert part.headers["content-range"] == f"bytes 100-199/{len(content)}"
    assert visitor.get(where, headers={"Range": "bytes=-5"}).content == content[-5:]
    assert visitor.get(where, headers={"Range": f"bytes={len(content)}-"}).status_code == 416
    head = visitor.head(where)
    assert head.headers["content-length"] == str(len(content)) and head.content == b""


def test_an_upload_as_base64(visitor: TestClient):
    body = {"name": "a.txt", "base64": base64.b64encode(b"hello").decode()}
    artifact = visitor.post("/api/artifacts", json=body).json()
    assert visitor.get(f"/api/artifacts/{artifact['id']}").content == b"hello"
    assert upload(visitor, "a.txt", b"hello")["id"] == artifact["id"]
    for wrong in ({"base64": "!!", "name": "a"}, {"name": "a"}, {**body, "url": "http://x"}, {"name": 1, "base64": ""}):
        refused(visitor.post("/api/artifacts", json=wrong), 422)


def test_files_are_fetched_by_url_only_where_the_owner_wants_it(make):
    body = {"url": "http://127.0.0.1/photo.png"}
    said = refused(make().visitor().post("/api/artifacts", json=body), 403)
    assert "fetch_urls" in said
    visitor = make(fetch_urls=True).visitor()
    for host in ("127.0.0.1", "localhost", "[::1]", "10.0.0.1", "169.254.169.254", "0x7f000001", "[::ffff:127.0.0.1]"):
        reply = visitor.post("/api/artifacts", json={"url": f"http://{host}/photo.png"})
        assert "public internet" in refused(reply, 422) and reply.json()["type"] == "NotFetched"
    for wrong in ({"url": 1}, {"url": None}, {**body, "name": "a.png"}, {"url": "file:///etc/passwd"}, {"url": "http://\ud800/"}):
        content = json.dumps(wrong).encode("ascii")
        refused(visitor.post("/api/artifacts", content=content, headers={"Content-Type": "application/json"}), 422)


def test_a_fetched_file_is_stored_like_any_other(make, monkeypatch: pytest.MonkeyPatch):
    class Internet:
        """Stands for the public internet, which tests do not use: what is fetched there is in test_fetch.py."""

        def fetch(self, url: str) -> tuple[io.BytesIO, str]:
            return io.BytesIO(b"" if "empty" in url else b"content"), "../a.txt"

    monkeypatch.setattr("webui.api.jobs.Fetcher", lambda _limit: Internet())
    visitor = make(fetch_urls=True).visitor()
    fetched = visitor.post("/api/artifacts", json={"url": "https://example.org/a.txt"})
    assert fetched.status_code == 201 and fetched.json()["name"] == "_a.txt"
    assert visitor.get(fetched.headers["location"]).content == b"content"
    assert "empty" in refused(visitor.post("/api/artifacts", json={"url": "https://example.org/empty"}), 422)


@pytest.mark.parametrize("name", ["page.html", "drawing.svg", "x.xhtml", "x.xml", "script.js", "noext", "x.pdf"])
def test_what_could_run_scripts_is_never_shown_in_place(visitor: TestClient, name: str):
    reply = visitor.get(f"/api/artifacts/{upload(visitor, name, b'<script>alert(1)</script>')['id']}")
    assert reply.headers["content-disposition"].startswith("attachment")
    assert reply.headers["x-content-type-options"] == "nosniff"
    assert reply.headers["content-security-policy"] == "sandbox"


@pytest.mark.parametrize(
    "name",
    [
        "../../../etc/cron.d/x.png",
        "..\\..\\x.png",
        "a\r\nSet-Cookie: x=1.png",
        'a"; filename="b.html',
        "安娜的声音.wav",
        "\x00.png",
        "…",
    ],
)
def test_a_name_breaks_neither_folders_nor_headers(studio: Studio, visitor: TestClient, name: str):
    body = {"name": name, "base64": base64.b64encode(name.encode()).decode()}
    artifact = visitor.post("/api/artifacts", json=body).json()
    reply = visitor.get(f"/api/artifacts/{artifact['id']}")
    assert reply.content == name.encode() and "set-cookie" not in reply.headers
    stored = studio.artifacts.get(artifact["id"]).path
    assert stored.parent.parent == studio.artifacts.root / "uploads"
    assert "\n" not in reply.headers["content-disposition"] and "/" not in artifact["name"]
    if "安娜" in name:
        assert "filename*=utf-8''%E5%AE%89" in reply.headers["content-disposition"]


@pytest.mark.parametrize(
    "artifact_id", ["0" * 16, "f" * 32, "..%2f..%2fetc%2fpasswd", "%2e%2e", "*", "%3F", "%00", "a%0d%0ab", "x" * 5000]
)
def test_guessed_ids_find_nothing(visitor: TestClient, artifact_id: str):
    said = refused(visitor.get(f"/api/artifacts/{artifact_id}"), 404)
    assert "passwd" not in said
    for path in ("", "/events", "/thumbnail"):
        refused(visitor.get(f"/api/jobs/{artifact_id}{path}"), 404)
    for path in ("/cancel", "/restore"):
        refused(visitor.post(f"/api/jobs/{artifact_id}{path}"), 404)


def test_uploads_are_limited_while_they_come_in(studio: Studio, visitor: TestClient):
    refused(visitor.post("/api/artifacts", files={"file": ("a.bin", b"x" * (UPLOAD_LIMIT + 1))}), 413)
    refused(visitor.post("/api/artifacts", json={"name": "a", "base64": "A" * (2 * UPLOAD_LIMIT)}), 413)
    taken = 0

    def endless() -> Iterator[bytes]:
        nonlocal taken
        yield b'--b\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\n'
        for _ in range(100):
            taken += 1
            yield b"x" * (1 << 16)

    form = {"Content-Type": "multipart/form-data; boundary=b"}
    refused(visitor.post("/api/artifacts", content=endless(), headers=form), 413)
    refused(visitor.post("/api/jobs", content=b'{"a":"' + b"x" * (1 << 21), headers={"Content-Type": "application/json"}), 413)
    assert list(studio.artifacts.root.glob("uploads/*")) == []


@pytest.mark.parametrize(
    ("content", "media_type", "status"),
    [
        (b"", "multipart/form-data", 400),
        (b"nonsense", "multipart/form-data; boundary=b", 400),
        (b'--b\r\nContent-Disposition: form-data; name="file"\r\n\r\ntext\r\n--b--\r\n', "multipart/form-data; boundary=b", 422),
        (b"--b\r\nX: y\r\n\r\ntext\r\n--b--\r\n", "multipart/form-data; boundary=b", 400),
        (b"x", "image/png", 415),
        (
            b'--b\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\n\r\n--b--\r\n',
            "multipart/form-data; boundary=b",
            422,
        ),
    ],
)
def test_a_broken_upload_is_refused(visitor: TestClient, content: bytes, media_type: str, status: int):
    refused(visitor.post("/api/artifacts", content=content, headers={"Content-Type": media_type}), status)


# Who may come in

PROTECTED = ("/api/kinds", "/api/jobs", "/api/artifacts/x", "/docs", "/openapi.json", "/api/nothing")


def test_without_a_password_the_api_is_open(visitor: TestClient):
    assert visitor.get("/api/kinds").status_code == 200


def test_a_password_or_a_token_is_asked_for_on_every_route(make):
    studio = make(gradio_auth=(("anna", "wörd:1"), ("bob", "b")), api_token="a-long-token")
    visitor = studio.visitor()
    for path in PROTECTED:
        reply = visitor.get(path)
        refused(reply, 401)
        assert reply.headers["www-authenticate"].startswith("Basic")
    assert visitor.get("/").text == "page", "the page has its own login"
    anna = base64.b64encode("anna:wörd:1".encode()).decode()
    for known in (f"Basic {anna}", f"basic {anna}", "Bearer a-long-token"):
        assert visitor.get("/api/kinds", headers={"Authorization": known}).status_code == 200
    assert visitor.get("/api/kinds", auth=("bob", "b")).status_code == 200


@pytest.mark.parametrize(
    "written",
    [
        "Basic",
        "Basic !!",
        "Basic YW5uYTp4",
        "Bearer wrong",
        "Bearer ",
        "Bearer anna:word",
        "Digest x",
        "a-long-token",
        "Basic " + "A" * 4000,
    ],
)
def test_wrong_credentials_are_refused(make, written: str):
    visitor = make(gradio_auth=(("anna", "word"),), api_token="a-long-token").visitor()
    refused(visitor.get("/api/kinds", headers={"Authorization": written}), 401)


def test_a_token_is_in_no_repr_and_in_no_error():
    chosen = settings.load({}, {"GALATEA_API_TOKEN": "s3cret-token", "GALATEA_ALLOWED_HOSTS": "A.example, b.example"})
    assert chosen.api_token == "s3cret-token" and "s3cret" not in repr(chosen)
    assert chosen.allowed_hosts == ("a.example", "b.example")
    for name, value in (("API_TOKEN", "s3c ret"), ("API_TOKEN", "s3c"), ("ALLOWED_HOSTS", "a.example:80")):
        with pytest.raises(InvalidRequest, match=name) as caught:
            settings.load({}, {f"GALATEA_{name}": value})
        assert "s3c" not in str(caught.value)


def test_guessing_is_slowed_down_on_the_api_and_on_the_pages_login(make, caplog: pytest.LogCaptureFixture):
    studio = make(gradio_auth=(("anna", "word"),))
    visitor = studio.visitor()
    tries = [visitor.get("/api/kinds", auth=("anna", f"s3cret{n}")).status_code for n in range(12)]
    assert tries == [401] * guarding.FAILED_TRIES_PER_MINUTE + [429] * 2
    locked = visitor.get("/api/kinds", auth=("anna", "word"))
    refused(locked, 429)
    assert 0 < int(locked.headers["retry-after"]) <= 60
    refused(visitor.post("/login"), 429)
    assert "s3cret" not in caplog.text and "wrong password" in caplog.text


def test_whoever_was_right_before_is_not_locked_out_by_others(make):
    visitor = make(gradio_auth=(("anna", "word"), ("bob", "word"))).visitor()
    assert visitor.get("/api/kinds", auth=("anna", "word")).status_code == 200
    for number in range(12):
        visitor.get("/api/kinds", auth=("anna", f"wrong{number}"))
    assert visitor.get("/api/kinds", auth=("anna", "word")).status_code == 200
    refused(visitor.get("/api/kinds", auth=("bob", "word")), 429)


def test_the_page_takes_the_same_header_as_the_api(make):
    visitor = make(gradio_auth=(("anna", "word"),), api_token="a-long-token").visitor()
    refused(visitor.get("/", auth=("anna", "wrong")), 401)
    refused(visitor.get("/", headers={"Authorization": "Bearer wrong"}), 401)
    assert visitor.get("/", headers={"Authorization": "Bearer a-long-token"}).text == "page"


@pytest.mark.parametrize(
    ("options", "right", "wrong"),
    [
        ({"gradio_auth": (("anna", "word"),)}, ("anna", "word"), ("bob", "word")),
        ({"api_token": "a-long-token"}, ("anybody", "a-long-token"), ("anybody", "a-long-toke")),
    ],
)
def test_the_pages_login_knows_passwords_and_the_token(options: dict, right: tuple, wrong: tuple):
    guard = guarding.Guard(Settings(**options), None)
    assert guard.closed and guard.admits(*right) and not guard.admits(*wrong)
    assert not guarding.Guard(Settings(), None).closed


def test_what_the_command_line_was_given_is_not_handed_out(make, tmp_path: Path):
    """Its result is, for the history shows it, but not what has taken the result's place."""
    studio = make()
    given, made = (tmp_path / name for name in ("private.txt", "made.txt"))
    given.write_text("3\n")
    visitor, artifact = studio.visitor(), Artifacts(tmp_path / "elsewhere").adopt(given)
    studio.artifacts.know(artifact.id, given)
    job = studio.service.wait(studio.service.submit("count", {"source": artifact.id, "seed": 1}, target=made).id, 10)
    result = job.result.artifacts[0].id
    assert job.request.source == artifact.id
    later = make()  # the server, which never saw the command line
    visitor = later.visitor()
    assert visitor.get(f"/api/jobs/{job.id}").json()["result"]["artifacts"][0]["id"] == result
    assert visitor.get(f"/api/artifacts/{result}").status_code == 200
    refused(visitor.get(f"/api/artifacts/{artifact.id}"), 404)
    refused(visitor.post("/api/jobs", json={"kind": "count", "request": {"source": artifact.id}}), 422)
    made.unlink()
    made.symlink_to(given)
    refused(visitor.get(f"/api/artifacts/{result}"), 404)


def test_answers_cannot_be_framed_by_other_sites(visitor: TestClient):
    for path in ("/", "/api/kinds", "/docs"):
        headers = visitor.get(path).headers
        assert "frame-ancestors" in headers["content-security-policy"] and headers["x-frame-options"], path


@pytest.mark.parametrize(
    "host",
    [
        "evil.example",
        "localhost.evil.example",
        "192.168.1.5:7860",
        "",
        "127.0.0.1@evil.example",
        "evil.example#localhost",
        "[::",
        "[::1].evil.example",
        "localhost:abc",
        "localhost:99999",
        "127.0.0.1:7860:evil",
    ],
)
@pytest.mark.parametrize("path", ["/", "/api/kinds", "/docs"])
def test_a_foreign_host_is_refused_on_page_and_api(visitor: TestClient, path: str, host: str):
    refused(visitor.get(path, headers={"Host": host}), 403)
    assert visitor.post(path, headers={"Host": host}).status_code == 403


def test_who_leaves_in_the_middle_of_an_upload_is_noted_without_a_traceback(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    async def upload(request: Request) -> PlainTextResponse:
        return PlainTextResponse(await request.body())

    async def receive() -> dict:
        return {"type": "http.disconnect"}

    async def send(_message: dict) -> None: ...

    scope = {"type": "http", "method": "POST", "path": "/upload", "query_string": b"", "client": ("127.0.0.1", 1)}
    scope |= {"headers": [(b"host", b"localhost:7860")], "http_version": "1.1", "scheme": "http", "root_path": ""}
    app = Starlette(routes=[Route("/upload", upload, methods=["POST"])])
    with caplog.at_level(logging.INFO):
        asyncio.run(guarding.Porch(app, Studio(tmp_path).guard)(scope, receive, send))
    assert "A visitor left" in caplog.text


@pytest.mark.parametrize("host", ["localhost:7860", "127.0.0.1:7860", "[::1]:7860", "LOCALHOST:9000"])
def test_this_computers_names_are_let_in(visitor: TestClient, host: str):
    assert visitor.get("/", headers={"Host": host}).status_code == 200
    assert visitor.post("/", headers={"Host": host, "Origin": f"http://{host.lower()}"}).status_code == 200


@pytest.mark.parametrize(
    "origin",
    ["https://evil.example", "null", "http://localhost:3000", "file://", "http://localhost.evil.example:7860", "http://[", ""],
)
def test_other_sites_pages_are_refused_whatever_they_ask(visitor: TestClient, origin: str):
    for method, path in (("GET", "/api/jobs"), ("POST", "/api/jobs"), ("POST", "/"), ("GET", "/"), ("DELETE", "/api/jobs/x")):
        reply = visitor.request(method, path, headers={"Origin": origin})
        refused(reply, 403)
        assert "access-control-allow-origin" not in reply.headers
    assert visitor.post("/", headers={"Sec-Fetch-Site": "cross-site"}).status_code == 403


def test_more_names_are_let_in_when_the_owner_says_so(make):
    studio = make(listen=True, allowed_hosts=("studio.example",))
    visitor = studio.visitor()
    for host in ("192.168.1.5:7860", "[fe80::1]:7860", "studio.example"):
        assert visitor.get("/api/kinds", headers={"Host": host}).status_code == 200
    behind_proxy = {"Host": "localhost:7860", "Origin": "https://studio.example"}
    assert visitor.post("/", headers=behind_proxy).status_code == 200
    assert visitor.get("/", headers={"Host": "x.gradio.live"}).status_code == 403
    studio.guard.allow_host("x.gradio.live")
    shared = {"Host": "x.gradio.live", "Origin": "https://x.gradio.live"}
    assert visitor.post("/", headers=shared).status_code == 200


def test_posting_too_often_is_slowed_down(make, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(guarding, "POSTS_PER_MINUTE", {"/api/jobs": 3, "/api/artifacts": 1})
    visitor = make().visitor()
    replies = [visitor.post("/api/jobs", json={}) for _ in range(4)]
    assert [reply.status_code for reply in replies] == [422, 422, 422, 429]
    assert int(replies[-1].headers["retry-after"]) > 0
    upload(visitor, "a.txt")
    refused(visitor.post("/api/artifacts", files={"file": ("b", b"b")}), 429)
    assert visitor.get("/api/jobs").status_code == 200


def test_a_rate_limit_forgets_after_its_time_and_keeps_few_keys():
    now = [0.0]
    limit = RateLimit(2, 10.0, clock=lambda: now[0])
    limit.note("a")
    now[0] = 4.0
    limit.note("a")
    assert (limit.wait("a"), limit.wait("b")) == (6.0, 0.0)
    now[0] = 10.0
    assert limit.wait("a") == 0.0
    for key in range(RateLimit.MOST_KEYS + 10):
        limit.note(str(key))
    assert len(limit._events) == RateLimit.MOST_KEYS


# The description


def test_the_description_covers_the_routes_and_loads_nothing(visitor: TestClient):
    spec = visitor.get("/openapi.json").json()
    assert sorted(spec["paths"]) == [
        "/api/artifacts",
        "/api/artifacts/{artifact_id}",
        "/api/jobs",
        "/api/jobs/{job_id}",
        "/api/jobs/{job_id}/cancel",
        "/api/jobs/{job_id}/events",
        "/api/jobs/{job_id}/priority",
        "/api/jobs/{job_id}/restore",
        "/api/jobs/{job_id}/skip",
        "/api/jobs/{job_id}/thumbnail",
        "/api/kinds",
        "/api/usage",
    ]
    missing = [ref for ref in _references(spec) if ref.split("/")[-1] not in spec["components"]["schemas"]]
    assert missing == []
    assert spec["components"]["schemas"]["count-request"]["properties"]["steps"]["maximum"] == 1000
    page = visitor.get("/docs")
    assert "/api/jobs/{job_id}/events" in page.text and "count-request" in page.text
    assert "http://" not in page.text and "https://" not in page.text and "<script" not in page.text
    assert "default-src 'none'" in page.headers["content-security-policy"]


def _references(value) -> Iterator[str]:
    if isinstance(value, dict):
        yield from (inner for key, inner in value.items() if key == "$ref")
        value = list(value.values())
    for inner in value if isinstance(value, list) else ():
        yield from _references(inner)


def test_unknown_routes_and_methods_are_refused_in_json(visitor: TestClient):
    for path in ("/api", "/api/", "/api/none", "/api/jobs/a/b/c"):
        refused(visitor.get(path, follow_redirects=False), 404)
    for path, methods in (("/api/jobs", "GET, POST"), ("/api/jobs/x", "DELETE, GET"), ("/api/artifacts/x", "GET, HEAD")):
        reply = visitor.put(path)
        refused(reply, 405)
        assert reply.headers["allow"] == methods


# Whatever is sent

ODD = ["", "x", "0", "-1", "NaN", "\x00", "../..", "%", "'\"", "人", "\ud83d", "a" * 3000, "1e999", "{}", "\r\n"]


def odd_value(dice: random.Random, depth: int = 0):
    """Any JSON, with the names and values that matter here more often than chance would have it."""
    choices = [None, True, 0, -1, 2**70, 1.5, 1e308, dice.choice(ODD), "count", "fail", "plain"]
    if depth < 3 and dice.random() < 0.4:
        names = ["kind", "request", "steps", "source", "seed", "style", "name", "base64", "how", dice.choice(ODD)]
        if dice.random() < 0.8:
            return {dice.choice(names): odd_value(dice, depth + 1) for _ in range(dice.randrange(5))}
        return [odd_value(dice, depth + 1) for _ in range(dice.randrange(4))]
    return dice.choice(choices)


def test_nothing_that_is_sent_makes_the_server_stumble(make, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(guarding, "POSTS_PER_MINUTE", {})
    studio = make()
    visitor = studio.visitor(raise_server_exceptions=False)
    known = studio.done(visitor)
    ids = [known["id"], known["result"]["artifacts"][0]["id"], *(odd.encode("utf-8", "replace").hex() for odd in ODD)]
    dice = random.Random(20261120)
    seen = set()
    for _ in range(1500):
        some_id = dice.choice([*ids, "%2e%2e%2f", "%00", "%F0%9F", "a b", "*"])
        path = dice.choice(
            ["/api/kinds", "/api/jobs", "/api/artifacts", f"/api/jobs/{some_id}", f"/api/jobs/{some_id}/cancel"]
            + [f"/api/jobs/{some_id}/{what}" for what in ("priority", "restore", "thumbnail")]
            + [f"/api/jobs/{some_id}/events", f"/api/artifacts/{some_id}", "/docs", "/openapi.json", f"/api/{some_id}"]
        )
        method = dice.choice(["GET", "POST", "POST", "POST", "HEAD", "PUT", "PATCH", "OPTIONS"])
        name = dice.choice(["limit", "offset", "state", "preview", "search", "kind", "x"])
        query = {name: dice.choice(ODD).encode("utf-8", "replace")}
        headers = {
            "Content-Type": dice.choice(["application/json"] * 4 + ["multipart/form-data; boundary=b", "text/plain", ";", "é"]),
            "Range": dice.choice(["bytes=0-1", "bytes=5-1", "bytes=a-b", "bytes=", "lines=1-2", "bytes=0-0,2-3,-1"]),
            "Content-Length": None,
        }
        body = json.dumps(odd_value(dice)).encode()
        if "multipart" in headers["Content-Type"]:
            body = b'--b\r\nContent-Disposition: form-data; name="file"; filename="' + dice.randbytes(5) + b'"\r\n\r\n' + body
            body += dice.choice([b"\r\n--b--\r\n", b"", b"\r\n--b"])
        if dice.random() < 0.2:
            cut = dice.randrange(len(body) + 1)
            body = body[:cut] + dice.randbytes(3) + body[cut:]
        sent = [(name.encode(), value.encode("latin-1")) for name, value in headers.items() if value]
        reply = visitor.request(method, path, params=query, content=body, headers=sent)
        assert reply.status_code < 500, (method, path, query, headers, body, reply.text)
        seen.add(reply.status_code)
    assert {200, 201, 400, 404, 405, 415, 422} <= seen, seen


# The real server


@pytest.mark.skipif(os.name == "nt", reason="POSIX signals")
class TestRealServer:
    """The API beside the real page, in a process of its own."""

    pytestmark = pytest.mark.long

    def test_a_talking_head_from_upload_to_video(self, tmp_path: Path, portrait_file: Path, voice_file: Path):
        port = free_port()
        command = [sys.executable, "app.py", "--port", str(port), "--outputs-dir", str(tmp_path / "outputs")]
        with serving(command, port, tmp_path / "temp") as server, httpx.Client(base_url=server.url, timeout=60) as visitor:
            kinds = visitor.get("/api/kinds").json()
            assert [kind["name"] for kind in kinds] == ["txt2img", "img2img", "inpaint", "plot", "extras", "talk"]
            ids = {}
            for field, file in (("portrait", portrait_file), ("voice", voice_file)):
                with open(file, "rb") as content:
                    ids[field] = visitor.post("/api/artifacts", files={"file": content}).json()["id"]
            posted = visitor.post("/api/jobs", json={"kind": "talk", "request": {**ids, "size": 256, "seed": 1}})
            assert posted.status_code == 201
            with visitor.stream("GET", f"{posted.headers['location']}/events?preview=1") as stream:
                seen = events("".join(stream.iter_text()))
            name, job = seen[-1]
            assert name == "finished" and job["state"] == "done", job
            assert len({facts["fraction"] for _, facts in seen}) > 3
            assert any("preview" in facts for _, facts in seen)
            assert str(tmp_path) not in json.dumps(job)
            assert visitor.get(f"/api/jobs/{job['id']}/thumbnail").content[:2] == b"\xff\xd8"
            (video,) = job["result"]["artifacts"]
            where = f"/api/artifacts/{video['id']}"
            whole = visitor.get(where)
            assert whole.headers["content-type"] == "video/mp4" and whole.content[4:8] == b"ftyp"
            part = visitor.get(where, headers={"Range": "bytes=4-7"})
            assert part.status_code == 206 and part.content == b"ftyp"
            assert visitor.delete(f"/api/jobs/{job['id']}").status_code == 204
            assert visitor.get(where).status_code == 404
        assert "Traceback" not in server.log

    def test_gradios_own_routes_refuse_foreign_pages_too(self, tmp_path: Path):
        folder = tmp_path / "extensions"
        write_extension(folder, "fakehouse", 'jobs = "fakehouse.jobs:KINDS"\n', jobs=HOUSE_JOBS)
        port = free_port()
        command = start_program(folder, "--port", str(port), "--outputs-dir", str(tmp_path / "outputs"))
        with serving(command, port, tmp_path / "temp") as server, httpx.Client(base_url=server.url) as visitor:
            foreign = {"Origin": "https://evil.example"}
            for path in ("/gradio_api/queue/join", "/gradio_api/upload", "/login", "/api/jobs"):
                assert visitor.post(path, headers=foreign, json={}).status_code == 403, path
                assert visitor.post(path, headers={"Host": "evil.example"}, json={}).status_code == 403, path
            for path in ("/", "/config", "/gradio_api/info", "/api/kinds"):
                assert visitor.get(path, headers={"Host": f"evil.example:{port}"}).status_code == 403, path
                assert visitor.get(path).status_code == 200, path
            preflight = visitor.options("/api/jobs", headers={**foreign, "Access-Control-Request-Method": "POST"})
            assert preflight.status_code == 403 and "access-control-allow-credentials" not in preflight.headers
            own = {"Origin": f"http://localhost:{port}", "Host": f"localhost:{port}"}
            assert visitor.post("/gradio_api/upload", files={"files": ("a.txt", b"a")}, headers=own).status_code == 200
            assert visitor.get("/docs").status_code == visitor.get("/openapi.json").status_code == 200
            job = visitor.post("/api/jobs", json={"kind": "count", "request": {"steps": 3}}).json()
            assert events(visitor.get(f"/api/jobs/{job['id']}/events").text)[-1][0] == "finished"

    def test_one_password_covers_page_and_api_and_twenty_watchers_hold_no_one_up(self, tmp_path: Path):
        folder = tmp_path / "extensions"
        write_extension(folder, "fakehouse", 'jobs = "fakehouse.jobs:KINDS"\n', jobs=HOUSE_JOBS)
        port = free_port()
        words = ("--gradio-auth", "anna:s3cret-word", "--api-token", "t0ken-of-mine")
        command = start_program(folder, "--port", str(port), "--outputs-dir", str(tmp_path / "outputs"), *words)
        limits = httpx.Limits(max_connections=200)
        with (
            serving(command, port, tmp_path / "temp") as server,
            httpx.Client(base_url=server.url, timeout=30, limits=limits) as visitor,
        ):
            for path in ("/config", "/api/kinds", "/docs", "/openapi.json"):
                assert visitor.get(path).status_code == 401, path
            large = visitor.post("/gradio_api/queue/join", content=b"[" + b"1," * (9 << 20), headers=JSON)
            assert large.status_code == 413
            visitor.headers["Authorization"] = "Bearer t0ken-of-mine"
            for path in ("/config", "/docs", "/"):
                assert visitor.get(path).status_code == 200, path
            body = {"kind": "count", "request": {"steps": 100, "pause": 0.1}}
            job = visitor.post("/api/jobs", json=body).json()["id"]
            streams = [visitor.send(visitor.build_request("GET", f"/api/jobs/{job}/events"), stream=True) for _ in range(150)]
            begun = time.monotonic()
            until(lambda: visitor.get(f"/api/jobs/{job}").json()["state"] == "running")
            assert visitor.post(f"/api/jobs/{job}/cancel").status_code == 200
            last = [events(stream.read().decode())[-1] for stream in streams]
            assert time.monotonic() - begun < 10
            assert {(name, facts["state"]) for name, facts in last} == {("finished", "cancelled")}
        assert "s3cret-word" not in server.log and "t0ken-of-mine" not in server.log and "Traceback" not in server.log
