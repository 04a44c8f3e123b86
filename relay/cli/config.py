"""`relay init`, `relay check-config`, `relay config show` and `relay config schema`."""

import json
import os
import secrets
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from relay.cli.output import Exit, counted, echo, echo_json, fail, json_option, say

if TYPE_CHECKING:
    from relay.config import Loaded
    from relay.core.issues import Issue

_FILE = """\
# The configuration of relay. Every setting is explained in config.example.toml, and all are optional.
# After a change: relay check-config

[server]
# listen = ["127.0.0.1:8420", "unix:/run/relay/relay.sock"]

[storage]
# path = "/var/lib/relay/relay.db"

[delivery]
# timeout = "15s"
# retry = {{ schedule = ["5s", "5m", "30m", "2h", "5h", "10h", "14h", "20h", "24h"], jitter = 0.2 }}

# Who may call the API over TCP. This token posts events for the application "default". Secrets are better kept
# elsewhere: write "env:NAME", "file:/path" or "cred:name" (systemd credentials) in their place.
[[token]]
name = "producer"
role = "producer"
application = "default"
secret = "{token}"

[[application]]
id = "default"
contract = "standard"

# A receiver.{hint}
{mark}[[application.endpoint]]
{mark}id = "primary"
{mark}url = "{url}"
{mark}secret = "{secret}"
# event_types = ["render.completed", "cut.*"]      # without this line: every type
"""

_EXAMPLE_URL = "https://example.com/hooks"

_config_option = click.option(
    "--config",
    "config_file",
    type=click.Path(readable=False, path_type=Path),  # the loader says it better
    metavar="FILE",
    help="The file to use instead of the usual ones.",
)


@click.command()
@_config_option
@click.option("--url", help="A first receiver to deliver to.")
def init(config_file: Path | None, url: str | None) -> None:
    """Write a commented configuration file with a fresh token and secret.

    Without --config it goes where `relay serve` looks for it: /etc/relay for root, else ~/.config/relay. An existing
    file is never overwritten.
    """
    path = (config_file or _usual_path()).absolute()
    _refuse_wrong_url(url)
    _create(path, _contents(url))
    say(f"Wrote {path}, which you alone can read. Next:")
    echo(f"relay check-config --config {path}")
    echo(f"relay serve --config {path}")
    echo(f"relay send --config {path} render.completed '{{\"id\": 1}}'")


@click.command("check-config")
@_config_option
@json_option
def check_config(config_file: Path | None, as_json: bool) -> None:
    """Report every mistake in the configuration, each with its line and a remedy.

    Exit code 78 if there are errors, 77 if this user may not read the file; warnings alone are exit code 0.
    """
    loaded = _load(config_file)
    if as_json:
        problems = [_written(issue) for issue in loaded.issues]
        echo_json({"path": _text(loaded.path), "ok": loaded.config is not None, "problems": problems})
    else:
        _say_issues(loaded)
    if loaded.config is None:
        raise click.exceptions.Exit(loaded.refusal().exit_code)


@click.group()
def config() -> None:
    """Show the effective configuration, and describe what may stand in it."""


@config.command()
def schema() -> None:
    """Print a JSON Schema of the configuration file: editors complete, explain and check settings by it.

    The first line of config.example.toml names it, for the TOML language server (Taplo, "Even Better TOML"):

    \b
      relay config schema > /etc/relay/config.schema.json     # beside the configuration
    """
    from relay.config.json_schema import config_schema

    echo_json(config_schema(shipped("config.example.toml")))


@config.command()
@_config_option
@json_option
def show(config_file: Path | None, as_json: bool) -> None:
    """Show every setting in effect and where it comes from; secrets are masked."""
    loaded = _load(config_file)
    if loaded.config is None:
        _say_issues(loaded)
        fail("The configuration has errors; nothing is in effect.", loaded.refusal().exit_code)
    if as_json:
        settings = [setting._asdict() for setting in loaded.settings]
        echo_json({"path": _text(loaded.path), "settings": settings, "contracts": list(loaded.contracts.names)})
        return
    say(f"# {_described(loaded.path)}")
    say(f"# Contracts: {', '.join(loaded.contracts.names)}")
    lines = [
        (f"{setting.key} = {json.dumps(setting.value, ensure_ascii=False)}", setting.origin)
        for setting in loaded.settings
    ]
    width = min(max(len(line) for line, _ in lines), 60)
    for line, origin in lines:
        echo(f"{line.ljust(width)}  # {origin}")


COMMANDS: list[click.Command] = [init, check_config, config]


def shipped(name: str) -> str:
    """Read a file that the wheel carries in `relay/assets`; in a checkout some stand at its top instead."""
    package = files("relay")
    place = package / "assets" / name
    return (place if place.is_file() else Path(str(package)).parent / name).read_text("utf-8")


def _usual_path() -> Path:
    from relay.config.places import usual_files

    candidates = usual_files(os.environ)
    return candidates[-1] if os.geteuid() == 0 else candidates[0]


def _refuse_wrong_url(url: str | None) -> None:
    from relay.core.urls import check_url

    faults = check_url(url, allow_http=False, allow_private=False) if url else ()
    if faults:
        fail(f"--url: {'. And: '.join(faults)}.", Exit.USAGE)


def _contents(url: str | None) -> str:
    from relay.contracts import ContractCatalogue

    contract = ContractCatalogue.load().get("standard")
    assert contract is not None
    return _FILE.format(
        token=secrets.token_hex(32),
        secret=contract.new_secret(secrets.token_bytes),
        url=url or _EXAMPLE_URL,
        mark="" if url else "# ",
        hint="" if url else " Take away the # before the next four lines, and put in your own address.",
    )


def _create(path: Path, contents: str) -> None:
    if path.exists():
        fail(f"{path} exists and is left as it is. Name another file with --config.", Exit.CANNOT_CREATE)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except OSError as error:
        reason = (error.strerror or "unknown reason").lower()
        fail(f"{path} cannot be created: {reason}. Name another file with --config.", Exit.CANNOT_CREATE)
    with os.fdopen(descriptor, "w") as file:
        file.write(contents)


def _load(config_file: Path | None) -> "Loaded":
    from relay.config import load
    from relay.config.places import find_config_file
    from relay.core.clock import SystemClock

    return load(find_config_file(config_file, os.environ), os.environ, {}, now_ms=SystemClock().wall_ms())


def _say_issues(loaded: "Loaded") -> None:
    """Say which file, what is wrong with it, and how many mistakes that makes."""
    from relay.config import render_issues

    echo(_described(loaded.path))
    if loaded.issues:
        echo(render_issues(loaded.issues))
    errors, warnings = counted(len(loaded.errors), "error"), counted(len(loaded.warnings), "warning")
    echo(f"{errors}, {warnings}." if loaded.issues else "No mistakes found.")


def _described(path: Path | None) -> str:
    return "No configuration file: the defaults are used." if path is None else f"Configuration file: {path}"


def _written(issue: "Issue") -> dict[str, Any]:
    from relay.config import severity, source_and_line

    source, line = source_and_line(issue)
    place = {"severity": severity(issue), "source": source, "line": line, "key": issue.path}
    return place | {"value": issue.value, "message": issue.message, "remedy": issue.remedy}


def _text(path: Path | None) -> str | None:
    return None if path is None else str(path)
