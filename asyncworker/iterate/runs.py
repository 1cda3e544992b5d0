"""A whole run: taken from the store, run, and closed there."""

from __future__ import annotations

import logging
import uuid
from collections.abc import Callable
from typing import Any

import msgspec

from asyncworker.clock import SYSTEM_CLOCK, Clock
from asyncworker.errors import RunNotFound
from asyncworker.iterate.checkpoint import MemoryRecorder
from asyncworker.iterate.drain import Drain
from asyncworker.iterate.engine import Call, run_items
from asyncworker.iterate.options import IterateOptions
from asyncworker.iterate.outcome import FAILURES_KEPT, RunOutcome
from asyncworker.iterate.recorder import StoreRecorder
from asyncworker.iterate.source import Source
from asyncworker.store import OnChange, Progress, RunRequest, Store

__all__ = ["execute_run"]

logger = logging.getLogger(__name__)


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
    redelivered: bool = False,
    resume: bool = False,
    on_change: OnChange = "error",
    drain: Drain | None = None,
    lease_s: float = 30.0,
    encode: Callable[[Any], bytes] = msgspec.json.encode,
    decode: Callable[[bytes], Any] = msgspec.json.decode,
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
        redelivered: The same message came again: a run that has ended is not run again, its outcome is told.
        resume: Continue a run that is complete as well: only what failed is run.
        drain: Asks the run to stop early, for the process to end.
        lease_s: A message that came again waits for the run's holder, and takes over once that has shown no sign of
            life for so long. What a holder still writes after that is refused.
        on_change: Where the fingerprint is not the checkpoint's: raise, start afresh, or continue.
        encode: Makes bytes of a result; what it raises fails the item.
        decode: The reverse.
        clock: Time.

    Returns:
        The outcome, failed items or not; the caller raises through its ``raise_for_failures``.

    Raises:
        RunError: The run could not go on; see `run_items` and `Store.begin_run` for which.
        SourceError: The source raised.
    """
    run_id = run_id or str(uuid.uuid4())
    inline = options.results == "inline"
    if store is None:
        memory = MemoryRecorder(run_id, task, total=source.total, keep_results=options.results != "none", clock=clock)
        return await run_items(call, source, options, recorder=memory, drain=drain, clock=clock)
    if redelivered and not resume:
        await _wait_for_holder(store, run_id, lease_s, clock)
    hold = await store.begin_run(
        RunRequest(
            run_id=run_id,
            task=task,
            fingerprint=fingerprint,
            total=source.total,
            keyed=options.key is not None,
            request=request,
            started_at=clock.now(),
        ),
        redelivered,
        resume=resume,
        on_change=on_change,
    )
    if hold.finished is not None:
        return await _outcome_of(hold.finished, store, inline, decode)
    recorder = StoreRecorder(
        store,
        hold,
        every_s=options.checkpoint_every_s,
        # Inline ones as well: a run that is resumed must give back what was done before.
        keep_results=options.results != "none",
        encode=encode,
        clock=clock,
    )
    outcome = await run_items(call, source, options, recorder=recorder, drain=drain, clock=clock)
    if not inline:
        return outcome
    results = [pair async for pair in store.results(run_id, decode)]
    return RunOutcome(outcome.progress, outcome.failures, results, outcome.exceptions)


async def _wait_for_holder(store: Store, run_id: str, lease_s: float, clock: Clock) -> None:
    """Return once nobody holds the run: it has ended, was released, or its holder is silent for ``lease_s``.

    The holder's time stamps are only compared with each other: the clocks of two machines need not agree.
    """
    seen, seen_at_s = None, clock.monotonic()
    while True:
        try:
            progress = await store.progress(run_id)
        except RunNotFound:
            return
        if progress.state != "running":
            return
        if progress.updated_at != seen:
            seen, seen_at_s = progress.updated_at, clock.monotonic()
        elif clock.monotonic() - seen_at_s >= lease_s:
            logger.warning("run %s: its holder has been silent for %g s; taking it over", run_id, lease_s)
            return
        await clock.sleep(min(1.0, lease_s / 5))


async def _outcome_of(progress: Progress, store: Store, inline: bool, decode: Callable[[bytes], Any]) -> RunOutcome:
    failures = await store.errors(progress.run_id, limit=FAILURES_KEPT)
    results = [pair async for pair in store.results(progress.run_id, decode)] if inline else None
    return RunOutcome(progress, tuple(failures), results)
