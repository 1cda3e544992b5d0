"""Is a stored run what was written, and what is asked for?"""

from __future__ import annotations

from typing import Any

from sqlalchemy import Row

from asyncworker.errors import CheckpointCorrupt
from asyncworker.store.bitmap import Bitmap
from asyncworker.store.records import RunRequest
from asyncworker.store.schema import checksum_of

__all__ = ["change_of", "check_map"]


def change_of(row: Row[Any], request: RunRequest) -> str:
    """Say how a request differs from what its checkpoint was made by; empty: it does not."""
    if bool(row.keyed) != request.keyed:
        known = {True: "by key", False: "by index"}
        difference = f"its items are known {known[bool(row.keyed)]}, and now {known[request.keyed]}"
    else:
        (was, _, was_values), (now, _, now_values) = row.fingerprint.partition("."), request.fingerprint.partition(".")
        if was != now:
            difference = f"the fixed arguments or the keywords were {was}, and now {now}"
        elif was_values != now_values and not (request.keyed and not row.partitions):
            # Each partition knows the keys of its own items only.
            difference = f"the source was {was_values}, and now {now_values}"
        else:
            return ""
    return (
        f"run {request.run_id} of {row.task} is not what its checkpoint was made by: {difference}; "
        "restart it, or start a run of another id"
    )


def check_map(row: Row[Any]) -> None:
    """Prove a row's bitmap and counters against each other.

    Raises:
        CheckpointCorrupt: They cannot be what was written.
    """
    if row.partitions:
        # Its counters are sums; each partition is proved by itself.
        return
    finished_map = bytes(row.finished_map)
    wrong = checksum_of(finished_map, row.done, row.skipped) != row.checksum
    if wrong or (not row.keyed and len(Bitmap(finished_map)) != row.done + row.skipped):
        raise CheckpointCorrupt(
            f"run {row.run_id}: its checkpoint cannot be what was written (counters or bitmap do not match the "
            "checksum); start a run of another id"
        )
