"""Where an operation takes place: a pool, a local folder, and the server's side seen without the client."""

from __future__ import annotations

import os
import random
from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path

from asyncworker.sftp import SFTPPool
from tests.servers.sftp_hostile import Tree

__all__ = ["Cannot", "Disk", "Far", "Ground", "InMemory", "content", "tree_of"]


class Cannot(Exception):
    """A server cannot do this; says why."""


def content(size: int, seed: int = 0) -> bytes:
    """Bytes that compress badly, the same ones for the same arguments."""
    return random.Random(f"{seed} {size}").randbytes(size)


def tree_of(folder: Path) -> dict[str, bytes]:
    """Path and content of each file below a local folder; links are left out."""
    found = {}
    pending = [folder]
    while pending:
        with os.scandir(pending.pop()) as entries:
            for entry in entries:
                if entry.is_dir(follow_symlinks=False):
                    pending.append(Path(entry.path))
                elif not entry.is_symlink():
                    found[os.path.relpath(entry.path, folder)] = Path(entry.path).read_bytes()
    return found


class Far(ABC):
    """The server's side. Paths are relative to the folder of one operation.

    Attributes:
        root: That folder, as the server names it.
    """

    root: str

    @abstractmethod
    def write(self, path: str, data: bytes, *, mtime: int = 1_600_000_000, mode: int = 0o644) -> None:
        """Put a file there; its folders are made."""

    @abstractmethod
    def files(self) -> dict[str, bytes]:
        """Path and content of each file; links are left out."""

    @abstractmethod
    def mkdir(self, path: str) -> None:
        """Make a folder, and those above it."""

    @abstractmethod
    def symlink(self, path: str, target: str) -> None:
        """Make a link."""

    @abstractmethod
    def mode_and_mtime(self, path: str) -> tuple[int, int]:
        """Permissions, and time of change."""

    @abstractmethod
    def names(self, path: str = ".") -> list[str]:
        """Names in a folder, sorted."""


class Disk(Far):
    """A server that serves this machine's disk."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.root = str(folder)

    def write(self, path: str, data: bytes, *, mtime: int = 1_600_000_000, mode: int = 0o644) -> None:
        file = self.folder / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(data)
        file.chmod(mode)
        os.utime(file, (mtime, mtime))

    def files(self) -> dict[str, bytes]:
        return tree_of(self.folder)

    def mkdir(self, path: str) -> None:
        (self.folder / path).mkdir(parents=True)

    def symlink(self, path: str, target: str) -> None:
        (self.folder / path).symlink_to(target)

    def mode_and_mtime(self, path: str) -> tuple[int, int]:
        found = (self.folder / path).stat()
        return found.st_mode & 0o7777, int(found.st_mtime)

    def names(self, path: str = ".") -> list[str]:
        return sorted(entry.name for entry in (self.folder / path).iterdir())


class InMemory(Far):
    """The scripted server's tree."""

    def __init__(self, tree: Tree, root: str) -> None:
        self.tree = tree
        self.root = root
        tree.mkdir(root)

    def write(self, path: str, data: bytes, *, mtime: int = 1_600_000_000, mode: int = 0o644) -> None:
        self.tree.write(f"{self.root}/{path}", data, mode=mode, mtime=mtime)

    def files(self) -> dict[str, bytes]:
        return {name.removeprefix(f"{self.root}/"): data for name, data in self.tree.files(self.root).items()}

    def mkdir(self, path: str) -> None:
        self.tree.mkdir(f"{self.root}/{path}")

    def symlink(self, path: str, target: str) -> None:
        self.tree.symlink(f"{self.root}/{path}", target)

    def mode_and_mtime(self, path: str) -> tuple[int, int]:
        node = self.tree.node(f"{self.root}/{path}")
        return node.mode & 0o7777, node.mtime

    def names(self, path: str = ".") -> list[str]:
        return sorted(map(os.fsdecode, self.tree.folder(os.fsencode(f"{self.root}/{path}")).entries))


@dataclass(frozen=True)
class Ground:
    """One operation's own folders.

    Attributes:
        pool: Connections to the server.
        slow: A second pool, limited to some bytes a second, for what is stopped half-way.
        server: The kind of server.
        far: Its side.
        local: An empty local folder.
        short: Whether to take smaller files.
    """

    pool: SFTPPool
    slow: SFTPPool
    server: str
    far: Far
    local: Path
    short: bool

    def remote(self, path: str) -> str:
        """A path on the server."""
        return f"{self.far.root}/{path}"
