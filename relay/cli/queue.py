"""`relay queue`: what waits, for whom and for how long; hold it, let it go on, send it now, or cancel it."""

from collections.abc import Callable
from typing import Any

import click

from relay.cli.client import Daemon, asks_daemon
from relay.cli.output import (
    PAGE_MAX,
    Columns,
    Exit,
    Json,
    confirm,
    counted,
    delivery_filters,
    echo,
    echo_json,
    fail,
    list_options,
    say,
    show,
    show_page,
    state,
    table,
)
from relay.cli.picking import DUE, in_bulk, picked, picking_options

ENDPOINTS = "/v1/webhook-endpoints"


@click.group("queue", invoke_without_command=True)
@click.pass_context
def queue(context: click.Context) -> None:
    """Look at what is due, and hold, release, retry or cancel it; alone it lists what is due.

    Marks: * under way, ! held, = waits for its predecessor.
    """
    if context.invoked_subcommand is None:
        context.invoke(list_due)


@queue.command("list")
@delivery_filters
@list_options
@asks_daemon
def list_due(daemon: Daemon, as_json: bool, **query: Any) -> None:
    """List what is due, with marks: * under way, ! held, = waits for its predecessor by an ordering key."""
    show_page(daemon.page("/v1/deliveries", state="due", **query), as_json, DUE)


@queue.command("shape")
@click.option("--application", help="Only of this application.")
@click.option("--limit", type=click.IntRange(1, PAGE_MAX), default=50, show_default=True)
@asks_daemon
def shape(daemon: Daemon, as_json: bool, **query: Any) -> None:
    """Count what is due by endpoint and by the age of its events, those with most first."""
    found = daemon.get("/v1/queue", **query)
    show(found, as_json, lambda: _drawn(found) or "none")
    if not as_json and found["endpoints"] > len(found["data"]):
        say(f"{found['endpoints'] - len(found['data'])} more endpoints: --limit.")


@queue.command("hold")
@picking_options
@asks_daemon
def hold(daemon: Daemon, as_json: bool, **given: Any) -> None:
    """Hold what is due, and what comes: pause the endpoints that are named, or that selected deliveries are owed to."""
    _on_endpoints(daemon, given, ("pause", "held", "Hold"), as_json)


@queue.command("release")
@picking_options
@asks_daemon
def release(daemon: Daemon, as_json: bool, **given: Any) -> None:
    """Let go on what was held: resume the endpoints that are named, or that selected deliveries are owed to."""
    _on_endpoints(daemon, given, ("resume", "released", "Release"), as_json)


@queue.command("retry-now")
@picking_options
@asks_daemon
def retry_now(daemon: Daemon, as_json: bool, **given: Any) -> None:
    """Send what is due now instead of later.

    Of whole endpoints (IDs of endpoints, --endpoint, --application, --all) cool-down and Retry-After end, and their
    window still holds; single deliveries, selected by IDs or more filters, go ahead of the others.
    """
    if _names_endpoints(given):
        _on_endpoints(daemon, given, ("retry-now", "retried now", "Retry now"), as_json)
    else:
        in_bulk(daemon, "/v1/deliveries/retry", given, ("retried now", "Retry now"), as_json)


@queue.command("cancel")
@picking_options
@asks_daemon
def cancel(daemon: Daemon, as_json: bool, **given: Any) -> None:
    """Stop trying to deliver what is due; `relay deliveries retry` takes each up again."""
    in_bulk(daemon, "/v1/deliveries/cancel", given, ("cancelled", "Cancel"), as_json)


def _names_endpoints(given: Json) -> bool:
    """Whether the options name whole endpoints, and no single deliveries of theirs."""
    if given["ids"]:
        return not any(one == "-" or one.startswith(("dlv_", "evt_")) for one in given["ids"])
    return not any(given[name] for name in ("since", "until", "type", "state", "reason"))


def _on_endpoints(daemon: Daemon, given: Json, words: tuple[str, str, str], as_json: bool) -> None:
    """Do something to each of the endpoints that the options mean, after a question."""
    verb, done, asked = words
    dry_run, yes = given.pop("dry_run"), given.pop("yes")
    names = _endpoints(daemon, picked(given))
    if dry_run or not names:
        show({"endpoints": names}, as_json, lambda: "\n".join([*names, f"{counted(len(names), 'endpoint')} selected."]))
        return
    if not yes and as_json:  # a question would stand between the data
        fail(f"{counted(len(names), 'endpoint')} would be {done}. Say --yes to do it.", Exit.USAGE)
    if len(names) > 1:  # one that is named is meant
        confirm(
            yes, f"{counted(len(names), 'endpoint')} would be {done}", f"{asked} {counted(len(names), 'endpoint')}?"
        )
    answers = [_repeated(lambda name=name: daemon.post(f"{ENDPOINTS}/{name}/{verb}")) for name in names]  # type: ignore[misc]  # a default argument is no inferred type
    if as_json:
        echo_json(answers)
        return
    for answer in answers:
        echo(f"{_became(answer, done)}.")
        if answer.get("note"):
            say(f"{answer['id']}: {answer['note']}")


def _became(answer: Json, done: str) -> str:
    """Say what was done to an endpoint."""
    if not answer.get("changed", True):
        return f"{answer['id']}: nothing changed; it was {state(answer)}"
    moved = (
        f": {counted(answer['due'], 'delivery')} due, {answer['moved']} brought forward" if "moved" in answer else ""
    )
    return f"{answer['id']} {done}{moved}"


def _repeated(call: Callable[[], Json]) -> Json:
    """Repeat a call whose answer says that there is more to do; the last answer counts what all of them did."""
    answer = call()
    moved = answer.get("moved", 0)
    while answer.get("more") is True:
        answer = call()
        moved += answer["moved"]
    return answer | {"moved": moved} if "moved" in answer else answer


def _endpoints(daemon: Daemon, members: Json) -> list[str]:
    """Return the ids of the endpoints that are meant: named, of an application, or those that deliveries are owed to."""
    if "ids" in members:
        named = (_owed_to(daemon, one) if one.startswith(("dlv_", "evt_")) else [one] for one in members["ids"])
        return list(dict.fromkeys(name for names in named for name in names))
    if not members.keys() <= {"application", "endpoint"}:
        due = daemon.pages("/v1/deliveries", limit=PAGE_MAX, **{"state": "due"} | members)
        return list(dict.fromkeys(one["endpoint"] for one in due))
    if "endpoint" in members:
        return [members["endpoint"]]
    return [one["id"] for one in daemon.pages(ENDPOINTS, limit=PAGE_MAX, **members)]


def _owed_to(daemon: Daemon, name: str) -> list[str]:
    """Return to whom a delivery, or an event, is owed."""
    if name.startswith("dlv_"):
        return [daemon.get(f"/v1/deliveries/{name}")["endpoint"]]
    return [one["endpoint"] for one in daemon.pages(f"/v1/events/{name}/deliveries")]


def _drawn(found: Json) -> str:
    """Draw the counts by age: each column has what is younger than its heading, and not in the one before."""
    ages = [f"<{age}" for age in found["ages"]] + ([f"{found['ages'][-1]}+"] if found["ages"] else [])
    counts: Columns = {age: _counted_at(index) for index, age in enumerate(ages)}
    columns: Columns = {"ENDPOINT": "endpoint", "STATE": "state", "DUE": "due", **counts, "WAITS FOR": "waits_for"}
    return table(columns, found["data"])


def _counted_at(index: int) -> Callable[[Json], Any]:
    return lambda row: row["by_age"][index] or ""


COMMANDS = [queue]
