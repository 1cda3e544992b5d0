"""Suspect items of a run whose holder died, from the run's row."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from asyncworker.store.records import RESERVED_AT_FIRST, RunRequest

__all__ = ["ACCUSED", "Suspicion", "suspicion_of"]

#: Before the name of an item during which, alone, a process has died once: somebody else may have killed that.
ACCUSED = "?"


@dataclass(frozen=True)
class Suspicion:
    """Which items the next attempt has to be careful with.

    Attributes:
        below: Items below this place that are not finished have to run alone.
        convicted: Items that are not run any more, and those that were accused once.
        reserved: Items below this place may begin.
        progressed: A process has died, and something was settled since the one before.
    """

    below: int
    convicted: tuple[str, ...]
    reserved: int
    progressed: bool


def suspicion_of(row: Any, request: RunRequest, forced: bool) -> Suspicion:
    """Read a stored run that somebody is to go on with.

    Args:
        row: The run.
        request: What is asked for.
        forced: It is taken from a holder that is alive.
    """
    died = row.died or (row.state == "running" and not forced)
    convicted = () if request.pardon else tuple(row.convicted.split("\n")) if row.convicted else ()
    caught = died and bool(row.suspect)
    if caught:
        accused = f"{ACCUSED}{row.suspect}"
        convicted += (row.suspect if accused in convicted else accused,)
    below = row.suspects_below
    if died and not below:
        below = row.reserved
    settled = row.done + row.skipped + row.failed
    return Suspicion(below, convicted, max(RESERVED_AT_FIRST, below), died and (caught or settled > row.carried))
