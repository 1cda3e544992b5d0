"""A file of unknown size from a stream of bytes: whole under its name, or not there."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterable, Iterable

from asyncworker.errors import SFTPError, SFTPFileNotFound
from asyncworker.sftp import packets
from asyncworker.sftp.batch import each
from asyncworker.sftp.inplace import InPlace
from asyncworker.sftp.listing import not_replaceable
from asyncworker.sftp.names import remote_bytes, remote_text
from asyncworker.sftp.namespace import Namespace
from asyncworker.sftp.packets import OpenFlag
from asyncworker.sftp.remotefile import RemoteFile
from asyncworker.sftp.temporary_names import temporary_name
from asyncworker.sftp.transfer import Transfer

__all__ = ["Blocks", "StreamUpload"]

#: Taken from the stream and not answered yet, at most.
_WINDOW_BYTES = 4 * 1024 * 1024
#: How long somebody who is cancelled takes to leave nothing behind.
_GOODBYE_S = 2.0

Blocks = AsyncIterable[bytes] | Iterable[bytes]


class StreamUpload:
    """One file. Made on the loop, run once.

    Args:
        pool: The connections.
        remote: Path on the server.
        mode: Its permissions, which the server's umask may lessen; ``None``: the server's usual ones.
        mtime: Its time of change, seconds since 1970; ``None``: the server's clock.
        fsync: Have the server flush it to its disk before it appears, where it offers that.
        in_place: What is known of the file, if it is to be written under its own name.
    """

    def __init__(
        self,
        pool: Namespace,
        remote: str,
        *,
        mode: int | None,
        mtime: int | None,
        fsync: bool,
        in_place: InPlace | None,
    ) -> None:
        self._pool = pool
        self._remote = remote
        self._mode = mode
        self._mtime = mtime
        self._fsync = fsync
        self._goal = remote_bytes(remote)
        self._in_place = in_place
        folder, slash, name = self._goal.rpartition(b"/")
        self._path = self._goal if in_place is not None else folder + slash + temporary_name(name)

    async def run(self, blocks: Blocks) -> Transfer:
        """Send what the stream gives.

        Raises:
            SFTPError: A refusal by the server, or a lost connection: what the stream gave cannot be sent again.
            Exception: What the stream raised.
        """
        with self._pool._unfinished.holding(remote_text(self._path)):
            try:
                size = await self._write(blocks)
                if self._in_place is None:
                    await self._pool._place(self._path, self._remote, size)
            except BaseException as error:
                if self._in_place is not None:
                    raise await self._in_place.failed(self._pool, error) from None
                await self._pool._remove_temporary(self._path)
                raise
        return Transfer(self._remote, "", size, self._mtime)

    # -- inside ------------------------------------------------------------------------------------------------------

    async def _write(self, blocks: Blocks) -> int:
        file = await self._opened()
        size = in_flight = 0
        writing: deque[tuple[int, asyncio.Future[None]]] = deque()
        source = each(blocks)
        try:
            async for block in source:
                if not block:
                    continue
                writing.append((len(block), file.write(size, bytes(block))))
                size += len(block)
                in_flight += len(block)
                self._note(size, in_flight)
                while writing and (in_flight >= _WINDOW_BYTES or writing[0][1].done()):
                    length, answer = writing.popleft()
                    await answer
                    in_flight -= length
                    self._note(size, in_flight)
            for _, answer in writing:
                await answer
            if self._mtime is not None:
                times = packets.attributes_bytes(mtime=self._mtime)
                if not await file.set_attributes(times):  # some servers let nobody set it; the file is well without
                    self._mtime = None
            if self._fsync:
                await file.flush()
            await file.close()
        finally:
            await source.aclose()
            for _, answer in writing:
                answer.cancel()
            file.begin_to_close()
        return size

    def _note(self, size: int, in_flight: int) -> None:
        if self._in_place is not None:
            self._in_place.sent, self._in_place.taken = size, size - in_flight

    async def _opened(self) -> RemoteFile:
        if self._in_place is None:
            await self._refuse_devices(follow_links=False)
            return await self._open(OpenFlag.EXCLUSIVE)
        self._in_place.begin()
        try:
            file = await self._open(OpenFlag.EXCLUSIVE)
        except SFTPError as error:
            if not self._in_place.may_exist(error):
                raise
        else:
            try:
                is_new = not (await file.stat()).size_bytes
            except BaseException:
                file.begin_to_close()
                raise
            if is_new:
                return file
            file.begin_to_close()  # the server takes no notice of EXCL: it is the old one
            self._in_place.made = False
        await self._refuse_devices(follow_links=True)  # to open a pipe would hang the server
        file = await self._open(OpenFlag.TRUNCATE)
        self._in_place.replaces = not self._in_place.made
        return file

    async def _open(self, flag: int) -> RemoteFile:
        how = packets.open_tail(OpenFlag.WRITE | OpenFlag.CREATE | flag, self._mode)
        job = RemoteFile(self._remote, self._path, how, self._pool._connections.release)
        opening = asyncio.create_task(self._pool._run(job))
        try:
            file = await asyncio.shield(opening)
        except asyncio.CancelledError:  # what removes it must not come before what makes it
            await asyncio.wait((opening,), timeout=_GOODBYE_S)
            opening.cancel()
            if opening.done() and not opening.cancelled() and opening.exception() is None:
                opening.result().begin_to_close()
                self._have_made(flag)
            raise
        self._have_made(flag)
        return file

    async def _refuse_devices(self, follow_links: bool) -> None:
        try:
            there = await self._pool._told(self._remote, follow_links=follow_links)
        except SFTPFileNotFound:
            return
        if there.file_type == "other":
            raise not_replaceable(self._remote, self._pool.options.address)

    def _have_made(self, flag: int) -> None:
        if self._in_place is not None and flag == OpenFlag.EXCLUSIVE:
            self._in_place.made = True
