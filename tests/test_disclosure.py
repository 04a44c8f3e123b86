"""What tenants hear of what lies behind a name, and what those who look after a relay see of receivers' answers."""

import asyncio
import base64
import json
from ipaddress import ip_address
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from relay.api.disclosure import STEP_MS, UNREACHABLE, UNREACHABLE_DETAIL, next_step_ms
from relay.core.model import Failure, HeaderPair, Outcome, Trace
from tests.support.api import CONFIG, Api
from tests.support.waiting import until

ENDPOINT = "/v1/webhook-endpoints/primary"

BEHIND = {
    "a private address": (Failure.BLOCKED_NAME, "it is not a public address (private)"),
    "an address of this host": (Failure.BLOCKED_NAME, "it is an address of this host"),
    "the relay itself": (Failure.BLOCKED_NAME, "this relay listens there"),
    "a port of another service": (Failure.BLOCKED_NAME, "the port belongs to another service"),
    "a literal": (Failure.BLOCKED_ADDRESS, "the URL's address is not public"),
    "no such name": (Failure.DNS, "the name does not resolve: Name or service not known"),
    "silent name servers": (Failure.DNS, "the name servers did not answer in time"),
}


def failed(failure: Failure, detail: str, duration_ms: float) -> Outcome:
    return Outcome(0, duration_ms, failure=failure, detail=detail, trace=Trace(dns_ms=duration_ms))


def said(attempt: dict[str, Any]) -> dict[str, Any]:
    """What an attempt says but for when it was."""
    return {name: value for name, value in attempt.items() if name not in ("id", "started_at", "event_id")}


async def ask_for_test(api: Api, by: str) -> Any:
    """Test an endpoint; time passes in the steps that the relay waits for, and nothing is answered before."""
    call = asyncio.create_task(api.call("POST", f"{ENDPOINT}/test", {}, by=by))
    if by == "acme-app":
        made = len(api.courier.requests)
        await until(lambda: len(api.courier.requests) > made)
        await api.quiet()
        assert not call.done()
        api.clock.advance(STEP_MS - 1)
        await api.quiet()
        assert not call.done()
        api.clock.advance(1)
    return (await call).json


async def test_a_tenant_hears_one_thing_of_a_test(tmp_path: Path) -> None:
    """I15: a test answers the same, after the same time, whatever lies behind the name; the admin reads the truth."""
    async with Api(tmp_path) as api:
        answers = []
        for number, (failure, detail) in enumerate(BEHIND.values()):
            api.courier.script += [failed(failure, detail, number * 100 + 3)] * 2
            answers.append(said(await ask_for_test(api, "acme-app")))
            truth = await ask_for_test(api, "root")
            assert (truth["failure"], truth["detail"]) == (failure, detail)
            assert truth["trace"]["dns_ms"] == number * 100 + 3
    assert all(answer == answers[0] for answer in answers)
    assert (answers[0]["failure"], answers[0]["detail"]) == (UNREACHABLE, UNREACHABLE_DETAIL)
    assert (answers[0]["duration_ms"], answers[0]["address"], answers[0]["trace"]) == (STEP_MS, None, None)


@pytest.mark.parametrize("by", ["acme-app", "auditor", "root"])
async def test_a_timeline_tells_a_tenant_as_little(by: str, tmp_path: Path) -> None:
    """I15: timelines, health and the time of the next attempt are the same for a name that is blocked and one that is not there."""
    seen = {}
    for number, (failure, detail) in enumerate((BEHIND["a private address"], BEHIND["no such name"])):
        async with Api(tmp_path / str(number)) as api:
            api.courier.script += [failed(failure, detail, 5 + number)]
            event = await api.post_event()
            delivery = await api.delivery_of(event, attempts=1)
            shown = await api.get(f"/v1/deliveries/{delivery['id']}", by=by)
            endpoint = await api.get(ENDPOINT, by=by)
            listed = await api.get("/v1/webhook-endpoints", by=by)
            seen[number] = [
                list(map(said, shown["timeline"])),
                shown["next_attempt"],
                shown["state"],
                endpoint["health"],
                endpoint["waits_for"],
                [one["health"] for one in listed["data"]],
            ]
    assert (seen[0] == seen[1]) is (by == "acme-app")
    if by == "acme-app":
        assert UNREACHABLE in str(seen[0])
        assert not any(word in str(seen) for word in ("dns", "blocked", "private"))


async def test_a_tenant_hears_one_thing_of_a_token_server(tmp_path: Path) -> None:
    """Issue 9: what lies behind the name of a token server is told to tenants in one way, after the same time; to an admin in full."""
    async with Api(tmp_path) as api:
        answers = []
        for number, detail in enumerate(("the name does not resolve", "it is not a public address (private)")):
            api.courier.script += [failed(Failure.TOKEN_UNREACHABLE, detail, number * 100 + 3)] * 2
            answers.append(said(await ask_for_test(api, "acme-app")))
            assert (await ask_for_test(api, "root"))["detail"] == detail
    assert answers[0] == answers[1]
    assert answers[0]["failure"] == "token_unreachable"
    assert "auth.token_url" in answers[0]["detail"]


async def test_other_failures_are_told_to_everybody(tmp_path: Path) -> None:
    """I15: what a tenant's own receiver does, refusing connections too, is its owner's to know, at once."""
    async with Api(tmp_path) as api:
        for failure in set(Failure) - {failure for failure, _ in BEHIND.values()} - {Failure.TOKEN_UNREACHABLE}:
            api.courier.script += [failed(failure, "a sentence", 3)]
            answer = (await api.call("POST", f"{ENDPOINT}/test", {}, by="acme-app")).json
            assert (answer["failure"], answer["detail"], answer["duration_ms"]) == (failure, "a sentence", 3)


NAMES = {what: reply for what, reply in BEHIND.items() if reply[0] is not Failure.BLOCKED_ADDRESS}
"""What may lie behind a name; a literal address is no secret to whoever wrote it."""

DOORS = (
    "/v1/webhook-endpoints", "/v1/events", "/v1/deliveries", "/v1/deliveries?state=dead", "/v1/deliveries?reason=blocked",
    "/v1/dead-letters", "/v1/event-types",
)  # fmt: skip


async def told_through_every_door(folder: Path, reply: tuple[Failure, str], by: str) -> list[tuple[int, Any]]:
    """Make an endpoint at a name, and do everything that an application may with it until its events are dead letters.

    Nothing differs between two walks but what lies behind the name: time stands still and chance is the same.
    """
    answers = []
    async with Api(folder, CONFIG | {"application": [{"id": "acme"}, {"id": "globex"}]}) as api:
        api.courier.script += [failed(*reply, 3)] * 40

        async def ask(method: str, path: str, body: Any = None) -> Any:
            answer = await api.call(method, path, body, by=by)
            answers.append((answer.status, {name: value for name, value in answer.json.items() if name != "secret"}))
            return answer.json

        body = {"url": "https://intranet.example/hooks", "event_types": ["*"]} | (
            {"application": "acme"} if by == "root" else {}
        )
        made = await ask("POST", "/v1/webhook-endpoints", body)
        place = f"/v1/webhook-endpoints/{made['id']}"
        for number in range(6):
            event = await api.post_event()
            await api.delivery_of(event, attempts=1)
            if number == 0:
                await ask("PATCH", place, {"url": "https://wiki.example/hooks"})
            for verb in ("probe", "pause", "resume", "enable", "disable", "enable"):
                await ask("POST", f"{place}/{verb}", {})
            await api.quiet()
            api.clock.advance(5_000)
            dead = await api.delivery_of(event, "dead")
            await ask("GET", f"/v1/deliveries/{dead['id']}")
            await ask("GET", f"/v1/events/{event}")
            await ask("GET", f"/v1/events/{event}/deliveries")
            await ask("GET", place)
        for door in DOORS:
            await ask("GET", door)
        await ask("POST", f"/v1/deliveries/{dead['id']}/retry", {})
        await api.delivery_of(event, attempts=dead["attempts"] + 1)
        await ask("GET", f"/v1/deliveries/{dead['id']}")
    return answers


@pytest.mark.parametrize("by", ["acme-app", "root"])
async def test_every_door_tells_a_tenant_one_thing(tmp_path: Path, by: str) -> None:
    """I15: creation, update, probe, moves, timeline, views, lists, health and dead letters say the same of every name.

    An admin is told the truth, which is the control.
    """
    walks = [
        await told_through_every_door(tmp_path / str(number), reply, by) for number, reply in enumerate(NAMES.values())
    ]
    for walk in walks[1:]:
        differing = [(one, other) for one, other in zip(walk, walks[0], strict=True) if one != other]
        assert bool(differing) is (by == "root"), differing[:1]
    if by == "acme-app":
        assert UNREACHABLE in str(walks[0])
        assert not any(
            word in str(walks) for word in ("dns", "blocked_name", "private", "this host", "does not resolve")
        )


@pytest.mark.parametrize(("took_ms", "told_ms"), [(0, 1_000), (999.9, 1_000), (1_000, 2_000), (5_003, 6_000)])
def test_time_is_told_in_steps(took_ms: float, told_ms: int) -> None:
    """I15: a name server that keeps silent costs more steps; within a step nothing is told apart."""
    assert next_step_ms(took_ms) == told_ms


@pytest.mark.parametrize("own", [False, True])
async def test_a_tenant_is_not_told_of_our_addresses_at_registration(tmp_path: Path, *, own: bool) -> None:
    """I15: a private address and one of this host are refused in the same words, which name no setting; the admin's differ."""
    host = "93.184.216.34" if own else "10.0.0.1"
    api = Api(tmp_path)
    api.own = {ip_address("93.184.216.34")}
    async with api:
        body = {"url": f"https://{host}/", "event_types": ["*"]}
        tenant = await api.call("POST", "/v1/webhook-endpoints", body, by="acme-app")
        admin = await api.call("POST", "/v1/webhook-endpoints", body | {"application": "acme"})
    (mistake,) = tenant.json["errors"]
    assert mistake["message"] == f"{host} is not a public address; give one that other hosts reach"
    assert ("this host" in admin.text.decode(), "allow_networks" in admin.text.decode()) == (own, True)


# -- echoes ------------------------------------------------------------------------------------------------------------

CUSTOM = "cust0m-value-of-a-header"
BASIC = base64.b64encode(b"hook:pa55-word").decode()
PATH = "/services/T0/B0/t0ken?key=qu3ry"
SIGNATURE = "v1," + base64.b64encode(b"s" * 32).decode()
HEX_SIGNATURE = "0123456789abcdef" * 4
HIDDEN = (CUSTOM, BASIC, "pa55-word", "t0ken", "qu3ry", SIGNATURE[3:], HEX_SIGNATURE, 'quo"ted<&>')


def echoes(secret: str) -> list[bytes]:
    """Answers of receivers that repeat what they were sent, in the forms that frameworks give them."""
    headers = {
        "webhook-signature": SIGNATURE,
        "X-Custom": CUSTOM,
        "X-Quoted": 'quo"ted<&>',
        "Authorization": f"Basic {BASIC}",
        "user": "hook:pa55-word",
    }
    lines = "\n".join(f"{name}: {value}" for name, value in headers.items())
    return [
        lines.encode(),
        json.dumps({"headers": headers, "url": f"https://acme.example{PATH}"}).encode(),
        json.dumps(json.dumps(headers)).encode(),
        json.dumps(list(headers.items())).encode(),
        f"Cannot POST {PATH}".encode(),
        f"Cannot POST {quote(PATH)} {quote(CUSTOM)}".encode(),
        f"expected {HEX_SIGNATURE}, got {SIGNATURE}".encode(),
        f"bad secret {secret} ({secret.removeprefix('whsec_')})".encode(),
        b"<b>quo&quot;ted&lt;&amp;&gt;</b>",
        base64.b64encode(CUSTOM.encode()),
        repr(headers).encode(),
    ]


async def endpoint_with_credentials(api: Api) -> tuple[str, str]:
    """Make an endpoint that authenticates in every way there is; its id and secret."""
    body = {
        "url": f"https://acme.example{PATH}",
        "application": "acme",
        "headers": {"X-Custom": CUSTOM, "X-Quoted": 'quo"ted<&>', "Authorization": f"Basic {BASIC}"},
    }
    answer = await api.call("POST", "/v1/webhook-endpoints", body)
    assert answer.status == 201, answer.text
    return answer.json["id"], answer.json["secret"]


@pytest.mark.parametrize("by", ["auditor", "acme-app", "root"])
async def test_echoes_are_masked_for_those_who_look_on(by: str, tmp_path: Path) -> None:
    """I20: in bodies and headers of answers, readers see nothing that authenticates; the owner and the admin see it all."""
    async with Api(tmp_path) as api:
        endpoint, secret = await endpoint_with_credentials(api)
        await api.call("POST", f"{ENDPOINT}/disable")
        for body in echoes(secret):
            pairs = (HeaderPair("X-Echo", body.decode().replace("\n", " ")), HeaderPair("X-Custom", "plain"))
            api.courier.script += [Outcome(0, 1, status=500, response_headers=pairs, response_body=body)]
            await api.post_event()
        await api.quiet()
        page = await api.get(f"/v1/deliveries?endpoint={endpoint}")
        seen = ""
        for one in page["data"]:
            shown = await api.get(f"/v1/deliveries/{one['id']}", by=by)
            seen += "".join(str(attempt["response"]) for attempt in shown["timeline"])
    hidden_here = (*HIDDEN, secret.removeprefix("whsec_"))
    leaked = [hidden for hidden in hidden_here if hidden in seen or json.dumps(hidden)[1:-1] in seen]
    assert (leaked == []) is (by == "auditor"), leaked


async def test_what_says_why_stays_readable(tmp_path: Path) -> None:
    """I20: a reader still reads what is wrong: words, numbers, ids and ordinary headers stay."""
    body = b'{"error": "database is down", "trace": "4bf92f3577b34da6a3ce929d0e0e4736", "id": "evt_01K9ZZZZZZZZ"}'
    async with Api(tmp_path) as api:
        pairs = (HeaderPair("Server", "nginx"), HeaderPair("Content-Type", "application/json"))
        api.courier.script += [Outcome(0, 1, status=500, response_headers=pairs, response_body=body)]
        delivery = await api.delivery_of(await api.post_event(), attempts=1)
        (attempt,) = (await api.get(f"/v1/deliveries/{delivery['id']}", by="auditor"))["timeline"]
    assert attempt["response"] == {"headers": [list(pair) for pair in pairs], "body": body.decode()}


async def test_a_hostile_answer_is_masked_in_time(tmp_path: Path) -> None:
    """I20: a body made to keep the masking busy is answered like any other (it is linear in what is kept of a body)."""
    hostile = [
        b"a-" * 8_192,
        b"a" * 16_384,
        b'x-custom:"' * 1_638,
        b"\\" * 16_384,
        b"a:/" * 5_461,
        b"webhook-signature" * 963,
    ]
    async with Api(tmp_path) as api:
        api.courier.script += [Outcome(0, 1, status=500, response_body=body) for body in hostile]
        for _ in hostile:
            await api.post_event()
        await api.quiet()
        page = await api.get("/v1/deliveries")
        for one in page["data"]:
            assert (await api.get(f"/v1/deliveries/{one['id']}", by="auditor"))["timeline"]


async def test_a_url_is_shown_whole_to_its_owner_alone(tmp_path: Path) -> None:
    """I16: path and query of an endpoint's URL are credentials: the owner and the admin see them, a reader the host."""
    async with Api(tmp_path) as api:
        endpoint, _ = await endpoint_with_credentials(api)
        seen = {
            by: (await api.get(f"/v1/webhook-endpoints/{endpoint}", by=by))["url"]
            for by in ("root", "acme-app", "auditor")
        }
    whole = f"https://acme.example{PATH}"
    assert seen == {"root": whole, "acme-app": whole, "auditor": "https://acme.example/…"}
