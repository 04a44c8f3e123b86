"""Accepting connections: a few in each round of the loop, so that a crowd at the door stops nobody who is served.

asyncio itself takes all that wait before anybody else has a turn. uvloop takes one in each round, so that a newcomer waits as
many rounds as others stand before it.
"""

import asyncio
import errno
import socket
from collections.abc import Callable

ACCEPTS = 4
"""Connections that one listener takes in each round, at most."""

BACKLOG = 1024
"""Connections that the kernel keeps waiting for one listener."""

UNREAD_BYTES = 128 << 10
"""Bytes of answers that the kernel keeps for a client that does not read; it would take megabytes, of work that nobody asks for."""

PAUSE_S = 1.0
"""How long a listener rests when no descriptor or no memory is left for a connection; those who wait go on waiting."""

ProtocolFactory = Callable[[], asyncio.Protocol]

_EXHAUSTED = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)


class Acceptor:
    """Takes the connections of one bound socket. Owner of that socket."""

    def __init__(self, sock: socket.socket, factory: ProtocolFactory, accepts: int = ACCEPTS) -> None:
        """Take so many connections in each round; OSError where one cannot listen.

        A socket that listens already, because systemd passed it, keeps the queue that it was given.
        """
        self._loop = asyncio.get_running_loop()
        self._sock = sock
        self._factory = factory
        self._accepts = accepts
        self._taking: set[asyncio.Task[object]] = set()
        self._pause: asyncio.TimerHandle | None = None
        sock.setblocking(False)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, UNREAD_BYTES)  # each connection inherits it
        if not sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
            sock.listen(BACKLOG)
        self._go_on()

    def close(self) -> None:
        """Stop listening; connections that were taken live on. Safe twice."""
        if self._pause is not None:
            self._pause.cancel()
        if self._sock.fileno() >= 0:
            self._loop.remove_reader(self._sock)
            self._sock.close()

    def _go_on(self) -> None:
        self._pause = None
        self._loop.add_reader(self._sock, self._accept)

    def _accept(self) -> None:
        for _ in range(self._accepts):
            try:
                connection, _ = self._sock.accept()
            except (BlockingIOError, InterruptedError):
                return
            except OSError as error:
                if error.errno in _EXHAUSTED:
                    self._loop.remove_reader(self._sock)
                    self._pause = self._loop.call_later(PAUSE_S, self._go_on)
                    return
                continue  # it ended before it was taken
            self._take(connection)

    def _take(self, connection: socket.socket) -> None:
        connection.setblocking(False)
        task = self._loop.create_task(self._serve(connection))
        self._taking.add(task)
        task.add_done_callback(self._taking.discard)

    async def _serve(self, connection: socket.socket) -> None:
        try:
            await self._loop.connect_accepted_socket(self._factory, connection)
        except OSError:
            connection.close()  # it ended while it was taken
