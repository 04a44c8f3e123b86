"""The configuration: one TOML file, environment and flags over it, read into validated models."""

from relay.config.definitions import (
    SECRETS_MAX,
    ApplicationConfig,
    ApplicationDefinition,
    EndpointConfig,
    EndpointDefinition,
    RetryOverride,
    Section,
)
from relay.config.explain import ReloadPlan, Setting, reload_changes, render_issues, severity, source_and_line
from relay.config.fields import check_listen, is_local
from relay.config.layers import DEV
from relay.config.load import Loaded, load
from relay.config.model import (
    Config,
    DeliveryConfig,
    HealthConfig,
    LogConfig,
    RetentionConfig,
    RetryConfig,
    ServerConfig,
    StorageConfig,
    TokenConfig,
)

__all__ = [
    "DEV",
    "SECRETS_MAX",
    "ApplicationConfig",
    "ApplicationDefinition",
    "Config",
    "DeliveryConfig",
    "EndpointConfig",
    "EndpointDefinition",
    "HealthConfig",
    "Loaded",
    "LogConfig",
    "ReloadPlan",
    "RetentionConfig",
    "RetryConfig",
    "RetryOverride",
    "Section",
    "ServerConfig",
    "Setting",
    "StorageConfig",
    "TokenConfig",
    "check_listen",
    "is_local",
    "load",
    "reload_changes",
    "render_issues",
    "severity",
    "source_and_line",
]
