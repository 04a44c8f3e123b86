"""`relay init`, `relay check-config`, `relay config show`."""

import json
import os
import shlex
import tomllib
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from relay.cli import main
from relay.config import places
from relay.contracts import ContractCatalogue


@pytest.fixture(autouse=True)
def _own_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith(("RELAY_", "XDG_"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.setattr(places, "SYSTEM_FILE", tmp_path / "etc" / "config.toml")


def run(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def test_init_writes_a_file_that_passes(tmp_path: Path) -> None:
    """`relay init` writes a sound file, readable by its owner only, with a fresh token; its first command exits 0."""
    file = tmp_path / "new" / "relay.toml"
    result = run("init", "--config", file, "--url", "https://example.com/in")
    assert result.exit_code == 0
    assert file.stat().st_mode & 0o777 == 0o600
    written = tomllib.loads(file.read_text())
    assert len(written["token"][0]["secret"]) == 64
    assert written["application"][0]["endpoint"][0]["url"] == "https://example.com/in"
    commands = result.stdout.splitlines()
    assert [shlex.split(command)[:2] for command in commands] == [
        ["relay", "check-config"],
        ["relay", "serve"],
        ["relay", "send"],
    ]
    assert written["token"][0]["secret"] not in result.output
    assert run(*shlex.split(commands[0])[1:]).exit_code == 0


def test_init_prepares_an_endpoint_behind_marks(tmp_path: Path) -> None:
    """Without --url the endpoint is commented out; taking the marks away makes it sound but for the address."""
    file = tmp_path / "relay.toml"
    run("init", "--config", file)
    text = file.read_text()
    assert "endpoint" not in tomllib.loads(text)["application"][0]
    (tmp_path / "on.toml").write_text(
        "\n".join(line.removeprefix("# ") if " = " in line or "[[" in line else line for line in text.splitlines())
    )
    assert run("check-config", "--config", tmp_path / "on.toml").exit_code == 0
    (endpoint,) = tomllib.loads((tmp_path / "on.toml").read_text())["application"][0]["endpoint"]
    contract = ContractCatalogue.load().get("standard")
    assert contract is not None
    assert contract.check_secret(endpoint["secret"]) is None


def test_init_makes_fresh_secrets(tmp_path: Path) -> None:
    """Two files share neither token nor secret."""
    for name in ("a", "b"):
        run("init", "--config", tmp_path / name)
    first, second = (set((tmp_path / name).read_text().split('"')) for name in ("a", "b"))
    assert not [word for word in first & second if len(word) > 43 and " " not in word and "/" not in word]


def test_init_never_overwrites(tmp_path: Path) -> None:
    """An existing file is left as it is: exit 73 with one line."""
    file = tmp_path / "relay.toml"
    file.write_text("mine")
    result = run("init", "--config", file)
    assert result.exit_code == 73
    assert file.read_text() == "mine"
    assert "exists" in result.stderr
    assert result.stdout == ""


def test_init_says_why_it_cannot_write(tmp_path: Path) -> None:
    """A folder that cannot be made is exit 73 with the reason."""
    (tmp_path / "file").touch()
    result = run("init", "--config", tmp_path / "file" / "relay.toml")
    assert result.exit_code == 73
    assert "cannot be created" in result.stderr


def test_init_refuses_a_wrong_url(tmp_path: Path) -> None:
    """A URL that the relay would refuse is refused before anything is written: exit 2."""
    result = run("init", "--config", tmp_path / "x.toml", "--url", "http://example.com/")
    assert result.exit_code == 2
    assert not (tmp_path / "x.toml").exists()


@pytest.mark.parametrize(("user", "file"), [(0, "etc/config.toml"), (1000, "config/relay/config.toml")])
def test_init_writes_where_serve_looks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, user: int, file: str) -> None:
    """Without --config the file goes where `relay check-config` finds it: for root into /etc/relay."""
    monkeypatch.setattr(os, "geteuid", lambda: user)
    assert run("init").exit_code == 0
    assert run("check-config").stdout.startswith(f"Configuration file: {tmp_path / file}\n")


def test_check_config_without_a_file() -> None:
    """Without any file the defaults are checked, and it says so."""
    result = run("check-config")
    assert result.exit_code == 0
    assert result.stdout == "No configuration file: the defaults are used.\nNo mistakes found.\n"


def test_check_config_reports_errors(tmp_path: Path) -> None:
    """Errors are exit 78, with file:line, key, value and remedy, and no traceback."""
    file = tmp_path / "relay.toml"
    file.write_text("[delivery]\ntimeout = 15\nconcurency = 3\n")
    result = run("check-config", "--config", file)
    assert result.exit_code == 78
    assert f"{file}:2: error: delivery.timeout = 15: a duration is written in quotes, with a unit\n" in result.stdout
    assert 'Did you mean "concurrency"?' in result.stdout
    assert result.stdout.endswith("2 errors, 0 warnings.\n")


def test_check_config_as_json(tmp_path: Path) -> None:
    """`--json` gives the same problems as data, with the same exit code."""
    file = tmp_path / "relay.toml"
    file.write_text("[log]\nlevel = 'loud'\n")
    result = run("check-config", "--config", file, "--json")
    assert result.exit_code == 78
    report = json.loads(result.stdout)
    assert (report["path"], report["ok"]) == (str(file), False)
    (problem,) = report["problems"]
    assert (problem["severity"], problem["source"], problem["line"], problem["key"]) == (
        "error",
        str(file),
        2,
        "log.level",
    )


def test_config_show_names_origins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every setting is shown with its value and where it comes from; `--json` has the same."""
    file = tmp_path / "relay.toml"
    file.write_text("[delivery]\ntimeout = '3s'\n")
    monkeypatch.setenv("RELAY_LOG__LEVEL", "debug")
    lines = run("config", "show", "--config", file).stdout.splitlines()
    shown = {line.split(" = ")[0]: line.split("  # ")[1] for line in lines}
    assert shown["delivery.timeout"] == "file:2"
    assert shown["log.level"] == "env RELAY_LOG__LEVEL"
    assert shown["server.max_depth"] == "default"
    data = json.loads(run("config", "show", "--config", file, "--json").stdout)
    assert {"key": "delivery.timeout", "value": "3s", "origin": "file:2"} in data["settings"]


def test_config_show_refuses_a_wrong_file(tmp_path: Path) -> None:
    """With errors nothing is in effect: the problems, then exit 78."""
    file = tmp_path / "relay.toml"
    file.write_text("log = 1\n")
    result = run("config", "show", "--config", file)
    assert result.exit_code == 78
    assert "must be a table" in result.output
