"""`relay send`: one event, by hand or from a script."""

import json
import sys
from pathlib import Path
from typing import Any

import click

from relay.cli.client import Daemon, daemon_options
from relay.cli.output import Exit, counted, echo_json, fail, json_option


@click.command("send")
@click.argument("event_type", metavar="TYPE")
@click.argument("data", default="{}")
@click.option("--application", help="Whose event it is, where there are several applications.")
@click.option("--idempotency-key", "--key", help="Repeating the command with the same key stores the event once.")
@click.option("--id", "event_id", help="Event id of your own.")
@click.option("--expires-at", help="RFC 3339 time after which it is not delivered any more.")
@click.option("--deliver-at", help="RFC 3339 time before which it is not delivered.")
@click.option("--ordering-key", help="What it is kept in order by, where the contract keeps order.")
@json_option
@daemon_options
def send(daemon: Daemon, event_type: str, data: str, as_json: bool, **members: str | None) -> None:
    """Send one event of TYPE.

    DATA is its payload as JSON: text, @FILE, or - for standard input. It is delivered byte for byte as given.

    \b
      relay send order.paid '{"order": 7}'
      relay send order.paid @order.json --key order-7
    """
    answer = daemon.post("/v1/events", compose(event_type, read_data(data), members))
    if as_json:
        echo_json(answer)
    elif answer["duplicate"]:
        click.echo(f"{answer['id']} was accepted before; nothing was sent again.")
    else:
        why = f" ({answer['reason_detail']})" if answer.get("reason") else ""
        click.echo(f"{answer['id']} accepted: {counted(answer['deliveries'], 'delivery')}{why}.")
        for warning in answer.get("warnings", ()):
            click.echo(f"Warning: {warning['pointer']}: {warning['message']}", err=True)
        click.echo(f"Follow it with: relay events show {answer['id']}", err=True)


def compose(event_type: str, data: str, members: dict[str, Any]) -> bytes:
    """Write the request's body; the payload is spliced in as it is, so that its spelling survives."""
    named = {"type": event_type} | {
        _WIRE.get(name, name): value for name, value in members.items() if value is not None
    }
    return f'{json.dumps(named)[:-1]}, "data": {data}}}'.encode()


def read_data(data: str) -> str:
    """Return the payload's text from the argument, a file or standard input; ends the command if it is not JSON."""
    text = _read(data)
    try:
        text.encode()
        json.loads(text)
    except (ValueError, RecursionError) as error:
        fail(f"DATA is not JSON: {error}. Quote it for the shell, or use @FILE.", Exit.BAD_INPUT)
    return text


_WIRE = {"event_id": "id"}


def _read(data: str) -> str:
    try:
        if data == "-":
            return sys.stdin.buffer.read().decode()
        return Path(data[1:]).read_text("utf-8") if data.startswith("@") else data
    except (OSError, UnicodeDecodeError) as error:
        fail(f"{data} cannot be read: {error}", Exit.BAD_INPUT)


COMMANDS = [send]
