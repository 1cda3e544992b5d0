"""How the values of sources and results are encoded, and long sources put aside."""

from __future__ import annotations

from typing import Any

from asyncworker.iterate import offload_source
from asyncworker.settings import Settings
from asyncworker.store import payloads_of
from asyncworker.tasks.json_values import dump, load

__all__ = ["decode", "encode", "offload"]


def encode(value: Any) -> bytes:
    """JSON as Celery's messages have it, and what else is known there.

    Raises:
        TypeError: There is none for the value.
    """
    return b"null" if value is None else dump(value)  # an item that only does something returns nothing


def decode(body: bytes) -> Any:
    """The reverse."""
    return load(body)


def offload(wire: dict[str, Any], settings: Settings) -> dict[str, Any]:
    """Put the long columns of a source aside. Blocks.

    Raises:
        SettingsError: The payload store cannot be opened.
        PayloadError: It cannot be written to.
    """
    payloads = payloads_of(settings)
    return wire if payloads is None else offload_source(wire, payloads, encode)
