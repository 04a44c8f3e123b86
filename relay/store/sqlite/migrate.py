"""The schema's version and the steps from each version to the next.

`schema/NNNN_name.sql` is step NNNN. Each runs in one transaction together with its version number, so a power cut
leaves a whole version behind, never half of one.
"""

import os
import sqlite3
from collections.abc import Mapping
from contextlib import closing
from functools import cache
from importlib import resources
from pathlib import Path

from relay.core.errors import CannotStart

APPLICATION_ID = 0x52454C59
"""Written into the file's header (`RELY`): how we know a database of ours."""


@cache
def steps() -> Mapping[int, str]:
    """Return the SQL of each step, by number."""
    folder = resources.files("relay.store.sqlite") / "schema"
    scripts = sorted((entry.name, entry) for entry in folder.iterdir() if entry.name.endswith(".sql"))
    return {int(name[:4]): entry.read_text("utf-8") for name, entry in scripts}


def newest() -> int:
    """Return the version this program writes."""
    return max(steps())


def refuse_foreign(connection: sqlite3.Connection, path: Path) -> None:
    """Raise CannotStart for another program's database and for a newer relay's; touches nothing."""
    tables = connection.execute("SELECT count(*) FROM sqlite_schema").fetchone()[0]
    if tables and connection.execute("PRAGMA application_id").fetchone()[0] != APPLICATION_ID:
        raise CannotStart(f"{path} is another program's database.", remedy="Change `storage.path`.")
    version = _version(connection)
    if version > newest():
        raise CannotStart(
            f"{path} was written by a newer relay (schema {version}; this one knows up to {newest()}).",
            remedy="Start the newer version, or restore the backup it made before it migrated.",
        )


def unclean(connection: sqlite3.Connection) -> bool:
    """Say whether the last daemon left without closing."""
    if _version(connection) == 0:
        return False
    row = connection.execute("SELECT value FROM meta WHERE name = 'clean'").fetchone()
    return row is None or row[0] != 1


def migrate(connection: sqlite3.Connection, path: Path, to: Mapping[int, str] | None = None) -> Path | None:
    """Bring the schema up to date; the answer is the backup made first, if there was anything to lose."""
    scripts = steps() if to is None else to
    version = _version(connection)
    if version >= max(scripts):
        return None
    saved = back_up(connection, path, version) if version else None
    for number in range(version + 1, max(scripts) + 1):
        _step(connection, number, scripts[number])
    return saved


def back_up(connection: sqlite3.Connection, path: Path, version: int) -> Path:
    """Copy the database beside itself, readable by its owner only; an older backup of that version is replaced."""
    target = path.with_name(_backup_name(path, version))
    target.unlink(missing_ok=True)
    os.close(os.open(target, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o600))
    with closing(sqlite3.connect(target, isolation_level=None)) as copy:
        connection.backup(copy)
    with target.open("rb") as written:
        os.fsync(written.fileno())
    sync_folder(target.parent)
    return target


def sync_folder(folder: Path) -> None:
    """Make the names in a folder outlive a power cut."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def backups(path: Path) -> list[Path]:
    """Find the backups that migrations left beside a database."""
    return [place for version in steps() if (place := path.with_name(_backup_name(path, version))).exists()]


def _backup_name(path: Path, version: int) -> str:
    return f"{path.name}.schema-{version}.backup"


def _step(connection: sqlite3.Connection, number: int, script: str) -> None:
    try:
        # executescript knows where statements end; the transaction is part of the script.
        connection.executescript(
            f"BEGIN IMMEDIATE;\n{script}\n"
            f"PRAGMA application_id = {APPLICATION_ID:d};\nPRAGMA user_version = {number:d};\nCOMMIT;"
        )
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise


def _version(connection: sqlite3.Connection) -> int:
    version: int = connection.execute("PRAGMA user_version").fetchone()[0]
    return version
