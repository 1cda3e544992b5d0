"""The item of the kill rounds: it writes down that it begins, past everything that is tested."""

from __future__ import annotations

import asyncio
import os

from celery import shared_task

#: Bytes of a line, so that the log's size tells how many there are.
LINE_BYTES = 8


@shared_task(name="kill.item")
async def item(number: int, log: str, pause_s: float) -> list[int]:
    handle = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(handle, b"%07d\n" % number)
    os.close(handle)
    await asyncio.sleep(pause_s)
    return [number, number * number]
