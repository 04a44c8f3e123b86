"""The configuration: one TOML file, environment and flags over it, read into validated models (DESIGN §9)."""

from relay.config.definitions import (
    SECRETS_MAX,
    ApplicationConfig,
    ApplicationDefinition,
    EndpointConfig,
    EndpointDefinition,
    RetryOverride,
)
from relay.config.layers import DEV
from relay.config.listeners import check_listen, is_local
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
from relay.config.report import Problem, Severity, render_problems
from relay.config.show import ReloadPlan, Setting, reload_changes

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
    "Problem",
    "ReloadPlan",
    "RetentionConfig",
    "RetryConfig",
    "RetryOverride",
    "ServerConfig",
    "Setting",
    "Severity",
    "StorageConfig",
    "TokenConfig",
    "check_listen",
    "is_local",
    "load",
    "reload_changes",
    "render_problems",
]
