"""A local folder onto the server: read and sent at the same time, each file whole or not there."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Iterator
from contextlib import aclosing
from functools import partial
from typing import Any, Unpack

from asyncworker.errors import (
    SettingsError,
    SFTPConnectError,
    SFTPConnectionLost,
    SFTPError,
    SFTPFileNotFound,
    SFTPNoSpace,
)
from asyncworker.sftp.batch import FileResult, Order
from asyncworker.sftp.bulk import (
    LARGE_AT_ONCE,
    LARGE_BYTES,
    Large,
    Orders,
    listed,
    located,
    patiently,
    the_pool,
    tracker_of,
    transfer_all,
)
from asyncworker.sftp.calls import PathLike
from asyncworker.sftp.claimed_paths import ClaimedPaths
from asyncworker.sftp.contents import COMPARED_AT_ONCE, compared
from asyncworker.sftp.folder_times import FolderTimes
from asyncworker.sftp.inplace import InPlace
from asyncworker.sftp.last_file import look_at_last_file
from asyncworker.sftp.links import check_target, is_same_link, upload_link
from asyncworker.sftp.listing import Entry, age_unknown, not_replaceable
from asyncworker.sftp.local_tree import LocalFolder, folder_mode, look_at, look_up, scan
from asyncworker.sftp.localblocks import LocalBlocks
from asyncworker.sftp.localsource import LocalSource
from asyncworker.sftp.lost_times import warn_of_times
from asyncworker.sftp.mirror_plan import Inventory
from asyncworker.sftp.named_paths import NamedPaths
from asyncworker.sftp.names import remote_bytes
from asyncworker.sftp.open_files import opened
from asyncworker.sftp.packets import Attributes
from asyncworker.sftp.placing import Doubt
from asyncworker.sftp.pool import SFTPPool
from asyncworker.sftp.progress import BulkReport, Tracker, warn_of_folder_times
from asyncworker.sftp.remote_leftovers import RemoteLeftovers
from asyncworker.sftp.selection import THERE, Selection, is_there, why_moved
from asyncworker.sftp.sources import unmet_filters
from asyncworker.sftp.space import Space, bytes_to_come
from asyncworker.sftp.stripedput import StripedUpload
from asyncworker.sftp.temporary_names import is_ours
from asyncworker.sftp.transfer import Transfer
from asyncworker.sftp.transfer_options import UploadKeywords, UploadOptions
from asyncworker.sftp.walking import Walk

__all__ = ["run_upload", "upload"]

logger = logging.getLogger(__name__)

#: From this size on, a file is sent over several connections.
_STRIPED_BYTES = 8 * 1024 * 1024
#: Files that are written in place at once, whatever their size.
_IN_PLACE_AT_ONCE = 64


async def upload(
    where: str | SFTPPool,
    local: PathLike | Iterable[PathLike],
    remote: PathLike | None = None,
    **options: Unpack[UploadKeywords],
) -> BulkReport:
    """Upload a folder, one file, or several of these.

    Small files travel together, large ones over several connections. Each file appears on the server whole, with its
    time of change and its permissions (never set-user-id), or not at all; a part of a large one, whose connection was
    lost or whose upload was stopped, is kept there under a name of its own, and another run goes on with it if the
    local file's size and time of change are still the same. What fails is in the report, and does not end the rest.

    Args:
        where: A host, a URL or a pool, as for :func:`~asyncworker.sftp.download`.
        local: A folder, whose contents go into ``remote``, or a file. Of several, each goes under its own name; the
            contents of a folder do where it is written with a slash at its end.
        remote: A folder, made if it is missing; for one file its path, a folder that is there, or one that is written
            with a slash at its end, and made if it is missing. It is left out where
            the URL has a path: ``upload("sftp://user@host/out", "/data/out")``.
        options: As for :class:`UploadOptions`; and, for a host, as for :class:`SFTPPool`.

    Raises:
        SFTPNoSpace: The server's disk cannot hold it.
        SFTPError: The server cannot be reached, or refuses the folder.
        SettingsError: An argument that is not allowed.
        OSError: ``local``, if it is one, cannot be read, or is a device, a pipe or a socket.
    """
    wishes, of_pool = UploadOptions.split(options)
    return await run_upload(where, local, remote, wishes, of_pool, tracker_of(wishes))


async def run_upload(
    where: str | SFTPPool,
    local: PathLike | Iterable[PathLike],
    remote: PathLike | None,
    wishes: UploadOptions,
    of_pool: dict[str, Any],
    tracker: Tracker,
    inventory: Inventory | None = None,
    surplus: Callable[[], Awaitable[None]] | None = None,
) -> BulkReport:
    """Do what :func:`upload` does, count on a tracker that the caller can see, and note what the source has.

    ``surplus`` is awaited once all is moved, before folders get their times of change.
    """
    selection = wishes.selection
    locals_ = [local] if isinstance(local, str | os.PathLike) else list(local)
    if not locals_:
        raise SettingsError("a local path is needed")
    where, remotes, of_pool = located(where, remote, of_pool)
    async with the_pool(where, of_pool) as pool:
        leftovers = RemoteLeftovers(pool, tracker.remove_leftovers)
        run = _Run(pool, selection, wishes, tracker, inventory, leftovers)
        try:
            orders = await run.prepare([os.fspath(one) for one in locals_], remotes[0])
            lanes = COMPARED_AT_ONCE if wishes.skip == "checksum" else LARGE_AT_ONCE
            if wishes.inplace:
                lanes = min(wishes.at_once or _IN_PLACE_AT_ONCE, _IN_PLACE_AT_ONCE)
            await transfer_all(pool, orders, tracker, wishes.at_once, wishes.retries, lanes)
            await look_at_last_file(pool, wishes, tracker)  # before anything is deleted
            await leftovers.finish()
            if surplus is not None:
                await surplus()
            if wishes.folder_times and not wishes.dry_run:
                await run.set_folder_times()
        finally:
            await leftovers.stop()
        warn_of_times(wishes, tracker)
    return tracker.report()


class _Run:
    """One upload."""

    def __init__(
        self,
        pool: SFTPPool,
        selection: Selection,
        how: UploadOptions,
        tracker: Tracker,
        inventory: Inventory | None,
        leftovers: RemoteLeftovers,
    ) -> None:
        self._pool = pool
        self._selection = selection
        self._how = how
        self._follow = how.links == "follow"
        self._times = FolderTimes(pool)
        self._same_links: set[str] = set()  # local paths of those that the folder in hand has on the server, too
        self._tracker = tracker
        self._inventory = inventory
        self._claimed: ClaimedPaths | None = None  # there are several sources
        self._folders: list[LocalFolder] = []
        self._remote = ""
        self._bad: list[FileResult] = []
        self._space: Space | None = None
        self._compare: set[str] = set()  # paths on the server of files that may have the same contents
        self._reasons: dict[str, str] = {}  # of a dry run: why files that are there would be sent
        self._leftovers = leftovers
        self._parts: dict[str, list[str]] = {}  # names of parts of large files, by folder on the server

    async def prepare(self, locals_: list[str], remote: str) -> Orders:
        """Find out what is meant."""
        if len(locals_) > 1:
            self._claimed = ClaimedPaths()
        found = await asyncio.to_thread(look_up, locals_, self._bad)
        self._folders = [one for one in found if isinstance(one, LocalFolder)]
        files = [one for one in found if isinstance(one, Entry)]
        if self._how.paths is not None and (len(locals_) > 1 or files):
            raise SettingsError("paths are named that are to be moved: they need one folder that they are below")
        if len(locals_) == 1 and files:
            return await self._prepare_one(files[0], remote)
        self._remote = remote.rstrip("/") or "/"
        if not self._how.dry_run:
            alone = self._folders[0].path if len(locals_) == 1 else None
            await self._make_folder(self._remote, alone)
        await self._look_at_space(self._remote)
        return self._orders(files)

    async def _prepare_one(self, file: Entry, remote: str) -> Orders:
        if remote.endswith("/") and not self._how.dry_run:
            await self._make_folder(remote.rstrip("/") or "/", None)
        if remote.endswith("/") or await self._pool._is_folder(remote):
            remote = f"{remote.rstrip('/')}/{file.name}"
        there = await self._attributes(remote) if self._how.skip != "never" else None
        folder, slash, name = remote.rpartition("/")
        folder = folder or slash or "."
        sizes = [(name, file.size_bytes or 0)]
        try:
            await self._look_at_space(folder, bytes_to_come(sizes, {} if there is None else {name: there}))
        except SFTPNoSpace:  # unless a part of it is there, or an old one that nobody has asked for yet
            await self._look_at_space(folder, bytes_to_come(sizes, await self._there(folder) or {}))
        return self._one(file, remote, there)

    async def _look_at_space(self, folder: str, needed: int = 0) -> None:
        if self._how.check_space and not self._how.dry_run:
            self._space = Space(self._pool, folder)
            await self._space.look()
            await self._space.need(folder, needed, 0)

    async def _make_folder(self, remote: str, local: str | None) -> None:
        """Make a folder, and those above it, if it is missing, each with the permissions of the local one.

        Its owner may always write to it: files follow. Where the server refuses to make it and to say whether it
        exists, as drop boxes do, go on: if it is missing, each of its files fails.
        """
        missing: list[tuple[str, str | None]] = [(remote, local)]
        climbs = True
        try:
            while missing:
                path, like = missing[-1]
                mode = None if like is None else await asyncio.to_thread(folder_mode, like)
                top = like is None or path == self._remote
                try:
                    await patiently(partial(self._pool.mkdir, path, mode=mode, parents=top, exist_ok=True))
                except SFTPFileNotFound:
                    if top or not climbs:
                        raise
                    above = path.rpartition("/")[0] or "/"
                    missing.append((above, None if like is None or above == self._remote else os.path.dirname(like)))  # noqa: PTH120
                    continue
                missing.pop()
                climbs = False  # what is above has just been made
        except (SFTPConnectionLost, SFTPConnectError):
            raise
        except SFTPError:
            if await self._pool._is_folder(remote) is not None:
                raise

    async def _attributes(self, remote: str) -> Attributes | None:
        try:
            return await patiently(partial(self._pool.stat, remote))
        except (SFTPConnectionLost, SFTPConnectError):
            raise
        except SFTPError:  # not there, or the server refuses to say: then it is sent
            return None

    async def _one(self, file: Entry, remote: str, there: Attributes | None) -> Orders:
        chosen = self._is_chosen(file.name, file, remote, there)
        if not self._how.dry_run:
            folder, slash, name = remote.rpartition("/")
            self._leftovers.look_into(folder or slash or ".", {name} if chosen else ())
        if chosen:
            yield self._order(file.path, remote, file.attributes, named=True)
        for failed in self._failed():
            yield failed

    async def _orders(self, files: list[Entry]) -> Orders:
        if files:
            there = await self._there(self._remote) or {}
            chosen = [file for file in files if self._is_chosen(file.name, file, None, there.get(file.name))]
            self._clean(self._remote, there, chosen)
            await self._need(self._remote, chosen, there)
            for file in chosen:
                yield self._order(file.path, self._remote_of(file.name), file.attributes, named=True)
        for folder in self._folders:
            found = self._walk(folder, folder.path) if self._how.paths is None else self._listed(folder)
            async with aclosing(found) as entries:
                async for entry in entries:
                    while self._bad:
                        yield self._bad.pop()
                    remote = self._remote_of(folder.relative(entry.path))
                    if entry.is_dir:
                        continue
                    self._times.touch(remote.rpartition("/")[0])
                    if entry.is_link:
                        yield self._link(entry, remote, folder)
                    else:
                        yield self._order(entry.path, remote, entry.attributes)
        for failed in self._failed():
            yield failed

    async def set_folder_times(self) -> None:
        """Give the folders below the first one the times of those that they come from."""
        warn_of_folder_times(self._tracker, await self._times.set())

    def _failed(self) -> Iterator[FileResult]:
        """Yield a result for each entry that cannot be sent, and for each named one that is missing."""
        while self._bad:
            yield self._bad.pop()
        for message in unmet_filters(self._selection, self._how, self._tracker):
            yield FileResult(self._remote, "", error=FileNotFoundError(message))

    def _walk(self, source: LocalFolder, root: str) -> AsyncGenerator[Entry, None]:
        walk = Walk(
            partial(self._entries, source),
            max_depth=self._how.depth,
            enter=lambda entry: self._selection.enters(source.relative(entry.path)),
        )
        return walk.entries(root)

    async def _listed(self, source: LocalFolder) -> AsyncGenerator[Entry, None]:
        """Yield the entries that the caller named, and those below the folders among them."""
        assert self._how.paths is not None
        named = NamedPaths(self._how.paths, self._selection)
        made: set[str] = set()
        for chunk in named.chunks():
            entries = await asyncio.to_thread(look_at, source.path, chunk, self._follow)
            remotes = [self._remote_of(path) for path in chunk]
            there: list[Attributes | None] = [None] * len(chunk)
            if self._how.skip != "never":
                there = await asyncio.gather(*map(self._attributes, remotes))
            for path, entry, remote, known in zip(chunk, entries, remotes, there, strict=True):
                if isinstance(entry, OSError):
                    self._bad.append(FileResult("", f"{source.path}/{path}", error=entry))
                elif entry.is_dir:
                    if self._how.recursive and self._selection.enters(path):
                        async with aclosing(self._walk(source, entry.path)) as below:
                            async for one in below:
                                yield one
                elif self._is_chosen(path, entry, remote, known):
                    folder = remote.rpartition("/")[0]
                    if folder not in made and not self._how.dry_run:
                        await self._make_folder(folder, f"{source.path}/{path}".rpartition("/")[0])
                        made.add(folder)
                    yield entry
        self._bad.extend(FileResult("", path, error=error) for path, error in named.refused)
        for path in named.filtered:
            self._tracker.filter(self._remote_of(path), f"{source.path}/{path}", "filters", None)

    def _remote_of(self, relative: str) -> str:
        return f"{self._remote.rstrip('/')}/{relative}" if relative else self._remote

    async def _entries(self, source: LocalFolder, folder: str) -> AsyncGenerator[Entry, None]:
        """Yield the selected entries of a local folder that the server lacks, once it has the folder."""
        relative = source.relative(folder)
        remote = self._remote_of(relative)
        try:
            async with opened(partial(asyncio.to_thread, scan, folder, self._follow)) as scanned:
                found = self._finished(scanned, remote)
            there = await self._there(remote)
            base = f"{relative}/" if relative else ""
            if self._inventory is not None:
                for entry in found:
                    self._inventory.add(base + entry.name, entry.attributes)
            await self._find_same_links(found, remote, there or {})
            wanted = [
                entry
                for entry in found
                if entry.is_dir or self._is_chosen(base + entry.name, entry, None, (there or {}).get(entry.name))
            ]
            needed = not self._selection.only_some or any(not entry.is_dir for entry in wanted)
            if relative and there is None and needed and not self._how.dry_run:
                await self._make_folder(remote, folder)
        except (SFTPError, OSError) as error:
            if folder == source.path and self._claimed is None:
                raise
            self._bad.append(FileResult(remote, folder, error=error))
            return
        self._times.enter(remote)
        for entry in wanted:
            if entry.is_dir:
                known = (there or {}).get(entry.name)
                self._times.find(f"{remote.rstrip('/')}/{entry.name}", entry.mtime, known)
                if known is None:  # it is about to be made
                    self._times.touch(remote)
        if there is not None:
            self._parts[remote] = [name for name in there if is_ours(name)]
        self._clean(remote, there, wanted)
        await self._need(remote, (entry for entry in wanted if not entry.is_dir), there or {})
        for entry in wanted:
            yield entry

    async def _find_same_links(self, found: list[Entry], remote: str, there: dict[str, Attributes]) -> None:
        """Find out which links of a folder are there already, and lead to the same."""
        if self._how.links != "keep" or self._how.skip == "never":
            return
        links = [entry for entry in found if entry.is_link and entry.name in there and there[entry.name].is_link]
        same = await asyncio.gather(*(is_same_link(self._pool, one.path, f"{remote}/{one.name}") for one in links))
        self._same_links |= {one.path for one, is_same in zip(links, same, strict=True) if is_same}

    def _finished(self, found: list[Entry], remote: str) -> list[Entry]:
        """Return the local entries without files that a download has not finished."""
        whole = []
        for entry in found:
            if entry.is_unfinished and not entry.is_dir:
                self._tracker.leave_out(f"{remote}/{entry.name}", entry.path, entry.size_bytes)
            else:
                whole.append(entry)
        return whole

    def _clean(self, remote: str, there: dict[str, Attributes] | None, coming: Iterable[Entry]) -> None:
        if there and not self._how.dry_run:
            self._leftovers.look(remote, there, {entry.name for entry in coming})

    async def _need(self, remote: str, files: Iterable[Entry], there: dict[str, Attributes]) -> None:
        if self._space is not None:
            sizes = [(entry.name, entry.size_bytes or 0) for entry in files]
            await self._space.need(remote, bytes_to_come(sizes, there), self._tracker.bytes_done)

    def _is_first(self, remote: str, entry: Entry) -> bool:
        """Return whether no file of another source has gone to the same path."""
        assert self._claimed is not None
        try:
            first = self._claimed.claim(remote, entry.path, self._pool.options.address)
        except SFTPError as error:
            self._bad.append(FileResult(remote, entry.path, error=error))
            return False
        if not first:
            self._tracker.skip(remote, entry.path, "named twice", entry.size_bytes)
        return first

    def _is_chosen(self, relative: str, entry: Entry, remote: str | None, there: Attributes | None) -> bool:
        """Return whether to send a file: it is selected, and the server does not have it yet."""
        reason = self._selection.reason_against(relative, entry.size_bytes, entry.mtime)
        if reason is not None:
            self._tracker.filter(remote or self._remote_of(relative), entry.path, reason, entry.size_bytes)
            return False
        moves = entry.is_file or (entry.is_link and self._how.links == "keep")
        if self._claimed is not None and moves and not self._is_first(remote or self._remote_of(relative), entry):
            return False
        if entry.is_link and self._how.links == "keep":
            reason = "the same link" if entry.path in self._same_links else None
            self._same_links.discard(entry.path)
        elif not entry.is_file:
            reason = "a link" if entry.is_link else "no file"
        elif there is not None and (refusal := self._refusal_to_replace(there)) is not None:
            path = remote or self._remote_of(relative)
            self._bad.append(FileResult(path, entry.path, error=refusal(path, self._pool.options.address)))
            return False
        elif there is not None and there.is_file and self._is_there(entry.attributes, there):
            reason = THERE[self._how.skip]
        if reason is not None:
            self._tracker.skip(remote or self._remote_of(relative), entry.path, reason, entry.size_bytes)
        elif there is not None:
            mine, path = entry.attributes, remote or self._remote_of(relative)
            same_size = there.is_file and entry.is_file and mine.size_bytes == there.size_bytes
            if self._how.skip == "checksum" and same_size:
                self._compare.add(path)
                self._reasons[path] = "other contents"
            elif self._how.dry_run:
                self._reasons[path] = why_moved(mine.size_bytes, mine.mtime, there.size_bytes, there.mtime)
        return reason is None

    def _refusal_to_replace(self, there: Attributes) -> Callable[[str, str], SFTPError] | None:
        if there.file_type == "other":
            return not_replaceable
        return age_unknown if self._how.skip == "newer" and there.mtime is None else None

    async def _there(self, remote: str) -> dict[str, Attributes] | None:
        """Return the entries of a server's folder; ``None``: missing, cannot be listed, or not needed."""
        if self._how.skip == "never" and self._space is None:
            return None
        try:
            entries = listed(self._pool, remote, "skip", local_names=False)
            return {entry.name: entry.attributes async for entry in entries}
        except SFTPFileNotFound:
            return None
        except (SFTPConnectionLost, SFTPConnectError):
            raise
        except SFTPError as error:
            if self._how.skip == "newer":  # what may be newer is not replaced
                raise
            logger.warning("%s; sending all files of that folder, since what it holds is unknown", error)
            return None

    def _is_there(self, mine: Attributes, there: Attributes) -> bool:
        return is_there(self._how.skip, mine.size_bytes, mine.mtime, there.size_bytes, there.mtime)

    def _order(
        self, local: str, remote: str, attributes: Attributes, *, named: bool = False
    ) -> Order | Large | FileResult:
        """Return what to do with a file; a link that the caller named itself is the file that it leads to."""
        size = attributes.size_bytes or 0
        opens = partial(LocalSource, local, named or self._follow)
        if remote in self._compare:
            self._compare.discard(remote)
            return compared(self._pool, self._order_of(local, remote, size, opens), size, self._tracker)
        self._tracker.find(size)
        return self._order_of(local, remote, size, opens)

    def _order_of(self, local: str, remote: str, size: int, opens: partial[LocalSource]) -> Order | Large | FileResult:
        if self._how.dry_run:
            return FileResult(remote, local, planned=True, reason=self._reasons.pop(remote, "new"), known_bytes=size)
        try:
            raw = remote_bytes(remote)
        except SFTPError as error:
            return FileResult(remote, local, error=error)
        if self._how.inplace:
            return self._in_place(local, remote, raw, opens)
        make = partial(
            self._pool._upload, local, remote, raw, opens, mode=None, mtime=True, fsync=self._how.fsync, doubt=Doubt()
        )
        if size <= LARGE_BYTES:
            return Order(remote, local, make)
        if size >= _STRIPED_BYTES:
            return self._striped(local, remote, size, opens)

        async def run() -> Transfer:
            return await self._pool._run(make())

        return Large(remote, local, run)

    def _link(self, entry: Entry, remote: str, source: LocalFolder) -> Large:
        self._tracker.find(0)
        path = entry.path[len(source.path) :].lstrip("/")
        reason = self._reasons.pop(remote, "new")
        send = partial(upload_link, self._pool, entry.path, remote, path, entry.mtime)

        async def plan() -> FileResult:
            check_target(await asyncio.to_thread(os.readlink, entry.path), path, self._pool.options.address)
            return FileResult(remote, entry.path, planned=True, reason=reason, known_bytes=0)

        return Large(remote, entry.path, plan if self._how.dry_run else send)

    def _in_place(self, local: str, remote: str, raw: bytes, opens: partial[LocalSource]) -> Large:
        file = LocalBlocks(local, opens, self._pool._threads)
        in_place = InPlace(remote, raw)

        async def run() -> Transfer:
            return await file.put(self._pool, remote, in_place, mode=None, mtime=True, fsync=self._how.fsync)

        return Large(remote, local, run)

    def _striped(self, local: str, remote: str, size: int, opens: partial[LocalSource]) -> Large:
        seen = 0
        left: set[str] = set()

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
                there=self._parts.get(remote.rpartition("/")[0] or "/"),
                left=left,
            )
            return await striped.run()

        return Large(remote, local, run, counts_itself=True)
