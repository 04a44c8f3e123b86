"""The bench measures what it says: its pieces, at tiny sizes, and its arithmetic. No figure is judged here."""

import asyncio
import json
import os
from dataclasses import replace
from functools import partial
from pathlib import Path

import aiohttp
import pytest
from aioresponses import aioresponses

from bench import bare
from bench.contracts import example_event
from bench.hostile_receivers import Figures as FaultFigures
from bench.isolation import SCENARIOS, Waits, figures_of, medians, row
from bench.load import Load, padded_event, request_bytes
from bench.process import Memory
from bench.receiver import split
from bench.run import Drain, Run, Work, compare, drain_backlog, report_drain, report_pairs, run_bare, run_relay
from bench.sinks import open_sink
from bench.slow_loris import Row as SiegeRow
from relay.contracts import ContractCatalogue, Payload
from tests.support import aioresponses_shim
from tests.support.waiting import quiet, until
from tests.support.watched import ALL_SIDES


def test_messages_are_split_by_length() -> None:
    """A message is cut off only when it is complete; what follows stays for the next."""
    whole = b"POST / HTTP/1.1\r\ncontent-length: 2\r\n\r\nokGET"
    assert split(whole) == (b"POST / HTTP/1.1\r\ncontent-length: 2", b"ok", b"GET")
    assert split(whole[:-4]) is None
    assert split(b"POST / HTTP/1.1\r\n") is None


@pytest.mark.parametrize("body_bytes", [60, 600])
def test_bodies_have_the_size_that_was_asked_for(body_bytes: int) -> None:
    """The JSON of an event is exactly as long as asked."""
    _, _, body = request_bytes("h", "t", padded_event(body_bytes)).partition(b"\r\n\r\n")
    assert len(body) == body_bytes


def test_a_mark_becomes_a_number() -> None:
    """No event repeats another, and all have the same length."""
    load = Load(2, b"id=12345678.", b"12345678")
    assert [load.next_request(), load.next_request()] == [b"id=00000001.", b"id=00000000."]
    assert Load(1, b"as it is").next_request() == b"as it is"


@pytest.mark.parametrize("name", ["rotor", "roughy", "videoaiditor", "wochit", "editframe"])
def test_the_event_of_a_contract_is_lawful(name: str) -> None:
    """The event that a contract is measured with passes its schema; where its key is derived, it is the number's."""
    text, mark = example_event(name)
    contract = ContractCatalogue.load().get(name)
    assert contract is not None
    keys = set()
    for number in ("00000001", "00000002"):
        event = json.loads(text.replace(mark, number) if mark else text)
        data = json.dumps(event["data"]).encode()
        assert contract.check_data(event["type"], Payload(data)) == []
        keys.add(contract.idempotency_key(event["type"], Payload(data)))
    assert len(keys) == (2 if mark else 1)


def test_ratios_are_taken_within_a_pair() -> None:
    """The reported ratio is the median over pairs, with the lowest and the highest."""
    pairs = [(Run(100, bare, 1, 2), Run(100, relay, 1, 2)) for bare, relay in ((100, 50), (200, 160), (50, 45))]
    text = report_pairs(Work(10, 1, 600), pairs)
    assert "| delivered/s, end to end | 100 | 50 | 0.80 | 0.50 – 0.90 |" in text


def test_a_drain_is_reported_with_memory_over_its_course() -> None:
    """Memory is shown before, at each quarter, at the end, and at most."""
    text = report_drain(Drain(1000, 500.0, [10, 11, 12, 13, 14, 15, 16, 99]), [Run(1, 250, 0, 0)])
    assert "500 deliveries/s, 2.00 × the hot rate" in text
    assert "10 MiB before, 12 / 14 / 16 MiB at each quarter, 99 MiB at the end, 99 MiB at most (8 samples)" in text


@pytest.mark.slow
def test_both_sides_do_the_same_work(tmp_path: Path) -> None:
    """Bare and relay both deliver every event to every endpoint, exactly once, and so does a drained backlog."""
    folders = [tmp_path / name for name in ("bare", "relay", "backlog")]
    for folder in folders:
        folder.mkdir()
    with open_sink("python", tmp_path) as sink:
        work = Work(events=70, fan_out=2, body_bytes=600)
        assert run_bare(folders[0], sink, work).delivered_rate > 0
        assert run_relay(folders[1], sink, work).delivered_rate > 0
        assert drain_backlog(folders[2], sink, work).deliveries == 140
        assert sink.received() == 3 * 140


@pytest.mark.slow
@pytest.mark.parametrize("name", ["videoaiditor", "wochit"])
def test_a_contract_does_the_work_of_standard(tmp_path: Path, name: str) -> None:
    """The same events under `standard` and under a contract: all accepted and delivered, and a ratio for a table."""
    event, mark = example_event(name)
    sides = {"standard": run_relay, name: partial(run_relay, contract=name)}
    with open_sink("python", tmp_path) as sink:
        work = Work(events=40, fan_out=1, body_bytes=len(event), event=event, mark=mark)
        pairs = compare(sink, work, 1, tmp_path, sides)
        assert sink.received() == 2 * 40
    assert f"| median | standard | {name} | {name} ÷ standard |" in report_pairs(work, pairs, sides)


@pytest.mark.parametrize(("status", "settled"), [(204, True), (503, False)])
async def test_the_bare_pipeline_settles_what_a_receiver_took(status: int, settled: bool) -> None:
    """Bare keeps aiohttp's client, so that its figures stay comparable; a refusal is no delivery to it either."""
    url = "http://receiver.example"
    aioresponses_shim.apply()
    with aioresponses() as mocked:
        mocked.post(f"{url}/0", status=status)
        pipeline = bare.Pipeline(":memory:", [f"{url}/0"])
        pipeline._due.put_nowait((bare.Event(1, "a.b", 0, b"{}"), 0))
        async with aiohttp.ClientSession() as session:
            worker = asyncio.create_task(pipeline._deliver(session))
            await until(lambda: len(mocked.requests) == 1 and not pipeline._due.qsize())
            await quiet()
            worker.cancel()
            await asyncio.gather(worker, return_exceptions=True)
    assert pipeline._writer.queue.qsize() == int(settled)


def test_shim_is_still_needed() -> None:
    """When this fails aioresponses can do without us: delete tests/support/aioresponses_shim.py and its uses."""
    assert aioresponses_shim.needed()


def test_a_row_of_isolation_says_whether_it_holds() -> None:
    """The ratio is taken within a run, figures are medians over the runs, and a row that misses says so."""
    runs = [figures_of(Waits([5.0] * 99 + [worst], [worst / 2]), []) for worst in (8.0, 10.0, 90.0)]
    found = medians(runs)
    assert (found.p50_ms, found.p99_ms, found.ratio, found.longest_ms) == (5.0, 10.0, 2.0, 10.0)
    assert row(SCENARIOS[0], found).endswith(f"| {SCENARIOS[0].must} | NO |")
    assert row(SCENARIOS[0], found._replace(ratio=1.5)).endswith("| yes |")
    assert not SCENARIOS[0].holds(found._replace(ratio=1.5, longest_ms=101.0))


def test_what_hostile_receivers_cost_is_judged() -> None:
    """Each figure of a fault is held against its own requirement."""
    sound = FaultFigures(longest_ms=1_500, growth_mib=8, ratios=[0.9, 1.2, 3.0])
    assert sound.missed() == []
    assert replace(sound, longest_ms=1_501).missed() == ["time"]
    assert replace(sound, growth_mib=8.1).missed() == ["memory"]
    assert replace(sound, ratios=[1.0, 1.21, 1.3]).missed() == ["p99 of others"]


def test_what_lingering_connections_cost_is_judged() -> None:
    """Each figure of a siege is held against its own requirement."""
    sound = SiegeRow(ALL_SIDES[0], 15.0, 0, 10.0, 20.0, 100, 0)
    assert sound.missed() == []
    wrong = sound._replace(longest_s=15.1, refused=1, beside_ms=20.1, growth_mib=101, descriptors=1)
    assert [missed.split()[0] for missed in wrong.missed()] == ["closed", "refused", "p99", "memory", "descriptors"]


def test_the_memory_of_a_process_has_a_peak() -> None:
    """What was resident once and is not any more is in the peak, until it is forgotten."""
    memory = Memory(os.getpid())
    before_mib = memory.forget_peak()
    held = bytearray(64 * 1024 * 1024)
    held[::4096] = b"x" * len(held[::4096])
    del held
    assert memory.peak_mib() >= before_mib + 60
    assert memory.forget_peak() < before_mib + 60
    assert memory.descriptors() > 0
