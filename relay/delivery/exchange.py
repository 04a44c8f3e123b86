"""One connection to a receiver: a request out, the head of an answer back, as much of its body as is worth reading.

The parser is httptools, strict. It is given a head when that is whole, for of an unfinished one it would keep a copy of its
own. What it refuses in a head is read again by `read_odd_head`, and such a connection is not used again. What it refuses in
a body ends the body: the answer stands.
"""

import asyncio
import math
import socket
from collections.abc import Callable
from typing import Protocol

import httptools

from relay.core.tls import Certificate, peer_certificate
from relay.delivery.answer import (
    FIELDS_MAX,
    HEAD_BYTES,
    READ_BYTES,
    Answer,
    Bytes,
    Field,
    NotHTTP,
    announced_length,
    check_begun,
    end_of_head,
    is_interim,
    read_odd_head,
)

LINGER_S = 1.0
"""How long the rest of a body is read."""
LARGE_BYTES = 64 * 1024
"""A receiver that refuses a request beyond this may not have read it: what follows on its connection would be lost."""
INTERIM_MAX = 32
"""How many interim answers (100, 103) come before an answer at most."""


class Dropped(Exception):
    """The connection ended before the head of an answer was complete; the cause says how, where it is known."""

    def __init__(self, *, begun: bool, unproven: bool = False) -> None:
        super().__init__()
        self.begun = begun  # a byte of the answer had come
        self.unproven = unproven  # over TLS 1.3, whose handshake is over before the receiver has judged who calls


class Late(Exception):
    """No head of an answer was complete by the deadline."""


class Keeper(Protocol):
    """Who is told what becomes of a connection."""

    def keep(self, connection: "Connection") -> None:
        """Its exchange has ended, and it can carry another."""

    def linger(self, connection: "Connection") -> None:
        """Nobody waits for it, but the rest of a body is still read."""

    def forget(self, connection: "Connection") -> None:
        """It has ended."""


class Connection(asyncio.Protocol):
    """Carries one exchange at a time. Everything here runs in the event loop's thread."""

    def __init__(
        self, loop: asyncio.AbstractEventLoop, keeper: Keeper, mono_ms: Callable[[], float], address: str
    ) -> None:
        self.address = address
        self.tls_version = ""  # such as "TLSv1.3"; empty without TLS
        self.certificate: Certificate | None = None  # the receiver's
        self.begun_ms: float | None = None  # when the first byte of the present answer came
        self.opened_at = loop.time()
        self.kept_at = 0.0
        self.is_closed = False
        self._loop = loop
        self._keeper = keeper
        self._mono_ms = mono_ms
        self._parser = httptools.HttpResponseParser(self)
        self._transport: asyncio.Transport
        self._answer: Answer | None = None  # what is being read
        self._head: asyncio.Future[None]  # done when its head is complete
        self._fields: list[Field] = []
        self._raw = bytearray()  # a head that is not complete
        self._odd = False  # the parser refused the head
        self._interim = 0
        self._reusable = False
        self._is_large = False  # the request
        self._deadline = math.inf  # of what is awaited
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = math.inf

    async def post(self, request: bytes, deadline: float, *, excerpt: bool) -> Answer:
        """Send a request and return its answer when the head is complete; with `excerpt` when its body has been read.

        `Late` at the deadline (in the loop's time), `Dropped` and `NotHTTP` when no answer comes; any other exception is
        a mistake of our own. The connection has ended then, and likewise when this is cancelled.
        """
        if self.is_closed:
            raise Dropped(begun=False)
        self._answer = answer = Answer()
        self.begun_ms = None
        self._head = self._loop.create_future()
        self._await_until(deadline)
        try:
            self._send(request)
            await self._head
            if not answer.ended and (excerpt or not answer.is_success):
                answer.rest = self._loop.create_future()
                await answer.rest
        except BaseException:  # cancelled, or a mistake of ours; named troubles have ended the exchange already
            if self._answer is answer:
                self._head.cancel()
                self.abort()
            raise
        return answer

    def abort(self) -> None:
        """End the connection at once."""
        self.is_closed = True
        self._transport.abort()

    def _send(self, request: bytes) -> None:
        self._is_large = len(request) > LARGE_BYTES
        self._transport.write(request)

    # -- what asyncio calls ----------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport  # type: ignore[assignment]  # uvloop's transports are of no asyncio class
        session = transport.get_extra_info("ssl_object")
        if session is not None:
            self.tls_version, self.certificate = session.version(), peer_certificate(session)

    def data_received(self, data: bytes) -> None:
        answer = self._answer
        if answer is None:  # nobody asked
            self.abort()
            return
        try:
            self._receive(answer, data)
        except NotHTTP as error:
            self._fail(error)
        except Exception as error:
            self._give_up(answer, error)

    def eof_received(self) -> None:
        self.is_closed = True  # asyncio closes it when this returns
        if self._raw.endswith(b"\n"):  # whole lines are a head, too, when nothing more comes
            self.data_received(b"\r\n")

    def connection_lost(self, error: Exception | None) -> None:
        self.is_closed = True
        answer = self._answer
        if answer is not None and answer.status:
            self._end(answer)
        elif answer is not None:
            unproven = self.tls_version == "TLSv1.3" and not self.kept_at and self.begun_ms is None
            dropped = Dropped(begun=self.begun_ms is not None, unproven=unproven)
            dropped.__cause__ = error
            self._fail(dropped)
        del self._parser  # it holds this object
        self._stop_timer()
        self._keeper.forget(self)

    # -- what the parser calls -------------------------------------------------------------------------------------

    def on_message_begin(self) -> None:
        if self._answer is None or self._answer.ended:  # a second answer
            self._reusable = False

    def on_header(self, name: bytes, value: bytes) -> None:
        self._fields.append((name, value))

    def on_headers_complete(self) -> None:
        answer, status = self._answer, self._parser.get_status_code()
        fields, self._fields = self._fields, []
        if answer is None or answer.status:
            return
        if status < 200 and is_interim(status):
            self._interim += 1
        else:
            answer.status, answer.fields = status, fields
            if len(fields) > FIELDS_MAX:
                del fields[FIELDS_MAX:]

    def on_body(self, data: bytes) -> None:
        if self._answer is not None and not self._answer.ended:
            self._answer.add(data)

    def on_message_complete(self) -> None:
        answer = self._answer
        if answer is not None and answer.status and not answer.ended:
            answer.ended = True
            self._reusable = self._parser.should_keep_alive()

    # -- reading ---------------------------------------------------------------------------------------------------

    def _receive(self, answer: Answer, data: Bytes) -> None:
        if self.begun_ms is None:
            self.begun_ms = self._mono_ms()
        if answer.status:
            self._read_body(answer, data)
        elif self._raw or self._odd or len(data) > HEAD_BYTES:
            self._read_heads(answer, data)
        else:  # what usually comes is a sound head that is whole
            interim = self._interim
            self._parse(answer, data)
            if not answer.status:
                self._forget_parsed(interim)
                self._read_heads(answer, data)
        self._advance(answer)

    def _forget_parsed(self, interim: int) -> None:
        self._parser = httptools.HttpResponseParser(self)
        self._fields, self._odd, self._interim = [], False, interim

    def _read_heads(self, answer: Answer, data: Bytes) -> None:
        """Read every head that is whole, up to that of the answer, and what follows that one."""
        known = len(self._raw)
        if known:
            self._raw += data
            data = self._raw
        while end := end_of_head(data, known):
            if end > HEAD_BYTES or self._interim > INTERIM_MAX:
                raise NotHTTP
            self._read_head(answer, data[:end])
            data, known = data[end:], 0
            if answer.status:
                self._raw = bytearray()
                if data or self._odd:
                    self._read_body(answer, data)
                return
        self._keep_unfinished(data, known)

    def _read_head(self, answer: Answer, head: Bytes) -> None:
        interim = self._interim
        if not self._odd:
            self._parse(answer, head)
            self._odd = not answer.status and self._interim == interim
        if self._odd:
            self._read_odd(answer, head)

    def _read_odd(self, answer: Answer, head: Bytes) -> None:
        read = read_odd_head(head)
        if read is None or is_interim(read.status):
            self._interim += 1
        else:
            answer.status, answer.fields = read.status, read.fields

    def _keep_unfinished(self, data: Bytes, known: int) -> None:
        """Keep a head that is not whole, if it can still become one."""
        if len(data) > HEAD_BYTES:
            raise NotHTTP
        if known < len(b"HTTP/") or data.find(b"\n", known) >= 0:
            check_begun(data)
        if data is not self._raw:
            self._raw = bytearray(data)

    def _read_body(self, answer: Answer, data: Bytes) -> None:
        answer.framed_size += len(data)
        if self._odd:
            self._add_odd(answer, data)
        else:
            self._parse(answer, data)

    def _parse(self, answer: Answer, data: Bytes) -> None:
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserCallbackError as error:  # a mistake of our own, in what the parser calls
            raise error.__context__ or error from None
        except (httptools.HttpParserError, httptools.HttpParserUpgrade):
            self._reusable = False
            self._odd = not answer.status
            answer.ended = not self._odd

    def _add_odd(self, answer: Answer, data: Bytes) -> None:
        length = announced_length(answer.fields)
        answer.add(data[: max(0, length - answer.size)])
        answer.ended = answer.size >= length

    def _advance(self, answer: Answer) -> None:
        """Do what the state of the answer asks for, after something came."""
        if not answer.status or self._answer is None:
            return
        if answer.ended or answer.is_enough:
            self._end(answer)
        if not self._head.done():
            self._head.set_result(None)
            if not answer.ended:
                self._linger()

    def _linger(self) -> None:
        """Read the rest of the body for a while, whether anybody waits for it or not; few do so at once, so faster."""
        sock = self._transport.get_extra_info("socket")
        if sock is not None:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, READ_BYTES)
        self._await_until(min(self._loop.time() + LINGER_S, self._deadline))
        self._keeper.linger(self)

    def _await_until(self, deadline: float) -> None:
        """Set the deadline. The timer goes on from one exchange to the next, and is set anew only if it would be late."""
        self._deadline = deadline
        if deadline < self._timer_at:
            self._stop_timer()
            self._timer_at, self._timer = deadline, self._loop.call_at(deadline, self._on_timer)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer_at, self._timer = math.inf, None

    def _on_timer(self) -> None:
        self._stop_timer()
        answer = self._answer
        if answer is None:
            return
        if self._loop.time() < self._deadline:
            self._await_until(self._deadline)
        elif answer.status:
            self._end(answer)
        else:
            self._fail(Late())

    def _end(self, answer: Answer) -> None:
        """Leave the answer as it is, and keep the connection if nothing speaks against it."""
        if not answer.ended:
            answer.ended, self._reusable = True, False
        self._answer = None
        if self._reusable and not self.is_closed and (answer.is_success or not self._is_large):
            self._interim = 0
            self._keeper.keep(self)
        elif not self.is_closed:
            self.abort()
        if answer.rest is not None and not answer.rest.done():
            answer.rest.set_result(None)

    def _fail(self, error: Exception) -> None:
        self._answer = None
        if not self._head.done():
            self._head.set_exception(error)
        if not self.is_closed:
            self.abort()

    def _give_up(self, answer: Answer, mistake: Exception) -> None:
        """End the connection for a mistake of our own, which whoever waits for the answer raises; else the loop logs it."""
        waiting = self._head if not self._head.done() else answer.rest
        self._answer = None
        self.abort()
        if waiting is None or waiting.done():
            answer.ended = True
            raise mistake
        waiting.set_exception(mistake)
