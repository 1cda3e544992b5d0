"""A Redis that answers and cannot write now: full, a replica since a moment ago, unable to save, busy with a script.

It says so in an error like that of a wrong command. It passes, and it is waited for as for a server that is away.
"""

from __future__ import annotations

import re

from redis.exceptions import (
    ClusterDownError,
    ConnectionError,
    MasterDownError,
    OutOfMemoryError,
    ReadOnlyError,
    ResponseError,
    TryAgainError,
)

__all__ = ["PAUSE_S", "RefusedForNow", "refuses_for_now"]

#: So long nothing is asked again of a server that has refused to give messages.
PAUSE_S = 1.0

_KINDS = (ClusterDownError, MasterDownError, OutOfMemoryError, ReadOnlyError, TryAgainError)
#: Error codes, which redis-py takes off where it has a class for one; before Redis 7 that of a script's command follows
#: where it is in the script.
_CODE = re.compile(
    r"(?:^|: -)(?:BUSY|CLUSTERDOWN|LOADING|MASTERDOWN|MISCONF|NOREPLICAS|OOM|READONLY|TRYAGAIN|UNBLOCKED)\b"
)


class RefusedForNow(ConnectionError):
    """For kombu and Celery, which know no other errors that pass than those of a connection."""


def refuses_for_now(exc: BaseException) -> bool:
    """Tell whether Redis has refused a command for what passes, and not for the command itself."""
    if not isinstance(exc, ResponseError):
        return isinstance(exc, RefusedForNow)
    # A pipeline's errors quote the command, with what a user has put into it.
    said = str(exc).rpartition("caused error: ")[2]
    return isinstance(exc, _KINDS) or _CODE.search(said) is not None
