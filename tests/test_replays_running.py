"""Replays as they run: below fresh traffic, at their rate, through crashes, within their limits."""

import asyncio
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from relay.queue.lanes import Lanes
from relay.queue.memory import SortedDeliveries
from relay.store.replays import Share
from relay.store.sqlite import replays as written
from tests.support.api import Api
from tests.support.replaying import ONE_ATTEMPT, TICK_MS, died, dry, move, over, refusal, replay, sent

SLOTS = 4


def narrow(**endpoint: Any) -> dict[str, Any]:
    """Configure one endpoint with a few slots."""
    (acme, globex) = ONE_ATTEMPT["application"]
    (primary,) = acme["endpoint"]
    return {
        **ONE_ATTEMPT,
        "application": [{**acme, "endpoint": [{**primary, "concurrency": SLOTS, **endpoint}]}, globex],
    }


def held_open(api: Api, count: int) -> list[asyncio.Future[int]]:
    """Let the next attempts stay open until they are given an answer."""
    answers: list[asyncio.Future[int]] = [asyncio.get_running_loop().create_future() for _ in range(count)]
    api.courier.script = list(answers)
    return answers


async def warm(api: Api) -> None:
    """Let the endpoint's window grow to all of its slots."""
    for _ in range(SLOTS):
        await api.delivery_of(await api.post_event(), "delivered")


# -- below fresh traffic ----------------------------------------------------------------------------------------------------


async def fresh_beside(api: Api) -> tuple[bool, int]:
    """Post an event while many replays wait: whether it goes out at once, and how many replays were out by then."""
    await died(api, 30)
    await warm(api)
    before = len(api.courier.requests)
    answers = held_open(api, 60)
    made = await replay(api, rate="1000/s")
    await move(api, 20)
    running = len(api.courier.requests) - before
    fresh = await api.post_event()
    await api.quiet()
    at_once = fresh in sent(api)[before:]
    for answer in answers:
        answer.set_result(204)
    await over(api, made["id"])
    return at_once, running


async def test_replays_delay_nothing_fresh(tmp_path: Path) -> None:
    """Replays have half of an endpoint's slots, so an event that comes meanwhile goes out at once."""
    async with Api(tmp_path, narrow()) as api:
        assert await fresh_beside(api) == (True, SLOTS // 2)


async def test_replays_that_took_all_slots_would_delay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Negative control: handed over as fast as the rate allows, they are all out, and the fresh event waits."""
    monkeypatch.setattr(Lanes, "spare", lambda *args: 1_000)
    async with Api(tmp_path, narrow()) as api:
        assert await fresh_beside(api) == (False, SLOTS)


async def waiting_ones(api: Api) -> list[bool]:
    """Let replays and a fresh event wait for the same slot; whether what then goes out, one by one, is fresh."""
    await died(api, 20)
    await warm(api)
    before = len(api.courier.requests)
    answers = held_open(api, SLOTS)
    held = [await api.post_event() for _ in range(SLOTS)]  # all slots are taken
    await api.quiet()
    assert sent(api)[before:] == held
    (share,) = await api.store.replays.endpoints((await _selected(api)).ref)
    step = await api.store.replays.step(1, [Share(share, 6)])
    api.dispatch.offer(step.due)
    api.clock.advance(1)
    fresh = [await api.post_event() for _ in range(2)]
    for answer in answers:
        answer.set_result(204)
        await api.quiet()
    await api.until(lambda: _sent(api, before + SLOTS + 8))
    return [one in fresh for one in sent(api)[before + SLOTS : before + SLOTS + 8]]


async def _sent(api: Api, count: int) -> bool:
    return len(api.courier.requests) >= count


async def _selected(api: Api) -> Any:
    """Make a replay that has selected, and runs no further."""
    api.relay.replays._hand_over = _nothing  # type: ignore[method-assign]  # the test hands over itself
    made = await replay(api)
    await move(api, 3)
    return await api.store.replays.find(made["id"])


async def _nothing(*args: object) -> float:
    return TICK_MS


async def test_what_is_fresh_goes_before_replays_that_wait(tmp_path: Path) -> None:
    """Of what waits for a slot, fresh deliveries go first, also those that came later than the replays."""
    async with Api(tmp_path, narrow()) as api:
        assert await waiting_ones(api) == [True] * 2 + [False] * 6


async def test_by_age_replays_would_go_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Negative control: in the order of their due times, replays that wait go before a fresh event."""
    monkeypatch.setattr(SortedDeliveries, "first_but_replays", lambda *args: None)
    async with Api(tmp_path, narrow()) as api:
        assert await waiting_ones(api) == [False] * 6 + [True] * 2


async def test_a_rate_limit_leaves_half_to_fresh_ones(tmp_path: Path) -> None:
    """Of an endpoint's own rate replays use half at most: fresh events have the other half."""
    async with Api(tmp_path, narrow(rate_limit="10/s")) as api:
        for _ in range(12):
            await died(api, 1)
            api.clock.advance(1_000)
        before = len(api.courier.requests)
        made = await replay(api, rate="1000/s")
        await move(api, 40)
        assert len(api.courier.requests) - before == 5
        fresh = [await api.post_event() for _ in range(5)]
        await api.quiet()
        assert sent(api)[before + 5 :] == fresh
        await over(api, made["id"])


async def test_other_endpoints_are_not_held_up(tmp_path: Path) -> None:
    """An endpoint that cools down holds up no other of the same replay, and is taken up when it has recovered."""
    config = narrow()
    config["delivery"] = {**config["delivery"], "health": {"failures": 3, "cool_down": "1h", "cool_down_max": "1h"}}
    async with Api(tmp_path, config) as api:
        other = (await api.call("POST", "/v1/webhook-endpoints", {"url": "https://b.example/"}, by="acme-app")).json[
            "id"
        ]
        api.courier.script = [500] * 6
        events = [await api.post_event() for _ in range(3)]
        await api.until(lambda: _all_dead(api, events))
        await api.call("POST", f"/v1/webhook-endpoints/{other}/enable")
        api.clock.advance(3_599_000)
        await api.call("POST", f"/v1/webhook-endpoints/{other}/disable")
        await api.call("POST", f"/v1/webhook-endpoints/{other}/enable")  # its health begins anew
        made = await replay(api)
        await move(api, 40)
        states = [{row.endpoint: row.state.value for row in await api.store.deliveries_of(one)} for one in events]
        assert states == [{"primary": "dead", other: "delivered"}] * 3
        shown = await api.get(f"/v1/replays/{made['id']}")
        assert (shown["left"], shown["waits_for"]) == (3, "endpoint primary")
        api.clock.advance(3_600_000)
        assert (await over(api, made["id"]))["replayed"] == 6


async def _all_dead(api: Api, events: list[str]) -> bool:
    rows = [row for event in events for row in await api.store.deliveries_of(event)]
    return len(rows) == 6 and all(row.state.value == "dead" for row in rows)


@pytest.mark.parametrize(("rate", "ticks", "most"), [("10/s", 49, 10), ("60/m", 100, 2), ("100/s", 49, 100)])
async def test_a_replay_keeps_its_rate(tmp_path: Path, rate: str, ticks: int, most: int) -> None:
    """In a second no more is handed over than the rate says, and it flows: not all at its beginning."""
    async with Api(tmp_path, ONE_ATTEMPT) as api:
        await died(api, 12 if most < 100 else 120)
        before = len(api.courier.requests)
        made = await replay(api, rate=rate)
        await move(api, 2)
        assert len(api.courier.requests) - before <= max(most // 10, 1)
        await move(api, ticks - 2)
        assert most * 0.8 <= len(api.courier.requests) - before <= most
        await over(api, made["id"])


# -- crashes ----------------------------------------------------------------------------------------------------------------


async def crashed(api: Api) -> Counter[str]:
    """Crash three times while a replay runs, attempts under way; how often each event was answered with a 2xx."""
    dead = await died(api, 60)
    before = len(api.courier.requests)
    made = await replay(api, rate="200/s")
    for ticks in (1, 6, 9):  # while it selects, and while it runs
        await move(api, ticks)
        hanging = held_open(api, 3)
        await move(api, 2)
        await api.crash()
        for one in hanging:
            one.cancel()
        api.courier.script = []
        api.clock.advance(1_000)
        await api.start()
    done = await over(api, made["id"])
    assert (done["selected"], done["left"]) == (60, 0)
    await move(api, 5)
    states = [(await api.get(f"/v1/deliveries/{one}"))["state"] for one in dead]
    assert states == ["delivered"] * 60
    return Counter(sent(api)[before:])


async def test_a_crash_loses_none_and_repeats_only_what_was_under_way(tmp_path: Path) -> None:
    """After each crash a replay goes on where its last commit left off: every one arrives, and of none but what was under
    way there is a second request."""
    async with Api(tmp_path, ONE_ATTEMPT) as api:
        counts = await crashed(api)
    assert len(counts) == 60
    assert sum(counts.values()) - 60 <= 9


async def test_items_taken_away_beforehand_would_be_lost(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Negative control: were an item taken away without its delivery made due, some would not arrive."""
    step = written._step

    def forgetful(connection: Any, ref: int, *rest: Any) -> Any:
        connection.execute(
            "DELETE FROM replay_item WHERE event = (SELECT min(event) FROM replay_item WHERE replay = ?)", (ref,)
        )
        return step(connection, ref, *rest)

    monkeypatch.setattr(written, "_step", forgetful)
    monkeypatch.setattr("tests.support.replaying.PATIENCE", 100)
    async with Api(tmp_path, ONE_ATTEMPT) as api:
        with pytest.raises(AssertionError):
            await crashed(api)


# -- limits and life --------------------------------------------------------------------------------------------------------


async def test_a_cancelled_replay_stops(tmp_path: Path) -> None:
    """What a cancelled replay had before it stays dead and its items go; what it made due stays due. No second cancel."""
    async with Api(tmp_path, ONE_ATTEMPT) as api:
        await died(api, 30)
        made = await replay(api, rate="10/s")
        await move(api, 25)
        answer = await api.call("POST", f"/v1/replays/{made['id']}/cancel", by="acme-app")
        assert answer.status == 404  # it is of all applications
        answer = await api.call("POST", f"/v1/replays/{made['id']}/cancel")
        assert answer.status == 200
        done = await over(api, made["id"], "cancelled")
        await move(api, 50)
        again = await api.call("POST", f"/v1/replays/{made['id']}/cancel")
        assert (again.status, again.json["type"]) == (409, "replay_over")
        assert (await dry(api))["count"] == 30 - done["replayed"]
        assert await api.store.replays.endpoints(1) == []
    assert 0 < done["replayed"] < 10
    assert done["cancelled_by"] == "root"
    assert (done["left"], answer.json["state"]) == (30 - done["replayed"], "cancelled")


async def test_there_may_be_so_many_replays(tmp_path: Path) -> None:
    """Of operators, and of each application, there may be a number of replays that are not over; then it is 409."""
    config = {**ONE_ATTEMPT, "replays": {"at_once": 2, "per_application": 1}}
    async with Api(tmp_path, config) as api:
        await died(api, 1)
        await api.registrar.pause("primary")
        made = [await replay(api) for _ in range(2)]
        assert (await refusal(api, {"mode": "failed"})).json["type"] == "too_many_replays"
        await replay(api, by="acme-app")
        assert (await refusal(api, {"mode": "failed"}, by="acme-app")).status == 409
        await replay(api, by="globex-app")
        await api.call("POST", f"/v1/replays/{made[0]['id']}/cancel")
        await replay(api)


async def test_a_replay_has_so_many_deliveries(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A replay takes the oldest `replays.deliveries`, says that there was more, and another one takes the rest."""
    monkeypatch.setattr("relay.store.sqlite.selection.EXAMINED_MAX", 2)
    async with Api(tmp_path, {**ONE_ATTEMPT, "replays": {"deliveries": 3}}) as api:
        await died(api, 5)
        first = await over(api, (await replay(api))["id"])
        second = await over(api, (await replay(api))["id"])
    assert (first["selected"], first["cut"]) == (3, True)
    assert (second["selected"], second["cut"]) == (2, False)


async def test_finished_replays_are_forgotten(tmp_path: Path) -> None:
    """What is over is kept for `storage.retention.replays`; what is not stays, and no ref is given twice."""
    config = {
        **ONE_ATTEMPT,
        "storage": {
            "path": str(tmp_path / "relay.db"),
            "min_free_disk": "1MiB",
            "retention": {"events": "90d", "idempotency": "90d", "replays": "1d"},
        },
    }
    async with Api(tmp_path, config) as api:
        await died(api, 1)
        done = await over(api, (await replay(api))["id"])
        await died(api, 1)
        await api.registrar.pause("primary")
        left = await replay(api)
        await move(api, 3)
        api.clock.advance(86_400_000 - 5_000)
        await api.relay.housekeeping.prune_once()
        assert len((await api.get("/v1/replays"))["data"]) == 2
        api.clock.advance(10_000)
        await api.relay.housekeeping.prune_once()
        assert [one["id"] for one in (await api.get("/v1/replays"))["data"]] == [left["id"]]
        assert (await api.call("GET", f"/v1/replays/{done['id']}")).status == 404


async def test_a_key_makes_one_replay(tmp_path: Path) -> None:
    """A repeat with the same idempotency key answers with the first replay; another body under it is 409."""
    async with Api(tmp_path, ONE_ATTEMPT) as api:
        await died(api, 2)
        headers = {"Idempotency-Key": "night-1"}
        first = await api.call("POST", "/v1/replays", {"mode": "failed"}, headers=headers)
        await over(api, first.json["id"])
        again = await api.call("POST", "/v1/replays", {"mode": "failed"}, headers=headers)
        other = await api.call("POST", "/v1/replays", {"mode": "all"}, headers=headers)
        assert len((await api.get("/v1/replays"))["data"]) == 1
    assert (again.status, again.json["id"], again.json["state"]) == (201, first.json["id"], "finished")
    assert again.headers["Idempotent-Replayed"] == "true"
    assert (other.status, other.json["type"]) == (409, "idempotency_conflict")


async def test_status_and_metrics_show_replays(tmp_path: Path) -> None:
    """How many replays are not over, what they have before them, and how much was sent again, can be seen."""
    async with Api(tmp_path, ONE_ATTEMPT) as api:
        await died(api, 3)
        await api.registrar.pause("primary")
        made = await replay(api)
        await move(api, 3)
        assert (await api.get("/v1/status"))["replays"] == {"unfinished": 1, "left": 3}
        text = (await api.call("GET", "/metrics")).text.decode()
        assert "relay_replays 1.0" in text
        assert "relay_replays_left 3.0" in text
        await api.registrar.resume("primary")
        await over(api, made["id"])
        text = (await api.call("GET", "/metrics")).text.decode()
        assert "relay_replayed_deliveries_total 3.0" in text
        assert (await api.get("/v1/status"))["replays"] == {"unfinished": 0, "left": 0}
