"""A tree of folders, several of which are listed at the same time."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, Callable

from asyncworker.errors import SFTPError
from asyncworker.sftp.listing import Entry

__all__ = ["Walk"]

#: Folders that are listed at the same time: each has 32 READDIRs under way.
_FOLDERS_AT_ONCE = 8
#: Entries that are found and not taken yet; then the listing rests.
_AHEAD = 20_000


class Walk:
    """One walk, to be gone once.

    Args:
        entries_of: Lists one folder.
        max_depth: How deep to go: 0 stays in the first folder; ``None``: no limit.
        enter: Whether to go into a folder that was found; it is given out in any case.
        on_error: Gets a folder that cannot be listed, and why; ``None``: the walk ends with that error.
        folders_at_once: Folders that are listed at the same time.
        ahead: How many entries may wait to be taken before the listing rests; ``None``: any number.
    """

    def __init__(
        self,
        entries_of: Callable[[str], AsyncGenerator[Entry, None]],
        *,
        max_depth: int | None = None,
        enter: Callable[[Entry], bool] = lambda _: True,
        on_error: Callable[[str, SFTPError], None] | None = None,
        folders_at_once: int = _FOLDERS_AT_ONCE,
        ahead: int | None = _AHEAD,
    ) -> None:
        self._entries_of = entries_of
        self._max_depth = max_depth
        self._enter = enter
        self._on_error = on_error
        self._at_once = folders_at_once
        self._ahead = ahead
        self._found: deque[Entry] = deque()
        self._folders: deque[tuple[str, int]] = deque()
        self._listing: set[asyncio.Task[None]] = set()
        self._news = asyncio.Event()
        self._room = asyncio.Event()
        self._room.set()
        self._error: BaseException | None = None

    async def entries(self, root: str) -> AsyncGenerator[Entry, None]:
        """Give out what is in the folder and below, in no order but that a folder comes before what is in it.

        Raises:
            SFTPError: A folder cannot be listed, and there is no ``on_error``.
        """
        self._folders.append((root, 0))
        self._start()
        try:
            while True:
                while self._found:
                    yield self._found.popleft()
                    if self._ahead is None or len(self._found) <= self._ahead // 2:
                        self._room.set()
                if self._error is not None:
                    raise self._error
                if not self._listing:
                    return
                self._news.clear()
                await self._news.wait()
        finally:
            for task in self._listing:
                task.cancel()
            await asyncio.gather(*self._listing, return_exceptions=True)

    def _start(self) -> None:
        while self._folders and len(self._listing) < self._at_once and self._error is None:
            task = asyncio.create_task(self._list(*self._folders.popleft()))
            self._listing.add(task)
            task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._listing.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None and self._error is None:
            self._error = error
        self._start()
        self._news.set()

    async def _list(self, folder: str, depth: int) -> None:
        entries = self._entries_of(folder)
        try:
            async for entry in entries:
                self._found.append(entry)
                self._news.set()
                deeper = self._max_depth is None or depth < self._max_depth
                if entry.is_dir and deeper and self._enter(entry):
                    self._folders.append((entry.path, depth + 1))
                    self._start()
                if self._ahead is not None and len(self._found) >= self._ahead:
                    self._room.clear()
                    await self._room.wait()
        except SFTPError as error:
            if self._on_error is None:
                raise
            self._on_error(folder, error)
        finally:
            await entries.aclose()
