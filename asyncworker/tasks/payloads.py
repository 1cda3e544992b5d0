"""How the values of sources and results are encoded, and long sources put aside."""

from __future__ import annotations

from typing import Any

from kombu.utils.json import dumps, loads

from asyncworker.iterate import offload_source
from asyncworker.settings import Settings
from asyncworker.store import payloads_of

__all__ = ["decode", "encode", "offload"]


def encode(value: Any) -> bytes:
    """JSON as Celery's messages have it."""
    return b"null" if value is None else dumps(value).encode()  # an item that only does something returns nothing


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
