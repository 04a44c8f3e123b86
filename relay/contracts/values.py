"""How single values are written in a contract file: each kind with its check, its meaning and its remedy."""

import json
import re
from collections.abc import Callable, Collection, Mapping
from functools import partial
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, PlainValidator
from pydantic_core import PydanticCustomError

from relay.contracts.facts import ROOMS, Fact
from relay.contracts.fields import (
    BODY_VARIABLES,
    CHALLENGE_VARIABLES,
    CONTENT_VARIABLES,
    EACH_VARIABLES,
    ENCODINGS,
    HEADER_VARIABLES,
    RENDERING_READERS,
    RETRY_HEADER_VARIABLES,
    TEST_VARIABLES,
    TIME_FORMATS,
    VALUE_VARIABLES,
)
from relay.contracts.keys import ALGORITHMS, DECODERS
from relay.contracts.schema import Schema, SchemaError
from relay.contracts.template import Lookup, Template, TemplateError
from relay.contracts.tree import Compile, Node, TreeError, from_json, from_toml
from relay.core.grammars import FORBIDDEN, HEADER_NAME, HEADER_VALUE, NAME_MAX
from relay.core.issues import did_you_mean
from relay.core.model import Failure
from relay.core.units import parse_duration_ms

_OURS = FORBIDDEN - {"user-agent"} | {"proxy-connection", "proxy-authorization"}

FAILURES = frozenset({*map(str, Failure), *(f"http_{digit}xx" for digit in "2345"), "other"})
"""What may have ended an attempt, in the words of its timeline, or `http_503` for an answer; families; and all others."""

_STATUS = re.compile(r"http_[2-5][0-9][0-9]")


class Table(BaseModel):
    """A table of a contract file: what it does not know is a mistake."""

    model_config = ConfigDict(extra="forbid", frozen=True, arbitrary_types_allowed=True)


def mistake(message: str, remedy: str) -> PydanticCustomError:
    """Make an error that carries its own remedy to the report."""
    return PydanticCustomError("contract", "{message}", {"message": message, "remedy": remedy})


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise mistake("must be text", "Write it in quotes.")
    return value


def _failure(value: object) -> str:
    word = _text(value)
    if word not in FAILURES and not _STATUS.fullmatch(word):
        remedy = did_you_mean(word, FAILURES) or f"Use http_503 and the like, or: {', '.join(sorted(FAILURES))}."
        raise mistake("no attempt ends so", remedy)
    return word


def _inner_name(value: object) -> str:
    name = _text(value)
    if not re.fullmatch(r"[A-Za-z0-9_-]{1,64}", name):
        raise mistake(f"{name[:80]!r} is no name", "Use letters, digits, - and _, at most 64.")
    return name


def _compile(value: object, known: Collection[str], rooms: Collection[str] = ()) -> Template:
    try:
        return Template.compile(_text(value), known, rooms)
    except TemplateError as error:
        raise mistake(error.detail, error.remedy) from None


def _shown(value: object) -> str:
    """Check text that becomes part of a header's value."""
    text = _text(value)
    if not HEADER_VALUE.fullmatch(text):
        raise mistake("a header can carry only visible ASCII, blanks and tabs", "Remove the other characters.")
    return text


def _header_name(value: object) -> str:
    name = _text(value)
    if not HEADER_NAME.fullmatch(name) or len(name) > NAME_MAX:
        raise mistake(f"{name!r} is no header name", "Use letters, digits and dashes, at most 64.")
    if name.lower() in _OURS:
        raise mistake(f"{name} is set by the relay itself", "Leave it out (`content_type` sets Content-Type).")
    return name


def _header_prefix(value: object) -> str:
    prefix = _text(value)
    if not prefix.endswith("-") or not HEADER_NAME.fullmatch(prefix):
        raise mistake(f"{prefix[:80]!r} is no beginning of a header's name", 'End it with a dash, such as "X-Acme-".')
    return prefix


def _spread_fact(value: object) -> Fact:
    text = _text(value)
    fact = Fact.of(text[1:-1]) if text[:1] + text[-1:] == "{}" else None
    if fact is None:
        raise mistake("it is no place in an event", 'Write one, such as "{metadata.extensions}".')
    return fact


def _template(
    known: Collection[str], rooms: Collection[str] = (), *, in_header: bool = True, holding: str | None = None
) -> PlainValidator:
    """Compile a template of known variables; as a header's text if it becomes one, and with one that must be in it."""

    def check(value: object) -> Template:
        template = _compile(_shown(value) if in_header else value, known, rooms)
        if holding is not None and holding not in template.variables:
            raise mistake("the signature would not be sent", f"Put {{{holding}}} in it.")
        return template

    return PlainValidator(check)


def _node(value: object) -> Node:
    """Read a member's value: text with variables, a constant, or a table or list of such."""
    return _read_tree(from_toml, value, BODY_VARIABLES)


def _json_node(value: object) -> Node:
    """Read a member's value from JSON text, for what TOML cannot write."""
    return _read_tree(from_json, _text(value), BODY_VARIABLES)


def _test_node(value: object) -> Node:
    """Read the data of a test event, a table or JSON text."""
    return _read_whole(value, TEST_VARIABLES)


def _challenge_node(value: object) -> Node:
    """Read what a challenge is, a table or JSON text."""
    return _read_whole(value, CHALLENGE_VARIABLES)


def _ping_node(value: object) -> Node:
    """Read what a ping is, a table or JSON text."""
    return _read_whole(value, ())


def _read_whole(value: object, known: Collection[str]) -> Node:
    if isinstance(value, str):
        return _read_tree(from_json, value, known)
    if not isinstance(value, dict):
        raise mistake("must be a table, or JSON text", "Write { … } or '{ … }'.")
    return _read_tree(from_toml, value, known)


def _read_tree(read: Callable[[Any, Compile], Node], value: object, known: Collection[str]) -> Node:
    rooms = (*ROOMS, "signature") if known is BODY_VARIABLES else ()
    try:
        return read(value, lambda text: Template.compile(text, known, rooms))
    except (TreeError, TemplateError) as error:
        raise mistake(error.detail, error.remedy) from None


def _grammar(value: object) -> re.Pattern[str]:
    try:
        return re.compile(_text(value), re.ASCII)
    except re.error as error:
        raise mistake(f"is no regular expression: {error}", "Mend it; it must match a whole event type.") from None


def _duration_ms(value: object) -> int:
    try:
        return parse_duration_ms(_text(value))
    except ValueError:
        raise mistake(f"{value!r} is no duration", 'Write a number and a unit, such as "30s".') from None


def _one_of(choices: Collection[str]) -> BeforeValidator:
    def check(value: object) -> str:
        if not isinstance(value, str) or value not in choices:
            raise mistake(f"{value!r} is not supported", f"Use one of: {', '.join(choices)}.")
        return value

    return BeforeValidator(check)


def _schema(value: object) -> Schema:
    if not isinstance(value, Mapping):
        raise mistake("must be a table, or name a file", 'Write "folder/file.json" or "folder/file.json#/$defs/name".')
    try:
        return Schema.compile(json.loads(json.dumps(value)))  # fractions without the spelling that they keep elsewhere
    except SchemaError as error:
        raise mistake(f"is no JSON Schema that can be used: {error.detail}", error.remedy) from None


def _json_bytes(value: object) -> bytes:
    text = _text(value).strip()
    try:
        json.loads(text, parse_constant=_refuse_constant)
    except ValueError as error:
        raise mistake(f"is not JSON: {error}", "Mend it.") from None
    return text.encode()


def _refuse_constant(word: str) -> None:
    raise ValueError(f"{word} is no JSON")


def _lookup(*rooms: str) -> PlainValidator:
    return PlainValidator(partial(_compile_lookup, rooms=rooms))


def _compile_lookup(value: object, rooms: Collection[str]) -> Lookup:
    try:
        return Lookup.compile(_text(value), rooms)
    except TemplateError as error:
        raise mistake(error.detail, error.remedy) from None


def _event_key_or_false(value: object) -> Lookup | Literal[False]:
    if value is False:
        return False
    if not isinstance(value, str):
        raise mistake("must be text or false", 'Write a template such as "{type}:{data.id}", or false for no key.')
    return _compile_lookup(value, ("type", "data"))


HeaderName = Annotated[str, BeforeValidator(_header_name)]
HeaderText = Annotated[str, BeforeValidator(_shown)]
HeaderTemplate = Annotated[Template, _template(HEADER_VARIABLES, ROOMS)]
HeaderPrefix = Annotated[str, BeforeValidator(_header_prefix)]
SpreadFact = Annotated[Fact, PlainValidator(_spread_fact)]
MetadataDefault = Annotated[Template, _template(frozenset(RENDERING_READERS), in_header=False)]
RetryHeaderTemplate = Annotated[Template, _template(RETRY_HEADER_VARIABLES, ROOMS)]
FailureWord = Annotated[str, BeforeValidator(_failure)]
InnerName = Annotated[str, BeforeValidator(_inner_name)]
DurationMs = Annotated[int, BeforeValidator(_duration_ms)]
MemberValue = Annotated[Node, PlainValidator(_node)]
MemberJson = Annotated[Node, PlainValidator(_json_node)]
TestData = Annotated[Node, PlainValidator(_test_node)]
ChallengeData = Annotated[Node, PlainValidator(_challenge_node)]
PingData = Annotated[Node, PlainValidator(_ping_node)]
ContentTemplate = Annotated[Template, _template(CONTENT_VARIABLES, ROOMS, in_header=False)]
EachTemplate = Annotated[Template, _template(EACH_VARIABLES, holding="sig")]
ValueTemplate = Annotated[Template, _template(VALUE_VARIABLES, holding="sigs")]
Grammar = Annotated[re.Pattern[str], PlainValidator(_grammar)]
DataSchema = Annotated[Schema, PlainValidator(_schema)]
JsonText = Annotated[bytes, PlainValidator(_json_bytes)]
EventKey = Annotated[Lookup, _lookup("type", "data")]
EventKeyOrNone = Annotated[Lookup | Literal[False], PlainValidator(_event_key_or_false)]
EventFact = Annotated[Lookup, _lookup("type", "data", "metadata")]
NeededFact = Annotated[Lookup, _lookup("data", "metadata", "memory")]
Algorithm = Annotated[str, _one_of(ALGORITHMS)]
Encoding = Annotated[str, _one_of(ENCODINGS)]
Decoding = Annotated[str, _one_of(DECODERS)]
TimeFormat = Annotated[str, _one_of(TIME_FORMATS)]
