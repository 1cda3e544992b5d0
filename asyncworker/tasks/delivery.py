"""Remember how the message of a fan-out was sent, so that another attempt and its partitions go the same way."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from asyncworker.tasks.names import MESSAGE_HEADER

__all__ = ["delivery_of", "partition_options", "resend_options"]

#: Message options that hold for another attempt as well. Not its eta or expiry, which are over, nor a chord's count.
_KEPT = ("shadow", "soft_time_limit", "time_limit", "link", "link_error", "chain")


def delivery_of(request: Any) -> dict[str, Any]:
    """Return the options of ``apply_async`` that would send a task's request again to where it came from.

    Args:
        request: The request of the task that is running.
    """
    given = request.as_execution_options()
    options = {name: given[name] for name in _KEPT if given.get(name)} | _route_of(request.delivery_info or {})
    headers = {name: value for name, value in (given.get("headers") or {}).items() if name != MESSAGE_HEADER}
    if headers:
        options["headers"] = headers
    if request.ignore_result:
        options["ignore_result"] = True
    if request.stamped_headers and request.stamps:
        options |= {"stamped_headers": request.stamped_headers, **request.stamps}
    return options


def resend_options(delivery: Mapping[str, Any] | None, *, succeeded: bool) -> dict[str, Any]:
    """Return the options for another attempt.

    Args:
        delivery: What `delivery_of` gave.
        succeeded: What is linked to the run was sent by the attempt before.
    """
    left_out = {"link", "chain"} if succeeded else set()
    return {name: value for name, value in (delivery or {}).items() if name not in left_out}


def partition_options(delivery: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options for a message of one of the run's partitions."""
    return {
        name: value
        for name, value in delivery.items()
        if name in ("queue", "exchange", "routing_key", "priority", "headers")
    }


def _route_of(delivery_info: Mapping[str, Any]) -> dict[str, Any]:
    exchange, routing_key = delivery_info.get("exchange"), delivery_info.get("routing_key")
    route: dict[str, Any] = {}
    if delivery_info.get("priority") is not None:
        route["priority"] = delivery_info["priority"]
    if not routing_key:
        return route
    # The nameless exchange takes a message to the queue of that name.
    return route | ({"exchange": exchange, "routing_key": routing_key} if exchange else {"queue": routing_key})
