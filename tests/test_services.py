"""What the five services promise beyond the shape of a body: who gets what, under which id, how often and when."""

import asyncio
import json
import time
from collections.abc import Sequence
from pathlib import Path

import pytest
from svix.webhooks import Webhook

from tests.support.clock import FakeClock
from tests.support.five import SVIX_SECRET, application, catalogue, event
from tests.support.receiver import Received, Receiver
from tests.support.stack import Stack

CUT = {posting.type: posting.data for posting in catalogue("roughy")}
ORDER = {posting.type: posting.data for posting in catalogue("rotor")}
RENDER = {posting.type: posting.data for posting in catalogue("editframe")}


async def post(stack: Stack, name: str, type: str, data: bytes) -> tuple[str, int]:
    """Post an event; return its id and its number of deliveries."""
    status, answer = await stack.call("POST", "/v1/events", event(name, type, data))
    assert status == 202, answer
    return str(answer["id"]), int(answer["deliveries"])


async def ended(stack: Stack, event_id: str, *expected: str) -> None:
    """Wait until the deliveries of an event are in these states."""

    async def there() -> bool:
        return sorted(found["state"] for found in await stack.deliveries(event_id)) == sorted(expected)

    await stack.until(there)


async def attempted(stack: Stack, event_id: str) -> bool:
    """Whether every delivery of an event has had a recorded attempt."""
    return all(found["attempts"] for found in await stack.deliveries(event_id))


def uuids(requests: Sequence[Received]) -> set[tuple[str, str]]:
    bodies = [json.loads(request.body) for request in requests]
    return {(body["id"], body["created_at"]) for body in bodies}


async def test_each_endpoint_gets_what_it_selected(tmp_path: Path) -> None:
    """An event goes to the endpoints of its own application that selected its type, and to nobody else (ROT-1, ROT-2,
    ROU-5, EDF-14)."""
    async with Receiver() as chosen, Receiver() as other, Receiver() as foreign:
        every = f'url = "{other.url}"\nevent_types = ["*"]'
        own = application("roughy", chosen.url, other.url).replace(every, every.replace("*", "asset.*"))
        async with Stack(tmp_path, extra=own + application("roughy", foreign.url, name="another")) as stack:
            event_id, count = await post(stack, "roughy", "cut.completed", CUT["cut.completed"])
            await ended(stack, event_id, "delivered")

    assert count == 1
    assert [len(receiver.received) for receiver in (chosen, other, foreign)] == [1, 0, 0]


async def test_endpoints_fail_alone(tmp_path: Path) -> None:
    """An application may have several endpoints, even two with the same URL; each has its own delivery, and one that
    fails or never answers holds up no other (ROT-3)."""
    silent = asyncio.Event()

    async def never(request: Received) -> int:
        await silent.wait()
        return 200

    async with Receiver() as sound, Receiver(default=500) as broken, Receiver(default=never) as hung:
        urls = (sound.url, sound.url, broken.url, hung.url)
        async with Stack(tmp_path, extra=application("rotor", *urls)) as stack:
            event_id, count = await post(stack, "rotor", "order.finalized", ORDER["order.finalized"])
            await ended(stack, event_id, "delivered", "delivered", "due", "due")
            await broken.wait_for(1)
            silent.set()
            await ended(stack, event_id, "delivered", "delivered", "delivered", "due")

    assert count == 4
    assert len(uuids(sound.received + broken.received + hung.received)) == 1


async def test_a_producer_waits_for_nobody(tmp_path: Path) -> None:
    """The producer has its answer, and may be gone, while the receiver has not even answered; the event arrives all the
    same (ROU-3, WOC-1)."""
    ready = asyncio.Event()

    async def late(request: Received) -> int:
        await ready.wait()
        return 200

    async with Receiver(default=late) as receiver, Stack(tmp_path, extra=application("roughy", receiver.url)) as stack:
        event_id, _ = await post(stack, "roughy", "cut.completed", CUT["cut.completed"])
        (delivery,) = await stack.deliveries(event_id)
        assert delivery["state"] == "due"
        ready.set()
        await ended(stack, event_id, "delivered")

    assert len(receiver.received) == 1


async def test_an_event_keeps_its_id_and_time(tmp_path: Path) -> None:
    """Rotor's UUID and time are those of the event: the same at a later attempt (ROT-11, ROT-12)."""
    clock = FakeClock()
    async with Receiver(500, 200) as receiver:
        extra = application("rotor", receiver.url, settings='retry = { schedule = ["7s"], jitter = 0.0 }')
        async with Stack(tmp_path, clock=clock, extra=extra) as stack:
            event_id, _ = await post(stack, "rotor", "order.finalized", ORDER["order.finalized"])
            await stack.attempted(event_id, 1)
            clock.advance(7_000)
            await stack.settled(event_id, "delivered")

    assert receiver.received[0].body == receiver.received[1].body
    assert len(uuids(receiver.received)) == 1


async def test_svix_ids_stay_and_timestamps_move(tmp_path: Path) -> None:
    """`svix-id` is the same at every attempt and endpoint of an event and another for another event, `svix-timestamp` is
    that of the attempt, and the Svix library verifies all of them (ROU-1, ROU-2, ROU-15, ROU-16, ROU-17)."""
    began_s = int(time.time())
    clock = FakeClock(began_s * 1000)
    async with (
        Receiver() as first,
        Receiver(503, 200) as second,
        Stack(tmp_path, clock=clock, extra=application("roughy", first.url, second.url)) as stack,
    ):
        event_id, _ = await post(stack, "roughy", "cut.completed", CUT["cut.completed"])
        await ended(stack, event_id, "delivered", "due")
        await stack.until(lambda: attempted(stack, event_id))
        clock.advance(6_000)  # 5 s with 20 % jitter
        await ended(stack, event_id, "delivered", "delivered")
        other_id, _ = await post(stack, "roughy", "cut.failed", CUT["cut.failed"])
        await ended(stack, other_id, "delivered", "delivered")

    requests = first.received[:1] + second.received[:2]
    assert {request.headers["svix-id"] for request in requests} == {event_id}
    stamps = [int(request.headers["svix-timestamp"]) - began_s for request in requests]
    assert stamps == [0, 0, 6]
    assert {request.headers["svix-id"] for request in (first.received[1], second.received[2])} == {other_id}
    for request in first.received + second.received:
        Webhook(SVIX_SECRET).verify(request.body, dict(request.headers))


@pytest.mark.parametrize("status", [404, 500])
async def test_editframe_tries_three_times(tmp_path: Path, status: int) -> None:
    """Three attempts in all, ten seconds apart, whatever the status; then the delivery is dead (EDF-16)."""
    clock = FakeClock()
    async with (
        Receiver(default=status) as receiver,
        Stack(tmp_path, clock=clock, extra=application("editframe", receiver.url)) as stack,
    ):
        event_id, _ = await post(stack, "editframe", "render.created", RENDER["render.created"])
        began_ms = clock.wall_ms()
        for number in (1, 2):
            delivery = await stack.attempted(event_id, number)
            assert delivery["state"] == "due"
            clock.advance(10_000)
        dead = await stack.settled(event_id, "dead")

    assert (dead["reason"], [attempt["status"] for attempt in dead["timeline"]]) == ("exhausted", [status] * 3)
    assert clock.wall_ms() - began_ms == 20_000
    assert len({request.headers["X-Webhook-Signature"] for request in receiver.received}) == 1


async def test_editframe_sends_what_is_said_again(tmp_path: Path) -> None:
    """K2: two events of one topic and entity are two, unless their producer says that they are one (EDF-19)."""
    changed = RENDER["render.created"].replace(b'"fps":30', b'"fps":60')
    key = b',"idempotency_key":"render.created:1:60"'
    async with Receiver() as receiver, Stack(tmp_path, extra=application("editframe", receiver.url)) as stack:
        first, _ = await post(stack, "editframe", "render.created", RENDER["render.created"])
        posted = event("editframe", "render.created", changed, key)
        _, second = await stack.call("POST", "/v1/events", posted)
        _, again = await stack.call("POST", "/v1/events", posted)
        await ended(stack, second["id"], "delivered")

    assert (second["duplicate"], again["id"], again["duplicate"]) == (False, second["id"], True)
    assert first != second["id"]
    assert len(receiver.received) == 2
