"""An hour at half load: `make soak`, `SOAK_MINUTES=5 make soak`. Memory, descriptors, WAL and latency must stay flat.

Retention runs meanwhile, so that what is kept does not grow either. Each sample is a line on stderr; the Markdown on
stdout says for each figure whether its last quarter is above its second, which the caches have filled before. Exits 1 if
one is.
"""

import argparse
import statistics
import sys
import tempfile
import threading
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple

from bench.run import machine
from bench.sides import Work, configuration, expect, post, run_relay, target_of
from bench.sinks import open_sink
from bench.watched import descriptors, usage, wal_mib
from tests.support.daemon import Daemon

EVERY_S = 10.0
RETENTION = 'retention = { events = "10m", attempts = "5m", idempotency = "10m", memory = "10m" }'


class Sample(NamedTuple):
    """The relay at one moment; latencies are of what arrived since the sample before."""

    memory_mib: float
    descriptors: float
    wal_mib: float
    p50_ms: float
    p99_ms: float


class Verdict(NamedTuple):
    """One figure over the whole time: its median in the second quarter and in the last, and whether that is flat."""

    name: str
    early: float
    late: float
    most: float
    flat: bool


ALLOWED = {
    "memory_mib": (1.1, 8.0),
    "descriptors": (1.1, 16.0),
    "wal_mib": (1.5, 16.0),
    "p50_ms": (1.5, 2.0),
    "p99_ms": (1.5, 5.0),
}
"""How many times the early median, and how much beside it, the late one may be and still be flat."""


def judge(samples: Sequence[Sample]) -> list[Verdict]:
    """Compare the second quarter of the time with the last."""
    quarter = len(samples) // 4
    expect(quarter > 0, f"{len(samples)} samples are too few to judge")
    verdicts = []
    for name, (times, more) in ALLOWED.items():
        values = [getattr(sample, name) for sample in samples]
        early, late = statistics.median(values[quarter : 2 * quarter]), statistics.median(values[-quarter:])
        flat = late <= max(early * times, early + more)
        verdicts.append(Verdict(name, early, late, max(values), flat))
    return verdicts


def report(verdicts: Sequence[Verdict]) -> str:
    lines = ["| median | second quarter | last quarter | at most | |", "|---|---|---|---|---|"]
    lines += [
        f"| {name.replace('_', ', ').replace('mib', 'MiB')} | {early:,.1f} | {late:,.1f} | {most:,.1f} "
        f"| {'flat' if flat else '**grows**'} |"
        for name, early, late, most, flat in verdicts
    ]
    return "\n".join(lines)


def soak(folder: Path, minutes: float, every_s: float = EVERY_S) -> list[Sample]:
    """Find the highest rate, then run at half of it, and look at the relay every few seconds."""
    samples: list[Sample] = []
    with ExitStack() as stack:
        (folder / "highest").mkdir()
        nginx = stack.enter_context(open_sink("auto", folder))
        rate = run_relay(folder / "highest", nginx, Work(10_000 if minutes >= 1 else 200)).delivered_rate / 2
        sink = stack.enter_context(open_sink("python", folder))
        work = Work(max(int(rate * minutes * 60), 10), rate=rate, delivery='max_age = "5m"')
        with Daemon(folder, configuration(folder, sink, work, storage=RETENTION)) as relay:
            print(f"    {rate:,.0f} events/s for {minutes:g} minutes", file=sys.stderr, flush=True)
            load = threading.Thread(target=post, args=(target_of(relay, work), work))
            load.start()
            while load.is_alive():
                load.join(every_s)
                ages = sink.ages()
                figures = usage(relay.pid).rss_mib, float(descriptors(relay.pid)), wal_mib(folder / "relay.db")
                samples.append(Sample(*figures, ages["p50"], ages["p99"]))
                print("    " + " ".join(f"{value:,.1f}" for value in samples[-1]), file=sys.stderr, flush=True)
            expect(relay.stop() == 0, "the relay did not stop cleanly")
    return samples[:-1]  # the last one was cut short


def main() -> None:
    parser = argparse.ArgumentParser(prog="bench.soak", description=__doc__)
    parser.add_argument("--minutes", type=float, default=60)
    parser.add_argument("--folder", default="bench/out")
    arguments = parser.parse_args()
    out = Path(arguments.folder).resolve()
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out) as folder:
        verdicts = judge(soak(Path(folder), arguments.minutes))
    print(f"{machine()}\n\n### soak, {arguments.minutes:g} minutes at half load\n\n{report(verdicts)}")
    sys.exit(0 if all(verdict.flat for verdict in verdicts) else 1)


if __name__ == "__main__":
    main()
