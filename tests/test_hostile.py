"""A real relay among hostile parties (T8, T11, T14): what becomes of each attempt, whom it connects to, and who stays.

The short form: `make hostile` runs it on every loop with every parser, and judges the figures of `bench/hostile_receivers.py`
and `bench/slow_loris.py`.
"""

import os
import select
import socket
import sys
from asyncio import sslproto
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pytest

from relay.cli.client import Refused
from relay.core.netguard import Address, as_dialled
from relay.daemon import process
from tests.support.addresses import PUBLIC, corpus, inside
from tests.support.daemon import PRODUCER_TOKEN, config_text
from tests.support.faults import Faults, Place
from tests.support.watched import ALL_SIDES, Side, Watched

pytestmark = pytest.mark.timeout(240)  # processes of several kinds share a busy machine

WHOLE = bool(os.environ.get("HOSTILE"))
"""Whether all combinations run, and not only those in which loop and parser both differ."""


SIDES = ALL_SIDES if WHOLE else ALL_SIDES[:2]
sides = pytest.mark.parametrize("side", SIDES, ids=lambda side: f"{side.loop}-{side.parser}")


ONCE = """
timeout = "3s"
connect_timeout = "2s"
retry = { schedule = [], jitter = 0.0 }
"""
"""Every delivery has one attempt, and ends with it."""


@pytest.fixture(scope="module")
def faults(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Faults]:
    with Faults(tmp_path_factory.mktemp("faults")) as faults:
        yield faults


def came_to(attempt: dict[str, Any]) -> str:
    """The status of an attempt, or the class of its failure."""
    return str(attempt["status"] or attempt["failure"])


@pytest.mark.slow
@sides
def test_every_fault_is_known_for_what_it_is(tmp_path: Path, faults: Faults, side: Side) -> None:
    """T8: each fault of a receiver ends in its class, on a new connection and on a kept one; nobody follows a redirect."""
    endpoints = {place.id: place.url for place in faults.places}
    config = config_text(tmp_path, endpoints=endpoints, delivery=ONCE)
    with Watched(tmp_path, config, side, ca_file=faults.ca_file) as relay:
        for _ in range(2):
            attempts = relay.attempts("render.completed")
            assert wrong(faults.places, attempts) == []
        assert relay.stop() == 0
        assert "Traceback" not in relay.log()
        assert faults.inside_port not in {port for _, port in relay.connects()}


def wrong(places: Sequence[Place], attempts: Mapping[str, dict[str, Any]]) -> list[tuple[str, str, str]]:
    """The faults that were not known for what they are: name, what was expected, and what came."""
    found = [(place, came_to(attempts[place.id])) for place in places]
    return [(place.name, place.expected, outcome) for place, outcome in found if not place.names(outcome)]


def test_the_books_find_a_fault_that_is_misjudged() -> None:
    """Negative control: a refused connection that was taken for a success would be noticed."""
    refused, well = Place("plain-refuse", "", "connect"), Place("plain-well", "", "200")
    attempts = {"plain-refuse": {"status": 200, "failure": None}, "plain-well": {"status": 200, "failure": None}}
    assert wrong([refused, well], attempts) == [("plain-refuse", "connect", "200")]


# Addresses (T11)

CHECKS = ["resolver", "socket"]
"""Addresses are checked when a name has been looked up, and again when a socket is opened."""


def names_of_every_kind(addresses: Sequence[str]) -> dict[str, list[list[str]]]:
    """What the name servers say, answer by answer: inside, public, both at once, and first the one, then the other."""
    public = PUBLIC.split()
    names = {f"public-{number}": [[address]] for number, address in enumerate(public)}
    for number, address in enumerate(addresses):
        outer = public[number % len(public)]
        names[f"inside-{number}"] = [[address]]
        if WHOLE or number % 16 == 0:
            names[f"mixed-{number}"] = [[outer, address]]
            names[f"mixed-too-{number}"] = [[address, outer]]
            names[f"rebound-{number}"] = [[outer], [address]]
    return names


def dialled(relay: Watched) -> set[Address]:
    """The addresses that were connected to, as the kernel would take them."""
    return {as_dialled(ip_address(address.partition("%")[0])) for address, _ in relay.connects()}


def connected_to(folder: Path, side: Side, addresses: Sequence[str], without: Sequence[str]) -> set[Address]:
    """Deliver three events to names of every kind; return what the relay connected to meanwhile."""
    names = names_of_every_kind(addresses)
    endpoints = {name: f"http://{name}.example/" for name in names}
    config = config_text(folder, endpoints=endpoints, delivery=ONCE).replace(LOOPBACK_ALLOWED, "")
    answers = {f"{name}.example": answer for name, answer in names.items()}
    with Watched(folder, config, side, names=answers, without=list(without)) as relay:
        for _ in range(3):  # a rebound name is given its first answer until the second has come
            assert {row["attempts"] for row in relay.deliver("render.completed")} == {1}
        assert relay.stop() == 0
    return dialled(relay)


LOOPBACK_ALLOWED = 'allow_networks = ["127.0.0.0/8", "::1/128"]'
ALL_PUBLIC = {as_dialled(ip_address(address)) for address in PUBLIC.split()}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("side", "without"),
    [
        (side, without)
        for side in SIDES
        for without in ([], ["resolver"])
        if WHOLE or bool(without) == (side.loop == "asyncio")
    ],
    ids=lambda value: "-".join(value) or "all-checks",
)
def test_no_address_inside_is_connected_to(tmp_path: Path, side: Side, without: list[str]) -> None:
    """T11: 0 connects inside, whatever the name servers say and when, also without the check of what they say; all public."""
    assert len(set(inside())) >= 300
    assert len(ALL_PUBLIC) >= 100
    assert connected_to(tmp_path, side, inside(), without) == ALL_PUBLIC


@pytest.mark.slow
def test_the_corpus_finds_a_missing_guard(tmp_path: Path) -> None:
    """Negative control: without both checks the relay connects to addresses inside."""
    some = ["127.0.0.1", "169.254.169.254", "fd00:ec2::254"]
    assert connected_to(tmp_path, SIDES[0], some, CHECKS) - ALL_PUBLIC == set(map(ip_address, some))


def test_no_literal_inside_is_registered(tmp_path: Path) -> None:
    """T11: none of the corpus, as the host of a URL, becomes an endpoint."""
    config = config_text(tmp_path).replace(LOOPBACK_ALLOWED, "")
    taken = []
    with Watched(tmp_path, config, SIDES[0]) as relay:
        for address in corpus():
            host = f"[{address}]" if ":" in address and "[" not in address else address
            try:
                relay.api.post("/v1/webhook-endpoints", {"application": "acme", "url": f"https://{host}/"})
                taken.append(address)
            except Refused:
                pass
        made = relay.api.post("/v1/webhook-endpoints", {"application": "acme", "url": "https://93.184.216.34/"})
    assert (taken, made["state"]) == ([], "enabled")


# Connections that only stay (T14)

HEAD = b"POST /v1/events HTTP/1.1\r\nHost: relay.example\r\nX-Slow: " + b"y" * 4_000
CONNECTIONS_MAX = 150
CROWD = 200
"""More than the relay takes at once: the oldest that have not said who they are give way."""


@contextmanager
def besieged(
    folder: Path, side: Side, head_timeout: str, max_connections: int = CONNECTIONS_MAX
) -> Iterator[tuple[Watched, list[socket.socket]]]:
    """Run a relay with as many connections that say nothing as such that drip a head."""
    config = config_text(folder).replace(
        "[server]", f'[server]\nhead_timeout = "{head_timeout}"\nmax_connections = {max_connections}'
    )
    with Watched(folder, config, side) as relay, ExitStack() as opened:
        address = ("127.0.0.1", relay.port)
        yield relay, [opened.enter_context(socket.create_connection(address)) for _ in range(CROWD)]


def drip(connections: Sequence[socket.socket], at: int) -> None:
    """Send one more byte of a head on every other connection."""
    for connection in connections[::2]:
        with suppress(OSError):
            connection.send(HEAD[at : at + 1])


def closed(connections: Sequence[socket.socket], patience_s: float = 0) -> list[socket.socket]:
    """Those whose other end says something, or has closed."""
    watch = select.poll()
    for connection in connections:
        watch.register(connection, select.POLLIN)
    named = {connection.fileno(): connection for connection in connections}
    return [named[number] for number, _ in watch.poll(patience_s * 1_000)]


@pytest.mark.slow
@sides
def test_connections_that_only_stay_end_and_refuse_nobody(tmp_path: Path, side: Side) -> None:
    """T14: of 100 idle and 100 dripping connections, more than may be, each ends; every event meanwhile is taken."""
    with besieged(tmp_path, side, "1s") as (relay, staying):
        producer, posted = relay.api_as(PRODUCER_TOKEN), 0
        while staying:
            drip(staying, posted)
            producer.post("/v1/events", {"type": "render.completed", "data": {"n": posted}})
            posted += 1
            for connection in closed(staying):
                with suppress(ConnectionResetError):
                    assert not connection.recv(65_536).startswith(b"HTTP/1.1 2")
                staying.remove(connection)
        assert len(list(relay.api.pages("/v1/events"))) == posted
        assert relay.stop() == 0


def test_the_siege_finds_a_listener_without_deadline(tmp_path: Path) -> None:
    """Negative control: where a head may take a minute, no connection has ended when all would have."""
    with besieged(tmp_path, SIDES[0], "1m", max_connections=2 * CROWD) as (relay, staying):
        relay.api.get("/v1/status")
        assert closed(staying, patience_s=2.5) == []


# Memory


def test_without_uvloop_a_tls_connection_reads_one_record_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """T8: asyncio's own loop would keep 256 KiB for each connection, and 500 that never end 125 MiB."""
    monkeypatch.setitem(sys.modules, "uvloop", None)
    monkeypatch.setattr(sslproto.SSLProtocol, "max_size", sslproto.SSLProtocol.max_size)
    assert process._loop_factory() is None
    assert sslproto.SSLProtocol.max_size == process.TLS_READ_BYTES == 16_384
