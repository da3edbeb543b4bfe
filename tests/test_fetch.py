"""Uploads by URL: what comes from the public internet, and that nothing can be asked for that only the studio can reach.

The servers are real and on this computer, so the tests open the gate for them; the gate itself is asked as it ships.
"""

from __future__ import annotations

import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from webui.api import fetch
from webui.api.answers import ApiError
from webui.api.fetch import Fetcher, is_public, resolve

LIMIT = 100_000
HOST = "files.test"
"""The name in the certificate below. Nobody can own a name under .test."""

CERTIFICATE = """\
-----BEGIN EC PRIVATE KEY-----
MHcCAQEEIKqM6RF2+wMoikpfLpWVJTF747eIAQX3N9JkrA5YE5nnoAoGCCqGSM49
AwEHoUQDQgAEW6mZuZS0YoO7QXSqCibjWg7YHsBazPaz87QX1d3umnvnGkJvcaAv
dH7F6ZktXfExNPialSxi4UgQQGErObEIXQ==
-----END EC PRIVATE KEY-----
-----BEGIN CERTIFICATE-----
MIIBmTCCAT6gAwIBAgIUInLpRVUS5Tx7knI5PmdvflxPnZwwCgYIKoZIzj0EAwIw
FTETMBEGA1UEAwwKZmlsZXMudGVzdDAgFw0yNjExMjExNTExMDFaGA8yMTI2MTAy
ODE1MTEwMVowFTETMBEGA1UEAwwKZmlsZXMudGVzdDBZMBMGByqGSM49AgEGCCqG
SM49AwEHA0IABFupmbmUtGKDu0F0qgom41oO2B7AWsz2s/O0F9Xd7pp75xpCb3Gg
L3R+xemZLV3xMTT4mpUsYuFIEEBhKzmxCF2jajBoMB0GA1UdDgQWBBSuCkt6SX2y
aOFOJRBby8QVvmDE1TAfBgNVHSMEGDAWgBSuCkt6SX2yaOFOJRBby8QVvmDE1TAP
BgNVHRMBAf8EBTADAQH/MBUGA1UdEQQOMAyCCmZpbGVzLnRlc3QwCgYIKoZIzj0E
AwIDSQAwRgIhAOyhAZPJDQ6zxOm7mss7zE3UoGhJS72e+mtKY0jLseQDAiEAjprh
r1UDDRkATZhoMStqUNEUiIwP93n2jXWHdyfR7Zs=
-----END CERTIFICATE-----
"""
"""Of these tests alone, valid until 2126, with its key. Nothing else trusts it."""


class Files(BaseHTTPRequestHandler):
    """A web server with files and bad manners; remembers the request heads that it got."""

    protocol_version = "HTTP/1.1"
    heads: list[str]

    def do_GET(self) -> None:
        self.heads.append(f"{self.requestline}\n{self.headers}")
        answer = getattr(self, f"get_{self.path.split('/')[1].partition('?')[0].partition('.')[0]}", None)
        if answer is None:
            return self.answer(404, b"nothing")
        answer()

    def answer(self, status: int, body: bytes, **headers: str) -> None:
        self.send_response(status)
        for name, value in ({"Content_Length": str(len(body))} | headers).items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(body)

    def get_photo(self) -> None:
        self.answer(200, b"picture", Content_Type="image/png")

    def get_named(self) -> None:
        self.answer(200, b"x", Content_Disposition="attachment; filename*=UTF-8''%E5%AE%89%E5%A8%9C.wav")

    def get_climbing(self) -> None:
        self.answer(200, b"x", Content_Disposition='attachment; filename="../../etc/passwd.wav"')

    def get_odd(self) -> None:
        self.answer(200, b"x", Content_Disposition="attachment; filename*=undefined''%FF%00")

    def get_to(self) -> None:
        self.answer(302, b"", Location=self.path.partition("?")[2])

    def get_loop(self) -> None:
        self.answer(302, b"", Location="/loop")

    def get_large(self) -> None:
        self.answer(200, b"x" * (LIMIT + 1))

    def get_chunked(self) -> None:
        self.send_response(200)
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        for _ in range(20):
            self.wfile.write(b"4000\r\n" + b"x" * 0x4000 + b"\r\n")
        self.wfile.write(b"0\r\n\r\n")

    def get_short(self) -> None:
        self.answer(200, b"x", Content_Length="10")
        self.close_connection = True

    def get_packed(self) -> None:
        self.answer(200, b"x", Content_Encoding="gzip")

    def get_silent(self) -> None:
        time.sleep(3)

    def get_dripping(self) -> None:
        self.answer(200, b"", Content_Length="1000")
        for _ in range(100):
            self.wfile.write(b"x")
            time.sleep(0.05)

    def get_murmuring(self) -> None:
        """Its head never ends."""
        for _ in range(100):
            self.wfile.write(b"H")
            time.sleep(0.05)

    def log_message(self, *_: object) -> None:
        pass


class Listening(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, *_: object) -> None:
        """A visitor who hangs up is none of the tests' business."""


@pytest.fixture
def files() -> Iterator[ThreadingHTTPServer]:
    yield from served(None)


@pytest.fixture
def secured(certificate: Path) -> Iterator[ThreadingHTTPServer]:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    yield from served(context)


@pytest.fixture
def certificate(tmp_path: Path) -> Path:
    (tmp_path / "files.test.pem").write_text(CERTIFICATE)
    return tmp_path / "files.test.pem"


def served(context: ssl.SSLContext | None) -> Iterator[ThreadingHTTPServer]:
    handler = type("Handler", (Files,), {"heads": []})
    with Listening(("127.0.0.1", 0), handler) as listening:
        if context is not None:
            listening.socket = context.wrap_socket(listening.socket, server_side=True)
        threading.Thread(target=listening.serve_forever, args=(0.05,), daemon=True).start()
        yield listening
        listening.shutdown()


def local(address: str) -> bool:
    return address == "127.0.0.1"


def opened(files: ThreadingHTTPServer, allowed: Callable[[str], bool] = local, **more) -> Fetcher:
    """A fetcher that may talk to the tests' own server, which every name leads to."""
    ports = {"http": files.server_port, "https": files.server_port}
    return Fetcher(LIMIT, **{"allowed": allowed, "resolver": lambda _: ["127.0.0.1"], "ports": ports, **more})


def fetched(fetcher: Fetcher, url: str) -> tuple[bytes, str]:
    file, name = fetcher.fetch(url)
    with file:
        return file.read(), name


def refused(fetcher: Fetcher, url: str) -> ApiError:
    with pytest.raises(ApiError) as caught:
        fetcher.fetch(url)
    assert caught.value.status in (413, 422) and str(caught.value).endswith(".")
    return caught.value


# What comes


def test_a_file_comes_with_the_name_of_its_address(files: ThreadingHTTPServer):
    assert fetched(opened(files), "http://files.test/photo.png?size=2#top") == (b"picture", "photo.png")
    assert fetched(opened(files), "HTTP://FILES.test/photo/%E5%AE%89%E5%A8%9C.png") == (b"picture", "安娜.png")
    assert fetched(opened(files), "http://files.test/photo/安娜 1.png") == (b"picture", "安娜 1.png")
    assert fetched(opened(files), "http://files.test/photo") == (b"picture", "photo.png"), "the suffix of its type"
    first = files.RequestHandlerClass.heads[0]
    assert first.startswith("GET /photo.png?size=2 HTTP/1.1\n") and "Host: files.test\n" in first
    assert "Authorization" not in first and "Cookie" not in first


def test_the_servers_name_for_a_file_goes_first_and_stays_a_name(files: ThreadingHTTPServer):
    assert fetched(opened(files), "http://files.test/named")[1] == "安娜.wav"
    assert fetched(opened(files), "http://files.test/climbing")[1] == "passwd.wav"
    assert fetched(opened(files), "http://files.test/odd.wav") == (b"x", "odd.wav"), "a broken header is not read"


def test_redirects_are_followed_three_times(files: ThreadingHTTPServer):
    assert fetched(opened(files), "http://files.test/to?/photo.png") == (b"picture", "photo.png")
    assert "more than 3 times" in str(refused(opened(files), "http://files.test/loop"))
    assert len(files.RequestHandlerClass.heads) == 2 + 4


def test_an_encrypted_connection_wants_the_certificate_of_that_very_name(secured: ThreadingHTTPServer, certificate: Path):
    trusting = opened(secured, trust=ssl.create_default_context(cafile=str(certificate)))
    assert fetched(trusting, "https://files.test/photo.png") == (b"picture", "photo.png")
    assert "cannot be trusted" in str(refused(trusting, "https://other.test/photo.png"))
    assert "cannot be trusted" in str(refused(opened(secured), "https://files.test/photo.png"))
    assert len(secured.RequestHandlerClass.heads) == 1


def test_proxies_and_passwords_of_the_environment_are_not_used(files: ThreadingHTTPServer, monkeypatch: pytest.MonkeyPatch):
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    assert fetched(opened(files), "http://files.test/photo.png")[0] == b"picture"


# What does not


@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("/none", "answers 404"),
        ("/large", "too large"),
        ("/chunked", "too large"),
        ("/short", "broke off"),
        ("/packed", "compressed"),
        ("/to?http://[", "whole address"),
        ("/to?file:///etc/passwd", "whole address"),
        ("/to?ftp://files.test/x", "whole address"),
    ],
)
def test_what_cannot_be_taken_is_said(files: ThreadingHTTPServer, path: str, said: str):
    error = refused(opened(files), f"http://files.test{path}")
    assert said in str(error)
    assert error.status == (413 if said == "too large" else 422)


@pytest.mark.parametrize("path", ["/silent", "/dripping", "/murmuring"])
def test_a_slow_server_is_given_up(files: ThreadingHTTPServer, path: str):
    begun = time.monotonic()
    assert "too slow" in str(refused(opened(files, seconds=0.6, silence=0.4), f"http://files.test{path}"))
    assert time.monotonic() - begun < 2


def test_a_server_that_does_not_even_greet_is_given_up():
    with socket.create_server(("127.0.0.1", 0)) as silent:
        fetcher = Fetcher(
            LIMIT, allowed=local, resolver=lambda _: ["127.0.0.1"], ports={"https": silent.getsockname()[1]}, seconds=0.4
        )
        assert "too slow" in str(refused(fetcher, "https://files.test/x"))


@pytest.mark.parametrize(
    "url",
    [
        "",
        "photo.png",
        "//files.test/x",
        "file:///etc/passwd",
        "gopher://files.test/x",
        "http://",
        "http:///x",
        "http://files.test:port/x",
        "http://files.test:99999/x",
        "http://a b/x",
        "http://files.test\\evil/x",
        "http://[::1/x",
        "http://[fe80::1%25eth0]/x",
        "http://.../x",
        "http://" + "a" * 70 + ".test/x",
        "http://files.test/" + "a" * 5000,
        "javascript:alert(1)",
    ],
)
def test_what_is_no_address_of_a_file_is_refused_unasked(url: str):
    def never(_host: str) -> Sequence[str]:
        raise AssertionError("looked up")

    assert "whole address" in str(refused(Fetcher(LIMIT, resolver=never), url))


@pytest.mark.parametrize("url", ["http://anna:word@files.test/x", "http://anna@files.test/x", "http://:@files.test/x"])
def test_a_password_in_the_address_is_refused_and_not_repeated(url: str):
    error = refused(Fetcher(LIMIT, resolver=lambda _: ["1.1.1.1"]), url)
    assert "password" in str(error) and "word@" not in str(error)


@pytest.mark.parametrize("url", ["http://a.test:22/", "http://a.test:443/", "https://a.test:80/", "http://a.test:8000/"])
def test_only_the_webs_own_ports_are_used(url: str):
    assert "port 80 or 443 only" in str(refused(Fetcher(LIMIT, resolver=lambda _: ["1.1.1.1"]), url))


def test_a_line_end_in_an_address_adds_no_header(files: ThreadingHTTPServer):
    fetched(opened(files), "http://files.test/photo/x\r\nX-Evil: 1")
    refused(opened(files), "http://files.test/to?/photo%0d%0aX-Evil:1\r\nX-Evil: 1")
    assert not any(line.startswith("X-Evil") for head in files.RequestHandlerClass.heads for line in head.splitlines())


# Where it may go

PRIVATE = {
    "this host": ["0.0.0.0", "0.1.2.3", "::"],
    "loopback": ["127.0.0.1", "127.255.255.254", "::1"],
    "private": ["10.0.0.1", "172.16.0.1", "172.31.255.255", "192.168.1.1", "fc00::1", "fd00:ec2::254"],
    "link-local": ["169.254.169.254", "169.254.0.1", "fe80::1", "fe80::1%eth0", "fe80::1%1"],
    "shared by carriers": ["100.64.0.1", "100.100.100.200", "100.127.255.255"],
    "multicast": ["224.0.0.1", "239.255.255.255", "ff02::1", "ff0e::1"],
    "broadcast and reserved": ["255.255.255.255", "240.0.0.1", "4000::1", "8000::1", "100::1", "5f00::1"],
    "documentation and tests": ["192.0.2.1", "198.51.100.1", "203.0.113.1", "198.18.0.1", "2001:db8::1", "3fff::1"],
    "the IETF's own": ["192.0.0.1", "192.0.0.192", "192.88.99.1", "2001:2::1", "2001:20::1"],
    "clouds": ["168.63.129.16", "169.254.170.2"],
    "site-local": ["fec0::1"],
    "IPv4 inside of IPv6": ["::ffff:127.0.0.1", "::ffff:10.0.0.1", "::ffff:8.8.8.8", "::127.0.0.1", "::ffff:0:127.0.0.1"],
    "6to4": ["2002:7f00:1::", "2002:a00:1::1", "2002:c0a8:101::1"],
    "Teredo": ["2001:0:7f00:1::1", "2001:0:4136:e378:8000:63bf:3fff:fdd2"],
    "NAT64": ["64:ff9b::127.0.0.1", "64:ff9b::a00:1", "64:ff9b::169.254.169.254", "64:ff9b:1::808:808"],
    "no address": ["", "localhost", "127.1", "0x7f000001", "1.2.3.4.5", "1.1.1.1/24"],
}


@pytest.mark.parametrize("address", [address for group in PRIVATE.values() for address in group])
def test_what_is_not_public_is_never_connected_to(address: str):
    assert not is_public(address)
    error = refused(Fetcher(LIMIT, resolver=lambda _: [address], seconds=0.5), "http://files.test/x")
    assert "not the name of a computer on the public internet" in str(error)


@pytest.mark.parametrize("address", ["1.1.1.1", "172.32.0.1", "2606:4700::1111", "2a00:1450::1", "64:ff9b::1.1.1.1"])
def test_what_is_public_may_be(address: str):
    assert is_public(address)


def test_one_private_address_among_public_ones_spoils_the_name():
    for found in (["1.1.1.1", "127.0.0.1"], ["127.0.0.1", "1.1.1.1"], ["2606:4700::1111", "::1"]):
        fetcher = Fetcher(LIMIT, resolver=lambda _, found=found: found, seconds=0.5)
        assert "public internet" in str(refused(fetcher, "http://files.test/x"))


LOOPBACK_SPELLINGS = [
    "localhost",
    "LOCALHOST.",
    "127.0.0.1",
    "127.1",
    "127.0.1",
    "2130706433",
    "0x7f000001",
    "0x7f.0.0.1",
    "017700000001",
    "0177.0.0.1",
    "0",
    "0x0",
    "１２７.０.０.１",
    "[::1]",
    "[0:0:0:0:0:0:0:1]",
    "[::ffff:127.0.0.1]",
    "[::ffff:7f00:1]",
    "[::]",
]


@pytest.mark.parametrize("host", LOOPBACK_SPELLINGS)
def test_no_spelling_of_this_computer_reaches_it(files: ThreadingHTTPServer, host: str):
    """With the look-up as it ships: what the system takes for an address in numbers is checked as what it means."""
    error = refused(opened(files, is_public, resolver=resolve), f"http://{host}/photo.png")
    assert "public internet" in str(error)
    assert files.RequestHandlerClass.heads == []


def test_a_redirect_to_a_private_address_is_refused(files: ThreadingHTTPServer):
    names = {"public.test": ["127.0.0.1"], "inside.test": ["10.0.0.1"], "169.254.169.254": ["169.254.169.254"]}
    fetcher = opened(files, resolver=lambda host: names[host])
    for goal in ("http://inside.test/", "http://169.254.169.254/latest/meta-data", "//inside.test/x"):
        assert "public internet" in str(refused(fetcher, f"http://public.test/to?{goal}"))


def test_the_connection_goes_to_the_address_that_was_checked(files: ThreadingHTTPServer):
    """DNS rebinding: a name that answers with another address at the second question is asked only once."""
    asked: list[str] = []

    def rebinding(host: str) -> list[str]:
        asked.append(host)
        return ["127.0.0.1"] if len(asked) == 1 else ["10.0.0.1"]

    checked: list[str] = []

    def note(address: str) -> bool:
        checked.append(address)
        return True

    assert fetched(opened(files, note, resolver=rebinding), "http://files.test/photo.png")[0] == b"picture"
    assert (asked, checked) == ([HOST], ["127.0.0.1"])


def test_every_way_out_of_this_module_is_the_checked_one():
    """No library that connects by itself is at hand here: http.client is only given what was connected before."""
    source = Path(fetch.__file__).read_text(encoding="utf-8")
    assert source.count("create_connection(") == 1
    for other in ("urlopen", "HTTPConnection", "HTTPSConnection", "httpx", "requests."):
        assert other not in source
