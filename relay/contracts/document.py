"""The form of a contract file: pydantic models of the TOML, in which templates and schemas are already compiled."""

import re
from collections import Counter
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationInfo, field_validator

from relay.contracts.body import Body
from relay.contracts.facts import INNER, SEARCHABLE_MAX, Fact
from relay.contracts.fields import OF_BODY
from relay.contracts.keypairs import PAIRS
from relay.contracts.keys import PLAIN_DIGESTS
from relay.contracts.payload import Payload
from relay.contracts.template import Template
from relay.contracts.values import (
    Algorithm,
    ContentTemplate,
    DataSchema,
    Decoding,
    DurationMs,
    EachTemplate,
    Encoding,
    EventFact,
    EventKey,
    EventKeyOrNone,
    FailureWord,
    Grammar,
    HeaderName,
    HeaderPrefix,
    HeaderTemplate,
    HeaderText,
    InnerName,
    JsonText,
    MetadataDefault,
    NeededFact,
    RetryHeaderTemplate,
    SpreadFact,
    Table,
    TestData,
    TimeFormat,
    ValueTemplate,
    mistake,
)
from relay.contracts.verification import Verification
from relay.core.grammars import DEFAULT_GRAMMAR
from relay.core.issues import Issue

TYPE_CHARACTERS = re.compile(r"[A-Za-z0-9_.:/-]*")
"""The widest that any grammar of event types may be: safe in JSON and in headers."""


class Key(Table):
    """How a secret becomes a key, and how long the key may be. A length binds configuration, never the signer."""

    strip: str = ""
    public: str = ""  # prefix of the public half, where it is not PEM
    decode: Decoding = "utf8"
    min_bytes: int = Field(default=1, ge=1, le=1024)
    max_bytes: int = Field(default=1024, ge=1, le=1024)
    new_bytes: int = Field(default=32, ge=1, le=1024)  # how long a new one is, within the two above

    def has(self, secret: str) -> bool:
        """Whether a secret begins as those of this form do, or as their public halves."""
        return secret.startswith(tuple(filter(None, (self.strip, self.public))))

    @field_validator("max_bytes")
    @classmethod
    def _not_below_min(cls, value: int, info: ValidationInfo) -> int:
        if value < info.data.get("min_bytes", 1):
            raise mistake("max_bytes is below min_bytes", "Raise it.")
        return value

    @field_validator("new_bytes")
    @classmethod
    def _within(cls, value: int, info: ValidationInfo) -> int:
        if not info.data.get("min_bytes", 1) <= value <= info.data.get("max_bytes", 1024):
            raise mistake("new secrets would be refused", "Choose a length from min_bytes to max_bytes.")
        return value


class Kind(Table):
    """What a secret of one kind signs with."""

    algorithm: Algorithm = "hmac-sha256"
    key: Key = Field(default=Key(), validate_default=True)
    each: EachTemplate = Template(("sig",))

    @field_validator("key")
    @classmethod
    def _of_its_algorithm(cls, key: Key, info: ValidationInfo) -> Key:
        algorithm = info.data.get("algorithm", "")
        if key.public and algorithm not in PAIRS:
            raise mistake(f"{algorithm} has no public keys", "Remove public.")
        if algorithm in PAIRS and key.decode == "utf8":
            raise mistake(f"a key of {algorithm} is no text", 'Set decode to "pem", "base64" or "hex".')
        if not has_lengths(algorithm) and not _LENGTHS.isdisjoint(key.model_fields_set):
            raise mistake(
                f"{algorithm} says itself how long its keys are", "Remove min_bytes, max_bytes and new_bytes."
            )
        return key


_LENGTHS = frozenset({"min_bytes", "max_bytes", "new_bytes"})


def has_lengths(algorithm: str) -> bool:
    """Whether keys of an algorithm may be of several lengths, or at least be counted in bytes."""
    return algorithm == "ed25519" or algorithm not in PAIRS


class Variant(Kind):
    """Another kind of secret, known by the prefix `key.strip`."""

    @field_validator("key")
    @classmethod
    def _recognisable(cls, key: Key) -> Key:
        if not key.strip:
            raise mistake("a variant is recognised by the prefix of its secrets", 'Set strip, such as "whsk_".')
        return key


class Signature(Kind):
    """A signature in a header, or one inside the body. `content` is signed; the signatures of several secrets are shown
    as `each`, joined, inside `value`."""

    header: HeaderName | None = None
    name: InnerName | None = Field(default=None, validate_default=True)  # `{signature.NAME}` stands for it in the body
    content: ContentTemplate = Template(("body",))
    encoding: Encoding = "hex"
    join: HeaderText = ","
    value: ValueTemplate = Template(("sigs",))
    secrets: Literal["all", "first", "second"] = "all"
    unsigned: HeaderText | None = None
    variant: tuple[Variant, ...] = ()

    @field_validator("content")
    @classmethod
    def _needs_a_secret(cls, content: Template, info: ValidationInfo) -> Template:
        if info.data.get("algorithm") in PLAIN_DIGESTS and "secret" not in content.variables:
            raise mistake("anyone can compute a plain digest", "Use hmac-sha256, or put {secret} in content.")
        return content

    @field_validator("name")
    @classmethod
    def _has_one_place(cls, name: str | None, info: ValidationInfo) -> str | None:
        if "header" in info.data and (info.data["header"] is None) == (name is None):
            raise mistake(
                "a signature has either a header or a name", "Keep the header, or a name for one in the body."
            )
        return name

    @field_validator("content")
    @classmethod
    def _covers_what_is_known(cls, content: Template, info: ValidationInfo) -> Template:
        circular = sorted(content.variables & OF_BODY)
        if info.data.get("name") is not None and circular:
            raise mistake(
                f"{{{circular[0]}}} is made of the body, and this signature stands in it",
                'Sign parts of the event, such as content = "{timestamp}{data.id}".',
            )
        return content

    @property
    def title(self) -> str:
        """What messages call it."""
        return self.header or f"{{{INNER}{self.name}}}"

    @property
    def kinds(self) -> tuple[Kind, ...]:
        return (self, *self.variant)

    def kind_of(self, secret: str) -> Kind:
        """Return the variant whose prefix the secret, or a public key, has, else the entry's own kind."""
        return next((kind for kind in self.variant if kind.key.has(secret)), self)


class Types(Table):
    """Which event types there are."""

    catalogue: Literal["open", "closed"] = "open"
    grammar: Grammar = re.compile(DEFAULT_GRAMMAR, re.ASCII)
    description: str = "parts of letters, digits and _, joined by dots"
    extra_members: Literal["refuse", "allow"] = "refuse"  # members of data that a closed schema does not know


class EventType(Table):
    """One event type of the catalogue."""

    description: str
    example: JsonText = Field(repr=False)  # the data that a producer would post
    data_schema: DataSchema | None = Field(default=None, alias="schema")
    deprecated: bool = False
    replaced_by: str | None = None
    test: TestData | None = None  # the data of a test event; a type that has it is only for tests
    links: bool = False  # its data hold links that expire
    feature: str | None = None  # sent only to applications that have this feature switched on
    needs: tuple[NeededFact, ...] = ()
    idempotency_key: EventKeyOrNone | None = None  # False: none, whatever [idempotency] says

    @property
    def test_only(self) -> bool:
        return self.test is not None

    @property
    def is_selectable(self) -> bool:
        """Whether `*` and `prefix.*` cover it; a deprecated type is subscribed to by its name."""
        return not self.deprecated and not self.test_only

    @property
    def recalls(self) -> bool:
        """Whether it needs what earlier events said."""
        return any("memory" in need.variables for need in self.needs)

    def issues(self, data: Payload, extra_members: str) -> list[Issue]:
        """Return every mistake in an event's data; paths are pointers inside them."""
        if self.data_schema is None:
            return []
        return self.data_schema.issues(data, allow_extra=extra_members == "allow")


class Registration(Table):
    """Who may make endpoints, and of what kind."""

    self_service: bool = True  # False: only the operator makes them
    https: bool = True
    public: bool = True
    max_endpoints: int | None = Field(default=None, ge=1)  # of one application
    subscription_required: bool = False

    def allows(self, endpoints: int) -> bool:
        """Whether one application may have so many endpoints (WOC-2)."""
        return self.max_endpoints is None or endpoints <= self.max_endpoints


class Memory(Table):
    """What is remembered of some events, for later ones that need it."""

    key: EventKey
    value: EventFact
    types: Annotated[tuple[str, ...], Field(min_length=1)]


class OrderingRule(Table):
    """In what order the deliveries of one ordering key go to an endpoint (Q12)."""

    mode: Literal["none", "first-attempt", "strict"] = "none"
    key: EventKey | None = None


class IdempotencyRule(Table):
    """The key of an event whose producer gave none (Q8)."""

    key: EventKey | None = None
    differs: Literal["duplicate", "conflict"] = "duplicate"


class Retry(Table):
    """A retry policy of the contract's own."""

    schedule: Annotated[tuple[DurationMs, ...], Field(max_length=100)] | None = None
    jitter: float | None = Field(default=None, ge=0, le=1)


class Delivery(Table):
    """What `[delivery]` of the configuration is overridden with."""

    timeout: DurationMs | None = Field(default=None, gt=0)
    retry: Retry = Retry()
    max_age: DurationMs | None = Field(default=None, gt=0)
    link_age: DurationMs | None = Field(default=None, gt=0)  # how long an event whose type has `links` may be sent


Place = Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*$", max_length=128)]
"""Names of members, joined by dots: a place in an event's data."""


class ContractDocument(Table):
    """A contract file."""

    description: str
    extends: str | None = None  # the contract that this one was built on, whose keys are here too
    content_type: HeaderText | None = None  # None: that of the body's kind
    timestamp: TimeFormat = "unix"
    types: Types = Types()
    type: dict[str, EventType] = Field(default={})
    features: dict[str, str] = Field(default={})
    body: Body
    metadata: dict[str, MetadataDefault] = Field(default={})  # what stands for members that an event's metadata lack
    headers: dict[HeaderName, HeaderTemplate] = Field(default={})
    spread_headers: dict[HeaderPrefix, SpreadFact] = Field(default={})  # a header for each member of an object
    retry_headers: dict[HeaderName, RetryHeaderTemplate] = Field(default={})  # of attempts after the first alone
    retry_reasons: dict[FailureWord, HeaderText] = Field(
        default={}
    )  # what `{retry_reason}` says for what ended the attempt before
    signature: tuple[Signature, ...] = ()
    registration: Registration = Registration()
    verification: Verification = Verification()
    memory: Memory | None = None
    ordering: OrderingRule = OrderingRule()
    idempotency: IdempotencyRule = IdempotencyRule()
    delivery: Delivery = Delivery()
    searchable: Annotated[tuple[Place, ...], Field(max_length=SEARCHABLE_MAX)] = ()  # where values of data find events

    @property
    def media_type(self) -> str:
        """What Content-Type says."""
        return self.content_type or _MEDIA_TYPES.get(self.body.kind, "application/json")

    def otherwise(self, variable: str) -> str | None:
        """Return the variable that stands for a part of the metadata in events that lack it, if one does."""
        parts = self.metadata.get(variable.removeprefix("metadata."), Template(())).parts
        return parts[0] if len(parts) == 1 and isinstance(parts[0], str) else None

    def is_always_there(self, variable: str) -> bool:
        """Whether every event has what a variable stands for."""
        return Fact.of(variable) is None or variable.removeprefix("metadata.") in self.metadata


_MEDIA_TYPES = {"form": "application/x-www-form-urlencoded", "xml": "application/xml"}


def repeated_headers(raw: dict[str, Any]) -> list[str]:
    """Name the headers that a file sets twice, whatever else is wrong with it."""
    entries = raw.get("signature")
    names = [name for table in ("headers", "retry_headers") if isinstance(raw.get(table), dict) for name in raw[table]]
    names += [entry.get("header") for entry in entries if isinstance(entry, dict)] if isinstance(entries, list) else []
    counts = Counter(name.lower() for name in names if isinstance(name, str))
    return sorted(name for name, count in counts.items() if count > 1)
