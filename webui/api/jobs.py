"""The routes under /api: kinds, jobs and files. Asks the job service and the artifacts for everything."""

from __future__ import annotations

import asyncio
import base64
import json
import logging
import os
import re
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

from fastapi import FastAPI, Query, Request
from fastapi.exceptions import RequestValidationError
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.responses import FileResponse, Response, StreamingResponse
from starlette.routing import Match

from webui.api import docs, sdapi
from webui.api.answers import (
    HEADERS,
    Answer,
    ApiError,
    ArtifactView,
    ErrorView,
    JobsView,
    JobView,
    KindView,
    UsageView,
    Views,
)
from webui.api.bodies import json_object, uploaded
from webui.api.fetch import Fetcher
from webui.api.submitting import submitted
from webui.errors import GalateaError, InvalidRequest, StorageError
from webui.jobs.service import PRIORITIES
from webui.jobs.types import Job, JobState
from webui.jobs.types import Query as JobQuery

if TYPE_CHECKING:
    from webui.artifacts import Artifact, Artifacts
    from webui.jobs.service import JobService
    from webui.settings import Settings

log = logging.getLogger(__name__)

WATCH_PAUSE = 0.1
"""Seconds between two looks at a running job for its watchers."""

QUEUED_PAUSE = 0.3
HEARTBEAT = 15.0
"""Seconds after which a silent stream says that it is alive, so that proxies keep it open."""

SHOWN_IN_PLACE = ("image/png", "image/jpeg", "image/gif", "image/webp", "image/avif", "image/bmp", "audio/", "video/")
"""What a browser may show. All else is downloaded: HTML or SVG would run its scripts with the page's rights."""

Found = TypeVar("Found")
JobId = str
ID = re.compile(r"[0-9A-Za-z_-]{1,64}")
PLAIN = r"^[^\x00-\x1f]*$"
"""Text without control characters: some databases cannot even compare with them."""

ERRORS: dict[int | str, dict[str, Any]] = {
    "4XX": {"model": ErrorView, "description": "Refused, with the reason."},
}
INTERNAL = "Something went wrong inside the studio; the log has the details. Please report it if it happens again."


def http_api(service: JobService, artifacts: Artifacts, settings: Settings) -> FastAPI:
    """The API as an app of its own, to be called behind a Guard."""
    app = FastAPI(title="Galatea", openapi_url=None, docs_url=None, redoc_url=None)
    Routes(service, artifacts, settings).add_to(app)
    docs.add_to(app, service.kinds())
    app.mount(sdapi.PREFIX, sdapi.sd_api(service, artifacts, settings))
    app.add_exception_handler(ApiError, _refused)
    app.add_exception_handler(GalateaError, _not_possible)
    app.add_exception_handler(RequestValidationError, _not_valid)
    app.add_exception_handler(HTTPException, _no_route)
    app.add_exception_handler(ClientDisconnect, _gone)
    app.add_exception_handler(Exception, _unexpected)
    return app


class Routes:
    """The handlers. Whatever waits for a disk runs in a thread; a watcher holds none."""

    def __init__(self, service: JobService, artifacts: Artifacts, settings: Settings):
        self._service = service
        self._artifacts = artifacts
        self._max_upload = settings.max_upload_mb << 20
        self._fetcher = Fetcher(self._max_upload) if settings.fetch_urls else None
        self._views = Views(settings)

    def add_to(self, app: FastAPI) -> None:
        add = app.add_api_route
        common: dict[str, Any] = {"responses": ERRORS}
        add("/api/kinds", self.kinds, response_model=list[KindView], **common)
        add("/api/jobs", self.jobs, response_model=JobsView, **common)
        body = {"requestBody": docs.job_body(self._service.kinds())}
        add("/api/jobs", self.submit, methods=["POST"], status_code=201, response_model=JobView, openapi_extra=body, **common)
        add("/api/jobs/{job_id}", self.job, response_model=JobView, **common)
        add("/api/jobs/{job_id}", self.delete, methods=["DELETE"], status_code=204, response_class=Response, **common)
        add("/api/jobs/{job_id}/cancel", self.cancel, methods=["POST"], response_model=JobView, **common)
        add("/api/jobs/{job_id}/skip", self.skip, methods=["POST"], response_model=JobView, **common)
        body = {"requestBody": docs.PRIORITY_BODY}
        options = {"methods": ["POST"], "response_model": JobView, "openapi_extra": body}
        add("/api/jobs/{job_id}/priority", self.prioritise, **options, **common)
        add("/api/jobs/{job_id}/restore", self.restore, methods=["POST"], response_model=JobView, **common)
        picture = {200: {"content": {"image/jpeg": {}}, "description": "A small JPEG."}}
        add("/api/jobs/{job_id}/thumbnail", self.thumbnail, response_class=Response, responses={**ERRORS, **picture})
        stream = {200: {"content": {"text/event-stream": {}}, "description": "A stream that ends with the job."}}
        add("/api/jobs/{job_id}/events", self.events, response_class=Response, responses={**ERRORS, **stream})
        body = {"requestBody": docs.UPLOAD_BODY}
        options = {"methods": ["POST"], "status_code": 201, "response_model": ArtifactView, "openapi_extra": body}
        add("/api/artifacts", self.upload, **options, **common)
        content = {200: {"content": {"*/*": {}}, "description": "The file."}, 206: {"description": "A range of it."}}
        about: dict[str, Any] = {"response_class": Response, "responses": {**ERRORS, **content}}
        add("/api/artifacts/{artifact_id}", self.artifact, **about)
        add("/api/artifacts/{artifact_id}", self.artifact, methods=["HEAD"], include_in_schema=False, **about)
        add("/api/usage", self.usage, response_model=UsageView, **common)

    async def kinds(self) -> Answer:
        """Every kind of job, with the JSON schema of its request."""
        return Answer([self._views.kind(kind) for kind in self._service.kinds().values()])

    async def submit(self, request: Request) -> Answer:
        """Queue a job and answer at once with its id."""
        body = await json_object(request)
        kind, asked = body.get("kind"), body.get("request")
        if not isinstance(kind, str) or not isinstance(asked, dict) or not set(body) <= {"kind", "request", "priority"}:
            message = "Send 'kind' (a name), 'request' (an object) and perhaps 'priority', and nothing else."
            raise ApiError(422, message, "InvalidRequest")
        job = await run_in_threadpool(submitted, self._service, kind, asked, checked_priority(body.get("priority", 0)))
        return Answer(self._views.job(job), 201, {"Location": f"/api/jobs/{job.id}"})

    async def jobs(
        self,
        limit: Annotated[int, Query(ge=1, le=500)] = 50,
        offset: Annotated[int, Query(ge=0, le=1_000_000)] = 0,
        state: JobState | None = None,
        kind: Annotated[str | None, Query(max_length=64, pattern=PLAIN)] = None,
        search: Annotated[str, Query(max_length=200, pattern=PLAIN)] = "",
    ) -> Answer:
        """All jobs that were not deleted, newest first. search: words that must all occur somewhere in a job."""
        query = JobQuery(search=search, kind=kind, state=state, limit=limit, offset=offset)
        found, total = await run_in_threadpool(self._service.history, query)
        return Answer({"jobs": [self._views.job(job) for job in found], "total": total})

    async def job(self, job_id: JobId) -> Answer:
        """One job as it is now."""
        return Answer(self._views.job(await self._job(job_id)))

    async def events(self, job_id: JobId, preview: bool = False) -> StreamingResponse:
        """Server-sent events: `progress` at every change, then `finished` with the whole job, or `deleted`.

        A progress event has the job's `log` when it has grown, and with preview=1 the newest picture, a JPEG as base64,
        in `preview`.
        """
        await self._job(job_id)
        headers = {**HEADERS, "X-Accel-Buffering": "no"}
        return StreamingResponse(self._events(job_id, preview), media_type="text/event-stream", headers=headers)

    async def cancel(self, job_id: JobId) -> Answer:
        """Ask a job to stop; what it has made so far is kept. A finished job stays as it is."""
        await self._job(job_id)
        return Answer(self._views.job(await run_in_threadpool(self._service.cancel, job_id)))

    async def skip(self, job_id: JobId) -> Answer:
        """Ask a running job to leave out what it makes now and go on with the next. A finished job stays as it is."""
        await self._job(job_id)
        try:
            return Answer(self._views.job(await run_in_threadpool(self._service.skip, job_id)))
        except InvalidRequest as error:
            raise ApiError(409, str(error), "Conflict") from error

    async def prioritise(self, job_id: JobId, request: Request) -> Answer:
        """Put a queued job before or behind others: higher goes first, among equals the older."""
        body = await json_object(request)
        if set(body) != {"priority"}:
            raise ApiError(422, "Send 'priority' (a whole number), and nothing else.", "InvalidRequest")
        priority = checked_priority(body["priority"])
        await self._job(job_id)
        try:
            return Answer(self._views.job(await run_in_threadpool(self._service.prioritise, job_id, priority)))
        except InvalidRequest as error:
            raise ApiError(409, "This job has begun already. Only a queued one can change its place.", "Conflict") from error

    async def restore(self, job_id: JobId) -> Answer:
        """Bring a deleted job back, with its files. Possible for a day. One that is not deleted stays as it is."""
        return Answer(self._views.job(await self._found(self._restore, job_id)))

    async def thumbnail(self, job_id: JobId) -> Response:
        """A small picture of what the job made."""
        path = await self._found(self._service.thumbnail, job_id)
        if path is None:
            raise ApiError(404, "There is no picture of this job.")
        return FileResponse(path, media_type="image/jpeg", headers={**HEADERS, "Cache-Control": "private, no-cache"})

    async def usage(self) -> Answer:
        """Bytes on the disk."""
        return Answer(asdict(await run_in_threadpool(self._service.usage)))

    async def delete(self, job_id: JobId) -> Response:
        """Delete a finished job and the files that it made. Its uploads stay. For a day it can be restored."""
        if not (await self._job(job_id)).state.finished:
            raise ApiError(409, "This job has not finished. Cancel it first.", "Conflict")
        try:
            await run_in_threadpool(self._service.delete, job_id)
        except InvalidRequest as error:
            raise ApiError(409, str(error), "Conflict") from error
        return Response(status_code=204, headers=HEADERS)

    async def upload(self, request: Request) -> Answer:
        """Upload a file and get its id. The same file under the same name has the same id.

        By `url` only where the studio's owner allows it, and only from the public internet.
        """
        async with uploaded(request, self._max_upload, self._fetcher) as (file, name):
            if not await run_in_threadpool(file.read, 1):
                raise ApiError(422, "The file is empty.", "InvalidRequest")
            await run_in_threadpool(file.seek, 0)
            artifact = await run_in_threadpool(self._artifacts.store, file, name)
        return Answer(self._views.artifact(artifact), 201, {"Location": f"/api/artifacts/{artifact.id}"})

    async def artifact(self, artifact_id: str) -> Response:
        """A file: one that was uploaded, or one that a job made. Ranges are served."""
        found, status = await run_in_threadpool(self._file, artifact_id)
        return ArtifactResponse(found, status)

    def _restore(self, job_id: JobId) -> Job:
        try:
            return self._service.get(job_id)
        except InvalidRequest:
            return self._service.restore(job_id)

    async def _events(self, job_id: JobId, with_preview: bool) -> AsyncIterator[str]:
        version, shown, told, spoke = -1, None, (), time.monotonic()
        while not self._service.closed:
            try:
                job = await run_in_threadpool(self._service.get, job_id)
            except InvalidRequest:
                yield _event("deleted", {"id": job_id})
                return
            if job.version > version:
                version, spoke = job.version, time.monotonic()
                if job.state.finished:
                    yield _event("finished", self._views.job(job))
                    return
                facts = self._views.progress(job)
                if job.log != told:
                    told = job.log
                    facts["log"] = self._views.log(job)
                if with_preview and job.preview is not None and job.preview is not shown:
                    shown = job.preview
                    facts["preview"] = base64.b64encode(shown).decode()
                yield _event("progress", facts)
            elif time.monotonic() - spoke > HEARTBEAT:
                spoke = time.monotonic()
                yield ": still here\n\n"
            await asyncio.sleep(QUEUED_PAUSE if job.state is JobState.QUEUED else WATCH_PAUSE)

    async def _job(self, job_id: JobId) -> Job:
        return await self._found(self._service.get, job_id)

    async def _found(self, ask: Callable[[str], Found], job_id: JobId) -> Found:
        """What the service says about a job. It may look into its database, so it is asked in a thread."""
        if ID.fullmatch(job_id):
            try:
                return await run_in_threadpool(ask, job_id)
            except InvalidRequest as error:
                log.debug("%s", error)
        raise ApiError(404, "There is no such job. GET /api/jobs lists those that there are.")

    def _file(self, artifact_id: str) -> tuple[Artifact, os.stat_result]:
        try:
            found = self._artifacts.get(artifact_id)
            return found, os.stat(found.path)
        except (InvalidRequest, FileNotFoundError) as error:
            raise ApiError(404, "There is no such file. Upload it again, or run the job again.") from error


def checked_priority(given: Any) -> int:
    """A priority as it was sent. Raises ApiError when it is none."""
    # To JSON 5.0 is a whole number, too.
    if isinstance(given, bool) or not isinstance(given, (int, float)) or given not in PRIORITIES:
        raise ApiError(422, f"'priority' must be a whole number from {PRIORITIES[0]} to {PRIORITIES[-1]}.", "InvalidRequest")
    return int(given)


class ArtifactResponse(FileResponse):
    """A file under its own name; shown in place only when it is a picture, sound or film."""

    def __init__(self, artifact: Artifact, status: os.stat_result):
        in_place = artifact.media_type.startswith(SHOWN_IN_PLACE)
        headers = {**HEADERS, "Cache-Control": "private, no-cache"}
        super().__init__(
            artifact.path,
            headers=headers if in_place else {**headers, "Content-Security-Policy": "sandbox"},
            media_type=artifact.media_type,
            filename=artifact.name,
            stat_result=status,
            content_disposition_type="inline" if in_place else "attachment",
        )


def _event(name: str, facts: dict[str, Any]) -> str:
    return f"event: {name}\ndata: {json.dumps(facts)}\n\n"


async def _refused(_request: Request, error: Any) -> Answer:
    return error.answer()


async def _not_possible(_request: Request, error: Any) -> Answer:
    if isinstance(error, InvalidRequest):
        status = 422
    else:
        log.warning("%s", error)
        status = 507 if isinstance(error, StorageError) else 500
    # Storage errors name folders of this machine; the log has the sentence, a stranger needs only its gist.
    message = "The disk is full or cannot be written; the log says which." if status == 507 else str(error)
    return ApiError(status, message, type(error).__name__).answer()


async def _not_valid(_request: Request, error: Any) -> Answer:
    sentences = [f"'{problem['loc'][-1]}': {problem['msg']}." for problem in error.errors()]
    return ApiError(422, " ".join(sentences), "InvalidRequest").answer()


async def _no_route(request: Request, error: Any) -> Answer:
    headers = error.headers
    if error.status_code == 405:
        headers = {"Allow": ", ".join(sorted(_methods(request)))}
    messages = {404: "There is nothing here. /docs lists what there is.", 405: "This cannot be done here. See /docs."}
    return ApiError(error.status_code, messages.get(error.status_code, str(error.detail)), headers=headers).answer()


def _methods(request: Request) -> set[str]:
    """By which methods this path can be asked for; the library names those of the first route alone."""
    fitting = [route for route in request.app.routes if route.matches(request.scope)[0] is not Match.NONE]
    return {method for route in fitting for method in getattr(route, "methods", None) or ()}


async def _gone(_request: Request, _error: Any) -> Answer:
    return ApiError(400, "The connection ended before the body did.").answer()


async def _unexpected(_request: Request, _error: Any) -> Answer:
    return ApiError(500, INTERNAL, "InternalError").answer()
