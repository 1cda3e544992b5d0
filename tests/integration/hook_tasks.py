"""Tasks with hooks, and receivers of their signals, that block, keep context and are async; what ran goes to a file."""

from __future__ import annotations

import asyncio
import json
import os
import time
from contextvars import ContextVar
from pathlib import Path
from typing import Any

from celery import Task, current_app, current_task, group, shared_task, signals

LOG = Path(os.environ.get("HOOKS_LOG", os.devnull))

trail: ContextVar[tuple[str, ...]] = ContextVar("trail", default=())
span: ContextVar[str] = ContextVar("span", default="")


def note(what: str, **more: Any) -> None:
    """Write down what runs, whether on an event loop, and for which task."""
    try:
        asyncio.get_running_loop()
        on_loop = True
    except RuntimeError:
        on_loop = False
    trail.set((*trail.get(), what))
    line = {"what": what, "on_loop": on_loop, "task": current_task.name, "id": current_task.request.id} | more
    with LOG.open("a", buffering=1) as file:
        file.write(json.dumps(line) + "\n")


def wait_for(path: str) -> None:
    while not Path(path).exists():
        time.sleep(0.02)


class Hooked(Task):  # type: ignore[type-arg, unused-ignore]
    def before_start(self, task_id: str, args: Any, kwargs: Any) -> None:
        note("before_start")

    def on_success(self, retval: Any, task_id: str, args: Any, kwargs: Any) -> None:
        note("on_success")

    def on_failure(self, exc: Any, task_id: str, args: Any, kwargs: Any, einfo: Any) -> None:
        note("on_failure")

    def on_retry(self, exc: Any, task_id: str, args: Any, kwargs: Any, einfo: Any) -> None:
        note("on_retry")

    def after_return(self, status: str, retval: Any, task_id: str, args: Any, kwargs: Any, einfo: Any) -> None:
        note("after_return", trail=trail.get())


class AsyncHooked(Task):  # type: ignore[type-arg, unused-ignore]
    async def before_start(self, task_id: str, args: Any, kwargs: Any) -> None:
        await asyncio.sleep(0)
        note("before_start")

    async def after_return(self, status: str, retval: Any, task_id: str, args: Any, kwargs: Any, einfo: Any) -> None:
        await asyncio.sleep(0)
        note("after_return", trail=trail.get())


class Blocking(Task):  # type: ignore[type-arg, unused-ignore]
    """Its hooks block until a file is there; the path is the task's last argument."""

    def before_start(self, task_id: str, args: Any, kwargs: Any) -> None:
        if args[0] == "before_start":
            wait_for(args[-1])

    def on_success(self, retval: Any, task_id: str, args: Any, kwargs: Any) -> None:
        if args[0] == "on_success":
            wait_for(args[-1])

    def on_failure(self, exc: Any, task_id: str, args: Any, kwargs: Any, einfo: Any) -> None:
        wait_for(args[-1])

    def on_retry(self, exc: Any, task_id: str, args: Any, kwargs: Any, einfo: Any) -> None:
        wait_for(args[-1])

    def after_return(self, status: str, retval: Any, task_id: str, args: Any, kwargs: Any, einfo: Any) -> None:
        if args[0] == "after_return":
            wait_for(args[-1])


class Exhausted(Task):  # type: ignore[type-arg, unused-ignore]
    """A hook of it asks an iterator for more than it has; which one, the task's argument says."""

    def before_start(self, task_id: str, args: Any, kwargs: Any) -> None:
        if args[0] == "before_start":
            next(iter(()))

    def after_return(self, status: str, retval: Any, task_id: str, args: Any, kwargs: Any, einfo: Any) -> None:
        if args[0] == "after_return":
            next(iter(()))


@shared_task(name="h.exhausted", base=Exhausted)
async def exhausted(where: str) -> str:
    return where


@shared_task(name="h.same")
async def same(value: Any) -> Any:
    return value


def results_of_others(where: str) -> None:
    """Send others and wait for their results, which Celery forbids in a task's body only."""
    together = group(current_app.signature("h.same", (number,)) for number in range(3)).apply_async()
    note(where, got=together.get(timeout=60, disable_sync_subtasks=False))


class Asking(Task):  # type: ignore[type-arg, unused-ignore]
    def before_start(self, task_id: str, args: Any, kwargs: Any) -> None:
        results_of_others("before_start")


@shared_task(name="h.asking", base=Asking)
async def asking() -> None:
    """Begin when others have ended."""


@shared_task(name="h.asking_sync", base=Asking)
def asking_sync() -> None:
    """Begin when others have ended."""


tokens: dict[tuple[str, int], Any] = {}


def receive(signal: Any, sender: Any = None, **_: Any) -> None:
    if not sender.name.startswith("h.hooked"):
        if sender.name.startswith("h.asking") and signal.name in ("task_prerun", "task_postrun"):
            results_of_others(signal.name)
        if sender.name == "h.blocking" and sender.request.args[0] == signal.name:
            wait_for(sender.request.args[-1])
        return
    name = signal.name
    task_id = sender.request.id
    if name == "task_prerun":
        # What a tracing library does: a token is good in the context alone in which it was made.
        tokens[task_id, sender.request.retries] = span.set(task_id)
    elif name == "task_postrun":
        span.reset(tokens.pop((task_id, sender.request.retries)))
    note(name, span=span.get())


async def receive_async(signal: Any, sender: Any = None, **_: Any) -> None:
    if sender.name.startswith("h.hooked"):
        await asyncio.sleep(0)
        note("async receiver")


@signals.worker_init.connect(weak=False)
def connect(**_: Any) -> None:
    """In a worker only: a test imports this module for its name."""
    for signal in (
        signals.task_prerun,
        signals.task_postrun,
        signals.task_success,
        signals.task_failure,
        signals.task_retry,
    ):
        signal.connect(receive, weak=False)
    signals.task_success.connect(receive_async, weak=False)


@signals.worker_process_init.connect(weak=False)
def process_begins(**_: Any) -> None:
    print(f"process {os.getpid()} begins", flush=True)


@signals.worker_process_shutdown.connect(weak=False)
def process_ends(pid: Any = None, exitcode: Any = None, **_: Any) -> None:
    print(f"process {pid} ends with {exitcode}", flush=True)


def _body(self: Any, outcome: str) -> str:
    note("body", span=span.get())
    if outcome == "fail":
        raise KeyError(outcome)
    if outcome == "retry" and not self.request.retries:
        raise self.retry(countdown=0)
    return outcome


@shared_task(name="h.hooked", bind=True, base=Hooked)
async def hooked(self: Any, outcome: str) -> str:
    await asyncio.sleep(0)
    return _body(self, outcome)


@shared_task(name="h.hooked_sync", bind=True, base=Hooked)
def hooked_sync(self: Any, outcome: str) -> str:
    return _body(self, outcome)


@shared_task(name="h.hooked_async", bind=True, base=AsyncHooked)
async def hooked_async(self: Any, outcome: str) -> str:
    return _body(self, outcome)


@shared_task(name="h.hooked_async_sync", bind=True, base=AsyncHooked)
def hooked_async_sync(self: Any, outcome: str) -> str:
    return _body(self, outcome)


@shared_task(name="h.blocking", bind=True, base=Blocking, acks_late=True)
async def blocking(self: Any, where: str, began: str, path: str) -> str:
    Path(began).touch()
    await asyncio.sleep(0)
    if where in ("on_failure", "task_failure"):
        raise KeyError(where)
    if where in ("on_retry", "task_retry") and not self.request.retries:
        raise self.retry(countdown=0)
    return where


@shared_task(name="h.touch")
async def touch(path: str) -> None:
    Path(path).touch()
