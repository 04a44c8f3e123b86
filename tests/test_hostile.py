"""A real relay among hostile parties (reliability T8, T11): what becomes of each attempt, and whom it connects to.

The short form; `make hostile` runs all combinations of loops and parsers, and judges figures (`bench/hostile.py`).
"""

import os
from collections.abc import Iterator, Mapping, Sequence
from ipaddress import ip_address
from pathlib import Path
from typing import Any, NamedTuple

import orjson
import pytest

from relay.cli.client import Refused
from relay.core.netguard import Address, as_dialled
from tests.support.addresses import PUBLIC, corpus, inside
from tests.support.daemon import PRODUCER_TOKEN, Daemon, config_text
from tests.support.faults import Faults, Place

WHOLE = bool(os.environ.get("HOSTILE"))
"""Whether all combinations run, and not only those in which loop and parser both differ."""


class Side(NamedTuple):
    """On which loop a relay runs, and which of aiohttp's parsers reads what it is sent."""

    loop: str
    parser: str


SIDES = [Side("uvloop", "C"), Side("asyncio", "Python")]
SIDES += [Side("uvloop", "Python"), Side("asyncio", "C")] if WHOLE else []
sides = pytest.mark.parametrize("side", SIDES, ids=lambda side: f"{side.loop}-{side.parser}")


class Watched(Daemon):
    """A relay whose connects are written down."""

    def __init__(self, folder: Path, config: str, side: Side, *, ca_file: Path | None = None, **stage: Any) -> None:
        self._connects = folder / "connects"
        staged = stage | {"loop": side.loop, "connects": str(self._connects)}
        env = {"WATCHED": orjson.dumps(staged).decode()}
        env |= {"AIOHTTP_NO_EXTENSIONS": "1"} if side.parser == "Python" else {}
        env |= {"SSL_CERT_FILE": str(ca_file)} if ca_file else {}
        super().__init__(folder, config, module="tests.support.watched", env=env)

    def connects(self) -> list[tuple[str, int]]:
        """Every address and port that it connected to, or would have."""
        lines = [line.split() for line in self._connects.read_text().splitlines()]
        return [(address, int(port)) for address, port in lines]

    def deliver(self, event_type: str) -> list[dict[str, Any]]:
        """Post an event; return its deliveries when each has ended."""
        event = self.api_as(PRODUCER_TOKEN).post("/v1/events", {"type": event_type, "data": {}})["id"]
        while self.api.get("/v1/status")["due"]:
            pass
        return list(self.api.pages(f"/v1/events/{event}/deliveries"))

    def attempts(self, event_type: str) -> dict[str, dict[str, Any]]:
        """Post an event; return the one attempt of each delivery by its endpoint, when all have ended."""
        rows = self.deliver(event_type)
        return {row["endpoint"]: self.api.get(f"/v1/deliveries/{row['id']}")["timeline"][0] for row in rows}


ONCE = """
timeout = "1s"
connect_timeout = "500ms"
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
