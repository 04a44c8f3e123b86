"""The bench measures what it says: its pieces, at tiny sizes, and its arithmetic. No figure is judged here."""

import asyncio
import json
import shutil
import sqlite3
from contextlib import closing
from pathlib import Path
from xml.etree import ElementTree

import pytest
from aioresponses import aioresponses

from bench import bare, run, soak
from bench.contracts import example_event
from bench.desk import desk
from bench.load import MARK, Load, padded_event, request_bytes
from bench.plot import draw
from bench.receiver import STAMP, Receiver, split
from bench.rows import PAIRS, Bench
from bench.seeding import Seed
from bench.sides import BOTH, Failed, Run, Work, compare, configuration, report, variant
from bench.sinks import open_sink
from bench.states import seeded
from relay.contracts import ContractCatalogue, Payload
from tests.support import aioresponses_shim
from tests.support.waiting import quiet, until
from tests.support.warm import ROOT


def test_messages_are_split_by_length() -> None:
    """A message is cut off only when it is complete; what follows stays for the next."""
    whole = b"POST / HTTP/1.1\r\ncontent-length: 2\r\n\r\nokGET"
    assert split(whole) == (b"POST / HTTP/1.1\r\ncontent-length: 2", b"ok", b"GET")
    assert split(whole[:-4]) is None
    assert split(b"POST / HTTP/1.1\r\n") is None


@pytest.mark.parametrize("body_bytes", [60, 600])
def test_bodies_have_the_size_that_was_asked_for(body_bytes: int) -> None:
    """The JSON of an event is exactly as long as asked, with room for the time where it fits."""
    _, _, body = request_bytes("t", padded_event(body_bytes)).partition(b"\r\n\r\n")
    assert len(body) == body_bytes
    assert (STAMP in body) == (body_bytes == 600)
    assert json.loads(body)["type"] == "bench.event"


def test_marks_become_numbers_and_stamps_become_times() -> None:
    """No event repeats another, all have the same length, and requests are taken in turn."""
    load = Load(2, [b"id=%b." % MARK, b"at %b" % STAMP])
    first, second = load.next_request(), load.next_request()
    assert (second, len(first)) == (b"id=00000000.", len(b"at ") + 20)
    assert first[3:].isdigit()


def test_a_receiver_tells_how_old_events_were_and_fails_one_in_n() -> None:
    """What is stamped is aged; a failure is not counted as taken, and the ages begin anew with each question."""
    one = Receiver()
    Receiver.fail_one_in, Receiver.seen, Receiver.received = 2, 0, 0
    try:
        one._posted = True
        stamped = b'{"data":{"at":"%020d"}}' % 1
        answers = [one._answer(b"POST /1 HTTP/1.1", stamped) for _ in range(4)]
        assert [answer[9:12] for answer in answers] == [b"204", b"500"] * 2
        assert Receiver.received == 2
        assert b'"count": 2' in one._answer(b"GET /ages HTTP/1.1", b"")
        assert b'"count": 1' in one._answer(b"GET /ages HTTP/1.1", b"")
        assert one._answer(b"POST /silent/3 HTTP/1.1", b"") == b""
    finally:
        Receiver.fail_one_in, Receiver.received = 0, 0


@pytest.mark.parametrize("name", ["rotor", "roughy", "videoaiditor", "wochit", "editframe"])
def test_the_event_of_a_contract_is_lawful(name: str) -> None:
    """The event that a contract is measured with passes its schema with a number in it; a key, if any, is the number's."""
    text = example_event(name)
    contract = ContractCatalogue.load().get(name)
    assert contract is not None
    keys = set()
    for number in ("00000001", "00000002"):
        event = json.loads(text.replace(MARK.decode(), number))
        data = json.dumps(event["data"]).encode()
        assert contract.check_data(event["type"], Payload(data)) == []
        keys.add(contract.idempotency_key(event["type"], Payload(data)))
    assert len(keys) == 2 or keys == {None}


def test_ratios_are_taken_within_a_round() -> None:
    """The reported ratio is the median over rounds, with the lowest and the highest; connections show their worst round."""
    rates = ((100, 50, 0.999), (200, 160, 0.995), (50, 45, 1.0))
    rounds = [
        {"bare": Run(100, bare, 1, 2), "relay": Run(100, relay, 1, 2, reused=reused)} for bare, relay, reused in rates
    ]
    text = report(rounds)
    assert "| delivered/s, end to end | 100 | 50 | **0.80** (0.50 – 0.90) |" in text
    assert "99.50% or more" in text
    assert "CPU" not in text


def test_a_failing_row_is_told_and_the_others_go_on(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Whatever ends a row, its place in the page says so, and the next row is measured."""

    def fails(_: Bench) -> str:
        raise Failed("nothing came")

    monkeypatch.setattr(run, "ROWS", {"one": fails, "two": lambda _: "| fine |"})
    assert run.run(["one", "two"], Bench(tmp_path, 1)) == ["one"]
    shown = capsys.readouterr().out
    assert "### one\n\n**Not measured**: Failed: nothing came" in shown
    assert "### two\n\n| fine |" in shown


def test_a_curve_is_a_drawing(tmp_path: Path) -> None:
    """Growth is drawn as SVG that parses, a line for each series and a point for each value."""
    root = ElementTree.fromstring(
        draw("What <grows>", "ms", {"one": [(10, 1), (1000, 5)], "two": [(10, 2), (1000, 2)]})
    )
    names = [element.tag.rpartition("}")[2] for element in root]
    assert (names.count("polyline"), names.count("circle")) == (2, 4)


def test_a_soak_tells_what_grows() -> None:
    """Figures whose last quarter is well above their second are called growing, and only those."""
    samples = [soak.Sample(80 + 5 * number, 150, 16, 3, 8) for number in range(16)]
    grows = {verdict.name: not verdict.flat for verdict in soak.judge(samples)}
    assert grows == {"memory_mib": True, "descriptors": False, "wal_mib": False, "p50_ms": False, "p99_ms": False}
    with pytest.raises(Failed):
        soak.judge(samples[:3])


@pytest.mark.slow
def test_all_sides_do_the_same_work(tmp_path: Path) -> None:
    """Bare, lean and relay each deliver every event to every endpoint, exactly once."""
    with open_sink("python", tmp_path) as sink:
        (runs,) = compare(sink, Work(events=70, fan_out=2), 1, tmp_path, BOTH)
        assert list(runs) == ["bare", "lean", "relay"]
        assert all(side.delivered_rate > 0 and side.cpu_us > 0 and side.peak_mib > 0 for side in runs.values())
        assert sink.received() == 3 * 140


@pytest.mark.slow
@pytest.mark.parametrize(
    "changes",
    [
        {"batch": 10},
        {"unix": True},
        {"contract": "ordered", "ordering_keys": 3},
        {"applications": 2},
        {"contract": "videoaiditor", "event": example_event("videoaiditor")},
    ],
    ids=["batches", "Unix socket", "strict order", "applications", "contract"],
)
def test_a_relay_set_up_in_another_way_does_the_work(tmp_path: Path, changes: dict[str, object]) -> None:
    """Each variant of a row takes and delivers all that it is given."""
    with open_sink("python", tmp_path) as sink:
        (runs,) = compare(sink, Work(events=40), 1, tmp_path, {"other": variant(**changes)})
        assert runs["other"].delivered_rate > 0
        # An application's own endpoint and that of the other take the event of the bench.
        assert sink.received() == 40


@pytest.mark.slow
def test_a_filled_database_is_one_of_the_relays_own(tmp_path: Path) -> None:
    """Rows that were written directly are sound, are delivered at the next start, and are shown."""
    with open_sink("python", tmp_path) as sink:
        folder = tmp_path / "relay"
        folder.mkdir()
        relay = seeded(folder, configuration(folder, sink, Work(1)), Seed(25, "due"))
        with relay:
            for _ in range(600):
                if sink.received() == 25:
                    break
                relay.api.get("/v1/status")
            assert sink.received() == 25
            assert len(relay.api.get("/v1/deliveries?limit=50")["data"]) == 25
            assert relay.stop() == 0
        with closing(sqlite3.connect(folder / "relay.db")) as connection:
            assert connection.execute("SELECT count(*) FROM delivery WHERE state = 1").fetchone() == (25,)
            assert connection.execute("SELECT sum(share) FROM delivery WHERE state = 0").fetchone() == (None,)
            assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)


@pytest.mark.slow
def test_the_desk_asks_for_everything(tmp_path: Path) -> None:
    """Each list, search and explanation is answered, and finds what the seeded events were given."""
    lines = desk(Bench(tmp_path, 1, 0.001, "python")).splitlines()
    assert lines[0].startswith("900 delivered, 50 dead and 50 due deliveries")
    assert sum(line.startswith("| explain ") for line in lines) == 3


@pytest.mark.parametrize(("status", "settled"), [(204, True), (503, False)])
async def test_the_bare_pipeline_settles_what_a_receiver_took(status: int, settled: bool) -> None:
    """Bare keeps aiohttp's client, so that its figures stay comparable; a refusal is no delivery to it either."""
    url = "http://receiver.example"
    aioresponses_shim.apply()
    with aioresponses() as mocked:
        mocked.post(f"{url}/0", status=status)
        async with bare.aiohttp_client("") as post:
            pipeline = bare.Pipeline(":memory:", [f"{url}/0"], post)
            pipeline._due.put_nowait((bare.Event(1, "a.b", 0, b"{}"), 0))
            worker = asyncio.create_task(pipeline._deliver())
            await until(lambda: len(mocked.requests) == 1 and not pipeline._due.qsize())
            await quiet()
            worker.cancel()
            await asyncio.gather(worker, return_exceptions=True)
    assert pipeline._writer.queue.qsize() == int(settled)


def test_rows_have_names_that_can_be_asked_for() -> None:
    """Every row of the main page is one of all, and a name that there is not is refused with those that there are."""
    assert set(run.MAIN) <= set(run.ROWS)
    assert set(PAIRS) <= set(run.ROWS)
    asked = run.argparse.Namespace(rows=["fan-out-7"], all=False, against="")
    with pytest.raises(SystemExit, match="there is no row 'fan-out-7'; there are: fan-out-1, "):
        run.chosen(asked)


def test_two_trees_are_compared_on_the_same_work(tmp_path: Path) -> None:
    """With another checkout a row runs its last side from both, the other one's relay being that of its own files."""
    older = tmp_path / "older"
    shutil.copytree(ROOT / "relay", older / "relay", ignore=shutil.ignore_patterns("__pycache__"))
    main = older / "relay" / "__main__.py"
    main.write_text('open("it ran", "w").close()\n' + main.read_text())
    text = PAIRS["intake"](Bench(tmp_path, 1, 0.001, "python", against=older))
    assert "| median | older | this tree | this tree ÷ older (lowest – highest) |" in text
    assert (older / "it ran").exists()


def test_what_is_compared_with_a_commit() -> None:
    """Without names the comparisons of the main page; a row that is none is refused, and so is a commit that there is not."""
    named = run.argparse.Namespace(rows=[], all=False, against="HEAD")
    assert run.chosen(named) == ["fan-out-1", "fan-out-10", "fan-out-100", "intake", "applications"]
    named.rows = ["million"]
    with pytest.raises(SystemExit, match="million is no comparison"):
        run.chosen(named)
    with pytest.raises(SystemExit, match="there is no commit 'no-such-commit'"):
        run.unpacked("no-such-commit", Path())


def test_shim_is_still_needed() -> None:
    """When this fails aioresponses can do without us: delete tests/support/aioresponses_shim.py and its uses."""
    assert aioresponses_shim.needed()
