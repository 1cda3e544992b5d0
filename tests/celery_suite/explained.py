"""The differences from prefork that have a reason."""

from __future__ import annotations

import dataclasses

__all__ = ["EXPLAINED", "Explained"]


@dataclasses.dataclass(frozen=True)
class Explained:
    """Tests that may end otherwise than under prefork.

    Attributes:
        test: A pattern for the test's name, searched for.
        reason: In one line.
        why: A pattern for what the failing test says: ours, or prefork's where ours passes.
        outcomes: How it may end on our side. A race that prefork can lose as well may end as "passed", too.
        sides: Where.
        brokers: With which broker.
    """

    test: str
    reason: str
    why: str = ""
    outcomes: tuple[str, ...] = ("failed",)
    sides: tuple[str, ...] = ("def", "async def", "async def, 100 at once")
    brokers: tuple[str, ...] = ("redis", "rabbitmq")


_ASYNC = ("async def", "async def, 100 at once")
_MANY = ("async def, 100 at once",)

EXPLAINED = [
    Explained(
        test=r"",
        reason="the suite expects Celery to fail here; ours passes",
        why=r"XPASS\(strict\)",
    ),
    Explained(
        test=r"test_nested_group_chord_body_chain",
        reason="the suite expects Celery to time out here; ours gets the value",
        why=r"DID NOT RAISE TimeoutError",
    ),
    Explained(
        test=r"test_chord_header_id_duplicated_on_rabbitmq_msg_duplication",
        reason="the test's receiver repeats all that its process publishes, and the embedded worker is no fork of it",
        why=r"contains 1 failed subtest|has length of \d+, but expected to be of length 2",
        brokers=("rabbitmq",),
    ),
    Explained(
        test=r"test_tasks::test_expired$",
        reason="our worker prefetches nothing beyond its slots, so the message expires in RabbitMQ, which tells nobody",
        why=r"Timeout \(>",
        sides=("def", "async def"),
        brokers=("rabbitmq",),
    ),
    Explained(
        test=r"test_chord_soft_timeout_recuperation",
        reason="a soft time limit cannot be raised in a thread",
        why=r"assert 103 == 3",
        sides=("def",),
    ),
    Explained(
        test=r"test_tasks::test_simple_call",
        reason="an async task that is called directly returns its coroutine",
        why=r"assert <coroutine object add",
        sides=_ASYNC,
    ),
    Explained(
        test=r"test_Inspect::test_stats",
        reason="the test is meant for a worker that runs one task at a time",
        why=r"assert 100 == 1",
        sides=_MANY,
    ),
    Explained(
        test=r"test_tasks::test_(expired|revoked)$",
        reason="the test is meant for a worker that runs one task at a time",
        why=r"DID NOT RAISE TaskRevokedError",
        sides=_MANY,
    ),
    Explained(
        test=r"test_replaced_task_nesting_level_0",
        reason="the test sets its flag to false after it has sent the task, which the worker may have received by then",
        why=r"assert False",
    ),
    Explained(
        test=r"test_chord_error_propagation_with_different_body_types\[body is a group\]",
        reason="Celery revokes the body's tasks before it fails them, and whichever is stored first is the error",
        why=r"TaskRevokedError: revoked",
        outcomes=("failed", "passed"),
    ),
]
