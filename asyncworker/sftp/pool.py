"""SFTPPool: what a task calls. One pool a server, shared by all tasks of a process."""

from __future__ import annotations

import asyncio
import os
import random
from collections.abc import AsyncGenerator, Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from types import TracebackType
from typing import Any, Literal, Protocol, Self, TypeVar

from asyncworker.errors import SFTPConnectionLost
from asyncworker.resources import lifetimes
from asyncworker.sftp.connections import Connections
from asyncworker.sftp.listing import Entry, Listing
from asyncworker.sftp.names import remote_bytes
from asyncworker.sftp.options import DEFAULT_KNOWN_HOSTS, Options
from asyncworker.sftp.packets import Attributes
from asyncworker.sftp.request import Request
from asyncworker.sftp.session import Session
from asyncworker.sftp.transfer import Download, Transfer
from asyncworker.sftp.transports import Connect, connect_asyncssh

__all__ = ["SFTPPool", "pool"]

T = TypeVar("T")
PathLike = str | os.PathLike[str]


class _Awaited(Protocol[T]):
    """A job whose caller waits for its future."""

    future: asyncio.Future[T]

    def start(self, session: Session) -> None: ...
    def fail(self, error: Exception) -> None: ...
    def abandon(self) -> None: ...


#: Before a second try. Connections seldom die alone: those that die with this one have to be seen dead first.
_PAUSE_S = 0.1

#: Threads that write large files.
_WRITERS = 2


class SFTPPool:
    """Files from one SFTP server, thousands at once.

    ::

        async with SFTPPool("files.example.com", username="u") as pool:
            async for entry in pool.list("/in"):
                await pool.get(entry.path, f"/data/{entry.name}")

    Connections are made when the load needs them, the first one by the first call. Used on one event loop; any number
    of tasks may call it at once, and every call may be cancelled at any time.

    Args:
        host: Name or address.
        port: TCP port.
        username: Login name; ``None``: that of this process.
        password: Password. Where only a password is given, no key is tried.
        client_keys: A private key file, or several; ``None``: the agent's, and those in ``~/.ssh``.
        passphrase: Opens encrypted key files.
        known_hosts: File of known host keys. ``None`` switches the check off, and with it all protection against a
            server that only claims to be this one.
        ssh_config: An OpenSSH client configuration to read; ``None``: none.
        connections: Connections at most.
        in_flight: Files at once on one connection at most; the server's own limit of open handles lowers it.
        connect_timeout_s: Seconds for a connection to be ready.
        keepalive_s: Seconds between signs of life; three without an answer and the connection is given up.
        connect: Another kind of transport.

    Raises:
        SettingsError: An option's value is not allowed.
    """

    def __init__(
        self,
        host: str,
        *,
        port: int = 22,
        username: str | None = None,
        password: str | None = None,
        client_keys: Iterable[PathLike] | PathLike | None = None,
        passphrase: str | None = None,
        known_hosts: PathLike | None = DEFAULT_KNOWN_HOSTS,
        ssh_config: PathLike | None = None,
        connections: int = 4,
        in_flight: int = 256,
        connect_timeout_s: float = 30.0,
        keepalive_s: float = 15.0,
        connect: Connect = connect_asyncssh,
    ) -> None:
        options = Options.of(
            host,
            port=port,
            username=username,
            password=password,
            client_keys=client_keys,
            passphrase=passphrase,
            known_hosts=known_hosts,
            ssh_config=ssh_config,
            connections=connections,
            in_flight=in_flight,
            connect_timeout_s=connect_timeout_s,
            keepalive_s=keepalive_s,
        )
        self._setup(options, connect)

    @classmethod
    def from_options(cls, options: Options, connect: Connect = connect_asyncssh) -> Self:
        """Make a pool from options that were checked before."""
        made = cls.__new__(cls)
        made._setup(options, connect)
        return made

    def _setup(self, options: Options, connect: Connect) -> None:
        self.options = options
        self._connections = Connections(options, connect)
        self._executor: ThreadPoolExecutor | None = None

    def __repr__(self) -> str:
        return f"<SFTPPool {self.options.address}, {self._connections.count} connections>"

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Close every connection; calls that are under way fail."""
        await self._connections.close()
        if self._executor is not None:
            self._executor.shutdown(wait=False)

    # -- files -------------------------------------------------------------------------------------------------------

    async def get(
        self, remote: PathLike, local: PathLike, *, size_bytes: int | None = None, mtime: int | None = None
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

        Raises:
            SFTPFileNotFound: No such file. The connection stays.
            SFTPPermissionDenied: The server refuses.
            SFTPFileChanged: The size is not what was announced.
            SFTPConnectError: There is no connection, and none can be made.
            SFTPConnectionLost: Both tries lost their connection.
            SFTPError: Any other refusal by the server.
            OSError: It cannot be written here; names ``local``.
        """
        remote_text, raw, local_text = os.fspath(remote), remote_bytes(remote), os.fspath(local)

        def make() -> Download:
            return Download(
                remote_text,
                raw,
                local_text,
                size_bytes=size_bytes,
                mtime=mtime,
                executor=self._writers,
                on_released=self._connections.release,
            )

        return await self._twice(make)

    async def stat(self, path: PathLike, *, follow_links: bool = True) -> Attributes:
        """Return what the server says of a file.

        Raises:
            SFTPFileNotFound: There is none.
            SFTPError: Any other refusal, or no connection.
        """
        raw = remote_bytes(path)

        def ask(session: Session, request: Request[Attributes]) -> None:
            send = session.protocol.stat if follow_links else session.protocol.lstat
            send(raw, request.answered, request)

        return await self._twice(lambda: Request(ask, "stat", os.fspath(path), self._connections.release))

    async def list(
        self, path: PathLike, *, bad_names: Literal["raise", "skip"] = "raise"
    ) -> AsyncGenerator[Entry, None]:
        """Give out the entries of a folder while they arrive, without ``.`` and ``..``, in the server's order.

        Args:
            path: The folder.
            bad_names: What to do with a name that is not safe to write locally; ``skip`` logs it.

        Raises:
            SFTPFileNotFound: No such folder.
            SFTPNameError: A name is not safe.
            SFTPError: Any other refusal, or no connection.
        """
        text, raw = os.fspath(path), remote_bytes(path)
        for attempt in (1, 2):
            begun = False
            listing = Listing(text, raw, self.options.address, self._connections.release)
            self._connections.submit(listing)
            try:
                async for entry in listing.entries(bad_names):
                    begun = True
                    yield entry
                return
            except SFTPConnectionLost:
                if begun or attempt == 2:
                    raise
                await _pause()
            finally:
                self._connections.withdraw(listing)
                listing.close()

    # -- inside ------------------------------------------------------------------------------------------------------

    async def _twice(self, make: Callable[[], _Awaited[T]]) -> T:
        try:
            return await self._run(make())
        except SFTPConnectionLost:
            await _pause()
            return await self._run(make())

    async def _run(self, job: _Awaited[T]) -> T:
        self._connections.submit(job)
        try:
            return await job.future
        except (asyncio.CancelledError, GeneratorExit):
            self._connections.withdraw(job)
            job.abandon()
            raise

    def _writers(self) -> ThreadPoolExecutor:
        if self._executor is None:
            self._executor = ThreadPoolExecutor(_WRITERS, thread_name_prefix="sftp-writer")
        return self._executor


async def _pause() -> None:
    await asyncio.sleep(_PAUSE_S * random.uniform(1, 2))  # not all at the same moment


async def pool(host: str, **options: Any) -> SFTPPool:
    """Return this process's pool for that server and those options, made once on the running loop.

    It is closed when the loop stops; a caller does not close it.

    Args:
        host: Name or address.
        options: As for :class:`SFTPPool`. Other options mean another pool.

    Raises:
        SettingsError: An option does not exist, or a value is not allowed.
    """
    wanted = Options.of(host, **options)

    async def make() -> SFTPPool:
        return SFTPPool.from_options(wanted)

    return await lifetimes().use((SFTPPool, wanted), make)
