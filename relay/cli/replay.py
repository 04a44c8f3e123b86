"""`relay replay`: send again what was lost, as a job of the daemon's that goes on without this command."""

import sys
import time
from collections.abc import Callable
from typing import Any

import click

from relay.cli.client import Daemon, asks_daemon
from relay.cli.output import (
    Columns,
    Exit,
    Json,
    at,
    confirm,
    counted,
    facts,
    fail,
    force_option,
    list_options,
    moment,
    options,
    say,
    show,
    show_page,
    table,
)
from relay.cli.picking import picked, picking_options
from relay.core.model import ReplayMode

REPLAYS = "/v1/replays"

LOOK_EVERY_S = 0.5
"""How often a replay's progress is looked at."""

LINE_EVERY_S = 10.0
"""How often it is written where no terminal shows it in place."""

running_options = options(
    click.option("--rate", help="Most deliveries that are handed over in a while, such as 100/s.  [the daemon's]"),
    force_option,
    click.option("--detach", is_flag=True, help="Do not wait until it is over."),
)
"""How a replay runs, and whether the command waits for it."""


@click.group("replay")
def replay() -> None:
    """Send deliveries again in bulk, as a job: create, list, show, cancel."""


@replay.command("create")
@click.option(
    "--mode",
    type=click.Choice([str(mode) for mode in ReplayMode]),
    default=ReplayMode.FAILED.value,
    show_default=True,
    help="Dead letters, what endpoints were never owed, or whatever has ended.",
)
@picking_options
@running_options
@asks_daemon
def create(daemon: Daemon, mode: str, as_json: bool, **given: Any) -> None:
    """Send again what the filters select, or the deliveries and events with the given IDs; - reads them from stdin.

    Counts first, and asks. Events keep their ids; whatever else is due goes first. Ctrl-C ends the command only: the
    job goes on.
    """
    start(daemon, mode, given, as_json)


@replay.command("list")
@click.option("--application", help="Only of this application.")
@list_options
@asks_daemon
def list_replays(daemon: Daemon, as_json: bool, **query: Any) -> None:
    """List replays, newest first."""
    show_page(daemon.get(REPLAYS, **query), as_json, COLUMNS)


@replay.command("show")
@click.argument("replay_id", metavar="ID")
@asks_daemon
def show_replay(daemon: Daemon, replay_id: str, as_json: bool) -> None:
    """Show what a replay is about, and how far it came."""
    one = daemon.get(f"{REPLAYS}/{replay_id}")
    show(one, as_json, lambda: _described(one))


@replay.command("cancel")
@click.argument("replay_id", metavar="ID")
@asks_daemon
def cancel(daemon: Daemon, replay_id: str, as_json: bool) -> None:
    """Stop a replay; what it handed over already is sent all the same."""
    one = daemon.post(f"{REPLAYS}/{replay_id}/cancel")
    show(one, as_json, lambda: f"{one['id']} cancelled: {progress(one)}.")


def start(daemon: Daemon, mode: str, given: Json, as_json: bool) -> None:
    """Make a replay of what the options of `picking_options` and `running_options` say, after a question; wait for it."""
    dry_run, yes, detach = given.pop("dry_run"), given.pop("yes"), given.pop("detach")
    rate, force = given.pop("rate"), given.pop("force")
    members = picked(given) | {"mode": mode} | ({"rate": rate} if rate else {}) | ({"force": True} if force else {})
    if dry_run or not yes:
        found = daemon.post(REPLAYS, members | {"dry_run": True}, patient=True)
        if dry_run or not found["count"]:
            show(found, as_json, lambda: _previewed(found))
            return
        _ask(found, as_json)
    made = daemon.post(REPLAYS, members)
    if not detach:
        made = _follow(daemon, made)
    show(made, as_json, lambda: f"{made['id']} {made['state']}: {progress(made)}.")
    if not as_json:
        say(
            f"See it with `relay replay show {made['id']}`."
            if detach
            else "What became of them: `relay deliveries list`."
        )
    if made["state"] == "cancelled":
        raise click.exceptions.Exit(Exit.FAILED)


def progress(one: Json) -> str:
    """Say in a few words how far a replay came."""
    left_out = sum(one["skipped"].values())
    parts = [f"{one['selected']} selected", f"{one['replayed']} sent again"]
    return ", ".join(
        parts + ([f"{left_out} left out"] if left_out else []) + ([f"{one['left']} left"] if one["left"] else [])
    )


def _previewed(found: Json) -> str:
    count = counted(found["count"], "delivery")
    line = (
        f"{count} selected, none sent."
        if found["complete"]
        else f"{count} selected so far, and perhaps more; none sent."
    )
    return "\n".join(filter(None, (table(SAMPLE, found["sample"]), line)))


def _ask(found: Json, as_json: bool) -> None:
    many = counted(found["count"], "delivery") + ("" if found["complete"] else ", or more,")
    statement = f"{many} would be sent again"
    if as_json:  # a question would stand between the data
        fail(f"{statement}. Say --yes to do it.", Exit.USAGE)
    say(table(SAMPLE, found["sample"]))
    if found["count"] > len(found["sample"]):
        say("…")
    confirm(False, statement, f"Send {many} again?")


def _follow(daemon: Daemon, made: Json) -> Json:
    """Show the progress of a replay on stderr until it is over; Ctrl-C leaves it running."""
    shown = sys.stderr.isatty()
    write = _now_and_then()
    try:
        with click.progressbar(length=1, label="sending again", file=sys.stderr, hidden=not shown) as bar:
            while made["finished_at"] is None:
                bar.length = max(made["selected"], 1)
                bar.update(made["selected"] - made["left"] - bar.pos)
                if not shown:
                    write(f"{progress(made)} ({_standing(made)})")
                time.sleep(LOOK_EVERY_S)
                made = daemon.get(f"{REPLAYS}/{made['id']}")
    except KeyboardInterrupt:
        say(f"\nIt goes on without this command: `relay replay show {made['id']}`, `relay replay cancel {made['id']}`.")
        raise click.exceptions.Exit(Exit.FAILED) from None
    return made


def _standing(made: Json) -> str:
    return f"waits for {made['waits_for']}" if made["waits_for"] else str(made["state"])


def _now_and_then() -> Callable[[str], None]:
    """Make what writes a line now and then, where no terminal shows progress in place."""
    next_s = 0.0

    def write(line: str) -> None:
        nonlocal next_s
        if time.monotonic() >= next_s:
            next_s = time.monotonic() + LINE_EVERY_S
            say(line)

    return write


def _described(one: Json) -> str:
    named = {name: one[name] for name in ("id", "mode", "state", "application")}
    filters = {name: value for name, value in one["filters"].items() if value is not None}
    times = {name: moment(one[name]) for name in ("created_at", "finished_at")}
    how = {"rate": one["rate"], "expired ones too": True if one["force"] else None, "created by": one["created_by"]}
    counts = {
        "selected": f"{one['selected']}{', and there was more' if one['cut'] else ''}",
        "sent again": one["replayed"],
    }
    left_out = ", ".join(f"{count} {why}" for why, count in one["skipped"].items()) or None
    rest = {
        "left out": left_out,
        "left": one["left"],
        "waits for": one["waits_for"],
        "cancelled by": one["cancelled_by"],
    }
    return facts(named | filters | how | times | counts | rest)


COLUMNS: Columns = {
    "REPLAY": "id",
    "STATE": "state",
    "MODE": "mode",
    "CREATED": at("created_at"),
    "SELECTED": "selected",
    "SENT AGAIN": "replayed",
    "LEFT": "left",
    "BY": "created_by",
}
SAMPLE: Columns = {
    "DELIVERY": "delivery",
    "EVENT": "event_id",
    "TYPE": "event_type",
    "ENDPOINT": "endpoint",
    "CREATED": at("created_at"),
}

COMMANDS = [replay]
