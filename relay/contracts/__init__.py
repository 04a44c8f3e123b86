"""Contracts: the wire shapes that receivers were promised, as data. Pure; the code knows no contract by name.

`catalogue` reads the files of the form that `document` and `values` describe, and `mistakes` says what is wrong with them.
`openapi` describes one to programs. A `contract` checks events (`schema`), renders their bodies (`envelope`, of `tree` and `facts`,
written `as_json`, `as_form`, `as_xml`, or as `js` does), freezes them (`frozen`) and signs (`signing`, `keys`, `keypairs`).
"""

from relay.contracts.catalogue import ContractCatalogue
from relay.contracts.contract import Contract, NoExample, describe_catalogue, describe_type, why_unlisted
from relay.contracts.document import EventType, Registration
from relay.contracts.facts import Unrenderable, search_digest
from relay.contracts.fields import Rendering
from relay.contracts.frozen import body_of
from relay.contracts.mistakes import ContractError
from relay.contracts.openapi import openapi
from relay.contracts.payload import Payload
from relay.contracts.signing import Signer

__all__ = [
    "Contract",
    "ContractCatalogue",
    "ContractError",
    "EventType",
    "NoExample",
    "Payload",
    "Registration",
    "Rendering",
    "Signer",
    "Unrenderable",
    "body_of",
    "describe_catalogue",
    "describe_type",
    "openapi",
    "search_digest",
    "why_unlisted",
]
