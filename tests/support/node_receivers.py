"""Node as the receiver: tests/node/receivers.js in a process of its own."""

import asyncio
import base64
import json
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from urllib.request import Request, urlopen

import pytest

NODE = Path(__file__).parents[1] / "node"

needs_node = pytest.mark.skipif(shutil.which("node") is None, reason="needs Node: the documented receivers run in it")


@dataclass(frozen=True, slots=True)
class Seen:
    """One request as Node saw it, and what its receiver did."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes
    status: int
    threw: str | None


class NodeReceivers:
    """The documented receivers of VideoAiditor and Editframe; `secrets` has one for each."""

    def __init__(self, **secrets: str) -> None:
        self._secrets = secrets

    def __enter__(self) -> Self:
        command = ["node", "receivers.js", json.dumps(self._secrets)]
        self._process = subprocess.Popen(command, cwd=NODE, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert self._process.stdout is not None
        self.port = int(self._process.stdout.readline())
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.communicate()  # closes its standard input, which ends it
        assert self._process.returncode == 0

    def url(self, hook: str) -> str:
        """Where `hook` listens, such as `videoaiditor` or `editframe-raw`."""
        return f"http://127.0.0.1:{self.port}/{hook}"

    def received(self) -> list[Seen]:
        """Take all requests since the last call."""
        return [Seen(**{**entry, "body": base64.b64decode(entry["body"])}) for entry in self._get("received")]

    def tally(self) -> dict[str, int]:
        """Sums over all requests: requests, accepted, refused, threw, differing (body ≠ its JSON.stringify)."""
        found: dict[str, int] = self._get("tally")
        return found

    async def wait_for(self, count: int) -> dict[str, int]:
        """Wait until `count` requests have been answered; return the tally."""
        tally = await asyncio.to_thread(self.tally)
        while tally["requests"] < count:
            tally = await asyncio.to_thread(self.tally)
        return tally

    def _get(self, what: str) -> Any:
        with urlopen(Request(self.url(what)), timeout=30) as answer:
            return json.load(answer)
