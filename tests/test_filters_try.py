"""`POST /v1/filters/try`, and what the command line does with filters and named endpoints."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from relay.cli import main
from relay.cli.output import Exit
from relay.contracts import ContractCatalogue, Payload, Rendering
from relay.core.views import EventView
from relay.registry import data_of
from relay.registry.facts import LOOKS_MAX
from tests.support.api import Answer, Api
from tests.support.api_stub import ApiStub
from tests.support.config import CONTRACTS
from tests.support.five import SERVICES, catalogue

PATH = "/v1/filters/try"
ENDPOINTS = "/v1/webhook-endpoints"
EVENT = {"type": "order.paid", "data": {"amount": 40}, "metadata": {"source": "shop"}}


async def attempt(api: Api, by: str = "acme-app", **members: Any) -> Answer:
    return await api.call("POST", PATH, members, by=by)


async def made(api: Api, **fields: Any) -> str:
    answer = await api.call("POST", ENDPOINTS, {"url": "https://receiver.example/"} | fields, by="acme-app")
    assert answer.status == 201, answer.text
    name: str = answer.json["id"]
    return name


# -- the call -----------------------------------------------------------------------------------------------------------------


async def test_a_filter_is_tried_on_an_event_that_is_given(tmp_path: Path) -> None:
    """The answer says whether it passes, and of each condition that fails where it stands, what it wanted and found."""
    async with Api(tmp_path) as api:
        passes = await attempt(api, filter={"metadata.source": "shop"}, event=EVENT)
        fails = await attempt(api, filter={"data.amount": {"$gte": 100}, "type": "order.paid"}, event=EVENT)
    nothing = {"filter": {"metadata.source": "shop"}, "endpoint": None, "subscribes": None}
    assert passes.json == {"passes": True, "decided": True, "failures": []} | nothing
    assert (fails.json["passes"], fails.json["failures"]) == (
        False,
        [
            {
                "pointer": "/data.amount/$gte",
                "path": "data.amount",
                "operator": "$gte",
                "negated": False,
                "wanted": "100",
                "found": ["40"],
                "message": "data.amount is 40; wanted: $gte 100",
            }
        ],
    )


async def test_an_endpoint_is_tried_on_a_stored_event(tmp_path: Path) -> None:
    """What was kept is looked at as it was posted, to the last digit; whether the endpoint subscribes is said too."""
    async with Api(tmp_path) as api:
        name = await made(api, filter={"data.n": 9007199254740993}, event_types=["cut.*"])
        body = b'{"type": "order.paid", "data": {"n": 9007199254740993.0}, "metadata": {"a": 1}}'
        event = (await api.call("POST", "/v1/events", body, by="acme-producer")).json["id"]
        answer = await attempt(api, endpoint=name, event_id=event)
        without = await attempt(api, endpoint="primary", event_id=event)
        metadata = await attempt(api, filter={"metadata.a": 2}, event_id=event)
    assert answer.json["passes"] is True
    assert (answer.json["endpoint"], answer.json["subscribes"]) == (name, False)
    assert (without.json["passes"], without.json["filter"], without.json["subscribes"]) == (True, None, True)
    assert metadata.json["failures"][0]["found"] == ["1"]


async def test_an_event_that_is_too_much_to_look_at_passes_undecided(tmp_path: Path) -> None:
    """The answer says that nobody knows."""
    async with Api(tmp_path) as api:
        event = EVENT | {"data": [0] * (LOOKS_MAX + 1)}
        answer = await attempt(api, filter={"data": 1}, event=event)
    assert (answer.json["passes"], answer.json["decided"]) == (True, False)


@pytest.mark.parametrize(
    ("members", "pointers"),
    [
        ({}, ["", ""]),
        ({"filter": {"data": 1}, "endpoint": "primary", "event": EVENT}, [""]),
        ({"endpoint": 5, "event": EVENT}, ["/endpoint"]),
        ({"filter": {"data": 1}, "event": []}, ["/event"]),
        ({"filter": {"data": 1}, "event": {"metadata": 5}}, ["/event/type", "/event/data", "/event/metadata"]),
        ({"filter": {"data.a": {"$gt": None}, "x": 1}, "event": {}}, None),
        ({"filter": 5, "event": EVENT, "events": 1}, ["/events", "/filter"]),
        ({"filter": {"data.a": 12345678901234567.5}, "event": EVENT}, []),
        ({"filter": {"data.a": "x" * 70_000}, "event": EVENT}, ["/filter"]),
    ],
)
async def test_mistakes_of_a_try_come_together(tmp_path: Path, members: Any, pointers: list[str] | None) -> None:
    """What is asked, of what, and the filter itself: everything that is wrong is named at once."""
    async with Api(tmp_path) as api:
        answer = await attempt(api, **members)
    if pointers == []:
        assert answer.status == 200
        return
    assert answer.status == 422
    expected = ["/event/type", "/event/data", "/filter/data.a/$gt", "/filter/x"] if pointers is None else pointers
    assert [error["pointer"] for error in answer.json["errors"]] == expected


async def test_who_may_try_what(tmp_path: Path) -> None:
    """Whoever reads events and endpoints; those of another application do not exist, and producers try nothing."""
    async with Api(tmp_path) as api:
        event = (await api.call("POST", "/v1/events", EVENT, by="acme-producer")).json["id"]
        statuses = [
            (await attempt(api, by, **members)).status
            for by in ("auditor", "on-call", "root", "acme-app", "globex-app", "acme-producer")
            for members in ({"endpoint": "primary", "event": EVENT}, {"filter": {"data": 1}, "event_id": event})
        ]
    assert statuses == [200] * 8 + [404, 404, 403, 403]


# -- the data of a stored event -------------------------------------------------------------------------------------------------


def stored(contracts: ContractCatalogue, name: str, event_type: str, data: bytes) -> tuple[EventView, bytes | None]:
    contract = contracts.get(name)
    assert contract is not None
    body = contract.render(Rendering("evt_01M80EZS6F9R3F3JJDSHKGHR8E", event_type, 1_000, 2_000, Payload(data)))
    times = {"created_at_ms": 2_000, "timestamp_ms": 1_000, "deliver_at_ms": None, "expires_at_ms": None}
    said: dict[str, Any] = {"ordering_key": None, "metadata": None, "reason": None, "reason_detail": ""}
    view = EventView(
        id="evt_01M80EZS6F9R3F3JJDSHKGHR8E", type=event_type, application="acme", body=body, **times, **said
    )
    return view, data_of(view, contract)


@pytest.mark.parametrize("service", SERVICES)
def test_the_data_of_every_example_are_found_in_its_body(service: str) -> None:
    """Whatever envelope a contract has, what is found makes the very body that was frozen."""
    for posting in catalogue(service):
        view, found = stored(CONTRACTS, service, posting.type, posting.data)
        assert found is not None, posting.type
        contract = CONTRACTS.get(service)
        assert contract is not None
        assert contract.render(Rendering(view.id, view.type, 1_000, 2_000, Payload(found))) == view.body


def test_data_that_no_body_shows_are_not_made_up() -> None:
    """A body that no data make is told from one that some do."""
    contract = CONTRACTS.get("standard")
    assert contract is not None
    view, _ = stored(CONTRACTS, "standard", "a.b", b'{"n":1}')
    assert data_of(view, contract) == b'{"n":1}'
    for body in (b"not JSON", b"[1]", b'{"type":"a.b"}', None):
        assert data_of(EventView(**{name: getattr(view, name) for name in FIELDS} | {"body": body}), contract) is None


FIELDS = [name for name in EventView.__dataclass_fields__ if name != "body"]


# -- the command line -------------------------------------------------------------------------------------------------------------


@pytest.fixture
def stub(monkeypatch: pytest.MonkeyPatch) -> Iterator[ApiStub]:
    stub = ApiStub()
    monkeypatch.setenv("RELAY_URL", stub.url)
    monkeypatch.delenv("RELAY_SOCKET", raising=False)
    yield stub
    stub.close()


def run(*words: str, stdin: str | None = None) -> Result:
    return CliRunner().invoke(main, list(words), input=stdin, catch_exceptions=False)


TRIED: dict[str, Any] = {
    "passes": False,
    "decided": True,
    "failures": [{"message": "data.amount is 40; wanted: $gte 100"}],
    "filter": {"data.amount": {"$gte": 100}},
    "endpoint": None,
    "subscribes": None,
}


def test_a_try_says_why_and_exits_1(stub: ApiStub, tmp_path: Path) -> None:
    """Filter and event come as text, from files, from standard input, or by id; their numbers keep their spelling."""
    stub.answer("POST", PATH, TRIED)
    file = tmp_path / "event.json"
    file.write_text('{"type": "a.b", "data": {"n": 1.000000000000000000001}}')
    result = run("filter", "try", "--filter", '{"data.n": 1e2}', f"@{file}")
    assert (result.exit_code, result.stdout) == (1, "does not pass\n  data.amount is 40; wanted: $gte 100\n")
    assert b'"data": {"n": 1.000000000000000000001}' in stub.asked[0].body
    assert b'{"data.n": 1e2}' in stub.asked[0].body

    stub.answer("POST", PATH, TRIED | {"passes": True, "failures": [], "endpoint": "primary", "subscribes": True})
    run("filter", "try", "--endpoint", "primary", "-", stdin='{"type": "a.b", "data": 1}')
    result = run("filter", "try", "--endpoint", "primary", "--event-id", "evt_1", "--json")
    assert stub.asked[1].json == {"endpoint": "primary", "event": {"type": "a.b", "data": 1}}
    assert stub.asked[2].json == {"endpoint": "primary", "event_id": "evt_1"}
    assert result.exit_code == 0
    assert '"passes"' in result.stdout


def test_a_try_says_what_else_is_odd(stub: ApiStub) -> None:
    """An endpoint without filter, one that does not subscribe (which exits 1), and what was too much to look at."""
    odd = {"passes": True, "decided": False, "failures": [], "filter": None, "endpoint": "primary", "subscribes": False}
    stub.answer("POST", PATH, TRIED | odd)
    result = run("filter", "try", "--endpoint", "primary", "--event-id", "evt_1")
    assert result.exit_code == 1
    for words in ("passes undecided", "primary has no filter", "does not subscribe"):
        assert words in result.stdout


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (["{}"], Exit.USAGE),
        (["--filter", "{}"], Exit.USAGE),
        (["--filter", "{}", "--endpoint", "a", "{}"], Exit.USAGE),
        (["--filter", "{}", "{}", "--event-id", "e"], Exit.USAGE),
        (["--filter", "-", "-"], Exit.USAGE),
        (["--filter", "{", "{}"], Exit.BAD_INPUT),
        (["--filter", "{}", "@/nowhere/at/all"], Exit.BAD_INPUT),
    ],
)
def test_what_a_try_needs(stub: ApiStub, words: list[str], code: Exit) -> None:
    """A filter and an event, each in one way, and JSON; nothing is asked of the daemon otherwise."""
    result = run("filter", "try", *words)
    assert result.exit_code == code, result.output
    assert not stub.asked


def test_endpoints_are_added_and_changed_with_a_filter(stub: ApiStub, tmp_path: Path) -> None:
    """`--filter` takes JSON, a file or standard input; `--reset filter` removes it."""
    stub.answer("POST", ENDPOINTS, {"id": "ep_1", "secret": None}, 201)
    stub.answer(
        "PATCH",
        f"{ENDPOINTS}/ep_1",
        {"id": "ep_1", "state": "enabled", "disabled_by": None, "refusing": None, "unverified": None},
    )
    file = tmp_path / "filter.json"
    file.write_text('{"data.b": 2}')
    run("endpoint", "add", "https://example.com/", "--filter", '{"data.a": 1}')
    run("endpoint", "update", "ep_1", "--filter", f"@{file}")
    run("endpoint", "update", "ep_1", "--filter", "-", stdin='{"data.c": null}')
    run("endpoint", "update", "ep_1", "--reset", "filter")
    assert [asked.json.get("filter", "none") for asked in stub.asked] == [
        {"data.a": 1},
        {"data.b": 2},
        {"data.c": None},
        None,
    ]
    assert run("endpoint", "add", "https://example.com/", "--filter", "{").exit_code == Exit.BAD_INPUT


def test_an_event_is_sent_to_named_endpoints(stub: ApiStub) -> None:
    """`relay send --endpoint` names them; without it nothing is said of endpoints."""
    accepted = {"id": "evt_1", "type": "a.b", "deliveries": 1, "duplicate": False}
    stub.answer("POST", "/v1/events", accepted, 202)
    run("send", "a.b", "1", "--endpoint", "one", "--endpoint", "two")
    run("send", "a.b", "1")
    assert stub.asked[0].json == {"type": "a.b", "endpoints": ["one", "two"], "data": 1}
    assert stub.asked[1].json == {"type": "a.b", "data": 1}
