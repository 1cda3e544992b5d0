"""A local folder onto the server: read and sent at the same time, each file whole or not there."""

from __future__ import annotations

import asyncio
import os
import stat
from collections.abc import AsyncGenerator, Iterable
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

from asyncworker.errors import SFTPError, SFTPFileNotFound, SFTPNoSpace
from asyncworker.sftp.batch import FileResult, Order
from asyncworker.sftp.bulk import LARGE_BYTES, Large, Orders, located, one_of, the_pool, transfer_all
from asyncworker.sftp.calls import PathLike
from asyncworker.sftp.listing import Entry
from asyncworker.sftp.localsource import LocalSource
from asyncworker.sftp.names import remote_bytes
from asyncworker.sftp.packets import Attributes
from asyncworker.sftp.pool import SFTPPool
from asyncworker.sftp.progress import BulkReport, OnFile, OnProgress, Tracker
from asyncworker.sftp.selection import SKIPS, Selection, Skip, is_there
from asyncworker.sftp.space import Space, bytes_to_come
from asyncworker.sftp.stripedput import StripedUpload
from asyncworker.sftp.temporary_names import is_ours
from asyncworker.sftp.transfer import Transfer
from asyncworker.sftp.walking import Walk

__all__ = ["upload"]

#: From this size on, a file is sent over several connections.
_STRIPED_BYTES = 8 * 1024 * 1024


async def upload(
    where: str | SFTPPool,
    local: PathLike,
    remote: PathLike | None = None,
    *,
    include: Iterable[str] | str = (),
    exclude: Iterable[str] | str = (),
    recursive: bool = True,
    max_depth: int | None = None,
    min_size_bytes: int = 0,
    max_size_bytes: int | None = None,
    skip: Skip = "same",
    links: Literal["skip", "follow"] = "skip",
    resume: bool = True,
    fsync: bool = False,
    check_space: bool = True,
    at_once: int | None = None,
    dry_run: bool = False,
    on_progress: OnProgress | None = None,
    on_file: OnFile | None = None,
    **options: Any,
) -> BulkReport:
    """Upload a folder or one file.

    Small files travel together, large ones over several connections. Each file appears on the server whole, with its
    time of change and its permissions (never set-user-id), or not at all; a part of a large one, whose connection was
    lost or whose upload was stopped, is kept there under a name of its own, and another run goes on with it if the
    local file's size and time of change are still the same. What fails is in the report, and does not end the rest.

    Args:
        where: A host, a URL or a pool, as for :func:`~asyncworker.sftp.download`.
        local: A folder, whose contents go into ``remote``, or a file.
        remote: A folder, made if it is missing; for one file its path, or a folder that is there. It is left out where
            the URL has a path: ``upload("sftp://user@host/out", "/data/out")``.
        include: Patterns, one of which a file must meet; without a slash they are met at any depth.
        exclude: Patterns that a file must not meet, nor a folder on the way to it.
        recursive: Whether to go into folders.
        max_depth: How deep: 0 stays in the first folder.
        min_size_bytes: Leave smaller files out.
        max_size_bytes: Leave larger files out.
        skip: Leave out a file that is there already: ``same`` size and time of change, same ``size``, as new or
            ``newer``, or ``never``.
        links: ``follow`` sends the file that a link leads to; links to folders are never gone into.
        resume: Whether to keep and use parts of large files.
        fsync: Have the server flush each file to its disk before it appears, where it offers that.
        check_space: End with an error as soon as it is known that the server's disk cannot hold it all, where the
            server tells: before anything is sent if it is one file, or one folder without others in it.
        at_once: Small files at once; ``None``: as many as the connections take.
        dry_run: Send nothing; ``on_file`` gets what would be sent.
        on_progress: Called five times a second, and at the end; awaited if it is async.
        on_file: Called with the result of each file.
        options: Of the pool that is made for a host, as for :class:`SFTPPool`.

    Raises:
        SFTPNoSpace: The server's disk cannot hold it.
        SFTPError: The server cannot be reached, or refuses the folder.
        SettingsError: An argument that is not allowed.
        OSError: ``local`` cannot be read.
    """
    one_of("skip", skip, SKIPS)
    one_of("links", links, ("skip", "follow"))
    selection = Selection(include, exclude, min_size_bytes, max_size_bytes)
    tracker = Tracker(on_progress, on_file)
    where, path, options = located(where, remote, options)
    async with the_pool(where, options) as pool:
        how = _How(
            skip=skip, follow=links == "follow", resume=resume, fsync=fsync, check_space=check_space, dry_run=dry_run
        )
        run = _Run(pool, selection, how, tracker)
        orders = await run.prepare(os.fspath(local), path, 0 if not recursive else max_depth)
        await transfer_all(pool, orders, tracker, at_once)
    return tracker.report()


@dataclass(frozen=True, slots=True, kw_only=True)
class _How:
    """The caller's wishes that concern each file."""

    skip: Skip
    follow: bool
    resume: bool
    fsync: bool
    check_space: bool
    dry_run: bool


class _Run:
    """One upload."""

    def __init__(self, pool: SFTPPool, selection: Selection, how: _How, tracker: Tracker) -> None:
        self._pool = pool
        self._selection = selection
        self._how = how
        self._tracker = tracker
        self._local = ""
        self._remote = ""
        self._bad: list[FileResult] = []
        self._space: Space | None = None
        self._parts: dict[str, list[str]] = {}  # names of parts of large files, by folder on the server

    async def prepare(self, local: str, remote: str, max_depth: int | None) -> Orders:
        """Find out what is meant."""
        found = await asyncio.to_thread(os.stat, local)
        if stat.S_ISDIR(found.st_mode):
            self._local, self._remote = local.rstrip("/") or "/", remote.rstrip("/") or "/"
            if not self._how.dry_run:
                await self._pool.mkdir(self._remote, parents=True, exist_ok=True)
            await self._look_at_space(self._remote)
            return self._tree(max_depth)
        if remote.endswith("/") or await self._pool._is_folder(remote):
            remote = f"{remote.rstrip('/')}/{os.path.basename(local)}"  # noqa: PTH119
        there = await self._attributes(remote) if self._how.skip != "never" else None
        folder, slash, name = remote.rpartition("/")
        folder = folder or slash or "."
        sizes = [(name, found.st_size)]
        try:
            await self._look_at_space(folder, bytes_to_come(sizes, {} if there is None else {name: there}))
        except SFTPNoSpace:  # unless a part of it is there, or an old one that nobody has asked for yet
            await self._look_at_space(folder, bytes_to_come(sizes, await self._there(folder)))
        return self._one(local, remote, _attributes(found), there)

    async def _look_at_space(self, folder: str, needed: int = 0) -> None:
        if self._how.check_space and not self._how.dry_run:
            self._space = Space(self._pool, folder)
            await self._space.look()
            await self._space.need(folder, needed, 0)

    async def _attributes(self, remote: str) -> Attributes | None:
        try:
            return await self._pool.stat(remote)
        except SFTPFileNotFound:
            return None

    async def _one(self, local: str, remote: str, attributes: Attributes, there: Attributes | None) -> Orders:
        order = self._order(local, remote, attributes, there)
        if order is not None:
            yield order

    async def _tree(self, max_depth: int | None) -> Orders:
        walk = Walk(
            self._entries,
            max_depth=max_depth,
            enter=lambda entry: self._selection.enters(self._relative(entry.path)),
        )
        entries = walk.entries(self._local)
        try:
            async for entry in entries:
                while self._bad:
                    yield self._bad.pop()
                if not self._is_chosen(entry):
                    continue
                order = self._order(entry.path, self._remote_of(self._relative(entry.path)), entry.attributes, None)
                if order is not None:
                    yield order
            while self._bad:
                yield self._bad.pop()
        finally:
            await entries.aclose()

    def _relative(self, path: str) -> str:
        return path[len(self._local) :].lstrip("/")

    def _remote_of(self, relative: str) -> str:
        return f"{self._remote.rstrip('/')}/{relative}" if relative else self._remote

    async def _entries(self, folder: str) -> AsyncGenerator[Entry, None]:
        """What is in a local folder, once the same folder is there on the server; without what is there already."""
        relative = self._relative(folder)
        remote = self._remote_of(relative)
        try:
            found = await asyncio.to_thread(_scan, folder, self._how.follow)
            if relative and not self._how.dry_run and not self._selection.only_some:
                await self._pool.mkdir(remote, exist_ok=True)
            elif relative and not self._how.dry_run and any(not entry.is_dir for entry in found):
                await self._pool.mkdir(remote, parents=True, exist_ok=True)
            there = await self._there(remote)
        except (SFTPError, OSError) as error:
            if not relative:
                raise
            self._bad.append(FileResult(remote, folder, error=error))
            return
        if parts := [name for name in there if is_ours(name)]:
            self._parts[remote] = parts
        wanted = [entry for entry in found if self._is_wanted(entry, there)]
        if self._space is not None:
            sizes = [(entry.name, entry.size_bytes or 0) for entry in wanted if self._is_chosen(entry)]
            await self._space.need(remote, bytes_to_come(sizes, there), self._tracker.bytes_done)
        for entry in wanted:
            yield entry

    def _is_wanted(self, entry: Entry, there: dict[str, Attributes]) -> bool:
        """Whether it is a folder, or a file that is not there yet."""
        if not (entry.is_dir or entry.is_file):
            self._tracker.skipped += 1  # a link or a special file
            return False
        known = there.get(entry.name)
        if known is not None and entry.is_file and known.is_file and self._is_there(entry.attributes, known):
            self._tracker.skipped += self._is_chosen(entry)
            return False
        return True

    def _is_chosen(self, entry: Entry) -> bool:
        """Whether it is a file that meets the caller's choice."""
        return entry.is_file and self._selection.wants(self._relative(entry.path), entry.size_bytes)

    async def _there(self, remote: str) -> dict[str, Attributes]:
        if self._how.skip == "never" and self._space is None:
            return {}
        try:
            entries = self._pool.list(remote, bad_names="skip")
            return {entry.name: entry.attributes async for entry in entries}
        except SFTPFileNotFound:
            return {}

    def _is_there(self, mine: Attributes, there: Attributes) -> bool:
        return is_there(self._how.skip, mine.size_bytes, mine.mtime, there.size_bytes, there.mtime)

    def _order(
        self, local: str, remote: str, attributes: Attributes, there: Attributes | None
    ) -> Order | Large | FileResult | None:
        if there is not None and there.is_file and self._is_there(attributes, there):
            self._tracker.skipped += 1
            return None
        size = attributes.size_bytes or 0
        self._tracker.find(size)
        if self._how.dry_run:
            self._tracker.would(FileResult(remote, local))
            return None
        try:
            raw = remote_bytes(remote)
        except SFTPError as error:
            return FileResult(remote, local, error=error)
        opens = partial(LocalSource, local, self._how.follow)
        make = partial(self._pool._upload, local, remote, raw, opens, mode=None, mtime=True, fsync=self._how.fsync)
        if size <= LARGE_BYTES:
            return Order(remote, local, make)
        if size >= _STRIPED_BYTES:
            return self._striped(local, remote, size, opens)

        async def run() -> Transfer:
            return await self._pool._run(make())

        return Large(remote, local, run)

    def _striped(self, local: str, remote: str, size: int, opens: partial[LocalSource]) -> Large:
        seen = 0

        def counted(count: int) -> None:
            nonlocal seen
            count = min(count, size - seen)  # another try begins with what the one before had sent
            seen += count
            self._tracker.bytes_done += count

        async def run() -> Transfer:
            how = self._how
            striped = StripedUpload(
                self._pool,
                remote,
                open_source=opens,
                fsync=how.fsync,
                resume=how.resume,
                on_bytes=counted,
                there=self._parts.get(remote.rpartition("/")[0] or "/", ()),
            )
            return await striped.run()

        return Large(remote, local, run, counts_itself=True)


def _scan(folder: str, follow: bool) -> list[Entry]:
    """What is in a local folder; a link that is followed counts as the file that it leads to. Blocks: for a thread."""
    found = []
    with os.scandir(folder) as entries:
        for entry in entries:
            try:
                like = entry.stat(follow_symlinks=False)
                if follow and stat.S_ISLNK(like.st_mode) and stat.S_ISREG((target := entry.stat()).st_mode):
                    like = target
            except OSError:
                continue  # it has just gone, or leads nowhere
            found.append(Entry(entry.name, entry.path, _attributes(like)))
    return found


def _attributes(like: os.stat_result) -> Attributes:
    return Attributes(like.st_size, like.st_mode, int(like.st_mtime))
