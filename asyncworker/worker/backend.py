"""The result backend as the async pool sees it: blocking calls leave the loop, late outcomes are ignored.

An outcome is tried again for as long as the backend is away, and what the backend sends then for as long as the broker
is. Celery's own setting for that, ``result_backend_always_retry``, would make clients wait for ever too, and does not
reach a chord's count.
"""

from __future__ import annotations

import contextlib
import contextvars
import functools
import logging
import threading
from collections.abc import Callable, Coroutine, Iterator
from traceback import format_exception
from typing import Any

from celery import Celery, states
from celery.backends.redis import RedisBackend
from redis.exceptions import ResponseError

from asyncworker.errors import LoopError
from asyncworker.loop import await_, current_job, in_bridge, off_loop, off_loop_to_wait, on_loop_thread
from asyncworker.redis_refusals import refuses_for_now
from asyncworker.worker.failure_backlog import counted_off_loop, waits_as_failure
from asyncworker.worker.job import Job
from asyncworker.worker.outbox import OutboxThread
from asyncworker.worker.persist import settle, until_done, waits_for_server
from asyncworker.worker.progress import outcome_of
from asyncworker.worker.provisional import ProvisionalState, on_redis, stored
from asyncworker.worker.results import ResultWriter
from asyncworker.worker.sending import NotSent, Posting, earned, in_backend, in_hook, sends_what_is_earned

__all__ = ["OffLoopBackend", "outcomes_ignored", "stock_backend"]

logger = logging.getLogger(__name__)

#: Whether outcomes are dropped that the running code stores.
_ignoring: contextvars.ContextVar[bool] = contextvars.ContextVar("asyncworker_outcomes_ignored", default=False)

#: With these a task's run is over: whatever its hooks and signals raise afterwards is no other outcome.
_LAST = frozenset({"mark_as_done", "mark_as_failure", "mark_as_retry"})

#: Those of a run that has failed.
_FAILED = frozenset({"mark_as_failure", "mark_as_retry"})

#: Writes that an abandoned job may not make: its outcome was reported already.
_OUTCOMES = frozenset(
    {"mark_as_done", "mark_as_failure", "mark_as_retry", "mark_as_revoked", "mark_as_started", "store_result"}
)

#: Where each that may send something takes its request, by position.
_REQUEST_AT = {"mark_as_done": 2, "mark_as_failure": 3, "mark_as_revoked": 2, "mark_as_retry": 3}

#: What talks to the store of results. Not every method may leave the loop: a result's destructor calls some.
_BLOCKING = _OUTCOMES | {
    "apply_chord",
    "set_chord_size",
    "add_to_chord",
    "on_chord_part_return",
    "chord_error_from_stack",
    "get_state",
    "get_result",
    "get_traceback",
    "get_task_meta",
    "get_children",
    "get_group_meta",
    "save_group",
    "restore_group",
    "delete_group",
    "forget",
    "reload_task_result",
    "reload_group_result",
    "on_task_call",
}

#: What the sending of a chord writes: without it the chord is never told to be complete.
_SENDING = frozenset({"add_to_chord", "apply_chord", "save_group", "set_chord_size"})

#: What Celery notes of a result for whoever waits for it, which asks Redis: the loop's thread never does, nor does
#: anybody for what a task has earned.
_PENDING = frozenset({"add_pending_result", "remove_pending_result"})

#: What waits for results. On the loop's thread it would wait for ever for a task of the same worker.
_WAITING = frozenset({"wait_for_pending", "iter_native", "get_many", "wait_for"})


class OffLoopBackend:
    """Any Celery result backend; inside a bridge its blocking methods run on an I/O thread, elsewhere at once.

    It is set as ``task.backend``, and where tasks run, on the loop's thread and those of tasks that are not async, as
    ``app.backend``, which Celery's canvas and results ask.
    The backend proper is the app's, which Celery keeps a thread.

    Args:
        app: Whose backend it is.
        results: Stores outcomes without leaving the loop, where the backend is Celery's own on Redis.
    """

    def __init__(self, app: Celery, results: ResultWriter | None = None) -> None:
        self._app = app
        self._results = results
        self._in_place_of: Any = None

    @classmethod
    def use_here(cls, app: Any, results: ResultWriter | None = None) -> None:
        """Have one be the app's backend on the calling thread, where that is Celery's own."""
        if not isinstance(app.backend, cls):
            backend = cls(app, results)
            backend._in_place_of = app.backend
            app._backend = backend

    @property
    def thread_safe(self) -> bool:
        """Whether one backend serves all threads; the app then has it on the loop's thread, too."""
        return bool(self._stock.thread_safe)

    @property
    def _stock(self) -> Any:
        """The calling thread's backend of Celery's."""
        found: Any = self._app.backend
        return found._in_place_of if isinstance(found, OffLoopBackend) else found

    def __getattr__(self, name: str) -> Any:
        value = getattr(self._stock, name)
        if name in _PENDING and (on_loop_thread() or (earned.get() and not in_hook.get())):
            return _same
        if name in _WAITING and on_loop_thread():
            return _refuse_to_wait
        if name in _OUTCOMES:
            if _ignoring.get():
                return _drop
            return _ignore if _is_abandoned() else functools.partial(self._write, name)
        if name in _SENDING and earned.get():
            return functools.partial(self._write_and_send, name)
        return functools.partial(off_loop, self._call, name) if name in _BLOCKING else value

    def mark_as_done(
        self,
        task_id: str,
        result: Any,
        request: Any = None,
        store_result: bool = True,
        state: str = states.SUCCESS,
    ) -> Any:
        """Store a success: what nearly every task comes to, so it takes the straight way where there is one."""
        own = self._own(task_id)
        if own is None:
            return self.__getattr__("mark_as_done")(task_id, result, request, store_result, state)
        job, results = own
        self._mark_as_done(results, task_id, result, request, store_result, state)
        job.outcome = "done"
        return None

    def mark_as_failure(
        self,
        task_id: str,
        exc: BaseException,
        traceback: str | None = None,
        request: Any = None,
        store_result: bool = True,
        call_errbacks: bool = True,
        state: str = states.FAILURE,
    ) -> Any:
        """Store a failure, in the way of successes where nothing else is to be told of it."""
        arguments = (task_id, exc, traceback, request, store_result, call_errbacks, state)
        own = self._own(task_id)
        others = request is not None and (request.chord or request.chain or (call_errbacks and request.errbacks))
        if own is not None and not others:
            job, results = own
            if not store_result or _stored_with_others(job, results.store(task_id, exc, request, state, traceback)):
                job.outcome = "failure"
                return None
        return self.__getattr__("mark_as_failure")(*arguments)

    def mark_as_retry(
        self,
        task_id: str,
        exc: BaseException,
        traceback: str | None = None,
        request: Any = None,
        store_result: bool = True,
        state: str = states.RETRY,
    ) -> Any:
        """Store that a task is retried, in the way of successes where it is known what that may replace."""
        arguments = (task_id, exc, traceback, request, store_result, state)
        own = self._own(task_id)
        provisional = ProvisionalState.of_call("mark_as_retry", arguments, {}) if own is not None else None
        if own is not None and provisional is not None and provisional.seen is not None:
            job, results = own
            if _stored_with_others(job, results.replace(provisional)):
                job.outcome = "retry"
                return None
        return self.__getattr__("mark_as_retry")(*arguments)

    def before_retry(self, job: Job, exc: BaseException | None, request: Any) -> Callable[[], None]:
        """Return what keeps the state of a retry from replacing what comes of the next attempt, which is sent after it.

        Redis can compare: what is stored by now is noted. In other backends the state itself is stored. It blocks.
        """
        if _ignores_result(job) or not _may_wait():
            return _drop
        if on_redis(self._stock):
            note = functools.partial(self._document_of, job.id)
        else:
            frames = "".join(format_exception(exc)) if exc is not None else None
            retried = ProvisionalState.of_call("mark_as_retry", (job.id, exc, frames, request), {})
            note = functools.partial(self._store_before_sending, retried)

        def before_sending() -> None:
            # What it raises would keep the next attempt from being sent; the state is stored as Celery does then.
            if job.stored_before_retry is None:
                with contextlib.suppress(Exception):
                    job.stored_before_retry = note()

        return before_sending

    def _document_of(self, task_id: str) -> bytes:
        return stored(self._stock, task_id)

    def _store_before_sending(self, retried: ProvisionalState | None) -> bytes:
        if retried is not None:
            self._store_provisional(retried)
        return b""

    def _own(self, task_id: str) -> tuple[Job, ResultWriter] | None:
        """Return the job whose outcome this is and the writer that stores it; ``None`` if it takes the stock way."""
        job, results = current_job.get(), self._results
        if results is None or results.refused or not (isinstance(job, Job) and self._is_first(job, task_id)):
            return None
        return job, results

    @staticmethod
    def _is_first(job: Job, task_id: str) -> bool:
        """Tell whether an outcome is the job's own and first one, and its code may wait for it in its bridge."""
        return job.id == task_id and not job.outcome and not job.abandoned and not _ignoring.get() and in_bridge()

    def _call(self, name: str, *args: Any, **kwargs: Any) -> Any:
        with self._connected(name):
            if name in _OUTCOMES:
                with outcome_of(str(args[0] if args else kwargs.get("task_id"))):
                    return getattr(self._stock, name)(*args, **kwargs)
            return getattr(self._stock, name)(*args, **kwargs)

    def _store_provisional(self, provisional: ProvisionalState) -> None:
        with self._connected("store_result"):
            if not provisional.store(self._stock):
                logger.debug("%s of %s is not stored: its outcome is", provisional.state, provisional.task_id)

    @contextlib.contextmanager
    def _connected(self, name: str) -> Iterator[None]:
        token = in_backend.set(name)
        try:
            yield
        except ResponseError as exc:
            backend: Any = self._stock
            if refuses_for_now(exc) and isinstance(backend, RedisBackend):
                backend.client.connection_pool.disconnect(inuse_connections=False)  # its name may lead to another one
            raise
        finally:
            in_backend.reset(token)

    def _write(self, name: str, *args: Any, **kwargs: Any) -> Any:
        job = current_job.get()
        if name not in _LAST or not isinstance(job, Job) or job.id != (args[0] if args else kwargs.get("task_id")):
            return self._store(name, *args, **kwargs)
        if job.outcome:
            # Its errbacks were called, and its chord has counted it.
            logger.error("%s: %s was stored before; what came after that changes nothing", job, job.outcome)
            return None
        value = self._store(name, *args, **kwargs)
        job.outcome = name.removeprefix("mark_as_")
        return value

    def _store(self, name: str, *args: Any, **kwargs: Any) -> Any:
        write = functools.partial(self._write_and_send, name, *args, **kwargs)
        if _is_settling():
            return settle(write, f"{name} of {args[0] if args else kwargs.get('task_id')}")
        return write()

    def _write_and_send(self, name: str, *args: Any, **kwargs: Any) -> Any:
        """Store an outcome, and send what the backend sends then; a job's code waits for servers that are away."""
        provisional = ProvisionalState.of_call(name, args, kwargs)
        if provisional is None:
            call = functools.partial(self._call, name, *args, **kwargs)
        else:
            call = functools.partial(self._store_provisional, provisional)
        if not _may_wait():
            return call()
        position = _REQUEST_AT.get(name, len(args))
        request = kwargs.get("request", args[position] if len(args) > position else None)
        what = f"{name} of {current_job.get() if name in _SENDING else args[0] if args else kwargs.get('task_id')}"
        if _is_of_chord(request):
            # Where its last part has come, the backend sends the chord's body, and forgets the chord whether it could
            # or not: the sending waits in the midst of that.
            return self._count(call, what)
        return until_done(Posting(call), self._is_away, what, _leave_for(name, request))

    def _count(self, call: Callable[[], Any], what: str) -> Any:
        with sends_what_is_earned():
            return until_done(call, self._is_away, what, off_loop_to_wait)

    def _mark_as_done(
        self, results: ResultWriter, task_id: str, result: Any, request: Any, store_result: bool, state: str
    ) -> None:
        # As the backend's own.
        if store_result and not getattr(request, "ignore_result", False):
            try:
                await_(results.store(task_id, result, request))
            except ResponseError:
                # Redis does not take it so: what it says to Celery's way is the outcome.
                self._write_and_send("mark_as_done", task_id, result, request, True, state)
                return
        if request and request.chord:
            call = functools.partial(self._call, "on_chord_part_return", request, state, result)
            self._count(call, f"counting {task_id} for its chord")

    def _is_away(self, exc: Exception) -> bool:
        if isinstance(exc, NotSent) or refuses_for_now(exc):
            return True
        # kombu counts KeyError among Redis' connection errors; from here it would be one of the result's own.
        return not isinstance(exc, KeyError) and bool(self._stock.exception_safe_to_retry(exc))


def stock_backend(backend: Any) -> Any:
    """Return Celery's own backend for the calling thread, of a task's or an app's."""
    return backend._stock if isinstance(backend, OffLoopBackend) else backend


@contextlib.contextmanager
def outcomes_ignored() -> Iterator[None]:
    """Drop the outcomes that are stored inside: another one was stored just now."""
    token = _ignoring.set(True)
    try:
        yield
    finally:
        _ignoring.reset(token)


def _stored_with_others(job: Job, storing: Coroutine[Any, Any, None]) -> bool:
    """Wait until what a job has come to is stored; tell whether Redis has taken it so."""
    with waits_for_server(job), waits_as_failure(job):
        try:
            await_(storing)
        except ResponseError:
            return False
    return True


def _ignores_result(job: Job) -> bool:
    """Tell whether no state of a job is stored, or only its failure."""
    request: Any = job.request
    return bool(
        getattr(request, "ignore_result", False) or getattr(getattr(request, "task", None), "ignore_result", False)
    )


def _leave_for(name: str, request: Any) -> Callable[[Callable[[], Any]], Any]:
    """Return what makes a call that stores an outcome; a failure counts while it waits for that alone."""
    job = current_job.get()
    if name not in _FAILED or not isinstance(job, Job) or not in_bridge() or getattr(request, "errbacks", None):
        return off_loop
    return counted_off_loop(job)


def _drop(*_args: Any, **_kwargs: Any) -> None:
    """Store nothing."""


def _is_of_chord(request: Any) -> bool:
    """Tell whether a task, or one that follows it in its chain, is part of a chord."""
    if getattr(request, "chord", None):
        return True
    following = getattr(request, "chain", None) or ()
    return any("chord" in (each.get("options") or ()) for each in following if isinstance(each, dict))


def _may_wait() -> bool:
    """Tell whether the caller is a job's own code, in its bridge or on its thread."""
    if in_bridge():
        return True
    job = current_job.get()
    return isinstance(job, Job) and job.thread_ident == threading.get_ident()


def _is_settling() -> bool:
    """Tell whether the caller is Celery's request, which reports for a job that cannot: it may not wait."""
    if in_bridge() or current_job.get() is not None:
        return False
    thread = threading.current_thread()
    return thread is threading.main_thread() or thread.name == OutboxThread.NAME


def _is_abandoned() -> bool:
    job = current_job.get()
    return isinstance(job, Job) and job.abandoned


def _refuse_to_wait(*_args: Any, **_options: Any) -> Any:
    raise LoopError(
        "get() of a result would block the event loop, which the task that it waits for may need: await aget()"
    )


def _same(result: Any, **_options: Any) -> Any:
    return result


def _ignore(*_args: Any, **_kwargs: Any) -> None:
    logger.warning("%s: its late outcome is ignored, another one was reported before", current_job.get())
