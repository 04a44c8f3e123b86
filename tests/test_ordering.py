"""Ordering keys: first attempts in order, or one delivery after the other; what blocks, and what lets pass (Q12)."""

import asyncio
import random
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from relay.core.errors import CommitUnknown, Conflict
from relay.core.model import Accepted, DeadReason, DeliveryKey, DeliveryState, DueDelivery, Settlement
from relay.core.units import format_time
from relay.store import DeliveryFilter, delivery_id
from relay.store.sqlite import order
from relay.store.sqlite.writer import Writer
from tests.support.clock import FakeClock
from tests.support.daemon import PRODUCER_TOKEN
from tests.support.receiver import Received, Receiver, Reply
from tests.support.stack import Stack
from tests.support.stores import Relay, look, opened, sqlite_error
from tests.support.waiting import until

FIRST_ATTEMPT = 'mode = "first-attempt"\nkey = "{data.id}"'
STRICT = 'mode = "strict"\nkey = "{data.id}"'
PLAIN = 'retry = { schedule = ["5s", "5m"], jitter = 0.0 }'


def ordered(folder: Path, receiver: Receiver, rule: str, clock: FakeClock | None = None, **settings: Any) -> Stack:
    """A relay whose contract is the standard one, but for its order."""
    (folder / "contracts").mkdir(exist_ok=True)
    (folder / "contracts" / "ordered.toml").write_text(
        f'description = "in order"\nextends = "standard"\n[ordering]\n{rule}\n'
    )
    return Stack(
        folder,
        clock=clock,
        contract="ordered",
        endpoints={"primary": receiver.url},
        endpoint_settings=PLAIN,
        **settings,
    )


def numbers(receiver: Receiver) -> list[int]:
    """The `n` of the events that arrived, in order of arrival."""
    return [orjson.loads(request.body)["data"]["n"] for request in receiver.received]


class Held:
    """An answer that the test gives when it wants to."""

    def __init__(self) -> None:
        self.answer: asyncio.Future[int] = asyncio.get_running_loop().create_future()

    async def __call__(self, request: Received) -> Reply:
        return await self.answer


async def post(stack: Stack, n: int, entity: str = "a", **members: Any) -> str:
    event = await stack.post("a.b", {"id": entity, "n": n}, **members)
    assert event["deliveries"] == 1
    return str(event["id"])


async def passer_by(stack: Stack, n: int) -> None:
    """Send an event of another entity, and wait until it is delivered: what could start before it has started."""
    await stack.settled(await post(stack, n, entity=f"other-{n}"), "delivered")


# -- first attempts ----------------------------------------------------------------------------------------------------


async def test_a_first_attempt_waits_for_the_one_before(tmp_path: Path) -> None:
    """The next event of an entity starts when the first attempt of the one before has ended, not earlier (EDF-11)."""
    held = Held()
    async with Receiver(held) as receiver, ordered(tmp_path, receiver, FIRST_ATTEMPT, FakeClock()) as stack:
        await post(stack, 1)
        await receiver.wait_for(1)
        second = await post(stack, 2)
        await passer_by(stack, 9)
        assert numbers(receiver) == [1, 9]
        (waiting,) = await stack.deliveries(second)
        assert (waiting["due_at"], (await stack.delivery(waiting["id"]))["next_attempt"]["why"]) == (
            None,
            "predecessor",
        )
        held.answer.set_result(204)
        await stack.settled(second, "delivered")
        assert numbers(receiver) == [1, 9, 2]


async def test_without_an_order_it_does_not_wait(tmp_path: Path) -> None:
    """Negative control: the standard contract starts the second while the first is under way."""
    held = Held()
    async with Receiver(held) as receiver, Stack(tmp_path, endpoints={"primary": receiver.url}) as stack:
        await post(stack, 1)
        await receiver.wait_for(1)
        await stack.settled(await post(stack, 2), "delivered")
        assert numbers(receiver) == [1, 2]
        held.answer.set_result(204)


async def test_a_retry_blocks_nobody(tmp_path: Path) -> None:
    """After a failed first attempt the next event goes ahead; the failed one is retried on its schedule (EDF-11)."""
    clock = FakeClock()
    held = Held()
    async with Receiver(held) as receiver, ordered(tmp_path, receiver, FIRST_ATTEMPT, clock) as stack:
        first = await post(stack, 1)
        second, third = await post(stack, 2), await post(stack, 3)
        held.answer.set_result(500)
        await stack.settled(third, "delivered")
        await stack.settled(second, "delivered")
        assert (await stack.attempted(first, 1))["state"] == "due"
        assert numbers(receiver) == [1, 2, 3]
        clock.advance(5_000)
        await stack.settled(first, "delivered")


@pytest.mark.parametrize("seed", range(3))
async def test_first_attempts_keep_their_order_under_failures(tmp_path: Path, seed: int) -> None:
    """However many fail and are retried, the first attempts of each entity arrive in the order of acceptance."""
    rng = random.Random(seed)
    clock = FakeClock()
    answers: list[Any] = [rng.choice([204, 204, 500, 404]) for _ in range(100)]
    async with Receiver(*answers) as receiver, ordered(tmp_path, receiver, FIRST_ATTEMPT, clock) as stack:
        entities = {n: rng.choice("abc") for n in range(40)}
        for n, entity in entities.items():
            await post(stack, n, entity)
        await until(lambda: len(set(numbers(receiver))) == len(entities))
        arrived = list(dict.fromkeys(numbers(receiver)))
        for entity in "abc":
            mine = [n for n in arrived if entities[n] == entity]
            assert mine == sorted(mine)


# -- strict ------------------------------------------------------------------------------------------------------------


async def test_strictly_the_next_waits_for_the_end(tmp_path: Path) -> None:
    """Under `strict` a failed attempt still blocks; only when the delivery has ended does the next one start."""
    clock = FakeClock()
    async with Receiver(500) as receiver, ordered(tmp_path, receiver, STRICT, clock) as stack:
        first, second = await post(stack, 1), await post(stack, 2)
        await stack.attempted(first, 1)
        await passer_by(stack, 9)
        assert numbers(receiver) == [1, 9]
        clock.advance(5_000)
        await stack.settled(second, "delivered")
        assert numbers(receiver) == [1, 9, 1, 2]


async def test_strictly_the_next_goes_when_the_one_before_is_dead(tmp_path: Path) -> None:
    """A delivery that died blocks nobody any more, and its replay does not either (Q12)."""
    held = Held()
    async with Receiver(410, held) as receiver, ordered(tmp_path, receiver, STRICT, FakeClock()) as stack:
        first, second = await post(stack, 1), await post(stack, 2)
        dead = await stack.settled(first, "dead")
        await stack.call("POST", "/v1/webhook-endpoints/primary/enable")
        await receiver.wait_for(2)
        assert numbers(receiver) == [1, 2]
        await stack.call("POST", f"/v1/deliveries/{dead['id']}/retry")
        await stack.settled(first, "delivered")
        assert numbers(receiver) == [1, 2, 1]
        held.answer.set_result(204)
        await stack.settled(second, "delivered")


async def test_a_replay_under_way_blocks_nobody(tmp_path: Path) -> None:
    """Manual retries never block: an event that comes while one is under way goes at once (Q12)."""
    held = Held()
    async with Receiver(204, held) as receiver, ordered(tmp_path, receiver, STRICT) as stack:
        first = await post(stack, 1)
        delivered = await stack.settled(first, "delivered")
        await stack.call("POST", f"/v1/deliveries/{delivered['id']}/retry")
        await receiver.wait_for(2)
        await stack.settled(await post(stack, 2), "delivered")
        held.answer.set_result(204)


async def test_a_cancelled_predecessor_lets_pass(tmp_path: Path) -> None:
    """Cancelled between two attempts, a delivery makes way for the next."""
    async with Receiver(500) as receiver, ordered(tmp_path, receiver, STRICT, FakeClock()) as stack:
        first, second = await post(stack, 1), await post(stack, 2)
        due = await stack.attempted(first, 1)
        await stack.call("POST", f"/v1/deliveries/{due['id']}/cancel")
        await stack.settled(second, "delivered")


async def test_an_expired_predecessor_lets_pass(tmp_path: Path) -> None:
    """One that expires before its attempt ends without one, and makes way."""
    clock = FakeClock()
    async with Receiver() as receiver, ordered(tmp_path, receiver, STRICT, clock) as stack:
        await stack.call("POST", "/v1/webhook-endpoints/primary/pause")
        first = await post(stack, 1, expires_at=format_time(clock.wall_ms() + 1_000))
        second = await post(stack, 2)
        clock.advance(1_000)
        await stack.call("POST", "/v1/webhook-endpoints/primary/resume")
        assert (await stack.settled(first, "dead"))["reason"] == "expired"
        await stack.settled(second, "delivered")
        assert numbers(receiver) == [2]


# -- keys and times ----------------------------------------------------------------------------------------------------


async def test_the_producers_key_goes_before_the_template(tmp_path: Path) -> None:
    """Its own `ordering_key` orders an event, whatever its entity is; one without either waits for nobody."""
    held = Held()
    async with Receiver(held) as receiver, ordered(tmp_path, receiver, FIRST_ATTEMPT) as stack:
        await post(stack, 1, "a", ordering_key="project-1")
        await receiver.wait_for(1)
        blocked = await post(stack, 2, "b", ordering_key="project-1")
        await stack.settled(await post(stack, 3, "a"), "delivered")
        await stack.settled((await stack.post("a.b", {"n": 4}))["id"], "delivered")
        assert numbers(receiver) == [1, 3, 4]
        held.answer.set_result(204)
        await stack.settled(blocked, "delivered")
        _, seen = await stack.call("GET", f"/v1/events/{blocked}")
        assert seen["ordering_key"] == "project-1"


async def test_a_long_key_is_a_digest(tmp_path: Path) -> None:
    """What a template makes of a payload may be long; order holds by its digest."""
    async with Receiver() as receiver, ordered(tmp_path, receiver, FIRST_ATTEMPT) as stack:
        event = await post(stack, 1, "x" * 10_000)
        _, seen = await stack.call("GET", f"/v1/events/{event}")
        assert seen["ordering_key"].startswith("blake2b:")
        assert len(seen["ordering_key"]) == 40


async def test_a_delayed_event_holds_up_those_behind_it(tmp_path: Path) -> None:
    """The order is that of acceptance: what follows an event with `deliver_at` waits for its time too (Q12)."""
    clock = FakeClock()
    async with Receiver() as receiver, ordered(tmp_path, receiver, FIRST_ATTEMPT, clock) as stack:
        delayed = await post(stack, 1, deliver_at=format_time(clock.wall_ms() + 60_000))
        behind = await post(stack, 2)
        await passer_by(stack, 9)
        assert numbers(receiver) == [9]
        clock.advance(60_000)
        await stack.settled(behind, "delivered")
        await stack.settled(delayed, "delivered")
        assert numbers(receiver) == [9, 1, 2]


async def test_its_turn_does_not_come_before_its_time(tmp_path: Path) -> None:
    """An event with `deliver_at` whose predecessor has ended still waits for its time (Q12)."""
    clock = FakeClock()
    async with Receiver() as receiver, ordered(tmp_path, receiver, STRICT, clock) as stack:
        first = await post(stack, 1)
        delayed = await post(stack, 2, deliver_at=format_time(clock.wall_ms() + 60_000))
        await stack.settled(first, "delivered")
        await passer_by(stack, 9)
        assert numbers(receiver) == [1, 9]
        clock.advance(60_000)
        await stack.settled(delayed, "delivered")


async def test_a_batch_is_in_order(tmp_path: Path) -> None:
    """The events of one batch follow each other as they stand in it."""
    items = [{"type": "a.b", "data": {"id": "a", "n": n}} for n in range(20)]
    async with Receiver() as receiver, ordered(tmp_path, receiver, STRICT) as stack:
        await stack.call("POST", "/v1/events/batch", items, token=PRODUCER_TOKEN)
        await receiver.wait_for(20)
        assert numbers(receiver) == list(range(20))


async def test_held_deliveries_keep_their_order(tmp_path: Path) -> None:
    """What was posted while the endpoint was paused goes out one after the other when it resumes."""
    async with Receiver() as receiver, ordered(tmp_path, receiver, STRICT) as stack:
        await stack.call("POST", "/v1/webhook-endpoints/primary/pause")
        for n in range(10):
            await post(stack, n)
        await stack.call("POST", "/v1/webhook-endpoints/primary/resume")
        await receiver.wait_for(10)
        assert numbers(receiver) == list(range(10))


# -- restarts ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rule", [FIRST_ATTEMPT, STRICT])
async def test_the_order_survives_a_crash(tmp_path: Path, rule: str) -> None:
    """Killed during the first attempt: after the restart it is made again, and only then the next one (invariant 7)."""
    held = Held()
    async with Receiver(held) as receiver:
        stack = ordered(tmp_path, receiver, rule)
        await stack.start()
        await post(stack, 1)
        await receiver.wait_for(1)
        await post(stack, 2)
        last = await post(stack, 3)
        await stack.crash()
        held.answer.set_result(204)
        async with ordered(tmp_path, receiver, rule) as again:
            await again.settled(last, "delivered")
        assert numbers(receiver) == [1, 1, 2, 3]


async def test_a_turn_that_has_come_survives_a_crash(tmp_path: Path) -> None:
    """The commit that ends a first attempt makes the next one due: killed right after it, nobody waits for ever."""
    async with opened(tmp_path) as relay:
        ref = await relay.endpoint()
        first = await relay.due(ref, ordering_key="k", order_strictly=False)
        second = await relay.accept(ref, ordering_key="k", order_strictly=False)
        await relay.again(first, first.due_ms + 5_000)
        await relay.store.abandon()
    async with opened(tmp_path) as relay:
        due = [delivery.event for delivery in await relay.store.audit_due(ref, 10)]
        assert due == [second.event.ordinal, first.event]


async def test_without_a_promotion_the_next_would_wait_for_ever(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Negative control: a settle that promotes nobody leaves the next one without a due time."""
    monkeypatch.setattr("relay.store.sqlite.settle.promote", lambda connection, ended: [])
    async with opened(tmp_path) as relay:
        ref = await relay.endpoint()
        await relay.delivered(await relay.due(ref, ordering_key="k"))
        first = await relay.due(ref, ordering_key="k")
        await relay.accept(ref, ordering_key="k")
        await relay.delivered(first)
        assert await relay.store.audit_due(ref, 10) == []
        assert relay.store.due_count(ref) == 1


# -- in the store ------------------------------------------------------------------------------------------------------


async def test_an_overflowed_predecessor_lets_pass(tmp_path: Path) -> None:
    """What was committed as a dead letter at once never had a turn (Q10)."""
    async with opened(tmp_path, endpoint_backlog=1) as relay:
        ref = await relay.endpoint()
        first = await relay.due(ref, ordering_key="k")
        overflowed = await relay.accept(ref, ordering_key="k")
        assert overflowed.deliveries == 0
        await relay.delivered(first)
        assert (await relay.accept(ref, ordering_key="k")).due


async def test_a_deleted_endpoint_has_no_order(tmp_path: Path) -> None:
    """Its deliveries are cancelled, the waiting ones too."""
    async with opened(tmp_path) as relay:
        ref = await relay.endpoint()
        await relay.due(ref, ordering_key="k")
        for _ in range(3):
            await relay.accept(ref, ordering_key="k")
        await relay.delete_endpoint()
        await until(lambda: relay.store.due_count(ref) == 0)
    assert look(tmp_path, "SELECT DISTINCT state, blocking FROM delivery") == [(3, 0)]


async def test_what_is_held_too_long_lets_pass(tmp_path: Path) -> None:
    """A predecessor that is ended while it is held promotes the next (Q9)."""
    async with opened(tmp_path) as relay:
        promoted: list[DueDelivery] = []
        relay.store.on_promoted(promoted.extend)
        ref = await relay.endpoint()
        first = await relay.due(ref, ordering_key="k")
        relay.clock.advance(10)
        second = await relay.accept(ref, ordering_key="k")
        await relay.store.end_held(ref, first.due_ms + 5, relay.clock.wall_ms(), DeadReason.ENDPOINT_DISABLED)
        assert [due.event for due in promoted] == [second.event.ordinal]


def forgetful() -> tuple[type[Writer], list[bool]]:
    """A writer whose commits are kept, but look as if nobody knew, while the list is not empty."""
    lies: list[bool] = []

    class Forgetful(Writer):
        def commit(self, connection: Any) -> None:
            super().commit(connection)
            if lies:
                lies.pop()
                raise sqlite_error(10, "disk I/O error?")

    return Forgetful, lies


@pytest.mark.parametrize("state", [DeliveryState.DELIVERED, DeliveryState.DUE, DeliveryState.DEAD])
async def test_a_promotion_that_nobody_heard_of_is_told_again(
    tmp_path: Path, state: DeliveryState, monkeypatch: pytest.MonkeyPatch
) -> None:
    """When the commit's answer was lost, the repeated settlement names whose turn it is (Q7, invariant 8)."""
    monkeypatch.setattr(
        "relay.store.sqlite.writer.judge", lambda error: None
    )  # an error that is neither damage nor machine
    writer, lies = forgetful()
    async with opened(tmp_path, writer=writer) as relay:
        heard: list[DueDelivery] = []
        relay.store.on_promoted(heard.extend)
        ref = await relay.endpoint()
        first = await relay.due(ref, ordering_key="k", order_strictly=False)
        second = await relay.accept(ref, ordering_key="k", order_strictly=False)
        outcome = None if state is DeliveryState.DEAD else relay.outcome(500)
        reason = DeadReason.EXPIRED if state is DeliveryState.DEAD else None
        due_ms = relay.clock.wall_ms() + 5 if state is DeliveryState.DUE else None
        settlement = Settlement(first, state, outcome, due_ms, reason)
        lies.append(True)
        with pytest.raises(CommitUnknown):
            await relay.store.settle(settlement)
        assert heard == []
        await relay.store.settle(settlement)
        assert [due.event for due in heard] == [second.event.ordinal]


# -- everything at once ------------------------------------------------------------------------------------------------


@dataclass
class Follower:
    """Does what a test tells it, and knows what lanes would know: only what answers and promotions said."""

    relay: Relay
    ref: int
    known: dict[int, DueDelivery] = field(default_factory=dict)  # by event: what could start now
    keys: dict[int, tuple[str, bool]] = field(default_factory=dict)  # by event: ordering key and whether it is strict
    started: list[int] = field(default_factory=list)  # events whose first attempt began, in order
    by_hand: set[int] = field(default_factory=set)

    def hear(self, due: Any) -> None:
        self.known.update({delivery.event: delivery for delivery in due})

    async def accept(self, key: str, strict: bool) -> None:
        result = await self.relay.offer(self.relay.event(self.ref, ordering_key=key, order_strictly=strict))
        assert isinstance(result, Accepted)
        self.keys[result.event.ordinal] = (key, strict)
        self.hear(result.due)

    async def attempt(self, pick: int, state: DeliveryState) -> None:
        if not self.known:
            return
        event = sorted(self.known)[pick % len(self.known)]
        due = self.known.pop(event)
        if event not in self.started:
            self.started.append(event)
        due_ms = self.relay.clock.wall_ms() + 1 if state is DeliveryState.DUE else None
        reason = DeadReason.EXHAUSTED if state is DeliveryState.DEAD else None
        settled = await self.relay.store.settle(Settlement(due, state, self.relay.outcome(500), due_ms, reason))
        if settled.due is not None:
            self.hear([settled.due])

    async def by_somebody(self, pick: int, cancel: bool) -> None:
        if not self.keys:
            return
        event = sorted(self.keys)[pick % len(self.keys)]
        name = delivery_id(DeliveryKey(event, self.ref))
        self.by_hand.add(event)
        try:
            if cancel:
                await self.relay.store.cancel_delivery(name, "somebody")
                self.known.pop(event, None)
            else:
                self.hear([await self.relay.store.retry_delivery(name)])
        except Conflict:
            pass  # it has ended

    async def check(self) -> None:
        """What lanes know is what is due, and nobody waits without somebody to wait for."""
        due = {delivery.event for delivery in await self.relay.store.audit_due(self.ref, 100)}
        assert due == set(self.known)
        page = await self.relay.store.list_deliveries(DeliveryFilter(state=DeliveryState.DUE), None, 100)
        waiting = sum(view.due_ms is None for view in page.data)
        assert not (waiting and not due)

    def check_order(self) -> None:
        """The first attempts of a key came in the order of acceptance, but for what people did by hand."""
        for key in {key for key, _ in self.keys.values()}:
            mine = [event for event in self.started if self.keys[event][0] == key and event not in self.by_hand]
            assert mine == sorted(mine)


STEPS = st.one_of(
    st.tuples(st.just("accept"), st.sampled_from("xy"), st.booleans()),
    st.tuples(
        st.just("attempt"),
        st.integers(0, 50),
        st.sampled_from([DeliveryState.DUE, DeliveryState.DELIVERED, DeliveryState.DEAD]),
    ),
    st.tuples(st.just("by_somebody"), st.integers(0, 50), st.booleans()),
)


async def follow(folder: Path, steps: list[tuple[Any, ...]]) -> None:
    async with opened(folder) as relay:
        follower = Follower(relay, await relay.endpoint())
        relay.store.on_promoted(follower.hear)
        for name, *arguments in steps:
            relay.clock.advance(1)
            await getattr(follower, name)(*arguments)
            await follower.check()
        follower.check_order()
        while follower.known:
            await follower.attempt(0, DeliveryState.DELIVERED)
        assert relay.store.due_count(follower.ref) == 0, "somebody waits for ever"


@settings(max_examples=40, deadline=None)
@given(st.lists(STEPS, max_size=25))
def test_nobody_overtakes_and_nobody_is_forgotten(steps: list[tuple[Any, ...]]) -> None:
    """Whatever happens in whatever order: lanes hear of every turn, order holds, and in the end all is sent (Q12)."""
    with tempfile.TemporaryDirectory() as folder:
        asyncio.run(follow(Path(folder), steps))


def test_the_search_finds_a_forgotten_promotion(monkeypatch: pytest.MonkeyPatch) -> None:
    """Negative control: were those behind a cancelled one not promoted, a short story would show it."""
    monkeypatch.setattr("relay.store.sqlite.edits.promote", lambda connection, ended: [])
    story: list[tuple[Any, ...]] = [("accept", "x", True), ("accept", "x", True), ("by_somebody", 0, True)]
    with tempfile.TemporaryDirectory() as folder, pytest.raises(AssertionError):
        asyncio.run(follow(Path(folder), story))


def test_promotion_is_one_statement_per_key() -> None:
    """However many of a key ended in one transaction, its line is looked at once."""
    looked: list[Any] = []

    class Line:
        def execute(self, statement: str, lane: Any) -> Any:
            looked.append(lane)
            return self

        def fetchone(self) -> None:
            return None

    connection: Any = Line()
    assert order.promote(connection, [(1, "k"), (1, "k"), (2, "k")]) == []
    assert looked == [(1, "k"), (2, "k")]
