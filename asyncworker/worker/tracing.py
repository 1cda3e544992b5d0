"""Fit a task into the bridge: the stock tracer runs unmodified, and gives way to the loop at the task's body.

Nothing of Celery is replaced: what is set here are attributes of one task object that Celery reads from it (``run``,
``backend``, ``apply_async``, ``request_stack``), and of the app (``send_task``, ``control.broadcast``).
"""

from __future__ import annotations

import asyncio
import contextvars
import functools
import inspect
import logging
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from typing import Any, cast

from billiard.exceptions import SoftTimeLimitExceeded
from celery import Task, _state
from celery.app.base import pydantic_wrapper  # type: ignore[attr-defined]
from celery.exceptions import Reject
from celery.utils.serialization import get_pickleable_exception

from asyncworker.errors import TaskCancelled
from asyncworker.loop import await_, current_job, get_loop_thread, in_bridge, off_loop, on_loop_thread
from asyncworker.resources import Scope, in_task_scope, inject, refuse_resources
from asyncworker.worker.backend import OffLoopBackend
from asyncworker.worker.django_connections import close_old_connections
from asyncworker.worker.eager_app import with_app_of
from asyncworker.worker.failure_backlog import counted_off_loop
from asyncworker.worker.hooks import adopt_hooks, adopt_loader, adopt_signals
from asyncworker.worker.job import Job, SoftTimeLimitReached
from asyncworker.worker.limiting import limited, limited_on_thread
from asyncworker.worker.request import late_request
from asyncworker.worker.results import ResultWriter
from asyncworker.worker.sending import earned, in_backend, of_loop, post, send_task, sends_what_is_earned
from asyncworker.worker.stacks import own_tasks, share_stacks, shared_tasks

__all__ = [
    "adopt",
    "adopt_app",
    "bridge_method",
    "bridge_run",
    "collected",
    "is_async",
    "is_async_function",
    "is_bridged",
    "pydantic_arguments",
]

logger = logging.getLogger(__name__)

#: Tasks of Celery's own that call another one for each row, and return its values: ``map``, ``starmap``, ``chunks``.
_CALLING_OTHERS = frozenset({"celery.map", "celery.starmap"})
#: Set on a function that is bridged already.
_MARK = "__asyncworker_bridged__"


def is_async(task: Task[Any, Any]) -> bool:
    """Tell whether the task's body is a coroutine function or an async generator, under any decorators."""
    return is_async_function(getattr(task, "_orig_run", None) or task.run)


def is_async_function(fn: Callable[..., Any]) -> bool:
    """The same, of a function."""
    innermost = inspect.unwrap(fn)
    return inspect.iscoroutinefunction(innermost) or inspect.isasyncgenfunction(innermost)


def is_bridged(fn: Callable[..., Any]) -> bool:
    """Tell whether a function is one that was put around a task's own, which its ``__wrapped__`` is."""
    return hasattr(fn, _MARK)


def adopt(task: Task[Any, Any], results: ResultWriter | None = None) -> None:
    """Make a task ready for the async pool that starts; done for every task of the app."""
    share_stacks(task)
    stack = task.request_stack
    attribute = "_orig_run" if hasattr(task, "_orig_run") else "run"
    run = getattr(task, attribute)
    if not hasattr(run, _MARK):
        # Below autoretry_for, which must see the exception.
        if is_async_function(run):
            setattr(task, attribute, bridge_run(run, lambda: stack))
        else:
            refuse_resources(run, task.name)
            calls_others = task.name in _CALLING_OTHERS
            setattr(task, attribute, _guarded(_each_awaited(run) if calls_others else run, task.name))
    adopt_hooks(task)
    if task.acks_late:
        task.Request = late_request(task.Request)  # type: ignore[assignment]
    # Each pool has a loop of its own, and results' connections on it: tests start several in one process.
    task.backend = OffLoopBackend(task.app, results)  # type: ignore[assignment]
    if not isinstance(task.apply_async, functools.partial):
        # A sync task's too: the tracer of an async one sends what is linked to it, on the loop.
        task.apply_async = functools.partial(_send, task, task.apply_async)  # type: ignore[method-assign]
        task.retry = functools.partial(_retry, task.retry)  # type: ignore[method-assign]
        task.replace = functools.partial(_replace, task.replace)  # type: ignore[method-assign]


def adopt_app(app: Any) -> None:
    """Make what an app sends leave the loop where there is a bridge to wait in: tasks by name, and remote control."""
    if isinstance(app.send_task, functools.partial):
        return
    app.send_task = functools.partial(send_task, app, app.send_task)
    for name in ("broadcast", "purge"):
        setattr(app.control, name, functools.partial(off_loop, getattr(app.control, name)))
    adopt_loader(app.loader)
    adopt_signals()


#: Why the task that sends its next attempt is tried again, as Celery's ``Retry`` has it.
_retried_for: contextvars.ContextVar[BaseException | None] = contextvars.ContextVar(
    "asyncworker_retried_for", default=None
)

#: Tasks whose sending was seen to block the loop; each is told once.
_told: set[str] = set()


def _send(task: Task[Any, Any], apply_async: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
    """Send a task: off the loop where there is a bridge to wait in, else here, which on the loop is worth a warning."""
    job = current_job.get()
    before_sending: Callable[[], None] | None = None
    leave: Callable[[Callable[[], Any]], Any] = off_loop
    if isinstance(job, Job) and kwargs.get("task_id") == job.id and earned.get():
        # A retry, from within the code that raises it: what that code remembers must be there when it begins.
        _before_outcome(job)
        _check_lease(job)
        if job.abandoned:
            raise asyncio.CancelledError
        before_sending = cast(OffLoopBackend, task.backend).before_retry(job, _retried_for.get(), task.request)
        leave = counted_off_loop(job)
    name = task.name
    if in_bridge():
        call = functools.partial(_send_after, before_sending, apply_async, *args, **kwargs)
        return post(call, leave) if earned.get() else of_loop(off_loop(call))
    if name not in _told and not earned.get() and on_loop_thread():
        _told.add(name)
        logger.warning(
            "%s was sent with delay() or apply_async() from a child task of %s: the event loop waits for the broker "
            "meanwhile. Use `await task.adelay(...)` there",
            name,
            current_job.get() or "the event loop",
        )
    return _send_after(before_sending, apply_async, *args, **kwargs)


def _send_after(
    before_sending: Callable[[], None] | None, apply_async: Callable[..., Any], /, *args: Any, **kwargs: Any
) -> Any:
    if before_sending is not None:
        before_sending()
    return apply_async(*args, **kwargs)


def _retry(retry: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
    """Send a task's next attempt; a message that nobody can take is the failure of this one.

    Celery rejects the task then, of which an early acknowledgement leaves nothing.
    """
    exc = kwargs.get("exc", args[2] if len(args) > 2 else None)
    # As Celery's Retry does. One made to ask it is among its own arguments: only the garbage collector would free it.
    token = _retried_for.set(get_pickleable_exception(cast(Exception, exc)) if isinstance(exc, BaseException) else None)
    with sends_what_is_earned():
        try:
            return retry(*args, **kwargs)
        except Reject as exc:
            reason = exc.args[0] if exc.args else None
            if isinstance(reason, Exception):
                raise reason from None
            raise
        finally:
            _retried_for.reset(token)


def _replace(replace: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
    with sends_what_is_earned():
        return replace(*args, **kwargs)


def bridge_run(run: Callable[..., Any], request_stack: Callable[[], Any]) -> Callable[..., Any]:
    """Return ``run`` so that a tracer gets the awaited value from it, and user code the coroutine.

    Args:
        run: An async function, perhaps under decorators.
        request_stack: Returns the task's request stack.
    """
    run = _inside_pydantic(run, request_stack)
    if hasattr(run, _MARK):
        return run
    run = inject(run)

    @functools.wraps(run)
    def bridged(*args: Any, **kwargs: Any) -> Any:
        result = run(*args, **kwargs)
        if not inspect.isawaitable(result) and not inspect.isasyncgen(result):
            return result
        entered = _enter_trace(request_stack())
        if not entered and not in_backend.get():
            return result
        body = collected(result) if inspect.isasyncgen(result) else result
        uses = getattr(_state.get_current_task(), "limits", ())
        if uses:
            body = limited(body, uses, run, args, kwargs)
        if not entered:
            return _run_beside(in_task_scope(body))
        return _wait_in_bridge(body) if in_bridge() else _wait(body)

    return _marked(bridged)


def bridge_method(run: Callable[..., Any]) -> Callable[..., Any]:
    """Bridge the ``run`` of a task class: whose requests it may be part of is known once it is called."""

    @functools.wraps(run)
    def method(self: Task[Any, Any], *args: Any, **kwargs: Any) -> Any:
        return bridge_run(run, lambda: self.request_stack)(self, *args, **kwargs)

    return _marked(method)


def _marked(bridged: Callable[..., Any]) -> Callable[..., Any]:
    setattr(bridged, _MARK, True)
    return bridged


def _inside_pydantic(run: Callable[..., Any], request_stack: Callable[[], Any]) -> Callable[..., Any]:
    """Put the bridge below Celery's pydantic wrapper, which must see the value and not the coroutine."""
    given = pydantic_arguments(run)
    if given is None:
        return run
    rebuilt = pydantic_wrapper(
        given["app"],
        bridge_run(given["task_fun"], request_stack),
        given["task_name"],
        given["strict"],
        given["context"],
        given["dump_kwargs"],
    )
    return _marked(rebuilt)


def pydantic_arguments(run: Callable[..., Any]) -> dict[str, Any] | None:
    """Return what Celery's pydantic wrapper was made with; ``None`` where this is none."""
    function = getattr(run, "__func__", run)
    if getattr(function, "__code__", None) not in pydantic_wrapper.__code__.co_consts:
        return None
    return dict(inspect.getclosurevars(function).nonlocals)


def _enter_trace(request_stack: Any) -> bool:
    """Tell whether a tracer waits for this call's value; true once a trace.

    A tracer has pushed a request that is not "called directly". A body that calls its own task, or ``super().run``,
    is inside a trace that was entered already, and gets a coroutine to await.
    """
    for request in reversed(request_stack.stack):
        if not request.called_directly:
            if getattr(request, "_asyncworker_entered", False):
                return False
            request._asyncworker_entered = True
            request.headers = request.headers or None
            _share_fields(request)
            return True
    return False


def _share_fields(request: Any) -> None:
    """Have the running task's request keep its fields where Celery's ``Request`` keeps what it was made from.

    They are the same but for a few, and two such dictionaries are a tenth of what a waiting task takes.
    """
    job = current_job.get()
    if not isinstance(job, Job) or request.is_eager or request.id != job.id:
        return
    fields = job.args[2]
    if type(fields) is dict and fields.get("id") == job.id:
        fields.update(vars(request))
        request.__dict__ = fields


def _run_beside(coroutine: Coroutine[Any, Any, Any]) -> None:
    """Run an errback on the loop. Its caller, the backend, may be on any thread but the loop's, and must not wait.

    The job that failed waits for it before it is acknowledged.
    """
    task = _state.get_current_task()

    async def main() -> None:
        in_backend.set("")
        earned.set(False)
        own_tasks()
        _state._task_stack.push(task)  # type: ignore[attr-defined]
        close_old_connections()
        try:
            await coroutine
        except Exception:
            logger.exception("the errback %s failed", task.name if task else coroutine)
        finally:
            close_old_connections()

    future = asyncio.run_coroutine_threadsafe(main(), get_loop_thread().loop)
    job = current_job.get()
    if isinstance(job, Job):
        job.errbacks += (future,)


async def collected(generator: AsyncIterator[Any]) -> list[Any]:
    """Return the value of a body that is an async generator."""
    return [value async for value in generator]


def _wait(body: Awaitable[Any]) -> Any:
    """Wait for a task's body where its tracer is not in a bridge: in another pool, or eagerly."""
    with shared_tasks():
        running = with_app_of(_state.get_current_task(), in_task_scope(body))
        if on_loop_thread():
            # Eager inside a child task of our own loop: only another loop can run it before we return.
            return _on_another_loop(running)
        return get_loop_thread().run(running)


def _wait_in_bridge(body: Awaitable[Any]) -> Any:
    """Wait for a task's body in the pool's bridge."""
    job = current_job.get()
    if not isinstance(job, Job):
        return _await_in_scope(body)
    _refuse_to_begin(job, body)
    outer, job.coroutine = job.coroutine, body
    own = earned.set(False)
    try:
        value = _await_in_scope(body)
    except BaseException as exc:
        job.coroutine = outer
        earned.reset(own)
        _send_left(job)
        _before_outcome(job)
        _check_lease(job)
        raise _outcome_of(exc, job) from exc.__cause__
    job.coroutine = outer
    earned.reset(own)
    if job.unsent or job.before_outcome is not None or job.leases is not None:
        _send_left(job)
        _before_outcome(job)
        _check_lease(job)
    return _unless_abandoned(value, job)


def _refuse_to_begin(job: Job, body: Any) -> None:
    """Before a body begins: its limits, or a revoke, may have come while ``before_start`` or a receiver ran."""
    if job.coroutine is None and (job.abandoned or job.soft_limit_due):
        if hasattr(body, "close"):
            body.close()
        raise asyncio.CancelledError if job.abandoned else SoftTimeLimitExceeded


def _await_in_scope(body: Awaitable[Any]) -> Any:
    """Do what :func:`in_task_scope` does, without a coroutine of its own: ten thousand may wait at once."""
    scope = Scope("task")
    close_old_connections()
    try:
        value = await_(body)
    except BaseException as exc:
        closing = scope.end(exc)
        if closing is None or not await_(closing):
            raise
        return None
    else:
        closing = scope.end()
        if closing is not None:
            await_(closing)
        return value
    finally:
        close_old_connections()


def _send_left(job: Job) -> None:
    """Send what child tasks have left: they could not wait for the broker."""
    while job.unsent and not job.abandoned:
        post(job.unsent[0])
        del job.unsent[0]


def _each_awaited(run: Callable[..., Any]) -> Callable[..., Any]:
    """Return a ``run`` that calls a task for each row of a list so that it awaits an async one, before the next row."""

    @functools.wraps(run)
    def awaited(task: Any, it: Any) -> list[Any]:
        token = earned.set(False)
        try:
            return [_awaited(value) for row in it for value in run(task, [row])]
        finally:
            earned.reset(token)

    return awaited


def _awaited(value: Any) -> Any:
    if inspect.isasyncgen(value):
        value = collected(value)
    return _wait(value) if inspect.isawaitable(value) else value


def _guarded(run: Callable[..., Any], name: str) -> Callable[..., Any]:
    """Return a synchronous ``run`` whose outcome counts only while somebody still waits for it."""
    #: What Celery's own tasks send belongs to a chord or a group, and to nobody who could send it again.
    sends_for_others = name.startswith("celery.")

    @functools.wraps(run)
    def guarded(*args: Any, **kwargs: Any) -> Any:
        job = current_job.get()
        if in_backend.get():
            return _run_errback(run, name, args, kwargs)
        if not isinstance(job, Job):
            return run(*args, **kwargs)
        own = earned.set(sends_for_others)
        try:
            with limited_on_thread(run, args, kwargs):
                value = run(*args, **kwargs)
        except BaseException as exc:
            earned.reset(own)
            _before_outcome(job)
            _check_lease(job)
            if job.abandoned:
                raise asyncio.CancelledError from exc
            raise
        earned.reset(own)
        _before_outcome(job)
        _check_lease(job)
        return _unless_abandoned(value, job)

    return _marked(guarded)


def _run_errback(run: Callable[..., Any], name: str, args: tuple[Any, ...], kwargs: Any) -> None:
    """Run an errback, on whatever thread the backend is. What it raises is not the outcome of the task that failed."""
    tokens = in_backend.set(""), earned.set(False)
    try:
        run(*args, **kwargs)
    except Exception:
        logger.exception("the errback %s failed", name)
    finally:
        in_backend.reset(tokens[0])
        earned.reset(tokens[1])


def _before_outcome(job: Job) -> None:
    """Let what the task's code has left behind be written, such as its state."""
    if job.before_outcome is None or job.abandoned:
        return
    writing = job.before_outcome()
    if in_bridge():
        await_(writing)
    elif not on_loop_thread():
        get_loop_thread().run(writing)
    else:
        writing.close()  # a retry out of a child task: it is written at the task's end


def _check_lease(job: Job) -> None:
    """Before anything of a long task's outcome is stored or sent: does this process still hold it?"""
    if job.leases is None or job.abandoned or not job.leases.is_due(job):
        return
    if not in_bridge() and on_loop_thread():
        return  # a retry out of a child task: it is asked at the task's end
    asking = job.leases.still_held(job)
    held = await_(asking) if in_bridge() else get_loop_thread().run(asking)
    job.abandoned = job.abandoned or not held


def _unless_abandoned(value: Any, job: Job) -> Any:
    if job.abandoned:
        # Its outcome was reported before it ended. The tracer must not store another, nor start what is linked to it.
        raise asyncio.CancelledError
    return value


def _outcome_of(exc: BaseException, job: Job) -> BaseException:
    """Return what the tracer should see of an exception that left a task's coroutine."""
    if job.abandoned or job.interrupt.requested:
        return exc if isinstance(exc, asyncio.CancelledError) else asyncio.CancelledError()
    if isinstance(exc, SoftTimeLimitReached):
        return SoftTimeLimitExceeded(*exc.args).with_traceback(exc.__traceback__)
    if isinstance(exc, asyncio.CancelledError):
        return TaskCancelled("a CancelledError left the task's coroutine, and nobody outside had cancelled it")
    return exc


def _on_another_loop(coroutine: Coroutine[Any, Any, Any]) -> Any:
    outcome: list[Any] = []
    context = contextvars.copy_context()

    def main() -> None:
        try:
            outcome.extend((True, asyncio.run(coroutine)))
        except BaseException as exc:
            outcome.extend((False, exc))

    thread = threading.Thread(target=lambda: context.run(main), name="asyncworker-eager")
    thread.start()
    thread.join()
    succeeded, value = outcome
    if succeeded:
        return value
    raise value
