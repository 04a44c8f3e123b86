"""Accepting connections: a crowd at the door stops neither those who are served nor a newcomer who is not of it.

asyncio itself takes all that wait before anybody else has a turn. uvloop takes one in each round, so that a newcomer waits as
many rounds as others stand before it. Here the kernel's queue is emptied fast, at little cost for each, and those who wait are
served by claimant in turn: whoever a connection's first bytes say is calling, else the host it comes from.
"""

import asyncio
import contextlib
import errno
import socket
from collections import OrderedDict, deque
from typing import NamedTuple, Protocol

ACCEPTS = 2
"""Connections of one listener that are served from each round on, at most."""

TAKES = 32
"""Connections that one listener takes out of the kernel's queue in each round, at most."""

BACKLOG = 4096
"""Connections that the kernel keeps waiting for one listener."""

SILENT = ""
"""The claimant of those who have said nothing yet."""

LOOKS = 32
"""How many of these are looked at again in each round, at most."""

PEEK_BYTES = 2048
"""How much of what has come is looked at for a claim."""

REFUSED_BYTES = 64 << 10
"""How much of what has come is read from who is turned away: unread bytes would keep the answer from arriving."""

UNREAD_BYTES = 128 << 10
"""Bytes of answers that the kernel keeps for a client that does not read; it would take megabytes, of work that nobody asks for."""

PAUSE_S = 1.0
"""How long a listener rests when no descriptor or no memory is left for a connection; those who wait go on waiting."""

_EXHAUSTED = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)


class Places(Protocol):
    """Where connections go that are taken."""

    accepts: int  # from each round on
    waiting_max: int  # at a time
    refusal: bytes  # what is said to those who are turned away

    def claimant(self, head: bytes) -> str:
        """Say who is calling, by the first bytes of a request; an empty text when they do not tell."""
        ...

    def __call__(self) -> asyncio.Protocol:
        """Return the protocol of a connection that was taken."""
        ...


class Newcomer(NamedTuple):
    """A connection that was taken out of the kernel's queue."""

    connection: socket.socket
    host: str  # where it comes from


class Waiting:
    """Newcomers who wait to be served, by claimant. Each step is O(1), but for `crowded_out`."""

    def __init__(self) -> None:
        self._by_claimant: OrderedDict[str, deque[Newcomer]] = OrderedDict()  # who is next first
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def add(self, claimant: str, newcomer: Newcomer) -> None:
        """Let a newcomer wait."""
        self._by_claimant.setdefault(claimant, deque()).append(newcomer)
        self._count += 1

    def next(self) -> Newcomer:
        """Take out the one that has waited for longest, of the claimant whose turn it is."""
        claimant = next(iter(self._by_claimant))
        newcomer = self._take(claimant)
        if claimant in self._by_claimant:
            self._by_claimant.move_to_end(claimant)
        return newcomer

    def crowded_out(self) -> Newcomer:
        """Take out one of the claimant who has the most, mostly the oldest. O(claimants)"""
        return self._take(max(self._by_claimant, key=lambda claimant: len(self._by_claimant[claimant])))

    def silent(self, most: int) -> list[Newcomer]:
        """Take out so many of those who had said nothing yet."""
        return [self._take(SILENT) for _ in range(min(most, len(self._by_claimant.get(SILENT, ()))))]

    def _take(self, claimant: str) -> Newcomer:
        queue = self._by_claimant[claimant]
        newcomer = queue.popleft()
        if not queue:
            del self._by_claimant[claimant]
        self._count -= 1
        return newcomer


class Acceptor:
    """Takes the connections of one bound socket. Owner of that socket, and of those who wait to be served."""

    def __init__(self, sock: socket.socket, places: Places) -> None:
        """Take connections for `places`; OSError where one cannot listen.

        A socket that listens already, because systemd passed it, keeps the queue that it was given.
        """
        self._loop = asyncio.get_running_loop()
        self._sock = sock
        self._places = places
        self._waiting = Waiting()
        self._serving: set[asyncio.Task[object]] = set()
        self._round: asyncio.Handle | None = None  # the next one that serves some
        self._pause: asyncio.TimerHandle | None = None
        sock.setblocking(False)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, UNREAD_BYTES)  # each connection inherits it
        if not sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
            sock.listen(BACKLOG)
        self._go_on()

    def close(self) -> None:
        """Stop listening; connections that were taken live on, and those who wait are served. Safe twice."""
        if self._pause is not None:
            self._pause.cancel()
        if self._sock.fileno() >= 0:
            self._loop.remove_reader(self._sock)
            self._sock.close()
        self._serve_some(len(self._waiting))

    # -- out of the kernel's queue -------------------------------------------------------------------------------------

    def _go_on(self) -> None:
        self._pause = None
        self._loop.add_reader(self._sock, self._accept)

    def _accept(self) -> None:
        for _ in range(TAKES):
            try:
                connection, address = self._sock.accept()
            except (BlockingIOError, InterruptedError):
                break
            except OSError as error:
                if error.errno in _EXHAUSTED:
                    self._loop.remove_reader(self._sock)
                    self._pause = self._loop.call_later(PAUSE_S, self._go_on)
                    break
                continue  # it ended before it was taken
            if len(self._waiting) >= self._places.waiting_max:
                self._turn_away(self._waiting.crowded_out().connection)
            connection.setblocking(False)
            self._let_wait(Newcomer(connection, address[0] if isinstance(address, tuple) else ""))
        if self._round is None:
            self._serve_round()

    def _let_wait(self, newcomer: Newcomer) -> None:
        try:
            head = newcomer.connection.recv(PEEK_BYTES, socket.MSG_PEEK)
        except BlockingIOError:
            self._waiting.add(SILENT, newcomer)
        except OSError:
            newcomer.connection.close()
        else:
            self._waiting.add(self._places.claimant(head) or f"host {newcomer.host}", newcomer)

    def _turn_away(self, connection: socket.socket) -> None:
        with contextlib.suppress(OSError):
            connection.recv(REFUSED_BYTES)
        with contextlib.suppress(OSError):
            connection.send(self._places.refusal)
        connection.close()

    # -- to their places -----------------------------------------------------------------------------------------------

    def _serve_round(self) -> None:
        if len(self._waiting) > self._places.accepts:  # else all of them are served now
            for newcomer in self._waiting.silent(LOOKS):
                self._let_wait(newcomer)
        self._serve_some(self._places.accepts)
        self._round = self._loop.call_soon(self._serve_round) if self._waiting else None

    def _serve_some(self, most: int) -> None:
        for _ in range(min(most, len(self._waiting))):
            task = self._loop.create_task(self._serve(self._waiting.next().connection))
            self._serving.add(task)
            task.add_done_callback(self._serving.discard)

    async def _serve(self, connection: socket.socket) -> None:
        try:
            await self._loop.connect_accepted_socket(self._places, connection)
        except OSError:
            connection.close()  # it ended while it was taken
