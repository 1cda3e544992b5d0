"""Cooperative scheduling of pullers: idle ones wait here, busy ones yield to the event loop."""

from __future__ import annotations

import asyncio
from collections import deque
from time import monotonic

__all__ = ["Turns"]


class Turns:
    """The idle pullers of one run, and the slice of time that the busy ones share.

    Attributes:
        slice_ends: When whoever is about to begin an item must call `give_way` first, on `time.monotonic`.
    """

    #: Items that never suspend give way to the loop after so long; all pullers together share it.
    SLICE_S = 0.005

    def __init__(self) -> None:
        self.slice_ends = 0.0
        self._renewal = False
        self._turned = False  # whether the loop has begun another pass since the slice began
        self._idlers: deque[asyncio.Future[None]] = deque()
        self._demand = asyncio.Event()

    async def give_way(self) -> None:
        """Let the loop do everything else once, unless it has since the slice began: where items wait, it has."""
        if self._turned:
            self._renew()
            return
        if not self._renewal:
            self._renewal = True
            # Queued before any puller goes on, so that the slice is renewed once a pass and not once a puller.
            asyncio.get_running_loop().call_soon(self._renew)
        await asyncio.sleep(0)

    def _renew(self) -> None:
        self._renewal = self._turned = False
        self.slice_ends = monotonic() + self.SLICE_S
        asyncio.get_running_loop().call_soon(self._turn)

    def _turn(self) -> None:
        self._turned = True

    async def idle(self) -> None:
        """Wait until something may have come up."""
        idler = asyncio.get_running_loop().create_future()
        self._idlers.append(idler)
        self._demand.set()
        await idler

    def wake_one(self) -> None:
        """Wake the puller that has been idle for longest, if there is one."""
        while self._idlers:
            idler = self._idlers.popleft()
            if not idler.done():
                idler.set_result(None)
                return

    def wake_all(self) -> None:
        """Wake every idle puller."""
        while self._idlers:
            self.wake_one()

    @property
    def demand(self) -> bool:
        """Whether a puller is idle, and has not been woken."""
        return bool(self._idlers)

    async def wait_for_demand(self) -> None:
        """Wait until another puller becomes idle."""
        self._demand.clear()
        await self._demand.wait()
