"""More tasks start only as failures get through, and go on where none does."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars

import pytest

from asyncworker.worker import failure_backlog
from asyncworker.worker.failure_backlog import MOST_WAITING, FailureBacklog

variable: contextvars.ContextVar[str] = contextvars.ContextVar("variable", default="")


@pytest.fixture
def backlog(monkeypatch: pytest.MonkeyPatch) -> FailureBacklog:
    monkeypatch.setattr(failure_backlog, "STALLED_S", 600)
    return FailureBacklog()


def fill(backlog: FailureBacklog, count: int = MOST_WAITING) -> contextlib.ExitStack:
    stack = contextlib.ExitStack()
    for _ in range(count):
        stack.enter_context(backlog.waiting())
    return stack


async def pending() -> None:
    """Let the loop do what is ready, twice."""
    await asyncio.sleep(0)
    await asyncio.sleep(0)


async def test_room_is_what_is_left(backlog: FailureBacklog) -> None:
    assert backlog.room == MOST_WAITING
    with fill(backlog, MOST_WAITING - 1):
        assert backlog.room == 1
        with backlog.waiting(), backlog.waiting():
            assert backlog.room == 0
    assert backlog.room == MOST_WAITING


async def test_tasks_start_at_once_while_there_is_room(backlog: FailureBacklog) -> None:
    started: list[str] = []
    backlog.when_room(lambda: started.append("first"))
    assert started == []  # those that have just started are to come first: they may fail
    await pending()
    assert started == ["first"]


async def test_tasks_start_once_a_failure_is_through(backlog: FailureBacklog) -> None:
    started: list[str] = []
    with fill(backlog, MOST_WAITING - 1):
        variable.set("of who starts tasks")
        with backlog.waiting():
            backlog.when_room(lambda: started.append(variable.get()))
            backlog.when_room(lambda: started.append("twice"))
            await pending()
            assert started == []
            variable.set("of the task that has failed")
        await pending()
        assert started == ["of who starts tasks"]


async def test_tasks_start_where_no_failure_gets_through(
    backlog: FailureBacklog, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(failure_backlog, "STALLED_S", 0.01)
    with fill(backlog):
        started = asyncio.Event()
        backlog.when_room(started.set)
        await asyncio.wait_for(started.wait(), 60)
        assert backlog.room == MOST_WAITING  # until it is seen that some get through
        with fill(backlog):
            assert backlog.room == MOST_WAITING
    assert backlog.room == MOST_WAITING
    with fill(backlog):
        assert backlog.room == 0


async def test_tasks_start_at_once_where_a_server_is_seen_to_be_away(backlog: FailureBacklog) -> None:
    started: list[str] = []
    with fill(backlog):
        with pytest.raises(OSError, match="away"), backlog.waiting():
            backlog.when_room(lambda: started.append("first"))
            raise OSError("away")
        await pending()
        assert started == ["first"]
        assert backlog.room == MOST_WAITING


async def test_a_task_that_is_cancelled_while_it_waits_says_nothing_of_servers(backlog: FailureBacklog) -> None:
    with fill(backlog):
        with pytest.raises(asyncio.CancelledError), backlog.waiting():
            raise asyncio.CancelledError
        assert backlog.room == 0
