"""One endpoint's lane: what may start now, how many at once, and how often (Q4, Q5).

Four gates stand before a start, and each is asked of its own: the endpoint is not held, the *window* has room, the
*rate* allows one more, and the delivery's time has come. That time is max(its due time, cool-down, `Retry-After`);
while the endpoint cools down only one scheduled attempt runs at a time, the probe. Deliveries retried by hand go past
cool-down, `Retry-After` and probes, never past the other gates (Q13). A suspension closes the lane whole; when its time
is over one attempt at a time may start, until one runs through.

The window starts at 2, grows by one for each success, halves once for each failed round, and starts over at 1 when the
endpoint cools down. A round ends with a halving: failures of attempts that started before it do not halve again.
"""

import math
from collections import deque
from dataclasses import dataclass, replace
from random import Random

from relay.core.clock import Now
from relay.core.model import DueDelivery, Health, HealthPolicy
from relay.core.units import Rate
from relay.queue import health as health_rules
from relay.queue.health import Suspension
from relay.queue.memory import Memory
from relay.queue.retry import Classification, HealthEffect
from relay.queue.slots import Application, Kind

WINDOW_START = 2

DOUBT_FAILURES = 3
"""An endpoint that failed so often in a row is doubtful."""

RATE_GRAINS = 1_000
"""A rate window remembers at most about so many moments, whatever its rate."""

SECOND_MS = 1_000

SPOTLESS = (Health(), Health(answered=True))
"""The health of an endpoint that was never tried, and of one whose latest attempt succeeded."""


@dataclass(frozen=True, slots=True)
class LaneSettings:
    """What an endpoint's configuration says about its lane."""

    application: int  # ref; never changes
    concurrency: int
    rate: Rate | None
    held: bool  # paused, disabled or vanished: nothing starts, nothing is kept in memory
    policy: HealthPolicy


class RateWindow:
    """Counts requests in an exact sliding window on the monotonic clock.

    Limits above 1,000 count requests within a thousandth of the period as sent at the latest of them: never one too
    many, and bounded memory.
    """

    __slots__ = ("_limit", "_moments", "_period_ms", "_total")

    def __init__(self, limit: int, period_ms: int) -> None:
        self._moments: deque[list[float]] = deque()  # [first, last, count], oldest first
        self._total = 0
        self.change(limit, period_ms)

    def change(self, limit: int, period_ms: int) -> None:
        """Allow another number from now on; what was counted stays counted."""
        self._limit, self._period_ms = limit, period_ms

    def room_at_ms(self, unsent: int, mono_ms: float) -> float:
        """Return when the window has room for one more beside `unsent`; infinity when these alone fill it."""
        while self._moments and self._moments[0][1] + self._period_ms <= mono_ms:
            self._total -= int(self._moments.popleft()[2])
        excess = self._total + unsent - self._limit + 1
        if excess <= 0:
            return mono_ms
        for _, last_ms, count in self._moments:
            excess -= int(count)
            if excess <= 0:
                return last_ms + self._period_ms
        return math.inf

    def left(self, mono_ms: float) -> int:
        """Return how many more the window has room for."""
        self.room_at_ms(0, mono_ms)  # which forgets what is over
        return self._limit - self._total

    def spare(self, unsent: int, mono_ms: float) -> int:
        """Return how many more beside `unsent` leave half of the window free, rounded down."""
        return self.left(mono_ms) - unsent - self._limit // 2

    def note(self, mono_ms: float) -> None:
        """Count a request that is sent now."""
        self._total += 1
        if self._limit > RATE_GRAINS and self._moments:
            newest = self._moments[-1]
            if mono_ms - newest[0] < self._period_ms / RATE_GRAINS:
                newest[1:] = mono_ms, newest[2] + 1
                return
        self._moments.append([mono_ms, mono_ms, 1])


class RateLimit:
    """Allows `rate.starts` requests in any window of `rate.period_ms`, and their share, rounded up, in any second.

    So `60/m` flows at one a second. A request counts from the moment it is sent; from its choice until then it counts
    as if it were sent now, for nobody knows how long its way to the wire takes. So the limit holds on the wire too.
    """

    __slots__ = ("_second", "_unsent", "_whole")

    def __init__(self, rate: Rate) -> None:
        self._unsent: set[int] = set()  # events whose attempts are chosen, and not sent yet
        self._whole = RateWindow(rate.starts, rate.period_ms)
        self._second = RateWindow(_in_a_second(rate), SECOND_MS)

    def change(self, rate: Rate) -> None:
        """Limit by another rate from now on; requests already sent count too."""
        self._whole.change(rate.starts, rate.period_ms)
        self._second.change(_in_a_second(rate), SECOND_MS)

    def free_at_ms(self, mono_ms: float) -> float:
        """Return when one more may be chosen: `mono_ms` itself when it is now, infinity when one must be sent first."""
        unsent = len(self._unsent)
        return max(self._whole.room_at_ms(unsent, mono_ms), self._second.room_at_ms(unsent, mono_ms))

    def spare(self, mono_ms: float) -> int:
        """Return how many more may be chosen so that half of the limit stays free for others."""
        unsent = len(self._unsent)
        return min(self._whole.spare(unsent, mono_ms), self._second.spare(unsent, mono_ms))

    def choose(self, event: int) -> None:
        """Count an attempt that is chosen."""
        self._unsent.add(event)

    def send(self, event: int, mono_ms: float) -> None:
        """Count the request of an attempt as sent now."""
        self._unsent.discard(event)
        self._whole.note(mono_ms)
        self._second.note(mono_ms)

    def end(self, event: int) -> None:
        """Count an attempt no longer that ended without being sent."""
        self._unsent.discard(event)


def _in_a_second(rate: Rate) -> int:
    return math.ceil(rate.starts * SECOND_MS / rate.period_ms)


@dataclass(slots=True, eq=False)
class Running:
    """An attempt under way."""

    started_ms: float  # monotonic
    round: int  # the lane's round when it started
    probe: bool
    silent: bool = False  # it has run for a second without an answer


class Lane:
    """State of one endpoint's lane. `Lanes` owns it, and marks in the last block of fields where it stands."""

    __slots__ = (
        "_hanging",
        "_newest_next",
        "_quick",
        "_round",
        "application",
        "cooling",
        "counted",
        "health",
        "kind",
        "memory",
        "opens_ms",
        "probe",
        "rate",
        "ref",
        "removed",
        "running",
        "settings",
        "size_bound",
        "suspension",
        "turn",
        "wants_refill",
        "window",
        "young",
    )

    def __init__(self, ref: int, application: Application, settings: LaneSettings, memory: Memory) -> None:
        self.ref = ref
        self.application = application
        self.memory = memory
        self.settings = settings
        self.running: dict[int, Running] = {}  # by event, oldest first
        self.young = 0  # how many of them are not silent
        self._hanging = False  # a silent one is under way, and no 2xx came since
        self._quick = True  # the latest to say anything was not silent
        self.window = WINDOW_START
        self._round = 0
        self.rate = None if settings.rate is None else RateLimit(settings.rate)
        self.health = Health()
        self.cooling = False
        self.opens_ms = 0  # of `health`: the wall time before which nothing scheduled starts
        self._newest_next = False  # the next probe is the newest delivery that is due, not the oldest
        self.probe: int | None = None  # the event whose attempt is the probe
        self.suspension: Suspension | None = None  # while a mistake of our own stands in the way

        self.removed = False  # deleted; it stays until its reserved deliveries are settled
        self.turn = 0  # its place among those that wait for their turn; 0 when it does not
        self.counted = 0  # how many of its waiting deliveries the count over all lanes has
        self.size_bound = 0  # it holds no more than this: see `Refills`
        self.wants_refill = False  # waits to be asked how much it would read
        self.kind = Kind.DOUBTFUL  # as its turns and slots are counted; `judge` says what it should be

    def configure(self, settings: LaneSettings) -> None:
        """Take other settings. More attempts than the new concurrency may be running: they finish.

        An edit ends a suspension: it may have mended what was behind it.
        """
        self.settings = settings
        self.suspension = None
        if settings.rate is None:
            self.rate = None
        elif self.rate is None:
            self.rate = RateLimit(settings.rate)
        else:
            self.rate.change(settings.rate)

    def become(self, health: Health) -> None:
        """Take another health."""
        self.health = health
        self.cooling = health.cool_down_ms > 0
        self.opens_ms = health_rules.opens_ms(health)

    @property
    def is_of_note(self) -> bool:
        """Whether its endpoint is held or suspended, or anything but a success came since its last success."""
        return self.settings.held or self.suspension is not None or self.health not in SPOTLESS

    def end_waits(self) -> bool:
        """End cool-down and `Retry-After`; return whether there was any. What failed so far stays counted."""
        waited = self.health.cool_until_ms > 0 or self.health.not_before_ms > 0 or self.cooling
        self.become(replace(self.health, cool_down_ms=0, cool_until_ms=0, not_before_ms=0))
        return waited

    def clamp_waits(self, now_ms: int) -> None:
        """Shorten a cool-down or `Retry-After` that lasts longer than any rule allows: the wall clock was wrong (Q15)."""
        self.become(health_rules.clamped(self.health, now_ms, self.settings.policy))

    def next_start(self, now: Now, limit: int) -> DueDelivery | None:
        """Return what may start at `now`, with at most `limit` attempts at once."""
        if not self.has_room(limit):
            return None
        if (self.rate is not None or self.suspension is not None) and self._admits_ms(now) > now.mono_ms:
            return None
        by_hand = self.memory.manual.first()
        if by_hand is not None and by_hand.due_ms <= now.wall_ms:
            return by_hand
        oldest = self.memory.scheduled.first()
        if oldest is None or now.wall_ms < oldest.due_ms or now.wall_ms < self.opens_ms or self.probing:
            return None
        if self._newest_next and self._tries_out:
            return self.memory.scheduled.last_due(now.wall_ms)
        if oldest.replayed:
            return self.memory.scheduled.first_but_replays(now.wall_ms) or oldest
        return oldest

    def spare(self, now: Now, limit: int) -> int:
        """Return how many replays may be added so that nothing else waits for them.

        They have half of the room, and half of the rate, and only as far as nothing else is under way or due. An endpoint
        that cools down or is suspended has room for one when its time has come, and nothing else probes it. O(log n)
        """
        waits = self.settings.held or now.wall_ms < self.opens_ms or self._admits_ms(now) > now.mono_ms
        if waits or not self._knows_what_is_due(now.wall_ms):
            return 0
        busy = len(self.running) + len(self.memory.manual.order) + self.memory.scheduled.count_due(now.wall_ms)
        spare = max(self.room(limit) // 2, 1) - busy
        return spare if self.rate is None else min(spare, self.rate.spare(now.mono_ms))

    def _knows_what_is_due(self, now_ms: int) -> bool:
        """Whether nothing is due that only the database knows: what it has beyond memory is due later."""
        return self.memory.live or self.memory.frontier[0] > now_ms

    @property
    def _tries_out(self) -> bool:
        """Whether what starts is a probe: by turns the oldest and the newest, for one event may be to blame (Q5)."""
        return self.cooling or self.suspension is not None

    def waits_until(self, now: Now, limit: int) -> tuple[float | None, float | None]:
        """Return the wall or the monotonic time at which to ask `next_start` again.

        Neither when no time will help: the end or the sending of an attempt will, or a commit. The monotonic time is
        infinite when the rate waits for requests that are chosen and not sent.
        """
        if not self.has_room(limit):
            return None, None
        times = []
        by_hand, oldest = self.memory.manual.first(), self.memory.scheduled.first()
        if by_hand is not None:
            times.append(by_hand.due_ms)
        if oldest is not None and not self.probing:
            times.append(max(oldest.due_ms, self.opens_ms))
        if not times:
            return None, None
        if min(times) > now.wall_ms:
            return min(times), None
        return None, self._admits_ms(now)

    def why_waiting(self, now: Now, limit: int) -> str:
        """Say what stands before the next start; "" when nothing here does, or nothing waits."""
        if self.settings.held:
            return "endpoint held"
        if self.next_start(now, limit) is not None or (self.memory.live and not self.memory.waiting):
            return ""
        if not self.memory.waiting:
            return "reading the queue"
        if self.suspension is not None:
            return "suspended by a mistake of relay's own"
        if not self.has_room(limit):
            return "window full"
        return self._why_not_now(now, limit)

    def room(self, limit: int) -> int:
        """Return how many attempts may run at once: no more than the window, the configuration, and `limit`."""
        if self.suspension is not None:
            return 1
        return min(self.window, self.settings.concurrency, limit)

    def has_room(self, limit: int) -> bool:
        """Whether one more attempt may run."""
        return len(self.running) < self.room(limit)

    @property
    def probing(self) -> bool:
        """Whether scheduled deliveries wait for the outcome of the probe."""
        return self.probe is not None and self.cooling

    def start(self, delivery: DueDelivery, now: Now) -> bool:
        """Start an attempt; return whether it is the probe."""
        probe = self.cooling and not delivery.manual
        if probe:
            self.probe = delivery.event
        if not delivery.manual:
            self._newest_next = self._tries_out and not self._newest_next
        if self.rate is not None:
            self.rate.choose(delivery.event)
        self.memory.reserve(delivery)
        self.running[delivery.event] = Running(now.mono_ms, self._round, probe)
        self.young += 1
        return probe

    def fall_silent(self, attempt: Running) -> None:
        """Take note that an attempt has run for a second."""
        attempt.silent, self._hanging, self._quick = True, True, False
        self.young -= 1

    def judge(self) -> Kind:
        """Say what is known of the endpoint now.

        It is doubtful without a 2xx so far, after three failures in a row, or with a silent attempt under way since the
        last 2xx. Of these it is the silent that come last, unless nothing else was ever wrong with them.
        """
        health = self.health
        if health.answered and health.failures < DOUBT_FAILURES and not self._hanging:
            return Kind.ANSWERING
        return Kind.DOUBTFUL if self._quick or (health.answered and not health.failures) else Kind.SILENT

    def finish(self, event: int, verdict: Classification, now: Now, limit: int, rng: Random) -> Health | None:
        """End an attempt; return the endpoint's health when it changed."""
        attempt = self.stop(event)
        if self.suspension is not None and attempt.started_ms >= self.suspension.until_mono_ms:
            self.suspension = None  # it ran through
        self._quick = self._quick or not attempt.silent
        self._hanging = self._hanging and verdict.health is not HealthEffect.SUCCESS
        self._resize(attempt, verdict.health, min(self.settings.concurrency, limit))
        was = self.health
        health = health_rules.after(was, verdict, event, now.wall_ms, self.settings.policy, rng, probe=attempt.probe)
        if health is was:
            return None
        self.become(health)
        if health.cool_down_ms and not was.cool_down_ms:
            self.window = 1
        return health

    def stop(self, event: int) -> Running:
        """End an attempt that taught nothing."""
        if self.probe == event:
            self.probe = None
        if self.rate is not None:
            self.rate.end(event)
        attempt = self.running.pop(event)
        self.young -= not attempt.silent
        self._hanging = self._hanging and self.young < len(self.running)
        return attempt

    def suspend(self, cause: str, now: Now) -> Suspension | None:
        """Suspend the endpoint, or go on for longer; None when an attempt begun before says nothing new."""
        present = self.suspension
        if present is not None and now.mono_ms < present.until_mono_ms:
            return None
        self.suspension = health_rules.suspend(present, cause, now)
        return self.suspension

    def _why_not_now(self, now: Now, limit: int) -> str:
        wall_ms, mono_ms = self.waits_until(now, limit)
        if mono_ms is not None:
            return "rate limit"
        if wall_ms is None:
            return "waiting for the probe"
        if wall_ms > self.opens_ms:
            return "not due yet"
        return (
            "cooling down" if self.health.cool_until_ms >= self.health.not_before_ms else "asked to wait by Retry-After"
        )

    def _admits_ms(self, now: Now) -> float:
        """Return the monotonic time from which the rate, and a suspension, allow one more start."""
        free_ms = now.mono_ms if self.rate is None else self.rate.free_at_ms(now.mono_ms)
        return free_ms if self.suspension is None else max(free_ms, self.suspension.until_mono_ms)

    def _resize(self, attempt: Running, effect: HealthEffect, limit: int) -> None:
        if effect is HealthEffect.SUCCESS:
            self.window = min(self.window + 1, max(limit, 1))
        elif effect is not HealthEffect.NONE and attempt.round == self._round:
            self.window = max(self.window // 2, 1)
            self._round += 1
