"""The owner of replays: makes and cancels them, and hands over what they selected, little by little.

Each turn looks at a few replays. One that selects reads its next page. One that runs asks the lanes how much each endpoint
may take without making anything else wait, and makes that much due, as its rate allows. Nothing is kept in memory that the
database does not have: after a crash the next start goes on where the last commit left off.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import Protocol

import structlog

from relay.core.clock import Clock
from relay.core.errors import Conflict, StoreUnavailable
from relay.core.ids import IdFactory
from relay.core.model import DeliveryKey, EndpointState, ReplayMode
from relay.core.units import Rate
from relay.dispatch.loop import Dispatch
from relay.queue.lane import RateWindow
from relay.registry import Claim, Maker, Registrar, begin
from relay.replay.missing import select_missing
from relay.store import Store
from relay.store.replays import Replay, ReplayState, Selected, Share, Skip, Wanted
from relay.telemetry import log
from relay.telemetry.metrics import Metrics
from relay.telemetry.recurring import Recurring

STEP_ROWS = 500
"""Rows that one transaction touches: a larger one would stall the writer."""

TICK_MS = 20
"""A replay that goes on is looked at again after so long."""

BLOCKED_MS = 500
"""One whose endpoints take nothing now is looked at again after so long."""

FLOW_MS = 100
"""Within so long, or as long as one delivery takes by its rate, no more goes than the share of it."""

REPLAYS_A_TURN = 16
ENDPOINTS_A_TURN = 200

STEP_MAX = 100
"""Deliveries that one step makes due."""

PREVIEW_MAX = 100_000
"""Rows that a dry run looks at; beyond them it says that there may be more."""

SAMPLE = 5
"""Deliveries that a dry run shows."""


class ReplaySettings(Protocol):
    """What `[replays]` says."""

    @property
    def at_once(self) -> int: ...
    @property
    def per_application(self) -> int: ...
    @property
    def deliveries(self) -> int: ...


@dataclass(frozen=True, slots=True)
class ReplayDraft:
    """A replay to be made."""

    application: str | None  # id; None: of all
    mode: ReplayMode
    wanted: Wanted
    ids: tuple[str, ...]
    rate: Rate
    force: bool
    by: str
    is_own: bool  # made by the application itself


@dataclass(frozen=True, slots=True)
class MadeReplay:
    """A replay that was made, or found by its idempotency key."""

    replay: Replay
    repeated: bool = False


@dataclass(frozen=True, slots=True)
class Preview:
    """What a replay would select."""

    count: int
    is_complete: bool  # False: there may be more
    sample: Sequence[DeliveryKey]  # the first ones
    skipped: Mapping[str, int]


class Pace:
    """Lets so many deliveries go in a period, and their share, rounded up, in a small part of it, so that they flow."""

    def __init__(self, rate: Rate) -> None:
        flow_ms = max(FLOW_MS, rate.period_ms // rate.starts)
        share = -(-rate.starts * flow_ms // rate.period_ms)
        self._windows = (RateWindow(rate.starts, rate.period_ms), RateWindow(share, flow_ms))

    def room(self, now_ms: float) -> int:
        """Return how many may go now."""
        return min(window.left(now_ms) for window in self._windows)

    def wait_ms(self, now_ms: float) -> float:
        """Return in how many milliseconds the next may go."""
        return max(window.room_at_ms(0, now_ms) for window in self._windows) - now_ms

    def note(self, count: int, now_ms: float) -> None:
        """Count those that go now."""
        for window in self._windows:
            for _ in range(count):
                window.note(now_ms)


@dataclass(slots=True)
class _Job:
    """A replay that is not over, or has items left to be cleared."""

    replay: Replay
    pace: Pace
    endpoints: deque[int] | None = None  # refs of those that have items; None: not read yet
    waits_for: str = ""


class Replays:
    """Owner of the replays that are not over."""

    def __init__(
        self,
        *,
        store: Store,
        registrar: Registrar,
        dispatch: Dispatch,
        clock: Clock,
        ids: IdFactory,
        random_bytes: Callable[[int], bytes],
        settings: Callable[[], ReplaySettings],
        metrics: Metrics,
    ) -> None:
        self._store = store
        self._registrar = registrar
        self._dispatch = dispatch
        self._clock = clock
        self._ids = ids
        self._random_bytes = random_bytes
        self._settings = settings
        self._metrics = metrics
        self._jobs: dict[int, _Job] = {}  # by ref, in the order of their turns
        self._kick = asyncio.Event()
        self._making = asyncio.Lock()
        self._log = structlog.get_logger("relay.replay")
        self._failing = Recurring(self._log, clock, log.REPLAY_FAILED, log.REPLAY_RECOVERED)

    # -- by hand -------------------------------------------------------------------------------------------------------

    async def create(self, draft: ReplayDraft, claim: Claim | None = None) -> MadeReplay:
        """Make a replay, and begin with it; Conflict `too_many_replays`, or what `begin` says of the claim. O(ids)"""
        async with self._making:
            now_ms = self._clock.wall_ms()
            before = None if claim is None else await self._store.find_creation(claim.scope, claim.digest)
            maker = Maker(self._ids.new, self._random_bytes, self._random_bytes, now_ms)
            making = begin(claim, before, maker)
            if making.repeat is not None:
                return MadeReplay(await self._made_before(making.repeat.first.made["replay"]), repeated=True)
            self._refuse_more(draft)
            made = _replay(draft, self._ids.new("rpl"), now_ms)
            stored = await self._store.replays.create(made, draft.ids, making.made(replay=made.id))
            self._begin(stored)
            return MadeReplay(stored)

    async def preview(self, draft: ReplayDraft) -> Preview:
        """Say what a replay would select; nothing is kept. O(rows that are looked at, PREVIEW_MAX at most)"""
        replay = _replay(draft, "", self._clock.wall_ms())
        keys: list[DeliveryKey] = []
        skipped: dict[str, int] = {}
        examined = count = 0
        while True:
            page = await self._select(replay, draft.ids)
            keys += page.keys[: SAMPLE - len(keys)]
            count, examined = count + len(page.keys), examined + page.examined
            for why, several in page.skipped.items():
                if several:
                    skipped[str(why)] = skipped.get(str(why), 0) + several
            if page.place is None or examined >= PREVIEW_MAX or count >= self._settings().deliveries:
                return Preview(count, page.place is None, keys, skipped)
            replay = replace(replay, place=page.place)

    async def cancel(self, replay_id: str, by: str) -> Replay:
        """Cancel a replay; what it made due stays due. NotFound, or Conflict `replay_over`."""
        cancelled = await self._store.replays.cancel(replay_id, by)
        if cancelled.ref in self._jobs:
            self._jobs[cancelled.ref].replay = cancelled
        self._kick.set()
        return cancelled

    def waits_for(self, replay: Replay) -> str:
        """Say why a replay does not go on now; "" where it does, or is over."""
        job = self._jobs.get(replay.ref)
        return "" if job is None or replay.is_over else job.waits_for

    @property
    def unfinished(self) -> Sequence[Replay]:
        """The replays that are not over, oldest first."""
        return sorted((job.replay for job in self._jobs.values() if not job.replay.is_over), key=lambda one: one.ref)

    def _refuse_more(self, draft: ReplayDraft) -> None:
        settings = self._settings()
        most = settings.per_application if draft.is_own else settings.at_once
        owner = draft.application if draft.is_own else None
        others = sum((one.application if one.is_own else None) == owner for one in self.unfinished)
        if others >= most:
            raise Conflict(
                "too_many_replays",
                f"{others} replays are not finished yet, and there may be {most}",
                remedy="Wait for one of them, or cancel it: `relay replay list`.",
            )

    async def _made_before(self, replay_id: str) -> Replay:
        found = await self._store.replays.find(replay_id)
        if found is None:
            raise Conflict(
                "made_before",
                "what the first call with this idempotency key made, a replay, was removed since",
                remedy="Take a new key to make another.",
            )
        return found

    def _begin(self, replay: Replay) -> None:
        self._jobs[replay.ref] = _Job(replay, Pace(replay.rate))
        self._kick.set()

    # -- the loop ------------------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Carry replays on, until cancelled."""
        for replay in await self._unfinished():
            self._begin(replay)
        while True:
            self._kick.clear()
            wait_ms = await self._turn()
            if wait_ms is None:
                await self._kick.wait()
            else:
                await self._clock.wait(self._kick, max(wait_ms, TICK_MS))

    async def _unfinished(self) -> Sequence[Replay]:
        while True:
            try:
                return await self._store.replays.unfinished()
            except StoreUnavailable as error:
                self._failing.happened(error=error.detail)
                await self._clock.wait(asyncio.Event(), BLOCKED_MS)

    async def _turn(self) -> float | None:
        """Take a step with a few replays; return in how many milliseconds to look again, None where there are none."""
        waits: list[float] = []
        for ref in list(self._jobs)[:REPLAYS_A_TURN]:
            job = self._jobs.pop(ref)
            self._jobs[ref] = job  # its next turn is behind all others'
            try:
                waits.append(await self._go_on(job))
            except StoreUnavailable as error:
                self._failing.happened(error=error.detail)
                waits.append(BLOCKED_MS)
            else:
                self._failing.ended(quiet_ms=BLOCKED_MS)
        if len(self._jobs) > REPLAYS_A_TURN:
            waits.append(TICK_MS)
        return min(waits) if self._jobs else None

    async def _go_on(self, job: _Job) -> float:
        if job.replay.is_over:
            await self._clear(job)
            return TICK_MS
        if job.replay.state is ReplayState.SELECTING:
            await self._note(job, await self._select(job.replay))
            return TICK_MS
        if job.endpoints is None:
            job.endpoints = deque(await self._store.replays.endpoints(job.replay.ref))
        return await self._hand_over(job, job.endpoints)

    async def _select(self, replay: Replay, ids: Sequence[str] | None = None) -> Selected:
        if replay.mode is ReplayMode.MISSING:
            return await select_missing(self._store, self._registrar.current, replay, ids)
        return await self._store.replays.select(replay, ids)

    async def _note(self, job: _Job, page: Selected) -> None:
        """Note a page, a few rows in each transaction; the last one moves the place on."""
        chunks = [page.keys[start : start + STEP_ROWS] for start in range(0, len(page.keys), STEP_ROWS)] or [()]
        most, place = self._settings().deliveries, job.replay.place
        for chunk in chunks[:-1]:
            job.replay = await self._store.replays.note(job.replay, Selected(chunk, place), most)
        job.replay = await self._store.replays.note(job.replay, page._replace(keys=chunks[-1]), most)

    async def _hand_over(self, job: _Job, endpoints: deque[int]) -> float:
        """Make due what the rate and the endpoints allow; return in how many milliseconds more may be."""
        now = self._clock.now()
        room = min(job.pace.room(now.mono_ms), STEP_MAX)
        if room <= 0:
            job.waits_for = ""
            return job.pace.wait_ms(now.mono_ms)
        if not self._store.healthy or self._store.pending_settles > STEP_ROWS:
            job.waits_for = "the database"
            return BLOCKED_MS
        shares = list(self._shares(job, endpoints, room))
        if not shares:
            return BLOCKED_MS if endpoints else TICK_MS
        step = await self._store.replays.step(job.replay.ref, shares)
        if not job.replay.is_over:  # it may have been cancelled meanwhile
            job.replay = step.replay
        (self._dispatch.owe if job.replay.mode is ReplayMode.MISSING else self._dispatch.offer)(step.due)
        self._metrics.replayed(len(step.due))
        job.pace.note(len(step.due), now.mono_ms)
        for emptied in step.emptied:
            endpoints.remove(emptied)
        return TICK_MS

    def _shares(self, job: _Job, endpoints: deque[int], room: int) -> Iterator[Share]:
        """Say how much of which endpoints goes, and what is left out; turns go round. O(ENDPOINTS_A_TURN)"""
        now, registry, waits = self._clock.now(), self._registrar.current, ""
        some = list(islice(endpoints, ENDPOINTS_A_TURN))
        endpoints.rotate(-len(some))
        for ref in some:
            endpoint = registry.endpoint_by_ref(ref)
            if endpoint is None:
                yield Share(ref, STEP_ROWS, Skip.ENDPOINT_DELETED)
            elif endpoint.state is EndpointState.DISABLED:
                yield Share(ref, STEP_ROWS, Skip.ENDPOINT_DISABLED)
            elif room > 0 and (spare := min(self._dispatch.lanes.spare(ref, now), room)) > 0:
                room -= spare
                yield Share(ref, spare)
            elif room > 0:
                waits = waits or f"endpoint {endpoint.id}"
        job.waits_for = waits if room > 0 else ""

    async def _clear(self, job: _Job) -> None:
        """Remove what a replay that is over has left, and then forget it."""
        if await self._store.replays.clear(job.replay.ref, STEP_ROWS):
            return
        del self._jobs[job.replay.ref]
        if job.replay.state is ReplayState.FINISHED:
            self._log.info(log.REPLAY_FINISHED, **facts_of(job.replay))


def _replay(draft: ReplayDraft, name: str, now_ms: int) -> Replay:
    return Replay(
        id=name,
        application=draft.application,
        mode=draft.mode,
        wanted=draft.wanted,
        rate=draft.rate,
        force=draft.force,
        created_by=draft.by,
        created_at_ms=now_ms,
        is_own=draft.is_own,
    )


def facts_of(replay: Replay) -> dict[str, object]:
    """What a log line says of a replay."""
    return {
        "replay": replay.id,
        "mode": replay.mode.value,
        "selected": replay.selected,
        "replayed": replay.replayed,
        "skipped": sum(replay.skipped.values()),
    }
