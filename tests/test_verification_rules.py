"""Verification as it is written down: who may ask for what, contracts that ask, older databases, and moving."""

import asyncio
import sqlite3
from pathlib import Path
from typing import Any

import pytest

from relay.config.fields import _check_origin
from relay.config.secrets import Wrong
from relay.contracts import ContractCatalogue, ContractError
from relay.contracts.verification import Verification
from relay.core.model import Failure
from relay.core.units import Rate
from relay.core.verification import Method, Proof, asked_per_minute, read_allowed_rate, slower
from relay.dispatch.verifier import AT_ONCE, OF_ONE_APPLICATION
from tests.support.api import CONFIG, Api
from tests.support.contract_files import contract
from tests.support.waiting import until

PATH = "/v1/webhook-endpoints"
URL = "https://receiver.example/hooks"


def configured(contract: str = "standard", **delivery: Any) -> dict[str, Any]:
    owners = [{"id": "acme", "contract": contract}, {"id": "globex"}]
    return {"delivery": CONFIG["delivery"] | delivery, "application": owners}


async def made(api: Api, by: str = "acme-app", **fields: Any) -> dict[str, Any]:
    answer = await api.call("POST", PATH, {"url": URL} | fields, by=by)
    assert answer.status == 201, answer.text
    endpoint = answer.json
    assert isinstance(endpoint, dict)
    return endpoint


def is_verified(api: Api, name: str) -> bool:
    return not api.registry.endpoint(name).unverified


# -- who may ask for what ----------------------------------------------------------------------------------------------


async def test_an_application_asks_for_more_and_not_for_less(tmp_path: Path) -> None:
    """A tenant may have its receiver asked; what the contract asks for it cannot turn off, while the operator can."""
    async with Api(tmp_path, configured("slack")) as api:
        refused = await api.call("POST", PATH, {"url": URL, "verification": "none"}, by="acme-app")
        other = await api.call("POST", PATH, {"url": URL, "verification": "ping"}, by="acme-app")
        same = await made(api, verification="challenge")
        brought = await made(api, "root", application="acme", verification="none")
        renamed = await api.call("PATCH", f"{PATH}/{brought['id']}", {"description": "x"}, by="acme-app")
        more = await made(api, "globex-app", verification="ping")
    for answer in (refused, other):
        assert (answer.status, [one["pointer"] for one in answer.json["errors"]]) == (422, ["/verification"])
    assert (same["verification"], brought["verification"], more["verification"]) == ("challenge", "none", "ping")
    assert renamed.status == 200, renamed.text


async def test_options_need_a_name(tmp_path: Path) -> None:
    """Without `delivery.origin` nobody can be asked by OPTIONS; an operator hears which setting it is, a tenant does not."""
    async with Api(tmp_path, configured()) as api:
        told = await api.call("POST", PATH, {"url": URL, "verification": "options"}, by="acme-app")
        operator = await api.call("POST", PATH, {"url": URL, "verification": "options", "application": "acme"})
        await api.apply(configured(origin="events.example.com"))
        api.relay.config = api.registry.config
        doubled = {"url": URL, "verification": "options", "headers": {"webhook-request-origin": "x.example"}}
        header = await api.call("POST", PATH, doubled | {"application": "acme"})
        endpoint = await made(api, verification="options")
        await api.apply(configured())
        asked = await api.call("POST", f"{PATH}/{endpoint['id']}/verify", by="acme-app")
    assert (told.status, b"delivery.origin" in told.text) == (422, False)
    assert (operator.status, b"delivery.origin" in operator.text) == (422, True)
    assert header.status == 422
    assert [one["pointer"] for one in header.json["errors"]][-1].startswith("/headers/webhook-request-origin")
    assert (asked.status, asked.json["type"]) == (409, "no_origin")


@pytest.mark.parametrize("origin", ["-x.example", "a..b", "events.example.com.", "https://x.example", "a b", "x" * 254])
def test_an_origin_is_a_host_name(origin: str) -> None:
    """What cannot stand for a host in a header is refused with what to write."""
    with pytest.raises(Wrong, match="host name"):
        _check_origin(origin)


async def test_a_tenant_hears_nothing_of_our_network(tmp_path: Path) -> None:
    """What lies behind a name is `unreachable` in the endpoint, in the answer and in its note; an operator reads the truth."""
    async with Api(tmp_path, configured()) as api:
        api.courier.script = [Failure.BLOCKED_NAME] * 5
        endpoint = await made(api, verification="ping")
        ref = api.registry.endpoint(endpoint["id"]).ref
        await until(lambda: api.relay.verifier.trial(ref) is not None)
        tenant = await api.get(f"{PATH}/{endpoint['id']}", by="acme-app")
        operator = await api.get(f"{PATH}/{endpoint['id']}", by="on-call")
        paused = await api.call("POST", f"{PATH}/{endpoint['id']}/probe", by="acme-app")
    assert tenant["unverified"]["failure"] == "unreachable"
    assert operator["unverified"]["failure"] == "blocked_name"
    assert "no receiver can be reached" in tenant["unverified"]["detail"]
    assert "no receiver can be reached" in paused.json["note"]


# -- many --------------------------------------------------------------------------------------------------------------


async def test_silent_receivers_of_one_application_hold_up_no_other(tmp_path: Path) -> None:
    """One application has at most 8 receivers asked at once, so that of another is asked while they are silent."""
    async with Api(tmp_path, configured()) as api:
        silent: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        api.courier.script = [silent for _ in range(OF_ONE_APPLICATION)]
        names = [(await made(api, verification="ping"))["id"] for _ in range(OF_ONE_APPLICATION + 3)]
        other = await made(api, "globex-app", verification="ping")
        await until(lambda: is_verified(api, other["id"]))
        assert not any(is_verified(api, name) for name in names)
        assert OF_ONE_APPLICATION < AT_ONCE
        silent.set_result(204)
        await until(lambda: all(is_verified(api, name) for name in names))
    assert len(api.courier.requests) == len(names) + 1


async def test_tests_and_questions_share_their_limit(tmp_path: Path) -> None:
    """`…/verify` makes requests on demand, so it counts among the tests of an application: 429 beyond them."""
    config = configured() | {"limits": {"tests": {"per_minute": 1}}}
    async with Api(tmp_path, config) as api:
        endpoint = await made(api, verification="ping")
        await until(lambda: is_verified(api, endpoint["id"]))
        first, second = [await api.call("POST", f"{PATH}/{endpoint['id']}/verify", by="acme-app") for _ in range(2)]
    assert (first.status, second.status) == (200, 429)


# -- contracts ---------------------------------------------------------------------------------------------------------


def test_a_contract_says_what_is_sent_and_what_is_an_answer() -> None:
    """Members of challenge and ping, the member of the answer and its forms are data."""
    asks = contract(
        """
        [verification]
        method = "challenge"
        challenge = { kind = "hello", inner = { word = "{challenge}", n = 1 } }
        ping = '{"kind": "hello", "list": [null, 1.50]}'
        answer = "word"
        answer_forms = ["json"]
        """
    ).verification
    sent = asks.body(Method.CHALLENGE, "abc")
    assert sent == b'{"kind":"hello","inner":{"word":"abc","n":1}}'
    assert asks.body(Method.PING, "") == b'{"kind":"hello","list":[null,1.50]}'
    assert asks.is_repeated("abc", sent, b'{"word":"abc"}')
    assert not asks.is_repeated("abc", sent, b"abc")
    assert not asks.is_repeated("abc", sent, b'{"challenge":"abc"}')
    assert asks.challenge_in(sent) == "abc"
    assert asks.is_ping(b'{"list": [null, 1.5], "kind": "hello"}')


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ('method = "echo"', "method"),
        ('challenge = { word = "same" }', "nothing could be repeated"),
        ('challenge = { word = "x{challenge}" }', "nothing could be repeated"),
        ('challenge = { a = "{challenge}", b = "{challenge}" }', "nothing could be repeated"),
        ('challenge = { a = "{id}" }', "unknown variable"),
        ('ping = { a = "{challenge}" }', "unknown variable"),
        ("answer_forms = []", "answer_forms"),
        ('answer = ""', "answer"),
        ("colour = 1", "colour"),
    ],
)
def test_mistakes_of_a_contract_are_told(wrong: str, said: str, tmp_path: Path) -> None:
    """A challenge that cannot be repeated, an unknown word or variable is refused with its place."""
    folder = tmp_path / "contracts"
    folder.mkdir()
    text = f'description = "own"\n[body]\nmembers = [{{ name = "a", value = "{{data}}" }}]\n[verification]\n{wrong}\n'
    (folder / "own.toml").write_text(text)
    with pytest.raises(ContractError, match=said):
        ContractCatalogue.load(folder)


def test_what_comes_is_no_challenge_by_accident() -> None:
    """An event, other members, another type or no JSON is none: a listener answers it as a delivery."""
    asks = Verification()
    for body in (
        b'{"type":"url_verification"}',
        b'{"type":"x","challenge":"c"}',
        b"[]",
        b"{",
        b'{"type":"url_verification","challenge":1}',
    ):
        assert asks.challenge_in(body) is None
        assert not asks.is_ping(body)


# -- rates -------------------------------------------------------------------------------------------------------------


def test_rates_are_requests_a_minute() -> None:
    """What is asked for is at least one, what is allowed at least one or any, and the lower of two limits holds."""
    assert [asked_per_minute(rate) for rate in (None, Rate(2, 1_000), Rate(1, 3_600_000))] == [None, 120, 1]
    assert [read_allowed_rate(text) for text in ("*", " 7 ", "007", "9" * 30)] == [None, 7, 7, None]
    for text in ("0", "-1", "1.5", "", "²"):
        with pytest.raises(ValueError, match="is no rate"):
            read_allowed_rate(text)
    assert slower(Rate(2, 1_000), Rate(100, 60_000)) == Rate(100, 60_000)
    assert slower(Rate(1, 3_600_000), Rate(100, 60_000)) == Rate(1, 3_600_000)
    assert slower(None, Rate(1, 60_000)) == Rate(1, 60_000)


# -- what is kept ------------------------------------------------------------------------------------------------------


async def test_a_proof_is_about_one_way_of_asking(tmp_path: Path) -> None:
    """Another `verification` asks anew; back at the former one, and none at all, the proof still serves."""
    async with Api(tmp_path, configured()) as api:
        name = (await made(api, verification="ping"))["id"]
        await until(lambda: is_verified(api, name))
        await api.call("PATCH", f"{PATH}/{name}", {"verification": "challenge"}, by="acme-app")
        assert not is_verified(api, name)
        for verification in ("none", "ping"):
            await api.call("PATCH", f"{PATH}/{name}", {"verification": verification}, by="acme-app")
            assert is_verified(api, name)


async def test_endpoints_of_an_older_database_that_took_events_are_not_asked(tmp_path: Path) -> None:
    """The step to this schema takes endpoints that ever answered 2xx for verified, and no others."""
    async with Api(tmp_path, configured()) as api:
        answered = (await made(api))["id"]
        event = await api.post_event()
        await api.delivery_of(event, "delivered")
        never = (await made(api, url="https://other.example/", event_types=["never"]))["id"]
    steps = Path(__file__).parent.parent / "relay" / "store" / "sqlite" / "schema"
    with sqlite3.connect(tmp_path / "relay.db") as database:
        (step,) = steps.glob("*_proof.sql")
        database.execute("ALTER TABLE endpoint DROP COLUMN proof")
        database.executescript(step.read_text())
    database.close()
    async with Api(tmp_path, configured()) as api:
        rows = {name: api.registry.entries[api.registry.endpoint(name).ref].row for name in (answered, never)}
        assert rows[answered].proof is not None
        assert rows[answered].proof.serves(Method.CHALLENGE)
        assert rows[never].proof is None


async def test_verified_endpoints_move_as_such(tmp_path: Path) -> None:
    """An export says who is verified, and an import takes it; an origin that was allowed to this relay is not moved."""
    config = configured(origin="events.example.com")
    async with Api(tmp_path / "old", config) as old:
        asked = await made(old, verification="ping")
        allowed = await made(old, verification="options", url="https://other.example/")
        unasked = await made(old)
        await until(lambda: is_verified(old, asked["id"]))
        await old.registrar.verified(
            old.registry.endpoint(allowed["id"]), Proof(1, Method.OPTIONS, "events.example.com", 10)
        )
        lines = (await old.get("/v1/export"))["data"]
    found = {line["endpoint"]["id"]: line["endpoint"] for line in lines if "endpoint" in line}
    assert [found[each["id"]].get("verified") for each in (asked, allowed, unasked)] == [True, None, None]
    async with Api(tmp_path / "new", {"delivery": CONFIG["delivery"]}) as new:
        new.courier.script = [500] * 10
        owners = [line for line in lines if "endpoint" not in line]
        moved = [
            {"endpoint": found[asked["id"]]},
            {"endpoint": found[asked["id"]] | {"id": "again", "verified": False}},
        ]
        answer = await new.call("POST", "/v1/import", {"lines": [*owners, *moved]})
        assert answer.status == 200, answer.text
        assert is_verified(new, asked["id"])
        assert not is_verified(new, "again")
        shown = await new.get(f"{PATH}/{asked['id']}")
    assert (shown["verified"]["method"], shown["verification"]) == ("none", "ping")
