"""Files by URL, from the public internet alone. Never connects to an address that it has not checked.

A visitor who may name a URL could otherwise use the studio to ask what only the studio can reach: the router, other
computers' pages, a cloud's metadata (server-side request forgery). So a name is resolved once, every address that it has
must be public, and the connection goes to one of those very addresses: asking for the name again could give another one
(DNS rebinding). Each redirect goes through the same gate. Proxies and passwords of the environment are not used.
"""

from __future__ import annotations

import http.client
import io
import ipaddress
import mimetypes
import re
import socket
import ssl
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import IO, NoReturn
from urllib.parse import SplitResult, quote, unquote, urljoin, urlsplit

from webui.api.answers import ApiError
from webui.artifacts import full_disk_errors

PORTS = {"http": 80, "https": 443}
"""The schemes, each with the one port it may have."""

MOST_REDIRECTS = 3
MOST_ADDRESSES = 4
"""So many of a name's addresses are tried."""

SECONDS = 600.0
"""For everything: however slowly the bytes drip in, a download has ended by then."""

SILENCE = 20.0
"""Seconds without a byte after which the other side is given up."""

LONGEST_URL = 4096
IN_MEMORY = 1 << 20
PIECE = 1 << 16
REDIRECTS = (301, 302, 303, 307, 308)

PUBLIC_IPV6 = ipaddress.IPv6Network("2000::/3")
NAT64 = ipaddress.IPv6Network("64:ff9b::/96")
"""How a network without IPv4 reaches it: the IPv4 address is in the last four bytes."""

NOT_PUBLIC = tuple(
    ipaddress.ip_network(written)
    for written in (
        "192.0.0.0/24",  # the IETF's own; older Pythons call most of it global
        "192.88.99.0/24",  # 6to4 relays
        "168.63.129.16/32",  # Azure's host, as seen from inside of it
        "2001::/23",  # the IETF's own, and Teredo, which can hide any IPv4 address
        "2001:db8::/32",  # documentation
        "2002::/16",  # 6to4, which can hide any IPv4 address
        "3fff::/20",  # documentation
    )
)


def is_public(address: str) -> bool:
    """True for an address in numbers that means the same computer from everywhere on the internet."""
    try:
        ip = ipaddress.ip_address(address)
    except ValueError:
        return False
    if isinstance(ip, ipaddress.IPv6Address) and ip in NAT64:
        ip = ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF)
    if isinstance(ip, ipaddress.IPv6Address) and (ip not in PUBLIC_IPV6 or ip.scope_id):
        return False
    return ip.is_global and not ip.is_multicast and not ip.is_reserved and not any(ip in network for network in NOT_PUBLIC)


def resolve(host: str) -> list[str]:
    """The addresses of a name, in numbers. Raises OSError when there are none."""
    return list(dict.fromkeys(str(found[4][0]) for found in socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)))


class Fetcher:
    """Downloads files. Everything after max_bytes is the gate and its limits; tests open it for servers of their own.

    max_bytes: larger files are refused.
    allowed:   whether an address in numbers may be connected to.
    resolver:  the addresses of a name.
    ports:     the one port of each scheme.
    trust:     whose certificates are believed; None for those that the system believes.
    seconds, silence: for everything, and for one piece of it.
    """

    def __init__(
        self,
        max_bytes: int,
        *,
        allowed: Callable[[str], bool] = is_public,
        resolver: Callable[[str], Sequence[str]] = resolve,
        ports: Mapping[str, int] = PORTS,
        trust: ssl.SSLContext | None = None,
        seconds: float = SECONDS,
        silence: float = SILENCE,
    ):
        self._max_bytes = max_bytes
        self._allowed, self._resolver, self._ports, self._trust = allowed, resolver, ports, trust
        self._seconds, self._silence = seconds, silence

    def fetch(self, url: str) -> tuple[IO[bytes], str]:
        """The file behind `url`, which the caller closes, and its name. Raises ApiError, or StorageError for a full disk."""
        clock = _Clock(time.monotonic() + self._seconds, self._silence)
        for _ in range(1 + MOST_REDIRECTS):
            found = self._get(url, clock)
            if not isinstance(found, str):
                return found
            url = urljoin(url, found)
        _refuse(f"The address leads on to others more than {MOST_REDIRECTS} times. Use the one of the file itself.")

    def _get(self, url: str, clock: _Clock) -> tuple[IO[bytes], str] | str:
        """The file and its name, or the URL that this one leads on to."""
        parts, host = self._checked(url)
        try:
            with self._connected(parts.scheme, host, clock) as wire:
                wire.sendall(_request(parts, host))
                with http.client.HTTPResponse(_Timed(wire, clock)) as reply:  # pyright: ignore[reportArgumentType]
                    reply.begin()
                    if reply.status in REDIRECTS and reply.headers["Location"]:
                        return reply.headers["Location"]
                    return self._body(reply, host), _name(reply, parts)
        except ssl.SSLCertVerificationError as error:
            _refuse(f"The certificate of '{host}' cannot be trusted: {error.verify_message}.", error)
        except TimeoutError as error:
            _refuse(f"'{host}' is too slow. Download the file yourself, then upload it.", error)
        except (OSError, ValueError, http.client.HTTPException) as error:
            _refuse(f"'{host}' does not hand out the file. Check the address.", error)

    def _checked(self, url: str) -> tuple[SplitResult, str]:
        """The URL in parts, and its host's name in ASCII. Says nothing yet about where that is."""
        try:
            parts = urlsplit(url if len(url) <= LONGEST_URL else "")
            host = (parts.hostname or "").encode("idna").decode("ascii")
            port = parts.port
        except ValueError as error:
            _refuse(NO_URL, error)
        if parts.scheme not in self._ports or not re.fullmatch(r"[a-z0-9._:-]{1,255}", host):
            _refuse(NO_URL)
        if parts.username is not None or parts.password is not None:
            _refuse("An address with a name or password in it is not used. Download the file yourself, then upload it.")
        if port not in (None, self._ports[parts.scheme]):
            _refuse(f"Files are fetched from port {' or '.join(map(str, self._ports.values()))} only.")
        return parts, host

    def _connected(self, scheme: str, host: str, clock: _Clock) -> socket.socket:
        """A connection to one of the addresses that were checked, encrypted for `host` where the scheme says so."""
        refusal: Exception = OSError(f"{host} has no address")
        for address in self._addresses(host)[:MOST_ADDRESSES]:
            try:
                wire = socket.create_connection((address, self._ports[scheme]), timeout=clock.left())
                break
            except OSError as error:
                refusal = error
        else:
            raise refusal
        if scheme == "http":
            return wire
        try:
            return (self._trust or ssl.create_default_context()).wrap_socket(wire, server_hostname=host)
        except BaseException:
            wire.close()
            raise

    def _addresses(self, host: str) -> Sequence[str]:
        """Where the name leads, looked up once. What is not public and what does not exist are told alike."""
        try:
            found = self._resolver(host)
        except OSError:
            found = ()
        if not found or not all(map(self._allowed, found)):
            _refuse(f"'{host}' is not the name of a computer on the public internet. Check the address.")
        return found

    def _body(self, reply: http.client.HTTPResponse, host: str) -> IO[bytes]:
        if reply.status != 200:
            _refuse(f"'{host}' answers {reply.status} instead of the file. Check the address.")
        if reply.headers.get("Content-Encoding", "identity").lower() != "identity":
            _refuse(f"'{host}' sends the file compressed although it was asked not to.")
        announced = reply.length
        self._check_size(announced or 0)
        file = tempfile.SpooledTemporaryFile(IN_MEMORY)  # noqa: SIM115 (the caller closes it)
        try:
            with full_disk_errors(Path(tempfile.gettempdir())):
                while piece := reply.read(PIECE):
                    file.write(piece)
                    self._check_size(file.tell())
            if announced not in (None, file.tell()):
                _refuse(f"'{host}' broke off in the middle of the file. Try again.")
            file.seek(0)
            return file
        except BaseException:
            file.close()
            raise

    def _check_size(self, size: int) -> None:
        if size > self._max_bytes:
            raise ApiError(413, f"The file is too large: at most {self._max_bytes:,} bytes are taken.", "TooLarge")


class _Clock:
    """How long the next wait may last. Raises TimeoutError when all of the time has been used."""

    def __init__(self, deadline: float, silence: float):
        self._deadline, self._silence = deadline, silence

    def left(self) -> float:
        left = min(self._deadline - time.monotonic(), self._silence)
        if left <= 0:
            raise TimeoutError("the time is over")
        return left


class _Timed(io.RawIOBase):
    """What comes over a connection. http.client's own reader would start its timeout anew with every byte."""

    def __init__(self, wire: socket.socket, clock: _Clock):
        self._wire, self._clock = wire, clock

    def makefile(self, _mode: str) -> io.BufferedReader:
        return io.BufferedReader(self)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # pyright: ignore[reportIncompatibleMethodOverride]
        self._wire.settimeout(self._clock.left())
        return self._wire.recv_into(buffer)


NO_URL = "Give the whole address of a file, such as https://example.org/portrait.jpg."


def _request(parts: SplitResult, host: str) -> bytes:
    target = quote(f"{parts.path or '/'}?{parts.query}" if parts.query else parts.path or "/", safe="/?%:@!$&'()*+,;=~")
    name = f"[{host}]" if ":" in host else host
    port = f":{parts.port}" if parts.port else ""
    lines = (
        f"GET {target} HTTP/1.1",
        f"Host: {name}{port}",
        "User-Agent: Galatea",
        "Accept: */*",
        "Accept-Encoding: identity",
        "Connection: close",
    )
    return "".join(f"{line}\r\n" for line in (*lines, "")).encode("ascii")


def _name(reply: http.client.HTTPResponse, parts: SplitResult) -> str:
    """The file's name as its server calls it, with a suffix, since that tells its type. Not yet made safe."""
    try:
        told = reply.headers.get_filename("")
    except ValueError:  # a broken header is no reason to refuse the file
        told = ""
    name = re.split(r"[/\\]", told)[-1] or unquote(PurePosixPath(parts.path).name) or "file"
    return name if PurePosixPath(name).suffix else name + (mimetypes.guess_extension(reply.headers.get_content_type()) or "")


def _refuse(message: str, cause: Exception | None = None) -> NoReturn:
    raise ApiError(422, message, "NotFetched") from cause
