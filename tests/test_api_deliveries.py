"""Deliveries: timelines, filters, retry and cancel by hand, dead letters."""

from pathlib import Path
from typing import Any

import pytest

from relay.core.model import Failure, HeaderPair, Outcome, Trace
from tests.support.api import CONFIG, Api

ONE_ATTEMPT = CONFIG | {"delivery": CONFIG["delivery"] | {"retry": {"schedule": [], "jitter": 0.0}}}


def answered(status: int, body: bytes = b"", **facts: Any) -> Outcome:
    return Outcome(
        started_at_ms=1_800_000_000_000,
        duration_ms=41,
        status=status,
        address="192.0.2.7",
        response_headers=(HeaderPair("Content-Type", "text/plain"),),
        response_body=body,
        **facts,
    )


def unreachable() -> Outcome:
    return Outcome(started_at_ms=0, duration_ms=3, failure=Failure.CONNECT, detail="connection refused")


async def test_the_detail_has_the_attempt_timeline(tmp_path: Path) -> None:
    """A delivery shows each attempt with its outcome and what the receiver answered, and when the next one is due."""
    async with Api(tmp_path) as api:
        api.courier.script = [answered(503, b"database down")]
        delivery = await api.delivery_of(await api.post_event(), "due", attempts=1)
    (attempt,) = delivery["timeline"]
    assert (attempt["number"], attempt["status"], attempt["duration_ms"]) == (1, 503, 41)
    assert attempt["response"] == {"headers": [["Content-Type", "text/plain"]], "body": "database down"}
    assert delivery["due_at"] == "2027-01-15T08:00:05.000Z"
    assert delivery["next_attempt"] == {
        "at": "2027-01-15T08:00:05.000Z",
        "why": "scheduled",
        "detail": "its next attempt is not due yet",
    }


async def test_the_timeline_says_how_an_attempt_went(tmp_path: Path) -> None:
    """Issue 8: the parts of an attempt, with fractions below a millisecond, the TLS version, and what it went over."""
    trace = Trace(None, 0.2134, 12.4, 3.6, False, "TLSv1.3", True)
    async with Api(tmp_path) as api:
        api.courier.script = [answered(503)._replace(duration_ms=0.5004, trace=trace)]
        delivery = await api.delivery_of(await api.post_event(), "due", attempts=1)
    (attempt,) = delivery["timeline"]
    assert attempt["duration_ms"] == 0.5
    assert attempt["trace"] == {
        "dns_ms": None,
        "connect_ms": 0.213,
        "tls_ms": 12,
        "first_byte_ms": 4,
        "reused": False,
        "tls_version": "TLSv1.3",
        "repeated": True,
    }


async def test_retry_after_is_named_as_the_reason(tmp_path: Path) -> None:
    """When the endpoint asked for a pause that is longer than the schedule, the detail says so."""
    async with Api(tmp_path) as api:
        api.courier.script = [answered(429, retry_after_ms=60_000)]
        delivery = await api.delivery_of(await api.post_event(), "due", attempts=1)
    assert delivery["next_attempt"]["why"] == "retry_after"
    assert delivery["next_attempt"]["at"] == "2027-01-15T08:01:00.000Z"


async def test_an_attempt_without_response_shows_its_failure(tmp_path: Path) -> None:
    """A connection that failed shows the class of its failure and no response."""
    async with Api(tmp_path, ONE_ATTEMPT) as api:
        api.courier.script = [unreachable()]
        delivery = await api.delivery_of(await api.post_event(), "dead")
    (attempt,) = delivery["timeline"]
    assert (attempt["status"], attempt["failure"], attempt["response"]) == (None, "connect", None)
    assert (delivery["reason"], delivery["next_attempt"]) == ("exhausted", None)
    assert delivery["finished_at"] is not None


async def test_deliveries_are_filtered(tmp_path: Path) -> None:
    """State, reason, endpoint, type and application select deliveries."""
    async with Api(tmp_path, ONE_ATTEMPT) as api:
        api.courier.script = [answered(410)]
        dead = await api.delivery_of(await api.post_event("a.dead"), "dead")
        await api.registrar.enable("primary")
        fine = await api.delivery_of(await api.post_event("a.fine"), "delivered")

        async def found(query: str) -> list[str]:
            return [delivery["id"] for delivery in (await api.get(f"/v1/deliveries?{query}"))["data"]]

        assert await found("state=dead") == await found("reason=gone") == await found("type=a.dead") == [dead["id"]]
        assert await found("endpoint=primary&application=acme") == [fine["id"], dead["id"]]
        assert await found("endpoint=other") == await found("application=globex") == []
        page = await api.get("/v1/deliveries?limit=1")
        assert [delivery["id"] for delivery in page["data"]] == [fine["id"]]
        assert "timeline" not in page["data"][0]
        rest = await api.get(f"/v1/deliveries?limit=1&cursor={page['next']}")
        assert [delivery["id"] for delivery in rest["data"]] == [dead["id"]]


async def test_a_dead_delivery_is_retried_in_a_new_series(tmp_path: Path) -> None:
    """Retrying what died makes the same row due again in a new series; attempt numbers run on (Q13)."""
    async with Api(tmp_path, ONE_ATTEMPT) as api:
        api.courier.script = [answered(500)]
        event_id = await api.post_event()
        dead = await api.delivery_of(event_id, "dead")
        answer = await api.call("POST", f"/v1/deliveries/{dead['id']}/retry", by="acme-app")
        delivered = await api.delivery_of(event_id, "delivered")
    assert answer.status == 202
    assert (answer.json["state"], answer.json["reason"], answer.json["finished_at"]) == ("due", None, None)
    assert [(one["number"], one["series"], one["trigger"]) for one in delivered["timeline"]] == [
        (1, dead["series"], "scheduled"),
        (2, answer.json["series"], "manual"),
    ]
    assert answer.json["series"] == dead["series"] + 1


async def test_a_due_delivery_is_retried_at_once(tmp_path: Path) -> None:
    """Retrying what waits makes it due now, in the same series (Q13)."""
    async with Api(tmp_path) as api:
        api.courier.script = [answered(500)]
        event_id = await api.post_event()
        due = await api.delivery_of(event_id, "due", attempts=1)
        answer = await api.call("POST", f"/v1/deliveries/{due['id']}/retry")
        delivered = await api.delivery_of(event_id, "delivered")
    assert answer.json["due_at"] == "2027-01-15T08:00:00.000Z"
    assert answer.json["series"] == due["series"] == delivered["series"]
    assert delivered["attempts"] == 2


async def test_a_delivery_is_cancelled_by_name(tmp_path: Path) -> None:
    """Cancelling ends a due delivery, says who did it, and cannot be done twice."""
    async with Api(tmp_path) as api:
        await api.registrar.pause("primary")
        event_id = await api.post_event()
        held = await api.delivery_of(event_id, "due")
        answer = await api.call("POST", f"/v1/deliveries/{held['id']}/cancel", by="acme-app")
        cancelled = await api.delivery_of(event_id, "cancelled")
        again = await api.call("POST", f"/v1/deliveries/{held['id']}/cancel", by="acme-app")
    assert held["next_attempt"] == {"at": None, "why": "held", "detail": "the endpoint is paused"}
    assert answer.status == 200
    assert answer.json == cancelled
    assert cancelled["cancelled_by"] == "acme-app"
    assert again.status == 409


@pytest.mark.parametrize(
    ("method", "path"),
    [("GET", "/v1/deliveries/{}"), ("POST", "/v1/deliveries/{}/retry"), ("POST", "/v1/deliveries/{}/cancel")],
)
async def test_foreign_deliveries_do_not_exist(tmp_path: Path, method: str, path: str) -> None:
    """A delivery of another application is 404 for reading, retrying and cancelling alike, and stays as it was."""
    async with Api(tmp_path) as api:
        await api.registrar.pause("primary")
        event_id = await api.post_event()
        before = await api.delivery_of(event_id, "due")
        foreign = await api.call(method, path.format(before["id"]), by="globex-app")
        missing = await api.call(method, path.format("dlv_0"), by="globex-app")
        assert await api.delivery_of(event_id) == before
        listed = await api.get("/v1/deliveries", by="globex-app")
        own = await api.call(method, path.format(before["id"]), by="acme-app")
    assert (foreign.status, missing.status) == (404, 404)
    assert own.status < 300  # negative control: the owner is let through
    assert listed["data"] == []


@pytest.mark.parametrize("who", ["auditor", "acme-producer"])
async def test_readers_and_producers_change_nothing(tmp_path: Path, who: str) -> None:
    """Retry and cancel need the application or admin role."""
    async with Api(tmp_path) as api:
        await api.registrar.pause("primary")
        delivery = await api.delivery_of(await api.post_event(), "due")
        for verb in ("retry", "cancel"):
            answer = await api.call("POST", f"/v1/deliveries/{delivery['id']}/{verb}", by=who)
            assert (answer.status, answer.json["type"]) == (403, "forbidden")


async def test_dead_letters_are_grouped(tmp_path: Path) -> None:
    """Dead letters are counted by endpoint and reason, with an example, within the caller's application."""
    async with Api(tmp_path, ONE_ATTEMPT) as api:
        api.courier.script = [answered(500), answered(500)]
        await api.delivery_of(await api.post_event(), "dead")
        api.clock.advance(1_000)
        newest = await api.delivery_of(await api.post_event(), "dead")
        groups = await api.get("/v1/dead-letters", by="acme-app")
        assert groups == {
            "data": [
                {
                    "endpoint": "primary",
                    "application": "acme",
                    "reason": "exhausted",
                    "count": 2,
                    "oldest_at": "2027-01-15T08:00:00.000Z",
                    "newest_at": "2027-01-15T08:00:01.000Z",
                    "newest_delivery": newest["id"],
                    "note": None,
                    "noted_by": None,
                    "noted_at": None,
                }
            ],
            "next": None,
        }
        assert (await api.get("/v1/dead-letters?reason=gone"))["data"] == []
        assert (await api.get("/v1/dead-letters?endpoint=primary"))["data"] == groups["data"]
        assert (await api.get("/v1/dead-letters", by="globex-app"))["data"] == []
