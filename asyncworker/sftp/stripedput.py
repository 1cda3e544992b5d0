"""One large file up over several connections: each takes the next part that nobody has, and writes it in its place.

It grows under a name of its own beside its goal (see ``part_claims.py``). The name holds a digest of where the file
comes from, its size and its time of change, so that another run goes on with a part of the same file and of no other.
How far a part is whole, its length says: nothing is ever sent that lies more than a fixed span behind the first byte
that the server has not taken. What is used of it was compared with the local file, byte for byte.
"""

from __future__ import annotations

import asyncio
import os
from collections import deque
from collections.abc import Awaitable, Callable, Iterable
from concurrent.futures import Future
from functools import partial
from typing import TypeVar

from asyncworker.errors import SFTPConnectError, SFTPConnectionLost, SFTPError, SFTPFileChanged, SFTPFileNotFound
from asyncworker.sftp import packets
from asyncworker.sftp.calls import pause
from asyncworker.sftp.files import Files
from asyncworker.sftp.localsource import ChangedWhileRead, LocalSource
from asyncworker.sftp.names import remote_bytes, remote_text
from asyncworker.sftp.packets import OpenFlag
from asyncworker.sftp.part_claims import PartClaim
from asyncworker.sftp.ranges import Ranges
from asyncworker.sftp.remotefile import RemoteFile
from asyncworker.sftp.stripes import run_stripes
from asyncworker.sftp.temporary_names import Part, claimed_part_name, goal_digest, parse, temporary_name
from asyncworker.sftp.transfer import Transfer

__all__ = ["StripedUpload", "is_part_of"]

T = TypeVar("T")

#: How much of a part may be missing before its end; a constant, as another process may go on with it.
_SPAN_BYTES = 32 * 1024 * 1024
#: Sent and not answered yet, at most, on each connection.
_WINDOW_BYTES = 2 * 1024 * 1024
#: What a stripe takes at a time.
_BLOCK_BYTES = 512 * 1024
#: Asked for at once while a part is compared.
_COMPARED_BYTES = 8 * 1024 * 1024
#: How often to start afresh after another upload took the part over.
_STARTS = 3
#: How long somebody who is cancelled takes to leave nothing behind.
_GOODBYE_S = 2.0
#: We must be able to open the part again, whatever the file's permissions will be.
_OURS = 0o600


class StripedUpload:
    """One file. Made on the loop, run once.

    Args:
        pool: The connections.
        remote: Path on the server.
        open_source: Opens the local file; called on a thread.
        fsync: Have the server flush it to its disk before it appears, where it offers that.
        resume: Whether to go on with a part, and to leave one behind if the connection is lost or the run is stopped.
        on_bytes: Called with the number of bytes that were there already, and with that of each block.
        there: Names beside the goal; ``None``: they are not known.
        left: Names of parts that earlier tries have left beside the goal since; this one adds its own.
    """

    def __init__(
        self,
        pool: Files,
        remote: str,
        *,
        open_source: Callable[[], LocalSource],
        fsync: bool,
        resume: bool,
        on_bytes: Callable[[int], None],
        there: Iterable[str] | None = (),
        left: set[str] | None = None,
    ) -> None:
        self._pool = pool
        self._remote = remote
        self._there = there
        self._left = set() if left is None else left
        self._open_source = open_source
        self._fsync = fsync
        self._resume = resume
        self._on_bytes = on_bytes
        self._executor = pool._threads()
        self._loop = asyncio.get_running_loop()
        self._moved = 0
        self._begun = False  # the part was there
        self._news = asyncio.Event()

    async def run(self) -> Transfer:
        """Send it.

        Raises:
            SFTPFileChanged: The local file changed while it was read.
            SFTPError: A refusal by the server, or lost connections without an end.
            OSError: It cannot be read here; names it.
        """
        source = await self._opened()
        try:
            for starts_left in reversed(range(_STARTS)):
                part = await self._on_thread(partial(_part_name, self._remote, source, self._resume))
                try:
                    with self._pool._unfinished.holding(remote_text(part)):
                        return await self._sent(source, part)
                except SFTPFileNotFound:
                    # Where the folder is there, another upload has taken the part for abandoned.
                    if not starts_left or not self._begun:
                        raise
            raise AssertionError("the last start returns or raises")
        finally:
            source.close()

    async def _sent(self, source: LocalSource, part: bytes) -> Transfer:
        self._begun = False
        try:
            return await self._send(source, part)
        except ChangedWhileRead as changed:
            await self._pool._remove_temporary(part)
            raise SFTPFileChanged(
                f"{self._pool.options.address}: {changed}", host=self._pool.options.address, path=self._remote
            ) from None
        except (SFTPConnectionLost, SFTPConnectError):
            if not _resumable(source, self._resume):
                self._pool._forget_remote(part)
            raise
        except asyncio.CancelledError:
            if not _resumable(source, self._resume):
                await self._pool._remove_temporary(part)
            raise
        except (SFTPError, OSError):
            if not (self._pool._connections.stopped and _resumable(source, self._resume)):
                await self._pool._remove_temporary(part)
            raise

    async def _send(self, source: LocalSource, part: bytes) -> Transfer:
        if not _resumable(source, self._resume):
            await self._make(part, source.mode | _OURS)
            return await self._complete(source, part, 0)
        there = None if self._there is None else {*self._there, *self._left}
        claim = PartClaim(self._pool, part, there)
        self._left.add(remote_text(part.rpartition(b"/")[2]))
        async with claim.held():
            return await self._complete(source, part, await self._begin(source, claim))

    async def _complete(self, source: LocalSource, part: bytes, begin: int) -> Transfer:
        """Send what is missing of the part, and put it in place."""
        self._begun = True
        self._on_bytes(begin)
        ranges = Ranges(begin, source.size, _SPAN_BYTES)
        await run_stripes(
            self._pool,
            partial(self._stripe, source, part, ranges),
            work_left=lambda: -(-ranges.left // _WINDOW_BYTES),
            done=lambda: ranges.whole == source.size,
            moved=lambda: self._moved,
        )
        await self._on_thread(partial(source.read_exactly, 0, 0))
        mtime_set = await _twice(partial(self._settle, source, part))
        await self._pool._place(part, self._remote, source.size, source.mtime if mtime_set else None)
        return Transfer(self._remote, source.path, source.size, source.mtime if mtime_set else None)

    async def _opened(self) -> LocalSource:
        opening = self._executor.submit(self._open_source)
        try:
            return await asyncio.wrap_future(opening)
        except asyncio.CancelledError:
            opening.add_done_callback(_close_opened)
            raise

    # -- where to begin ------------------------------------------------------------------------------------------------

    async def _begin(self, source: LocalSource, claim: PartClaim) -> int:
        """Take over a part that is there, as far as it is what the file is; else make one."""
        length = await claim.take_over()
        if length is not None:
            begin = length - _SPAN_BYTES
            if length <= source.size and begin > 0 and await _twice(partial(self._is_same, source, claim.path, begin)):
                return begin
            await self._pool._remove_temporary(claim.path)
        await self._make(claim.path, source.mode | _OURS)
        return 0

    async def _make(self, part: bytes, mode: int) -> None:
        flags = OpenFlag.WRITE | OpenFlag.CREATE | OpenFlag.EXCLUSIVE
        opening = asyncio.create_task(self._open(part, flags, mode))
        try:
            await asyncio.shield(opening)
        except asyncio.CancelledError:  # what removes it must not come before what makes it
            await asyncio.wait((opening,), timeout=_GOODBYE_S)
            opening.cancel()
            raise
        finally:
            if opening.done() and not opening.cancelled() and opening.exception() is None:
                opening.result().begin_to_close()

    async def _is_same(self, source: LocalSource, part: bytes, end: int) -> bool:
        """Return whether the part equals the file up to that offset: the server may have lost data that it took."""
        file = await self._open(part, OpenFlag.READ)
        offsets = iter(range(0, end, _BLOCK_BYTES))
        asked: deque[tuple[int, int, asyncio.Task[bytes]]] = deque()
        try:
            while True:
                while len(asked) < _COMPARED_BYTES // _BLOCK_BYTES and (offset := next(offsets, None)) is not None:
                    length = min(_BLOCK_BYTES, end - offset)
                    asked.append((offset, length, asyncio.create_task(file.read(offset, length))))
                if not asked:
                    return True
                offset, length, reading = asked[0]
                theirs = await reading
                asked.popleft()
                if theirs != await self._on_thread(partial(source.read_exactly, offset, length)):
                    return False
        finally:
            for _, _, reading in asked:
                reading.cancel()
            await asyncio.gather(*(reading for _, _, reading in asked), return_exceptions=True)
            file.begin_to_close()

    # -- the bytes -----------------------------------------------------------------------------------------------------

    async def _stripe(self, source: LocalSource, part: bytes, ranges: Ranges) -> None:
        file = await self._open(part, OpenFlag.WRITE)
        writing: deque[tuple[int, int, asyncio.Future[None]]] = deque()
        in_flight = 0
        try:
            while True:
                while in_flight < _WINDOW_BYTES and (taken := ranges.take(_BLOCK_BYTES)) is not None:
                    try:
                        data = await self._on_thread(partial(source.read_exactly, *taken))
                        writing.append((*taken, file.write(taken[0], data)))
                    except BaseException:
                        ranges.give_back(taken[0])
                        raise
                    in_flight += taken[1]
                if not writing:
                    if not ranges.left:
                        return  # what others have may come back: then there is another stripe
                    self._news.clear()  # it is too far ahead of the others
                    await self._news.wait()
                    continue
                begin, length, answer = writing[0]
                await answer
                writing.popleft()
                in_flight -= length
                ranges.finish(begin)
                self._moved += length
                self._on_bytes(length)
                self._news.set()
        finally:
            for begin, _, _ in writing:
                ranges.give_back(begin)
            self._news.set()
            file.begin_to_close()

    # -- the end -------------------------------------------------------------------------------------------------------

    async def _settle(self, source: LocalSource, part: bytes) -> bool:
        """Set mode and time once all bytes are there; return whether the time could be set."""
        file = await self._open(part, OpenFlag.WRITE)
        try:
            found = await file.stat()
            if found.size_bytes not in (source.size, None):
                where = self._pool.options.address
                raise SFTPError(
                    f"{where}: {self._remote}: {source.size} bytes were sent, {found.size_bytes} are there",
                    host=where,
                    path=self._remote,
                )
            if found.mode is not None and _OURS & ~source.mode:
                await file.set_attributes(packets.attributes_bytes(mode=found.mode & 0o777 & ~(_OURS & ~source.mode)))
            mtime_set = await file.set_attributes(packets.attributes_bytes(mtime=source.mtime))
            if self._fsync:
                await file.flush()
            await file.close()
        finally:
            file.begin_to_close()
        return mtime_set

    # -- inside --------------------------------------------------------------------------------------------------------

    async def _open(self, part: bytes, flags: int, mode: int | None = None) -> RemoteFile:
        how = packets.open_tail(flags, mode)
        return await self._pool._run(RemoteFile(self._remote, part, how, self._pool._connections.release))

    async def _on_thread(self, call: Callable[[], T]) -> T:
        return await self._loop.run_in_executor(self._executor, call)


async def _twice(call: Callable[[], Awaitable[T]]) -> T:
    try:
        return await call()
    except SFTPConnectionLost:
        await pause()
        return await call()


def _close_opened(opening: Future[LocalSource]) -> None:
    if not opening.cancelled() and opening.exception() is None:
        opening.result().close()


def _resumable(source: LocalSource, resume: bool) -> bool:
    return resume and source.size > _SPAN_BYTES


def is_part_of(name: str, part: str) -> bool:
    """Return whether a name on the server is that of a part of that file."""
    found = parse(part)
    return isinstance(found, Part) and found.goal == goal_digest(remote_bytes(name))


def _part_name(remote: str, source: LocalSource, resume: bool) -> bytes:
    """Blocks: for a thread."""
    folder, slash, name = remote_bytes(remote).rpartition(b"/")
    if not _resumable(source, resume):
        return folder + slash + temporary_name(name)
    origin = b"%s\0%o" % (os.fsencode(os.path.realpath(source.path)), source.mode)
    return folder + slash + claimed_part_name(name, origin, source.size, source.mtime_ns)
