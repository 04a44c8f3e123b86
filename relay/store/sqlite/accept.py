"""Accepting events: an event and all its deliveries in one transaction (invariant 1), repeats answered (Q8).

In the order of reading: an event whose given id or key is known is turned away, unless it may go now and the first one
could not: then it takes the place of that; one that is sent only if something was said before is held back if it was not;
what is left is stored, and its deliveries are due unless a predecessor of their ordering key is unfinished. All of it happens in one transaction, so what was accepted first is known to what was
accepted after it: in the same group of writes, back to back, and after a crash.
"""

import json
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from itertools import count
from operator import attrgetter
from typing import NamedTuple
from zlib import crc32

from relay.core.errors import Conflict
from relay.core.frozen import FrozenEvent, Variant
from relay.core.model import (
    Accepted,
    DeadReason,
    DeliveryState,
    DueDelivery,
    Duplicate,
    Idempotency,
    KeyKind,
    NewEvent,
    NoDelivery,
)
from relay.store.sqlite.order import waiting_for_predecessors
from relay.store.sqlite.rows import CODES, Row, execute_values
from relay.store.values import AcceptResult

REMEMBERED_MAX = 100_000
"""Keys that one application remembers; what was not said again for longest goes first."""

VALUE_CHARACTERS_MAX = 1_000
"""How much of a remembered value is kept: what counts is that something was said."""

_INSERT_EVENT = """
    INSERT INTO event (ordinal, id, type, application, created_at, expires_at, body, checksum,
                       timestamp, deliver_at, ordering_key, reason, reason_detail, metadata)"""

# The fields of an event in the order of these columns: what an attempt needs, and the rest.
_FROZEN = attrgetter("id", "type", "application", "created_at_ms", "expires_at_ms", "body")
_REST = attrgetter("timestamp_ms", "deliver_at_ms", "ordering_key", "reason", "reason_detail", "metadata")

_INSERT_DELIVERY = """
    INSERT INTO delivery (event, endpoint, state, due, budget_from, finished_at, reason, expires_at, ordering_key,
                          blocking, share)"""

_INSERT_AIMED = "INSERT INTO aimed (event, endpoint)"

_INSERT_VARIANT = "INSERT INTO variant (event, contract, endpoints, fault, checksum, body)"

_INSERT_VALUE = "INSERT INTO search_value (digest, created_at, event)"

_INSERT_CLAIM = """
    INSERT INTO claim (event, application, key, fingerprint, event_id, type, created_at, deliveries)"""

_KNOWN_CLAIM = """
    SELECT c.event, c.fingerprint, c.event_id, c.type, c.created_at, c.deliveries, e.ordinal, e.reason, e.reason_detail
    FROM idempotency i JOIN claim c ON c.event = i.event LEFT JOIN event e ON e.ordinal = c.event
    WHERE i.application = ? AND i.key = ?"""

KNOWN = "SELECT 1 FROM remembered WHERE application = ? AND key = ?"

FORGET_SOME = """
    DELETE FROM remembered WHERE application = ?1 AND key IN (
      SELECT key FROM remembered INDEXED BY remembered_age WHERE application = ?1 ORDER BY updated_at, key LIMIT ?2)"""

Known = dict[tuple[int, str], tuple[str, int]]  # (application, key) → value and time, said in this transaction


Batch = Sequence[tuple[NewEvent, frozenset[int]]]
"""Events that are accepted together, each with those of its targets whose backlog is full (Q10)."""


class Entry(NamedTuple):
    """An event on its way into the database."""

    ordinal: int
    event: NewEvent
    overflowed: frozenset[int]


_FORGET_EVENT = (
    "DELETE FROM event WHERE ordinal = ?",
    "DELETE FROM aimed WHERE event = ?",
    "DELETE FROM variant WHERE event = ?",
    "DELETE FROM search_value WHERE event = ?",
    "DELETE FROM claim WHERE event = ?",
)
"""All there is of an event that has no deliveries, but its key."""


class Claim(NamedTuple):
    """Whose a key is: what the first event with it was, and while that is stored, why it has no deliveries."""

    ordinal: int
    fingerprint: bytes
    event_id: str
    type: str
    created_at_ms: int
    deliveries: int
    stored: int | None  # its ordinal, None once it was pruned
    reason: str | None
    reason_detail: str | None

    @property
    def filtered(self) -> bool:
        return self.reason == NoDelivery.FILTERED


class Acceptor:
    """Owner of the ordinals. Lives in the writer's thread."""

    _ordinals: Iterator[int]

    def resume(self, connection: sqlite3.Connection) -> None:
        """Go on after the highest ordinal that was ever given out, pruned or not."""
        (last,) = connection.execute("""
            SELECT max((SELECT coalesce(max(ordinal), 0) FROM event), (SELECT coalesce(max(event), 0) FROM claim),
                       (SELECT value FROM meta WHERE name = 'ordinal_floor'))""").fetchone()
        self._ordinals = count(last + 1)

    def accept(self, connection: sqlite3.Connection, batches: Sequence[Batch]) -> list[list[AcceptResult]]:
        """Store what is new in all batches; one list of results for each. O(events + deliveries), each O(log n)."""
        # A failed group leaves a gap: its commit may have been kept after all, so its numbers are not used again.
        entries = [Entry(next(self._ordinals), *item) for batch in batches for item in batch]
        results: dict[int, AcceptResult] = {}
        for together in _rounds(entries):
            turned_away, left = _turn_away(connection, together)
            results.update(turned_away)
            results.update(_store(connection, hold_back(connection, left)))
        answers = iter([results[entry.ordinal] for entry in entries])
        return [[next(answers) for _ in batch] for batch in batches]


# -- repeats -------------------------------------------------------------------------------------------------------


def _rounds(entries: Sequence[Entry]) -> Iterator[Sequence[Entry]]:
    """Cut a group before each event whose key one before it has that may be filtered: that one must be stored first."""
    begin, open_keys = 0, set[tuple[int, bytes]]()
    for place, (_, event, _) in enumerate(entries):
        if event.idempotency is None:
            continue
        key = event.application, event.idempotency.key
        if key in open_keys:
            yield entries[begin:place]
            begin, open_keys = place, set()
        if event.may_be_filtered:
            open_keys.add(key)
    yield entries[begin:]


def _turn_away(
    connection: sqlite3.Connection, entries: Sequence[Entry]
) -> tuple[Mapping[int, Duplicate | Conflict], Sequence[Entry]]:
    """Claim the keys of new events; return what becomes of those that are turned away, by ordinal, and the events left.

    A producer's own id is taken while its event is stored; a key stays claimed after its event was pruned.
    """
    if not any(entry.event.idempotency or entry.event.id_given for entry in entries):
        return {}, entries
    refused = _taken_ids(connection, entries)
    keyed = [entry for entry in entries if entry.event.idempotency is not None]
    winners = _claim(connection, [entry for entry in keyed if entry.ordinal not in refused])
    taking_over: dict[int, Entry] = {}
    for entry in keyed:
        claim = None if entry.ordinal in winners else _known_claim(connection, entry, entries)
        if claim is not None and claim.filtered and not _still_filtered(connection, entry, entries, refused):
            refused.pop(entry.ordinal, None)
            taking_over[entry.ordinal] = _take_over(connection, entry, claim)
        elif claim is not None:
            refused[entry.ordinal] = _repeat(entry, claim)
    left = [taking_over.get(entry.ordinal, entry) for entry in entries if entry.ordinal not in refused]
    return refused, left


def _taken_ids(connection: sqlite3.Connection, entries: Sequence[Entry]) -> dict[int, Duplicate | Conflict]:
    """Refuse the entries whose given id another event has, stored or earlier in this group, by ordinal."""
    given = [entry for entry in entries if entry.event.id_given]
    if not given:
        return {}
    found = connection.execute(
        "SELECT id FROM event WHERE id IN (SELECT value FROM json_each(?))",
        (json.dumps([entry.event.id for entry in given]),),
    )
    seen = {row[0] for row in found}
    refused: dict[int, Duplicate | Conflict] = {}
    for ordinal, event, _ in given:
        if event.id in seen:
            remedy = "Use another id, or leave it out."
            refused[ordinal] = Conflict("event_id_taken", f"an event {event.id!r} exists", remedy=remedy)
        seen.add(event.id)
    return refused


def _claim(connection: sqlite3.Connection, entries: Sequence[Entry]) -> set[int]:
    """Claim each entry's key; the answer is the ordinals of those that were first."""
    keys = [(entry.event.application, _idempotency(entry).key, entry.ordinal) for entry in entries]
    rows = execute_values(
        connection,
        "INSERT INTO idempotency (application, key, event)",
        keys,
        "ON CONFLICT DO NOTHING RETURNING event",
    )
    winners = {row[0] for row in rows}
    execute_values(connection, _INSERT_CLAIM, [_claim_row(entry) for entry in entries if entry.ordinal in winners])
    return winners


def _claim_row(entry: Entry) -> Row:
    ordinal, event, overflowed = entry
    key, fingerprint = _idempotency(entry).key, _idempotency(entry).fingerprint
    deliveries = len(event.targets) - len(overflowed)
    return (ordinal, event.application, key, fingerprint, event.id, event.type, event.created_at_ms, deliveries)


def _known_claim(connection: sqlite3.Connection, entry: Entry, entries: Sequence[Entry]) -> Claim | None:
    """Return whose an event's key is; the first one may be among `entries`, whose ordinals follow each other, unstored yet."""
    row = connection.execute(_KNOWN_CLAIM, (entry.event.application, _idempotency(entry).key)).fetchone()
    if row is None:
        return None
    claim, place = Claim(*row), row[0] - entries[0].ordinal
    if place < 0:
        return claim
    first = entries[place].event
    return claim._replace(stored=claim.ordinal, reason=first.reason, reason_detail=first.reason_detail)


def _still_filtered(
    connection: sqlite3.Connection, entry: Entry, entries: Sequence[Entry], refused: Mapping[int, object]
) -> bool:
    """Whether an event lacks what its first one lacked, by what was said before it, in this group too."""
    event = entry.event
    if event.recall is None:
        return event.reason is NoDelivery.FILTERED
    application, key = place = event.application, event.recall.key
    said_here = (
        other.ordinal < entry.ordinal and other.ordinal not in refused
        for other in entries
        if (what := other.event.remember) is not None and (other.event.application, what.key) == (application, key)
    )
    return not any(said_here) and connection.execute(KNOWN, place).fetchone() is None


def _take_over(connection: sqlite3.Connection, entry: Entry, claim: Claim) -> Entry:
    """Put an event in the place of the filtered one whose key it has: that goes, its id and key are the new one's."""
    ordinal, event, overflowed = entry
    if event.id != claim.event_id:
        assert event.body_under is not None, "every event that has a key can be made under another id"
        event = event._replace(id=claim.event_id, body=event.body_under(claim.event_id))
        if event.variants_under is not None:
            event = event._replace(variants=event.variants_under(claim.event_id))
    entry = Entry(ordinal, event, overflowed)
    for statement in _FORGET_EVENT:
        connection.execute(statement, (claim.ordinal,))
    key = event.application, _idempotency(entry).key
    connection.execute("UPDATE idempotency SET event = ? WHERE application = ? AND key = ?", (ordinal, *key))
    execute_values(connection, _INSERT_CLAIM, [_claim_row(entry)])
    return entry


_CONFLICTS = {
    KeyKind.GIVEN: (
        "the key was used for another event ({})",
        "Repeat a request with the same type and data, or use a new key.",
    ),
    KeyKind.ID: (
        "the event {} has another type or other data",
        "Repeat it as it was, or give this one another id.",
    ),
    KeyKind.DERIVED: (
        "the contract takes this for a repetition of the event {}, which has other data",
        "Repeat it as it was; to have this one sent as well, give it an idempotency_key of its own.",
    ),
}
"""What is said of another event under the same key, and what to do: producers know only keys that they gave."""


def _repeat(entry: Entry, claim: Claim) -> Duplicate | Conflict:
    idempotency = _idempotency(entry)
    differs = claim.fingerprint != idempotency.fingerprint and not claim.filtered
    if differs and not idempotency.may_differ:
        detail, remedy = _CONFLICTS[idempotency.kind]
        return Conflict("idempotency_conflict", detail.format(claim.event_id), remedy=remedy)
    reason: NoDelivery | DeadReason | None = None
    if claim.deliveries == 0 and claim.stored is not None:
        reason = DeadReason.OVERFLOW if claim.reason is None else NoDelivery(claim.reason)
    first = claim.event_id, claim.type, claim.created_at_ms, claim.deliveries
    return Duplicate(*first, differs, reason, claim.reason_detail or "")


def _idempotency(entry: Entry) -> Idempotency:
    assert entry.event.idempotency is not None, "only keyed entries come here"
    return entry.event.idempotency


# -- what later events need to know --------------------------------------------------------------------------------


def hold_back(
    connection: sqlite3.Connection, entries: Sequence[Entry], remembered_max: int = REMEMBERED_MAX
) -> Sequence[Entry]:
    """Let events learn from each other, in order; the answer has those without targets that nothing was said for."""
    if not any(entry.event.recall or entry.event.remember for entry in entries):
        return entries
    said: Known = {}
    answers = []
    for entry in entries:
        answers.append(_recalled(connection, entry, said))
        event = entry.event
        if event.remember is not None:
            value = event.remember.value[:VALUE_CHARACTERS_MAX]
            said[event.application, event.remember.key] = value, event.created_at_ms
    _remember(connection, said, remembered_max)
    return answers


def _recalled(connection: sqlite3.Connection, entry: Entry, said: Known) -> Entry:
    event = entry.event
    if event.recall is None:
        return entry
    place = event.application, event.recall.key
    if place in said or connection.execute(KNOWN, place).fetchone():
        return entry
    connection.execute("UPDATE claim SET deliveries = 0 WHERE event = ?", (entry.ordinal,))
    held_back = event._replace(
        targets=(), variants=(), reason=NoDelivery.FILTERED, reason_detail=event.recall.otherwise
    )
    return Entry(entry.ordinal, held_back, frozenset())


def _remember(connection: sqlite3.Connection, said: Known, remembered_max: int) -> None:
    execute_values(
        connection,
        "INSERT INTO remembered (application, key, value, updated_at)",
        [(*place, *what) for place, what in said.items()],
        "ON CONFLICT (application, key) DO UPDATE SET value = excluded.value, updated_at = excluded.updated_at",
    )
    for application in {application for application, _ in said}:
        size = "SELECT entries FROM remembered_size WHERE application = ?"
        (entries,) = connection.execute(size, (application,)).fetchone()
        if entries > remembered_max:
            connection.execute(FORGET_SOME, (application, entries - remembered_max))


# -- storing -------------------------------------------------------------------------------------------------------


def _store(connection: sqlite3.Connection, entries: Sequence[Entry]) -> dict[int, Accepted]:
    ordered = [
        (ordinal, ref, event.ordering_key)
        for ordinal, event, overflowed in entries
        if event.ordering_key is not None
        for ref in event.targets
        if ref not in overflowed
    ]
    waiting = waiting_for_predecessors(connection, ordered) if ordered else ()
    stored: dict[int, Accepted] = {}
    event_rows, delivery_rows = [], []
    for ordinal, event, overflowed in entries:
        due, share = [], event.share_bytes
        for ref in event.targets:
            row = _delivery_row(ordinal, event, ref, share, dead=ref in overflowed, waits=(ordinal, ref) in waiting)
            delivery_rows.append(row)
            due_ms, start_ms = row[3:5]
            if due_ms is not None:
                due.append(DueDelivery(ordinal, ref, due_ms, 1, 0, 0, start_ms))
        frozen = (ordinal, *_FROZEN(event))
        event_rows.append((*frozen, crc32(event.body), *_REST(event)))
        deliveries = len(event.targets) - len(overflowed)
        kept = FrozenEvent(*frozen)
        if event.variants:
            kept = kept._replace(variants=event.variants)
        stored[ordinal] = Accepted(kept, tuple(due), deliveries, event.reason, event.reason_detail, tuple(overflowed))
    execute_values(connection, _INSERT_EVENT, event_rows)
    execute_values(connection, _INSERT_DELIVERY, delivery_rows)
    execute_values(connection, _INSERT_AIMED, [(ordinal, ref) for ordinal, event, _ in entries for ref in event.aimed])
    variants = [_variant_row(ordinal, variant) for ordinal, event, _ in entries for variant in event.variants]
    execute_values(connection, _INSERT_VARIANT, variants)
    values = [(digest, event.created_at_ms, ordinal) for ordinal, event, _ in entries for digest in event.searchable]
    execute_values(connection, _INSERT_VALUE, values)
    return stored


def _variant_row(ordinal: int, variant: Variant) -> Row:
    contract, targets, body, fault, _ = variant
    return (ordinal, contract, json.dumps(targets), fault, crc32(body), body)


def _delivery_row(ordinal: int, event: NewEvent, ref: int, share: int, *, dead: bool, waits: bool) -> Row:
    start_ms = max(event.created_at_ms, event.deliver_at_ms or 0)
    expires_ms, key = event.expires_at_ms, event.ordering_key
    if dead:
        state, reason = CODES[DeliveryState.DEAD], DeadReason.OVERFLOW.value
        return (ordinal, ref, state, None, start_ms, event.created_at_ms, reason, expires_ms, key, 0, share)
    blocking = 0 if key is None else 1 + event.order_strictly
    due_ms = None if waits else start_ms
    return (ordinal, ref, CODES[DeliveryState.DUE], due_ms, start_ms, None, None, expires_ms, key, blocking, share)
