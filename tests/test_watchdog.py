"""The watchdog is fed only while loop, writer and dispatcher turn; a start that works gets the time it takes."""

import asyncio
import sqlite3
import threading
from base64 import b64encode
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from relay.daemon import watchdog
from relay.daemon.systemd import Notifier
from relay.daemon.watchdog import EXTEND_EVERY_MS, LOOP_LAG_MAX_MS, STATUS_EVERY_MS, Watchdog, ask_for_time, work_done
from relay.dispatch.loop import Dispatch
from relay.store.sqlite import rekey
from relay.store.sqlite.writer import Stage
from tests.support.clock import FakeClock
from tests.support.house import House
from tests.support.manager import Manager
from tests.support.waiting import quiet, until

FED = ["STATUS=0 due, 0 in flight", "WATCHDOG=1"]
LEFT = FED[:1]
TEXT = '[server]\nlisten = ["127.0.0.1:0"]\n[storage]\nmin_free_disk = "1MiB"\n'


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[Manager]:
    manager = Manager(str(tmp_path / "notify"))
    yield manager
    manager.close()


@pytest.fixture
def notifier(manager: Manager) -> Iterator[Notifier]:
    notifier = Notifier(manager.name)
    yield notifier
    notifier.close()


@pytest.fixture
async def house(tmp_path: Path) -> AsyncIterator[House]:
    async with House(tmp_path, FakeClock(), text=TEXT) as house:
        yield house


def watching(house: House, notifier: Notifier) -> Watchdog:
    return Watchdog(notifier, house.relay, house.clock, interval_ms=STATUS_EVERY_MS)


async def seen(house: House, notifier: Notifier, manager: Manager, lag_ms: float = 0.0) -> list[str]:
    """What the service manager hears of one look."""
    await watching(house, notifier).look(lag_ms)
    return manager.all_heard()


async def test_it_is_fed_while_all_turn(house: House, notifier: Notifier, manager: Manager) -> None:
    """A relay whose loop, writer and dispatcher turn feeds the watchdog, and says how much is due."""
    assert await seen(house, notifier, manager) == FED


async def test_a_loop_that_lags_does_not_feed_it(house: House, notifier: Notifier, manager: Manager) -> None:
    """A loop that woke two seconds late leaves the watchdog hungry; one that was a little late does not."""
    assert await seen(house, notifier, manager, LOOP_LAG_MAX_MS) == LEFT
    assert await seen(house, notifier, manager, LOOP_LAG_MAX_MS - 1) == FED


async def test_a_writer_that_hangs_does_not_feed_it(
    house: House, notifier: Notifier, manager: Manager, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A commit that does not return leaves the watchdog hungry, until it does."""
    house.gate.hold()
    with monkeypatch.context() as impatient:
        impatient.setattr(watchdog, "PATIENCE_S", 0.0)
        assert await seen(house, notifier, manager) == LEFT
    house.gate.let_go()
    assert await seen(house, notifier, manager) == FED


async def test_a_writer_that_writes_the_file_anew_feeds_it(
    tmp_path: Path, notifier: Notifier, manager: Manager, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`relay rekey` holds the writer up for as long as the file takes; a restart would only begin that again."""
    rewritten = threading.Event()
    monkeypatch.setattr(rekey, "_rewrite", lambda connection, folder: rewritten.wait(10))
    key = b64encode(b"k" * 32).decode()
    async with House(tmp_path, FakeClock(), text=f'{TEXT}secrets_key = "{key}"\n') as house:
        await house.relay.store._submit(Stage.OUTSIDE, lambda connection: connection.execute(rekey._SET_TRACES, (1, 1)))
        running = asyncio.create_task(house.relay.store.rekey())
        await until(lambda: house.relay.store.rewriting)
        with monkeypatch.context() as impatient:
            impatient.setattr(watchdog, "PATIENCE_S", 0.5)
            assert await seen(house, notifier, manager) == FED
        rewritten.set()
        await running
        assert not house.relay.store.rewriting


async def test_a_writer_that_cannot_write_feeds_it(house: House, notifier: Notifier, manager: Manager) -> None:
    """A full disk is an answer of the writer's: a restart would not mend it."""
    house.gate.error = sqlite3.OperationalError("database or disk is full")
    house.gate.error.sqlite_errorcode = sqlite3.SQLITE_FULL
    assert await seen(house, notifier, manager) == FED
    house.gate.error = None


async def test_a_dispatcher_that_hangs_does_not_feed_it(
    tmp_path: Path, notifier: Notifier, manager: Manager, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A dispatcher that looks for no work leaves the watchdog hungry, though loop and writer turn."""

    async def hang(self: Dispatch) -> None:
        await asyncio.Event().wait()

    monkeypatch.setattr(Dispatch, "run", hang)
    async with House(tmp_path, FakeClock(), text=TEXT) as house:
        with monkeypatch.context() as impatient:
            impatient.setattr(watchdog, "PATIENCE_S", 0.5)
            assert await seen(house, notifier, manager) == LEFT


async def test_it_looks_every_second_and_notices_when_it_is_late(tmp_path: Path, manager: Manager) -> None:
    """While it runs the status comes every second, and a second that took three does not feed the watchdog."""
    clock, notifier, heard = FakeClock(), Notifier(manager.name), []

    def news(*wanted: str) -> bool:
        heard.extend(manager.all_heard())
        return heard == [*wanted]

    async with House(tmp_path, clock, text=TEXT) as house:
        running = asyncio.create_task(watching(house, notifier).run())
        await house.quiet()
        clock.advance(STATUS_EVERY_MS)
        await until(lambda: news(*FED))
        await house.quiet()
        clock.advance(STATUS_EVERY_MS + LOOP_LAG_MAX_MS)
        await until(lambda: news(*FED, *LEFT))
        await house.quiet()
        clock.advance(STATUS_EVERY_MS)
        await until(lambda: news(*FED, *LEFT, *FED))
        running.cancel()
    notifier.close()


async def test_a_start_that_works_gets_more_time(notifier: Notifier, manager: Manager) -> None:
    """While a start works systemd is asked for two more minutes every ten seconds; one that hangs asks for nothing."""
    clock, spent = FakeClock(), iter([1.0, 2.0, 2.0, 3.0])
    asking = asyncio.create_task(ask_for_time(notifier, clock, lambda: next(spent)))
    heard = []
    for _ in range(3):
        await quiet()
        clock.advance(EXTEND_EVERY_MS)
        await quiet()
        heard.append(manager.all_heard())
    asking.cancel()
    assert heard == [["EXTEND_TIMEOUT_USEC=120000000"], [], ["EXTEND_TIMEOUT_USEC=120000000"]]


def test_work_is_told_from_waiting() -> None:
    """What the process computes counts as work."""
    before = work_done()
    while work_done() == before:
        sum(range(100_000))
    assert work_done() > before
