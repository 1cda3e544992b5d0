"""Files in a folder of the server that an upload has left there, because its process or its connection has ended."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable, Collection, Coroutine, Mapping
from contextlib import aclosing
from typing import Any

from asyncworker.errors import SFTPError
from asyncworker.sftp import packets
from asyncworker.sftp.files import Files
from asyncworker.sftp.leftovers import LOOKS_APART_S, Leftover, age_s, has_ended, leftovers_among
from asyncworker.sftp.names import remote_bytes, remote_text
from asyncworker.sftp.packets import Attributes, OpenFlag
from asyncworker.sftp.placing import ProcedureJob, put_back
from asyncworker.sftp.pulling import run_each
from asyncworker.sftp.remotefile import RemoteFile
from asyncworker.sftp.temporary_names import Aside, Part, Temporary, goal_digest, is_ours, stem_of, temporary_name

__all__ = ["RemoteLeftovers"]

logger = logging.getLogger(__name__)

#: How long a run that is through waits for its cleaning.
_FINISH_S = 30.0
#: How long a folder may take to be listed for one file's sake.
_LISTING_S = 5.0


class _Folder:
    """One folder that is cleaned. Made on a thread: it hashes all its names.

    Args:
        path: Its path, with a slash at its end.
        there: What it holds.
        coming: Names of files that are being sent into it.
    """

    def __init__(self, path: str, there: Mapping[str, Attributes], coming: Collection[str]) -> None:
        self.path = path
        self.found = leftovers_among(there)
        self.alike = {name: there[name] for name in self.found}
        self._whole = {goal_digest(remote_bytes(name)): name for name in there if name not in self.found}
        self._coming = {goal_digest(remote_bytes(name)) for name in coming}
        self.ended = [name for name, leftover in self.found.items() if self._has_ended(leftover)]
        self.doubtful = [name for name in self.found if name not in self.ended and self._may_be_old(name)]

    def own_name(self, name: str, leftover: Aside) -> str | None:
        """The name that it had; ``None`` where that was too long for this one, and no file of that name was listed."""
        listed, stem = self._whole.get(leftover.goal), stem_of(name)
        return listed or (stem if goal_digest(remote_bytes(stem)) == leftover.goal else None)

    def is_coming(self, leftover: Aside) -> bool:
        """Return whether a file of that name is being sent."""
        return leftover.goal in self._coming

    def _has_ended(self, leftover: Leftover) -> bool:
        if isinstance(leftover, Part) and (leftover.goal not in self._whole or leftover.goal in self._coming):
            return False  # a later run goes on with it
        return has_ended(leftover)

    def _may_be_old(self, name: str) -> bool:
        """Return whether the name may be old enough to ask for the server's time."""
        leftover, mtime = self.found[name], self.alike[name].mtime
        now = time.time()
        if isinstance(leftover, Temporary) and (leftover.created is None or now - leftover.created <= age_s(leftover)):
            return False
        return mtime is not None and now - mtime > age_s(leftover)


class RemoteLeftovers:
    """Removes them beside an upload, folder by folder; see :mod:`~asyncworker.sftp.leftovers` for which.

    A file that was moved aside gets its name back if there is none of that name.

    Args:
        pool: The connections.
        on_removed: Called with how many.
    """

    def __init__(self, pool: Files, on_removed: Callable[[int], None]) -> None:
        self._pool = pool
        self._on_removed = on_removed
        self._cleaning: set[asyncio.Task[None]] = set()
        self._asides: list[tuple[str, str]] = []  # paths of those that a file which is being sent may replace

    def look(self, folder: str, there: Mapping[str, Attributes], coming: Collection[str]) -> None:
        """Begin to clean a folder, if there is anything of ours in it.

        Args:
            folder: Its path.
            there: What it holds.
            coming: Names of files that are being sent into it, and that parts may be used for.
        """
        if any(map(is_ours, there)):
            self._begin(self._clean(f"{folder.rstrip('/')}/", there, coming))

    def look_into(self, folder: str, coming: Collection[str]) -> None:
        """List a folder beside the upload of one file, and clean it, unless it is too large or may not be listed."""

        async def listed() -> None:
            there = {}
            with contextlib.suppress(SFTPError, TimeoutError):
                async with asyncio.timeout(_LISTING_S), aclosing(self._pool.list(folder, bad_names="skip")) as entries:
                    async for entry in entries:
                        there[entry.name] = entry.attributes
                self.look(folder, there, coming)

        self._begin(listed())

    async def finish(self) -> None:
        """Wait until all is cleaned, in bounded time; called when all files are sent."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_FINISH_S):
                while self._cleaning:  # a listing begins another one
                    await asyncio.wait(self._cleaning)
                for aside, goal in self._asides:
                    with contextlib.suppress(SFTPError):
                        self._on_removed(await self._restore(aside, goal))

    async def stop(self) -> None:
        """Leave the rest to a later run."""
        cleaning = list(self._cleaning)
        for task in cleaning:
            task.cancel()
        await asyncio.gather(*cleaning, return_exceptions=True)

    # -- inside --------------------------------------------------------------------------------------------------------

    def _begin(self, cleaning: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(cleaning)
        self._cleaning.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._cleaning.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            logger.warning("temporary files of earlier uploads are left: %s", error)

    async def _clean(self, path: str, there: Mapping[str, Attributes], coming: Collection[str]) -> None:
        folder = await asyncio.to_thread(_Folder, path, there, coming)
        removed = 0

        async def remove(name: str) -> None:
            nonlocal removed
            gone = await self._remove(folder, name)
            removed += gone

        await run_each(folder.ended, remove)
        if folder.doubtful:
            await run_each(await self._old(folder), remove)
        if removed:
            logger.info(
                "%s: %s: removed %d files that earlier uploads had left", self._pool.options.address, path, removed
            )
            self._on_removed(removed)

    async def _old(self, folder: _Folder) -> list[str]:
        """Those that are old by the server's clock, and have not changed after a while."""
        try:
            now = await self._server_time(folder.path)
        except SFTPError:  # nothing can be written there
            return []
        old = [
            name
            for name in folder.doubtful
            if now is not None and now - (folder.alike[name].mtime or 0) > age_s(folder.found[name])
        ]
        if old:
            await asyncio.sleep(LOOKS_APART_S)
        still = []
        for name in old:
            with contextlib.suppress(SFTPError):
                seen, before = await self._pool.stat(folder.path + name, follow_links=False), folder.alike[name]
                if (seen.size_bytes, seen.mtime, seen.is_dir) == (before.size_bytes, before.mtime, False):
                    still.append(name)
        return still

    async def _server_time(self, folder: str) -> int | None:
        """Return the time of change of a file that is made now."""
        path = remote_bytes(folder) + temporary_name(b"clock")
        how = packets.open_tail(OpenFlag.WRITE | OpenFlag.CREATE | OpenFlag.EXCLUSIVE, 0o600)
        with self._pool._unfinished.holding(remote_text(path)):
            try:
                file = await self._pool._run(RemoteFile(remote_text(path), path, how, self._pool._connections.release))
                try:
                    return (await file.stat()).mtime
                finally:
                    file.begin_to_close()
            finally:
                await self._pool._remove_temporary(path)

    async def _remove(self, folder: _Folder, name: str) -> bool:
        path, leftover = folder.path + name, folder.found[name]
        try:
            if not isinstance(leftover, Aside):
                await self._pool.remove(path, missing_ok=True)
                return True
            goal = folder.own_name(name, leftover)
            if goal is None:
                where = self._pool.options.address
                logger.warning("%s: an upload that has ended had moved a file aside: %s", where, path)
            elif folder.is_coming(leftover):
                self._asides.append((path, folder.path + goal))
            else:
                return await self._restore(path, folder.path + goal)
        except SFTPError as error:
            logger.info("left on the server: %s", error)
        return False

    async def _restore(self, aside: str, goal: str) -> bool:
        """Give a file that was moved aside its name back, unless another one has it now.

        Whether it was listed does not say that: it may have been moved aside while its folder was listed.
        """
        raw, path = remote_bytes(aside), remote_bytes(goal)
        job = ProcedureJob(lambda protocol: put_back(protocol, raw, path), self._pool._connections.release)
        outcome = await self._pool._run(job)
        if outcome.status.code != packets.OK:
            raise outcome.error("put back", self._pool.options.address, goal)
        return True
