"""The data of a stored event. What was stored is the body that is sent: the data are what the contract makes the same body of."""

from collections.abc import Iterator

import orjson

from relay.contracts import Contract, Payload, Rendering, Unrenderable
from relay.contracts.payload import split_object
from relay.core.views import EventView

OWN_MEMBERS_MAX = 4
"""Members of a contract before the data, and after them, among which the data of a stored event are looked for."""


def data_of(view: EventView, contract: Contract) -> bytes | None:
    """Find the data of a stored event in its body; None where nothing makes the same body. O(members of the body)"""
    metadata = None if view.metadata is None else Payload(view.metadata)
    for data in _candidates(view.body or b""):
        rendering = Rendering(
            view.id, view.type, view.timestamp_ms, view.created_at_ms, Payload(data), metadata=metadata
        )
        try:
            if contract.render(rendering) == view.body:
                return data
        except Unrenderable:
            continue
    return None


def _candidates(text: bytes) -> Iterator[bytes]:
    """Yield what may be the data in a body: the member that is, the members among others, the whole."""
    try:
        members = orjson.loads(text)
    except orjson.JSONDecodeError:
        return
    yield text
    if not isinstance(members, dict):
        return
    slices = {name: bytes(raw) for name, raw in split_object(text).items()}
    yield from slices.values()
    pairs = [orjson.dumps(name) + b":" + raw for name, raw in slices.items()]
    for first in range(min(len(pairs), OWN_MEMBERS_MAX) + 1):
        for last in range(min(len(pairs) - first, OWN_MEMBERS_MAX) + 1):
            yield b"{" + b",".join(pairs[first : len(pairs) - last]) + b"}"
