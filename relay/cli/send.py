"""`relay send` and `relay trigger`: one event, by hand or from a catalogue, and what comes of it."""

import json
import secrets
import time
from collections.abc import Sequence
from typing import Any, BinaryIO
from urllib.parse import urlencode

import click

from relay.cli.client import Daemon, Refused, asks_daemon
from relay.cli.deliveries import in_words, outcome, report_test, state
from relay.cli.json_text import NoWay, is_json, put, read_json, value_at
from relay.cli.output import Exit, Json, counted, echo, echo_json, fail, moment, say, say_warnings
from relay.cli.types import PATH as TYPES_PATH

WAIT_S = 60.0
"""How long is waited unless somebody says otherwise: longer than one attempt takes."""

PAUSE_S = 0.02
PAUSE_MAX_S = 0.5
"""Between two looks; they begin close together and move apart."""

_CHANGEABLE = ("data", "metadata", "id", "idempotency_key", "timestamp", "deliver_at", "expires_at", "ordering_key")
"""Members of an event that `--set` may name; the others have options of their own."""


@click.command("send")
@click.argument("event_type", metavar="TYPE")
@click.argument("data", default="{}")
@click.option("--application", help="Whose event it is, where there are several applications.")
@click.option("--idempotency-key", "--key", help="Repeating the command with the same key stores the event once.")
@click.option("--id", "id", help="Event id of your own.")
@click.option("--expires-at", help="RFC 3339 time after which it is not delivered any more.")
@click.option("--deliver-at", help="RFC 3339 time before which it is not delivered.")
@click.option("--ordering-key", help="What it is kept in order by, where the contract keeps order.")
@click.option("--endpoint", "endpoints", multiple=True, metavar="ID", help="Only for this endpoint; repeatable.  [all]")
@asks_daemon
def send(daemon: Daemon, event_type: str, data: str, as_json: bool, **members: Any) -> None:
    """Send one event of TYPE.

    DATA is its payload as JSON: text, @FILE, or - for standard input. It is delivered byte for byte as given.

    \b
      relay send order.paid '{"order": 7}'
      relay send order.paid @order.json --key order-7
    """
    answer = daemon.post("/v1/events", compose(event_type, read_json(data, "DATA"), members))
    _report(answer, as_json)


def compose(event_type: str, data: str, members: dict[str, Any]) -> bytes:
    """Write the request's body; the payload is spliced in as it is, so that its spelling survives."""
    named = {"type": event_type} | {name: value for name, value in members.items() if value not in (None, ())}
    return f'{json.dumps(named)[:-1]}, "data": {data}}}'.encode()


class _Trigger(click.Command):
    """Lists in its help what can be triggered: the help has to work without a daemon."""

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        from relay.contracts import ContractCatalogue

        catalogue = ContractCatalogue.load()
        contracts = filter(None, map(catalogue.get, catalogue.names))
        rows = [(contract.name, ", ".join(contract.types)) for contract in contracts if contract.types]
        with formatter.section("Event types of the built-in contracts (`relay types` asks the daemon)"):
            formatter.write_dl(rows)


@click.command("trigger", cls=_Trigger)
@click.argument("event_type", metavar="TYPE")
@click.option("--application", help="Whose event it is, where there are several applications.")
@click.option(
    "--set", "changes", multiple=True, metavar="PATH=VALUE", help="Change a member, such as data.fps=25; repeatable."
)
@click.option("--data-file", type=click.File("rb"), help="Take these data, not the example; - is standard input.")
@click.option("--endpoint", "endpoint_id", metavar="ID", help="Send it as a test to this endpoint alone.")
@click.option("--wait", is_flag=True, help="Wait for what comes of it; exit code 0 if it was delivered, else 1.")
@click.option(
    "--wait-for",
    type=click.FloatRange(min=0),
    default=WAIT_S,
    show_default=True,
    metavar="SECONDS",
    help="How long --wait waits.",
)
@asks_daemon
def trigger(
    daemon: Daemon,
    event_type: str,
    application: str | None,
    changes: tuple[str, ...],
    data_file: BinaryIO | None,
    endpoint_id: str | None,
    wait: bool,
    wait_for: float,
    as_json: bool,
) -> None:
    """Send the catalogue's example of TYPE as a real event.

    A VALUE is JSON, or else text. With --endpoint it is a test: sent once, whatever the endpoint subscribes to and even
    if it is paused, stored nowhere, with the outcome printed and the exit code 0 if it was delivered, else 1.

    \b
      relay trigger render.completed
      relay trigger render.completed --set data.fps=25 --set data.metadata.project=demo --wait
      relay trigger draft.delete --set metadata.videoContext=article-7
      relay trigger webhook.test --endpoint primary
    """
    data = None if data_file is None else _read_file(data_file)
    if endpoint_id is not None:
        if application is not None:
            fail("Leave --application out: with --endpoint it is the endpoint's own.", Exit.USAGE)
        _test(daemon, endpoint_id, event_type, data, changes, as_json)
        return
    if data is None:
        data = _example(daemon, event_type, application, to_test=False)
    event = json.dumps({"type": event_type, "idempotency_key": f"trigger-{secrets.token_hex(8)}"} | _named(application))
    accepted = daemon.post("/v1/events", _changed(put(event, ["data"], data), changes).encode())
    if wait:
        follow(daemon, accepted, wait_for, as_json)
    else:
        _report(accepted, as_json)


def _test(
    daemon: Daemon, endpoint_id: str, event_type: str, data: str | None, changes: Sequence[str], as_json: bool
) -> None:
    path = f"/v1/webhook-endpoints/{endpoint_id}"
    event = json.dumps({"type": event_type})
    if data is None and changes:
        owner = daemon.get(path)["application"]
        data = _example(daemon, event_type, owner, to_test=True)
    if data is not None:
        event = _changed(put(event, ["data"], data), changes, known=("data",))
    report_test(daemon.post(f"{path}/test", event.encode()), as_json)


def _example(daemon: Daemon, event_type: str, application: str | None, *, to_test: bool) -> str:
    """Return an example as its contract has it, byte for byte; ends the command, with proposals, if there is none."""
    query = f"?{urlencode(_named(application))}" if application else ""
    try:
        answer = daemon.call("GET", f"{TYPES_PATH}/{event_type}{query}")
    except Refused as refusal:
        if refusal.status == 404:
            refusal.exit_code = int(Exit.BAD_INPUT)  # type: ignore[misc]  # click reads it from the instance
        raise
    if answer.data["test_only"] and not to_test:
        fail(f"{event_type} is sent by a test only, to one endpoint: add --endpoint ID.", Exit.USAGE)
    example = value_at(answer.text, "example")
    assert example is not None, "every entry of a catalogue has one"
    return example


def _named(application: str | None) -> dict[str, str]:
    return {} if application is None else {"application": application}


def _read_file(file: BinaryIO) -> str:
    try:
        text = file.read().decode()
    except UnicodeDecodeError as error:
        fail(f"--data-file: not UTF-8 (byte {error.start}). Save it as UTF-8.", Exit.BAD_INPUT)
    if not is_json(text):
        fail("--data-file: not JSON. Mend it; `python3 -m json.tool FILE` says where.", Exit.BAD_INPUT)
    return text


def _changed(event: str, changes: Sequence[str], known: Sequence[str] = _CHANGEABLE) -> str:
    """Return the event's text with what `--set` says; every other byte of it stays."""
    for change in changes:
        path, equals, value = change.partition("=")
        steps = path.split(".")
        if not equals or not all(steps):
            fail(f"--set {change}: write it as PATH=VALUE, such as data.fps=25.", Exit.USAGE)
        if steps[0] not in known:
            fail(f"--set {change}: a path begins with {_or(known)}, such as data.{path}.", Exit.USAGE)
        try:
            event = put(event, steps, value if is_json(value) else json.dumps(value))
        except NoWay as reason:
            fail(f"--set {change}: {reason}.", Exit.BAD_INPUT)
    return event


def _or(words: Sequence[str]) -> str:
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} or {words[-1]}"


def _report(accepted: Json, as_json: bool) -> None:
    if as_json:
        echo_json(accepted)
    elif accepted["duplicate"]:
        echo(f"{accepted['id']} was accepted before; nothing was sent again.")
    else:
        why = f" ({accepted['reason_detail']})" if accepted.get("reason") else ""
        echo(f"{accepted['id']} accepted: {counted(accepted['deliveries'], 'delivery')}{why}.")
        say_warnings(accepted)
        say(f"Follow it with: relay events show {accepted['id']}")


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
        echo("\n".join(f"{row['endpoint']}: {_came_of(row)}" for row in rows))
    else:
        event = daemon.get(f"/v1/events/{accepted['id']}")
        echo(f"deliveries: {outcome(event)}")
    if not delivered:
        raise click.exceptions.Exit(Exit.FAILED)


def _decided(daemon: Daemon, path: str, wait_s: float) -> list[Json]:
    deadline_s, pause_s = time.monotonic() + wait_s, PAUSE_S
    while True:
        owed: list[Json] = list(daemon.pages(path))
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


COMMANDS = [send, trigger]
