"""What people write about things, read as JSON by a pydantic model: every mistake with a JSON pointer."""

from collections.abc import Iterable, Mapping
from typing import Any, Generic, TypeVar

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from relay.config.secrets import Wrong
from relay.core.issues import Issue, pointer

M = TypeVar("M", bound=BaseModel)


class Form(Generic[M]):
    """Reads one kind of thing."""

    def __init__(self, model: type[M], noun: str) -> None:
        self._model = model
        self._names = [field.alias or name for name, field in model.model_fields.items()]
        self._unknown = f"is not a field of {noun}; it has {', '.join(self._names)}"

    def read(self, written: Mapping[str, Any]) -> tuple[M | None, list[Issue]]:
        """Return what was written, or None with everything that is wrong with its form."""
        try:
            found = self._model.model_validate(written, by_alias=True, by_name=False, context="written by a person")
        except ValidationError as error:
            return None, [self._mistake(one) for one in error.errors(include_url=False, include_input=False)]
        return found, []

    def touched(self, patch: Mapping[str, Any], mistakes: Iterable[Issue]) -> list[Issue]:
        """Return the mistakes that a merge patch answers for: in its members, and members that there are not."""
        merged_away = [name for name, value in patch.items() if value is None and name not in self._names]
        unknown = [Issue(pointer(name), self._unknown) for name in merged_away]
        return unknown + [mistake for mistake in mistakes if _member(mistake.path) in patch]

    def _mistake(self, found: ErrorDetails) -> Issue:
        where = pointer(*found["loc"])
        wrong = found.get("ctx", {}).get("error")
        if isinstance(wrong, Wrong):
            return Issue(where, f"{wrong.message}. {wrong.remedy}".strip())
        if found["type"] == "extra_forbidden":
            return Issue(where, self._unknown)
        if found["type"] == "missing":
            return Issue(where, "is missing")
        if found["type"] == "string_type":
            return Issue(where, "must be text")
        return Issue(where, found["msg"].removeprefix("Value error, "))


def merged(target: Mapping[str, Any], patch: Mapping[str, Any]) -> dict[str, Any]:
    """Merge `patch` into `target` as RFC 7396 says."""
    result = dict(target)
    for name, value in patch.items():
        if value is None:
            result.pop(name, None)
        elif isinstance(value, Mapping):
            inner = result.get(name)
            result[name] = merged(inner if isinstance(inner, Mapping) else {}, value)
        else:
            result[name] = value
    return result


def _member(where: str) -> str:
    return where[1:].partition("/")[0].replace("~1", "/").replace("~0", "~")
