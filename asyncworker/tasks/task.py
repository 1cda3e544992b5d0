"""The task class: everything of Celery's, ``async def`` bodies, and the ways to fan out."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterable, Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Generic, cast

from celery import Task
from celery.canvas import group
from celery.result import EagerResult

from asyncworker.iterate import SourceMode
from asyncworker.limits import LimitUse, uses_of
from asyncworker.resources import inject, refuse_resources, resources_of
from asyncworker.tasks.calling import in_item, refuse_in_item, retry_item
from asyncworker.tasks.publish import send
from asyncworker.tasks.task_result import TaskEagerResult, TaskResult
from asyncworker.worker.stacks import share_stacks
from asyncworker.worker.tracing import bridge_method, bridge_run, is_async_function

if TYPE_CHECKING:
    from typing_extensions import ParamSpec, TypeVar

    from asyncworker.tasks.partial import IterateSignature, Partial

    P = ParamSpec("P", default=...)
    #: What the task returns in the end.
    R = TypeVar("R", default=Any, covariant=True)
    #: What a call of it gives: the coroutine of that, where its body is async.
    Called = TypeVar("Called", default=Any, covariant=True)

    class _Task(Task[P, R], Generic[P, R, Called]):
        pass
else:
    P = R = Called = None

    class _Task(Task):
        """Celery's own, which can be subscripted as its type can."""

        abstract = True

        def __class_getitem__(cls, parameters: Any) -> type:
            return cls


__all__ = ["AsyncTask"]


class _Call:
    """Target of a task call: the body if the tracer calls, else Celery's own ``__call__``.

    In a worker Celery's tells the two apart within the call, whose frames, of Python and of C, wait with the body then:
    two thirds of a kilobyte for each of ten thousand tasks.
    """

    def __get__(self, task: Any, owner: type | None = None) -> Callable[..., Any]:
        if task is None:
            return super(AsyncTask, owner).__call__  # type: ignore[misc, no-any-return]
        inherited: Any = super(AsyncTask, task).__call__  # type: ignore[misc]
        stack = task.request_stack
        request = stack.top
        mixed_in = inherited.__func__ is not _Task.__call__
        if mixed_in or not request or request.called_directly or request._protected or len(stack) != 1:
            return inherited  # type: ignore[no-any-return]
        request._protected = 1
        return task.run  # type: ignore[no-any-return]


class AsyncTask(_Task[P, R, Called]):
    """Base of the tasks of an app that asyncworker is installed in. Sync and async bodies alike.

    An async body runs on the event loop of the async worker. Called directly, ``my_task(x)``, it returns its coroutine;
    traced by any pool of Celery's or eagerly, the value. A body that is an async generator gives the list of what
    it yields, and can be the lazy source of a fan-out.
    """

    abstract = True
    #: Of which the body needs a permit while it runs: `@app.task(limits=[limit("sftp", by="host")])`. A task that waits
    #: for one has begun, and has a place in the worker; an item of a fan-out has none meanwhile.
    limits: Sequence[LimitUse] = ()
    if TYPE_CHECKING:

        def __call__(self, *args: P.args, **kwargs: P.kwargs) -> Called:  # type: ignore[override]
            """Run the task's body here."""
    else:
        __call__ = _Call()

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if "limits" in cls.__dict__:
            cls.limits = uses_of(cls.limits)
        declared = cls.__dict__.get("run")
        run = declared.__func__ if isinstance(declared, staticmethod) else declared
        if run is None:
            return
        if not is_async_function(run):
            refuse_resources(run, cls.name or cls.__qualname__)
            return
        if "__header__" in cls.__dict__ and resources_of(run):
            # What `delay` checks arguments against: the caller does not give the resources.
            app: Any = cls.app
            header = app.type_checker(inject(run), bound=not isinstance(declared, staticmethod))
            cls.__header__ = header  # type: ignore[attr-defined]
        if isinstance(declared, staticmethod):
            # A decorated function: this class is its own, and the only one whose requests it can be part of.
            cls.run = staticmethod(bridge_run(run, lambda: cls.request_stack))  # type: ignore[method-assign]
        else:
            cls.run = bridge_method(run)  # type: ignore[method-assign]

    @classmethod
    def on_bound(cls, app: Any) -> None:
        """Called by Celery when the task gets its app."""
        share_stacks(cls)
        return super().on_bound(app)

    def partial(self, /, **fixed: Any) -> Partial:
        """Fix keyword arguments of a fan-out; the others come from its source: ``task.partial(...).iterate(...)``."""
        from asyncworker.tasks.partial import Partial

        return Partial(self, {}).partial(**fixed)

    def iterate(self, /, *, mode: SourceMode = "product", **sources: Any) -> IterateSignature:
        """Build a fan-out with no fixed arguments; see :meth:`Partial.iterate`."""
        return self.partial().iterate(mode=mode, **sources)

    def iterate_kwargs(self, rows: Iterable[Mapping[str, Any]] | AsyncIterable[Mapping[str, Any]]) -> IterateSignature:
        """Build a fan-out over rows of keyword arguments; see :meth:`Partial.iterate_kwargs`."""
        return self.partial().iterate_kwargs(rows)

    def expand(self, /, *, mode: SourceMode = "product", **sources: Any) -> group:
        """Build a group of one message an item; see :meth:`Partial.expand`."""
        return self.partial().expand(mode=mode, **sources)

    def apply(self, *args: Any, **kwargs: Any) -> EagerResult[Any]:
        """Run the task here, as Celery's own; its result can be awaited as others."""
        return TaskEagerResult.of(super().apply(*args, **kwargs))  # type: ignore[no-any-return]

    def retry(
        self,
        args: Any = None,
        kwargs: Any = None,
        exc: Any = None,
        throw: bool = True,
        eta: Any = None,
        countdown: Any = None,
        max_retries: int | None = None,
        **options: Any,
    ) -> Any:
        """Try the task again, as Celery's own; in an item of a fan-out try the item again, as its run's options say.

        Of the arguments ``exc``, ``countdown`` and ``eta`` count for an item.
        """
        if not in_item(self):
            return super().retry(args, kwargs, exc, throw, eta, countdown, max_retries, **options)
        again = retry_item(exc or sys.exc_info()[1], eta, countdown)
        if throw:
            raise again
        return again

    def replace(self, sig: Any) -> Any:
        """Replace the task by another, as Celery's own; an item cannot be.

        Raises:
            ItemError: The task runs as an item.
        """
        refuse_in_item(self, "replace", "send the other task with adelay(), or call it")
        return super().replace(sig)

    def add_to_chord(self, sig: Any, lazy: bool = False) -> Any:
        """Add a task to the chord that this one is in, as Celery's own; an item is in none.

        Raises:
            ItemError: The task runs as an item.
        """
        refuse_in_item(self, "add_to_chord", "what is to be in a chord is sent by the task that sends the fan-out")
        return super().add_to_chord(sig, lazy)  # type: ignore[call-overload]

    def update_state(self, task_id: Any = None, state: Any = None, meta: Any = None, **kwargs: Any) -> None:
        """Store a state of the task, as Celery's own; an item has none of its own.

        Raises:
            ItemError: The task runs as an item, and no other task is named.
        """
        if task_id is None:
            refuse_in_item(self, "update_state", "what it has to remember goes to asyncworker.state")
        super().update_state(task_id=task_id, state=state, meta=meta, **kwargs)

    async def adelay(self, *args: P.args, **kwargs: P.kwargs) -> TaskResult:
        """Send the task without holding up the running loop: the awaitable twin of ``delay``."""
        return await self.aapply_async(args, kwargs)

    async def aapply_async(
        self, args: Iterable[Any] | None = None, kwargs: Mapping[str, Any] | None = None, **options: Any
    ) -> TaskResult:
        """Send the task without holding up the running loop: the awaitable twin of ``apply_async``."""
        return cast(TaskResult, await send(self.app, super().apply_async, args, kwargs, options))
