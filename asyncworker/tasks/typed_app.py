"""The default app's type, for type checkers: its tasks keep the names and types of their arguments.

Celery's own type of an app gives all tasks one type. With this one a type checker refuses a wrong keyword of ``delay``,
``adelay``, ``si`` and a call. ``s``, ``partial`` and ``iterate`` take a part of the arguments, which ``ParamSpec``
cannot say: what they are given is compared when they run.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Coroutine
from typing import TYPE_CHECKING, Any, Concatenate, Literal, ParamSpec, Protocol, TypeVar, overload

from celery import Celery, Task

from asyncworker.tasks.task import AsyncTask

__all__ = ["TypedApp"]

P = ParamSpec("P")
R = TypeVar("R")
T = TypeVar("T", bound="Task[Any, Any]")


class _Decorator(Protocol):
    """Makes a task of a function."""

    @overload
    def __call__(self, fun: Callable[P, Coroutine[Any, Any, R]], /) -> AsyncTask[P, R, Coroutine[Any, Any, R]]: ...
    @overload
    def __call__(self, fun: Callable[P, AsyncIterator[R]], /) -> AsyncTask[P, list[R], AsyncIterator[R]]: ...
    @overload
    def __call__(self, fun: Callable[P, R], /) -> AsyncTask[P, R, R]: ...


class _BindingDecorator(Protocol):
    """Makes a task of a function whose first parameter is the task."""

    @overload
    def __call__(
        self, fun: Callable[Concatenate[Any, P], Coroutine[Any, Any, R]], /
    ) -> AsyncTask[P, R, Coroutine[Any, Any, R]]: ...
    @overload
    def __call__(
        self, fun: Callable[Concatenate[Any, P], AsyncIterator[R]], /
    ) -> AsyncTask[P, list[R], AsyncIterator[R]]: ...
    @overload
    def __call__(self, fun: Callable[Concatenate[Any, P], R], /) -> AsyncTask[P, R, R]: ...


if TYPE_CHECKING:
    _Celery = Celery[AsyncTask]
else:
    _Celery = Celery


class TypedApp(_Celery):
    """A Celery app whose tasks are typed each by its function."""

    @overload  # type: ignore[override]
    def task(
        self,
        fun: Callable[P, Coroutine[Any, Any, R]],
        /,
        *,
        bind: Literal[False] = False,
        base: None = None,
        **options: Any,
    ) -> AsyncTask[P, R, Coroutine[Any, Any, R]]: ...
    @overload
    def task(
        self, fun: Callable[P, AsyncIterator[R]], /, *, bind: Literal[False] = False, base: None = None, **options: Any
    ) -> AsyncTask[P, list[R], AsyncIterator[R]]: ...
    @overload
    def task(
        self, fun: Callable[P, R], /, *, bind: Literal[False] = False, base: None = None, **options: Any
    ) -> AsyncTask[P, R, R]: ...
    @overload
    def task(self, *, bind: Literal[False] = False, base: None = None, **options: Any) -> _Decorator: ...
    @overload
    def task(self, *, bind: Literal[True], base: None = None, **options: Any) -> _BindingDecorator: ...
    @overload
    def task(self, *, base: type[T], bind: bool = False, **options: Any) -> Callable[[Callable[..., Any]], T]: ...
    def task(self, *args: Any, **options: Any) -> Any:  # type: ignore[misc]
        """Declare a task, as Celery's own."""
        return super().task(*args, **options)
