"""Verbs that act on many deliveries: which they mean, by the same options everywhere or by ids, and doing it call by call."""

import sys
from collections.abc import Sequence

import click

from relay.cli.client import Daemon
from relay.cli.output import (
    Columns,
    Exit,
    Json,
    at,
    confirm,
    counted,
    fail,
    options,
    say,
    show,
    table,
    time_options,
    yes_option,
)
from relay.core.model import DeadReason, DeliveryState

picking_options = options(
    click.argument("ids", metavar="[ID|-]...", nargs=-1),
    time_options,
    click.option("--application", help="Only of this application."),
    click.option("--endpoint", help="Only of this endpoint."),
    click.option("--type", "type", help="Only of this event type."),
    click.option(
        "--state", type=click.Choice([str(state) for state in DeliveryState]), help="Only those in this state."
    ),
    click.option(
        "--reason", type=click.Choice([str(reason) for reason in DeadReason]), help="Only dead ones with this reason."
    ),
    click.option("--all", "everything", is_flag=True, help="Everything; needed when nothing else selects."),
    click.option("--dry-run", is_flag=True, help="Only count and show."),
    yes_option,
)
"""What every verb takes that acts on many deliveries."""

FILTERS = ("since", "until", "application", "endpoint", "type", "state", "reason")


def picked(given: Json) -> Json:
    """Take the options of `picking_options` out of `given`; return the members of a request that they stand for.

    Ids, filters or --all: exactly one of the three, else the command ends with exit code 2.
    """
    filters = {name: value for name in FILTERS if (value := given.pop(name)) is not None}
    ids, everything = _ids(given.pop("ids")), given.pop("everything")
    if (ids is not None) + bool(filters) + everything != 1:
        fail("Say which: IDs, or filters such as --endpoint, or --all. One of the three.", Exit.USAGE)
    return filters if ids is None else {"ids": ids}


def _ids(words: Sequence[str]) -> list[str] | None:
    """Return the ids that are given, each once; `-` stands for the first word of each line on stdin. None: none were."""
    named: list[str] = []
    for word in words:
        named += [line.split()[0] for line in sys.stdin if line.strip()] if word == "-" else [word]
    if words and not named:
        fail("There is no id on standard input.", Exit.USAGE)
    return list(dict.fromkeys(named)) if words else None


def in_bulk(daemon: Daemon, path: str, given: Json, words: tuple[str, str], as_json: bool) -> None:
    """Do something to all deliveries that the options of `picking_options` select, after a question, call by call.

    `words` say what was done, and ask whether to do it.
    """
    dry_run, yes, members = given.pop("dry_run"), given.pop("yes"), picked(given)
    done, asked = words
    if dry_run or not yes:
        found = daemon.post(path, members | {"dry_run": True}, patient=True)
        many = counted(found["matched"], "delivery") + (", or more," if found["next"] else "")
        if dry_run or not found["matched"]:
            show(found, as_json, lambda: "\n".join(filter(None, (table(DUE, found["sample"]), f"{many} selected."))))
            return
        if as_json:  # a question would stand between the data
            fail(f"{many} would be {done}. Say --yes to do it.", Exit.USAGE)
        say(table(DUE, found["sample"]))
        confirm(False, f"{many} would be {done}", f"{asked} {many}?")
    total = _until_the_end(daemon, path, members)
    show(total, as_json, lambda: f"{counted(total['done'], 'delivery')} {done}.")
    if total["unknown"]:
        say(f"{total['unknown']} ids name none that is {'dead' if 'dead' in path else 'due'}.")


def _until_the_end(daemon: Daemon, path: str, members: Json) -> Json:
    """Repeat a call that acts on a bounded number until it has come to its end."""
    total: Json = {"matched": 0, "done": 0, "unknown": 0}
    cursor: str | None = None
    while True:
        answer = daemon.post(path, members | ({"cursor": cursor} if cursor else {}), patient=True)
        for name in total:
            total[name] += answer[name]
        cursor = answer["next"]
        if cursor is None:
            return total


def mark(delivery: Json) -> str:
    """Mark how a due delivery stands: `*` under way, `!` held, `=` waits for its predecessor by an ordering key."""
    if delivery["under_way"]:
        return "*"
    if delivery["held"]:
        return "!"
    return "=" if delivery["state"] == "due" and delivery["due_at"] is None else ""


DUE: Columns = {
    " ": mark,
    "DELIVERY": "id",
    "TYPE": "event_type",
    "ENDPOINT": "endpoint",
    "ATTEMPTS": "attempts",
    "CREATED": at("created_at"),
    "DUE AT": at("due_at"),
}
"""Columns of deliveries that wait, each with its mark."""
