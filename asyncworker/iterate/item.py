"""Which item is running here: known in the call, in its child tasks and in its threads."""

from __future__ import annotations

from contextvars import ContextVar
from typing import Any

import msgspec

__all__ = ["Item", "RetryItem", "SkipItem", "current_item", "item_here", "set_current_item"]


class SkipItem(Exception):
    """Raised by an item to be counted as skipped: settled, without a result, and not tried again by a resumed run."""


class RetryItem(Exception):
    """Raised by an item to be tried again, whatever the run's ``retry_on`` says, as long as it has retries left.

    Args:
        exc: What the item has failed with where none is left.
        delay_s: How long it waits; ``None``: as the run's back-off says.
    """

    def __init__(self, exc: BaseException | None = None, delay_s: float | None = None) -> None:
        super().__init__("the item asked to be tried again, and none of the run's retries is left")
        self.exc = exc
        self.delay_s = delay_s


class Item(msgspec.Struct, frozen=True):
    """One item of a run, in one of its attempts."""

    index: int
    """Its place in the source, from 0."""
    key: Any
    """Value of the keyword that ``key=`` names; without one, ``None``."""
    attempt: int
    """1 when it is tried first."""
    run_id: str


_current: ContextVar[Item] = ContextVar("asyncworker_item")

#: Called by the engine in the context of the puller that runs the item.
set_current_item = _current.set


def item_here() -> Item | None:
    """The item that is running here, if one is."""
    return _current.get(None)


def current_item() -> Item:
    """Return the item that is running here.

    Raises:
        LookupError: No item is: this is not called from within a fan-out.
    """
    try:
        return _current.get()
    except LookupError:
        raise LookupError("current_item(): no item is running here; it is known only within a fan-out's call") from None
