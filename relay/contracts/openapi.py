"""A contract's catalogue as an OpenAPI 3.1 document, whose `webhooks` say what receivers get: code can be made of it."""

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, assert_never

import orjson

from relay.contracts.as_xml import is_attribute
from relay.contracts.body import Member
from relay.contracts.contract import Contract
from relay.contracts.document import EventType, Signature
from relay.contracts.envelope import ROOT
from relay.contracts.facts import DATA, Fact, Unrenderable
from relay.contracts.fields import COUNTED, Rendering, stem
from relay.contracts.frozen import body_of
from relay.contracts.payload import Payload
from relay.contracts.template import Template, shape
from relay.contracts.tree import Constant, Items, Members, Node, Text

Json = dict[str, Any]

_DIALECT = "https://json-schema.org/draft/2020-12/schema"
_COMPONENTS = "#/components/schemas/"
_DEFINITION = "#/$defs/"
_TIMES = ("timestamp", "occurred_at", "created_at", "sent_at")
_UNFIT = re.compile(r"[^A-Za-z0-9._-]")
_EXAMPLE_ID = "evt_01KDVXZ1R0EXAMPLE0EXAMPLE0"
_EXAMPLE_MS = 1_767_225_600_000  # 2026-01-01

_RESPONSES: Json = {
    "2XX": {"description": "Taken; nothing of this event comes again but a repeat that was under way."},
    "410": {"description": "Disable the endpoint: nothing more comes."},
    "429": {"description": "Later: nothing comes before `Retry-After`, an hour at most."},
    "default": {"description": "Not taken: tried again on the schedule of the contract."},
}


def openapi(contract: Contract) -> Json:
    """Write the document, to be dumped by orjson. O(size of the catalogue)"""
    components: Json = {}
    webhooks = {name: _webhook(contract, name, listed, components) for name, listed in contract.types.items()}
    return {
        "openapi": "3.1.0",
        "info": {"title": f"{contract.description}: webhooks", "version": "1", "description": _introduction(contract)},
        "jsonSchemaDialect": _DIALECT,
        "webhooks": {name: {"post": operation} for name, operation in webhooks.items()},
        "components": {"schemas": components, "securitySchemes": dict(_schemes(contract))},
    }


def _introduction(contract: Contract) -> str:
    others = " Other types are sent as well." if contract.catalogue_open else ""
    return f"What an endpoint under the contract `{contract.name}` receives, by event type.{others}"


# -- one event type ----------------------------------------------------------------------------------------------------


def _webhook(contract: Contract, name: str, listed: EventType, components: Json) -> Json:
    title = _component(name)
    components[title] = _body_schema(contract, name, listed, components)
    schemes: list[Json] = [{scheme: []} for scheme, _ in _schemes(contract)]
    return {
        "operationId": title,
        "summary": listed.description,
        "deprecated": listed.deprecated,
        "parameters": list(_parameters(contract)),
        "requestBody": {
            "required": True,
            "content": {
                contract.content_type: {
                    "schema": {"$ref": _COMPONENTS + title},
                    "example": _example(contract, name),
                }
            },
        },
        "responses": _RESPONSES,
        **({"security": schemes} if schemes else {}),
        **({"description": description} if (description := _remarks(listed)) else {}),
    }


def _remarks(listed: EventType) -> str:
    said = [
        f"Replaced by `{listed.replaced_by}`." if listed.replaced_by else "",
        "Sent by a test only." if listed.test_only else "",
        "The links in it expire." if listed.links else "",
        f"Sent where the feature `{listed.feature}` is on." if listed.feature else "",
    ]
    return " ".join(filter(None, said))


def _example(contract: Contract, name: str) -> orjson.Fragment | str | None:
    """Write an example of the body; text where that is no JSON, nothing where it needs metadata."""
    _, data = contract.test_event(name, {"endpoint_id": "ep_1", "application_id": "app_1"})
    try:
        frozen = contract.render(Rendering(_EXAMPLE_ID, name, _EXAMPLE_MS, _EXAMPLE_MS, Payload(data)))
    except Unrenderable:
        return None
    body = body_of(frozen)
    try:
        json.loads(body)
    except ValueError:
        return body.decode()
    return orjson.Fragment(body)


def _component(name: str, inner: str = "") -> str:
    """Return the name of a schema among the components: letters, digits, `.`, `_` and `-` alone."""
    return _UNFIT.sub("_", f"{name}__{inner}" if inner else name)


# -- bodies ------------------------------------------------------------------------------------------------------------


def _body_schema(contract: Contract, name: str, listed: EventType, components: Json) -> Json:
    data, body = _data_schema(contract, name, listed, components), contract.document.body
    spread = next((member for member in body.members if member.is_spread), None)
    if spread is not None and spread.spread_fact == DATA and body.kind != "array":
        return _spread_schema(name, data, body.members)
    components[_component(name, "data")] = data
    if body.kind == "data":
        return _reference_to_data(name)
    if body.kind == "array":
        return {"type": "array"} if spread else {"type": "array", **_items(name, [one.node for one in body.members])}
    named = _properties(name, body.members)
    required = [member.name for member in body.members if not member.optional and not member.is_spread]
    schema: Json = {"type": "object", "required": required, "properties": named}
    return schema if body.kind != "xml" else schema | {"xml": {"name": body.root or ROOT}}


def _spread_schema(name: str, data: Json, members: tuple[Member, ...]) -> Json:
    """Put the contract's members among those of the data, as the body has them."""
    properties: Json = {}
    for member in members:
        properties |= data.get("properties", {}) if member.is_spread else _properties(name, [member])
    own = [member.name for member in members if not member.is_spread and not member.optional]
    return {"type": "object", **data, "required": [*own, *data.get("required", [])], "properties": properties}


def _properties(name: str, members: Iterable[Member]) -> Json:
    """Describe the contract's own members; in XML a member `@id` is the attribute `id`."""
    shown = (member for member in members if not member.is_spread)
    return {
        member.name: _node_schema(name, member.node)
        | ({"xml": {"attribute": True}} if is_attribute(member.name) else {})
        for member in shown
    }


def _node_schema(name: str, node: Node) -> Json:
    match node:
        case Constant(spelled):
            return {"const": json.loads(spelled)}
        case Members(of):
            properties = {inner: _node_schema(name, value) for inner, value in of}
            return {"type": "object", "required": list(properties), "properties": properties}
        case Items(of):
            return {"type": "array", **_items(name, of)}
        case Text():
            return _text_schema(name, node)
    assert_never(node)


def _items(name: str, nodes: Sequence[Node]) -> Json:
    if not nodes:
        return {"maxItems": 0}
    return {"prefixItems": [_node_schema(name, node) for node in nodes], "minItems": len(nodes)}


def _text_schema(name: str, text: Text) -> Json:
    parts = text.template.parts
    variable = text.variable
    if variable is None:
        constant = b"".join(part for part in parts if isinstance(part, bytes)).decode()
        return {"type": "string"} if text.template.variables else {"const": constant}
    if Fact.of(variable) is not None:
        return _reference_to_data(name) if variable == "data" else {}
    if variable in COUNTED:
        return {"type": "integer"}
    if variable in ("type", "event"):
        return {"const": name}
    if variable == "id:uuid":
        return {"type": "string", "format": "uuid"}
    if stem(variable) in _TIMES and not variable.endswith(("naive_us", "http")):
        return {"type": "string", "format": "date-time"}
    return {"type": "string"}


def _reference_to_data(name: str) -> Json:
    return {"$ref": _COMPONENTS + _component(name, "data")}


# -- the schemas of data -----------------------------------------------------------------------------------------------


def _data_schema(contract: Contract, name: str, listed: EventType, components: Json) -> Json:
    """Return the schema of a type's data; its definitions become components beside it."""
    if listed.data_schema is None:
        return {}
    open_ended = contract.document.types.extra_members == "allow"
    whole: Json = _moved(dict(listed.data_schema.document), name, open_ended=open_ended)
    for definition, schema in whole.pop("$defs", {}).items():
        components[_component(name, definition)] = schema
    whole.pop("$schema", None)
    return whole


def _moved(schema: Any, name: str, *, open_ended: bool) -> Any:
    """Copy a schema whose references lead to the components; `open_ended` leaves out what refuses unknown members."""
    if isinstance(schema, list):
        return [_moved(item, name, open_ended=open_ended) for item in schema]
    if not isinstance(schema, Mapping):
        return schema
    moved = {}
    for keyword, inner in schema.items():
        if keyword == "$ref" and isinstance(inner, str):
            moved[keyword] = _reference(inner, name)
        elif not (open_ended and keyword in ("additionalProperties", "unevaluatedProperties") and inner is False):
            moved[keyword] = _moved(inner, name, open_ended=open_ended)
    return moved


def _reference(place: str, name: str) -> str:
    if place.startswith(_DEFINITION):
        definition, slash, rest = place.removeprefix(_DEFINITION).partition("/")
        return _COMPONENTS + _component(name, definition) + slash + rest
    return _COMPONENTS + _component(name, "data") + place.removeprefix("#")


# -- headers -----------------------------------------------------------------------------------------------------------


def _parameters(contract: Contract) -> Iterator[Json]:
    for header, template in contract.document.headers.items():
        if "secret" not in template.variables:
            in_any_case = all(map(contract.document.is_always_there, template.variables))
            yield _header(header, _meaning(contract, template), required=in_any_case)
    for header in contract.document.retry_headers:
        yield _header(header, "Sent with attempts after the first.", required=False)
    for entry in contract.document.signature:
        if entry.header is not None:
            yield _header(entry.header, _signed(entry), required=entry.secrets != "second")


_MEANINGS: Mapping[str, str] = {
    "id": "The event's id, the same at every attempt: drop repeats by it.",
    "timestamp": "When this attempt was made: refuse what is more than five minutes from now.",
    "attempt": "The number of this attempt, from 1.",
    "type": "The event type.",
    "event": "The event type.",
}


def _meaning(contract: Contract, template: Template) -> str:
    about = {stem(contract.document.otherwise(variable) or variable) for variable in template.variables}
    return next((words for fact, words in _MEANINGS.items() if about == {fact}), "Sent with every delivery.")


def _header(name: str, description: str, *, required: bool = True) -> Json:
    schema = {"type": "string"}
    return {"name": name, "in": "header", "required": required, "description": description, "schema": schema}


def _signed(entry: Signature) -> str:
    return f"{entry.algorithm} of `{shape(entry.content)}`, {entry.encoding}: verify it before anything else."


def _schemes(contract: Contract) -> Iterator[tuple[str, Json]]:
    """Yield a security scheme for each header that shows the secret itself."""
    for header, template in contract.document.headers.items():
        if "secret" in template.variables:
            said = f"The endpoint's secret, as `{shape(template)}`."
            yield header, {"type": "apiKey", "in": "header", "name": header, "description": said}
