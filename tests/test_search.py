"""Searching events and deliveries: by ids, keys, the last answer, and values of the data that a contract declares."""

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from relay.cli import main
from relay.contracts import Payload, search_digest
from relay.contracts.facts import SEARCHABLE_MAX, Searchable
from relay.core.model import Failure, Outcome
from tests.support.api import Api
from tests.support.api_stub import ApiStub
from tests.support.contract_files import own
from tests.support.stack import Stack
from tests.test_contracts3_format import problems

VIDEOS = 'description = "Videos"\nextends = "standard"\nsearchable = ["video_id", "render.id"]\n[ordering]\nmode = "first-attempt"\n'


class Videos(Stack):
    """A relay whose application has a contract that declares where videos and renders are named."""

    def __init__(self, folder: Path, contract: str = VIDEOS, **config: Any) -> None:
        (folder / "contracts").mkdir()
        (folder / "contracts" / "videos.toml").write_text(contract)
        super().__init__(folder, contract="videos", endpoints={"primary": "http://127.0.0.1:9/"}, **config)

    async def found(self, path: str) -> list[str]:
        """The ids of events on one page of a list."""
        status, answer = await self.call("GET", path)
        assert status == 200, answer
        return [one.get("event_id", one["id"]) for one in answer["data"]]


def rows(folder: Path, table: str) -> int:
    with closing(sqlite3.connect(folder / "relay.db")) as database:
        (count,) = database.execute(f"SELECT count(*) FROM {table}").fetchone()
    assert isinstance(count, int)
    return count


async def test_events_are_found_by_values_of_their_data(tmp_path: Path) -> None:
    """Issue 10, Search: by each place that the contract declares; a number and its text are the same value."""
    async with Videos(tmp_path) as stack:
        ids = [
            (await stack.post(data=data))["id"]
            for data in (
                {"video_id": "v1", "render": {"id": 17}},
                {"video_id": "v1"},
                {"video_id": "v2", "render": [17]},
            )
        ]
        found = [
            await stack.found(f"/v1/{what}?data={query}")
            for what in ("events", "deliveries")
            for query in ("video_id=v1", "render.id=17", "video_id=v3", "video_id=v2&type=render.completed")
        ]
    assert found == 2 * [[ids[1], ids[0]], [ids[0]], [], [ids[2]]]


async def test_pages_of_what_is_found_follow_each_other(tmp_path: Path) -> None:
    """Each event once, the newest first, whichever index leads; times narrow it."""
    async with Videos(tmp_path) as stack:
        ids = [(await stack.post(data={"video_id": "v1"}, ordering_key="o"))["id"] for _ in range(7)]
        for query in ("data=video_id=v1", "ordering_key=o", "ordering_key=o&data=video_id=v1&since=1h"):
            for what in ("events", "deliveries"):
                found, cursor = [], ""
                while True:
                    _, page = await stack.call("GET", f"/v1/{what}?{query}&limit=3{cursor}")
                    found += [one.get("event_id", one["id"]) for one in page["data"]]
                    if page["next"] is None:
                        break
                    cursor = f"&cursor={page['next']}"
                assert found == ids[::-1], query
        assert await stack.found("/v1/events?data=video_id=v1&until=1h") == []


async def test_events_are_found_by_id_and_keys(tmp_path: Path) -> None:
    """The id, the idempotency key that the producer gave, the ordering key, and the endpoint that was owed it."""
    async with Videos(tmp_path) as stack:
        first = (await stack.post(idempotency_key="k1", ordering_key="o1"))["id"]
        second = (await stack.post(idempotency_key="k2", ordering_key="o2"))["id"]
        for what, name in (("events", "id"), ("deliveries", "event")):
            assert await stack.found(f"/v1/{what}?{name}={first}") == [first]
            assert await stack.found(f"/v1/{what}?idempotency_key=k2") == [second]
            assert await stack.found(f"/v1/{what}?ordering_key=o1") == [first]
            assert await stack.found(f"/v1/{what}?ordering_key=o1&idempotency_key=k2") == []
            assert await stack.found(f"/v1/{what}?{name}={first}&type=a.b") == []
            assert await stack.found(f"/v1/{what}?endpoint=primary&ordering_key=o1") == [first]
            assert await stack.found(f"/v1/{what}?endpoint=other") == []


async def test_deliveries_are_found_by_their_last_answer(tmp_path: Path) -> None:
    """A status, its class, or that nothing answered; what was not attempted has none of them."""
    async with Api(tmp_path) as api:
        answers: list[Any] = [
            Outcome(started_at_ms=0, duration_ms=1, status=503),
            Outcome(started_at_ms=0, duration_ms=1, status=404),
            Outcome(started_at_ms=0, duration_ms=1, failure=Failure.TIMEOUT),
        ]
        events = []
        for answer in answers:
            api.courier.script = [answer]
            events.append(await api.post_event())
            await api.delivery_of(events[-1], "due", attempts=1)
        await api.registrar.pause("primary")
        await api.post_event()
        found = {
            status: [one["event_id"] for one in (await api.get(f"/v1/deliveries?status={status}"))["data"]]
            for status in ("503", "5xx", "4xx", "2xx", "none", "500")
        }
        wrong = await api.call("GET", "/v1/deliveries?status=9xx")
    assert found == {"503": events[:1], "5xx": events[:1], "4xx": events[1:2], "2xx": [], "none": events[2:], "500": []}
    assert (wrong.status, "none for no answer" in wrong.text.decode()) == (422, True)


async def test_tenants_search_among_their_own(tmp_path: Path) -> None:
    """What is found of others does not exist, nor do the places that their contracts declare."""
    config = {"application": [{"id": "acme"}, {"id": "globex", "contract": "editframe"}]}
    async with Api(tmp_path, config) as api:
        mine = await api.post_event(ordering_key="o")
        kept = [(await api.get("/v1/events?ordering_key=o", by=by))["data"] for by in ("acme-app", "globex-app")]
        statuses = [
            (await api.call("GET", "/v1/events?data=id=1", by=by)).status for by in ("root", "globex-app", "acme-app")
        ]
        told = await api.call("GET", "/v1/events?data=id=1", by="acme-app")
        mistakes = await api.call("GET", "/v1/events?data=id")
        hidden = await api.call("GET", "/v1/events?endpoint=primary", by="acme-producer")
    assert [[one["id"] for one in page] for page in kept] == [[mine], []]
    assert statuses == [200, 200, 422]
    assert b"none declares any (`searchable`)" in told.text
    assert b"render.id=17" in mistakes.text
    assert hidden.status == 422


async def test_values_go_with_their_event_and_cost_nothing_where_none_is_declared(tmp_path: Path) -> None:
    """Q14: retention leaves none behind; an event of a contract that declares none has none."""
    (tmp_path / "a").mkdir()
    async with Videos(tmp_path / "a") as stack:
        await stack.post(data={"video_id": "v1", "render": {"id": 17}})
        await stack.post(data={"video": "v1"})
        before = rows(tmp_path / "a", "search_value")
        assert (await stack.call("DELETE", "/v1/webhook-endpoints/primary"))[0] in (204, 409)
        retention = stack.relay.config.storage.retention
        for one in (await stack.call("GET", "/v1/deliveries"))[1]["data"]:
            await stack.call("POST", f"/v1/deliveries/{one['id']}/cancel")
        now_ms = stack.clock.wall_ms() + 2 * retention.events_ms
        await stack.relay.store.prune(now_ms, retention, 100)
        after = rows(tmp_path / "a", "search_value"), rows(tmp_path / "a", "event")
    (tmp_path / "b").mkdir()
    async with Videos(tmp_path / "b", 'description = "None"\nextends = "standard"\n') as stack:
        await stack.post(data={"video_id": "v1"})
    assert (before, after, rows(tmp_path / "b", "search_value")) == (2, (0, 0), 0)


def test_what_is_kept_of_a_value() -> None:
    """Text, numbers, true and false, by their place; null, objects, lists and what is not there leave nothing."""
    places = Searchable(["a", "b.c", "d"])
    assert places.digests(Payload(b'{"a":"x","b":{"c":1.50},"d":true}')) == (
        search_digest("a", "x"),
        search_digest("b.c", "1.50"),
        search_digest("d", "true"),
    )
    assert places.digests(Payload(b'{"a":null,"b":[1],"d":{}}')) == places.digests(Payload(b"[]")) == ()
    assert places.digests(Payload(b'{"a":"\\ud83d"}')) != ()
    assert search_digest("a", "x") != search_digest("b", "x")


def test_a_contract_declares_places(tmp_path: Path) -> None:
    """A place stands once, is names joined by dots, one that some type's data may have, and there are few of them."""
    made = own(tmp_path, VIDEOS)
    assert made.searchable is not None
    assert made.searchable.places == ("video_id", "render.id")
    many = ", ".join(f'"p{number}"' for number in range(SEARCHABLE_MAX + 1))
    told = problems(
        tmp_path,
        twice='description = "a"\nextends = "standard"\nsearchable = ["a", "a"]\n',
        wrong='description = "a"\nextends = "standard"\nsearchable = ["a..b"]\n',
        many=f'description = "a"\nextends = "standard"\nsearchable = [{many}]\n',
        absent='description = "a"\nextends = "editframe"\nsearchable = ["render.id"]\n',
    )
    assert {line.split(":")[0] for line in told} == {"twice.toml", "wrong.toml", "many.toml", "absent.toml"}
    for words in ("'a' stands here twice", "no event type has render.id in its data"):
        assert any(words in line for line in told), told


FOUND = {
    "id": "dlv_1",
    "state": "due",
    "reason": None,
    "held": False,
    "event_type": "a.b",
    "endpoint": "primary",
    "attempts": 1,
    "created_at": None,
    "due_at": None,
}


# -- the command line -------------------------------------------------------------------------------------------------------------


@pytest.fixture
def stub(monkeypatch: pytest.MonkeyPatch) -> Iterator[ApiStub]:
    stub = ApiStub()
    monkeypatch.setenv("RELAY_URL", stub.url)
    monkeypatch.delenv("RELAY_SOCKET", raising=False)
    yield stub
    stub.close()


def test_the_command_line_goes_on_behind_empty_pages(stub: ApiStub) -> None:
    """What is rare is found by one command, however many pages are empty before it."""
    stub.answer("GET", "/v1/deliveries?status=503&limit=50", {"data": [], "next": "a"})
    stub.answer("GET", "/v1/deliveries?status=503&limit=50&cursor=a", {"data": [], "next": "b"})
    stub.answer("GET", "/v1/deliveries?status=503&limit=50&cursor=b", {"data": [FOUND], "next": "c"})
    result = CliRunner().invoke(main, ["deliveries", "list", "--status", "503"], catch_exceptions=False)
    assert (result.exit_code, "dlv_1" in result.stdout, "--cursor c" in result.stderr) == (0, True, True)


def test_the_command_line_has_the_filters_of_the_api(stub: ApiStub) -> None:
    """Each parameter of the lists is an option of the same name."""
    common = ["--ordering-key", "o", "--idempotency-key", "k", "--data", "render.id=17", "--endpoint", "e"]
    query = "ordering_key=o&idempotency_key=k&data=render.id%3D17&endpoint=e&limit=50"
    stub.answer("GET", f"/v1/events?{query}&id=evt_1", {"data": [], "next": None})
    stub.answer("GET", f"/v1/deliveries?{query}&event=evt_1&status=5xx", {"data": [], "next": None})
    for words in (["events", "list", "--id", "evt_1"], ["deliveries", "list", "--event", "evt_1", "--status", "5xx"]):
        result = CliRunner().invoke(main, [*words, *common], catch_exceptions=False)
        assert (result.exit_code, result.stdout) == (0, "none\n"), result.output
