"""A whole run: taken from the store, run, and closed there."""

from __future__ import annotations

import dataclasses
import functools
import logging
import os
import uuid
from collections.abc import Awaitable, Callable
from datetime import datetime
from typing import TYPE_CHECKING, Any

import msgspec

from asyncworker.clock import SYSTEM_CLOCK, Clock
from asyncworker.errors import PayloadError, RunCancelled, RunChanged, RunDrained, RunNotFound, RunTakenOver
from asyncworker.iterate.checkpoint import MemoryRecorder
from asyncworker.iterate.drain import Drain
from asyncworker.iterate.engine import Call, run_items
from asyncworker.iterate.options import IterateOptions
from asyncworker.iterate.outcome import FAILURES_KEPT, RunOutcome
from asyncworker.iterate.recorder import StoreRecorder
from asyncworker.iterate.row_digests import RowDigests
from asyncworker.iterate.source import Source
from asyncworker.store import Progress, RunHold, RunRequest, patiently, wait_writable

if TYPE_CHECKING:
    from asyncworker.store import OnChange, Store

__all__ = ["Begun", "Observe", "execute_run", "outcome_of", "request_for", "run_held", "take_run"]

logger = logging.getLogger(__name__)

Observe = Callable[[Callable[[], Progress]], None]
"""Is given, once the run begins, what tells where it stands."""
Begun = Callable[[RunHold], Awaitable[None]]


async def execute_run(
    call: Call,
    source: Source,
    options: IterateOptions,
    *,
    store: Store | None = None,
    run_id: str = "",
    task: str = "",
    fingerprint: str = "",
    request: bytes = b"",
    message: str = "",
    redelivered: bool = False,
    resume: bool = False,
    force: bool = False,
    failed_only: bool = False,
    on_change: OnChange | None = None,
    drain: Drain | None = None,
    begun: Begun | None = None,
    lease_s: float = 30.0,
    encode: Callable[[Any], bytes] = msgspec.json.encode,
    decode: Callable[[bytes], Any] = msgspec.json.decode,
    observe: Observe | None = None,
    clock: Clock = SYSTEM_CLOCK,
) -> RunOutcome:
    """Begin or resume a run, run what is left of it, and record how it ended.

    Args:
        call: Runs one item, given its keyword arguments.
        source: The items.
        options: How they are run.
        store: Where the checkpoint lives; ``None`` keeps the run in memory, and it cannot be resumed.
        run_id: Names the run; empty: a new one.
        task: Name of what runs each item.
        fingerprint: Identity of the source and the fixed arguments.
        request: What would start the run again.
        message: Names the message that asks for it: where the run was begun by the same, this is one that came again.
        redelivered: The same message came again: a run that has ended is not run again, its outcome is told. Nor is one
            that another process is just running: that is waited for.
        resume: Continue a run that is complete as well: only what failed is run.
        force: Take the run from whoever holds it; it is waited for otherwise.
        drain: Asks the run to stop early, for the process to end.
        begun: Is awaited once the run is held, before its first item.
        lease_s: A message that came again waits for the run's holder, and takes over once that has shown no sign of
            life for so long. What a holder still writes after that is refused; it begins no item until it knows.
        failed_only: Of a run that is complete, run the items that failed and no others, whatever the source lists.
        on_change: Where the fingerprint is not the checkpoint's: raise, start afresh, or continue; ``None``: as the
            options say.
        encode: Makes bytes of a result; what it raises fails the item.
        decode: The reverse.
        observe: Is told of the run's progress.
        clock: Time.

    Returns:
        The outcome, failed items or not; the caller raises through its ``raise_for_failures``.

    Raises:
        RunError: The run could not go on; see `run_items` and `Store.begin_run` for which.
        SourceError: The source raised.
        PayloadError: A long source cannot be read back.
    """
    run_id = run_id or str(uuid.uuid4())
    if store is None:
        memory = MemoryRecorder(run_id, task, total=source.total, keep_results=options.results != "none", clock=clock)
        return await run_items(call, source, options, recorder=memory, drain=drain, clock=clock)
    on_change = on_change or options.on_change
    asked = request_for(run_id, task, source, options, fingerprint, request, message, clock)
    asked = msgspec.structs.replace(asked, pardon=failed_only)
    hold = await take_run(
        store,
        asked,
        redelivered=redelivered,
        resume=resume,
        force=force,
        on_change=on_change,
        lease_s=lease_s,
        drain=drain,
        clock=clock,
    )
    if hold.finished is not None:
        return dataclasses.replace(await outcome_of(hold.finished, store, options, decode), recalled=True)
    if begun is not None:
        await begun(hold)
    how: dict[str, Any] = {
        "drain": drain,
        "lease_s": lease_s,
        "encode": encode,
        "decode": decode,
        "observe": observe,
        "clock": clock,
    }
    try:
        return await run_held(call, source, options, store, hold, failed_only=failed_only, on_change=on_change, **how)
    except RunChanged:
        # A row that the checkpoint was made by is another one now.
        if on_change != "restart" or source.one_shot:
            raise
        logger.warning("run %s: its source has changed; starting it afresh", run_id)
    asked_at_s = clock.monotonic()
    hold = msgspec.structs.replace(await store.restart(hold, asked), asked_at_s=asked_at_s)
    return await run_held(call, source, options, store, hold, **how)


def request_for(
    run_id: str,
    task: str,
    source: Source,
    options: IterateOptions,
    fingerprint: str,
    request: bytes,
    message: str,
    clock: Clock,
    *,
    partitions: int = 0,
) -> RunRequest:
    """Make what the store is asked for."""
    return RunRequest(
        run_id=run_id,
        task=task,
        fingerprint=fingerprint,
        total=source.total,
        keyed=options.key is not None,
        request=request,
        message=message,
        holder=f"process {os.getpid()} on {os.uname().nodename}",
        partitions=partitions,
        started_at=clock.now(),
    )


async def take_run(
    store: Store,
    request: RunRequest,
    *,
    redelivered: bool,
    resume: bool = False,
    force: bool = False,
    on_change: OnChange = "error",
    lease_s: float,
    stored: bool = False,
    wait: bool = True,
    drain: Drain | None = None,
    clock: Clock,
) -> RunHold:
    """Take the right to run, from nobody or from a silent holder; or the outcome, where the run has ended.

    Args:
        store: Where it is.
        request: What is run.
        redelivered: It may have ended already: that is its outcome then.
        resume: Go on with a run that is complete.
        force: Where it is the first delivery, take the run from whoever holds it.
        on_change: What to do about another fingerprint.
        lease_s: How long a holder may be silent.
        stored: It must be there already.
        wait: Wait for another holder.
        drain: Asks to wait no more.
        clock: Time.

    A store that is away is waited for, for as long as its ``patience_s``.

    Raises:
        RunNotFound: It is not there, and should be.
        RunTakenOver: Another process holds it, and is not to be waited for.
        RunDrained: ``drain`` was asked for.
        StoreError: The store is away for too long.
    """

    tried = False

    async def take() -> RunHold:
        nonlocal tried
        if tried and drain is not None and drain.requested:
            raise RunDrained(f"run {request.run_id}: its worker ends before the store is back")
        tried = True
        return await _take_once(
            store,
            request,
            redelivered=redelivered,
            resume=resume,
            force=force,
            on_change=on_change,
            lease_s=lease_s,
            stored=stored,
            wait=wait,
            drain=drain,
            clock=clock,
        )

    # Where a transaction was made and its answer lost, the next try finds the run held, and waits for a lease.
    return await patiently(take, patience_s=store.patience_s, what=f"taking run {request.run_id}", clock=clock)


async def _take_once(
    store: Store,
    request: RunRequest,
    *,
    redelivered: bool,
    resume: bool,
    force: bool,
    on_change: OnChange,
    lease_s: float,
    stored: bool,
    wait: bool,
    drain: Drain | None,
    clock: Clock,
) -> RunHold:
    if not redelivered and not stored:
        # A delivery that is the first by its own account may be the older one of two: it lay with a process that was
        # frozen, whose connection the broker gave up meanwhile.
        try:
            asked_at_s = clock.monotonic()
            hold = await store.begin_run(
                request,
                resume=resume,
                on_change=on_change,
                only_if=lambda row: row is None or row.state != "running" or (force and not request.is_of(row.message)),
                forced=force,
            )
            return msgspec.structs.replace(hold, asked_at_s=asked_at_s)
        except RunTakenOver:
            logger.info("run %s: another process runs it; this one waits for that", request.run_id)
    while True:
        seen, waited = await _wait_for_holder(store, request.run_id, lease_s if wait else None, drain, clock)
        resume = resume and not waited  # what it asked for was done meanwhile
        if seen is None and stored:
            raise RunNotFound(f"no run {request.run_id!r} in the store: it was deleted, or it uses another store")
        try:
            asked_at_s = clock.monotonic()
            hold = await store.begin_run(
                request,
                True,
                resume=resume,
                on_change=on_change,
                only_if=lambda row: (None if row is None else row.updated_at) == seen,  # noqa: B023 - called at once
            )
            return msgspec.structs.replace(hold, asked_at_s=asked_at_s)
        except RunTakenOver as exc:
            # Two had waited for it. The other one is the holder now.
            if not wait:
                raise
            logger.info("%s", exc)


async def run_held(
    call: Call,
    source: Source,
    options: IterateOptions,
    store: Store,
    hold: RunHold,
    *,
    failed_only: bool = False,
    on_change: OnChange = "error",
    drain: Drain | None,
    lease_s: float,
    encode: Callable[[Any], bytes],
    decode: Callable[[bytes], Any],
    observe: Observe | None,
    clock: Clock,
) -> RunOutcome:
    """Run what is left of a run that is held."""
    rows = None
    if source.can_change and not hold.keyed:
        rows = RowDigests(hold.rows, compare=on_change != "resume", run_id=hold.run_id)
        if failed_only:
            # What has come since is left alone.
            source.limit = hold.progress.total
    recorder = StoreRecorder(
        store,
        hold,
        every_s=options.checkpoint_every_s,
        # Inline ones as well: a run that is resumed must give back what was done before.
        keep_results=options.results != "none",
        encode=encode,
        first_index=source.first_index,
        failed_only=failed_only,
        rows=rows,
        lease_s=lease_s,
        clock=clock,
    )
    if hold.cancel_requested:
        cancelled = RunCancelled(f"run {hold.run_id} was cancelled")
        await recorder.close("cancelled", error=str(cancelled))
        raise cancelled
    if observe is not None:
        observe(recorder.progress)
    try:
        await source.load()
    except PayloadError as exc:
        await recorder.close("failed", error=f"{type(exc).__name__}: {exc}")
        raise
    outcome = await run_items(call, source, options, recorder=recorder, drain=drain, clock=clock)
    if outcome.progress.failed > len(outcome.failures) < FAILURES_KEPT:
        # Items that failed in an earlier attempt, and that the source does not list any more.
        outcome = dataclasses.replace(
            outcome, failures=tuple(await store.errors(hold.run_id, limit=FAILURES_KEPT)), exceptions=()
        )
    if options.results != "inline":
        return outcome
    results = [pair async for pair in store.results(hold.run_id, decode)]
    return dataclasses.replace(outcome, results=results)


async def _wait_for_holder(
    store: Store, run_id: str, lease_s: float | None, drain: Drain | None, clock: Clock
) -> tuple[datetime | None, bool]:
    """Return once nobody holds the run: it has ended, was released, or its holder is silent for ``lease_s``.

    Returns:
        The time stamp by which this was decided, ``None`` where there is no such run; and whether somebody held it.
    """
    from asyncworker.store import silence_of

    silence = silence_of(store, "run", run_id, lease_s or 0.0, clock)
    waited = False
    while True:
        try:
            progress = await store.progress(run_id, merge=False)
        except RunNotFound:
            return None, False
        if progress.state != "running":
            return progress.updated_at, waited
        if lease_s is None:
            raise RunTakenOver(f"run {run_id}: another process holds it")
        if drain is not None and drain.requested:
            raise RunDrained(f"run {run_id}: another process holds it; this one waits for that no more")
        waited = True
        if await silence.outlasts(lease_s, progress.updated_at, functools.partial(wait_writable, store)):
            logger.warning("run %s: its holder has been silent for %g s; taking it over", run_id, lease_s)
            return progress.updated_at, True
        await clock.sleep(silence.pause_s)


async def outcome_of(
    progress: Progress, store: Store, options: IterateOptions, decode: Callable[[bytes], Any]
) -> RunOutcome:
    """Tell the outcome of a run that has ended, from the store."""
    failures = await store.errors(progress.run_id, limit=FAILURES_KEPT)
    inline = options.results == "inline"
    results = [pair async for pair in store.results(progress.run_id, decode)] if inline else None
    return RunOutcome(progress, tuple(failures), results, name=options.name or "")
