"""`relay dead`: what could not be delivered, and sending it again."""

import itertools
import sys
from collections.abc import Iterable
from typing import Any

import click

from relay.cli.client import Daemon, Refused, daemon_options
from relay.cli.deliveries import delivery_table, retry_one, show_delivery
from relay.cli.filters import PAGE_MAX, delivery_filters, force_option, list_options, shown
from relay.cli.output import Exit, counted, echo_json, fail, json_option, moment, say, table

REPLAY_MAX = 1_000_000
"""Dead letters that one run of `replay` looks at."""

SAMPLE = 5
"""Dead letters shown before the question."""


@click.group("dead")
def dead() -> None:
    """Look at dead letters and replay them."""


@dead.command("list")
@click.option("--application", help="Only of this application.")
@click.option("--endpoint", help="Only of this endpoint.")
@click.option("--reason", help="Only those with this reason.")
@json_option
@daemon_options
def list_groups(daemon: Daemon, as_json: bool, **query: str | None) -> None:
    """List dead letters, grouped by endpoint and reason."""
    groups = daemon.get("/v1/dead-letters", **query)
    if as_json:
        echo_json(groups)
        return
    rows = [
        [group["endpoint"], group["reason"], group["count"], moment(group["oldest_at"]), moment(group["newest_at"])]
        for group in groups["data"]
    ]
    click.echo(table(["ENDPOINT", "REASON", "COUNT", "OLDEST", "NEWEST"], rows) if rows else "none")
    if rows:
        say(
            "Look at them with `relay dead show ENDPOINT`; send them again with `relay dead replay --endpoint ENDPOINT`."
        )


@dead.command("show")
@click.argument("name", metavar="ENDPOINT|ID")
@click.option("--reason", help="Only those with this reason.")
@list_options
@json_option
@daemon_options
def show(daemon: Daemon, name: str, as_json: bool, **query: Any) -> None:
    """Show an endpoint's dead letters, or one delivery with its attempts."""
    if name.startswith("dlv_"):
        show_delivery(daemon, name, as_json)
        return
    page = daemon.get("/v1/deliveries", state="dead", endpoint=name, **query)
    shown(page, as_json, delivery_table(page["data"]))


@dead.command("replay")
@click.argument("delivery_ids", metavar="[ID]...", nargs=-1)
@delivery_filters
@click.option("--all", "everything", is_flag=True, help="Every dead letter; needed when nothing else selects.")
@click.option("--dry-run", is_flag=True, help="Only count and show.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@force_option
@json_option
@daemon_options
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
) -> list[dict[str, Any]]:
    filtered = any(filters.values())
    if sum((bool(delivery_ids), filtered, everything)) != 1:
        fail("Say which dead letters: IDs, or filters such as --endpoint, or --all. One of the three.", Exit.USAGE)
    if delivery_ids:
        found = [daemon.get(f"/v1/deliveries/{delivery_id}") for delivery_id in dict.fromkeys(delivery_ids)]
        return [row for row in found if _is_dead(row)]
    pages = daemon.pages("/v1/deliveries", state="dead", limit=PAGE_MAX, **filters)
    return list(itertools.islice(pages, REPLAY_MAX))


def _is_dead(row: dict[str, Any]) -> bool:
    if row["state"] != "dead":
        say(f"{row['id']} is not dead but {row['state']}: left out. `relay deliveries retry` sends it all the same.")
    return bool(row["state"] == "dead")


def _ask(selected: list[dict[str, Any]], as_json: bool) -> None:
    _show(selected)
    if as_json or not sys.stdin.isatty():
        fail(f"{_letters(selected)} would be sent again. Say --yes to do it.", Exit.USAGE)
    click.confirm(f"Send {_letters(selected)} again?", abort=True, err=True)


def _show(selected: list[dict[str, Any]]) -> None:
    if selected:
        say(delivery_table(selected[:SAMPLE]))
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


def _report(selected: list[dict[str, Any]], replayed: list[str], refused: list[dict[str, str]], as_json: bool) -> None:
    if as_json:
        echo_json({"selected": [row["id"] for row in selected], "replayed": replayed, "refused": refused})
        return
    for refusal in refused:
        say(f"{refusal['id']}: {refusal['reason']}")
    click.echo(f"{_letters(selected)} selected, {len(replayed)} sent again.")
    if replayed:
        say("See what became of them with `relay deliveries list`.")


def _letters(selected: Iterable[Any]) -> str:
    return counted(len(list(selected)), "dead letter")


COMMANDS = [dead]
