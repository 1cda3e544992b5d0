"""An async generator between its ``yield`` and its end, in an asyncio task of its own."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Any, Generic, TypeVar

from asyncworker.errors import ResourceError

__all__ = ["Living"]

logger = logging.getLogger(__name__)

T = TypeVar("T")

#: How long a generator that was cancelled may clean up before it is left behind.
CLEANUP_S = 10.0
#: After so long the log names what is still being opened or closed.
SLOW_S = 10.0


class Living(Generic[T]):
    """Runs a generator to its ``yield``, holds it there, and lets it end.

    One task from beginning to end: a task group or a time limit around the ``yield`` must be left in the task that has
    entered it.

    Args:
        name: For errors and the log.
        begin: Returns the generator; awaited in the new task.
        on_end: Called where the generator ends without having been told to, with what it raised.
        context: The context of the task; without one, a copy of the caller's.

    Attributes:
        value: What it has yielded.
    """

    value: T

    def __init__(
        self,
        name: str,
        begin: Callable[[], Awaitable[AsyncIterator[T]]],
        *,
        on_end: Callable[[BaseException | None], None],
        context: contextvars.Context | None = None,
    ) -> None:
        self._name = name
        self._begin = begin
        self._on_end = on_end
        self._context = context or contextvars.copy_context()
        self._told_to_end = False
        self._failure: BaseException | None = None
        self._suppressed = False
        self._end = asyncio.Event()
        self._task: asyncio.Task[None]

    async def start(self) -> None:
        """Run it up to its ``yield``; raises what it raises. Where this is cancelled, so is the generator."""
        loop = asyncio.get_running_loop()
        ready = loop.create_future()
        self._task = loop.create_task(self._live(ready), name=self._name, context=self._context)
        try:
            with self._named_when_slow("is not open"):
                await asyncio.wait([ready, self._task], return_when=asyncio.FIRST_COMPLETED)
        except asyncio.CancelledError:
            self._told_to_end = True
            await self._cancel()
            raise
        if not ready.done():
            self._task.result()
        self._task.add_done_callback(self._ended)

    async def close(self, timeout_s: float | None = None) -> None:
        """Let it run to its end; raises what it raises.

        Raises:
            TimeoutError: It was not done in time, and was cancelled.
        """
        self._told_to_end = True
        self._end.set()
        try:
            with self._named_when_slow("is not closed"):
                await asyncio.wait([self._task], timeout=timeout_s)
        except asyncio.CancelledError:
            await self._cancel()
            raise
        if not self._task.done():
            await self._cancel()
            raise TimeoutError(f"{self._name} did not close within {timeout_s:g} s")
        if not self._task.cancelled():
            self._task.result()

    async def leave(self, failure: BaseException | None, timeout_s: float | None = None) -> bool:
        """Let it end as a context manager's generator, by what ended its use; raises what it raises instead.

        Args:
            failure: Raised at the ``yield``; ``None`` goes on behind it.
            timeout_s: As for :meth:`close`.

        Returns:
            Whether it has suppressed the failure.
        """
        self._failure = failure
        try:
            await self.close(timeout_s)
        finally:
            self._failure = None
        return self._suppressed

    async def _cancel(self) -> None:
        self._task.cancel()
        await asyncio.wait([self._task], timeout=CLEANUP_S)
        if not self._task.done():
            logger.error("%s does not end after being cancelled, and is left behind", self._name)
        elif not self._task.cancelled() and self._task.exception() is not None:
            logger.error("%s failed while it was cancelled", self._name, exc_info=self._task.exception())

    @contextlib.contextmanager
    def _named_when_slow(self, what: str) -> Iterator[None]:
        timer = asyncio.get_running_loop().call_later(
            SLOW_S, logger.warning, "%s %s after %g s; whoever needs it waits", self._name, what, SLOW_S
        )
        try:
            yield
        finally:
            timer.cancel()

    async def _live(self, ready: asyncio.Future[None]) -> None:
        try:
            await self._live_until_told(ready)
        except SystemExit as exc:  # which would end the event loop
            raise ResourceError(f"{self._name} raised {exc!r}") from exc

    async def _live_until_told(self, ready: asyncio.Future[None]) -> None:
        generator: Any = await self._begin()
        try:
            self.value = await anext(generator)
        except StopAsyncIteration:
            raise ResourceError(f"{self._name} ended without a yield") from None
        ready.set_result(None)
        try:
            await self._end.wait()
        except asyncio.CancelledError as exc:
            # From within, as by a task group around the yield, or because the loop ends.
            with contextlib.suppress(StopAsyncIteration):
                await generator.athrow(exc)
            raise
        if self._failure is not None:
            ended = await self._throw(generator, self._failure)
        else:
            ended = await anext(generator, self) is self
        if not ended:
            await generator.aclose()
            raise ResourceError(f"{self._name} yields more than once")

    async def _throw(self, generator: Any, failure: BaseException) -> bool:
        """Raise a failure at the ``yield``; returns whether the generator has ended. As ``asynccontextmanager``."""
        traceback = failure.__traceback__
        try:
            await generator.athrow(failure)
        except StopAsyncIteration as stop:
            self._suppressed = stop is not failure
        except BaseException as exc:
            # Python wraps those two where they leave a generator.
            wrapped = isinstance(failure, StopIteration | StopAsyncIteration) and exc.__cause__ is failure
            if exc is not failure and not (isinstance(exc, RuntimeError) and wrapped):
                raise
            failure.__traceback__ = traceback
        else:
            return False
        return True

    def _ended(self, task: asyncio.Task[None]) -> None:
        exc = None if task.cancelled() else task.exception()
        if not self._told_to_end:
            self._on_end(exc)
