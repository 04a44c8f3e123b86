"""One contract: what an application's receivers were promised, ready for use."""

from collections.abc import Callable, Mapping, Sequence

from relay.contracts.conditions import held_back, remembered_of
from relay.contracts.document import ContractDocument, Kind, ListedType, Signature
from relay.contracts.envelope import Envelope
from relay.contracts.event_type import TYPE_CHARACTERS, Catalogue, EventType, test_data
from relay.contracts.fields import Rendering
from relay.contracts.keys import ALGORITHMS, decode_key, encode_key, new_key, untidy
from relay.contracts.payload import Payload
from relay.contracts.sentences import Fault
from relay.contracts.signing import CHOSEN, Signer
from relay.core import grammars
from relay.core.model import Secret

_NO_FACTS: Mapping[str, str] = {}


class NoExample(LookupError):
    """The contract has nothing to send as a test; the message says what it has."""


class Contract:
    """A wire shape: envelope, catalogue, headers, signatures, rules and delivery defaults. Immutable."""

    def __init__(self, name: str, document: ContractDocument) -> None:
        self.name = name
        self.document = document
        self.description = document.description
        self.content_type = document.content_type
        self.type_grammar = document.types.grammar
        self.catalogue_open = document.types.catalogue == "open"
        self._catalogue = Catalogue(
            (_event_type(type, listed) for type, listed in document.type.items()), is_open=self.catalogue_open
        )
        self.types: Mapping[str, EventType] = self._catalogue.types
        self.all_types = None if self.catalogue_open else self._catalogue.selectable
        self.features = frozenset(document.features)
        self.registration = document.registration
        self.ordering = document.ordering.mode
        self.idempotency_differs = document.idempotency.differs
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
        self._envelope = Envelope(document.body)

    def __repr__(self) -> str:
        return f"Contract({self.name!r})"

    # -- event types -----------------------------------------------------------------------------------------------

    def check_type(self, type: str) -> str | None:
        """Return None for a type that this contract has, else a sentence."""
        return self.check_form(type) or self._catalogue.check(type)

    def check_form(self, type: str) -> str | None:
        """Return None for a type of lawful form, be it in the catalogue or not, else a sentence."""
        if not TYPE_CHARACTERS.fullmatch(type):
            return f"{type[:80]!r} is no event type; use {self.document.types.description}"
        return grammars.check_type(type, self.type_grammar, self.document.types.description)

    def check_subscription(self, pattern: str) -> str | None:
        """Return None for `*`, `prefix.*` or a type that an endpoint may subscribe to, else a sentence."""
        form = self.document.types.description
        fault = grammars.check_subscription(pattern, self.type_grammar, form)
        return fault or self._catalogue.check_subscription(pattern)

    def warn_subscription(self, pattern: str) -> str | None:
        """Return a warning about a lawful subscription, such as one to a deprecated type."""
        return self._catalogue.warn_subscription(pattern)

    def covers(self, pattern: str, type: str) -> bool:
        """Whether a checked subscription covers a type: no wildcard covers deprecated ones, nothing covers tests."""
        return self._catalogue.covers(pattern, type)

    def test_event(self, example_type: str | None, facts: Mapping[str, str] = _NO_FACTS) -> tuple[str, bytes]:
        """Return type and data of a test: the contract's own test event, or the example of a listed type.

        `facts` are `endpoint_id` and `application_id`. NoExample if the type has none.
        """
        listed = self._catalogue.test_type if example_type is None else self.types.get(example_type)
        if listed is None and example_type is None:
            listed = next(iter(self.types.values()), None)
        if listed is None:
            raise NoExample(_no_example(self, example_type))
        test = self.document.type[listed.name].test
        return listed.name, listed.example if test is None else test_data(test, facts)

    # -- one event -------------------------------------------------------------------------------------------------

    def check_data(self, type: str, data: Payload) -> list[Fault]:
        """Return every mistake in an event's data: JSON pointer inside data, and a sentence."""
        listed = self.document.type.get(type)
        if listed is None or listed.data_schema is None:
            return []
        return listed.data_schema.faults(data, allow_extra=self.document.types.extra_members == "allow")

    def render(self, event: Rendering) -> bytes:
        """Return the body, to be frozen; Unrenderable if the data cannot be put in it."""
        return self._envelope.render(event)

    def may_have_rendered(self, body: bytes) -> bool:
        """Whether a body begins and ends as every body of this contract does."""
        first, last = self._envelope.template.parts[0], self._envelope.template.parts[-1]
        assert isinstance(first, bytes)
        assert isinstance(last, bytes)
        return body.startswith(first) and body.endswith(last)

    def ordering_key(self, type: str, data: Payload) -> str | None:
        """Return what an event is ordered by if its producer named nothing."""
        key = self.document.ordering.key
        return None if key is None else key.read(type, data)

    def idempotency_key(self, type: str, data: Payload) -> str | None:
        """Return the key of an event whose producer gave none (Q8)."""
        listed = self.document.type.get(type)
        key = None if listed is None else listed.idempotency_key
        if key is None:
            key = self.document.idempotency.key
        return key.read(type, data) if key else None

    def link_age_ms(self, type: str) -> int | None:
        """Return how long after its acceptance an event may be sent; None where no link expires."""
        listed = self.types.get(type)
        return self.document.delivery.link_age if listed is not None and listed.links else None

    def condition(
        self,
        type: str,
        data: Payload,
        metadata: Payload | None,
        features: Mapping[str, bool],
        remembered: Mapping[str, str],
    ) -> str | None:
        """Return a sentence why an event is held back (`filtered`); None to send it.

        `remembered` holds what the memory has under the key that `recalls` returned, if anything.
        """
        listed = self.document.type.get(type)
        if listed is None:
            return None
        key = self.recalls(type, data)
        memory = None if key is None else remembered.get(key)
        return held_back(listed, type, data, metadata, features, memory)

    def remembers(self, type: str, data: Payload, metadata: Payload | None) -> tuple[str, str] | None:
        """Return key and value that this event leaves in the memory, be it held back or not."""
        memory = self.document.memory
        return None if memory is None else remembered_of(memory, type, data, metadata)

    def recalls(self, type: str, data: Payload) -> str | None:
        """Return the key under which `condition` wants to know what was remembered."""
        listed, memory = self.document.type.get(type), self.document.memory
        if listed is None or memory is None or not any("memory" in need.variables for need in listed.needs):
            return None
        return memory.key.read(type, data)

    # -- secrets and signatures ------------------------------------------------------------------------------------

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
        size = min(max(kind.key.new_bytes, kind.key.min_bytes), kind.key.max_bytes)
        return encode_key(new_key(kind.algorithm, random_bytes, size), kind.key.strip, kind.key.decode)

    def signer(self, secrets: Sequence[Secret], url: str, endpoint_id: str) -> Signer:
        """Prepare an endpoint's headers; ConfigError if a secret cannot be a key. Newest secret first."""
        return Signer(self.document, secrets, url, endpoint_id)


def _event_type(name: str, listed: ListedType) -> EventType:
    return EventType(
        name=name,
        description=listed.description,
        schema=None if listed.data_schema is None else listed.data_schema.document,
        example=listed.example,
        deprecated=listed.deprecated,
        replaced_by=listed.replaced_by,
        test_only=listed.test is not None,
        links=listed.links,
        feature=listed.feature,
    )


def _no_example(contract: Contract, type: str | None) -> str:
    if not contract.types:
        return f"the contract {contract.name!r} lists no event types, so it has no example; give type and data"
    return f"there is no example of {type!r}; there are examples of: {', '.join(sorted(contract.types))}"


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
    return f'a new one: echo "{entry.key.strip}$(openssl rand -{form} {entry.key.new_bytes})"'
