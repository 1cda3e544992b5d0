"""One thing that a resource has made, and the asyncio task in which its generator lives."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import logging
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from tenacity import AsyncRetrying, retry_if_exception, stop_after_attempt, wait_random_exponential

from asyncworker.errors import ResourceError, SettingsError
from asyncworker.resources.lifetimes import Lifetimes
from asyncworker.resources.scopes import hide_narrower

if TYPE_CHECKING:
    from asyncworker.resources.resource import Resource

__all__ = ["Made", "make", "maker"]

logger = logging.getLogger(__name__)

T = TypeVar("T")

#: The resource that the running code makes.
maker: contextvars.ContextVar[Resource[Any] | None] = contextvars.ContextVar("asyncworker_maker", default=None)

#: The longest wait between two attempts.
BACKOFF_MAX_S = 10.0


async def make(resource: Resource[T], kept: Lifetimes) -> Made[T]:
    """Make a resource, trying again as often as it allows.

    Raises:
        ResourceError: It could not be made. It is logged once, and then not before it has been made again.
    """
    attempts = AsyncRetrying(
        stop=stop_after_attempt(resource.retries + 1),
        wait=wait_random_exponential(multiplier=resource.backoff_s, max=BACKOFF_MAX_S),
        retry=retry_if_exception(_may_pass),
        reraise=True,
    )
    made: Made[T] = Made(resource, kept)
    try:
        await attempts(made.start)
    except ResourceError:
        raise
    except Exception as exc:
        tries = resource.retries + 1 if _may_pass(exc) else 1
        told = f"resource {resource.name} could not be made in {tries} attempts: {type(exc).__name__}: {exc}"
        if not resource.reported:
            resource.reported = True
            logger.error("%s", told, exc_info=exc)
        raise ResourceError(told) from exc
    if resource.reported:
        resource.reported = False
        logger.info("resource %s is made again", resource.name)
    return made


def _may_pass(exc: BaseException) -> bool:
    # What it needs was tried often enough, and settings do not change.
    return isinstance(exc, Exception) and not isinstance(exc, ResourceError | SettingsError)


class Made(Generic[T]):
    """A generator between its ``yield`` and its end. Kept in :class:`Lifetimes`."""

    value: T

    def __init__(self, resource: Resource[T], kept: Lifetimes) -> None:
        self._resource = resource
        self._kept = kept
        self._key = resource.key()
        self._closing = False
        self._close = asyncio.Event()

    async def start(self) -> None:
        """Run the generator up to its ``yield``; raises what it raises."""
        context = contextvars.Context() if self._resource.scope == "process" else contextvars.copy_context()
        ready = asyncio.get_running_loop().create_future()
        self._task = asyncio.get_running_loop().create_task(
            self._live(ready), name=f"resource-{self._resource.name}", context=context
        )
        try:
            await asyncio.wait([ready, self._task], return_when=asyncio.FIRST_COMPLETED)
        except asyncio.CancelledError:
            self._closing = True
            self._task.cancel()
            await asyncio.wait([self._task])
            raise
        if not ready.done():
            self._task.result()
        self._task.add_done_callback(self._ended)

    async def close(self) -> None:
        """Let the generator run to its end; raises what it raises."""
        self._closing = True
        self._close.set()
        await self._task

    async def _live(self, ready: asyncio.Future[None]) -> None:
        from asyncworker.resources.resource import use

        hide_narrower(self._resource.scope)
        maker.set(self._resource)
        needed = {name: await use(each) for name, each in self._resource.needs.items()}
        generator = self._resource.generator(**needed)
        try:
            self.value = await anext(generator)
        except StopAsyncIteration:
            raise ResourceError(f"resource {self._resource.name} ended without a yield") from None
        maker.set(None)
        ready.set_result(None)
        try:
            await self._close.wait()
        except asyncio.CancelledError as exc:
            # From within, as by a task group around the yield, or because the loop ends.
            with contextlib.suppress(StopAsyncIteration):
                await generator.athrow(exc)  # type: ignore[attr-defined]
            raise
        await _finish(generator, self._resource.name)

    def _ended(self, task: asyncio.Task[None]) -> None:
        """Called when the generator has run to its end, which it should not unless it is told to."""
        exc = None if task.cancelled() else task.exception()
        if self._closing:
            return
        self._kept.discard(self._key, self)
        if exc is not None:
            logger.error(
                "resource %s ended by itself, and is made anew when it is used next", self._resource.name, exc_info=exc
            )


async def _finish(generator: AsyncIterator[Any], name: str) -> None:
    try:
        await anext(generator)
    except StopAsyncIteration:
        return
    await generator.aclose()  # type: ignore[attr-defined]
    raise ResourceError(f"resource {name} yields more than once")
