"""The client's packets as values."""

from __future__ import annotations

import struct
from dataclasses import dataclass, field

from tests.servers.sftp_hostile.attributes import Stat

__all__ = ["Request", "parse"]

_KINDS = {
    1: "INIT",
    3: "OPEN",
    4: "CLOSE",
    5: "READ",
    6: "WRITE",
    7: "LSTAT",
    8: "FSTAT",
    9: "SETSTAT",
    10: "FSETSTAT",
    11: "OPENDIR",
    12: "READDIR",
    13: "REMOVE",
    14: "MKDIR",
    15: "RMDIR",
    16: "REALPATH",
    17: "STAT",
    18: "RENAME",
    19: "READLINK",
    20: "SYMLINK",
}

_EXTENDED = 200

#: Kinds whose first string is a handle.
_OF_HANDLES = {"CLOSE", "READ", "WRITE", "FSTAT", "FSETSTAT", "READDIR", "fsync", "fstatvfs", "copy-data"}

_WITH_ATTRIBUTES = {"SETSTAT", "FSETSTAT", "MKDIR", "lsetstat"}
_WITH_TWO_PATHS = {"RENAME", "SYMLINK", "posix-rename", "hardlink"}


@dataclass
class Request:
    """One packet of the client. Kinds are the draft's names in capitals; extensions have theirs: ``posix-rename``.

    Attributes:
        kind: Its type.
        id: Its number in its session.
        session: Number of the session that it came through, from 0.
        path: Its path, or the path that its handle was opened with.
        handle: Its handle.
        second: Second path, or handle, of those that have two.
        offset: Of READ, WRITE, copy-data and check-file-name.
        length: Of READ, WRITE and check-file-name.
        data: Of WRITE; the digests that check-file-name takes.
        flags: Of OPEN.
        stat: The attributes that it sets.
        place: Its number among those of its session, from 1.
        status: Status code of the answer, 0 for any that is no status; ``None`` while there is none.
    """

    kind: str
    id: int
    session: int
    path: bytes = b""
    handle: bytes = b""
    second: bytes = b""
    offset: int = 0
    length: int = 0
    data: bytes = b""
    flags: int = 0
    stat: Stat = field(default_factory=Stat)
    place: int = 0
    status: int | None = None


class _Reader:
    def __init__(self, packet: bytes) -> None:
        self.packet = packet
        self.place = 0

    def number(self, form: str = ">I") -> int:
        value = struct.unpack_from(form, self.packet, self.place)[0]
        self.place += struct.calcsize(form)
        return int(value)

    def string(self) -> bytes:
        size = self.number()
        self.place += size
        assert self.place <= len(self.packet), "a string longer than its packet"
        return self.packet[self.place - size : self.place]

    def stat(self) -> Stat:
        flags = self.number()
        size = self.number(">Q") if flags & 1 else None
        uid, gid = (self.number(), self.number()) if flags & 2 else (None, None)
        mode = self.number() if flags & 4 else None
        atime, mtime = (self.number(), self.number()) if flags & 8 else (None, None)
        return Stat(size, uid, gid, mode, atime, mtime)


def parse(packet: bytes, session: int) -> Request:
    """Read one packet, without its length in front."""
    reader = _Reader(packet)
    number = reader.number(">B")
    request = Request(_KINDS.get(number, f"type {number}"), reader.number(), session)
    if number == _EXTENDED:
        request.kind = reader.string().decode().partition("@")[0]
    if request.kind in ("INIT", "limits"):
        return request
    text = reader.string()
    if request.kind in _OF_HANDLES:
        request.handle = text
    else:
        request.path = text
    if request.kind in _WITH_TWO_PATHS:
        request.second = reader.string()
    elif request.kind in ("READ", "WRITE"):
        request.offset = reader.number(">Q")
        if request.kind == "READ":
            request.length = reader.number()
        else:
            request.data = reader.string()
            request.length = len(request.data)
    elif request.kind == "OPEN":
        request.flags = reader.number()
        request.stat = reader.stat()
    elif request.kind in _WITH_ATTRIBUTES:
        request.stat = reader.stat()
    elif request.kind == "check-file-name":
        request.data = reader.string()
        request.offset, request.length = reader.number(">Q"), reader.number(">Q")
        request.flags = reader.number()  # the size of blocks
    elif request.kind == "copy-data":
        request.offset, request.length = reader.number(">Q"), reader.number(">Q")
        request.second = reader.string()
        request.flags = reader.number(">Q")  # where it goes to
    assert reader.place == len(packet), f"{request.kind}: {len(packet) - reader.place} bytes too many"
    return request
