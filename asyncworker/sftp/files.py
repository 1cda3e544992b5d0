"""File operations of a pool: get, put, open, and many at once."""

from __future__ import annotations

import contextlib
import os
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import partial
from typing import Literal, TypeVar, overload

from asyncworker.errors import SFTPConnectionLost, SFTPError, SFTPFileNotFound, SFTPNameError
from asyncworker.sftp.batch import Batch, FileResult, Order, each
from asyncworker.sftp.calls import Awaited, PathLike, pause
from asyncworker.sftp.file_end import READ_TO, ReadTo, gone_since
from asyncworker.sftp.inplace import InPlace
from asyncworker.sftp.localblocks import LocalBlocks
from asyncworker.sftp.localsource import LocalSource
from asyncworker.sftp.metadata import whole_seconds
from asyncworker.sftp.names import remote_bytes
from asyncworker.sftp.options import one_of
from asyncworker.sftp.placing import Doubt
from asyncworker.sftp.sending import Upload
from asyncworker.sftp.session import HANDLES_MAX
from asyncworker.sftp.streamput import Blocks, StreamUpload
from asyncworker.sftp.streams import ReadStream, WriteStream
from asyncworker.sftp.transfer import Download, Transfer
from asyncworker.sftp.trees import Trees

__all__ = ["Files", "Pair"]

T = TypeVar("T")

#: Threads that write large files and read local ones.
_THREADS = 2
#: A stream's blocks that are asked for, or not answered, at most.
_STREAM_BYTES = 2 * 1024 * 1024

#: Two paths: from where, and to where.
Pair = tuple[PathLike, PathLike]


class Files(Trees):
    """The part of a pool that moves bytes."""

    _executor: ThreadPoolExecutor | None = None

    async def get(
        self,
        remote: PathLike,
        local: PathLike,
        *,
        size_bytes: int | None = None,
        mtime: int | None = None,
        read_to: ReadTo = "size",
        read_once: bool = False,
    ) -> Transfer:
        """Download one file.

        It is written to a temporary file beside ``local`` and renamed when it is whole: ``local`` is the old file or
        the new one, never a part. On an error or a cancellation nothing of it stays. A file whose connection is lost
        is tried once more on another.

        Args:
            remote: Its path on the server.
            local: Where it is to appear; a file that is there is replaced. The folder must exist.
            size_bytes: Its size, where a listing told it.
            mtime: Its time of change, likewise; with both, one request fewer is sent.
            read_to: ``size`` reads as many bytes as the server announces, and refuses a file that has more or fewer;
                one of 0 bytes that has some all the same is read until EOF. ``eof`` reads until EOF whatever was
                announced: for servers whose sizes are wrong. ``snapshot`` reads what was there when the file was
                opened: for a log that grows.
            read_once: Open the file once, and read no byte of it twice: for a server that hands a file out once. A
                lost connection then ends with SFTPReadInterrupted.

        Raises:
            SettingsError: ``read_to`` is none of these.
            SFTPFileNotFound: No such file. The connection stays.
            SFTPPermissionDenied: The server refuses.
            SFTPFileChanged: The size is not what was announced.
            SFTPReadInterrupted: The connection was lost on the way, and the file cannot be read again.
            SFTPConnectError: There is no connection, and none can be made.
            SFTPConnectionLost: Both tries lost their connection.
            SFTPError: Any other refusal by the server.
            OSError: It cannot be written here; names ``local``.
        """
        text, raw, goal = os.fspath(remote), remote_bytes(remote), os.fspath(local)
        one_of("read_to", read_to, READ_TO)
        return await self._read_twice(partial(self._download, text, raw, goal, size_bytes, mtime, read_to, read_once))

    async def put(
        self,
        local: PathLike,
        remote: PathLike,
        *,
        mode: int | None = None,
        preserve_mtime: bool = True,
        fsync: bool = False,
        inplace: bool = False,
    ) -> Transfer:
        """Upload one file.

        It is written to a temporary file beside ``remote`` and renamed when it is whole; in one step where the server
        offers ``posix-rename@openssh.com``; elsewhere a file that is there is moved aside, and removed once the new one
        is in its place. On an error or a cancellation nothing of it stays, and what was there is there again; where
        the server refuses even that, the error names where it is. A file whose connection is lost is tried once more
        on another.

        Args:
            local: The file. It must not change while it is read.
            remote: Where it is to appear; a file or a link that is there is replaced, a device, a pipe or a socket is
                not. The folder must exist.
            mode: Its permissions there, which the server's umask may lessen; ``None``: those it has here.
            preserve_mtime: Give it the time of change that it has here, where the server allows it.
            fsync: Have the server flush it to its disk before it is renamed, where it offers that.
            inplace: Write it under its own name, for folders where nothing may be renamed, or whose reader takes every
                name that appears. A reader may see a part of it. After a failure, the part is removed if there was no
                file of that name before; otherwise it stays in the place of the old file, and the error names it.

        Raises:
            SFTPFileNotFound: The folder is not there.
            SFTPPermissionDenied: The server refuses.
            SFTPFileChanged: The local file changed while it was read.
            SFTPConnectError: There is no connection, and none can be made.
            SFTPConnectionLost: Both tries lost their connection.
            SFTPError: Any other refusal by the server.
            OSError: The local file cannot be read; names it.
        """
        text, raw, source = os.fspath(remote), remote_bytes(remote), os.fspath(local)
        if inplace:
            local_file = LocalBlocks(source, partial(LocalSource, source), self._threads)
            in_place = InPlace(text, raw)
            put = partial(local_file.put, self, text, in_place, mode=mode, mtime=preserve_mtime, fsync=fsync)
            try:
                return await put()
            except SFTPConnectionLost:
                await pause()
                return await put()
        opens = partial(LocalSource, source)
        make = partial(
            self._upload, source, text, raw, opens, mode=mode, mtime=preserve_mtime, fsync=fsync, asks_first=True
        )
        return await self._twice(partial(make, doubt=Doubt()))

    async def put_stream(
        self,
        blocks: Blocks,
        remote: PathLike,
        *,
        mode: int | None = None,
        mtime: int | None = None,
        fsync: bool = False,
        inplace: bool = False,
    ) -> Transfer:
        """Upload what a stream gives, of any size, as one file.

        It is written to a temporary file beside ``remote`` and renamed once the stream has ended: ``remote`` is the old
        file or the new one, never a part. If the stream raises, nothing of it stays. A connection that is lost is an
        error: what the stream gave is not kept for a second try.

        Args:
            blocks: An iterable of bytes of any lengths, async or not; one that is not must not block.
            remote: Where it is to appear; what is there is replaced as by :meth:`put`. The folder must exist.
            mode: Its permissions, which the server's umask may lessen; ``None``: the server's usual ones.
            mtime: Its time of change, seconds since 1970; ``None``: the server's clock.
            fsync: Have the server flush it to its disk before it is renamed, where it offers that.
            inplace: Write it under its own name, as for :meth:`put`.

        Raises:
            SFTPFileNotFound: The folder is not there.
            SFTPError: Any other refusal, or no connection.
            ValueError: ``mtime`` is before 1970 or after 2106.
            Exception: What ``blocks`` raised.
        """
        text = os.fspath(remote)
        mtime = None if mtime is None else whole_seconds(mtime)
        in_place = InPlace(text, remote_bytes(text)) if inplace else None
        upload = StreamUpload(self, text, mode=mode, mtime=mtime, fsync=fsync, in_place=in_place)
        return await upload.run(blocks)

    # -- many --------------------------------------------------------------------------------------------------------

    def get_many(
        self,
        files: AsyncIterable[Pair] | Iterable[Pair],
        *,
        at_once: int | None = None,
        read_to: ReadTo = "size",
        read_once: bool = False,
    ) -> AsyncGenerator[FileResult, None]:
        """Download files and give out a result for each, as it is there: one that fails does not end the others.

        ::

            async for result in pool.get_many(pairs):
                if not result.ok: ...

        Args:
            files: Pairs of remote and local path, from any kind of iterable; read as places become free.
            at_once: How many at once; ``None``: as many as the connections take.
            read_to: As for :meth:`get`.
            read_once: As for :meth:`get`.

        Raises:
            SettingsError: ``read_to`` is none of those.
        """
        one_of("read_to", read_to, READ_TO)

        async def orders() -> AsyncIterator[Order | FileResult]:
            async for remote, local in each(files):
                text, goal = os.fspath(remote), os.fspath(local)
                try:
                    raw = remote_bytes(text)
                except SFTPNameError as error:
                    yield FileResult(text, goal, error=error)
                else:
                    make = partial(self._download, text, raw, goal, read_to=read_to, read_once=read_once)
                    yield Order(text, goal, make)

        return self._batched(orders(), at_once)  # itself: whoever leaves the loop and closes it, closes that

    def put_many(
        self, files: AsyncIterable[Pair] | Iterable[Pair], *, at_once: int | None = None, fsync: bool = False
    ) -> AsyncGenerator[FileResult, None]:
        """Upload files and give out a result for each, as it is there: one that fails does not end the others.

        Unlike :meth:`put`, it does not ask what it replaces: that would be one request more for each file.

        Args:
            files: Pairs of local and remote path, from any kind of iterable; read as places become free.
            at_once: How many at once; ``None``: as many as the connections take.
            fsync: As for :meth:`put`.
        """

        async def orders() -> AsyncIterator[Order | FileResult]:
            async for local, remote in each(files):
                text, source = os.fspath(remote), os.fspath(local)
                try:
                    raw = remote_bytes(text)
                except SFTPNameError as error:
                    yield FileResult(text, source, error=error)
                else:
                    opens = partial(LocalSource, source)
                    make = partial(
                        self._upload, source, text, raw, opens, mode=None, mtime=True, fsync=fsync, doubt=Doubt()
                    )
                    yield Order(text, source, make)

        return self._batched(orders(), at_once)  # itself: whoever leaves the loop and closes it, closes that

    async def _batched(
        self, orders: AsyncIterable[Order | FileResult], at_once: int | None
    ) -> AsyncGenerator[FileResult, None]:
        results = Batch(self._connections, self._limit(at_once)).results(orders)
        try:
            async for result in results:
                yield result
        finally:
            await results.aclose()

    def _limit(self, at_once: int | None) -> int:
        most = min(self.options.connections * HANDLES_MAX, self.options.in_flight)
        return most if at_once is None else max(1, min(at_once, most))

    # -- streams -----------------------------------------------------------------------------------------------------

    @overload
    def open(
        self, path: PathLike, mode: Literal["r"] = "r", *, window_bytes: int = _STREAM_BYTES
    ) -> AbstractAsyncContextManager[ReadStream]: ...

    @overload
    def open(
        self, path: PathLike, mode: Literal["w", "x"], *, window_bytes: int = _STREAM_BYTES
    ) -> AbstractAsyncContextManager[WriteStream]: ...

    def open(
        self, path: PathLike, mode: Literal["r", "w", "x"] = "r", *, window_bytes: int = _STREAM_BYTES
    ) -> AbstractAsyncContextManager[ReadStream] | AbstractAsyncContextManager[WriteStream]:
        """Open a file as a stream of bytes, for ``async with``. It keeps a place on a connection while it is open.

        ::

            async with pool.open("/in/large.csv") as file:
                head = await file.read(100)
                async for block in file: ...

        A stream is bound to its connection: if that is lost, the stream fails. What is written is seen on the server
        while it grows; use :meth:`put` for a file that appears whole.

        Args:
            path: Its path.
            mode: ``r`` reads, ``w`` writes and empties a file that is there, ``x`` refuses one that is there.
            window_bytes: What is asked for ahead, or written and not answered yet, at most.

        Raises:
            SFTPFileNotFound: No such file, or no such folder.
            SFTPError: Any other refusal, or no connection; on entering, on every use and on leaving.
            SettingsError: Another mode.
        """
        one_of("mode", mode, ("r", "w", "x"))
        return self._reading(path, window_bytes) if mode == "r" else self._writing(path, mode, window_bytes)

    @asynccontextmanager
    async def _reading(self, path: PathLike, window_bytes: int) -> AsyncIterator[ReadStream]:
        text, raw = os.fspath(path), remote_bytes(path)
        stream = await self._read_twice(lambda: ReadStream(text, raw, window_bytes, self._connections.release))
        try:
            yield stream
        finally:
            await stream.close()

    @asynccontextmanager
    async def _writing(self, path: PathLike, mode: str, window_bytes: int) -> AsyncIterator[WriteStream]:
        text, raw = os.fspath(path), remote_bytes(path)
        stream = await self._run(WriteStream(text, raw, mode, window_bytes, self._connections.release))
        try:
            yield stream
        except BaseException:
            with contextlib.suppress(SFTPError):  # the first error says more
                await stream.close()
            raise
        await stream.close()

    # -- inside ------------------------------------------------------------------------------------------------------

    async def _read_twice(self, make: Callable[[], Awaited[T]]) -> T:
        """Run a job that opens a file, as :meth:`_twice` does; say so if the file is gone at the second try."""
        tries = 0

        def counted() -> Awaited[T]:
            nonlocal tries
            tries += 1
            return make()

        try:
            return await self._twice(counted)
        except SFTPFileNotFound as error:
            if tries == 1:
                raise
            raise gone_since(error) from None

    def _download(
        self,
        text: str,
        raw: bytes,
        goal: str,
        size_bytes: int | None = None,
        mtime: int | None = None,
        read_to: ReadTo = "size",
        read_once: bool = False,
    ) -> Download:
        return Download(
            text,
            raw,
            goal,
            size_bytes=size_bytes,
            mtime=mtime,
            read_to=read_to,
            read_once=read_once,
            executor=self._threads,
            on_released=self._connections.release,
        )

    def _upload(
        self,
        source: str,
        text: str,
        raw: bytes,
        opens: partial[LocalSource],
        *,
        mode: int | None,
        mtime: bool,
        fsync: bool,
        doubt: Doubt | None = None,
        asks_first: bool = False,
    ) -> Upload:
        return Upload(
            source,
            text,
            raw,
            source=opens,
            mode=mode,
            mtime=mtime,
            fsync=fsync,
            executor=self._threads,
            on_released=self._connections.release,
            on_left=self._forget_remote,
            on_aside=self._restore_remote,
            doubt=doubt or Doubt(),
            asks_first=asks_first,
        )

    def _remove_here(self) -> list[str]:
        """Remove temporary files on this machine, from a signal handler; return the :attr:`leftovers` that stay."""
        for job in self._connections.running:
            if isinstance(job, Download):
                job.remove_here()
        return self.leftovers

    def _threads(self) -> ThreadPoolExecutor:
        if self._executor is None:
            self._executor = ThreadPoolExecutor(_THREADS, thread_name_prefix="sftp-files")
        return self._executor
