"""The rows that compare sides on the same work. Each returns Markdown; `bench.run` names and runs them."""

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import NamedTuple

from bench.contracts import example_event
from bench.sides import BOTH, Run, Side, Work, compare, report, run_relay, variant
from bench.sinks import Sink, open_sink


class Bench(NamedTuple):
    """What every row works with."""

    folder: Path  # for databases; a row leaves nothing in it
    rounds: int
    scale: float = 1.0  # of the events of each row; 1 for figures that count
    receiver: str = "auto"
    out: Path = Path("bench/out")  # for what is to be kept
    against: Path | None = None  # another checkout of the relay: rows compare it with this one

    def some(self, events: int, at_least: int = 1) -> int:
        """Return how many events a row takes, at this scale."""
        return max(int(events * self.scale), at_least)

    def sides(self, own: Mapping[str, Side]) -> Mapping[str, Side]:
        """Return what a row compares: its own sides, or the last of them as it is in both checkouts."""
        if self.against is None:
            return own
        *_, last = own.values()
        return {self.against.name: partial(_of_tree, last, self.against), "this tree": last}


def _of_tree(side: Side, tree: Path, folder: Path, sink: Sink, work: Work) -> Run:
    return side(folder, sink, work._replace(tree=tree))


Row = Callable[[Bench], str]


def compared(work: Work, sides: Mapping[str, Side] = BOTH, *, tls: bool = False) -> Row:
    """Return the row that compares sides on some work."""

    def row(bench: Bench) -> str:
        scaled = work._replace(events=bench.some(work.events, 2 * work.batch) // work.batch * work.batch)
        with ExitStack() as stack:
            sink = stack.enter_context(open_sink(bench.receiver, bench.folder, tls=tls))
            rounds = compare(sink, scaled, bench.rounds, bench.folder, bench.sides(sides))
        return f"{_told(scaled, bench.rounds, sink)}\n\n{report(rounds)}"

    return row


def _told(work: Work, rounds: int, sink: Sink) -> str:
    each = f", {work.fan_out} deliveries each" if work.fan_out > 1 else ""
    size = len(work.event) or work.body_bytes
    return f"{work.events:,} events of {size:,} bytes{each}, {rounds} rounds, receiver {sink.kind}."


def failures(bench: Bench) -> str:
    """Compare the relay with itself, while one answer in five is a 500 that is tried again a second later."""
    work = Work(
        bench.some(8_000, 20), delivery='retry = { schedule = ["1s", "1s", "1s", "1s", "1s", "1s", "1s", "1s"] }'
    )
    with ExitStack() as stack:
        well = stack.enter_context(open_sink("python", bench.folder))
        badly = stack.enter_context(open_sink("python", bench.folder, fail_one_in=5))

        def failing(folder: Path, sink: Sink, work: Work) -> Run:
            return run_relay(folder, badly, work)

        sides: dict[str, Side] = {"all answered": run_relay, "20 % failed": failing}
        rounds = compare(well, work, bench.rounds, bench.folder, bench.sides(sides))
    return f"{_told(work, bench.rounds, well)} A delivery counts when it is taken at last.\n\n{report(rounds)}"


def contract(name: str) -> Row:
    """Return the row that compares a contract with `standard`, on its first example with ids that differ."""

    def row(bench: Bench) -> str:
        work = Work(bench.some(15_000), event=example_event(name))
        sides = {"standard": run_relay, name: variant(contract=name)}
        return compared(work, sides)(bench._replace(scale=1.0))

    return row


def applications(bench: Bench) -> str:
    """Compare 1,000 applications of ten endpoints each, posted to in turn, with one of them."""
    many = max(int(1000 * bench.scale), 2)
    sides = {"one application": variant(applications=1), f"{many:,} applications": variant(applications=many)}
    return compared(Work(15_000), sides)(bench)


def filters(bench: Bench) -> str:
    """Compare intake for 100 applications whose ten endpoints all have a filter with as many of which one subscribes."""
    many = max(int(100 * bench.scale), 2)
    sides = {"one subscribes": variant(applications=many), "ten filters": variant(applications=many, filtered=True)}
    return compared(Work(20_000, deliver=False), sides)(bench)


PAIRS: Mapping[str, Row] = {
    "fan-out-1": compared(Work(15_000)),
    "fan-out-10": compared(Work(3_000, 10)),
    "fan-out-100": compared(Work(300, 100)),
    "intake": compared(Work(15_000, deliver=False)),
    "applications": applications,
    "filters": filters,
    "body-16k": compared(Work(5_000, body_bytes=16 << 10)),
    "body-900k": compared(Work(250, body_bytes=900 << 10)),
    "tls": compared(Work(10_000), tls=True),
    "strict": compared(
        Work(8_000), {"in no order": run_relay, "strict": variant(contract="ordered", ordering_keys=64)}
    ),
    "failures": failures,
    "unix": compared(Work(15_000), {"TCP": run_relay, "Unix socket": variant(unix=True)}),
    "batch-100": compared(Work(30_000), {"one by one": run_relay, "batches of 100": variant(batch=100)}),
    "contract": contract("videoaiditor"),
}
"""The rows by name, in the order in which they run."""
