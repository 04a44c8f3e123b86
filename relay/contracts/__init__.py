"""Contracts: the wire shapes that receivers were promised, as data. Pure; the code knows no contract by name."""

from relay.contracts.catalogue import ContractCatalogue
from relay.contracts.contract import Contract, NoExample
from relay.contracts.document import Registration
from relay.contracts.envelope import Unrenderable
from relay.contracts.event_type import EventType
from relay.contracts.fields import Rendering
from relay.contracts.listing import describe_catalogue, describe_type, why_unlisted
from relay.contracts.payload import Payload
from relay.contracts.problems import ContractError, ContractProblem
from relay.contracts.sentences import Fault
from relay.contracts.signing import Signer

__all__ = [
    "Contract",
    "ContractCatalogue",
    "ContractError",
    "ContractProblem",
    "EventType",
    "Fault",
    "NoExample",
    "Payload",
    "Registration",
    "Rendering",
    "Signer",
    "Unrenderable",
    "describe_catalogue",
    "describe_type",
    "why_unlisted",
]
