"""kill -9 at random moments under load (reliability T1, §7.5): nothing acknowledged is lost, nothing is invented.

The number of kills is 50 in the gate; `make crash N=2000` runs as many as wanted.
"""

import asyncio
import os
import sqlite3
from pathlib import Path
from random import Random

import aiohttp
import orjson
import pytest

from tests.support.daemon import PRODUCER_TOKEN, Daemon, config_text
from tests.support.ledger import Ledger
from tests.support.receiver import Received, Receiver
from tests.support.waiting import until

KILLS = int(os.environ.get("CRASH_KILLS", "50"))
PRODUCERS = 3
ENDPOINTS = ["one", "two", "three"]
HEADERS = {"Authorization": f"Bearer {PRODUCER_TOKEN}", "Content-Type": "application/json"}
FAST = 'retry = { schedule = ["100ms", "200ms", "500ms", "1s", "1s", "1s", "1s", "1s"], jitter = 0.2 }'


class Producers:
    """Post events for as long as the test runs; an event that was not acknowledged is posted again with its key."""

    def __init__(self, ledger: Ledger, daemon: Daemon) -> None:
        self._ledger = ledger
        self._daemon = daemon
        self._up = asyncio.Event()
        self._stopped = False
        self.acknowledged = 0

    async def run(self, number: int) -> None:
        """Post one event after the other."""
        sequence = 0
        while not self._stopped:
            sequence += 1
            await self._post(f"{number}-{sequence}")

    def daemon_is_up(self) -> None:
        self._url = f"{self._daemon.url}/v1/events"
        self._up.set()

    def daemon_is_down(self) -> None:
        self._up.clear()

    def stop(self) -> None:
        self._stopped = True
        self._up.set()

    async def _post(self, key: str) -> None:
        body = orjson.dumps({"type": "render.completed", "data": {"key": key}, "idempotency_key": key})
        self._ledger.posted.add(key)
        while key not in self._ledger.acknowledged:
            await self._up.wait()
            if self._stopped:
                return
            try:
                async with (
                    aiohttp.ClientSession() as session,
                    session.post(self._url, data=body, headers=HEADERS) as response,
                ):
                    if response.status in (200, 202):
                        self._ledger.acknowledged[key] = (await response.json())["id"]
                        self.acknowledged += 1
            except (aiohttp.ClientError, OSError):
                await asyncio.sleep(0)


def record(ledger: Ledger, rng: Random) -> object:
    """A receiver's answer: mostly 204, sometimes 500, and every request in the books."""

    def answer(request: Received) -> int:
        failed = rng.random() < 0.1
        if not failed:
            ledger.arrived(request.path.strip("/"), request.headers["webhook-id"], request.body)
        return 500 if failed else 204

    return answer


async def kill_repeatedly(daemon: Daemon, ledger: Ledger, kills: int, rng: Random) -> None:
    """Start the daemon and kill it, over and over, each time after a random number of acknowledged events."""
    producers = Producers(ledger, daemon)
    posting = [asyncio.create_task(producers.run(number)) for number in range(PRODUCERS)]
    for _ in range(kills):
        await asyncio.to_thread(daemon.start)
        producers.daemon_is_up()
        enough = producers.acknowledged + rng.randint(1, 60)
        await until(lambda enough=enough: producers.acknowledged >= enough)  # type: ignore[misc]
        producers.daemon_is_down()
        daemon.kill()
    producers.stop()
    await asyncio.gather(*posting)


async def drain(daemon: Daemon) -> None:
    """Start the daemon once more and wait until nothing is due."""
    await asyncio.to_thread(daemon.start)

    async def drained() -> bool:
        status = await asyncio.to_thread(daemon.api.get, "/v1/status")
        return bool(status["due"] == 0)

    await until(drained, patience_s=180)


@pytest.mark.slow
@pytest.mark.timeout(max(300, KILLS * 6))
async def test_kill_nine_loses_nothing(tmp_path: Path) -> None:
    """50 kills at random moments: every acknowledged event reaches every endpoint, none is invented, ids stay (invariants 1, 6, 7)."""
    ledger, rng = Ledger(), Random(7)
    async with Receiver(default=record(ledger, rng)) as receiver:  # type: ignore[arg-type]
        base = f"http://127.0.0.1:{receiver.port}"
        config = config_text(tmp_path, endpoints={name: f"{base}/{name}" for name in ENDPOINTS}, endpoint_settings=FAST)
        daemon = Daemon(tmp_path, config)
        try:
            await kill_repeatedly(daemon, ledger, KILLS, rng)
            await drain(daemon)
            assert daemon.stop() == 0
        finally:
            daemon.kill()

    assert len(ledger.acknowledged) >= KILLS
    assert ledger.lost(ENDPOINTS) == set()
    assert ledger.invented() == set()
    assert ledger.torn() == set()
    with sqlite3.connect(tmp_path / "relay.db") as database:
        assert database.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        assert database.execute("SELECT count(*) FROM delivery WHERE state = 0").fetchone() == (0,)
    database.close()


@pytest.mark.slow
async def test_the_books_find_an_early_acknowledgement(tmp_path: Path) -> None:
    """Negative control: a build that answers before the commit is caught losing events."""
    ledger, rng = Ledger(), Random(7)
    async with Receiver(default=record(ledger, rng)) as receiver:  # type: ignore[arg-type]
        config = config_text(
            tmp_path, endpoints={"one": f"http://127.0.0.1:{receiver.port}/one"}, endpoint_settings=FAST
        )
        daemon = Daemon(tmp_path, config, module="tests.support.early_ack")
        try:
            await kill_repeatedly(daemon, ledger, 3, rng)
            await drain(daemon)
        finally:
            daemon.kill()

    assert ledger.lost(["one"]) != set()
