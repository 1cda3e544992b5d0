"""Names that go over the wire."""

__all__ = ["MESSAGE_HEADER", "OUR_TASKS", "RUN_ITERATE", "RUN_PARTITION"]

#: The task that runs a fan-out.
RUN_ITERATE = "asyncworker.iterate"
#: The task that runs one partition of a fan-out.
RUN_PARTITION = "asyncworker.iterate_partition"

#: Header of a fan-out's message that names the message: one that is sent anew under the same id has another.
MESSAGE_HEADER = "asyncworker_message"

OUR_TASKS = frozenset({RUN_ITERATE, RUN_PARTITION})
