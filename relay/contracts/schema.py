"""JSON Schema for the data of events: compiled once, patterns in linear time, no references to elsewhere."""

from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from typing import Any

from jsonschema_rs import Draft202012Validator, ReferencingError, RegexOptions, ValidationError

from relay.contracts.payload import Payload
from relay.contracts.sentences import Fault, faults_of

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


def odd_keywords(schema: Any, pointer: str = "") -> Iterator[str]:
    """Yield the place of every keyword that is unknown or refers to somewhere else."""
    if not isinstance(schema, Mapping):
        return
    for keyword, value in schema.items():
        place = f"{pointer}/{keyword}"
        if _is_odd(keyword, value, pointer):
            yield place
        elif keyword in _SCHEMAS:
            yield from odd_keywords(value, place)
        elif keyword in _LISTS and isinstance(value, list):
            for index, inner in enumerate(value):
                yield from odd_keywords(inner, f"{place}/{index}")
        elif keyword in _NAMED and isinstance(value, Mapping):
            for name, inner in value.items():
                yield from odd_keywords(inner, f"{place}/{name}")


def _is_odd(keyword: str, value: Any, pointer: str) -> bool:
    if keyword == "$schema":
        return value != _DRAFT or pointer != ""
    if keyword == "$ref":
        return value != "#" and not str(value).startswith("#/")
    return keyword not in _SCHEMAS | _LISTS | _NAMED | _PLAIN


FAULTS_MAX = 50
"""Mistakes that one event is told about."""

_PATTERN_BYTES = 1 << 20


class SchemaError(ValueError):
    """The schema cannot be used; `remedy` says how to mend it."""

    def __init__(self, pointer: str, message: str, remedy: str) -> None:
        super().__init__(f"at {pointer}: {message}" if pointer else message)
        self.remedy = remedy


class Schema:
    """What the data of one event type must be. Immutable."""

    def __init__(self, document: Mapping[str, Any], validator: Draft202012Validator) -> None:
        self.document = document
        self._validator = validator

    @classmethod
    def compile(cls, document: Mapping[str, Any]) -> "Schema":
        """Compile a schema of draft 2020-12; SchemaError for what would not be enforced or could not be understood."""
        odd = ", ".join(odd_keywords(document))
        if odd:
            remedy = "Remove or correct them: keywords are those of draft 2020-12, references begin with `#/`."
            raise SchemaError("", f"these keywords would do nothing here: {odd}", remedy)
        try:
            validator = Draft202012Validator(
                dict(document),
                offline=True,
                validate_formats=True,
                ignore_unknown_formats=False,
                pattern_options=RegexOptions(size_limit=_PATTERN_BYTES),
            )
        except (ValidationError, ReferencingError) as error:
            where = _pointer(getattr(error, "instance_path", ()))
            raise SchemaError(where, error.message, _remedy(error.message)) from None
        return cls(document, validator)

    def faults(self, data: Payload, *, allow_extra: bool) -> list[Fault]:
        """Return what is wrong with `data`, each with its JSON pointer; with `allow_extra` unknown members are not."""
        instance = data.value
        if self._validator.is_valid(instance):
            return []
        return list(dict.fromkeys(islice(self._faults(instance, allow_extra), FAULTS_MAX)))

    def _faults(self, instance: Any, allow_extra: bool) -> Iterator[Fault]:
        for error in self._validator.iter_errors(instance):
            if not (allow_extra and error.kind.name in ("additionalProperties", "unevaluatedProperties")):
                yield from faults_of(error, self._description(error.schema_path[:-1]))

    def _description(self, path: Sequence[str | int]) -> str | None:
        found: Any = self.document
        for step in path:
            found = found[step]
        return found.get("description") if isinstance(found, Mapping) else None


_LOCAL = "Refer to this schema's own `#/$defs/…` only: nothing is ever fetched."


def _remedy(message: str) -> str:
    if '"regex"' in message:
        return "Patterns are matched in linear time, so there is no look-around and no back-reference."
    return _LOCAL if "etriev" in message or "Pointer" in message else "Mend it."


def _pointer(path: Sequence[str | int]) -> str:
    return "".join(f"/{step}" for step in path)
