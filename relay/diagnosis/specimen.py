"""Deliveries as a contract sends them, and as nobody should: what a receiver is checked with.

Each is made anew for the moment at which it is sent. Nothing is random and no clock is read but what comes in.
"""

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from relay.contracts.contract import Contract
from relay.contracts.facts import Unrenderable
from relay.contracts.fields import OF_BODY, Rendering, stem
from relay.contracts.frozen import Frozen
from relay.contracts.payload import Payload
from relay.core.model import Secret


class Sent(NamedTuple):
    """One delivery, ready for the wire."""

    headers: dict[str, str]
    body: bytes
    slowly: bool = False  # its body comes in pieces, with pauses between them


@dataclass(frozen=True, slots=True)
class Specimen:
    """One event of a contract for one endpoint, from which deliveries are made."""

    contract: Contract
    secrets: tuple[Secret, ...] = field(repr=False)
    url: str
    endpoint_id: str
    type: str
    data: bytes = field(repr=False)
    id: str
    new_id: Callable[[], str] = field(repr=False)
    other_secret: Secret | None = field(default=None, repr=False)  # of the same kind, which the receiver does not know

    def delivery(
        self,
        now_ms: int,
        *,
        id: str = "",
        type: str = "",
        data: bytes = b"",
        secrets: tuple[Secret, ...] | None = None,
        signed_ms: int | None = None,
        signed: Callable[[bytes], bytes] = bytes,
        attempt: int = 1,
    ) -> Sent:
        """Make a delivery as the relay would send it now, under a new id, but for what is given.

        `signed` says what is signed in the place of the body, `signed_ms` at what time.
        """
        event_id, name = id or self.new_id(), type or self.type
        frozen = self._frozen(event_id, name, data or self.data, now_ms)
        signer = self.contract.signer(self.secrets if secrets is None else secrets, self.url, self.endpoint_id)
        time_ms = now_ms if signed_ms is None else signed_ms
        whole = signer.request(id=event_id, type=name, timestamp_ms=time_ms, frozen=frozen, attempt=attempt)
        headers = signer.headers(
            id=event_id,
            type=name,
            timestamp_ms=time_ms,
            body=signed(whole.body),
            attempt=attempt,
            facts=Frozen.read(frozen).facts,
        )
        return Sent(headers, whole.body)

    def _frozen(self, id: str, type: str, data: bytes, now_ms: int) -> bytes:
        return self.contract.render(Rendering(id, type, now_ms, now_ms, Payload(data)))

    # -- what the contract promises ------------------------------------------------------------------------------------

    def signs_time(self) -> bool:
        """Whether a signature covers the time of the attempt."""
        return not self._covered().isdisjoint({"timestamp", "sent_at"})

    def signs_body(self) -> bool:
        """Whether a signature covers the body."""
        return not self._covered().isdisjoint(map(stem, OF_BODY))

    def _covered(self) -> set[str]:
        entries = self.contract.document.signature
        return {stem(variable) for entry in entries for variable in entry.content.variables}

    def unknown_type(self) -> str | None:
        """Return a type of lawful form that the contract does not list and shows; None where there is none."""
        names = ("relay.unknown", f"{self.type}.unknown", f"{self.type}_unknown", f"{self.type}unknown", "unknown")
        fit = (name for name in names if self.contract.check_form(name) is None and name not in self.contract.types)
        name = next(fit, None)
        return (
            name
            if name is not None and self.delivery(0, id=self.id) != self.delivery(0, id=self.id, type=name)
            else None
        )

    def large_data(self, least_bytes: int) -> bytes | None:
        """Return lawful data that make the body as long as asked for; None where the contract allows none such."""
        longer = next(self._changed(lambda text: text + "x" * least_bytes), None)
        if longer is not None:
            return longer
        spaced = self.data + b" " * least_bytes
        body = self.delivery(0, data=spaced).body
        return spaced if len(body) >= least_bytes else None

    def _changed(self, change: Callable[[str], str]) -> Iterator[bytes]:
        """Yield the data with one text after another changed, as far as the contract takes them."""
        for value in changed_texts(json.loads(self.data), change):
            data = json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()
            if not self.contract.check_data(self.type, Payload(data)) and self._can_be_sent(data):
                yield data

    def _can_be_sent(self, data: bytes) -> bool:
        try:
            self._frozen(self.id, self.type, data, 0)
        except Unrenderable:
            return False
        return True


def changed_texts(value: Any, change: Callable[[str], str]) -> Iterator[Any]:
    """Yield copies of a JSON value, each with another of its texts changed. Lazy; O(size of the value) for each."""
    if isinstance(value, str) and value:
        yield change(value)
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield from ([*value[:index], new, *value[index + 1 :]] for new in changed_texts(item, change))
    elif isinstance(value, dict):
        for name, inner in value.items():
            yield from ({**value, name: new} for new in changed_texts(inner, change))
