"""Asks receivers whether they want events before the first one goes there, again and again until they agree.

An endpoint that is to be verified is asked as soon as it exists, after each edit, and at every start, then with a back-off
paced like its cool-down. Its deliveries are held meanwhile. What came of it is remembered until it agrees; that it agreed
is kept in the database.
"""

import asyncio
from collections import Counter, deque
from collections.abc import Callable, Iterator
from random import Random
from typing import NamedTuple

import structlog

from relay.core.clock import Clock
from relay.core.errors import NotFound, RelayError, StoreUnavailable, spoken
from relay.core.ids import IdFactory
from relay.core.model import Endpoint, Outcome
from relay.core.verification import Proof
from relay.dispatch.attempt import STORE_RETRY_MS, Attempts
from relay.dispatch.handshake import Question, question
from relay.queue.heap import KeyedHeap
from relay.queue.retry import NOT_BEFORE_MAX_MS
from relay.registry import Change, Registrar
from relay.telemetry import log
from relay.telemetry.metrics import Metrics

AT_ONCE = 32
"""Receivers that are asked at once."""

OF_ONE_APPLICATION = 8
"""How many of them may belong to one application: its silent receivers hold up nobody else's."""

CHALLENGE_BYTES = 24
JITTER = 0.2
SLEEP_MAX_MS = 30_000


class Trial(NamedTuple):
    """What came of asking a receiver that has not agreed yet."""

    tries: int
    at_ms: int
    detail: str  # why not, and what to do
    failure: str | None  # a `Failure`, where there was no answer
    next_ms: int | None  # None: it is not asked again by itself, for its endpoint is paused, disabled or vanished


NOT_ASKED = Trial(0, 0, "", None, None)
"""What came of it before anybody asked."""


class Asked(NamedTuple):
    """What a receiver said."""

    outcome: Outcome
    said: Proof | str


class Verifier:
    """Owner of what came of asking, and of when who is asked again. O(log n) a step in n endpoints that wait for it."""

    def __init__(
        self,
        *,
        registrar: Registrar,
        attempts: Attempts,
        clock: Clock,
        ids: IdFactory,
        random_bytes: Callable[[int], bytes],
        rng: Random,
        metrics: Metrics,
    ) -> None:
        self._registrar = registrar
        self._attempts = attempts
        self._clock = clock
        self._ids = ids
        self._random_bytes = random_bytes
        self._rng = rng
        self._metrics = metrics
        self._trials: dict[int, Trial] = {}  # by ref
        self._waiting = KeyedHeap()  # ref → the monotonic time at which it is asked
        self._behind: dict[int, deque[int]] = {}  # by application: refs whose turn comes when another's answer is there
        self._running: set[int] = set()  # refs
        self._busy: Counter[int] = Counter()  # how many of them, by application
        self._kick = asyncio.Event()
        self._log = structlog.get_logger("relay.dispatch")
        registrar.on_change(self._endpoint_changed)

    def trial(self, ref: int) -> Trial | None:
        """Return what came of asking an endpoint that has not agreed; None for one that did, or was not asked yet. O(1)"""
        return self._trials.get(ref)

    def ask_again(self) -> None:
        """Ask everybody anew who did not agree: the name that they are asked under is another one. O(as many)"""
        for ref in self._trials:
            self._waiting.set(ref, 0)
        self._kick.set()

    # -- the loop --------------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Ask whoever is to be asked, until cancelled. Ends only by cancellation or by our own mistake."""
        async with asyncio.TaskGroup() as tasks:
            while True:
                self._kick.clear()
                for endpoint in self._next():
                    tasks.create_task(self._ask(endpoint))
                first = self._waiting.first() if len(self._running) < AT_ONCE else None
                wait_ms = SLEEP_MAX_MS if first is None else first[0] - self._clock.mono_ms()
                await self._clock.wait(self._kick, min(wait_ms, SLEEP_MAX_MS))

    def _next(self) -> Iterator[Endpoint]:
        """Take out whoever is to be asked now."""
        while len(self._running) < AT_ONCE and (first := self._waiting.first()) is not None:
            due_ms, ref = first
            if due_ms > self._clock.mono_ms():
                return
            self._waiting.remove(ref)
            endpoint = self._registrar.current.endpoint_by_ref(ref)
            if endpoint is None or not _is_asked(endpoint):
                continue
            application = endpoint.application.ref
            if ref in self._running or self._busy[application] >= OF_ONE_APPLICATION:
                self._behind.setdefault(application, deque()).append(ref)
                continue
            self._running.add(ref)
            self._busy[application] += 1
            yield endpoint

    async def _ask(self, endpoint: Endpoint) -> None:
        try:
            asked = await self._put_guarded(endpoint)
            if asked is not None:
                await self.conclude(endpoint, asked)
        except NotFound:
            pass  # it was deleted meanwhile
        except StoreUnavailable:
            self._ask_after(endpoint, STORE_RETRY_MS)
        finally:
            self._release(endpoint)

    async def _put_guarded(self, endpoint: Endpoint) -> Asked | None:
        """Ask; a mistake of our own stays with this endpoint, and None stands for its answer."""
        try:
            return await self.put(endpoint)
        except RelayError as error:
            detail = spoken(error)
        except Exception as error:
            self._log.error(log.VERIFICATION_BROKEN, endpoint=endpoint.id, exc_info=error)
            detail = f"a mistake of relay's own ({type(error).__name__}) ended the request; the log has its traceback"
        self._note(endpoint, detail)
        return None

    def _release(self, endpoint: Endpoint) -> None:
        application = endpoint.application.ref
        self._running.discard(endpoint.ref)
        self._busy[application] -= 1
        behind = self._behind.get(application)
        if behind:
            self._waiting.set(behind.popleft(), 0)
        if not behind:
            self._behind.pop(application, None)
        if not self._busy[application]:
            del self._busy[application]
        self._kick.set()

    # -- one question ----------------------------------------------------------------------------------------------

    async def put(self, endpoint: Endpoint) -> Asked:
        """Ask a receiver now; Conflict `no_origin` where nobody could be allowed. Nothing is remembered."""
        question = self._question(endpoint)
        outcome = await self._attempts.verify(endpoint, question)
        asked = Asked(outcome, question.judge(outcome))
        self._metrics.verification(outcome, agreed=isinstance(asked.said, Proof))
        return asked

    def _question(self, endpoint: Endpoint) -> Question:
        registry = self._registrar.current
        entry = registry.entries.get(endpoint.ref)
        if entry is None:
            raise NotFound(f"no endpoint {endpoint.id!r}", remedy="It was deleted meanwhile.")
        event_id, challenge = self._ids.new("evt"), self._random_bytes(CHALLENGE_BYTES).hex()
        origin, now_ms = registry.config.delivery.origin, self._clock.wall_ms()
        return question(endpoint, entry.contract, event_id, challenge, origin, entry.definition.rate, now_ms)

    async def conclude(self, endpoint: Endpoint, asked: Asked) -> Asked:
        """Remember what a receiver said; what it once agreed to, no answer takes back.

        NotFound for an endpoint that was deleted meanwhile. StoreUnavailable keeps nothing.
        """
        outcome, said = asked
        if isinstance(said, str):
            self._note(endpoint, said, outcome)
        elif not await self._registrar.verified(endpoint, said):
            asked = asked._replace(said="its URL was changed meanwhile; the new one is asked by itself")
        else:
            self._log.info(log.ENDPOINT_VERIFIED, endpoint=endpoint.id, method=said.method.value)
        return asked

    def _note(self, endpoint: Endpoint, detail: str, outcome: Outcome | None = None) -> None:
        if self._registrar.current.endpoint_by_ref(endpoint.ref) != endpoint or not endpoint.unverified:
            return  # an edit came meanwhile, which has it asked anew; or it had agreed before
        before, now_ms = self._trials.get(endpoint.ref), self._clock.wall_ms()
        tries = 1 if before is None else before.tries + 1
        failure = None if outcome is None else outcome.failure
        trial = Trial(tries, now_ms, detail, failure, None)
        if _is_asked(endpoint):
            wait_ms = self._back_off_ms(endpoint, tries, outcome)
            trial = trial._replace(next_ms=round(now_ms + wait_ms))
            self._ask_after(endpoint, wait_ms)
        self._trials[endpoint.ref] = trial
        if before is None or before.detail != detail:
            self._log.warning(log.ENDPOINT_UNVERIFIED, endpoint=endpoint.id, tries=tries, detail=detail)

    def _back_off_ms(self, endpoint: Endpoint, tries: int, outcome: Outcome | None) -> float:
        pace = endpoint.health
        step_ms = min(pace.cool_down_ms << min(tries - 1, 32), pace.cool_down_max_ms)
        wished_ms = 0 if outcome is None else min(outcome.retry_after_ms or 0, NOT_BEFORE_MAX_MS)
        return max(step_ms * self._rng.uniform(1 - JITTER, 1 + JITTER), wished_ms)

    def _ask_after(self, endpoint: Endpoint, wait_ms: float) -> None:
        self._waiting.set(endpoint.ref, self._clock.mono_ms() + wait_ms)
        self._kick.set()

    # -- what changes ----------------------------------------------------------------------------------------------

    def _endpoint_changed(self, change: Change) -> None:
        """Ask at once whoever is to be asked, for an edit may have mended what was in the way."""
        endpoint = change.after or change.before
        assert endpoint is not None, "a change has an endpoint"
        trial = self._trials.pop(endpoint.ref, None)
        if change.after is not None and _is_asked(endpoint):
            self._ask_after(endpoint, 0)
            return
        self._waiting.remove(endpoint.ref)
        if change.after is not None and endpoint.unverified and trial is not None:
            self._trials[endpoint.ref] = trial._replace(next_ms=None)


def _is_asked(endpoint: Endpoint) -> bool:
    """Whether a receiver is asked by itself."""
    return endpoint.unverified and not endpoint.stopped
