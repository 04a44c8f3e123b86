"""Every fault that a receiver can have, each on a port of its own, in a process of its own (reliability T8).

Run as `python -m tests.support.faults FOLDER`: it writes `ca.pem`, the one authority of its good certificates, to FOLDER,
prints one line of JSON, and serves until its stdin ends. `Faults` is the other end.
"""

import asyncio
import gzip
import json
import socket
import ssl
import subprocess
import sys
import warnings
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import TracebackType
from typing import NamedTuple, Self

import trustme
import uvloop

from relay.core.model import Failure
from tests.support import hostile
from tests.support.hostile import Behaviour, Hostile, Wire
from tests.support.warm import ROOT

DRIP_S = 0.05
MIB = 1 << 20
OK = b"HTTP/1.1 200 OK\r\n"
BOMB = gzip.compress(bytes(10 * MIB))


class Place(NamedTuple):
    """One faulty receiver, as whoever delivers to it sees it."""

    name: str
    url: str
    expected: str
    """The status, or the class of the failure, that an attempt must end with; where it is a matter of luck, all of them."""

    @property
    def id(self) -> str:
        """The same as the id of an endpoint."""
        return self.name.replace(".", "-")

    def names(self, outcome: str) -> bool:
        """Whether an attempt that came to this was judged rightly."""
        return outcome in self.expected.split(" or ")


class Faults:
    """A process with every fault; leaving the context ends it."""

    places: list[Place]
    inside_port: int
    """Where redirects lead to, and nobody may ever connect to."""

    def __init__(self, folder: Path) -> None:
        self.ca_file = folder / "ca.pem"
        self._folder = folder

    def __enter__(self) -> Self:
        command = [sys.executable, "-m", __name__, str(self._folder)]
        pipe = subprocess.PIPE
        self._process = subprocess.Popen(command, cwd=ROOT, stdin=pipe, stdout=pipe, text=True)
        assert self._process.stdout is not None
        told = json.loads(self._process.stdout.readline())
        self.places = [Place(*place) for place in told["places"]]
        self.inside_port = told["inside_port"]
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self._process.communicate(timeout=10)
        finally:
            self._process.kill()


# Behaviours that need more than one line


def _dripping(start: bytes, drop: bytes) -> Behaviour:
    async def behave(wire: Wire) -> None:
        await wire.request()
        await wire.send(start)
        while True:
            await asyncio.sleep(DRIP_S)
            await wire.send(drop)

    return behave


async def _drop_when_reused(wire: Wire) -> None:
    """Answer, keep the connection, and end it when the next request comes (Q17)."""
    await wire.request()
    await wire.send(OK + b"Content-Length: 2\r\n\r\nok")
    await wire.request()
    await wire.reset()


async def _fat_head(wire: Wire) -> None:
    """Send nearly all of the largest head that is read, and keep it open."""
    await wire.request()
    await wire.send(OK + b"X-Fat: " + b"y" * 63_000)
    await wire.until_closed()


async def _set_cookie(wire: Wire) -> None:
    """Answer with a cookie, and refuse whoever brings it back."""
    while True:
        request = await wire.request()
        status = b"400 Bad" if b"\r\ncookie:" in request.lower() else b"200 OK"
        await wire.send(b"HTTP/1.1 %s\r\nSet-Cookie: a=b; Path=/\r\nContent-Length: 2\r\n\r\nok" % status)


def _redirect(port: int) -> Behaviour:
    location = b"Location: http://127.0.0.9:%d/latest/meta-data\r\n" % port
    return hostile.raw_kept_open(b"HTTP/1.1 307 Away\r\n" + location + b"Content-Length: 0\r\n\r\n")


EARLY_END = f"{Failure.BROKEN_RESPONSE} or {Failure.CONNECT}"
"""A connection that ends as soon as it stands may look like one that never stood."""

BEHAVIOURS: dict[str, tuple[Behaviour, int | str]] = {
    "well": (hostile.raw_kept_open(OK + b"Content-Length: 2\r\n\r\nok"), 200),  # the control
    "reset-at-once": (hostile.reset_at_once, EARLY_END),
    "reset-after-request": (hostile.reset_after_request, Failure.BROKEN_RESPONSE),
    "reset-in-head": (hostile.reset_in_head, Failure.BROKEN_RESPONSE),
    "reset-in-body": (hostile.reset_in_body, 200),
    "close-after-request": (hostile.close_after_request, Failure.BROKEN_RESPONSE),
    "never-read": (hostile.Wire.ignore, Failure.TIMEOUT),
    "fat-head": (_fat_head, Failure.TIMEOUT),
    "drip-head": (_dripping(OK + b"X-Slow: ", b"y"), Failure.TIMEOUT),
    "drip-headers": (_dripping(OK, b"X-Slow: y\r\n"), Failure.TIMEOUT),
    "drip-body": (_dripping(OK + b"Content-Length: 10000\r\n\r\n", b"y"), 200),
    "drip-failure": (_dripping(b"HTTP/1.1 500 No\r\nContent-Length: 10000\r\n\r\n", b"y"), 500),
    "endless-chunks": (hostile.endless_chunks, 200),
    "tiny-chunks": (hostile.tiny_chunks, 200),
    "endless-body": (hostile.endless_body, 500),
    "gzip-bomb": (
        hostile.raw(OK + b"Content-Encoding: gzip\r\nContent-Length: %d\r\n\r\n" % len(BOMB) + BOMB),
        200,
    ),
    "header-flood": (hostile.header_flood, Failure.BROKEN_RESPONSE),
    "odd-header-flood": (hostile.odd_header_flood, Failure.BROKEN_RESPONSE),
    "long-header": (hostile.long_header, Failure.BROKEN_RESPONSE),
    "continue-flood": (hostile.continue_flood, Failure.BROKEN_RESPONSE),
    "only-100": (hostile.raw_kept_open(b"HTTP/1.1 100 Continue\r\n\r\n"), Failure.TIMEOUT),
    "103-first": (hostile.raw(b"HTTP/1.1 103 Early Hints\r\n\r\n" + OK + b"Content-Length: 2\r\n\r\nok"), 200),
    "101": (
        hostile.raw_kept_open(b"HTTP/1.1 101 Switching\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n"),
        Failure.BROKEN_RESPONSE,
    ),
    "garbage": (hostile.garbage, Failure.BROKEN_RESPONSE),
    "truncated-body": (hostile.truncated_body, 200),
    "truncated-chunks": (hostile.truncated_chunks, 200),
    "length-too-short": (hostile.raw(OK + b"Content-Length: 2\r\n\r\nok, and much more"), 200),
    "negative-length": (hostile.raw(OK + b"Content-Length: -5\r\n\r\n"), 200),
    "204-with-body": (hostile.raw(b"HTTP/1.1 204 No Content\r\nContent-Length: 4\r\n\r\nbody"), 204),
    "set-cookie": (_set_cookie, 200),
    "keep-alive-drop": (_drop_when_reused, 200),
}
"""What a receiver does once its connection stands, over TCP and over TLS alike, and what an attempt must come to."""


# Certificates and handshakes


def _serving(certificate: trustme.LeafCert) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    certificate.configure_cert(context)
    return context


def _old(certificate: trustme.LeafCert) -> ssl.SSLContext:
    context = _serving(certificate)
    context.set_ciphers("DEFAULT@SECLEVEL=0")
    with warnings.catch_warnings(action="ignore"):
        context.minimum_version = context.maximum_version = ssl.TLSVersion.TLSv1_1
    return context


def _bad_certificates(authority: trustme.CA) -> dict[str, ssl.SSLContext]:
    yesterday = datetime.now(UTC) - timedelta(days=1)
    expired = authority.issue_cert("localhost", not_before=yesterday - timedelta(days=9), not_after=yesterday)
    return {
        "expired": _serving(expired),
        "wrong-host": _serving(authority.issue_cert("elsewhere.example")),
        "self-signed": _serving(trustme.CA().issue_cert("localhost")),
        "tls-1.1": _old(authority.issue_cert("localhost")),
    }


# The process


@asynccontextmanager
async def _every_fault(authority: trustme.CA) -> AsyncIterator[tuple[list[Place], int]]:
    """Open all ports; yield the places, and the port that redirects lead to."""
    places: list[Place] = []
    good = _serving(authority.issue_cert("localhost"))
    async with AsyncExitStack() as opened:
        inside = await opened.enter_async_context(Hostile(hostile.silent, host="127.0.0.9"))

        async def serve(name: str, behaviour: Behaviour, expected: int | str, tls: ssl.SSLContext | None) -> str:
            server = await opened.enter_async_context(Hostile(behaviour, tls=tls))
            places.append(Place(name, server.url, str(expected)))
            return server.url

        for kind, tls in (("plain", None), ("tls", good)):
            for name, (behaviour, expected) in BEHAVIOURS.items():
                await serve(f"{kind}-{name}", behaviour, expected, tls)
            await serve(f"{kind}-redirect-inside", _redirect(inside.port), 307, tls)
        for name, context in _bad_certificates(authority).items():
            await serve(f"tls-{name}", hostile.silent, Failure.TLS, context)
        silent = await serve("plain-silent", hostile.silent, Failure.TIMEOUT, None)
        places.append(Place("tls-handshake-stall", _with_tls(silent), Failure.CONNECT))
        greeting = await serve("plain-greeting", hostile.garbage_at_once, Failure.BROKEN_RESPONSE, None)
        places.append(Place("tls-greeting", _with_tls(greeting), Failure.TLS))
        for name, listen, expected in (("refuse", _closed, Failure.CONNECT), ("never-accept", _deaf, Failure.TIMEOUT)):
            port = opened.enter_context(listen()).getsockname()[1]
            places.append(Place(f"plain-{name}", f"http://127.0.0.1:{port}/hook", expected))
        yield places, inside.port


def _with_tls(url: str) -> str:
    return url.replace("http://127.0.0.1", "https://localhost")


def _closed() -> socket.socket:
    sock = socket.socket()
    sock.bind(("127.0.0.1", 0))
    return sock


def _deaf() -> socket.socket:
    return socket.create_server(("127.0.0.1", 0))


async def main(folder: Path) -> None:
    """Serve until stdin ends."""
    authority = trustme.CA()
    authority.cert_pem.write_to_path(folder / "ca.pem")
    async with _every_fault(authority) as (places, inside_port):
        print(json.dumps({"places": places, "inside_port": inside_port}), flush=True)  # noqa: T201 - to the test
        await asyncio.to_thread(sys.stdin.read)


if __name__ == "__main__":
    uvloop.run(main(Path(sys.argv[1])))
