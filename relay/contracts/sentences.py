"""Mistakes of a payload in plain sentences, from what the JSON Schema validator found."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import orjson
from jsonschema_rs import ValidationError

from relay.core.issues import pointer

_SHOWN_CHARACTERS = 64
_OPTIONS_MAX = 20


class Fault(NamedTuple):
    """One mistake in an event's data."""

    pointer: str  # where, inside data
    sentence: str


def faults_of(error: ValidationError, meant: str | None) -> Iterator[Fault]:
    """Yield what one finding of the validator means; the payload's values are never repeated.

    `meant` is what the schema says in words about the place, for where its keywords say little.
    """
    where, kind = pointer(*error.instance_path), error.kind
    facts = kind.as_dict()
    if kind.name == "required":
        yield Fault(where + pointer(facts["property"]), "is missing")
    elif kind.name in ("additionalProperties", "unevaluatedProperties"):
        for name in facts["unexpected"]:
            yield Fault(where + pointer(name[:_SHOWN_CHARACTERS]), "is not known here; leave it out")
    elif meant is not None and kind.name in _TERSE:
        yield Fault(where, f"must be {meant}")
    else:
        say = _SENTENCES.get(kind.name)
        yield Fault(where, say(facts) if say else f"does not fit its schema ({kind.name})")


_FORMATS = {
    "uuid": 'a UUID, such as "88066362-141b-11ee-a6aa-4e8eb07e0621"',
    "uri": "an absolute URL",
    "date-time": 'a time with its zone, such as "2024-10-30T10:00:00Z"',
    "date": 'a date, such as "2024-10-30"',
    "email": "an e-mail address",
}
_TERSE = frozenset({"pattern", "format", "anyOf", "oneOf", "not", "contains", "propertyNames"})
"""Keywords of which a schema's `description` tells people more than the keyword."""

_TYPES = {"object": "an object", "array": "an array", "integer": "an integer", "boolean": "true or false"}
_TYPES |= {"string": "a string", "number": "a number", "null": "null"}


def _type(facts: Mapping[str, Any]) -> str:
    wanted = sorted((_TYPES[name] for name in facts["types"]), key=lambda words: words == "null")
    return f"must be {' or '.join(wanted)}"


def _enum(facts: Mapping[str, Any]) -> str:
    options = facts["options"]
    if len(options) > _OPTIONS_MAX:
        return f"must be one of {len(options)} values: see the event type's schema"
    return f"must be {' or '.join(_json(option) for option in options)}"


def _constant(facts: Mapping[str, Any]) -> str:
    return f"must be {_json(facts['expected_value'])}"


def _format(facts: Mapping[str, Any]) -> str:
    return f"must be {_FORMATS.get(facts['format'], 'of the format ' + facts['format'])}"


def _min_length(facts: Mapping[str, Any]) -> str:
    return "must not be empty" if facts["limit"] == 1 else f"must have at least {facts['limit']} characters"


def _limit(words: str) -> Callable[[Mapping[str, Any]], str]:
    return lambda facts: words.format(facts["limit"])


def _words(words: str) -> Callable[[Mapping[str, Any]], str]:
    return lambda _facts: words


_SENTENCES: Mapping[str, Callable[[Mapping[str, Any]], str]] = {
    "type": _type,
    "enum": _enum,
    "const": _constant,
    "format": _format,
    "pattern": lambda facts: f"must match the pattern {facts['pattern']}",
    "minLength": _min_length,
    "maxLength": _limit("must have at most {} characters"),
    "minimum": _limit("must be at least {}"),
    "maximum": _limit("must be at most {}"),
    "exclusiveMinimum": _limit("must be more than {}"),
    "exclusiveMaximum": _limit("must be less than {}"),
    "minItems": _limit("must have at least {} items"),
    "maxItems": _limit("must have at most {} items"),
    "minProperties": _limit("must have at least {} members"),
    "maxProperties": _limit("must have at most {} members"),
    "multipleOf": lambda facts: f"must be a multiple of {facts['multiple_of']}",
    "uniqueItems": _words("must not hold the same item twice"),
    "contains": _words("lacks an item that must be there"),
    "propertyNames": _words("has a member whose name is not allowed"),
    "anyOf": _words("has none of the forms that are allowed here"),
    "oneOf": _words("must have exactly one of the forms that are allowed here"),
    "not": _words("has a form that is not allowed here"),
    "falseSchema": _words("is not allowed here"),
}


def _json(value: Any) -> str:
    return orjson.dumps(value).decode()
