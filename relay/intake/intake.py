"""Intake: checks what was posted, freezes the body, hands the event to the store, and answers after the commit.

A write that was submitted is never recalled (invariant 3): what follows a commit hangs on the commit itself, not on the
request, whose client may have gone. A mistake of our own there ends the process (invariant 12), which is the store's to
see to: an event that is stored and that nobody knows of must not be possible.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import msgspec
import structlog

from relay.contracts import Contract, Payload, Rendering, Unrenderable
from relay.core.access import Principal
from relay.core.clock import Clock
from relay.core.errors import RelayError, spoken
from relay.core.ids import IdFactory
from relay.core.issues import MISTAKES_MAX, Invalid, Issue, pointer
from relay.core.model import Accepted, Application, DeadReason, Duplicate, Idempotency, NewEvent, NoDelivery
from relay.core.units import format_time, unix_us
from relay.intake.fullness import ApplicationFull, Room, refuse_full
from relay.intake.parse import AIMED_MAX, Form, Posted, check, given_bytes, given_ms, read, read_batch, screen
from relay.intake.rules import (
    Rules,
    enforce,
    faults,
    freeze,
    idempotency,
    misplaced,
    rules_for,
    variants,
    variants_under,
)
from relay.registry import EventFacts, Match, Registrar, Registry
from relay.store import AcceptResult, Store, Usage
from relay.telemetry import log
from relay.telemetry.metrics import Metrics

OWN = Form(read, misplaced, str)
"""The relay's own members."""

_BREATH = 50
"""Items of a batch that are checked before other requests get a turn."""

_RENDERED = frozenset({"", "/type", "/data", "/id", "/timestamp", "/metadata"})
"""Members that the body is made of."""


@dataclass(frozen=True, slots=True)
class IntakeLimits:
    """What a producer may send at once."""

    max_depth: int = 200
    max_batch: int = 1000
    max_backlog: int = 10_000_000


class Receipt(NamedTuple):
    """What a producer learns of an event that was taken; of a repetition, it is about the first one."""

    event_id: str
    type: str
    application: str
    created_at_ms: int
    deliveries: int
    warnings: Sequence[Issue] = ()
    duplicate: bool = False
    differs: bool = False  # a repetition with other data
    reason: NoDelivery | DeadReason | None = None  # why there are no deliveries; DeadReason: all there are, are dead
    reason_detail: str = ""


class _Draft(NamedTuple):
    """An event that is sound and whose body is frozen; it lacks only where it goes."""

    posted: Posted
    metadata: Payload | None
    application: Application
    event: Rendering
    body: bytes
    rules: Rules
    idempotency: Idempotency | None
    body_under: Callable[[str], bytes] | None
    warnings: Sequence[Issue]
    aimed: tuple[int, ...] | None  # refs of the endpoints that it is for, if it names any


class _Sealed(NamedTuple):
    """An event that goes into the store. It holds no part of the request: until the commit its body is the only copy."""

    event: NewEvent
    application: Application
    warnings: Sequence[Issue]


class Intake:
    """Takes events in. Holds no events: what is between the check and the commit is the store's.

    An event costs O(1) beyond its own bytes and its deliveries.
    """

    def __init__(
        self,
        *,
        registrar: Registrar,
        store: Store,
        clock: Clock,
        ids: IdFactory,
        on_accepted: Callable[[Accepted], None],
        metrics: Metrics,
        limits: IntakeLimits | None = None,
    ) -> None:
        self._registrar = registrar
        self._store = store
        self._clock = clock
        self._ids = ids
        self._on_accepted = on_accepted
        self._metrics = metrics
        self._log = structlog.get_logger("relay.intake")
        self.limits = limits or IntakeLimits()

    async def accept_one(self, principal: Principal, body: bytes, key: str | None = None, form: Form = OWN) -> Receipt:
        """Accept the event in `body`, which is written in this form; `key` is the header `Idempotency-Key`.

        Returns once it is committed. Malformed, Invalid or Conflict for what is wrong with it, StoreUnavailable when the
        store did not take it, CommitUnknown when nobody knows.
        """
        screen(body, self.limits.max_depth)
        try:
            sealed = self._sealed([self._check(principal, body, key, form)])
        except RelayError as refusal:
            raise form.refusal(refusal) from None
        del body  # while it waits, its frozen body is enough
        (receipt,) = await self._commit(sealed)
        if isinstance(receipt, RelayError):
            raise receipt
        return receipt

    async def accept_batch(self, principal: Principal, body: bytes, form: Form = OWN) -> Sequence[Receipt | RelayError]:
        """Accept a JSON array of events: each is answered for itself, and the sound ones commit together."""
        screen(body, self.limits.max_depth + 1)
        checked = await self._check_all(principal, read_batch(body, self.limits.max_batch), form)
        refusals = [item if isinstance(item, RelayError) else None for item in checked]
        sealed = self._sealed([item for item in checked if isinstance(item, _Draft)])
        del body, checked
        receipts = iter(await self._commit(sealed) if sealed else ())
        return [next(receipts) if refusal is None else refusal for refusal in refusals]

    async def _check_all(
        self, principal: Principal, items: Sequence[msgspec.Raw], form: Form
    ) -> list[_Draft | RelayError]:
        checked: list[_Draft | RelayError] = []
        mistakes = 0  # up to now: the answer lists so many, and nobody is told what was meant by the others
        for number, item in enumerate(items, 1):
            try:
                checked.append(self._check(principal, item, None, form, suggest=mistakes < MISTAKES_MAX))
            except RelayError as refusal:
                checked.append(_without_request(form.refusal(refusal)))
                await asyncio.sleep(0)  # mistakes are looked for one by one, which takes a millisecond or two
            mistakes += _mistakes(checked[-1])
            if number % _BREATH == 0:
                await asyncio.sleep(0)
        return checked

    # -- one event: read, checked against its contract, frozen ---------------------------------------------------------

    def _check(
        self, principal: Principal, body: bytes | msgspec.Raw, key: str | None, form: Form, *, suggest: bool = True
    ) -> _Draft:
        posted, issues = form.read(body, suggest=suggest)
        now_ms = self._clock.wall_ms()
        if key is not None:
            issues.extend(_take_header(posted, key))
        issues.extend(check(posted, now_ms))
        try:
            application = self._registrar.current.application_for(principal, posted.application)
        except RelayError as error:
            raise _invalid([*issues, Issue("/application", spoken(error))]) from None
        self._refuse_full(application, self._store.usage(application.ref), self._room())
        contract = self._registrar.current.contract(application)
        issues.extend(form.misplaced(contract, posted))
        aimed = None
        if posted.endpoints is not None:
            aimed, unknown = _aimed(self._registrar.current, application, posted.endpoints)
            issues.extend(unknown)
        data = Payload(bytes(posted.data))
        found = enforce(contract, application.validation, posted.type, data, suggest=suggest)
        refusals = [issue for issue in found if not issue.warning]
        if issues or refusals:
            refusals.extend(_unrenderable(contract, posted, data, issues, now_ms))
            raise _invalid(issues, refusals)
        return self._freeze(posted, data, application, contract, now_ms, found, aimed)

    def _freeze(
        self,
        posted: Posted,
        data: Payload,
        application: Application,
        contract: Contract,
        now_ms: int,
        warnings: Sequence[Issue],
        aimed: tuple[int, ...] | None,
    ) -> _Draft:
        metadata = _metadata(posted)
        rules = rules_for(contract, application, posted, data, metadata, now_ms)
        if rules.expires_at_ms is not None:
            _refuse_late(posted, rules.expires_at_ms, now_ms)
        event = _rendering(posted, self._ids.new("evt") if posted.id is None else posted.id, now_ms, data, metadata)
        body = freeze(contract, event)
        key = idempotency(contract, application, posted, data)
        body_under = None if key is None else partial(_freeze_under, contract, event)
        return _Draft(posted, metadata, application, event, body, rules, key, body_under, warnings, aimed)

    # -- the commit, and what follows it -------------------------------------------------------------------------------

    def _sealed(self, drafts: Sequence[_Draft]) -> list[_Sealed]:
        # From the match to the submission nothing waits: an endpoint that is deleted meanwhile gets nothing (Q11).
        return [_sealed(self._seal(draft), draft) for draft in drafts]

    async def _commit(self, sealed: Sequence[_Sealed]) -> Sequence[Receipt | RelayError]:
        refused = self._crowded_out(sealed) if len(sealed) > 1 or len(sealed[0].event.targets) > 1 else {}
        if not refused:
            return await self._submit(sealed)
        kept = [one for index, one in enumerate(sealed) if index not in refused]
        receipts = iter(await self._submit(kept) if kept else ())
        return [refused[index] if index in refused else next(receipts) for index in range(len(sealed))]

    def _submit(self, sealed: Sequence[_Sealed]) -> Awaitable[Sequence[Receipt | RelayError]]:
        follow = partial(self._committed, sealed, self._clock.mono_ms())
        return self._store.accept([one.event for one in sealed], follow)

    def _room(self) -> Room:
        return Room(self.limits.max_backlog, self._store.backlog, len(self._registrar.current.present) == 1)

    def _refuse_full(self, application: Application, usage: Usage, room: Room, deliveries: int = 1) -> None:
        try:
            refuse_full(application, usage, room, deliveries)
        except ApplicationFull:
            self._metrics.crowded_out(application.id)
            raise

    def _crowded_out(self, sealed: Sequence[_Sealed]) -> dict[int, ApplicationFull]:
        """Find what there is no room for, with its deliveries and the events before it in the same batch, by its place."""
        room, refused = self._room(), {}
        added: dict[int, Usage] = {}
        for index, (event, application, _) in enumerate(sealed):
            stored, mine = self._store.usage(event.application), added.get(event.application, Usage(0, 0))
            usage = Usage(stored.due + mine.due, stored.bytes + mine.bytes)
            due = len(event.targets)
            try:
                self._refuse_full(application, usage, room, max(due, 1))
            except ApplicationFull as error:
                refused[index] = error
                continue
            added[event.application] = Usage(mine.due + due, mine.bytes + due * event.share_bytes)
            room = room._replace(backlog=room.backlog + due)
        return refused

    def _committed(
        self, sealed: Sequence[_Sealed], began_ms: float, results: Sequence[AcceptResult]
    ) -> Sequence[Receipt | RelayError]:
        """Hand over what is durable; the answer to the request, if it still waits."""
        self._metrics.committed(self._clock.mono_ms() - began_ms)
        return [self._hand_over(one, result) for one, result in zip(sealed, results, strict=True)]

    def _hand_over(self, sealed: _Sealed, result: AcceptResult) -> Receipt | RelayError:
        if isinstance(result, Accepted):
            self._metrics.accepted()
            self._on_accepted(result)
            if sealed.warnings:
                self._warn(sealed, result.event.id)
            return _receipt(sealed, result)
        if isinstance(result, Duplicate):
            self._metrics.deduplicated()
            return _repetition(sealed, result)
        return result

    def _warn(self, sealed: _Sealed, event_id: str) -> None:
        facts = {"event_id": event_id, "event_type": sealed.event.type, "application": sealed.application.id}
        self._metrics.warned()
        self._log.warning(log.EVENT_WARNED, **facts, mistakes=len(sealed.warnings))

    def _seal(self, draft: _Draft) -> NewEvent:
        """Make the event: it goes where it matches now, unless its contract keeps it back."""
        posted, event, rules = draft.posted, draft.event, draft.rules
        match = self._registrar.current.match(draft.application, event.type)
        filtered, is_varied = rules.filtered is not None, match.is_varied
        if (match.is_filtered or draft.aimed is not None) and not filtered:
            match = self._narrowed(match, draft)
        deliver_at_ms, expires_at_ms = given_ms(posted.deliver_at), given_ms(posted.expires_at)
        targets = () if filtered else match.targets
        others = self._registrar.current.own_contracts(targets) if is_varied else ()
        return NewEvent(
            id=event.id,
            id_given=posted.id is not None,
            application=draft.application.ref,
            type=event.type,
            body=draft.body,
            created_at_ms=event.created_at_ms,
            timestamp_ms=event.timestamp_ms,
            targets=targets,
            reason=NoDelivery.FILTERED if filtered else match.reason,
            reason_detail=match.detail if rules.filtered is None else rules.filtered,
            deliver_at_ms=deliver_at_ms if deliver_at_ms is not None and deliver_at_ms > event.created_at_ms else None,
            expires_at_ms=rules.expires_at_ms if expires_at_ms is None else expires_at_ms,
            ordering_key=rules.ordering_key,
            order_strictly=rules.order_strictly,
            metadata=None if draft.metadata is None else draft.metadata.raw,
            idempotency=draft.idempotency,
            recall=rules.recall,
            remember=rules.remember,
            aimed=draft.aimed or (),
            body_under=draft.body_under,
            searchable=rules.searchable,
            variants=variants(others, event) if others else (),
            variants_under=partial(variants_under, others, event) if others and draft.body_under else None,
        )

    def _narrowed(self, match: Match, draft: _Draft) -> Match:
        event, metadata = draft.event, draft.metadata
        facts = EventFacts(event.type, event.data.raw, None if metadata is None else metadata.raw)
        narrowed = match.narrowed(facts, draft.aimed)
        if facts.is_exhausted:
            self._log.warning(log.EVENT_UNDECIDED, event_id=event.id, application=draft.application.id)
        return narrowed


def _sealed(event: NewEvent, draft: _Draft) -> _Sealed:
    warnings = [*draft.warnings, *faults(event.variants)] if event.variants else draft.warnings
    return _Sealed(event, draft.application, warnings)


def _without_request(refusal: RelayError) -> RelayError:
    """Return a refusal without the frames that it and what caused it passed through: they hold the text of the batch."""
    refusal.__context__ = refusal.__cause__ = None
    return refusal.with_traceback(None)


def _mistakes(item: _Draft | RelayError) -> int:
    """Count what an answer has to say about one event of a batch."""
    if isinstance(item, RelayError):
        return len(item.issues) if isinstance(item, Invalid) else 1
    return len(item.warnings)


def _take_header(posted: Posted, key: str) -> Iterator[Issue]:
    """Let the header `Idempotency-Key` stand for the member."""
    if posted.idempotency_key is None:
        posted.idempotency_key = key
    elif posted.idempotency_key != key:
        yield Issue("/idempotency_key", "is not what the header Idempotency-Key says; send one of them")


def _aimed(
    registry: Registry, application: Application, named: Sequence[str]
) -> tuple[tuple[int, ...], Sequence[Issue]]:
    """Return the refs of the endpoints that an event names; those of others do not exist for it."""
    refs, issues = [], []
    for index, name in enumerate(named[:AIMED_MAX]):
        endpoint = registry.endpoints.get(name)
        if endpoint is None or endpoint.application.ref != application.ref:
            sentence = f"application {application.id!r} has no endpoint {name[:64]!r}; correct the id, or leave it out"
            issues.append(Issue(pointer("endpoints", index), sentence))
        else:
            refs.append(endpoint.ref)
    return tuple(sorted({*refs})), issues


def _unrenderable(
    contract: Contract, posted: Posted, data: Payload, issues: Sequence[Issue], now_ms: int
) -> Iterator[Issue]:
    """Find what else would be wrong with an event that is refused, so that its producer learns all at once."""
    if any(issue.path in _RENDERED for issue in issues):
        return
    try:
        freeze(contract, _rendering(posted, "", now_ms, data, _metadata(posted)))
    except Unrenderable as error:
        yield from error.issues


def _metadata(posted: Posted) -> Payload | None:
    given = given_bytes(posted.metadata)
    return None if given is None else Payload(given)


def _rendering(posted: Posted, event_id: str, now_ms: int, data: Payload, metadata: Payload | None) -> Rendering:
    if posted.timestamp is None:
        return Rendering(event_id, posted.type, now_ms, now_ms, data, None, metadata)
    timestamp_us = unix_us(posted.timestamp)
    return Rendering(event_id, posted.type, timestamp_us // 1000, now_ms, data, timestamp_us, metadata)


def _freeze_under(contract: Contract, event: Rendering, event_id: str) -> bytes:
    return freeze(contract, event._replace(id=event_id))


def _refuse_late(posted: Posted, expires_at_ms: int, now_ms: int) -> None:
    """Refuse what would expire before it may be sent."""
    deliver_at_ms = given_ms(posted.deliver_at)
    if posted.expires_at is None and expires_at_ms <= now_ms:
        sentence = f"is so long ago that the links of this event expired at {format_time(expires_at_ms)}"
        raise Invalid([Issue("/timestamp", f"{sentence}; send fresh ones, or say with expires_at how long they live")])
    if posted.expires_at is None and deliver_at_ms is not None and deliver_at_ms >= expires_at_ms:
        sentence = f"must be before the links of this event expire, at {format_time(expires_at_ms)}"
        raise Invalid([Issue("/deliver_at", f"{sentence}; if they live longer, say so with expires_at")])


def _invalid(issues: Sequence[Issue], found: Sequence[Issue] = ()) -> Invalid:
    """Keep the first issue of each member: what follows is about the placeholder that took its place."""
    by_pointer: dict[str, Issue] = {}
    for issue in issues:
        by_pointer.setdefault(issue.path, issue)
    return Invalid([*by_pointer.values(), *(issue for issue in dict.fromkeys(found) if issue.path not in by_pointer)])


_OVERFLOW = "the backlog of each endpoint it goes to is full; its deliveries are dead letters, which can be replayed"


def _receipt(sealed: _Sealed, result: Accepted) -> Receipt:
    reason, detail = result.reason, result.reason_detail
    overflow = result.overflowed and not result.deliveries
    return Receipt(
        event_id=result.event.id,  # another where it takes the place of a filtered one
        type=sealed.event.type,
        application=sealed.application.id,
        created_at_ms=sealed.event.created_at_ms,
        deliveries=result.deliveries,
        warnings=sealed.warnings,
        reason=DeadReason.OVERFLOW if overflow else reason,
        reason_detail=_OVERFLOW if overflow else detail,
    )


def _repetition(sealed: _Sealed, first: Duplicate) -> Receipt:
    return Receipt(
        event_id=first.event_id,
        type=first.type,
        application=sealed.application.id,
        created_at_ms=first.created_at_ms,
        deliveries=first.deliveries,
        warnings=sealed.warnings,
        duplicate=True,
        differs=first.differs,
        reason=first.reason,
        reason_detail=_OVERFLOW if first.reason is DeadReason.OVERFLOW else first.reason_detail,
    )
