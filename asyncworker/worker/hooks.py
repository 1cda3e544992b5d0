"""Hooks of async tasks and receivers of their signals, which may block: they leave the loop, and keep their context.

Celery's tracer calls them in the bridge. Each runs on a thread, in the very context of the task's body, which waits
for it: what one sets, the next one and the body see. One that is ``async def`` is awaited on the loop.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any

from celery import Task, signals
from celery.app.trace import task_has_custom
from celery.loaders.base import BaseLoader

from asyncworker.loop import await_, get_loop_thread, in_bridge, off_loop_in_context, on_loop_thread
from asyncworker.worker.sending import earned, in_hook

__all__ = ["adopt_hooks", "adopt_loader", "adopt_signals", "never_blocks"]

HOOKS = ("before_start", "on_success", "on_failure", "on_retry", "after_return")
LOADER_HOOKS = ("on_task_init", "on_process_cleanup")
SIGNALS: tuple[Any, ...] = (
    signals.task_prerun,
    signals.task_postrun,
    signals.task_success,
    signals.task_failure,
    signals.task_retry,
    signals.task_internal_error,
)


#: Set on a receiver that is called on the loop.
_MARK = "__asyncworker_never_blocks__"


def never_blocks(receiver: Callable[..., None]) -> Callable[..., None]:
    """Mark a receiver that may be called on the loop: each failing task of every app would wait for its thread."""
    setattr(receiver, _MARK, True)
    return receiver


def adopt_hooks(task: Task[Any, Any]) -> None:
    """Have the hooks that a task overrides leave the loop; one that overrides none pays nothing."""
    for name in HOOKS:
        if task_has_custom(task, name):
            _replace(task, name)


def adopt_loader(loader: Any) -> None:
    """The same for what a loader of the app's own does for each task."""
    for name in LOADER_HOOKS:
        if getattr(type(loader), name) is not getattr(BaseLoader, name):
            _replace(loader, name)


def adopt_signals() -> None:
    """Have the receivers of what the tracer sends leave the loop, those connected later as well."""
    for signal in SIGNALS:
        if "_live_receivers" not in vars(signal):
            # What `send` asks for them; the tracer has kept its bound methods of each signal.
            signal._live_receivers = functools.partial(_receivers, signal._live_receivers)


def _replace(owner: Any, name: str) -> None:
    hook = getattr(owner, name)
    if not isinstance(hook, _Hook):
        setattr(owner, name, _Hook(hook))


def _receivers(live: Callable[[Any], list[Any]], sender: Any) -> list[Any]:
    bridged = in_bridge()
    return [
        _Hook(receiver)
        if (not hasattr(receiver, _MARK) and (bridged or earned.get())) or inspect.iscoroutinefunction(receiver)
        else receiver
        for receiver in live(sender)
    ]


class _Hook:
    """Calls something of the user's in the place where it may block, or awaits it."""

    def __init__(self, hook: Callable[..., Any]) -> None:
        self._hook = hook

    def __repr__(self) -> str:
        return repr(self._hook)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if in_bridge() and not inspect.iscoroutinefunction(self._hook):
            result = off_loop_in_context(self._run, *args, **kwargs)
        else:
            result = self._run(*args, **kwargs)
        if not inspect.iscoroutine(result):
            return result
        if in_bridge():
            return await_(result)
        # A child task's own eager call: nobody could wait for it there.
        return result if on_loop_thread() else get_loop_thread().run(result)

    def _run(self, *args: Any, **kwargs: Any) -> Any:
        token = in_hook.set(True)
        try:
            return self._hook(*args, **kwargs)
        finally:
            in_hook.reset(token)
