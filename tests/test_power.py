"""Power cuts (reliability T2, T3, §7.1, §7.6): whatever a disk makes of what was not synced, nothing acknowledged is lost.

A store is written to under strace; the power is cut at random system calls of that trace, and what is left is opened anew.
20 cuts in the gate; `make power N=1000` makes as many as wanted.
"""

import json
import os
import re
import shutil
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from itertools import cycle
from pathlib import Path
from random import Random
from typing import Any, NamedTuple

import pytest

from relay.core.errors import RelayError
from relay.store.sqlite import SqliteStore, StoreSettings
from tests.support import writes
from tests.support.clock import FakeClock
from tests.support.daemon import PRODUCER_TOKEN, Daemon, config_text
from tests.support.figures import record
from tests.support.power import ANSWERS, Call, Disk, Fate, calls, traced, tracing

CUTS = int(os.environ.get("POWER_CUTS", "20"))
CONTROLS = 100  # at most: the first loss is enough
ANSWERED = 10
SEED = int(os.environ.get("POWER_SEED", "1"))
OLDER = Path(__file__).parent / "data" / "store_v1" / "relay.db"

pytestmark = [pytest.mark.slow, pytest.mark.timeout(max(120, CUTS))]


@dataclass
class Known:
    """What was asked and acknowledged before the power was cut."""

    posted: set[str] = field(default_factory=set)
    accepted: set[str] = field(default_factory=set)
    endpoints: set[str] = field(default_factory=set)
    settled: dict[tuple[int, int], str] = field(default_factory=dict)

    def note(self, kind: str, *words: Any) -> None:
        """Read one line of the notes."""
        if kind == "posted":
            self.posted.update(words)
        elif kind == "accepted":
            self.accepted.update(words)
        elif kind == "endpoint":
            self.endpoints.update(words)
        elif kind == "settled":
            self.settled[words[0], words[1]] = words[2]


def trace(folder: Path, *arguments: object) -> list[Call]:
    """Let a store be written to in `folder` and return its system calls."""
    path = folder.with_name(f"{folder.name}.trace")
    done = traced(path, "tests.support.writes", folder, SEED, *arguments)
    assert done.returncode == 0, done.stderr
    return [call for call in calls(path) if call.path.startswith(str(folder))]


def cuts(disk: Disk, made: Sequence[Call], count: int, target: Path, since: int = 0) -> Iterator[tuple[str, Known]]:
    """Cut the power `count` times, from call `since` on; yield each time what it was, with what is left in `target`."""
    rng, known, done = Random(SEED), Known(), 0
    for place, fate in zip(sorted(rng.choices(range(since, len(made)), k=count)), cycle(Fate), strict=False):
        for call in made[done:place]:
            disk.follow(call)
            if call.name == "write" and not call.returned and call.path.endswith("/notes"):
                known.note(*json.loads(call.data))
        done = max(done, place)
        shutil.rmtree(target, ignore_errors=True)
        target.mkdir()
        disk.left(fate, rng, target)
        yield f"cut at call {place} of {len(made)}, {fate.value} (POWER_SEED={SEED})", known


async def missing(folder: Path, known: Known) -> list[str]:
    """Open what a power cut left; say what is lost, invented or damaged."""
    path = folder / "state" / "relay.db"
    try:
        store = await SqliteStore.open(StoreSettings(path=path), FakeClock())
    except RelayError as error:
        return [f"it does not open: {error}"]
    await store.close()
    with closing(sqlite3.connect(path)) as database:
        events = dict(database.execute("SELECT id, body FROM event WHERE id LIKE 'evt!__!_%' ESCAPE '!'"))
        states = {
            (event, ref): state for event, ref, state in database.execute("SELECT event, endpoint, state FROM delivery")
        }
        endpoints = {name for (name,) in database.execute("SELECT id FROM endpoint")}
        damage = [row[0] for row in database.execute("PRAGMA integrity_check") if row[0] != "ok"]
        damage += [f"foreign key {row}" for row in database.execute("PRAGMA foreign_key_check")]
    wrong = [name for name, body in events.items() if body != writes.body(name)]
    return [
        *damage,
        *(f"lost event {name}" for name in sorted(known.accepted - events.keys())),
        *(f"lost endpoint {name}" for name in sorted(known.endpoints - endpoints)),
        *(f"invented event {name}" for name in sorted(events.keys() - known.posted)),
        *(f"another body in {name}" for name in wrong),
        *(f"lost outcome {key}: {state}" for key, state in known.settled.items() if states.get(key) != STATES[state]),
    ]


STATES = {"due": 0, "delivered": 1, "dead": 2}


async def test_power_cuts_lose_nothing(tmp_path: Path) -> None:
    """T2: from the first start on, over clean and unclean ends, every cut leaves a whole database with all acknowledged."""
    (folder := tmp_path / "traced").mkdir()
    disk = Disk(folder)
    losses = {}
    for what, known in cuts(disk, trace(folder), CUTS, tmp_path / "cut"):
        if found := await missing(tmp_path / "cut", known):
            losses[what] = found
    record("T2 power cut, every write lost, kept, cut short or torn", CUTS, len(losses), "make power")
    assert losses == {}


async def test_power_cuts_in_a_migration_lose_nothing(tmp_path: Path) -> None:
    """T2, T17: cut while an older schema is migrated, the old rows are there, and the backup once a step is done."""
    (folder := tmp_path / "traced" / "state").mkdir(parents=True)
    leave_older(folder)
    disk = Disk(folder.parent)
    made = trace(folder.parent)
    first = next(number for number, call in enumerate(made) if call.name == "write" and call.path.endswith("/notes"))
    losses = {}
    for what, known in cuts(disk, made[: first + 20], CUTS, tmp_path / "cut"):
        if found := await missing(tmp_path / "cut", known) + older_lost(tmp_path / "cut" / "state"):
            losses[what] = found
    record("T2 power cut while an older schema is migrated", CUTS, len(losses), "make power")
    assert losses == {}


def leave_older(folder: Path) -> None:
    """Put an older database there, with a WAL as a crash leaves it."""
    work = folder.with_name("work.db")
    shutil.copy(OLDER, work)
    with closing(sqlite3.connect(work)) as database:
        database.execute("PRAGMA journal_mode = WAL")
        for clean in (1, 0):
            database.execute("UPDATE meta SET value = ? WHERE name = 'clean'", [clean])
            database.commit()
        for suffix in ("", "-wal"):
            shutil.copy(f"{work}{suffix}", folder / f"relay.db{suffix}")
    for left in folder.parent.glob("work.db*"):
        left.unlink()


def older_lost(folder: Path) -> list[str]:
    """Say which rows of the kept database are gone, and whether the backup of it is."""
    count = "SELECT count(*) FROM event WHERE id LIKE 'evt!____' ESCAPE '!'"
    lost = []
    for path in (folder / "relay.db", folder / "relay.db.schema-1.backup"):
        if not path.exists():
            lost.append(f"{path.name} is gone")
            continue
        with closing(sqlite3.connect(path)) as database:
            tables = database.execute("SELECT count(*) FROM sqlite_schema WHERE name = 'event'").fetchone()
            if tables != (1,) or database.execute(count).fetchone() != (13,):
                lost.append(f"rows of {path.name} are gone")
    return lost


@pytest.mark.parametrize("durability", ["off", "normal"])
async def test_without_fsync_power_cuts_lose(tmp_path: Path, durability: str) -> None:
    """T2, negative control: with `synchronous` OFF or NORMAL the same cuts lose what was acknowledged."""
    (folder := tmp_path / "traced").mkdir()
    disk = Disk(folder)
    lost = tried = 0
    for _, known in cuts(disk, trace(folder, "--durability", durability), CONTROLS, tmp_path / "cut"):
        tried += 1
        if lost := len(await missing(tmp_path / "cut", known)):
            break
    record(f"T2 control: synchronous={durability.upper()}, must lose", tried, min(lost, 1), "make power")
    assert lost > 0


# -- fsync before the answer ------------------------------------------------------------------------------------------


class Seen(NamedTuple):
    """A call on the WAL or on a socket, with what it wrote."""

    call: Call
    data: bytes

    @property
    def is_sync(self) -> bool:
        return self.call.name == "fdatasync"

    @property
    def is_wal(self) -> bool:
        return self.call.path.endswith("-wal")


def answered_early(trace_path: Path, names: Sequence[str]) -> list[str]:
    """Return the events whose answer was sent before an fsync that began after their write to the WAL had ended."""
    seen = [
        Seen(call, call.data) for call in calls(trace_path) if call.path.startswith("socket:") or "-wal" in call.path
    ]
    early = []
    for name in names:
        having = [place for place, one in enumerate(seen) if name.encode() in one.data]
        written = next(place for place in having if seen[place].is_wal and seen[place].call.returned)
        sent = next(place for place in having if not seen[place].is_wal)
        if not synced(seen[written:sent]):
            early.append(name)
    return early


def synced(between: Sequence[Seen]) -> bool:
    """Whether an fsync of the WAL begins and ends within these calls."""
    syncs = [one.call.returned for one in between if one.is_sync]
    return any(not begins and ends for ends, begins in zip(syncs[1:], syncs, strict=False))


@pytest.mark.parametrize("durability", ["full", "normal"])
async def test_no_answer_leaves_before_its_fsync(tmp_path: Path, durability: str) -> None:
    """T3: the kernel saw an fsync of the WAL between each event's write and its 202; `normal`, the control, does without."""
    path = tmp_path / "trace"
    wrapper = [*tracing(path, ("pwrite64", "fdatasync", "write", *ANSWERS)), "-D"]
    config = config_text(tmp_path, storage=f'durability = "{durability}"')
    with Daemon(tmp_path, config, wrapper=wrapper) as daemon:
        producer = daemon.api_as(PRODUCER_TOKEN)
        names = [producer.post("/v1/events", {"type": "a.b", "data": {"n": n}})["id"] for n in range(ANSWERED)]
        assert daemon.stop() == 0
        while re.search(rf"^{daemon.pid} +\+\+\+ exited", path.read_text("latin-1"), re.MULTILINE) is None:
            pass  # the tracer writes the rest
    early = answered_early(path, names)
    if durability == "full":
        record("T3 an fsync of the WAL before each 202", len(names), len(early), "make power")
        assert early == []
    else:
        record("T3 control: durability = normal, must answer early", len(names), len(early), "make power")
        assert early != []
