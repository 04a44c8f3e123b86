"""`relay endpoint`: the receivers."""

import sys
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import click

from relay.cli.client import Daemon, daemon_options
from relay.cli.filters import list_options, shown
from relay.cli.outcomes import report_test
from relay.cli.output import Exit, echo_json, facts, fail, json_option, moment, say, table

F = TypeVar("F", bound=Callable[..., Any])

PATH = "/v1/webhook-endpoints"


@click.group("endpoint")
def endpoint() -> None:
    """Add, look at and change webhook endpoints."""


def settings(command: F) -> F:
    """Add the options that define an endpoint; what is not given is None or empty."""
    for option in (
        click.option("--max-age", help="How long to keep trying, such as 5d."),
        click.option("--jitter", type=click.FloatRange(0, 1), help="Spread of the delays, such as 0.2."),
        click.option("--retry", "schedule", help="Delays between attempts, such as 5s,5m,30m,2h."),
        click.option("--timeout", help="Time-out of one attempt, such as 15s."),
        click.option("--rate-limit", help="Most attempts in a while, such as 50/s."),
        click.option("--concurrency", type=click.IntRange(1), help="Most attempts at once."),
        click.option("--header", "headers", multiple=True, metavar="NAME=VALUE", help="Fixed header; repeatable."),
        click.option("--description", help="A note for people."),
        click.option("--type", "event_types", multiple=True, help="Event type, or prefix.*; repeatable.  [all]"),
    ):
        command = option(command)
    return command


@endpoint.command("add")
@click.argument("url")
@click.option("--application", help="Whose endpoint it is, where there are several applications.")
@settings
@json_option
@daemon_options
def add(daemon: Daemon, url: str, application: str | None, as_json: bool, **given: Any) -> None:
    """Add an endpoint; its signing secret is printed now and never again."""
    for header in given["headers"]:
        if "=" not in header:
            fail(f"--header {header}: write it as NAME=VALUE.", Exit.USAGE)
    body = {"url": url} | definition(given) | ({"application": application} if application else {})
    made = daemon.post(PATH, body)
    if as_json:
        echo_json(made)
        return
    click.echo(f"{made['id']} added.")
    if made.get("secret"):
        click.echo(f"secret: {made['secret']}")
        say("Give the secret to the receiver; it is not shown again.")
    for warning in made.get("warnings", []):
        say(f"Warning: {warning['pointer']}: {warning['message']}")
    say(f"Try it with: relay endpoint test {made['id']}")


@endpoint.command("update")
@click.argument("endpoint_id", metavar="ID")
@click.argument("url", required=False)
@settings
@click.option("--reset", multiple=True, help="Setting to leave to its default again, such as rate_limit; repeatable.")
@json_option
@daemon_options
def update(
    daemon: Daemon, endpoint_id: str, url: str | None, reset: tuple[str, ...], as_json: bool, **given: Any
) -> None:
    """Change an endpoint: its URL, or settings; what is not named stays. `--header NAME` alone removes a header."""
    patch = definition(given) | ({"url": url} if url else {}) | dict.fromkeys(reset)
    if not patch:
        fail("Nothing to change: give a URL, a setting, or --reset.", Exit.USAGE)
    report(daemon.call("PATCH", f"{PATH}/{endpoint_id}", patch).data, as_json, "updated")


@endpoint.command("list")
@click.option("--application", help="Only of this application.")
@list_options
@json_option
@daemon_options
def list_endpoints(daemon: Daemon, as_json: bool, **query: Any) -> None:
    """List endpoints."""
    page = daemon.get(PATH, **query)
    rows = (
        [one["id"], one["application"], state(one), one["event_types"], one["url"], one["origin"]]
        for one in page["data"]
    )
    shown(page, as_json, table(["ENDPOINT", "APPLICATION", "STATE", "EVENT TYPES", "URL", "FROM"], rows))


@endpoint.command("show")
@click.argument("endpoint_id", metavar="ID")
@json_option
@daemon_options
def show(daemon: Daemon, endpoint_id: str, as_json: bool) -> None:
    """Show an endpoint with its effective settings and its health."""
    one = daemon.get(f"{PATH}/{endpoint_id}")
    if as_json:
        echo_json(one)
    else:
        click.echo(facts(dict(_rows(one))))


@endpoint.command("test")
@click.argument("endpoint_id", metavar="ID")
@click.option("--type", "event_type", help="Event type; its example is sent.  [default: the contract's test event]")
@json_option
@daemon_options
def test(daemon: Daemon, endpoint_id: str, event_type: str | None, as_json: bool) -> None:
    """Send a test event now and show the outcome; exits 1 if it was not delivered. It counts for nothing.

    `relay trigger TYPE --endpoint ID` does the same with data of your own.
    """
    report_test(daemon.post(f"{PATH}/{endpoint_id}/test", {"type": event_type} if event_type else {}), as_json)


@endpoint.command("rotate-secret")
@click.argument("endpoint_id", metavar="ID")
@click.option("--overlap", help="How long the old secret signs as well, such as 24h.")
@json_option
@daemon_options
def rotate_secret(daemon: Daemon, endpoint_id: str, overlap: str | None, as_json: bool) -> None:
    """Make a new signing secret; it is printed now and never again."""
    made = daemon.post(f"{PATH}/{endpoint_id}/rotate-secret", {"overlap": overlap} if overlap else {})
    if as_json:
        echo_json(made)
        return
    click.echo(f"secret: {made['secret']}")
    say("Give it to the receiver. Until the overlap ends, both secrets sign.")


@endpoint.command("delete")
@click.argument("endpoint_id", metavar="ID")
@click.option("--yes", is_flag=True, help="Do not ask.")
@daemon_options
def delete(daemon: Daemon, endpoint_id: str, yes: bool) -> None:
    """Delete an endpoint and cancel what is still due to it."""
    if not yes:
        if not sys.stdin.isatty():
            fail(f"{endpoint_id} would be deleted, and what is due to it cancelled. Say --yes to do it.", Exit.USAGE)
        click.confirm(f"Delete {endpoint_id} and cancel what is due to it?", abort=True, err=True)
    daemon.call("DELETE", f"{PATH}/{endpoint_id}")
    click.echo(f"{endpoint_id} deleted.")


def _switch(verb: str, done: str, line: str) -> None:
    @endpoint.command(verb, help=line)
    @click.argument("endpoint_id", metavar="ID")
    @json_option
    @daemon_options
    def switch(daemon: Daemon, endpoint_id: str, as_json: bool) -> None:
        report(daemon.post(f"{PATH}/{endpoint_id}/{verb}"), as_json, done)


_switch("pause", "paused", "Hold deliveries; new events still create them.")
_switch("resume", "resumed", "Take up deliveries that were held.")
_switch("enable", "enabled", "Take events again, and what was held.")
_switch("disable", "disabled", "Take no new events; what is due is held.")


def definition(given: dict[str, Any]) -> dict[str, Any]:
    """Return the members of the request that the options of `settings` stand for."""
    retry = {"schedule": _split(given["schedule"]), "jitter": given["jitter"]}
    members = {
        "event_types": list(given["event_types"]),
        "headers": dict(map(_header, given["headers"])),
        "retry": {name: value for name, value in retry.items() if value is not None},
    }
    plain = ("description", "concurrency", "rate_limit", "timeout", "max_age")
    return {name: value for name, value in members.items() if value} | {
        name: given[name] for name in plain if given[name] is not None
    }


def report(one: dict[str, Any], as_json: bool, done: str) -> None:
    """Print an endpoint after a change."""
    if as_json:
        echo_json(one)
    else:
        click.echo(f"{one['id']} {done}; it is {state(one)} now.")


def state(one: dict[str, Any]) -> str:
    """Say an endpoint's state, and who disabled it."""
    return f"{one['state']} ({one['disabled_by']})" if one["disabled_by"] else str(one["state"])


def _rows(one: dict[str, Any]) -> Iterator[tuple[str, Any]]:
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
    health = one["health"]
    if health["failures"]:
        yield "failures in a row", f"{health['failures']}, the last: {health['last_failure']}"
        yield "cools down until", moment(health["cool_down_until"])


def _header(text: str) -> tuple[str, str | None]:
    name, separator, value = text.partition("=")
    return name, value if separator else None


def _split(schedule: str | None) -> list[str] | None:
    return None if schedule is None else [delay.strip() for delay in schedule.split(",") if delay.strip()]


COMMANDS = [endpoint]
