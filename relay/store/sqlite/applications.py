"""Who the deliveries belong to: applications, and the keys that were made for them."""

import json
import sqlite3
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple, Protocol

from relay.core.errors import ConfigError, Conflict, NotFound
from relay.core.model import Origin
from relay.store.sqlite import endpoints
from relay.store.values import ApplicationRow, EndpointRow, KeyRow


class Created(NamedTuple):
    """What one transaction made."""

    application: ApplicationRow
    endpoint: EndpointRow | None
    key: KeyRow | None


class Edit(Protocol):
    """Runs a function of the writing connection in one of the next transactions."""

    def __call__(self, work: Callable[[sqlite3.Connection], Any], /) -> Awaitable[Any]: ...


class Applications:
    """The verbs about applications and their keys. Holds nothing: what it says stands in the file."""

    def __init__(self, edit: Edit, begin_deletions: Callable[[Iterable[int]], None]) -> None:
        self._edit = edit
        self._begin_deletions = begin_deletions

    async def load(self) -> list[ApplicationRow]:
        """Read every application that was not deleted, oldest first."""
        rows: list[ApplicationRow] = await self._edit(load)
        return rows

    async def load_keys(self) -> list[KeyRow]:
        """Read every key, oldest first."""
        keys: list[KeyRow] = await self._edit(load_keys)
        return keys

    async def save_contracts(self, seen: Mapping[int, str | None]) -> None:
        """Remember, by ref, the contract that an application's deliveries are made under from now on."""
        await self._edit(lambda connection: save_contracts(connection, seen))

    async def create(
        self, application: ApplicationRow, endpoint: EndpointRow | None = None, key: KeyRow | None = None
    ) -> Created:
        """Store an application with its first endpoint and key, all or nothing; Conflict for an id that was used."""
        made: Created = await self._edit(lambda connection: create(connection, application, endpoint, key))
        return made

    async def save(self, row: ApplicationRow) -> None:
        """Store what changed of an application."""
        await self._edit(lambda connection: save(connection, row))

    async def delete(self, ref: int, now_ms: int) -> None:
        """Delete an application, its endpoints and its keys; what was due is then cancelled step by step."""
        deleted = await self._edit(lambda connection: mark_deleted(connection, ref, now_ms))
        self._begin_deletions(deleted)

    async def create_key(self, key: KeyRow) -> None:
        """Store a key."""
        await self._edit(lambda connection: create_key(connection, key))

    async def delete_key(self, key_id: str) -> None:
        """Delete a key."""
        await self._edit(lambda connection: delete_key(connection, key_id))


def sync(connection: sqlite3.Connection, names: Sequence[str], now_ms: int) -> dict[str, int]:
    """Make the file's applications that are new; the answer has every one that was not deleted, id → ref.

    ConfigError for an id that the API has given, or that was deleted.
    """
    connection.executemany(
        """
        INSERT INTO application (id, origin, created_at, updated_at) VALUES (?1, 'file', ?2, ?2)
        ON CONFLICT DO NOTHING""",
        [(name, now_ms) for name in names],
    )
    rows = connection.execute("SELECT id, ref, origin, deleted_at IS NOT NULL FROM application").fetchall()
    known = {row[0]: row for row in rows}
    for name in names:
        _, _, origin, deleted = known[name]
        refuse_taken(name, Origin(origin), deleted=bool(deleted))
    return {row[0]: row[1] for row in rows if not row[3]}


def refuse_taken(name: str, origin: Origin, *, deleted: bool = False) -> None:
    """Raise ConfigError if the file cannot have an application of this id."""
    if deleted:
        raise ConfigError(
            f"application {name!r} was deleted",
            remedy="Give the one in the file another id: the history stays with the application that owned it.",
        )
    if origin is Origin.API:
        raise ConfigError(
            f"application {name!r} was made through the API",
            remedy="Give the one in the file another id, or delete the other with `relay app delete`.",
        )


def load(connection: sqlite3.Connection) -> list[ApplicationRow]:
    """Read every application that was not deleted, oldest first."""
    rows = connection.execute(
        """
        SELECT ref, id, origin, definition, contract_seen, created_at, updated_at FROM application
        WHERE deleted_at IS NULL ORDER BY ref"""
    )
    return [
        ApplicationRow(row[0], row[1], Origin(row[2]), None if row[3] is None else json.loads(row[3]), *row[4:])
        for row in rows
    ]


def load_keys(connection: sqlite3.Connection) -> list[KeyRow]:
    """Read every key, oldest first."""
    rows = connection.execute(
        "SELECT id, application, name, prefix, digest, created_at, expires_at FROM application_key ORDER BY ref"
    )
    return [KeyRow(*row) for row in rows]


def save_contracts(connection: sqlite3.Connection, seen: Mapping[int, str | None]) -> None:
    """Write the contracts that deliveries are made under, by ref."""
    connection.executemany(
        "UPDATE application SET contract_seen = ? WHERE ref = ?", [(name, ref) for ref, name in seen.items()]
    )


def create(
    connection: sqlite3.Connection, row: ApplicationRow, endpoint: EndpointRow | None, key: KeyRow | None
) -> Created:
    """Insert an application made through the API, and what comes with it; each `ref` is given out here."""
    if connection.execute("SELECT 1 FROM application WHERE id = ?", (row.id,)).fetchone():
        raise Conflict(
            "application_exists",
            f"there is, or was, an application {row.id!r}",
            remedy="Choose another id: one is never given twice.",
        )
    cursor = connection.execute(
        "INSERT INTO application (id, origin, definition, created_at, updated_at) VALUES (?, ?, ?, ?, ?)",
        (row.id, row.origin, _json(row.definition), row.created_at_ms, row.updated_at_ms),
    )
    assert cursor.lastrowid is not None, "an INSERT of one row has a row id"
    ref = cursor.lastrowid
    if endpoint is not None:
        endpoint = endpoints.create_endpoint(connection, replace(endpoint, application=ref))
    if key is not None:
        key = replace(key, application=ref)
        create_key(connection, key)
    return Created(replace(row, ref=ref), endpoint, key)


def save(connection: sqlite3.Connection, row: ApplicationRow) -> None:
    """Write what may change of an application."""
    cursor = connection.execute(
        "UPDATE application SET definition = ?, updated_at = ? WHERE ref = ? AND deleted_at IS NULL",
        (_json(row.definition), row.updated_at_ms, row.ref),
    )
    if cursor.rowcount == 0:
        raise NotFound(f"no application {row.id!r}", remedy="It was deleted meanwhile.")


def mark_deleted(connection: sqlite3.Connection, ref: int, now_ms: int) -> list[int]:
    """Delete an application by name, its endpoints, and every secret and key; the answer is the endpoints' refs."""
    cursor = connection.execute(
        "UPDATE application SET deleted_at = ? WHERE ref = ? AND deleted_at IS NULL", (now_ms, ref)
    )
    if cursor.rowcount == 0:
        raise NotFound("no such application", remedy="List them with `relay app list`.")
    connection.execute("DELETE FROM application_key WHERE application = ?", (ref,))
    rows = connection.execute(
        """
        UPDATE endpoint SET deleted_at = ?, secrets = '[]' WHERE application = ? AND deleted_at IS NULL
        RETURNING ref""",
        (now_ms, ref),
    )
    return [row[0] for row in rows.fetchall()]


def create_key(connection: sqlite3.Connection, key: KeyRow) -> None:
    """Insert a key."""
    connection.execute(
        """
        INSERT INTO application_key (id, application, name, prefix, digest, created_at, expires_at)
        VALUES (?, ?, ?, ?, ?, ?, ?)""",
        (key.id, key.application, key.name, key.prefix, key.digest, key.created_at_ms, key.expires_at_ms),
    )


def delete_key(connection: sqlite3.Connection, key_id: str) -> None:
    """Remove a key; NotFound if it is not there any more."""
    if connection.execute("DELETE FROM application_key WHERE id = ?", (key_id,)).rowcount == 0:
        raise NotFound(f"no key {key_id!r}", remedy="List them with `relay app key list`.")


def _json(value: object) -> str | None:
    return None if value is None else json.dumps(value)
