"""Prove that a stored run is what was written."""

from __future__ import annotations

from typing import Any

from sqlalchemy import Row

from asyncworker.errors import CheckpointCorrupt
from asyncworker.store.bitmap import Bitmap
from asyncworker.store.schema import checksum_of

__all__ = ["check_map"]


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
