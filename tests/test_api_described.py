"""What the API says of itself: one document of all calls, which the calls keep to, and a page that shows it."""

import hashlib
import json
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson
import pytest
from jsonschema_rs import Draft202012Validator, ValidationError
from openapi_spec_validator import OpenAPIV31SpecValidator

import relay
from relay.api.calls import call_of
from relay.api.openapi import describe
from relay.api.pages import DOCUMENT, PAGE
from relay.api.routing import PARAMETER, Route
from relay.contracts import ContractCatalogue
from tests.support.api import CONFIG, SECRETS, Answer, Api
from tests.test_api_event_types import with_contracts
from tests.test_api_routes import CALLERS, OWN, MatrixApi, body_of, fill, gentlest_first

ADMIN = CALLERS[6]
ROOT = Path(relay.__file__).parent.parent
VENDORED = ROOT / "relay" / "assets" / "swagger-ui"
Json = dict[str, Any]


async def written(api: Api) -> Json:
    document: Json = (await api.call("GET", DOCUMENT, by=None)).json
    return document


def operation(document: Json, route: Route) -> Json:
    found: Json = document["paths"][PARAMETER.sub(r"{\1}", route.path)][route.method.lower()]
    return found


def schema_of_body(document: Json, described: Json) -> Json:
    """The schema of a JSON body, its own reference resolved."""
    kinds = described.get("requestBody", {}).get("content", {})
    schema: Json = kinds.get("application/json", {}).get("schema", {})
    return document["components"]["schemas"][schema["$ref"].rpartition("/")[2]] if "$ref" in schema else schema


def closed(schema: Any) -> Any:
    """The schema with every object closed that says nothing of other members: an answer has no member that it lacks."""
    if isinstance(schema, list):
        return [closed(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    inner = {key: closed(each) for key, each in schema.items()}
    return {"additionalProperties": False, **inner} if "properties" in inner and "type" in inner else inner


def fitting(document: Json, described: Json, answer: Answer) -> None:
    """Hold an answer against what is said of it: status, media type, and every member."""
    said = described["responses"].get(str(answer.status))
    assert said is not None, (described["operationId"], answer.status, answer.text)
    content = said.get("content", {})
    if not content:
        assert answer.text == b"", described["operationId"]
        return
    kind = answer.headers["Content-Type"].partition(";")[0]
    assert kind in content, (described["operationId"], kind)
    if kind.endswith("json"):
        components = {"schemas": closed(document["components"]["schemas"])}
        whole = {**closed(content[kind]["schema"]), "components": components}
        Draft202012Validator(whole, validate_formats=True).validate(answer.json)


# -- the document ------------------------------------------------------------------------------------------------------


async def test_the_document_is_valid_and_has_every_call(tmp_path: Path) -> None:
    """OpenAPI 3.1 by an independent validator; each call of the table stands in it once, and nothing else."""
    async with Api(tmp_path) as api:
        document = await written(api)
        calls = {(route.method.lower(), PARAMETER.sub(r"{\1}", route.path)) for route in api.relay.routes}
    listed = {(method, path) for path, methods in document["paths"].items() for method in methods}
    names = [each["operationId"] for methods in document["paths"].values() for each in methods.values()]

    assert list(OpenAPIV31SpecValidator(document).iter_errors()) == []
    assert listed == calls
    assert len(names) == len(set(names))
    assert list(document["webhooks"]) == ["webhook.test"]


async def test_the_webhooks_are_those_of_one_contract_that_comes_with_relay(tmp_path: Path) -> None:
    """`?contract=` chooses whose; a contract of this relay's own is shown to nobody without a token."""
    async with Api(tmp_path, with_contracts(acme="editframe")) as api:
        chosen = (await api.call("GET", f"{DOCUMENT}?contract=editframe", by=None)).json
        own = await api.call("GET", f"{DOCUMENT}?contract=own", by=None)
        wrong = await api.call("GET", f"{DOCUMENT}?contracts=editframe", by=None)

    assert "render.completed" in chosen["webhooks"]
    assert list(OpenAPIV31SpecValidator(chosen).iter_errors()) == []
    assert (own.status, wrong.status) == (404, 422)
    assert b"event-types?format=openapi" in own.text


def test_a_call_that_says_nothing_of_itself_is_noticed() -> None:
    """Negative control: there is no document with a call that does not say what it answers."""

    async def silent(request: object) -> object:
        """Say nothing."""
        return request

    with pytest.raises(KeyError):
        call_of(silent)


# -- in step with the calls --------------------------------------------------------------------------------------------

KNOWN = re.compile(r"it has ([a-z_, ]+?)(?:\"|$|;|\.)")


def members_told(answer: Answer) -> set[str]:
    """The names that a refusal of an unknown one says there are; none where it says so."""
    told = [
        KNOWN.search(one["message"]) for one in answer.json["errors"] if "nonsense" in one["message"] + one["pointer"]
    ]
    return {name for found in told if found for name in found[1].split(", ")} - {"none"}


async def test_the_document_has_the_parameters_that_calls_take(tmp_path: Path) -> None:
    """Each call that takes some is asked for one that it lacks; it names those of the document."""
    async with MatrixApi(tmp_path, {"delivery": CONFIG["delivery"]}) as api:
        document, own = await written(api), await api.make(OWN)
        for route in api.relay.routes:
            described = operation(document, route)
            listed = {one["name"] for one in described["parameters"] if one["in"] == "query"}
            if not route.takes_query or route.method == "POST":
                assert not listed or route.method == "POST", route
                continue
            answer = await api.call("GET", fill(route.path, own) + "?nonsense=1", by=ADMIN.token)
            assert (answer.status, members_told(answer)) == (422, listed), (route, answer.text)


async def test_the_document_has_the_members_that_bodies_have(tmp_path: Path) -> None:
    """Each call with a body is sent a member that it lacks; it names those of the document."""
    async with MatrixApi(tmp_path, {"delivery": CONFIG["delivery"]}) as api:
        document, own = await written(api), await api.make(OWN)
        for route in api.relay.routes:
            described = operation(document, route)
            if "requestBody" not in described or route.path.startswith("/v1/events"):
                continue
            if route.path.endswith("/verify"):
                continue  # nobody is to be asked, which is said first
            sent = {"nonsense": 1}
            answer = await api.call(route.method, fill(route.path, own), sent, by=ADMIN.token)
            listed = set(schema_of_body(document, described)["properties"])
            assert answer.status == 422, (route, answer.text)
            beside = {"application"} if route.path == "/v1/webhook-endpoints" else set()  # whose it is, no part of it
            assert members_told(answer) | beside == listed, (route, answer.text)


async def test_every_answer_is_as_the_document_says(tmp_path: Path) -> None:
    """Every call, for things that are there, that never were, and with nonsense: status, media type, and every member."""
    async with MatrixApi(tmp_path, {"delivery": CONFIG["delivery"]}) as api:
        document, own = await written(api), await api.make(OWN)
        seen = set()
        for route in gentlest_first(api.relay.routes):
            described, path = operation(document, route), fill(route.path, own)
            answers = [
                await api.ask(ADMIN, route.method, path, body_of(route)),
                await api.ask(CALLERS[0], route.method, path, body_of(route)),
                await api.ask(ADMIN, route.method, path + "?a=1&a=2", body_of(route)),
            ]
            for answer in answers:
                fitting(document, described, answer)
            seen |= {(route, answer.status) for answer in answers}
    fine = {route for route, status in seen if status < 300}
    refused = {route.path for route in api.relay.routes if route not in fine}
    assert refused == REFUSED_HERE


REFUSED_HERE = {
    "/v1/event-types",  # which application?
    "/v1/event-types/{name:.+}",
    "/v1/events",  # likewise
    "/v1/webhook-endpoints",
    "/v1/dead-letters/note",
    "/v1/deliveries/{id}/cancel",  # it was cancelled with the others
    "/v1/filters/try",
    "/v1/import",
    "/v1/rekey",  # there is no key
    "/v1/replays/{id}/cancel",  # it is over
    "/v1/webhook-endpoints/{id}/resume",  # it was just disabled
    "/v1/webhook-endpoints/{id}/verify",  # nobody is to be asked
}
"""Calls that the matrix has nothing for; what they answer when all is well is asked for below."""


async def test_answers_that_the_matrix_does_not_get(tmp_path: Path) -> None:
    """A failed and a delivered attempt, a filter that was tried, an export, an import, a batch, and each kind of page."""
    config = {**CONFIG, "delivery": CONFIG["delivery"]}
    calls = [
        ("POST", "/v1/events", "/v1/events", {"type": "a.b", "data": 1, "application": "acme"}),
        (
            "POST",
            "/v1/webhook-endpoints",
            "/v1/webhook-endpoints",
            {"url": "https://a.example/", "application": "acme"},
        ),
        ("POST", "/v1/webhook-endpoints/{id}/pause", "/v1/webhook-endpoints/primary/pause", None),
        ("POST", "/v1/webhook-endpoints/{id}/resume", "/v1/webhook-endpoints/primary/resume", None),
        (
            "POST",
            "/v1/dead-letters/note",
            "/v1/dead-letters/note",
            {"endpoint": "primary", "reason": "exhausted", "note": "n"},
        ),
        ("GET", "/v1/event-types", "/v1/event-types?application=acme", None),
        ("POST", "/v1/events/batch", "/v1/events/batch", [{"type": "a.b", "data": 1, "application": "acme"}, {}]),
        (
            "POST",
            "/v1/filters/try",
            "/v1/filters/try",
            {"filter": {"data.a": 1}, "event": {"type": "a", "data": {"a": 2}}},
        ),
        ("POST", "/v1/import", "/v1/import", {"lines": [{"relay": {"schema": 1}}, {"application": {"id": "new"}}]}),
        ("GET", "/v1/export", "/v1/export?secrets=true", None),
        ("GET", "/v1/event-types/{name}", "/v1/event-types/webhook.test?application=acme", None),
        ("GET", "/v1/event-types", "/v1/event-types?application=acme&format=openapi", None),
        ("POST", "/v1/replays", "/v1/replays", {"mode": "all", "dry_run": True}),
        ("GET", "/docs/{file}", "/docs/start.js", None),
        ("GET", "/v1/deliveries", "/v1/deliveries?cursor=none", None),
        ("PATCH", "/v1/webhook-endpoints/{id}", "/v1/webhook-endpoints/primary", {"url": 1}),
    ]
    async with Api(tmp_path, config) as api:
        document = await written(api)
        await api.post_event()
        for method, path, asked, body in calls:
            answer = await api.call(method, asked, body)
            assert (answer.status < 300) is not ("none" in asked or body == {"url": 1}), (asked, answer.text)
            fitting(document, document["paths"][path][method.lower()], answer)


async def test_a_batch_of_cloudevents_at_the_call_for_one(tmp_path: Path) -> None:
    """`POST /v1/events` answers a batch of CloudEvents as the call for batches does, which the document says."""
    batch = [{"specversion": "1.0", "id": "1", "source": "/a", "type": "order.paid", "data": {}}]
    async with Api(tmp_path) as api:
        document = await written(api)
        headers = {
            "Authorization": f"Bearer {SECRETS['root']}",
            "Content-Type": "application/cloudevents-batch+json",
        }
        address = f"{api.url}/v1/events?application=acme"
        async with api.http.post(address, data=orjson.dumps(batch), headers=headers) as response:
            answer = Answer(response.status, dict(response.headers), await response.read())
    assert [one["status"] for one in answer.json["results"]] == [202]
    fitting(document, document["paths"]["/v1/events"]["post"], answer)


async def test_an_answer_that_does_not_fit_is_noticed(tmp_path: Path) -> None:
    """Negative control: another status, another media type, a member too many, and a member of another kind."""
    async with Api(tmp_path) as api:
        document = await written(api)
    described = document["paths"]["/readyz"]["get"]
    json_type, good = {"Content-Type": "application/json"}, {"ready": True, "reasons": []}

    fitting(document, described, Answer(200, json_type, orjson.dumps(good)))
    for body in ({**good, "more": 1}, {**good, "ready": "yes"}, {"ready": True}):
        with pytest.raises(ValidationError):
            fitting(document, described, Answer(200, json_type, orjson.dumps(body)))
    for status, headers in ((418, json_type), (200, {"Content-Type": "text/html"})):
        with pytest.raises(AssertionError):
            fitting(document, described, Answer(status, headers, orjson.dumps(good)))


HEADING = re.compile(r"((?:^### `[A-Z]+ /\S*`\n)+)(.*?)(?=^##|\Z)", re.MULTILINE | re.DOTALL)


async def test_the_page_of_the_api_says_the_same(tmp_path: Path) -> None:
    """docs/API.md names, of each call, the statuses of success and the conflicts that the call names itself."""
    async with Api(tmp_path) as api:
        routes = {(route.method, re.sub(r":[^}]*", "", route.path)): route for route in api.relay.routes}
    text = (ROOT / "docs" / "API.md").read_text()
    compared = 0
    for headings, told in HEADING.findall(text):
        for key in re.findall(r"`([A-Z]+) (\S+)`", headings):
            described = call_of(routes[key].handler)
            fine = {str(status) for status in described.answers if status < 300}
            assert set(re.findall(r"\*\*(20\d)\*\*", told)) == fine, (key, fine)
            missing = [one for one in described.refuses.get(409, ()) if f"`{one}`" not in told]
            assert not missing or "as above" in told, (key, missing)
            compared += 1
    assert compared == len([route for route in routes.values() if route.method != "HEAD"])


# -- the page ----------------------------------------------------------------------------------------------------------


def manifest() -> Json:
    whole: Json = json.loads((VENDORED / "manifest.json").read_text())
    return whole


def test_the_files_of_the_page_are_those_of_their_manifest() -> None:
    """Name, version and licence stand there, and each foreign file has its SHA-256; nothing else lies beside them."""
    told = manifest()
    own = {"manifest.json", "index.html", "start.js"}

    assert re.fullmatch(r"\d+\.\d+\.\d+", told["version"])
    assert (told["name"], told["licence"]) == ("swagger-ui-dist", "Apache-2.0")
    assert told["version"] in told["source"]
    assert {path.name for path in VENDORED.iterdir()} == own | set(told["sha256"])
    for name, digest in told["sha256"].items():
        assert hashlib.sha256((VENDORED / name).read_bytes()).hexdigest() == digest, name
    assert "Apache License" in (VENDORED / "LICENSE").read_text()


def references(page: str) -> Iterator[str]:
    yield from re.findall(r"(?:src|href)=\"([^\"]+)\"", page)


async def test_the_page_loads_nothing_from_elsewhere_and_nothing_inline(tmp_path: Path) -> None:
    """Everything that the page refers to is served here, without a token; its policy lets in nothing else."""
    async with Api(tmp_path) as api:
        page = await api.call("GET", PAGE, by=None)
        found = {name: await api.call("GET", f"/{name}", by=None) for name in references(page.text.decode())}
        missing = [await api.call("GET", f"{PAGE}/{name}", by=None) for name in ("index.html", "LICENSE", "..%2Fx")]
    policy = page.headers["Content-Security-Policy"]

    assert page.headers["Content-Type"] == "text/html; charset=utf-8"
    assert set(found) == {"docs/swagger-ui.css", "docs/swagger-ui-bundle.js", "docs/start.js", "openapi.json"}
    assert {answer.status for answer in found.values()} == {200}
    assert [answer.status for answer in missing] == [404, 404, 404]
    assert "default-src 'none'" in policy
    assert not re.search(r"unsafe|https?:|\*", policy)
    assert not re.search(r"<script>|<style|style=|\son[a-z]+=", page.text.decode())


def test_the_wheel_carries_the_page() -> None:
    """The files lie within the package, which the wheel takes whole."""
    built = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["hatch"]["build"]["targets"]["wheel"]
    assert built["packages"] == ["relay"]
    assert VENDORED.is_relative_to(ROOT / "relay")


def test_the_document_says_nothing_of_this_relay() -> None:
    """It is made of the table and the contracts that come with relay alone: two relays write the same."""
    contract = ContractCatalogue.load().get("standard")
    assert contract is not None
    assert describe([], contract)["paths"] == {}
