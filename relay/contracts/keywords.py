"""The keywords of JSON Schema 2020-12 that do something here. A misspelt one would silently let everything through."""

from collections.abc import Iterator, Mapping
from typing import Any

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
