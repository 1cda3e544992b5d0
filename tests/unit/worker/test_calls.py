"""What a call of a task is, of a tracer, of code, and of who wraps it: what it is in an app that is Celery's alone."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from celery import Celery, Task
from celery.app.trace import reset_worker_optimizations, setup_worker_optimizations

import asyncworker


@pytest.fixture(params=["client", "worker"])
def apps(request: pytest.FixtureRequest) -> Iterator[list[Celery[Any]]]:
    """Return Celery's own, and ours."""
    made: list[Celery[Any]] = [
        Celery(name, broker="memory://", backend="cache+memory://", set_as_current=False) for name in ("stock", "ours")
    ]
    asyncworker.install(made[1])
    for app in made:
        if request.param == "worker":
            setup_worker_optimizations(app)
    yield made
    for app in made:
        reset_worker_optimizations(app)


def seen(task: Any, deep: int = 0) -> Any:
    """Return what the body sees of its request; a deeper one is another call of its own task."""
    return bool(task.request.called_directly), len(task.request_stack), *([task(deep - 1)] if deep else [])


def made(app: Celery[Any], **options: Any) -> Any:
    return app.task(bind=True, lazy=False, name="seen", **options)(seen)


def own(app: Celery[Any]) -> Any:
    """Return one whose class is mixed of the app's and of one that has a call of its own."""

    class Counting(Task):  # type: ignore[type-arg]
        abstract = True

        def __call__(self, *args: Any, **kwargs: Any) -> Any:
            return "mixed in", super().__call__(*args, **kwargs)

    base: Any = app.Task
    return made(app, base=type("Own", (base, Counting), {"abstract": True}))


def wrapped(app: Celery[Any]) -> Any:
    """Return one whose class's call was replaced, as Sentry's integration does."""
    task = made(app)
    kind: Any = type(task)
    inner = kind.__call__
    kind.__call__ = lambda self, *args, **kwargs: ("wrapped", inner(self, *args, **kwargs))
    return task


@pytest.mark.parametrize("make", [made, own, wrapped])
@pytest.mark.parametrize("deep", [0, 1, 2])
def test_as_celerys(apps: list[Celery[Any]], make: Callable[[Celery[Any]], Any], deep: int) -> None:
    stock, ours = (make(app) for app in apps)
    assert ours.apply((deep,)).get() == stock.apply((deep,)).get()
    assert ours(deep) == stock(deep)
    assert len(ours.request_stack) == len(stock.request_stack) == 0
