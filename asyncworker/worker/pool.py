"""The async pool: ``async def`` tasks on the event loop, others in threads, everything of kombu on the main thread."""

from __future__ import annotations

import contextvars
import functools
import logging
import sys
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Any

from billiard.einfo import ExceptionInfo
from billiard.exceptions import Terminated, WorkerLostError
from celery.concurrency.base import BasePool
from celery.utils.timer2 import Timer

from asyncworker.loop import LoopThread, Watchdog, current_job, get_loop_thread, live_jobs, run_in_bridge
from asyncworker.loop.thread import set_io_threads
from asyncworker.loop.threads import DaemonExecutor
from asyncworker.resources import lifetimes
from asyncworker.settings import load_settings
from asyncworker.worker.job import Job, SoftTimeLimitReached
from asyncworker.worker.outbox import Outbox
from asyncworker.worker.tracing import adopt, check_locals, is_async, own_stacks

__all__ = ["AsyncPool"]

logger = logging.getLogger(__name__)


class AsyncPool(BasePool):
    """Celery's pool interface over one event loop and a bounded set of threads.

    Methods run on the main thread unless they say otherwise. ``limit`` is the number of tasks in flight, sync and
    async together.
    """

    body_can_be_buffer = True
    signal_safe = False
    task_join_will_block = True

    def on_start(self) -> None:
        """Start the loop thread and fit all tasks into the bridge."""
        check_locals()
        self._settings = load_settings(conf=self.app.conf)
        set_io_threads(self._settings.io_threads)
        self._outbox = Outbox()
        self._jobs: dict[int, Job] = {}
        self._waiting: deque[Job] = deque()
        self._zombies: set[int] = set()
        self._hub: Any = None
        self._closing = False
        self._ended = False
        self._inbox: deque[Job] = deque()
        self._inbox_rung = False
        self._timer = Timer()
        self._threads = DaemonExecutor(self._settings.sync_threads, "asyncworker-task")
        self._async_names: set[str] = set()
        for task in self.app.tasks.values():
            adopt(task)
            if is_async(task):
                self._async_names.add(task.name)
        self._loop_thread: LoopThread = get_loop_thread(threads=self._settings.sync_threads)
        self._loop_thread.on_stop(_close_resources)
        self._watchdog = Watchdog(self._loop_thread, blocked_after_s=self._settings.blocked_after_s)
        self._watchdog.start()
        self._drainer: threading.Thread | None = None

    def register_with_event_loop(self, hub: Any) -> None:
        """Have the hub poll the outbox; called again after every reconnect."""
        self._hub = hub
        hub.add_reader(self._outbox.fileno(), self._outbox.drain)

    # -- what Celery asks of a pool ------------------------------------------------------------------------------

    def on_apply(  # type: ignore[override]
        self,
        target: Callable[..., Any],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
        callback: Callable[..., Any] | None = None,
        accept_callback: Callable[..., Any] | None = None,
        timeout_callback: Callable[..., Any] | None = None,
        error_callback: Callable[..., Any] | None = None,
        soft_timeout: float | None = None,
        timeout: float | None = None,
        **_options: Any,
    ) -> Job:
        """Take a task: start it where a slot is free, else let it wait its turn."""
        job = Job(
            target,
            tuple(args),
            on_accepted=accept_callback or _ignore,
            on_success=callback or _ignore,
            on_error=error_callback or _ignore,
            on_timeout=timeout_callback or _ignore,
            soft_timeout_s=soft_timeout or self.options.get("soft_timeout"),
            timeout_s=timeout or self.options.get("timeout"),
        )
        if self._hub is None and self._drainer is None:
            self._start_drainer()
        if len(self._jobs) >= self.limit:
            self._waiting.append(job)
        else:
            self._begin(job)
        return job

    def terminate_job(self, pid: int, signal: int | None = None) -> None:
        """Cancel the job of that pseudo process id, and no other; unknown ids are ignored.

        A synchronous task on its thread cannot be stopped: it is abandoned, and keeps its slot until it returns.
        """
        job = live_jobs.get(pid)
        if isinstance(job, Job):
            job.terminated = job.abandoned = True
            self._cancel(job)

    def grow(self, n: int = 1) -> None:
        """Allow ``n`` more tasks in flight."""
        self.limit += n
        self._fill()

    def shrink(self, n: int = 1) -> None:
        """Allow ``n`` fewer tasks in flight; what runs goes on."""
        self.limit = max(1, self.limit - n)

    def on_close(self) -> None:
        """Start nothing more; what waits stays unacknowledged and returns to the queue."""
        self._closing = True

    def on_stop(self) -> None:
        """Warm shutdown: finish what runs, settle it, then stop the loop."""
        self._closing = True
        if self._waiting:
            logger.info("%d tasks that had not started return to the queue", len(self._waiting))
            self._waiting.clear()
        while len(self._jobs) > len(self._zombies):
            self._wait_for_events()
        self._shut_down(timeout_s=self._settings.cancel_grace_s)

    def on_terminate(self) -> None:
        """Cold shutdown: settle what has ended, cancel what runs, give it the grace to clean up, stop the loop."""
        if self._ended:  # Celery's handler of SIGQUIT has stopped the pool before this
            return
        self._closing = True
        self._waiting.clear()
        self._settle()
        for job in list(self._jobs.values()):
            self._cancel(job)
        give_up_at_s = time.monotonic() + self._settings.cancel_grace_s
        while self._jobs and time.monotonic() < give_up_at_s:
            self._wait_for_events()
        self._shut_down(timeout_s=1)

    def _get_info(self) -> dict[str, Any]:
        return {
            **super()._get_info(),  # type: ignore[misc]
            "processes": [],
            "in-flight": len(self._jobs),
            "waiting": len(self._waiting),
            "zombies": len(self._zombies),
            "sync-threads": self._settings.sync_threads,
            "loop": type(self._loop_thread.loop).__module__,
            "loop-stalls": self._watchdog.stalls,
        }

    # -- starting and settling -----------------------------------------------------------------------------------

    def _begin(self, job: Job) -> None:
        self._jobs[job.pid] = live_jobs[job.pid] = job
        job.on_accepted(job.pid, time.monotonic())
        if job.terminated:
            return  # revoked in the moment of its acceptance: _cancel has reported it
        if job.timeout_s:
            job.timers.append(
                self._timer.call_after(job.timeout_s, lambda: self._outbox.put(lambda: self._time_out(job)))
            )
        if job.name in self._async_names:
            self._inbox.append(job)
            if not self._inbox_rung:
                self._inbox_rung = True
                self._loop_thread.loop.call_soon_threadsafe(self._take_inbox)
        else:
            context = contextvars.copy_context()
            self._threads.submit(context.run, self._run_in_thread, job)

    def _finished(self, job: Job, report: Callable[[], Any]) -> None:
        """Settle a job whose code has ended; its slot is free again."""
        job.disarm()
        live_jobs.pop(job.pid, None)
        if self._jobs.pop(job.pid, None) is None:
            return
        self._zombies.discard(job.pid)
        try:
            if job.terminated:
                job.on_error(_exception_info(Terminated(0)))
            elif not job.abandoned:
                report()
        finally:
            self._fill()

    def _fill(self) -> None:
        while self._waiting and len(self._jobs) < self.limit and not self._closing:
            self._begin(self._waiting.popleft())

    def _time_out(self, job: Job) -> None:
        """The hard limit: report at once, then cancel."""
        if job.pid not in self._jobs or job.abandoned:
            return
        job.abandoned = True
        job.on_timeout(False, job.timeout_s or 0)
        self._cancel(job)

    def _cancel(self, job: Job) -> None:
        loop = self._loop_thread.loop
        if job.name not in self._async_names:
            logger.warning("%s runs on a thread and cannot be stopped; its outcome is ignored", job)
        elif job.pid not in self._jobs or job.task is not None or job in self._inbox:
            loop.call_soon_threadsafe(self._cancel_on_loop, job)
        else:
            self._outbox.put(lambda: self._finished(job, _ignore))
        if job.pid in self._jobs:
            self._timer.call_after(
                self._settings.cancel_grace_s, lambda: self._outbox.put(lambda: self._check_cancelled(job))
            )

    def _check_cancelled(self, job: Job) -> None:
        if job.pid in self._jobs and job.pid not in self._zombies:
            self._zombies.add(job.pid)
            logger.error(
                "%s did not end within %.1f s of its cancellation; it keeps its slot. It stands at:\n  %s",
                job,
                self._settings.cancel_grace_s,
                "\n  ".join(job.stack()) or "(unknown)",
            )

    # -- on the loop thread --------------------------------------------------------------------------------------

    def _take_inbox(self) -> None:
        self._inbox_rung = False
        while self._inbox:
            job = self._inbox.popleft()
            job.task = self._loop_thread.loop.create_task(self._run_on_loop(job), name=str(job))
            if job.soft_timeout_s:
                job.timers.append(
                    self._loop_thread.loop.call_later(job.soft_timeout_s, self._soft_limit, job, job.soft_timeout_s)
                )

    async def _run_on_loop(self, job: Job) -> None:
        own_stacks()
        current_job.set(job)
        try:
            outcome = await run_in_bridge(job.interrupt, job.target, *job.args)
        except BaseException:
            # Nothing may leave: SystemExit would end the loop, and a cancellation is settled like any other end.
            self._put_error(job)
        else:
            self._outbox.put(functools.partial(self._finished, job, functools.partial(job.on_success, outcome)))

    def _soft_limit(self, job: Job, limit_s: float) -> None:
        if job.task is not None and job.coroutine is not None:
            self._outbox.put(functools.partial(job.on_timeout, True, limit_s))
            job.interrupt.throw(job.task, SoftTimeLimitReached(limit_s))

    def _cancel_on_loop(self, job: Job) -> None:
        if job.task is not None and not job.task.done():
            job.interrupt.cancel(job.task)

    # -- on a task's thread --------------------------------------------------------------------------------------

    def _run_in_thread(self, job: Job) -> None:
        own_stacks()
        current_job.set(job)
        job.thread_ident = threading.get_ident()
        try:
            outcome = job.target(*job.args)
        except BaseException:
            self._put_error(job)
        else:
            self._outbox.put(functools.partial(self._finished, job, functools.partial(job.on_success, outcome)))

    def _put_error(self, job: Job) -> None:
        """Report what escaped the tracer, which catches every ``Exception``: as a worker lost, like prefork."""
        exc = sys.exc_info()[1]
        lost = WorkerLostError(f"the task raised {exc!r}")
        self._outbox.put(functools.partial(self._finished, job, functools.partial(job.on_error, _exception_info(lost))))

    # -- the end -------------------------------------------------------------------------------------------------

    def _wait_for_events(self) -> None:
        """Let the hub go on, up to a second, though the consumer has stopped: outbox, acknowledgements, heartbeats."""
        if self._hub is not None:
            try:
                self._hub.run_once()
                return
            except Exception as exc:  # a lost connection: what ends now is redelivered, and says so in the store
                logger.warning("the broker connection failed during shutdown: %r", exc)
                self._hub = None
        self._outbox.drain()
        time.sleep(0.05)

    def _settle(self) -> None:
        """Run all that waits: outbox events, and the acknowledgements that they leave for the hub."""
        for _ in range(2):
            self._outbox.put(_ignore)  # so that the poll returns at once
            self._wait_for_events()

    def _shut_down(self, timeout_s: float) -> None:
        self._settle()
        self._watchdog.stop()
        self._timer.stop()
        self._threads.shutdown(wait=False, cancel_futures=True)
        if not self._loop_thread.stop(timeout_s=timeout_s):
            logger.error("the event loop did not stop within %.1f s and is left behind", timeout_s)
        if self._hub is not None:
            self._hub.remove_reader(self._outbox.fileno())
        if self._drainer is None:
            self._outbox.close()
        self._ended = True

    def _start_drainer(self) -> None:
        """Where the transport has no event loop of kombu's, a thread of ours drains the outbox."""

        def main() -> None:
            import select

            while not self._closing:
                if select.select([self._outbox.fileno()], [], [], 0.5)[0]:
                    self._outbox.drain()

        self._drainer = threading.Thread(target=main, name="asyncworker-outbox", daemon=True)
        self._drainer.start()


async def _close_resources() -> None:
    await lifetimes().close()


def _exception_info(exc: BaseException) -> ExceptionInfo:
    try:
        raise exc
    except BaseException:
        return ExceptionInfo()


def _ignore(*_args: Any, **_kwargs: Any) -> None:
    """The callback of whoever gave none."""
