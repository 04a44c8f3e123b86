"""Ordering keys (Q12): of the deliveries of one endpoint with one key, only the first that blocks has a due time.

A delivery blocks those accepted after it until its first attempt ended, or until it ended itself, as its event says. Once
it has let them pass it blocks nobody any more, whatever is retried by hand. One that is cancelled while its attempt is
under way leaves a row in `cancelled_head`, which blocks until that attempt has ended; no attempt outlives the process.
"""

import sqlite3
from collections.abc import Iterable

from relay.core.model import DeliveryKey, DueDelivery
from relay.store.sqlite.rows import DUE_COLUMNS, due_delivery

PREDECESSOR = """
    SELECT 1 FROM delivery INDEXED BY delivery_order WHERE endpoint = ?1 AND ordering_key = ?2 AND blocking > 0
    UNION ALL SELECT 1 FROM cancelled_head WHERE endpoint = ?1 AND ordering_key = ?2 LIMIT 1"""

CANCELLED_HEAD = "SELECT 1 FROM cancelled_head WHERE endpoint = ? AND ordering_key = ? LIMIT 1"

FIRST_UNFINISHED = """
    SELECT event, due FROM delivery INDEXED BY delivery_order
    WHERE endpoint = ? AND ordering_key = ? AND blocking > 0 ORDER BY event LIMIT 1"""

FIRST_IN_LINE = f"""
    SELECT {DUE_COLUMNS} FROM delivery INDEXED BY delivery_order
    WHERE endpoint = ?2 AND blocking > 0
      AND ordering_key = (SELECT ordering_key FROM delivery WHERE event = ?1 AND endpoint = ?2)
    ORDER BY event LIMIT 1"""

# It has been waiting for its turn since `budget_from`, so that is when it was due; a `deliver_at` may still lie ahead.
_PROMOTE = f"UPDATE delivery SET due = budget_from WHERE event = ? AND endpoint = ? RETURNING {DUE_COLUMNS}"

_RELEASE = """
    DELETE FROM cancelled_head WHERE endpoint = ?2 AND event = ?1
      AND ordering_key = (SELECT ordering_key FROM delivery WHERE event = ?1 AND endpoint = ?2)
    RETURNING endpoint, ordering_key"""


def waiting_for_predecessors(
    connection: sqlite3.Connection, entries: Iterable[tuple[int, int, str]]
) -> set[tuple[int, int]]:
    """Find the new deliveries that must wait; `entries` are (event, endpoint, ordering key), each found in O(log n)."""
    waiting: set[tuple[int, int]] = set()
    busy: set[tuple[int, str]] = set()
    for event, ref, ordering_key in entries:
        lane = (ref, ordering_key)
        if lane in busy or connection.execute(PREDECESSOR, lane).fetchone():
            waiting.add((event, ref))
        busy.add(lane)
    return waiting


def first_in_line(connection: sqlite3.Connection, key: DeliveryKey) -> list[DueDelivery]:
    """Return whose turn it is among those with a delivery's ordering key, where the answer that named it may have been lost."""
    row = connection.execute(FIRST_IN_LINE, key).fetchone()
    return [] if row is None or row[2] is None else [due_delivery(row)]


def promote(connection: sqlite3.Connection, ended: Iterable[tuple[int, str]]) -> list[DueDelivery]:
    """Give a due time to those whose predecessor has ended; `ended` names (endpoint, ordering key)."""
    promoted = []
    for lane in dict.fromkeys(ended):
        row = connection.execute(FIRST_UNFINISHED, lane).fetchone()
        if row is None or row[1] is not None or connection.execute(CANCELLED_HEAD, lane).fetchone():
            continue
        promoted.append(due_delivery(connection.execute(_PROMOTE, (row[0], lane[0])).fetchone()))
    return promoted


def leave_head(connection: sqlite3.Connection, key: DeliveryKey, ordering_key: str) -> None:
    """Let the successors of a cancelled delivery wait until its attempt, which is under way, has ended."""
    connection.execute("INSERT INTO cancelled_head VALUES (?, ?, ?)", (key.endpoint, ordering_key, key.event))


def release_head(connection: sqlite3.Connection, key: DeliveryKey) -> list[DueDelivery]:
    """End that wait, if there is one: the attempt of a delivery has ended."""
    return promote(connection, connection.execute(_RELEASE, key).fetchall())


def release_all_heads(connection: sqlite3.Connection) -> None:
    """End all such waits at a start; O(waits)."""
    promote(connection, connection.execute("DELETE FROM cancelled_head RETURNING endpoint, ordering_key").fetchall())
