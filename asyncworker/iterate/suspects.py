"""Items that a process ran when it died: each runs alone, and one during which two more processes die has failed.

An item begins only once the store knows that it may: the checkpoint reserves the next places of the source, more where
items are fast. So what was in flight at a death is among the items below the reserved place that are not finished. The
next attempt runs these one at a time, and writes down which before it begins. One death of an item that ran alone is no
proof: workers are killed from outside, too. So it runs once more, after the others: a next kill from outside meets what
comes first.
"""

from __future__ import annotations

import asyncio
import weakref

from asyncworker.store import ACCUSED, RunHold

__all__ = ["KILLED_TWICE", "Suspects", "alone"]

#: The fewest places that a checkpoint reserves: where items are slow, few run alone after a death.
LEAST_AHEAD = 16

KILLED_TWICE = "the worker process died twice while running this item"


_locks: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, asyncio.Lock] = weakref.WeakKeyDictionary()


def alone() -> asyncio.Lock:
    """Return what is held while an item runs that may kill the process: of all the runs in it, only one has one."""
    return _locks.setdefault(asyncio.get_running_loop(), asyncio.Lock())


class Suspects:
    """Items that may kill their process, as known to one attempt at a run.

    Attributes:
        below: Items below this index that are not finished ran when a process died, or may have; they run one by one.
        current: The one that runs now.
        reserved: Items below this index may begin, by what is stored.
        isolating: Some of the suspects have not run yet.
    """

    def __init__(self, hold: RunHold, first_index: int) -> None:
        self._first_index = first_index
        self._convicted = frozenset(hold.convicted)
        self._seen_at_cut = self.seen = first_index
        self.below = first_index + hold.suspects_below
        self.isolating = hold.suspects_below > 0
        self.current = ""
        self.reserved = first_index + hold.reserved
        self._is_waited_for = False

    @property
    def any(self) -> bool:
        """Whether an item may be one of them."""
        return self.isolating or bool(self._convicted)

    def is_convicted(self, index: int, digest: bytes | None) -> bool:
        """Tell whether a process died twice while it ran this item alone."""
        return _name(index, digest) in self._convicted

    def is_suspect(self, index: int) -> bool:
        """Tell whether an item has to run alone."""
        return self.isolating and index < self.below

    def is_accused(self, index: int, digest: bytes | None) -> bool:
        """Tell whether it has to, and a process died once while it did."""
        return self.is_suspect(index) and f"{ACCUSED}{_name(index, digest)}" in self._convicted

    def put_on_trial(self, index: int, digest: bytes | None) -> None:
        """Note which one runs now."""
        self.current = _name(index, digest)

    def survived(self) -> None:
        """Note that it has run."""
        self.current = ""

    def acquit(self) -> None:
        """All of them have run, and the process lives."""
        self.isolating = False
        self.below, self.current = self._first_index, ""

    def wait_for_more(self) -> None:
        """Note that an item waits for the next checkpoint: that one reserves many more."""
        self._is_waited_for = True

    def to_store(self, *, closing: bool) -> dict[str, int | str]:
        """Return what the next checkpoint says; it reserves twice what was begun since the last one."""
        factor = 8 if self._is_waited_for else 2
        ahead = max(LEAST_AHEAD, factor * (self.seen - self._seen_at_cut))
        self._seen_at_cut, self._is_waited_for = self.seen, False
        reserved = max(self.below, self.seen + ahead)
        # What it does not reserve any more may not begin while it is being written.
        self.reserved = min(self.reserved, reserved)
        return {
            "reserved": reserved - self._first_index,
            "suspect": "" if closing else self.current,
            "suspects_below": self.below - self._first_index,
        }

    def stored(self, reserved: int) -> None:
        """Note that a checkpoint was written."""
        self.reserved = self._first_index + reserved


def _name(index: int, digest: bytes | None) -> str:
    return str(index) if digest is None else digest.hex()
