"""What there is to ask of the database, in the words of the queue: read `interface`.

An engine stands in a folder of its own behind it; `sqlite` is the one there is.
"""

from relay.store.interface import Store
from relay.store.values import (
    AcceptResult,
    ApplicationRow,
    AtRest,
    CreationRecord,
    DeliveryFilter,
    DueKey,
    EndpointRow,
    EventFilter,
    Fact,
    KeyRow,
    Pruned,
    PulledForward,
    RefillResult,
    RegistryChange,
    RegistryRows,
    Rekeyed,
    Resealed,
    Retention,
    StillOwed,
    Usage,
    attempt_id,
    delivery_id,
    delivery_key,
)

__all__ = [
    "AcceptResult",
    "ApplicationRow",
    "AtRest",
    "CreationRecord",
    "DeliveryFilter",
    "DueKey",
    "EndpointRow",
    "EventFilter",
    "Fact",
    "KeyRow",
    "Pruned",
    "PulledForward",
    "RefillResult",
    "RegistryChange",
    "RegistryRows",
    "Rekeyed",
    "Resealed",
    "Retention",
    "StillOwed",
    "Store",
    "Usage",
    "attempt_id",
    "delivery_id",
    "delivery_key",
]
