"""The store: manual work, endpoints, retention (Q9, Q11, Q13, Q14)."""

from dataclasses import replace
from pathlib import Path

import pytest

from relay.core.errors import Conflict, NotFound
from relay.core.model import (
    DeadReason,
    DeliveryKey,
    DeliveryState,
    DisabledBy,
    DueDelivery,
    EndpointState,
    Health,
    Origin,
    Secret,
    Settlement,
)
from relay.store import ApplicationRow, KeyRow, RegistryChange, StillOwed, delivery_id
from tests.support.stores import DAY_MS, Engine, Relay, key, sweep


async def state_of(relay: Relay, delivery: DueDelivery) -> DeliveryState:
    view = await relay.store.find_delivery(delivery_id(delivery.key))
    assert view is not None
    return view.state


# -- manual work ------------------------------------------------------------------------------------------------------


async def test_a_retry_of_a_due_delivery_keeps_its_series(engine: Engine, tmp_path: Path) -> None:
    """Q13: due now, same series, past cool-down; the budget starts anew; it survives a restart as manual."""
    async with engine.opened(tmp_path) as relay:
        ref = await relay.endpoint()
        due = await relay.due(ref)
        delayed = (await relay.again(due, due.due_ms + DAY_MS)).due
        assert delayed is not None
        relay.clock.advance(1_000)
        retried = await relay.store.retry_delivery(delivery_id(due.key))
        now_ms = relay.clock.wall_ms()
        assert retried == delayed._replace(due_ms=now_ms, budget_from_ms=now_ms, manual=True)
        assert (await relay.store.refill(ref, 0, 0, 10)).rows == [retried]
        assert relay.store.due_count(ref) == 1
        after = (await relay.again(retried, now_ms + 5)).due
        assert after is not None
        assert not after.manual


@pytest.mark.parametrize("end", [DeliveryState.DELIVERED, DeliveryState.DEAD, DeliveryState.CANCELLED])
async def test_a_retry_of_an_ended_delivery_begins_a_series(engine: Engine, tmp_path: Path, end: DeliveryState) -> None:
    """Q13: a dead, cancelled or delivered delivery is the same row, due again, in a new series."""
    async with engine.opened(tmp_path) as relay:
        ref = await relay.endpoint()
        due = await relay.due(ref)
        if end is DeliveryState.CANCELLED:
            await relay.store.cancel_delivery(delivery_id(due.key), "somebody")
        else:
            reason = DeadReason.GONE if end is DeliveryState.DEAD else None
            await relay.store.settle(Settlement(due, end, relay.outcome(200), reason=reason))
        retried = await relay.store.retry_delivery(delivery_id(due.key))
        assert (retried.series, retried.series_attempts, retried.manual) == (2, 0, True)
        assert retried.attempts == (0 if end is DeliveryState.CANCELLED else 1)
        assert (relay.store.due_count(ref), relay.store.dead_count(ref)) == (1, 0)
        view = await relay.store.find_delivery(delivery_id(due.key))
        assert view is not None
        assert (view.state, view.reason, view.cancelled_by) == (DeliveryState.DUE, None, None)


async def test_what_cannot_be_retried_or_cancelled_says_why(engine: Engine, tmp_path: Path) -> None:
    """Q13: unknown, expired, deleted and ended deliveries are refused in words."""
    async with engine.opened(tmp_path) as relay:
        ref = await relay.endpoint()
        for unknown in ("dlv_1", "nonsense", delivery_id(DeliveryKey(5, 5)), "dlv_" + "u" * 18, "dlv_" + "Z" * 18):
            with pytest.raises(NotFound):
                await relay.store.retry_delivery(unknown)
        short = await relay.due(ref, expires_at_ms=relay.clock.wall_ms() + 10)
        relay.clock.advance(10)
        with pytest.raises(Conflict, match="expired"):
            await relay.store.retry_delivery(delivery_id(short.key))
        due = await relay.due(ref)
        await relay.delivered(due)
        with pytest.raises(Conflict, match="delivered already"):
            await relay.store.cancel_delivery(delivery_id(due.key), "somebody")
        await relay.delete_endpoint()
        with pytest.raises(Conflict, match="deleted"):
            await relay.store.retry_delivery(delivery_id(due.key))


async def test_held_deliveries_end_with_their_budget(engine: Engine, tmp_path: Path) -> None:
    """Q6, Q9: what was held beyond its budget is dead with the given reason, what expired is dead as expired."""
    async with engine.opened(tmp_path) as relay:
        ref = await relay.endpoint()
        start_ms = relay.clock.wall_ms()
        old = [await relay.due(ref) for _ in range(3)]
        relay.clock.advance(10_000)
        young = await relay.due(ref)
        short = await relay.due(ref, expires_at_ms=relay.clock.wall_ms() + 1)
        relay.clock.advance(5)
        ended: list[DeliveryKey] = []
        while step := await relay.store.end_held(
            ref, start_ms + 5_000, relay.clock.wall_ms(), DeadReason.ENDPOINT_DISABLED, 2
        ):
            keys = [key for keys in step.values() for key in keys]
            assert len(keys) <= 2
            ended += keys
        assert sorted(ended) == sorted([*(due.key for due in old), short.key])
        reasons = {group.reason: group.count for group in await relay.store.dead_groups("acme")}
        assert reasons == {DeadReason.ENDPOINT_DISABLED: 3, DeadReason.EXPIRED: 1}
        assert await state_of(relay, young) is DeliveryState.DUE
        assert (relay.store.due_count(ref), relay.store.dead_count(ref)) == (1, 4)
        assert await relay.store.dead_groups("other") == []


async def test_a_held_head_gives_way_in_order(engine: Engine, tmp_path: Path) -> None:
    """Q12: ending a held predecessor makes the next due since it was accepted, so its own budget ends it in turn."""
    async with engine.opened(tmp_path) as relay:
        promoted: list[DueDelivery] = []
        relay.store.on_promoted(promoted.extend)
        ref = await relay.endpoint()
        first = await relay.due(ref, ordering_key="cut")
        second = await relay.accept(ref, ordering_key="cut")
        relay.clock.advance(10)
        now_ms = relay.clock.wall_ms()
        assert await relay.store.end_held(ref, now_ms, now_ms, DeadReason.EXHAUSTED) == {
            DeadReason.EXHAUSTED: [first.key]
        }
        assert [due.event for due in promoted] == [second.event.ordinal]
        assert len(await relay.store.end_held(ref, now_ms, now_ms, DeadReason.EXHAUSTED)) == 1


async def test_what_is_reserved_is_left_to_its_settlement(engine: Engine, tmp_path: Path) -> None:
    """H17: of two held deliveries past their expiry the one under way is spared; without that word it ends too."""
    async with engine.opened(tmp_path) as relay:
        ref = await relay.endpoint()
        running, waiting = [await relay.due(ref, expires_at_ms=relay.clock.wall_ms() + 1) for _ in range(2)]
        relay.clock.advance(5)
        now_ms = relay.clock.wall_ms()
        ended = await relay.store.end_held(ref, now_ms, now_ms, DeadReason.EXHAUSTED, 1, [running.event])
        assert ended == {DeadReason.EXPIRED: [waiting.key]}
        assert await relay.store.end_held(ref, now_ms, now_ms, DeadReason.EXHAUSTED, 1, [running.event]) == {}
        assert await state_of(relay, running) is DeliveryState.DUE
        assert await relay.store.end_held(ref, now_ms, now_ms, DeadReason.EXHAUSTED) == {
            DeadReason.EXPIRED: [running.key]
        }


# -- endpoints --------------------------------------------------------------------------------------------------------


async def test_endpoints_are_remembered(engine: Engine, tmp_path: Path) -> None:
    """Definition, secrets, state and health of an endpoint survive a restart."""
    async with engine.opened(tmp_path) as relay:
        row = await relay.endpoint_row()
        changed = replace(
            row,
            definition={"url": "https://b.example/"},
            secrets=(Secret("new"), Secret("old", 5)),
            state=EndpointState.DISABLED,
            disabled_by=DisabledBy.GONE,
            state_since_ms=7,
            url_seen="https://b.example/",
            updated_at_ms=8,
        )
        health = Health(failures=3, several=True, last_failure="503")
        change = RegistryChange(endpoints=[replace(changed, health=health)], fresh=frozenset({"ep_1"}))
        await relay.store.change_registry(change)
        assert "whsec" not in repr(row)
    async with engine.opened(tmp_path) as relay:
        assert await relay.endpoint_rows() == [replace(changed, health=health)]
        await relay.store.change_registry(RegistryChange(endpoints=[changed]))
        assert (await relay.endpoint_rows())[0].health == health
        with pytest.raises(NotFound):
            await relay.store.change_registry(RegistryChange(endpoints=[replace(changed, ref=77)]))


async def test_a_change_of_the_registry_is_kept_whole_or_not_at_all(engine: Engine, tmp_path: Path) -> None:
    """H4: an application, its endpoint and its key come in one transaction; what is refused in it leaves nothing."""
    async with engine.opened(tmp_path) as relay:
        first = await relay.endpoint_row()
        application = ApplicationRow(0, "beta", Origin.API, {"contract": "standard"}, "standard", 1, 1)
        endpoint = replace(first, ref=0, id="ep_2", application="beta")
        key = KeyRow("key_1", "beta", "", "rk_123456", b"digest", 1, None)
        change = RegistryChange(applications=[application], endpoints=[endpoint], keys=[key])
        before = await relay.store.load_registry()
        with pytest.raises(NotFound):
            await relay.store.change_registry(replace(change, deleted_keys=["key_9"]))
        with pytest.raises(NotFound):
            await relay.store.change_registry(replace(change, endpoints=[endpoint, replace(first, ref=77)]))
        assert await relay.store.load_registry() == before
        made = await relay.store.change_registry(change)
        after = await relay.store.load_registry()
    assert made.applications[0].ref > 0
    assert (after.applications[-1], after.endpoints[-1]) == (made.applications[0], made.endpoints[0])
    assert (after.endpoints[-1].application, after.keys) == ("beta", [key])


async def test_a_change_is_refused_while_deliveries_are_due(engine: Engine, tmp_path: Path) -> None:
    """H4: an application that must owe nothing is looked at in the same transaction; the answer counts what is due."""
    async with engine.opened(tmp_path) as relay:
        await relay.due(await relay.endpoint())
        before = await relay.store.load_registry()
        row = replace(before.applications[0], contract_seen="roughy")
        with pytest.raises(StillOwed) as refused:
            await relay.store.change_registry(RegistryChange(applications=[row], unowed=["acme"]))
        assert refused.value.due == {"acme": 1}
        assert await relay.store.load_registry() == before


# -- retention --------------------------------------------------------------------------------------------------------


async def test_keys_are_forgotten_in_the_end(engine: Engine, tmp_path: Path) -> None:
    """Q8, Q14: a key that was pruned may be used again, for another event."""
    async with engine.opened(tmp_path) as relay:
        await relay.accept(idempotency=key("k"))
        relay.clock.advance(91 * DAY_MS)
        await sweep(relay)
        await relay.accept(idempotency=key("k", "other"))
        assert await sweep(relay) == [(0, 0, 0, 0)]


async def test_pruning_takes_small_steps(engine: Engine, tmp_path: Path) -> None:
    """Q14: a step touches a bounded number of rows and the next goes on from there, past what must stay."""
    async with engine.opened(tmp_path) as relay:
        refs = [await relay.endpoint(f"ep_{n}") for n in range(6)]
        stays = await relay.accept(refs[0])
        for _ in range(10):
            for due in (await relay.accept(*refs, idempotency=key(str(relay.clock.wall_ms())))).due:
                await relay.delivered(due)
        relay.clock.advance(200 * DAY_MS)
        steps = await sweep(relay, limit=4)
        assert sum(step[0] for step in steps) == 10
        assert all(step[0] <= 4 and step[1] <= 16 for step in steps)
        assert sum(step[3] for step in steps) == 10
        assert await relay.store.find_event(stays.event.id) is not None


async def test_pruned_space_goes_back_to_the_disk(engine: Engine, tmp_path: Path) -> None:
    """Q14: a file that is mostly unused shrinks, so that free disk space means something again."""
    async with engine.opened(tmp_path) as relay:
        for _ in range(60):
            await relay.accept(body=b"x" * 50_000)
        relay.clock.advance(31 * DAY_MS)
        for _ in range(3):
            await sweep(relay)
        await relay.store.close()
        assert relay.store.sizes()["database_bytes"] < 1_000_000
        assert relay.store.free_disk_bytes() > 0


# -- time -------------------------------------------------------------------------------------------------------------


async def test_after_a_step_back_nothing_waits_longer_than_its_own_delay(engine: Engine, tmp_path: Path) -> None:
    """H13, Q15: due times that a clock since stepped back set too far ahead move to the attempt's own delay."""
    async with engine.opened(tmp_path) as relay:
        ref, other = await relay.endpoint("ep_1"), await relay.endpoint("ep_2")
        ahead_ms = relay.clock.wall_ms()
        fresh = await relay.due(ref)
        appointed = await relay.due(ref, deliver_at_ms=ahead_ms + 5_000)
        retried = await relay.store.retry_delivery(delivery_id((await relay.due(ref)).key))
        failed = (await relay.again(await relay.due(ref), ahead_ms + 9_000)).due
        elsewhere = await relay.due(other)
        assert failed is not None
        relay.clock.step_wall(-8 * 3_600_000)
        now_ms = relay.clock.wall_ms()

        moved: list[DueDelivery] = []
        place, steps = None, 0
        while steps == 0 or place is not None:
            moved_now, place = await relay.store.pull_forward(ref, [now_ms, now_ms + 3_000], place, limit=2)
            moved += moved_now
            steps += 1
        assert {due.event: due.due_ms for due in moved} == {
            fresh.event: now_ms,
            retried.event: now_ms,
            failed.event: now_ms + 3_000,
        }
        assert steps == 3
        rows = (await relay.store.refill(ref, 0, 0, 10)).rows
        assert {(row.event, row.due_ms) for row in rows} == {(due.event, due.due_ms) for due in [*moved, appointed]}
        assert (await relay.store.refill(other, 0, 0, 10)).rows == [elsewhere]


async def test_the_time_of_the_last_commits_is_noted(engine: Engine, tmp_path: Path) -> None:
    """H12, Q15: a heartbeat rides on commits, at most one a minute; a start finds the last one."""
    async with engine.opened(tmp_path) as relay:
        assert relay.store.heartbeat_ms is None
        clock, first_ms = relay.clock, relay.clock.wall_ms()
        await relay.accept()
        clock.advance(59_000)
        await relay.accept()
        await relay.store.abandon()
    async with engine.opened(tmp_path, clock) as relay:
        assert relay.store.heartbeat_ms == first_ms
        clock.advance(1_000)
        await relay.store.ping()  # changes nothing, so nothing is noted
        await relay.store.abandon()
    async with engine.opened(tmp_path, clock) as relay:
        assert relay.store.heartbeat_ms == first_ms
        await relay.accept(id="evt_after")
        await relay.store.abandon()
    async with engine.opened(tmp_path, clock) as relay:
        assert relay.store.heartbeat_ms == first_ms + 60_000


async def test_a_clock_that_is_not_trusted_leaves_no_heartbeat(engine: Engine, tmp_path: Path) -> None:
    """H12, Q15: a second start under a wrong clock still sees that it jumped; one that stepped back is noted anew."""
    async with engine.opened(tmp_path) as relay:
        clock, first_ms = relay.clock, relay.clock.wall_ms()
        await relay.accept()
        clock.step_wall(60 * DAY_MS)
        relay.store.trust_clock(trusted=False)
        await relay.accept()
        await relay.store.abandon()
    async with engine.opened(tmp_path, clock) as relay:
        assert relay.store.heartbeat_ms == first_ms
        await relay.accept(id="evt_ahead")
        clock.step_wall(-60 * DAY_MS)
        await relay.accept(id="evt_after")
    async with engine.opened(tmp_path, clock) as relay:
        assert relay.store.heartbeat_ms == first_ms
