"""Client's handle of a fan-out: Celery's AsyncResult, plus the run's rows in the store."""

from __future__ import annotations

import asyncio
import functools
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Coroutine, Iterator
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, TypeVar

import msgspec
from celery import states
from celery.exceptions import TimeoutError
from celery.result import AsyncResult
from kombu.utils.json import loads

from asyncworker.errors import AsyncWorkerError, RunError, RunExpired, RunHeld, RunNotFound
from asyncworker.iterate import ItemFailure, Order, Page, Progress, Unreadable, pages_of
from asyncworker.iterate.outcome import error_text
from asyncworker.loop import get_loop_thread, off_loop_async, on_loop_thread
from asyncworker.settings import load_settings
from asyncworker.store import RunState, shared_store
from asyncworker.tasks.delivery import resend_options
from asyncworker.tasks.forgetting import forget_outcome
from asyncworker.tasks.names import MESSAGE_HEADER, RUN_ITERATE, with_message_name
from asyncworker.tasks.payloads import decode
from asyncworker.tasks.stored_outcome import Looks, ended_run, stored_value
from asyncworker.tasks.task_result import TaskEagerResult, TaskResult, has_failed

if TYPE_CHECKING:
    from asyncworker.store import Store

__all__ = ["IterateEagerResult", "IterateResult"]

logger = logging.getLogger(__name__)

T = TypeVar("T")

#: The state of a run whose task has ended before a worker began the run.
_ENDED_UNBEGUN: dict[str, RunState] = {states.FAILURE: "failed", states.REVOKED: "cancelled"}


class IterateResult(TaskResult):
    """The result of a fan-out, by its run id: ``IterateResult(run_id, app=app)``, in any process with broker and store.

    The store is read on asyncworker's own loop, which is started where there is none. The plain methods wait for it;
    inside a coroutine, await their twins that begin with ``a``. ``get()`` and ``aget()`` wait for the run's end, and
    raise the one failure or ``ItemErrors``. Where Celery's own result has expired, the store tells how the run ended.

    Attributes:
        message: Name of the message that this is the result of; empty: the last one under the id.
    """

    message = ""

    def get(self, timeout: float | None = None, propagate: bool = True, *args: Any, **kwargs: Any) -> Any:
        """Wait for the run's end and return its value; as Celery's own, whose arguments it takes.

        Raises:
            celery.exceptions.TimeoutError: It has not ended in time.
            RunExpired: It ended, and was deleted when its retention was over.
            Exception: The one failure, or ``ItemErrors``.
        """
        looks = Looks(timeout)
        while True:
            try:
                return super().get(looks.next_s(), propagate, *args, **kwargs)
            except TimeoutError:
                if has_failed(self) or on_loop_thread():
                    raise
                ended = _wait(self._ended())
                if ended is not None and looks.suffices(ended):
                    return _wait(self._stored_value(ended, propagate))
                if looks.over:
                    raise

    async def aget(self, timeout: float | None = None, *, propagate: bool = True, follow_parents: bool = True) -> Any:
        """Awaitable twin of :meth:`get`."""
        looks = Looks(timeout)
        while True:
            try:
                return await super().aget(looks.next_s(), propagate=propagate, follow_parents=follow_parents)
            except TimeoutError:
                if has_failed(self):
                    raise
                ended = await _on_our_loop(self._ended())
                if ended is not None and looks.suffices(ended):
                    return await _on_our_loop(self._stored_value(ended, propagate))
                if looks.over:
                    raise

    def progress(self) -> Progress:
        """Return where the run stands; its state is ``"pending"`` before a worker has begun.

        Raises:
            RunExpired: It ended, and was deleted when its retention was over.
        """
        return _wait(self.aprogress())

    def errors(self, offset: int = 0, limit: int | None = None) -> list[ItemFailure]:
        """Return the failed items, by index: all of them, or a page.

        Raises:
            RunNotFound: No worker has begun the run, or it was deleted.
        """
        return _wait(self.aerrors(offset, limit))

    def results(self, *, missing: Any = ..., unreadable: Unreadable = "raise") -> list[Any]:
        """Return the stored values of the finished items in the order of the source.

        Args:
            missing: Stands for each item that has no result: failed, skipped, or not run yet. The list is then as long
                as the source, and a value's place is the item's index. Without it these items are left out.
            unreadable: A large result that cannot be read back: ``"raise"``, or ``"return"`` the error in its place.

        Raises:
            RunNotFound: No worker has begun the run, or it was deleted.
            PayloadError: A result cannot be read back.
        """
        return _wait(self.aresults(missing=missing, unreadable=unreadable))

    def cancel(self) -> None:
        """Ask the run to stop; it does at its next checkpoint, and what is done stays done.

        Where no worker runs it, the one that takes it next ends it before its first item. `resume` takes that back.
        """
        _wait(self.acancel())

    def resume(self, *, force: bool = False) -> IterateResult:
        """Send the run again, from its checkpoint: only what is not done runs, failed items among it.

        It goes the way that it came: queue, exchange, routing key, priority, headers and time limits, and with what is
        linked to it, unless that was sent because the run has succeeded before. What Celery's ``revoke`` has ended
        stays revoked for as long as workers remember the id; `cancel` is for runs that are to go on.

        Args:
            force: Take it from a process that runs it; the items that it has in flight run twice.

        Returns:
            This result; ``get()`` waits for the new outcome.

        Raises:
            RunNotFound: No worker has ever begun the run.
            RunHeld: A process runs it, and has left a sign of life within ``lease_s``. One that has not is taken over
                without being asked for it.
        """
        held = "" if force else _wait(_on_our_loop(self._holder()))
        force = force or self._is_free(held)
        stored = _wait(_on_our_loop(self._stored_request()))
        if stored is not None:
            self._send_again(*stored, force=force)
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
            self._send_again(*failed, failed_only=True)
        return self

    async def aprogress(self) -> Progress:
        """Awaitable twin of :meth:`progress`."""
        return await _on_our_loop(self._progress())

    async def aerrors(self, offset: int = 0, limit: int | None = None) -> list[ItemFailure]:
        """Awaitable twin of :meth:`errors`."""
        return await _on_our_loop(self._errors(offset, limit))

    async def aresults(self, *, missing: Any = ..., unreadable: Unreadable = "raise") -> list[Any]:
        """Awaitable twin of :meth:`results`."""
        return await _on_our_loop(self._results(missing, unreadable))

    async def acancel(self) -> None:
        """Awaitable twin of :meth:`cancel`."""
        await _on_our_loop(self._cancel())

    async def aresume(self, *, force: bool = False) -> IterateResult:
        """Awaitable twin of :meth:`resume`."""
        held = "" if force else await _on_our_loop(self._holder())
        force = force or await off_loop_async(self._is_free, held)
        stored = await _on_our_loop(self._stored_request())
        if stored is not None:
            await off_loop_async(functools.partial(self._send_again, *stored, force=force))
        return self

    async def aretry_failed(self) -> IterateResult:
        """Awaitable twin of :meth:`retry_failed`."""
        failed = await _on_our_loop(self._failed_request())
        if failed is not None:
            await off_loop_async(functools.partial(self._send_again, *failed, failed_only=True))
        return self

    async def stream(
        self, *, order: Order = "index", unreadable: Unreadable = "raise"
    ) -> AsyncIterator[tuple[int, Any]]:
        """Yield ``(index, value)`` of finished items, in bounded memory, on any event loop.

        Args:
            order: ``"index"``: what is stored now, in the order of the source. ``"completion"``: what is finished, as
                it is finished, until the run ends; one that has not begun is waited for. An item that is finished shows
                once its checkpoint is written, a quarter of a second later by default. Of a run with a key that was
                continued, what an earlier attempt finished shows under the index that it has in the current one.
            unreadable: A large result that cannot be read back: ``"raise"`` once all others were given, or ``"return"``
                the error in its place.

        Raises:
            RunNotFound: In the order of the source, of a run that no worker has begun.
            PayloadError: A large result cannot be read back.
        """
        pages = await _on_our_loop(self._pages(order, unreadable))
        try:
            while page := await _on_our_loop(_next(pages)):
                for pair in page:
                    yield pair
        finally:
            await _on_our_loop(pages.aclose())

    def iter_results(self, *, order: Order = "index", unreadable: Unreadable = "raise") -> Iterator[tuple[int, Any]]:
        """Iterate over what :meth:`stream` yields, in code that is not async."""
        pages = _wait(self._pages(order, unreadable))
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
        except RunExpired:
            raise
        except RunNotFound:
            return await off_loop_async(self._unbegun)
        return progress

    def _unbegun(self) -> Progress:
        """Return where a run stands that no worker has begun; its task may have ended all the same, and says so."""
        progress = Progress.pending(self.id)
        try:
            meta: dict[str, Any] = self.backend.get_task_meta(self.id)
        except Exception as exc:
            # No result backend, or it is away: then it is not known.
            logger.debug("run %s: its result cannot be looked at: %r", self.id, exc)
            return progress
        state = _ENDED_UNBEGUN.get(meta["status"])
        if state is None:
            return progress
        reason = meta["result"]
        error = error_text(reason) if isinstance(reason, BaseException) else str(reason)
        return msgspec.structs.replace(progress, state=state, error=error)

    async def _ended(self) -> Progress | None:
        try:
            store = await self._store()
        except AsyncWorkerError as exc:
            logger.debug("run %s: the store cannot be asked how it ended: %s", self.id, exc)
            return None
        return await ended_run(store, self.id, self.message)

    async def _stored_value(self, ended: Progress, propagate: bool) -> Any:
        return await stored_value(await self._store(), ended, propagate)

    async def _errors(self, offset: int, limit: int | None) -> list[ItemFailure]:
        store = await self._store()
        found = await store.errors(self.id, offset=offset, limit=limit)
        if not found:
            # That there is none is said of runs that are known only.
            await store.progress(self.id)
        return found

    async def _pages(self, order: Order, unreadable: Unreadable) -> AsyncGenerator[Page, None]:
        return pages_of(await self._store(), self.id, order, decode, unreadable=unreadable)

    async def _results(self, missing: Any, unreadable: Unreadable) -> list[Any]:
        pairs = [pair async for page in await self._pages("index", unreadable) for pair in page]
        if missing is ...:
            return [value for _, value in pairs]
        total = (await self._progress()).total or 0
        values = [missing] * max(total, *(index + 1 for index, _ in pairs), 0)
        for index, value in pairs:
            values[index] = value
        return values

    async def _cancel(self) -> None:
        store = await self._store()
        if await ended_run(store, self.id, self.message) is not None and await off_loop_async(self._has_outcome):
            # Nothing of it was sent since, which would have had its outcome forgotten.
            return
        await store.request_cancel(self.id, unbegun=True)

    def _has_outcome(self) -> bool:
        try:
            return self.ready()
        except Exception as exc:
            # No result backend, or it is away: then it is not known, and the run's message may be on its way.
            logger.debug("run %s: its result cannot be looked at: %r", self.id, exc)
            return False

    async def _stored_request(self) -> tuple[bytes, Progress] | None:
        """Return what is sent again; ``None``: the run was cancelled before it began, and its message still waits."""
        store = await self._store()
        waits = await store.withdraw_cancel(self.id)
        try:
            return await store.request_of(self.id), await store.progress(self.id)
        except RunNotFound:
            if not waits:
                raise
            return None

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
        try:
            progress = await store.progress(self.id, merge=False)
        except RunNotFound:
            return ""
        silent_s = (datetime.now(UTC) - progress.updated_at).total_seconds()
        lease_s = load_settings(conf=self.app.conf).lease_s
        if progress.state != "running" or silent_s > lease_s:
            return ""
        holder = await store.holder_of(self.id) or "a process"
        return (
            f"run {self.id} of {progress.task}: {holder} runs it, and wrote to it {max(0.0, silent_s):.1f} s ago; wait "
            "for it, cancel() it, or take it by resume(force=True): what is in flight then runs twice. If that process "
            f"has died, nothing needs to be done: the run can go on {lease_s:g} s after it last wrote"
        )

    async def _failed_request(self) -> tuple[bytes, Progress] | None:
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
        await store.withdraw_cancel(self.id)
        return await store.request_of(self.id), progress

    def _send_again(self, stored: bytes, progress: Progress, *, force: bool = False, failed_only: bool = False) -> None:
        # The outcome of the earlier attempt would be taken for that of the new one.
        forget_outcome(self)
        # Celery's own start, once more: a promise that was kept cannot be waited for again.
        AsyncResult.__init__(self, self.id, backend=self.backend, app=self.app)
        request = loads(stored)
        options = resend_options(request.pop("delivery", None), succeeded=progress.state == "done")
        options["headers"] = with_message_name(options.get("headers"))
        self.message = options["headers"][MESSAGE_HEADER]
        kwargs = {**request, "resume": True, "force": force, "failed_only": failed_only}
        self.app.tasks[RUN_ITERATE].apply_async(kwargs=kwargs, task_id=self.id, **options)


class IterateEagerResult(TaskEagerResult):
    """The result of a fan-out that has run already: ``apply()``, or ``task_always_eager``.

    ``progress()``, ``errors()``, ``results()``, ``stream()`` and all else are those of :class:`IterateResult`.
    """

    @classmethod
    def of_run(cls, result: Any, app: Any) -> Any:
        """Return an eager result as one of a run."""
        made: Any = cls(result.id, result.result, result.state, traceback=result.traceback, name=result.name)
        made._run = IterateResult(result.id, app=app)
        return made

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        return getattr(self._run, name)


async def _next(pages: AsyncIterator[Page]) -> Page | None:
    return await anext(pages, None)


def _wait(coro: Coroutine[Any, Any, T]) -> T:
    return get_loop_thread().run(coro)


async def _on_our_loop(coro: Coroutine[Any, Any, T]) -> T:
    loop = get_loop_thread().loop
    if asyncio.get_running_loop() is loop:
        return await coro
    return await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(coro, loop))
