"""The lanes, rule by rule (Q1-Q5, Q13, Q15). The stateful test beside this file looks for what no rule foresaw."""

from collections.abc import Sequence
from dataclasses import replace
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay.core.clock import Now
from relay.core.model import DeliveryKey, DueDelivery, Health, HealthPolicy
from relay.core.units import Rate
from relay.queue import Lanes, LaneSettings, LaneView, Refill
from relay.queue.health import SUSPENSION_MAX_MS, SUSPENSION_MS, Suspension
from relay.queue.heap import KeyedHeap
from relay.queue.lane import RateLimit
from relay.queue.memory import Memory
from relay.queue.retry import Action, Classification, HealthEffect
from relay.queue.slots import SILENT_MS

WALL_MS = 1_000_000_000
SETTINGS = LaneSettings(application=1, concurrency=16, rate=None, held=False, policy=HealthPolicy())
SUCCESS = Classification(Action.DELIVERED, HealthEffect.SUCCESS)
FAILURE = Classification(Action.RETRY, HealthEffect.FAILURE, cause="500")
REFUSED = Classification(Action.RETRY, HealthEffect.NONE, cause="404")
COOLED = Health(failures=10, several=True, cool_down_ms=5_000, cool_until_ms=WALL_MS + 5_000)


def throttled(not_before_ms: int | None = None) -> Classification:
    return Classification(Action.RETRY, HealthEffect.THROTTLED, not_before_ms=not_before_ms)


def due(event: int, ref: int = 1, due_ms: int = WALL_MS, **more: int | bool) -> DueDelivery:
    return DueDelivery(event, ref, due_ms, 0, 0, 0, due_ms)._replace(**more)


WELL = Health(answered=True)


class Road:
    """Lanes, and a clock beside them."""

    def __init__(self, concurrency: int = 256, **bounds: int) -> None:
        self.lanes = Lanes(concurrency, Random(5), **bounds)
        self.wall_ms, self.mono_ms = WALL_MS, 0.0

    @property
    def now(self) -> Now:
        return Now(self.wall_ms, self.mono_ms)

    def pass_time(self, ms: int) -> None:
        self.wall_ms += ms
        self.mono_ms += ms

    def lane(
        self,
        ref: int = 1,
        health: Health | None = None,
        due_count: int = 0,
        held: bool = False,
        rate: Rate | None = None,
        application: int = 1,
    ) -> None:
        """Configure a lane; a new one has answered before, unless `health` says otherwise."""
        if health is None and ref not in self.lanes._lanes:
            health = WELL
        settings = replace(SETTINGS, application=application, held=held, rate=rate)
        self.lanes.configure(ref, settings, health, due_count, self.now)

    def offer(self, *items: DueDelivery) -> None:
        self.lanes.offer(items)

    def take(self) -> list[int]:
        """Start what may start, and send it at once; return the events."""
        starts = self.lanes.take(self.now)
        for start in starts:
            self.lanes.sent(start.delivery.key, self.now)
        return [start.delivery.event for start in starts]

    def finish(self, event: int, verdict: Classification = SUCCESS, ref: int = 1) -> Health | None:
        return self.lanes.finished(DeliveryKey(event, ref), verdict, self.now)

    def suspend(self, event: int, ref: int = 1) -> Suspension | None:
        suspension = self.lanes.suspend(DeliveryKey(event, ref), "KeyError", self.now)
        self.settle(event, due(event, ref), ref)
        return suspension

    def settle(self, event: int, again: DueDelivery | None = None, ref: int = 1) -> None:
        self.lanes.settled(DeliveryKey(event, ref), again)

    def end(self, event: int, verdict: Classification = SUCCESS, ref: int = 1) -> None:
        self.finish(event, verdict, ref)
        self.settle(event, ref=ref)

    def refill(self) -> Refill:
        refill = self.lanes.next_refill(self.now)
        assert refill is not None
        return refill

    def refilled(self, refill: Refill, rows: Sequence[DueDelivery] = ()) -> None:
        self.lanes.refilled(refill.ticket, rows)

    def known(self, ref: int = 1) -> set[int]:
        """The events of all deliveries to `ref` that are in memory."""
        memory = self.lanes._lanes[ref].memory
        return {*memory.reserved, *memory.scheduled.by_event, *memory.manual.by_event}

    def view(self, ref: int = 1) -> LaneView:
        view = self.lanes.snapshot(ref, self.now)
        assert view is not None
        return view


def test_an_endpoint_is_of_note_from_a_failure_to_its_next_success() -> None:
    """S5: what failed last is looked at by a status; what succeeds is only counted."""
    road = Road()
    road.lane()
    road.offer(due(1), due(2))
    road.take()
    assert list(road.lanes.of_note) == []
    road.end(1, FAILURE)
    assert list(road.lanes.of_note) == [1]
    road.end(2)
    assert list(road.lanes.of_note) == []


def test_a_new_delivery_starts_and_ends() -> None:
    """The way of one delivery through a lane: offered, taken, finished, settled, forgotten."""
    road = Road()
    road.lane()
    road.offer(due(1))
    assert road.lanes.next_wake(road.now) == 0.0
    assert road.take() == [1]
    assert (road.lanes.in_flight, road.known(1)) == (1, {1})
    assert road.finish(1) is None
    assert (road.lanes.in_flight, road.known(1)) == (0, {1})
    road.settle(1)
    assert (road.known(1), road.lanes.next_wake(road.now)) == (set(), None)


def test_the_end_of_an_attempt_is_work_only_if_something_waits() -> None:
    """A loop that would find nothing to start need not look: a lone delivery's end and settle wake nobody."""
    road = Road()
    road.lane()
    road.offer(due(1))
    assert road.lanes.has_work
    road.take()
    road.finish(1)
    road.settle(1)
    assert not road.lanes.has_work
    road.offer(due(2), due(3), due(4), due(5))
    assert road.take() == [2, 3, 4]
    assert not road.lanes.has_work  # the last waits for room, and its lane has had its turn
    road.finish(2)
    assert road.lanes.has_work


def test_the_oldest_due_time_is_known() -> None:
    """What has waited longest in memory, over all lanes, scheduled or retried by hand; nothing when nothing waits."""
    road = Road()
    road.lane(1)
    road.lane(2)
    assert road.lanes.oldest_due_ms((1, 2)) is None
    road.offer(due(1, 1, 5_000))
    road.offer(due(2, 2, 4_000), due(3, 2, 3_000, manual=True))
    assert road.lanes.oldest_due_ms((1, 2)) == 3_000


def test_the_oldest_starts_first() -> None:
    """A lane is ordered by due time, then by event (Q1)."""
    road = Road()
    road.lane()
    road.offer(due(3), due(2), due(9, due_ms=WALL_MS - 1))
    road.lanes.take(road.now)
    assert road.known(1) == {2, 3, 9}
    assert [event for event in (2, 3, 9) if event in road.lanes._lanes[1].running] == [2, 9]


def test_a_delivery_starts_when_it_is_due_and_not_before() -> None:
    """The lanes say how long to sleep, and nothing starts early."""
    road = Road()
    road.lane()
    road.offer(due(1, due_ms=WALL_MS + 700))
    assert road.take() == []
    assert road.lanes.next_wake(road.now) == 700
    road.pass_time(699)
    assert road.take() == []
    road.pass_time(1)
    assert (road.take(), road.lanes.next_wake(road.now)) == ([1], None)


def test_what_has_no_lane_is_left_to_the_database() -> None:
    """An endpoint that has no lane yet, or no longer, is read when it gets one."""
    road = Road()
    road.offer(due(1))
    road.lanes.drop([DeliveryKey(1, 1)])
    road.lanes.remove(1)
    assert (road.take(), road.lanes.snapshot(1, road.now)) == ([], None)
    assert not road.lanes.begin_audit(1)
    assert road.lanes.audited(1, [due(1)], road.now) == []


# How many at once


def test_the_window_grows_by_one_for_each_success() -> None:
    """It starts at 2 and ends at the endpoint's concurrency (Q5)."""
    road = Road()
    road.lane()
    windows = []
    for event in range(1, 20):
        road.offer(due(event))
        road.take()
        road.end(event)
        windows.append(road.view().window)
    assert windows == [*range(3, 17), 16, 16, 16, 16, 16]


def test_the_window_halves_once_for_each_failed_round() -> None:
    """Failures of attempts that started before the last halving do not halve again (Q5)."""
    road = Road()
    road.lane()
    for event in range(1, 7):
        road.offer(due(event))
        road.take()
        road.end(event)
    road.offer(*(due(event) for event in range(10, 30)))
    running = road.take()
    assert len(running) == 8
    for event in running[:4]:
        road.finish(event, FAILURE)
    assert road.view().window == 4
    for event in running[4:]:
        road.finish(event, FAILURE)
    assert road.view().window == 4
    for event in road.take()[:1]:
        road.finish(event, throttled())
    assert road.view().window == 2


def test_a_refusal_leaves_the_window_alone() -> None:
    """A 404 says nothing about how much an endpoint can take."""
    road = Road()
    road.lane()
    road.offer(due(1))
    road.take()
    assert road.finish(1, REFUSED) is None
    assert road.view().window == 2


def test_one_endpoint_holds_at_most_a_quarter_of_the_slots() -> None:
    """Endpoint concurrency is never more than a quarter of the global limit (Q4)."""
    road = Road(concurrency=12)
    road.lane()
    for event in range(1, 9):
        road.offer(due(event))
        road.take()
        road.end(event)
    road.offer(*(due(event) for event in range(10, 30)))
    assert len(road.take()) == 3
    road.lanes.set_concurrency(40)
    assert len(road.take()) == 0  # the window has grown to the old share only
    road.finish(10)
    assert len(road.take()) == 2


def test_the_slots_are_for_all_lanes_together() -> None:
    """No more young attempts run than there are slots, and a free slot is used at once (Q4)."""
    road = Road(concurrency=3)
    for ref in range(1, 6):
        road.lane(ref, application=ref)
        road.offer(due(ref, ref))
    assert road.take() == [1, 2, 3]
    assert road.view(4).why_waiting == "all slots in use"
    assert road.lanes.next_wake(road.now) == SILENT_MS
    road.end(2, ref=2)
    assert road.lanes.next_wake(road.now) == 0.0
    assert road.take() == [4]


def test_lower_concurrency_lets_what_runs_finish() -> None:
    """A reload that lowers the limit starts nothing until enough attempts have ended (Q11)."""
    road = Road()
    road.lane()
    road.offer(*(due(event) for event in range(1, 9)))
    assert road.take() == [1, 2]
    road.lanes.configure(1, replace(SETTINGS, concurrency=1), None, 8, road.now)
    road.end(1)
    assert road.take() == []
    assert road.view().why_waiting == "window full"
    road.end(2)
    assert road.take() == [3]


def test_turns_go_round() -> None:
    """Each lane starts one delivery a turn, whatever the others have waiting (Q4)."""
    road = Road(concurrency=8)
    for ref in (1, 2, 3):
        road.lane(ref)
    road.offer(*(due(event, 1) for event in range(10, 20)), due(20, 2), due(21, 2), due(30, 3))
    assert road.take() == [10, 20, 30, 11, 21]


@given(st.lists(st.integers(1, 40), min_size=40, max_size=200), st.sampled_from([Rate(3, 100), Rate(5, 60)]))
def test_a_rate_is_an_exact_sliding_window(gaps_ms: list[int], rate: Rate) -> None:
    """At most `starts` starts in any `period`, and none later than that needs."""
    limit, mono_ms, made = RateLimit(rate), 0.0, list[float]()
    for gap_ms in gaps_ms:
        mono_ms = max(mono_ms + gap_ms / 3, limit.free_at_ms(mono_ms + gap_ms / 3))
        earliest_ms = made[-rate.starts] + rate.period_ms if len(made) >= rate.starts else 0.0
        assert mono_ms >= earliest_ms
        limit.send(len(made), mono_ms)
        made.append(mono_ms)
    if limit.free_at_ms(mono_ms) > mono_ms:
        assert limit.free_at_ms(mono_ms) == made[-rate.starts] + rate.period_ms


def test_a_high_rate_is_exact_in_bounded_memory() -> None:
    """Thousands of starts a period are counted in moments: never one too many, and little is remembered."""
    rate, made = Rate(5_000, 1_000), list[float]()
    limit, mono_ms = RateLimit(rate), 0.0
    while len(made) < 12_000:
        mono_ms = max(mono_ms + 0.05, limit.free_at_ms(mono_ms + 0.05))
        limit.send(len(made), mono_ms)
        made.append(mono_ms)
    assert all(later - earlier >= 1_000 for earlier, later in zip(made, made[5_000:], strict=False))
    assert made[-1] < 2_300
    assert len(limit._whole._moments) <= 1_001


def test_a_rate_for_a_minute_flows() -> None:
    """H21: `60/m` is not 60 at once but one a second; a rate that is no whole number a second is rounded up."""
    for rate, in_a_second in ((Rate(60, 60_000), 1), (Rate(90, 60_000), 2), (Rate(10, 3_600_000), 1)):
        limit, mono_ms, made = RateLimit(rate), 0.0, list[float]()
        for event in range(10):
            mono_ms = limit.free_at_ms(mono_ms)
            limit.choose(event)
            limit.send(event, mono_ms)
            made.append(mono_ms)
        assert made == [1_000 * (event // in_a_second) for event in range(10)]


@given(st.lists(st.tuples(st.integers(0, 400), st.integers(0, 900)), min_size=20, max_size=60), st.integers(1, 4))
def test_a_rate_holds_where_requests_go_out(moves: list[tuple[int, int]], starts: int) -> None:
    """H21: however long each attempt takes from its choice to the wire, no second has more than the rate allows."""
    limit, mono_ms, sent, unsent = RateLimit(Rate(starts, 1_000)), 0.0, list[float](), dict[int, float]()
    for event, (gap_ms, delay_ms) in enumerate(moves):
        mono_ms += gap_ms
        for late in sorted((late for late, at_ms in unsent.items() if at_ms <= mono_ms), key=lambda late: unsent[late]):
            at_ms = unsent.pop(late)
            limit.send(late, at_ms)
            sent.append(at_ms)
        if limit.free_at_ms(mono_ms) <= mono_ms:
            limit.choose(event)
            unsent[event] = mono_ms + delay_ms
    assert all(later - earlier >= 1_000 for earlier, later in zip(sent, sent[starts:], strict=False))


def test_an_attempt_that_is_chosen_and_not_sent_takes_its_share_of_the_rate() -> None:
    """H21: until it is sent nobody knows which second it belongs to; when it never is, its place is free again."""
    road = Road()
    road.lane(rate=Rate(2, 1_000))
    road.offer(*(due(event) for event in range(1, 6)))
    first, second = road.lanes.take(road.now)
    road.pass_time(1_500)
    assert (road.lanes.take(road.now), road.lanes.next_wake(road.now)) == ([], None)
    road.lanes.sent(first.delivery.key, road.now)
    road.lanes.finished_unsent(second.delivery.key)
    road.settle(2)
    assert road.view().why_waiting == ""
    (third,) = road.lanes.take(road.now)
    road.lanes.sent(third.delivery.key, road.now)
    road.end(1)
    road.end(3)
    assert (road.lanes.take(road.now), road.view().why_waiting) == ([], "rate limit")
    assert road.lanes.next_wake(road.now) == 1_000
    road.pass_time(1_000)
    assert road.take() == [4, 5]


def test_a_reload_does_not_forget_the_rate() -> None:
    """Starts made before a reload count after it, under the new rate too (Q11)."""
    road = Road()
    road.lane(rate=Rate(2, 1_000))
    road.offer(*(due(event) for event in range(1, 10)))
    assert road.take() == [1, 2]
    road.end(1)
    road.end(2)
    road.lane(rate=Rate(1, 1_000))
    assert (road.take(), road.view().why_waiting) == ([], "rate limit")
    assert road.lanes.next_wake(road.now) == 1_000
    road.pass_time(1_000)
    assert road.take() == [3]
    road.end(3)
    road.lane(rate=None)
    assert road.take() == [4, 5, 6, 7, 8]
    road.lane(rate=Rate(1, 1_000))
    road.end(4)
    assert road.take() == [9]


# Whether at all


def test_probes_are_by_turns_the_oldest_and_the_newest_delivery() -> None:
    """One poisonous event, the oldest, does not keep an endpoint down: the next probe is the newest that is due (Q5)."""
    road = Road()
    road.lane(health=replace(COOLED, cool_until_ms=WALL_MS))
    road.offer(due(1), due(2), due(3), due(4, due_ms=WALL_MS + 3_600_000))
    assert road.take() == [1]
    road.finish(1, FAILURE)
    road.settle(1, due(1)._replace(attempts=1))
    road.pass_time(60_000)
    assert road.take() == [3]  # 4 is not due yet
    road.end(3)
    assert road.take() == [1, 2]  # it is over


def test_probes_of_a_suspended_endpoint_are_by_turns_the_oldest_and_the_newest() -> None:
    """An event at which relay itself fails holds up the others for one round, not for ever."""
    road = Road()
    road.lane()
    road.offer(due(1))
    assert road.take() == [1]
    assert road.suspend(1) is not None
    road.offer(due(2), due(3))
    road.pass_time(SUSPENSION_MS)
    assert road.take() == [1]
    assert road.suspend(1) is not None
    road.pass_time(2 * SUSPENSION_MS)
    assert road.take() == [3]
    road.end(3)
    assert road.take() == [1, 2]


def test_a_cool_down_ends_with_one_probe_the_oldest_delivery() -> None:
    """After it one attempt runs at a time, the oldest due delivery, and it says so (Q5)."""
    road = Road()
    road.lane(health=COOLED)
    road.offer(due(1), due(2), due(3))
    assert (road.take(), road.lanes.next_wake(road.now)) == ([], 5_000)
    assert road.view().why_waiting == "cooling down"
    road.pass_time(5_000)
    (probe,) = road.lanes.take(road.now)
    assert (probe.delivery.event, probe.probe) == (1, True)
    assert road.view().why_waiting == "waiting for the probe"
    assert road.lanes.next_wake(road.now) is None
    assert road.finish(1) == WELL
    assert len(road.take()) == 2


def test_a_failed_probe_doubles_and_a_straggler_does_not() -> None:
    """Attempts that were in flight when the cool-down began do not double it; the probe does, once (Q5)."""
    road = Road()
    road.lane(health=replace(COOLED, failures=9, cool_down_ms=0, cool_until_ms=0))
    road.offer(due(1), due(2), due(3))
    assert road.take() == [1, 2]
    cooled = road.finish(1, FAILURE)
    assert cooled is not None
    assert (cooled.cool_down_ms, road.view().window) == (5_000, 1)
    straggler = road.finish(2, FAILURE)
    assert straggler is not None
    assert straggler.cool_until_ms == cooled.cool_until_ms
    road.pass_time(6_000)
    assert road.take() == [3]
    probed = road.finish(3, FAILURE)
    assert probed is not None
    assert probed.cool_down_ms == 10_000


def test_a_probe_without_verdict_is_followed_by_the_next() -> None:
    """A 404 neither ends nor lengthens the cool-down: probing goes on, one at a time (outcome table)."""
    road = Road()
    road.lane(health=replace(COOLED, cool_until_ms=WALL_MS))
    road.offer(due(1), due(2))
    assert road.take() == [1]
    assert road.finish(1, REFUSED) is None
    (second,) = road.lanes.take(road.now)
    assert (second.delivery.event, second.probe) == (2, True)


def test_a_probe_that_is_not_sent_makes_room_for_the_next() -> None:
    """A delivery that turns out expired was no probe."""
    road = Road()
    road.lane(health=replace(COOLED, cool_until_ms=WALL_MS))
    road.offer(due(1), due(2))
    assert road.take() == [1]
    road.lanes.finished_unsent(DeliveryKey(1, 1))
    road.settle(1)
    assert road.take() == [2]


def test_retry_after_holds_back_the_endpoint() -> None:
    """Nothing scheduled starts before `not_before`; no failure is counted (outcome table)."""
    road = Road()
    road.lane()
    road.offer(due(1), due(2), due(3))
    assert road.take() == [1, 2]
    health = road.finish(1, throttled(30_000))
    assert health is not None
    assert (health.not_before_ms, health.failures, health.answered) == (WALL_MS + 30_000, 0, True)
    assert road.finish(2) == replace(WELL, not_before_ms=WALL_MS + 30_000)  # a success takes the wish back no more
    assert road.take() == []
    assert road.view().why_waiting == "asked to wait by Retry-After"
    assert road.lanes.next_wake(road.now) == 30_000
    road.pass_time(30_000)
    assert road.take() == [3]


def test_a_manual_retry_goes_past_cool_down_probe_and_retry_after() -> None:
    """It starts at once, beside the probe, and is none itself (Q13)."""
    road = Road()
    road.lane(health=replace(COOLED, not_before_ms=WALL_MS + 1_000))
    road.offer(due(1, due_ms=WALL_MS + 9_000), due(2))
    road.offer(due(1, manual=True))
    (start,) = road.lanes.take(road.now)
    assert (start.delivery.event, start.probe) == (1, False)
    failed = road.finish(1, FAILURE)
    assert failed is not None
    assert failed.cool_down_ms == 5_000


def test_a_manual_retry_goes_no_further_than_that() -> None:
    """Window, rate and pause hold for manual retries too (Q13)."""
    road = Road()
    road.lane(rate=Rate(1, 1_000))
    road.lane(2, held=True)
    road.offer(due(1, manual=True), due(2, manual=True), due(3, ref=2, manual=True))
    assert road.take() == [1]
    assert road.view(2).why_waiting == "endpoint held"
    road.pass_time(1_000)
    road.offer(due(4, manual=True), due(5, manual=True))
    road.lane(rate=None)
    assert road.take() == [2]


def test_the_timer_of_a_lane_outlives_the_lane() -> None:
    """A deleted endpoint's timers wake nobody."""
    road = Road()
    road.lane(rate=Rate(1, 1_000))
    road.offer(due(1), due(2), due(3, due_ms=WALL_MS + 100))
    assert road.take() == [1]
    road.end(1)
    road.take()
    road.lanes.remove(1)
    road.pass_time(5_000)
    assert road.take() == []


# Wall clock


def test_a_forward_step_starts_no_more_than_the_limits_allow() -> None:
    """Everything is due at once, and still window and rate hold (Q15, T16)."""
    road = Road()
    road.lane(rate=Rate(1, 60_000))
    road.lane(2)
    road.offer(*(due(event, ref, WALL_MS + 3_600_000 + event) for event in range(1, 50) for ref in (1, 2)))
    assert road.take() == []
    road.wall_ms += 86_400_000
    road.lanes.wall_stepped(road.now)
    assert sorted(road.take()) == [1, 1, 2]


def test_a_backward_step_leaves_no_endpoint_waiting_for_a_year() -> None:
    """Waits set by a clock that was ahead are cut to what a rule could have set (Q15)."""
    year_ms = 365 * 86_400_000
    road = Road()
    road.lane(health=replace(COOLED, cool_until_ms=WALL_MS + year_ms, not_before_ms=WALL_MS + year_ms))
    road.offer(due(1))
    assert road.take() == []
    road.lanes.wall_stepped(road.now)
    assert road.take() == []
    wake_ms = road.lanes.next_wake(road.now)
    assert wake_ms is not None
    assert wake_ms <= 3_600_000


# Held, deleted, dropped


def test_a_paused_endpoint_keeps_nothing_and_resumes_from_the_database() -> None:
    """What waits is the database's; what runs finishes; a read under way is void (Q9)."""
    road = Road(lane_max=4)
    road.lane(due_count=9)
    road.refilled(road.refill(), [due(event) for event in range(1, 5)])
    assert road.take() == [1, 2]
    road.end(1)
    assert road.take() == [3, 4]
    refill = road.refill()
    road.lane(held=True)
    assert (road.view().waiting, road.view().why_waiting) == (0, "endpoint held")
    road.refilled(refill, [due(5)])
    road.offer(due(9))
    assert (road.take(), road.known(1), road.lanes.next_refill(road.now)) == ([], {2, 3, 4}, None)
    road.end(2)
    road.lane()
    assert road.view().why_waiting == "reading the queue"
    road.refilled(road.refill(), [due(3), due(5), due(9)])
    assert road.take() == [5, 9]


def test_a_deleted_lane_stays_until_its_attempts_are_settled() -> None:
    """Its slots count until they are free, nobody is told of its health, and the same ref may come back (Q11)."""
    road = Road(concurrency=4)
    road.lane()
    road.offer(due(1))
    assert road.take() == [1]
    road.lanes.remove(1)
    assert road.lanes.in_flight == 1
    road.lane(due_count=1)
    road.refilled(road.refill(), [due(1)])
    assert road.take() == []
    road.lanes.remove(1)
    assert road.finish(1, FAILURE) is None
    assert road.lanes.in_flight == 0
    road.settle(1)
    assert road.lanes.snapshot(1, road.now) is None


def test_a_cancelled_delivery_does_not_start() -> None:
    """A drop takes it out of memory, and a read begun before does not bring it back (Q3)."""
    road = Road(lane_max=4)
    road.lane(due_count=9)
    road.refilled(road.refill(), [due(event) for event in range(1, 5)])
    road.lanes.drop([DeliveryKey(4, 1), DeliveryKey(3, 1), DeliveryKey(2, 1)])
    refill = road.refill()
    road.lanes.drop([DeliveryKey(6, 1)])
    road.refilled(refill, [due(5), due(6)])
    assert road.view().live
    assert road.known(1) == {1, 5}


def test_settle_before_finish_is_our_mistake() -> None:
    """The dispatcher finishes an attempt before it settles the delivery."""
    road = Road()
    road.lane()
    road.offer(due(1))
    road.take()
    with pytest.raises(AssertionError, match="finished before"):
        road.settle(1)


# Memory and refills


def test_a_lane_over_its_bound_leaves_the_youngest_to_the_database() -> None:
    """200 at most: the lane is behind then, and reads from the frontier when it falls under half (Q1, Q2)."""
    road = Road()
    road.lane()
    road.offer(*(due(event) for event in range(1, 251)))
    view = road.view()
    assert (view.waiting, view.live) == (200, False)
    assert road.lanes.next_refill(road.now) is None
    road.offer(due(251))
    for event in range(1, 102):
        if event not in road.lanes._lanes[1].running:
            road.take()
        road.end(event)
    refill = road.refill()
    assert (refill.from_due_ms, refill.from_event) == (WALL_MS, 201)
    road.refilled(refill, [due(event) for event in range(201, 252)])
    assert road.view().live
    assert max(road.known(1)) == 251


def test_all_lanes_together_are_bounded() -> None:
    """The largest lane makes room; near the bound each lane reads its share, and only what could start (Q1)."""
    road = Road(lane_max=10, total_max=12)
    road.lane(1)
    road.lane(2)
    road.lane(3, due_count=5)
    road.offer(*(due(event, 1, WALL_MS + 900 + event) for event in range(1, 11)))
    road.offer(*(due(event, 2) for event in range(1, 5)))
    views = [road.view(ref) for ref in (1, 2)]
    assert [(view.waiting, view.live) for view in views] == [(5, False), (4, True)]
    assert road.refill() == Refill(3, 1, 0, 0, 4)
    assert road.lanes.next_refill(road.now) is None
    road.lanes.drop([DeliveryKey(event, 1) for event in range(1, 5)])
    road.offer(*(due(event, 2) for event in range(5, 8)))
    assert road.lanes.next_refill(road.now) is None
    assert road.lanes.next_wake(road.now) == 0.0
    road.take()
    assert road.lanes.next_wake(road.now) == 905  # lane 1 has its fifth then, and reads on from the sixth at 906
    road.pass_time(906)
    assert road.refill().ref == 1


class Lookups:
    """Counts how often anybody looks how many deliveries wait in a lane."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.count = 0
        slot = Memory.__dict__["waiting"]

        def get(memory: Memory) -> int:
            self.count += 1
            waiting: int = slot.__get__(memory)
            return waiting

        monkeypatch.setattr(Memory, "waiting", property(get, lambda memory, value: slot.__set__(memory, value)))


@pytest.mark.parametrize("operation", ["offer", "take", "drop"])
def test_no_operation_looks_at_all_lanes(operation: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """H5: beyond the bound over all lanes an operation on one of 10,000 looks at a few, however many there are."""
    endpoints = 10_000
    road = Road(total_max=20_000)
    for ref in range(endpoints):
        road.lane(ref)
    for event in (1, 2):
        road.offer(*(due(event, ref, WALL_MS + 5_000) for ref in range(endpoints)))
    road.pass_time(5_000)
    lookups = Lookups(monkeypatch)
    if operation == "offer":
        road.offer(*(due(3, ref) for ref in range(endpoints)))
        operations = endpoints
    elif operation == "take":
        operations = len(road.take())
    else:
        road.lanes.drop(DeliveryKey(1, ref) for ref in range(endpoints))
        operations = endpoints
    assert lookups.count <= 40 * operations
    assert sum(lane.memory.waiting for lane in road.lanes._lanes.values()) <= 20_000


def test_the_largest_lane_makes_room_also_after_it_shrank(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a lane held once says nothing: whoever holds most at the time is evicted from."""
    road = Road(lane_max=10, total_max=12)
    for ref in (1, 2, 3):
        road.lane(ref)
    road.offer(*(due(event, 1, WALL_MS + event) for event in range(1, 9)))
    road.lanes.drop(DeliveryKey(event, 1) for event in range(2, 9))
    road.offer(*(due(event, 2, WALL_MS + event) for event in range(1, 7)), *(due(event, 3) for event in range(1, 7)))
    assert [road.view(ref).waiting for ref in (1, 2, 3)] == [1, 3, 6]


def test_a_lane_that_cools_down_is_content_with_a_handful() -> None:
    """Dead endpoints do not fill memory that the others need (invariant 9)."""
    road = Road()
    road.lane(health=COOLED, due_count=1_000)
    assert road.refill().limit == 8
    road.lane(2, health=replace(COOLED, failures=9, cool_down_ms=0, cool_until_ms=0))
    road.offer(*(due(event, 2) for event in range(1, 101)))
    assert road.take() == [1, 2]
    road.finish(1, FAILURE, ref=2)
    assert road.view(2).waiting == 8


def test_under_steady_traffic_a_lane_becomes_live_again() -> None:
    """A short read and a side buffer that did not overflow, merged, make the lane live (Q2)."""
    road = Road(side_max=5)
    road.lane(due_count=1)
    refill = road.refill()
    road.offer(*(due(event) for event in range(5, 10)))
    road.refilled(refill, [due(event) for event in range(1, 7)])
    assert (road.view().live, road.view().waiting) == (True, 9)


def test_a_side_buffer_that_overflows_keeps_the_oldest() -> None:
    """The lane stays behind, and the next read begins at what did not fit (Q2)."""
    road = Road(side_max=2, lane_max=20)
    road.lane(due_count=1)
    refill = road.refill()
    road.offer(*(due(event) for event in (5, 8, 6, 7)))
    road.refilled(refill, [due(1)])
    assert (road.view().live, road.known(1)) == (False, {1, 5, 6})
    assert road.refill()[2:] == (WALL_MS, 7, 17)


def test_room_made_during_a_read_is_not_read_over() -> None:
    """What memory leaves to the database while a read runs is read again later (Q2)."""
    road = Road(lane_max=4)
    road.lane(due_count=9)
    road.refilled(road.refill(), [due(event) for event in range(11, 15)])
    assert road.take() == [11, 12]
    road.end(11)
    road.end(12)
    assert road.take() == [13, 14]
    refill = road.refill()
    road.offer(*(due(event) for event in range(1, 6)))
    assert road.view().waiting == 4
    road.refilled(refill, [due(15)])
    assert road.lanes._lanes[1].memory.frontier == (WALL_MS, 5)


def test_a_settled_delivery_is_guarded_from_reads_begun_before() -> None:
    """The read still sees its row as due; memory knows better (Q3)."""
    road = Road(lane_max=4)
    road.lane(due_count=9)
    road.refilled(road.refill(), [due(event) for event in range(1, 5)])
    assert road.take() == [1, 2]
    road.lanes.drop([DeliveryKey(4, 1)])
    refill = road.refill()
    road.end(1)
    road.refilled(refill, [due(1, due_ms=WALL_MS + 5), due(2, due_ms=WALL_MS + 5)])
    assert road.known(1) == {2, 3}


def test_a_read_during_which_too_much_moved_is_void() -> None:
    """What memory remembers of a read is bounded; beyond that the rows are not used (Q2)."""
    road = Road(side_max=2, lane_max=8)
    road.lane(due_count=9)
    refill = road.refill()
    assert road.lanes.begin_audit(1)
    road.lanes.drop([DeliveryKey(event, 1) for event in (1, 2, 3)])
    road.refilled(refill, [due(1), due(7)])
    assert road.known(1) == set()
    assert road.lanes.audited(1, [due(7, due_ms=0)], road.now) == []
    assert road.refill().ticket == 2


def test_a_failed_refill_is_tried_again_a_second_later() -> None:
    """A database that cannot be read is not asked in a loop (invariant 8)."""
    road = Road()
    road.lane(due_count=1)
    refill = road.refill()
    road.lanes.refill_failed(refill.ticket)
    road.lane()
    assert road.lanes.next_refill(road.now) is None
    assert road.lanes.next_wake(road.now) == 1_000
    road.pass_time(1_000)
    again = road.refill()
    road.lane(held=True)
    road.lanes.refill_failed(again.ticket)
    road.lanes.remove(1)
    assert road.lanes.next_wake(road.now) is None


def test_a_timer_to_read_again_outlives_its_lane() -> None:
    """A deleted endpoint is not read."""
    road = Road()
    road.lane(due_count=1)
    road.lanes.refill_failed(road.refill().ticket)
    road.lanes.remove(1)
    road.pass_time(1_000)
    assert road.lanes.next_refill(road.now) is None


def test_only_a_few_reads_run_at_once() -> None:
    """A start with work for a thousand endpoints does not read for all of them at a time."""
    road = Road()
    for ref in range(1, 10):
        road.lane(ref, due_count=1)
    refills = [road.refill() for _ in range(4)]
    assert [refill.ref for refill in refills] == [1, 2, 3, 4]
    assert road.lanes.next_refill(road.now) is None
    road.refilled(refills[1])
    assert road.refill().ref == 5


# Manual retries and news out of step


def test_a_manual_retry_does_not_wait_behind_a_backlog() -> None:
    """It is kept above the frontier, and starts before what is older (Q13)."""
    road = Road(lane_max=4)
    road.lane(due_count=1_000)
    road.refilled(road.refill(), [due(event) for event in range(1, 5)])
    road.offer(due(900, manual=True))
    assert road.take() == [900, 1]


def test_too_many_manual_retries_fall_to_the_database() -> None:
    """The bound of a lane holds for them too (Q1)."""
    road = Road(lane_max=2)
    road.lane()
    road.offer(*(due(event, manual=True) for event in range(1, 5)))
    assert road.known(1) == {1, 2}
    assert not road.view().live


def test_a_manual_retry_of_what_is_in_flight_waits_for_its_settle() -> None:
    """The settle tells what is due now, unless the retry was committed after it (Q3, Q13)."""
    road = Road()
    road.lane()
    road.offer(due(1), due(2))
    assert road.take() == [1, 2]
    road.offer(due(1, manual=True))
    road.offer(due(2, manual=True, attempts=1), due(2))
    assert road.take() == []
    road.finish(1, REFUSED)
    road.finish(2, REFUSED)
    road.settle(1, due(1, due_ms=WALL_MS + 5_000, attempts=1))
    road.settle(2, due(2, due_ms=WALL_MS + 5_000, attempts=1))
    assert road.take() == [2]
    assert road.lanes.next_wake(road.now) == 5_000


def test_a_new_series_begun_before_the_commits_of_the_settle_is_not_lost() -> None:
    """Delivered, retried by hand, and only then we hear that it was delivered (Q13)."""
    road = Road()
    road.lane()
    road.offer(due(1), due(2))
    road.take()
    road.offer(due(1, series=1, attempts=1, manual=True), due(2, manual=True))
    road.end(1)
    road.end(2)
    assert road.take() == [1]


def test_old_news_does_not_undo_newer() -> None:
    """A state of a delivery that is older than the one in memory is ignored."""
    road = Road()
    road.lane()
    road.offer(due(1, due_ms=WALL_MS + 5_000, attempts=2), due(1, attempts=1))
    assert road.take() == []


# The audit, and what people see


def test_the_audit_finds_what_was_forgotten() -> None:
    """Negative control: a row that a bug took out of memory is found, taken in and reported (invariant 8)."""
    road = Road()
    road.lane()
    road.offer(due(1, due_ms=0), due(2, due_ms=0), due(3, due_ms=0), due(4))
    assert road.take() == [1, 2]
    assert road.lanes.begin_audit(1)
    road.lanes._lanes[1].memory._remove(3)
    road.lanes._lanes[1].memory._remove(4)
    road.finish(1)
    road.settle(1)
    rows = [due(1, due_ms=0), due(2, due_ms=0), due(3, due_ms=0), due(4)]
    assert road.lanes.audited(1, rows, road.now) == [due(3, due_ms=0)]
    assert road.take() == [3]


def test_the_audit_accuses_nobody_of_what_memory_need_not_know() -> None:
    """Rows above the frontier, of paused endpoints, and young ones are no mistakes."""
    road = Road()
    road.lane(due_count=5)
    assert road.lanes.begin_audit(1)
    assert road.lanes.audited(1, [due(1, due_ms=0)], road.now) == []
    road.lane(held=True)
    assert not road.lanes.begin_audit(1)


def test_a_lane_says_why_it_waits() -> None:
    """Every reason is a short phrase, and there is none when nothing waits."""
    road = Road()
    road.lane()
    assert road.view().why_waiting == ""
    road.offer(due(1, due_ms=WALL_MS + 5))
    assert road.view().why_waiting == "not due yet"
    road.pass_time(5)
    assert road.view().why_waiting == ""
    road.take()
    assert road.view() == LaneView(0, 1, 1, 2, True, WELL, 0, "")


def test_a_heap_whose_keys_move_keeps_little_behind() -> None:
    """Former entries are skipped, and cleared away before they pile up."""
    heap = KeyedHeap()
    for value in range(1_000, 0, -1):
        heap.set(1, value)
        heap.set(1, value)
    assert len(heap._heap) <= 67
    heap.set(2, 2)
    heap.remove(2)
    heap.remove(2)
    heap.set(1, 3)
    assert list(heap.pop_until(2)) == []
    assert (heap.first(), 1 in heap, 2 in heap) == ((3, 1), True, False)
    assert list(heap.pop_until(3)) == [1]
    assert heap.first() is None


# -- suspension: a mistake of our own in an attempt --------------------------------------------------------------------


def test_a_suspended_endpoint_waits_and_then_probes() -> None:
    """H1: nothing starts for a minute, then one attempt alone; when it runs through, everything starts again."""
    road = Road()
    road.lane()
    road.offer(due(1), due(2), due(3))
    assert road.take() == [1, 2]
    suspension = road.suspend(1)
    assert suspension == Suspension("KeyError", WALL_MS, WALL_MS + SUSPENSION_MS, SUSPENSION_MS, SUSPENSION_MS)
    road.end(2)  # it began before, and proves nothing
    assert (road.take(), road.lanes.next_wake(road.now)) == ([], SUSPENSION_MS)
    assert road.view().why_waiting == "suspended by a mistake of relay's own"
    assert road.view().suspension == suspension

    road.pass_time(SUSPENSION_MS)
    (start,) = road.lanes.take(road.now)
    assert (start.delivery, start.suspension) == (due(1), suspension)
    assert (road.take(), road.lanes.next_wake(road.now)) == ([], None)  # the others wait for its end
    road.end(1)
    assert road.view().suspension is None
    assert road.take() == [3]


def test_a_suspension_doubles_up_to_a_quarter_of_an_hour() -> None:
    """H1: each probe that fails in the same way makes the next wait twice as long, and no longer than 15 minutes."""
    road = Road()
    road.lane()
    road.offer(due(1))
    waits = []
    for _ in range(6):
        assert road.take() == [1]
        suspension = road.suspend(1)
        assert suspension is not None
        waits.append(suspension.length_ms)
        assert suspension.since_ms == WALL_MS
        road.pass_time(suspension.length_ms)
    assert waits == [60_000, 120_000, 240_000, 480_000, SUSPENSION_MAX_MS, SUSPENSION_MAX_MS]


def test_attempts_begun_before_a_suspension_say_nothing_new() -> None:
    """H1: of several attempts that fail at once the first suspends, and the others are only due again."""
    road = Road()
    road.lane()
    road.offer(due(1), due(2))
    road.take()
    assert road.suspend(1) is not None
    assert road.suspend(2) is None
    assert (road.lanes.in_flight, road.view().waiting) == (0, 2)


def test_an_edit_ends_a_suspension() -> None:
    """H1: other settings may have mended what was behind it, so there is no wait for the probe."""
    road = Road()
    road.lane(rate=Rate(5, 1_000))
    road.offer(due(1))
    road.take()
    road.suspend(1)
    assert road.take() == []
    road.lane()
    assert (road.take(), road.view().suspension) == ([1], None)


def test_what_is_under_way_is_known_until_its_attempt_ends() -> None:
    """A cancel asks for it: whoever waits for a delivery by its ordering key waits for its attempt too (Q12)."""
    road = Road()
    road.lane()
    road.offer(due(1), due(2, due_ms=WALL_MS + 5))
    assert road.take() == [1]
    assert (road.lanes.reserved(1), road.lanes.reserved(2)) == ([1], [])
    assert road.lanes.under_way(DeliveryKey(1, 1)) == due(1)
    assert road.lanes.under_way(DeliveryKey(2, 1)) is None
    assert road.lanes.under_way(DeliveryKey(1, 2)) is None
    road.finish(1)
    assert road.lanes.under_way(DeliveryKey(1, 1)) is None
