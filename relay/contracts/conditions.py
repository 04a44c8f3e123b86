"""Which events are held back, and the small memory that some of them need."""

from collections.abc import Mapping

from relay.contracts.document import ListedType, Memory
from relay.contracts.lookups import Lookup
from relay.contracts.payload import Payload


def held_back(
    listed: ListedType,
    type: str,
    data: Payload,
    metadata: Payload | None,
    features: Mapping[str, bool],
    memory: str | None,
) -> str | None:
    """Return a sentence why an event is not sent; None if it is."""
    if listed.feature is not None and not features.get(listed.feature, False):
        return f'the feature "{listed.feature}" is off for this application'
    if not listed.needs or any(need.read(type, data, metadata, memory) for need in listed.needs):
        return None
    return _lacking(listed.needs)


def remembered_of(memory: Memory, type: str, data: Payload, metadata: Payload | None) -> tuple[str, str] | None:
    """Return the key and the value that an event leaves in the memory."""
    if type not in memory.types:
        return None
    key, value = memory.key.read(type, data), memory.value.read(type, data, metadata)
    return None if key is None or value is None else (key, value)


def _lacking(needs: tuple[Lookup, ...]) -> str:
    words = ["what earlier events said" if need.variables == {"memory"} else str(need) for need in needs]
    if len(words) == 1:
        return f"{words[0]} is missing or empty"
    return f"neither {' nor '.join(words)} says what is needed"
