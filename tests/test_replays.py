"""Replays through the API: what each mode selects, what is left out and why, and that each is sent once (T7)."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from relay.core.model import ReplayMode
from relay.core.units import parse_rate
from relay.store.replays import Replay, Wanted
from relay.store.sqlite import replays as written
from relay.store.values import delivery_key
from tests.support.api import CONFIG, Api
from tests.support.replaying import ONE_ATTEMPT, chosen, died, dry, move, over, refusal, replay, sent

ENDPOINTS = "/v1/webhook-endpoints"


async def events_of(api: Api, deliveries: list[str]) -> list[str]:
    return [(await api.get(f"/v1/deliveries/{one}"))["event_id"] for one in deliveries]


async def states(api: Api, deliveries: list[str]) -> list[str]:
    return [(await api.get(f"/v1/deliveries/{one}"))["state"] for one in deliveries]


# -- failed -----------------------------------------------------------------------------------------------------------------


async def test_what_failed_is_sent_again(tmp_path: Path) -> None:
    """Dead letters go again, the oldest first, under their ids, in a new series, marked as manual; others do not."""
    async with Api(tmp_path, ONE_ATTEMPT) as api:
        dead = await died(api, 5)
        fine = await api.delivery_of(await api.post_event(), "delivered")
        before = len(api.courier.requests)
        made = await replay(api)
        done = await over(api, made["id"])
        assert sent(api)[before:] == await events_of(api, dead)
        shown = await api.get(f"/v1/deliveries/{dead[0]}")
        assert (await api.get(f"/v1/deliveries/{fine['id']}"))["attempts"] == 1
        listed = await api.get("/v1/replays")
    assert (made["state"], made["mode"], made["rate"], made["created_by"]) == ("selecting", "failed", "50/s", "root")
    assert (done["selected"], done["replayed"], done["left"], done["skipped"]) == (5, 5, 0, {})
    assert (shown["state"], shown["series"], shown["replayed"]) == ("delivered", 2, True)
    assert fine["replayed"] is False
    assert [attempt["trigger"] for attempt in shown["timeline"]] == ["scheduled", "manual"]
    assert listed == {"data": [done], "next": None}


async def test_filters_select(tmp_path: Path) -> None:
    """Application, endpoint, type, reason and time narrow a replay, as a dry run says, which changes nothing."""
    async with Api(tmp_path, ONE_ATTEMPT) as api:
        old = await died(api, 2, "a.old")
        api.clock.advance(3_600_000)
        new = await died(api, 3, "a.new")

        async def count(**members: Any) -> int:
            found = await dry(api, **members)
            assert found["complete"] is True
            assert len(found["sample"]) == found["count"]
            return int(found["count"])

        assert await count() == await count(endpoint="primary") == await count(application="acme") == 5
        assert await count(application="globex") == await count(reason="gone") == 0
        assert await count(type="a.old") == await count(until="30m") == 2
        assert await count(since="30m") == await count(reason="exhausted", since="2027-01-15T08:30:00Z") == 3
        assert await count(ids=[old[0], new[0]]) == 2
        assert await states(api, old + new) == ["dead"] * 5
        assert await api.get("/v1/replays") == {"data": [], "next": None}
        (shown, *_) = (await dry(api, since="30m"))["sample"]
        assert (shown["delivery"], shown["endpoint"], shown["event_type"]) == (new[0], "primary", "a.new")
        await over(api, (await replay(api, since="30m"))["id"])
        assert await states(api, old + new) == ["dead"] * 2 + ["delivered"] * 3


async def test_a_dry_run_of_very_much_says_that_there_may_be_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A dry run looks at a bounded number of rows, counts those, shows a few, and says that it is not complete."""
    monkeypatch.setattr("relay.replay.replays.PREVIEW_MAX", 4)
    monkeypatch.setattr("relay.store.sqlite.selection.EXAMINED_MAX", 2)
    async with Api(tmp_path, ONE_ATTEMPT) as api:
        await died(api, 7)
        found = await dry(api)
        assert (found["count"], found["complete"]) == (4, False)
        done = await over(api, (await replay(api))["id"])  # which goes through all pages
    assert done["replayed"] == 7


# -- all and ids ------------------------------------------------------------------------------------------------------------


async def test_all_sends_whatever_has_ended(tmp_path: Path) -> None:
    """Mode `all` sends delivered, dead and cancelled deliveries; what is due is sent anyway; `state` narrows it."""
    async with Api(tmp_path, ONE_ATTEMPT) as api:
        (dead,) = await died(api, 1)
        fine = (await api.delivery_of(await api.post_event(), "delivered"))["id"]
        await api.registrar.pause("primary")
        waiting = (await api.delivery_of(await api.post_event(), "due"))["id"]
        gone = (await api.delivery_of(await api.post_event(), "due"))["id"]
        await api.call("POST", f"/v1/deliveries/{gone}/cancel")
        counts = {word: (await dry(api, "all", state=word))["count"] for word in ("delivered", "dead", "cancelled")}
        assert counts == {"delivered": 1, "dead": 1, "cancelled": 1}
        made = await replay(api, "all")
        await chosen(api, made["id"])
        await api.registrar.resume("primary")
        done = await over(api, made["id"])
        assert await states(api, [dead, fine, waiting, gone]) == ["delivered"] * 4
        attempts = [(await api.get(f"/v1/deliveries/{one}"))["attempts"] for one in (dead, fine, waiting, gone)]
    assert done["selected"] == 3
    assert attempts == [2, 2, 1, 1]


async def test_what_is_delivered_after_a_replay_was_made_is_not_sent_again(tmp_path: Path) -> None:
    """A replay of `all` sends what had ended when it was asked for, however late it comes to choose."""
    async with Api(tmp_path, ONE_ATTEMPT) as api:
        fine = (await api.delivery_of(await api.post_event(), "delivered"))["id"]
        made = Replay("", None, ReplayMode.ALL, Wanted(), parse_rate("1/s"), False, "root", api.clock.wall_ms())
        api.clock.advance(1)
        await api.delivery_of(await api.post_event(), "delivered")
        chosen_now = await api.store.replays.select(made, ())
        later = replace(made, created_at_ms=api.clock.wall_ms())
        chosen_later = await api.store.replays.select(later, ())
    assert chosen_now.keys == [delivery_key(fine)]
    assert len(chosen_later.keys) == 2


async def test_ids_select_deliveries_and_events(tmp_path: Path) -> None:
    """Ids name deliveries, or events with all their deliveries; what is unknown or unfit is counted, not an error."""
    async with Api(tmp_path, ONE_ATTEMPT) as api:
        dead = await died(api, 3)
        fine = (await api.delivery_of(await api.post_event(), "delivered"))["id"]
        (event,) = await events_of(api, dead[1:2])
        done = await over(api, (await replay(api, ids=[dead[0], event, fine, "evt_none", "dlv_none"]))["id"])
        assert await states(api, dead) == ["delivered", "delivered", "dead"]
    assert (done["selected"], done["replayed"]) == (2, 2)
    assert done["skipped"] == {"unknown": 2, "unwanted": 1}


# -- missing ----------------------------------------------------------------------------------------------------------------


async def test_what_was_never_owed_is_sent(tmp_path: Path) -> None:
    """Mode `missing` gives events to endpoints that match them now: added later, disabled then, or subscribed since."""
    async with Api(tmp_path, ONE_ATTEMPT) as api:
        owed = await api.post_event("a.one")
        await api.delivery_of(owed, "delivered")
        await api.registrar.disable("primary")
        skipped = await api.post_event("a.two")
        await api.registrar.enable("primary")
        before = await api.get(f"/v1/events/{skipped}")
        wanted = {"url": "https://late.example/", "event_types": ["a.one"]}
        late = (await api.call("POST", ENDPOINTS, wanted, by="acme-app")).json["id"]
        found = await dry(api, "missing")
        done = await over(api, (await replay(api, "missing"))["id"])
        rows = {event: await api.store.deliveries_of(event) for event in (owed, skipped)}
        after = await api.get(f"/v1/events/{skipped}")
        again = await dry(api, "missing")
        usage = api.store.usage(api.registry.application("acme").application.ref)
    assert (before["reason"], after["reason"], after["deliveries"]) == ("skipped", None, {"delivered": 1})
    assert found["count"] == done["replayed"] == 2
    assert {one["delivery"] for one in found["sample"]} == {None}
    assert {row.endpoint: row.state.value for row in rows[owed]} == {"primary": "delivered", late: "delivered"}
    assert [row.endpoint for row in rows[skipped]] == ["primary"]
    assert again["count"] == 0
    assert usage == (0, 0)


async def test_filters_of_endpoints_hold_for_what_is_missing(tmp_path: Path) -> None:
    """An endpoint's filter, and the endpoints that the producer named, say of old events too whether they go there."""
    async with Api(tmp_path, ONE_ATTEMPT) as api:
        few, many = [await api.post_event(data=b'{"n":%d}' % n) for n in (1, 9)]
        primary = api.registry.endpoints["primary"].ref
        aimed = await api.post_event(data=b'{"n":9}', aimed=(primary,))
        await api.quiet()
        wanted = {"url": "https://late.example/", "filter": {"data.n": {"$gt": 5}}}
        answer = await api.call("POST", ENDPOINTS, wanted, by="acme-app")
        assert answer.status == 201, answer.text
        done = await over(api, (await replay(api, "missing", endpoint=answer.json["id"]))["id"])
        counts = [len(await api.store.deliveries_of(event)) for event in (few, many, aimed)]
    assert done["replayed"] == 1
    assert counts == [1, 2, 1]


async def test_what_is_missing_is_written_by_the_endpoint_s_own_contract(tmp_path: Path) -> None:
    """An endpoint that has a contract of its own, and was added later, gets old events as that contract writes them."""
    async with Api(tmp_path, ONE_ATTEMPT) as api:
        events = [await api.post_event(data=b'{"n":%d}' % n) for n in (1, 2)]
        await api.quiet()
        for url in (
            "https://late.example/",
            "https://later.example/",
        ):  # the second finds what was frozen for the first
            wanted = {"url": url, "contract": "cloudevents"}
            answer = await api.call("POST", ENDPOINTS, wanted, by="acme-app")
            assert answer.status == 201, answer.text
            done = await over(api, (await replay(api, "missing"))["id"])
            assert (done["replayed"], done["skipped"]) == (2, {})
            requests = [request for request in api.courier.requests if request.url == url]
            written = [json.loads(request.body) for request in requests]
            assert [(one["specversion"], one["data"]) for one in written] == [("1.0", {"n": 1}), ("1.0", {"n": 2})]
        variants = [(await api.store.find_event(event)).variants for event in events]
        assert [len(one.endpoints) for (one,) in variants] == [2, 2]


async def test_what_a_contract_keeps_back_stays_back(tmp_path: Path) -> None:
    """An event that its contract filtered is not missing anywhere, whoever subscribes to it."""
    async with Api(tmp_path, ONE_ATTEMPT) as api:
        event = await api.post_event()
        await api.delivery_of(event, "delivered")
        await api.call("POST", ENDPOINTS, {"url": "https://late.example/"}, by="acme-app")
        assert (await dry(api, "missing"))["count"] == 1

        def filtered(connection: Any) -> Any:
            connection.execute("UPDATE event SET reason = 'filtered'")
            return written.Change(None)

        await api.store._edit(filtered)
        assert (await dry(api, "missing"))["count"] == 0


# -- T7 ---------------------------------------------------------------------------------------------------------------------


async def overlapping(api: Api) -> list[int]:
    """Replay the same dead letters three times over while they die again; how often each was sent."""
    dead = await died(api, 12)
    api.courier.script = [500] * 100
    jobs = [await replay(api, rate="20/s") for _ in range(2)]
    jobs.append(await replay(api, ids=dead[:6]))
    for job in jobs:
        await over(api, job["id"])
    return [(await api.get(f"/v1/deliveries/{one}"))["attempts"] - 1 for one in dead]


async def test_replays_that_overlap_send_each_dead_letter_once(tmp_path: Path) -> None:
    """T7: however many replays are about a dead letter, it is sent once, also if it has died again by then."""
    async with Api(tmp_path, ONE_ATTEMPT) as api:
        assert await overlapping(api) == [1] * 12
        again = await over(api, (await replay(api))["id"])  # made later, so it means them again
    assert again["replayed"] == 12


async def test_the_rule_is_what_keeps_them_from_being_sent_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Negative control: without a look at what was sent again since, letters that died again are sent more than once."""
    step = written._again
    monkeypatch.setattr(
        written, "_again", lambda connection, of, *rest: step(connection, replace(of, ref=1 << 60), *rest)
    )
    async with Api(tmp_path, ONE_ATTEMPT) as api:
        assert max(await overlapping(api)) > 1


async def test_a_retry_by_hand_counts_too(tmp_path: Path) -> None:
    """T7: what somebody retried by hand after a replay was made, and what he cancelled, is none of the replay's business."""
    async with Api(tmp_path, ONE_ATTEMPT) as api:
        dead = await died(api, 3)
        await api.registrar.pause("primary")
        made = await replay(api)
        await move(api, 3)
        await api.call("POST", f"/v1/deliveries/{dead[0]}/retry")
        await api.call("POST", f"/v1/deliveries/{dead[1]}/retry")
        await api.call("POST", f"/v1/deliveries/{dead[1]}/cancel")
        await api.registrar.resume("primary")
        done = await over(api, made["id"])
        assert await states(api, dead) == ["delivered", "cancelled", "delivered"]
    assert (done["replayed"], done["skipped"]) == (1, {"replayed": 2})


# -- what is left out -------------------------------------------------------------------------------------------------------


async def test_what_has_expired_goes_with_force_only(tmp_path: Path) -> None:
    """A dead letter past its `expires_at` is left out and counted; with `force` its one attempt is made."""
    async with Api(tmp_path, ONE_ATTEMPT) as api:
        dead = await died(api, 2, expires_at_ms=api.clock.wall_ms() + 60_000)
        api.clock.advance(120_000)
        done = await over(api, (await replay(api))["id"])
        assert (done["replayed"], done["skipped"]) == (0, {"expired": 2})
        assert (await over(api, (await replay(api, force=True))["id"]))["replayed"] == 2
        assert await states(api, dead) == ["delivered"] * 2


async def test_a_paused_endpoint_is_waited_for(tmp_path: Path) -> None:
    """What a paused endpoint has coming stays dead until it is resumed, and the replay says for whom it waits."""
    async with Api(tmp_path, ONE_ATTEMPT) as api:
        dead = await died(api, 2)
        await api.registrar.pause("primary")
        made = await replay(api)
        await move(api, 50)
        waiting = await api.get(f"/v1/replays/{made['id']}")
        assert await states(api, dead) == ["dead"] * 2
        await api.registrar.resume("primary")
        done = await over(api, made["id"])
    assert (waiting["state"], waiting["left"], waiting["waits_for"]) == ("running", 2, "endpoint primary")
    assert (done["replayed"], done["waits_for"]) == (2, None)


@pytest.mark.parametrize("why", ["endpoint_disabled", "endpoint_deleted", "gone"])
async def test_what_cannot_be_sent_is_counted(tmp_path: Path, why: str) -> None:
    """Dead letters of a disabled or deleted endpoint, and of events that were pruned meanwhile, are left out and counted."""
    async with Api(tmp_path, ONE_ATTEMPT) as api:
        endpoint = (await api.call("POST", ENDPOINTS, {"url": "https://a.example/"}, by="globex-app")).json["id"]
        await died(api, 3, application="globex")
        await api.registrar.pause(endpoint)
        made = await replay(api, by="globex-app")
        await move(api, 3)
        if why == "endpoint_disabled":
            await api.registrar.disable(endpoint)
        elif why == "endpoint_deleted":
            await api.registrar.delete_endpoint(endpoint)
        else:
            api.clock.advance(40 * 86_400_000)
            while await api.relay.housekeeping.prune_once():
                pass
            await api.registrar.resume(endpoint)
        done = await over(api, made["id"])
    assert (done["selected"], done["replayed"], done["skipped"]) == (3, 0, {why: 3})


# -- whose ------------------------------------------------------------------------------------------------------------------


async def test_an_application_replays_its_own(tmp_path: Path) -> None:
    """An application's key means its own deliveries, sees its own replays, and cannot cancel others'."""
    async with Api(tmp_path, ONE_ATTEMPT) as api:
        await died(api, 2)
        assert (await dry(api, by="globex-app"))["count"] == 0
        assert (await dry(api, by="globex-app", ids=["dlv_none"]))["skipped"] == {"unknown": 1}
        (dead, *_) = (await dry(api))["sample"]
        foreign = await dry(api, by="globex-app", ids=[dead["delivery"]])
        assert (foreign["count"], foreign["skipped"]) == (0, {"unknown": 1})
        for members in ({"application": "acme"}, {"endpoint": "primary"}, {"endpoint": "nowhere"}):
            assert (await refusal(api, {"mode": "failed", **members}, by="globex-app")).status == 404
        await api.registrar.pause("primary")
        made, of_all = await replay(api, by="acme-app"), await replay(api)
        for by, seen in (("acme-app", [made["id"]]), ("globex-app", []), ("auditor", [of_all["id"], made["id"]])):
            assert [one["id"] for one in (await api.get("/v1/replays", by=by))["data"]] == seen
        for method, path in (("GET", ""), ("POST", "/cancel")):
            for one in (made, of_all):
                assert (await api.call(method, f"/v1/replays/{one['id']}{path}", by="globex-app")).status == 404
        assert (await api.call("POST", f"/v1/replays/{made['id']}/cancel", by="acme-app")).status == 200
        assert (await api.call("POST", "/v1/replays", {"mode": "failed"}, by="auditor")).status == 403


@pytest.mark.parametrize(
    ("members", "pointers"),
    [
        ({}, ["/mode"]),
        ({"mode": "some", "colour": 1}, ["/mode", "/colour"]),
        ({"mode": "failed", "state": "delivered"}, ["/state"]),
        ({"mode": "all", "state": "due"}, ["/state"]),
        ({"mode": "missing", "reason": "gone"}, ["/reason"]),
        ({"mode": "failed", "since": "yesterday", "rate": "fast", "force": 1}, ["/force", "/rate", "/since"]),
        ({"mode": "failed", "ids": []}, ["/ids"]),
        ({"mode": "failed", "ids": ["dlv_1", 2]}, ["/ids/1"]),
        ({"mode": "failed", "ids": ["dlv_1"], "type": "a"}, ["/ids"]),
        ({"mode": "failed", "ids": ["a", "b", "c"]}, ["/ids"]),
        ({"mode": "failed", "dry_run": "yes"}, ["/dry_run"]),
    ],
)
async def test_every_mistake_is_listed(tmp_path: Path, members: dict[str, Any], pointers: list[str]) -> None:
    """A replay that is wrongly asked for is refused with every mistake, and nothing is made."""
    async with Api(tmp_path, {**CONFIG, "replays": {"ids": 2}}) as api:
        answer = await refusal(api, members)
        assert answer.status == 422
        assert sorted(error["pointer"] for error in answer.json["errors"]) == sorted(pointers)
        assert (await api.get("/v1/replays"))["data"] == []
