"""Where jobs run: coroutines on the loop, the rest on threads. The other side of the outbox."""

from __future__ import annotations

import asyncio
import contextvars
import functools
import logging
import os
import sys
import threading
from collections import deque
from collections.abc import Callable
from typing import Any

from billiard.einfo import ExceptionInfo, ExceptionWithTraceback  # type: ignore[attr-defined]
from billiard.exceptions import WorkerLostError
from celery.exceptions import Reject, Retry

from asyncworker.loop import Bridge, LoopThread, current_job
from asyncworker.loop.threads import DaemonExecutor
from asyncworker.worker.deliveries import DeliveryGuard
from asyncworker.worker.failure_backlog import FailureBacklog
from asyncworker.worker.failures import let_go_of_frames, let_go_of_itself
from asyncworker.worker.gate import start_gate
from asyncworker.worker.job import Job, SoftTimeLimitReached
from asyncworker.worker.outbox import Outbox
from asyncworker.worker.sending import earned
from asyncworker.worker.stacks import own_tasks

__all__ = ["Runner", "exception_info"]

logger = logging.getLogger(__name__)

#: Settles a job on the main thread: the job, and what reports its outcome.
Finished = Callable[[Job, Callable[[], Any]], None]


#: Whether it was told what a fork by a task can do.
_told_of_forks = False


def _tell_of_fork() -> None:
    global _told_of_forks
    job = current_job.get()
    if job is not None and not _told_of_forks:
        _told_of_forks = True
        logger.warning(
            "%s forks this process, which has threads: the child can hang on a lock that one of them holds. "
            "Use multiprocessing.get_context('spawn'), or 'forkserver'",
            job,
        )


os.register_at_fork(before=_tell_of_fork)


class Runner:
    """Starts and cancels jobs; called on the main thread, works on others.

    Args:
        loop_thread: Runs coroutines.
        outbox: Takes the news to the main thread.
        finished: Called there, exactly once for each job that was started, when its code has ended.
        admitted: Called there with each job that was delivered again, and what begins it, once nobody else runs it.
        guard: Is asked before that.
        threads: How many synchronous jobs run at once; more wait for a thread.
        use_backend: Called on the thread of each of those before it runs.
    """

    def __init__(
        self,
        loop_thread: LoopThread,
        outbox: Outbox,
        finished: Finished,
        admitted: Callable[[Job, Callable[[], None]], None],
        guard: DeliveryGuard,
        *,
        threads: int,
        use_backend: Callable[[], None],
    ) -> None:
        self._loop = loop_thread.loop
        self._outbox = outbox
        self._finished = finished
        self._admitted = admitted
        self._guard = guard
        self._use_backend = use_backend
        self._threads = DaemonExecutor(threads, "asyncworker-task")
        self._inbox: deque[Job] = deque()
        self._inbox_rung = False
        self._backlog = FailureBacklog()
        self._counting: set[asyncio.Task[None]] = set()

    def start(self, job: Job, *, on_loop: bool) -> None:
        """Run a job, on the loop where its target gives way to it, else on a thread."""
        start_gate.call(functools.partial(self._let_through, job, on_loop))

    def _let_through(self, job: Job, on_loop: bool) -> None:
        job.let_through = True
        if job.lost:
            self._put(job, lambda: None)
        elif self._guard.concerns(job):
            self._admit(job, on_loop)
        elif on_loop:
            self._start_on_loop(job)
        else:
            self._start_on_thread(job)

    def _admit(self, job: Job, on_loop: bool) -> None:
        coroutine = self._start_guarded(job, on_loop)
        self._loop.call_soon_threadsafe(lambda: self._keep(self._loop.create_task(coroutine)))

    def _start_on_loop(self, job: Job) -> None:
        self._inbox.append(job)
        if not self._inbox_rung:
            # One wake-up of the loop for all that come until it has taken them.
            self._inbox_rung = True
            self._loop.call_soon_threadsafe(self._take_inbox)

    def _start_on_thread(self, job: Job) -> None:
        self._threads.submit(contextvars.copy_context().run, self._run_on_thread, job)

    def drop(self, job: Job) -> None:
        """End a job that was admitted, and is not to begin."""
        self._put(job, lambda: None)

    def cancel(self, job: Job) -> None:
        """Cancel a job that was started on the loop; on the loop, after whatever was asked of it before."""
        self._loop.call_soon_threadsafe(self._cancel, job)

    def drain(self, job: Job) -> None:
        """Tell a job that can stop early to do so; others go on."""
        self._loop.call_soon_threadsafe(self._drain, job)

    def give_back(self, job: Job) -> None:
        """Have a job that was delivered again, and still waits for its holder, go back to the queue; others go on."""

        def give_back() -> None:
            if job.task is None and job.coroutine is not None:
                self._drain(job)

        self._loop.call_soon_threadsafe(give_back)

    def stop(self) -> None:
        """Start nothing that still waits for a thread."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    # -- a job that was delivered again --------------------------------------------------------------------------

    async def _start_guarded(self, job: Job, on_loop: bool) -> None:
        job.coroutine = admission = self._guard.admit(job)
        try:
            refusal = await admission
        except Exception:
            logger.exception("%s was delivered again, and could not be admitted", job)
            self.put_lost(job)
            return
        finally:
            job.coroutine = None
        if refusal is not None:
            self._put(job, functools.partial(job.request.on_failure, exception_info(refusal)))
        else:
            start = functools.partial(self._start_on_loop if on_loop else self._start_on_thread, job)
            self._outbox.put(functools.partial(self._admitted, job, start))

    async def _end_guarded(self, job: Job, report: Callable[[], Any]) -> None:
        # Before the acknowledgement: a death in between is one of a task that others know to be done.
        try:
            await self._guard.end(job)
        except Exception:
            logger.exception("%s has ended, and its deliveries could not be settled", job)
        finally:
            self._report(job, report)

    def _keep(self, task: asyncio.Task[None]) -> None:
        # The loop itself holds tasks weakly.
        self._counting.add(task)
        task.add_done_callback(self._counting.discard)

    # -- on the loop thread --------------------------------------------------------------------------------------

    def _take_inbox(self) -> None:
        for _ in range(min(self._backlog.room, len(self._inbox))):
            job = self._inbox.popleft()
            # In the context of this callback, which the task gets a copy of.
            own_tasks()
            current_job.set(job)
            earned.set(True)
            job.backlog = self._backlog
            job.task = self._loop.create_task(_JobBridge(self, job), name=job.id)
            if job.soft_timeout_s:
                job.soft_timer = self._loop.call_later(job.soft_timeout_s, self._soft_limit, job, job.soft_timeout_s)
        left = bool(self._inbox)
        if not left:
            self._inbox_rung = False
            left = bool(self._inbox) and not self._inbox_rung  # came just before, and found it rung
        if left:
            # One call at a time: what has just started is ahead of the next, and counted by then where it has failed.
            self._inbox_rung = True
            self._backlog.when_room(self._take_inbox)

    def put_outcome(self, job: Job, outcome: Any) -> None:
        """Report what the tracer has returned; on the loop."""
        if job.errbacks:
            self._keep(self._loop.create_task(self._after_errbacks(job, outcome)))
        else:
            self._put_returned(job, outcome)

    async def _after_errbacks(self, job: Job, outcome: Any) -> None:
        await job.wait_for_errbacks()
        self._put_returned(job, outcome)

    def _soft_limit(self, job: Job, limit_s: float) -> None:
        job.soft_limit_due = job.coroutine is None
        if job.task is not None and job.coroutine is not None:
            self._outbox.put(functools.partial(job.request.on_timeout, True, limit_s))
            job.interrupt.throw(job.task, SoftTimeLimitReached())

    def _drain(self, job: Job) -> None:
        # For one that has not come to the point where it could be told, too.
        job.draining = True
        if job.on_drain is not None:
            job.on_drain()

    def _cancel(self, job: Job) -> None:
        if job.task is not None and not job.task.done():
            job.interrupt.cancel(job.task)

    # -- on a task's thread --------------------------------------------------------------------------------------

    def _run_on_thread(self, job: Job) -> None:
        own_tasks()
        current_job.set(job)
        earned.set(True)
        job.thread_ident = threading.get_ident()
        try:
            self._use_backend()
            outcome = job.target(*job.args)
            if job.errbacks:
                asyncio.run_coroutine_threadsafe(job.wait_for_errbacks(), self._loop).result()
        except BaseException:
            self.put_lost(job)
        else:
            self._put_returned(job, outcome)

    # -- on either -----------------------------------------------------------------------------------------------

    def _put_returned(self, job: Job, outcome: Any) -> None:
        outcome = _unwrapped(outcome)
        job.succeeded = not outcome[0]
        job.finished = job.finished or (not job.abandoned and not _is_given_back(outcome))
        report = job.request.on_success if job.succeeded else functools.partial(_tell_failure, job.request.on_success)
        self._put(job, functools.partial(report, outcome))

    def _put(self, job: Job, report: Callable[[], Any]) -> None:
        job.settled = True
        job.task = None  # whose context has the job: only the garbage collector would find the two
        if job.counted or job.leased:
            ending = self._end_guarded(job, report)
            self._loop.call_soon_threadsafe(lambda: self._keep(self._loop.create_task(ending)))
        else:
            self._report(job, report)

    def _report(self, job: Job, report: Callable[[], Any]) -> None:
        self._outbox.put(functools.partial(self._finished, job, report))

    def put_lost(self, job: Job) -> None:
        """Report what escaped the tracer, which catches every ``Exception``: like prefork, as a worker lost.

        Unless the outcome is stored, and a hook or a signal has raised since: then there is only to settle it.
        """
        escaped = sys.exc_info()[1]
        if not job.outcome:
            lost = exception_info(WorkerLostError(f"the task raised {escaped!r}"))
            self._put(job, functools.partial(job.request.on_failure, lost))
            return
        logger.error("%s: this was raised after its outcome was stored", job, exc_info=escaped)
        if job.outcome == "done":
            self._put_returned(job, (0, None, job.age_s))
        else:
            reason = RuntimeError(f"{escaped!r} was raised after the outcome was stored")
            failure = exception_info(Retry(exc=reason) if job.outcome == "retry" else reason)
            self._put_returned(job, (1, failure, job.age_s))


class _JobBridge(Bridge):
    """The coroutine of a job's asyncio task; nothing leaves it: its end is reported."""

    __slots__ = ("_job", "_runner")

    def __init__(self, runner: Runner, job: Job) -> None:
        super().__init__(job.interrupt, job.target, job.args)
        self._runner = runner
        self._job = job

    def go_on(self, switch: Callable[..., Any], args: tuple[Any, ...]) -> Any:
        try:
            result = switch(*args)
        except BaseException:
            # SystemExit would end the loop, and a cancellation is settled like any other end.
            self._job.disarm_on_loop()
            self._runner.put_lost(self._job)
            raise StopIteration from None
        if self.dead:
            self._job.disarm_on_loop()
            self._runner.put_outcome(self._job, result)
            raise StopIteration
        return result


def _tell_failure(tell: Callable[..., Any], outcome: Any) -> None:
    try:
        tell(outcome)
    finally:
        let_go_of_itself(outcome[1].exception)


def _is_given_back(outcome: Any) -> bool:
    """Tell whether a task's message returns to its queue; after any other end it is not run again."""
    failed, value, _runtime_s = outcome
    exception = value.exception if failed else None
    return isinstance(exception, Reject) and bool(getattr(exception, "requeue", False))


def _unwrapped(outcome: Any) -> Any:
    """Take off a failure's exception what pickling takes off on its way from a pool's process: wrapper and frames."""
    failed, value, _runtime_s = outcome
    if failed:
        if isinstance(value.exception, ExceptionWithTraceback):
            value.exception = value.exception.exc
        let_go_of_frames(value.exception)
    return outcome


def exception_info(exc: BaseException) -> ExceptionInfo:
    """Return an exception in the form in which Celery's requests take it."""
    try:
        raise exc
    except BaseException:
        return ExceptionInfo()
