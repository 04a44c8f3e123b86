"""Couriers for tests that dial loopback, and the parts that they are made of."""

import asyncio
import socket
import ssl
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from ipaddress import ip_network
from typing import Any

import trustme

from relay.core.clock import Clock, SystemClock
from relay.core.netguard import Guard, Networks
from relay.core.tls import DEFAULT, TlsIdentity
from relay.delivery.courier import Courier, CourierSettings, Request
from relay.delivery.dial import Names, Place
from relay.delivery.resolver import Resolver

LOOPBACK = [ip_network("127.0.0.0/8"), ip_network("::1/128")]


class FixedNames:
    """A resolver that checks nothing: every name has these addresses."""

    def __init__(self, *addresses: str) -> None:
        self._addresses = addresses

    async def resolve(self, host: str, opened: Networks = ()) -> Sequence[Place]:
        return [(socket.AF_INET6 if ":" in address else socket.AF_INET, address) for address in self._addresses]


class SilentNames(FixedNames):
    """A resolver whose name servers never answer."""

    async def resolve(self, host: str, opened: Networks = ()) -> Sequence[Place]:
        await asyncio.Event().wait()
        raise AssertionError("never reached")


@asynccontextmanager
async def running_courier(
    guard: Guard | None = None,
    names: Names | None = None,
    connect_timeout_ms: int = 5_000,
    tls: TlsIdentity | None = None,
    idle_max: int = 512,
    clock: Clock | None = None,
) -> AsyncIterator[Courier]:
    """A courier that may dial loopback unless a guard is given; nothing of it is left at the end."""
    guard = guard or Guard(LOOPBACK)
    clock = clock or SystemClock()
    resolver = Resolver(guard, clock)
    settings = CourierSettings(connect_timeout_ms, "relay/test", tls or DEFAULT, idle_max)
    courier = Courier(clock, guard, names or resolver, settings)
    await courier.start()
    try:
        yield courier
    finally:
        await courier.close()
        await resolver.close()


def trusting(authority: trustme.CA, **changes: Any) -> TlsIdentity:
    """How a courier speaks TLS that trusts one authority and no other."""
    return TlsIdentity(authority.cert_pem.bytes().decode(), system=False, **changes)


def showing(authority: trustme.CA, certificate: trustme.LeafCert, **changes: Any) -> TlsIdentity:
    """How a courier speaks TLS that also has a client certificate to show."""
    chain = "".join(pem.bytes().decode() for pem in certificate.cert_chain_pems)
    key = certificate.private_key_pem.bytes().decode()
    return trusting(authority, client_cert=chain, client_key=key, **changes)


def serving(certificate: trustme.LeafCert) -> ssl.SSLContext:
    """What a receiver speaks that shows this certificate."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    certificate.configure_cert(context)
    return context


def post(
    url: str,
    body: bytes = b'{"a": 1}',
    timeout_ms: int = 5_000,
    *,
    tls: TlsIdentity | None = None,
    excerpt: bool = True,
    **headers: str,
) -> Request:
    """A request as the dispatcher makes them."""
    return Request(url, {"content-type": "application/json", **headers}, body, timeout_ms, tls, excerpt)


def open_connections(courier: Courier) -> int:
    """How many connections a courier has."""
    assert courier._pool is not None
    return len(courier._pool._origins)


def idle_connections(courier: Courier) -> int:
    """How many of them wait for their next request."""
    assert courier._pool is not None
    return len(courier._pool._waiting)
