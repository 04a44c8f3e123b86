"""`relay check-receiver`: it finds what is wrong with a receiver, over real sockets, and nothing in a right one."""

import asyncio
import base64
import hashlib
import hmac
import json
from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from standardwebhooks import Webhook, WebhookVerificationError

from relay.cli import checking, main
from relay.cli.output import Exit
from relay.contracts import Contract
from relay.core.clock import SystemClock
from relay.core.model import Secret
from relay.diagnosis.checks import Answer, Finding, Must, checks, judge
from relay.diagnosis.checks import Result as Found
from relay.diagnosis.specimen import Specimen, changed_texts
from tests.support import documented
from tests.support.contract_files import built_in, contract
from tests.support.daemon import SECRET
from tests.support.five import SVIX_SECRET, TEXT_SECRET
from tests.support.node_receivers import NodeReceivers, needs_node
from tests.support.receiver import Received, Receiver

OTHER = "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD"
Take = Callable[[Received], int]


# -- a right receiver, and what can be wrong with one ------------------------------------------------------------------


def right(request: Received) -> int:
    """Verify with the official library, take what is unknown, repeated and large."""
    try:
        Webhook(SECRET).verify(request.body, dict(request.headers))
    except WebhookVerificationError:
        return 401
    return 204


def trusting(_: Received) -> int:
    return 204


def timeless(request: Received) -> int:
    """Compute the signature rightly, and never look at the time."""
    names = ("webhook-id", "webhook-timestamp", "webhook-signature")
    id, time, signatures = (request.headers.get(name, "") for name in names)
    key = base64.b64decode(SECRET.removeprefix("whsec_"))
    signed = hmac.digest(key, f"{id}.{time}.".encode() + request.body, hashlib.sha256)
    return 204 if f"v1,{base64.b64encode(signed).decode()}" in signatures.split() else 401


def credulous(request: Received) -> int:
    """Look whether there is a fresh signature, and not whether it is right."""
    fresh = abs(int(request.headers.get("webhook-timestamp", "0")) * 1000 - SystemClock().wall_ms()) < 300_000
    return 204 if fresh and "v1," in request.headers.get("webhook-signature", "") else 401


def first_signature(request: Received) -> int:
    """Verify the first signature of the header alone."""
    headers = dict(request.headers)
    headers["webhook-signature"] = headers.get("webhook-signature", "").partition(" ")[0]
    return right(Received(1, "POST", "/", headers, (), request.body, 1))  # type: ignore[arg-type]  # names are lower case


def small(request: Received) -> int:
    return 413 if len(request.body) > 100_000 else right(request)


def narrow(request: Received) -> int:
    """Refuse types that it does not handle."""
    status = right(request)
    return 400 if status == 204 and json.loads(request.body)["type"] != "webhook.test" else status


def once() -> Take:
    """Refuse ids that were there before."""
    seen: set[str] = set()

    def take(request: Received) -> int:
        status, event_id = right(request), request.headers.get("webhook-id", "")
        if status == 204 and event_id in seen:
            return 409
        seen.add(event_id)
        return status

    return take


def fragile(request: Received) -> int:
    """Break where a header is missing."""
    return right(request) if "webhook-signature" in request.headers else 500


@asynccontextmanager
async def hasty() -> Any:
    """A receiver that takes the first piece of a body for the whole."""

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        lines = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")[1:-2]
        headers = {name.lower(): value for name, value in (line.split(": ", 1) for line in lines)}
        size = int(headers["content-length"])
        body = await (reader.read(size) if size < 1000 else reader.readexactly(size))
        request = Received(1, "POST", "/", headers, (), body, 1)  # type: ignore[arg-type]  # names are in lower case
        writer.write(b"HTTP/1.1 %d -\r\nContent-Length: 0\r\nConnection: close\r\n\r\n" % right(request))
        await writer.drain()
        writer.close()
        await writer.wait_closed()

    server = await asyncio.start_server(handle, "127.0.0.1", 0)
    async with server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/hook"


@asynccontextmanager
async def at(take: Take) -> Any:
    async with Receiver(default=take) as receiver:
        yield receiver.url


# -- running the checks ------------------------------------------------------------------------------------------------


async def found(
    url: str, *, made: Contract | None = None, secret: str = SECRET, type: str | None = None, limit_ms: int = 20_000
) -> list[Finding]:
    """Run every check; only the slow one takes its time, and here it takes none but a turn of the loop."""
    made = made or built_in("standard")
    name, data = made.test_event(type, {"endpoint_id": "ep_1"})
    numbers = iter(range(1, 100))
    secrets = (Secret(secret),) if made.signs else ()
    other = Secret(made.new_secret(lambda size: bytes(range(size)), secret)) if made.signs else None
    specimen = Specimen(made, secrets, url, "ep_1", name, data, "evt_0", lambda: f"evt_{next(numbers)}", other)

    async def pause(_: float) -> None:
        await asyncio.sleep(0.02)

    clock = SystemClock()
    return await checking.run(specimen, checks(256 << 10), limit_ms, clock.wall_ms, lambda _: None, pause)


def of(result: Found, findings: Sequence[Finding]) -> set[str]:
    return {finding.check for finding in findings if finding.result is result}


async def test_nothing_is_found_in_a_right_receiver() -> None:
    """Every check is sent and none finds a fault."""
    async with at(right) as url:
        findings = await found(url)

    assert [finding.result for finding in findings] == [Found.FINE] * 10
    assert len(findings) == len(checks(1))


FAULTS: dict[str, tuple[Callable[[], AbstractAsyncContextManager[str]], set[str]]] = {
    "no verification": (lambda: at(trusting), {"unsigned", "wrong_secret", "changed_body", "old_timestamp"}),
    "no look at the time": (lambda: at(timeless), {"old_timestamp"}),
    "any signature will do": (lambda: at(credulous), {"wrong_secret", "changed_body"}),
    "the first signature only": (lambda: at(first_signature), {"rotation"}),
    "409 to a repeat": (lambda: at(once()), {"repeated_id"}),
    "400 to an unknown type": (lambda: at(narrow), {"unknown_type"}),
    "a limit of 100 kB": (lambda: at(small), {"large"}),
    "the first piece of a body": (hasty, {"slow"}),
}


@pytest.mark.parametrize("fault", FAULTS)
async def test_each_planted_fault_is_found(fault: str) -> None:
    """Eight receivers, each right but for one thing: exactly that is found, with what to do about it."""
    receiver, planted = FAULTS[fault]
    async with receiver() as url:
        findings = await found(url)

    assert of(Found.FAULT, findings) == planted
    assert all(finding.remedy for finding in findings if finding.result is Found.FAULT)
    assert of(Found.REMARK, findings) == set()


async def test_what_breaks_instead_of_refusing_is_a_remark() -> None:
    """A 500 to a request without a signature is no acceptance, but no refusal either."""
    async with at(fragile) as url:
        findings = await found(url)

    assert of(Found.REMARK, findings) == {"unsigned"}
    assert of(Found.FAULT, findings) == set()


async def test_nothing_more_is_sent_when_the_right_one_is_refused() -> None:
    """With another secret everything would be refused, which says nothing: the others are not tried."""
    async with Receiver(default=right) as receiver:
        findings = await found(receiver.url, secret=OTHER)

    assert findings[0].result is Found.FAULT
    assert "answered 401 (the receiver does not accept the signature" in findings[0].says
    assert {finding.result for finding in findings[1:]} == {Found.NOT_TRIED}
    assert findings[0].remedy == checks(1)[0].remedy


def misreading(
    key: bytes, body: Callable[[bytes], bytes] = bytes, *, alone: bool = False, written: Any = base64.b64encode
) -> Take:
    """Verify by a key, a body or an encoding that are not the contract's."""

    def take(request: Received) -> int:
        before = b"" if alone else "{webhook-id}.{webhook-timestamp}.".format_map(request.headers).encode()
        expected = b"v1," + written(hmac.digest(key, before + body(request.body), hashlib.sha256))
        return 204 if request.headers["webhook-signature"].encode() == expected else 401

    return take


KEY = base64.b64decode(SECRET.removeprefix("whsec_"))
MISREADINGS = {
    "It takes the whole secret as text for its key": misreading(SECRET.encode()),
    "It takes the secret as text, without its prefix": misreading(SECRET.removeprefix("whsec_").encode()),
    "It verifies the body alone; the contract signs '{id}.{timestamp}.{body}'": misreading(KEY, alone=True),
    "It expects a signature in hex; the contract writes base64": misreading(
        KEY, written=lambda raw: raw.hex().encode()
    ),
    "It verifies JSON that it has parsed and written anew (with blanks": misreading(
        KEY, lambda body: json.dumps(json.loads(body)).encode()
    ),
}


@pytest.mark.parametrize("says", MISREADINGS)
async def test_a_misreading_of_the_contract_is_named(says: str) -> None:
    """A receiver that refuses what is right is sent what would be right to one that misreads secret, content or body."""
    async with at(MISREADINGS[says]) as url:
        findings = await found(url)

    assert findings[0].result is Found.FAULT
    assert findings[0].remedy.startswith(says)


async def test_a_receiver_that_never_answers_is_named() -> None:
    """An answer after the sender's patience is none."""
    never = asyncio.Event()

    async def hold(_: Received) -> int:
        await never.wait()
        return 204

    async with Receiver(default=hold) as receiver:
        findings = await found(receiver.url, limit_ms=50)
        never.set()

    assert findings[0].says == "no answer came in time; it must be accepted"


@pytest.mark.parametrize(("took_ms", "result"), [(400.0, Found.FINE), (501.0, Found.REMARK)])
def test_a_late_answer_is_a_remark(took_ms: float, result: Found) -> None:
    """Beyond half of the time that it has, a receiver is told to answer first and work afterwards."""
    assert judge(checks(1)[0], Answer(204, took_ms), 1000).result is result


@pytest.mark.parametrize(
    ("status", "result"),
    [
        (200, Found.FAULT),
        (302, Found.FINE),
        (401, Found.FINE),
        (410, Found.REMARK),
        (503, Found.REMARK),
        (None, Found.REMARK),
    ],
)
def test_refusals(status: int | None, result: Found) -> None:
    """Anything but a 2xx refuses; what looks like an outage or a goodbye is a remark."""
    (unsigned,) = (check for check in checks(1) if check.name == "unsigned")
    assert unsigned.must is Must.REFUSE
    assert judge(unsigned, Answer(status, 1.0, "the connection ended before an answer"), 1000).result is result


# -- other contracts ---------------------------------------------------------------------------------------------------


async def test_what_a_contract_does_not_have_is_not_applicable() -> None:
    """Nothing is signed under `wochit`, no time under `editframe`: those checks say so and find nothing."""
    async with at(trusting) as url:
        unsigned = await found(url, made=built_in("wochit"))
        timeless = await found(url, made=built_in("editframe"), secret=TEXT_SECRET)

    absent = {"rotation", "unsigned", "wrong_secret", "changed_body", "old_timestamp"}
    assert of(Found.NOT_APPLICABLE, unsigned) == absent
    assert of(Found.NOT_APPLICABLE, timeless) == {"rotation", "old_timestamp"}
    assert {finding.says for finding in unsigned if finding.check == "unsigned"} == {
        "the contract signs nothing: let only the addresses that deliveries come from reach the receiver"
    }


async def test_a_secret_in_a_header_proves_no_body() -> None:
    """A contract that shows its secret is checked for a wrong one, and for nothing that it does not sign."""
    made = contract('[headers]\nX-Token = "{secret}"\n')
    async with at(lambda request: 204 if request.headers.get("X-Token") == "s3cret" else 401) as url:
        findings = await found_of(made, url, "s3cret")

    assert of(Found.NOT_APPLICABLE, findings) >= {"changed_body", "old_timestamp"}
    assert of(Found.FAULT, findings) == set()


async def found_of(made: Contract, url: str, secret: str) -> list[Finding]:
    """Run every check of a contract without listed types."""
    specimen = Specimen(
        made,
        (Secret(secret),),
        url,
        "ep_1",
        "a.b",
        b'{"n":"1"}',
        "evt_0",
        iter(map("evt_{}".format, range(1, 99))).__next__,
        Secret("other"),
    )
    return await checking.run(specimen, checks(1 << 10), 20_000, SystemClock().wall_ms, lambda _: None, asyncio.sleep)


async def test_svix_own_library_is_right() -> None:
    """Roughy's receiver, the official library of Svix, has no fault but that it takes the documented types only."""
    async with Receiver(default=documented.roughy(SVIX_SECRET)) as receiver:
        findings = await found(receiver.url, made=built_in("roughy"), secret=SVIX_SECRET)

    assert of(Found.FAULT, findings) <= {"unknown_type", "large"}
    assert of(Found.REMARK, findings) == set()


@needs_node
async def test_the_documented_receiver_of_videoaiditor() -> None:
    """Its printed code refuses what it must; where the header is missing it throws, which is a remark."""
    with NodeReceivers(videoaiditor=TEXT_SECRET, editframe=TEXT_SECRET) as node:
        findings = await found(node.url("videoaiditor"), made=built_in("videoaiditor"), secret=TEXT_SECRET)

    assert of(Found.FAULT, findings) == set()
    assert of(Found.REMARK, findings) == {"unsigned"}


@pytest.mark.parametrize("name", ["standard", "rotor", "roughy", "videoaiditor", "wochit", "editframe"])
def test_large_data_are_lawful(name: str) -> None:
    """A large event passes the schema of its type, or there is none and the check says so."""
    made = built_in(name)
    for type, listed in made.types.items():
        specimen = Specimen(made, (), "http://127.0.0.1/", "ep_1", type, listed.example, "evt_0", lambda: "evt_1")
        data = specimen.large_data(10_000)
        assert data is not None or type != made.test_event(None)[0], type
        if data is not None:
            assert len(specimen.delivery(0, secrets=(), data=data).body) >= 10_000


def test_each_text_is_changed_in_turn() -> None:
    """One text at a time, wherever it stands; numbers, names and empty texts stay."""
    value = {"a": "x", "b": ["y", 1, ""], "c": {"d": "z"}}

    assert list(changed_texts(value, str.upper)) == [
        {"a": "X", "b": ["y", 1, ""], "c": {"d": "z"}},
        {"a": "x", "b": ["Y", 1, ""], "c": {"d": "z"}},
        {"a": "x", "b": ["y", 1, ""], "c": {"d": "Z"}},
    ]


# -- the command -------------------------------------------------------------------------------------------------------


def run(*words: str) -> Result:
    return CliRunner().invoke(main, ["check-receiver", *words], catch_exceptions=False)


async def test_a_right_receiver_is_exit_0() -> None:
    """Each check is a line with status and time; the slow one takes two seconds and is left out here."""
    async with at(right) as url:
        result = await asyncio.to_thread(run, url, "--secret", SECRET, "--skip", "slow")

    assert result.exit_code == Exit.FINE, result.output
    assert [line.split()[:3] for line in result.stdout.splitlines()][:2] == [
        ["ok", "right", "204"],
        ["ok", "repeated_id", "204"],
    ]
    assert "No fault was found." in result.stderr


async def test_faults_are_exit_1_and_json() -> None:
    """Machines read every finding with its remedy; what was not sent has no status."""
    async with at(timeless) as url:
        words = [url, "--secret", SECRET, "--skip", "slow", "--skip", "large", "--json"]
        result = await asyncio.to_thread(run, *words)

    shown = json.loads(result.stdout)
    assert result.exit_code == Exit.FAILED
    assert (shown["faults"], shown["contract"], shown["type"]) == (1, "standard", "webhook.test")
    (fault,) = [finding for finding in shown["findings"] if finding["result"] == "fault"]
    assert (fault["check"], fault["must"], fault["status"]) == ("old_timestamp", "refuse", 204)
    assert "five minutes" in fault["remedy"]


async def test_nobody_there_is_exit_69() -> None:
    """Where nothing listens, the reason stands in the line."""
    async with at(right) as url:
        pass
    result = await asyncio.to_thread(run, url, "--secret", SECRET)

    assert result.exit_code == Exit.UNREACHABLE
    assert "no connection: Connection refused" in result.stdout


def test_link_local_addresses_stay_closed() -> None:
    """Nothing is sent to where clouds keep their credentials."""
    result = run("http://169.254.169.254/latest", "--secret", SECRET)

    assert result.exit_code == Exit.UNREACHABLE
    assert "not sent: the address is not a public address (link-local)" in result.stdout


async def test_an_event_of_ones_own(tmp_path: Path) -> None:
    """`--type` and `--data` say what is sent; what the contract refuses is not."""
    (tmp_path / "data").write_text('{"n": 30.0}')
    async with Receiver(default=right) as receiver:
        words = ["--secret", SECRET, "--type", "a.b", "--data", str(tmp_path / "data"), "--skip", "slow"]
        result = await asyncio.to_thread(run, receiver.url, *words)

    assert result.exit_code == Exit.FINE, result.output
    assert b'"data":{"n": 30.0}' in receiver.received[0].body


@pytest.mark.parametrize(
    ("words", "code", "says"),
    [
        (["http://127.0.0.1:1/"], Exit.USAGE, "Give --secret, one that the receiver knows"),
        (["ftp://example.com/", "--secret", SECRET], Exit.BAD_INPUT, "The URL cannot be posted to"),
        (["http://127.0.0.1:1/", "--secret", "whsec_!"], Exit.BAD_INPUT, "secret 1 is not base64"),
        (["http://127.0.0.1:1/", "--secret", SECRET, "--skip", "right"], Exit.USAGE, "the checks that can be left out"),
        (["http://127.0.0.1:1/", "--secret", SECRET, "--large", "1GiB"], Exit.BAD_INPUT, "at most 16MiB"),
        (["http://127.0.0.1:1/", "--secret", SECRET, "--large", "x"], Exit.BAD_INPUT, "--large 'x'"),
        (["http://127.0.0.1:1/", "--secret", SECRET, "--type", "a.b"], Exit.BAD_INPUT, "There is no example of 'a.b'"),
        (["http://127.0.0.1:1/", "--contract", "rotor", "--secret", "x"], Exit.USAGE, "signs nothing"),
    ],
)
def test_wrong_use_is_explained(words: list[str], code: int, says: str) -> None:
    """What cannot be sent is refused before anything is, with what to write instead."""
    result = run(*words)

    assert (result.exit_code, says in result.output) == (code, True), result.output
