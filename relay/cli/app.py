"""`relay app`: applications, and the keys that people of theirs manage endpoints with."""

import sys
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import click

from relay.cli.client import Daemon, daemon_options
from relay.cli.filters import list_options, shown
from relay.cli.output import Exit, echo_json, facts, fail, json_option, moment, say, table

F = TypeVar("F", bound=Callable[..., Any])

PATH = "/v1/applications"


@click.group("app")
def app() -> None:
    """Add, look at and change applications, and their keys."""


def settings(command: F) -> F:
    """Add the options that define an application; what is not given is None or empty."""
    for option in (
        click.option("--max-age", help="How long to keep trying, such as 5d."),
        click.option("--jitter", type=click.FloatRange(0, 1), help="Spread of the delays, such as 0.2."),
        click.option("--retry", "schedule", help="Delays between attempts, such as 5s,5m,30m,2h."),
        click.option("--timeout", help="Time-out of one attempt, such as 15s."),
        click.option(
            "--validation",
            type=click.Choice(["strict", "warn", "off"]),
            help="What becomes of events that the catalogue does not allow.",
        ),
        click.option(
            "--feature", "features", multiple=True, metavar="NAME[=off]", help="Switch a feature on; repeatable."
        ),
        click.option("--contract", help="What its receivers are promised, such as standard."),
        click.option("--name", help="A name for people."),
    ):
        command = option(command)
    return command


@app.command("add")
@click.argument("app_id", metavar="[ID]", required=False)
@settings
@click.option("--endpoint", "endpoint_url", metavar="URL", help="Address of a first endpoint.")
@click.option("--type", "event_types", multiple=True, help="What that endpoint subscribes to; repeatable.")
@click.option("--key", "with_key", is_flag=True, help="Make a first key.")
@click.option("--key-expires", metavar="TIME", help="When that key ends, such as 2027-01-31T00:00:00Z.")
@json_option
@daemon_options
def add(daemon: Daemon, app_id: str | None, as_json: bool, **given: Any) -> None:
    """Add an application, with a first endpoint and key if asked; their secrets are printed now and never again."""
    if given["event_types"] and not given["endpoint_url"]:
        fail("--type is about a first endpoint: give its address with --endpoint URL.", Exit.USAGE)
    made = daemon.post(PATH, ({"id": app_id} if app_id else {}) | definition(given) | _firsts(given))
    if as_json:
        echo_json(made)
        return
    click.echo(f"{made['id']} added.")
    endpoint, key = made.get("endpoint"), made.get("key")
    if endpoint:
        click.echo(f"endpoint: {endpoint['id']}")
    if endpoint and endpoint.get("secret"):
        click.echo(f"secret: {endpoint['secret']}")
    if key:
        click.echo(f"key: {key['token']}")
    for warning in made.get("warnings", []):
        say(f"Warning: {warning['pointer']}: {warning['message']}")
    if key or (endpoint and endpoint.get("secret")):
        say("Hand them over now; they are not shown again.")


@app.command("list")
@list_options
@json_option
@daemon_options
def list_apps(daemon: Daemon, as_json: bool, **query: Any) -> None:
    """List applications."""
    page = daemon.get(PATH, **query)
    rows = (
        [one["id"], one["contract"], one["endpoints"], one["keys"], _whence(one), one["name"] or None]
        for one in page["data"]
    )
    shown(page, as_json, table(["APPLICATION", "CONTRACT", "ENDPOINTS", "KEYS", "FROM", "NAME"], rows))


@app.command("show")
@click.argument("app_id", metavar="ID")
@json_option
@daemon_options
def show(daemon: Daemon, app_id: str, as_json: bool) -> None:
    """Show an application."""
    one = daemon.get(f"{PATH}/{app_id}")
    if as_json:
        echo_json(one)
    else:
        click.echo(facts(dict(_rows(one))))


@app.command("update")
@click.argument("app_id", metavar="ID")
@settings
@click.option("--reset", multiple=True, help="Setting to leave to its default again, such as timeout; repeatable.")
@json_option
@daemon_options
def update(daemon: Daemon, app_id: str, reset: tuple[str, ...], as_json: bool, **given: Any) -> None:
    """Change an application; what is not named stays. Its contract changes only while it has no endpoints."""
    patch = definition(given) | dict.fromkeys(reset)
    if not patch:
        fail("Nothing to change: give a setting, or --reset.", Exit.USAGE)
    one = daemon.call("PATCH", f"{PATH}/{app_id}", patch).data
    if as_json:
        echo_json(one)
    else:
        click.echo(f"{one['id']} updated.")


@app.command("delete")
@click.argument("app_id", metavar="ID")
@click.option("--yes", is_flag=True, help="Do not ask.")
@daemon_options
def delete(daemon: Daemon, app_id: str, yes: bool) -> None:
    """Delete an application, its endpoints and its keys, and cancel what is still due. Its id is never given again."""
    if not yes:
        what = f"{app_id}, its endpoints and its keys would be deleted, and what is due cancelled"
        if not sys.stdin.isatty():
            fail(f"{what}. Say --yes to do it.", Exit.USAGE)
        click.confirm(f"{what}. Do it?", abort=True, err=True)
    daemon.call("DELETE", f"{PATH}/{app_id}")
    click.echo(f"{app_id} deleted.")


@app.group("key")
def key() -> None:
    """Make, list and revoke the keys of an application."""


@key.command("add")
@click.argument("app_id", metavar="ID")
@click.option("--name", help="Who will use it.")
@click.option("--expires", metavar="TIME", help="When it ends, such as 2027-01-31T00:00:00Z.")
@json_option
@daemon_options
def add_key(daemon: Daemon, app_id: str, name: str | None, expires: str | None, as_json: bool) -> None:
    """Make a key; it is printed now and never again."""
    body = {member: value for member, value in (("name", name), ("expires_at", expires)) if value}
    made = daemon.post(f"{PATH}/{app_id}/keys", body)
    if as_json:
        echo_json(made)
        return
    click.echo(f"{made['id']} added.")
    click.echo(f"key: {made['token']}")
    say("Hand it over now; it is not shown again.")


@key.command("list")
@click.argument("app_id", metavar="ID")
@json_option
@daemon_options
def list_keys(daemon: Daemon, app_id: str, as_json: bool) -> None:
    """List the keys of an application, by how they begin."""
    page = daemon.get(f"{PATH}/{app_id}/keys")
    rows = (
        [one["id"], f"{one['prefix']}…", one["name"] or None, moment(one["created_at"]), _end(one)]
        for one in page["data"]
    )
    shown(page, as_json, table(["KEY", "BEGINS", "NAME", "CREATED", "ENDS"], rows))


@key.command("revoke")
@click.argument("app_id", metavar="ID")
@click.argument("key_id", metavar="KEY")
@daemon_options
def revoke_key(daemon: Daemon, app_id: str, key_id: str) -> None:
    """Revoke a key, at once."""
    daemon.call("DELETE", f"{PATH}/{app_id}/keys/{key_id}")
    click.echo(f"{key_id} revoked.")


def definition(given: dict[str, Any]) -> dict[str, Any]:
    """Return the members of the request that the options of `settings` stand for."""
    schedule = given["schedule"]
    delays = None if schedule is None else [delay.strip() for delay in schedule.split(",") if delay.strip()]
    retry = {name: value for name, value in (("schedule", delays), ("jitter", given["jitter"])) if value is not None}
    members = {"features": dict(map(_feature, given["features"])), "retry": retry}
    plain = ("name", "contract", "validation", "timeout", "max_age")
    return {name: value for name, value in members.items() if value} | {
        name: given[name] for name in plain if given[name] is not None
    }


def _firsts(given: dict[str, Any]) -> dict[str, Any]:
    """Return what is made together with an application."""
    found: dict[str, Any] = {}
    if given["endpoint_url"]:
        types = list(given["event_types"])
        found["endpoint"] = {"url": given["endpoint_url"]} | ({"event_types": types} if types else {})
    if given["key_expires"]:
        found["key"] = {"expires_at": given["key_expires"]}
    elif given["with_key"]:
        found["key"] = True
    return found


def _feature(text: str) -> tuple[str, bool]:
    name, separator, value = text.partition("=")
    if separator and value not in ("on", "off"):
        fail(f"--feature {text}: write it as NAME, NAME=on or NAME=off.", Exit.USAGE)
    return name, value != "off"


def _rows(one: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    yield "id", one["id"]
    yield "name", one["name"] or None
    yield "contract", one["contract"]
    yield "features", [f"{name}: {'on' if on else 'off'}" for name, on in one["features"].items()] or None
    yield "validation", one["validation"]
    retry = one["retry"] or {}
    yield "timeout", one["timeout"]
    yield "retry", ", ".join(retry["schedule"]) if "schedule" in retry else None
    yield "jitter", retry.get("jitter")
    yield "max age", one["max_age"]
    yield "endpoints", one["endpoints"]
    yield "keys", one["keys"]
    yield "from", _whence(one)
    yield "created", moment(one["created_at"])


def _whence(one: dict[str, Any]) -> str:
    if one["origin"] == "api":
        return "the API"
    return "the configuration file" if one["present"] else "the configuration file, which has it no more: held"


def _end(one: dict[str, Any]) -> str | None:
    ends = moment(one["expires_at"])
    return f"{ends} (over)" if one["expired"] else ends


COMMANDS = [app]
