"""What hostile receivers cost the others: `python -m bench.isolation [--runs 5] [--seconds 10]`.

A real `relay serve` process; receivers and producer in this one, over real sockets. An endpoint is measured alone, then,
under the same relay, beside others of another application or of its own: silent ones accept connections and never answer,
nameless ones have names that no name server answers for. The wait of a delivery is the time from the producer's request to
its arrival at the receiver. Every figure is the median over the runs; a ratio is taken within a run. Prints Markdown for
`bench/README.md`, and exits with 1 where a row misses what it must show.
"""

import argparse
import asyncio
import json
import math
import resource
import statistics
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import ClassVar, NamedTuple, cast

import aiohttp
import uvloop

from bench.receiver import split
from tests.support.daemon import TOKEN, Daemon
from tests.support.watched import ALL_SIDES, Watched

RATE = 50
"""Events per second for the endpoint that is measured."""

SLOW_S = 1.2
FAILS_ONE_IN = 50

CONFIG = """
[server]
listen = ["127.0.0.1:0"]

[storage]
path = "{folder}/relay.db"

[delivery]
allow_http = true
allow_networks = ["127.0.0.0/8"]
drain_timeout = "0s"
retry = {{ schedule = ["5s", "5m"] }}

[[token]]
name = "admin"
role = "admin"
secret = "{token}"
"""


class Endpoint(NamedTuple):
    """An endpoint of the configuration; its path says how its receiver answers."""

    id: str
    answers: str  # "well", "slow", "flaky", "busy" (well, until it is told otherwise), "silent", "nameless"
    types: str
    timeout: str = "15s"

    def url(self, port: int) -> str:
        """Where it is: a nameless one under a name that no server answers for."""
        host = f"{self.id}.example" if self.answers == "nameless" else "127.0.0.1"
        return f"http://{host}:{port}/{self.answers}/{self.id}"


class Receiver(asyncio.Protocol):
    """One connection to any receiver; arrivals are noted for all."""

    arrived: ClassVar[dict[int, float]] = {}  # by the event's number
    is_silent = False
    flaky = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._pending = b""

    def data_received(self, data: bytes) -> None:
        self._pending += data
        while (request := split(self._pending)) is not None:
            head, body, self._pending = request
            self._take(head.split(b" ", 2)[1].decode(), json.loads(body)["data"]["n"])

    def _take(self, path: str, number: int) -> None:
        answers = path.split("/")[1]
        if answers == "silent" or (answers == "busy" and Receiver.is_silent):
            return
        if answers == "slow":
            asyncio.get_running_loop().call_later(SLOW_S, self._answer, 204, number)
            return
        status = 204
        if answers == "flaky":
            Receiver.flaky += 1
            status = 500 if Receiver.flaky % FAILS_ONE_IN == 0 else 204
        self._answer(status, number)

    def _answer(self, status: int, number: int) -> None:
        Receiver.arrived.setdefault(number, time.monotonic())
        reason = b"No Content" if status == 204 else b"Error\r\nContent-Length: 0"
        self._transport.write(b"HTTP/1.1 %d %b\r\n\r\n" % (status, reason))


class Town:
    """A relay with hostile and measured endpoints, and its producer."""

    def __init__(self, daemon: Daemon, http: aiohttp.ClientSession) -> None:
        self._url = f"{daemon.url}/v1/events"
        self._http = http
        self._number = 0

    async def post(self, application: str, event_type: str, count: int = 1) -> list[int]:
        """Post events; return their numbers."""
        numbers = list(range(self._number, self._number + count))
        self._number += count
        for number in numbers:
            body = {"application": application, "type": event_type, "data": {"n": number}}
            async with self._http.post(self._url, json=body) as response:
                assert response.status == 202, await response.text()
        return numbers

    async def measure(self, application: str, event_type: str, seconds: float, rate: int = RATE) -> list[float]:
        """Post at a steady rate; return how long each delivery was on its way, in ms: up to now if it did not arrive."""
        sent: dict[int, float] = {}
        tasks: list[asyncio.Task[None]] = []

        async def one() -> None:
            started = time.monotonic()
            (number,) = await self.post(application, event_type)
            sent[number] = started

        first = time.monotonic()
        for step in range(round(seconds * rate)):
            await asyncio.sleep(first + step / rate - time.monotonic())
            tasks.append(asyncio.create_task(one()))
        await asyncio.gather(*tasks)
        await asyncio.sleep(0.5)
        now = time.monotonic()
        return sorted((Receiver.arrived.get(number, now) - started) * 1_000 for number, started in sent.items())


class Waits(NamedTuple):
    """How long deliveries were on their way in one run, in ms and sorted: beside others, and before that alone."""

    beside: list[float]
    alone: list[float]


Play = Callable[[Town, float], Awaitable[Waits]]


async def beside_silent(town: Town, seconds: float) -> Waits:
    await town.post("other", "well.a", 20)
    alone = await town.measure("other", "well.a", seconds)
    await town.post("hostile", "noise.a", 2)
    return Waits(await town.measure("other", "well.a", seconds), alone)


async def beside_falling_silent(town: Town, seconds: float) -> Waits:
    await town.post("other", "well.a", 20)
    alone = await town.measure("other", "well.a", seconds)
    for _ in range(20):
        await town.post("hostile", "noise.a", 1)
        await asyncio.sleep(0.05)
    measured = asyncio.create_task(town.measure("other", "well.a", seconds))
    await asyncio.sleep(seconds / 4)
    Receiver.is_silent = True
    await town.post("hostile", "noise.a", 20)
    return Waits(await measured, alone)


async def flaky(town: Town, seconds: float) -> Waits:
    await town.post("hostile", "flaky.a", 20)
    alone = await town.measure("hostile", "flaky.a", seconds)
    await town.post("hostile", "noise.a", 2)
    await asyncio.sleep(1)
    return Waits(await town.measure("hostile", "flaky.a", seconds), alone)


async def slow(town: Town, seconds: float) -> Waits:
    await town.post("hostile", "slow.a", 20)
    await asyncio.sleep(2 * SLOW_S)
    await town.post("hostile", "noise.a", 2)
    Receiver.arrived.clear()
    return Waits(await town.measure("hostile", "slow.a", seconds, rate=12), [])


class Figures(NamedTuple):
    """What one run came to, or the median of several."""

    p50_ms: float
    p90_ms: float
    p99_ms: float
    ratio: float  # of p99 to that alone
    longest_ms: float
    rate: float  # deliveries per second


Verdict = Callable[[Figures], bool]


class Scenario(NamedTuple):
    name: str
    hostile: Sequence[Endpoint]  # of the application `hostile`
    play: Play
    must: str
    holds: Verdict


def silent(count: int, timeout: str) -> list[Endpoint]:
    return [Endpoint(f"silent-{number}", "silent", "noise.*", timeout) for number in range(count)]


UNHARMED = "p99 ≤ 1.5 × alone, longest ≤ 100 ms"


def unharmed(figures: Figures) -> bool:
    return figures.ratio <= 1.5 and figures.longest_ms <= 100


SCENARIOS = (
    Scenario(
        "I1: 500 new silent endpoints, time-out 60 s",
        silent(500, "60s"),
        beside_silent,
        UNHARMED,
        unharmed,
    ),
    Scenario(
        "I2: 60 busy endpoints fall silent at once",
        [Endpoint(f"busy-{number}", "busy", "noise.*") for number in range(60)],
        beside_falling_silent,
        UNHARMED,
        unharmed,
    ),
    Scenario("I3: 100 silent endpoints", silent(100, "15s"), beside_silent, UNHARMED, unharmed),
    Scenario(
        "T9: 50 silent and 50 nameless endpoints",
        [*silent(50, "15s"), *(Endpoint(f"nameless-{number}", "nameless", "noise.*") for number in range(50))],
        beside_silent,
        "p99 ≤ 1.5 × alone, and ≤ 250 ms",
        lambda figures: figures.ratio <= 1.5 and figures.p99_ms <= 250,
    ),
    Scenario(
        "fails 1 in 50, 200 silent of its own application",
        [*silent(200, "15s"), Endpoint("flaky", "flaky", "flaky.*")],
        flaky,
        "p90 ≤ 50 ms",
        lambda figures: figures.p90_ms <= 50,
    ),
    Scenario(
        "answers after 1.2 s (12 posted a second), 200 silent of its own application",
        [*silent(200, "15s"), Endpoint("slow", "slow", "slow.*")],
        slow,
        "≥ 10 delivered/s",
        lambda figures: figures.rate >= 10,
    ),
)


def written(application: str, endpoints: Sequence[Endpoint], port: int) -> str:
    blocks = [f'[[application]]\nid = "{application}"\n']
    blocks += [
        f'[[application.endpoint]]\nid = "{each.id}"\nurl = "{each.url(port)}"\n'
        f'event_types = ["{each.types}"]\ntimeout = "{each.timeout}"\nsecret = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLwTt"\n'
        for each in endpoints
    ]
    return "\n".join(blocks)


async def run(scenario: Scenario, folder: Path, seconds: float) -> Figures:
    """Play a scenario once."""
    Receiver.arrived, Receiver.is_silent, Receiver.flaky = {}, False, 0
    server = await asyncio.get_running_loop().create_server(Receiver, "127.0.0.1", 0, backlog=4096)
    port = server.sockets[0].getsockname()[1]
    config = CONFIG.format(folder=folder, token=TOKEN)
    config += written("other", [Endpoint("well", "well", "well.*")], port)
    config += written("hostile", scenario.hostile, port)
    nameless: dict[str, list[None]] = {
        f"{each.id}.example": [None] for each in scenario.hostile if each.answers == "nameless"
    }
    with Watched(folder, config, ALL_SIDES[0], names=nameless) as relay:
        async with aiohttp.ClientSession(headers={"Authorization": f"Bearer {TOKEN}"}) as http:
            waits = await scenario.play(Town(relay, http), seconds)
    server.close()
    return figures_of(waits, list(Receiver.arrived.values()))


def figures_of(waits: Waits, arrivals: Sequence[float]) -> Figures:
    """Sum a run up. The rate is that of the middle second: the first, and those that are not whole, say nothing."""
    p99_ms = at(waits.beside, 0.99)
    ratio = p99_ms / at(waits.alone, 0.99) if waits.alone else math.nan
    per_second = Counter(int(arrived) for arrived in arrivals)
    whole = sorted(per_second)[2:-1]
    rate = statistics.median([per_second[second] for second in whole] or [0])
    return Figures(at(waits.beside, 0.5), at(waits.beside, 0.9), p99_ms, ratio, waits.beside[-1], rate)


def at(waits: Sequence[float], share: float) -> float:
    return waits[min(int(len(waits) * share), len(waits) - 1)]


def medians(runs: Sequence[Figures]) -> Figures:
    return Figures(*(statistics.median(column) for column in zip(*runs, strict=True)))


def row(scenario: Scenario, figures: Figures) -> str:
    """Write what a scenario came to, and whether that is what it must show."""
    ratio = "–" if math.isnan(figures.ratio) else f"{figures.ratio:.2f}"
    milliseconds = " | ".join(f"{figure:,.1f}" for figure in figures[:3])
    rest = f"{figures.longest_ms:,.1f} | {figures.rate:,.1f} | {scenario.must}"
    return f"| {scenario.name} | {milliseconds} | {ratio} | {rest} | {'yes' if scenario.holds(figures) else 'NO'} |"


HEADING = """
| beside | p50, ms | p90, ms | p99, ms | p99 ÷ alone | longest, ms | delivered/s | must | holds |
|---|---|---|---|---|---|---|---|---|"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=10)
    parser.add_argument("--only", default="", help="scenarios whose name holds this")
    arguments = parser.parse_args()
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    print(HEADING)
    held = []
    for scenario in (scenario for scenario in SCENARIOS if arguments.only in scenario.name):
        runs = []
        for _ in range(arguments.runs):
            with tempfile.TemporaryDirectory() as folder:
                runs.append(uvloop.run(run(scenario, Path(folder), arguments.seconds)))
        held.append(scenario.holds(medians(runs)))
        print(row(scenario, medians(runs)), flush=True)
    sys.exit(not all(held))


if __name__ == "__main__":
    main()
