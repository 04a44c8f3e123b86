"""The sides of a comparison: bare, lean, and the relay in its variants, each on the same work.

A run starts a side in a folder of its own, lets the load post, waits until the receiver has every delivery, and counts
what that took. Sides run alternately, the one that goes first changing from round to round.
"""

import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from bench.contracts import under_contract
from bench.sinks import Sink
from bench.watched import Usage, usage
from tests.support.daemon import PRODUCER_TOKEN, Daemon, config_text
from tests.support.warm import ROOT

DEADLINE_S = 900.0
PATIENCE_S = 180.0
CONNECTIONS = 64
GLOBAL_CONCURRENCY = 256
ENDPOINT_CONCURRENCY = 64
ANY_TOKEN = "test-anybody-token-0123456789"
"""Of a producer who names the application."""

_ANYBODY = f'[[token]]\nname = "anybody"\nrole = "producer"\nsecret = "{ANY_TOKEN}"\n'
_ORDERED = 'description = "in strict order"\nextends = "standard"\n[ordering]\nmode = "strict"\n'
_OTHER_ENDPOINT = """
[[application.endpoint]]
id = "ep-{number}-{place}"
url = "{url}/{number}/{place}"
event_types = ["{type}"]
secret = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
"""
_FILTER = 'filter = {{ "data.at" = {{ "$exists" = true }}, type = {{ "$suffix" = ".event" }}, "data.padding" = {{ "$prefix" = "{}" }} }}\n'
"""Three conditions on what the load posts, of which the last decides."""


class Work(NamedTuple):
    """What every side has to do, and how the relay is set up for it."""

    events: int
    fan_out: int = 1
    body_bytes: int = 600
    event: str = ""  # what to post; "": padding of `body_bytes`
    connections: int = CONNECTIONS
    rate: float = 0.0  # requests per second; 0: as fast as they are answered
    batch: int = 1
    unix: bool = False
    contract: str = "standard"
    ordering_keys: int = 0
    applications: int = 0  # beside the one that is always there, with ten endpoints each
    filtered: bool = False  # all ten subscribe to what is posted, and a filter lets it through to one
    deliver: bool = True  # False: to endpoints that are paused, so that intake is measured alone
    delivery: str = ""  # TOML lines of `[delivery]`
    tree: Path = ROOT  # the checkout whose relay works

    @property
    def deliveries(self) -> int:
        return self.events * self.fan_out if self.deliver else 0

    @property
    def concurrency(self) -> int:
        return min(GLOBAL_CONCURRENCY, ENDPOINT_CONCURRENCY * self.fan_out)


class Run(NamedTuple):
    """What came of it, per second and in milliseconds."""

    accepted_rate: float
    delivered_rate: float  # all deliveries, from the first request sent to the last delivery received
    p50_ms: float
    p99_ms: float
    cpu_us: float = 0.0  # of the side's process, user and system, for each delivery, or event without one
    peak_mib: float = 0.0
    reused: float = 0.0  # share of deliveries over a connection that was open already


Side = Callable[[Path, Sink, Work], Run]
"""Runs the work in a folder of its own."""


def run_bare(folder: Path, sink: Sink, work: Work, *flags: str) -> Run:
    """Run the work through the bare pipeline."""
    fan_out = work.fan_out if work.deliver else 0
    command = [sys.executable, "-m", "bench.bare", "--database", str(folder / "bare.db"), "--receiver", sink.url]
    command += ["--fan-out", str(fan_out), "--concurrency", str(work.concurrency), *flags]
    command += ["--ca", "" if sink.ca is None else str(sink.ca)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            target = ["--port", process.stdout.readline().strip()]
            return measure(process.pid, target, sink, work)
        finally:
            process.terminate()


def run_lean(folder: Path, sink: Sink, work: Work) -> Run:
    """Run the work through the bare pipeline with the relay's own courier."""
    return run_bare(folder, sink, work, "--lean")


def run_relay(folder: Path, sink: Sink, work: Work) -> Run:
    """Run the work through `relay serve`."""
    with serving(folder, sink, work) as relay:
        run = measure(relay.pid, target_of(relay, work), sink, work)
        expect(relay.stop() == 0, "the relay did not stop cleanly")
        return run


def variant(**changes: Any) -> Side:
    """Return a side: the relay on the same work, set up or fed in another way."""
    return lambda folder, sink, work: run_relay(folder, sink, work._replace(**changes))


@contextmanager
def serving(folder: Path, sink: Sink, work: Work) -> Iterator[Daemon]:
    """Run a relay that is set up for some work."""
    relay = Daemon(folder, configuration(folder, sink, work), tree=work.tree)
    try:
        started(relay)
        if not work.deliver:
            paused = [f"bench-{number}" for number in range(work.fan_out)]
            for name in paused + [f"ep-{number}-0" for number in range(work.applications)]:
                relay.api.post(f"/v1/webhook-endpoints/{name}/pause")
        yield relay
    finally:
        relay.kill()


def started(relay: Daemon) -> Daemon:
    """Start a relay, with more patience than tests have: the figures say whether it was fast."""
    relay.launch()
    relay.wait_for_notification("READY=1", PATIENCE_S)
    return relay


def configuration(folder: Path, sink: Sink, work: Work, *, storage: str = "", extra: str = "") -> str:
    """Write the relay's configuration for some work."""
    contract = "standard" if work.contract != "ordered" else "ordered"
    if contract == "ordered":
        (folder / "contracts").mkdir(exist_ok=True)
        (folder / "contracts" / "ordered.toml").write_text(_ORDERED)
    tls = "" if sink.ca is None else f'\ntls = {{ ca_file = "{sink.ca}" }}'
    text = config_text(
        folder,
        endpoints={f"bench-{number}": f"{sink.url}/{number}" for number in range(work.fan_out)},
        endpoint_settings=f'concurrency = {ENDPOINT_CONCURRENCY}\nevent_types = ["*"]\n',
        contract=contract,
        delivery=f"concurrency = {GLOBAL_CONCURRENCY}\n{work.delivery}{tls}",
        storage=storage,
        extra=_ANYBODY + _others(sink, work) + extra,
    )
    return text if work.contract in ("standard", "ordered") else under_contract(text, work.contract)


def _others(sink: Sink, work: Work) -> str:
    """Write applications of ten endpoints each, one of which gets what the load posts."""
    text = ""
    for number in range(work.applications):
        text += f'\n[[application]]\nid = "app-{number}"\ncontract = "standard"\n'
        for place in range(10):
            kind = "other.event" if place and not work.filtered else "bench.event"
            text += _OTHER_ENDPOINT.format(number=number, place=place, url=sink.url, type=kind)
            text += _FILTER.format("y" * place + "x") if work.filtered else ""
    return text


def target_of(relay: Daemon, work: Work) -> list[str]:
    """Say to the load where the relay listens."""
    return ["--socket", str(relay.socket_path)] if work.unix else ["--port", str(relay.port)]


def measure(pid: int, target: Sequence[str], sink: Sink, work: Work) -> Run:
    """Do the work, and count what it took."""
    before, counted = usage(pid), sink.counts()
    load = post(target, work)
    for _ in until_received(sink, counted.received + work.deliveries):
        pass
    seconds = time.monotonic() - load["started_at"]
    after, now = usage(pid), sink.counts()
    opened = now.connections - counted.connections
    reused = 1 - opened / work.deliveries if work.deliveries else 0.0
    rates = (work.events / load["seconds"], work.deliveries / seconds)
    return Run(*rates, load["p50_ms"], load["p99_ms"], _cpu_us(before, after, work), after.peak_mib, reused)


def _cpu_us(before: Usage, after: Usage, work: Work) -> float:
    return (after.cpu_s - before.cpu_s) * 1e6 / (work.deliveries or work.events)


def post(target: Sequence[str], work: Work, *flags: str) -> dict[str, float]:
    """Let the load post the events of some work; what it measured."""
    token = ANY_TOKEN if work.applications else PRODUCER_TOKEN
    command = [sys.executable, "-m", "bench.load", *target, "--token", token, "--events", str(work.events)]
    command += [
        "--body-bytes",
        str(work.body_bytes),
        "--connections",
        str(work.connections),
        "--batch",
        str(work.batch),
    ]
    command += ["--rate", str(work.rate), "--event", work.event, "--ordering-keys", str(work.ordering_keys)]
    command += ["--applications", str(work.applications), *flags]
    done = subprocess.run(command, stdout=subprocess.PIPE, check=True, timeout=DEADLINE_S)
    result: dict[str, float] = json.loads(done.stdout)
    expect(result["accepted"] == work.events, f"only {result['accepted']} accepted: {result['first_refusal']}")
    return result


def until_received(sink: Sink, count: int, every_s: float = 0.02) -> Iterable[int]:
    """Yield how many deliveries have arrived until all have; a delivery too much is a mistake."""
    deadline = time.monotonic() + DEADLINE_S
    while (received := sink.received()) < count:
        expect(time.monotonic() < deadline, f"{received} of {count} deliveries arrived in {DEADLINE_S} s")
        yield received
        time.sleep(every_s)
    expect(received == count, f"{received} deliveries arrived where {count} were due")


class Failed(Exception):
    """A row could not be measured; the sentence says why."""


def expect(fact: bool, otherwise: str) -> None:
    """Give the row up unless something holds."""
    if not fact:
        raise Failed(otherwise)


# -- comparing -----------------------------------------------------------------------------------------------------------

BOTH: Mapping[str, Side] = {"bare": run_bare, "lean": run_lean, "relay": run_relay}


def compare(
    sink: Sink, work: Work, rounds: int, folder: Path, sides: Mapping[str, Side] = BOTH
) -> list[dict[str, Run]]:
    """Run every side in each round, the order turning from round to round."""
    names = list(sides)
    results = []
    for number in range(rounds):
        turn = number % len(names)
        runs = {}
        for name in names[turn:] + names[:turn]:
            with tempfile.TemporaryDirectory(dir=folder) as own:
                runs[name] = sides[name](Path(own), sink, work)
            rate = runs[name].delivered_rate or runs[name].accepted_rate
            print(f"    round {number + 1} {name}: {rate:,.0f}/s", file=sys.stderr, flush=True)
        results.append(runs)
    return results


_MEASURES = (
    ("accepted/s", "accepted_rate", 0),
    ("delivered/s, end to end", "delivered_rate", 0),
    ("answer p50, ms", "p50_ms", 1),
    ("answer p99, ms", "p99_ms", 1),
    ("CPU for each delivery, µs", "cpu_us", 0),
    ("memory at most, MiB", "peak_mib", 0),
)


def report(rounds: Sequence[Mapping[str, Run]]) -> str:
    """One table: medians of each side, and the ratio of the last to the others with its spread, taken within a round."""
    *others, last = rounds[0]
    heads = [*others, last, *(f"{last} ÷ {other} (lowest – highest)" for other in others)]
    lines = ["| median | " + " | ".join(heads) + " |", "|---|" + "---|" * len(heads)]
    for title, measured, digits in _MEASURES:
        values = {name: [getattr(runs[name], measured) for runs in rounds] for name in rounds[0]}
        if not any(map(any, values.values())):
            continue  # there is none: of deliveries, where intake is measured alone
        cells = [f"{statistics.median(values[name]):,.{digits}f}" for name in (*others, last)]
        cells += [
            spread([one / other for one, other in zip(values[last], values[name], strict=True)]) for name in others
        ]
        lines.append(f"| {title} | " + " | ".join(cells) + " |")
    shares = [runs[last].reused for runs in rounds]
    if any(shares):
        lines += ["", f"Of {last}'s deliveries {min(shares):.2%} or more went over a connection that was open already."]
    return "\n".join(lines)


def spread(ratios: Sequence[float]) -> str:
    """Write a ratio's median with its lowest and highest value."""
    return f"**{statistics.median(ratios):.2f}** ({min(ratios):.2f} – {max(ratios):.2f})"
