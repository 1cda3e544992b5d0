"""Tasks that remember; of any app, by name."""

from __future__ import annotations

import asyncio
import os
import threading
from typing import Any

from celery import shared_task

from asyncworker import current_item, state


@shared_task(name="s.retries", bind=True, max_retries=5)
async def retries(self: Any) -> list[int]:
    """Fail until three pages are read, remembering each; nothing is flushed by hand."""
    pages = await state.get("pages", [])
    pages.append(self.request.retries)
    await state.set("pages", pages)
    if len(pages) < 4:
        raise self.retry(countdown=0)
    return list(pages)


@shared_task(name="s.retries_sync", bind=True, max_retries=5)
def retries_sync(self: Any) -> list[Any]:
    pages = state.blocking.get("pages", [])
    pages.append(self.request.retries)
    state.blocking.set("pages", pages)
    if len(pages) < 4:
        raise self.retry(countdown=0)
    return [pages, threading.current_thread().name]


@shared_task(name="s.autoretries", autoretry_for=(ValueError,), retry_kwargs={"countdown": 0})
async def autoretries() -> int:
    tries = await state.get("tries", 0) + 1
    await state.set("tries", tries)
    if tries < 3:
        raise ValueError(tries)
    return int(tries)


@shared_task(name="s.pages", acks_late=True)
async def pages(count: int, log: str, gate: str) -> list[int]:
    """Read pages from where it left off; from the tenth on, only once a file is there."""
    began_at = await state.get("page", 0)
    for page in range(began_at, count):
        while page >= 10 and not os.path.exists(gate):  # noqa: PTH110 - one cheap system call
            await asyncio.sleep(0.02)
        with open(log, "a", buffering=1) as file:  # noqa: PTH123 - one write a line, appended whole
            file.write(f"{page}\n")
        await state.set("page", page + 1)
        await state.flush()
    return [began_at, await state.get("page")]


@shared_task(name="s.item")
async def item(number: int) -> int:
    seen = await state.get(str(number), 0) + 1
    await state.set(str(number), seen)
    if seen == 1 and current_item().index % 2:
        raise ValueError(number)
    return int(seen)


@shared_task(name="s.last_words")
async def last_words() -> None:
    await state.set("said", "goodbye")
    raise KeyError("on purpose")


@shared_task(name="s.said")
async def said() -> Any:
    return await state.get("said")


@shared_task(name="s.busy")
async def busy(sets: int) -> int:
    for number in range(sets):
        await state.set("number", number)
    return int(await state.get("number"))


@shared_task(name="s.of_item")
async def of_item(number: int, fail: bool = False) -> list[Any]:
    """Remember one's number under the name that all items use, over two attempts; the run counts them."""
    before = await state.get("mine", [])
    await state.set("mine", [*before, number])
    await state.run.set(f"seen {number}", await state.run.get(f"seen {number}", 0) + 1)
    if number % 3 == 0:
        await state.clear()
    if current_item().attempt == 1:
        raise ValueError(number)
    if fail and number == 1 and len(before) == 1:
        raise KeyError(number)
    return [await state.get("mine", []), await state.run.get(f"seen {number}")]


@shared_task(name="s.of_item_sync")
def of_item_sync(number: int) -> list[Any]:
    """The same on a thread."""
    state.blocking.set("mine", [*state.blocking.get("mine", []), number])
    state.blocking.run.set(f"seen {number}", state.blocking.run.get(f"seen {number}", 0) + 1)
    if current_item().attempt == 1:
        raise ValueError(number)
    return [state.blocking.get("mine"), state.blocking.run.get(f"seen {number}")]


@shared_task(name="s.runs_items")
async def runs_items() -> list[Any]:
    """Run items within a task, whose state is another."""
    await state.set("mine", "the task's")
    run = of_item.partial().options(retries=1, backoff_s=0)
    inner = await run.iterate(number=[1, 2]).run()
    return [inner, await state.get("mine"), await state.run.get("seen 1")]
