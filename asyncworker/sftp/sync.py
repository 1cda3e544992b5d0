"""One folder made like another one, in either direction."""

from __future__ import annotations

import asyncio
import contextlib
import os
import stat
from collections.abc import Awaitable, Callable, Iterable, Mapping
from contextlib import aclosing
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Self, Unpack

from asyncworker.errors import SettingsError, SFTPDeleteRefused, SFTPError
from asyncworker.sftp.bulk import located, the_pool, tracker_of
from asyncworker.sftp.calls import PathLike
from asyncworker.sftp.download import run_download
from asyncworker.sftp.mirror_plan import Inventory, MirrorPlan, Step
from asyncworker.sftp.mirror_targets import LocalTarget, RemoteTarget, Target
from asyncworker.sftp.pool import SFTPPool
from asyncworker.sftp.progress import BulkReport, Stopped, Tracker
from asyncworker.sftp.transfer_options import DownloadOptions, SyncKeywords, UploadOptions
from asyncworker.sftp.upload import run_upload
from asyncworker.sftp.urls import is_url

__all__ = ["Place", "SyncOptions", "run_sync", "sync"]

#: A local path; a URL; or a host or a pool, and a path there.
Place = PathLike | tuple[str | SFTPPool, PathLike]


@dataclass(frozen=True, slots=True, kw_only=True)
class SyncOptions:
    """Options for entries that only the destination has.

    Attributes:
        delete: Delete it, once everything was listed and moved without an error.
        delete_excluded: Delete what the filters leave out, too; else that is protected.
        max_delete: Delete nothing at all if it were more than that; ``None``: no limit.
        force: Delete even if the source has no files; and replace a folder by a file of its name, or the other way
            round, which is an error otherwise.
    """

    delete: bool = False
    delete_excluded: bool = False
    max_delete: int | None = None
    force: bool = False

    def __post_init__(self) -> None:
        if self.max_delete is not None and (not isinstance(self.max_delete, int) or self.max_delete < 0):
            raise SettingsError(f"max_delete is {self.max_delete!r}: a whole number of 0 or more is needed")
        if not self.delete and self.delete_excluded:
            raise SettingsError("delete_excluded needs delete")
        if not self.delete and not self.force and self.max_delete is not None:
            raise SettingsError("max_delete needs delete")

    @classmethod
    def split(cls, given: Mapping[str, Any]) -> tuple[Self, dict[str, Any]]:
        """Return these options, and the others.

        Raises:
            SettingsError: A value that is not allowed.
        """
        mine = cls.__dataclass_fields__
        options = cls(**{name: value for name, value in given.items() if name in mine})
        return options, {name: value for name, value in given.items() if name not in mine}


async def sync(source: Place, destination: Place, **options: Unpack[SyncKeywords]) -> BulkReport:
    """Make a folder like another one; one of the two is on a server.

    ::

        await sftp.sync("sftp://user@files.example.com/in", "/data/in", delete=True)
        await sftp.sync("/data/out", (pool, "/out"), delete=True, exclude="*.tmp", max_delete=100)

    What differs is moved as by :func:`download` and :func:`upload`. Then, with ``delete``, what only the destination
    has is deleted: never outside of it, never through a link, nothing that a filter leaves out, and nothing at all if
    anything could not be listed or moved, or if the source has no files.

    Args:
        source: A local folder, a URL, or a pair of a pool (or host) and a path there.
        destination: The same; made if it is missing.
        options: As for :class:`SyncOptions`, :class:`DownloadOptions` or :class:`UploadOptions`, and, for a host,
            :class:`SFTPPool`.

    Returns:
        The report; ``files_deleted`` counts files and folders. Deletions that are refused are an error in it.

    Raises:
        SFTPError: The server cannot be reached, or the source is not there.
        SettingsError: An argument that is not allowed.
        OSError: A local folder cannot be read or made.
    """
    mirror, rest = SyncOptions.split(options)
    wishes, of_pool = (DownloadOptions if is_remote(source) else UploadOptions).split(rest)
    return await run_sync(source, destination, mirror, wishes, of_pool, tracker_of(wishes))


async def run_sync(
    source: Place,
    destination: Place,
    mirror: SyncOptions,
    wishes: DownloadOptions | UploadOptions,
    of_pool: dict[str, Any],
    tracker: Tracker,
) -> BulkReport:
    """Do what :func:`sync` does, and count on a tracker that the caller can see."""
    if is_remote(source) == is_remote(destination):
        raise SettingsError("sync needs one folder here and one on a server: a path, and sftp://user@host:port/path")
    if (mirror.delete or mirror.force) and (wishes.paths is not None or wishes.depth is not None):
        raise SettingsError(
            "to delete, sync has to see all of the source: not with paths, max_depth or recursive=False"
        )
    place, other = (source, destination) if is_remote(source) else (destination, source)
    where, path = place if isinstance(place, tuple) else (place, None)
    where, remotes, of_pool = located(where, path, of_pool)  # type: ignore[arg-type]
    assert not isinstance(other, tuple)
    async with the_pool(where, of_pool) as pool:
        await _Sync(pool, remotes[0], os.fspath(other), mirror, wishes, tracker).run()
    return tracker.report()


def is_remote(place: Place) -> bool:
    """Return whether a place is on a server."""
    return isinstance(place, tuple) or is_url(place)


class _Sync:
    """One mirroring."""

    def __init__(
        self,
        pool: SFTPPool,
        remote: str,
        local: str,
        mirror: SyncOptions,
        wishes: DownloadOptions | UploadOptions,
        tracker: Tracker,
    ) -> None:
        self._pool = pool
        self._remote = remote
        self._local = local
        self._mirror = mirror
        self._wishes = wishes
        self._tracker = tracker
        self._down = isinstance(wishes, DownloadOptions)
        self._target: Target = LocalTarget(local) if self._down else RemoteTarget(pool, remote)
        self._deleted = 0

    async def run(self) -> None:
        """Move what differs, and delete what is too much."""
        await self._check_source()
        with contextlib.suppress(Stopped):  # more has failed than may: the tracker knows
            if self._mirror.force:
                await self._make_room()
            inventory = Inventory()
            surplus = partial(self._delete_surplus, inventory) if self._mirror.delete else None
            await self._move(self._wishes, self._tracker, inventory, surplus)

    async def _check_source(self) -> None:
        if self._down:
            is_dir, path = (await self._pool.stat(self._remote)).is_dir, self._remote
        else:
            found = await asyncio.to_thread(Path(self._local).stat)
            is_dir, path = stat.S_ISDIR(found.st_mode), self._local
        if not is_dir:
            raise SettingsError(f"sync is for folders, and {path!a} is none: download or upload it")

    async def _move(
        self,
        wishes: DownloadOptions | UploadOptions,
        tracker: Tracker,
        inventory: Inventory,
        surplus: Callable[[], Awaitable[None]] | None = None,
    ) -> None:
        if isinstance(wishes, DownloadOptions):
            await run_download(self._pool, self._remote, self._local, wishes, {}, tracker, inventory, surplus)
        else:
            await run_upload(self._pool, self._local, self._remote, wishes, {}, tracker, inventory, surplus)

    async def _make_room(self) -> None:
        """Delete what is a folder where the source has a file, and the other way round."""
        inventory, trial = Inventory(), Tracker()
        quiet = replace(
            self._wishes, dry_run=True, skip="never", allow_empty=True, on_progress=None, on_file=None, on_skipped=None
        )
        await self._move(quiet, trial, inventory)
        plan = await self._plan(inventory, replace_kinds=True) if not trial.failed else None
        if plan is not None and (steps := list(plan.conflicts())) and self._allowed(steps):
            await self._delete(steps)

    async def _delete_surplus(self, inventory: Inventory) -> None:
        tracker = self._tracker
        if tracker.failed or tracker.stopped:
            tracker.warn("nothing was deleted: not everything could be listed and moved")
            return
        plan = await self._plan(inventory, replace_kinds=False)
        if plan is None or not (steps := list(plan.steps())):
            return
        if not inventory.files and not self._mirror.force:
            self._refuse(f"the source has no files, so {len(steps):,} deletions were refused; force allows them")
        elif self._allowed(steps):
            await self._delete(steps)
        await tracker.tell()

    async def _plan(self, inventory: Inventory, *, replace_kinds: bool) -> MirrorPlan | None:
        """See what the destination has; ``None``: not all of it could be seen, which is an error in the report."""
        plan = MirrorPlan(
            inventory,
            self._wishes.selection.filters,
            delete_excluded=self._mirror.delete_excluded,
            replace=replace_kinds,
        )
        try:
            async with aclosing(self._target.contents(plan.enters)) as contents:
                async for path, is_dir in contents:
                    plan.see(path, is_dir)
        except (SFTPError, OSError) as error:
            self._tracker.warn("nothing was deleted: the destination could not be listed whole")
            self._tracker.finish(self._target.result("", error))
            return None
        return plan

    def _allowed(self, steps: list[Step]) -> bool:
        most = self._mirror.max_delete
        if most is not None and self._deleted + len(steps) > most:
            self._refuse(f"{self._deleted + len(steps):,} deletions were refused: max_delete is {most:,}")
            return False
        return True

    def _refuse(self, message: str) -> None:
        where = self._pool.options.address
        self._tracker.finish(self._target.result("", SFTPDeleteRefused(f"{where}: {message}", host=where)))

    async def _delete(self, steps: Iterable[Step]) -> None:
        finish: Callable[..., None] = self._tracker.finish
        steps = list(steps)
        self._deleted += len(steps)
        if self._wishes.dry_run:
            for path, _ in steps:
                finish(self._target.result(path, planned=True))
        else:
            await self._target.delete(steps, finish)
