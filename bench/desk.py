"""The row about looking: lists, searches and explanations beside a million deliveries, most of them delivered."""

import sqlite3
import statistics
import time
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from urllib.parse import urlencode

from bench.rows import Bench
from bench.seeding import DAY_MS, Seed, seed
from bench.sides import Work, configuration
from bench.sinks import open_sink
from bench.states import scratch, seeded
from relay.contracts import search_digest
from relay.intake import keys_of
from tests.support.daemon import Daemon

TARGET_MS = 50.0
"""What each should take at the median."""

TIMES = 21
"""How often each is asked."""

_KEYS = "UPDATE event SET ordering_key = 'o' || (ordinal / 100) WHERE ordinal % 10 = 0"

_VALUES = """
    INSERT INTO search_value (digest, created_at, event)
    SELECT digest_of('v' || (ordinal / 10)) AS digest, created_at, ordinal FROM event ORDER BY digest"""

_CLAIMS = """
    INSERT INTO idempotency (application, key, event)
    SELECT application, key_of('k' || ordinal) AS key, ordinal FROM event WHERE ordinal % 10 = 0 ORDER BY key"""


def desk(bench: Bench) -> str:
    """Ask for every list, search and explanation beside a million deliveries of one endpoint."""
    delivered, dead, due = bench.some(900_000, 900), bench.some(50_000, 50), bench.some(50_000, 50)
    with scratch(bench) as folder, open_sink(bench.receiver, bench.folder) as sink:
        config = configuration(folder, sink, Work(1, 1, contract="editframe"))
        relay = seeded(folder, config, Seed(delivered, "delivered", 3 * DAY_MS), paused=True)
        seed(folder / "relay.db", Seed(dead, "dead", DAY_MS))
        seed(folder / "relay.db", Seed(due, "due"))
        _name(folder / "relay.db")
        with relay:
            asked = _asked(delivered, dead)
            times = {name: _times_ms(relay, path) for name, path in asked.items()}
    medians = {name: statistics.median(each) for name, each in times.items()}
    slow = [name for name, median in medians.items() if median > TARGET_MS]
    lines = [f"| {name} | {medians[name]:.1f} | {max(each):.1f} |" for name, each in times.items()]
    said = f"{delivered:,} delivered, {dead:,} dead and {due:,} due deliveries; each asked {TIMES} times."
    verdict = f"Above {TARGET_MS:g} ms at the median: {', '.join(slow) or 'none'}."
    return "\n".join([f"{said} {verdict}", "", "| what | median, ms | longest, ms |", "|---|---|---|", *lines])


def _name(path: Path) -> None:
    """Give events what searches look for: every tenth a key of both kinds, all a value, ten events to each."""
    with closing(sqlite3.connect(path)) as connection:
        connection.create_function("digest_of", 1, lambda text: search_digest("id", text), deterministic=True)
        connection.create_function("key_of", 1, lambda text: keys_of(text)[0], deterministic=True)
        for statement in (_KEYS, _VALUES, _CLAIMS):
            connection.execute(statement)
        connection.commit()
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")


def _asked(delivered: int, dead: int) -> Mapping[str, str]:
    """Return what is asked for by name; ordinals of old, dead and due events are known by how they were seeded."""
    old, failed, waiting = delivered // 20 * 10, (delivered + dead // 2) // 10 * 10, delivered + dead + 10
    lists = {
        "events": ("events", {}),
        "events, old": ("events", {"until": "2d"}),
        "events of a type that there is not": ("events", {"type": "render.lost"}),
        "deliveries": ("deliveries", {}),
        "deliveries, delivered": ("deliveries", {"state": "delivered"}),
        "deliveries, dead": ("deliveries", {"state": "dead"}),
        "deliveries, dead and old": ("deliveries", {"state": "dead", "since": "2d", "until": "12h"}),
        "deliveries, due": ("deliveries", {"state": "due"}),
        "deliveries of an endpoint": ("deliveries", {"endpoint": "bench-0"}),
        "deliveries answered 5xx": ("deliveries", {"status": "5xx"}),
        "deliveries, dead, answered 4xx": ("deliveries", {"state": "dead", "status": "4xx"}),
        "dead letters": ("dead-letters", {}),
        "search by id": ("events", {"id": f"evt_{old:026d}"}),
        "search by ordering key": ("events", {"ordering_key": f"o{old // 100}"}),
        "search by idempotency key": ("events", {"idempotency_key": f"k{old}"}),
        "search by a value": ("events", {"data": f"id=v{old // 10}"}),
        "search deliveries by a value": ("deliveries", {"data": f"id=v{failed // 10}"}),
    }
    found = {name: f"/v1/{what}?{urlencode({'limit': 50} | query)}" for name, (what, query) in lists.items()}
    explained = {"a delivered event": old, "a dead event": failed, "a due event": waiting}
    return found | {f"explain {name}": f"/v1/events/evt_{ordinal:026d}/explain" for name, ordinal in explained.items()}


def _times_ms(relay: Daemon, path: str) -> list[float]:
    times = []
    for _ in range(TIMES):
        began = time.monotonic()
        relay.api.get(path)
        times.append((time.monotonic() - began) * 1000)
    return times
