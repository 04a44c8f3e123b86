"""Why a delivery waits, and how the relay is: the plain judgements behind detail pages and status."""

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest

from relay.api.condition import Line, warnings, why_delivery_waits, why_endpoint_waits, worst
from relay.api.readiness import Closed, why_closed
from relay.api.services import NO_LANE
from relay.api.survey import Survey
from relay.api.troubles import DESCRIPTORS_MISSING, LOCAL_TROUBLE, headline, troubles
from relay.config import Config
from relay.core.model import (
    Application,
    DeadReason,
    DeliveryState,
    DisabledBy,
    Endpoint,
    EndpointState,
    Health,
    HealthPolicy,
    Origin,
    RetryPolicy,
)
from relay.core.views import DeliveryView
from relay.queue import LaneView, Suspension

NOW_MS = 1_800_000_000_000
ACME = Application(1, "acme", "standard", Origin.FILE)
ENDPOINT = Endpoint(
    ref=1,
    id="primary",
    application=ACME,
    origin=Origin.FILE,
    url="https://example.com/hooks",
    event_types=("*",),
    concurrency=16,
    timeout_ms=15_000,
    retry=RetryPolicy((5_000,), 0.2, 432_000_000),
    health=HealthPolicy(),
    created_at_ms=0,
    updated_at_ms=0,
)
DELIVERY = DeliveryView(
    id="dlv_1",
    event_id="evt_1",
    event_type="a.b",
    application="acme",
    endpoint="primary",
    endpoint_ref=1,
    state=DeliveryState.DUE,
    reason=None,
    due_ms=NOW_MS - 1,
    attempts=1,
    series=1,
    created_at_ms=NOW_MS - 10,
    finished_at_ms=None,
    expires_at_ms=None,
)


def closed(**changed: Any) -> list[Closed]:
    """Why intake is closed where all is well but for `changed`."""
    vitals = {
        "stopping": False,
        "disk_low": False,
        "disk_free_bytes": 10 << 30,
        "healthy": True,
        "backlog": 0,
    } | changed
    daemon, seen = SimpleNamespace(config=Config(), **vitals), SimpleNamespace(**vitals)
    return list(why_closed(SimpleNamespace(daemon=daemon, store=seen, housekeeping=seen)))


def lane(why: str = "", **health: Any) -> LaneView:
    return replace(NO_LANE, why_waiting=why, health=Health(**health))


def line(endpoint: Endpoint = ENDPOINT, due: int = 0, **health: Any) -> Line:
    return Line(endpoint, lane(**health), due, 0)


@pytest.mark.parametrize(
    ("due_ms", "view", "why", "at_ms"),
    [
        (NOW_MS + 5, lane(), "scheduled", NOW_MS + 5),
        (NOW_MS - 5, lane(cool_until_ms=NOW_MS + 9, failures=12), "cool_down", NOW_MS + 9),
        (NOW_MS + 5, lane(cool_until_ms=NOW_MS + 9), "cool_down", NOW_MS + 9),
        (NOW_MS + 20, lane(cool_until_ms=NOW_MS + 9), "scheduled", NOW_MS + 20),
        (NOW_MS - 5, lane(not_before_ms=NOW_MS + 7), "retry_after", NOW_MS + 7),
        (NOW_MS - 5, lane("rate limit reached"), "turn", NOW_MS),
        (NOW_MS - 5, lane(cool_until_ms=NOW_MS - 1, not_before_ms=NOW_MS - 2), "turn", NOW_MS),
    ],
)
def test_a_delivery_waits_for_the_latest_of_its_reasons(due_ms: int, view: LaneView, why: str, at_ms: int) -> None:
    """A delivery may start at max(its due time, its endpoint's not-before); the one that decides is named (Q5)."""
    wait = why_delivery_waits(replace(DELIVERY, due_ms=due_ms), ENDPOINT, view, NOW_MS)
    assert wait is not None
    assert (wait.why, wait.at_ms) == (why, at_ms)
    assert wait.detail


def test_what_the_lane_says_is_passed_on() -> None:
    """When only its turn is missing, the lane's own words say what it lacks."""
    wait = why_delivery_waits(DELIVERY, ENDPOINT, lane("all slots in use"), NOW_MS)
    assert wait is not None
    assert wait.detail == "all slots in use"


@pytest.mark.parametrize("state", [DeliveryState.DELIVERED, DeliveryState.DEAD, DeliveryState.CANCELLED])
def test_what_ended_waits_for_nothing(state: DeliveryState) -> None:
    """A delivery that is not due has no next attempt."""
    ended = replace(DELIVERY, state=state, reason=DeadReason.GONE if state is DeliveryState.DEAD else None)
    assert why_delivery_waits(ended, ENDPOINT, NO_LANE, NOW_MS) is None


@pytest.mark.parametrize(
    ("endpoint", "words"),
    [
        (replace(ENDPOINT, state=EndpointState.PAUSED), "is paused"),
        (replace(ENDPOINT, state=EndpointState.DISABLED, disabled_by=DisabledBy.GONE), "because it answered 410"),
        (replace(ENDPOINT, state=EndpointState.DISABLED, disabled_by=DisabledBy.FAILING), "because it kept failing"),
        (replace(ENDPOINT, state=EndpointState.DISABLED, disabled_by=DisabledBy.MANUAL), "by hand"),
        (replace(ENDPOINT, present=False), "endpoint is no longer in the configuration"),
        (replace(ENDPOINT, application=replace(ACME, present=False)), "application acme is no longer"),
    ],
)
def test_a_held_delivery_says_why(endpoint: Endpoint, words: str) -> None:
    """A held delivery has no time, but a reason in words (Q9, Q11)."""
    wait = why_delivery_waits(DELIVERY, endpoint, NO_LANE, NOW_MS)
    assert wait is not None
    assert (wait.at_ms, wait.why) == (None, "held")
    assert words in wait.detail
    assert words in why_endpoint_waits(endpoint, NO_LANE)


def test_a_blocked_delivery_names_its_predecessor() -> None:
    """A row without due time waits for its ordering key (Q12)."""
    wait = why_delivery_waits(replace(DELIVERY, due_ms=None), ENDPOINT, NO_LANE, NOW_MS)
    assert wait is not None
    assert wait.why == "predecessor"


def test_a_delivery_of_a_deleted_endpoint_is_held() -> None:
    """Until its row is moved, a delivery whose endpoint was deleted shows as held."""
    wait = why_delivery_waits(DELIVERY, None, None, NOW_MS)
    assert wait is not None
    assert wait.why == "held"


@pytest.mark.parametrize(
    ("changed", "code"),
    [
        ({"stopping": True}, "draining"),
        ({"healthy": False}, "store_failing"),
        ({"disk_low": True, "disk_free_bytes": 1 << 20}, "disk_low"),
        ({"backlog": 10_000_000}, "backlog_full"),
    ],
)
def test_readiness_names_its_reason(changed: dict[str, Any], code: str) -> None:
    """Intake is closed for one of four reasons, all about this host (Q10)."""
    assert closed() == []
    assert [reason.code for reason in closed(**changed)] == [code]


def said(lines: list[Line], reasons: list[Closed], due: int, *, local_trouble: bool = False) -> str:
    """The first line of the status."""
    seen = surveyed(lines)
    return headline(seen, troubles(seen, reasons, local_trouble=local_trouble), due)


def surveyed(lines: list[Line]) -> Survey:
    """A relay with these endpoints alone."""
    return Survey(len(lines), sum(line.dead for line in lines), {}, lines)


def test_the_headline_says_the_most_urgent_thing() -> None:
    """Closed intake comes before trouble here, that before failing receivers, that before held work."""
    stopping = closed(stopping=True)
    failing, fine = line(failures=3), line()
    paused = line(replace(ENDPOINT, state=EndpointState.PAUSED), due=4)
    assert said([failing], stopping, 5, local_trouble=True) == "Intake is closed: the relay is stopping."
    assert said([failing], [], 5, local_trouble=True) == LOCAL_TROUBLE
    assert said([failing, fine], [], 1_500) == ("1 of 2 endpoints is failing; 1,500 deliveries wait.")
    assert said([paused, fine], [], 4) == ("1 endpoint with held deliveries; 4 deliveries wait.")
    assert said([fine], [], 1) == "All is well: 1 endpoint, 1 delivery waits."
    assert said([fine, fine], [], 0) == "All is well: 2 endpoints, nothing waits."
    assert said([replace(fine, dead=11)], [], 0) == (
        "11 dead letters (`relay dead list`), otherwise all is well: 1 endpoint, nothing waits."
    )
    assert "relay endpoint add" in said([], [], 0)


def test_it_is_us_not_them() -> None:
    """When most active endpoints fail at DNS or connect, status says that the trouble is here (Q9)."""
    assert LOCAL_TROUBLE.startswith("It is us, not them:")


def test_the_worst_five_endpoints() -> None:
    """Those that fail longest come first; healthy and manually disabled ones are not among them."""
    manual = line(replace(ENDPOINT, state=EndpointState.DISABLED, disabled_by=DisabledBy.MANUAL), due=99)
    gone = line(replace(ENDPOINT, id="gone", state=EndpointState.DISABLED, disabled_by=DisabledBy.GONE))
    failing = [line(replace(ENDPOINT, id=f"e{number}"), failures=number) for number in range(1, 8)]
    assert [one.endpoint.id for one in worst([line(), manual, gone, *failing])] == ["e7", "e6", "e5", "e4", "e3"]
    assert [one.endpoint.id for one in worst([line(), manual, gone])] == ["gone"]


def test_settings_that_give_up_a_protection_are_shown() -> None:
    """`durability = "normal"`, `allow_http` and `allow_networks` are named in status for as long as they are set."""
    assert warnings(Config()) == []
    loose = Config.model_validate(
        {
            "storage": {"durability": "normal"},
            "delivery": {"allow_http": True, "allow_networks": ["127.0.0.0/8"]},
        }
    )
    told = warnings(loose)
    assert [warning.split()[0] for warning in told] == [
        "storage.durability",
        "delivery.allow_http",
        "delivery.allow_networks",
    ]
    assert "127.0.0.0/8" in told[2]


SUSPENDED = replace(
    NO_LANE, why_waiting="suspended", suspension=Suspension("KeyError", NOW_MS - 5, NOW_MS + 60_000, 1.0, 60_000)
)


@pytest.mark.parametrize(
    ("due_ms", "now_ms", "why", "at_ms"),
    [
        (NOW_MS - 5, NOW_MS, "suspended", NOW_MS + 60_000),
        (NOW_MS + 70_000, NOW_MS, "scheduled", NOW_MS + 70_000),
        (NOW_MS - 5, NOW_MS + 60_001, "suspended", NOW_MS + 60_001),  # it, or another, is the probe
    ],
)
def test_a_delivery_of_a_suspended_endpoint_says_so(due_ms: int, now_ms: int, why: str, at_ms: int) -> None:
    """H1: why nothing is sent is a mistake of our own, named by its class; until the probe's time, and while it runs."""
    wait = why_delivery_waits(replace(DELIVERY, due_ms=due_ms), ENDPOINT, SUSPENDED, now_ms)
    assert wait is not None
    assert (wait.why, wait.at_ms) == (why, at_ms)
    assert why != "suspended" or "(KeyError)" in wait.detail


def test_a_suspended_endpoint_comes_before_what_receivers_do() -> None:
    """H1: the headline says that it is us, by name; closed intake alone is more urgent."""
    suspended = [Line(replace(ENDPOINT, id=name), SUSPENDED, 0, 0) for name in ("b", "c")]
    failing = Line(ENDPOINT, lane(failures=20), 5, 0)
    assert said([failing, *suspended], [], 5, local_trouble=True).startswith(
        "b, c are suspended: a mistake of relay's own"
    )
    assert said(suspended[:1], [], 0).startswith("b is suspended: ")
    stopping = closed(stopping=True)
    assert said(suspended, stopping, 0).startswith("Intake is closed")
    assert [line.endpoint.id for line in worst([failing, *suspended])] == ["b", "c", "primary"]


def refusing(name: str, status: str, due: int) -> Line:
    health = Health(answered=True, refusals=10, last_failure=status, last_answer=f"what to do about {status}")
    return Line(replace(ENDPOINT, id=name), replace(lane(), health=health), due, 0, refusing=True)


def test_refusing_endpoints_are_named_with_their_answers() -> None:
    """T1: the first line names who refuses, with what, and what to do about the one most waits for; a few, then a count."""
    one, fine = refusing("a", "401", 1), line()
    assert (
        said([one, fine], [], 1)
        == "1 of 2 endpoints refuses every delivery: a (401). The last answer: what to do about 401."
    )
    many = [one, *(refusing(name, "404", 9) for name in "bcde")]
    assert said([*many, fine], [], 37) == (
        "5 of 6 endpoints refuse every delivery: b (404), c (404), d (404) and 2 more. The last answer of b: what to do about 404."
    )
    assert [
        trouble.code for trouble in troubles(surveyed([one]), [], local_trouble=True, descriptors_missing=True)
    ] == [
        "local_trouble",
        "descriptors_missing",
        "refusing",
    ]
    assert "no receiver is blamed" in DESCRIPTORS_MISSING
