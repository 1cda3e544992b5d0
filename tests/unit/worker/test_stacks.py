"""The stacks that follow a context."""

from __future__ import annotations

import asyncio
import threading

from asyncworker.worker.stacks import RequestStack


def test_as_celerys() -> None:
    stack = RequestStack()
    assert (stack.top, stack.pop(), len(stack), list(stack.stack)) == (None, None, 0, [])
    stack.push("one")
    stack.push("two")
    assert (stack.top, len(stack), list(stack.stack)) == ("two", 2, ["one", "two"])
    assert (stack.pop(), stack.top, stack.pop(), stack.pop(), stack.top) == ("two", "one", "one", None, None)


async def test_child_tasks_and_threads_see_it_and_leave_it_alone() -> None:
    stack = RequestStack()
    stack.push("of the parent")

    async def child(name: str) -> object:
        seen = stack.top
        stack.push(name)
        await asyncio.sleep(0)
        assert stack.top == name
        return seen

    assert await asyncio.gather(child("a"), child("b"), asyncio.to_thread(lambda: stack.top)) == ["of the parent"] * 3
    assert list(stack.stack) == ["of the parent"]


def test_another_thread_has_its_own() -> None:
    stack = RequestStack()
    stack.push("here")
    seen: list[object] = []
    thread = threading.Thread(target=lambda: seen.append(stack.top))
    thread.start()
    thread.join()
    assert seen == [None]
