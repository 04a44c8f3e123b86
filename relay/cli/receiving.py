"""`relay listen` and `relay check-receiver`: for whoever builds a receiver."""

import json
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
    from typing import BinaryIO

    from relay.contracts import Contract
    from relay.diagnosis.checks import Check
    from relay.diagnosis.specimen import Specimen

LISTEN = "127.0.0.1:8421"

ANSWER_MS = 15_000
"""How long a receiver may take where its contract says nothing."""
LARGE_MAX = 16 << 20
"""The largest large body."""


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
        return _verifying(contract, read_secrets(given))
    made = contract.new_secret(os.urandom)
    say(
        f"Secret: {made}   (made for this run: give it to the endpoint that delivers here, or pass yours with --secret)"
    )
    return (Secret(made),)


def _verifying(contract: "Contract", secrets: tuple[Secret, ...]) -> tuple[Secret, ...]:
    """Return secrets, or public halves of them, that can verify; others end the command."""
    from relay.core.errors import ConfigError
    from relay.diagnosis.verify import verify

    try:
        verify(contract, secrets, {}, b"", 0)
    except ConfigError as error:
        fail(str(error), Exit.BAD_INPUT)
    return secrets


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


@click.command("check-receiver")
@click.argument("url")
@contract_options
@secrets_option("A secret that the receiver knows", required=False)
@click.option(
    "--type", "event_type", help="Event type to send.  [default: the contract's test event, or its first type]"
)
@click.option(
    "--data", "data_file", type=click.File("rb"), help="File with data to send.  [default: the type's example]"
)
@click.option(
    "--endpoint", default="ep_check", show_default=True, help="Id of the endpoint, for contracts that use it."
)
@click.option("--large", default="256KiB", show_default=True, help="How large the large body is.")
@click.option("--timeout", help="How long to wait for each answer.  [default: the contract's, or 15s]")
@click.option("--skip", multiple=True, metavar="CHECK", help="Leave a check out. Again for others.")
@json_option
def check_receiver(
    url: str,
    contract_name: str,
    contracts: Path | None,
    secrets: Sequence[str],
    event_type: str | None,
    data_file: "BinaryIO | None",
    endpoint: str,
    large: str,
    timeout: str | None,
    skip: Sequence[str],
    as_json: bool,
) -> None:
    """Send URL a series of test deliveries, and say what it accepts that it must refuse, and the reverse.

    The checks, in this order: right, repeated_id, rotation, unknown_type, large, slow must be answered 2xx; unsigned,
    wrong_secret, changed_body, old_timestamp must not. Those that the contract knows nothing of say so. The receiver gets
    real requests: what it does for an event it does for these.

    Like `curl` it reaches this machine (loopback) and private networks, over http too; link-local addresses, where clouds
    keep credentials, it does not. No redirect is followed.

    \b
    Exit codes:
      0   no fault was found (remarks are no faults)
      1   a fault was found
      2   wrong use
      65  a URL, secret, type or file that is unfit
      69  the receiver cannot be reached, or gave the right delivery no answer
      78  a contract that cannot be used

    \b
      relay check-receiver http://127.0.0.1:3000/hooks --secret env:SECRET
      relay check-receiver https://example.com/hooks --contract editframe --secret env:SECRET --type render.completed
      relay check-receiver http://127.0.0.1:3000/hooks --secret env:SECRET --skip unknown_type --json     # in CI
    """
    import asyncio

    from relay.cli import checking
    from relay.core.clock import SystemClock
    from relay.diagnosis.checks import checks

    contract = find_contract(contract_name, contracts)
    _refuse_unfit_url(url)
    specimen = _specimen(contract, _known(contract, secrets), url, endpoint, event_type, data_file)
    series = _without(checks(_size(large)), skip)
    limit_ms = contract.timeout_ms or ANSWER_MS if timeout is None else read_duration_ms("--timeout", timeout)
    show = (lambda _: None) if as_json else checking.show_line
    findings = asyncio.run(checking.run(specimen, series, limit_ms, SystemClock().wall_ms, show))
    click.get_current_context().exit(checking.report(specimen, findings, as_json=as_json))


def _refuse_unfit_url(url: str) -> None:
    from relay.core.urls import check_url

    faults = check_url(url, allow_http=True, allow_private=True)
    if faults:
        fail(f"The URL cannot be posted to: {'; '.join(faults)}.", Exit.BAD_INPUT)


def _known(contract: "Contract", given: Sequence[str]) -> tuple[Secret, ...]:
    """Return the secrets that the receiver knows; what it must refuse cannot be told from what is right without one."""
    if contract.signs and not given:
        fail("Give --secret, one that the receiver knows: without it no delivery is right.", Exit.USAGE)
    if given and not contract.signs:
        fail(f"The contract {contract.name!r} signs nothing: leave --secret out.", Exit.USAGE)
    keys = read_secrets(given)
    _refuse_unfit(contract, keys)
    return keys


def _specimen(
    contract: "Contract",
    secrets: tuple[Secret, ...],
    url: str,
    endpoint: str,
    event_type: str | None,
    data_file: "BinaryIO | None",
) -> "Specimen":
    from secrets import randbits

    from relay.core.clock import SystemClock
    from relay.core.ids import IdFactory
    from relay.diagnosis.specimen import Specimen

    name, data = _event(contract, endpoint, event_type, data_file)
    ids = IdFactory(SystemClock().wall_ms, randbits)
    other = Secret(contract.new_secret(os.urandom, secrets[0].value)) if secrets else None
    return Specimen(contract, secrets, url, endpoint, name, data, ids.new("evt"), lambda: ids.new("evt"), other)


def _event(
    contract: "Contract", endpoint: str, event_type: str | None, data_file: "BinaryIO | None"
) -> tuple[str, bytes]:
    """Return type and data of the event that is sent: given, else the contract's own; they must be lawful."""
    from relay.contracts import NoExample, Payload

    if data_file is None or event_type is None:
        try:
            event_type, example = contract.test_event(event_type, {"endpoint_id": endpoint, "application_id": "check"})
        except NoExample as error:
            fail(f"{str(error).capitalize()}.", Exit.BAD_INPUT)
    data = example if data_file is None else data_file.read()
    try:
        json.loads(data)
    except ValueError as error:
        fail(f"--data is not JSON: {error}.", Exit.BAD_INPUT)
    wrong = contract.check_type(event_type)
    issues = [] if wrong else contract.check_data(event_type, Payload(data))
    if wrong or issues:
        fail(wrong or "; ".join(f"data{issue.path}: {issue.message}" for issue in issues), Exit.BAD_INPUT)
    return event_type, data


def _without(series: "Sequence[Check]", skip: Sequence[str]) -> "list[Check]":
    names = [check.name for check in series]
    for name in skip:
        if name not in names[1:]:
            fail(f"--skip {name!r}: the checks that can be left out are {', '.join(names[1:])}.", Exit.USAGE)
    return [check for check in series if check.name not in skip]


def _size(text: str) -> int:
    from relay.core.units import parse_size_bytes

    try:
        size_bytes = parse_size_bytes(text)
    except ValueError as error:
        fail(f"--large {text!r}: {error}.", Exit.BAD_INPUT)
    if size_bytes > LARGE_MAX:
        fail(f"--large {text}: at most 16MiB.", Exit.BAD_INPUT)
    return size_bytes


COMMANDS = [listen, check_receiver]
