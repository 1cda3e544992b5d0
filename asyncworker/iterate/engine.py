"""Run a call for every row of a source: N pullers over one iterator, no asyncio task an item."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable
from contextvars import copy_context
from time import monotonic
from typing import Any

from asyncworker.clock import SYSTEM_CLOCK, Clock
from asyncworker.counters import Summary, are_read, summary
from asyncworker.errors import (
    AsyncWorkerError,
    ItemTimeout,
    RunCancelled,
    RunDrained,
    RunError,
    RunTakenOver,
    RunTimeout,
    StoreError,
    WorkerDied,
)
from asyncworker.iterate.checkpoint import Recorder
from asyncworker.iterate.drain import Drain
from asyncworker.iterate.gate import Gate
from asyncworker.iterate.intake import Intake, is_being_closed
from asyncworker.iterate.item import Item, RetryItem, SkipItem, current_item, set_current_item
from asyncworker.iterate.item_logging import FailureLog
from asyncworker.iterate.options import IterateOptions
from asyncworker.iterate.outcome import FAILURES_KEPT, RunOutcome, error_text, failure_of
from asyncworker.iterate.puller import Puller
from asyncworker.iterate.retry import RetryPolicy, Waiting, Work
from asyncworker.iterate.source import Row, Source
from asyncworker.iterate.suspects import KILLED_TWICE, alone
from asyncworker.iterate.turns import Turns
from asyncworker.iterate.view import items_in_flight
from asyncworker.loop import current_job
from asyncworker.printable import printable
from asyncworker.store import ItemFailure, RunState

__all__ = ["Call", "run_items"]

logger = logging.getLogger(__name__)

Call = Callable[[Row], Awaitable[Any]]

#: How many items may wait for their retry before no more are pulled, in multiples of the concurrency.
WAITING_FACTOR = 10
#: How long items that were cancelled may clean up before the run leaves them behind.
CANCEL_GRACE_S = 5.0


async def run_items(
    call: Call,
    source: Source,
    options: IterateOptions,
    *,
    recorder: Recorder,
    drain: Drain | None = None,
    clock: Clock = SYSTEM_CLOCK,
) -> RunOutcome:
    """Run every item of a source, at most ``options.concurrency`` at once.

    Failed items do not raise here: `RunOutcome.raise_for_failures` does, whether the run went on past them or stopped.
    Each item sees the context variables of whoever runs this, and none that another item has set.

    Args:
        call: Runs one item, given its keyword arguments.
        source: The items.
        options: How they are run.
        recorder: Keeps what was done.
        drain: Asks the run to stop early.
        clock: Time, for retries, checkpoints and the total limit.

    Raises:
        SourceError: The source raised; the items before that are settled and recorded.
        RunTimeout: The total limit passed.
        SettingsError: ``retry_on`` or ``fail_on`` names what cannot be imported.
        RunCancelled: Someone asked for it through the store.
        RunTakenOver: Another process holds the run now.
        RunDrained: ``drain`` was asked for before all was done; the run is recorded as pending.
        StoreError: The checkpoint could not be written.
        asyncio.CancelledError: The caller was cancelled; what is done is recorded, and the run can be resumed.
    """
    try:
        engine = _Engine(call, source, options, recorder, clock)
    except AsyncWorkerError as exc:
        await recorder.close("failed", error=error_text(exc))
        raise
    try:
        return await engine.run(drain)
    finally:
        recorder.abandon()


class _Engine:
    """One attempt at one run."""

    def __init__(self, call: Call, source: Source, options: IterateOptions, recorder: Recorder, clock: Clock) -> None:
        self._call = call
        self._source = source
        self._options = options
        self._recorder = recorder
        self._clock = clock
        self._policy = RetryPolicy(options)
        self._waiting = Waiting(clock, self._due)
        self._waiting_cap = WAITING_FACTOR * options.concurrency
        self._gate = None
        if options.limits:
            self._gate = Gate(options.limits, call, self._waiting, options.name or f"run {recorder.run_id}")
            self._call = self._gate.call
        #: Retries that are due, and rows that were read ahead of the pullers that they woke.
        self._ready: deque[Work] = deque()
        #: Suspects that run after the others.
        self._accused: deque[Work] = deque()
        self._turns = Turns()
        self._intake = Intake(source, options.key, recorder, self._turns, self._fail)
        #: Of each attempt, where anybody reads it.
        self._durations = summary("item.duration", task=recorder.progress().task) if are_read() else None
        if self._durations is not None:
            self._call = _timed(self._call, self._durations)
        if options.item_timeout_s is not None:
            self._call = _limited(self._call, options.item_timeout_s, self._tell_overdue)
        self._failures: list[ItemFailure] = []
        self._exceptions: list[BaseException] = []
        self._failed = 0
        self._label = printable(f"{options.name} ({recorder.run_id})" if options.name else recorder.run_id)
        self._failure_log = FailureLog(self._label, clock)
        self._pullers: list[Puller] = []
        #: What each puller begins with.
        self._context = copy_context()
        self._alive = 0
        self._ended = asyncio.Event()
        self._stopping = False
        self._draining = False
        self._reason: BaseException | None = None
        #: Why a run stopped early that raises nothing by itself.
        self._stopped_by = ""

    # -- the run -------------------------------------------------------------------------------------------------------

    async def run(self, drain: Drain | None) -> RunOutcome:
        limit: asyncio.Task[None] | None = None
        self._recorder.start(self._stop)
        try:
            self._start()
            if drain is not None:
                drain.listen(lambda: self._drain(drain.grace_s))
            if self._options.total_timeout_s is not None:
                limit = asyncio.create_task(self._limit_total(self._options.total_timeout_s))
            await self._ended.wait()
        except asyncio.CancelledError:
            self._stop(None)
            await self._wind_up()
            await self._close_cancelled()
            raise
        finally:
            if limit is not None:
                limit.cancel()
        if self._draining and self._reason is None and not self._ran_out():
            self._reason = self._drained()
        await self._wind_up()
        return await self._conclude()

    def _start(self) -> None:
        self._intake.open(self._may_pull, self._give)
        total = self._source.total
        count = self._options.concurrency if total is None else max(1, min(self._options.concurrency, total))
        self._alive = count
        self._pullers = [Puller(self._pull, number, self._context.copy()) for number in range(count)]
        job = current_job.get()
        if job is not None:
            job.items = lambda: items_in_flight(self._pullers)

    async def _limit_total(self, limit_s: float) -> None:
        await self._clock.sleep(limit_s)
        self._stop(RunTimeout(f"run {self._label} took longer than {limit_s:g} s"))

    def _drain(self, grace_s: float) -> None:
        """Pull no more, and let what is in flight finish."""
        self._draining = True
        for puller in self._pullers:
            puller.over = True
        self._intake.stop()
        self._turns.wake_all()
        asyncio.get_running_loop().call_later(grace_s, lambda: self._stop(self._drained()))

    def _drained(self) -> RunDrained:
        return RunDrained(f"run {self._label} stopped early; another attempt goes on from its checkpoint")

    def _ran_out(self) -> bool:
        return self._intake.exhausted and not (self._waiting.count or self._ready or self._accused)

    def _stop(self, reason: BaseException | None) -> None:
        """Pull no more and cancel what is in flight. The first reason counts."""
        if not self._stopping:
            self._stopping = True
            self._reason = reason
            for puller in self._pullers:
                puller.stop()
        self._ended.set()

    async def _wind_up(self) -> None:
        """Wait for what was cancelled, for a while, and close the source."""
        self._failure_log.flush()
        self._waiting.cancel()
        feeder = self._intake.stop()
        tasks = [task for task in [*self._pullers, feeder] if task is not None and not task.done()]
        if tasks:
            _, late = await asyncio.wait(tasks, timeout=CANCEL_GRACE_S)
            for task in late:
                logger.error("run %s: %s does not end after being cancelled", self._label, _name_of(task))
        if self._gate is not None:
            self._gate.close()

    async def _close_cancelled(self) -> None:
        try:
            await self._recorder.close("pending")
        except Exception:
            # What counts is that the caller was cancelled; the last flush window will be run again.
            logger.exception("run %s: its last checkpoint failed", self._label)

    async def _conclude(self) -> RunOutcome:
        reason = self._reason or self._intake.error
        if isinstance(reason, RunTakenOver | StoreError):
            raise reason
        if isinstance(reason, RunCancelled):
            await self._recorder.close("cancelled", error=str(reason))
            raise reason
        if isinstance(reason, RunDrained):
            await self._recorder.close("pending")
            raise reason
        if reason is not None:
            await self._recorder.close("failed", error=error_text(reason))
            raise reason
        if self._stopped_by:
            await self._recorder.close("failed", error=self._stopped_by)
        elif not self._ran_out():
            # Only items that were run, or that the source does not have, are a reason to say that all were.
            lost = RunError(f"run {self._label} came to its end with items left; another attempt goes on from there")
            await self._recorder.close("failed", error=str(lost))
            raise lost
        else:
            # With those that failed in an earlier attempt, and that the source does not list any more.
            state: RunState = "failed" if self._recorder.progress().failed else "done"
            await self._recorder.close(state, complete=True, total=self._intake.pulled)
        return RunOutcome(
            self._recorder.progress(),
            tuple(self._failures),
            self._recorder.results(),
            tuple(self._exceptions),
            self._options.name or "",
        )

    # -- pulling -------------------------------------------------------------------------------------------------------

    async def _pull(self, puller: Puller) -> None:
        turns, intake, recorder = self._turns, self._intake, self._recorder
        waiting, cap = self._waiting, self._waiting_cap
        work: Work | None
        try:
            while not puller.over:
                if monotonic() >= turns.slice_ends:
                    await turns.give_way()
                    recorder.check_hold()
                elif recorder.full:
                    await recorder.room()
                else:
                    if self._ready:
                        work = self._ready.popleft()
                    elif intake.readable and waiting.count < cap:
                        work = intake.next()
                    elif self._ran_out():
                        return
                    else:
                        await self._idle(puller)
                        continue
                    if work is None:
                        continue
                    if recorder.careful or work[0].index >= recorder.reserved:
                        await self._run_carefully(work, puller)
                    else:
                        await self._run_item(work, puller)
        except Exception as exc:
            self._stop(exc)
        except GeneratorExit:
            if is_being_closed():
                raise
            # An item has awaited what raised it: Python closes the item's coroutine then, which has failed the item,
            # and raises it in this one, too.
            puller.over = True
        finally:
            if puller.over and not (self._stopping or self._draining or is_being_closed()):
                self._pullers[puller.number] = Puller(self._pull, puller.number, self._context.copy())
            else:
                self._alive -= 1
                turns.wake_all()
                if not self._alive:
                    self._ended.set()

    async def _idle(self, puller: Puller) -> None:
        if self._accused and self._intake.exhausted and not self._waiting.count:
            await self._run_accused(puller)
        else:
            await self._turns.idle()

    def _due(self, work: Work) -> None:
        self._ready.append(work)
        if self._waiting.count == self._waiting_cap - 1:
            # Pulling was held back until now.
            self._turns.wake_all()
        else:
            self._turns.wake_one()

    def _may_pull(self) -> bool:
        return self._waiting.count < self._waiting_cap

    def _give(self, work: Work) -> None:
        self._ready.append(work)
        self._turns.wake_one()

    # -- one item ------------------------------------------------------------------------------------------------------

    async def _run_item(self, work: Work, puller: Puller) -> None:
        item, row, digest = work
        if self._gate is not None and not self._gate.admit(work):
            return
        set_current_item(item)
        before = copy_context()
        puller.item = item
        try:
            value = await self._call(row)
        except SkipItem:
            self._recorder.skipped(item.index, digest)
            return
        except GeneratorExit as exc:
            if is_being_closed():
                raise
            self._settle_failure(work, exc)
            return
        except BaseException as exc:
            self._settle_failure(work, exc)
            return
        finally:
            puller.item = None
            try:
                if copy_context() != before:
                    puller.over = True
            except Exception:  # two values that cannot be compared are two values
                puller.over = True
        try:
            self._recorder.done(item.index, digest, value)
        except Exception as exc:
            # It cannot be stored: another attempt would give the like.
            self._fail(item, row, exc, digest)

    async def _run_carefully(self, work: Work, puller: Puller) -> None:
        """Run an item once it may begin: alone, where it may kill the process; not at all, where it did so twice."""
        item, row, digest = work
        recorder = self._recorder
        if recorder.is_convicted(item.index, digest):
            self._fail(item, row, WorkerDied(KILLED_TWICE), digest)
            return
        if recorder.careful:
            async with alone():
                if recorder.is_accused(item.index, digest):
                    self._accused.append(work)
                    return
                while self._accused and not recorder.is_suspect(item.index):
                    await self._run_alone(self._accused.popleft(), puller)
                if await self._run_alone(work, puller):
                    return
        await recorder.reserve(item.index)
        if not self._stopping:
            await self._run_item(work, puller)

    def _tell_overdue(self, limit_s: float) -> None:
        """Log an item that goes on past its limit: it cannot be stopped, and keeps its place until it ends."""
        item = current_item()
        logger.error(
            "run %s: item %d (%s) goes on past its limit of %g s, and keeps its place",
            self._label,
            item.index,
            printable(f"{item.key!r:.200}"),
            limit_s,
        )

    async def _run_alone(self, work: Work, puller: Puller) -> bool:
        """Run an item that may kill the process, and record that first; tell whether it is one that may."""
        item, _row, digest = work
        if not await self._recorder.isolate(item.index, digest):
            return False
        if not self._stopping:
            await self._run_item(work, puller)
            await self._recorder.survived()
        return True

    async def _run_accused(self, puller: Puller) -> None:
        """Run what was put off until all other suspects had run, where nothing else is left."""
        async with alone():
            while self._accused:
                await self._run_alone(self._accused.popleft(), puller)
        self._turns.wake_all()

    def _settle_failure(self, work: Work, exc: BaseException) -> None:
        """Try again later, or record; called in the puller, where the exception is handled."""
        item, row, digest = work
        if self._stopping:
            # Interrupted, whatever it made of the cancellation: it did not fail, and a resumed run tries it again.
            return
        delay_s = self._policy.delay_s(item.attempt, exc)
        if delay_s is None:
            self._fail(item, row, (exc.exc or exc) if isinstance(exc, RetryItem) else exc, digest)
            return
        self._recorder.retried()
        again: Work = (Item(item.index, item.key, item.attempt + 1, item.run_id), row, digest)
        if delay_s > 0:
            self._waiting.push(again, delay_s)
        else:
            self._ready.append(again)

    def _fail(self, item: Item, row: Row, exc: BaseException, digest: bytes | None = None) -> None:
        failure = failure_of(item, row, exc, self._clock.now())
        self._recorder.failed(failure, digest)
        self._failed += 1
        self._failure_log.failed(failure)
        if self._failed <= FAILURES_KEPT:
            self._failures.append(failure)
            self._exceptions.append(exc)
        most = self._options.max_failures
        if self._options.on_error == "fail_fast":
            self._stopped_by = "stopped at the first failure"
        elif most is not None and self._failed > most:
            self._stopped_by = f"stopped: more than {most} items failed"
        if self._stopped_by:
            self._stop(None)


def _timed(call: Call, durations: Summary) -> Call:
    async def timed(row: Row) -> Any:
        began_s = monotonic()
        try:
            return await call(row)
        finally:
            durations.add(monotonic() - began_s)

    return timed


def _limited(call: Call, limit_s: float, tell_overdue: Callable[[float], None]) -> Call:
    async def limited(row: Row) -> Any:
        # On a thread, or where it swallows its cancellation, an item does not end when it should.
        overdue = asyncio.get_running_loop().call_later(limit_s + CANCEL_GRACE_S, tell_overdue, limit_s)
        try:
            async with asyncio.timeout(limit_s) as limit:
                value = await call(row)
        except TimeoutError as exc:
            if limit.expired():
                raise ItemTimeout(f"took longer than {limit_s:g} s") from exc
            raise
        finally:
            overdue.cancel()
        if limit.expired():
            # It has swallowed its cancellation, and went on for as long as it liked.
            raise ItemTimeout(f"took longer than {limit_s:g} s")
        return value

    return limited


def _name_of(task: asyncio.Task[None]) -> str:
    item = getattr(task, "item", None)
    return task.get_name() if item is None else f"item {item.index} in {task.get_name()}"
