"""`relay listen`: a receiver at a developer's desk that verifies, explains, and fails on request."""

import asyncio
import json
import re
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from aiohttp import ClientSession
from click.testing import CliRunner, Result

from relay.cli import listener, main
from relay.cli.listener import Checking, Delivery, Faults, Listener, Tally, Watch
from relay.cli.output import Exit
from relay.core.model import Secret
from tests.support.clock import FakeClock
from tests.support.contract_files import built_in, contract
from tests.support.daemon import SECRET
from tests.support.receiver import Answer, Receiver
from tests.support.signed import signed
from tests.support.stack import Stack

OTHER = "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD"
TEXT = "your-webhook-secret"


class Desk:
    """A listener on a free port, what it showed, and the pauses that it made."""

    def __init__(self, port: int, clock: FakeClock, tally: Tally, shown: list[Delivery], pauses: list[float]) -> None:
        self.url = f"http://127.0.0.1:{port}/hook"
        self.clock = clock
        self.tally = tally
        self.shown = shown
        self.pauses = pauses

    async def deliver(self, *secrets: str, name: str = "standard", **more: Any) -> tuple[int | None, str]:
        sent = signed(built_in(name), *(secrets or (SECRET,)), at_ms=self.clock.wall_ms(), url=self.url, **more)
        return await sent.post(self.url)


@asynccontextmanager
async def desk(
    *secrets: str,
    name: str = "standard",
    faults: Faults = Faults(),  # noqa: B008 - a value
    expect: int | None = None,
    forward_to: str | None = None,
) -> AsyncIterator[Desk]:
    clock, tally, shown, pauses = FakeClock(), Tally(expect), [], []

    async def pause(duration_s: float) -> None:
        pauses.append(duration_s)

    checking = Checking(built_in(name), tuple(map(Secret, secrets or (SECRET,))), 300_000)
    made = Listener(checking, faults, tally, shown.append, clock=clock, forward_to=forward_to, pause=pause)
    async with made.listening("127.0.0.1", 0) as port:
        yield Desk(port, clock, tally, shown, pauses)


# -- right and wrong ---------------------------------------------------------------------------------------------------


async def test_a_right_delivery_is_shown_and_answered_204() -> None:
    """Its id, its type and whether it is a repeat stand in its line."""
    async with desk() as here:
        assert (await here.deliver(id="evt_7"))[0] == 204
        assert (await here.deliver(id="evt_7"))[0] == 204

    first, second = here.shown
    assert (first.facts.id, first.facts.type, first.repeated) == ("evt_7", "render.completed", False)
    assert second.repeated
    assert (here.tally.accepted, here.tally.right, here.tally.wrong) == (1, 2, 0)


@pytest.mark.parametrize(
    ("secret", "wrong", "says"),
    [
        (SECRET, {"secret": OTHER}, "No given secret makes this signature: it is another endpoint's or an old one"),
        (SECRET, {"age_ms": 3_600_000}, "its timestamp is 1h old"),
        (SECRET, {"headers": {"webhook-signature": ""}}, "webhook-signature"),
    ],
)
async def test_a_wrong_signature_is_explained(secret: str, wrong: dict[str, Any], says: str) -> None:
    """A wrong one is answered 401, and the reason stands in the line and in the answer."""
    async with desk(secret) as here:
        at_ms = here.clock.wall_ms() - wrong.get("age_ms", 0)
        sent = signed(built_in("standard"), wrong.get("secret", secret), at_ms=at_ms)
        status, text = await sent._replace(headers=sent.headers | wrong.get("headers", {})).post(here.url)

    assert status == 401
    assert says in text
    assert says in here.shown[0].found.reason
    assert (here.tally.accepted, here.tally.wrong) == (0, 1)


@pytest.mark.parametrize("name", ["roughy", "videoaiditor", "editframe"])
async def test_every_signed_contract_is_verified(name: str) -> None:
    """Any contract: each of its types is taken with its secret and refused with another."""
    secret, other = (SECRET, OTHER) if name == "roughy" else (TEXT, "another")
    async with desk(secret, name=name) as here:
        for number, (type, listed) in enumerate(built_in(name).types.items()):
            sent = {"type": type, "data": listed.example, "id": f"evt_{number}"}
            assert (await here.deliver(secret, name=name, **sent))[0] == 204
            assert (await here.deliver(other, name=name, **sent))[0] == 401
        types = [delivery.facts.type for delivery in here.shown[::2]]

    assert types == list(built_in(name).types)


async def test_an_unsigned_contract_takes_everything() -> None:
    """Where nothing is signed nothing can be wrong; id and type are read from the body."""
    order = built_in("rotor").types["order.finalized"].example
    async with desk(name="rotor") as here:
        assert (await here.deliver("", name="rotor", type="order.finalized", data=order))[0] == 204

    facts = here.shown[0].facts
    assert facts.type == "order.finalized"
    assert re.fullmatch(r"[0-9a-f-]{36}", facts.id or "")


async def test_what_is_no_delivery_is_refused() -> None:
    """A GET is answered 405, a body beyond the limit 413; neither is shown as a delivery."""
    async with desk() as here, ClientSession() as http:
        async with http.get(here.url) as answer:
            assert (answer.status, answer.headers["Allow"]) == (405, "POST")
        async with http.post(here.url, data=BytesIO(bytes(listener.BODY_BYTES_MAX))) as answer:
            assert answer.status == 401
        async with http.post(here.url, data=BytesIO(bytes(listener.BODY_BYTES_MAX + 1))) as answer:
            assert answer.status == 413

    assert len(here.shown) == 1


# -- faults ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("rate", "hits"), [(100, 10), (30, 3), (50, 5), (1, 0)])
def test_a_rate_is_spread_evenly(rate: int, hits: int) -> None:
    """Of any hundred deliveries exactly `rate` fail, and of any ten about a tenth of that."""
    faults = Faults(503, rate=rate)

    assert sum(map(faults.hit, range(1, 11))) == hits
    assert sum(map(faults.hit, range(1, 101))) == rate


async def test_deliveries_fail_as_asked() -> None:
    """`--fail 503 --rate 50` answers every second right delivery with 503; a wrong one is still 401."""
    async with desk(faults=Faults(503, rate=50)) as here:
        statuses = [(await here.deliver(id=f"evt_{number}"))[0] for number in range(4)]
        wrong, _ = await here.deliver(OTHER)

    assert statuses == [204, 503, 204, 503]
    assert wrong == 401
    assert here.tally.accepted == 2


async def test_a_connection_is_dropped_and_an_answer_delayed() -> None:
    """`--drop` ends the connection without an answer, after `--delay`."""
    async with desk(faults=Faults(drop=True, delay_s=5.0)) as here:
        status, _ = await here.deliver()

    assert status is None
    assert here.pauses == [5.0]
    assert (here.shown[0].status, here.shown[0].note) == (None, "dropped")


async def test_a_slow_body_comes_byte_by_byte() -> None:
    """`--slow-body` answers at once and sends its body a byte a second: the head is the answer."""
    async with desk(faults=Faults(slow_body=True)) as here:
        status, text = await here.deliver()

    assert (status, len(text)) == (200, listener.SLOW_BYTES)
    assert here.pauses == [1.0] * listener.SLOW_BYTES


# -- forwarding --------------------------------------------------------------------------------------------------------


async def test_right_deliveries_are_forwarded_byte_for_byte() -> None:
    """The receiver behind it gets the same body and headers, and the sender its answer; wrong ones stay here."""
    async with (
        Receiver(default=Answer(429, {"Retry-After": "7"}, b"later")) as behind,
        desk(forward_to=behind.url + "?a=%2F") as here,
    ):
        answered = await here.deliver()
        assert (await here.deliver(OTHER))[0] == 401

    assert answered == (429, "later")
    (got,) = behind.received
    sent = signed(built_in("standard"), SECRET, at_ms=here.clock.wall_ms(), url=here.url)
    assert got.body == sent.body
    assert got.path == "/hook?a=%2F"
    assert {name: got.headers[name] for name in sent.headers} == sent.headers
    assert here.tally.accepted == 0


async def test_a_receiver_behind_that_is_not_there_is_named() -> None:
    """Where nothing listens the sender hears 502, and the line says what is wrong."""
    async with Receiver() as gone:
        pass
    async with desk(forward_to=gone.url) as here:
        status, text = await here.deliver()

    assert status == 502
    assert text == here.shown[0].note == f"{gone.url}: no connection: Connection refused"


async def test_link_local_addresses_stay_closed() -> None:
    """What clouds keep their credentials behind is not forwarded to."""
    async with desk(forward_to="http://169.254.169.254/latest") as here:
        assert (await here.deliver())[0] == 502

    assert "not sent: the address is not a public address (link-local)" in here.shown[0].note


# -- for CI ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("came", "wrong", "expect", "code"),
    [(3, 0, 3, Exit.FINE), (3, 1, 3, Exit.FAILED), (2, 0, 3, Exit.FAILED), (0, 5, None, Exit.FINE)],
)
def test_exit_codes(came: int, wrong: int, expect: int | None, code: int) -> None:
    """0: all came and nothing was wrong; 1: too few, or a wrong signature; without --expect Ctrl-C is no failure."""
    tally = Tally(expect)
    tally.accepted, tally.wrong = came, wrong

    assert listener._judge(tally, Watch(as_json=False, with_body=False, expect=expect)) == code


async def test_enough_is_counted_in_events() -> None:
    """A repeat of an accepted event, a failed attempt and a wrong signature are none of those that are expected."""
    async with desk(expect=2, faults=Faults(503, rate=50)) as here:
        for event_id in ("evt_1", "evt_2", "evt_1"):
            await here.deliver(id=event_id)
        await here.deliver(OTHER, id="evt_3")
        assert not here.tally.enough.is_set()
        await here.deliver(id="evt_4")  # fails: it is the fourth right one
        await here.deliver(id="evt_4")
        assert here.tally.enough.is_set()


def relay(*words: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "relay", *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


async def test_a_relay_delivers_to_it(tmp_path: Path) -> None:
    """The whole of it: `relay listen --expect 2 --json` takes two events of a running relay, and exits 0."""
    words = ["listen", "--listen", "127.0.0.1:0", "--secret", SECRET, "--expect", "2", "--timeout", "40s", "--json"]
    process = relay(*words)
    assert process.stderr is not None
    said = await asyncio.to_thread(process.stderr.readline)
    found = re.search(r"http://127\.0\.0\.1:(\d+)/", said)
    assert found is not None, said
    async with Stack(tmp_path, endpoints={"here": found[0]}) as stack:
        events = [(await stack.post())["id"] for _ in range(2)]
        out, err = await asyncio.to_thread(process.communicate)

    shown = [json.loads(line) for line in out.splitlines()]
    assert process.returncode == Exit.FINE, err
    assert {line["id"] for line in shown} == set(events)
    assert all(line["verified"] and line["status"] == 204 and line["type"] == "render.completed" for line in shown)
    assert "Accepted 2 events; refused 0 deliveries" in err


def run(*words: str) -> Result:
    return CliRunner().invoke(main, ["listen", "--listen", "127.0.0.1:0", *words], catch_exceptions=False)


def test_nothing_in_time_is_exit_1() -> None:
    """With --timeout and nothing coming it ends with 1, and says what was expected."""
    result = run("--expect", "1", "--timeout", "10ms")

    assert result.exit_code == Exit.FAILED
    assert "Expected 1." in result.stderr
    assert re.search(r"Secret: whsec_\S+ ", result.stderr)


@pytest.mark.parametrize(
    ("words", "code", "says"),
    [
        (["--drop", "--fail", "503"], Exit.USAGE, "A dropped connection has no answer"),
        (["--rate", "30"], Exit.USAGE, "--rate says how often something fails"),
        (["--timeout", "3s"], Exit.USAGE, "--timeout says how long to wait for --expect events"),
        (["--fail", "200"], Exit.USAGE, "--fail"),
        (["--delay", "5 parrots"], Exit.BAD_INPUT, "--delay '5 parrots'"),
        (["--listen", "8421"], Exit.USAGE, "Write HOST:PORT"),
        (["--secret", "whsec_!"], Exit.BAD_INPUT, "secret 1 is not base64"),
        (["--contract", "rotor", "--secret", "x"], Exit.USAGE, "signs nothing: leave --secret out"),
        (["--contract", "standart"], Exit.USAGE, "Did you mean standard?"),
        (["--contract", "gone.toml"], Exit.USAGE, "There is no contract file gone.toml"),
        (["--listen", "192.0.2.1:1"], Exit.CONFIGURATION, "Choose an address of this host"),
    ],
)
def test_wrong_use_is_explained(words: list[str], code: int, says: str) -> None:
    """Contradictions and unfit values end at once, with what to write instead."""
    result = run(*words)

    assert (result.exit_code, says in result.output) == (code, True), result.output


async def test_a_busy_port_is_exit_75() -> None:
    """Another listener has the port: it may be free later, and port 0 always is."""
    async with desk() as here:
        place = here.url.removeprefix("http://").removesuffix("/hook")
        result = await asyncio.to_thread(run, "--listen", place)

    assert result.exit_code == Exit.TEMPORARY
    assert "with port 0 a free one is taken" in result.stderr


def test_a_contract_of_ones_own_is_named_by_its_file(tmp_path: Path) -> None:
    """`--contract FILE.toml` needs no configuration; mistakes of the file are named, with 78."""
    path = tmp_path / "own.toml"
    path.write_text('description = "own"\n[body]\nmembers = [{ name = "data", value = "{data}" }]\n')
    right = run("--contract", str(path), "--expect", "1", "--timeout", "10ms")
    path.write_text('description = "own"\n[body]\nmembers = []\n')
    wrong = run("--contract", str(path))

    assert "deliveries of the contract 'own'" in right.stderr
    assert wrong.exit_code == Exit.CONFIGURATION
    assert f"{path}:3" in str(wrong.output)


async def test_a_public_key_is_enough_to_verify() -> None:
    """Where pairs of keys sign, a receiver has the public half alone: `--secret` takes it, and deliveries are verified."""
    private = built_in("standard").new_secret(bytes, like="whsk_")
    (public,) = built_in("standard").public_keys([Secret(private)])
    assert public is not None
    result = await asyncio.to_thread(run, "--secret", public, "--expect", "1", "--timeout", "10ms")
    async with desk(public) as here:
        assert (await here.deliver(private))[0] == 204
        assert (await here.deliver(built_in("standard").new_secret(lambda size: b"x" * size, like="whsk_")))[0] == 401

    assert (result.exit_code, "Expected 1." in result.stderr) == (Exit.FAILED, True), result.output


# -- what is shown -----------------------------------------------------------------------------------------------------


async def test_nothing_in_a_line_commands_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    """Bodies and headers are strangers' text: control characters are shown as escapes."""
    async with desk(name="rotor") as here:
        for type in ('"\\u001b[2J"', '"a\\nb"'):
            await signed(contract(""), at_ms=0)._replace(body=b'{"event":%s}' % type.encode()).post(here.url)
    for delivery in here.shown:
        listener._show(Watch(as_json=False, with_body=True), delivery)

    out = capsys.readouterr().out
    assert "\x1b" not in out
    assert "\\u001b[2J" in out
