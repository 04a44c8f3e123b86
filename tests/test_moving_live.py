"""A move-in and a rotation with a real daemon, the command line, and receivers that verify everything."""

import asyncio
import base64
import json
import os
import random
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from standardwebhooks import Webhook, WebhookVerificationError

from relay.cli import main
from relay.cli import moving as verbs
from relay.cli.output import Exit
from tests.support.daemon import PRODUCER_TOKEN, Daemon, config_text
from tests.support.receiver import Received, Receiver
from tests.support.waiting import until

pytestmark = pytest.mark.slow

ENDPOINTS = "/v1/webhook-endpoints"
COUNT = 1_000


def run(daemon: Daemon, *words: str, given: str | None = None) -> Result:
    return CliRunner().invoke(main, [*words, "--socket", str(daemon.socket_path)], catch_exceptions=False, input=given)


def secret(rng: random.Random) -> str:
    return "whsec_" + base64.b64encode(rng.randbytes(24)).decode()


def written(lines: list[dict[str, Any]]) -> str:
    return "".join(json.dumps(line) + "\n" for line in [{"relay": {"schema": 1}}, *lines])


def endpoint(name: str, url: str, *secrets: str, owner: str = "moved") -> dict[str, Any]:
    return {"endpoint": {"id": name, "application": owner, "url": url, "secrets": list(secrets)}}


def verified(received: Received, secret: str) -> bool:
    """Whether a delivery verifies with a secret, as the official library sees it."""
    try:
        Webhook(secret).verify(received.body, dict(received.headers))
    except WebhookVerificationError:
        return False
    return True


async def test_a_thousand_endpoints_move_in(tmp_path: Path) -> None:
    """Issue 9: 1,000 endpoints with given secrets are imported by one command; every delivery verifies with its own secret."""
    rng = random.Random(1)
    secrets = {f"ep_{number}": secret(rng) for number in range(COUNT)}
    async with Receiver() as receiver:
        lines: list[dict[str, Any]] = [{"application": {"id": "moved"}}]
        lines += [endpoint(name, f"{receiver.url}/{name}", value) for name, value in secrets.items()]
        (tmp_path / "customers.jsonl").write_text(written(lines))
        with Daemon(tmp_path, config_text(tmp_path)) as daemon:
            dry = await asyncio.to_thread(
                run, daemon, "import", str(tmp_path / "customers.jsonl"), "--dry-run", "--json"
            )
            first = await asyncio.to_thread(run, daemon, "import", str(tmp_path / "customers.jsonl"), "--json")
            again = await asyncio.to_thread(run, daemon, "import", str(tmp_path / "customers.jsonl"))
            event = {"type": "invoice.paid", "application": "moved", "data": {"n": 1}}
            posted = await asyncio.to_thread(daemon.api.post, "/v1/events", event)
            deliveries = await receiver.wait_for(COUNT)
            exported = await asyncio.to_thread(run, daemon, "export", "--with-secrets", "--application", "moved")
    assert json.loads(dry.stdout) == json.loads(first.stdout) | {"dry_run": True}
    assert json.loads(first.stdout)["endpoints"]["created"] == COUNT
    assert again.stdout.splitlines()[0] == "Nothing to change: all is there as the lines say."
    assert posted["deliveries"] == COUNT
    assert {one.path.rpartition("/")[2] for one in deliveries} == set(secrets)
    assert all(verified(one, secrets[one.path.rpartition("/")[2]]) for one in deliveries)
    assert not verified(deliveries[0], secret(rng))  # negative control
    moved = [json.loads(line) for line in exported.stdout.splitlines()][2:]
    assert {one["endpoint"]["id"]: one["endpoint"]["secrets"][0]["secret"] for one in moved} == secrets


async def test_secrets_rotate_under_load(tmp_path: Path) -> None:
    """Issue 9: while events pour in, 20 endpoints rotate to given secrets: each delivery verifies with the old one, and those
    of events that came after the answer with the new one too. With no overlap the old one ends (negative control)."""
    rng = random.Random(2)
    old = {f"ep_{number}": secret(rng) for number in range(20)}
    new = {name: secret(rng) for name in old}
    rotated: dict[str, int] = {}  # by endpoint: how many events had been posted when the answer was there
    async with Receiver() as receiver:
        lines = [
            {"application": {"id": "moved"}},
            *(endpoint(name, f"{receiver.url}/{name}", value) for name, value in old.items()),
        ]
        with Daemon(tmp_path, config_text(tmp_path)) as daemon:
            await asyncio.to_thread(daemon.api.post, "/v1/import", {"lines": [{"relay": {"schema": 1}}, *lines]})
            posted: list[str] = []

            async def pour() -> None:
                while len(rotated) < len(old) or len(posted) < 60:
                    event = {"type": "load", "application": "moved", "data": {"n": len(posted)}}
                    posted.append((await asyncio.to_thread(daemon.api.post, "/v1/events", event))["id"])

            async def rotate() -> None:
                for name, value in new.items():
                    seen = len(posted)
                    await until(lambda seen=seen: len(posted) > seen)  # type: ignore[misc]  # a default argument is no inferred type
                    body = {"secret": value, "overlap": "1h"}
                    await asyncio.to_thread(daemon.api.post, f"{ENDPOINTS}/{name}/rotate-secret", body)
                    rotated[name] = len(posted) + 1  # one may be on its way

            await asyncio.gather(pour(), rotate())
            deliveries = list(await receiver.wait_for(len(posted) * len(old)))
            await asyncio.to_thread(
                daemon.api.post, f"{ENDPOINTS}/ep_0/rotate-secret", {"secret": secret(rng), "overlap": "0s"}
            )
            await asyncio.to_thread(daemon.api.post, "/v1/events", {"type": "load", "application": "moved", "data": {}})
            (ended,) = [
                one
                for one in (await receiver.wait_for(len(deliveries) + len(old)))[len(deliveries) :]
                if one.path.endswith("/ep_0")
            ]
    for one in deliveries:
        name = one.path.rpartition("/")[2]
        assert verified(one, old[name])
        if posted.index(one.headers["webhook-id"]) >= rotated[name]:
            assert verified(one, new[name])
    assert not verified(ended, old["ep_0"])
    assert not verified(ended, new["ep_0"])


# -- the command line -----------------------------------------------------------------------------------------------------


@pytest.fixture
def daemon(tmp_path: Path) -> Any:
    with Daemon(tmp_path, config_text(tmp_path)) as running:
        yield running


def test_mistakes_have_the_line_of_the_file(daemon: Daemon, tmp_path: Path) -> None:
    """All mistakes are said at once with the lines of the file, blank lines counted, and nothing is done."""
    lines = (
        written([endpoint("a", "ftp://x", "short", owner="acme")])
        + "\n"
        + written([endpoint("b", "x", owner="nowhere")]).splitlines()[1]
        + "\n"
    )
    wrong = run(daemon, "import", "-", given=lines)
    broken = run(daemon, "import", "-", given='{"relay": {"schema": 1}}\n{"endpoint"\nnull]\n')
    empty = run(daemon, "import", "-", given="\n")
    other = run(daemon, "import", "-", given='{"relay": {"schema": 7}}\n')
    assert [result.exit_code for result in (wrong, broken, empty, other)] == [Exit.BAD_INPUT] * 4
    assert wrong.stderr.startswith("Nothing was imported.\n")
    assert "line 2, endpoint/url" in wrong.stderr
    assert "line 2, endpoint/secrets/0" in wrong.stderr
    assert "line 4, endpoint/application" in wrong.stderr
    assert "line 2: is not JSON" in broken.stderr
    assert "line 3: is not JSON" in broken.stderr
    assert "schema" in empty.stderr
    assert "line 1: this relay reads lines of schema 1" in other.stderr
    assert daemon.api.get(ENDPOINTS)["data"] == []


def test_a_large_file_goes_in_parts(daemon: Daemon, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is larger than one call goes in several, all checked before the first is done; large applications are cut."""
    monkeypatch.setattr(verbs, "BYTES_MAX", 600)
    rng = random.Random(3)
    lines: list[dict[str, Any]] = []
    for owner in ("one", "two"):
        lines.append({"application": {"id": owner}})
        lines += [endpoint(f"{owner}-{n}", "http://127.0.0.1:9/", secret(rng), owner=owner) for n in range(6)]
    wrong = run(daemon, "import", "-", given=written([*lines, endpoint("x", "ftp://x", owner="two")]))
    assert "Nothing was imported." in wrong.stderr
    assert "line 16, endpoint/url" in wrong.stderr
    assert daemon.api.get("/v1/applications")["data"][0]["id"] == "acme"
    done = run(daemon, "import", "-", "--json", given=written(lines))
    again = run(daemon, "import", "-", "--json", given=written(lines))
    assert json.loads(done.stdout)["endpoints"]["created"] == 12
    assert json.loads(again.stdout)["changed"] is False


def test_an_export_is_a_file_for_its_owner(daemon: Daemon, tmp_path: Path) -> None:
    """`--output` makes a file that nobody else reads, and never replaces one; without a secret an import says so."""
    lines = [{"endpoint": {"id": "a", "application": "acme", "url": "http://127.0.0.1:9/"}}]
    made = run(daemon, "import", "-", given=written(lines))
    path = tmp_path / "export.jsonl"
    assert run(daemon, "export", "--output", str(path)).exit_code == Exit.FINE
    again = run(daemon, "export", "--output", str(path))
    assert "1 endpoint came without a secret and got one here: a\n" in made.stderr
    assert os.stat(path).st_mode & 0o777 == 0o600
    assert "whsec_" not in path.read_text()
    assert (again.exit_code, "Choose another name" in again.stderr) == (Exit.CANNOT_CREATE, True)
    assert json.loads(run(daemon, "import", str(path), "--json").stdout)["changed"] is False


def test_secrets_through_the_command_line(daemon: Daemon, tmp_path: Path) -> None:
    """K13: `add --id --secret-file`, `secret` and `rotate-secret --secret-file` take and show secrets; a producer may not."""
    rng = random.Random(4)
    first, second = secret(rng), secret(rng)
    (tmp_path / "secret").write_text(f"{first}\n")
    added = run(
        daemon, "endpoint", "add", "http://127.0.0.1:9/", "--id", "mine", "--secret-file", str(tmp_path / "secret")
    )
    assert (added.exit_code, first in added.output) == (Exit.FINE, False)
    assert run(daemon, "endpoint", "secret", "mine").stdout == f"{first}\n"
    assert run(daemon, "endpoint", "rotate-secret", "mine", "--secret", second).exit_code == Exit.FINE
    shown = run(daemon, "endpoint", "secret", "mine")
    assert (shown.stdout, "An older one signs as well, until" in shown.stderr) == (f"{second}\n", True)
    (tmp_path / "keys.pem").write_text("-----BEGIN PRIVATE KEY-----\nMC4=\n-----END PRIVATE KEY-----\n" * 2)
    pem = run(daemon, "endpoint", "rotate-secret", "mine", "--secret-file", str(tmp_path / "keys.pem"))
    assert (pem.exit_code, "several secrets" in pem.stderr) == (Exit.USAGE, True)
    (tmp_path / "both").write_text(f"{second}\n\n")
    refused = [
        run(
            daemon,
            "endpoint",
            "add",
            "http://127.0.0.1:9/",
            "--secret",
            first,
            "--secret-file",
            str(tmp_path / "secret"),
        ),
        run(daemon, "endpoint", "add", "http://127.0.0.1:9/", "--secret-file", str(tmp_path / "both")),
        run(daemon, "endpoint", "add", "http://127.0.0.1:9/", "--secret", ""),
    ]
    assert [result.exit_code for result in refused] == [Exit.USAGE] * 3
    forbidden = CliRunner().invoke(main, ["endpoint", "secret", "mine", "--url", daemon.url, "--token", PRODUCER_TOKEN])
    assert forbidden.exit_code == Exit.NO_PERMISSION
    assert first not in daemon.log()
    assert second not in daemon.log()
    (read, _) = [record for record in daemon.log_records() if record["event"] == "endpoint.secret_read"]
    assert (read["endpoint"], read["by"]) == ("mine", f"uid:{os.getuid()}")
