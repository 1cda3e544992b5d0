"""Names that go over the wire."""

__all__ = ["RUN_ITERATE"]

#: The task that runs a fan-out.
RUN_ITERATE = "asyncworker.iterate"
