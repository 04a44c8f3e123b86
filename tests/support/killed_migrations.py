"""Migrations that are killed at each of their statements, one process for each.

Run as `python -m tests.support.killed_migrations DATABASE FOLDER`: for n = 1, 2, … a fork copies the database to `FOLDER/n/relay.db`,
opens it as a start does, and kills itself before the n-th statement. It ends, printing how many were killed, when one got through.
"""

import os
import shutil
import signal
import sqlite3
import sys
from itertools import count
from pathlib import Path
from typing import Any

from relay.store.sqlite import opening
from relay.store.sqlite.opening import StoreSettings

connect = sqlite3.connect


def killed_at(number: int, path: Path) -> None:
    """Open the database, and die before the statement of this number; of backups and checks too."""
    statements = count(1)

    def die(statement: str) -> None:
        if next(statements) == number:
            os.kill(os.getpid(), signal.SIGKILL)

    def watched(*arguments: Any, **options: Any) -> sqlite3.Connection:
        connection = connect(*arguments, **options)
        connection.set_trace_callback(die)
        return connection

    sqlite3.connect = watched  # type: ignore[assignment]  # the mistake that is planted
    connection, _ = opening.open_writer(StoreSettings(path=path))
    connection.close()


def main(database: Path, folder: Path) -> None:
    """Kill at each statement."""
    for number in count(1):
        place = folder / str(number)
        place.mkdir(parents=True)
        if database.exists():
            shutil.copy(database, place / "relay.db")
        child = os.fork()
        if not child:
            killed_at(number, place / "relay.db")
            os._exit(0)
        if os.WIFEXITED(status := os.waitpid(child, 0)[1]):
            assert os.WEXITSTATUS(status) == 0
            print(number - 1)  # noqa: T201 - to the test
            return


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
