"""The tasks of the matrix of acknowledgements."""

from __future__ import annotations

import itertools
import os
from typing import Any

from tests.parity.app import SIDE, declare, pause
from tests.parity.recording import body_note

__all__ = ["ENDS", "MATRIX", "acks_name"]

#: acks_late, acks_on_failure_or_timeout, reject_on_worker_lost.
MATRIX = list(itertools.product((False, True), repeat=3))

ENDS = ("ok", "raise", "timeout", "lost")


def acks_name(late: bool, on_failure: bool, on_lost: bool) -> str:
    """Return the name of the task with these settings."""
    flags = zip(("late", "fail", "lost"), (late, on_failure, on_lost), strict=True)
    return "-".join(name if flag else f"no{name}" for name, flag in flags)


async def ends(self: Any, how: str) -> str:
    await pause(0)
    again = bool(self.request.delivery_info.get("redelivered"))
    body_note("run", redelivered=again)
    if again:
        return "second time"
    if how == "raise":
        raise KeyError("on purpose")
    if how == "timeout":
        await pause(30)
    if how == "lost":
        if SIDE == "prefork":
            os._exit(3)
        # The nearest that a process of many tasks has to one that ends with its only task.
        raise SystemExit(3)
    return "first time"


for late, on_failure, on_lost in MATRIX:
    declare(
        ends,
        name=f"parity.{acks_name(late, on_failure, on_lost)}",
        bind=True,
        acks_late=late,
        acks_on_failure_or_timeout=on_failure,
        reject_on_worker_lost=on_lost,
    )
