"""Runs that are split: ranges, one progress and one result, lost holders, and an end that comes once."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asyncworker.errors import ItemErrors, RunCancelled, RunChanged, RunDrained, RunTimeout, SourceError
from asyncworker.iterate import (
    Drain,
    execute_partition,
    execute_split,
    partitions,
    source_of,
    source_of_rows,
)
from asyncworker.iterate.ranges import check_known_length, part_of, ranges_of
from asyncworker.iterate.recorder import StoreRecorder
from asyncworker.store import Partitions, RunRequest, Store, look_at_holders
from tests.unit.iterate.clocks import ManualClock
from tests.unit.iterate.cluster import Cluster


@pytest.fixture(autouse=True)
def frequent_writes(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(StoreRecorder, "HEARTBEAT_S", 0.01)
    monkeypatch.setattr(partitions, "WATCH_S", 0.01)
    yield


# -- ranges ------------------------------------------------------------------------------------------------------------


@given(st.integers(0, 500), st.integers(1, 40))
def test_ranges_cover_everything_once_and_are_even(total: int, count: int) -> None:
    ranges = ranges_of(total, count)
    assert [index for start, stop in ranges for index in range(start, stop)] == list(range(total))
    sizes = [stop - start for start, stop in ranges]
    assert max(sizes) - min(sizes) <= 1
    assert len(ranges) == max(1, min(count, total))


@given(
    sizes=st.lists(st.integers(1, 7), min_size=1, max_size=3),
    kind=st.sampled_from(["list", "range", "dict", "keys"]),
    mode=st.sampled_from(["product", "zip", "rows"]),
    count=st.integers(1, 9),
)
def test_the_parts_of_a_source_are_the_source(sizes: list[int], kind: str, mode: str, count: int) -> None:
    make: Any = {
        "list": lambda size: list(range(size)),
        "range": range,
        "dict": lambda size: {number: str(number) for number in range(size)},
        "keys": lambda size: dict.fromkeys(range(size)).keys(),
    }[kind]
    if mode == "rows":
        source = source_of_rows([{"x": value} for value in range(sizes[0])])
    elif mode == "zip":
        source = source_of({f"c{at}": make(sizes[0]) for at in range(len(sizes))}, mode="zip")
    else:
        source = source_of({f"c{at}": make(size) for at, size in enumerate(sizes)})
    whole = list(source.open())
    total = check_known_length(source, count)
    joined: list[Any] = []
    for start, stop in ranges_of(total, count):
        part = part_of(source, start, stop)
        assert (part.total, part.first_index) == (stop - start, start)
        joined += part.open()
    assert joined == whole


def test_a_length_that_is_not_known_is_told() -> None:
    async def pages() -> AsyncIterator[int]:
        yield 1

    for source in (source_of({"x": pages()}), source_of({"x": iter([1])})):
        with pytest.raises(SourceError, match=r"partitions is 3, but how long x .* cannot be known beforehand"):
            check_known_length(source, 3)


# -- whole runs --------------------------------------------------------------------------------------------------------


@pytest.mark.promise("partitions-are-one-run")
async def test_one_run_one_progress_one_result(store: Store) -> None:
    cluster = Cluster(store, results="inline")
    seen: list[Any] = []
    outcome = await cluster.execute(observe=seen.append)
    assert cluster.sent == [1, 2, 3]
    assert cluster.ran == Counter(range(300))
    assert outcome.results == await cluster.results() == [(index, [index]) for index in range(300)]
    progress = await store.progress("run")
    assert progress == outcome.progress == seen[0]()
    assert (progress.state, progress.done, progress.total, progress.complete) == ("done", 300, 300, True)
    assert [run.run_id for run in await store.runs()] == ["run"]
    assert [part.progress.done for part in await Partitions(store).look("run")] == [75] * 4


async def test_messages_that_are_lost_cost_only_time(store: Store) -> None:
    cluster = Cluster(store)
    cluster.loses_messages = True
    assert (await cluster.execute()).progress.done == 300
    assert cluster.ran == Counter(range(300))


async def test_failures_are_merged_in_the_order_of_the_source_and_only_they_run_again(store: Store) -> None:
    cluster = Cluster(store)
    cluster.failing = frozenset({299, 3, 80})
    outcome = await cluster.execute()
    assert [failure.index for failure in await store.errors("run")] == [3, 80, 299]
    assert [failure.index for failure in await store.errors("run", offset=1, limit=1)] == [80]
    with pytest.raises(ItemErrors, match="3 of 300 items failed; first: item 3"):
        outcome.raise_for_failures()
    cluster.failing = frozenset()
    again = await cluster.execute(resume=True)
    assert (again.progress.done, again.progress.failed, again.progress.state) == (300, 0, "done")
    assert {number: ran for number, ran in cluster.ran.items() if ran > 1} == {3: 2, 80: 2, 299: 2}
    assert await cluster.results() == [(index, [index]) for index in range(300)]


@pytest.mark.parametrize(("before", "after"), [(4, 1), (1, 4), (4, 2), (2, 4)])
@pytest.mark.promise("changed-run-is-refused")
async def test_a_run_that_was_cut_otherwise_is_refused_before_any_work(store: Store, before: int, after: int) -> None:
    first = Cluster(store, partitions=before, on_error="fail_fast")
    first.failing = frozenset({150})
    await first.run(on_change="error")
    stopped = await store.progress("run")
    assert 0 < stopped.settled < 300
    second = Cluster(store, partitions=after)
    with pytest.raises(RunChanged, match=r"it was .*, and now is to be .*; restart it, or start a run of another id"):
        await second.run(message="another")
    assert (second.ran, second.sent) == (Counter(), [])
    assert await store.progress("run") == stopped
    again = Cluster(store, partitions=before)
    assert (await again.run(message="a third")).progress.done == 300
    restarted = Cluster(store, partitions=after)
    assert (await restarted.run(message="a fourth", on_change="restart")).progress.done == 300


@pytest.mark.parametrize("failing", [3, 299])
async def test_the_one_failure_is_raised_as_itself_wherever_it_was(store: Store, failing: int) -> None:
    cluster = Cluster(store)
    cluster.failing = frozenset({failing})
    with pytest.raises(ValueError, match=str(failing)):
        (await cluster.execute()).raise_for_failures()


@pytest.mark.parametrize("options", [{"on_error": "fail_fast"}, {"max_failures": 2}])
async def test_a_limit_of_failures_stops_all_partitions(store: Store, options: dict[str, Any]) -> None:
    cluster = Cluster(store, count=100_000, **options)
    cluster.failing = frozenset({10, 25_010, 50_010})
    outcome = await cluster.execute()
    assert (outcome.progress.state, outcome.progress.complete) == ("failed", False)
    assert "stopped" in outcome.progress.error
    assert outcome.progress.done < 100_000


async def test_cancel_reaches_all_partitions(store: Store) -> None:
    cluster = Cluster(store)
    cluster.gate.clear()
    running = asyncio.create_task(cluster.execute())
    while sum(part.progress.state == "running" for part in await Partitions(store).look("run")) < 4:
        await asyncio.sleep(0.01)
    await store.request_cancel("run")
    with pytest.raises(RunCancelled):
        await running
    assert {part.progress.state for part in await Partitions(store).look("run")} == {"cancelled"}
    assert (await store.progress("run")).state == "cancelled"
    cluster.gate.set()
    assert (await cluster.execute(resume=True)).progress.done == 300
    assert cluster.ran == Counter(range(300))


async def test_a_partition_nobody_has_begun_is_not_begun_after_a_cancel(store: Store) -> None:
    cluster = Cluster(store)
    cluster.loses_messages = True
    cluster.gate.clear()
    running = asyncio.create_task(cluster.execute())
    while not cluster.sent:
        await asyncio.sleep(0.01)
    await store.request_cancel("run")
    with pytest.raises(RunCancelled):
        await running
    late = await execute_partition(cluster.run_of(), 3)
    assert late.progress.state == "cancelled"
    assert not cluster.ran


async def test_the_total_limit_is_that_of_the_whole(store: Store) -> None:
    cluster = Cluster(store, total_timeout_s=0.2)
    cluster.gate.clear()
    with pytest.raises(RunTimeout, match=r"longer than 0\.2 s"):
        await cluster.execute()
    assert (await store.progress("run")).state == "failed"


async def test_a_silent_holder_of_a_partition_loses_it(store: Store) -> None:
    cluster = Cluster(store)
    cluster.lease_s = 2.0
    run = cluster.run_of()
    requests = [run.part(number)[2] for number in range(4)]
    whole = RunRequest(run_id="run", task="task", fingerprint=run.fingerprint, total=300)
    hold = await store.begin_run(whole)
    await Partitions(store).plan(hold, requests, again=False)
    lost = await store.begin_run(requests[2])  # and never heard of again
    outcome = await cluster.execute(redelivered=True)
    assert outcome.progress.done == 300
    assert cluster.sent.count(2) >= 1
    assert cluster.ran == Counter(range(300))
    (part,) = [part for part in await Partitions(store).look("run") if part.number == 2]
    assert part.fence > lost.fence


async def test_a_partition_whose_holder_was_seen_to_be_silent_is_freed_at_once(store: Store) -> None:
    """A worker that takes the whole over has watched all holders since it started: it does not begin to count anew."""
    cluster = Cluster(store)
    cluster.lease_s = 3600
    run = cluster.run_of()
    requests = [run.part(number)[2] for number in range(4)]
    hold = await store.begin_run(RunRequest(run_id="run", task="task", fingerprint=run.fingerprint, total=300))
    await Partitions(store).plan(hold, requests, again=False)
    await store.begin_run(requests[2])  # and neither the whole nor this is heard of again
    clock = ManualClock()
    for _ in range(12):
        await look_at_holders(store, cluster.lease_s / 10, clock)
        clock.seconds += cluster.lease_s / 10
    outcome = await cluster.execute(redelivered=True)
    assert outcome.progress.done == 300
    assert cluster.ran == Counter(range(300))


async def test_a_holder_of_the_whole_that_dies_is_followed_by_another(store: Store) -> None:
    """Its own partition is lost with it; those of others go on, and what they finished is not run again."""
    cluster = Cluster(store)
    hanging = asyncio.Event()

    async def hang(row: dict[str, Any]) -> Any:
        await hanging.wait()

    first = asyncio.create_task(execute_split(cluster.run_of(call=hang), cluster.send))
    while sum(part.progress.complete for part in await Partitions(store).look("run")) < 3:
        await asyncio.sleep(0.01)
    first.cancel()
    await asyncio.wait([first])
    outcome = await cluster.execute(redelivered=True)
    assert (outcome.progress.done, outcome.progress.attempt) == (300, 2)
    assert cluster.ran == Counter(range(300))


async def test_a_second_delivery_is_told_the_outcome_and_runs_nothing(store: Store) -> None:
    cluster = Cluster(store)
    first = await cluster.execute()
    again = await cluster.execute(redelivered=True)
    assert again.progress == first.progress
    late = await execute_partition(cluster.run_of(), 1)
    assert late.progress.done == 75
    assert cluster.ran == Counter(range(300))


async def test_a_drained_holder_puts_the_run_back(store: Store) -> None:
    cluster = Cluster(store)
    cluster.loses_messages = True
    drain = Drain(grace_s=30)

    class Draining(Cluster):
        async def call(self, row: dict[str, Any]) -> Any:
            if row["x"] == 20:
                drain.request()
            return await super().call(row)

    draining = Draining(store)
    draining.loses_messages = True
    with pytest.raises(RunDrained):
        await draining.execute(drain=drain)
    assert (await store.progress("run")).state == "pending"
    assert 20 < draining.ran.total() < 40
    outcome = await cluster.execute(redelivered=True)
    assert outcome.progress.done == 300
    assert cluster.ran + draining.ran == Counter(range(300))


async def test_a_run_that_starts_afresh_forgets_its_partitions(store: Store) -> None:
    await Cluster(store).execute()
    cluster = Cluster(store, count=40, partitions=2)
    outcome = await cluster.execute(on_change="restart")
    assert (outcome.progress.done, outcome.progress.attempt) == (40, 1)
    assert len(await Partitions(store).look("run")) == 2
    assert await cluster.results() == [(index, [index]) for index in range(40)]
