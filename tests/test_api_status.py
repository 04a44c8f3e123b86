"""The daemon's calls: health, readiness, status, metrics, reload."""

from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from relay.api.reloads import CHANGES_MAX, WARNINGS_MAX, Reload, Reloads
from relay.api.troubles import drift
from relay.core.issues import MISTAKES_MAX, Issue
from relay.core.model import Failure, Outcome
from relay.registry.vanished import Vanished
from tests.support.api import Api


async def test_healthz_answers_anybody(tmp_path: Path) -> None:
    """An answer at all means the loop is alive; no token is needed, GET or HEAD."""
    async with Api(tmp_path) as api:
        answer = await api.call("GET", "/healthz", by=None)
        head = await api.call("HEAD", "/healthz", by=None)
    assert (answer.status, answer.json) == (200, {"status": "ok"})
    assert (head.status, head.text) == (200, b"")


async def test_readyz_follows_intake(tmp_path: Path) -> None:
    """Ready is 200; a full disk or a stopping relay is 503 with its reasons; receivers never matter."""
    async with Api(tmp_path) as api:
        api.courier.script = [Outcome(0, 1, failure=Failure.CONNECT)]
        await api.delivery_of(await api.post_event(), "due", attempts=1)
        ready = await api.call("GET", "/readyz", by=None)
        api.relay.housekeeping.disk_low = True
        api.relay.stopping = True
        closed = await api.call("GET", "/readyz", by=None)
    assert (ready.status, ready.json) == (200, {"ready": True, "reasons": []})
    assert closed.status == 503
    assert [reason["code"] for reason in closed.json["reasons"]] == ["draining", "disk_low"]


async def test_status_tells_what_an_operator_asks_first(tmp_path: Path) -> None:
    """One call has version, uptime, readiness, the storage facts that were read back, and the counts."""
    async with Api(tmp_path) as api:
        api.courier.script = [Outcome(0, 1, status=503)]
        await api.delivery_of(await api.post_event(), "due", attempts=1)
        api.clock.advance(1_500)
        status = await api.get("/v1/status", by="auditor")
    assert status["uptime_s"] == 1.5
    assert status["config_path"] == str(tmp_path / "config.toml")
    assert (status["ready"], status["due"], status["in_flight"], status["dead"]) == (True, 1, 0, 0)
    assert status["headline"] == "1 of 1 endpoint is failing; 1 delivery waits."
    storage = status["storage"]
    assert (storage["journal_mode"], storage["synchronous"], storage["durability"]) == ("wal", "full", "full")
    assert storage["database_bytes"] + storage["wal_bytes"] > 0
    (line,) = status["worst"]
    assert (line["id"], line["health"]["failures"], line["health"]["last_failure"]) == ("primary", 1, "503")
    assert status["endpoints"] == status["worst"]
    assert [warning.split()[0] for warning in status["warnings"]] == ["delivery.allow_http", "delivery.allow_networks"]


async def test_status_says_when_the_trouble_is_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """When most active endpoints fail at DNS or connect, the headline says that it is us (Q9)."""
    async with Api(tmp_path) as api:
        monkeypatch.setattr(api.dispatch.standing, "local_trouble", lambda: True)
        status = await api.get("/v1/status")
    assert status["local_trouble"] is True
    assert status["headline"].startswith("It is us, not them: ")


@pytest.mark.parametrize("path", ["/v1/status", "/metrics"])
@pytest.mark.parametrize(
    ("who", "status"),
    [("root", 200), ("auditor", 200), ("acme-app", 403), ("acme-producer", 403), (None, 401)],
)
async def test_the_whole_daemon_is_for_readers_and_admins(
    tmp_path: Path, path: str, who: str | None, status: int
) -> None:
    """Status and metrics speak of every application, so tokens that are bound to one do not see them."""
    async with Api(tmp_path) as api:
        assert (await api.call("GET", path, by=who)).status == status


async def test_metrics_come_from_counters(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A scrape shows what was counted and reads not one row of the database (invariant 8)."""
    async with Api(tmp_path) as api:
        api.courier.script = [Outcome(0, 20, status=410)]
        await api.delivery_of(await api.post_event(), "dead")

        def refuse(*arguments: Any, **named: Any) -> None:
            raise AssertionError("a scrape must not read the database")

        for name in ("list_events", "list_deliveries", "dead_groups", "find_event", "audit_due"):
            monkeypatch.setattr(api.store, name, refuse)
        answer = await api.call("GET", "/metrics")
    found = {
        (sample.name, *sample.labels.values()): sample.value
        for family in text_string_to_metric_families(answer.text.decode())
        for sample in family.samples
    }
    assert answer.headers["Content-Type"].startswith("text/plain")
    assert found["relay_attempts_total", "primary", "4xx"] == 1
    assert found["relay_deliveries", "dead"] == 1
    assert found["relay_endpoint_state", "primary", "disabled"] == 1
    assert found["relay_lane_audit_repairs_total",] == 0


async def test_metrics_speak_openmetrics_when_asked(tmp_path: Path) -> None:
    """The Accept header of a scraper decides the form."""
    async with Api(tmp_path) as api:
        answer = await api.call("GET", "/metrics", headers={"Accept": "application/openmetrics-text; version=1.0.0"})
    assert answer.headers["Content-Type"].startswith("application/openmetrics-text")
    assert answer.text.endswith(b"# EOF\n")


def answer_reloads(monkeypatch: pytest.MonkeyPatch, api: Api, answer: Reload) -> None:
    """Let a reload come to this."""

    async def reload() -> Reload:
        return answer

    monkeypatch.setattr(api.relay, "reload", reload)


async def test_a_reload_takes_no_fields(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """I21: what a reload would ignore is refused, and nothing is reloaded."""
    async with Api(tmp_path) as api:
        answer_reloads(monkeypatch, api, Reload(False))
        answer = await api.call("POST", "/v1/reload", {"config": "/etc/other.toml"})
    assert (answer.status, answer.json["errors"][0]["pointer"]) == (422, "/config")


async def test_a_reload_says_what_it_did(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A reload that was taken over names what changed, what needs a restart, and its warnings."""
    warning = Issue("server.listen", "is ignored", "Remove it.", "config.toml:3", warning=True)
    async with Api(tmp_path) as api:
        answer_reloads(monkeypatch, api, Reload(True, ("delivery.timeout",), ("server.listen",), (warning,)))
        answer = await api.call("POST", "/v1/reload")
    assert answer.status == 200
    assert answer.json == {
        "reloaded": True,
        "changed": ["delivery.timeout"],
        "needs_restart": ["server.listen"],
        "warnings": [
            {
                "severity": "warning",
                "where": "config.toml:3",
                "key": "server.listen",
                "message": "is ignored",
                "remedy": "Remove it.",
            }
        ],
    }


async def test_what_a_reload_says_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """I7: of 5,000 changed keys, warnings and vanished endpoints some are named and the rest counted."""
    warnings = tuple(Issue(f"key{number}", "is odd", warning=True) for number in range(5_000))
    gone = [Vanished("endpoint", f"ep{number}", "acme", 0, None) for number in range(5_000)]
    async with Api(tmp_path) as api:
        changed = tuple(issue.path for issue in warnings)
        answer_reloads(monkeypatch, api, Reload(True, changed, (), warnings))
        answer = await api.call("POST", "/v1/reload")
    assert (len(answer.json["changed"]), answer.json["changed_omitted"]) == (CHANGES_MAX, 5_000 - CHANGES_MAX)
    assert (len(answer.json["warnings"]), answer.json["warnings_omitted"]) == (WARNINGS_MAX, 5_000 - WARNINGS_MAX)
    said = list(drift(Reloads(), gone))
    assert len(said) == MISTAKES_MAX + 1
    assert said[-1] == "4980 more are no longer in the configuration file; nothing waits there."


def test_a_refusal_in_the_status_is_bounded() -> None:
    """I7: the status names 20 reasons why a reload was refused and counts the others; of 20 it counts none."""
    wrong = tuple(Issue(f"key{number}", "is wrong") for number in range(12_000))
    many = Reloads().after(Reload(False, issues=wrong), 0).to_json()
    few = Reloads().after(Reload(False, issues=wrong[:MISTAKES_MAX]), 0).to_json()
    assert (len(many["refused"]), many["refused_omitted"]) == (MISTAKES_MAX, 12_000 - MISTAKES_MAX)
    assert len(few["refused"]) == MISTAKES_MAX
    assert "refused_omitted" not in few


async def test_a_refused_reload_names_every_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A configuration with errors changes nothing, and the answer says each with its place in the file."""
    errors = tuple(
        Issue("delivery.timeout", "not a duration", 'Write "15s".', f"config.toml:{line}", '"x"') for line in (3, 9)
    )
    async with Api(tmp_path) as api:
        answer_reloads(monkeypatch, api, Reload(applied=False, issues=errors))
        answer = await api.call("POST", "/v1/reload")
    assert (answer.status, answer.json["type"]) == (422, "invalid_config")
    assert [error["message"] for error in answer.json["errors"]] == [
        'config.toml:3: delivery.timeout: not a duration. Write "15s".',
        'config.toml:9: delivery.timeout: not a duration. Write "15s".',
    ]


@pytest.mark.parametrize("who", ["auditor", "acme-app", "acme-producer"])
async def test_only_an_admin_reloads(tmp_path: Path, who: str) -> None:
    """Reload changes the whole daemon: 403 for every other role."""
    async with Api(tmp_path) as api:
        assert (await api.call("POST", "/v1/reload", by=who)).status == 403


async def test_status_says_how_long_the_oldest_has_been_due(tmp_path: Path) -> None:
    """What could not start yet shows its age: here behind a `Retry-After`, past its own due time."""
    async with Api(tmp_path) as api:
        api.courier.script = [Outcome(0, 1, status=429, retry_after_ms=3_600_000)]
        await api.delivery_of(await api.post_event(), "due", attempts=1)
        api.clock.advance(3_000_000)
        status = await api.get("/v1/status", by="auditor")
        text = await api.call("GET", "/metrics", by="auditor")
    assert 2_900 < status["oldest_due_s"] < 3_000
    assert b"relay_oldest_due_seconds 29" in text.text
