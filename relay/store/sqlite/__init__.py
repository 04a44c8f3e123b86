"""The store on SQLite. Nothing outside this package knows it, but for the daemon, which constructs it."""

from relay.store.sqlite.opening import StoreSettings
from relay.store.sqlite.sealing import Keyring
from relay.store.sqlite.store import SqliteStore

__all__ = ["Keyring", "SqliteStore", "StoreSettings"]
