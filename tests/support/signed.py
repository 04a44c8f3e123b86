"""Deliveries made by the relay's own rendering and signing, for receivers that are tested without a relay."""

from collections.abc import Sequence
from typing import NamedTuple

import aiohttp

from relay.contracts import Contract, Payload, Rendering
from relay.core.model import Secret


class Signed(NamedTuple):
    """One delivery as it goes on the wire."""

    headers: dict[str, str]
    body: bytes

    async def post(self, url: str) -> tuple[int | None, str]:
        """Send it; return status and text of the answer, None where the connection was dropped."""
        try:
            async with aiohttp.ClientSession() as http, http.post(url, data=self.body, headers=self.headers) as answer:
                return answer.status, await answer.text()
        except (aiohttp.ServerDisconnectedError, ConnectionError):
            return None, ""


def signed(
    contract: Contract,
    *secrets: str,
    at_ms: int,
    type: str = "render.completed",
    data: bytes = b'{"n":1}',
    id: str = "evt_1",
    url: str = "https://example.com/hooks",
    endpoint: str = "ep_1",
    attempt: int = 1,
    metadata: bytes | None = None,
) -> Signed:
    """Make a delivery of one event at a wall-clock time; the secrets newest first."""
    known = None if metadata is None else Payload(metadata)
    frozen = contract.render(Rendering(id, type, at_ms, at_ms, Payload(data), metadata=known))
    signer = contract.signer(_secrets(secrets), url, endpoint)
    return Signed(*signer.request(id=id, type=type, timestamp_ms=at_ms, frozen=frozen, attempt=attempt))


def _secrets(texts: Sequence[str]) -> tuple[Secret, ...]:
    return tuple(map(Secret, texts))
