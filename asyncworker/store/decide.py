"""The rules by which a message that asks for a run is answered, given what is stored of that run."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Protocol

from asyncworker.store.records import UNENDED, RunRequest, RunState

__all__ = ["Continue", "Decision", "OnChange", "Recall", "Refuse", "Start", "StoredRun", "decide"]

OnChange = Literal["error", "restart", "resume"]


class StoredRun(Protocol):
    """Stored run, as far as the rules need it."""

    task: str
    state: RunState
    complete: bool
    keyed: bool
    message: str
    fingerprint: str
    partitions: int
    done: int
    failed: int
    skipped: int


@dataclass(frozen=True)
class Start:
    """Start afresh; what is stored is deleted."""


@dataclass(frozen=True)
class Continue:
    """Go on from the checkpoint."""


@dataclass(frozen=True)
class Recall:
    """Run nothing: the run has ended, and its outcome is the answer."""


@dataclass(frozen=True)
class Refuse:
    """Touch nothing: the run is not what its checkpoint was made by."""

    reason: str


Decision = Start | Continue | Recall | Refuse


def decide(
    stored: StoredRun | None, request: RunRequest, *, redelivered: bool, resume: bool, on_change: OnChange
) -> Decision:
    """Answer a message that asks for a run which nobody holds any more.

    Args:
        stored: The run, if it is stored.
        request: What is asked for.
        redelivered: The same message came again.
        resume: Continue a complete run as well.
        on_change: What to do about a run of another source, other fixed arguments or other partitions.
    """
    if stored is None:
        return Start()
    same_message = request.is_of(stored.message) or (redelivered and not resume)
    if same_message and stored.state not in UNENDED:
        return Recall()
    if stored.complete and not resume:
        return Start()
    shape, content = _shape_change(stored, request), _content_change(stored, request)
    if not (shape or content):
        return Continue()
    if on_change == "restart":
        return Start()
    if shape or on_change == "error":
        return Refuse(
            f"run {request.run_id} of {stored.task} is not what its checkpoint was made by: {shape or content}; "
            "restart it, or start a run of another id"
        )
    return Continue()


def _shape_change(stored: StoredRun, request: RunRequest) -> str:
    """Say how the checkpoint would have to be read otherwise, which it cannot be; empty: it would not."""
    if bool(stored.keyed) != request.keyed:
        known = {True: "by key", False: "by index"}
        return f"its items are known {known[bool(stored.keyed)]}, and now {known[request.keyed]}"
    settled = stored.done + stored.failed + stored.skipped
    if stored.partitions != request.partitions and (stored.partitions or settled):
        return f"it was {_cut(stored.partitions)}, and now is to be {_cut(request.partitions)}"
    return ""


def _cut(partitions: int) -> str:
    return f"cut into {partitions} partitions" if partitions else "undivided"


def _content_change(stored: StoredRun, request: RunRequest) -> str:
    (was, _, was_values), (now, _, now_values) = stored.fingerprint.partition("."), request.fingerprint.partition(".")
    if was != now:
        return f"the fixed arguments or the keywords were {was}, and now {now}"
    # Keys survive re-ordering; but each partition knows the keys of its own items only.
    if was_values != now_values and not (request.keyed and not stored.partitions):
        return f"the source was {was_values}, and now {now_values}"
    return ""
