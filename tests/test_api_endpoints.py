"""Webhook endpoints through the API: made, read, changed, moved between states, rotated, tested."""

import asyncio
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from standardwebhooks import Webhook

from relay.core.model import Failure, Outcome
from tests.support.api import CONFIG, Api

PATH = "/v1/webhook-endpoints"
URL = "https://receiver.example/hooks"


async def made(api: Api, by: str = "acme-app", **fields: Any) -> dict[str, Any]:
    """Make an endpoint; it must be accepted."""
    answer = await api.call("POST", PATH, {"url": URL} | fields, by=by)
    assert answer.status == 201, answer.text
    endpoint = answer.json
    assert isinstance(endpoint, dict)
    return endpoint


def pointers(problem: dict[str, Any]) -> list[str]:
    return sorted(error["pointer"] for error in problem["errors"])


async def test_an_endpoint_is_made_with_everything(tmp_path: Path) -> None:
    """Creation answers 201 with Location, the effective settings, and the secret."""
    fields = {
        "event_types": ["render.*", "cut.done", "render.*"],
        "description": "staging",
        "headers": {"X-Env": "staging"},
        "concurrency": 4,
        "rate_limit": "50/s",
        "timeout": "3s",
        "retry": {"schedule": ["1s", "1m"], "jitter": 0.5},
        "max_age": "1d",
    }
    async with Api(tmp_path) as api:
        answer = await api.call("POST", PATH, {"url": URL} | fields, by="acme-app")
        shown = await api.get(answer.headers["Location"], by="acme-app")
    assert answer.status == 201
    assert answer.json["secret"].startswith("whsec_")
    assert shown == {name: value for name, value in answer.json.items() if name != "secret"}
    expected = fields | {"event_types": ["render.*", "cut.done"], "url": URL, "application": "acme", "origin": "api"}
    assert {name: shown[name] for name in expected} == expected


async def test_what_is_left_out_comes_from_the_defaults(tmp_path: Path) -> None:
    """An endpoint that says nothing but its URL shows the settings it runs with (Q6)."""
    async with Api(tmp_path) as api:
        endpoint = await made(api)
    assert endpoint["event_types"] == ["*"]
    assert endpoint["retry"] == {"schedule": ["5s"], "jitter": 0.0}
    assert (endpoint["timeout"], endpoint["concurrency"], endpoint["rate_limit"]) == ("15s", 16, None)


async def test_the_secret_is_shown_once(tmp_path: Path) -> None:
    """The secret is in the creation answer and in no other, of any call that shows endpoints (invariant 13)."""
    async with Api(tmp_path) as api:
        endpoint = await made(api)
        answers = [
            await api.call("GET", PATH),
            await api.call("GET", f"{PATH}/{endpoint['id']}"),
            await api.call("PATCH", f"{PATH}/{endpoint['id']}", {"description": "x"}),
            await api.call("POST", f"{PATH}/{endpoint['id']}/pause"),
            await api.call("GET", "/v1/status"),
        ]
    assert all(answer.status == 200 for answer in answers)
    assert not any(endpoint["secret"].encode() in answer.text for answer in answers)
    assert not any(b"whsec_" in answer.text for answer in answers)


async def test_every_mistake_is_told_with_its_pointer(tmp_path: Path) -> None:
    """A creation with many mistakes names all of them, and makes nothing."""
    wrong = {
        "url": "https://user:pw@receiver.example/",
        "event_types": ["fine", "not fine", "a.*.b"],
        "headers": {"Host": "x", "X/Y": "1", "X-A": "1", "x-a": "2"},
        "concurrency": 65,
        "max_age": "31d",
    }
    async with Api(tmp_path) as api:
        answer = await api.call("POST", PATH, wrong, by="acme-app")
        assert list(api.registry.endpoints) == ["primary"]
    assert answer.status == 422
    assert pointers(answer.json) == [
        "/concurrency",
        "/event_types/1",
        "/event_types/2",
        "/headers/Host",
        "/headers/X~1Y",
        "/headers/x-a",
        "/max_age",
        "/url",
    ]
    assert b"pw" not in answer.text


@pytest.mark.parametrize(
    ("fields", "pointer"),
    [
        ({"colour": "red"}, "/colour"),
        ({"url": 5}, "/url"),
        ({"event_types": "a.b"}, "/event_types"),
        ({"event_types": []}, "/event_types"),
        ({"headers": {"X-A": 1}}, "/headers/X-A"),
        ({"concurrency": "16"}, "/concurrency"),
        ({"concurrency": True}, "/concurrency"),
        ({"rate_limit": "fast"}, "/rate_limit"),
        ({"timeout": 15}, "/timeout"),
        ({"timeout": "15 minutes"}, "/timeout"),
        ({"timeout_ms": 15000}, "/timeout_ms"),
        ({"retry": {"delays": ["1s"]}}, "/retry/delays"),
        ({"retry": {"schedule": ["1s", "soon"]}}, "/retry/schedule/1"),
        ({"retry": {"jitter": 2}}, "/retry/jitter"),
        ({"secret": "whsec_x"}, "/secret"),
        ({"id": "mine"}, "/id"),
        ({"application": 7}, "/application"),
    ],
)
async def test_a_wrong_field_is_refused(tmp_path: Path, fields: dict[str, Any], pointer: str) -> None:
    """Unknown fields and values of the wrong form are refused with a JSON pointer and a sentence."""
    async with Api(tmp_path) as api:
        answer = await api.call("POST", PATH, {"url": URL} | fields, by="acme-app")
    assert answer.status == 422
    assert pointers(answer.json) == [pointer]
    assert answer.json["errors"][0]["message"]


async def test_a_url_is_checked_against_the_configuration(tmp_path: Path) -> None:
    """Without `allow_http` and `allow_networks`, plain http and addresses of this network are refused."""
    strict = CONFIG | {"delivery": {}}
    async with Api(tmp_path, strict) as api:
        statuses = [
            (await api.call("POST", PATH, {"url": url}, by="acme-app")).status
            for url in ("http://receiver.example/", "https://127.0.0.1/", "https://localhost/", URL)
        ]
    assert statuses == [422, 422, 422, 201]


async def test_an_admin_names_the_application(tmp_path: Path) -> None:
    """An unbound token says whose endpoint it is; an application's token implies it and may not name another."""
    async with Api(tmp_path) as api:
        unnamed = await api.call("POST", PATH, {"url": URL})
        named = await api.call("POST", PATH, {"url": URL, "application": "globex"})
        foreign = await api.call("POST", PATH, {"url": URL, "application": "globex"}, by="acme-app")
        unknown = await api.call("POST", PATH, {"url": URL, "application": "initech"})
    assert (unnamed.status, unnamed.json["type"]) == (409, "application_required")
    assert (named.status, named.json["application"]) == (201, "globex")
    assert (foreign.status, unknown.status) == (404, 404)


@pytest.mark.parametrize("named", [{}, {"application": "initech"}, {"application": 5}])
async def test_mistakes_are_told_whoever_owns_it(tmp_path: Path, named: dict[str, Any]) -> None:
    """T8: with no application, or one that there is not, everything else that is wrong is in the same answer."""
    async with Api(tmp_path) as api:
        answer = await api.call(
            "POST", PATH, named | {"url": "ftp://receiver.example/", "timeout": "soon", "colour": 1}
        )
    assert answer.status == 422
    assert [error["pointer"] for error in answer.json["errors"]] == ["/application", "/timeout", "/colour", "/url"]


async def test_a_patch_merges(tmp_path: Path) -> None:
    """PATCH is a JSON merge patch: what it names changes, null returns to the default, the rest stays (RFC 7396)."""
    async with Api(tmp_path) as api:
        endpoint = await made(
            api, headers={"X-A": "1", "X-B": "2"}, timeout="3s", rate_limit="5/s", retry={"schedule": ["1s"]}
        )
        patch = {"headers": {"X-A": None, "X-C": "3"}, "timeout": None, "retry": {"jitter": 0.1}}
        answer = await api.call("PATCH", f"{PATH}/{endpoint['id']}", patch, by="acme-app")
    assert answer.status == 200
    assert answer.json["headers"] == {"X-B": "2", "X-C": "3"}
    assert answer.json["timeout"] == "15s"
    assert answer.json["rate_limit"] == "5/s"
    assert answer.json["retry"] == {"schedule": ["1s"], "jitter": 0.1}


async def test_a_patch_with_mistakes_changes_nothing(tmp_path: Path) -> None:
    """A refused PATCH names every mistake and leaves the endpoint as it was."""
    async with Api(tmp_path) as api:
        endpoint = await made(api)
        patch = {"url": None, "event_types": ["a b"], "colour": 1, "application": "globex"}
        answer = await api.call("PATCH", f"{PATH}/{endpoint['id']}", patch, by="acme-app")
        patched = await api.call("PATCH", f"{PATH}/{endpoint['id']}", {"event_types": ["a b"]}, by="acme-app")
        shown = await api.get(f"{PATH}/{endpoint['id']}", by="acme-app")
    assert answer.status == patched.status == 422
    assert pointers(answer.json) == ["/application", "/colour", "/event_types/0", "/url"]
    assert pointers(patched.json) == ["/event_types/0"]
    assert shown == {name: value for name, value in endpoint.items() if name != "secret"}


async def test_a_rule_that_became_stricter_blocks_no_other_edit(tmp_path: Path) -> None:
    """When `allow_http` is taken back, an http endpoint may still be renamed, but not given another http URL."""
    async with Api(tmp_path) as api:
        endpoint = await made(api, url="http://receiver.example/hooks")
        api.relay.config = type(api.config).model_validate(CONFIG | {"delivery": {}})
        described = await api.call("PATCH", f"{PATH}/{endpoint['id']}", {"description": "old"})
        moved = await api.call("PATCH", f"{PATH}/{endpoint['id']}", {"url": "http://other.example/"})
    assert described.status == 200
    assert (moved.status, pointers(moved.json)) == (422, ["/url"])


async def test_edits_at_the_same_time_overwrite_nothing(tmp_path: Path) -> None:
    """Two patches of different fields that arrive together are both in force afterwards."""
    async with Api(tmp_path) as api:
        endpoint = await made(api)
        path = f"{PATH}/{endpoint['id']}"
        await asyncio.gather(
            *(
                api.call("PATCH", path, patch)
                for patch in ({"timeout": "2s"}, {"rate_limit": "9/s"}, {"concurrency": 3})
            )
        )
        shown = await api.get(path)
    assert (shown["timeout"], shown["rate_limit"], shown["concurrency"]) == ("2s", "9/s", 3)


async def test_a_deleted_endpoint_is_gone(tmp_path: Path) -> None:
    """DELETE answers 204, and from then on the endpoint is unknown and matches nothing (Q11)."""
    async with Api(tmp_path) as api:
        endpoint = await made(api, by="globex-app")
        deleted = await api.call("DELETE", f"{PATH}/{endpoint['id']}", by="globex-app")
        again = await api.call("DELETE", f"{PATH}/{endpoint['id']}", by="globex-app")
        event = await api.get(f"/v1/events/{await api.post_event(application='globex')}")
    assert (deleted.status, deleted.text, again.status) == (204, b"", 404)
    assert event["reason"] == "no_match"


async def test_endpoints_of_the_file_are_read_only(tmp_path: Path) -> None:
    """What the file defines is not edited here (409 `managed_by_file`); states, and tests, work by its id."""
    async with Api(tmp_path) as api:
        for method, path, body in (
            ("PATCH", f"{PATH}/primary", {"url": URL}),
            ("DELETE", f"{PATH}/primary", None),
            ("POST", f"{PATH}/primary/rotate-secret", {}),
        ):
            answer = await api.call(method, path, body)
            assert (answer.status, answer.json["type"]) == (409, "managed_by_file")
        for verb in ("pause", "resume", "disable", "enable", "test"):
            assert (await api.call("POST", f"{PATH}/primary/{verb}")).status == 200


async def test_states_move_as_told(tmp_path: Path) -> None:
    """pause, resume, disable and enable answer with the state they led to (Q9)."""
    async with Api(tmp_path) as api:
        seen = []
        for verb in ("pause", "resume", "disable", "enable"):
            answer = await api.call("POST", f"{PATH}/primary/{verb}", by="acme-app")
            seen.append((answer.json["state"], answer.json["disabled_by"], answer.json["held"]))
        await api.call("POST", f"{PATH}/primary/disable")
        paused = await api.call("POST", f"{PATH}/primary/pause")
    assert seen == [
        ("paused", None, True),
        ("enabled", None, False),
        ("disabled", "manual", True),
        ("enabled", None, False),
    ]
    assert (paused.status, paused.json["type"]) == (409, "endpoint_disabled")


async def test_a_held_endpoint_says_what_its_deliveries_wait_for(tmp_path: Path) -> None:
    """The detail counts what waits and names the reason."""
    async with Api(tmp_path) as api:
        await api.call("POST", f"{PATH}/primary/pause")
        await api.post_event()
        shown = await api.get(f"{PATH}/primary")
    assert (shown["due"], shown["waits_for"]) == (1, "the endpoint is paused")


async def test_both_secrets_sign_while_they_overlap(tmp_path: Path) -> None:
    """After a rotation a request verifies with the new and with the old secret; after the overlap only with the new."""
    async with Api(tmp_path) as api:
        endpoint = await made(api, by="globex-app")
        rotated = await api.call("POST", f"{PATH}/{endpoint['id']}/rotate-secret", {"overlap": "1h"}, by="globex-app")
        await api.call("POST", f"{PATH}/{endpoint['id']}/test", by="globex-app")
        api.clock.advance(3_600_001)
        await api.call("POST", f"{PATH}/{endpoint['id']}/test", by="globex-app")
        signatures = [request.headers["webhook-signature"].split() for request in api.courier.requests]
    assert rotated.status == 200
    assert rotated.json["secret"] != endpoint["secret"]
    assert rotated.json["secrets"] == 2
    assert [len(found) for found in signatures] == [2, 1]


@pytest.mark.parametrize("overlap", ["soon", "31d", 5, None, "9" * 400 + "d"])
async def test_a_wrong_overlap_is_refused(tmp_path: Path, overlap: Any) -> None:
    """An overlap is a duration of at most 30 days; anything else is refused and rotates nothing."""
    async with Api(tmp_path) as api:
        endpoint = await made(api)
        answer = await api.call("POST", f"{PATH}/{endpoint['id']}/rotate-secret", {"overlap": overlap, "x": 1})
        assert (await api.get(f"{PATH}/{endpoint['id']}"))["secrets"] == 1
    assert (answer.status, pointers(answer.json)) == (422, ["/overlap", "/x"])


async def test_a_test_answers_with_the_outcome(tmp_path: Path) -> None:
    """A test sends one signed request and reports what came back; nothing is stored, counted or retried."""
    async with Api(tmp_path) as api:
        endpoint = await made(api, by="globex-app", headers={"X-Env": "staging"})
        api.courier.script = [Outcome(started_at_ms=0, duration_ms=9, status=503, response_body=b"no")]
        body = b'{"type": "render.failed", "data": {"frames":  1e3}}'
        failed = await api.call("POST", f"{PATH}/{endpoint['id']}/test", body, by="globex-app")
        passed = await api.call("POST", f"{PATH}/{endpoint['id']}/test", by="globex-app")
        health = (await api.get(f"{PATH}/{endpoint['id']}"))["health"]
        stored = (await api.get("/v1/events"))["data"]
    request = api.courier.requests[0]
    assert failed.status == passed.status == 200
    assert (failed.json["delivered"], failed.json["status"], failed.json["response"]["body"]) == (False, 503, "no")
    assert (passed.json["delivered"], passed.json["event_type"]) == (True, "webhook.test")
    assert b'"data":{"frames":  1e3}' in request.body
    assert request.headers["X-Env"] == "staging"
    assert request.headers["webhook-id"] == failed.json["event_id"]
    sent_at = datetime.fromtimestamp(int(request.headers["webhook-timestamp"]), UTC)
    signature = Webhook(endpoint["secret"]).sign(failed.json["event_id"], sent_at, request.body.decode())
    assert request.headers["webhook-signature"] == signature
    assert (health["failures"], stored) == (0, [])


async def test_a_test_that_cannot_connect_says_so(tmp_path: Path) -> None:
    """A failure without response is an answer too: 200 with the class of the failure."""
    async with Api(tmp_path) as api:
        api.courier.script = [Outcome(0, 3, failure=Failure.DNS, detail="the name does not resolve")]
        answer = await api.call("POST", f"{PATH}/primary/test")
    assert answer.status == 200
    assert (answer.json["delivered"], answer.json["failure"]) == (False, "dns")


async def test_a_wrong_test_is_refused(tmp_path: Path) -> None:
    """An impossible event type and unknown fields are refused, and nothing is sent."""
    async with Api(tmp_path) as api:
        answer = await api.call("POST", f"{PATH}/primary/test", {"type": "not a type", "dada": 1})
        assert api.courier.requests == []
    assert (answer.status, pointers(answer.json)) == (422, ["/dada", "/type"])


async def test_an_endpoint_that_left_the_file_is_not_tested(tmp_path: Path) -> None:
    """What vanished from the file is held and has no secrets: a test of it is refused with the way back (Q11)."""
    async with Api(tmp_path) as api:
        without = {**CONFIG, "application": [{"id": "acme"}, {"id": "globex"}]}
        await api.registrar.apply(type(api.config).model_validate(without))
        answer = await api.call("POST", f"{PATH}/primary/test")
        shown = await api.get(f"{PATH}/primary")
        assert api.courier.requests == []
    assert (answer.status, answer.json["type"]) == (409, "not_configured")
    assert (shown["present"], shown["held"]) == (False, True)
    assert shown["waits_for"] == "the endpoint is no longer in the configuration file"


@pytest.mark.parametrize(
    ("method", "suffix"),
    [("GET", ""), ("PATCH", ""), ("DELETE", "")]
    + [("POST", f"/{verb}") for verb in ("pause", "resume", "enable", "disable", "rotate-secret", "test")],
)
async def test_foreign_endpoints_do_not_exist(tmp_path: Path, method: str, suffix: str) -> None:
    """Every call on another application's endpoint is 404; the owner's own (negative control) is not."""
    async with Api(tmp_path) as api:
        endpoint = await made(api, by="acme-app")
        path = f"{PATH}/{endpoint['id']}{suffix}"
        foreign = await api.call(method, path, by="globex-app")
        assert endpoint["id"] in api.registry.endpoints
        assert (await api.get(PATH, by="globex-app"))["data"] == []
        own = await api.call(method, path, by="acme-app")
    assert foreign.status == 404
    assert own.status in (200, 204)


async def test_a_reader_sees_no_credentials_and_changes_nothing(tmp_path: Path) -> None:
    """A reader sees endpoints without header values and query values, which may be credentials; writes are 403."""
    async with Api(tmp_path) as api:
        endpoint = await made(api, url=URL + "?key=k1", headers={"X-Auth": "h1"})
        shown = await api.get(f"{PATH}/{endpoint['id']}", by="auditor")
        refused = [
            (await api.call(method, path, {}, by="auditor")).status
            for method, path in (("POST", PATH), ("PATCH", f"{PATH}/primary"), ("POST", f"{PATH}/primary/pause"))
        ]
    assert (shown["url"], shown["headers"]) == ("https://receiver.example/…", {"X-Auth": "***"})
    assert (endpoint["url"], endpoint["headers"]) == (URL + "?key=k1", {"X-Auth": "h1"})
    assert refused == [403, 403, 403]


async def test_an_operator_moves_endpoints_and_sees_no_credentials(tmp_path: Path) -> None:
    """An operator pauses, resumes, disables, enables and tests; what an endpoint is, and its secret, are not its business."""
    async with Api(tmp_path) as api:
        endpoint = await made(api, url=URL + "?key=k1", headers={"X-Auth": "h1"})
        path = f"{PATH}/{endpoint['id']}"
        moved = [
            (await api.call("POST", f"{path}/{verb}", by="on-call")).status
            for verb in ("pause", "resume", "disable", "enable", "test")
        ]
        refused = [
            (await api.call(method, end, {}, by="on-call")).status
            for method, end in (("POST", PATH), ("PATCH", path), ("DELETE", path), ("POST", f"{path}/rotate-secret"))
        ]
        shown = await api.call("GET", path, by="on-call")
    assert (moved, refused) == ([200] * 5, [403] * 4)
    assert not [secret for secret in (b"k1", b"h1", endpoint["secret"].encode()) if secret in shown.text]


async def test_endpoints_are_listed_in_pages(tmp_path: Path) -> None:
    """The list is newest first, pages end, and application and state select."""
    async with Api(tmp_path) as api:
        ids = [(await made(api))["id"] for _ in range(3)]
        await api.call("POST", f"{PATH}/{ids[0]}/pause")
        first = await api.get(f"{PATH}?limit=3")
        second = await api.get(f"{PATH}?limit=3&cursor={first['next']}")
        paused = await api.get(f"{PATH}?state=paused")
        elsewhere = await api.get(f"{PATH}?application=globex")
        wrong = await api.call("GET", f"{PATH}?cursor=x&state=lost")
    assert [one["id"] for one in first["data"]] == ids[::-1]
    assert ([one["id"] for one in second["data"]], second["next"]) == (["primary"], None)
    assert [one["id"] for one in paused["data"]] == [ids[0]]
    assert elsewhere["data"] == []
    assert (wrong.status, len(wrong.json["errors"])) == (422, 2)


@pytest.mark.parametrize(("body", "status"), [(b"{", 400), (b"[]", 422), (b"", 422)])
async def test_a_body_that_is_no_object_is_refused(tmp_path: Path, body: bytes, status: int) -> None:
    """Malformed JSON is 400; another JSON value, or nothing where a URL is needed, is 422."""
    async with Api(tmp_path) as api:
        answer = await api.call("POST", PATH, body, by="acme-app")
    assert answer.status == status
