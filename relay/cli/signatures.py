"""`relay sign` and `relay verify`: signatures without a daemon."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from secrets import randbits
from typing import BinaryIO

import click

from relay.cli.contracts import (
    contract_options,
    find_contract,
    read_duration_ms,
    read_secrets,
    secrets_option,
    warn_of_secrets,
)
from relay.cli.output import Exit, fail, json_option, options, show
from relay.contracts.fields import Message
from relay.contracts.signing import is_fact
from relay.core.clock import SystemClock
from relay.core.errors import ConfigError
from relay.core.ids import IdFactory
from relay.core.units import parse_time_ms
from relay.diagnosis.verify import verify

_request_options = options(
    click.argument("body", type=click.File("rb"), default="-"),
    contract_options,
    secrets_option("A secret"),
    click.option("--url", default="", help="URL of the endpoint, for contracts that sign it."),
    click.option("--endpoint", default="", help="Id of the endpoint, for contracts that sign it."),
    click.option(
        "--fact", "facts", multiple=True, help="Part of the event, `data.id=7`, for contracts that sign or show it."
    ),
    json_option,
)
"""What both verbs take: the body, the contract, the secrets, the endpoint."""


@click.command("sign")
@_request_options
@click.option("--id", "event_id", help="Event id.  [default: a new one]")
@click.option("--type", "event_type", default="", help="Event type, for contracts that show or sign it.")
@click.option("--at", help="Time of the attempt: unix seconds or RFC 3339.  [default: now]")
@click.option("--attempt", default=1, show_default=True, type=click.IntRange(1), help="Number of the attempt.")
def sign(
    body: BinaryIO,
    contract_name: str,
    contracts: Path | None,
    secrets: Sequence[str],
    url: str,
    endpoint: str,
    facts: Sequence[str],
    as_json: bool,
    event_id: str | None,
    event_type: str,
    at: str | None,
    attempt: int,
) -> None:
    """Print the headers with which the relay would send BODY, a file or - for standard input.

    BODY is signed byte for byte as it is; the relay's own bodies have the contract's envelope around the data. With --json
    the signatures that stand inside bodies are shown as well.

    \b
      relay sign --secret env:SECRET body.json
      curl -H @<(relay sign --secret env:SECRET body.json) --data-binary @body.json https://example.com/hook
    """
    contract = find_contract(contract_name, contracts)
    keys = read_secrets(secrets)
    warn_of_secrets(contract, keys)
    try:
        signer = contract.signer(keys, url, endpoint)
    except ConfigError as error:
        fail(str(error), Exit.BAD_INPUT)
    message = Message(_new_id() if event_id is None else event_id, event_type, _time_ms(at), body.read(), attempt)
    known = _facts(facts)
    headers = signer.headers(
        id=message.id,
        type=message.type,
        timestamp_ms=message.timestamp_ms,
        body=message.body,
        attempt=attempt,
        facts=known,
    )
    inner = {name: text.decode() for name, text in signer.inner_signatures(message, known).items()}
    shown = {"headers": headers} | ({"signatures": inner} if inner else {})
    show(shown, as_json, lambda: "\n".join(f"{name}: {value}" for name, value in headers.items()))


@click.command("verify")
@_request_options
@click.option("--header", "-H", "headers", multiple=True, help="A header as received, `name: value`. Again for others.")
@click.option("--headers", "header_file", type=click.File("r"), help="File with all headers, one to a line.")
@click.option("--at", help="When it was received: unix seconds or RFC 3339.  [default: now]")
@click.option("--tolerance", default="5m", show_default=True, help="How far its timestamp may be from then.")
def verify_command(
    body: BinaryIO,
    contract_name: str,
    contracts: Path | None,
    secrets: Sequence[str],
    url: str,
    endpoint: str,
    facts: Sequence[str],
    as_json: bool,
    headers: Sequence[str],
    header_file: Iterable[str] | None,
    at: str | None,
    tolerance: str,
) -> None:
    """Check the signature of a request whose BODY was stored as received, and say why it is wrong.

    Exit code 0: right. 1: wrong. 2: wrong use. 65: a secret, header or time that cannot be read.

    \b
      relay verify --secret env:SECRET --headers headers.txt body.json
      relay verify --secret env:SECRET -H 'webhook-id: evt_1' -H 'webhook-timestamp: …' -H 'webhook-signature: …' - < body
    """
    contract = find_contract(contract_name, contracts)
    keys, received = read_secrets(secrets), _headers([*(header_file or ()), *headers])
    now_ms, tolerance_ms = _time_ms(at), read_duration_ms("--tolerance", tolerance)
    try:
        found = verify(
            contract,
            keys,
            received,
            body.read(),
            now_ms,
            tolerance_ms,
            url=url,
            endpoint_id=endpoint,
            facts=_facts(facts),
        )
    except ConfigError as error:
        fail(str(error), Exit.BAD_INPUT)
    answer = {"verified": found.ok, "verdict": found.verdict, "reason": found.reason}
    show(answer, as_json, lambda: f"{'Verified' if found.ok else 'Not verified'}: {found.reason}")
    click.get_current_context().exit(Exit.FINE if found.ok else Exit.FAILED)


def _facts(given: Iterable[str]) -> dict[str, str]:
    facts: dict[str, str] = {}
    for text in given:
        name, equals, value = text.partition("=")
        if not equals or not is_fact(name):
            fail(f"--fact {text[:80]!r} is no part of an event. Write it as data.id=7.", Exit.USAGE)
        facts[name] = value
    return facts


def _new_id() -> str:
    return IdFactory(SystemClock().wall_ms, randbits).new("evt")


def _time_ms(text: str | None) -> int:
    if text is None:
        return SystemClock().wall_ms()
    if text.isascii() and text.isdigit():
        return int(text) * 1000
    try:
        return parse_time_ms(text)
    except ValueError as error:
        fail(f"{error}. Write unix seconds, or RFC 3339 such as 2026-11-22T08:30:00Z.", Exit.BAD_INPUT)


def _headers(lines: Iterable[str]) -> dict[str, str]:
    headers: dict[str, str] = {}
    for line in filter(str.strip, lines):
        name, colon, value = line.partition(":")
        if not colon:
            fail(f"{line.strip()[:80]!r} is no header. Write it as `name: value`.", Exit.BAD_INPUT)
        headers[name.strip()] = value.strip()
    return headers


COMMANDS = [sign, verify_command]
