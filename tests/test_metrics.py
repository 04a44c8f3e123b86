"""Metrics: what is counted, how it is named, and that a thousand endpoints do not become a thousand labels."""

import re
from typing import Any

import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_text

from relay.core.model import DeadReason, EndpointState, Failure, Outcome, Trace, Trigger
from relay.telemetry.metrics import OTHER, Histogram, Metrics, Readings

OPENMETRICS = "application/openmetrics-text; version=1.0.0"


def readings(**changed: Any) -> Readings:
    known: dict[str, Any] = {
        "due": 7,
        "dead": 2,
        "in_flight": 3,
        "ready": True,
        "database_bytes": 4096,
        "wal_bytes": 512,
        "disk_free_bytes": 1 << 30,
        "uptime_s": 1.5,
    }
    return Readings(**(known | changed))


def outcome(status: int | None = 204, failure: Failure | None = None, duration_ms: int = 12) -> Outcome:
    return Outcome(started_at_ms=0, duration_ms=duration_ms, status=status, failure=failure)


def samples(metrics: Metrics, now: Readings | None = None) -> dict[tuple[str, ...], float]:
    """Read the exposition back with the library's own parser: (name, label values…) → value."""
    text, content_type = metrics.exposition(now or readings(), "text/plain")
    assert content_type.startswith("text/plain")
    return {
        (sample.name, *sample.labels.values()): sample.value
        for family in parse_text(text.decode())
        for sample in family.samples
    }


def test_attempts_are_counted_by_endpoint_and_result() -> None:
    """An attempt counts under its status class, or under its failure when there was no usable response."""
    metrics = Metrics("1.2.3")
    for status in (200, 204, 301, 404, 503, 99):
        metrics.attempt("primary", outcome(status))
    metrics.attempt("primary", outcome(None, Failure.DNS))
    metrics.attempt("primary", outcome(200, Failure.BROKEN_RESPONSE))
    found = samples(metrics)
    expected = {"2xx": 2, "3xx": 1, "4xx": 1, "5xx": 1, "other": 1, "dns": 1, "broken_response": 1}
    assert {key[2]: value for key, value in found.items() if key[0] == "relay_attempts_total"} == expected


def test_the_parts_of_attempts_are_timed() -> None:
    """Each part that an attempt has is counted under its name; over a kept connection only the first byte."""
    metrics = Metrics("1.2.3")
    metrics.attempt("primary", outcome()._replace(trace=Trace(1.0, 2.0, 30.0, 4.0)))
    metrics.attempt("primary", outcome()._replace(trace=Trace(first_byte_ms=6.0, reused=True)))
    metrics.attempt("primary", outcome())
    found = samples(metrics)
    counted = {
        part: found["relay_attempt_part_seconds_count", part] for part in ("dns", "connect", "tls", "first_byte")
    }
    assert counted == {"dns": 1, "connect": 1, "tls": 1, "first_byte": 2}
    assert found["relay_attempt_part_seconds_sum", "first_byte"] == 0.01


def test_a_test_attempt_is_counted_apart() -> None:
    """Tests do not blur the figures of real traffic."""
    metrics = Metrics("1.2.3")
    metrics.attempt("primary", outcome(500), Trigger.TEST)
    found = samples(metrics)
    assert found["relay_test_attempts_total", "5xx"] == 1
    assert not [key for key in found if key[0] == "relay_attempts_total"]
    assert found["relay_attempt_duration_seconds_count",] == 0


def test_finished_deliveries_and_dead_letters() -> None:
    """Each end of a delivery is counted once by its outcome, dead letters also by their reason."""
    metrics = Metrics("1.2.3")
    metrics.delivered("primary", 40)
    metrics.dead("primary", DeadReason.EXHAUSTED)
    metrics.dead("primary", DeadReason.OVERFLOW, 5)
    metrics.cancelled("primary", 2)
    found = samples(metrics)
    finished = {key[2]: value for key, value in found.items() if key[0] == "relay_deliveries_finished_total"}
    assert finished == {"delivered": 1, "dead": 6, "cancelled": 2}
    assert found["relay_dead_letters_total", "overflow"] == 5


def test_events_are_counted_as_they_come_in() -> None:
    """Accepted, repeated and refused events are told apart."""
    metrics = Metrics("1.2.3")
    metrics.accepted()
    metrics.accepted(9)
    metrics.deduplicated()
    metrics.rejected("body_too_large")
    found = samples(metrics)
    assert found["relay_events_accepted_total",] == 10
    assert found["relay_events_deduplicated_total",] == 1
    assert found["relay_events_rejected_total", "body_too_large"] == 1


def test_the_number_of_endpoint_labels_is_capped() -> None:
    """Beyond the cap endpoints are counted together as `other`, in counters and gauges alike."""
    metrics = Metrics("1.2.3", endpoints_max=2)
    for number in range(5):
        metrics.attempt(f"endpoint-{number}", outcome())
    states = {f"endpoint-{number}": EndpointState.ENABLED for number in range(5)}
    found = samples(metrics, readings(endpoint_states=states, endpoints={"enabled": 5}))
    assert found["relay_attempts_total", OTHER, "2xx"] == 3
    assert found["relay_endpoint_state", OTHER, "enabled"] == 3
    assert found["relay_endpoint_state", "endpoint-0", "enabled"] == 1
    assert len({key[1] for key in found if key[0] == "relay_attempts_total"}) == 3


def test_gauges_show_what_was_read() -> None:
    """Gauges are the readings of the moment; what is not known is not shown."""
    found = samples(Metrics("1.2.3"))
    assert found["relay_deliveries", "due"] == 7
    assert found["relay_deliveries", "dead"] == 2
    assert found["relay_build_info", "1.2.3"] == 1
    assert found["relay_ready",] == 1
    assert ("relay_oldest_due_seconds",) not in found
    known = samples(Metrics("1.2.3"), readings(oldest_due_s=9.5, loop_lag_s=0.25))
    assert known["relay_oldest_due_seconds",] == 9.5
    assert known["relay_event_loop_lag_seconds",] == 0.25


def test_repairs_of_lanes_are_counted() -> None:
    """`relay_lane_audit_repairs_total` is there from the start, at 0, so that an alert can watch it (invariant 8)."""
    metrics = Metrics("1.2.3")
    assert samples(metrics)["relay_lane_audit_repairs_total",] == 0
    metrics.audit_repair()
    assert samples(metrics)["relay_lane_audit_repairs_total",] == 1


def test_the_last_reload_is_shown() -> None:
    """The gauge falls to 0 with a refused reload and rises with the next good one."""
    metrics = Metrics("1.2.3")
    assert samples(metrics)["relay_config_last_reload_successful",] == 1
    metrics.reloaded(successful=False)
    assert samples(metrics)["relay_config_last_reload_successful",] == 0
    metrics.reloaded(successful=True)
    assert samples(metrics)["relay_config_last_reload_successful",] == 1


@pytest.mark.parametrize(("duration_ms", "first_bucket_with_it"), [(0.5, "0.001"), (1.0, "0.001"), (1.5, "+Inf")])
def test_a_histogram_puts_a_value_into_the_first_bucket_that_takes_it(
    duration_ms: float, first_bucket_with_it: str
) -> None:
    """Bounds are inclusive and in seconds; buckets are cumulative."""
    histogram = Histogram((0.00025, 0.001))
    histogram.add(duration_ms)
    buckets = {
        sample.labels["le"]: sample.value
        for sample in histogram.family("relay_x_seconds", "x").samples
        if sample.name.endswith("_bucket")
    }
    assert min((le for le, count in buckets.items() if count), key=float) == first_bucket_with_it
    assert buckets["+Inf"] == 1


def test_openmetrics_when_asked() -> None:
    """A scraper that asks for OpenMetrics gets it, well formed (checked with the library's parser)."""
    metrics = Metrics("1.2.3")
    metrics.delivered("primary", 40)
    metrics.committed(3)
    text, content_type = metrics.exposition(readings(), OPENMETRICS)
    assert content_type.startswith("application/openmetrics-text")
    assert any(family.name == "relay_delivery_latency_seconds" for family in parse_openmetrics(text.decode()))


def test_names_follow_the_conventions() -> None:
    """Every metric but the process's own begins with `relay_`, has a help text, uses base units, and counters end in `_total`."""
    text = Metrics("1.2.3").exposition(readings(), "")[0].decode()
    families = list(parse_text(text))
    assert len(families) > 15
    for family in families:
        assert re.fullmatch(r"(relay|process)_[a-z_]+", family.name)
        assert family.documentation.endswith(".")
        assert not re.search(r"_(ms|milliseconds|kb|mb)$", family.name)
    assert "_created" not in text


def test_the_summary_counts_since_the_last_one() -> None:
    """The periodic log line says what happened since the line before it."""
    metrics = Metrics("1.2.3")
    metrics.accepted(3)
    metrics.delivered("primary", 5)
    metrics.retry_scheduled()
    assert metrics.summary() == {
        "accepted": 3,
        "deduplicated": 0,
        "rejected": 0,
        "delivered": 1,
        "retries": 1,
        "dead": 0,
    }
    metrics.accepted(2)
    assert metrics.summary()["accepted"] == 2
    assert not any(metrics.summary().values())
