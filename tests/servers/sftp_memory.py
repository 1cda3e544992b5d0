"""A writable SFTP server in memory, without a thread or a clock of its own: each request is answered when it is given.

It speaks through asyncssh (``running_sftp_server(folder, raw=memory)``) or through nothing at all: a test that decides
which request is answered next calls :meth:`Session.answer` itself.
"""

from __future__ import annotations

import stat
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from tests.servers import sftp_wire as wire

__all__ = ["DENIED", "FAILURE", "NAMES", "NO_SUCH_FILE", "OK", "UNSUPPORTED", "Memory", "Node", "Request", "Session"]

OK, EOF, NO_SUCH_FILE, DENIED, FAILURE, UNSUPPORTED = 0, 1, 2, 3, 4, 8
NAMES = {
    1: "INIT", 3: "OPEN", 4: "CLOSE", 5: "READ", 6: "WRITE", 7: "LSTAT", 8: "FSTAT", 9: "SETSTAT", 10: "FSETSTAT",
    11: "OPENDIR", 12: "READDIR", 13: "REMOVE", 14: "MKDIR", 15: "RMDIR", 16: "REALPATH", 17: "STAT", 18: "RENAME",
}  # fmt: skip
_WRITE, _CREATE, _TRUNCATE, _EXCLUSIVE = 0x2, 0x8, 0x10, 0x20
_POSIX_RENAME = b"posix-rename@openssh.com"


@dataclass(eq=False)
class Node:
    """A file or, without content, a folder."""

    content: bytearray | None
    mode: int = 0o644
    mtime: int = 1_600_000_000

    @property
    def attributes(self) -> bytes:
        kind = stat.S_IFDIR if self.content is None else stat.S_IFREG
        return wire.attributes(len(self.content or b""), kind | self.mode, self.mtime)


@dataclass
class Request:
    """One request.

    Attributes:
        name: Its kind, as in the draft; ``POSIX-RENAME`` for the extension.
        id: Its number.
        path: The path, or that of the open file.
        body: What follows the path or the handle.
    """

    name: str
    id: int
    path: bytes
    body: bytes
    handle: bytes = b""


class Refused(Exception):
    """A status other than OK."""


@dataclass
class Memory:
    """The server.

    Attributes:
        nodes: By path.
        posix_rename: Whether ``posix-rename@openssh.com`` is offered.
        refuse: The status with which to refuse a request; ``None``: do it.
        after: Called after each request that changed something.
        asked: Each request, in the order of answers.
    """

    nodes: dict[bytes, Node] = field(default_factory=lambda: {b"/": Node(None, 0o755)})
    posix_rename: bool = True
    refuse: Callable[[Request], int | None] = lambda _: None
    after: Callable[[Request], None] = lambda _: None
    asked: list[Request] = field(default_factory=list)

    def __call__(self) -> Callable[[bytes], bytes]:
        """Begin a session that answers at once."""
        session = Session(self)

        def receive(data: bytes) -> bytes:
            return b"".join(session.answer(packet) for packet in session.packets(data))

        return receive

    def write(self, path: bytes, content: bytes) -> None:
        """Put a file there."""
        self.nodes[path] = Node(bytearray(content))

    def read(self, path: bytes) -> bytes | None:
        """What is in a file; ``None`` if there is none."""
        node = self.nodes.get(path)
        return None if node is None or node.content is None else bytes(node.content)

    def count(self, name: str) -> int:
        """How many requests of a kind were answered."""
        return sum(request.name == name for request in self.asked)


class Session:
    """One session: handles, and what came of a packet."""

    def __init__(self, memory: Memory) -> None:
        self._memory = memory
        self._buffer = b""
        self._next = 0
        self._handles: dict[bytes, tuple[bytes, Node]] = {}
        self._listings: dict[bytes, Iterator[list[tuple[bytes, bytes]]]] = {}

    @property
    def open_handles(self) -> int:
        """How many files and folders are open."""
        return len(self._handles)

    def packets(self, data: bytes) -> Iterator[bytes]:
        """Cut what came into packets."""
        self._buffer += data
        while len(self._buffer) >= 4 and len(self._buffer) >= (size := 4 + struct.unpack(">I", self._buffer[:4])[0]):
            packet, self._buffer = self._buffer[4:size], self._buffer[size:]
            yield packet

    def parse(self, packet: bytes) -> Request:
        """Take a packet apart."""
        if packet[0] == 1:
            return Request("INIT", 0, b"", packet[1:])
        number = struct.unpack(">I", packet[1:5])[0]
        text, rest = _string(packet[5:])
        name = NAMES.get(packet[0], "EXTENDED")
        if packet[0] == 200:
            name = "POSIX-RENAME" if text == _POSIX_RENAME else text.decode()
            text, rest = _string(rest)
        if name in ("CLOSE", "READ", "WRITE", "FSTAT", "FSETSTAT", "READDIR"):
            path = self._handles[text][0] if text in self._handles else b"?"
            return Request(name, number, path, rest, text)
        return Request(name, number, text, rest)

    def answer(self, packet: bytes) -> bytes:
        """Do what a packet asks for."""
        request = self.parse(packet)
        memory = self._memory
        if request.name == "INIT":
            return wire.version(3, *([(_POSIX_RENAME, b"1")] if memory.posix_rename else []))
        memory.asked.append(request)
        code = memory.refuse(request)
        if code is not None:
            if request.name == "CLOSE":  # a handle is gone, whatever the server thinks of what was written
                self._handles.pop(request.handle, None)
            return wire.status(request.id, code)
        try:
            done = getattr(self, "_" + request.name.lower().replace("-", "_"), None)
            if done is None:
                raise Refused(UNSUPPORTED)
            answer: bytes = done(request) or wire.status(request.id, OK)
        except Refused as refused:
            return wire.status(request.id, refused.args[0])
        if request.name in (
            "OPEN",
            "WRITE",
            "FSETSTAT",
            "SETSTAT",
            "REMOVE",
            "MKDIR",
            "RMDIR",
            "RENAME",
            "POSIX-RENAME",
        ):
            memory.after(request)
        return answer

    # -- requests ----------------------------------------------------------------------------------------------------

    def _open(self, request: Request) -> bytes:
        flags, has = struct.unpack(">II", request.body[:8])
        nodes = self._memory.nodes
        node = nodes.get(request.path)
        if node is None:
            self._above(request.path)
            if not flags & _CREATE:
                raise Refused(NO_SUCH_FILE)
            mode = struct.unpack(">I", request.body[8:12])[0] if has & 4 else 0o644
            node = nodes[request.path] = Node(bytearray(), mode & 0o7777)
        elif flags & _EXCLUSIVE or node.content is None:
            raise Refused(FAILURE)
        if flags & _TRUNCATE:
            assert node.content is not None
            node.content.clear()
        return self._handle(request, node)

    def _handle(self, request: Request, node: Node) -> bytes:
        handle = b"%d" % self._next
        self._next += 1
        self._handles[handle] = (request.path, node)
        return wire.handle(request.id, handle)

    def _close(self, request: Request) -> None:
        self._handles.pop(request.handle)

    def _read(self, request: Request) -> bytes:
        offset, length = struct.unpack(">QI", request.body)
        content = self._file(request)[offset : offset + length]
        if not content:
            raise Refused(EOF)
        return wire.data(request.id, bytes(content))

    def _write(self, request: Request) -> None:
        offset = struct.unpack(">Q", request.body[:8])[0]
        data = request.body[12:]
        content = self._file(request)
        if len(content) < offset:
            content.extend(bytes(offset - len(content)))
        content[offset : offset + len(data)] = data

    def _file(self, request: Request) -> bytearray:
        content = self._handles[request.handle][1].content
        assert content is not None
        return content

    def _fstat(self, request: Request) -> bytes:
        return wire.packet(105, struct.pack(">I", request.id) + self._handles[request.handle][1].attributes)

    def _stat(self, request: Request) -> bytes:
        return wire.packet(105, struct.pack(">I", request.id) + self._there(request.path).attributes)

    _lstat = _stat

    def _fsetstat(self, request: Request) -> None:
        self._set(self._handles[request.handle][1], request.body)

    def _setstat(self, request: Request) -> None:
        self._set(self._there(request.path), request.body)

    def _set(self, node: Node, body: bytes) -> None:
        flags, place = struct.unpack(">I", body[:4])[0], 4
        place += 8 * (flags & 1)
        if flags & 4:
            node.mode = struct.unpack(">I", body[place : place + 4])[0] & 0o7777
            place += 4
        if flags & 8:
            node.mtime = struct.unpack(">II", body[place : place + 8])[1]

    def _opendir(self, request: Request) -> bytes:
        if self._there(request.path).content is not None:
            raise Refused(FAILURE)
        answer = self._handle(request, self._there(request.path))
        prefix = request.path.rstrip(b"/") + b"/"
        names = [
            (path[len(prefix) :], node.attributes)
            for path, node in self._memory.nodes.items()
            if path.startswith(prefix) and path != b"/" and b"/" not in path[len(prefix) :]
        ]
        self._listings[b"%d" % (self._next - 1)] = iter([names] if names else [])
        return answer

    def _readdir(self, request: Request) -> bytes:
        for names in self._listings[request.handle]:
            return wire.names(request.id, *names)
        raise Refused(EOF)

    def _remove(self, request: Request) -> None:
        if self._there(request.path).content is None:
            raise Refused(FAILURE)
        del self._memory.nodes[request.path]

    def _mkdir(self, request: Request) -> None:
        if request.path in self._memory.nodes:
            raise Refused(FAILURE)
        self._above(request.path)
        has = struct.unpack(">I", request.body[:4])[0]
        mode = struct.unpack(">I", request.body[4:8])[0] if has & 4 else 0o755
        self._memory.nodes[request.path] = Node(None, mode & 0o777)

    def _rename(self, request: Request) -> None:
        new, _ = _string(request.body)
        self._there(request.path)
        if new in self._memory.nodes:
            raise Refused(FAILURE)
        self._above(new)
        self._memory.nodes[new] = self._memory.nodes.pop(request.path)

    def _posix_rename(self, request: Request) -> None:
        if not self._memory.posix_rename:
            raise Refused(UNSUPPORTED)
        new, _ = _string(request.body)
        self._there(request.path)
        self._above(new)
        there = self._memory.nodes.get(new)
        if there is not None and there.content is None:
            raise Refused(FAILURE)
        self._memory.nodes[new] = self._memory.nodes.pop(request.path)

    # -- the tree ----------------------------------------------------------------------------------------------------

    def _there(self, path: bytes) -> Node:
        node = self._memory.nodes.get(path.rstrip(b"/") or b"/")
        if node is None:
            raise Refused(NO_SUCH_FILE)
        return node

    def _above(self, path: bytes) -> None:
        node = self._memory.nodes.get(path.rpartition(b"/")[0] or b"/")
        if node is None or node.content is not None:
            raise Refused(NO_SUCH_FILE)


def _string(data: bytes) -> tuple[bytes, bytes]:
    size = struct.unpack(">I", data[:4])[0]
    return data[4 : 4 + size], data[4 + size :]
