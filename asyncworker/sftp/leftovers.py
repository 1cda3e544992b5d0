"""Which files that are not whole may be removed, because whoever made them has ended.

A temporary file, and a file that was moved aside, is removed

- at once, if the process that made it was one of this machine and runs no more: its name says which one it was;
- else, if it is a day old both by the clock that is in its name and by that of the file system it is on, and does not
  change while it is looked at twice. So a file that another client writes at this moment stays.

A part, which a later run goes on with, is kept for a week by the same clock, unless the file that it becomes is there.
A part here is locked by whoever writes it, and is never touched then.
"""

from __future__ import annotations

from collections.abc import Iterable

from asyncworker.sftp.temporary_names import Aside, Part, Temporary, is_of_this_process, owner_has_ended, parse

__all__ = ["LOOKS_APART_S", "Leftover", "age_s", "has_ended", "leftovers_among", "owner_of"]

DAY_S = 24 * 3600
WEEK_S = 7 * DAY_S
#: Between two looks at a file: its time of change is set a round trip before it gets its own name.
LOOKS_APART_S = 3.0

Leftover = Temporary | Part | Aside


def leftovers_among(names: Iterable[str]) -> dict[str, Leftover]:
    """Return the names that are ours, and what they say."""
    return {name: found for name in names if name.endswith(".part") and (found := parse(name)) is not None}


def owner_of(leftover: Leftover) -> Temporary | None:
    """Return the process that made it, where its name says so."""
    return leftover if isinstance(leftover, Temporary) else leftover.owner


def has_ended(leftover: Leftover) -> bool:
    """Return whether the process that made it is known to have ended. Blocks: for a thread."""
    owner = owner_of(leftover)
    return owner is not None and not is_of_this_process(owner) and owner_has_ended(owner)


def age_s(leftover: Leftover) -> int:
    """Return how old it has to be if nobody can say whether its process has ended."""
    return WEEK_S if isinstance(leftover, Part) else DAY_S
