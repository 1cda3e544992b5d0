"""File names that a server may send to do harm, and the one way from a remote name to a local path."""

from __future__ import annotations

import os
import re
from pathlib import Path

from asyncworker.errors import SFTPNameError

__all__ = ["check_name", "local_path", "remote_bytes", "remote_text"]

_NAME_BYTES_MAX = 255
_CONTROL = re.compile(rb"[\x00-\x1f\x7f]")
#: What nearly all names are like; what is not is looked at more closely.
_plain = re.compile(rb"[A-Za-z0-9_-][A-Za-z0-9_. -]{0,254}").fullmatch


def check_name(name: bytes | str, *, host: str = "", folder: str = "", local: bool = True) -> str:
    """Return a listed name as text, if it is one plain component that is safe to write locally.

    Bytes that are not UTF-8 are kept as surrogate escapes, so that the name leads back to the same file.

    Args:
        name: One name of a listing.
        host: For the message.
        folder: The remote folder that lists it, for the message.
        local: Whether it must be safe to write locally. Without, it must only be one name in a folder of a server.

    Raises:
        SFTPNameError: Empty, ``.`` or ``..``, or with a slash or a NUL in it; with ``local`` also one that is longer
            than 255 bytes, or has a backslash or a control character in it.
    """
    raw = name if isinstance(name, bytes) else remote_bytes(name)
    if _plain(raw):
        return raw.decode("ascii")
    fault = _fault(raw, local)
    if fault:
        shown = ascii(raw[:80])[1:]
        where = "".join(f"{part}: " for part in (host or ("the server" if folder else ""), folder) if part)
        raise SFTPNameError(f"{where}refused the name {shown}: {fault}", host=host, path=folder or None)
    return remote_text(raw)


def local_path(folder: str | os.PathLike[str], remote: str | os.PathLike[str]) -> Path:
    """Return the path in a local folder that has the remote path's last component as its name.

    Raises:
        SFTPNameError: That component is not safe to write locally.
    """
    return Path(folder) / check_name(os.fspath(remote).rpartition("/")[2])


def remote_bytes(path: str | os.PathLike[str]) -> bytes:
    """Return the bytes that go to the server.

    Raises:
        SFTPNameError: Text that has no bytes, or with a NUL, where servers would cut the path and open another file.
    """
    try:
        raw = os.fspath(path).encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        raise SFTPNameError(f"refused the path {path!a}: it cannot be encoded as UTF-8") from None
    if b"\0" in raw:
        raise SFTPNameError(f"refused the path {path!a}: a NUL in it")
    return raw


def remote_text(raw: bytes) -> str:
    """Return text that :func:`remote_bytes` turns into the same bytes."""
    return raw.decode("utf-8", "surrogateescape")


def _fault(raw: bytes, local: bool) -> str:
    if raw in (b"", b".", b".."):
        return "it is not the name of a file"
    if b"/" in raw or (local and b"\\" in raw):
        return "a path separator in it"
    if b"\0" in raw or (local and _CONTROL.search(raw)):
        return "a control character in it"
    if local and len(raw) > _NAME_BYTES_MAX:
        return f"{len(raw)} bytes; {_NAME_BYTES_MAX} are allowed"
    return ""
