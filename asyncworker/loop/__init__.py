"""One event loop a process, on its own thread, and the bridge that runs synchronous code suspended on it."""

from asyncworker.loop.bridge import (
    Bridge,
    await_,
    in_bridge,
    off_loop,
    off_loop_async,
    off_loop_in_context,
    off_loop_to_wait,
)
from asyncworker.loop.cancel import Interrupt
from asyncworker.loop.debug import check, set_debug
from asyncworker.loop.live import LiveJob, current_job, live_jobs, stack_of
from asyncworker.loop.thread import LoopThread, get_loop_thread, on_loop_thread, running_loop_thread
from asyncworker.loop.watchdog import Watchdog

__all__ = [
    "Bridge",
    "Interrupt",
    "LiveJob",
    "LoopThread",
    "Watchdog",
    "await_",
    "check",
    "current_job",
    "get_loop_thread",
    "in_bridge",
    "live_jobs",
    "off_loop",
    "off_loop_async",
    "off_loop_in_context",
    "off_loop_to_wait",
    "on_loop_thread",
    "running_loop_thread",
    "set_debug",
    "stack_of",
]
