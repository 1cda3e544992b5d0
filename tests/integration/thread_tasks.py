"""Tasks that are not async, and hold their thread until a file is there."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from celery import shared_task

from tests.chaos.outage_tasks import note


@shared_task(name="t.hold", bind=True)
def hold(self: Any, gate: str) -> str:
    note("begin", self.request.id)
    while not Path(gate).exists():
        time.sleep(0.02)
    return "done"


@shared_task(name="t.quick")
async def quick() -> str:
    return "quick"
