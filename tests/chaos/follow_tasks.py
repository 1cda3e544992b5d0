"""Tasks that end once a file is there, and what follows them."""

from __future__ import annotations

import asyncio
import os
import time
from pathlib import Path
from typing import Any

from celery import chord, group, shared_task

from tests.chaos.outage_tasks import note


async def _gate(self: Any, gate: str) -> None:
    note("begin", self.request.id)
    while not await asyncio.to_thread(os.path.exists, gate):
        await asyncio.sleep(0.02)


def _gate_sync(self: Any, gate: str) -> None:
    note("begin", self.request.id)
    while not Path(gate).exists():
        time.sleep(0.02)


@shared_task(name="f.work", bind=True)
async def work(self: Any, number: int, gate: str) -> int:
    await _gate(self, gate)
    note("end", self.request.id)
    return number


@shared_task(name="f.work_sync", bind=True)
def work_sync(self: Any, number: int, gate: str) -> int:
    _gate_sync(self, gate)
    note("end", self.request.id)
    return number


@shared_task(name="f.fail", bind=True)
async def fail(self: Any, gate: str) -> None:
    await _gate(self, gate)
    raise ValueError("its own")


@shared_task(name="f.fail_sync", bind=True)
def fail_sync(self: Any, gate: str) -> None:
    _gate_sync(self, gate)
    raise ValueError("its own")


@shared_task(name="f.too_long", bind=True, time_limit=1)
async def too_long(self: Any, gate: str) -> None:
    await _gate(self, gate)
    await asyncio.sleep(60)


@shared_task(name="f.again", bind=True)
async def again(self: Any, number: int, gate: str) -> int:
    await _gate(self, gate)
    if not self.request.retries:
        raise self.retry(countdown=0)
    return number


@shared_task(name="f.again_sync", bind=True)
def again_sync(self: Any, number: int, gate: str) -> int:
    _gate_sync(self, gate)
    if not self.request.retries:
        raise self.retry(countdown=0)
    return number


@shared_task(name="f.again_in_child", bind=True)
async def again_in_child(self: Any, number: int, gate: str) -> int:
    """The retry comes out of a child task, which cannot wait for the broker itself."""
    await _gate(self, gate)
    if self.request.retries:
        return number

    async def child() -> None:
        raise self.retry(countdown=0)

    await asyncio.gather(child())
    raise AssertionError("not reached")


@shared_task(name="f.again_badly", bind=True)
async def again_badly(self: Any) -> None:
    raise self.retry(args=(object(),), countdown=0)


@shared_task(name="f.replaced", bind=True)
async def replaced(self: Any, number: int, gate: str) -> int:
    await _gate(self, gate)
    raise self.replace(work.si(number, gate))


@shared_task(name="f.replaced_by_group", bind=True)
def replaced_by_group(self: Any, number: int, gate: str) -> int:
    _gate_sync(self, gate)
    raise self.replace(group(work.si(number, gate), work.si(number, gate)))


@shared_task(name="f.replaced_by_chord", bind=True)
async def replaced_by_chord(self: Any, number: int, gate: str) -> int:
    await _gate(self, gate)
    raise self.replace(chord([work.si(number, gate), work_sync.si(number, gate)], total.s()))


@shared_task(name="f.total")
async def total(numbers: list[int]) -> int:
    return sum(numbers)


@shared_task(name="f.errback")
async def errback(task_id: str) -> None:
    """An errback that is sent as a task, with the id of what failed."""
    note("errback", task_id)


@shared_task(name="f.called_errback")
def called_errback(request: Any, exc: BaseException, traceback: Any) -> None:
    """An errback that is called as a function."""
    note("called", request.id)


@shared_task(name="f.broken_errback")
def broken_errback(request: Any, exc: BaseException, traceback: Any) -> None:
    note("called", request.id)
    raise RuntimeError("the errback itself")


@shared_task(name="f.linked")
async def linked(number: int) -> None:
    note("linked", number)
