"""`relay sign` and `relay verify`: signatures without a daemon."""

import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from secrets import randbits
from typing import BinaryIO

import click

from relay.cli.output import Exit, fail, json_option, options, say, show
from relay.cli.types import find_contract
from relay.contracts import Contract, ContractCatalogue
from relay.core.clock import SystemClock
from relay.core.errors import ConfigError
from relay.core.ids import IdFactory
from relay.core.model import Secret
from relay.core.units import parse_duration_ms, parse_time_ms
from relay.diagnosis.verify import verify

_request_options = options(
    click.argument("body", type=click.File("rb"), default="-"),
    click.option("--contract", "contract_name", default="standard", show_default=True, help="Name of a contract."),
    click.option("--contracts", type=click.Path(path_type=Path), help="Folder with contract files of your own."),
    click.option(
        "--secret",
        "secrets",
        multiple=True,
        required=True,
        help="A secret, env:NAME or file:PATH (the last two stay out of the process list). Again for older ones.",
    ),
    click.option("--url", default="", help="URL of the endpoint, for contracts that sign it."),
    click.option("--endpoint", default="", help="Id of the endpoint, for contracts that sign it."),
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
    as_json: bool,
    event_id: str | None,
    event_type: str,
    at: str | None,
    attempt: int,
) -> None:
    """Print the headers with which the relay would send BODY, a file or - for standard input.

    BODY is signed byte for byte as it is; the relay's own bodies have the contract's envelope around the data.

    \b
      relay sign --secret env:SECRET body.json
      curl -H @<(relay sign --secret env:SECRET body.json) --data-binary @body.json https://example.com/hook
    """
    contract = find_contract(ContractCatalogue.load(contracts), contract_name)
    keys = _secrets(secrets)
    _warn(contract, keys)
    try:
        signer = contract.signer(keys, url, endpoint)
    except ConfigError as error:
        fail(str(error), Exit.BAD_INPUT)
    headers = signer.headers(
        id=_new_id() if event_id is None else event_id,
        type=event_type,
        timestamp_ms=_time_ms(at),
        body=body.read(),
        attempt=attempt,
    )
    show({"headers": headers}, as_json, lambda: "\n".join(f"{name}: {value}" for name, value in headers.items()))


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
    contract = find_contract(ContractCatalogue.load(contracts), contract_name)
    keys, received = _secrets(secrets), _headers([*(header_file or ()), *headers])
    now_ms, tolerance_ms = _time_ms(at), _duration_ms(tolerance)
    try:
        found = verify(contract, keys, received, body.read(), now_ms, tolerance_ms, url=url, endpoint_id=endpoint)
    except ConfigError as error:
        fail(str(error), Exit.BAD_INPUT)
    answer = {"verified": found.ok, "verdict": found.verdict, "reason": found.reason}
    show(answer, as_json, lambda: f"{'Verified' if found.ok else 'Not verified'}: {found.reason}")
    click.get_current_context().exit(Exit.FINE if found.ok else Exit.FAILED)


def _secrets(given: Iterable[str]) -> tuple[Secret, ...]:
    return tuple(Secret(_resolve(text)) for text in given)


def _resolve(text: str) -> str:
    """Read a secret as the configuration does: a line end after it in a file does not count."""
    scheme, _, rest = text.partition(":")
    if scheme == "env":
        if not os.environ.get(rest):
            fail(f"The environment has no {rest}. Set it, or use file:PATH.", Exit.BAD_INPUT)
        return os.environ[rest]
    if scheme != "file":
        return text
    try:
        return Path(rest).read_text().rstrip("\r\n")
    except (OSError, UnicodeDecodeError) as error:
        fail(f"The secret file {rest} cannot be read: {error}.", Exit.BAD_INPUT)


def _warn(contract: Contract, secrets: Iterable[Secret]) -> None:
    for secret in secrets:
        fault = contract.check_secret(secret.value)
        if fault is not None:
            say(f"Warning: {fault}")


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


def _duration_ms(text: str) -> int:
    try:
        return parse_duration_ms(text)
    except ValueError as error:
        fail(f"--tolerance {text!r}: {error}.", Exit.BAD_INPUT)


def _headers(lines: Iterable[str]) -> dict[str, str]:
    headers: dict[str, str] = {}
    for line in filter(str.strip, lines):
        name, colon, value = line.partition(":")
        if not colon:
            fail(f"{line.strip()[:80]!r} is no header. Write it as `name: value`.", Exit.BAD_INPUT)
        headers[name.strip()] = value.strip()
    return headers


COMMANDS = [sign, verify_command]
