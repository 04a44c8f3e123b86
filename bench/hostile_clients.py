"""What hostile clients cost producers: `make hostile`, or `python -m bench.hostile_clients [--only I6,I7] [--quick]`.

For each kind of attack a real `relay serve`, and clients in a process of their own, at the lowest priority, ten times as
many as once stopped it.
A good producer posts all the while, over kept-alive connections and over new ones, and is measured alone just before.
Prints Markdown, and exits with 1 where a figure is missed: its p99 stays within five times that of before, none of its
requests is refused, the relay takes 400 MB at most, and afterwards as many descriptors are open as before.
"""

import argparse
import asyncio
import contextlib
import json
import resource
import socket
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import aiohttp
import uvloop

from bench.attackers import Attack, Request, attacked
from bench.process import Memory
from bench.producers import Produced, p50, p99, produce
from tests.support.daemon import TOKEN, config_text
from tests.support.watched import ALL_SIDES, Side, Watched

SECONDS = 20.0
SECONDS_QUICK = 6.0
NEW_EVERY = 3
SETTLED_S = 15.0
"""How long the relay may take to close everything when the clients have gone."""

P99_RATIO_MAX = 5.0
RSS_MB_MAX = 400
MB_OF_A_MIB = 1.048576

TENANTS = 10
STRICT = TENANTS
"""One more tenant, whose contract has schemas."""

ENDPOINTS = 250
ENDPOINTS_PATH = "/v1/webhook-endpoints"
SETTING_UP = 32
"""Calls at a time that prepare an attack."""

OWED = "max_backlog = 20000\n"
OWED_BY_ONE = "[limits]\nbacklog = 1000\n"
FEW_PLACES = 50


def key(tenant: int) -> str:
    return f"application-key-of-tenant-{tenant}"


def producer_key(tenant: int) -> str:
    return f"producer-key-of-tenant-{tenant}"


def tenants(silent_port: int) -> str:
    """Write the applications of those who attack, with an endpoint each that never answers."""
    return "\n".join(
        f'[[application]]\nid = "tenant-{tenant}"\ncontract = "{"roughy" if tenant == STRICT else "standard"}"\n'
        f'[[application.endpoint]]\nid = "silent-{tenant}"\nurl = "http://127.0.0.1:{silent_port}/"\ntimeout = "10m"\n'
        f'event_types = ["cut.completed"]\nsecret = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"\n'
        f'[[token]]\nname = "key-{tenant}"\nrole = "application"\napplication = "tenant-{tenant}"\nsecret = "{key(tenant)}"\n'
        f'[[token]]\nname = "producer-{tenant}"\nrole = "producer"\napplication = "tenant-{tenant}"\n'
        f'secret = "{producer_key(tenant)}"\n'
        for tenant in (*range(TENANTS), STRICT)
    )


# What each attack needs before it begins


class Stage:
    """A relay that is about to be attacked, and the calls that prepare it."""

    def __init__(self, relay: Watched, http: aiohttp.ClientSession) -> None:
        self.relay = relay
        self._http = http

    async def make_endpoints(self, tenants: Sequence[int], definition: dict[str, Any], paused: bool) -> None:
        """Give each tenant its endpoints."""
        calls = asyncio.Semaphore(SETTING_UP)

        async def one(tenant: int, number: int) -> None:
            url = f"http://127.0.0.1:9/{number}"
            async with calls:
                made = await self._post(ENDPOINTS_PATH, {"application": f"tenant-{tenant}", "url": url} | definition)
                if paused:
                    await self._post(f"{ENDPOINTS_PATH}/{made['id']}/pause", {})

        await asyncio.gather(*(one(tenant, number) for tenant in tenants for number in range(ENDPOINTS)))

    async def _post(self, path: str, body: Any) -> Any:
        async with self._http.post(self.relay.url + path, json=body) as answer:
            assert answer.status < 300, await answer.text()
            return await answer.json()


async def nothing(stage: Stage) -> None:
    """Most attacks need no preparation."""


async def wide_endpoints(stage: Stage) -> None:
    headers = {f"X-Wide-{number}": "w" * 4_000 for number in range(15)}
    await stage.make_endpoints([0], {"event_types": ["never.sent"], "headers": headers}, paused=False)


async def paused_endpoints(stage: Stage) -> None:
    await stage.make_endpoints(range(TENANTS), {"event_types": ["noise.a"]}, paused=True)


# The attacks


def call(path: str, token: str, body: Any = None) -> Request:
    """Write a GET, or a POST of JSON."""
    return Request("GET", path, token) if body is None else Request("POST", path, token, json.dumps(body))


def very_wrong() -> list[Request]:
    """Definitions and a payload with very many mistakes, of 700 kB and more."""
    schedule = {"url": "https://x.example/", "retry": {"schedule": ["x"] * 150_000}}
    unknown = {"url": "https://x.example/"} | {f"unknown{number}": 1 for number in range(60_000)}
    payload = {"type": "cut.completed", "data": {f"u{number}": 1 for number in range(70_000)}}
    return [
        call(ENDPOINTS_PATH, key(STRICT), schedule),
        call(ENDPOINTS_PATH, key(STRICT), unknown),
        call("/v1/events", producer_key(STRICT), payload),
    ]


@dataclass(frozen=True, slots=True)
class Finding:
    """One kind of attack."""

    what: str
    attack: Callable[[int], Attack]  # against a port
    prepare: Callable[[Stage], Any] = nothing
    server: str = ""
    storage: str = ""
    extra: str = ""


def tests_of_silent(port: int) -> Attack:
    path = f"{ENDPOINTS_PATH}/silent-{{}}/test"
    calls = [call(path.format(tenant), key(tenant), {"data": {}}) for tenant in (0, 2)]
    return Attack(port, 10_000, calls, again_s=10)


def unread_lists(port: int) -> Attack:
    return Attack(port, 200, [call(f"{ENDPOINTS_PATH}?limit=250", key(0))], pipelined=20, reads=False)


def wrong_bodies(port: int) -> Attack:
    return Attack(port, 60, very_wrong(), again_s=0)


def owing(port: int) -> Attack:
    event = {"type": "noise.a", "data": {"text": "n" * 200}}
    return Attack(
        port, 10 * TENANTS, [call("/v1/events", producer_key(each), event) for each in range(TENANTS)], again_s=1
    )


def unread_pipelines(port: int) -> Attack:
    calls = [call("/healthz", ""), call("/v1/event-types", key(0))]
    return Attack(port, 10 * FEW_PLACES, calls, pipelined=2_000, reads=False)


def dripped_heads(port: int) -> Attack:
    return Attack(port, 10_000, [Request("POST", "/" + "d" * 4_000)], drips=True)


FINDINGS = {
    "I4": Finding("10,000 tests of silent endpoints at once", tests_of_silent),
    "I6": Finding("200 connections that ask for 20 MiB of lists and read nothing", unread_lists, wide_endpoints),
    "I7": Finding("60 connections that post bodies with 60,000 mistakes and more, again and again", wrong_bodies),
    "I8": Finding(
        f"{TENANTS} tenants with {ENDPOINTS} paused endpoints each, and 100 connections that post to them",
        owing, paused_endpoints, storage=OWED, extra=OWED_BY_ONE,
    ),
    "I10": Finding(
        f"{10 * FEW_PLACES} connections that pipeline 2,000 requests and never read, on {FEW_PLACES} places",
        unread_pipelines, server=f"max_connections = {FEW_PLACES}\n",
    ),
    "I11": Finding("10,000 connections that drip a head", dripped_heads),
}  # fmt: skip


# What is measured


class Row(NamedTuple):
    """What was measured of one attack."""

    id: str
    what: str
    alone: Produced
    beside: Produced
    rss_mb: float
    descriptors: tuple[int, int]  # before, and afterwards
    seen: dict[str, int]  # what the clients saw

    def missed(self) -> list[str]:
        """Which requirements are missed."""
        found = {
            "p99": p99(self.beside.kept_ms) > P99_RATIO_MAX * p99(self.alone.kept_ms),
            "p99 of new connections": p99(self.beside.new_ms) > P99_RATIO_MAX * p99(self.alone.new_ms),
            "refused": self.beside.refused > 0,
            "memory": self.rss_mb > RSS_MB_MAX,
            "descriptors": self.descriptors[1] > self.descriptors[0],
        }
        return [name for name, is_missed in found.items() if is_missed]

    def written(self) -> str:
        """Write a line of the table."""
        kept, new = (
            f"{p50(before):.1f}, {p99(before):.1f} → {p50(after):.1f}, {p99(after):.1f}"
            for before, after in ((self.alone.kept_ms, self.beside.kept_ms), (self.alone.new_ms, self.beside.new_ms))
        )
        before, after = self.descriptors
        verdict = ", ".join(self.missed())
        return (f"| {self.id}: {self.what} | {kept} | {new} | {self.beside.refused} | {self.rss_mb:.0f} "
                f"| {before} → {after} | {'missed: ' + verdict if verdict else 'holds'} |")  # fmt: skip


HEADER = (f"| clients | p50, p99 alone → beside, ms (p99 ≤ {P99_RATIO_MAX:g} ×) | over new connections | refused (0) "
          f"| RSS, MB (≤ {RSS_MB_MAX}) | descriptors (no more) | |\n|---|---|---|---|---|---|---|")  # fmt: skip


async def measure(folder: Path, id: str, finding: Finding, seconds: float, side: Side) -> Row:
    """Measure a producer alone, then beside an attack, and what is left when that has ended."""
    with silent_receiver() as silent_port, Watched(folder, configuration(folder, finding, silent_port), side) as relay:
        memory, url = Memory(relay.pid), relay.url
        async with aiohttp.ClientSession(headers={"Authorization": f"Bearer {TOKEN}"}) as http:
            await finding.prepare(Stage(relay, http))
        await produce(url, 2, NEW_EVERY)
        alone = await produce(url, seconds, NEW_EVERY)
        before = memory.descriptors()
        memory.forget_peak()
        print(f"  {id}: alone {p99(alone.kept_ms):.1f} ms; now the clients", file=sys.stderr, flush=True)
        async with attacked(finding.attack(relay.port)) as attackers:
            beside = await produce(url, seconds, NEW_EVERY)
            rss_mb = memory.peak_mib() * MB_OF_A_MIB
        print(f"  {id}: {attackers.seen}", file=sys.stderr, flush=True)
        after = await settled(memory, before)
    return Row(id, finding.what, alone, beside, rss_mb, (before, after), attackers.seen)


def configuration(folder: Path, finding: Finding, silent_port: int) -> str:
    text = config_text(folder, storage=finding.storage, extra=finding.extra + tenants(silent_port))
    return text.replace("[server]\n", f"[server]\n{finding.server}", 1)


@contextlib.contextmanager
def silent_receiver() -> Iterator[int]:
    """Listen on a port where the kernel takes connections and nobody answers."""
    with socket.create_server(("127.0.0.1", 0), backlog=4096) as listener:
        yield listener.getsockname()[1]


async def settled(memory: Memory, before: int) -> int:
    """Return how many descriptors are open when there are no more than before, or when it has had its time."""
    for _ in range(round(SETTLED_S * 10)):
        if memory.descriptors() <= before:
            break
        await asyncio.sleep(0.1)
    return memory.descriptors()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help=f"{SECONDS_QUICK:g} s instead of {SECONDS:g} each")
    parser.add_argument("--only", default=",".join(FINDINGS), help="some attacks: %(default)s")
    arguments = parser.parse_args()
    unknown = set(arguments.only.split(",")) - set(FINDINGS)
    if unknown:
        parser.error(f"there is no {', '.join(sorted(unknown))}; there are {', '.join(FINDINGS)}")
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    print(HEADER, flush=True)
    missed = []
    for id in arguments.only.split(","):
        print(f"  {id}: {FINDINGS[id].what}", file=sys.stderr, flush=True)
        with tempfile.TemporaryDirectory() as folder:
            seconds = SECONDS_QUICK if arguments.quick else SECONDS
            row = uvloop.run(measure(Path(folder), id, FINDINGS[id], seconds, ALL_SIDES[0]))
        print(row.written(), flush=True)
        missed += [f"{id}: {what}" for what in row.missed()]
    print("\nmissed: " + ("; ".join(missed) or "nothing"))
    sys.exit(bool(missed))


if __name__ == "__main__":
    main()
