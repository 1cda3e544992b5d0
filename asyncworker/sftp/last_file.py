"""Servers that answer "ok" to what they have not done: one file of an upload is looked at, once all were sent."""

from __future__ import annotations

import posixpath
from contextlib import aclosing, suppress

from asyncworker.errors import SFTPError, SFTPFileNotFound
from asyncworker.sftp.batch import FileResult
from asyncworker.sftp.lost_times import warn_of_lost_times
from asyncworker.sftp.names import remote_bytes
from asyncworker.sftp.packets import Attributes
from asyncworker.sftp.pool import SFTPPool
from asyncworker.sftp.progress import Stopped, Tracker
from asyncworker.sftp.temporary_names import Part, Temporary, goal_digest, is_of_this_process, parse, stem_of
from asyncworker.sftp.transfer import Transfer
from asyncworker.sftp.transfer_options import UploadOptions

__all__ = ["look_at_last_file"]


async def look_at_last_file(pool: SFTPPool, wishes: UploadOptions, tracker: Tracker) -> None:
    """Compare what the server says of the last file with what was sent.

    A file that is still under its temporary name, though its rename was answered by "ok", is an error in the report; a
    time of change that was not kept is a warning.
    """
    last = tracker.last
    if last is None:
        return
    found: Attributes | None = None
    try:
        found = await pool.stat(last.remote)
    except SFTPFileNotFound:  # taken by its reader, perhaps
        pass
    except SFTPError:  # it does not say
        return
    if found is not None and _is_as_sent(found, last):
        return
    kept = None if wishes.inplace else await _not_renamed(pool, last)
    if kept is not None:
        where = pool.options.address
        error = SFTPError(
            f"{where}: {last.remote} is still {kept}: the server answered 'ok' to a rename that it has not done, so no"
            " file of this upload may be in its place",
            host=where,
            path=last.remote,
        )
        with suppress(Stopped):  # the transfer is over
            tracker.retract(FileResult(last.remote, last.local, error=error))
    elif found is not None:
        warn_of_lost_times(pool, wishes, tracker, found, last)


def _is_as_sent(found: Attributes, last: Transfer) -> bool:
    return found.size_bytes in (None, last.size_bytes) and (last.mtime is None or found.mtime in (None, last.mtime))


async def _not_renamed(pool: SFTPPool, last: Transfer) -> str | None:
    """Return the temporary name under which a file of that size and time is there."""
    folder, name = posixpath.split(last.remote)
    try:
        async with aclosing(pool.list(folder or ".", bad_names="skip", local_names=False)) as entries:
            async for entry in entries:
                if _is_for(entry.name, name) and entry.size_bytes == last.size_bytes and entry.mtime == last.mtime:
                    return entry.path
    except SFTPError:
        pass
    return None


def _is_for(found: str, name: str) -> bool:
    """Return whether a name is a temporary one that this process has made for a file."""
    fields = parse(found)
    if isinstance(fields, Temporary):
        return is_of_this_process(fields) and name.startswith(stem_of(found))
    return isinstance(fields, Part) and fields.goal == goal_digest(remote_bytes(name))
