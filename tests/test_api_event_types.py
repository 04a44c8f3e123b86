"""`GET /v1/event-types`: the catalogue of an application's contract, for everybody who posts or subscribes by it."""

from pathlib import Path
from typing import Any

import pytest

from relay.contracts import ContractCatalogue
from tests.support.api import CONFIG, Api

PATH = "/v1/event-types"
CATALOGUE = ContractCatalogue.load()


def with_contracts(**contracts: str) -> dict[str, Any]:
    """Applications by id, each with its contract and no endpoints."""
    return CONFIG | {"application": [{"id": name, "contract": contract} for name, contract in contracts.items()]}


async def test_the_catalogue_of_an_application_is_listed(tmp_path: Path) -> None:
    """Each type has its description, schema, example and flags, in the order of the contract (EDF-9)."""
    async with Api(tmp_path, with_contracts(acme="editframe", globex="wochit")) as api:
        listed = await api.get(PATH, by="acme-app")
    types = {one["name"]: one for one in listed["data"]}
    assert (listed["application"], listed["contract"], listed["open"], listed["next"]) == (
        "acme",
        "editframe",
        False,
        None,
    )
    assert next(iter(types)) == "render.created"
    assert types["render.completed"]["example"]["status"] == "complete"
    assert "download_url" in types["render.completed"]["schema"]["properties"]
    assert types["unprocessed_file.created"]["deprecated"] is True
    assert types["unprocessed_file.created"]["replaced_by"] == "file.created"
    assert (types["webhook.test"]["test_only"], types["file.created"]["test_only"]) == (True, False)


async def test_links_and_features_are_told(tmp_path: Path) -> None:
    """A type says that its links expire (WOC-8) and which feature it needs (WOC-9)."""
    async with Api(tmp_path, with_contracts(acme="wochit")) as api:
        draft = await api.get(f"{PATH}/draft.new", by="acme-app")
        deleted = await api.get(f"{PATH}/video.delete", by="acme-app")
    assert (draft["links"], draft["feature"]) == (True, "drafts")
    assert (deleted["links"], deleted["feature"]) == (False, None)


async def test_an_open_contract_says_so(tmp_path: Path) -> None:
    """An open catalogue lists what it describes, and that other types are taken too."""
    async with Api(tmp_path) as api:
        listed = await api.get(PATH, by="acme-app")
        other = await api.call("GET", f"{PATH}/order.paid", by="acme-app")
    assert (listed["open"], [one["name"] for one in listed["data"]]) == (True, ["webhook.test"])
    assert other.status == 404
    assert "is open" in other.json["detail"]


async def test_an_example_keeps_its_bytes(tmp_path: Path) -> None:
    """`30.0` and `1.0` stay what they are, blanks and all (ROT-16)."""
    async with Api(tmp_path, with_contracts(acme="rotor")) as api:
        answer = await api.call("GET", f"{PATH}/order.finalized", by="acme-app")
    contract = CATALOGUE.get("rotor")
    assert contract is not None
    assert contract.types["order.finalized"].example in answer.text


async def test_an_unknown_type_is_404_and_names_the_nearest(tmp_path: Path) -> None:
    """A mistyped name is answered with the one that was meant; a name of impossible form with the form."""
    async with Api(tmp_path, with_contracts(acme="roughy")) as api:
        near = await api.call("GET", f"{PATH}/render.canceled", by="acme-app")
        odd = await api.call("GET", f"{PATH}/no/type", by="acme-app")
    assert (near.status, odd.status) == (404, 404)
    assert "did you mean 'render.cancelled'?" in near.json["detail"]
    assert "'no/type' is not an event type here" in odd.json["detail"]


@pytest.mark.parametrize("by", ["acme-producer", "acme-app"])
async def test_a_bound_token_means_its_own_application(tmp_path: Path, by: str) -> None:
    """Producer and application tokens see their own catalogue; the other application does not exist for them."""
    async with Api(tmp_path, with_contracts(acme="editframe", globex="wochit")) as api:
        own = await api.get(PATH, by=by)
        named = await api.get(f"{PATH}?application=acme", by=by)
        foreign = [await api.call("GET", f"{PATH}{name}?application=globex", by=by) for name in ("", "/video.ready")]
    assert own == named
    assert own["contract"] == "editframe"
    assert [answer.status for answer in foreign] == [404, 404]


@pytest.mark.parametrize("by", ["root", "auditor"])
async def test_an_unbound_token_names_the_application(tmp_path: Path, by: str) -> None:
    """Admin and reader name one of several, and need not where there is only one."""
    async with Api(tmp_path, with_contracts(acme="editframe", globex="wochit")) as api:
        several = await api.call("GET", PATH, by=by)
        named = await api.get(f"{PATH}?application=globex", by=by)
        unknown = await api.call("GET", f"{PATH}?application=nobody", by=by)
    assert (several.status, several.json["type"]) == (409, "application_required")
    assert named["contract"] == "wochit"
    assert unknown.status == 404
    (tmp_path / "one").mkdir()
    async with Api(tmp_path / "one", with_contracts(acme="editframe")) as api:
        assert (await api.get(PATH, by=by))["application"] == "acme"


async def test_nobody_in_particular_sees_nothing(tmp_path: Path) -> None:
    """Without a token there is no catalogue, and an unknown parameter is refused."""
    async with Api(tmp_path) as api:
        anonymous = await api.call("GET", PATH, by=None)
        mistyped = await api.call("GET", f"{PATH}?aplication=acme", by="root")
    assert (anonymous.status, mistyped.status) == (401, 422)
