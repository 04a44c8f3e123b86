"""Producers that post at a steady rate while others are measured, and what they see."""

import asyncio
import time
from typing import NamedTuple

import aiohttp

from tests.support.daemon import PRODUCER_TOKEN

PRODUCERS = 8
RATE = 100
TIMEOUT = aiohttp.ClientTimeout(total=10)
"""A request that has no answer by then counts as refused."""


class Produced(NamedTuple):
    """What producers saw: how long their requests took, in ms, and how many were not answered with 202."""

    kept_ms: list[float]  # over connections that stay
    new_ms: list[float]  # over a new connection each
    refused: int


def p50(latencies_ms: list[float]) -> float:
    return sorted(latencies_ms)[len(latencies_ms) // 2]


def p99(latencies_ms: list[float]) -> float:
    return sorted(latencies_ms)[len(latencies_ms) * 99 // 100]


async def produce(url: str, seconds: float, new_every: int = 10) -> Produced:
    """Post at a steady rate, over kept-alive connections and, every so many events, over a new one."""
    seen = Produced([], [], 0)
    headers = {"Authorization": f"Bearer {PRODUCER_TOKEN}"}
    async with (
        aiohttp.ClientSession(
            headers=headers, timeout=TIMEOUT, connector=aiohttp.TCPConnector(limit=PRODUCERS)
        ) as kept,
        aiohttp.ClientSession(
            headers=headers, timeout=TIMEOUT, connector=aiohttp.TCPConnector(limit=0, force_close=True)
        ) as new,
    ):

        async def one(number: int) -> bool:
            http, latencies = (new, seen.new_ms) if number % new_every == 0 else (kept, seen.kept_ms)
            started = time.monotonic()
            try:
                async with http.post(f"{url}/v1/events", json={"type": "a.b", "data": {"n": number}}) as answer:
                    return answer.status == 202
            except (aiohttp.ClientError, OSError):
                return False
            finally:
                latencies.append((time.monotonic() - started) * 1_000)

        first = time.monotonic()
        tasks = []
        for step in range(round(seconds * RATE)):
            await asyncio.sleep(first + step / RATE - time.monotonic())
            tasks.append(asyncio.create_task(one(step)))
        taken = await asyncio.gather(*tasks)
    return seen._replace(refused=taken.count(False))
