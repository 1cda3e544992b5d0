"""SFTPPool: what a task calls. One pool a server, shared by all tasks of a process."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from functools import lru_cache
from types import TracebackType
from typing import Any, Self

from asyncworker.resources import lifetimes
from asyncworker.sftp.calls import PathLike
from asyncworker.sftp.connections import Connections
from asyncworker.sftp.files import Files
from asyncworker.sftp.openssh import connect_openssh
from asyncworker.sftp.options import DEFAULT_KNOWN_HOSTS, Options, TransportName
from asyncworker.sftp.transports import Connect, connect_asyncssh
from asyncworker.sftp.unfinished import Unfinished

__all__ = ["SFTPPool", "pool"]

_CONNECTS: dict[str, Connect] = {"asyncssh": connect_asyncssh, "openssh": connect_openssh}


class SFTPPool(Files):
    """Files from one SFTP server, thousands at once.

    ::

        async with SFTPPool("files.example.com", username="u") as pool:
            async for entry in pool.list("/in"):
                await pool.get(entry.path, f"/data/{entry.name}")

    Connections are made when the load needs them, the first one by the first call. Used on one event loop; any number
    of tasks may call it at once, and every call may be cancelled at any time.

    Args:
        host: Name or address, or a URL: ``sftp://user@host:port``.
        port: TCP port; ``None``: that of the URL, or 22.
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
        idle_close_s: Seconds without any use, after which all connections are closed; the next call makes new ones.
        host_key: The only host key that is taken: a public key (``ssh-ed25519 AAAA...``) or a fingerprint
            (``SHA256:...``); ``known_hosts`` plays no part then.
        jump: Hosts on the way, ``user@host:port``, separated by commas; with the same keys and known hosts.
        compress: Compress what goes over the network: worth it on slow lines only.
        transport: ``asyncssh`` speaks SSH in this process. ``openssh`` starts the program ``ssh`` for each connection:
            faster, with the user's own configuration (``ssh_config`` names another), keys and agent. A password or
            passphrase is in the environment of that process, where its user and root may read it.
        password_env: Environment variable that holds the password.
        passphrase_env: Environment variable that holds the passphrase.
        connect: Another kind of transport.

    Raises:
        SettingsError: An option's value is not allowed.
    """

    def __init__(
        self,
        host: str,
        *,
        port: int | None = None,
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
        idle_close_s: float = 300.0,
        host_key: str | None = None,
        jump: str | None = None,
        compress: bool = False,
        transport: TransportName = "asyncssh",
        password_env: str | None = None,
        passphrase_env: str | None = None,
        connect: Connect | None = None,
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
            idle_close_s=idle_close_s,
            host_key=host_key,
            jump=jump,
            compress=compress,
            transport=transport,
            password_env=password_env,
            passphrase_env=passphrase_env,
        )
        self._setup(options, connect)

    @classmethod
    def from_options(cls, options: Options, connect: Connect | None = None) -> Self:
        """Make a pool from options that were checked before."""
        made = cls.__new__(cls)
        made._setup(options, connect)
        return made

    def _setup(self, options: Options, connect: Connect | None) -> None:
        self.options = options
        self._connections = Connections(options, connect or _CONNECTS[options.transport])
        self._cleaning = set()
        self._left = {}
        self._unfinished = Unfinished()

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
            if self._executor is not None:
                await asyncio.to_thread(self._executor.shutdown)


#: Each item of a fan-out asks for its pool.
_options_of = lru_cache(maxsize=128)(Options.of)


async def pool(host: str, **options: Any) -> SFTPPool:
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
            wanted = _options_of(host, **options)
        except TypeError:  # a list of keys, which cannot be looked up
            wanted = Options.of(host, **options)

    async def make() -> SFTPPool:
        return SFTPPool.from_options(wanted)

    return await lifetimes().use((SFTPPool, wanted), make)
