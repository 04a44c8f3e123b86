"""A relay that is watched from below, on a stage of its own. Never part of the program.

`Watched` starts one. It runs as `python -m tests.support.watched serve --config FILE`. `WATCHED` in the environment is JSON:

- `connects`: a file; every TCP address that this process connects to is written there, as `ADDRESS PORT`. Python itself
  says so, to an audit hook, beneath whatever guards there are. What is not loopback is not reachable from this stage.
- `names`: what the name servers say: for each name a list of answers, given one after the other, the last for ever;
  null is never answered.
- `loop`: `asyncio` instead of uvloop.
- `without`: checks to leave out, for negative controls: `resolver`, `socket`.
"""

import errno
import functools
import json
import os
import socket
import sys
import threading
from collections.abc import Sequence
from ipaddress import ip_address
from pathlib import Path
from typing import Any, NamedTuple

from relay.cli import main
from relay.core.netguard import Guard
from relay.daemon import outbound
from relay.delivery import resolver
from tests.support.daemon import PRODUCER_TOKEN, Daemon

LOOKUP = socket.getaddrinfo


class Side(NamedTuple):
    """On which loop a relay runs, and which of aiohttp's parsers reads what it is sent."""

    loop: str
    parser: str


ALL_SIDES = [Side("uvloop", "C"), Side("asyncio", "Python"), Side("uvloop", "Python"), Side("asyncio", "C")]
"""Every side of a relay; the first two have each loop and each parser."""


class Watched(Daemon):
    """A relay whose connects are written down."""

    def __init__(self, folder: Path, config: str, side: Side, *, ca_file: Path | None = None, **stage: Any) -> None:
        self._connects = folder / "connects"
        staged = stage | {"loop": side.loop, "connects": str(self._connects)}
        env = {"WATCHED": json.dumps(staged)}
        env |= {"AIOHTTP_NO_EXTENSIONS": "1"} if side.parser == "Python" else {}
        env |= {"SSL_CERT_FILE": str(ca_file)} if ca_file else {}
        super().__init__(folder, config, module=__name__, env=env)

    def connects(self) -> list[tuple[str, int]]:
        """Every address and port that it connected to, or would have."""
        lines = [line.split() for line in self._connects.read_text().splitlines()]
        return [(address, int(port)) for address, port in lines]

    def deliver(self, event_type: str) -> list[dict[str, Any]]:
        """Post an event; return its deliveries when each has ended."""
        event = self.api_as(PRODUCER_TOKEN).post("/v1/events", {"type": event_type, "data": {}})["id"]
        while self.api.get("/v1/status")["due"]:
            pass
        return list(self.api.pages(f"/v1/events/{event}/deliveries"))

    def attempts(self, event_type: str) -> dict[str, dict[str, Any]]:
        """Post an event; return the one attempt of each delivery by its endpoint, when all have ended."""
        rows = self.deliver(event_type)
        return {row["endpoint"]: self.api.get(f"/v1/deliveries/{row['id']}")["timeline"][0] for row in rows}


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


def play(names: dict[str, list[list[str] | None]]) -> None:
    """Answer for these names, and let each attempt ask anew: it is given the answer before, as that is still good."""

    def getaddrinfo(host: str, *arguments: Any, **options: Any) -> Sequence[tuple[Any, ...]]:
        if host not in names:
            return LOOKUP(host, *arguments, **options)
        answers = names[host]
        answer = answers.pop(0) if len(answers) > 1 else answers[0]
        if answer is None:
            threading.Event().wait()
            raise AssertionError("never reached")
        return [
            (socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, 0))
            for address in answer
        ]

    resolver.FRESH_MS = 0
    outbound.Resolver = functools.partial(resolver.Resolver, getaddrinfo=getaddrinfo)  # type: ignore[attr-defined,assignment]


def leave_out(check: str) -> None:
    """Take one of the two checks of addresses away: the resolver's knows no port, the one where sockets are opened does."""
    ask = Guard.forbidden

    def forbidden(guard: Guard, address: str, port: int | None = None, *opened: Any) -> str | None:
        return None if (port is None) == (check == "resolver") else ask(guard, address, port, *opened)

    Guard.forbidden = forbidden  # type: ignore[method-assign,assignment]


if __name__ == "__main__":
    stage = json.loads(os.environ["WATCHED"])
    if stage.get("loop") == "asyncio":
        sys.modules["uvloop"] = None  # type: ignore[assignment]  # as where it is not installed
    if stage.get("names"):
        play(stage["names"])
    for left_out in stage.get("without", ()):
        leave_out(left_out)
    watch(stage["connects"])
    main()
