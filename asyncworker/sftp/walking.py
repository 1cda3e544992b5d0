"""A tree of folders, several of which are listed at the same time."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, Callable

from asyncworker.errors import SFTPError
from asyncworker.sftp.listing import Entry, type_unknown

__all__ = ["BottomlessTree", "Walk"]

#: Folders that are listed at the same time: each has 32 READDIRs under way.
_FOLDERS_AT_ONCE = 8
#: Entries that are found and not taken yet; then the listing rests.
_AHEAD = 20_000
#: Folders in each other, at most: a path of 4,096 bytes, where Linux ends, cannot have more of them.
_DEPTH_MAX = 2048
#: From here on folders are listed one by one: a tree without a bottom is soon known for one, and trees end before.
_DEEP = 128
#: Folders that the server fails to list, at depths where a path may have become too long for it: a mount or a link that
#: leads up again ends there, but has a way down for each combination of its folders.
_DEEP_FAILURES_MAX = 1000
_DEPTH_TOO_LONG = 16


class BottomlessTree(SFTPError):
    """A walk has been given up: folders in each other never end."""


class Walk:
    """One walk, to be gone once.

    Args:
        entries_of: Lists one folder.
        max_depth: How deep to go: 0 stays in the first folder; ``None``: no limit.
        enter: Whether to go into a folder that was found; it is given out in any case.
        on_error: Gets a folder that cannot be listed, or an entry that may be one, and why; ``None``: the walk ends
            with that error.
        address: The server, for messages.
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
        address: str = "",
        folders_at_once: int = _FOLDERS_AT_ONCE,
        ahead: int | None = _AHEAD,
    ) -> None:
        self._entries_of = entries_of
        self._max_depth = max_depth
        self._enter = enter
        self._on_error = on_error
        self._address = address
        self._at_once = folders_at_once
        self._ahead = ahead
        self._found: deque[Entry] = deque()
        self._folders: list[tuple[str, int]] = []
        self._listing: set[asyncio.Task[None]] = set()
        self._news = asyncio.Event()
        self._room = asyncio.Event()
        self._room.set()
        self._error: BaseException | None = None
        self._deep_failures = 0

    async def entries(self, root: str) -> AsyncGenerator[Entry, None]:
        """Give out what is in the folder and below, in no order but that a folder comes before what is in it.

        Raises:
            SFTPError: A folder cannot be listed, and there is no ``on_error``; or folders are in each other without
                an end.
        """
        self._folders.append((root, 0))
        self._start()
        half = None if self._ahead is None else self._ahead // 2
        try:
            while True:
                while self._found:
                    yield self._found.popleft()
                    if len(self._found) == half:  # on its way down from where the listing rests
                        self._room.set()
                if self._error is not None:
                    raise self._error
                if not self._listing:
                    return
                self._news.clear()
                await self._news.wait()
        finally:
            self._folders.clear()  # the end of each task would start another one
            for task in self._listing:
                task.cancel()
            await asyncio.gather(*self._listing, return_exceptions=True)

    def _start(self) -> None:
        while self._folders and self._error is None:
            if len(self._listing) >= (self._at_once if self._folders[-1][1] < _DEEP else 1):
                break
            # The last one first, and so the deepest: where each folder has several, all of one depth are too many.
            task = asyncio.create_task(self._list(*self._folders.pop()))
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
        entered: set[str] = set()  # a listing that goes round must not be one of listings that do
        try:
            async for entry in entries:
                self._found.append(entry)
                if len(self._found) == 1:
                    self._news.set()
                if not entry.is_file and (self._max_depth is None or depth < self._max_depth):
                    may_be_dir = entry.is_dir or entry.file_type is None
                    if may_be_dir and entry.name not in entered and self._enter(entry):
                        entered.add(entry.name)
                        self._go_into(entry, depth + 1)
                if self._ahead is not None and len(self._found) >= self._ahead:
                    self._room.clear()
                    await self._room.wait()
        except SFTPError as error:
            if self._on_error is None:
                raise
            self._on_error(folder, error)
            if type(error) is SFTPError and depth >= _DEPTH_TOO_LONG:
                self._deep_failures += 1
                if self._deep_failures > _DEEP_FAILURES_MAX:
                    self._give_up(f"after {_DEEP_FAILURES_MAX:,} deep folders that cannot be listed", folder)
        finally:
            await entries.aclose()

    def _go_into(self, entry: Entry, depth: int) -> None:
        if entry.file_type is None:
            error = type_unknown(entry, self._address)
            if self._on_error is None:
                raise error
            self._on_error(entry.path, error)
            return
        if depth > _DEPTH_MAX and self._max_depth is None:
            # Not for `on_error`: the walk would come back to this depth for ever.
            self._give_up(f"after {_DEPTH_MAX:,} folders in each other", entry.path)
            return
        self._folders.append((entry.path, depth))
        self._start()

    def _give_up(self, why: str, path: str) -> None:
        where = self._address
        message = f"{where}: gave up {why} (max_depth= sets another bound): {path[:200]}..."
        self._error = self._error or BottomlessTree(message, host=where, path=path)
