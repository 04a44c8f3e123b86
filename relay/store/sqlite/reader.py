"""A connection that reads: it returns all rows at once, within a time limit, and never keeps a cursor across an await."""

import asyncio
import sqlite3
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import aiosqlite

from relay.core.errors import StoreDamaged, StoreUnavailable
from relay.store.sqlite.opening import Trouble, judge, reader_uri
from relay.store.sqlite.rows import Row

Parameters = Sequence[Any] | dict[str, Any]


class Reader:
    """Owner of one connection that cannot write. One statement at a time, so that an interrupt hits the right one."""

    def __init__(
        self, connection: aiosqlite.Connection, timeout_ms: int, on_fatal: Callable[[StoreDamaged], None]
    ) -> None:
        self._connection = connection
        self._timeout_s = timeout_ms / 1000
        self._on_fatal = on_fatal
        self._turn = asyncio.Lock()
        self._closed = False

    @classmethod
    async def open(cls, path: Path, timeout_ms: int, on_fatal: Callable[[StoreDamaged], None]) -> "Reader":
        """Open a connection to a database that the writer has open already."""
        connection = await aiosqlite.connect(reader_uri(path), uri=True, isolation_level=None)
        for pragma in ("query_only = ON", "trusted_schema = OFF", "temp_store = MEMORY", "cache_size = -4096"):
            await connection.execute_fetchall(f"PRAGMA {pragma}")
        return cls(connection, timeout_ms, on_fatal)

    async def fetch(self, statement: str, parameters: Parameters = ()) -> list[Row]:
        """Run a statement and return all its rows; the statement bounds how many. StoreUnavailable after the time limit."""
        async with self._turn:
            if self._closed:
                raise StoreUnavailable("The database is closed.", remedy="Try again when relay is up.")
            fetching = asyncio.ensure_future(self._fetch_all(statement, parameters))
            try:
                finished, _ = await asyncio.wait({fetching}, timeout=self._timeout_s)
            except asyncio.CancelledError:
                fetching.add_done_callback(asyncio.Future.exception)  # nobody waits for it any more
                await self._interrupt(fetching)
                raise
            if not finished:
                await self._interrupt(fetching)
            return self._rows(fetching)

    async def _fetch_all(self, statement: str, parameters: Parameters) -> list[Row]:
        return list(await self._connection.execute_fetchall(statement, parameters))  # type: ignore[arg-type]

    async def _interrupt(self, fetching: "asyncio.Future[list[Row]]") -> None:
        # Cancelling an await does not stop SQLite: the connection is free only when the statement has ended.
        while not fetching.done():
            await self._connection.interrupt()
            await asyncio.wait({fetching}, timeout=0.05)

    def _rows(self, fetching: "asyncio.Future[list[Row]]") -> list[Row]:
        try:
            return fetching.result()
        except sqlite3.Error as error:
            if judge(error) is Trouble.DAMAGE:
                self._on_fatal(StoreDamaged(f"The database reports {error}.", remedy="Check the disk."))
            if getattr(error, "sqlite_errorcode", None) == sqlite3.SQLITE_INTERRUPT:
                raise StoreUnavailable(
                    f"The search took longer than {self._timeout_s:g} s and was stopped.", remedy="Narrow the filters."
                ) from error
            raise StoreUnavailable(f"The database cannot be read now: {error}.", remedy="Try again.") from error

    async def close(self) -> None:
        """Close the connection when the statement under way has ended. Safe twice."""
        async with self._turn:
            if not self._closed:
                self._closed = True
                await self._connection.close()
