"""The payload store of an app: which one, and in which encoding values lie there."""

from __future__ import annotations

import functools
from typing import Any

from kombu.utils.json import dumps, loads

from asyncworker.iterate import offload_source
from asyncworker.settings import Settings
from asyncworker.store import Payloads

__all__ = ["decode", "encode", "offload", "payloads_of"]


def encode(value: Any) -> bytes:
    """JSON as Celery's messages have it."""
    return dumps(value).encode()


def decode(body: bytes) -> Any:
    """The reverse."""
    return loads(body.decode())


def offload(wire: dict[str, Any], settings: Settings) -> dict[str, Any]:
    """Put the long columns of a source aside. Blocks.

    Raises:
        SettingsError: The payload store cannot be opened.
        PayloadError: It cannot be written to.
    """
    payloads = payloads_of(settings)
    return wire if payloads is None else offload_source(wire, payloads, encode)


def payloads_of(settings: Settings) -> Payloads | None:
    """Return the payload store, where there is one. Blocks: fsspec imports its clients.

    Raises:
        SettingsError: It cannot be opened.
    """
    url = settings.payload_url_or_default()
    return _opened(url, settings.payload_over_bytes) if url else None


@functools.lru_cache(maxsize=8)
def _opened(url: str, over_bytes: int) -> Payloads:
    return Payloads(url, over_bytes)
