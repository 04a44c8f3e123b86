"""What events said that later ones need to know: read, and written, in the transaction of the events themselves.

So what was accepted first is known to what was accepted after it, in the same group of writes, back to back, and after
a crash. An application remembers so many keys and no more; what was not said again for longest goes first.
"""

import sqlite3
from collections.abc import Sequence
from dataclasses import replace

from relay.core.model import NoDelivery
from relay.store.sqlite.bulk import insert_many
from relay.store.sqlite.claims import Entry

ENTRIES_MAX = 100_000
"""Keys that one application remembers."""

VALUE_CHARACTERS_MAX = 1_000
"""How much of a value is kept: what counts is that something was said."""

KNOWN = "SELECT 1 FROM remembered WHERE application = ? AND key = ?"

_LEARN = "INSERT INTO remembered (application, key, value, updated_at)"
_AGAIN = "ON CONFLICT (application, key) DO UPDATE SET value = excluded.value, updated_at = excluded.updated_at"

SIZE = "SELECT entries FROM remembered_size WHERE application = ?"

FORGET_SOME = """
    DELETE FROM remembered WHERE application = ?1 AND key IN (
      SELECT key FROM remembered INDEXED BY remembered_age WHERE application = ?1 ORDER BY updated_at, key LIMIT ?2)"""

FORGET_OLD = """
    DELETE FROM remembered WHERE (application, key) IN (
      SELECT r.application, r.key
      FROM remembered_size s CROSS JOIN remembered r INDEXED BY remembered_age ON r.application = s.application
      WHERE r.updated_at < ? LIMIT ?)"""

Known = dict[tuple[int, str], tuple[str, int]]  # (application, key) → value and time, said in this transaction


def consult(
    connection: sqlite3.Connection, entries: Sequence[Entry], entries_max: int = ENTRIES_MAX
) -> Sequence[Entry]:
    """Let events learn from each other, in order; the answer has those that must be held back without targets."""
    if not any(entry.event.recall or entry.event.remember for entry in entries):
        return entries
    said: Known = {}
    answers = []
    for entry in entries:
        answers.append(_hold_back(connection, entry, said))
        event = entry.event
        if event.remember is not None:
            value = event.remember.value[:VALUE_CHARACTERS_MAX]
            said[event.application, event.remember.key] = value, event.created_at_ms
    _learn(connection, said, entries_max)
    return answers


def forget_old(connection: sqlite3.Connection, before_ms: int, limit: int) -> int:
    """Remove some of what was not said again since a time; the answer is how many."""
    return connection.execute(FORGET_OLD, (before_ms, limit)).rowcount


def _hold_back(connection: sqlite3.Connection, entry: Entry, said: Known) -> Entry:
    event = entry.event
    if event.recall is None:
        return entry
    place = event.application, event.recall.key
    if place in said or connection.execute(KNOWN, place).fetchone():
        return entry
    connection.execute("UPDATE claim SET deliveries = 0 WHERE event = ?", (entry.ordinal,))
    held_back = replace(event, targets=(), reason=NoDelivery.FILTERED, reason_detail=event.recall.otherwise)
    return Entry(entry.ordinal, held_back, ())


def _learn(connection: sqlite3.Connection, said: Known, entries_max: int) -> None:
    insert_many(connection, _LEARN, [(*place, *what) for place, what in said.items()], _AGAIN)
    for application in {application for application, _ in said}:
        (entries,) = connection.execute(SIZE, (application,)).fetchone()
        if entries > entries_max:
            connection.execute(FORGET_SOME, (application, entries - entries_max))
