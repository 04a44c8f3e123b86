"""What settings ask of each other, and of contracts, headers, URLs and event types.

Every check looks at one whole configuration and yields findings. A finding names the settings it rests on: where one of
them was already refused, the finding is dropped, for it would rest on a default that nobody chose.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

from relay.config.admission import (
    Rules,
    check_application,
    check_choice,
    check_endpoint,
    guard_of,
    secret_faults,
    warn_endpoint,
    warn_tls,
)
from relay.config.definitions import ApplicationConfig, EndpointConfig, Section
from relay.config.listening import Passed, is_local, is_systemd, listeners_of
from relay.config.model import Config
from relay.config.tls import certificate_of, expiry_warning, faults_of
from relay.contracts import Contract, ContractCatalogue
from relay.core.issues import Issue, did_you_mean, keys_of
from relay.core.locate import KeyPath
from relay.core.units import format_duration
from relay.core.urls import check_url

TOKEN_CHARACTERS_MIN = 16
_LISTED_MAX = 40

_RETENTION: KeyPath = ("storage", "retention")
_LIMITS: Mapping[str, tuple[KeyPath, ...]] = {
    "concurrency": (("delivery", "concurrency"),),
    "max_age": ((*_RETENTION, "events"),),
}
"""What else an issue rests on, by the setting that it is about."""

_ALLOWANCES: tuple[KeyPath, ...] = (("delivery", "allow_networks"), ("delivery", "allow_http"), ("server", "listen"))

_ADDRESSES = ("/url", "/auth/token_url")
"""What of an endpoint these are about."""


class Finding(NamedTuple):
    """One thing that does not fit, at a path, resting on what stands at other paths."""

    path: KeyPath
    message: str
    remedy: str
    rests_on: tuple[KeyPath, ...] = ()
    warning: bool = False


class Circumstances(NamedTuple):
    """What a configuration is judged by beside what it says."""

    dev: bool = False  # `serve --dev`
    now_ms: int | None = None  # None: nothing is judged by the time
    passed: Sequence[Passed] | None = None  # None: it is not known what systemd passes


class Subject(NamedTuple):
    """What the checks look at."""

    config: Config
    contracts: ContractCatalogue
    given: Circumstances


def check(subject: Subject) -> Iterator[Finding]:
    """Yield everything that does not fit together."""
    for rule in _RULES:
        yield from rule(subject)


def _listeners(subject: Subject) -> Iterator[Finding]:
    listen = subject.config.server.listen
    for index, address in enumerate(listen):
        path: KeyPath = ("server", "listen", index)
        if address in listen[:index]:
            yield Finding(path, "this address is listed twice", "Remove one of the two.")
        if is_local(address):
            continue
        if subject.given.dev:
            yield Finding(
                path,
                f"--dev is for addresses on this host only, not {address}",
                'Listen on "127.0.0.1:8420", or drop --dev.',
            )
            continue
        yield Finding(
            path,
            f"other hosts can reach {address}, and the relay speaks plain HTTP: tokens and payloads can be read",
            "Put a TLS proxy before it, or listen on 127.0.0.1.",
            warning=True,
        )


def _passed(subject: Subject) -> Iterator[Finding]:
    """What systemd passes and what is listed go together: a socket that nobody takes lets its clients wait for ever."""
    if subject.given.passed is None:
        return
    listen, path = subject.config.server.listen, ("server", "listen")
    for index, entry in enumerate(listen):
        if is_systemd(entry):
            remedy = "Enable relay.socket and start that first, or list addresses, such as 127.0.0.1:8420."
            yield Finding((*path, index), "systemd passed no socket for this entry", remedy)
    for one in subject.given.passed:
        if one.address not in listen:
            yield Finding(
                path,
                f"systemd passed a socket at {one.address} ({one.name}) that no entry takes",
                'Write "systemd" in server.listen, or take the socket out of the socket unit.',
            )


def _durations(subject: Subject) -> Iterator[Finding]:
    """Hold durations against each other; the `max_age` of applications and endpoints is asked for with all of them."""
    delivery, retention = subject.config.delivery, subject.config.storage.retention
    cool_down, cool_down_max = (
        _Length.of(delivery.health, ("delivery", "health"), key) for key in ("cool_down", "cool_down_max")
    )
    max_age = _Length.of(delivery, ("delivery",), "max_age")
    events, idempotency = (_Length.of(retention, _RETENTION, key) for key in ("events", "idempotency"))
    yield from _check_length(cool_down, cool_down_max)
    yield from _check_length(max_age, events)  # what may still be retried must still be there (Q14)
    yield from _check_length(events, idempotency, ": a request repeated late would make a second event")


def _tls(subject: Subject) -> Iterator[Finding]:
    tls, path = subject.config.delivery.tls, ("delivery", "tls")
    texts = (tls.ca_file, tls.client_cert, tls.client_key)
    faults = list(faults_of(*(text.get_secret_value() for text in texts)))
    for key, sentence in faults:
        yield Finding((*path, "ca_file" if key == "ca" else key), *_sentence(sentence))
    if subject.given.now_ms is not None and not faults:
        warning = expiry_warning(certificate_of(tls.client_cert.get_secret_value()), subject.given.now_ms)
        if warning:
            yield Finding((*path, "client_cert"), *_sentence(warning), warning=True)


def _tokens(subject: Subject) -> Iterator[Finding]:
    tokens = subject.config.tokens
    ids = [application.id for application in subject.config.applications]
    for index, token in enumerate(tokens):
        path: KeyPath = ("token", index)
        secret = token.secret.get_secret_value()
        if token.name in [other.name for other in tokens[:index]]:
            yield Finding((*path, "name"), "another token has this name", "Give each token a name of its own.")
        if secret in [other.secret.get_secret_value() for other in tokens[:index]]:
            yield Finding((*path, "secret"), "another token has the same secret", "Make a fresh one for each token.")
        if len(secret) < TOKEN_CHARACTERS_MIN or not (secret.isascii() and secret.isprintable() and " " not in secret):
            yield Finding(
                (*path, "secret"),
                f"a token is at least {TOKEN_CHARACTERS_MIN} visible ASCII characters without blanks",
                "Make one with: openssl rand -hex 32",
            )
        yield from _token_application((*path, "application"), token.role, token.application, ids)


def _token_application(path: KeyPath, role: str, application: str | None, ids: list[str]) -> Iterator[Finding]:
    rests_on: tuple[KeyPath, ...] = tuple(("application", index, "id") for index in range(len(ids)))
    if application is None and role == "application":
        yield Finding(
            path,
            "is missing: a token of this role belongs to one application",
            f"Name one of {one_of(ids)}.",
            rests_on,
        )
    if application is None:
        return
    if role not in ("producer", "application"):
        yield Finding(path, f"a token with role {role} sees every application", "Remove this key, or change the role.")
    elif application not in ids:
        remedy = f"{did_you_mean(application, ids)} There are: {one_of(dict.fromkeys(ids))}.".strip()
        yield Finding(path, "no such application", remedy, rests_on)


def _identities(subject: Subject) -> Iterator[Finding]:
    for noun, owners in (("application", _applications(subject)), ("endpoint", _endpoints(subject))):
        seen = set()
        for path, owner in owners:
            if owner.id in seen:
                remedy = "Ids of endpoints are unique in the whole relay." if noun == "endpoint" else "Choose another."
                yield Finding((*path, "id"), f"another {noun} has this id", remedy)
            seen.add(owner.id)


def _definitions(subject: Subject) -> Iterator[Finding]:
    """Ask of applications and endpoints what is asked of them everywhere."""
    for path, application in _applications(subject):
        for issue in check_application(application, subject.contracts, subject.config):
            if issue.path != "/contract" or not subject.contracts.is_faulty(application.contract):
                yield _finding(path, issue, (*path, "contract"))
    listeners = listeners_of(subject.config.server.listen)
    guard = guard_of(subject.config.delivery, (), lambda: listeners)
    for path, endpoint in _endpoints(subject):
        contract, owner = _contract_at(subject, path), _application_at(subject, path)
        catalogue = subject.contracts.get(owner.contract)
        rules = Rules(contract, subject.config, guard, owner.allow_networks, catalogue=catalogue)
        faults = list(check_endpoint(endpoint, rules))
        if not subject.contracts.is_faulty(endpoint.contract or ""):
            yield from (_finding(path, issue) for issue in check_choice(endpoint.contract, subject.contracts))
        urls = (endpoint.url, endpoint.auth.token_url if endpoint.auth else None) if faults else ()
        always = [one for url in urls if url for one in check_url(url, allow_http=True, allow_private=True)]
        for issue in faults:
            where = (*_ALLOWANCES, (*path[:2], "allow_networks")) if issue.path in _ADDRESSES else ()
            yield _finding(path, issue, *(() if issue.message in always else (*_contracts_of(path), *where)))
        wrong = {issue.path for issue in faults}
        warnings = [*warn_endpoint(endpoint.url, endpoint.event_types, catalogue)]
        if subject.given.now_ms is not None:
            warnings += warn_tls(endpoint.tls, subject.given.now_ms)
        for issue in warnings:
            if issue.path not in wrong and not (subject.given.dev and issue.path == "/url"):
                yield _finding(path, issue, *_contracts_of(path))


def _finding(path: KeyPath, issue: Issue, *rests_on: KeyPath) -> Finding:
    """Place in the file what was found wrong with one definition."""
    keys = tuple(int(key) if key.isdigit() else key for key in keys_of(issue.path))
    limits = _LIMITS.get(str(keys[0]), ())
    return Finding((*path, *keys), *_sentence(issue.message), (*rests_on, *limits), issue.warning)


def _numbers(subject: Subject) -> Iterator[Finding]:
    """A contract may limit how many endpoints an application has (WOC-2)."""
    for path, application in _applications(subject):
        contract = subject.contracts.get(application.contract)
        count = len(application.endpoints)
        if contract is not None and not contract.registration.allows(count):
            most = contract.registration.max_endpoints
            message = f"under the contract {contract.name} an application may have {most}, not {count}"
            yield Finding((*path, "endpoint"), message, "Remove the others.", ((*path, "contract"),))


def _secrets(subject: Subject) -> Iterator[Finding]:
    for path, endpoint in _endpoints(subject):
        contract = _contract_at(subject, path)
        if contract is None:
            continue
        if endpoint.secret is not None and endpoint.secrets is not None:
            remedy = "Keep secrets = [newest, older] while rotating, else secret alone."
            yield Finding((*path, "secret"), "there are both secret and secrets", remedy)
        if contract.needs_secret and not endpoint.secret_values:
            yield Finding(
                (*path, "secret"),
                f"is missing: the contract {contract.name} signs what it sends",
                'Add secret = "env:NAME", "file:/path" or "cred:name"; `relay init` shows how one looks.',
                ((*path, "secrets"), *_contracts_of(path)),
            )
        yield from _each_secret(path, endpoint, contract)


def _each_secret(path: KeyPath, endpoint: EndpointConfig, contract: Contract) -> Iterator[Finding]:
    for index, wrong in secret_faults(endpoint.secret_values, contract):
        place: KeyPath = (*path, "secret") if endpoint.secrets is None else (*path, "secrets", index)
        yield Finding(place, *_sentence(wrong), _contracts_of(path))


_RULES: tuple[Callable[[Subject], Iterator[Finding]], ...] = (
    _listeners,
    _passed,
    _durations,
    _tls,
    _tokens,
    _identities,
    _definitions,
    _numbers,
    _secrets,
)


def _applications(subject: Subject) -> Iterator[tuple[KeyPath, ApplicationConfig]]:
    for index, application in enumerate(subject.config.applications):
        yield ("application", index), application


def _endpoints(subject: Subject) -> Iterator[tuple[KeyPath, EndpointConfig]]:
    for path, application in _applications(subject):
        for index, endpoint in enumerate(application.endpoints):
            yield (*path, "endpoint", index), endpoint


def _application_at(subject: Subject, endpoint: KeyPath) -> ApplicationConfig:
    return subject.config.applications[int(endpoint[1])]


def _contract_at(subject: Subject, path: KeyPath) -> Contract | None:
    """Return the contract of an endpoint: its own, or its application's."""
    owner = _application_at(subject, path)
    return subject.contracts.get(owner.endpoints[int(path[3])].contract or owner.contract)


def _contracts_of(endpoint: KeyPath) -> tuple[KeyPath, ...]:
    """Return where it stands which contract an endpoint has."""
    return (*endpoint[:2], "contract"), (*endpoint, "contract")


class _Length(NamedTuple):
    """A duration that a section holds, and whether somebody wrote it there."""

    path: KeyPath
    ms: int
    is_written: bool

    @classmethod
    def of(cls, section: Section, path: KeyPath, key: str) -> "_Length":
        name = f"{key}_ms"
        return cls((*path, key), getattr(section, name), name in section.model_fields_set)

    def __str__(self) -> str:
        return ".".join(map(str, self.path))


def _check_length(length: _Length, limit: _Length, why: str = "") -> Iterator[Finding]:
    """Blame for what is too long the one that somebody wrote; the other may be a default."""
    if length.ms <= limit.ms:
        return
    if length.is_written:
        message = f"is longer than {limit}, {format_duration(limit.ms)}{why}"
        yield Finding(length.path, message, f"Shorten it, or raise {limit}.", (limit.path,))
    else:
        message = f"is shorter than {length}, {format_duration(length.ms)}{why}"
        yield Finding(limit.path, message, f"Raise it, or set a shorter {length}.", (length.path,))


def one_of(words: Iterable[str]) -> str:
    """List the words one may choose from; of very many, the first."""
    quoted = [f'"{word}"' for word in words]
    more = f" and {len(quoted) - _LISTED_MAX} more" if len(quoted) > _LISTED_MAX else ""
    return ", ".join(quoted[:_LISTED_MAX]) + more


def _sentence(wrong: str) -> tuple[str, str]:
    """Split `what is wrong; what to do` into the two parts of a problem."""
    message, _, remedy = wrong.rpartition("; ")
    stop = "." if remedy[-1].isalnum() else ""  # a remedy may end in a command to copy
    return (message, f"{remedy[0].upper()}{remedy[1:]}{stop}") if message else (wrong, "")
