"""The packets of SFTP version 3 as bytes and as values.

Source: draft-ietf-secsh-filexfer-02, section numbers beside each part; ``limits@openssh.com``
and ``statvfs@openssh.com`` from OpenSSH's PROTOCOL.
"""

from __future__ import annotations

import stat
import struct
from typing import Literal

from msgspec import Struct

__all__ = [
    "BAD_MESSAGE",
    "FAILURE",
    "EOF",
    "NO_SUCH_FILE",
    "OK",
    "OpenFlag",
    "PERMISSION_DENIED",
    "UNSUPPORTED",
    "Attributes",
    "FileSystem",
    "FileType",
    "Kind",
    "Limits",
    "Malformed",
    "Name",
    "Status",
    "TIME_MAX",
    "expressible_time",
]

#: The last second that there is room for: in the year 2106.
TIME_MAX = 2**32 - 1


class Kind:
    """Packet types (section 3). Plain integers: they are compared once for every packet that arrives."""

    INIT = 1
    VERSION = 2
    OPEN = 3
    CLOSE = 4
    READ = 5
    WRITE = 6
    LSTAT = 7
    FSTAT = 8
    SETSTAT = 9
    FSETSTAT = 10
    OPENDIR = 11
    READDIR = 12
    REMOVE = 13
    MKDIR = 14
    RMDIR = 15
    REALPATH = 16
    STAT = 17
    RENAME = 18
    READLINK = 19
    SYMLINK = 20
    STATUS = 101
    HANDLE = 102
    DATA = 103
    NAME = 104
    ATTRS = 105
    EXTENDED = 200
    EXTENDED_REPLY = 201


class OpenFlag:
    """Flags of an OPEN (section 6.3)."""

    READ = 0x1
    WRITE = 0x2
    APPEND = 0x4
    CREATE = 0x8
    TRUNCATE = 0x10
    EXCLUSIVE = 0x20


# Status codes (section 7).
OK = 0
EOF = 1
NO_SUCH_FILE = 2
PERMISSION_DENIED = 3
FAILURE = 4
BAD_MESSAGE = 5
UNSUPPORTED = 8

_STATUS_NAMES = {
    0: "ok",
    1: "end of file",
    2: "no such file",
    3: "permission denied",
    4: "failure",
    5: "bad message",
    6: "no connection",
    7: "connection lost",
    8: "operation unsupported",
}

# Attribute flags (section 5).
_HAS_SIZE = 0x1
_HAS_OWNER = 0x2
_HAS_MODE = 0x4
_HAS_TIMES = 0x8
_HAS_EXTENDED = 0x80000000
_HAS_ALL = _HAS_SIZE | _HAS_OWNER | _HAS_MODE | _HAS_TIMES  # as most servers answer

_HANDLE_BYTES_MAX = 256

_u32 = struct.Struct(">I")
_u64 = struct.Struct(">Q")
_two_u32 = struct.Struct(">II")
_limits = struct.Struct(">QQQQ")
_file_system = struct.Struct(">11Q")
_READ_ONLY = 0x1
_text_head = struct.Struct(">IBII")  # length, type, request id, length of the string that follows
_range = struct.Struct(">QI")  # offset, length
_checked = struct.Struct(">QQI")  # offset, length, size of blocks that have a digest each
_all_attributes = struct.Struct(">QIIIII")  # size, owner, group, permissions, times of access and of change

unpack_u32 = _u32.unpack_from


class Malformed(Exception):
    """A packet's fields do not fit into the packet."""


class Status(Struct, frozen=True, gc=False):
    """The answer that is not what was asked for, or says that nothing else is to come."""

    code: int
    message: str = ""

    def __str__(self) -> str:
        name = _STATUS_NAMES.get(self.code, "unknown status")
        said = f", {self.message!r}" if self.message and self.message.lower() != name else ""
        return f"{name} (status {self.code}{said})"


#: What an entry of a folder is.
FileType = Literal["file", "dir", "link", "other"]
_FILE_TYPES: dict[int, FileType] = {stat.S_IFREG: "file", stat.S_IFDIR: "dir", stat.S_IFLNK: "link"}


class Attributes(Struct, frozen=True, gc=False):
    """Attributes of a file; ``None`` where the server says nothing. Times are seconds since 1970, UTC."""

    size_bytes: int | None = None
    mode: int | None = None
    mtime: int | None = None
    atime: int | None = None
    uid: int | None = None
    gid: int | None = None

    @property
    def file_type(self) -> FileType | None:
        """Type of the file; ``None`` where the server does not say: no permissions, or none with a type in them."""
        if self.mode is None or not (bits := stat.S_IFMT(self.mode)):
            return None
        return _FILE_TYPES.get(bits, "other")

    @property
    def is_file(self) -> bool:
        """Whether it is known to be a regular file."""
        return self.mode is not None and stat.S_ISREG(self.mode)

    @property
    def is_dir(self) -> bool:
        """Whether it is known to be a folder."""
        return self.mode is not None and stat.S_ISDIR(self.mode)

    @property
    def is_link(self) -> bool:
        """Whether it is known to be a symbolic link."""
        return self.mode is not None and stat.S_ISLNK(self.mode)


class Name(Struct, frozen=True, gc=False):
    """One name of a listing, as the server sent it: not yet checked."""

    filename: bytes
    attributes: Attributes


class Limits(Struct, frozen=True, gc=False):
    """Limits of the server (``limits@openssh.com``); 0 means that it named none."""

    packet_bytes: int = 0
    read_bytes: int = 0
    write_bytes: int = 0
    open_handles: int = 0


class FileSystem(Struct, frozen=True, gc=False):
    """The file system that a path is on, as the server's ``statvfs`` describes it.

    Attributes:
        size_bytes: How large it is.
        free_bytes: What is free, that which only its administrator may use included.
        available_bytes: What others may use.
        files: How many files it may hold; 0 where there is no such limit.
        files_free: How many more.
        id: Tells file systems apart, where the server says it.
        read_only: Whether nothing can be written.
        name_bytes: The longest name.
    """

    size_bytes: int
    free_bytes: int
    available_bytes: int
    files: int
    files_free: int
    id: int
    read_only: bool
    name_bytes: int


_STATUS_OK = Status(OK)
_STATUS_EOF = Status(EOF)


# -- requests ---------------------------------------------------------------------------------------------------------


def init_packet() -> bytes:
    """INIT (section 4); it has no request id."""
    return b"\0\0\0\5\1\0\0\0\3"


def text_packet(kind: int, request_id: int, text: bytes, tail: bytes = b"") -> bytes:
    """A request whose one argument is a path or a handle, and whatever follows it."""
    size = len(text)
    return _text_head.pack(9 + size + len(tail), kind, request_id, size) + text + tail


#: pflags SSH_FXF_READ, no attributes (section 6.3).
OPEN_FOR_READING = b"\0\0\0\1\0\0\0\0"


def read_packet(request_id: int, handle: bytes, offset: int, length: int) -> bytes:
    """READ (section 6.4)."""
    size = len(handle)
    return _text_head.pack(21 + size, Kind.READ, request_id, size) + handle + _range.pack(offset, length)


def payload_bytes(packet: bytes) -> int:
    """Return how many bytes a READ asks for, or a WRITE carries; 0 for any other request."""
    kind = packet[4]
    if kind == Kind.READ:
        return int(unpack_u32(packet, len(packet) - 4)[0])
    if kind == Kind.WRITE:
        return int(unpack_u32(packet, 13 + unpack_u32(packet, 9)[0] + 8)[0])
    return 0


def open_tail(flags: int, mode: int | None = None) -> bytes:
    """Return the end of an OPEN, after the path: pflags, and the permissions of a new file."""
    return _u32.pack(flags) + attributes_bytes(mode=mode)


def write_packet(request_id: int, handle: bytes, offset: int, data: bytes | memoryview) -> bytes:
    """WRITE (section 6.4)."""
    size = len(handle)
    head = _text_head.pack(21 + size + len(data), Kind.WRITE, request_id, size)
    return b"".join((head, handle, _range.pack(offset, len(data)), data))


def string_bytes(*texts: bytes) -> bytes:
    """Strings with their lengths before them (section 3)."""
    return b"".join(_u32.pack(len(text)) + text for text in texts)


def range_to_check(offset: int, length: int) -> bytes:
    """Return the end of a ``check-file-name``: the range is one block, and its digest is the answer."""
    return _checked.pack(offset, length, 0)


def attributes_bytes(
    *, mode: int | None = None, mtime: int | None = None, atime: int | None = None, size: int | None = None
) -> bytes:
    """ATTRS (section 5) with what is given; the two times come in pairs, so that ``mtime`` alone is sent as both."""
    flags = 0
    body = b""
    if size is not None:
        flags |= _HAS_SIZE
        body += _u64.pack(size)
    if mode is not None:
        flags |= _HAS_MODE
        body += _u32.pack(mode)
    if mtime is not None:
        flags |= _HAS_TIMES
        body += _two_u32.pack(mtime if atime is None else atime, mtime)
    return _u32.pack(flags) + body


def expressible_time(seconds: float) -> int:
    """Return the nearest time that the protocol has room for: whole seconds from 1970 to 2106.

    Files of this machine are compared, and sent, by that time: what cannot be told is the same at each run.
    """
    return min(max(int(seconds), 0), TIME_MAX)


# -- answers: each gets the whole buffer and the place of its fields in it -----------------------------------------


def parse_string(data: bytes, start: int, stop: int) -> tuple[bytes, int]:
    """Return a length-prefixed string and the place after it.

    Raises:
        Malformed: It does not fit.
    """
    begin = start + 4
    if begin > stop:
        raise Malformed("a string's length is cut off")
    end = begin + unpack_u32(data, start)[0]
    if end > stop:
        raise Malformed("a string is longer than its packet")
    return data[begin:end], end


def parse_status(data: bytes, start: int, stop: int) -> Status:
    """STATUS (section 7). Old servers leave out the message and its language."""
    if stop - start < 4:
        raise Malformed("a status has no code")
    code = unpack_u32(data, start)[0]
    if code == OK:
        return _STATUS_OK
    if code == EOF:
        return _STATUS_EOF
    if stop - start == 4:
        return Status(code)
    return Status(code, parse_string(data, start + 4, stop)[0][:1024].decode("utf-8", "replace"))


def parse_handle(data: bytes, start: int, stop: int) -> bytes:
    """HANDLE (section 7): at most 256 bytes."""
    size = stop - start - 4
    if not 0 <= size <= _HANDLE_BYTES_MAX or unpack_u32(data, start)[0] != size:
        raise Malformed(f"a handle of {size} bytes")
    return data[start + 4 : stop]


def parse_data(data: bytes, start: int, stop: int) -> bytes:
    """DATA (section 7)."""
    if stop - start < 4 or unpack_u32(data, start)[0] != stop - start - 4:
        raise Malformed("data that does not fill its packet")
    return data[start + 4 : stop]


def parse_attributes(data: bytes, start: int, stop: int) -> Attributes:
    """ATTRS (section 7)."""
    attributes, end = _attributes(data, start, stop)
    if end != stop:
        raise Malformed("bytes after the attributes")
    return attributes


def parse_names(data: bytes, start: int, stop: int) -> tuple[Name, ...]:
    """NAME (section 7): file name, a line for people that nobody may parse, attributes."""
    if stop - start < 4:
        raise Malformed("a listing has no count")
    names = []
    place = start + 4
    try:
        for _ in range(unpack_u32(data, start)[0]):
            begin = place + 4
            end = begin + unpack_u32(data, place)[0]
            attributes, place = _attributes(data, end + 4 + unpack_u32(data, end)[0], stop)
            names.append(Name(data[begin:end], attributes))
    except struct.error:
        raise Malformed("a name is cut off") from None
    if place != stop:
        raise Malformed("bytes after the last name")
    return tuple(names)


def parse_reply(data: bytes, start: int, stop: int) -> bytes:
    """EXTENDED_REPLY (section 8): what it means depends on the request."""
    return data[start:stop]


def parse_limits(reply: bytes) -> Limits:
    """Answer to ``limits@openssh.com``: later versions may add fields."""
    if len(reply) < _limits.size:
        raise Malformed("the limits are cut off")
    return Limits(*_limits.unpack_from(reply))


def parse_file_system(reply: bytes) -> FileSystem:
    """Answer to ``statvfs@openssh.com``; counts of bytes are in blocks of the second field."""
    if len(reply) < _file_system.size:
        raise Malformed("the description of a file system is cut off")
    _, block, size, free, available, files, files_free, _, fsid, flags, name = _file_system.unpack_from(reply)
    read_only = bool(flags & _READ_ONLY)
    return FileSystem(size * block, free * block, available * block, files, files_free, fsid, read_only, name)


def parse_version(data: bytes, start: int, stop: int) -> tuple[int, dict[bytes, bytes]]:
    """VERSION (section 4): the number, and pairs of extension name and data."""
    if stop - start < 4:
        raise Malformed("no version number")
    extensions = {}
    place = start + 4
    while place < stop:
        name, place = parse_string(data, place, stop)
        extensions[name], place = parse_string(data, place, stop)
    return unpack_u32(data, start)[0], extensions


def _attributes(data: bytes, place: int, stop: int) -> tuple[Attributes, int]:
    size = mode = mtime = atime = uid = gid = None
    try:
        flags = unpack_u32(data, place)[0]
        place += 4
        if flags == _HAS_ALL and place + _all_attributes.size <= stop:
            size, uid, gid, mode, atime, mtime = _all_attributes.unpack_from(data, place)
            return Attributes(size, mode, mtime, atime, uid, gid), place + _all_attributes.size
        if flags & _HAS_SIZE:
            size = _u64.unpack_from(data, place)[0]
            place += 8
        if flags & _HAS_OWNER:
            uid, gid = _two_u32.unpack_from(data, place)
            place += 8
        if flags & _HAS_MODE:
            mode = unpack_u32(data, place)[0]
            place += 4
        if flags & _HAS_TIMES:
            atime, mtime = _two_u32.unpack_from(data, place)
            place += 8
        if flags & _HAS_EXTENDED:
            count = unpack_u32(data, place)[0]
            place += 4
            for _ in range(count):
                _, place = parse_string(data, place, stop)
                _, place = parse_string(data, place, stop)
    except struct.error:
        raise Malformed("the attributes are cut off") from None
    if place > stop:
        raise Malformed("the attributes are longer than their packet")
    return Attributes(size, mode, mtime, atime, uid, gid), place
