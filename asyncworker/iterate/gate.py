"""Items get the permits of their limits before a puller has them: one that waits holds up no other."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from asyncworker.errors import SettingsError
from asyncworker.iterate.item import Item
from asyncworker.iterate.retry import Waiting, Work
from asyncworker.iterate.source import Row
from asyncworker.limits import Held, LimitUse, Permit, find_limit, in_order, refuse_twice

__all__ = ["Gate"]

Call = Callable[[Row], Awaitable[Any]]


class Gate:
    """The limits of one run. Permits are held for one attempt at an item, and not while it waits for the next.

    Args:
        uses: The limits.
        call: Runs one item.
        waiting: Where items wait.
        run: The run, as the holders of permits are called.

    Raises:
        SettingsError: A limit that is not declared in this process.
    """

    def __init__(self, uses: Sequence[LimitUse], call: Call, waiting: Waiting, run: str) -> None:
        self._uses = [(use, find_limit(use.name)) for use in in_order(uses)]
        names = [use.name for use in uses]
        #: Two may be used by one key, which is known with the item.
        self._may_meet = len(names) > len(set(names))
        self._call = call
        self._waiting = waiting
        self._run = run
        #: What the items got that may run, or why they may not; by their row, which is theirs alone.
        self._admitted: dict[int, list[Permit] | Exception] = {}

    def admit(self, work: Work) -> bool:
        """Tell whether an item may run now; else it comes back, as one whose retry is due, when it may.

        Raises:
            SettingsError: Its row does not have the argument that is the key of a limit.
        """
        item, row, _ = work
        if id(row) in self._admitted:
            return True
        if self._may_meet and (clash := self._clash(row)) is not None:
            self._admitted[id(row)] = clash
            return True
        permits = self._take_at_once(item, row)
        if permits is None:
            self._waiting.park(work, self._take(item, row))
            return False
        self._admitted[id(row)] = permits
        return True

    async def call(self, row: Row) -> Any:
        """Run an item that was admitted."""
        permits = self._admitted.pop(id(row))
        if isinstance(permits, Exception):
            raise permits
        with Held(permits):
            return await self._call(row)

    def close(self) -> None:
        """Give back what was got for items that will not run."""
        for permits in self._admitted.values():
            if not isinstance(permits, Exception):
                _release(permits)
        self._admitted.clear()

    def _clash(self, row: Row) -> SettingsError | None:
        try:
            refuse_twice([(use.name, use.key_for(row)) for use, _ in self._uses])
        except SettingsError as exc:
            return exc
        return None

    def _take_at_once(self, item: Item, row: Row) -> list[Permit] | None:
        permits: list[Permit] = []
        for use, limit in self._uses:
            permit = limit.try_acquire(use.key_for(row), holder=self._holder(item))
            if permit is None:
                _release(permits)
                return None
            permits.append(permit)
        return permits

    async def _take(self, item: Item, row: Row) -> None:
        permits: list[Permit] = []
        try:
            for use, limit in self._uses:
                permits.append(
                    await limit.acquire(use.key_for(row), timeout_s=use.timeout_s, holder=self._holder(item))
                )
        except Exception as exc:
            _release(permits)
            self._admitted[id(row)] = exc  # it fails where it is run, and is tried again like any other
        except BaseException:
            _release(permits)
            raise
        else:
            self._admitted[id(row)] = permits

    def _holder(self, item: Item) -> str:
        return f"{self._run} item {item.index}"


def _release(permits: list[Permit]) -> None:
    for permit in permits:
        permit.release()
