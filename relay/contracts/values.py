"""How single values are written in a contract file: each kind with its check, its meaning and its remedy."""

import json
import re
from collections.abc import Collection, Mapping
from functools import partial
from typing import Annotated, Literal

from pydantic import BeforeValidator, PlainValidator
from pydantic_core import PydanticCustomError

from relay.contracts.fields import (
    BODY_VARIABLES,
    CONTENT_VARIABLES,
    EACH_VARIABLES,
    ENCODINGS,
    HEADER_VARIABLES,
    JSON_VALUES,
    TEST_VARIABLES,
    TIME_FORMATS,
    VALUE_VARIABLES,
)
from relay.contracts.keys import ALGORITHMS, DECODERS
from relay.contracts.schema import Schema, SchemaError
from relay.contracts.template import Lookup, Part, Template, TemplateError
from relay.core.grammars import FORBIDDEN, HEADER_NAME, HEADER_VALUE, NAME_MAX
from relay.core.units import parse_duration_ms

_OURS = FORBIDDEN | {"proxy-connection", "proxy-authorization"}


def mistake(message: str, remedy: str) -> PydanticCustomError:
    """Make an error that carries its own remedy to the report."""
    return PydanticCustomError("contract", "{message}", {"message": message, "remedy": remedy})


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise mistake("must be text", "Write it in quotes.")
    return value


def _compile(value: object, known: Collection[str]) -> Template:
    try:
        return Template.compile(_text(value), known)
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


def _template(known: Collection[str], *, in_header: bool = True, holding: str | None = None) -> PlainValidator:
    """Compile a template of known variables; as a header's text if it becomes one, and with one that must be in it."""

    def check(value: object) -> Template:
        template = _compile(_shown(value) if in_header else value, known)
        if holding is not None and holding not in template.variables:
            raise mistake("the signature would not be sent", f"Put {{{holding}}} in it.")
        return template

    return PlainValidator(check)


def _json_value(value: object) -> Template:
    """Compile a member's value to JSON: text in quotes, `{data}` and unix times bare, numbers and booleans as such."""
    if isinstance(value, bool | int):
        return Template((json.dumps(value).encode(),))
    template = _compile(_constant(value), BODY_VARIABLES)
    if len(template.parts) == 1 and template.parts[0] in JSON_VALUES:
        return template
    if "data" in template.variables:
        raise mistake("{data} is a JSON value and cannot stand inside text", 'Give it a member of its own: "{data}".')
    return _json_text(template)


def _test_value(value: object) -> Template:
    """Compile a member of a test event's data."""
    if isinstance(value, bool | int):
        return Template((json.dumps(value).encode(),))
    return _json_text(_compile(_constant(value), TEST_VARIABLES))


_KINDS = "must be text, a whole number, true or false"


def _constant(value: object) -> object:
    if isinstance(value, float):
        raise mistake(
            _KINDS, "A fraction has several spellings: let it come with the data, or write it in quotes as text."
        )
    if isinstance(value, list | dict):
        raise mistake(_KINDS, "Let lists and objects come with the data.")
    return value


def _json_text(template: Template) -> Template:
    return Template.of([b'"', *map(_quoted, template.parts), b'"'])


def _quoted(part: Part) -> Part:
    return json.dumps(part.decode(), ensure_ascii=False)[1:-1].encode() if isinstance(part, bytes) else part


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
        return Schema.compile(value)
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
HeaderTemplate = Annotated[Template, _template(HEADER_VARIABLES)]
DurationMs = Annotated[int, BeforeValidator(_duration_ms)]
MemberValue = Annotated[Template, PlainValidator(_json_value)]
TestValue = Annotated[Template, PlainValidator(_test_value)]
ContentTemplate = Annotated[Template, _template(CONTENT_VARIABLES, in_header=False)]
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
