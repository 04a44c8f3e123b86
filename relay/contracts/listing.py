"""A catalogue as people and programs are shown it: the same words from the API and without a daemon."""

from typing import Any

import orjson

from relay.contracts.contract import Contract
from relay.contracts.event_type import EventType

Json = dict[str, Any]


def describe_catalogue(contract: Contract) -> Json:
    """Write all listed types in the order of the contract file; `open`: others are taken as well."""
    return {
        "contract": contract.name,
        "open": contract.catalogue_open,
        "data": [describe_type(listed) for listed in contract.types.values()],
        "next": None,
    }


def describe_type(listed: EventType) -> Json:
    """Write one type, to be dumped by orjson; the example keeps its bytes, so that `30.0` stays `30.0`."""
    return {
        "name": listed.name,
        "description": listed.description,
        "schema": listed.schema,
        "example": orjson.Fragment(listed.example),
        "deprecated": listed.deprecated,
        "replaced_by": listed.replaced_by,
        "test_only": listed.test_only,
        "links": listed.links,
        "feature": listed.feature,
    }


def why_unlisted(contract: Contract, type: str) -> str:
    """Say why the catalogue has no entry for a type that is not in `contract.types`, and what there is instead."""
    wrong = contract.check_type(type)
    if wrong is not None:
        return wrong
    name = contract.name
    return f"{type!r} has no example: the contract {name!r} is open and takes such events with whatever data they have"
