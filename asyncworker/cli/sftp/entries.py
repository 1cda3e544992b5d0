"""Entries of a server as ``ls`` and ``stat`` show them."""

from __future__ import annotations

import stat
import time
from collections.abc import Callable
from typing import Any

from asyncworker.cli.sftp.sizes import human
from asyncworker.sftp import Attributes, Entry

__all__ = ["SORTS", "as_object", "kind_of", "long_line", "moment", "sorted_entries"]

_KINDS = {
    stat.S_IFREG: "file",
    stat.S_IFDIR: "directory",
    stat.S_IFLNK: "link",
    stat.S_IFIFO: "fifo",
    stat.S_IFSOCK: "socket",
    stat.S_IFCHR: "device",
    stat.S_IFBLK: "device",
}

#: Order of a listing: by name from a to z, the largest first, the newest first.
SORTS: dict[str, Callable[[Entry], Any]] = {
    "name": lambda entry: entry.path,
    "size": lambda entry: (-(entry.size_bytes or 0), entry.path),
    "time": lambda entry: (-(entry.mtime or 0), entry.path),
}


def sorted_entries(entries: list[Entry], sort: str, reverse: bool) -> list[Entry]:
    """Return entries in an order of :data:`SORTS`."""
    return sorted(entries, key=SORTS[sort], reverse=reverse)


def kind_of(attributes: Attributes) -> str | None:
    """Return what it is in a word; ``None`` where the server does not say."""
    return None if attributes.mode is None else _KINDS.get(stat.S_IFMT(attributes.mode))


def as_object(entry: Entry) -> dict[str, Any]:
    """Return an entry for JSON: what the server does not say is ``None``, ``mode`` is as ``os.stat`` has it."""
    about = entry.attributes
    return {
        "path": entry.path,
        "name": entry.name,
        "type": kind_of(about),
        "size_bytes": about.size_bytes,
        "mtime": about.mtime,
        "mode": about.mode,
        "uid": about.uid,
        "gid": about.gid,
    }


def long_line(entry: Entry, shown: str, in_units: bool) -> str:
    """Return a line as ``ls -l`` has it: type and permissions, owner, group, size, time of change in UTC, name."""
    about = entry.attributes
    mode = "?" * 10 if about.mode is None else stat.filemode(about.mode)
    uid = "?" if about.uid is None else str(about.uid)
    gid = "?" if about.gid is None else str(about.gid)
    size = "?" if about.size_bytes is None else human(about.size_bytes) if in_units else str(about.size_bytes)
    width = 5 if in_units else 12
    return f"{mode} {uid:>5} {gid:>5} {size:>{width}} {moment(about.mtime)} {shown}"


def moment(seconds: int | None) -> str:
    """Return a time of a file in UTC."""
    return "?" * 19 if seconds is None else time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime(seconds))
