"""Opening the store: one owner, the right file on the right disk, settings read back, versions, damage."""

import asyncio
import os
import sqlite3
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from relay.core.errors import AlreadyRunning, CannotStart, RelayError, StoreDamaged
from relay.core.model import Accepted
from relay.store.sqlite import SqliteStore, StoreSettings, migrate, opening
from relay.store.sqlite.writer import Stage
from tests.support.clock import FakeClock
from tests.support.stores import look, opened


async def open_at(path: Path) -> SqliteStore:
    return await SqliteStore.open(StoreSettings(path=path), FakeClock())


async def refusal(path: Path) -> RelayError:
    """Open what must be refused; the answer says what is wrong and what to do, and nothing stays locked."""
    with pytest.raises(RelayError) as refused:
        await open_at(path)
    assert refused.value.remedy
    assert "Traceback" not in str(refused.value)
    opening.prepare(path).close()
    return refused.value


@pytest.fixture
def plain_user() -> Iterator[None]:
    """Be somebody whom file modes bind."""
    if os.geteuid() == 0:
        os.seteuid(65534)
        yield
        os.seteuid(0)
    else:
        yield


# -- settings and files -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("durability", "level"), [("full", 2), ("normal", 1)])
async def test_settings_are_read_back(tmp_path: Path, durability: str, level: int) -> None:
    """Invariant 1: WAL and the wished `synchronous` are what the connection answers, and facts say so."""
    async with opened(tmp_path, durability=durability) as relay:
        facts = relay.store.facts
        assert (facts["journal_mode"], facts["synchronous"], facts["schema_version"]) == (
            "wal",
            durability,
            migrate.newest(),
        )
        assert (facts["unclean_start"], facts["backup"]) == (False, None)
        pragma = await relay.store._submit(
            Stage.EDIT, lambda connection: connection.execute("PRAGMA synchronous").fetchone()[0]
        )
        assert pragma == level


async def test_a_journal_that_is_no_wal_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Invariant 1: a database whose settings read back wrong does not start."""
    monkeypatch.setattr(opening, "_configure", lambda connection, settings: 0)
    assert "would not be durable" in (await refusal(tmp_path / "relay.db")).detail


async def test_files_are_private(tmp_path: Path) -> None:
    """Reliability §3.6: the database, its WAL and the lock are readable by their owner only."""
    async with opened(tmp_path / "state") as relay:
        await relay.accept()
        for path in (tmp_path / "state").iterdir():
            assert stat.S_IMODE(path.stat().st_mode) == 0o600, path
        assert stat.S_IMODE((tmp_path / "state").stat().st_mode) == 0o700


async def test_a_second_daemon_is_refused(tmp_path: Path) -> None:
    """Invariant 2: the lock names the owner, and goes with it."""
    async with opened(tmp_path) as relay:
        with pytest.raises(AlreadyRunning, match=str(os.getpid())):
            await open_at(tmp_path / "relay.db")
        await relay.accept()
    async with opened(tmp_path):
        pass


async def test_a_lock_dies_with_its_process(tmp_path: Path) -> None:
    """Invariant 2: a lock file left behind by a killed daemon stops nobody."""
    script = "import os, sys\nfrom pathlib import Path\nfrom relay.store.sqlite import opening\n"
    script += "opening.prepare(Path(sys.argv[1]))\nos._exit(9)\n"
    await run_python(script, tmp_path / "relay.db")
    assert (tmp_path / "relay.db.lock").exists()
    async with opened(tmp_path):
        pass


# -- disks ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["nfs4", "cifs", "9p", "fuse.sshfs"])
def test_network_disks_are_refused(tmp_path: Path, kind: str) -> None:
    """Invariant 2: WAL does not work on network file systems."""
    device = os.stat(tmp_path).st_dev
    mounts = f"36 35 {os.major(device)}:{os.minor(device)} / {tmp_path} rw shared:1 - {kind} server:/x rw\n"
    with pytest.raises(CannotStart, match=f"network file system .{kind}."):
        opening.prepare(tmp_path / "relay.db", mounts)


def test_local_and_unknown_disks_are_taken(tmp_path: Path) -> None:
    """Invariant 2: ext4 passes, and so does a device that the list of mounts does not know (btrfs subvolumes)."""
    device = os.stat(tmp_path).st_dev
    known = f"junk\n36 35 {os.major(device)}:{os.minor(device)} / / rw - ext4 /dev/x rw\n"
    for mounts in (known, ""):
        opening.prepare(tmp_path / "relay.db", mounts).close()


# -- what is no database of ours --------------------------------------------------------------------------------------


async def test_a_file_that_is_no_database(tmp_path: Path) -> None:
    """Reliability §1.6: a text file is refused in one line and not touched."""
    path = tmp_path / "relay.db"
    path.write_text("[server]\nlisten = []\n" * 200)
    before = path.read_bytes()
    error = await refusal(path)
    assert isinstance(error, StoreDamaged)
    assert "restore" in error.remedy
    assert path.read_bytes() == before


async def test_another_programs_database(tmp_path: Path) -> None:
    """Reliability §1.6: somebody else's SQLite file is refused and not touched."""
    path = tmp_path / "relay.db"
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE photo (id INTEGER)")
    connection.close()
    assert "another program" in (await refusal(path)).detail
    assert look(tmp_path, "PRAGMA journal_mode") == [("delete",)]


async def test_a_newer_schema(tmp_path: Path) -> None:
    """Reliability T17: a database of a newer relay is refused, with the versions, and left as it is."""
    async with opened(tmp_path):
        pass
    with sqlite3.connect(tmp_path / "relay.db") as connection:
        connection.execute("PRAGMA user_version = 99")
    connection.close()
    error = await refusal(tmp_path / "relay.db")
    assert isinstance(error, CannotStart)
    assert "schema 99" in error.detail


async def test_a_folder_in_its_place(tmp_path: Path) -> None:
    """Reliability §1.6: a folder where the file should be is named as such."""
    (tmp_path / "relay.db").mkdir()
    assert "it is a folder" in (await refusal(tmp_path / "relay.db")).detail


async def test_a_file_in_place_of_the_folder(tmp_path: Path) -> None:
    """Reliability §1.6: a path through a file is refused in words."""
    (tmp_path / "state").write_text("")
    with pytest.raises(CannotStart, match="cannot be used"):
        await open_at(tmp_path / "state" / "relay.db")


async def test_a_folder_of_somebody_else(tmp_path: Path, plain_user: None) -> None:
    """Reliability §1.6: a folder that cannot be entered or written is refused with what to do."""
    with pytest.raises(CannotStart, match="give it to the user"):
        await open_at(Path("/proc/1/relay/relay.db"))


async def test_a_file_of_somebody_else(tmp_path: Path) -> None:
    """Reliability §1.6: a file without the right to write is refused with what to do."""
    async with opened(tmp_path / "state"):
        pass
    script = (
        "import asyncio, os, sys\nfrom pathlib import Path\nfrom relay.core.clock import SystemClock\n"
        "from relay.core.errors import CannotStart\nfrom relay.store.sqlite import SqliteStore, StoreSettings\nfrom relay.store.sqlite import migrate\n"
        "migrate.steps()\n"  # while this user may still read it
        "if os.geteuid() == 0: os.setuid(65534)\n"
        "try: asyncio.run(SqliteStore.open(StoreSettings(path=Path(sys.argv[1])), SystemClock()))\n"
        "except CannotStart as error: print(error)\n"
    )
    folder = tmp_path / "state"
    for part in (*reversed(tmp_path.parents), tmp_path, folder):
        if (
            part.stat().st_uid == os.geteuid()
            and part.is_relative_to(tempfile.gettempdir())
            and part != Path(tempfile.gettempdir())
        ):
            part.chmod(0o777)
    (folder / "relay.db.lock").chmod(0o666)
    (folder / "relay.db").chmod(0o444)
    assert "this user may not read and write it" in await run_python(script, folder / "relay.db")


async def run_python(script: str, path: Path) -> str:
    """Run a script in a process of its own and return what it printed."""
    command = [sys.executable, "-c", script, str(path)]
    done = await asyncio.to_thread(subprocess.run, command, capture_output=True, text=True, check=False)
    return done.stdout + done.stderr


def test_an_old_sqlite() -> None:
    """A SQLite without what the statements need is refused at start, not at the first statement."""
    with pytest.raises(CannotStart, match=r"3\.36\.0"):
        opening._refuse_old_sqlite((3, 36, 0))


# -- after an unclean stop --------------------------------------------------------------------------------------------


async def test_a_crash_is_noticed_and_the_wal_replayed(tmp_path: Path) -> None:
    """Invariant 1: what was acknowledged before a crash is there after it; the file was checked."""
    async with opened(tmp_path) as relay:
        accepted = await relay.accept()
        await relay.store.abandon()
    assert (tmp_path / "relay.db-wal").stat().st_size > 0
    async with opened(tmp_path) as relay:
        assert (relay.store.facts["unclean_start"], relay.store.facts["checked"]) == (True, True)
        assert await relay.store.find_event(accepted.event.id) is not None
    async with opened(tmp_path) as relay:
        assert not relay.store.facts["unclean_start"]


async def test_damage_is_found_after_a_crash(tmp_path: Path) -> None:
    """Reliability §1.6: a damaged page is found by the check after an unclean stop, and the file is kept."""
    await leave_damaged(tmp_path)
    error = await refusal(tmp_path / "relay.db")
    assert isinstance(error, StoreDamaged)
    assert "check the disk" in error.remedy


async def leave_damaged(folder: Path) -> None:
    async with opened(folder) as relay:
        ref = await relay.endpoint()
        for _ in range(200):
            assert isinstance(await relay.offer(relay.event(ref)), Accepted)
    root = look(folder, "SELECT rootpage FROM sqlite_schema WHERE name = 'event_created'")[0][0]
    with sqlite3.connect(folder / "relay.db") as connection:
        connection.execute("UPDATE meta SET value = 0 WHERE name = 'clean'")
    connection.close()
    with (folder / "relay.db").open("r+b") as file:
        file.seek((root - 1) * 4096 + 8)
        file.write(os.urandom(4000))


async def test_a_large_file_is_checked_while_it_is_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """S1: a file too large to wait for is opened at once and checked meanwhile; damage then stops the process."""
    await leave_damaged(tmp_path)
    monkeypatch.setattr(opening, "CHECK_AT_ONCE_BYTES", 4096)
    store = await open_at(tmp_path / "relay.db")
    fatal: asyncio.Future[Exception] = asyncio.get_running_loop().create_future()
    store.on_fatal(fatal.set_result)
    assert (store.facts["unclean_start"], store.facts["checked"]) == (True, False)
    assert isinstance(await fatal, StoreDamaged)
    assert "check the disk" in str(await fatal)
    assert not store.healthy
    await store.close()


async def test_a_check_ends_with_the_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """S1: closing does not wait for the check of a large file, and a sound one is found sound."""
    monkeypatch.setattr(opening, "CHECK_AT_ONCE_BYTES", 4096)
    async with opened(tmp_path) as relay:
        await relay.accept()
        await relay.store.abandon()
    async with opened(tmp_path) as relay:
        await relay.store.close()
    async with opened(tmp_path) as relay:
        await relay.accept(id="evt_later")
        await relay.store.abandon()
    async with opened(tmp_path) as relay:
        assert relay.store._checking is not None
        await relay.store._checking
        assert relay.store.healthy


# -- migrations -------------------------------------------------------------------------------------------------------


@pytest.fixture
async def older(tmp_path: Path) -> sqlite3.Connection:
    """A database of the present version with one event in it, as a later relay finds it."""
    async with opened(tmp_path) as relay:
        await relay.accept()
    return sqlite3.connect(tmp_path / "relay.db", isolation_level=None)


def test_an_older_schema_is_backed_up_and_migrated(tmp_path: Path, older: sqlite3.Connection) -> None:
    """Reliability §1.8: each step once, in order; before the first, a private copy of what there was."""
    now = migrate.newest()
    steps = {now + 1: "ALTER TABLE meta ADD COLUMN a INTEGER;", now + 2: "ALTER TABLE meta ADD COLUMN b INTEGER;"}
    backup = migrate.migrate(older, tmp_path / "relay.db", steps)
    assert backup is not None
    assert stat.S_IMODE(backup.stat().st_mode) == 0o600
    assert older.execute("PRAGMA user_version").fetchone() == (now + 2,)
    assert migrate.migrate(older, tmp_path / "relay.db", steps) is None
    older.close()
    copy = sqlite3.connect(backup)
    assert copy.execute("PRAGMA user_version").fetchone() == (now,)
    assert copy.execute("SELECT count(*) FROM event").fetchone() == (1,)
    copy.close()


def test_a_step_that_fails_changes_nothing(tmp_path: Path, older: sqlite3.Connection) -> None:
    """Reliability T17: a failed step leaves the version before it, whole."""
    now = migrate.newest()
    steps = {now + 1: "ALTER TABLE meta ADD COLUMN a INTEGER; SELECT * FROM nowhere;"}
    with pytest.raises(sqlite3.OperationalError):
        migrate.migrate(older, tmp_path / "relay.db", steps)
    assert older.execute("PRAGMA user_version").fetchone() == (now,)
    assert "a" not in [column[1] for column in older.execute("PRAGMA table_info(meta)")]
    older.close()


def test_the_schema_is_strict(tmp_path: Path, older: sqlite3.Connection) -> None:
    """Every table is STRICT, and CHECKs tie a delivery's state to its times and reasons."""
    assert older.execute("SELECT count(*) FROM pragma_table_list WHERE schema = 'main' AND NOT strict").fetchone() == (
        len([name for (name,) in older.execute("SELECT name FROM sqlite_schema WHERE name LIKE 'sqlite_s%'")]) + 1,
    )
    insert = (
        "INSERT INTO delivery (event, endpoint, state, due, budget_from, finished_at, reason, cancelled_by) VALUES "
    )
    for impossible in (
        "(9, 1, 0, 5, 0, 7, NULL, NULL)",  # due and finished
        "(9, 1, 1, NULL, 0, NULL, NULL, NULL)",  # delivered but not finished
        "(9, 1, 1, 5, 0, 7, NULL, NULL)",  # delivered and due
        "(9, 1, 2, NULL, 0, 7, NULL, NULL)",  # dead of nothing
        "(9, 1, 1, NULL, 0, 7, 'gone', NULL)",  # delivered with a reason to be dead
        "(9, 1, 3, NULL, 0, 7, NULL, NULL)",  # cancelled by nobody
        "(9, 1, 4, NULL, 0, 7, NULL, NULL)",  # no such state
        "(9, 1, 0, 'soon', 0, NULL, NULL, NULL)",  # no time
    ):
        with pytest.raises(sqlite3.IntegrityError):
            older.execute(insert + impossible)
    older.close()
