"""Expiry: links of a contract that age, attempts that must not start, and the retry that is made all the same (Q6)."""

from pathlib import Path
from typing import Any

import pytest

from relay.core.errors import Conflict
from relay.core.model import DeadReason, DueDelivery
from relay.core.units import format_time, parse_duration_ms
from relay.store import delivery_id
from tests.support.clock import FakeClock
from tests.support.desk import Desk
from tests.support.receiver import Receiver
from tests.support.stack import Stack
from tests.support.stores import DAY_MS, Relay, opened

READY = {
    "videoContext": "project-7",
    "wochitVideoId": "6094092472a9105747957aa3",
    "thumbnailUrl": "http://example.com/direct-link-to-thumbnail",
    "videoUrl": "https://example.com/direct-link-to-video",
    "title": "The video title",
    "videoDuration": 35.9,
}
DELETE = {"videoContext": "project-7", "wochitVideoId": "6094092472a9105747957aa3"}
SVIX = ("5s", "5m", "30m", "2h", "5h", "10h", "10h")
LINK_AGE_MS = parse_duration_ms("23h")


def wochit(folder: Path, receiver: Receiver, clock: FakeClock) -> Stack:
    """A relay behind Wochit, whose schedule has no jitter."""
    return Stack(
        folder,
        clock=clock,
        contract="wochit",
        secret=None,
        endpoints={"primary": receiver.url},
        endpoint_settings="retry = { jitter = 0.0 }",
    )


async def expired(stack: Stack) -> dict[str, Any]:
    """Post an event while its endpoint is paused, let its links expire, and return the dead delivery."""
    await stack.call("POST", "/v1/webhook-endpoints/primary/pause")
    event = await stack.post("video.ready", READY)
    stack.fake.advance(LINK_AGE_MS)
    await stack.call("POST", "/v1/webhook-endpoints/primary/resume")
    return await stack.settled(event["id"], "dead")


async def test_links_set_the_expiry(tmp_path: Path) -> None:
    """A type with links expires a link age after it was accepted; deletes carry none, and the producer's word wins."""
    clock = FakeClock()
    async with Receiver() as receiver, wochit(tmp_path, receiver, clock) as stack:
        began_ms = clock.wall_ms()
        given = format_time(began_ms + DAY_MS)
        events = [
            await stack.post("video.ready", READY, idempotency_key="1"),
            await stack.post("video.delete", DELETE),
            await stack.post("video.ready", READY, idempotency_key="2", expires_at=given),
        ]
        seen = [(await stack.call("GET", f"/v1/events/{event['id']}"))[1]["expires_at"] for event in events]
    assert seen == [format_time(began_ms + LINK_AGE_MS), None, given]


async def test_the_schedule_is_cut_where_the_links_expire(tmp_path: Path) -> None:
    """Of Svix' schedule the retry at 27:35:05 is never made: the one at 17:35:05 is the last (WOC-8)."""
    clock = FakeClock()
    async with Receiver(default=500) as receiver, wochit(tmp_path, receiver, clock) as stack:
        event = await stack.post("video.ready", READY)
        for number, delay in enumerate(SVIX[:-1], 1):
            due = await stack.attempted(event["id"], number)
            assert due["state"] == "due"
            clock.advance(parse_duration_ms(delay))
        dead = await stack.settled(event["id"], "dead")
        assert (dead["reason"], dead["attempts"]) == ("expired", 7)
        clock.advance(2 * DAY_MS)
        assert len(receiver.received) == 7


async def test_no_attempt_starts_after_the_expiry(tmp_path: Path) -> None:
    """What waited longer than its links live is dead, `expired`, without an attempt (WOC-8)."""
    async with Receiver() as receiver, wochit(tmp_path, receiver, FakeClock()) as stack:
        dead = await expired(stack)
        assert (dead["reason"], dead["attempts"], receiver.received) == ("expired", 0, [])


async def test_an_attempt_may_start_until_the_expiry(tmp_path: Path) -> None:
    """A millisecond earlier the attempt is made."""
    clock = FakeClock()
    async with Receiver() as receiver, wochit(tmp_path, receiver, clock) as stack:
        await stack.call("POST", "/v1/webhook-endpoints/primary/pause")
        event = await stack.post("video.ready", READY)
        clock.advance(LINK_AGE_MS - 1)
        await stack.call("POST", "/v1/webhook-endpoints/primary/resume")
        await stack.settled(event["id"], "delivered")


async def test_a_retry_of_an_expired_delivery_is_refused(tmp_path: Path) -> None:
    """409 `expired`, which says how to do it all the same; nothing is sent (WOC-8)."""
    async with Receiver() as receiver, wochit(tmp_path, receiver, FakeClock()) as stack:
        dead = await expired(stack)
        for body in (None, {}, {"force": False}):
            status, problem = await stack.call("POST", f"/v1/deliveries/{dead['id']}/retry", body)
            assert (status, problem["type"]) == (409, "expired")
            assert "--force" in problem["detail"]
        assert (await stack.delivery(dead["id"]))["state"] == "dead"
        assert receiver.received == []


async def test_a_forced_retry_is_sent(tmp_path: Path) -> None:
    """With `force` the attempt is really made, as the next of the same delivery, and may deliver it (WOC-8)."""
    async with Receiver() as receiver, wochit(tmp_path, receiver, FakeClock()) as stack:
        dead = await expired(stack)
        status, answer = await stack.call("POST", f"/v1/deliveries/{dead['id']}/retry", {"force": True})
        assert (status, answer["state"], answer["series"]) == (202, "due", 2)
        await receiver.wait_for(1)
        delivered = await stack.settled(dead["event_id"], "delivered")
        assert [attempt["trigger"] for attempt in delivered["timeline"]] == ["manual"]


async def test_a_forced_retry_is_one_attempt(tmp_path: Path) -> None:
    """When it fails, the delivery is expired again: no schedule starts after the expiry (Q6)."""
    async with Receiver(default=500) as receiver, wochit(tmp_path, receiver, FakeClock()) as stack:
        dead = await expired(stack)
        await stack.call("POST", f"/v1/deliveries/{dead['id']}/retry", {"force": True})
        await receiver.wait_for(1)
        again = await stack.settled(dead["event_id"], "dead")
        assert (again["reason"], again["attempts"]) == ("expired", 1)
        status, _ = await stack.call("POST", f"/v1/deliveries/{dead['id']}/retry")
        assert status == 409


async def test_without_its_mark_a_forced_retry_would_not_be_sent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Negative control: it is the mark that travels with the delivery that gets it past the expiry."""
    async with Receiver() as receiver, wochit(tmp_path, receiver, FakeClock()) as stack:
        dead = await expired(stack)
        retry = stack.relay.store.retry_delivery

        async def unmarked(delivery: str, *, force: bool) -> DueDelivery:
            return (await retry(delivery, force=force))._replace(forced=False)

        monkeypatch.setattr(stack.relay.store, "retry_delivery", unmarked)
        await stack.call("POST", f"/v1/deliveries/{dead['id']}/retry", {"force": True})
        await stack.settled(dead["event_id"], "dead")
        assert receiver.received == []


async def test_a_forced_retry_survives_a_crash(tmp_path: Path) -> None:
    """Killed between the request and the attempt, the relay makes the attempt when it is back."""
    clock = FakeClock()
    async with Receiver() as receiver:
        stack = wochit(tmp_path, receiver, clock)
        await stack.start()
        dead = await expired(stack)
        await stack.call("POST", "/v1/webhook-endpoints/primary/pause")
        await stack.call("POST", f"/v1/deliveries/{dead['id']}/retry", {"force": True})
        await stack.crash()
        async with wochit(tmp_path, receiver, clock) as again:
            assert receiver.received == []
            await again.call("POST", "/v1/webhook-endpoints/primary/resume")
            await again.settled(dead["event_id"], "delivered")


@pytest.mark.parametrize("body", [{"force": 1}, {"force": None}, {"forse": True}])
async def test_a_wrong_body_of_a_retry_is_explained(tmp_path: Path, body: dict[str, Any]) -> None:
    """`force` is true or false, and the call has no other field."""
    async with Receiver() as receiver, wochit(tmp_path, receiver, FakeClock()) as stack:
        dead = await expired(stack)
        status, problem = await stack.call("POST", f"/v1/deliveries/{dead['id']}/retry", body)
        assert (status, [mistake["pointer"] for mistake in problem["errors"]]) == (422, ["/" + next(iter(body))])


async def test_a_delay_beyond_the_links_is_refused() -> None:
    """An event that would expire before it may be sent is 422, unless its producer says how long its links live."""
    desk = Desk(contract="wochit")
    now_ms = desk.clock.wall_ms()
    members = {"type": "video.ready", "data": READY, "deliver_at": format_time(now_ms + LINK_AGE_MS)}
    (result,) = await desk.batch([members])
    assert result["status"] == 422
    assert [mistake["pointer"] for mistake in result["problem"]["errors"]] == ["/deliver_at"]
    sooner = members | {"deliver_at": format_time(now_ms + LINK_AGE_MS - 1)}
    given = members | {"expires_at": format_time(now_ms + 2 * DAY_MS), "idempotency_key": "other"}
    assert [result["status"] for result in await desk.batch([sooner, given])] == [202, 202]


# -- in the store ------------------------------------------------------------------------------------------------------


async def dead_and_expired(relay: Relay) -> tuple[int, str]:
    """Make a delivery that died, whose event has expired since."""
    ref = await relay.endpoint()
    due = await relay.due(ref, expires_at_ms=relay.clock.wall_ms() + 1_000)
    await relay.dead(due)
    relay.clock.advance(1_000)
    return ref, delivery_id(due.key)


async def test_the_mark_is_kept_until_the_attempt_ends(tmp_path: Path) -> None:
    """A forced delivery is read back as forced; the end of its attempt takes the mark away."""
    async with opened(tmp_path) as relay:
        ref, name = await dead_and_expired(relay)
        with pytest.raises(Conflict) as refused:
            await relay.store.retry_delivery(name)
        assert refused.value.code == "expired"
        forced = await relay.store.retry_delivery(name, force=True)
        assert (forced.manual, forced.forced) == (True, True)
        assert (await relay.store.refill(ref, 0, 0, 10)).rows == [forced]
        settled = await relay.again(forced, relay.clock.wall_ms() + 5)
        assert settled.due is not None
        assert not settled.due.forced
        (row,) = (await relay.store.refill(ref, 0, 0, 10)).rows
        assert (row.manual, row.forced) == (False, False)


async def test_what_is_held_ends_unless_it_was_forced(tmp_path: Path) -> None:
    """An expired delivery does not outlive its expiry while it is held; one that somebody forced waits for its turn."""
    async with opened(tmp_path) as relay:
        ref, name = await dead_and_expired(relay)
        forced = await relay.store.retry_delivery(name, force=True)
        waiting = await relay.due(ref, expires_at_ms=relay.clock.wall_ms() + 1)
        relay.clock.advance(1)
        ended = await relay.store.end_held(ref, 0, relay.clock.wall_ms(), DeadReason.EXHAUSTED)
        assert ended == {DeadReason.EXPIRED: [waiting.key]}
        assert (await relay.store.audit_due(ref, 10)) == [forced]
