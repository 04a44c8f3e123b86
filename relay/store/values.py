"""The values that go in and out of the store beside those of `relay.core.model`."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, NamedTuple, Protocol

from relay.core import ids
from relay.core.errors import Conflict, RelayError
from relay.core.frozen import FrozenEvent
from relay.core.model import (
    Accepted,
    DeadReason,
    DeliveryKey,
    DeliveryState,
    DisabledBy,
    DueDelivery,
    Duplicate,
    EndpointState,
    Health,
    NoDelivery,
    Origin,
    Secret,
)
from relay.core.verification import Proof

AcceptResult = Accepted | Duplicate | Conflict
"""What became of one event: stored, known already, or refused (the error is a value: the events beside it are stored)."""

Fact = str | int | bool | None
"""Something for people to see in status and log; nothing above the store decides by it."""

_EVENT_PAIRS, _ENDPOINT_PAIRS, _NUMBER_PAIRS = 6, 3, 2


@dataclass(frozen=True, slots=True)
class EndpointRow:
    """What the database remembers of an endpoint."""

    ref: int  # 0 until it is stored
    id: str
    application: str  # id
    origin: Origin
    definition: Mapping[str, Any] | None  # as JSON; None when the file defines the endpoint
    secrets: tuple[Secret, ...]  # made here; those of the file stay there
    state: EndpointState
    disabled_by: DisabledBy | None
    state_since_ms: int
    health: Health
    url_seen: str | None  # the url that `health` and an automatic disable are about
    created_at_ms: int
    updated_at_ms: int
    proof: Proof | None = None  # that the receiver at `url_seen` agreed to take events


@dataclass(frozen=True, slots=True)
class ApplicationRow:
    """What the database remembers of an application."""

    ref: int  # 0 until it is stored
    id: str
    origin: Origin
    definition: Mapping[str, Any] | None  # as JSON; None when the file defines the application
    contract_seen: str | None  # the contract that its deliveries were made under
    created_at_ms: int
    updated_at_ms: int


@dataclass(frozen=True, slots=True)
class KeyRow:
    """A token of an application, made through the API. Its text is kept nowhere."""

    id: str
    application: str  # id
    name: str
    prefix: str  # how the token begins
    digest: bytes = field(repr=False)  # SHA-256
    created_at_ms: int
    expires_at_ms: int | None


@dataclass(frozen=True, slots=True)
class CreationRecord:
    """What an idempotency key stands for on a call that makes something."""

    scope: str  # whose key it is
    key: bytes  # a digest of the key
    fingerprint: bytes  # a digest of the call and its body
    seed: bytes = field(repr=False)  # of the token that was made
    made: Mapping[str, str]  # ids by kind: application, endpoint, key; and a mark of the secret
    created_at_ms: int


class RegistryRows(NamedTuple):
    """Applications, endpoints and keys, each oldest first: all there are, or those that a change wrote."""

    applications: Sequence[ApplicationRow] = ()
    endpoints: Sequence[EndpointRow] = ()
    keys: Sequence[KeyRow] = ()
    retired: frozenset[str] = frozenset()  # ids of deleted applications


@dataclass(frozen=True, slots=True)
class RegistryChange:
    """What one transaction does to applications, endpoints and keys; a row whose `ref` is 0 is new."""

    applications: Sequence[ApplicationRow] = ()
    endpoints: Sequence[EndpointRow] = ()
    keys: Sequence[KeyRow] = ()  # new ones
    fresh: frozenset[str] = frozenset()  # ids of endpoints whose health begins anew
    deleted_applications: Sequence[str] = ()  # ids
    deleted_endpoints: Sequence[str] = ()  # ids; what is due to them is then cancelled step by step
    deleted_keys: Sequence[str] = ()  # ids
    unowed: Sequence[str] = ()  # ids of applications that must have nothing due, or StillOwed
    record: CreationRecord | None = None  # what this makes, by an idempotency key

    @property
    def brings_secrets(self) -> bool:
        """Whether it writes what receivers trust in; what the file defines stays there."""
        return any(row.secrets or row.definition is not None for row in self.endpoints)


class AtRest(StrEnum):
    """How the database keeps secrets."""

    NONE = "none"  # it has none, and no key
    CLEAR = "clear"  # there is no key
    MIXED = "mixed"  # some in clear or under an older key, or traces of such: to be encrypted anew
    ENCRYPTED = "encrypted"  # all with the newest key


class Resealed(NamedTuple):
    """How many rows were encrypted with the newest key."""

    endpoints: int = 0
    records: int = 0  # of idempotency keys
    clear: int = 0  # endpoints whose secrets stood in clear before


class Rekeyed(NamedTuple):
    """What came of encrypting all secrets anew."""

    key: str  # id of the newest
    resealed: Resealed
    hindered: str  # why what was overwritten may still be found in the file; empty when it is gone
    backups: Sequence[str]  # files beside the database, made by migrations, which keep secrets as they were


class StillOwed(RelayError):
    """A change was refused whole: applications have deliveries due that must have none. `due` counts them by id."""

    def __init__(self, due: Mapping[str, int]) -> None:
        super().__init__(f"there are deliveries due of: {', '.join(due)}")
        self.due = due


class Usage(NamedTuple):
    """What an application has due, and how large the bodies of these events are, each counted once."""

    due: int
    bytes: int


class RefillResult(NamedTuple):
    """Due deliveries in order, and those of their events whose body is small enough to ride along."""

    rows: list[DueDelivery]
    events: list[FrozenEvent]


DueKey = tuple[int, int]
"""A place among the due deliveries of an endpoint: (due_ms, event)."""


class PulledForward(NamedTuple):
    """What one step made due earlier, and where the next goes on; None when there is no more."""

    moved: list[DueDelivery]
    next: DueKey | None


class Pruned(NamedTuple):
    """What one step of pruning removed; `more` is False when there is nothing to do at once."""

    events: int
    deliveries: int
    attempts: int
    keys: int
    more: bool
    memories: int = 0
    took_ms: float = 0.0  # of the writer's time

    @property
    def total(self) -> int:
        return self.events + self.deliveries + self.attempts + self.keys + self.memories


class Retention(Protocol):
    """How long things are kept (Q14)."""

    @property
    def events_ms(self) -> int: ...
    @property
    def attempts_ms(self) -> int: ...
    @property
    def idempotency_ms(self) -> int: ...
    @property
    def memory_ms(self) -> int: ...
    @property
    def replays_ms(self) -> int: ...


@dataclass(frozen=True, slots=True)
class EventFilter:
    """Which events a list shows; `until_ms` is exclusive."""

    application: str | None = None
    type: str | None = None
    since_ms: int | None = None
    until_ms: int | None = None
    reason: NoDelivery | None = None
    endpoint: str | None = None  # id of one that it was owed to
    event: str | None = None  # its id
    ordering_key: str | None = None
    keys: tuple[bytes, bytes] | None = None  # what one idempotency key is kept as, given or derived
    value: bytes | None = None  # digest of a value of its data


@dataclass(frozen=True, slots=True)
class DeliveryFilter:
    """Which deliveries a list shows; the times are those of the event, `until_ms` is exclusive."""

    application: str | None = None
    endpoint: str | None = None
    state: DeliveryState | None = None
    reason: DeadReason | None = None
    type: str | None = None
    since_ms: int | None = None
    until_ms: int | None = None
    status: str | None = None  # of its latest attempt: "503", "5xx", or "none" for no answer
    event: str | None = None  # the event's id, and so on
    ordering_key: str | None = None
    keys: tuple[bytes, bytes] | None = None
    value: bytes | None = None


def delivery_id(key: DeliveryKey) -> str:
    """Name a delivery for people: derived from the row's key, so it costs no column and no index."""
    return f"dlv_{_key_text(key)}"


def attempt_id(key: DeliveryKey, number: int) -> str:
    """Name an attempt for people."""
    return f"att_{_key_text(key)}{ids.encode(number, _NUMBER_PAIRS)}"


def delivery_key(text: str) -> DeliveryKey | None:
    """Read a delivery id; None when it is none."""
    event, endpoint = text[4 : 4 + 2 * _EVENT_PAIRS], text[4 + 2 * _EVENT_PAIRS :]
    if not text.startswith("dlv_") or len(endpoint) != 2 * _ENDPOINT_PAIRS:
        return None
    try:
        key = DeliveryKey(ids.decode(event), ids.decode(endpoint))
    except ValueError:
        return None
    return key if key.event < 1 << 62 else None


def _key_text(key: DeliveryKey) -> str:
    return ids.encode(key.event, _EVENT_PAIRS) + ids.encode(key.endpoint, _ENDPOINT_PAIRS)
