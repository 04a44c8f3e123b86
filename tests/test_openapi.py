"""A contract's catalogue as an OpenAPI document: valid, complete, and true of what is sent."""

import json
from pathlib import Path
from typing import Any

import orjson
import pytest
from click.testing import CliRunner
from jsonschema_rs import Draft202012Validator
from openapi_spec_validator import OpenAPIV31SpecValidator

from relay.cli import main
from relay.cli.output import Exit
from relay.contracts import Contract, ContractCatalogue, openapi
from tests.support.api import Api
from tests.support.contract_files import built_in, contract
from tests.test_api_event_types import PATH, with_contracts

NAMES = ContractCatalogue.load().names

OWN = """
[types]
catalogue = "closed"
extra_members = "allow"
[type."cut:done/now"]
description = "A cut is done."
example = '{"id":"c_1","child":{"id":"c_2"},"part":{"n":30.0}}'
deprecated = true
replaced_by = "cut"
links = true
[type."cut:done/now".schema]
type = "object"
required = ["id"]
additionalProperties = false
properties = { id = { type = "string" }, child = { "$ref" = "#" }, part = { "$ref" = "#/$defs/part" }, n = { "$ref" = "#/$defs/part/properties/n" } }
[type."cut:done/now".schema."$defs".part]
type = "object"
properties = { n = { type = "number" } }
[type.cut]
description = "A cut."
example = '[]'
[headers]
X-Id = "{id}"
X-Both = "{id} {type}"
Authorization = "Bearer {secret}"
[[signature]]
header = "X-Old-Signature"
secrets = "second"
"""
BODY = """
[body]
members = [
  { name = "v", value = 2 }, { name = "at", value = "{timestamp:unix}" }, { name = "iso", value = "{created_at:iso}" },
  { name = "key", value = "{type}/{id}" }, { name = "kind", value = "order" }, { name = "payload", value = "{data}" },
]
"""


def document(made: Contract) -> Any:
    return json.loads(orjson.dumps(openapi(made)))


def own() -> Contract:
    types = '[types]\ngrammar = "[a-z:/]+"\n'
    return contract(OWN.replace("[types]\n", types, 1), body=BODY)


def validate_example(whole: Any, name: str) -> None:
    """Validate the example of one webhook by its schema, references and all; one that is no JSON is shown as it is sent."""
    ((media_type, content),) = whole["webhooks"][name]["post"]["requestBody"]["content"].items()
    if not media_type.endswith("json"):
        assert isinstance(content["example"], str)
        return
    schema = {**content["schema"], "components": whole["components"]}
    Draft202012Validator(schema, validate_formats=True).validate(content["example"])


@pytest.mark.parametrize("name", NAMES)
def test_each_document_is_valid_and_complete(name: str) -> None:
    """Every built-in contract: OpenAPI 3.1 by an independent validator; each listed type is a webhook; each example, which
    is a body as the relay renders it, fits its schema."""
    made = built_in(name)
    whole = document(made)

    assert list(OpenAPIV31SpecValidator(whole).iter_errors()) == []
    assert list(whole["webhooks"]) == list(made.types)
    for type in made.types:
        validate_example(whole, type)


def test_a_contract_of_ones_own() -> None:
    """References inside schemas, types with odd characters, secrets in headers, constants and times in the body."""
    whole = document(own())
    operation = whole["webhooks"]["cut:done/now"]["post"]
    schemas = whole["components"]["schemas"]

    assert list(OpenAPIV31SpecValidator(whole).iter_errors()) == []
    validate_example(whole, "cut:done/now")
    assert (operation["operationId"], operation["deprecated"]) == ("cut_done_now", True)
    assert operation["description"] == "Replaced by `cut`. The links in it expire."
    assert operation["security"] == [{"Authorization": []}]
    assert {one["name"]: one["required"] for one in operation["parameters"]} == {
        "X-Id": True,
        "X-Both": True,
        "X-Old-Signature": False,
    }
    assert schemas["cut_done_now"]["properties"] == {
        "v": {"const": 2},
        "at": {"type": "integer"},
        "iso": {"type": "string", "format": "date-time"},
        "key": {"type": "string"},
        "kind": {"const": "order"},
        "payload": {"$ref": "#/components/schemas/cut_done_now__data"},
    }
    data = schemas["cut_done_now__data"]
    assert "additionalProperties" not in data
    assert {name: schema.get("$ref") for name, schema in data["properties"].items()} == {
        "id": None,
        "child": "#/components/schemas/cut_done_now__data",
        "part": "#/components/schemas/cut_done_now__part",
        "n": "#/components/schemas/cut_done_now__part/properties/n",
    }


def test_a_body_that_does_not_fit_is_noticed() -> None:
    """Negative control: the schema of a webhook refuses the body of another."""
    whole = document(built_in("wochit"))
    deleted = whole["webhooks"]["video.delete"]["post"]["requestBody"]["content"]["application/json"]
    deleted["example"] = whole["webhooks"]["video.ready"]["post"]["requestBody"]["content"]["application/json"][
        "example"
    ]

    with pytest.raises(ValueError, match=r"video\.delete"):
        validate_example(whole, "video.delete")


def test_flat_bodies_have_all_members_in_one_object() -> None:
    """Where the members of data are those of the body, the contract's own stand among them, and it is still closed."""
    schema = document(built_in("wochit"))["components"]["schemas"]["video.ready"]

    assert list(schema["properties"])[:2] == ["type", "videoContext"]
    assert schema["properties"]["type"] == {"const": "video.ready"}
    assert schema["required"][:2] == ["type", "wochitVideoId"]
    assert schema["additionalProperties"] is False


async def test_the_api_writes_the_same_document(tmp_path: Path) -> None:
    """`?format=openapi` of an application's catalogue; another word is 422."""
    async with Api(tmp_path, with_contracts(acme="editframe")) as api:
        written = await api.get(f"{PATH}?format=openapi", by="acme-app")
        listed = await api.get(f"{PATH}?format=list", by="acme-app")
        wrong = await api.call("GET", f"{PATH}?format=yaml", by="acme-app")

    assert written == document(built_in("editframe"))
    assert listed["contract"] == "editframe"
    assert wrong.status == 422
    assert "must be one of list, openapi" in wrong.text.decode()


def test_the_command_writes_it_without_a_daemon() -> None:
    """`relay types --openapi --contract NAME`; with the name of a type it is wrong use."""
    words = ["types", "--openapi", "--contract", "roughy"]
    result = CliRunner().invoke(main, words)
    named = CliRunner().invoke(main, [*words, "cut.failed"])

    assert result.exit_code == Exit.FINE
    assert json.loads(result.stdout) == document(built_in("roughy"))
    assert (named.exit_code, "leave NAME out" in named.output) == (Exit.USAGE, True)
