"""A run that is split into partitions, as all who work on it see it; and how one of them is run."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import msgspec

from asyncworker.clock import SYSTEM_CLOCK, Clock
from asyncworker.iterate.drain import Drain
from asyncworker.iterate.engine import Call
from asyncworker.iterate.options import IterateOptions
from asyncworker.iterate.outcome import RunOutcome
from asyncworker.iterate.ranges import check_known_length, part_of, ranges_of
from asyncworker.iterate.runs import execute_run, outcome_of, request_for, run_held, take_run
from asyncworker.iterate.source import Source
from asyncworker.store import RunRequest

if TYPE_CHECKING:
    from asyncworker.store import Store

__all__ = ["SplitRun", "execute_partition"]


@dataclass(frozen=True, kw_only=True)
class SplitRun:
    """Description of a run, shared by the deliveries of all its partitions."""

    call: Call
    source: Source
    options: IterateOptions
    store: Store
    run_id: str
    task: str
    fingerprint: str
    lease_s: float = 30.0
    encode: Callable[[Any], bytes] = msgspec.json.encode
    decode: Callable[[bytes], Any] = msgspec.json.decode
    clock: Clock = SYSTEM_CLOCK

    def ranges(self) -> list[tuple[int, int]]:
        """Return the range of items of each partition.

        Raises:
            SourceError: The source's length is not known beforehand.
        """
        partitions = self.options.partitions
        return ranges_of(check_known_length(self.source, partitions), partitions)

    async def execute_whole(self, **how: Any) -> RunOutcome:
        """Run it undivided; the arguments are those of `execute_run` that are not held here."""
        return await execute_run(
            self.call,
            self.source,
            self.options,
            store=self.store,
            run_id=self.run_id,
            task=self.task,
            fingerprint=self.fingerprint,
            lease_s=self.lease_s,
            encode=self.encode,
            decode=self.decode,
            clock=self.clock,
            **how,
        )

    def part(self, number: int) -> tuple[Source, IterateOptions, RunRequest]:
        """The source, the options and the request of a partition."""
        start, stop = self.ranges()[number]
        source = part_of(self.source, start, stop)
        options = msgspec.structs.replace(
            self.options,
            partitions=1,
            # The whole's limit, and its result.
            total_timeout_s=None,
            results="none" if self.options.results == "none" else "stored",
        )
        part_id = f"{self.run_id}/{number}"
        fingerprint = f"{self.fingerprint}[{start}:{stop}]"
        return source, options, request_for(part_id, self.task, source, options, fingerprint, b"", "", self.clock)


async def execute_partition(run: SplitRun, number: int, *, wait: bool = True, drain: Drain | None = None) -> RunOutcome:
    """Run one partition, unless it has ended, or another process runs it.

    Args:
        run: What it is part of.
        number: Which one.
        wait: Wait for another process, and take over from a silent one.
        drain: Asks to stop early.

    Raises:
        RunNotFound: There is no such partition any more.
        RunTakenOver: Another process runs it now.
        AsyncWorkerError: See `run_items`.
    """
    source, options, request = run.part(number)
    hold = await take_run(
        run.store,
        request,
        redelivered=True,
        lease_s=run.lease_s,
        stored=True,
        wait=wait,
        drain=drain,
        clock=run.clock,
    )
    if hold.finished is not None:
        return await outcome_of(hold.finished, run.store, options, run.decode)
    return await run_held(
        run.call,
        source,
        options,
        run.store,
        hold,
        drain=drain,
        lease_s=run.lease_s,
        encode=run.encode,
        decode=run.decode,
        observe=None,
        clock=run.clock,
    )
