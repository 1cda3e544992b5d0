"""What ends a task or an item is raised at the yield of its resources, and what they make of it is the outcome."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Annotated, Any

import pytest
from celery.exceptions import Ignore, Reject, Retry, SoftTimeLimitExceeded

from asyncworker import resource, use
from asyncworker.resources import in_item_scope, in_task_scope

#: What each transaction has seen of its end.
ends: list[str] = []


class Transaction:
    """A context manager that notes how it was left, and may raise or suppress."""

    def __init__(self, name: str, *, suppress: bool = False, then: BaseException | None = None) -> None:
        self.name, self.suppress, self.then = name, suppress, then

    async def __aenter__(self) -> Transaction:
        return self

    async def __aexit__(self, kind: Any, exc: BaseException | None, traceback: Any) -> bool:
        ends.append(f"{self.name}: {'commit' if exc is None else type(exc).__name__}")
        if self.then is not None:
            raise self.then
        return self.suppress and exc is not None


@resource(scope="task")
async def outer() -> AsyncIterator[Transaction]:
    async with Transaction("outer") as transaction:
        yield transaction


@resource(scope="task")
async def inner(outer: Annotated[Transaction, outer]) -> AsyncIterator[Transaction]:
    async with Transaction("inner") as transaction:
        yield transaction


@resource(scope="task")
async def suppressing(outer: Annotated[Transaction, outer]) -> AsyncIterator[Transaction]:
    async with Transaction("suppressing", suppress=True) as transaction:
        yield transaction


@resource(scope="task")
async def refusing(outer: Annotated[Transaction, outer]) -> AsyncIterator[Transaction]:
    async with Transaction("refusing", then=OSError("cannot commit")) as transaction:
        yield transaction


@resource(scope="task")
async def grouped() -> AsyncIterator[asyncio.TaskGroup]:
    async with asyncio.TaskGroup() as group:
        yield group


@resource(scope="item")
async def of_item(outer: Annotated[Transaction, outer]) -> AsyncIterator[Transaction]:
    async with Transaction("item") as transaction:
        yield transaction


@pytest.fixture(autouse=True)
def fresh() -> None:
    ends.clear()


async def body(*wanted: Any, failure: BaseException | None = None) -> str:
    for each in wanted:
        await use(each)
    if failure is not None:
        raise failure
    return "done"


async def test_a_success_commits_in_reverse_order() -> None:
    assert await in_task_scope(body(inner)) == "done"
    assert ends == ["inner: commit", "outer: commit"]


@pytest.mark.parametrize(
    "failure",
    [
        KeyError("x"),
        Ignore(),
        Reject("no", requeue=False),
        Retry("later"),
        SoftTimeLimitExceeded(),
        SystemExit(3),
        StopAsyncIteration(),
        asyncio.CancelledError(),
    ],
    ids=lambda exc: type(exc).__name__,
)
async def test_whatever_ends_the_body_reaches_all_and_is_raised_as_itself(failure: BaseException) -> None:
    async def raised() -> BaseException | None:
        try:
            await in_task_scope(_raising(failure))
        except BaseException as exc:
            return exc
        return None

    # Python itself wraps it where it leaves a coroutine.
    found = await raised()
    assert found is failure or (found is not None and found.__cause__ is failure)
    name = "RuntimeError" if found is not failure else type(failure).__name__
    assert ends == [f"inner: {name}", f"outer: {name}"]


async def _raising(failure: BaseException) -> None:
    await body(inner, failure=failure)


async def test_one_that_suppresses_it_ends_it_there() -> None:
    assert await in_task_scope(body(suppressing, failure=KeyError("x"))) is None
    assert ends == ["suppressing: KeyError", "outer: commit"]


async def test_one_that_raises_replaces_it_chained() -> None:
    with pytest.raises(OSError, match="cannot commit") as caught:
        await in_task_scope(body(refusing, failure=KeyError("x")))
    assert isinstance(caught.value.__context__, KeyError)
    assert ends == ["refusing: KeyError", "outer: OSError"]


async def test_a_commit_that_fails_is_the_tasks_failure() -> None:
    with pytest.raises(OSError, match="cannot commit"):
        await in_task_scope(body(refusing))
    assert ends == ["refusing: commit", "outer: OSError"]


async def test_a_task_group_around_the_yield_raises_its_group() -> None:
    with pytest.raises(ExceptionGroup) as caught:
        await in_task_scope(body(grouped, failure=KeyError("x")))
    assert caught.group_contains(KeyError) if hasattr(caught, "group_contains") else caught.value.exceptions


async def _cancelled_by_time() -> None:
    async with asyncio.timeout(0.01):
        await in_task_scope(_waiting())


async def _cancelled_from_outside() -> None:
    running = asyncio.ensure_future(in_task_scope(_waiting()))
    while not waiting.is_set():
        await asyncio.sleep(0)
    running.cancel()
    await running


waiting = asyncio.Event()


async def _waiting() -> None:
    await use(inner)
    waiting.set()
    await asyncio.Event().wait()


@pytest.mark.parametrize(
    ("end", "error"), [(_cancelled_by_time, TimeoutError), (_cancelled_from_outside, asyncio.CancelledError)]
)
async def test_a_cancellation_reaches_them(
    end: Callable[[], Coroutine[Any, Any, None]], error: type[BaseException]
) -> None:
    waiting.clear()
    with pytest.raises(error):
        await end()
    assert ends == ["inner: CancelledError", "outer: CancelledError"]


async def test_an_item_rolls_back_its_own_alone() -> None:
    async def task() -> str:
        for failure in (None, KeyError("x"), None):
            try:
                await in_item_scope(body(of_item, failure=failure))
            except KeyError:
                ends.append("caught")
        return "done"

    assert await in_task_scope(task()) == "done"
    assert ends == ["item: commit", "item: KeyError", "caught", "item: commit", "outer: commit"]
