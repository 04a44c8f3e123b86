"""The store as the rest of the relay sees it: verbs in the words of the queue.

Whatever engine stands behind it, this holds: a write is durable when its awaitable has a result, and not before; an event
and all its deliveries are stored together; nothing that was submitted is taken back by cancelling whoever waits for it.
StoreUnavailable says that nothing of a write was kept, CommitUnknown that nobody knows: then the same write may be
submitted again and changes nothing twice. `n` in the costs is the number of rows, whatever their state.
"""

from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from typing import Protocol, TypeVar, overload

from relay.core.frozen import FrozenEvent
from relay.core.model import DeadReason, DeliveryKey, DueDelivery, Health, NewEvent, Settled, Settlement
from relay.core.views import AttemptView, DeadGroup, DeliveryView, EventView, Page
from relay.store.replays import ReplayStore
from relay.store.values import (
    AcceptResult,
    AtRest,
    CreationRecord,
    DeliveryFilter,
    DueKey,
    EventFilter,
    Fact,
    Pruned,
    PulledForward,
    RefillResult,
    RegistryChange,
    RegistryRows,
    Rekeyed,
    Retention,
    Usage,
)

T = TypeVar("T")


class Store(Protocol):
    """The one place where events and deliveries are kept. Belongs to one event loop."""

    # -- the path of an event ------------------------------------------------------------------------------------------

    @overload
    def accept(self, events: Sequence[NewEvent], /) -> Awaitable[list[AcceptResult]]: ...

    @overload
    def accept(self, events: Sequence[NewEvent], follow: Callable[[list[AcceptResult]], T], /) -> Awaitable[T]:
        """Store events and their deliveries in one transaction; one result for each, in order.

        A Conflict is a result, not an error: the events beside it are stored. O(log n) for each event and delivery.
        What `follow` makes of the results is the answer; it runs once for each commit, whether anybody waits for that
        answer or not, and an error in it is a mistake that ends the process (`on_fatal`).
        """

    def settle(self, settlement: Settlement, /) -> Awaitable[Settled]:
        """Record the end of an attempt, and what becomes of its delivery (Q7); O(log n).

        The settlement applies unless the delivery moved on meanwhile: it ended (but a 2xx is recorded after a cancel),
        or was retried by hand, which only a settlement ends that is delivered, `gone`, `aborted`, or `expired` (Q13).
        """

    @property
    def pending_settles(self) -> int:
        """Settlements that were submitted and are not answered; O(1)."""

    async def give_back(self, delivery: DueDelivery, /) -> DueDelivery | None:
        """Say that an attempt that was started is not made after all; return what is due of its delivery now. O(log n)"""

    def on_promoted(self, callback: Callable[[Sequence[DueDelivery]], None], /) -> None:
        """Call `callback` with deliveries whose turn has come because a commit ended their predecessor (Q12)."""

    # -- what lanes and attempts read ----------------------------------------------------------------------------------

    async def refill(self, ref: int, from_due_ms: float, from_event: float, limit: int, /) -> RefillResult:
        """Read due deliveries of an endpoint with (due_ms, event) from the given key on, ascending; O(limit + log n)."""

    async def audit_due(self, ref: int, limit: int, /) -> list[DueDelivery]:
        """Read the first due deliveries of an endpoint, as `refill` does but without their events; O(limit + log n)."""

    async def endpoints_with_due(self) -> list[int]:
        """Read which endpoints have due deliveries, O(log n) for each of them.

        This is what an audit goes by: the counts are memory, and may be what it has to check.
        """

    async def read_event(self, ordinal: int, /) -> FrozenEvent | None:
        """Read what an attempt sends; O(log n)."""

    async def failure_before(self, delivery: DueDelivery, /) -> str | None:
        """Read what ended the last attempt: a `Failure`, or `http_503` for an answer; None once it was pruned. O(log n)"""

    # -- counts, in memory ---------------------------------------------------------------------------------------------

    @property
    def backlog(self) -> int:
        """Due deliveries, held and delayed ones too; O(1)."""

    def due_count(self, ref: int, /) -> int:
        """Due deliveries of an endpoint; O(1)."""

    def due_counts(self) -> Mapping[int, int]:
        """Due deliveries by endpoint, for those that have any. O(those, and those that had some since this was last asked)"""

    def dead_counts(self) -> Mapping[int, int]:
        """Dead letters by endpoint, for those that have or had any; a view, for reading. O(1)"""

    def usage(self, application: int, /) -> Usage:
        """What an application, by its ref, has due, what is being stored included; O(1)."""

    def dead_count(self, ref: int, /) -> int:
        """Dead letters of an endpoint; O(1)."""

    # -- deliveries by hand and by time --------------------------------------------------------------------------------

    async def retry_delivery(self, delivery_id: str, /, *, force: bool = False) -> DueDelivery:
        """Make a delivery due now (Q13), with `force` an expired one too; NotFound, or Conflict. O(log n)"""

    async def cancel_delivery(self, delivery_id: str, by: str, under_way: DueDelivery | None = None, /) -> DeliveryKey:
        """Cancel a due delivery; NotFound, or Conflict when it has ended. O(log n)

        `under_way` is the delivery as its attempt was started, if one runs: what waits for it by its ordering key then
        waits until that attempt is settled or given back (Q12), or for the next start, which no attempt outlives.
        """

    async def drop_dead(self, delivery_id: str, by: str, /) -> None:
        """Cancel a dead letter; NotFound, or Conflict `not_dead`. O(log n)"""

    async def note_dead(self, ref: int, reason: DeadReason, note: str, by: str, /) -> None:
        """Keep a note about the dead letters of an endpoint and a reason; an empty one removes it. O(log n)"""

    async def end_held(
        self,
        ref: int,
        budget_before_ms: int,
        now_ms: int,
        reason: DeadReason,
        limit: int = ...,
        reserved: Collection[int] = (),
        /,
    ) -> dict[DeadReason, list[DeliveryKey]]:
        """End some held deliveries, by reason: expired ones, and with `reason` those whose budget began before a time.

        `reserved` are events whose attempt is under way: these are not held, and their settlement decides. O(limit +
        reserved + log n), and O(due long ago) where budgets began later than that. Empty when none are left (Q6, Q9).
        """

    async def pull_forward(
        self, ref: int, latest_ms: Sequence[int], place: DueKey | None = None, limit: int = ...
    ) -> PulledForward:
        """Make what waits too long due earlier, after the wall clock stepped back (Q15); O(limit + log n).

        `latest_ms[n]` is the latest lawful due time of a delivery with n attempts in its series; the last one is for
        all beyond. A first attempt and a manual retry go by `latest_ms[0]`; what waits for its `deliver_at` is left
        alone. The result names what moved, for the lanes, and the place from which the next step goes on (None: done).
        """

    async def prune(self, now_ms: int, retention: Retention, limit: int = ..., /) -> Pruned:
        """Remove some of what is older than its retention (Q14); `more` until the sweep came to its end.

        O(limit), and no more at once than producers do not notice; `took_ms` says how long writing was kept from them.
        """

    @property
    def replays(self) -> ReplayStore:
        """What is kept of replays. O(1)"""

    # -- what people look at -------------------------------------------------------------------------------------------

    async def find_event(self, event_id: str, /) -> EventView | None:
        """Read an event with its body and how many of its deliveries are in each state; O(deliveries + log n)."""

    async def list_events(self, wanted: EventFilter, cursor: str | None, limit: int, /) -> Page[EventView]:
        """List events, newest first. A page may be short although more follow: `next` decides. Bounded work a page."""

    async def deliveries_of(
        self, event_id: str, after: str | None = None, limit: int = 10_000, /
    ) -> list[DeliveryView]:
        """Read deliveries of an event, by endpoint, those behind the delivery `after`; O(limit). Conflict for no id."""

    async def last_attempts(self, deliveries: Sequence[DeliveryView], /) -> Mapping[str, AttemptView]:
        """Read the latest attempt of each delivery, by its id, without the answer; those without one, or where it was
        pruned, are left out. O(deliveries * log n)"""

    async def find_delivery(self, delivery_id: str, /) -> DeliveryView | None:
        """Read a delivery with its attempts, oldest first; O(attempts + log n)."""

    async def list_deliveries(self, wanted: DeliveryFilter, cursor: str | None, limit: int, /) -> Page[DeliveryView]:
        """List deliveries, those of the newest event first. A page may be short although more follow."""

    async def dead_groups(self, application: str | None = None, /) -> list[DeadGroup]:
        """Group dead letters by endpoint and reason; the group with the latest death first. O(log n) a group"""

    async def queue_shape(self, endpoints: Sequence[int], created_ms: Sequence[int], /) -> Mapping[int, Sequence[int]]:
        """Count what is due to each of some endpoints: in all, and of events created up to each of these times.

        Those that nothing is due to are left out. O(what is due to them)
        """

    # -- applications and endpoints ------------------------------------------------------------------------------------

    async def load_registry(self) -> RegistryRows:
        """Read applications, endpoints and keys, those that were not deleted. O(all of them)"""

    async def change_registry(self, change: RegistryChange, /) -> RegistryRows:
        """Make a change in one transaction; the answer is the rows that it wrote, with their handles. O(log n) a row

        NotFound for what was deleted meanwhile, StillOwed for deliveries due that must not be: then nothing is changed.
        What is due to a deleted endpoint is then cancelled step by step, after a restart too.
        """

    async def find_creation(self, scope: str, key: bytes, /) -> CreationRecord | None:
        """Read what an idempotency key of a call that makes something stands for; O(log n)."""

    @property
    def at_rest(self) -> AtRest:
        """How secrets are kept; O(1)."""

    async def rekey(self) -> Rekeyed:
        """Encrypt all secrets anew with the newest key, in steps, and leave no trace of what was there before.

        Conflict without a key. O(n), and while traces are removed, O(size of the file), nothing else is written. What an
        interruption leaves, the next call does.
        """

    @property
    def rewriting(self) -> bool:
        """Whether traces are being removed, which keeps writing for as long as it takes."""

    def save_health(self, ref: int, health: Health, /) -> None:
        """Store an endpoint's health with one of the next commits; only the latest counts. O(1)"""

    # -- the state of the database itself ------------------------------------------------------------------------------

    @property
    def healthy(self) -> bool:
        """False from a commit that failed to the next that wrote something."""

    @property
    def lost(self) -> bool:
        """Whether nothing is written any more, because of what `on_fatal` was called with."""

    async def ping(self) -> None:
        """Go through the writer and back; while it is unhealthy, try whether it can write again."""

    def upkeep(self) -> str:
        """Look after the database itself, once a second; return what hinders that, "" for nothing. O(1), never waits.

        A database that is not where it was opened any more ends the process, through `on_fatal` (StoreMoved).
        """

    def on_fatal(self, callback: Callable[[Exception], None], /) -> None:
        """Call `callback`, once, when the process must stop: the database is damaged or moved (invariant 5), or memory
        could not follow a commit, which is a bug (invariant 12)."""

    @property
    def heartbeat_ms(self) -> int | None:
        """When a commit was last noted before this start, in unix ms; None in a new database (Q15)."""

    def trust_clock(self, *, trusted: bool) -> None:
        """Note the time of commits only while the wall clock is trusted, so that a second start still sees a jump."""

    @property
    def facts(self) -> Mapping[str, Fact]:
        """What was found when the database was opened, for status and log."""

    def sizes(self) -> Mapping[str, int]:
        """Bytes on disk by name, for status and metrics."""

    def free_disk_bytes(self) -> int:
        """Return what is free for the database on its disk."""

    async def close(self) -> None:
        """Finish what was submitted, and mark the database as closed properly. Safe twice."""
