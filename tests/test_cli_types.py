"""`relay types`: the catalogue, from the daemon or from the contract files."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from relay.cli import main
from relay.cli.output import Exit
from tests.support.api_stub import ApiStub

PATH = "/v1/event-types"

OWN = """
description = "our own"
[types]
catalogue = "closed"
[type."cut.done"]
description = "A cut is done."
example = '{"seconds": 30.0}'
[type."cut.old"]
description = "As it was."
example = '{}'
deprecated = true
replaced_by = "cut.done"
[body]
members = [{ name = "data", value = "{data}" }]
"""

RENDERED: dict[str, Any] = {
    "name": "render.completed",
    "description": "A render finished.",
    "schema": {"type": "object"},
    "example": {"fps": 30},
    "deprecated": False,
    "replaced_by": None,
    "test_only": False,
    "links": True,
    "feature": None,
}


@pytest.fixture
def api(monkeypatch: pytest.MonkeyPatch) -> Iterator[ApiStub]:
    stub = ApiStub()
    monkeypatch.setenv("RELAY_URL", stub.url)
    yield stub
    stub.close()


@pytest.fixture
def no_daemon(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Whoever asks a daemon fails."""
    for name in ("RELAY_TOKEN", "RELAY_CONFIG", "XDG_CONFIG_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("RELAY_URL", "http://127.0.0.1:1")


def run(*words: str) -> Result:
    return CliRunner().invoke(main, ["types", *words], catch_exceptions=False)


def test_the_daemons_catalogue_is_listed(api: ApiStub) -> None:
    """Types with what is special about them; an open contract is told apart, on stderr."""
    old = RENDERED | {"name": "render.done", "deprecated": True, "replaced_by": "render.completed", "links": False}
    listed = {"application": "acme", "contract": "mine", "open": True, "data": [RENDERED, old], "next": None}
    api.answer("GET", PATH, listed)
    result = run()
    assert result.exit_code == Exit.FINE
    assert result.stdout.splitlines()[1:] == [
        "render.completed  links expire                      A render finished.",
        "render.done       deprecated, use render.completed  A render finished.",
    ]
    assert "is open" in result.stderr
    assert json.loads(run("--json").stdout) == listed


def test_one_type_is_shown(api: ApiStub) -> None:
    """One type with example and schema; `--application` says whose contract."""
    api.answer("GET", f"{PATH}/render.completed?application=acme", RENDERED)
    result = run("render.completed", "--application", "acme")
    assert result.stdout.startswith("event type   render.completed\ndescription  A render finished.\nnote ")
    assert 'example:\n{\n  "fps": 30\n}\n\nschema:\n{\n  "type": "object"\n}\n' in result.stdout
    assert json.loads(run("render.completed", "--application", "acme", "--json").stdout) == RENDERED


def test_an_unknown_type_is_answered_with_the_nearest(api: ApiStub) -> None:
    """What the daemon says about a mistyped name is shown."""
    api.problem("GET", f"{PATH}/rende", 404, "There is no such thing", detail="did you mean 'render.completed'?")
    result = run("rende")
    assert (result.exit_code, "did you mean 'render.completed'?" in result.stderr) == (Exit.FAILED, True)


@pytest.mark.usefixtures("no_daemon")
def test_a_built_in_contract_is_read_without_a_daemon() -> None:
    """`--contract NAME` asks no daemon (EDF-9, EDF-10)."""
    result = run("--contract", "editframe")
    assert result.exit_code == Exit.FINE
    lines = {line.split()[0]: line for line in result.stdout.splitlines()}
    assert "deprecated, use file.created" in lines["unprocessed_file.created"]
    assert "sent by a test only" in lines["webhook.test"]
    shown = json.loads(run("render.completed", "--contract", "editframe", "--json").stdout)
    assert (shown["example"]["status"], shown["schema"]["type"]) == ("complete", "object")


@pytest.mark.usefixtures("no_daemon")
def test_contracts_of_ones_own_are_found(tmp_path: Path) -> None:
    """They are beside the configuration file that `--config` names, or in the folder of `--contracts`."""
    folder = tmp_path / "contracts"
    folder.mkdir()
    (folder / "own.toml").write_text(OWN)
    (tmp_path / "config.toml").write_text("")
    beside = run("--contract", "own", "--config", str(tmp_path / "config.toml"))
    named = run("--contract", "own", "--contracts", str(folder))
    assert beside.stdout == named.stdout
    assert "cut.done" in named.stdout
    example = run("cut.done", "--contract", "own", "--contracts", str(folder))
    assert '"seconds": 30.0' in example.stdout
    assert run("--contract", "own").exit_code == Exit.USAGE


@pytest.mark.usefixtures("no_daemon")
@pytest.mark.parametrize(
    ("words", "said", "code"),
    [
        (["--contract", "editfrme"], "Did you mean editframe?", Exit.USAGE),
        (["--contract", "q"], "There are: box, cloudevents", Exit.USAGE),
        (["rendr.completed", "--contract", "editframe"], "did you mean 'render.completed'?", Exit.FAILED),
        (["order.paid", "--contract", "standard"], "is open", Exit.FAILED),
        (["--contract", "rotor", "--application", "acme"], "not both", Exit.USAGE),
        (["--contracts", "."], "--contract NAME", Exit.USAGE),
        ([], "No daemon answers", Exit.UNREACHABLE),
    ],
)
def test_what_cannot_be_shown_is_explained(words: list[str], said: str, code: Exit) -> None:
    """Wrong names are answered with the nearest, and options that exclude each other with why."""
    result = run(*words)
    assert (result.exit_code, said in result.stderr) == (code, True), result.stderr


@pytest.mark.usefixtures("no_daemon")
def test_a_broken_contract_file_is_told(tmp_path: Path) -> None:
    """A mistake in a folder of one's own is said with file and key; the exit code is that of wrong configuration."""
    (tmp_path / "own.toml").write_text(OWN.replace("description", "descripton", 1))
    result = run("--contract", "own", "--contracts", str(tmp_path))
    assert result.exit_code == Exit.CONFIGURATION
    assert "own.toml:2: descripton: unknown key" in result.stderr
