"""What `relay demo` shows: the whole thing in seconds, with nothing configured and nothing left behind."""

import asyncio
import contextlib
import json
import os
import secrets
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click
from aiohttp import web

from relay.cli.address import Address
from relay.cli.client import Daemon
from relay.cli.output import echo
from relay.cli.shell import interruption
from relay.config import Loaded, load
from relay.contracts import Contract
from relay.core.access import Role, Token
from relay.core.clock import Clock, SystemClock
from relay.core.model import Secret
from relay.daemon.service import Relay
from relay.diagnosis.verify import verify
from relay.telemetry import log

PATIENCE_S = 20.0
"""How long one happening may take before the demo gives up on it."""

POLL_S = 0.03

SCHEDULE = ["400ms", "800ms"]
"""The demo's schedule: three attempts. The daemon's own goes on for days."""

STEADY, FLAKY, BROKEN = "/steady", "/flaky", "/broken"
TYPES = {STEADY: "demo.hello", FLAKY: "demo.flaky", BROKEN: "demo.broken"}
"""What each of the receiver's paths subscribes to."""

COLORS = {"delivered": "green", "failed": "red", "dead": "red", "replayed": "yellow"}


async def run(folder: Path, once: bool) -> bool:
    """Run a relay and a receiver in `folder`; True if all went as it should."""
    loaded = _load(folder)
    contract = loaded.contracts.get(loaded.config.applications[0].contract) if loaded.config else None
    assert contract is not None, loaded.issues
    transcript = Transcript()
    receiver = Receiver(contract, SystemClock(), transcript)
    token = "demo-" + secrets.token_urlsafe(18)
    async with contextlib.AsyncExitStack() as stack:
        errors = log.configure(format="console", level="error", stream=sys.stderr, wall_ms=SystemClock().wall_ms)
        stack.callback(errors.close)
        stack.push_async_callback(receiver.stop)
        receiver_url = await receiver.start()
        admin = Token("demo", Role.ADMIN, None, token)
        relay = Relay(loaded, reread=lambda: loaded, extra_tokens=(admin,))
        await relay.start()
        stack.push_async_callback(relay.stop)
        port = int(relay.addresses[0].rpartition(":")[2])
        _introduce(folder, port, receiver_url)
        story = Story(Daemon([Address(host="127.0.0.1", port=port)], token), receiver, transcript)
        playing = asyncio.create_task(_play(story, receiver_url, port, token, once))
        stack.callback(playing.cancel)
        return await _until_ended(playing, asyncio.create_task(relay.wait()), otherwise=not once)


async def _play(story: "Story", receiver_url: str, port: int, token: str, once: bool) -> bool:
    await story.prepare(receiver_url)
    shown = await story.play()
    _say_what_next(port, token, once)
    if not once:
        await asyncio.Event().wait()
    return shown


async def _until_ended(
    playing: asyncio.Task[bool], failing: asyncio.Task[BaseException | None], *, otherwise: bool
) -> bool:
    """Run until the story ends, the relay fails, or Ctrl-C or SIGTERM comes, which is `otherwise`."""
    interrupted = asyncio.create_task(interruption())
    await asyncio.wait({playing, failing, interrupted}, return_when=asyncio.FIRST_COMPLETED)
    ended = playing.done()
    if failing.done():
        echo(f"The relay failed: {failing.result()}", err=True)
        return False
    failing.cancel()
    interrupted.cancel()
    if ended:
        return playing.result()
    echo("\nStopped; nothing is left behind.")
    return otherwise


def _load(folder: Path) -> Loaded:
    flags = {
        "server.listen": ["127.0.0.1:0"],
        "storage.path": str(folder / "relay.db"),
        "storage.min_free_disk": "1MiB",
    }
    return load(None, {}, flags | {"dev": True})


def _introduce(folder: Path, port: int, receiver_url: str) -> None:
    echo(f"relay     http://127.0.0.1:{port}   everything it keeps is in {folder} until it ends")
    echo(f"receiver  {receiver_url}   verifies every signature\n")


def _say_what_next(port: int, token: str, once: bool) -> None:
    if not once:
        event = json.dumps({"type": "demo.hello", "data": {"n": 1}})
        echo("\nSend one yourself (demo.hello, demo.flaky, demo.broken), from another terminal:\n")
        echo(f"  curl -sS http://127.0.0.1:{port}/v1/events -H 'Authorization: Bearer {token}' \\")
        echo(f"    -H 'Content-Type: application/json' -d '{event}'\n")
        echo("Ctrl-C ends the demo.")
    echo("\nNext: `relay init` writes a configuration of your own, and `relay serve` runs it.")


class Transcript:
    """Prints what happens, each with the time since the first."""

    def __init__(self) -> None:
        self._began_s: float | None = None
        self._color = False if os.environ.get("NO_COLOR") else None

    def add(self, word: str, event_type: str, what: str) -> None:
        now_s = time.monotonic()
        self._began_s = now_s if self._began_s is None else self._began_s
        styled = click.style(word.ljust(9), fg=COLORS.get(word), bold=word in COLORS)
        line = f"{now_s - self._began_s:6.2f}s  {word.ljust(9)}  {event_type.ljust(11)}  {what}"
        echo(line, paint=lambda plain: plain.replace(word.ljust(9), styled, 1), color=self._color)


class Story:
    """What is shown, in order. Owner of nothing: it talks to the relay as any producer does."""

    def __init__(self, api: Daemon, receiver: "Receiver", transcript: "Transcript") -> None:
        self._api = api
        self._receiver = receiver
        self._transcript = transcript

    async def prepare(self, receiver_url: str) -> None:
        """Make one endpoint for each way in which the receiver behaves."""
        for path, event_type in TYPES.items():
            endpoint = {
                "url": receiver_url + path,
                "event_types": [event_type],
                "retry": {"schedule": SCHEDULE, "jitter": 0},
            }
            made = await self._post("/v1/webhook-endpoints", endpoint)
            self._receiver.secrets[path] = made["secret"]

    async def play(self) -> bool:
        """Show all three; True if all went as it should."""
        shown = [
            await self._delivered("demo.hello", {"hello": "world"}, attempts=1),
            await self._delivered("demo.flaky", {"mood": "first I refuse"}, attempts=2),
            await self._replayed(),
        ]
        return all(shown) and self._receiver.unverified == 0

    async def _delivered(self, event_type: str, data: dict[str, str], attempts: int) -> bool:
        event = await self._send(event_type, data)
        return self._is_delivered(await self._ended(event), attempts)

    async def _replayed(self) -> bool:
        event = await self._send("demo.broken", {"mood": "I answer 500"})
        delivery = await self._ended(event)
        if delivery["state"] != "dead":
            return False
        self._transcript.add(
            "dead", "demo.broken", f"{delivery['reason']} after {delivery['attempts']} attempts (demo schedule)"
        )
        self._receiver.mended = True
        self._transcript.add(
            "replayed", "demo.broken", "the receiver was mended; the same event goes out again, under its id"
        )
        await self._post(f"/v1/deliveries/{delivery['id']}/retry")
        delivery = await self._ended(event, seen=delivery["attempts"])
        return self._is_delivered(delivery, attempts=4)

    def _is_delivered(self, delivery: dict[str, Any], attempts: int) -> bool:
        if delivery["state"] != "delivered":
            self._transcript.add(delivery["state"], delivery["event_type"], "which should not be")
            return False
        self._transcript.add("delivered", delivery["event_type"], f"on attempt {delivery['attempts']}")
        return delivery["attempts"] == attempts and delivery["event_id"] in self._receiver.verified

    async def _send(self, event_type: str, data: dict[str, str]) -> str:
        self._transcript.add("posted", event_type, json.dumps(data))
        event = await self._post("/v1/events", {"type": event_type, "data": data})
        return str(event["id"])

    async def _ended(self, event_id: str, seen: int = 0) -> dict[str, Any]:
        """Wait until the event's delivery is no longer due, showing each failed attempt after the first `seen`.

        Returns it as it then is, or is at the end of patience.
        """
        path = f"/v1/events/{event_id}/deliveries"
        for _ in range(round(PATIENCE_S / POLL_S)):
            delivery: dict[str, Any] = (await asyncio.to_thread(self._api.get, path))["data"][0]
            if delivery["state"] != "due":
                break
            if delivery["attempts"] > seen:
                seen = delivery["attempts"]
                self._transcript.add(
                    "failed", delivery["event_type"], f"attempt {seen}; next try in {SCHEDULE[seen - 1]}"
                )
            await asyncio.sleep(POLL_S)
        return delivery

    async def _post(self, path: str, body: Mapping[str, Any] | None = None) -> Any:
        return await asyncio.to_thread(self._api.post, path, body)


class Receiver:
    """Answers 204; FLAKY answers 503 to the first attempt of each event, BROKEN 500 until it is mended."""

    def __init__(self, contract: Contract, clock: Clock, transcript: "Transcript") -> None:
        self._contract = contract
        self._clock = clock
        self._transcript = transcript
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
            self._received(request.path, f"signature WRONG: {found.reason} → 401")
            return web.Response(status=401)
        self.verified.add(event_id)
        self._attempts[event_id] = attempt = self._attempts.get(event_id, 0) + 1
        status = self._status(request.path, attempt)
        self._received(request.path, f"attempt {attempt}, signature verified → answers {status}")
        return web.Response(status=status)

    def _received(self, path: str, what: str) -> None:
        self._transcript.add("received", TYPES.get(path, path), what)

    def _status(self, path: str, attempt: int) -> int:
        if path == FLAKY and attempt == 1:
            return 503
        if path == BROKEN and not self.mended:
            return 500
        return 204
