"""What a server that is away makes fail is tried again, and only that."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable

import pytest

from asyncworker.loop import Bridge, Interrupt, get_loop_thread
from asyncworker.worker import persist
from asyncworker.worker.persist import flush_settlements, settle, until_done


@pytest.fixture(autouse=True)
def short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(persist, "FIRST_WAIT_S", 0.001)


def is_away(exc: Exception) -> bool:
    return isinstance(exc, ConnectionError)


def failing(times: int, threads: list[str]) -> Callable[[], str]:
    """A call that finds its server away that often; it notes the thread it runs on."""

    def call() -> str:
        threads.append(threading.current_thread().name)
        if len(threads) <= times:
            raise ConnectionError("nobody there")
        return "done"

    return call


def test_a_thread_waits_itself() -> None:
    threads: list[str] = []
    assert until_done(failing(3, threads), is_away, "a call") == "done"
    assert threads == [threading.current_thread().name] * 4


async def test_in_a_bridge_the_loop_goes_on() -> None:
    threads: list[str] = []
    turns = 0

    async def others() -> None:
        nonlocal turns
        while True:
            await asyncio.sleep(0)
            turns += 1

    other = asyncio.create_task(others())
    call = failing(3, threads)
    assert await Bridge(Interrupt(), lambda: until_done(call, is_away, "a call")) == "done"
    other.cancel()
    assert len(threads) == 4
    assert all(name.startswith("asyncworker-io") for name in threads)
    assert turns > 4


async def test_a_failure_of_its_own_is_raised_at_once() -> None:
    calls = 0

    def call() -> None:
        nonlocal calls
        calls += 1
        raise ValueError("its own")

    with pytest.raises(ValueError, match="its own"):
        await Bridge(Interrupt(), lambda: until_done(call, is_away, "a call"))
    assert calls == 1


def test_who_may_not_wait_goes_on_and_all_is_written_before_the_end() -> None:
    threads: list[str] = []
    loop_thread = get_loop_thread()
    settle(lambda: until_done(failing(3, threads), is_away, "a call"), "a call")
    loop_thread.run(flush_settlements())
    assert len(threads) == 4
    assert threading.current_thread().name not in threads
