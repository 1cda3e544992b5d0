"""How a server is reached: everything that tells one pool from another."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final

from asyncworker.errors import SettingsError

__all__ = ["DEFAULT_KNOWN_HOSTS", "Options"]

#: Means ``~/.ssh/known_hosts``, looked up when the pool is made.
DEFAULT_KNOWN_HOSTS: Final = "~/.ssh/known_hosts"

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
        connections: Connections at most.
        in_flight: Files at once on one connection at most; the server's own limit lowers it.
        connect_timeout_s: Seconds for a connection to be ready.
        keepalive_s: Seconds between signs of life; three without an answer and the connection is given up.
    """

    host: str
    port: int = 22
    username: str | None = None
    password: str | None = field(default=None, repr=False)
    client_keys: tuple[str, ...] | None = None
    passphrase: str | None = field(default=None, repr=False)
    known_hosts: str | None = DEFAULT_KNOWN_HOSTS
    ssh_config: str | None = None
    connections: int = 4
    in_flight: int = 256
    connect_timeout_s: float = 30.0
    keepalive_s: float = 15.0

    def __post_init__(self) -> None:
        if not self.host or self.host.startswith("-") or any(c.isspace() for c in self.host):
            raise SettingsError(f"SFTP host {self.host!r} is not the name of a server")
        if not 0 < self.port < 65536:
            raise SettingsError(f"SFTP port {self.port!r}: 1 to 65535 are allowed")
        for name in ("connections", "in_flight"):
            value = getattr(self, name)
            if not isinstance(value, int) or value < 1:
                raise SettingsError(f"SFTP {name} is {value!r}: a whole number of 1 or more is needed")
        for name in ("connect_timeout_s", "keepalive_s"):
            if not getattr(self, name) > 0:
                raise SettingsError(f"SFTP {name} is {getattr(self, name)!r}: more than 0 is needed")

    @classmethod
    def of(
        cls,
        host: str,
        *,
        client_keys: Iterable[PathLike] | PathLike | None = None,
        known_hosts: PathLike | None = DEFAULT_KNOWN_HOSTS,
        ssh_config: PathLike | None = None,
        **others: object,
    ) -> Options:
        """Make options from what a caller writes: any kind of path, one key or several.

        Raises:
            SettingsError: An option that does not exist, or a value that is not allowed.
        """
        for name in others:
            if name not in cls.__dataclass_fields__:
                known = ", ".join(sorted(cls.__dataclass_fields__))
                raise SettingsError(f"SFTP option {name!r} does not exist; known: {known}")
        if isinstance(client_keys, str | os.PathLike):
            client_keys = (client_keys,)
        return cls(
            host=host,
            client_keys=None if client_keys is None else tuple(_path(key) for key in client_keys),
            known_hosts=None if known_hosts is None else _path(known_hosts),
            ssh_config=None if ssh_config is None else _path(ssh_config),
            **others,  # type: ignore[arg-type]  # names checked above, values in __post_init__
        )

    @property
    def address(self) -> str:
        """The server as it is named in messages."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def _path(path: PathLike) -> str:
    return os.path.expanduser(os.fspath(path))  # noqa: PTH111  (asked for by every task that asks for its pool)
