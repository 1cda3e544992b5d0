"""One large file up over several connections: each takes the next part that nobody has, and writes it in its place.

It grows under a temporary name beside its goal. The name holds a digest of where the file comes from, its size and its
time of change, so that another run goes on with a part of the same file and of no other. How far a part is whole, its
length says: nothing is ever sent that lies more than a fixed span behind the first byte that the server has not taken.
"""

from __future__ import annotations

import asyncio
import contextlib
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
from asyncworker.sftp.ranges import Ranges
from asyncworker.sftp.remotefile import RemoteFile
from asyncworker.sftp.stripes import run_stripes
from asyncworker.sftp.temporary_names import Part, goal_digest, parse, part_name, temporary_name
from asyncworker.sftp.transfer import Transfer

__all__ = ["StripedUpload", "is_part_of"]

T = TypeVar("T")

#: How much of a part may be missing before its end; a constant, as another process may go on with it.
_SPAN_BYTES = 32 * 1024 * 1024
#: Sent and not answered yet, at most, on each connection.
_WINDOW_BYTES = 2 * 1024 * 1024
#: What a stripe takes at a time.
_BLOCK_BYTES = 512 * 1024
#: Compared before a part is trusted: so much at its end, and so many samples of so much before.
_TAIL_BYTES = 1024 * 1024
_SAMPLES = 16
_SAMPLE_BYTES = 32 * 1024
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
        there: Names beside the goal, as far as they are known: parts of what the local file was before are removed.
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
        there: Iterable[str] = (),
    ) -> None:
        self._pool = pool
        self._remote = remote
        self._there = there
        self._open_source = open_source
        self._fsync = fsync
        self._resume = resume
        self._on_bytes = on_bytes
        self._executor = pool._threads()
        self._loop = asyncio.get_running_loop()
        self._moved = 0
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
            part = await self._on_thread(partial(_part_name, self._remote, source, self._resume))
            with self._pool._unfinished.holding(remote_text(part)):
                return await self._sent(source, part)
        finally:
            source.close()

    async def _sent(self, source: LocalSource, part: bytes) -> Transfer:
        try:
            return await self._send(source, part)
        except ChangedWhileRead as changed:
            await self._remove(part)
            raise SFTPFileChanged(
                f"{self._pool.options.address}: {changed}", host=self._pool.options.address, path=self._remote
            ) from None
        except (SFTPConnectionLost, SFTPConnectError):
            if not _resumable(source, self._resume):
                self._pool._forget_remote(part)
            raise
        except asyncio.CancelledError:
            if not _resumable(source, self._resume):
                await self._remove(part)
            raise
        except (SFTPError, OSError):
            if not (self._pool._connections.stopped and _resumable(source, self._resume)):
                await self._remove(part)
            raise

    async def _send(self, source: LocalSource, part: bytes) -> Transfer:
        if _resumable(source, self._resume):
            await self._remove_older(part)
        begin = await self._begin(source, part)
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
        await self._pool._place(part, self._remote, source.size)
        return Transfer(self._remote, source.path, source.size, source.mtime if mtime_set else None)

    async def _opened(self) -> LocalSource:
        opening = self._executor.submit(self._open_source)
        try:
            return await asyncio.wrap_future(opening)
        except asyncio.CancelledError:
            opening.add_done_callback(_close_opened)
            raise

    async def _remove_older(self, part: bytes) -> None:
        folder, slash, name = part.rpartition(b"/")
        mine = parse(remote_text(name))
        assert isinstance(mine, Part)
        for other in self._there:
            raw, found = remote_bytes(other), parse(other)
            if raw != name and isinstance(found, Part) and (found.goal, found.origin) == (mine.goal, mine.origin):
                await self._remove(folder + slash + raw)

    # -- where to begin ------------------------------------------------------------------------------------------------

    async def _begin(self, source: LocalSource, part: bytes) -> int:
        """Make the part, or see how far one that is there can be trusted."""
        shown = remote_text(part)
        length = None
        if _resumable(source, self._resume):
            with contextlib.suppress(SFTPFileNotFound):
                found = await self._pool.stat(shown, follow_links=False)
                if found.is_file or found.mode is None:
                    length = found.size_bytes
                else:
                    await self._pool.remove(shown)  # a link, say: it would lead elsewhere
        if length is None:
            await self._make(part, source.mode | _OURS, OpenFlag.EXCLUSIVE)
            return 0
        begin = length - _SPAN_BYTES
        if length <= source.size and begin > 0 and await _twice(partial(self._is_same, source, part, begin)):
            return begin
        await self._make(part, source.mode | _OURS, OpenFlag.TRUNCATE)
        return 0

    async def _make(self, part: bytes, mode: int, flag: int) -> None:
        opening = asyncio.create_task(self._open(part, OpenFlag.WRITE | OpenFlag.CREATE | flag, mode))
        try:
            await asyncio.shield(opening)
        except asyncio.CancelledError:  # what removes it must not come before what makes it
            await asyncio.wait((opening,), timeout=_GOODBYE_S)
            opening.cancel()
            raise
        finally:
            if opening.done() and not opening.cancelled() and opening.exception() is None:
                opening.result().begin_to_close()

    async def _is_same(self, source: LocalSource, part: bytes, begin: int) -> bool:
        """Whether the part is what the file is, where it is looked at: the server may have lost what it had taken."""
        tail = max(0, begin - _TAIL_BYTES)
        places = [(tail, begin - tail)]
        places += [(tail * number // _SAMPLES, min(_SAMPLE_BYTES, begin)) for number in range(_SAMPLES)]
        file = await self._open(part, OpenFlag.READ)
        try:
            theirs = await asyncio.gather(*(file.read(*place) for place in places))
            for place, data in zip(places, theirs, strict=True):
                if data != await self._on_thread(partial(source.read_exactly, *place)):
                    return False
        finally:
            file.begin_to_close()
        return True

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
        """What is asked for once all bytes are there; returns whether the time could be set."""
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

    async def _remove(self, part: bytes) -> None:
        with contextlib.suppress(SFTPError):  # the first error says more
            await self._pool._remove_temporary(part)

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
    """Whether a name on the server is that of a part of that file."""
    found = parse(part)
    return isinstance(found, Part) and found.goal == goal_digest(remote_bytes(name))


def _part_name(remote: str, source: LocalSource, resume: bool) -> bytes:
    """Blocks: for a thread."""
    folder, slash, name = remote_bytes(remote).rpartition(b"/")
    if not _resumable(source, resume):
        return folder + slash + temporary_name(name)
    origin = b"%s\0%o" % (os.fsencode(os.path.realpath(source.path)), source.mode)
    return folder + slash + part_name(name, origin, source.size, source.mtime_ns)
