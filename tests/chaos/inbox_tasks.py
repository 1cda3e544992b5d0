"""An inbox: what it lists, and the item that handles a file and deletes it."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from pathlib import Path

from celery import shared_task

#: Bytes of a line of the log, so that its size tells how many there are.
LINE_BYTES = 8


@shared_task(name="inbox.listing")
async def listing(folder: str) -> AsyncIterator[str]:
    for name in sorted(path.name for path in Path(folder).iterdir() if path.suffix != ".tmp"):
        yield name


@shared_task(name="inbox.item")
async def item(name: str, folder: str, log: str, pause_s: float) -> str:
    path = Path(folder, name)
    number = int(path.read_text())  # fails where it is gone
    await asyncio.sleep(pause_s)
    handle = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(handle, b"%07d\n" % number)
    os.close(handle)
    path.unlink(missing_ok=True)
    return name
