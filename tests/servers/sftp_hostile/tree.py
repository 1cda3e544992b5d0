"""Files, folders and links in memory."""

from __future__ import annotations

import os
import posixpath
import time
from collections.abc import Iterator
from dataclasses import dataclass, field

from tests.servers.sftp_hostile.attributes import Stat

__all__ = [
    "BAD_MESSAGE",
    "EOF",
    "FAILURE",
    "NO_SUCH_FILE",
    "OK",
    "PERMISSION_DENIED",
    "UNSUPPORTED",
    "File",
    "Folder",
    "Link",
    "Node",
    "Refused",
    "Tree",
]

OK, EOF, NO_SUCH_FILE, PERMISSION_DENIED, FAILURE, BAD_MESSAGE, UNSUPPORTED = 0, 1, 2, 3, 4, 5, 8

_LINKS_FOLLOWED = 40


class Refused(Exception):
    """A request ends with this status code."""

    def __init__(self, code: int, message: str = "") -> None:
        super().__init__(message or f"status {code}")
        self.code = code
        self.message = message


@dataclass(eq=False)
class Node:
    mode: int
    mtime: int = field(default_factory=lambda: int(time.time()))
    atime: int = 0
    uid: int = 1000
    gid: int = 1000

    @property
    def size(self) -> int:
        return 0

    def stat(self) -> Stat:
        return Stat(self.size, self.uid, self.gid, self.mode, self.atime, self.mtime)

    def set(self, stat: Stat) -> None:
        """Take what SETSTAT names; the size is the file's own affair."""
        if stat.uid is not None:
            self.uid, self.gid = stat.uid, stat.gid or 0
        if stat.mode is not None:
            self.mode = self.mode & ~0o7777 | stat.mode & 0o7777
        if stat.mtime is not None:
            self.atime, self.mtime = stat.atime or 0, stat.mtime


@dataclass(eq=False)
class File(Node):
    mode: int = 0o100644
    content: bytearray = field(default_factory=bytearray)

    @property
    def size(self) -> int:
        return len(self.content)

    def set(self, stat: Stat) -> None:
        super().set(stat)
        if stat.size is not None:
            self.resize(stat.size)

    def resize(self, size: int) -> None:
        del self.content[size:]
        self.content.extend(bytes(size - len(self.content)))

    def write(self, offset: int, data: bytes) -> None:
        if offset > len(self.content):
            self.resize(offset)
        self.content[offset : offset + len(data)] = data
        self.mtime = int(time.time())


@dataclass(eq=False)
class Folder(Node):
    mode: int = 0o40755
    entries: dict[bytes, Node] = field(default_factory=dict)


@dataclass(eq=False)
class Link(Node):
    mode: int = 0o120777
    target: bytes = b""

    @property
    def size(self) -> int:
        return len(self.target)


class Tree:
    """The server's file system. Paths are text or bytes; the methods of the first half are for tests."""

    def __init__(self) -> None:
        self.root = Folder()

    # -- for tests ---------------------------------------------------------------------------------------------------

    def write(self, path: str | bytes, content: bytes = b"", *, mode: int = 0o644, mtime: int | None = None) -> File:
        """Put a file there; its folders are made."""
        node = File(0o100000 | mode, content=bytearray(content))
        if mtime is not None:
            node.mtime = mtime
        self._put(path, node)
        return node

    def mkdir(self, path: str | bytes, *, mode: int = 0o755) -> Folder:
        """Make a folder and those above it; one that exists is kept."""
        folder = self.root
        for name in self._names(path):
            found = folder.entries.setdefault(name, Folder())
            assert isinstance(found, Folder), f"{path!r}: {name!r} is no folder"
            folder = found
        folder.mode = 0o40000 | mode
        return folder

    def symlink(self, path: str | bytes, target: str | bytes) -> None:
        """Make a symbolic link at that path."""
        self._put(path, Link(target=os.fsencode(target)))

    def read(self, path: str | bytes) -> bytes:
        """Content of a file."""
        node = self.find(os.fsencode(path))
        assert isinstance(node, File), f"{path!r} is no file"
        return bytes(node.content)

    def node(self, path: str | bytes) -> Node:
        """The file, folder or link itself, for its mode and times; raises `Refused` where nothing is."""
        return self.find(os.fsencode(path), follow=False)

    def exists(self, path: str | bytes) -> bool:
        """Whether something has that name, if only a broken link."""
        try:
            self.node(path)
        except Refused:
            return False
        return True

    def files(self, path: str | bytes = b"/") -> dict[str, bytes]:
        """Path and content of each file below a folder; links are left out."""
        return {
            os.fsdecode(name): bytes(node.content)
            for name, node in self._below(os.fsencode(path))
            if isinstance(node, File)
        }

    def paths(self, path: str | bytes = b"/") -> list[str]:
        """Each path below a folder, sorted: files, folders and links."""
        return sorted(os.fsdecode(name) for name, _ in self._below(os.fsencode(path)))

    def _put(self, path: str | bytes, node: Node) -> None:
        *folders, name = self._names(path)
        self.mkdir(b"/" + b"/".join(folders), mode=0o755).entries[name] = node

    def _names(self, path: str | bytes) -> list[bytes]:
        return [name for name in os.fsencode(path).split(b"/") if name]

    def _below(self, path: bytes) -> Iterator[tuple[bytes, Node]]:
        for name, node in self.folder(path).entries.items():
            yield posixpath.join(path, name), node
            if isinstance(node, Folder):
                yield from self._below(posixpath.join(path, name))

    # -- for the server ----------------------------------------------------------------------------------------------

    def absolute(self, path: bytes) -> bytes:
        """A path without ``.`` and ``..``, from the root, where every login begins."""
        return posixpath.normpath(posixpath.join(b"/", path.lstrip(b"/")))

    def find(self, path: bytes, *, follow: bool = True) -> Node:
        """The node at a path, through links; the last one is followed if asked for."""
        return self._walk(path, follow)[1]

    def realpath(self, path: bytes) -> bytes:
        """The path with all links resolved; what is not there stays as it was named."""
        try:
            return self._walk(path, True)[0]
        except Refused:
            return self.absolute(path)

    def folder(self, path: bytes) -> Folder:
        """The folder at a path."""
        node = self.find(path)
        if not isinstance(node, Folder):
            raise Refused(FAILURE, "not a directory")
        return node

    def place(self, path: bytes) -> tuple[Folder, bytes]:
        """The folder that holds, or would hold, a path, and the name in it."""
        parent, name = posixpath.split(self.absolute(path))
        if not name:
            raise Refused(FAILURE, "the root")
        return self.folder(parent), name

    def rename(self, old: bytes, new: bytes, *, over: bool) -> None:
        """Move what is at one path to another; ``over`` what is there, as POSIX has it."""
        source, name = self.place(old)
        goal, new_name = self.place(new)
        node = source.entries.get(name)
        if node is None:
            raise Refused(NO_SUCH_FILE)
        present = goal.entries.get(new_name)
        if present is node:
            return
        if present is not None:
            if not over:
                raise Refused(FAILURE, "the target exists")
            if isinstance(present, Folder) != isinstance(node, Folder):
                raise Refused(FAILURE, "one of the two is a directory")
            if isinstance(present, Folder) and present.entries:
                raise Refused(FAILURE, "directory not empty")
        if isinstance(node, Folder) and (self.absolute(new) + b"/").startswith(self.absolute(old) + b"/"):
            raise Refused(FAILURE, "into itself")
        del source.entries[name]
        goal.entries[new_name] = node

    def _walk(self, path: bytes, follow: bool) -> tuple[bytes, Node]:
        names = [name for name in self.absolute(path).split(b"/") if name]
        node: Node = self.root
        at: list[bytes] = []
        above: list[Folder] = []
        links = 0
        while names:
            name = names.pop(0)
            if not isinstance(node, Folder):
                raise Refused(FAILURE, "not a directory")
            if name == b"..":
                node = above.pop() if above else self.root
                at = at[:-1]
                continue
            found = node.entries.get(name)
            if found is None:
                raise Refused(NO_SUCH_FILE)
            if isinstance(found, Link) and (names or follow):
                links += 1
                if links > _LINKS_FOLLOWED:
                    raise Refused(FAILURE, "too many links")
                target = [part for part in found.target.split(b"/") if part not in (b"", b".")]
                names = target + names
                if found.target.startswith(b"/"):
                    node, at, above = self.root, [], []
                continue
            above.append(node)
            at.append(name)
            node = found
        return b"/" + b"/".join(at), node
