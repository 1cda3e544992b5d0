"""Limits of one process: never more than so many, in order, and nothing is lost by a cancellation."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from asyncworker.errors import LimitError, LimitTimeout, SettingsError
from asyncworker.limits import Permit, RateLimit, Semaphore, holding, limit, uses_of
from asyncworker.limits.local import LocalRate, LocalSemaphore
from tests.unit.iterate.clocks import InstantClock


@pytest.mark.promise("limit-first-come-first-served")
async def test_never_more_than_so_many_and_in_order_of_arrival() -> None:
    Semaphore("s", 3)
    now = most = 0
    order = []

    async def user(number: int) -> None:
        nonlocal now, most
        async with limit("s"):
            now += 1
            most = max(most, now)
            order.append(number)
            await asyncio.sleep(0)
            now -= 1

    await asyncio.gather(*[user(number) for number in range(50)])
    assert most == 3
    assert order == list(range(50))


async def test_each_key_has_permits_of_its_own() -> None:
    semaphore = Semaphore("s", 1)
    async with limit("s", key="a"), limit("s", key="b"), limit("s"):
        assert semaphore.try_acquire("a") is None
        with pytest.raises(LimitTimeout, match="limit s for key 'a': no permit within 0 s"):
            async with limit("s", key="a", timeout_s=0):
                raise AssertionError("unreachable")
    async with limit("s", key="a", timeout_s=0):
        pass


async def test_one_use_may_be_entered_by_many_tasks_and_within_itself() -> None:
    Semaphore("s", 4)
    use = limit("s")

    async def user() -> None:
        async with use, use:
            await asyncio.sleep(0)

    await asyncio.gather(user(), user())
    async with use, use, use, use:
        with pytest.raises(LimitTimeout):
            await Semaphore("s", 4).acquire(timeout_s=0)


@pytest.mark.promise("limit-timeout-names-holders")
async def test_a_time_out_names_the_holders() -> None:
    semaphore = Semaphore("s", 1)
    held = await semaphore.acquire(holder="the one")
    with pytest.raises(LimitTimeout, match=r"0 more wait; held by the one since \d\d:\d\d:\d\d"):
        await semaphore.acquire(timeout_s=0)
    held.release()
    held.release()  # more than once is once
    one, other = await semaphore.acquire(timeout_s=0), semaphore.try_acquire()
    assert one is not None
    assert other is None
    assert semaphore.acquired == 2
    assert semaphore.waits == 1


async def test_the_number_may_change_while_it_is_in_use() -> None:
    semaphore = Semaphore("s", 1)
    first = await semaphore.acquire()
    waiting = asyncio.create_task(semaphore.acquire())
    await asyncio.sleep(0)
    semaphore.change(2)
    second = await waiting
    semaphore.change(1)
    first.release()
    assert semaphore.try_acquire() is None
    second.release()
    assert semaphore.try_acquire() is not None


Step = st.tuples(st.sampled_from(["start", "cancel", "finish", "pass", "change"]), st.integers(0, 5))


@given(st.lists(Step, max_size=60), st.integers(1, 3))
@settings(max_examples=60)
def test_no_permit_is_lost_or_doubled(steps: list[tuple[str, int]], permits: int) -> None:
    async def run() -> None:
        semaphore = Semaphore("s", permits)
        highest = permits
        inside: set[int] = set()
        ends: dict[asyncio.Task[None], asyncio.Event] = {}

        async def user(number: int, end: asyncio.Event) -> None:
            async with limit("s"):
                inside.add(number)
                try:
                    await end.wait()
                finally:
                    inside.discard(number)

        for what, how in steps:
            live = [task for task in ends if not task.done()]
            if what == "start":
                for _ in range(how):
                    end = asyncio.Event()
                    ends[asyncio.create_task(user(len(ends), end))] = end
            elif what == "cancel" and live:
                live[how % len(live)].cancel()
            elif what == "finish" and live:
                ends[live[how % len(live)]].set()
            elif what == "change":
                semaphore.change(how + 1)
                highest = max(highest, how + 1)
            else:
                for _ in range(how):
                    await asyncio.sleep(0)
            assert len(inside) <= highest
        for end in ends.values():
            end.set()
        await asyncio.gather(*ends, return_exceptions=True)
        assert semaphore.standing() == {}
        semaphore.change(permits)
        assert [bool(semaphore.try_acquire()) for _ in range(permits + 1)] == [True] * permits + [False]

    from asyncworker.limits import limits

    limits.clear()
    asyncio.run(run())


@given(
    st.floats(0.5, 200),
    st.integers(1, 5),
    st.lists(st.tuples(st.integers(0, 8), st.floats(0, 2)), min_size=1, max_size=8),
)
@settings(max_examples=60)
def test_the_law_of_the_rate(amount: float, burst: int, arrivals: list[tuple[int, float]]) -> None:
    """In any time t there are no more than burst + amount * t."""

    class Watched(LocalRate):
        def _take(self, permit: Permit) -> bool:
            taken = super()._take(permit)
            if taken:
                times.append(clock.monotonic())
            return taken

        def _put_back(self, permit: Permit) -> None:
            times.pop()
            super()._put_back(permit)

    times: list[float] = []
    clock = InstantClock()

    async def run() -> None:
        place = Watched(lambda: 1 / amount, burst, clock)
        users: list[asyncio.Task[None]] = []
        for count, pause_s in arrivals:
            users += [asyncio.create_task(place.acquire(Permit(place, "r", "", "-"))) for _ in range(count)]
            await clock.sleep(pause_s)
        await asyncio.gather(*users)
        assert len(times) == len(users)
        for first in range(len(times)):
            for last in range(first, len(times)):
                assert last - first + 1 <= burst + amount * (times[last] - times[first]) + 1e-6

    asyncio.run(run())


async def test_tokens_go_in_order_of_arrival() -> None:
    clock = InstantClock()
    place = LocalRate(lambda: 1.0, 2, clock)
    order: list[int] = []

    async def user(number: int) -> None:
        await place.acquire(Permit(place, "r", "", "-"))
        order.append(number)

    await asyncio.gather(*[user(number) for number in range(20)])
    assert order == list(range(20))
    assert sum(clock.slept) == pytest.approx(18)


async def test_a_rate_that_nobody_waits_for_any_more_keeps_its_token() -> None:
    rate = RateLimit("r", 1, per_s=3600)
    assert (await rate.acquire()).held
    waiting = [asyncio.create_task(rate.acquire()) for _ in range(3)]
    await asyncio.sleep(0)
    assert rate.standing()[""].waiting == 3
    for task in waiting:
        task.cancel()
    await asyncio.wait(waiting)
    assert rate.standing() == {}


async def test_several_at_once_are_taken_in_one_order() -> None:
    Semaphore("a", 1)
    Semaphore("b", 1)
    done = []

    async def user(names: list[str]) -> None:
        for _ in range(20):
            async with holding([limit(name, by="host") for name in names], {"host": "h"}):
                await asyncio.sleep(0)
        done.append(names)

    await asyncio.gather(user(["a", "b"]), user(["b", "a"]))
    assert len(done) == 2


async def test_a_key_that_the_call_does_not_have_is_told() -> None:
    Semaphore("s", 1)
    with pytest.raises(
        SettingsError, match=r"limit\('s', by='host'\): the call has no such argument by name; has path"
    ):
        async with holding([limit("s", by="host")], {"path": "/"}):
            raise AssertionError("unreachable")
    with pytest.raises(SettingsError, match="is for tasks and items"):
        async with limit("s", by="host"):
            raise AssertionError("unreachable")


def test_declarations_are_checked() -> None:
    Semaphore("s", 2)
    Semaphore("s", 2)
    for wrong in (
        lambda: Semaphore("s", 3),
        lambda: RateLimit("s", 2),
        lambda: Semaphore("zero", 0),
        lambda: Semaphore("a b", 1),
        lambda: Semaphore("short", 1, cluster=True, lease_s=0.5),
        lambda: RateLimit("r", 1, per_s=0),
        lambda: RateLimit("r", 1, burst=0),
        lambda: limit("s", key="k", by="host"),
    ):
        with pytest.raises(SettingsError, match="limit"):
            wrong()


async def test_an_unknown_name_is_told_with_those_that_are_known() -> None:
    Semaphore("sftp", 2)
    with pytest.raises(SettingsError, match="no limit 'sfpt' is declared in this process; known: sftp"):
        async with limit("sfpt"):
            raise AssertionError("unreachable")


@pytest.mark.parametrize("passes", range(6))
async def test_a_cancel_in_any_pass_leaves_the_permit_free(passes: int) -> None:
    semaphore = Semaphore("s", 1)
    first = await semaphore.acquire()

    async def user() -> None:
        async with limit("s"):
            await asyncio.Event().wait()

    waiting = asyncio.create_task(user())
    for turn in range(passes):
        if turn == 2:
            first.release()
        await asyncio.sleep(0)
    first.release()
    waiting.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await waiting
    assert semaphore.try_acquire() is not None


async def test_a_block_that_another_task_ends_gives_its_permit_back() -> None:
    semaphore = Semaphore("s", 1)

    async def numbers() -> AsyncIterator[int]:
        async with limit("s"):
            yield 1
            yield 2

    async def left_early() -> Any:
        generator = numbers()
        async for _ in generator:
            return generator
        raise AssertionError("unreachable")

    generator = await asyncio.create_task(left_early())
    assert semaphore.try_acquire() is None
    await asyncio.create_task(generator.aclose())
    permit = semaphore.try_acquire()
    assert permit is not None
    permit.release()
    stack = contextlib.AsyncExitStack()
    use = limit("s")
    await asyncio.create_task(stack.enter_async_context(use))
    async with contextlib.AsyncExitStack() as mine:
        await asyncio.create_task(stack.aclose())
        await mine.enter_async_context(use)
    assert semaphore.try_acquire() is not None


async def test_blocks_may_end_in_any_order() -> None:
    first, second = Semaphore("a", 1), Semaphore("b", 1)
    one, other = limit("a"), limit("b")
    await one.__aenter__()
    await other.__aenter__()
    await one.__aexit__(None, None, None)
    assert second.try_acquire() is None
    again = first.try_acquire()
    assert again is not None
    await other.__aexit__(None, None, None)
    assert second.try_acquire() is not None


async def test_a_task_that_would_wait_for_itself_is_told() -> None:
    Semaphore("s", 2)
    async with limit("s", key="a"), limit("s", key="a"):
        with pytest.raises(LimitError, match="limit s for key 'a': this task holds all 2 permits"):
            async with limit("s", key="a"):
                raise AssertionError("unreachable")
        async with limit("s", key="b"):
            pass
    async with limit("s", key="a"):
        pass


async def test_one_limit_twice_in_a_list_is_refused() -> None:
    Semaphore("s", 5)
    for twice in (
        ["s", "s"],
        [limit("s", key="a"), limit("s", key="a")],
        [limit("s", by="host"), limit("s", by="host")],
    ):
        with pytest.raises(SettingsError, match="limits has 's' twice"):
            uses_of(twice)
    both = uses_of([limit("s", by="here"), limit("s", by="there")])
    async with holding(both, {"here": "a", "there": "b"}):
        pass
    with pytest.raises(SettingsError, match="limits has 's' twice for 'a'"):
        async with holding(both, {"here": "a", "there": "a"}):
            raise AssertionError("unreachable")


@pytest.mark.parametrize("amount", [float("nan"), float("inf"), -1, 0, True, "5"])
async def test_numbers_that_no_limit_can_have(amount: Any) -> None:
    rate, semaphore = RateLimit("r", 5), Semaphore("s", 5)
    for change in (rate.change, semaphore.change, lambda each: RateLimit("other", each)):
        with pytest.raises(SettingsError, match="is not allowed"):
            change(amount)
    for wrong in ({"burst": 1.5}, {"burst": 0}, {"per_s": float("nan")}, {"per_s": float("inf")}):
        with pytest.raises(SettingsError, match="per_s is"):
            RateLimit("other", 5, **wrong)  # type: ignore[arg-type]
    with pytest.raises(SettingsError, match="lease_s is nan"):
        Semaphore("other", 5, cluster=True, lease_s=float("nan"))


async def test_a_rate_that_is_raised_reaches_those_who_wait() -> None:
    rate = RateLimit("r", 1, per_s=3600)
    await rate.acquire()
    waiting = [asyncio.create_task(rate.acquire()) for _ in range(3)]
    await asyncio.sleep(0)
    rate.change(1_000_000)
    async with asyncio.timeout(120):
        await asyncio.gather(*waiting)


async def test_a_rate_that_is_lowered_counts_from_the_last_token() -> None:
    clock = InstantClock()
    interval_s = 1.0
    rate = LocalRate(lambda: interval_s, 1, clock)
    permits = [Permit(rate, "r", "", "-") for _ in range(3)]
    assert rate.try_acquire(permits[0])
    interval_s = 10.0
    clock.seconds = 5.0
    assert not rate.try_acquire(permits[1])
    clock.seconds = 10.0
    assert rate.try_acquire(permits[2])


async def test_twenty_thousand_keys_cost_no_more_each_than_a_hundred() -> None:
    looked_at = 0

    class Looked(Semaphore):
        def _new_place(self) -> Any:
            nonlocal looked_at

            class Place(LocalSemaphore):
                @property
                def idle(self) -> bool:
                    nonlocal looked_at
                    looked_at += 1
                    return super().idle

            return Place(lambda: 1)

    semaphore = Looked("s", 1)
    held = [await semaphore.acquire(str(number)) for number in range(20_000)]
    assert looked_at < 3 * len(held)
    for permit in held:
        permit.release()
    for number in range(40_000):
        (await semaphore.acquire(f"other-{number}")).release()
    assert len(semaphore._places[asyncio.get_running_loop()]) <= 40_000


async def test_a_rate_whose_place_is_forgotten_gives_no_token_too_soon() -> None:
    rate = RateLimit("r", 1, per_s=3600)
    await rate.acquire("first")
    for number in range(5000):
        await rate.acquire(f"other-{number}")
    assert rate.try_acquire("first") is None
