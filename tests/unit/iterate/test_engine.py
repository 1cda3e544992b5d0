"""The engine without a store: what runs, how often, how many at once, and what becomes of failures."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from asyncworker.clock import SYSTEM_CLOCK, Clock
from asyncworker.errors import ItemError, ItemErrors, ItemTimeout, RunTimeout, SettingsError, SourceError
from asyncworker.iterate import (
    MemoryRecorder,
    RunOutcome,
    SkipItem,
    current_item,
    make_options,
    run_items,
    source_of,
)
from tests.unit.iterate.clocks import InstantClock, ManualClock, passes

Call = Callable[[dict[str, Any]], Awaitable[Any]]


async def run(call: Call, values: Any, clock: Clock = SYSTEM_CLOCK, **options: Any) -> RunOutcome:
    recorder = MemoryRecorder("run", "task", clock=clock)
    return await run_items(call, source_of({"x": values}), make_options(**options), recorder=recorder, clock=clock)


async def double(row: dict[str, Any]) -> int:
    return int(row["x"]) * 2


async def as_generator(values: Any, suspend: bool = False) -> AsyncIterator[Any]:
    for value in values:
        if suspend:
            await asyncio.sleep(0)
        yield value


# -- laws --------------------------------------------------------------------------------------------------------------


@settings(max_examples=60)
@given(
    suspensions=st.lists(st.integers(0, 4), max_size=60),
    concurrency=st.integers(1, 12),
    kind=st.sampled_from(["list", "iterator", "async", "slow async"]),
    failing=st.sets(st.integers(0, 59)),
    retries=st.integers(0, 2),
)
@pytest.mark.promise("never-more-than-concurrency")
def test_every_item_runs_and_never_too_many_at_once(
    suspensions: list[int], concurrency: int, kind: str, failing: set[int], retries: int
) -> None:
    async def scenario() -> None:
        count = len(suspensions)
        running = most = 0
        tries: Counter[int] = Counter()

        async def call(row: dict[str, Any]) -> int:
            nonlocal running, most
            running += 1
            most = max(most, running)
            try:
                for _ in range(suspensions[row["x"]]):
                    await asyncio.sleep(0)
                tries[row["x"]] += 1
                assert current_item().attempt == tries[row["x"]]
                if row["x"] in failing:
                    raise ValueError(row["x"])
                return int(row["x"])
            finally:
                running -= 1

        values = {
            "list": list(range(count)),
            "iterator": iter(range(count)),
            "async": as_generator(range(count)),
            "slow async": as_generator(range(count), suspend=True),
        }[kind]
        outcome = await run(call, values, InstantClock(), concurrency=concurrency, retries=retries, backoff_s=1)
        failed = {index for index in failing if index < count}
        assert most <= concurrency
        assert tries == {index: 1 + retries if index in failed else 1 for index in range(count)}
        assert outcome.results == [(index, index) for index in range(count) if index not in failed]
        progress = outcome.progress
        assert (progress.done, progress.failed, progress.total) == (count - len(failed), len(failed), count)
        assert progress.retried == retries * len(failed)
        assert progress.state == ("failed" if failed else "done")
        assert len(asyncio.all_tasks()) == 1

    asyncio.run(scenario())


async def test_an_empty_source_is_a_finished_run() -> None:
    assert (await run(double, [])).progress.state == "done"
    assert (await run(double, as_generator([]))).results == []


@pytest.mark.promise("never-more-than-concurrency")
async def test_a_source_is_read_only_when_a_puller_is_free() -> None:
    read = 0
    gate = asyncio.Event()

    async def source() -> AsyncIterator[int]:
        nonlocal read
        for value in range(100):
            read += 1
            yield value

    async def call(row: dict[str, Any]) -> None:
        await gate.wait()

    task = asyncio.create_task(run(call, source(), concurrency=7))
    await passes()
    assert read == 7
    gate.set()
    await task
    assert read == 100


async def test_a_slow_source_does_not_delay_a_retry_that_is_due() -> None:
    gate = asyncio.Event()
    seen: list[tuple[int, int]] = []

    async def source() -> AsyncIterator[int]:
        yield 0
        await gate.wait()
        yield 1

    async def call(row: dict[str, Any]) -> None:
        seen.append((row["x"], current_item().attempt))
        if len(seen) == 1:
            raise ValueError

    task = asyncio.create_task(run(call, source(), InstantClock(), concurrency=1, retries=1, backoff_s=1))
    await passes()
    assert seen == [(0, 1), (0, 2)]
    gate.set()
    await task
    assert seen[-1] == (1, 1)


async def test_items_that_never_suspend_leave_the_loop_its_turns() -> None:
    ticks = 0
    ended = False

    async def tick() -> None:
        nonlocal ticks
        while not ended:
            ticks += 1
            await asyncio.sleep(0)

    async def call(row: dict[str, Any]) -> None:
        sum(range(200))

    ticking = asyncio.create_task(tick())
    await run(call, range(20_000), concurrency=50, results="none")
    ended = True
    await ticking
    assert ticks > 5


async def test_an_async_source_is_opened_and_closed_in_one_task() -> None:
    tasks = []

    async def source() -> AsyncIterator[int]:
        try:
            async with asyncio.timeout(120):
                for value in range(10):
                    tasks.append(asyncio.current_task())
                    yield value
        finally:
            tasks.append(asyncio.current_task())

    await run(double, source(), concurrency=3)
    assert len(set(tasks)) == 1


# -- the current item --------------------------------------------------------------------------------------------------


async def test_current_item_is_right_in_child_tasks_and_threads() -> None:
    async def child() -> int:
        await asyncio.sleep(0)
        return current_item().index

    async def call(row: dict[str, Any]) -> list[int]:
        here = current_item()
        assert (here.key, here.attempt, here.run_id) == (row["x"], 1, "run")
        return [
            here.index,
            *await asyncio.gather(child(), child()),
            await asyncio.to_thread(lambda: current_item().index),
        ]

    outcome = await run(call, list("abcdef"), concurrency=3, key="x")
    assert outcome.results == [(index, [index] * 4) for index in range(6)]
    with pytest.raises(LookupError, match="no item is running"):
        current_item()


# -- retries -----------------------------------------------------------------------------------------------------------


@pytest.mark.promise("retry-wait-takes-no-slot")
async def test_waiting_for_a_retry_holds_no_puller() -> None:
    clock = ManualClock()
    order: list[int] = []

    async def call(row: dict[str, Any]) -> None:
        order.append(row["x"])
        if row["x"] == 0 and current_item().attempt == 1:
            raise ValueError

    task = asyncio.create_task(run(call, range(4), clock, concurrency=1, retries=1, backoff_s=10))
    await passes()
    assert order == [0, 1, 2, 3]
    await clock.advance(20)
    await task
    assert order == [0, 1, 2, 3, 0]


async def test_items_that_wait_for_a_retry_are_bounded() -> None:
    clock = ManualClock()
    read = 0

    def source() -> Any:
        nonlocal read
        for value in range(1000):
            read += 1
            yield value

    async def call(row: dict[str, Any]) -> None:
        if current_item().attempt == 1:
            raise ValueError

    task = asyncio.create_task(run(call, source(), clock, concurrency=2, retries=1, backoff_s=10))
    await passes(200)
    assert read <= 2 * 10 + 2
    while not task.done():
        await clock.advance(20)
    assert task.result().progress.done == 1000


async def test_backoff_doubles_within_its_bounds() -> None:
    clock = InstantClock()

    async def call(row: dict[str, Any]) -> None:
        raise ValueError

    await run(call, [1], clock, concurrency=1, retries=6, backoff_s=1, backoff_max_s=10)
    assert len(clock.slept) == 6
    for number, slept_s in enumerate(clock.slept, 1):
        assert 1 <= slept_s <= min(10, 2**number)


async def test_retry_on_and_fail_on_choose_what_is_tried_again() -> None:
    tries: Counter[str] = Counter()

    async def call(row: dict[str, Any]) -> None:
        tries[row["x"]] += 1
        raise {"os": OSError, "missing": FileNotFoundError, "value": ValueError}[row["x"]]

    await run(call, ["os", "missing", "value"], retries=2, backoff_s=0, retry_on=OSError, fail_on=(FileNotFoundError,))
    assert tries == {"os": 3, "missing": 1, "value": 1}


async def test_a_class_that_cannot_be_imported_ends_the_run_with_its_name() -> None:
    with pytest.raises(SettingsError, match=r"no\.such\.module:Error"):
        await run(double, [1], retry_on=["no.such.module:Error"])
    with pytest.raises(SettingsError, match="not an exception class"):
        await run(double, [1], retry_on=["os.path:join"])


# -- what items may raise ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "raised", [asyncio.CancelledError, KeyboardInterrupt, SystemExit, GeneratorExit, BaseException, StopAsyncIteration]
)
@pytest.mark.promise("item-fails-alone")
async def test_whatever_an_item_raises_fails_that_item_alone(raised: type[BaseException]) -> None:
    async def call(row: dict[str, Any]) -> int:
        if row["x"] == 1:
            await asyncio.sleep(0)
            raise raised("from the item")
        await asyncio.sleep(0)
        return int(row["x"])

    outcome = await run(call, range(4), concurrency=1)
    assert outcome.results == [(0, 0), (2, 2), (3, 3)]
    (failure,) = outcome.failures
    assert failure.index == 1
    assert failure.type.endswith(raised.__name__)
    with pytest.raises(Exception, match="from the item") as caught:
        outcome.raise_for_failures()
    if not issubclass(raised, Exception):
        assert isinstance(caught.value, ItemError)
        assert isinstance(caught.value.__cause__, raised)


async def test_an_item_that_cancels_its_own_task_fails_alone() -> None:
    async def call(row: dict[str, Any]) -> None:
        task = asyncio.current_task()
        assert task is not None
        # A request that is left over would break the time limits of the items that follow.
        assert not task.cancelling()
        if row["x"] == 0:
            task.cancel()
        await asyncio.sleep(0)

    outcome = await run(call, range(3), concurrency=1)
    assert (outcome.progress.done, outcome.progress.failed) == (2, 1)


@pytest.mark.promise("own-timeout-stays-itself")
async def test_the_limit_of_an_item_and_its_own_timeout_are_told_apart() -> None:
    async def call(row: dict[str, Any]) -> None:
        if row["x"] == "own":
            raise TimeoutError("the server was slow")
        if row["x"] == "limit":
            await asyncio.Event().wait()

    outcome = await run(call, ["own", "limit", "fine"], item_timeout_s=0.02)
    own, limit = outcome.failures
    assert (own.type, own.message) == ("TimeoutError", "the server was slow")
    assert (limit.type, limit.message) == ("asyncworker.errors.ItemTimeout", "took longer than 0.02 s")
    assert isinstance(outcome.exceptions[1], ItemTimeout)


@pytest.mark.promise("skipped-item-did-not-fail")
async def test_a_skipped_item_is_settled_without_a_result() -> None:
    async def call(row: dict[str, Any]) -> int:
        if row["x"] % 2:
            raise SkipItem
        return int(row["x"])

    outcome = await run(call, range(5), retries=3)
    assert outcome.results == [(0, 0), (2, 2), (4, 4)]
    assert (outcome.progress.skipped, outcome.progress.failed, outcome.progress.state) == (2, 0, "done")


async def test_a_call_that_is_wrong_in_itself_fails_the_item() -> None:
    outcome = await run(lambda row: 5, [1])  # type: ignore[arg-type, return-value]
    assert outcome.failures[0].type == "TypeError"


async def test_a_failure_has_all_that_is_known_of_it(caplog: pytest.LogCaptureFixture) -> None:
    async def call(row: dict[str, Any]) -> None:
        raise ValueError("bad \0 \udcff text")

    clock = InstantClock()
    outcome = await run(call, ["a.xml"], clock, retries=2)
    (failure,) = outcome.failures
    assert (failure.index, failure.key, failure.type, failure.attempt) == (0, "x='a.xml'", "ValueError", 3)
    assert failure.message == "bad \0 \udcff text"
    assert r"ValueError: bad \x00 \udcff text" in caplog.text
    assert 'raise ValueError("bad' in failure.traceback
    assert "asyncworker/iterate" not in failure.traceback
    assert failure.at == clock.now()


# -- policy ------------------------------------------------------------------------------------------------------------


async def test_one_failure_is_raised_as_itself_and_several_as_a_group() -> None:
    async def call(row: dict[str, Any]) -> None:
        if row["x"] < limit:
            raise ValueError(row["x"])

    limit = 0
    (await run(call, range(30))).raise_for_failures()
    limit = 1
    with pytest.raises(ValueError, match="0"):
        (await run(call, range(30))).raise_for_failures()
    limit = 25
    with pytest.raises(ItemErrors) as caught:
        (await run(call, range(30))).raise_for_failures()
    assert caught.value.message.startswith("25 of 30 items failed; first: item 0 (x=0): ValueError: 0")
    assert len(caught.value.exceptions) == 20


async def test_fail_fast_stops_pulling_and_cancels_what_is_in_flight() -> None:
    started: list[int] = []
    cancelled: list[int] = []

    async def call(row: dict[str, Any]) -> None:
        started.append(row["x"])
        if row["x"] == 2:
            raise ValueError("two")
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            cancelled.append(row["x"])
            raise

    outcome = await run(call, range(100), concurrency=5, on_error="fail_fast")
    assert sorted(cancelled) == [index for index in sorted(started) if index != 2]
    assert len(started) <= 5
    assert (outcome.progress.failed, outcome.progress.complete) == (1, False)
    with pytest.raises(ValueError, match="two"):
        outcome.raise_for_failures()


async def test_max_failures_stops_once_it_is_exceeded() -> None:
    async def call(row: dict[str, Any]) -> None:
        raise ValueError

    outcome = await run(call, range(100), concurrency=1, max_failures=3)
    assert (outcome.progress.failed, outcome.progress.done) == (4, 0)
    assert outcome.progress.error == "stopped: more than 3 items failed"


async def test_the_total_limit_ends_the_run() -> None:
    clock = ManualClock()

    async def call(row: dict[str, Any]) -> None:
        await asyncio.Event().wait()

    task = asyncio.create_task(run(call, range(10), clock, total_timeout_s=60))
    await passes()
    await clock.advance(61)
    with pytest.raises(RunTimeout, match="longer than 60 s"):
        await task


# -- the source --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("suspend", [None, False, True])
async def test_a_source_that_raises_lets_the_items_before_it_settle(suspend: bool | None) -> None:
    done: list[int] = []

    def sync_source() -> Any:
        yield from range(5)
        raise OSError("page 6 is gone")

    async def async_source() -> AsyncIterator[int]:
        async for value in as_generator(range(5), suspend=bool(suspend)):
            yield value
        raise OSError("page 6 is gone")

    async def call(row: dict[str, Any]) -> None:
        await asyncio.sleep(0.001)
        done.append(row["x"])

    with pytest.raises(SourceError, match=r"x \(.*source\) raised after 5 items: OSError: page 6 is gone") as caught:
        await run(call, sync_source() if suspend is None else async_source())
    assert isinstance(caught.value.__cause__, OSError)
    assert sorted(done) == list(range(5))


@pytest.mark.promise("item-that-cannot-be-stopped-keeps-its-slot")
async def test_an_item_that_goes_on_past_its_limit_is_named_in_the_log(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("asyncworker.iterate.engine.CANCEL_GRACE_S", 0.0)

    async def call(row: dict[str, Any]) -> int:
        while row["x"] == "b" and "goes on past" not in caplog.text:
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.sleep(0.01)
        return 1

    await run(call, ["a", "b", "c"], key="x", item_timeout_s=0.05, concurrency=1)
    (told,) = [record.getMessage() for record in caplog.records if "goes on past" in record.getMessage()]
    assert told == "run run: item 1 ('b') goes on past its limit of 0.05 s, and keeps its place"


@pytest.mark.parametrize("is_async", [False, True])
@pytest.mark.parametrize(
    "raised", [asyncio.CancelledError, KeyboardInterrupt, SystemExit, GeneratorExit, BaseException]
)
async def test_whatever_a_source_raises_ends_the_run_by_name(raised: type[BaseException], is_async: bool) -> None:
    class Rows:
        left = 3

        def __iter__(self) -> Any:
            return self

        def __next__(self) -> int:
            self.left -= 1
            if self.left < 0:
                raise raised("from the source")
            return self.left

        def __aiter__(self) -> Any:
            return self

        async def __anext__(self) -> int:
            await asyncio.sleep(0)
            return next(self)

    async def generator() -> AsyncIterator[int]:
        async for number in Rows():  # type: ignore[attr-defined]
            yield number

    done: list[int] = []

    async def call(row: dict[str, Any]) -> None:
        await asyncio.sleep(0)
        done.append(row["x"])

    async with asyncio.timeout(120):
        with pytest.raises(SourceError, match=f"raised after 3 items: .*{raised.__name__}: from the source"):
            await run(call, generator() if is_async else iter(Rows()))
    assert sorted(done) == [0, 1, 2]


async def test_a_key_may_be_an_integer_of_any_size() -> None:
    numbers = [2**64, 2**64 + 1, -(2**70), 2**80]
    outcome = await run(double, numbers, key="x")
    assert (outcome.progress.done, outcome.progress.failed) == (4, 0)


async def test_a_key_that_is_no_keyword_of_the_source_is_refused() -> None:
    with pytest.raises(SourceError, match="key is 'path': the source has x"):
        await run(double, [1], key="path")


async def test_two_items_of_one_key_cannot_both_be_that_item() -> None:
    outcome = await run(double, [1, 2, 1], key="x")
    assert outcome.results == [(0, 2), (1, 4)]
    assert outcome.failures[0].message == "item 2 has the same key as item 0: keys must be unique"


# -- cancelling --------------------------------------------------------------------------------------------------------


async def test_cancelling_the_run_cancels_its_items_and_closes_its_source() -> None:
    closed = []
    cancelled = 0

    async def source() -> AsyncIterator[int]:
        try:
            for value in range(100):
                yield value
        finally:
            closed.append(True)

    async def call(row: dict[str, Any]) -> None:
        nonlocal cancelled
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            cancelled += 1
            raise

    task = asyncio.create_task(run(call, source(), concurrency=4))
    await passes()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert (cancelled, closed) == (4, [True])
    assert len(asyncio.all_tasks()) == 1


async def test_an_item_that_will_not_be_cancelled_is_left_behind_and_named(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("asyncworker.iterate.engine.CANCEL_GRACE_S", 0.01)
    release = asyncio.Event()

    async def call(row: dict[str, Any]) -> None:
        while not release.is_set():
            try:
                await release.wait()
            except asyncio.CancelledError:
                continue

    task = asyncio.create_task(run(call, [1], concurrency=1))
    await passes()
    task.cancel()
    with caplog.at_level(logging.ERROR), pytest.raises(asyncio.CancelledError):
        await task
    assert "does not end after being cancelled" in caplog.text
    release.set()
    await passes()
    assert len(asyncio.all_tasks()) == 1
