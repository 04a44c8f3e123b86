"""A database that the version before the redesign left behind at a crash opens, whole, and what is due is delivered.

`tests/data/store_v1/make.py.txt` made it with the code of that version, and says what is in it.
"""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from relay.core.errors import Conflict
from relay.core.model import (
    Accepted,
    DeadReason,
    DeliveryState,
    DueDelivery,
    Duplicate,
    Idempotency,
    NoDelivery,
    Recall,
    Settlement,
)
from relay.store import EventFilter
from relay.store.sqlite import SqliteStore, StoreSettings, migrate
from tests.support.clock import FakeClock
from tests.support.stores import Relay, look

DATA = Path(__file__).parent / "data" / "store_v1"
EXPECTED: dict[str, Any] = json.loads((DATA / "expected.json").read_text())
NOW_MS: int = EXPECTED["now_ms"]
REFS: dict[str, int] = EXPECTED["refs"]
IDS: dict[str, str] = EXPECTED["deliveries"]


async def open_older(folder: Path) -> Relay:
    shutil.copy(DATA / "relay.db", folder / "relay.db")
    clock = FakeClock(NOW_MS + 1_000)
    return Relay(await SqliteStore.open(StoreSettings(path=folder / "relay.db"), clock), clock, 1)


async def test_an_older_database_opens_with_its_deliveries(tmp_path: Path) -> None:
    """Issue 6: every delivery of the older version is there, in its state, with its attempts and their responses."""
    relay = await open_older(tmp_path)
    store = relay.store
    assert store.facts["unclean_start"] is True
    assert store.facts["schema_version"] == migrate.newest()
    assert store.facts["backup"] == str(tmp_path / "relay.db.schema-1.backup")
    assert store.heartbeat_ms is None
    found = {name: await store.find_delivery(text) for name, text in IDS.items()}
    views = {name: view for name, view in found.items() if view is not None}
    assert {name: (view.state.value, view.attempts, view.series) for name, view in views.items()} == {
        "due": ("due", 0, 1),
        "retried": ("due", 1, 1),
        "delayed": ("due", 0, 1),
        "delivered": ("delivered", 1, 1),
        "dead": ("dead", 1, 1),
        "by_hand": ("due", 1, 2),
        "cancelled": ("cancelled", 0, 1),
        "head": ("due", 0, 1),
        "waiting": ("due", 0, 1),
        "of_deleted": ("cancelled", 0, 1),
    }
    assert views["dead"].reason is DeadReason.EXHAUSTED
    assert views["cancelled"].cancelled_by == "admin"
    assert views["waiting"].due_ms is None
    assert views["delayed"].expires_at_ms == NOW_MS + 90_000
    assert views["of_deleted"].endpoint == "ep_deleted"
    (attempt,) = views["retried"].timeline or ()
    assert (attempt.status, attempt.response_body, attempt.address) == (503, b"busy", "192.0.2.1")
    assert attempt.trace is None  # those columns are newer
    assert attempt.response_headers[0].value == "nginx"
    assert ((views["dead"].timeline or ())[0].failure) == "timeout"
    assert (store.due_count(REFS["primary"]), store.due_count(REFS["ep_failing"]), store.backlog) == (7, 1, 8)
    assert store.dead_count(REFS["primary"]) == 1
    await store.close()


async def test_an_older_database_remembers_its_events(tmp_path: Path) -> None:
    """Issue 6: repeats, reasons, metadata and what was remembered of earlier events are as they were."""
    relay = await open_older(tmp_path)
    store = relay.store
    event = await store.find_event("evt_001")
    assert event is not None
    assert (event.body, event.metadata) == (b'{"n":1}', b'{"k":1}')
    page = await store.list_events(EventFilter(reason=NoDelivery.NO_MATCH), None, 10)
    assert [view.reason_detail for view in page.data] == ["nobody wants it"]
    claim = relay.event(REFS["primary"], idempotency=Idempotency(b"k" * 16, b"f" * 16))
    assert isinstance(await relay.offer(claim), Duplicate)
    recalled = await relay.offer(relay.event(REFS["primary"], id="evt_new", recall=Recall("upload:1", "unknown")))
    assert isinstance(recalled, Accepted)
    assert recalled.deliveries == 1
    assert recalled.event.ordinal > 13
    await store.close()


async def test_an_older_database_keeps_its_endpoints_and_keys(tmp_path: Path) -> None:
    """Issue 6: applications and endpoints from file and API, secrets, states, health, keys and a deleted endpoint stay."""
    relay = await open_older(tmp_path)
    registry = await relay.store.load_registry()
    rows = {row.id: row for row in registry.endpoints}
    assert sorted(rows) == ["ep_failing", "ep_gone", "primary"]
    assert [secret.value for secret in rows["ep_failing"].secrets] == ["whsec_new", "whsec_old"]
    assert (rows["ep_failing"].health.failures, rows["ep_failing"].health.last_failure) == (12, "503")
    assert (rows["ep_gone"].state.value, str(rows["ep_gone"].disabled_by)) == ("disabled", "gone")
    assert rows["ep_failing"].application == "tenant"
    assert rows["ep_failing"].definition == {"url": "https://ep_failing.example/", "event_types": ["*"]}
    assert [(row.id, row.origin.value) for row in registry.applications] == [("acme", "file"), ("tenant", "api")]
    assert registry.applications[0].contract_seen == "standard"
    assert [(key.id, key.application, key.prefix, key.digest) for key in registry.keys] == [
        ("key_1", "tenant", "rk_abc", bytes(range(32)))
    ]
    await relay.store.close()
    assert look(tmp_path, "SELECT id FROM endpoint WHERE deleted_at IS NOT NULL") == [("ep_deleted",)]


async def test_what_an_older_database_owes_is_charged(tmp_path: Path) -> None:
    """I8: what was due before deliveries were charged counts with the bytes of its bodies, until it ends."""
    relay = await open_older(tmp_path)
    store = relay.store
    sizes = look(
        tmp_path,
        "SELECT length(body), count(*) FROM event JOIN delivery ON event = ordinal WHERE state = 0 GROUP BY ordinal",
    )
    assert sum(due for _, due in sizes) == store.backlog
    charged = store.usage(1).bytes + store.usage(2).bytes
    assert sum(size for size, _ in sizes) <= charged < sum(size + due for size, due in sizes)
    await store.cancel_delivery(IDS["delayed"], "test")
    assert store.usage(1).bytes + store.usage(2).bytes < charged
    await store.close()


async def test_what_an_older_database_owes_is_delivered(tmp_path: Path) -> None:
    """Issue 6: what was due is handed out and settles; the successor of an ordering key follows; the ended can be retried."""
    relay = await open_older(tmp_path)
    store = relay.store
    promoted: list[DueDelivery] = []
    store.on_promoted(promoted.extend)
    relay.clock.advance(80_000)
    assert sorted(await store.endpoints_with_due()) == [REFS["primary"], REFS["ep_failing"]]
    for ref in (REFS["primary"], REFS["ep_failing"]):
        for due in (await store.refill(ref, 0, 0, 100)).rows:
            assert await store.read_event(due.event) is not None
            settled = await store.settle(
                Settlement(due, DeliveryState.DELIVERED, relay.outcome(204), keep_response=False)
            )
            assert settled.applied
    (second,) = promoted
    assert (await store.settle(Settlement(second, DeliveryState.DELIVERED, relay.outcome(204)))).applied
    assert store.backlog == 0
    assert (await store.retry_delivery(IDS["dead"])).series == 2
    with pytest.raises(Conflict):
        await store.retry_delivery(IDS["of_deleted"])
    await store.close()
