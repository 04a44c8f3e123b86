"""Filters and named endpoints at work: in the file and the API, at intake, and with what is kept."""

import json
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from relay.registry.facts import LOOKS_MAX
from tests.support.api import Answer, Api
from tests.support.config import endpoint, errors, read, sound

PATH = "/v1/webhook-endpoints"
URL = "https://receiver.example/hooks"


async def made(api: Api, **fields: Any) -> str:
    answer = await api.call("POST", PATH, {"url": URL} | fields, by="acme-app")
    assert answer.status == 201, answer.text
    name: str = answer.json["id"]
    return name


async def post(api: Api, data: Any = None, **fields: Any) -> Answer:
    event = {"type": "order.paid", "data": {} if data is None else data} | fields
    return await api.call("POST", "/v1/events", json.dumps(event).encode(), by="acme-producer")


async def reached(api: Api, data: Any = None, **fields: Any) -> set[str]:
    """The endpoints that an event made deliveries for."""
    answer = await post(api, data, **fields)
    assert answer.status == 202, answer.text
    found = await api.get(f"/v1/events/{answer.json['id']}/deliveries")
    return {delivery["endpoint"] for delivery in found["data"]}


# -- in the file and the API ------------------------------------------------------------------------------------------------


def test_a_filter_of_the_file_is_read_with_its_mistakes_in_place(tmp_path: Path) -> None:
    """Plain and nested tables say the same; each mistake has its key and its line."""
    (application,) = sound(
        read(tmp_path, endpoint(filter='{ "data.a" = { "$gte" = 0.1 }, data.b = "x" }'))
    ).applications
    (found,) = application.endpoints
    assert found.filter is not None
    assert found.filter.written == {"data.a": {"$gte": 0.1}, "data": {"b": "x"}}

    wrong = read(
        tmp_path, endpoint(filter='{ amount = 1, "data.a" = { "$gt" = [], "$in" = [2020-01-01] } }', timeout="15")
    )
    assert set(errors(wrong)) == {
        "application[acme].endpoint[e].filter.amount",
        'application[acme].endpoint[e].filter."data.a"."$gt"',
        'application[acme].endpoint[e].filter."data.a"."$in"',
        "application[acme].endpoint[e].timeout",
    }
    assert all(":7" in issue.place for issue in wrong.errors if "filter" in issue.path), wrong.errors


@pytest.mark.parametrize("number", ["0.12345678901234567891", "123456789012345678901234"])
def test_a_number_that_the_file_cannot_keep_is_refused(tmp_path: Path, number: str) -> None:
    """A filter that silently compared with another number would be a trap."""
    (path,) = errors(read(tmp_path, endpoint(filter=f'{{ "data.a" = {number} }}')))
    assert path == 'application[acme].endpoint[e].filter."data.a"'


async def test_the_api_takes_shows_replaces_and_removes_a_filter(tmp_path: Path) -> None:
    """A patch replaces the whole filter, since less of it is another one; null removes it, and null within is a value."""
    async with Api(tmp_path) as api:
        name = await made(api, filter={"data.a": None, "data.b": 1})
        assert (await api.get(f"{PATH}/{name}"))["filter"] == {"data.a": None, "data.b": 1}
        patched = await api.call("PATCH", f"{PATH}/{name}", {"filter": {"data.c": {"$eq": None}}}, by="acme-app")
        assert patched.json["filter"] == {"data.c": {"$eq": None}}
        untouched = await api.call("PATCH", f"{PATH}/{name}", {"description": "x"}, by="acme-app")
        assert untouched.json["filter"] == {"data.c": {"$eq": None}}
        removed = await api.call("PATCH", f"{PATH}/{name}", {"filter": None}, by="acme-app")
        assert removed.json["filter"] is None
        listed = await api.get(PATH)
        assert {one["id"]: one["filter"] for one in listed["data"]} == {name: None, "primary": None}


async def test_a_filter_outlives_a_restart(tmp_path: Path) -> None:
    """The database keeps it as it was written, numbers and all."""
    written = {"data.a": {"$in": [1e23, 0.1, 18446744073709551615, -9223372036854775808, None, True, "é"]}}
    async with Api(tmp_path) as api:
        name = await made(api, filter=written)
    async with Api(tmp_path) as api:
        assert (await api.get(f"{PATH}/{name}"))["filter"] == written
        assert name in await reached(api, {"a": 10**23})
        assert name not in await reached(api, {"a": 1})


async def test_mistakes_of_a_filter_are_named_beside_others(tmp_path: Path) -> None:
    """Every one with its pointer, in a creation, a patch, and for an application's first endpoint."""
    wrong = {"filter": {"amount": 1, "data.a": {"$gt": None, "b": []}}, "url": "ftp://x", "timeout": 5}
    inside = ["/filter/amount", "/filter/data.a/$gt", "/filter/data.a/b"]
    async with Api(tmp_path) as api:
        created = await api.call("POST", PATH, wrong, by="acme-app")
        patched = await api.call("PATCH", f"{PATH}/{await made(api)}", {"filter": wrong["filter"]}, by="acme-app")
        application = await api.call("POST", "/v1/applications", {"id": "new", "endpoint": wrong})
    assert created.status == patched.status == application.status == 422
    pointers = [[error["pointer"] for error in answer.json["errors"]] for answer in (created, patched, application)]
    assert set(inside) < set(pointers[0])
    assert {"/url", "/timeout"} < set(pointers[0])
    assert sorted(pointers[1]) == inside
    assert {f"/endpoint{pointer}" for pointer in inside} < set(pointers[2])


@pytest.mark.parametrize("number", [b"0.12345678901234567891", b"123456789012345678901234", b"1e-400"])
async def test_a_number_that_the_api_cannot_keep_is_refused(tmp_path: Path, number: bytes) -> None:
    """In a creation and in a patch, and elsewhere it is no lawful value either."""
    async with Api(tmp_path) as api:
        body = b'{"url": "https://receiver.example/", "filter": {"data.a": ' + number + b"}}"
        created = await api.call("POST", PATH, body, by="acme-app")
        keyed = await api.call("POST", PATH, body, by="acme-app", headers={"Idempotency-Key": "k" * 32})
        name = await made(api)
        patched = await api.call("PATCH", f"{PATH}/{name}", b'{"filter": {"data.a": ' + number + b"}}", by="acme-app")
        jitter = await api.call("PATCH", f"{PATH}/{name}", b'{"concurrency": ' + number + b"}", by="acme-app")
    assert [created.status, keyed.status, patched.status, jitter.status] == [422] * 4
    assert [error["pointer"] for error in created.json["errors"]] == ["/filter/data.a"]
    assert "exactly" in patched.json["errors"][0]["message"]


# -- at intake ---------------------------------------------------------------------------------------------------------------


async def test_an_event_goes_where_a_filter_lets_it(tmp_path: Path) -> None:
    """Data, metadata and type are looked at; who has no filter gets all; an edit is for what follows."""
    async with Api(tmp_path) as api:
        large = await made(api, filter={"data.amount": {"$gte": 100}})
        paid = await made(api, filter={"type": {"$suffix": ".paid"}, "metadata.source": "shop"})
        assert await reached(api, {"amount": 100}) == {"primary", large}
        assert await reached(api, {"amount": 99.99}, metadata={"source": "shop"}) == {"primary", paid}
        assert await reached(api, {"amount": 101}, metadata={"source": "shop"}, type="order.due") == {"primary", large}
        await api.call("PATCH", f"{PATH}/{large}", {"filter": {"data.amount": {"$lt": 5}}}, by="acme-app")
        assert await reached(api, {"amount": 4}) == {"primary", large}
        assert await reached(api, {"amount": 100}) == {"primary"}


async def test_a_disabled_endpoint_skips_what_its_filter_lets_through(tmp_path: Path) -> None:
    """`skipped` is what it would have got; what its filter keeps back is `no_match` (Q9)."""
    async with Api(tmp_path) as api:
        name = await made(api, filter={"data.a": 2})
        await api.call("POST", f"{PATH}/{name}/disable")
        wanted, unwanted = [await post(api, {"a": a}, endpoints=[name]) for a in (2, 1)]
    assert (wanted.json["reason"], unwanted.json["reason"]) == ("skipped", "no_match")


async def test_an_event_that_no_filter_lets_through_is_no_match(tmp_path: Path) -> None:
    """The reason, in the answer, in the event and in lists, names the endpoints whose filters keep it back."""
    async with Api(tmp_path) as api:
        name = await made(api, filter={"data.a": 2})
        answer = await post(api, {"a": 1}, endpoints=[name])
        event = await api.get(f"/v1/events/{answer.json['id']}")
        listed = await api.get("/v1/events?reason=no_match")
    assert (answer.status, answer.json["deliveries"], answer.json["reason"]) == (202, 0, "no_match")
    assert answer.json["reason_detail"] == f"no filter lets it through, of those that subscribe to order.paid: {name}"
    assert (event["reason"], event["reason_detail"]) == ("no_match", answer.json["reason_detail"])
    assert [one["id"] for one in listed["data"]] == [answer.json["id"]]


async def test_a_batch_is_filtered_event_by_event(tmp_path: Path) -> None:
    """Each event of a batch goes where it passes."""
    async with Api(tmp_path) as api:
        await made(api, filter={"data.n": {"$gt": 1}})
        events = [{"type": "a.b", "data": {"n": n}} for n in range(4)]
        answer = await api.call("POST", "/v1/events/batch", events, by="acme-producer")
    assert [result["body"]["deliveries"] for result in answer.json["results"]] == [1, 1, 2, 2]


async def test_an_event_with_too_much_to_look_at_goes_out(tmp_path: Path) -> None:
    """What the filters cannot decide within their limit is delivered rather than lost."""
    async with Api(tmp_path) as api:
        name = await made(api, filter={"data.list": 1})
        assert name not in await reached(api, {"list": [0] * 100})
        assert name in await reached(api, {"list": [0] * (LOOKS_MAX + 1)})


async def test_an_endpoint_without_filter_looks_at_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where nobody has a filter, data are not even made ready to be looked at."""
    async with Api(tmp_path) as api:

        def refuse(*_: object) -> None:
            raise AssertionError("somebody looked")

        monkeypatch.setattr("relay.intake.intake.EventFacts", refuse)
        assert await reached(api) == {"primary"}


# -- named endpoints ----------------------------------------------------------------------------------------------------------


async def test_named_endpoints_restrict_and_never_widen(tmp_path: Path) -> None:
    """An event for some endpoints goes to those of them that match; names are shown with the event."""
    async with Api(tmp_path) as api:
        one, other = await made(api), await made(api, event_types=["cut.*"])
        assert await reached(api, endpoints=[one]) == {one}
        assert await reached(api, endpoints=[one, "primary", one]) == {one, "primary"}
        assert await reached(api) == {"primary", one}
        answer = await post(api, endpoints=[other])
        assert answer.json["reason_detail"] == "none of the endpoints that it is aimed at subscribes to order.paid"
        shown = await api.get(f"/v1/events/{answer.json['id']}")
        assert (shown["endpoints"], shown["reason"]) == ([other], "no_match")
        await api.call("POST", f"{PATH}/{one}/disable")
        assert (await post(api, endpoints=[one])).json["reason"] == "skipped"


async def test_unknown_and_foreign_endpoints_are_refused(tmp_path: Path) -> None:
    """Another application's endpoint does not exist; every name that is wrong is named, in a batch item by item."""
    async with Api(tmp_path) as api:
        foreign = (await api.call("POST", PATH, {"url": URL}, by="globex-app")).json["id"]
        answer = await post(api, endpoints=["primary", foreign, "nobody"])
        assert [error["pointer"] for error in answer.json["errors"]] == ["/endpoints/1", "/endpoints/2"]
        messages = {error["message"].replace(foreign, "nobody") for error in answer.json["errors"]}
        assert len(messages) == 1, "nobody learns that it exists"
        batch = [{"type": "a.b", "data": 1, "endpoints": names} for names in (["primary"], [foreign])]
        results = (await api.call("POST", "/v1/events/batch", batch, by="acme-producer")).json["results"]
        assert [result["status"] for result in results] == [202, 422]
        for wrong in ([], ["primary"] * 101, "primary", [5]):
            refused = await post(api, endpoints=wrong)
            assert (refused.status, refused.json["errors"][0]["pointer"]) == (422, "/endpoints"), wrong
        assert await reached(api, endpoints=["primary"] * 100) == {"primary"}


async def test_named_endpoints_are_part_of_what_a_repetition_repeats(tmp_path: Path) -> None:
    """The same key for other endpoints is another event (Q8); order and repetition of names are no difference."""
    async with Api(tmp_path) as api:
        one = await made(api)
        first = await post(api, endpoints=[one, "primary"], idempotency_key="k")
        again = await post(api, endpoints=["primary", one, one], idempotency_key="k")
        fewer = await post(api, endpoints=[one], idempotency_key="k")
        all_of_them = await post(api, idempotency_key="k")
    assert [first.status, again.status, fewer.status, all_of_them.status] == [202, 200, 409, 409]


async def test_named_endpoints_are_kept_with_their_event(tmp_path: Path) -> None:
    """The database knows for whom an event is as long as it has the event, and of others nothing."""
    async with Api(tmp_path) as api:
        one = await made(api)
        await post(api)
        answer = await post(api, endpoints=[one])
        with closing(sqlite3.connect(tmp_path / "relay.db")) as database:
            rows = database.execute(
                "SELECT e.id, n.id FROM aimed a JOIN event e ON e.ordinal = a.event JOIN endpoint n ON n.ref = a.endpoint"
            ).fetchall()
        listed = await api.get("/v1/events")
    assert rows == [(answer.json["id"], one)]
    assert [event["endpoints"] for event in listed["data"]] == [[one], None]


async def test_names_are_pruned_with_their_event(tmp_path: Path) -> None:
    """Nothing stays behind of an event that retention removed (Q14)."""
    async with Api(tmp_path) as api:
        one = await made(api, event_types=["cut.*"])
        await post(api, endpoints=[one])
        retention = api.relay.config.storage.retention
        await api.store.prune(api.clock.wall_ms() + 2 * retention.events_ms, retention, 100)
        with closing(sqlite3.connect(tmp_path / "relay.db")) as database:
            left = [database.execute(f"SELECT count(*) FROM {table}").fetchone()[0] for table in ("event", "aimed")]
    assert left == [0, 0]


def test_the_example_of_the_page_is_a_filter() -> None:
    """What docs/API.md shows can be written."""
    from relay.core import filters

    page = (Path(__file__).parent.parent / "docs" / "API.md").read_text().partition("## Filters")[2]
    example = json.loads(page.partition("```json\n")[2].partition("```")[0])
    assert filters.read(example).text


# -- moving ---------------------------------------------------------------------------------------------------------------------


async def test_a_filter_moves_with_its_endpoint(tmp_path: Path) -> None:
    """An export has it, an import takes it, or names what is wrong with it and with its numbers."""
    written = {"data.a": {"$in": [0.1, None]}, "$not": {"data.b": 5}}
    async with Api(tmp_path) as api:
        name = await made(api, filter=written)
        lines = (await api.get("/v1/export?secrets=true"))["data"]
        (line,) = (line for line in lines if line.get("endpoint", {}).get("id") == name)
        await api.call("DELETE", f"{PATH}/{name}", by="acme-app")
        again = await api.call("POST", "/v1/import", {"lines": [lines[0], line]})
        shown = (await api.get(f"{PATH}/{name}"))["filter"]
        line["endpoint"] |= {"id": "other", "filter": {"data.a": "number"}}
        text = json.dumps({"lines": [lines[0], line]}).replace('"number"', "0.12345678901234567891")
        wrong = await api.call("POST", "/v1/import", text.encode())
    assert line["endpoint"].keys() >= {"filter"}
    assert (again.status, shown) == (200, written), again.text
    assert [error["pointer"] for error in wrong.json["errors"]] == ["/lines/1/endpoint/filter/data.a"]
