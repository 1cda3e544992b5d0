"""How a server is reached: everything that tells one pool from another."""

from __future__ import annotations

import inspect
import math
import os
from collections.abc import Iterable
from dataclasses import MISSING, dataclass, field, fields
from typing import Any, Final, Literal, TypedDict, Unpack

from asyncworker.errors import SettingsError
from asyncworker.sftp.urls import is_url, parse_url

__all__ = [
    "DEFAULT_KNOWN_HOSTS",
    "DEFAULT_SSH_CONFIG",
    "GENTLE",
    "NO_SSH_CONFIG",
    "Options",
    "PoolOptions",
    "TransportName",
    "expanded",
    "jumps",
    "one_of",
    "signature_with_options",
]

#: Means ``~/.ssh/known_hosts``, looked up when the pool is made.
DEFAULT_KNOWN_HOSTS: Final = "~/.ssh/known_hosts"
#: The user's SSH configuration; where it is named, the system's is read after it, as ``ssh`` does.
DEFAULT_SSH_CONFIG: Final = "~/.ssh/config"
#: Read no SSH configuration at all; the word that ``ssh -F`` knows for it.
NO_SSH_CONFIG: Final = "none"

#: The SSH of asyncssh, in this process; or the program ``ssh``, a process a connection.
TransportName = Literal["asyncssh", "openssh"]

PathLike = str | os.PathLike[str]

#: What ``gentle=True`` stands for: a server that hangs up under load gets this.
GENTLE: Final = {"connections": 1, "in_flight": 4, "window_bytes": 128 * 1024}
#: Smaller windows would only multiply requests.
_WINDOW_MIN = 1024
#: What an SSH configuration may say, where the caller has not.
_CONFIGURABLE = frozenset(
    {"port", "username", "client_keys", "known_hosts", "jump", "compress", "connect_timeout_s", "keepalive_s"}
)


class PoolOptions(TypedDict, total=False):
    """Keyword arguments of a pool, of ``download`` and of ``upload``; each has the meaning of the attribute of
    :class:`Options` with its name, and its default.
    """

    port: int | None
    username: str | None
    password: str | None
    password_env: str | None
    client_keys: Iterable[PathLike] | PathLike | None
    passphrase: str | None
    passphrase_env: str | None
    known_hosts: PathLike | None
    accept_new: bool
    host_key: str | None
    ssh_config: PathLike | None
    jump: str | None
    compress: bool
    transport: TransportName
    connections: int
    in_flight: int
    window_bytes: int | None
    max_bytes_per_s: float | None
    gentle: bool
    timeout_s: float
    connect_timeout_s: float
    keepalive_s: float
    idle_close_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """Where the server is, how to log in, how much at once. Compares by value; secrets are not in its ``repr``.

    Attributes:
        host: Name or address, or an alias of the SSH configuration.
        port: TCP port.
        username: Login name; ``None``: that of this process.
        password: Password. Where only a password is given, no key is tried.
        client_keys: Files of private keys; ``None``: the agent's, and those in ``~/.ssh``.
        passphrase: Opens encrypted key files.
        known_hosts: File of known host keys; ``None`` switches the check off, and with it all protection against a
            server that only claims to be this one.
        accept_new: Accept the key of a host that is not known yet and add it to ``known_hosts``; a key that differs
            from the known one is refused all the same.
        ssh_config: An OpenSSH client configuration to read; ``~/.ssh/config`` includes the system's. ``None``: none
            with ``asyncssh``, the user's own with ``openssh``; ``none``: none with either. Options that are given win.
        host_key: The only host key that is accepted: a public key (``ssh-ed25519 AAAA...``) or a fingerprint
            (``SHA256:...``); ``known_hosts`` plays no part then.
        jump: Hosts on the way, ``user@host:port``, separated by commas; with the same keys and known hosts.
        compress: Compress what goes over the network: worth it on slow lines only.
        transport: ``asyncssh`` speaks SSH in this process. ``openssh`` starts the program ``ssh`` for each connection:
            faster, with the user's own configuration, keys and agent. A password or passphrase is in the environment
            of that process, where its user and root may read it.
        connections: Maximum number of connections. They are opened as the load needs them.
        in_flight: Maximum number of requests without an answer, over all connections; no more files than that are
            moved at once. The server's own limit of open handles lowers it.
        window_bytes: Maximum number of bytes asked for, or sent and not answered, over all connections. ``None``: 8 MB
            sent a connection, and 4 MB asked for a file.
        max_bytes_per_s: Maximum number of bytes a second, in both directions together, over all connections; ``None``:
            no limit. Counted as SFTP, before encryption and compression.
        timeout_s: Seconds without any byte from the server while requests are open, after which a connection is given
            up as lost.
        connect_timeout_s: Seconds for a connection to be usable: network, SSH, login, subsystem and version.
        keepalive_s: Seconds between signs of life; three without an answer and the connection is given up.
        idle_close_s: Seconds without any use, after which all connections are closed; the next call makes new ones.
        unsaid: Names of options that were not given, and which the SSH configuration may set.
    """

    host: str
    port: int = 22
    username: str | None = None
    password: str | None = field(default=None, repr=False)
    client_keys: tuple[str, ...] | None = None
    passphrase: str | None = field(default=None, repr=False)
    known_hosts: str | None = DEFAULT_KNOWN_HOSTS
    accept_new: bool = False
    ssh_config: str | None = None
    host_key: str | None = None
    jump: str | None = None
    compress: bool = False
    transport: TransportName = "asyncssh"
    connections: int = 4
    in_flight: int = 2048
    window_bytes: int | None = None
    max_bytes_per_s: float | None = None
    timeout_s: float = 60.0
    connect_timeout_s: float = 30.0
    keepalive_s: float = 15.0
    idle_close_s: float = 300.0
    unsaid: frozenset[str] = field(default=frozenset(), repr=False)

    def __post_init__(self) -> None:
        if not self.host or self.host.startswith("-") or any(c.isspace() for c in self.host):
            raise SettingsError(f"SFTP host {self.host!r} is not the name of a server")
        if not 0 < self.port < 65536:
            raise SettingsError(f"SFTP port {self.port!r}: 1 to 65535 are allowed")
        for name in ("connections", "in_flight"):
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise SettingsError(f"SFTP {name} is {value!r}: a whole number of 1 or more is needed")
        rate = self.max_bytes_per_s
        if rate is not None and not 1 <= rate < math.inf:
            raise SettingsError(f"SFTP max_bytes_per_s is {rate!r}: a number of 1 or more is needed")
        window = self.window_bytes
        if window is not None and (not isinstance(window, int) or isinstance(window, bool) or window < _WINDOW_MIN):
            raise SettingsError(f"SFTP window_bytes is {window!r}: a whole number of {_WINDOW_MIN} or more is needed")
        for name in ("timeout_s", "connect_timeout_s", "keepalive_s", "idle_close_s"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < math.inf:
                raise SettingsError(f"SFTP {name} is {value!r}: a number of seconds, more than 0, is needed")
        for name in ("accept_new", "compress"):
            if not isinstance(getattr(self, name), bool):
                raise SettingsError(f"SFTP {name} is {getattr(self, name)!r}: True or False is needed")
        if self.accept_new and self.host_key is not None:
            raise SettingsError("SFTP accept_new and host_key are both given: with host_key, no other key is accepted")
        if self.accept_new and self.known_hosts is None:
            raise SettingsError("SFTP accept_new needs a file of known_hosts, and known_hosts=None checks nothing")
        self._check_transport()
        for _, host, _ in jumps(self.jump):
            if host.startswith("-") or any(c.isspace() for c in host):
                raise SettingsError(f"SFTP jump {self.jump!r}: {host!r} is not the name of a server")

    def _check_transport(self) -> None:
        if self.transport not in ("asyncssh", "openssh"):
            raise SettingsError(f"SFTP transport {self.transport!r}: asyncssh or openssh are allowed")
        for name in ("password", "passphrase"):
            if self.transport == "openssh" and set(getattr(self, name) or "") & set("\n\r\0"):
                raise SettingsError(f"SFTP transport 'openssh' takes a {name} of one line only")
        if self.host_key is None:
            return
        fingerprint = self.host_key.startswith("SHA256:")
        if (len(self.host_key.split()) < 2 and not fingerprint) or "\n" in self.host_key.strip():
            raise SettingsError("SFTP host_key is neither a public key ('ssh-ed25519 AAAA...') nor 'SHA256:...'")
        if fingerprint and self.transport == "openssh":
            raise SettingsError("SFTP transport 'openssh' needs the whole public key as host_key, not its fingerprint")

    @classmethod
    def of(
        cls,
        host: str,
        **given: Unpack[PoolOptions],
    ) -> Options:
        """Make options from what a caller writes: any kind of path, one key or several, secrets by their variables.

        Args:
            host: Name or address, or a URL with no path in it.
            given: As the attributes; ``password_env`` and ``passphrase_env`` name environment variables;
                ``gentle=True`` stands for the values of :data:`GENTLE`, where others are not given.

        Raises:
            SettingsError: An option that does not exist, or a value that is not allowed.
        """
        others: dict[str, Any] = dict(given)
        for name in others:
            if name not in PoolOptions.__annotations__:
                known = ", ".join(sorted(PoolOptions.__annotations__))
                raise SettingsError(f"SFTP option {name!r} does not exist; known: {known}")
        gentle = others.pop("gentle", False)
        if not isinstance(gentle, bool):
            raise SettingsError(f"SFTP gentle is {gentle!r}: True or False is needed")
        if gentle:
            others = GENTLE | others
        if is_url(host):
            location = parse_url(host)
            if location.path not in ("", "/"):
                raise SettingsError(f"a pool is of a server: the path {location.path!a} does not belong into its URL")
            host, others = location.host, location.login(others)
        elif "@" in host:
            # Not shown: it may be user:password@host.
            raise SettingsError("SFTP host has an @ in it: give username=..., or a URL, sftp://user@host")
        if others.get("port", 22) is None:
            del others["port"]
        for name in ("password", "passphrase"):
            variable = others.pop(f"{name}_env", None)
            if variable is not None:
                if others.get(name) is not None:
                    raise SettingsError(f"SFTP {name} and {name}_env are both given: only one may be")
                if variable not in os.environ:
                    raise SettingsError(f"SFTP {name}_env names {variable}, which is not in the environment")
                others[name] = os.environ[variable]
        unsaid = _CONFIGURABLE.difference(others)
        keys = others.get("client_keys")
        if keys is not None:
            keys = (keys,) if isinstance(keys, str | os.PathLike) else keys
            others["client_keys"] = tuple(expanded(key) for key in keys)
        others.setdefault("known_hosts", DEFAULT_KNOWN_HOSTS)
        for name in ("known_hosts", "ssh_config"):
            if others.get(name) is not None:
                others[name] = expanded(others[name])
        configured = others.get("ssh_config") is not None or others.get("transport") == "openssh"
        return cls(host=host, unsaid=unsaid if configured else frozenset(), **others)

    @property
    def address(self) -> str:
        """The server as it is named in messages; without a port where the SSH configuration may have another one."""
        if "port" in self.unsaid:
            return self.host
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def jumps(jump: str | None) -> list[tuple[str | None, str, int | None]]:
    """Return user, host and port, as far as they are said, of each host on the way.

    Raises:
        SettingsError: A port that is none.
    """
    hops = []
    for hop in jump.split(",") if jump else ():
        username, _, address = hop.strip().removeprefix("ssh://").rpartition("@")
        host, colon, port = address.rpartition(":")
        if not colon or (address.count(":") > 1 and not address.startswith("[")):  # a bare IPv6 address
            host, port = address, ""
        host = host.strip("[]")
        if not host or (colon and not port.isdecimal() and port):
            raise SettingsError(f"SFTP jump {jump!r}: [user@]host[:port], separated by commas, is allowed")
        hops.append((username or None, host, int(port) if port else None))
    return hops


def expanded(path: PathLike) -> str:
    """Return a path as text, a ``~`` at its beginning replaced."""
    return os.path.expanduser(os.fspath(path))  # noqa: PTH111  (asked for by every task that asks for its pool)


def one_of(name: str, value: object, allowed: tuple[str, ...]) -> None:
    """Check an argument that is one of a few words.

    Raises:
        SettingsError: It is not.
    """
    if value not in allowed:
        raise SettingsError(f"{name} is {value!r}; allowed: {', '.join(allowed)}")


def signature_with_options(function: Any) -> inspect.Signature:
    """Return a signature in which every option has its name, in place of ``**options``: for ``help`` and editors."""
    plain = inspect.signature(function)
    defaults = {each.name: each.default for each in fields(Options) if each.default is not MISSING}
    options = [
        inspect.Parameter(
            name,
            inspect.Parameter.KEYWORD_ONLY,
            default=None if name == "port" else defaults.get(name, False if name == "gentle" else None),
            annotation=annotation,
        )
        for name, annotation in PoolOptions.__annotations__.items()
    ]
    kept = [each for each in plain.parameters.values() if each.kind is not inspect.Parameter.VAR_KEYWORD]
    return plain.replace(parameters=[*kept, *options])
