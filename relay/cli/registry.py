"""`relay endpoint`: the receivers of events; and how what is given for one becomes a request."""

import json
import re
from collections.abc import Iterator
from typing import Any

import click

from relay.cli.client import Daemon, asks_daemon, daemon_options
from relay.cli.deliveries import report_test
from relay.cli.json_text import read_json
from relay.cli.output import (
    Columns,
    Exit,
    Json,
    confirm,
    counted,
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
from relay.cli.tls import tls_members, tls_options, tls_rows

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
    "verification",
    "timeout",
    "max_age",
)
"""Settings that go into a request as they are given."""

LIMITS = ("endpoints", "backlog", "bytes", "definition", "tests.at_once", "tests.per_minute")
"""What an application may be given limits for."""

retry_options = options(
    click.option("--timeout", help="Time-out of one attempt, such as 15s."),
    click.option("--retry", "schedule", help="Delays between attempts, such as 5s,5m,30m,2h."),
    click.option("--jitter", type=click.FloatRange(0, 1), help="Spread of the delays, such as 0.2."),
    click.option("--max-age", help="How long to keep trying, such as 5d."),
)
endpoint_options = options(
    click.option("--type", "event_types", multiple=True, help="Event type, or prefix.*; repeatable.  [all]"),
    click.option("--filter", "filter_text", metavar="JSON", help="Which events of these types: JSON, @FILE or -."),
    click.option("--contract", help="Name of a contract of its own; the events go to it in that shape."),
    click.option("--description", help="A note for people."),
    click.option("--header", "headers", multiple=True, metavar="NAME=VALUE", help="Fixed header; repeatable."),
    click.option("--concurrency", type=click.IntRange(1), help="Most attempts at once."),
    click.option("--rate-limit", help="Most attempts in a while, such as 50/s."),
    click.option(
        "--verification",
        type=click.Choice(["none", "challenge", "options", "ping"]),
        help="How its receiver is asked before the first event.  [as the contract says]",
    ),
    tls_options,
    click.option("--auth", "auth_text", metavar="JSON", help="What authenticates there: JSON, @FILE or -."),
    retry_options,
)
secret_options = options(
    click.option("--secret", help="Secret that receivers have already; a file keeps it out of the process list."),
    click.option(
        "--secret-file", type=click.File("r", encoding="utf-8"), metavar="FILE", help="File that holds it; - is stdin."
    ),
)
endpoint_argument = click.argument("endpoint_id", metavar="ID")


@click.group("endpoint")
def endpoint() -> None:
    """Add, look at and change webhook endpoints."""


@endpoint.command("add")
@click.argument("url")
@click.option("--application", help="Whose endpoint it is, where there are several applications.")
@click.option("--id", "endpoint_id", help="Id that it has elsewhere already.")
@secret_options
@endpoint_options
@asks_daemon
def add_endpoint(
    daemon: Daemon, url: str, application: str | None, endpoint_id: str | None, as_json: bool, **given: Any
) -> None:
    """Add an endpoint; its signing secret is printed, and `relay endpoint secret` prints it again for an admin.

    --secret-file may hold older secrets too, a line each or keys in PEM, the newest first: all of them sign.
    """
    for header in given["headers"]:
        if "=" not in header:
            fail(f"--header {header}: write it as NAME=VALUE.", Exit.USAGE)
    brought = secrets_of(given)
    members = definition(given | {"url": url, "application": application}) | (
        {"id": endpoint_id} if endpoint_id else {}
    )
    made = daemon.post(ENDPOINTS, members | ({"secrets": brought} if brought else {}))
    secret = None if brought else made.get("secret")
    hand_over = "Give the secret to the receiver.\n" if secret else ""
    report_made(made, as_json, {"secret": secret}, f"{hand_over}Try it with: relay endpoint test {made.get('id')}")


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
    changes = patch(given | {"url": url}, reset, "a URL, a setting")
    changed = daemon.call("PATCH", f"{ENDPOINTS}/{endpoint_id}", changes).data
    report(changed, as_json, "updated")
    if changed.get("secret") and not as_json:
        echo(f"secret: {changed['secret']}")
        say("Its contract signs: give the secret to the receiver.")


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
@secret_options
@asks_daemon
def rotate_secret(daemon: Daemon, endpoint_id: str, overlap: str | None, as_json: bool, **given: Any) -> None:
    """Make a new signing secret and print it, or sign with one that the receiver has already."""
    brought = secrets_of(given)
    if len(brought) > 1:
        fail("--secret-file: it holds several secrets; a rotation takes one.", Exit.USAGE)
    members = ({"overlap": overlap} if overlap else {}) | ({"secret": brought[0]} if brought else {})
    made = daemon.post(f"{ENDPOINTS}/{endpoint_id}/rotate-secret", members)
    show(made, as_json, lambda: f"{made['id']} rotated." if brought else f"secret: {made['secret']}")
    if not as_json:
        hand_over = "" if brought else "Give it to the receiver. "
        say(f"{hand_over}Until the overlap ends, both secrets sign.")


@endpoint.command("secret")
@endpoint_argument
@asks_daemon
def show_secret(daemon: Daemon, endpoint_id: str, as_json: bool) -> None:
    """Print the signing secret again, for an admin; the daemon's log says who asked. Exits 1 if there is none."""
    found = daemon.get(f"{ENDPOINTS}/{endpoint_id}/secret")
    if found["secret"] is None:
        fail(f"{endpoint_id} has no secret: nothing is signed.")
    show(found, as_json, lambda: str(found["secret"]))
    if not as_json:
        for older in found["secrets"][1:]:
            say(
                f"An older one signs as well{', until ' + str(moment(older['expires_at'])) if older['expires_at'] else ''}."
            )


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


@endpoint.command("probe")
@endpoint_argument
@asks_daemon
def probe(daemon: Daemon, endpoint_id: str, as_json: bool) -> None:
    """Try the oldest delivery that is due now, past a cool-down; exits 1 if there is none that could be tried."""
    one = daemon.post(f"{ENDPOINTS}/{endpoint_id}/probe")
    delivery = one["delivery"]
    show(
        one,
        as_json,
        lambda: f"{delivery} goes out now: `relay deliveries show {delivery}`" if delivery else one["note"],
    )
    if not delivery:
        raise click.exceptions.Exit(Exit.FAILED)


@endpoint.command("verify")
@endpoint_argument
@asks_daemon
def verify(daemon: Daemon, endpoint_id: str, as_json: bool) -> None:
    """Ask its receiver now whether it wants events; exits 1 if it does not agree. Until it does, deliveries are held."""
    one = daemon.post(f"{ENDPOINTS}/{endpoint_id}/verify")
    show(one, as_json, lambda: f"{one['id']} agreed; it is {state(one)} now." if one["agreed"] else _refusal(one))
    if not one["agreed"]:
        raise click.exceptions.Exit(Exit.FAILED)


def _refusal(one: Json) -> str:
    again = one["unverified"] and moment(one["unverified"]["next_try_at"])
    rest = f"\nWhat comes is held until it agrees; it is asked again at {again}." if again else ""
    return f"{one['id']} did not agree: {one['note']}.{rest}"


def report(one: Json, as_json: bool, done: str) -> None:
    """Print an endpoint after a change, or that there was none, and what still hinders its deliveries."""
    changed = one.get("changed", True)
    line = (
        f"{one['id']} {done}; it is {state(one)} now."
        if changed
        else f"{one['id']}: nothing changed; it was {state(one)}."
    )
    show(one, as_json, lambda: "\n".join(filter(None, (line, one.get("note")))))


def _endpoint_rows(one: Json) -> Iterator[tuple[str, Any]]:
    yield from ((name, one[name]) for name in ("id", "application", "url"))
    yield "contract", one["contract"]
    yield "state", state(one)
    yield "event types", one["event_types"]
    yield "filter", json.dumps(one["filter"], ensure_ascii=False) if one.get("filter") else None
    yield "description", one["description"] or None
    yield "headers", [f"{name}={value}" for name, value in one["headers"].items()] or None
    yield "limits", f"{one['concurrency']} at once, {one['rate_limit'] or 'any rate'}, time-out {one['timeout']}"
    yield "retry", f"{', '.join(one['retry']['schedule'])} (jitter {one['retry']['jitter']}), for {one['max_age']}"
    yield "secrets", one["secrets"]
    yield "authenticates", ", ".join(f"{name} {text}" for name, text in (one.get("auth") or {}).items()) or None
    yield from tls_rows(one)
    yield "from", "the configuration file" if one["origin"] == "file" else "the API"
    yield "deliveries", f"{one['due']} due, {one['dead']} dead"
    yield "waits for", one["waits_for"]
    yield from _verification_rows(one)
    yield from _health_rows(one["health"], one["refusing"])


def _verification_rows(one: Json) -> Iterator[tuple[str, Any]]:
    if verified := one["verified"]:
        yield "verified", f"by {verified['method']} at {moment(verified['at'])}"
    if unverified := one["unverified"]:
        tried = (
            f"after {counted(unverified['tries'], 'try')}: {unverified['detail']}"
            if unverified["tries"]
            else "not asked yet"
        )
        yield "unverified", tried
        yield "asked again at", moment(unverified["next_try_at"])


def _health_rows(health: Json, refusing: Json | None) -> Iterator[tuple[str, Any]]:
    if health["failures"]:
        yield "failures in a row", f"{health['failures']}, the last: {health['last_failure']}"
        yield "cools down until", moment(health["cool_down_until"])
    if refusing:
        yield "refuses since", f"{moment(refusing['since'])}, the last answer: {refusing['status']}"
    elif health["last_failure"] and not health["failures"]:
        yield "last failure", f"{health['last_failure']} at {moment(health['last_failure_at'])}"
    yield "what to do", health["last_answer"]


def secrets_of(given: Json) -> list[str]:
    """Return the secrets that `--secret` or `--secret-file` brings, newest first; none for neither."""
    text, file = given["secret"], given["secret_file"]
    if text is not None and file is not None:
        fail("Give --secret or --secret-file, not both.", Exit.USAGE)
    secrets = [text] if text is not None else [] if file is None else _texts(file.read())
    if (text is not None or file is not None) and not all(secrets or [""]):
        fail(
            "The secret is empty." if text is not None else f"{file.name}: a secret is missing, or a line is empty.",
            Exit.USAGE,
        )
    return secrets


def _texts(held: str) -> list[str]:
    """Take a file of secrets apart: keys in PEM, or lines."""
    return re.findall(r"-----BEGIN .*?-----END [^-]*-----", held, re.DOTALL) or held.splitlines()


def feature_of(text: str) -> tuple[str, bool]:
    name, separator, value = text.partition("=")
    if separator and value not in ("on", "off"):
        fail(f"--feature {text}: write it as NAME, NAME=on or NAME=off.", Exit.USAGE)
    return name, value != "off"


def limits_of(texts: tuple[str, ...]) -> Json:
    """Return what `--limit NAME=VALUE` stands for; `NAME=` alone leaves a limit to `[limits]` again."""
    limits: Json = {}
    for text in texts:
        name, separator, value = text.partition("=")
        group, _, member = name.rpartition(".")
        if not separator or name not in LIMITS:
            fail(f"--limit {text}: write it as NAME=VALUE; the names are {', '.join(LIMITS)}.", Exit.USAGE)
        place = limits.setdefault(group, {}) if group else limits
        place[member] = int(value) if value.isascii() and value.isdigit() else value or None
    return limits


def read_member(given: str | None, option: str) -> Any:
    """Return what is given as JSON, in a file or on standard input; the daemon says what is wrong with it."""
    return None if given is None else json.loads(read_json(given, option))


def _header(text: str) -> tuple[str, str | None]:
    name, separator, value = text.partition("=")
    return name, value if separator else None


# -- what options stand for -----------------------------------------------------------------------------------------------


def definition(given: Json) -> Json:
    """Return the members of a request that the options which were given stand for."""
    retry = {"schedule": _split(given["schedule"]), "jitter": given["jitter"]}
    members = {
        "features": dict(map(feature_of, given.get("features", ()))),
        **{name: list(given.get(name, ())) for name in ("event_types", "allow_networks", "source_addresses")},
        "headers": dict(map(_header, given.get("headers", ()))),
        "retry": {name: value for name, value in retry.items() if value is not None},
        "tls": tls_members(given),
        "limits": limits_of(given.get("limits", ())),
        "filter": read_member(given.get("filter_text"), "--filter"),
        "auth": read_member(given.get("auth_text"), "--auth"),
    }
    plain = {name: given[name] for name in _PLAIN if given.get(name) is not None}
    return {name: value for name, value in members.items() if value} | plain


def patch(given: Json, reset: tuple[str, ...], nothing: str) -> Json:
    """Return what an update changes; `reset` names what becomes its default again."""
    patch = definition(given) | dict.fromkeys(reset)
    if not patch:
        fail(f"Nothing to change: give {nothing}, or --reset.", Exit.USAGE)
    return patch


def report_made(made: Json, as_json: bool, shown: dict[str, str | None], next_step: str) -> None:
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


def _split(schedule: str | None) -> list[str] | None:
    return None if schedule is None else [delay.strip() for delay in schedule.split(",") if delay.strip()]


COMMANDS = [endpoint]
