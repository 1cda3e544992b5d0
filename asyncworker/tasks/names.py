"""Names that go over the wire."""

from typing import Any

from celery.utils import uuid

__all__ = ["MESSAGE_HEADER", "OUR_TASKS", "RUN_ITERATE", "RUN_PARTITION", "with_message_name"]

#: The task that runs a fan-out.
RUN_ITERATE = "asyncworker.iterate"
#: The task that runs one partition of a fan-out.
RUN_PARTITION = "asyncworker.iterate_partition"

#: Header of a fan-out's message that names the message: one that is sent anew under the same id has another.
MESSAGE_HEADER = "asyncworker_message"

OUR_TASKS = frozenset({RUN_ITERATE, RUN_PARTITION})


def with_message_name(headers: dict[str, Any] | None) -> dict[str, Any]:
    """Return the headers of a fan-out's message, with a new name where it has none."""
    return {MESSAGE_HEADER: uuid(), **(headers or {})}
