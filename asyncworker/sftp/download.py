"""A folder of the server into a local one: listed and fetched at the same time, safely, and resumed."""

from __future__ import annotations

import asyncio
import os
from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

from asyncworker.errors import SFTPError, SFTPFileNotFound, SFTPNameError
from asyncworker.sftp.batch import FileResult, Order
from asyncworker.sftp.bulk import LARGE_BYTES, Large, Orders, listed, located, one_of, the_pool, transfer_all
from asyncworker.sftp.calls import PathLike
from asyncworker.sftp.folders import Destination, Found, folded
from asyncworker.sftp.listing import Entry
from asyncworker.sftp.localfile import LocalFile
from asyncworker.sftp.names import check_name, remote_bytes
from asyncworker.sftp.packets import Attributes
from asyncworker.sftp.partfile import PartFile
from asyncworker.sftp.pool import SFTPPool
from asyncworker.sftp.progress import BulkReport, OnFile, OnProgress, Tracker
from asyncworker.sftp.selection import SKIPS, Selection, Skip, is_there, split_glob
from asyncworker.sftp.striped import Striped
from asyncworker.sftp.transfer import Download, Transfer
from asyncworker.sftp.walking import Walk

__all__ = ["download"]

#: From this size on, a file is fetched over several connections, and a part of it is kept for a later run.
_STRIPED_BYTES = 8 * 1024 * 1024
#: Local folders whose contents are remembered while remote ones are read.
_SCANS_KEPT = 64
#: Places below which a listing must not wait for downloads, which wait for its place.
_FEW_PLACES = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class _How:
    """The caller's wishes that concern each file."""

    skip: Skip
    links: Literal["skip", "follow"]
    case: Literal["auto", "refuse", "allow"]
    resume: bool
    fsync: bool
    dry_run: bool


async def download(
    where: str | SFTPPool,
    remote: PathLike,
    local: PathLike | None = None,
    *,
    include: Iterable[str] | str = (),
    exclude: Iterable[str] | str = (),
    recursive: bool = True,
    max_depth: int | None = None,
    min_size_bytes: int = 0,
    max_size_bytes: int | None = None,
    skip: Skip = "same",
    links: Literal["skip", "follow"] = "skip",
    case_collisions: Literal["auto", "refuse", "allow"] = "auto",
    resume: bool = True,
    fsync: bool = False,
    at_once: int | None = None,
    dry_run: bool = False,
    on_progress: OnProgress | None = None,
    on_file: OnFile | None = None,
    **options: Any,
) -> BulkReport:
    """Download a folder, the files that meet a pattern, or one file.

    ::

        report = await sftp.download("files.example.com", "/in", "/data/in", include="*.xml")
        report.raise_for_errors()
        await sftp.download("sftp://user@files.example.com:2222/in/*.xml", "/data/in")

    All connections are opened at once, and listing and fetching overlap; small files travel together, large ones over
    several connections. Each file appears whole, with its time of change and its permissions (never set-user-id), or
    not at all; a part of a large one is kept under a name of its own, and another run goes on with it if size and time
    of change are still the same. What fails is in the report, and does not end the rest. Nothing is ever written
    outside of ``local``, whatever the server says.

    Args:
        where: A host, a URL or a pool. A host is reached through the process's own pool in a worker, else through one
            that is closed at the end.
        remote: A folder, whose contents go into ``local``; a pattern such as ``/in/*.xml``; or a file. It is left out
            where the URL has a path.
        local: A folder, made if it is missing; for one file its path, or a folder that is there.
        include: Patterns, one of which a file must meet; without a slash they are met at any depth.
        exclude: Patterns that a file must not meet, nor a folder on the way to it.
        recursive: Whether to go into folders.
        max_depth: How deep: 0 stays in the first folder.
        min_size_bytes: Leave smaller files out.
        max_size_bytes: Leave larger files out.
        skip: Leave out a file that is there already: ``same`` size and time of change, same ``size``, as new or
            ``newer``, or ``never``.
        links: ``follow`` fetches the file that a link leads to; links to folders are never gone into.
        case_collisions: ``refuse`` a name that differs from an earlier one only in case; ``auto`` does where the local
            file system takes them for one.
        resume: Whether to keep and use parts of large files.
        fsync: Flush each file to the disk before it appears, and the folders at the end.
        at_once: Small files at once; ``None``: as many as the connections take.
        dry_run: Fetch nothing; ``on_file`` gets what would be fetched.
        on_progress: Called five times a second, and at the end; awaited if it is async.
        on_file: Called with the result of each file.
        options: Of the pool that is made for a host, as for :class:`SFTPPool`.

    Raises:
        SFTPError: The server cannot be reached, or ``remote`` is not there.
        SettingsError: An argument that is not allowed.
        OSError: ``local`` cannot be made.
    """
    one_of("skip", skip, SKIPS)
    one_of("links", links, ("skip", "follow"))
    one_of("case_collisions", case_collisions, ("auto", "refuse", "allow"))
    selection = Selection(include, exclude, min_size_bytes, max_size_bytes)
    how = _How(skip=skip, links=links, case=case_collisions, resume=resume, fsync=fsync, dry_run=dry_run)
    tracker = Tracker(on_progress, on_file)
    path, goal = (None, remote) if local is None else (remote, local)
    where, path, options = located(where, path, options)
    async with the_pool(where, options) as pool:
        run = _Run(pool, selection, how, tracker, 0 if not recursive else max_depth)
        try:
            await run.prepare(path, os.fspath(goal))
            await transfer_all(pool, run.orders(), tracker, at_once)
            if fsync and not dry_run:
                await asyncio.to_thread(run.flush_folders)
        finally:
            run.close()
    return tracker.report()


class _Run:
    """One download."""

    def __init__(
        self, pool: SFTPPool, selection: Selection, how: _How, tracker: Tracker, max_depth: int | None
    ) -> None:
        self._pool = pool
        self._selection = selection
        self._pattern: Selection | None = None
        self._how = how
        self._tracker = tracker
        self._max_depth = max_depth
        self._root = ""
        self._single: Entry | None = None
        self._destination: Destination | None = None
        self._prefix = ""  # of what is below the local folder
        self._scans: OrderedDict[str, dict[str, Found]] = OrderedDict()
        self._names: dict[str, set[str]] | None = None
        self._bad: list[FileResult] = []
        self._touched: set[str] = set()

    async def prepare(self, remote: str, local: str) -> None:
        """Find out what is meant, and make the destination."""
        if not self._how.dry_run:  # connecting takes a dozen round trips: not one after the other
            self._pool._connections.want(self._pool.options.connections)
        try:
            attributes = await self._pool.stat(remote)
        except SFTPFileNotFound:
            split = split_glob(remote)
            if split is None:
                raise
            remote, pattern = split
            self._pattern = Selection(pattern)
            if "/" not in pattern[1:] and "**" not in pattern:
                self._max_depth = 0
            attributes = await self._pool.stat(remote)
        if attributes.is_dir:
            self._root = remote.rstrip("/") or ("/" if remote.startswith("/") else "")
            into = local
        else:
            name = check_name(remote_bytes(remote.rpartition("/")[2]), host=self._pool.options.address)
            if await asyncio.to_thread(os.path.isdir, local) or local.endswith("/"):
                into = local
            else:
                into, name = os.path.split(local)
                into = into or "."
            self._single = Entry(name, remote, attributes)
        self._prefix = os.path.join(into, "")  # noqa: PTH118  (with the slash at its end)
        if not self._how.dry_run:
            await asyncio.to_thread(partial(Path(into).mkdir, parents=True, exist_ok=True))
        if not self._how.dry_run or await asyncio.to_thread(os.path.isdir, into):
            self._destination = await asyncio.to_thread(Destination, into)
            folds = self._how.case == "auto" and not self._how.dry_run
            if self._how.case == "refuse" or (folds and await asyncio.to_thread(self._destination.folds_case)):
                self._names = {}

    async def orders(self) -> Orders:
        """What is to be done, as it is found."""
        if self._single is not None:
            order = await self._order("", self._single)
            if order is not None:
                yield order
            return
        few = self._pool._connections.capacity < _FEW_PLACES
        walk = Walk(
            lambda folder: listed(self._pool, folder, self._bad_name),
            max_depth=self._max_depth,
            enter=self._enters,
            on_error=self._cannot_list,
            folders_at_once=1 if few else 8,
            ahead=None if few else 20_000,
        )
        start = len(self._root) + (not self._root.endswith("/")) if self._root else 0
        entries = walk.entries(self._root)
        try:
            async for entry in entries:
                while self._bad:
                    yield self._bad.pop()
                order = await self._order(entry.path[start:], entry)
                if order is not None:
                    yield order
            while self._bad:
                yield self._bad.pop()
        finally:
            await entries.aclose()

    # -- what is wanted ----------------------------------------------------------------------------------------------

    def _enters(self, entry: Entry) -> bool:
        return self._selection.enters(self._relative(entry))

    def _relative(self, entry: Entry) -> str:
        start = len(self._root) + (not self._root.endswith("/")) if self._root else 0
        return entry.path[start:]

    def _bad_name(self, error: SFTPNameError) -> None:
        self._bad.append(FileResult(error.path or "", "", error=error))

    def _cannot_list(self, folder: str, error: SFTPError) -> None:
        if folder == self._root:
            raise error
        self._bad.append(FileResult(folder, "", error=error))

    async def _order(self, relative: str, entry: Entry) -> Order | Large | FileResult | None:
        single = relative == ""
        relative = relative or entry.name
        folder, _, name = relative.rpartition("/")
        goal = self._prefix + relative
        attributes: Attributes | None = entry.attributes
        try:
            if not entry.is_file:
                attributes = await self._attributes(entry)
            if attributes is None:
                self._tracker.skipped += not entry.is_dir
                return self._make_folder(relative, goal) if entry.is_dir else None
            size = attributes.size_bytes
            if not single and not (
                self._selection.wants(relative, size) and (self._pattern is None or self._pattern.wants(relative, size))
            ):
                return None
            if self._names is not None:
                self._refuse_collision(folder, name, entry)
            if self._how.skip != "never" and self._destination is not None:
                known = self._scans.get(folder)
                found = (await self._scan(folder) if known is None else known).get(name)
                if (
                    found is not None
                    and found.is_file
                    and is_there(self._how.skip, size, attributes.mtime, found.size_bytes, found.mtime)
                ):
                    self._tracker.skipped += 1
                    return None
        except (SFTPError, OSError) as error:
            return FileResult(entry.path, goal, error=error)
        self._tracker.find(size or 0)
        if self._how.dry_run:
            self._tracker.would(FileResult(entry.path, goal))
            return None
        self._touched.add(folder)
        if size is None or size > LARGE_BYTES:
            return self._large(entry.path, goal, folder, attributes)
        return Order(entry.path, goal, partial(self._download, entry.path, goal, folder, attributes))

    async def _attributes(self, entry: Entry) -> Attributes | None:
        """Of a file that may be fetched; ``None`` for all else."""
        attributes = entry.attributes
        if attributes.mode is None:
            attributes = await self._pool.stat(entry.path, follow_links=False)
        if attributes.is_link and self._how.links == "follow":
            attributes = await self._pool.stat(entry.path)
        if attributes.is_file or attributes.mode is None:
            return attributes
        return None

    def _make_folder(self, relative: str, goal: str) -> FileResult | None:
        """A folder that has nothing in it is wanted too, unless only some files are."""
        if self._destination is None or self._how.dry_run or self._pattern is not None:
            return None
        if self._selection.only_some or not self._selection.enters(relative) or self._max_depth == 0:
            return None
        try:
            self._destination.folder(relative)
        except OSError as error:
            return FileResult("", goal, error=error)
        return None

    def _refuse_collision(self, folder: str, name: str, entry: Entry) -> None:
        assert self._names is not None
        names = self._names.setdefault(folded(folder), set())
        key = folded(name)
        if key in names:
            raise SFTPNameError(
                f"{self._pool.options.address}: refused {entry.path}: a name before differs only in case",
                host=self._pool.options.address,
                path=entry.path,
            )
        names.add(key)

    async def _scan(self, folder: str) -> dict[str, Found]:
        assert self._destination is not None
        found = self._scans[folder] = await asyncio.to_thread(self._destination.scan, folder)
        if len(self._scans) > _SCANS_KEPT:
            self._scans.popitem(last=False)
        return found

    # -- how it is fetched -------------------------------------------------------------------------------------------

    def _large(self, remote: str, goal: str, folder: str, attributes: Attributes) -> Large:
        size, mtime = attributes.size_bytes, attributes.mtime
        if size is None or mtime is None or size < _STRIPED_BYTES:

            async def run() -> Transfer:
                return await self._pool._run(self._download(remote, goal, folder, attributes))

            return Large(remote, goal, run)

        async def run_striped() -> Transfer:
            assert size is not None and mtime is not None and self._destination is not None
            opened = self._destination.folder(folder)
            striped = Striped(
                self._pool,
                remote,
                remote_bytes(remote),
                size=size,
                mtime=mtime,
                open_part=partial(PartFile, goal, opened, size, mtime, attributes.mode, resume=self._how.resume),
                sync=self._how.fsync,
                on_bytes=counted,
                executor=self._pool._threads(),
            )
            return await striped.run()

        seen = 0

        def counted(count: int) -> None:
            nonlocal seen
            assert size is not None
            count = min(count, size - seen)  # another try begins with what the one before had written
            seen += count
            self._tracker.bytes_done += count

        return Large(remote, goal, run_striped, counts_itself=True)

    def _download(self, remote: str, goal: str, folder: str, attributes: Attributes) -> Download:
        return Download(
            remote,
            remote_bytes(remote),
            goal,
            size_bytes=attributes.size_bytes,
            mtime=attributes.mtime,
            mode=attributes.mode,
            open_file=partial(self._open_local, goal, folder),
            sync=self._how.fsync,
            executor=self._pool._threads,
            on_released=self._pool._connections.release,
        )

    def _open_local(self, goal: str, folder: str, mode: int | None) -> LocalFile:
        assert self._destination is not None
        return LocalFile(goal, mode, self._destination.folder(folder))

    def close(self) -> None:
        """Close the local folders."""
        if self._destination is not None:
            self._destination.close()

    def flush_folders(self) -> None:
        """Make the names of what arrived as durable as their contents. Blocks: for a thread."""
        assert self._destination is not None
        for folder in self._touched:
            os.fsync(self._destination.folder(folder).fd)
