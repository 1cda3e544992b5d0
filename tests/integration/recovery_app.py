"""One app for a stock worker and for ours: late-ack tasks that write down that they begin, and wait for a file."""

import asyncio
import os
import time
from pathlib import Path
from typing import Any

from celery import Celery

app: Any = Celery("recovery")
app.conf.update(task_default_queue="recovery", worker_prefetch_multiplier=4)
# What an earlier worker has left is looked for at once, and then each second.
app.conf.broker_transport_options = {"unacked_restore_interval": 1, "unacked_restore_throttle": 1}


def begin(number: int) -> None:
    with Path(os.environ["RECOVERY_LOG"]).open("a") as log:
        log.write(f"{number}\n")


if os.environ.get("RECOVERY_OURS"):
    import asyncworker

    asyncworker.install(app)

    @app.task(name="r.wait", acks_late=True)
    async def wait(number: int, gate: str) -> int:
        begin(number)
        while not Path(gate).exists():
            await asyncio.sleep(0.5)
        return number

else:

    @app.task(name="r.wait", acks_late=True)
    def wait_blocking(number: int, gate: str) -> int:
        begin(number)
        while not Path(gate).exists():
            time.sleep(0.5)
        return number
