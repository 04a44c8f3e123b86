"""Where the deliveries go: endpoints, their states, secrets and health."""

import json
import sqlite3
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any

from relay.core.errors import ConfigError, NotFound
from relay.core.model import DisabledBy, EndpointState, Health, Origin, Secret
from relay.store.values import EndpointRow

_COLUMNS = """ref, id, application, origin, definition, secrets, state, disabled_by, state_since, health, url_seen,
    created_at, updated_at"""


def sync_file_endpoints(
    connection: sqlite3.Connection, wanted: Sequence[tuple[str, int]], now_ms: int
) -> dict[str, EndpointRow]:
    """Make the endpoints of the file that are new; ConfigError for an id that means another endpoint."""
    connection.executemany(
        """
        INSERT INTO endpoint (id, application, origin, state, state_since, created_at, updated_at)
        VALUES (?1, ?2, 'file', 'enabled', ?3, ?3, ?3) ON CONFLICT DO NOTHING""",
        [(endpoint_id, application, now_ms) for endpoint_id, application in wanted],
    )
    known = {row.id: row for row in load_endpoints(connection)}
    for endpoint_id, application in wanted:
        _refuse_other(known[endpoint_id], application)
    return {endpoint_id: known[endpoint_id] for endpoint_id, _ in wanted}


def load_endpoints(connection: sqlite3.Connection) -> list[EndpointRow]:
    """Read every endpoint that was not deleted, oldest first."""
    rows = connection.execute(f"SELECT {_COLUMNS} FROM endpoint WHERE deleted_at IS NULL ORDER BY ref")
    return [_endpoint(row) for row in rows]


def create_endpoint(connection: sqlite3.Connection, row: EndpointRow) -> EndpointRow:
    """Insert an endpoint made through the API; its `ref` is given out here."""
    values = (
        row.id,
        row.application,
        row.origin,
        _json(row.definition),
        _secrets_json(row.secrets),
        row.state,
        row.disabled_by,
        row.state_since_ms,
        row.url_seen,
        row.created_at_ms,
        row.updated_at_ms,
    )
    cursor = connection.execute(
        """
        INSERT INTO endpoint (id, application, origin, definition, secrets, state, disabled_by, state_since, url_seen,
                              created_at, updated_at)
        VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)""",
        values,
    )
    assert cursor.lastrowid is not None, "an INSERT of one row has a row id"
    return replace(row, ref=cursor.lastrowid)


def save_endpoint(connection: sqlite3.Connection, row: EndpointRow, health: Health | None) -> None:
    """Write what may change of an endpoint; health only when it is given, for it changes with every attempt."""
    cursor = connection.execute(
        """
        UPDATE endpoint SET definition = ?, secrets = ?, state = ?, disabled_by = ?, state_since = ?, url_seen = ?,
               updated_at = ?, health = coalesce(?, health)
        WHERE ref = ? AND deleted_at IS NULL""",
        (
            _json(row.definition),
            _secrets_json(row.secrets),
            row.state,
            row.disabled_by,
            row.state_since_ms,
            row.url_seen,
            row.updated_at_ms,
            None if health is None else _json(asdict(health)),
            row.ref,
        ),
    )
    if cursor.rowcount == 0:
        raise NotFound(f"no endpoint {row.id!r}", remedy="It was deleted meanwhile.")


def save_healths(connection: sqlite3.Connection, healths: Mapping[int, Health]) -> None:
    """Write the health of several endpoints, by ref."""
    connection.executemany(
        "UPDATE endpoint SET health = ? WHERE ref = ?",
        [(_json(asdict(health)), ref) for ref, health in healths.items()],
    )


def mark_deleted(connection: sqlite3.Connection, ref: int, now_ms: int) -> None:
    """Delete an endpoint by name, and its secrets with it; its history stays."""
    cursor = connection.execute(
        "UPDATE endpoint SET deleted_at = ?, secrets = '[]' WHERE ref = ? AND deleted_at IS NULL", (now_ms, ref)
    )
    if cursor.rowcount == 0:
        raise NotFound("no such endpoint", remedy="List them with `relay endpoint list`.")


def deleted_refs(connection: sqlite3.Connection) -> list[int]:
    """Read the endpoints that were deleted."""
    return [row[0] for row in connection.execute("SELECT ref FROM endpoint WHERE deleted_at IS NOT NULL")]


def _refuse_other(row: EndpointRow, application: int) -> None:
    if row.origin is not Origin.FILE:
        raise ConfigError(
            f"endpoint {row.id!r} was made through the API",
            remedy="Give the one in the file another id, or delete the other with `relay endpoint delete`.",
        )
    if row.application != application:
        raise ConfigError(
            f"endpoint {row.id!r} belonged to another application before",
            remedy="Give it a new id: its history stays with the application that owned it.",
        )


def _endpoint(row: tuple[Any, ...]) -> EndpointRow:
    definition, disabled_by = row[4], row[7]
    return EndpointRow(
        ref=row[0],
        id=row[1],
        application=row[2],
        origin=Origin(row[3]),
        definition=None if definition is None else json.loads(definition),
        secrets=tuple(Secret(value, expires_at_ms) for value, expires_at_ms in json.loads(row[5])),
        state=EndpointState(row[6]),
        disabled_by=None if disabled_by is None else DisabledBy(disabled_by),
        state_since_ms=row[8],
        health=Health(**json.loads(row[9])),
        url_seen=row[10],
        created_at_ms=row[11],
        updated_at_ms=row[12],
    )


def _secrets_json(secrets: Iterable[Secret]) -> str:
    return json.dumps([[secret.value, secret.expires_at_ms] for secret in secrets])


def _json(value: object) -> str | None:
    return None if value is None else json.dumps(value)
