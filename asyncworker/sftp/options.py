"""How a server is reached: everything that tells one pool from another."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final, Literal

from asyncworker.errors import SettingsError
from asyncworker.sftp.urls import is_url, parse_url

__all__ = ["DEFAULT_KNOWN_HOSTS", "Options", "TransportName", "expanded", "jumps", "one_of"]

#: Means ``~/.ssh/known_hosts``, looked up when the pool is made.
DEFAULT_KNOWN_HOSTS: Final = "~/.ssh/known_hosts"

#: The SSH of asyncssh, in this process; or the program ``ssh``, a process a connection.
TransportName = Literal["asyncssh", "openssh"]

PathLike = str | os.PathLike[str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """Where the server is, how to log in, how much at once. Compares by value; secrets are not in its ``repr``.

    Attributes:
        host: Name or address.
        port: TCP port.
        username: Login name; ``None``: that of this process.
        password: Password. Where only a password is given, no key is tried.
        client_keys: Files of private keys; ``None``: the agent's, and those in ``~/.ssh``.
        passphrase: Opens encrypted key files.
        known_hosts: File of known host keys; ``None`` switches the check off.
        ssh_config: An OpenSSH client configuration to read; ``None``: none.
        host_key: The only host key that is taken: a public key (``ssh-ed25519 AAAA...``) or a fingerprint
            (``SHA256:...``); ``known_hosts`` plays no part then.
        jump: Hosts on the way, ``user@host:port``, separated by commas; with the same keys and known hosts.
        compress: Compress what goes over the network: worth it on slow lines only.
        transport: Who speaks SSH.
        connections: Connections at most.
        in_flight: Files at once on one connection at most; the server's own limit lowers it.
        connect_timeout_s: Seconds for a connection to be ready.
        keepalive_s: Seconds between signs of life; three without an answer and the connection is given up.
        idle_close_s: Seconds without any use, after which all connections are closed; the next call makes new ones.
    """

    host: str
    port: int = 22
    username: str | None = None
    password: str | None = field(default=None, repr=False)
    client_keys: tuple[str, ...] | None = None
    passphrase: str | None = field(default=None, repr=False)
    known_hosts: str | None = DEFAULT_KNOWN_HOSTS
    ssh_config: str | None = None
    host_key: str | None = None
    jump: str | None = None
    compress: bool = False
    transport: TransportName = "asyncssh"
    connections: int = 4
    in_flight: int = 256
    connect_timeout_s: float = 30.0
    keepalive_s: float = 15.0
    idle_close_s: float = 300.0

    def __post_init__(self) -> None:
        if not self.host or self.host.startswith("-") or any(c.isspace() for c in self.host):
            raise SettingsError(f"SFTP host {self.host!r} is not the name of a server")
        if not 0 < self.port < 65536:
            raise SettingsError(f"SFTP port {self.port!r}: 1 to 65535 are allowed")
        for name in ("connections", "in_flight"):
            value = getattr(self, name)
            if not isinstance(value, int) or value < 1:
                raise SettingsError(f"SFTP {name} is {value!r}: a whole number of 1 or more is needed")
        for name in ("connect_timeout_s", "keepalive_s", "idle_close_s"):
            if not getattr(self, name) > 0:
                raise SettingsError(f"SFTP {name} is {getattr(self, name)!r}: more than 0 is needed")

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
        *,
        client_keys: Iterable[PathLike] | PathLike | None = None,
        known_hosts: PathLike | None = DEFAULT_KNOWN_HOSTS,
        ssh_config: PathLike | None = None,
        password_env: str | None = None,
        passphrase_env: str | None = None,
        **others: object,
    ) -> Options:
        """Make options from what a caller writes: any kind of path, one key or several, secrets by their variables.

        Args:
            host: Name or address, or a URL with no path in it.
            client_keys: One key file or several.
            known_hosts: File of known host keys.
            ssh_config: An OpenSSH client configuration.
            password_env: Environment variable that holds the password.
            passphrase_env: Environment variable that holds the passphrase.
            others: As the attributes.

        Raises:
            SettingsError: An option that does not exist, or a value that is not allowed.
        """
        for name in others:
            if name not in cls.__dataclass_fields__:
                known = ", ".join(sorted(cls.__dataclass_fields__))
                raise SettingsError(f"SFTP option {name!r} does not exist; known: {known}")
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
        for name, variable in (("password", password_env), ("passphrase", passphrase_env)):
            if variable is not None:
                if others.get(name) is not None:
                    raise SettingsError(f"SFTP {name} and {name}_env are both given: only one may be")
                if variable not in os.environ:
                    raise SettingsError(f"SFTP {name}_env names {variable}, which is not in the environment")
                others[name] = os.environ[variable]
        if isinstance(client_keys, str | os.PathLike):
            client_keys = (client_keys,)
        return cls(
            host=host,
            client_keys=None if client_keys is None else tuple(expanded(key) for key in client_keys),
            known_hosts=None if known_hosts is None else expanded(known_hosts),
            ssh_config=None if ssh_config is None else expanded(ssh_config),
            **others,  # type: ignore[arg-type]  # names checked above, values in __post_init__
        )

    @property
    def address(self) -> str:
        """The server as it is named in messages."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def jumps(jump: str | None) -> list[tuple[str | None, str, int]]:
    """Return user, host and port of each host on the way.

    Raises:
        SettingsError: A port that is none.
    """
    hops = []
    for hop in jump.split(",") if jump else ():
        username, _, address = hop.strip().rpartition("@")
        host, colon, port = address.rpartition(":")
        if not colon or (address.count(":") > 1 and not address.startswith("[")):  # a bare IPv6 address
            host, port = address, "22"
        host = host.strip("[]")
        if not host or not port.isdecimal():
            raise SettingsError(f"SFTP jump {jump!r}: [user@]host[:port], separated by commas, is allowed")
        hops.append((username or None, host, int(port)))
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
