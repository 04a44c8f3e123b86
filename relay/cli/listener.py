"""A receiver on this machine: it verifies what comes, prints a line for each delivery, and fails as it is asked to."""

import asyncio
import contextlib
import errno
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from io import BytesIO
from typing import NamedTuple

import aiohttp
from aiohttp import web
from yarl import URL

from relay.cli.output import Exit, Json, counted, echo, say
from relay.cli.shell import client, interruption, why_no_answer
from relay.contracts import Contract
from relay.core.clock import Clock
from relay.core.errors import Busy, CannotStart, NotPermitted, RelayError
from relay.core.model import Secret
from relay.core.netguard import ForbiddenAddress
from relay.core.terminal import one_line
from relay.core.units import format_time
from relay.core.verification import ALLOWED_ORIGIN_HEADER, ALLOWED_RATE_HEADER, ANY, ORIGIN_HEADER
from relay.diagnosis.facts import Facts, facts_of
from relay.diagnosis.verify import Verdict, Verification, verify

BODY_BYTES_MAX = 16 * 1024 * 1024
"""The largest delivery that is taken; a larger one is answered 413."""

SLOW_BYTES = 60
"""How many bytes a slow answer has, one a second."""

FORWARD_TIMEOUT_S = 30.0
"""How long whoever a delivery is forwarded to may take."""

_NOT_FORWARDED = frozenset({"host", "content-length", "connection", "keep-alive", "transfer-encoding", "expect"})
_ANSWERED = ("Content-Type", "Retry-After", "webhook-delivery")
"""Headers of a forwarded delivery's answer that mean something to its sender."""

Pause = Callable[[float], Awaitable[None]]


class Faults(NamedTuple):
    """How right deliveries fail, and how many of a hundred do, spread evenly."""

    status: int | None = None
    drop: bool = False
    slow_body: bool = False
    delay_s: float = 0.0
    rate: int = 100

    def hit(self, number: int) -> bool:
        """Whether they act on the right delivery of this number, from 1."""
        return number * self.rate // 100 > (number - 1) * self.rate // 100


@dataclass(frozen=True, slots=True)
class Checking:
    """What deliveries are checked by. Without a `url` the contract's own is the one that was asked for."""

    contract: Contract
    secrets: tuple[Secret, ...] = field(repr=False)
    tolerance_ms: int
    url: str = ""
    endpoint: str = ""

    def verify(self, headers: Mapping[str, str], body: bytes, now_ms: int, url: str) -> Verification:
        """Check one delivery; one of a contract that signs nothing is right."""
        if not self.contract.signs:
            return Verification(Verdict.VERIFIED, "This contract signs nothing.")
        arguments = (self.contract, self.secrets, headers, body, now_ms, self.tolerance_ms)
        return verify(*arguments, url=self.url or url, endpoint_id=self.endpoint)


class Delivery(NamedTuple):
    """One delivery, and what became of it."""

    at_ms: int
    facts: Facts
    repeated: bool  # an event of this id was accepted before
    found: Verification
    body: bytes
    status: int | None  # None: the connection was dropped
    note: str = ""

    @property
    def accepted(self) -> bool:
        return self.found.ok and self.status is not None and self.status < 300


class Reply(NamedTuple):
    """What a delivery is answered with; without a status its connection is dropped."""

    status: int | None
    headers: Mapping[str, str] = {}
    body: bytes = b""
    slow: bool = False
    note: str = ""


class Tally:
    """What came so far. Owner of the counts; `enough` is set when as many events as expected were accepted."""

    def __init__(self, expect: int | None) -> None:
        self.enough = asyncio.Event()
        self.right = 0  # deliveries with a right signature
        self.accepted = 0  # of those, answered 2xx and no repeat
        self.wrong = 0
        self._expect = expect
        self._ids: set[str] = set()

    def begin(self) -> int:
        """Count a right delivery; return its number."""
        self.right += 1
        return self.right

    def is_repeat(self, event_id: str | None) -> bool:
        """Whether an event of this id was accepted."""
        return event_id in self._ids

    def end(self, delivery: Delivery) -> None:
        """Count what became of a delivery."""
        self.wrong += not delivery.found.ok
        if delivery.accepted and not delivery.repeated:
            self.accepted += 1
            self._ids |= {delivery.facts.id} if delivery.facts.id else set()
            if self.accepted == self._expect:
                self.enough.set()


class Listener:
    """Listens, checks and answers. `show` is called with each delivery after its answer was sent, `note` with what is none."""

    def __init__(
        self,
        checking: Checking,
        faults: Faults,
        tally: Tally,
        show: Callable[[Delivery], None],
        *,
        clock: Clock,
        forward_to: str | None = None,
        pause: Pause = asyncio.sleep,
        note: Callable[[str], None] = say,
    ) -> None:
        self._checking = checking
        self._faults = faults
        self._tally = tally
        self._show = show
        self._clock = clock
        self._forward_to = forward_to
        self._pause = pause
        self._note = note
        self._http: aiohttp.ClientSession | None = None

    @contextlib.asynccontextmanager
    async def listening(self, host: str, port: int) -> AsyncIterator[int]:
        """Listen until the context ends; gives the port. Busy, NotPermitted or CannotStart when that cannot be."""
        server = web.Server(self._handle, auto_decompress=False, access_log=None)
        runner = web.ServerRunner(server, handle_signals=False, shutdown_timeout=1)
        async with client(FORWARD_TIMEOUT_S) as self._http:
            await runner.setup()
            try:
                await _bind(runner, host, port)
                yield runner.addresses[0][1]
            finally:
                await runner.cleanup()

    async def _handle(self, request: web.BaseRequest) -> web.StreamResponse:
        if ORIGIN_HEADER in request.headers and request.method == "OPTIONS":
            return self._allow(request.headers)
        if request.method != "POST":
            return web.Response(status=405, headers={"Allow": "POST"}, text="Deliveries are POSTed.\n")
        body = await _read(request)
        if body is None:
            return web.Response(status=413, text=f"More than {BODY_BYTES_MAX} bytes.\n")
        at_ms, url = self._clock.wall_ms(), f"{request.scheme}://{request.host}{request.raw_path}"
        found = self._checking.verify(request.headers, body, at_ms, url)
        if found.ok and (answer := self._agree(body)) is not None:
            reply = answer if self._forward_to is None else await self._forward(self._forward_to, request, body)
            return await self._send(request, reply)
        facts = facts_of(self._checking.contract, request.headers, body)
        repeated = self._tally.is_repeat(facts.id)
        reply = await self._reply(request, body, found)
        try:
            return await self._send(request, reply)
        finally:
            delivery = Delivery(at_ms, facts, repeated, found, body, reply.status, reply.note)
            self._show(delivery)
            self._tally.end(delivery)

    def _allow(self, headers: Mapping[str, str]) -> web.Response:
        """Answer CloudEvents' handshake: whoever asks may send, as often as it likes."""
        origin = headers[ORIGIN_HEADER]
        self._note(one_line(f"Asked whether {origin} may send events, by OPTIONS."))
        return web.Response(headers={"Allow": "POST", ALLOWED_ORIGIN_HEADER: origin, ALLOWED_RATE_HEADER: ANY})

    def _agree(self, body: bytes) -> Reply | None:
        """Answer a challenge or a ping of the contract; None for a delivery."""
        asks = self._checking.contract.verification
        challenge = asks.challenge_in(body)
        if challenge is None and not asks.is_ping(body):
            return None
        self._note(f"Asked whether it wants events, by a {'ping' if challenge is None else 'challenge'}.")
        return Reply(204) if challenge is None else Reply(200, {"Content-Type": "text/plain"}, challenge.encode())

    async def _reply(self, request: web.BaseRequest, body: bytes, found: Verification) -> Reply:
        if not found.ok:
            return Reply(401, body=f"{found.verdict}: {found.reason}\n".encode())
        faults = self._faults
        if faults.hit(self._tally.begin()):
            if faults.delay_s:
                await self._pause(faults.delay_s)
            if faults.drop:
                return Reply(None, note="dropped")
            if faults.slow_body:
                return Reply(faults.status or 200, slow=True, note="slow body")
            if faults.status:
                return Reply(faults.status)
        return Reply(204) if self._forward_to is None else await self._forward(self._forward_to, request, body)

    async def _send(self, request: web.BaseRequest, reply: Reply) -> web.StreamResponse:
        if reply.status is None:
            assert request.transport is not None
            request.transport.abort()
            return web.Response()
        if reply.slow:
            return await self._drip(request, reply.status)
        response = web.Response(status=reply.status, headers=reply.headers, body=reply.body or None)
        await response.prepare(request)
        await response.write_eof()
        return response

    async def _drip(self, request: web.BaseRequest, status: int) -> web.StreamResponse:
        """Send the head of an answer at once, and its body slowly."""
        slow = web.StreamResponse(status=status, headers={"Content-Length": str(SLOW_BYTES)})
        await slow.prepare(request)
        for _ in range(SLOW_BYTES):
            await slow.write(b".")
            await self._pause(1.0)
        await slow.write_eof()
        return slow

    async def _forward(self, to: str, request: web.BaseRequest, body: bytes) -> Reply:
        """Pass a right delivery on, byte for byte; its answer is the one that the sender gets."""
        assert self._http is not None
        headers = [(name, value) for name, value in request.headers.items() if name.lower() not in _NOT_FORWARDED]
        try:
            async with self._http.post(
                URL(to, encoded=True), data=BytesIO(body), headers=headers, allow_redirects=False
            ) as answer:
                kept = {name: answer.headers[name] for name in _ANSWERED if name in answer.headers}
                return Reply(answer.status, kept, await answer.read(), note="forwarded")
        except (aiohttp.ClientError, OSError, ForbiddenAddress) as error:
            said = f"{to}: {why_no_answer(error)}"
            return Reply(502, body=said.encode(), note=said)


async def _bind(runner: web.ServerRunner, host: str, port: int) -> None:
    try:
        await web.TCPSite(runner, host, port).start()
    except OSError as error:
        raise _cannot_listen(f"Cannot listen on {host}:{port}: {error.strerror or error}.", error.errno) from None


def _cannot_listen(said: str, number: int | None) -> RelayError:
    if number == errno.EACCES:
        return NotPermitted(said, remedy="Choose a port from 1024 on.")
    if number == errno.EADDRINUSE:
        return Busy(said, remedy="Choose another port with --listen; with port 0 a free one is taken.")
    return CannotStart(said, remedy="Choose an address of this host, such as --listen 127.0.0.1:8421.")


async def _read(request: web.BaseRequest) -> bytes | None:
    """Return the body as it was sent; None for one that is too large."""
    body = bytearray()
    async for piece in request.content.iter_any():
        body += piece
        if len(body) > BODY_BYTES_MAX:
            return None
    return bytes(body)


# -- what a person sees ------------------------------------------------------------------------------------------------


class Watch(NamedTuple):
    """What is shown, and when it ends: after `expect` events, or `timeout_s` without them; None: with Ctrl-C."""

    as_json: bool
    with_body: bool
    expect: int | None = None
    timeout_s: float | None = None


async def run(
    checking: Checking, faults: Faults, watch: Watch, place: tuple[str, int], clock: Clock, forward_to: str | None
) -> int:
    """Listen at a host and port until the watch is over; the exit code: 0 if all came and nothing was wrong."""
    tally = Tally(watch.expect)
    listener = Listener(checking, faults, tally, partial(_show, watch), clock=clock, forward_to=forward_to)
    async with listener.listening(*place) as port:
        shown = f"[{place[0]}]" if ":" in place[0] else place[0]
        say(f"Listening on http://{shown}:{port}/ for deliveries of the contract {checking.contract.name!r}.")
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(watch.timeout_s):
                await _over(tally)
    return _judge(tally, watch)


async def _over(tally: Tally) -> None:
    """Return when enough has come, or somebody ends it."""
    ends = [asyncio.create_task(tally.enough.wait()), asyncio.create_task(interruption())]
    try:
        await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for end in ends:
            end.cancel()


def _judge(tally: Tally, watch: Watch) -> int:
    came, wrong = counted(tally.accepted, "event"), counted(tally.wrong, "delivery")
    say(f"Accepted {came}; refused {wrong} whose signature is wrong.")
    if watch.expect is None:
        return Exit.FINE
    if tally.accepted < watch.expect:
        say(f"Expected {watch.expect}. Look at the sender: what does it say of its deliveries to this address?")
        return Exit.FAILED
    return Exit.FAILED if tally.wrong else Exit.FINE


def _show(watch: Watch, delivery: Delivery) -> None:
    echo(json.dumps(_as_json(delivery, watch), ensure_ascii=False) if watch.as_json else _as_line(delivery))
    if watch.with_body and not watch.as_json:
        echo(delivery.body.decode("utf-8", "replace"))


def _as_line(delivery: Delivery) -> str:
    facts, found = delivery.facts, delivery.found
    said = [
        f"attempt {facts.attempt}" if facts.attempt else "",
        "repeat" if delivery.repeated else "",
        delivery.note,
        "" if found.ok else f"{found.verdict}: {found.reason}",
    ]
    cells = [
        format_time(delivery.at_ms)[11:],
        str(delivery.status or "–  "),
        facts.type or "–",
        facts.id or "–",
        ", ".join(filter(None, said)),
    ]
    return one_line("  ".join(filter(None, cells)))


def _as_json(delivery: Delivery, watch: Watch) -> Json:
    shown = {
        "received_at": format_time(delivery.at_ms),
        "status": delivery.status,
        **delivery.facts._asdict(),
        "repeated": delivery.repeated,
        "verified": delivery.found.ok,
        "verdict": delivery.found.verdict,
        "reason": delivery.found.reason,
        "note": delivery.note or None,
        "body_bytes": len(delivery.body),
    }
    return shown | ({"body": delivery.body.decode("utf-8", "replace")} if watch.with_body else {})
