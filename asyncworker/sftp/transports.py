"""What carries the bytes of a session, and the first kind of it: the SSH of asyncssh, through its public interface.

A transport is two calls, :meth:`Transport.write` and :meth:`Transport.close`, and tells its :class:`Receiver` what
comes in and that it is over. Another one (see ``openssh.py``) needs a function of the type :data:`Connect`, no more.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, Protocol

import asyncssh

from asyncworker.errors import SFTPAuthError, SFTPConnectError, SFTPHostKeyError
from asyncworker.sftp.options import Options, jumps

__all__ = ["CIPHERS", "Connect", "ConnectionDropped", "Receiver", "Transport", "connect_asyncssh"]

#: AES-GCM first: half the time of chacha20 in asyncssh, whose other ciphers stay as a fall-back.
CIPHERS = "^aes128-gcm@openssh.com,aes256-gcm@openssh.com"
#: After the kinds of host key that are known. Were only those offered, a server with a key of another kind would hang
#: up without a word, and nobody would learn that its key has changed.
_HOST_KEYS = "+ssh-ed25519,ecdsa-sha2-nistp256,ecdsa-sha2-nistp384,ecdsa-sha2-nistp521,rsa-sha2-512,rsa-sha2-256"
#: What the server may send before it must wait for us: data of 20 ms at 400 MB/s.
_WINDOW_BYTES = 8 * 1024 * 1024
#: One SSH packet: large ones spare asyncssh work for each.
_PACKET_BYTES = 128 * 1024
#: How long a polite good-bye may take.
_CLOSE_TIMEOUT_S = 2.0


class ConnectionDropped(SFTPConnectError):
    """The server took the connection and let it go, as one does that has too many at once: trying again may help."""


class Receiver(Protocol):
    """Who takes what a transport brings. Called on the loop."""

    def feed(self, data: bytes) -> None:
        """Take bytes."""

    def lost(self, error: Exception | None) -> None:
        """Take that the transport is over; comes once."""


class Transport(Protocol):
    """An open way to a server's SFTP subsystem. Used on the loop.

    Attributes:
        server_version: The identification that the server's SSH sent; empty where that is not known.
    """

    server_version: str

    def write(self, data: bytes) -> None:
        """Send bytes, now or as soon as the other side takes them."""

    @property
    def unsent_bytes(self) -> int:
        """How many of them the other side has not taken yet, as far as is known."""

    def abort(self) -> None:
        """Drop the connection at once."""

    async def close(self) -> None:
        """Say good-bye, and drop the connection if that takes long."""


#: Opens a transport; raises SFTPConnectError or one of its kinds. The caller sets the time limit.
Connect = Callable[[Options, Receiver], Awaitable[Transport]]


class _Session(asyncssh.SSHClientSession[bytes]):
    """asyncssh's side of the channel."""

    def __init__(self, receiver: Receiver) -> None:
        self._receiver = receiver

    def data_received(self, data: bytes, datatype: int | None) -> None:
        if datatype is None:  # else it is stderr
            self._receiver.feed(data)

    def connection_lost(self, exc: Exception | None) -> None:
        self._receiver.lost(exc)


class _Client(asyncssh.SSHClient):
    """Keeps the host key that was refused, for the message."""

    def __init__(self, pinned: str | None) -> None:
        self._pinned = pinned
        self.refused: asyncssh.SSHKey | None = None

    def validate_host_public_key(self, host: str, addr: str, port: int, key: asyncssh.SSHKey) -> bool:
        if self._pinned is not None and self._pinned == key.get_fingerprint():
            return True
        self.refused = key
        return False


class AsyncsshTransport:
    """One SSH connection with one channel on it."""

    def __init__(
        self,
        connection: asyncssh.SSHClientConnection,
        channel: asyncssh.SSHClientChannel[bytes],
        way: list[asyncssh.SSHClientConnection],
    ) -> None:
        self._connection = connection
        self._way = way
        self._channel = channel
        self.server_version = str(connection.get_extra_info("server_version", ""))

    def write(self, data: bytes) -> None:
        """Send bytes; asyncssh keeps what the server's window does not take yet."""
        self._channel.write(data)

    @property
    def unsent_bytes(self) -> int:
        """What waits for the server's window."""
        return self._channel.get_write_buffer_size()

    def abort(self) -> None:
        """Drop the connection at once."""
        self._connection.abort()
        for hop in reversed(self._way):
            hop.abort()

    async def close(self) -> None:
        """Say good-bye, and drop the connection if that takes long."""
        self._channel.close()
        try:
            async with asyncio.timeout(_CLOSE_TIMEOUT_S):
                for connection in (self._connection, *reversed(self._way)):
                    connection.close()
                    await connection.wait_closed()
        except TimeoutError:
            self.abort()


async def connect_asyncssh(options: Options, receiver: Receiver) -> Transport:
    """Open a connection and start the SFTP subsystem on it.

    No agent, X11 or port forwarding; no SSH configuration is read unless ``options.ssh_config`` names one.

    Raises:
        SFTPConnectError: The network, the handshake, or no SFTP subsystem.
        SFTPAuthError: The login was refused.
        SFTPHostKeyError: The host key is not the known one.
    """
    where = options.address
    client = _Client(options.host_key)
    try:
        return await _connect(options, client, receiver)
    except asyncssh.HostKeyNotVerifiable as error:
        raise _host_key_error(options, client.refused, error) from None
    except asyncssh.KeyExchangeFailed as error:
        raise SFTPConnectError(f"{where}: no way to encrypt that both sides know: {error}", host=where) from error
    except asyncssh.PermissionDenied as error:
        raise SFTPAuthError(_auth_message(options, error), host=where) from error
    except asyncssh.ChannelOpenError as error:
        if error.reason == "SSH connection closed":  # not refused: it went away before it could answer
            raise ConnectionDropped(f"{where}: the server dropped the connection: {error}", host=where) from error
        raise SFTPConnectError(f"{where}: logged in, but no SFTP session opened: {error}", host=where) from error
    except (asyncssh.ConnectionLost, ConnectionResetError, BrokenPipeError) as error:
        raise ConnectionDropped(f"{where}: the server dropped the connection: {error}", host=where) from error
    except (asyncssh.Error, OSError) as error:
        raise SFTPConnectError(f"{where}: cannot connect: {error or type(error).__name__}", host=where) from error
    except ValueError as error:  # a key, a known_hosts file or a configuration that cannot be read
        raise SFTPConnectError(f"{where}: these connection options do not work: {error}", host=where) from error


async def _connect(options: Options, client: _Client, receiver: Receiver) -> AsyncsshTransport:
    known_hosts = await asyncio.to_thread(_read_known_hosts, options)
    arguments = _arguments(options, known_hosts)
    way: list[asyncssh.SSHClientConnection] = []
    try:
        for username, host, port in jumps(options.jump):
            hop = arguments | ({"username": username} if username else {}) | ({"tunnel": way[-1]} if way else {})
            way.append(await asyncssh.connect(host, port, client_factory=lambda: client, **hop))
        arguments |= _pinned(options) | ({"tunnel": way[-1]} if way else {})
        connection = await asyncssh.connect(options.host, options.port, client_factory=lambda: client, **arguments)
    except BaseException:
        for hop_connection in reversed(way):
            hop_connection.abort()
        raise
    try:
        channel, _ = await connection.create_session(
            lambda: _Session(receiver),
            subsystem="sftp",
            encoding=None,
            window=_WINDOW_BYTES,
            max_pktsize=_PACKET_BYTES,
            request_pty=False,
        )
    except BaseException:
        for opened in (connection, *reversed(way)):
            opened.abort()
        raise
    return AsyncsshTransport(connection, channel, way)


def _pinned(options: Options) -> dict[str, Any]:
    if options.host_key is None:
        return {}
    if options.host_key.startswith("SHA256:"):
        return {"known_hosts": ([], [], [])}  # the client compares the fingerprint
    try:
        return {"known_hosts": ([asyncssh.import_public_key(options.host_key)], [], [])}
    except asyncssh.KeyImportError as error:
        raise ValueError(f"host_key: {error}") from error


def _arguments(options: Options, known_hosts: Any) -> dict[str, Any]:
    """What asyncssh is told; an argument that is left out takes its own default."""
    arguments: dict[str, Any] = {
        "config": [options.ssh_config] if options.ssh_config else None,
        "known_hosts": known_hosts,
        "encryption_algs": CIPHERS,
        "server_host_key_algs": _HOST_KEYS,
        "compression_algs": ["zlib@openssh.com", "zlib", "none"] if options.compress else None,
        "agent_forwarding": False,
        "x11_forwarding": False,
        "gss_auth": False,
        "gss_kex": False,
        "keepalive_interval": options.keepalive_s,
        "login_timeout": options.connect_timeout_s,
    }
    if options.username is not None:
        arguments["username"] = options.username
    if options.password is not None:
        arguments["password"] = options.password
    if options.passphrase is not None:
        arguments["passphrase"] = options.passphrase
    if options.client_keys is not None:
        arguments["client_keys"] = list(options.client_keys)
    elif options.password is not None:
        arguments["client_keys"] = None
    if options.client_keys is not None or options.password is not None:
        # Every key of the agent that is tried counts against the server's limit of attempts.
        arguments["agent_path"] = None
    return arguments


def _read_known_hosts(options: Options) -> Any:
    if options.known_hosts is None:
        return None
    if Path(options.known_hosts).is_file():
        return asyncssh.read_known_hosts(options.known_hosts)
    # asyncssh would fall back to the default file for a value that is empty; nothing known must mean nothing known.
    return ([], [], [])


def _host_key_error(options: Options, found: asyncssh.SSHKey | None, error: asyncssh.Error) -> SFTPHostKeyError:
    where = options.address
    shown = f"{found.get_algorithm()} {found.get_fingerprint()}" if found else str(error)
    port = "" if options.port == 22 else f"-p {options.port} "
    if options.host_key is not None:
        return SFTPHostKeyError(
            f"{where}: the host key is not the one that host_key asks for. Found {shown}.", host=where
        )
    return SFTPHostKeyError(
        f"{where}: the host key is not the known one, or none is known. Found {shown}; looked in {options.known_hosts}."
        " Ask the server's operator for the fingerprint; only if it is that one, remove the old key from that file and"
        f" add the new one: ssh-keyscan {port}{options.host} >> {options.known_hosts}",
        host=where,
    )


def _auth_message(options: Options, error: asyncssh.Error) -> str:
    user = "this process's user name" if options.username is None else repr(options.username)
    if options.client_keys is not None:
        tried = "the keys " + ", ".join(options.client_keys)
    elif options.password is None:
        tried = "the keys of the agent and of ~/.ssh"
    else:
        tried = ""
    if options.password is not None:
        tried = f"{tried} and a password" if tried else "a password"
    return f"{options.address}: login as {user} refused; tried {tried}: {error}"
