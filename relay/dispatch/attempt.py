"""One attempt, from its start to its settle:

    read the frozen event ─▶ sign ─▶ courier.attempt ─▶ retry.decide ║ lanes.finished ─▶ store.settle ─▶ lanes.settled

Left of the double line stands a boundary. Whatever of ours raises there, in a contract, a signature or the courier,
suspends that endpoint and reaches nobody else: no attempt is counted, the delivery stays due. Right of it, and in what
follows the commit, nothing may be left half done, so an error there stops the process.

Nothing is written before an attempt, so a power cut before the settle's commit leaves the delivery as it was: due. The
receiver may then see the request again, with the same id. `finished` frees the slot at once; the id itself stays
reserved until the settle is committed (Q3), so no delivery is ever under way twice.
"""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from itertools import count
from logging import DEBUG, INFO, WARNING
from random import Random
from typing import Any, NamedTuple, TypeVar

import structlog

from relay.contracts import Signer
from relay.core.clock import Clock, ClockWatch, Now
from relay.core.errors import Conflict, StoreDamaged, StoreUnavailable
from relay.core.frozen import FrozenEvent
from relay.core.model import DeadReason, DeliveryState, DueDelivery, Endpoint, Failure, Outcome, Settlement, Trigger
from relay.delivery.auth import Tokens
from relay.delivery.courier import Courier, Request
from relay.dispatch.cache import EventCache
from relay.dispatch.handshake import Question
from relay.dispatch.standing import Standing
from relay.queue import Lanes, Start
from relay.queue.retry import Classification, decide
from relay.registry import Registrar
from relay.store import Store, delivery_id
from relay.telemetry import log
from relay.telemetry.metrics import Metrics
from relay.telemetry.recurring import Recurring

A = TypeVar("A")
T = TypeVar("T")

STORE_RETRY_MS = 1_000
"""What the database did not do, a settle or a read, is asked of it again after this long."""


DESCRIPTORS_RETRY_MS = 500
"""A delivery for which there was no file descriptor is tried again after this long."""

DESCRIPTORS_QUIET_MS = 10_000
"""File descriptors are taken to be free again when none was missing for so long."""


class Ended(NamedTuple):
    """An attempt that ran through, or that need not be made, and what is written for it."""

    endpoint: Endpoint
    event: FrozenEvent
    settlement: Settlement
    classification: Classification | None  # None: nothing was sent
    at: Now


class Attempts:
    """Makes attempts and records what came of them. Each holds its delivery alone until it is settled."""

    def __init__(
        self,
        *,
        store: Store,
        registrar: Registrar,
        courier: Courier,
        lanes: Lanes,
        cache: EventCache,
        standing: Standing,
        clock: Clock,
        clock_watch: ClockWatch,
        rng: Random,
        metrics: Metrics,
        on_progress: Callable[[], None],
        spawn: Callable[[Coroutine[Any, Any, None]], None],
        log_all: bool,
    ) -> None:
        self.courier = courier  # a reload may put another in its place
        self._store = store
        self._registrar = registrar
        self._tokens = Tokens(clock, self._exchange)
        self._lanes = lanes
        self._cache = cache
        self._standing = standing
        self._clock = clock
        self._clock_watch = clock_watch
        self._rng = rng
        self._metrics = metrics
        self._on_progress = on_progress
        self._spawn = spawn
        self._log = structlog.get_logger("relay.dispatch")
        self._delivered_level = INFO if log_all else DEBUG
        self._levels = {level for level in (DEBUG, INFO, WARNING) if self._log.is_enabled_for(level)}
        self._unread = Recurring(self._log, clock, log.READ_FAILED, log.READ_RECOVERED)
        self._descriptors = Recurring(self._log, clock, log.NO_DESCRIPTORS, log.DESCRIPTORS_FREE)
        self._unsettled = Recurring(self._log, clock, log.SETTLE_FAILED, log.SETTLE_RECOVERED)

    @property
    def descriptors_missing(self) -> bool:
        """Whether deliveries wait, or waited a moment ago, because no file descriptor was left to connect with."""
        return self._descriptors.goes_on

    async def run(self, start: Start) -> None:
        """Carry a started delivery to its settle."""
        delivery = start.delivery
        try:
            end = await self._make(delivery)
        except StoreDamaged:
            raise  # the trouble of no endpoint: the process stops
        except Exception as error:
            await self._suspend(delivery, error)
            return
        if end is None:
            await self._withdraw(delivery)
        else:
            await self._settle(start, end)

    async def test(self, endpoint: Endpoint, event: FrozenEvent) -> Outcome:
        """Send `event` to one endpoint now, outside its lane: never retried, never counted against health."""
        outcome = await self._send_once(endpoint, self._made_now(endpoint, event)._replace(excerpt=True))
        self._metrics.attempt(endpoint.id, outcome, Trigger.TEST)
        return outcome

    async def verify(self, endpoint: Endpoint, question: Question) -> Outcome:
        """Ask a receiver whether it wants events, as a test is sent."""
        return await self._send_once(endpoint, question.shaped(self._made_now(endpoint, question.event)))

    def _made_now(self, endpoint: Endpoint, event: FrozenEvent) -> Request:
        signer = self._registrar.current.signer(endpoint, event.contract)
        if signer is None:
            raise Conflict("no_such_contract", "the endpoint's contract was taken away meanwhile", remedy="Try again.")
        return self._request(endpoint, event, signer, 1)

    async def _send_once(self, endpoint: Endpoint, request: Request) -> Outcome:
        outcome = await self._sent(request, endpoint)
        self._standing.note_certificate(endpoint, outcome)
        return outcome

    async def close(self) -> None:
        """End what is under way beside attempts."""
        await self._tokens.close()

    def _sent(self, request: Request, endpoint: Endpoint) -> Awaitable[Outcome]:
        """Send a request as the endpoint wants to be authenticated to."""
        if endpoint.auth is None:
            return self.courier.attempt(request)
        return self._tokens.attempt(request, endpoint.auth)

    async def _exchange(self, request: Request) -> Outcome:
        return await self.courier.attempt(request)  # whichever is in use by now

    # -- up to the decision: a mistake of ours stays with this endpoint ------------------------------------------------

    async def _make(self, delivery: DueDelivery) -> Ended | None:
        event = self._cache.get(delivery.event) or await self._read_event(delivery)
        registry = self._registrar.current
        endpoint = registry.endpoint_by_ref(delivery.endpoint)
        if event is None or endpoint is None or endpoint.held:
            return None  # event or endpoint were deleted, or the endpoint was held, after it was chosen
        if event.variants:
            event = event.sent_to(endpoint.ref)
        signer = registry.signer(endpoint, event.contract)
        reason = self._unsendable(event, delivery, signer)
        if signer is None or reason is not None:
            dead = Settlement(delivery, DeliveryState.DEAD, None, reason=reason)
            return Ended(endpoint, event, dead, None, self._clock.now())
        failure = await self._failure_before(signer, delivery)
        request = self._request(endpoint, event, signer, delivery.attempts + 1, failure)
        if endpoint.rate is not None:
            self._lanes.sent(delivery.key, self._clock.now())
            self._on_progress()
        outcome = await self._sent(request, endpoint)
        self._metrics.attempt(endpoint.id, outcome)
        if outcome.failure is Failure.NO_DESCRIPTORS:
            await self._wait_for_descriptors(outcome)
            return None
        self._descriptors.ended(quiet_ms=DESCRIPTORS_QUIET_MS)
        now = self._clock.now()
        settlement, classification = decide(
            outcome,
            delivery,
            endpoint.retry,
            event.expires_at_ms,
            now.wall_ms,
            self._rng,
            clock_trusted=self._clock_watch.trusted,
        )
        self._standing.note(endpoint, outcome, now.mono_ms)
        return Ended(endpoint, event, settlement, classification, now)

    async def _wait_for_descriptors(self, outcome: Outcome) -> None:
        """Keep the slot for a moment: there is no use in trying again at once, and no fault of the receiver's."""
        self._descriptors.happened(detail=outcome.detail)
        await self._clock.wait(asyncio.Event(), DESCRIPTORS_RETRY_MS)

    async def _read_event(self, delivery: DueDelivery) -> FrozenEvent | None:
        event = await self._persist(self._store.read_event, delivery.event, self._unread)
        if event is not None:
            self._cache.put(event)
        return event

    def _unsendable(self, event: FrozenEvent, delivery: DueDelivery, signer: Signer | None) -> DeadReason | None:
        """Why no attempt may start: the event expired (Q6), its bytes are not those we accepted (invariant 6), or the
        contract of its endpoint cannot make a request of it."""
        expired = event.expires_at_ms is not None and self._clock.wall_ms() >= event.expires_at_ms
        if expired and not delivery.forced and self._clock_watch.trusted:
            return DeadReason.EXPIRED
        if event.fault or signer is None:
            return DeadReason.UNRENDERABLE
        return DeadReason.CORRUPT if event.corrupt else None

    async def _failure_before(self, signer: Signer, delivery: DueDelivery) -> str | None:
        """Look up what ended the attempt before, for the few contracts that tell it to receivers."""
        if not delivery.attempts or not signer.tells_reason:
            return None
        return await self._persist(self._store.failure_before, delivery, self._unread)

    def _request(
        self, endpoint: Endpoint, event: FrozenEvent, signer: Signer, attempt: int, failure: str | None = None
    ) -> Request:
        headers, body = signer.request(
            id=event.id,
            type=event.type,
            timestamp_ms=self._clock.wall_ms(),
            frozen=event.body,
            attempt=attempt,
            failure=failure,
        )
        headers.update(endpoint.headers)
        return Request(
            endpoint.url,
            headers,
            body,
            endpoint.timeout_ms,
            tls=endpoint.tls,
            reach=endpoint.application.reach,
        )

    # -- the three ends of an attempt: a mistake here stops the process ------------------------------------------------

    async def _suspend(self, delivery: DueDelivery, error: Exception) -> None:
        self._metrics.attempt_error()
        suspension = self._lanes.suspend(delivery.key, type(error).__name__, self._clock.now())
        if suspension is not None:
            endpoint = self._registrar.current.endpoint_by_ref(delivery.endpoint)
            self._log.error(
                log.ENDPOINT_SUSPENDED,
                endpoint=None if endpoint is None else endpoint.id,
                delivery=delivery_id(delivery.key),
                suspended_ms=suspension.length_ms,
                exc_info=error,
            )
        await self._give_back(delivery)

    async def _withdraw(self, delivery: DueDelivery) -> None:
        self._lanes.finished_unsent(delivery.key)
        await self._give_back(delivery)

    async def _give_back(self, delivery: DueDelivery) -> None:
        """End the reservation of a delivery that was not sent: it is due as the database says, if it still is."""
        self._on_progress()
        due = await self._persist(self._store.give_back, delivery, self._unsettled)
        self._lanes.settled(delivery.key, due)
        self._on_progress()

    async def _settle(self, start: Start, end: Ended) -> None:
        """Record what came of an attempt. A power cut before this commit leaves the delivery due: it is sent again."""
        endpoint, settlement, classification = end.endpoint, end.settlement, end.classification
        key, health = start.delivery.key, None
        if classification is None:
            self._lanes.finished_unsent(key)
        else:
            health = self._lanes.finished(key, classification, end.at)
            if health is not None:
                self._store.save_health(endpoint.ref, health)
            if health is not None or classification.disable is not None:
                # A task of its own: a disable goes with the settle's commit, and a mistake in it does not hold up the settle.
                self._spawn(self._standing.follow(endpoint, health, classification))
        self._on_progress()
        settled = await self._persist(self._store.settle, settlement, self._unsettled)
        self._lanes.settled(key, settled.due)
        self._on_progress()
        if start.suspension is not None and classification is not None:
            self._log.warning(log.SUSPENSION_ENDED, endpoint=endpoint.id)
        if settled.applied:
            self._report(end)
        elif settled.due is not None and settlement.state is not DeliveryState.DELIVERED:  # retried while it ran
            again = settlement._replace(state=DeliveryState.DUE, due_ms=settled.due.due_ms, reason=None)
            self._report(end._replace(settlement=again))

    async def _persist(self, ask: Callable[[A], Awaitable[T]], argument: A, outage: Recurring) -> T:
        """Ask the database until it does what is asked."""
        for failures in count():
            try:
                answer = await ask(argument)
            except StoreUnavailable as error:
                outage.happened(error=error.detail)
                await self._clock.wait(asyncio.Event(), STORE_RETRY_MS)
            else:
                if failures:
                    outage.ended()
                return answer
        raise AssertionError("counting never ends")

    # -- metrics and log lines -----------------------------------------------------------------------------------------

    def _report(self, end: Ended) -> None:
        endpoint, settlement = end.endpoint, end.settlement
        if settlement.state is DeliveryState.DELIVERED:
            self._metrics.delivered(endpoint.id, end.at.wall_ms - end.event.created_at_ms)
            self._log_attempt(self._delivered_level, log.DELIVERED, end)
        elif settlement.state is DeliveryState.DEAD:
            assert settlement.reason is not None
            self._metrics.dead(endpoint.id, settlement.reason)
            self._log_attempt(WARNING, log.DEAD_LETTER, end, reason=settlement.reason.value)
        else:
            self._metrics.retry_scheduled()
            self._log_attempt(INFO, log.ATTEMPT_FAILED, end, next_attempt_ms=settlement.due_ms)

    def _log_attempt(self, level: int, event: str, end: Ended, **facts: Any) -> None:
        if level in self._levels:  # else nobody reads the facts: it is the hot path
            self._log.log(level, event, **facts, **_facts(end))


def _facts(end: Ended) -> dict[str, Any]:
    """One line for an attempt. `event` is structlog's own name for what happened, hence `event_id`."""
    settlement, outcome = end.settlement, end.settlement.outcome
    facts: dict[str, Any] = {"event_id": end.event.id, "event_type": end.event.type, "endpoint": end.endpoint.id}
    facts["delivery"] = delivery_id(settlement.delivery.key)
    if outcome is None:
        return facts
    facts |= {
        "attempt": settlement.delivery.attempts + 1,
        "status": outcome.status,
        "duration_ms": round(outcome.duration_ms),
    }
    if settlement.state is not DeliveryState.DELIVERED:
        facts |= {"failure": outcome.failure.value if outcome.failure else None, "detail": outcome.detail}
    return facts
