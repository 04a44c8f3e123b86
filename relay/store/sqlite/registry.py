"""Applications, their keys, and endpoints: read whole once, changed by one transaction at a time."""

import json
import sqlite3
from collections.abc import Mapping, Sequence
from dataclasses import asdict, astuple, fields, replace
from typing import Any, TypeVar

from relay.core.errors import NotFound
from relay.core.model import DisabledBy, EndpointState, Health, Origin, Secret
from relay.core.verification import Method, Proof
from relay.store.sqlite.counts import Change
from relay.store.sqlite.rows import Row
from relay.store.sqlite.sealing import MARK, Keyring
from relay.store.values import (
    ApplicationRow,
    CreationRecord,
    EndpointRow,
    KeyRow,
    RegistryChange,
    RegistryRows,
    StillOwed,
)

_DUE = """
    SELECT count(*) FROM application a JOIN endpoint n ON n.application = a.ref
    JOIN delivery d INDEXED BY delivery_due ON d.endpoint = n.ref AND d.state = 0
    WHERE a.id = ? AND n.deleted_at IS NULL"""

# The parameters are the fields of the row that is written.
_INSERT_APPLICATION = """
    INSERT INTO application (id, origin, definition, contract_seen, created_at, updated_at)
    VALUES (:id, :origin, :definition, :contract_seen, :created_at_ms, :updated_at_ms)"""

_UPDATE_APPLICATION = """
    UPDATE application SET origin = :origin, definition = :definition, contract_seen = :contract_seen, updated_at = :updated_at_ms
    WHERE ref = :ref AND deleted_at IS NULL"""

_INSERT_ENDPOINT = """
    INSERT INTO endpoint (id, application, origin, definition, secrets, state, disabled_by, state_since, url_seen,
                          created_at, updated_at, proof)
    VALUES (:id, (SELECT ref FROM application WHERE id = :application), :origin, :definition, :secrets, :state,
            :disabled_by, :state_since_ms, :url_seen, :created_at_ms, :updated_at_ms, :proof)"""

_UPDATE_ENDPOINT = """
    UPDATE endpoint SET origin = :origin, definition = :definition, secrets = :secrets, state = :state, disabled_by = :disabled_by,
           state_since = :state_since_ms, url_seen = :url_seen, updated_at = :updated_at_ms,
           health = coalesce(:health, health), proof = :proof
    WHERE ref = :ref AND deleted_at IS NULL"""

_DELETE_ENDPOINT = """
    UPDATE endpoint SET deleted_at = ?, secrets = '[]', definition = CASE WHEN definition IS NOT NULL THEN '{}' END
    WHERE id = ? AND deleted_at IS NULL RETURNING ref"""

_INSERT_KEY = """
    INSERT INTO application_key (id, application, name, prefix, digest, created_at, expires_at)
    VALUES (?, (SELECT ref FROM application WHERE id = ?), ?, ?, ?, ?, ?)"""

RECORDS_MAX = 10_000
"""Idempotency keys of one scope that are remembered for calls that make something; the oldest go first."""

FIND_CREATION = "SELECT fingerprint, seed, made, created_at FROM creation_record WHERE scope = ? AND key = ?"

FORGET_OLDEST = """
    DELETE FROM creation_record WHERE scope = :scope AND created_at < (
      SELECT created_at FROM creation_record WHERE scope = :scope ORDER BY created_at DESC LIMIT 1 OFFSET :most)"""

NO_SECRETS = "[]"
"""What the database keeps of the secrets of an endpoint without any."""

R = TypeVar("R", ApplicationRow, EndpointRow)


def load(connection: sqlite3.Connection, keys: Keyring) -> RegistryRows:
    """Read everything that was not deleted, oldest first."""
    applications = connection.execute(
        """
        SELECT ref, id, origin, definition, contract_seen, created_at, updated_at FROM application
        WHERE deleted_at IS NULL ORDER BY ref"""
    )
    endpoints = connection.execute(
        """
        SELECT n.ref, n.id, a.id, n.origin, n.definition, n.secrets, n.state, n.disabled_by, n.state_since, n.health,
               n.url_seen, n.created_at, n.updated_at, n.proof
        FROM endpoint n JOIN application a ON a.ref = n.application
        WHERE n.deleted_at IS NULL AND a.deleted_at IS NULL ORDER BY n.ref"""
    )
    tokens = connection.execute(
        """
        SELECT k.id, a.id, k.name, k.prefix, k.digest, k.created_at, k.expires_at
        FROM application_key k JOIN application a ON a.ref = k.application
        WHERE a.deleted_at IS NULL ORDER BY k.ref"""
    )
    retired = connection.execute("SELECT id FROM application WHERE deleted_at IS NOT NULL")
    return RegistryRows(
        [_application(row) for row in applications],
        [_endpoint(row, keys) for row in endpoints],
        [KeyRow(*row) for row in tokens],
        frozenset(row[0] for row in retired),
    )


def change(connection: sqlite3.Connection, wanted: RegistryChange, now_ms: int, keys: Keyring) -> Change[RegistryRows]:
    """Make a change; the answer is the rows that it wrote, each `ref` given out here.

    NotFound for what was deleted meanwhile, StillOwed for deliveries due that must not be.
    """
    _refuse_owed(connection, wanted.unowed)
    for key_id in wanted.deleted_keys:
        _must_exist(connection.execute("DELETE FROM application_key WHERE id = ?", (key_id,)), "key", key_id)
    deleted = [_delete_endpoint(connection, endpoint_id, now_ms) for endpoint_id in wanted.deleted_endpoints]
    for name in wanted.deleted_applications:
        cursor = connection.execute(
            "UPDATE application SET deleted_at = ? WHERE id = ? AND deleted_at IS NULL", (now_ms, name)
        )
        _must_exist(cursor, "application", name)
    written = RegistryRows(
        [_save_application(connection, row) for row in wanted.applications],
        [_save_endpoint(connection, row, keys, fresh=row.id in wanted.fresh) for row in wanted.endpoints],
        wanted.keys,
        frozenset(wanted.deleted_applications),
    )
    connection.executemany(_INSERT_KEY, [astuple(key) for key in wanted.keys])
    if wanted.record is not None:
        save_creation(connection, wanted.record, keys)
    if not keys and wanted.brings_secrets:
        connection.execute("UPDATE meta SET value = 1 WHERE name = 'secret_traces' AND value <> 1")
    return Change(written, deleted=deleted)


def find_creation(scope: str, key: bytes, keys: Keyring, connection: sqlite3.Connection) -> CreationRecord | None:
    """Read what an idempotency key stands for."""
    row = connection.execute(FIND_CREATION, (scope, key)).fetchone()
    if row is None:
        return None
    fingerprint, seed, made, created_at_ms = row
    return CreationRecord(scope, key, fingerprint, open_seed(seed, scope, keys), json.loads(made), created_at_ms)


def places(endpoint_id: str) -> tuple[str, str]:
    """Return what sealed texts of an endpoint are bound to: its secrets, and its definition, which may hold a client key."""
    return f"secrets of endpoint {endpoint_id}", f"definition of endpoint {endpoint_id}"


def reseal(kept: str | None, place: str, keys: Keyring) -> str | None:
    """Return what the database shall keep of a text, sealed or not, with the newest key; of no text and no secrets, just that."""
    return kept if kept in (None, NO_SECRETS) else keys.seal(keys.open(kept, place), place)


def seal_seed(seed: bytes, scope: str, keys: Keyring) -> bytes:
    """Return what the database shall keep of the seed of a token."""
    return keys.seal(seed.hex(), _seed_of(scope)).encode() if keys else seed


def open_seed(kept: bytes, scope: str, keys: Keyring) -> bytes:
    """Return the seed that the database keeps so."""
    return bytes.fromhex(keys.open(kept.decode(), _seed_of(scope))) if kept.startswith(MARK.encode()) else kept


def save_healths(connection: sqlite3.Connection, healths: Mapping[int, Health]) -> None:
    """Write the health of several endpoints, by ref."""
    connection.executemany(
        "UPDATE endpoint SET health = ? WHERE ref = ?",
        [(_json(asdict(health)), ref) for ref, health in healths.items()],
    )


def deleted(connection: sqlite3.Connection) -> Change[None]:
    """Read the endpoints that were deleted before this start."""
    rows = connection.execute("SELECT ref FROM endpoint WHERE deleted_at IS NOT NULL")
    return Change(None, deleted=[row[0] for row in rows])


def save_creation(connection: sqlite3.Connection, record: CreationRecord, keys: Keyring) -> None:
    """Keep what an idempotency key stands for."""
    seed = seal_seed(record.seed, record.scope, keys)
    values = (record.scope, record.key, record.fingerprint, seed, _json(record.made), record.created_at_ms)
    connection.execute(
        "INSERT INTO creation_record (scope, key, fingerprint, seed, made, created_at) VALUES (?, ?, ?, ?, ?, ?)",
        values,
    )
    connection.execute(FORGET_OLDEST, {"scope": record.scope, "most": RECORDS_MAX - 1})


def _refuse_owed(connection: sqlite3.Connection, names: Sequence[str]) -> None:
    due = {name: connection.execute(_DUE, (name,)).fetchone()[0] for name in names}
    owed = {name: count for name, count in due.items() if count}
    if owed:
        raise StillOwed(owed)


def _delete_endpoint(connection: sqlite3.Connection, endpoint_id: str, now_ms: int) -> int:
    """Delete an endpoint by name, and its secrets and its definition with it; its history stays."""
    row = connection.execute(_DELETE_ENDPOINT, (now_ms, endpoint_id)).fetchone()
    if row is None:
        raise _gone("endpoint", endpoint_id)
    ref: int = row[0]
    return ref


def _save_application(connection: sqlite3.Connection, row: ApplicationRow) -> ApplicationRow:
    values = _fields(row) | {"definition": _json(row.definition)}
    return _save(connection, row, _UPDATE_APPLICATION if row.ref else _INSERT_APPLICATION, values)


def _save_endpoint(connection: sqlite3.Connection, row: EndpointRow, keys: Keyring, *, fresh: bool) -> EndpointRow:
    """Write an endpoint; its health only when it begins anew, for attempts change it all the time."""
    secrets, definition = json.dumps([astuple(secret) for secret in row.secrets]), _json(row.definition)
    of_secrets, of_definition = places(row.id)
    values = _fields(row) | {
        "definition": reseal(definition, of_definition, keys),
        "secrets": reseal(secrets, of_secrets, keys),
        "health": _json(asdict(row.health)) if fresh else None,
        "proof": None if row.proof is None else _json(asdict(row.proof)),
    }
    return _save(connection, row, _UPDATE_ENDPOINT if row.ref else _INSERT_ENDPOINT, values)


def _save(connection: sqlite3.Connection, row: R, statement: str, values: Mapping[str, Any]) -> R:
    cursor = connection.execute(statement, values)
    _must_exist(cursor, "endpoint" if isinstance(row, EndpointRow) else "application", row.id)
    if row.ref:
        return row
    assert cursor.lastrowid is not None, "an INSERT of one row has a row id"
    return replace(row, ref=cursor.lastrowid)


def _fields(row: ApplicationRow | EndpointRow) -> dict[str, Any]:
    return {field.name: getattr(row, field.name) for field in fields(row)}


def _must_exist(cursor: sqlite3.Cursor, noun: str, name: str) -> None:
    if cursor.rowcount == 0:
        raise _gone(noun, name)


def _gone(noun: str, name: str) -> NotFound:
    return NotFound(f"no {noun} {name!r}", remedy="It was deleted meanwhile.")


def _application(row: Row) -> ApplicationRow:
    ref, name, origin, definition, *rest = row
    return ApplicationRow(ref, name, Origin(origin), definition and json.loads(definition), *rest)


def _endpoint(row: Row, keys: Keyring) -> EndpointRow:
    ref, name, application, origin, definition, secrets, state, disabled_by, since_ms, health, *rest, proof = row
    of_secrets, of_definition = places(name)
    rest += [proof and _proof(**json.loads(proof))]
    return EndpointRow(
        ref,
        name,
        application,
        Origin(origin),
        definition and json.loads(keys.open(definition, of_definition)),
        tuple(Secret(*secret) for secret in json.loads(keys.open(secrets, of_secrets))),
        EndpointState(state),
        disabled_by and DisabledBy(disabled_by),
        since_ms,
        Health(**json.loads(health)),
        *rest,
    )


def _proof(method: str, **facts: Any) -> Proof:
    return Proof(method=Method(method), **facts)


def _json(value: object) -> str | None:
    return None if value is None else json.dumps(value)


def _seed_of(scope: str) -> str:
    return f"seed of {scope}"
