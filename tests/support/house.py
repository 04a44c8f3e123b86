"""A relay in this process, put together in this one place: real SQLite file, real sockets on port 0, a clock of the test's.

What builds on it says how it is configured, how far it is opened, and how a test speaks to it.
"""

from collections.abc import Awaitable, Callable, Container
from functools import partial
from pathlib import Path
from random import Random
from types import TracebackType
from typing import Self

import aiohttp

from relay.config import Loaded, load
from relay.core.access import Token
from relay.core.clock import Clock
from relay.core.netguard import Address
from relay.daemon.service import Relay
from relay.store.sqlite import SqliteStore
from tests.support.played import PlayedCourier
from tests.support.stores import Gate, gated, idle
from tests.support.waiting import PATIENCE_S, quiet, until


class House:
    """One relay on a folder; leaving the context stops it.

    Its commits pass through `gate`; with a `courier` no request leaves the process.
    """

    tokens: tuple[Token, ...] = ()

    def __init__(
        self, folder: Path, clock: Clock, *, text: str = "", seed: int = 1, courier: PlayedCourier | None = None
    ) -> None:
        self.folder = folder
        self.clock = clock
        self.gate = Gate()
        self.env = {"XDG_STATE_HOME": str(folder)}  # what the next start or reload sees
        self.config_path = folder / "config.toml"
        self.own: Container[Address] | None = (
            None  # what the next start takes for this host's; None: it asks the kernel
        )
        self._seed = seed
        self._courier = courier
        self.write(text)

    def write(self, text: str) -> None:
        """Write the file anew; a running relay sees it at its next reload."""
        self.config_path.write_text(text)
        self.config_path.chmod(0o600)

    def read(self) -> Loaded:
        """Read the configuration, as a start and a reload do."""
        return load(self.config_path, self.env, {})

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()

    def wire(self) -> Relay:
        """Put a relay together."""
        rng = Random(self._seed)
        return Relay(
            self.read(),
            reread=self.read,
            extra_tokens=self.tokens,
            clock=self.clock,
            rng=rng,
            open_store=partial(SqliteStore.open, writer_type=gated(self.gate)),
            open_courier=None if self._courier is None else self._courier.open,
            own=self.own,
        )

    async def start(self) -> None:
        """Start a relay on the folder."""
        self.relay = self.wire()
        await self.relay.start()
        self.http = aiohttp.ClientSession()
        address = next(address for address in self.relay.addresses if not address.startswith("unix:"))
        self.url = f"http://{address}"

    async def stop(self) -> None:
        """Stop it, as SIGTERM would; a test in which a background task died has failed."""
        await self.http.close()
        await self.relay.stop()
        assert self.relay.fatal is None, self.relay.fatal

    async def crash(self) -> None:
        """End it as SIGKILL would: nothing more reaches the database."""
        await self.http.close()
        await self.relay.abandon()

    async def quiet(self, patience_s: float = PATIENCE_S) -> None:
        """Let everything go on that can without time or news, in the database too, short of a commit that is held up."""
        await quiet(lambda: self.gate.holds or idle(self.relay.store), patience_s)

    async def until(self, fact: Callable[[], Awaitable[bool]]) -> None:
        """Return when `fact` holds, which asks the relay; it asks again after a commit, for nothing else changes answers."""
        while True:
            seen = self.gate.answered
            if await fact():
                return
            await until(lambda seen=seen: self.gate.answered != seen)  # type: ignore[misc]  # a default argument is no inferred type
            await quiet()
