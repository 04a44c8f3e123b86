"""What is frozen of an event when it is accepted: the body that its application's contract wrote, and those of others.

No byte of it changes from then on (invariant 6). Payloads are never shown by `repr`.
"""

from collections.abc import Sequence, Sized
from typing import NamedTuple


class Variant(NamedTuple):
    """An event as the contract of some of its endpoints writes it, another than its application's; frozen with it."""

    contract: str  # its name
    targets: tuple[int, ...]  # refs of the endpoints that it is for
    body: bytes  # empty where there is a fault
    fault: str = ""  # why this contract cannot write the event; then nothing can be sent to these endpoints
    corrupt: bool = False  # the body was read, and is not what was accepted (invariant 6)

    def __repr__(self) -> str:
        return f"Variant({self.contract!r}, {self.targets!r})"


class FrozenEvent(NamedTuple):
    """What an attempt needs of an event: the bytes frozen at accept and what is signed with them."""

    ordinal: int
    id: str
    type: str
    application: int  # ref
    created_at_ms: int
    expires_at_ms: int | None
    body: bytes
    corrupt: bool = False  # the body was read, and is not what was accepted (invariant 6)
    contract: str | None = None  # what wrote the body; None: its application's contract
    fault: str = ""  # why there is no body
    variants: tuple[Variant, ...] = ()

    def sent_to(self, ref: int) -> "FrozenEvent":
        """Return the event as it was frozen for one of its endpoints. O(its endpoints with contracts of their own)"""
        for contract, targets, body, fault, corrupt in self.variants:
            if ref in targets:
                return self._replace(body=body, corrupt=corrupt, contract=contract, fault=fault, variants=())
        return self

    def __repr__(self) -> str:
        return f"FrozenEvent({self.ordinal!r}, {self.id!r}, {self.type!r})"


def bodies_bytes(body: bytes, variants: Sequence[Variant]) -> int:
    """Return how many bytes are frozen of an event."""
    return len(body) + sum([len(variant.body) for variant in variants]) if variants else len(body)


def share_bytes(body: bytes, variants: Sequence[Variant], targets: Sized) -> int:
    """Return what each delivery of an event is charged of its bodies: its part, rounded up, so that all of them count once."""
    return -(-bodies_bytes(body, variants) // (len(targets) or 1))
