"""The settings in effect, each with where it came from; and what a reload would change."""

from collections.abc import Mapping
from typing import Any, NamedTuple

from relay.config.layers import Layers, leaves
from relay.config.mistakes import hidden, key_text
from relay.config.model import Config


class Setting(NamedTuple):
    """One setting in effect; secrets in `value` are masked."""

    key: str
    value: Any
    origin: str  # `default`, `file:LINE`, `env NAME`, `flag --name`


class ReloadPlan(NamedTuple):
    """What differs between two configurations, by key, or by id for tokens, applications and endpoints."""

    changed: list[str]
    needs_restart: list[str]


def effective(config: Config, layers: Layers) -> tuple[Setting, ...]:
    """List every setting that has a value, in the order of the models."""
    document = config.model_dump(mode="json", by_alias=True, exclude_none=True)
    return tuple(
        Setting(key_text(path, document), hidden(path, value), layers.origin(path)) for path, value in leaves(document)
    )


def reload_changes(old: Config, new: Config) -> ReloadPlan:
    """Say which parts differ, and which of them only a restart puts in force (DESIGN §9)."""
    before, after = _parts(old), _parts(new)
    differing = [key for key in dict.fromkeys([*before, *after]) if before.get(key) != after.get(key)]
    needs_restart = [key for key in differing if _is_fixed(key)]
    return ReloadPlan([key for key in differing if key not in needs_restart], needs_restart)


def _is_fixed(key: str) -> bool:
    """Whether a setting is taken over at start only."""
    return key.startswith(("server.", "storage.", "log.")) and not key.startswith("storage.retention.")


def _parts(config: Config) -> Mapping[str, Any]:
    """Split a configuration into what a person would name: single settings, tokens, applications, endpoints."""
    single = config.model_dump(by_alias=True, include={"server", "storage", "delivery", "log"})
    parts: dict[str, Any] = {key_text(path, single): value for path, value in leaves(single)}
    parts |= {f"token[{token.name}]": token for token in config.tokens}
    for application in config.applications:
        name = f"application[{application.id}]"
        parts[name] = application.model_copy(update={"endpoints": ()})
        parts |= {f"{name}.endpoint[{endpoint.id}]": endpoint for endpoint in application.endpoints}
    return parts
