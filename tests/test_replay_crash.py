"""kill -9 while a replay runs: none is lost, and none is repeated but what was under way.

`REPLAYED` dead letters, 400 in the gate; `CRASH_REPLAYED=10000` for as many as wanted.
"""

import asyncio
import os
from collections import Counter
from pathlib import Path

import pytest

from tests.support.daemon import PRODUCER_TOKEN, Daemon, config_text
from tests.support.receiver import Received, Receiver
from tests.support.waiting import until

REPLAYED = int(os.environ.get("CRASH_REPLAYED", "400"))
KILLS = 4
SLOTS = 16
ONE_ATTEMPT = "retry = { schedule = [], jitter = 0.0 }\nconcurrency = 16"
BATCH = 100


class Books:
    """What a receiver answers, and what it took."""

    def __init__(self) -> None:
        self.answer = 400
        self.refused = 0
        self.taken: Counter[str] = Counter()

    def __call__(self, request: Received) -> int:
        if self.answer == 204:
            self.taken[request.headers["webhook-id"]] += 1
        else:
            self.refused += 1
        return self.answer


async def dead(daemon: Daemon, books: Books) -> None:
    """Post events that die of their one attempt."""
    producer = daemon.api_as(PRODUCER_TOKEN)
    for start in range(0, REPLAYED, BATCH):
        events = [{"type": "a.b", "data": {"n": start + n}} for n in range(BATCH)]
        await asyncio.to_thread(producer.post, "/v1/events/batch", events)
    await until(lambda: books.refused >= REPLAYED)
    while (await asyncio.to_thread(daemon.api.get, "/v1/status"))["due"]:
        pass  # the last settles


@pytest.mark.timeout(300)
async def test_kill_nine_while_a_replay_runs(tmp_path: Path) -> None:
    """Killed again and again while it runs, a replay sends every dead letter, and again only what was under way."""
    books = Books()
    async with Receiver(default=books) as receiver:
        config = config_text(tmp_path, endpoints={"one": receiver.url}, endpoint_settings=ONE_ATTEMPT)
        daemon = Daemon(tmp_path, config)
        try:
            await asyncio.to_thread(daemon.start)
            await dead(daemon, books)
            books.answer = 204
            await asyncio.to_thread(daemon.api.post, "/v1/replays", {"mode": "failed", "rate": "1000/s"})
            for kill in range(1, KILLS + 1):
                enough = REPLAYED * kill // (KILLS + 2)
                await until(lambda enough=enough: len(books.taken) >= enough)  # type: ignore[misc]  # a default argument is no inferred type
                daemon.kill()
                await asyncio.to_thread(daemon.start)
            await until(lambda: len(books.taken) == REPLAYED, 120)
            while not (replay := (await asyncio.to_thread(daemon.api.get, "/v1/replays"))["data"][0])["finished_at"]:
                pass
            assert daemon.stop() == 0
        finally:
            daemon.kill()
    assert (replay["state"], replay["selected"], replay["left"]) == ("finished", REPLAYED, 0)
    assert books.taken.total() - REPLAYED <= KILLS * SLOTS
