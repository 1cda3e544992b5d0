"""State of a pool: its connections, its waiters, its statistics and its options."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Annotated, Any, Generic, TypeVar

import msgspec
from msgspec import Meta

from asyncworker.errors import SettingsError
from asyncworker.resources.living import Living

__all__ = ["PoolOptions", "Slot", "Statistics", "Waiter", "holders_of", "make_pool_options"]

C = TypeVar("C")

#: Holders that an error names.
NAMED = 10

Seconds = Annotated[float, Meta(ge=0)]


class PoolOptions(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How a pool treats its connections. Times are seconds; ``None`` is without limit."""

    size: Annotated[int, Meta(ge=1)] = 10
    """Connections at most, those that are being opened and closed among them."""
    min_idle: Annotated[int, Meta(ge=0)] = 0
    """So many are kept ready, once the pool is used."""
    acquire_timeout_s: Seconds | None = 30.0
    """How long to wait for one."""
    connect_timeout_s: Seconds | None = 30.0
    """How long opening one, or checking it, may take."""
    close_timeout_s: Seconds = 5.0
    """How long closing one may take; then it is cancelled."""
    idle_s: Seconds | None = 300.0
    """One that was not used for so long is closed, unless it is among the ``min_idle``."""
    max_age_s: Seconds | None = 3600.0
    """One that is older is closed when it is given back."""
    check_after_s: Seconds = 10.0
    """One that was not used for so long is checked before it is lent, where there is a ``check``."""


def make_pool_options(pool: str, given: dict[str, Any]) -> PoolOptions:
    """Check options.

    Raises:
        SettingsError: An option that is none, or a value that is not allowed.
    """
    try:
        return msgspec.convert(given, PoolOptions)
    except msgspec.ValidationError as exc:
        known = ", ".join(PoolOptions.__struct_fields__)
        raise SettingsError(f"pool {pool}: its options are {given!r}: {exc}; known: {known}") from None


class Slot(Generic[C]):
    """One connection; times are those of the pool's clock."""

    __slots__ = ("ended", "fresh", "holder", "idle_since_s", "lent_at_s", "living", "made_at_s")

    living: Living[C]

    def __init__(self, made_at_s: float) -> None:
        self.made_at_s = self.idle_since_s = self.lent_at_s = made_at_s
        self.holder = ""
        self.ended = False
        #: It was opened, or checked, just now: whoever waits may have it without another look.
        self.fresh = False


class Waiter(Generic[C]):
    """One who waits for a connection."""

    __slots__ = ("future", "holder", "since_s")

    def __init__(self, holder: str, future: asyncio.Future[Slot[C]], since_s: float) -> None:
        self.holder = holder
        self.future = future
        self.since_s = since_s

    def has_got(self) -> bool:
        """Return whether the waiter has received a connection."""
        return self.future.done() and not self.future.cancelled() and self.future.exception() is None


class Statistics(msgspec.Struct):
    """How a pool stands, and its sums since it was made."""

    size: int
    idle: int = 0
    lent: int = 0
    opening: int = 0
    waiting: int = 0
    acquired: int = 0
    waited_s: float = 0.0
    timeouts: int = 0
    opened: int = 0
    closed: int = 0
    failed: int = 0
    """Connections that could not be opened."""
    dropped: int = 0
    """Connections that were given up for a fault."""


def holders_of(lent: Iterable[Slot[Any]], now_s: float) -> list[str]:
    """Name who holds connections, the longest first."""
    slots = sorted(lent, key=lambda slot: slot.lent_at_s)
    names = [f"{slot.holder} for {now_s - slot.lent_at_s:.1f} s" for slot in slots[:NAMED]]
    return [*names, f"{len(slots) - NAMED} more"] if len(slots) > NAMED else names
