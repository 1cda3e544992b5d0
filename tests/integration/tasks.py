"""Tasks that the worker tests run; of any app, by name."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import os
import signal
import threading
import time
from pathlib import Path
from typing import Any

from celery import current_task, shared_task
from celery.exceptions import Ignore, Reject, SoftTimeLimitExceeded
from celery.worker.request import Request
from pydantic import BaseModel

from asyncworker import current_item
from asyncworker.worker.job import Job


class Point(BaseModel):
    x: int


@shared_task(name="t.add")
async def add(x: int, y: int) -> int:
    await asyncio.sleep(0)
    return x + y


@shared_task(name="t.total")
async def total(numbers: list[int]) -> int:
    await asyncio.sleep(0)
    return sum(numbers)


@shared_task(name="t.sync_double")
def sync_double(x: int) -> list[Any]:
    return [x * 2, threading.current_thread().name, current_task.request.id]


@shared_task(name="t.who", bind=True)
async def who(self: Any) -> list[str]:
    """The request's id as seen from the body, its child tasks, and a thread."""

    async def child() -> str:
        await asyncio.sleep(0.01)
        return str(current_task.request.id)

    async with asyncio.TaskGroup() as group:
        children = [group.create_task(child()) for _ in range(2)]
    thread = await asyncio.to_thread(lambda: current_task.request.id)
    return [self.request.id, current_task.request.id, thread, *(task.result() for task in children)]


@shared_task(name="t.applies", bind=True)
async def applies(self: Any) -> list[Any]:
    """Whether the request is as before after another task, and the same one, were run in here, and their ids."""
    before = dict(vars(self.request))
    inner = [task.apply(throw=True) for task in (who, nested)]
    after = dict(vars(self.request))
    return [before == after, *({result.id, *result.result} == {result.id} for result in inner)]


@shared_task(name="t.nested", bind=True)
async def nested(self: Any) -> list[str]:
    return [self.request.id, await asyncio.to_thread(lambda: current_task.request.id)]


@shared_task(name="t.jobs_in_memory")
async def jobs_in_memory(*, collect: bool) -> int:
    """How many jobs there are, with this one; and whether the garbage collector takes away more from here on."""
    found = sum(isinstance(each, Job) for each in gc.get_objects())
    if collect:
        gc.enable()
    else:
        gc.collect()
        gc.disable()
    return found


@shared_task(name="t.sleep")
async def sleep(seconds: float) -> float:
    await asyncio.sleep(seconds)
    return seconds


@shared_task(name="t.sleep_late", acks_late=True)
async def sleep_late(seconds: float) -> float:
    await asyncio.sleep(seconds)
    return seconds


class AcceptedInVain(Request):  # type: ignore[type-arg, unused-ignore]
    """One whose connection is lost in the moment in which it is accepted, the first time."""

    def on_accepted(self, pid: int, time_accepted: float) -> None:
        super().on_accepted(pid, time_accepted)
        once = Path(self.args[0])
        if not once.exists():
            once.touch()
            raise ConnectionResetError("while it was accepted")


@shared_task(name="t.accepted_in_vain", Request=AcceptedInVain, acks_late=True)
async def accepted_in_vain(once: str) -> str:
    return "done"


@shared_task(name="t.thread_sleep")
def thread_sleep(seconds: float) -> float:
    time.sleep(seconds)
    return seconds


@shared_task(name="t.thread_until")
def thread_until(path: str) -> None:
    """Keep a thread until a file exists."""
    while not Path(path).exists():
        time.sleep(0.05)


@shared_task(name="t.burn_cpu")
async def burn_cpu(seconds: float, until: str = "") -> str:
    """Keep the loop for so long, or until a file exists."""
    end = time.monotonic() + seconds
    while time.monotonic() < end and not os.path.exists(until):  # noqa: PTH110 - one cheap system call
        pass
    return "burnt"


@shared_task(name="t.stubborn")
async def stubborn(seconds: float, until: str = "") -> str:
    """Swallows every cancellation until its time is over, or a file exists."""
    end = time.monotonic() + seconds
    while (left := min(end - time.monotonic(), 0.1)) > 0 and not os.path.exists(until):  # noqa: PTH110 - one cheap call
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.sleep(left)
    return "stubborn to the end"


@shared_task(
    name="t.autoretry", bind=True, autoretry_for=(ValueError,), retry_kwargs={"max_retries": 3, "countdown": 0}
)
async def autoretry(self: Any) -> int:
    await asyncio.sleep(0)
    if self.request.retries < 2:
        raise ValueError("not yet")
    return int(self.request.retries)


@shared_task(name="t.retry", bind=True, max_retries=3)
async def retry(self: Any) -> int:
    await asyncio.sleep(0)
    if self.request.retries < 2:
        raise self.retry(countdown=0)
    return int(self.request.retries)


@shared_task(name="t.give_up", bind=True, max_retries=1)
async def give_up(self: Any) -> None:
    await asyncio.sleep(0)
    raise self.retry(countdown=0, exc=ValueError("never"))


@shared_task(name="t.pydantic", pydantic=True)
async def move(point: Point) -> Point:
    await asyncio.sleep(0)
    return Point(x=point.x + 1)


@shared_task(
    name="t.pydantic_retry", bind=True, pydantic=True, autoretry_for=(ValueError,), retry_kwargs={"countdown": 0}
)
async def move_retry(self: Any, point: Point) -> Point:
    await asyncio.sleep(0)
    if not self.request.retries:
        raise ValueError("not yet")
    return Point(x=point.x + self.request.retries)


@shared_task(name="t.calls_another")
async def calls_another(x: int) -> int:
    first: int = await add(x, 1)
    return first + await add(x, 2)


@shared_task(name="t.sends_another")
async def sends_another(x: int) -> str:
    return str(add.delay(x, 1).id)


@shared_task(name="t.numbers")
async def numbers(count: int) -> Any:
    for number in range(count):
        await asyncio.sleep(0)
        yield number


@shared_task(name="t.fail")
async def fail(text: str = "on purpose") -> None:
    await asyncio.sleep(0)
    raise KeyError(text)


@shared_task(name="t.ignore")
async def ignore() -> None:
    raise Ignore


@shared_task(name="t.reject", acks_late=True)
async def reject() -> None:
    raise Reject("not wanted", requeue=False)


@shared_task(name="t.reject_once", bind=True, acks_late=True)
async def reject_once(self: Any, seconds: float) -> str:
    """Give the message back after a while, the first time."""
    if not self.request.delivery_info.get("redelivered"):
        await asyncio.sleep(seconds)
        raise Reject("later", requeue=True)
    return "second time"


@shared_task(name="t.reject_once_sync", bind=True, acks_late=True)
def reject_once_sync(self: Any, seconds: float) -> str:
    if not self.request.delivery_info.get("redelivered"):
        time.sleep(seconds)
        raise Reject("later", requeue=True)
    return "second time"


@shared_task(name="t.cancels_itself")
async def cancels_itself() -> None:
    raise asyncio.CancelledError


@shared_task(name="t.exits")
async def exits() -> None:
    raise SystemExit(3)


@shared_task(name="t.child_exits")
async def child_exits() -> None:
    async def child() -> None:
        raise SystemExit(3)

    asyncio.get_running_loop().create_task(child())
    await asyncio.sleep(0.05)


@shared_task(name="t.soft", soft_time_limit=0.2)
async def soft(catch: bool) -> str:
    try:
        async with asyncio.TaskGroup() as group:
            group.create_task(asyncio.sleep(30))
    except SoftTimeLimitExceeded:
        if not catch:
            raise
        await asyncio.sleep(0.01)
        return "cleaned up"
    return "never"


@shared_task(name="t.hard", time_limit=0.3)
async def hard() -> None:
    await asyncio.sleep(30)


@shared_task(name="t.hard_stubborn", time_limit=0.3)
async def hard_stubborn(seconds: float, until: str) -> str:
    return str(await stubborn(seconds, until))


@shared_task(name="t.on_error")
def on_error(request: Any, exc: Any, traceback: Any) -> None:
    pass


# -- items of fan-outs ---------------------------------------------------------------------------------------------


@shared_task(name="t.item")
async def item(number: int, base: int = 0, pause_s: float = 0.0, log: str | None = None) -> int:
    """Double a number; write down that it was run, where a log is given."""
    if pause_s:
        await asyncio.sleep(pause_s)
    if log is not None:
        with open(log, "a", buffering=1) as file:  # noqa: PTH123 - one write a line, appended whole
            file.write(f"{number}\n")
    return base + number * 2


@shared_task(name="t.gated")
async def gated(number: int, gate: str) -> int:
    """From the tenth item on, wait until a file exists."""
    while number >= 10 and not os.path.exists(gate):  # noqa: PTH110 - one cheap system call
        await asyncio.sleep(0.02)
    return number


@shared_task(name="t.gated_logged")
async def gated_logged(number: int, gate: str, log: str, first: int = 10) -> int:
    """From the item ``first`` on, wait until a file exists; write down what was begun."""
    append(log, str(number))
    while number >= first and not os.path.exists(gate):  # noqa: PTH110 - one cheap system call
        await asyncio.sleep(0.02)
    return number


@shared_task(name="t.picky")
async def picky(number: int) -> int:
    await asyncio.sleep(0)
    if number % 10 == 7:
        raise ValueError(f"{number} is not wanted")
    return number


@shared_task(name="t.sync_item")
def sync_item(number: int) -> int:
    return -number


@shared_task(name="t.add_up")
async def add_up(values: list[int]) -> int:
    return sum(values)


# -- what should not be done on a loop -----------------------------------------------------------------------------


@shared_task(name="t.sends_from_a_child")
async def sends_from_a_child(count: int) -> int:
    async def child() -> str:
        return str(add.delay(1, 1).id)

    return len(await asyncio.gather(*[child() for _ in range(count)]))


@shared_task(name="t.sends_and_awaits")
async def sends_and_awaits(count: int) -> int:
    results = await asyncio.gather(*[add.adelay(1, 1) for _ in range(count)])
    return len({result.id for result in results})


@shared_task(name="t.awaits_others")
async def awaits_others(count: int) -> list[Any]:
    results = await asyncio.gather(*[sync_double.adelay(number) for number in range(count)])
    return [value for value, *_ in await asyncio.gather(*[result.aget(timeout=120) for result in results])]


@shared_task(name="t.waits_for_another")
async def waits_for_another() -> int:
    return int(add.delay(1, 1).get(timeout=120))


@shared_task(name="t.poison", acks_late=True)
async def poison(unless: str) -> str:
    """Kills its worker, like a segmentation fault would, unless a file is there."""
    if not os.path.exists(unless):  # noqa: PTH110 - one call
        os.kill(os.getpid(), signal.SIGKILL)
    return "survived"


@shared_task(name="t.poison_item")
async def poison_item(number: int, poison: list[int], log: str) -> int:
    """Kills its worker for certain numbers."""
    if number in poison:
        append(log, str(number))
        os.kill(os.getpid(), signal.SIGKILL)
    await asyncio.sleep(0.01)
    return number


@shared_task(name="t.dies")
async def dies(log: str) -> None:
    append(log, "begun")
    os.kill(os.getpid(), signal.SIGKILL)


@shared_task(name="t.logged_late", acks_late=True)
async def logged_late(log: str, seconds: float) -> float:
    append(log, "begun")
    await asyncio.sleep(seconds)
    append(log, "ended")
    return seconds


@shared_task(name="t.gated_late", acks_late=True)
async def gated_late(log: str, gate: str) -> str:
    """Wait until a file is there."""
    append(log, "begun")
    while not os.path.exists(gate):  # noqa: PTH110
        await asyncio.sleep(0.02)
    append(log, "ended")
    return "done"


@shared_task(name="t.gated_late_sync", acks_late=True)
def gated_late_sync(log: str, gate: str) -> str:
    append(log, "begun")
    while not os.path.exists(gate):  # noqa: PTH110
        time.sleep(0.02)
    append(log, "ended")
    return "done"


@shared_task(name="t.logged_late_sync", acks_late=True)
def logged_late_sync(log: str, seconds: float) -> float:
    append(log, "begun")
    time.sleep(seconds)
    append(log, "ended")
    return seconds


@shared_task(name="t.logged_link")
def logged_link(log: str) -> None:
    append(log, "linked")


def append(log: str, line: str) -> None:
    with open(log, "a", buffering=1) as file:  # noqa: PTH123 - one write a line, appended whole
        file.write(f"{line}\n")


@shared_task(name="t.length")
async def length(text: str) -> int:
    return len(text)


@shared_task(name="t.slow_or_picky")
async def slow_or_picky(number: int, gate: str, pause_s: float) -> int:
    """Fails for one number in ten; slow until a file exists."""
    if not os.path.exists(gate):  # noqa: PTH110 - one cheap system call
        await asyncio.sleep(pause_s)
    if number % 10 == 7:
        raise ValueError(f"{number} is not wanted")
    return number


class Odd(BaseException):
    """Nobody expects it."""


@shared_task(name="t.raises")
async def raises(what: str) -> str:
    """An item that raises what an item should not."""
    await asyncio.sleep(0)
    if what == "child":

        async def child() -> None:
            raise SystemExit(3)

        await asyncio.get_running_loop().create_task(child())
    if what == "cancels itself":
        current = asyncio.current_task()
        assert current is not None
        current.cancel()
        await asyncio.sleep(0)
    return _raise(what)


@shared_task(name="t.raises_in_a_thread")
def raises_in_a_thread(what: str) -> str:
    return _raise(what)


def _raise(what: str) -> str:
    kinds: dict[str, type[BaseException]] = {
        "base": Odd,
        "cancelled": asyncio.CancelledError,
        "interrupt": KeyboardInterrupt,
        "exit": SystemExit,
        "closed": GeneratorExit,
        "timeout": TimeoutError,
        "stop": StopIteration,
    }
    if what in kinds:
        raise kinds[what]("from the item")
    return what


@shared_task(name="t.thread_item")
def thread_item(number: int) -> list[Any]:
    """Which item this is, and how many of them run at once."""
    logging.getLogger("items").info("in a thread")
    with _counting:
        global _at_once, _most_at_once
        _at_once += 1
        _most_at_once = max(_most_at_once, _at_once)
    time.sleep(0.01)
    with _counting:
        _at_once -= 1
    here = current_item()
    return [here.index, here.key, here.attempt, threading.current_thread().name, _most_at_once]


_counting = threading.Lock()
_at_once = _most_at_once = 0


@shared_task(name="t.repeat")
async def repeat(text: str, times: int) -> str:
    return text * times


@shared_task(name="t.lines")
async def lines(path: str) -> Any:
    """The numbers in a file, which may have grown since it was read last."""
    for line in (await asyncio.to_thread(Path(path).read_text)).split():
        yield int(line)


@shared_task(name="t.only_if")
async def only_if(number: int, log: str, gate: str) -> int:
    """Odd numbers fail until a file is there."""
    append(log, str(number))
    if number % 2 and not os.path.exists(gate):  # noqa: PTH110 - one cheap system call
        raise ValueError(number)
    return number
