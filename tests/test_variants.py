"""Events that go to endpoints with contracts of their own: one frozen body for each contract, kept with the event."""

import sqlite3
from contextlib import closing
from pathlib import Path

from relay.core.frozen import Variant
from relay.core.model import NewEvent
from relay.core.views import VariantView
from tests.support.stores import DAY_MS, Kept, Relay, key, look, opened

MINE = b'{"specversion":"1.0"}'


async def with_variants(relay: Relay) -> tuple[NewEvent, tuple[int, ...]]:
    """Make an event for three endpoints, of which two have contracts of their own, one of them unable to write it."""
    refs = tuple([await relay.endpoint(f"ep_{number}") for number in range(3)])
    variants = (Variant("cloudevents", refs[1:2], MINE), Variant("slack-incoming", refs[2:], b"", "it has no text"))
    return relay.event(*refs, variants=variants), refs


# -- the store ---------------------------------------------------------------------------------------------------------


async def test_variants_are_kept_with_their_event(tmp_path: Path) -> None:
    """Invariant 6: they come back as they were frozen, after a restart too, each for its endpoints and no others."""
    async with opened(tmp_path) as relay:
        event, refs = await with_variants(relay)
        accepted = await relay.offer(event)
        assert accepted.event.variants == event.variants
        assert len(accepted.due) == 3
        await relay.accept(refs[0])
    async with opened(tmp_path) as relay:
        found = await relay.store.read_event(accepted.event.ordinal)
        assert found == accepted.event
        sent = [(one.body, one.contract, one.fault) for one in map(found.sent_to, refs)]
        assert sent == [
            (event.body, None, ""),
            (MINE, "cloudevents", ""),
            (b"", "slack-incoming", "it has no text"),
        ]
        read = await relay.store.refill(refs[0], 0, 0, 10)
        assert [len(read.rows), len(read.events)] == [2, 1]  # the others are read whole, at their attempt
        view = await relay.store.find_event(event.id)
        assert view.variants == [
            VariantView("cloudevents", ["ep_1"], "", MINE),
            VariantView("slack-incoming", ["ep_2"], "it has no text", b""),
        ]


async def test_a_variant_that_rotted_is_known_as_such(tmp_path: Path) -> None:
    """Invariant 6: its checksum is compared when it is read, and what is sent to the others is not touched by that."""
    async with opened(tmp_path) as relay:
        event, refs = await with_variants(relay)
        accepted = await relay.offer(event)
    with closing(sqlite3.connect(tmp_path / "relay.db")) as database, database:
        database.execute("UPDATE variant SET body = CAST('{\"specversion\":\"2.0\"}' AS BLOB) WHERE fault = ''")
    async with opened(tmp_path) as relay:
        found = await relay.store.read_event(accepted.event.ordinal)
        assert [found.sent_to(ref).corrupt for ref in refs] == [False, True, False]


async def test_all_bodies_are_charged_and_pruned(tmp_path: Path) -> None:
    """I8, Q14: an application owes the bytes of every body once, and retention leaves none of them."""
    async with opened(tmp_path) as relay:
        event, _ = await with_variants(relay)
        accepted = await relay.offer(event)
        share = -(-(len(event.body) + len(MINE)) // 3)
        assert relay.store.usage(relay.application) == (3, 3 * share)
        for due in accepted.due:
            await relay.delivered(due)
        assert relay.store.usage(relay.application) == (0, 0)
        relay.clock.advance(60 * DAY_MS)
        assert (await relay.store.prune(relay.clock.wall_ms(), Kept(), 100)).events == 1
    assert look(tmp_path, "SELECT count(*) FROM variant") == [(0,)]


async def test_an_event_that_takes_a_place_brings_variants_with_that_id(tmp_path: Path) -> None:
    """K10: what was filtered is posted again: every body has the first id, and what was kept of the first one is gone."""
    async with opened(tmp_path) as relay:
        event, refs = await with_variants(relay)

        def under(event_id: str) -> tuple[Variant, ...]:
            return (Variant("cloudevents", refs[1:2], b"made under %s" % event_id.encode()),)

        claim = key("k")
        first = relay.event(idempotency=claim, reason="filtered", reason_detail="it is off")
        again = event._replace(idempotency=claim, body_under=str.encode, variants=under(event.id), variants_under=under)
        await relay.offer(first)
        taken = await relay.offer(again)
        assert (taken.event.id, taken.event.variants) == (first.id, under(first.id))
        assert await relay.store.read_event(taken.event.ordinal) == taken.event
