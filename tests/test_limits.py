"""Limits of each application and of each token: what one has too much of costs the others nothing (Q10)."""

import asyncio
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import orjson
import pytest

from relay.api.pace import Paces
from relay.api.survey import Survey
from relay.api.troubles import troubles
from relay.core.access import Pace, Principal, Role
from relay.core.model import Application, Limits, Origin
from relay.core.units import UNLIMITED, Rate, format_bytes_rate, parse_bytes_rate
from relay.intake import Room, why_full
from relay.store import Usage
from tests.support.api import CONFIG, Api
from tests.support.clock import FakeClock
from tests.support.waiting import until

HOOK = {"url": "https://hook.example/in"}


def limited(limits: Mapping[str, Any], **sections: Any) -> dict[str, Any]:
    """The usual applications under these `[limits]`."""
    return {**CONFIG, "limits": limits, **sections}


async def post(api: Api, application: str = "acme", data: Any = 1, by: str = "root") -> Any:
    event = {"type": "a.b", "data": {"x": data}, "application": application}
    return await api.call("POST", "/v1/events", event, by=by)


async def hold(api: Api, endpoint: str = "primary") -> None:
    """Let what comes for an endpoint stay due."""
    assert (await api.call("POST", f"/v1/webhook-endpoints/{endpoint}/pause")).status == 200


async def endpoint_of(api: Api, application: str, **settings: Any) -> str:
    made = await api.call("POST", "/v1/webhook-endpoints", {**HOOK, "application": application, **settings})
    assert made.status == 201, made.text
    return str(made.json["id"])


# -- backlog and bytes --------------------------------------------------------------------------------------------------


async def test_a_full_application_is_refused_and_nobody_else(tmp_path: Path) -> None:
    """I8: the post beyond an application's backlog is a 503 with Retry-After; the neighbour's is taken."""
    async with Api(tmp_path / "a", limited({"backlog": 3})) as api:
        await hold(api)
        assert [(await post(api)).status for _ in range(4)] == [202, 202, 202, 503]
        refused = await post(api)
        assert refused.json["type"] == "application_backlog_full"
        assert refused.headers["Retry-After"] == "30"
        assert "'acme'" in refused.json["detail"]
        assert "limits.backlog" in refused.json["detail"]
        assert (await post(api, "globex")).status == 202
        assert (await api.get("/readyz"))["ready"] is True


async def test_an_application_has_room_again_when_something_is_delivered_or_cancelled(tmp_path: Path) -> None:
    """I8: the limit is about what is due now, in number and bytes."""
    async with Api(tmp_path / "a", limited({"backlog": 1})) as api:
        await hold(api)
        event = (await post(api)).json["id"]
        assert (await api.get("/v1/applications/acme"))["usage"]["due"] == 1
        assert (await post(api)).status == 503
        await api.delivery_of(event)
        (view,) = await api.store.deliveries_of(event)
        assert (await api.call("POST", f"/v1/deliveries/{view.id}/cancel")).status == 200
        assert (await api.get("/v1/applications/acme"))["usage"] == {"due": 0, "bytes": 0}
        assert (await post(api)).status == 202


async def test_bytes_count_each_event_once(tmp_path: Path) -> None:
    """I8: beyond the bytes of bodies that are due posts are refused; two endpoints of one event count its body once."""
    async with Api(tmp_path / "a", limited({"bytes": "1KiB"})) as api:
        await hold(api)
        await hold(api, await endpoint_of(api, "acme"))
        assert (await post(api, data="x" * 500)).status == 202
        usage = (await api.get("/v1/applications/acme"))["usage"]
        assert usage["due"] == 2
        assert 500 < usage["bytes"] < 1024
        assert (await post(api, data="x" * 500)).status == 202
        assert (await post(api)).status == 503
        assert "limits.bytes" in (await post(api)).json["detail"]


async def test_a_batch_is_refused_from_the_item_on_that_does_not_fit(tmp_path: Path) -> None:
    """I8: each item of a batch is judged with those before it."""
    async with Api(tmp_path / "a", limited({"backlog": 2})) as api:
        await hold(api)
        acme = {"type": "a.b", "data": {}, "application": "acme"}
        batch = [acme, acme, acme, {**acme, "application": "globex"}]
        results = (await api.call("POST", "/v1/events/batch", batch)).json["results"]
        assert [one["status"] for one in results] == [202, 202, 503, 202]
        assert results[2]["problem"]["type"] == "application_backlog_full"


async def test_what_is_owed_is_known_after_a_restart(tmp_path: Path) -> None:
    """I8: a restart forgets no byte."""
    async with Api(tmp_path / "a", limited({"backlog": 2})) as api:
        await hold(api)
        await post(api)
        await post(api)
        before = (await api.get("/v1/applications/acme"))["usage"]
        await api.crash()
        await api.start()
        assert (await api.get("/v1/applications/acme"))["usage"] == before
        assert (await post(api)).status == 503


async def test_an_application_may_have_limits_of_its_own(tmp_path: Path) -> None:
    """I8: what an application sets itself, in the file or through the API, goes before `[limits]`."""
    async with Api(tmp_path / "a", limited({"backlog": 1})) as api:
        made = await api.call("POST", "/v1/applications", {"id": "big", "limits": {"backlog": 2, "bytes": "2KiB"}})
        assert made.status == 201, made.text
        assert made.json["limits"]["backlog"] == 2
        await hold(api, await endpoint_of(api, "big"))
        assert [(await post(api, "big")).status for _ in range(3)] == [202, 202, 503]
        patched = await api.call("PATCH", "/v1/applications/big", {"limits": {"backlog": 3}})
        assert patched.json["limits"]["bytes"] == "2KiB"
        assert [(await post(api, "big")).status for _ in range(2)] == [202, 503]


APPLICATION = Application(1, "acme", "standard", Origin.FILE, limits=Limits(backlog=10, bytes=100))


@pytest.mark.parametrize(
    ("usage", "room", "word"),
    [
        (Usage(9, 99), Room(1000, 9, alone=False), ""),
        (Usage(10, 0), Room(1000, 10, alone=False), "limits.backlog"),
        (Usage(1, 100), Room(1000, 1, alone=False), "limits.bytes"),
        (Usage(1000, 1000), Room(2000, 1000, alone=True), ""),
        (Usage(5, 0), Room(10, 5, alone=False), ""),
        (Usage(6, 0), Room(10, 6, alone=False), "storage.max_backlog"),
        (Usage(3, 0), Room(9, 6, alone=False), ""),
        (Usage(4, 0), Room(9, 7, alone=False), "storage.max_backlog"),
        (Usage(0, 0), Room(9, 9, alone=False), ""),
    ],
)
def test_who_is_full(usage: Usage, room: Room, word: str) -> None:
    """I8: one alone may take half of all, two a third each; a sole application has the whole."""
    reason = why_full(APPLICATION, usage, room)
    assert (word in reason) if word else reason == ""


def test_a_sole_application_keeps_the_limits_it_was_given_itself() -> None:
    """Being alone lifts the limits of all, not one's own."""
    own = Application(1, "acme", "standard", Origin.FILE, limits=Limits(own_backlog=5, own_bytes=50))
    assert "limits.backlog" in why_full(own, Usage(5, 0), Room(1000, 5, alone=True))
    assert "limits.bytes" in why_full(own, Usage(1, 50), Room(1000, 1, alone=True))


async def test_an_event_counts_with_all_its_deliveries_before_it_is_taken(tmp_path: Path) -> None:
    """I8: an event does not go beyond `backlog` by its fan-out; one that fits exactly is taken, and a smaller one still is."""
    async with Api(tmp_path / "a", limited({"backlog": 4})) as api:
        await hold(api)
        for _ in range(2):
            await hold(api, await endpoint_of(api, "acme", event_types=["a.b"]))
        assert (await post(api)).status == 202
        refused = await post(api)
        assert (refused.status, refused.json["type"]) == (503, "application_backlog_full")
        assert "2 of them of this very event" in refused.json["detail"]
        event = {"type": "a.b", "data": {}, "application": "acme"}
        batch = (await api.call("POST", "/v1/events/batch", [event])).json["results"]
        assert [one["status"] for one in batch] == [503]
        assert (await api.get("/v1/applications/acme"))["usage"]["due"] == 3
        smaller = {**event, "type": "a.c"}
        assert [(await api.call("POST", "/v1/events", smaller)).status for _ in range(2)] == [202, 503]


async def test_the_status_warns_of_an_application_near_its_limit(tmp_path: Path) -> None:
    """I8: from nine tenths on the status names the application, the limit and what to do; below, and when empty, it does not.

    Posts that are refused are a trouble, so that `relay status` exits 1.
    """
    async with Api(tmp_path / "a", limited({"backlog": 10})) as api:

        async def said() -> list[str]:
            return [one for one in (await api.get("/v1/status"))["warnings"] if "'acme'" in one]

        await hold(api)
        for _ in range(8):
            await post(api)
        assert await said() == []
        await post(api)
        (near,) = await said()
        assert "9 deliveries wait, 10 may (limits.backlog): beyond that its posts are refused" in near
        assert "Mend, disable or delete the endpoint that most wait for, 'primary', or raise limits.backlog." in near
        assert (await api.get("/v1/status"))["troubles"] == []
        await post(api)
        assert await said() == []
        now = await api.get("/v1/status")
        (trouble,) = now["troubles"]
        assert trouble["code"] == "application_backlog_full"
        assert (
            "Of application 'acme' 10 deliveries wait, 10 may (limits.backlog): its posts are refused"
            in now["headline"]
        )
        assert "Mend, disable or delete the endpoint that most wait for, 'primary', or raise limits" in now["headline"]


def test_of_several_full_applications_one_is_explained() -> None:
    """I8: the headline has the sentence of the first application whose posts are refused, and names of the others."""
    refused = {name: f"Of {name} the posts are refused." for name in ("a", "b", "c", "d", "e", "f")}
    (trouble,) = troubles(Survey(0, 0, {}, []), [], local_trouble=False, refused=refused)
    assert trouble.detail == "Of a the posts are refused. Likewise: b, c, d and 2 more."


async def test_each_application_has_metrics(tmp_path: Path) -> None:
    """I8: what is due, its bytes and the refusals of each application can be read by a machine."""
    async with Api(tmp_path / "a", limited({"backlog": 1})) as api:
        await hold(api)
        for _ in range(3):
            await post(api)
        size = (await api.get("/v1/applications/acme"))["usage"]["bytes"]
        text = (await api.call("GET", "/metrics")).text.decode()
        assert 'relay_application_due{application="acme"} 1.0' in text
        assert f'relay_application_due_bytes{{application="acme"}} {float(size)}' in text
        assert 'relay_application_events_refused_total{application="acme"} 2.0' in text
        assert 'relay_application_due{application="globex"} 0.0' in text


# -- endpoints and definitions --------------------------------------------------------------------------------------------


async def test_endpoints_made_through_the_api_are_limited(tmp_path: Path) -> None:
    """I8: those of the file do not count; the one beyond the limit is a 409 that says what to do."""
    async with Api(tmp_path / "a", limited({"endpoints": 2})) as api:
        await endpoint_of(api, "acme")
        last = await endpoint_of(api, "acme")
        refused = await api.call("POST", "/v1/webhook-endpoints", {**HOOK, "application": "acme"})
        assert (refused.status, refused.json["type"]) == (409, "too_many_endpoints")
        assert "limits.endpoints" in refused.json["detail"]
        await endpoint_of(api, "globex")
        assert (await api.call("DELETE", f"/v1/webhook-endpoints/{last}")).status == 204
        await endpoint_of(api, "acme")


@pytest.mark.parametrize("path", ["/v1/webhook-endpoints", "/v1/applications"])
async def test_a_definition_that_is_too_large_is_refused_shortly(tmp_path: Path, path: str) -> None:
    """I7: 150,000 wrong delays are one short 413, whether the application or its endpoint is written."""
    body = orjson.dumps({**HOOK, "application": "acme", "retry": {"schedule": ["x"] * 150_000}})
    async with Api(tmp_path / "a") as api:
        refused = await api.call("POST", path, body)
    assert (refused.status, refused.json["type"]) == (413, "definition_too_large")
    assert len(refused.text) < 400


async def test_a_definition_is_refused_from_its_first_byte_too_many(tmp_path: Path) -> None:
    """I7: at the limit a definition is read, one byte beyond it is not; nor may patches make it larger bit by bit."""
    async with Api(tmp_path / "a", limited({"definition": "1KiB"})) as api:
        text = orjson.dumps({**HOOK, "application": "acme"})
        assert (await api.call("POST", "/v1/webhook-endpoints", text.ljust(1025))).status == 413
        made = await api.call("POST", "/v1/webhook-endpoints", text.ljust(1024))
        assert made.status == 201
        path = f"/v1/webhook-endpoints/{made.json['id']}"
        assert (await api.call("PATCH", path, {"headers": {"X-A": "a" * 600}})).status == 200
        grown = await api.call("PATCH", path, {"headers": {"X-B": "b" * 600}})
        assert grown.status == 422
        assert "limits.definition" in grown.json["detail"]


# -- tests ------------------------------------------------------------------------------------------------------------------


async def test_tests_under_way_are_limited_and_end_with_their_client(tmp_path: Path) -> None:
    """I4: beyond `tests.at_once` a test is refused at once; when its client hangs up the attempt ends and makes room."""
    async with Api(tmp_path / "a", limited({"tests": {"at_once": 2}})) as api:
        silent: list[asyncio.Future[int]] = [asyncio.get_running_loop().create_future() for _ in range(2)]
        api.courier.script.extend(silent)
        path = "/v1/webhook-endpoints/primary/test"
        calls = [asyncio.create_task(api.call("POST", path, {}, by="acme-app")) for _ in range(2)]
        await until(lambda: len(api.courier.requests) == 2)
        refused = await asyncio.gather(*(api.call("POST", path, {}) for _ in range(10)))
        assert {(one.status, one.json["type"]) for one in refused} == {(429, "too_many_tests")}
        assert {one.headers["Retry-After"] for one in refused} == {"1"}
        assert len(api.courier.requests) == 2
        for call in calls:
            call.cancel()
        await asyncio.gather(*calls, return_exceptions=True)
        await until(lambda: all(one.cancelled() for one in silent))
        assert (await api.call("POST", path, {})).status == 200


async def test_tests_of_a_minute_are_limited(tmp_path: Path) -> None:
    """I4: `tests.per_minute` holds for each application, exactly, and Retry-After says when the next one may come."""
    async with Api(tmp_path / "a", limited({"tests": {"per_minute": 2}})) as api:
        path = "/v1/webhook-endpoints/primary/test"
        assert [(await api.call("POST", path, {})).status for _ in range(2)] == [200, 200]
        refused = await api.call("POST", path, {})
        assert (refused.status, refused.headers["Retry-After"]) == (429, "60")
        api.clock.advance(59_999)
        assert (await api.call("POST", path, {})).status == 429
        api.clock.advance(1)
        assert (await api.call("POST", path, {})).status == 200


# -- rates ------------------------------------------------------------------------------------------------------------------

TOKEN = "slow-token-0123456789abcdef"
SLOW = {"name": "slow", "role": "producer", "secret": TOKEN}


async def test_a_token_that_is_too_fast_is_refused_and_no_other(tmp_path: Path) -> None:
    """Rates: the request beyond the rate is a 429 whose Retry-After is kept; other tokens go on; a batch counts its events."""
    async with Api(tmp_path / "a", limited({}, token=[{**SLOW, "rate": "2/s"}])) as api:
        assert [(await post(api, by=TOKEN)).status for _ in range(3)] == [202, 202, 429]
        refused = await post(api, by=TOKEN)
        assert (refused.json["type"], refused.headers["Retry-After"]) == ("rate_limited", "1")
        assert (await post(api)).status == 202
        api.clock.advance(499)
        assert (await post(api, by=TOKEN)).status == 429
        api.clock.advance(1)
        assert (await post(api, by=TOKEN)).status == 202
        api.clock.advance(1_000)
        event = {"type": "a.b", "data": {}, "application": "acme"}
        assert (await api.call("POST", "/v1/events/batch", [event] * 4, by=TOKEN)).status == 200
        api.clock.advance(1_499)
        assert (await post(api, by=TOKEN)).status == 429
        api.clock.advance(1)
        assert (await post(api, by=TOKEN)).status == 202


async def test_keys_of_applications_have_the_rate_of_all(tmp_path: Path) -> None:
    """Rates: `[limits]` is for every token that has none of its own, keys made through the API too."""
    free = {**SLOW, "rate": ""}
    async with Api(tmp_path / "a", limited({"rate": "1/s"}, token=[free])) as api:
        made = await api.call("POST", "/v1/applications/acme/keys", {})
        statuses = [(await api.call("GET", "/v1/event-types", by=made.json["token"])).status for _ in range(2)]
        assert statuses == [200, 429]
        assert [(await post(api, by=TOKEN)).status for _ in range(3)] == [202] * 3


async def test_bytes_of_a_token_are_limited_without_a_length_too(tmp_path: Path) -> None:
    """Rates: bodies count by their bytes, those in chunks when they have been read."""
    async with Api(tmp_path / "a", limited({"bytes_rate": "1KiB/s"}, token=[SLOW])) as api:

        async def chunks() -> Any:
            yield orjson.dumps({"type": "a.b", "data": {"x": "y" * 2_000}, "application": "acme"})

        headers = {"Authorization": f"Bearer {TOKEN}", "Content-Type": "application/json"}
        async with api.http.post(f"{api.url}/v1/events", data=chunks(), headers=headers) as response:
            assert response.status == 202
        assert (await post(api, by=TOKEN)).status == 429
        api.clock.advance(1_000)
        assert (await post(api, by=TOKEN)).status == 429
        api.clock.advance(1_000)
        assert (await post(api, by=TOKEN)).status == 202


def test_what_was_given_back_is_forgotten() -> None:
    """Rates: a token whose rate is whole again costs no memory."""
    clock = FakeClock()
    paces, slow = Paces(clock.mono_ms), Principal("slow", Role.PRODUCER, None, Pace(Rate(1, 1_000), UNLIMITED))
    paces.spend(slow, 1, 10)
    assert paces.wait_s(slow) == 1
    clock.advance(1_000)
    paces.forget()
    assert not paces._events
    assert paces.wait_s(slow) == 0


@pytest.mark.parametrize("text", ["10MiB/s", "1B/m", "1GiB/h"])
def test_bytes_in_a_period_are_read_as_they_are_written(text: str) -> None:
    """A rate of bytes comes back as it was written."""
    assert format_bytes_rate(parse_bytes_rate(text)) == text


@pytest.mark.parametrize("text", ["10MiB", "10MiB/d", "0B/s", "/s", "10/s"])
def test_other_bytes_in_a_period_are_refused(text: str) -> None:
    """What is no rate of bytes is refused with how one is written."""
    with pytest.raises(ValueError, match=r"10MiB/s|size"):
        parse_bytes_rate(text)
