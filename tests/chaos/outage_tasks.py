"""Tasks that write down, independently of broker and backend, when they begin and end."""

from __future__ import annotations

import asyncio
import os
import time
from pathlib import Path
from typing import Any

from celery import shared_task
from celery.exceptions import Reject
from kombu.exceptions import OperationalError

#: A file to which every task appends; a line is one write, whole.
LOG_VARIABLE = "OUTAGE_LOG"


def note(*words: Any) -> None:
    descriptor = os.open(os.environ[LOG_VARIABLE], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    try:
        os.write(descriptor, (" ".join(map(str, words)) + "\n").encode())
    finally:
        os.close(descriptor)


async def _work(self: Any, number: int, seconds: float) -> int:
    note("begin", self.request.id)
    await asyncio.sleep(seconds)
    note("end", self.request.id)
    return number


early = shared_task(name="o.early", bind=True)(_work)
late = shared_task(name="o.late", bind=True, acks_late=True)(_work)


@shared_task(name="o.late_sync", bind=True, acks_late=True)
def late_sync(self: Any, number: int, seconds: float) -> int:
    note("begin", self.request.id)
    time.sleep(seconds)
    note("end", self.request.id)
    return number


@shared_task(name="o.total", acks_late=True)
async def total(numbers: list[int]) -> int:
    return sum(numbers)


@shared_task(name="o.again", bind=True, acks_late=True)
async def again(self: Any, number: int, seconds: float) -> int:
    """Try itself again, once."""
    note("begin", self.request.id)
    await asyncio.sleep(seconds)
    if not self.request.retries:
        raise self.retry(countdown=0)
    return number


@shared_task(name="o.sends", bind=True)
async def sends(self: Any, how: str, gate: str) -> str:
    """Once a file is there, send a task until the broker takes it; returns its id."""
    note("begin", self.request.id)
    while not await asyncio.to_thread(os.path.exists, gate):
        await asyncio.sleep(0.02)
    while True:
        try:
            sent = late.delay(1, 0) if how == "delay" else await late.adelay(1, 0)
        except OperationalError:
            note("refused", self.request.id)
            await asyncio.sleep(0.1)
        else:
            return str(sent.id)


@shared_task(name="o.puts_back", bind=True, acks_late=True)
async def puts_back(self: Any, gate: str) -> int:
    """Return to the queue once a file is there; ends when it comes again."""
    note("begin", self.request.id)
    if self.request.delivery_info["redelivered"]:
        return 1
    while not await asyncio.to_thread(os.path.exists, gate):
        await asyncio.sleep(0.02)
    raise Reject("not now", requeue=True)


@shared_task(name="o.heartbeat", ignore_result=True)
async def heartbeat(stop_file: str) -> None:
    """Note a beat each 50 ms until there is a file of that name."""
    stop = Path(stop_file)
    while not stop.exists():
        note("beat")
        await asyncio.sleep(0.05)
