"""`relay events`, `relay deliveries` and `relay dead`: what came in, what is owed to whom, and what died of it."""

import json
from typing import Any

import click

from relay.cli.client import Daemon, Refused, asks_daemon, daemon_options
from relay.cli.output import (
    PAGE_MAX,
    Columns,
    Exit,
    Json,
    at,
    delivery_filters,
    echo,
    echo_json,
    facts,
    force_option,
    list_options,
    moment,
    say,
    search_options,
    show,
    show_page,
    table,
    time_options,
)
from relay.cli.picking import in_bulk, picking_options
from relay.cli.replay import running_options, start
from relay.core.model import DeadReason, DeliveryState, NoDelivery
from relay.core.terminal import one_line

EXCERPT_CHARACTERS = 80


@click.group("events")
def events() -> None:
    """Look at events."""


@events.command("list")
@click.option("--application", help="Only this application's.")
@click.option("--type", "type", help="Only this event type.")
@click.option(
    "--reason",
    type=click.Choice([str(reason) for reason in NoDelivery]),
    help="Only those without deliveries, for this reason.",
)
@click.option("--id", "id", metavar="ID", help="Only the one with this id.")
@click.option("--endpoint", help="Only those that this endpoint was owed.")
@search_options
@time_options
@list_options
@asks_daemon
def list_events(daemon: Daemon, as_json: bool, **query: Any) -> None:
    """List events, newest first."""
    show_page(daemon.page("/v1/events", **query), as_json, EVENTS)


@events.command("show")
@click.argument("event_id", metavar="ID")
@asks_daemon
def show_event(daemon: Daemon, event_id: str, as_json: bool) -> None:
    """Show an event and its deliveries; with --json also its payload."""
    event = daemon.get(f"/v1/events/{event_id}")
    owed = list(daemon.pages(f"/v1/events/{event_id}/deliveries"))
    if as_json:
        echo_json(event | {"delivery_list": owed})
        return
    times = {name: moment(event[name]) for name in ("created_at", "deliver_at", "expires_at")}
    named = {name: event[name] for name in ("id", "type", "application")}
    aimed = {"only for": event.get("endpoints")}
    echo(facts(named | times | aimed | {"deliveries": outcome(event), "payload": f"{event['payload_bytes']} bytes"}))
    if owed:
        echo("\n" + table(DELIVERIES, owed))


def outcome(event: Json) -> str:
    """Say in a few words what an event's deliveries came to, or why there are none."""
    counts = ", ".join(f"{count} {state}" for state, count in event["deliveries"].items() if count)
    if counts:
        return counts
    return f"none: {event['reason_detail'] or event['reason']}" if event["reason"] else "none"


@click.group("deliveries")
def deliveries() -> None:
    """Look at deliveries, and send single ones again; `relay queue` acts on what is due."""


@deliveries.command("list")
@click.option("--state", type=click.Choice([str(state) for state in DeliveryState]), help="Only those in this state.")
@delivery_filters
@list_options
@asks_daemon
def list_deliveries(daemon: Daemon, as_json: bool, **query: Any) -> None:
    """List deliveries, newest first."""
    show_page(daemon.page("/v1/deliveries", **query), as_json, DELIVERIES)


@deliveries.command("show")
@click.argument("delivery_id", metavar="ID")
@asks_daemon
def show_one(daemon: Daemon, delivery_id: str, as_json: bool) -> None:
    """Show a delivery and every attempt that was made."""
    show_delivery(daemon, delivery_id, as_json)


@deliveries.command("retry")
@click.argument("delivery_ids", metavar="ID...", nargs=-1, required=True)
@force_option
@asks_daemon
def retry(daemon: Daemon, delivery_ids: tuple[str, ...], force: bool, as_json: bool) -> None:
    """Send deliveries again now, whatever became of them; ends with the exit code of the last refusal, if any."""
    done, refused = [], None
    for delivery_id in delivery_ids:
        try:
            done.append(daemon.post(f"/v1/deliveries/{delivery_id}/retry", {"force": True} if force else None))
        except Refused as refusal:
            say(f"{delivery_id}: {refusal.message}")
            refused = refusal
        else:
            if not as_json:
                echo(f"{delivery_id}: {done[-1]['state']}")
    if as_json:
        echo_json(done)
    if refused is not None:
        raise click.exceptions.Exit(refused.exit_code)


def show_delivery(daemon: Daemon, delivery_id: str, as_json: bool) -> None:
    """Print one delivery with its attempts."""
    delivery = daemon.get(f"/v1/deliveries/{delivery_id}")
    show(delivery, as_json, lambda: _described(delivery))


def _described(delivery: Json) -> str:
    names = ("id", "event_id", "event_type", "application", "endpoint", "state", "cancelled_by")
    times = {name: moment(delivery[name]) for name in ("created_at", "due_at", "finished_at", "expires_at")}
    named = {name: delivery[name] for name in names} | {"state": state(delivery), "waits for": wait(delivery)}
    return f"{facts(named | times)}\n\n{table(ATTEMPTS, delivery['timeline']) or 'no attempt yet'}"


def state(delivery: Json) -> str:
    """Say a delivery's state, with why it is dead or that it is held."""
    why = delivery["reason"] or ("held" if delivery["held"] else None)
    return f"{delivery['state']} ({why})" if why else str(delivery["state"])


def result(attempt: Json) -> Any:
    """Say what an attempt ended with: a status, or why there was none."""
    return attempt["status"] or attempt["failure"]


def detail(attempt: Json) -> str | None:
    """Say in one line what an attempt met: what the relay says, or else the beginning of the answer's body."""
    if attempt["detail"]:
        return str(attempt["detail"])
    body = (attempt.get("response") or {}).get("body") or ""
    return one_line(" ".join(body.split())[:EXCERPT_CHARACTERS]) or None


def parts(attempt: Json) -> str | None:
    """Say how long each part of an attempt took."""
    trace = attempt.get("trace") or {}
    names = {"dns_ms": "DNS", "connect_ms": "connect", "tls_ms": "TLS", "first_byte_ms": "first byte"}
    return ", ".join(f"{names[key]} {trace[key]}" for key in names if trace.get(key) is not None) or None


def way(attempt: Json) -> str | None:
    """Say what an attempt went over: the address, TLS, and whether the connection was there already."""
    address, trace = attempt.get("address"), attempt.get("trace")
    if address is None or trace is None:
        return address
    kept = "reused" if trace["reused"] else "repeated on a new one" if trace["repeated"] else "new"
    return ", ".join(filter(None, (address, trace["tls_version"], kept)))


def report_test(outcome: Json, as_json: bool) -> None:
    """Print the outcome of a test and the headers of its answer; ends with exit code 1 if it was not delivered."""
    headers = (outcome.get("response") or {}).get("headers", [])
    lines = (f"\n  {name}: {value}" for name, value in headers)
    show(outcome, as_json, lambda: in_words(outcome, delivered=outcome["delivered"]) + "".join(lines))
    if not outcome["delivered"]:
        raise click.exceptions.Exit(Exit.FAILED)


def in_words(attempt: Json, *, delivered: bool) -> str:
    """Say in one line what came of an attempt: result, duration, and what was said about it."""
    word, said = "delivered" if delivered else "not delivered", detail(attempt)
    took = ": ".join(filter(None, (f"{attempt['duration_ms']} ms", parts(attempt))))
    return f"{word}: {result(attempt)} in {took}" + (f" ({said})" if said else "")


def wait(delivery: Json) -> str | None:
    """Say what a delivery waits for, and until when."""
    found = delivery["next_attempt"]
    if found is None:
        return None
    return f"{found['detail']} ({moment(found['at'])})" if found["at"] else str(found["detail"])


@click.group("dead")
def dead() -> None:
    """Look at dead letters, note what is known, replay, drop or export them."""


@dead.command("list")
@click.option("--application", help="Only of this application.")
@click.option("--endpoint", help="Only of this endpoint.")
@click.option("--reason", help="Only those with this reason.")
@asks_daemon
def list_groups(daemon: Daemon, as_json: bool, **query: str | None) -> None:
    """List dead letters, grouped by endpoint and reason."""
    groups = {"data": list(daemon.pages("/v1/dead-letters", **query)), "next": None}
    show_page(groups, as_json, DEAD_GROUPS)
    if groups["data"] and not as_json:
        say(
            "Look at them with `relay dead show ENDPOINT`; send them again with `relay dead replay --endpoint ENDPOINT`."
        )


@dead.command("show")
@click.argument("name", metavar="ENDPOINT|ID")
@click.option("--reason", help="Only those with this reason.")
@list_options
@asks_daemon
def show_dead(daemon: Daemon, name: str, as_json: bool, **query: Any) -> None:
    """Show an endpoint's dead letters, or one delivery with its attempts."""
    if name.startswith("dlv_"):
        show_delivery(daemon, name, as_json)
        return
    page = daemon.page("/v1/deliveries", state="dead", endpoint=name, **query)
    show_page(page, as_json, DELIVERIES)


@dead.command("replay")
@picking_options
@running_options
@asks_daemon
def replay_dead(daemon: Daemon, as_json: bool, **given: Any) -> None:
    """Send dead letters again: those with the given IDs, or all that the filters select; `relay replay create` does it.

    Counts first, and asks. Events keep their ids; endpoints see one more attempt.
    """
    start(daemon, "failed", given, as_json)


@dead.command("drop")
@picking_options
@asks_daemon
def drop(daemon: Daemon, as_json: bool, **given: Any) -> None:
    """Count dead letters as dead no more: they become cancelled, and `relay deliveries retry` takes each up again."""
    in_bulk(daemon, "/v1/dead-letters/drop", given, ("dropped", "Drop"), as_json)


@dead.command("note")
@click.argument("endpoint_id", metavar="ENDPOINT")
@click.argument("text", metavar="[TEXT]", default="")
@click.option(
    "--reason", type=click.Choice([str(reason) for reason in DeadReason]), required=True, help="Of which of them."
)
@asks_daemon
def note(daemon: Daemon, endpoint_id: str, text: str, reason: str, as_json: bool) -> None:
    """Write down what is known about an endpoint's dead letters; without TEXT the note goes."""
    done = daemon.post("/v1/dead-letters/note", {"endpoint": endpoint_id, "reason": reason, "note": text})
    show(done, as_json, lambda: f"{done['endpoint']}, {done['reason']}: {done['note'] or 'no note any more'}")


@dead.command("export")
@delivery_filters
@daemon_options
def export(daemon: Daemon, **filters: str | None) -> None:
    """Write dead letters with their events and payloads, a line of JSON each, newest first."""
    for delivery in daemon.pages("/v1/deliveries", state="dead", limit=PAGE_MAX, **filters):
        event = daemon.get(f"/v1/events/{delivery['event_id']}")
        echo(json.dumps({"delivery": delivery, "event": event}, ensure_ascii=False))


EVENTS: Columns = {
    "EVENT": "id",
    "CREATED": at("created_at"),
    "TYPE": "type",
    "APPLICATION": "application",
    "DELIVERIES": outcome,
}
DELIVERIES: Columns = {
    "DELIVERY": "id",
    "STATE": state,
    "TYPE": "event_type",
    "ENDPOINT": "endpoint",
    "ATTEMPTS": "attempts",
    "CREATED": at("created_at"),
    "DUE AT": at("due_at"),
}
ATTEMPTS: Columns = {
    "ATTEMPT": "number",
    "STARTED": at("started_at"),
    "TRIGGER": "trigger",
    "RESULT": result,
    "TOOK": lambda attempt: f"{attempt['duration_ms']} ms",
    "OF WHICH": parts,
    "OVER": way,
    "DETAIL": detail,
}
DEAD_GROUPS: Columns = {
    "ENDPOINT": "endpoint",
    "REASON": "reason",
    "COUNT": "count",
    "OLDEST": at("oldest_at"),
    "NEWEST": at("newest_at"),
    "NOTE": "note",
}

COMMANDS = [events, deliveries, dead]
