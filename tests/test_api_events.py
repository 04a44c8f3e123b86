"""Reading events: search, pages, detail, and who may see what."""

from pathlib import Path

import pytest

from relay.core.model import EndpointState
from tests.support.api import Api


async def test_an_event_shows_its_payload_as_sent(tmp_path: Path) -> None:
    """The detail holds the frozen body byte for byte: number forms, key order and spacing (invariant 6)."""
    data = b'{ "z": 1.0, "a": 1e5, "big": 18446744073709551616 }'
    async with Api(tmp_path) as api:
        event_id = await api.post_event(data=data, metadata=b'{"trace": "t-1"}')
        await api.delivery_of(event_id, "delivered")
        answer = await api.call("GET", f"/v1/events/{event_id}")
    event = answer.json
    assert b'"payload":' + api.courier.requests[0].body + b"}" in answer.text
    assert b'"data":' + data in answer.text
    assert event["payload_bytes"] == len(api.courier.requests[0].body)
    assert event["metadata"] == {"trace": "t-1"}
    assert event["deliveries"] == {"delivered": 1}
    assert event["created_at"] == event["timestamp"] == "2027-01-15T08:00:00.000Z"


async def test_an_event_without_deliveries_says_why(tmp_path: Path) -> None:
    """An event that went nowhere names the reason and explains it (invariant 7)."""
    async with Api(tmp_path) as api:
        lonely = await api.get(f"/v1/events/{await api.post_event(application='globex')}")
        await api.registrar.disable("primary")
        skipped = await api.get(f"/v1/events/{await api.post_event()}")
    assert (lonely["reason"], lonely["deliveries"]) == ("no_match", {})
    assert skipped["reason"] == "skipped"
    assert "primary" in skipped["reason_detail"]


async def test_pages_lead_through_all_events(tmp_path: Path) -> None:
    """Following `next` or the Link header shows every event once, newest first, and then ends."""
    async with Api(tmp_path) as api:
        posted = []
        for _ in range(5):
            posted.append(await api.post_event(application="globex"))
            api.clock.advance(1)
        seen, path, pages = [], "/v1/events?limit=2&application=globex", 0
        while path:
            answer = await api.call("GET", path)
            pages += 1
            seen += [event["id"] for event in answer.json["data"]]
            link = answer.headers.get("Link", "")
            assert bool(link) is (answer.json["next"] is not None)
            path = link.removeprefix("<").removesuffix('>; rel="next"')
    assert seen == posted[::-1]
    assert pages == 3
    assert all("payload" not in event for event in answer.json["data"])


async def test_events_are_filtered(tmp_path: Path) -> None:
    """Type, application, reason and time select events; `until` is exclusive."""
    async with Api(tmp_path) as api:
        first = await api.post_event("a.b", application="globex")
        api.clock.advance(60_000)
        second = await api.post_event("a.c")

        async def found(query: str) -> list[str]:
            return [event["id"] for event in (await api.get(f"/v1/events?{query}"))["data"]]

        assert await found("type=a.b") == [first]
        assert await found("application=acme") == [second]
        assert await found("reason=no_match") == [first]
        assert await found("since=30s") == [second]
        assert await found("until=30s") == [first]
        assert await found("since=2027-01-15T08:00:00Z&until=2027-01-15T08:01:00Z") == [first]
        assert await found("type=unheard.of") == []


async def test_the_deliveries_of_an_event(tmp_path: Path) -> None:
    """Each endpoint that an event is owed to is listed, held ones marked as such."""
    async with Api(tmp_path) as api:
        await api.registrar.pause("primary")
        event_id = await api.post_event()
        (delivery,) = (await api.get(f"/v1/events/{event_id}/deliveries"))["data"]
        assert api.registry.endpoint("primary").state is EndpointState.PAUSED
    assert (delivery["state"], delivery["held"], delivery["endpoint"]) == ("due", True, "primary")


@pytest.mark.parametrize("path", ["/v1/events/{}", "/v1/events/{}/deliveries"])
async def test_foreign_events_do_not_exist(tmp_path: Path, path: str) -> None:
    """An event of another application is 404, in the words of one that never was."""
    async with Api(tmp_path) as api:
        event_id = await api.post_event()
        foreign = await api.call("GET", path.format(event_id), by="globex-app")
        missing = await api.call("GET", path.format("evt_0"), by="globex-app")
        own = await api.call("GET", path.format(event_id), by="acme-app")
        listed = await api.get("/v1/events", by="globex-app")
    assert (foreign.status, missing.status, own.status) == (404, 404, 200)
    assert foreign.json["detail"].replace(event_id, "evt_0") == missing.json["detail"]
    assert listed["data"] == []


async def test_a_producer_reads_events_of_its_application_only(tmp_path: Path) -> None:
    """A bound producer reads its events and no deliveries; naming another application is 404."""
    async with Api(tmp_path) as api:
        event_id = await api.post_event()
        foreign_id = await api.post_event(application="globex")
        shown = await api.call("GET", f"/v1/events/{event_id}", by="acme-producer")
        foreign = await api.call("GET", f"/v1/events/{foreign_id}", by="acme-producer")
        listed = await api.get("/v1/events", by="acme-producer")
        named = await api.call("GET", "/v1/events?application=globex", by="acme-producer")
        deliveries = await api.call("GET", f"/v1/events/{event_id}/deliveries", by="acme-producer")
    assert (shown.status, foreign.status, named.status, deliveries.status) == (200, 404, 404, 403)
    assert [event["id"] for event in listed["data"]] == [event_id]


async def test_a_wrong_query_is_refused_whole(tmp_path: Path) -> None:
    """A list with mistakes in its query answers 422 and names each of them."""
    async with Api(tmp_path) as api:
        answer = await api.call("GET", "/v1/events?limit=0&reason=lost&colour=red")
        cursor = await api.call("GET", "/v1/events?cursor=nonsense")
    assert answer.status == 422
    assert answer.headers["Content-Type"].startswith("application/problem+json")
    assert len(answer.json["errors"]) == 3
    assert (cursor.status, cursor.json["type"]) == (409, "invalid_cursor")
