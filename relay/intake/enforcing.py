"""What a contract asks of an event: a type of its catalogue, and data as that type's schema says.

How strictly is the application's choice: what `strict` refuses, `warn` accepts and tells, and `off` does not look at.
"""

from collections.abc import Iterable
from typing import NamedTuple

from relay.core.issues import Issue
from relay.core.model import Validation
from relay.intake.neighbours import Contract
from relay.intake.submission import Submission


class Findings(NamedTuple):
    """Mistakes that refuse an event, and mistakes that its producer is only told of."""

    refusals: tuple[Issue, ...] = ()
    warnings: tuple[Issue, ...] = ()


NOTHING = Findings()


def enforce(contract: Contract, validation: Validation, posted: Submission) -> Findings:
    """Hold an event against the catalogue. A type of unlawful form is refused in any case."""
    fault = contract.check_type(posted.type)
    if fault is not None:
        lawful = contract.check_form(posted.type) is None
        return _sorted([Issue("/type", fault)], validation if lawful else Validation.STRICT)
    if validation is Validation.OFF or posted.type not in contract.types:
        return NOTHING
    faults = contract.check_data(posted.type, bytes(posted.data))
    return _sorted([Issue(in_data(pointer), sentence) for pointer, sentence in faults], validation)


def in_data(pointer: str) -> str:
    """Return the pointer into the request of a pointer into its `data`."""
    return "/data" + pointer.encode("utf-8", "backslashreplace").decode()  # no UTF-8 holds a lone surrogate


def _sorted(mistakes: Iterable[Issue], validation: Validation) -> Findings:
    if validation is Validation.STRICT:
        return Findings(refusals=tuple(mistakes))
    return Findings(warnings=tuple(mistakes)) if validation is Validation.WARN else NOTHING
