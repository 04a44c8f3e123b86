"""Encrypting anew what the database keeps of secrets, in steps; and what stood in clear leaves the file and its WAL.

Each row says by itself which key it is sealed with, so whatever interrupts the steps, the next run goes on with the rest.
What was overwritten still stands in unused parts of pages until the file is written anew: `secret_traces` remembers that.
"""

import sqlite3
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from relay.store.sqlite import registry
from relay.store.sqlite.counts import Change
from relay.store.sqlite.opening import Trouble, judge
from relay.store.sqlite.sealing import MARK, Keyring
from relay.store.values import AtRest, Resealed

STEP_ROWS = 500
"""Rows that are encrypted anew in one transaction: producers wait for it."""

# What stands there in clear, or under another key than the newest. A row without secrets keeps '[]', a deleted one '{}'.
_STALE_ENDPOINTS = """
    FROM endpoint WHERE secrets <> '[]' AND substr(secrets, 1, length(:mark)) <> :mark
    OR definition IS NOT NULL AND deleted_at IS NULL AND substr(definition, 1, length(:mark)) <> :mark"""

_STALE_RECORDS = """
    FROM creation_record WHERE substr(seed, 1, length(:mark)) <> CAST(:mark AS BLOB)"""

_SET_TRACES = "UPDATE meta SET value = ? WHERE name = 'secret_traces' AND value <> ?"


class Step(NamedTuple):
    """What one step did; `done` when nothing is left."""

    resealed: Resealed
    done: bool


def at_rest(connection: sqlite3.Connection, keys: Keyring) -> AtRest:
    """Say how secrets are kept; O(endpoints + idempotency records)."""
    (traces,) = connection.execute("SELECT value FROM meta WHERE name = 'secret_traces'").fetchone()
    if not keys:
        return AtRest.CLEAR if traces else AtRest.NONE
    return AtRest.MIXED if traces or _is_stale(connection, keys) else AtRest.ENCRYPTED


def reseal(connection: sqlite3.Connection, keys: Keyring) -> Change[Step]:
    """Seal some rows with the newest key; O(endpoints + idempotency records)."""
    endpoints = connection.execute(
        f"SELECT ref, id, secrets, definition {_STALE_ENDPOINTS} LIMIT :most",
        _wanted(keys),
    ).fetchall()
    for ref, name, *kept in endpoints:
        values = [registry.reseal(text, place, keys) for text, place in zip(kept, registry.places(name), strict=True)]
        connection.execute("UPDATE endpoint SET secrets = ?, definition = ? WHERE ref = ?", (*values, ref))
    records = connection.execute(
        f"SELECT scope, key, seed {_STALE_RECORDS} LIMIT :most",
        _wanted(keys),
    ).fetchall()
    for scope, key, seed in records:
        sealed = registry.seal_seed(registry.open_seed(seed, scope, keys), scope, keys)
        connection.execute("UPDATE creation_record SET seed = ? WHERE scope = ? AND key = ?", (sealed, scope, key))
    if endpoints or records:
        connection.execute(_SET_TRACES, (1, 1))
    clear = sum(any(map(_is_clear, kept)) for _, _, *kept in endpoints)
    done = max(len(endpoints), len(records)) < STEP_ROWS
    return Change(Step(Resealed(len(endpoints), len(records), clear), done))


def scrub(connection: sqlite3.Connection, folder: Path) -> str:
    """Write the whole file anew, so that nothing of what was overwritten is left; return what hinders it, "" for nothing.

    In no transaction. The writer does nothing else meanwhile, O(size of the file), which the disk must hold twice.
    """
    try:
        if connection.execute("SELECT value FROM meta WHERE name = 'secret_traces'").fetchone()[0]:
            _rewrite(connection, folder)
            if connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0]:
                return "another program reads an old state of the database, so its WAL cannot be emptied"
            connection.execute(_SET_TRACES, (0, 0))
    except sqlite3.Error as error:
        if judge(error) is Trouble.DAMAGE:
            raise
        return str(error)
    return ""


def _rewrite(connection: sqlite3.Connection, folder: Path) -> None:
    """VACUUM by way of a file beside the database: in memory it could be too large, and /tmp too small."""
    quoted = str(folder).replace("'", "''")
    connection.execute("PRAGMA temp_store = FILE")
    connection.execute(f"PRAGMA temp_store_directory = '{quoted}'")
    try:
        connection.execute("VACUUM")
    finally:
        connection.execute("PRAGMA temp_store_directory = ''")
        connection.execute("PRAGMA temp_store = MEMORY")


def _is_clear(kept: str | None) -> bool:
    return kept is not None and kept != registry.NO_SECRETS and not kept.startswith(MARK)


def _is_stale(connection: sqlite3.Connection, keys: Keyring) -> bool:
    sources = _STALE_ENDPOINTS, _STALE_RECORDS
    return any(connection.execute(f"SELECT 1 {source} LIMIT 1", _wanted(keys)).fetchone() for source in sources)


def _wanted(keys: Keyring) -> Mapping[str, object]:
    return {"mark": keys.seal_mark, "most": STEP_ROWS}
