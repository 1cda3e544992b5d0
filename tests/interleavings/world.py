"""A world in which one holder moves at a time, as far as its next call of the store; a plan decides whose turn it is.

Each holder is the real code in tasks of one event loop. Before and after each call it waits at a *point* until it may
go on. Time stands still as long as somebody can move; then it goes to when the next sleeper is due.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

from asyncworker.store import Batch, RunHold, Store, look_at_holders

__all__ = ["Action", "Holder", "Step", "World", "process_lock"]

EPOCH = datetime(2030, 1, 1, tzinfo=UTC)

#: Passes of the loop after which a holder that was let go on has come to its next point, or sleeps.
PASSES = 40
#: Steps after which a schedule that has not ended never will.
MAX_STEPS = 3000

#: What a holder's process locks for itself: whoever dies must not keep it from the others.
process_lock: contextvars.ContextVar[asyncio.Lock] = contextvars.ContextVar("process_lock")

#: What may be done at a step: the name of it, and with whom.
Action = tuple[str, str]
#: A step of a schedule: what could be done, the usual first.
Step = list[Action]


class Holder:
    """A process: its clock, its view of the store, and what it runs."""

    def __init__(self, world: World, name: str) -> None:
        self.world = world
        self.name = name
        self.frozen = self.dead = self.ended = False
        #: It is not frozen meanwhile.
        self.undisturbed = 0
        self.parked: deque[tuple[str, asyncio.Future[None]]] = deque()
        self.sleepers: list[tuple[float, asyncio.Future[None]]] = []
        self.store = GatedStore(world.store, self)
        self.task: asyncio.Task[Any] | None = None

    # -- its clock ---------------------------------------------------------------------------------------------------

    def monotonic(self) -> float:
        return self.world.seconds

    def now(self) -> datetime:
        return EPOCH + timedelta(seconds=self.world.seconds)

    async def sleep(self, delay_s: float) -> None:
        future = asyncio.get_running_loop().create_future()
        self.sleepers.append((self.world.seconds + delay_s, future))
        await future

    # -- its calls ---------------------------------------------------------------------------------------------------

    async def point(self, name: str) -> None:
        """Wait for this holder's turn."""
        if self.dead or self.world.over:
            await asyncio.Event().wait()
        future = asyncio.get_running_loop().create_future()
        self.parked.append((name, future))
        await future

    @asynccontextmanager
    async def calling(self, name: str) -> AsyncIterator[None]:
        """Within, a call is under way, which takes no time; its answer may be long in coming."""
        await self.point(name)
        self.world.calls += 1
        try:
            yield
        finally:
            self.world.calls -= 1
            self.world.answered.set()
        await self.point(f"{name} answered")

    @contextlib.contextmanager
    def uncut(self) -> Any:
        """What is done within takes less time than a lease: the one thing that leases ask for."""
        self.undisturbed += 1
        try:
            yield
        finally:
            self.undisturbed -= 1

    @property
    def can_move(self) -> bool:
        self.parked = deque(each for each in self.parked if not each[1].done())
        return bool(self.parked) and not self.frozen and not self.dead

    @property
    def wakes_at(self) -> float | None:
        self.sleepers = [each for each in self.sleepers if not each[1].done()]
        if self.frozen or self.dead or not self.sleepers:
            return None
        return min(at for at, _ in self.sleepers)

    async def watch(self, lease_s: float) -> None:
        """Count how long others are silent, from now on and before anything is delivered here, as a worker does."""
        while True:
            await look_at_holders(self.store, lease_s / 3, self)
            await self.sleep(lease_s / 3)

    def wake(self) -> None:
        for at, future in self.sleepers:
            if at <= self.world.seconds and not future.done():
                future.set_result(None)


class GatedStore(Store):
    """The store as one holder sees it: each transaction is a call."""

    def __init__(self, real: Store, holder: Holder) -> None:
        super().__init__(real._engine)
        self._holder = holder

    async def begin_run(self, *args: Any, **kwargs: Any) -> RunHold:
        async with self._holder.calling("begin_run"):
            hold = await super().begin_run(*args, **kwargs)
            if hold.finished is None:
                self._holder.world.owners[hold.run_id] = self._holder
            return hold

    async def write(self, hold: RunHold, batch: Batch, first_chunk: int) -> bool:
        async with self._holder.calling(f"write {batch.state}"):
            return await super().write(hold, batch, first_chunk)

    @asynccontextmanager
    async def writing(self) -> AsyncIterator[Any]:
        async with self._holder.calling("writing"), super().writing() as connection:
            yield connection

    @asynccontextmanager
    async def reading(self) -> AsyncIterator[Any]:
        async with self._holder.calling("reading"), super().reading() as connection:
            yield connection


class World:
    """The holders of one schedule, and its account.

    Attributes:
        seconds: The time, the same for all.
        owners: Who took each run last.
        steps: What could be done at each step so far.
        log: What was done, to be read by whoever looks for a fault.
    """

    def __init__(self, store: Store, choose: Callable[[int, Step], int]) -> None:
        self.store = store
        self.seconds = 0.0
        self.calls = 0
        self.answered = asyncio.Event()
        self.holders: dict[str, Holder] = {}
        self.steps: list[Step] = []
        self.log: list[str] = []
        self.over = False
        self.owners: dict[str, Holder] = {}
        self._choose = choose
        self._last: Holder | None = None
        self._spawned: set[asyncio.Task[Any]] = set()

    def add(self, name: str, run: Callable[[Holder], Coroutine[Any, Any, Any]]) -> Holder:
        """Add a holder that runs something to its end."""
        holder = self.holders[name] = Holder(self, name)

        async def main() -> None:
            process_lock.set(asyncio.Lock())
            await holder.point("start")
            try:
                await run(holder)
            finally:
                holder.ended = True

        holder.task = asyncio.create_task(main(), name=name)
        return holder

    def spawn(self, coroutine: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        """Run something beside the rest of a holder; it is cancelled with the world, at the latest."""
        task = asyncio.create_task(coroutine)
        self._spawned.add(task)
        return task

    def say(self, text: str) -> None:
        """Write down what happened."""
        self.log.append(f"{self.seconds:6.2f} {text}")

    async def run(self) -> None:
        """Go on until all who live have ended."""
        try:
            for number in range(MAX_STEPS):
                await self._settle()
                for holder in self.holders.values():
                    if holder.task is not None and holder.task.done() and not holder.task.cancelled():
                        holder.task.result()
                if all(holder.ended or holder.dead for holder in self.holders.values()):
                    return
                step = self._step()
                self.steps.append(step)
                await self._do(step[self._choose(number, step)])
            raise AssertionError("the schedule does not end")
        finally:
            await self._clean_up()

    async def _settle(self) -> None:
        patience = 1000
        while True:
            while self.calls:
                self.answered.clear()
                await self.answered.wait()
            for _ in range(PASSES):
                await asyncio.sleep(0)
            if self.calls:
                continue
            if patience and not self._is_at_rest():  # it waits for something that is no call: a timer, a thread
                patience -= 1
                await asyncio.sleep(0.01)
                continue
            return

    def _is_at_rest(self) -> bool:
        """Tell whether somebody can move, sleeps or is frozen, or all have ended."""
        living = [holder for holder in self.holders.values() if not holder.dead and not holder.ended]
        return not living or any(each.can_move or each.frozen or each.wakes_at is not None for each in living)

    def _step(self) -> Step:
        able = [holder for holder in self.holders.values() if holder.can_move]
        frozen = [("thaw", holder.name) for holder in self.holders.values() if holder.frozen and not holder.dead]
        if not able:
            asleep = [holder for holder in self.holders.values() if holder.wakes_at is not None and not holder.ended]
            if asleep:
                return [("time", ""), *frozen]
            assert frozen, f"nobody can move: {[(each.name, each.ended) for each in self.holders.values()]}"
            return frozen
        usual = self._last if self._last in able else able[0]
        step = [("go", usual.name), *(("go", holder.name) for holder in able if holder is not usual), *frozen]
        others = [holder for holder in self.holders.values() if holder is not usual and not holder.dead]
        if others and not usual.ended:
            if not frozen and not usual.undisturbed:
                step.append(("freeze", usual.name))
            if all(not holder.dead for holder in self.holders.values()):
                step.append(("kill", usual.name))
        return step

    async def _do(self, action: Action) -> None:
        what, name = action
        if what == "time":
            awake = [holder for holder in self.holders.values() if holder.wakes_at is not None and not holder.ended]
            self.seconds = max(self.seconds, min(at for each in awake if (at := each.wakes_at) is not None))
            for holder in awake:
                holder.wake()
            return
        holder = self.holders[name]
        if what == "go":
            self._last = holder
            call, future = holder.parked.popleft()
            self.say(f"{name} goes on: {call}")
            future.set_result(None)
        elif what == "freeze":
            self.say(f"{name} is frozen at: {holder.parked[0][0]}")
            holder.frozen = True
        elif what == "thaw":
            self.say(f"{name} thaws")
            holder.frozen = False
            time.sleep(0.006)  # real time has passed for it, too: the slice of its pullers is over
            holder.wake()
        else:
            self.say(f"{name} dies at: {holder.parked[0][0]}")
            holder.dead = True

    async def _clean_up(self) -> None:
        self.over = True
        mine = asyncio.current_task()
        while left := [task for task in asyncio.all_tasks() if task is not mine and not task.done()]:
            for task in left:
                task.cancel()
            await asyncio.wait(left, timeout=0.01)
