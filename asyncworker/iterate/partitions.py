"""One run on several workers: each partition is a run of its own, and whoever holds the whole brings it to its end.

The holder of the whole has the partitions sent out, runs those that nobody has begun, and watches the others: one whose
holder falls silent is freed and sent again. It ends the run in one transaction once all partitions have ended. Dies it
itself, its message comes again, and finds the partitions where they stand.
"""

from __future__ import annotations

import asyncio
import dataclasses
import functools
import logging
from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING, TypeVar

import msgspec

from asyncworker.errors import (
    AsyncWorkerError,
    CheckpointCorrupt,
    RunCancelled,
    RunChanged,
    RunDrained,
    RunTakenOver,
    RunTimeout,
    StoreError,
)
from asyncworker.iterate.drain import Drain
from asyncworker.iterate.outcome import FAILURES_KEPT, RunOutcome, error_of, error_text
from asyncworker.iterate.runs import Begun, Observe, outcome_of, request_for, take_run
from asyncworker.iterate.split import SplitRun, execute_partition
from asyncworker.store import (
    Batch,
    Counters,
    Partition,
    Progress,
    RunHold,
    RunState,
    Silence,
    patiently,
)

if TYPE_CHECKING:
    from asyncworker.store import OnChange, Partitions

__all__ = ["execute_split"]

logger = logging.getLogger(__name__)

T = TypeVar("T")

Send = Callable[[Sequence[int]], Awaitable[None]]
"""Sends the partitions of these numbers to whichever workers take them."""

#: How often the holder of the whole looks at the partitions, and shows that it lives.
WATCH_S = 0.5


async def execute_split(
    run: SplitRun,
    send: Send,
    *,
    request: bytes = b"",
    message: str = "",
    redelivered: bool = False,
    resume: bool = False,
    force: bool = False,
    failed_only: bool = False,
    on_change: OnChange | None = None,
    drain: Drain | None = None,
    begun: Begun | None = None,
    observe: Observe | None = None,
) -> RunOutcome:
    """Begin or resume a run that is split, have its partitions run, and end it.

    Args:
        run: What is run.
        send: Sends partitions to other workers.
        request: What would start the run again.
        message: Names the message that asks for it.
        redelivered: The same message came again.
        resume: Continue a run that is complete: only what failed is run.
        force: Take the run from whoever holds it.
        failed_only: Of a run that is complete, run the items that failed, those among them that killed their process.
        on_change: Where the fingerprint is not the checkpoint's; ``None``: as the options say.
        drain: Asks to stop early, for the process to end.
        begun: Is awaited once the run is held, before its partitions are sent.
        observe: Is told of the run's progress.

    Raises:
        SourceError: The source's length is not known beforehand.
        RunError: The run could not go on; see `execute_run`.
    """
    from asyncworker.store import Partitions

    requests = [run.part(number)[2] for number in range(len(run.ranges()))]
    asked = request_for(
        run.run_id,
        run.task,
        run.source,
        run.options,
        run.fingerprint,
        request,
        message,
        run.clock,
        partitions=len(requests),
    )
    hold = await take_run(
        run.store,
        asked,
        redelivered=redelivered,
        resume=resume,
        force=force,
        on_change=on_change or run.options.on_change,
        lease_s=run.lease_s,
        drain=drain,
        clock=run.clock,
    )
    if hold.finished is not None:
        ended = await outcome_of(hold.finished, run.store, run.options, run.decode)
        return dataclasses.replace(ended, recalled=True)
    if begun is not None:
        await begun(hold)
    partitions = Partitions(run.store)
    parts = await patiently(
        lambda: partitions.plan(hold, requests, again=resume, pardon=failed_only),
        patience_s=run.store.patience_s,
        what=f"run {run.run_id}: planning its partitions",
        clock=run.clock,
    )
    holder = _Holder(run, partitions, hold, parts, send)
    if observe is not None:
        observe(holder.progress)
    return await holder.run(drain)


class _Holder:
    """Whoever holds the whole."""

    def __init__(
        self, run: SplitRun, partitions: Partitions, hold: RunHold, parts: list[Partition], send: Send
    ) -> None:
        self._run = run
        self._partitions = partitions
        self._hold = hold
        self._parts = parts
        self._send = send
        self._clock = run.clock
        carried = sum(part.progress.done + part.progress.skipped for part in parts)
        self._whole = msgspec.structs.replace(hold.progress, carried=carried)
        self._ends_at: float | None = None
        if run.options.total_timeout_s is not None:
            self._ends_at = self._clock.monotonic() + run.options.total_timeout_s
        #: That of who runs a partition, by its number.
        self._silences: dict[int, Silence] = {}
        self._looked = asyncio.Event()
        self._ended = asyncio.Event()
        #: Why no more partitions are begun.
        self._reason: AsyncWorkerError | None = None
        if hold.cancel_requested:
            self._reason = RunCancelled(f"run {run.run_id} was cancelled")
        #: The same, where that raises nothing by itself.
        self._stopped_by = ""
        self._own: int | None = None
        self._own_drain: Drain | None = None
        self._exceptions: list[tuple[int, BaseException]] = []

    def progress(self) -> Progress:
        """Where the run stands now."""
        from asyncworker.store.parts import merged

        return merged(self._whole, [part.progress for part in self._parts])

    async def run(self, drain: Drain | None) -> RunOutcome:
        if drain is not None:
            drain.listen(lambda: self._drain(drain.grace_s))
        working = asyncio.create_task(self._work(), name=f"iterate-partitions-{self._run.run_id}")
        watching = asyncio.create_task(self._watch(), name=f"iterate-watch-{self._run.run_id}")
        try:
            # The watch ends by itself only where the run must not go on.
            done, _ = await asyncio.wait([working, watching], return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
            await self._end_watch(watching)
            return await self._close()
        except asyncio.CancelledError:
            await self._end_watch(watching)
            await self._leave()
            raise
        finally:
            working.cancel()
            await self._end_watch(watching)
            await asyncio.wait([working])

    async def _end_watch(self, watching: asyncio.Task[None]) -> None:
        # Not cancelled: that could cut a transaction, whose outcome would be unknown and whose connection lost.
        self._ended.set()
        await asyncio.wait([watching])

    # -- running what nobody else has begun ----------------------------------------------------------------------------

    async def _work(self) -> None:
        first = self._next()
        await self._send_out(
            [part.number for part in self._parts if part.progress.state == "pending" and part is not first]
        )
        while not isinstance(self._reason, RunDrained):
            part = None if self._stopping else self._next()
            if part is not None:
                await self._run_own(part.number)
                await self._patiently(self._look, "looking at its partitions")
            elif not any(each.progress.state == "running" for each in self._parts):
                return
            else:
                self._looked.clear()
                await self._looked.wait()

    async def _send_out(self, numbers: list[int]) -> None:
        if self._stopping:
            return
        try:
            await self._send(numbers)
        except Exception:
            # Not lost: what nobody begins is run here, one after the other.
            logger.exception("run %s: its partitions could not be sent to other workers", self._run.run_id)

    @property
    def _stopping(self) -> bool:
        return self._reason is not None or bool(self._stopped_by)

    def _next(self) -> Partition | None:
        return next((part for part in self._parts if part.progress.state == "pending"), None)

    async def _run_own(self, number: int) -> None:
        self._own, self._own_drain = number, Drain(0.0)
        try:
            outcome = await execute_partition(self._run, number, wait=False, drain=self._own_drain)
            indexes = (failure.index for failure in outcome.failures)
            self._exceptions += zip(indexes, outcome.exceptions, strict=False)
        except StoreError:
            raise
        except RunTakenOver:
            # A message has brought it to another worker at the same time.
            logger.debug("run %s: partition %d is run elsewhere", self._run.run_id, number)
        except (RunChanged, CheckpointCorrupt) as exc:
            # It would be the same each time.
            self._reason = self._reason or exc
        except AsyncWorkerError as exc:
            # Recorded with the partition, which the end of the run is made of.
            logger.warning("run %s: partition %d: %s", self._run.run_id, number, exc)
        finally:
            self._own = self._own_drain = None

    def _drain(self, grace_s: float) -> None:
        self._reason = self._reason or RunDrained(f"run {self._run.run_id} stopped early; another attempt goes on")
        if self._own_drain is not None:
            self._own_drain.grace_s = grace_s
            self._own_drain.request()
        self._looked.set()

    # -- watching the others -------------------------------------------------------------------------------------------

    async def _watch(self) -> None:
        """Show that the holder lives, and see to partitions that others run."""
        answered_at = self._clock.monotonic()
        while True:
            await self._pause()
            if self._ended.is_set():
                return
            try:
                await self._tick()
            except StoreError as exc:
                if self._clock.monotonic() - answered_at > self._run.store.patience_s:
                    raise
                logger.warning("run %s: its partitions cannot be looked at: %s", self._run.run_id, exc)
            else:
                answered_at = self._clock.monotonic()
            self._looked.set()

    async def _pause(self) -> None:
        waits = [asyncio.ensure_future(wait) for wait in (self._clock.sleep(WATCH_S), self._ended.wait())]
        try:
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in waits:
                wait.cancel()

    async def _tick(self) -> None:
        await self._look()
        await self._beat()
        self._judge()
        if self._stopping and not isinstance(self._reason, RunDrained):
            await self._partitions.cancel(self._hold)
        await self._free_the_silent()

    async def _look(self) -> None:
        self._parts = await self._partitions.look(self._run.run_id)

    async def _beat(self) -> None:
        now = self.progress()
        counters = Counters(now.done, now.skipped, now.failed, now.retried, now.resumed)
        cancelled = await self._run.store.write(self._hold, Batch(counters=counters, at=self._clock.now()), 0)
        if cancelled and self._reason is None:
            self._reason = RunCancelled(f"run {self._run.run_id} was cancelled")

    def _judge(self) -> None:
        """Is there a reason to begin no more?"""
        options, failed = self._run.options, sum(part.progress.failed for part in self._parts)
        if self._stopping:
            return
        if options.on_error == "fail_fast" and failed:
            self._stopped_by = "stopped at the first failure"
        elif options.max_failures is not None and failed > options.max_failures:
            self._stopped_by = f"stopped: more than {options.max_failures} items failed"
        elif self._ends_at is not None and self._clock.monotonic() >= self._ends_at:
            self._reason = RunTimeout(f"run {self._run.run_id} took longer than {options.total_timeout_s:g} s")

    async def _free_the_silent(self) -> None:
        from asyncworker.store import silence_of

        lease_s = self._run.lease_s
        for part in self._parts:
            if part.progress.state != "running" or part.number == self._own:
                self._silences.pop(part.number, None)
                continue
            # Who holds the whole since the last holder died need not begin to count: this process has watched before.
            if part.number not in self._silences:
                known = silence_of(self._run.store, "run", part.progress.run_id, lease_s, self._clock)
                self._silences[part.number] = known
            silent_s = self._silences[part.number].lasts_s(part.progress.updated_at)
            if silent_s >= lease_s and await self._partitions.release(part):
                logger.warning(
                    "run %s: who runs partition %d has been silent for %g s; it is sent again",
                    self._run.run_id,
                    part.number,
                    lease_s,
                )
                await self._send_out([part.number])

    # -- the end -------------------------------------------------------------------------------------------------------

    async def _leave(self) -> None:
        """The caller was cancelled: others stop too, and another attempt may go on."""
        try:
            await self._partitions.cancel(self._hold)
            await self._put_back()
        except RunTakenOver as exc:
            logger.info("%s", exc)
        except Exception:
            logger.exception("run %s: its partitions could not be told to stop", self._run.run_id)

    async def _put_back(self) -> None:
        now = self.progress()
        counters = Counters(now.done, now.skipped, now.failed, now.retried, now.resumed)
        await self._run.store.write(self._hold, Batch(counters=counters, state="pending", at=self._clock.now()), 0)

    async def _patiently(self, call: Callable[[], Awaitable[T]], what: str) -> T:
        return await patiently(
            call,
            patience_s=self._run.store.patience_s,
            what=f"run {self._run.run_id}: {what}",
            clock=self._clock,
        )

    async def _close(self) -> RunOutcome:
        if isinstance(self._reason, RunDrained):
            await self._put_back()
            raise self._reason
        await self._patiently(self._tick, "looking at its partitions")
        reason = self._reason
        if reason is None and not self._stopped_by:
            reason = self._reason_of_parts()
        complete = reason is None and not self._stopped_by
        error = self._stopped_by if reason is None else error_text(reason)
        failed = any(part.progress.failed for part in self._parts)
        state: RunState = "failed" if failed or not complete else "done"
        if isinstance(reason, RunCancelled):
            state = "cancelled"
        total = self._run.source.total
        while True:
            close = functools.partial(
                self._partitions.close,
                self._hold,
                state,
                complete=complete,
                total=total,
                error=error,
                at=self._clock.now(),
            )
            ended = await self._patiently(close, "ending it")
            if ended is not None:
                break
            # A message that came late has begun one.
            await self._clock.sleep(WATCH_S)
            await self._patiently(self._tick, "looking at its partitions")
        self._whole, self._parts = ended, []
        if reason is not None:
            raise reason
        outcome = await outcome_of(ended, self._run.store, self._run.options, self._run.decode)
        known = sorted(self._exceptions, key=lambda pair: pair[0]) if len(self._exceptions) == ended.failed else []
        return dataclasses.replace(outcome, exceptions=tuple(exc for _, exc in known[:FAILURES_KEPT]))

    def _reason_of_parts(self) -> AsyncWorkerError | None:
        for part in self._parts:
            if not part.progress.complete:
                return error_of(part.progress.error or "a partition was given up")
        return None
