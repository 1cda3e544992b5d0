import asyncio
import logging

import pytest

from asyncworker.resources.lifetimes import Lifetimes, lifetimes


class Thing:
    def __init__(self, name: str, closed: list[str], *, fails: bool = False) -> None:
        self.name = name
        self.closed = closed
        self.fails = fails

    async def close(self) -> None:
        self.closed.append(self.name)
        if self.fails:
            raise OSError("cannot close")


async def test_a_thing_is_made_once_for_all_who_ask_at_once() -> None:
    made = 0
    kept = Lifetimes()

    async def make() -> Thing:
        nonlocal made
        made += 1
        await asyncio.sleep(0)
        return Thing("one", [])

    first, second = await asyncio.gather(kept.use("key", make), kept.use("key", make))
    assert first is second is await kept.use("key", make)
    assert made == 1


@pytest.mark.promise("resource-is-made-once")
async def test_closed_newest_first_and_one_failure_does_not_stop_the_others(caplog: pytest.LogCaptureFixture) -> None:
    closed: list[str] = []
    kept = Lifetimes()
    for name in ("a", "b", "c"):

        async def make(name: str = name) -> Thing:
            return Thing(name, closed, fails=name == "b")

        await kept.use(name, make)
    with caplog.at_level(logging.ERROR):
        await kept.close()
    assert closed == ["c", "b", "a"]
    assert "could not close resource 'b'" in caplog.text


async def test_a_failed_making_is_raised_to_all_and_tried_afresh_by_the_next() -> None:
    kept = Lifetimes()
    attempts = 0

    async def make() -> Thing:
        nonlocal attempts
        attempts += 1
        await asyncio.sleep(0)
        if attempts == 1:
            raise OSError("refused")
        return Thing("late", [])

    outcomes = await asyncio.gather(kept.use("k", make), kept.use("k", make), return_exceptions=True)
    assert [type(outcome) for outcome in outcomes] == [OSError, OSError]
    assert (await kept.use("k", make)).name == "late"
    assert attempts == 2


async def test_a_cancelled_caller_does_not_cancel_the_making_for_the_others() -> None:
    kept = Lifetimes()
    go = asyncio.Event()

    async def make() -> Thing:
        await go.wait()
        return Thing("shared", [])

    impatient = asyncio.create_task(kept.use("k", make))
    patient = asyncio.create_task(kept.use("k", make))
    await asyncio.sleep(0)
    impatient.cancel()
    await asyncio.wait([impatient])
    go.set()
    assert impatient.cancelled()
    assert (await patient).name == "shared"


async def test_closing_cancels_what_is_still_being_made() -> None:
    kept = Lifetimes()
    started = asyncio.Event()

    async def make() -> Thing:
        started.set()
        await asyncio.Event().wait()
        raise AssertionError("unreachable")

    waiting = asyncio.create_task(kept.use("k", make))
    await started.wait()
    await kept.close()
    await asyncio.wait([waiting])
    assert waiting.cancelled()


def test_each_loop_has_its_own() -> None:
    async def own() -> Lifetimes:
        assert lifetimes() is lifetimes()
        return lifetimes()

    assert asyncio.run(own()) is not asyncio.run(own())
