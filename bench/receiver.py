"""A receiver that does not limit the figure: answers 204 to every POST, and tells how many there were.

Used where nginx is not installed. `GET` answers the count. The first line on stdout is the port.
"""

import asyncio
import signal
from typing import cast

import uvloop

NO_CONTENT = b"HTTP/1.1 204 No Content\r\n\r\n"


class Receiver(asyncio.Protocol):
    """One kept-alive connection. The class owns the count."""

    received = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._pending = b""

    def data_received(self, data: bytes) -> None:
        self._pending += data
        while (request := split(self._pending)) is not None:
            head, _, self._pending = request
            self._transport.write(self._answer(head))

    def _answer(self, head: bytes) -> bytes:
        if head.startswith(b"GET "):
            count = b"%d" % Receiver.received
            return b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(count), count)
        Receiver.received += 1
        return NO_CONTENT


def split(pending: bytes) -> tuple[bytes, bytes, bytes] | None:
    """Cut one message with a Content-Length off the front: head, body, rest; None while it is not complete."""
    head, separator, rest = pending.partition(b"\r\n\r\n")
    if not separator:
        return None
    _, found, after = head.lower().partition(b"content-length:")
    length = int(after.partition(b"\r\n")[0]) if found else 0
    return None if len(rest) < length else (head, rest[:length], rest[length:])


async def main() -> None:
    loop = asyncio.get_running_loop()
    server = await loop.create_server(Receiver, "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    stopped = asyncio.Event()
    loop.add_signal_handler(signal.SIGTERM, stopped.set)
    await stopped.wait()


if __name__ == "__main__":
    uvloop.run(main())
