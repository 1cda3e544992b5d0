"""Send the partitions of a fan-out to where the fan-out itself came from."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Any, cast

from asyncworker.tasks.names import RUN_PARTITION
from asyncworker.tasks.task import AsyncTask

__all__ = ["partition_sender"]


def partition_sender(task: AsyncTask) -> Callable[[Sequence[int]], Awaitable[None]]:
    """Return what sends partitions of the run that is this task's request."""
    run_id, route = str(task.request.id), _route_of(dict(task.request.delivery_info or {}))

    async def send(numbers: Sequence[int]) -> None:
        partition = cast(AsyncTask, task.app.tasks[RUN_PARTITION])
        for number in numbers:
            await partition.aapply_async(kwargs={"run": run_id, "number": number}, **route)

    return send


def _route_of(delivery_info: dict[str, Any]) -> dict[str, Any]:
    exchange, routing_key = delivery_info.get("exchange"), delivery_info.get("routing_key")
    route: dict[str, Any] = {}
    if delivery_info.get("priority") is not None:
        route["priority"] = delivery_info["priority"]
    if not routing_key:
        return route
    # The nameless exchange takes a message to the queue of that name.
    return route | ({"exchange": exchange, "routing_key": routing_key} if exchange else {"queue": routing_key})
