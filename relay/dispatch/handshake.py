"""What a receiver is asked before its first event, and what its answer means. Plain functions; `verifier` asks."""

from collections.abc import Iterable
from typing import NamedTuple

from relay.contracts import Contract
from relay.contracts.verification import CHALLENGE_TYPE, MEDIA_TYPE, PING_TYPE
from relay.core.errors import Conflict
from relay.core.frozen import FrozenEvent
from relay.core.model import Endpoint, HeaderPair, Outcome
from relay.core.terminal import printable
from relay.core.units import Rate
from relay.core.verification import (
    ALLOWED_ORIGIN_HEADER,
    ALLOWED_RATE_HEADER,
    ANY,
    ORIGIN_HEADER,
    RATE_HEADER,
    Method,
    Proof,
    asked_per_minute,
    read_allowed_rate,
)
from relay.delivery.courier import Request

TIMEOUT_MAX_MS = 30_000
"""How long an answer may take, whatever the endpoint's time-out is."""

ANSWER_BYTES_MAX = 8 * 1024
"""How long an answer may be that repeats a challenge: less than what is kept of one, so none was cut off."""

SHOWN_MAX = 100
"""Characters of a header that a sentence repeats."""


class Question(NamedTuple):
    """One request to a receiver, and what it must answer."""

    contract: Contract
    event: FrozenEvent  # what is posted; nothing of it goes out by OPTIONS
    method: Method
    challenge: str
    origin: str
    per_minute: int | None

    def shaped(self, request: Request) -> Request:
        """Make of the request that would deliver the event the one that asks."""
        request = request._replace(excerpt=True, timeout_ms=min(request.timeout_ms, TIMEOUT_MAX_MS))
        if self.method is not Method.OPTIONS:
            return request._replace(headers={**request.headers, "Content-Type": MEDIA_TYPE})
        own = {name: text for name, text in request.headers.items() if name.lower() not in self._not_asked_with}
        asked = {ORIGIN_HEADER: self.origin} | ({RATE_HEADER: str(self.per_minute)} if self.per_minute else {})
        return request._replace(method="OPTIONS", body=b"", headers=own | asked)

    @property
    def _not_asked_with(self) -> frozenset[str]:
        """Headers of deliveries that say something of an event, or what an earlier answer allowed; in lower case."""
        return self.contract.header_names | {ORIGIN_HEADER.lower()}

    def judge(self, outcome: Outcome) -> Proof | str:
        """Return the proof that the receiver agreed, or a sentence that says why it did not, with what to do."""
        if outcome.status is None:
            return f"there was no answer: {outcome.detail}"
        if self.method is Method.OPTIONS:
            return self._allowed(outcome)
        if not 200 <= outcome.status < 300:
            agreeing = "let it answer 2xx" + " with the challenge" * (self.method is Method.CHALLENGE)
            known = outcome.detail if outcome.status != 410 else ""  # of 410 it would say that no more is sent
            return f"it answered {outcome.status}: {known or agreeing}"
        asks, answer = self.contract.verification, outcome.response_body
        repeated = len(answer) <= ANSWER_BYTES_MAX and asks.is_repeated(self.challenge, self.event.body, answer)
        if self.method is Method.PING or repeated:
            return Proof(outcome.started_at_ms, self.method)
        forms = " or ".join(asks.answer_forms)
        return (
            f"it answered {outcome.status} without the challenge: let it answer with what it was sent as "
            f'"{asks.answer}" and nothing else, as {forms}'
        )

    def _allowed(self, outcome: Outcome) -> Proof | str:
        """Read the answer of a handshake: its headers say yes, a 2xx alone does not."""
        allowed = _header(outcome.response_headers, ALLOWED_ORIGIN_HEADER)
        if allowed is None or not 200 <= (outcome.status or 0) < 300:
            return (
                f"it answered {outcome.status} to OPTIONS and allowed nothing: let it answer 200 with "
                f"{ALLOWED_ORIGIN_HEADER}: {self.origin}, and with {ALLOWED_RATE_HEADER}"
            )
        if allowed != ANY and allowed.lower() != self.origin.lower():
            return f"it allows another origin, {_shown(allowed)}; ours is {self.origin}"
        rate = _header(outcome.response_headers, ALLOWED_RATE_HEADER) or ANY
        try:
            per_minute = read_allowed_rate(rate)
        except ValueError:
            return f"its {ALLOWED_RATE_HEADER} is {_shown(rate)}; it must be a whole number above 0, or {ANY}"
        return Proof(outcome.started_at_ms, self.method, self.origin, per_minute)


def question(
    endpoint: Endpoint, contract: Contract, event_id: str, challenge: str, origin: str, wanted: Rate | None, now_ms: int
) -> Question:
    """Make the request that an endpoint is asked with, `wanted` often; Conflict where nobody could be allowed by OPTIONS."""
    method = endpoint.verification
    if method is Method.OPTIONS and not origin:
        raise Conflict(
            "no_origin",
            "this relay has no name that receivers could allow by OPTIONS",
            remedy='Set delivery.origin in its configuration, such as "events.example.com", and reload.',
        )
    event = FrozenEvent(
        ordinal=0,
        id=event_id,
        type=CHALLENGE_TYPE if method is Method.CHALLENGE else PING_TYPE,
        application=endpoint.application.ref,
        created_at_ms=now_ms,
        expires_at_ms=None,
        body=contract.verification.body(method, challenge),
        contract=contract.name,
    )
    return Question(contract, event, method, challenge, origin, asked_per_minute(wanted))


def _header(headers: Iterable[HeaderPair], wanted: str) -> str | None:
    return next((pair.value.strip() for pair in headers if pair.name.lower() == wanted.lower()), None)


def _shown(text: str) -> str:
    return printable(text)[:SHOWN_MAX]
