"""What a call says of itself, as data beside its handler: what it takes and what it answers. `openapi` writes it out."""

from collections.abc import Awaitable, Callable, Mapping
from enum import StrEnum
from typing import Any, NamedTuple, TypeVar

from pydantic import BaseModel

from relay.api.query import LIMIT, LIMIT_MAX, MOMENT
from relay.core.model import DeadReason, DeliveryState

Json = dict[str, Any]
Schema = Json

H = TypeVar("H", bound=Callable[..., Awaitable[object]])


class Definition(NamedTuple):
    """A body that a model reads: the model's own fields, and members that stand beside them."""

    model: type[BaseModel]
    beside: Mapping[str, Schema] = {}
    is_patch: bool = False  # nothing is required, and null takes a field back to its default


class Call(NamedTuple):
    """What one call takes, and every answer but those that any call may give."""

    answers: Mapping[int, Schema | str | None]  # by status: a schema of JSON, the media type of text, None for no body
    query: Mapping[str, Schema] = {}
    body: Schema | Definition | None = None
    refuses: Mapping[int, tuple[str, ...]] = {}  # problems of its own, by status
    keyed: bool = False  # takes the header Idempotency-Key
    also_takes: Mapping[str, Schema] = {}  # bodies of other media types
    is_edit: bool = False  # takes the header If-Match

    @property
    def is_body_needed(self) -> bool:
        """Whether an empty body is a mistake."""
        if isinstance(self.body, Definition):
            return not self.body.is_patch and any(one.is_required() for one in self.body.model.model_fields.values())
        return bool(self.body and (self.body.get("required") or self.body.get("type") != "object"))


def call(
    answers: Mapping[int, Schema | str | None],
    *,
    query: Mapping[str, Schema] | None = None,
    body: Schema | Definition | None = None,
    refuses: Mapping[int, tuple[str, ...]] | None = None,
    keyed: bool = False,
    also_takes: Mapping[str, Schema] | None = None,
    is_edit: bool = False,
) -> Callable[[H], H]:
    """Note what a handler answers, and what it takes."""
    described = Call(answers, query or {}, body, refuses or {}, keyed, also_takes or {}, is_edit)

    def note(handler: H) -> H:
        vars(handler)["call"] = described
        return handler

    return note


def call_of(handler: object) -> Call:
    """Return what a handler says of itself; AttributeError for one that says nothing."""
    described: Call = vars(getattr(handler, "__func__", handler))["call"]
    return described


# -- the kinds of values -------------------------------------------------------------------------------------------------

ANY: Schema = {}
TEXT: Schema = {"type": "string"}
FILLED: Schema = {"type": "string", "minLength": 1}
FLAG: Schema = {"type": "boolean"}
WHOLE: Schema = {"type": "integer"}
COUNT: Schema = {"type": "integer", "minimum": 0}
NUMBER: Schema = {"type": "number"}
TIME: Schema = {"type": "string", "format": "date-time"}
OBJECT: Schema = {"type": "object"}


def maybe(schema: Schema) -> Schema:
    """A value that may be null."""
    return {"anyOf": [schema, {"type": "null"}]}


def several(schema: Schema) -> Schema:
    """A list."""
    return {"type": "array", "items": schema}


def named(schema: Schema) -> Schema:
    """An object whose members have names that nobody knows before."""
    return {"type": "object", "additionalProperties": schema}


def word(words: type[StrEnum]) -> Schema:
    """One of a few words."""
    return {"type": "string", "enum": [one.value for one in words]}


def members(required: Mapping[str, Schema], optional: Mapping[str, Schema] | None = None) -> Schema:
    """An object: members that are always there, and others."""
    return {"type": "object", "required": list(required), "properties": {**required, **(optional or {})}}


def shape(name: str, required: Mapping[str, Schema], optional: Mapping[str, Schema] | None = None) -> Schema:
    """An object with a name of its own in the document."""
    return {"title": name, **members(required, optional)}


def only(required: Mapping[str, Schema], optional: Mapping[str, Schema] | None = None) -> Schema:
    """A body: what it must have, what it may have, and nothing else."""
    return members(required, optional) | {"additionalProperties": False}


def page(entry: Schema) -> Schema:
    """One page of a list."""
    return members({"data": several(entry), "next": maybe(TEXT)})


NOTHING = only({})
"""The body of a call that has no fields: empty, or an empty object."""

PAGED: Mapping[str, Schema] = {
    "limit": {"type": "integer", "minimum": 1, "maximum": LIMIT_MAX, "default": LIMIT},
    "cursor": FILLED | {"description": "`next` of the page before."},
}
LOST_CURSOR: Mapping[int, tuple[str, ...]] = {409: ("invalid_cursor",)}
"""What a list refuses whose cursor may name what is gone."""

BY_APPLICATION: Mapping[str, Schema] = {"application": FILLED | {"description": "The id of an application."}}
BY_ENDPOINT: Mapping[str, Schema] = {"endpoint": FILLED | {"description": "The id of an endpoint."}}
MOMENT_OR_AGE: Schema = FILLED | {"description": f"It {MOMENT}."}
BY_TIME: Mapping[str, Schema] = {"since": MOMENT_OR_AGE, "until": MOMENT_OR_AGE}
BY_TYPE: Mapping[str, Schema] = {"type": FILLED | {"description": "An event type, exactly."}}
BY_CONTENT: Mapping[str, Schema] = {
    "ordering_key": FILLED,
    "idempotency_key": FILLED,
    "data": FILLED | {"description": "A searchable place in the data and its value, such as `render.id=17`."},
}
BY_STATE: Mapping[str, Schema] = {"state": word(DeliveryState)}
BY_REASON: Mapping[str, Schema] = {"reason": word(DeadReason)}
