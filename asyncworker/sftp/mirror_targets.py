"""The destination of a mirror, here or on a server: listed and deleted from without following a link."""

from __future__ import annotations

import asyncio
import contextlib
import os
import stat
from collections.abc import AsyncGenerator, Callable, Iterable, Iterator
from contextlib import aclosing
from typing import Protocol

from asyncworker.errors import SFTPConnectError, SFTPConnectionLost, SFTPError, SFTPFileNotFound
from asyncworker.sftp.batch import FileResult
from asyncworker.sftp.listing import Entry
from asyncworker.sftp.local_leftovers import open_below
from asyncworker.sftp.mirror_plan import Step
from asyncworker.sftp.namespace import Namespace
from asyncworker.sftp.pulling import run_each
from asyncworker.sftp.walking import Walk

__all__ = ["LocalTarget", "RemoteTarget", "Target"]

#: Deletions between two looks at whether the caller still waits.
_CHUNK = 256

Done = Callable[[FileResult], None]


class Target(Protocol):
    """A folder that is made like another one."""

    def result(self, path: str, error: Exception | None = None, *, planned: bool = False) -> FileResult:
        """Return what is said of a path that is deleted."""

    def contents(self, enters: Callable[[str], bool]) -> AsyncGenerator[Step, None]:
        """Give out what is in it, a folder before what is in it; nothing where it does not exist.

        Raises:
            SFTPError: Not all can be listed.
            OSError: Likewise.
        """

    async def delete(self, steps: Iterable[Step], done: Done) -> None:
        """Delete one after the other, and say of each what became of it; what has gone is well."""


class LocalTarget:
    """A local folder; everything below it is opened step by step from the one above.

    Args:
        root: Its path; links on the way to it are the user's own affair.
    """

    def __init__(self, root: str) -> None:
        self._root = root

    def result(self, path: str, error: Exception | None = None, *, planned: bool = False) -> FileResult:
        """Return what is said of a path that is deleted."""
        return FileResult("", os.path.join(self._root, path), error=error, deletes=True, planned=planned)  # noqa: PTH118

    async def contents(self, enters: Callable[[str], bool]) -> AsyncGenerator[Step, None]:
        """Give out what is in it, a folder before what is in it."""
        folders = [""]
        while folders:
            folder = folders.pop()
            for name, is_dir in await asyncio.to_thread(self._scan, folder):
                path = f"{folder}/{name}" if folder else name
                yield path, is_dir
                if is_dir and enters(path):
                    folders.append(path)

    async def delete(self, steps: Iterable[Step], done: Done) -> None:
        """Delete one after the other."""
        for chunk in _chunks(steps):
            for path, error in await asyncio.to_thread(self._delete, chunk):
                done(self.result(path, error))

    def _scan(self, folder: str) -> list[Step]:
        try:
            with self._opened(folder) as fd, os.scandir(fd) as entries:
                return [(entry.name, entry.is_dir(follow_symlinks=False)) for entry in entries]
        except FileNotFoundError:
            return []

    def _delete(self, steps: list[Step]) -> list[tuple[str, OSError | None]]:
        done: list[tuple[str, OSError | None]] = []
        for path, is_dir in steps:
            folder, _, name = path.rpartition("/")
            error = None
            try:
                with self._opened(folder) as fd:
                    if is_dir:
                        os.rmdir(name, dir_fd=fd)
                    else:
                        os.unlink(name, dir_fd=fd)
            except FileNotFoundError:
                pass
            except OSError as raised:
                error = OSError(raised.errno, raised.strerror, self.result(path).local)
            done.append((path, error))
        return done

    @contextlib.contextmanager
    def _opened(self, folder: str) -> Iterator[int]:
        root_fd = os.open(self._root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            with open_below(root_fd, folder) as fd:
                yield fd
        finally:
            os.close(root_fd)


class RemoteTarget:
    """A folder of a server. Each folder is proved to be none that a link leads to before anything in it is touched.

    Args:
        pool: The connections.
        root: Its path.
    """

    def __init__(self, pool: Namespace, root: str) -> None:
        self._pool = pool
        self._root = root.rstrip("/") or "/"

    def result(self, path: str, error: Exception | None = None, *, planned: bool = False) -> FileResult:
        """Return what is said of a path that is deleted."""
        return FileResult(self._path(path), "", error=error, deletes=True, planned=planned)

    async def contents(self, enters: Callable[[str], bool]) -> AsyncGenerator[Step, None]:
        """Give out what is in it, a folder before what is in it."""
        walk = Walk(self._list, enter=lambda entry: enters(self._relative(entry.path)))
        async with aclosing(walk.entries(self._root)) as entries:
            async for entry in entries:
                yield self._relative(entry.path), entry.is_dir

    async def delete(self, steps: Iterable[Step], done: Done) -> None:
        """Delete many at a time, files before folders, folders of one depth together."""

        async def one(step: Step) -> None:
            path, is_dir = step
            error = None
            try:
                await (self._pool.rmdir if is_dir else self._pool.remove)(self._path(path))
            except (SFTPConnectError, SFTPConnectionLost):
                raise
            except SFTPFileNotFound:
                pass
            except SFTPError as raised:
                error = raised
            done(self.result(path, error))

        for together in _by_depth(steps):
            await run_each(together, one)

    async def _list(self, folder: str) -> AsyncGenerator[Entry, None]:
        if folder != self._root and not (await self._pool.stat(folder, follow_links=False)).is_dir:
            raise SFTPError(f"{self._pool.options.address}: {folder} is not a folder but a link", path=folder)
        try:
            async for entry in self._pool.list(folder, local_names=False):
                yield await self._known(entry)
        except SFTPFileNotFound:
            if folder != self._root:  # else it has yet to be made
                raise

    async def _known(self, entry: Entry) -> Entry:
        if entry.mode is not None and stat.S_IFMT(entry.mode):
            return entry
        attributes = await self._pool.stat(entry.path, follow_links=False)
        if attributes.mode is None or not stat.S_IFMT(attributes.mode):
            where = self._pool.options.address
            raise SFTPError(f"{where}: {entry.path}: the server does not say what it is", host=where, path=entry.path)
        return Entry(entry.name, entry.path, attributes)

    def _path(self, relative: str) -> str:
        return f"{self._root.rstrip('/')}/{relative}"

    def _relative(self, path: str) -> str:
        return path[len(self._root.rstrip("/")) + 1 :]


def _chunks(steps: Iterable[Step]) -> Iterator[list[Step]]:
    chunk: list[Step] = []
    for step in steps:
        chunk.append(step)
        if len(chunk) == _CHUNK:
            yield chunk
            chunk = []
    if chunk:
        yield chunk


def _by_depth(steps: Iterable[Step]) -> Iterator[list[Step]]:
    """Folders of one depth are together, so none is removed before those in it are; files are together before."""
    together: list[Step] = []
    last: int | None = None
    for path, is_dir in steps:
        depth = path.count("/") if is_dir else None
        if together and depth != last:
            yield together
            together = []
        together.append((path, is_dir))
        last = depth
    if together:
        yield together
