"""The database: every SQL statement of the relay. Nothing outside this package knows SQLite.

Read `store` for what there is to ask, `writer` for what happens when the power fails, then `accept` and `settle`.
"""

from relay.store.rows import (
    AcceptResult,
    ApplicationRow,
    DeliveryFilter,
    DueKey,
    EndpointRow,
    EventFilter,
    FileSizes,
    KeyRow,
    Pruned,
    PulledForward,
    RefillResult,
    Retention,
    StoreFacts,
    StoreSettings,
    attempt_id,
    delivery_id,
    delivery_key,
    new_endpoint,
)
from relay.store.sqlite.applications import Created
from relay.store.sqlite.store import Store

__all__ = [
    "AcceptResult",
    "ApplicationRow",
    "Created",
    "DeliveryFilter",
    "DueKey",
    "EndpointRow",
    "EventFilter",
    "FileSizes",
    "KeyRow",
    "Pruned",
    "PulledForward",
    "RefillResult",
    "Retention",
    "Store",
    "StoreFacts",
    "StoreSettings",
    "attempt_id",
    "delivery_id",
    "delivery_key",
    "new_endpoint",
]
