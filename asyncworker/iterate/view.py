"""Which items a run has in flight, for who looks at it from outside: nothing is kept for that, the pullers are read."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Any

import msgspec

from asyncworker.iterate.item import Item

__all__ = ["ItemInFlight", "items_in_flight"]


class ItemInFlight(msgspec.Struct, frozen=True):
    """One item that is running."""

    item: Item
    coroutine: Any
    """What runs it, down to where it waits."""


def items_in_flight(pullers: Iterable[asyncio.Task[None]]) -> list[ItemInFlight]:
    """Return what the pullers run now, by index. From any thread, a snapshot."""
    found = []
    for puller in pullers:
        # The puller's coroutine awaits the one that runs the item, which has it among its variables.
        coroutine = getattr(puller.get_coro(), "cr_await", None)
        frame = getattr(coroutine, "cr_frame", None)
        item = None if frame is None else frame.f_locals.get("item")
        if isinstance(item, Item):
            found.append(ItemInFlight(item, coroutine))
    return sorted(found, key=lambda each: each.item.index)
