"""What a client holds of a fan-out: Celery's AsyncResult, and what the store knows of the run."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import AsyncGenerator, AsyncIterator, Coroutine, Iterator
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, TypeVar

from celery.result import AsyncResult
from kombu.utils.json import loads

from asyncworker.errors import RunError, RunHeld, RunNotFound
from asyncworker.iterate import ItemFailure, Order, Page, Progress, pages_of
from asyncworker.loop import get_loop_thread, off_loop_async
from asyncworker.settings import load_settings
from asyncworker.store import shared_store
from asyncworker.tasks.forgetting import forget_outcome
from asyncworker.tasks.names import RUN_ITERATE
from asyncworker.tasks.payloads import decode
from asyncworker.tasks.task_result import TaskResult

if TYPE_CHECKING:
    from asyncworker.store import Store

__all__ = ["IterateResult"]

T = TypeVar("T")


class IterateResult(TaskResult):
    """The result of a fan-out, by its run id; anyone with the broker and the store can make one.

    The store is read on asyncworker's own loop, which is started where there is none. The plain methods wait for it;
    inside a coroutine, await their twins that begin with ``a``. ``get()`` and ``aget()`` wait for the run's end, and
    raise the one failure or ``ItemErrors``.
    """

    def progress(self) -> Progress:
        """Return where the run stands; its state is ``"pending"`` before a worker has begun."""
        return _wait(self.aprogress())

    def errors(self, offset: int = 0, limit: int = 1000) -> list[ItemFailure]:
        """Return a page of the failed items, by index."""
        return _wait(self.aerrors(offset, limit))

    def results(self) -> list[Any]:
        """Return the stored values of the finished items in the order of the source.

        Raises:
            RunNotFound: No worker has begun the run.
        """
        return _wait(self.aresults())

    def cancel(self) -> None:
        """Ask the run to stop; it does at its next checkpoint, and what is done stays done."""
        _wait(self.acancel())

    def resume(self, *, force: bool = False) -> IterateResult:
        """Send the run again, from its checkpoint: only what is not done runs, failed items among it.

        Args:
            force: Take it from a process that runs it; the items that it has in flight run twice.

        Returns:
            This result; ``get()`` waits for the new outcome.

        Raises:
            RunNotFound: No worker has ever begun the run.
            RunHeld: A process runs it, and has left a sign of life within ``lease_s``. One that has not is taken over
                without being asked for it.
        """
        request, held = _wait(_on_our_loop(self._resumed(force)))
        self._send_again(request, force=force or self._is_free(held))
        return self

    def retry_failed(self) -> IterateResult:
        """Run the failed items of a complete run once more, and no others; where none failed, nothing is sent.

        What a source that is a task has come to list since is not run. Where it lists another row in the place of one
        that was read before, the run is refused with ``RunChanged``; with ``key=`` items may move.

        Returns:
            This result; ``get()`` waits for the new outcome.

        Raises:
            RunNotFound: No worker has ever begun the run.
            RunError: The run has not ended, or ended before each item was run: `resume` is for those.
        """
        failed = _wait(_on_our_loop(self._failed_request()))
        if failed is not None:
            self._send_again(failed, failed_only=True)
        return self

    async def aprogress(self) -> Progress:
        """Awaitable twin of :meth:`progress`."""
        return await _on_our_loop(self._progress())

    async def aerrors(self, offset: int = 0, limit: int = 1000) -> list[ItemFailure]:
        """Awaitable twin of :meth:`errors`."""
        return await _on_our_loop(self._errors(offset, limit))

    async def aresults(self) -> list[Any]:
        """Awaitable twin of :meth:`results`."""
        return await _on_our_loop(self._results())

    async def acancel(self) -> None:
        """Awaitable twin of :meth:`cancel`."""
        await _on_our_loop(self._cancel())

    async def aresume(self, *, force: bool = False) -> IterateResult:
        """Awaitable twin of :meth:`resume`."""
        request, held = await _on_our_loop(self._resumed(force))
        force = force or await off_loop_async(self._is_free, held)
        await off_loop_async(functools.partial(self._send_again, request, force=force))
        return self

    async def aretry_failed(self) -> IterateResult:
        """Awaitable twin of :meth:`retry_failed`."""
        failed = await _on_our_loop(self._failed_request())
        if failed is not None:
            await off_loop_async(functools.partial(self._send_again, failed, failed_only=True))
        return self

    async def stream(self, *, order: Order = "index") -> AsyncIterator[tuple[int, Any]]:
        """Yield ``(index, value)`` of finished items, in bounded memory, on any event loop.

        Args:
            order: ``"index"``: what is stored now, in the order of the source. ``"completion"``: what is finished, as
                it is finished, until the run ends; one that has not begun is waited for. An item that is finished shows
                once its checkpoint is written, a quarter of a second later by default.

        Raises:
            RunNotFound: In the order of the source, of a run that no worker has begun.
            PayloadError: A large result cannot be read back.
        """
        pages = await _on_our_loop(self._pages(order))
        try:
            while page := await _on_our_loop(_next(pages)):
                for pair in page:
                    yield pair
        finally:
            await _on_our_loop(pages.aclose())

    def iter_results(self, *, order: Order = "index") -> Iterator[tuple[int, Any]]:
        """Iterate over what :meth:`stream` yields, in code that is not async."""
        pages = _wait(self._pages(order))
        try:
            while page := _wait(_next(pages)):
                yield from page
        finally:
            _wait(pages.aclose())

    # -- on our loop ---------------------------------------------------------------------------------------------

    async def _store(self) -> Store:
        return await shared_store(load_settings(conf=self.app.conf))

    async def _progress(self) -> Progress:
        try:
            progress = await (await self._store()).progress(self.id)
        except RunNotFound:
            return Progress.pending(self.id)
        return progress

    async def _errors(self, offset: int, limit: int) -> list[ItemFailure]:
        return await (await self._store()).errors(self.id, offset=offset, limit=limit)

    async def _pages(self, order: Order) -> AsyncGenerator[Page, None]:
        return pages_of(await self._store(), self.id, order, decode)

    async def _results(self) -> list[Any]:
        return [value async for page in await self._pages("index") for _, value in page]

    async def _cancel(self) -> None:
        try:
            await (await self._store()).request_cancel(self.id)
        except RunNotFound:
            # Its message is still on its way: the worker that gets it drops it.
            await off_loop_async(self.revoke)

    async def _resumed(self, force: bool) -> tuple[bytes, str]:
        return await self._stored_request(), "" if force else await self._holder()

    def _is_free(self, held: str) -> bool:
        """Tell whether a run is to be taken at once from a holder that could not write how it ended, but told Celery.

        Raises:
            RunHeld: Its holder is alive.
        """
        if held and not self.ready():
            raise RunHeld(held)
        return bool(held)

    async def _holder(self) -> str:
        """Tell who runs it, as an error says it; empty: nobody who has left a sign of life within a lease."""
        store = await self._store()
        progress = await store.progress(self.id, merge=False)
        silent_s = (datetime.now(UTC) - progress.updated_at).total_seconds()
        if progress.state != "running" or silent_s > load_settings(conf=self.app.conf).lease_s:
            return ""
        holder = await store.holder_of(self.id) or "a process"
        return (
            f"run {self.id} of {progress.task}: {holder} runs it, and wrote to it {max(0.0, silent_s):.1f} s ago; wait "
            "for it, cancel() it, or take it by resume(force=True): what is in flight then runs twice"
        )

    async def _stored_request(self) -> bytes:
        return await (await self._store()).request_of(self.id)

    async def _failed_request(self) -> bytes | None:
        store = await self._store()
        progress = await store.progress(self.id)
        if not progress.ended:
            raise RunError(f"run {self.id} is {progress.state}: its failed items can be run again once it has ended")
        if not progress.complete:
            raise RunError(
                f"run {self.id} of {progress.task} was not run to its end ({progress.state}: {progress.error}): "
                f"{progress.failed:,} items failed, and others were never run; resume() runs both"
            )
        if not progress.failed:
            return None
        return await store.request_of(self.id)

    def _send_again(self, request: bytes, *, force: bool = False, failed_only: bool = False) -> None:
        # The outcome of the earlier attempt would be taken for that of the new one.
        forget_outcome(self)
        # Celery's own start, once more: a promise that was kept cannot be waited for again.
        AsyncResult.__init__(self, self.id, backend=self.backend, app=self.app)
        self.app.tasks[RUN_ITERATE].apply_async(
            kwargs={**loads(request), "resume": True, "force": force, "failed_only": failed_only}, task_id=self.id
        )


async def _next(pages: AsyncIterator[Page]) -> Page | None:
    return await anext(pages, None)


def _wait(coro: Coroutine[Any, Any, T]) -> T:
    return get_loop_thread().run(coro)


async def _on_our_loop(coro: Coroutine[Any, Any, T]) -> T:
    loop = get_loop_thread().loop
    if asyncio.get_running_loop() is loop:
        return await coro
    return await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(coro, loop))
