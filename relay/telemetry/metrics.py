"""What the relay counts, and how Prometheus reads it.

Counting is adding to plain numbers on the event loop's thread, because it happens several times for each delivery. The
numbers become metric families only when somebody asks for them.
"""

from bisect import bisect_left
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import accumulate

from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client.exposition import choose_encoder
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from relay.core.model import DeadReason, DeliveryState, Outcome, Trace, Trigger
from relay.telemetry.labels import APPLICATIONS_MAX, ENDPOINTS_MAX, OTHER, EndpointLabels

ATTEMPT_BOUNDS_S = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 15, 30, 60)
LATENCY_BOUNDS_S = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1, 5, 30, 300, 3_600, 21_600, 86_400, 432_000)
COMMIT_BOUNDS_S = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1, 5)

PARTS = tuple(name.removesuffix("_ms") for name in Trace._fields[:4])
"""The parts of an attempt that are timed."""

Labels = tuple[str, ...]

_STATUS_CLASSES = ("", "1xx", "2xx", "3xx", "4xx", "5xx")


@dataclass(frozen=True, slots=True)
class Readings:
    """The gauges at the moment somebody asks. None: not known, so not shown."""

    due: int
    dead: int
    in_flight: int
    ready: bool
    database_bytes: int
    wal_bytes: int
    disk_free_bytes: int
    uptime_s: float
    oldest_due_s: float | None = None
    loop_lag_s: float | None = None
    clock_trusted: bool = True
    disk_free_min_bytes: int = 0  # below it intake closes
    log_lines_dropped: int = 0
    replays: int = 0  # that are not over
    replays_left: int = 0  # deliveries that they have before them
    endpoint_states: Mapping[str, str] = field(
        default_factory=dict
    )  # by id, the one word; only those shown are asked for
    endpoints: Mapping[str, int] = field(default_factory=dict)  # how many there are, by that word
    certificates_end_s: Sequence[tuple[str, str, float]] = ()  # endpoint, whose, unix time
    applications: Mapping[str, tuple[int, int]] = field(default_factory=dict)  # by id: due deliveries, their bytes


class Histogram:
    """How often a duration fell between which bounds."""

    def __init__(self, bounds_s: tuple[float, ...]) -> None:
        self._bounds_ms = tuple(bound * 1_000 for bound in bounds_s)
        self._counts = [0] * (len(bounds_s) + 1)
        self._sum_ms = 0.0

    def add(self, duration_ms: float) -> None:
        self._counts[bisect_left(self._bounds_ms, duration_ms)] += 1
        self._sum_ms += duration_ms

    def family(self, name: str, documentation: str) -> Metric:
        """Write it in seconds, with cumulative buckets."""
        return HistogramMetricFamily(name, documentation, buckets=self.buckets(), sum_value=self.sum_s)

    def buckets(self) -> list[tuple[str, float]]:
        """Return how many durations were at most so many seconds, for each bound."""
        bounds = [str(bound / 1_000) for bound in self._bounds_ms] + ["+Inf"]
        return list(zip(bounds, accumulate(self._counts), strict=True))

    @property
    def sum_s(self) -> float:
        return self._sum_ms / 1_000


class Metrics:
    """The counters. Owner of every number in them; only the event loop's thread calls it."""

    def __init__(
        self,
        version: str,
        *,
        owner: Callable[[str], str | None] = lambda endpoint: "",
        exists: Callable[[str], bool] = lambda application: True,
        endpoints_max: int = ENDPOINTS_MAX,
        applications_max: int = APPLICATIONS_MAX,
    ) -> None:
        """`owner` names the application of an endpoint that has attempts; None once the endpoint was deleted.

        `exists` says whether there is such an application, by its id.
        """
        self._version = version
        self._process = ProcessCollector(registry=None)  # processor, memory and descriptors, out of /proc
        self._labels = EndpointLabels(owner, self._drop, endpoints_max)
        self._crowded_out: Counter[str] = Counter()
        self._applications = EndpointLabels(
            lambda name: name if exists(name) else None, self._drop_application, applications_max
        )
        self._accepted = 0
        self._deduplicated = 0
        self._warned = 0
        self._rejected: Counter[str] = Counter()
        self._attempts: defaultdict[Labels, int] = defaultdict(int)
        self._tests: Counter[str] = Counter()
        self._verifications: Counter[str] = Counter()
        self._finished: defaultdict[Labels, int] = defaultdict(int)
        self._dropped: Counter[str] = Counter()  # of those finished, what belonged to labels that were taken back
        self._dead: Counter[str] = Counter()
        self._retries = 0
        self._attempt_errors = 0
        self._audit_repairs = 0
        self._replayed = 0
        self._reload_failed = False
        self._attempt_ms = Histogram(ATTEMPT_BOUNDS_S)
        self._parts_ms = [Histogram(ATTEMPT_BOUNDS_S) for _ in PARTS]
        self._latency_ms = Histogram(LATENCY_BOUNDS_S)
        self._commit_ms = Histogram(COMMIT_BOUNDS_S)
        self._summarised: Mapping[str, int] = {}

    # -- counting --------------------------------------------------------------------------------------------------

    def accepted(self, events: int = 1) -> None:
        """Count events that became durable."""
        self._accepted += events

    def deduplicated(self) -> None:
        """Count an event that was there before."""
        self._deduplicated += 1

    def warned(self) -> None:
        """Count an event that was accepted although it is not what its contract says."""
        self._warned += 1

    def rejected(self, reason: str) -> None:
        """Count an event that was refused; `reason` is the slug of the problem."""
        self._rejected[reason] += 1

    def crowded_out(self, application: str) -> None:
        """Count an event that was refused because its application has as much due as it may have."""
        self._crowded_out[self._applications.counted(application)] += 1

    def committed(self, duration_ms: float) -> None:
        """Count the time from handing an event to the store to its commit."""
        self._commit_ms.add(duration_ms)

    def attempt(self, endpoint: str, outcome: Outcome, trigger: Trigger = Trigger.SCHEDULED) -> None:
        """Count one attempt; tests are counted apart."""
        if trigger is Trigger.TEST:
            self._tests[_result(outcome)] += 1
            return
        self._attempts[self._labels.counted(endpoint), _result(outcome)] += 1
        self._attempt_ms.add(outcome.duration_ms)
        if outcome.trace is not None:
            for histogram, part_ms in zip(self._parts_ms, outcome.trace[:4], strict=True):
                if part_ms is not None:
                    histogram.add(part_ms)

    def verification(self, outcome: Outcome, *, agreed: bool) -> None:
        """Count a request that asked a receiver whether it wants events."""
        self._verifications["agreed" if agreed else _result(outcome)] += 1

    def delivered(self, endpoint: str, latency_ms: float) -> None:
        """Count a delivery and the time since its event was accepted."""
        self._finished[self._labels.counted(endpoint), DeliveryState.DELIVERED] += 1
        self._latency_ms.add(latency_ms)

    def dead(self, endpoint: str, reason: DeadReason, deliveries: int = 1) -> None:
        """Count dead letters."""
        self._finished[self._labels.counted(endpoint), DeliveryState.DEAD] += deliveries
        self._dead[reason] += deliveries

    def cancelled(self, endpoint: str, deliveries: int = 1) -> None:
        """Count cancelled deliveries."""
        self._finished[self._labels.counted(endpoint), DeliveryState.CANCELLED] += deliveries

    def retry_scheduled(self) -> None:
        """Count a failed attempt that will be followed by another."""
        self._retries += 1

    def attempt_error(self) -> None:
        """Count an attempt that a mistake of our own ended; nothing of it is stored, and the delivery stays due."""
        self._attempt_errors += 1

    def audit_repair(self) -> None:
        """Count a due delivery that no lane knew of: each one is a bug (invariant 8)."""
        self._audit_repairs += 1

    def replayed(self, deliveries: int) -> None:
        """Count deliveries that a replay made due."""
        self._replayed += deliveries

    def reloaded(self, *, successful: bool) -> None:
        """Remember whether the last reload was applied."""
        self._reload_failed = not successful

    def _drop(self, endpoint: str) -> None:
        """Forget what was counted under a label that was taken back: its series end, and no other one jumps."""
        for key in [key for key in self._attempts if key[0] == endpoint]:
            del self._attempts[key]
        for key in [key for key in self._finished if key[0] == endpoint]:
            self._dropped[key[1]] += self._finished.pop(key)

    def _drop_application(self, application: str) -> None:
        del self._crowded_out[application]

    # -- reading ---------------------------------------------------------------------------------------------------

    def summary(self) -> dict[str, int]:
        """Count what happened since this was last asked."""
        totals = {
            "accepted": self._accepted,
            "deduplicated": self._deduplicated,
            "rejected": self._rejected.total(),
            "delivered": self._finished_as(DeliveryState.DELIVERED),
            "retries": self._retries,
            "dead": self._dead.total(),
        }
        before, self._summarised = self._summarised, totals
        return {name: total - before.get(name, 0) for name, total in totals.items()}

    def exposition(self, readings: Readings, accept: str) -> tuple[bytes, str]:
        """Write every metric for Prometheus: the text and its content type, OpenMetrics when `accept` asks for it."""
        self._labels.end_turn()
        self._applications.end_turn()
        registry = CollectorRegistry(auto_describe=False)
        registry.register(self._process)
        registry.register(_Families([*self._counters(), *self._histograms(), *self._gauges(readings)]))
        encode, content_type = choose_encoder(accept)
        return encode(registry), content_type

    def _counters(self) -> Iterator[Metric]:
        yield _counter("events_accepted", "Events made durable.", self._accepted)
        yield _counter("events_deduplicated", "Events that were there before.", self._deduplicated)
        yield _counter("events_warned", "Events accepted with mistakes.", self._warned)
        yield _counters("events_rejected", "Events refused.", ("reason",), _keyed(self._rejected))
        yield _counters(
            "application_events_refused",
            "Events refused since their application has as much due as it may have.",
            ("application",),
            _keyed(self._crowded_out),
        )
        yield _counters("attempts", "Delivery attempts.", ("endpoint", "result"), self._attempts)
        yield _counters("test_attempts", "Attempts made as a test.", ("result",), _keyed(self._tests))
        yield _counters(
            "verification_attempts", "Receivers asked for consent.", ("result",), _keyed(self._verifications)
        )
        yield _counters("deliveries_finished", "Deliveries that ended.", ("endpoint", "outcome"), self._finished)
        yield _counters("dead_letters", "Deliveries that died.", ("reason",), _keyed(self._dead))
        yield _counter("retries_scheduled", "Failed attempts that will be repeated.", self._retries)
        yield _counter("replayed_deliveries", "Deliveries that a replay made due again.", self._replayed)
        yield _counter("attempt_errors", "Attempts ended by a bug of relay's own.", self._attempt_errors)
        yield _counter("lane_audit_repairs", "Due deliveries no lane knew of; each is a bug.", self._audit_repairs)

    def _histograms(self) -> Iterator[Metric]:
        yield self._attempt_ms.family(
            "relay_attempt_duration_seconds", "Time of one attempt, from the name lookup to the head of the answer."
        )
        yield self._parts()
        yield self._latency_ms.family("relay_delivery_latency_seconds", "Time from accept to a 2xx answer.")
        yield self._commit_ms.family("relay_ingest_commit_seconds", "Time until an accepted event is durable.")

    def _parts(self) -> Metric:
        documentation = "Time of one part of an attempt; a kept connection has the first byte only."
        family = HistogramMetricFamily("relay_attempt_part_seconds", documentation, labels=("part",))
        for part, histogram in zip(PARTS, self._parts_ms, strict=True):
            family.add_metric((part,), histogram.buckets(), histogram.sum_s)
        return family

    def _gauges(self, readings: Readings) -> Iterator[Metric]:
        states: dict[Labels, int] = {("due",): readings.due, ("dead",): readings.dead}
        yield _gauges("deliveries", "Deliveries by state.", ("state",), states)
        due, size = self._owed(readings)
        yield _gauges("application_due", "Due deliveries of each application.", ("application",), _keyed(due))
        yield _gauges("application_due_bytes", "Bytes of bodies that are due.", ("application",), _keyed(size))
        yield _gauges("endpoints", "Endpoints by state.", ("state",), _keyed(readings.endpoints))
        yield _gauges("endpoint_state", "The state of each endpoint.", ("endpoint", "state"), self._states(readings))
        yield _gauges("build_info", "The version that runs.", ("version",), {(self._version,): 1})
        yield _gauge("inflight", "Attempts under way.", readings.in_flight)
        yield _gauge("replays", "Replays that are not over.", readings.replays)
        yield _gauge("replays_left", "Deliveries that replays have before them.", readings.replays_left)
        yield _gauge("ready", "Whether intake is open.", readings.ready)
        yield _gauge("uptime_seconds", "Time since start.", readings.uptime_s)
        yield _gauge("db_bytes", "Size of the database.", readings.database_bytes)
        yield _gauge("wal_bytes", "Size of the write-ahead log.", readings.wal_bytes)
        yield _gauge("disk_free_bytes", "Free space beside the database.", readings.disk_free_bytes)
        yield _gauge("disk_free_min_bytes", "Free space below which intake closes.", readings.disk_free_min_bytes)
        yield _gauge("clock_trusted", "Whether the wall clock may end anything.", readings.clock_trusted)
        yield _gauge("config_last_reload_successful", "Whether the last reload was taken.", not self._reload_failed)
        yield _counter("log_lines_dropped", "Log lines lost to a stuck stream.", readings.log_lines_dropped)
        ends = self._certificates(readings)
        yield _gauges(
            "certificate_not_after_seconds", "When a certificate ends, unix time.", ("endpoint", "side"), ends
        )
        if readings.oldest_due_s is not None:
            yield _gauge("oldest_due_seconds", "How long the oldest due delivery has been due.", readings.oldest_due_s)
        if readings.loop_lag_s is not None:
            yield _gauge("event_loop_lag_seconds", "How late the event loop ran last.", readings.loop_lag_s)

    def _states(self, readings: Readings) -> Mapping[Labels, float]:
        """Show the endpoints with labels one by one, and count the others by state. O(labels)"""
        states, rest = readings.endpoint_states, Counter(readings.endpoints)
        shown: dict[Labels, float] = {}
        for endpoint in self._labels.named(states.keys()):
            state = states[endpoint]
            shown[endpoint, state] = 1
            rest[state] -= 1
        return shown | {(OTHER, state): count for state, count in rest.items() if count > 0}

    def _owed(self, readings: Readings) -> tuple[Counter[str], Counter[str]]:
        """Sum due deliveries and their bytes for each label."""
        due, size = Counter[str](), Counter[str]()
        for application, (deliveries, size_bytes) in readings.applications.items():
            label = self._applications.shown(application)
            due[label] += deliveries
            size[label] += size_bytes
        return due, size

    def _certificates(self, readings: Readings) -> Mapping[Labels, float]:
        """The earliest end for each label."""
        ends: dict[Labels, float] = {}
        for endpoint, side, end_s in readings.certificates_end_s:
            key = self._labels.shown(endpoint) if endpoint else "", side
            ends[key] = min(end_s, ends.get(key, end_s))
        return ends

    def _finished_as(self, state: DeliveryState) -> int:
        now = sum(count for (_, outcome), count in self._finished.items() if outcome == state)
        return now + self._dropped[state]


class _Families(Collector):
    def __init__(self, families: Iterable[Metric]) -> None:
        self._families = families

    def collect(self) -> Iterable[Metric]:
        return self._families


def _result(outcome: Outcome) -> str:
    """The class of an outcome: `2xx` … `5xx`, or the failure."""
    if outcome.failure is not None:
        return outcome.failure.value
    status = outcome.status or 0
    return _STATUS_CLASSES[status // 100] if 100 <= status < 600 else OTHER


def _keyed(counts: Mapping[str, int]) -> dict[Labels, int]:
    return {(key,): count for key, count in counts.items()}


def _counter(name: str, documentation: str, value: float) -> Metric:
    return CounterMetricFamily(f"relay_{name}", documentation, value=value)


def _counters(name: str, documentation: str, labels: Labels, values: Mapping[Labels, float]) -> Metric:
    return _filled(CounterMetricFamily(f"relay_{name}", documentation, labels=labels), values)


def _gauge(name: str, documentation: str, value: float) -> Metric:
    return GaugeMetricFamily(f"relay_{name}", documentation, value=value)


def _gauges(name: str, documentation: str, labels: Labels, values: Mapping[Labels, float]) -> Metric:
    return _filled(GaugeMetricFamily(f"relay_{name}", documentation, labels=labels), values)


def _filled(family: CounterMetricFamily | GaugeMetricFamily, values: Mapping[Labels, float]) -> Metric:
    for key, value in values.items():
        family.add_metric(key, value)
    return family
