"""What people write about applications and keys: read as JSON, checked whole, every mistake with a JSON pointer."""

from collections.abc import Iterator, Mapping
from datetime import datetime
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from relay.api import endpoint_input, problems
from relay.api.endpoint_input import Rules
from relay.api.forms import Form, merged
from relay.api.problems import Refused
from relay.config import ApplicationDefinition, Config, EndpointDefinition
from relay.config.fields import Id
from relay.contracts import Contract, ContractCatalogue
from relay.core.issues import Issue, pointer
from relay.core.units import unix_ms
from relay.registry import ApplicationDraft, KeyDraft


def _read_true(value: Any) -> Any:
    """`"key": true` asks for a key without a name that does not expire."""
    return {} if value is True else value


class NewApplication(ApplicationDefinition):
    """An application that is to be made; what comes with it is read on its own and is no part of the definition."""

    id: Id | None = Field(None, exclude=True)
    endpoint: Mapping[str, Any] | None = Field(None, exclude=True)
    key: Annotated[Mapping[str, Any] | None, BeforeValidator(_read_true)] = Field(None, exclude=True)


class KeyInput(BaseModel):
    """The fields of a key."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: Annotated[str, Field(max_length=200)] = ""
    expires_at: str | None = None


class Reader:
    """Reads what is written, against the configuration and the contracts in force."""

    def __init__(self, config: Config, contracts: ContractCatalogue, now_ms: int) -> None:
        self._config = config
        self._contracts = contracts
        self._now_ms = now_ms

    def create(self, written: Mapping[str, Any]) -> ApplicationDraft:
        """Read a new application with its first endpoint and key; Refused with every mistake."""
        found, mistakes = _NEW.read(written)
        if found is None:
            raise Refused(problems.invalid(mistakes))
        mistakes += self._check(found)
        endpoint = self._endpoint(found, mistakes)
        key = self._key(found.key, "/key", mistakes)
        if mistakes:
            raise Refused(problems.invalid(mistakes))
        return ApplicationDraft(found, found.id, endpoint, key)

    def revise(self, present: ApplicationDefinition, patch: Mapping[str, Any]) -> ApplicationDefinition:
        """Apply a JSON merge patch (RFC 7396): null takes a setting back to its default. Refused with every mistake."""
        found, mistakes = _CHANGED.read(merged(present.to_json(), patch))
        if found is not None:
            mistakes = list(self._check(found))
            if "contract" not in patch:  # features that a contract lost since must not block another edit
                mistakes = _CHANGED.touched(patch, mistakes)
        if found is None or mistakes:
            raise Refused(problems.invalid(mistakes))
        return found

    def create_key(self, written: Mapping[str, Any]) -> KeyDraft:
        """Read a new key; Refused with every mistake."""
        mistakes: list[Issue] = []
        key = self._key(written, "", mistakes)
        if key is None or mistakes:
            raise Refused(problems.invalid(mistakes))
        return key

    def _check(self, definition: ApplicationDefinition) -> Iterator[Issue]:
        contract = self._contracts.get(definition.contract)
        if contract is None:
            known = ", ".join(self._contracts.names)
            yield Issue("/contract", f"there is no contract {definition.contract[:64]!r}; there are: {known}")
        else:
            yield from _check_features(definition, contract)
        if (definition.max_age_ms or 0) > self._config.storage.retention.events_ms:
            yield Issue("/max_age", "is longer than storage.retention.events: the event would be gone before its end")

    def _endpoint(self, found: NewApplication, mistakes: list[Issue]) -> EndpointDefinition | None:
        contract = self._contracts.get(found.contract)
        if found.endpoint is None or contract is None:
            return None
        endpoint, wrong = endpoint_input.read(found.endpoint, Rules(contract, self._config))
        mistakes += _within("/endpoint", wrong)
        return endpoint

    def _key(self, written: Mapping[str, Any] | None, where: str, mistakes: list[Issue]) -> KeyDraft | None:
        if written is None:
            return None
        found, wrong = _KEY.read(written)
        mistakes += _within(where, wrong)
        if found is None:
            return None
        expires_at_ms = None if found.expires_at is None else _moment_ms(found.expires_at)
        if found.expires_at is not None and expires_at_ms is None:
            message = 'must be a time with its offset from UTC, like "2027-01-31T00:00:00Z"'
            mistakes.append(Issue(f"{where}/expires_at", message))
        elif expires_at_ms is not None and expires_at_ms <= self._now_ms:
            mistakes.append(Issue(f"{where}/expires_at", "is over already; name a time to come, or leave it out"))
        return KeyDraft(found.name, expires_at_ms)


def _check_features(definition: ApplicationDefinition, contract: Contract) -> Iterator[Issue]:
    known = ", ".join(sorted(contract.features)) or "none"
    for name in definition.features:
        if name not in contract.features:
            yield Issue(pointer("features", name), f"the contract {contract.name} has no such feature; it has: {known}")


def _within(where: str, mistakes: list[Issue]) -> Iterator[Issue]:
    return (Issue(where + mistake.path, mistake.message) for mistake in mistakes)


def _moment_ms(text: str) -> int | None:
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        return None
    return None if moment.tzinfo is None else unix_ms(moment)


_NEW = Form(NewApplication, "an application")
_CHANGED = Form(ApplicationDefinition, "an application")
_KEY = Form(KeyInput, "a key")
