"""What a run under another contract than `standard` posts, and how its configuration differs."""

import json
import re

from bench.load import MARK
from relay.contracts import Contract, ContractCatalogue, Payload


def example_event(name: str) -> str:
    """Return the contract's first example as an event, with the load's mark where a number is to be, if it needs one.

    A contract that derives idempotency keys takes each entity once, so that entity's id has to differ from event to
    event.
    """
    contract = _contract(name)
    event_type, listed = next(item for item in contract.types.items() if item[1].is_selectable)
    data = listed.example.decode()
    key = contract.idempotency_key(event_type, Payload(listed.example))
    if key is not None:
        entity = key.removeprefix(f"{event_type}:")
        if data.count(f'"{entity}"') != 1:
            raise SystemExit(f"bench: the example of {event_type} does not have the id {entity!r} exactly once")
        data = data.replace(f'"{entity}"', f'"{entity[:-8]}{MARK.decode()}"')
    return f'{{"type":{json.dumps(event_type)},"data":{data}}}'


def under_contract(config: str, name: str) -> str:
    """Change a configuration of `config_text` to another contract, all of whose features are on."""
    contract = _contract(name)
    switches = ", ".join(f"{feature} = true" for feature in sorted(contract.features))
    config = config.replace('contract = "standard"', f'contract = "{name}"\nfeatures = {{ {switches} }}')
    if contract.signs:
        secret = contract.new_secret(bytes)
        return re.sub(r'^secret = "whsec_.*"$', f'secret = "{secret}"', config, flags=re.MULTILINE)
    return re.sub(r'^secret = "whsec_.*"\n', "", config, flags=re.MULTILINE)


def _contract(name: str) -> Contract:
    catalogue = ContractCatalogue.load()
    found = catalogue.get(name)
    if found is None or not found.all_types:
        known = [contract for contract in map(catalogue.get, catalogue.names) if contract is not None]
        closed = [contract.name for contract in known if contract.all_types]
        raise SystemExit(f"bench: --contract takes one of {', '.join(closed)}")
    return found
