"""`auth` of endpoints: in the file and through the API, refused with every mistake, sent whole, shown and kept by nobody (issue 9)."""

import json
from pathlib import Path
from typing import Any

import pytest

from relay.config.secrets import SECRET_BYTES_MAX
from relay.core.auth import basic
from relay.core.model import Outcome
from tests.support.api import CONFIG, Answer, Api
from tests.support.config import HOME, WHSEC, read, sound
from tests.support.receiver import Answer as Reply
from tests.support.receiver import Receiver
from tests.support.stack import Stack

ENDPOINTS = "/v1/webhook-endpoints"
CANARY = "canary-of-a-credential"

SOUND: dict[str, dict[str, Any]] = {
    "basic": {"type": "basic", "username": "relay", "password": CANARY},
    "bearer": {"type": "bearer", "token": CANARY},
    "api_key": {"type": "api_key", "header": "X-Gateway", "key": CANARY},
    "oauth2": {
        "type": "oauth2", "token_url": "https://login.example.com/t/oken", "client_id": "relay", "client_secret": CANARY,
        "scope": "a b", "audience": "hooks", "client_auth": "body",
    },
}  # fmt: skip
SECRET = {"basic": "password", "bearer": "token", "api_key": "key", "oauth2": "client_secret"}
SENT = {
    "basic": ("Authorization", basic("relay", CANARY)),
    "bearer": ("Authorization", f"Bearer {CANARY}"),
    "api_key": ("X-Gateway", CANARY),
}


async def make(api: Api, auth: Any, by: str = "root", **fields: Any) -> Answer:
    wanted = {"url": "https://receiver.example/hook", "auth": auth} | fields
    return await api.call("POST", ENDPOINTS, wanted | ({"application": "acme"} if by == "root" else {}), by=by)


def mistakes(answer: Answer) -> dict[str, str]:
    assert answer.status == 422, answer.text
    return {error["pointer"]: error["message"] for error in answer.json["errors"]}


# What is sent


@pytest.mark.parametrize("kind", SENT)
async def test_fixed_credentials_go_out_with_every_delivery(tmp_path: Path, kind: str) -> None:
    """Issue 9: basic, bearer and API key are one more header of each request, of tests too, beside the signature."""
    async with Api(tmp_path) as api:
        made = await make(api, SOUND[kind])
        assert made.status == 201, made.text
        await api.call("POST", f"{ENDPOINTS}/{made.json['id']}/test", {})
        await api.call("PATCH", f"{ENDPOINTS}/{made.json['id']}", {"auth": None})
        await api.call("POST", f"{ENDPOINTS}/{made.json['id']}/test", {})
        first, second = (request.headers for request in api.courier.requests)
    name, value = SENT[kind]
    assert first[name] == value
    assert "webhook-signature" in {name.lower() for name in first}
    assert name not in second


async def test_a_token_goes_out_with_deliveries(tmp_path: Path) -> None:
    """Issue 9, through the door: events to a receiver behind OAuth2 are delivered with one token that was fetched once."""
    body = json.dumps({"access_token": "t0ken", "expires_in": 60}).encode()
    async with Receiver(default=Reply(200, {}, body)) as server, Receiver(default=200) as receiver:
        auth = (
            f'auth = {{type = "oauth2", token_url = "{server.url}", client_id = "relay", client_secret = "{CANARY}"}}\n'
        )
        async with Stack(tmp_path, endpoints={"primary": receiver.url}, endpoint_settings=auth) as stack:
            for _ in range(3):
                await stack.settled((await stack.post())["id"], "delivered")
    assert [received.headers["Authorization"] for received in receiver.received] == ["Bearer t0ken"] * 3
    assert len(server.received) == 1


async def test_the_timeline_says_whose_fault_it_was(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    """Issue 9: a token server that refuses is named in the timeline and in health; the receiver is not asked, nothing is logged."""
    async with Receiver(default=Reply(401, {}, f'{{"error": "{CANARY}"}}'.encode())) as server, Receiver() as receiver:
        auth = (
            f'auth = {{type = "oauth2", token_url = "{server.url}", client_id = "relay", client_secret = "{CANARY}"}}\n'
        )
        settings = f'{auth}retry = {{ schedule = ["1h"] }}\n'
        async with Stack(tmp_path, endpoints={"primary": receiver.url}, endpoint_settings=settings) as stack:
            delivery = await stack.attempted((await stack.post())["id"], 1)
            _, endpoint = await stack.call("GET", f"{ENDPOINTS}/primary")
            _, shown = await stack.call("POST", f"{ENDPOINTS}/primary/test", {})
    (attempt,) = delivery["timeline"]
    said = "the token server answered 401; check client_id and client_secret"
    for seen in (attempt, shown):
        assert (seen["failure"], seen["status"], seen["response"]) == ("no_token", None, None)
        assert seen["detail"].startswith(said)
    assert (endpoint["health"]["failures"], endpoint["health"]["last_failure"]) == (1, "no_token")
    assert (endpoint["refusing"], receiver.received) == (None, [])
    printed = capfd.readouterr()
    assert said in printed.out + printed.err + caplog.text
    assert CANARY not in printed.out + printed.err + caplog.text


async def test_a_repeat_after_a_401_is_one_attempt(tmp_path: Path) -> None:
    """Issue 9: a revoked token costs no attempt of the delivery; its timeline says that there was a repeat."""
    tokens = iter(range(10))

    def give(_: object) -> Reply:
        return Reply(200, {}, json.dumps({"access_token": f"t{next(tokens)}"}).encode())

    async with Receiver(default=give) as server, Receiver(200, 401, default=200) as receiver:
        auth = f'auth = {{type = "oauth2", token_url = "{server.url}", client_id = "relay", client_secret = "x"}}\n'
        async with Stack(tmp_path, endpoints={"primary": receiver.url}, endpoint_settings=auth) as stack:
            await stack.settled((await stack.post())["id"], "delivered")
            delivery = await stack.settled((await stack.post())["id"], "delivered")
    assert (delivery["attempts"], len(receiver.received)) == (1, 3)
    assert "fetched anew" in delivery["timeline"][0]["detail"]


# What is refused


WRONG: dict[str, tuple[Any, dict[str, str]]] = {
    "no object": ("Bearer x", {"/auth": "must be an object"}),
    "no type": ({"token": "x"}, {"/auth/type": 'is missing; write "basic", "bearer", "api_key" or "oauth2"'}),
    "another type": ({"type": "digest", "token": "x"}, {"/auth/type": "must be 'basic', 'bearer', 'api_key' or 'oauth2'"}),
    "nothing": ({"type": "oauth2"}, {
        "/auth/token_url": "is missing", "/auth/client_id": "is missing", "/auth/client_secret": "is missing",
    }),
    "an empty one": ({"type": "bearer", "token": ""}, {"/auth/token": "is missing"}),
    "of another type": (
        {"type": "bearer", "token": "x", "username": "u", "scope": "s"},
        {"/auth/scope": "is no part of bearer, which has token; remove it", "/auth/username": "is no part of bearer"},
    ),
    "unknown": ({"type": "bearer", "token": "x", "tokn": "y"}, {"/auth/tokn": "is not a field of auth; it has type"}),
    "a reference": ({"type": "bearer", "token": "env:HOME"}, {"/auth/token": "are for the configuration file"}),
    "no text": ({"type": "bearer", "token": 1}, {"/auth/token": "a secret is text"}),
    "too long": (
        {"type": "bearer", "token": "x" * (SECRET_BYTES_MAX + 1)}, {"/auth/token": f"larger than {SECRET_BYTES_MAX} bytes"},
    ),
    "a blank": ({"type": "bearer", "token": "a b"}, {"/auth/token": "visible ASCII"}),
    "a line end": ({"type": "api_key", "key": "a\r\nX: 1"}, {"/auth/key": "visible ASCII"}),
    "a colon": ({"type": "basic", "username": "a:b", "password": ""}, {"/auth/username": "colon"}),
    "a control character": ({"type": "basic", "username": "a", "password": "\n"}, {"/auth/password": "control"}),
    "our header": ({"type": "api_key", "key": "x", "header": "Host"}, {"/auth/header": "written by the relay itself"}),
    "a reserved header": ({"type": "api_key", "key": "x", "header": "webhook-x"}, {"/auth/header": "reserved"}),
    "no header": ({"type": "api_key", "key": "x", "header": "a b"}, {"/auth/header": "a header name is made of"}),
    "scopes": (SOUND["oauth2"] | {"scope": 'a "b"'}, {"/auth/scope": "no list of scopes"}),
    "a client of other characters": (SOUND["oauth2"] | {"client_id": "ä"}, {"/auth/client_id": "printable ASCII"}),
    "a way of its own": (SOUND["oauth2"] | {"client_auth": "jwt"}, {"/auth/client_auth": "must be 'basic' or 'body'"}),
    "no URL": (SOUND["oauth2"] | {"token_url": "login"}, {"/auth/token_url": "write it like"}),
    "a private address": (SOUND["oauth2"] | {"token_url": "https://10.0.0.1/"}, {"/auth/token_url": "10.0.0.1"}),
    "the metadata of a cloud": (
        SOUND["oauth2"] | {"token_url": "https://169.254.169.254/t"}, {"/auth/token_url": "169.254.169.254"},
    ),
    "a credential in the URL": (
        SOUND["oauth2"] | {"token_url": f"https://u:{CANARY}@login.example.com/"}, {"/auth/token_url": "user name or password"},
    ),
}  # fmt: skip


@pytest.mark.parametrize("by", ["root", "acme-app"])
@pytest.mark.parametrize("case", WRONG)
async def test_every_mistake_of_auth_has_its_place(tmp_path: Path, case: str, by: str) -> None:
    """Issue 9: whatever is wrong with credentials is refused at its member, without being repeated."""
    auth, expected = WRONG[case]
    async with Api(tmp_path) as api:
        answer = await make(api, auth, by)
    found = mistakes(answer)
    assert found.keys() == expected.keys()
    for place, words in expected.items():
        assert words in found[place]
    assert CANARY.encode() not in answer.text


async def test_mistakes_of_form_and_of_sense_come_together(tmp_path: Path) -> None:
    """T8: what is wrong with the form of one member hides nothing that is wrong with another."""
    auth = {"type": "oauth2", "token_url": "http://10.0.0.1/", "client_id": 1, "scop": "a"}
    async with Api(tmp_path) as api:
        found = mistakes(await make(api, auth, timeout="soon"))
    assert {"/auth/client_id", "/auth/scop", "/auth/client_secret", "/auth/token_url", "/timeout"} == found.keys()


@pytest.mark.parametrize(
    ("auth", "place", "name"),
    [
        (SOUND["basic"], "/auth/type", "authorization"),
        (SOUND["oauth2"], "/auth/type", "AUTHORIZATION"),
        (SOUND["api_key"], "/auth/header", "x-gateway"),
        ({"type": "api_key", "key": "x"}, "/auth/type", "X-Api-Key"),
    ],
)
async def test_no_header_is_overwritten(tmp_path: Path, auth: Any, place: str, name: str) -> None:
    """Issue 9: a header that stands in `headers` as well is refused, whichever of the two is written later."""
    async with Api(tmp_path) as api:
        assert "would be overwritten" in mistakes(await make(api, auth, headers={name: "x"}))[place]
        made = await make(api, auth)
        later = await api.call("PATCH", f"{ENDPOINTS}/{made.json['id']}", {"headers": {name: "x"}})
        assert "would be overwritten" in mistakes(later)[place]


async def test_no_header_of_the_contract_is_overwritten(tmp_path: Path) -> None:
    """Issue 9: a header that the contract writes is refused, too."""
    config = CONFIG | {"application": [{"id": "acme", "contract": "github"}]}
    async with Api(tmp_path, config) as api:
        found = mistakes(await make(api, {"type": "api_key", "key": "x", "header": "X-GitHub-Event"}))
    assert "is written by the contract github" in found["/auth/header"]


# What is seen of it


@pytest.mark.parametrize("kind", SOUND)
async def test_nobody_reads_a_credential_again(tmp_path: Path, kind: str) -> None:
    """Issue 9: for everybody credentials are masked, for those who only look the names beside them too, and paths of URLs."""
    async with Api(tmp_path) as api:
        made = await make(api, SOUND[kind])
        path = f"{ENDPOINTS}/{made.json['id']}"
        own = SOUND[kind] | {SECRET[kind]: "***"}
        for by in ("root", "acme-app"):
            seen = await api.get(path, by=by)
            assert (seen["auth"], seen["headers"]) == (own, {})
        for by in ("auditor", "on-call"):
            seen = await api.get(path, by=by)
            hidden = {name: "***" for name in ("username", "client_id") if name in own}
            url = {"token_url": "https://login.example.com/…"} if "token_url" in own else {}
            assert (seen["auth"], seen["headers"]) == (own | hidden | url, {})
        pages = [await api.get(ENDPOINTS), await api.get("/v1/export"), made.json, await api.get("/v1/status")]
        whole = await api.get("/v1/export?secrets=true")
        endpoint = next(iter(api.registry.endpoints.values()))
    assert CANARY not in json.dumps(pages)
    assert CANARY in json.dumps(whole)
    assert CANARY not in repr(endpoint.auth)


async def test_what_a_receiver_repeats_is_masked_for_those_who_look(tmp_path: Path) -> None:
    """I15: a credential that a receiver echoes is hidden from readers and operators in every spelling; its owner sees it."""
    body = f"you sent {basic('relay', CANARY)}, that is relay:{CANARY}".encode()
    async with Api(tmp_path) as api:
        made = await make(api, SOUND["basic"])
        seen = {}
        for by in ("on-call", "root"):
            api.courier.script += [Outcome(0, 1, status=500, response_body=body)]
            seen[by] = (await api.call("POST", f"{ENDPOINTS}/{made.json['id']}/test", {}, by=by)).json["response"][
                "body"
            ]
    assert CANARY not in seen["on-call"]
    assert CANARY in seen["root"]


async def test_a_patch_replaces_auth_whole(tmp_path: Path) -> None:
    """Parts of two kinds of credentials make no third: a patch takes nothing over; what it does not name stays as it is."""
    async with Api(tmp_path) as api:
        path = f"{ENDPOINTS}/{(await make(api, SOUND['basic'])).json['id']}"
        assert (
            "is missing"
            in mistakes(await api.call("PATCH", path, {"auth": {"type": "basic", "username": "x"}}))["/auth/password"]
        )
        changed = await api.call("PATCH", path, {"auth": SOUND["bearer"]})
        assert changed.json["auth"] == {"type": "bearer", "token": "***"}
        other = await api.call("PATCH", path, {"description": "x"})
        assert other.json["auth"] == {"type": "bearer", "token": "***"}
        await api.call("POST", f"{path}/test", {})
        assert api.courier.requests[-1].headers["Authorization"] == f"Bearer {CANARY}"
        removed = await api.call("PATCH", path, {"auth": None})
        assert removed.json["auth"] is None


@pytest.mark.parametrize("kind", SOUND)
async def test_credentials_move(tmp_path: Path, kind: str) -> None:
    """Issue 9: an export with secrets brings credentials elsewhere; one without them changes nothing where they are."""
    async with Api(tmp_path / "old") as old:
        made = await make(old, SOUND[kind], id="moved")
        assert made.status == 201
        plain = (await old.get("/v1/export"))["data"]
        whole = (await old.get("/v1/export?secrets=true"))["data"]
        same = await old.call("POST", "/v1/import", {"lines": plain})
        assert (same.status, same.json["changed"]) == (200, False), same.text
        for line in plain:
            if line.get("endpoint", {}).get("id") == "moved":
                line["endpoint"]["auth"] |= {"username": "another"} if kind == "basic" else {"type": "basic"}
        assert "is missing" in str(mistakes(await old.call("POST", "/v1/import", {"lines": plain, "update": True})))
    async with Api(tmp_path / "new", CONFIG | {"application": [{"id": "other"}]}) as new:
        brought = await new.call("POST", "/v1/import", {"lines": whole})
        assert brought.status == 200, brought.text
        again = (await new.get("/v1/export?secrets=true"))["data"]
    assert [line["endpoint"]["auth"] for line in again if line.get("endpoint", {}).get("id") == "moved"] == [
        SOUND[kind]
    ]


# In the file


def file_with(auth: str, more: str = "") -> str:
    return f"""
[[application]]
id = "acme"
[[application.endpoint]]
id = "primary"
url = "https://receiver.example/"
secret = "{WHSEC}"
auth = {auth}
{more}
"""


def test_the_file_names_credentials_as_it_names_secrets(tmp_path: Path) -> None:
    """`env:` and `file:` are read, nothing of them is in a `repr`, and what is shown is the reference."""
    (tmp_path / "password").write_text(f"{CANARY}\n")
    text = file_with(f'{{type = "basic", username = "relay", password = "file:{tmp_path}/password"}}')
    loaded = read(tmp_path, text)
    auth = sound(loaded).applications[0].endpoints[0].auth
    assert auth is not None
    assert auth.password is not None
    assert auth.password.get_secret_value() == CANARY
    assert "auth" not in str(loaded.issues)
    shown = {setting.key: setting.value for setting in loaded.settings}
    assert shown["application[acme].endpoint[primary].auth.password"] == f"file:{tmp_path}/password"
    assert CANARY not in repr(loaded)


@pytest.mark.parametrize("kind", SOUND)
def test_literal_credentials_are_taken_with_a_warning(tmp_path: Path, kind: str) -> None:
    """A credential that stands in the file itself is warned of, and shown to nobody; the rest of it is."""
    members = ", ".join(f"{name} = {json.dumps(value)}" for name, value in SOUND[kind].items())
    loaded = read(tmp_path, file_with(f"{{{members}}}"))
    assert loaded.errors == ()
    key = f"application[acme].endpoint[primary].auth.{SECRET[kind]}"
    assert key in str(loaded.warnings)
    shown = {setting.key: setting.value for setting in loaded.settings}
    assert shown[key] == "********"
    assert shown["application[acme].endpoint[primary].auth.type"] == kind
    assert CANARY not in str(loaded.issues) + str(shown)
    if kind == "oauth2":
        assert shown["application[acme].endpoint[primary].auth.token_url"] == "https://login.example.com/…"


def test_the_file_is_refused_for_the_same_reasons(tmp_path: Path) -> None:
    """Every mistake at once, each with its line and a remedy, without what was written."""
    auth = f'{{type = "oauth2", token_url = "http://10.0.0.1/t", client_id = "a", client_secret = "env:GONE", password = "{CANARY}"}}'
    loaded = read(tmp_path, file_with(auth, 'headers = { Authorization = "x" }'), HOME)
    found = {issue.path.rpartition("endpoint[primary].")[2] for issue in loaded.errors}
    assert found == {"auth.client_secret", "auth.password", "auth.token_url", "auth.type"}
    assert CANARY not in str(loaded.issues)
    assert all(issue.remedy for issue in loaded.errors)


def test_an_unknown_member_is_named_with_what_was_meant(tmp_path: Path) -> None:
    """A slip in the name of a member gets a hint, as everywhere in the file."""
    loaded = read(tmp_path, file_with('{type = "bearer", tokn = "env:X"}'), HOME)
    assert "token" in str([issue.remedy for issue in loaded.errors])


async def test_a_reload_puts_other_credentials_in_force(tmp_path: Path) -> None:
    """Issue 9: what the file says after a reload is sent from the next attempt on."""
    async with Receiver(default=200) as receiver:
        config: dict[str, Any] = {"endpoints": {"primary": receiver.url}}
        settings = 'auth = {{type = "bearer", token = "{}"}}\n'
        async with Stack(tmp_path, **config, endpoint_settings=settings.format("one")) as stack:
            await stack.settled((await stack.post())["id"], "delivered")
            stack.write_config(**config, endpoint_settings=settings.format("two"))
            assert (await stack.call("POST", "/v1/reload"))[0] == 200
            await stack.settled((await stack.post())["id"], "delivered")
    assert [received.headers["Authorization"] for received in receiver.received] == ["Bearer one", "Bearer two"]
