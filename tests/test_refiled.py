"""A filtered event that is posted again: judged anew, and in its first id's place once it may go (Q8, K10); words by key (K7)."""

from pathlib import Path
from typing import Any
from uuid import UUID

import orjson
import pytest

from relay.api.problems import Refused
from tests.support.desk import keeping_desk
from tests.support.receiver import Receiver
from tests.support.stack import Stack
from tests.support.stores import key, look, opened
from tests.test_conditions import DRAFTS_OFF, NOTHING_KNOWN, gone, is_held_back, saved, teaching, wochit
from tests.test_conditions import asking as recalling
from tests.test_intake import ENTITY

EVENTS = "/v1/events"


def fields(named: str) -> dict[str, str]:
    """Give an event what makes its repetition one."""
    return {"key": {"idempotency_key": "k-1"}, "id": {"id": "draft-1"}}[named]


async def turn_on(stack: Stack, receiver: Receiver) -> None:
    """Put the feature on that drafts need."""
    on = "features = { drafts = true }"
    stack.write_config(contract="wochit", secret=None, application=on, endpoints={"primary": receiver.url})
    assert (await stack.call("POST", "/v1/reload"))[0] == 200


async def post(stack: Stack, event_type: str, data: Any, **given: Any) -> tuple[int, Any]:
    return await stack.call("POST", EVENTS, {"type": event_type, "data": data, "application": "acme", **given})


@pytest.mark.parametrize("named", ["key", "id"])
@pytest.mark.parametrize("restarted", [False, True])
async def test_a_filtered_event_goes_when_it_may(tmp_path: Path, named: str, *, restarted: bool) -> None:
    """K10: still filtered it is 200 with the first id and reason, whatever its data; then it is stored and sent under that id."""
    async with Receiver() as receiver:
        stack = wochit(tmp_path, receiver, drafts=False)
        async with stack:
            _, first = await post(stack, "draft.new", saved(), **fields(named))
            for data in (saved(), saved(context="another")):
                status, again = await post(stack, "draft.new", data, **fields(named))
                assert (status, again) == (200, first | {"duplicate": True, "deliveries": 0})
                assert (again["reason"], again["reason_detail"]) == ("filtered", DRAFTS_OFF)
            if restarted:
                await stack.stop()
                await stack.start()
            await turn_on(stack, receiver)
            status, sent = await post(stack, "draft.new", saved(context="third"), **fields(named))
            assert (status, sent["id"], sent["deliveries"], sent["duplicate"]) == (202, first["id"], 1, False)
            assert "reason" not in sent
            await stack.settled(first["id"], "delivered")
            status, repeat = await post(stack, "draft.new", saved(context="third"), **fields(named))
            assert (status, repeat) == (200, sent | {"duplicate": True})
            assert (await post(stack, "draft.new", saved(), **fields(named)))[0] == 409
            assert [event["id"] for event in (await stack.call("GET", EVENTS))[1]["data"]] == [first["id"]]
        (received,) = receiver.received
        assert orjson.loads(received.body)["videoContext"] == "third"


async def test_a_filtered_event_goes_when_the_memory_was_taught(tmp_path: Path) -> None:
    """K10: a `draft.delete` that nothing was known for is posted again after a draft of its video, and goes."""
    async with Receiver() as receiver, wochit(tmp_path, receiver) as stack:
        asked = {"idempotency_key": "k-1"}
        _, first = await post(stack, "draft.delete", gone(), **asked)
        assert first["reason_detail"] == NOTHING_KNOWN
        assert (await post(stack, "draft.delete", gone(), **asked))[1]["reason_detail"] == NOTHING_KNOWN
        await post(stack, "draft.update", saved())
        status, sent = await post(stack, "draft.delete", gone(), **asked)
        assert (status, sent["id"], sent["deliveries"]) == (202, first["id"], 1)
        await stack.settled(first["id"], "delivered")


async def test_a_batch_files_again_in_order(tmp_path: Path) -> None:
    """K10: in one batch an event is filtered, repeated, taught for, repeated, and repeated once more: each is judged in its turn."""
    async with Receiver() as receiver, wochit(tmp_path, receiver) as stack:
        asking = {"type": "draft.delete", "data": gone(), "application": "acme", "idempotency_key": "k-1"}
        batch = [asking, asking, {"type": "draft.update", "data": saved(), "application": "acme"}, asking, asking]
        _, answer = await stack.call("POST", f"{EVENTS}/batch", batch)
        bodies = [result["body"] for result in answer["results"]]
        assert [result["status"] for result in answer["results"]] == [202, 200, 202, 202, 200]
        assert [body["duplicate"] for body in bodies] == [False, True, False, False, True]
        assert [body["deliveries"] for body in bodies] == [0, 0, 1, 1, 1]
        assert [body.get("reason") for body in bodies] == ["filtered", "filtered", None, None, None]
        assert len({body["id"] for body in bodies}) == 2
        await stack.settled(bodies[0]["id"], "delivered")


async def test_an_event_is_filed_again_in_one_transaction(tmp_path: Path) -> None:
    """K10: back to back, before the first commit, and with a body that holds its id: one row, one claim, the first id in it."""
    async with opened(tmp_path) as relay:
        ref = await relay.endpoint()

        def under(event_id: str) -> bytes:
            return b"%s is longer than it was" % event_id.encode()

        claims = [key("k", body) for body in ("one", "two", "two")]
        events = [recalling(relay, ref, idempotency=claim, body_under=under, aimed=(ref,)) for claim in claims]
        held, taught = relay.store.accept(events[:1]), relay.store.accept([teaching(relay, ref)])
        taken, repeated = relay.store.accept(events[1:2]), relay.store.accept(events[2:])
        ((first,), _, (second,), (third,)) = await held, await taught, await taken, await repeated
        assert is_held_back(first)
        assert (second.event.id, second.event.body) == (first.event.id, under(first.event.id))
        assert (third.event_id, third.deliveries, third.differs) == (first.event.id, 1, False)
        usage = relay.store.usage(relay.application)
    assert look(tmp_path, "SELECT id, reason FROM event ORDER BY ordinal")[1:] == [(first.event.id, None)]
    assert look(tmp_path, "SELECT count(*) FROM claim") == look(tmp_path, "SELECT count(*) FROM aimed") == [(1,)]
    assert look(tmp_path, "SELECT count(*), sum(share) FROM delivery") == [(usage.due, usage.bytes)]


@pytest.mark.parametrize("posts", [1, 2])
async def test_a_repetition_says_why_nothing_was_delivered(tmp_path: Path, posts: int) -> None:
    """K10: each 200 of an event without deliveries has its reason, stored or in the same batch: no match, skipped, overflow."""
    hooks = {"primary": "http://127.0.0.1:9/"}
    async with Stack(tmp_path, endpoints=hooks, endpoint_settings='event_types = ["a.b"]') as stack:
        event = {"type": "c.d", "data": {}, "application": "acme", "idempotency_key": "k-1"}
        answers = []
        for _ in range(posts):
            answers += (await stack.call("POST", f"{EVENTS}/batch", [event] * (3 - posts)))[1]["results"]
        first, again = (result["body"] for result in answers)
        assert first["reason"] == "no_match"
        assert again == first | {"duplicate": True}
        await stack.call("POST", "/v1/webhook-endpoints/primary/disable")
        skipped = event | {"type": "a.b", "idempotency_key": "k-2"}
        _, first = await stack.call("POST", EVENTS, skipped)
        assert first["reason"] == "skipped"
        assert await stack.call("POST", EVENTS, skipped) == (200, first | {"duplicate": True})


async def test_an_overflow_is_repeated_with_its_reason(tmp_path: Path) -> None:
    """K10: a repetition of an event whose deliveries are all dead letters of a full backlog says so, as the first answer did."""
    hooks = {"primary": "http://127.0.0.1:9/"}
    async with Stack(tmp_path, endpoints=hooks, storage="endpoint_backlog = 1") as stack:
        await stack.call("POST", "/v1/webhook-endpoints/primary/pause")
        await stack.post()
        first = await stack.post(idempotency_key="k-1")
        assert first["reason"] == "overflow"
        assert await stack.post(idempotency_key="k-1") == first | {"duplicate": True}


@pytest.mark.parametrize(
    ("given", "words", "remedy"),
    [
        ({"idempotency_key": "k"}, "the key was used for another event", "use a new key"),
        ({"id": "mine"}, "the event mine has another type or other data", "give this one another id"),
        ({}, "the contract takes this for a repetition of the event evt_", "give it an idempotency_key of its own"),
    ],
)
async def test_a_conflict_speaks_of_what_the_producer_gave(
    tmp_path: Path, given: dict[str, str], words: str, remedy: str
) -> None:
    """K7: a 409 for an id, or for what the contract's template makes, does not speak of a key that nobody gave."""
    async with keeping_desk(tmp_path, "roughy") as desk:
        await desk.send("cut.completed", ENTITY, **given)
        other = ENTITY.replace("3f2c5e9a-6b1d-4c8e-9f0a-1b2c3d4e5f61", str(UUID(int=7)))
        with pytest.raises(Refused) as caught:
            await desk.send("cut.completed", other, **given)
    problem = caught.value.problem
    assert problem.status == 409
    assert words.lower() in problem.detail.lower()
    assert remedy in problem.detail
    assert ("the key" in problem.detail.lower()) is ("idempotency_key" in given)
