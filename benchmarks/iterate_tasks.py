"""Our task, for a fan-out through a worker and for a message an item."""

from __future__ import annotations

from asyncworker import app

__all__ = ["item"]


@app.task(name="benchmarks.iterate.item")
async def item(number: int) -> int:
    """Do nothing."""
    return number
