"""A sixth service, written in TOML alone: everything that the five have works for it, through the daemon."""

import asyncio
import base64
import hashlib
import hmac
import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from relay.cli.client import Refused
from relay.cli.output import Exit
from tests.support.daemon import Daemon, config_text
from tests.support.receiver import Answer, Received, Receiver

pytestmark = pytest.mark.slow

SECRETS = ("new-secret-of-the-studio", "old-secret-of-the-studio")

STUDIO = """
description = "The studio"
content_type = "application/vnd.studio+json"
timestamp = "unix_ms"

[types]
catalogue = "closed"
grammar = '[a-z]+/[a-z]+'
description = "two words of small letters with a slash between them"

[type."cut/done"]
description = "A cut is done."
schema = "studio/cut.json#/$defs/done"
example = '{"cut":"c_1","title":"The title","seconds":30.0,"url":"https://cdn.example.com/1.mp4"}'
links = true

[type."cut/old"]
description = "As it was."
schema = { type = "object" }
example = '{"cut":"c_1"}'
deprecated = true
replaced_by = "cut/done"

[type."cut/preview"]
description = "A preview can be looked at."
example = '{"cut":"c_1"}'
feature = "previews"
idempotency_key = false

[type."studio/ping"]
description = "A test."
example = '{"hook":"h_1"}'
test = { hook = "{endpoint_id}", owner = "{application_id}" }

[features]
previews = "Tell about previews too"

[body]
mode = "js"
members = [
  { name = "kind", value = "{type}" },
  { name = "version", value = 2 },
  { name = "at", value = "{timestamp:iso_ms}" },
  { name = "...", value = "{data}" },
]

[headers]
Studio-Event = "{type}"
Studio-Delivery = "{id}"

[[signature]]
header = "Studio-Signature"
content = "{id}|{timestamp}|{body}"
algorithm = "hmac-sha512"
encoding = "base64url"
each = "s{n}={sig}"
join = " "
value = "t={timestamp} {sigs}"

[registration]
self_service = false
https = false
max_endpoints = 2

[ordering]
mode = "strict"
key = "{data.cut}"

[idempotency]
key = "{type}:{data.cut}"
differs = "conflict"

[delivery]
timeout = "3s"
link_age = "1h"
retry = { schedule = ["10ms"], jitter = 0.0 }
"""

SCHEMA = {
    "$defs": {
        "done": {
            "type": "object",
            "required": ["cut", "title", "seconds", "url"],
            "additionalProperties": False,
            "properties": {
                "cut": {"type": "string", "pattern": "^c_[0-9]+$"},
                "title": {"type": "string"},
                "seconds": {"type": "number", "minimum": 0},
                "url": {"$ref": "#/$defs/link"},
            },
        },
        "link": {"type": "string", "format": "uri"},
    }
}

EXTENDED = """
description = "The studio's newer clients"
extends = "studio"
[type."cut/shared"]
description = "Somebody shared a cut."
example = '{"cut":"c_1"}'
[body]
mode = "verbatim"
[registration]
self_service = true
"""


def verified(request: Received, secrets: tuple[str, ...] = SECRETS) -> dict[str, Any]:
    """Do what the studio tells its receivers to do, with nothing but hashlib; return the parsed body."""
    time, *signatures = request.headers["Studio-Signature"].split(" ")
    signed = b"|".join((request.headers["Studio-Delivery"].encode(), time.removeprefix("t=").encode(), request.body))
    made = [hmac.new(secret.encode(), signed, hashlib.sha512).digest() for secret in secrets]
    text = [raw.hex() for raw in made]
    assert [_hex(signature, n) for n, signature in enumerate(signatures, 1)] == text
    body: dict[str, Any] = json.loads(request.body)
    assert request.headers["Studio-Event"] == body["kind"]
    assert request.headers["Content-Type"] == "application/vnd.studio+json"
    return body


def _hex(signature: str, n: int) -> str:
    return base64.urlsafe_b64decode(signature.removeprefix(f"s{n}=")).hex()


def studio(request: Received) -> Answer:
    """The studio's receiver."""
    try:
        verified(request)
    except (AssertionError, KeyError, ValueError) as error:
        return Answer(401, body=repr(error).encode())
    return Answer(200)


def write_contracts(folder: Path, **changed: str) -> None:
    """Write the contracts beside the configuration file."""
    contracts = folder / "contracts"
    (contracts / "studio").mkdir(parents=True, exist_ok=True)
    (contracts / "studio" / "cut.json").write_text(json.dumps(SCHEMA))
    for name, text in {"studio": STUDIO, "studio-next": EXTENDED, **changed}.items():
        (contracts / f"{name}.toml").write_text(text)


def tenants(url: str) -> str:
    secrets = json.dumps(SECRETS)
    return "".join(
        f'[[application]]\nid = "{name}"\ncontract = "{contract}"\nfeatures = {features}\n'
        f'[[application.endpoint]]\nid = "{name}-hook"\nurl = "{url}"\nsecrets = {secrets}\n'
        for name, contract, features in (
            ("north", "studio", "{ previews = true }"),
            ("south", "studio-next", "{}"),
        )
    )


@contextmanager
def running(folder: Path, url: str) -> Iterator[Daemon]:
    write_contracts(folder)
    with Daemon(folder, config_text(folder, extra=tenants(url))) as daemon:
        yield daemon


async def relay(daemon: Daemon, *words: str) -> subprocess.CompletedProcess[str]:
    return await asyncio.to_thread(run, words, {"RELAY_SOCKET": str(daemon.socket_path)})


def run(words: tuple[str, ...], env: Mapping[str, str]) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "relay", *words]
    return subprocess.run(command, capture_output=True, text=True, timeout=50, check=False, env={**os.environ, **env})


async def said(daemon: Daemon, *words: str) -> Any:
    done = await relay(daemon, *words, "--json")
    assert done.returncode == Exit.FINE, done.stderr
    return json.loads(done.stdout)


async def test_from_a_file_to_the_receiver(tmp_path: Path) -> None:
    """Catalogue, trigger, flat body, two signatures, expiry, repetition: as for the built-in five (ROT-7, WOC-4, WOC-8,
    ROU-18)."""
    async with Receiver(default=studio) as receiver:
        with running(tmp_path, receiver.url) as daemon:
            listed = await said(daemon, "types", "--application", "north")
            set_title = ("--set", 'data.title="é/\\u2028"')
            outcome = await relay(daemon, "trigger", "cut/done", "--application", "north", *set_title, "--wait")
            assert outcome.returncode == Exit.FINE, outcome.stderr
            event = (
                b'{"application":"north","type":"cut/done","data":%s}'
                % json.dumps(
                    {"cut": "c_2", "title": "two", "seconds": 1, "url": "https://cdn.example.com/2.mp4"}
                ).encode()
            )
            first = await asyncio.to_thread(daemon.api.post, "/v1/events", event)
            again = await asyncio.to_thread(daemon.api.post, "/v1/events", event)
            with pytest.raises(Refused, match="Idempotency conflict") as refusal:
                await asyncio.to_thread(daemon.api.post, "/v1/events", event.replace(b'"two"', b'"other"'))
            assert refusal.value.status == 409
            kept = await asyncio.to_thread(daemon.api.get, f"/v1/events/{first['id']}")
            await receiver.wait_for(2)
            tested = await relay(daemon, "trigger", "studio/ping", "--endpoint", "north-hook")
            assert tested.returncode == Exit.FINE, tested.stderr

    assert [entry["name"] for entry in listed["data"]] == ["cut/done", "cut/old", "cut/preview", "studio/ping"]
    body = verified(receiver.received[0])
    assert list(body) == ["kind", "version", "at", "cut", "title", "seconds", "url"]
    assert receiver.received[0].body.endswith(
        '"cut":"c_1","title":"é/\u2028","seconds":30,"url":"https://cdn.example.com/1.mp4"}'.encode()
    )
    assert (again["id"], again["duplicate"], first["duplicate"]) == (first["id"], True, False)
    assert kept["expires_at"] is not None
    ping = verified(receiver.received[2])
    assert list(ping.items())[3:] == [("hook", "north-hook"), ("owner", "north")]


async def test_what_the_contract_refuses(tmp_path: Path) -> None:
    """Unknown types, wrong data, and members that the envelope has are 422 with a pointer; what a feature that is off
    asks for is held back (ROT-7, ROU-13, WOC-9)."""
    wrong = {
        b'{"application":"north","type":"cut/gone","data":{}}': (422, "/type"),
        b'{"application":"north","type":"cut/done","data":{"cut":"c_x","title":1}}': (422, "/data/cut"),
        b'{"application":"north","type":"cut/preview","data":{"kind":"mine"}}': (422, "/data/kind"),
    }
    async with Receiver(default=studio) as receiver:
        with running(tmp_path, receiver.url) as daemon:
            for body, (status, pointer) in wrong.items():
                with pytest.raises(Refused) as refusal:
                    await asyncio.to_thread(daemon.api.post, "/v1/events", body)
                assert refusal.value.status == status
                assert pointer in str(refusal.value)
            held = b'{"application":"south","type":"cut/preview","data":{"cut":"c_1"}}'
            answer = await asyncio.to_thread(daemon.api.post, "/v1/events", held)

    assert (answer["deliveries"], answer["reason"]) == (0, "filtered")
    assert receiver.received == []


async def test_a_contract_that_extends_another(tmp_path: Path) -> None:
    """Tables are added to, lists and values replaced: a type more, and numbers that keep their bytes."""
    async with Receiver(default=studio) as receiver:
        with running(tmp_path, receiver.url) as daemon:
            listed = await said(daemon, "types", "--application", "south")
            outcome = await relay(daemon, "trigger", "cut/done", "--application", "south", "--wait")
            assert outcome.returncode == Exit.FINE, outcome.stderr

    assert [entry["name"] for entry in listed["data"]][-1] == "cut/shared"
    assert b'"seconds":30.0' in verified_body(receiver)


def verified_body(receiver: Receiver) -> bytes:
    (request,) = receiver.received
    verified(request)
    return request.body


def test_check_config_reads_it(tmp_path: Path) -> None:
    """A sound contract passes; each mistake is named with file, key and remedy, and ends with 78; `relay types` shows
    it without a daemon."""
    write_contracts(tmp_path)
    config = tmp_path / "config.toml"
    config.write_text(config_text(tmp_path, extra=tenants("http://127.0.0.1:9/")))
    config.chmod(0o600)
    sound = run(("check-config", "--config", str(config)), {})
    assert sound.returncode == Exit.FINE, sound.stdout + sound.stderr
    types = run(("types", "--contract", "studio-next", "--contracts", str(tmp_path / "contracts")), {})
    assert "cut/shared" in types.stdout

    wrong = STUDIO.replace('mode = "js"', 'mode = "jss"').replace("{id}|", "{ids}|")
    write_contracts(tmp_path, studio=wrong)
    refused = run(("check-config", "--config", str(config)), {})

    said = refused.stdout + refused.stderr
    assert refused.returncode == Exit.CONFIGURATION
    for words in ("studio.toml", "body.mode", "Use one of: verbatim, js", "signature[0].content", "{ids}"):
        assert words in said
