"""Give a run the outcome that Celery reports of its task, where the run itself could not write one.

A time limit, a revocation, too many deliveries: each ends the task from outside, and the run would stay pending or
running for ever. Celery sends a signal for each outcome that it stores, whoever has reported it.
"""

from __future__ import annotations

import asyncio
import functools
import logging
from typing import TYPE_CHECKING, Any

from celery.signals import task_failure, task_revoked

from asyncworker.clock import SYSTEM_CLOCK
from asyncworker.errors import CheckpointCorrupt, RunNotFound, StoreError, StoreVersionError
from asyncworker.loop import live_jobs, running_loop_thread
from asyncworker.settings import Settings, load_settings
from asyncworker.store import RunState, shared_store, wait_writable
from asyncworker.tasks.names import MESSAGE_HEADER
from asyncworker.worker.hooks import never_blocks
from asyncworker.worker.job import Job

if TYPE_CHECKING:
    from asyncworker.store import Store

__all__ = ["report_outcomes_of"]

logger = logging.getLogger(__name__)

#: Between two tries to store an outcome while the store is away.
STORE_AWAY_S = 2.0

_ending: set[asyncio.Task[None]] = set()


def report_outcomes_of(task_type: type[Any]) -> None:
    """Watch the outcomes of tasks of a class, each of which runs the run of its id."""

    @never_blocks
    def failed(sender: Any = None, task_id: str = "", exception: BaseException | None = None, **_rest: Any) -> None:
        if isinstance(sender, task_type):
            _end_soon(sender, task_id, "failed", f"{type(exception).__name__}: {exception}")

    def revoked(sender: Any = None, request: Any = None, **_rest: Any) -> None:
        if isinstance(sender, task_type):
            _end_soon(sender, str(request.id), "cancelled", "its task was revoked")

    name = task_type.__qualname__
    task_failure.connect(failed, weak=False, dispatch_uid=f"asyncworker.outcome.failed.{name}")
    task_revoked.connect(revoked, weak=False, dispatch_uid=f"asyncworker.outcome.revoked.{name}")


def _end_soon(task: Any, run_id: str, state: RunState, error: str) -> None:
    thread = running_loop_thread()
    if thread is None:  # an eager call, whose store is the caller's
        return
    settings = load_settings(conf=task.app.conf)
    message = _message_of(run_id)

    def start() -> None:
        ending = asyncio.get_running_loop().create_task(
            _end(settings, run_id, message, state, error), name=f"end-{run_id}"
        )
        _ending.add(ending)
        ending.add_done_callback(_ending.discard)

    thread.loop.call_soon_threadsafe(start)


def _message_of(task_id: str) -> str | None:
    """Return the name of the message by which a task in flight was sent; ``None`` where it is not in flight."""
    for job in list(live_jobs.values()):
        if isinstance(job, Job) and job.id == task_id:
            return str(job.args[2].get(MESSAGE_HEADER) or "")
    return None


async def _end(settings: Settings, run_id: str, message: str | None, state: RunState, error: str) -> None:
    warned = False
    while True:
        try:
            # After a while it could be another message's that runs it, or has run it: not without a look.
            await _end_once_free(
                await shared_store(settings), run_id, message if warned else None, state, error, settings.lease_s
            )
        except RunNotFound:
            pass  # it had not begun
        except StoreError as exc:
            if not warned:
                logger.warning("run %s has ended (%s), and that cannot be stored yet: %s", run_id, error, exc)
            if message is not None and not isinstance(exc, StoreVersionError | CheckpointCorrupt):
                warned = True
                await asyncio.sleep(STORE_AWAY_S)
                continue
        return


async def _end_once_free(
    store: Store, run_id: str, message: str | None, state: RunState, error: str, lease_s: float
) -> None:
    """End a run once nobody holds it: whoever does may be winding up, or be the next attempt already."""
    from asyncworker.store import end_unheld_run, silence_of

    first = await store.progress(run_id, merge=False)
    if message is not None and await store.message_of(run_id) != message:
        return
    silence = silence_of(store, "run", run_id, lease_s)
    while True:
        seen = await store.progress(run_id, merge=False)
        if seen.ended or seen.attempt != first.attempt:
            return
        free = seen.state == "pending" or await silence.outlasts(
            lease_s, seen.updated_at, functools.partial(wait_writable, store)
        )
        if free and await end_unheld_run(store, seen, state, error, SYSTEM_CLOCK.now()):
            logger.warning("run %s has ended: %s", run_id, error)
            return
        await asyncio.sleep(min(0.2, silence.pause_s))
