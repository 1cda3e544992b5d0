"""Sources on a server, from the paths that a caller gives: folders, files, patterns."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Iterator
from functools import partial
from typing import Self

from msgspec import Struct

from asyncworker.errors import SettingsError, SFTPError, SFTPFileNotFound
from asyncworker.sftp.batch import FileResult
from asyncworker.sftp.bulk import patiently
from asyncworker.sftp.filters import Rule
from asyncworker.sftp.listing import Entry
from asyncworker.sftp.names import check_name, remote_bytes
from asyncworker.sftp.packets import Attributes
from asyncworker.sftp.pool import SFTPPool
from asyncworker.sftp.progress import Tracker
from asyncworker.sftp.selection import Selection, split_glob
from asyncworker.sftp.transfer_options import TransferOptions

__all__ = ["RemoteSource", "remote_sources", "unmet", "unmet_filters"]


class RemoteSource(Struct, frozen=True):
    """A folder or a file that is to be downloaded.

    Attributes:
        remote: As the caller wrote it.
        root: The folder, without a slash at its end unless it is the first one; empty: the one of the login.
        base: Where its contents go below the destination, with a slash at its end; empty: right there.
        max_depth: How deep to go.
        pattern: What its files must meet, or a folder above them; ``None``: nothing.
        flat: Whether only folders that meet the pattern can have something in them that does.
        entry: The file, if it is one.
        mode: Permissions of the folder, where the server tells them.
        mtime: Its time of change, likewise.
        start: Where the part of a path begins that is below the folder.
    """

    remote: str
    root: str = ""
    base: str = ""
    max_depth: int | None = None
    pattern: Selection | None = None
    flat: bool = False
    entry: Entry | None = None
    mode: int | None = None
    mtime: int | None = None
    start: int = 0

    @classmethod
    def folder(
        cls,
        remote: str,
        root: str,
        base: str,
        max_depth: int | None,
        pattern: Selection | None,
        flat: bool = False,
        mode: int | None = None,
        mtime: int | None = None,
    ) -> Self:
        """Make one of a folder."""
        start = len(root) + (not root.endswith("/")) if root else 0
        return cls(remote, root, base, max_depth, pattern, flat, mode=mode, mtime=mtime, start=start)

    def relative(self, path: str) -> str:
        """Where a path of the server goes to below the destination."""
        return self.base + path[self.start :]

    def meets(self, path: str) -> bool:
        """Return whether a path, relative to the root, matches the pattern or is below one that does."""
        return self.pattern is None or self.pattern.wants(path, None)

    def enters(self, path: str) -> bool:
        """Return whether something in a folder may match the pattern."""
        return not self.flat or self.meets(path)

    def path_of(self, relative: str) -> str:
        """The path on the server of what is below this folder."""
        return f"{self.root.rstrip('/')}/{relative}" if self.root else relative


async def remote_sources(
    pool: SFTPPool, remotes: list[str], how: TransferOptions, bad: list[FileResult], several: bool
) -> list[RemoteSource]:
    """Look up what is meant; of several, those that are not there are added to ``bad``.

    Raises:
        SFTPError: The only one is not there, or there is no connection.
        SettingsError: Paths are named, and there is no one folder that they are below.
    """
    if not several:
        sources = [await _source(pool, remotes[0], how, several)]
    else:
        sources = []
        # The connections bound how many are asked for at once.
        asked = [_source(pool, remote, how, several) for remote in remotes]
        for remote, found in zip(remotes, await asyncio.gather(*asked, return_exceptions=True), strict=True):
            if isinstance(found, RemoteSource):
                sources.append(found)
            elif isinstance(found, SFTPError):
                bad.append(FileResult(remote, "", error=found))
            else:
                raise found
    if how.paths is not None and (several or sources[0].entry is not None or sources[0].pattern is not None):
        raise SettingsError("paths are named that are to be moved: they need one folder that they are below")
    return sources


async def _source(pool: SFTPPool, remote: str, how: TransferOptions, several: bool) -> RemoteSource:
    pattern, flat, path = None, False, remote
    split = split_glob(path)
    try:
        attributes = await patiently(partial(pool._told, path))
        is_pattern = split is not None and attributes == Attributes() and not await pool._is_folder(path, attributes)
    except SFTPFileNotFound:
        if split is None:
            raise
        is_pattern = True
    if is_pattern:
        assert split is not None
        path, text = split
        texts = (text, f"{text.rstrip('/')}/***")  # a folder that meets it is meant with all in it
        pattern = Selection(filters=[Rule(True, one, only=True, meets_dots=False) for one in texts])
        flat = "/" not in text[1:] and "**" not in text
        attributes = await patiently(partial(pool._told, path))
    if not await pool._is_folder(path, attributes):
        name = check_name(remote_bytes(path.rpartition("/")[2]), host=pool.options.address)
        return RemoteSource(remote, entry=Entry(name, path, attributes), start=len(path) - len(name))
    root = path.rstrip("/") or ("/" if path.startswith("/") else "")
    base = ""
    if several and pattern is None and not path.endswith("/"):
        name = root.rpartition("/")[2]
        base = f"{check_name(name, host=pool.options.address)}/" if name not in ("", ".", "..") else ""
    return RemoteSource.folder(remote, root, base, how.depth, pattern, flat, attributes.mode, attributes.mtime)


def unmet(
    sources: Iterable[RemoteSource], selection: Selection, how: TransferOptions, tracker: Tracker
) -> Iterator[str]:
    """Give out what is wrong, once all has been seen: patterns that no file has met."""
    nothing = False
    for source in sources:
        if source.pattern is not None and source.pattern.filters.nothing_met and not how.allow_empty:
            nothing = True
            yield f"no file meets {source.remote}"
    if not nothing:
        yield from unmet_filters(selection, how, tracker)


def unmet_filters(selection: Selection, how: TransferOptions, tracker: Tracker) -> Iterator[str]:
    """Give out what is wrong with the filters, once all has been seen; what may be meant so is a warning."""
    filters = selection.filters
    if filters.nothing_met:
        if not how.allow_empty:
            yield f"no file meets include {', '.join(filters.unmet)}"
        return
    for pattern in filters.unmet:
        tracker.warn(f"no file meets include {pattern}")
    if tracker.filtered and not (tracker.found or tracker.skipped or tracker.failed):
        tracker.warn(f"nothing was moved: all {tracker.filtered:,} files were left out by the filters")
