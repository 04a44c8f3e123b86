"""The lanes against a simulated database: commits, news of them in order but late, reads of older snapshots, crashes.

The machine plays everybody around the lanes: producers, operators, receivers, the writer, the reader, both clocks. Its
limits are tiny, so that every bound is met often. What it asserts is what the daemon promises (Q1-Q5, Q13, Q15): no due
delivery is ever forgotten, started twice at once, or started beyond a limit.
"""

import itertools
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from random import Random
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from relay.core.clock import Now
from relay.core.model import DeliveryKey, DueDelivery, Health, HealthPolicy
from relay.core.units import Rate
from relay.queue import Lanes, LaneSettings, Refill, Start, Suspension
from relay.queue import health as health_rules
from relay.queue.lane import Lane, RateLimit
from relay.queue.memory import Memory, Read, SortedDeliveries
from relay.queue.refills import READS_MAX
from relay.queue.retry import Action, Classification, HealthEffect
from relay.queue.slots import SILENT_MS, Kind, Slots, Usage
from relay.queue.turns import Turns

APPLICATIONS = {1: 1, 2: 1, 3: 1, 4: 1, 5: 1, 6: 2}  # by ref of the endpoint
REFS = tuple(APPLICATIONS)
CONCURRENCIES = (8, 2)  # five lanes of two are too many for one application, and six lanes of one for two slots
LANE_MAX = 4
TOTAL_MAX = 10
SIDE_MAX = 2
POLICY = HealthPolicy(failures=3, cool_down_ms=4_000, cool_down_max_ms=16_000)

VERDICTS = {
    "success": Classification(Action.DELIVERED, HealthEffect.SUCCESS),
    "failure": Classification(Action.RETRY, HealthEffect.FAILURE, cause="500"),
    "refused": Classification(Action.RETRY, HealthEffect.NONE, cause="404"),
    "throttled": Classification(Action.RETRY, HealthEffect.THROTTLED, not_before_ms=3_000, cause="429"),
}
PICKS = range(12)
DELAYS_MS = (0, 0, 0, 0, 900, 5_000, 100_000)
SUBSETS = ((1,), (1,), (2,), (3, 4, 5), (6,), (1, 2), REFS, REFS)

KINDS = ("answering", "doubtful", "silent")  # of attempts

STEPS: dict[str, tuple[str, dict[str, Sequence[Any]]]] = {}  # name → attribute that must not be empty, choices


def step(needs: str = "lanes", **choices: Sequence[Any]) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Make a method a rule of the machine, and known to random walks."""

    def mark(method: Callable[..., None]) -> Callable[..., None]:
        STEPS[method.__name__] = needs, choices
        strategies = {name: st.sampled_from(values) for name, values in choices.items()}
        marked: Callable[..., None] = precondition(lambda self: bool(getattr(self, needs)))(rule(**strategies)(method))
        return marked

    return mark


@dataclass
class Row:
    """A delivery in the simulated database; `delivery` is its last due state."""

    delivery: DueDelivery
    due: bool = True


@dataclass
class Attempt:
    start: Start
    started_ms: float
    sent: bool = False
    silent: bool = False
    promised: bool = True  # chosen under the present rate


@dataclass
class Settle:
    """A settle handed to the writer and not yet committed."""

    started: DueDelivery
    due: DueDelivery | None  # None: the delivery ends


@dataclass
class Reading:
    refill: Refill
    rows: list[DueDelivery] | None = None  # None: the snapshot is not taken yet


class LanesMachine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.wall_ms = 1_000_000_000
        self.mono_ms = 50_000.0
        self.rows: dict[DeliveryKey, Row] = {}
        self.lane_settings = {
            ref: LaneSettings(application, 4, None, False, POLICY) for ref, application in APPLICATIONS.items()
        }
        self.health = dict.fromkeys(REFS, Health())
        self.existing = set(REFS)
        self.events = 0
        self.concurrency = CONCURRENCIES[0]
        self.boot()

    # The world: what a crash leaves and what it takes.

    def boot(self) -> None:
        self.lanes = Lanes(self.concurrency, Random(7), lane_max=LANE_MAX, total_max=TOTAL_MAX, side_max=SIDE_MAX)
        self.news: list[tuple[DeliveryKey, str, Callable[[], None]]] = []
        self.running: dict[DeliveryKey, Attempt] = {}
        self.hanging: set[int] = set()  # endpoints with a silent attempt under way, and no 2xx since
        self.suspended: dict[int, Suspension] = {}  # until an edit, or an attempt that shows the mistake is gone
        self.settles: list[Settle] = []
        self.readings: list[Reading] = []
        self.audits: dict[int, list[DueDelivery]] = {}
        self.sent: dict[int, list[float]] = {ref: [] for ref in REFS}
        for ref in sorted(self.existing):
            self.configure(ref, self.health[ref])

    @property
    def now(self) -> Now:
        return Now(self.wall_ms, self.mono_ms)

    @property
    def share(self) -> int:
        return max(self.concurrency // 4, 1)

    def configure(self, ref: int, health: Health | None = None) -> None:
        self.suspended.pop(ref, None)  # an edit may have mended what was behind it
        self.lanes.configure(ref, self.lane_settings[ref], health, len(self.due_rows(ref)), self.now)

    def due_rows(self, ref: int) -> list[DueDelivery]:
        due = [row.delivery for key, row in self.rows.items() if key.endpoint == ref and row.due]
        return sorted(due, key=lambda delivery: (delivery.due_ms, delivery.event))

    def write(self, delivery: DueDelivery) -> None:
        """Commit that a delivery is due; the news is on its way."""
        self.rows[delivery.key] = Row(delivery)
        self.news.append((delivery.key, "due", lambda: self.lanes.offer([delivery])))

    def end(self, key: DeliveryKey) -> None:
        self.rows[key].due = False
        self.news.append((key, "ended", lambda: self.lanes.drop([key])))

    def promise_rate(self, ref: int) -> None:
        """From here on another rate is promised; what is under way now was chosen before."""
        self.sent[ref].clear()
        for attempt in self.running.values():
            attempt.promised = attempt.promised and attempt.start.delivery.endpoint != ref

    def some_key(self, pick: int, *, due: bool | None = None) -> DeliveryKey | None:
        """Pick a delivery of an endpoint that exists, mostly a young one."""
        keys = [k for k, row in self.rows.items() if k.endpoint in self.existing and due in (None, row.due)]
        return keys[-1 - pick % min(len(keys), 6)] if keys else None

    # Producers and operators.

    @step(to=SUBSETS, delay_ms=DELAYS_MS, count=(1, 2, 5))
    def accept(self, to: tuple[int, ...], delay_ms: int, count: int) -> None:
        for _ in range(count):
            self.events += 1
            for ref in self.existing.intersection(to):
                due_ms = self.wall_ms + delay_ms
                self.write(DueDelivery(self.events, ref, due_ms, 0, 0, 0, self.wall_ms))

    @step("rows", pick=PICKS)
    def retry_by_hand(self, pick: int) -> None:
        settled = [key for key, what, _ in self.news[-1:] if what == "settled" and key.endpoint in self.existing]
        key = settled[0] if settled and pick % 2 else self.some_key(pick)
        if key is None or self.lane_settings[key.endpoint].held:
            return
        row = self.rows[key]
        again = row.delivery._replace(due_ms=self.wall_ms, manual=True, replayed=False, budget_from_ms=self.wall_ms)
        if not row.due:
            again = again._replace(series=again.series + 1, series_attempts=0)
        self.write(again)

    @step("rows", pick=PICKS)
    def replay(self, pick: int) -> None:
        """Let a replay make a delivery due that has ended."""
        key = self.some_key(pick, due=False)
        if key is not None and not self.lane_settings[key.endpoint].held:
            before = self.rows[key].delivery
            again = before._replace(due_ms=self.wall_ms, series=before.series + 1, series_attempts=0, manual=False)
            self.write(again._replace(replayed=True, budget_from_ms=self.wall_ms))

    @step("rows", pick=PICKS)
    def pull_forward(self, pick: int) -> None:
        """Let a delivery be due earlier, as housekeeping does after a step back of the wall clock."""
        key = self.some_key(pick, due=True)
        if key is not None:
            delivery = self.rows[key].delivery
            self.write(delivery._replace(due_ms=min(delivery.due_ms, self.wall_ms)))

    @step("rows", pick=PICKS)
    def cancel(self, pick: int) -> None:
        key = self.some_key(pick, due=True)
        if key is not None:
            self.end(key)

    @step(ref=REFS, held=(True, False, False))
    def pause_or_resume(self, ref: int, held: bool) -> None:
        self.lane_settings[ref] = replace(self.lane_settings[ref], held=held)
        if ref in self.existing:
            self.configure(ref)

    @step(ref=REFS, concurrency=(1, 2, 3, 4), rate=(None, None, Rate(1, 1_000), Rate(3, 60_000)))
    def reconfigure(self, ref: int, concurrency: int, rate: Rate | None) -> None:
        if rate != self.lane_settings[ref].rate:
            self.promise_rate(ref)  # a new rate is promised from here on
        self.lane_settings[ref] = replace(self.lane_settings[ref], concurrency=concurrency, rate=rate)
        if ref in self.existing:
            self.configure(ref)

    @step(concurrency=CONCURRENCIES)
    def resize(self, concurrency: int) -> None:
        self.concurrency = concurrency
        self.lanes.set_concurrency(concurrency)

    @step(ref=REFS)
    def delete_or_create(self, ref: int) -> None:
        if ref in self.existing:
            self.existing.remove(ref)
            for delivery in self.due_rows(ref):
                self.end(delivery.key)
            self.lanes.remove(ref)
        else:
            self.existing.add(ref)
            self.health[ref] = Health()
            self.promise_rate(ref)  # the rate is of the new one
            self.configure(ref, Health())

    # The dispatcher.

    @step("news", count=(1, 2, 9))
    def hear(self, count: int) -> None:
        for _ in range(min(count, len(self.news))):
            self.news.pop(0)[2]()

    @step("news")
    def overtake(self) -> None:
        """Let the offer of a manual retry arrive before the news of the settle it came right after."""
        for place, ((first, what, _), (second, then, _)) in enumerate(itertools.pairwise(self.news)):
            if first == second and (what, then) == ("settled", "due"):
                self.news[place : place + 2] = reversed(self.news[place : place + 2])
                return

    @step(at_once=(True, False))
    def take(self, at_once: bool = True) -> None:
        """Start what may start, and find nothing left that could; `at_once` the requests go out too."""
        asleep = not self.lanes.has_work and self.lanes.next_wake(self.now) != 0.0
        self.notice_silence()
        for start in self.lanes.take(self.now):
            assert not asleep, "a start that nobody would have woken for"
            self.check_start(start)
            self.running[start.delivery.key] = Attempt(start, self.mono_ms)
            if at_once:
                self.send(len(self.running) - 1)
        for ref, lane in self.lanes._lanes.items():
            startable = lane.next_start(self.now, self.share) is not None
            barred = startable and self.barred(ref)
            assert barred or not startable, "take left something that could start"

    @step("running", pick=PICKS)
    def send(self, pick: int) -> None:
        """Let the request of an attempt go out, as late as it likes."""
        key = list(self.running)[pick % len(self.running)]
        if self.running[key].sent:
            return
        self.running[key].sent = True
        self.lanes.sent(key, self.now)
        if not self.running[key].promised:
            return
        rate, sent = self.lane_settings[key.endpoint].rate, self.sent[key.endpoint]
        sent.append(self.mono_ms)
        if rate is not None:
            for limit, period_ms in ((rate.starts, rate.period_ms), (-(-rate.starts * 1_000 // rate.period_ms), 1_000)):
                recent = [at_ms for at_ms in sent if at_ms + period_ms > self.mono_ms]
                assert len(recent) <= limit, "beyond the rate"

    @step(
        "running",
        pick=PICKS,
        verdict=(*VERDICTS, "success", "failure", "unsent"),
        delay_ms=(None, 0, 700, 50_000),
    )
    def finish(self, pick: int, verdict: str, delay_ms: int | None) -> None:
        key = list(self.running)[pick % len(self.running)]
        if verdict != "unsent":
            self.send(pick)
        if verdict not in ("unsent", "mistake"):
            self.notice_silence()
        attempt = self.running.pop(key)
        if verdict == "success" or not any(self.running[k].silent for k in self.running if k.endpoint == key.endpoint):
            self.hanging.discard(key.endpoint)
        started, started_ms = attempt.start.delivery, attempt.started_ms
        if verdict == "mistake":
            suspension = self.lanes.suspend(key, "KeyError", self.now)
            if suspension is not None:
                self.suspended[key.endpoint] = suspension
            self.settles.append(Settle(started, started))
            return
        if verdict == "unsent":
            self.lanes.finished_unsent(key)
            self.settles.append(Settle(started, None if delay_ms is None else started))
            return
        suspension = self.suspended.get(key.endpoint)
        if suspension is not None and started_ms >= suspension.until_mono_ms:
            del self.suspended[key.endpoint]
        health = self.lanes.finished(key, VERDICTS[verdict], self.now)
        if health is not None:
            self.health[key.endpoint] = health
        dies = verdict == "success" or delay_ms is None
        self.settles.append(Settle(started, None if dies else self.next_try(started, delay_ms or 0)))

    @step("running", pick=PICKS)
    def stumble(self, pick: int) -> None:
        """Let a mistake of our own end an attempt."""
        self.finish(pick, "mistake", None)

    def next_try(self, started: DueDelivery, delay_ms: int) -> DueDelivery:
        tried = started._replace(attempts=started.attempts + 1, series_attempts=started.series_attempts + 1)
        return tried._replace(due_ms=self.wall_ms + delay_ms, manual=False, replayed=False)

    @step("settles", pick=PICKS)
    def commit_settle(self, pick: int) -> None:
        settle = self.settles.pop(pick % len(self.settles))
        key = settle.started.key
        row = self.rows[key]
        if row.due and row.delivery.series == settle.started.series:  # Q7
            if settle.due is None:
                row.due = False
            elif settle.due is not settle.started:
                row.delivery = settle.due
        now_due = row.delivery if row.due else None
        self.news.append((key, "settled", lambda: self.lanes.settled(key, now_due)))

    @step()
    def begin_refills(self) -> None:
        asleep = not self.lanes.has_work and self.lanes.next_wake(self.now) != 0.0
        while (refill := self.lanes.next_refill(self.now)) is not None:
            assert not asleep, "a refill that nobody would have woken for"
            assert 1 <= refill.limit <= LANE_MAX, "a read of a strange size"
            self.readings.append(Reading(refill))
        assert len(self.readings) <= READS_MAX

    @step("readings", pick=PICKS)
    def snapshot(self, pick: int) -> None:
        reading = self.readings[pick % len(self.readings)]
        if reading.rows is None:
            refill = reading.refill
            due = [
                d for d in self.due_rows(refill.ref) if (d.due_ms, d.event) >= (refill.from_due_ms, refill.from_event)
            ]
            reading.rows = due[: refill.limit]

    @step("readings", pick=PICKS)
    def return_refill(self, pick: int) -> None:
        pick %= len(self.readings)
        self.snapshot(pick)
        reading = self.readings.pop(pick)
        assert reading.rows is not None
        self.lanes.refilled(reading.refill.ticket, reading.rows)

    @step("readings", pick=PICKS)
    def fail_refill(self, pick: int) -> None:
        reading = self.readings.pop(pick % len(self.readings))
        self.lanes.refill_failed(reading.refill.ticket)

    @step(ref=REFS)
    def audit(self, ref: int) -> None:
        if ref in self.audits:
            underway = {key for key, _, _ in self.news}
            rows = [row for row in self.audits.pop(ref) if row.key not in underway]
            assert self.lanes.audited(ref, rows, self.now) == [], "the audit found a forgotten delivery"
        elif self.lanes.begin_audit(ref):
            self.audits[ref] = self.due_rows(ref)

    @step(ref=REFS)
    def fail_all(self, ref: int) -> None:
        """Let an endpoint fail until it cools down, or has nothing to fail with."""
        for _ in range(POLICY.failures):
            self.take()
            for key in [key for key in self.running if key.endpoint == ref]:
                self.finish(list(self.running).index(key), "failure", 0)
            while self.settles:
                self.commit_settle(0)
            self.hear(len(self.news))

    # The clocks, and the end of the process.

    @step(ms=(1, 300, 1_000, 2_000, 5_000, 20_000))
    def pass_time(self, ms: int) -> None:
        self.wall_ms += ms
        self.mono_ms += ms

    @step(ms=(-40_000, -3_000, 3_000, 90_000), told=(True, False))
    def step_wall_clock(self, ms: int, told: bool) -> None:
        self.wall_ms += ms
        if told or ms < 0:  # Small steps are not told of, and must do no harm; waits set too far ahead need telling.
            self.lanes.wall_stepped(self.now)
            self.health = {
                ref: health_rules.clamped(health, self.wall_ms, POLICY) for ref, health in self.health.items()
            }

    @step()
    def crash(self) -> None:
        self.boot()

    @step()
    def drain(self) -> None:
        """Let all receivers answer well and wait as the lanes ask: then nothing may be left."""
        for ref in REFS:
            self.pause_or_resume(ref, held=False)
        for _ in range(1_000):
            if self.work_once():
                continue
            if self.is_idle():
                return
            wake_ms = self.lanes.next_wake(self.now)
            assert wake_ms is not None, "a due delivery is forgotten, or a lane never becomes live again"
            assert wake_ms > 0, "the lanes spin"
            self.wall_ms += round(wake_ms)
            self.mono_ms += wake_ms
        raise AssertionError("a due delivery is never started")

    def is_idle(self) -> bool:
        lanes = self.lanes._lanes.values()
        return not any(row.due for row in self.rows.values()) and all(lane.memory.live for lane in lanes)

    def work_once(self) -> bool:
        """Do all that can be done at this moment; return whether there was anything."""
        busy = bool(self.news or self.readings or self.running or self.settles)
        self.hear(len(self.news))
        while self.readings:
            self.return_refill(0)
        while self.running:
            self.finish(0, "success", None)
        while self.settles:
            self.commit_settle(0)
        self.take()
        self.begin_refills()
        return busy or bool(self.running or self.readings)

    def teardown(self) -> None:
        if sys.exc_info()[0] is None:  # else a drain would hide what went wrong
            self.drain()

    # What must hold.

    def check_start(self, start: Start) -> None:
        delivery, ref = start.delivery, start.delivery.endpoint
        key, lane, health = delivery.key, self.lane_settings[ref], self.health[ref]
        running = [k for k in self.running if k.endpoint == ref]
        assert key not in self.running, "started twice at once"
        assert key not in {settle.started.key for settle in self.settles}, "started before its settle is committed"
        if key not in {k for k, _, _ in self.news}:
            row = self.rows[key]
            assert row == Row(delivery), "started something that is no longer so"
        assert ref in self.existing, "started at a deleted endpoint"
        if ref in self.suspended:
            assert self.mono_ms >= self.suspended[ref].until_mono_ms, "started at a suspended endpoint"
            assert not running, "beside the probe of a suspended endpoint"
        assert not lane.held, "started at a held endpoint"
        assert delivery.due_ms <= self.wall_ms, "started before it is due"
        assert len(running) < min(lane.concurrency, self.share), "beyond the endpoint's concurrency"
        assert not self.barred(ref), f"beyond a limit: {self.barred(ref)}"
        own = sum(APPLICATIONS[k.endpoint] == APPLICATIONS[ref] for k in self.running)
        assert own < self.concurrency, "more attempts of an application than slots"
        assert start.probe == (health.cool_down_ms > 0 and not delivery.manual), "a probe is a probe"
        if delivery.replayed and not start.probe and ref not in self.suspended:
            known = self.lanes._lanes[ref].memory.scheduled.by_event.values()
            others = [one for one in known if not one.replayed and one.due_ms <= self.wall_ms]
            assert not others, "a replay before something else that is due"
        if not delivery.manual:
            assert self.wall_ms >= max(health.cool_until_ms, health.not_before_ms), "started in a cool-down"
            assert not (start.probe and any(self.running[k].start.probe for k in running)), "two probes at once"

    def notice_silence(self) -> None:
        """Do as the lanes do whenever they start or finish something."""
        for key, attempt in self.running.items():
            if not attempt.silent and attempt.started_ms + SILENT_MS <= self.mono_ms:
                attempt.silent = True
                self.hanging.add(key.endpoint)

    def doubtful(self, ref: int) -> bool:
        # A deleted endpoint with attempts under way is no longer told of, yet counts.
        health = self.health[ref] if ref in self.existing else self.lanes._lanes[ref].health
        return ref in self.hanging or not health.answered or health.failures >= 3

    def count(self, *kinds: str, application: int | None = None) -> int:
        """Count attempts under way, of one application or of all."""
        return sum(
            ("silent" if attempt.silent else "doubtful" if self.doubtful(key.endpoint) else "answering") in kinds
            for key, attempt in self.running.items()
            if application in (None, APPLICATIONS[key.endpoint])
        )

    def barred(self, ref: int) -> str:
        """Say which limit forbids one more attempt of an endpoint; "" when none does."""
        own, slots = APPLICATIONS[ref], self.concurrency
        left = 4 * slots - len(self.running)
        limits = {
            "the total": left > 0,
            "the application's third of what is left": 3 * self.count(*KINDS, application=own) < left,
        }
        if self.doubtful(ref):
            limits |= {
                "doubtful endpoints' share": self.count("doubtful") < max(slots // 4, 1),
                "half of that share": self.count("doubtful", application=own) < max(slots // 8, 1),
                "the application's half": self.count("doubtful", "silent", application=own) < max(slots // 2, 1),
                "room for those that answer": left > slots - slots // 4,
            }
        else:
            free = slots - self.count("answering")
            limits |= {
                "the slots": free > 0,
                "the application's share": self.count("answering", application=own) < 7 * free,
            }
        return next((name for name, holds in limits.items() if not holds), "")

    @invariant()
    def nothing_is_forgotten(self) -> None:
        underway = {key for key, _, _ in self.news}
        for key, row in self.rows.items():
            lane = self.lanes._lanes.get(key.endpoint)
            if (
                lane is None
                or not lane.memory.opened
                or not row.due
                or key in underway
                or key.event in lane.memory.reserved
            ):
                continue
            delivery = row.delivery
            if (delivery.due_ms, delivery.event) < lane.memory.frontier:
                assert lane.memory._find(key.event) == delivery, "a row below the frontier is not in memory"

    @invariant()
    def memory_is_bounded(self) -> None:
        memories = [lane.memory for lane in self.lanes._lanes.values()]
        assert sum(memory.waiting for memory in memories) == self.lanes._refills._waiting, "miscounted"
        assert self.lanes._refills._waiting <= TOTAL_MAX
        for memory in memories:
            assert memory.waiting == len(memory.scheduled.order) + len(memory.manual.order) <= LANE_MAX
            assert memory.read is None or len(memory.read.side.order) <= SIDE_MAX >= len(memory.read.touched)

    @invariant()
    def counts_agree(self) -> None:
        assert self.lanes.in_flight == len(self.running)
        assert self.lanes._slots.total.counts == [self.count(kind) for kind in KINDS]
        for application in self.lanes._turns._applications.values():
            assert application.counts == [self.count(kind, application=application.ref) for kind in KINDS]
            assert application.lanes == sum(lane.application is application for lane in self.lanes._lanes.values())
        lanes = self.lanes._lanes.items()
        noted = {ref for ref, lane in lanes if lane.is_of_note and not lane.removed}
        assert noted == self.lanes.of_note, "of note, or no longer so, and not noted"


LanesMachine.TestCase.settings = settings(
    max_examples=200, stateful_step_count=60, deadline=None, suppress_health_check=list(HealthCheck)
)
TestLanes = LanesMachine.TestCase
TestLanes.__doc__ = "No due delivery is forgotten, started twice at once, or started beyond a limit (Q1-Q5, Q13, Q15)."

RARE = (
    "crash",
    "drain",
    "delete_or_create",
    "resize",
    "reconfigure",
    "pause_or_resume",
    "step_wall_clock",
    "fail_all",
    "stumble",
)


def walk(seed: int, steps: int, *, replays: bool) -> None:
    """Play the machine with plain dice: far more steps a second, and no shrinking."""
    dice = Random(seed)
    machine = LanesMachine()
    left_out = RARE if replays else (*RARE, "replay")
    usual = [name for name in STEPS if name not in left_out] + ["accept", "begin_refills"]
    for _ in range(steps):
        name = dice.choice(RARE if dice.random() < 0.1 else usual)
        needs, choices = STEPS[name]
        if getattr(machine, needs):
            getattr(machine, name)(**{key: dice.choice(values) for key, values in choices.items()})
            machine.nothing_is_forgotten()
            machine.memory_is_bounded()
            machine.counts_agree()
    machine.drain()


def walk_far(seeds: int, *, replays: bool = False) -> None:
    for seed in range(seeds):
        walk(seed, steps=300, replays=replays)


def test_long_walks() -> None:
    """The same holds over long lives of the lanes, in which much has piled up."""
    walk_far(150)
    walk_far(150, replays=True)


def forget_reserved(self: Memory, event: int, read: Read) -> bool:
    return event in read.touched or self._find(event) is not None


def forget_touched(self: Memory, event: int, read: Read) -> bool:
    return event in self.reserved or self._find(event) is not None


def forget_side(self: Memory, delivery: DueDelivery) -> None:
    if delivery.manual:
        self.manual.add(delivery)
        self.waiting += 1
    elif (delivery.due_ms, delivery.event) < self.frontier:
        self.scheduled.add(delivery)
        self.waiting += 1


def lose_changes_of_reserved(self: Memory, delivery: DueDelivery, offer: Callable[..., None] = Memory.offer) -> None:
    if delivery.event not in self.reserved:
        offer(self, delivery)


def forget_ceiling(self: Memory, key: tuple[int, int]) -> None:
    self.frontier = min(self.frontier, key)


def close_but_read_on(self: Memory, close: Callable[..., None] = Memory.close) -> None:
    read = self.read
    close(self)
    self.read = read


def queue_up_nobody(self: Lanes, lane: Lane) -> None:
    self._refills.changed(lane)


def leave_the_silent_in_their_slots(self: Lanes, now: Now) -> None:
    pass


def crowd(self: Slots, own: Usage) -> bool:
    return own.in_flight - own.answering >= max(self.concurrency // 2, 1)


def fill_up_with_doubtful(self: Slots, own: Usage) -> bool:
    return own.doubtful >= max(self.concurrency // 8, 1)


def open_for_doubtful(self: Slots, kind: Kind) -> bool:
    return self.total.answering < self.concurrency or kind is not Kind.ANSWERING


STALE = "audit found|started twice at once|started before its settle|no longer so|finished before it is settled|not in memory"
LOST = "forgotten|could start|never started|not in memory"

MISTAKES = {
    "a refill that does not skip reserved ids": (Memory, "_knows_better", forget_reserved, STALE),
    "a refill that believes rows older than the news": (Memory, "_knows_better", forget_touched, STALE),
    "no side buffer": (Memory, "_keep", forget_side, LOST),
    "room made without lowering the frontier": (Memory, "_lower", lambda self, key: None, LOST),
    "room made during a read without lowering its ceiling": (Memory, "_lower", forget_ceiling, LOST),
    "later states of reserved ids are lost": (Memory, "offer", lose_changes_of_reserved, f"{LOST}|no longer so"),
    "a pause that leaves the read under way valid": (
        Memory,
        "close",
        close_but_read_on,
        f"held endpoint|miscounted|{LOST}|{STALE}",
    ),
    "a window without a wall": (Lane, "room", lambda self, limit: 99, "beyond the endpoint's concurrency"),
    "a rate that always allows": (RateLimit, "free_at_ms", lambda self, mono_ms: mono_ms, "beyond the rate"),
    "any number of probes": (Lane, "probing", False, "two probes at once"),
    "a start in a cool-down": (health_rules, "opens_ms", lambda health: 0, "in a cool-down"),
    "a suspension that opens at once": (
        Lane,
        "_admits_ms",
        lambda self, now: now.mono_ms,
        "suspended endpoint|beyond the rate",
    ),
    "endpoints of note that are not noted": (Lanes, "_note", lambda self, lane: None, "and not noted"),
    "timers that never run out": (Lanes, "_set_timer", lambda self, lane, now: None, LOST),
    "a change that gives no turn": (Lanes, "_changed", queue_up_nobody, LOST),
    "silent attempts that keep their slots": (
        Lanes,
        "_notice_silence",
        leave_the_silent_in_their_slots,
        "could start|beyond a limit",
    ),
    "doubtful endpoints without a share": (
        Slots,
        "is_open",
        open_for_doubtful,
        "beyond a limit: doubtful endpoints' share",
    ),
    "one application takes the whole doubtful share": (
        Slots,
        "_is_crowded_by_doubtful",
        crowd,
        "beyond a limit: half of that share",
    ),
    "one application fills up with doubtful attempts": (
        Slots,
        "_is_crowded_by_doubtful",
        fill_up_with_doubtful,
        "beyond a limit: the application's half",
    ),
    "one application takes all slots": (Slots, "crowd_max", 99, "beyond a limit: the application's share"),
    "one application takes all attempts": (Slots, "weight_max", 99, "beyond a limit: the application's third"),
    "an application that never comes back": (Turns, "_come_back", lambda self, application: None, LOST),
    "a loop that sleeps on": (Lanes, "has_work", False, "nobody would have woken for"),
    "replays in the order of their due times": (
        SortedDeliveries,
        "first_but_replays",
        lambda self, now_ms: None,
        "a replay before something else",
    ),
    "no limit at all": (Slots, "is_open", lambda self, kind: True, "beyond a limit"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_the_machine_finds_a_mistake(mistake: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Negative control: each of these mistakes in the lanes is found by the machine above."""
    owner, name, wrong, found = MISTAKES[mistake]
    monkeypatch.setattr(owner, name, wrong)
    with pytest.raises(AssertionError, match=found):
        walk_far(2_000, replays="replays" in mistake)
