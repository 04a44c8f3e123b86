"""The rows that look at one relay: starts, a large backlog, memory, latency at half load, retention, bad neighbours, growth."""

import sqlite3
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

from bench.plot import draw
from bench.rows import Bench, Row
from bench.seeding import DAY_MS, Seed, seed
from bench.sides import (
    DEADLINE_S,
    Work,
    configuration,
    expect,
    post,
    run_relay,
    serving,
    started,
    target_of,
)
from bench.sinks import Sink, open_sink
from bench.watched import drop_caches, usage
from tests.support.daemon import Daemon

HALF_S = 20.0
"""How long a relay runs at half load."""

RETENTION_S = 20.0
RETENTION_RATE = 500


@contextmanager
def scratch(bench: Bench) -> Iterator[Path]:
    with tempfile.TemporaryDirectory(dir=bench.folder) as folder:
        yield Path(folder)


def seeded(folder: Path, config: str, rows: Seed, *, paused: bool = False) -> Daemon:
    """Let a relay make a database, stop it, and fill the file; the relay is not running."""
    relay = started(Daemon(folder, config))
    if paused:
        relay.api.post("/v1/webhook-endpoints/bench-0/pause")
    expect(relay.stop() == 0, "the relay did not stop cleanly")
    seed(folder / "relay.db", rows)
    return relay


# -- a million due -------------------------------------------------------------------------------------------------------


class Started(NamedTuple):
    """Seconds from the start of the process."""

    ready_s: float
    first_s: float  # to the first delivery received


def start(relay: Daemon, sink: Sink) -> Started:
    """Start a relay that has something due."""
    before, began = sink.received(), time.monotonic()
    started(relay)
    ready_s = time.monotonic() - began
    while sink.received() == before:
        expect(time.monotonic() - began < 60, "nothing was delivered within a minute of the start")
        time.sleep(0.005)
    return Started(ready_s, time.monotonic() - began)


def million(bench: Bench) -> str:
    """Start with a million due, cut it off, start again with nothing cached, and let it drain."""
    due = bench.some(1_000_000, 5_000)
    with ExitStack() as stack:
        sink = stack.enter_context(open_sink(bench.receiver, bench.folder))
        folder = stack.enter_context(scratch(bench))
        relay = stack.enter_context(_killed(seeded(folder, configuration(folder, sink, Work(1)), Seed(due, "due"))))
        clean = start(relay, sink)
        relay.kill()
        whole = drop_caches(folder / "relay.db")
        crashed = start(relay, sink)
        began, counted = time.monotonic(), sink.received()
        samples = list(_drained(relay, sink, began, counted))
        hot = run_relay(_made(folder / "hot"), sink, Work(bench.some(10_000, 200)))
    rates = _quarters(samples)
    rate = (samples[-1].received - counted) / samples[-1].at_s
    rss = [sample.rss_mib for sample in samples]
    cold = "its caches dropped" if whole else "only the file's own pages dropped: the kernel's caches need root"
    return "\n".join(
        [
            f"{due:,} deliveries due to one endpoint, bodies of 600 bytes.",
            "",
            "| | ready, s | first delivery, s |",
            "|---|---|---|",
            f"| start after a clean stop | {clean.ready_s:.2f} | {clean.first_s:.2f} |",
            f"| start after kill -9, {cold} | {crashed.ready_s:.2f} | {crashed.first_s:.2f} |",
            "",
            f"- drained at {rate:,.0f} deliveries/s, **{rate / hot.delivered_rate:.2f}** × the hot rate of this row",
            f"- by quarters: {' / '.join(f'{quarter:,.0f}' for quarter in rates)} deliveries/s",
            f"- resident memory: {rss[0]:.0f} MiB at first, {statistics.median(rss):.0f} in the median, {max(rss):.0f} at most",
        ]
    )


class Sample(NamedTuple):
    at_s: float
    received: int
    rss_mib: float


def _drained(relay: Daemon, sink: Sink, began: float, counted: int) -> Iterator[Sample]:
    """Watch until nothing is due any more; what was cut off arrives twice, so the relay says when."""
    while True:
        yield Sample(time.monotonic() - began, sink.received(), usage(relay.pid).rss_mib)
        if not relay.api.get("/v1/status")["due"]:
            break
        expect(time.monotonic() - began < DEADLINE_S, "the backlog was not drained in time")
        time.sleep(0.25)
    yield Sample(max(time.monotonic() - began, 0.001), max(sink.received(), counted + 1), usage(relay.pid).rss_mib)


def _quarters(samples: list[Sample]) -> list[float]:
    """Return the rate in each quarter of what was delivered."""
    first, last = samples[0].received, samples[-1].received
    marks = [first + (last - first) * quarter / 4 for quarter in range(5)]
    times = [next(sample.at_s for sample in samples if sample.received >= mark) for mark in marks]
    return [(last - first) / 4 / max(end - begin, 0.001) for begin, end in pairwise(times)]


@contextmanager
def _killed(relay: Daemon) -> Iterator[Daemon]:
    try:
        yield relay
    finally:
        relay.kill()


def _made(folder: Path) -> Path:
    folder.mkdir()
    return folder


# -- memory, latency, processor ----------------------------------------------------------------------------------------


def memory(bench: Bench) -> str:
    """Watch a relay that has nothing to do, then let 64 connections post bodies of 900 kB at once."""
    idle_s = max(20 * bench.scale, 1.0)
    with ExitStack() as stack:
        sink = stack.enter_context(open_sink(bench.receiver, bench.folder))
        folder = stack.enter_context(scratch(bench))
        work = Work(bench.some(320, 64), body_bytes=900_000)
        relay = stack.enter_context(serving(folder, sink, work))
        time.sleep(2)
        before = usage(relay.pid)
        time.sleep(idle_s)
        idle = usage(relay.pid)
        post(target_of(relay, work), work)
        large = usage(relay.pid)
    share = (idle.cpu_s - before.cpu_s) / idle_s
    return (
        f"- idle: {idle.rss_mib:.0f} MiB, {share:.2%} of a core over {idle_s:.0f} s\n"
        f"- 64 connections posting bodies of 900 kB: {large.peak_mib:.0f} MiB at most"
    )


def half_load(bench: Bench) -> str:
    """Find the highest rate, then run at half of it: how old events are at the receiver, and what that takes."""
    with ExitStack() as stack:
        nginx = stack.enter_context(open_sink(bench.receiver, bench.folder))
        folder = stack.enter_context(scratch(bench))
        highest = run_relay(_made(folder / "highest"), nginx, Work(bench.some(15_000, 200))).delivered_rate
        sink = stack.enter_context(open_sink("python", bench.folder))
        work = Work(max(int(highest / 2 * HALF_S * bench.scale), 50), rate=highest / 2)
        relay = stack.enter_context(serving(_made(folder / "half"), sink, work))
        post(target_of(relay, work), Work(200, rate=highest / 2))
        _settle(sink, 200)
        sink.ages()
        counted, before, began = sink.counts(), usage(relay.pid), time.monotonic()
        load = post(target_of(relay, work), work)
        _settle(sink, counted.received + work.events)
        seconds, after, now, ages = time.monotonic() - began, usage(relay.pid), sink.counts(), sink.ages()
    cpu = (after.cpu_s - before.cpu_s) / min(load["seconds"], seconds)
    reused = 1 - (now.connections - counted.connections) / work.events
    return "\n".join(
        [
            f"{work.events:,} events of 600 bytes at {work.rate:,.0f}/s, half of {highest:,.0f}/s.",
            "",
            f"- producer's request → receiver: p50 {ages['p50']:.1f} ms, p90 {ages['p90']:.1f} ms, p99 {ages['p99']:.1f} ms",
            f"- producer's request → answer: p50 {load['p50_ms']:.1f} ms, p99 {load['p99_ms']:.1f} ms",
            f"- processor: {cpu:.2f} of a core, {(after.cpu_s - before.cpu_s) * 1e6 / work.events:,.0f} µs a delivery",
            f"- connections reused: {reused:.2%}",
        ]
    )


def _settle(sink: Sink, count: int) -> None:
    began = time.monotonic()
    while sink.received() < count:
        expect(time.monotonic() - began < DEADLINE_S, f"{sink.received()} of {count} deliveries arrived")
        time.sleep(0.02)


# -- retention ---------------------------------------------------------------------------------------------------------


def retention(bench: Bench) -> str:
    """Post at a steady rate before and while retention removes a million finished events."""
    events = bench.some(1_000_000, 3_000)
    kept = 'retention = {{ events = "{0}", attempts = "{0}", idempotency = "90d" }}'
    work = Work(max(int(RETENTION_S * RETENTION_RATE * bench.scale), 50), rate=RETENTION_RATE)
    latencies: list[dict[str, float]] = []
    left = 0
    with ExitStack() as stack:
        sink = stack.enter_context(open_sink(bench.receiver, bench.folder))
        folder = stack.enter_context(scratch(bench))
        for days in ("30d", "10d"):
            config = configuration(folder, sink, work, storage=kept.format(days))
            relay = (
                Daemon(folder, config) if latencies else seeded(folder, config, Seed(events, "delivered", 20 * DAY_MS))
            )
            stack.enter_context(_killed(started(relay)))
            post(target_of(relay, work), Work(100, rate=RETENTION_RATE))
            latencies.append(post(target_of(relay, work), work))
            expect(relay.stop() == 0, "the relay did not stop cleanly")
            left = _old_events(folder / "relay.db", events)
    before, during = latencies
    ratio = during["p99_ms"] / before["p99_ms"]
    return "\n".join(
        [
            f"{RETENTION_RATE} events/s beside {events:,} finished ones; of these {events - left:,} were removed meanwhile.",
            "",
            "| answer | before | while they go |",
            "|---|---|---|",
            f"| p50, ms | {before['p50_ms']:.1f} | {during['p50_ms']:.1f} |",
            f"| p99, ms | {before['p99_ms']:.1f} | {during['p99_ms']:.1f} (**{ratio:.2f}** ×) |",
        ]
    )


def _old_events(database: Path, up_to: int) -> int:
    with closing(sqlite3.connect(f"file:{database}?mode=ro", uri=True)) as connection:
        row: tuple[int] = connection.execute("SELECT count(*) FROM event WHERE ordinal <= ?", (up_to,)).fetchone()
        return row[0]


# -- bad neighbours ----------------------------------------------------------------------------------------------------

_NEIGHBOUR = """
[[application.endpoint]]
id = "{id}"
url = "{url}"
event_types = ["{type}"]
timeout = "5s"
secret = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
"""


def neighbours(bench: Bench) -> str:
    """Deliver to 100 healthy endpoints beside 20 that time out and 20 without a name, or beside 40 more that answer."""
    seconds = max(20 * bench.scale, 2.0)
    p99s: dict[str, list[dict[str, float]]] = {"bad": [], "control": []}
    with ExitStack() as stack:
        sink = stack.enter_context(open_sink("python", bench.folder))
        for number in range(max(bench.rounds // 2, 1)):
            for kind in sorted(p99s, reverse=bool(number % 2)):
                with scratch(bench) as folder:
                    p99s[kind].append(_beside(folder, sink, kind, seconds))
    ratios = [bad["p99"] / good["p99"] for bad, good in zip(p99s["bad"], p99s["control"], strict=True)]
    lines = ["| beside | p50, ms | p99, ms | longest, ms |", "|---|---|---|---|"]
    for kind, title in (("control", "40 that answer"), ("bad", "20 that time out, 20 without a name")):
        cells = [statistics.median(ages[name] for ages in p99s[kind]) for name in ("p50", "p99", "most")]
        lines.append(f"| {title} | " + " | ".join(f"{cell:.1f}" for cell in cells) + " |")
    return "\n".join(
        [
            "100 healthy endpoints get 5 events a second each, the 40 others 1; producer's request → receiver.",
            "",
            *lines,
            "",
            f"p99 of the healthy: **{statistics.median(ratios):.2f}** × the control.",
        ]
    )


def _beside(folder: Path, sink: Sink, kind: str, seconds: float) -> dict[str, float]:
    bad = [f"{sink.url}/silent/{number}" for number in range(20)]
    bad += [f"http://no-name-{number}.example.invalid/" for number in range(20)]
    others = bad if kind == "bad" else [f"{sink.url}/also/{number}" for number in range(40)]
    blocks = '\n[[application]]\nid = "town"\ncontract = "standard"\n'
    for number in range(100):
        blocks += _NEIGHBOUR.format(id=f"well-{number}", url=f"{sink.url}/well/{number}", type="well.a")
    for number, url in enumerate(others):
        blocks += _NEIGHBOUR.format(id=f"other-{number}", url=url, type="noise.a")
    config = configuration(folder, sink, Work(1), extra=blocks.replace('id = "town"', 'id = "app-0"'))
    well = Work(max(int(5 * seconds), 5), rate=5, connections=8, applications=1)
    with _killed(started(Daemon(folder, config))) as relay:
        target = target_of(relay, well)
        post(target, well._replace(events=5), "--type", "well.a")
        noise = threading.Thread(
            target=post,
            args=(target, well._replace(events=int(seconds) + 1, rate=1.0), "--type", "noise.a", "--body-bytes", "60"),
        )
        noise.start()
        time.sleep(1)
        sink.ages()
        post(target, well, "--type", "well.a")
        noise.join()
        return sink.ages()


# -- growth ------------------------------------------------------------------------------------------------------------


def growth(bench: Bench) -> str:
    """Measure what should not grow beside 10⁴, 10⁵ and 10⁶ deliveries that are due, or finished."""
    sizes = [max(int(10**power * bench.scale), 100) for power in (4, 5, 6)]
    found: dict[str, list[tuple[float, float]]] = {}
    with open_sink(bench.receiver, bench.folder) as sink:
        for state in ("due", "dead"):
            for size in sizes:
                print(f"    {size:,} {state}", file=sys.stderr, flush=True)
                with scratch(bench) as folder:
                    for name, value in _measured(folder, sink, Seed(size, state), bench).items():
                        found.setdefault(f"{name}, {state}", []).append((float(size), max(value, 0.001)))
    bench.out.mkdir(parents=True, exist_ok=True)
    (bench.out / "growth.svg").write_text(draw("What grows with the rows", "ms, MiB or events/s", found))
    lines = ["| | " + " | ".join(f"{size:,}" for size in sizes) + " |", "|---|" + "---|" * len(sizes)]
    lines += [f"| {name} | " + " | ".join(f"{value:,.4g}" for _, value in line) + " |" for name, line in found.items()]
    return "\n".join(["Rows of one endpoint, whose deliveries are held; see growth.svg.", "", *lines])


def _measured(folder: Path, sink: Sink, rows: Seed, bench: Bench) -> Mapping[str, float]:
    work = Work(bench.some(3_000, 100), 1)
    config = configuration(folder, sink, work)
    relay = seeded(folder, config, rows, paused=True)
    began = time.monotonic()
    with _killed(started(relay)):
        ready_ms = (time.monotonic() - began) * 1000
        rss = usage(relay.pid).rss_mib
        asked = {
            "list": "/v1/deliveries?limit=50",
            "old list": "/v1/events?limit=50&until=2026-01-01T00:00:00Z",
            "dead letters": "/v1/dead-letters",
            "status": "/v1/status",
        }
        times = {f"{name}, ms": _asked_ms(relay, path) for name, path in asked.items()}
        load = post(target_of(relay, work), work)
        return {"start, ms": ready_ms, "memory, MiB": rss, **times, "intake, events/s": work.events / load["seconds"]}


def _asked_ms(relay: Daemon, path: str) -> float:
    times = []
    for _ in range(5):
        began = time.monotonic()
        relay.api.get(path)
        times.append((time.monotonic() - began) * 1000)
    return statistics.median(times)


STATES: Mapping[str, Row] = {
    "half-load": half_load,
    "million": million,
    "memory": memory,
    "retention": retention,
    "neighbours": neighbours,
    "growth": growth,
}
"""The rows by name, in the order in which they run."""
