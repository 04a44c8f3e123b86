"""What becomes of old secrets when an endpoint gets a new one."""

from collections.abc import Iterable
from dataclasses import replace

from relay.core.model import Secret

SECRETS_MAX = 10
"""Secrets of one endpoint that may overlap (Standard Webhooks: at most ten)."""


def overlapping(secrets: Iterable[Secret], now_ms: int, until_ms: int) -> list[Secret]:
    """The old secrets that go on signing, each until the earlier of its own end and `until_ms`."""
    kept = [
        replace(secret, expires_at_ms=until_ms if secret.expires_at_ms is None else min(secret.expires_at_ms, until_ms))
        for secret in secrets
    ]
    return [secret for secret in kept if secret.expires_at_ms is not None and secret.expires_at_ms > now_ms][
        : SECRETS_MAX - 1
    ]
