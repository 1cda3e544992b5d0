"""File descriptors of this process for local files that are being moved: no more than its limit allows.

``ulimit -n`` is 256 on macOS and 1,024 on many Linux systems, and everything else in the process needs some of them:
half of them stay free. Whoever finds none left waits in line; nobody who holds one waits for another.
"""

from __future__ import annotations

import asyncio
import errno
import resource
import threading
from collections import OrderedDict
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Final, TypeVar

__all__ = ["OPEN_FILES", "OpenFiles", "OpensFiles", "Ticket", "opened", "out_of_descriptors", "soft_limit"]

T = TypeVar("T")

_MIN = 4
#: Tries of a file for which the process had no descriptor left, and what is waited between two of them.
_TRIES = 20
_PAUSE_S = 0.1
#: Where the system names no limit.
_UNLIMITED = 65_536


class Ticket:
    """A place in the line."""

    __slots__ = ("count", "loop", "wake")

    def __init__(self, count: int, wake: Callable[[], None]) -> None:
        self.count = count
        self.wake = wake
        self.loop = asyncio.get_running_loop()


class OpensFiles:
    """A job that may keep local files open from one answer of the server to the next."""

    __slots__ = ()

    def descriptors(self, read_bytes: int) -> int:
        """Return how many, at most.

        Args:
            read_bytes: What one READ brings.
        """
        raise NotImplementedError


class OpenFiles:
    """Counts descriptors that are taken. Used from any thread; whoever waits is woken on the loop of its own."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._line: OrderedDict[Ticket, None] = OrderedDict()
        self._most = _UNLIMITED  # lowered where the system had none left all the same
        self.taken = 0
        """How many are."""
        self.limit = _MIN
        """How many may be."""

    def take(self, count: int, wake: Callable[[], None]) -> Ticket | None:
        """Take descriptors, or stand in line for them.

        Args:
            count: How many.
            wake: Called once they are taken for the caller, if they are not right now.

        Returns:
            ``None`` if they are taken; else a ticket for :meth:`leave`.
        """
        with self._lock:
            if not self.taken:
                self._measure()
            if not self._line and self._fits(count):
                self.taken += count
                return None
            ticket = Ticket(count, wake)
            self._line[ticket] = None
            return ticket

    def give(self, count: int) -> None:
        """Give descriptors back."""
        with self._lock:
            self.taken -= count
            self._serve()

    def leave(self, ticket: Ticket) -> bool:
        """Leave the line; returns whether that was in time: otherwise, its descriptors are taken."""
        with self._lock:
            if ticket not in self._line:
                return False
            del self._line[ticket]
            self._serve()
            return True

    def shrink(self) -> None:
        """Take that the system had no descriptor left: others use more of them than was thought."""
        with self._lock:
            self._most = self.limit = max(_MIN, min(self.limit, self.taken) // 2)

    def _fits(self, count: int) -> bool:
        return not self.taken or self.taken + count <= self.limit

    def _serve(self) -> None:
        while self._line:
            ticket = next(iter(self._line))
            if not self._fits(ticket.count):
                return
            del self._line[ticket]
            self.taken += ticket.count
            try:
                ticket.loop.call_soon_threadsafe(ticket.wake)
            except RuntimeError:  # its loop is closed
                self.taken -= ticket.count

    def _measure(self) -> None:
        self.limit = max(_MIN, min(self._most, soft_limit() // 2))


def soft_limit() -> int:
    """Return how many descriptors this process may have."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return _UNLIMITED if soft == resource.RLIM_INFINITY or soft > _UNLIMITED else soft


def out_of_descriptors(error: BaseException) -> bool:
    """Return whether an error means that the process, or the system, has no descriptor left."""
    return isinstance(error, OSError) and error.errno in (errno.EMFILE, errno.ENFILE)


#: Those of this process.
OPEN_FILES: Final = OpenFiles()


@asynccontextmanager
async def opened(call: Callable[[], Awaitable[T]]) -> AsyncIterator[T]:
    """Wait for a descriptor, open a local file with it, and keep it for the block, in which the file is closed again.

    Where the system has none left all the same, it is tried again. Within the block, nobody may wait for another one.

    Args:
        call: Opens it.

    Raises:
        OSError: It cannot be opened.
    """
    for tries_left in reversed(range(_TRIES)):
        await _taken()
        try:
            try:
                file = await call()
            except OSError as error:
                if not out_of_descriptors(error) or not tries_left:
                    raise
                OPEN_FILES.shrink()
            else:
                yield file
                return
        finally:
            OPEN_FILES.give(1)
        await asyncio.sleep(_PAUSE_S)


async def _taken() -> None:
    turn = asyncio.Event()
    ticket = OPEN_FILES.take(1, turn.set)
    if ticket is None:
        return
    try:
        await turn.wait()
    except BaseException:
        if not OPEN_FILES.leave(ticket):
            OPEN_FILES.give(1)
        raise
