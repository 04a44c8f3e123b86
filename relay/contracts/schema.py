"""JSON Schema for the data of events, and its errors in plain words that repeat no value of a payload.

Compiled once, patterns in linear time, no references to elsewhere. The compiler takes some megabytes, so it is imported
by the first schema: contracts without one do not need it.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import islice
from typing import TYPE_CHECKING, Any

import orjson

from relay.contracts.payload import Payload
from relay.core.errors import RelayError
from relay.core.issues import Issue, pointer

if TYPE_CHECKING:
    from jsonschema_rs import Draft202012Validator, ValidationError

_DRAFT = "https://json-schema.org/draft/2020-12/schema"
_SCHEMAS = frozenset(
    {"additionalProperties", "unevaluatedProperties", "unevaluatedItems", "propertyNames", "items", "contains"}
    | {"not", "if", "then", "else"}
)
_LISTS = frozenset({"allOf", "anyOf", "oneOf", "prefixItems"})
_NAMED = frozenset({"properties", "patternProperties", "dependentSchemas", "$defs"})
_PLAIN = frozenset(
    {"type", "enum", "const", "format", "pattern", "required", "dependentRequired", "$ref"}
    | {"minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf", "minLength", "maxLength"}
    | {"minItems", "maxItems", "uniqueItems", "minContains", "maxContains", "minProperties", "maxProperties"}
    | {"title", "description", "$comment", "examples"}
)


def odd_keywords(schema: Any, above: str = "") -> Iterator[str]:
    """Yield the place of every keyword that is unknown or refers to somewhere else."""
    if not isinstance(schema, Mapping):
        return
    for keyword, value in schema.items():
        place = f"{above}/{keyword}"
        if _is_odd(keyword, value, above):
            yield place
        elif keyword in _SCHEMAS:
            yield from odd_keywords(value, place)
        elif keyword in _LISTS and isinstance(value, list):
            for index, inner in enumerate(value):
                yield from odd_keywords(inner, f"{place}/{index}")
        elif keyword in _NAMED and isinstance(value, Mapping):
            for name, inner in value.items():
                yield from odd_keywords(inner, f"{place}/{name}")


def _is_odd(keyword: str, value: Any, above: str) -> bool:
    if keyword == "$schema":
        return value != _DRAFT or above != ""
    if keyword == "$ref":
        return value != "#" and not str(value).startswith("#/")
    return keyword not in _SCHEMAS | _LISTS | _NAMED | _PLAIN


ISSUES_MAX = 50
"""Mistakes that are looked for in one payload."""

VALUES_MAX = 1_000
"""Values of a wrong payload that mistakes are looked for in. The validator finds all before it shows the first: 20 µs each."""

_PATTERN_BYTES = 1 << 20
_SHOWN_CHARACTERS = 64
_OPTIONS_MAX = 20


class SchemaError(RelayError):
    """The schema cannot be used."""


class Schema:
    """What the data of one event type must be. Immutable."""

    def __init__(self, document: Mapping[str, Any], validator: "Draft202012Validator") -> None:
        self.document = document
        self._validator = validator

    @classmethod
    def compile(cls, document: Mapping[str, Any]) -> "Schema":
        """Compile a schema of draft 2020-12; SchemaError for what would not be enforced or could not be understood."""
        import jsonschema_rs

        odd = ", ".join(odd_keywords(document))
        if odd:
            remedy = "Remove or correct them: keywords are those of draft 2020-12, references begin with `#/`."
            raise SchemaError(f"these keywords would do nothing here: {odd}", remedy=remedy)
        try:
            validator = jsonschema_rs.Draft202012Validator(
                dict(document),
                offline=True,
                validate_formats=True,
                ignore_unknown_formats=False,
                pattern_options=jsonschema_rs.RegexOptions(size_limit=_PATTERN_BYTES),
            )
        except (jsonschema_rs.ValidationError, jsonschema_rs.ReferencingError) as error:
            where = pointer(*getattr(error, "instance_path", ()))
            message = f"at {where}: {error.message}" if where else error.message
            raise SchemaError(message, remedy=_remedy(error.message)) from None
        return cls(document, validator)

    def may_hold(self, steps: Sequence[str]) -> bool:
        """Whether data that this schema takes could have text, a number or a boolean at the end of member names."""
        return _may_hold(self.document, self.document, steps, frozenset(), _TEXTS)

    def may_have(self, steps: Sequence[str]) -> bool:
        """Whether data that this schema takes could have anything at the end of member names."""
        return _may_hold(self.document, self.document, steps, frozenset(), _ANYTHING)

    def issues(self, data: Payload, *, allow_extra: bool) -> list[Issue]:
        """Return what is wrong with `data`, each with its JSON pointer; with `allow_extra` unknown members are not."""
        instance = data.value
        if self._validator.is_valid(instance):
            return []
        return list(dict.fromkeys(islice(self._issues(instance, allow_extra), ISSUES_MAX)))

    def _issues(self, instance: Any, allow_extra: bool) -> Iterator[Issue]:
        for error in self._errors(instance, allow_extra):
            if not (allow_extra and error.kind.name in ("additionalProperties", "unevaluatedProperties")):
                yield from issues_of(error, self._description(error.schema_path[:-1]))

    def _errors(self, instance: Any, allow_extra: bool) -> "Iterator[ValidationError]":
        """Yield what is wrong with the beginning of an instance; if that is nothing, the first mistake after it.

        A member that is too many in the beginning is too many in the whole, and whether one is missing from the whole is
        looked up, so that the whole, all of which the validator would write into its finding, need not be looked through.
        """
        beginning = _Beginning(VALUES_MAX)
        cut = beginning.of(instance, ())
        found = [
            error
            for error in self._validator.iter_errors(cut)
            if not beginning.is_about_a_cut(error.instance_path) or _holds_of(error, instance, allow_extra)
        ]
        yield from found
        if not found:
            import jsonschema_rs

            try:
                self._validator.validate(instance)
            except jsonschema_rs.ValidationError as error:
                yield error

    def _description(self, path: Sequence[str | int]) -> str | None:
        found: Any = self.document
        for step in path:
            found = found[step]
        return found.get("description") if isinstance(found, Mapping) else None


class _Beginning:
    """Copies as much of a value as a budget allows, level by level of what was read first, and remembers what it cut."""

    def __init__(self, values: int) -> None:
        self.cuts: set[tuple[str | int, ...]] = set()
        self._left = values

    def of(self, value: Any, place: tuple[str | int, ...]) -> Any:
        """Return the beginning of a value that stands at `place`; O(budget)."""
        self._left -= 1
        if isinstance(value, list):
            return [self.of(inner, (*place, index)) for index, inner in enumerate(self._some(value, place))]
        if isinstance(value, dict):
            return {name: self.of(value[name], (*place, name)) for name in self._some(value, place)}
        return value

    def is_about_a_cut(self, place: Sequence[str | int]) -> bool:
        """Whether something at or below `place` was cut, so that what is said about it may not be true."""
        return any(cut[: len(place)] == tuple(place) for cut in self.cuts)

    def _some(self, container: Any, place: tuple[str | int, ...]) -> Iterator[Any]:
        for entry in container:
            if self._left <= 0:
                self.cuts.add(place)
                return
            yield entry


def _holds_of(error: "ValidationError", instance: Any, allow_extra: bool) -> bool:
    """Whether what is wrong with the beginning of a value is wrong with all of it."""
    if error.kind.name == "required":
        for step in error.instance_path:
            instance = instance[step]
        return error.kind.as_dict()["property"] not in instance
    return error.kind.name == "additionalProperties" and not allow_extra


_COMBINING = frozenset({"allOf", "anyOf", "oneOf", "not", "if", "dependentSchemas", "patternProperties"})


_TEXTS = frozenset({"string", "number", "integer", "boolean"})
_ANYTHING = _TEXTS | {"object", "array", "null"}


def _may_hold(root: Any, schema: Any, steps: Sequence[str], seen: frozenset[str], wanted: frozenset[str]) -> bool:
    """Answer no only where it is sure: what schemas say together is not worked out."""
    if not isinstance(schema, Mapping):
        return bool(schema)
    place = schema.get("$ref")
    if isinstance(place, str) and place not in seen:
        return _may_hold(root, _referred(root, place), steps, seen | {place}, wanted)
    if place is not None or not _COMBINING.isdisjoint(schema):
        return True
    kinds = schema.get("type", next(iter(wanted)) if not steps else "object")
    kinds = {kinds} if isinstance(kinds, str) else set(kinds)
    if not steps:
        return not kinds.isdisjoint(wanted)
    if "array" in kinds and steps[0].isdecimal():
        return "prefixItems" in schema or _may_hold(root, schema.get("items", True), steps[1:], frozenset(), wanted)
    if "object" not in kinds:
        return False
    members = schema.get("properties", {})
    if steps[0] in members:
        return _may_hold(root, members[steps[0]], steps[1:], frozenset(), wanted)
    others = schema.get("additionalProperties", schema.get("unevaluatedProperties", True))
    return _may_hold(root, others, steps[1:], frozenset(), wanted)


def _referred(root: Any, place: str) -> Any:
    found = root
    for step in place.removeprefix("#").split("/")[1:]:
        found = found[step.replace("~1", "/").replace("~0", "~")]
    return found


_LOCAL = "Refer to this schema's own `#/$defs/…` only: nothing is ever fetched."


def _remedy(message: str) -> str:
    if '"regex"' in message:
        return "Patterns are matched in linear time, so there is no look-around and no back-reference."
    return _LOCAL if "etriev" in message or "Pointer" in message else "Mend it."


def issues_of(error: "ValidationError", meant: str | None) -> Iterator[Issue]:
    """Yield what one finding of the validator means; the payload's values are never repeated.

    `meant` is what the schema says in words about the place, for where its keywords say little.
    """
    where, kind = pointer(*error.instance_path), error.kind
    facts = kind.as_dict()
    if kind.name == "required":
        yield Issue(where + pointer(facts["property"]), "is missing")
    elif kind.name in ("additionalProperties", "unevaluatedProperties"):
        for name in facts["unexpected"]:
            yield Issue(where + pointer(name[:_SHOWN_CHARACTERS]), "is not known here; leave it out")
    elif meant is not None and kind.name in _TERSE:
        yield Issue(where, f"must be {meant}")
    else:
        say = _MESSAGES.get(kind.name)
        yield Issue(where, say(facts) if say else f"does not fit its schema ({kind.name})")


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


def _plain(words: str) -> Callable[[Mapping[str, Any]], str]:
    return lambda _facts: words


_MESSAGES: Mapping[str, Callable[[Mapping[str, Any]], str]] = {
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
    "uniqueItems": _plain("must not hold the same item twice"),
    "contains": _plain("lacks an item that must be there"),
    "propertyNames": _plain("has a member whose name is not allowed"),
    "anyOf": _plain("has none of the forms that are allowed here"),
    "oneOf": _plain("must have exactly one of the forms that are allowed here"),
    "not": _plain("has a form that is not allowed here"),
    "falseSchema": _plain("is not allowed here"),
}


def _json(value: Any) -> str:
    return orjson.dumps(value).decode()
