"""A retry by hand, a cancel and an attempt under way, in every order, with and without a crash (H10, H17, Q7, Q12, Q13).

Store and lanes work together as dispatch drives them; every order of the moves is tried, against rules written down here
once more in their shortest form.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import permutations
from pathlib import Path
from random import Random

import pytest

from relay.core.errors import Conflict
from relay.core.model import (
    TRANSITIONS,
    DeadReason,
    DeliveryState,
    DueDelivery,
    HealthPolicy,
    Settlement,
)
from relay.queue import Lanes, LaneSettings
from relay.queue.retry import classify
from relay.store import delivery_id
from tests.support.stores import Relay, opened

LATER_MS = 3_600_000

ENDS = {
    "delivered": (DeliveryState.DELIVERED, None),
    "fails": (DeliveryState.DUE, None),
    "exhausted": (DeliveryState.DEAD, DeadReason.EXHAUSTED),
    "blocked": (DeliveryState.DEAD, DeadReason.BLOCKED),
    "gone": (DeliveryState.DEAD, DeadReason.GONE),
    "aborted": (DeliveryState.DEAD, DeadReason.ABORTED),
    "expired": (DeliveryState.DEAD, DeadReason.EXPIRED),
}
"""How an attempt may end."""

ENDS_ANYWAY = {"delivered", "gone", "aborted", "expired"}
"""What ends a delivery that was retried by hand while the attempt ran (Q13)."""


@dataclass
class Bench:
    """A store and its lanes with two deliveries of one ordering key, the first of which is under way."""

    relay: Relay
    lanes: Lanes
    ref: int
    head: DueDelivery
    successor: tuple[int, int]
    started: DueDelivery | None = None

    def take(self) -> list[DueDelivery]:
        """Start what may start now."""
        return [start.delivery for start in self.lanes.take(self.relay.clock.now())]

    async def end(self, delivery: DueDelivery, how: str) -> None:
        """End an attempt as dispatch does."""
        state, reason = ENDS[how]
        status = {"delivered": 204, "gone": 410}.get(how, 500)
        outcome = self.relay.outcome(status)
        due_ms = self.relay.clock.wall_ms() + LATER_MS if state is DeliveryState.DUE else None
        now = self.relay.clock.now()
        self.lanes.finished(delivery.key, replace(classify(outcome), disable=None), now)
        settled = await self.relay.store.settle(Settlement(delivery, state, outcome, due_ms, reason))
        self.lanes.settled(delivery.key, settled.due)

    async def retry(self, *, force: bool = False) -> None:
        self.relay.clock.advance(1)
        self.lanes.offer([await self.relay.store.retry_delivery(delivery_id(self.head.key), force=force)])

    async def cancel(self) -> bool:
        try:
            under_way = self.lanes.under_way(self.head.key)
            key = await self.relay.store.cancel_delivery(delivery_id(self.head.key), "admin", under_way)
        except Conflict:
            return False
        self.lanes.drop([key])
        return True

    async def state(self) -> str:
        view = await self.relay.store.find_delivery(delivery_id(self.head.key))
        assert view is not None
        return view.state.value if view.reason is None else f"dead {view.reason.value}"

    async def series(self) -> int:
        view = await self.relay.store.find_delivery(delivery_id(self.head.key))
        assert view is not None
        return view.series

    async def successor_waits(self) -> bool:
        rows = (await self.relay.store.refill(self.ref, 0, 0, 10)).rows
        return self.successor[0] not in {row.event for row in rows}


def lanes_for(relay: Relay, ref: int, *others: Lanes) -> Lanes:
    """Make lanes that know one endpoint; they hear of promotions, and so do those of other endpoints."""
    lanes = Lanes(16, Random(1))
    settings = LaneSettings(application=1, concurrency=8, rate=None, held=False, policy=HealthPolicy(failures=1_000))
    lanes.configure(ref, settings, None, relay.store.due_count(ref), relay.clock.now())

    def promoted(due: Sequence[DueDelivery]) -> None:
        for each in (lanes, *others):
            each.offer(due)

    relay.store.on_promoted(promoted)
    return lanes


async def prepare(relay: Relay, *others: Lanes, strictly: bool = True, name: str = "ep_1") -> Bench:
    """Accept head and successor, and start the head."""
    ref = await relay.endpoint(name)
    lanes = lanes_for(relay, ref, *others)
    first = await relay.accept(ref, ordering_key="cut", order_strictly=strictly)
    second = await relay.accept(ref, ordering_key="cut", order_strictly=strictly)
    assert second.due == ()
    lanes.offer(first.due)
    bench = Bench(relay, lanes, ref, first.due[0], (second.event.ordinal, ref))
    (bench.started,) = bench.take()
    return bench


async def refill(bench: Bench) -> None:
    """Read for a lane that is behind, as after a start."""
    while (wanted := bench.lanes.next_refill(bench.relay.clock.now())) is not None:
        rows = (await bench.relay.store.refill(wanted.ref, wanted.from_due_ms, wanted.from_event, wanted.limit)).rows
        bench.lanes.refilled(wanted.ticket, rows)


# -- H10: a retry while the attempt runs ------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ENDS)
async def test_a_retry_while_the_attempt_runs_has_its_turn(tmp_path: Path, how: str) -> None:
    """H10, Q13: one more attempt follows at once, unless the one under way ends the delivery."""
    async with opened(tmp_path) as relay:
        bench = await prepare(relay)
        assert bench.started is not None
        await bench.retry()
        assert bench.take() == []  # never two attempts of one delivery
        await bench.end(bench.started, how)
        again = [due for due in bench.take() if due.key == bench.head.key]
        if how in ENDS_ANYWAY:
            assert again == []
            assert await bench.state() == ("delivered" if how == "delivered" else f"dead {how}")
            return
        assert [(due.manual, due.attempts, due.series_attempts) for due in again] == [(True, 1, 1)]
        assert await bench.state() == "due"
        await bench.end(again[0], "exhausted")
        assert await bench.state() == "dead exhausted"


async def test_a_forced_retry_outlives_an_expiry(tmp_path: Path) -> None:
    """H10, Q13: who retries with force means the expired one too; the attempt under way does not bury that."""
    async with opened(tmp_path) as relay:
        bench = await prepare(relay)
        assert bench.started is not None
        await bench.retry(force=True)
        await bench.end(bench.started, "expired")
        assert [(due.key, due.forced) for due in bench.take()] == [(bench.head.key, True)]


@pytest.mark.parametrize("how", ["fails", "exhausted"])
async def test_a_retry_while_the_attempt_runs_survives_a_crash(tmp_path: Path, how: str) -> None:
    """H10: the retry stands in the file: after a crash, before or after the settle, the delivery is due now."""
    for settled in (False, True):
        folder = tmp_path / str(settled)
        async with opened(folder) as relay:
            bench = await prepare(relay)
            assert bench.started is not None
            await bench.retry()
            if settled:
                await bench.end(bench.started, how)
            await relay.store.abandon()
            clock = relay.clock
        async with opened(folder, clock) as relay:
            (row,) = (await relay.store.refill(bench.ref, 0, 0, 10)).rows
            assert (row.key, row.due_ms <= clock.wall_ms(), row.manual) == (bench.head.key, True, True)


async def test_a_budget_grows_with_every_retry(tmp_path: Path) -> None:
    """H10: two retries within a millisecond are told apart, so no settle is taken for one that knew of the second."""
    async with opened(tmp_path) as relay:
        due = await relay.due(await relay.endpoint(), deliver_at_ms=relay.clock.wall_ms() + 5)
        retried = [await relay.store.retry_delivery(delivery_id(due.key)) for _ in range(3)]
        seen = [due.budget_from_ms, *(again.budget_from_ms for again in retried)]
        assert seen == sorted(set(seen))


# -- H17: a cancel while the attempt runs -----------------------------------------------------------------------------------


@pytest.mark.parametrize("strictly", [True, False])
@pytest.mark.parametrize("how", ["delivered", "fails", "exhausted"])
async def test_a_cancelled_head_blocks_until_its_attempt_ends(tmp_path: Path, how: str, *, strictly: bool) -> None:
    """H17, Q12: the successor, and what comes later, wait for the end of the attempt of a head that was cancelled."""
    async with opened(tmp_path) as relay:
        bench = await prepare(relay, strictly=strictly)
        assert bench.started is not None
        assert await bench.cancel()
        assert await bench.state() == "cancelled"
        assert await bench.successor_waits()
        third = await relay.accept(bench.ref, ordering_key="cut")
        assert third.due == ()
        assert bench.take() == []
        await bench.end(bench.started, how)
        assert [due.key for due in bench.take()] == [bench.successor]
        assert await bench.state() == ("delivered" if how == "delivered" else "cancelled")


async def test_what_comes_after_a_cancelled_head_alone_waits_too(tmp_path: Path) -> None:
    """H17: an event accepted while only a cancelled head is under way does not overtake it."""
    async with opened(tmp_path) as relay:
        ref = await relay.endpoint()
        head = await relay.due(ref, ordering_key="cut")
        await relay.store.cancel_delivery(delivery_id(head.key), "admin", head)
        assert (await relay.accept(ref, ordering_key="cut")).due == ()
        assert (await relay.accept(ref, ordering_key="other")).due
        promoted: list[DueDelivery] = []
        relay.store.on_promoted(promoted.extend)
        assert await relay.store.give_back(head) is None  # it was not sent after all
        assert len(promoted) == 1


async def test_a_cancelled_head_that_does_not_run_blocks_nobody(tmp_path: Path) -> None:
    """H17, negative control: without an attempt under way, or when it was settled before the cancel, nobody waits."""
    async with opened(tmp_path) as relay:
        bench = await prepare(relay)
        assert bench.started is not None
        started = bench.started
        await bench.end(started, "fails")
        key = await relay.store.cancel_delivery(delivery_id(bench.head.key), "admin", started)  # it is settled already
        bench.lanes.drop([key])
        assert [due.key for due in bench.take()] == [bench.successor]


async def test_a_cancelled_head_is_released_by_a_crash(tmp_path: Path) -> None:
    """H17: no attempt outlives the process, so the next start lets the successor go."""
    async with opened(tmp_path) as relay:
        bench = await prepare(relay)
        assert await bench.cancel()
        assert await bench.successor_waits()
        await relay.store.abandon()
        clock = relay.clock
    async with opened(tmp_path, clock) as relay:
        rows = (await relay.store.refill(bench.ref, 0, 0, 10)).rows
        assert [row.key for row in rows] == [bench.successor]
        assert (await relay.accept(bench.ref, id="evt_later", ordering_key="cut")).due == ()


# -- every order ------------------------------------------------------------------------------------------------------------


def orders() -> list[tuple[str, ...]]:
    """Every order of two retries, two cancels and the end of the attempt, whole and broken off at any place."""
    moves = ("retry", "retry", "cancel", "cancel", "end")
    return sorted({order for count in range(1, 6) for order in permutations(moves, count)})


async def play(bench: Bench, moves: tuple[str, ...], how: str) -> tuple[DueDelivery | None, str]:
    """Play one order of moves and compare with the rules after each; return what runs, and the head's state."""
    running, expected, retried = bench.started, "due", False
    for move in moves:
        before = expected
        if move == "retry":
            await bench.retry()
            expected, retried = "due", before == "due"
        elif move == "cancel":
            assert await bench.cancel() == (before == "due")
            expected = "cancelled" if before == "due" else before
        elif running is not None:
            same_series = running.series == await bench.series()
            await bench.end(running, how)
            running = None
            expected = settled(before, how, retried=retried, same_series=same_series)
        assert await bench.state() == expected, (moves, how, move)
        assert lawful(before, expected)
        if running is not None:
            assert await bench.successor_waits(), (moves, how, move)
    return running, expected


def settled(before: str, how: str, *, retried: bool, same_series: bool) -> str:
    """What becomes of a delivery when its attempt ends: the rules of Q7 and Q13, once more."""
    if not same_series or (before == "cancelled" and how != "delivered"):
        return before
    if before == "due" and retried and how not in ENDS_ANYWAY:
        return "due"
    return (
        {"delivered": "delivered", "fails": "due"}.get(how, f"dead {how}") if before in ("due", "cancelled") else before
    )


def lawful(before: str, after: str) -> bool:
    """Whether the table of states allows a move; no move is no move."""
    was, now = DeliveryState(before.split()[0]), DeliveryState(after.split()[0])
    return was is now or now in TRANSITIONS[was]


async def deliver_all(bench: Bench, running: DueDelivery | None, expected: str) -> None:
    """Let everything that the lanes know, or read, be delivered; then nothing is due any more, so nothing was lost."""
    bench.relay.clock.advance(2 * LATER_MS)
    for _ in range(5):
        await refill(bench)
        started = bench.take()
        if running is not None:
            assert {due.key for due in started}.isdisjoint({running.key, bench.successor})
            started, running = [*started, running], None
        for due in started:
            await bench.end(due, "delivered")
    assert bench.relay.store.due_count(bench.ref) == 0
    assert bench.ref not in await bench.relay.store.endpoints_with_due()
    assert (await bench.state()).split()[0] in ("delivered", expected.split()[0])
    assert (await bench.state() == "delivered") or expected != "due"


@pytest.mark.parametrize("how", ["delivered", "fails", "exhausted", "gone"])
async def test_every_order_of_retry_cancel_and_attempt(tmp_path: Path, how: str) -> None:
    """H10, H17: whatever comes first, states are lawful, no retry is lost and no successor overtakes an attempt."""
    async with opened(tmp_path, durability="normal") as relay:
        for number, moves in enumerate(orders()):
            bench = await prepare(relay, name=f"ep_{number}")
            await deliver_all(bench, *await play(bench, moves, how))
        assert relay.store.backlog == 0


@pytest.mark.parametrize("how", ["delivered", "fails", "exhausted", "gone"])
async def test_every_order_survives_a_crash(tmp_path: Path, how: str) -> None:
    """H10, H17: broken off by a crash at any place, each order leaves what was answered, and goes on from there."""
    played: list[tuple[Bench, str]] = []
    async with opened(tmp_path, durability="normal") as relay:
        for number, moves in enumerate(orders()):
            bench = await prepare(relay, *(other.lanes for other, _ in played), name=f"ep_{number}")
            played.append((bench, (await play(bench, moves, how))[1]))
        await relay.store.abandon()
        clock = relay.clock
    async with opened(tmp_path, clock) as relay:
        for bench, expected in played:
            bench.relay, bench.lanes = relay, lanes_for(relay, bench.ref)
            assert await bench.state() == expected
            await deliver_all(bench, None, expected)
        assert relay.store.backlog == 0
