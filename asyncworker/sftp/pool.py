"""SFTPPool: what a task calls. One pool a server, shared by all tasks of a process."""

from __future__ import annotations

import asyncio
from functools import lru_cache
from types import TracebackType
from typing import Self, Unpack
from weakref import WeakSet

from asyncworker.resources import lifetimes
from asyncworker.sftp.connections import Ask, Connections
from asyncworker.sftp.files import Files
from asyncworker.sftp.openssh import connect_openssh
from asyncworker.sftp.options import Options, PoolOptions, signature_with_options
from asyncworker.sftp.transports import Connect, connect_asyncssh
from asyncworker.sftp.unfinished import Unfinished

__all__ = ["SFTPPool", "pool"]

_CONNECTS: dict[str, Connect] = {"asyncssh": connect_asyncssh, "openssh": connect_openssh}


#: Pools that are not closed, of all loops.
open_pools: WeakSet[SFTPPool] = WeakSet()


class SFTPPool(Files):
    """Files from one SFTP server, thousands at once.

    ::

        async with SFTPPool("files.example.com", username="u") as pool:
            async for entry in pool.list("/in"):
                await pool.get(entry.path, f"/data/{entry.name}")

    Connections are made when the load needs them, the first one by the first call. Used on one event loop; any number
    of tasks may call it at once, and every call may be cancelled at any time.

    Args:
        host: Name or address, a URL (``sftp://user@host:port``), or an alias of the SSH configuration.
        connect: Another kind of transport.
        ask: Called with the options and the error when a login is refused or a host key is not known, outside of all
            time limits; returns options to try again with, or ``None``.
        options: See :class:`~asyncworker.sftp.options.Options`, which describes each of them; ``password_env`` and
            ``passphrase_env`` name environment variables, ``gentle=True`` spares a server that hangs up under load.

    Raises:
        SettingsError: An option does not exist, or its value is not allowed.
    """

    #: Whether the server may be asked for digests of its files: it has not refused to make any.
    _makes_digests = True

    def __init__(
        self, host: str, *, connect: Connect | None = None, ask: Ask | None = None, **options: Unpack[PoolOptions]
    ) -> None:
        self._setup(Options.of(host, **options), connect, ask)

    @classmethod
    def from_options(cls, options: Options, connect: Connect | None = None) -> Self:
        """Make a pool from options that were checked before."""
        made = cls.__new__(cls)
        made._setup(options, connect)
        return made

    def _setup(self, options: Options, connect: Connect | None, ask: Ask | None = None) -> None:
        self.options = options
        self._connections = Connections(options, connect or _CONNECTS[options.transport], ask=ask)
        self._cleaning = set()
        self._left = {}
        self._unfinished = Unfinished()
        open_pools.add(self)

    def __repr__(self) -> str:
        return f"<SFTPPool {self.options.address}, {self._connections.count} connections>"

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Close every connection; calls that are under way fail, and remove what they have made on the server.

        That takes ten seconds at most; then a line in the log names the temporary files that may be left.
        """
        try:
            await self._finish_cleaning()
        finally:
            await self._connections.close()
            open_pools.discard(self)
            if self._executor is not None:
                await asyncio.to_thread(self._executor.shutdown)


SFTPPool.__signature__ = signature_with_options(SFTPPool)  # type: ignore[attr-defined]

#: Each item of a fan-out asks for its pool.
_options_of = lru_cache(maxsize=128)(Options.of)


async def pool(host: str, **options: Unpack[PoolOptions]) -> SFTPPool:
    """Return this process's pool for that server and those options, made once on the running loop.

    It is closed when the loop stops; a caller does not close it.

    Args:
        host: Name or address, or a URL: ``sftp://user@host:port``.
        options: As for :class:`SFTPPool`. Other options mean another pool.

    Raises:
        SettingsError: An option does not exist, or a value is not allowed.
    """
    if "password_env" in options or "passphrase_env" in options:  # which may say something else by now
        wanted = Options.of(host, **options)
    else:
        try:
            wanted = _options_of(host, **options)  # type: ignore[arg-type]  # TypeError, where one is not hashable
        except TypeError:  # a list of keys, which cannot be looked up
            wanted = Options.of(host, **options)

    async def make() -> SFTPPool:
        return SFTPPool.from_options(wanted)

    return await lifetimes().use((SFTPPool, wanted), make)
