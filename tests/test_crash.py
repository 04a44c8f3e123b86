"""kill -9 at random moments under load (reliability T1, §7.5): nothing acknowledged is lost, nothing is invented.

The number of kills is 50 in the gate; `make crash N=2000` runs as many as wanted.
"""

import asyncio
import contextlib
import os
import sqlite3
from pathlib import Path
from random import Random
from typing import Any

import aiohttp
import orjson
import pytest

from tests.support.daemon import PRODUCER_TOKEN, Daemon, config_text
from tests.support.ledger import Ledger
from tests.support.receiver import Received, Receiver
from tests.support.waiting import until
from tests.support.warm import Warm

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
        async with aiohttp.ClientSession() as session:
            while not self._stopped:
                sequence += 1
                await self._post(session, f"{number}-{sequence}")

    def daemon_is_up(self) -> None:
        self._url = f"{self._daemon.url}/v1/events"
        self._up.set()

    def daemon_is_down(self) -> None:
        self._up.clear()

    def stop(self) -> None:
        self._stopped = True
        self._up.set()

    async def _post(self, session: aiohttp.ClientSession, key: str) -> None:
        body = orjson.dumps({"type": "render.completed", "data": {"key": key}, "idempotency_key": key})
        self._ledger.posted.add(key)
        while key not in self._ledger.acknowledged:
            await self._up.wait()
            if self._stopped:
                return
            with contextlib.suppress(aiohttp.ClientError, OSError):
                async with session.post(self._url, data=body, headers=HEADERS) as response:
                    if response.status in (200, 202):
                        self._ledger.acknowledged[key] = (await response.json())["id"]
                        self.acknowledged += 1


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
        enough = producers.acknowledged + rng.randint(1, 30)
        await until(lambda enough=enough: producers.acknowledged >= enough)  # type: ignore[misc]
        producers.daemon_is_down()
        daemon.kill()
    producers.stop()
    await asyncio.gather(*posting)


async def drain(daemon: Daemon, ledger: Ledger) -> None:
    """Start the daemon once more, wait until all that it owes has arrived, and stop it."""
    ledger.owed.update(rows(daemon, OWED))
    await asyncio.to_thread(daemon.start)
    await until(lambda: not ledger.owed, patience_s=180)
    assert daemon.stop() == 0


OWED = """
    SELECT endpoint.id, event.id FROM delivery JOIN event ON event.ordinal = delivery.event
    JOIN endpoint ON endpoint.ref = delivery.endpoint WHERE delivery.state = 0
"""


def rows(daemon: Daemon, statement: str) -> list[tuple[Any, ...]]:
    """Ask the database of a daemon that does not run."""
    with contextlib.closing(sqlite3.connect(daemon.folder / "relay.db")) as database:
        return database.execute(statement).fetchall()


@pytest.mark.slow
@pytest.mark.timeout(max(300, KILLS * 6))
async def test_kill_nine_loses_nothing(tmp_path: Path) -> None:
    """50 kills at random moments: every acknowledged event reaches every endpoint, none is invented, ids stay (invariants 1, 6, 7)."""
    ledger, rng = Ledger(), Random(7)
    async with Receiver(default=record(ledger, rng)) as receiver:  # type: ignore[arg-type]
        base = f"http://127.0.0.1:{receiver.port}"
        config = config_text(tmp_path, endpoints={name: f"{base}/{name}" for name in ENDPOINTS}, endpoint_settings=FAST)
        with Warm() as warm:
            daemon = Daemon(tmp_path, config, warm=warm)
            try:
                await kill_repeatedly(daemon, ledger, KILLS, rng)
                await drain(daemon, ledger)
            finally:
                daemon.kill()

    assert len(ledger.acknowledged) >= KILLS
    assert ledger.lost(ENDPOINTS) == set()
    assert ledger.invented() == set()
    assert ledger.torn() == set()
    assert rows(daemon, "PRAGMA integrity_check") == [("ok",)]
    assert rows(daemon, "SELECT count(*) FROM delivery WHERE state = 0") == [(0,)]


@pytest.mark.slow
async def test_the_books_find_an_early_acknowledgement(tmp_path: Path) -> None:
    """Negative control: a build that answers before the commit is caught losing events."""
    ledger, rng = Ledger(), Random(7)
    async with Receiver(default=record(ledger, rng)) as receiver:  # type: ignore[arg-type]
        config = config_text(
            tmp_path, endpoints={"one": f"http://127.0.0.1:{receiver.port}/one"}, endpoint_settings=FAST
        )
        with Warm() as warm:
            daemon = Daemon(tmp_path, config, module="tests.support.early_ack", warm=warm)
            try:
                await kill_repeatedly(daemon, ledger, 3, rng)
                await drain(daemon, ledger)
            finally:
                daemon.kill()

    assert ledger.lost(["one"]) != set()
