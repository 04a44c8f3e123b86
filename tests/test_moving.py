"""Export and import over the API: all or nothing, every mistake with its line, and a second import changes nothing."""

import json
import sqlite3
from pathlib import Path
from typing import Any

import pytest
import trustme

from relay.api import moving
from tests.support.api import CONFIG, Answer, Api
from tests.support.stores import sqlite_error

HEADER = {"relay": {"schema": 1}}
NEW = "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD"
OLDER = "whsec_plJ3nmyCDGBKInavdOK15jsl2qw/6Kmn"
EMPTY = CONFIG | {"application": [{"id": "other"}]}
"""A configuration that defines nothing which a test is about."""
NOTHING = {"created": 0, "taken_over": 0, "updated": 0, "unchanged": 0}


def application(id: str, **fields: Any) -> dict[str, Any]:
    return {"application": {"id": id} | fields}


def endpoint(name: str, owner: str, **fields: Any) -> dict[str, Any]:
    written = {"id": name, "application": owner, "url": f"https://{name}.example/hook", "secrets": [NEW]}
    return {"endpoint": written | fields}


async def bring(api: Api, *lines: Any, **members: Any) -> Answer:
    return await api.call("POST", "/v1/import", {"lines": [HEADER, *lines]} | members)


async def exported(api: Api, query: str = "") -> list[dict[str, Any]]:
    lines: list[dict[str, Any]] = []
    cursor = ""
    while True:
        page = await api.get(f"/v1/export?limit=2{query}{cursor}")
        lines += page["data"]
        if page["next"] is None:
            return lines
        cursor = f"&cursor={page['next']}"


def mistakes(answer: Answer) -> dict[str, str]:
    assert answer.status == 422, answer.text
    return {error["pointer"]: error["message"] for error in answer.json["errors"]}


def timeless(lines: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The lines without when they were written, and without what `EMPTY` defines."""
    return [line for line in lines if "relay" not in line and line.get("application", {}).get("id") != "other"]


# -- a round trip ---------------------------------------------------------------------------------------------------------


async def test_what_is_exported_is_imported_elsewhere(tmp_path: Path) -> None:
    """Issue 9: another relay that imports an export with secrets exports the same: ids, definitions, states, secrets."""
    async with Api(tmp_path / "old") as old:
        owner = {"id": "initech", "name": "Initech", "limits": {"backlog": 5}, "retry": {"schedule": ["1s"]}}
        await old.call("POST", "/v1/applications", owner)
        given = {
            "url": "https://a.example/?k=v",
            "application": "initech",
            "headers": {"X-A": "1"},
            "filter": {"data.n": {"$gt": 1}},
            "rate_limit": "5/s",
        }
        await old.call("POST", "/v1/webhook-endpoints", given | {"id": "first", "secret": OLDER})
        await old.call("POST", "/v1/webhook-endpoints/first/rotate-secret", {"secret": NEW, "overlap": "1h"})
        bearer = {"type": "bearer", "token": "kept-to-itself"}
        asked = {"contract": "github", "auth": bearer, "verification": "ping"}
        made = await old.call("POST", "/v1/webhook-endpoints", given | asked | {"id": "second"})
        assert made.status == 201, made.text
        await old.call("POST", "/v1/webhook-endpoints/second/disable")
        lines = await exported(old, "&secrets=true")
    assert [next(iter(line)) for line in lines] == [
        "relay",
        *["application", "endpoint"],
        "application",
        "application",
        *["endpoint"] * 2,
    ]
    assert lines[0]["relay"]["schema"] == 1
    assert [lines[-1]["endpoint"][name] for name in asked] == list(asked.values())
    async with Api(tmp_path / "new", EMPTY) as new:
        answer = await new.call("POST", "/v1/import", {"lines": lines})
        assert answer.status == 200, answer.text
        assert answer.json["changed"] is True
        assert answer.json["applications"] == NOTHING | {"created": 3}
        assert answer.json["endpoints"] == NOTHING | {"created": 3}
        assert timeless(await exported(new, "&secrets=true")) == timeless(lines)
    async with Api(tmp_path / "new", EMPTY) as again:
        assert timeless(await exported(again, "&secrets=true")) == timeless(lines)
        second = await again.call("POST", "/v1/import", {"lines": lines})
    assert second.json["changed"] is False
    assert second.json["endpoints"] == NOTHING | {"unchanged": 3}


async def test_an_export_keeps_secrets_to_itself(tmp_path: Path, authority: trustme.CA) -> None:
    """Issue 9: without `secrets=true` neither signing secrets nor client keys are in it; with it both are."""
    pair = authority.issue_cert("relay.example")
    cert, key = (
        b"".join(blob.bytes() for blob in pair.cert_chain_pems).decode(),
        pair.private_key_pem.bytes().decode(),
    )
    async with Api(tmp_path) as api:
        tls = {"client_cert": cert, "client_key": key}
        made = await bring(api, endpoint("moved", "acme", tls=tls))
        assert made.status == 200, made.text
        plain, whole = await exported(api), await exported(api, "&secrets=true")
        second = await api.call("POST", "/v1/import", {"lines": plain})
        elsewhere = await bring(api, *(line for line in timeless(plain) if line.get("endpoint", {}).get("id") == "x"))
    assert NEW not in json.dumps(plain)
    assert "PRIVATE KEY" not in json.dumps(plain)
    assert NEW in json.dumps(whole)
    assert "PRIVATE KEY" in json.dumps(whole)
    assert (second.status, second.json["changed"]) == (200, False), second.text
    assert elsewhere.status == 200


async def test_an_export_of_one_application(tmp_path: Path) -> None:
    """An export may be of one application; of one that there is not it is 404, and a strange cursor is 409."""
    async with Api(tmp_path) as api:
        lines = await exported(api, "&application=globex")
        unknown = await api.call("GET", "/v1/export?application=initech")
        strange = [await api.call("GET", f"/v1/export?cursor={cursor}") for cursor in ("7", "a-b", "1-")]
    assert [next(iter(line)) for line in lines] == ["relay", "application"]
    assert unknown.status == 404
    assert [(answer.status, answer.json["type"]) for answer in strange] == [(409, "invalid_cursor")] * 3


# -- all or nothing -------------------------------------------------------------------------------------------------------


async def test_every_mistake_has_its_line(tmp_path: Path) -> None:
    """T8: all mistakes of all lines are in one answer, each with its line, and nothing is done."""
    lines = [
        application("initech", contract="nowhere"),
        endpoint("a", "initech", url="ftp://x"),
        endpoint("b", "acme", secrets=["short"], timeout="soon"),
        endpoint("c", "umbrella"),
        {"endpoint": {"url": "https://x.example/"}},
        {"key": {}},
        "endpoint",
        application("hooli"),
        application("hooli"),
        endpoint("primary", "globex"),
        endpoint("d", "acme", state="paused", disabled_by="manual"),
        endpoint("not an id", "acme", url="ftp://x", event_types=["not a type"]),
    ]
    async with Api(tmp_path) as api:
        answer = await bring(api, *lines)
        assert list(api.registry.endpoints) == ["primary"]
        assert list(api.registry.applications) == ["acme", "globex"]
    assert sorted(mistakes(answer)) == [
        "/lines/1/application/contract",
        "/lines/10/endpoint",
        "/lines/11/endpoint/disabled_by",
        "/lines/12/endpoint/event_types/0",
        "/lines/12/endpoint/id",
        "/lines/12/endpoint/url",
        "/lines/2/endpoint/url",
        "/lines/3/endpoint/secrets/0",
        "/lines/3/endpoint/timeout",
        "/lines/4/endpoint/application",
        "/lines/5/endpoint/application",
        "/lines/5/endpoint/id",
        "/lines/6/key",
        "/lines/7",
        "/lines/9/application",
    ]


async def test_many_mistakes_are_all_listed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An import lists up to `MISTAKES_MAX` mistakes, more than other calls; those beyond are counted."""
    async with Api(tmp_path) as api:
        lines = [endpoint(f"e{number}", "acme", secrets=["short"]) for number in range(50)]
        answer = await bring(api, *lines)
        monkeypatch.setattr(moving, "MISTAKES_MAX", 30)
        fewer = await bring(api, *lines)
    assert len(answer.json["errors"]) == 50
    assert "errors_omitted" not in answer.json
    assert (len(fewer.json["errors"]), fewer.json["errors_omitted"]) == (30, 20)


async def test_a_commit_that_fails_leaves_nothing(tmp_path: Path) -> None:
    """When the database takes no writes nothing of an import is there, in memory or after a restart."""
    async with Api(tmp_path) as api:
        api.gate.error = sqlite_error(sqlite3.SQLITE_FULL)
        answer = await bring(api, application("initech"), endpoint("a", "initech"))
        api.gate.error = None
        await api.store.ping()
        before = list(api.registry.applications)
        again = await bring(api, application("initech"), endpoint("a", "initech"))
    assert answer.status == 503
    assert before == ["acme", "globex"]
    assert again.json["endpoints"]["created"] == 1


async def test_a_dry_run_does_nothing_and_says_all(tmp_path: Path) -> None:
    """Issue 9: a dry run answers like the import, and changes nothing."""
    lines = [application("initech"), endpoint("a", "initech"), endpoint("b", "initech", secrets=None)]
    async with Api(tmp_path) as api:
        dry = await bring(api, *lines, dry_run=True)
        assert list(api.registry.applications) == ["acme", "globex"]
        done = await bring(api, *lines)
    assert (dry.status, dry.json["dry_run"], dry.json["changed"]) == (200, True, True)
    assert done.json == dry.json | {"dry_run": False}
    assert done.json["secrets_made"] == ["b"]


# -- what is there already ------------------------------------------------------------------------------------------------


async def test_what_differs_is_refused_without_an_update(tmp_path: Path) -> None:
    """What was changed here since is not overwritten unless `update` asks for it; the answer names what differs."""
    async with Api(tmp_path) as api:
        await bring(api, application("initech"), endpoint("a", "initech"))
        changed = [application("initech", name="I"), endpoint("a", "initech", timeout="3s", secrets=[OLDER])]
        refused = await bring(api, *changed)
        updated = await bring(api, *changed, update=True)
        again = await bring(api, *changed, update=True)
        found = api.registry.endpoint("a")
    assert "differs in: name" in mistakes(refused)["/lines/1/application"]
    assert "differs in: timeout, secrets" in mistakes(refused)["/lines/2/endpoint"]
    assert (updated.json["applications"]["updated"], updated.json["endpoints"]["updated"]) == (1, 1)
    assert (found.timeout_ms, [each.value for each in found.secrets]) == (3_000, [OLDER])
    assert again.json["changed"] is False


async def test_a_state_is_for_what_is_new_or_updated(tmp_path: Path) -> None:
    """A line's state holds for a new endpoint, and for one that is there only with `update`."""
    async with Api(tmp_path) as api:
        line = endpoint("a", "acme", state="disabled", disabled_by="gone")
        await bring(api, line)
        first = api.registry.endpoint("a")
        await api.call("POST", "/v1/webhook-endpoints/a/enable")
        kept = await bring(api, line)
        assert kept.json["changed"] is False
        assert api.registry.endpoint("a").state == "enabled"
        await bring(api, line, update=True)
        last = api.registry.endpoint("a")
    assert [(each.state, each.disabled_by) for each in (first, last)] == [("disabled", "gone")] * 2


async def test_a_state_of_the_file_moves_along(tmp_path: Path) -> None:
    """What the file defines has its state in the database, as everywhere: an update moves that, and nothing else of it."""
    async with Api(tmp_path) as api:
        lines = timeless(await exported(api, "&secrets=true"))
        lines[1]["endpoint"]["state"] = "paused"
        answer = await bring(api, *lines, update=True)
        found = api.registry.endpoint("primary")
    assert (answer.json["endpoints"]["updated"], found.state, found.origin) == (1, "paused", "file"), answer.text


async def test_the_file_is_left_alone(tmp_path: Path) -> None:
    """What the file defines as the line says is unchanged; what differs there is refused, even with `update`."""
    async with Api(tmp_path) as api:
        lines = timeless(await exported(api, "&secrets=true"))
        same = await bring(api, *lines)
        other = await bring(api, application("acme", name="A"), endpoint("primary", "acme"), update=True)
    assert (same.status, same.json["changed"]) == (200, False), same.text
    assert all("configuration file" in message for message in mistakes(other).values())
    assert len(mistakes(other)) == 2


async def test_a_relay_moves_out_of_its_file(tmp_path: Path) -> None:
    """K13: what left the file comes back through an import, with ids, secrets and history, and rotates from then on."""
    async with Api(tmp_path) as api:
        lines = timeless(await exported(api, "&secrets=true"))
        api.courier.script = [500]
        event = await api.post_event()
        await api.delivery_of(event, "due", attempts=1)
        await api.apply(EMPTY)
        assert api.registry.endpoint("primary").held
        answer = await bring(api, *lines)
        assert answer.json["applications"] == NOTHING | {"taken_over": 2}, answer.text
        assert answer.json["endpoints"] == NOTHING | {"taken_over": 1}
        api.clock.advance(5_000)
        await api.delivery_of(event, "delivered", attempts=2)
        rotated = await api.call("POST", "/v1/webhook-endpoints/primary/rotate-secret", {"secret": NEW})
    assert rotated.status == 200


async def test_a_promised_contract_is_kept(tmp_path: Path) -> None:
    """An import gives no application with endpoints another contract, nor one that left the file."""
    async with Api(tmp_path) as api:
        await bring(api, application("initech"), endpoint("a", "initech"))
        used = await bring(api, application("initech", contract="wochit"), update=True)
        await api.apply(EMPTY)
        left = await bring(api, application("acme", contract="wochit"))
    assert "promised 'standard'" in mistakes(used)["/lines/1/application"]
    assert "promised 'standard'" in mistakes(left)["/lines/1/application"]


async def test_a_deleted_application_stays_deleted(tmp_path: Path) -> None:
    """The id of a deleted application is refused, as everywhere."""
    async with Api(tmp_path) as api:
        await bring(api, application("initech"))
        await api.call("DELETE", "/v1/applications/initech")
        answer = await bring(api, application("initech"))
    assert "was, an application" in mistakes(answer)["/lines/1/application"]


# -- limits ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("body", "places"),
    [
        ({}, ["/lines"]),
        ({"lines": []}, ["/lines"]),
        ({"lines": [application("a")]}, ["/lines/0"]),
        ({"lines": [{"relay": {"schema": 2}}]}, ["/lines/0"]),
        ({"lines": [{"relay": {"schema": True}}]}, ["/lines/0"]),
        ({"lines": [HEADER], "update": 1, "dry_run": "no", "force": True}, ["/dry_run", "/force", "/update"]),
    ],
)
async def test_an_import_says_what_it_is(tmp_path: Path, body: dict[str, Any], places: list[str]) -> None:
    """The first line names the schema; lines of another one, and members of no import, are refused."""
    async with Api(tmp_path) as api:
        answer = await api.call("POST", "/v1/import", body)
    assert sorted(mistakes(answer)) == places


async def test_an_import_keeps_to_the_limits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Endpoints of an application, lines of an import and bytes of a definition are bounded, each with what to do."""
    monkeypatch.setattr("relay.api.lines.LINES_MAX", 6)
    async with Api(tmp_path) as api:
        three = [endpoint(f"e{number}", "initech") for number in range(3)]
        full = await bring(api, application("initech", limits={"endpoints": 2}), *three)
        fits = await bring(api, application("initech", limits={"endpoints": 3}), *three)
        long = await bring(api, *[application(f"a{number}") for number in range(6)])
        large = await bring(
            api, endpoint("large", "initech", description="x" * 900, headers={f"X-{n}": "y" * 4000 for n in range(17)})
        )
    assert "may have 2 endpoints" in mistakes(full)["/lines/4/endpoint"]
    assert fits.status == 200, fits.text
    assert "7 lines; there may be 6" in mistakes(long)["/lines"]
    assert "limits.definition" in mistakes(large)["/lines/1/endpoint"]
