"""`relay deliveries`: what is owed to whom, attempt by attempt; retry and cancel."""

from collections.abc import Callable, Iterable
from typing import Any

import click

from relay.cli.client import Daemon, Refused, daemon_options
from relay.cli.filters import delivery_filters, force_option, list_options, shown
from relay.cli.output import echo_json, facts, json_option, moment, say, table

EXCERPT_CHARACTERS = 80

STATES = ["due", "delivered", "dead", "cancelled"]


@click.group("deliveries")
def deliveries() -> None:
    """Look at deliveries, retry or cancel them."""


@deliveries.command("list")
@click.option("--state", type=click.Choice(STATES), help="Only those in this state.")
@delivery_filters
@list_options
@json_option
@daemon_options
def list_deliveries(daemon: Daemon, as_json: bool, **query: Any) -> None:
    """List deliveries, newest first."""
    page = daemon.get("/v1/deliveries", **query)
    shown(page, as_json, delivery_table(page["data"]))


@deliveries.command("show")
@click.argument("delivery_id", metavar="ID")
@json_option
@daemon_options
def show_command(daemon: Daemon, delivery_id: str, as_json: bool) -> None:
    """Show a delivery and every attempt that was made."""
    show_delivery(daemon, delivery_id, as_json)


@deliveries.command("retry")
@click.argument("delivery_ids", metavar="ID...", nargs=-1, required=True)
@force_option
@json_option
@daemon_options
def retry(daemon: Daemon, delivery_ids: tuple[str, ...], force: bool, as_json: bool) -> None:
    """Send deliveries again now, whatever became of them."""
    act_on_each(delivery_ids, lambda one: retry_one(daemon, one, force), as_json)


@deliveries.command("cancel")
@click.argument("delivery_ids", metavar="ID...", nargs=-1, required=True)
@json_option
@daemon_options
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
                click.echo(f"{delivery_id}: {done[-1]['state']}")
    if as_json:
        echo_json(done)
    if refused is not None:
        raise click.exceptions.Exit(refused.exit_code)


def show_delivery(daemon: Daemon, delivery_id: str, as_json: bool) -> None:
    """Print one delivery with its attempts."""
    delivery = daemon.get(f"/v1/deliveries/{delivery_id}")
    if as_json:
        echo_json(delivery)
        return
    names = ("id", "event_id", "event_type", "application", "endpoint", "state", "cancelled_by")
    times = {name: moment(delivery[name]) for name in ("created_at", "due_at", "finished_at", "expires_at")}
    named = {name: delivery[name] for name in names} | {"state": state(delivery), "waits for": _wait(delivery)}
    click.echo(facts(named | times))
    click.echo("\n" + attempt_table(delivery["timeline"]))


def state(delivery: dict[str, Any]) -> str:
    """Say a delivery's state, with why it is dead or that it is held."""
    why = delivery["reason"] or ("held" if delivery["held"] else None)
    return f"{delivery['state']} ({why})" if why else str(delivery["state"])


def delivery_table(rows: Iterable[dict[str, Any]]) -> str:
    """Lay out deliveries, one to a line."""
    return table(
        ["DELIVERY", "STATE", "TYPE", "ENDPOINT", "ATTEMPTS", "CREATED", "NEXT ATTEMPT"],
        (
            [
                row["id"],
                state(row),
                row["event_type"],
                row["endpoint"],
                row["attempts"],
                moment(row["created_at"]),
                moment(row["due_at"]),
            ]
            for row in rows
        ),
    )


def attempt_table(timeline: Iterable[dict[str, Any]]) -> str:
    """Lay out attempts, one to a line."""
    rows = [
        [
            attempt["number"],
            moment(attempt["started_at"]),
            attempt["trigger"],
            attempt["status"] or attempt["failure"],
            f"{attempt['duration_ms']} ms",
            detail(attempt),
        ]
        for attempt in timeline
    ]
    return table(["ATTEMPT", "STARTED", "TRIGGER", "RESULT", "TOOK", "DETAIL"], rows) if rows else "no attempt yet"


def detail(attempt: dict[str, Any]) -> str | None:
    """Say in one line what an attempt met: what the relay says, or else the beginning of the answer's body."""
    if attempt["detail"]:
        return str(attempt["detail"])
    body = (attempt.get("response") or {}).get("body") or ""
    excerpt = " ".join(body.split())[:EXCERPT_CHARACTERS]  # it is a stranger's: no line ends, no control characters
    return "".join(character if character.isprintable() else "\ufffd" for character in excerpt) or None


def _wait(delivery: dict[str, Any]) -> str | None:
    wait = delivery["next_attempt"]
    if wait is None:
        return None
    return f"{wait['detail']} ({moment(wait['at'])})" if wait["at"] else str(wait["detail"])


COMMANDS = [deliveries]
