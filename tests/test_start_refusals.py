"""What keeps a start from succeeding: one clear line, the exit code that says whether trying again helps, no traceback.

Disks that are full or read-only are small ones of a mount namespace, which needs no root; where the kernel gives none to
users, these tests are skipped. What else is refused stands in test_life.
"""

import contextlib
import os
import re
import shutil
import socket
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from relay.daemon.process import ADMIN_TOKEN_FILE
from relay.store.sqlite import migrate
from tests.support.daemon import Daemon, config_text, refused
from tests.support.warm import ROOT

pytestmark = pytest.mark.slow

ON_A_DISK = 'mount -t tmpfs -o "size=$0" tmpfs "$1" && exec "${@:2}"'
UNSHARED = ("unshare", "--user", "--map-root-user", "--mount", "bash", "-c", ON_A_DISK)


def on_a_disk(case: Callable[[Path, Path], None], folder: Path, size: str) -> None:
    """Run a case of this file with a disk of so many bytes, empty, at `folder`/disk; it has the rest of the folder, too."""
    (folder / "disk").mkdir()
    try:
        subprocess.run([*UNSHARED, size, folder / "disk", "true"], check=True, capture_output=True, timeout=30)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("the kernel gives this user no mount namespace")
    call = (
        f"import sys, pathlib; from {__name__} import {case.__name__} as case; case(*map(pathlib.Path, sys.argv[1:]))"
    )
    command = [*UNSHARED, size, folder / "disk", sys.executable, "-c", call, folder, folder / "disk"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=55, check=False, cwd=ROOT)
    assert done.returncode == 0, done.stderr


def text(folder: Path, disk: Path) -> str:
    """A configuration whose database is on the disk."""
    return config_text(folder).replace(f"{folder}/relay.db", f"{disk}/relay.db")


def fill(disk: Path, left_bytes: int = 0) -> Path:
    """Leave so many bytes on a disk; return the file that takes the rest."""
    filler = disk / "filler"
    with contextlib.suppress(OSError), filler.open("wb", buffering=0) as file:
        while True:
            file.write(bytes(4096))
    os.truncate(filler, filler.stat().st_size - left_bytes)
    return filler


def schema(disk: Path) -> int:
    with contextlib.closing(sqlite3.connect(f"file:{disk}/relay.db?mode=ro", uri=True)) as database:
        version: int = database.execute("PRAGMA user_version").fetchone()[0]
        return version


def starts(folder: Path, config: str) -> None:
    with Daemon(folder, config) as daemon:
        assert daemon.stop() == 0


# -- disks -------------------------------------------------------------------------------------------------------------


def full_when_new(folder: Path, disk: Path) -> None:
    filler = fill(disk)
    assert "no room left on the disk" in refused(folder, text(folder, disk), code=75)
    filler.unlink()
    starts(folder, text(folder, disk))


def full_half_way(folder: Path, disk: Path) -> None:
    filler = fill(disk, left_bytes=24 << 10)  # for the lock and a first page, and not for what belongs to it
    assert "no room left on the disk" in refused(folder, text(folder, disk), code=75)
    filler.unlink()
    starts(folder, text(folder, disk))


def full_with_a_database(folder: Path, disk: Path) -> None:
    starts(folder, text(folder, disk))
    filler = fill(disk)
    said = refused(folder, text(folder, disk), code=75)
    assert "no room left on the disk" in said
    assert "damaged" not in said.replace("nothing is damaged", "")
    filler.unlink()
    starts(folder, text(folder, disk))


def full_while_it_migrates(folder: Path, disk: Path) -> None:
    shutil.copy(ROOT / "tests" / "data" / "store_v1" / "relay.db", disk / "relay.db")
    filler = fill(disk, left_bytes=128 << 10)  # for the WAL, and not for the backup before the migration
    assert "no room left on the disk" in refused(folder, text(folder, disk), code=75)
    assert schema(disk) == 1, "nothing was migrated"
    filler.unlink()
    daemon = Daemon(folder, text(folder, disk))
    daemon.launch()
    daemon.wait()  # its applications are other ones than those of the file, so it ends after the migration
    assert schema(disk) == migrate.newest()


def full_for_the_token(folder: Path, disk: Path) -> None:
    filler = fill(disk)
    config = f'[server]\nlisten = ["127.0.0.1:0"]\n[storage]\npath = "{folder}/relay.db"\n'
    state = {"XDG_STATE_HOME": str(disk)}
    assert "no room left on the disk" in refused(folder, config, code=75, env=state)
    assert ADMIN_TOKEN_FILE not in " ".join(place.name for place in disk.rglob("*")), "each try would leave a file"
    filler.unlink()


def read_only(folder: Path, disk: Path) -> None:
    starts(folder, text(folder, disk))
    subprocess.run(["mount", "-o", "remount,ro", disk], check=True)
    said = refused(folder, text(folder, disk), code=78)
    assert "Read-only file system" in said
    assert str(disk) in said


@pytest.mark.parametrize(
    ("case", "size"),
    [
        (full_when_new, "8m"),
        (full_half_way, "1m"),
        (full_with_a_database, "8m"),
        (full_while_it_migrates, "8m"),
        (full_for_the_token, "64k"),
    ],
)
def test_a_full_disk_is_tried_again(tmp_path: Path, case: Callable[[Path, Path], None], size: str) -> None:
    """57: with no room left a start says so and exits with 75, however far it came, and the next one with room succeeds."""
    on_a_disk(case, tmp_path, size)


def test_a_read_only_disk_is_refused(tmp_path: Path) -> None:
    """57: a disk that the kernel has made read-only, as after errors, is named; exit 78, for no restart mends it."""
    on_a_disk(read_only, tmp_path, "8m")


def test_a_network_disk_is_refused(tmp_path: Path) -> None:
    """57: a database on a network file system is refused with its kind; exit 78."""
    said = refused(tmp_path, config_text(tmp_path), code=78, module="tests.support.network_disk")
    assert "nfs4" in said
    assert "storage.path" in said


# -- files -------------------------------------------------------------------------------------------------------------


def test_a_torn_database_is_refused(tmp_path: Path) -> None:
    """57: a database whose end is missing, as after a copy that broke off, is called damaged, kept, and never replaced."""
    starts(tmp_path, config_text(tmp_path))
    database = tmp_path / "relay.db"
    os.truncate(database, database.stat().st_size // 2 + 100)
    torn = database.read_bytes()
    said = refused(tmp_path, config_text(tmp_path), code=1)
    assert "damaged" in said
    assert "backup" in said
    assert database.read_bytes()[100:] == torn[100:], (
        "but for the header, which says that it is in use, nothing changed"
    )


def test_a_torn_wal_is_cut_off_where_it_is_whole(tmp_path: Path) -> None:
    """57: of a WAL whose last frame a power cut tore, what was committed before counts, and the start succeeds."""
    daemon = Daemon(tmp_path, config_text(tmp_path)).start()
    first = daemon.api.post("/v1/events", {"type": "a.b", "data": 1, "application": "acme"})["id"]
    daemon.api.post("/v1/events", {"type": "a.b", "data": 2, "application": "acme"})
    daemon.kill()
    wal = tmp_path / "relay.db-wal"
    os.truncate(wal, wal.stat().st_size - 100)
    starts(tmp_path, config_text(tmp_path))
    with contextlib.closing(sqlite3.connect(tmp_path / "relay.db")) as database:
        assert first in {row[0] for row in database.execute("SELECT id FROM event")}
        assert database.execute("PRAGMA integrity_check").fetchone() == ("ok",)


# -- what else is missing or taken -------------------------------------------------------------------------------------


@pytest.mark.parametrize("folder_given", [False, True], ids=["no credentials", "another one"])
def test_a_missing_credential_is_refused(tmp_path: Path, folder_given: bool) -> None:
    """57: a credential that systemd does not pass is named, with the line for the unit; exit 78."""
    env = {"CREDENTIALS_DIRECTORY": str(tmp_path)} if folder_given else {}
    config = config_text(tmp_path, storage='secrets_key = "cred:relay-secrets-key"')
    daemon = Daemon(tmp_path, config, env=env)
    daemon.launch()
    assert daemon.wait() == 78
    assert re.search(r"config.toml:\d+: .*secrets_key", daemon.log())
    assert "LoadCredential=relay-secrets-key" in daemon.log()
    assert "Traceback" not in daemon.log()


def test_a_unix_socket_in_use_is_tried_again(tmp_path: Path) -> None:
    """H18: a Unix socket on which another process listens is left to it; exit 75, after which systemd tries again."""
    with socket.socket(socket.AF_UNIX) as taken:
        taken.bind(str(tmp_path / "relay.sock"))
        taken.listen()
        said = refused(tmp_path, config_text(tmp_path), code=75)
    assert f"unix:{tmp_path}/relay.sock" in said
