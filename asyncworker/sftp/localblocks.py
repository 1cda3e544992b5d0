"""A local file as a stream of blocks, each read on a thread: what :mod:`~asyncworker.sftp.streamput` sends in place."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from concurrent.futures import Executor, Future

from asyncworker.errors import SFTPFileChanged
from asyncworker.sftp.inplace import InPlace
from asyncworker.sftp.localsource import LocalSource
from asyncworker.sftp.namespace import Namespace
from asyncworker.sftp.open_files import opened
from asyncworker.sftp.streamput import StreamUpload
from asyncworker.sftp.transfer import Transfer

__all__ = ["LocalBlocks"]

_BLOCK_BYTES = 1024 * 1024


class LocalBlocks:
    """One local file.

    Args:
        local: Its path.
        opens: Opens it; called on a thread.
        executor: Gives the executor for reading.
    """

    def __init__(self, local: str, opens: Callable[[], LocalSource], executor: Callable[[], Executor]) -> None:
        self._local = local
        self._opens = opens
        self._executor = executor

    async def put(
        self, pool: Namespace, remote: str, in_place: InPlace, *, mode: int | None, mtime: bool, fsync: bool
    ) -> Transfer:
        """Write it under its own name on the server.

        Raises:
            SFTPFileChanged: It changed while it was read.
            SFTPError: A refusal by the server, or a lost connection.
            OSError: It cannot be read; names it.
        """
        async with opened(self._opened) as source:
            try:
                upload = StreamUpload(
                    pool,
                    remote,
                    mode=source.mode if mode is None else mode & 0o777,
                    mtime=source.mtime if mtime else None,
                    fsync=fsync,
                    in_place=in_place,
                )
                sent = await upload.run(self._blocks(pool, remote, source))
            finally:
                source.close()
        return Transfer(remote, self._local, sent.size_bytes, sent.mtime)

    async def _opened(self) -> LocalSource:
        opening = self._executor().submit(self._opens)
        try:
            return await asyncio.wrap_future(opening)
        except asyncio.CancelledError:
            opening.add_done_callback(_close_opened)
            raise

    async def _blocks(self, pool: Namespace, remote: str, source: LocalSource) -> AsyncGenerator[bytes, None]:
        loop = asyncio.get_running_loop()
        offset, last = 0, False
        while not last:
            block = await loop.run_in_executor(self._executor(), source.read, offset, _BLOCK_BYTES)
            if block.changed is not None:
                where = pool.options.address
                raise SFTPFileChanged(
                    f"{where}: {self._local} was {source.size} bytes long, is {block.changed}: it changed while it was"
                    " read",
                    host=where,
                    path=remote,
                )
            yield block.data
            offset += len(block.data)
            last = block.last


def _close_opened(opening: Future[LocalSource]) -> None:
    if not opening.cancelled() and opening.exception() is None:
        opening.result().close()
