"""What a receiver must take and what it must refuse, and what to do where it does otherwise.

Pure: a check makes a delivery from a specimen, somebody sends it, and `judge` looks at the answer.
"""

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import NamedTuple

from relay.diagnosis.specimen import Sent, Specimen

OLD_MS = 3_600_000
"""How old the old timestamp is."""
SLOW_SHARE = 0.5
"""A receiver that needs more than this share of the time it has is told so."""

_GONE = 410


class Must(StrEnum):
    """What a right receiver does with a delivery."""

    ACCEPT = "accept"
    REFUSE = "refuse"


class Result(StrEnum):
    """What came of a check."""

    FINE = "fine"
    REMARK = "remark"  # as it must be, but not as it should
    FAULT = "fault"
    NOT_APPLICABLE = "not_applicable"  # the contract has nothing that could be wrong here
    NOT_TRIED = "not_tried"  # what a right delivery has shown makes it meaningless


class Answer(NamedTuple):
    """What a receiver did; without a status `silence` says why no answer came."""

    status: int | None
    took_ms: float
    silence: str = ""
    meaning: str = ""  # of the status, and what to do about it


class Finding(NamedTuple):
    """One line of the report."""

    check: str
    sends: str
    must: Must
    result: Result
    answer: Answer | None
    says: str
    remedy: str = ""


@dataclass(frozen=True, slots=True)
class Check:
    """One thing to try. `hindrance` says why a contract has no such thing; `remedy` what to do if it went wrong."""

    name: str
    sends: str
    must: Must
    make: Callable[[Specimen, int], Sent]
    remedy: str
    hindrance: Callable[[Specimen], str | None] = lambda _: None


def _signs_nothing(specimen: Specimen) -> str | None:
    if specimen.contract.signs:
        return None
    return "the contract signs nothing: let only the addresses that deliveries come from reach the receiver"


def _no_time(specimen: Specimen) -> str | None:
    return _signs_nothing(specimen) or (None if specimen.signs_time() else "no signature covers the time")


def _no_body(specimen: Specimen) -> str | None:
    return _signs_nothing(specimen) or (None if specimen.signs_body() else "no signature covers the body")


def _no_overlap(specimen: Specimen) -> str | None:
    if not specimen.contract.signs or specimen.contract.overlaps:
        return _signs_nothing(specimen)
    return "one secret signs at a time: a rotation is a cut-over"


def _no_unknown_type(specimen: Specimen) -> str | None:
    return None if specimen.unknown_type() else "the contract shows no type, or allows none that it does not list"


def checks(large_bytes: int) -> tuple[Check, ...]:
    """List all checks, in the order in which they are sent; a right delivery comes first."""

    def no_large(specimen: Specimen) -> str | None:
        return None if specimen.large_data(large_bytes) else "no member of the event may be that long"

    return (
        Check("right", "a right delivery", Must.ACCEPT, _right, _RIGHT),
        Check("repeated_id", "the same event again", Must.ACCEPT, _repeated, _REPEATED),
        Check("rotation", "signatures of two secrets", Must.ACCEPT, _rotated, _ROTATION, _no_overlap),
        Check("unknown_type", "an event type it does not know", Must.ACCEPT, _unknown, _UNKNOWN, _no_unknown_type),
        Check("large", "a large body", Must.ACCEPT, lambda of, now: _large(of, now, large_bytes), _LARGE, no_large),
        Check("slow", "a body that comes slowly", Must.ACCEPT, _slow, _SLOW),
        Check("unsigned", "no signature", Must.REFUSE, _unsigned, _UNSIGNED, _signs_nothing),
        Check("wrong_secret", "the signature of another secret", Must.REFUSE, _wrong, _WRONG, _signs_nothing),
        Check("changed_body", "a body changed since it was signed", Must.REFUSE, _changed, _CHANGED, _no_body),
        Check("old_timestamp", "a timestamp an hour old, rightly signed", Must.REFUSE, _old, _OLD, _no_time),
    )


# -- how each is made --------------------------------------------------------------------------------------------------


def _right(of: Specimen, now_ms: int) -> Sent:
    return of.delivery(now_ms, id=of.id)


def _repeated(of: Specimen, now_ms: int) -> Sent:
    return of.delivery(now_ms, id=of.id, attempt=2)


def _rotated(of: Specimen, now_ms: int) -> Sent:
    assert of.other_secret is not None
    return of.delivery(now_ms, secrets=(of.other_secret, *of.secrets))


def _unknown(of: Specimen, now_ms: int) -> Sent:
    return of.delivery(now_ms, type=of.unknown_type() or "")


def _large(of: Specimen, now_ms: int, large_bytes: int) -> Sent:
    return of.delivery(now_ms, data=of.large_data(large_bytes) or b"")


def _slow(of: Specimen, now_ms: int) -> Sent:
    return of.delivery(now_ms)._replace(slowly=True)


def _unsigned(of: Specimen, now_ms: int) -> Sent:
    return of.delivery(now_ms, secrets=())


def _wrong(of: Specimen, now_ms: int) -> Sent:
    assert of.other_secret is not None
    return of.delivery(now_ms, secrets=(of.other_secret,))


def _changed(of: Specimen, now_ms: int) -> Sent:
    """Sign other bytes than those that are sent: to the receiver that is the same, and what it gets is well formed."""
    return of.delivery(now_ms, signed=lambda body: body[:-1] + b" " + body[-1:])


def _old(of: Specimen, now_ms: int) -> Sent:
    return of.delivery(now_ms, signed_ms=now_ms - OLD_MS)


# -- what to do --------------------------------------------------------------------------------------------------------

_RIGHT = "Compare secret, contract and URL on both sides; `relay listen` shows what a right receiver makes of it."
_REPEATED = (
    "Senders repeat what they had no answer for: answer 2xx to an id that you have handled, and do nothing else. "
    "Anything but 2xx is tried again and again."
)
_ROTATION = "While a secret is rotated the header has two signatures: accept if any of them is right."
_UNKNOWN = "Types are added over time: answer 2xx to one that you do not handle, and ignore it."
_LARGE = "Raise the limit for bodies in the framework and in the proxy before it (express.json, client_max_body_size)."
_SLOW = "Read the body to its end, as Content-Length says: the first piece that arrives is not the whole."
_UNSIGNED = "A missing signature is a wrong one: refuse it with 401 before you look at anything else."
_WRONG = (
    "Anybody can send it events: compute the signature of the raw body with your secret, compare in constant time, and "
    "answer 401 if none is equal."
)
_CHANGED = "Compute the signature from the bytes that arrived, all of them, before any parser touches them."
_OLD = "What was recorded once can be sent again for ever: refuse timestamps more than five minutes from now."
_SOONER = "Store the event, answer, and work on it afterwards."
_BROKE = "Refuse with 401: an error looks like an outage to its sender, which tries again."
_DISABLES = "Answer 401: 410 asks the sender to disable the endpoint."


# -- what the answers mean ---------------------------------------------------------------------------------------------


def judge(check: Check, answer: Answer, limit_ms: int) -> Finding:
    """Compare an answer with what it must be. `limit_ms` is how long the sender waits for one."""
    judged = _judge_acceptance if check.must is Must.ACCEPT else _judge_refusal
    result, says, remedy = judged(check, answer, limit_ms)
    return Finding(check.name, check.sends, check.must, result, answer, says, remedy)


def _judge_acceptance(check: Check, answer: Answer, limit_ms: int) -> tuple[Result, str, str]:
    if answer.status is None:
        return Result.FAULT, f"{answer.silence}; it must be accepted", check.remedy
    if not 200 <= answer.status <= 299:
        meaning = f" ({answer.meaning})" if answer.meaning else ""
        return Result.FAULT, f"answered {answer.status}{meaning}; it must be accepted", check.remedy
    if answer.took_ms > SLOW_SHARE * limit_ms:
        return Result.REMARK, f"accepted, but it took {answer.took_ms:.0f} of {limit_ms} ms", _SOONER
    return Result.FINE, "accepted", ""


def _judge_refusal(check: Check, answer: Answer, _limit_ms: int) -> tuple[Result, str, str]:
    if answer.status is None:
        return Result.REMARK, f"not accepted, but {answer.silence}", _BROKE
    if 200 <= answer.status <= 299:
        return Result.FAULT, "accepted; it must be refused", check.remedy
    if answer.status >= 500:
        return Result.REMARK, f"not accepted, but it broke ({answer.status})", _BROKE
    if answer.status == _GONE:
        return Result.REMARK, "refused, but with 410", _DISABLES
    return Result.FINE, "refused", ""


def left_out(check: Check, result: Result, why: str) -> Finding:
    """Say why a check was not sent."""
    return Finding(check.name, check.sends, check.must, result, None, why)
