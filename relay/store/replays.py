"""Replays as the rest of the relay sees them: jobs that send deliveries again, and what the store does for them.

A replay first selects: it walks what there is, in pages, and notes each delivery it is about as an item. Then it runs: a
step takes items away and makes their deliveries due, in one transaction. So a crash loses no item and repeats none.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import NamedTuple, Protocol

from relay.core.frozen import Variant
from relay.core.model import DeadReason, DeliveryKey, DeliveryState, DueDelivery, ReplayMode
from relay.core.units import Rate
from relay.core.views import Page
from relay.store.values import CreationRecord


class ReplayState(StrEnum):
    """Where a replay stands."""

    SELECTING = "selecting"
    RUNNING = "running"
    FINISHED = "finished"
    CANCELLED = "cancelled"


class Skip(StrEnum):
    """Why a replay leaves out something that it had selected, or that was named by its id."""

    UNKNOWN = "unknown"  # no such event or delivery, or it is not of this application
    UNWANTED = "unwanted"  # it is named by its id, and not in a state that the mode is about
    GONE = "gone"  # its event was removed by retention meanwhile
    DUE = "due"  # it is due anyway
    CHANGED = "changed"  # it is in another state by now
    REPLAYED = "replayed"  # it was sent again meanwhile, by hand or by another replay
    EXPIRED = "expired"
    ENDPOINT_DISABLED = "endpoint_disabled"
    ENDPOINT_DELETED = "endpoint_deleted"
    UNDECIDED = "undecided"  # its filter, or its endpoint's contract, needs data that cannot be read from its body
    UNRENDERABLE = "unrenderable"  # its endpoint's contract cannot write it


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which events and deliveries a replay is about; times are those of the event, `until_ms` is exclusive."""

    endpoint: str | None = None  # id
    type: str | None = None
    state: DeliveryState | None = None
    reason: DeadReason | None = None
    since_ms: int | None = None
    until_ms: int | None = None


@dataclass(frozen=True, slots=True)
class Replay:
    """A job that sends deliveries again."""

    id: str
    application: str | None  # id; None: of all
    mode: ReplayMode
    wanted: Wanted
    rate: Rate
    force: bool  # what has expired, too
    created_by: str
    created_at_ms: int
    is_own: bool = False  # made by the application itself
    ref: int = 0  # until it is stored
    up_to: int = 0  # ordinal of the latest event when it was made
    state: ReplayState = ReplayState.SELECTING
    place: str = ""  # how far the selection came; "" at its beginning
    is_cut: bool = False  # there was more than a replay may have
    selected: int = 0
    replayed: int = 0  # made due so far
    skipped: Mapping[str, int] = field(default_factory=dict)  # by reason
    finished_at_ms: int | None = None
    cancelled_by: str | None = None

    @property
    def left(self) -> int:
        """How many of the selected are still before it."""
        return self.selected - self.replayed - sum(self.skipped.get(why, 0) for why in SKIPPED_LATER)

    @property
    def is_over(self) -> bool:
        return self.finished_at_ms is not None


SKIPPED_LATER = (
    Skip.GONE,
    Skip.DUE,
    Skip.CHANGED,
    Skip.REPLAYED,
    Skip.EXPIRED,
    Skip.ENDPOINT_DISABLED,
    Skip.ENDPOINT_DELETED,
)
"""What is left out only when its turn comes: it was selected."""


class Selected(NamedTuple):
    """What one page of a selection found."""

    keys: Sequence[DeliveryKey]
    place: str | None  # where the next page begins; None: this was the last
    skipped: Mapping[str, int] = {}
    examined: int = 0  # rows that were looked at
    variants: Sequence[tuple[int, Variant]] = ()  # what to freeze of which events, for endpoints with another contract


class Candidate(NamedTuple):
    """An event, of which the caller says to which endpoints it is missing."""

    ordinal: int
    id: str
    type: str
    application: str  # id
    place: str | None  # behind it, where the next page may begin; None where ids are looked up
    aimed: frozenset[int] | None  # refs of the endpoints that its producer named; None: it named none


class Candidates(NamedTuple):
    """One page of events, oldest first."""

    events: Sequence[Candidate]
    place: str | None
    unknown: int = 0  # ids of none of them


class Share(NamedTuple):
    """How many items of an endpoint a step takes."""

    endpoint: int  # ref
    most: int
    drop: Skip | None = None  # why they are left out instead of made due


class ReplayStep(NamedTuple):
    """What a step came to."""

    replay: Replay
    due: Sequence[DueDelivery]
    emptied: Sequence[int]  # endpoints of which there are no more items


class ReplayStore(Protocol):
    """What the store does for replays. Errors are those of the store."""

    async def create(self, replay: Replay, ids: Sequence[str], record: CreationRecord | None, /) -> Replay:
        """Keep a new replay; the answer knows its ref and the latest event. O(ids)"""

    async def find(self, replay_id: str, /) -> Replay | None:
        """Read a replay; O(log n)."""

    async def list(self, application: str | None, before: int | None, limit: int, /) -> Page[Replay]:
        """List replays, newest first, those before the ref `before`. O(replays)"""

    async def unfinished(self) -> Sequence[Replay]:
        """Read what is not over, or has items to be cleared, oldest first. O(replays)"""

    async def select(self, replay: Replay, ids: Sequence[str] | None = None, /) -> Selected:
        """Read the next page of deliveries that a replay is about, from its place on. O(the page)

        `ids` are those that it is about, before it is stored; of a stored one they are known.
        """

    async def candidates(self, replay: Replay, ids: Sequence[str] | None = None, /) -> Candidates:
        """Read the next page of events that may be missing somewhere. O(the page)"""

    async def never_owed(self, keys: Sequence[DeliveryKey], /) -> Sequence[DeliveryKey]:
        """Return those of the keys that name no delivery; O(keys * log n)."""

    async def note(self, replay: Replay, selected: Selected, most: int, /) -> Replay:
        """Note a page of what a replay selected, and go on to the next place; at most `most` items in all. O(page)"""

    async def endpoints(self, ref: int, /) -> Sequence[int]:
        """Read which endpoints a replay has items of; O(those * log n)."""

    async def step(self, ref: int, shares: Sequence[Share], /) -> ReplayStep:
        """Make some items due, the oldest of each endpoint first, or leave them out; with the last the replay is finished.

        Nothing of one that is over. O(items * log n)
        """

    async def cancel(self, replay_id: str, by: str, /) -> Replay:
        """Cancel a replay: no step of it follows. NotFound, or Conflict `replay_over`. O(log n)"""

    async def clear(self, ref: int, limit: int, /) -> int:
        """Remove some items of a replay that is over; the answer is how many. O(limit)"""
