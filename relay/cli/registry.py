"""`relay app` and `relay endpoint`: applications with their keys, and the receivers of their events."""

from collections.abc import Iterator
from typing import Any

import click

from relay.cli.client import Daemon, asks_daemon, daemon_options
from relay.cli.deliveries import report_test
from relay.cli.output import (
    Columns,
    Exit,
    Json,
    at,
    confirm,
    echo,
    echo_json,
    facts,
    fail,
    json_option,
    list_options,
    moment,
    options,
    say,
    say_warnings,
    show,
    show_page,
    state,
    yes_option,
)

APPLICATIONS = "/v1/applications"
ENDPOINTS = "/v1/webhook-endpoints"

_PLAIN = (
    "url",
    "application",
    "name",
    "contract",
    "validation",
    "description",
    "concurrency",
    "rate_limit",
    "timeout",
    "max_age",
)
"""Settings that go into a request as they are given."""

retry_options = options(
    click.option("--timeout", help="Time-out of one attempt, such as 15s."),
    click.option("--retry", "schedule", help="Delays between attempts, such as 5s,5m,30m,2h."),
    click.option("--jitter", type=click.FloatRange(0, 1), help="Spread of the delays, such as 0.2."),
    click.option("--max-age", help="How long to keep trying, such as 5d."),
)
app_options = options(
    click.option("--name", help="A name for people."),
    click.option("--contract", help="What its receivers are promised, such as standard."),
    click.option("--feature", "features", multiple=True, metavar="NAME[=off]", help="Switch a feature on; repeatable."),
    click.option(
        "--validation",
        type=click.Choice(["strict", "warn", "off"]),
        help="What becomes of events that the catalogue does not allow.",
    ),
    retry_options,
)
endpoint_options = options(
    click.option("--type", "event_types", multiple=True, help="Event type, or prefix.*; repeatable.  [all]"),
    click.option("--description", help="A note for people."),
    click.option("--header", "headers", multiple=True, metavar="NAME=VALUE", help="Fixed header; repeatable."),
    click.option("--concurrency", type=click.IntRange(1), help="Most attempts at once."),
    click.option("--rate-limit", help="Most attempts in a while, such as 50/s."),
    retry_options,
)
app_argument = click.argument("app_id", metavar="ID")
endpoint_argument = click.argument("endpoint_id", metavar="ID")


# -- applications -------------------------------------------------------------------------------------------------------


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
    _report_made(made, as_json, shown, "Hand them over now; they are not shown again." if secret else "")


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
    one = daemon.call("PATCH", f"{APPLICATIONS}/{app_id}", _patch(given, reset, "a setting")).data
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
    _report_made(made, as_json, {"key": made.get("token")}, "Hand it over now; it is not shown again.")


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


def _feature(text: str) -> tuple[str, bool]:
    name, separator, value = text.partition("=")
    if separator and value not in ("on", "off"):
        fail(f"--feature {text}: write it as NAME, NAME=on or NAME=off.", Exit.USAGE)
    return name, value != "off"


def _app_rows(one: Json) -> Iterator[tuple[str, Any]]:
    yield "id", one["id"]
    yield "name", _name(one)
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


def _whence(one: Json) -> str:
    if one["origin"] == "api":
        return "the API"
    return "the configuration file" if one["present"] else "the configuration file, which has it no more: held"


def _end(one: Json) -> str | None:
    ends = moment(one["expires_at"])
    return f"{ends} (over)" if one["expired"] else ends


# -- endpoints ----------------------------------------------------------------------------------------------------------


@click.group("endpoint")
def endpoint() -> None:
    """Add, look at and change webhook endpoints."""


@endpoint.command("add")
@click.argument("url")
@click.option("--application", help="Whose endpoint it is, where there are several applications.")
@endpoint_options
@asks_daemon
def add_endpoint(daemon: Daemon, url: str, application: str | None, as_json: bool, **given: Any) -> None:
    """Add an endpoint; its signing secret is printed now and never again."""
    for header in given["headers"]:
        if "=" not in header:
            fail(f"--header {header}: write it as NAME=VALUE.", Exit.USAGE)
    made = daemon.post(ENDPOINTS, definition(given | {"url": url, "application": application}))
    secret = made.get("secret")
    hand_over = "Give the secret to the receiver; it is not shown again.\n" if secret else ""
    _report_made(made, as_json, {"secret": secret}, f"{hand_over}Try it with: relay endpoint test {made.get('id')}")


@endpoint.command("update")
@endpoint_argument
@click.argument("url", required=False)
@endpoint_options
@click.option("--reset", multiple=True, help="Setting to leave to its default again, such as rate_limit; repeatable.")
@asks_daemon
def update_endpoint(
    daemon: Daemon, endpoint_id: str, url: str | None, reset: tuple[str, ...], as_json: bool, **given: Any
) -> None:
    """Change an endpoint: its URL, or settings; what is not named stays. `--header NAME` alone removes a header."""
    patch = _patch(given | {"url": url}, reset, "a URL, a setting")
    report(daemon.call("PATCH", f"{ENDPOINTS}/{endpoint_id}", patch).data, as_json, "updated")


@endpoint.command("list")
@click.option("--application", help="Only of this application.")
@list_options
@asks_daemon
def list_endpoints(daemon: Daemon, as_json: bool, **query: Any) -> None:
    """List endpoints."""
    columns: Columns = {
        "ENDPOINT": "id",
        "APPLICATION": "application",
        "STATE": state,
        "EVENT TYPES": "event_types",
        "URL": "url",
        "FROM": "origin",
    }
    show_page(daemon.get(ENDPOINTS, **query), as_json, columns)


@endpoint.command("show")
@endpoint_argument
@asks_daemon
def show_endpoint(daemon: Daemon, endpoint_id: str, as_json: bool) -> None:
    """Show an endpoint with its effective settings and its health."""
    one = daemon.get(f"{ENDPOINTS}/{endpoint_id}")
    show(one, as_json, lambda: facts(dict(_endpoint_rows(one))))


@endpoint.command("test")
@endpoint_argument
@click.option("--type", "event_type", help="Event type; its example is sent.  [default: the contract's test event]")
@asks_daemon
def test(daemon: Daemon, endpoint_id: str, event_type: str | None, as_json: bool) -> None:
    """Send a test event now and show the outcome; exits 1 if it was not delivered. It counts for nothing.

    `relay trigger TYPE --endpoint ID` does the same with data of your own.
    """
    report_test(daemon.post(f"{ENDPOINTS}/{endpoint_id}/test", {"type": event_type} if event_type else {}), as_json)


@endpoint.command("rotate-secret")
@endpoint_argument
@click.option("--overlap", help="How long the old secret signs as well, such as 24h.")
@asks_daemon
def rotate_secret(daemon: Daemon, endpoint_id: str, overlap: str | None, as_json: bool) -> None:
    """Make a new signing secret; it is printed now and never again."""
    made = daemon.post(f"{ENDPOINTS}/{endpoint_id}/rotate-secret", {"overlap": overlap} if overlap else {})
    show(made, as_json, lambda: f"secret: {made['secret']}")
    if not as_json:
        say("Give it to the receiver. Until the overlap ends, both secrets sign.")


@endpoint.command("delete")
@endpoint_argument
@yes_option
@daemon_options
def delete_endpoint(daemon: Daemon, endpoint_id: str, yes: bool) -> None:
    """Delete an endpoint and cancel what is still due to it."""
    what = f"{endpoint_id} would be deleted, and what is due to it cancelled"
    confirm(yes, what, f"Delete {endpoint_id} and cancel what is due to it?")
    daemon.call("DELETE", f"{ENDPOINTS}/{endpoint_id}")
    echo(f"{endpoint_id} deleted.")


def _switch(verb: str, done: str, line: str) -> None:
    @endpoint.command(verb, help=line)
    @endpoint_argument
    @json_option
    @daemon_options
    def switch(daemon: Daemon, endpoint_id: str, as_json: bool) -> None:
        report(daemon.post(f"{ENDPOINTS}/{endpoint_id}/{verb}"), as_json, done)


_switch("pause", "paused", "Hold deliveries; new events still create them.")
_switch("resume", "resumed", "Take up deliveries that were held.")
_switch("enable", "enabled", "Take events again, and what was held.")
_switch("disable", "disabled", "Take no new events; what is due is held.")


def report(one: Json, as_json: bool, done: str) -> None:
    """Print an endpoint after a change."""
    show(one, as_json, lambda: f"{one['id']} {done}; it is {state(one)} now.")


def _endpoint_rows(one: Json) -> Iterator[tuple[str, Any]]:
    yield from ((name, one[name]) for name in ("id", "application", "url"))
    yield "state", state(one)
    yield "event types", one["event_types"]
    yield "description", one["description"] or None
    yield "headers", [f"{name}={value}" for name, value in one["headers"].items()] or None
    yield "limits", f"{one['concurrency']} at once, {one['rate_limit'] or 'any rate'}, time-out {one['timeout']}"
    yield "retry", f"{', '.join(one['retry']['schedule'])} (jitter {one['retry']['jitter']}), for {one['max_age']}"
    yield "secrets", one["secrets"]
    yield "from", "the configuration file" if one["origin"] == "file" else "the API"
    yield "deliveries", f"{one['due']} due, {one['dead']} dead"
    yield "waits for", one["waits_for"]
    yield from _health_rows(one["health"], one["refusing"])


def _health_rows(health: Json, refusing: Json | None) -> Iterator[tuple[str, Any]]:
    if health["failures"]:
        yield "failures in a row", f"{health['failures']}, the last: {health['last_failure']}"
        yield "cools down until", moment(health["cool_down_until"])
    if refusing:
        yield "refuses since", f"{moment(refusing['since'])}, the last answer: {refusing['status']}"
    elif health["last_failure"] and not health["failures"]:
        yield "last failure", f"{health['last_failure']} at {moment(health['last_failure_at'])}"
    yield "what to do", health["last_answer"]


def _header(text: str) -> tuple[str, str | None]:
    name, separator, value = text.partition("=")
    return name, value if separator else None


# -- both ---------------------------------------------------------------------------------------------------------------


def definition(given: Json) -> Json:
    """Return the members of a request that the options which were given stand for."""
    retry = {"schedule": _split(given["schedule"]), "jitter": given["jitter"]}
    members = {
        "features": dict(map(_feature, given.get("features", ()))),
        "event_types": list(given.get("event_types", ())),
        "headers": dict(map(_header, given.get("headers", ()))),
        "retry": {name: value for name, value in retry.items() if value is not None},
    }
    plain = {name: given[name] for name in _PLAIN if given.get(name) is not None}
    return {name: value for name, value in members.items() if value} | plain


def _patch(given: Json, reset: tuple[str, ...], nothing: str) -> Json:
    """Return what an update changes; `reset` names what becomes its default again."""
    patch = definition(given) | dict.fromkeys(reset)
    if not patch:
        fail(f"Nothing to change: give {nothing}, or --reset.", Exit.USAGE)
    return patch


def _report_made(made: Json, as_json: bool, shown: dict[str, str | None], next_step: str) -> None:
    """Print what was made, what is shown of it this once, what is odd about it, and what to do with it."""
    if as_json:
        echo_json(made)
        return
    echo(f"{made['id']} added.")
    for name, value in shown.items():
        if value:
            echo(f"{name}: {value}")
    say_warnings(made)
    if next_step:
        say(next_step)


def _name(one: Json) -> str | None:
    return one["name"] or None


def _split(schedule: str | None) -> list[str] | None:
    return None if schedule is None else [delay.strip() for delay in schedule.split(",") if delay.strip()]


COMMANDS = [app, endpoint]
