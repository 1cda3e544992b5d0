"""Tasks of a module that notes each worker process that imports it, and can be told to end them."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

from celery import shared_task

FOLDER = Path(os.environ["FRAGILE_FOLDER"])
SPAWNS, BROKEN = FOLDER / "spawns", FOLDER / "broken"

if "--supervised" in sys.argv:  # not the supervisor, which imports the tasks as any worker command does
    with SPAWNS.open("a") as file:
        file.write(f"{os.getpid()}\n")
    if BROKEN.exists():
        os._exit(3)

hoard: list[Any] = []


@shared_task(name="f.hoard")
async def hoard_megabytes(count: int) -> int:
    hoard.append(b"x" * (count << 20))
    return os.getpid()
