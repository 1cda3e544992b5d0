"""Resources: made once, shared, closed in reverse, retried, injected, overridden."""

from __future__ import annotations

import asyncio
import logging
import sys
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Annotated, Any

import pytest

from asyncworker import resource, use
from asyncworker.errors import ResourceCycle, ResourceError, SettingsError
from asyncworker.resources import Lifetimes, in_item_scope, in_task_scope, inject, lifetimes, living, refuse_resources

if TYPE_CHECKING:
    from somewhere import Engine  # an import for the type checker, which does not exist when the tests run

events: list[str] = []
unwilling = 0


@pytest.fixture(autouse=True)
def fresh() -> None:
    global unwilling
    events.clear()
    unwilling = 0
    flaky.reported = False


@resource
async def engine() -> AsyncIterator[str]:
    events.append("engine made")
    yield "engine"
    events.append("engine closed")


@resource
async def client(engine: Annotated[Engine | None, engine]) -> AsyncIterator[str]:
    await asyncio.sleep(0)
    events.append("client made")
    yield f"client of {engine}"
    events.append("client closed")


@resource(scope="task")
async def session(client: Annotated[str, client]) -> AsyncIterator[object]:
    events.append("session made")
    try:
        yield object()
    finally:
        events.append("session closed")


@resource(scope="item")
async def cursor(session: Annotated[object, session]) -> AsyncIterator[list[object]]:
    events.append("cursor made")
    try:
        yield [session]
    finally:
        events.append("cursor closed")


@resource(retries=2, backoff_s=0)
async def flaky() -> AsyncIterator[str]:
    global unwilling
    if unwilling:
        unwilling -= 1
        events.append("refused")
        raise ConnectionError("the server is busy")
    yield "flaky"


@resource(retries=0)
async def chicken(egg: Annotated[str, egg]) -> AsyncIterator[str]:  # type: ignore[valid-type]  # declared below
    yield "chicken"


@resource(retries=0)
async def egg() -> AsyncIterator[str]:
    yield f"egg of {await use(chicken)}"


@resource
async def too_wide(session: Annotated[object, session]) -> AsyncIterator[str]:
    yield "never"


async def test_a_resource_is_made_once_and_what_it_needs_before_it() -> None:
    assert await asyncio.gather(*[use(client) for _ in range(50)]) == ["client of engine"] * 50
    assert events == ["engine made", "client made"]
    await lifetimes().close()
    assert events[2:] == ["client closed", "engine closed"]


@pytest.mark.parametrize("other", [fresh, "engine", None])
async def test_what_is_no_resource_is_refused_by_name(other: Any) -> None:
    with pytest.raises(ResourceError, match="is not a resource: declare it with @resource") as caught:
        await use(other)
    assert repr(other) in str(caught.value)


async def test_after_a_close_it_is_made_anew() -> None:
    await use(engine)
    await lifetimes().close()
    await use(engine)
    await lifetimes().close()
    assert events == ["engine made", "engine closed"] * 2


async def test_what_uses_another_is_closed_first_even_while_it_is_being_made() -> None:
    started = asyncio.Event()

    @resource
    async def slow() -> AsyncIterator[str]:
        await use(engine)
        started.set()
        try:
            await asyncio.Event().wait()
        finally:
            events.append("slow given up")
        yield "never"

    waiting = asyncio.create_task(use(slow))
    await started.wait()
    await lifetimes().close()
    await asyncio.wait([waiting])
    assert waiting.cancelled()
    assert events == ["engine made", "slow given up", "engine closed"]


@pytest.mark.promise("resource-failure-reaches-all")
async def test_a_making_that_fails_is_tried_again() -> None:
    global unwilling
    unwilling = 2
    assert await use(flaky) == "flaky"
    assert events == ["refused", "refused"]
    await lifetimes().close()


@pytest.mark.promise("resource-failure-reaches-all")
async def test_a_failure_reaches_all_who_wait_and_is_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    global unwilling
    unwilling = 6
    with caplog.at_level(logging.INFO):
        for _ in range(2):
            outcomes = await asyncio.gather(*[use(flaky) for _ in range(20)], return_exceptions=True)
            assert {type(outcome) for outcome in outcomes} == {ResourceError}
            assert "flaky could not be made in 3 attempts: ConnectionError: the server is busy" in str(outcomes[0])
        assert await use(flaky) == "flaky"
    told = [record.getMessage() for record in caplog.records if "flaky" in record.getMessage()]
    assert len(told) == 2
    assert "could not be made" in told[0]
    assert "is made again" in told[1]
    await lifetimes().close()


async def test_a_cycle_is_named_and_not_waited_for() -> None:
    with pytest.raises(ResourceCycle, match=r"(chicken -> .*egg -> .*chicken|egg -> .*chicken -> .*egg)"):
        await use(chicken)
    outcomes = await asyncio.gather(use(chicken), use(egg), return_exceptions=True)
    assert [type(outcome) for outcome in outcomes] == [ResourceCycle, ResourceCycle]
    await lifetimes().close()


async def test_a_resource_cannot_use_what_lives_shorter() -> None:
    with pytest.raises(ResourceError, match=r"too_wide lives as long as the process and cannot use .*session"):
        await use(too_wide)


async def test_a_task_has_its_own_which_is_closed_when_it_ends() -> None:
    async def body() -> object:
        first, second = await asyncio.gather(use(session), use(session))
        assert first is second
        events.append("body")
        return first

    one, other = await asyncio.gather(in_task_scope(body()), in_task_scope(body()))
    assert one is not other
    assert events.count("client made") == 1
    assert events.count("session made") == events.count("session closed") == 2
    await lifetimes().close()
    with pytest.raises(ResourceError, match=r"session is made once a task, and no task is running here"):
        await use(session)


async def test_an_item_has_its_own_within_the_task() -> None:
    async def item() -> list[object]:
        assert await use(cursor) is await use(cursor)
        return await use(cursor)

    async def body() -> None:
        first, second = await in_item_scope(item()), await in_item_scope(item())
        assert first is not second
        assert first == second

    await in_task_scope(body())
    shorter = [event for event in events if "cursor" in event or "session" in event]
    assert shorter == ["session made", *["cursor made", "cursor closed"] * 2, "session closed"]
    await lifetimes().close()


async def test_a_task_that_is_cancelled_still_closes_its_own() -> None:
    async def body() -> None:
        await use(session)
        await asyncio.Event().wait()

    running = asyncio.create_task(in_task_scope(body()))
    while "session made" not in events:
        await asyncio.sleep(0)
    running.cancel()
    await asyncio.wait([running])
    assert running.cancelled()
    assert events[-1] == "session closed"
    await lifetimes().close()


async def test_code_that_outlives_its_task_is_refused() -> None:
    go = asyncio.Event()

    async def late() -> object:
        await go.wait()
        return await use(session)

    async def body() -> asyncio.Task[object]:
        return asyncio.create_task(late())

    left_behind = await in_task_scope(body())
    go.set()
    with pytest.raises(ResourceError, match="the task that this code belongs to has ended"):
        await left_behind


async def test_parameters_are_filled_and_not_shown() -> None:
    @inject
    async def fetch(client: Annotated[str, client], url: str, *, times: int = 1) -> tuple[str, str, int]:
        return client, url, times

    assert await fetch("u") == ("client of engine", "u", 1)
    assert await fetch(url="u", times=2) == ("client of engine", "u", 2)
    assert await fetch("u", client="mine") == ("mine", "u", 1)
    with pytest.raises(TypeError, match="url"):
        await fetch()
    with pytest.raises(TypeError):
        await fetch("u", url="again")
    await lifetimes().close()


async def test_a_call_outside_of_any_item_is_one() -> None:
    @inject
    async def work(number: int, cursor: Annotated[list[object], cursor]) -> int:
        events.append("work")
        return number + len(cursor)

    assert await work(1) == 2
    assert events[2:] == ["session made", "cursor made", "work", "cursor closed", "session closed"]
    await lifetimes().close()


async def test_a_generator_is_filled_too() -> None:
    @inject
    async def rows(count: int, client: Annotated[str, client]) -> AsyncIterator[str]:
        for number in range(count):
            yield f"{client} {number}"

    assert [row async for row in rows(2)] == ["client of engine 0", "client of engine 1"]
    await lifetimes().close()


def test_what_cannot_be_filled_is_refused_where_it_is_declared() -> None:
    def sync(client: Annotated[str, client]) -> None: ...

    async def starred(client: Annotated[str, client], *args: int) -> None: ...

    async def no_generator() -> None: ...

    with pytest.raises(SettingsError, match=r"task t is not async: its parameter 'client' .*resource .*client"):
        refuse_resources(sync, "t")
    with pytest.raises(SettingsError, match="put resource parameters last"):
        inject(starred)
    with pytest.raises(SettingsError, match="cannot be a resource"):
        resource(no_generator)  # type: ignore[arg-type]
    with pytest.raises(SettingsError, match="scope is 'thread'"):
        resource(scope="thread")(engine.generator)  # type: ignore[call-overload]


async def test_an_override_is_used_by_what_depends_on_it_and_by_nothing_afterwards() -> None:
    assert await use(client) == "client of engine"
    with engine.override("fake"):
        assert await use(engine) == "fake"
        assert await use(client) == "client of fake"
        with client.override(None):
            assert await use(client) is None
    assert await use(client) == "client of engine"
    await lifetimes().close()


async def test_an_override_may_be_made_too() -> None:
    async def stand_in() -> AsyncIterator[str]:
        yield "stand-in"
        events.append("stand-in closed")

    with engine.override(stand_in):
        assert await use(client) == "client of stand-in"
    await lifetimes().close()
    assert events == ["client made", "client closed", "stand-in closed"]


async def test_one_that_ends_by_itself_is_made_anew(caplog: pytest.LogCaptureFixture) -> None:
    fail = asyncio.Event()
    made = 0

    async def child() -> None:
        await fail.wait()
        raise ConnectionError("lost")

    @resource
    async def listener() -> AsyncIterator[int]:
        nonlocal made
        made += 1
        async with asyncio.TaskGroup() as group:
            background = group.create_task(child())
            yield made
            background.cancel()

    assert await use(listener) == 1
    with caplog.at_level(logging.ERROR):
        fail.set()
        while "ended by itself" not in caplog.text:
            await asyncio.sleep(0)
    fail.clear()
    assert await use(listener) == 2
    await lifetimes().close()


async def test_a_generator_that_does_not_yield_once_is_told(caplog: pytest.LogCaptureFixture) -> None:
    @resource
    async def never() -> AsyncIterator[str]:
        for _ in range(0):
            yield ""

    @resource
    async def twice() -> AsyncIterator[str]:
        yield "one"
        yield "two"

    with pytest.raises(ResourceError, match="ended without a yield"):
        await use(never)
    assert await use(twice) == "one"
    with caplog.at_level(logging.ERROR):
        await lifetimes().close()
    assert "yields more than once" in caplog.text


async def test_what_was_discarded_is_not_closed_again() -> None:
    class Thing:
        async def close(self) -> None:
            events.append("closed")

    kept, thing = Lifetimes(), Thing()

    async def make() -> Thing:
        return thing

    await kept.use("k", make)
    kept.discard("k", thing)
    await kept.close()
    assert events == []


def test_the_end_of_a_loop_closes_what_it_holds() -> None:
    @resource
    async def connection() -> AsyncIterator[str]:
        try:
            yield "connection"
        finally:
            await asyncio.sleep(0)
            events.append("connection closed")

    async def program() -> None:
        await use(connection)

    asyncio.run(program())
    assert events == ["connection closed"]


@pytest.mark.parametrize("count", [1, 3])
async def test_a_cancelled_user_does_not_spoil_it_for_others(count: int) -> None:
    go = asyncio.Event()

    @resource
    async def slow() -> AsyncIterator[str]:
        await go.wait()
        yield "slow"

    impatient = [asyncio.create_task(use(slow)) for _ in range(count)]
    patient = asyncio.create_task(use(slow))
    await asyncio.sleep(0)
    for each in impatient:
        each.cancel()
    await asyncio.wait(impatient)
    go.set()
    assert await patient == "slow"
    await lifetimes().close()


async def test_a_resource_that_hangs_while_it_is_made_is_an_error_and_is_named_before(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(living, "SLOW_S", 0.01)

    @resource(retries=1, backoff_s=0, connect_timeout_s=0.1)
    async def hangs() -> AsyncIterator[str]:
        events.append("begun")
        await asyncio.Event().wait()
        yield "never"

    with pytest.raises(ResourceError, match=r"hangs could not be made in 2 attempts: .*connect_timeout_s=0\.1"):
        await use(hangs)
    assert events == ["begun", "begun"]
    assert "hangs is not open after 0.01 s; whoever needs it waits" in caplog.text
    await lifetimes().close()


async def test_the_time_of_what_a_resource_needs_is_not_its_own() -> None:
    may_open = asyncio.Event()

    @resource(connect_timeout_s=None)
    async def slow() -> AsyncIterator[str]:
        await may_open.wait()
        yield "slow"

    async def quick(slow: str) -> AsyncIterator[str]:
        yield f"quick after {slow}"

    quick.__annotations__["slow"] = Annotated[str, slow]
    waiting = asyncio.create_task(use(resource(connect_timeout_s=0.5, retries=0)(quick)))
    done, _ = await asyncio.wait([waiting], timeout=1)
    assert not done
    may_open.set()
    assert await waiting == "quick after slow"
    await lifetimes().close()


@pytest.mark.parametrize("scope", ["task", "process"])
async def test_a_resource_that_hangs_while_it_closes_is_left(scope: Any, caplog: pytest.LogCaptureFixture) -> None:
    @resource(scope=scope, close_timeout_s=0.05)
    async def hangs() -> AsyncIterator[str]:
        yield "made"
        await asyncio.Event().wait()

    async def body() -> str:
        return await use(hangs)

    if scope == "task":
        with pytest.raises(TimeoutError, match=r"resource .*hangs did not close within 0\.05 s"):
            await in_task_scope(body())
    else:
        assert await body() == "made"
        await lifetimes().close()
        assert "did not close within 0.05 s" in caplog.text


@pytest.mark.parametrize("when", ["making", "closing"])
async def test_a_system_exit_of_a_resource_does_not_end_the_loop(when: str, caplog: pytest.LogCaptureFixture) -> None:
    @resource(retries=0)
    async def leaves() -> AsyncIterator[str]:
        if when == "making":
            sys.exit(3)
        yield "made"
        sys.exit(3)

    if when == "making":
        with pytest.raises(ResourceError, match=r"leaves raised SystemExit\(3\)"):
            await use(leaves)
    else:
        await use(leaves)
    await lifetimes().close()
    assert when == "making" or "raised SystemExit(3)" in caplog.text


@pytest.mark.parametrize("limit", ["connect_timeout_s", "close_timeout_s"])
async def test_time_limits_of_resources_are_checked(limit: str) -> None:
    with pytest.raises(SettingsError, match=f"{limit} is 0"):
        resource(**{limit: 0})(engine.generator)  # type: ignore[call-overload]
