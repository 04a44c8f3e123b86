"""The database: every SQL statement of the relay. Nothing outside this package knows SQLite.

Read `store` for what there is to ask, `writer` for what happens when the power fails, then `accept` and `settle`.
"""

from relay.store.rows import (
    AcceptResult,
    DeliveryFilter,
    EndpointRow,
    EventFilter,
    FileSizes,
    Pruned,
    RefillResult,
    Retention,
    StoreFacts,
    StoreSettings,
    attempt_id,
    delivery_id,
    delivery_key,
)
from relay.store.store import Store

__all__ = [
    "AcceptResult",
    "DeliveryFilter",
    "EndpointRow",
    "EventFilter",
    "FileSizes",
    "Pruned",
    "RefillResult",
    "Retention",
    "Store",
    "StoreFacts",
    "StoreSettings",
    "attempt_id",
    "delivery_id",
    "delivery_key",
]
