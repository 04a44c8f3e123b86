"""Filters of other services, moved by the recipes of docs/MOVING.md: they let through what they let through there.

What each decides of an event was found with the matching code of Convoy (August 2026) and Outpost (August 2026).
"""

import json
from pathlib import Path
from typing import Any

import pytest

from relay.core.filters import read
from relay.registry.facts import EventFacts
from tests.test_moving_recipes import convoy, lines_of, mapped, outpost, subscription

URL = "https://x.example/"
SUBSCRIPTIONS = ("--slurpfile", "subscriptions", "subscriptions.json")


def of_convoy(folder: Path, *subscriptions: dict[str, Any]) -> dict[str, Any]:
    (folder / "subscriptions.json").write_text(json.dumps(subscriptions))
    done = mapped(folder, "convoy.jq", json.dumps([convoy(URL)]), *SUBSCRIPTIONS)
    (endpoint,) = [line["endpoint"] for line in lines_of(done) if "endpoint" in line]
    return dict(endpoint)


def of_outpost(folder: Path, written: dict[str, Any]) -> dict[str, Any]:
    done = mapped(folder, "outpost.jq", json.dumps(outpost(URL, filter=written)), "-s")
    (endpoint,) = [line["endpoint"] for line in lines_of(done) if "endpoint" in line]
    return dict(endpoint)


def body(written: dict[str, Any]) -> dict[str, Any]:
    return subscription(filter={"headers": {}, "body": written})


def passes(endpoint: dict[str, Any], data: Any, event_type: str = "invoice.paid", metadata: Any = None) -> bool:
    kept = None if metadata is None else json.dumps(metadata).encode()
    return read(endpoint["filter"]).passes(EventFacts(event_type, json.dumps(data).encode(), kept))


@pytest.mark.parametrize(
    ("written", "let_through", "kept_back"),
    [
        ({"amount": 5}, [{"amount": 5}], [{"amount": 6}, {}, {"other": 5}]),
        ({"a": {"b": "x"}}, [{"a": {"b": "x"}}, {"a": {"b": ["y", "x"]}}], [{"a": {"b": "y"}}, {"a": "x"}]),
        ({"a.b": {"$gte": 5, "$lt": 9}}, [{"a": {"b": 5}}], [{"a": {"b": 9}}, {"a": {}}]),
        # What is missing is not asked, as long as something is there.
        ({"a": 1, "b": "x"}, [{"a": 1}, {"b": "x"}, {"a": 1, "b": "x"}], [{"a": 1, "b": "y"}, {}, {"c": 1}]),
        ({"a": {"$neq": 1}}, [{"a": 2}], [{"a": 1}, {}]),
        ({"a": {"$neq": 1}, "b": {"$nin": ["x"]}}, [{"a": 2}, {"b": "y"}], [{"a": 2, "b": "x"}, {}]),
        ({"a": {"$in": ["x", "y"]}}, [{"a": "y"}], [{"a": "z"}, {}]),
        ({"tags": {"$in": "new"}}, [{"tags": ["old", "new"]}], [{"tags": ["old"]}]),
        ({"tags": {"$nin": "new"}}, [{"tags": ["old"]}], [{"tags": ["old", "new"]}, {}]),
        ({"a": {"$exist": True}}, [{"a": None}, {"a": 0}], [{}]),
        ({"a": {"$exist": False}, "b": "x"}, [{"b": "x"}], [{"a": 1, "b": "x"}, {"b": "y"}, {}]),
        ({"items.$.sku": "A"}, [{"items": [{"sku": "B"}, {"sku": "A"}]}], [{"items": [{"sku": "B"}]}, {"items": []}]),
        ({"items.$": {"sku": "A"}}, [{"items": [{"sku": "A"}]}], [{"items": [{"sku": "B"}]}]),
        ({"items.0.sku": "A"}, [{"items": [{"sku": "A"}]}], [{"items": [{"sku": "B"}, {"sku": "A"}]}]),
        ({"items.$.n": {"$gt": 1}, "a": 1}, [{"items": [{"n": 2}]}, {"items": [{"n": 2}], "a": 1}], [{"a": 1}]),
        ({"$or": [{"a": 1}, {"b": {"c": "x"}}]}, [{"a": 1}, {"b": {"c": "x"}}], [{"a": 2}, {}]),
        ({"$and": [{"a": 1}, {"b": 2}], "c": 3}, [{"a": 1, "b": 2}], [{"a": 1}, {"a": 1, "b": 2, "c": 4}]),
        ({r"a\b": 1}, [{r"a\b": 1}], [{"ab": 1}]),
    ],
)
def test_filters_of_convoy(tmp_path: Path, written: Any, let_through: list[Any], kept_back: list[Any]) -> None:
    """Issue 9: each decides here as it does there."""
    endpoint = of_convoy(tmp_path, body(written))
    assert [data for data in let_through if not passes(endpoint, data)] == []
    assert [data for data in kept_back if passes(endpoint, data)] == []


@pytest.mark.parametrize(
    ("written", "let_through", "kept_back"),
    [
        ({"data": {"status": "paid"}}, [{"status": "paid"}, {"status": ["new", "paid"]}], [{"status": "x"}, {}]),
        ({"data": {"a": None}}, [{"a": None}], [{}, {"a": 0}]),
        ({"data": {"a": 1, "b": "x"}}, [{"a": 1, "b": "x"}], [{"a": 1}, {"b": "x"}]),
        ({"data": {"tags": ["a", "b"]}}, [{"tags": ["b", "c", "a"]}], [{"tags": ["a"]}]),
        ({"data": {"a": {"$gte": 100, "$lt": 500}}}, [{"a": 100}], [{"a": 500}, {"a": "200"}, {}]),
        ({"data": {"at": {"$gt": "2026-01"}}}, [{"at": "2026-02"}], [{"at": "2025"}, {"at": 3000}]),
        ({"data": {"a": {"$neq": 1}}}, [{"a": 2}, {"a": None}], [{"a": 1}, {}]),
        ({"data": {"a": {"$in": "bc"}}}, [{"a": "abcd"}], [{"a": "b"}, {}]),
        ({"data": {"a": {"$in": ["x", 1]}}}, [{"a": "x"}, {"a": 1}], [{"a": "1"}, {}]),
        ({"data": {"a": {"$nin": ["x"]}}}, [{"a": "y"}], [{"a": "x"}, {}]),
        ({"data": {"a": {"$nin": "bc"}}}, [{"a": "b"}], [{"a": "abcd"}, {}]),
        ({"data": {"n": {"$in": 2}}}, [{"n": [1, 2]}], [{"n": [1]}]),
        ({"data": {"a": {"$startsWith": ["x", "y"]}}}, [{"a": "yes"}], [{"a": "no"}, {}]),
        ({"data": {"a": {"$endsWith": "@example.com"}}}, [{"a": "b@example.com"}], [{"a": "b@example.org"}]),
        ({"data": {"a": {"$exist": False}}}, [{}], [{"a": None}]),
        ({"data": {"a": {"b": {"$exist": False}}}}, [{"a": {}}], [{}, {"a": None}, {"a": {"b": 1}}]),
        ({"data": {"a": {"$or": [1, {"$gt": 5}]}}}, [{"a": 1}, {"a": 6}], [{"a": 3}, {}]),
        ({"$or": [{"data": {"a": 1}}, {"topic": "invoice.paid"}]}, [{}, {"a": 1}], []),
        ({"$and": [{"data": {"a": 1}}, {"$not": {"data": {"b": 2}}}]}, [{"a": 1}], [{"a": 1, "b": 2}, {}]),
        ({"data": {"c": {"$not": {"b": 2}}}}, [{"c": {}}, {"c": {"b": 1}}], [{"c": {"b": 2}}, {}, {"c": None}]),
        ({"data": {"a.b": 1}}, [{"a.b": 1}], [{"a": {"b": 1}}]),
        ({"metadata": {"source": "api"}, "topic": {"$startsWith": "invoice."}}, [{}], []),
    ],
)
def test_filters_of_outpost(tmp_path: Path, written: Any, let_through: list[Any], kept_back: list[Any]) -> None:
    """Issue 9: each decides here as it does there."""
    endpoint = of_outpost(tmp_path, written)
    assert [data for data in let_through if not passes(endpoint, data, metadata={"source": "api"})] == []
    assert [data for data in kept_back if passes(endpoint, data, metadata={"source": "api"})] == []


@pytest.mark.parametrize(
    ("written", "word"),
    [
        ({"a": {"$regex": "x"}}, "$regex"),
        ({"a": {"$gt": "x"}}, "$gt"),
        ({"a": {"$or": [{"$gt": 5}]}}, "$or within a"),
        ({"a": {"$exist": False}}, "only for what is not there"),
        ({"items.$.sku": {"$neq": "A"}}, "$neq"),
        ({"tags": ["a", "b"]}, '["a","b"] at tags'),
        ({"a": None}, "null at a"),
        ({"a": {}}, "nothing of a"),
        ({"a.$": 1}, "ends with .$"),
        ({"items": {"$": {"sku": "A"}}}, "with $ "),
    ],
)
def test_what_convoy_means_otherwise_is_refused(tmp_path: Path, written: Any, word: str) -> None:
    """Issue 9: the endpoint and the reason are named."""
    (tmp_path / "subscriptions.json").write_text(json.dumps([body(written)]))
    done = mapped(tmp_path, "convoy.jq", json.dumps([convoy(URL)]), *SUBSCRIPTIONS)
    assert (done.returncode, word in done.stderr, convoy(URL)["uid"] in done.stderr) == (5, True, True), done.stderr


@pytest.mark.parametrize(
    ("written", "word"),
    [
        ({"time": {"$gte": "2026"}}, "the event's time"),
        ({"data": {"a": {"$not": {"$in": ["x"]}}}}, "$not of a value at data.a"),
        ({"data": {"a": {"$ref": "b"}}}, "$ref"),
        ({"data": {"a": {"$gt": 1, "b": 2}}}, "$gt beside other names at data.a"),
        ({"data": {"a": {}}}, "nothing of data.a"),
    ],
)
def test_what_outpost_means_otherwise_is_refused(tmp_path: Path, written: Any, word: str) -> None:
    """Issue 9: the destination and the reason are named."""
    done = mapped(tmp_path, "outpost.jq", json.dumps(outpost(URL, filter=written)), "-s")
    assert (done.returncode, word in done.stderr, "des_webhook_123" in done.stderr) == (5, True, True), done.stderr


def test_conditions_on_requests_are_refused(tmp_path: Path) -> None:
    """Headers, queries and paths of what was posted to Convoy are no part of an event here."""
    for scope in ("headers", "query", "path"):
        (tmp_path / "subscriptions.json").write_text(json.dumps([subscription(filter={scope: {"x": "y"}})]))
        done = mapped(tmp_path, "convoy.jq", json.dumps([convoy(URL)]), *SUBSCRIPTIONS)
        assert (done.returncode, "a filter of requests" in done.stderr) == (5, True), done.stderr


def test_filters_for_each_event_type(tmp_path: Path) -> None:
    """Those of a subscription's own call go before its configuration; one for a type goes before the one for all others."""
    filters = [
        {"event_type": "invoice.paid", "body": {"amount": {"$gt": 5}}, "enabled_at": "2026-01-01T00:00:00Z"},
        {"event_type": "invoice.void", "body": {}, "enabled_at": "2026-01-01T00:00:00Z"},
        {"event_type": "order.paid", "body": {"amount": 1}, "enabled_at": None},
        {"event_type": "*", "body": {"amount": {"$gt": 9}}, "enabled_at": "2026-01-01T00:00:00Z"},
    ]
    endpoint = of_convoy(tmp_path, subscription() | {"filters": filters})
    assert endpoint["event_types"] == ["*"]
    assert [passes(endpoint, {"amount": 7}, each) for each in ("invoice.paid", "invoice.void", "order.paid")] == [
        True,
        True,
        False,
    ]
    assert [passes(endpoint, {"amount": amount}, "order.paid") for amount in (1, 10)] == [False, True]


def test_subscriptions_come_together(tmp_path: Path) -> None:
    """Of several, each with its types, any lets an event through; without filters there is none."""
    other = subscription(event_types=["order.paid"])
    endpoint = of_convoy(tmp_path, body({"amount": 1}), other)
    assert endpoint["event_types"] == ["invoice.paid", "order.paid"]
    asked = [passes(endpoint, {"amount": 2}, each) for each in ("invoice.paid", "order.paid")]
    assert asked == [False, True]
    assert "filter" not in of_convoy(tmp_path, subscription(), other)


def test_several_things_of_one_element_are_told(tmp_path: Path) -> None:
    """A list's elements are asked one condition at a time here: the recipe says at which path that may matter."""
    written = {"data": {"items": {"sku": "A", "n": {"$gt": 1}}}}
    done = mapped(tmp_path, "outpost.jq", json.dumps(outpost(URL, filter=written)), "-s")
    assert done.returncode == 0
    assert "data.items" in done.stderr
