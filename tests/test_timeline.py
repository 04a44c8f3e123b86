"""How an attempt went, as its outcome says: parts, connection, TLS, the immediate repeat. Real sockets, a clock of the test's."""

import socket
import ssl
from collections.abc import Sequence

import trustme

from relay.core.clock import Now, SystemClock
from relay.core.model import Failure, Trace
from relay.core.netguard import Networks
from relay.delivery.courier import Courier
from relay.delivery.dial import Place
from relay.delivery.trail import Stage, Trail
from tests.support import hostile
from tests.support.couriers import FixedNames, post, running_courier, trusting
from tests.support.hostile import Hostile
from tests.support.receiver import Receiver

BOTH_LOOPS = True
"""Every async test here runs under asyncio's loop and under uvloop's."""


class Steps(SystemClock):
    """A monotonic clock that is a millisecond further at each reading: a part took as many as readings lie in it."""

    def __init__(self) -> None:
        self.readings = 0

    def now(self) -> Now:
        return Now(1_800_000_000_000, self.mono_ms())

    def mono_ms(self) -> float:
        self.readings += 1
        return float(self.readings)


async def test_a_new_connection_has_every_part(tls: ssl.SSLContext | None, authority: trustme.CA) -> None:
    """Names, connecting, TLS and the first byte are timed; over plain HTTP there is no TLS."""
    names = FixedNames("127.0.0.1")
    async with Receiver(200, tls=tls) as receiver, running_courier(names=names, tls=trusting(authority)) as courier:
        outcome = await courier.attempt(post(receiver.url.replace("127.0.0.1", "localhost")))
    trace = outcome.trace
    assert trace is not None
    parts = (trace.dns_ms, trace.connect_ms, trace.tls_ms, trace.first_byte_ms)
    assert [part is not None for part in parts] == [True, True, tls is not None, True]
    assert sum(part or 0 for part in parts) <= outcome.duration_ms
    assert (trace.reused, trace.repeated) == (False, False)
    assert trace.tls_version == ("" if tls is None else "TLSv1.3")


async def test_a_kept_connection_has_the_first_byte_only(courier: Courier, tls: ssl.SSLContext | None) -> None:
    """The second request goes over the same connection: nothing was looked up, dialled or negotiated for it."""
    async with Receiver(default=200, tls=tls) as receiver:
        await courier.attempt(post(receiver.url))
        outcome = await courier.attempt(post(receiver.url))
    trace = outcome.trace
    assert trace is not None
    assert trace.first_byte_ms is not None
    version = "" if tls is None else "TLSv1.3"
    assert trace == Trace(first_byte_ms=trace.first_byte_ms, reused=True, tls_version=version)


async def test_an_address_needs_no_lookup(courier: Courier) -> None:
    """Where the URL names an address itself, there is no part for DNS."""
    async with Receiver(200) as receiver:
        outcome = await courier.attempt(post(receiver.url))
    assert outcome.trace is not None
    assert outcome.trace.dns_ms is None
    assert outcome.trace.connect_ms is not None


async def test_the_immediate_repeat_is_in_the_timeline(courier: Courier, tls: ssl.SSLContext | None) -> None:
    """W7: a kept connection that had ended, and the fresh one, are told apart: `repeated`, and no longer `reused`."""

    async def once(wire: hostile.Wire) -> None:
        await wire.request()
        await wire.send(b"HTTP/1.1 204 No Content\r\n\r\n")
        if wire.number == 1:
            await wire.request()  # and end

    async with Hostile(once, tls=tls) as server:
        first = await courier.attempt(post(server.url))
        second = await courier.attempt(post(server.url))
    assert first.trace is not None
    assert second.trace is not None
    assert (first.trace.repeated, second.trace.repeated, second.trace.reused) == (False, True, False)
    assert second.trace.connect_ms is not None


async def test_a_failure_says_how_far_it_came(courier: Courier) -> None:
    """What is refused ended while connecting; what never answers has no first byte."""
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    refused = await courier.attempt(post(f"http://127.0.0.1:{port}/"))
    async with Hostile(hostile.silent) as server:
        late = await courier.attempt(post(server.url, timeout_ms=100))
    assert (refused.failure, late.failure) == (Failure.CONNECT, Failure.TIMEOUT)
    assert refused.trace is not None
    assert late.trace is not None
    assert refused.trace.connect_ms is not None
    assert refused.trace.first_byte_ms is None
    assert late.trace.connect_ms is not None
    assert late.trace.first_byte_ms is None


class NoNames:
    """A resolver that knows no name."""

    async def resolve(self, host: str, opened: Networks = ()) -> Sequence[Place]:
        raise socket.gaierror(socket.EAI_NONAME, "unknown")


async def test_a_name_that_does_not_resolve_has_its_time() -> None:
    """A failed lookup is the one part of its attempt."""
    async with running_courier(names=NoNames()) as courier:
        outcome = await courier.attempt(post("http://example.test/"))
    trace = outcome.trace
    assert trace is not None
    assert trace == Trace(dns_ms=trace.dns_ms)
    assert trace.dns_ms is not None


async def test_an_attempt_reads_the_clock_a_few_times() -> None:
    """Over a kept connection timing costs two readings: when the request goes out, and at the first byte."""
    clock = Steps()
    async with Receiver(default=200) as receiver, running_courier(clock=clock) as courier:
        await courier.attempt(post(receiver.url))
        before = clock.readings
        outcome = await courier.attempt(post(receiver.url))
    assert clock.readings - before == 4  # its start and its end are the other two
    assert outcome.duration_ms == 3
    assert outcome.trace == Trace(first_byte_ms=1, reused=True)


def test_stages_take_their_time() -> None:
    """Each stage lasts from its beginning to that of the next."""
    trail = Trail(Steps())
    for stage in (Stage.RESOLVING, Stage.CONNECTING, Stage.SECURING):
        trail.enter(stage)
    assert trail.end() == (4, Trace(1, 1, 1))
