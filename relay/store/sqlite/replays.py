"""Replays in the database: what is noted of them, and what a step makes due, in one transaction with what it takes away."""

import json
import sqlite3
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any
from zlib import crc32

from relay.core.clock import Clock
from relay.core.errors import Conflict, NotFound
from relay.core.model import DeadReason, DeliveryKey, DeliveryState, DueDelivery, ReplayMode
from relay.core.units import format_rate, parse_rate
from relay.core.views import Page
from relay.store.replays import (
    Replay,
    ReplayState,
    ReplayStep,
    Selected,
    Share,
    Skip,
    Wanted,
)
from relay.store.sqlite.counts import Change, Move
from relay.store.sqlite.reader import Reader
from relay.store.sqlite.registry import save_creation
from relay.store.sqlite.rows import (
    DUE_COLUMNS,
    FORCED,
    REPLAYED,
    STATES,
    Row,
    due_delivery,
    execute_values,
    may_become,
)
from relay.store.sqlite.sealing import Keyring
from relay.store.sqlite.selection import ENDED, Selections
from relay.store.values import CreationRecord

COLUMNS = """ref, id, application, mode, wanted, rate, force, created_by, is_own, created_at, up_to, state, place, is_cut, selected,
    replayed, skipped, finished_at, cancelled_by"""

_INSERT = f"""
    INSERT INTO replay (ref, id, application, mode, wanted, rate, force, created_by, is_own, created_at, up_to, state, ids)
    VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, (SELECT coalesce(max(ordinal), 0) FROM event), 'selecting', ?)
    RETURNING {COLUMNS}"""

_NEXT_REF = "UPDATE meta SET value = value + 1 WHERE name = 'replays' RETURNING value"

FIND = f"SELECT {COLUMNS} FROM replay WHERE id = ?"
BY_REF = f"SELECT {COLUMNS} FROM replay WHERE ref = ?"
LIST = f"""
    SELECT {COLUMNS} FROM replay WHERE ref < ?1 AND (?2 IS NULL OR application = ?2) ORDER BY ref DESC LIMIT ?3"""
UNFINISHED = f"""
    SELECT {COLUMNS} FROM replay
    WHERE finished_at IS NULL OR EXISTS (SELECT 1 FROM replay_item i WHERE i.replay = replay.ref) ORDER BY ref"""

# From one endpoint to the next by a seek each, however many items there are.
ENDPOINTS = """
    WITH RECURSIVE found (ref) AS (
      SELECT min(endpoint) FROM replay_item WHERE replay = ?1
      UNION ALL
      SELECT (SELECT min(endpoint) FROM replay_item WHERE replay = ?1 AND endpoint > found.ref)
      FROM found WHERE ref IS NOT NULL)
    SELECT ref FROM found WHERE ref IS NOT NULL"""

ITEMS = "SELECT event FROM replay_item WHERE replay = ? AND endpoint = ? ORDER BY event LIMIT ?"

_LOOK = """
    SELECT d.state, d.reason, d.expires_at, d.replayed, n.deleted_at IS NOT NULL
    FROM delivery d JOIN endpoint n ON n.ref = d.endpoint WHERE d.event = ? AND d.endpoint = ?"""

_AGAIN = f"""
    UPDATE delivery SET state = 0, due = ?1, budget_from = max(?1, budget_from + 1), manual = ?4, reason = NULL,
      finished_at = NULL, cancelled_by = NULL, series = series + 1, series_attempts = 0,
      replayed = 1 + (SELECT value FROM meta WHERE name = 'replays')
    WHERE event = ?2 AND endpoint = ?3 AND state != 0 AND {may_become(DeliveryState.DUE)}
    RETURNING {DUE_COLUMNS}, share"""

_LOOK_AT_EVENT = """
    SELECT e.expires_at, n.application FROM event e JOIN endpoint n ON n.ref = ?2 AND n.deleted_at IS NULL
    WHERE e.ordinal = ?1"""

# Whoever waits by an ordering key waits for what was accepted in order; this was not, so it has none.
_OWE = f"""
    INSERT INTO delivery (event, endpoint, state, due, budget_from, manual, expires_at, share, replayed)
    SELECT e.ordinal, ?3, 0, ?1, ?1, ?4, e.expires_at, length(e.body), 1 + (SELECT value FROM meta WHERE name = 'replays')
    FROM event e WHERE e.ordinal = ?2
    RETURNING {DUE_COLUMNS}, share"""

_OWED = "UPDATE event SET reason = NULL, reason_detail = '' WHERE ordinal = ? AND reason IS NOT NULL"

# What was frozen for other endpoints under the same contract is for these, too.
_FREEZE = """
    INSERT INTO variant (event, contract, endpoints, fault, checksum, body) VALUES (?1, ?2, json_array(?3), '', ?4, ?5)
    ON CONFLICT (event, contract) DO UPDATE SET endpoints = json_insert(endpoints, '$[#]', ?3)
    WHERE ?3 NOT IN (SELECT value FROM json_each(endpoints))"""

_CLEAR = """
    DELETE FROM replay_item WHERE (replay, endpoint, event) IN (
      SELECT replay, endpoint, event FROM replay_item WHERE replay = ? LIMIT ?)"""

Edit = Callable[..., Awaitable[Any]]


class ReplayRows(Selections):
    """The part of the store that is about replays. It writes through the store's writer, and reads as a search does."""

    def __init__(self, edit: Edit, search: Callable[[], Reader], clock: Clock, keys: Keyring) -> None:
        super().__init__(search)
        self._edit = edit
        self._clock = clock
        self._keys = keys

    async def create(self, made: Replay, ids: Sequence[str], record: CreationRecord | None) -> Replay:
        row: Replay = await self._edit(_create, made, ids, record, self._keys)
        return row

    async def find(self, replay_id: str) -> Replay | None:
        rows = await self._search().fetch(FIND, (replay_id,))
        return _replay(rows[0]) if rows else None

    async def list(self, application: str | None, before: int | None, limit: int) -> Page[Replay]:
        last = 1 << 62 if before is None else before
        rows = [_replay(row) for row in await self._search().fetch(LIST, (last, application, limit + 1))]
        cursors = [str(row.ref) for row in rows[:limit]]
        return Page(tuple(rows[:limit]), cursors[-1] if len(rows) > limit else None, cursors)

    async def unfinished(self) -> Sequence[Replay]:
        return [_replay(row) for row in await self._search().fetch(UNFINISHED)]

    async def note(self, of: Replay, selected: Selected, most: int) -> Replay:
        row: Replay = await self._edit(_note, of, selected, most, self._clock.wall_ms())
        return row

    async def endpoints(self, ref: int) -> Sequence[int]:
        return [row[0] for row in await self._search().fetch(ENDPOINTS, (ref,))]

    async def step(self, ref: int, shares: Sequence[Share]) -> ReplayStep:
        step: ReplayStep = await self._edit(_step, ref, shares, self._clock.wall_ms())
        return step

    async def cancel(self, replay_id: str, by: str) -> Replay:
        row: Replay = await self._edit(_cancel, replay_id, by, self._clock.wall_ms())
        return row

    async def clear(self, ref: int, limit: int) -> int:
        removed: int = await self._edit(_clear, ref, limit)
        return removed


# -- writing ----------------------------------------------------------------------------------------------------------------


def _create(
    connection: sqlite3.Connection, made: Replay, ids: Sequence[str], record: CreationRecord | None, keys: Keyring
) -> Change[Replay]:
    (ref,) = connection.execute(_NEXT_REF).fetchone()
    values = (ref, made.id, made.application, made.mode, json.dumps(asdict(made.wanted)), format_rate(made.rate))
    more = (made.force, made.created_by, made.is_own, made.created_at_ms, json.dumps(ids) if ids else None)
    row = connection.execute(_INSERT, (*values, *more)).fetchone()
    if record is not None:
        save_creation(connection, record, keys)
    return Change(_replay(row))


def _note(connection: sqlite3.Connection, of: Replay, selected: Selected, most: int, now_ms: int) -> Change[Replay]:
    """Note a page, unless that was done already, by a commit of which nobody knew, or the replay was cancelled."""
    present = _present(connection, of.ref)
    if present.state is not ReplayState.SELECTING or present.place != of.place:
        return Change(present)
    room = most - present.selected
    items = [(of.ref, key.endpoint, key.event) for key in selected.keys[:room]]
    insert = "INSERT OR IGNORE INTO replay_item (replay, endpoint, event)"
    added = len(execute_values(connection, insert, items, "RETURNING 1"))
    for event, variant in selected.variants:
        for ref in variant.targets:
            connection.execute(_FREEZE, (event, variant.contract, ref, crc32(variant.body), variant.body))
    is_cut = len(selected.keys) > room or (len(selected.keys) == room and selected.place is not None)
    ends = is_cut or selected.place is None
    noted = replace(
        present,
        state=ReplayState.RUNNING if ends else ReplayState.SELECTING,
        place="" if ends else selected.place or "",
        is_cut=is_cut,
        selected=present.selected + added,
        skipped=_summed(present.skipped, selected.skipped),
    )
    return Change(_save(connection, noted, now_ms))


def _step(connection: sqlite3.Connection, ref: int, shares: Sequence[Share], now_ms: int) -> Change[ReplayStep]:
    present = _present(connection, ref)
    if present.state is not ReplayState.RUNNING:
        return Change(ReplayStep(present, (), ()))
    due: list[DueDelivery] = []
    moves: list[Move] = []
    owners: dict[int, int] = {}
    skipped: Counter[str] = Counter()
    taken: list[Row] = []
    emptied: list[int] = []
    for share in shares:
        events = [event for (event,) in connection.execute(ITEMS, (ref, share.endpoint, share.most))]
        taken += [(ref, share.endpoint, event) for event in events]
        emptied += [share.endpoint] if len(events) < share.most else []
        if share.drop is not None:
            skipped[share.drop] += len(events)
            continue
        for event in events:
            again = _owe if present.mode is ReplayMode.MISSING else _again
            made = again(connection, present, DeliveryKey(event, share.endpoint), now_ms, owners)
            if isinstance(made, Skip):
                skipped[made] += 1
            else:
                due.append(made[0])
                moves.append(made[1])
    connection.executemany("DELETE FROM replay_item WHERE replay = ? AND endpoint = ? AND event = ?", taken)
    after = replace(present, replayed=present.replayed + len(due), skipped=_summed(present.skipped, skipped))
    return Change(ReplayStep(_save(connection, after, now_ms), due, emptied), moves, owners=owners)


def _again(
    connection: sqlite3.Connection, of: Replay, key: DeliveryKey, now_ms: int, owners: Mapping[int, int]
) -> tuple[DueDelivery, Move] | Skip:
    """Make a delivery due that has ended, in a new series, or say why not."""
    found = connection.execute(_LOOK, key).fetchone()
    if found is None:
        return Skip.GONE
    code, reason, expires_at_ms, replayed, is_deleted = found
    if is_deleted:
        return Skip.ENDPOINT_DELETED
    if replayed > of.ref:
        return Skip.REPLAYED
    if STATES[code] not in ENDED[of.mode]:
        return Skip.DUE if STATES[code] is DeliveryState.DUE else Skip.CHANGED
    if _has_expired(expires_at_ms, of, now_ms):
        return Skip.EXPIRED
    row = connection.execute(_AGAIN, (now_ms, *key, _manual(of))).fetchone()
    died = -1 if reason is not None else 0
    return due_delivery(row), (key.endpoint, 1, row[8], died, reason)


def _owe(
    connection: sqlite3.Connection, of: Replay, key: DeliveryKey, now_ms: int, owners: dict[int, int]
) -> tuple[DueDelivery, Move] | Skip:
    """Owe an event to an endpoint that it was never owed to, or say why not."""
    if connection.execute(_LOOK, key).fetchone() is not None:
        return Skip.CHANGED
    found = connection.execute(_LOOK_AT_EVENT, key).fetchone()
    if found is None:
        return Skip.GONE
    expires_at_ms, owners[key.endpoint] = found
    if _has_expired(expires_at_ms, of, now_ms):
        return Skip.EXPIRED
    row = connection.execute(_OWE, (now_ms, *key, _manual(of))).fetchone()
    connection.execute(_OWED, (key.event,))
    return due_delivery(row), (key.endpoint, 1, row[8], 0, None)


def _has_expired(expires_at_ms: int | None, of: Replay, now_ms: int) -> bool:
    return expires_at_ms is not None and expires_at_ms <= now_ms and not of.force


def _manual(of: Replay) -> int:
    return REPLAYED | FORCED if of.force else REPLAYED


def _cancel(connection: sqlite3.Connection, replay_id: str, by: str, now_ms: int) -> Change[Replay]:
    row = connection.execute(FIND, (replay_id,)).fetchone()
    if row is None:
        raise NotFound(f"no replay {replay_id[:64]!r}", remedy="List them with `relay replay list`.")
    present = _replay(row)
    if present.is_over:
        raise Conflict(
            "replay_over", f"the replay is {present.state.value} already", remedy="What it made due stays due."
        )
    cancelled = replace(present, state=ReplayState.CANCELLED, finished_at_ms=now_ms, cancelled_by=by)
    return Change(_save(connection, cancelled, now_ms))


def _clear(connection: sqlite3.Connection, ref: int, limit: int) -> Change[int]:
    return Change(connection.execute(_CLEAR, (ref, limit)).rowcount)


def _save(connection: sqlite3.Connection, row: Replay, now_ms: int) -> Replay:
    """Write how far a replay came; one that has nothing before it is finished."""
    if row.state is ReplayState.RUNNING and not row.left:
        row = replace(row, state=ReplayState.FINISHED, finished_at_ms=now_ms)
    connection.execute(
        """
        UPDATE replay SET state = ?, place = ?, is_cut = ?, selected = ?, replayed = ?, skipped = ?, finished_at = ?,
          cancelled_by = ?, ids = iif(?1 = 'selecting', ids, NULL) WHERE ref = ?""",
        (
            row.state,
            row.place,
            row.is_cut,
            row.selected,
            row.replayed,
            json.dumps(dict(row.skipped)),
            row.finished_at_ms,
            row.cancelled_by,
            row.ref,
        ),
    )
    return row


def _present(connection: sqlite3.Connection, ref: int) -> Replay:
    return _replay(connection.execute(BY_REF, (ref,)).fetchone())


def _summed(before: Mapping[str, int], more: Mapping[str, int]) -> dict[str, int]:
    names: Iterable[str] = dict.fromkeys([*before, *(str(name) for name, count in more.items() if count)])
    return {name: before.get(name, 0) + more.get(name, 0) for name in names}


def _replay(row: Row) -> Replay:
    """Read COLUMNS."""
    ref, name, application, mode, wanted, rate, force, by, is_own, created_ms, up_to, state, place, is_cut, *rest = row
    selected, replayed, skipped, finished_ms, cancelled_by = rest
    asked = json.loads(wanted)
    for field, kind in (("state", DeliveryState), ("reason", DeadReason)):
        asked[field] = asked[field] and kind(asked[field])
    return Replay(
        id=name,
        application=application,
        mode=ReplayMode(mode),
        wanted=Wanted(**asked),
        rate=parse_rate(rate),
        force=bool(force),
        created_by=by,
        is_own=bool(is_own),
        created_at_ms=created_ms,
        ref=ref,
        up_to=up_to,
        state=ReplayState(state),
        place=place,
        is_cut=bool(is_cut),
        selected=selected,
        replayed=replayed,
        skipped=json.loads(skipped),
        finished_at_ms=finished_ms,
        cancelled_by=cancelled_by,
    )
