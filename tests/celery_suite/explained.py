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
        why: A pattern for what the failing test says.
        outcomes: How it may end.
        sides: Where.
        brokers: With which broker.
    """

    test: str
    reason: str
    why: str = ""
    outcomes: tuple[str, ...] = ("failed",)
    sides: tuple[str, ...] = ("def", "async def", "async def, 100 at once")
    brokers: tuple[str, ...] = ("redis", "rabbitmq")


EXPLAINED = [
    Explained(
        test=r"test_Inspect::test_stats",
        reason="the test expects a worker with a concurrency of one",
        why=r"assert 100 == 1",
        sides=("async def, 100 at once",),
    ),
    Explained(
        test=r"test_chord_soft_timeout_recuperation",
        reason="a soft time limit cannot be raised in a thread",
        why=r"assert 103 == 3",
        sides=("def",),
    ),
    Explained(
        test=r"test_group_results_in_chain|test_nested_chain_group_lone",
        reason="prefork's client times out, as the suite expects of Celery; ours gets the value",
        why=r"XPASS\(strict\)",
    ),
    Explained(
        test=r"test_nested_group_chord_body_chain",
        reason="prefork's client times out, as the suite expects of Celery; ours gets the value",
        why=r"DID NOT RAISE TimeoutError",
    ),
]
