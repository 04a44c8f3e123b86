"""What connections cost that only stay (reliability T14): `make hostile`, or `python -m bench.slow_loris [--quick]`.

1,000 connections that say nothing and 1,000 that drip a request's head, byte by byte, beside producers, against a real
`relay serve` on each event loop with each of aiohttp's parsers. The producers are measured alone just before. Prints
Markdown, and exits with 1 where a figure is missed: every hostile connection is closed within 15 s, no request of a
producer is refused, the producers' p99 stays under twice that of before, the relay grows by 100 MiB at most, and
afterwards as many descriptors are open as before.
"""

import argparse
import asyncio
import resource
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple, cast

import uvloop

from bench.process import Memory
from bench.producers import p99, produce
from tests.support.daemon import config_text
from tests.support.watched import ALL_SIDES, Side, Watched

IDLE = DRIPPING = 1_000
SECONDS = 16.0
HEAD = b"POST /v1/events HTTP/1.1\r\nHost: relay.example\r\nX-Slow: " + b"y" * 4_000

CLOSED_S_MAX = 15.0
P99_RATIO_MAX = 2.0
GROWTH_MIB_MAX = 100


class Lingering(asyncio.Protocol):
    """A connection that only stays. Knows when it began and when it was ended."""

    def __init__(self, dripping: bool) -> None:
        self._dripping = dripping
        self._sent = 0
        self.began_at = time.monotonic()
        self.ended_at: float | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)

    def connection_lost(self, exc: Exception | None) -> None:
        self.ended_at = time.monotonic()

    def drip(self) -> None:
        """Send one more byte, if this one drips."""
        if self._dripping and self.ended_at is None:
            self.transport.write(HEAD[self._sent : self._sent + 1])
            self._sent += 1

    @property
    def lived_s(self) -> float:
        return (self.ended_at or time.monotonic()) - self.began_at


async def besiege(port: int) -> list[Lingering]:
    """Open every hostile connection, as fast as they are taken."""
    loop = asyncio.get_running_loop()

    async def open_one(dripping: bool) -> Lingering:
        _, made = await loop.create_connection(lambda: Lingering(dripping), "127.0.0.1", port)
        return made

    wanted = [open_one(number % 2 == 0) for number in range(IDLE + DRIPPING)]
    opened: list[Lingering] = []
    for start in range(0, len(wanted), 100):
        opened += await asyncio.gather(*wanted[start : start + 100])
    return opened


async def drip(opened: Sequence[Lingering]) -> None:
    """Send a byte a second on each of those that drip."""
    while True:
        for each in opened:
            each.drip()
        await asyncio.sleep(1)


class Row(NamedTuple):
    """What was measured on one side."""

    side: Side
    longest_s: float
    refused: int
    alone_ms: float
    beside_ms: float
    growth_mib: float
    descriptors: int  # that are open afterwards beyond those of before

    def missed(self) -> list[str]:
        """Which requirements are missed."""
        found = {
            "closed": self.longest_s > CLOSED_S_MAX,
            "refused": self.refused > 0,
            "p99": self.beside_ms > P99_RATIO_MAX * self.alone_ms,
            "memory": self.growth_mib > GROWTH_MIB_MAX,
            "descriptors": self.descriptors > 0,
        }
        return [
            f"{name} ({self.side.loop}, {self.side.parser} parser)" for name, is_missed in found.items() if is_missed
        ]


async def measure(folder: Path, side: Side) -> Row:
    """Measure producers alone, then beside hostile connections, and what became of these."""
    with Watched(folder, config_text(folder), side) as relay:
        memory, url, port = Memory(relay.pid), relay.url, relay.port
        await produce(url, 2)
        alone = await produce(url, SECONDS / 2)
        descriptors, before_mib = memory.descriptors(), memory.forget_peak()
        beside = asyncio.create_task(produce(url, SECONDS))
        opened = await besiege(port)
        dripping = asyncio.create_task(drip(opened))
        produced = await beside
        dripping.cancel()
        longest_s = max(each.lived_s for each in opened)
        growth_mib = memory.peak_mib() - before_mib
        for each in opened:
            each.transport.abort()
        await asyncio.sleep(1)
        left = memory.descriptors() - descriptors
    alone_ms, beside_ms = (p99(each.kept_ms + each.new_ms) for each in (alone, produced))
    return Row(side, longest_s, produced.refused, alone_ms, beside_ms, growth_mib, left)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="one loop and one parser")
    sides = ALL_SIDES[:1] if parser.parse_args().quick else ALL_SIDES
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    print(f"| {IDLE:,} idle and {DRIPPING:,} dripping connections | longest, s (≤ {CLOSED_S_MAX:g}) | refused (0) "
          f"| producers' p99: alone, beside (≤ {P99_RATIO_MAX:g} ×), ms | growth, MiB (≤ {GROWTH_MIB_MAX}) "
          "| descriptors left (0) |\n|---|---|---|---|---|---|")  # fmt: skip
    missed = []
    for side in sides:
        with tempfile.TemporaryDirectory() as folder:
            row = uvloop.run(measure(Path(folder), side))
        print(f"| {side.loop}, {side.parser} parser | {row.longest_s:.1f} | {row.refused:,} | {row.alone_ms:.1f}, "
              f"{row.beside_ms:.1f} | {row.growth_mib:.1f} | {row.descriptors} |", flush=True)  # fmt: skip
        missed += row.missed()
    print("\nmissed: " + ("; ".join(missed) or "nothing"))
    sys.exit(bool(missed))


if __name__ == "__main__":
    main()
