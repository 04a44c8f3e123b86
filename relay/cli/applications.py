"""`relay app`: applications and their keys."""

from collections.abc import Iterator
from typing import Any

import click

from relay.cli.client import Daemon, asks_daemon, daemon_options
from relay.cli.output import (
    Columns,
    Exit,
    Json,
    at,
    confirm,
    echo,
    facts,
    fail,
    list_options,
    moment,
    options,
    show,
    show_page,
    yes_option,
)
from relay.cli.registry import definition, patch, report_made, retry_options

APPLICATIONS = "/v1/applications"

app_options = options(
    click.option("--name", help="A name for people."),
    click.option("--contract", help="What its receivers are promised, such as standard."),
    click.option("--feature", "features", multiple=True, metavar="NAME[=off]", help="Switch a feature on; repeatable."),
    click.option("--allow-network", "allow_networks", multiple=True, help="Network open to it alone; repeatable."),
    click.option("--limit", "limits", multiple=True, metavar="NAME=VALUE", help="A limit of its own; repeatable."),
    click.option("--source-address", "source_addresses", multiple=True, help="Its deliveries come from; repeatable."),
    click.option(
        "--validation",
        type=click.Choice(["strict", "warn", "off"]),
        help="What becomes of events that the catalogue does not allow.",
    ),
    retry_options,
)
app_argument = click.argument("app_id", metavar="ID")


@click.group("app")
def app() -> None:
    """Add, look at and change applications, and their keys."""


@app.command("add")
@click.argument("app_id", metavar="[ID]", required=False)
@app_options
@click.option("--endpoint", "endpoint_url", metavar="URL", help="Address of a first endpoint.")
@click.option("--type", "event_types", multiple=True, help="What that endpoint subscribes to; repeatable.")
@click.option("--key", "with_key", is_flag=True, help="Make a first key.")
@click.option("--key-expires", metavar="TIME", help="When that key ends, such as 2027-01-31T00:00:00Z.")
@asks_daemon
def add_app(daemon: Daemon, app_id: str | None, as_json: bool, **given: Any) -> None:
    """Add an application, with a first endpoint and key if asked; their secrets are printed now and never again."""
    if given["event_types"] and not given["endpoint_url"]:
        fail("--type is about a first endpoint: give its address with --endpoint URL.", Exit.USAGE)
    made = daemon.post(
        APPLICATIONS, ({"id": app_id} if app_id else {}) | definition(given | {"event_types": ()}) | _firsts(given)
    )
    endpoint, key = made.get("endpoint") or {}, made.get("key") or {}
    shown = {"endpoint": endpoint.get("id"), "secret": endpoint.get("secret"), "key": key.get("token")}
    secret = shown["secret"] or shown["key"]
    report_made(made, as_json, shown, "Hand them over now; they are not shown again." if secret else "")


@app.command("list")
@list_options
@asks_daemon
def list_apps(daemon: Daemon, as_json: bool, **query: Any) -> None:
    """List applications."""
    columns: Columns = {
        "APPLICATION": "id",
        "CONTRACT": "contract",
        "ENDPOINTS": "endpoints",
        "KEYS": "keys",
        "FROM": _whence,
        "NAME": _name,
    }
    show_page(daemon.get(APPLICATIONS, **query), as_json, columns)


@app.command("show")
@app_argument
@asks_daemon
def show_app(daemon: Daemon, app_id: str, as_json: bool) -> None:
    """Show an application."""
    one = daemon.get(f"{APPLICATIONS}/{app_id}")
    show(one, as_json, lambda: facts(dict(_app_rows(one))))


@app.command("update")
@app_argument
@app_options
@click.option("--reset", multiple=True, help="Setting to leave to its default again, such as timeout; repeatable.")
@asks_daemon
def update_app(daemon: Daemon, app_id: str, reset: tuple[str, ...], as_json: bool, **given: Any) -> None:
    """Change an application; what is not named stays. Its contract changes only while it has no endpoints."""
    one = daemon.call("PATCH", f"{APPLICATIONS}/{app_id}", patch(given, reset, "a setting")).data
    show(one, as_json, lambda: f"{one['id']} updated.")


@app.command("delete")
@app_argument
@yes_option
@daemon_options
def delete_app(daemon: Daemon, app_id: str, yes: bool) -> None:
    """Delete an application, its endpoints and its keys, and cancel what is still due. Its id is never given again."""
    what = f"{app_id}, its endpoints and its keys would be deleted, and what is due cancelled"
    confirm(yes, what, f"{what}. Do it?")
    daemon.call("DELETE", f"{APPLICATIONS}/{app_id}")
    echo(f"{app_id} deleted.")


@app.group("key")
def key() -> None:
    """Make, list and revoke the keys of an application."""


@key.command("add")
@app_argument
@click.option("--name", help="Who will use it.")
@click.option("--expires", metavar="TIME", help="When it ends, such as 2027-01-31T00:00:00Z.")
@asks_daemon
def add_key(daemon: Daemon, app_id: str, name: str | None, expires: str | None, as_json: bool) -> None:
    """Make a key; it is printed now and never again."""
    body = {member: value for member, value in (("name", name), ("expires_at", expires)) if value}
    made = daemon.post(f"{APPLICATIONS}/{app_id}/keys", body)
    report_made(made, as_json, {"key": made.get("token")}, "Hand it over now; it is not shown again.")


@key.command("list")
@app_argument
@asks_daemon
def list_keys(daemon: Daemon, app_id: str, as_json: bool) -> None:
    """List the keys of an application, by how they begin."""
    columns: Columns = {
        "KEY": "id",
        "BEGINS": lambda key: f"{key['prefix']}…",
        "NAME": _name,
        "CREATED": at("created_at"),
        "ENDS": _end,
    }
    show_page(daemon.get(f"{APPLICATIONS}/{app_id}/keys"), as_json, columns)


@key.command("revoke")
@app_argument
@click.argument("key_id", metavar="KEY")
@daemon_options
def revoke_key(daemon: Daemon, app_id: str, key_id: str) -> None:
    """Revoke a key, at once."""
    daemon.call("DELETE", f"{APPLICATIONS}/{app_id}/keys/{key_id}")
    echo(f"{key_id} revoked.")


def _firsts(given: Json) -> Json:
    """Return what is made together with an application."""
    found: Json = {}
    if given["endpoint_url"]:
        types = list(given["event_types"])
        found["endpoint"] = {"url": given["endpoint_url"]} | ({"event_types": types} if types else {})
    if given["key_expires"]:
        found["key"] = {"expires_at": given["key_expires"]}
    elif given["with_key"]:
        found["key"] = True
    return found


def _app_rows(one: Json) -> Iterator[tuple[str, Any]]:
    yield "id", one["id"]
    yield "name", _name(one)
    yield "contract", one["contract"]
    yield "features", [f"{name}: {'on' if on else 'off'}" for name, on in one["features"].items()] or None
    yield "validation", one["validation"]
    yield "networks", one["allow_networks"] or None
    yield "sources", one["source_addresses"]
    retry = one["retry"] or {}
    yield from _limit_rows(one["limits"], one["usage"])
    yield "timeout", one["timeout"]
    yield "retry", ", ".join(retry["schedule"]) if "schedule" in retry else None
    yield "jitter", retry.get("jitter")
    yield "max age", one["max_age"]
    yield "endpoints", one["endpoints"]
    yield "keys", one["keys"]
    yield "from", _whence(one)
    yield "created", moment(one["created_at"])


def _limit_rows(limits: Json, usage: Json) -> Iterator[tuple[str, Any]]:
    yield "due", f"{usage['due']:,} of {limits['backlog']:,} deliveries, {usage['bytes']:,} bytes of {limits['bytes']}"
    yield "tests", f"{limits['tests']['at_once']} at once, {limits['tests']['per_minute']} in a minute"
    yield "definition", f"up to {limits['definition']} each, {limits['endpoints']:,} endpoints"


def _whence(one: Json) -> str:
    if one["origin"] == "api":
        return "the API"
    return "the configuration file" if one["present"] else "the configuration file, which has it no more: held"


def _end(one: Json) -> str | None:
    ends = moment(one["expires_at"])
    return f"{ends} (over)" if one["expired"] else ends


def _name(one: Json) -> str | None:
    return one["name"] or None


COMMANDS = [app]
