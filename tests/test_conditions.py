"""Events that are held back: features, conditions, and the small memory behind Wochit's `draft.delete` (WOC-9)."""

import asyncio
from pathlib import Path
from typing import Any

import orjson
import pytest

from relay.core.errors import CommitUnknown
from relay.core.model import Accepted, Duplicate, NewEvent, NoDelivery, Recall, Remembered
from relay.store import EventFilter, Pruned
from relay.store.sqlite import accept as accepting
from relay.store.sqlite.accept import Entry
from tests.support.receiver import Receiver
from tests.support.stack import Stack
from tests.support.stores import DAY_MS, Gate, Kept, Relay, application, gated, key, look, opened, sqlite_error

SAVED = {"wochitVideoId": "6094092472a9105747957aa3", "thumbnailUrl": "http://x.example/t", "title": "The video title"}
DRAFTS_OFF = 'the feature "drafts" is off for this application'
NO_CONTEXT = "data.videoContext is missing or empty"
NOTHING_KNOWN = "neither metadata.videoContext nor what earlier events said says what is needed"


def wochit(folder: Path, receiver: Receiver, *, drafts: bool = True, **settings: Any) -> Stack:
    """A relay that stands behind Wochit."""
    features = "true" if drafts else "false"
    return Stack(
        folder,
        contract="wochit",
        secret=None,
        application=f"features = {{ drafts = {features} }}",
        endpoints={"primary": receiver.url},
        **settings,
    )


def saved(video: str = "6094092472a9105747957aa3", context: str = "project-7") -> dict[str, str]:
    """What `draft.new` and `draft.update` say."""
    return {"videoContext": context} | SAVED | {"wochitVideoId": video}


def gone(video: str = "6094092472a9105747957aa3") -> dict[str, str]:
    """What `draft.delete` says."""
    return {"wochitVideoId": video}


# -- through the whole relay -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("drafts", "context", "why"),
    [
        (True, "project-7", None),
        (True, "", NO_CONTEXT),
        (False, "project-7", DRAFTS_OFF),
        (False, "", DRAFTS_OFF),
    ],
)
async def test_a_draft_needs_its_feature_and_a_context(
    tmp_path: Path, drafts: bool, context: str, why: str | None
) -> None:
    """Of the four cases only drafts that are enabled and have a context are sent; the others say why not (WOC-9)."""
    async with Receiver() as receiver, wochit(tmp_path, receiver, drafts=drafts) as stack:
        draft = await stack.post("draft.new", saved(context=context))
        video = await stack.post("video.delete", gone() | {"videoContext": context})
        await stack.settled(video["id"], "delivered")
        _, seen = await stack.call("GET", f"/v1/events/{draft['id']}")
        _, held = await stack.call("GET", "/v1/events?reason=filtered")

        if why is None:
            assert draft["deliveries"] == 1
            await stack.settled(draft["id"], "delivered")
        else:
            assert (draft["deliveries"], draft["reason"], draft["reason_detail"]) == (0, "filtered", why)
            assert (seen["reason"], seen["reason_detail"], seen["deliveries"]) == ("filtered", why, {})
        assert [event["id"] for event in held["data"]] == [] if why is None else [draft["id"]]
        assert len(receiver.received) == (2 if why is None else 1)


async def test_a_deleted_draft_takes_its_context_from_metadata(tmp_path: Path) -> None:
    """`draft.delete` has no context in its body; what ingest says beside it counts, and is not sent (WOC-9)."""
    async with Receiver() as receiver, wochit(tmp_path, receiver) as stack:
        event = await stack.post("draft.delete", gone(), metadata={"videoContext": "project-7"})
        await stack.settled(event["id"], "delivered")
        assert orjson.loads(receiver.received[0].body) == {"type": "draft.delete"} | gone()


async def test_a_deleted_draft_takes_its_context_from_memory(tmp_path: Path) -> None:
    """What an earlier draft of the same video said counts too, even one that was held back itself (WOC-9)."""
    async with Receiver() as receiver, wochit(tmp_path, receiver, drafts=False) as stack:
        await stack.post("draft.update", saved("a"))
        stack.write_config(
            contract="wochit",
            secret=None,
            application="features = { drafts = true }",
            endpoints={"primary": receiver.url},
        )
        assert (await stack.call("POST", "/v1/reload"))[0] == 200
        event = await stack.post("draft.delete", gone("a"))
        await stack.settled(event["id"], "delivered")


async def test_a_deleted_draft_without_context_is_held_back(tmp_path: Path) -> None:
    """With neither it is stored, filtered; a draft without a context, or of another video, teaches nothing (WOC-9)."""
    async with Receiver() as receiver, wochit(tmp_path, receiver) as stack:
        await stack.post("draft.new", saved("a", context=""))
        await stack.post("draft.new", saved("b"))
        event = await stack.post("draft.delete", gone("a"))
        assert (event["deliveries"], event["reason"], event["reason_detail"]) == (0, "filtered", NOTHING_KNOWN)
        assert await stack.deliveries(event["id"]) == []


async def test_what_was_remembered_survives_a_crash(tmp_path: Path) -> None:
    """The memory is in the database with the event that taught it: killed right after the answer, it is still there."""
    async with Receiver() as receiver:
        stack = wochit(tmp_path, receiver)
        await stack.start()
        await stack.post("draft.new", saved())
        await stack.crash()
        async with wochit(tmp_path, receiver) as again:
            event = await again.post("draft.delete", gone())
            assert event["deliveries"] == 1
            await again.settled(event["id"], "delivered")


async def test_a_draft_and_its_deletion_in_one_batch(tmp_path: Path) -> None:
    """Posted together, the first teaches the second; the other way round it comes too late (WOC-9)."""
    items = [
        {"type": "draft.new", "data": saved("a")},
        {"type": "draft.delete", "data": gone("a")},
        {"type": "draft.delete", "data": gone("b")},
        {"type": "draft.new", "data": saved("b")},
    ]
    async with Receiver() as receiver, wochit(tmp_path, receiver) as stack:
        _, answer = await stack.call("POST", "/v1/events/batch", [{**item, "application": "acme"} for item in items])
        assert [result["body"]["deliveries"] for result in answer["results"]] == [1, 1, 0, 1]
        assert answer["results"][2]["body"]["reason_detail"] == NOTHING_KNOWN
        await receiver.wait_for(3)


async def test_a_draft_and_its_deletion_back_to_back(tmp_path: Path) -> None:
    """Posted at once over two connections, the deletion is sent if the draft was accepted before it, and only then."""
    async with Receiver() as receiver, wochit(tmp_path, receiver) as stack:
        for number in range(20):
            video = f"v{number}"
            draft, deletion = await asyncio.gather(
                stack.post("draft.new", saved(video)), stack.post("draft.delete", gone(video))
            )
            assert deletion["deliveries"] == (1 if draft["id"] < deletion["id"] else 0), number


async def test_features_default_to_off(tmp_path: Path) -> None:
    """An application that says nothing about a feature has it switched off: `video.failed` is opt-in (WOC-3)."""
    async with Receiver() as receiver, wochit(tmp_path, receiver) as stack:
        failed = {"videoContext": "c", "wochitVideoId": "6094", "errorMessage": "Failed to download 3 assets"}
        event = await stack.post("video.failed", failed)
        assert (event["reason"], "failures" in event["reason_detail"]) == ("filtered", True)


# -- the memory itself -------------------------------------------------------------------------------------------------


def teaching(relay: Relay, ref: int, name: str = "a", **changes: Any) -> NewEvent:
    return relay.event(ref, remember=Remembered(name, "said"), **changes)


def asking(relay: Relay, ref: int, name: str = "a", **changes: Any) -> NewEvent:
    return relay.event(ref, recall=Recall(name, "nothing is known"), **changes)


def is_held_back(result: object) -> bool:
    """Whether an event was stored without its delivery, and says so."""
    assert isinstance(result, Accepted)
    if result.reason is None:
        assert result.deliveries == len(result.due) == 1
        return False
    assert (result.reason, result.reason_detail) == (NoDelivery.FILTERED, "nothing is known")
    assert (result.deliveries, result.due) == (0, ())
    return True


async def test_submitted_in_one_turn_of_the_loop(tmp_path: Path) -> None:
    """Writes that share a transaction see each other in order, and the counts follow what was stored (invariant 3)."""
    gate = Gate()
    async with opened(tmp_path, writer=gated(gate)) as relay:
        ref = await relay.endpoint()
        gate.hold()
        holding = relay.store.accept([relay.event()])
        await gate.reached()
        early = relay.store.accept([asking(relay, ref)])
        taught = relay.store.accept([teaching(relay, ref)])
        late = relay.store.accept([asking(relay, ref)])
        assert relay.store.due_count(ref) == 3
        commits = gate.commits
        gate.let_go()
        await asyncio.gather(holding, taught)
        assert is_held_back((await early)[0])
        assert not is_held_back((await late)[0])
        assert gate.commits == commits + 1
        assert relay.store.due_count(ref) == 2
        found = await relay.store.list_events(EventFilter(reason=NoDelivery.FILTERED), None, 10)
        assert [event.reason_detail for event in found.data] == ["nothing is known"]


async def test_a_memory_that_only_reads_would_be_late(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Negative control: asked of the table alone, an event does not know what its own batch said."""
    hold_back = accepting._recalled
    monkeypatch.setattr(accepting, "_recalled", lambda connection, entry, said: hold_back(connection, entry, {}))
    async with opened(tmp_path) as relay:
        ref = await relay.endpoint()
        results = await relay.store.accept([teaching(relay, ref), asking(relay, ref)])
        assert is_held_back(results[1])


async def test_a_failed_commit_teaches_nothing(tmp_path: Path) -> None:
    """What was not kept was not said: the memory goes with its event (invariant 1)."""
    gate = Gate()
    async with opened(tmp_path, writer=gated(gate)) as relay:
        ref = await relay.endpoint()
        gate.error = sqlite_error(13, "database or disk is full")
        with pytest.raises(CommitUnknown):
            await relay.store.accept([teaching(relay, ref)])
        gate.error = None
        assert is_held_back(await relay.offer(asking(relay, ref)))


async def test_a_repetition_teaches_and_asks_nothing(tmp_path: Path) -> None:
    """What is not stored leaves nothing behind; a repetition of an event that was held back says 0 deliveries (Q8)."""
    async with opened(tmp_path) as relay:
        ref = await relay.endpoint()
        await relay.accept(ref, idempotency=key("k"))
        assert isinstance(await relay.offer(teaching(relay, ref, idempotency=key("k"))), Duplicate)
        asked = asking(relay, ref, idempotency=key("asked"))
        assert is_held_back(await relay.offer(asked))
        again = await relay.offer(asked._replace(id="evt_again"))
        assert isinstance(again, Duplicate)
        assert again.deliveries == 0


async def test_applications_do_not_share_a_memory(tmp_path: Path) -> None:
    """What one application's events said is unknown to another's."""
    async with opened(tmp_path) as relay:
        ref = await relay.endpoint()
        await relay.offer(teaching(relay, ref))
        other = await application(relay.store, "beta")
        assert is_held_back(await relay.offer(asking(relay, ref, application=other)))


async def test_the_memory_has_an_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An application remembers so many keys; what was not said again for longest goes first."""
    monkeypatch.setattr(accepting.hold_back, "__defaults__", (3,))
    async with opened(tmp_path) as relay:
        ref = await relay.endpoint()
        for name in ("a", "b", "c", "a", "d", "e"):
            relay.clock.advance(1)
            await relay.offer(teaching(relay, ref, name))
        kept = [name for name in "abcde" if not is_held_back(await relay.offer(asking(relay, ref, name)))]
        assert kept == ["a", "d", "e"]
    assert look(tmp_path, "SELECT entries FROM remembered_size") == [(3,)]
    assert look(tmp_path, "SELECT count(*) FROM remembered") == [(3,)]


async def test_memories_fade(tmp_path: Path) -> None:
    """Retention removes what was not said again for `retention.memory`, a little at a time (Q14)."""
    kept = Kept(memory_ms=DAY_MS)
    async with opened(tmp_path) as relay:
        ref = await relay.endpoint()
        await relay.store.accept([teaching(relay, ref, f"old-{number}") for number in range(7)])
        relay.clock.advance(DAY_MS)
        await relay.offer(teaching(relay, ref, "old-3"))
        await relay.offer(teaching(relay, ref, "young"))
        relay.clock.advance(1)
        removed: list[Pruned] = []
        while not removed or removed[-1].more:
            removed.append(await relay.store.prune(relay.clock.wall_ms(), kept, limit=4))
        assert sum(pruned.memories for pruned in removed) == 6
        assert not is_held_back(await relay.offer(asking(relay, ref, "old-3")))
        assert not is_held_back(await relay.offer(asking(relay, ref, "young")))
        assert is_held_back(await relay.offer(asking(relay, ref, "old-0")))
    assert look(tmp_path, "SELECT entries FROM remembered_size") == [(2,)]


async def test_a_long_value_is_cut(tmp_path: Path) -> None:
    """Only that something was said counts, so a megabyte of context does not fill the database."""
    async with opened(tmp_path) as relay:
        await relay.accept(remember=Remembered("a", "x" * 1_000_000))
    assert look(tmp_path, "SELECT length(value) FROM remembered") == [(accepting.VALUE_CHARACTERS_MAX,)]


def test_events_without_memory_are_not_looked_at() -> None:
    """For contracts without a memory nothing is read, copied or written: the hot path stays as it was."""
    entries: list[Entry] = []
    assert accepting.hold_back(None, entries) is entries  # type: ignore[arg-type]
