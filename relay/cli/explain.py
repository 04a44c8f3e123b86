"""`relay explain`: which endpoints an event went to, which not, and why; what each delivery waits for."""

from collections.abc import Iterator

import click

from relay.cli.client import Daemon, asks_daemon
from relay.cli.deliveries import in_words, state, wait
from relay.cli.output import Json, echo, echo_json, facts, moment


@click.command("explain")
@click.argument("event_id", metavar="EVENT")
@click.option("--endpoint", help="Only this endpoint.")
@asks_daemon
def explain(daemon: Daemon, event_id: str, endpoint: str | None, as_json: bool) -> None:
    """Say of each endpoint of the application whether it was owed an event and why, and what became of it.

    What kept an event back is judged by what the endpoint is set to now; where it was edited since, that is said.
    """
    path = f"/v1/events/{event_id}/explain"
    first = daemon.get(path, endpoint=endpoint, limit=PAGE)
    found = list(_rest(daemon, path, endpoint, first))
    if as_json:
        echo_json({"event": first["event"], "data": found})
        return
    echo(_event(first["event"]))
    for one in found:
        echo("\n" + _endpoint(one))
    if not found:
        echo(f"\nApplication {first['event']['application']} has no endpoint.")


PAGE = 250


def _rest(daemon: Daemon, path: str, endpoint: str | None, page: Json) -> Iterator[Json]:
    """Walk the pages that follow a first one."""
    yield from page["data"]
    while page["next"]:
        page = daemon.get(path, endpoint=endpoint, limit=PAGE, cursor=page["next"])
        yield from page["data"]


def _event(event: Json) -> str:
    named = {name: event[name] for name in ("id", "type", "application")} | {"only for": event["endpoints"]}
    why = event["reason_detail"] or event["reason"]
    return facts(named | {"created_at": moment(event["created_at"]), "no deliveries": why})


def _endpoint(one: Json) -> str:
    edited = f" (it was edited since, at {moment(one['edited_at'])})" if one["edited_at"] else ""
    said = {"endpoint": one["endpoint"], "url": "deleted" if one["deleted"] else one["url"], "owed": one["owed"]}
    why = {"why": f"{one['why']}: {one['detail']}{edited}"}
    return facts(said | why | _became(one["delivery"] or {}) | {"remedy": one["remedy"]})


def _became(delivery: Json) -> Json:
    """Say where a delivery stands, what it waits for, and what its last attempt ended with."""
    if not delivery:
        return {}
    attempt, came_to = delivery["last_attempt"], None
    if attempt is not None:
        words = in_words(attempt, delivered=attempt["delivered"])
        came_to = f"number {attempt['number']} at {moment(attempt['started_at'])}, {words}"
    return {
        "delivery": f"{delivery['id']}: {state(delivery)}",
        "waits for": wait(delivery),
        "last attempt": came_to,
    }


COMMANDS = [explain]
