"""Servers that do not keep, or do not tell, times of change: another run would move everything again."""

from __future__ import annotations

from asyncworker.errors import SFTPError
from asyncworker.sftp.pool import SFTPPool
from asyncworker.sftp.progress import Tracker
from asyncworker.sftp.transfer_options import TransferOptions

__all__ = ["warn_of_lost_times", "warn_of_times"]

_ADVICE = 'another run will move them again, unless skip is "size" (or "checksum")'


def warn_of_times(wishes: TransferOptions, tracker: Tracker) -> None:
    """Warn of files that arrived without their time of change."""
    if tracker.timeless and wishes.skip in ("same", "newer"):
        tracker.warn(f"{tracker.timeless:,} files have arrived without their time of change: {_ADVICE}")


async def warn_of_lost_times(pool: SFTPPool, wishes: TransferOptions, tracker: Tracker) -> None:
    """Warn of a server that says it has set the time of a file, and has not: one file is looked at."""
    last = tracker.last
    if last is None or last.mtime is None or wishes.skip not in ("same", "newer"):
        return
    try:
        found = await pool.stat(last.remote)
    except SFTPError:  # taken by its reader, perhaps
        return
    if found.mtime is not None and found.size_bytes == last.size_bytes and found.mtime != last.mtime:
        where = pool.options.address
        tracker.warn(f"{where} does not keep the times of change that it is given for files: {_ADVICE}")
