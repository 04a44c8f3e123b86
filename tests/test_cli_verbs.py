"""What each verb asks of the daemon, and what it prints."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from relay.cli import main
from relay.cli.output import Exit
from tests.support.api_stub import ApiStub

ENDPOINTS = "/v1/webhook-endpoints"

DELIVERY: dict[str, Any] = {
    "id": "dlv_1",
    "event_id": "evt_1",
    "event_type": "order.paid",
    "application": "acme",
    "endpoint": "primary",
    "state": "dead",
    "reason": "exhausted",
    "cancelled_by": None,
    "due_at": None,
    "attempts": 3,
    "series": 1,
    "created_at": "2026-11-22T08:00:00.000Z",
    "finished_at": "2026-11-22T09:00:00.000Z",
    "expires_at": None,
    "held": False,
}
ATTEMPT = {
    "number": 1,
    "started_at": "2026-11-22T08:00:00.500Z",
    "trigger": "scheduled",
    "status": None,
    "failure": "timeout",
    "duration_ms": 15_000,
    "detail": "no answer",
}
EVENT: dict[str, Any] = {
    "id": "evt_1",
    "type": "order.paid",
    "application": "acme",
    "created_at": "2026-11-22T08:00:00.000Z",
    "deliver_at": None,
    "expires_at": None,
    "reason": None,
    "reason_detail": None,
    "payload_bytes": 42,
    "deliveries": {"delivered": 1, "dead": 1, "due": 0},
}
ENDPOINT: dict[str, Any] = {
    "id": "ep_1",
    "application": "acme",
    "origin": "api",
    "url": "https://example.com/hooks",
    "event_types": ["order.*"],
    "description": "",
    "headers": {"x-env": "test"},
    "contract": "standard",
    "concurrency": 16,
    "rate_limit": None,
    "timeout": "15s",
    "retry": {"schedule": ["5s", "5m"], "jitter": 0.2},
    "max_age": "5d",
    "secrets": 1,
    "state": "enabled",
    "disabled_by": None,
    "refusing": None,
    "verified": {"at": "2026-11-22T08:00:00.000Z", "method": "ping", "origin": None, "allowed_rate": None},
    "unverified": None,
    "due": 2,
    "oldest_due_s": 61.0,
    "dead": 1,
    "waits_for": None,
    "health": {"failures": 0, "last_failure": None, "cool_down_until": None, "last_answer": None},
}
STATUS: dict[str, Any] = {
    "headline": "1 of 1 endpoint is failing; 2 deliveries wait.",
    "version": "0.1.0",
    "uptime_s": 61.4,
    "config_path": None,
    "ready": True,
    "reasons": [],
    "troubles": [],
    "local_trouble": False,
    "suspended": [],
    "refusing": [],
    "unverified": [],
    "warnings": ["delivery.allow_http is set."],
    "due": 2,
    "oldest_due_s": 61.0,
    "in_flight": 0,
    "dead": 1,
    "replays": {"unfinished": 1, "left": 4},
    "storage": {
        "path": "/var/lib/relay/relay.db",
        "sqlite_version": "3.40.1",
        "journal_mode": "wal",
        "durability": "full",
        "database_bytes": 4096,
        "wal_bytes": 0,
        "disk_free_bytes": 50 << 30,
    },
    "endpoints_total": 1,
    "endpoint_states": {"enabled": 1, "paused": 0, "disabled": 0, "refusing": 0},
    "worst": [
        ENDPOINT
        | {
            "blocked": False,
            "waits_for": "cools down",
            "suspended": None,
            "health": {"failures": 11, "last_failure": "503"},
        }
    ],
    "endpoints": [],
}


@pytest.fixture
def api(monkeypatch: pytest.MonkeyPatch) -> Iterator[ApiStub]:
    stub = ApiStub()
    monkeypatch.setenv("RELAY_URL", stub.url)
    monkeypatch.delenv("RELAY_SOCKET", raising=False)
    yield stub
    stub.close()


def run(*words: str, stdin: str | bytes | None = None) -> Result:
    return CliRunner().invoke(main, list(words), input=stdin, catch_exceptions=False)


def dead_page(*ids: str, following: str | None = None) -> dict[str, Any]:
    return {"data": [DELIVERY | {"id": one} for one in ids], "next": following}


# -- send ---------------------------------------------------------------------------------------------------------------


def test_send_keeps_the_spelling_of_the_payload(api: ApiStub) -> None:
    """The payload reaches the daemon byte for byte as typed; the other members stand beside it."""
    api.answer("POST", "/v1/events", {"id": "evt_1", "deliveries": 1, "duplicate": False}, 202)
    result = run("send", "order.paid", '{"n":  1e5, "ü":"é"}', "--key", "k", "--application", "acme", "--id", "mine")
    assert result.exit_code == Exit.FINE
    assert result.stdout == "evt_1 accepted: 1 delivery.\n"
    body = api.asked[0].body
    assert '"data": {"n":  1e5, "ü":"é"}'.encode() in body
    assert json.loads(body) == {
        "type": "order.paid",
        "idempotency_key": "k",
        "application": "acme",
        "id": "mine",
        "data": {"n": 1e5, "ü": "é"},
    }


def test_send_reads_files_and_standard_input(api: ApiStub, tmp_path: Path) -> None:
    """DATA may be @FILE or `-`; without it the payload is an empty object."""
    api.answer("POST", "/v1/events", {"id": "evt_1", "deliveries": 1, "duplicate": False}, 202)
    (tmp_path / "data.json").write_text('{"from": "file"}')
    run("send", "a", f"@{tmp_path / 'data.json'}")
    run("send", "a", "-", stdin='{"from": "stdin"}')
    run("send", "a")
    assert [asked.json["data"] for asked in api.asked] == [{"from": "file"}, {"from": "stdin"}, {}]


@pytest.mark.parametrize("data", ["{n: 1}", "@/nonexistent", ""])
def test_send_refuses_what_is_no_json(api: ApiStub, data: str) -> None:
    """A payload that is not JSON, or a file that cannot be read, exits 65 before anything is sent."""
    result = run("send", "a", data)
    assert result.exit_code == Exit.BAD_INPUT
    assert api.asked == []


def test_send_refuses_binary_standard_input(api: ApiStub) -> None:
    """Standard input that is not UTF-8 exits 65 without a traceback."""
    assert run("send", "a", "-", stdin=b'"\xff"').exit_code == Exit.BAD_INPUT


def test_send_says_when_it_was_a_repeat(api: ApiStub) -> None:
    """A repeat is a success, and said to be one (Q8); --json prints the daemon's answer alone."""
    answer = {"id": "evt_1", "deliveries": 1, "duplicate": True}
    api.answer("POST", "/v1/events", answer, 200)
    assert run("send", "a", "--key", "k").stdout == "evt_1 was accepted before; nothing was sent again.\n"
    assert json.loads(run("send", "a", "--key", "k", "--json").stdout) == answer


# -- status -------------------------------------------------------------------------------------------------------------


def test_status_is_one_screen(api: ApiStub) -> None:
    """The headline comes first, then facts, the worst endpoints and warnings; failing receivers leave the exit at 0."""
    api.answer("GET", "/v1/status", STATUS)
    result = run("status")
    assert result.exit_code == Exit.FINE
    lines = result.stdout.splitlines()
    assert lines[0] == STATUS["headline"]
    assert "0.1.0, up 1m1s" in result.stdout
    assert "11 failures, last: 503  cools down" in result.stdout
    assert lines[-1] == "warning: delivery.allow_http is set."


def test_status_exits_1_when_somebody_has_to_act(api: ApiStub) -> None:
    """Closed intake, trouble on this host, a mistake of relay's own (H1) or a refusing receiver (T1) exits 1, in JSON too."""
    troubles = [{"code": "local_trouble", "detail": "It is us."}, {"code": "refusing", "detail": "It is them, too."}]
    now = STATUS | {"headline": "It is us.", "troubles": troubles}
    api.answer("GET", "/v1/status", now)
    result = run("status")
    assert result.exit_code == Exit.FAILED
    assert "also: It is them, too." in result.stdout
    result = run("status", "--json")
    assert result.exit_code == Exit.FAILED
    assert json.loads(result.stdout) == now


# -- events and deliveries ----------------------------------------------------------------------------------------------


def test_events_list_passes_filters_and_names_the_next_page(api: ApiStub) -> None:
    """Filters go to the daemon; the next cursor is a message, not data."""
    api.answer("GET", "/v1/events?application=acme&type=order.paid&since=2h&limit=1", {"data": [EVENT], "next": "c2"})
    words = ("events", "list", "--application", "acme", "--type", "order.paid", "--since", "2h", "--limit", "1")
    result = run(*words)
    assert "evt_1  2026-11-22 08:00:00Z  order.paid  acme         1 delivered, 1 dead" in result.stdout
    assert "--cursor c2" in result.stderr
    assert json.loads(run(*words, "--json").stdout)["next"] == "c2"


def test_events_show(api: ApiStub) -> None:
    """An event is shown with its deliveries; --json holds both."""
    api.answer("GET", "/v1/events/evt_1", EVENT)
    api.answer("GET", "/v1/events/evt_1/deliveries", {"data": [DELIVERY], "next": None})
    result = run("events", "show", "evt_1")
    assert "dlv_1     dead (exhausted)" in result.stdout
    assert "42 bytes" in result.stdout
    assert json.loads(run("events", "show", "evt_1", "--json").stdout)["delivery_list"] == [DELIVERY]


def test_an_event_without_deliveries_says_why(api: ApiStub) -> None:
    """An event that went nowhere says why (invariant 7)."""
    lonely = EVENT | {"deliveries": {}, "reason": "no_match", "reason_detail": "no endpoint takes order.paid"}
    api.answer("GET", "/v1/events/evt_1", lonely)
    api.answer("GET", "/v1/events/evt_1/deliveries", {"data": [], "next": None})
    assert "none: no endpoint takes order.paid" in run("events", "show", "evt_1").stdout


def test_deliveries_list(api: ApiStub) -> None:
    """The shared filters select deliveries; an empty list says so."""
    query = "state=due&application=a&endpoint=e&reason=gone&type=t&since=2h&until=1h&limit=50&cursor=c"
    api.answer("GET", f"/v1/deliveries?{query}", {"data": [], "next": None})
    options = "--state due --application a --endpoint e --reason gone --type t --since 2h --until 1h --cursor c"
    result = run("deliveries", "list", *options.split())
    assert (result.exit_code, result.stdout) == (Exit.FINE, "none\n")


def test_deliveries_show_tells_the_whole_story(api: ApiStub) -> None:
    """A delivery is shown with each attempt and what the next one waits for."""
    wait = {"at": "2026-11-22T08:05:00.000Z", "why": "scheduled", "detail": "its next attempt is not due yet"}
    shown = DELIVERY | {"state": "due", "reason": None, "held": True, "next_attempt": wait, "timeline": [ATTEMPT]}
    api.answer("GET", "/v1/deliveries/dlv_1", shown)
    result = run("deliveries", "show", "dlv_1")
    assert "due (held)" in result.stdout
    assert "its next attempt is not due yet (2026-11-22 08:05:00Z)" in result.stdout
    assert "timeout  15000 ms  –         –     no answer" in result.stdout


def test_deliveries_show_says_how_an_attempt_went(api: ApiStub) -> None:
    """Issue 8: the parts that took their time, the address, TLS, and whether the connection was reused."""
    trace = {"dns_ms": 0.4, "connect_ms": 2, "tls_ms": 13, "first_byte_ms": 40, "tls_version": "TLSv1.3"}
    kept = dict.fromkeys(trace) | {"first_byte_ms": 0.25}
    new = ATTEMPT | {"address": "192.0.2.7", "trace": trace | {"reused": False, "repeated": True}}
    reused = ATTEMPT | {"address": "192.0.2.7", "trace": kept | {"reused": True, "repeated": False}}
    shown = DELIVERY | {"state": "dead", "held": False, "next_attempt": None, "timeline": [new, reused]}
    api.answer("GET", "/v1/deliveries/dlv_1", shown)
    stdout = run("deliveries", "show", "dlv_1").stdout
    assert "DNS 0.4, connect 2, TLS 13, first byte 40  192.0.2.7, TLSv1.3, repeated on a new one  no answer" in stdout
    assert "first byte 0.25                            192.0.2.7, reused                          no answer" in stdout


def test_retries_go_one_by_one(api: ApiStub) -> None:
    """Several ids are done one by one; a refusal of one is told, exits with its code, and stops none of the others."""
    api.answer("POST", "/v1/deliveries/dlv_1/retry", DELIVERY | {"state": "due"}, 202)
    result = run("deliveries", "retry", "dlv_0", "dlv_1")
    assert result.exit_code == Exit.FAILED
    assert result.stdout == "dlv_1: due\n"
    assert result.stderr.startswith("dlv_0: There is no such thing")
    result = run("deliveries", "retry", "dlv_1", "--json")
    assert [one["state"] for one in json.loads(result.stdout)] == ["due"]


# -- dead letters -------------------------------------------------------------------------------------------------------


def test_dead_list_groups(api: ApiStub) -> None:
    """Dead letters are listed by endpoint and reason, with what to do next."""
    group = {"endpoint": "primary", "application": "acme", "reason": "exhausted", "count": 7, "note": "a ticket"}
    times = {"oldest_at": "2026-11-22T08:00:00.000Z", "newest_at": "2026-11-22T09:00:00.000Z"}
    api.answer("GET", "/v1/dead-letters", {"data": [group | times], "next": None})
    result = run("dead", "list")
    assert "primary   exhausted  7" in result.stdout
    assert "relay dead replay" in result.stderr


def test_dead_show_takes_an_endpoint_or_a_delivery(api: ApiStub) -> None:
    """An endpoint's name lists its dead letters; a delivery's id shows that one."""
    api.answer("GET", "/v1/deliveries?state=dead&endpoint=primary&reason=gone&limit=50", dead_page("dlv_7"))
    api.answer("GET", "/v1/deliveries/dlv_1", DELIVERY | {"next_attempt": None, "timeline": []})
    assert "dlv_7" in run("dead", "show", "primary", "--reason", "gone").stdout
    assert "no attempt yet" in run("dead", "show", "dlv_1").stdout


REPLAY: dict[str, Any] = {
    "id": "rpl_1",
    "mode": "failed",
    "state": "running",
    "application": None,
    "filters": dict.fromkeys(("endpoint", "type", "state", "reason", "since", "until")),
    "rate": "50/s",
    "force": False,
    "created_by": "root",
    "created_at": "2026-11-22T08:00:00.000Z",
    "finished_at": None,
    "cancelled_by": None,
    "selected": 7,
    "cut": False,
    "replayed": 3,
    "skipped": {},
    "left": 4,
    "waits_for": "endpoint primary",
}
FINISHED = {"state": "finished", "replayed": 6, "skipped": {"expired": 1}, "left": 0, "waits_for": None}
DONE: dict[str, Any] = REPLAY | FINISHED | {"finished_at": "2026-11-22T08:01:00.000Z"}
FOUND: dict[str, Any] = {
    "dry_run": True,
    "mode": "failed",
    "count": 7,
    "complete": True,
    "skipped": {},
    "sample": [
        {
            "delivery": "dlv_1",
            "event_id": "evt_1",
            "event_type": "order.paid",
            "endpoint": "primary",
            "created_at": "2026-11-22T08:00:00.000Z",
        }
    ],
}
REPLAYS = "/v1/replays"


def test_replay_counts_and_asks_first(api: ApiStub) -> None:
    """Without a terminal and without --yes nothing is sent again: count and sample are shown and --yes named; exit 2."""
    api.answer("POST", REPLAYS, FOUND)
    result = run("dead", "replay", "--endpoint", "primary")
    assert result.exit_code == Exit.USAGE
    assert "7 deliveries would be sent again. Say --yes" in result.stderr
    assert "evt_1" in result.stderr
    assert [asked.json for asked in api.asked] == [{"mode": "failed", "endpoint": "primary", "dry_run": True}]


def test_replay_dry_run_changes_nothing(api: ApiStub) -> None:
    """--dry-run shows count and sample; where more was there to be looked at, it says so."""
    api.answer("POST", REPLAYS, FOUND)
    api.answer("POST", REPLAYS, FOUND | {"complete": False})
    result = run("replay", "create", "--reason", "exhausted", "--since", "2h", "--dry-run")
    assert (result.exit_code, result.stdout.splitlines()[-1]) == (Exit.FINE, "7 deliveries selected, none sent.")
    assert "perhaps more" in run("replay", "create", "--all", "--dry-run").stdout
    assert [asked.json for asked in api.asked] == [
        {"mode": "failed", "reason": "exhausted", "since": "2h", "dry_run": True},
        {"mode": "failed", "dry_run": True},
    ]


def test_replay_follows_the_job(api: ApiStub, monkeypatch: pytest.MonkeyPatch) -> None:
    """With --yes the job is made and followed to its end; how it goes is said on stderr, what it came to on stdout."""
    monkeypatch.setattr("relay.cli.replay.LOOK_EVERY_S", 0)
    api.answer("POST", REPLAYS, REPLAY, 201)
    api.answer("GET", f"{REPLAYS}/rpl_1", REPLAY)
    api.answer("GET", f"{REPLAYS}/rpl_1", DONE)
    result = run("replay", "create", "--mode", "all", "--type", "a.b", "--yes", "--rate", "100/s", "--force")
    assert result.stdout == "rpl_1 finished: 7 selected, 6 sent again, 1 left out.\n"
    assert "7 selected, 3 sent again, 4 left (waits for endpoint primary)" in result.stderr
    assert api.asked[0].json == {"mode": "all", "type": "a.b", "rate": "100/s", "force": True}


def test_replay_may_be_left_alone(api: ApiStub) -> None:
    """--detach returns at once and says where to look; --json prints the job."""
    api.answer("POST", REPLAYS, REPLAY, 201)
    result = run("replay", "create", "--all", "--yes", "--detach")
    assert "relay replay show rpl_1" in result.stderr
    assert json.loads(run("dead", "replay", "--all", "--yes", "--detach", "--json").stdout) == REPLAY
    assert [asked.method for asked in api.asked] == ["POST", "POST"]


def test_a_replay_that_is_cancelled_exits_1(api: ApiStub) -> None:
    """If somebody cancels the job meanwhile, the command that follows it fails."""
    api.answer("POST", REPLAYS, REPLAY, 201)
    api.answer("GET", f"{REPLAYS}/rpl_1", DONE | {"state": "cancelled", "cancelled_by": "on-call"})
    result = run("dead", "replay", "--all", "--yes")
    assert (result.exit_code, result.stdout.split()[1]) == (Exit.FAILED, "cancelled:")


def test_ctrl_c_leaves_the_job_running(api: ApiStub, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C ends the command, exits 1, and says how to look at the job and how to cancel it."""

    def interrupted(seconds: float) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("relay.cli.replay.time.sleep", interrupted)
    api.answer("POST", REPLAYS, REPLAY, 201)
    result = run("replay", "create", "--all", "--yes")
    assert result.exit_code == Exit.FAILED
    assert "relay replay cancel rpl_1" in result.stderr
    assert [asked.method for asked in api.asked] == ["POST"]


def test_ids_come_from_arguments_and_stdin(api: ApiStub) -> None:
    """Ids may be given, and - reads the first word of each line of stdin; each counts once."""
    api.answer("POST", REPLAYS, DONE, 201)
    lines = "dlv_2  dead (gone)\n\nevt_3\ndlv_1\n"
    result = CliRunner().invoke(main, ["dead", "replay", "dlv_1", "-", "--yes"], input=lines, catch_exceptions=False)
    assert result.exit_code == Exit.FINE
    assert api.asked[0].json == {"mode": "failed", "ids": ["dlv_1", "dlv_2", "evt_3"]}
    empty = CliRunner().invoke(main, ["dead", "replay", "-", "--yes"], input="\n", catch_exceptions=False)
    assert (empty.exit_code, empty.stderr) == (Exit.USAGE, "There is no id on standard input.\n")


def test_nothing_to_replay_is_no_question(api: ApiStub) -> None:
    """Where nothing is selected nothing is asked and nothing made; exit 0."""
    api.answer("POST", REPLAYS, FOUND | {"count": 0, "sample": []})
    result = run("dead", "replay", "--all")
    assert (result.exit_code, result.stdout) == (Exit.FINE, "0 deliveries selected, none sent.\n")


def test_a_replay_that_is_refused_ends_the_command(api: ApiStub) -> None:
    """Without the right to operate the command ends with 77."""
    api.problem("POST", REPLAYS, 403, "The token does not allow this")
    assert run("dead", "replay", "--all", "--yes").exit_code == Exit.NO_PERMISSION


@pytest.mark.parametrize("words", [[], ["--all", "--endpoint", "e"], ["dlv_1", "--all"], ["dlv_1", "--reason", "gone"]])
def test_replay_wants_exactly_one_selection(api: ApiStub, words: list[str]) -> None:
    """Nothing selected, or two selections at once, is wrong use; nothing is asked of the daemon."""
    assert run("dead", "replay", *words).exit_code == run("replay", "create", *words).exit_code == Exit.USAGE
    assert api.asked == []


def test_replays_are_listed_shown_and_cancelled(api: ApiStub) -> None:
    """`relay replay list`, `show` and `cancel` say how far each came."""
    api.answer("GET", f"{REPLAYS}?limit=50&application=acme", {"data": [REPLAY], "next": None})
    api.answer("GET", f"{REPLAYS}/rpl_1", DONE)
    api.answer("POST", f"{REPLAYS}/rpl_1/cancel", DONE | {"state": "cancelled"})
    assert "rpl_1   running  failed" in run("replay", "list", "--application", "acme").stdout
    shown = run("replay", "show", "rpl_1").stdout
    assert "left out     1 expired" in shown
    assert "sent again   6" in shown
    assert run("replay", "cancel", "rpl_1").stdout == "rpl_1 cancelled: 7 selected, 6 sent again, 1 left out.\n"


# -- endpoints ----------------------------------------------------------------------------------------------------------


def test_endpoint_add(api: ApiStub) -> None:
    """Every setting has an option; the secret goes to stdout once."""
    api.answer("POST", ENDPOINTS, ENDPOINT | {"secret": "whsec_x"}, 201)
    settings = "--type a.* --type b --header x-env=test --concurrency 4 --rate-limit 50/s --timeout 5s --max-age 1d"
    result = run("endpoint", "add", "https://example.com", *settings.split(), "--retry", "5s, 5m", "--jitter", "0")
    assert result.stdout == "ep_1 added.\nsecret: whsec_x\n"
    assert api.asked[0].json == {
        "url": "https://example.com",
        "event_types": ["a.*", "b"],
        "headers": {"x-env": "test"},
        "retry": {"schedule": ["5s", "5m"], "jitter": 0.0},
        "concurrency": 4,
        "rate_limit": "50/s",
        "timeout": "5s",
        "max_age": "1d",
    }


def test_endpoint_tls_is_read_from_files_here(api: ApiStub, tmp_path: Path) -> None:
    """W6: certificates and keys are named as files of whoever calls; their texts go to the relay."""
    api.answer("POST", ENDPOINTS, ENDPOINT | {"secret": None}, 201)
    for name in ("ca", "client_cert", "client_key"):
        (tmp_path / name).write_text(f"the {name}\n")
    files = [
        "--ca",
        tmp_path / "ca",
        "--client-cert",
        tmp_path / "client_cert",
        "--client-key",
        tmp_path / "client_key",
    ]
    run("endpoint", "add", "https://example.com", *map(str, files), "--min-tls", "1.3")
    assert api.asked[0].json["tls"] == {
        "ca": "the ca\n",
        "client_cert": "the client_cert\n",
        "client_key": "the client_key\n",
        "min_version": "1.3",
    }
    missing = run("endpoint", "update", "ep_1", "--ca", str(tmp_path / "none"))
    assert missing.exit_code == Exit.USAGE


def test_endpoints_are_added_and_changed_with_credentials(api: ApiStub, tmp_path: Path) -> None:
    """Issue 9: `--auth` takes JSON, a file or standard input, which keeps it out of the process list; `--reset auth` removes it."""
    api.answer("POST", ENDPOINTS, {"id": "ep_1", "secret": None}, 201)
    api.answer("PATCH", f"{ENDPOINTS}/ep_1", ENDPOINT)
    auth = {"type": "bearer", "token": "t"}
    (tmp_path / "auth.json").write_text(json.dumps(auth))
    run("endpoint", "add", "https://example.com", "--auth", f"@{tmp_path}/auth.json")
    run("endpoint", "update", "ep_1", "--auth", json.dumps(auth))
    run("endpoint", "update", "ep_1", "--reset", "auth")
    assert [asked.json["auth"] for asked in api.asked] == [auth, auth, None]
    assert run("endpoint", "update", "ep_1", "--auth", "@/nowhere").exit_code == Exit.BAD_INPUT


def test_endpoint_show_names_what_authenticates(api: ApiStub) -> None:
    """Issue 9: what authenticates is shown as the API shows it, credentials masked."""
    auth = {"type": "basic", "username": "relay", "password": "***"}
    api.answer("GET", f"{ENDPOINTS}/ep_1", ENDPOINT | {"auth": auth})
    stdout = run("endpoint", "show", "ep_1").stdout
    assert "authenticates" in stdout
    assert "type basic, username relay, password ***" in stdout


def test_endpoint_show_names_certificates(api: ApiStub) -> None:
    """What is trusted and shown is named, and the certificate of the receiver with its end."""
    certificate = {"subject": "hooks.example", "issuer": "A CA", "not_after": "2027-01-31T00:00:00.000Z"}
    own = certificate | {"subject": "relay.example"}
    tls = {"ca": ["Private CA"], "client_cert": own, "client_key": "***", "min_version": "1.3"}
    api.answer("GET", f"{ENDPOINTS}/ep_1", ENDPOINT | {"tls": tls, "certificate": certificate})
    stdout = run("endpoint", "show", "ep_1").stdout
    assert "1.3 or newer" in stdout
    assert "Private CA" in stdout
    assert "relay.example, from A CA, until 2027-01-31 00:00:00Z" in stdout
    assert "hooks.example, from A CA, until 2027-01-31 00:00:00Z" in stdout


def test_endpoint_update_is_a_merge_patch(api: ApiStub) -> None:
    """Only what is named is sent; --reset and a header without value become null (RFC 7396)."""
    api.answer("PATCH", f"{ENDPOINTS}/ep_1", ENDPOINT)
    result = run("endpoint", "update", "ep_1", "https://new.test", "--header", "x-old", "--reset", "rate_limit")
    assert result.stdout == "ep_1 updated; it is enabled now.\n"
    assert api.asked[0].json == {"url": "https://new.test", "headers": {"x-old": None}, "rate_limit": None}
    assert run("endpoint", "update", "ep_1").exit_code == Exit.USAGE


def test_endpoint_list_and_show(api: ApiStub) -> None:
    """Endpoints are listed and shown with what they wait for and how they fail."""
    sick = {"failures": 3, "last_failure": "503", "cool_down_until": "2026-11-22T08:05:00.000Z", "last_answer": None}
    one = ENDPOINT | {"state": "disabled", "disabled_by": "gone", "health": sick, "waits_for": "it was disabled"}
    api.answer("GET", f"{ENDPOINTS}?limit=50", {"data": [one], "next": None})
    api.answer("GET", f"{ENDPOINTS}/ep_1", one)
    assert "ep_1      acme         disabled (gone)  order.*" in run("endpoint", "list").stdout
    shown = run("endpoint", "show", "ep_1").stdout
    assert "3, the last: 503" in shown
    assert "2 due, 1 dead" in shown
    assert json.loads(run("endpoint", "show", "ep_1", "--json").stdout) == one


@pytest.mark.parametrize("verb", ["pause", "resume", "enable", "disable"])
def test_endpoint_switches(api: ApiStub, verb: str) -> None:
    """Pause, resume, enable and disable are one call each, and tell the state that came of it."""
    api.answer("POST", f"{ENDPOINTS}/ep_1/{verb}", ENDPOINT)
    assert run("endpoint", verb, "ep_1").stdout.startswith(f"ep_1 {verb}d; it is enabled")
    assert json.loads(run("endpoint", verb, "ep_1", "--json").stdout) == ENDPOINT


def test_endpoint_test_sets_the_exit_code(api: ApiStub) -> None:
    """A test that was not delivered exits 1 and shows why."""
    outcome = {"delivered": False, "status": None, "failure": "dns", "duration_ms": 3, "detail": "no such name"}
    api.answer("POST", f"{ENDPOINTS}/ep_1/test", outcome)
    result = run("endpoint", "test", "ep_1", "--type", "order.paid")
    assert (result.exit_code, result.stdout) == (Exit.FAILED, "not delivered: dns in 3 ms (no such name)\n")
    assert api.asked[0].json == {"type": "order.paid"}


def test_endpoint_test_that_was_delivered(api: ApiStub) -> None:
    """A test that was delivered exits 0, with --json as well."""
    outcome = {"delivered": True, "status": 204, "failure": None, "duration_ms": 3, "detail": None}
    api.answer("POST", f"{ENDPOINTS}/ep_1/test", outcome)
    assert run("endpoint", "test", "ep_1").stdout == "delivered: 204 in 3 ms\n"
    assert json.loads(run("endpoint", "test", "ep_1", "--json").stdout) == outcome


def test_endpoint_rotate_secret(api: ApiStub) -> None:
    """The new secret is on stdout; the overlap goes to the daemon."""
    api.answer("POST", f"{ENDPOINTS}/ep_1/rotate-secret", ENDPOINT | {"secret": "whsec_new"})
    result = run("endpoint", "rotate-secret", "ep_1", "--overlap", "1h")
    assert result.stdout == "secret: whsec_new\n"
    assert api.asked[0].json == {"overlap": "1h"}


def test_endpoint_delete_wants_a_yes(api: ApiStub) -> None:
    """Deleting cancels what is due, so it wants --yes without a terminal."""
    api.answer("DELETE", f"{ENDPOINTS}/ep_1", None, 204)
    assert run("endpoint", "delete", "ep_1").exit_code == Exit.USAGE
    assert api.asked == []
    assert run("endpoint", "delete", "ep_1", "--yes").stdout == "ep_1 deleted.\n"


def test_send_says_why_nothing_was_sent(api: ApiStub) -> None:
    """An event that was held back says so in words; what the catalogue finds wrong goes to stderr (WOC-9)."""
    held = {"reason": "filtered", "reason_detail": 'the feature "drafts" is off for this application'}
    warnings = {"warnings": [{"pointer": "/data/id", "message": "is missing"}]}
    answer = {"id": "evt_1", "deliveries": 0, "duplicate": False} | held | warnings
    api.answer("POST", "/v1/events", answer, 202)
    result = run("send", "draft.new", "--ordering-key", "project-7")
    assert result.stdout == 'evt_1 accepted: 0 deliveries (the feature "drafts" is off for this application).\n'
    assert "Warning: /data/id: is missing" in result.stderr
    assert api.asked[0].json["ordering_key"] == "project-7"


def test_events_are_listed_by_reason(api: ApiStub) -> None:
    """`--reason` selects events without deliveries; the list shows the sentence."""
    held = EVENT | {"deliveries": {}, "reason": "filtered", "reason_detail": "data.videoContext is missing or empty"}
    api.answer("GET", "/v1/events?reason=filtered&limit=50", {"data": [held], "next": None})
    assert "none: data.videoContext is missing or empty" in run("events", "list", "--reason", "filtered").stdout


def test_force_is_passed_on(api: ApiStub) -> None:
    """`--force` asks for expired deliveries to be sent all the same, one by one and in bulk (WOC-8)."""
    api.answer("POST", "/v1/deliveries/dlv_1/retry", DELIVERY | {"state": "due"}, 202)
    api.answer("POST", REPLAYS, DONE, 201)
    assert run("deliveries", "retry", "dlv_1", "--force").exit_code == Exit.FINE
    assert run("dead", "replay", "--all", "--yes", "--force").exit_code == Exit.FINE
    assert run("deliveries", "retry", "dlv_1").exit_code == Exit.FINE
    bodies = [asked.body for asked in api.asked if asked.method == "POST"]
    assert bodies == [b'{"force": true}', b'{"mode": "failed", "force": true}', b""]
