"""Wait for a store that is away, or that nobody can write to.

Away: the same call again, with growing waits, for as long as is allowed.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, TypeVar

from tenacity import RetryCallState, wait_random_exponential

from asyncworker.clock import SYSTEM_CLOCK, Clock
from asyncworker.errors import CheckpointCorrupt, StoreError, StoreVersionError

if TYPE_CHECKING:
    from asyncworker.store.sql import Store

__all__ = ["patiently", "wait_writable"]

logger = logging.getLogger(__name__)

T = TypeVar("T")

FIRST_WAIT_S = 0.2
LONGEST_WAIT_S = 5.0


async def patiently(
    call: Callable[[], Awaitable[T]], *, patience_s: float, what: str, clock: Clock = SYSTEM_CLOCK
) -> T:
    """Await a call until it does not raise a `StoreError`.

    Args:
        call: Safe to repeat.
        patience_s: For how long; the last error is raised then.
        what: For the log.
        clock: Time.

    Raises:
        StoreError: It raised for so long; or at once, where waiting changes nothing: a wrong version, a corrupt row.
    """
    give_up_at = clock.monotonic() + patience_s
    wait = wait_random_exponential(multiplier=FIRST_WAIT_S, max=LONGEST_WAIT_S)
    state = RetryCallState(None, None, (), {})  # type: ignore[arg-type]
    while True:
        try:
            return await call()
        except (StoreVersionError, CheckpointCorrupt):
            raise
        except StoreError as exc:
            left_s = give_up_at - clock.monotonic()
            if left_s <= 0:
                raise
            delay_s = min(wait(state), left_s)
            state.attempt_number += 1
            logger.warning("%s failed, next try in %.1f s: %s", what, delay_s, exc)
            await clock.sleep(delay_s)


async def wait_writable(store: Store) -> None:
    """Wait until somebody may write: a process that is frozen within a transaction keeps SQLite's only write lock.

    Raises:
        StoreError: The database cannot be used.
    """
    async with store.writing():
        pass
