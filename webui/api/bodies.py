"""Request bodies, read piece by piece and dropped as soon as they are too large."""

from __future__ import annotations

import base64
import binascii
import io
import json
import math
import tempfile
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import anyio
import anyio.to_thread
from starlette.datastructures import UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import Request

from webui.api.answers import ApiError
from webui.artifacts import full_disk_errors

if TYPE_CHECKING:
    from webui.api.fetch import Fetcher

MAX_JSON = 1 << 20
"""Bytes of a posted job."""

MAX_BASE64 = 16 << 20
"""Bytes of an upload inside JSON: it is held in memory. Larger files go as a form."""

HELD = anyio.CapacityLimiter(8)
"""So many bodies are held in memory at a time; more of them wait."""

BODY_SECONDS = 120.0
"""A body that is held in memory has to come within so many seconds."""

FORM_EXTRA = 64 << 10
"""Bytes that a form may have around its file."""

FETCHES = anyio.CapacityLimiter(4)
"""Downloads at a time, in threads beside those that answer requests; more of them wait."""


async def json_object(request: Request, limit: int = MAX_JSON) -> dict[str, Any]:
    """The body as a JSON object. Raises ApiError: 415 for another content type, 413 when too large, 408 when too slow, 400 when
    broken.
    """
    if _media_type(request) != "application/json":
        raise ApiError(415, "Send JSON, with the header Content-Type: application/json.")
    async with HELD:
        try:
            with anyio.fail_after(BODY_SECONDS):
                body = b"".join([piece async for piece in limited(request, limit)])
        except TimeoutError as error:
            raise ApiError(408, "The body did not come in time. Send large files as a form.", "TooSlow") from error
        return await anyio.to_thread.run_sync(_parsed, body)


def _parsed(body: bytes) -> dict[str, Any]:
    try:
        value = json.loads(body, parse_constant=_refuse_constant, parse_float=_finite)
    except (ValueError, RecursionError) as error:
        raise ApiError(400, "The body is not valid JSON. Check quotes, commas and brackets.", "InvalidJson") from error
    if not isinstance(value, dict):
        raise ApiError(400, "The body must be a JSON object: {...}.", "InvalidJson")
    return value


@asynccontextmanager
async def uploaded(request: Request, max_bytes: int, fetcher: Fetcher | None) -> AsyncIterator[tuple[IO[bytes], str]]:
    """The file in the body and its name: the field `file` of a form, or JSON with `name` and `base64`, or with `url`.

    fetcher: None where nothing is fetched by URL.
    """
    if _media_type(request) == "application/json":
        body = await json_object(request, min(MAX_BASE64, max_bytes * 4 // 3 + FORM_EXTRA))
        if "url" in body:
            file, name = await _from_url(body, fetcher)
        else:
            file, name = await anyio.to_thread.run_sync(_from_base64, body, max_bytes)
        with file:
            yield file, name
    elif _media_type(request) == "multipart/form-data":
        async with _form_file(request, max_bytes) as file:
            yield file.file, file.filename or ""
    else:
        raise ApiError(415, "Send a form with the field 'file', or JSON with 'name' and 'base64', or with 'url'.")


async def limited(request: Request, limit: int) -> AsyncGenerator[bytes, None]:
    """The body's pieces. Raises ApiError 413 once they are more than `limit` bytes, whatever Content-Length said."""
    announced = request.headers.get("content-length", "")
    total = int(announced) if announced.isascii() and announced.isdigit() and len(announced) < 20 else 0
    if total > limit:
        raise _too_large(limit)
    total = 0
    async for piece in request.stream():
        total += len(piece)
        if total > limit:
            raise _too_large(limit)
        yield piece


@asynccontextmanager
async def _form_file(request: Request, max_bytes: int) -> AsyncIterator[UploadFile]:
    parser = MultiPartParser(request.headers, limited(request, max_bytes + FORM_EXTRA), max_files=1, max_fields=16)
    try:
        # A large file waits in the system's temporary folder until all of it has come.
        with full_disk_errors(Path(tempfile.gettempdir())):
            form = await parser.parse()
    except MultiPartException as error:
        raise ApiError(400, f"The form cannot be read: {error.message}", "InvalidForm") from error
    try:
        file = form.get("file")
        if not isinstance(file, UploadFile):
            raise ApiError(422, "The form has no file in its field 'file'.", "InvalidRequest")
        if (file.size or 0) > max_bytes:
            raise _too_large(max_bytes)
        yield file
    finally:
        await form.close()


async def _from_url(body: dict[str, Any], fetcher: Fetcher | None) -> tuple[IO[bytes], str]:
    if not isinstance(body["url"], str) or set(body) != {"url"}:
        raise ApiError(422, "Send 'url' as text, and nothing else.", "InvalidRequest")
    if fetcher is None:
        raise ApiError(403, "This studio fetches nothing by URL: its owner has not set fetch_urls. Upload the file itself.")
    return await anyio.to_thread.run_sync(fetcher.fetch, body["url"], limiter=FETCHES)


def _from_base64(body: dict[str, Any], max_bytes: int) -> tuple[IO[bytes], str]:
    name, text = body.get("name"), body.get("base64")
    if not isinstance(name, str) or not isinstance(text, str) or set(body) != {"name", "base64"}:
        raise ApiError(422, "Send 'name' and 'base64', both as text, and nothing else; or 'url'.", "InvalidRequest")
    try:
        content = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise ApiError(422, "'base64' is not valid base64.", "InvalidRequest") from error
    if len(content) > max_bytes:
        raise _too_large(max_bytes)
    return io.BytesIO(content), name


def _media_type(request: Request) -> str:
    return request.headers.get("content-type", "").partition(";")[0].strip().lower()


def _too_large(limit: int) -> ApiError:
    # The rest of the body is not read, so the connection cannot be used again.
    return ApiError(413, f"This is too large: at most {limit:,} bytes are taken.", "TooLarge", {"Connection": "close"})


def _refuse_constant(written: str) -> float:
    raise ValueError(f"{written} is not JSON")


def _finite(written: str) -> float:
    value = float(written)
    if not math.isfinite(value):
        raise ValueError(f"{written[:32]} is too large a number")
    return value
