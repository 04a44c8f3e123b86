"""`GET /v1/events/{id}/explain` and `relay explain`: which endpoints an event went to, which not, and why."""

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from structlog.testing import capture_logs

from relay.cli import main
from relay.core.model import Failure, Outcome
from relay.registry import Explainer, Why
from relay.telemetry import log
from tests.support.api import CONFIG, Api
from tests.support.api_stub import ApiStub
from tests.support.replaying import ONE_ATTEMPT, over, replay

ENDPOINTS = "/v1/webhook-endpoints"
DRAFT = {
    "videoContext": "project-7",
    "wochitVideoId": "6094092472a9105747957aa3",
    "thumbnailUrl": "http://x.example/t",
    "title": "The video title",
}
URL = "https://receiver.example/secret-path"


async def made(api: Api, **fields: Any) -> str:
    answer = await api.call("POST", ENDPOINTS, {"url": URL} | fields, by="acme-app")
    assert answer.status == 201, answer.text
    api.clock.advance(1)  # what comes now comes later
    name: str = answer.json["id"]
    return name


async def posted(api: Api, **fields: Any) -> str:
    event = {"type": "order.paid", "data": {"amount": 40}} | fields
    answer = await api.call("POST", "/v1/events", event, by="acme-producer")
    assert answer.status == 202, answer.text
    name: str = answer.json["id"]
    return name


async def explained(api: Api, event: str, query: str = "", by: str = "auditor") -> dict[str, Any]:
    found = await api.get(f"/v1/events/{event}/explain{query}", by=by)
    return {one["endpoint"]: one for one in found["data"]}


async def test_each_endpoint_says_why_it_was_not_owed_an_event(tmp_path: Path) -> None:
    """Issue 10, Explain: types, the failing condition of a filter, named endpoints, disabled since, created later."""
    async with Api(tmp_path) as api:
        other = await made(api, event_types=["cut.*"])
        dear = await made(api, filter={"data.amount": {"$gte": 100}})
        off = await made(api)
        await api.call("POST", f"{ENDPOINTS}/{off}/disable")
        api.clock.advance(1)
        event = await posted(api)
        named = await posted(api, endpoints=["primary"])
        api.clock.advance(1)
        later = await made(api)
        found, only = await explained(api, event), await explained(api, named)
    assert {name: one["why"] for name, one in found.items()} == {
        "primary": "matched",
        other: "type",
        dear: "filter",
        off: "disabled",
        later: "created_later",
    }
    assert [name for name, one in found.items() if one["owed"]] == ["primary"]
    assert found[other]["detail"] == "it takes cut.*, which is not order.paid"
    assert found[dear]["failures"][0]["message"] == "data.amount is 40; wanted: $gte 100"
    assert found[dear]["failures"][0]["message"] in found[dear]["detail"]
    assert found[off]["detail"] == "it has been disabled since 2027-01-15T08:00:00.003Z (manual)"
    assert later in found
    assert f"--mode missing {event}" in found[later]["remedy"]
    assert all(one["remedy"] for one in found.values() if not one["owed"])
    assert only[other]["why"] == only[dear]["why"] == "not_named"
    assert "secret-path" not in str(found)


async def test_what_was_edited_since_is_told(tmp_path: Path) -> None:
    """What an endpoint is set to now may not be what it was: the answer says so, or that nothing now keeps it back."""
    async with Api(tmp_path) as api:
        cut, off = await made(api, event_types=["cut.*"]), await made(api)
        await api.call("POST", f"{ENDPOINTS}/{off}/disable")
        event = await posted(api)
        api.clock.advance(5)
        await api.call("PATCH", f"{ENDPOINTS}/{cut}", {"event_types": ["order.*"]})
        await api.call("POST", f"{ENDPOINTS}/{off}/enable")
        changed = await explained(api, event)
        await api.call("PATCH", f"{ENDPOINTS}/{cut}", {"event_types": ["a.b"]})
        edited = await explained(api, event)
    assert (changed[cut]["why"], changed[off]["why"]) == ("changed", "changed")
    assert "is enabled since" in changed[off]["detail"]
    assert edited[cut]["why"] == "type"
    assert edited[cut]["edited_at"] is not None
    assert edited["primary"]["edited_at"] is None


async def test_an_event_that_only_disabled_endpoints_take_says_so_after_they_are_enabled(tmp_path: Path) -> None:
    """The event kept that nothing but disabled endpoints subscribed: that outlives their state."""
    async with Api(tmp_path) as api:
        await api.call("POST", f"{ENDPOINTS}/primary/disable")
        event = await posted(api)
        api.clock.advance(5)
        await api.call("POST", f"{ENDPOINTS}/primary/enable")
        found = await explained(api, event)
    assert (found["primary"]["why"], found["primary"]["detail"]) == ("disabled", "it was disabled when the event came")


async def test_what_a_contract_keeps_back_is_kept_from_all(tmp_path: Path) -> None:
    """An event that a condition of its contract keeps back says which one, and nobody is told to replay it."""
    config = {"application": [{"id": "wochit", "contract": "wochit", "endpoint": [{"id": "hook", "url": URL}]}]}
    async with Api(tmp_path, CONFIG | config) as api:
        event = {"type": "draft.new", "application": "wochit", "data": DRAFT}
        answer = await api.call("POST", "/v1/events", event, by="root")
        found = (await explained(api, answer.json["id"]))["hook"]
    assert (found["why"], found["owed"], found["remedy"]) == ("filtered", False, None)
    assert 'the feature "drafts" is off' in found["detail"]


async def test_a_full_backlog_an_own_contract_and_a_filter_that_cannot_be_tried_are_told(tmp_path: Path) -> None:
    """Overflow is owed and dead; a type that an endpoint's own contract lacks, and data no body shows, are words too."""
    storage = {"path": str(tmp_path / "relay.db"), "min_free_disk": "1MiB", "endpoint_backlog": 1}
    async with Api(tmp_path, CONFIG | {"storage": storage}) as api:
        roughy = await made(api, contract="roughy", event_types=["*"])
        await api.call("POST", f"{ENDPOINTS}/primary/pause")
        await posted(api)
        dear = await made(api, filter={"data.amount": {"$gte": 100}})
        event = await posted(api)
        view = await api.store.find_event(event)
        assert view is not None
        found = await explained(api, event)
        unreadable = Explainer(api.registry, replace(view, body=b"[]")).why_not_owed(api.registry.endpoint(dear))
    assert (found["primary"]["owed"], found["primary"]["why"]) == (True, "overflow")
    assert (found["primary"]["delivery"]["state"], found[roughy]["why"]) == ("dead", "contract")
    assert "roughy" in found[roughy]["detail"]
    assert (unreadable.why, found[dear]["why"]) == (Why.UNDECIDED, "filter")


async def test_a_delivery_says_what_it_waits_for_and_how_its_last_attempt_ended(tmp_path: Path) -> None:
    """Due, held and dead deliveries each say it in the words that the delivery itself has."""
    async with Api(tmp_path) as api:
        api.courier.script = [Outcome(started_at_ms=0, duration_ms=41, status=503)]
        event = await posted(api)
        delivery = await api.delivery_of(event, "due", attempts=1)
        due = (await explained(api, event))["primary"]["delivery"]
        await api.call("POST", f"{ENDPOINTS}/primary/pause")
        held = (await explained(api, event, "?endpoint=primary"))["primary"]["delivery"]
    assert due["id"] == delivery["id"]
    assert due["next_attempt"] == delivery["next_attempt"]
    (attempt,) = delivery["timeline"]
    del attempt["response"]
    assert due["last_attempt"] == {"delivered": False} | attempt
    assert (held["held"], held["next_attempt"]["detail"]) == (True, "the endpoint is paused")


async def test_log_lines_about_a_delivery_have_its_id(tmp_path: Path) -> None:
    """Issue 10, Live: from a line of the log to the delivery with all its attempts is one step."""
    answers = [Outcome(started_at_ms=0, duration_ms=1, status=status) for status in (503, 500)]
    async with Api(tmp_path) as api:
        with capture_logs() as lines:
            api.courier.script = list(answers)
            event = await posted(api)
            await api.delivery_of(event, "due", attempts=1)
            api.clock.advance(5_000)
            delivery = await api.delivery_of(event, "dead")
    told = [line for line in lines if line["event"] in (log.ATTEMPT_FAILED, log.DEAD_LETTER)]
    assert [line["delivery"] for line in told] == 2 * [delivery["id"]]


async def test_a_dead_delivery_says_how_it_is_sent_again(tmp_path: Path) -> None:
    """After what it died of is mended, a retry of it does; a disabled endpoint is enabled first; what arrived needs nothing."""
    async with Api(tmp_path, ONE_ATTEMPT) as api:
        api.courier.script = [204, 500]
        taken = await posted(api)
        assert (await explained(api, taken))["primary"]["remedy"] is None
        event = await posted(api)
        delivery = await api.delivery_of(event, "dead")
        dead = (await explained(api, event))["primary"]["remedy"]
        await api.call("POST", f"{ENDPOINTS}/primary/disable")
        off = (await explained(api, event))["primary"]["remedy"]
    again = f"`relay deliveries retry {delivery['id']}` sends it again."
    assert dead == f"Mend what its last attempt met; then {again}"
    assert off == f"`relay endpoint enable primary`; then {again}"


async def test_a_tenant_reads_of_its_attempts_what_it_may_see(tmp_path: Path) -> None:
    """What lies behind a name is for whoever runs the relay."""
    async with Api(tmp_path) as api:
        api.courier.script = [Outcome(started_at_ms=0, duration_ms=3, failure=Failure.DNS, detail="no such name")]
        event = await posted(api)
        await api.delivery_of(event, "due", attempts=1)
        seen = [(await explained(api, event, by=by))["primary"]["delivery"] for by in ("acme-app", "root")]
    assert [one["last_attempt"]["failure"] for one in seen] == ["unreachable", "dns"]


async def test_deleted_endpoints_and_replays_are_told(tmp_path: Path) -> None:
    """What a deleted endpoint was owed stays; a delivery that a replay of the missing made says so."""
    async with Api(tmp_path) as api:
        gone = await made(api)
        event = await posted(api)
        api.clock.advance(5)
        later = await made(api)
        await api.call("DELETE", f"{ENDPOINTS}/{gone}")
        await over(api, (await replay(api, "missing", ids=[event]))["id"])
        found = await explained(api, event)
        single = await explained(api, event, f"?endpoint={gone}")
    assert (found[gone]["deleted"], found[gone]["owed"], found[gone]["url"]) == (True, True, None)
    assert found[later]["why"] == "replayed"
    assert list(single) == [gone]


async def test_pages_hold_every_endpoint_once(tmp_path: Path) -> None:
    """Endpoints with and without a delivery come page by page, each once, the oldest first; a cursor is checked."""
    async with Api(tmp_path) as api:
        names = ["primary", *[await made(api, event_types=["cut.*"] if n % 2 else ["*"]) for n in range(4)]]
        event = await posted(api)
        await api.call("DELETE", f"{ENDPOINTS}/{names[1]}")
        found, cursor = [], ""
        while True:
            page = await api.get(f"/v1/events/{event}/explain?limit=2{cursor}")
            found += [one["endpoint"] for one in page["data"]]
            if page["next"] is None:
                break
            cursor = f"&cursor={page['next']}"
        wrong = await api.call("GET", f"/v1/events/{event}/explain?cursor=x")
    assert found == names
    assert page["event"]["id"] == event
    assert (wrong.status, wrong.json["type"]) == (409, "invalid_cursor")


async def test_who_may_ask(tmp_path: Path) -> None:
    """Whoever reads deliveries; what belongs to others does not exist, and a producer knows of no endpoint."""
    async with Api(tmp_path) as api:
        event = await posted(api)
        path = f"/v1/events/{event}/explain"
        callers = ("root", "auditor", "on-call", "acme-app", "globex-app", "acme-producer")
        statuses = [(await api.call("GET", path, by=by)).status for by in callers]
        unknown = await api.call("GET", path + "?endpoint=nobody")
    assert statuses == [200, 200, 200, 200, 404, 403]
    assert (unknown.status, unknown.json["detail"].split(".")[0]) == (
        404,
        "Application 'acme' has no endpoint 'nobody'",
    )


# -- the command line -------------------------------------------------------------------------------------------------------------


@pytest.fixture
def stub(monkeypatch: pytest.MonkeyPatch) -> Iterator[ApiStub]:
    stub = ApiStub()
    monkeypatch.setenv("RELAY_URL", stub.url)
    monkeypatch.delenv("RELAY_SOCKET", raising=False)
    yield stub
    stub.close()


EVENT: dict[str, Any] = {
    "id": "evt_1",
    "type": "order.paid",
    "application": "acme",
    "created_at": "2026-11-22T01:47:31.758Z",
    "endpoints": None,
    "reason": None,
    "reason_detail": None,
}
KEPT: dict[str, Any] = {
    "endpoint": "dear",
    "url": "https://dear.example/***",
    "deleted": False,
    "owed": False,
    "why": "filter",
    "detail": "its filter keeps the event back: data.amount is 40; wanted: $gte 100",
    "remedy": "Change the endpoint's filter.",
    "failures": [],
    "edited_at": "2026-11-22T02:00:00.000Z",
    "delivery": None,
}
DUE: dict[str, Any] = KEPT | {
    "endpoint": "primary",
    "owed": True,
    "why": "matched",
    "detail": "it took events of this type",
    "remedy": None,
    "edited_at": None,
    "delivery": {
        "id": "dlv_1",
        "state": "due",
        "reason": None,
        "held": False,
        "next_attempt": {
            "at": "2026-11-22T02:47:31.758Z",
            "why": "scheduled",
            "detail": "its next attempt is not due yet",
        },
        "last_attempt": {
            "delivered": False,
            "number": 3,
            "started_at": "2026-11-22T01:50:00.000Z",
            "duration_ms": 41,
            "status": 503,
            "failure": None,
            "detail": None,
            "trace": None,
        },
    },
}


def test_the_command_line_tells_all_pages(stub: ApiStub) -> None:
    """One block an endpoint: whether it was owed the event, why, what its delivery waits for; JSON holds all pages."""
    path = "/v1/events/evt_1/explain?limit=250"
    stub.answer("GET", path, {"event": EVENT, "data": [KEPT], "next": "c"})
    stub.answer("GET", path + "&cursor=c", {"event": EVENT, "data": [DUE], "next": None})
    result = CliRunner().invoke(main, ["explain", "evt_1"], catch_exceptions=False)
    assert result.exit_code == 0
    for line in (
        "owed      no",
        "(it was edited since, at 2026-11-22 02:00:00Z)",
        "remedy    Change the endpoint's filter.",
        "delivery      dlv_1: due",
        "waits for     its next attempt is not due yet (2026-11-22 02:47:31Z)",
        "last attempt  number 3 at 2026-11-22 01:50:00Z, not delivered: 503 in 41 ms",
    ):
        assert line in result.stdout, result.stdout
    result = CliRunner().invoke(main, ["explain", "evt_1", "--json"], catch_exceptions=False)
    assert [one["endpoint"] for one in json.loads(result.stdout)["data"]] == ["dear", "primary"]


def test_an_application_without_endpoints_is_told(stub: ApiStub) -> None:
    """There is nothing to explain, and the command says why; --endpoint asks for one."""
    kept = EVENT | {"reason": "no_match", "reason_detail": "no endpoint subscribes to order.paid"}
    stub.answer("GET", "/v1/events/evt_1/explain?endpoint=a&limit=250", {"event": kept, "data": [], "next": None})
    result = CliRunner().invoke(main, ["explain", "evt_1", "--endpoint", "a"], catch_exceptions=False)
    assert "no endpoint subscribes to order.paid" in result.stdout
    assert "Application acme has no endpoint." in result.stdout
