"""Intake: checks what was posted, freezes the body, hands the event to the store, and answers after the commit.

A write that was submitted is never recalled (invariant 3): what follows a commit hangs on the commit itself, not on the
request, whose client may have gone.
"""

import asyncio
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import msgspec
import structlog

from relay.api import problems
from relay.api.problems import Problem, Refused
from relay.contracts import Rendering, Unrenderable
from relay.core.access import Principal
from relay.core.clock import Clock
from relay.core.errors import CommitUnknown, RelayError
from relay.core.ids import IdFactory
from relay.core.issues import Issue
from relay.core.model import Accepted, Application, Duplicate, Idempotency, NewEvent, NoDelivery
from relay.core.units import format_time, unix_us
from relay.intake.enforcing import enforce, in_data
from relay.intake.neighbours import Contract, Directory, Result, Store
from relay.intake.ruling import Rules, claim, rules_for
from relay.intake.screening import screen
from relay.intake.submission import Submission, check, given_bytes, given_ms, read, read_batch
from relay.telemetry import log
from relay.telemetry.metrics import Metrics

_BREATH = 50
"""Items of a batch that are checked before other requests get a turn."""

_RENDERED = frozenset({"", "/type", "/data", "/id", "/timestamp"})
"""Members that the body is made of."""


@dataclass(frozen=True, slots=True)
class IntakeLimits:
    """What a producer may send at once."""

    max_depth: int = 200
    max_batch: int = 1000


@dataclass(frozen=True, slots=True)
class Answer:
    """What a producer is told."""

    status: int
    body: dict[str, Any]
    location: str | None = None


class _Draft(NamedTuple):
    """An event that is sound and whose body is frozen; it lacks only where it goes."""

    posted: Submission
    application: Application
    now_ms: int
    event_id: str
    timestamp_ms: int
    body: bytes
    rules: Rules
    idempotency: Idempotency | None
    warnings: Sequence[Issue]


class Intake:
    """Takes events in. Holds no events: what is between the check and the commit is the store's."""

    def __init__(
        self,
        *,
        directory: Directory,
        store: Store,
        clock: Clock,
        ids: IdFactory,
        on_accepted: Callable[[Accepted], None],
        metrics: Metrics,
        limits: IntakeLimits | None = None,
    ) -> None:
        self._directory = directory
        self._store = store
        self._clock = clock
        self._ids = ids
        self._on_accepted = on_accepted
        self._metrics = metrics
        self._log = structlog.get_logger("relay.intake")
        self.limits = limits or IntakeLimits()

    async def accept_one(self, principal: Principal, body: bytes, key: str | None = None) -> Answer:
        """Accept the event in `body`; `key` is the header `Idempotency-Key`.

        Returns once it is committed: 202, or 200 for a repetition. Refused for what is wrong with it, StoreUnavailable
        when the store did not take it, CommitUnknown when nobody knows.
        """
        screen(body, self.limits.max_depth)
        draft = self._check(principal, body, key)
        answer = _answer(draft, (await self._commit([draft]))[0])
        if isinstance(answer, Problem):
            raise Refused(answer)
        return answer

    async def accept_batch(self, principal: Principal, body: bytes) -> Answer:
        """Accept a JSON array of events: each is answered for itself, and the sound ones commit together."""
        screen(body, self.limits.max_depth + 1)
        items = read_batch(body)
        if len(items) > self.limits.max_batch:
            raise Refused(problems.batch_too_large(self.limits.max_batch))
        checked = await self._check_all(principal, items)
        drafts = [item for item in checked if isinstance(item, _Draft)]
        results = iter(await self._commit(drafts) if drafts else ())
        answers = [item if isinstance(item, Problem) else _answer(item, next(results)) for item in checked]
        return Answer(200, {"results": [_in_batch(answer) for answer in answers]})

    async def _check_all(self, principal: Principal, items: Sequence[msgspec.Raw]) -> list[_Draft | Problem]:
        checked: list[_Draft | Problem] = []
        for number, item in enumerate(items, 1):
            try:
                checked.append(self._check(principal, item, None))
            except Refused as refusal:
                checked.append(refusal.problem)
            if number % _BREATH == 0:
                await asyncio.sleep(0)
        return checked

    async def _commit(self, drafts: Sequence[_Draft]) -> Sequence[Result]:
        # From the match to the submission nothing waits: an endpoint that is deleted meanwhile gets nothing (Q11).
        committing = asyncio.ensure_future(self._store.accept([self._seal(draft) for draft in drafts]))
        told: asyncio.Future[Sequence[Result]] = committing.get_loop().create_future()
        committing.add_done_callback(partial(self._committed, told, drafts, self._clock.mono_ms()))
        return await told  # cancelling the request cancels this future and nothing else

    def _committed(
        self,
        told: asyncio.Future[Sequence[Result]],
        drafts: Sequence[_Draft],
        began_ms: float,
        committing: asyncio.Future[Sequence[Result]],
    ) -> None:
        """Hand over what is durable, then tell the request, if it still wants to know."""
        error = CommitUnknown("the write was given up") if committing.cancelled() else committing.exception()
        if error is None:
            self._metrics.committed(self._clock.mono_ms() - began_ms)
            for draft, result in zip(drafts, committing.result(), strict=True):
                self._take_note(draft, result)
        if told.done():
            return
        if error is None:
            told.set_result(committing.result())
        else:
            told.set_exception(error)

    def _take_note(self, draft: _Draft, result: Result) -> None:
        if isinstance(result, Accepted):
            self._metrics.accepted()
            self._on_accepted(result)
            if draft.warnings:
                self._warn(draft)
        elif isinstance(result, Duplicate):
            self._metrics.deduplicated()

    def _warn(self, draft: _Draft) -> None:
        facts = {"event_id": draft.event_id, "event_type": draft.posted.type, "application": draft.application.id}
        self._metrics.warned()
        self._log.warning(log.EVENT_WARNED, **facts, mistakes=len(draft.warnings))

    def _check(self, principal: Principal, body: bytes | msgspec.Raw, key: str | None) -> _Draft:
        posted, mistakes = read(body)
        now_ms = self._clock.wall_ms()
        mistakes.extend(_take_header(posted, key))
        mistakes.extend(check(posted, now_ms))
        try:
            application = self._directory.application_for(principal, posted.application)
        except RelayError as error:
            raise _invalid([*mistakes, Issue("/application", problems.spoken(error))]) from None
        contract = self._directory.contract(application)
        mistakes.extend(_misplaced(contract, posted))
        findings = enforce(contract, application.validation, posted)
        if mistakes or findings.refusals:
            raise _invalid(mistakes, [*findings.refusals, *self._unrenderable(contract, posted, mistakes, now_ms)])
        return self._freeze(posted, application, contract, now_ms, findings.warnings)

    def _unrenderable(
        self, contract: Contract, posted: Submission, mistakes: Sequence[Issue], now_ms: int
    ) -> Iterator[Issue]:
        """Find what else would be wrong with an event that is refused, so that its producer hears all at once."""
        if any(mistake.path in _RENDERED for mistake in mistakes):
            return
        try:
            contract.render(_rendering(posted, "", now_ms, bytes(posted.data)))
        except Unrenderable as error:
            yield Issue(in_data(error.pointer), error.sentence)

    def _freeze(
        self,
        posted: Submission,
        application: Application,
        contract: Contract,
        now_ms: int,
        warnings: Sequence[Issue],
    ) -> _Draft:
        """Make the body: from here on its bytes do not change (invariant 6)."""
        data = bytes(posted.data)
        rules = rules_for(contract, application, posted, data, now_ms)
        if rules.expires_at_ms is not None:
            _refuse_late(posted, rules.expires_at_ms)
        rendering = _rendering(posted, self._ids.new("evt") if posted.id is None else posted.id, now_ms, data)
        try:
            body = contract.render(rendering)
        except Unrenderable as error:
            mistake = Issue(in_data(error.pointer), error.sentence)
            raise Refused(problems.lossy_number(mistake) if error.lossy else problems.invalid([mistake])) from None
        idempotency = claim(contract, application, posted, data)
        return _Draft(
            posted, application, now_ms, rendering.id, rendering.timestamp_ms, body, rules, idempotency, warnings
        )

    def _seal(self, draft: _Draft) -> NewEvent:
        """Make the event: it goes where it matches now, unless it is held back."""
        posted, rules = draft.posted, draft.rules
        match = self._directory.match(draft.application, posted.type)
        held_back = rules.held_back is not None
        deliver_at_ms, expires_at_ms = given_ms(posted.deliver_at), given_ms(posted.expires_at)
        return NewEvent(
            id=draft.event_id,
            id_given=posted.id is not None,
            application=draft.application.ref,
            type=posted.type,
            body=draft.body,
            created_at_ms=draft.now_ms,
            timestamp_ms=draft.timestamp_ms,
            targets=() if held_back else match.targets,
            reason=NoDelivery.FILTERED if held_back else match.reason,
            reason_detail=match.detail if rules.held_back is None else rules.held_back,
            deliver_at_ms=deliver_at_ms if deliver_at_ms is not None and deliver_at_ms > draft.now_ms else None,
            expires_at_ms=rules.expires_at_ms if expires_at_ms is None else expires_at_ms,
            ordering_key=rules.ordering_key,
            order_strictly=rules.order_strictly,
            metadata=given_bytes(posted.metadata),
            idempotency=draft.idempotency,
            recall=rules.recall,
            remember=rules.remember,
        )


def _rendering(posted: Submission, event_id: str, now_ms: int, data: bytes) -> Rendering:
    if posted.timestamp is None:
        return Rendering(event_id, posted.type, now_ms, now_ms, data)
    timestamp_us = unix_us(posted.timestamp)
    return Rendering(event_id, posted.type, timestamp_us // 1000, now_ms, data, timestamp_us)


def _take_header(posted: Submission, key: str | None) -> Iterator[Issue]:
    """Let the header `Idempotency-Key` stand for the member."""
    if key is None:
        return
    if posted.idempotency_key is None:
        posted.idempotency_key = key
    elif posted.idempotency_key != key:
        yield Issue("/idempotency_key", "is not what the header Idempotency-Key says; send one of them")


def _misplaced(contract: Contract, posted: Submission) -> Iterator[Issue]:
    if posted.ordering_key is not None and contract.ordering == "none":
        yield Issue("/ordering_key", f'the contract "{contract.name}" keeps no order; leave ordering_key out')


def _refuse_late(posted: Submission, expires_at_ms: int) -> None:
    """Refuse what would expire before it may be sent."""
    deliver_at_ms = given_ms(posted.deliver_at)
    if posted.expires_at is None and deliver_at_ms is not None and deliver_at_ms >= expires_at_ms:
        sentence = f"must be before the links of this event expire, at {format_time(expires_at_ms)}"
        raise _invalid([Issue("/deliver_at", f"{sentence}; if they live longer, say so with expires_at")])


def _invalid(mistakes: Iterable[Issue], findings: Iterable[Issue] = ()) -> Refused:
    """Keep the first mistake of each member: what follows is about the placeholder that took its place."""
    by_pointer: dict[str, Issue] = {}
    for mistake in mistakes:
        by_pointer.setdefault(mistake.path, mistake)
    found = [mistake for mistake in dict.fromkeys(findings) if mistake.path not in by_pointer]
    return Refused(problems.invalid([*by_pointer.values(), *found]))


def _answer(draft: _Draft, result: Result) -> Answer | Problem:
    match result:
        case Accepted():
            body = _body(draft, draft.event_id, draft.posted.type, draft.now_ms, result.deliveries)
            if result.reason is not None:
                body |= {"reason": result.reason, "reason_detail": result.reason_detail}
            return Answer(202, body, f"/v1/events/{draft.event_id}")
        case Duplicate():
            return _repetition(draft, result)
        case _:
            return problems.from_error(result)


def _repetition(draft: _Draft, first: Duplicate) -> Answer | Problem:
    claimed = draft.idempotency
    if first.differs and not (claimed is not None and claimed.derived):
        detail = (
            "This idempotency key (or id) came before with another type or other data. Use a new one for a new event."
        )
        return problems.conflict("idempotency_conflict", detail)
    body = _body(draft, first.event_id, first.type, first.created_at_ms, first.deliveries, duplicate=True)
    if first.differs:
        body["differs"] = True
    return Answer(200, body, f"/v1/events/{first.event_id}")


def _body(
    draft: _Draft, event_id: str, event_type: str, created_at_ms: int, deliveries: int, *, duplicate: bool = False
) -> dict[str, Any]:
    body = {
        "id": event_id,
        "type": event_type,
        "application": draft.application.id,
        "created_at": format_time(created_at_ms),
        "deliveries": deliveries,
        "duplicate": duplicate,
    }
    if draft.warnings:
        body["warnings"] = [mistake.to_json() for mistake in draft.warnings]
    return body


def _in_batch(answer: Answer | Problem) -> dict[str, Any]:
    if isinstance(answer, Problem):
        return {"status": answer.status, "problem": answer.to_json()}
    return {"status": answer.status, "body": answer.body}
