"""The way out: which addresses may be dialled, and the courier that goes there, another one when `[delivery]` changes it."""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Collection, Container

import structlog

from relay import __version__
from relay.config import DeliveryConfig
from relay.config.admission import guard_of
from relay.core.clock import Clock
from relay.core.netguard import Address, Guard, Listener
from relay.core.own import OwnAddresses
from relay.delivery.courier import Courier, CourierSettings
from relay.delivery.resolver import Resolver
from relay.queue.slots import IN_FLIGHT
from relay.registry import default_tls
from relay.telemetry import log

OpenCourier = Callable[[DeliveryConfig, Guard, Clock, contextlib.AsyncExitStack], Awaitable[Courier]]
"""Opens a courier; what it needs to close goes on the stack."""


class Outbound:
    """Owner of the guard and the courier in use, and of the question which addresses are this host's."""

    def __init__(
        self,
        clock: Clock,
        open_courier: OpenCourier,
        own: Container[Address] | None,
        listeners: Callable[[], Collection[Listener]],
    ) -> None:
        """Ask the kernel which addresses are `own` where nobody says it; `listeners` are never dialled."""
        self._clock = clock
        self._opener = open_courier
        self._listeners = listeners
        self._opened = contextlib.AsyncExitStack()  # what ends with the relay
        self._retiring: set[asyncio.Task[None]] = set()
        self.own = self._ask_kernel() if own is None else own

    def _ask_kernel(self) -> Container[Address]:
        own = OwnAddresses(_routes_unavailable)
        self._opened.callback(own.close)
        return own

    async def open(self, delivery: DeliveryConfig) -> Courier:
        """Open a courier for this `[delivery]`, and judge addresses by it from now on."""
        guard, opened = guard_of(delivery, self.own, self._listeners), contextlib.AsyncExitStack()
        self._opened.push_async_callback(opened.aclose)
        courier = await self._opener(delivery, guard, self._clock, opened)
        self.guard, self._courier = guard, (courier, opened)
        return courier

    async def reopen(self, delivery: DeliveryConfig) -> Courier:
        """Open another courier; the old one closes when its last attempt has ended."""
        old, opened = self._courier

        async def retire() -> None:
            await old.idle()
            await opened.aclose()

        courier = await self.open(delivery)
        retiring = asyncio.create_task(retire())
        self._retiring.add(retiring)
        retiring.add_done_callback(self._retiring.discard)
        return courier

    async def close(self) -> None:
        """Close every courier, also those whose last attempt is still under way."""
        for task in list(self._retiring):
            task.cancel()
        await asyncio.gather(*self._retiring, return_exceptions=True)
        await self._opened.aclose()


def _routes_unavailable(error: OSError) -> None:
    logger = structlog.get_logger("relay.service")
    logger.warning(log.ROUTES_UNAVAILABLE, error=error.strerror, instead="addresses that can be bound to")


async def open_http_courier(
    delivery: DeliveryConfig, guard: Guard, clock: Clock, opened: contextlib.AsyncExitStack
) -> Courier:
    """Open the courier that makes real attempts, with a resolver of its own."""
    resolver = Resolver(guard, clock)
    opened.push_async_callback(resolver.close)
    agent, idle_max = f"relay/{__version__}", IN_FLIGHT * delivery.concurrency
    connect_ms, tls, sources = delivery.connect_timeout_ms, default_tls(delivery), delivery.source_addresses
    settings = CourierSettings(connect_ms, agent, tls, idle_max, sources)
    courier = Courier(clock, guard, resolver, settings)
    await courier.start()
    opened.push_async_callback(courier.close)
    return courier
