"""Current task and request of the running code, by context, child tasks and threads included.

Celery's own stacks belong to a greenlet or a thread, and would lose them there.
"""

from __future__ import annotations

import contextlib
import contextvars
from collections.abc import Iterator
from typing import Any

from celery import Task, _state
from celery.utils.threads import LocalStack, get_ident

from asyncworker.errors import SettingsError

__all__ = ["RequestStack", "check_locals", "own_tasks", "share_stacks", "shared_tasks"]

#: Whose task stack the running code sees; ``None``: its thread's.
_owner: contextvars.ContextVar[object] = contextvars.ContextVar("asyncworker_stack_owner", default=None)

_task_stack: Any = _state._task_stack  # type: ignore[attr-defined]


class RequestStack:
    """The requests of one task, in the place of Celery's stack of them; the last is ``task.request``."""

    __slots__ = ("_requests",)

    def __init__(self) -> None:
        self._requests: contextvars.ContextVar[tuple[Any, ...]] = contextvars.ContextVar("requests", default=())

    @property
    def stack(self) -> tuple[Any, ...]:
        """All of them."""
        return self._requests.get()

    @property
    def top(self) -> Any:
        """The last; ``None`` where there is none."""
        requests = self._requests.get()
        return requests[-1] if requests else None

    def push(self, request: Any) -> None:
        """Add one."""
        self._requests.set((*self._requests.get(), request))

    def pop(self) -> Any:
        """Take the last away and return it; ``None`` where there is none."""
        *rest, last = self._requests.get() or (None,)
        self._requests.set(tuple(rest))
        return last

    def __len__(self) -> int:
        return len(self._requests.get())


def _ident() -> object:
    return _owner.get() or get_ident()


def own_tasks() -> None:
    """Give the running context a task stack of its own. First thing in a job."""
    _owner.set(object())


@contextlib.contextmanager
def shared_tasks() -> Iterator[None]:
    """Let other threads that are given a copy of the running context see its task stack."""
    token = _owner.set(_ident())
    try:
        yield
    finally:
        _owner.reset(token)


def check_locals() -> None:
    """Refuse Celery's fast locals, which cannot follow a context.

    Raises:
        SettingsError: ``USE_FAST_LOCALS`` is set.
    """
    if LocalStack.__name__ == "_FastLocalStack":
        raise SettingsError("USE_FAST_LOCALS is set: Celery's fast locals lose task.request in async tasks; unset it")


def share_stacks(task: Task[Any, Any] | type[Task[Any, Any]]) -> None:
    """Make ``current_task`` and the task's request follow the context."""
    _task_stack.__ident_func__ = _ident
    if not isinstance(task.request_stack, RequestStack):
        task.request_stack = RequestStack()  # type: ignore[assignment]
