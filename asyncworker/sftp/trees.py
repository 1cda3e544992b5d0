"""A whole tree of the server removed: files while the listing runs, then its folders from the deepest up."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from dataclasses import dataclass, field

from asyncworker.errors import (
    ItemErrors,
    SFTPConnectError,
    SFTPConnectionLost,
    SFTPError,
    SFTPFileNotFound,
    SFTPTypeUnknown,
)
from asyncworker.sftp.calls import PathLike
from asyncworker.sftp.listing import Entry
from asyncworker.sftp.namespace import Namespace
from asyncworker.sftp.pulling import run_each

__all__ = ["Trees"]

#: Listings of one tree: a name that is removed may hide another one from a listing that is under way.
_ROUNDS = 3
#: Errors that are kept for ``on_error``, and those that are raised in a group; all are counted.
_ERRORS_KEPT = 10_000
_ERRORS_RAISED = 20

OnError = Callable[[str, SFTPError], None]


class Trees(Namespace):
    """The part of a pool that changes whole trees."""

    async def remove_tree(
        self,
        path: PathLike,
        *,
        missing_ok: bool = False,
        on_removed: Callable[[str], None] | None = None,
        on_error: OnError | None = None,
    ) -> int:
        """Remove a folder and all that is in it. A link is removed itself; nothing is ever removed through one.

        What cannot be removed does not end the rest. Something else that fills the tree meanwhile is an error: the
        tree is listed a few times at most.

        Args:
            path: A folder; a file or a link is removed itself.
            missing_ok: A path that does not exist is well.
            on_removed: Called with each path that was removed, in no order but that a folder comes after its contents.
            on_error: Called at the end with each path that could not be removed, and why, ten thousand at most;
                ``None``: they are raised.

        Returns:
            How many files, links and folders were removed.

        Raises:
            ValueError: The path is empty, or ends in ``.`` or ``..``.
            SFTPFileNotFound: There is no such path, and ``missing_ok`` is not set.
            ItemErrors: Something could not be removed, and there is no ``on_error``: a group of the first errors.
            SFTPError: There is no connection.
        """
        root = os.fspath(path)
        root = root.rstrip("/") or root[:1]  # with a slash at its end, a link would be the folder that it leads to
        if root.rpartition("/")[2] in ("", ".", "..") and root != "/":
            raise ValueError(f"refused to remove the tree {os.fspath(path)!a}: it must end in the name of a folder")
        removal = _Removal(self, on_removed)
        try:
            attributes = await self.stat(root, follow_links=False)
        except SFTPFileNotFound:
            if missing_ok:
                return 0
            raise
        if attributes.is_dir and not await self._is_link_after_all(root):
            await removal.folder(root)
        else:
            await removal.one(root, self.remove)
        removal.report(self.options.address, root, on_error)
        return removal.count

    async def _is_link_after_all(self, path: str) -> bool:
        """Return whether a folder's name is a link after all: ProFTPD follows links even in LSTAT.

        Raises:
            SFTPError: The server does not tell.
        """
        folder, slash, name = path.rpartition("/")
        folder = folder or slash or "."
        if name in ("", ".", ".."):
            return False
        real, above = await asyncio.gather(self.realpath(path), self.realpath(folder))
        if real == f"{above.rstrip('/')}/{name}":
            return False
        async with aclosing(self.list(folder, bad_names=lambda _: None, local_names=False)) as entries:
            async for entry in entries:
                if entry.name == name and entry.file_type is not None:
                    return entry.is_link
        where = self.options.address
        raise SFTPError(f"{where}: {path} may be a link to {real}: it was not removed", host=where, path=path)


@dataclass
class _Removal:
    """One call of :meth:`Trees.remove_tree`."""

    pool: Namespace
    on_removed: Callable[[str], None] | None
    count: int = 0
    failed: int = 0
    errors: dict[str, SFTPError] = field(default_factory=dict)
    kept: set[str] = field(default_factory=set)  # folders that something stays in
    again: bool = False  # whether another round may remove what this one could not

    async def folder(self, root: str) -> None:
        """Remove what is in a folder, and the folder itself."""
        for _ in range(_ROUNDS):
            self._forget_errors()
            before = self.count
            by_depth = await self._contents(root)
            for depth in sorted(by_depth, reverse=True):
                await run_each((path for path in by_depth[depth] if path not in self.kept), self._remove_folder)
            if not self.again or self.count == before:
                return

    async def one(self, path: str, remove: Callable[[str], Awaitable[None]]) -> bool:
        """Remove one path, and remember why it could not be done; one that has gone is well."""
        try:
            await remove(path)
        except SFTPFileNotFound:
            return True
        except (SFTPConnectError, SFTPConnectionLost):
            raise
        except SFTPError as error:
            self._fail(path, error)
            return False
        self.count += 1
        if self.on_removed is not None:
            self.on_removed(path)
        return True

    def report(self, address: str, root: str, on_error: OnError | None) -> None:
        """Hand the errors over, or raise them."""
        if on_error is not None:
            for path, error in self.errors.items():
                on_error(path, error)
        elif self.errors:
            first = list(self.errors.values())[:_ERRORS_RAISED]
            raise ItemErrors(f"{address}: {root}: {self.failed:,} paths could not be removed", first)

    # -- inside ------------------------------------------------------------------------------------------------------

    async def _contents(self, root: str) -> dict[int, list[str]]:
        """Remove all but folders; returns those, by their depth."""
        by_depth: dict[int, list[str]] = {root.count("/"): [root]}

        def enter(entry: Entry) -> bool:
            if entry.is_dir:  # each of them comes here once
                by_depth.setdefault(entry.path.count("/"), []).append(entry.path)
            return True

        async def files() -> AsyncGenerator[str, None]:
            walk = self.pool.walk(
                root, enter=enter, bad_names=self._bad_name, local_names=False, on_error=self._cannot_list
            )
            async with aclosing(walk) as entries:
                async for entry in entries:
                    if not entry.is_dir:
                        yield entry.path

        await run_each(files(), lambda path: self.one(path, self.pool.remove))
        return by_depth

    async def _remove_folder(self, path: str) -> None:
        if not await self.one(path, self.pool.rmdir):
            self.again = True
        elif self.errors.pop(path, None) is not None:  # it could not be listed, and was empty
            self.failed -= 1

    def _forget_errors(self) -> None:
        self.failed = 0
        self.errors.clear()
        self.kept.clear()
        self.again = False

    def _fail(self, path: str, error: SFTPError) -> None:
        if path in self.errors:  # why it could not be listed says more
            return
        self.failed += 1
        if len(self.errors) < _ERRORS_KEPT:
            self.errors[path] = error
        above = path.rpartition("/")[0]
        while above and above not in self.kept:
            self.kept.add(above)
            above = above.rpartition("/")[0]

    def _bad_name(self, error: SFTPError) -> None:
        self._fail(error.path or "", error)

    def _cannot_list(self, folder: str, error: SFTPError) -> None:
        if isinstance(error, SFTPTypeUnknown):
            return  # REMOVE shows whether it is a file
        self.again |= isinstance(error, SFTPConnectionLost)
        self._fail(folder, error)
