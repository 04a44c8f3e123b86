"""The API as an OpenAPI 3.1 document, made of the table of calls, of what handlers say of themselves, and of the models."""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from aiohttp import hdrs

from relay import __version__
from relay.api.answer import JSON
from relay.api.body import MERGE_PATCH
from relay.api.calls import FILLED, Call, Definition, Json, Schema, call_of, maybe
from relay.api.idempotency import HEADER
from relay.api.problems import CONTENT_TYPE
from relay.api.routing import PARAMETER, Route
from relay.api.shapes import PROBLEM
from relay.config.json_schema import definition_schema
from relay.contracts import Contract, openapi
from relay.core.access import Principal, Role

_COMPONENTS = "#/components/schemas/"
_DEFINITIONS = "#/$defs/"
_BEARER: Json = {
    "bearer": {
        "type": "http",
        "scheme": "bearer",
        "description": "A token of the configuration, or the key of an application.",
    }
}

_ANYWHERE: Mapping[int, str] = {
    400: "The request cannot be read: `bad_request`, `malformed_json`.",
    417: "An `Expect` other than `100-continue`: `expectation_failed`.",
    422: "Fields or parameters are wrong: `invalid_request`.",
    500: "The relay made a mistake, which its log describes: `internal_error`.",
}
_WITH_TOKEN: Mapping[int, str] = {
    401: "No token, or one that is not valid: `unauthorized`.",
    403: "The token's role does not allow the call: `forbidden`.",
    429: "The token is used faster than its rate: `rate_limited`.",
    503: "Not now; repeat after `Retry-After`: `draining`, `store_unavailable`, `outcome_unknown` and others.",
}
_WITH_NAMES: Mapping[int, str] = {404: "There is no such thing, or it belongs to another application: `not_found`."}
_WITH_BODY: Mapping[int, str] = {
    408: "The body came too slowly: `request_timeout`.",
    413: "The body is too large: `body_too_large`.",
    415: "The body's form is not taken: `unsupported_media_type`.",
}
_KEYED = (
    "The key came before with another call or body, or what it made was deleted: `idempotency_conflict`, `made_before`."
)

_SAID: Mapping[int, str] = {
    200: "Done.",
    201: "Made.",
    202: "Taken.",
    204: "Done; there is no body.",
    503: "Not ready.",
}


def describe(routes: Iterable[Route], contract: Contract) -> Json:
    """Write the document, to be dumped by orjson; its `webhooks` are those of one contract. O(size of the document)"""
    components: Json = {}
    paths: Json = {}
    for route in routes:
        path = PARAMETER.sub(r"{\1}", route.path)
        paths.setdefault(path, {})[route.method.lower()] = _operation(route, components)
    sent = openapi(contract)
    return {
        "openapi": "3.1.0",
        "info": {"title": "relay", "version": __version__, "description": _introduction(contract)},
        "servers": [{"url": "/"}],
        "paths": paths,
        "webhooks": sent["webhooks"],
        "components": {
            "schemas": components | sent["components"]["schemas"],
            "securitySchemes": _BEARER | sent["components"]["securitySchemes"],
        },
    }


def _introduction(contract: Contract) -> str:
    return (
        "Events in, signed webhooks out. `docs/API.md` says more of each call. The webhooks are what endpoints under the "
        f"contract `{contract.name}` receive; `GET /v1/event-types?format=openapi` has those of an application."
    )


# -- one call ----------------------------------------------------------------------------------------------------------


def _operation(route: Route, components: Json) -> Json:
    described = call_of(route.handler)
    owner, name = route.handler.__qualname__.split(".")[-2:]
    summary, _, more = (route.handler.__doc__ or "").strip().partition("\n")
    operation: Json = {
        "operationId": f"{owner}_{name}".rstrip("_") + ("_head" if route.method == hdrs.METH_HEAD else ""),
        "summary": summary,
        "description": "\n\n".join(filter(None, [" ".join(more.split()), _roles(route)])),
        "tags": [owner],
        "security": [] if route.right is None else [{"bearer": []}],
        "parameters": list(_parameters(route, described, components)),
        "responses": _responses(route, described, components),
    }
    if described.body is not None:
        operation["requestBody"] = _request_body(route, described, components)
    return operation


def _roles(route: Route) -> str:
    if route.right is None:
        return "No token is needed."
    may = [role.value for role in Role if Principal("", role).may(route.right)]
    return f"Roles: {', '.join(may)}."


def _parameters(route: Route, described: Call, components: Json) -> Iterator[Json]:
    for name, _ in PARAMETER.findall(route.path):
        yield {"name": name, "in": "path", "required": True, "schema": FILLED}
    for name, schema in described.query.items():
        yield {"name": name, "in": "query", "required": False, "schema": _hoisted(schema, components)}
    if described.keyed:
        said = "A repeat with the same key makes nothing, and is answered like the first."
        schema = {"type": "string", "pattern": "^[!-~]{1,255}$"}
        yield {"name": HEADER, "in": "header", "required": False, "description": said, "schema": schema}
    if described.is_edit:
        said = "The ETag of what was read: if it was changed since, this call changes nothing."
        yield {"name": hdrs.IF_MATCH, "in": "header", "required": False, "description": said, "schema": FILLED}


def _request_body(route: Route, described: Call, components: Json) -> Json:
    schema = _body_schema(described.body, components)
    kinds = [JSON, MERGE_PATCH] if route.method == hdrs.METH_PATCH else [JSON]
    content = {kind: {"schema": schema} for kind in kinds} | {
        kind: {"schema": other} for kind, other in described.also_takes.items()
    }
    return {"required": described.is_body_needed, "content": content}


def _body_schema(written: Schema | Definition | None, components: Json) -> Schema:
    if not isinstance(written, Definition):
        inline: Schema = _hoisted(written, components)
        return inline
    whole = definition_schema(written.model)
    for name, schema in whole.pop("$defs", {}).items():
        components[name] = _referring(schema)
    whole = _referring(whole)
    whole["properties"] = {**written.beside, **whole["properties"]}
    whole = _as_patch(whole) if written.is_patch else whole
    name = written.model.__name__ + ("Patch" if written.is_patch else "")
    components[name] = whole
    return {"$ref": _COMPONENTS + name}


def _responses(route: Route, described: Call, components: Json) -> Json:
    """Describe every answer: those of the call itself, its problems, and those that any such call may give."""
    common = dict(_ANYWHERE)
    common |= {} if route.right is None else _WITH_TOKEN
    common |= _WITH_NAMES if route.right is not None or "{" in route.path or described.query else {}
    common |= {} if described.body is None else _WITH_BODY
    common |= {409: _KEYED} if described.keyed else {}
    common |= {412: "It is not as `If-Match` says any more: `edited_since`."} if described.is_edit else {}
    for status, types in described.refuses.items():
        own = ", ".join(f"`{one}`" for one in types)
        common[status] = f"{common[status]} Also {own}." if status in common else f"Refused: {own}."
    problem = {CONTENT_TYPE: {"schema": _hoisted(PROBLEM, components)}}
    written: Json = {str(status): {"description": said, "content": problem} for status, said in common.items()}
    if route.method == hdrs.METH_HEAD:
        written = {status: {"description": answer["description"]} for status, answer in written.items()}
    for status, schema in described.answers.items():
        content = {} if route.method == hdrs.METH_HEAD else _content(schema, components)
        written[str(status)] = {"description": _SAID[status], **content}
    return dict(sorted(written.items()))


def _content(schema: Schema | str | None, components: Json) -> Json:
    match schema:
        case None:
            return {}
        case str():
            return {"content": {schema: {"schema": {"type": "string"}}}}
    return {"content": {JSON: {"schema": _hoisted(schema, components)}}}


# -- schemas -----------------------------------------------------------------------------------------------------------


def _hoisted(schema: Any, components: Json) -> Any:
    """Put each shape that has a name among the components, and refer to it."""
    if isinstance(schema, list):
        return [_hoisted(each, components) for each in schema]
    if not isinstance(schema, Mapping):
        return schema
    inner = {key: _hoisted(each, components) for key, each in schema.items()}
    if not isinstance(schema.get("title"), str):
        return inner
    name = inner.pop("title")
    components[name] = inner
    return {"$ref": _COMPONENTS + name}


def _referring(schema: Any) -> Any:
    """Let the references of a model's schema lead to the components."""
    if isinstance(schema, list):
        return [_referring(each) for each in schema]
    if not isinstance(schema, Mapping):
        return schema
    return {
        key: each.replace(_DEFINITIONS, _COMPONENTS) if key == "$ref" and isinstance(each, str) else _referring(each)
        for key, each in schema.items()
    }


def _as_patch(schema: Json) -> Json:
    """Require nothing, leave out the defaults, and let null stand for each member, as in a merge patch."""
    patched = {key: each for key, each in schema.items() if key not in ("required", "default")}
    if "properties" in patched:
        patched["properties"] = {name: maybe(_as_patch(each)) for name, each in patched["properties"].items()}
    if isinstance(patched.get("additionalProperties"), Mapping):
        patched["additionalProperties"] = maybe(patched["additionalProperties"])
    return patched
