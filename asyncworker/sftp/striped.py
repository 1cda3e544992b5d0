"""One large file over several connections: each takes the next block that nobody has, and writes it in its place."""

from __future__ import annotations

import asyncio
import contextlib
import heapq
from collections import deque
from collections.abc import Callable
from concurrent.futures import CancelledError, Executor, Future
from functools import partial
from typing import TypeVar

from asyncworker.errors import SFTPConnectError, SFTPConnectionLost, SFTPError, SFTPFileChanged, SFTPFileNotFound
from asyncworker.sftp.file_end import gone_since, other_size
from asyncworker.sftp.files import Files
from asyncworker.sftp.packets import Attributes
from asyncworker.sftp.partfile import PartFile
from asyncworker.sftp.streams import RangeStream
from asyncworker.sftp.stripes import run_stripes
from asyncworker.sftp.transfer import Transfer

__all__ = ["Striped"]

T = TypeVar("T")

#: Asked for and not written yet, at most, on each connection.
_WINDOW_BYTES = 2 * 1024 * 1024
#: What a stripe takes at a time, where one READ may be that long.
_BLOCK_BYTES = 256 * 1024
#: Written in one go on a thread.
_WRITE_BYTES = 2 * 1024 * 1024
#: Compared before a part is used: so many samples of so much, from its beginning to its end.
_SAMPLES = 16
_SAMPLE_BYTES = 32 * 1024


class Striped:
    """One file. Made on the loop, run once.

    Args:
        pool: The connections.
        remote: Path on the server.
        raw: The same as bytes.
        size: Its size, as listed.
        mtime: Its time of change, as listed.
        open_part: Opens the local file; called on a thread.
        sync: Flush it to the disk before it appears.
        on_bytes: Called with the number of bytes that were there already, and with that of each block.
        executor: For all that blocks.
    """

    def __init__(
        self,
        pool: Files,
        remote: str,
        raw: bytes,
        *,
        size: int,
        mtime: int,
        open_part: Callable[[], PartFile],
        sync: bool,
        on_bytes: Callable[[int], None],
        executor: Executor,
    ) -> None:
        self._pool = pool
        self._remote = remote
        self._raw = raw
        self._size = size
        self._mtime = mtime
        self._open_part = open_part
        self._sync = sync
        self._on_bytes = on_bytes
        self._executor = executor
        self._loop = asyncio.get_running_loop()
        self._next = 0  # where nobody has begun
        self._returned: list[tuple[int, int]] = []  # ranges of lost connections, a heap
        self._open_ranges: dict[int, None] = {}  # their beginnings: asked for, returned, or not written yet
        self._moved = 0
        self._first: RangeStream | None = None  # open already
        self._end_seen = False
        self._running = 0  # stripes
        self._opened_once = False
        self._alone = False  # the server lets nobody open it a second time

    async def run(self) -> Transfer:
        """Fetch it.

        Raises:
            SFTPFileChanged: It is not, or not any more, what was listed.
            SFTPError: A refusal by the server, or lost connections without an end.
            OSError: It cannot be written here.
        """
        part = await self._opened()
        with self._pool._unfinished.holding(part.temporary_path):
            return await self._fetched(part)

    async def _fetched(self, part: PartFile) -> Transfer:
        try:
            if part.whole:
                self._first = await self._open()
                if self._first is not None and not await self._is_same(self._first, part):
                    await self._on_thread(part.restart)
            self._next = part.whole
            self._on_bytes(part.whole)
            await self._stripes(part)
            await self._on_thread(partial(part.commit, self._sync))
        except (SFTPFileChanged, OSError):
            await self._on_thread(part.discard)
            raise
        except BaseException:
            await self._in_any_case(part.keep)
            raise
        finally:
            if self._first is not None:
                self._first.begin_to_close()
        return Transfer(self._remote, part.goal, self._size, self._mtime)

    async def _opened(self) -> PartFile:
        opening = self._executor.submit(self._open_part)
        try:
            return await asyncio.wrap_future(opening)  # which cannot be cancelled once a thread has begun
        except asyncio.CancelledError:
            await self._in_any_case(partial(_keep_opened, opening))
            raise

    async def _in_any_case(self, call: Callable[[], None]) -> None:
        """Wait for what must be over before another run begins: it must not find the file still taken."""
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.shield(self._loop.run_in_executor(self._executor, call))

    async def _is_same(self, stream: RangeStream, part: PartFile) -> bool:
        """Return whether a part equals the file in samples: the file may have been rewritten within one second."""

        async def same(offset: int) -> bool:
            length = min(_SAMPLE_BYTES, part.whole - offset, stream.read_bytes)
            theirs = await stream.read_range(offset, length)  # fewer bytes are a sample, too
            return bool(theirs) and theirs == await self._on_thread(partial(part.read, offset, len(theirs)))

        last = max(0, part.whole - _SAMPLE_BYTES)
        return all(await asyncio.gather(*(same(last * number // _SAMPLES) for number in range(_SAMPLES + 1))))

    async def _stripes(self, part: PartFile) -> None:
        await run_stripes(
            self._pool,
            partial(self._stripe, part),
            work_left=self._work_left,
            done=lambda: self._next >= self._size and not self._open_ranges,
            moved=lambda: self._moved,
        )

    def _work_left(self) -> int:
        work = -(-(self._size - self._next) // _WINDOW_BYTES) + len(self._returned)
        return min(work, 1) if self._alone else work

    async def _stripe(self, part: PartFile) -> None:
        self._running += 1
        try:
            stream, self._first = self._first, None  # the server may let nobody open it twice
            if stream is None:
                stream = await self._open()
            if stream is not None:
                await self._fetch(stream, part)
        finally:
            self._running -= 1

    async def _open(self) -> RangeStream | None:
        """Open it; ``None``: another stripe has, or may have, and it cannot be opened once more."""
        try:
            stream = await self._pool._run(RangeStream(self._remote, self._raw, self._pool._connections.release))
        except (SFTPConnectionLost, SFTPConnectError):
            raise
        except SFTPError as error:
            if self._running > 1:
                self._alone = True
                return None
            if self._opened_once and isinstance(error, SFTPFileNotFound):
                raise gone_since(error) from None
            raise
        self._opened_once = True
        return stream

    async def _fetch(self, stream: RangeStream, part: PartFile) -> None:
        asked: deque[tuple[int, int, asyncio.Future[bytes]]] = deque()
        try:
            self._check(await _told(stream), "the open file has")
            block_bytes = min(_BLOCK_BYTES, stream.read_bytes)
            in_flight = 0
            while True:
                while in_flight < _WINDOW_BYTES and (taken := self._take(block_bytes)) is not None:
                    try:
                        asked.append((*taken, stream.read_range(*taken)))
                    except BaseException:  # it is lost already: whoever comes next has what was taken
                        heapq.heappush(self._returned, taken)
                        raise
                    in_flight += taken[1]
                if not asked:
                    break
                await asyncio.wait((asked[0][2],))
                blocks: list[tuple[int, bytes]] = []
                size = 0
                while asked and asked[0][2].done() and size < _WRITE_BYTES:
                    offset, length, answer = asked[0]
                    if blocks and answer.exception() is not None:
                        break  # what is here is written before that is raised
                    data = answer.result()
                    if not data:
                        raise self._changed(other_size(self._size, f"it ends after {offset}"))
                    asked.popleft()
                    in_flight -= length
                    if len(data) < length:
                        rest = (offset + len(data), length - len(data))
                        self._open_ranges[rest[0]] = None
                        try:
                            asked.appendleft((*rest, stream.read_range(*rest)))
                            in_flight += rest[1]
                        except SFTPError:  # the next answer raises it, once what is here is written
                            heapq.heappush(self._returned, rest)
                    blocks.append((offset, data))
                    size += len(data)
                await self._write(part, blocks)
            await self._check_end(stream)
        finally:
            for offset, length, answer in asked:
                answer.cancel()
                heapq.heappush(self._returned, (offset, length))
            stream.begin_to_close()

    async def _write(self, part: PartFile, blocks: list[tuple[int, bytes]]) -> None:
        writing = {offset for offset, _ in blocks}
        others = (offset for offset in self._open_ranges if offset not in writing)
        whole = min(others, default=self._next)
        await self._on_thread(partial(part.write, blocks, max(part.whole, whole)))
        for offset, data in blocks:
            self._open_ranges.pop(offset, None)
            self._moved += len(data)
            self._on_bytes(len(data))
        if not self._open_ranges:
            part.whole = self._next

    def _take(self, length: int) -> tuple[int, int] | None:
        """The next range that nobody has."""
        if self._returned:
            offset, left = heapq.heappop(self._returned)
            if left > length:
                heapq.heappush(self._returned, (offset + length, left - length))
                self._open_ranges[offset + length] = None
                left = length
            return offset, left
        if self._next >= self._size:
            return None
        offset, self._next = self._next, min(self._next + length, self._size)
        self._open_ranges[offset] = None
        return offset, self._next - offset

    def _check(self, attributes: Attributes, subject: str) -> None:
        if attributes.size_bytes is not None and attributes.size_bytes != self._size:
            raise self._changed(other_size(self._size, f"{subject} {attributes.size_bytes}"))
        if attributes.mtime is not None and attributes.mtime != self._mtime:
            raise self._changed(
                "it was changed after it was listed; read_to='snapshot' fetches files that change meanwhile"
            )

    async def _check_end(self, stream: RangeStream) -> None:
        """See that it is still what was listed, and that nothing follows: in the same flight, by one stripe."""
        beyond = None if self._end_seen else stream.read_range(self._size, 1)
        self._check(await _told(stream), "it has")
        if beyond is not None:
            try:
                more = await beyond
            except SFTPConnectionLost:
                raise
            except SFTPError:  # servers that have no EOF refuse to read beyond it
                more = b""
            if more:
                raise self._changed(other_size(self._size, "more follow"))
            self._end_seen = True

    def _changed(self, what: str) -> SFTPError:
        address = self._pool.options.address
        return SFTPFileChanged(f"{address}: {self._remote}: {what}", host=address, path=self._remote)

    async def _on_thread(self, call: Callable[[], T]) -> T:
        return await self._loop.run_in_executor(self._executor, call)


async def _told(stream: RangeStream) -> Attributes:
    """Ask for the attributes; those that the server refuses to tell are not told."""
    try:
        return await stream.stat()
    except SFTPConnectionLost:
        raise
    except SFTPError:
        return Attributes()


def _keep_opened(opening: Future[PartFile]) -> None:
    """On a thread: nobody waits any more for a file that is being opened on another, or was."""
    with contextlib.suppress(OSError, CancelledError):
        opening.result().keep()
