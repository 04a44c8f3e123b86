"""I17: which endpoints have metrics of their own."""

import re
from pathlib import Path

import pytest

from relay.core.model import Outcome
from relay.telemetry.labels import IDLE_TURNS, OTHER, EndpointLabels
from relay.telemetry.metrics import Metrics
from tests.support.api import Api
from tests.test_metrics import readings, samples


class Labels:
    """Labels for three endpoints, with the endpoints that there are."""

    def __init__(self, **owners: str) -> None:
        self.owners = dict(owners)
        self.taken: list[str] = []
        self.of = EndpointLabels(self.owners.get, self.taken.append, 3)

    def count(self, *endpoints: str) -> list[str]:
        return [self.of.counted(endpoint) for endpoint in endpoints]


def test_the_first_keep_what_they_have() -> None:
    """Within one application labels do not move between endpoints that are at work; the rest is `other`."""
    labels = Labels(a="x", b="x", c="x", d="x")
    for _ in range(5):
        assert labels.count("a", "b", "c", "d") == ["a", "b", "c", OTHER]
        labels.of.end_turn()
    assert labels.taken == []


@pytest.mark.parametrize("asked", [False, True])
def test_a_deleted_endpoint_gives_its_label_back(*, asked: bool) -> None:
    """I17: to the next that needs it, at once or after the next reading; what is counted for it later takes none."""
    labels = Labels(a="x", b="x", c="x", d="x")
    labels.count("a", "b", "c")
    del labels.owners["b"]
    if asked:
        labels.of.end_turn()
        assert labels.count("b") == [OTHER]
    assert labels.count("d", "b", "a", "c") == ["d", OTHER, "a", "c"]
    assert labels.taken == ["b"]


def test_a_newcomer_of_another_tenant_gets_its_share() -> None:
    """I17: one tenant's endpoints hold every label; another's newcomers get theirs, up to as many as the first has."""
    labels = Labels(a="x", b="x", c="x", d="y", e="y", f="z")
    labels.count("a", "b", "c")
    labels.of.end_turn()
    labels.count("b", "c")  # `a` is the one that was at work longest ago
    assert labels.count("d", "e") == ["d", OTHER]
    assert labels.taken == ["a"]
    assert labels.count("a", "f") == [OTHER, "f"]
    assert labels.taken == ["a", "b"]
    for _ in range(3):  # each has one, and it stays so
        labels.of.end_turn()
        assert labels.count("a", "b", "e", "c", "d", "f") == [OTHER, OTHER, OTHER, "c", "d", "f"]


def test_an_idle_endpoint_gives_way() -> None:
    """I17: one that nothing was counted for over many readings gives its label to one that is at work, of any tenant."""
    labels = Labels(a="x", b="x", c="x", d="x")
    labels.count("a", "b", "c")
    for _ in range(IDLE_TURNS):
        assert labels.count("a", "c", "d") == ["a", "c", OTHER]
        labels.of.end_turn()
    assert labels.count("d") == ["d"]
    assert labels.taken == ["b"]


def test_states_take_only_what_is_left() -> None:
    """I17: showing the state of every endpoint takes no label from one that is at work."""
    labels = Labels(a="x", b="y", c="z", d="w")
    labels.count("a", "b")
    assert [labels.of.shown(endpoint) for endpoint in "cdab"] == ["c", OTHER, "a", "b"]


def test_the_series_of_a_deleted_endpoint_end_and_the_sums_stay() -> None:
    """I17: neither `other` jumps nor does the summary forget what was delivered."""
    owners = {"a": "x", "b": "x"}
    metrics = Metrics("1", owner=owners.get, endpoints_max=1)
    for endpoint in ("a", "b"):
        metrics.attempt(endpoint, Outcome(0, 1, status=204))
        metrics.delivered(endpoint, 5)
    assert metrics.summary()["delivered"] == 2
    del owners["a"]
    metrics.exposition(readings(), "")
    metrics.delivered("b", 5)
    text = metrics.exposition(readings(), "")[0].decode()
    assert set(re.findall(r'endpoint="(\w+)"', text)) == {OTHER, "b"}
    assert 'relay_deliveries_finished_total{endpoint="other",outcome="delivered"} 1.0' in text
    assert metrics.summary()["delivered"] == 1


async def test_through_a_relay(tmp_path: Path) -> None:
    """I17: an endpoint that was deleted through the API is gone from the metrics at the next reading."""
    async with Api(tmp_path) as api:
        body = {"url": "https://acme.example/", "application": "acme"}
        made = (await api.call("POST", "/v1/webhook-endpoints", body)).json["id"]
        await api.post_event()
        await api.quiet()
        assert made in (await api.call("GET", "/metrics")).text.decode()
        await api.call("DELETE", f"/v1/webhook-endpoints/{made}")
        text = (await api.call("GET", "/metrics")).text.decode()
    assert made not in text
    assert 'endpoint="primary"' in text


def test_applications_beyond_the_labels_are_counted_as_others() -> None:
    """I8: the metrics of applications have a bound too, and a deleted application gives its label back."""
    there = {"a", "b"}
    metrics = Metrics("1", exists=there.__contains__, applications_max=1)
    metrics.crowded_out("a")
    metrics.crowded_out("b")
    owed = {"a": (1, 10), "b": (2, 20), "c": (3, 30)}
    found = samples(metrics, readings(applications=owed))
    assert found["relay_application_events_refused_total", "a"] == 1
    assert found["relay_application_events_refused_total", "other"] == 1
    assert (found["relay_application_due", "a"], found["relay_application_due_bytes", "other"]) == (1, 50)
    there.remove("a")
    metrics.crowded_out("b")
    assert ("relay_application_due", "a") not in samples(metrics, readings(applications={"b": (1, 1)}))
