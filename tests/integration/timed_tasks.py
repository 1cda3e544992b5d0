"""Tasks of a limited rate, which note when they began."""

from __future__ import annotations

import time
from pathlib import Path

from celery import shared_task


@shared_task(name="d.limited", rate_limit="20/s")
def limited(log: str, number: int) -> None:
    append(log, f"{number} {time.monotonic()}")


@shared_task(name="d.limited_async", rate_limit="20/s")
async def limited_async(log: str, number: int) -> None:
    append(log, f"{number} {time.monotonic()}")


def append(log: str, line: str) -> None:
    with Path(log).open("a", buffering=1) as file:
        file.write(f"{line}\n")
