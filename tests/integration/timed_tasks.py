"""Tasks of a limited rate, which note when they began."""

from __future__ import annotations

import time
from pathlib import Path

from celery import shared_task

#: A second.
RATE = 5


@shared_task(name="d.limited", rate_limit=f"{RATE}/s")
def limited(log: str, number: int) -> None:
    append(log, f"{number} {time.time()}")


@shared_task(name="d.limited_async", rate_limit=f"{RATE}/s")
async def limited_async(log: str, number: int) -> None:
    append(log, f"{number} {time.time()}")


def append(log: str, line: str) -> None:
    with Path(log).open("a", buffering=1) as file:
        file.write(f"{line}\n")
