"""The receiver of `relay demo`: checks every signature, and misbehaves as its paths say."""

from collections.abc import Callable

from aiohttp import web

from relay.contracts import Contract
from relay.core.clock import Clock
from relay.core.model import Secret
from relay.diagnosis.verifying import verify

STEADY, FLAKY, BROKEN = "/steady", "/flaky", "/broken"

Told = Callable[[str, str], None]
"""Takes the path that a request came for, and what was made of it."""


class Receiver:
    """Answers 204; FLAKY answers 503 to the first attempt of each event, BROKEN 500 until it is mended."""

    def __init__(self, contract: Contract, clock: Clock, told: Told) -> None:
        self._contract = contract
        self._clock = clock
        self._told = told
        self._attempts: dict[str, int] = {}  # by webhook-id
        self._runner: web.AppRunner | None = None
        self.secrets: dict[str, str] = {}  # by path; filled in when the endpoints are made
        self.mended = False
        self.verified: set[str] = set()  # ids of events whose signature was right
        self.unverified = 0

    async def start(self) -> str:
        """Listen on a free port of this host; returns the URL."""
        app = web.Application()
        app.router.add_post("/{path}", self._receive)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=1)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0).start()
        return f"http://127.0.0.1:{self._runner.addresses[0][1]}"

    async def stop(self) -> None:
        """Stop listening; safe before `start`."""
        if self._runner is not None:
            await self._runner.cleanup()

    async def _receive(self, request: web.Request) -> web.Response:
        body = await request.read()
        event_id = request.headers.get("webhook-id", "")
        secrets = [Secret(self.secrets.get(request.path, ""))]
        found = verify(self._contract, secrets, request.headers, body, self._clock.wall_ms())
        if not found.ok:
            self.unverified += 1
            self._told(request.path, f"signature WRONG: {found.reason} → 401")
            return web.Response(status=401)
        self.verified.add(event_id)
        self._attempts[event_id] = attempt = self._attempts.get(event_id, 0) + 1
        status = self._status(request.path, attempt)
        self._told(request.path, f"attempt {attempt}, signature verified → answers {status}")
        return web.Response(status=status)

    def _status(self, path: str, attempt: int) -> int:
        if path == FLAKY and attempt == 1:
            return 503
        if path == BROKEN and not self.mended:
            return 500
        return 204
