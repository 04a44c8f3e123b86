"""Who gets a slot: endpoints that answer, doubtful and silent ones, and one application beside others (Q4)."""

from dataclasses import replace

import pytest

from relay.core.model import Health
from relay.queue.slots import SILENT_MS, Kind
from relay.queue.turns import Turns
from tests.test_lanes import FAILURE, REFUSED, SETTINGS, WELL, Road, due

NEW = Health()
LOST = Health(answered=True, failures=3)


def kind(road: Road, ref: int = 1) -> Kind:
    return road.lanes._lanes[ref].kind


def busy(road: Road, ref: int, deliveries: int, window: int = 16, application: int = 1, health: Health = WELL) -> None:
    """Make a lane whose window has grown, with deliveries that are due: 100 × ref, and so on."""
    road.lane(ref, health=health, application=application)
    road.lanes._lanes[ref].window = window
    road.offer(*(due(100 * ref + number, ref) for number in range(deliveries)))


# What an endpoint is


@pytest.mark.parametrize(("failures", "expected"), [(0, Kind.ANSWERING), (2, Kind.ANSWERING), (3, Kind.DOUBTFUL)])
def test_three_failures_in_a_row_make_an_endpoint_doubtful(failures: int, expected: Kind) -> None:
    """I3: one failure, or two, say nothing; a third in a row does."""
    road = Road()
    road.lane(health=replace(WELL, failures=failures))
    assert kind(road) is expected


def test_an_endpoint_without_an_answer_so_far_is_doubtful() -> None:
    """I1: new endpoints have to answer with a 2xx first; a 404 is none."""
    road = Road()
    road.lane(health=NEW)
    road.offer(due(1), due(2))
    assert road.take() == [1, 2]
    road.end(1, REFUSED)
    assert kind(road) is Kind.DOUBTFUL
    assert road.finish(2) == WELL
    assert kind(road) is Kind.ANSWERING


def test_a_restart_does_not_begin_with_doubt() -> None:
    """What is persisted with health says that an endpoint has answered, and how often it failed since."""
    road = Road()
    road.lane(1, health=WELL)
    road.lane(2, health=LOST)
    assert (kind(road, 1), kind(road, 2)) == (Kind.ANSWERING, Kind.DOUBTFUL)


def test_a_silent_attempt_makes_an_endpoint_doubtful_until_it_ends() -> None:
    """I2: after a second without an answer, and no longer than that attempt runs."""
    road = Road()
    road.lane()
    road.offer(due(1), due(2))
    assert road.take() == [1, 2]
    road.end(2, REFUSED)
    road.pass_time(SILENT_MS - 1)
    road.take()
    assert kind(road) is Kind.ANSWERING
    road.pass_time(1)
    road.take()
    assert kind(road) is Kind.DOUBTFUL
    road.end(1, FAILURE)
    assert kind(road) is Kind.ANSWERING


def test_any_2xx_ends_doubt_also_beside_a_silent_attempt() -> None:
    """One event that hangs does not keep a receiver that answers the others doubtful; the next that hangs does."""
    road = Road()
    busy(road, 1, 4, window=4)
    assert road.take() == [100, 101, 102, 103]
    road.pass_time(SILENT_MS)
    road.end(100)
    assert kind(road) is Kind.ANSWERING
    road.end(101, REFUSED)
    assert kind(road) is Kind.ANSWERING
    road.offer(due(1))
    assert road.take() == [1]
    road.pass_time(SILENT_MS)
    road.take()
    assert kind(road) is Kind.DOUBTFUL


def test_who_was_silent_last_comes_last() -> None:
    """Of the doubtful ones those that answer quickly, if only with failures, go before the silent."""
    road = Road(concurrency=8)  # two starts for the doubtful, one for each application
    for ref in (1, 2):
        road.lane(ref, health=LOST)
    road.offer(due(1, 1))
    assert road.take() == [1]
    road.pass_time(SILENT_MS)
    road.take()
    assert kind(road, 1) is Kind.SILENT
    road.end(1, FAILURE)
    road.offer(due(2, 1), due(3, 2))
    assert road.take() == [3]
    assert road.view(1).why_waiting == "the application's share of slots for doubtful endpoints in use"
    road.end(3, FAILURE, ref=2)
    assert road.take() == [2]
    road.end(2, REFUSED)
    assert kind(road, 1) is Kind.DOUBTFUL  # a quick answer, of whatever kind


# What they get


def test_silent_attempts_leave_the_slots() -> None:
    """I2: endpoints that fall silent in the same second hold the slots for that second, and not for their time-out."""
    road = Road(concurrency=16)
    for ref in range(1, 5):
        busy(road, ref, 8)
    assert len(road.take()) == 14  # the application's share
    busy(road, 5, 2)
    assert (road.take(), road.view(5).why_waiting) == ([], "the application's share of slots in use")
    assert road.lanes.next_wake(road.now) == SILENT_MS
    road.pass_time(SILENT_MS)
    assert road.take() == [500, 501]
    assert road.lanes.in_flight == 16


def test_an_application_leaves_slots_to_another_whatever_it_has() -> None:
    """I2: while one application's endpoints hold all the slots it may have, the next one starts at once."""
    road = Road(concurrency=16)
    for ref in range(1, 9):
        busy(road, ref, 8)
    busy(road, 9, 4, application=2)
    started = road.take()
    assert {900, 901} <= set(started)
    assert road.lanes._slots.total.answering == len(started) < 16
    busy(road, 10, 4, application=3)
    assert 1000 in road.take()


def test_turns_go_round_over_applications() -> None:
    """Each application starts one delivery a turn, however many lanes it has; within it each lane does."""
    road = Road()
    for ref in (1, 2, 3):
        busy(road, ref, 2)
    busy(road, 4, 3, application=2)
    assert road.take() == [100, 400, 200, 401, 300, 402, 101, 201, 301]


def test_doubtful_endpoints_together_start_a_quarter() -> None:
    """I1: new endpoints leave the slots to those that answer: a quarter at once, and half of it for one application."""
    road = Road(concurrency=32)
    for ref in range(1, 9):
        busy(road, ref, 1, health=NEW)
        busy(road, ref + 10, 1, health=NEW, application=2)
        busy(road, ref + 20, 1, health=NEW, application=3)
    busy(road, 31, 8)
    assert road.take() == [3100 + number for number in range(8)] + [100, 1100, 2100, 200, 1200, 2200, 300, 1300]
    assert road.view(23).why_waiting == "doubtful endpoints' share of slots in use"
    assert road.lanes.next_wake(road.now) == SILENT_MS
    road.end(100)
    assert road.lanes.next_wake(road.now) == 0.0
    assert road.take() == [2300]
    road.pass_time(SILENT_MS)
    assert len(road.take()) == 8


def test_silent_attempts_of_one_application_are_bounded() -> None:
    """I1: an application's doubtful endpoints hold half of `concurrency` at most, however long they are silent."""
    road = Road(concurrency=16)
    for ref in range(1, 21):
        busy(road, ref, 2, window=2, health=NEW)
    for _ in range(10):
        road.take()
        road.pass_time(SILENT_MS)
    assert road.lanes.in_flight == 8
    busy(road, 50, 4)
    assert len(road.take()) == 4
    assert road.view(1).why_waiting == "the application's share of slots for doubtful endpoints in use"


def test_an_application_never_has_more_attempts_than_slots() -> None:
    """Endpoints that answer and then fall silent, wave after wave, stop at `concurrency` attempts."""
    road = Road(concurrency=16)
    for ref in range(1, 41):
        busy(road, ref, 4)
    for _ in range(10):
        road.take()
        road.pass_time(SILENT_MS)
    assert road.lanes.in_flight == 16
    busy(road, 50, 4)
    assert (road.take(), road.view(50).why_waiting) == ([], "the application has too many attempts under way")
    busy(road, 60, 4, application=2)
    assert len(road.take()) == 4
    road.end(100)
    road.end(200, ref=2)
    assert road.take()


def test_many_hostile_applications_leave_room_for_one_more() -> None:
    """The more applications fall silent, the less each of them gets: the total is never reached, and there is always room."""
    road = Road(concurrency=16)
    for application in range(1, 13):
        for ref in range(20 * application, 20 * application + 16):
            busy(road, ref, 2, application=application)
    for _ in range(20):
        road.take()
        road.pass_time(SILENT_MS)
    assert road.lanes.in_flight <= 64 - 12
    busy(road, 900, 4, application=99)
    assert len(road.take()) >= 3


def start_after_others_ended() -> set[int]:
    """Fill the slots for two applications, end attempts of the first; return whose deliveries start then."""
    road = Road(concurrency=16)
    for ref in (1, 2, 3, 4):
        busy(road, ref, 8, application=1 + (ref > 2))
    assert len(road.take()) == 15
    assert {road.view(ref).why_waiting for ref in (1, 3)} == {"window full"}
    assert road.view(4).why_waiting == "the application's share of slots in use"
    road.end(100)
    road.end(200, ref=2)
    return {event // 300 for event in road.take()}


def test_an_application_comes_back_when_others_end() -> None:
    """What waits because of a common limit starts as soon as others have left enough of it."""
    assert start_after_others_ended() == {0, 1}


def test_the_test_finds_an_application_that_is_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    """Negative control: without a look at the others only the application whose attempts ended goes on."""
    monkeypatch.setattr(Turns, "freed_for_all", lambda self: None)
    assert start_after_others_ended() == {0}


def test_a_deleted_application_leaves_nothing_behind() -> None:
    """Its lanes that waited for a slot wake nobody, and its like may come again."""
    road = Road(concurrency=8)
    busy(road, 1, 2, health=NEW)
    busy(road, 2, 2, health=NEW)
    assert road.take() == [100]
    road.lanes.remove(1)
    road.lanes.remove(2)
    assert road.take() == []
    road.end(100)
    assert road.lanes._turns._applications == {}
    assert road.take() == []
    assert road.lanes.next_wake(road.now) is None
    busy(road, 2, 2)
    assert road.take() == [200, 201]


def test_the_lanes_are_configured_with_their_application() -> None:
    """It is read once: an endpoint never moves."""
    road = Road()
    road.lane(application=7)
    assert road.lanes._lanes[1].application.ref == 7
    road.lanes.configure(1, replace(SETTINGS, application=7, concurrency=3), None, 0, road.now)
    assert road.lanes._turns._applications[7].lanes == 1
