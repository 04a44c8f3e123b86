"""Waiting for what comes of one event."""

import time
from typing import Any

import click

from relay.cli.client import Daemon
from relay.cli.deliveries import state
from relay.cli.events import outcome
from relay.cli.outcomes import in_words
from relay.cli.output import Exit, echo_json, moment, say

WAIT_S = 60.0
"""How long is waited unless somebody says otherwise: longer than one attempt takes."""

PAUSE_S = 0.02
PAUSE_MAX_S = 0.5
"""Between two looks; they begin close together and move apart."""

Json = dict[str, Any]


def follow(daemon: Daemon, accepted: Json, wait_s: float, as_json: bool) -> None:
    """Wait until each delivery of an event has ended, failed once or is held; print what came of each.

    Ends with exit code 1 unless there are deliveries and all were delivered. A token that may not read deliveries is
    refused: a producer's may not.
    """
    if not as_json:
        say(f"{accepted['id']} accepted.")
    owed = _decided(daemon, f"/v1/events/{accepted['id']}/deliveries", wait_s)
    rows = [daemon.get(f"/v1/deliveries/{one['id']}") for one in owed]
    delivered = bool(rows) and all(row["state"] == "delivered" for row in rows)
    if as_json:
        echo_json({"event": accepted, "deliveries": rows, "delivered": delivered})
    elif rows:
        click.echo("\n".join(f"{row['endpoint']}: {_came_of(row)}" for row in rows))
    else:
        event = daemon.get(f"/v1/events/{accepted['id']}")
        click.echo(f"deliveries: {outcome(event)}")
    if not delivered:
        raise click.exceptions.Exit(Exit.FAILED)


def _decided(daemon: Daemon, path: str, wait_s: float) -> list[Json]:
    deadline_s, pause_s = time.monotonic() + wait_s, PAUSE_S
    while True:
        owed: list[Json] = daemon.get(path)["data"]
        if all(map(_is_decided, owed)) or time.monotonic() >= deadline_s:
            return owed
        time.sleep(pause_s)
        pause_s = min(2 * pause_s, PAUSE_MAX_S)


def _is_decided(delivery: Json) -> bool:
    return bool(delivery["state"] != "due" or delivery["attempts"] or delivery["held"])


def _came_of(delivery: Json) -> str:
    said = state(delivery)
    if delivery["timeline"]:
        last = max(delivery["timeline"], key=lambda attempt: attempt["number"])
        words = in_words(last, delivered=delivery["state"] == "delivered")
        said = words if delivery["state"] == "delivered" else f"{words}; {said}"
    wait = delivery["next_attempt"]
    if wait is None:
        return said
    return f"{said}: {wait['detail']}" + (f" ({moment(wait['at'])})" if wait["at"] else "")
