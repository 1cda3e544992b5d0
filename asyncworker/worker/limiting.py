"""A task's body runs with a permit of each of its task's limits."""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Awaitable, Callable, Iterator, Sequence
from typing import Any

from celery import _state

from asyncworker.limits import LimitUse, holding
from asyncworker.loop import current_job, get_loop_thread

__all__ = ["limited", "limited_on_thread"]


async def limited(
    body: Awaitable[Any], uses: Sequence[LimitUse], run: Callable[..., Any], args: tuple[Any, ...], kwargs: Any
) -> Any:
    """Await a body with the permits; ``run``, ``args`` and ``kwargs`` are the call that it comes from."""
    try:
        async with holding(uses, _arguments(run, args, kwargs), holder=_holder()):
            return await body
    finally:
        close = getattr(body, "close", None)
        if close is not None:  # where it was never begun
            close()


@contextlib.contextmanager
def limited_on_thread(run: Callable[..., Any], args: tuple[Any, ...], kwargs: Any) -> Iterator[None]:
    """Hold the permits of the running task while its body runs on this thread. One that is lost cannot stop it."""
    uses = getattr(_state.get_current_task(), "limits", ())
    if not uses:
        yield
        return
    held = holding(uses, _arguments(run, args, kwargs), holder=_holder())
    loop_thread = get_loop_thread()
    loop_thread.run(held.__aenter__())
    try:
        yield
    finally:
        loop_thread.run(held.__aexit__(None, None, None))


def _arguments(run: Callable[..., Any], args: tuple[Any, ...], kwargs: Any) -> dict[str, Any]:
    return dict(inspect.signature(run).bind_partial(*args, **kwargs).arguments)


def _holder() -> str:
    return str(current_job.get() or "")
