"""The queue at the operator's desk: its shape, what acts on many deliveries at once, notes on dead letters; API and verbs."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from relay.cli import main
from relay.cli.output import Exit
from tests.support.api import Api
from tests.support.api_stub import ApiStub
from tests.support.replaying import ONE_ATTEMPT, died

PRIMARY = "/v1/webhook-endpoints/primary"
COOLING: dict[str, Any] = {
    **ONE_ATTEMPT,
    "delivery": {**ONE_ATTEMPT["delivery"], "retry": {"schedule": ["1h"], "jitter": 0.0}, "health": {"failures": 2}},
}


async def call(api: Api, path: str, by: str = "root", **members: Any) -> Any:
    answer = await api.call("POST", path, members, by=by)
    assert answer.status == 200, answer.text
    return answer.json


async def held(api: Api, count: int, type: str = "render.completed") -> list[str]:
    """Let so many deliveries wait at a paused endpoint; return their ids."""
    await api.registrar.pause("primary")
    return [str((await api.delivery_of(await api.post_event(type), "due"))["id"]) for _ in range(count)]


async def states(api: Api, deliveries: list[str]) -> list[str]:
    return [(await api.get(f"/v1/deliveries/{one}"))["state"] for one in deliveries]


# -- many at once -----------------------------------------------------------------------------------------------------------


async def test_what_is_due_is_cancelled_in_bulk(tmp_path: Path) -> None:
    """Filters or ids select what is due; a dry run shows it; what is cancelled is named, and others stay."""
    async with Api(tmp_path) as api:
        old, new = await held(api, 2, "a.old"), await held(api, 3, "a.new")
        dry = await call(api, "/v1/deliveries/cancel", type="a.old", dry_run=True)
        assert (dry["matched"], dry["done"], len(dry["sample"])) == (2, 0, 2)
        done = await call(api, "/v1/deliveries/cancel", type="a.old")
        assert (done["matched"], done["done"], done["next"]) == (2, 2, None)
        event = (await api.get(f"/v1/deliveries/{new[0]}"))["event_id"]
        named = await call(api, "/v1/deliveries/cancel", ids=[event, new[1], old[0], "dlv_none"])
        assert (named["done"], named["unknown"]) == (2, 2)
        assert await states(api, old + new) == ["cancelled"] * 4 + ["due"]
        assert (await api.get(f"/v1/deliveries/{new[0]}"))["cancelled_by"] == "root"
        assert api.store.due_count(api.registry.endpoints["primary"].ref) == 1


async def test_bulk_calls_act_on_a_bounded_number(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One call acts on BULK_MAX deliveries and looks at PAGES_MAX pages; its `next` says where the following one goes on."""
    monkeypatch.setattr("relay.api.bulk.BULK_MAX", 4)
    monkeypatch.setattr("relay.api.bulk.PAGE", 2)
    async with Api(tmp_path) as api:
        await held(api, 9)
        counts, cursor = [], None
        while True:
            answer = await call(api, "/v1/deliveries/cancel", **({"cursor": cursor} if cursor else {}))
            counts.append(answer["done"])
            cursor = answer["next"]
            if cursor is None:
                break
        assert counts == [4, 4, 1]
        refused = await api.call("POST", "/v1/deliveries/cancel", {"ids": ["a"] * 5})
        assert (refused.status, refused.json["errors"][0]["pointer"]) == (422, "/ids")
        monkeypatch.setattr("relay.api.bulk.PAGES_MAX", 1)
        await held(api, 3)
        assert (await call(api, "/v1/deliveries/cancel"))["matched"] == 2


@pytest.mark.parametrize(("pages", "counts"), [(40, [4, 2]), (1, [3, 2, 1])])
async def test_ids_mean_a_bounded_number(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pages: int, counts: list[int]
) -> None:
    """I8: the deliveries of an event that is named are acted on, and looked at, a bounded number in each call."""
    monkeypatch.setattr("relay.api.bulk.BULK_MAX", 4)
    monkeypatch.setattr("relay.api.bulk.PAGE", 2)
    monkeypatch.setattr("relay.api.bulk.PAGES_MAX", pages)
    async with Api(tmp_path) as api:
        (single,) = await held(api, 1)
        for _ in range(4):
            other = await api.call(
                "POST", "/v1/webhook-endpoints", {"application": "acme", "url": "https://x.example/"}
            )
            await api.registrar.pause(other.json["id"])
        event = await api.post_event()
        found = []
        members: dict[str, Any] = {"ids": [single, event, "dlv_none"]}
        while not found or found[-1]["next"]:
            following = {"cursor": found[-1]["next"]} if found else {}
            found.append(await call(api, "/v1/deliveries/cancel", **members, **following))
        assert [one["done"] for one in found] == counts
        assert sum(one["unknown"] for one in found) == 1
        foreign = await call(api, "/v1/deliveries/cancel", by="globex-app", ids=[event])
        assert (foreign["matched"], foreign["unknown"], foreign["next"]) == (0, 1, None)
        for odd in ("x", "9.", "1.dlv_odd", "-1."):
            refused = await api.call("POST", "/v1/deliveries/cancel", members | {"cursor": odd})
            assert (refused.status, refused.json["type"].rpartition("/")[2]) == (409, "invalid_cursor")


async def test_what_waits_for_its_next_attempt_is_sent_now(tmp_path: Path) -> None:
    """A bulk retry makes due deliveries due now, past their schedule; each is the same series."""
    async with Api(tmp_path) as api:
        api.courier.script = [500, 500]
        events = [await api.post_event(type) for type in ("a.one", "a.two")]
        for event in events:
            await api.delivery_of(event, "due", attempts=1)
        assert (await call(api, "/v1/deliveries/retry", type="a.one"))["done"] == 1
        delivered = await api.delivery_of(events[0], "delivered")
        assert (delivered["series"], delivered["timeline"][-1]["trigger"]) == (1, "manual")
        assert (await api.delivery_of(events[1]))["state"] == "due"


async def test_dead_letters_are_dropped(tmp_path: Path) -> None:
    """A dropped dead letter is cancelled by somebody and counts no more; a retry takes it up again; others are not dropped."""
    async with Api(tmp_path, ONE_ATTEMPT) as api:
        dead = await died(api, 3)
        assert (await call(api, "/v1/dead-letters/drop", reason="gone"))["done"] == 0
        assert (await call(api, "/v1/dead-letters/drop", ids=dead[:2], by="acme-app"))["done"] == 2
        assert await states(api, dead) == ["cancelled", "cancelled", "dead"]
        (group,) = (await api.get("/v1/dead-letters"))["data"]
        assert group["count"] == api.store.dead_count(api.registry.endpoints["primary"].ref) == 1
        shown = await api.get(f"/v1/deliveries/{dead[0]}")
        assert (shown["reason"], shown["cancelled_by"]) == (None, "acme-app")
        await api.call("POST", f"/v1/deliveries/{dead[0]}/retry")
        await api.delivery_of(shown["event_id"], "delivered")
        again = await call(api, "/v1/dead-letters/drop", ids=[dead[1]])
        assert (again["done"], again["unknown"]) == (0, 1)


@pytest.mark.parametrize("path", ["/v1/deliveries/cancel", "/v1/deliveries/retry", "/v1/dead-letters/drop"])
async def test_bulk_calls_mean_an_application_s_own(tmp_path: Path, path: str) -> None:
    """An application's key acts on its own deliveries, by filters and by ids; readers act on none."""
    async with Api(tmp_path, ONE_ATTEMPT) as api:
        dead, due = await died(api, 2), await held(api, 2)
        for members in ({}, {"ids": dead + due}):
            assert (await call(api, path, by="globex-app", **members))["matched"] == 0
        assert (await api.call("POST", path, {"application": "acme"}, by="globex-app")).status == 404
        assert (await api.call("POST", path, {}, by="auditor")).status == 403
        assert (await api.call("POST", path, {"state": "delivered"})).status == 422
        assert (await call(api, path, by="acme-app"))["done"] == 2  # negative control: the owner


# -- a whole endpoint -------------------------------------------------------------------------------------------------------


async def test_an_endpoint_is_retried_now(tmp_path: Path) -> None:
    """`retry-now` ends cool-down and back-off: what is due later is due now; what has a `deliver_at` keeps its time."""
    async with Api(tmp_path, COOLING) as api:
        api.courier.script = [500] * 2
        events = [await api.post_event() for _ in range(3)]
        for event in events[:2]:
            await api.delivery_of(event, "due", attempts=1)
        later = await api.post_event(deliver_at_ms=api.clock.wall_ms() + 60_000)
        before = await api.get(PRIMARY)
        assert before["waits_for"] in ("cooling down", "not due yet")
        assert before["health"]["cool_down_until"] is not None
        answer = await call(api, f"{PRIMARY}/retry-now", by="acme-app")
        assert (answer["more"], answer["health"]["cool_down_until"]) == (False, None)
        for event in events:
            await api.delivery_of(event, "delivered")
        assert (await api.delivery_of(later))["attempts"] == 0
        assert (await call(api, f"{PRIMARY}/retry-now"))["moved"] == 0


async def test_a_held_endpoint_says_so(tmp_path: Path) -> None:
    """`retry-now` of a paused endpoint makes due times earlier and says what still holds them."""
    async with Api(tmp_path) as api:
        api.courier.script = [500]
        await api.delivery_of(await api.post_event(), "due", attempts=1)
        await api.registrar.pause("primary")
        answer = await call(api, f"{PRIMARY}/retry-now")
    assert answer["moved"] == 1
    assert "paused" in answer["note"]


# -- shape and notes --------------------------------------------------------------------------------------------------------


async def test_the_shape_of_the_queue(tmp_path: Path) -> None:
    """Due deliveries are counted by endpoint and by the age of their events; foreign endpoints are not there."""
    async with Api(tmp_path) as api:
        await held(api, 2)
        api.clock.advance(10 * 60_000)
        await held(api, 3)
        found = await api.get("/v1/queue")
        assert await api.get("/v1/queue?application=globex") == found | {"data": [], "due": 0, "endpoints": 0}
        assert (await api.get("/v1/queue", by="globex-app"))["data"] == []
    (row,) = found["data"]
    assert (row["endpoint"], row["due"], row["held"], row["state"]) == ("primary", 5, True, "paused")
    by_age = dict(zip([*found["ages"], "older"], row["by_age"], strict=True))
    assert {age: count for age, count in by_age.items() if count} == {"1m": 3, "20m": 2}
    assert (found["due"], found["endpoints"]) == (5, 1)


async def test_a_note_stands_beside_dead_letters(tmp_path: Path) -> None:
    """A note on an endpoint and a reason is shown with the group, by whom and when; an empty one goes; others' are 404."""
    async with Api(tmp_path, ONE_ATTEMPT) as api:
        await died(api, 1)
        wanted = {"endpoint": "primary", "reason": "exhausted", "note": "their firewall, ticket 4711"}
        await call(api, "/v1/dead-letters/note", **wanted, by="acme-app")
        (group,) = (await api.get("/v1/dead-letters"))["data"]
        assert (group["note"], group["noted_by"]) == (wanted["note"], "acme-app")
        assert group["noted_at"] is not None
        assert (await api.call("POST", "/v1/dead-letters/note", wanted, by="globex-app")).status == 404
        refused = await api.call("POST", "/v1/dead-letters/note", {"note": "x" * 1_001, "reason": "odd"})
        assert sorted(one["pointer"] for one in refused.json["errors"]) == ["/endpoint", "/note", "/reason", "/reason"]
        await call(api, "/v1/dead-letters/note", **wanted | {"note": ""})
        assert (await api.get("/v1/dead-letters"))["data"][0]["note"] is None


# -- the verbs --------------------------------------------------------------------------------------------------------------


@pytest.fixture
def stub(monkeypatch: pytest.MonkeyPatch) -> Iterator[ApiStub]:
    api = ApiStub()
    monkeypatch.setenv("RELAY_URL", api.url)
    yield api
    api.close()


def run(*words: str, given: str | None = None) -> Result:
    return CliRunner().invoke(main, list(words), input=given, catch_exceptions=False)


def due(name: str, **members: Any) -> dict[str, Any]:
    times = {"created_at": "2026-11-22T08:00:00.000Z", "due_at": "2026-11-22T09:00:00.000Z"}
    shown = {"id": name, "event_type": "a.b", "endpoint": "primary", "attempts": 1, "state": "due", "reason": None}
    return shown | times | {"held": False, "under_way": False} | members


def bulk(matched: int, done: int = 0, following: str | None = None, **members: Any) -> dict[str, Any]:
    return {"dry_run": False, "matched": matched, "done": done, "unknown": 0, "next": following, "sample": []} | members


def test_the_queue_is_listed_with_marks(stub: ApiStub) -> None:
    """`relay queue`, alone or as `list`, marks what is under way, held, and waits for its predecessor."""
    rows = [due("dlv_1", under_way=True), due("dlv_2", held=True), due("dlv_3", due_at=None), due("dlv_4")]
    stub.answer("GET", "/v1/deliveries?state=due&limit=50", {"data": rows, "next": None})
    shown = run("queue", "list").stdout
    assert [line[:8].rstrip() for line in shown.splitlines()[1:]] == ["*  dlv_1", "!  dlv_2", "=  dlv_3", "   dlv_4"]
    assert run("queue").stdout == shown


def test_the_shape_is_drawn(stub: ApiStub) -> None:
    """`relay queue shape` has a column for each age, and says how many endpoints it leaves out."""
    row = {
        "endpoint": "primary",
        "state": "paused",
        "due": 7,
        "by_age": [3, 0, 4],
        "waits_for": "the endpoint is paused",
    }
    stub.answer("GET", "/v1/queue?limit=50", {"ages": ["1m", "1h"], "endpoints": 3, "due": 9, "data": [row]})
    result = run("queue", "shape")
    heading, line = (part.split() for part in result.stdout.splitlines())
    assert heading == ["ENDPOINT", "STATE", "DUE", "<1m", "<1h", "1h+", "WAITS", "FOR"]
    assert line[:5] == ["primary", "paused", "7", "3", "4"]
    assert "2 more endpoints" in result.stderr


@pytest.mark.parametrize(
    ("words", "path"),
    [
        (["queue", "cancel"], "/v1/deliveries/cancel"),
        (["queue", "retry-now", "--type", "a.b"], "/v1/deliveries/retry"),
        (["dead", "drop"], "/v1/dead-letters/drop"),
    ],
)
def test_bulk_verbs_count_ask_and_go_on(stub: ApiStub, words: list[str], path: str) -> None:
    """Each bulk verb counts first, wants --yes without a terminal, and repeats its call until it has come to its end."""
    stub.answer("POST", path, bulk(7, dry_run=True, sample=[due("dlv_1")]))
    stub.answer("POST", path, bulk(7, dry_run=True, sample=[due("dlv_1")]))
    stub.answer("POST", path, bulk(5, 5, "c2"))
    stub.answer("POST", path, bulk(2, 1))
    words = [*words, "--endpoint", "primary"]
    asked = run(*words)
    assert (asked.exit_code, "7 deliveries would be" in asked.stderr) == (Exit.USAGE, True)
    assert run(*words, "--dry-run").stdout.splitlines()[-1] == "7 deliveries selected."
    assert run(*words, "--yes").stdout.startswith("6 deliveries ")
    assert "cursor" not in stub.asked[2].json
    assert stub.asked[3].json["cursor"] == "c2"
    assert {one.json["endpoint"] for one in stub.asked} == {"primary"}


@pytest.mark.parametrize(("verb", "call"), [("hold", "pause"), ("release", "resume"), ("retry-now", "retry-now")])
def test_whole_endpoints_are_named(stub: ApiStub, verb: str, call: str) -> None:
    """An endpoint that is named is acted on at once; several ask first; each is told with what still hinders it."""
    for name in ("ep_1", "ep_2"):
        more = {"due": 9, "moved": 2, "more": False} if call == "retry-now" else {}
        stub.answer("POST", f"/v1/webhook-endpoints/{name}/{call}", {"id": name, "note": "it waits", **more})
    stub.answer("GET", "/v1/webhook-endpoints?limit=250", {"data": [{"id": "ep_1"}, {"id": "ep_2"}], "next": None})
    one = run("queue", verb, "--endpoint", "ep_1")
    assert (one.exit_code, one.stdout.split()[0], "it waits" in one.stderr) == (Exit.FINE, "ep_1", True)
    assert ("9 deliveries due, 2 brought forward" in one.stdout) == (verb == "retry-now")
    assert run("queue", verb, "--all").exit_code == Exit.USAGE
    assert run("queue", verb, "--all", "--dry-run").stdout == "ep_1\nep_2\n2 endpoints selected.\n"
    assert len(json.loads(run("queue", verb, "ep_1", "ep_2", "--yes", "--json").stdout)) == 2


@pytest.mark.parametrize(("verb", "call"), [("hold", "pause"), ("release", "resume")])
def test_what_changed_nothing_is_said(stub: ApiStub, verb: str, call: str) -> None:
    """T3: an endpoint that was held, or went on, already: nothing changed, and what hinders it is told."""
    standing = {"state": "enabled", "disabled_by": None, "refusing": None, "unverified": None}
    answer = {"id": "ep_1", "changed": False, "note": "It cools down.", **standing}
    stub.answer("POST", f"/v1/webhook-endpoints/ep_1/{call}", answer)
    told = run("queue", verb, "ep_1")
    assert (told.stdout, told.stderr) == ("ep_1: nothing changed; it was enabled.\n", "ep_1: It cools down.\n")


def test_endpoints_are_found_by_what_is_owed_to_them(stub: ApiStub) -> None:
    """Ids of deliveries and events, also from stdin, and filters of deliveries mean the endpoints that these are owed to."""
    stub.answer("GET", "/v1/deliveries/dlv_1", due("dlv_1"))
    owed = {"data": [due("dlv_2", endpoint="other")], "next": None}
    stub.answer("GET", "/v1/events/evt_1/deliveries", owed)
    stub.answer("GET", "/v1/deliveries?state=due&limit=250&type=a.b", owed)
    assert run("queue", "hold", "-", "--dry-run", given="dlv_1\nevt_1\n").stdout.split()[:2] == ["primary", "other"]
    assert run("queue", "release", "--type", "a.b", "--dry-run").stdout.split()[0] == "other"


def test_dead_letters_are_noted_and_exported(stub: ApiStub) -> None:
    """`relay dead note` keeps a note, without text it goes; `relay dead export` writes a line of JSON for each letter."""
    answered: dict[str, Any] = {"endpoint": "primary", "reason": "gone", "note": "gone for good", "noted_by": "root"}
    stub.answer("POST", "/v1/dead-letters/note", answered)
    stub.answer("POST", "/v1/dead-letters/note", answered | {"note": None})
    assert (
        run("dead", "note", "primary", "gone for good", "--reason", "gone").stdout == "primary, gone: gone for good\n"
    )
    assert "no note any more" in run("dead", "note", "primary", "--reason", "gone").stdout
    assert [one.json["note"] for one in stub.asked] == ["gone for good", ""]
    dead = due("dlv_1", state="dead", event_id="evt_1")
    stub.answer("GET", "/v1/deliveries?state=dead&limit=250&reason=gone", {"data": [dead], "next": None})
    stub.answer("GET", "/v1/events/evt_1", {"id": "evt_1", "payload": {"n": 1}})
    (line,) = run("dead", "export", "--reason", "gone").stdout.splitlines()
    assert json.loads(line) == {"delivery": dead, "event": {"id": "evt_1", "payload": {"n": 1}}}
