"""Intake: checks what was posted, freezes the body, hands the event to the store, and answers after the commit.

A write that was submitted is never recalled (invariant 3): what follows a commit hangs on the commit itself, not on the
request, whose client may have gone.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from hashlib import blake2b
from typing import Any, NamedTuple, Protocol

import msgspec

from relay import problems
from relay.clock import Clock
from relay.contracts import Rendering
from relay.errors import CommitUnknown, RelayError
from relay.ids import IdFactory
from relay.intake.screening import screen
from relay.intake.submission import Submission, check, given_bytes, given_ms, read, read_batch
from relay.metrics import Metrics
from relay.model import Accepted, Application, Duplicate, Idempotency, NewEvent, NoDelivery
from relay.problems import Mistake, Problem, Refused
from relay.times import format_time
from relay.tokens import Principal

_DIGEST_BYTES = 16
_BREATH = 50
"""Items of a batch that are checked before other requests get a turn."""


class Contract(Protocol):
    """What intake asks of a contract."""

    @property
    def name(self) -> str: ...
    def check_type(self, type: str, /) -> str | None: ...
    def render(self, event: Rendering, /) -> bytes: ...


class Match(Protocol):
    """Where an event goes, or why it goes nowhere."""

    @property
    def targets(self) -> tuple[int, ...]: ...
    @property
    def reason(self) -> NoDelivery | None: ...
    @property
    def detail(self) -> str: ...


class Directory(Protocol):
    """What intake asks of the directory."""

    def application_for(self, principal: Principal, named: str | None, /) -> Application: ...
    def contract(self, application: Application, /) -> Contract: ...
    def match(self, application: Application, event_type: str, /) -> Match: ...


Result = Accepted | Duplicate | RelayError
"""What became of one event: a RelayError when it alone was refused."""


class Store(Protocol):
    """What intake asks of the store: one transaction, one result for each event, in order."""

    def accept(self, events: Sequence[NewEvent], /) -> Awaitable[Sequence[Result]]: ...


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


class _Checked(NamedTuple):
    """An event that may be stored, and the id of its application, which the answer repeats."""

    event: NewEvent
    application: str


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
        self.limits = limits or IntakeLimits()

    async def accept_one(self, principal: Principal, body: bytes, key: str | None = None) -> Answer:
        """Accept the event in `body`; `key` is the header `Idempotency-Key`.

        Returns once it is committed: 202, or 200 for a repetition. Refused for what is wrong with it, StoreUnavailable
        when the store did not take it, CommitUnknown when nobody knows.
        """
        screen(body, self.limits.max_depth)
        checked = self._check(principal, body, key)
        answer = _answer(checked, (await self._commit([checked.event]))[0])
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
        events = [item.event for item in checked if isinstance(item, _Checked)]
        results = iter(await self._commit(events) if events else ())
        answers = [item if isinstance(item, Problem) else _answer(item, next(results)) for item in checked]
        return Answer(200, {"results": [_in_batch(answer) for answer in answers]})

    async def _check_all(self, principal: Principal, items: Sequence[msgspec.Raw]) -> list[_Checked | Problem]:
        checked: list[_Checked | Problem] = []
        for number, item in enumerate(items, 1):
            try:
                checked.append(self._check(principal, item, None))
            except Refused as refusal:
                checked.append(refusal.problem)
            if number % _BREATH == 0:
                await asyncio.sleep(0)
        return checked

    async def _commit(self, events: Sequence[NewEvent]) -> Sequence[Result]:
        committing = asyncio.ensure_future(self._store.accept(events))
        told: asyncio.Future[Sequence[Result]] = committing.get_loop().create_future()
        committing.add_done_callback(partial(self._committed, told, self._clock.mono_ms()))
        return await told  # cancelling the request cancels this future and nothing else

    def _committed(
        self,
        told: asyncio.Future[Sequence[Result]],
        began_ms: float,
        committing: asyncio.Future[Sequence[Result]],
    ) -> None:
        """Hand over what is durable, then tell the request, if it still wants to know."""
        error = CommitUnknown("the write was given up") if committing.cancelled() else committing.exception()
        if error is None:
            self._metrics.committed(self._clock.mono_ms() - began_ms)
            for result in committing.result():
                self._take_note(result)
        if told.done():
            return
        if error is None:
            told.set_result(committing.result())
        else:
            told.set_exception(error)

    def _take_note(self, result: Result) -> None:
        if isinstance(result, Accepted):
            self._metrics.accepted()
            self._on_accepted(result)
        elif isinstance(result, Duplicate):
            self._metrics.deduplicated()

    def _check(self, principal: Principal, body: bytes | msgspec.Raw, key: str | None) -> _Checked:
        posted, mistakes = read(body)
        now_ms = self._clock.wall_ms()
        mistakes.extend(_take_header(posted, key))
        mistakes.extend(check(posted, now_ms))
        try:
            application = self._directory.application_for(principal, posted.application)
        except RelayError as error:
            raise _invalid([*mistakes, Mistake("/application", problems.spoken(error))]) from None
        contract = self._directory.contract(application)
        mistakes.extend(_against(contract, posted))
        if mistakes:
            raise _invalid(mistakes)
        return _Checked(self._freeze(posted, application, contract, now_ms), application.id)

    def _freeze(self, posted: Submission, application: Application, contract: Contract, now_ms: int) -> NewEvent:
        """Make the event: from here on its bytes do not change (invariant 6)."""
        match = self._directory.match(application, posted.type)
        event_id = self._ids.new("evt") if posted.id is None else posted.id
        timestamp_ms = given_ms(posted.timestamp)
        if timestamp_ms is None:
            timestamp_ms = now_ms
        deliver_at_ms = given_ms(posted.deliver_at)
        data = bytes(posted.data)
        return NewEvent(
            id=event_id,
            id_given=posted.id is not None,
            application=application.ref,
            type=posted.type,
            body=contract.render(Rendering(event_id, posted.type, timestamp_ms, now_ms, data)),
            created_at_ms=now_ms,
            timestamp_ms=timestamp_ms,
            targets=match.targets,
            reason=match.reason,
            reason_detail=match.detail,
            deliver_at_ms=deliver_at_ms if deliver_at_ms is not None and deliver_at_ms > now_ms else None,
            expires_at_ms=given_ms(posted.expires_at),
            ordering_key=posted.ordering_key,
            metadata=given_bytes(posted.metadata),
            idempotency=_claim(posted, application, data),
        )


def _take_header(posted: Submission, key: str | None) -> Iterator[Mistake]:
    """Let the header `Idempotency-Key` stand for the member."""
    if key is None:
        return
    if posted.idempotency_key is None:
        posted.idempotency_key = key
    elif posted.idempotency_key != key:
        yield Mistake("/idempotency_key", "is not what the header Idempotency-Key says; send one of them")


def _against(contract: Contract, posted: Submission) -> Iterator[Mistake]:
    fault = contract.check_type(posted.type)
    if fault is not None:
        yield Mistake("/type", fault)
    if posted.ordering_key is not None and getattr(contract, "ordering", "none") == "none":
        yield Mistake("/ordering_key", f'the contract "{contract.name}" keeps no order; leave ordering_key out')


def _invalid(mistakes: Iterable[Mistake]) -> Refused:
    """Keep the first mistake of each member: what follows is about the placeholder that took its place."""
    by_pointer: dict[str, Mistake] = {}
    for mistake in mistakes:
        by_pointer.setdefault(mistake.pointer, mistake)
    return Refused(problems.invalid(by_pointer.values()))


def _claim(posted: Submission, application: Application, data: bytes) -> Idempotency | None:
    """Return what makes a repetition of this event one (Q8); an id that the producer chose is a key too."""
    if posted.idempotency_key is not None:
        key = b"key\0" + posted.idempotency_key.encode()
    elif posted.id is not None:
        key = b"id\0" + posted.id.encode()
    else:
        return None
    fingerprint = b"\0".join((application.id.encode(), posted.type.encode(), data))
    return Idempotency(key=_digest(key), fingerprint=_digest(fingerprint))


def _digest(text: bytes) -> bytes:
    return blake2b(text, digest_size=_DIGEST_BYTES).digest()


def _answer(checked: _Checked, result: Result) -> Answer | Problem:
    event = checked.event
    match result:
        case Accepted():
            body = _body(event.id, event.type, checked.application, event.created_at_ms, result.deliveries)
            if event.reason is not None:
                body["reason"] = event.reason
            return Answer(202, body, f"/v1/events/{event.id}")
        case Duplicate():
            return _repetition(checked, result)
        case _:
            return problems.from_error(result)


def _repetition(checked: _Checked, first: Duplicate) -> Answer | Problem:
    claim = checked.event.idempotency
    if first.differs and not (claim is not None and claim.derived):
        detail = (
            "This idempotency key (or id) came before with another type or other data. Use a new one for a new event."
        )
        return problems.conflict("idempotency_conflict", detail)
    body = _body(first.event_id, first.type, checked.application, first.created_at_ms, first.deliveries, duplicate=True)
    if first.differs:
        body["differs"] = True
    return Answer(200, body, f"/v1/events/{first.event_id}")


def _body(
    event_id: str, event_type: str, application: str, created_at_ms: int, deliveries: int, *, duplicate: bool = False
) -> dict[str, Any]:
    return {
        "id": event_id,
        "type": event_type,
        "application": application,
        "created_at": format_time(created_at_ms),
        "deliveries": deliveries,
        "duplicate": duplicate,
    }


def _in_batch(answer: Answer | Problem) -> dict[str, Any]:
    if isinstance(answer, Problem):
        return {"status": answer.status, "problem": answer.to_json()}
    return {"status": answer.status, "body": answer.body}
