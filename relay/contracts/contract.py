"""One contract: what an application's receivers were promised, ready for use."""

import re
from collections.abc import Callable, Sequence

from relay import event_types
from relay.contracts.algorithms import ALGORITHMS, new_key
from relay.contracts.document import ContractDocument, Kind, Signature
from relay.contracts.fields import RENDERING_READERS, Rendering
from relay.contracts.keys import decode_key, encode_key, untidy
from relay.contracts.signing import CHOSEN, Signer
from relay.model import Secret

_NEW_KEY_BYTES = 32
_TYPE_CHARACTERS = re.compile(r"[A-Za-z0-9_.:/-]*")  # the widest any grammar may be: safe in JSON and headers


class Contract:
    """A wire shape: envelope, event types, headers, signatures, delivery defaults. Immutable."""

    def __init__(self, name: str, document: ContractDocument) -> None:
        self.name = name
        self.document = document
        self.description = document.description
        self.content_type = document.content_type
        self.type_grammar = document.types.grammar
        self.catalogue_open = document.types.catalogue == "open"
        self.features: frozenset[str] = frozenset()
        self.timeout_ms = document.delivery.timeout
        self.schedule_ms = document.delivery.retry.schedule
        self.jitter = document.delivery.retry.jitter
        self.max_age_ms = document.delivery.max_age
        self.shows_secret = any("secret" in template.variables for template in document.headers.values())
        self.signs = bool(document.signature) or self.shows_secret
        self.needs_secret = self.shows_secret or any(entry.unsigned is None for entry in document.signature)
        self.max_signatures = max((CHOSEN[entry.secrets].stop for entry in document.signature), default=1)
        self.overlaps = self.max_signatures > 1
        signed = (entry.header for entry in document.signature)
        self.header_names = frozenset(map(str.lower, ("content-type", *document.headers, *signed)))
        self._body = document.body.template
        self._readers = tuple((name, RENDERING_READERS[name]) for name in sorted(self._body.variables))

    def __repr__(self) -> str:
        return f"Contract({self.name!r})"

    def check_type(self, type: str) -> str | None:
        """Return None for a lawful event type, else a sentence."""
        if not _TYPE_CHARACTERS.fullmatch(type):
            return f"{type[:80]!r} is no event type; use {self.document.types.description}"
        return event_types.check_type(type, self.type_grammar, self.document.types.description)

    def render(self, event: Rendering) -> bytes:
        """Return the body: the members in the contract's order, with the producer's bytes in their place."""
        return self._body.render({name: read(event) for name, read in self._readers})

    def may_have_rendered(self, body: bytes) -> bool:
        """Whether a body begins and ends as every body of this contract does."""
        first, last = self._body.parts[0], self._body.parts[-1]
        assert isinstance(first, bytes)
        assert isinstance(last, bytes)
        return body.startswith(first) and body.endswith(last)

    def check_secret(self, value: str) -> str | None:
        """Return None for a secret that may be configured, else a sentence that does not show it."""
        if not self.signs:
            return f"the contract {self.name!r} signs nothing, so an endpoint of it takes no secret; remove it"
        fault = untidy(value)
        if fault is not None:
            return f"the secret {fault}"
        if self.shows_secret and not value.isascii():
            return "the secret is sent in a header and must be ASCII; choose another"
        return next(filter(None, (_secret_fault(entry, value) for entry in self.document.signature)), None)

    def new_secret(self, random_bytes: Callable[[int], bytes]) -> str:
        """Make a secret that `check_secret` accepts, from `random_bytes(count)`."""
        kind = self.document.signature[0] if self.document.signature else Kind()
        size = min(max(_NEW_KEY_BYTES, kind.key.min_bytes), kind.key.max_bytes)
        return encode_key(new_key(kind.algorithm, random_bytes, size), kind.key.strip, kind.key.decode)

    def signer(self, secrets: Sequence[Secret], url: str, endpoint_id: str) -> Signer:
        """Prepare an endpoint's headers; ConfigError if a secret cannot be a key. Newest secret first."""
        return Signer(self.document, secrets, url, endpoint_id)


def _secret_fault(entry: Signature, value: str) -> str | None:
    prefixes = [kind.key.strip for kind in entry.kinds if kind.key.strip]
    if prefixes and not value.startswith(tuple(prefixes)) and entry.key.strip:
        return f"the secret does not begin with {' or '.join(prefixes)}; {_recipe(entry)}"
    kind = entry.kind_of(value)
    try:
        key = decode_key(value, kind.key.strip, kind.key.decode)
        ALGORITHMS[kind.algorithm](key)
    except ValueError as error:
        return f"the secret {error}; {_recipe(entry)}"
    least, most = kind.key.min_bytes, kind.key.max_bytes
    if not least <= len(key) <= most:
        taken = f"{least} to {most}" if least < most else str(least)
        return f"the secret has {len(key)} bytes and the contract takes {taken}; {_recipe(entry)}"
    return None


def _recipe(entry: Signature) -> str:
    form = "base64" if entry.key.decode == "base64" else "hex"
    return f'a new one: echo "{entry.key.strip}$(openssl rand -{form} {_NEW_KEY_BYTES})"'
