"""How many bytes of bodies are still owed, by application: kept in the transactions that change it.

An event counts once, from the commit of its first due delivery to the end of its last one. Every verb that makes a
delivery due or ends one says so here, in its own transaction; the answer is what memory follows after the commit.
"""

import json
import sqlite3
from collections import Counter
from collections.abc import Collection, Mapping
from types import MappingProxyType

from relay.store.sqlite.rows import execute_values

Owed = Mapping[int, int]
"""How many more bytes an application owes now, by its ref."""

NOTHING: Owed = MappingProxyType({})

_SIZES = """
    SELECT e.application, length(e.body) FROM json_each(?) CROSS JOIN event e ON e.ordinal = json_each.value
    WHERE {} (SELECT 1 FROM delivery d WHERE d.event = e.ordinal AND d.state = 0{})"""

ENDED = _SIZES.format("NOT EXISTS", "")
BEGUN = _SIZES.format("NOT EXISTS", " AND d.endpoint != ?2")

_ADD = """
    ON CONFLICT (application) DO UPDATE SET bytes = bytes + excluded.bytes"""


def add(connection: sqlite3.Connection, owed: Owed) -> Owed:
    """Write down a change; one statement for all its applications."""
    execute_values(connection, "INSERT INTO owed (application, bytes)", list(owed.items()), _ADD)
    return owed


def ended(connection: sqlite3.Connection, events: Collection[int]) -> Owed:
    """Take off the events of which nothing is due any more; a delivery of each of them has just ended.

    O(deliveries) of each event, from the key of the table alone.
    """
    if not events:
        return NOTHING
    rows = connection.execute(ENDED, (json.dumps(list(set(events))),)).fetchall()
    return add(connection, {application: -size for application, size in totals(rows).items()})


def begun(connection: sqlite3.Connection, event: int, endpoint: int) -> Owed:
    """Put an event back of which nothing else was due; its delivery to `endpoint` has just become due again."""
    return add(connection, dict(connection.execute(BEGUN, (json.dumps([event]), endpoint)).fetchall()))


def stored(connection: sqlite3.Connection) -> Owed:
    """Read what is written down; O(applications)."""
    return dict(connection.execute("SELECT application, bytes FROM owed").fetchall())


def totals(sizes: Collection[tuple[int, int]]) -> Owed:
    """Add up (application, bytes) by application."""
    found: Counter[int] = Counter()
    for application, size in sizes:
        found[application] += size
    return found
