"""`relay listen`: for whoever builds a receiver."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from relay.cli.contracts import (
    contract_options,
    find_contract,
    read_duration_ms,
    read_secrets,
    secrets_option,
    warn_of_secrets,
)
from relay.cli.output import Exit, fail, json_option, say
from relay.core.model import Secret

if TYPE_CHECKING:
    from relay.contracts import Contract

LISTEN = "127.0.0.1:8421"


@click.command("listen")
@contract_options
@secrets_option("The endpoint's secret", required=False)
@click.option("--listen", "place", default=LISTEN, show_default=True, help="Host and port; port 0 is any free one.")
@click.option("--url", default="", help="URL that the sender has, for contracts that sign it.  [default: as asked for]")
@click.option("--endpoint", default="", help="Id of the endpoint, for contracts that sign it.")
@click.option("--tolerance", default="5m", show_default=True, help="How far a timestamp may be from now.")
@click.option("--fail", "status", type=click.IntRange(300, 599), help="Answer right deliveries with this status.")
@click.option("--drop", is_flag=True, help="Drop the connection instead of answering.")
@click.option("--slow-body", is_flag=True, help="Answer at once, and send the body a byte a second.")
@click.option("--delay", default="0s", help="Wait before the answer, such as 5s.")
@click.option("--rate", type=click.IntRange(1, 100), help="Of a hundred right deliveries so many fail.  [default: 100]")
@click.option("--forward-to", help="Pass right deliveries on to this URL, and its answer back.")
@click.option("--expect", type=click.IntRange(1), help="End after so many events; exit code 0 if none was wrong.")
@click.option("--timeout", help="How long to wait for them, such as 30s.")
@click.option("--body", "with_body", is_flag=True, help="Show bodies, too.")
@json_option
def listen(
    contract_name: str,
    contracts: Path | None,
    secrets: Sequence[str],
    place: str,
    url: str,
    endpoint: str,
    tolerance: str,
    status: int | None,
    drop: bool,
    slow_body: bool,
    delay: str,
    rate: int | None,
    forward_to: str | None,
    expect: int | None,
    timeout: str | None,
    with_body: bool,
    as_json: bool,
) -> None:
    """Receive deliveries on this machine: verify each, print a line for it, and say why a signature is wrong.

    What is right is answered 204, what is wrong 401, what is no POST 405. Without --secret a new one is made and shown.

    \b
    Exit codes:
      0   ended by hand; with --expect: so many events were accepted, and no signature was wrong
      1   --expect: not all came in time, or a signature was wrong
      2, 65, 75, 77, 78  as for every command: wrong use, an unfit secret, a busy port, one not permitted, an address or
          a contract that cannot be used
    \b
      relay listen --secret env:SECRET
      relay listen --contract editframe --secret env:SECRET --fail 503 --rate 30 --delay 5s
      relay listen --secret env:SECRET --forward-to http://127.0.0.1:3000/hooks
      relay listen --secret env:SECRET --expect 3 --timeout 30s --json       # in CI
    """
    import asyncio

    from relay.cli import listener
    from relay.core.clock import SystemClock

    contract = find_contract(contract_name, contracts)
    delay_ms = read_duration_ms("--delay", delay)
    _refuse_contradictions(drop, slow_body, status, rate, delay_ms, expect, timeout)
    faults = listener.Faults(status, drop, slow_body, delay_ms / 1000, rate or 100)
    keys = _keys(contract, secrets)
    checking = listener.Checking(contract, keys, read_duration_ms("--tolerance", tolerance), url, endpoint)
    timeout_s = None if timeout is None else read_duration_ms("--timeout", timeout) / 1000
    watch = listener.Watch(as_json, with_body, expect, timeout_s)
    code = asyncio.run(listener.run(checking, faults, watch, _place(place), SystemClock(), forward_to))
    click.get_current_context().exit(code)


def _refuse_contradictions(
    drop: bool,
    slow_body: bool,
    status: int | None,
    rate: int | None,
    delay_ms: int,
    expect: int | None,
    timeout: str | None,
) -> None:
    if drop and (slow_body or status):
        fail("A dropped connection has no answer: give --drop, or --fail and --slow-body.", Exit.USAGE)
    if rate is not None and not (drop or slow_body or status or delay_ms):
        fail("--rate says how often something fails: give --fail, --drop, --slow-body or --delay with it.", Exit.USAGE)
    if timeout is not None and expect is None:
        fail("--timeout says how long to wait for --expect events: give both.", Exit.USAGE)


def _keys(contract: "Contract", given: Sequence[str]) -> tuple[Secret, ...]:
    """Return the secrets to verify with: those that were given, else a new one, which is shown."""
    if given and not contract.signs:
        fail(f"The contract {contract.name!r} signs nothing: leave --secret out.", Exit.USAGE)
    if not contract.signs:
        say(f"The contract {contract.name!r} signs nothing: anybody who knows the URL can send what is shown here.")
        return ()
    if given:
        keys = read_secrets(given)
        _refuse_unfit(contract, keys)
        return keys
    made = contract.new_secret(os.urandom)
    say(
        f"Secret: {made}   (made for this run: give it to the endpoint that delivers here, or pass yours with --secret)"
    )
    return (Secret(made),)


def _refuse_unfit(contract: "Contract", secrets: Sequence[Secret]) -> None:
    from relay.core.errors import ConfigError

    warn_of_secrets(contract, secrets)
    try:
        contract.signer(secrets, "", "")
    except ConfigError as error:
        fail(str(error), Exit.BAD_INPUT)


def _place(text: str) -> tuple[str, int]:
    """Read `HOST:PORT`; an IPv6 address stands in brackets."""
    host, _, port = text.rpartition(":")
    if not host or not port.isdecimal() or int(port) > 65_535:
        fail(f"--listen {text!r} is no address. Write HOST:PORT, such as {LISTEN}.", Exit.USAGE)
    return host.strip("[]"), int(port)


COMMANDS = [listen]
