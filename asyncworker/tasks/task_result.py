"""Celery's results, which can be awaited, too."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any

from celery import states
from celery._state import task_join_will_block  # type: ignore[attr-defined]
from celery.exceptions import TimeoutError
from celery.result import AsyncResult, EagerResult, GroupResult, ResultBase

from asyncworker.tasks.waiting import settle

if TYPE_CHECKING:
    _AsyncResult = AsyncResult[Any]
    _EagerResult = EagerResult[Any]
else:
    _AsyncResult, _EagerResult = AsyncResult, EagerResult

__all__ = ["TaskEagerResult", "TaskGroupResult", "TaskResult", "has_failed", "use_results"]

#: How long Celery's notice of an outcome is waited for before it is looked at again. A client can miss one: Celery asks
#: for the outcome before Redis has confirmed that notices will come, on another connection.
LOOK_AGAIN_S = 5.0


class TaskResult(_AsyncResult):
    """The result of a task: Celery's ``AsyncResult``, and its awaitable twin."""

    def get(self, timeout: float | None = None, *args: Any, **kwargs: Any) -> Any:
        """Wait for the task's end and return its value; as Celery's own, whose arguments it takes.

        Args:
            timeout: Seconds to wait; ``None`` waits for ever.
            *args: Celery's further arguments.
            **kwargs: The same, by name.

        Raises:
            celery.exceptions.TimeoutError: It has not ended in time.
            Exception: What the task raised.
        """
        if not self.backend.supports_native_join:  # looks at the state by itself
            return super().get(timeout, *args, **kwargs)
        return _looking_again(super().get, [self], timeout, *args, **kwargs)

    async def aget(self, timeout: float | None = None, *, propagate: bool = True, follow_parents: bool = True) -> Any:
        """Wait for the task's end and return its value, without holding up the running loop, whichever that is.

        It is allowed in a task as well: other tasks of the worker go on meanwhile. A task that waits keeps its place in
        the worker, so a worker whose places are all taken by tasks that wait for further ones stands still.

        Args:
            timeout: Seconds to wait; ``None`` waits for ever.
            propagate: Raise what the task raised; else that is returned.
            follow_parents: Raise what an earlier task of the chain raised.

        Raises:
            celery.exceptions.TimeoutError: It has not ended in time.
            NotImplementedError: The result backend keeps no results, or for one thread alone (``rpc://``).
            Exception: What the task raised.
        """
        if self.ignored:
            return None
        own: Any = self
        parents = list(_leaves(own._parents())) if follow_parents and propagate else []
        failed = await settle([self], parents, timeout_s=timeout)
        return (failed or self).maybe_throw(propagate=propagate)


class TaskGroupResult(GroupResult):
    """The results of a group: Celery's ``GroupResult``, and its awaitable twin."""

    def get(self, timeout: float | None = None, *args: Any, **kwargs: Any) -> Any:
        """Wait for all of them; as Celery's own, whose arguments it takes, callbacks among them."""
        if not self.supports_native_join or kwargs.get("callback") or len(args) > 2:
            return super().get(timeout, *args, **kwargs)
        return _looking_again(super().get, list(_leaves([self])), timeout, *args, **kwargs)

    async def aget(self, timeout: float | None = None, *, propagate: bool = True) -> list[Any]:
        """Wait for all of them, as :meth:`TaskResult.aget` does for one.

        Args:
            timeout: Seconds to wait, for all together; ``None`` waits for ever.
            propagate: Raise what the first of them raised that has failed; else that is in the place of its value.

        Returns:
            The values in the order of the group; a list for each group in it.

        Raises:
            celery.exceptions.TimeoutError: They have not all ended in time.
            NotImplementedError: As for one.
            Exception: What a task raised.
        """
        leaves = list(_leaves([self]))
        failed = await settle(leaves, leaves if propagate else [], timeout_s=timeout)
        if failed is not None:
            failed.maybe_throw()
        values: list[Any] = _values(self, propagate)
        return values


class TaskEagerResult(_EagerResult):
    """The result of a task that has run already: ``apply()``, or ``task_always_eager``."""

    async def aget(self, timeout: float | None = None, *, propagate: bool = True, follow_parents: bool = True) -> Any:
        """Return its value, or raise what it raised."""
        return self.get(propagate=propagate, disable_sync_subtasks=False)

    @classmethod
    def of(cls, result: Any) -> Any:
        """Return an eager result of Celery's as one of these."""
        if type(result) is not EagerResult:
            return result
        made: Any = cls
        return made(result.id, result.result, result.state, traceback=result.traceback, name=result.name)


def use_results(app: Any) -> None:
    """Have an app give these results, whoever makes them of it: tasks, signatures, ``app.AsyncResult(id)``.

    Results of the app's own stay what they are.
    """
    for stock, ours in ((AsyncResult, TaskResult), (GroupResult, TaskGroupResult)):
        if getattr(app, stock.__name__).__bases__ == (stock,):
            setattr(app, stock.__name__, app.subclass_with_self(ours, name=stock.__name__))


def _leaves(results: Iterable[ResultBase]) -> Iterator[Any]:
    for result in results:
        if isinstance(result, GroupResult):
            yield from _leaves(result.results or ())
        elif not isinstance(result, EagerResult) and not getattr(result, "ignored", False):
            yield result


def _values(result: Any, propagate: bool) -> Any:
    if isinstance(result, GroupResult):
        return [_values(child, propagate) for child in result.results or ()]
    if isinstance(result, EagerResult):
        return result.get(propagate=propagate, disable_sync_subtasks=False)
    return None if result.ignored else result.maybe_throw(propagate=propagate)


def _looking_again(get: Callable[..., Any], leaves: list[Any], timeout: float | None, *args: Any, **kwargs: Any) -> Any:
    give_up_at_s = None if timeout is None else time.monotonic() + timeout
    if not task_join_will_block():
        # A notice that came while another was waited for. Celery would wait for one more, a second where none comes.
        for leaf in leaves:
            if not leaf._cache:
                leaf.backend.add_pending_result(leaf, weak=True)  # Celery may yet raise, and forget it
    while True:
        wait_s = LOOK_AGAIN_S if give_up_at_s is None else min(LOOK_AGAIN_S, give_up_at_s - time.monotonic())
        try:
            return get(max(wait_s, 0.001), *args, **kwargs)
        except TimeoutError:
            # A task may have raised it.
            if any(has_failed(leaf) for leaf in leaves) or (
                give_up_at_s is not None and time.monotonic() >= give_up_at_s
            ):
                raise


def has_failed(result: Any) -> bool:
    """Return whether a result already holds its outcome, and that is a failure."""
    return bool(result._cache) and result._cache["status"] in states.PROPAGATE_STATES
