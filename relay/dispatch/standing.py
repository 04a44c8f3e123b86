"""What attempts say about their endpoints, and what follows from it: cool-downs are logged, the lost are disabled.

An endpoint is disabled because it asked for it, is gone, or failed for days; the last never while the trouble may be
ours, because nobody can be reached or the wall clock may be wrong (Q9, Q15).
"""

import asyncio
from collections.abc import Collection, Iterator

import structlog

from relay.core.clock import Clock, ClockWatch
from relay.core.errors import NotFound, StoreUnavailable
from relay.core.model import DisabledBy, Endpoint, EndpointState, Health, Outcome
from relay.core.tls import Certificate
from relay.core.urls import host_of
from relay.queue.health import is_refusing, should_disable
from relay.queue.reachability import Reachability, Sighting, is_us
from relay.queue.retry import Classification
from relay.registry import Registrar
from relay.telemetry import log
from relay.telemetry.recurring import Recurring

DISABLE_RETRY_MS = 1_000


class Standing:
    """How endpoints stand. Owner of what is known about them beside their lanes' health."""

    def __init__(self, registrar: Registrar, clock: Clock, clock_watch: ClockWatch) -> None:
        self._registrar = registrar
        self._clock = clock
        self._clock_watch = clock_watch
        self._reachability = Reachability()
        self._cooling: dict[int, int] = {}  # ref → the cool-down step that was last logged
        self._refusing: set[int] = set()  # refs that were last logged as refusing
        self._disabling: set[int] = set()  # refs
        self._certificates: dict[int, Certificate] = {}  # ref → what its receiver showed at the latest handshake
        self._own_tls: set[int] = set()  # refs of endpoints with TLS settings of their own
        self._log = structlog.get_logger("relay.dispatch")
        self._undisabled = Recurring(self._log, clock, log.SETTLE_FAILED, log.SETTLE_RECOVERED)

    @property
    def blocked(self) -> Collection[int]:
        """Endpoints whose latest attempt was refused because its address may not be dialled; a view. O(1)"""
        return self._reachability.blocked

    def certificate(self, ref: int) -> Certificate | None:
        """Return the certificate that an endpoint's receiver showed; None where none was shown since the start."""
        return self._certificates.get(ref)

    def with_certificates(self) -> list[int]:
        """List endpoints whose receivers showed certificates, or that have TLS settings of their own. O(as many)"""
        return list(self._certificates | dict.fromkeys(self._own_tls))

    def local_trouble(self) -> bool:
        """Whether hosts of several applications are out of reach for a reason of ours (Q9).

        O(1) while no attempt failed so, O(active endpoints) otherwise.
        """
        return self._reachability.any_ours and is_us(self._sightings())

    def _sightings(self) -> Iterator[Sighting]:
        registry = self._registrar.current
        for ref, ours in self._reachability.active(self._clock.mono_ms()):
            endpoint = registry.endpoint_by_ref(ref)
            if endpoint is not None:
                yield Sighting(endpoint.application.ref, host_of(endpoint.url), ours)

    def forget(self, ref: int) -> None:
        """Forget an endpoint that was deleted."""
        self._reachability.forget(ref)
        self._cooling.pop(ref, None)
        self._refusing.discard(ref)
        self._certificates.pop(ref, None)
        self._own_tls.discard(ref)

    def configured(self, endpoint: Endpoint) -> None:
        """Take an endpoint's settings, whenever they change."""
        (self._own_tls.discard if endpoint.tls is None else self._own_tls.add)(endpoint.ref)

    def loaded(self, ref: int, health: Health) -> None:
        """Take the health that an endpoint starts with, or was given by an edit."""
        self._cooling[ref] = health.cool_down_ms
        if not is_refusing(health, self._clock.wall_ms()):
            self._refusing.discard(ref)
        self._certificates.pop(ref, None)  # its address may be another one

    def note(self, endpoint: Endpoint, outcome: Outcome, mono_ms: float) -> None:
        """Note how far an attempt came."""
        self._reachability.note(endpoint.ref, outcome, mono_ms)
        self.note_certificate(endpoint, outcome)

    def note_certificate(self, endpoint: Endpoint, outcome: Outcome) -> None:
        """Remember which certificate the receiver showed."""
        if outcome.certificate is not None:
            self._certificates[endpoint.ref] = outcome.certificate

    async def follow(self, endpoint: Endpoint, health: Health | None, classification: Classification) -> None:
        """Log what a changed health means, and disable the endpoint if it asked for it or is lost."""
        if health is not None:
            self._log_health(endpoint, health)
        by = classification.disable
        if by is None and health is not None and self._is_lost(endpoint, health):
            by = DisabledBy.FAILING
        if by is not None:
            await self._disable(endpoint, by)

    def _log_health(self, endpoint: Endpoint, health: Health) -> None:
        was_cooling, is_cooling = self._cooling.get(endpoint.ref, 0), health.cool_down_ms
        was_refusing, refuses = endpoint.ref in self._refusing, is_refusing(health, self._clock.wall_ms())
        self._cooling[endpoint.ref] = is_cooling
        (self._refusing.add if refuses else self._refusing.discard)(endpoint.ref)
        facts = {"endpoint": endpoint.id, "last_failure": health.last_failure}
        if is_cooling and is_cooling != was_cooling:
            self._log.warning(log.ENDPOINT_COOLING, cool_down_ms=is_cooling, failures=health.failures, **facts)
        if refuses and not was_refusing:
            self._log.warning(log.ENDPOINT_REFUSING, refusals=health.refusals, detail=health.last_answer, **facts)
        if (was_cooling or was_refusing) and not (is_cooling or refuses):
            self._log.info(log.ENDPOINT_RECOVERED, endpoint=endpoint.id)

    def _is_lost(self, endpoint: Endpoint, health: Health) -> bool:
        lost = should_disable(health, self._clock.wall_ms(), endpoint.health)
        return lost and self._clock_watch.trusted and not self.local_trouble()

    async def _disable(self, endpoint: Endpoint, by: DisabledBy) -> None:
        """Disable an endpoint, once, however many attempts ask for it."""
        if endpoint.ref in self._disabling:
            return
        self._disabling.add(endpoint.ref)
        try:
            while self._may_be_disabled(endpoint) and not await self._try_to_disable(endpoint, by):
                await self._clock.wait(asyncio.Event(), DISABLE_RETRY_MS)
        finally:
            self._disabling.discard(endpoint.ref)

    def _may_be_disabled(self, endpoint: Endpoint) -> bool:
        """Whether it is still as it was when the attempt began: an edit or a state set since then is a newer word (Q9)."""
        present = self._registrar.current.endpoint_by_ref(endpoint.ref)
        return present is endpoint and present.state is not EndpointState.DISABLED

    async def _try_to_disable(self, endpoint: Endpoint, by: DisabledBy) -> bool:
        try:
            await self._registrar.disable(endpoint.id, by)
        except NotFound:
            return True  # it was deleted while this waited for its turn
        except StoreUnavailable as error:
            self._undisabled.happened(error=error.detail)
            return False
        self._undisabled.ended()
        self._log.warning(log.ENDPOINT_DISABLED, endpoint=endpoint.id, by=by.value)
        return True
