"""A disk that fails (reliability T4, §7.7, §7.8): the n-th write, fsync or truncation, once and for ever.

strace lets the kernel refuse a call of a store at work, or of a daemon. Whatever is refused: nothing acknowledged is lost,
the database stays whole, and what was not acknowledged can be repeated by its key. 4 faults in the gate;
`make power N=1000` tries as many as wanted.
"""

import asyncio
import json
import os
import sqlite3
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from random import Random
from typing import NamedTuple

import pytest

from relay.cli.client import Daemon as Api
from relay.cli.client import Refused
from relay.core.model import Accepted, Duplicate
from tests.support import writes
from tests.support.daemon import PRODUCER_TOKEN, Daemon, config_text, refused
from tests.support.figures import record
from tests.support.power import Call, Disk, calls, traced, tracing
from tests.support.stores import key, opened
from tests.test_power import Known, cuts, missing

FAULTS = int(os.environ.get("DISK_FAULTS", "4"))
SEED = int(os.environ.get("POWER_SEED", "1"))
CALLS = {"pwrite64": 700, "fdatasync": 90, "ftruncate": 12}  # which may fail, and how many of them a run makes
NAMES = (
    "relay.db",
    "relay.db-wal",
    "relay.db-journal",
    ".",
    "..",
    "../notes",
)  # all that is traced; the last never fails
pytestmark = [pytest.mark.slow, pytest.mark.timeout(max(120, FAULTS * 5))]


class Fault(NamedTuple):
    """Which call fails, how, and whether all after it do."""

    name: str
    error: str
    number: int
    lasting: bool

    def options(self, folder: Path) -> list[str]:
        """Return it as options of strace, for the database in a folder and its WAL."""
        places = [option for name in NAMES for option in ("-P", os.path.normpath(folder / name))]
        return [f"-einject={self.name}:error={self.error}:when={self.number}{'+' * self.lasting}", *places]


def faults(count: int) -> list[Fault]:
    """Choose faults: each kind in turn, at a call that chance chooses."""
    rng = Random(SEED)
    kinds = [(name, error, lasting) for lasting in (False, True) for name in CALLS for error in ("EIO", "ENOSPC")]
    rng.shuffle(kinds)
    return [
        Fault(name, error, rng.randint(1, CALLS[name]), lasting)
        for name, error, lasting in (kinds[number % len(kinds)] for number in range(count))
    ]


def known_of(folder: Path) -> Known:
    """Read what was asked of the store in a folder, and acknowledged."""
    known = Known()
    for line in (folder / "notes").read_text().splitlines():
        known.note(*json.loads(line))
    return known


async def repeated(folder: Path, known: Known) -> list[str]:
    """Repeat everything that was asked by its key; say what is there twice, or not at all, afterwards."""
    wrong = []
    async with opened(folder / "state") as relay:
        for name in sorted(known.posted):
            (result,) = await relay.store.accept([relay.event(id=f"{name}_repeat", idempotency=key(name[4:]))])
            if not isinstance(result, Duplicate if name in known.accepted else Accepted | Duplicate):
                wrong.append(f"{name} was acknowledged and is forgotten")
    return wrong


async def test_a_failing_disk_loses_nothing(tmp_path: Path) -> None:
    """T4: for each fault, all acknowledged is there, the file is whole, and repeats by key make one event of each."""
    losses = {}
    for number, fault in enumerate(faults(FAULTS)):
        (folder := tmp_path / str(number)).mkdir()
        done = traced(tmp_path / "trace", "tests.support.writes", folder, SEED, inject=fault.options(folder / "state"))
        assert "Traceback" not in done.stderr, f"{fault}: {done.stderr}"
        known = known_of(folder)
        if found := await missing(folder, known) + await repeated(folder, known):
            losses[fault] = found
    record("T4 n-th write, fsync or truncation fails, once or for ever", FAULTS, len(losses), "make power")
    assert losses == {}


@pytest.mark.parametrize("mistake", [[], ["--without-fold"]])
async def test_nothing_is_built_on_what_an_fsync_failed_to_write(tmp_path: Path, mistake: list[str]) -> None:
    """H19: the kernel forgets what a failed fsync wrote, and the next start builds on none of it; control: one that does."""
    lost = tried = 0
    (folder := tmp_path / "traced").mkdir()
    disk = Disk(folder)
    fault = Fault("fdatasync", "EIO", commit_under_a_new_head(tmp_path), lasting=False)
    before, made = failed_and_started(folder, fault, mistake)
    for _, known in cuts(disk, made[: before + 300], 16, tmp_path / "cut", since=before):
        tried += 1
        lost += bool(await missing(tmp_path / "cut", known))
    what = "H19 power cut after a failed fsync and another start"
    record(
        f"{what}, control: one that does not fold the WAL, must lose" if mistake else what, tried, lost, "make power"
    )
    assert bool(lost) == bool(mistake)


def commit_under_a_new_head(tmp_path: Path) -> int:
    """Return which sync of an undisturbed run is of the first commit after the WAL was begun anew, late in its first life."""
    (folder := tmp_path / "undisturbed").mkdir()
    done = traced(tmp_path / "plain", "tests.support.writes", folder, SEED)
    assert done.returncode == 0, done.stderr
    synced, heads, is_new = 0, [], False
    for call in calls(tmp_path / "plain"):
        if not call.returned or call.path not in {os.path.normpath(folder / "state" / name) for name in NAMES}:
            continue
        if call.name == "fdatasync":
            synced += 1
            heads += [synced] if is_new else []
            is_new = False
        elif call.name == "pwrite64" and call.path.endswith("-wal") and call.number == 0:
            is_new = True
    return heads[len(heads) // 4] + 1


def failed_and_started(folder: Path, fault: Fault, mistake: Sequence[str]) -> tuple[int, list[Call]]:
    """Let a store die of a fault and start again; return how many calls the first made, and all calls."""
    traces = [folder.with_name(name) for name in ("first", "second")]
    died = traced(traces[0], "tests.support.writes", folder, SEED, inject=fault.options(folder / "state"))
    assert died.returncode in (0, writes.LOST), died.stderr  # 0: a checkpoint failed, and the next one did not
    again = traced(traces[1], "tests.support.writes", folder, SEED, "--first-life", "7", *mistake)
    assert again.returncode == 0, again.stderr
    first, second = ([call for call in calls(path) if call.path.startswith(str(folder))] for path in traces)
    return len(first), first + second


def post(producer: Api, number: int) -> int:
    """Post one event under a key of its own; return the status, of any kind."""
    event = {"type": "a.b", "data": {"n": number}, "idempotency_key": f"key-{number}"}
    try:
        return producer.call("POST", "/v1/events", event).status
    except Refused as refused:
        return refused.status


@pytest.mark.parametrize(("call", "error", "ends"), [("fdatasync", "EIO", True), ("pwrite64", "ENOSPC", False)])
async def test_a_daemon_on_a_failing_disk(tmp_path: Path, call: str, error: str, ends: bool) -> None:
    """T4: an I/O error ends the process, a full disk does not; producers hear 503, and their repeats make one event each."""
    fault = Fault(call, error, 300 if call == "pwrite64" else 60, lasting=True)
    wrapper = [*tracing(tmp_path / "trace", [call]), *fault.options(tmp_path), "-D"]
    answers: dict[int, int] = {}
    daemon = Daemon(tmp_path, config_text(tmp_path), wrapper=wrapper).start()
    try:
        producer = daemon.api_as(PRODUCER_TOKEN)
        while not (answers and answers[max(answers)] != 202):
            answers[len(answers)] = await asyncio.to_thread(post, producer, len(answers))
        assert answers.popitem()[1] == 503
        if ends:
            assert daemon.wait(10) not in (0, 78)
    finally:
        daemon.kill()
    with Daemon(tmp_path, config_text(tmp_path)) as daemon:
        producer = daemon.api_as(PRODUCER_TOKEN)
        for number in range(len(answers) + 1):
            assert await asyncio.to_thread(post, producer, number) in (200, 202)
        assert daemon.stop() == 0
    with closing(sqlite3.connect(tmp_path / "relay.db")) as database:
        assert database.execute("SELECT count(*) FROM event").fetchone() == (len(answers) + 1,)
        assert database.execute("PRAGMA integrity_check").fetchone() == ("ok",)


def test_a_start_without_room_is_tried_again(tmp_path: Path) -> None:
    """H18: a start that a quota stops, which no free space shows, ends with 75, and the service manager tries it again."""
    fault = Fault("pwrite64", "ENOSPC", 60, lasting=True)
    wrapper = [*tracing(tmp_path / "trace", ["pwrite64"]), *fault.options(tmp_path), "-D"]
    assert "no room left on the disk" in refused(tmp_path, config_text(tmp_path), code=75, wrapper=wrapper)
