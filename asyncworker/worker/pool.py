"""The async pool: Celery's pool interface, and the account of what is in flight. All of it is the main thread's."""

from __future__ import annotations

import functools
import logging
import os
import sys
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Any

from billiard.exceptions import Terminated, TimeLimitExceeded, WorkerLostError
from celery import signals
from celery.app.trace import trace_task_ret
from celery.concurrency.base import BasePool
from celery.platforms import EX_FAILURE
from celery.utils.timer2 import Timer
from celery.worker import state
from celery.worker.request import Request

from asyncworker.limits import use_limits_url
from asyncworker.loop import Watchdog, check, get_loop_thread, live_jobs, set_debug
from asyncworker.loop.thread import set_io_threads
from asyncworker.resources import lifetimes
from asyncworker.settings import load_settings
from asyncworker.store import DeadLetter
from asyncworker.worker import account
from asyncworker.worker.backend import OffLoopBackend, outcomes_ignored
from asyncworker.worker.broker_pools import use_broker_pools
from asyncworker.worker.dead_letters import DeadLetterWriter, use_writer
from asyncworker.worker.deliveries import DeliveryGuard
from asyncworker.worker.django_connections import use_django
from asyncworker.worker.failure_log import share_traceback_text
from asyncworker.worker.garbage import settle_garbage_collection
from asyncworker.worker.given_back import GivenBack, log_without_traceback
from asyncworker.worker.health import BEAT_S, health_file
from asyncworker.worker.job import Job, decoded, headers_settled, request_of
from asyncworker.worker.leases import LeaseKeeper, needs_lease
from asyncworker.worker.outbox import Outbox, OutboxThread
from asyncworker.worker.ownership import Owner, on_ownership_lost
from asyncworker.worker.persist import flush_settlements
from asyncworker.worker.results import ResultWriter
from asyncworker.worker.runner import Runner, exception_info
from asyncworker.worker.shutdown_signals import ShutdownSignals
from asyncworker.worker.stacks import check_locals
from asyncworker.worker.tracing import adopt, adopt_app, is_async

__all__ = ["AsyncPool"]

logger = logging.getLogger(__name__)

#: How many tasks a line of the log names.
TOLD = 10
#: How often the hard limit of a task looks whether what the task came to is stored and sent.
SERVERS_AWAITED_S = 1.0


def _fetch_no_more(_count: int) -> None:
    """Leave the prefetch as it is: no consumer of ours has been set."""


class AsyncPool(BasePool):
    """Celery's pool interface over one event loop and a bounded set of threads.

    ``limit`` is the number of tasks in flight, sync and async together; more wait here, unacknowledged.
    """

    body_can_be_buffer = True
    signal_safe = False
    task_join_will_block = True
    #: Celery then keeps what waits for a slot, and looks again when its turn comes: revoked, expired?
    uses_semaphore = True
    #: Tasks were cancelled since the worker was told to end and they took too long.
    drain_timed_out = False
    #: Has the consumer fetch so many more messages, or fewer; our consumer sets it, before the pool is started.
    fetch_more: Callable[[int], None] = staticmethod(_fetch_no_more)
    #: Set in a worker process, once the pool is started.
    shutdown_signals: ShutdownSignals | None = None
    #: Nothing is left to stop; also of one that has not started: Celery's handlers stop that, too.
    _ended = True

    def on_start(self) -> None:
        """Start the loop thread and fit all tasks into the bridge."""
        check_locals()
        self._settings = load_settings(conf=self.app.conf)
        set_debug(self._settings.debug)
        log_without_traceback()
        share_traceback_text()
        set_io_threads(self._settings.io_threads)
        # As solo does, and each process of prefork: this one runs the tasks.
        self.app.loader.init_worker_process()
        signals.worker_process_init.send(sender=None)
        use_limits_url(self._settings.limits_url or str(self.app.conf.broker_read_url or ""))
        self._jobs: dict[int, Job] = {}
        self._waiting: deque[Job] = deque()
        #: Tasks that are not async, for which no thread is free: unacknowledged, and without a slot.
        self._waiting_for_thread: deque[Job] = deque()
        #: Of those, which were given a thread and wait for a slot again.
        self._given_thread: set[int] = set()
        self._on_threads: set[int] = set()
        self._more_fetched = 0
        self._zombies: set[int] = set()
        self._semaphore = self.options.get("semaphore")
        self._hub: Any = None
        self._outbox_thread: OutboxThread | None = None
        self._closing = False
        self._timer = Timer()
        self._outbox = Outbox()
        self._loop_thread = get_loop_thread(threads=self._settings.sync_threads)
        self._results = ResultWriter.for_backend(self.app.backend) if self._settings.fast_results else None
        if self._results is not None:
            self._loop_thread.on_stop(self._results.close)
        use_broker_pools(self.app)
        adopt_app(self.app)
        use_django(self.app)
        use_backend = functools.partial(OffLoopBackend.use_here, self.app, self._results)
        # First on the loop, before any task.
        self._loop_thread.loop.call_soon_threadsafe(use_backend)
        self._adopted: dict[str, Any] = {}
        self._async_names: set[str] = set()
        self._late_names: set[str] = set()
        for task in self.app.tasks.values():
            self._adopt(task)
        self._loop_thread.on_stop(_close_resources)
        self._loop_thread.on_stop(flush_settlements)
        self._leases = LeaseKeeper(self._settings, self._lost)
        self._loop_thread.loop.call_soon_threadsafe(self._keep_leases)
        on_ownership_lost(self._lose_messages)
        self._runner = Runner(
            self._loop_thread,
            self._outbox,
            self._finished,
            self._begin_admitted,
            DeliveryGuard(self._settings, self._leases, self.app),
            threads=self._settings.sync_threads,
            use_backend=use_backend,
        )
        self._dead_letters = DeadLetterWriter(self._settings, self._loop_thread, self._outbox)
        use_writer(self._bury)
        self._watchdog = Watchdog(self._loop_thread, blocked_after_s=self._settings.blocked_after_s)
        self._watchdog.start()
        self._health = health_file(self._settings, lambda: self.loop_lag_s, lambda: len(self._jobs))
        self._ended = False

    def register_with_event_loop(self, hub: Any) -> None:
        """Have the hub poll the outbox; called again after every reconnect."""
        if self._hub is None:
            settle_garbage_collection(self._settings.gc_threshold)
        self._hub = hub
        hub.add_reader(self._outbox.fileno(), self._outbox.drain)
        if self._health is not None:
            self._health.beat()
            hub.call_repeatedly(BEAT_S, self._health.beat)

    @property
    def loop_lag_s(self) -> float:
        """How long the loop has owed the watchdog a sign of life."""
        return self._watchdog.lag_s

    @property
    def loop_stalls(self) -> int:
        """How often the loop has been blocked."""
        return self._watchdog.stalls

    @property
    def in_flight(self) -> int:
        """How many tasks run."""
        return len(self._jobs)

    @property
    def cancel_grace_s(self) -> float:
        """How long what was cancelled may take to clean up."""
        return self._settings.cancel_grace_s

    def wake(self) -> None:
        """Have the main thread stop waiting for events; may be called in a signal handler."""
        self._outbox.put(_ignore)

    @property
    def is_idle(self) -> bool:
        """Whether nothing runs, apart from what does not end."""
        return len(self._jobs) <= len(self._zombies)

    @property
    def zombies(self) -> int:
        """How many of them do not end after being cancelled."""
        return len(self._zombies)

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
        """Take a task: start it where a slot is free, else let it wait its turn; in a worker that ends, in vain."""
        name = args[0]
        task = self.app.tasks.get(name)
        if task is not self._adopted.get(name):  # registered since the pool was started
            self._adopt(task)
        if target is trace_task_ret:
            # The tracer of an embedded worker, which would take whatever app is current on the thread it runs on.
            target = functools.partial(trace_task_ret, app=self.app)
        request = request_of((accept_callback, callback, error_callback, timeout_callback))
        if isinstance(request, Request):
            # Celery gives a task's limits as they were when the worker started: remote control may have changed them.
            hard, soft = request.time_limits
            soft_timeout, timeout = soft or _limit_of(task.soft_time_limit), hard or _limit_of(task.time_limit)
        if not getattr(task, "holds_own_lease", False):
            # Limits for tasks in general. A fan-out is as long as its items are many: its own one is `total_timeout_s`.
            soft_timeout = soft_timeout or self.options.get("soft_timeout")
            timeout = timeout or self.options.get("timeout")
        if name in self._async_names:
            headers_settled(args[2])
        job = Job(target, decoded(tuple(args), request), request, soft_timeout_s=soft_timeout, timeout_s=timeout)
        job.late = name in self._late_names
        job.leases = self._leases if job.late else None
        self._have_outbox_read()
        if self._closing or len(self._jobs) >= self.limit:
            self._waiting.append(job)
        else:
            self._begin_or_wait(job)
        return job

    def terminate_job(self, pid: int, signal: int | None = None) -> None:
        """Cancel the job of that pseudo process id, and no other; unknown ids are ignored.

        A synchronous task on its thread cannot be stopped: it is abandoned, and keeps its slot until it returns.
        """
        job = self._jobs.get(pid)
        if job is not None:
            job.terminated = True
            self._abandon(job)

    def grow(self, n: int = 1) -> None:
        """Allow ``n`` more tasks in flight."""
        _check_count(n)
        self.limit += n
        self._fill()
        if self._semaphore is not None:
            self._semaphore.grow(n)

    def shrink(self, n: int = 1) -> None:
        """Allow ``n`` fewer tasks in flight; what runs goes on."""
        _check_count(n)
        n = min(n, self.limit - 1)
        self.limit -= n
        if self._semaphore is not None:
            self._semaphore.shrink(n)

    def retire(self) -> None:
        """Start nothing more, for as long as it takes; what runs goes on. The consumer gives back what waits."""
        self._closing = True
        if self._health is not None:
            self._health.leave()
        self._forget_waiting()
        for job in self._jobs.values():
            self._runner.give_back(job)

    def on_close(self) -> None:
        """Start nothing more; what waits stays unacknowledged and returns to the queue."""
        self._closing = True
        self._announce()

    def on_stop(self) -> None:
        """Warm shutdown: finish what runs, or let it put itself back, settle it, then stop the loop.

        What takes longer than ``drain_timeout_s`` is cancelled, as in a cold one, which a signal may ask for meanwhile.
        """
        if self._ended:
            return
        self._stop_taking()
        for job in self._jobs.values():
            self._runner.drain(job)
        give_up_at_s = time.monotonic() + self._settings.drain_timeout_s
        while not self.is_idle and not state.should_terminate and time.monotonic() < give_up_at_s:
            self._wait_for_events()
        if state.should_terminate:
            self.on_terminate()
            return
        left = [job for pid, job in self._jobs.items() if pid not in self._zombies]
        if left:
            self.drain_timed_out = True
            some = ", ".join(map(str, left[:TOLD]))
            logger.error(
                "%d tasks did not end within %g s and are cancelled: %s",
                len(left),
                self._settings.drain_timeout_s,
                some,
            )
            self._cut_short()
        self._shut_down(timeout_s=1 if left else self._settings.cancel_grace_s)

    def on_terminate(self) -> None:
        """Cold shutdown: settle what has ended, cancel what runs, give it the grace to clean up, stop the loop.

        On the main thread, while nothing uses the broker connection: no signal handler calls it.
        """
        if self._ended:
            return
        # While it is set, Celery's requests neither log a failure nor send its event.
        asked, state.should_terminate = state.should_terminate, None
        try:
            self._stop_taking()
            if asked:
                self._wait_softly()
            self._cut_short()
            self._shut_down(timeout_s=1)
        finally:
            state.should_terminate = asked

    def _wait_softly(self) -> None:
        """Let what runs end within the time of Celery's soft shutdown."""
        timeout_s = self.app.conf.worker_soft_shutdown_timeout or 0
        also_idle = self.app.conf.worker_enable_soft_shutdown_on_idle
        if timeout_s <= 0 or (self.is_idle and not also_idle):
            return
        logger.warning("Initiating Soft Shutdown, terminating in %s seconds", timeout_s)
        give_up_at_s = time.monotonic() + timeout_s
        while (also_idle or not self.is_idle) and self._may_wait(give_up_at_s):
            self._wait_for_events()

    def _may_wait(self, give_up_at_s: float) -> bool:
        hurried = self.shutdown_signals is not None and self.shutdown_signals.hurried
        return not hurried and time.monotonic() < give_up_at_s

    def _announce(self) -> None:
        if self.shutdown_signals is not None:
            self.shutdown_signals.announce()

    def _cut_short(self) -> None:
        """Settle what has ended, cancel the rest; late-ack tasks return to the queue."""
        self._settle()
        give_up_at_s = time.monotonic() + self._settings.cancel_grace_s
        self._report_lost(give_up_at_s)
        for job in list(self._jobs.values()):
            if not job.abandoned:
                self._abandon(job)
        while not self.is_idle and self._may_wait(give_up_at_s):
            self._wait_for_events()

    def _report_lost(self, give_up_at_s: float) -> None:
        """Store the failure of what is acknowledged already: no other delivery will ever say what became of it."""
        lost = [
            job
            for job in self._jobs.values()
            if isinstance(job.request, Request) and job.request.acknowledged and not job.abandoned
            if not job.servers_awaited
        ]
        for number, job in enumerate(lost):
            try:
                if time.monotonic() >= give_up_at_s:
                    raise TimeoutError("the result backend is slow")
                job.request.on_failure(exception_info(WorkerLostError(f"{job} was cut short: its worker ended")))
            except Exception as exc:
                logger.error("%d tasks were cut short, and their failure is not stored: %r", len(lost) - number, exc)
                return

    def _get_info(self) -> dict[str, Any]:
        return {
            **super()._get_info(),  # type: ignore[misc]
            "processes": [os.getpid()],
            "in-flight": len(self._jobs),
            "waiting": len(self._waiting) + len(self._waiting_for_thread) + len(self._given_thread),
            "zombies": len(self._zombies),
            "sync-threads": self._settings.sync_threads,
            "loop": type(self._loop_thread.loop).__module__,
            "loop-stalls": self._watchdog.stalls,
        }

    # -- starting and settling -----------------------------------------------------------------------------------

    def _adopt(self, task: Any) -> None:
        """Fit a task into the bridge; it may take the place of an earlier one of its name."""
        self._adopted[task.name] = task
        adopt(task, self._results)
        for names, wanted in ((self._async_names, is_async(task)), (self._late_names, needs_lease(task))):
            (names.add if wanted else names.discard)(task.name)
        if task.soft_time_limit and task.name not in self._async_names:
            logger.warning(
                "task %s is not async: its soft time limit cannot be raised in its thread and has no effect",
                task.name,
            )

    def _keep_leases(self) -> None:
        loop = self._loop_thread.loop
        self._lease_tasks = (
            loop.create_task(self._leases.keep(), name="asyncworker-leases"),
            loop.create_task(self._leases.watch(), name="asyncworker-watch"),
        )

    def _bury(self, letter: DeadLetter, settle: Callable[[], None]) -> None:
        self._have_outbox_read()
        self._dead_letters.bury(letter, settle)

    def _have_outbox_read(self) -> None:
        if self._hub is None and self._outbox_thread is None:
            # The transport has no event loop of kombu's: Celery then expects settling from any thread.
            self._outbox_thread = OutboxThread(self._outbox)

    def _begin_or_wait(self, job: Job) -> None:
        """Begin, unless the task needs a thread and none is free: it waits then, and leaves its slot to others."""
        if job.name in self._async_names or self._free_threads > 0:
            self._begin(job)
            return
        self._waiting_for_thread.append(job)
        self._balance_prefetch()
        self._outbox.put(self._release)  # not here: whoever gets the slot may be the next one to wait

    def _balance_prefetch(self) -> None:
        """Fetch another message for each that waits for a thread, up to as many as there are slots."""
        wanted = min(len(self._waiting_for_thread) + len(self._given_thread), self.limit)
        if wanted != self._more_fetched:
            self.fetch_more(wanted - self._more_fetched)
            self._more_fetched = wanted

    def flush(self) -> None:
        """Forget what waits: its connection is lost, so its messages come again."""
        self._forget_waiting()
        self._more_fetched = 0  # the next consumer begins with none
        if self._ended:  # and the loop with it
            return
        if state.should_terminate:
            # What runs is cut short before its message returns: a lease would only hold up the next worker.
            return
        for job in self._jobs.values():
            job.returned = True
        self._loop_thread.loop.call_soon_threadsafe(self._leases.hurry)

    @property
    def _free_threads(self) -> int:
        return self._settings.sync_threads - len(self._on_threads) - len(self._given_thread)

    def _release(self) -> None:
        if self._semaphore is not None and not self._closing:
            self._semaphore.release()

    def _begin_waiting(self, job: Job) -> None:
        """Begin a task that has waited for a thread, now that it has a slot again."""
        if job.pid not in self._given_thread or self._closing:
            return
        self._given_thread.discard(job.pid)
        self._balance_prefetch()
        if isinstance(job.request, Request) and job.request.revoked():  # or expired, meanwhile
            self._outbox.put(self._release)
            self._fill()
        elif len(self._jobs) >= self.limit:
            self._waiting.append(job)
        else:
            self._begin(job)

    def _begin(self, job: Job) -> None:
        self._jobs[job.pid] = live_jobs[job.pid] = job
        if job.name not in self._async_names:
            self._on_threads.add(job.pid)
        try:
            job.request.on_accepted(job.pid, time.monotonic())
        except BaseException:
            # Its acknowledgement failed with the connection: the message comes again, and holds no slot here.
            del self._jobs[job.pid], live_jobs[job.pid]
            self._on_threads.discard(job.pid)
            if isinstance(job.request, Request):
                state.task_ready(job.request)
            raise
        if job.terminated:  # revoked in the moment of its acceptance
            self._outbox.put(lambda: self._finished(job, _ignore))
            return
        if not job.redelivered:  # it may wait first, while another process runs it
            self._limit_time(job)
        job.started = True
        account.began(job)
        self._runner.start(job, on_loop=job.name in self._async_names)

    def _begin_admitted(self, job: Job, start: Callable[[], None]) -> None:
        """Begin a task that was delivered again; while it waited, it may have been revoked, or have expired."""
        request: Any = job.request
        if not job.abandoned and isinstance(job.request, Request):
            request.may_expire = not job.resumes
            job.finished = bool(request.revoked())
        if job.abandoned or job.finished:
            self._runner.drop(job)
            return
        self._limit_time(job)
        start()

    def _limit_time(self, job: Job) -> None:
        if job.timeout_s:
            self._limit(job, job.timeout_s)

    def _limit(self, job: Job, after_s: float) -> None:
        timer = self._timer.call_after(after_s, lambda: self._outbox.put(lambda: self._time_out(job)))
        job.timers += (timer,)

    def _finished(self, job: Job, report: Callable[[], Any]) -> None:
        """Settle a job whose code has ended; its slot is free again."""
        _check_thread()
        job.disarm()
        live_jobs.pop(job.pid, None)
        self._jobs.pop(job.pid, None)
        self._on_threads.discard(job.pid)
        self._zombies.discard(job.pid)
        account.ended(job)
        try:
            if job.terminated:
                job.request.on_failure(exception_info(Terminated(0)))
            elif job.lost:
                # Acknowledged, it could be the last delivery that the broker has: that of the holder may have been lost
                # with its connection. Kept, it would hold up the worker. Delivered again, it waits for the holder.
                job.request.on_failure(exception_info(GivenBack("taken over by another process", requeue=True)))
            elif not job.abandoned:
                report()
        finally:
            self._fill()
            self._release()

    def _fill(self) -> None:
        while self._waiting_for_thread and self._free_threads > 0 and not self._closing:
            job = self._waiting_for_thread.popleft()
            self._given_thread.add(job.pid)
            if self._semaphore is not None:
                self._semaphore.acquire(self._begin_waiting, job)
            else:
                self._begin_waiting(job)
        while self._waiting and len(self._jobs) < self.limit and not self._closing:
            self._begin_or_wait(self._waiting.popleft())

    def _time_out(self, job: Job) -> None:
        """The hard limit: report at once, then cancel. As under prefork it is a failure first, which settles it."""
        if job.pid in self._jobs and not job.abandoned:
            if job.servers_awaited:
                # Its code has ended in time: what it came to is to be stored and sent first.
                self._limit(job, SERVERS_AWAITED_S)
                return
            task: Any = getattr(job.request, "task", None)
            job.finished = getattr(task, "acks_on_failure_or_timeout", True)
            try:
                job.request.on_failure(exception_info(TimeLimitExceeded(job.timeout_s)))
                with outcomes_ignored():
                    # It would report the failure a second time, to the errbacks as well.
                    job.request.on_timeout(False, job.timeout_s or 0)
            finally:
                self._abandon(job)

    def _abandon(self, job: Job) -> None:
        """Cancel a job, and ignore what still comes of it; it keeps its slot until its code has ended."""
        job.abandoned = True
        if job.started:
            self._cancel(job)
            self._watch_end(job)

    def _lost(self, job: Job) -> None:
        """Abandon a job that another process has taken over. On the loop thread: the main one may wait for a broker."""
        job.abandoned = job.lost = True
        self._cancel(job)
        self._outbox.put(lambda: self._watch_end(job))

    def _lose_messages(self, owner: Owner) -> None:
        """Begin nothing of what others have now. What was begun is its own, or goes by its lease."""
        self._forget_waiting()
        self._balance_prefetch()
        for job in self._jobs.values():
            if not job.let_through and job.message is not None and owner.owns(job.message.delivery_tag):
                job.abandoned = job.lost = True

    def _cancel(self, job: Job) -> None:
        if job.name in self._async_names:
            self._runner.cancel(job)
        elif job.thread_ident is not None:
            logger.warning("%s runs on a thread and cannot be stopped; its outcome is ignored", job)

    def _watch_end(self, job: Job) -> None:
        self._timer.call_after(self._settings.cancel_grace_s, lambda: self._outbox.put(lambda: self._check_ended(job)))

    def _check_ended(self, job: Job) -> None:
        if job.pid in self._jobs and job.pid not in self._zombies:
            self._zombies.add(job.pid)
            logger.error(
                "%s did not end within %.1f s of its cancellation; it keeps its slot. It stands at:\n  %s",
                job,
                self._settings.cancel_grace_s,
                "\n  ".join(job.stack()) or "(unknown)",
            )
            if len(self._zombies) == self._settings.max_zombies:
                logger.error("%d tasks do not end: this worker shuts down, to be started anew", len(self._zombies))
                # What `celery control shutdown` does: a warm shutdown, which does not wait for them.
                state.should_stop = EX_FAILURE  # type: ignore[assignment]

    # -- the end -------------------------------------------------------------------------------------------------

    def _stop_taking(self) -> None:
        self._closing = True
        if self._health is not None:
            self._health.remove()
        if self._outbox_thread is not None:
            self._outbox_thread.stop()
        if waiting := self._forget_waiting():
            logger.info("%d tasks that had not started return to the queue", waiting)

    def _forget_waiting(self) -> int:
        """Forget what waits, unacknowledged; returns how many tasks."""
        count = len(self._waiting) + len(self._waiting_for_thread) + len(self._given_thread)
        self._waiting.clear()
        self._waiting_for_thread.clear()
        self._given_thread.clear()
        return count

    def _wait_for_events(self) -> None:
        """Let the hub go on, up to a second, though the consumer has stopped: outbox, acknowledgements, heartbeats."""
        self._announce()
        if self._hub is not None:
            try:
                self._hub.run_once()
            except Exception as exc:  # a lost connection: what ends now is redelivered, and says so in the store
                logger.warning("the broker connection failed during shutdown: %r", exc)
                self._hub = None
        else:
            time.sleep(0.05)
        # The hub polls it, but for one that has lost its connection just before: it has forgotten all its readers.
        self._outbox.drain()

    def _settle(self) -> None:
        """Run all that waits: outbox events, and the acknowledgements that they leave for the hub."""
        for _ in range(2):
            self._outbox.put(_ignore)  # so that the poll returns at once
            self._wait_for_events()

    def _shut_down(self, timeout_s: float) -> None:
        for step in (self._settle, self._watchdog.stop, self._timer.stop, self._runner.stop):
            try:
                step()
            except Exception:  # what is left to do is not less needed for that
                logger.exception("while the pool shuts down")
        if not self._loop_thread.stop(timeout_s=timeout_s):
            logger.error("the event loop did not stop within %.1f s and is left behind", timeout_s)
        if self._hub is not None:
            self._hub.remove_reader(self._outbox.fileno())
        self._outbox.close()
        self._ended = True
        signals.worker_process_shutdown.send(sender=None, pid=os.getpid(), exitcode=state.should_stop or 0)


def _check_count(n: Any) -> None:
    """Refuse what a remote control command cannot mean, before anything has changed."""
    if not isinstance(n, int) or isinstance(n, bool) or not 0 <= n <= sys.maxsize:
        raise ValueError(f"n is {n!r:.40}: expected a number of tasks, 0 or more")


def _limit_of(limit: Any) -> float | None:
    """Return a task's time limit, however it was set; ``None`` where it is no number of seconds."""
    return limit if isinstance(limit, int | float) and limit > 0 else None


def _check_thread() -> None:
    thread = threading.current_thread()
    here = thread is threading.main_thread() or thread.name == OutboxThread.NAME
    check(here, "a task's message is settled off the consumer's thread")


async def _close_resources() -> None:
    await lifetimes().close()


def _ignore(*_args: Any, **_kwargs: Any) -> None:
    """The callback of whoever gave none."""
