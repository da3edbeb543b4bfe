"""AUTOMATIC1111's HTTP API under /sdapi/v1, as far as it is served: extras, and what upscalers and face restorers there are.

A request becomes jobs like any others, which the history has; the answer waits for them. Fields, names, answers and errors are
A1111's (modules/api/api.py and models.py of 1.10). Keys that are not known are passed over, as there.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import io
import logging
import time
from collections.abc import Mapping
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import anyio
from fastapi import FastAPI, HTTPException, Request
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import MutableHeaders
from starlette.requests import ClientDisconnect

from webui.api.answers import Answer, ApiError, Views
from webui.api.bodies import FETCHES, json_object
from webui.api.fetch import Fetcher
from webui.api.submitting import submitted
from webui.errors import GalateaError, InvalidRequest
from webui.imaging.resize import PIXEL_UPSCALERS
from webui.jobs.types import JobState
from webui.weights import detect
from webui.weights.catalog import Entry, shared

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

    from webui.artifacts import Artifacts
    from webui.jobs.service import JobService
    from webui.jobs.types import Job
    from webui.settings import Settings

log = logging.getLogger(__name__)

PREFIX = "/sdapi/v1"
KIND = "extras"
NONE = "None"

MAX_BODY = 64 << 20
"""Bytes of a request: pictures come as base64, and are held in memory until they are files."""

READING = anyio.CapacityLimiter(2)
"""So many of them at a time; more of them wait."""

PAUSE = 0.1
"""Seconds between two looks at a job."""

UNKNOWN_SCALE = 4
"""What A1111 says of every upscaler."""

Body = TypeVar("Body", bound=BaseModel)


class ExtrasBody(BaseModel):
    """A1111's ExtrasBaseRequest. show_extras_results and upscale_first change nothing there either: pictures are always sent, and
    enlarged before faces are restored."""

    model_config = ConfigDict(extra="ignore")

    resize_mode: Literal[0, 1] = 0
    show_extras_results: bool = True
    gfpgan_visibility: float = Field(0, ge=0, le=1, allow_inf_nan=False)
    codeformer_visibility: float = Field(0, ge=0, le=1, allow_inf_nan=False)
    codeformer_weight: float = Field(0, ge=0, le=1, allow_inf_nan=False)
    upscaling_resize: float = Field(2, ge=1, le=8)
    upscaling_resize_w: int = Field(512, ge=1)
    upscaling_resize_h: int = Field(512, ge=1)
    upscaling_crop: bool = True
    upscaler_1: str = NONE
    upscaler_2: str = NONE
    extras_upscaler_2_visibility: float = Field(0, ge=0, le=1, allow_inf_nan=False)
    upscale_first: bool = False

    def steps(self) -> list[dict[str, Any]]:
        """The fields of the jobs to do one after the other, but for the picture: one can restore faces by one restorer."""
        steps: list[dict[str, Any]] = []
        if self.upscaler_1 != NONE:
            sized: dict[str, Any] = {"scale": self.upscaling_resize}
            if self.resize_mode == 1:
                sized = {"size": f"{self.upscaling_resize_w}x{self.upscaling_resize_h}", "crop": self.upscaling_crop}
            steps.append({"upscaler": self.upscaler_1, **sized})
            if self.upscaler_2 != NONE and self.extras_upscaler_2_visibility > 0:
                steps[0] |= {"upscaler_2": self.upscaler_2, "upscaler_2_visibility": self.extras_upscaler_2_visibility}
        for name, visibility in (("GFPGAN", self.gfpgan_visibility), ("CodeFormer", self.codeformer_visibility)):
            if visibility > 0:
                restoring = {"restore": name, "restore_strength": visibility, "fidelity": self.codeformer_weight}
                if steps and "restore" not in steps[-1]:
                    steps[-1] |= restoring
                else:
                    steps.append(restoring)
        return steps


class SingleImage(ExtrasBody):
    image: str = ""


class FileData(BaseModel):
    data: str
    name: str


class BatchImages(ExtrasBody):
    imageList: list[FileData]


class Failed(Exception):
    """What A1111 answers for an error of its own. kind: the error's class."""

    def __init__(self, status: int, kind: str, message: str):
        super().__init__(message)
        self.status, self.kind, self.message = status, kind, message

    def answer(self) -> Answer:
        told = {"error": self.kind, "detail": self.message, "body": "", "errors": self.message}
        return Answer(told, self.status)


class Invalid(Failed):
    """A field that breaks its bounds."""

    def __init__(self, problems: list[dict[str, Any]]):
        super().__init__(422, "Invalid", "")
        self.problems = problems

    def answer(self) -> Answer:
        return Answer({"detail": self.problems}, self.status)


def sd_api(service: JobService, artifacts: Artifacts, settings: Settings) -> ASGIApp:
    """An app to be mounted at PREFIX, behind a Guard."""
    app = FastAPI(openapi_url=None, docs_url=None, redoc_url=None)
    routes = Routes(service, artifacts, settings)
    app.add_api_route("/extra-single-image", routes.single_image, methods=["POST"])
    app.add_api_route("/extra-batch-images", routes.batch_images, methods=["POST"])
    app.add_api_route("/upscalers", routes.upscalers)
    app.add_api_route("/face-restorers", routes.face_restorers)
    for kind, handler in (
        (Failed, _failed), (ApiError, _refused), (HTTPException, _http), (GalateaError, _not_possible), (ClientDisconnect, _gone),
        (Exception, _unexpected),
    ):  # fmt: skip
        app.add_exception_handler(kind, handler)
    return Timed(app)


class Timed:
    """Says in every answer how long it took, as A1111 does."""

    def __init__(self, app: ASGIApp):
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        begun = time.perf_counter()

        async def timed(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message)["X-Process-Time"] = f"{time.perf_counter() - begun:.4f}"
            await send(message)

        await self._app(scope, receive, timed)


class Routes:
    """The handlers."""

    def __init__(self, service: JobService, artifacts: Artifacts, settings: Settings):
        self._service, self._artifacts, self._settings = service, artifacts, settings
        self._limit = min(MAX_BODY, (settings.max_upload_mb << 20) * 4 // 3 + (64 << 10))
        self._fetcher = Fetcher(settings.max_upload_mb << 20) if settings.fetch_urls else None
        self._views = Views(settings)

    async def single_image(self, request: Request) -> Answer:
        async with READING:
            body = await self._body(request, SingleImage)
        given = await self._stored(body.image, "image.png")
        picture, info = await self._made(request, given, body)
        return Answer({"html_info": _html(info), "image": picture})

    async def batch_images(self, request: Request) -> Answer:
        async with READING:
            body = await self._body(request, BatchImages)
        given = [await self._stored(one.data, one.name) for one in body.imageList]
        made = [await self._made(request, one, body) for one in given]
        return Answer({"html_info": _html(made[-1][1] if made else ""), "images": [picture for picture, _ in made]})

    async def upscalers(self) -> Answer:
        """None first, then those that need no file, then the files."""
        entries = await run_in_threadpool(self._sound, "upscaler")
        without = [_upscaler(name, None, None, UNKNOWN_SCALE) for name in PIXEL_UPSCALERS]
        files = [_upscaler(one.stem, one.stem, self._place(one.path), one.found.scale or UNKNOWN_SCALE) for one in entries]
        return Answer(without + sorted(files, key=lambda one: one["name"].lower()))

    async def face_restorers(self) -> Answer:
        """Those that a file is there for."""
        entries = await run_in_threadpool(self._sound, "restorer")
        makes = {detect.NAMES[one.found.architecture]: self._place(one.path.parent) for one in reversed(entries)}
        return Answer([{"name": name, "cmd_dir": folder} for name, folder in sorted(makes.items())])

    async def _body(self, request: Request, model: type[Body]) -> Body:
        """Raises Failed, with the words of FastAPI's own 422."""
        body = await json_object(request, self._limit)
        try:
            return model.model_validate(body)
        except ValidationError as error:
            problems = error.errors(include_url=False, include_context=False, include_input=False)
            raise Invalid([{**one, "loc": ["body", *one["loc"]]} for one in problems]) from error

    async def _stored(self, encoded: str, name: str) -> str:
        """The id of a picture that came as base64, perhaps with `data:` in front, or as a URL."""
        if encoded.startswith(("http://", "https://")):
            if self._fetcher is None:
                raise HTTPException(500, "Requests not allowed")
            file, name = await anyio.to_thread.run_sync(self._fetcher.fetch, encoded, limiter=FETCHES)
        else:
            async with READING:
                file = io.BytesIO(await run_in_threadpool(_decoded, encoded))
        with file:
            return (await run_in_threadpool(self._artifacts.store, file, name)).id

    async def _made(self, request: Request, given: str, body: ExtrasBody) -> tuple[str, str]:
        """A picture as base64, and what was done to it in words."""
        made, told = given, []
        for step in body.steps():
            job = await self._done(request, {**step, "image": made})
            assert job.result is not None
            made = job.result.artifacts[0].id
            told.append(str(job.result.data["postprocessing"]))
        return await run_in_threadpool(self._read, made), ", ".join(told)

    async def _done(self, request: Request, fields: Mapping[str, Any]) -> Job:
        """The finished job. It is cancelled when nobody waits for it any more. Raises Failed when it made nothing."""
        job = await run_in_threadpool(submitted, self._service, KIND, fields)
        while not job.state.finished:
            if self._service.closed:
                raise Failed(503, "Closed", "The studio is being stopped. Its history has the picture after the next start.")
            if await request.is_disconnected():
                await run_in_threadpool(self._service.cancel, job.id)
            await asyncio.sleep(PAUSE)
            job = await run_in_threadpool(self._service.get, job.id)
        if job.result is None:
            if job.error_type == "MediaError":
                raise HTTPException(500, "Invalid encoded image")
            kind = job.error_type or ("Cancelled" if job.state is JobState.CANCELLED else "InternalError")
            raise Failed(500, kind, self._views.words(job.error or ""))
        return job

    def _read(self, artifact_id: str) -> str:
        return base64.b64encode(self._artifacts.get(artifact_id).path.read_bytes()).decode()

    def _sound(self, kind: str) -> list[Entry]:
        """Files that can be used."""
        if self._settings.lite:
            return []
        known = shared(self._settings.models_dir, self._settings.allow_pickles)
        return [one for one in (known.upscalers() if kind == "upscaler" else known.restorers()) if not one.problem]

    def _place(self, path: Path) -> str:
        """Below the models folder, whose own place stays private."""
        return f"models/{path.relative_to(self._settings.models_dir).as_posix()}"


def _upscaler(name: str, model: str | None, path: str | None, scale: int) -> dict[str, Any]:
    return {"name": name, "model_name": model, "model_path": path, "model_url": None, "scale": scale}


def _decoded(encoded: str) -> bytes:
    """A1111 takes whatever is behind the comma of a data URI."""
    if encoded.startswith("data:"):
        encoded = encoded.partition(",")[2]
    try:
        content = base64.b64decode(encoded, validate=True)
    except (binascii.Error, ValueError):
        content = b""
    if not content:
        raise HTTPException(500, "Invalid encoded image")
    return content


def _html(text: str) -> str:
    """A1111's plaintext_to_html."""
    return "<p>" + "<br>\n".join(map(escape, text.split("\n"))) + "</p>"


async def _failed(_request: Request, error: Any) -> Answer:
    return error.answer()


async def _refused(_request: Request, error: Any) -> Answer:
    return Failed(error.status, error.kind, error.message).answer()


async def _http(_request: Request, error: Any) -> Answer:
    told = {"error": "HTTPException", "detail": error.detail, "body": "", "errors": f"{error.status_code}: {error.detail}"}
    return Answer(told, error.status_code)


async def _not_possible(_request: Request, error: Any) -> Answer:
    if isinstance(error, InvalidRequest):
        return Failed(422, type(error).__name__, str(error)).answer()
    log.warning("%s", error)  # it may name folders of this machine
    return Failed(500, type(error).__name__, "The studio's log has the reason.").answer()


async def _gone(_request: Request, _error: Any) -> Answer:
    return Failed(400, "ClientDisconnect", "The connection ended before the body did.").answer()


async def _unexpected(_request: Request, _error: Any) -> Answer:
    return Failed(500, "InternalError", "Something went wrong inside the studio; the log has the details.").answer()
