"""Claim the part of a large upload: whoever writes one writes it alone.

Each upload creates a part under a name of its own, which nobody else ever opens for writing. What an upload leaves
behind is taken over by a later one of the same file: it renames it to a name of its own. A rename of version 3 succeeds
for one of those who try, and an upload that lives all the same finds its name gone and starts afresh.

A part is abandoned if the process that made it has ended, or is this one and its upload is over. Of a process of
another machine, or one that lives, nothing is known: its part is abandoned if it has not changed for a while.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager

from asyncworker.errors import SFTPConnectError, SFTPConnectionLost, SFTPError, SFTPFileNotFound
from asyncworker.sftp.files import Files
from asyncworker.sftp.names import remote_bytes, remote_text
from asyncworker.sftp.packets import Attributes
from asyncworker.sftp.temporary_names import Part, is_of_this_process, owner_has_ended, parse

__all__ = ["PartClaim"]

#: How long a part must not have changed if nobody can say whether it is written.
_QUIET_S = 3.0
#: Parts of one file that are looked at.
_MOST = 32
#: Names of parts that uploads of this process write now. A name is never used twice, whatever the server.
_written: set[bytes] = set()


class PartClaim:
    """The part of one upload.

    Args:
        pool: The connections.
        path: Its path, with a name that :func:`~asyncworker.sftp.temporary_names.claimed_part_name` has made.
        there: Names in its folder; ``None``: the folder is listed.
    """

    def __init__(self, pool: Files, path: bytes, there: Iterable[str] | None) -> None:
        self.path = path
        self._pool = pool
        folder, slash, self._name = path.rpartition(b"/")
        self._folder = folder + slash
        self._there = there
        mine = parse(remote_text(self._name))
        assert isinstance(mine, Part)
        self._mine = mine

    @asynccontextmanager
    async def held(self) -> AsyncIterator[None]:
        """Let no other upload of this process take it for abandoned within the block."""
        _written.add(self._name)
        try:
            yield
        finally:
            _written.discard(self._name)

    async def take_over(self) -> int | None:
        """Rename the longest abandoned part of the same file to the name of this one, and remove the others.

        Parts of what the local file was before are removed, too.

        Returns:
            Its length; ``None`` if there is none to be had.

        Raises:
            SFTPError: The connection is lost, or cannot be made.
        """
        abandoned = await self._abandoned(await self._parts())
        taken = None
        for name in sorted(abandoned, key=lambda name: abandoned[name].size_bytes or 0, reverse=True):
            path = remote_text(self._folder + name)
            if taken is None and self._is_same_file(name):
                try:
                    await self._pool.rename(path, remote_text(self.path))
                    taken = await self._length()
                except (SFTPConnectionLost, SFTPConnectError):
                    raise
                except SFTPError:  # somebody else was faster
                    continue
            else:
                await self._pool._remove_temporary(self._folder + name)
        return taken

    # -- inside --------------------------------------------------------------------------------------------------------

    async def _length(self) -> int | None:
        """Return the length of the part that was taken over; remove a link: it would lead elsewhere."""
        found = await self._pool.stat(remote_text(self.path), follow_links=False)
        if found.is_file or found.mode is None:
            return found.size_bytes
        await self._pool._remove_temporary(self.path)
        return None

    def _is_same_file(self, name: bytes) -> bool:
        part = parse(remote_text(name))
        return isinstance(part, Part) and (part.size, part.mtime) == (self._mine.size, self._mine.mtime)

    async def _parts(self) -> dict[bytes, Part]:
        """Parts of that file from that origin, of any size and time of change."""
        found = {}
        for name in await self._names():
            part = parse(name)
            if isinstance(part, Part) and (part.goal, part.origin) == (self._mine.goal, self._mine.origin):
                found[remote_bytes(name)] = part
        found.pop(self._name, None)
        return found

    async def _names(self) -> Iterable[str]:
        if self._there is not None:
            return self._there
        try:
            folder = remote_text(self._folder) or "."
            return [entry.name async for entry in self._pool.list(folder, bad_names="skip")]
        except (SFTPConnectionLost, SFTPConnectError):
            raise
        except SFTPError:  # a folder that may be written to, and not listed
            return []

    async def _abandoned(self, parts: dict[bytes, Part]) -> dict[bytes, Attributes]:
        """Those that nobody writes, and what they are like."""
        parts = dict(list(parts.items())[-_MOST:])
        known = {name: await self._has_ended(name, part) for name, part in parts.items()}
        alike = await self._look(name for name, ended in known.items() if ended is not False)
        doubtful = [name for name in alike if known[name] is None]
        if doubtful:
            await asyncio.sleep(_QUIET_S)
            now = await self._look(doubtful)
            for name in doubtful:
                if now.get(name) != alike[name]:
                    del alike[name]
        return alike

    async def _has_ended(self, name: bytes, part: Part) -> bool | None:
        """Return whether the part's writer has ended; ``None`` if that cannot be known."""
        if part.owner is None:
            return None
        if is_of_this_process(part.owner):
            return name not in _written
        return True if await asyncio.to_thread(owner_has_ended, part.owner) else None

    async def _look(self, names: Iterable[bytes]) -> dict[bytes, Attributes]:
        found = {}
        for name in names:
            with contextlib.suppress(SFTPFileNotFound):
                like = await self._pool.stat(remote_text(self._folder + name), follow_links=False)
                if not like.is_dir:
                    found[name] = like
        return found
