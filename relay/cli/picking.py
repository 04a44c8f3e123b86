"""Which deliveries a verb means that acts on many: the same options for every such verb, or ids, also from stdin."""

import sys
from collections.abc import Sequence

import click

from relay.cli.output import Exit, Json, fail, options, time_options, yes_option
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
