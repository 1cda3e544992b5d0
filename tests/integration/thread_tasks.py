"""Tasks that are not async, and hold their thread until a file is there."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
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


@shared_task(name="t.forks")
def forks() -> int:
    """Fork, as ``multiprocessing`` does by default; return the child's exit status."""
    child = os.fork()
    if child == 0:
        os._exit(7)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


@shared_task(name="t.runs_program")
def runs_program() -> int:
    return subprocess.run([sys.executable, "-S", "-c", "raise SystemExit(7)"], check=False).returncode


@shared_task(name="t.handles_signal")
def handles_signal() -> None:
    signal.signal(signal.SIGUSR2, signal.SIG_IGN)
