"""`relay events`: what came in, and what became of it."""

from typing import Any

import click

from relay.cli.client import Daemon, daemon_options
from relay.cli.deliveries import delivery_table
from relay.cli.filters import list_options, shown, time_options
from relay.cli.output import echo_json, facts, json_option, moment, table

REASONS = ["no_match", "filtered", "skipped"]


@click.group("events")
def events() -> None:
    """Look at events."""


@events.command("list")
@click.option("--application", help="Only this application's.")
@click.option("--type", "type", help="Only this event type.")
@click.option("--reason", type=click.Choice(REASONS), help="Only those without deliveries, for this reason.")
@time_options
@list_options
@json_option
@daemon_options
def list_events(daemon: Daemon, as_json: bool, **query: Any) -> None:
    """List events, newest first."""
    page = daemon.get("/v1/events", **query)
    rows = (
        [event["id"], moment(event["created_at"]), event["type"], event["application"], outcome(event)]
        for event in page["data"]
    )
    shown(page, as_json, table(["EVENT", "CREATED", "TYPE", "APPLICATION", "DELIVERIES"], rows))


@events.command("show")
@click.argument("event_id", metavar="ID")
@json_option
@daemon_options
def show_event(daemon: Daemon, event_id: str, as_json: bool) -> None:
    """Show an event and its deliveries; with --json also its payload."""
    event = daemon.get(f"/v1/events/{event_id}")
    owed = daemon.get(f"/v1/events/{event_id}/deliveries")["data"]
    if as_json:
        echo_json(event | {"delivery_list": owed})
        return
    times = {name: moment(event[name]) for name in ("created_at", "deliver_at", "expires_at")}
    named = {name: event[name] for name in ("id", "type", "application")}
    click.echo(facts(named | times | {"deliveries": outcome(event), "payload": f"{event['payload_bytes']} bytes"}))
    if owed:
        click.echo("\n" + delivery_table(owed))


def outcome(event: dict[str, Any]) -> str:
    """Say in a few words what an event's deliveries came to, or why there are none."""
    counts = ", ".join(f"{count} {state}" for state, count in event["deliveries"].items() if count)
    if counts:
        return counts
    return f"none: {event['reason_detail'] or event['reason']}" if event["reason"] else "none"


COMMANDS = [events]
