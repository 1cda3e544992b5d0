"""The ``ssh`` program as a transport: the user's agent, keys and configuration, and OpenSSH's own speed.

``ssh -s host sftp`` speaks SFTP on its standard streams. It asks nobody any questions (see askpass.py), forwards
nothing, and ends with its owner: by the kernel's word on Linux, and because its input ends elsewhere.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import getpass
import os
import re
import shlex
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

from asyncworker.errors import (
    SettingsError,
    SFTPAuthError,
    SFTPConnectError,
    SFTPConnectionLost,
    SFTPError,
    SFTPHostKeyError,
)
from asyncworker.processes import die_with_owner
from asyncworker.sftp.askpass import askpass_environment, askpass_settings
from asyncworker.sftp.options import DEFAULT_KNOWN_HOSTS, Options, expanded, jumps
from asyncworker.sftp.ssh_config import HostConfig
from asyncworker.sftp.ssh_target import config_of, new_keys_accepted
from asyncworker.sftp.transports import CIPHERS, ConnectionDropped, Receiver, Transport

__all__ = ["connect_openssh"]

_CLOSE_TIMEOUT_S = 2.0
_REAP_TIMEOUT_S = 30.0
_STDERR_CHARS = 2000
#: What a pipe holds: more than the 64 KB of the system spare turns of the loop.
_PIPE_BYTES = 1024 * 1024
_F_SETPIPE_SZ = getattr(fcntl, "F_SETPIPE_SZ", None)
#: Under this name the pinned key stands in a file of known hosts that is made for it.
_PINNED = "asyncworker-pinned-host"

#: What ssh says where it cannot connect, in small letters, and what that is.
_SAYS: tuple[tuple[str, type[SFTPError]], ...] = (
    ("host key verification failed", SFTPHostKeyError),
    ("remote host identification has changed", SFTPHostKeyError),
    ("permission denied", SFTPAuthError),
    ("too many authentication failures", SFTPAuthError),
    ("connection closed by", ConnectionDropped),
    ("connection reset by", ConnectionDropped),
    ("exceeded maxstartups", ConnectionDropped),
)


class _Process(asyncio.SubprocessProtocol):
    """Output and exit of the ssh process."""

    def __init__(self, options: Options, receiver: Receiver, pinned: str | None) -> None:
        self._options = options
        self._receiver = receiver
        self._pinned = pinned
        self._said = b""
        self._heard = False
        self.ended = asyncio.Event()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        process = cast(asyncio.SubprocessTransport, transport)
        for fd in (0, 1):
            pipe = process.get_pipe_transport(fd)
            file = pipe.get_extra_info("pipe") if pipe is not None else None
            if file is not None and _F_SETPIPE_SZ is not None:
                with contextlib.suppress(OSError, ValueError):  # closed again: who started it waits no more
                    fcntl.fcntl(file.fileno(), _F_SETPIPE_SZ, _PIPE_BYTES)

    def pipe_data_received(self, fd: int, data: bytes) -> None:
        if fd == 1:
            self._heard = True
            self._receiver.feed(data)
        else:
            self._said = (self._said + data)[-_STDERR_CHARS:]

    def connection_lost(self, exc: Exception | None) -> None:
        """The process has ended, and all that it wrote has been read."""
        _remove(self._pinned)
        self.ended.set()
        self._receiver.lost(self._error())

    def _error(self) -> SFTPError:
        where = self._options.address
        said = " ".join(self._said.decode("utf-8", "replace").split())
        if self._heard:
            return SFTPConnectionLost(f"{where}: the connection was lost: {said or 'ssh ended'}", host=where)
        kind: type[SFTPError] = SFTPConnectError
        for text, meant in _SAYS:
            if text in said.lower():
                kind = meant
                break
        unknown = kind is SFTPHostKeyError and "host key is known for" in said
        if unknown:
            said += (
                " Ask the server's operator for the fingerprint, compare it with what ssh-keyscan shows, and only then"
                " accept the key: with accept_new=True (--accept-new)"
            )
        made = kind(f"{where}: ssh cannot connect: {said or 'it ended without a word'}", host=where)
        if isinstance(made, SFTPHostKeyError):
            made.unknown = unknown
        if isinstance(made, SFTPAuthError):
            made.takes_password = self._options.password is None and bool(
                re.search(r"\([\w,-]*(password|keyboard-interactive)", said)
            )
        return made


class OpensshTransport:
    """One ``ssh`` process."""

    server_version = ""  # ssh keeps it to itself

    def __init__(self, process: asyncio.SubprocessTransport, protocol: _Process) -> None:
        self._process = process
        self._protocol = protocol
        self._input = cast(asyncio.WriteTransport, process.get_pipe_transport(0))

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.get_pid()

    def write(self, data: bytes) -> None:
        """Send bytes; what the pipe does not take yet is kept."""
        self._input.write(data)

    @property
    def unsent_bytes(self) -> int:
        """Bytes that wait for room in the pipe."""
        return self._input.get_write_buffer_size()

    def abort(self) -> None:
        """End it at once."""
        with contextlib.suppress(ProcessLookupError):
            self._process.kill()
        self._process.close()

    async def close(self) -> None:
        """Let it say good-bye, and end it if that takes long."""
        self._input.close()
        try:
            async with asyncio.timeout(_CLOSE_TIMEOUT_S):
                await self._protocol.ended.wait()
        except TimeoutError:
            pass
        finally:
            self.abort()
        with contextlib.suppress(TimeoutError):  # it is killed: the loop has to learn of it
            async with asyncio.timeout(_REAP_TIMEOUT_S):
                await self._protocol.ended.wait()


async def connect_openssh(options: Options, receiver: Receiver) -> Transport:
    """Start ``ssh``. That it cannot connect is told to the receiver as one of the kinds of SFTPConnectError.

    Raises:
        SFTPConnectError: There is no such program, or it cannot be started.
    """
    where = options.address
    program = await asyncio.to_thread(shutil.which, "ssh")
    if program is None:
        raise SFTPConnectError(f"{where}: transport 'openssh' needs the program ssh, which is not on PATH", host=where)
    pinned = await asyncio.to_thread(_write_pinned, options.host_key) if options.host_key else None
    try:
        environment = await asyncio.to_thread(askpass_environment, options, os.environ)
        config = await asyncio.to_thread(_configured, options)
        process, protocol = await _start(
            die_with_owner(_command(program, options, pinned, config)),
            environment,
            lambda: _Process(options, receiver, pinned),
        )
    except OSError as error:
        _remove(pinned)
        raise SFTPConnectError(f"{where}: ssh cannot be started: {error}", host=where) from error
    except BaseException:
        _remove(pinned)
        raise
    return OpensshTransport(process, protocol)


async def _start(
    command: list[str], environment: dict[str, str] | None, protocol: Callable[[], _Process]
) -> tuple[asyncio.SubprocessTransport, _Process]:
    # A session of its own: a Ctrl-C in the terminal is for its owner, and there is no terminal to ask questions on.
    loop = asyncio.get_running_loop()
    return await loop.subprocess_exec(protocol, *command, env=environment, start_new_session=True)


def _configured(options: Options) -> HostConfig:
    """Return the configuration that ssh reads itself, so that no default of ours overrules it."""
    with contextlib.suppress(SettingsError):  # ssh knows more, or says what is wrong
        return config_of(options)
    return HostConfig()


def _command(program: str, options: Options, pinned: str | None, config: HostConfig) -> list[str]:
    command = [program, *_settings(options, config)]
    if "port" not in options.unsaid:
        command += ["-p", str(options.port)]
    if options.username is not None:
        command += ["-l", options.username]
    command += _host_keys(options, pinned, config)
    hops = jumps(options.jump)
    if hops:
        command += ["-o", f"ProxyCommand={_through(program, options, config, hops)}"]
    return [*command, "-s", "--", options.host, "sftp"]


def _settings(options: Options, config: HostConfig) -> list[str]:
    timeout_s = max(1, round(options.connect_timeout_s))
    values: dict[str, Any] = {
        **askpass_settings(options),
        "ForwardAgent": "no",
        "ForwardX11": "no",
        "ClearAllForwardings": "yes",
        "PermitLocalCommand": "no",
        "RemoteCommand": "none",
        "RequestTTY": "no",
        "ControlPath": "none",
        "UpdateHostKeys": "no",
        "LogLevel": "ERROR",
        "ConnectTimeout": timeout_s,
        "ConnectionAttempts": 1,
        "ServerAliveInterval": max(1, round(options.keepalive_s)),
        "ServerAliveCountMax": 3,
    }
    if config.get("ciphers") is None:
        values["Ciphers"] = CIPHERS
    if options.compress or "compress" not in options.unsaid:
        values["Compression"] = "yes" if options.compress else "no"
    # Named with -F, the user's own file would be read without the system's.
    own = options.ssh_config in (None, os.path.expanduser(f"~{getpass.getuser()}/.ssh/config"))  # noqa: PTH111
    command = [] if own or options.ssh_config is None else ["-F", options.ssh_config]
    for name, value in values.items():
        command += ["-o", f"{name}={value}"]
    if options.client_keys is not None:
        # Every key of the agent that is tried counts against the server's limit of attempts.
        command += ["-o", "IdentitiesOnly=yes", "-o", "IdentityAgent=none"]
        for key in options.client_keys:
            command += ["-i", key]
    return command


def _host_keys(options: Options, pinned: str | None, config: HostConfig) -> list[str]:
    if pinned is not None:
        return [*_known_hosts(pinned), "-o", f"HostKeyAlias={_PINNED}"]
    if options.known_hosts is None:
        return ["-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null"]
    accept_new = options.accept_new
    if options.known_hosts == expanded(DEFAULT_KNOWN_HOSTS):  # ssh's own, and what its configuration says of it
        accept_new = accept_new or new_keys_accepted(config)
        return ["-o", f"StrictHostKeyChecking={'accept-new' if accept_new else 'yes'}"]
    return _known_hosts(options.known_hosts, accept_new)


def _known_hosts(path: str, accept_new: bool = False) -> list[str]:
    return [
        *("-o", f"StrictHostKeyChecking={'accept-new' if accept_new else 'yes'}"),
        *("-o", "GlobalKnownHostsFile=/dev/null"),
        *("-o", f'UserKnownHostsFile="{path}"'),
    ]


def _through(program: str, options: Options, config: HostConfig, hops: list[tuple[str | None, str, int | None]]) -> str:
    """The command that leads beyond the last hop; ssh's own ``-J`` would pass neither keys nor known hosts on."""
    *before, (username, host, port) = hops
    command = [program, *_settings(options, config), *_host_keys(options, None, config)]
    if port is not None:
        command += ["-p", str(port)]
    if username is not None:
        command += ["-l", username]
    if before:
        command += ["-o", f"ProxyCommand={_through(program, options, config, before)}"]
    quoted = shlex.join(command).replace("%", "%%")
    return f"{quoted} -W [%h]:%p -- {shlex.quote(host)}"


def _write_pinned(key: str | None) -> str:
    fd, path = tempfile.mkstemp(prefix="asyncworker-host-key-")
    with os.fdopen(fd, "w") as file:
        file.write(f"{_PINNED} {key}\n")
    return path


def _remove(path: str | None) -> None:
    if path is not None:
        with contextlib.suppress(OSError):
            Path(path).unlink()
