"""The configuration: one TOML file, environment and flags over it, read into validated models.

Read `definitions` for what may be written about applications and endpoints, `model` for every setting, `admission` and
`checks` for what is refused, `load` for how a file becomes a configuration.
"""

from relay.config.definitions import (
    SECRETS_MAX,
    ApplicationConfig,
    ApplicationDefinition,
    EndpointAuth,
    EndpointConfig,
    EndpointDefinition,
    EndpointTls,
    LimitsOverride,
    Section,
)
from relay.config.explain import reload_changes, render_issues, severity, source_and_line
from relay.config.load import Loaded, load
from relay.config.model import Config, DeliveryConfig, LimitsConfig, ServerConfig, TokenConfig

__all__ = [
    "SECRETS_MAX",
    "ApplicationConfig",
    "ApplicationDefinition",
    "Config",
    "DeliveryConfig",
    "EndpointAuth",
    "EndpointConfig",
    "EndpointDefinition",
    "EndpointTls",
    "LimitsConfig",
    "LimitsOverride",
    "Loaded",
    "Section",
    "ServerConfig",
    "TokenConfig",
    "load",
    "reload_changes",
    "render_issues",
    "severity",
    "source_and_line",
]
