"""Opening the database: one owner, the right kind of file on the right kind of disk, settings read back.

Everything that can be wrong with the file, its folder or its disk becomes one clear line with a remedy. A damaged file
is never moved aside or replaced: for a queue that would be losing it in silence.
"""

import fcntl
import os
import sqlite3
from contextlib import closing, suppress
from dataclasses import dataclass
from enum import Enum, auto
from pathlib import Path
from typing import Literal, NamedTuple, TextIO
from urllib.parse import quote

from relay.core.errors import AlreadyRunning, CannotStart, NoRoom, NotPermitted, RelayError, StoreDamaged, StoreMoved
from relay.store.sqlite import migrate
from relay.store.sqlite.sealing import NO_KEYS, Keyring, refuse_unreadable

SQLITE_MIN = (3, 40, 0)

ROOM_BYTES = 1 << 20
"""An opening that failed with less than this free failed for the want of it."""

BUSY_TIMEOUT_MS = 5_000
"""How long a write waits for a lock of another program, which nobody but a visitor can hold."""

CHECK_AT_ONCE_BYTES = 64 << 20
"""Up to this a file is checked before it is opened after an unclean stop; a larger one, which takes seconds when the disk
has to be read, while the daemon runs."""

WRITE_AGAIN_BYTES = 1 << 20
"""So much of a WAL is in memory at once when it is written again."""

_NETWORK = {"9p", "afs", "beegfs", "ceph", "cifs", "fuse.glusterfs", "fuse.sshfs", "glusterfs", "gpfs", "lustre"}
_NETWORK |= {"ncpfs", "nfs", "nfs4", "smb3", "smbfs", "virtiofs"}
_SYNCHRONOUS = {"full": 2, "normal": 1}

_DAMAGE = {sqlite3.SQLITE_IOERR, sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB}
_WITHOUT_ROOM = {sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR, sqlite3.SQLITE_CANTOPEN}
_MACHINE = {
    sqlite3.SQLITE_BUSY,
    sqlite3.SQLITE_LOCKED,
    sqlite3.SQLITE_FULL,
    sqlite3.SQLITE_READONLY,
    sqlite3.SQLITE_CANTOPEN,
    sqlite3.SQLITE_NOMEM,
    sqlite3.SQLITE_PERM,
}


class Trouble(Enum):
    """Whose fault an error of SQLite is."""

    ITEM = auto()  # this item cannot be stored; the others can
    MACHINE = auto()  # no space, no permission, a lock: nothing can be stored now
    DAMAGE = auto()  # I/O error or corruption: nothing that was stored can be trusted until it was read again


def judge(error: BaseException) -> Trouble:
    """Say whose fault an error is."""
    code = getattr(error, "sqlite_errorcode", None)
    if not isinstance(error, sqlite3.Error) or code is None:
        return Trouble.ITEM
    primary = code & 0xFF  # extended codes carry their primary code in the low byte
    if primary in _DAMAGE:
        return Trouble.DAMAGE
    return Trouble.MACHINE if primary in _MACHINE else Trouble.ITEM


Durability = Literal["full", "normal"]


@dataclass(frozen=True, slots=True)
class StoreSettings:
    """Where the database is and how it behaves."""

    path: Path
    durability: Durability = "full"
    endpoint_backlog: int = 1_000_000  # due deliveries of one endpoint; what comes after is dead, `overflow` (Q10)
    checkpoint_pages: int = 4_000  # the writer checkpoints after a commit that leaves this many pages in the WAL
    read_timeout_ms: int = 2_000  # a read for people that takes longer is interrupted
    queue_bytes: int = 64 << 20  # events that may wait for the writer; further ones are refused until there is room
    keys: Keyring = NO_KEYS  # what secrets are encrypted with
    wal_max_bytes: int = 32 << 20  # a larger WAL is folded into the file and cut off as soon as no reader needs it


class StoreFacts(NamedTuple):
    """What was found, and read back, when the database was opened."""

    path: str
    sqlite_version: str
    journal_mode: str
    synchronous: str
    schema_version: int
    unclean_start: bool  # it was not closed last time
    checked: bool  # so it was checked for damage, unless it is very large
    backup: str | None  # made before this start migrated an older schema


Lock = TextIO
"""The lock file beside the database. Closing it frees the database."""


def prepare(path: Path, mounts: str | None = None) -> Lock:
    """Make the folder, refuse network disks, take the lock. `mounts` is the text of /proc/self/mountinfo."""
    try:
        _make_folder(path.parent)
        _refuse_network(path, _read_mounts() if mounts is None else mounts)
        return _take_lock(path)
    except PermissionError as error:
        place = Path(error.filename) if error.filename and os.path.lexists(error.filename) else path.parent
        raise NotPermitted(f"{path} cannot be used: {error.strerror} ({place}).", place) from error
    except OSError as error:
        if error.errno in NoRoom.ERRNOS:
            raise NoRoom(path) from error
        raise CannotStart(
            f"{path} cannot be used: {error.strerror} ({error.filename or path.parent}).",
            remedy="Create the folder, give it to the user that runs relay, or change `storage.path`.",
        ) from error


def _make_folder(folder: Path) -> None:
    """Make the folder and those above it that are missing, with names that outlive a power cut."""
    missing = [place for place in (folder, *folder.parents) if not place.exists()]
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    for place in missing:
        with suppress(PermissionError):  # a folder that may be written and not read cannot be synced
            migrate.sync_folder(place.parent)


def _take_lock(path: Path) -> Lock:
    """Become the only daemon on this database; AlreadyRunning names the other one."""
    descriptor = os.open(path.with_name(f"{path.name}.lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    lock = os.fdopen(descriptor, "r+", errors="replace")
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        owner = lock.read(32).strip()
        lock.close()
        raise AlreadyRunning(
            f"Another relay{f' (process {owner})' if owner else ''} is using {path}.",
            remedy="Stop it first, or give this one a `storage.path` of its own.",
        ) from None
    lock.truncate(0)
    lock.write(f"{os.getpid()}\n")
    lock.flush()
    return lock


def open_writer(settings: StoreSettings) -> tuple[sqlite3.Connection, StoreFacts]:
    """Open, check, migrate; the caller holds the lock. CannotStart or StoreDamaged say what to do."""
    _refuse_old_sqlite()
    try:
        _create(settings.path)
        connection = sqlite3.connect(settings.path, isolation_level=None, cached_statements=256)
    except (OSError, sqlite3.Error) as error:
        raise _explain(settings.path, error) from error
    try:
        return connection, _set_up(connection, settings)
    except (OSError, sqlite3.Error) as error:
        connection.close()
        raise _explain(settings.path, error) from error
    except BaseException:
        connection.close()
        raise


def reader_uri(path: Path) -> str:
    """Address the database for a connection that cannot write."""
    return f"file:{quote(str(path.absolute()))}?mode=ro"


def _set_up(connection: sqlite3.Connection, settings: StoreSettings) -> StoreFacts:
    path = settings.path
    migrate.refuse_foreign(connection, path)
    if connection.execute("PRAGMA page_count").fetchone()[0] == 0:
        connection.execute("PRAGMA auto_vacuum = INCREMENTAL")  # can only be chosen now
    word = connection.execute("PRAGMA journal_mode = WAL").fetchone()[0]
    level = _configure(connection, settings)
    if (word, level) != ("wal", _SYNCHRONOUS[settings.durability]):
        raise CannotStart(
            f"{path} answers journal_mode={word}, synchronous={level}: what it acknowledges would not be durable.",
            remedy="Put the database on a local disk.",
        )
    unclean = migrate.unclean(connection)
    checked = unclean and _check(path)
    if unclean:
        _fold(connection, path)
    backup = migrate.migrate(connection, path)
    refuse_unreadable(connection, settings.keys)
    connection.execute("UPDATE meta SET value = 0 WHERE name = 'clean'")
    return StoreFacts(
        path=str(path),
        sqlite_version=sqlite3.sqlite_version,
        journal_mode=word,
        synchronous=settings.durability,
        schema_version=migrate.newest(),
        unclean_start=unclean,
        checked=checked,
        backup=None if backup is None else str(backup),
    )


def _configure(connection: sqlite3.Connection, settings: StoreSettings) -> int:
    """Set what a connection does not remember by itself; the answer is `synchronous` as read back."""
    for pragma in (
        f"synchronous = {settings.durability}",
        f"busy_timeout = {BUSY_TIMEOUT_MS:d}",
        "foreign_keys = ON",
        "trusted_schema = OFF",
        "cell_size_check = ON",
        "temp_store = MEMORY",  # a full /tmp must not look like a full disk
        "journal_size_limit = 67108864",
        "cache_size = -16384",
        f"wal_autocheckpoint = {settings.checkpoint_pages:d}",
    ):
        connection.execute(f"PRAGMA {pragma}")
    level: int = connection.execute("PRAGMA synchronous").fetchone()[0]
    return level


def _create(path: Path) -> None:
    """Make a new file private from its first byte; SQLite gives its WAL the same mode."""
    try:
        # Only when it is new: closing a descriptor of a database that is open drops SQLite's locks on it.
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o600))
    except FileExistsError:
        return


def _check(path: Path) -> bool:
    """Look for damage after an unclean stop; False when the file is so large that it is done later."""
    if path.stat().st_size > CHECK_AT_ONCE_BYTES:
        return False
    check = DamageCheck(path)
    found = check.run()
    if found is not None:
        raise found
    return True


class DamageCheck:
    """A look for damage in the whole file, on a connection of its own; it may run in any thread."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._connection = sqlite3.connect(reader_uri(path), uri=True, isolation_level=None, check_same_thread=False)

    def run(self) -> StoreDamaged | None:
        """Return what is wrong; None for nothing, or when it was stopped. O(size of the file)"""
        with closing(self._connection) as reader:
            try:
                found = [row[0] for row in reader.execute("PRAGMA quick_check(3)")]
            except sqlite3.Error as error:
                return _damaged(self._path, str(error)) if judge(error) is Trouble.DAMAGE else None
        return None if found == ["ok"] else _damaged(self._path, " ".join(" ".join(found).split()))

    def stop(self) -> None:
        """End it early, from another thread."""
        with suppress(sqlite3.Error):
            self._connection.interrupt()


def _fold(connection: sqlite3.Connection, path: Path) -> None:
    """Fold the whole WAL that a crash left behind into the file, so that nothing is built upon it.

    When a failed fsync was the reason for the crash, its last frames may stand in the page cache alone. So they are
    written again first: a power cut while they are folded would find a torn file, and nothing to mend it with.
    """
    connection.execute("BEGIN IMMEDIATE")  # nobody writes to it meanwhile
    _write_again(path.with_name(f"{path.name}-wal"))
    connection.execute("ROLLBACK")
    busy = connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0]
    if busy:
        raise AlreadyRunning(
            f"Another program is reading {path}, so what a crash left in its WAL cannot be made safe.",
            remedy="End it (a shell, a backup), and start again.",
        )


def _write_again(wal: Path) -> None:
    """Write a file's own bytes over it and sync it: what only the page cache holds reaches the disk. O(its size)"""
    descriptor = os.open(wal, os.O_RDWR | os.O_CLOEXEC)
    try:
        for offset in range(0, os.fstat(descriptor).st_size, WRITE_AGAIN_BYTES):
            os.pwrite(descriptor, os.pread(descriptor, WRITE_AGAIN_BYTES, offset), offset)
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def identity(path: Path) -> tuple[tuple[int, int] | None, ...]:
    """Return device and inode of the database and of its WAL, None for one that is not there; opens neither."""
    return tuple(_inode(place) for place in (path, path.with_name(f"{path.name}-wal")))


def moved(path: Path) -> StoreMoved:
    """Say that the database is not where it was opened."""
    return StoreMoved(
        f"{path}, or its -wal, is not the file that was opened: it was removed, renamed or replaced.",
        remedy="Everything that was acknowledged before is in the file that was opened. Put it back with its -wal, or "
        "restore a backup, and start relay again.",
    )


def _inode(path: Path) -> tuple[int, int] | None:
    try:
        found = os.stat(path)
    except FileNotFoundError:
        return None
    return found.st_dev, found.st_ino


def _lacks_room(path: Path, error: Exception) -> bool:
    """Whether the disk is full. SQLite often calls that an I/O error, as it does a broken disk."""
    if isinstance(error, OSError):
        return error.errno in NoRoom.ERRNOS
    if getattr(error, "sqlite_errorcode", None) == sqlite3.SQLITE_FULL:  # by a quota too, which shows in no free space
        return True
    disk = os.statvfs(path.parent)
    free_bytes = disk.f_bavail * disk.f_frsize
    return free_bytes < ROOM_BYTES and getattr(error, "sqlite_errorcode", 0) & 0xFF in _WITHOUT_ROOM


def _explain(path: Path, error: Exception) -> RelayError:
    if _lacks_room(path, error):
        return NoRoom(path)
    if judge(error) is Trouble.DAMAGE:
        return _damaged(path, str(error))
    if (forbidden := _forbidden(path)) is not None:
        place, right = forbidden
        return NotPermitted(f"{path} cannot be opened: this user may not {right}.", place)
    reason = "it is a folder" if path.is_dir() else str(error)
    return CannotStart(f"{path} cannot be opened: {reason}.", remedy="Change `storage.path`, or what is in its way.")


def _damaged(path: Path, what: str) -> StoreDamaged:
    return StoreDamaged(
        f"{path} is damaged or no database: {what}.",
        remedy="relay never replaces it by itself: check the disk, then restore a backup of it, or move the file away "
        "to start with an empty one.",
    )


def _forbidden(path: Path) -> tuple[Path, str] | None:
    """Find what this user lacks the right to, and which right."""
    for place, mode, right in (
        (path, os.R_OK | os.W_OK, "read and write it"),
        (path.parent, os.W_OK, "write in its folder"),
    ):
        if place.exists() and not os.access(place, mode):
            return place, right
    return None


def _refuse_old_sqlite(version: tuple[int, ...] = sqlite3.sqlite_version_info) -> None:
    if version < SQLITE_MIN:
        raise CannotStart(
            f"This Python has SQLite {'.'.join(map(str, version))}; relay needs {'.'.join(map(str, SQLITE_MIN))}.",
            remedy="Use the Python of a newer distribution.",
        )


def _refuse_network(path: Path, mounts: str) -> None:
    kind = filesystem(os.stat(path.parent).st_dev, mounts)
    if kind in _NETWORK:
        raise CannotStart(
            f"{path} lies on a network file system ({kind}), where SQLite can lose what it acknowledged.",
            remedy="Set `storage.path` to a local disk.",
        )


def filesystem(device: int, mounts: str) -> str | None:
    """Find the type of the file system that is mounted from a device, in the text of /proc/self/mountinfo."""
    wanted = f"{os.major(device)}:{os.minor(device)}"
    for line in mounts.splitlines():
        before, _, after = line.partition(" - ")
        fields = before.split()
        if len(fields) > 2 and fields[2] == wanted:
            return after.split()[0]
    return None


def _read_mounts() -> str:
    return Path("/proc/self/mountinfo").read_text("utf-8", "replace")
