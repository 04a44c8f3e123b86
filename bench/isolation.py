"""What hostile receivers cost the others: `python -m bench.isolation [--runs 5] [--seconds 10]`.

A real `relay serve` process; receivers and producer in this one, over real sockets. An endpoint is measured alone, then
beside others of another application or of its own: silent ones accept connections and never answer. The wait of a delivery
is the time from the producer's request to its arrival at the receiver. Prints Markdown for `bench/README.md`.
"""

import argparse
import asyncio
import json
import resource
import statistics
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
    answers: str  # "well", "slow", "flaky", "busy" (well, until it is told otherwise), "silent"
    types: str
    timeout: str = "15s"


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


Play = Callable[[Town, float], Awaitable[list[float]]]


class Scenario(NamedTuple):
    name: str
    hostile: Sequence[Endpoint]  # of the application `hostile`
    play: Play


async def healthy(town: Town, seconds: float) -> list[float]:
    await town.post("other", "well.a", 20)
    return await town.measure("other", "well.a", seconds)


async def beside_silent(town: Town, seconds: float) -> list[float]:
    await town.post("other", "well.a", 20)
    await town.post("hostile", "noise.a", 2)
    return await town.measure("other", "well.a", seconds)


async def beside_falling_silent(town: Town, seconds: float) -> list[float]:
    await town.post("other", "well.a", 20)
    for _ in range(20):
        await town.post("hostile", "noise.a", 1)
        await asyncio.sleep(0.05)
    measured = asyncio.create_task(town.measure("other", "well.a", seconds))
    await asyncio.sleep(seconds / 4)
    Receiver.is_silent = True
    await town.post("hostile", "noise.a", 20)
    return await measured


async def flaky(town: Town, seconds: float) -> list[float]:
    await town.post("hostile", "flaky.a", 20)
    await town.post("hostile", "noise.a", 2)
    await asyncio.sleep(1)
    return await town.measure("hostile", "flaky.a", seconds)


async def slow(town: Town, seconds: float) -> list[float]:
    await town.post("hostile", "slow.a", 20)
    await asyncio.sleep(2 * SLOW_S)
    await town.post("hostile", "noise.a", 2)
    return await town.measure("hostile", "slow.a", seconds, rate=12)


def silent(count: int, timeout: str) -> list[Endpoint]:
    return [Endpoint(f"silent-{number}", "silent", "noise.*", timeout) for number in range(count)]


SCENARIOS = (
    Scenario("alone", (), healthy),
    Scenario("I1: 500 new silent endpoints, time-out 60 s", silent(500, "60s"), beside_silent),
    Scenario(
        "I2: 60 busy endpoints fall silent at once",
        [Endpoint(f"busy-{number}", "busy", "noise.*") for number in range(60)],
        beside_falling_silent,
    ),
    Scenario("I3: 100 silent endpoints", silent(100, "15s"), beside_silent),
    Scenario(
        "fails 1 in 50, 200 silent of its own application",
        [*silent(200, "15s"), Endpoint("flaky", "flaky", "flaky.*")],
        flaky,
    ),
    Scenario(
        "answers after 1.2 s (12 posted a second), 200 silent of its own application",
        [*silent(200, "15s"), Endpoint("slow", "slow", "slow.*")],
        slow,
    ),
)


def written(application: str, endpoints: Sequence[Endpoint], port: int) -> str:
    blocks = [f'[[application]]\nid = "{application}"\n']
    blocks += [
        f'[[application.endpoint]]\nid = "{each.id}"\nurl = "http://127.0.0.1:{port}/{each.answers}/{each.id}"\n'
        f'event_types = ["{each.types}"]\ntimeout = "{each.timeout}"\nsecret = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLwTt"\n'
        for each in endpoints
    ]
    return "\n".join(blocks)


async def run(scenario: Scenario, folder: Path, seconds: float) -> tuple[list[float], float]:
    """Play a scenario; return the waits, and deliveries per second from the first arrival to the last."""
    Receiver.arrived, Receiver.is_silent, Receiver.flaky = {}, False, 0
    server = await asyncio.get_running_loop().create_server(Receiver, "127.0.0.1", 0, backlog=4096)
    port = server.sockets[0].getsockname()[1]
    config = CONFIG.format(folder=folder, token=TOKEN)
    config += written("other", [Endpoint("well", "well", "well.*")], port)
    config += written("hostile", scenario.hostile, port) if scenario.hostile else ""
    with Daemon(folder, config) as daemon:
        async with aiohttp.ClientSession(headers={"Authorization": f"Bearer {TOKEN}"}) as http:
            waits = await scenario.play(Town(daemon, http), seconds)
    server.close()
    per_second = Counter(int(at) for at in Receiver.arrived.values())
    whole = sorted(per_second)[2:-1]  # the first, and those that are not whole, say nothing
    return waits, statistics.median([per_second[second] for second in whole] or [0])


def at(waits: Sequence[float], share: float) -> float:
    return waits[min(int(len(waits) * share), len(waits) - 1)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=10)
    parser.add_argument("--only", default="", help="scenarios whose name holds this")
    arguments = parser.parse_args()
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    print("| beside | p50, ms | p90, ms | p99, ms | longest, ms | delivered/s |\n|---|---|---|---|---|---|")
    for scenario in SCENARIOS:
        if arguments.only not in scenario.name:
            continue
        figures = []
        for _ in range(arguments.runs):
            with tempfile.TemporaryDirectory() as folder:
                waits, rate = uvloop.run(run(scenario, Path(folder), arguments.seconds))
            figures.append((at(waits, 0.5), at(waits, 0.9), at(waits, 0.99), waits[-1], rate))
        medians = [statistics.median(column) for column in zip(*figures, strict=True)]
        print(f"| {scenario.name} | " + " | ".join(f"{figure:,.1f}" for figure in medians) + " |", flush=True)


if __name__ == "__main__":
    main()
