"""One contract: what an application's receivers were promised, ready for use."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import orjson

from relay.contracts import as_json
from relay.contracts.document import (
    TYPE_CHARACTERS,
    ContractDocument,
    EventType,
    Kind,
    Signature,
    has_lengths,
)
from relay.contracts.envelope import Envelope
from relay.contracts.facts import Defaults, Searchable, SpreadHeaders
from relay.contracts.fields import Rendering
from relay.contracts.frozen import freeze
from relay.contracts.keypairs import PAIRS
from relay.contracts.keys import ALGORITHMS, decode_key, encode_key, new_key, public_half, untidy
from relay.contracts.payload import Payload
from relay.contracts.signing import CHOSEN, Signer, kept_facts
from relay.contracts.template import Lookup
from relay.core import grammars
from relay.core.issues import Issue, nearest
from relay.core.model import Secret

_NO_FACTS: Mapping[str, str] = {}
_LISTED_MAX = 30
_LAWFUL_MAX = 1_000
"""Types whose form a contract remembers to be lawful; then it begins anew."""


class NoExample(LookupError):
    """The contract has nothing to send as a test; the message says what it has."""


class Contract:
    """A wire shape: envelope, catalogue, headers, signatures, rules and delivery defaults. Immutable."""

    def __init__(self, name: str, document: ContractDocument) -> None:
        self.name = name
        self.document = document
        self.description = document.description
        self.content_type = document.media_type
        self.type_grammar = document.types.grammar
        self.catalogue_open = document.types.catalogue == "open"
        self.types: Mapping[str, EventType] = document.type
        self.test_type = next((name for name, listed in self.types.items() if listed.test_only), None)
        self._selectable = frozenset(name for name, listed in self.types.items() if listed.is_selectable)
        self.all_types = None if self.catalogue_open else self._selectable
        self.features = frozenset(document.features)
        self.registration = document.registration
        self.verification = document.verification
        self.searchable = Searchable(document.searchable) if document.searchable else None
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
        signed = (entry.header for entry in document.signature if entry.header is not None)
        names = ("content-type", *document.headers, *document.retry_headers, *signed)
        self.header_names = frozenset(map(str.lower, names))
        self._envelope = Envelope(document.body)
        self._facts = tuple(kept_facts(document))
        self._spread = [SpreadHeaders(prefix, fact) for prefix, fact in document.spread_headers.items()]
        self._prefixes = tuple(map(str.lower, document.spread_headers))
        self._defaults = Defaults(document.metadata) if document.metadata else None
        self._lawful: set[str] = set()  # types of late

    def __repr__(self) -> str:
        return f"Contract({self.name!r})"

    # -- event types -----------------------------------------------------------------------------------------------

    def check_type(self, type: str, *, suggest: bool = True) -> str | None:
        """Return None for a type that this contract has, else a sentence; it may `suggest` which one was meant."""
        wrong = self.check_form(type)
        if wrong or self.catalogue_open or type in self.types:
            return wrong
        return f"{type[:80]!r} is not in the catalogue; {_instead(type, self.types, suggest)}"

    def check_form(self, type: str) -> str | None:
        """Return None for a type of lawful form, be it in the catalogue or not, else a sentence."""
        if type in self._lawful:
            return None
        if not TYPE_CHARACTERS.fullmatch(type):
            return f"{type[:80]!r} is no event type; use {self.document.types.description}"
        wrong = grammars.check_type(type, self.type_grammar, self.document.types.description)
        if wrong is None:
            if len(self._lawful) >= _LAWFUL_MAX:
                self._lawful.clear()
            self._lawful.add(type)
        return wrong

    def check_subscription(self, pattern: str, *, suggest: bool = True) -> str | None:
        """Return None for `*`, `prefix.*` or a type that an endpoint may subscribe to, else a sentence.

        It may `suggest` which type was meant.
        """
        wrong = grammars.check_subscription(pattern, self.type_grammar, self.document.types.description)
        if wrong is not None:
            return wrong
        listed = self.types.get(pattern)
        if listed is not None and listed.test_only:
            return f"{pattern!r} is sent by a test only, to one endpoint at a time; leave it out"
        if self.catalogue_open or listed is not None or any(self.covers(pattern, name) for name in self._selectable):
            return None
        return f"{pattern[:80]!r} covers no event type; {_instead(pattern, self._selectable, suggest, all_too=True)}"

    def warn_subscription(self, pattern: str) -> str | None:
        """Return a warning about a lawful subscription, such as one to a deprecated type."""
        listed = self.types.get(pattern)
        if listed is None or not listed.deprecated:
            return None
        return f"{pattern!r} is deprecated" + (f"; use {listed.replaced_by!r}" if listed.replaced_by else "")

    def covers(self, pattern: str, type: str) -> bool:
        """Whether a checked subscription covers a type: no wildcard covers deprecated ones, nothing covers tests."""
        listed = self.types.get(type)
        if listed is None or listed.is_selectable:
            return grammars.matches(pattern, type)
        return pattern == type and not listed.test_only

    def takes(self, pattern: str, type: str) -> bool:
        """Whether this contract has a type, and a subscription that was checked for another contract covers it here, too."""
        return self.check_type(type, suggest=False) is None and self.covers(pattern, type)

    def test_event(self, example_type: str | None, facts: Mapping[str, str] = _NO_FACTS) -> tuple[str, bytes]:
        """Return type and data of a test: the contract's own test event, or the example of a listed type.

        `facts` are `endpoint_id` and `application_id`. NoExample if the type has none.
        """
        name = (self.test_type or next(iter(self.types), None)) if example_type is None else example_type
        if name is None or name not in self.types:
            raise NoExample(_no_example(self, example_type))
        listed = self.types[name]
        return name, listed.example if listed.test is None else as_json.filled(listed.test, facts)

    # -- one event -------------------------------------------------------------------------------------------------

    def check_data(self, type: str, data: Payload) -> list[Issue]:
        """Return every mistake in an event's data; paths are pointers inside them."""
        listed = self.types.get(type)
        return [] if listed is None else listed.issues(data, self.document.types.extra_members)

    def render(self, event: Rendering) -> bytes:
        """Return what is frozen: the body, and what headers and signatures want to know; Unrenderable if it does not fit.

        Every attempt makes of it what it sends (`Signer.request`). O(length)
        """
        if self._defaults is not None:
            event = self._defaults.fill(event)
        body = self._envelope.render(event)
        return freeze(body, dict(self._known(event))) if self._facts or self._spread else body

    def _known(self, event: Rendering) -> Iterator[tuple[str, str]]:
        for fact in self._facts:
            text = fact.read(event)
            if text is not None:
                yield fact.variable, text
        for spread in self._spread:
            yield from spread.read(event, self.header_names)

    def sets_header(self, name: str) -> bool:
        """Whether a header is the contract's own."""
        return name.lower() in self.header_names or name.lower().startswith(self._prefixes)

    def normalised(self, data: Payload) -> bytes:
        """Return data that `render` took, as the body carries them."""
        return self._envelope.normalised(data)

    def may_have_rendered(self, body: bytes) -> bool:
        """Whether a body begins and ends as every body of this contract does."""
        return self._envelope.may_have_rendered(body)

    def ordering_key(self, type: str, data: Payload) -> str | None:
        """Return what an event is ordered by if its producer named nothing."""
        key = self.document.ordering.key
        return None if key is None else key.read(type, data)

    def idempotency_key(self, type: str, data: Payload) -> str | None:
        """Return the key of an event whose producer gave none (Q8)."""
        listed = self.types.get(type)
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
        """Say why an event is not sent (`filtered`); None to send it.

        `remembered` holds what the memory has under the key that `recalls` returned, if anything.
        """
        listed = self.types.get(type)
        if listed is None:
            return None
        if listed.feature is not None and not features.get(listed.feature, False):
            return f'the feature "{listed.feature}" is off for this application'
        key = self.recalls(type, data)
        memory = None if key is None else remembered.get(key)
        if not listed.needs or any(need.read(type, data, metadata, memory) for need in listed.needs):
            return None
        return _lacking(listed.needs)

    def remembers(self, type: str, data: Payload, metadata: Payload | None) -> tuple[str, str] | None:
        """Return key and value that this event leaves in the memory, be it sent or not."""
        memory = self.document.memory
        if memory is None or type not in memory.types:
            return None
        key, value = memory.key.read(type, data), memory.value.read(type, data, metadata)
        return None if key is None or value is None else (key, value)

    def recalls(self, type: str, data: Payload) -> str | None:
        """Return the key under which `condition` wants to know what was remembered."""
        listed, memory = self.types.get(type), self.document.memory
        return memory.key.read(type, data) if listed is not None and memory is not None and listed.recalls else None

    # -- secrets and signatures ------------------------------------------------------------------------------------

    def check_secret(self, value: str) -> str | None:
        """Return None for a secret that may be configured, else a sentence that does not show it."""
        if not self.signs:
            return f"the contract {self.name!r} signs nothing, so an endpoint of it takes no secret; remove it"
        kinds = (kind for entry in self.document.signature for kind in entry.kinds)
        fault = untidy(value, lines=any(kind.key.decode == "pem" for kind in kinds))
        if fault is not None:
            return f"the secret {fault}"
        if self.shows_secret and not value.isascii():
            return "the secret is sent in a header and must be ASCII; choose another"
        return next(filter(None, (_secret_fault(entry, value) for entry in self.document.signature)), None)

    def new_secret(self, random_bytes: Callable[[int], bytes], like: str = "") -> str:
        """Make a secret that `check_secret` accepts, of the same kind as `like`, from `random_bytes(count)`."""
        kind = self.document.signature[0].kind_of(like) if self.document.signature else Kind()
        size = min(max(kind.key.new_bytes, kind.key.min_bytes), kind.key.max_bytes)
        return encode_key(new_key(kind.algorithm, random_bytes, size), kind.key.strip, kind.key.decode)

    def public_keys(self, secrets: Iterable[Secret]) -> list[str]:
        """Return what receivers verify with, newest first; nothing where they have the secrets themselves."""
        return [half for secret in secrets if (half := self._public_key(secret.value)) is not None]

    def _public_key(self, secret: str) -> str | None:
        kinds = (entry.kind_of(secret) for entry in self.document.signature)
        try:
            halves = [public_half(kind.algorithm, secret, kind.key) for kind in kinds]
        except ValueError:  # a secret of before the contract was changed
            return None
        return next((half for half in halves if half is not None), None)

    def signer(self, secrets: Sequence[Secret], url: str, endpoint_id: str) -> Signer:
        """Prepare an endpoint's headers; ConfigError if a secret cannot be a key. Newest secret first."""
        return Signer(self.document, secrets, url, endpoint_id)


# -- a catalogue as people and programs are shown it: the same words from the API and without a daemon -----------------


def describe_catalogue(contract: Contract) -> dict[str, Any]:
    """Write all listed types in the order of the contract file; `open`: others are taken as well."""
    return {
        "contract": contract.name,
        "open": contract.catalogue_open,
        "data": [describe_type(name, listed) for name, listed in contract.types.items()],
        "next": None,
    }


def describe_type(name: str, listed: EventType) -> dict[str, Any]:
    """Write one type, to be dumped by orjson; the example keeps its bytes, so that `30.0` stays `30.0`."""
    return {
        "name": name,
        "description": listed.description,
        "schema": None if listed.data_schema is None else listed.data_schema.document,
        "example": orjson.Fragment(listed.example),
        "deprecated": listed.deprecated,
        "replaced_by": listed.replaced_by,
        "test_only": listed.test_only,
        "links": listed.links,
        "feature": listed.feature,
    }


def why_unlisted(contract: Contract, type: str) -> str:
    """Say why the catalogue has no entry for a type that is not in `contract.types`, and what there is instead."""
    wrong = contract.check_type(type)
    if wrong is not None:
        return wrong
    name = contract.name
    return f"{type!r} has no example: the contract {name!r} is open and takes such events with whatever data they have"


def _instead(wrong: str, names: Iterable[str], suggest: bool, *, all_too: bool = False) -> str:
    """Name the nearest of these names, else all of them; both for `all_too` (ROT-6)."""
    known = sorted(names)
    near = nearest(wrong, known) if suggest else None
    if near is None:
        return f"use one of: {_listed(known)}"
    return f"did you mean {near!r}?" + (f" Use one of: {_listed(known)}" if all_too else "")


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - _LISTED_MAX} more" if len(names) > _LISTED_MAX else ""
    return ", ".join(names[:_LISTED_MAX]) + more


def _lacking(needs: tuple[Lookup, ...]) -> str:
    words = ["what earlier events said" if need.variables == {"memory"} else str(need) for need in needs]
    if len(words) == 1:
        return f"{words[0]} is missing or empty"
    return f"neither {' nor '.join(words)} says what is needed"


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
        if kind.algorithm in PAIRS:
            ALGORITHMS[kind.algorithm](key)  # refuses a key that does not fit
    except ValueError as error:
        return f"the secret {error}; {_recipe(entry)}"
    if not has_lengths(kind.algorithm):
        return None
    least, most = kind.key.min_bytes, kind.key.max_bytes
    if not least <= len(key) <= most:
        taken = f"{least} to {most}" if least < most else str(least)
        return f"the secret has {len(key)} bytes and the contract takes {taken}; {_recipe(entry)}"
    return None


_OPENSSL = {
    "rsa": "RSA -pkeyopt rsa_keygen_bits:2048",
    "ecdsa": "EC -pkeyopt ec_paramgen_curve:P-256",
    "ed25519": "ed25519",
}


def _recipe(entry: Signature) -> str:
    made = f"openssl genpkey -algorithm {_OPENSSL.get(entry.algorithm.partition('-')[0], '')}"
    if entry.key.decode == "pem":
        return f"a new one: {made}"
    if not has_lengths(entry.algorithm):
        return f'a new one: echo "{entry.key.strip}$({made} -outform DER | base64 -w0)"'
    form = "base64" if entry.key.decode == "base64" else "hex"
    return f'a new one: echo "{entry.key.strip}$(openssl rand -{form} {entry.key.new_bytes})"'
