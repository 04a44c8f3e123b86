"""Idempotency (Q8): who was first with a key or an id, and what everybody after is told."""

import json
import sqlite3
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from relay.core.errors import Conflict
from relay.core.model import Duplicate, Idempotency, NewEvent
from relay.store.sqlite.bulk import insert_many


class Entry(NamedTuple):
    """An event on its way into the database."""

    ordinal: int
    event: NewEvent
    overflowed: tuple[int, ...]  # targets whose backlog is full


def turn_away(connection: sqlite3.Connection, entries: Sequence[Entry]) -> Mapping[int, Duplicate | Conflict]:
    """Claim the keys of new events and say what becomes of the rest, by ordinal.

    A producer's own id is taken while its event is stored; a key stays claimed after its event was pruned.
    """
    if not any(entry.event.idempotency or entry.event.id_given for entry in entries):
        return {}
    taken = _taken_ids(connection, entries)
    keyed = [entry for entry in entries if entry.event.idempotency is not None]
    winners = _claim(connection, [entry for entry in keyed if entry.ordinal not in taken])
    known = _known(connection, [entry for entry in keyed if entry.ordinal not in winners])
    refused: dict[int, Duplicate | Conflict] = {ordinal: _id_taken(event_id) for ordinal, event_id in taken.items()}
    refused.update({entry.ordinal: _repeat(entry, known[entry.ordinal]) for entry in keyed if entry.ordinal in known})
    return refused


def _taken_ids(connection: sqlite3.Connection, entries: Sequence[Entry]) -> dict[int, str]:
    """Find the entries whose given id another event has, stored or earlier in this group; ordinal → id."""
    given = [entry for entry in entries if entry.event.id_given]
    if not given:
        return {}
    found = connection.execute(
        "SELECT id FROM event WHERE id IN (SELECT value FROM json_each(?))",
        (json.dumps([entry.event.id for entry in given]),),
    )
    seen = {row[0] for row in found}
    taken = {}
    for entry in given:
        if entry.event.id in seen:
            taken[entry.ordinal] = entry.event.id
        seen.add(entry.event.id)
    return taken


def _claim(connection: sqlite3.Connection, entries: Sequence[Entry]) -> set[int]:
    """Claim each entry's key; the answer is the ordinals of those that were first."""
    keys = [(entry.event.application, _idempotency(entry).key, entry.ordinal) for entry in entries]
    rows = insert_many(
        connection,
        "INSERT INTO idempotency (application, key, event)",
        keys,
        "ON CONFLICT DO NOTHING RETURNING event",
    )
    winners = {row[0] for row in rows}
    insert_many(
        connection,
        "INSERT INTO claim (event, application, key, fingerprint, event_id, type, created_at, deliveries)",
        [_claim_row(entry) for entry in entries if entry.ordinal in winners],
    )
    return winners


def _claim_row(entry: Entry) -> tuple[object, ...]:
    ordinal, event, overflowed = entry
    idempotency = _idempotency(entry)
    return (
        ordinal,
        event.application,
        idempotency.key,
        idempotency.fingerprint,
        event.id,
        event.type,
        event.created_at_ms,
        len(event.targets) - len(overflowed),
    )


_Claim = tuple[bytes, str, str, int, int]


def _known(connection: sqlite3.Connection, entries: Sequence[Entry]) -> dict[int, _Claim]:
    """Read the claims that stand in the way of these entries, by the entries' ordinals."""
    known = {}
    for entry in entries:
        row = connection.execute(
            """
            SELECT c.fingerprint, c.event_id, c.type, c.created_at, c.deliveries
            FROM idempotency i JOIN claim c ON c.event = i.event WHERE i.application = ? AND i.key = ?""",
            (entry.event.application, _idempotency(entry).key),
        ).fetchone()
        if row is not None:
            known[entry.ordinal] = row
    return known


def _repeat(entry: Entry, claim: _Claim) -> Duplicate | Conflict:
    fingerprint, event_id, event_type, created_at_ms, deliveries = claim
    idempotency = _idempotency(entry)
    differs = fingerprint != idempotency.fingerprint
    if differs and not idempotency.derived:
        return Conflict(
            "idempotency_conflict",
            f"the key was used for another event ({event_id})",
            remedy="Repeat a request with the same type and data, or use a new key.",
        )
    return Duplicate(event_id, event_type, created_at_ms, deliveries, differs)


def _id_taken(event_id: str) -> Conflict:
    return Conflict("event_id_taken", f"an event {event_id!r} exists", remedy="Use another id, or leave it out.")


def _idempotency(entry: Entry) -> Idempotency:
    assert entry.event.idempotency is not None, "only keyed entries come here"
    return entry.event.idempotency
