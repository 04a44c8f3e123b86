"""What an endpoint complies with when it is registered, in the file or through the API: its contract's rules and ours.

`delivery.allow_http` and `delivery.allow_networks` are the operator's word and override what a contract demands.
"""

from relay.config.model import DeliveryConfig
from relay.contracts import Contract, Registration
from relay.core.grammars import check_header
from relay.core.urls import check_url, literal_address


def address_faults(url: str, rules: Registration, delivery: DeliveryConfig) -> tuple[str, ...]:
    """List what is wrong with an endpoint's URL, each with what to do about it; empty if it may be registered.

    A contract that does not ask for a public address lets names of this network and any port through. What a name
    resolves to is judged at every attempt, and whatever a contract says, only `delivery.allow_networks` opens a network.
    """
    allow_private = allows_private(delivery, url) or (not rules.public and _names_a_host(url))
    return check_url(url, allow_http=delivery.allow_http or not rules.https, allow_private=allow_private)


def allows_private(delivery: DeliveryConfig, url: str) -> bool:
    """Whether this URL may name something that is not public: an address in an allowed network, or any name."""
    try:
        address = literal_address(url)
    except ValueError:
        return False
    if address is None:
        return bool(delivery.allow_networks)
    return any(address in network for network in delivery.allow_networks)


def header_fault(name: str, value: str, contract: Contract | None) -> str | None:
    """Say what is wrong with a static header and what to do about it; None if it may be sent."""
    fault = check_header(name, value)
    if fault is None and contract is not None and name.lower() in contract.header_names:
        return f"{name} is written by the contract {contract.name}; remove it"
    return fault


def selection_fault(rules: Registration, *, given: bool) -> str | None:
    """Say that a selection of event types is missing where the contract asks for one."""
    if given or not rules.subscription_required:
        return None
    return 'the contract asks for a choice of event types; list them, or write ["*"] for all'


def _names_a_host(url: str) -> bool:
    try:
        return literal_address(url) is None
    except ValueError:
        return False
