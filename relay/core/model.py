"""The nouns of the relay: frozen values, states, and the one table of lawful moves between states.

Times are unix milliseconds (`_ms`) unless a name says otherwise. Numbers called `ref` and `ordinal` are handles that the
store gives out: compare and sort them, never compute with them. What is made anew for every event and attempt is a named
tuple, which costs a fifth of what a frozen dataclass does.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, NamedTuple

from relay.core.auth import Auth
from relay.core.filters import Filter
from relay.core.frozen import FrozenEvent, Variant, share_bytes
from relay.core.netguard import PUBLIC_ONLY, Networks, Reach
from relay.core.tls import Certificate, TlsIdentity
from relay.core.units import Rate
from relay.core.verification import Method, Proof


def shown_without(value: Any, *hidden: str) -> str:
    """Write a named tuple for `repr` without the members that must not be shown: payloads, secrets."""
    members = zip(value._fields, value, strict=True)
    return (
        f"{type(value).__name__}({', '.join(f'{name}={member!r}' for name, member in members if name not in hidden)})"
    )


class DeliveryState(StrEnum):
    """Where a delivery stands."""

    DUE = "due"
    DELIVERED = "delivered"
    DEAD = "dead"
    CANCELLED = "cancelled"


TRANSITIONS: Mapping[DeliveryState, frozenset[DeliveryState]] = {
    DeliveryState.DUE: frozenset(DeliveryState),  # due → due is the next attempt
    DeliveryState.DELIVERED: frozenset({DeliveryState.DUE}),  # a manual retry
    DeliveryState.DEAD: frozenset({DeliveryState.DUE, DeliveryState.CANCELLED}),  # a manual retry; dropped by hand
    DeliveryState.CANCELLED: frozenset({DeliveryState.DUE, DeliveryState.DELIVERED}),  # a 2xx that was under way
}


class DeadReason(StrEnum):
    """Why a delivery is a dead letter."""

    EXHAUSTED = "exhausted"
    EXPIRED = "expired"
    GONE = "gone"
    ABORTED = "aborted"
    OVERFLOW = "overflow"
    ENDPOINT_DISABLED = "endpoint_disabled"
    BLOCKED = "blocked"
    CORRUPT = "corrupt"
    UNRENDERABLE = "unrenderable"


class NoDelivery(StrEnum):
    """Why an event was stored without deliveries."""

    NO_MATCH = "no_match"
    FILTERED = "filtered"
    SKIPPED = "skipped"


class ReplayMode(StrEnum):
    """What a replay sends."""

    FAILED = "failed"  # dead letters
    MISSING = "missing"  # what matches an endpoint now, and was never owed to it
    ALL = "all"  # whatever has ended: delivered, dead and cancelled deliveries


class EndpointState(StrEnum):
    """Whether an endpoint takes deliveries."""

    ENABLED = "enabled"
    PAUSED = "paused"
    DISABLED = "disabled"


class DisabledBy(StrEnum):
    """Who disabled an endpoint; a changed `url` clears every reason but `manual`."""

    MANUAL = "manual"
    GONE = "gone"  # answered 410
    RECEIVER = "receiver"  # answered `webhook-delivery: disable`
    FAILING = "failing"  # failed for `health.disable_after`


class Origin(StrEnum):
    """Where a definition comes from."""

    FILE = "file"
    API = "api"


class Validation(StrEnum):
    """What becomes of an event that its contract's catalogue does not allow."""

    STRICT = "strict"  # refused
    WARN = "warn"  # accepted, with a warning
    OFF = "off"  # accepted


class Failure(StrEnum):
    """The class of an attempt that ended without a response, as shown to people and counted in metrics."""

    TIMEOUT = "timeout"
    DNS = "dns"
    CONNECT = "connect"
    TLS = "tls"
    BROKEN_RESPONSE = "broken_response"
    BLOCKED_ADDRESS = "blocked_address"  # the URL names a forbidden address itself
    BLOCKED_NAME = "blocked_name"  # the URL's host resolved to a forbidden address
    NO_TOKEN = "no_token"  # noqa: S105 - a word; the token server gave no access token
    TOKEN_UNREACHABLE = "token_unreachable"  # noqa: S105 - a word; its host does not resolve, or to a forbidden address
    INVALID_REQUEST = "invalid_request"  # a header or URL that cannot be sent at all
    NO_DESCRIPTORS = "no_descriptors"  # this process has no file descriptor left to connect with


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """n delays are n + 1 attempts; each delay is multiplied by uniform(1 - jitter, 1 + jitter)."""

    schedule_ms: tuple[int, ...]
    jitter: float
    max_age_ms: int


@dataclass(frozen=True, slots=True)
class HealthPolicy:
    """When an endpoint cools down and when it is disabled."""

    failures: int = 10
    cool_down_ms: int = 5_000
    cool_down_max_ms: int = 900_000
    disable_after_ms: int = 432_000_000


@dataclass(frozen=True, slots=True)
class Secret:
    """One signing secret as configured (`whsec_…` or text). Newest first wherever several stand together."""

    value: str = field(repr=False)
    expires_at_ms: int | None = None  # the end of its overlap after a rotation


class Limits(NamedTuple):
    """How much of the relay one application may take (Q10). What may be alone is without the limits of all."""

    endpoints: int = 1_000  # made through the API
    backlog: int = 1_000_000  # due deliveries
    bytes: int = 1 << 30  # of bodies that are due
    own_backlog: int | None = None  # what the application was given itself, which holds where it is alone too
    own_bytes: int | None = None
    tests_at_once: int = 4
    tests_per_minute: int = 60
    definition_bytes: int = 64 << 10


@dataclass(frozen=True, slots=True)
class Application:
    """Whoever owns endpoints."""

    ref: int
    id: str
    contract: str  # name of its contract
    origin: Origin
    present: bool = True  # False: it vanished from the file; its endpoints are held
    features: Mapping[str, bool] = field(default_factory=dict)
    validation: Validation = Validation.STRICT
    name: str = ""  # for people
    reach: Reach = PUBLIC_ONLY  # where its deliveries may go, and come from
    limits: Limits = field(default_factory=Limits)

    @property
    def allow_networks(self) -> Networks:
        """Return the networks that its endpoints may be in, beside those of `[delivery]`."""
        return self.reach.networks


@dataclass(frozen=True, slots=True)
class Endpoint:
    """A receiver, with every setting resolved (endpoint > application > contract > `[delivery]`)."""

    ref: int
    id: str
    application: Application
    origin: Origin
    url: str
    event_types: tuple[str, ...]
    concurrency: int
    timeout_ms: int
    retry: RetryPolicy
    health: HealthPolicy
    created_at_ms: int
    updated_at_ms: int
    contract: str | None = None  # name of its own; None: it is its application's
    filter: Filter | None = None  # None: every event of these types
    secrets: tuple[Secret, ...] = ()
    headers: tuple[tuple[str, str], ...] = ()  # with the one that authenticates, where that is always the same
    auth: Auth | None = None  # None: nothing but the headers
    tls: TlsIdentity | None = None  # None: as `[delivery]` says
    rate: Rate | None = None
    description: str = ""
    state: EndpointState = EndpointState.ENABLED
    disabled_by: DisabledBy | None = None
    state_since_ms: int = 0
    present: bool = True  # False: it vanished from the file; its deliveries are held
    verification: Method = Method.NONE  # how its receiver is asked before the first event
    proof: Proof | None = None  # that it agreed

    @property
    def held(self) -> bool:
        """Whether its due deliveries wait."""
        return self.unverified or self.stopped

    @property
    def stopped(self) -> bool:
        """Whether nothing at all is sent to it, but what is asked for by hand."""
        return self.state is not EndpointState.ENABLED or not self.present or not self.application.present

    @property
    def unverified(self) -> bool:
        """Whether its receiver has still to agree."""
        if self.verification is Method.NONE:
            return False
        return self.proof is None or not self.proof.serves(self.verification)


@dataclass(frozen=True, slots=True)
class Health:
    """What is remembered about an endpoint's answers; a success resets all about failures. Persisted.

    A *miss* is any attempt that reached the receiver and was not delivered: a health failure, a refusal (3xx, other 4xx),
    or the wish to be asked later (429).
    """

    failures: int = 0  # consecutive health failures
    first_failed: int | None = None  # ordinal of the first delivery that failed in this run of failures
    several: bool = False  # a second delivery failed too
    misses: int = 0  # consecutive misses
    first_missed: int | None = None  # ordinal of the first delivery that was missed in this run of misses
    several_missed: bool = False  # a second delivery was missed too
    failing_since_ms: int | None = None  # the first miss of this run
    failure_days: int = 0  # distinct UTC days with a miss in this run
    last_failure_ms: int | None = None
    last_failure: str = ""  # "503", "401", "timeout", "dns" …
    last_answer: str = ""  # what that refusal means and what to do about it; "" where there was no such answer
    refusals: int = 0  # in a row: neither a success nor a health failure came between
    refusing_since_ms: int | None = None  # the first of them
    throttled_since_ms: int | None = None  # the first wish to be asked later since anything else was answered
    cool_down_ms: int = 0  # the present step; 0 while warm
    cool_until_ms: int = 0
    not_before_ms: int = 0  # from Retry-After
    answered: bool = False  # with a 2xx, at least once; no failure takes that back


class DeliveryKey(NamedTuple):
    """Names one delivery: the event and the endpoint it is owed to."""

    event: int  # ordinal
    endpoint: int  # ref


class DueDelivery(NamedTuple):
    """A delivery that is owed: what a lane holds. Ordered by (due_ms, event) within its endpoint."""

    event: int  # ordinal of the event; with the endpoint it names the delivery
    endpoint: int  # ref
    due_ms: int
    series: int
    attempts: int  # made so far, over all series
    series_attempts: int  # made so far in this series
    budget_from_ms: int  # `max_age` counts from here: the latest of created, deliver_at, last manual retry
    manual: bool = False  # retried by hand: goes past cool-down and Retry-After
    forced: bool = False  # although it may have expired: the next attempt goes past `expires_at` too
    replayed: bool = False  # by a replay: whatever else is due of its endpoint goes first

    @property
    def key(self) -> DeliveryKey:
        return DeliveryKey(self.event, self.endpoint)


class KeyKind(StrEnum):
    """What makes a repetition one."""

    GIVEN = "given"  # an idempotency key of the producer
    ID = "id"  # the id that the producer chose
    DERIVED = "derived"  # what the contract's template makes


@dataclass(frozen=True, slots=True)
class Idempotency:
    """A claim on a key within an application."""

    key: bytes  # 16 bytes: a digest of the kind of key and the key
    fingerprint: bytes  # 16 bytes: a digest of type, data as the body carries them, and the endpoints that are named
    kind: KeyKind = KeyKind.GIVEN
    may_differ: bool = False  # with other data it is a repetition all the same


class Remembered(NamedTuple):
    """What an event leaves behind for later ones of its application."""

    key: str
    value: str


class Recall(NamedTuple):
    """An event that is sent only if something is remembered under `key`."""

    key: str
    otherwise: str  # why it is held back if nothing is


class NewEvent(NamedTuple):
    """An event as intake hands it to the store."""

    id: str
    id_given: bool  # the producer chose the id: it must be unique in the relay
    application: int  # ref
    type: str
    body: bytes
    created_at_ms: int
    timestamp_ms: int
    targets: tuple[int, ...]  # endpoint refs
    aimed: tuple[int, ...] = ()  # refs of the endpoints that its producer named; empty: none, so any may match
    reason: NoDelivery | None = None  # set when there are no targets
    reason_detail: str = ""
    deliver_at_ms: int | None = None
    expires_at_ms: int | None = None
    ordering_key: str | None = None
    order_strictly: bool = True  # what follows by the ordering key waits for the end, not for the first attempt only
    metadata: bytes | None = None  # JSON object as received
    idempotency: Idempotency | None = None
    recall: Recall | None = None  # decided when it is stored, against what was stored before it
    remember: Remembered | None = None
    body_under: Callable[[str], bytes] | None = None  # makes the body under another id; of events that have a key
    variants: tuple[Variant, ...] = ()
    variants_under: Callable[[str], tuple[Variant, ...]] | None = None  # makes these under another id
    searchable: tuple[bytes, ...] = ()  # digests of values of its data by which it is found

    @property
    def share_bytes(self) -> int:
        """Return what each delivery is charged of the bodies."""
        return share_bytes(self.body, self.variants, self.targets)

    @property
    def may_be_filtered(self) -> bool:
        """Whether it is kept back, or is if nothing is remembered."""
        return self.reason is NoDelivery.FILTERED or self.recall is not None

    def __repr__(self) -> str:
        return shown_without(self, "body", "metadata")


class Accepted(NamedTuple):
    """The event is durable."""

    event: FrozenEvent
    due: tuple[DueDelivery, ...]  # those that lanes must know
    deliveries: int  # rows committed as due; overflowed ones are not counted
    reason: NoDelivery | None = None  # why there are none
    reason_detail: str = ""
    overflowed: tuple[int, ...] = ()  # endpoints whose backlog was full: their deliveries are dead (Q10)


@dataclass(frozen=True, slots=True)
class Duplicate:
    """What makes a repetition one was there before; nothing was stored. All but `differs` is about the first event."""

    event_id: str
    type: str
    created_at_ms: int
    deliveries: int
    differs: bool  # the fingerprint is another one
    reason: NoDelivery | DeadReason | None = None  # why there are no deliveries, while the first event is stored
    reason_detail: str = ""


class HeaderPair(NamedTuple):
    name: str
    value: str


class Trace(NamedTuple):
    """How an attempt went over the network. A part that there was not, or that did not end, is None."""

    dns_ms: float | None = None
    connect_ms: float | None = None
    tls_ms: float | None = None
    first_byte_ms: float | None = None  # from the request to the first byte of the answer
    reused: bool = False  # the connection had carried another request before
    tls_version: str = ""  # such as "TLSv1.3"; empty without TLS
    repeated: bool = False  # at once, on a fresh connection (Q17)


class Outcome(NamedTuple):
    """What one attempt came to. A value, never an exception."""

    started_at_ms: int
    duration_ms: float
    status: int | None = None  # None: no response
    failure: Failure | None = None
    detail: str = ""  # one line for people; no secrets, no query string
    address: str | None = None  # the address dialled
    retry_after_ms: int | None = None  # from the response, already a duration; None when absent or nonsense
    control: str | None = None  # the response's `webhook-delivery` header: "abort-message" or "disable"
    trace: Trace | None = None
    certificate: Certificate | None = None  # that the receiver showed
    response_headers: tuple[HeaderPair, ...] = ()
    response_body: bytes = b""  # at most 16 KiB
    ours: bool = False  # it failed in a way that this host causes: name servers, network, clock

    def __repr__(self) -> str:
        return shown_without(self, "response_body")


class Trigger(StrEnum):
    """Why an attempt was made."""

    SCHEDULED = "scheduled"
    MANUAL = "manual"
    TEST = "test"


class Settlement(NamedTuple):
    """What the end of an attempt changes; one compare-and-set on (delivery, state due, series)."""

    delivery: DueDelivery
    state: DeliveryState
    outcome: Outcome | None  # None: ended without an attempt (expired, corrupt, endpoint_disabled)
    due_ms: int | None = None  # with state `due`
    reason: DeadReason | None = None  # with state `dead`
    keep_response: bool = True  # response headers and body are kept for failures and tests only


class Settled(NamedTuple):
    """What became of a settlement: `applied` is False when the delivery had moved on meanwhile."""

    applied: bool
    due: DueDelivery | None  # the delivery as it is now, when it is due again
