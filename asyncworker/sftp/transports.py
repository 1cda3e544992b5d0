"""Transports of a session's bytes, and the first of them: asyncssh, through its public interface.

A transport is two calls, :meth:`Transport.write` and :meth:`Transport.close`, and tells its :class:`Receiver` what
comes in and that it is over. Another one (see ``openssh.py``) needs a function of the type :data:`Connect`, no more.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Any, Protocol

import asyncssh

from asyncworker.errors import SettingsError, SFTPAuthError, SFTPConnectError
from asyncworker.sftp.host_keys import Client, host_key_error, read_known_hosts
from asyncworker.sftp.login_gate import open_gate
from asyncworker.sftp.options import Options, expanded
from asyncworker.sftp.ssh_target import Target, target_of

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
#: Looked for where none is named.
_USUAL_KEYS = ("id_ed25519", "id_ecdsa", "id_rsa")
#: How long a polite good-bye may take.
_CLOSE_TIMEOUT_S = 2.0


class ConnectionDropped(SFTPConnectError):
    """The server took the connection and let it go, as one does that has too many at once: trying again may help."""


class Receiver(Protocol):
    """Receiver of what a transport delivers. Called on the loop."""

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
        """Bytes that wait for the server's window."""
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
    attempt = _Attempt(options)
    try:
        return await attempt.connect(receiver)
    except asyncssh.HostKeyNotVerifiable as error:
        raise host_key_error(attempt.client, attempt.target, error) from None
    except asyncssh.KeyExchangeFailed as error:
        raise SFTPConnectError(
            f"{attempt.where}: no way to encrypt that both sides know: {error}", host=where
        ) from error
    except asyncssh.PermissionDenied as error:
        raise await asyncio.to_thread(_auth_error, attempt, error) from error
    except asyncssh.ChannelOpenError as error:
        if error.reason == "SSH connection closed":  # not refused: it went away before it could answer
            raise _dropped(attempt, error) from error
        if attempt.hops and not attempt.logged_in:
            said = f"the jump host {attempt.hops[-1]} cannot connect to {attempt.target.options.address}: {error}"
            raise SFTPConnectError(f"{where}: {said}", host=where) from error
        raise SFTPConnectError(f"{where}: logged in, but no SFTP session opened: {error}", host=where) from error
    except (asyncssh.ConnectionLost, ConnectionResetError, BrokenPipeError) as error:
        raise _dropped(attempt, error) from error
    except (asyncssh.Error, OSError) as error:
        said = str(error) or type(error).__name__
        raise SFTPConnectError(f"{attempt.where}: cannot connect: {said}", host=where) from error
    except (asyncssh.KeyEncryptionError, asyncssh.KeyImportError) as error:
        raise await asyncio.to_thread(_key_error, attempt, error) from error
    except SettingsError as error:
        raise SFTPConnectError(f"{where}: {error}", host=where) from None
    except ValueError as error:  # a key, a known_hosts file or a configuration that cannot be read
        raise SFTPConnectError(f"{where}: these connection options do not work: {error}", host=where) from error


class _Attempt:
    """One try to connect, host by host.

    Attributes:
        target: The host that it has come to.
        client: What is known of it.
        hops: The hosts on the way that it has logged in to.
        logged_in: Whether it has logged in to the last host.
    """

    def __init__(self, options: Options) -> None:
        self._options = options
        self.target = Target(options, options.host, ())
        self.client = Client(self.target, None)
        self.hops: list[str] = []
        self._is_last = True
        self.logged_in = False

    @property
    def where(self) -> str:
        """The server, and the host on the way to it that was not passed."""
        server, reached = self._options.address, self.target.options.address
        return server if self._is_last else f"{server}: the jump host {reached}"

    async def connect(self, receiver: Receiver) -> AsyncsshTransport:
        last = await asyncio.to_thread(target_of, self._options)
        way: list[asyncssh.SSHClientConnection] = []
        try:
            for target in (*last.jumps, last):
                self._is_last = target is last
                way.append(await self._reach(target, way))
                self.hops.append(target.options.address)
            self.logged_in = True
            open_gate()
            channel, _ = await way[-1].create_session(
                lambda: _Session(receiver),
                subsystem="sftp",
                encoding=None,
                window=_WINDOW_BYTES,
                max_pktsize=_PACKET_BYTES,
                request_pty=False,
            )
        except BaseException:
            for opened in reversed(way):
                opened.abort()
            raise
        return AsyncsshTransport(way.pop(), channel, way)

    async def _reach(self, target: Target, way: list[asyncssh.SSHClientConnection]) -> asyncssh.SSHClientConnection:
        known_hosts = await asyncio.to_thread(read_known_hosts, target)
        self.target, self.client = target, Client(target, known_hosts)
        client = self.client
        arguments = _arguments(target) | ({"tunnel": way[-1]} if way else {})
        if target.proxy_command is not None:
            logging.getLogger("asyncio").addFilter(_reaped_elsewhere)  # once, however often it is added
        opened = None
        try:
            opened = await asyncssh.connect(
                target.hostname,
                target.options.port,
                client_factory=lambda: client,
                known_hosts=known_hosts,
                **arguments,
            )
        finally:
            try:
                await asyncio.to_thread(client.keep_accepted)
            except BaseException:  # cancelled meanwhile: nobody else has the connection yet
                if opened is not None:
                    opened.abort()
                raise
        return opened


def _reaped_elsewhere(record: logging.LogRecord) -> bool:
    """Leave out what asyncio says of a ProxyCommand that has ended before its pipes were closed.

    Closing them reaps it, and the watcher of child processes, which comes too late, takes that for a problem.
    """
    return not str(record.msg).startswith("Unknown child process pid")


def _arguments(target: Target) -> dict[str, Any]:
    """Return the arguments for asyncssh; one that is left out takes its own default."""
    options = target.options
    arguments: dict[str, Any] = {
        "config": None,  # what it says is among the options of the target
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
    if "client_keys" in options.unsaid and options.client_keys is not None:
        arguments["ignore_encrypted"] = options.passphrase is None  # as ssh, which goes on with the next one
    elif options.client_keys is not None or options.password is not None:
        # Every key of the agent that is tried counts against the server's limit of attempts.
        arguments["agent_path"] = None
    if target.host_key_alias is not None:
        arguments["host_key_alias"] = target.host_key_alias
    if target.proxy_command is not None:
        arguments["proxy_command"] = list(target.proxy_command)
    return arguments | target.arguments


def _auth_error(attempt: _Attempt, error: asyncssh.PermissionDenied) -> SFTPAuthError:
    """Blocks: for a thread."""
    options, offers = attempt.target.options, attempt.client.offers
    user = "this process's user name" if options.username is None else repr(options.username)
    if options.client_keys is not None:
        tried = "the keys " + ", ".join(options.client_keys)
    elif options.password is None:
        tried = "the keys of the agent and of ~/.ssh"
    else:
        tried = ""
    if options.password is not None:
        tried = f"{tried} and a password" if tried else "a password"
    where = options.address
    made = SFTPAuthError(f"{where}: login as {user} refused; tried {tried}: {error}", host=where)
    made.takes_password = bool(offers) and options.password is None
    if options.passphrase is None and options.password is None:  # keys that were passed over
        keys = options.client_keys or tuple(expanded(f"~/.ssh/{name}") for name in _USUAL_KEYS)
        made.encrypted_key = next((key for key in keys if _is_encrypted(key, None)), None)
    return made


def _dropped(attempt: _Attempt, error: Exception) -> ConnectionDropped:
    where, command = attempt.target.options.address, attempt.target.proxy_command
    who = "the server"
    if command is not None:  # the program alone: its arguments may be secret
        who = f"the ProxyCommand {command[-1].removeprefix('exec ').split(' ')[0]}, or the server behind it,"
    return ConnectionDropped(f"{where}: {who} dropped the connection: {error}", host=where)


def _key_error(attempt: _Attempt, error: Exception) -> SFTPConnectError:
    """Blocks: for a thread."""
    options = attempt.target.options
    where = options.address
    file = next((key for key in options.client_keys or () if _is_encrypted(key, options.passphrase)), None)
    if file is None:
        return SFTPConnectError(f"{where}: these connection options do not work: {error}", host=where)
    made = SFTPAuthError(
        f"{where}: the key {file} is encrypted: {error}; give its passphrase (passphrase_env=; on the command line:"
        " ASYNCWORKER_SFTP_PASSPHRASE)",
        host=where,
    )
    made.encrypted_key = file
    return made


def _is_encrypted(path: str, passphrase: str | None) -> bool:
    try:
        asyncssh.read_private_key(path, passphrase)
    except (asyncssh.KeyEncryptionError, asyncssh.KeyImportError) as error:
        return isinstance(error, asyncssh.KeyEncryptionError) or "assphrase" in str(error)
    except (OSError, ValueError):
        return False
    return False
