"""URLs of files and servers: ``sftp://user@host:port/path``, as fsspec, curl and others write them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote, unquote_to_bytes

from asyncworker.errors import SettingsError
from asyncworker.sftp.names import remote_text

__all__ = ["Location", "is_url", "parse_url"]

_FORM = "sftp://user@host:port/path"


@dataclass(frozen=True, slots=True)
class Location:
    """Server and path of a URL.

    Attributes:
        host: Name or address.
        port: TCP port; ``None``: not said.
        username: Login name; ``None``: not said.
        path: Path on the server, relative to the home folder where the URL's begins with ``/~/``; empty if it has none.
    """

    host: str
    port: int | None
    username: str | None
    path: str

    def login(self, options: dict[str, Any]) -> dict[str, Any]:
        """Options of a pool, with what the URL says among them.

        Raises:
            SettingsError: They say something else.
        """
        told = {"port": self.port, "username": self.username}
        for name, value in told.items():
            if value is not None and options.get(name) not in (None, value):
                raise SettingsError(f"SFTP {name} is {options[name]!r}, and {value!r} in the URL: only one may be")
        return options | {name: value for name, value in told.items() if value is not None}


def is_url(text: object) -> bool:
    """Return whether a text is a URL, not the name of a host."""
    return isinstance(text, str) and "://" in text


def parse_url(url: str) -> Location:
    """Take a URL to pieces. Percent signs are decoded, bytes that are not UTF-8 as surrogate escapes.

    ``?`` and ``#`` are letters of the path: files have such names, and patterns such signs.

    Raises:
        SettingsError: It is not of that form, or has a password in it, which the message does not show.
    """
    scheme, separator, rest = url.partition("://")
    authority, slash, path = rest.partition("/")
    userinfo, at, address = authority.rpartition("@")
    if ":" in userinfo:
        raise SettingsError(
            "a password in a URL is seen by everybody, in logs and lists of processes: name the environment variable"
            " that holds it with password_env= (on the command line: ASYNCWORKER_SFTP_PASSWORD)"
        )
    if scheme.lower() != "sftp":
        # What has no scheme is not shown: it may be user:password@host.
        shown = f"a URL of {scheme}://" if separator and scheme.isalnum() else "this"
        hint = (
            ""
            if separator or ":" not in url
            else "; scp's host:/path is sftp://host/path, host:path sftp://host/~/path"
        )
        raise SettingsError(f"{shown} is no URL of an SFTP server: {_FORM} is needed{hint}")
    host, port = _address(address)
    if ";" in userinfo or (at and not userinfo):
        raise SettingsError(f"the user name in a URL of {host} is not of the form {_FORM}")
    decoded = remote_text(unquote_to_bytes(slash + path))
    if decoded == "/~" or decoded.startswith("/~/"):
        decoded = decoded[3:] or "."
    return Location(host, port, unquote(userinfo, errors="strict") if at else None, decoded)


def _address(address: str) -> tuple[str, int | None]:
    if address.startswith("["):
        host, bracket, rest = address[1:].partition("]")
        colon, port = rest[:1], rest[1:]
        fits = bracket and colon in ("", ":")
    else:
        host, colon, port = address.partition(":")
        fits = not any(c in host for c in "?#[]@\\")
    if not host or not fits:
        raise SettingsError(f"{host!r} is no host of a URL: {_FORM} is needed")
    if port and not (port.isascii() and port.isdecimal() and 0 < int(port) < 65536):
        # Not shown: it may be a password with a slash in it.
        raise SettingsError(f"the port after {host!r} is no number from 1 to 65535: {_FORM} is needed")
    return host, int(port) if port else None
