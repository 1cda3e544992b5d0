"""Values that a task keeps from one execution to the next: ``from asyncworker import state``.

Inside of any task, an item of a fan-out included::

    page = await state.get("page", 1)
    ...
    await state.set("page", page + 1)

Values are what JSON can hold. They belong to the task's id: its retries and a second delivery find what was set.

In an item of a fan-out they are the item's own, known by the run's id and the item's key or index: its retries find
them, and so do later attempts of the run. They are deleted once the run has ended and no item failed. ``state.run`` has
the same functions for what belongs to the run, or to its partition; where no item runs it is the task's state, too.

``set`` returns at once; what was set is written within a quarter of a second, together with what other tasks have set,
and in any case before the task's outcome is stored. Where a crash must not undo it, ``await state.flush()``. State is
kept when the task has ended, whatever way; it is deleted a while after (``ASYNCWORKER_STATE_KEEP_S``).

In a task that is not ``async def`` use ``state.blocking``, which has the same functions.
"""

from __future__ import annotations

import asyncio
import functools
import logging
from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from celery import _state
from kombu.utils.json import dumps, loads

from asyncworker.errors import StateError, StateTooLarge, StoreError
from asyncworker.iterate.item import Item, item_here
from asyncworker.iterate.keys import digest_of
from asyncworker.loop import LiveJob, current_job, get_loop_thread
from asyncworker.resources import lifetimes
from asyncworker.settings import Settings, load_settings
from asyncworker.store import patiently, shared_store
from asyncworker.tasks.item_states import runs_with_item_states
from asyncworker.tasks.names import OUR_TASKS, RUN_ITERATE, RUN_PARTITION

if TYPE_CHECKING:
    from asyncworker.store import TaskState
    from asyncworker.tasks.job_states import JobStates

__all__ = ["blocking", "clear", "clear_items", "delete", "flush", "get", "run", "set"]

logger = logging.getLogger(__name__)

T = TypeVar("T")


async def get(key: str, default: Any = None) -> Any:
    """Return a value that this task has set, in this execution of it or an earlier one; else the default.

    Raises:
        StateError: No task is running here; the key is not a string.
        StoreError: The store cannot be used.
    """
    return await _act(_getting(key, default))


async def set(key: str, value: Any) -> None:
    """Remember a value.

    Raises:
        StateError: No task is running here; the key is not a string, or the value not one that JSON can hold.
        StateTooLarge: The task's state would pass ``ASYNCWORKER_STATE_MAX_BYTES``; it stays as it was.
        StateTakenOver: Another execution of the task has opened its state since.
        StoreError: The store cannot be used.
    """
    await _act(_setting(key, value))


async def delete(key: str) -> None:
    """Forget a value; one that is not there is forgotten already."""
    await _act(_deleting(key))


async def clear() -> None:
    """Forget all of the values: those of the task, or in an item of that item alone."""
    await _act(_clearing)


async def flush() -> None:
    """Return when all that was set so far would survive a crash.

    Raises:
        StateTakenOver: Another execution of the task has opened its state since; nothing was written.
        StoreError: The store cannot be used.
    """
    await _act(None)


class _OfRun:
    """The same functions for what belongs to the run: to all of its items, or to those of its partition."""

    async def get(self, key: str, default: Any = None) -> Any:
        """Return a value; see :func:`get`."""
        return await _act(_getting(key, default), of_run=True)

    async def set(self, key: str, value: Any) -> None:
        """Remember a value; see :func:`set`."""
        await _act(_setting(key, value), of_run=True)

    async def delete(self, key: str) -> None:
        """Forget a value."""
        await _act(_deleting(key), of_run=True)

    async def clear(self) -> None:
        """Forget all of the run's values; those of its items stay."""
        await _act(_clearing, of_run=True)

    async def flush(self) -> None:
        """Return when all that was set so far would survive a crash; see :func:`flush`."""
        await _act(None, of_run=True)


run = _OfRun()


class _Blocking:
    """The same functions for tasks that are not ``async def``: each waits until it is done."""

    def __init__(self, of_run: bool = False) -> None:
        self._of_run = of_run

    @property
    def run(self) -> _Blocking:
        """The same for what belongs to the run."""
        return _Blocking(of_run=True)

    def get(self, key: str, default: Any = None) -> Any:
        """Return a value; see :func:`get`."""
        return self._wait(_getting(key, default))

    def set(self, key: str, value: Any) -> None:
        """Remember a value; see :func:`set`."""
        self._wait(_setting(key, value))

    def delete(self, key: str) -> None:
        """Forget a value."""
        self._wait(_deleting(key))

    def clear(self) -> None:
        """Forget all of the values; see :func:`clear`."""
        self._wait(_clearing)

    def flush(self) -> None:
        """Return when all that was set so far would survive a crash."""
        self._wait(None)

    def _wait(self, action: _Action | None) -> Any:
        return get_loop_thread().run(_do(_scope(self._of_run), action))


blocking = _Blocking()


# -- whose state it is -------------------------------------------------------------------------------------------------


class _Scope(NamedTuple):
    """The task that runs here, found out where its caller is: the loop's thread may know another."""

    task_id: str
    name: str
    settings: Settings
    job: LiveJob | None
    item: Item | None

    def __str__(self) -> str:
        of_item = "" if self.item is None else f" item {self.item.index} of"
        return f"state of{of_item} task {self.name}[{self.task_id}]"


def _scope(of_run: bool = False) -> _Scope:
    task: Any = _state.get_current_task()
    request = getattr(task, "request", None)
    if request is None or request.id is None:
        raise StateError("state belongs to a task, and none is running here: it is known only inside of a task's code")
    item = item_here()
    if of_run or (task.name not in OUR_TASKS and request.is_eager):
        # A task that an item has applied is a task.
        item = None
    task_id = _id_of(task.name, request) if item is None else _id_of_item(task.name, request, item)
    return _Scope(task_id, task.name, load_settings(conf=task.app.conf), current_job.get(), item)


def _id_of(name: str, request: Any) -> str:
    """Return the id that owns the state: a partition may have several messages, each with an id of its own."""
    if name == RUN_PARTITION:
        return f"{request.kwargs['run']}/{request.kwargs['number']}"
    item = item_here()
    if name == RUN_ITERATE and item is not None and item.run_id.startswith(f"{request.id}/"):
        return item.run_id
    return str(request.id)


def _id_of_item(name: str, request: Any, item: Item) -> str:
    """The item's own, whichever partition it is in, and whatever its index is where it has a key."""
    run_id = str(request.kwargs["run"] if name == RUN_PARTITION else request.id)
    if item.run_id != run_id and not (name in OUR_TASKS and item.run_id.startswith(f"{run_id}/")):
        run_id = f"{run_id}#{item.run_id}"  # a run within a task, in memory
    return f"{run_id}#{item.index if item.key is None else digest_of(item.key).hex()}"


#: What is done with the open state of a task; returns a value, and whether the state was changed.
_Action = Callable[[_Scope, "TaskState"], tuple[Any, bool]]


def _getting(key: str, default: Any) -> _Action:
    def action(scope: _Scope, state: TaskState) -> tuple[Any, bool]:
        stored = state.values.get(_checked(scope, key))
        return (default if stored is None else loads(stored.decode())), False

    return action


def _setting(key: str, value: Any) -> _Action:
    def action(scope: _Scope, state: TaskState) -> tuple[Any, bool]:
        _checked(scope, key)
        try:
            encoded = dumps(value).encode()
        except Exception as exc:
            reason = f"{type(exc).__name__}: {exc}"
            raise StateError(f"{scope}: the value of {key!r} is {value!r:.100}, no JSON: {reason}") from exc
        size_bytes = state.size_bytes
        replaced = len(state.values[key]) if key in state.values else -len(key.encode(errors="surrogatepass"))
        new_bytes = size_bytes - replaced + len(encoded)
        if new_bytes > scope.settings.state_max_bytes:
            raise StateTooLarge(
                f"{scope}: the value of {key!r} has {len(encoded):,} bytes, with which the state would have "
                f"{new_bytes:,}; allowed are {scope.settings.state_max_bytes:,} (ASYNCWORKER_STATE_MAX_BYTES). Keep "
                "large things elsewhere, and here where they are"
            )
        changed = state.values.get(key) != encoded
        state.values[key] = encoded
        return None, changed

    return action


def _deleting(key: str) -> _Action:
    def action(scope: _Scope, state: TaskState) -> tuple[Any, bool]:
        return None, state.values.pop(_checked(scope, key), None) is not None

    return action


def _clearing(_scope: _Scope, state: TaskState) -> tuple[Any, bool]:
    changed = bool(state.values)
    state.values.clear()
    return None, changed


def _checked(scope: _Scope, key: Any) -> str:
    if not isinstance(key, str):
        raise StateError(f"{scope}: the key {key!r:.100} is of type {type(key).__name__}; expected a string")
    try:
        key.encode()
    except UnicodeEncodeError as exc:
        raise StateError(f"{scope}: the key {key!r:.100} is no text that can be stored: {exc}") from exc
    return key


# -- on our loop -------------------------------------------------------------------------------------------------------


async def _do(scope: _Scope, action: _Action | None) -> Any:
    """Act on a task's state, or write it where there is no action."""
    states = await _states(scope.settings)
    if scope.job is None:
        return await states.act_once(scope.task_id, None if action is None else functools.partial(action, scope))
    state = await states.of_job(scope.job, scope.task_id, scope.item)
    state.check_held()
    if action is None:
        await states.flush(state)
        return None
    value, changed = action(scope, state)
    if changed:
        states.change(state)
    return value


async def _states(settings: Settings) -> JobStates:
    async def make() -> JobStates:
        patience_s = settings.store_patience_s
        store = await patiently(lambda: shared_store(settings), patience_s=patience_s, what="opening the store")
        from asyncworker.tasks.job_states import JobStates  # whose imports that has made, off the loop

        return JobStates(store, keep_s=settings.state_keep_s, patience_s=patience_s)

    return await lifetimes().use(("task-state", settings.store_url_or_default()), make)


async def _act(action: _Action | None, of_run: bool = False) -> Any:
    return await _on_our_loop(_do(_scope(of_run), action))


async def clear_items(run_id: str, settings: Settings, job: LiveJob | None) -> None:
    """Delete what the items of a run have remembered, if any of them did here; raises nothing."""
    if run_id not in runs_with_item_states:
        return
    runs_with_item_states.discard(run_id)
    try:
        await (await _states(settings)).delete_items(job, run_id)
    except StoreError as exc:
        logger.warning("run %s: the state of its items stays until it is swept: %s", run_id, exc)


async def _on_our_loop(coro: Coroutine[Any, Any, T]) -> T:
    loop = get_loop_thread().loop
    if asyncio.get_running_loop() is loop:
        return await coro
    return await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(coro, loop))
