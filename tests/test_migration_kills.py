"""Migrations that are killed (reliability T17, §7.54): at each statement, and what every earlier schema left opens today."""

import shutil
import sqlite3
import subprocess
import sys
from contextlib import closing
from functools import cache
from pathlib import Path

import pytest

from relay.store.sqlite import migrate
from tests.support.figures import record
from tests.support.stores import opened
from tests.support.warm import ROOT

OLDER = Path(__file__).parent / "data" / "store_v1" / "relay.db"

pytestmark = [pytest.mark.slow, pytest.mark.timeout(180)]


def killed(database: Path, folder: Path) -> list[Path]:
    """Kill a start on a copy of the database at each of its statements; return the folders that are left."""
    command = [sys.executable, "-m", "tests.support.killed_migrations", str(database), str(folder)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=150)
    assert done.returncode == 0, done.stderr
    return [folder / str(number) for number in range(1, int(done.stdout) + 1)]


def is_whole(path: Path) -> bool:
    """Whether a file has the tables and columns of the schema that it says it has, and none of another."""
    with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as database:
        version = database.execute("PRAGMA user_version").fetchone()[0]
        return shape(database) == shape_of(version)


def shape(database: sqlite3.Connection) -> str:
    """Describe the tables, indexes and triggers of a database."""
    rows = "SELECT type, name, sql FROM sqlite_schema WHERE name NOT LIKE 'sqlite!_%' ESCAPE '!'"
    return repr(sorted(database.execute(rows)))


@cache
def shape_of(version: int) -> str:
    """Describe a database after the steps up to a version."""
    with closing(sqlite3.connect(":memory:", isolation_level=None)) as database:
        for number in range(1, version + 1):
            database.executescript(migrate.steps()[number])
        return shape(database)


@pytest.mark.parametrize(
    ("database", "events"), [(OLDER, 13), (Path("/nonexistent"), 0)], ids=["from-1", "first-start"]
)
async def test_a_start_killed_at_any_statement(tmp_path: Path, database: Path, events: int) -> None:
    """T17: each kill leaves a whole version, never half of a step; the next start opens it with every row."""
    folders = killed(database, tmp_path)
    halves, lost = [], []
    for folder in folders:
        if (folder / "relay.db").exists():
            halves += [folder.name] * (not is_whole(folder / "relay.db"))
        async with opened(folder):
            pass
        with closing(sqlite3.connect(folder / "relay.db")) as after:
            whole = after.execute("PRAGMA integrity_check").fetchone() == ("ok",)
            if not whole or after.execute("SELECT count(*) FROM event").fetchone() != (events,):
                lost.append(folder.name)
        shutil.rmtree(folder)
    what = "an older schema" if events else "a first start"
    record(f"T17 kill -9 at each statement, {what}", len(folders), len(lost) + len(halves), "make power")
    assert len(folders) > 20 + 2 * migrate.newest()
    assert (halves, lost) == ([], [])


async def test_half_a_step_is_seen(tmp_path: Path) -> None:
    """T17, negative control: a step that ran without its transaction is found to be half of one."""
    shutil.copy(OLDER, tmp_path / "relay.db")
    with closing(sqlite3.connect(tmp_path / "relay.db")) as database:
        database.execute("CREATE TABLE cancelled_head (endpoint INTEGER)")  # of the second step
        database.commit()
    seen = not is_whole(tmp_path / "relay.db")
    record("T17 control: half a step, must be seen", 1, int(seen), "make power")
    assert seen
