"""The composition root and the life of the daemon: open → recover → listen → serve → drain → close.

The only place that constructs adapters, and the only one below the command line that reads the environment, the system's
clock and its randomness. Starting is synchronous: when `start` returns, the relay listens. Stopping is a contract
(invariant 12): stop intake, stop starting, wait for what runs, leave the rest due, close; safe twice, safe before start.
"""

import asyncio
import os
import signal
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from random import Random, SystemRandom

import structlog

from relay import __version__, log
from relay.api.server import Listeners, build_app, serve
from relay.api.services import Services
from relay.clock import Clock, SystemClock
from relay.config import Config, Loaded, ReloadPlan, TokenConfig, load, reload_changes, render_problems
from relay.contracts import ContractCatalogue
from relay.courier import Courier, CourierSettings
from relay.directory import Directory
from relay.dispatch import Dispatch
from relay.errors import CannotStart, ConfigError, RelayError, StoreDamaged
from relay.guard import Guard
from relay.housekeeping import Housekeeping
from relay.ids import IdFactory
from relay.intake import Intake
from relay.lanes import Lanes
from relay.metrics import Metrics
from relay.resolver import Resolver
from relay.store import Store, StoreSettings
from relay.systemd import Notifier
from relay.tokens import TokenTable

SWITCH_INTERVAL_S = 0.0001
"""How often threads offer each other the interpreter: the writer thread wins it back sooner (store.md, 3–6 %)."""

ADMIN_TOKEN_FILE = "admin-token"
