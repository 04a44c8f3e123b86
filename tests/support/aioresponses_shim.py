"""Mends aioresponses 0.7.9 for aiohttp 3.14, whose `ClientResponse` wants a `stream_writer` (ecosystem §0.1)."""

import inspect
from typing import Any

import aiohttp
import aioresponses.core


class _NothingWritten:
    output_size = 0


class _MockedResponse(aiohttp.ClientResponse):
    def __init__(self, *args: Any, **kwargs: Any) -> None:
        kwargs.setdefault("stream_writer", _NothingWritten())
        super().__init__(*args, **kwargs)


def needed() -> bool:
    """Whether aiohttp wants what aioresponses does not give."""
    wanted = "stream_writer" in inspect.signature(aiohttp.ClientResponse.__init__).parameters
    return wanted and "stream_writer" not in inspect.getsource(aioresponses.core)


def apply() -> None:
    """Put the mended response class in the place of the one that aioresponses makes by default."""
    if needed():
        aioresponses.core.ClientResponse = _MockedResponse  # type: ignore[attr-defined]
