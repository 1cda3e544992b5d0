"""The garbage collector of a worker: what was imported is left alone, and the rest is looked through less often."""

from __future__ import annotations

import gc

__all__ = ["settle_garbage_collection"]


def settle_garbage_collection(threshold: int) -> None:
    """Once a worker has started: none of its modules, tasks and tables is garbage before it ends.

    Args:
        threshold: New objects between two collections of the young; 0 leaves the collector as it is.
    """
    if not threshold or not gc.isenabled():
        return
    gc.collect()
    gc.freeze()
    gc.set_threshold(threshold, *gc.get_threshold()[1:])
