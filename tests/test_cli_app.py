"""`relay app`: what it asks of the daemon, what it prints, and the whole round with a real one."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from relay.cli import main
from relay.cli.output import Exit
from tests.support.api_stub import ApiStub
from tests.support.daemon import TOKEN, Daemon, config_text

PATH = "/v1/applications"
APPLICATION: dict[str, Any] = {
    "id": "acme",
    "name": "",
    "contract": "wochit",
    "features": {"drafts": True, "failures": False},
    "validation": "strict",
    "allow_networks": ["10.0.0.0/8"],
    "source_addresses": None,
    "timeout": None,
    "retry": {"schedule": ["5s", "5m"]},
    "max_age": "1d",
    "origin": "api",
    "present": True,
    "created_at": "2026-11-22T08:00:00.000Z",
    "updated_at": "2026-11-22T08:00:00.000Z",
    "limits": {
        "endpoints": 1000,
        "backlog": 50000,
        "bytes": "1GiB",
        "tests": {"at_once": 4, "per_minute": 60},
        "definition": "64KiB",
    },
    "usage": {"due": 1200, "bytes": 345678},
    "endpoints": 2,
    "keys": 1,
}
KEY: dict[str, Any] = {
    "id": "key_1",
    "name": "ci",
    "prefix": "rk_abcdef",
    "created_at": "2026-11-22T08:00:00.000Z",
    "expires_at": "2027-01-31T00:00:00.000Z",
    "expired": False,
}


@pytest.fixture
def api() -> Iterator[ApiStub]:
    stub = ApiStub()
    yield stub
    stub.close()


@pytest.fixture(autouse=True)
def environment(api: ApiStub, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every command finds the stub, and nothing of this host."""
    monkeypatch.setenv("RELAY_URL", api.url)
    monkeypatch.setenv("RELAY_TOKEN", "t")


def run(*words: str) -> Result:
    return CliRunner().invoke(main, ["app", *words])


# -- against a stand-in -----------------------------------------------------------------------------------------------


def test_add_sends_what_the_options_say(api: ApiStub) -> None:
    """Options become the members of the call, a first endpoint and key included; the secrets are printed once."""
    extras = {"endpoint": {"id": "ep_1", "secret": "whsec_x"}, "key": KEY | {"token": "rk_abcdefgh"}}
    warnings = [{"pointer": "/endpoint/url", "message": "unencrypted"}]
    api.answer("POST", PATH, APPLICATION | extras | {"warnings": warnings}, 201)
    result = run(
        *("add", "acme", "--name", "Acme", "--contract", "wochit", "--feature", "drafts", "--feature", "failures=off"),
        *("--validation", "warn", "--timeout", "3s", "--retry", "1s, 1m", "--jitter", "0", "--max-age", "1d"),
        *("--endpoint", "http://a.example/", "--type", "draft.*", "--key-expires", "2027-01-31T00:00:00Z"),
        *("--allow-network", "10.0.0.0/8", "--allow-network", "fd00::/8", "--source-address", "203.0.113.7"),
    )
    assert api.asked[0].json == {
        "id": "acme",
        "name": "Acme",
        "contract": "wochit",
        "features": {"drafts": True, "failures": False},
        "validation": "warn",
        "allow_networks": ["10.0.0.0/8", "fd00::/8"],
        "source_addresses": ["203.0.113.7"],
        "timeout": "3s",
        "retry": {"schedule": ["1s", "1m"], "jitter": 0.0},
        "max_age": "1d",
        "endpoint": {"url": "http://a.example/", "event_types": ["draft.*"]},
        "key": {"expires_at": "2027-01-31T00:00:00Z"},
    }
    assert result.exit_code == 0
    assert result.stdout == "acme added.\nendpoint: ep_1\nsecret: whsec_x\nkey: rk_abcdefgh\n"
    assert "Warning: /endpoint/url: unencrypted" in result.stderr
    assert "not shown again" in result.stderr


def test_add_needs_nothing(api: ApiStub) -> None:
    """Without options everything is the daemon's default, and nothing is said about secrets."""
    api.answer("POST", PATH, APPLICATION, 201)
    result = run("add")
    assert api.asked[0].json == {}
    assert (result.stdout, result.stderr) == ("acme added.\n", "")


def test_add_with_a_plain_key(api: ApiStub) -> None:
    """`--key` asks for a key that does not expire."""
    api.answer("POST", PATH, APPLICATION | {"key": KEY | {"token": "rk_abcdefgh"}}, 201)
    run("add", "--key")
    assert api.asked[0].json == {"key": True}


@pytest.mark.parametrize(
    "words", [("add", "--feature", "drafts=maybe"), ("add", "--type", "a.b"), ("update", "acme"), ("delete", "acme")]
)
def test_wrong_use_asks_nothing(api: ApiStub, words: tuple[str, ...]) -> None:
    """What cannot be meant is exit code 2, and the daemon is not asked; deleting without a terminal needs --yes."""
    assert run(*words).exit_code == Exit.USAGE
    assert api.asked == []


def test_list_and_show(api: ApiStub) -> None:
    """Lists are tables; one application is shown with its settings, those that it leaves open left out."""
    held = APPLICATION | {"id": "old", "origin": "file", "present": False, "retry": None, "name": "Old"}
    api.answer("GET", f"{PATH}?limit=50", {"data": [APPLICATION, held], "next": "7"})
    api.answer("GET", f"{PATH}/acme", APPLICATION)
    listed, shown = run("list"), run("show", "acme")
    assert listed.stdout.splitlines()[1].split() == ["acme", "wochit", "2", "1", "the", "API", "–"]
    assert "no more: held" in listed.stdout
    assert "--cursor 7" in listed.stderr
    assert "features    drafts: on, failures: off" in shown.stdout
    assert "retry       5s, 5m" in shown.stdout
    assert "timeout" not in shown.stdout


def test_update_patches(api: ApiStub) -> None:
    """Only what is named is sent; `--reset` sends null (RFC 7396)."""
    api.answer("PATCH", f"{PATH}/acme", APPLICATION)
    result = run("update", "acme", "--feature", "drafts=off", "--reset", "timeout")
    assert api.asked[0].json == {"features": {"drafts": False}, "timeout": None}
    assert result.stdout == "acme updated.\n"


def test_delete(api: ApiStub) -> None:
    """With --yes it is done without a question."""
    api.answer("DELETE", f"{PATH}/acme", None, 204)
    assert run("delete", "acme", "--yes").stdout == "acme deleted.\n"


def test_keys(api: ApiStub) -> None:
    """A key is printed when it is made; the list shows how each begins and when it ends."""
    api.answer("POST", f"{PATH}/acme/keys", KEY | {"token": "rk_abcdefgh"}, 201)
    over = KEY | {"id": "key_2", "name": "", "expired": True}
    api.answer("GET", f"{PATH}/acme/keys", {"data": [KEY, over], "next": None})
    api.answer("DELETE", f"{PATH}/acme/keys/key_1", None, 204)
    made = run("key", "add", "acme", "--name", "ci", "--expires", "2027-01-31T00:00:00Z")
    assert api.asked[0].json == {"name": "ci", "expires_at": "2027-01-31T00:00:00Z"}
    assert made.stdout == "key_1 added.\nkey: rk_abcdefgh\n"
    listed = run("key", "list", "acme").stdout.splitlines()
    assert "rk_abcdef…" in listed[1]
    assert listed[2].endswith("2027-01-31 00:00:00Z (over)")
    assert run("key", "revoke", "acme", "key_1").stdout == "key_1 revoked.\n"


@pytest.mark.parametrize(
    ("words", "call"),
    [
        (("add",), ("POST", PATH)),
        (("list",), ("GET", f"{PATH}?limit=50")),
        (("show", "acme"), ("GET", f"{PATH}/acme")),
        (("update", "acme", "--name", "x"), ("PATCH", f"{PATH}/acme")),
        (("key", "add", "acme"), ("POST", f"{PATH}/acme/keys")),
        (("key", "list", "acme"), ("GET", f"{PATH}/acme/keys")),
    ],
)
def test_json_is_what_the_daemon_said(api: ApiStub, words: tuple[str, ...], call: tuple[str, str]) -> None:
    """With --json the answer goes to stdout as it came, and messages nowhere."""
    answer: dict[str, Any] = {"data": [], "next": None, "any": "thing"}
    api.answer(*call, answer)
    result = run(*words, "--json")
    assert json.loads(result.stdout) == answer
    assert result.stderr == ""


def test_a_refusal_is_told(api: ApiStub) -> None:
    """Every mistake has a line, and the exit code says that the input was wrong."""
    errors = [{"pointer": "/contract", "message": "there is no contract 'rotr'"}]
    api.problem("POST", PATH, 422, "The request has mistakes", errors=errors)
    result = run("add", "--contract", "rotr")
    assert result.exit_code == Exit.BAD_INPUT
    assert "/contract: there is no contract 'rotr'" in result.stderr


# -- against a daemon -------------------------------------------------------------------------------------------------


def test_the_whole_round(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An application is added with endpoint and key, listed, changed and deleted; a contract of one's own is checked."""
    folder = tmp_path / "contracts"
    folder.mkdir()
    (folder / "ours.toml").write_text('extends = "standard"\ndescription = "ours"\n')
    with Daemon(tmp_path, config_text(tmp_path)) as daemon:
        monkeypatch.setenv("RELAY_URL", daemon.url)
        monkeypatch.setenv("RELAY_TOKEN", TOKEN)
        added = json.loads(
            run("add", "initech", "--contract", "ours", "--endpoint", "http://127.0.0.1:9/", "--key", "--json").stdout
        )
        token = added["key"]["token"]
        endpoints = CliRunner().invoke(main, ["endpoint", "list", "--json", "--token", token])
        assert [one["id"] for one in json.loads(endpoints.stdout)["data"]] == [added["endpoint"]["id"]]
        assert "initech" in run("list").stdout
        limits = ("--limit", "backlog=50", "--limit", "bytes=2MiB", "--limit", "tests.per_minute=9")
        assert run("update", "initech", "--timeout", "3s", *limits).exit_code == 0
        shown = run("show", "initech").stdout
        assert "3s" in shown
        assert "0 of 50 deliveries, 0 bytes of 2MiB" in shown
        assert "4 at once, 9 in a minute" in shown
        assert run("update", "initech", "--limit", "backlog=").exit_code == 0
        assert "0 of 1,000,000 deliveries, 0 bytes of 2MiB" in run("show", "initech").stdout
        assert added["key"]["prefix"] in run("key", "list", "initech").stdout
        assert run("delete", "initech", "--yes").exit_code == 0
        gone = CliRunner().invoke(main, ["endpoint", "list", "--token", token])
        assert gone.exit_code == Exit.NO_PERMISSION
        assert token not in daemon.log()
        checked = CliRunner().invoke(main, ["check-config", "--config", str(daemon.config_path)])
        assert checked.exit_code == 0
        (folder / "ours.toml").write_text('extends = "standrad"\n')
        checked = CliRunner().invoke(main, ["check-config", "--config", str(daemon.config_path)])
        assert checked.exit_code == Exit.CONFIGURATION
        assert "ours.toml:1: error: extends" in checked.stdout


def test_limits_are_shown_with_what_is_used(api: ApiStub) -> None:
    """I8: `relay app show` says how much is due, in number and bytes, and how much may be."""
    api.answer("GET", f"{PATH}/acme", APPLICATION)
    shown = run("show", "acme").output
    assert "1,200 of 50,000 deliveries, 345,678 bytes of 1GiB" in shown
    assert "4 at once, 60 in a minute" in shown
    assert "up to 64KiB each, 1,000 endpoints" in shown


def test_limits_are_set_by_name(api: ApiStub) -> None:
    """I8: `--limit` sets any limit that the API has, by its name; without a value it is that of `[limits]` again."""
    api.answer("PATCH", f"{PATH}/acme", APPLICATION)
    words = ["--limit", "backlog=50000", "--limit", "bytes=2GiB", "--limit", "tests.at_once=2", "--limit", "endpoints="]
    assert run("update", "acme", *words).exit_code == 0
    limits = {"backlog": 50000, "bytes": "2GiB", "tests": {"at_once": 2}, "endpoints": None}
    assert api.asked[-1].json == {"limits": limits}


@pytest.mark.parametrize("text", ["backlog", "size=3", "tests=3"])
def test_a_limit_that_there_is_not_is_a_usage_error(text: str) -> None:
    """I8: a wrong name of a limit is answered with those that there are."""
    result = run("add", "acme", "--limit", text)
    assert result.exit_code == Exit.USAGE
    assert "tests.at_once" in result.output
