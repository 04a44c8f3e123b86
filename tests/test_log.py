"""Logging: form, secrets, and a stream that does not take what it is given."""

import io
import logging
import os
import re
import threading
from collections.abc import Callable, Iterator
from typing import Any

import orjson
import pytest
import structlog
from hypothesis import given, settings
from hypothesis import strategies as st
from structlog.testing import capture_logs

from relay.telemetry import log, masking
from relay.telemetry.log import LineWriter, configure
from relay.telemetry.masking import mask_text
from relay.telemetry.recurring import Recurring
from tests.support.clock import FakeClock

MOMENT_MS = 1_800_000_000_123
SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"


class Terminal(io.StringIO):
    """A stream that says it is a terminal."""

    def isatty(self) -> bool:
        return True


class Stuck(io.StringIO):
    """A stream whose first write waits until it is let go, as a pipe that nobody reads."""

    def __init__(self) -> None:
        super().__init__()
        self.reached = threading.Event()
        self.let_go = threading.Event()

    def write(self, text: str) -> int:
        self.reached.set()
        assert self.let_go.wait(10)
        return super().write(text)


@pytest.fixture(autouse=True)
def restored() -> Iterator[None]:
    """Leave structlog as it was."""
    yield
    structlog.reset_defaults()


def logged(say: Callable[[Any], None], stream: io.StringIO | None = None, **settings: Any) -> str:
    """Return what `say` writes through a freshly configured logger."""
    stream = stream or io.StringIO()
    chosen = {"format": "auto", "level": "info", "stream": stream, "wall_ms": lambda: MOMENT_MS} | settings
    logging_ = configure(**chosen)
    say(structlog.get_logger("relay.test"))
    logging_.close()
    return stream.getvalue()


def test_json_lines_have_stable_keys_in_a_stable_order() -> None:
    """Not on a terminal, a line is one JSON object that begins with time, level and event."""
    line = logged(lambda logger: logger.info(log.DELIVERED, endpoint="primary", status=204))
    assert list(orjson.loads(line)) == ["time", "level", "event", "endpoint", "status", "logger"]
    assert orjson.loads(line)["time"] == "2027-01-15T08:00:00.123Z"
    assert orjson.loads(line)["event"] == "delivery.delivered"


def test_a_logger_without_a_name_needs_none() -> None:
    """The `logger` key stands only where a logger has a name."""
    line = logged(lambda _named: structlog.get_logger().info(log.SERVICE_READY))
    assert "logger" not in orjson.loads(line)


def test_a_terminal_gets_readable_lines() -> None:
    """With `auto`, a terminal gets text, coloured unless colours are refused."""
    text = logged(lambda logger: logger.info(log.SERVICE_READY, port=8420), Terminal(), colors=False)
    assert "service.ready" in text
    assert "port=8420" in text
    assert "\x1b[" not in text
    assert "\x1b[" in logged(lambda logger: logger.info(log.SERVICE_READY), Terminal())


@pytest.mark.parametrize(("form", "is_json"), [("json", True), ("console", False)])
def test_a_chosen_format_is_kept_on_any_stream(form: str, is_json: bool) -> None:
    """`json` on a terminal is JSON, `console` in a pipe is text."""
    text = logged(lambda logger: logger.info(log.SERVICE_READY), Terminal() if is_json else None, format=form)
    assert text.startswith("{") is is_json


def test_lines_below_the_level_are_not_written() -> None:
    """A debug line is dropped at level info, and written at level debug."""
    assert logged(lambda logger: logger.debug(log.DELIVERED)) == ""
    assert logged(lambda logger: logger.debug(log.DELIVERED), level="debug") != ""


def test_the_journal_gets_priorities_and_no_time() -> None:
    """For the journal every line of a multi-line text carries `<priority>`, and the time is left to it."""

    def fail(logger: Any) -> None:
        try:
            raise RuntimeError("broken")
        except RuntimeError:
            logger.exception(log.TASK_FAILED)

    lines = logged(fail, journal=True, format="console").splitlines()
    assert len(lines) > 3
    assert all(line.startswith("<3>") for line in lines)
    assert not re.search(r"\d\d:\d\d:\d\d", lines[0])
    assert logged(lambda logger: logger.warning(log.DISK_LOW), journal=True).startswith('<4>{"level"')


CANARIES: list[dict[str, Any]] = [
    {"detail": f"bad secret {SECRET} in use"},
    {"secret": "open sesame"},
    {"webhook_secret": "open sesame"},
    {"detail": "Authorization: Bearer open-sesame"},
    {"detail": "sent 'webhook-signature': 'v1,b3BlbiBzZXNhbWU='"},
    {"detail": "v1,b3BlbiBzZXNhbWUgb3BlbiBzZXNhbWU="},
    {"detail": "a bearer open-sesame was refused"},
    {"url": "https://user:open-sesame@example.com/hooks"},
    {"url": "https://example.com/hooks?key=open-sesame&x=1"},
    {"detail": "POST https://example.com/hooks?key=open-sesame failed"},
    {"headers": {"Authorization": "open-sesame", "X-Api-Token": "open-sesame"}},
    {"nested": [{"deep": f"{SECRET}"}, ("Bearer open-sesame",)]},
    {"body": '{"card": "open-sesame"}'},
    {"payload": b"open-sesame"},
    {"raw": b"open-sesame"},
    {"error": ValueError("token=open-sesame")},
    {"detail": "whsk_b3BlbiBzZXNhbWU="},
    {"url": "https://hooks.example.com/services/T0/B0/open-sesame"},
    {"detail": "POST HTTPS://hooks.example.com/open-sesame, and (http://h/open-sesame) failed"},
    {"urls": ["https://h.example#open-sesame", "https://h.example?open-sesame"]},
    {"detail": "api-key: open-sesame", "echo": '"x-client-secret": "open-sesame"'},
]


@pytest.mark.parametrize("facts", CANARIES, ids=lambda facts: str(next(iter(facts.values())))[:40])
@pytest.mark.parametrize("form", ["json", "console"])
def test_no_secret_reaches_the_log(facts: dict[str, Any], form: str) -> None:
    """Secrets, tokens, signatures, payloads, userinfo and query strings are masked (invariant 13)."""
    text = logged(lambda logger: logger.warning(log.ATTEMPT_FAILED, **facts), format=form)
    assert "delivery.attempt_failed" in text
    assert not re.search(r"open.sesame|b3BlbiBzZXNhbWU|MfKQ9r8", text), text


def test_the_canaries_would_be_seen_without_the_mask(monkeypatch: pytest.MonkeyPatch) -> None:
    """Negative control: without the masking processor the same lines show their secrets."""
    monkeypatch.setattr(log, "mask_secrets", lambda _logger, _method, line: line)
    for facts in CANARIES:
        text = logged(lambda logger, facts=facts: logger.warning(log.ATTEMPT_FAILED, **facts))  # type: ignore[misc]
        assert re.search(r"open.sesame|b3BlbiBzZXNhbWU|MfKQ9r8", text), facts


def test_secrets_in_tracebacks_are_masked() -> None:
    """An exception whose message quotes a secret is logged without it, and without local variables."""

    def fail(logger: Any) -> None:
        hidden = "open-sesame"
        try:
            raise RuntimeError(f"cannot use {SECRET}")
        except RuntimeError:
            logger.exception(log.TASK_FAILED, length=len(hidden))

    text = logged(fail)
    assert "RuntimeError: cannot use whsec_***" in text
    assert "open-sesame" not in text


def test_what_identifies_things_is_left_alone() -> None:
    """Ids, hosts, names of files and numbers stay readable, or a log would help nobody."""
    plain = "evt_01K9ZZZZZZZZZZZZZZZZZZZZZZ to https://example.com took 12 ms: 503 v1 token, /var/lib/relay/relay.db"
    assert mask_text(plain) == plain


PIECES = ["whsec_", "whsk_", "v1,", "bearer ", "token", "://", "?", "@", "=", "abcdefghijklmnop"]


@given(st.lists(st.sampled_from(PIECES), max_size=5).map("".join))
@settings(max_examples=500)
def test_the_quick_look_misses_nothing(text: str) -> None:
    """Values that are passed on after a quick look are those that the thorough one would leave alone."""
    assert mask_text(text) == masking._hidden(text)


def test_a_long_value_is_cut() -> None:
    """One value takes at most 2,000 characters of a line."""
    line = orjson.loads(logged(lambda logger: logger.info(log.ATTEMPT_FAILED, detail="x" * 5_000)))
    assert line["detail"] == "x" * 2_000 + "…"


def test_a_stuck_stream_delays_nobody_and_losses_are_told() -> None:
    """While stderr is stuck `write` returns at once; what found no room is counted and reported when it flows again."""
    stream = Stuck()
    writer = LineWriter(stream, lambda count: f"dropped {count}", lines_max=3)
    writer.write("first")
    assert stream.reached.wait(10)
    for number in range(5):
        writer.write(f"line {number}")
    assert writer.dropped == 2
    stream.let_go.set()
    writer.close(10)
    assert stream.getvalue().splitlines() == ["first", "dropped 2", "line 0", "line 1", "line 2"]


def test_closing_gives_up_on_a_stuck_stream() -> None:
    """`close` returns after its time-out even if the stream never takes anything."""
    stream = Stuck()
    writer = LineWriter(stream, str)
    writer.write("first")
    assert stream.reached.wait(10)
    writer.close(0.01)
    stream.let_go.set()


def test_a_broken_pipe_ends_nothing() -> None:
    """When the reader of stderr has gone, lines are counted as lost and the daemon goes on."""
    read_end, write_end = os.pipe()
    os.close(read_end)
    stream = os.fdopen(write_end, "w", buffering=1)
    writer = LineWriter(stream, str)
    writer.write("into the void")
    writer.close(10)
    assert writer.dropped == 1
    with pytest.raises(BrokenPipeError):
        stream.close()


def test_libraries_speak_through_the_same_lines() -> None:
    """What a library says through `logging` arrives masked in our form, from warnings upwards."""

    def say(_logger: Any) -> None:
        logging.getLogger("aiohttp.server").warning("bad token=%s", "open-sesame")
        logging.getLogger("aiohttp.server").info("not worth a line")

    lines = logged(say).splitlines()
    assert [orjson.loads(line)["logger"] for line in lines] == ["aiohttp.server"]
    assert orjson.loads(lines[0])["message"] == "bad token=***"


def test_closing_leaves_the_root_logger_as_it_was() -> None:
    """`close` takes back what `configure` added to `logging`; nothing was lost on the way."""
    before = list(logging.getLogger().handlers)
    configured = configure(format="json", level="info", stream=io.StringIO(), wall_ms=lambda: MOMENT_MS)
    assert len(logging.getLogger().handlers) == len(before) + 1
    configured.close()
    assert configured.dropped == 0
    assert logging.getLogger().handlers == before


def test_event_names_are_unique_and_in_one_form() -> None:
    """Each event has one name, of the form `who.what`."""
    names = [value for name, value in vars(log).items() if name.isupper() and isinstance(value, str)]
    names = [name for name in names if name in log.EVENTS]
    assert len(names) == len(set(names)) == len(log.EVENTS) > 30
    assert all(re.fullmatch(r"[a-z]+\.[a-z_]+", name) for name in names)


# -- what happens over and over ----------------------------------------------------------------------------------------


def test_what_recurs_is_logged_at_once_then_in_sums() -> None:
    """H7: the first time is news; then a sum every ten seconds at most, and the whole at the end, once."""
    clock = FakeClock()
    with capture_logs() as lines:
        outage = Recurring(structlog.get_logger(), clock, log.SETTLE_FAILED, log.SETTLE_RECOVERED)
        outage.ended()
        for _ in range(12):
            outage.happened(error="disk full")
            outage.happened(2, error="disk full")
            clock.advance(1_000)
        outage.ended(quiet_ms=5_000)
        outage.ended()
        outage.ended()
    facts = [(line["event"], line["times"]) for line in lines]
    assert facts == [(log.SETTLE_FAILED, 1), (log.SETTLE_FAILED, 30), (log.SETTLE_RECOVERED, 36)]
    assert lines[-1]["lasted_ms"] == 11_000


def test_what_recurs_after_its_end_is_news_again() -> None:
    """H7: an outage that comes back is logged at once, counted from one."""
    clock = FakeClock()
    with capture_logs() as lines:
        outage = Recurring(structlog.get_logger(), clock, log.READ_FAILED, log.READ_RECOVERED)
        for _ in range(2):
            outage.happened()
            outage.ended()
    assert [(line["event"], line["times"]) for line in lines] == [(log.READ_FAILED, 1), (log.READ_RECOVERED, 1)] * 2
