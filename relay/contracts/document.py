"""The form of a contract file: pydantic models of the TOML, in which templates and schemas are already compiled."""

import json
import re
from collections import Counter
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator

from relay.contracts.fields import TEST_VARIABLES
from relay.contracts.keys import PLAIN_DIGESTS
from relay.contracts.payload import Payload
from relay.contracts.template import Part, Template
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
    Grammar,
    HeaderName,
    HeaderTemplate,
    HeaderText,
    JsonText,
    MemberValue,
    NeededFact,
    TestValue,
    TimeFormat,
    ValueTemplate,
    mistake,
)
from relay.core.grammars import DEFAULT_GRAMMAR
from relay.core.issues import Issue

TYPE_CHARACTERS = re.compile(r"[A-Za-z0-9_.:/-]*")
"""The widest that any grammar of event types may be: safe in JSON and in headers."""

SPREAD = "..."
"""The name of a body's member in whose place the members of `data` stand themselves."""

SPREADS = frozenset({"spread", "spread,", ",spread"})
"""Variables of a body's template: the members of `data`, with the comma that they need if there are any."""


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, arbitrary_types_allowed=True)


class Key(_Model):
    """How a secret becomes a key, and how long the key may be. A length binds configuration, never the signer."""

    strip: str = ""
    decode: Decoding = "utf8"
    min_bytes: int = Field(default=1, ge=1, le=1024)
    max_bytes: int = Field(default=1024, ge=1, le=1024)
    new_bytes: int = Field(default=32, ge=1, le=1024)  # how long a new one is, within the two above

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


class Kind(_Model):
    """What a secret of one kind signs with."""

    algorithm: Algorithm = "hmac-sha256"
    key: Key = Key()
    each: EachTemplate = Template(("sig",))


class Variant(Kind):
    """Another kind of secret, known by the prefix `key.strip`."""

    @field_validator("key")
    @classmethod
    def _recognisable(cls, key: Key) -> Key:
        if not key.strip:
            raise mistake("a variant is recognised by the prefix of its secrets", 'Set strip, such as "whsk_".')
        return key


class Signature(Kind):
    """One signature header. `content` is signed; its signatures are shown as `each`, joined, inside `value`."""

    header: HeaderName
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

    @property
    def kinds(self) -> tuple[Kind, ...]:
        return (self, *self.variant)

    def kind_of(self, secret: str) -> Kind:
        """Return the variant whose prefix the secret has, else the entry's own kind."""
        return next((kind for kind in self.variant if secret.startswith(kind.key.strip)), self)


class Types(_Model):
    """Which event types there are."""

    catalogue: Literal["open", "closed"] = "open"
    grammar: Grammar = re.compile(DEFAULT_GRAMMAR, re.ASCII)
    description: str = "parts of letters, digits and _, joined by dots"
    extra_members: Literal["refuse", "allow"] = "refuse"  # members of data that a closed schema does not know


class EventType(_Model):
    """One event type of the catalogue."""

    description: str
    example: JsonText = Field(repr=False)  # the data that a producer would post
    data_schema: DataSchema | None = Field(default=None, alias="schema")
    deprecated: bool = False
    replaced_by: str | None = None
    test: dict[str, TestValue] | None = None  # the data of a test event; a type that has it is only for tests
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


class Member(_Model):
    """One member of the body."""

    name: str
    value: MemberValue

    @property
    def is_spread(self) -> bool:
        return self.name == SPREAD

    @field_validator("value")
    @classmethod
    def _spreads_data(cls, value: Template, info: ValidationInfo) -> Template:
        if info.data.get("name") == SPREAD and value.parts != ("data",):
            raise mistake("only {data} has members that can stand here", 'Write value = "{data}".')
        return value


class Body(_Model):
    """The body's members, in the order in which they are sent."""

    mode: Literal["verbatim", "js"] = "verbatim"
    numbers: Literal["refuse", "round"] | None = (
        None  # what becomes of numbers that JavaScript would change; with mode "js" only
    )
    members: tuple[Member, ...]

    @field_validator("numbers")
    @classmethod
    def _acts(cls, numbers: str | None, info: ValidationInfo) -> str | None:
        if numbers is not None and info.data.get("mode") == "verbatim":
            raise mistake('mode = "verbatim" changes no number', 'Remove it, or set mode = "js".')
        return numbers

    @field_validator("members")
    @classmethod
    def _carries_data_once(cls, members: tuple[Member, ...]) -> tuple[Member, ...]:
        if sum("data" in member.value.variables for member in members) != 1:
            raise mistake("exactly one member must carry what the producer sent", 'Give one the value "{data}".')
        names = [member.name for member in members]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise mistake(f"the member {twice[0]!r} is there twice", "Rename or remove one.")
        return members

    @property
    def template(self) -> Template:
        """The whole body as one template, in which `SPREADS` stand for the members of data and their comma."""
        parts: list[Part] = [b"{"]
        comma = b""
        for index, member in enumerate(self.members):
            if member.is_spread:
                parts.append(",spread" if index else "spread" if len(self.members) == 1 else "spread,")
                comma = b"," if index else b""
                continue
            parts += [comma, json.dumps(member.name, ensure_ascii=False).encode(), b":", *member.value.parts]
            comma = b","
        return Template.of([*parts, b"}"])


class Registration(_Model):
    """Who may make endpoints, and of what kind."""

    self_service: bool = True  # False: only the operator makes them
    https: bool = True
    public: bool = True
    max_endpoints: int | None = Field(default=None, ge=1)  # of one application
    subscription_required: bool = False

    def allows(self, endpoints: int) -> bool:
        """Whether one application may have so many endpoints (WOC-2)."""
        return self.max_endpoints is None or endpoints <= self.max_endpoints


class Memory(_Model):
    """What is remembered of some events, for later ones that need it."""

    key: EventKey
    value: EventFact
    types: Annotated[tuple[str, ...], Field(min_length=1)]


class OrderingRule(_Model):
    """In what order the deliveries of one ordering key go to an endpoint (Q12)."""

    mode: Literal["none", "first-attempt", "strict"] = "none"
    key: EventKey | None = None


class IdempotencyRule(_Model):
    """The key of an event whose producer gave none (Q8)."""

    key: EventKey | None = None
    differs: Literal["duplicate", "conflict"] = "duplicate"


class Retry(_Model):
    """A retry policy of the contract's own."""

    schedule: Annotated[tuple[DurationMs, ...], Field(max_length=100)] | None = None
    jitter: float | None = Field(default=None, ge=0, le=1)


class Delivery(_Model):
    """What `[delivery]` of the configuration is overridden with."""

    timeout: DurationMs | None = Field(default=None, gt=0)
    retry: Retry = Retry()
    max_age: DurationMs | None = Field(default=None, gt=0)
    link_age: DurationMs | None = Field(default=None, gt=0)  # how long an event whose type has `links` may be sent


class ContractDocument(_Model):
    """A contract file."""

    description: str
    extends: str | None = None  # the contract that this one was built on, whose keys are here too
    content_type: HeaderText = "application/json"
    timestamp: TimeFormat = "unix"
    types: Types = Types()
    type: dict[str, EventType] = {}
    features: dict[str, str] = {}
    body: Body
    headers: dict[HeaderName, HeaderTemplate] = {}
    signature: tuple[Signature, ...] = ()
    registration: Registration = Registration()
    memory: Memory | None = None
    ordering: OrderingRule = OrderingRule()
    idempotency: IdempotencyRule = IdempotencyRule()
    delivery: Delivery = Delivery()


def repeated_headers(raw: dict[str, Any]) -> list[str]:
    """Name the headers that a file sets twice, whatever else is wrong with it."""
    headers, entries = raw.get("headers"), raw.get("signature")
    names = list(headers) if isinstance(headers, dict) else []
    names += [entry.get("header") for entry in entries if isinstance(entry, dict)] if isinstance(entries, list) else []
    counts = Counter(name.lower() for name in names if isinstance(name, str))
    return sorted(name for name, count in counts.items() if count > 1)


def test_data(members: Mapping[str, Template], facts: Mapping[str, str]) -> bytes:
    """Return the data of a contract's test event; `facts` are what its templates ask for."""
    known = {name: json.dumps(facts.get(name, ""))[1:-1].encode() for name in TEST_VARIABLES}
    written = (json.dumps(name).encode() + b":" + value.render(known) for name, value in members.items())
    return b"{" + b",".join(written) + b"}"
