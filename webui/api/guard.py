"""Who may come in: stands in front of the page's routes and the API's alike, and does none of their work.

Every request must name this server in `Host` and, where it has one, come from this server's own pages by `Origin`.
Otherwise a foreign web page could post forms to a studio on the visitor's own machine, or rename itself to it (DNS
rebinding). The API also asks for a password or token where one is set; the page has its own login.
"""

from __future__ import annotations

import base64
import binascii
import hmac
import ipaddress
import logging
import math
import socket
import time
from collections import deque
from collections.abc import Callable
from hashlib import sha256
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.middleware import Middleware

from webui.api.answers import ApiError

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

    from webui.settings import Settings

log = logging.getLogger(__name__)

POSTS_PER_MINUTE = {"/api/jobs": 300, "/api/artifacts": 300}
"""For one client."""

FAILED_TRIES_PER_MINUTE = 10
"""Wrong passwords or tokens from one client; the right one is refused too until the minute is over."""

FAILED_TRIES_IN_ALL = 100
"""The same from everybody together: a client's address can be made up behind a proxy."""

EVERYBODY = "everybody"
LOGIN = "/login"


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
        self._posts = {path: RateLimit(count) for path, count in POSTS_PER_MINUTE.items()}

    @property
    def middleware(self) -> Middleware:
        return Middleware(Doorway, guard=self)

    def around(self, app: ASGIApp) -> ASGIApp:
        """The finished app, its own middleware included: Gradio would tell other sites' browsers that they may ask."""
        return Porch(app, self)

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
        if not self._basic and not self._bearer:
            return
        written = Headers(scope=scope).get("authorization", "")
        if not written:
            raise _unauthorized("Say who you are: a name and password, or a token, is needed here.")
        self.check_tries(scope)
        if not self._is_known(written):
            self.note_failure(scope)
            raise _unauthorized("The name, password or token is wrong.")

    def check_tries(self, scope: Scope) -> None:
        wait = max(self._failures.wait(client(scope)), self._all_failures.wait(EVERYBODY))
        if wait > 0:
            raise _too_many("There were too many wrong passwords or tokens.", wait)

    def note_failure(self, scope: Scope) -> None:
        log.warning("A wrong password or token came from %s.", client(scope))
        self._failures.note(client(scope))
        self._all_failures.note(EVERYBODY)

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
        """Compares with every one in constant time, so that the time taken tells nothing."""
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
        digest = sha256(given).digest()
        return sum(hmac.compare_digest(digest, one) for one in known) > 0

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
    """The ASGI middleware: refuses, hands /api, /docs and /openapi.json to the API, and the rest on to the page."""

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
                app = self._page
                if _is_login(scope):
                    self._guard.check_tries(scope)
                    send = self._noting_failures(scope, send)
        except ApiError as refused:
            return await _refuse(refused, scope, receive, send)
        await app(scope, receive, send)

    def _noting_failures(self, scope: Scope, send: Send) -> Send:
        async def noting(message: Message) -> None:
            if message["type"] == "http.response.start" and message["status"] in (400, 401):
                self._guard.note_failure(scope)
            await send(message)

        return noting


class Porch:
    """The ASGI app around everything: looks at Host and Origin only."""

    def __init__(self, app: ASGIApp, guard: Guard):
        self._app = app
        self._guard = guard

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            if scope["type"] in ("http", "websocket"):
                self._guard.check_sender(scope)
        except ApiError as refused:
            return await _refuse(refused, scope, receive, send)
        await self._app(scope, receive, send)


async def _refuse(refused: ApiError, scope: Scope, receive: Receive, send: Send) -> None:
    if scope["type"] == "websocket":
        await send({"type": "websocket.close", "code": 1008})
    else:
        await refused.answer()(scope, receive, send)


def is_api(path: str) -> bool:
    return path in ("/api", "/docs", "/openapi.json") or path.startswith("/api/")


def host_name(host: str) -> str:
    """The name in a Host header in small letters, without the port; "" when it cannot be read."""
    try:
        return (urlsplit(f"//{host}").hostname or "") if not set(host) & set("/?#@\\ ") else ""
    except ValueError:
        return ""


def client(scope: Scope) -> str:
    """The address that a request came from."""
    return scope["client"][0] if scope.get("client") else "?"


def _is_login(scope: Scope) -> bool:
    return scope.get("method") == "POST" and scope["path"].rstrip("/") == LOGIN


def _unauthorized(message: str) -> ApiError:
    return ApiError(401, message, headers={"WWW-Authenticate": 'Basic realm="Galatea", charset="UTF-8"'})


def _too_many(message: str, wait: float) -> ApiError:
    seconds = max(1, math.ceil(wait))
    return ApiError(429, f"{message} Try again in {seconds} s.", "TooManyRequests", {"Retry-After": str(seconds)})
