"""`relay events`, `relay deliveries` and `relay dead`: what came in, what is owed to whom, and what died of it."""

import itertools
import sys
from collections.abc import Callable, Iterable
from typing import Any

import click

from relay.cli.client import Daemon, Refused, asks_daemon
from relay.cli.output import (
    PAGE_MAX,
    Columns,
    Exit,
    Json,
    at,
    confirm,
    counted,
    delivery_filters,
    echo,
    echo_json,
    facts,
    fail,
    force_option,
    list_options,
    moment,
    say,
    show,
    show_page,
    table,
    time_options,
    yes_option,
)
from relay.core.model import DeliveryState, NoDelivery
from relay.core.terminal import one_line

EXCERPT_CHARACTERS = 80

REPLAY_MAX = 1_000_000
"""Dead letters that one run of `replay` looks at."""

SAMPLE = 5
"""Dead letters shown before the question."""


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
@time_options
@list_options
@asks_daemon
def list_events(daemon: Daemon, as_json: bool, **query: Any) -> None:
    """List events, newest first."""
    show_page(daemon.get("/v1/events", **query), as_json, EVENTS)


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
    """Look at deliveries, retry or cancel them."""


@deliveries.command("list")
@click.option("--state", type=click.Choice([str(state) for state in DeliveryState]), help="Only those in this state.")
@delivery_filters
@list_options
@asks_daemon
def list_deliveries(daemon: Daemon, as_json: bool, **query: Any) -> None:
    """List deliveries, newest first."""
    show_page(daemon.get("/v1/deliveries", **query), as_json, DELIVERIES)


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
    """Send deliveries again now, whatever became of them."""
    act_on_each(delivery_ids, lambda one: retry_one(daemon, one, force), as_json)


@deliveries.command("cancel")
@click.argument("delivery_ids", metavar="ID...", nargs=-1, required=True)
@asks_daemon
def cancel(daemon: Daemon, delivery_ids: tuple[str, ...], as_json: bool) -> None:
    """Stop trying to deliver; `retry` takes it up again."""
    act_on_each(delivery_ids, lambda one: daemon.post(f"/v1/deliveries/{one}/cancel"), as_json)


def retry_one(daemon: Daemon, delivery_id: str, force: bool) -> Any:
    """Ask for a delivery to be sent again."""
    return daemon.post(f"/v1/deliveries/{delivery_id}/retry", {"force": True} if force else None)


def act_on_each(delivery_ids: Iterable[str], act: Callable[[str], Any], as_json: bool) -> None:
    """Do the same to several deliveries, each on its own; ends with the exit code of the last refusal, if any."""
    done, refused = [], None
    for delivery_id in delivery_ids:
        try:
            done.append(act(delivery_id))
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
    named = {name: delivery[name] for name in names} | {"state": state(delivery), "waits for": _wait(delivery)}
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


def _wait(delivery: Json) -> str | None:
    wait = delivery["next_attempt"]
    if wait is None:
        return None
    return f"{wait['detail']} ({moment(wait['at'])})" if wait["at"] else str(wait["detail"])


@click.group("dead")
def dead() -> None:
    """Look at dead letters and replay them."""


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
    page = daemon.get("/v1/deliveries", state="dead", endpoint=name, **query)
    show_page(page, as_json, DELIVERIES)


@dead.command("replay")
@click.argument("delivery_ids", metavar="[ID]...", nargs=-1)
@delivery_filters
@click.option("--all", "everything", is_flag=True, help="Every dead letter; needed when nothing else selects.")
@click.option("--dry-run", is_flag=True, help="Only count and show.")
@yes_option
@force_option
@asks_daemon
def replay(
    daemon: Daemon,
    delivery_ids: tuple[str, ...],
    everything: bool,
    dry_run: bool,
    yes: bool,
    force: bool,
    as_json: bool,
    **filters: str | None,
) -> None:
    """Send dead letters again, one by one: those with the given IDs, or all that the filters select.

    Counts first, and asks. The event keeps its id; the endpoint sees it as one more attempt.
    """
    selected = _select(daemon, delivery_ids, filters, everything)
    if dry_run and not as_json:
        _show(selected)
    if dry_run or not selected:
        _report(selected, [], [], as_json)
        return
    if not yes:
        _ask(selected, as_json)
    replayed, refused = _replay(daemon, [row["id"] for row in selected], force)
    _report(selected, replayed, refused, as_json)
    if refused:
        raise click.exceptions.Exit(Exit.FAILED)


def _select(
    daemon: Daemon, delivery_ids: tuple[str, ...], filters: dict[str, str | None], everything: bool
) -> list[Json]:
    filtered = any(filters.values())
    if sum((bool(delivery_ids), filtered, everything)) != 1:
        fail("Say which dead letters: IDs, or filters such as --endpoint, or --all. One of the three.", Exit.USAGE)
    if delivery_ids:
        found = [daemon.get(f"/v1/deliveries/{delivery_id}") for delivery_id in dict.fromkeys(delivery_ids)]
        return [row for row in found if _is_dead(row)]
    pages = daemon.pages("/v1/deliveries", state="dead", limit=PAGE_MAX, **filters)
    return list(itertools.islice(pages, REPLAY_MAX))


def _is_dead(row: Json) -> bool:
    if row["state"] != "dead":
        say(f"{row['id']} is not dead but {row['state']}: left out. `relay deliveries retry` sends it all the same.")
    return bool(row["state"] == "dead")


def _ask(selected: list[Json], as_json: bool) -> None:
    _show(selected)
    statement = f"{_letters(selected)} would be sent again"
    if as_json:  # a question would stand between the data
        fail(f"{statement}. Say --yes to do it.", Exit.USAGE)
    confirm(False, statement, f"Send {_letters(selected)} again?")


def _show(selected: list[Json]) -> None:
    if selected:
        say(table(DELIVERIES, selected[:SAMPLE]))
    if len(selected) > SAMPLE:
        say(f"… and {len(selected) - SAMPLE} more")


def _replay(daemon: Daemon, delivery_ids: list[str], force: bool) -> tuple[list[str], list[dict[str, str]]]:
    replayed: list[str] = []
    refused: list[dict[str, str]] = []
    with click.progressbar(delivery_ids, label="replaying", file=sys.stderr, hidden=not sys.stderr.isatty()) as bar:
        for delivery_id in bar:
            try:
                retry_one(daemon, delivery_id, force)
            except Refused as refusal:
                if refusal.exit_code in (Exit.NO_PERMISSION, Exit.TEMPORARY):
                    raise  # every other one would be refused as well
                refused.append({"id": delivery_id, "reason": refusal.message})
            else:
                replayed.append(delivery_id)
    return replayed, refused


def _report(selected: list[Json], replayed: list[str], refused: list[dict[str, str]], as_json: bool) -> None:
    if as_json:
        echo_json({"selected": [row["id"] for row in selected], "replayed": replayed, "refused": refused})
        return
    for refusal in refused:
        say(f"{refusal['id']}: {refusal['reason']}")
    echo(f"{_letters(selected)} selected, {len(replayed)} sent again.")
    if replayed:
        say("See what became of them with `relay deliveries list`.")


def _letters(selected: Iterable[Any]) -> str:
    return counted(len(list(selected)), "dead letter")


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
    "NEXT ATTEMPT": at("due_at"),
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
}

COMMANDS = [events, deliveries, dead]
