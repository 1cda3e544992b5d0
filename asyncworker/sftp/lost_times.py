"""Servers that do not keep, or do not tell, times of change, so that another run would move everything again."""

from __future__ import annotations

from asyncworker.sftp.packets import Attributes
from asyncworker.sftp.pool import SFTPPool
from asyncworker.sftp.progress import Tracker
from asyncworker.sftp.transfer import Transfer
from asyncworker.sftp.transfer_options import TransferOptions

__all__ = ["warn_of_lost_times", "warn_of_times"]

_ADVICE = 'another run will move them again, unless skip is "size" (or "checksum")'


def warn_of_times(wishes: TransferOptions, tracker: Tracker) -> None:
    """Warn of files that arrived without their time of change."""
    if tracker.timeless and wishes.skip in ("same", "newer"):
        tracker.warn(f"{tracker.timeless:,} files have arrived without their time of change: {_ADVICE}")


def warn_of_lost_times(
    pool: SFTPPool, wishes: TransferOptions, tracker: Tracker, found: Attributes, last: Transfer
) -> None:
    """Warn of a server that says it has done what it has not: the size and time of one file are compared.

    Args:
        pool: The connections.
        wishes: Whether times are compared.
        tracker: Takes the warning.
        found: What the server says of the file.
        last: The file, as it was sent.
    """
    where = pool.options.address
    if found.size_bytes not in (None, last.size_bytes):
        tracker.warn(
            f"{where}: {last.remote} has {found.size_bytes:,} bytes, and {last.size_bytes:,} were sent: somebody has"
            " written it since, or the server said that it had done what it has not"
        )
    elif (
        wishes.skip in ("same", "newer")
        and last.mtime is not None
        and found.mtime not in (None, last.mtime)
        and found.size_bytes == last.size_bytes
    ):
        tracker.warn(f"{where} does not keep the times of change that it is given for files: {_ADVICE}")
