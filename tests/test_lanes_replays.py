"""Lanes and replays: what a replay may add, what starts before it, and waits that are ended by hand."""

from dataclasses import replace

from relay.core.model import Health
from relay.core.units import Rate
from tests.test_lanes import COOLED, WALL_MS, Road, due


def test_replays_have_half_of_the_room() -> None:
    """An endpoint that may have sixteen at once is given eight, and fewer by what is due or under way."""
    road = Road()
    road.lane()
    road.lanes._lanes[1].window = 16
    assert road.lanes.spare(1, road.now) == 8
    road.offer(due(100), due(101))
    assert road.lanes.spare(1, road.now) == 6
    road.take()
    assert road.lanes.spare(1, road.now) == 6


def test_replays_have_half_of_the_slots_and_only_free_ones() -> None:
    """Four slots in all are two for replays; with two in use there are none."""
    road = Road(concurrency=4)
    for ref in (1, 2):
        road.lane(ref)
    road.offer(due(1, 2), due(2, 2))
    assert road.lanes.spare(1, road.now) > 0
    road.take()
    road.lanes.set_concurrency(2)
    assert road.lanes.spare(1, road.now) == 0


def test_who_has_no_lane_is_given_nothing() -> None:
    """Neither an endpoint that nobody knows nor one that was removed while an attempt is under way."""
    road = Road()
    assert road.lanes.spare(7, road.now) == 0
    road.lane()
    road.offer(due(1))
    road.take()
    road.lanes.remove(1)
    assert road.lanes.spare(1, road.now) == 0
    assert road.lanes.end_waits(1) is None


def test_replays_wait_for_held_and_cooling_endpoints() -> None:
    """A paused endpoint is given nothing; one that cools down is given one when its time has come."""
    road = Road()
    road.lane(held=True)
    assert road.lanes.spare(1, road.now) == 0
    road.lane(2, health=COOLED)
    assert road.lanes.spare(2, road.now) == 0
    road.pass_time(5_000)
    assert road.lanes.spare(2, road.now) == 1


def test_replays_wait_while_the_database_may_know_of_more() -> None:
    """Until a lane has read what was due before it, nobody knows whether something waits."""
    road = Road()
    road.lane(due_count=3)
    assert road.lanes.spare(1, road.now) == 0
    road.refilled(road.refill(), [due(1), due(2), due(3)])
    road.take()
    for event in (1, 2, 3):
        if event in road.known():
            road.end(event)
            road.take()
    assert road.lanes.spare(1, road.now) > 0


def test_replays_have_half_of_the_rate() -> None:
    """Of ten a second four are left for replays when one was sent: half of the limit stays free for what comes."""
    road = Road()
    road.lane(rate=Rate(10, 1_000))
    road.offer(due(1))
    road.take()
    road.end(1)
    lane = road.lanes._lanes[1]
    assert lane.rate is not None
    assert lane.rate.spare(road.now.mono_ms) == 4
    assert road.lanes.spare(1, road.now) <= 4
    lane.rate.choose(2)
    assert lane.rate.spare(road.now.mono_ms) == 3


def test_what_is_fresh_starts_before_a_replay() -> None:
    """A replay that has been due for longer waits for what is due and is none; alone it starts."""
    road = Road(concurrency=4)
    road.lane()
    road.offer(due(1, due_ms=WALL_MS - 50, replayed=True), due(2, due_ms=WALL_MS - 10), due(3, due_ms=WALL_MS + 99))
    assert road.take()[0] == 2
    road.end(2)
    assert 1 in road.take() or 1 in road.known()


def test_a_replay_starts_where_nothing_fresh_is_due() -> None:
    """What is due later does not keep a replay waiting, nor do other replays."""
    road = Road()
    road.lane()
    road.offer(due(1, replayed=True), due(2, due_ms=WALL_MS + 99))
    assert road.take() == [1]
    road.end(1)
    other = Road()
    other.lane()
    other.offer(due(3, replayed=True), due(4, replayed=True))
    assert other.take()[0] == 3


def test_waits_are_ended_by_hand() -> None:
    """A cool-down ends at once and is counted again from its first step; what failed so far stays counted."""
    road = Road()
    road.lane(health=COOLED)
    road.offer(due(1))
    assert road.take() == []
    ended = road.lanes.end_waits(1)
    assert ended == replace(COOLED, cool_down_ms=0, cool_until_ms=0)
    assert road.take() == [1]
    assert road.lanes.end_waits(1) is None


def test_a_wish_to_be_asked_later_is_ended_too() -> None:
    """`Retry-After` is a wait as well."""
    road = Road()
    road.lane(health=Health(answered=True, not_before_ms=WALL_MS + 60_000))
    road.offer(due(1))
    assert road.take() == []
    assert road.lanes.end_waits(1) is not None
    assert road.take() == [1]
