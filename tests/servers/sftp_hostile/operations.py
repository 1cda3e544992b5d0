"""Answers to requests: the whole of version 3 and OpenSSH's extensions, on the tree, as the switches have it."""

from __future__ import annotations

import hashlib
import posixpath
import stat as modes
import struct
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tests.servers import sftp_wire as wire
from tests.servers.sftp_hostile.attributes import Stat
from tests.servers.sftp_hostile.requests import Request
from tests.servers.sftp_hostile.tree import (
    EOF,
    FAILURE,
    NO_SUCH_FILE,
    OK,
    PERMISSION_DENIED,
    UNSUPPORTED,
    File,
    Folder,
    Link,
    Node,
    Refused,
)

if TYPE_CHECKING:
    from tests.servers.sftp_hostile.hostile import Hostile

__all__ = ["Handle", "Operations"]

_READ, _WRITE, _APPEND, _CREATE, _TRUNCATE, _EXCLUSIVE = 0x1, 0x2, 0x4, 0x8, 0x10, 0x20

_Listed = list[tuple[bytes, Node]]


@dataclass(eq=False)
class Handle:
    """An open file or folder."""

    path: bytes
    node: Node
    flags: int = 0
    answers: Iterator[_Listed] | None = None
    wrote: bool = False


class Operations:
    """The answers of one session."""

    def __init__(self, server: Hostile) -> None:
        self._server = server
        self._tree = server.tree
        self._next = 0
        self.handles: dict[bytes, Handle] = {}
        # By name: a bound method kept here would be a cycle.
        self._answers = {
            name.removeprefix("_on_").replace("__", "-"): name for name in dir(self) if name.startswith("_on_")
        }

    def answer(self, request: Request) -> bytes:
        """Do what the request asks for; returns the packet."""
        try:
            self._refuse(request)
            name = self._answers.get(request.kind)
            if name is None or request.kind in self._server.without:
                raise Refused(UNSUPPORTED)
            if request.kind in self._server.lie:
                raise Refused(OK)
            handler: Callable[[Request], bytes] = getattr(self, name)
            packet = handler(request)
            request.status = OK
        except Refused as refused:
            request.status = refused.code
            return wire.status(request.id, refused.code, refused.message.encode())
        return packet

    def _refuse(self, request: Request) -> None:
        if request.kind in self._server.refuse:
            raise Refused(self._server.refuse[request.kind])
        code = self._server.refuse_if(request)
        if code is not None:
            raise Refused(code)
        self._deny(request)

    def _deny(self, request: Request) -> None:
        paths = [] if request.handle else [request.path]
        if request.kind in ("RENAME", "posix-rename", "hardlink"):
            paths.append(request.second)
        for path in map(self._tree.absolute, paths):
            for denied in self._server.deny:
                itself = path == denied and request.kind in ("STAT", "LSTAT")
                if not itself and (path + b"/").startswith(denied + b"/"):
                    raise Refused(PERMISSION_DENIED)

    # -- files -------------------------------------------------------------------------------------------------------

    def _on_OPEN(self, request: Request) -> bytes:
        path, flags = self._tree.absolute(request.path), request.flags
        try:
            node = self._tree.find(path)
        except Refused as missing:
            if missing.code != NO_SUCH_FILE or not flags & _CREATE:
                raise
            folder, name = self._tree.place(path)
            if name in folder.entries:
                raise  # a link that leads nowhere
            node = folder.entries[name] = File(0o100000 | ((request.stat.mode or 0o644) & 0o7777))
        else:
            if flags & _EXCLUSIVE and not self._server.ignores_exclusive:
                raise Refused(FAILURE, "it exists")
        if not isinstance(node, File):
            raise Refused(FAILURE, "is a directory")
        if flags & _TRUNCATE:
            node.resize(0)
        if self._server.one_time_reads and flags & _READ:
            folder, name = self._tree.place(path)
            folder.entries.pop(name, None)
        return self._open(request, Handle(path, node, flags))

    def _open(self, request: Request, handle: Handle) -> bytes:
        most = self._server.most_handles
        if most is not None and len(self.handles) >= most:
            raise Refused(FAILURE, "too many open files")
        name = b"h%d" % self._next
        self._next += 1
        self.handles[name] = handle
        return wire.handle(request.id, name)

    def _handle(self, request: Request) -> Handle:
        found = self.handles.get(request.handle)
        if found is None:
            raise Refused(FAILURE, "no such handle")
        return found

    def _file(self, request: Request) -> File:
        node = self._handle(request).node
        if not isinstance(node, File):
            raise Refused(FAILURE, "no file")
        return node

    def _on_CLOSE(self, request: Request) -> bytes:
        handle = self._handle(request)
        del self.handles[request.handle]
        if handle.wrote and any(handle.path.startswith(path + b"/") for path in self._server.taken_at_close):
            self._take(handle)
        return wire.status(request.id, OK)

    def _take(self, handle: Handle) -> None:
        assert isinstance(handle.node, File)
        self._server.taken.append((handle.path, bytes(handle.node.content)))
        folder, name = self._tree.place(handle.path)
        folder.entries.pop(name, None)

    def _on_READ(self, request: Request) -> bytes:
        handle, file = self._handle(request), self._file(request)
        if not handle.flags & _READ:
            raise Refused(PERMISSION_DENIED)
        if self._server.one_time_reads:
            given = self._server.given.setdefault(id(file), set())
            if request.offset in given:
                raise Refused(FAILURE, "these bytes were read before")
            given.add(request.offset)
        file.content.extend(self._server.grows.get(handle.path, b""))
        end = self._server.eof_at.get(handle.path, len(file.content))
        stop = min(request.offset + min(request.length, self._server.read_bytes), end)
        content = bytes(file.content[request.offset : stop])
        content += bytes(max(0, stop - request.offset - len(content)))
        if not content:
            raise Refused(EOF)
        return wire.data(request.id, content)

    def _on_WRITE(self, request: Request) -> bytes:
        handle, file = self._handle(request), self._file(request)
        if not handle.flags & (_WRITE | _APPEND):
            raise Refused(PERMISSION_DENIED)
        offset = len(file.content) if handle.flags & _APPEND else request.offset
        if request.length > self._server.write_bytes:
            raise Refused(FAILURE, "too much at once")
        if self._server.sequential_writes and offset != len(file.content):
            raise Refused(FAILURE, "only at the end")
        quota = self._server.quota_bytes
        if quota is not None:
            others = sum(map(len, self._tree.files().values())) - len(file.content)
            if others + max(len(file.content), offset + request.length) > quota:
                raise Refused(FAILURE, "no space left")
        file.write(offset, request.data)
        handle.wrote = True
        return wire.status(request.id, OK)

    def _on_fsync(self, request: Request) -> bytes:
        self._file(request)
        return wire.status(request.id, OK)

    def _on_check__file__name(self, request: Request) -> bytes:
        """Not announced, as ProFTPD does not announce it either."""
        file = self._tree.find(request.path)
        if not isinstance(file, File) or request.flags or request.offset >= len(file.content):
            raise Refused(FAILURE)
        name = request.data.split(b",")[0]
        stop = request.offset + request.length if request.length else len(file.content)
        digest = hashlib.new(name.decode(), file.content[request.offset : stop]).digest()
        return wire.digest(request.id, name, digest)

    def _on_copy__data(self, request: Request) -> bytes:
        source, goal = self._file(request), self.handles.get(request.second)
        if goal is None or not isinstance(goal.node, File):
            raise Refused(FAILURE, "no such handle")
        stop = request.offset + request.length if request.length else len(source.content)
        goal.node.write(request.flags, bytes(source.content[request.offset : stop]))
        goal.wrote = True
        return wire.status(request.id, OK)

    # -- folders -----------------------------------------------------------------------------------------------------

    def _on_OPENDIR(self, request: Request) -> bytes:
        path = self._tree.absolute(request.path)
        folder = self._tree.folder(b"/" if self._server.bottomless else path)
        return self._open(request, Handle(path, folder, answers=self._listing(folder)))

    def _listing(self, folder: Folder) -> Iterator[_Listed]:
        for _ in range(self._server.empty_answers):
            yield []
        entries: _Listed = list(folder.entries.items())
        if self._server.dots:
            entries = [(b".", folder), (b"..", folder), *entries]
        if self._server.bottomless:
            entries.append((b"deeper", Folder()))
        size = self._server.names_per_answer
        while True:
            for place in range(0, len(entries), size):
                yield entries[place : place + size]
            if not self._server.repeat:
                return

    def _on_READDIR(self, request: Request) -> bytes:
        handle = self._handle(request)
        if handle.answers is None:
            raise Refused(FAILURE, "no directory")
        entries = next(handle.answers, None)
        if entries is None:
            raise Refused(EOF)
        found = []
        for name, node in entries:
            stat = self._server.claim("READDIR", posixpath.join(handle.path, name), node.stat())
            found.append((name, _long_name(name, node), stat.packed()))
        return wire.long_names(request.id, *found)

    def _on_MKDIR(self, request: Request) -> bytes:
        folder, name = self._tree.place(request.path)
        if name in folder.entries:
            raise Refused(FAILURE, "it exists")
        folder.entries[name] = Folder(0o40000 | ((request.stat.mode or 0o755) & 0o7777))
        return wire.status(request.id, OK)

    def _on_RMDIR(self, request: Request) -> bytes:
        parent, name = self._tree.place(request.path)
        node = self._tree.find(request.path, follow=False)
        if not isinstance(node, Folder):
            raise Refused(FAILURE, "not a directory")
        if node.entries:
            raise Refused(FAILURE, "directory not empty")
        del parent.entries[name]
        return wire.status(request.id, OK)

    # -- names -------------------------------------------------------------------------------------------------------

    def _on_REMOVE(self, request: Request) -> bytes:
        folder, name = self._tree.place(request.path)
        if isinstance(self._tree.find(request.path, follow=False), Folder):
            raise Refused(FAILURE, "is a directory")
        del folder.entries[name]
        return wire.status(request.id, OK)

    def _on_RENAME(self, request: Request) -> bytes:
        self._tree.rename(request.path, request.second, over=False)
        return wire.status(request.id, OK)

    def _on_posix__rename(self, request: Request) -> bytes:
        self._tree.rename(request.path, request.second, over=True)
        return wire.status(request.id, OK)

    def _on_SYMLINK(self, request: Request) -> bytes:
        """As the draft has it, and as this server's identification lets expect, the link comes first."""
        folder, name = self._tree.place(request.path)
        if name in folder.entries:
            raise Refused(FAILURE, "it exists")
        folder.entries[name] = Link(target=request.second)
        return wire.status(request.id, OK)

    def _on_hardlink(self, request: Request) -> bytes:
        folder, name = self._tree.place(request.second)
        if name in folder.entries:
            raise Refused(FAILURE, "it exists")
        folder.entries[name] = self._tree.find(request.path, follow=False)
        return wire.status(request.id, OK)

    def _on_READLINK(self, request: Request) -> bytes:
        node = self._tree.find(request.path, follow=False)
        if not isinstance(node, Link):
            raise Refused(FAILURE, "no link")
        return wire.names(request.id, (node.target, Stat().packed()))

    def _on_REALPATH(self, request: Request) -> bytes:
        return wire.names(request.id, (self._tree.realpath(request.path), Stat().packed()))

    # -- attributes --------------------------------------------------------------------------------------------------

    def _told(self, request: Request, path: bytes, node: Node) -> bytes:
        stat = self._server.claim(request.kind, path, node.stat())
        return wire.packet(105, request.id.to_bytes(4, "big") + stat.packed())

    def _on_STAT(self, request: Request) -> bytes:
        return self._told_of(request, follow=True)

    def _on_LSTAT(self, request: Request) -> bytes:
        return self._told_of(request, follow=False)

    def _told_of(self, request: Request, *, follow: bool) -> bytes:
        path = self._tree.absolute(request.path)
        if self._server.bottomless and path.endswith(b"/deeper"):
            return self._told(request, path, Folder())
        try:
            return self._told(request, path, self._tree.find(path, follow=follow))
        except Refused:
            phantom = self._server.phantoms.get(path)
            if phantom is None:
                raise
            return wire.packet(105, struct.pack(">I", request.id) + phantom.packed())

    def _on_FSTAT(self, request: Request) -> bytes:
        handle = self._handle(request)
        return self._told(request, handle.path, handle.node)

    def _on_SETSTAT(self, request: Request) -> bytes:
        self._tree.find(request.path).set(request.stat)
        return wire.status(request.id, OK)

    def _on_lsetstat(self, request: Request) -> bytes:
        self._tree.find(request.path, follow=False).set(request.stat)
        return wire.status(request.id, OK)

    def _on_FSETSTAT(self, request: Request) -> bytes:
        self._handle(request).node.set(request.stat)
        return wire.status(request.id, OK)

    def _on_limits(self, request: Request) -> bytes:
        return wire.limits(request.id, *self._server.limits)

    def _on_statvfs(self, request: Request) -> bytes:
        self._tree.find(request.path)
        block, fragment, blocks, free, for_users = self._server.statvfs
        return wire.statvfs(request.id, block, fragment, blocks, free, for_users, 1 << 20, 1 << 19, 1 << 19, 1, 0, 255)

    def _on_fstatvfs(self, request: Request) -> bytes:
        self._handle(request)
        request.path = b"/"
        return self._on_statvfs(request)


def _long_name(name: bytes, node: Node) -> bytes:
    when = time.strftime("%b %d %H:%M", time.gmtime(node.mtime))
    return f"{modes.filemode(node.mode)} 1 {node.uid} {node.gid} {node.size} {when} ".encode() + name
