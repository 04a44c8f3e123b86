"""Events through the whole relay: what a receiver gets, and what becomes of each answer (Q1–Q17)."""

import asyncio
from pathlib import Path
from typing import Any

import orjson
import pytest
from standardwebhooks import Webhook
from structlog.testing import capture_logs

from relay.core.units import parse_duration_ms
from relay.telemetry import log
from tests.support.clock import FakeClock
from tests.support.daemon import SECRET
from tests.support.receiver import Answer, Receiver
from tests.support.stack import Stack

PLAIN = 'retry = { schedule = ["5s", "5m"], jitter = 0.0 }'


def advance_to_next(stack: Stack, delivery: dict[str, Any]) -> None:
    """Move the clock to where the delivery is due."""
    stack.fake.advance(parse_duration_ms("5m"))


async def test_an_event_is_delivered_signed(tmp_path: Path) -> None:
    """A posted event reaches its endpoint once, with a signature that an independent library accepts."""
    async with Receiver() as receiver, Stack(tmp_path, endpoints={"primary": receiver.url}) as stack:
        event = await stack.post(data={"id": "r_42"})

        request = (await receiver.wait_for(1))[0]
        delivery = await stack.settled(event["id"], "delivered")

        assert Webhook(SECRET).verify(request.body.decode(), dict(request.headers)) == orjson.loads(request.body)
        assert list(orjson.loads(request.body)) == ["type", "timestamp", "data"]
        assert request.headers["webhook-id"] == event["id"]
        assert [attempt["status"] for attempt in delivery["timeline"]] == [204]
        assert len(receiver.received) == 1


async def test_the_payload_keeps_its_bytes(tmp_path: Path) -> None:
    """What the producer wrote as `data` arrives byte for byte: number forms, key order, spacing (invariant 6)."""
    data = b'{ "z": 1.0, "a": 1e5, "big": 18446744073709551616, "s": "caf\\u00e9 \xc3\xa9" }'
    async with Receiver() as receiver, Stack(tmp_path, endpoints={"primary": receiver.url}) as stack:
        status, _ = await stack.call("POST", "/v1/events", b'{"type":"a.b","data":' + data + b"}")

        request = (await receiver.wait_for(1))[0]

        assert status == 202
        assert request.body.endswith(b'"data":' + data + b"}")


async def test_the_documented_timeline(tmp_path: Path) -> None:
    """500, then 429 with Retry-After, then 200: exactly the attempts of the policy, at their times (Q5, Q6, §6)."""
    script = Receiver(500, Answer(429, {"Retry-After": "60"}), 200)
    clock = FakeClock()
    async with (
        script as receiver,
        Stack(tmp_path, clock=clock, endpoints={"primary": receiver.url}, endpoint_settings=PLAIN) as stack,
    ):
        event = await stack.post()
        began_ms = clock.wall_ms()
        first = await stack.attempted(event["id"], 1)
        clock.advance(4_999)
        await stack.deliveries(event["id"])
        assert len(receiver.received) == 1
        clock.advance(1)
        second = await stack.attempted(event["id"], 2)
        clock.advance(299_999)
        await stack.deliveries(event["id"])
        assert len(receiver.received) == 2
        clock.advance(1)
        third = await stack.settled(event["id"], "delivered")

    assert [attempt["status"] for attempt in third["timeline"]] == [500, 429, 200]
    assert [first["state"], second["state"]] == ["due", "due"]
    assert {request.headers["webhook-id"] for request in receiver.received} == {event["id"]}
    assert [int(request.headers["webhook-timestamp"]) for request in receiver.received] == [
        (began_ms + offset) // 1000 for offset in (0, 5_000, 305_000)
    ]


async def test_retry_after_holds_the_whole_endpoint(tmp_path: Path) -> None:
    """After a 429 with Retry-After nothing more starts to that endpoint until the time is over (§6)."""
    clock = FakeClock()
    async with (
        Receiver(Answer(429, {"Retry-After": "60"})) as receiver,
        Stack(tmp_path, clock=clock, endpoints={"primary": receiver.url}, endpoint_settings=PLAIN) as stack,
    ):
        first = await stack.post()
        await stack.attempted(first["id"], 1)
        second = await stack.post()
        clock.advance(59_999)
        assert (await stack.deliveries(second["id"]))[0]["attempts"] == 0
        clock.advance(1)
        await stack.settled(second["id"], "delivered")
        await stack.settled(first["id"], "delivered")


async def test_a_schedule_that_is_used_up_ends_dead(tmp_path: Path) -> None:
    """n delays are n + 1 attempts, then the delivery is a dead letter, `exhausted`; a replay makes a new series (Q6, Q13)."""
    clock = FakeClock()
    async with (
        Receiver(500, 500, 500, 200) as receiver,
        Stack(tmp_path, clock=clock, endpoints={"primary": receiver.url}, endpoint_settings=PLAIN) as stack,
    ):
        event = await stack.post()
        await stack.attempted(event["id"], 1)
        clock.advance(5_000)
        await stack.attempted(event["id"], 2)
        clock.advance(300_000)
        dead = await stack.settled(event["id"], "dead")
        assert dead["reason"] == "exhausted"
        _, groups = await stack.call("GET", "/v1/dead-letters")
        assert [(group["endpoint"], group["reason"], group["count"]) for group in groups["data"]] == [
            ("primary", "exhausted", 1)
        ]

        status, _ = await stack.call("POST", f"/v1/deliveries/{dead['id']}/retry")
        delivered = await stack.settled(event["id"], "delivered")

    assert status in (200, 202)
    assert [(attempt["number"], attempt["series"]) for attempt in delivered["timeline"]] == [
        (1, dead["series"]),
        (2, dead["series"]),
        (3, dead["series"]),
        (4, dead["series"] + 1),
    ]
    assert len({request.headers["webhook-id"] for request in receiver.received}) == 1


async def test_gone_disables_the_endpoint(tmp_path: Path) -> None:
    """410: that delivery is dead, `gone`, the endpoint is disabled, and the next event says `skipped` (Q9)."""
    async with Receiver(410) as receiver, Stack(tmp_path, endpoints={"primary": receiver.url}) as stack:
        event = await stack.post()
        dead = await stack.settled(event["id"], "dead")

        async def disabled() -> bool:
            _, endpoint = await stack.call("GET", "/v1/webhook-endpoints/primary")
            return bool(endpoint["state"] == "disabled")

        await stack.until(disabled)
        second = await stack.post()
        _, seen = await stack.call("GET", f"/v1/events/{second['id']}")

        assert dead["reason"] == "gone"
        assert second["deliveries"] == 0
        assert seen["reason"] == "skipped"
        assert "primary" in seen["reason_detail"]


@pytest.mark.parametrize(
    ("answer", "state", "reason", "endpoint_state"),
    [
        (Answer(200, {"webhook-delivery": "abort-message"}), "delivered", None, "enabled"),
        (Answer(500, {"webhook-delivery": "abort-message"}), "dead", "aborted", "enabled"),
        (Answer(400, {"webhook-delivery": "disable"}), "dead", "gone", "disabled"),
        (Answer(302, {"Location": "http://127.0.0.1:1/"}), "due", None, "enabled"),
        (Answer(404), "due", None, "enabled"),
        (Answer(503), "due", None, "enabled"),
    ],
)
async def test_each_answer_has_its_consequence(
    tmp_path: Path, answer: Answer, state: str, reason: str | None, endpoint_state: str
) -> None:
    """The rows of the outcome table that one answer decides, end to end (§6)."""
    clock = FakeClock()
    async with (
        Receiver(answer) as receiver,
        Stack(tmp_path, clock=clock, endpoints={"primary": receiver.url}, endpoint_settings=PLAIN) as stack,
    ):
        event = await stack.post()
        delivery = await stack.attempted(event["id"], 1)

        async def moved() -> bool:
            _, endpoint = await stack.call("GET", "/v1/webhook-endpoints/primary")
            return bool(endpoint["state"] == endpoint_state)

        await stack.until(moved)

        assert (delivery["state"], delivery["reason"]) == (state, reason)
        assert len(receiver.received) == 1


async def test_a_forbidden_address_is_never_dialled(tmp_path: Path) -> None:
    """A literal address that is no longer allowed ends `blocked`, and nothing is sent (invariant 10)."""
    async with Receiver() as receiver:
        stack = Stack(tmp_path)
        async with stack:
            _, endpoint = await stack.call("POST", "/v1/webhook-endpoints", {"url": receiver.url, "event_types": ["*"]})
        stack.env["RELAY_DELIVERY__ALLOW_NETWORKS"] = "::1/128"
        async with stack:
            event = await stack.post()
            dead = await stack.settled(event["id"], "dead")

            assert dead["endpoint"] == endpoint["id"]
            assert dead["reason"] == "blocked"
            assert dead["timeline"][0]["status"] is None
            assert receiver.received == []


async def test_a_paused_endpoint_holds_and_resumes(tmp_path: Path) -> None:
    """A paused endpoint takes new events as held deliveries; resuming delivers them all (Q9)."""
    async with Receiver() as receiver, Stack(tmp_path, endpoints={"primary": receiver.url}) as stack:
        await stack.call("POST", "/v1/webhook-endpoints/primary/pause")
        events = [await stack.post(data={"n": n}) for n in range(5)]
        held = (await stack.deliveries(events[0]["id"]))[0]
        assert (held["state"], len(receiver.received)) == ("due", 0)

        await stack.call("POST", "/v1/webhook-endpoints/primary/resume")

        for event in events:
            await stack.settled(event["id"], "delivered")
        assert len(receiver.received) == 5


async def test_a_cancelled_delivery_is_not_sent(tmp_path: Path) -> None:
    """Cancelling a due delivery ends it; a retry by hand brings it back in a new series (Q13)."""
    async with Receiver() as receiver, Stack(tmp_path, endpoints={"primary": receiver.url}) as stack:
        await stack.call("POST", "/v1/webhook-endpoints/primary/pause")
        event = await stack.post()
        delivery_id = (await stack.deliveries(event["id"]))[0]["id"]
        status, _ = await stack.call("POST", f"/v1/deliveries/{delivery_id}/cancel")
        cancelled = await stack.delivery(delivery_id)
        await stack.call("POST", "/v1/webhook-endpoints/primary/resume")
        assert (status, cancelled["state"], len(receiver.received)) == (200, "cancelled", 0)

        await stack.call("POST", f"/v1/deliveries/{delivery_id}/retry")
        delivered = await stack.settled(event["id"], "delivered")

        assert delivered["series"] == cancelled["series"] + 1


async def test_a_late_success_after_a_cancel_counts(tmp_path: Path) -> None:
    """A 2xx that arrives after its delivery was cancelled still records `delivered` (Q7)."""
    answer: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
    async with Receiver(lambda _: answer) as receiver, Stack(tmp_path, endpoints={"primary": receiver.url}) as stack:
        event = await stack.post()
        await receiver.wait_for(1)
        delivery_id = (await stack.deliveries(event["id"]))[0]["id"]
        await stack.call("POST", f"/v1/deliveries/{delivery_id}/cancel")
        assert (await stack.delivery(delivery_id))["state"] == "cancelled"

        answer.set_result(Answer(200))

        await stack.settled(event["id"], "delivered")


async def test_a_late_failure_after_a_cancel_changes_nothing(tmp_path: Path) -> None:
    """A failure that arrives after its delivery was cancelled leaves it cancelled (Q7)."""
    answer: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
    async with Receiver(lambda _: answer) as receiver, Stack(tmp_path, endpoints={"primary": receiver.url}) as stack:
        event = await stack.post()
        await receiver.wait_for(1)
        delivery_id = (await stack.deliveries(event["id"]))[0]["id"]
        await stack.call("POST", f"/v1/deliveries/{delivery_id}/cancel")

        answer.set_result(Answer(500))

        delivery = await stack.attempted(event["id"], 1)
        assert delivery["state"] == "cancelled"


async def test_expiry_ends_everything(tmp_path: Path) -> None:
    """No attempt starts after `expires_at`; the dead letter says `expired` (Q6)."""
    clock = FakeClock()
    async with (
        Receiver(500) as receiver,
        Stack(tmp_path, clock=clock, endpoints={"primary": receiver.url}, endpoint_settings=PLAIN) as stack,
    ):
        await stack.call("POST", "/v1/webhook-endpoints/primary/pause")
        event = await stack.post(expires_at="2027-01-15T08:10:00Z")
        clock.advance(parse_duration_ms("1h"))
        await stack.call("POST", "/v1/webhook-endpoints/primary/resume")

        dead = await stack.settled(event["id"], "dead")

        assert (dead["reason"], dead["timeline"], len(receiver.received)) == ("expired", [], 0)


async def test_deliver_at_delays(tmp_path: Path) -> None:
    """An event with `deliver_at` is due then and not before."""
    clock = FakeClock()
    async with Receiver() as receiver, Stack(tmp_path, clock=clock, endpoints={"primary": receiver.url}) as stack:
        event = await stack.post(deliver_at="2027-01-15T08:01:00Z")  # one minute after the clock's start
        clock.advance(59_999)
        await stack.deliveries(event["id"])
        assert len(receiver.received) == 0
        clock.advance(1)

        await stack.settled(event["id"], "delivered")


async def test_a_corrupt_body_is_never_sent(tmp_path: Path) -> None:
    """A body whose bytes rotted on the disk is a dead letter, `corrupt`, and nothing is sent (invariant 6)."""
    import sqlite3

    async with Receiver() as receiver:
        stack = Stack(tmp_path, endpoints={"primary": receiver.url})
        async with stack:
            await stack.call("POST", "/v1/webhook-endpoints/primary/pause")
            event = await stack.post()
        with sqlite3.connect(tmp_path / "relay.db") as rotten:
            rotten.execute("UPDATE event SET body = CAST(replace(body, 'data', 'dada') AS BLOB)")
        rotten.close()
        async with stack:
            await stack.call("POST", "/v1/webhook-endpoints/primary/resume")
            dead = await stack.settled(event["id"], "dead")

            assert (dead["reason"], len(receiver.received)) == ("corrupt", 0)


async def test_what_was_due_survives_a_crash(tmp_path: Path) -> None:
    """An accepted event whose attempt was under way at a crash is delivered by the next run, with the same id (invariant 1)."""
    never: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
    async with Receiver(lambda _: never) as receiver:
        stack = Stack(tmp_path, endpoints={"primary": receiver.url})
        await stack.start()
        event = await stack.post()
        await receiver.wait_for(1)
        await stack.crash()

        async with stack:
            delivered = await stack.settled(event["id"], "delivered")

        never.cancel()
    assert delivered["attempts"] == 1
    assert {request.headers["webhook-id"] for request in receiver.received} == {event["id"]}


async def test_a_blocked_endpoint_is_shown_as_blocked(tmp_path: Path) -> None:
    """Status names an endpoint whose address may not be dialled (§6)."""
    async with Receiver() as receiver:
        stack = Stack(tmp_path)
        async with stack:
            await stack.call("POST", "/v1/webhook-endpoints", {"url": receiver.url, "event_types": ["*"]})
        stack.env["RELAY_DELIVERY__ALLOW_NETWORKS"] = "::1/128"
        async with stack:
            _, before = await stack.call("GET", "/v1/status")
            event = await stack.post()
            await stack.settled(event["id"], "dead")
            _, after = await stack.call("GET", "/v1/status")

    assert [line["blocked"] for line in before["endpoints"]] == [False]
    assert [line["blocked"] for line in after["worst"]] == [True]
    assert "failing" in after["headline"]


async def test_what_overflows_is_counted_and_logged(tmp_path: Path) -> None:
    """H15: a delivery that is dead at accept, for its endpoint's backlog is full, is in the metrics, and logged once."""
    async with Receiver() as receiver:
        house = Stack(tmp_path, clock=FakeClock(), endpoints={"full": receiver.url}, storage="endpoint_backlog = 1")
        async with house:
            assert (await house.call("POST", "/v1/webhook-endpoints/full/pause"))[0] == 200
            with capture_logs() as lines:
                answers = [await house.post() for _ in range(3)]
            assert [answer.get("reason") for answer in answers] == [None, "overflow", "overflow"]
            assert "can be replayed" in answers[1]["reason_detail"]
            _, metrics = await house.call("GET", "/metrics")
            assert '\nrelay_dead_letters_total{reason="overflow"} 2.0\n' in metrics
            (line,) = [line for line in lines if line["event"] == log.OVERFLOWED]
            assert (line["endpoint"], line["log_level"]) == ("full", "warning")
