"""Contracts: the wire shapes that receivers were promised, as data. Pure; the code knows no contract by name."""

from relay.contracts.catalogue import ContractCatalogue, ContractError, ContractProblem
from relay.contracts.contract import Contract
from relay.contracts.fields import Rendering
from relay.contracts.signing import Signer
from relay.contracts.verifying import Verdict, Verification, verify

__all__ = [
    "Contract",
    "ContractCatalogue",
    "ContractError",
    "ContractProblem",
    "Rendering",
    "Signer",
    "Verdict",
    "Verification",
    "verify",
]
