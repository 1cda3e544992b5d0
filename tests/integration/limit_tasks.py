"""Tasks with limits; how many ran at once is written down."""

from __future__ import annotations

import asyncio
import os
import time

from celery import shared_task

from asyncworker import RateLimit, Semaphore, limit

LOG = "LIMIT_LOG"

Semaphore("of_process", 2)
Semaphore("of_cluster", 3, cluster=True)
Semaphore("by_host", 1)
RateLimit("rate", 1000, burst=10, cluster=True)


def note(line: str) -> None:
    # One write a line, appended whole.
    descriptor = os.open(os.environ[LOG], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(descriptor, f"{line}\n".encode())
    os.close(descriptor)


@shared_task(name="l.task", limits=[limit("of_process"), limit("rate")])
async def task(number: int) -> int:
    note("+")
    await asyncio.sleep(0.02)
    note("-")
    return number


@shared_task(name="l.sync", limits=["of_process"])
def sync(number: int) -> int:
    note("+")
    time.sleep(0.02)
    note("-")
    return number


@shared_task(name="l.by_host", limits=[limit("by_host", by="host")])
async def by_host(host: str, number: int, gate: str = "") -> int:
    note(f"{host}+")
    while gate and not os.path.exists(gate):  # noqa: PTH110 - one cheap system call
        await asyncio.sleep(0.02)
    note(f"{host}-")
    return number


@shared_task(name="l.item")
async def item(number: int) -> int:
    note("+")
    await asyncio.sleep(0.02)
    note("-")
    return number


@shared_task(name="l.gated")
async def gated(number: int, gate: str) -> int:
    while not os.path.exists(gate):  # noqa: PTH110 - one cheap system call
        await asyncio.sleep(0.02)
    return number
