"""What an error of SQLite says about whom: the item, the machine, or the file."""

import sqlite3
from enum import Enum, auto

_DAMAGE = {sqlite3.SQLITE_IOERR, sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB}
_MACHINE = {
    sqlite3.SQLITE_BUSY,
    sqlite3.SQLITE_LOCKED,
    sqlite3.SQLITE_FULL,
    sqlite3.SQLITE_READONLY,
    sqlite3.SQLITE_CANTOPEN,
    sqlite3.SQLITE_NOMEM,
    sqlite3.SQLITE_PERM,
}


class Trouble(Enum):
    """Whose fault an error is."""

    ITEM = auto()  # this item cannot be stored; its neighbours can
    MACHINE = auto()  # no space, no permission, a lock: nothing can be stored now
    DAMAGE = auto()  # I/O error or corruption: nothing that was stored can be trusted until it was read again


def judge(error: BaseException) -> Trouble:
    """Say whose fault an error is."""
    code = getattr(error, "sqlite_errorcode", None)
    if not isinstance(error, sqlite3.Error) or code is None:
        return Trouble.ITEM
    primary = code & 0xFF  # extended codes carry their primary code in the low byte
    if primary in _DAMAGE:
        return Trouble.DAMAGE
    return Trouble.MACHINE if primary in _MACHINE else Trouble.ITEM
