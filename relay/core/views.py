"""Events, deliveries and attempts as people see them: in lists, and one by one with all that is known.

Times are unix milliseconds (`_ms`).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from relay.core.model import DeadReason, DeliveryState, HeaderPair, NoDelivery, Trace, Trigger

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class VariantView:
    """An event as the contract of some of its endpoints writes it."""

    contract: str
    endpoints: Sequence[str]
    fault: str  # why it cannot; empty where there is a body
    body: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class EventView:
    """An event as people see it."""

    id: str
    type: str
    application: str
    created_at_ms: int
    timestamp_ms: int
    deliver_at_ms: int | None
    expires_at_ms: int | None
    ordering_key: str | None
    metadata: bytes | None
    reason: NoDelivery | None
    reason_detail: str
    body: bytes | None = field(default=None, repr=False)  # None in lists
    body_bytes: int = 0
    deliveries: Mapping[str, int] = field(default_factory=dict)  # state → count
    endpoints: Sequence[str] = ()  # those that it was aimed at
    variants: Sequence[VariantView] = ()  # none in lists
    ordinal: int = 0


@dataclass(frozen=True, slots=True)
class AttemptView:
    """One attempt as people see it."""

    id: str
    number: int
    series: int
    trigger: Trigger
    started_at_ms: int
    duration_ms: float
    status: int | None
    failure: str | None
    detail: str
    address: str | None
    trace: Trace | None  # None: it was made before these were kept
    response_headers: tuple[HeaderPair, ...]
    response_body: bytes | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True)
class DeliveryView:
    """A delivery as people see it."""

    id: str
    event_id: str
    event_type: str
    application: str
    endpoint: str
    endpoint_ref: int
    state: DeliveryState
    reason: DeadReason | None
    due_ms: int | None
    attempts: int
    series: int
    created_at_ms: int
    finished_at_ms: int | None
    expires_at_ms: int | None
    cancelled_by: str | None = None
    replayed: bool = False  # sent again, by hand or by a replay, at least once
    timeline: tuple[AttemptView, ...] | None = None  # None in lists


@dataclass(frozen=True, slots=True)
class DeadGroup:
    """Dead letters of one endpoint that died of one reason."""

    endpoint: str
    application: str
    reason: DeadReason
    count: int
    oldest_ms: int
    newest_ms: int
    newest_delivery: str  # an example to look at
    note: str | None = None  # what somebody wrote about them
    noted_by: str | None = None
    noted_at_ms: int | None = None


@dataclass(frozen=True, slots=True)
class Page(Generic[T]):
    """One page of a list, newest first; `next` names where the following page starts.

    `cursors` says the same for each entry, for a page that ends behind it.
    """

    data: tuple[T, ...]
    next: str | None
    cursors: Sequence[str] = ()
