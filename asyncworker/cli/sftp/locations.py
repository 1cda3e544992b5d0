"""Remote arguments of commands: URLs, and ``host:path`` as scp, sftp and rsync write it; all else is a local path."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import click

from asyncworker.errors import SettingsError
from asyncworker.sftp.urls import Location, is_url, parse_url

__all__ = ["Remote", "is_remote", "remote_of"]


@dataclass(frozen=True)
class Remote:
    """A path on a server.

    Attributes:
        host: Name, address or alias.
        path: The path; relative to the home folder where it does not begin with a slash.
        login: Options of a pool that the argument names: port, username.
        names_path: Whether there is a path in it, not a server alone.
    """

    host: str
    path: str
    login: dict[str, Any]
    names_path: bool


def is_remote(text: str) -> bool:
    """Return whether an argument names something on a server: it has a colon before its first slash."""
    return is_url(text) or _colon(text) > 0


def remote_of(text: str) -> Remote:
    """Take an argument to pieces. Percent signs are decoded in a URL, and stand for themselves in ``host:path``.

    Raises:
        click.UsageError: It is neither, or has a password in it, which the message does not show.
    """
    try:
        if is_url(text) or _colon(text) <= 0:
            location = parse_url(text)
            names_path = "/" in text.partition("://")[2]
            return Remote(location.host, location.path or "/", location.login({}), names_path)
        location = _as_scp(text)
    except SettingsError as error:
        raise click.UsageError(str(error)) from None
    return Remote(location.host, location.path or ".", location.login({}), bool(location.path))


def _as_scp(text: str) -> Location:
    colon = _colon(text)
    server, path = text[:colon], text[colon + 1 :]
    if path.startswith(":"):
        raise SettingsError("host::module is of rsync's daemon: host:path is needed, or sftp://user@host:port/path")
    if "@" in path.partition("/")[0]:  # user:password@host, most likely; a file of such a name is host:./name
        raise SettingsError(
            "a colon before an @: a password here is seen by everybody, in logs and lists of processes (set"
            " ASYNCWORKER_SFTP_PASSWORD); a file of such a name in the home folder is host:./name"
        )
    user, at, host = server.rpartition("@")
    # Of the host, a URL's rules hold; its user is quoted there.
    found = parse_url(f"sftp://{host}")
    if found.port is not None or (at and not user):
        raise SettingsError("user@host:path is needed, or sftp://user@host:port/path")
    if path == "~" or path.startswith("~/"):
        path = path[2:] or "."
    return Location(found.host, None, user if at else None, path)


def _colon(text: str) -> int:
    """Return the place of the colon that ends a host, -1 without one; an address of IPv6 stands in brackets."""
    begin = text.find("@") + 1 if "@" in text.partition(":")[0] else 0
    bracket = text.find("]:", begin) if text.startswith("[", begin) else -1
    if bracket > 0:
        return bracket + 1 if "/" not in text[:bracket] else -1
    colon = text.find(":")
    return colon if colon > 0 and "/" not in text[:colon] else -1
