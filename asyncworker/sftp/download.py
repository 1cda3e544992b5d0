"""A folder of the server into a local one: listed and fetched at the same time, safely, and resumed."""

from __future__ import annotations

import asyncio
import logging
import os
from collections import OrderedDict
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable
from contextlib import aclosing
from functools import partial
from pathlib import Path
from typing import Any, Unpack

from asyncworker.errors import (
    SettingsError,
    SFTPConnectError,
    SFTPConnectionLost,
    SFTPError,
    SFTPFileNotFound,
    SFTPNameError,
    SFTPTypeUnknown,
)
from asyncworker.sftp.batch import FileResult, Order
from asyncworker.sftp.bulk import (
    LARGE_AT_ONCE,
    LARGE_BYTES,
    Large,
    Orders,
    listed,
    located,
    the_pool,
    tracker_of,
    transfer_all,
)
from asyncworker.sftp.calls import PathLike
from asyncworker.sftp.claimed_paths import ClaimedPaths
from asyncworker.sftp.contents import COMPARED_AT_ONCE, compared
from asyncworker.sftp.file_end import truthful
from asyncworker.sftp.folders import Destination, Found, folded, folders_above
from asyncworker.sftp.links import check_target, make_local_link
from asyncworker.sftp.listing import Entry, age_unknown, not_regular, type_unknown
from asyncworker.sftp.localfile import LocalFile
from asyncworker.sftp.lost_times import warn_of_times
from asyncworker.sftp.mirror_plan import Inventory
from asyncworker.sftp.named_paths import NamedPaths
from asyncworker.sftp.names import remote_bytes
from asyncworker.sftp.open_files import opened
from asyncworker.sftp.packets import Attributes
from asyncworker.sftp.partfile import PartFile
from asyncworker.sftp.pool import SFTPPool
from asyncworker.sftp.progress import BulkReport, Tracker, warn_of_folder_times
from asyncworker.sftp.selection import THERE, Selection, is_there, why_moved
from asyncworker.sftp.sources import RemoteSource, remote_sources, unmet
from asyncworker.sftp.striped import Striped
from asyncworker.sftp.temporary_names import Part, goal_digest, parse
from asyncworker.sftp.transfer import Download, Transfer
from asyncworker.sftp.transfer_options import DownloadKeywords, DownloadOptions
from asyncworker.sftp.walking import BottomlessTree, Walk

__all__ = ["download", "run_download"]

logger = logging.getLogger(__name__)

#: From this size on, a file is fetched over several connections, and a part of it is kept for a later run.
_STRIPED_BYTES = 8 * 1024 * 1024
#: Local folders whose contents are remembered while remote ones are read.
_SCANS_KEPT = 64
#: Places below which a listing must not wait for downloads, which wait for its place.
_FEW_PLACES = 4


async def download(
    where: str | SFTPPool,
    remote: PathLike | Iterable[PathLike],
    local: PathLike | None = None,
    **options: Unpack[DownloadKeywords],
) -> BulkReport:
    """Download a folder, the files that meet a pattern, one file, or several of these.

    ::

        report = await sftp.download("files.example.com", "/in", "/data/in", include="*.xml")
        report.raise_for_errors()
        await sftp.download("sftp://user@files.example.com:2222/in/*.xml", "/data/in")

    Listing and fetching overlap; small files travel together, large ones over
    several connections. Each file appears whole, with its time of change and its permissions (never set-user-id), or
    not at all; a part of a large one is kept under a name of its own, and another run goes on with it if size and time
    of change are still the same. What fails is in the report, and does not end the rest. Nothing is ever written
    outside of ``local``, whatever the server says.

    Args:
        where: A host, a URL or a pool. A host is reached through the process's own pool in a worker, else through one
            that is closed at the end.
        remote: A folder, whose contents go into ``local``; a pattern such as ``/in/*.xml``, for the files and whole
            folders that meet it; or a file. It is left out where the URL has a path. Of several, each
            goes under its own name; the contents of a folder do where it is written with a slash at its end.
        local: A folder, made if it is missing; for one file its path, or a folder that is there.
        options: As for :class:`DownloadOptions`; and, for a host, as for :class:`SFTPPool`.

    Raises:
        SFTPError: The server cannot be reached, or ``remote``, if it is one, is not there.
        SettingsError: An argument that is not allowed.
        OSError: ``local`` cannot be made.
    """
    wishes, of_pool = DownloadOptions.split(options)
    path, goal = (None, remote) if local is None else (remote, local)
    if not isinstance(goal, str | os.PathLike):
        raise SettingsError(f"the local folder is {goal!r}: a path is needed")
    return await run_download(where, path, goal, wishes, of_pool, tracker_of(wishes))


async def run_download(
    where: str | SFTPPool,
    remote: PathLike | Iterable[PathLike] | None,
    local: PathLike,
    wishes: DownloadOptions,
    of_pool: dict[str, Any],
    tracker: Tracker,
    inventory: Inventory | None = None,
    surplus: Callable[[], Awaitable[None]] | None = None,
    claimed: ClaimedPaths | None = None,
) -> BulkReport:
    """Do what :func:`download` does, count on a tracker that the caller can see, and note what the source has.

    ``surplus`` is awaited once all is moved, before folders get their times of change. ``claimed`` is given where
    other servers have sources of the same transfer.
    """
    selection = wishes.selection
    where, remotes, of_pool = located(where, remote, of_pool)
    async with the_pool(where, of_pool) as pool:
        if claimed is None and len(remotes) > 1:
            claimed = ClaimedPaths()
        run = _Run(pool, selection, wishes, tracker, inventory, claimed)
        try:
            await run.prepare(remotes, os.fspath(local))
            lanes = COMPARED_AT_ONCE if wishes.skip == "checksum" else LARGE_AT_ONCE
            await transfer_all(pool, run.orders(), tracker, wishes.at_once, wishes.retries, lanes)
            warn_of_times(wishes, tracker)
            if surplus is not None:
                await surplus()
            if wishes.folder_times and not wishes.dry_run:
                await run.set_folder_times()
            if wishes.fsync and not wishes.dry_run:
                await asyncio.to_thread(run.flush_folders)
        finally:
            run.close()
    return tracker.report()


class _Run:
    """One download."""

    def __init__(
        self,
        pool: SFTPPool,
        selection: Selection,
        how: DownloadOptions,
        tracker: Tracker,
        inventory: Inventory | None,
        claimed: ClaimedPaths | None,
    ) -> None:
        self._pool = pool
        self._selection = selection
        self._how = how
        # Bound once: every file keeps them, and what it keeps is what the collector of garbage walks through.
        self._executor, self._on_released = pool._threads, pool._connections.release
        self._tracker = tracker
        self._inventory = inventory
        self._claimed = claimed  # there are several sources
        self._picky = True  # whether a file may be unwanted
        self._sources: list[RemoteSource] = []
        self._name: str | None = None  # of the one file that is meant, here
        self._destination: Destination | None = None
        self._prefix = ""  # of what is below the local folder
        self._scans: OrderedDict[str, dict[str, Found]] = OrderedDict()
        self._unread: set[str] = set()  # folders here whose names cannot be read
        self._cleaned: set[str] = set()  # folders without files that earlier runs have left
        self._parts: dict[str, dict[str, list[str]]] = {}  # names of parts, by folder and digest of what they become
        self._names: dict[str, set[str]] | None = None
        self._bad: list[FileResult] = []
        self._touched: set[str] = set()
        self._root_error: SFTPError | None = None  # of the only source

    async def prepare(self, remotes: list[str], local: str) -> None:
        """Find out what is meant, and make the destination."""
        if not self._how.dry_run:  # connecting takes a dozen round trips: not one connection after the other
            self._pool._connections.want(self._pool.options.connections)
        self._sources = await remote_sources(self._pool, remotes, self._how, self._bad, self._claimed is not None)
        self._picky = not self._selection.takes_all or any(source.pattern is not None for source in self._sources)
        into = local
        if self._claimed is None and (entry := self._sources[0].entry) is not None:
            self._name = entry.name
            if not (local.endswith("/") or await asyncio.to_thread(os.path.isdir, local)):
                into, self._name = os.path.split(local)
                into = into or "."
        self._prefix = os.path.join(into, "")  # noqa: PTH118  (with the slash at its end)
        if not self._how.dry_run:
            alone = self._sources[0].mode if self._claimed is None else None
            mode = 0o777 if alone is None else alone & 0o777 | 0o700
            await asyncio.to_thread(partial(Path(into).mkdir, mode, parents=True, exist_ok=True))
        if not self._how.dry_run or await asyncio.to_thread(os.path.isdir, into):
            self._destination = await asyncio.to_thread(Destination, into)
            folds = self._how.case_collisions == "auto" and not self._how.dry_run
            if self._how.case_collisions == "refuse" or (
                folds and await asyncio.to_thread(self._destination.folds_case)
            ):
                self._names = {}

    async def orders(self) -> Orders:
        """Yield what to do with each entry, as it is found."""
        anything = False
        for source in self._sources:
            if not self._begin(source):
                continue
            base, start = source.base, source.start
            try:
                async with aclosing(self._found(source)) as found:
                    async for entry in found:
                        path = base + entry.path[start:]
                        anything = True
                        if self._inventory is not None:
                            self._inventory.add(path, entry.attributes)
                        while self._bad:
                            yield self._bad.pop()
                        order = await self._order(path, entry, source)
                        if order is not None:
                            yield order
            except BottomlessTree as error:
                self._bad.append(FileResult(error.path or source.root, "", error=error))
        if self._root_error is not None:
            if not anything:
                raise self._root_error
            self._bad.append(FileResult(self._sources[0].root, "", error=self._root_error))
        while self._bad:
            yield self._bad.pop()
        address = self._pool.options.address
        for message in unmet(self._sources, self._selection, self._how, self._tracker):
            yield FileResult("", self._prefix, error=SFTPFileNotFound(f"{address}: {message}", host=address))

    # -- what is wanted ----------------------------------------------------------------------------------------------

    def _begin(self, source: RemoteSource) -> bool:
        """Make the folder of a source of several; whether the filters let it in."""
        base = source.base.rstrip("/")
        if source.entry is not None:
            return True
        if base and not self._selection.enters(base):
            return False
        if self._destination is not None:
            self._destination.expect(base, source.mode, source.mtime)
        if base and (failed := self._make_folder(base, self._prefix + base, source)) is not None:
            self._bad.append(failed)
        return True

    def _found(self, source: RemoteSource) -> AsyncGenerator[Entry, None]:
        """Yield the entries of a source."""
        if source.entry is not None:
            return _only(source.entry)
        # Not through another generator: every file would pay for it.
        return self._walk(source, source.root) if self._how.paths is None else self._listed(source)

    async def _listed(self, source: RemoteSource) -> AsyncGenerator[Entry, None]:
        """Yield the entries that the caller named, and those below the folders among them."""
        assert self._how.paths is not None
        named = NamedPaths(self._how.paths, self._selection)
        known: set[str] = set()
        for chunk in named.chunks():
            await self._expect_folders(source, chunk, known)
            asked = [self._stat(source.path_of(path)) for path in chunk]
            for path, found in zip(chunk, await asyncio.gather(*asked), strict=True):
                remote = source.path_of(path)
                if isinstance(found, SFTPError):
                    self._bad.append(FileResult(remote, "", error=found))
                    continue
                entry = Entry(path.rpartition("/")[2], remote, found)
                yield entry
                if found.is_dir and self._how.recursive and self._selection.enters(source.base + path):
                    async with aclosing(self._walk(source, remote)) as entries:
                        async for below in entries:
                            yield below
        self._bad.extend(FileResult("", self._prefix + path, error=error) for path, error in named.refused)
        for path in named.filtered:
            self._tracker.filter(source.path_of(path), self._prefix + path, "filters", None)

    async def _expect_folders(self, source: RemoteSource, paths: Iterable[str], known: set[str]) -> None:
        """Ask for the permissions of the folders that are on the way to paths, and were not asked for yet."""
        if self._destination is None or self._how.dry_run:
            return
        folders = {above for path in paths for above in folders_above(path)} - known
        known |= folders
        ordered = sorted(folders)
        for folder, found in zip(
            ordered, await asyncio.gather(*(self._stat(source.path_of(folder)) for folder in ordered)), strict=True
        ):
            if isinstance(found, Attributes) and found.is_dir:
                self._destination.expect(source.base + folder, found.mode, found.mtime)

    async def _stat(self, remote: str) -> Attributes | SFTPError:
        try:
            return await self._pool.stat(remote, follow_links=False)
        except (SFTPConnectError, SFTPConnectionLost):
            raise
        except SFTPError as error:
            return error

    def _walk(self, source: RemoteSource, root: str) -> AsyncGenerator[Entry, None]:
        few = self._pool._connections.capacity < _FEW_PLACES
        walk = Walk(
            lambda folder: listed(self._pool, folder, partial(self._bad_name, source)),
            max_depth=source.max_depth,
            enter=lambda entry: self._enters(source.relative(entry.path), source),
            on_error=partial(self._cannot_list, source),
            address=self._pool.options.address,
            folders_at_once=1 if few else 8,
            ahead=None if few else 20_000,
        )
        return walk.entries(root)

    def _enters(self, path: str, source: RemoteSource) -> bool:
        return self._selection.enters(path) and source.enters(path)

    def _bad_name(self, source: RemoteSource, error: SFTPNameError) -> None:
        """Take a name that is refused for an error only where what has it is wanted."""
        folder, name = error.path or "", error.name or ""
        path = source.relative(f"{folder.rstrip('/')}/{name}" if folder else name)
        if error.is_dir:
            depth = path[len(source.base) :].count("/")
            wanted = (source.max_depth is None or depth < source.max_depth) and self._enters(path, source)
        elif not source.meets(path):
            return
        else:
            wanted = self._selection.wants(path, None)
        if wanted:
            self._bad.append(FileResult(folder, "", error=error))
        elif not error.is_dir:
            self._tracker.filter(f"{folder}/{name}", self._prefix + path, "filters", None)

    def _cannot_list(self, source: RemoteSource, folder: str, error: SFTPError) -> None:
        if folder == source.root and self._claimed is None:  # what it has listed before is fetched all the same
            self._root_error = error
        elif not isinstance(error, SFTPTypeUnknown):  # which is among the entries, too
            self._bad.append(FileResult(folder, "", error=error))

    async def _order(self, path: str, entry: Entry, source: RemoteSource) -> Order | Large | FileResult | None:
        relative = self._name if self._name is not None else path
        folder, _, name = relative.rpartition("/")
        goal = self._prefix + relative
        if entry.name.endswith(".part") and entry.is_unfinished and not entry.is_dir and entry is not source.entry:
            self._tracker.leave_out(entry.path, goal, entry.size_bytes)
            return None
        attributes: Attributes | None = entry.attributes
        found: Found | None = None
        is_link = False
        try:
            if not entry.is_file:
                if entry.is_dir:
                    if self._destination is not None:
                        self._destination.expect(relative, entry.mode, entry.mtime)
                    return self._make_folder(relative, goal, source)
                if entry.file_type is None and entry is not source.entry:
                    return self._unknown(path, entry, goal, source)
                if self._is_unwanted(path, entry, None, goal, source):
                    return None
                attributes = await self._attributes(entry)
                is_link = attributes is not None and attributes.is_link
            if attributes is None:
                if entry is source.entry:
                    raise not_regular(entry.path, self._pool.options.address)
                self._tracker.skip(entry.path, goal, "a link" if entry.is_link else "no file", entry.size_bytes)
                return None
            size = attributes.size_bytes
            if self._picky and self._is_unwanted(path, entry, attributes, goal, source):
                return None
            if self._claimed is not None and not self._claimed.claim(goal, entry.path, self._pool.options.address):
                self._tracker.skip(entry.path, goal, "named twice", size)
                return None
            if self._names is not None:
                self._refuse_collision(folder, name, entry)
            if self._destination is not None:
                known = self._scans.get(folder)
                found = (await self._scan(folder) if known is None else known).get(name)
                if found is not None and self._how.skip == "newer" and attributes.mtime is None:
                    raise age_unknown(entry.path, self._pool.options.address)
                if (parts := self._parts.get(folder)) and (old := parts.get(goal_digest(os.fsencode(name)))):
                    await self._remove_parts(folder, name, old, attributes)
                if (
                    self._how.skip != "never"
                    and found is not None
                    and (found.is_link if is_link else found.is_file)
                    and is_there(self._how.skip, size, attributes.mtime, found.size_bytes, found.mtime)
                ):
                    self._tracker.skip(entry.path, goal, THERE[self._how.skip], size)
                    return None
        except (SFTPError, OSError) as error:
            return FileResult(entry.path, goal, error=error)
        if self._how.skip == "checksum" and _may_be_same(attributes, found):
            order = self._order_of(entry, goal, folder, attributes, found, "other contents")
            return compared(self._pool, order, size or 0, self._tracker)
        self._tracker.find(size or 0)
        reason = "new" if found is None else why_moved(size, attributes.mtime, found.size_bytes, found.mtime)
        if is_link:
            if not self._how.dry_run:
                self._touched.add(folder)
            return self._link(path[len(source.base) :], entry, relative, goal, reason)
        return self._order_of(entry, goal, folder, attributes, found, reason)

    def _order_of(
        self, entry: Entry, goal: str, folder: str, attributes: Attributes, found: Found | None, reason: str
    ) -> Order | Large | FileResult:
        size = attributes.size_bytes
        if self._how.dry_run:
            return FileResult(entry.path, goal, planned=True, reason=reason, known_bytes=size)
        self._touched.add(folder)
        if size is None or size > LARGE_BYTES:
            return self._large(entry.path, goal, folder, attributes)
        known = folder not in self._unread and self._names is None  # what the folder holds, under whatever case
        replaceable = known if found is None else found.is_file
        return Order(entry.path, goal, partial(self._download, entry.path, goal, folder, attributes, replaceable))

    def _is_unwanted(
        self, path: str, entry: Entry, attributes: Attributes | None, goal: str, source: RemoteSource
    ) -> bool:
        """Return whether to leave a file out, as far as that can be decided without attributes."""
        if not source.meets(path):
            return True
        size, mtime = (attributes.size_bytes, attributes.mtime) if attributes is not None else (None, None)
        reason = self._selection.reason_against(path, size, mtime)
        if reason is not None:
            self._tracker.filter(entry.path, goal, reason, size)
        return reason is not None

    async def _attributes(self, entry: Entry) -> Attributes | None:
        """Return the attributes of a file to fetch or a link to keep; ``None`` for all else."""
        attributes = entry.attributes
        if attributes.is_link and self._how.links == "keep":
            return attributes
        if attributes.is_link and self._how.links == "follow":
            attributes = await self._pool.stat(entry.path)
            if attributes.file_type is None:
                raise type_unknown(entry, self._pool.options.address)
        return attributes if attributes.file_type in ("file", None) else None

    def _unknown(self, path: str, entry: Entry, goal: str, source: RemoteSource) -> FileResult | None:
        """The error of what may be a file or a folder, unless it would be left out as either."""
        depth = path[len(source.base) :].count("/")
        enters = (source.max_depth is None or depth < source.max_depth) and self._enters(path, source)
        if not enters and self._is_unwanted(path, entry, None, goal, source):
            return None
        return FileResult(entry.path, goal, error=type_unknown(entry, self._pool.options.address))

    def _make_folder(self, relative: str, goal: str, source: RemoteSource) -> FileResult | None:
        """A folder that has nothing in it is wanted too, unless only some files are."""
        if self._destination is None or self._how.dry_run or not source.meets(relative):
            return None
        if self._selection.only_some or not self._selection.enters(relative) or source.max_depth == 0:
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
        clean = not self._how.dry_run and folder not in self._cleaned
        removed = 0
        try:
            async with opened(partial(asyncio.to_thread, self._destination.scan_and_clean, folder, clean)) as scanned:
                found, removed = scanned
        except PermissionError as error:  # one that may be written to, and not read
            if self._how.skip == "newer":  # what may be newer is not replaced
                raise
            logger.warning("%s; fetching all files of that folder, since what it holds is unknown", error)
            found = {}
            self._unread.add(folder)
        self._scans[folder] = found
        self._cleaned.add(folder)
        self._tracker.remove_leftovers(removed)
        for name in found:
            if name.endswith(".part") and isinstance(part := parse(name), Part):
                self._parts.setdefault(folder, {}).setdefault(part.goal, []).append(name)
        if len(self._scans) > _SCANS_KEPT:
            self._scans.popitem(last=False)
        return found

    async def _remove_parts(self, folder: str, name: str, parts: list[str], attributes: Attributes) -> None:
        """Remove parts of what a file on the server was before."""
        assert self._destination is not None
        if not self._how.dry_run:
            keep = (attributes.size_bytes or 0, attributes.mtime or 0)
            self._tracker.remove_leftovers(
                await asyncio.to_thread(self._destination.remove_parts, folder, name, parts, keep)
            )

    # -- how it is fetched -------------------------------------------------------------------------------------------

    def _large(self, remote: str, goal: str, folder: str, attributes: Attributes) -> Large:
        size, mtime = attributes.size_bytes, attributes.mtime
        if size is None or mtime is None or size < _STRIPED_BYTES or not self._how.in_stripes:

            async def run() -> Transfer:
                return await self._pool._run(self._download(remote, goal, folder, attributes))

            return Large(remote, goal, truthful(run))

        async def run_striped() -> Transfer:
            assert size is not None and mtime is not None and self._destination is not None
            local_folder = self._destination.folder(folder)
            striped = Striped(
                self._pool,
                remote,
                remote_bytes(remote),
                size=size,
                mtime=mtime,
                open_part=partial(
                    PartFile,
                    goal,
                    local_folder,
                    size,
                    mtime,
                    attributes.mode,
                    resume=self._how.resume,
                    origin=self._origin(remote),
                ),
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

        return Large(remote, goal, truthful(run_striped), counts_itself=True)

    def _origin(self, remote: str) -> bytes:
        """Tell a file from others of its size and time. Without the port: that of a tunnel may be another each time."""
        options = self._pool.options
        return b"%s\0%s\0%s" % (options.host.encode(), (options.username or "").encode(), remote_bytes(remote))

    def _download(
        self, remote: str, goal: str, folder: str, attributes: Attributes, replaceable: bool = False
    ) -> Download:
        return Download(
            remote,
            remote_bytes(remote),
            goal,
            size_bytes=attributes.size_bytes,
            mtime=attributes.mtime,
            mode=attributes.mode,
            open_file=partial(self._open_local, goal, folder, replaceable),
            sync=self._how.fsync,
            read_to=self._how.read_to,
            read_once=self._how.read_once,
            executor=self._executor,
            on_released=self._on_released,
        )

    def _link(self, in_tree: str, entry: Entry, relative: str, goal: str, reason: str) -> Large:
        folder, _, name = relative.rpartition("/")

        async def run() -> Transfer | FileResult:
            target = await self._pool.readlink(entry.path)
            check_target(target, in_tree, self._pool.options.address)
            if self._how.dry_run:
                return FileResult(entry.path, goal, planned=True, reason=reason, known_bytes=entry.size_bytes)
            assert self._destination is not None
            local_folder = self._destination.folder(folder)
            await asyncio.to_thread(make_local_link, local_folder, name, target, entry.mtime, goal)
            return Transfer(entry.path, goal, 0, entry.mtime)

        return Large(entry.path, goal, run)

    def _open_local(self, goal: str, folder: str, replaceable: bool, mode: int | None) -> LocalFile:
        assert self._destination is not None
        return LocalFile(goal, mode, self._destination.folder(folder), replaceable=replaceable)

    def close(self) -> None:
        """Close the local folders."""
        if self._destination is not None:
            self._destination.close()

    async def set_folder_times(self) -> None:
        """Give the folders that were made or filled the times of those that they come from."""
        assert self._destination is not None
        warn_of_folder_times(self._tracker, await asyncio.to_thread(self._destination.set_times))

    def flush_folders(self) -> None:
        """Make the names of what arrived as durable as their contents. Blocks: for a thread."""
        assert self._destination is not None
        for folder in self._touched:
            os.fsync(self._destination.folder(folder).fd)


def _may_be_same(attributes: Attributes, found: Found | None) -> bool:
    return found is not None and found.is_file and attributes.is_file and attributes.size_bytes == found.size_bytes


async def _only(entry: Entry) -> AsyncGenerator[Entry, None]:
    yield entry
