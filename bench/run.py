"""Compare the relay with the bare pipeline, or a contract with `standard`: `make bench`, `python -m bench.run --help`.

Each pair runs both on the same work, in alternating order; a figure is a median over pairs, and a ratio is taken within
a pair. Prints Markdown for `bench/README.md`.
"""

import argparse
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import NamedTuple

from bench.contracts import example_event, under_contract
from bench.sinks import Sink, open_sink
from tests.support.daemon import PRODUCER_TOKEN, Daemon, config_text

DEADLINE_S = 1800.0
CONNECTIONS = 64
GLOBAL_CONCURRENCY = 256
ENDPOINT_CONCURRENCY = 64


class Work(NamedTuple):
    """What both sides have to do."""

    events: int
    fan_out: int
    body_bytes: int
    event: str = ""  # what to post; "": padding of `body_bytes`
    mark: str = ""  # what of it becomes a number

    @property
    def deliveries(self) -> int:
        return self.events * self.fan_out

    @property
    def concurrency(self) -> int:
        return min(GLOBAL_CONCURRENCY, ENDPOINT_CONCURRENCY * self.fan_out)


class Run(NamedTuple):
    """What came of it, per second and in milliseconds."""

    accepted_rate: float
    delivered_rate: float  # all deliveries, from the first request sent to the last delivery received
    p50_ms: float
    p99_ms: float


Side = Callable[[Path, Sink, Work], Run]
"""Runs the work in a folder of its own."""


class Drain(NamedTuple):
    """What draining a backlog took."""

    deliveries: int
    rate: float
    rss_mib: list[float]  # sampled over the drain; the first was taken before it began


def run_bare(folder: Path, sink: Sink, work: Work) -> Run:
    """Run the work through the bare pipeline."""
    command = [sys.executable, "-m", "bench.bare", "--database", str(folder / "bare.db"), "--receiver", sink.url]
    command += ["--fan-out", str(work.fan_out), "--concurrency", str(work.concurrency)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            return _measure(int(process.stdout.readline()), sink, work)
        finally:
            process.terminate()


def run_relay(folder: Path, sink: Sink, work: Work, contract: str = "standard") -> Run:
    """Run the work through `relay serve`."""
    with Daemon(folder, _config(folder, sink, work, contract)) as relay:
        run = _measure(relay.port, sink, work)
        _expect(relay.stop() == 0, "the relay did not stop cleanly")
        return run


def drain_backlog(folder: Path, sink: Sink, work: Work) -> Drain:
    """Fill a backlog while the endpoints are paused, then resume them and watch."""
    with Daemon(folder, _config(folder, sink, work)) as relay:
        for number in range(work.fan_out):
            relay.api.post(f"/v1/webhook-endpoints/bench-{number}/pause")
        _load(relay.port, work)
        before = sink.received()
        rss_mib = [_rss_mib(relay.pid)]
        started = time.perf_counter()
        for number in range(work.fan_out):
            relay.api.post(f"/v1/webhook-endpoints/bench-{number}/resume")
        rss_mib += [_rss_mib(relay.pid) for _ in _until_received(sink, before + work.deliveries, every_s=0.1)]
        seconds = time.perf_counter() - started
        return Drain(work.deliveries, work.deliveries / seconds, rss_mib)


def _config(folder: Path, sink: Sink, work: Work, contract: str = "standard") -> str:
    text = config_text(
        folder,
        endpoints={f"bench-{number}": f"{sink.url}/{number}" for number in range(work.fan_out)},
        endpoint_settings=f'concurrency = {ENDPOINT_CONCURRENCY}\nevent_types = ["*"]',
        delivery=f"concurrency = {GLOBAL_CONCURRENCY}",
    )
    return text if contract == "standard" else under_contract(text, contract)


def _measure(port: int, sink: Sink, work: Work) -> Run:
    before = sink.received()
    load = _load(port, work)
    for _ in _until_received(sink, before + work.deliveries, every_s=0.02):
        pass
    seconds = time.monotonic() - load["started_at"]
    return Run(work.events / load["seconds"], work.deliveries / seconds, load["p50_ms"], load["p99_ms"])


def _load(port: int, work: Work) -> dict[str, float]:
    command = [sys.executable, "-m", "bench.load", "--port", str(port), "--token", PRODUCER_TOKEN]
    command += ["--events", str(work.events), "--body-bytes", str(work.body_bytes), "--connections", str(CONNECTIONS)]
    command += ["--event", work.event, "--mark", work.mark]
    done = subprocess.run(command, stdout=subprocess.PIPE, check=True, timeout=DEADLINE_S)
    result: dict[str, float] = json.loads(done.stdout)
    _expect(result["accepted"] == work.events, f"only {result['accepted']} accepted: {result['first_refusal']}")
    return result


def _until_received(sink: Sink, count: int, every_s: float) -> Iterable[int]:
    deadline = time.monotonic() + DEADLINE_S
    while (received := sink.received()) < count:
        _expect(time.monotonic() < deadline, f"{received} of {count} deliveries arrived in {DEADLINE_S} s")
        yield received
        time.sleep(every_s)
    _expect(received == count, f"{received} deliveries arrived where {count} were due")


def _rss_mib(pid: int) -> float:
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def _expect(fact: bool, otherwise: str) -> None:
    if not fact:
        raise SystemExit(f"bench: {otherwise}")


def compare(
    sink: Sink, work: Work, pairs: int, folder: Path, sides: Mapping[str, Side] | None = None
) -> list[tuple[Run, Run]]:
    """Run `pairs` pairs of both sides, bare and relay unless others are given; the one that goes first alternates."""
    sides = sides or {"bare": run_bare, "relay": run_relay}
    first, second = sides
    results = []
    for number in range(pairs):
        order = (first, second) if number % 2 == 0 else (second, first)
        runs = {}
        for side in order:
            with tempfile.TemporaryDirectory(dir=folder) as own:
                runs[side] = sides[side](Path(own), sink, work)
            print(f"  pair {number + 1} {side}: {runs[side].delivered_rate:,.0f} deliveries/s", file=sys.stderr)
        results.append((runs[first], runs[second]))
    return results


def report_pairs(work: Work, pairs: list[tuple[Run, Run]], sides: Iterable[str] = ("bare", "relay")) -> str:
    """One table: medians, and the ratio of the second side to the first with its spread."""
    first, second = sides
    rows = [
        ("accepted/s", [(one.accepted_rate, other.accepted_rate) for one, other in pairs]),
        ("delivered/s, end to end", [(one.delivered_rate, other.delivered_rate) for one, other in pairs]),
        ("answer p50, ms", [(one.p50_ms, other.p50_ms) for one, other in pairs]),
        ("answer p99, ms", [(one.p99_ms, other.p99_ms) for one, other in pairs]),
    ]
    lines = [
        f"### fan-out {work.fan_out}: {work.events:,} events of {work.body_bytes} bytes, {len(pairs)} pairs",
        "",
        f"| median | {first} | {second} | {second} ÷ {first} | lowest – highest |",
        "|---|---|---|---|---|",
    ]
    return "\n".join(lines + [_row(name, values) for name, values in rows])


def _row(name: str, values: list[tuple[float, float]]) -> str:
    one, other = (statistics.median(side) for side in zip(*values, strict=True))
    ratios = sorted(other / one for one, other in values)
    digits = 1 if name.endswith("ms") else 0
    return (
        f"| {name} | {one:,.{digits}f} | {other:,.{digits}f} | {statistics.median(ratios):.2f} "
        f"| {ratios[0]:.2f} – {ratios[-1]:.2f} |"
    )


def report_drain(drain: Drain, hot: list[Run]) -> str:
    """What the drain took, and memory over its course."""
    samples = drain.rss_mib
    quarters = [samples[len(samples) * quarter // 4] for quarter in range(4)]
    against_hot = (
        f", {drain.rate / statistics.median(run.delivered_rate for run in hot):.2f} × the hot rate" if hot else ""
    )
    memory = (
        f"{quarters[0]:.0f} MiB before, {quarters[1]:.0f} / {quarters[2]:.0f} / {quarters[3]:.0f} MiB at each quarter, "
        f"{samples[-1]:.0f} MiB at the end, {max(samples):.0f} MiB at most ({len(samples)} samples)"
    )
    return "\n".join(
        [
            f"### backlog of {drain.deliveries:,} deliveries",
            "",
            f"- drained at {drain.rate:,.0f} deliveries/s{against_hot}",
            f"- resident memory: {memory}",
        ]
    )


def main() -> None:
    arguments = _arguments()
    folder = Path(arguments.folder).resolve()
    folder.mkdir(parents=True, exist_ok=True)
    with ExitStack() as stack:
        scratch = Path(stack.enter_context(tempfile.TemporaryDirectory(dir=folder)))
        sink = stack.enter_context(open_sink(arguments.receiver, scratch))
        print(
            f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}, receiver {sink.kind}\n"
        )
        if arguments.contract:
            _contract(arguments, sink, scratch)
            return
        hot: list[Run] = []
        for fan_out in arguments.fan_out:
            work = Work(max(1, arguments.events // fan_out), fan_out, arguments.body_bytes)
            pairs = compare(sink, work, arguments.pairs, scratch)
            hot = hot or [relay for _, relay in pairs if fan_out == 1]
            print(report_pairs(work, pairs), end="\n\n", flush=True)
        if arguments.backlog:
            drain = drain_backlog(scratch, sink, Work(arguments.backlog, 1, arguments.body_bytes))
            print(report_drain(drain, hot))


def _contract(arguments: argparse.Namespace, sink: Sink, folder: Path) -> None:
    """Compare a contract with `standard`, both in a relay, on the same events: the contract's first example."""
    event, mark = example_event(arguments.contract)
    sides: dict[str, Side] = {
        "standard": run_relay,
        arguments.contract: partial(run_relay, contract=arguments.contract),
    }
    for fan_out in arguments.fan_out:
        work = Work(max(1, arguments.events // fan_out), fan_out, len(event.encode()), event, mark)
        pairs = compare(sink, work, arguments.pairs, folder, sides)
        print(report_pairs(work, pairs, sides), end="\n\n", flush=True)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="bench.run", description=__doc__)
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--events", type=int, default=30_000, help="deliveries of a run; events at fan-out 1")
    parser.add_argument("--fan-out", type=int, nargs="*", default=[1, 10])
    parser.add_argument("--backlog", type=int, default=200_000, help="0 leaves it out")
    parser.add_argument("--body-bytes", type=int, default=600)
    parser.add_argument("--contract", metavar="NAME", help="compare this contract with standard, not relay with bare")
    parser.add_argument("--receiver", choices=["auto", "nginx", "python"], default="auto")
    parser.add_argument("--folder", default="bench/out", help="where databases go: a real disk, not tmpfs")
    arguments = parser.parse_args()
    if arguments.receiver == "nginx" and shutil.which("nginx") is None:
        parser.error("nginx is not installed; `apt-get install nginx-light`, or --receiver python")
    return arguments


if __name__ == "__main__":
    main()
