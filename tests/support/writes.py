"""A store that is written to in every way, and notes in a file what it was asked and what was acknowledged.

Run as `python -m tests.support.writes FOLDER SEED [DURABILITY]`, under a tracer: tests cut the power at any system call, or
let one fail. The database is `FOLDER/state/relay.db`; each line of `FOLDER/notes` is one JSON list, written at once.
"""

import asyncio
import contextlib
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from random import Random
from typing import Any

from relay.core.errors import RelayError
from relay.core.model import Accepted, DeliveryState, DueDelivery, Duplicate, NewEvent
from relay.store.sqlite import opening
from tests.support.stores import DAY_MS, Kept, Relay, key, opened

LIVES = 3
ROUNDS = 8
SMALL: dict[str, Any] = {"checkpoint_pages": 40, "wal_max_bytes": 200_000}  # checkpoints and truncations within seconds


def body(event_id: str) -> bytes:
    """Return the body that an event of this id has: up to 24 KiB, another one for each id."""
    return json.dumps({"id": event_id, "x": event_id * Random(event_id).choice([0, 1, 40, 1_600])}).encode()


class Notes:
    """What is known outside of the database. A note is written before the next step begins."""

    def __init__(self, path: Path) -> None:
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)

    def write(self, *words: object) -> None:
        os.write(self._file, json.dumps(words).encode() + b"\n")


class Load:
    """Accepts, repeats, settles, edits and prunes, as many at once as chance wants."""

    def __init__(self, relay: Relay, notes: Notes, rng: Random, life: int) -> None:
        self._relay = relay
        self._notes = notes
        self._rng = rng
        self._life = life
        self._made = 0
        self._due: list[DueDelivery] = []

    async def run(self, rounds: int) -> None:
        """Make so many rounds of writes."""
        ref = await self._relay.endpoint(f"ep_{self._life}")
        self._notes.write("endpoint", f"ep_{self._life}")
        for _ in range(rounds):
            await asyncio.gather(
                *(self._accept(ref) for _ in range(self._rng.randint(1, 6))),
                *(self._settle(due) for due in self._taken()),
            )
        self._relay.clock.advance(2 * DAY_MS)
        await self._relay.store.prune(self._relay.clock.wall_ms(), Kept(attempts_ms=DAY_MS), 50)

    def _taken(self) -> Sequence[DueDelivery]:
        self._rng.shuffle(self._due)
        half = len(self._due) // 2
        taken, self._due = self._due[:half], self._due[half:]
        return taken

    async def _accept(self, ref: int) -> None:
        events = [self._event(ref) for _ in range(self._rng.choice([1, 1, 1, 8]))]
        self._notes.write("posted", *(event.id for event in events))
        for event, result in zip(events, await self._relay.store.accept(events), strict=True):
            assert isinstance(result, Accepted)
            self._notes.write("accepted", event.id)
            self._due += result.due
        again = events[0]._replace(id=f"{events[0].id}_again")
        (repeated,) = await self._relay.store.accept([again])
        assert isinstance(repeated, Duplicate)

    def _event(self, ref: int) -> NewEvent:
        self._made += 1
        event_id = f"evt_{self._life}_{self._made:04d}"
        strict = {"ordering_key": "cut"} if self._rng.random() < 0.2 else {}
        return self._relay.event(ref, id=event_id, body=body(event_id), idempotency=key(event_id[4:]), **strict)

    async def _settle(self, due: DueDelivery) -> None:
        state = self._rng.choice([DeliveryState.DELIVERED, DeliveryState.DEAD, DeliveryState.DUE])
        if state is DeliveryState.DELIVERED:
            await self._relay.delivered(due)
        elif state is DeliveryState.DEAD:
            await self._relay.dead(due)
        else:
            await self._relay.again(due, self._relay.clock.wall_ms() + 5)
        self._notes.write("settled", due.event, due.endpoint, state.value)


async def live(folder: Path, seed: int, durability: Any) -> None:
    """Open the store again and again; every second life ends as in a crash."""
    notes, rng = Notes(folder / "notes"), Random(seed)
    for life in range(LIVES):
        async with opened(folder / "state", durability=durability, **SMALL) as relay:
            notes.write("open")
            await Load(relay, notes, rng, life).run(ROUNDS)
            if life % 2:
                await relay.store.abandon()


def main(folder: str, seed: str, durability: str = "full") -> None:
    """Run it; an error that the relay would end with ends this process with the same exit code."""
    opening._SYNCHRONOUS["off"] = 0  # what no configuration may ask for
    try:
        asyncio.run(live(Path(folder), int(seed), durability))
    except RelayError as error:
        with contextlib.suppress(OSError):
            print(f"{type(error).__name__}: {error}", file=sys.stderr)  # noqa: T201 - to the test
        sys.exit(error.exit_code)


if __name__ == "__main__":
    main(*sys.argv[1:])
