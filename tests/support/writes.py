"""A store that is written to in every way, and notes in a file what it was asked and what was acknowledged.

Run as `python -m tests.support.writes FOLDER SEED`, under a tracer: tests cut the power at any system call, or let one fail.
The database is `FOLDER/state/relay.db`; each line of `FOLDER/notes` is one JSON list, written at once. What fails is tried
again, as a producer does, until it works, the store is lost, or nothing has worked for a while.
"""

import argparse
import asyncio
import json
import os
import sys
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from pathlib import Path
from random import Random
from typing import Any, TypeVar

from relay.core.errors import RelayError, StoreUnavailable
from relay.core.model import Accepted, DeadReason, DeliveryState, DueDelivery, Duplicate, NewEvent, Settlement
from relay.store.sqlite import opening
from tests.support.stores import DAY_MS, Kept, Relay, key, opened

T = TypeVar("T")

LIVES = 3
TRIES = 20
LOST = 70
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
        name = f"ep_{self._life}"
        ref = await self._until_done(lambda: self._relay.endpoint(name))
        self._notes.write("endpoint", name)
        for _ in range(rounds):
            await asyncio.gather(
                *(self._accept(ref) for _ in range(self._rng.randint(1, 6))),
                *(self._settle(due) for due in self._taken()),
            )
        self._relay.clock.advance(2 * DAY_MS)
        now_ms, kept = self._relay.clock.wall_ms(), Kept(attempts_ms=DAY_MS)
        await self._until_done(lambda: self._relay.store.prune(now_ms, kept, 50))

    async def _until_done(self, write: Callable[[], Awaitable[T]]) -> T:
        """Try a write again and again; RelayError when the store is lost or takes nothing any more."""
        for _ in range(TRIES):
            try:
                return await write()
            except StoreUnavailable:
                self._notes.write("failed")
                if self._relay.store.lost:
                    os._exit(LOST)  # at once, so that nothing is tidied up
                with suppress(StoreUnavailable):
                    await self._relay.store.ping()  # as housekeeping does
        return await write()

    def _taken(self) -> Sequence[DueDelivery]:
        self._rng.shuffle(self._due)
        half = len(self._due) // 2
        taken, self._due = self._due[:half], self._due[half:]
        return taken

    async def _accept(self, ref: int) -> None:
        events = [self._event(ref) for _ in range(self._rng.choice([1, 1, 1, 8]))]
        self._notes.write("posted", *(event.id for event in events))
        results = await self._until_done(lambda: self._relay.store.accept(events))
        for event, result in zip(events, results, strict=True):
            assert isinstance(result, Accepted | Duplicate)  # the latter when a commit that failed was kept
            self._notes.write("accepted", event.id)
            if isinstance(result, Accepted):
                self._due += result.due
        again = events[0]._replace(id=f"{events[0].id}_again")
        (repeated,) = await self._until_done(lambda: self._relay.store.accept([again]))
        assert isinstance(repeated, Duplicate)

    def _event(self, ref: int) -> NewEvent:
        self._made += 1
        event_id = f"evt_{self._life}_{self._made:04d}"
        strict = {"ordering_key": "cut"} if self._rng.random() < 0.2 else {}
        return self._relay.event(ref, id=event_id, body=body(event_id), idempotency=key(event_id[4:]), **strict)

    async def _settle(self, due: DueDelivery) -> None:
        state = self._rng.choice([DeliveryState.DELIVERED, DeliveryState.DEAD, DeliveryState.DUE])
        await self._until_done(lambda: self._relay.store.settle(self._settlement(due, state)))
        self._notes.write("settled", due.event, due.endpoint, state.value)

    def _settlement(self, due: DueDelivery, state: DeliveryState) -> Settlement:
        outcome = self._relay.outcome(204 if state is DeliveryState.DELIVERED else 500)
        if state is DeliveryState.DUE:
            return Settlement(due, state, outcome, due_ms=self._relay.clock.wall_ms() + 5)
        return Settlement(due, state, outcome, reason=DeadReason.EXHAUSTED if state is DeliveryState.DEAD else None)


async def live(folder: Path, seed: int, first: int, durability: Any) -> None:
    """Open the store again and again; every second life ends as in a crash."""
    notes, rng = Notes(folder / "notes"), Random(seed)
    for life in range(first, first + LIVES):
        async with opened(folder / "state", durability=durability, **SMALL) as relay:
            notes.write("open")
            await Load(relay, notes, rng, life).run(ROUNDS)
            if life % 2:
                await relay.store.abandon()


def main() -> None:
    """Run it; an error that the relay would end with ends this process with the same exit code."""
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("seed", type=int)
    parser.add_argument("--first-life", type=int, default=0)
    parser.add_argument("--durability", default="full")
    parser.add_argument(
        "--without-fold", action="store_true", help="a mistake that is planted: build on what a crash left"
    )
    given = parser.parse_args()
    opening._SYNCHRONOUS["off"] = 0  # what no configuration may ask for
    if given.without_fold:
        opening._fold = lambda connection, path: None
    try:
        asyncio.run(live(given.folder, given.seed, given.first_life, given.durability))
    except RelayError as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)  # noqa: T201 - to the test
        sys.exit(error.exit_code)


if __name__ == "__main__":
    main()
