"""Secrets never reach a log line: values under telling keys are masked, and what looks like a secret inside a text."""

import re
from collections.abc import Mapping, MutableMapping
from functools import lru_cache
from typing import Any

from relay.core.urls import masked

MASK = "***"

_SECRET_KEYS = re.compile(
    r"(?:^|[-_])(?:authorization|cookie|credentials?|password|secrets?|signature|token)$|^(?:body|data|payload|metadata)$",
    re.IGNORECASE,
)
_SIGNING_SECRET = re.compile(r"\b(whsec_|whsk_)[A-Za-z0-9+/=_-]+")
_SIGNATURE = re.compile(r"\b(v1a?,)[A-Za-z0-9+/=_-]{16,}")
_BEARER = re.compile(r"\b(bearer|basic)\s+[^\s,;\"']+", re.IGNORECASE)
_HEADER = re.compile(
    r"\b((?:proxy-)?authorization|[\w-]{0,64}(?:signature|cookie|token|secret|password|api-?key))"
    r"([\"']?\s{0,8}[:=]\s{0,8})[^\r\n]+",
    re.IGNORECASE,
)
_URL = re.compile(r"\b[a-z][a-z0-9+.-]{0,31}://[^\s\"'<>]+", re.IGNORECASE)


_SUSPECT = re.compile(r"[:=,\s]|whs(?:ec|k)_")
"""Without one of these none of the patterns above can match: most values are ids, words and states."""


def mask_secrets(_logger: Any, _method: str, line: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """Hide secrets, tokens, signatures, payloads, and the parts of URLs that may hold them (invariant 13)."""
    return {key: MASK if _is_secret(key) else _masked(value) for key, value in line.items()}


def mask_text(text: str) -> str:
    """Hide what looks like a secret inside a text."""
    return _hidden(text) if _SUSPECT.search(text) else text


@lru_cache(maxsize=1_000)
def _is_secret(key: str) -> bool:
    return _SECRET_KEYS.search(key) is not None


def _hidden(text: str) -> str:
    text = _HEADER.sub(rf"\1\2{MASK}", text)
    text = _SIGNING_SECRET.sub(rf"\1{MASK}", text)
    text = _SIGNATURE.sub(rf"\1{MASK}", text)
    text = _BEARER.sub(rf"\1 {MASK}", text)
    return _URL.sub(lambda url: masked(url[0]), text)


def _masked(value: Any) -> Any:
    if isinstance(value, str):
        return mask_text(value)
    if isinstance(value, Mapping):
        return mask_secrets(None, "", {str(key): inner for key, inner in value.items()})
    if isinstance(value, list | tuple):
        return [_masked(inner) for inner in value]
    if isinstance(value, bytes | bytearray | memoryview):
        return f"<{len(value)} bytes>"
    if value is None or isinstance(value, bool | int | float):
        return value
    return mask_text(str(value))
