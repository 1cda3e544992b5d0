"""Items of one puller know nothing of each other: by no cancellation, and by no context variable."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextvars import ContextVar
from typing import Any

import pytest

from asyncworker.iterate import RunOutcome, Source, current_item, execute_run, make_options, source_of
from asyncworker.limits import Semaphore

tenant: ContextVar[Any] = ContextVar("tenant", default="nobody")


async def run(call: Any, source: Source | int, **options: Any) -> RunOutcome:
    source = source_of({"n": list(range(source))}) if isinstance(source, int) else source
    return await asyncio.wait_for(execute_run(call, source, make_options(**{"backoff_s": 0.0, **options})), 30)


def values(outcome: RunOutcome) -> list[Any]:
    return [value for _, value in outcome.results or []]


class Late:
    """Cancels the task of an item once that item is over."""

    def __init__(self) -> None:
        self.cancels: list[Callable[[], bool]] = []
        self.answers: list[bool] = []

    def keep(self) -> None:
        task = asyncio.current_task()
        assert task is not None
        loop = asyncio.get_running_loop()
        asked = loop.create_future()
        # A timer and a callback run in the context that made them, as those of asyncio.timeout and TaskGroup do.
        asked.add_done_callback(lambda _: self.answers.append(task.cancel()))
        self.cancels.append(lambda: asked.set_result(None) or True)

    async def strike(self) -> None:
        for cancel in self.cancels:
            cancel()
        self.cancels.clear()
        await asyncio.sleep(0)
        await asyncio.sleep(0)


@pytest.mark.parametrize("swallow", [True, False])
async def test_an_item_that_cancels_its_own_task_and_returns_leaves_the_next_one_alone(swallow: bool) -> None:
    async def call(row: dict[str, Any]) -> int:
        task = asyncio.current_task()
        assert task is not None
        assert task.cancelling() == 0
        if row["n"] % 2 == 0:
            task.cancel()
            if swallow:
                with pytest.raises(asyncio.CancelledError):
                    await asyncio.sleep(0)
        else:
            await asyncio.sleep(0)
        return int(row["n"])

    outcome = await run(call, 10, concurrency=1)

    assert values(outcome) == list(range(10))
    assert outcome.progress.state == "done"


@pytest.mark.promise("late-cancellation-hits-nobody")
async def test_a_late_cancellation_finds_an_idle_puller_and_the_run_goes_on() -> None:
    late, idle = Late(), asyncio.Event()

    async def numbers() -> Any:
        yield 0
        await idle.wait()
        await late.strike()
        for n in range(1, 10):
            yield n

    async def call(row: dict[str, Any]) -> int:
        if row["n"] == 0:
            late.keep()
            asyncio.get_running_loop().call_soon(idle.set)
        return int(row["n"])

    outcome = await run(call, source_of({"n": numbers()}), concurrency=3)

    assert late.answers == [False]
    assert values(outcome) == list(range(10))
    assert outcome.progress.state == "done"


@pytest.mark.promise("late-cancellation-hits-nobody")
async def test_a_late_cancellation_does_not_reach_a_later_item_of_the_same_task() -> None:
    late = Late()

    async def call(row: dict[str, Any]) -> int:
        late.keep()
        if row["n"] > 0:
            await late.strike_but_the_last()
        return int(row["n"])

    async def strike_but_the_last() -> None:
        last = late.cancels.pop()
        await late.strike()
        late.cancels.append(last)

    late.strike_but_the_last = strike_but_the_last  # type: ignore[attr-defined]
    outcome = await run(call, 6, concurrency=1)

    assert values(outcome) == list(range(6))
    assert late.answers == [False] * 5


@pytest.mark.promise("complete-means-exhausted")
async def test_a_late_cancellation_during_a_retry_wait_loses_nothing() -> None:
    late = Late()

    async def call(row: dict[str, Any]) -> int:
        if current_item().attempt == 1:
            late.keep()
            raise ValueError(row["n"])
        return int(row["n"])

    async def strike() -> None:
        while len(late.cancels) < 6:
            await asyncio.sleep(0)
        await late.strike()

    striking = asyncio.create_task(strike())
    outcome = await run(call, 6, concurrency=6, retries=3, backoff_s=0.2)
    await striking

    assert late.answers == [False] * 6
    assert values(outcome) == list(range(6))
    assert outcome.progress.retried == 6


@pytest.mark.promise("complete-means-exhausted")
async def test_a_late_cancellation_while_others_wait_for_a_permit_loses_nothing() -> None:
    Semaphore("puller-test", 1)
    late = Late()

    async def call(row: dict[str, Any]) -> int:
        late.keep()
        await asyncio.sleep(0)
        asyncio.get_running_loop().call_soon(lambda: [cancel() for cancel in late.cancels] and late.cancels.clear())
        return int(row["n"])

    outcome = await run(call, 8, concurrency=4, limits=["puller-test"])

    assert values(outcome) == list(range(8))


@pytest.mark.parametrize("name", ["iterate-retries", "iterate-parked"])
async def test_items_that_wait_come_back_whoever_cancels_what_they_wait_for(name: str) -> None:
    Semaphore("puller-waits", 1)
    hit = asyncio.Event()

    async def call(row: dict[str, Any]) -> int:
        if row["n"] == 0 and not hit.is_set():
            hit.set()
            if name == "iterate-retries":
                raise ValueError("once more")
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            cancel()
        return int(row["n"])

    def cancel() -> None:
        struck = [task.cancel() for task in asyncio.all_tasks() if task.get_name() == name]
        assert struck

    async def strike() -> None:
        await hit.wait()
        while name == "iterate-retries" and not any(task.get_name() == name for task in asyncio.all_tasks()):
            await asyncio.sleep(0)
        if name == "iterate-retries":
            cancel()

    striking = asyncio.create_task(strike())
    limits = ["puller-waits"] if name == "iterate-parked" else []
    outcome = await run(call, 3, concurrency=3, retries=1, backoff_s=0.05, limits=limits)
    await striking

    assert values(outcome) == [0, 1, 2]
    assert outcome.progress.state == "done"


async def test_a_timer_within_the_item_still_cancels_it() -> None:
    async def call(row: dict[str, Any]) -> str:
        try:
            async with asyncio.timeout(0.01 if row["n"] % 2 else None):
                await asyncio.sleep(0.02 if row["n"] % 2 == 0 else 30)
        except TimeoutError:
            return "timed out"
        return "done"

    outcome = await run(call, 6, concurrency=2)

    assert values(outcome) == ["done", "timed out"] * 3


async def test_who_holds_the_task_of_a_running_item_may_cancel_it() -> None:
    tasks: dict[int, asyncio.Task[Any]] = {}

    async def call(row: dict[str, Any]) -> int:
        task = asyncio.current_task()
        assert task is not None
        tasks[row["n"]] = task
        if row["n"] == 0:
            await asyncio.sleep(30)
        while 0 not in tasks:
            await asyncio.sleep(0)
        tasks[0].cancel()
        return int(row["n"])

    outcome = await run(call, 2, concurrency=2)

    assert [failure.index for failure in outcome.failures] == [0]
    assert outcome.progress.done == 1


async def test_an_async_source_that_cancels_its_own_task_fails_the_run_by_name() -> None:
    async def numbers() -> Any:
        yield 0
        task = asyncio.current_task()
        assert task is not None
        task.cancel()
        await asyncio.sleep(0)
        yield 1

    async def call(row: dict[str, Any]) -> int:
        return int(row["n"])

    with pytest.raises(Exception, match=r"async_generator .*numbers.* raised after 1 items: .*CancelledError"):
        await run(call, source_of({"n": numbers()}))


@pytest.mark.parametrize("suspend", [True, False])
@pytest.mark.parametrize("fails", [True, False])
@pytest.mark.promise("item-context-is-its-own")
async def test_what_an_item_sets_in_its_context_no_other_item_sees(suspend: bool, fails: bool) -> None:
    tenant.set("caller")
    seen: list[Any] = []

    async def call(row: dict[str, Any]) -> None:
        seen.append(tenant.get())
        if row["n"] % 2 == 0:
            tenant.set(f"of {row['n']}")
        if suspend:
            await asyncio.sleep(0)
        if fails and current_item().attempt == 1:
            raise ValueError(row["n"])

    outcome = await run(call, 9, concurrency=2, retries=1)

    assert outcome.ok
    assert seen == ["caller"] * (18 if fails else 9)


async def test_a_value_that_cannot_be_compared_is_not_seen_by_another_item_either() -> None:
    class Odd:
        def __eq__(self, other: object) -> bool:
            raise ValueError("the truth value is ambiguous")

        __hash__ = object.__hash__

    base = Odd()
    tenant.set(base)
    seen = []

    async def call(row: dict[str, Any]) -> None:
        seen.append(tenant.get() is base)
        tenant.set(Odd())

    await run(call, 4, concurrency=1)

    assert seen == [True] * 4


async def test_a_source_of_the_callers_does_not_run_in_the_context_of_an_item() -> None:
    tenant.set("caller")
    seen: list[Any] = []

    def numbers() -> Any:
        for n in range(4):
            seen.append(tenant.get())
            with pytest.raises(LookupError):
                current_item()
            tenant.set(f"source {n}")
            yield n

    async def call(row: dict[str, Any]) -> Any:
        return tenant.get()

    outcome = await run(call, source_of({"n": numbers()}), concurrency=1)

    assert values(outcome) == ["caller"] * 4
    assert seen[0] == "caller"


async def test_an_item_that_swallows_its_time_limit_has_failed() -> None:
    async def call(row: dict[str, Any]) -> int:
        if row["n"] == 1:
            with pytest.raises(asyncio.CancelledError):
                await asyncio.Event().wait()
        return int(row["n"])

    outcome = await run(call, 3, item_timeout_s=0.05, concurrency=1)
    assert values(outcome) == [0, 2]
    assert [(each.index, each.type) for each in outcome.failures] == [(1, "asyncworker.errors.ItemTimeout")]
