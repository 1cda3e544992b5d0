"""Names that go over the wire."""

__all__ = ["OUR_TASKS", "RUN_ITERATE", "RUN_PARTITION"]

#: The task that runs a fan-out.
RUN_ITERATE = "asyncworker.iterate"
#: The task that runs one partition of a fan-out.
RUN_PARTITION = "asyncworker.iterate_partition"

OUR_TASKS = frozenset({RUN_ITERATE, RUN_PARTITION})
