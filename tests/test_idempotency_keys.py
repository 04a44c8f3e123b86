"""The header `Idempotency-Key` on every call that makes something: repeats, conflicts, scopes, and what the database keeps."""

import asyncio
import sqlite3
from pathlib import Path
from typing import Any

import pytest
from aiohttp import hdrs

from relay.store.sqlite import registry as rows
from tests.support.api import CONFIG, Answer, Api
from tests.support.stack import Stack
from tests.test_api_routes import OWN, Caller, MatrixApi, Role, Things, body_of, fill

ADMIN = Caller("admin", Role.ADMIN)
ENDPOINTS = "/v1/webhook-endpoints"
URL = {"url": "https://receiver.example/hooks"}

MAKES_NOTHING = {
    "/v1/events": "an event has keys of its own, which are the intake's",
    "/v1/events/batch": "each event has a key of its own",
    "/v1/deliveries/{id}/retry": "a delivery that is due stays so",
    "/v1/deliveries/{id}/cancel": "what is cancelled cannot be cancelled again",
    "/v1/deliveries/cancel": "likewise, of many",
    "/v1/deliveries/retry": "likewise, of many",
    "/v1/dead-letters/drop": "what was dropped is dead no more",
    "/v1/dead-letters/note": "the note stays the same",
    "/v1/webhook-endpoints/{id}/retry-now": "what is due now stays so",
    "/v1/replays/{id}/cancel": "what is over cannot be cancelled",
    "/v1/webhook-endpoints/{id}/pause": "a state",
    "/v1/webhook-endpoints/{id}/resume": "a state",
    "/v1/webhook-endpoints/{id}/enable": "a state",
    "/v1/webhook-endpoints/{id}/disable": "a state",
    "/v1/webhook-endpoints/{id}/probe": "an attempt of what is due",
    "/v1/webhook-endpoints/{id}/test": "nothing is stored",
    "/v1/webhook-endpoints/{id}/verify": "what a receiver agreed to stays",
    "/v1/filters/try": "nothing is stored",
    "/v1/import": "what is there already, by its id, stays as it is",
    "/v1/rekey": "what is encrypted with the newest key stays so",
    "/v1/reload": "what the file says, however often",
}
"""The calls with POST that make nothing which a repeat would make twice. Any other must take the header."""


async def keyed(api: Api, path: str, body: Any, key: str = "k-1", by: str = "root") -> Answer:
    return await api.call("POST", path, body, by=by, headers={"Idempotency-Key": key})


def facts(api: Api) -> tuple[int, int, int, list[tuple[str, ...]]]:
    """What there is: applications, endpoints, keys, and the secrets of each endpoint."""
    owners = api.registry.applications.values()
    secrets = [tuple(each.value for each in endpoint.secrets) for endpoint in api.registry.endpoints.values()]
    return len(owners), len(secrets), sum(len(owner.keys) for owner in owners), secrets


async def test_every_call_that_makes_something_takes_the_header(tmp_path: Path) -> None:
    """Made from the table of calls: repeated with its key, each that makes something answers the same and makes nothing."""
    async with MatrixApi(tmp_path, {"delivery": CONFIG["delivery"]}) as api:
        own = await api.make(OWN)
        calls = {route.path: route for route in api.relay.routes if route.method == hdrs.METH_POST}
        assert MAKES_NOTHING.keys() <= calls.keys()
        making = [route for path, route in calls.items() if path not in MAKES_NOTHING]
        assert len(making) >= 4
        for route in making:
            path, body = fill(route.path, own), body_of(route, **named(route.path))
            first = await keyed(api, path, body, route.path[:200], ADMIN.token)
            after = facts(api)
            again = await keyed(api, path, body, route.path[:200], ADMIN.token)
            assert first.status in (200, 201), (route, first.text)
            assert (again.status, again.json) == (first.status, first.json), route
            assert "Idempotent-Replayed" not in first.headers
            assert again.headers["Idempotent-Replayed"] == "true"
            assert again.headers.get("Location") == first.headers.get("Location")
            assert facts(api) == after, route
            other = await keyed(
                api, path, {"overlap": "1h", "name": "x", "url": "https://x.example/"}, route.path[:200], ADMIN.token
            )
            assert other.status in (409, 422), route


def named(path: str) -> Things:
    """Whose endpoint an unbound token makes."""
    return {"application": OWN} if path == ENDPOINTS else {}


async def test_without_the_header_a_repeat_makes_another(tmp_path: Path) -> None:
    """Negative control: the same call twice, with no key or with two, makes two endpoints."""
    async with Api(tmp_path) as api:
        plain = [await api.call("POST", ENDPOINTS, URL, by="acme-app") for _ in range(2)]
        others = [await keyed(api, ENDPOINTS, URL, key, "acme-app") for key in ("a", "b")]
    assert len({answer.json["id"] for answer in (*plain, *others)}) == 4


@pytest.mark.parametrize(
    ("path", "body"), [(ENDPOINTS, URL | {"timeout": "3s"}), (ENDPOINTS, URL | {"event_types": ["a"]})]
)
async def test_another_body_is_a_conflict(tmp_path: Path, path: str, body: dict[str, Any]) -> None:
    """A key that came with another body is 409 and makes nothing; the order of members makes no other body."""
    async with Api(tmp_path) as api:
        first = await keyed(api, path, URL | {"timeout": "5s"}, by="acme-app")
        turned = await keyed(api, path, b'{"timeout": "5s",  "url": "https://receiver.example/hooks"}', by="acme-app")
        before = facts(api)
        other = await keyed(api, path, body, by="acme-app")
        elsewhere = await keyed(api, f"{ENDPOINTS}/{first.json['id']}/rotate-secret", {}, by="acme-app")
        assert facts(api) == before
    assert turned.json == first.json
    assert [(answer.status, answer.json["type"]) for answer in (other, elsewhere)] == [
        (409, "idempotency_conflict")
    ] * 2


async def test_keys_belong_to_an_application_or_a_token(tmp_path: Path) -> None:
    """Two applications, and an unbound token, may use the same key; two keys of one application share theirs."""
    async with Api(tmp_path) as api:
        made = [await keyed(api, ENDPOINTS, URL, by=by) for by in ("acme-app", "globex-app")]
        made += [await keyed(api, ENDPOINTS, URL | {"application": "acme"})]
        token = (await api.call("POST", "/v1/applications/acme/keys", {})).json["token"]
        again = await keyed(api, ENDPOINTS, URL, by=token)
    assert len({answer.json["id"] for answer in made}) == 3
    assert again.json == made[0].json


async def test_two_at_once_make_one(tmp_path: Path) -> None:
    """The same call twice at the same time makes one endpoint, and both answers have it with its secret."""
    async with Api(tmp_path) as api:
        answers = await asyncio.gather(*(keyed(api, ENDPOINTS, URL, by="acme-app") for _ in range(5)))
        assert len(api.registry.endpoints) == 2
    assert all(answer.json == answers[0].json for answer in answers)
    assert [answer.headers.get("Idempotent-Replayed") for answer in answers].count("true") == 4


async def test_a_repeat_is_answered_after_a_crash(tmp_path: Path) -> None:
    """A client that lost the answer asks again after the relay crashed, and gets id, secret and token."""
    body = {"id": "initech", "endpoint": URL, "key": True}
    api = Api(tmp_path)
    await api.start()
    first = await keyed(api, "/v1/applications", body)
    await api.crash()
    async with Api(tmp_path) as api:
        again = await keyed(api, "/v1/applications", body)
        entered = await api.call("GET", ENDPOINTS, by=again.json["key"]["token"])
    assert first.status == 201
    assert again.json == first.json
    assert entered.status == 200


async def test_a_commit_that_nobody_knows_of_is_asked_about(tmp_path: Path) -> None:
    """After 503 `outcome_unknown` the repeat makes one endpoint at most, whether the commit was kept or not."""
    async with Api(tmp_path) as api:
        with api.gate.after_commit(sqlite3.OperationalError("simulated")):
            lost = await keyed(api, ENDPOINTS, URL, by="acme-app")
        await api.store.ping()
        again = await keyed(api, ENDPOINTS, URL, by="acme-app")
        assert len(api.registry.endpoints) == 2
    assert lost.status == 503
    assert again.status == 201


async def test_what_is_gone_is_not_made_again(tmp_path: Path) -> None:
    """A repeat for what was deleted since is 409 `made_before`; a secret that no longer signs is not shown again."""
    async with Api(tmp_path) as api:
        made = (await keyed(api, ENDPOINTS, URL, by="acme-app")).json
        await api.call("POST", f"{ENDPOINTS}/{made['id']}/rotate-secret", {"overlap": "1h"}, by="acme-app")
        overlapping = await keyed(api, ENDPOINTS, URL, by="acme-app")
        await api.call("POST", f"{ENDPOINTS}/{made['id']}/rotate-secret", {"overlap": "0s"}, by="acme-app")
        ended = await keyed(api, ENDPOINTS, URL, by="acme-app")
        await api.call("DELETE", f"{ENDPOINTS}/{made['id']}", by="acme-app")
        gone = await keyed(api, ENDPOINTS, URL, by="acme-app")
        assert list(api.registry.endpoints) == ["primary"]
    assert overlapping.json["secret"] == made["secret"]
    assert (ended.status, ended.json["id"], ended.json["secret"]) == (201, made["id"], None)
    assert (gone.status, gone.json["type"]) == (409, "made_before")


@pytest.mark.parametrize("algorithm", ["rsa-sha256", "ecdsa-p256-sha256", "hmac-sha256"])
async def test_a_repeat_has_the_secret_of_every_kind(tmp_path: Path, algorithm: str) -> None:
    """Whatever a contract signs with, and whoever brought the secret, a repeat shows the one that was made or given."""
    decode = "" if algorithm == "hmac-sha256" else 'key = { decode = "base64" }'
    (tmp_path / "contracts").mkdir()
    (tmp_path / "contracts" / "own.toml").write_text(CONTRACT.format(algorithm=algorithm, key=decode))
    async with Stack(tmp_path) as stack:
        keyed = {"Idempotency-Key": "k"}
        body = {"id": "initech", "contract": "own", "endpoint": {"url": "http://127.0.0.1:9/"}}
        made = [await stack.call("POST", "/v1/applications", body, headers=keyed) for _ in range(2)]
        secret = made[0][1]["endpoint"]["secret"]
        given = {"url": "http://127.0.0.1:9/", "application": "initech", "secret": secret}
        brought = [
            await stack.call("POST", ENDPOINTS, given, headers=keyed | {"Idempotency-Key": "k2"}) for _ in range(2)
        ]
    assert made[0][0] == 201, made
    assert made[0] == made[1]
    assert brought[0] == brought[1]
    assert brought[1][1]["secret"] == secret


CONTRACT = """
description = "Signs"
[types]
catalogue = "open"
[body]
members = [{{ name = "data", value = "{{data}}" }}]
[[signature]]
header = "X-Signature"
algorithm = "{algorithm}"
encoding = "base64"
{key}
"""


async def test_a_refused_call_keeps_no_key(tmp_path: Path) -> None:
    """A call that made nothing leaves its key free: mended, it may come with the same."""
    async with Api(tmp_path) as api:
        wrong = await keyed(api, ENDPOINTS, {"url": "nowhere"}, by="acme-app")
        right = await keyed(api, ENDPOINTS, URL, by="acme-app")
        empty = await keyed(api, ENDPOINTS, URL, "two words", "acme-app")
        long = await keyed(api, ENDPOINTS, URL, "k" * 256, "acme-app")
    assert (wrong.status, right.status, empty.status, long.status) == (422, 201, 422, 422)
    assert "Idempotency-Key" in empty.json["errors"][0]["message"]


async def test_the_database_keeps_no_second_copy(tmp_path: Path) -> None:
    """Of key, secret and token the record holds nothing in clear; a given secret cannot be tried against it either."""
    body = {"id": "initech", "endpoint": URL, "key": True}
    async with Api(tmp_path) as api:
        made = (await keyed(api, "/v1/applications", body, "key-of-the-client")).json
        with sqlite3.connect(tmp_path / "relay.db") as database:
            (record,) = database.execute("SELECT * FROM creation_record").fetchall()
        database.close()
    text = b"|".join(part if isinstance(part, bytes) else str(part).encode() for part in record)
    for secret in ("key-of-the-client", made["endpoint"]["secret"], made["key"]["token"], URL["url"]):
        assert secret.encode() not in text
    assert made["endpoint"]["id"].encode() in text


async def test_keys_are_remembered_for_their_retention(tmp_path: Path) -> None:
    """After `storage.retention.idempotency` a key is free again, and its row is gone."""
    async with Api(tmp_path) as api:
        first = await keyed(api, ENDPOINTS, URL, by="acme-app")
        api.clock.advance(api.config.storage.retention.idempotency_ms - 1)
        await api.relay.housekeeping.prune_once()
        kept = await keyed(api, ENDPOINTS, URL, by="acme-app")
        api.clock.advance(2)
        await api.relay.housekeeping.prune_once()
        anew = await keyed(api, ENDPOINTS, URL, by="acme-app")
    assert kept.json["id"] == first.json["id"]
    assert anew.json["id"] != first.json["id"]


async def test_a_scope_remembers_so_many_keys(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Beyond `RECORDS_MAX` keys of one scope the oldest is forgotten, and those of others stay."""
    monkeypatch.setattr(rows, "RECORDS_MAX", 3)
    async with Api(tmp_path) as api:
        other = await keyed(api, ENDPOINTS, URL, "1", "globex-app")
        made = []
        for key in ("1", "2", "3", "4"):
            api.clock.advance(1)
            made.append((await keyed(api, ENDPOINTS, URL, key, "acme-app")).json["id"])
        assert (await keyed(api, ENDPOINTS, URL, "4", "acme-app")).json["id"] == made[3]
        assert (await keyed(api, ENDPOINTS, URL, "2", "acme-app")).json["id"] == made[1]
        assert (await keyed(api, ENDPOINTS, URL, "1", "acme-app")).json["id"] not in made
        assert (await keyed(api, ENDPOINTS, URL, "1", "globex-app")).json["id"] == other.json["id"]
