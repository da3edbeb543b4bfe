"""Jobs on another computer's studio, over its HTTP API: what `--server URL` gives the command line in place of a JobService.

Uploads the files that a request names, follows the job, and brings the result home. Runs no job itself, and never shows
the name, password or token that it was given.
"""

from __future__ import annotations

import base64
import http.client
import json
import secrets
import ssl
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit

from webui import errors
from webui.artifacts import check_target, readable_name, storage_errors
from webui.errors import GalateaError, InvalidRequest, ServerUnreachable
from webui.jobs.types import Job, JobKind, JobResult, JobState
from webui.jobs.validation import artifact_fields, validated

if TYPE_CHECKING:
    from webui.artifacts import Artifact, Artifacts
    from webui.settings import Settings

SILENCE = 60.0
"""Seconds without a byte after which a connection is given up. A stream that has nothing to say speaks every 15 s."""

PATIENCE = 60.0
"""Seconds for which a lost server is looked for."""

LONGEST_PAUSE = 4.0
MOST_ANSWER = 16 << 20
"""Bytes of an answer in JSON."""

PIECE = 1 << 18
LOST = "the connection was lost, trying again"


class RemoteService:
    """What cli.run needs of a JobService: submit, watch, wait and cancel. For one job.

    artifacts: this computer's files. The result is put there, or at the job's target.
    server:    the studio's address; a name and password in it go before those of the settings.
    """

    def __init__(self, kinds: Iterable[JobKind], artifacts: Artifacts, settings: Settings, server: str):
        self._kinds = {kind.name: kind for kind in kinds}
        self._artifacts = artifacts
        self._server = Server(server, settings)
        self._target: Path | None = None
        self._follower: Follower | None = None
        self._brought: Job | None = None

    def kinds(self) -> dict[str, JobKind]:
        return dict(self._kinds)

    def submit(self, kind: str, request: Mapping[str, Any], *, target: Path | None = None, previews: bool = False) -> Job:
        """Upload the files that the request names, and queue the job there. Previews are never asked for.

        Raises InvalidRequest and StorageError for what can be seen from here, then what the server refuses with.
        """
        chosen = self._kinds[kind]
        checked = validated(chosen.request, request)
        if target is not None:
            chosen.check_suffix(target, checked)
            check_target(target)
        self._server.ask("GET", "/api/kinds")  # tells what is wrong before anything large is sent
        fields = checked.model_dump(mode="json", exclude_unset=True)
        for name in artifact_fields(chosen.request):
            if fields.get(name):
                fields[name] = self._server.upload(self._artifacts.get(fields[name]))
        facts = self._server.ask("POST", "/api/jobs", {"kind": kind, "request": fields})
        self._target = target
        self._follower = Follower(self._server, _changed(Job(_text(facts, "id"), kind, checked, JobState.QUEUED), facts))
        self._follower.start()
        return self._follower.job

    def watch(self, job_id: str, after_version: int, timeout: float | None = None) -> Job:
        """The job once its version is above `after_version`, or as it is after `timeout` seconds.

        A finished one has its files here. Raises ServerUnreachable when the server has been lost for a minute.
        """
        return self._with_files(self._following(job_id).wait_for(lambda job: job.version > after_version, timeout))

    def wait(self, job_id: str, timeout: float | None = None) -> Job:
        """The job once it has finished and its files are here, or as it is after `timeout` seconds."""
        return self._with_files(self._following(job_id).wait_for(lambda job: job.state.finished, timeout))

    def cancel(self, job_id: str) -> Job:
        """Ask the server to stop the job. What it has made so far is kept."""
        follower = self._following(job_id)
        try:
            self._server.ask("POST", f"/api/jobs/{job_id}/cancel")
        except ServerUnreachable as error:
            raise ServerUnreachable(f"The job could not be stopped. {self._server.where(job_id)}") from error
        return follower.job

    def close(self) -> None:
        """Stop following. The job goes on."""
        if self._follower is not None:
            self._follower.stop()

    def _following(self, job_id: str) -> Follower:
        assert self._follower is not None and self._follower.job.id == job_id
        return self._follower

    def _with_files(self, job: Job) -> Job:
        if job.result is None:
            return job
        if self._brought is None:
            made = self._following(job.id).made
            if not made:
                raise InvalidRequest(f"The result is not on the server any more; see {self._server}/api/jobs/{job.id}.")
            files = [self._bring(job.kind, facts, self._target if facts is made[0] else None) for facts in made]
            self._brought = replace(job, result=JobResult(tuple(files), job.result.data))
        return self._brought

    def _bring(self, kind: str, facts: Mapping[str, Any], target: Path | None) -> Artifact:
        """A file of the result: at `target`, or in this computer's outputs folder under the name that it has there."""
        final = target or self._artifacts.root / kind / readable_name(_text(facts, "name"))
        if target is None:
            # The name holds an id, so this is the same file: of a server on this computer, or brought before.
            if final.is_file() and final.stat().st_size == _size(facts):
                return self._artifacts.adopt(final)
            with storage_errors(final.parent):
                final.parent.mkdir(parents=True, exist_ok=True)
        patience = Patience()
        while True:
            try:
                with self._artifacts.output(kind, final.suffix, final.stem, final) as output:
                    _write(output.path, self._server.download(_text(facts, "id"), _size(facts)))
                assert output.artifact is not None
                return output.artifact
            except ServerUnreachable as error:
                where = f"{self._server}/api/artifacts/{facts['id']}"
                time.sleep(patience.pause(ServerUnreachable(f"{error} The result can be fetched later from {where}"), error))


class Follower(threading.Thread):
    """Keeps the newest snapshot of a job from its server's events, and looks for the server when it is lost.

    made: the files of the finished job, as the server describes them.
    """

    def __init__(self, server: Server, job: Job):
        super().__init__(name="galatea-follower", daemon=True)
        self.job = job
        self.made: list[dict[str, Any]] = []
        self._server = server
        self._moved = threading.Condition()
        self._error: GalateaError | None = None
        self._stopped = threading.Event()

    def wait_for(self, wanted: Callable[[Job], bool], timeout: float | None) -> Job:
        """The job once it is as wanted or finished, or as it is after `timeout` seconds. Raises what ended the following."""
        with self._moved:
            self._moved.wait_for(lambda: self._error or self.job.state.finished or wanted(self.job), timeout)
            if self._error is not None:
                raise self._error
            return self.job

    def stop(self) -> None:
        self._stopped.set()

    def run(self) -> None:
        try:
            self._follow()
        except GalateaError as error:
            with self._moved:
                self._error = error
                self._moved.notify_all()

    def _follow(self) -> None:
        patience = Patience()
        while not self._stopped.is_set() and not self.job.state.finished:
            try:
                for name, facts in self._server.events(self.job.id):
                    patience = Patience()
                    self._note(name, facts)
                if not self.job.state.finished:
                    raise ServerUnreachable(f"{self._server} ended the stream before the job.")
            except ServerUnreachable as error:
                lost = ServerUnreachable(f"The connection to {self._server} was lost. {self._server.where(self.job.id)}")
                pause = patience.pause(lost, error)
                self._change(lambda job: replace(job, version=job.version + 1, stage=LOST, eta=None))
                self._stopped.wait(pause)

    def _note(self, name: str, facts: dict[str, Any]) -> None:
        if name == "deleted":
            raise InvalidRequest("Somebody deleted the job on the server.")
        self.made = (facts.get("result") or {}).get("artifacts", [])
        self._change(lambda job: _changed(job, facts))

    def _change(self, change: Callable[[Job], Job]) -> None:
        with self._moved:
            self.job = change(self.job)
            self._moved.notify_all()


class Patience:
    """How long to pause between tries: ever longer, for a minute in all, counted from the first failure."""

    def __init__(self) -> None:
        self._pause, self._begun = 0.5, 0.0

    def pause(self, at_the_end: GalateaError, cause: Exception) -> float:
        """Seconds until the next try. Raises `at_the_end` when the minute is over."""
        self._begun = self._begun or time.monotonic()
        self._pause = min(2 * self._pause, LONGEST_PAUSE)
        if time.monotonic() + self._pause - self._begun > PATIENCE:
            raise at_the_end from cause
        return self._pause


class Server:
    """One studio's HTTP API. Every method raises ServerUnreachable, or the error that the server refuses with."""

    def __init__(self, url: str, settings: Settings):
        try:
            parts = urlsplit(url if "://" in url else f"http://{url}")
            port = f":{parts.port}" if parts.port else ""
        except ValueError:
            parts, port = urlsplit(""), ""
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.query or parts.fragment:
            # What was written is not repeated: it may hold a password.
            raise InvalidRequest("--server wants the address of a studio, such as http://studio:7860.")
        self._host = f"[{parts.hostname}]{port}" if ":" in parts.hostname else f"{parts.hostname}{port}"
        self._path = parts.path.rstrip("/")
        self._tls = ssl.create_default_context() if parts.scheme == "https" else None
        self._name = f"{parts.scheme}://{self._host}{self._path}"
        login = f"{unquote(parts.username)}:{unquote(parts.password or '')}" if parts.username else ""
        self._headers = _credentials(login, settings)

    def __str__(self) -> str:
        return self._name

    def where(self, job_id: str) -> str:
        """How to look after a job without this program."""
        return f"The job {job_id} goes on there: see it on that studio's page, or at {self}/api/jobs/{job_id}"

    def ask(self, method: str, path: str, body: Mapping[str, Any] | None = None) -> Any:
        """The answer to a request, both JSON."""
        content = None if body is None else json.dumps(body).encode("ascii")
        headers = {} if content is None else {"Content-Type": "application/json"}
        with self._answer(method, path, content, headers) as reply:
            return _understood(reply.read(MOST_ANSWER))

    def upload(self, artifact: Artifact) -> str:
        """The id that the file has there."""
        boundary = secrets.token_hex(16)
        # As browsers write it: quotes and line ends as %XX, everything else as it is.
        name = "".join(f"%{ord(letter):02X}" if letter in '"\r\n' else letter for letter in artifact.name)
        head = f'--{boundary}\r\nContent-Disposition: form-data; name="file"; filename="{name}"\r\n\r\n'
        head, tail = head.encode("utf-8", "replace"), f"\r\n--{boundary}--\r\n".encode()
        headers = {
            "Content-Type": f"multipart/form-data; boundary={boundary}",
            "Content-Length": str(len(head) + artifact.size + len(tail)),
        }
        with open(artifact.path, "rb") as file:
            body = _pieces(head, file, tail)
            with self._answer("POST", "/api/artifacts", body, headers) as reply:
                return _text(_understood(reply.read()), "id")

    def download(self, artifact_id: str, size: int) -> Iterator[bytes]:
        """The pieces of a file."""
        with self._answer("GET", f"/api/artifacts/{artifact_id}") as reply:
            while piece := reply.read(PIECE):
                size -= len(piece)
                yield piece
        if size:
            raise ServerUnreachable(f"{self} broke off in the middle of the file.")

    def events(self, job_id: str) -> Iterator[tuple[str, dict[str, Any]]]:
        """A job's events as they come, to the end of the stream: their names and facts."""
        with self._answer("GET", f"/api/jobs/{job_id}/events") as reply:
            name = ""
            while line := reply.readline():
                field, _, value = line.decode("utf-8", "replace").strip().partition(": ")
                if field == "event":
                    name = value
                elif field == "data":
                    yield name, _understood(value)

    @contextmanager
    def _answer(
        self, method: str, path: str, body: bytes | Iterator[bytes] | None = None, headers: Mapping[str, str] | None = None
    ) -> Iterator[http.client.HTTPResponse]:
        """The server's answer, to be read inside of the block: only what is read from it may fail there."""
        connection = self._connection()
        try:
            with suppress(BrokenPipeError, ConnectionResetError):  # a refusal that did not wait for all of the body
                connection.request(method, self._path + path, body, {**self._headers, **(headers or {})})
            reply = connection.getresponse()
            if not 200 <= reply.status < 300:
                raise self._refusal(reply)
            yield reply
        except ssl.SSLCertVerificationError as error:
            raise InvalidRequest(f"The certificate of {self} cannot be trusted: {error.verify_message}.") from error
        except (OSError, http.client.HTTPException) as error:
            reason = getattr(error, "strerror", None) or error
            raise ServerUnreachable(f"{self} cannot be reached ({reason}). Check the address, and that it runs.") from error
        finally:
            connection.close()

    def _connection(self) -> http.client.HTTPConnection:
        if self._tls is None:
            return http.client.HTTPConnection(self._host, timeout=SILENCE)
        return http.client.HTTPSConnection(self._host, timeout=SILENCE, context=self._tls)

    def _refusal(self, reply: http.client.HTTPResponse) -> GalateaError:
        """What the server said as the error that it names, or as one that leads to the same exit code."""
        if reply.status in (502, 503, 504):
            return ServerUnreachable(f"The studio behind {self} does not answer.")
        if 300 <= reply.status < 400:
            goal = str(reply.headers.get("Location", "another address")).split("/api/")[0]
            return InvalidRequest(f"{self} leads on to {goal}: give that address with --server.")
        try:
            told = json.loads(reply.read(MOST_ANSWER))
            sentence, kind = str(told["error"]), getattr(errors, str(told["type"]), None)
        except (ValueError, KeyError, TypeError):
            return InvalidRequest(f"{self} is no studio, or an older one: it answers {reply.status}. Check the address.")
        if isinstance(kind, type) and issubclass(kind, GalateaError):
            return kind(sentence)
        return InvalidRequest(sentence) if reply.status < 500 else GalateaError(sentence)


def _credentials(login: str, settings: Settings) -> dict[str, str]:
    """The header that says who asks: the name and password in the address, else the token, else the first --gradio-auth."""
    if not login and settings.api_token:
        return {"Authorization": f"Bearer {settings.api_token}"}
    if not login and settings.gradio_auth:
        login = ":".join(settings.gradio_auth[0])
    return {"Authorization": f"Basic {base64.b64encode(login.encode()).decode()}"} if login else {}


def _changed(job: Job, facts: Mapping[str, Any]) -> Job:
    """The job after what the server tells of it: all of it, or only what moves on."""
    try:
        changes = {name: read(facts[name]) for name, read in _FACTS.items() if name in facts}
    except (TypeError, ValueError, AttributeError) as error:
        raise _not_understood() from error
    return replace(job, version=job.version + 1, **changes)


def _read_result(told: dict[str, Any] | None) -> JobResult | None:
    """Its facts. The files are still on the server."""
    return None if told is None else JobResult((), {name: value for name, value in told.items() if name != "artifacts"})


def _as_it_is(told: Any) -> Any:
    return told


_FACTS: dict[str, Callable[[Any], Any]] = {
    **dict.fromkeys(("eta", "error", "started", "finished"), _as_it_is),
    **dict.fromkeys(("warnings", "log"), tuple),
    **dict.fromkeys(("seed", "priority"), int),
    **dict.fromkeys(("fraction", "created"), float),
    **dict.fromkeys(("stage", "error_type"), str),
    "state": JobState,
    "result": _read_result,
}


def _understood(answer: bytes | str) -> Any:
    try:
        return json.loads(answer)
    except ValueError as error:
        raise _not_understood() from error


def _text(facts: Any, name: str) -> str:
    if not isinstance(facts, dict) or not isinstance(facts.get(name), str):
        raise _not_understood()
    return facts[name]


def _size(facts: Mapping[str, Any]) -> int:
    if not isinstance(facts.get("size"), int):
        raise _not_understood()
    return facts["size"]


def _not_understood() -> GalateaError:
    return InvalidRequest("The server answers something else than a studio of this version would. Check the address.")


def _pieces(head: bytes, file: IO[bytes], tail: bytes) -> Iterator[bytes]:
    yield head
    while piece := file.read(PIECE):
        yield piece
    yield tail


def _write(path: Path, pieces: Iterable[bytes]) -> None:
    with open(path, "wb") as file:
        for piece in pieces:
            file.write(piece)
