"""Who may come in: stands in front of the page's routes and the API's alike, and does none of their work.

Every request must name this server in `Host` and, where it has one, come from this server's own pages by `Origin`.
Otherwise a foreign web page could post forms to a studio on the visitor's own machine, or rename itself to it (DNS
rebinding). Where a password or token is set, page and API take the same ones, in the Authorization header; a browser
without that header gets the page's login.
"""

from __future__ import annotations

import base64
import binascii
import hmac
import ipaddress
import logging
import math
import re
import secrets
import socket
import time
from collections import deque
from collections.abc import Callable
from hashlib import sha256
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import ClientDisconnect

from webui.api.answers import ApiError

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

    from webui.settings import Settings

log = logging.getLogger(__name__)

POSTS_PER_MINUTE = {
    "/api/jobs": 300, "/api/artifacts": 300, "/sdapi/v1/extra-single-image": 300, "/sdapi/v1/extra-batch-images": 300,
}  # fmt: skip
"""For one client."""

FAILED_TRIES_PER_MINUTE = 10
"""Wrong passwords or tokens from one client; the right one is refused too until the minute is over."""

FAILED_TRIES_IN_ALL = 100
"""The same from everybody together: a client's address can be made up behind a proxy."""

MOST_WELCOME = 1000
"""So many clients are remembered for having had the right password or token: they are let in whatever others try."""

MOST_PAGE_BODY = 16 << 20
"""Bytes of a request to the page, but for uploads: those have a limit of their own."""

PAGE_UPLOADS = "/gradio_api/upload"
EVERYBODY = "everybody"
LOGIN = "/login"

HEADERS = {
    "content-security-policy": "frame-ancestors 'self'",
    "x-frame-options": "SAMEORIGIN",
    "x-content-type-options": "nosniff",
}
"""Of every answer that has no such header: no other site's page may show the studio inside of itself and catch its clicks."""

_HOST = re.compile(r"([^\s:/?#@\\\[\]]+|\[[0-9a-fA-F:.]+\])(?::(\d{1,5}))?")


class RateLimit:
    """So many events in so many seconds for each key. Used on the event loop alone, so it needs no lock."""

    MOST_KEYS = 10_000

    def __init__(self, count: int, seconds: float = 60.0, clock: Callable[[], float] = time.monotonic):
        self._count, self._seconds, self._clock = count, seconds, clock
        self._events: dict[str, deque[float]] = {}

    def wait(self, key: str) -> float:
        """Seconds until this key may have its next event; 0 for now."""
        events = self._events.get(key, deque())
        now = self._clock()
        while events and now - events[0] >= self._seconds:
            events.popleft()
        return events[0] + self._seconds - now if len(events) >= self._count else 0.0

    def note(self, key: str) -> None:
        if key not in self._events and len(self._events) >= self.MOST_KEYS:
            del self._events[next(iter(self._events))]
        self._events.setdefault(key, deque(maxlen=self._count)).append(self._clock())

    def take_back(self, key: str) -> None:
        """Forget the newest event."""
        if self._events.get(key):
            self._events[key].pop()


class Guard:
    """What is known about those who come in. One for a server; `middleware` puts it in front of the page's app."""

    def __init__(self, settings: Settings, api: ASGIApp):
        self.api = api
        self._listens = settings.listen
        self._hosts = {"localhost", *settings.allowed_hosts}
        if settings.listen:
            name = socket.gethostname().lower()
            self._hosts |= {name, f"{name}.local"}
        self._trusted_origins = set(settings.allowed_hosts)
        users = [f"{user}:{password}".encode() for user, password in settings.gradio_auth]
        self._basic = [sha256(user).digest() for user in users]
        self._bearer = [sha256(settings.api_token.encode()).digest()] if settings.api_token else []
        self._failures = RateLimit(FAILED_TRIES_PER_MINUTE)
        self._all_failures = RateLimit(FAILED_TRIES_IN_ALL)
        self._welcome: dict[tuple[str, bytes], None] = {}
        self._page_pass = ""
        self._posts = {path: RateLimit(count) for path, count in POSTS_PER_MINUTE.items()}

    @property
    def middleware(self) -> Middleware:
        return Middleware(Doorway, guard=self)

    @property
    def closed(self) -> bool:
        """Whether a password or token is asked for."""
        return bool(self._basic or self._bearer)

    def admits(self, name: str, password: str) -> bool:
        """Whether this name and password, or any name with the token as password, may come in by the page's login."""
        return _is_among(f"{name}:{password}".encode(), self._basic) or _is_among(password.encode(), self._bearer)

    def stand_around(self, app: Any) -> None:
        """Guard the finished Gradio app, its own middleware included: that would tell other sites' browsers that they may ask."""
        token = secrets.token_urlsafe(32)
        app.tokens[token] = "api"
        self._page_pass = f"access-token-unsecure-{app.cookie_id}={token}"
        app.middleware_stack = Porch(app.middleware_stack, self)

    def allow_host(self, name: str) -> None:
        """Let visitors in who came by this name, e.g. that of the public link."""
        self._hosts.add(name.lower())
        self._trusted_origins.add(name.lower())

    def check_sender(self, scope: Scope) -> None:
        """Raise ApiError 403 for a request that was not meant for this server, or that another site's page made."""
        headers = Headers(scope=scope)
        hosts = headers.getlist("host")
        if len(hosts) != 1 or not self._is_ours(host_name(hosts[0])):
            raise ApiError(
                403,
                "This address is not known as the studio's. Open it as localhost, or add the name to allowed_hosts.",
                "ForeignHost",
            )
        origins = headers.getlist("origin")
        if any(not self._is_same_site(origin, hosts[0]) for origin in origins):
            raise ApiError(403, "Requests from other sites' pages are refused.", "ForeignOrigin")
        writes = scope.get("method") not in ("GET", "HEAD")
        if writes and not origins and headers.get("sec-fetch-site") == "cross-site":
            raise ApiError(403, "Requests from other sites' pages are refused.", "ForeignOrigin")

    def check_identity(self, scope: Scope) -> None:
        """Raise ApiError 401 without a valid password or token, 429 after too many wrong ones. Open when none is set."""
        if not self.closed:
            return
        written = Headers(scope=scope).get("authorization", "")
        if not written:
            raise _unauthorized("Say who you are: a name and password, or a token, is needed here.")
        visitor = (client(scope), sha256(written.encode("latin-1", "replace")).digest())
        if visitor in self._welcome:
            return
        self.check_tries(scope)
        if not self._is_known(written):
            self.note_failure(scope)
            raise _unauthorized("The name, password or token is wrong.")
        if len(self._welcome) >= MOST_WELCOME:
            del self._welcome[next(iter(self._welcome))]
        self._welcome[visitor] = None

    def let_into_page(self, scope: Scope) -> Scope:
        """The request with the page's own pass, when it says in its header who it is; as it was without that header.

        Raises what `check_identity` raises.
        """
        if not self.closed or "authorization" not in Headers(scope=scope):
            return scope
        self.check_identity(scope)
        scope = {**scope, "headers": list(scope["headers"])}
        MutableHeaders(scope=scope)["cookie"] = self._page_pass
        return scope

    def check_tries(self, scope: Scope) -> None:
        wait = max(self._failures.wait(client(scope)), self._all_failures.wait(EVERYBODY))
        if wait > 0:
            raise _too_many("There were too many wrong passwords or tokens.", wait)

    def note_failure(self, scope: Scope) -> None:
        log.warning("A wrong password or token came from %s.", client(scope))
        self._failures.note(client(scope))
        self._all_failures.note(EVERYBODY)

    def take_back_failure(self, scope: Scope) -> None:
        self._failures.take_back(client(scope))
        self._all_failures.take_back(EVERYBODY)

    def check_rate(self, scope: Scope) -> None:
        """Raise ApiError 429 when this client posts too often."""
        limit = self._posts.get(scope["path"]) if scope["method"] == "POST" else None
        if limit is None:
            return
        wait = limit.wait(client(scope))
        if wait > 0:
            raise _too_many("These are too many requests in a minute.", wait)
        limit.note(client(scope))

    def _is_known(self, written: str) -> bool:
        scheme, _, value = written.partition(" ")
        known, given = self._bearer, value.strip().encode("latin-1", "replace")
        if scheme.lower() == "basic":
            known = self._basic
            try:
                given = base64.b64decode(given, validate=True)
            except (binascii.Error, ValueError):
                return False
        elif scheme.lower() != "bearer":
            return False
        return _is_among(given, known)

    def _is_ours(self, name: str) -> bool:
        if name in self._hosts:
            return True
        try:
            address = ipaddress.ip_address(name.strip("[]"))
        except ValueError:
            return False
        # Nobody's domain can be an address in numbers, so rebinding cannot make one.
        return address.is_loopback or self._listens

    def _is_same_site(self, origin: str, host: str) -> bool:
        """The page's own origin. Only names that the owner listed may differ from Host, as behind a proxy."""
        try:
            parts = urlsplit(origin)
            default = {"http": 80, "https": 443}[parts.scheme]
            theirs, ours = (parts.hostname, parts.port or default), urlsplit(f"//{host}")
            return theirs == (ours.hostname, ours.port or default) or parts.hostname in self._trusted_origins
        except (KeyError, ValueError):
            return False


class Doorway:
    """The ASGI middleware: refuses, hands /api, /sdapi, /docs and /openapi.json to the API, and the rest on to the page."""

    def __init__(self, app: ASGIApp, guard: Guard):
        self._page = app
        self._guard = guard

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            return await self._page(scope, receive, send)
        try:
            self._guard.check_sender(scope)
            if is_api(scope["path"]):
                self._guard.check_identity(scope)
                if scope["type"] == "http":
                    self._guard.check_rate(scope)
                app = self._guard.api
            else:
                app, scope = self._page, self._guard.let_into_page(scope)
                receive = limited(scope, receive)
                if _is_login(scope):
                    self._guard.check_tries(scope)
                    send = self._forgetting_success(scope, send)
        except ApiError as refused:
            return await _refuse(refused, scope, receive, send)
        await app(scope, receive, send)

    def _forgetting_success(self, scope: Scope, send: Send) -> Send:
        """A try counts as failed from the moment it comes, so that many at once are not all tried."""
        self._guard.note_failure(scope)

        async def forgetting(message: Message) -> None:
            if message["type"] == "http.response.start" and message["status"] == 200:
                self._guard.take_back_failure(scope)
            await send(message)

        return forgetting


class Porch:
    """The ASGI app around everything: looks at Host and Origin, and adds HEADERS."""

    def __init__(self, app: ASGIApp, guard: Guard):
        self._app = app
        self._guard = guard

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            if scope["type"] in ("http", "websocket"):
                self._guard.check_sender(scope)
        except ApiError as refused:
            return await _refuse(refused, scope, receive, send)
        try:
            await self._app(scope, receive, _with_headers(send))
        except ClientDisconnect:
            log.info("A visitor left while a request was still coming.")


def limited(scope: Scope, receive: Receive) -> Receive:
    """The body of a request to the page, refused where it gets too large: Gradio reads all before it looks at who sends it."""
    if scope["type"] != "http" or scope["path"].startswith(PAGE_UPLOADS):
        return receive
    come = 0

    async def counting() -> Message:
        nonlocal come
        message = await receive()
        come += len(message.get("body", b""))
        if come > MOST_PAGE_BODY:
            raise HTTPException(413, f"This is too large: at most {MOST_PAGE_BODY:,} bytes are taken.", {"Connection": "close"})
        return message

    return counting


def _with_headers(send: Send) -> Send:
    async def adding(message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = MutableHeaders(scope=message)
            for name, value in HEADERS.items():
                headers.setdefault(name, value)
        await send(message)

    return adding


async def _refuse(refused: ApiError, scope: Scope, receive: Receive, send: Send) -> None:
    if scope["type"] == "websocket":
        await send({"type": "websocket.close", "code": 1008})
    else:
        await refused.answer()(scope, receive, send)


def is_api(path: str) -> bool:
    return path in ("/api", "/docs", "/openapi.json") or path.startswith(("/api/", "/sdapi/"))


def host_name(host: str) -> str:
    """The name in a Host header in small letters, without the port and an address's brackets; "" when it cannot be read."""
    found = _HOST.fullmatch(host)
    if found is None or int(found[2] or 0) > 65535:
        return ""
    return found[1].strip("[]").lower()


def client(scope: Scope) -> str:
    """The address that a request came from."""
    return scope["client"][0] if scope.get("client") else "?"


def _is_among(given: bytes, known: list[bytes]) -> bool:
    """Compares with every one in constant time, so that the time taken tells nothing."""
    digest = sha256(given).digest()
    return sum(hmac.compare_digest(digest, one) for one in known) > 0


def _is_login(scope: Scope) -> bool:
    return scope.get("method") == "POST" and scope["path"].rstrip("/") == LOGIN


def _unauthorized(message: str) -> ApiError:
    return ApiError(401, message, headers={"WWW-Authenticate": 'Basic realm="Galatea", charset="UTF-8"'})


def _too_many(message: str, wait: float) -> ApiError:
    seconds = max(1, math.ceil(wait))
    return ApiError(429, f"{message} Try again in {seconds} s.", "TooManyRequests", {"Retry-After": str(seconds)})
