"""The recipes of docs/MOVING.md, run as they are printed: answers of other services become lines, and verify as they did there."""

import hashlib
import hmac
import json
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
from svix.webhooks import Webhook, WebhookVerificationError

import relay
from tests.support.receiver import Received, Receiver
from tests.support.stack import Stack

DOCUMENT = (Path(relay.__file__).parent.parent / "docs" / "MOVING.md").read_text()
SECRET = "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD"
OLDER = "whsec_plJ3nmyCDGBKInavdOK15jsl2qw/6Kmn"


def printed(name: str) -> str:
    """The block of the document whose first line names it."""
    found = re.findall(rf"^```\w+\n(# (?:contracts/)?{re.escape(name)}\b.*?)^```", DOCUMENT, re.MULTILINE | re.DOTALL)
    assert len(found) == 1, name
    return str(found[0])


def mapped(folder: Path, name: str, given: str, *options: str) -> "subprocess.CompletedProcess[str]":
    """Run one of the document's programs of jq on what another service answered."""
    (folder / name).write_text(printed(name))
    return subprocess.run(
        ["jq", "-c", *options, "-f", str(folder / name)],
        input=given,
        capture_output=True,
        text=True,
        check=False,
        cwd=folder,
    )


def lines_of(done: "subprocess.CompletedProcess[str]") -> list[dict[str, Any]]:
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


# -- as their documents say ------------------------------------------------------------------------------------------------


def svix(url: str, **changed: Any) -> dict[str, Any]:
    app = {"id": "app_1srOrx2ZWZBpBUvZwXKQmoEYga2", "name": "Acme", "uid": "acme", "rateLimit": None, "metadata": {}}
    endpoint = {
        "id": "ep_1srOrx2ZWZBpBUvZwXKQmoEYga2",
        "description": "An example",
        "url": url,
        "version": 1,
        "disabled": False,
        "filterTypes": ["invoice.paid"],
        "channels": None,
        "rateLimit": 50,
        "uid": None,
        "metadata": {},
        "createdAt": "2024-01-15T10:00:00Z",
        "updatedAt": "2024-01-15T10:00:00Z",
    }
    headers = {"headers": {"X-Env": "live"}, "sensitive": []}
    return {"app": app, "endpoint": endpoint | changed, "secret": {"key": SECRET}, "headers": headers}


def convoy(url: str, **changed: Any) -> dict[str, Any]:
    secrets = [
        {
            "uid": "s2",
            "value": "new-text",
            "created_at": "2024-02-01T00:00:00Z",
            "expires_at": None,
            "deleted_at": None,
        },
        {
            "uid": "s1",
            "value": "old-text",
            "created_at": "2024-01-01T00:00:00Z",
            "expires_at": "2099-01-01T00:00:00Z",
            "deleted_at": None,
        },
        {
            "uid": "s0",
            "value": "gone",
            "created_at": "2023-01-01T00:00:00Z",
            "expires_at": None,
            "deleted_at": "2024-01-01T00:00:00Z",
        },
    ]
    endpoint = {
        "uid": "01HRSPBZNV43ZT6S8DYMQB7W4F",
        "owner_id": "acme",
        "name": "primary",
        "description": "",
        "url": url,
        "status": "active",
        "advanced_signatures": False,
        "authentication": {"type": "api_key", "api_key": {"header_name": "X-Key", "header_value": "v"}},
        "http_timeout": 10,
        "rate_limit": 20,
        "rate_limit_duration": 60,
        "secrets": secrets,
    }
    return endpoint | changed


def subscription(**config: Any) -> dict[str, Any]:
    return {
        "uid": "sub_1",
        "type": "api",
        "endpoint_metadata": {"uid": "01HRSPBZNV43ZT6S8DYMQB7W4F"},
        "filter_config": {"event_types": ["invoice.paid"], "filter": {"headers": {}, "body": {}}} | config,
    }


def outpost(url: str, **changed: Any) -> dict[str, Any]:
    destination = {
        "id": "des_webhook_123",
        "type": "webhook",
        "topics": ["invoice.paid"],
        "config": {"url": url},
        "credentials": {
            "secret": "new-text",
            "previous_secret": "old-text",
            "previous_secret_invalid_at": "2099-01-01T00:00:00Z",
        },
        "disabled_at": None,
        "created_at": "2024-02-15T10:00:00Z",
    }
    queue = {"id": "des_sqs", "type": "aws_sqs", "topics": "*", "config": {}, "credentials": {}}
    return {"tenant": "acme", "destinations": [destination | changed, queue]}


def signed_by_hmac(secret: str, received: Received) -> str:
    return hmac.new(secret.encode(), received.body, hashlib.sha256).hexdigest()


def verify_svix(received: Received) -> None:
    Webhook(SECRET).verify(received.body, dict(received.headers))
    with pytest.raises(WebhookVerificationError):
        Webhook(OLDER).verify(received.body, dict(received.headers))


def verify_convoy(received: Received) -> None:
    assert received.headers["X-Convoy-Signature"] == signed_by_hmac("new-text", received)


def verify_outpost(received: Received) -> None:
    expected = ",".join(signed_by_hmac(secret, received) for secret in ("new-text", "old-text"))
    assert received.headers["x-outpost-signature"] == f"v0={expected}"
    assert (received.headers["x-outpost-topic"], received.headers["x-outpost-event-id"]) == ("invoice.paid", "msg_1")


@pytest.mark.parametrize("service", ["svix", "convoy", "outpost"])
async def test_an_export_of_another_service_moves_in(tmp_path: Path, service: str) -> None:
    """Issue 9: what the service answers becomes lines; what relay then sends verifies with the secret from there."""
    (tmp_path / "contracts").mkdir()
    (tmp_path / "contracts" / f"{service}.toml").write_text(printed(f"{service}.toml"))
    async with Receiver() as receiver, Stack(tmp_path) as stack:
        if service == "svix":
            done = mapped(tmp_path, "svix.jq", json.dumps(svix(receiver.url)), "-s")
        elif service == "convoy":
            (tmp_path / "subscriptions.json").write_text(json.dumps([subscription()]))
            options = ("--slurpfile", "subscriptions", "subscriptions.json")
            done = mapped(tmp_path, "convoy.jq", json.dumps([convoy(receiver.url)]), *options)
        else:
            done = mapped(tmp_path, "outpost.jq", json.dumps(outpost(receiver.url)), "-s")
        lines = lines_of(done)
        renamed = {"acme": "moved", "app_1srOrx2ZWZBpBUvZwXKQmoEYga2": "moved"}  # `acme` stands in the file
        for line in lines:
            for kind, member in (("application", "id"), ("endpoint", "application")):
                if kind in line:
                    line[kind][member] = renamed[line[kind][member]]
        status, report = await stack.call("POST", "/v1/import", {"lines": lines})
        assert status == 200, report
        assert (report["applications"]["created"], report["endpoints"]["created"]) == (1, 1)
        assert report["secrets_made"] == []
        event = {"type": "invoice.paid", "application": "moved", "id": "msg_1", "data": {"amount": 1.10, "n": [1]}}
        assert (await stack.call("POST", "/v1/events", event))[0] == 202
        (received,) = await receiver.wait_for(1)
    assert received.body == b'{"amount":1.1,"n":[1]}'
    {"svix": verify_svix, "convoy": verify_convoy, "outpost": verify_outpost}[service](received)


def test_settings_come_along(tmp_path: Path) -> None:
    """Event types, headers, rates, timeouts, states and overlapping secrets are in the lines."""
    (endpoint,) = [
        line["endpoint"]
        for line in lines_of(mapped(tmp_path, "svix.jq", json.dumps(svix("https://x/")), "-s"))
        if "endpoint" in line
    ]
    assert (endpoint["event_types"], endpoint["headers"]) == (["invoice.paid"], {"X-Env": "live"})
    assert (endpoint["rate_limit"], endpoint["state"], endpoint["secrets"]) == ("50/s", "enabled", [SECRET])
    (tmp_path / "subscriptions.json").write_text(json.dumps([subscription()]))
    options = ("--slurpfile", "subscriptions", "subscriptions.json")
    (endpoint,) = [
        line["endpoint"]
        for line in lines_of(mapped(tmp_path, "convoy.jq", json.dumps([convoy("https://x/")]), *options))
        if "endpoint" in line
    ]
    key = {"type": "api_key", "header": "X-Key", "key": "v"}
    assert (endpoint["auth"], endpoint["timeout"], endpoint["rate_limit"]) == (key, "10s", "20/m")
    assert endpoint["secrets"] == ["new-text", {"secret": "old-text", "expires_at": "2099-01-01T00:00:00Z"}]
    lines = lines_of(
        mapped(tmp_path, "outpost.jq", json.dumps(outpost("https://x/", disabled_at="2024-01-01T00:00:00Z")), "-s")
    )
    assert [line["endpoint"]["state"] for line in lines if "endpoint" in line] == ["disabled"]


def test_clients_of_token_servers_come_along(tmp_path: Path) -> None:
    """Issue 9: Convoy's OAuth 2.0 clients become relay's, which stand in the form as they did; what differs ends the recipe."""
    client = {"url": "https://login.example/token", "client_id": "c", "client_secret": "s", "scope": "a b"}
    oauth2 = client | {"authentication_type": "shared_secret", "grant_type": "client_credentials"}
    (tmp_path / "subscriptions.json").write_text(json.dumps([subscription()]))

    def moved(**changed: Any) -> subprocess.CompletedProcess[str]:
        endpoint = convoy("https://x/", authentication={"type": "oauth2", "oauth2": oauth2 | changed})
        options = ("--slurpfile", "subscriptions", "subscriptions.json")
        return mapped(tmp_path, "convoy.jq", json.dumps([endpoint]), *options)

    (found,) = [line["endpoint"]["auth"] for line in lines_of(moved()) if "endpoint" in line]
    assert found == {
        "type": "oauth2", "token_url": client["url"], "client_id": "c", "client_secret": "s", "client_auth": "body", "scope": "a b",
    }  # fmt: skip
    for changed in (
        {"authentication_type": "client_assertion"},
        {"expiry_time_unit": "minutes"},
        {"field_mapping": {"access_token": "t"}},
    ):
        refused = moved(**changed)
        assert refused.returncode != 0
        assert "authenticates by oauth2" in refused.stderr


def test_what_would_be_lost_is_refused(tmp_path: Path) -> None:
    """Channels, filters that mean something else and headers that nobody shows end the recipe with a sentence, instead of moving in without them."""
    options = ("--slurpfile", "subscriptions", "subscriptions.json")
    (tmp_path / "subscriptions.json").write_text(
        json.dumps([subscription(filter={"body": {"amount": {"$regex": "1"}}, "headers": {}})])
    )
    refused = [
        mapped(tmp_path, "svix.jq", json.dumps(svix("https://x/", channels=["eu"])), "-s"),
        mapped(tmp_path, "convoy.jq", json.dumps([convoy("https://x/")]), *options),
        mapped(tmp_path, "outpost.jq", json.dumps(outpost("https://x/", filter={"data": {}})), "-s"),
    ]
    words = ["channels", "filter", "filter"]
    assert all(done.returncode != 0 and word in done.stderr for done, word in zip(refused, words, strict=True))


def test_a_table_of_ones_own(tmp_path: Path) -> None:
    """The recipe for a table makes one application for each customer."""
    rows = [["ep-1", "acme", "https://a.example/", SECRET], ["ep-2", "acme", "https://b.example/", OLDER]]
    lines = lines_of(mapped(tmp_path, "own.jq", json.dumps(rows)))
    assert [next(iter(line)) for line in lines] == ["relay", "application", "endpoint", "endpoint"]
    assert lines[3]["endpoint"] == {
        "id": "ep-2",
        "application": "acme",
        "url": "https://b.example/",
        "secrets": [OLDER],
    }
