"""A relay that is watched from below, on a stage of its own. Never part of the program.

Run as `python -m tests.support.watched serve --config FILE`. `WATCHED` in the environment is JSON:

- `connects`: a file; every TCP address that this process connects to is written there, as `ADDRESS PORT`. Python itself
  says so, to an audit hook, beneath whatever guards there are. What is not loopback is not reachable from this stage.
- `names`: what the name servers say: for each name a list of answers, given one after the other, the last for ever.
- `loop`: `asyncio` instead of uvloop.
- `without`: checks to leave out, for negative controls: `resolver`, `socket`.
"""

import asyncio
import errno
import functools
import json
import os
import socket
import sys
from collections.abc import Sequence
from ipaddress import ip_address
from typing import Any

from relay.cli import main
from relay.core.netguard import Guard
from relay.daemon import process, service
from relay.delivery import resolver

LOOKUP = socket.getaddrinfo


def watch(path: str) -> None:
    """Write every connect down before it happens, and let none leave this host."""
    log = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)

    def hear(event: str, arguments: tuple[Any, ...]) -> None:
        if event != "socket.connect" or arguments[0].family not in (socket.AF_INET, socket.AF_INET6):
            return
        address, port = arguments[1][:2]
        os.write(log, f"{address} {port}\n".encode())
        if not ip_address(address.partition("%")[0]).is_loopback:
            raise OSError(errno.ENETUNREACH, os.strerror(errno.ENETUNREACH))

    sys.addaudithook(hear)


def play(names: dict[str, list[list[str]]]) -> None:
    """Answer for these names, and let each attempt ask anew: it is given the answer before, as that is still good."""

    def getaddrinfo(host: str, *arguments: Any, **options: Any) -> Sequence[tuple[Any, ...]]:
        if host not in names:
            return LOOKUP(host, *arguments, **options)
        answers = names[host]
        answer = answers.pop(0) if len(answers) > 1 else answers[0]
        return [
            (socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, 0))
            for address in answer
        ]

    resolver.FRESH_MS = 0
    service.Resolver = functools.partial(resolver.Resolver, getaddrinfo=getaddrinfo)  # type: ignore[misc,assignment]


def leave_out(check: str) -> None:
    """Take one of the two checks of addresses away."""
    if check == "resolver":
        resolver.Resolver._first_forbidden = lambda self, addresses: None  # type: ignore[method-assign]
    else:
        ask = Guard.forbidden
        Guard.forbidden = (  # type: ignore[method-assign]
            lambda self, address, port=None: None if port is not None else ask(self, address)
        )


if __name__ == "__main__":
    stage = json.loads(os.environ["WATCHED"])
    if stage.get("loop") == "asyncio":
        process._loop_factory = lambda: asyncio.new_event_loop
    if "names" in stage:
        play(stage["names"])
    for left_out in stage.get("without", ()):
        leave_out(left_out)
    watch(stage["connects"])
    main()
