"""What an application and an endpoint must comply with, wherever they are written down: their contract's rules and ours.

Every rule stands here once; the check of the file, the API and an import ask for all of them. An issue points into the
definition, and its message is a sentence with what to do after the last semicolon. `delivery.allow_http` and
`allow_networks`, of `[delivery]` or an application, are the operator's word and override what a contract demands.
"""

from collections.abc import Callable, Collection, Container, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

from relay.config.auth import faults_of as faults_of_auth
from relay.config.auth import header_name
from relay.config.definitions import ApplicationDefinition, Definition, EndpointDefinition, EndpointTls
from relay.config.listening import listeners_of
from relay.config.model import Config, DeliveryConfig
from relay.config.tls import certificate_of, expiry_warning, faults_of
from relay.contracts import Contract, ContractCatalogue, Registration
from relay.core.grammars import check_header
from relay.core.issues import MISTAKES_MAX, InvalidConfig, Issue, did_you_mean, pointer
from relay.core.netguard import THIS_RELAY, Address, Guard, Listener, Networks, why_refused
from relay.core.units import format_duration
from relay.core.urls import check_url, literal_address, place_of
from relay.core.verification import ORIGIN_HEADER, Method


@dataclass(frozen=True, slots=True)
class Rules:
    """What an endpoint is judged by; without a contract only by our own rules."""

    contract: Contract | None  # what writes its requests: its own, or its application's
    config: Config
    guard: Guard  # what decides which addresses are dialled, as far as it can be known
    allow_networks: Networks = ()  # what is open to the application, beside what is open to all
    for_tenant: bool = False  # the sentences are read by one: nothing of our network, no setting that is not his
    catalogue: Contract | None = None  # its application's contract, which says what types there are


def check_sources(sources: Iterable[Address], own: Container[Address]) -> Iterator[Issue]:
    """Yield each address that no delivery can come from, for this host does not have it; where that can be known."""
    for index, address in enumerate(sources):
        if address.is_unspecified or address not in own:
            sentence = f"{address} is no address of this host; list those that it has (`ip address` shows them)"
            yield Issue(pointer("source_addresses", index), sentence)


def guard_of(delivery: DeliveryConfig, own: Container[Address], listeners: Callable[[], Collection[Listener]]) -> Guard:
    """Return what decides by a `[delivery]` which addresses are dialled from this host, at registration and at the dial."""
    return Guard(delivery.allow_networks, own=own, own_addresses=delivery.own_addresses, listeners=listeners)


def refuse_misplaced(config: Config, own: Container[Address]) -> None:
    """Raise InvalidConfig for what only this host knows to be wrong: foreign addresses to deliver from, own listeners."""
    issues = [*_foreign_sources(config, own), *_own_listeners(config, own)]
    if issues:
        raise InvalidConfig(issues)


def _foreign_sources(config: Config, own: Container[Address]) -> Iterator[Issue]:
    tables = {"delivery": config.delivery.source_addresses}
    tables |= {f"application[{owner.id}]": owner.source_addresses or () for owner in config.applications}
    for table, sources in tables.items():
        for issue in check_sources(sources, own):
            yield replace(issue, path=f"{table}.source_addresses", message=f"{table}.source_addresses: {issue.message}")


def _own_listeners(config: Config, own: Container[Address]) -> Iterator[Issue]:
    """Yield each endpoint of the file at an address of this host where the relay itself listens."""
    listeners = listeners_of(config.server.listen)
    guard = guard_of(config.delivery, own, lambda: listeners)
    for owner in config.applications:
        for endpoint in owner.endpoints:
            for name, url in _urls_of(endpoint):
                address, port = place_of(url)
                if address is not None and guard.is_listener(address, port):
                    key = f"application[{owner.id}].endpoint[{endpoint.id}].{name}"
                    yield Issue(key, f"{key}: {why_refused(THIS_RELAY, str(address))}")


def _urls_of(endpoint: EndpointDefinition) -> Iterator[tuple[str, str]]:
    """Yield where requests for an endpoint go, by the names of their settings."""
    yield "url", endpoint.url
    if endpoint.auth is not None and endpoint.auth.token_url is not None:
        yield "auth.token_url", endpoint.auth.token_url


def check_application(
    application: ApplicationDefinition, contracts: ContractCatalogue, config: Config
) -> Iterator[Issue]:
    """Yield everything that is wrong with an application but its endpoints."""
    contract = contracts.get(application.contract)
    if contract is None:
        yield _no_contract(application.contract, contracts)
    else:
        known = ", ".join(sorted(contract.features)) or "none"
        for name in application.features:
            if name not in contract.features:
                sentence = f"the contract {contract.name} has no such feature; it has: {known}"
                yield Issue(pointer("features", name), sentence)
    yield from _check_max_age(application, config)


def _no_contract(name: str, contracts: ContractCatalogue) -> Issue:
    near, known = did_you_mean(name, contracts.names), ", ".join(contracts.names)
    remedy = f"{near} There are: {known}" if near else f"there are: {known}"
    return Issue("/contract", f"there is no contract {name[:64]!r}; {remedy}")


def check_choice(name: str | None, contracts: ContractCatalogue, *, for_tenant: bool = False) -> Iterator[Issue]:
    """Yield what is wrong with an endpoint's choice of a contract of its own; a tenant has those that are open to tenants."""
    contract = None if name is None else contracts.get(name)
    if name is not None and for_tenant and (contract is None or not contract.registration.self_service):
        sentence = (
            f"there is no contract {name[:64]!r} that you may choose; leave it out, or ask whoever runs this relay"
        )
        yield Issue("/contract", sentence)
    elif name is not None and contract is None:
        yield _no_contract(name, contracts)


def check_endpoint(endpoint: EndpointDefinition, rules: Rules) -> Iterator[Issue]:
    """Yield everything that is wrong with an endpoint but its choice of a contract."""
    contract = rules.contract
    registration = contract.registration if contract else Registration(https=False, public=False)
    for fault in address_faults(endpoint.url, registration, rules):
        yield Issue("/url", fault)
    if registration.subscription_required and "event_types" not in endpoint.model_fields_set:
        sentence = 'the contract asks for a choice of event types; list them, or write ["*"] for all'
        yield Issue("/event_types", sentence)
    catalogue = rules.catalogue or contract
    if catalogue is not None:
        yield from _check_subscriptions(endpoint.event_types, catalogue)
    if contract is not None and catalogue not in (None, contract):
        yield from _check_shared(endpoint.event_types, catalogue, contract)
    yield from _check_headers(endpoint, contract)
    yield from _check_verification(endpoint, rules)
    yield from _check_tls(endpoint)
    yield from _check_auth(endpoint, rules)
    yield from _check_concurrency(endpoint, rules.config.delivery.concurrency)
    yield from _check_max_age(endpoint, rules.config)


def secret_faults(values: Sequence[str], contract: Contract) -> Iterator[tuple[int, str]]:
    """Yield each secret, by its place in the list, that cannot sign, with a sentence that does not show it."""
    for index, value in enumerate(values):
        wrong = contract.check_secret(value)
        if wrong:
            yield index, wrong
        elif value in values[:index]:
            yield index, "this secret is listed twice; remove one of the two"


def warn_endpoint(url: str, event_types: tuple[str, ...], contract: Contract | None) -> Iterator[Issue]:
    """Yield what is lawful about an endpoint and should be thought over."""
    for index, pattern in enumerate(event_types):
        sentence = contract.warn_subscription(pattern) if contract else None
        if sentence:
            yield Issue(pointer("event_types", index), sentence, warning=True)
    if url.lower().startswith("http:"):
        sentence = "payloads go to this address unencrypted; use https where the receiver has it"
        yield Issue("/url", sentence, warning=True)


def address_faults(url: str, registration: Registration, rules: Rules) -> tuple[str, ...]:
    """List what is wrong with an endpoint's URL, each with what to do about it; empty if it may be registered.

    A contract that does not ask for a public address lets names of this network and any port through. What a name
    resolves to is judged at every attempt, and whatever a contract says, only an `allow_networks` opens a network.
    """
    delivery = rules.config.delivery
    try:
        address = literal_address(url)
    except ValueError:
        allow_private = False
    else:
        opened = (*delivery.allow_networks, *rules.allow_networks)
        allow_private = address is None and (bool(opened) or not registration.public)
    return check_url(
        url,
        allow_http=delivery.allow_http or not registration.https,
        allow_private=allow_private,
        guard=rules.guard,
        opened=rules.allow_networks,
        for_tenant=rules.for_tenant,
    )


def _check_subscriptions(event_types: Iterable[str], contract: Contract) -> Iterator[Issue]:
    """Yield each subscription that the contract does not have, the first of them with what was meant."""
    wrong = 0
    for index, pattern in enumerate(event_types):
        sentence = contract.check_subscription(pattern, suggest=wrong < MISTAKES_MAX)
        if sentence:
            wrong += 1
            yield Issue(pointer("event_types", index), sentence)


def _check_shared(event_types: Iterable[str], catalogue: Contract, own: Contract) -> Iterator[Issue]:
    """Yield each subscription of which the endpoint's own contract knows no type."""
    for index, pattern in enumerate(event_types):
        if catalogue.check_subscription(pattern, suggest=False) is not None:
            continue  # that was said
        sentence = own.check_subscription(pattern, suggest=False)
        listed = () if sentence or catalogue.catalogue_open else catalogue.types
        if listed and not any(catalogue.covers(pattern, name) and own.takes(pattern, name) for name in listed):
            sentence = f"{pattern[:80]!r} covers no event type that {catalogue.name} has, too; subscribe to others"
        if sentence:
            yield Issue(pointer("event_types", index), f"under the endpoint's contract {own.name} {sentence}")


def _check_headers(endpoint: EndpointDefinition, contract: Contract | None) -> Iterator[Issue]:
    seen: set[str] = set()
    for name, value in endpoint.headers.items():
        fault = check_header(name, value)
        if fault is None and contract is not None and contract.sets_header(name):
            fault = f"{name} is written by the contract {contract.name}; remove it"
        if fault is None and name.lower() in seen:
            fault = "this header is there twice; remove one: case is no difference"
        if fault:
            yield Issue(pointer("headers", name), fault)
        seen.add(name.lower())


def _check_verification(endpoint: EndpointDefinition, rules: Rules) -> Iterator[Issue]:
    """What asks by OPTIONS says who asks, in a header of its own; what the contract asks of receivers is no tenant's choice."""
    promised = Method.NONE if rules.contract is None else rules.contract.verification.asks
    wanted = promised if endpoint.verification is None else Method(endpoint.verification)
    if rules.for_tenant and promised is not Method.NONE and wanted is not promised:
        yield Issue("/verification", f'the contract has receivers verified by "{promised}"; leave it out')
    if wanted is not Method.OPTIONS:
        return
    if not rules.config.delivery.origin:
        remedy = "ask its operator" if rules.for_tenant else 'set delivery.origin, such as "events.example.com"'
        yield Issue("/verification", f"this relay has no name that receivers could allow by OPTIONS; {remedy}")
    for name in endpoint.headers:
        if name.lower() == ORIGIN_HEADER.lower():
            yield Issue(pointer("headers", name), f"{ORIGIN_HEADER} says what the receiver allowed; remove it")


def _check_tls(endpoint: EndpointDefinition) -> Iterator[Issue]:
    if endpoint.tls is None:
        return
    if endpoint.url.lower().startswith("http:"):
        yield Issue("/tls", "the URL is http, so nothing of this is used; write https, or remove it")
    texts = (endpoint.tls.ca, endpoint.tls.client_cert, endpoint.tls.client_key)
    for key, sentence in faults_of(*(text.get_secret_value() if text else "" for text in texts)):
        yield Issue(pointer("tls", key), sentence)


_TOKEN_SERVERS = Registration(https=True, public=True)
"""Where tokens may come from whatever a contract says of receivers: client secrets go there."""


def _check_auth(endpoint: EndpointDefinition, rules: Rules) -> Iterator[Issue]:
    auth = endpoint.auth
    if auth is None:
        return
    for key, sentence in faults_of_auth(auth):
        yield Issue(pointer("auth", key), sentence)
    if auth.token_url:
        for fault in address_faults(auth.token_url, _TOKEN_SERVERS, rules):
            yield Issue("/auth/token_url", fault)
    name, contract = header_name(auth), rules.contract
    place = "/auth/header" if auth.header is not None else "/auth/type"
    if contract is not None and name.lower() in contract.header_names:
        yield Issue(place, f"{name} is written by the contract {contract.name}; let another header authenticate")
    if name.lower() in {each.lower() for each in endpoint.headers}:
        yield Issue(place, f"{name} stands in headers as well and would be overwritten; remove one of the two")


def warn_tls(tls: EndpointTls | None, now_ms: int) -> Iterator[Issue]:
    """Yield what should be thought over about how TLS is spoken to an endpoint: a client certificate that ends soon."""
    if tls is not None and tls.client_cert is not None:
        warning = expiry_warning(certificate_of(tls.client_cert.get_secret_value()), now_ms)
        if warning:
            yield Issue("/tls/client_cert", warning, warning=True)


def _check_concurrency(endpoint: EndpointDefinition, slots: int) -> Iterator[Issue]:
    """One endpoint never holds more than a quarter of the global slots (Q4)."""
    wanted, most = endpoint.concurrency or 0, max(1, slots // 4)
    if wanted > most:
        sentence = f"an endpoint may use a quarter of delivery.concurrency at most, which is {most}"
        yield Issue("/concurrency", f"{sentence}; lower it to {most}, or raise delivery.concurrency to {wanted * 4}")


def _check_max_age(definition: Definition, config: Config) -> Iterator[Issue]:
    """What may still be retried must still be there (Q14)."""
    most_ms = config.storage.retention.events_ms
    if (definition.max_age_ms or 0) > most_ms:
        limit = "storage.retention.events"
        yield Issue("/max_age", f"is longer than {limit}, {format_duration(most_ms)}; shorten it, or raise {limit}")
