"""The checker of fan-outs: one process at a time, never too many items at once, no item again for nothing."""

from __future__ import annotations

import itertools
from collections import defaultdict
from typing import TYPE_CHECKING

from tests.chaos.history.history import Execution, History
from tests.chaos.history.settings import CONCURRENCY, ITEMS, SILENT_S

if TYPE_CHECKING:
    from tests.chaos.history.check import Report

__all__ = ["check_fan_out"]

#: How long a holder that is back may go on until a write of it is refused: a flush window, on a busy machine.
LEARNS_S = 2.0
#: Items that a holder which was taken over may begin until it learns of it, in multiples of the concurrency.
_TAIL_FACTOR = 10


def check_fan_out(history: History, run_id: str, report: Report) -> None:
    """Check one run."""
    items = history.executions.get(run_id, [])
    _check_holders(history, run_id, items, report)
    _check_repeated(history, run_id, items, report)
    outcome = history.outcomes.get(run_id)
    if outcome is None or outcome.status != "SUCCESS":
        return
    stored = history.items.get(run_id, {})
    ended = {(each.index, each.token) for each in items if each.how == "end"}
    missing = set(range(ITEMS)) - stored.keys()
    if missing:
        report.violate(history, run_id, f"{len(missing)} of its items have no result")
    if any(pair not in ended for pair in stored.items()):
        report.violate(history, run_id, "a result of an item is of no execution that returned")


def _check_holders(history: History, run_id: str, items: list[Execution], report: Report) -> None:
    """Walk through the beginnings of its items, and watch over who runs it."""
    holder: int | None = None
    lapsed: dict[int, int] = {}
    crowded: set[int] = set()
    open_of: dict[int, list[Execution]] = defaultdict(list)
    for item in items:
        for pid, running in open_of.items():
            open_of[pid] = [each for each in running if each.runs_at(item.begun_at_s)]
        if holder is None:
            holder = item.pid
        elif item.pid != holder:
            if item.pid in lapsed and open_of[holder] and not _silent(history, open_of[holder][-1], item):
                # It was taken over while it was frozen, and has not heard of it yet.
                lapsed[item.pid] += 1
                report.count("fan_out", "items of a silent holder back")
            else:
                if open_of[holder]:
                    if not _silent(history, open_of[holder][-1], item):
                        report.violate(history, run_id, f"was run by {holder} and {item.pid} at once")
                    lapsed[holder] = 0
                    report.count("fan_out", "taken over from a silent holder")
                else:
                    report.count("fan_out", "gone on with by another worker")
                lapsed.pop(item.pid, None)
                holder = item.pid
        open_of[item.pid].append(item)
        if len(open_of[item.pid]) > CONCURRENCY:
            crowded.add(item.pid)
    if crowded:
        report.violate(history, run_id, f"more than {CONCURRENCY} of its items ran at once in {crowded}")
    if any(count > _TAIL_FACTOR * CONCURRENCY for count in lapsed.values()):
        report.violate(history, run_id, f"a holder that was taken over went on: {lapsed}")


def _silent(history: History, running: Execution, item: Execution) -> bool:
    # It may have fallen silent a moment before the item that it began last.
    return history.silence_s(running.pid, running.begun_at_s - SILENT_S, item.begun_at_s) >= SILENT_S


def _check_repeated(history: History, run_id: str, items: list[Execution], report: Report) -> None:
    by_index: dict[int, list[Execution]] = defaultdict(list)
    for item in items:
        by_index[item.index].append(item)
    unexplained: list[int] = []
    by_one_back = 0
    for executions in by_index.values():
        for earlier, later in itertools.pairwise(executions):
            death_s = history.deaths.get(earlier.pid)
            if death_s is not None and death_s <= later.begun_at_s:
                report.count("fan_out", "items again: worker killed")
            elif history.silence_s(earlier.pid, earlier.begun_at_s - SILENT_S, later.begun_at_s) >= SILENT_S:
                report.count("fan_out", "items again: worker frozen")
            elif earlier.how == "cut":
                report.count("fan_out", "items again: cut by a shutdown")
            elif _silent_before(history, later, earlier):
                report.count("fan_out", "items again: a silent holder back")
                by_one_back += 1
            else:
                unexplained.append(later.index)
    if by_one_back > _TAIL_FACTOR * CONCURRENCY:
        report.violate(history, run_id, f"{by_one_back} of its items were executed again by a holder that was away")
    if unexplained:
        report.violate(history, run_id, f"items {unexplained} were executed again without a reason")


def _silent_before(history: History, later: Execution, earlier: Execution) -> bool:
    """Tell whether the later execution is that of a holder which was away while another took its run over.

    It may be back for a moment when the other begins the item.
    """
    since_s = earlier.begun_at_s - LEARNS_S
    return later.pid != earlier.pid and history.silence_s(later.pid, since_s, later.begun_at_s) >= SILENT_S
