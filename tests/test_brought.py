"""Customers brought along: endpoints with ids and secrets that they have already, secrets read again, rotations to a given one."""

import json
from base64 import b64encode
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from standardwebhooks import Webhook, WebhookVerificationError

from relay.api.lines import read_import
from relay.api.secrets import read_rotation
from relay.api.written import NewEndpoint
from relay.config.secrets import SECRET_BYTES_MAX
from relay.core.clock import SystemClock
from relay.registry import Claim, KeyDraft
from tests.support.api import CONFIG, Answer, Api

PATH = "/v1/webhook-endpoints"
URL = "https://receiver.example/hooks"
NEW = "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD"
OLDER = "whsec_plJ3nmyCDGBKInavdOK15jsl2qw/6Kmn"
OLDEST = "whsec_pCFSC3+D8mxWZmOJK4l+4xntyJ+EBTi4QnxttKsibYA="
OVER = "2001-01-01T00:00:00Z"
LATER = "2099-01-01T00:00:00Z"


async def bring(api: Api, by: str = "root", **fields: Any) -> Answer:
    return await api.call("POST", PATH, {"url": URL, "application": "acme"} | fields, by=by)


async def secrets_of(api: Api, endpoint: str) -> Any:
    return await api.get(f"{PATH}/{endpoint}/secret")


def mistakes(answer: Answer) -> dict[str, str]:
    assert answer.status == 422, answer.text
    return {error["pointer"]: error["message"] for error in answer.json["errors"]}


async def test_an_endpoint_comes_with_its_id_and_secret(tmp_path: Path) -> None:
    """K13: an admin makes an endpoint with the id and the secret that its receiver knows; both hold after a restart."""
    async with Api(tmp_path) as api:
        answer = await bring(api, id="ep_2Yx-moved", secret=NEW)
        assert answer.status == 201, answer.text
        assert (answer.json["id"], answer.json["secret"], answer.json["secrets"]) == ("ep_2Yx-moved", NEW, 1)
        assert answer.headers["Location"] == f"{PATH}/ep_2Yx-moved"
    async with Api(tmp_path) as api:
        assert await secrets_of(api, "ep_2Yx-moved") == {
            "endpoint": "ep_2Yx-moved",
            "secret": NEW,
            "secrets": [{"secret": NEW, "expires_at": None}],
        }


async def test_secrets_come_with_their_ends(tmp_path: Path) -> None:
    """K13: an overlap that is under way elsewhere goes on here; a secret that has come to its end is left behind."""
    async with Api(tmp_path) as api:
        given = [NEW, {"secret": OLDER, "expires_at": LATER}, {"secret": OLDEST, "expires_at": OVER}]
        answer = await bring(api, id="moved", secrets=given)
        assert (answer.status, answer.json["secret"], answer.json["secrets"]) == (201, NEW, 2)
        found = await secrets_of(api, "moved")
    assert found["secrets"] == [
        {"secret": NEW, "expires_at": None},
        {"secret": OLDER, "expires_at": "2099-01-01T00:00:00.000Z"},
    ]


async def test_what_is_brought_along_signs(tmp_path: Path) -> None:
    """K13: an attempt verifies with every secret that was brought along, and with no other (negative control)."""
    async with Api(tmp_path) as api:
        await bring(api, id="moved", secrets=[NEW, {"secret": OLDER, "expires_at": LATER}])
        signer = api.registry.signer(api.registry.endpoint("moved"))
    headers = signer.headers(id="evt_1", type="a", timestamp_ms=SystemClock().wall_ms(), body=b"{}", attempt=1)
    assert [Webhook(secret).verify(b"{}", headers) for secret in (NEW, OLDER)] == [{}, {}]
    with pytest.raises(WebhookVerificationError):
        Webhook(OLDEST).verify(b"{}", headers)


@pytest.mark.parametrize(
    ("fields", "wrong"),
    [
        ({"id": "two words"}, {"/id": "an id begins with"}),
        ({"id": 7}, {"/id": "must be text"}),
        ({"secret": "short"}, {"/secret": "whsec_"}),
        ({"secret": "whsec_AAAA"}, {"/secret": "bytes"}),
        ({"secret": f" {NEW}"}, {"/secret": "blanks"}),
        ({"secret": 5}, {"/secret": "a secret is text"}),
        ({"secret": "env:ACME_SECRET"}, {"/secret": "for the configuration file"}),
        ({"secret": "x" * (SECRET_BYTES_MAX + 1)}, {"/secret": "larger than 4096"}),
        ({"secret": NEW, "secrets": [NEW]}, {"/secret": "both"}),
        ({"secrets": []}, {"/secrets": "signs what it sends"}),
        ({"secrets": NEW}, {"/secrets": "must be a list"}),
        ({"secrets": [NEW, OLDER, NEW]}, {"/secrets/2": "listed twice"}),
        ({"secrets": [NEW, "whsec_AAAA"]}, {"/secrets/1": "bytes"}),
        ({"secrets": [{"secret": NEW, "expires_at": LATER}, OLDER]}, {"/secrets/0": "comes first"}),
        ({"secrets": [NEW, {"secret": OLDER, "expires_at": "tomorrow"}]}, {"/secrets/1": "expires_at must be a time"}),
        ({"secrets": [NEW, {"secret": OLDER, "ends": LATER}]}, {"/secrets/1": "no other members"}),
        ({"secrets": [NEW] * 11}, {"/secrets": "11 entries; there may be 10"}),
        ({"id": "x y", "secret": "short", "colour": 1}, {"/id": "", "/secret": "", "/colour": ""}),
    ],
)
async def test_what_cannot_be_brought_along_is_refused(
    tmp_path: Path, fields: dict[str, Any], wrong: dict[str, str]
) -> None:
    """K13: ids and secrets are judged by the contract's own rules, all mistakes at once; no answer repeats a secret."""
    async with Api(tmp_path) as api:
        answer = await bring(api, **fields)
        assert list(api.registry.endpoints) == ["primary"]
    found = mistakes(answer)
    assert sorted(found) == sorted(wrong)
    assert all(words in found[place] for place, words in wrong.items())
    assert NEW[6:].encode() not in answer.text


async def test_an_id_is_given_once(tmp_path: Path) -> None:
    """K13: an id that an endpoint of the file, or of another application, has is refused; one that was deleted is free."""
    async with Api(tmp_path) as api:
        taken = [
            await bring(api, id="primary"),
            await bring(api, id="x"),
            await bring(api, id="x", application="globex"),
        ]
        await api.call("DELETE", f"{PATH}/x")
        again = await bring(api, id="x", application="globex")
    assert [answer.status for answer in taken] == [409, 201, 409]
    assert {answer.json["type"] for answer in (taken[0], taken[2])} == {"endpoint_exists"}
    assert again.status == 201


@pytest.mark.parametrize("member", ["id", "secret", "secrets"])
async def test_a_tenant_brings_nothing_along(tmp_path: Path, member: str) -> None:
    """K13: the token of an application makes endpoints with ids and secrets of the relay's making only."""
    async with Api(tmp_path) as api:
        made = await bring(api, by="acme-app", **{member: [NEW] if member == "secrets" else NEW})
        rotated = await api.call("POST", f"{PATH}/primary/rotate-secret", {"secret": NEW}, by="acme-app")
    assert list(mistakes(made)) == [f"/{member}"]
    assert list(mistakes(rotated)) == ["/secret"]


async def test_an_application_comes_with_its_first_endpoint(tmp_path: Path) -> None:
    """K13: the first endpoint of a new application may have its id and secret too; its mistakes are pointed at."""
    async with Api(tmp_path) as api:
        endpoint = {"url": URL, "id": "ep_first", "secret": NEW}
        made = await api.call("POST", "/v1/applications", {"id": "initech", "endpoint": endpoint})
        wrong = await api.call("POST", "/v1/applications", {"id": "umbrella", "endpoint": endpoint | {"secret": "x"}})
    assert (made.json["endpoint"]["id"], made.json["endpoint"]["secret"]) == ("ep_first", NEW)
    assert list(mistakes(wrong)) == ["/endpoint/secret"]


# -- reading again --------------------------------------------------------------------------------------------------------


async def test_a_secret_is_read_again_by_an_admin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """K13: an admin reads a secret again, of the file too; the log says who and never what; nobody else may."""
    said: list[dict[str, Any]] = []
    async with Api(tmp_path) as api:
        await bring(api, id="moved", secret=NEW)
        monkeypatch.setattr(
            "relay.api.endpoints.Endpoints._said",
            lambda self, event, endpoint, principal, **facts: said.append(
                {"event": event, "endpoint": endpoint.id, "by": principal.name, **facts}
            ),
        )
        answer = await api.call("GET", f"{PATH}/moved/secret")
        in_file = await secrets_of(api, "primary")
        refused = [
            await api.call("GET", f"{PATH}/moved/secret", by=by)
            for by in ("acme-app", "auditor", "on-call", "acme-producer")
        ]
        unknown = await api.call("GET", f"{PATH}/nowhere/secret")
    assert answer.json["secret"] == NEW
    assert answer.headers["Cache-Control"] == "no-store"
    assert in_file["secret"] == CONFIG["application"][0]["endpoint"][0]["secret"]
    assert said == [{"event": "endpoint.secret_read", "endpoint": name, "by": "root"} for name in ("moved", "primary")]
    assert [one.status for one in refused] == [403] * 4
    assert unknown.status == 404
    assert NEW not in json.dumps(said)


async def test_an_unsigned_contract_has_no_secret_to_read(tmp_path: Path) -> None:
    """K13: where nothing is signed the secret is null, and one that is brought along is refused."""
    async with Api(tmp_path) as api:
        await api.call("POST", "/v1/applications", {"id": "plain", "contract": "wochit"})
        made = await bring(api, id="moved", application="plain", secrets=[])
        found = await secrets_of(api, "moved")
        wrong = await bring(api, application="plain", secret=NEW)
    assert made.status == 201, made.text
    assert (made.json["secret"], found["secret"], found["secrets"]) == (None, None, [])
    assert "signs nothing" in mistakes(wrong)["/secret"]


async def test_nothing_on_the_way_shows_a_secret(tmp_path: Path) -> None:
    """Invariant 13: no value that carries a secret or a token between rooms has it in its `repr`."""
    async with Api(tmp_path) as api:
        owner = api.registry.application("acme").application
        read = NewEndpoint.model_validate({"url": URL, "secret": NEW, "secrets": [OLDER]}, context="written")
        claim = Claim("token:root", "key-of-the-client", NEW.encode())
        made = await api.registrar.create_endpoint(owner, read.draft(0), claim)
        key = await api.registrar.create_key("acme", KeyDraft("k"))
        carried = [read, read.draft(0), claim, made, key, read_rotation({"secret": NEW}, brings=True)]
        carried += [read_import({"lines": [{"relay": {"schema": 1}}, {"endpoint": {"secret": NEW}}]})]
    assert made.secret == NEW
    for secret in (NEW, OLDER, key.token, "key-of-the-client"):
        assert secret not in repr(carried)


# -- rotating -------------------------------------------------------------------------------------------------------------


async def test_a_rotation_to_a_given_secret(tmp_path: Path) -> None:
    """K13: an admin rotates to a secret that the receiver has; the old one signs along; a repeat changes nothing."""
    async with Api(tmp_path) as api:
        await bring(api, id="moved", secret=OLDER)
        rotate = f"{PATH}/moved/rotate-secret"
        first = await api.call("POST", rotate, {"secret": NEW, "overlap": "1h"})
        before = await secrets_of(api, "moved")
        again = await api.call("POST", rotate, {"secret": NEW, "overlap": "1h"})
        after = await secrets_of(api, "moved")
        back = await api.call("POST", rotate, {"secret": OLDER, "overlap": "0s"})
        last = await secrets_of(api, "moved")
    assert (first.status, first.json["secret"], first.json["secrets"]) == (200, NEW, 2)
    assert [each["secret"] for each in before["secrets"]] == [NEW, OLDER]
    assert (again.status, after) == (200, before)
    assert (back.status, last["secrets"]) == (200, [{"secret": OLDER, "expires_at": None}])


async def test_a_rotation_stays_with_its_kind_of_secret(tmp_path: Path) -> None:
    """K13: who was brought along with an ed25519 key verifies by a public half, and is rotated to another such key."""
    pair = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
    given = "whsk_" + b64encode(bytes(range(32)) + pair.public_key().public_bytes_raw()).decode()
    async with Api(tmp_path) as api:
        made = await bring(api, id="moved", secret=given)
        rotated = await api.call("POST", f"{PATH}/moved/rotate-secret", {})
    assert made.json["secret"] == given
    assert rotated.json["secret"].startswith("whsk_")
    assert rotated.json["secret"] != given


async def test_a_rotation_to_what_cannot_sign_changes_nothing(tmp_path: Path) -> None:
    """K13: a given secret is judged by the contract's rules; both mistakes of a call are named."""
    async with Api(tmp_path) as api:
        await bring(api, id="moved", secret=OLDER)
        rotate = f"{PATH}/moved/rotate-secret"
        wrong = await api.call("POST", rotate, {"secret": "whsec_AAAA"})
        both = await api.call("POST", rotate, {"secret": 5, "overlap": "soon"})
        found = await secrets_of(api, "moved")
    assert list(mistakes(wrong)) == ["/secret"]
    assert sorted(mistakes(both)) == ["/overlap", "/secret"]
    assert found["secret"] == OLDER


# -- the file -------------------------------------------------------------------------------------------------------------


async def test_the_file_says_how_its_secrets_rotate(tmp_path: Path) -> None:
    """K13: the API does not rotate what the file defines, and says how it is done there."""
    async with Api(tmp_path) as api:
        answer = await api.call("POST", f"{PATH}/primary/rotate-secret", {"secret": NEW})
    assert (answer.status, answer.json["type"]) == (409, "managed_by_file")
    assert "secrets = [new, old]" in answer.json["detail"]


async def test_an_endpoint_that_left_the_file_is_taken_over(tmp_path: Path) -> None:
    """K13: an endpoint moves from the file into the API by its id: its history and what is due stay, and it rotates there."""
    async with Api(tmp_path) as api:
        api.courier.script = [500]
        event = await api.post_event()
        await api.delivery_of(event, "due", attempts=1)
        without = CONFIG | {"application": [{"id": "acme"}, {"id": "globex"}]}
        await api.apply(without)
        assert api.registry.endpoint("primary").held
        foreign = await bring(api, id="primary", application="globex")
        taken = await bring(api, id="primary", secret=NEW, url="https://acme.example/hooks")
        assert (taken.status, taken.json["origin"], taken.json["due"]) == (201, "api", 1), taken.text
        rotated = await api.call("POST", f"{PATH}/primary/rotate-secret", {"secret": OLDER})
        assert rotated.status == 200
        api.clock.advance(5_000)
        await api.delivery_of(event, "delivered", attempts=2)
    assert (foreign.status, foreign.json["type"]) == (409, "endpoint_exists")
