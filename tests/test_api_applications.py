"""Applications through the API: made with what they begin with, read, changed, deleted."""

import asyncio
from pathlib import Path
from typing import Any

import pytest

from relay.core.errors import ConfigError, StoreUnavailable
from relay.core.units import format_time
from relay.store.sqlite import SqliteStore, StoreSettings
from relay.store.sqlite.background import CANCEL_STEP
from tests.support.api import CONFIG, Api
from tests.support.clock import FakeClock

PATH = "/v1/applications"
ENDPOINTS = "/v1/webhook-endpoints"
HOOK = {"url": "https://receiver.example/hooks", "event_types": ["render.completed"]}


async def made(api: Api, **fields: Any) -> dict[str, Any]:
    """Make an application; it must be accepted."""
    answer = await api.call("POST", PATH, fields)
    assert answer.status == 201, answer.text
    application = answer.json
    assert isinstance(application, dict)
    return application


def pointers(problem: dict[str, Any]) -> list[str]:
    return sorted(error["pointer"] for error in problem["errors"])


# -- making -----------------------------------------------------------------------------------------------------------


async def test_an_application_its_endpoint_and_its_key_are_made_in_one_call(tmp_path: Path) -> None:
    """One call answers with all three; the key works at once, and sees that endpoint."""
    fields = {
        "id": "initech",
        "name": "Initech GmbH",
        "contract": "wochit",
        "features": {"drafts": True},
        "validation": "warn",
        "timeout": "3s",
        "retry": {"schedule": ["1s", "1m"], "jitter": 0.5},
        "max_age": "1d",
    }
    async with Api(tmp_path) as api:
        extras = {"endpoint": {"url": "https://receiver.example/hooks"}, "key": {"name": "ci"}}
        answer = await api.call("POST", PATH, fields | extras)
        shown = await api.get(answer.headers["Location"])
        token = answer.json["key"]["token"]
        (endpoint,) = (await api.get(ENDPOINTS, by=token))["data"]
    assert answer.status == 201
    assert shown == {name: answer.json[name] for name in shown}
    expected = fields | {"features": {"drafts": True, "failures": False}, "origin": "api", "present": True}
    assert {name: shown[name] for name in expected} == expected
    assert (shown["endpoints"], shown["keys"]) == (1, 1)
    assert endpoint["id"] == answer.json["endpoint"]["id"]
    assert (endpoint["timeout"], endpoint["retry"], endpoint["max_age"]) == ("3s", fields["retry"], "1d")
    assert answer.json["endpoint"]["secret"] is None, "wochit signs nothing (WOC-13)"


async def test_everything_has_a_default(tmp_path: Path) -> None:
    """An empty object makes an application with a generated id on the contract `standard`."""
    async with Api(tmp_path) as api:
        application = await made(api)
    assert application["id"].startswith("app_")
    assert (application["contract"], application["validation"], application["name"]) == ("standard", "strict", "")
    assert (application["timeout"], application["retry"], application["max_age"]) == (None, None, None)
    assert not {"endpoint", "key"} & set(application)


async def test_what_is_shown_once_is_shown_once(tmp_path: Path) -> None:
    """Neither the endpoint's secret nor the key's token is in any later answer (invariant 13)."""
    async with Api(tmp_path) as api:
        application = await made(api, id="initech", endpoint=HOOK, key=True)
        one = f"{PATH}/initech"
        answers = [
            await api.call("GET", PATH),
            await api.call("GET", one),
            await api.call("PATCH", one, {"name": "x"}),
            await api.call("GET", f"{one}/keys"),
            await api.call("GET", ENDPOINTS),
        ]
        assert b"rk_" not in (tmp_path / "relay.db").read_bytes().replace(application["key"]["prefix"].encode(), b"")
    assert all(answer.status == 200 for answer in answers)
    for secret in (application["endpoint"]["secret"], application["key"]["token"]):
        assert len(secret) > 40
        assert not any(secret.encode() in answer.text for answer in answers)


async def test_every_mistake_is_told_with_its_pointer(tmp_path: Path) -> None:
    """Mistakes of the application, its endpoint and its key come together, and nothing is made."""
    wrong = {
        "id": "in itech",
        "contract": "roughy",
        "features": {"drafts": True},
        "max_age": "31d",
        "endpoint": {"url": "http://receiver.example/", "event_types": ["cut.completed", "cut.exploded"]},
        "key": {"expires_at": "2001-01-01T00:00:00Z", "colour": "red"},
    }
    async with Api(tmp_path, CONFIG | {"delivery": {}}) as api:
        formal = await api.call("POST", PATH, wrong)
        answer = await api.call("POST", PATH, wrong | {"id": "initech", "key": {"expires_at": "2001-01-01T00:00:00Z"}})
        assert set(api.registry.applications) == {"acme", "globex"}
    assert formal.status == 422
    assert pointers(formal.json) == sorted([*pointers(answer.json), "/id", "/key/colour"])  # T8: in one round
    assert pointers(answer.json) == [
        "/endpoint/event_types/1",
        "/endpoint/url",
        "/features/drafts",
        "/key/expires_at",
        "/max_age",
    ]


@pytest.mark.parametrize(
    ("fields", "pointer"),
    [
        ({"colour": "red"}, "/colour"),
        ({"contract": "rotr"}, "/contract"),
        ({"contract": 5}, "/contract"),
        ({"validation": "maybe"}, "/validation"),
        ({"features": {"drafts": 1}}, "/features/drafts"),
        ({"endpoint": {}}, "/endpoint/url"),
        ({"endpoint": "https://receiver.example/"}, "/endpoint"),
        ({"key": 5}, "/key"),
        ({"key": {"expires_at": "tomorrow"}}, "/key/expires_at"),
        ({"key": {"expires_at": "2030-01-01T00:00:00"}}, "/key/expires_at"),
        ({"key": {"colour": "red"}}, "/key/colour"),
        ({"retry": {"schedule": ["soon"]}}, "/retry/schedule/0"),
    ],
)
async def test_a_mistake_has_its_pointer(tmp_path: Path, fields: dict[str, Any], pointer: str) -> None:
    """Each wrong member is refused where it stands."""
    async with Api(tmp_path) as api:
        answer = await api.call("POST", PATH, fields)
    assert (answer.status, pointers(answer.json)) == (422, [pointer])


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"retry": {"schedule": "5s"}}, "must be a list"),
        ({"retry": {"jitter": 2}}, "must be at most 1.0"),
        ({"retry": {"delay": "5s"}}, "is not a field of retry; it has schedule, jitter"),
        ({"retry": "5s"}, "must be an object"),
        ({"features": []}, "must be an object"),
        ({"features": {"drafts": 1}}, "must be true or false"),
        ({"validation": "maybe"}, "must be 'strict', 'warn' or 'off'"),
        ({"name": "x" * 201}, "must have at most 200 characters"),
        ({"limits": {"backlog": "x"}}, "must be a whole number"),
        ({"limits": {"endpoints": -1}}, "must be at least 0"),
        ({"limits": {"rate": "5/s"}}, "is not a field of limits; it has endpoints, backlog, bytes, tests, definition"),
        ({"limits": {"tests": {"daily": 5}}}, "is not a field of tests; it has at_once, per_minute"),
        ({"limits": 5}, "must be an object"),
    ],
)
async def test_a_mistake_is_in_words_of_the_request(tmp_path: Path, fields: dict[str, Any], message: str) -> None:
    """T8: a mistake says what must stand there, in JSON's words, and names the fields of the object that it is in."""
    async with Api(tmp_path) as api:
        answer = await api.call("POST", PATH, fields)
    assert [error["message"] for error in answer.json["errors"]] == [message]


async def test_an_id_is_given_once(tmp_path: Path) -> None:
    """An id that the file, the API or a deleted application has is refused, and nothing else of the call is kept."""
    async with Api(tmp_path) as api:
        await made(api, id="initech")
        await api.call("DELETE", f"{PATH}/initech")
        await made(api, id="hooli")
        answers = [await api.call("POST", PATH, {"id": id, "endpoint": HOOK}) for id in ("acme", "hooli", "initech")]
        assert list(api.registry.endpoints) == ["primary"]
    assert [(answer.status, answer.json["type"]) for answer in answers] == [(409, "application_exists")] * 3


async def test_only_an_admin_may(tmp_path: Path) -> None:
    """Every other role is refused every call (403), its own application included."""
    calls = [
        ("GET", PATH),
        ("POST", PATH),
        ("GET", f"{PATH}/acme"),
        ("PATCH", f"{PATH}/acme"),
        ("DELETE", f"{PATH}/acme"),
        ("GET", f"{PATH}/acme/keys"),
        ("POST", f"{PATH}/acme/keys"),
        ("DELETE", f"{PATH}/acme/keys/key_1"),
    ]
    async with Api(tmp_path) as api:
        for method, path in calls:
            for by in ("auditor", "acme-app", "acme-producer"):
                assert (await api.call(method, path, by=by)).status == 403, (method, path, by)
            assert (await api.call(method, path, by=None)).status == 401


# -- reading and changing ---------------------------------------------------------------------------------------------


async def test_applications_are_listed_newest_first(tmp_path: Path) -> None:
    """The list has those of the file and of the API, in pages."""
    async with Api(tmp_path) as api:
        await made(api, id="initech")
        first = await api.get(f"{PATH}?limit=2")
        second = await api.get(f"{PATH}?limit=2&cursor={first['next']}")
    assert [one["id"] for one in first["data"]] == ["initech", "globex"]
    assert [(one["id"], one["origin"], one["endpoints"]) for one in second["data"]] == [("acme", "file", 1)]
    assert second["next"] is None


async def test_a_change_reaches_the_endpoints(tmp_path: Path) -> None:
    """A patched setting holds for endpoints that leave it open; null takes it back (RFC 7396, Q6)."""
    async with Api(tmp_path) as api:
        application = await made(api, id="initech", contract="wochit", endpoint={"url": HOOK["url"]}, timeout="3s")
        one = f"{ENDPOINTS}/{application['endpoint']['id']}"
        changed = await api.call("PATCH", f"{PATH}/initech", {"timeout": "7s", "features": {"drafts": True}})
        faster = (await api.get(one))["timeout"]
        await api.call("PATCH", f"{PATH}/initech", {"timeout": None})
        assert api.registry.application("initech").application.features == {"drafts": True}
        assert api.registry.endpoints[application["endpoint"]["id"]].application.features == {"drafts": True}
        default = (await api.get(one))["timeout"]
    assert (changed.status, changed.json["timeout"], changed.json["features"]["drafts"]) == (200, "7s", True)
    assert (faster, default) == ("7s", "15s")


@pytest.mark.parametrize(
    ("patch", "pointer"),
    [
        ({"id": "other"}, "/id"),
        ({"colour": None}, "/colour"),
        ({"features": {"drafts": True}}, "/features/drafts"),
        ({"contract": "mine"}, "/contract"),
    ],
)
async def test_a_wrong_patch_changes_nothing(tmp_path: Path, patch: dict[str, Any], pointer: str) -> None:
    """Unknown members, the id, features the contract does not have and unknown contracts are refused."""
    async with Api(tmp_path) as api:
        await made(api, id="initech")
        before = await api.get(f"{PATH}/initech")
        answer = await api.call("PATCH", f"{PATH}/initech", {"name": "x", **patch})
        assert await api.get(f"{PATH}/initech") == before
    assert (answer.status, pointers(answer.json)) == (422, [pointer])


async def test_a_contract_changes_only_without_endpoints(tmp_path: Path) -> None:
    """Receivers were promised a contract: it changes while nobody receives, and is refused otherwise."""
    async with Api(tmp_path) as api:
        await made(api, id="initech", endpoint=HOOK)
        refused = await api.call("PATCH", f"{PATH}/initech", {"contract": "roughy"})
        (endpoint,) = (await api.get(f"{ENDPOINTS}?application=initech"))["data"]
        await api.call("DELETE", f"{ENDPOINTS}/{endpoint['id']}")
        changed = await api.call("PATCH", f"{PATH}/initech", {"contract": "roughy"})
    assert (refused.status, refused.json["type"]) == (409, "contract_in_use")
    assert (changed.status, changed.json["contract"]) == (200, "roughy")


async def test_the_file_manages_its_own(tmp_path: Path) -> None:
    """An application of the file can be read, and neither changed nor deleted (409 `managed_by_file`)."""
    async with Api(tmp_path) as api:
        assert (await api.get(f"{PATH}/acme"))["origin"] == "file"
        answers = [
            await api.call("PATCH", f"{PATH}/acme", {"name": "x"}),
            await api.call("DELETE", f"{PATH}/acme"),
        ]
    assert [(answer.status, answer.json["type"]) for answer in answers] == [(409, "managed_by_file")] * 2


async def test_unknown_applications_are_404(tmp_path: Path) -> None:
    """Every call about an application that there is not answers 404."""
    async with Api(tmp_path) as api:
        for method, path in (
            ("GET", f"{PATH}/x"),
            ("PATCH", f"{PATH}/x"),
            ("DELETE", f"{PATH}/x"),
            ("GET", f"{PATH}/x/keys"),
            ("POST", f"{PATH}/x/keys"),
            ("DELETE", f"{PATH}/x/keys/key_1"),
        ):
            assert (await api.call(method, path)).status == 404, (method, path)


# -- events and deletion ----------------------------------------------------------------------------------------------


async def test_events_of_a_new_application_go_to_its_endpoint_alone(tmp_path: Path) -> None:
    """An application made through the API takes part in matching at once, and no other one's endpoint does (ROT-1)."""
    async with Api(tmp_path) as api:
        application = await made(api, id="initech", endpoint=HOOK)
        delivery = await api.delivery_of(await api.post_event(application="initech"), "delivered")
        assert delivery["endpoint"] == application["endpoint"]["id"]
        assert [request.url for request in api.courier.requests] == [HOOK["url"]]


async def test_a_deleted_application_is_gone_with_all_it_had(tmp_path: Path) -> None:
    """DELETE ends keys at once, takes the endpoints away, and cancels what is due to them; history keeps its name."""
    async with Api(tmp_path) as api:
        application = await made(api, id="initech", endpoint=HOOK, key=True)
        endpoint, token = application["endpoint"]["id"], application["key"]["token"]
        await api.call("POST", f"{ENDPOINTS}/{endpoint}/pause")
        event = await api.post_event(application="initech")
        answer = await api.call("DELETE", f"{PATH}/initech")
        assert (await api.call("GET", ENDPOINTS, by=token)).status == 401
        assert (await api.call("GET", f"{PATH}/initech")).status == 404
        assert (await api.call("GET", f"{ENDPOINTS}/{endpoint}")).status == 404
        cancelled = await api.delivery_of(event, "cancelled")
        again = await api.call("DELETE", f"{PATH}/initech")
    assert (answer.status, answer.text, again.status) == (204, b"", 404)
    assert (cancelled["application"], cancelled["cancelled_by"]) == ("initech", "endpoint deleted")


async def test_a_large_backlog_is_cancelled_in_steps(tmp_path: Path) -> None:
    """What is due to a deleted application goes in steps of 500, after a restart too (Q11)."""
    assert CANCEL_STEP == 500
    async with Api(tmp_path) as api:
        application = await made(api, id="initech", endpoint=HOOK)
        endpoint = api.registry.endpoints[application["endpoint"]["id"]]
        await api.call("POST", f"{ENDPOINTS}/{endpoint.id}/pause")
        for _ in range(CANCEL_STEP + 100):
            await api.post_event(application="initech")
        assert (await api.call("DELETE", f"{PATH}/initech")).status == 204
        await api.store.abandon()  # before the steps are done, or between them
    store = await SqliteStore.open(StoreSettings(tmp_path / "relay.db"), FakeClock())
    try:

        async def done() -> bool:
            await store.ping()
            return store.due_count(endpoint.ref) == 0

        while not await done():  # each look waits for the writer to come to it: no time, no news
            pass
        assert [row.id for row in (await store.load_registry()).applications] == ["acme", "globex"]
    finally:
        await store.close()


async def test_a_deletion_that_failed_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """When the database takes no writes the application, its endpoint and its key go on."""
    async with Api(tmp_path) as api:
        application = await made(api, id="initech", endpoint=HOOK, key=True)

        async def fail(*_: object) -> None:
            raise StoreUnavailable("the disk is full", remedy="Wait.")

        with monkeypatch.context() as patched:
            patched.setattr(type(api.store), "change_registry", fail)
            assert (await api.call("DELETE", f"{PATH}/initech")).status == 503
        (endpoint,) = (await api.get(ENDPOINTS, by=application["key"]["token"]))["data"]
        assert endpoint["id"] == application["endpoint"]["id"]
        await api.delivery_of(await api.post_event(application="initech"), "delivered")


async def test_a_creation_that_failed_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Application, endpoint and key are one transaction: when the key cannot be stored nothing is there."""
    async with Api(tmp_path) as api:
        with monkeypatch.context() as patched:
            patched.setattr(
                "relay.store.sqlite.registry._INSERT_KEY", "INSERT INTO nowhere VALUES (?, ?, ?, ?, ?, ?, ?)"
            )
            answer = await api.call("POST", PATH, {"id": "initech", "endpoint": HOOK, "key": True})
        assert answer.status == 503
        assert [row.id for row in (await api.store.load_registry()).applications] == ["acme", "globex"]
        assert len((await api.store.load_registry()).endpoints) == 1
        assert (await api.call("POST", PATH, {"id": "initech", "endpoint": HOOK, "key": True})).status == 201


async def test_everything_is_there_after_a_restart(tmp_path: Path) -> None:
    """Applications, endpoints and keys made through the API come back from the database."""
    async with Api(tmp_path) as api:
        application = await made(api, id="initech", contract="roughy", name="I", timeout="3s", endpoint=HOOK, key=True)
        before = await api.get(f"{PATH}/initech")
    async with Api(tmp_path) as api:
        assert await api.get(f"{PATH}/initech") == before
        (endpoint,) = (await api.get(ENDPOINTS, by=application["key"]["token"]))["data"]
    assert (endpoint["id"], endpoint["timeout"]) == (application["endpoint"]["id"], "3s")


# -- the file and the database ----------------------------------------------------------------------------------------


def configured(*ids: str) -> dict[str, Any]:
    return CONFIG | {"application": [{"id": id} for id in ids]}


async def test_one_id_in_file_and_api_is_refused(tmp_path: Path) -> None:
    """The file cannot have an application that the API made, or that was deleted; nothing is changed by trying."""
    async with Api(tmp_path) as api:
        await made(api, id="initech")
        await made(api, id="hooli")
        await api.call("DELETE", f"{PATH}/hooli")
        for taken, words in (("initech", "made through the API"), ("hooli", "was deleted")):
            with pytest.raises(ConfigError, match=words):
                await api.registrar.apply(type(api.config).model_validate(configured("acme", "globex", "new", taken)))
        assert set(api.registry.applications) == {"acme", "globex", "initech"}
    with pytest.raises(ConfigError, match="made through the API"):
        async with Api(tmp_path, configured("initech")):
            pass


async def test_what_vanished_from_the_file_is_held_until_it_is_deleted(tmp_path: Path) -> None:
    """A typo destroys nothing; DELETE does, for the application and its endpoints (Q11)."""
    async with Api(tmp_path):
        pass
    async with Api(tmp_path, configured("globex")) as api:
        held = await api.get(f"{PATH}/acme")
        assert (held["present"], held["endpoints"]) == (False, 1)
        assert (await api.call("DELETE", f"{PATH}/acme")).status == 204
        assert list(api.registry.endpoints) == []


async def test_a_vanished_endpoint_may_be_deleted(tmp_path: Path) -> None:
    """An endpoint that left the file is held, and DELETE ends it; one that stands there is refused (Q11)."""
    async with Api(tmp_path) as api:
        assert (await api.call("DELETE", f"{ENDPOINTS}/primary")).status == 409
    async with Api(tmp_path, configured("acme", "globex")) as api:
        assert (await api.call("DELETE", f"{ENDPOINTS}/primary")).status == 204
        assert list(api.registry.endpoints) == []


async def test_two_edits_do_not_overwrite_each_other(tmp_path: Path) -> None:
    """Patches that arrive together are applied one after the other."""
    async with Api(tmp_path) as api:
        await made(api, id="initech")
        patches: list[dict[str, Any]] = [{"name": "n"}, {"timeout": "3s"}, {"max_age": "1d"}, {"validation": "off"}]
        await asyncio.gather(*(api.call("PATCH", f"{PATH}/initech", patch) for patch in patches))
        shown = await api.get(f"{PATH}/initech")
    assert (shown["name"], shown["timeout"], shown["max_age"], shown["validation"]) == ("n", "3s", "1d", "off")


@pytest.mark.parametrize("expires_at", ["9999-12-31T23:59:59.999999-23:59", "0001-01-01T00:00:00+23:59"])
async def test_a_time_no_calendar_holds_is_refused(tmp_path: Path, expires_at: str) -> None:
    """I12: an offset that leads out of the years 1 to 9999 is a mistake; nothing is stored, and the list still answers."""
    async with Api(tmp_path) as api:
        await made(api, id="initech")
        answer = await api.call("POST", f"{PATH}/initech/keys", {"name": "k", "expires_at": expires_at})
        assert (answer.status, answer.json["errors"][0]["pointer"]) == (422, "/expires_at")
        assert (await api.get(f"{PATH}/initech/keys"))["data"] == []
        assert (await api.call("GET", f"/v1/events?since={expires_at.replace('+', '%2B')}")).status == 422


@pytest.mark.parametrize(
    ("stored_ms", "written"), [(10**18, "9999-12-31T23:59:59.999Z"), (-(10**18), "0001-01-01T00:00:00.000Z")]
)
def test_a_stored_time_no_calendar_holds_breaks_no_list(stored_ms: int, written: str) -> None:
    """I12: it is written as the last or the first moment that can be."""
    assert format_time(stored_ms) == written
