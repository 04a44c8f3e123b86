"""Keys of applications: tokens that come and go while the relay runs, and what they open."""

from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

from relay.core.access import Principal, Role, Token
from relay.core.errors import StoreUnavailable
from relay.registry.registrar import KEYS_MAX
from relay.registry.tokens import TokenTable, digest_of
from tests.support.api import CONFIG, Answer, Api
from tests.support.clock import FakeClock

PATH = "/v1/applications"
ENDPOINTS = "/v1/webhook-endpoints"
URL = "https://receiver.example/hooks"
KEY = Principal("key_1", Role.APPLICATION, "acme")


async def key_of(api: Api, application: str = "acme", **fields: Any) -> dict[str, Any]:
    """Make a key; it must be accepted."""
    answer = await api.call("POST", f"{PATH}/{application}/keys", fields)
    assert answer.status == 201, answer.text
    key = answer.json
    assert isinstance(key, dict)
    return key


# -- the table --------------------------------------------------------------------------------------------------------


def test_a_key_is_found_until_it_expires() -> None:
    """Expiry follows the clock: the last millisecond before it still counts."""
    clock = FakeClock()
    table = TokenTable((), clock.wall_ms)
    table.admit(digest_of("rk_x"), KEY, clock.wall_ms() + 1_000)
    assert table.find("rk_x") == KEY
    clock.advance(999)
    assert table.find("rk_x") == KEY
    clock.advance(1)
    assert table.find("rk_x") is None


def test_a_key_without_expiry_stays() -> None:
    """A key that does not expire needs no clock; one that does counts as expired without one."""
    table = TokenTable()
    table.admit(digest_of("rk_x"), KEY, None)
    table.admit(digest_of("rk_y"), KEY, 1 << 50)
    assert (table.find("rk_x"), table.find("rk_y")) == (KEY, None)


def test_a_reload_leaves_keys_alone() -> None:
    """Replacing the configured tokens takes no key away, and dismissing a key no token."""
    configured = Token("ops", Role.ADMIN, None, "admin-secret-0123456")
    table = TokenTable([configured])
    table.admit(digest_of("rk_x"), KEY, None)
    table.replace([])
    assert (table.find("rk_x"), table.find(configured.secret)) == (KEY, None)
    table.replace([configured])
    table.dismiss(digest_of("rk_x"))
    assert table.find("rk_x") is None
    assert table.find(configured.secret) is not None
    table.dismiss(digest_of("rk_x"))  # twice is once


def test_the_table_keeps_no_token() -> None:
    """Only digests are kept, and they are compared in constant time (reliability §3.3)."""
    table = TokenTable()
    table.admit(digest_of("rk_secret"), KEY, None)
    assert "rk_secret" not in repr(vars(table))
    assert digest_of("rk_secret") == sha256(b"rk_secret").digest()


# -- making and revoking ----------------------------------------------------------------------------------------------


async def test_a_key_is_a_token_of_256_random_bits(tmp_path: Path) -> None:
    """A key's token is long, shown once, kept as a digest, and every one is another."""
    async with Api(tmp_path) as api:
        one, two = await key_of(api, name="ci"), await key_of(api)
        listed = await api.call("GET", f"{PATH}/acme/keys")
        rows = (await api.store.load_registry()).keys
    assert one["token"] != two["token"]
    assert one["token"].startswith("rk_")
    assert len(one["token"]) == 3 + 43  # 32 bytes in base64 without padding
    assert one["token"].encode() not in listed.text
    assert [key["id"] for key in listed.json["data"]] == [two["id"], one["id"]]
    assert listed.json["data"][1] == {name: value for name, value in one.items() if name != "token"}
    assert one["token"].startswith(one["prefix"])
    assert rows[0].digest == sha256(one["token"].encode()).digest()
    assert one["token"] not in repr(rows)


async def test_a_key_expires_by_the_clock(tmp_path: Path) -> None:
    """From `expires_at` on the key is refused like an unknown one, and the list says that it is over."""
    async with Api(tmp_path) as api:
        key = await key_of(api, expires_at="2100-01-01T00:00:00+01:00")
        assert key["expires_at"] == "2099-12-31T23:00:00.000Z"
        assert (await api.call("GET", ENDPOINTS, by=key["token"])).status == 200
        api.clock.advance(4_102_441_200_000 - api.clock.wall_ms())
        assert (await api.call("GET", ENDPOINTS, by=key["token"])).status == 401
        (listed,) = (await api.get(f"{PATH}/acme/keys"))["data"]
    assert (key["expired"], listed["expired"]) == (False, True)


async def test_a_revoked_key_ends_at_once(tmp_path: Path) -> None:
    """The next request with a revoked key is refused, on the same connection too; other keys go on."""
    async with Api(tmp_path) as api:
        gone, kept = await key_of(api), await key_of(api)
        assert (await api.call("GET", ENDPOINTS, by=gone["token"])).status == 200
        answer = await api.call("DELETE", f"{PATH}/acme/keys/{gone['id']}")
        assert (answer.status, answer.text) == (204, b"")
        assert (await api.call("GET", ENDPOINTS, by=gone["token"])).status == 401
        assert (await api.call("GET", ENDPOINTS, by=kept["token"])).status == 200
        assert (await api.call("DELETE", f"{PATH}/acme/keys/{gone['id']}")).status == 404


async def test_keys_survive_a_restart_and_revocations_too(tmp_path: Path) -> None:
    """What was made is learned from the database at the next start; what was revoked is not."""
    async with Api(tmp_path) as api:
        kept, gone = await key_of(api), await key_of(api)
        await api.call("DELETE", f"{PATH}/acme/keys/{gone['id']}")
    async with Api(tmp_path) as api:
        assert (await api.call("GET", ENDPOINTS, by=kept["token"])).status == 200
        assert (await api.call("GET", ENDPOINTS, by=gone["token"])).status == 401


async def test_a_revocation_that_failed_is_not_believed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """When the database could not note it, the caller is told so and the key still works: nobody is misled."""
    async with Api(tmp_path) as api:
        key = await key_of(api)

        async def fail(*_: object) -> None:
            raise StoreUnavailable("the disk is full", remedy="Wait.")

        with monkeypatch.context() as patched:
            patched.setattr(type(api.store), "change_registry", fail)
            assert (await api.call("DELETE", f"{PATH}/acme/keys/{key['id']}")).status == 503
        assert (await api.call("GET", ENDPOINTS, by=key["token"])).status == 200


async def test_a_key_of_another_application_is_not_there(tmp_path: Path) -> None:
    """A key is revoked under its own application only."""
    async with Api(tmp_path) as api:
        key = await key_of(api)
        assert (await api.call("DELETE", f"{PATH}/globex/keys/{key['id']}")).status == 404
        assert (await api.call("GET", ENDPOINTS, by=key["token"])).status == 200
        assert (await api.get(f"{PATH}/globex/keys"))["data"] == []


async def test_there_is_an_end_to_keys(tmp_path: Path) -> None:
    """An application has a hundred keys at most; the next is refused (409)."""
    async with Api(tmp_path) as api:
        for _ in range(KEYS_MAX):
            await key_of(api)
        answer = await api.call("POST", f"{PATH}/acme/keys")
    assert (answer.status, answer.json["type"]) == (409, "too_many_keys")


# -- what a key opens -------------------------------------------------------------------------------------------------


async def test_a_key_implies_its_application(tmp_path: Path) -> None:
    """With a key `application` is left out everywhere, and what is made belongs to its own."""
    async with Api(tmp_path) as api:
        token = (await key_of(api, "globex"))["token"]
        mine = await api.call("POST", ENDPOINTS, {"url": URL}, by=token)
        event = await api.post_event(application="globex")
        await api.post_event(application="acme")
        delivery = await api.delivery_of(event, "delivered")
        lists = {
            path: (await api.get(f"/v1/{path}", by=token))["data"]
            for path in ("webhook-endpoints", "events", "deliveries", "dead-letters")
        }
        test = await api.call("POST", f"{ENDPOINTS}/{mine.json['id']}/test", by=token)
        retry = await api.call("POST", f"/v1/deliveries/{delivery['id']}/retry", by=token)
    assert mine.json["application"] == "globex"
    assert [one["id"] for one in lists["webhook-endpoints"]] == [mine.json["id"]]
    assert [one["id"] for one in lists["events"]] == [event]
    assert [one["id"] for one in lists["deliveries"]] == [delivery["id"]]
    assert lists["dead-letters"] == []
    assert (test.status, retry.status < 300) == (200, True)


FOREIGN = [
    ("GET", "/v1/webhook-endpoints/{endpoint}"),
    ("PATCH", "/v1/webhook-endpoints/{endpoint}"),
    ("DELETE", "/v1/webhook-endpoints/{endpoint}"),
    ("POST", "/v1/webhook-endpoints/{endpoint}/pause"),
    ("POST", "/v1/webhook-endpoints/{endpoint}/resume"),
    ("POST", "/v1/webhook-endpoints/{endpoint}/enable"),
    ("POST", "/v1/webhook-endpoints/{endpoint}/disable"),
    ("POST", "/v1/webhook-endpoints/{endpoint}/rotate-secret"),
    ("POST", "/v1/webhook-endpoints/{endpoint}/test"),
    ("GET", "/v1/events/{event}"),
    ("GET", "/v1/events/{event}/deliveries"),
    ("GET", "/v1/deliveries/{delivery}"),
    ("POST", "/v1/deliveries/{delivery}/retry"),
    ("POST", "/v1/deliveries/{delivery}/cancel"),
    ("GET", "/v1/webhook-endpoints?application=acme"),
    ("GET", "/v1/events?application=acme"),
    ("GET", "/v1/deliveries?application=acme"),
    ("GET", "/v1/dead-letters?application=acme"),
    ("GET", "/v1/event-types?application=acme"),
    ("GET", "/v1/event-types/webhook.test?application=acme"),
]
UNKNOWN = {"endpoint": "ep_absent", "event": "evt_absent", "delivery": "dlv_absent"}


async def test_what_belongs_to_others_is_not_there(tmp_path: Path) -> None:
    """For every call with an id, a foreign one is 404 in the very words of one that never was, and nothing happens."""
    async with Api(tmp_path) as api:
        token = (await key_of(api, "globex"))["token"]
        event = await api.post_event(application="acme")
        known = {"endpoint": "primary", "event": event, "delivery": (await api.delivery_of(event, "delivered"))["id"]}
        before = await api.get("/v1/webhook-endpoints/primary")
        for method, path in FOREIGN:
            answer = await api.call(method, path.format(**known), by=token)
            never = await api.call(method, path.format(**UNKNOWN).replace("=acme", "=nowhere"), by=token)
            assert (answer.status, never.status) == (404, 404), (method, path, answer.text)
            assert worded(answer, known) == worded(never, UNKNOWN), (method, path)
        assert (await api.get("/v1/webhook-endpoints/primary")) == before
        assert len(api.courier.requests) == 1


def worded(answer: Answer, ids: dict[str, str]) -> str:
    """What a problem says, without the id that was asked for."""
    text = answer.text.decode()
    for named in (*ids.values(), "acme", "nowhere"):
        text = text.replace(named, "X")
    return text


async def test_an_application_of_others_cannot_be_named(tmp_path: Path) -> None:
    """A creation that names another application is 404, whether that one exists or not."""
    async with Api(tmp_path) as api:
        token = (await key_of(api, "globex"))["token"]
        answers = [
            await api.call("POST", ENDPOINTS, {"url": URL, "application": name}, by=token)
            for name in ("acme", "nowhere")
        ]
    assert [answer.status for answer in answers] == [404, 404]
    assert answers[0].text.replace(b"acme", b"X") == answers[1].text.replace(b"nowhere", b"X")


async def test_a_key_opens_nothing_else(tmp_path: Path) -> None:
    """A key sees neither the daemon's status nor other applications' administration, and reloads nothing."""
    async with Api(tmp_path) as api:
        token = (await key_of(api))["token"]
        for method, path in (("GET", "/v1/status"), ("GET", "/metrics"), ("POST", "/v1/reload"), ("GET", PATH)):
            assert (await api.call(method, path, by=token)).status == 403, path


async def test_a_key_of_an_application_that_left_the_file_finds_it_again(tmp_path: Path) -> None:
    """Keys of an application of the file outlast its absence; meanwhile they can make nothing."""
    async with Api(tmp_path) as api:
        token = (await key_of(api, "globex"))["token"]
    without = CONFIG | {"application": [CONFIG["application"][0]]}
    async with Api(tmp_path, without) as api:
        assert (await api.call("POST", ENDPOINTS, {"url": URL}, by=token)).status == 404
    async with Api(tmp_path) as api:
        assert (await api.call("POST", ENDPOINTS, {"url": URL}, by=token)).status == 201
