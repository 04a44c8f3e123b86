"""What contracts ask of endpoints: enforced in the API and in the file, and which events a subscription stands for."""

import re
from pathlib import Path
from typing import Any

import pytest

from relay.config import load
from relay.config.admission import Rules, address_faults
from relay.config.model import Config
from relay.contracts import Registration
from relay.core.netguard import Guard
from tests.support.api import CONFIG, Api
from tests.support.config import HOME, WHSEC, errors, read
from tests.support.receiver import Receiver
from tests.support.stack import Stack

APPLICATIONS = "/v1/applications"
ENDPOINTS = "/v1/webhook-endpoints"
URL = "https://receiver.example/hooks"
STRICT: dict[str, Any] = CONFIG | {"delivery": {}}
CATALOGUE = ["order.finalized"]
ROUGHY_TYPES = (
    "asset.failed, asset.pending_payment, asset.ready, cut.completed, cut.failed, render.cancelled, render.completed, "
    "render.failed"
)


async def keyed(api: Api, contract: str, **fields: Any) -> tuple[str, str]:
    """Make an application on a contract; return its id and the token of a key."""
    answer = await api.call("POST", APPLICATIONS, {"contract": contract, "key": True} | fields)
    assert answer.status == 201, answer.text
    return answer.json["id"], answer.json["key"]["token"]


def mistakes(answer: Any) -> dict[str, str]:
    assert answer.status == 422, answer.text
    messages: dict[str, str] = {}
    for error in answer.json["errors"]:
        messages[error["pointer"]] = "; ".join(filter(None, [messages.get(error["pointer"]), error["message"]]))
    return messages


# -- self-service -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("contract", ["rotor", "videoaiditor", "wochit"])
async def test_an_operator_only_contract_refuses_self_service(tmp_path: Path, contract: str) -> None:
    """An application's token can neither make, change nor delete endpoints; the operator can (ROT-4, VAI-4, WOC-2)."""
    types = {"event_types": CATALOGUE} if contract == "rotor" else {}
    async with Api(tmp_path) as api:
        application, token = await keyed(api, contract)
        refused = [await api.call("POST", ENDPOINTS, {"url": URL} | types, by=token)]
        made = await api.call("POST", ENDPOINTS, {"url": URL, "application": application} | types)
        one = f"{ENDPOINTS}/{made.json['id']}"
        refused += [await api.call("PATCH", one, {"url": URL}, by=token), await api.call("DELETE", one, by=token)]
        allowed = [
            await api.call("GET", one, by=token),
            await api.call("POST", f"{one}/pause", by=token),
            await api.call("POST", f"{one}/test", by=token),
        ]
    assert made.status == 201, made.text
    assert [(answer.status, answer.json["type"]) for answer in refused] == [(403, "operator_only")] * 3
    assert contract in refused[0].json["detail"]
    assert [answer.status for answer in allowed] == [200, 200, 200]


@pytest.mark.parametrize(
    ("contract", "types"), [("standard", None), ("roughy", ["cut.failed"]), ("editframe", ["render.completed"])]
)
async def test_a_self_service_contract_lets_applications_register(
    tmp_path: Path, contract: str, types: list[str] | None
) -> None:
    """Where the contract offers it, an application's token makes, changes and deletes its endpoints (ROU-4, EDF-13)."""
    async with Api(tmp_path) as api:
        _, token = await keyed(api, contract)
        made = await api.call("POST", ENDPOINTS, {"url": URL} | ({"event_types": types} if types else {}), by=token)
        one = f"{ENDPOINTS}/{made.json['id']}"
        changed = await api.call("PATCH", one, {"description": "x"}, by=token)
        deleted = await api.call("DELETE", one, by=token)
    assert [answer.status for answer in (made, changed, deleted)] == [201, 200, 204]


# -- addresses --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("contract", "taken"),
    [
        ("standard", False),
        ("rotor", False),
        ("roughy", False),
        ("editframe", False),
        ("videoaiditor", True),
        ("wochit", True),
    ],
)
async def test_https_is_demanded_where_the_contract_demands_it(tmp_path: Path, contract: str, taken: bool) -> None:
    """`http://` is refused, or taken with a warning (ROT-5, VAI-3, EDF-18)."""
    types = {"rotor": CATALOGUE, "roughy": ["cut.failed"]}.get(contract, ["*"])
    async with Api(tmp_path, STRICT) as api:
        application, _ = await keyed(api, contract)
        body = {"url": "http://receiver.example/", "application": application, "event_types": types}
        answer = await api.call("POST", ENDPOINTS, body)
    if taken:
        assert answer.status == 201
        assert [warning["pointer"] for warning in answer.json["warnings"]] == ["/url"]
    else:
        assert "http would send payloads unprotected" in mistakes(answer)["/url"]


@pytest.mark.parametrize("contract", ["standard", "rotor", "roughy", "videoaiditor", "wochit", "editframe"])
@pytest.mark.parametrize("url", ["https://127.0.0.1/", "https://10.0.0.1/", "https://localhost/", "https://box/"])
async def test_a_public_address_is_demanded(tmp_path: Path, contract: str, url: str) -> None:
    """Every built-in contract asks for a public address (ROT-5, VAI-3)."""
    types = {"rotor": CATALOGUE, "roughy": ["cut.failed"]}.get(contract, ["*"])
    async with Api(tmp_path, STRICT) as api:
        application, _ = await keyed(api, contract)
        answer = await api.call("POST", ENDPOINTS, {"url": url, "application": application, "event_types": types})
    assert list(mistakes(answer)) == ["/url"]


async def test_the_operator_overrides_what_a_contract_demands(tmp_path: Path) -> None:
    """`delivery.allow_http` and `allow_networks` let both through, for the networks that are listed, and status warns."""
    async with Api(tmp_path) as api:
        _, token = await keyed(api, "roughy")
        body = {"event_types": ["cut.failed"]}
        inside = await api.call("POST", ENDPOINTS, body | {"url": "http://127.0.0.1:9/"}, by=token)
        outside = await api.call("POST", ENDPOINTS, body | {"url": "http://10.0.0.1:9/"}, by=token)
        warnings = (await api.get("/v1/status"))["warnings"]
    assert inside.status == 201
    assert "10.0.0.1 is not a public address" in mistakes(outside)["/url"]
    assert len([warning for warning in warnings if "delivery.allow_" in warning]) == 2


def test_a_contract_may_leave_the_place_open() -> None:
    """Without `public` names of this network and any port are taken; an address stays the operator's decision."""
    open_place, public = Registration(public=False), Registration()
    rules = Rules(None, Config(), Guard())
    for url in ("https://box.internal/", "https://box:8443/", "https://receiver.example:22/"):
        assert address_faults(url, open_place, rules) == (), url
        assert address_faults(url, public, rules) or "8443" in url, url
    assert address_faults("https://10.0.0.1/", open_place, rules)


# -- how many ---------------------------------------------------------------------------------------------------------


async def test_an_application_has_as_many_endpoints_as_its_contract_allows(tmp_path: Path) -> None:
    """Wochit knows one address: the second is refused (409) until the first is gone (WOC-2)."""
    async with Api(tmp_path) as api:
        application, _ = await keyed(api, "wochit")
        first = await api.call("POST", ENDPOINTS, {"url": URL, "application": application})
        second = await api.call("POST", ENDPOINTS, {"url": URL, "application": application})
        await api.call("DELETE", f"{ENDPOINTS}/{first.json['id']}")
        third = await api.call("POST", ENDPOINTS, {"url": URL, "application": application})
    assert (first.status, second.status, third.status) == (201, 409, 201)
    assert second.json["type"] == "too_many_endpoints"


# -- subscriptions ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("contract", "chosen"), [("rotor", CATALOGUE), ("roughy", ["cut.failed"])])
async def test_a_subscription_is_required_where_the_contract_says_so(
    tmp_path: Path, contract: str, chosen: list[str]
) -> None:
    """No list and an empty list are refused, at creation and by a patch that takes it away; `*` is a choice (ROT-6, ROU-5)."""
    async with Api(tmp_path) as api:
        application, _ = await keyed(api, contract)
        body = {"url": URL, "application": application}
        missing = await api.call("POST", ENDPOINTS, body)
        empty = await api.call("POST", ENDPOINTS, body | {"event_types": []})
        every = await api.call("POST", ENDPOINTS, body | {"event_types": ["*"]})
        made = await api.call("POST", ENDPOINTS, body | {"event_types": chosen})
        taken_away = await api.call("PATCH", f"{ENDPOINTS}/{made.json['id']}", {"event_types": None})
    assert [list(mistakes(answer)) for answer in (missing, empty, taken_away)] == [["/event_types"]] * 3
    assert (every.status, made.status) == (201, 201)


async def test_an_unknown_type_is_refused_with_the_valid_names(tmp_path: Path) -> None:
    """The pointer names the wrong one of several, the message every name that there is (ROU-5, ROU-10, ROT-6)."""
    async with Api(tmp_path) as api:
        _, token = await keyed(api, "roughy")
        body = {"url": URL, "event_types": ["cut.completed", "render.canceled", "order.*"]}
        found = mistakes(await api.call("POST", ENDPOINTS, body, by=token))
    assert list(found) == ["/event_types/1", "/event_types/2"]
    assert "did you mean 'render.cancelled'" in found["/event_types/1"]
    assert all(ROUGHY_TYPES in message for message in found.values())


async def test_a_deprecated_type_works_with_a_warning(tmp_path: Path) -> None:
    """Subscribing to it by name works, and says what to take instead; the type is delivered (EDF-9)."""
    async with Api(tmp_path) as api:
        application, token = await keyed(api, "editframe")
        body = {"url": URL, "event_types": ["render.completed", "unprocessed_file.created"]}
        answer = await api.call("POST", ENDPOINTS, body, by=token)
        owner = api.registry.application(application).application
        match = api.registry.match(owner, "unprocessed_file.created")
    assert answer.status == 201
    (warning,) = answer.json["warnings"]
    assert warning["pointer"] == "/event_types/1"
    assert "deprecated; use 'file.created'" in warning["message"]
    assert len(match.targets) == 1


async def test_the_test_type_cannot_be_subscribed_to(tmp_path: Path) -> None:
    """A test goes to one endpoint on request, whatever it subscribes to (EDF-10)."""
    async with Api(tmp_path) as api:
        _, token = await keyed(api, "editframe")
        answer = await api.call("POST", ENDPOINTS, {"url": URL, "event_types": ["webhook.test"]}, by=token)
    assert "sent by a test only" in mistakes(answer)["/event_types/0"]


async def test_every_type_means_neither_deprecated_nor_test_types(tmp_path: Path) -> None:
    """`*`, `prefix.*` and no list cover the living types of the catalogue alone (EDF-9, EDF-10)."""
    async with Api(tmp_path) as api:
        application, token = await keyed(api, "editframe")
        for types in (["*"], ["unprocessed_file.*", "webhook.*", "render.*"], None):
            body = {"url": URL} | ({} if types is None else {"event_types": types})
            if types and len(types) > 1:
                assert (
                    "covers no event type"
                    in mistakes(await api.call("POST", ENDPOINTS, body, by=token))["/event_types/0"]
                )
                continue
            assert (await api.call("POST", ENDPOINTS, body, by=token)).status == 201
        owner = api.registry.application(application).application
        counts = {
            type: len(api.registry.match(owner, type).targets)
            for type in ("render.completed", "unprocessed_file.created", "webhook.test")
        }
    assert counts == {"render.completed": 2, "unprocessed_file.created": 0, "webhook.test": 0}


# -- headers ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("contract", "header"),
    [("videoaiditor", "x-signature"), ("editframe", "X-WEBHOOK-Signature"), ("roughy", "Svix-Id")],
)
async def test_a_contracts_headers_cannot_be_set_by_hand(tmp_path: Path, contract: str, header: str) -> None:
    """A static header that the contract writes is refused, in whatever case (VAI-7, EDF-2)."""
    async with Api(tmp_path) as api:
        application, _ = await keyed(api, contract)
        body = {"url": URL, "application": application, "event_types": ["*"], "headers": {header: "x", "X-Mine": "y"}}
        assert list(mistakes(await api.call("POST", ENDPOINTS, body))) == [f"/headers/{header}"]


# -- the file ---------------------------------------------------------------------------------------------------------


def application(contract: str, *endpoints: str) -> str:
    tables = "".join(
        f'[[application.endpoint]]\nid = "e{number}"\nsecret = "{WHSEC}"\n{settings}\n'
        for number, settings in enumerate(endpoints)
    )
    text = f'[[application]]\nid = "acme"\ncontract = "{contract}"\n{tables}'
    return text if contract not in ("rotor", "wochit") else re.sub(r"(?m)^secret = .*\n", "", text)


@pytest.mark.parametrize(
    ("contract", "endpoint", "key", "words"),
    [
        ("rotor", 'url = "https://a.example/"', "event_types", "asks for a choice"),
        ("rotor", 'url = "https://a.example/"\nevent_types = ["order.lost"]', "event_types[0]", "covers no event type"),
        ("rotor", 'url = "http://a.example/"\nevent_types = ["*"]', "url", "http would send"),
        ("editframe", 'url = "https://a.example/"\nheaders = { x-webhook-SIGNATURE = "x" }', "headers.x-webhook-SIGNATURE", "is written by the contract"),
        ("editframe", 'url = "https://a.example/"\nevent_types = ["webhook.test"]', "event_types[0]", "sent by a test only"),
    ],
)  # fmt: skip
def test_the_file_is_held_to_the_same_rules(tmp_path: Path, contract: str, endpoint: str, key: str, words: str) -> None:
    """`relay check-config` refuses what the API refuses, with the key's path (ROT-5, ROT-6, EDF-2, EDF-10)."""
    loaded = read(tmp_path, application(contract, endpoint))
    place = f"application[acme].endpoint[e0].{key}"
    assert list(errors(loaded)) == [place]
    assert words in errors(loaded)[place]


def test_the_file_may_use_http_where_the_contract_allows_it(tmp_path: Path) -> None:
    """VideoAiditor asks for a public address and not for https: that is a warning (VAI-3)."""
    loaded = read(tmp_path, application("videoaiditor", 'url = "http://a.example/"'))
    assert errors(loaded) == {}
    assert "application[acme].endpoint[e0].url" in {problem.path for problem in loaded.warnings}
    assert list(errors(read(tmp_path, application("videoaiditor", 'url = "http://10.0.0.1/"')))) != []


def test_the_file_counts_endpoints(tmp_path: Path) -> None:
    """Two endpoints under a contract that allows one are an error at the list (WOC-2)."""
    hook = 'url = "https://a.example/"'
    assert errors(read(tmp_path, application("wochit", hook))) == {}
    found = errors(read(tmp_path, application("wochit", hook, hook)))
    assert list(found) == ["application[acme].endpoint"]
    assert "may have 1, not 2" in found["application[acme].endpoint"]


def test_the_file_warns_of_deprecated_types(tmp_path: Path) -> None:
    """A deprecated type in the file is a warning (EDF-9)."""
    endpoint = 'url = "https://a.example/"\nevent_types = ["unprocessed_file.created"]'
    loaded = read(tmp_path, application("editframe", endpoint))
    assert errors(loaded) == {}
    assert [problem.warning for problem in loaded.issues if "event_types" in problem.path] == [True]


# -- contracts of one's own, and reload -------------------------------------------------------------------------------

OWN = """
extends = "standard"
description = "ours"
[headers]
X-Version = "%s"
"""


def hooks(url: str) -> str:
    return f'[[application.endpoint]]\nid = "hook"\nurl = "{url}"\nsecret = "{WHSEC}"\n'


def tenant(contract: str, url: str) -> str:
    return f'[[application]]\nid = "tenant"\ncontract = "{contract}"\n{hooks(url)}'


async def posted(stack: Stack, application: str) -> dict[str, Any]:
    status, answer = await stack.call(
        "POST", "/v1/events", {"type": "a.b", "data": {"n": 1}, "application": application}
    )
    assert status == 202, answer
    assert isinstance(answer, dict)
    return answer


async def test_a_contract_of_ones_own_is_read_again_by_a_reload(tmp_path: Path) -> None:
    """A reload takes contracts over with the file: a changed header is on the next delivery, and named as changed."""
    folder = tmp_path / "contracts"
    folder.mkdir()
    (folder / "ours.toml").write_text(OWN % "1")
    async with Receiver() as receiver, Stack(tmp_path, extra=tenant("ours", receiver.url)) as stack:
        await stack.settled((await posted(stack, "tenant"))["id"], "delivered")
        (folder / "ours.toml").write_text(OWN % "2")
        status, answer = await stack.call("POST", "/v1/reload")
        assert (status, answer["changed"]) == (200, ["contract[ours]"])
        await stack.settled((await posted(stack, "tenant"))["id"], "delivered")
        assert [request.headers["X-Version"] for request in receiver.received] == ["1", "2"]


async def test_a_mistake_in_a_contract_keeps_everything(tmp_path: Path) -> None:
    """A reload that finds a contract wrong changes nothing, and says file, key and remedy."""
    folder = tmp_path / "contracts"
    folder.mkdir()
    (folder / "ours.toml").write_text(OWN % "1")
    async with Receiver() as receiver, Stack(tmp_path, extra=tenant("ours", receiver.url)) as stack:
        (folder / "ours.toml").write_text("[signatur]\n" + OWN % "2")
        status, answer = await stack.call("POST", "/v1/reload")
        assert (status, answer["type"]) == (422, "invalid_config")
        assert any("ours.toml" in error["message"] and "signatur" in error["message"] for error in answer["errors"])
        await stack.settled((await posted(stack, "tenant"))["id"], "delivered")
        assert receiver.received[0].headers["X-Version"] == "1"


async def test_a_contract_that_is_in_use_cannot_be_taken_away(tmp_path: Path) -> None:
    """An application made through the API keeps its contract: a reload without that file is refused."""
    folder = tmp_path / "contracts"
    folder.mkdir()
    (folder / "ours.toml").write_text(OWN % "1")
    async with Stack(tmp_path) as stack:
        status, _ = await stack.call("POST", APPLICATIONS, {"id": "tenant", "contract": "ours"})
        assert status == 201
        (folder / "ours.toml").unlink()
        status, answer = await stack.call("POST", "/v1/reload")
        assert (status, "'ours'" in answer["errors"][0]["message"]) == (422, True)
        await posted(stack, "tenant")


async def test_an_application_keeps_its_contract_while_deliveries_are_due(tmp_path: Path) -> None:
    """What was frozen under one contract is not sent under another: not by a reload, and not by a restart (Q11)."""
    async with Receiver() as receiver, Stack(tmp_path, extra=tenant("standard", receiver.url)) as stack:
        await stack.call("POST", f"{ENDPOINTS}/hook/pause")
        event = await posted(stack, "tenant")
        stack.write_config(extra=tenant("roughy", receiver.url).replace("secret", 'event_types = ["*"]\nsecret'))
        status, answer = await stack.call("POST", "/v1/reload")
        assert status == 422
        assert "has deliveries due (1) that were made under the contract 'standard'" in answer["errors"][0]["message"]
        await stack.stop()
        with pytest.raises(Exception, match="made under the contract 'standard'"):
            await stack.start()
        stack.write_config(extra=tenant("standard", receiver.url))
        await stack.start()
        (delivery,) = await stack.deliveries(event["id"])
        await stack.call("POST", f"/v1/deliveries/{delivery['id']}/cancel")
        stack.write_config(extra=tenant("roughy", receiver.url).replace("secret", 'event_types = ["*"]\nsecret'))
        assert (await stack.call("POST", "/v1/reload"))[0] == 200
        assert stack.relay.registrar.current.application("tenant").application.contract == "roughy"


async def test_a_contract_that_cannot_sign_for_what_is_there_is_refused(tmp_path: Path) -> None:
    """A file application with endpoints made through the API keeps a contract that can use their secrets."""
    async with Stack(tmp_path, extra='[[application]]\nid = "tenant"\ncontract = "rotor"\n') as stack:
        body = {"url": URL, "event_types": ["*"], "application": "tenant"}
        assert (await stack.call("POST", ENDPOINTS, body))[0] == 201
        stack.write_config(extra='[[application]]\nid = "tenant"\ncontract = "standard"\n')
        status, answer = await stack.call("POST", "/v1/reload")
        assert status == 422
        assert "it has no secret" in answer["errors"][0]["message"]


def test_contracts_are_found_beside_the_file(tmp_path: Path) -> None:
    """Reading a configuration reads the folder `contracts` beside it; without a file there are the built-in ones."""
    (tmp_path / "contracts").mkdir()
    (tmp_path / "contracts" / "ours.toml").write_text(OWN % "1")
    (tmp_path / "config.toml").write_text('[[application]]\nid = "tenant"\ncontract = "ours"\n')
    loaded = load(tmp_path / "config.toml", HOME, {})
    assert loaded.config is not None
    assert "ours" in loaded.contracts.names
    assert "ours" not in load(None, HOME, {}).contracts.names


# -- Roughy's document ------------------------------------------------------------------------------------------------


async def test_the_three_calls_of_roughys_document(tmp_path: Path) -> None:
    """POST, GET and DELETE as its document prints them, with its path, fields and authentication (ROU-4, ROU-6, ROU-7)."""
    extra = '[[application]]\nid = "studio"\ncontract = "roughy"\n'
    printed = b"""{
    "url": "https://example.com/hooks/roughy",
    "event_types": ["cut.completed", "render.completed"]
  }"""
    async with Stack(tmp_path, extra=extra) as stack:
        _, key = await stack.call("POST", f"{APPLICATIONS}/studio/keys", {})
        _, other = await stack.call("POST", f"{APPLICATIONS}/acme/keys", {})
        mine, theirs = key["token"], other["token"]
        status, made = await stack.call("POST", "/v1/webhook-endpoints", printed, token=mine)
        assert status == 201
        assert (made["url"], made["event_types"]) == (
            "https://example.com/hooks/roughy",
            ["cut.completed", "render.completed"],
        )
        assert made["secret"].startswith("whsec_")
        status, listed = await stack.call("GET", "/v1/webhook-endpoints", token=mine)
        assert (status, [one["id"] for one in listed["data"]]) == (200, [made["id"]])
        assert "secret" not in listed["data"][0]
        assert (await stack.call("GET", "/v1/webhook-endpoints", token=theirs))[1]["data"] == []
        assert (await stack.call("DELETE", f"/v1/webhook-endpoints/{made['id']}", token=theirs))[0] == 404
        assert (await stack.call("DELETE", f"/v1/webhook-endpoints/{made['id']}", token=mine)) == (204, "")
        assert (await stack.call("DELETE", f"/v1/webhook-endpoints/{made['id']}", token=mine))[0] == 404
        assert (await stack.call("GET", "/v1/webhook-endpoints", token="rk_wrong"))[0] == 401


async def test_an_application_never_posts_events(tmp_path: Path) -> None:
    """A key manages endpoints; events come from producers."""
    async with Stack(tmp_path) as stack:
        _, key = await stack.call("POST", f"{APPLICATIONS}/acme/keys", {})
        for path, body in (("/v1/events", {"type": "a.b", "data": 1}), ("/v1/events/batch", [])):
            assert (await stack.call("POST", path, body, token=key["token"]))[0] == 403
